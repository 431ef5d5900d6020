//! What the daemon remembers of one space between two scans.

use std::collections::BTreeMap;

use crate::config::SpaceConfig;
use crate::model::{
    EXHAUSTED_FOR, History, MachineFiles, MachineName, MachineState, MachinetypeName, Place,
    Seconds, SpaceSnapshot, Timestamp,
};
use crate::state::{StateError, Store};

/// A cache of the space's directories, and counters that a restart may lose: all of them begin
/// again on the careful side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The directories of the space's machines, kept in step with each file that is written.
    pub machines: BTreeMap<MachineName, MachineFiles>,
    /// What is known of machines only in this life of the daemon.
    pub volatile: BTreeMap<MachineName, Volatile>,
    /// Abort times (also on disk) and failures (not on disk) of the machinetypes.
    pub history: BTreeMap<MachinetypeName, History>,
    /// Where the cloud had no room, and when it last said so (not on disk).
    pub exhausted: BTreeMap<Place, Timestamp>,
    /// The last complete scan; also on disk.
    pub previous_scan: Option<Timestamp>,
    /// The last complete scan of the daemon before this one.
    pub scan_before_the_start: Option<Timestamp>,
    /// The last complete scan that is on disk.
    pub scan_on_disk: Option<Timestamp>,
    /// The same for machines of which what later scans have shown could not be written; also on disk.
    pub unwritten: BTreeMap<MachineName, Timestamp>,
    /// When machines of an older version were taken over: before that they could not write to us.
    pub taken_over: Option<Timestamp>,
    /// Scans in a row that listed none of our machines.
    pub empty_scans: u32,
}

/// What is known of a machine only in this life of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volatile {
    /// Complete scans in a row that did not list it; suspect ones do not count.
    pub missed_scans: u32,
    /// The first scan that saw it running; or its start, where its end was told before that, and could
    /// not be written down.
    pub first_running: Option<Timestamp>,
    /// The last scan that saw it running; for one that no scan of this life has seen so, the last
    /// scan of the daemon before, unless that had missed it. While its start is in the future, for
    /// the clock was set back, both go by the clock as it was before: together they say for how long
    /// it has run.
    pub last_running: Option<Timestamp>,
    /// When it was given a directory because it had none: since then it can write again.
    pub heard_since: Option<Timestamp>,
    /// Deletes tried.
    pub delete_tries: u32,
}

impl Volatile {
    /// A scan at `now`, so long after the one before, saw it running, and it began at `began`. If
    /// that is in the future, for it could not be set back on the disk yet or be read there, the run
    /// goes on by the old clock.
    fn note_seen(&mut self, began: Option<Timestamp>, now: Timestamp, passed: Seconds) {
        self.first_running.get_or_insert(now);
        let last = self.last_running.map(|last| last + passed);
        self.last_running = match began {
            Some(began) if began > now => Some(last.unwrap_or(began)),
            Some(_) | None => Some(now),
        };
    }

    /// What has not ended, and was not missing, was running when the daemon before looked last:
    /// it would have written down anything else (a scan counts as made when that is on disk). When it
    /// was last seen goes before its start on file if that was to be set back with the clock, and is not.
    fn note_scan_before_the_start(&mut self, files: &MachineFiles, scan: Option<Timestamp>) {
        let seen = files
            .updated
            .filter(|seen| files.started.is_none_or(|at| at <= *seen));
        if seen.is_none() {
            self.last_running = self.last_running.or(scan);
        }
    }
}

impl Memory {
    /// The memory of a space that has these directories, and nothing else yet.
    pub fn of(directories: impl IntoIterator<Item = MachineFiles>) -> Self {
        Self {
            machines: directories
                .into_iter()
                .map(|files| (files.name.clone(), files))
                .collect(),
            ..Self::default()
        }
    }

    /// Adds what is on disk beside the directories and not yet known: the time of the last scan,
    /// and abort times, also of machinetypes that have come into the configuration since.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn recall(&mut self, store: &Store, config: &SpaceConfig) -> Result<(), StateError> {
        if self.previous_scan.is_none() {
            // All of it or nothing: what could not be read is tried again in the next cycle.
            let scan = store.last_scan(&config.name)?;
            let unwritten = store.unwritten_scans(&config.name)?;
            self.taken_over = store.taken_over(&config.name)?;
            (self.previous_scan, self.unwritten) = (scan, unwritten);
            self.scan_before_the_start = self.previous_scan;
            self.scan_on_disk = self.previous_scan;
            for files in self.machines.values() {
                let known = self.volatile.entry(files.name.clone()).or_default();
                let scan = self.unwritten.get(&files.name).copied();
                known.note_scan_before_the_start(files, scan.or(self.scan_before_the_start));
            }
        }
        for machinetype in config.machinetypes.keys() {
            if !self.history.contains_key(machinetype) {
                let history = History {
                    last_abort: store.last_abort_time(&config.name, machinetype)?,
                    ..History::default()
                };
                self.history.insert(machinetype.clone(), history);
            }
        }
        Ok(())
    }

    /// Takes up a directory that could not be read when the others were. The scans since the start
    /// say nothing of when its machine ran: the last that looked for it was before.
    pub fn take_up(&mut self, files: MachineFiles) {
        let known = self.volatile.entry(files.name.clone()).or_default();
        let scan = self.unwritten.get(&files.name).copied();
        known.note_scan_before_the_start(&files, scan.or(self.scan_before_the_start));
        self.machines.insert(files.name.clone(), files);
    }

    /// Takes over what a complete scan at `now` has shown, once decisions have been made from it
    /// and written down. Machines that have been forgotten meanwhile stay forgotten.
    pub fn note_scan(&mut self, snapshot: &SpaceSnapshot, now: Timestamp) {
        let before = self.previous_scan.replace(now);
        let passed = before.map_or(Seconds::default(), |before| now.since(before));
        self.empty_scans = snapshot.empty_scans;
        let is_suspect = snapshot.suspect_missing().is_some();
        // One of them may be on file all the same, and its directory unreadable.
        for vm in &snapshot.unfiled {
            if let (MachineState::Running, Some(name)) = (vm.state, vm.machine_name()) {
                let scan = self.unwritten.get(&name).copied();
                let known = self.volatile.entry(name).or_default();
                // When it began is not known: it was before it was last seen, if only by the daemon
                // before this one.
                let seen = known.last_running.or(scan).or(self.scan_before_the_start);
                known.note_seen(seen, now, passed);
            }
        }
        for machine in &snapshot.machines {
            let Some(files) = self.machines.get(&machine.files.name) else {
                continue;
            };
            let known = self.volatile.entry(machine.files.name.clone()).or_default();
            if !is_suspect {
                known.missed_scans = machine.missed_scans;
            }
            if machine
                .vm()
                .is_some_and(|vm| vm.state == MachineState::Running)
            {
                let began = files.began().or(known.first_running);
                known.note_seen(began, now, passed);
            }
        }
    }

    /// The end of a machine could not be written down. Until it can, the cloud may forget the machine:
    /// what was told of its run is known as long as the daemon lives. Times of before the clock was set
    /// back stay as they are.
    pub fn note_unwritten_end(
        &mut self,
        machine: &MachineName,
        (started, stopped): (Timestamp, Timestamp),
        now: Timestamp,
    ) {
        let known = self.volatile.entry(machine.clone()).or_default();
        let is_past = |time: Option<Timestamp>| time.is_none_or(|time| time <= now);
        if is_past(known.first_running) && is_past(known.last_running) {
            known.first_running.get_or_insert(started);
            known.last_running = known.last_running.max(Some(stopped));
        }
    }

    /// The cloud said at `at` that it has no room there. What it said long ago is forgotten, and what
    /// it said in the future: before the clock was set back, who knows when.
    pub fn note_exhausted(&mut self, place: Place, at: Timestamp, now: Timestamp) {
        self.exhausted
            .retain(|_, known| *known <= now && now.since(*known) < EXHAUSTED_FOR);
        let last = self.exhausted.entry(place).or_insert(at);
        *last = at.max(*last);
    }

    /// A machine that runs has lost its directory: only what is known of its run is kept, for the new
    /// directory that it gets.
    pub fn let_go(&mut self, name: &MachineName) {
        self.machines.remove(name);
    }

    /// Forgets a machine whose directory is gone.
    pub fn forget(&mut self, name: &MachineName) {
        self.machines.remove(name);
        self.volatile.remove(name);
    }

    /// A creation or boot of this machinetype failed. However many fail in one pass, they count
    /// once: they share one cause, and the pause is to grow with time, not with their number. Of one that
    /// is not configured nothing is noted: its history is still to be recalled, should it come back.
    pub fn note_failure(&mut self, machinetype: &MachinetypeName, now: Timestamp) {
        if let Some(history) = self.history.get_mut(machinetype) {
            history.note_failure(now);
        }
    }

    /// A machine of this machinetype started: the cloud is well, apart from what fails in the
    /// same pass.
    pub fn note_start(&mut self, machinetype: &MachinetypeName, now: Timestamp) {
        if let Some(history) = self.history.get_mut(machinetype) {
            if history.last_failure == Some(now) {
                history.failures = 1;
            } else {
                history.failures = 0;
                history.last_failure = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    #[test]
    fn failures_of_one_pass_count_once_whatever_starts_beside_them() {
        let machinetype = MachinetypeName::new("a").unwrap();
        let at = Timestamp::from_unix;
        let mut memory = Memory::default();
        memory
            .history
            .insert(machinetype.clone(), History::default());
        for _ in 0..10 {
            memory.note_failure(&machinetype, at(1000));
        }
        assert_eq!(memory.history[&machinetype].failures, 1);
        memory.note_failure(&machinetype, at(1060));
        assert_eq!(memory.history[&machinetype].failures, 2);
        // In one pass a start and a failure mean the same in either order.
        let mut other = memory.clone();
        memory.note_failure(&machinetype, at(1120));
        memory.note_start(&machinetype, at(1120));
        other.note_start(&machinetype, at(1120));
        other.note_failure(&machinetype, at(1120));
        assert_eq!(memory, other);
        assert_eq!(memory.history[&machinetype].failures, 1);
        memory.note_start(&machinetype, at(1180));
        assert_eq!(memory.history[&machinetype].failures, 0);
    }

    #[test]
    fn what_a_cloud_said_of_its_room_before_the_clock_was_set_back_hides_nothing_said_since() {
        let at = Timestamp::from_unix;
        let place = |flavor: &str| Place {
            flavor: flavor.to_owned(),
            zone: None,
        };
        let mut memory = Memory::default();
        memory.note_exhausted(place("a"), at(8000), at(8000));
        memory.note_exhausted(place("b"), at(8010), at(8010));
        memory.note_exhausted(place("a"), at(8005), at(8010));
        assert_eq!(memory.exhausted[&place("a")], at(8005));
        memory.note_exhausted(place("a"), at(4400), at(4460));
        let known: Vec<_> = memory.exhausted.into_iter().collect();
        assert_eq!(known, [(place("a"), at(4400))]);
    }

    #[test]
    fn only_a_scan_of_the_life_before_stands_for_having_seen_a_machine_run() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = testing::space("");
        let at = Timestamp::from_unix;
        store.set_last_scan(&config.name, at(2000)).unwrap();
        let [plain, missed, late] = ["a", "b", "c"].map(|end| {
            let name = format!("vcycle-a-{}", end.repeat(10));
            testing::files(&name, 1000)
        });
        let missed = MachineFiles {
            updated: Some(at(1500)),
            ..missed
        };
        let names = [&plain, &missed, &late].map(|files| files.name.clone());
        let mut memory = Memory::of([plain, missed]);
        memory.recall(&store, &config).unwrap();
        // A scan that could not be written down, and a directory that was not read before it.
        memory.previous_scan = Some(at(3000));
        memory.take_up(late);
        let last_running = names
            .clone()
            .map(|name| memory.volatile[&name].last_running);
        assert_eq!(last_running, [Some(at(2000)), None, Some(at(2000))]);

        // One whose directory could not be read was seen running all the same.
        let mut memory = Memory::default();
        memory.recall(&store, &config).unwrap();
        let snapshot = SpaceSnapshot {
            unfiled: vec![testing::listed(names[0].as_str(), MachineState::Running)],
            ..SpaceSnapshot::default()
        };
        memory.note_scan(&snapshot, at(4000));
        memory.take_up(testing::files(names[0].as_str(), 1000));
        assert_eq!(memory.volatile[&names[0]].last_running, Some(at(4000)));
        // The clock was set back meanwhile.
        memory.note_scan(&snapshot, at(1000));
        memory.note_scan(&snapshot, at(1060));
        assert_eq!(memory.volatile[&names[0]].last_running, Some(at(4060)));
        // Or before the daemon was started again.
        let mut memory = Memory::default();
        memory.recall(&store, &config).unwrap();
        memory.note_scan(&snapshot, at(1000));
        memory.note_scan(&snapshot, at(1060));
        assert_eq!(memory.volatile[&names[0]].last_running, Some(at(2060)));
    }

    #[test]
    fn a_machinetype_that_fails_while_it_is_not_configured_keeps_its_backoff() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let at = Timestamp::from_unix;
        let mut config = testing::space("");
        let machinetype = testing::machinetype("a", "");
        let name = machinetype.name.clone();
        store
            .set_last_abort_time(&config.name, &name, at(2000))
            .unwrap();
        let mut memory = Memory::default();
        memory.recall(&store, &config).unwrap();
        memory.note_failure(&name, at(3000));
        config.machinetypes = BTreeMap::from([(name.clone(), machinetype)]);
        memory.recall(&store, &config).unwrap();
        assert_eq!(memory.history[&name].last_abort, Some(at(2000)));
    }

    #[test]
    fn a_memory_that_cannot_be_read_in_full_is_not_taken_up_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = testing::space("");
        let at = Timestamp::from_unix;
        store.set_last_scan(&config.name, at(2000)).unwrap();
        let files = testing::files("vcycle-a-aaaaaaaaaa", 1000);
        let name = files.name.clone();
        // A directory in the place of its file.
        let blocked = store.layout().unwritten_scans(&config.name).join(&name);
        store.layout().disk().create_dir_all(&blocked).unwrap();
        let mut memory = Memory::of([files]);
        for _ in 0..2 {
            memory.recall(&store, &config).unwrap_err();
        }
        store.layout().disk().remove_tree(&blocked).unwrap();
        memory.recall(&store, &config).unwrap();
        assert_eq!(memory.volatile[&name].last_running, Some(at(2000)));
    }

    #[test]
    fn a_run_goes_on_by_the_old_clock_until_its_start_is_set_back_on_the_disk() {
        let at = Timestamp::from_unix;
        let names = ["vcycle-a-aaaaaaaaaa", "vcycle-a-bbbbbbbbbb"];
        let [written, mut unwritten] =
            names.map(|name| testing::machine(name, MachineState::Running, 5000));
        unwritten.files.started = None;
        let name = written.files.name.clone();
        let snapshot = testing::snapshot(vec![written.clone(), unwritten.clone()]);
        let mut memory = Memory::of([written.files, unwritten.files]);
        let mut scan = |now: u64, started: Option<u64>| {
            let files = memory.machines.get_mut(&name).unwrap();
            files.started = started.map(at);
            memory.note_scan(&snapshot, at(now));
            let known = snapshot.machines.iter();
            let known = known.map(|machine| memory.volatile[&machine.files.name]);
            known
                .map(|known| known.last_running.unwrap().unix())
                .collect::<Vec<_>>()
        };
        assert_eq!(scan(5000, Some(5000)), [5000, 5000]);
        assert_eq!(scan(5700, Some(5000)), [5700, 5700]);
        // An hour back, which the disk does not take for three minutes.
        assert_eq!(scan(2160, Some(5000)), [5700, 5700]);
        assert_eq!(scan(2220, Some(5000)), [5760, 5760]);
        assert_eq!(scan(2340, Some(5000)), [5880, 5880]);
        assert_eq!(scan(2400, Some(1460)), [2400, 5940]);
        // And forward again.
        assert_eq!(scan(6060, Some(1460)), [6060, 6060]);
    }

    #[test]
    fn a_forgotten_machine_leaves_nothing_behind() {
        let names = ["vcycle-a-aaaaaaaaaa", "vcycle-a-bbbbbbbbbb"];
        let machines = names.map(|name| testing::machine(name, MachineState::Running, 1000));
        let snapshot = testing::snapshot(machines.to_vec());
        let mut memory = Memory::default();
        for machine in machines {
            let name = machine.files.name.clone();
            memory.machines.insert(name, machine.files);
        }
        // The bookkeeping of a pass comes before the scan is taken over.
        memory.forget(&snapshot.machines[0].files.name);
        memory.note_scan(&snapshot, Timestamp::from_unix(2000));
        let known: Vec<_> = memory.volatile.keys().map(MachineName::as_str).collect();
        assert_eq!(known, [names[1]]);
    }
}
