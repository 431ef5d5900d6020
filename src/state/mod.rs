//! The state directory: what the daemon knows about its machines, on disk.
//!
//! The daemon's memory is a cache of this tree. Killed at any instruction and started again, it
//! goes on from here. Invariants:
//!
//! 1. Only this module and [`disk`] write below the state directory, apart from the HTTPS
//!    server, which writes files that VMs send into `joboutputs` through [`disk`]. Commands beside
//!    a daemon write one file in [`order`], which the daemon only reads. (The event log may be here
//!    too; it is written through [`disk`], and nothing is read from it.)
//! 2. A machine's directory appears whole, by rename, and disappears whole.
//! 3. Each file is written so that a crash leaves the old content or the new.
//! 4. One daemon at a time: [`Store::open`] holds a lock as long as the store lives.

mod admin_token;
pub mod disk;
mod heartbeats;
mod joboutputs;
pub mod layout;
mod machine;
pub mod order;
pub mod pipes;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use admin_token::AdminToken;
pub use disk::Disk;
pub use joboutputs::Kept;
pub use layout::{Layout, Published, SHUTDOWN_MESSAGE, TOKEN_HASH, TimeFile};
pub use machine::{Loaded, NewMachine, Unread};

use crate::model::{MachineName, MachinetypeName, SpaceName, Timestamp};

/// What went wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon has the directory.
    #[error("{path} is in use by another vcycled; two daemons must not share a state directory", path = path.display())]
    Locked {
        /// The state directory.
        path: PathBuf,
    },
    /// A file holds something that we never write.
    #[error("{path}: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Adds what was tried, on which path, to an error of the file system.
pub fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

impl StateError {
    /// The same about another path.
    fn at(self, path: &Path) -> Self {
        let path = path.to_owned();
        match self {
            Self::Io { action, source, .. } => Self::Io {
                action,
                path,
                source,
            },
            Self::Locked { .. } => Self::Locked { path },
            Self::Damaged { what, .. } => Self::Damaged { path, what },
        }
    }

    /// Whether the disk or a quota is full: then nothing new is begun.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
            ),
            Self::Locked { .. } | Self::Damaged { .. } => false,
        }
    }
}

/// Adds what was tried, on which path, to an error of the file system.
trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StateError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StateError> {
        self.map_err(|source| StateError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// Files of one moment or one word are tiny; whatever is longer is not ours.
const SMALL_FILE: u64 = 64 * 1024;
/// Room for one more machine: user_data, and some thirty small files of a block each.
const ROOM: usize = 256 * 1024;

/// One state directory.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    /// Held for the life of the store; `None` when it was opened only to read.
    _lock: Option<File>,
}

impl Store {
    /// Opens a state directory for a daemon: makes the directories, takes the lock, empties `tmp`,
    /// and syncs all that the daemon before left there.
    ///
    /// # Errors
    /// When the directory cannot be made or written, another daemon holds it, or a migration was
    /// begun in it and has not ended.
    pub fn open(layout: impl Into<Layout>) -> Result<Self, StateError> {
        let store = Self::open_to_migrate(layout)?;
        let begun = store.layout.migration_begun();
        match begun.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(store),
            Err(error) => Err(error).context("look at", &begun),
            Ok(_) => Err(StateError::Damaged {
                path: begun,
                what: "a migration was begun and has not ended; vcycled migrate --apply goes on with it"
                    .to_owned(),
            }),
        }
    }

    /// The same for `vcycled migrate`.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or a daemon holds it.
    pub fn open_to_migrate(layout: impl Into<Layout>) -> Result<Self, StateError> {
        let layout = layout.into();
        let disk = layout.disk();
        for dir in [layout.root().to_owned(), layout.machines(), layout.spaces()] {
            disk.create_dir_all(&dir).context("create", &dir)?;
        }
        let lock = take_lock(&layout, &layout.lock())?;
        let tmp = layout.tmp();
        if tmp.exists() {
            disk.remove_tree(&tmp).context("empty", &tmp)?;
        }
        disk.create_dir(&tmp, 0o700).context("create", &tmp)?;
        // A daemon that was killed may have left steps that can be seen and are not yet on the
        // disk. Whoever goes on from them must not lose them with the power.
        let root = layout.root();
        disk.sync_all(root).context("sync", root)?;
        Ok(Self {
            layout,
            _lock: Some(lock),
        })
    }

    /// Opens a state directory for `vcycled migrate` beside a daemon that does nothing in the spaces
    /// concerned. What the daemon has in `tmp` stays.
    ///
    /// # Errors
    /// When another migration holds the directory.
    pub fn open_beside(layout: impl Into<Layout>) -> Result<Self, StateError> {
        let layout = layout.into();
        let lock = take_lock(&layout, &layout.migration_lock())?;
        Ok(Self {
            layout,
            _lock: Some(lock),
        })
    }

    /// Opens a state directory only to read, beside a daemon or without one. Takes no lock and makes nothing.
    pub fn open_to_read(layout: impl Into<Layout>) -> Self {
        Self {
            layout: layout.into(),
            _lock: None,
        }
    }

    /// The paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes a byte where files grow and takes it away again: whether machines can write now. It
    /// need not survive a power loss, so nothing is synced.
    ///
    /// # Errors
    /// When the disk takes nothing.
    pub fn try_to_write(&self) -> Result<(), StateError> {
        let tmp = self.layout.tmp();
        let path = disk::temporary_path(&tmp);
        let disk = self.layout.disk();
        let written = disk
            .create_new(&path, disk::PUBLIC)
            .and_then(|mut file| file.write_all(b"?"));
        disk.discard(&path);
        written.context("write into", &tmp)
    }

    /// When the last abort of a machinetype was, if there was one.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn last_abort_time(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
    ) -> Result<Option<Timestamp>, StateError> {
        let path = self.layout.last_abort_time(space, machinetype);
        read_time(self.layout.disk(), &path)
    }

    /// Notes when the last abort of a machinetype was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_last_abort_time(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        time: Timestamp,
    ) -> Result<(), StateError> {
        let path = self.layout.last_abort_time(space, machinetype);
        if let Some(parent) = path.parent() {
            self.layout
                .disk()
                .create_dir_all(parent)
                .context("create", parent)?;
        }
        self.write(&path, time.to_string().as_bytes(), disk::PUBLIC)
    }

    /// When the last complete scan of a space was, if there was one.
    ///
    /// # Errors
    /// When the file is there and its time cannot be read.
    pub fn last_scan(&self, space: &SpaceName) -> Result<Option<Timestamp>, StateError> {
        self.time_of(&self.layout.last_scan(space))
    }

    /// Notes that a scan of a space was complete at `time`. Once a space, not once a machine, and
    /// without writing a byte, because it happens in every cycle.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn set_last_scan(&self, space: &SpaceName, time: Timestamp) -> Result<(), StateError> {
        self.set_time_of(&self.layout.last_scan(space), time)
    }

    /// The last complete scans of machines of which what later ones have shown could not be written.
    ///
    /// # Errors
    /// When one is there and cannot be read or understood.
    pub fn unwritten_scans(
        &self,
        space: &SpaceName,
    ) -> Result<BTreeMap<MachineName, Timestamp>, StateError> {
        let directory = self.layout.unwritten_scans(space);
        let disk = self.layout.disk();
        disk.read(&directory).context("list", &directory)?;
        let mut scans = BTreeMap::new();
        for name in self.machines_named_in(&directory)? {
            if let Some(time) = read_time(disk, &directory.join(&name))? {
                scans.insert(name, time);
            }
        }
        Ok(scans)
    }

    /// Notes that of a machine nothing that scans after `time` have shown could be written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_unwritten_scan(
        &self,
        space: &SpaceName,
        machine: &MachineName,
        time: Timestamp,
    ) -> Result<(), StateError> {
        let directory = self.layout.unwritten_scans(space);
        self.layout
            .disk()
            .create_dir_all(&directory)
            .context("create", &directory)?;
        let path = directory.join(machine);
        self.write(&path, time.to_string().as_bytes(), disk::PUBLIC)
    }

    /// What is known of a machine is on disk again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget_unwritten_scan(
        &self,
        space: &SpaceName,
        machine: &MachineName,
    ) -> Result<(), StateError> {
        let path = self.layout.unwritten_scans(space).join(machine);
        let removed = self.layout.disk().remove_file(&path);
        removed.context("remove", &path)
    }

    /// When machines of a space were taken over from an older version, if they were.
    ///
    /// # Errors
    /// When the file is there and its time cannot be read.
    pub fn taken_over(&self, space: &SpaceName) -> Result<Option<Timestamp>, StateError> {
        self.time_of(&self.layout.taken_over(space))
    }

    /// When the remote server of a machinetype last answered, if it ever did.
    ///
    /// # Errors
    /// When the file is there and its time cannot be read.
    pub fn remote_answered(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
    ) -> Result<Option<Timestamp>, StateError> {
        self.time_of(&self.layout.remote_answered(space, machinetype))
    }

    /// Notes when the remote server of a machinetype last answered, without writing a byte.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn set_remote_answered(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        time: Timestamp,
    ) -> Result<(), StateError> {
        self.set_time_of(&self.layout.remote_answered(space, machinetype), time)
    }

    fn time_of(&self, path: &Path) -> Result<Option<Timestamp>, StateError> {
        let looked = self.layout.disk().read(path);
        match looked.and_then(|()| fs::metadata(path)?.modified()) {
            Ok(time) => Ok(Some(Timestamp::from_system_time(time))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read the time of", path),
        }
    }

    fn set_time_of(&self, path: &Path, time: Timestamp) -> Result<(), StateError> {
        // Opening a named pipe to write would wait for its reader.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(not_a_file(path));
        }
        self.layout
            .disk()
            .touch(path, time.to_system_time())
            .context("set the time of", path)
    }

    /// Finds out whether the disk takes as much as one more machine needs, by writing it. Nothing
    /// of it stays. This is for a disk that was full: one that is well is not written to.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_room(&self) -> Result<(), StateError> {
        let path = disk::temporary_path(&self.layout.tmp());
        let disk = self.layout.disk();
        let written = disk.create_synced(&path, &[0; ROOM], disk::PRIVATE);
        disk.discard(&path);
        written.context("write", &path)
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StateError> {
        self.layout
            .disk()
            .write(&self.layout.tmp(), path, bytes, mode)
            .context("write", path)
    }
}

/// Takes the lock of a state directory that is at `path`.
fn take_lock(layout: &Layout, path: &Path) -> Result<File, StateError> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .context("open", path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(StateError::Locked {
            path: layout.root().to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(error).context("lock", path),
    }
}

/// Reads a small file that need not be there. Symbolic links are not followed, and what is no file
/// is refused: opening a named pipe would keep the daemon waiting for whoever writes to it.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_small(disk: &Disk, path: &Path) -> Result<Option<String>, StateError> {
    use std::io::Read;

    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = disk.read(path).and_then(|()| {
        File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
    });
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("open", path),
    };
    if !file.metadata().context("look at", path)?.is_file() {
        return Err(not_a_file(path));
    }
    let mut bytes = Vec::new();
    file.take(SMALL_FILE)
        .read_to_end(&mut bytes)
        .context("read", path)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn not_a_file(path: &Path) -> StateError {
    StateError::Damaged {
        path: path.to_owned(),
        what: "is not a regular file".to_owned(),
    }
}

/// Reads a file that holds something with a text form; a missing file is `None`.
fn read_value<T>(disk: &Disk, path: &Path, what: &str) -> Result<Option<T>, StateError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let Some(text) = read_small(disk, path)? else {
        return Ok(None);
    };
    text.trim()
        .parse()
        .map(Some)
        .map_err(|error: T::Err| StateError::Damaged {
            path: path.to_owned(),
            what: format!("expected {what}: {error}"),
        })
}

fn read_time(disk: &Disk, path: &Path) -> Result<Option<Timestamp>, StateError> {
    read_value(disk, path, "Unix seconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StateError::Locked { .. })
        ));
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    fn pipe(path: &Path) {
        Disk::default()
            .create_dir_all(disk::directory_of(path))
            .unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    /// Each of these calls waited for ever for the other end of the pipe.
    #[test]
    fn a_pipe_in_the_place_of_a_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let space = SpaceName::new("example.org").unwrap();
        let machinetype = MachinetypeName::new("a").unwrap();
        pipe(&store.layout().last_abort_time(&space, &machinetype));
        pipe(&store.layout().last_scan(&space));
        let read = store.last_abort_time(&space, &machinetype);
        let touched = store.set_last_scan(&space, Timestamp::from_unix(1));
        for problem in [read.map(drop), touched] {
            let problem = problem.unwrap_err().to_string();
            assert!(problem.ends_with("is not a regular file"), "{problem}");
        }
        drop(store);
        let lock = Layout::new(dir.path()).lock();
        fs::remove_file(&lock).unwrap();
        pipe(&lock);
        Store::open(dir.path()).unwrap_err();
    }

    #[test]
    fn scan_and_abort_times_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let space = SpaceName::new("example.org").unwrap();
        let machinetype = MachinetypeName::new("a").unwrap();
        assert_eq!(store.last_scan(&space).unwrap(), None);
        assert_eq!(store.last_abort_time(&space, &machinetype).unwrap(), None);
        let time = Timestamp::from_unix(1_700_000_000);
        store.set_last_scan(&space, time).unwrap();
        store
            .set_last_abort_time(&space, &machinetype, time)
            .unwrap();
        assert_eq!(store.last_scan(&space).unwrap(), Some(time));
        assert_eq!(
            store.last_abort_time(&space, &machinetype).unwrap(),
            Some(time)
        );
    }
}
