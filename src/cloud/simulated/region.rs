//! What the parts of the embedded cloud share: the project, who may talk to it, and the clock.
//!
//! Nobody holds the project's lock while waiting for anything.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::model::Seconds;

use super::identity::Access;
use super::project::Project;

/// One space's cloud.
#[derive(Debug)]
pub(super) struct Region {
    /// Address of the HTTP server, without a slash at the end.
    pub base: String,
    pub clock: Clock,
    pub access: Access,
    /// Whether it only answers what there is.
    pub read_only: bool,
    project: Mutex<Project>,
    /// Counts the changes, so that the file can follow them.
    changes: watch::Sender<u64>,
}

impl Region {
    pub(super) fn new(
        base: String,
        clock: Clock,
        access: Access,
        project: Project,
        read_only: bool,
    ) -> Self {
        Self {
            base,
            clock,
            access,
            read_only,
            project: Mutex::new(project),
            changes: watch::Sender::new(0),
        }
    }

    /// Looks at the project.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Project) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the project. Those who wait in [`Region::changes`] hear of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Project) -> T) -> T {
        let result = change(&mut self.lock());
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    /// About so many seconds, each time a little different. This is no change to remember.
    pub(super) fn vary(&self, seconds: Seconds) -> Seconds {
        self.lock().vary(seconds)
    }

    /// The number of changes so far, and how to wait for more.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A change under the lock is complete or has not begun, so that a lock that a panic left
    /// behind guards a valid project.
    fn lock(&self) -> MutexGuard<'_, Project> {
        self.project.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
