//! Writing down what a pass has found out and done: directories, abort times, accounting, memory,
//! log. Memory follows each file after it has been written, never before.

mod creates;
mod deletes;
mod end;
mod full;
mod heartbeats;
mod joboutputs;
mod leaks;
mod room;
mod scan;
mod seen;
#[cfg(test)]
mod testing;

pub use deletes::without_failed;
pub use full::is_out_of_room;
pub use heartbeats::HeartbeatLists;
pub use joboutputs::KeepOutcome;
pub use leaks::{KindStatus, LeakStatus};

use std::collections::BTreeSet;

use tracing::{debug, error, info};

use crate::config::SpaceConfig;
use crate::decide::{Bookkeeping, Plan};
use crate::events::Event;
use crate::metrics::Metrics;
use crate::model::{FactoryName, MachineFiles, MachineName, Timestamp};
use crate::observe::Memory;
use crate::state::{StateError, Store, Unread};
use crate::telemetry::Repeats;

/// What has happened in one space since the daemon started: for status and the demo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Machines that the cloud agreed to make.
    pub created: u64,
    /// Machines that began to run.
    pub started: u64,
    /// Machines that ended after having run.
    pub ended: u64,
    /// How many of those aborted.
    pub aborts: u64,
    /// Machines that never ran.
    pub failed: u64,
    /// Accounting records written.
    pub records: u64,
}

/// What writing down needs.
#[derive(Debug)]
pub struct Recorder<'a> {
    /// The configuration of this pass.
    pub config: &'a SpaceConfig,
    /// The state directory.
    pub store: &'a Store,
    /// The factory's name.
    pub factory: &'a FactoryName,
    /// What is remembered of the space.
    pub memory: &'a mut Memory,
    /// What has been said already.
    pub repeats: &'a mut Repeats,
    /// What has happened so far.
    pub totals: &'a mut Totals,
    /// What has happened and is still to be told.
    pub events: &'a mut Vec<Event>,
    /// Where it is counted.
    pub metrics: &'a Metrics,
}

impl Recorder<'_> {
    /// Writes the bookkeeping down. One machine that fails does not stop the others; those that
    /// failed are returned, so that nothing is done to them in this pass.
    pub fn bookkeeping(
        &mut self,
        actions: &[Bookkeeping],
        now: Timestamp,
    ) -> BTreeSet<MachineName> {
        let mut failed = BTreeSet::new();
        for action in actions {
            let name = action.machine();
            if failed.contains(name) {
                continue;
            }
            let Err(problem) = self.one(action, now) else {
                continue;
            };
            if self.forget_if_lost(name, &problem) {
                // That has been told.
            } else if problem.is_disk_full() {
                self.say_no_room(&problem);
            } else if self
                .repeats
                .is_news(&about_files(name), &problem.to_string())
            {
                error!(
                    machine = %name,
                    "{problem}; the machine is left as it is and this is tried again in the next cycle"
                );
            }
            failed.insert(name.clone());
        }
        for action in actions {
            let name = action.machine();
            if !failed.contains(name) {
                self.repeats.is_over(&about_files(name));
            } else if let Bookkeeping::Finish(finish) = action
                && let Some(started) = finish.started
                && self.memory.machines.contains_key(name)
            {
                let run = (started, finish.stopped);
                self.memory.note_unwritten_end(name, run, now);
            }
        }
        failed
    }

    fn one(&mut self, action: &Bookkeeping, now: Timestamp) -> Result<(), StateError> {
        match action {
            Bookkeeping::Adopt {
                machine,
                machinetype,
                listed,
            } => self.adopt(machine, machinetype, listed, now),
            Bookkeeping::Identify { machine, id } => self.identify(machine, id),
            Bookkeeping::Start { machine, at, zone } => {
                self.start(machine, *at, zone.as_deref(), now)
            }
            Bookkeeping::Miss {
                machine,
                last_running,
            } => self.miss(machine, *last_running),
            Bookkeeping::Return { machine } => self.returned(machine),
            Bookkeeping::Reopen { machine } => self.reopen(machine),
            Bookkeeping::Shutdowntime { machine, at } => {
                self.store.set_shutdowntime(machine, *at)?;
                self.files(machine, |files| files.shutdowntime = Some(*at));
                info!(%machine, "told to be down by {}", at.to_rfc3339());
                Ok(())
            }
            Bookkeeping::Stop {
                machine,
                at,
                set_back,
            } => {
                if self.stop(machine, *at, *set_back)? {
                    info!(%machine, "ended; waiting for what it said, which cannot be read yet");
                }
                Ok(())
            }
            Bookkeeping::Volumes { machine, volumes } => {
                self.store.set_volumes(machine, volumes)?;
                self.files(machine, |files| files.volumes.clone_from(volumes));
                debug!(%machine, "has volume(s) {}", volumes.join(", "));
                Ok(())
            }
            Bookkeeping::Exhausted {
                flavor, places, at, ..
            } => {
                self.note_no_room(flavor, places, *at, now);
                Ok(())
            }
            Bookkeeping::Finish(finish) => self.finish(finish, now),
            // Done beside the passes, because files can be large.
            Bookkeeping::KeepJoboutputs { .. } => Ok(()),
            Bookkeeping::Forget { machine } => {
                self.tell_what_is_lost(machine);
                self.store.remove_machine(machine)?;
                self.memory.forget(machine);
                self.repeats.is_over(&deletes::about_deleting(machine));
                Ok(())
            }
        }
    }

    /// Forgets a machine of which something could not be written because somebody has removed its
    /// directory: kept in memory it could never be destroyed, because that is written down first.
    /// Its VM is then one of ours without a directory, as after the loss of the whole state.
    fn forget_if_lost(&mut self, machine: &MachineName, problem: &StateError) -> bool {
        if !self.memory.machines.contains_key(machine) || !self.store.has_lost(machine) {
            return false;
        }
        self.memory.forget(machine);
        self.repeats.is_over(&about_files(machine));
        self.repeats.is_over(&deletes::about_deleting(machine));
        error!(
            %machine,
            "{problem}: its directory {} was removed while the daemon ran, and what it held is lost; a VM of it that the cloud lists with our marks gets a new one in the next cycle, and what has none is forgotten",
            self.store.layout().machine(machine).display()
        );
        true
    }

    /// Forgets the directories of machines that run: somebody has removed them, and the machines get
    /// new ones.
    pub fn let_go(&mut self, lost: &[MachineName]) {
        for machine in lost {
            self.memory.let_go(machine);
            self.repeats.is_over(&about_files(machine));
            error!(
                %machine,
                "its directory {} was removed while it runs, and what it held is lost; its VM gets a new one now, if it bears our marks",
                self.store.layout().machine(machine).display()
            );
        }
    }

    fn files(&mut self, machine: &MachineName, change: impl FnOnce(&mut MachineFiles)) {
        if let Some(files) = self.memory.machines.get_mut(machine) {
            change(files);
        }
    }
}

/// What [`Repeats`] calls the trouble with a machine's files.
fn about_files(machine: &MachineName) -> String {
    format!("files of {machine}")
}

/// Takes the ends of machines out of a plan whose files could not all be read: an end is written
/// down once, and without the machine's message it could be an abort that is none. Its time is fixed
/// all the same: later scans must not move it.
pub fn hold_back(plan: &mut Plan, unread: &[Unread]) {
    let unread: BTreeSet<_> = unread.iter().map(|unread| &unread.machine).collect();
    for action in &mut plan.bookkeeping {
        if let Bookkeeping::Finish(finish) = action
            && unread.contains(&finish.machine)
        {
            *action = finish.stop();
        }
    }
    plan.bookkeeping.retain(|action| match action {
        Bookkeeping::KeepJoboutputs { machine, .. } => !unread.contains(machine),
        Bookkeeping::Adopt { .. }
        | Bookkeeping::Identify { .. }
        | Bookkeeping::Start { .. }
        | Bookkeeping::Miss { .. }
        | Bookkeeping::Return { .. }
        | Bookkeeping::Reopen { .. }
        | Bookkeeping::Shutdowntime { .. }
        | Bookkeeping::Stop { .. }
        | Bookkeeping::Finish(_)
        | Bookkeeping::Volumes { .. }
        | Bookkeeping::Exhausted { .. }
        | Bookkeeping::Forget { .. } => true,
    });
}

#[cfg(test)]
mod tests {
    use super::testing::{NAMES, World, finish};
    use super::*;
    use crate::decide::testing;
    use crate::model::{MachineState, Seconds};
    use crate::state::TimeFile;

    #[test]
    fn one_machine_that_cannot_be_written_about_keeps_no_other_back() {
        let mut world = World::new();
        let damaged = MachineName::new(NAMES[0]).unwrap();
        let layout = world.store.layout();
        let in_the_way = layout.machine(&damaged).join(TimeFile::Stopped.file_name());
        layout.disk().create_dir(&in_the_way, 0o755).unwrap();
        let now = Timestamp::from_unix(5000);
        let actions = NAMES.map(|name| finish(name, 4000));
        let failed = world.recorder().bookkeeping(&actions, now);
        assert_eq!(failed, BTreeSet::from([damaged]));
        assert!(!world.recorder().has_no_room());
        let finished = |world: &World| {
            NAMES.map(|name| {
                let name = MachineName::new(name).unwrap();
                world.memory.machines[&name].finished
            })
        };
        assert_eq!(finished(&world), [None, Some(now)]);
        assert_eq!(world.totals.records, 1);
    }

    #[test]
    fn a_machine_whose_directory_was_removed_is_forgotten_so_that_its_vm_can_be_adopted() {
        let mut world = World::new();
        let [lost, kept] = NAMES.map(|name| MachineName::new(name).unwrap());
        world.store.remove_machine(&lost).unwrap();
        let now = Timestamp::from_unix(5000);
        let actions = NAMES.map(|name| finish(name, 4000));
        let failed = world.recorder().bookkeeping(&actions, now);
        assert_eq!(failed, BTreeSet::from([lost.clone()]));
        assert!(world.memory.machines.keys().eq([&kept]));
        // The next scan finds it without a directory.
        let adopt = Bookkeeping::Adopt {
            machinetype: lost.machinetype().unwrap(),
            listed: Box::new(testing::listed(NAMES[0], MachineState::Running)),
            machine: lost.clone(),
        };
        assert!(world.recorder().bookkeeping(&[adopt], now).is_empty());
        assert!(world.memory.machines.contains_key(&lost) && !world.store.has_lost(&lost));
    }

    #[test]
    fn an_end_that_cannot_be_written_is_known_when_the_cloud_has_forgotten_the_machine() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let in_the_way = |file: TimeFile| {
            let layout = world.store.layout();
            layout.machine(&machine).join(file.file_name())
        };
        let stopped = in_the_way(TimeFile::Stopped);
        world
            .store
            .layout()
            .disk()
            .create_dir(&stopped, 0o755)
            .unwrap();
        let now = Timestamp::from_unix(5000);
        let failed = world.recorder().bookkeeping(&[finish(NAMES[0], 4000)], now);
        assert_eq!(failed.len(), 1);
        let known = world.memory.volatile[&machine];
        let seen = [known.first_running, known.last_running];
        assert_eq!(seen.map(|time| time.unwrap().unix()), [1000, 4000]);
        // By a clock that has been set back since it was seen, nothing is added.
        let known = world.memory.volatile.get_mut(&machine).unwrap();
        known.last_running = Some(Timestamp::from_unix(9000));
        world.recorder().bookkeeping(&[finish(NAMES[0], 4500)], now);
        let known = world.memory.volatile[&machine];
        assert_eq!(known.last_running, Some(Timestamp::from_unix(9000)));
    }

    #[test]
    fn no_machine_is_forgotten_where_all_directories_are_missing() {
        let mut world = World::new();
        let layout = world.store.layout();
        let elsewhere = layout.root().join("elsewhere");
        layout
            .disk()
            .rename(&layout.machines(), &elsewhere)
            .unwrap();
        let now = Timestamp::from_unix(5000);
        let failed = world.recorder().bookkeeping(&[finish(NAMES[0], 4000)], now);
        assert_eq!(failed.len(), 1);
        assert_eq!(world.memory.machines.len(), NAMES.len());
    }

    #[test]
    fn an_end_waits_until_everything_about_it_can_be_read() {
        let mut plan = Plan {
            bookkeeping: NAMES.map(|name| finish(name, 4000)).to_vec(),
            ..Plan::default()
        };
        let unread = Unread {
            machine: MachineName::new(NAMES[0]).unwrap(),
            problem: StateError::Damaged {
                path: "shutdown_message".into(),
                what: "cannot be read".to_owned(),
            },
        };
        hold_back(&mut plan, &[unread]);
        let stop = Bookkeeping::Stop {
            machine: MachineName::new(NAMES[0]).unwrap(),
            at: Timestamp::from_unix(4000),
            set_back: Seconds::default(),
        };
        assert_eq!(plan.bookkeeping, [stop, finish(NAMES[1], 4000)]);
    }
}
