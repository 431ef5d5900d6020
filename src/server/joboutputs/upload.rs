//! One upload: what the machine had when it began, the room that is kept for it, and the file that
//! grows.

use std::io;
use std::sync::Arc;

use http::StatusCode;

use super::{Joboutputs, MAX_FILES, lock};
use crate::model::MachineName;
use crate::server::files::{Directory, NotAFile};
use crate::server::path::FileName;
use crate::server::reply::Refusal;
use crate::state::disk::{Disk, NewFile};

/// What a machine had at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The size of its other files.
    pub(super) others: u64,
    /// The size of the file of this name.
    pub(super) old: Option<u64>,
    /// How many files had been placed by then.
    pub(super) placed: u64,
}

impl Look {
    /// Looks, and checks that there is room for one more file and that the name can be had.
    pub(super) fn at(directory: &Directory, name: &FileName, placed: u64) -> Result<Self, Refusal> {
        let disk = |error: io::Error| Refusal::disk(&error);
        let (mut others, mut count, mut old) = (0u64, 0, None);
        for (other, size) in directory.list().map_err(disk)? {
            if other == *name {
                old = Some(size);
            } else {
                others = others.saturating_add(size);
                count += 1;
            }
        }
        if old.is_none()
            && let Some(Err(NotAFile)) = directory.size_of(name).map_err(disk)?
        {
            return Err(Refusal::forbidden("the name belongs to something else"));
        }
        if count >= MAX_FILES {
            return Err(Refusal::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("a machine may have {MAX_FILES} files"),
            ));
        }
        Ok(Self {
            others,
            old,
            placed,
        })
    }
}

/// Room for one upload; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    pub(super) owner: Arc<Joboutputs>,
    pub(super) machine: MachineName,
    pub(super) look: Look,
    pub(super) bytes: u64,
}

impl Reservation {
    /// Whose it is.
    pub const fn machine(&self) -> &MachineName {
        &self.machine
    }

    /// What the machine had when the upload began.
    pub const fn look(&self) -> Look {
        self.look
    }

    /// Makes sure that there is room for `bytes` in all.
    ///
    /// # Errors
    /// 413 when one file may not be that long, 507 when the machine has no room left.
    pub fn cover(&mut self, bytes: u64) -> Result<(), Refusal> {
        let limits = self.owner.limits;
        if bytes > limits.file {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a file may have {} bytes", limits.file),
            ));
        }
        let more = bytes.saturating_sub(self.bytes);
        let mut pending = lock(&self.owner.pending);
        let entry = pending.entry(self.machine.clone()).or_default();
        let total = self
            .look
            .others
            .saturating_add(entry.bytes)
            .saturating_add(more);
        if total > limits.machine {
            return Err(self.owner.no_room());
        }
        entry.bytes = entry.bytes.saturating_add(more);
        self.bytes = self.bytes.saturating_add(more);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut pending = lock(&self.owner.pending);
        if let Some(entry) = pending.get_mut(&self.machine) {
            entry.uploads = entry.uploads.saturating_sub(1);
            entry.bytes = entry.bytes.saturating_sub(self.bytes);
            if entry.uploads == 0 {
                pending.remove(&self.machine);
            }
        }
    }
}

/// A file on its way. Dropped before it is placed, it is gone.
#[derive(Debug)]
pub struct Growing {
    pub(super) disk: Disk,
    pub(super) file: NewFile,
    pub(super) written: u64,
    /// Whether there is something at its path in `tmp` still.
    pub(super) is_there: bool,
}

impl Growing {
    /// How much of it is there.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Adds to its end. Blocks.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.file
            .write_all(bytes)
            .map_err(|error| Refusal::disk(&error))?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.written = self.written.saturating_add(length);
        Ok(())
    }

    /// Renames it into a place that is free, or where what is renamed has to last.
    pub(super) fn rename(&mut self, directory: &Directory, name: &FileName) -> io::Result<()> {
        self.disk
            .rename_into(self.file.path(), directory.handle(), name.as_str())?;
        self.is_there = false;
        Ok(())
    }

    /// Exchanges it for the older file, which from now on is what goes when this is dropped.
    pub(super) fn exchange(&mut self, directory: &Directory, name: &FileName) -> io::Result<()> {
        self.disk
            .exchange_into(self.file.path(), directory.handle(), name.as_str())
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if self.is_there {
            self.disk.discard_file(self.file.path());
        }
    }
}
