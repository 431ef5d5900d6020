//! Carrying out deletes.

use futures_util::StreamExt;

use super::{Actor, CONCURRENCY};
use crate::cloud::{CloudError, Deletion};
use crate::decide::{Delete, Reason};
use crate::model::{MachineName, Seconds, Timestamp};
use crate::state::{StateError, TimeFile};

/// What became of one delete.
#[derive(Debug)]
pub struct DeleteOutcome {
    /// Which machine.
    pub machine: MachineName,
    /// Why.
    pub reason: Reason,
    /// When it was tried; `None` when it was not, and `deleted` was not written.
    pub tried: Option<Timestamp>,
    /// How it went.
    pub result: Result<Deletion, DeleteError>,
}

/// Why a machine was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The cloud refused or did not answer.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// What has to be on disk first could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The daemon is stopping.
    #[error("not tried, because the daemon is stopping")]
    Stopping,
    /// It was decided so long ago that the machine can be another.
    #[error("it was decided too long ago; the next cycle decides anew")]
    Late,
    /// The reason no longer holds.
    #[error("the machine has written its heartbeat since")]
    Withdrawn,
}

/// Carries out all deletes, some at once. One that fails does not stop the others.
pub async fn delete_all(actor: &Actor, deletes: Vec<Delete>) -> Vec<DeleteOutcome> {
    futures_util::stream::iter(deletes)
        .map(|delete| delete_one(actor, delete))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await
}

async fn delete_one(actor: &Actor, delete: Delete) -> DeleteOutcome {
    let mut tried = None;
    let result = try_delete(actor, &delete, &mut tried).await;
    DeleteOutcome {
        machine: delete.machine,
        reason: delete.reason,
        tried,
        result,
    }
}

async fn try_delete(
    actor: &Actor,
    delete: &Delete,
    tried: &mut Option<Timestamp>,
) -> Result<Deletion, DeleteError> {
    if actor.stop.is_cancelled() {
        return Err(DeleteError::Stopping);
    }
    if actor.is_late(Seconds::new(actor.hold.get() / 2)) {
        return Err(DeleteError::Late);
    }
    // The files of a machine speak of the VM that is kept, not of its duplicate.
    if delete.reason != Reason::Duplicate {
        if heartbeat_came(actor, delete).await? {
            return Err(DeleteError::Withdrawn);
        }
        let now = actor.clock.now();
        let (name, reason, message) = (delete.machine.clone(), delete.reason, delete.message);
        actor
            .on_disk(move |store| {
                if let Some(message) = message {
                    store.leave_shutdown_message(&name, message)?;
                    store.set_ended(&name, reason.ended())?;
                }
                store.set_time(&name, TimeFile::Deleted, now)
            })
            .await?;
        *tried = Some(now);
    }
    Ok(actor.cloud.delete(&delete.id).await?)
}

/// Looks again whether a machine that is to be destroyed for its silence has spoken since the
/// decision, which can be a whole listing ago.
async fn heartbeat_came(actor: &Actor, delete: &Delete) -> Result<bool, StateError> {
    if !matches!(
        delete.reason,
        Reason::HeartbeatMissing { .. } | Reason::HeartbeatOld { .. }
    ) {
        return Ok(false);
    }
    let name = delete.machine.clone();
    let Some((file, limit)) =
        actor
            .config
            .machinetypes
            .get(&delete.machinetype)
            .and_then(|configured| {
                let file = configured.heartbeat_file.clone()?;
                Some((file, configured.heartbeat))
            })
    else {
        return Ok(false);
    };
    let found = actor
        .on_disk(move |store| store.heartbeat(&name, &file))
        .await?;
    let now = actor.clock.now();
    Ok(match (delete.reason, found) {
        (_, None) => false,
        (Reason::HeartbeatOld { .. }, Some(time)) => now.since(time) <= limit,
        (_, Some(_)) => true,
    })
}
