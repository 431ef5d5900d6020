//! `vcycled events`: reads the event log, and goes on reading it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::EventsOptions;
use super::exit::{Exit, Failure};
use super::human::{Paint, Style, printable};
use super::status::write;
use crate::daemon::Settings;
use crate::events::{self, Entry, Event};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Prints the events that were asked for.
pub fn run(settings: &Settings, options: &EventsOptions) -> Result<(), Failure> {
    let Some(place) = &settings.events else {
        return Err(Failure::new(
            Exit::Usage,
            "there is no event log: --event-log none",
        ));
    };
    let path = &place.path;
    let files = events::files(path);
    if files.is_empty() && !options.follow {
        return Err(Failure::new(
            Exit::Io,
            format!("there are no events: no {}", path.display()),
        ));
    }
    let style = Style::of_stdout();
    let failed = |error: io::Error| {
        Failure::new(Exit::Io, format!("cannot read {}: {error}", path.display()))
    };
    for old in files.iter().filter(|file| *file != path) {
        let text = std::fs::read(old).map_err(failed)?;
        print(&text, options, style)?;
    }
    let mut tail = Tail::of(path);
    loop {
        print(&tail.more().map_err(failed)?, options, style)?;
        if !options.follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

fn print(bytes: &[u8], options: &EventsOptions, style: Style) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for (line, entry) in events::read_lines(&text) {
        if !is_wanted(&entry, options) {
            continue;
        }
        if options.json {
            shown += line;
        } else {
            shown += &for_people(&entry, style);
        }
        shown.push('\n');
    }
    if shown.is_empty() {
        return Ok(());
    }
    write(&shown)
}

fn is_wanted(entry: &Entry, options: &EventsOptions) -> bool {
    let of_machine = options.machine.as_ref();
    let of_space = options.space.as_ref();
    options.since.is_none_or(|since| entry.time >= since)
        && of_machine.is_none_or(|machine| entry.event.machine() == Some(machine))
        && of_space.is_none_or(|space| entry.space.as_ref() == Some(space))
}

fn for_people(entry: &Entry, style: Style) -> String {
    let time = style.paint(Paint::Faint, &entry.time.to_rfc3339());
    let space = entry.space.as_ref().map_or("-", |space| space.as_str());
    let text = printable(&entry.event.to_string());
    format!(
        "{time}  {space}  {}",
        style.paint(paint(&entry.event), &text)
    )
}

const fn paint(event: &Event) -> Paint {
    match event {
        Event::ConfigRejected { .. } | Event::CycleFailed { .. } => Paint::Bad,
        Event::CreateFailed { .. }
        | Event::HeartbeatMissed { .. }
        | Event::BackoffBegan { .. }
        | Event::ShutdownBegan { .. }
        | Event::Ended { abort: true, .. } => Paint::Warning,
        Event::Running { .. } => Paint::Good,
        Event::DaemonStarted { .. }
        | Event::DaemonStopped {}
        | Event::ConfigReloaded {}
        | Event::Created { .. }
        | Event::Found { .. }
        | Event::Destroyed { .. }
        | Event::Ended { abort: false, .. }
        | Event::Accounted { .. }
        | Event::BackoffEnded { .. }
        | Event::ShutdownComplete {}
        | Event::ShutdownCancelled {}
        | Event::CycleRecovered { .. } => Paint::Plain,
    }
}

/// The end of a file that grows, and is moved away now and then.
struct Tail {
    path: PathBuf,
    file: Option<(File, u64)>,
    /// Part of a line, whose rest is still to come.
    begun: Vec<u8>,
}

impl Tail {
    fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            begun: Vec::new(),
        }
    }

    /// The whole lines that have come since the last call.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.begun);
        if let Some((file, _)) = &mut self.file {
            file.read_to_end(&mut bytes)?;
        }
        if self.has_moved() {
            // What was written to the old one until it was moved has been read, but for what came
            // in this very moment.
            if let Some((file, _)) = &mut self.file {
                file.read_to_end(&mut bytes)?;
            }
            if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            self.file = match File::open(&self.path) {
                Ok(mut file) => {
                    file.read_to_end(&mut bytes)?;
                    let inode = file.metadata()?.ino();
                    Some((file, inode))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        self.begun = bytes.split_off(whole.map_or(0, |last| last + 1));
        Ok(bytes)
    }

    fn has_moved(&self) -> bool {
        let there = std::fs::metadata(&self.path).ok().map(|found| found.ino());
        there != self.file.as_ref().map(|(_, inode)| *inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Disk;
    use crate::state::disk::PUBLIC;

    #[test]
    fn a_log_is_followed_line_by_line_across_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let disk = Disk::default();
        let add = |text: &[u8]| disk.append(&path, PUBLIC).unwrap().write_all(text).unwrap();
        let mut tail = Tail::of(&path);
        let mut more = || String::from_utf8(tail.more().unwrap()).unwrap();
        assert_eq!(more(), "");
        add(b"one\ntw");
        assert_eq!(more(), "one\n");
        add(b"o\n");
        assert_eq!(more(), "two\n");
        add(b"three\n");
        disk.rename(&path, &dir.path().join("events.jsonl.1"))
            .unwrap();
        add(b"four\n");
        assert_eq!(more(), "three\nfour\n");
        assert_eq!(more(), "");
    }
}
