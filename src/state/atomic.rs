//! How a file gets to disk: the one place that writes, renames and removes.
//!
//! A reader sees the old file or the new one, never a part, and what is reported as written is
//! there after a power loss: temporary file, fsync, rename, fsync of the directory. A process
//! that is killed in between leaves something in `tmp/` and nothing anywhere else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Creates `path`, which must not exist, with `bytes` and `mode`, and syncs its content (not its
/// directory).
///
/// # Errors
/// What the file system says.
pub fn create_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = create_new(path, mode)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Opens `path`, which must not exist, for writing; `mode` holds whatever the umask is.
///
/// # Errors
/// What the file system says.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Creates the directory `path`, which must not exist, with `mode`.
///
/// # Errors
/// What the file system says.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Creates `path` and the directories above it where they are missing, and syncs each directory
/// that gained an entry.
///
/// # Errors
/// What the file system says.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = directory_of(path);
    create_dir_all(parent)?;
    match create_dir(path, 0o755) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_dir(parent)
}

/// Puts `bytes` at `path`, replacing what is there, in one step that survives a power loss.
///
/// # Errors
/// What the file system says; then `path` is as it was.
pub fn write(tmp: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_path(tmp);
    let written = create_synced(&temporary, bytes, mode).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        discard(&temporary);
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
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(directory_of(to))
}

/// The directory that `path` is an entry of; that of a bare name is the current one.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Renames a finished file into an open directory under `name`, replacing what is there. Nothing
/// is synced: this is for what may be lost with the power, or is synced by the caller.
///
/// # Errors
/// What the file system says.
pub fn rename_into(from: &Path, directory: &File, name: &str) -> io::Result<()> {
    Ok(rustix::fs::renameat(
        rustix::fs::CWD,
        from,
        directory,
        name,
    )?)
}

/// Syncs the entries of a directory.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a directory and all below it so that nobody sees it half removed: it is first renamed
/// into `tmp`. A directory that is not there is no error.
///
/// # Errors
/// What the file system says.
pub fn remove_dir(tmp: &Path, path: &Path) -> io::Result<()> {
    let temporary = temporary_path(tmp);
    match rename(path, &temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    sync_dir(directory_of(path))?;
    fs::remove_dir_all(&temporary)
}

/// Throws a temporary file or directory away. That it cannot be removed is no reason to fail:
/// `tmp` is emptied at each start.
pub fn discard(temporary: &Path) {
    let removed = match fs::symlink_metadata(temporary) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(temporary),
        Ok(_) => fs::remove_file(temporary),
        Err(_) => return,
    };
    if let Err(error) = removed {
        tracing::debug!(path = %temporary.display(), %error, "left a temporary file behind");
    }
}

/// Sets the modification time of `path` to `time`, creating the file empty when it is missing.
/// Nothing is written to it and nothing is synced: what is lost with the power is a newer time.
///
/// # Errors
/// What the file system says.
pub fn touch(path: &Path, time: std::time::SystemTime) -> io::Result<()> {
    let open = || OpenOptions::new().append(true).open(path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dir_all(directory_of(path))?;
            create_new(path, PUBLIC)?
        }
        other => other?,
    };
    file.set_modified(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (text, mode) in [("one", PRIVATE), ("two", PUBLIC)] {
            write(dir.path(), &path, text.as_bytes(), mode).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_relative_path_begins_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("state")), Path::new("."));
        assert_eq!(directory_of(Path::new("a/b")), Path::new("a"));
        assert_eq!(directory_of(Path::new("/a")), Path::new("/"));
        assert_eq!(directory_of(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no/such/dir/file");
        assert!(write(dir.path(), &missing, b"x", PUBLIC).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        remove_dir(dir.path(), &dir.path().join("machine")).unwrap();
    }
}
