//! How a file gets to disk: the one place that writes, renames and removes.
//!
//! A reader sees the old file or the new one, never a part, and what is reported as written is
//! there after a power loss: temporary file, fsync, rename, fsync of the directory. A process
//! that is killed in between leaves something in `tmp/` and nothing anywhere else.
//!
//! Every step that changes the file system is an [`Effect`], which a [`Watch`] is told of before
//! it is taken: so a simulation can refuse it, die before it, or know what a power loss leaves.

mod new_file;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

pub use new_file::NewFile;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

/// A mode for what only we may read: user_data, proxies, keys.
pub const PRIVATE: u32 = 0o600;
/// A mode for what site scripts and web servers read.
pub const PUBLIC: u32 = 0o644;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A path below `tmp` that no other call of any process uses: process number and a counter.
pub fn temporary_path(tmp: &Path) -> PathBuf {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    tmp.join(format!("{}.{count}", std::process::id()))
}

/// What the names of files begin with that grow beside their place.
pub const HIDDEN: &str = ".upload.";

/// A path in `directory` that no other call of any process uses, hidden from those who list it.
pub fn hidden_path(directory: &Path) -> PathBuf {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    directory.join(format!("{HIDDEN}{}.{count}", std::process::id()))
}

/// The directory that `path` is an entry of; that of a bare name is the current one.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// One step on the file system. All but `Read` change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// A file is opened, or looked at.
    Read(&'a Path),
    /// An empty file appears.
    CreateFile(&'a Path),
    /// Bytes are added to its end.
    Write(&'a Path, &'a [u8]),
    /// Its content goes to the disk.
    SyncFile(&'a Path),
    /// Its modification time is set.
    SetTime(&'a Path),
    /// An empty directory appears.
    CreateDir(&'a Path),
    /// The entries of a directory go to the disk.
    SyncDir(&'a Path),
    /// Everything on the file system that holds this directory goes to the disk.
    SyncAll(&'a Path),
    /// A file or directory gets another name, and replaces the file that had it.
    Rename(&'a Path, &'a Path),
    /// Two files get each other's names.
    Exchange(&'a Path, &'a Path),
    /// A file gets a second name, which nothing has.
    Link(&'a Path, &'a Path),
    /// A file goes.
    RemoveFile(&'a Path),
    /// A directory goes with all below it: in more than one step, seen closely.
    RemoveTree(&'a Path),
}

/// Is told of each effect before it is taken.
pub trait Watch: fmt::Debug + Send + Sync {
    /// An error keeps the effect from being taken, and is what its caller gets.
    ///
    /// # Errors
    /// Whatever a file system can say.
    fn before(&self, effect: Effect<'_>) -> io::Result<()>;
}

/// A file system to write to.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    watch: Option<Arc<dyn Watch>>,
}

impl Disk {
    /// The file system of this host, with somebody who watches.
    pub fn watched(watch: Arc<dyn Watch>) -> Self {
        Self { watch: Some(watch) }
    }

    fn will(&self, effect: Effect<'_>) -> io::Result<()> {
        match &self.watch {
            None => Ok(()),
            Some(watch) => watch.before(effect),
        }
    }

    /// To be called before `path` is read.
    ///
    /// # Errors
    /// What a watch says.
    pub fn read(&self, path: &Path) -> io::Result<()> {
        self.will(Effect::Read(path))
    }

    /// Creates `path`, which must not exist, with `bytes` and `mode`, and syncs its content (not
    /// its directory).
    ///
    /// # Errors
    /// What the file system says.
    pub fn create_synced(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = self.create_new(path, mode)?;
        file.write_all(bytes)?;
        file.sync()
    }

    /// Opens `path`, which must not exist, for writing; `mode` holds whatever the umask is.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create_new(&self, path: &Path, mode: u32) -> io::Result<NewFile> {
        self.will(Effect::CreateFile(path))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        // The umask may have taken some of it. To look costs less than to set it anew.
        if file.metadata()?.mode() & 0o7777 != mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(NewFile {
            disk: self.clone(),
            path: path.to_owned(),
            file,
        })
    }

    /// Opens `path` to add to its end; makes it, with `mode`, where it is missing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(&self, path: &Path, mode: u32) -> io::Result<NewFile> {
        match OpenOptions::new().append(true).open(path) {
            Ok(file) => Ok(NewFile {
                disk: self.clone(),
                path: path.to_owned(),
                file,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(self.create_new(path, mode)?);
                self.append(path, mode)
            }
            Err(error) => Err(error),
        }
    }

    /// Creates the directory `path`, which must not exist, with `mode`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.will(Effect::CreateDir(path))?;
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    /// Creates the directory `path`, which must not exist, so that `group` can write to it as well.
    ///
    /// # Errors
    /// What the file system says: only root, and members of the group, may do this.
    pub fn create_dir_for(&self, path: &Path, group: u32) -> io::Result<()> {
        self.create_dir(path, 0o755)?;
        std::os::unix::fs::chown(path, None, Some(group))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o775))
    }

    /// Creates `path` and the directories above it where they are missing. When it returns the
    /// entry of `path` survives a power loss, whoever made it: a directory that is there may have
    /// been made a moment ago by another thread that has yet to sync it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let parent = directory_of(path);
        if path.is_dir() {
            // Where we may not even look we have not made anything.
            return match self.sync_dir(parent) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                other => other,
            };
        }
        if !parent.is_dir() {
            self.create_dir_all(parent)?;
        }
        match self.create_dir(path, 0o755) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        self.sync_dir(parent)
    }

    /// Puts `bytes` at `path`, replacing what is there, in one step that survives a power loss.
    ///
    /// # Errors
    /// What the file system says; then `path` is as it was.
    pub fn write(&self, tmp: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let temporary = temporary_path(tmp);
        let written = self
            .create_synced(&temporary, bytes, mode)
            .and_then(|()| self.rename(&temporary, path));
        if written.is_err() {
            self.discard(&temporary);
        }
        written
    }

    /// Renames a finished file or directory to its place and syncs the directory it is now in. The
    /// directory it came from is `tmp`, whose content means nothing after a crash.
    ///
    /// # Errors
    /// What the file system says.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that renames"
    )]
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.will(Effect::Rename(from, to))?;
        fs::rename(from, to)?;
        self.sync_dir(directory_of(to))
    }

    /// Renames a finished file into an open directory under `name`, replacing what is there.
    /// Nothing is synced: this is for what may be lost with the power, or is synced by the caller.
    ///
    /// # Errors
    /// What the file system says.
    pub fn rename_into(&self, from: &Path, directory: &File, name: &str) -> io::Result<()> {
        if self.watch.is_some() {
            self.will(Effect::Rename(from, &path_of(directory)?.join(name)))?;
        }
        Ok(rustix::fs::renameat(
            rustix::fs::CWD,
            from,
            directory,
            name,
        )?)
    }

    /// Puts a finished file in the place of the file `name` of an open directory, which then is
    /// at `from`, for the caller to [discard](Self::discard_file). Nothing is synced, and after a
    /// power loss the file may be empty: this is for what is written often and may be lost. A file
    /// that is *renamed* over another is written out at once by ext4 and btrfs, which costs more
    /// than all the rest.
    ///
    /// # Errors
    /// What the file system says; then both are as they were.
    pub fn exchange_into(&self, from: &Path, directory: &File, name: &str) -> io::Result<()> {
        if self.watch.is_some() {
            self.will(Effect::Exchange(from, &path_of(directory)?.join(name)))?;
        }
        let exchange = RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(rustix::fs::CWD, from, directory, name, exchange) {
            // Not every file system can, and a file that has gone meanwhile cannot either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOENT) => {
                self.rename_into(from, directory, name)
            }
            exchanged => Ok(exchanged?),
        }
    }

    /// Gives a finished file a second name, in one step that fails when that is taken. Nothing is
    /// synced.
    ///
    /// # Errors
    /// What the file system says; `AlreadyExists` when the name is taken.
    pub fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.will(Effect::Link(from, to))?;
        fs::hard_link(from, to)
    }

    /// Listens at `path`, in place of a socket that is there; `mode` says who may connect.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self, path: &Path, mode: u32) -> io::Result<UnixListener> {
        self.remove_file(path)?;
        self.will(Effect::CreateFile(path))?;
        let (_held, short) = socket_address(path)?;
        let listener = UnixListener::bind(short)?;
        // Until here the umask says who may, which is nobody but us or fewer than that.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Syncs the content of a file that is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.will(Effect::SyncFile(path))?;
        File::open(path)?.sync_all()
    }

    /// Removes a directory that has nothing in it.
    ///
    /// # Errors
    /// What the file system says; `DirectoryNotEmpty` when there is something.
    pub fn remove_empty_dir(&self, path: &Path) -> io::Result<()> {
        if fs::read_dir(path)?.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.will(Effect::RemoveTree(path))?;
        fs::remove_dir(path)
    }

    /// Syncs the entries of a directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.will(Effect::SyncDir(path))?;
        File::open(path)?.sync_all()
    }

    /// Syncs all that was ever done to the file system that holds `directory`, by whomever.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync_all(&self, directory: &Path) -> io::Result<()> {
        self.will(Effect::SyncAll(directory))?;
        Ok(rustix::fs::syncfs(File::open(directory)?)?)
    }

    /// Syncs the entries of an open directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync_open_dir(&self, directory: &File) -> io::Result<()> {
        if self.watch.is_some() {
            self.will(Effect::SyncDir(&path_of(directory)?))?;
        }
        directory.sync_all()
    }

    /// Removes a file, and syncs the directory it was in. One that is not there is no error.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.will(Effect::RemoveFile(path))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        self.sync_dir(directory_of(path))
    }

    /// Removes a directory and all below it so that nobody sees it half removed: it is first
    /// renamed into `tmp`. A directory that is not there is no error.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove_dir(&self, tmp: &Path, path: &Path) -> io::Result<()> {
        let temporary = temporary_path(tmp);
        match self.rename(path, &temporary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        self.sync_dir(directory_of(path))?;
        self.remove_tree(&temporary)
    }

    /// Removes a directory and all below it, one after the other.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.will(Effect::RemoveTree(path))?;
        fs::remove_dir_all(path)
    }

    /// Throws a temporary file or directory away. That it cannot be removed is no reason to fail:
    /// `tmp` is emptied at each start.
    pub fn discard(&self, temporary: &Path) {
        let removed = match fs::symlink_metadata(temporary) {
            Ok(found) if found.is_dir() => self.remove_tree(temporary),
            Ok(_) => return self.discard_file(temporary),
            Err(_) => return,
        };
        if let Err(error) = removed {
            tracing::debug!(path = %temporary.display(), %error, "left a temporary file behind");
        }
    }

    /// The same for what can only be a file, and may be gone.
    pub fn discard_file(&self, temporary: &Path) {
        let removed = self
            .will(Effect::RemoveFile(temporary))
            .and_then(|()| fs::remove_file(temporary));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(path = %temporary.display(), %error, "left a temporary file behind");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Sets the modification time of an open file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_time(&self, file: &File, time: SystemTime) -> io::Result<()> {
        if self.watch.is_some() {
            self.will(Effect::SetTime(&path_of(file)?))?;
        }
        file.set_modified(time)
    }

    /// Sets the modification time of `path` to `time`, creating the file empty when it is missing.
    /// Nothing is written to it and its time is not synced: what is lost with the power is a newer
    /// time, never the file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn touch(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        match OpenOptions::new().append(true).open(path) {
            Ok(file) => self.set_time(&file, time),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_dir_all(directory_of(path))?;
                self.create_new(path, PUBLIC)?.set_modified(time)?;
                self.sync_dir(directory_of(path))
            }
            Err(error) => Err(error),
        }
    }
}

/// The longest path that a socket can be bound to or reached at, with the zero byte at its end.
const MAX_SOCKET_PATH: usize = 108;

/// A path for the socket at `path` that is short enough, and what has to be held while it is used: a
/// long one leads through the directory as an open file.
///
/// # Errors
/// When the directory of a long path cannot be opened.
pub fn socket_address(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    if path.as_os_str().len() < MAX_SOCKET_PATH {
        return Ok((None, path.to_owned()));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let held = File::open(directory_of(path))?;
    let short = Path::new("/proc/self/fd").join(held.as_raw_fd().to_string());
    Ok((Some(held), short.join(name)))
}

/// Where an open file or directory is.
fn path_of(file: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests;
