//! That a scan was made.
//!
//! After a crash the end of a machine is dated by the last scan on disk, so a scan counts for
//! a machine only when all that it has shown of it is written down. One whose files cannot be written
//! keeps the scan before, in a file of its own, and the space goes on without it: a directory with the
//! wrong owner must not make every other machine's end uncertain.

use std::collections::BTreeSet;

use tracing::debug;

use super::Recorder;
use crate::model::{MachineName, Timestamp};
use crate::state::StateError;

impl Recorder<'_> {
    /// Writes down that the scan at `scanned` was made, when all that it has shown is on disk but for
    /// what it has shown of the machines that `failed`. Where not even that can be noted, the last scan
    /// stays what it was.
    ///
    /// # Errors
    /// When the time of the scan cannot be set.
    pub fn scanned(
        &mut self,
        failed: &BTreeSet<MachineName>,
        scanned: Timestamp,
    ) -> Result<(), StateError> {
        let space = &self.config.name;
        let noted = match self.memory.scan_on_disk {
            None if failed.is_empty() => Ok(()),
            None => return Ok(()),
            Some(before) => self.note_unwritten(failed, before),
        };
        if let Err(problem) = noted {
            debug!("{problem}; the scan is not taken for made");
            return Ok(());
        }
        self.store.set_last_scan(space, scanned)?;
        self.memory.scan_on_disk = Some(scanned);
        Ok(())
    }

    /// The machines that failed keep the time of the scan `before`, or an earlier one; the others go
    /// by the last scan again.
    fn note_unwritten(
        &mut self,
        failed: &BTreeSet<MachineName>,
        before: Timestamp,
    ) -> Result<(), StateError> {
        let space = &self.config.name;
        let unwritten = &mut self.memory.unwritten;
        let written: Vec<_> = unwritten
            .keys()
            .filter(|name| !failed.contains(*name))
            .cloned()
            .collect();
        for name in written {
            self.store.forget_unwritten_scan(space, &name)?;
            unwritten.remove(&name);
        }
        for name in failed {
            if !unwritten.contains_key(name) {
                self.store.set_unwritten_scan(space, name, before)?;
                unwritten.insert(name.clone(), before);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NAMES, World};
    use super::*;
    use crate::observe::Memory;

    #[test]
    fn one_machine_that_cannot_be_written_about_keeps_no_other_from_being_seen() {
        let mut world = World::new();
        let names = NAMES.map(|name| MachineName::new(name).unwrap());
        let at = Timestamp::from_unix;
        let none = BTreeSet::new();
        let first = BTreeSet::from([names[0].clone()]);
        // What a daemon that begins now takes for the last time that each of them ran.
        let seen = |world: &World| {
            let mut memory = Memory::of(world.memory.machines.values().cloned());
            memory.recall(&world.store, &world.config).unwrap();
            names
                .clone()
                .map(|name| memory.volatile[&name].last_running.map(Timestamp::unix))
        };
        // Nothing to keep for the one that fails yet.
        world.recorder().scanned(&first, at(1000)).unwrap();
        assert_eq!(seen(&world), [None, None]);
        world.recorder().scanned(&none, at(2000)).unwrap();
        assert_eq!(seen(&world), [Some(2000), Some(2000)]);
        for time in [3000, 4000] {
            world.recorder().scanned(&first, at(time)).unwrap();
            assert_eq!(seen(&world), [Some(2000), Some(time)]);
        }
        world.recorder().scanned(&none, at(5000)).unwrap();
        assert_eq!(seen(&world), [Some(5000), Some(5000)]);
    }
}
