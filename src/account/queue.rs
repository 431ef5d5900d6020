//! The queue of messages that wait to be sent: a directory queue as dirq's QueueSimple has it, which
//! ssmsend empties.
//!
//! Messages are files whose names are 14 hexadecimal digits, in directories of 8. One that grows
//! ends in `.tmp`, and one that a sender works on has a hard link beside it that ends in `.lck`.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::Timestamp;
use crate::state::{self, Layout, StateError, disk};

/// How many names are tried for a message, and how often when a sender that tidies up its queue
/// removes the directory of the day.
const TRIES: u32 = 16;
/// What the name of a message ends in that is still being written.
pub const GROWING: &str = ".tmp";
/// What the name of the link ends in that a sender makes while it works on a message.
pub const LOCKED: &str = ".lck";

/// Whether a queue takes `name` for one of its directories.
pub fn is_directory(name: &str) -> bool {
    is_hexadecimal(name, 8)
}

/// Whether a queue takes `name` for one of its messages.
pub fn is_element(name: &str) -> bool {
    is_hexadecimal(name, 14)
}

fn is_hexadecimal(name: &str, count: usize) -> bool {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    name.len() == count && name.bytes().all(is_digit)
}

/// Makes the queue where it is missing.
///
/// # Errors
/// When it cannot be made.
pub fn make(layout: &Layout) -> Result<(), StateError> {
    let path = layout.apel_outgoing();
    let made = layout.disk().create_dir_all(&path);
    made.map_err(state::failed("create", &path))
}

/// Puts a message into the queue of what is to be sent, beside a daemon that does the same. It
/// grows under a name that senders pass over, and gets one that nothing has. When this returns, a
/// power loss does not take it.
///
/// # Errors
/// When it cannot be written; when only the last sync fails, it may be in the queue.
pub fn add(layout: &Layout, message: &str, now: Timestamp) -> Result<PathBuf, StateError> {
    let (day, time) = now.to_chrono().map_or_else(
        || ("99991231".to_owned(), "235959".to_owned()),
        |now| {
            let text = |format| now.format(format).to_string();
            (text("%Y%m%d"), text("%H%M%S"))
        },
    );
    let directory = layout.apel_outgoing().join(day);
    let number = super::spool::number(message.as_bytes());
    let mut path = directory.clone();
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 0..TRIES {
        let name = (number + u64::from(attempt)) % 100_000_000;
        path = directory.join(format!("{time}{name:08}"));
        match put(layout, &path, message) {
            Ok(()) => return Ok(path),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                last = error;
            }
            Err(source) => {
                last = source;
                break;
            }
        }
    }
    Err(failed(path, last))
}

/// What became of a message that was to have a certain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is in the queue now.
    New,
    /// The name was taken, and nothing has changed.
    Taken,
}

/// Puts a message into the queue under the name that it has in the archive, so that it cannot be
/// there twice whoever else does the same.
///
/// # Errors
/// As [`add`].
pub fn add_as(layout: &Layout, path: &Path, message: &str) -> Result<Added, StateError> {
    for _ in 0..TRIES {
        match put(layout, path, message) {
            Ok(()) => return Ok(Added::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Added::Taken),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(path.to_owned(), source)),
        }
    }
    Err(failed(path.to_owned(), io::ErrorKind::NotFound.into()))
}

fn failed(path: PathBuf, source: io::Error) -> StateError {
    StateError::Io {
        action: "write",
        path,
        source,
    }
}

fn put(layout: &Layout, path: &Path, message: &str) -> io::Result<()> {
    let disk = layout.disk();
    let directory = disk::directory_of(path);
    disk.create_dir_all(directory)?;
    let growing = path.with_extension(format!("{}{GROWING}", std::process::id()));
    let written = disk
        .create_synced(&growing, message.as_bytes(), disk::PUBLIC)
        .and_then(|()| disk.link(&growing, path));
    disk.discard(&growing);
    written?;
    match disk.sync_dir(directory) {
        // A sender was here first, and has taken the directory with the message.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::account::message::{is_digits, list};
    use crate::state::disk::{Disk, Effect, Watch};

    fn queue() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        (dir, layout)
    }

    #[test]
    fn names_are_those_of_a_directory_queue() {
        assert!(is_directory("20260131") && is_directory("65f0a1bc"));
        assert!(is_element("23595900000001") && is_element("65f0a1bc0a1b2c"));
        for bad in ["2026013", "65F0A1BC", "2026-131", ""] {
            assert!(!is_directory(bad), "{bad}");
        }
        assert!(!is_element("23595900000001.lck") && !is_element("235959123"));
    }

    #[test]
    fn a_message_takes_no_name_that_is_there() {
        let (_dir, layout) = queue();
        let now = Timestamp::from_unix(1_764_547_199);
        let first = add(&layout, "one", now).unwrap();
        let second = add(&layout, "one", now).unwrap();
        assert_ne!(first, second);
        let directory = first.parent().unwrap();
        assert!(
            directory.ends_with("apel-outgoing/20251130"),
            "{directory:?}"
        );
        let mut names: Vec<_> = list(directory).unwrap();
        names.sort();
        assert_eq!(names.len(), 2, "nothing that grew is left: {names:?}");
        for path in names {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(is_digits(name, 14) && name.starts_with("235959"), "{name}");
        }
    }

    /// The names in a directory as its last sync found them.
    #[derive(Debug)]
    struct Durable {
        directory: PathBuf,
        names: Mutex<Vec<PathBuf>>,
        /// A sender takes all away just before it is synced.
        taken: bool,
    }

    impl Watch for Durable {
        fn before(&self, effect: Effect<'_>) -> io::Result<()> {
            if effect == Effect::SyncDir(&self.directory) {
                if self.taken {
                    std::fs::remove_dir_all(&self.directory)?;
                }
                *self.names.lock().unwrap() = list(&self.directory).unwrap();
            }
            Ok(())
        }
    }

    fn watched(dir: &Path, taken: bool) -> (Arc<Durable>, Layout) {
        let durable = Arc::new(Durable {
            directory: dir.join("apel-outgoing/20251130"),
            names: Mutex::default(),
            taken,
        });
        let disk = Disk::watched(Arc::<Durable>::clone(&durable));
        (durable, Layout::on(disk, dir))
    }

    #[test]
    fn what_is_queued_is_there_after_a_power_loss() {
        let dir = tempfile::tempdir().unwrap();
        let (durable, layout) = watched(dir.path(), false);
        let now = Timestamp::from_unix(1_764_547_199);
        let first = add(&layout, "one", now).unwrap();
        assert_eq!(*durable.names.lock().unwrap(), std::slice::from_ref(&first));
        let second = first.with_file_name("23595900000001");
        add_as(&layout, &second, "two").unwrap();
        let names = durable.names.lock().unwrap();
        assert!(names.len() == 2 && names.contains(&second), "{names:?}");
    }

    #[test]
    fn a_message_that_a_sender_takes_at_once_is_queued_once() {
        let dir = tempfile::tempdir().unwrap();
        let (_durable, layout) = watched(dir.path(), true);
        let path = layout.apel_outgoing().join("20251130/23595900000001");
        assert_eq!(add_as(&layout, &path, "one").unwrap(), Added::New);
        assert!(!path.exists());
    }

    #[test]
    fn a_message_that_has_its_name_is_not_there_twice() {
        let (_dir, layout) = queue();
        let path = layout.apel_outgoing().join("20251130/23595900000001");
        assert_eq!(add_as(&layout, &path, "one").unwrap(), Added::New);
        assert_eq!(add_as(&layout, &path, "two").unwrap(), Added::Taken);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(list(path.parent().unwrap()).unwrap(), [path]);
    }
}
