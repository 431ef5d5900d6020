//! The images of one space: which there are, and who works on each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Cache;
use super::job::{self, Job, Shared, Wanted};
use super::source::name_of;
use crate::clock::Clock;
use crate::cloud::Cloud;
use crate::config::{ImageSource, MachinetypeConfig, SpaceConfig};
use crate::model::{FactoryName, ImageState, MachinetypeName, Owner, Timestamp};
use crate::state::Layout;

/// How long a pass waits for the first look at its images, which is quick when there is nothing to
/// fetch, to verify or to upload.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// What images are looked after with.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The space's configuration.
    pub config: &'a SpaceConfig,
    /// The connection to its cloud.
    pub cloud: &'a Arc<dyn Cloud>,
    /// The factory's name.
    pub factory: &'a FactoryName,
    /// The state directory.
    pub layout: &'a Layout,
    /// Copies of images with URLs.
    pub cache: &'a Cache,
    /// The directory of CAs that sign.
    pub ca_path: &'a Path,
    /// The time.
    pub clock: &'a Clock,
    /// Ends everything.
    pub stop: &'a CancellationToken,
}

/// Looks after the images of one space. Dropping it gives up what is under way.
#[derive(Debug, Default)]
pub struct Keeper {
    /// The connection that all of this is about.
    cloud: Option<Arc<dyn Cloud>>,
    entries: BTreeMap<Key, Entry>,
    /// Whether one of them is new, so that a first look is worth a little time.
    has_new: bool,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The name of the source, which hides passwords, its digest, and the pattern of its signer.
type Key = (String, [u8; 32], Option<String>);

#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The image of a machinetype, if it comes from here.
fn wanted(machinetype: &MachinetypeConfig) -> Option<(Key, Wanted)> {
    let source = match &machinetype.root_image {
        ImageSource::Cloud(_) => return None,
        source @ (ImageSource::File(_) | ImageSource::Url(_)) => source.clone(),
    };
    let pattern = machinetype.cernvm_signing_dn.clone();
    let whole = match &source {
        ImageSource::Url(url) => url.to_string(),
        ImageSource::File(_) | ImageSource::Cloud(_) => name_of(&source),
    };
    let key = (
        name_of(&source),
        openssl::sha::sha256(whole.as_bytes()),
        pattern.clone(),
    );
    let wanted = Wanted {
        source,
        pattern,
        used: machinetype.target_share.get() > 0.0,
    };
    Some((key, wanted))
}

/// All images of a space that come from here. Machinetypes that have the same share it.
fn all_wanted(config: &SpaceConfig) -> BTreeMap<Key, Wanted> {
    let mut all: BTreeMap<Key, Wanted> = BTreeMap::new();
    for (key, wanted) in config.machinetypes.values().filter_map(wanted) {
        let used = wanted.used;
        all.entry(key).or_insert(wanted).used |= used;
    }
    all
}

impl Keeper {
    /// Goes on with every image that nobody is at work on. Waits for nothing.
    pub fn tend(&mut self, scene: &Scene<'_>) {
        let all = all_wanted(scene.config);
        let same = self
            .cloud
            .as_ref()
            .is_some_and(|cloud| Arc::ptr_eq(cloud, scene.cloud));
        if !same {
            self.entries.clear();
            self.cloud = Some(Arc::clone(scene.cloud));
        }
        self.entries.retain(|key, _| all.contains_key(key));
        for (key, wanted) in all {
            let entry = self.entries.entry(key).or_insert_with(|| {
                self.has_new = true;
                Entry {
                    shared: Arc::new(Shared::new()),
                    task: None,
                }
            });
            if entry.task.as_ref().is_some_and(|task| !task.is_finished()) {
                continue;
            }
            entry.shared.no_upload();
            let job = Job {
                wanted,
                shared: Arc::clone(&entry.shared),
                cloud: Arc::clone(scene.cloud),
                owner: owner(scene.config, scene.factory),
                layout: scene.layout.clone(),
                cache: scene.cache.clone(),
                ca_path: scene.ca_path.to_owned(),
                clock: scene.clock.clone(),
                turn: Arc::clone(&self.turn),
            };
            let stop = scene.stop.clone();
            let span = tracing::info_span!(parent: None, "image", space = %scene.config.name);
            let task = async move {
                stop.run_until_cancelled(job.run()).await;
            };
            entry.task = Some(tokio::spawn(task.instrument(span)));
        }
    }

    /// Waits until something is known of each image, but not for long, and only once for each.
    pub async fn first_look(&mut self) {
        if !std::mem::take(&mut self.has_new) {
            return;
        }
        let looks = self
            .entries
            .values()
            .map(|entry| entry.shared.is_looked_at());
        // What is not known by then is known in a later pass.
        drop(tokio::time::timeout(FIRST_LOOK, join_all(looks)).await);
    }

    /// How far the image of each machinetype is.
    pub fn states(&self, config: &SpaceConfig) -> BTreeMap<MachinetypeName, ImageState> {
        let machinetypes = config.machinetypes.values();
        let states = machinetypes.filter_map(|machinetype| {
            let (key, _) = wanted(machinetype)?;
            let state = self.entries.get(&key)?.shared.state();
            Some((machinetype.name.clone(), state))
        });
        states.collect()
    }

    /// The cloud has refused a machine of this machinetype: perhaps its image is gone.
    pub fn doubt(&self, config: &SpaceConfig, machinetype: &MachinetypeName) {
        let machinetype = config.machinetypes.get(machinetype);
        let key = machinetype.and_then(wanted).map(|(key, _)| key);
        if let Some(entry) = key.and_then(|key| self.entries.get(&key)) {
            entry.shared.doubt();
        }
    }
}

fn owner(config: &SpaceConfig, factory: &FactoryName) -> Owner {
    Owner {
        space: config.name.clone(),
        manager: factory.clone(),
    }
}

/// How far the image of each machinetype is, seen from beside a daemon: nothing is fetched and
/// nothing uploaded.
pub async fn look_once(
    config: &SpaceConfig,
    cloud: &dyn Cloud,
    factory: &FactoryName,
    layout: &Layout,
    (ca_path, now): (&Path, Timestamp),
) -> BTreeMap<MachinetypeName, ImageState> {
    let owner = owner(config, factory);
    let mut seen: BTreeMap<Key, ImageState> = BTreeMap::new();
    for (key, wanted) in all_wanted(config) {
        let state = job::look(&wanted, cloud, &owner, layout, (ca_path, now)).await;
        seen.insert(key, state);
    }
    let machinetypes = config.machinetypes.values();
    let states = machinetypes.filter_map(|machinetype| {
        let state = seen.get(&wanted(machinetype)?.0)?.clone();
        Some((machinetype.name.clone(), state))
    });
    states.collect()
}
