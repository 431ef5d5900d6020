//! Where records go: `apel-archive` always, `apel-outgoing` when the site has a GOCDB name.
//!
//! Directories are `YYYYMMDD` and files have 14 digits, both in UTC, so that a dirq queue and
//! ssmsend take them as they are. The name follows from the machine and the time of its end, so
//! that writing a record again lands on the same file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::apel::Record;
use crate::model::MachineName;
use crate::state::{Layout, StateError, disk, failed};

/// How many names are tried when a record of another machine has the one that follows from the
/// machine's name: two of 10^8 in one second.
const MAX_COLLISIONS: u64 = 16;

/// Puts a record into the archive and, when `send` is set, into the outgoing queue. The archive
/// comes last and marks that both are done: a record that is there is not sent again, even when a
/// sender has emptied the queue meanwhile.
///
/// Returns the path in the archive and whether the record is new.
///
/// # Errors
/// When a file cannot be written; then the call can be repeated.
pub fn file(
    layout: &Layout,
    machine: &MachineName,
    record: &Record,
    send: bool,
) -> Result<(PathBuf, bool), StateError> {
    let (day, time) = day_and_time(record);
    let number = number(machine.as_str().as_bytes());
    for attempt in 0..MAX_COLLISIONS {
        let name = format!("{time}{:08}", number.wrapping_add(attempt) % 100_000_000);
        let archived = layout.apel_archive().join(&day).join(&name);
        let looked = layout.disk().read(&archived);
        match looked.and_then(|()| fs::read_to_string(&archived)) {
            Ok(text) if is_about(&text, record) => {
                // The call before may have failed just when it synced the name.
                let day = disk::directory_of(&archived);
                let synced = layout.disk().sync_dir(day);
                return synced
                    .map(|()| (archived.clone(), false))
                    .map_err(failed("sync", day));
            }
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &archived)(error)),
        }
        let message = record.to_message();
        if send {
            put(
                layout,
                &layout.apel_outgoing().join(&day).join(&name),
                &message,
            )?;
        }
        put(layout, &archived, &message)?;
        return Ok((archived, true));
    }
    Err(StateError::Damaged {
        path: layout.apel_archive().join(&day),
        what: format!("no free name for the record of {machine}"),
    })
}

/// How many records and messages wait to be sent.
///
/// # Errors
/// When the queue is there and cannot be read.
pub fn waiting(layout: &Layout) -> io::Result<u64> {
    let mut count = 0;
    for day in visible(&layout.apel_outgoing())? {
        count += u64::try_from(visible(&day)?.len()).unwrap_or(u64::MAX);
    }
    Ok(count)
}

/// What is in a directory, but for what is still being written. A sender may remove it meanwhile.
fn visible(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn put(layout: &Layout, path: &Path, message: &str) -> Result<(), StateError> {
    if let Some(parent) = path.parent() {
        layout
            .disk()
            .create_dir_all(parent)
            .map_err(failed("create", parent))?;
    }
    let disk = layout.disk();
    disk.write(&layout.tmp(), path, message.as_bytes(), disk::PUBLIC)
        .map_err(failed("write", path))
}

fn is_about(text: &str, record: &Record) -> bool {
    text.lines()
        .any(|line| line.strip_prefix("LocalJobId: ") == Some(&record.local_job_id))
}

/// Directory and first six digits of the name.
fn day_and_time(record: &Record) -> (String, String) {
    record.end.to_chrono().map_or_else(
        || ("99991231".to_owned(), "235959".to_owned()),
        |end| {
            (
                end.format("%Y%m%d").to_string(),
                end.format("%H%M%S").to_string(),
            )
        },
    )
}

/// A number of eight digits that follows from a machine's name, or from a text.
pub(super) fn number(text: &[u8]) -> u64 {
    openssl::sha::sha256(text)
        .iter()
        .take(8)
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
        % 100_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::apel;
    use crate::decide::testing;
    use crate::model::{CloudId, FactoryName, Timestamp};
    use crate::state::Store;

    fn files_in(dir: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entries
            .flat_map(|entry| {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files_in(&path)
                } else {
                    vec![path]
                }
            })
            .collect();
        found.sort();
        found
    }

    fn a_record(name: &str) -> (MachineName, Record) {
        let mut files = testing::files(name, 1000);
        files.id = Some(CloudId::new(format!("id of {name}")));
        let times = (
            Timestamp::from_unix(1_462_331_045),
            Timestamp::from_unix(1_462_334_645),
        );
        let space = testing::space("max_machines = 1");
        let factory = FactoryName::new("f").unwrap();
        let record = apel::record(&space, None, &files, &factory, times);
        (files.name, record)
    }

    #[test]
    fn a_record_is_filed_once_and_named_for_dirq() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (name, record) = a_record("vcycle-a-aaaaaaaaaa");
        let (path, new) = file(store.layout(), &name, &record, true).unwrap();
        assert!(new);
        let text = path.to_str().unwrap();
        assert!(text.contains("/apel-archive/20160504/040405"), "{text}");
        assert_eq!(path.file_name().unwrap().len(), 14);
        // A sender takes the record; filing it again must not send it twice.
        let outgoing = files_in(&store.layout().apel_outgoing());
        assert_eq!(outgoing.len(), 1);
        fs::remove_file(&outgoing[0]).unwrap();
        assert_eq!(
            file(store.layout(), &name, &record, true).unwrap(),
            (path, false)
        );
        assert!(files_in(&store.layout().apel_outgoing()).is_empty());
    }

    #[test]
    fn a_crash_between_queue_and_archive_is_mended_under_the_same_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (name, record) = a_record("vcycle-a-aaaaaaaaaa");
        let (path, _) = file(store.layout(), &name, &record, true).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(
            file(store.layout(), &name, &record, true).unwrap(),
            (path, true)
        );
        assert_eq!(files_in(&store.layout().apel_outgoing()).len(), 1);
    }

    #[test]
    fn another_machine_with_the_same_name_of_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (name, record) = a_record("vcycle-a-aaaaaaaaaa");
        let (path, _) = file(store.layout(), &name, &record, false).unwrap();
        let (_, other) = a_record("vcycle-a-bbbbbbbbbb");
        store
            .layout()
            .disk()
            .write(
                &store.layout().tmp(),
                &path,
                other.to_message().as_bytes(),
                0o644,
            )
            .unwrap();
        let (second, new) = file(store.layout(), &name, &record, false).unwrap();
        assert!(new && second != path);
        assert_eq!(files_in(&store.layout().apel_archive()).len(), 2);
    }
}
