//! Each machine put into exactly one bucket; the later steps only look at buckets.

use super::placement::{self, Exhausted};
use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{
    CloudId, CloudMachine, Machine, MachineName, MachineState, Processors, RemoteServer, Seconds,
    SpaceSnapshot, Timestamp,
};

/// How long a machine that was asked for without an answer may stay unlisted.
pub(super) const ADOPTION: Seconds = Seconds::new(600);
/// How many scans in a row must not list a machine before it is gone.
const GONE_SCANS: u32 = 2;
/// The same when a scan lists none of our machines.
const GONE_SUSPECT_SCANS: u32 = 10;

/// The configuration and the snapshot, with every machine classified.
pub(super) struct View<'a> {
    pub config: &'a SpaceConfig,
    pub snapshot: &'a SpaceSnapshot,
    pub now: Timestamp,
    /// Sorted by name.
    pub machines: Vec<MachineView<'a>>,
    /// VMs with our marks and no directory, sorted by name, the oldest of one name first.
    pub unfiled: Vec<&'a CloudMachine>,
    /// Where the cloud has no room.
    pub exhausted: Exhausted,
    /// `Some(missing)` when the scan lists none of three or more machines.
    pub suspect: Option<u32>,
}

/// One machine with what follows from looking at it.
pub(super) struct MachineView<'a> {
    pub machine: &'a Machine,
    /// `None` when its machinetype is no longer in the configuration.
    pub machinetype: Option<&'a MachinetypeConfig>,
    pub bucket: Bucket<'a>,
    /// VMs of the same name that are not the one to keep.
    pub duplicates: Vec<&'a CloudMachine>,
}

/// The one thing that a machine is at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bucket<'a> {
    /// Asked for, no answer yet, not listed yet.
    Pending,
    /// Asked for, and never appeared on the cloud.
    NeverAppeared,
    /// Listed.
    Listed(&'a CloudMachine, MachineState),
    /// Not in this listing; too early to say that it is gone.
    Unlisted,
    /// Gone from the cloud.
    Gone,
}

impl<'a> View<'a> {
    pub fn new(config: &'a SpaceConfig, snapshot: &'a SpaceSnapshot, now: Timestamp) -> Self {
        let missing = snapshot.suspect_missing();
        let mut machines: Vec<_> = snapshot
            .machines
            .iter()
            .map(|machine| MachineView {
                machine,
                machinetype: config.machinetypes.get(&machine.files.machinetype),
                bucket: bucket(machine, snapshot, missing.is_some(), now),
                duplicates: duplicates(machine),
            })
            .collect();
        machines.sort_by(|a, b| a.machine.files.name.cmp(&b.machine.files.name));
        let mut unfiled: Vec<_> = snapshot.unfiled.iter().collect();
        unfiled.sort_by_cached_key(|listed| {
            let created = listed.created.unwrap_or_default();
            (listed.machine_name(), created, listed.id.clone())
        });
        let mut view = Self {
            config,
            snapshot,
            now,
            machines,
            unfiled,
            exhausted: Exhausted::new(),
            suspect: missing,
        };
        view.exhausted = placement::exhausted(&view);
        view
    }

    /// The server that machines of this kind write to in place of ours, if they do.
    pub fn remote(&self, configured: &MachinetypeConfig) -> Option<RemoteServer> {
        configured.remote_joboutputs_url.as_ref()?;
        let known = self.snapshot.remotes.get(&configured.name);
        Some(known.copied().unwrap_or_default())
    }

    /// The last time that a machine is known to have run: for the time of its end.
    pub fn last_running(&self, machine: &Machine) -> Timestamp {
        self.shown_running(machine).min(self.now)
    }

    /// How far the clock has been set back since a machine was seen running, if it was.
    pub fn set_back(&self, machine: &Machine) -> Seconds {
        if machine.files.started.or(machine.first_running).is_none() {
            return Seconds::default();
        }
        self.shown_running(machine).since(self.now)
    }

    /// What the clock showed when a machine was last known to run.
    pub fn shown_running(&self, machine: &Machine) -> Timestamp {
        let started = machine.files.started.unwrap_or(machine.files.created);
        machine
            .last_running
            .or(machine.files.updated)
            .map_or(started, |time| time.max(started))
    }

    /// When a machine began to run, if it did: as its file says, or as it was seen when that could not
    /// be written down before the clock was set back; for one that lives on, as long ago as it had
    /// run by then. Else as the cloud says, held between its creation and now; else when it was first
    /// seen running, which may be now. One that has already shut down must have run since the scan
    /// before. One that is starting has not run, even if the cloud tells a time (EC2's launchTime is
    /// that of the request).
    pub fn started(&self, machine: &MachineView<'_>) -> Option<Timestamp> {
        let files = &machine.machine.files;
        let first = machine.machine.first_running;
        let unwritten = first.filter(|first| *first > self.now);
        if let Some(began) = files.began().or(unwritten) {
            let is_to_come = machine.lives_on() && files.stopped.is_none() && began > self.now;
            let back = is_to_come.then(|| self.set_back(machine.machine));
            return Some(began.earlier(back.unwrap_or_default()));
        }
        let earliest = files.created.min(self.now);
        let since = |time: Timestamp| Some(time.clamp(earliest, self.now));
        let seen = first.and_then(since);
        let Bucket::Listed(listed, state) = machine.bucket else {
            return seen;
        };
        if state == MachineState::Starting {
            return None;
        }
        if let Some(told) = listed.started {
            return since(told);
        }
        if seen.is_some() {
            return seen;
        }
        match state {
            MachineState::Running => Some(self.now),
            MachineState::Shutdown => since(self.snapshot.previous_scan.unwrap_or(earliest)),
            MachineState::Starting
            | MachineState::Deleting
            | MachineState::Failed
            | MachineState::Unknown => None,
        }
    }
}

impl MachineView<'_> {
    /// Whether it is listed as what may run on: what has shut down, or is missing, ends or comes back.
    const fn lives_on(&self) -> bool {
        match self.bucket {
            Bucket::Listed(_, state) => matches!(
                state,
                MachineState::Starting | MachineState::Running | MachineState::Unknown
            ),
            Bucket::Pending | Bucket::Unlisted | Bucket::NeverAppeared | Bucket::Gone => false,
        }
    }

    /// Whether it takes room: it is on the cloud or may be.
    pub fn counts(&self) -> bool {
        match self.bucket {
            Bucket::Pending | Bucket::Listed(..) => true,
            Bucket::Unlisted => self.machine.files.finished.is_none(),
            Bucket::NeverAppeared | Bucket::Gone => false,
        }
    }

    /// Its processors: as the cloud says, as its files say, as the configuration says.
    pub fn processors(&self) -> Processors {
        let listed = match self.bucket {
            Bucket::Listed(listed, _) => listed.processors,
            Bucket::Pending | Bucket::NeverAppeared | Bucket::Unlisted | Bucket::Gone => None,
        };
        listed
            .or(self.machine.files.processors)
            .or(self.machinetype.map(|configured| configured.min_processors))
            .unwrap_or(Processors::ONE)
    }

    /// Its state for counting. A machine that is missing from one listing is what it was: the
    /// cloud may only be late in listing it.
    pub fn state(&self) -> MachineState {
        let files = &self.machine.files;
        match self.bucket {
            Bucket::Listed(_, state) => state,
            Bucket::Pending => MachineState::Starting,
            Bucket::Unlisted if files.stopped.is_some() => MachineState::Unknown,
            Bucket::Unlisted if files.started.is_some() => MachineState::Running,
            Bucket::Unlisted => MachineState::Starting,
            Bucket::NeverAppeared | Bucket::Gone => MachineState::Unknown,
        }
    }
}

/// The other VMs with its name.
fn duplicates(machine: &Machine) -> Vec<&CloudMachine> {
    let kept = machine.vm().map(|vm| &vm.id);
    let mut others: Vec<_> = machine
        .listed
        .iter()
        .filter(|listed| Some(&listed.id) != kept)
        .collect();
    others.sort_by(|a, b| a.id.cmp(&b.id));
    others
}

fn bucket<'a>(
    machine: &'a Machine,
    snapshot: &SpaceSnapshot,
    suspect: bool,
    now: Timestamp,
) -> Bucket<'a> {
    if let Some(listed) = machine.vm() {
        // A machine that has run is not starting again: ACTIVE without power is a moment of
        // uncertainty of the hypervisor, and the rules for running machines go on to hold.
        let state = match (listed.state, machine.files.started) {
            (MachineState::Starting, Some(_)) => MachineState::Running,
            (state, _) => state,
        };
        return Bucket::Listed(listed, state);
    }
    let is_missed = is_missed(machine, snapshot, suspect);
    match &machine.files.id {
        None if is_missed && now.since(machine.files.created) >= ADOPTION => Bucket::NeverAppeared,
        None => Bucket::Pending,
        Some(_) if is_missed && !machine.unconfirmed => Bucket::Gone,
        Some(_) => Bucket::Unlisted,
    }
}

/// Whether so many scans in a row have not listed a machine that it seems to be gone. A suspect scan
/// says as little of one that waits for its answer as of the others.
fn is_missed(machine: &Machine, snapshot: &SpaceSnapshot, suspect: bool) -> bool {
    let (scans, needed) = if suspect {
        (snapshot.empty_scans, GONE_SUSPECT_SCANS)
    } else {
        (machine.missed_scans, GONE_SCANS)
    };
    scans >= needed
}

/// The machines that seem to be gone though nobody has seen them end. A complete list
/// may leave out machines (Nova's does those of a cell that is down), so the cloud is asked for each of
/// these by itself; first for those that have been missing for the shortest time, for of the others it
/// may not be able to tell.
pub fn seem_gone(snapshot: &SpaceSnapshot) -> Vec<(MachineName, CloudId)> {
    let suspect = snapshot.suspect_missing().is_some();
    let machines = snapshot.machines.iter().filter(|machine| {
        let is_over = machine.files.stopped.is_some();
        machine.vm().is_none() && !is_over && is_missed(machine, snapshot, suspect)
    });
    let mut machines: Vec<_> = machines.collect();
    machines.sort_by_key(|machine| machine.missed_scans);
    machines
        .into_iter()
        .filter_map(|machine| Some((machine.files.name.clone(), machine.files.id.clone()?)))
        .collect()
}
