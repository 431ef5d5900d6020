//! A keeper with a cloud that does what a test tells it to, on a clock that stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Cache, Keeper, Scene};
use crate::clock::Clock;
use crate::cloud::http::FileBody;
use crate::cloud::{
    Cloud, CloudError, CloudErrorKind, CreateRequest, Deletion, FoundImage, Leftovers, NewImage,
    Removal, Search, UploadProgress,
};
use crate::config::{ImageSource, SpaceConfig};
use crate::decide::testing;
use crate::model::{
    CloudFacts, CloudId, CloudMachine, FactoryName, ImageState, Leftover, MachinetypeName, Seconds,
    Timestamp,
};
use crate::state::{Disk, Layout};

#[derive(Debug, Default)]
struct Happened {
    /// Digests of what is there.
    has: Vec<String>,
    looks: u32,
    uploads: u32,
    at_once: u32,
    fails: bool,
    hangs: bool,
}

#[derive(Debug, Default)]
struct Fake(Mutex<Happened>);

impl Fake {
    fn now(&self) -> MutexGuard<'_, Happened> {
        self.0.lock().unwrap()
    }
}

#[async_trait]
impl Cloud for Fake {
    async fn facts(&self) -> Result<CloudFacts, CloudError> {
        Ok(CloudFacts::default())
    }

    async fn list(&self) -> Result<Vec<CloudMachine>, CloudError> {
        Ok(Vec::new())
    }

    async fn find(&self, _: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
        Ok(None)
    }

    async fn create(&self, _: &CreateRequest) -> Result<CloudId, CloudError> {
        panic!("nothing is to be created")
    }

    async fn delete(&self, _: &CloudId) -> Result<Deletion, CloudError> {
        panic!("nothing is to be deleted")
    }

    async fn leftovers(&self, _: &Search) -> Leftovers {
        Leftovers::default()
    }

    async fn remove(&self, _: &Search, _: &Leftover) -> Result<Removal, CloudError> {
        panic!("nothing is to be removed")
    }

    async fn find_image(&self, image: &NewImage) -> Result<FoundImage, CloudError> {
        let mut now = self.now();
        now.looks += 1;
        let has = now.has.contains(&image.digest);
        Ok(FoundImage {
            ready: has.then(|| CloudId::new(&image.digest)),
            unfinished: Vec::new(),
        })
    }

    async fn upload_image(
        &self,
        image: &NewImage,
        _: &FileBody,
        progress: &UploadProgress,
    ) -> Result<CloudId, CloudError> {
        let id = CloudId::new(&image.digest);
        progress.begin(&id);
        let hangs = {
            let mut now = self.now();
            now.uploads += 1;
            now.at_once += 1;
            assert_eq!(now.at_once, 1, "one upload at a time");
            now.hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut now = self.now();
        now.at_once -= 1;
        if now.fails {
            let why = "413 Request Entity Too Large";
            return Err(CloudError::new(CloudErrorKind::Quota, "PUT /file", why));
        }
        now.has.push(image.digest.clone());
        Ok(id)
    }
}

struct World {
    dir: tempfile::TempDir,
    config: SpaceConfig,
    fake: Arc<Fake>,
    keeper: Keeper,
    clock: Clock,
    stop: CancellationToken,
}

impl World {
    /// Machinetypes with the files that they boot from.
    fn new(machinetypes: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = testing::space("max_machines = 10");
        for (name, file) in machinetypes {
            let mut machinetype = testing::machinetype(name, "");
            machinetype.root_image = ImageSource::File(dir.path().join(file));
            config
                .machinetypes
                .insert(machinetype.name.clone(), machinetype);
        }
        let world = Self {
            dir,
            config,
            fake: Arc::default(),
            keeper: Keeper::default(),
            clock: Clock::manual(Timestamp::from_unix(1_000_000)),
            stop: CancellationToken::new(),
        };
        for (_, file) in machinetypes {
            world.write(file, file);
        }
        world
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.dir.path().join(file);
        let disk = Disk::default();
        disk.write(self.dir.path(), &path, content.as_bytes(), 0o644)
            .unwrap();
    }

    /// One pass, with enough time for what it begins.
    async fn pass(&mut self) -> BTreeMap<MachinetypeName, ImageState> {
        self.begin();
        tokio::time::sleep(Duration::from_secs(120)).await;
        self.keeper.states(&self.config)
    }

    fn begin(&mut self) {
        let cloud: Arc<dyn Cloud> = Arc::clone(&self.fake) as Arc<dyn Cloud>;
        let scene = Scene {
            config: &self.config,
            cloud: &cloud,
            factory: &FactoryName::new("factory.example.org").unwrap(),
            layout: &Layout::new(self.dir.path()),
            cache: &Cache::new(self.dir.path()),
            ca_path: self.dir.path(),
            clock: &self.clock,
            stop: &self.stop,
        };
        self.keeper.tend(&scene);
    }

    fn wait(&self, seconds: u64) {
        self.clock.set(self.clock.now() + Seconds::new(seconds));
    }

    fn uploads(&self) -> u32 {
        self.fake.now().uploads
    }
}

fn name(text: &str) -> MachinetypeName {
    MachinetypeName::new(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn machinetypes_share_an_upload_and_different_images_take_turns() {
    let mut world = World::new(&[("a", "one"), ("b", "one"), ("c", "two")]);
    world.begin();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let states = world.keeper.states(&world.config);
    let under_way = |state: &ImageState| matches!(state, ImageState::Uploading { .. });
    assert_eq!(states[&name("a")], states[&name("b")]);
    assert_ne!(
        under_way(&states[&name("a")]),
        under_way(&states[&name("c")]),
        "{states:?}"
    );
    let states = world.pass().await;
    assert!(states.values().all(ImageState::is_settled), "{states:?}");
    assert_eq!(states[&name("a")].id(), states[&name("b")].id());
    assert_ne!(states[&name("a")].id(), states[&name("c")].id());
    assert_eq!(world.uploads(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_believed_for_a_while_and_doubted_when_a_machine_is_refused() {
    let mut world = World::new(&[("a", "one")]);
    world.pass().await;
    let looks = world.fake.now().looks;
    world.wait(599);
    world.pass().await;
    assert_eq!(world.fake.now().looks, looks);
    world.wait(1);
    world.pass().await;
    assert_eq!(world.fake.now().looks, looks + 1);
    world.fake.now().has.clear();
    world.keeper.doubt(&world.config, &name("a"));
    world.pass().await;
    assert_eq!(world.uploads(), 2, "it was gone");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_is_tried_again_after_growing_pauses() {
    let mut world = World::new(&[("a", "one")]);
    world.fake.now().fails = true;
    let states = world.pass().await;
    let ImageState::Waiting { why } = &states[&name("a")] else {
        panic!("{states:?}");
    };
    assert!(why.contains("413 Request Entity Too Large"), "{why}");
    for (wait, uploads) in [
        (59, 1),
        (1, 2),
        (119, 2),
        (1, 3),
        (240, 4),
        (480, 5),
        (599, 5),
        (1, 6),
    ] {
        world.wait(wait);
        world.pass().await;
        assert_eq!(world.uploads(), uploads, "after {wait} s more");
    }
    // Another content is another matter.
    world.write("one", "of another size");
    world.pass().await;
    assert_eq!(world.uploads(), 7);
    world.fake.now().fails = false;
    world.wait(60);
    assert!(world.pass().await[&name("a")].is_settled());
}

#[tokio::test(start_paused = true)]
async fn without_a_target_share_nothing_is_uploaded_and_what_is_there_is_known() {
    let mut world = World::new(&[("a", "one")]);
    let share = world.config.machinetypes[&name("a")].target_share;
    let set = |world: &mut World, share| {
        let machinetype = world.config.machinetypes.get_mut(&name("a")).unwrap();
        machinetype.target_share = share;
    };
    set(&mut world, crate::model::Share::default());
    assert_eq!(world.pass().await[&name("a")], ImageState::Unwanted);
    set(&mut world, share);
    assert!(world.pass().await[&name("a")].id().is_some());
    set(&mut world, crate::model::Share::default());
    assert!(world.pass().await[&name("a")].id().is_some());
    assert_eq!(world.uploads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_up_what_is_under_way() {
    let mut world = World::new(&[("a", "one")]);
    world.fake.now().hangs = true;
    world.pass().await;
    assert_eq!(world.uploads(), 1);
    assert_eq!(Arc::strong_count(&world.fake), 3);
    world.stop.cancel();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(
        Arc::strong_count(&world.fake),
        2,
        "the keeper and this test have it"
    );
    // Nothing is begun any more.
    world.pass().await;
    assert_eq!(world.uploads(), 1);
}
