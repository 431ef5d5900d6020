//! What an adapter has to remember between its requests. All of it can be forgotten: a restart
//! costs at most a request that is sent again, and the reason of an instance that the cloud ended
//! before anything told whose it was.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{CloudId, CloudMachine, MachineName, MachineState, SpaceName};

/// How long other requests may not know an instance that RunInstances has made. Amazon advises to ask
/// again for up to five minutes.
const SETTLING: Duration = Duration::from_secs(300);
/// The most creations that are remembered.
const MAX_REMEMBERED: usize = 1000;
/// The longest client token.
const MAX_TOKEN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What RunInstances has made a moment ago.
    made: HashMap<CloudId, (CloudMachine, Instant)>,
    /// What each machine was asked for with, and how often that has changed.
    asked: HashMap<MachineName, (String, u32)>,
    /// Instances that have been tagged, or may not be.
    tagged: HashSet<CloudId>,
    /// The value of the factory's mark, once it is told.
    manager: Option<String>,
    /// Instances that RunInstances has made for us, and that are still listed.
    own: HashSet<CloudId>,
    /// Instances that we have asked the end of, and that are still listed.
    ended: HashSet<CloudId>,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The client token for a machine that is asked for with these parameters: its name, and
    /// another one each time the parameters are others, for a service refuses a token that it has
    /// seen with other parameters.
    pub(super) fn token(&self, name: &MachineName, parameters: String) -> String {
        let nth = self.with(|known| {
            if known.asked.len() >= MAX_REMEMBERED {
                known.asked.clear();
            }
            let entry = known.asked.entry(name.clone());
            let (before, nth) = entry.or_insert_with(|| (parameters.clone(), 1));
            if *before != parameters {
                *before = parameters;
                *nth += 1;
            }
            *nth
        });
        let mut token = name.to_string();
        if nth > 1 {
            token.push_str(&format!(".{nth}"));
        }
        if token.len() <= MAX_TOKEN {
            return token;
        }
        let digest = openssl::sha::sha256(token.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A machine has been tagged, or may not be.
    pub(super) fn set_needs_no_tags(&self, id: &CloudId) {
        self.with(|known| known.tagged.insert(id.clone()));
    }

    /// Whether a machine has been tagged, or may not be.
    pub(super) fn needs_no_tags(&self, id: &CloudId) -> bool {
        self.with(|known| known.tagged.contains(id))
    }

    /// What is ours bears the mark of this factory.
    pub(super) fn set_manager(&self, manager: &str) {
        self.with(|known| known.manager = Some(manager.to_owned()));
    }

    /// Whether an instance that is terminated has still to be told of: the cloud has ended it, or it
    /// has ended itself, it is ours, and nobody has asked for its end since that was told. As long as the
    /// factory is not known, the space says whose it is.
    pub(super) fn is_to_be_told(&self, machine: &CloudMachine, space: &SpaceName) -> bool {
        self.with(|known| {
            let is_marked = machine.marks.as_ref().is_some_and(|marks| {
                let manager = known.manager.as_ref();
                marks.space == space.as_str() && manager.is_none_or(|one| *one == marks.manager)
            });
            matches!(machine.state, MachineState::Failed | MachineState::Shutdown)
                && !known.ended.contains(&machine.id)
                && (is_marked || known.own.contains(&machine.id))
        })
    }

    /// RunInstances has made this machine.
    pub(super) fn made(&self, machine: CloudMachine) {
        self.with(|known| {
            known.own.insert(machine.id.clone());
            let made = (machine.id.clone(), (machine, Instant::now()));
            known.made.insert(made.0, made.1);
        });
    }

    /// The machine will be gone, and may be missing.
    pub(super) fn forget(&self, id: &CloudId) {
        self.with(|known| {
            known.made.remove(id);
            known.ended.insert(id.clone());
        });
    }

    /// Whether the service may not know this machine yet.
    pub(super) fn is_settling(&self, id: &CloudId) -> bool {
        self.with(|known| {
            let made = known.made.get(id);
            made.is_some_and(|(_, when)| when.elapsed() < SETTLING)
        })
    }

    /// Adds to a listing what was made a moment ago and is not in it, or not any more: the next
    /// listing can come from a place that lags behind that of this one.
    pub(super) fn compare(&self, listed: &mut Vec<CloudMachine>, terminated: &HashSet<CloudId>) {
        self.with(|known| {
            let ids: HashSet<&CloudId> = listed.iter().map(|machine| &machine.id).collect();
            known
                .made
                .retain(|id, (_, when)| when.elapsed() < SETTLING && !terminated.contains(id));
            let made = known.made.values().map(|(machine, _)| machine);
            let lacking = made.filter(|machine| !ids.contains(&machine.id));
            let lacking: Vec<CloudMachine> = lacking.cloned().collect();
            listed.extend(lacking);
            let ids: HashSet<&CloudId> = listed.iter().map(|machine| &machine.id).collect();
            let is_there = |id: &CloudId| ids.contains(id) || terminated.contains(id);
            known.tagged.retain(is_there);
            known.own.retain(is_there);
            known.ended.retain(is_there);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> MachineName {
        MachineName::new("vcycle-a-0123456789").unwrap()
    }

    #[test]
    fn the_token_is_the_name_until_the_parameters_change() {
        let memory = Memory::default();
        let token = |parameters: &str| memory.token(&name(), parameters.to_owned());
        assert_eq!(token("large"), "vcycle-a-0123456789");
        assert_eq!(token("large"), "vcycle-a-0123456789");
        assert_eq!(token("small"), "vcycle-a-0123456789.2");
        assert_eq!(token("large"), "vcycle-a-0123456789.3");
        let long = MachineName::new(format!("vcycle-{}-0123456789", "a".repeat(80))).unwrap();
        assert_eq!(memory.token(&long, String::new()).len(), 64);
    }
}
