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
use crate::model::{FactoryName, Leftover, LeftoverKind, Owner, SpaceSnapshot};
use crate::record::LeakStatus;

/// What one space remembers of it. A restart begins anew, on the careful side.
#[derive(Debug, Default)]
pub(super) struct LeakMemory {
    sightings: Sightings,
    looked: Option<Lap>,
    pub status: LeakStatus,
}

/// Lists what bears the marks of the space, beside machines. Changes nothing anywhere.
pub async fn find_leftovers(
    cloud: &dyn Cloud,
    config: &SpaceConfig,
    factory: &FactoryName,
    snapshot: &SpaceSnapshot,
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
    let search = Search {
        owner,
        public_keys,
        gone: leaks::gone(snapshot),
        gone_volumes: leaks::gone_volumes(snapshot),
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
        let now = self.common.clock.now();
        let looked = self.known.leaks.looked;
        if !leaks::time_to_look(snapshot, looked.map(|looked| looked.at()), now) {
            return;
        }
        if looked.is_some_and(|looked| self.common.clock.skipped(&looked) > LATE) {
            // What seems to be long ago may be a minute.
            self.known.leaks.sightings.clear();
        }
        let began = self.common.clock.lap();
        let (cloud, config) = (self.cloud.as_ref(), self.config.as_ref());
        let finding = find_leftovers(cloud, config, &self.common.factory, snapshot);
        let (search, found) = tokio::select! {
            biased;
            () = self.common.stop.cancelled() => return,
            found = finding => found,
        };
        let memory = &mut self.known.leaks;
        memory.looked = Some(began);
        let running = self.known.memory.machines.values();
        let running = running.filter(|files| files.stopped.is_none());
        let made = running.filter_map(|files| files.id.clone()).collect();
        let listed = listed(&found);
        let mut leaks = leaks::leaks(config, snapshot, &made, &listed, &memory.sightings, now);
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
