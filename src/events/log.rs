//! The file of events: appended to, rotated by size, and reopened when somebody else has moved it.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Entry, Recent};
use crate::blocking;
use crate::state::Disk;
use crate::state::disk::{NewFile, PUBLIC, directory_of};

/// So many old files are kept, named like the file with `.1` (the latest) to this number behind it.
const KEPT: u32 = 4;

/// So many batches of events may wait for a slow disk; those that come then are lost and counted.
const QUEUE: usize = 1024;

/// How long the end waits for what is still to be written.
const LINGER: Duration = Duration::from_secs(2);

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The size at which it is rotated, in bytes.
    pub max_bytes: u64,
}

/// Takes events. Taking one never waits and never fails.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    queue: Option<mpsc::Sender<Message>>,
    lost: Arc<AtomicU64>,
    recent: Arc<watch::Sender<Recent>>,
}

#[derive(Debug)]
enum Message {
    Entries(Vec<Entry>),
    Reopen,
    End,
}

/// The task that writes.
#[derive(Debug)]
pub struct Writing(JoinHandle<()>);

impl EventLog {
    /// Begins to write to `place`; `None` is a log that keeps only the latest, in memory.
    pub fn start(place: Option<Place>, disk: &Disk) -> (Self, Option<Writing>) {
        let Some(place) = place else {
            return (Self::default(), None);
        };
        let (queue, messages) = mpsc::channel(QUEUE);
        let log = Self {
            queue: Some(queue),
            ..Self::default()
        };
        let writer = Writer {
            place,
            disk: disk.clone(),
            open: None,
            failing: false,
            lost: Arc::clone(&log.lost),
        };
        let task = tokio::spawn(write_all(writer, messages));
        (log, Some(Writing(task)))
    }

    /// Takes events that belong together, in their order.
    pub fn take(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        self.recent.send_modify(|recent| recent.extend(&entries));
        let count = entries.len();
        self.send(Message::Entries(entries), count);
    }

    /// The latest events, and to be told of new ones.
    pub fn recent(&self) -> watch::Receiver<Recent> {
        self.recent.subscribe()
    }

    /// Opens the file anew: whoever rotates it may have moved it.
    pub fn reopen(&self) {
        self.send(Message::Reopen, 0);
    }

    fn send(&self, message: Message, count: usize) {
        let Some(queue) = &self.queue else {
            return;
        };
        if queue.try_send(message).is_err() {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Writing {
    /// Waits until all is written that `log` has taken, not for long.
    pub async fn end(self, log: &EventLog) {
        log.send(Message::End, 0);
        if tokio::time::timeout(LINGER, self.0).await.is_err() {
            warn!("the last events could not be written in time");
        }
    }
}

async fn write_all(mut writer: Writer, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        let is_last = matches!(message, Message::End);
        writer = blocking::run(move || {
            match message {
                Message::Entries(entries) => writer.write(&entries),
                Message::Reopen | Message::End => writer.open = None,
            }
            writer
        })
        .await;
        if is_last {
            return;
        }
    }
}

#[derive(Debug)]
struct Writer {
    place: Place,
    disk: Disk,
    open: Option<Open>,
    /// Whether the last try failed, which is told once.
    failing: bool,
    /// Events that could not be written.
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Open {
    file: NewFile,
    inode: u64,
    bytes: u64,
}

impl Writer {
    fn write(&mut self, entries: &[Entry]) {
        let mut lines = Vec::new();
        for entry in entries {
            // Nothing in an entry can fail to be written as JSON.
            if serde_json::to_writer(&mut lines, entry).is_ok() {
                lines.push(b'\n');
            }
        }
        let path = self.place.path.display().to_string();
        match self.try_write(&lines) {
            Ok(()) if self.failing => {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                info!("events are written to {path} again; {lost} were lost");
                self.failing = false;
            }
            Ok(()) => {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    warn!("{lost} event(s) came faster than {path} takes them, and were lost");
                }
            }
            Err(error) => {
                if !self.failing {
                    warn!(
                        "cannot write events to {path}: {error}; going on without, and trying again with each"
                    );
                }
                self.failing = true;
                // What was written of a line is found when the file is opened again.
                self.open = None;
                let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                self.lost.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        self.forget_what_was_moved();
        let full = self.open.as_ref().is_some_and(|open| {
            open.bytes > 0 && open.bytes.saturating_add(length) > self.place.max_bytes
        });
        if full {
            self.open = None;
            self.rotate()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            closed => {
                let mut fresh = open(&self.disk, &self.place.path)?;
                if fresh.bytes.saturating_add(length) > self.place.max_bytes && fresh.bytes > 0 {
                    drop(fresh);
                    rotate(&self.disk, &self.place.path)?;
                    fresh = open(&self.disk, &self.place.path)?;
                }
                closed.insert(fresh)
            }
        };
        open.file.write_all(lines)?;
        open.bytes = open.bytes.saturating_add(length);
        Ok(())
    }

    /// A file that somebody has renamed or removed gets no more events.
    fn forget_what_was_moved(&mut self) {
        let there = fs::metadata(&self.place.path).ok();
        let there = there.map(|found| found.ino());
        if self.open.as_ref().map(|open| open.inode) != there {
            self.open = None;
        }
    }

    fn rotate(&self) -> io::Result<()> {
        rotate(&self.disk, &self.place.path)
    }
}

fn open(disk: &Disk, path: &Path) -> io::Result<Open> {
    let directory = directory_of(path);
    if !directory.is_dir() {
        disk.create_dir_all(directory)?;
    }
    let mut file = disk.append(path, PUBLIC)?;
    let found = fs::metadata(path)?;
    let mut bytes = found.len();
    if bytes > 0 && !ends_a_line(path)? {
        file.write_all(b"\n")?;
        bytes += 1;
    }
    Ok(Open {
        file,
        inode: found.ino(),
        bytes,
    })
}

/// A process that was killed, and a disk that was full, may have left part of a line.
fn ends_a_line(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The name of an old file.
fn old(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rotate(disk: &Disk, path: &Path) -> io::Result<()> {
    for number in (1..KEPT).rev() {
        match disk.rename(&old(path, number), &old(path, number + 1)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    disk.rename(path, &old(path, 1))
}

/// The files of events that are there, the oldest first.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let old = (1..=KEPT).rev().map(|number| old(path, number));
    let all = old.chain([path.to_owned()]);
    all.filter(|file| file.is_file()).collect()
}

/// The events in a text, each with its line. Lines that are none of ours (one that a crash has cut
/// off) are left out.
pub fn read_lines(text: &str) -> impl Iterator<Item = (&str, Entry)> {
    let lines = text.lines();
    lines.filter_map(|line| Some((line, serde_json::from_str(line).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::model::Timestamp;

    fn entry(time: u64) -> Entry {
        Entry {
            time: Timestamp::from_unix(time),
            space: None,
            event: Event::ConfigReloaded {},
        }
    }

    fn writer(path: &Path, max_bytes: u64) -> Writer {
        Writer {
            place: Place {
                path: path.to_owned(),
                max_bytes,
            },
            disk: Disk::default(),
            open: None,
            failing: false,
            lost: Arc::default(),
        }
    }

    fn times(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let times = read_lines(&text).map(|(_, entry)| entry.time.unix());
        times.collect()
    }

    #[test]
    fn it_is_rotated_by_size_and_old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/events.jsonl");
        let line = serde_json::to_string(&entry(1000)).unwrap().len() + 1;
        let mut log = writer(&path, u64::try_from(3 * line).unwrap());
        for time in 1000..1020 {
            log.write(&[entry(time)]);
        }
        let kept: Vec<_> = files(&path).iter().map(|file| times(file)).collect();
        let all: Vec<u64> = kept.concat();
        assert_eq!(all, (1006..1020).collect::<Vec<_>>());
        assert_eq!(kept.len(), 5, "{kept:?}");
        assert_eq!(kept[0], [1006, 1007, 1008]);
        // A daemon that starts again goes by the size that the file has.
        let mut log = writer(&path, u64::try_from(3 * line).unwrap());
        log.write(&[entry(1020), entry(1021)]);
        assert_eq!(times(&path), [1020, 1021]);
    }

    #[test]
    fn a_file_that_was_moved_is_left_and_a_torn_line_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut log = writer(&path, 10_000);
        log.write(&[entry(1000)]);
        let moved = dir.path().join("moved");
        Disk::default().rename(&path, &moved).unwrap();
        log.write(&[entry(1001)]);
        assert_eq!((times(&moved), times(&path)), (vec![1000], vec![1001]));
        let mut torn = Disk::default().append(&path, PUBLIC).unwrap();
        torn.write_all(b"{\"time\":10").unwrap();
        log.open = None;
        log.write(&[entry(1002)]);
        assert_eq!(times(&path), [1001, 1002]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("blocked");
        Disk::default().create_new(&blocked, PUBLIC).unwrap();
        let mut log = writer(&blocked.join("events.jsonl"), 10_000);
        log.write(&[entry(1000), entry(1001)]);
        assert!(log.failing);
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
        Disk::default().remove_file(&blocked).unwrap();
        log.write(&[entry(1002)]);
        assert!(!log.failing);
        assert_eq!(log.lost.load(Ordering::Relaxed), 0);
        assert_eq!(times(&blocked.join("events.jsonl")), [1002]);
    }
}
