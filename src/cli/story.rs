//! `vcycled status MACHINE`: the whole story of one machine.

use super::ask::{self, Answer};
use super::exit::{Exit, Failure};
use super::human::{Cell, Paint, Style, ago, length, moment, table};
use super::status::to_json;
use super::told;
use crate::config;
use crate::daemon::Settings;
use crate::daemon::admin::ToldMachine;
use crate::daemon::story::{Story, Value, What, story};
use crate::model::{MachineFiles, MachineName};
use crate::state::{Layout, Store};

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
    Ok(show(&story(&told, &store), runs, style))
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

fn show(story: &Story, runs: bool, style: Style) -> String {
    let now = story.now;
    let mut text = style.paint(Paint::Bold, &format!("machine {}", story.name));
    text += &format!("  {}\n", story.phase);
    if !runs {
        let line = "no daemon runs here (journalctl -u vcycled may tell why): this is what the state directory says";
        text += &format!("  {}\n", style.paint(Paint::Bad, line));
    }
    let facts = story.facts.iter().map(|fact| {
        let value = match &fact.value {
            Value::Text(text) => text.clone(),
            Value::Ago(at) => ago(now, *at),
            Value::Moment(at) => moment(now, *at),
        };
        let what = Cell::text(&fact.what).painted(Paint::Faint);
        vec![what, Cell::text(value)]
    });
    text += &table(style, 2, &facts.collect::<Vec<_>>());
    text += &format!("  {}\n", style.paint(Paint::Faint, "story"));
    let events = story.events.iter().map(|event| {
        vec![
            Cell::text(event.at.to_rfc3339()),
            Cell::number(ago(now, event.at)).painted(Paint::Faint),
            Cell::text(happened(event.what)),
        ]
    });
    text += &table(style, 4, &events.collect::<Vec<_>>());
    if !story.files.is_empty() {
        let line = format!("files in {}", story.directory);
        text += &format!("  {}\n", style.paint(Paint::Faint, &line));
        let files = story.files.iter().map(|file| {
            vec![
                Cell::text(&file.name),
                Cell::number(format!("{} bytes", file.bytes)),
                Cell::number(ago(now, file.at)),
            ]
        });
        text += &table(style, 4, &files.collect::<Vec<_>>());
    }
    text
}

fn happened(what: What) -> String {
    match what {
        What::AskedFor => "asked for".to_owned(),
        What::Began { after } => format!("began to run, after {}", length(after)),
        What::Heartbeat => "last heartbeat".to_owned(),
        What::LastKnown => "last known to run, before the cloud did not list it".to_owned(),
        What::Ended { ran: Some(ran) } => format!("ended, having run for {}", length(ran)),
        What::Ended { ran: None } => "ended; it was never seen running".to_owned(),
        What::Deleted {
            for_heartbeat: true,
        } => "asked the cloud to delete it, for its heartbeat".to_owned(),
        What::Deleted {
            for_heartbeat: false,
        } => "asked the cloud to delete it".to_owned(),
        What::Copied => "what it wrote was copied".to_owned(),
        What::WrittenDown => {
            "its end was written down, with the abort time and the accounting record if there are any"
                .to_owned()
        }
    }
}
