//! Machine directories that could not be read when they had to be: behind each may be a VM that
//! runs, or an end that nobody has accounted for yet. They are tried again at every tick.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use tracing::{error, warn};

use crate::blocking;
use crate::model::{MachineFiles, MachineName};
use crate::state::{Store, Unread};

/// The most directories that are tried at one tick, which waits for them.
const A_TICK: usize = 1000;

/// The directories that wait to be readable.
#[derive(Debug, Default)]
pub(super) struct UnreadDirectories {
    waiting: BTreeSet<MachineName>,
    /// The last one that was tried, when others come after it.
    tried: Option<MachineName>,
}

impl UnreadDirectories {
    /// Notes what could not be read, and says so.
    pub(super) fn note(&mut self, unread: Vec<Unread>) {
        for Unread { machine, problem } in unread {
            error!(
                %machine,
                "{problem}; the machine is neither looked after nor accounted for until its directory can be read, which every cycle tries again"
            );
            self.waiting.insert(machine);
        }
    }

    /// Notes one that could be read and could not be handed over.
    pub(super) fn put_back(&mut self, machine: MachineName) {
        self.waiting.insert(machine);
    }

    /// Tries the next ones again, and gives those that can be read now.
    pub(super) async fn try_again(&mut self, store: &Arc<Store>) -> Vec<MachineFiles> {
        let names = self.next_ones();
        if names.is_empty() {
            return Vec::new();
        }
        let store = Arc::clone(store);
        let looked = blocking::run(move || {
            let names = names.into_iter();
            names
                .map(|name| (store.load_machine(&name), name))
                .collect::<Vec<_>>()
        });
        let mut found = Vec::new();
        for (result, machine) in looked.await {
            match result {
                Ok(files) => {
                    self.waiting.remove(&machine);
                    if files.is_none() {
                        warn!(
                            %machine,
                            "its directory, which could not be read, is gone; the machine is not accounted for"
                        );
                    }
                    found.extend(files);
                }
                // As it was said when it was noted.
                Err(problem) => tracing::debug!(%machine, "{problem}; still"),
            }
        }
        found
    }

    fn next_ones(&mut self) -> Vec<MachineName> {
        let from = self.tried.as_ref().map_or(Unbounded, Excluded);
        let names = self.waiting.range::<MachineName, _>((from, Unbounded));
        let names: Vec<_> = names.take(A_TICK).cloned().collect();
        self.tried = names.get(A_TICK - 1).cloned();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateError;

    fn name(number: usize) -> MachineName {
        MachineName::new(format!("vcycle-a-{number:010}")).unwrap()
    }

    #[test]
    fn all_are_tried_in_turn() {
        let mut unread = UnreadDirectories::default();
        unread.waiting.extend((0..2500).map(name));
        let first = unread.next_ones();
        assert_eq!((first.len(), &first[0]), (1000, &name(0)));
        assert_eq!(unread.next_ones()[0], name(1000));
        assert_eq!(unread.next_ones().len(), 500);
        assert_eq!(unread.next_ones(), first);
    }

    #[tokio::test]
    async fn one_that_is_gone_is_not_tried_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let mut unread = UnreadDirectories::default();
        let place = store.layout().machine(&name(1));
        let disk = store.layout().disk();
        disk.write(dir.path(), &place, b"no directory", 0o644)
            .unwrap();
        for number in [1, 2] {
            unread.note(vec![Unread {
                machine: name(number),
                problem: StateError::Damaged {
                    path: store.layout().machine(&name(number)),
                    what: "no directory".to_owned(),
                },
            }]);
        }
        let found = unread.try_again(&store).await;
        assert!(found.is_empty());
        assert!(unread.waiting.into_iter().eq([name(1)]));
    }
}
