//! The records that there are, in the archive and in the queue, and what can be done with one.
//!
//! A daemon may add records meanwhile, and a sender take them away: each appears and disappears
//! whole, and the archive is read first, so that none seems to be sent that still waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::Days;

use super::message::{self, Fields, JobRecord, Key, Message, is_digits, list};
use super::queue::{self, Added, GROWING, LOCKED};
use super::spool;
use crate::model::{CloudId, MachineName, Timestamp};
use crate::state::{Layout, StateError};

/// Older versions named a directory by when a record was written, in the zone of the host: records
/// of a day are looked for from the day before it until so many days after it.
const DAYS_AFTER: Days = Days::new(7);

/// The fields that are kept of each record besides those that it is known by: an archive may hold
/// millions, and who wants the rest of one reads it.
const KEPT: [&str; 5] = [
    "LocalUserId",
    "Processors",
    "Queue",
    "StartTime",
    "WallDuration",
];

/// From when until when machines ended whose records are meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// The first moment.
    pub since: Option<Timestamp>,
    /// The last moment.
    pub until: Option<Timestamp>,
}

impl Range {
    /// Whether a machine that ended at `end` is meant.
    pub fn contains(&self, end: Timestamp) -> bool {
        self.since.is_none_or(|since| end >= since) && self.until.is_none_or(|until| end <= until)
    }

    /// Whether a directory of the archive can hold such records.
    fn may_be_in(&self, directory: &str) -> bool {
        let day = |time: Option<Timestamp>| Some(time?.to_chrono()?.date_naive());
        let name = |day: chrono::NaiveDate| day.format("%Y%m%d").to_string();
        let first = day(self.since).and_then(|day| day.checked_sub_days(Days::new(1)));
        let last = day(self.until).and_then(|day| day.checked_add_days(DAYS_AFTER));
        // What is not named by a day may be anything.
        !is_digits(directory, 8)
            || (first.is_none_or(|first| directory >= name(first).as_str())
                && last.is_none_or(|last| directory <= name(last).as_str()))
    }
}

/// A message in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Where.
    pub path: PathBuf,
    /// A sender works on it.
    pub locked: bool,
}

/// A record, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says; of its fields only the most wanted.
    pub record: JobRecord,
    /// Its files in the archive: one, unless somebody has copied it.
    pub archived: Vec<PathBuf>,
    /// Where it is in the queue: once, unless something has queued it again.
    pub queued: Vec<Queued>,
}

/// What is to become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is in the queue.
    Waiting,
    /// It is in the queue and a sender works on it.
    Sending,
    /// It was in the queue, and a sender has taken it.
    Sent,
    /// It is in the archive only: its site is none that records are sent for.
    Kept,
}

impl Entry {
    /// What is to become of it, where records are sent for these sites. Without a configuration
    /// what is not in the queue counts as sent.
    pub fn state(&self, sites: Option<&BTreeSet<String>>) -> State {
        if self.queued.iter().any(|queued| queued.locked) {
            State::Sending
        } else if !self.queued.is_empty() {
            State::Waiting
        } else if sites.is_none_or(|sites| sites.contains(&self.record.key.site)) {
            State::Sent
        } else {
            State::Kept
        }
    }

    /// Where it is: in the archive, else in the queue.
    pub fn path(&self) -> Option<&Path> {
        let queued = self.queued.first().map(|queued| queued.path.as_path());
        self.archived.first().map(PathBuf::as_path).or(queued)
    }

    /// What it is called: directory and file.
    pub fn name(&self) -> String {
        self.path().map(name_of).unwrap_or_default()
    }

    /// Whether it is the record of a machine, whose identifier may be known: by what it says, or by
    /// its name, which follows from that of the machine.
    pub fn is_of(&self, machine: &MachineName, id: Option<&CloudId>) -> bool {
        let user = self.record.field("LocalUserId");
        let job = self.record.key.local_job_id.as_str();
        if [user, Some(job)].contains(&Some(machine.as_str()))
            || id.is_some_and(|id| id.as_str() == job)
        {
            return true;
        }
        let kind = machine.machinetype();
        let is_kind = self.record.field("Queue") == kind.as_ref().map(|kind| kind.as_str());
        let number = format!("{:08}", spool::number(machine.as_str().as_bytes()));
        let queued = self.queued.iter().map(|queued| &queued.path);
        let mut names = self.archived.iter().chain(queued).filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            name.get(6..).filter(|_| is_digits(name, 14))
        });
        id.is_none() && is_kind && names.any(|end| end == number)
    }
}

/// What a path below the archive or the queue is called.
pub fn name_of(path: &Path) -> String {
    let part = |path: Option<&Path>| {
        let name = path.and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    format!("{}/{}", part(path.parent()), part(Some(path)))
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The records, in order of the ends of their machines.
    pub entries: Vec<Entry>,
    /// Counts of records that wait to be sent.
    pub counts: Vec<(Queued, Vec<Fields>)>,
    /// What is being written to the queue just now, or was left when its writer was killed.
    pub growing: Vec<PathBuf>,
    /// Files that are no records, and why not. They stay where they are.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Reads the archive and the queue.
///
/// # Errors
/// When one of their directories cannot be listed. What does not exist is empty.
pub fn read(layout: &Layout, range: Range) -> Result<Ledger, StateError> {
    let mut ledger = Ledger::default();
    let mut known: BTreeMap<Key, Entry> = BTreeMap::new();
    let mut archive = Vec::new();
    for day in list(&layout.apel_archive())? {
        let name = day.file_name().and_then(|name| name.to_str());
        if !day.is_dir() {
            let why = "is not in a directory of a day".to_owned();
            ledger.skipped.push((day, why));
        } else if name.is_none_or(|name| range.may_be_in(name)) {
            archive.extend(list(&day)?);
        }
    }
    archive.sort();
    for (path, read) in message::read_all(&archive, read_jobs) {
        match read {
            Ok(records) => {
                for record in records {
                    let entry = entry(&mut known, record);
                    if entry.archived.last() != Some(&path) {
                        entry.archived.push(path.clone());
                    }
                }
            }
            Err(why) => ledger.skip(path, why),
        }
    }
    read_queue(layout, &mut ledger, &mut known)?;
    ledger.entries = known
        .into_values()
        .filter(|entry| range.contains(entry.record.end()))
        .collect();
    ledger
        .entries
        .sort_by_cached_key(|entry| (entry.record.end(), entry.name()));
    Ok(ledger)
}

/// The first directory of a day in the archive.
///
/// # Errors
/// When the archive cannot be listed.
pub fn first_day(layout: &Layout) -> Result<Option<String>, StateError> {
    let days = list(&layout.apel_archive())?;
    let names = days.iter().filter_map(|day| day.file_name()?.to_str());
    let names = names.filter(|name| is_digits(name, 8));
    Ok(names.min().map(str::to_owned))
}

fn entry(known: &mut BTreeMap<Key, Entry>, record: JobRecord) -> &mut Entry {
    known.entry(record.key.clone()).or_insert_with(|| Entry {
        record,
        archived: Vec::new(),
        queued: Vec::new(),
    })
}

fn read_jobs(path: &Path) -> Result<Vec<JobRecord>, String> {
    message::parse_jobs(&message::read_text(path)?).map(shortened)
}

fn read_message(path: &Path) -> Result<Message, String> {
    Ok(match message::parse(&message::read_text(path)?)? {
        Message::Jobs(records) => Message::Jobs(shortened(records)),
        counts @ Message::Sync(_) => counts,
    })
}

fn shortened(mut records: Vec<JobRecord>) -> Vec<JobRecord> {
    for record in &mut records {
        record
            .fields
            .retain(|name, _| KEPT.contains(&name.as_str()));
    }
    records
}

fn read_queue(
    layout: &Layout,
    ledger: &mut Ledger,
    known: &mut BTreeMap<Key, Entry>,
) -> Result<(), StateError> {
    let (mut elements, mut locks) = (Vec::new(), BTreeSet::new());
    for directory in list(&layout.apel_outgoing())? {
        let name = directory.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(queue::is_directory) || !directory.is_dir() {
            let why = "is no directory of a queue, 8 hexadecimal digits; senders pass over it";
            ledger.skipped.push((directory, why.to_owned()));
            continue;
        }
        for path in list(&directory)? {
            let name = path.file_name().and_then(|name| name.to_str());
            match name.unwrap_or_default() {
                name if queue::is_element(name) => elements.push(path),
                name if name.ends_with(GROWING) => ledger.growing.push(path),
                name if name.ends_with(LOCKED) => {
                    locks.insert(path.with_extension(""));
                }
                _ => {
                    let why = "its name is not that of a message, 14 hexadecimal digits; \
                               senders pass over it";
                    ledger.skipped.push((path, why.to_owned()));
                }
            }
        }
    }
    elements.sort();
    ledger.growing.sort();
    for (path, read) in message::read_all(&elements, read_message) {
        let locked = locks.contains(&path);
        let queued = |path| Queued { path, locked };
        match read {
            Ok(Message::Jobs(records)) => {
                for record in records {
                    entry(known, record).queued.push(queued(path.clone()));
                }
            }
            Ok(Message::Sync(blocks)) => ledger.counts.push((queued(path), blocks)),
            Err(why) => ledger.skip(path, why),
        }
    }
    Ok(())
}

impl Ledger {
    /// Notes what cannot be read, unless a sender has taken it away meanwhile.
    fn skip(&mut self, path: PathBuf, why: String) {
        if path.symlink_metadata().is_ok() {
            self.skipped.push((path, why));
        }
    }
}

/// Why a record is not queued again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has not been sent yet.
    #[error("it still waits in {}", .0.display())]
    Waits(PathBuf),
    /// Nothing of it is in the archive.
    #[error("it is not in the archive")]
    NotArchived,
    /// Records of its site are not sent.
    #[error(
        "no space has the gocdb_sitename {0:?} of its Site, and the server would refuse or misfile it"
    )]
    Site(String),
}

/// Whether a record may be queued again, and from which file of the archive.
///
/// # Errors
/// Why it may not.
pub fn may_resend<'a>(entry: &'a Entry, sites: &BTreeSet<String>) -> Result<&'a Path, Refusal> {
    if let Some(queued) = entry.queued.first() {
        return Err(Refusal::Waits(queued.path.clone()));
    }
    let path = entry.archived.first().ok_or(Refusal::NotArchived)?;
    if !sites.contains(&entry.record.key.site) {
        return Err(Refusal::Site(entry.record.key.site.clone()));
    }
    Ok(path)
}

/// Puts a file of the archive into the queue again, as it is. It gets the name that it has in the
/// archive, so that two who do this at once queue it once; one whose name senders would pass over
/// gets another.
///
/// # Errors
/// When it cannot be read or written; when only the last sync fails, it may be in the queue.
pub fn resend(
    layout: &Layout,
    archived: &Path,
    now: Timestamp,
) -> Result<(PathBuf, Added), StateError> {
    let damaged = |what| StateError::Damaged {
        path: archived.to_owned(),
        what,
    };
    let text = message::read_text(archived).map_err(damaged)?;
    message::parse_jobs(&text).map_err(damaged)?;
    let name = name_of(archived);
    let is_good = name
        .split_once('/')
        .is_some_and(|(day, name)| queue::is_directory(day) && queue::is_element(name));
    if !is_good {
        return queue::add(layout, &text, now).map(|path| (path, Added::New));
    }
    let path = layout.apel_outgoing().join(name);
    queue::add_as(layout, &path, &text).map(|added| (path, added))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(id: &str, end: u64) -> String {
        format!(
            "APEL-individual-job-message: v0.3\nSite: A\nSubmitHost: s.org/vcycle-f\n\
             LocalJobId: {id}\nLocalUserId: f\nQueue: a\nEndTime: {end}\n%%\n"
        )
    }

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for (path, text) in files {
            let path = dir.path().join(path);
            let disk = layout.disk();
            disk.create_dir_all(path.parent().unwrap()).unwrap();
            disk.create_synced(&path, text.as_bytes(), 0o644).unwrap();
        }
        (dir, layout)
    }

    #[test]
    fn a_record_is_one_entry_wherever_it_is() {
        let (one, two, three) = (text("1", 1000), text("2", 900), text("3", 1100));
        let (_dir, layout) = tree(&[
            ("apel-archive/19700101/00164000000001", &one),
            ("apel-archive/19700101/00150000000002", &two),
            ("apel-outgoing/19700101/00164000000001", &one),
            ("apel-outgoing/19700101/00164000000001.lck", &one),
            // As dirq's own add names it, and without an archive.
            ("apel-outgoing/0000044c/0000044c000010", &three),
            ("apel-outgoing/0000044c/0000044c000011.tmp", "APEL-"),
            ("apel-outgoing/0000044c/1234.5", &three),
        ]);
        let ledger = read(&layout, Range::default()).unwrap();
        let states: Vec<_> = ledger
            .entries
            .iter()
            .map(|entry| entry.state(None))
            .collect();
        assert_eq!(states, [State::Sent, State::Sending, State::Waiting]);
        assert!(ledger.entries[2].archived.is_empty());
        assert_eq!(ledger.entries[2].name(), "0000044c/0000044c000010");
        assert_eq!((ledger.growing.len(), ledger.skipped.len()), (1, 1));
        let none = BTreeSet::new();
        assert_eq!(ledger.entries[0].state(Some(&none)), State::Kept);
        let range = Range {
            since: Some(Timestamp::from_unix(950)),
            until: Some(Timestamp::from_unix(1000)),
        };
        assert_eq!(read(&layout, range).unwrap().entries.len(), 1);
    }

    #[test]
    fn directories_that_can_hold_nothing_of_a_range_are_not_read() {
        let day = |text: &str| Timestamp::parse_iso8601(text);
        let range = Range {
            since: day("2026-03-10T00:30:00Z"),
            until: day("2026-03-12T00:00:00Z"),
        };
        // Written in a zone west of Greenwich, and late.
        for (directory, expected) in [
            ("20260308", false),
            ("20260309", true),
            ("20260319", true),
            ("20260320", false),
            ("misc", true),
        ] {
            assert_eq!(range.may_be_in(directory), expected, "{directory}");
        }
    }

    #[test]
    fn only_what_has_been_sent_is_queued_again_and_once() {
        let one = text("1", 1000);
        let path = "apel-archive/19700101/00164000000001";
        let (_dir, layout) = tree(&[(path, &one)]);
        let sites = BTreeSet::from(["A".to_owned()]);
        let found = read(&layout, Range::default()).unwrap().entries;
        let archived = may_resend(&found[0], &sites).unwrap();
        let other = may_resend(&found[0], &BTreeSet::new()).unwrap_err();
        assert_eq!(other, Refusal::Site("A".to_owned()));
        let now = Timestamp::from_unix(5000);
        let (queued, added) = resend(&layout, archived, now).unwrap();
        assert_eq!(added, Added::New);
        let again = resend(&layout, archived, now).unwrap();
        assert_eq!(again, (queued.clone(), Added::Taken));
        let found = read(&layout, Range::default()).unwrap().entries;
        assert_eq!(may_resend(&found[0], &sites), Err(Refusal::Waits(queued)));
    }

    #[test]
    fn a_machine_is_found_by_what_a_record_says_and_by_its_name() {
        let machine = MachineName::new("vcycle-a-aaaaaaaaaa").unwrap();
        let number = spool::number(machine.as_str().as_bytes());
        let ours = format!("apel-archive/19700101/001640{number:08}");
        let older =
            text("uuid-2", 900).replace("LocalUserId: f", "LocalUserId: vcycle-a-aaaaaaaaaa");
        let (_dir, layout) = tree(&[
            (&ours, &text("uuid-1", 1000)),
            ("apel-archive/19700101/00150000000002", &older),
            ("apel-archive/19700101/00160000000002", &text("uuid-3", 960)),
        ]);
        let ledger = read(&layout, Range::default()).unwrap();
        let of = |id: Option<&str>| -> Vec<String> {
            let id = id.map(CloudId::new);
            let entries = ledger.entries.iter();
            let found = entries.filter(|entry| entry.is_of(&machine, id.as_ref()));
            found
                .map(|entry| entry.record.key.local_job_id.clone())
                .collect()
        };
        assert_eq!(of(None), ["uuid-2", "uuid-1"]);
        assert_eq!(of(Some("uuid-3")), ["uuid-2", "uuid-3"]);
    }
}
