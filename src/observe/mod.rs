//! From what the cloud lists and what the directories say to one [`SpaceSnapshot`].
//!
//! This is the one place that decides which VM is ours. It changes nothing. Invariants:
//!
//! 1. A VM is ours when its identifier or name is on file for this space, or when its marks say
//!    that this factory made it for this space; one that is listed with neither is looked into when
//!    an answer was lost ([`recognise`]). Everything else is foreign.
//! 2. The join is pure; only [`look_at_files`] reads the disk, and what cannot be read there is
//!    unknown, never missing.

mod memory;
mod recognise;
mod situation;

use std::collections::{BTreeMap, BTreeSet};

pub use memory::{Memory, Volatile};
pub use recognise::{nameless, recognise};
pub use situation::{Situation, SituationError};

use crate::config::SpaceConfig;
use crate::model::{
    CloudFacts, CloudId, CloudMachine, FactoryName, Heartbeat, Machine, MachineFiles, MachineName,
    MachineState, Processors, SpaceName, SpaceSnapshot,
};
use crate::state::{Store, Unread};

/// Joins one complete listing with what is remembered of the space.
pub fn join(
    space: &SpaceName,
    factory: &FactoryName,
    facts: CloudFacts,
    listing: Vec<CloudMachine>,
    memory: &Memory,
) -> SpaceSnapshot {
    let by_id: BTreeMap<_, _> = memory
        .machines
        .values()
        .filter_map(|files| files.id.as_ref().map(|id| (id, &files.name)))
        .collect();
    let mut listed: BTreeMap<&MachineName, Vec<CloudMachine>> = BTreeMap::new();
    let mut snapshot = SpaceSnapshot {
        facts,
        history: memory.history.clone(),
        exhausted: memory.exhausted.clone(),
        previous_scan: memory.previous_scan,
        listening_since: memory.taken_over,
        ..SpaceSnapshot::default()
    };
    for vm in listing {
        match owner(space, factory, &vm, &by_id, memory) {
            Owner::Filed(name) => listed.entry(name).or_default().push(vm),
            Owner::Unfiled => snapshot.unfiled.push(vm),
            Owner::Foreign => snapshot.add_foreign(vm),
        }
    }
    for (name, vms) in &mut listed {
        let is_known = memory
            .machines
            .get(name)
            .is_some_and(|files| files.id.is_some());
        if !is_known && vms.iter().any(|vm| vm.marks.is_some()) {
            // What has our name and lacks our marks beside the VM that we asked for is a copy of it.
            let copies = vms.extract_if(.., |vm| vm.marks.is_none());
            copies.for_each(|copy| snapshot.add_foreign(copy));
        }
    }
    snapshot.machines = memory
        .machines
        .values()
        .map(|files| {
            let volatile = memory.volatile.get(&files.name);
            let listed = listed.remove(&files.name).unwrap_or_default();
            let mut machine = Machine {
                missed_scans: 0,
                unconfirmed: false,
                first_running: volatile.and_then(|known| known.first_running),
                last_running: volatile.and_then(|known| known.last_running),
                heard_since: volatile.and_then(|known| known.heard_since),
                delete_tries: volatile.map_or(0, |known| known.delete_tries),
                heartbeat: Heartbeat::Unknown,
                shutdown_message: None,
                awaits_message: false,
                listed,
                files: files.clone(),
            };
            if machine.vm().is_none() {
                machine.missed_scans =
                    volatile.map_or(1, |known| known.missed_scans.saturating_add(1));
            }
            machine
        })
        .collect();
    snapshot.empty_scans = if snapshot.lists_none_of_ours() {
        memory.empty_scans.saturating_add(1)
    } else {
        0
    };
    snapshot
}

enum Owner<'a> {
    Filed(&'a MachineName),
    Unfiled,
    Foreign,
}

fn owner<'a>(
    space: &SpaceName,
    factory: &FactoryName,
    vm: &CloudMachine,
    by_id: &BTreeMap<&CloudId, &'a MachineName>,
    memory: &'a Memory,
) -> Owner<'a> {
    // The identifier comes first: whoever renamed our VM did not make it another's.
    if let Some(name) = by_id.get(&vm.id) {
        return Owner::Filed(name);
    }
    let Some(name) = vm.machine_name() else {
        return Owner::Foreign;
    };
    let filed = memory.machines.get(&name);
    // The factory may have been renamed since it asked for the machine and lost the answer.
    let is_us = |manager: &str| {
        let before = filed.and_then(|files| files.manager.as_ref());
        manager == factory.as_str() || before.is_some_and(|before| before.as_str() == manager)
    };
    let ours_by_marks = vm
        .marks
        .as_ref()
        .map(|marks| marks.space == space.as_str() && is_us(&marks.manager));
    match (filed, ours_by_marks) {
        // Marks of somebody else on a name of ours: not the VM that we asked for.
        (_, Some(false)) | (None, None) => Owner::Foreign,
        // No marks at all: once the VM that we asked for is known, this is a copy that somebody made.
        (Some(files), None) if files.id.is_some() => Owner::Foreign,
        (Some(files), Some(true) | None) => Owner::Filed(&files.name),
        (None, Some(true)) => Owner::Unfiled,
    }
}

/// What could not be found in the machines' directories.
#[derive(Debug, Default)]
pub struct Looked {
    /// What could not be looked at.
    pub unread: Vec<Unread>,
    /// Machines that run, and whose directories somebody has removed.
    pub lost: Vec<MachineName>,
}

/// Adds what only the machines' directories can tell at this moment: heartbeats of machines that
/// run, and shutdown messages of machines that have ended. What could not be looked at is
/// returned, not hidden: an unread heartbeat is [`Heartbeat::Unknown`], and whoever acts on the
/// snapshot must not take an unread message for none (see `record::hold_back`).
///
/// A machine that runs and whose directory is gone is no longer in the snapshot: its VM is one of ours
/// without a directory, as after the loss of the whole state.
pub fn look_at_files(
    store: &Store,
    config: &SpaceConfig,
    factory: &FactoryName,
    snapshot: &mut SpaceSnapshot,
) -> Looked {
    let mut looked = Looked::default();
    for machine in &mut snapshot.machines {
        let name = &machine.files.name;
        let state = machine.vm().map(|vm| vm.state);
        let beats = matches!(state, Some(MachineState::Running | MachineState::Starting));
        let file = heartbeat_file(config, &machine.files).filter(|_| beats);
        let heartbeat = file.map(|file| store.heartbeat(name, file));
        let is_there = matches!(heartbeat, Some(Ok(_)));
        let may_live = beats || state == Some(MachineState::Unknown);
        if may_live && !is_there && store.has_lost(name) {
            looked.lost.push(name.clone());
            continue;
        }
        let mut unread = |problem| {
            looked.unread.push(Unread {
                machine: name.clone(),
                problem,
            });
        };
        match heartbeat {
            Some(Ok(Some(time))) => machine.heartbeat = Heartbeat::At(time),
            Some(Ok(None)) => machine.heartbeat = Heartbeat::Missing,
            Some(Err(problem)) => unread(problem),
            None => {}
        }
        if !beats && machine.is_unsettled() {
            match store.shutdown_message(name) {
                Ok(message) => machine.shutdown_message = message,
                Err(problem) => unread(problem),
            }
        }
    }
    snapshot.let_go(&looked.lost, &config.name, factory);
    looked
}

/// The file in the machine's directory that is its heartbeat, if it has to write one there: with a
/// remote $JOBOUTPUTS the local directory says nothing.
fn heartbeat_file<'a>(config: &'a SpaceConfig, files: &MachineFiles) -> Option<&'a str> {
    config
        .machinetypes
        .get(&files.machinetype)
        .filter(|configured| configured.remote_joboutputs_url.is_none())
        .and_then(|configured| configured.heartbeat_file.as_deref())
}

impl SpaceSnapshot {
    /// Machines have no directories any more: what is listed of them is ours by its marks only.
    fn let_go(&mut self, lost: &[MachineName], space: &SpaceName, factory: &FactoryName) {
        if lost.is_empty() {
            return;
        }
        let lost: BTreeSet<_> = lost.iter().collect();
        let gone = self
            .machines
            .extract_if(.., |known| lost.contains(&known.files.name));
        for vm in gone.flat_map(|machine| machine.listed).collect::<Vec<_>>() {
            let is_ours = vm.marks.as_ref().is_some_and(|marks| {
                marks.space == space.as_str() && marks.manager == factory.as_str()
            });
            if is_ours && vm.machine_name().is_some() {
                self.unfiled.push(vm);
            } else {
                self.add_foreign(vm);
            }
        }
    }

    fn add_foreign(&mut self, vm: CloudMachine) {
        self.foreign_machines = self.foreign_machines.saturating_add(1);
        self.foreign_processors =
            self.foreign_processors + vm.processors.unwrap_or(Processors::ONE);
        self.foreign.push(vm);
    }

    /// Whether none of our machines that the cloud has acknowledged is listed.
    fn lists_none_of_ours(&self) -> bool {
        let listed = self
            .machines
            .iter()
            .any(|machine| !machine.listed.is_empty());
        let expected = self
            .machines
            .iter()
            .any(|machine| machine.files.id.is_some() && machine.files.stopped.is_none());
        expected && !listed && self.unfiled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;
    use crate::model::{Marks, Timestamp};

    const NAME: &str = "vcycle-a-aaaaaaaaaa";

    /// A VM whose marks say that `manager` made it as [`NAME`].
    fn marked(manager: &str) -> CloudMachine {
        let mut vm = testing::listed(NAME, MachineState::Running);
        vm.marks = Some(Marks {
            space: "example.org".to_owned(),
            manager: manager.to_owned(),
            machinetype: None,
            name: Some(NAME.to_owned()),
        });
        vm
    }

    /// How many VMs of a listing of one are filed, unfiled and foreign, when the directory says
    /// that `manager` made the machine.
    fn owners(manager: Option<&str>, vm: CloudMachine) -> (usize, usize, usize) {
        let mut memory = Memory::default();
        if let Some(manager) = manager {
            let mut files = testing::files(NAME, 1000);
            files.manager = Some(FactoryName::new(manager).unwrap());
            memory.machines.insert(files.name.clone(), files);
        }
        let space = SpaceName::new("example.org").unwrap();
        let now_called = FactoryName::new("new.example.org").unwrap();
        let facts = CloudFacts::default();
        let snapshot = join(&space, &now_called, facts, vec![vm], &memory);
        let filed = snapshot.machines.iter().map(|machine| machine.listed.len());
        (filed.sum(), snapshot.unfiled.len(), snapshot.foreign.len())
    }

    #[test]
    fn a_machine_whose_directory_was_removed_is_not_silent_and_its_vm_is_ours_by_its_marks() {
        let names = ["a", "b", "c"].map(|end| format!("vcycle-a-{}", end.repeat(10)));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut config = testing::space("");
        let machinetype = testing::machinetype("a", "heartbeat_file=beat");
        config.machinetypes = BTreeMap::from([(machinetype.name.clone(), machinetype)]);
        let factory = FactoryName::new("factory.example.org").unwrap();
        let mut snapshot = SpaceSnapshot::default();
        for name in &names {
            let mut machine = testing::machine(name, MachineState::Running, 1000);
            machine.listed[0].marks = Some(Marks {
                space: config.name.to_string(),
                manager: factory.to_string(),
                machinetype: None,
                name: Some(name.clone()),
            });
            snapshot.machines.push(machine);
        }
        snapshot.machines[1].listed[0].marks = None;
        // As one that is being resized.
        snapshot.machines[0].listed[0].state = MachineState::Unknown;
        let outputs = store.layout().machine(&snapshot.machines[2].files.name);
        let disk = store.layout().disk();
        disk.create_dir_all(&outputs.join("joboutputs")).unwrap();
        let looked = look_at_files(&store, &config, &factory, &mut snapshot);
        assert_eq!(looked.lost.len(), 2);
        assert!(looked.unread.is_empty());
        assert_eq!((snapshot.unfiled.len(), snapshot.foreign.len()), (1, 1));
        let [kept] = snapshot.machines.as_slice() else {
            panic!("{snapshot:?}");
        };
        assert_eq!(kept.heartbeat, Heartbeat::Missing);
        // Without a place to write to, or without all directories, it is not silent either.
        for gone in [outputs.join("joboutputs"), store.layout().machines()] {
            std::fs::remove_dir_all(gone).unwrap();
            let looked = look_at_files(&store, &config, &factory, &mut snapshot);
            assert_eq!((looked.lost.len(), looked.unread.len()), (0, 1));
            snapshot.machines[0].heartbeat = Heartbeat::Unknown;
        }
    }

    #[test]
    fn what_a_machine_said_is_read_also_when_it_is_first_listed_after_it_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = testing::space("");
        let factory = FactoryName::new("factory.example.org").unwrap();
        let mut machine = testing::machine(NAME, MachineState::Shutdown, 1000);
        machine.files.id = None;
        machine.files.finished = Some(Timestamp::from_unix(2000));
        let place = store.layout().machine(&machine.files.name);
        let disk = store.layout().disk();
        disk.create_dir_all(&place.join("joboutputs")).unwrap();
        let name = machine.files.name.clone();
        store.leave_shutdown_message(&name, "300 No work").unwrap();
        let mut snapshot = testing::snapshot(vec![machine]);
        let mut said = |listed: bool| {
            let machine = &mut snapshot.machines[0];
            machine.shutdown_message = None;
            if !listed {
                machine.listed.clear();
            }
            look_at_files(&store, &config, &factory, &mut snapshot);
            snapshot.machines[0].shutdown_message.is_some()
        };
        assert!(said(true));
        assert!(!said(false));
    }

    #[test]
    fn a_renamed_factory_knows_the_machine_whose_answer_it_lost() {
        let (old, new) = ("old.example.org", "new.example.org");
        assert_eq!(owners(Some(old), marked(old)), (1, 0, 0));
        assert_eq!(owners(Some(old), marked(new)), (1, 0, 0));
        assert_eq!(owners(Some(old), marked("other")), (0, 0, 1));
        assert_eq!(owners(None, marked(new)), (0, 1, 0));
        assert_eq!(owners(None, marked(old)), (0, 0, 1));
    }

    #[test]
    fn a_copy_of_our_vm_without_our_marks_is_not_ours() {
        let mut memory = Memory::default();
        let mut files = testing::files(NAME, 1000);
        let mut copy = testing::listed(NAME, MachineState::Running);
        copy.id = CloudId::new("copy");
        let space = SpaceName::new("example.org").unwrap();
        let factory = FactoryName::new("factory.example.org").unwrap();
        // As long as the answer is lost it may be the VM that was asked for.
        for (id, foreign) in [(None, 0), (Some(CloudId::new("other")), 1)] {
            files.id = id;
            memory.machines.insert(files.name.clone(), files.clone());
            let facts = CloudFacts::default();
            let snapshot = join(&space, &factory, facts, vec![copy.clone()], &memory);
            assert_eq!(snapshot.foreign.len(), foreign);
            assert_eq!(snapshot.machines[0].listed.len(), 1 - foreign);
            // Beside one with our marks it is not.
            let both = vec![copy.clone(), marked("factory.example.org")];
            let facts = CloudFacts::default();
            let snapshot = join(&space, &factory, facts, both, &memory);
            assert_eq!(
                (snapshot.foreign.len(), snapshot.machines[0].listed.len()),
                (1, 1)
            );
        }
    }

    #[test]
    fn a_suspect_scan_says_nothing_of_how_long_a_machine_has_been_missing() {
        let names = ["a", "b", "c"].map(|end| format!("vcycle-a-{}", end.repeat(10)));
        let vms = names
            .each_ref()
            .map(|name| testing::listed(name, MachineState::Running));
        let machines = names
            .each_ref()
            .map(|name| testing::machine(name, MachineState::Running, 1000));
        let mut memory = Memory::of(machines.map(|machine| machine.files));
        let space = SpaceName::new("example.org").unwrap();
        let factory = FactoryName::new("factory.example.org").unwrap();
        let mut scan = |listing: &[CloudMachine]| {
            let (facts, listing) = (CloudFacts::default(), listing.to_vec());
            let snapshot = join(&space, &factory, facts, listing, &memory);
            memory.note_scan(&snapshot, Timestamp::from_unix(5000));
            snapshot.machines[2].missed_scans
        };
        assert_eq!(scan(&vms), 0);
        for _ in 0..3 {
            scan(&[]);
        }
        assert_eq!(scan(&vms[..2]), 1);
        assert_eq!(scan(&vms[..2]), 2);
    }

    #[test]
    fn a_machine_whose_start_cannot_be_written_down_has_run_since_it_was_first_seen() {
        let name = "vcycle-a-aaaaaaaaaa";
        let mut machine = testing::machine(name, MachineState::Running, 1000);
        machine.files.started = None;
        let mut memory = Memory::of([machine.files]);
        let space = SpaceName::new("example.org").unwrap();
        let factory = FactoryName::new("factory.example.org").unwrap();
        let mut scan = |now: u64| {
            let listing = vec![testing::listed(name, MachineState::Running)];
            let snapshot = join(&space, &factory, CloudFacts::default(), listing, &memory);
            memory.note_scan(&snapshot, Timestamp::from_unix(now));
            let machine = &snapshot.machines[0];
            [machine.first_running, machine.last_running].map(|time| time.map(Timestamp::unix))
        };
        assert_eq!(scan(5000), [None, None]);
        assert_eq!(scan(5060), [Some(5000), Some(5000)]);
        assert_eq!(scan(5120), [Some(5000), Some(5060)]);
    }

    #[test]
    fn a_vm_renamed_before_its_identifier_was_known_is_still_ours() {
        let new = "new.example.org";
        for name in ["my-vm", "vcycle-b-bbbbbbbbbb"] {
            let mut vm = marked(new);
            name.clone_into(&mut vm.name);
            assert_eq!(owners(Some(new), vm.clone()), (1, 0, 0));
            assert_eq!(owners(None, vm), (0, 1, 0));
        }
        // A mark that is no name says nothing.
        let mut vm = marked(new);
        vm.marks.as_mut().unwrap().name = Some("../x".to_owned());
        assert_eq!(owners(Some(new), vm), (1, 0, 0));
    }
}
