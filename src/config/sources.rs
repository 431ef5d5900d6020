//! Finds the files of a configuration and reads them, in the order in which they count.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sources;
use super::problem::Problem;

/// The largest file that is read, in bytes; the largest real ones are some tens of kilobytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// The most files that are read from the directory.
const MOST_FILES: usize = 1000;

/// A file and what is in it.
pub(super) type FileBytes = (Arc<Path>, Vec<u8>);

/// Reads every `*.conf` of the directory by name, then the file. Either may be missing, not both.
pub(super) fn read_all(sources: &Sources) -> (Vec<FileBytes>, Vec<Problem>) {
    let mut problems = Vec::new();
    let (paths, dir_is_there) = files_of(&sources.dir, &mut problems);
    let mut files = Vec::new();
    for path in paths {
        take(&path, &mut files, &mut problems);
    }
    let conf_is_there = take(&sources.conf, &mut files, &mut problems);
    if !dir_is_there && !conf_is_there {
        let what = format!(
            "there is no configuration: neither {} nor {} exists",
            sources.conf.display(),
            sources.dir.display()
        );
        problems.push(Problem::error(what));
    }
    (files, problems)
}

/// The files of the directory in order, and whether there is such a directory.
fn files_of(dir: &Path, problems: &mut Vec<Problem>) -> (Vec<PathBuf>, bool) {
    match list(dir) {
        Ok(paths) if paths.len() > MOST_FILES => {
            let what = format!("has more than {MOST_FILES} files ending in .conf");
            problems.push(Problem::error(what).in_file(dir));
            (Vec::new(), true)
        }
        Ok(paths) => (paths, true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), false),
        Err(error) => {
            let what = format!("cannot list the directory: {error}");
            let problem = Problem::error(what).with_help(permission(&error, dir));
            problems.push(problem.in_file(dir));
            (Vec::new(), true)
        }
    }
}

/// Names that begin with a dot are left out: editors keep their locks and copies in such files.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".conf") && !bytes.starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Reads `path` if it exists, and says whether it does.
fn take(path: &Path, files: &mut Vec<FileBytes>, problems: &mut Vec<Problem>) -> bool {
    match read(path) {
        Ok(bytes) => files.push((path.into(), bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if std::fs::symlink_metadata(path).is_err() {
                return false;
            }
            let what = "is a symbolic link to a file that does not exist";
            problems.push(Problem::error(what).in_file(path));
        }
        Err(error) => {
            let what = format!("cannot be read: {error}");
            let problem = Problem::error(what).with_help(permission(&error, path));
            problems.push(problem.in_file(path));
        }
    }
    true
}

/// What to do when the user of the daemon may not read what root can.
fn permission(error: &io::Error, path: &Path) -> Option<String> {
    let mode = if path.is_dir() { "g+rx" } else { "g+r" };
    (error.kind() == io::ErrorKind::PermissionDenied).then(|| {
        let path = path.display();
        format!(
            "let the user that vcycled runs as read it: chgrp vcycle {path} && chmod {mode} {path}"
        )
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::Error::other("is a directory"));
    }
    // Opening a pipe or a socket could wait for ever. /dev/null stands for an empty file.
    if !kind.is_file() && path != Path::new("/dev/null") {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST_FILE.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST_FILE) {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!(
            "is larger than {LARGEST_FILE} bytes"
        )))
    }
}
