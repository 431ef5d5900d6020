//! Writing down what a pass has found out and done: directories, abort times, accounting, memory,
//! log.
//!
//! Order within the end of a machine (a crash between any two steps is mended by the next pass,
//! because each step can be repeated and `finished` comes last):
//!
//! 1. `stopped`: from here on the time of its end is fixed,
//! 2. last_abort_time of its machinetype, when it aborted,
//! 3. the accounting record, in the queue and then in the archive,
//! 4. `finished`.
//!
//! Memory follows each file after it has been written, never before.

mod heartbeats;
mod joboutputs;
mod leaks;
mod room;

pub use heartbeats::HeartbeatLists;
pub use joboutputs::KeepOutcome;
pub use leaks::{KindStatus, LeakStatus};

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use tracing::{debug, error, info, warn};

use crate::account::{apel, spool};
use crate::act::{CreateError, CreateOutcome, DeleteError, DeleteOutcome, directory, mjf};
use crate::cloud::{CloudErrorKind, Deletion};
use crate::config::SpaceConfig;
use crate::decide::{Bookkeeping, Delete, Finish, Plan, Reason};
use crate::events::Event;
use crate::metrics::{End, Metrics};
use crate::model::{
    CloudId, CloudMachine, Ended, FactoryName, History, MachineFiles, MachineName, MachinetypeName,
    Processors, Seconds, Timestamp,
};
use crate::observe::Memory;
use crate::state::{NewMachine, StateError, Store, TimeFile, Unread};
use crate::telemetry::{Lasted, Repeats, Telling};

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

/// The subject of a full disk.
const NO_ROOM: &str = "room in the state directory";
const STILL_NO_ROOM: &str = "room in the state directory, still";

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
            if problem.is_disk_full() {
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
            }
        }
        failed
    }

    /// A full disk is one trouble, however many machines feel it, and is told once.
    fn say_no_room(&mut self, problem: &StateError) {
        if self.repeats.is_news(NO_ROOM, "") {
            error!(
                "{problem}; nothing is created until there is room, and what cannot be written down is tried again in each cycle"
            );
        }
    }

    /// Whether the disk was full and has not been seen to have room since.
    pub fn has_no_room(&self) -> bool {
        is_out_of_room(self.repeats)
    }

    /// Finds out whether a disk that was full has room again.
    pub fn look_for_room(&mut self, now: Timestamp) {
        if !self.has_no_room() {
            return;
        }
        if let Err(problem) = self.store.check_room() {
            // The first time was told when it was met.
            let telling = self.repeats.telling(STILL_NO_ROOM, "", now);
            if let Telling::Reminder(Lasted { since, .. }) = telling {
                error!(
                    "still, since {}: {problem}; nothing is created until there is room",
                    since.to_rfc3339()
                );
            }
            return;
        }
        self.repeats.is_over(NO_ROOM);
        match self.repeats.ended(STILL_NO_ROOM) {
            Some(Lasted { since, .. }) => info!(
                "the state directory has room again, after none since {}",
                since.to_rfc3339()
            ),
            None => info!("the state directory has room again"),
        }
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
            } => {
                self.store
                    .set_time(machine, TimeFile::Updated, *last_running)?;
                self.files(machine, |files| files.updated = Some(*last_running));
                let expected = self
                    .memory
                    .machines
                    .get(machine)
                    .is_some_and(|files| files.deleted.is_some());
                if expected {
                    debug!(%machine, "not listed by the cloud any more");
                } else {
                    info!(%machine, "not listed by the cloud; waiting for the next scan");
                }
                Ok(())
            }
            Bookkeeping::Return { machine } => {
                self.store.remove_time(machine, TimeFile::Updated)?;
                self.files(machine, |files| files.updated = None);
                info!(%machine, "listed by the cloud again");
                Ok(())
            }
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
                self.stop(machine, *at, *set_back)?;
                info!(%machine, "ended; waiting for what it said on the remote server");
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
                self.note_no_room(flavor, places, *at);
                Ok(())
            }
            Bookkeeping::Finish(finish) => self.finish(finish, now),
            // Done beside the passes, because files can be large.
            Bookkeeping::KeepJoboutputs { .. } => Ok(()),
            Bookkeeping::Forget { machine } => {
                self.tell_what_is_lost(machine);
                self.store.remove_machine(machine)?;
                self.memory.forget(machine);
                self.repeats.is_over(&about_deleting(machine));
                Ok(())
            }
        }
    }

    fn files(&mut self, machine: &MachineName, change: impl FnOnce(&mut MachineFiles)) {
        if let Some(files) = self.memory.machines.get_mut(machine) {
            change(files);
        }
    }

    fn adopt(
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

    fn identify(&mut self, machine: &MachineName, id: &CloudId) -> Result<(), StateError> {
        self.store.set_id(machine, id)?;
        self.files(machine, |files| files.id = Some(id.clone()));
        self.events.push(Event::Found {
            machine: machine.clone(),
            id: id.clone(),
        });
        info!(%machine, %id, "found on the cloud");
        Ok(())
    }

    fn start(
        &mut self,
        machine: &MachineName,
        at: Timestamp,
        zone: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        if let Some(zone) = zone {
            self.store.set_zone(machine, zone)?;
        }
        self.store.set_time(machine, TimeFile::Started, at)?;
        self.files(machine, |files| {
            files.started = Some(at);
            files.zone = zone.map(str::to_owned).or(files.zone.take());
        });
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

    fn finish(&mut self, finish: &Finish, now: Timestamp) -> Result<(), StateError> {
        let name = &finish.machine;
        let Some(files) = self.memory.machines.get(name).cloned() else {
            return Ok(());
        };
        self.stop(name, finish.stopped, finish.set_back)?;
        if finish.abort {
            self.note_abort(finish)?;
        }
        let mut recorded = false;
        if finish.account
            && let Some(started) = finish.started
        {
            let machinetype = self.config.machinetypes.get(&files.machinetype);
            let record = apel::record(
                self.config,
                machinetype,
                &files,
                self.factory,
                (started, finish.stopped),
            );
            let send = self.config.gocdb_sitename.is_some();
            let (path, new) = spool::file(self.store.layout(), name, &record, send)?;
            debug!(machine = %name, path = %path.display(), new, "accounting record");
            self.totals.records += u64::from(new);
            if new {
                self.metrics.accounted(&self.config.name);
            }
            if new {
                self.events.push(Event::Accounted {
                    machine: name.clone(),
                    machinetype: files.machinetype.clone(),
                    record: path.display().to_string(),
                });
            }
            recorded = true;
        }
        self.store.set_time(name, TimeFile::Finished, now)?;
        self.files(name, |files| files.finished = Some(now));
        self.say_finished(finish, recorded, now);
        Ok(())
    }

    /// Writes down when a machine ended, once. By how much the clock was set back comes first: the
    /// two tell the length of the run only together, and `stopped` says that both are there.
    fn stop(
        &mut self,
        machine: &MachineName,
        at: Timestamp,
        set_back: Seconds,
    ) -> Result<(), StateError> {
        let Some(files) = self.memory.machines.get(machine) else {
            return Ok(());
        };
        if files.stopped.is_some() {
            return Ok(());
        }
        // One that a crash has left there may be wrong.
        if files.clock_set_back.unwrap_or_default() != set_back {
            self.store.set_clock_set_back(machine, set_back)?;
            self.files(machine, |files| files.clock_set_back = Some(set_back));
        }
        self.store.set_time(machine, TimeFile::Stopped, at)?;
        self.files(machine, |files| files.stopped = Some(at));
        Ok(())
    }

    fn note_abort(&mut self, finish: &Finish) -> Result<(), StateError> {
        let (space, machinetype) = (&self.config.name, &finish.machinetype);
        let history = match self.memory.history.entry(machinetype.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            // One that has left the configuration: an older end must not replace a later one.
            Entry::Vacant(unknown) => unknown.insert(History {
                last_abort: self.store.last_abort_time(space, machinetype)?,
                ..History::default()
            }),
        };
        let latest = history.last_abort.max(Some(finish.stopped));
        if latest != history.last_abort {
            self.store
                .set_last_abort_time(space, machinetype, finish.stopped)?;
            history.last_abort = latest;
            let configured = self.config.machinetypes.get(machinetype);
            self.events.push(Event::BackoffBegan {
                machinetype: machinetype.clone(),
                machine: finish.machine.clone(),
                until: configured.map(|configured| finish.stopped + configured.backoff),
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

    /// Takes over what became of the deletes, and says so.
    pub fn deletes(&mut self, outcomes: &[DeleteOutcome]) {
        for outcome in outcomes {
            let machine = &outcome.machine;
            if let Some(tried) = outcome.tried {
                self.files(machine, |files| {
                    files.deleted = Some(tried);
                    if outcome.reason.message().is_some() {
                        files.ended.get_or_insert(outcome.reason.ended());
                    }
                });
                let known = self.memory.volatile.entry(machine.clone()).or_default();
                known.delete_tries = known.delete_tries.saturating_add(1);
            }

            match &outcome.result {
                Ok(deletion) => {
                    self.repeats.is_over(&about_deleting(machine));
                    let already = match deletion {
                        Deletion::Accepted => "",
                        Deletion::AlreadyGone => "; it was already gone",
                    };
                    info!(%machine, "deleted: {}{already}", outcome.reason);
                    self.tell_delete(machine, outcome.reason);
                }
                Err(why @ (DeleteError::Withdrawn | DeleteError::Stopping)) => {
                    info!(%machine, "not deleted: {why}");
                }
                Err(DeleteError::State(problem)) if problem.is_disk_full() => {
                    self.say_no_room(problem);
                }
                Err(problem) => {
                    let subject = about_deleting(machine);
                    if self.repeats.is_news(&subject, &problem.to_string()) {
                        error!(
                            %machine,
                            "cannot delete ({}): {problem}; this is tried again, at most once an hour after the third time",
                            outcome.reason
                        );
                    }
                }
            }
        }
    }

    fn tell_delete(&mut self, machine: &MachineName, reason: Reason) {
        let files = self.memory.machines.get(machine);
        let machinetype = files.map(|files| files.machinetype.clone());
        let Some(machinetype) = machinetype.or_else(|| machine.machinetype()) else {
            return;
        };
        let space = &self.config.name;
        self.metrics.destroyed(space, &machinetype, reason.word());
        let (machine, reason_text) = (machine.clone(), reason.to_string());
        if reason.ended() == Ended::Heartbeat {
            self.events.push(Event::HeartbeatMissed {
                machine: machine.clone(),
                machinetype: machinetype.clone(),
                reason: reason_text.clone(),
            });
        }
        self.events.push(Event::Destroyed {
            machine,
            machinetype,
            reason: reason_text,
        });
    }

    /// Takes over what became of the creates, and says so.
    pub fn creates(&mut self, outcomes: Vec<CreateOutcome>, now: Timestamp) {
        let mut failed: BTreeSet<MachinetypeName> = BTreeSet::new();
        let mut succeeded: BTreeSet<MachinetypeName> = BTreeSet::new();
        let mut told_of: BTreeSet<MachinetypeName> = BTreeSet::new();
        for outcome in outcomes {
            let (machine, machinetype) = (outcome.machine, outcome.machinetype);
            self.note_refusals(&machine, &outcome.no_room, outcome.files.as_ref(), now);
            if let Some(files) = outcome.files {
                self.memory.machines.insert(machine.clone(), files);
            }

            let subject = format!("creating {machinetype}");
            if let Some(reason) = outcome.result.as_ref().err().and_then(CreateError::word) {
                let space = &self.config.name;
                self.metrics.create_failed(space, &machinetype, reason);
            }
            match outcome.result {
                Ok(id) => {
                    self.totals.created += 1;
                    self.metrics.created(&self.config.name, &machinetype);
                    info!(%machine, %id, "created");
                    self.events.push(Event::Created {
                        machine,
                        machinetype: machinetype.clone(),
                        id,
                    });
                    if let Some(count) = self.repeats.is_over(&subject) {
                        info!(
                            "machines of machinetype {machinetype} can be created again, after {count} failure(s)"
                        );
                    }
                    succeeded.insert(machinetype);
                }
                Err(CreateError::NotTried(why)) => {
                    debug!(%machine, "not created: {why}");
                }
                // The disk says nothing against the machinetype or the cloud.
                Err(CreateError::State(problem)) if problem.is_disk_full() => {
                    self.say_no_room(&problem);
                }
                Err(problem) => {
                    let next = match &problem {
                        CreateError::Cloud(error) if error.kind == CloudErrorKind::Ambiguous => {
                            "it may exist: the next scans look for it"
                        }
                        CreateError::State(_) => "the next cycle tries again",
                        _ => "the machinetype waits a little before the next try",
                    };
                    if told_of.insert(machinetype.clone()) {
                        self.events.push(Event::CreateFailed {
                            machine: machine.clone(),
                            machinetype: machinetype.clone(),
                            error: problem.to_string(),
                        });
                    }
                    // Each machine has another name; the trouble is the same.
                    let message = problem.to_string().replace(machine.as_str(), "it");
                    // Want of room has been told above.
                    let told = matches!(&problem,
                        CreateError::Cloud(error) if error.kind.shortage().is_some());
                    if self.repeats.is_news(&subject, &message) && !told {
                        warn!(%machine, "cannot create: {problem}; {next}");
                    } else {
                        debug!(%machine, "cannot create: {problem}; {next}");
                    }
                    // The trouble of our own disk is none of the machinetype's, which has not to
                    // wait when it is over.
                    if !matches!(problem, CreateError::State(_)) {
                        failed.insert(machinetype);
                    }
                }
            }
        }
        // One failure of many in a pass says nothing against the machinetype.
        for machinetype in failed.difference(&succeeded) {
            self.memory.note_failure(machinetype, now);
        }
    }
}

/// Whether the disk was full, by what has been said of it.
pub fn is_out_of_room(repeats: &Repeats) -> bool {
    repeats.is_standing(NO_ROOM)
}

/// What [`Repeats`] calls the trouble with a machine's files.
fn about_files(machine: &MachineName) -> String {
    format!("files of {machine}")
}

/// What [`Repeats`] calls the trouble with its deletion.
fn about_deleting(machine: &MachineName) -> String {
    format!("deleting {machine}")
}

/// Takes the ends of machines out of a plan whose files could not all be read: an end is written
/// down once, and without the machine's message it could be an abort that is none.
pub fn hold_back(plan: &mut Plan, unread: &[Unread]) {
    let unread: BTreeSet<_> = unread.iter().map(|unread| &unread.machine).collect();
    plan.bookkeeping.retain(|action| match action {
        Bookkeeping::Finish(finish) => !unread.contains(&finish.machine),
        Bookkeeping::KeepJoboutputs { machine, .. } => !unread.contains(machine),
        Bookkeeping::Adopt { .. }
        | Bookkeeping::Identify { .. }
        | Bookkeeping::Start { .. }
        | Bookkeeping::Miss { .. }
        | Bookkeeping::Return { .. }
        | Bookkeeping::Shutdowntime { .. }
        | Bookkeeping::Stop { .. }
        | Bookkeeping::Volumes { .. }
        | Bookkeeping::Exhausted { .. }
        | Bookkeeping::Forget { .. } => true,
    });
}

/// The deletes of machines whose bookkeeping is on disk: what could not be written about a
/// machine must not be lost with it.
pub fn without_failed(deletes: Vec<Delete>, failed: &BTreeSet<MachineName>) -> Vec<Delete> {
    deletes
        .into_iter()
        .filter(|delete| !failed.contains(&delete.machine))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudError;
    use crate::decide::{Reason, testing};
    use crate::model::MachineState;

    const NAMES: [&str; 2] = ["vcycle-a-aaaaaaaaaa", "vcycle-a-bbbbbbbbbb"];

    struct World {
        _dir: tempfile::TempDir,
        store: Store,
        config: SpaceConfig,
        factory: FactoryName,
        memory: Memory,
        repeats: Repeats,
        totals: Totals,
        events: Vec<Event>,
        metrics: Metrics,
    }

    impl World {
        /// The machines of [`NAMES`], started at 1000, of a machinetype that is not configured.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut world = Self {
                store: Store::open(dir.path().join("state")).unwrap(),
                _dir: dir,
                config: testing::space("max_machines = 10"),
                factory: FactoryName::new("factory.example.org").unwrap(),
                memory: Memory::default(),
                repeats: Repeats::default(),
                totals: Totals::default(),
                events: Vec::new(),
                metrics: Metrics::default(),
            };
            for name in NAMES {
                let listed = testing::listed(name, MachineState::Running);
                let machine = MachineName::new(name).unwrap();
                let machinetype = machine.machinetype().unwrap();
                let mut recorder = world.recorder();
                recorder
                    .adopt(&machine, &machinetype, &listed, Timestamp::from_unix(900))
                    .unwrap();
                recorder
                    .start(
                        &machine,
                        Timestamp::from_unix(1000),
                        None,
                        Timestamp::from_unix(1000),
                    )
                    .unwrap();
            }
            world
        }

        fn recorder(&mut self) -> Recorder<'_> {
            Recorder {
                config: &self.config,
                store: &self.store,
                factory: &self.factory,
                memory: &mut self.memory,
                repeats: &mut self.repeats,
                totals: &mut self.totals,
                events: &mut self.events,
                metrics: &self.metrics,
            }
        }
    }

    fn finish(name: &str, stopped: u64) -> Bookkeeping {
        let machine = MachineName::new(name).unwrap();
        Bookkeeping::Finish(Finish {
            machinetype: machine.machinetype().unwrap(),
            machine,
            started: Some(Timestamp::from_unix(1000)),
            stopped: Timestamp::from_unix(stopped),
            set_back: Seconds::default(),
            code: Some(300),
            abort: true,
            account: true,
            pauses: false,
            how: "it shut down".to_owned(),
        })
    }

    #[test]
    fn one_machine_that_cannot_be_written_about_keeps_no_other_back() {
        let mut world = World::new();
        let damaged = MachineName::new(NAMES[0]).unwrap();
        world.store.remove_machine(&damaged).unwrap();
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
        assert_eq!(plan.bookkeeping, [finish(NAMES[1], 4000)]);
    }

    #[test]
    fn trouble_of_our_own_disk_is_not_held_against_a_machinetype() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let machinetype = machine.machinetype().unwrap();
        let unwritable = || StateError::Io {
            action: "create",
            path: "machines".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let refused = || CloudError::new(CloudErrorKind::Rejected, "create", "no such image");
        for (problem, failures) in [
            (CreateError::State(unwritable()), 0),
            (CreateError::Cloud(refused()), 1),
        ] {
            let outcome = CreateOutcome {
                machine: machine.clone(),
                machinetype: machinetype.clone(),
                files: None,
                no_room: Vec::new(),
                result: Err(problem),
            };
            let now = Timestamp::from_unix(5000);
            world.recorder().creates(vec![outcome], now);
            let history = world.memory.history.get(&machinetype).copied();
            assert_eq!(history.unwrap_or_default().failures, failures);
        }
    }

    #[test]
    fn a_delete_that_fails_each_time_is_told_once_until_it_works() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let outcome = |result| DeleteOutcome {
            machine: machine.clone(),
            reason: Reason::Stopped,
            tried: None,
            result,
        };
        let refused = || {
            DeleteError::State(StateError::Io {
                action: "write",
                path: "deleted".into(),
                source: std::io::ErrorKind::PermissionDenied.into(),
            })
        };
        for _ in 0..3 {
            world.recorder().deletes(&[outcome(Err(refused()))]);
        }
        let told = world.repeats.is_over(&about_deleting(&machine));
        assert_eq!(told, Some(3));
        world
            .recorder()
            .deletes(&[outcome(Err(refused())), outcome(Ok(Deletion::Accepted))]);
        assert_eq!(world.repeats.is_over(&about_deleting(&machine)), None);
    }
}
