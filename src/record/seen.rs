//! What the listings show of a machine while it lives: that it is there, that it runs, that it is
//! missing, that it is back.

use tracing::{debug, info, warn};

use super::Recorder;
use crate::act::{directory, mjf};
use crate::events::Event;
use crate::model::{CloudId, CloudMachine, MachineName, MachinetypeName, Processors, Timestamp};
use crate::state::{NewMachine, StateError, TimeFile};

impl Recorder<'_> {
    /// A machine of ours has no directory, as far as is known: it gets one.
    pub(super) fn adopt(
        &mut self,
        machine: &MachineName,
        machinetype: &MachinetypeName,
        listed: &CloudMachine,
        now: Timestamp,
    ) -> Result<(), StateError> {
        // One that could not be read when the daemon started is no stranger.
        let filed = self.store.load_machine(machine)?;
        if let Some(files) = filed.filter(|files| files.space == self.config.name) {
            self.memory.take_up(files);
            info!(%machine, id = %listed.id, "its directory can be read again");
            return Ok(());
        }
        let configured = self.config.machinetypes.get(machinetype);
        let created = listed.created.unwrap_or(now).min(now);
        let size = mjf::Size {
            processors: listed
                .processors
                .or(configured.map(|configured| configured.min_processors))
                .unwrap_or(Processors::ONE),
            memory_mb: None,
            disk_gb: None,
        };
        let names = (machine, machinetype);
        let files = self.store.create_machine(&NewMachine {
            id: Some(listed.id.clone()),
            ..directory::contents(self.config, self.factory, names, size, created)
        })?;
        self.memory.machines.insert(machine.clone(), files);
        let known = self.memory.volatile.entry(machine.clone()).or_default();
        known.heard_since = Some(now);
        self.events.push(Event::Found {
            machine: machine.clone(),
            id: listed.id.clone(),
        });
        warn!(
            %machine, id = %listed.id,
            "found a machine of ours without a directory; made one"
        );
        Ok(())
    }

    /// The answer to its creation was lost; now its identifier is known.
    pub(super) fn identify(
        &mut self,
        machine: &MachineName,
        id: &CloudId,
    ) -> Result<(), StateError> {
        self.store.set_id(machine, id)?;
        self.files(machine, |files| files.id = Some(id.clone()));
        self.events.push(Event::Found {
            machine: machine.clone(),
            id: id.clone(),
        });
        info!(%machine, %id, "found on the cloud");
        Ok(())
    }

    /// It runs since `at`.
    pub(super) fn start(
        &mut self,
        machine: &MachineName,
        at: Timestamp,
        zone: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        if let Some(zone) = zone {
            self.store.set_zone(machine, zone)?;
        }
        let known = self.memory.machines.get(machine);
        let before = known.and_then(|files| files.started);
        if before.is_some_and(|before| before > now) {
            // The last scan on disk goes by the clock as it was before. Until the next one is there, a
            // daemon that starts could not tell by which of the two this start goes.
            self.store.set_time(machine, TimeFile::Updated, now)?;
            self.files(machine, |files| files.updated = Some(now));
        }
        self.store.set_time(machine, TimeFile::Started, at)?;
        self.files(machine, |files| {
            files.started = Some(at);
            files.zone = zone.map(str::to_owned).or(files.zone.take());
        });
        // That may have been by the clock as it was before it was set back.
        if let Some(known) = self.memory.volatile.get_mut(machine).filter(|_| at <= now) {
            known.last_running = known.last_running.map(|last| last.min(now));
        }
        if let Some(before) = before {
            info!(
                %machine,
                "the clock was set back to before {}, when it began to run: running since {}",
                before.to_rfc3339(),
                at.to_rfc3339()
            );
            return Ok(());
        }
        if let Some(files) = self.memory.machines.get(machine) {
            let machinetype = files.machinetype.clone();
            self.memory.note_start(&machinetype, now);
            self.events.push(Event::Running {
                machine: machine.clone(),
                machinetype,
                since: at,
            });
        }
        self.totals.started += 1;
        info!(%machine, "running since {}", at.to_rfc3339());
        Ok(())
    }

    /// The cloud does not list it any more.
    pub(super) fn miss(
        &mut self,
        machine: &MachineName,
        last_running: Timestamp,
    ) -> Result<(), StateError> {
        self.store
            .set_time(machine, TimeFile::Updated, last_running)?;
        self.files(machine, |files| files.updated = Some(last_running));
        let files = self.memory.machines.get(machine);
        if files.is_some_and(|files| files.deleted.is_some()) {
            debug!(%machine, "not listed by the cloud any more");
        } else {
            info!(%machine, "not listed by the cloud; waiting for the next scan");
        }
        Ok(())
    }

    /// The cloud lists it again.
    pub(super) fn returned(&mut self, machine: &MachineName) -> Result<(), StateError> {
        self.store.remove_time(machine, TimeFile::Updated)?;
        self.files(machine, |files| files.updated = None);
        let known = self.memory.volatile.get(machine);
        if known.is_some_and(|known| known.missed_scans > 0) {
            info!(%machine, "listed by the cloud again");
        }
        Ok(())
    }

    /// It never appeared, as it seemed, and is there now. `finished` goes last: a crash before that leaves a
    /// machine that is reopened once more. What it has written by now is not all that there will be to copy.
    pub(super) fn reopen(&mut self, machine: &MachineName) -> Result<(), StateError> {
        use TimeFile::{Finished, Logged, Stopped, Updated};
        if let Some(files) = self.memory.machines.get(machine) {
            let kind = (&files.space, &files.machinetype);
            self.store.take_back_joboutputs(kind, machine)?;
        }
        for file in [Updated, Logged, Stopped, Finished] {
            self.store.remove_time(machine, file)?;
        }
        self.files(machine, |files| {
            (files.updated, files.logged) = (None, None);
            (files.stopped, files.finished) = (None, None);
        });
        info!(%machine, "it has appeared on the cloud after all, and is looked after again");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::decide::{Bookkeeping, testing};
    use crate::model::{MachineName, MachineState, Timestamp};
    use crate::observe::Memory;
    use crate::record::testing::{NAMES, World};
    use crate::state::{Kept, TimeFile};

    #[test]
    fn a_start_that_is_set_back_takes_what_was_seen_since_with_it() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let at = Timestamp::from_unix;
        let mut start = |began: u64, now: u64| {
            let known = world.memory.volatile.entry(machine.clone()).or_default();
            known.last_running = Some(at(8000));
            let start = Bookkeeping::Start {
                machine: machine.clone(),
                at: at(began),
                zone: None,
            };
            assert!(world.recorder().bookkeeping(&[start], at(now)).is_empty());
            world.memory.volatile[&machine].last_running.unwrap().unix()
        };
        assert_eq!(start(3300, 4000), 4000);
        // One that is missing comes back first.
        assert_eq!(start(7300, 4000), 8000);
    }

    #[test]
    fn a_daemon_that_ends_while_it_sets_starts_back_leaves_no_longer_run() {
        let mut world = World::new();
        let name = MachineName::new(NAMES[0]).unwrap();
        let at = Timestamp::from_unix;
        world
            .store
            .set_time(&name, TimeFile::Started, at(8000))
            .unwrap();
        world
            .recorder()
            .scanned(&BTreeSet::new(), at(9000))
            .unwrap();
        // For how long a daemon that starts now knows it to have run.
        let ran = |world: &World| {
            let files = world.store.load_machine(&name).unwrap().unwrap();
            let (began, seen) = (files.began().unwrap(), files.updated);
            let mut memory = Memory::of([files]);
            memory.recall(&world.store, &world.config).unwrap();
            let seen = memory.volatile[&name].last_running.or(seen);
            seen.unwrap().since(began).get()
        };
        assert_eq!(ran(&world), 1000);
        // Before the start itself: the time of the scan is still by its clock.
        world
            .store
            .set_time(&name, TimeFile::Updated, at(5400))
            .unwrap();
        assert_eq!(ran(&world), 1000);
        world.store.remove_time(&name, TimeFile::Updated).unwrap();
        world.memory.machines = Memory::of(world.store.load_machine(&name).unwrap()).machines;
        let start = Bookkeeping::Start {
            machine: name.clone(),
            at: at(4400),
            zone: None,
        };
        assert!(world.recorder().bookkeeping(&[start], at(5400)).is_empty());
        assert_eq!(ran(&world), 1000);
        // The next scan that shows it ends that.
        world
            .recorder()
            .scanned(&BTreeSet::new(), at(5400))
            .unwrap();
        let back = Bookkeeping::Return {
            machine: name.clone(),
        };
        assert!(world.recorder().bookkeeping(&[back], at(5460)).is_empty());
        world
            .recorder()
            .scanned(&BTreeSet::new(), at(5460))
            .unwrap();
        assert_eq!(ran(&world), 1060);
    }

    #[test]
    fn a_machine_that_is_reopened_is_copied_at_its_end_once_more() {
        let mut world = World::new();
        let name = MachineName::new(NAMES[0]).unwrap();
        let now = Timestamp::from_unix(5000);
        let machinetype = name.machinetype().unwrap();
        let space = world.config.name.clone();
        let kind = (&space, &machinetype);
        let copy = |world: &World| {
            let copied = world.store.keep_joboutputs(kind, &name, now, &|| false);
            world.store.set_time(&name, TimeFile::Logged, now).unwrap();
            copied.unwrap()
        };
        world
            .store
            .leave_shutdown_message(&name, "200 Success")
            .unwrap();
        assert_eq!(copy(&world), Kept::Whole(1));
        world
            .store
            .set_time(&name, TimeFile::Finished, now)
            .unwrap();
        world.memory.machines = Memory::of(world.store.load_machine(&name).unwrap()).machines;
        let reopen = Bookkeeping::Reopen {
            machine: name.clone(),
        };
        assert!(world.recorder().bookkeeping(&[reopen], now).is_empty());
        let filed = world.store.load_machine(&name).unwrap().unwrap();
        assert_eq!((filed.logged, filed.finished), (None, None));
        assert_eq!(world.memory.machines[&name], filed);
        world
            .store
            .take_shutdown_message(&name, "300 No work")
            .unwrap();
        assert_eq!(copy(&world), Kept::Whole(1));
        let copies = world.store.layout().joboutputs_of(&space, &machinetype);
        let said = std::fs::read_to_string(copies.join(name.as_str()).join("shutdown_message"));
        assert_eq!(said.unwrap(), "300 No work");
        assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_could_not_be_read_at_first_is_taken_up_when_it_can() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        world.memory.forget(&machine);
        let adopt = Bookkeeping::Adopt {
            machinetype: machine.machinetype().unwrap(),
            listed: Box::new(testing::listed(NAMES[0], MachineState::Running)),
            machine: machine.clone(),
        };
        let now = Timestamp::from_unix(5000);
        assert!(world.recorder().bookkeeping(&[adopt], now).is_empty());
        let started = world.memory.machines[&machine].started;
        assert_eq!(started, Some(Timestamp::from_unix(1000)));
    }
}
