//! Carrying out removals of what machines left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;

use super::create::public_key;
use super::userdata::UserDataError;
use super::{Actor, CONCURRENCY};
use crate::cloud::{CloudError, CloudErrorKind, Removal, Search};
use crate::config::SpaceConfig;
use crate::decide::leaks::Remove;
use crate::model::Seconds;

/// For so long removals are begun: the next pass waits for them, and the rest follows in the next look.
const HOLD: Seconds = Seconds::new(60);

/// What became of one removal.
#[derive(Debug)]
pub struct RemoveOutcome {
    /// What was to be removed, and since when nothing uses it.
    pub remove: Remove,
    /// How it went.
    pub result: Result<Removal, RemoveError>,
}

/// Why a thing was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The cloud refused or did not answer.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The daemon is stopping, the removals before have taken long, or the cloud has trouble with
    /// them.
    #[error("not tried")]
    NotTried,
}

/// The texts of all public keys that the space's machinetypes are given.
///
/// # Errors
/// When one of them cannot be read: then it is not known which keys are in use.
pub async fn public_keys(config: &SpaceConfig) -> Result<Vec<String>, UserDataError> {
    let mut keys = Vec::new();
    for machinetype in config.machinetypes.values() {
        keys.extend(public_key(machinetype).await?);
    }
    Ok(keys)
}

/// Carries out all removals, some at once. One that is refused does not stop the others; one that
/// gets no answer does, because nothing is in a hurry.
pub async fn remove_all(
    actor: &Actor,
    search: &Search,
    removals: Vec<Remove>,
) -> Vec<RemoveOutcome> {
    let trouble = AtomicBool::new(false);
    let began = actor.clock.lap();
    futures_util::stream::iter(removals)
        .map(|remove| async {
            let late = actor.clock.passed(&began) > HOLD;
            let result = if late || actor.stop.is_cancelled() || trouble.load(Ordering::Relaxed) {
                Err(RemoveError::NotTried)
            } else {
                let result = actor.cloud.remove(search, &remove.leftover).await;
                if result.as_ref().is_err_and(is_trouble) {
                    trouble.store(true, Ordering::Relaxed);
                }
                result.map_err(RemoveError::Cloud)
            };
            RemoveOutcome { remove, result }
        })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await
}

/// Whether the next removal would meet the same.
const fn is_trouble(error: &CloudError) -> bool {
    match error.kind {
        CloudErrorKind::RateLimited { .. }
        | CloudErrorKind::Transient
        | CloudErrorKind::Ambiguous => true,
        CloudErrorKind::NotFound
        | CloudErrorKind::Quota
        | CloudErrorKind::Capacity
        | CloudErrorKind::Auth
        | CloudErrorKind::Rejected => false,
    }
}
