//! Machine directories as the server sees them: walked one component at a time from the state
//! directory, never through a symbolic link, so that no name of a client and no link that
//! somebody left leads anywhere else.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;

use super::path::FileName;
use super::reply::{FileContent, Version};
use crate::model::{MachineName, SpaceName};
use crate::state::{Disk, Layout, Published};

/// Files up to this size are read at once: every MJF key and heartbeat, in one read from the page
/// cache, which costs less than handing the work to another thread.
const WHOLE: u64 = 64 * 1024;

/// Pieces in which larger files are sent.
const PIECE: usize = 64 * 1024;

/// The most entries of a directory that are looked at. Machines can have fewer files than this
/// (see `joboutputs`); more were not put there by us.
const MAX_ENTRIES: usize = 10_000;

/// A directory of the tree, open.
#[derive(Debug)]
pub struct Directory(File);

impl Directory {
    /// The directory of a machine, `None` when there is none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of_machine(layout: &Layout, name: &MachineName) -> io::Result<Option<Self>> {
        match missing_is_none(open_machines(layout))? {
            Some(machines) => open_directory(machines, name.as_str()),
            None => Ok(None),
        }
    }

    /// The heartbeat lists of a space, `None` when there are none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of_heartbeat_lists(layout: &Layout, space: &SpaceName) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lists = rustix::fs::open(layout.all_heartbeat_lists(), flags, Mode::empty());
        match missing_is_none(lists)? {
            Some(lists) => open_directory(lists, space.as_str()),
            None => Ok(None),
        }
    }

    /// One of the published directories of a machine's directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn published(&self, which: Published) -> io::Result<Option<Self>> {
        open_directory(&self.0, which.dir_name())
    }

    /// A regular file in it, open for reading.
    ///
    /// # Errors
    /// What the file system says.
    pub fn file(&self, name: &str) -> io::Result<Option<OpenFile>> {
        let opened = rustix::fs::openat(&self.0, name, READ, Mode::empty());
        match missing_is_none(opened)? {
            Some(fd) => OpenFile::new(fd),
            None => Ok(None),
        }
    }

    /// A small text file in it, cut to 64 KiB.
    ///
    /// # Errors
    /// What the file system says.
    pub fn small_text(&self, name: &str) -> io::Result<Option<String>> {
        let Some(opened) = self.file(name)? else {
            return Ok(None);
        };
        let bytes = opened.read_whole()?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The size of the regular file of this name; `Ok(Err(..))` when the name is taken by
    /// something else.
    ///
    /// # Errors
    /// What the file system says.
    pub fn size_of(&self, name: &FileName) -> io::Result<Option<Result<u64, NotAFile>>> {
        let found = rustix::fs::statat(&self.0, name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        Ok(missing_is_none(found)?.map(|found| {
            if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
                Ok(u64::try_from(found.st_size).unwrap_or(0))
            } else {
                Err(NotAFile)
            }
        }))
    }

    /// The files in it that have names we serve, in order of name, with their sizes.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        let mut files = Vec::new();
        // Its own position in the directory may be anywhere after an earlier look.
        rustix::fs::seek(&self.0, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        let mut left = MAX_ENTRIES;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => break,
            };
            let Some(name) = entry.file_name().to_str().ok().and_then(FileName::new) else {
                continue;
            };
            if let Some(Ok(size)) = self.size_of(&name)? {
                files.push((name, size));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Waits until no other process has it locked, and locks it until what is returned is dropped.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lock(&self) -> io::Result<File> {
        // A description of its own: a lock belongs to that.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = File::from(rustix::fs::openat(&self.0, ".", flags, Mode::empty())?);
        rustix::fs::flock(&own, FlockOperation::LockExclusive)?;
        Ok(own)
    }

    /// The open directory itself, to rename into and to sync.
    pub fn handle(&self) -> &File {
        &self.0
    }
}

/// The name belongs to a directory, a link, a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFile;

/// A file of one of the published directories of a machine, open for reading, `None` when there is
/// none: what VMs ask for all the time, in as few steps as the system has for it.
///
/// # Errors
/// What the file system says.
pub fn published_file(
    layout: &Layout,
    machine: &MachineName,
    which: Published,
    name: &FileName,
) -> io::Result<Option<OpenFile>> {
    let Some(machines) = missing_is_none(open_machines(layout))? else {
        return Ok(None);
    };
    let path = format!("{machine}/{}/{}", which.dir_name(), name.as_str());
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(&machines, path, READ, Mode::empty(), how) {
        // The directory was moved out of the tree meanwhile.
        Err(Errno::XDEV) => Ok(None),
        // Linux before 5.6, sandboxes that do not know the call, and a tree that moves too much.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {
            one_by_one(machines, machine, which, name)
        }
        opened => match missing_is_none(opened)? {
            Some(fd) => OpenFile::new(fd),
            None => Ok(None),
        },
    }
}

fn one_by_one(
    machines: OwnedFd,
    machine: &MachineName,
    which: Published,
    name: &FileName,
) -> io::Result<Option<OpenFile>> {
    let Some(machine) = open_directory(machines, machine.as_str())? else {
        return Ok(None);
    };
    match machine.published(which)? {
        Some(directory) => directory.file(name.as_str()),
        None => Ok(None),
    }
}

/// How files are opened that others have put there.
/// NONBLOCK: opening a named pipe must not wait for its writer.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// What it was when it was opened.
    pub version: Version,
}

impl OpenFile {
    /// `None` when it is no regular file.
    fn new(fd: OwnedFd) -> io::Result<Option<Self>> {
        let file = File::from(fd);
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(None);
        }
        let version = Version {
            modified: found.modified()?,
            // Every version is another file, put there by a change of names, which is what the time of
            // change tells: two versions of a second that took turns with an inode differ in it.
            etag: format!(
                "\"{:x}-{:x}-{:x}{:08x}\"",
                found.ino(),
                found.size(),
                found.ctime(),
                found.ctime_nsec()
            ),
            size: found.size(),
        };
        Ok(Some(Self { file, version }))
    }

    /// Its content: small files whole, others as a stream.
    ///
    /// # Errors
    /// What the file system says.
    pub fn content(self) -> io::Result<FileContent> {
        if self.version.size > WHOLE {
            return Ok(FileContent::Stream(stream_file(
                self.file,
                self.version.size,
            )));
        }
        Ok(FileContent::Whole(Bytes::from(self.read_whole()?)))
    }

    /// What was there when it was opened, cut to 64 KiB.
    fn read_whole(&self) -> io::Result<Vec<u8>> {
        let expected = usize::try_from(self.version.size.min(WHOLE)).unwrap_or(0);
        let mut bytes = vec![0; expected];
        let mut filled = 0;
        // Mostly one read: the length is known, so none is needed to find the end.
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match (&self.file).read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Sets the time at which it counts as written.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_modified(&self, disk: &Disk, time: SystemTime) -> io::Result<()> {
        disk.set_time(&self.file, time)
    }
}

fn stream_file(file: File, size: u64) -> super::reply::ReplyBody {
    let file = tokio::fs::File::from_std(file).take(size);
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await?;
        Ok((read > 0).then(|| (Frame::data(piece.freeze()), file)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn open_machines(layout: &Layout) -> Result<OwnedFd, Errno> {
    // The state directory is the admin's and may be reached through links of theirs.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(layout.machines(), flags, Mode::empty())
}

fn open_directory(parent: impl AsFd, name: &str) -> io::Result<Option<Directory>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
    Ok(missing_is_none(opened)?.map(|fd: OwnedFd| Directory(File::from(fd))))
}

/// What is not there, and what is there but is a link or of the wrong kind, does not exist for us.
fn missing_is_none<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_pipes_do_not_exist() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let name = MachineName::new("vcycle-a-abcdefghij").unwrap();
        let outputs = layout.published(&name, Published::Joboutputs);
        std::fs::create_dir_all(&outputs).unwrap();
        File::create(outputs.join("real")).unwrap();
        symlink("/etc/passwd", outputs.join("link")).unwrap();
        symlink("/etc", layout.machine(&name).join("jobfeatures")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            outputs.join("pipe"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let machine = Directory::of_machine(&layout, &name).unwrap().unwrap();
        assert!(machine.published(Published::Jobfeatures).unwrap().is_none());
        let outputs = machine.published(Published::Joboutputs).unwrap().unwrap();
        let file = |which, file: &str| {
            let file = FileName::new(file).unwrap();
            let quick = published_file(&layout, &name, which, &file).unwrap();
            let machines = open_machines(&layout).unwrap();
            let slow = one_by_one(machines, &name, which, &file).unwrap();
            assert_eq!(quick.is_some(), slow.is_some(), "{file:?}");
            quick.is_some()
        };
        for hidden in ["link", "pipe", "missing"] {
            assert!(outputs.file(hidden).unwrap().is_none(), "{hidden}");
            assert!(!file(Published::Joboutputs, hidden), "{hidden}");
        }
        assert!(file(Published::Joboutputs, "real"));
        assert!(!file(Published::Jobfeatures, "passwd"));
        assert!(!file(Published::Machinefeatures, "real"));
        let real = FileName::new("real").unwrap();
        assert_eq!(outputs.list().unwrap(), [(real, 0)]);
        let link = FileName::new("link").unwrap();
        assert_eq!(outputs.size_of(&link).unwrap(), Some(Err(NotAFile)));
        let other = MachineName::new("vcycle-b-abcdefghij").unwrap();
        symlink(layout.machine(&name), layout.machine(&other)).unwrap();
        assert!(Directory::of_machine(&layout, &other).unwrap().is_none());
    }
}
