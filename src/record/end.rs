//! The end of a machine.
//!
//! A crash between any two steps is mended by the next pass, because each step can be repeated and
//! `finished` comes last:
//!
//! 1. `stopped`: from here on the time of its end is fixed,
//! 2. last_abort_time of its machinetype, when it aborted,
//! 3. the accounting record, in the queue and then in the archive,
//! 4. `finished`.

use std::collections::btree_map::Entry;

use tracing::{debug, error, info, warn};

use super::Recorder;
use crate::account::{apel, spool};
use crate::decide::Finish;
use crate::events::Event;
use crate::metrics::End;
use crate::model::{History, MachineFiles, MachineName, MachinetypeName, Seconds, Timestamp};
use crate::state::{StateError, TimeFile};

/// How a machine ended, as it is counted.
const fn end_of(finish: &Finish) -> End {
    if finish.never_ran() {
        End::NeverRan
    } else if finish.abort && !finish.account {
        End::Fizzle
    } else if finish.abort {
        End::Abort
    } else {
        End::Finished
    }
}

impl Recorder<'_> {
    /// Takes all steps that are still to be taken.
    pub(super) fn finish(&mut self, finish: &Finish, now: Timestamp) -> Result<(), StateError> {
        let name = &finish.machine;
        let Some(files) = self.memory.machines.get(name).cloned() else {
            return Ok(());
        };
        self.stop(name, finish.stopped, finish.set_back)?;
        if finish.abort {
            self.note_abort(finish, now)?;
        }
        let to_account = finish.started.filter(|_| finish.account);
        if let Some(started) = to_account {
            self.account(finish, &files, started)?;
        }
        self.store.set_time(name, TimeFile::Finished, now)?;
        self.files(name, |files| files.finished = Some(now));
        self.say_finished(finish, to_account.is_some(), now);
        Ok(())
    }

    /// Writes down when a machine ended, once. By how much the clock was set back comes first: the
    /// two tell the length of the run only together, and `stopped` says that both are there. Returns
    /// whether that was news.
    pub(super) fn stop(
        &mut self,
        machine: &MachineName,
        at: Timestamp,
        set_back: Seconds,
    ) -> Result<bool, StateError> {
        let Some(files) = self.memory.machines.get(machine) else {
            return Ok(false);
        };
        if files.stopped.is_some() {
            return Ok(false);
        }
        // One that a crash has left there may be wrong.
        if files.clock_set_back.unwrap_or_default() != set_back {
            self.store.set_clock_set_back(machine, set_back)?;
            self.files(machine, |files| files.clock_set_back = Some(set_back));
        }
        self.store.set_time(machine, TimeFile::Stopped, at)?;
        self.files(machine, |files| files.stopped = Some(at));
        Ok(true)
    }

    fn note_abort(&mut self, finish: &Finish, now: Timestamp) -> Result<(), StateError> {
        let (space, machinetype) = (&self.config.name, &finish.machinetype);
        let history = match self.memory.history.entry(machinetype.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            // One that has left the configuration: an older end must not replace a later one.
            Entry::Vacant(unknown) => unknown.insert(History {
                last_abort: self.store.last_abort_time(space, machinetype)?,
                ..History::default()
            }),
        };
        // An end that is in the future was written down before the clock was set back.
        let at = finish.stopped.min(now);
        let latest = history.last_abort.max(Some(at));
        if latest != history.last_abort {
            self.store.set_last_abort_time(space, machinetype, at)?;
            history.last_abort = latest;
            let configured = self.config.machinetypes.get(machinetype);
            let until = configured.map(|configured| at + configured.backoff);
            self.events.push(Event::BackoffBegan {
                machinetype: machinetype.clone(),
                machine: finish.machine.clone(),
                // An abort that was found late may have no backoff left.
                until: until.filter(|until| *until > now),
            });
        }
        Ok(())
    }

    /// Dates the aborts that are in the future, because the clock was set back, by now: no backoff
    /// is longer than configured, counted from when that is found. A decision takes them so.
    pub fn bring_back_aborts(&mut self, now: Timestamp) {
        let history = self.memory.history.iter();
        let ahead = history.filter_map(|(machinetype, history)| {
            let at = history.last_abort.filter(|at| *at > now)?;
            Some((machinetype.clone(), at))
        });
        for (machinetype, at) in ahead.collect::<Vec<_>>() {
            let subject = format!("last abort of {machinetype}");
            match self.bring_back_abort(&machinetype, now) {
                Ok(()) => {
                    self.repeats.is_over(&subject);
                    warn!(
                        %machinetype,
                        "its last abort was dated {}, which is in the future: the clock was set back; backoff_seconds count from now",
                        at.to_rfc3339()
                    );
                }
                Err(problem) if self.repeats.is_news(&subject, &problem.to_string()) => error!(
                    %machinetype,
                    "cannot date its last abort by now, where {} is in the future: {problem}; it backs off, and this is tried again in the next cycle",
                    at.to_rfc3339()
                ),
                Err(_) => {}
            }
        }
    }

    fn bring_back_abort(
        &mut self,
        machinetype: &MachinetypeName,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.store
            .set_last_abort_time(&self.config.name, machinetype, now)?;
        let history = self.memory.history.entry(machinetype.clone()).or_default();
        history.last_abort = Some(now);
        Ok(())
    }

    /// Writes the accounting record of a machine that began to run at `started`, once.
    fn account(
        &mut self,
        finish: &Finish,
        files: &MachineFiles,
        started: Timestamp,
    ) -> Result<(), StateError> {
        let name = &finish.machine;
        let machinetype = self.config.machinetypes.get(&files.machinetype);
        let times = (started, finish.stopped);
        let record = apel::record(self.config, machinetype, files, self.factory, times);
        let send = self.config.gocdb_sitename.is_some();
        let (path, new) = spool::file(self.store.layout(), name, &record, send)?;
        debug!(machine = %name, path = %path.display(), new, "accounting record");
        if new {
            self.totals.records += 1;
            self.metrics.accounted(&self.config.name);
            self.events.push(Event::Accounted {
                machine: name.clone(),
                machinetype: files.machinetype.clone(),
                record: path.display().to_string(),
            });
        }
        Ok(())
    }

    fn say_finished(&mut self, finish: &Finish, recorded: bool, now: Timestamp) {
        let machine = &finish.machine;
        let (space, machinetype) = (&self.config.name, &finish.machinetype);
        self.metrics.ended(space, machinetype, end_of(finish));
        self.events.push(Event::Ended {
            machine: machine.clone(),
            machinetype: finish.machinetype.clone(),
            started: finish.started,
            stopped: finish.stopped,
            ran: finish.started.map(|started| finish.stopped.since(started)),
            abort: finish.abort,
            code: finish.code,
            how: finish.how.clone(),
        });
        match finish.started {
            Some(started) => {
                self.totals.ended += 1;
                self.totals.aborts += u64::from(finish.abort);
                info!(
                    %machine,
                    "ended: {}; ran {} s; {}{}",
                    finish.how,
                    finish.stopped.since(started),
                    if finish.abort { "an abort; " } else { "" },
                    if recorded { "accounted for" } else { "too short to account for" },
                );
            }
            None if !finish.never_ran() => {
                self.totals.ended += 1;
                self.totals.aborts += 1;
                info!(%machine, "ended before it was seen running: {}; an abort", finish.how);
            }
            None => {
                self.totals.failed += 1;
                let next = if finish.pauses {
                    self.memory.note_failure(&finish.machinetype, now);
                    format!(
                        "new machines of machinetype {} wait a little",
                        finish.machinetype
                    )
                } else {
                    "the next one is asked for elsewhere".to_owned()
                };
                warn!(%machine, "never ran: {}; {next}", finish.how);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decide::Bookkeeping;
    use crate::model::{MachineName, MachinetypeName, Seconds, Timestamp};
    use crate::record::testing::{NAMES, World, finish};
    use crate::state::TimeFile;

    #[test]
    fn how_far_the_clock_was_set_back_is_on_disk_with_the_end_and_only_its_last_value_counts() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        for (back, began) in [(0, 1000), (700, 300)] {
            let end = Bookkeeping::Stop {
                machine: machine.clone(),
                at: Timestamp::from_unix(400),
                set_back: Seconds::new(back),
            };
            // What a crash before the end was written has left.
            world
                .store
                .set_clock_set_back(&machine, Seconds::new(50))
                .unwrap();
            let left = world.store.load_machine(&machine).unwrap().unwrap();
            assert_eq!(left.began(), Some(Timestamp::from_unix(1000)));
            world.memory.machines.insert(machine.clone(), left);
            let now = Timestamp::from_unix(500);
            assert!(world.recorder().bookkeeping(&[end], now).is_empty());
            let files = world.store.load_machine(&machine).unwrap().unwrap();
            assert_eq!(files.began(), Some(Timestamp::from_unix(began)));
            assert_eq!(files, world.memory.machines[&machine]);
            world
                .store
                .remove_time(&machine, TimeFile::Stopped)
                .unwrap();
        }
    }

    #[test]
    fn an_abort_in_the_future_is_brought_back_to_now_once_on_the_disk_too() {
        let mut world = World::new();
        let machinetype = MachinetypeName::new("a").unwrap();
        let space = world.config.name.clone();
        let at = Timestamp::from_unix;
        let set = |world: &mut World, time| {
            world
                .memory
                .history
                .entry(machinetype.clone())
                .or_default()
                .last_abort = Some(time);
            let store = &world.store;
            store
                .set_last_abort_time(&space, &machinetype, time)
                .unwrap();
        };
        for (last, expected) in [(9000, 5000), (4999, 4999)] {
            set(&mut world, at(last));
            world.recorder().bring_back_aborts(at(5000));
            world.recorder().bring_back_aborts(at(5060));
            let on_disk = world.store.last_abort_time(&space, &machinetype).unwrap();
            assert_eq!(on_disk, Some(at(expected)));
            assert_eq!(world.memory.history[&machinetype].last_abort, on_disk);
        }
        // Nor does an end in the future write one down.
        let end = [finish(NAMES[0], 9000)];
        assert!(world.recorder().bookkeeping(&end, at(5000)).is_empty());
        let on_disk = world.store.last_abort_time(&space, &machinetype).unwrap();
        assert_eq!(on_disk, Some(at(5000)));
    }

    #[test]
    fn an_old_end_of_a_removed_machinetype_does_not_end_its_backoff() {
        let mut world = World::new();
        let machinetype = MachinetypeName::new("a").unwrap();
        let space = world.config.name.clone();
        let later = Timestamp::from_unix(4500);
        world
            .store
            .set_last_abort_time(&space, &machinetype, later)
            .unwrap();
        for (name, stopped, expected) in [(NAMES[0], 4000, 4500), (NAMES[1], 4600, 4600)] {
            let now = Timestamp::from_unix(5000);
            let failed = world.recorder().bookkeeping(&[finish(name, stopped)], now);
            assert!(failed.is_empty());
            let expected = Some(Timestamp::from_unix(expected));
            let on_disk = world.store.last_abort_time(&space, &machinetype).unwrap();
            assert_eq!(on_disk, expected, "{name}");
            assert_eq!(world.memory.history[&machinetype].last_abort, expected);
        }
    }
}
