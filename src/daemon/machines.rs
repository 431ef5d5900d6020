//! The machines of a space as the daemon shows them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::SpaceConfig;
use crate::model::{
    CloudId, Ended, Heartbeat, Machine, MachineFiles, MachineName, MachineState, MachinetypeName,
    Processors, ShutdownMessage, SpaceSnapshot, Timestamp,
};

/// One machine after the latest pass that came so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: MachineName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// How far it is.
    pub phase: Phase,
    /// Its state in the cloud's own words, if it is listed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The cloud's identifier, once it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CloudId>,
    /// Its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The zone that it runs in, or was asked for in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<Processors>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Timestamp>,
    /// When its deletion was last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// Why we destroyed it, as far as later decisions depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// The moment that it was told to be down by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdowntime: Option<Timestamp>,
    /// Its last heartbeat, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Timestamp>,
    /// Whether its machinetype has a heartbeat_file.
    #[serde(default)]
    pub heartbeat_expected: bool,
    /// Its shutdown message, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<ShutdownMessage>,
    /// Why it failed, in the cloud's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// How far a machine is: the state of its VM, or what is known when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Asked for, not yet running.
    Starting,
    /// Running.
    Running,
    /// Its VM has stopped; its end has not been written down yet.
    Shutdown,
    /// The cloud is removing it.
    Deleting,
    /// The cloud gave up on it.
    Failed,
    /// Something else (rebooting, resizing, ...).
    Unknown,
    /// The latest scan did not list it; the next ones decide.
    Unlisted,
    /// Its end has been written down.
    Ended,
}

impl Phase {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Running,
        Self::Shutdown,
        Self::Deleting,
        Self::Failed,
        Self::Unknown,
        Self::Unlisted,
        Self::Ended,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // So that a column of them can be padded.
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Unlisted => "unlisted",
            Self::Ended => "ended",
        })
    }
}

/// How many machines there are, by machinetype and state. A hundred thousand take milliseconds.
pub fn count(machines: &[MachineStatus]) -> BTreeMap<&MachinetypeName, BTreeMap<Phase, u32>> {
    let mut counts: BTreeMap<&MachinetypeName, BTreeMap<Phase, u32>> = BTreeMap::new();
    for machine in machines {
        let of_kind = counts.entry(&machine.machinetype).or_default();
        *of_kind.entry(machine.phase).or_default() += 1;
    }
    counts
}

/// What the machines of one space left as their shutdown messages, as far as it was looked at.
pub type Messages = BTreeMap<MachineName, Option<ShutdownMessage>>;

/// The machines with these directories, joined with the latest scan if there was one. Machines that
/// were made after the scan are only asked for; without a scan it is what the directories say.
pub fn machine_statuses<'a>(
    machines: impl IntoIterator<Item = &'a MachineFiles>,
    snapshot: Option<&SpaceSnapshot>,
    messages: &Messages,
    config: Option<&SpaceConfig>,
) -> Vec<MachineStatus> {
    let scanned = snapshot.map_or(&[][..], |snapshot| &snapshot.machines);
    let scanned: BTreeMap<&MachineName, &Machine> = scanned
        .iter()
        .map(|machine| (&machine.files.name, machine))
        .collect();
    let each = machines.into_iter().map(|files| {
        let message = messages.get(&files.name).cloned().flatten();
        one(files, scanned.get(&files.name).copied(), message, config)
    });
    each.collect()
}

fn one(
    files: &MachineFiles,
    scanned: Option<&Machine>,
    message: Option<ShutdownMessage>,
    config: Option<&SpaceConfig>,
) -> MachineStatus {
    let vm = scanned.and_then(Machine::vm);
    let configured = config.and_then(|config| config.machinetypes.get(&files.machinetype));
    let phase = phase(files, scanned);
    let heartbeat = match scanned.map(|machine| machine.heartbeat) {
        Some(Heartbeat::At(at)) => Some(at),
        Some(Heartbeat::Missing | Heartbeat::Unknown) | None => None,
    };
    MachineStatus {
        name: files.name.clone(),
        machinetype: files.machinetype.clone(),
        phase,
        status: vm.map_or_else(String::new, |vm| vm.status.clone()),
        id: files.id.clone(),
        address: vm.and_then(|vm| vm.address.clone()),
        zone: files.zone.clone(),
        processors: vm.and_then(|vm| vm.processors).or(files.processors),
        created: files.created,
        started: files.began(),
        stopped: files.stopped,
        deleted: files.deleted,
        ended: files.ended,
        shutdowntime: files.shutdowntime,
        heartbeat: heartbeat.filter(|_| phase != Phase::Ended),
        heartbeat_expected: configured.is_some_and(|known| known.heartbeat_file.is_some()),
        message,
        fault: vm.and_then(|vm| vm.fault.clone()),
    }
}

fn phase(files: &MachineFiles, scanned: Option<&Machine>) -> Phase {
    if files.stopped.is_some() {
        return Phase::Ended;
    }
    let by_files = if files.started.is_some() {
        Phase::Running
    } else {
        Phase::Starting
    };
    let Some(machine) = scanned else {
        return by_files;
    };
    match machine.vm().map(|vm| vm.state) {
        // One that has run is not starting again: see `decide`.
        Some(MachineState::Starting) => by_files,
        // What was asked for after the scan the cloud has agreed to.
        Some(MachineState::Running) if files.deleted != machine.files.deleted => Phase::Deleting,
        Some(MachineState::Running) => Phase::Running,
        Some(MachineState::Shutdown) => Phase::Shutdown,
        Some(MachineState::Deleting) => Phase::Deleting,
        Some(MachineState::Failed) => Phase::Failed,
        Some(MachineState::Unknown) => Phase::Unknown,
        None if files.id.is_none() => Phase::Starting,
        None => Phase::Unlisted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    const NAME: &str = "vcycle-a-aaaaaaaaaa";

    fn phase_of(change: impl FnOnce(&mut Machine)) -> Phase {
        let mut machine = testing::machine(NAME, MachineState::Running, 1000);
        change(&mut machine);
        let snapshot = testing::snapshot(vec![machine.clone()]);
        let all = machine_statuses([&machine.files], Some(&snapshot), &Messages::new(), None);
        all[0].phase
    }

    #[test]
    fn a_phase_says_what_is_known_best() {
        assert_eq!(phase_of(|_| {}), Phase::Running);
        // ACTIVE without power for a moment.
        let starting = |machine: &mut Machine| machine.listed[0].state = MachineState::Starting;
        assert_eq!(phase_of(starting), Phase::Running);
        let never = |machine: &mut Machine| {
            machine.files.started = None;
            machine.listed[0].state = MachineState::Starting;
        };
        assert_eq!(phase_of(never), Phase::Starting);
        assert_eq!(phase_of(|machine| machine.listed.clear()), Phase::Unlisted);
        let asked = |machine: &mut Machine| {
            machine.files.id = None;
            machine.listed.clear();
        };
        assert_eq!(phase_of(asked), Phase::Starting);
        let over = |machine: &mut Machine| {
            machine.files.stopped = Some(Timestamp::from_unix(2000));
            machine.listed[0].state = MachineState::Deleting;
        };
        assert_eq!(phase_of(over), Phase::Ended);
    }

    #[test]
    fn a_machine_destroyed_after_the_scan_is_being_deleted_until_a_scan_knows_better() {
        let machine = testing::machine(NAME, MachineState::Running, 1000);
        let mut files = machine.files.clone();
        files.deleted = Some(Timestamp::from_unix(2000));
        let shown = |scanned: Machine| {
            let snapshot = testing::snapshot(vec![scanned]);
            machine_statuses([&files], Some(&snapshot), &Messages::new(), None)[0].phase
        };
        assert_eq!(shown(machine.clone()), Phase::Deleting);
        let mut ignored = machine;
        ignored.files.deleted = files.deleted;
        assert_eq!(shown(ignored), Phase::Running);
    }

    #[test]
    fn a_machine_made_after_the_scan_is_shown_by_its_files() {
        let files = testing::files(NAME, 1000);
        let snapshot = testing::snapshot(Vec::new());
        let messages = Messages::from([(
            files.name.clone(),
            Some(ShutdownMessage::parse("300 Nothing to do")),
        )]);
        let all = machine_statuses([&files], Some(&snapshot), &messages, None);
        assert_eq!(all[0].phase, Phase::Starting);
        let said = all[0].message.as_ref().map(ShutdownMessage::text);
        assert_eq!(said, Some("300 Nothing to do"));
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(
            serde_json::from_str::<Vec<MachineStatus>>(&text).unwrap(),
            all
        );
    }
}
