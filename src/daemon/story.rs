//! The whole story of one machine, for `vcycled status MACHINE` and the dashboard: what is known of
//! it, what happened to it, and what it wrote.

use std::fs;

use serde::{Deserialize, Serialize};

use super::Phase;
use super::admin::ToldMachine;
use crate::model::{Ended, MachineFiles, MachineName, ShutdownMessage, Timestamp};
use crate::state::{Layout, Published, Store};

/// The most files of a machine that are told of.
const FILES: usize = 1000;

/// All there is to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// The time that ages are counted from.
    pub now: Timestamp,
    /// The machine.
    pub name: MachineName,
    /// How far it is.
    pub phase: Phase,
    /// What is known of it.
    pub facts: Vec<Fact>,
    /// What happened to it, in order.
    pub events: Vec<Happened>,
    /// The directory that it writes to.
    pub directory: String,
    /// What it has written, by name.
    pub files: Vec<Written>,
}

/// Something that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is.
    pub what: String,
    /// The value.
    #[serde(flatten)]
    pub value: Value,
}

/// How a value is to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// As it is. It may come from a cloud or a VM.
    Text(String),
    /// As an age.
    Ago(Timestamp),
    /// As a moment, and how long it is until then or was.
    Moment(Timestamp),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum What {
    /// Its directory was made and the cloud asked for it.
    AskedFor,
    /// It began to run.
    Began {
        /// How long after it was asked for.
        after: crate::model::Seconds,
    },
    /// Its last heartbeat came.
    Heartbeat,
    /// The last time that it was known to run, before the cloud did not list it.
    LastKnown,
    /// It ended.
    Ended {
        /// For how long it had run, if it was seen running.
        ran: Option<crate::model::Seconds>,
    },
    /// The cloud was asked to delete it.
    Deleted {
        /// Whether that was for its heartbeat.
        for_heartbeat: bool,
    },
    /// What it wrote was copied.
    Copied,
    /// Its end was written down.
    WrittenDown,
}

/// A file that a machine has written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub at: Timestamp,
}

/// The story of a machine as `told`, with what its directory says if that can be read.
pub fn story(told: &ToldMachine, store: &Store) -> Story {
    // What cannot be read is not told.
    let files = store.load_machine(&told.machine.name).unwrap_or_default();
    let layout = store.layout();
    let directory = layout.published(&told.machine.name, Published::Joboutputs);
    Story {
        now: told.now,
        name: told.machine.name.clone(),
        phase: told.machine.phase,
        facts: facts(told, files.as_ref()),
        events: events(told, files.as_ref()),
        directory: directory.display().to_string(),
        files: written(layout, &told.machine.name),
    }
}

fn facts(told: &ToldMachine, files: Option<&MachineFiles>) -> Vec<Fact> {
    let machine = &told.machine;
    let mut facts = Vec::new();
    let mut fact = |what: &str, value: Option<Value>| {
        facts.extend(value.map(|value| Fact {
            what: what.to_owned(),
            value,
        }));
    };
    let text = |text: Option<String>| text.map(Value::Text);
    fact("space", text(Some(told.space.to_string())));
    fact("machinetype", text(Some(machine.machinetype.to_string())));
    let id = machine.id.as_ref().map(ToString::to_string);
    fact("cloud's identifier", text(id));
    let word = Some(&machine.status).filter(|word| !word.is_empty());
    fact("cloud's state", text(word.cloned()));
    fact("cloud's complaint", text(machine.fault.clone()));
    fact("address", text(machine.address.clone()));
    fact("zone", text(machine.zone.clone()));
    let flavor = files.and_then(|files| files.flavor.clone());
    fact("flavor", text(flavor));
    let processors = machine.processors.map(|count| count.to_string());
    fact("processors", text(processors));
    let power = files.and_then(|files| files.hs06);
    let power = power.map(|power| power.get().to_string());
    fact("power in HS06", text(power));
    fact("last listing", told.last_scan.map(Value::Ago));
    let silent = (machine.heartbeat_expected && machine.phase == Phase::Running)
        .then(|| Value::Text("none yet".to_owned()));
    let heartbeat = machine.heartbeat.map(Value::Ago);
    fact("heartbeat", heartbeat.or(silent));
    let down = machine.shutdowntime.map(Value::Moment);
    fact("told to be down by", down);
    let message = machine.message.as_ref().map(ShutdownMessage::text);
    fact("shutdown message", text(message.map(str::to_owned)));
    facts
}

fn events(told: &ToldMachine, files: Option<&MachineFiles>) -> Vec<Happened> {
    let machine = &told.machine;
    let mut events = vec![Happened {
        at: machine.created,
        what: What::AskedFor,
    }];
    let mut event = |at: Option<Timestamp>, what: What| {
        events.extend(at.map(|at| Happened { at, what }));
    };
    if let Some(started) = machine.started {
        let after = started.since(machine.created);
        event(Some(started), What::Began { after });
    }
    event(machine.heartbeat, What::Heartbeat);
    let updated = files.and_then(|files| files.updated.filter(|_| files.stopped.is_none()));
    event(updated, What::LastKnown);
    if let Some(stopped) = machine.stopped {
        let ran = machine.started.map(|started| stopped.since(started));
        event(Some(stopped), What::Ended { ran });
    }
    let for_heartbeat = match machine.ended {
        Some(Ended::Heartbeat) => true,
        Some(Ended::Other) | None => false,
    };
    event(machine.deleted, What::Deleted { for_heartbeat });
    event(files.and_then(|files| files.logged), What::Copied);
    event(files.and_then(|files| files.finished), What::WrittenDown);
    events.sort_by_key(|event| event.at);
    events
}

fn written(layout: &Layout, name: &MachineName) -> Vec<Written> {
    // A directory that is not there or not ours to read has nothing to show.
    let Ok(entries) = fs::read_dir(layout.published(name, Published::Joboutputs)) else {
        return Vec::new();
    };
    let files = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let found = entry.metadata().ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let at = Timestamp::from_system_time(found.modified().ok()?);
        let bytes = found.len();
        (found.is_file() && !name.starts_with('.')).then_some(Written { name, bytes, at })
    });
    let mut files: Vec<Written> = files.take(FILES).collect();
    files.sort();
    files
}
