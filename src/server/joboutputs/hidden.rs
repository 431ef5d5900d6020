//! Files that grow under a hidden name beside their place, and what is left of them when their
//! process was killed.

use std::io;
use std::path::Path;

use crate::model::{Seconds, Timestamp};
use crate::state::disk::{self, Disk, NewFile};

/// So many names are tried for a file that grows beside its place.
const ATTEMPTS: u32 = 1000;

/// Creates a file of a name that nothing has. A process that was killed may have had our number and
/// left a file, and processes in containers may have the same number at the same time.
pub fn create_hidden(disk: &Disk, outputs: &Path) -> io::Result<NewFile> {
    let mut attempts = 1;
    loop {
        match disk.create_new(&disk::hidden_path(outputs), disk::PUBLIC) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < ATTEMPTS => {
                attempts += 1;
            }
            other => return other,
        }
    }
}

/// So old is no file that still grows: no body takes that long.
const ABANDONED: Seconds = Seconds::new(3600);

/// Removes what processes that were killed have left among the files of a machine.
pub fn sweep(disk: &Disk, outputs: &Path, now: Timestamp) {
    let entries = std::fs::read_dir(outputs).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(disk::HIDDEN.as_bytes()));
        let written = || {
            let found = std::fs::symlink_metadata(&path).ok()?;
            Some(Timestamp::from_system_time(found.modified().ok()?))
        };
        if hidden && written().is_some_and(|written| now.since(written) > ABANDONED) {
            disk.discard(&path);
        }
    }
}
