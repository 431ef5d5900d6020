//! Machines that the cloud lists without name and marks, known again by their user_data.
//!
//! Where a machine can only be marked after it was made, and the cloud does not tell its client
//! token either, one whose answer was lost would be nobody's for ever. So VMs that could be it are
//! looked into: the name of a machine is drawn at random, and whose user_data has it in it was made
//! for that machine. (A user_data that does not name its machine tells nothing.)

use crate::model::{
    CloudId, Machine, MachineName, MachineState, Processors, Seconds, SpaceSnapshot,
};

/// The most VMs that are looked into in one pass.
const MAX_QUESTIONS: usize = 20;
/// How much earlier than its directory a machine may seem to be made, by the clock of the cloud.
const CLOCKS_APART: Seconds = Seconds::new(300);

/// A machine that was asked for, whose answer is lost, and that nothing listed bears the name of.
fn is_lost(machine: &Machine) -> bool {
    let files = &machine.files;
    files.id.is_none() && files.finished.is_none() && machine.listed.is_empty()
}

/// The VMs that could be machines whose answers are lost; mostly none.
pub fn nameless(snapshot: &SpaceSnapshot) -> Vec<CloudId> {
    let lost = snapshot.machines.iter().filter(|machine| is_lost(machine));
    let Some(since) = lost.map(|machine| machine.files.created).min() else {
        return Vec::new();
    };
    let could_be = snapshot.foreign.iter().filter(|vm| {
        let lives = matches!(vm.state, MachineState::Starting | MachineState::Running);
        let is_new = vm.created.is_none_or(|at| at + CLOCKS_APART >= since);
        lives && is_new && vm.name.is_empty() && vm.marks.is_none()
    });
    let ids = could_be.map(|vm| vm.id.clone());
    ids.take(MAX_QUESTIONS).collect()
}

/// Gives a VM that is nobody's to the one lost machine that its user_data names.
pub fn recognise(
    snapshot: &mut SpaceSnapshot,
    id: &CloudId,
    user_data: &[u8],
) -> Option<MachineName> {
    let text = String::from_utf8_lossy(user_data);
    let is_named = |machine: &&mut Machine| text.contains(machine.files.name.as_str());
    let lost = snapshot.machines.iter_mut().filter(|one| is_lost(one));
    let mut named = lost.filter(is_named);
    let (Some(machine), None) = (named.next(), named.next()) else {
        return None;
    };
    let at = snapshot.foreign.iter().position(|vm| vm.id == *id)?;
    let vm = snapshot.foreign.remove(at);
    let processors = vm.processors.unwrap_or(Processors::ONE);
    let left = snapshot.foreign_processors.get();
    snapshot.foreign_processors = Processors::new(left.saturating_sub(processors.get()));
    snapshot.foreign_machines = snapshot.foreign_machines.saturating_sub(1);
    machine.listed.push(vm);
    machine.missed_scans = 0;
    Some(machine.files.name.clone())
}
