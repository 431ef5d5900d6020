//! What vacuum pipes said when they were last fetched, one file for each URL, so that a start finds
//! their machinetypes while the pipes themselves are down.
//!
//! A file holds the URL, which may have a token in it, and the document as it came, which may have
//! passwords in it: only its owner may read it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use openssl::sha::sha256;
use serde::{Deserialize, Serialize};

use super::{IoContext, Layout, StateError, Store, disk, not_a_file};
use crate::model::Timestamp;

/// The largest file that is read. A document of a megabyte can take six in JSON.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// The most files that are read; a site has a few pipes.
const MOST_FILES: usize = 1000;

/// One file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeFile {
    /// The pipe's address.
    pub url: String,
    /// When it was fetched.
    pub fetched: Timestamp,
    /// What it said, word for word.
    pub document: String,
}

/// What is in the cache of vacuum pipes.
#[derive(Default)]
pub struct PipeFiles {
    /// The files that can be read.
    pub files: Vec<PipeFile>,
    /// What is wrong with the others.
    pub problems: Vec<StateError>,
}

/// Reads the cache of vacuum pipes. A file that cannot be read is passed over: its pipe is fetched
/// as if it were new. Blocks on the file system.
pub fn read_all(layout: &Layout) -> PipeFiles {
    let mut all = PipeFiles::default();
    // No pipe, no directory: this is the usual case, and it touches nothing.
    let Ok(entries) = fs::read_dir(layout.pipes()) else {
        return all;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    for path in paths.iter().take(MOST_FILES) {
        match read(layout, path) {
            Ok(file) => all.files.push(file),
            Err(problem) => all.problems.push(problem),
        }
    }
    all
}

fn read(layout: &Layout, path: &Path) -> Result<PipeFile, StateError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = layout.disk().read(path).and_then(|()| {
        File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
    });
    let file = opened.context("open", path)?;
    if !file.metadata().context("look at", path)?.is_file() {
        return Err(not_a_file(path));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .context("read", path)?;
    serde_json::from_slice(&bytes).map_err(|error| StateError::Damaged {
        path: path.to_owned(),
        what: format!("expected what a vacuum pipe said: {error}"),
    })
}

/// The file of one URL. The URL itself is no file name, and may hold a token.
fn path_of(layout: &Layout, url: &str) -> PathBuf {
    let digest = sha256(url.as_bytes());
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    layout.pipes().join(format!("{name}.json"))
}

impl Store {
    /// Keeps what a vacuum pipe has said.
    ///
    /// # Errors
    /// When it cannot be written; then what was kept before is still there.
    pub fn keep_pipe(&self, file: &PipeFile) -> Result<(), StateError> {
        let dir = self.layout.pipes();
        let path = path_of(&self.layout, &file.url);
        let created = self.layout.disk().create_dir_all(&dir);
        created.context("create", &dir)?;
        // A text, a number and a text: this cannot fail.
        let bytes = serde_json::to_vec(file).unwrap_or_default();
        self.write(&path, &bytes, disk::PRIVATE)
    }

    /// Forgets what a vacuum pipe has said.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget_pipe(&self, url: &str) -> Result<(), StateError> {
        let path = path_of(&self.layout, url);
        let removed = self.layout.disk().remove_file(&path);
        removed.context("remove", &path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(url: &str, document: &str) -> PipeFile {
        PipeFile {
            url: url.to_owned(),
            fetched: Timestamp::from_unix(1_700_000_000),
            document: document.to_owned(),
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(read_all(store.layout()).files.is_empty());
        let (one, two) = (file("https://x/a?t=1", "{}"), file("https://x/a?t=2", "\n"));
        store.keep_pipe(&one).unwrap();
        store.keep_pipe(&file("https://x/a?t=2", "old")).unwrap();
        store.keep_pipe(&two).unwrap();
        let read = read_all(store.layout());
        assert!(read.problems.is_empty());
        assert_eq!(read.files.len(), 2);
        assert!(read.files.contains(&one) && read.files.contains(&two));
        let path = path_of(store.layout(), &one.url);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        store.forget_pipe(&one.url).unwrap();
        store.forget_pipe(&one.url).unwrap();
        assert!(read_all(store.layout()).files == [two]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.keep_pipe(&file("https://x/a", "{}")).unwrap();
        let pipes = store.layout().pipes();
        let disk = disk::Disk::default();
        for (name, bytes) in [
            ("0.json", &b"\xff"[..]),
            ("1.json", b"{}"),
            ("2.json", b""),
            ("notes", b"x"),
        ] {
            disk.create_synced(&pipes.join(name), bytes, 0o600).unwrap();
        }
        fs::create_dir(pipes.join("3.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", pipes.join("4.json")).unwrap();
        let read = read_all(store.layout());
        assert_eq!((read.files.len(), read.problems.len()), (1, 5));
    }
}
