//! Marking machines that were made without marks.
//!
//! Most clouds take the metadata in the request that makes a machine. Where they do not, a crash
//! right after that request would leave the machine without; what it lacks is set in the next cycle.

use futures_util::StreamExt;

use super::create::metadata;
use super::{Actor, CONCURRENCY};
use crate::cloud::CloudError;
use crate::model::{CloudId, Machine, MachineFiles, MachineName, MachineState, SpaceSnapshot};

/// Marks the machines of a listing that live and bear no marks. Gives the first error, which is
/// no reason to stop.
pub async fn mark_all(
    actor: &Actor,
    snapshot: &SpaceSnapshot,
) -> Option<(MachineName, CloudError)> {
    let unmarked: Vec<_> = snapshot.machines.iter().filter_map(unmarked).collect();
    let marking = futures_util::stream::iter(unmarked)
        .map(|(files, id)| mark(actor, files, id))
        .buffer_unordered(CONCURRENCY);
    let outcomes: Vec<_> = marking.collect().await;
    let errors = outcomes.into_iter().flatten();
    errors.min_by(|(a, _), (b, _)| a.cmp(b))
}

fn unmarked(machine: &Machine) -> Option<(MachineFiles, CloudId)> {
    let vm = machine.vm().filter(|vm| vm.marks.is_none())?;
    let lives = matches!(vm.state, MachineState::Starting | MachineState::Running);
    let lacks = lives && machine.files.finished.is_none();
    lacks.then(|| (machine.files.clone(), vm.id.clone()))
}

async fn mark(
    actor: &Actor,
    files: MachineFiles,
    id: CloudId,
) -> Option<(MachineName, CloudError)> {
    // Without its machinetype it is not known what it was told; it is known by its identifier.
    let machinetype = actor.config.machinetypes.get(&files.machinetype)?;
    let metadata = metadata(actor, machinetype, &files.name);
    let marked = actor.cloud.mark(&id, &metadata).await;
    marked.err().map(|error| (files.name, error))
}
