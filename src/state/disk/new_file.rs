//! A file that is being written.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Disk, Effect};

/// A file that is being written.
#[derive(Debug)]
pub struct NewFile {
    pub(super) disk: Disk,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl NewFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds to its end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.will(Effect::Write(&self.path, bytes))?;
        self.file.write_all(bytes)
    }

    /// Sets its modification time.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.disk.will(Effect::SetTime(&self.path))?;
        self.file.set_modified(time)
    }

    /// Syncs its content.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.will(Effect::SyncFile(&self.path))?;
        self.file.sync_all()
    }
}
