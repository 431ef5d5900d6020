//! `vcycled status MACHINE`: the whole story of one machine.

use std::fs;

use super::ask::{self, Answer};
use super::exit::{Exit, Failure};
use super::human::{Cell, Paint, Style, ago, length, moment, printable, table};
use super::status::to_json;
use super::told;
use crate::config;
use crate::daemon::admin::ToldMachine;
use crate::daemon::{Phase, Settings};
use crate::model::{Ended, MachineFiles, MachineName, ShutdownMessage, Timestamp};
use crate::state::{Layout, Published, Store};

/// Everything about one machine.
///
/// # Errors
/// When there is no such machine, or what there is cannot be read.
pub fn tell(
    settings: &Settings,
    name: &MachineName,
    json: bool,
    style: Style,
) -> Result<String, Failure> {
    let layout = Layout::new(&settings.state_dir);
    let store = Store::open_to_read(layout.clone());
    let files = store
        .load_machine(name)
        .map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
    let answer = ask::daemon(&layout, &format!("/v1/machines/{name}"))?;
    let runs = answer != Answer::NoDaemon;
    let told = match answer {
        Answer::Told(body) => ask::understand(&body)?,
        Answer::Unknown | Answer::NoDaemon => {
            let files = files.as_ref().ok_or_else(|| {
                let place = layout.machine(name);
                Failure::new(
                    Exit::Usage,
                    format!(
                        "there is no machine {name}: no {}; the directory of one that has ended is kept for cleanup_hours",
                        place.display()
                    ),
                )
            })?;
            from_files(settings, &store, files)
        }
    };
    if json {
        return to_json(&told);
    }
    Ok(story(&told, files.as_ref(), runs, &layout, style))
}

fn from_files(settings: &Settings, store: &Store, files: &MachineFiles) -> ToldMachine {
    let loaded = config::load(&settings.sources, &settings.config_context()).config;
    let config = loaded
        .as_ref()
        .and_then(|config| config.spaces.get(&files.space));
    let mut machines = told::on_disk(store, std::slice::from_ref(files), config);
    ToldMachine {
        now: settings.clock.now(),
        space: files.space.clone(),
        last_scan: store.last_scan(&files.space).unwrap_or_default(),
        // There is one for each directory.
        machine: machines.swap_remove(0),
    }
}

fn story(
    told: &ToldMachine,
    files: Option<&MachineFiles>,
    runs: bool,
    layout: &Layout,
    style: Style,
) -> String {
    let (machine, now) = (&told.machine, told.now);
    let mut text = style.paint(Paint::Bold, &format!("machine {}", machine.name));
    text += &format!("  {}\n", machine.phase);
    if !runs {
        let line = "no daemon runs here: this is what the state directory says";
        text += &format!("  {}\n", style.paint(Paint::Bad, line));
    }
    let mut rows = Vec::new();
    let mut row = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            let what = Cell::text(what).painted(Paint::Faint);
            rows.push(vec![what, Cell::text(value)]);
        }
    };
    row("space", Some(told.space.to_string()));
    row("machinetype", Some(machine.machinetype.to_string()));
    row(
        "cloud's identifier",
        machine.id.as_ref().map(ToString::to_string),
    );
    let word = Some(&machine.status).filter(|word| !word.is_empty());
    row("cloud's state", word.cloned());
    row("cloud's complaint", machine.fault.clone());
    row("address", machine.address.clone());
    row("zone", machine.zone.clone());
    row("flavor", files.and_then(|files| files.flavor.clone()));
    row(
        "processors",
        machine.processors.map(|count| count.to_string()),
    );
    row(
        "power in HS06",
        files
            .and_then(|files| files.hs06)
            .map(|power| power.get().to_string()),
    );
    row("last listing", told.last_scan.map(|at| ago(now, at)));
    let silent = (machine.heartbeat_expected && machine.phase == Phase::Running)
        .then(|| "none yet".to_owned());
    let heartbeat = machine.heartbeat.map(|at| ago(now, at));
    row("heartbeat", heartbeat.or(silent));
    row(
        "told to be down by",
        machine.shutdowntime.map(|at| moment(now, at)),
    );
    let message = machine.message.as_ref().map(ShutdownMessage::text);
    row("shutdown message", message.map(str::to_owned));
    text += &table(style, 2, &rows);
    text += &format!("  {}\n", style.paint(Paint::Faint, "story"));
    text += &table(style, 4, &events(told, files));
    let written = joboutputs(layout, &machine.name, now);
    if !written.is_empty() {
        let directory = layout.published(&machine.name, Published::Joboutputs);
        let line = format!("files in {}", directory.display());
        text += &format!("  {}\n", style.paint(Paint::Faint, &line));
        text += &table(style, 4, &written);
    }
    text
}

/// What happened to it, in order.
fn events(told: &ToldMachine, files: Option<&MachineFiles>) -> Vec<Vec<Cell>> {
    let machine = &told.machine;
    let mut events: Vec<(Timestamp, String)> = vec![(machine.created, "asked for".to_owned())];
    let mut event = |at: Option<Timestamp>, what: String| {
        events.extend(at.map(|at| (at, what)));
    };
    if let Some(started) = machine.started {
        let after = length(started.since(machine.created));
        event(Some(started), format!("began to run, after {after}"));
    }
    event(machine.heartbeat, "last heartbeat".to_owned());
    event(
        files.and_then(|files| files.updated.filter(|_| files.stopped.is_none())),
        "last known to run, before the cloud did not list it".to_owned(),
    );
    if let Some(stopped) = machine.stopped {
        let ran = machine.started.map_or_else(
            || "ended; it was never seen running".to_owned(),
            |started| format!("ended, having run for {}", length(stopped.since(started))),
        );
        event(Some(stopped), ran);
    }
    let why = match machine.ended {
        Some(Ended::Heartbeat) => "asked the cloud to delete it, for its heartbeat",
        Some(Ended::Other) | None => "asked the cloud to delete it",
    };
    event(machine.deleted, why.to_owned());
    event(
        files.and_then(|files| files.logged),
        "what it wrote was copied".to_owned(),
    );
    event(
        files.and_then(|files| files.finished),
        "its end was written down, with the abort time and the accounting record if there are any"
            .to_owned(),
    );
    events.sort_by_key(|(at, _)| *at);
    let rows = events.into_iter().map(|(at, what)| {
        let age = ago(told.now, at);
        vec![
            Cell::text(at.to_rfc3339()),
            Cell::number(age).painted(Paint::Faint),
            Cell::text(what),
        ]
    });
    rows.collect()
}

/// What it has written, by name, with size and age.
fn joboutputs(layout: &Layout, name: &MachineName, now: Timestamp) -> Vec<Vec<Cell>> {
    let directory = layout.published(name, Published::Joboutputs);
    // A directory that is not there or not ours to read has nothing to show.
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let found = entry.metadata().ok()?;
            let written = Timestamp::from_system_time(found.modified().ok()?);
            let name = entry.file_name().to_string_lossy().into_owned();
            (found.is_file() && !name.starts_with('.'))
                .then(|| (printable(&name), found.len(), written))
        })
        .collect();
    files.sort();
    let rows = files.into_iter().map(|(name, bytes, written)| {
        vec![
            Cell::text(name),
            Cell::number(format!("{bytes} bytes")),
            Cell::number(ago(now, written)),
        ]
    });
    rows.collect()
}
