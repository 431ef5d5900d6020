//! Looking for what machines left behind, now and then at the end of a pass. Whatever goes wrong
//! with it ends no pass: it is said, shown in the status, and tried again.

use std::collections::BTreeMap;

use super::https::LATE;
use super::pass::Pass;
use crate::act::{self, Actor};
use crate::clock::Lap;
use crate::cloud::{Cloud, Leftovers, NotListed, Search};
use crate::config::SpaceConfig;
use crate::decide::leaks::{self, Sightings};
use crate::model::{FactoryName, Leftover, LeftoverKind, Owner, Seconds, SpaceSnapshot};
use crate::record::LeakStatus;

/// What one space remembers of it. A restart begins anew, on the careful side.
#[derive(Debug, Default)]
pub(super) struct LeakMemory {
    sightings: Sightings,
    looked: Option<Lap>,
    pub status: LeakStatus,
}

/// Lists what bears the marks of the space, beside machines, and the volumes that were found before:
/// once one is detached from its machine nothing else tells that it is ours. Changes nothing anywhere.
pub async fn find_leftovers(
    cloud: &dyn Cloud,
    config: &SpaceConfig,
    factory: &FactoryName,
    snapshot: &SpaceSnapshot,
    before: &Sightings,
) -> (Search, Leftovers) {
    let keys = act::public_keys(config).await;
    let (public_keys, unknown) = match keys {
        Ok(keys) => (Some(keys), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let owner = Owner {
        space: config.name.clone(),
        manager: factory.clone(),
    };
    let mut gone_volumes = leaks::gone_volumes(snapshot);
    let found = before.keys();
    let found = found.filter(|(kind, _)| *kind == LeftoverKind::Volume);
    gone_volumes.extend(found.map(|(_, id)| id.clone()));
    let search = Search {
        owner,
        public_keys,
        gone: leaks::gone(snapshot),
        gone_volumes,
    };
    let mut found = cloud.leftovers(&search).await;
    if let Some(why) = unknown {
        let unknown = Err(NotListed::Unavailable(why));
        found.insert(LeftoverKind::Keypair, unknown);
    }
    (search, found)
}

/// The kinds that are listed.
pub fn listed(found: &Leftovers) -> BTreeMap<LeftoverKind, Vec<Leftover>> {
    let listed = found.iter().filter_map(|(kind, listed)| {
        let things = listed.as_ref().ok()?;
        Some((*kind, things.clone()))
    });
    listed.collect()
}

impl Pass<'_> {
    /// Looks for leftovers when it is time to, and removes those that have been seen twice.
    pub(super) async fn look_for_leaks(&mut self, snapshot: &SpaceSnapshot, actor: &Actor) {
        let clock = &self.common.clock;
        let now = clock.now();
        let looked = self.known.leaks.looked;
        if !leaks::time_to_look(snapshot, looked.map(|looked| looked.at()), now) {
            return;
        }
        let began = clock.lap();
        let (cloud, config) = (self.cloud.as_ref(), self.config.as_ref());
        let sightings = &self.known.leaks.sightings;
        let finding = find_leftovers(cloud, config, &self.common.factory, snapshot, sightings);
        let (search, found) = tokio::select! {
            biased;
            () = self.common.stop.cancelled() => return,
            found = finding => found,
        };
        let memory = &mut self.known.leaks;
        memory.looked = Some(began);
        let running = self.known.memory.machines.values();
        let running = running.filter(|files| files.stopped.is_none());
        let on_file = running.filter_map(|files| files.id.clone()).collect();
        // What seems to have been seen long ago was perhaps seen a minute ago.
        let skipped = looked.map_or(Seconds::default(), |looked| clock.skipped(&looked));
        let anew = Sightings::new();
        let before = if skipped > LATE {
            &anew
        } else {
            &memory.sightings
        };
        let listed = listed(&found);
        let mut leaks = leaks::leaks(config, snapshot, &on_file, &listed, before, now);
        let status = &mut memory.status;
        status.note_look(
            &found,
            &leaks,
            &memory.sightings,
            &mut self.known.repeats,
            now,
        );
        let outcomes = act::remove_all(actor, &search, std::mem::take(&mut leaks.removals)).await;
        status.note_removals(
            &outcomes,
            &mut leaks.sightings,
            &mut self.known.repeats,
            now,
        );
        memory.sightings = leaks.sightings;
    }
}
