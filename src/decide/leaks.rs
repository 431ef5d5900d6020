//! What machines left behind: counted, and removed when it has been seen twice.
//!
//! A thing is left over when it bears our marks and neither a machine nor the configuration nor
//! anything on the cloud uses it. It is removed when two complete looks, [`SEEN_APART`] from each
//! other, have found it so and none between them has found it in use. A thing that is just being
//! made, for a machine whose creation is under way, is in use by the second of them: a creation
//! that is not answered is given up after the same time.
//!
//! An image that we have uploaded is used by the machinetype whose root_image it is a copy of. While
//! that copy is not known of one machinetype of the space, no image of the space is left over. Which
//! image and which key pair a machine has only a listing tells, so that none is removed while one that
//! should be there is not listed.
//!
//! Nothing is looked at in a pass whose scan lists none of our machines although it should: by such
//! a scan everything would be left over.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::view::ADOPTION;
use crate::config::{ImageSource, SpaceConfig};
use crate::model::{
    CloudId, CloudMachine, ImageState, Leftover, LeftoverKind, Machine, Seconds, Sighting,
    SpaceSnapshot, Timestamp, User,
};

/// How long a thing must have been left over before it is removed, from one look to another.
pub const SEEN_APART: Seconds = ADOPTION;
/// How often is looked. Looking costs a page of each kind of thing, and nothing is in a hurry.
pub const LOOK_EVERY: Seconds = Seconds::new(600);
/// The most removals of one look: should all of this be wrong one day, it is seen before all is
/// gone. The rest follows in the next look.
pub const MOST_REMOVALS: usize = 100;

/// What has been found in use by nothing so far. A restart loses it, which only delays removals.
pub type Sightings = BTreeMap<(LeftoverKind, String), Sighting>;

/// Things of one kind that bear our marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakCount {
    /// Used by nothing.
    pub left: u32,
    /// In use.
    pub used: u32,
}

/// What follows from one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leaks {
    /// Each kind that was listed.
    pub counts: BTreeMap<LeftoverKind, LeakCount>,
    /// What to remove now.
    pub removals: Vec<Remove>,
    /// What to remember for the next look.
    pub sightings: Sightings,
}

/// A thing to remove.
#[derive(Clone, Debug, PartialEq)]
pub struct Remove {
    /// What.
    pub leftover: Leftover,
    /// When it was first seen in use by nothing.
    pub since: Timestamp,
}

/// Whether this scan may be judged by, and it is time to look again.
pub fn time_to_look(snapshot: &SpaceSnapshot, last: Option<Timestamp>, now: Timestamp) -> bool {
    // A last look in the future is the clock having gone back.
    let waited = last.is_none_or(|last| last > now || now.since(last) >= LOOK_EVERY);
    waited && can_judge(snapshot)
}

const fn can_judge(snapshot: &SpaceSnapshot) -> bool {
    snapshot.empty_scans == 0
}

/// The machines on file that this scan does not list: what bears their identifiers may be left
/// over.
pub fn gone(snapshot: &SpaceSnapshot) -> BTreeSet<CloudId> {
    over(snapshot)
        .filter_map(|machine| machine.files.id.clone())
        .collect()
}

/// The volumes that were attached to those machines, as far as they are on file.
pub fn gone_volumes(snapshot: &SpaceSnapshot) -> BTreeSet<String> {
    over(snapshot)
        .flat_map(|machine| machine.files.volumes.iter().cloned())
        .collect()
}

fn over(snapshot: &SpaceSnapshot) -> impl Iterator<Item = &Machine> {
    let machines = snapshot.machines.iter();
    machines.filter(|machine| machine.listed.is_empty() && machine.files.stopped.is_some())
}

/// Judges what a look at `now` has listed, which is all there is of the kinds in `listed`. The
/// other kinds stay as they were. By `on_file` go machines that have been made since the scan: it has
/// those whose directories say now that they have not ended.
pub fn leaks(
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    on_file: &BTreeSet<CloudId>,
    listed: &BTreeMap<LeftoverKind, Vec<Leftover>>,
    before: &Sightings,
    now: Timestamp,
) -> Leaks {
    if !can_judge(snapshot) {
        return Leaks {
            sightings: before.clone(),
            ..Leaks::default()
        };
    }
    let users = Users::of(config, snapshot, on_file);
    let mut leaks = Leaks::default();
    let not_listed = before
        .iter()
        .filter(|((kind, _), _)| !listed.contains_key(kind));
    leaks.sightings = not_listed
        .map(|(key, sighting)| (key.clone(), *sighting))
        .collect();
    for (kind, things) in listed {
        let count = leaks.counts.entry(*kind).or_default();
        for thing in things {
            if users.use_it(thing) {
                count.used = count.used.saturating_add(1);
                continue;
            }
            let key = (*kind, thing.id.clone());
            let known = before.get(&key).filter(|known| known.first <= now);
            let sighting = known.copied().unwrap_or(Sighting::new(now));
            if sighting.hidden_use {
                count.used = count.used.saturating_add(1);
            } else {
                count.left = count.left.saturating_add(1);
            }
            leaks.sightings.insert(key, sighting);
            let kept = *kind == LeftoverKind::Image && config.keep_old_images;
            let known = users.all_listed || !is_known_by_listing(*kind);
            if config.remove_leaks && !kept && known && is_due(&sighting, now) {
                leaks.removals.push(Remove {
                    leftover: thing.clone(),
                    since: sighting.first,
                });
            }
        }
    }
    keep_the_first(&mut leaks);
    leaks
}

/// Whether only the listing of a machine tells that it uses such a thing.
const fn is_known_by_listing(kind: LeftoverKind) -> bool {
    match kind {
        LeftoverKind::Keypair | LeftoverKind::Image => true,
        LeftoverKind::Volume | LeftoverKind::Port | LeftoverKind::FloatingIp => false,
    }
}

/// Those that have been tried least, and of those the ones that have been left over for longest.
fn keep_the_first(leaks: &mut Leaks) {
    let sightings = &leaks.sightings;
    leaks.removals.sort_by_cached_key(|removal| {
        let key = (removal.leftover.kind, removal.leftover.id.clone());
        let tries = sightings.get(&key).map_or(0, |sighting| sighting.tries);
        (tries, removal.since, key)
    });
    leaks.removals.truncate(MOST_REMOVALS);
}

fn is_due(sighting: &Sighting, now: Timestamp) -> bool {
    let paused = sighting
        .tried
        .is_none_or(|tried| tried > now || now.since(tried) >= pause(sighting.tries));
    now.since(sighting.first) >= SEEN_APART && paused
}

/// The pause after so many removals that did not succeed.
const fn pause(tries: u32) -> Seconds {
    match tries {
        0 | 1 => Seconds::new(600),
        2 => Seconds::new(1800),
        _ => Seconds::new(3600),
    }
}

/// Whether a machine should be there and is not listed. One that we have deleted is meant to go.
fn is_unseen(machine: &Machine) -> bool {
    let files = &machine.files;
    machine.listed.is_empty() && files.stopped.is_none() && files.deleted.is_none()
}

/// Everything that can use a thing, besides what the thing itself tells.
struct Users<'a> {
    machines: BTreeSet<&'a CloudId>,
    keys: BTreeSet<&'a str>,
    /// Identifiers, or names as the configuration has them.
    images: BTreeSet<&'a str>,
    /// Whether it is known which copy counts of each image that is uploaded. Until then any of ours
    /// may be the one.
    images_are_settled: bool,
    /// Whether every machine is listed that should be there. One may run where Nova cannot look now, or
    /// be made later by a request whose answer was lost.
    all_listed: bool,
}

fn images_are_settled(config: &SpaceConfig, snapshot: &SpaceSnapshot) -> bool {
    let mut machinetypes = config.machinetypes.values();
    machinetypes.all(|machinetype| match machinetype.root_image {
        ImageSource::Cloud(_) => true,
        ImageSource::File(_) | ImageSource::Url(_) => snapshot
            .images
            .get(&machinetype.name)
            .is_some_and(ImageState::is_settled),
    })
}

impl<'a> Users<'a> {
    fn of(
        config: &'a SpaceConfig,
        snapshot: &'a SpaceSnapshot,
        on_file: &'a BTreeSet<CloudId>,
    ) -> Self {
        let listed = || -> Box<dyn Iterator<Item = &'a CloudMachine>> {
            let ours = snapshot.machines.iter();
            let ours = ours.flat_map(|machine| &machine.listed);
            let others = snapshot.unfiled.iter().chain(&snapshot.foreign);
            Box::new(ours.chain(others))
        };
        // A machine that one scan does not list may be in the next.
        let not_over = snapshot.machines.iter().filter_map(|machine| {
            let id = machine.files.id.as_ref();
            id.filter(|_| machine.files.stopped.is_none())
        });
        let configured = config.machinetypes.values();
        let configured = configured.filter_map(|machinetype| match &machinetype.root_image {
            ImageSource::Cloud(image) => Some(image.as_str()),
            ImageSource::File(_) | ImageSource::Url(_) => None,
        });
        let uploaded = snapshot.images.values();
        let uploaded = uploaded.filter_map(|state| state.id().map(CloudId::as_str));
        Self {
            images_are_settled: images_are_settled(config, snapshot),
            all_listed: !snapshot.machines.iter().any(is_unseen),
            machines: listed()
                .map(|vm| &vm.id)
                .chain(not_over)
                .chain(on_file)
                .collect(),
            keys: listed().filter_map(|vm| vm.key.as_deref()).collect(),
            images: listed()
                .filter_map(|vm| vm.image.as_deref())
                .chain(configured)
                .chain(uploaded)
                .collect(),
        }
    }

    fn use_it(&self, thing: &Leftover) -> bool {
        let by_machine = match &thing.user {
            Some(User::Configuration | User::Other(_)) => true,
            Some(User::Machine(id)) => self.machines.contains(id),
            None => false,
        };
        by_machine
            || match thing.kind {
                LeftoverKind::Keypair => self.keys.contains(thing.id.as_str()),
                LeftoverKind::Image => {
                    !self.images_are_settled
                        || self.images.contains(thing.id.as_str())
                        || self.images.contains(thing.name.as_str())
                }
                LeftoverKind::Volume | LeftoverKind::Port | LeftoverKind::FloatingIp => false,
            }
    }
}
