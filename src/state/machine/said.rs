//! What VMs leave in their joboutputs for the daemon: heartbeats, and how they ended.

use std::fs;
use std::io;

use crate::model::{MachineName, ShutdownMessage, Timestamp};
use crate::state::{IoContext, Published, SHUTDOWN_MESSAGE, StateError, Store, disk, read_small};

impl Store {
    /// When a file in joboutputs was last written; `None` when there is none. What cannot be
    /// looked at is an error, not a missing heartbeat: a VM must not die of our own trouble.
    ///
    /// # Errors
    /// When the file system says anything but "not found".
    pub fn heartbeat(
        &self,
        name: &MachineName,
        file: &str,
    ) -> Result<Option<Timestamp>, StateError> {
        let path = self
            .layout
            .published(name, Published::Joboutputs)
            .join(file);
        let looked = self.layout.disk().read(&path);
        match looked.and_then(|()| fs::symlink_metadata(&path)?.modified()) {
            Ok(time) => Ok(Some(Timestamp::from_system_time(time))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Where a machine has nothing to write to, it is not silent.
                let joboutputs = self.layout.published(name, Published::Joboutputs);
                fs::metadata(&joboutputs).context("look at", &joboutputs)?;
                Ok(None)
            }
            Err(error) => Err(error).context("look at", &path),
        }
    }

    /// The shutdown message, if there is one. A link or a directory of that name, which no VM can
    /// make, is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn shutdown_message(
        &self,
        name: &MachineName,
    ) -> Result<Option<ShutdownMessage>, StateError> {
        let path = self
            .layout
            .published(name, Published::Joboutputs)
            .join(SHUTDOWN_MESSAGE);
        let looked = self.layout.disk().read(&path);
        match looked.and_then(|()| fs::symlink_metadata(&path)) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("look at", &path),
        }
        Ok(read_small(self.layout.disk(), &path)?.map(|text| ShutdownMessage::parse(&text)))
    }

    /// Leaves `text` as the shutdown message unless the VM left one: that is never overwritten. When
    /// this returns, the name of either survives a power loss.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn leave_shutdown_message(&self, name: &MachineName, text: &str) -> Result<(), StateError> {
        let path = self
            .layout
            .published(name, Published::Joboutputs)
            .join(SHUTDOWN_MESSAGE);
        let disk = self.layout.disk();
        let growing = disk::temporary_path(&self.layout.tmp());
        let written = disk
            .create_synced(&growing, text.as_bytes(), disk::PUBLIC)
            // A hard link fails when the name is taken, where a rename would replace: the VM may
            // be writing its own message at this moment.
            .and_then(|()| match disk.link(&growing, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            });
        disk.discard(&growing);
        written
            // Also of what was there: the call before may have failed just when it synced the name.
            .and_then(|()| disk.sync_dir(disk::directory_of(&path)))
            .context("write", &path)
    }

    /// Puts `text`, which the VM left on a remote server, in the place of the shutdown message. It
    /// takes the place of a reason of ours: what the VM said comes first.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn take_shutdown_message(&self, name: &MachineName, text: &str) -> Result<(), StateError> {
        let path = self
            .layout
            .published(name, Published::Joboutputs)
            .join(SHUTDOWN_MESSAGE);
        self.write(&path, text.as_bytes(), disk::PUBLIC)
    }
}
