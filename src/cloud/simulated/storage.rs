//! The file of the embedded cloud, `STATE/simulated/SPACE.json`: its servers and key pairs, so
//! that a restart of the daemon finds the same VMs.
//!
//! One task writes it, after each change, whole and in one step. Changes that come while it
//! writes share the next write. A region that has been stopped writes no more once the next one has
//! read the file: a write that is under way is waited for, and one that comes later is left out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::cloud::http::text;
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::SpaceName;
use crate::state::disk::{self, Disk};

use super::project::Kept;
use super::region::Region;

/// A larger file is none of ours: this is room for some 50,000 servers.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Where the file is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: PathBuf,
    tmp: PathBuf,
}

impl Place {
    pub(super) fn new(state_dir: &Path, space: &SpaceName) -> Self {
        let file = format!("{space}.json");
        Self {
            file: state_dir.join("simulated").join(file),
            tmp: state_dir.join("tmp"),
        }
    }

    /// Reads the file when nobody is writing it, for a region that goes on from there. Whoever
    /// wrote it before has to be stopped by then.
    pub(super) async fn take_over(&self) -> Result<Kept, CloudError> {
        let place = self.clone();
        blocking::run(move || {
            let _alone = place.alone().map_err(|error| {
                CloudError::new(
                    CloudErrorKind::Transient,
                    format!("lock the directory of {}", place.file.display()),
                    error.to_string(),
                )
            })?;
            place.read()
        })
        .await
    }

    /// Reads the file; without one there is nothing yet.
    pub(super) fn read(&self) -> Result<Kept, CloudError> {
        let kept = match std::fs::metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => Err(error),
            Ok(found) if found.len() > MAX_BYTES => Err(io::Error::other("it is too large")),
            // Opening a named pipe would wait for its writer.
            Ok(found) if !found.is_file() => Err(io::Error::other("it is not a file")),
            Ok(_) => std::fs::read(&self.file),
        };
        kept.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(|error| {
                // It has in it what stands in the file.
                let why = text::one_line(&error.to_string());
                CloudError::new(
                    CloudErrorKind::Rejected,
                    format!("read {}", self.file.display()),
                    format!("{why}; remove the file to begin with an empty simulated cloud"),
                )
            })
    }

    /// Makes the directories that the file needs.
    pub(super) fn prepare(&self) -> Result<(), CloudError> {
        let parents = [self.file.parent(), Some(self.tmp.as_path())];
        for parent in parents.into_iter().flatten() {
            Disk::default().create_dir_all(parent).map_err(|error| {
                CloudError::new(
                    CloudErrorKind::Transient,
                    format!("create {}", parent.display()),
                    error.to_string(),
                )
            })?;
        }
        Ok(())
    }

    /// Waits until nobody else writes the file, or reads it to go on from there; until the result is
    /// dropped.
    fn alone(&self) -> io::Result<std::fs::File> {
        let none = || io::Error::other("the file has no directory");
        let directory = std::fs::File::open(self.file.parent().ok_or_else(none)?)?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
        Ok(directory)
    }

    fn write(&self, bytes: &[u8], stop: &CancellationToken) -> io::Result<()> {
        let _alone = self.alone()?;
        if stop.is_cancelled() {
            return Ok(());
        }
        Disk::default().write(&self.tmp, &self.file, bytes, disk::PRIVATE)
    }
}

/// Knows how much of what has happened is on disk.
#[derive(Debug)]
pub(super) struct Written {
    changes: watch::Receiver<u64>,
    /// The last change that the writer has dealt with.
    done: watch::Receiver<u64>,
}

impl Written {
    /// Waits until the writer has dealt with all changes that have been made so far. A write that
    /// failed counts: it is logged, and the next change tries again.
    pub(super) async fn wait_for_all_changes(&self) {
        let made = *self.changes.borrow();
        let mut done = self.done.clone();
        // An error means that the writer has been stopped, and this process with it.
        drop(done.wait_for(|done| *done >= made).await);
    }
}

/// The task that keeps the file in step with the region until the stop, and who can wait for it.
pub(super) fn writer(
    region: Arc<Region>,
    place: Place,
    stop: CancellationToken,
) -> (Written, impl Future<Output = ()>) {
    let (done, watch_done) = watch::channel(0);
    let changes = region.changes();
    let written = Written {
        changes: changes.clone(),
        done: watch_done,
    };
    let writing = keep_in_step(region, place, changes, done, stop.clone());
    let writing = async move {
        stop.run_until_cancelled(writing).await;
    };
    (written, writing)
}

async fn keep_in_step(
    region: Arc<Region>,
    place: Place,
    mut changes: watch::Receiver<u64>,
    done: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let mut failing = false;
    while changes.changed().await.is_ok() {
        let change = *changes.borrow_and_update();
        let result = write(&region, &place, &stop).await;
        match &result {
            Err(error) if !failing => {
                tracing::warn!(
                    file = %place.file.display(), %error,
                    "cannot write the state of the simulated cloud; a restart would not know its \
                     newest VMs; each change tries again"
                );
            }
            Err(_) => {}
            Ok(()) if failing => {
                tracing::info!(file = %place.file.display(), "the simulated cloud is on disk again");
            }
            Ok(()) => {}
        }
        failing = result.is_err();
        done.send_replace(change);
    }
}

async fn write(region: &Arc<Region>, place: &Place, stop: &CancellationToken) -> io::Result<()> {
    let bytes = region.read(|project| serde_json::to_vec(project.kept()))?;
    let (place, stop) = (place.clone(), stop.clone());
    blocking::run(move || place.write(&bytes, &stop)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stopped_cloud_writes_nothing_over_what_the_next_one_has_read() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), &SpaceName::new("a.example.org").unwrap());
        place.prepare().unwrap();
        let old = serde_json::to_vec(&Kept::default()).unwrap();
        let stop = CancellationToken::new();
        // A write that has begun is waited for.
        let writing = place.alone().unwrap();
        let reading = place.take_over();
        tokio::pin!(reading);
        assert!(futures_util::poll!(&mut reading).is_pending());
        drop(writing);
        reading.await.unwrap();
        place.write(&old, &stop).unwrap();
        assert_eq!(std::fs::read(&place.file).unwrap(), old);
        // One that comes after the stop is left out.
        stop.cancel();
        place.write(b"late", &stop).unwrap();
        assert_eq!(std::fs::read(&place.file).unwrap(), old);
    }
}
