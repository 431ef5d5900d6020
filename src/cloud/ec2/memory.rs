//! What an adapter has to remember between its requests. All of it can be forgotten: a restart
//! costs at most an instance that stays without tags, which is then known by its identifier and
//! its client token.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{CloudId, CloudMachine, MachineName};

/// How long other requests may not know an instance that RunInstances has made. Amazon speaks of
/// seconds to minutes.
const SETTLING: Duration = Duration::from_secs(120);
/// The most creations that are remembered.
const MAX_REMEMBERED: usize = 1000;
/// The longest client token.
const MAX_TOKEN: usize = 64;

/// The tags of a machine.
pub(super) type Tags = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What RunInstances has made a moment ago.
    made: HashMap<CloudId, (CloudMachine, Instant)>,
    /// What each machine was asked for with, and how often that has changed.
    asked: HashMap<MachineName, (String, u32)>,
    /// The tags of machines that have been asked for without.
    untagged: HashMap<MachineName, Tags>,
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

    /// A machine is about to be asked for without its tags.
    pub(super) fn owe_tags(&self, name: &MachineName, tags: &Tags) {
        self.with(|known| {
            if known.untagged.len() >= MAX_REMEMBERED {
                known.untagged.clear();
            }
            known.untagged.insert(name.clone(), tags.clone());
        });
    }

    /// A machine has its tags, or there is none.
    pub(super) fn owe_no_tags(&self, name: &MachineName) {
        self.with(|known| known.untagged.remove(name));
    }

    /// The tags that a machine still has to be given.
    pub(super) fn owed_tags(&self, name: &MachineName) -> Option<Tags> {
        self.with(|known| known.untagged.get(name).cloned())
    }

    /// RunInstances has made this machine.
    pub(super) fn made(&self, machine: CloudMachine) {
        self.with(|known| {
            let made = (machine.id.clone(), (machine, Instant::now()));
            known.made.insert(made.0, made.1);
        });
    }

    /// The machine will be gone, and may be missing.
    pub(super) fn forget(&self, id: &CloudId) {
        self.with(|known| known.made.remove(id));
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
