//! `vcycled apel`: the accounting records that there are, and sending one again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{ApelCommand, ApelListOptions, ApelResendOptions, ApelShowOptions};
use super::exit::{Exit, Failure};
use super::human::{Cell, Paint, Style, length, printable, table};
use super::status::{to_json, write};
use crate::account::ledger::{self, Entry, Ledger, Queued, Range, State, may_resend, name_of};
use crate::account::message::{self, Fields};
use crate::account::queue::Added;
use crate::config;
use crate::daemon::Settings;
use crate::model::{CloudId, MachineName, Seconds, SpaceName, Timestamp};
use crate::state::{Layout, StateError, Store};

/// Does what was asked for.
pub fn run(settings: &Settings, command: &ApelCommand) -> Result<(), Failure> {
    let scene = Scene::of(settings);
    match command {
        ApelCommand::List(options) => scene.list(options),
        ApelCommand::Show(options) => scene.show(options),
        ApelCommand::Resend(options) => scene.resend(options, settings.clock.now()),
    }
}

/// What records are looked at with.
struct Scene {
    layout: Layout,
    /// The sites that records are sent for; `None` when the configuration cannot be used.
    sites: Option<BTreeSet<String>>,
    /// The machines whose directories are still there, by the cloud's identifiers.
    machines: BTreeMap<String, MachineName>,
}

fn io(error: StateError) -> Failure {
    Failure::new(Exit::Io, error.to_string())
}

impl Scene {
    fn of(settings: &Settings) -> Self {
        let layout = Layout::new(&settings.state_dir);
        let loaded = config::load(&settings.sources, &settings.config_context());
        let sites = loaded.config.map(|config| {
            let spaces = config.spaces.values();
            spaces
                .filter_map(|space| space.gocdb_sitename.clone())
                .collect()
        });
        // The records are there without the machines, whose names only help to read them.
        let known = Store::open_to_read(layout.clone()).load_machines();
        let machines = known.unwrap_or_default().machines.into_iter();
        let machines =
            machines.filter_map(|files| Some((files.id?.as_str().to_owned(), files.name)));
        Self {
            layout,
            sites,
            machines: machines.collect(),
        }
    }

    fn read(&self, range: Range) -> Result<Ledger, Failure> {
        ledger::read(&self.layout, range).map_err(io)
    }

    fn machine_of(&self, entry: &Entry) -> Option<MachineName> {
        let said = entry.record.field("LocalUserId");
        let said = said.and_then(|name| MachineName::new(name).ok());
        said.or_else(|| self.machines.get(&entry.record.key.local_job_id).cloned())
    }

    fn id_of(&self, machine: &MachineName) -> Option<CloudId> {
        let mut known = self.machines.iter();
        let found = known.find(|(_, known)| *known == machine);
        found.map(|(id, _)| CloudId::new(id))
    }

    fn state(&self, entry: &Entry) -> State {
        entry.state(self.sites.as_ref())
    }

    fn list(&self, options: &ApelListOptions) -> Result<(), Failure> {
        let mut ledger = self.read(options.range.range())?;
        let id = options.machine.as_ref().and_then(|name| self.id_of(name));
        ledger.entries.retain(|entry| {
            let of_machine = options.machine.as_ref();
            is_of_space(entry, options.space.as_ref())
                && of_machine.is_none_or(|machine| entry.is_of(machine, id.as_ref()))
                && (!options.waiting || !entry.queued.is_empty())
        });
        if options.machine.is_some() || options.space.is_some() {
            ledger.counts.clear();
        }
        if options.json {
            return write(&to_json(&self.as_json(&ledger))?);
        }
        tell_troubles(&ledger);
        write(&self.for_people(&ledger))
    }

    fn as_json(&self, ledger: &Ledger) -> Value {
        let skipped = ledger.skipped.iter();
        let counts = ledger.counts.iter();
        json!({
            "records": ledger.entries.iter().map(|entry| self.entry_json(entry)).collect::<Vec<_>>(),
            "counts": counts.map(|(queued, blocks)| json!({
                "queued": queued_json(queued),
                "blocks": blocks,
            })).collect::<Vec<_>>(),
            "growing": texts(&ledger.growing),
            "skipped": skipped.map(|(path, why)| json!({
                "path": path.to_string_lossy(),
                "reason": why,
            })).collect::<Vec<_>>(),
        })
    }

    fn entry_json(&self, entry: &Entry) -> Value {
        let record = &entry.record;
        json!({
            "record": entry.name(),
            "state": self.state(entry),
            "machine": self.machine_of(entry),
            "space": record.space(),
            "machinetype": record.field("Queue"),
            "site": record.key.site,
            "local_job_id": record.key.local_job_id,
            "start": record.number("StartTime"),
            "end": record.key.end,
            "wall_seconds": record.number("WallDuration"),
            "processors": record.number("Processors"),
            "archived": texts(&entry.archived),
            "queued": entry.queued.iter().map(queued_json).collect::<Vec<_>>(),
        })
    }

    fn for_people(&self, ledger: &Ledger) -> String {
        let style = Style::of_stdout();
        let heading = |text: &str| Cell::text(text).painted(Paint::Bold);
        let headings = [
            "RECORD",
            "STATE",
            "ENDED",
            "RAN",
            "PROC",
            "SPACE",
            "MACHINETYPE",
            "MACHINE",
        ];
        let mut rows = vec![headings.map(heading).to_vec()];
        let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &ledger.entries {
            let (word, paint) = shown(self.state(entry));
            *totals.entry(word).or_default() += 1;
            rows.push(self.row(entry, Cell::text(word).painted(paint)));
        }
        let mut text = match ledger.entries.is_empty() {
            true => String::new(),
            false => table(style, 0, &rows),
        };
        for (queued, blocks) in &ledger.counts {
            text += &format!("{}\n", count_line(queued, blocks));
        }
        let totals: Vec<String> = totals
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        text += &match ledger.entries.len() {
            0 => "no records\n".to_owned(),
            1 => format!("1 record: {}\n", totals.join(", ")),
            count => format!("{count} records: {}\n", totals.join(", ")),
        };
        text
    }

    fn row(&self, entry: &Entry, state: Cell) -> Vec<Cell> {
        let record = &entry.record;
        let number = |name| match record.number(name) {
            Some(number) => Cell::number(number),
            None => Cell::text("-"),
        };
        let ran = record.number("WallDuration");
        let ran = ran.map_or_else(|| "-".to_owned(), |ran| length(Seconds::new(ran)));
        let machine = self.machine_of(entry);
        let machine = machine.map_or(record.key.local_job_id.clone(), String::from);
        vec![
            Cell::text(entry.name()),
            state,
            Cell::text(record.end().to_rfc3339()),
            Cell::text(ran),
            number("Processors"),
            Cell::text(record.space()),
            Cell::text(record.field("Queue").unwrap_or("-")),
            Cell::text(machine),
        ]
    }

    /// The records that a word on the command line means: the name of one, a machine, or a
    /// LocalJobId.
    fn meant<'a>(&self, ledger: &'a Ledger, word: &str) -> Vec<&'a Entry> {
        let entries = ledger.entries.iter();
        if word.contains('/') {
            let is_called = |path: &Path| name_of(path) == word;
            return entries
                .filter(|entry| {
                    let mut queued = entry.queued.iter().map(|queued| &queued.path);
                    entry.archived.iter().any(|path| is_called(path))
                        || queued.any(|path| is_called(path))
                })
                .collect();
        }
        match MachineName::new(word) {
            Ok(machine) => {
                let id = self.id_of(&machine);
                entries
                    .filter(|entry| entry.is_of(&machine, id.as_ref()))
                    .collect()
            }
            Err(_) => entries
                .filter(|entry| entry.record.key.local_job_id == word)
                .collect(),
        }
    }

    fn show(&self, options: &ApelShowOptions) -> Result<(), Failure> {
        let ledger = self.read(Range::default())?;
        let found = self.meant(&ledger, &options.record);
        if found.is_empty() {
            return self.show_other(&ledger, &options.record);
        }
        let mut text = String::new();
        for entry in found {
            if options.json {
                let mut value = self.entry_json(entry);
                value["fields"] = json!(all_fields(entry)?);
                text += &to_json(&value)?;
            } else {
                text += &self.whole(entry)?;
            }
        }
        write(&text)
    }

    /// Shows what is no record and has that name: a count of records, or something broken.
    fn show_other(&self, ledger: &Ledger, word: &str) -> Result<(), Failure> {
        if let Some((path, why)) = ledger
            .skipped
            .iter()
            .find(|(path, _)| name_of(path) == word)
        {
            if let Ok(text) = message::read_text(path) {
                write(&shown_text(&text))?;
            }
            let message = format!("{}: {why}; it is left as it is", path.display());
            return Err(Failure::new(Exit::Data, message));
        }
        let mut counts = ledger.counts.iter();
        if let Some((queued, _)) = counts.find(|(queued, _)| name_of(&queued.path) == word) {
            return write(&shown_text(&read_text(&queued.path)?));
        }
        Err(not_found(word))
    }

    fn whole(&self, entry: &Entry) -> Result<String, Failure> {
        let mut text = format!("record {}: {}\n", entry.name(), shown(self.state(entry)).0);
        if let Some(machine) = self.machine_of(entry) {
            text += &format!("machine {machine}\n");
        }
        for path in &entry.archived {
            text += &format!("archived in {}\n", path.display());
        }
        for queued in &entry.queued {
            let locked = if queued.locked {
                ", taken by a sender"
            } else {
                ""
            };
            text += &format!("waiting in {}{locked}\n", queued.path.display());
        }
        if let Some(path) = entry.path() {
            text += &format!("\n{}", shown_text(&read_text(path)?));
        }
        Ok(text)
    }

    fn resend(&self, options: &ApelResendOptions, now: Timestamp) -> Result<(), Failure> {
        let Some(sites) = &self.sites else {
            return Err(Failure::new(
                Exit::Config,
                "the configuration has errors (vcycled check says which), and it says for which sites records are sent",
            ));
        };
        let ledger = self.read(options.range.range())?;
        tell_troubles(&ledger);
        let mut found: Vec<&Entry> = Vec::new();
        let mut refused = 0_usize;
        for word in &options.records {
            let meant = self.meant(&ledger, word);
            if meant.is_empty() {
                refused += 1;
                eprintln!("vcycled: {}", not_found(word).message.unwrap_or_default());
            }
            found.extend(meant);
        }
        if options.records.is_empty() {
            found.extend(&ledger.entries);
        }
        found.retain(|entry| is_of_space(entry, options.space.as_ref()));
        let mut done = BTreeSet::new();
        for entry in found {
            let name = entry.name();
            if !done.insert(name.clone()) {
                continue;
            }
            match self.resend_one(entry, sites, options.apply, now)? {
                Ok(line) => println!("{line}"),
                Err(why) => {
                    refused += 1;
                    eprintln!("vcycled: record {name} is not queued again: {why}");
                }
            }
        }
        if !options.apply {
            println!("nothing has been queued; --apply does it");
        }
        if refused == 0 {
            return Ok(());
        }
        let message = format!("{refused} of what was asked for could not be queued");
        Err(Failure::new(Exit::Data, message))
    }

    /// What was done, or would be, or why not.
    fn resend_one(
        &self,
        entry: &Entry,
        sites: &BTreeSet<String>,
        apply: bool,
        now: Timestamp,
    ) -> Result<Result<String, ledger::Refusal>, Failure> {
        let archived = match may_resend(entry, sites) {
            Ok(archived) => archived,
            Err(why) => return Ok(Err(why)),
        };
        let name = entry.name();
        if !apply {
            return Ok(Ok(format!("record {name} would be queued again")));
        }
        let (path, added) = ledger::resend(&self.layout, archived, now).map_err(io)?;
        Ok(match added {
            Added::New => Ok(format!(
                "record {name} is queued again as {}",
                path.display()
            )),
            Added::Taken => Err(ledger::Refusal::Waits(path)),
        })
    }
}

fn is_of_space(entry: &Entry, space: Option<&SpaceName>) -> bool {
    space.is_none_or(|space| entry.record.space() == space.as_str())
}

fn not_found(word: &str) -> Failure {
    Failure::new(
        Exit::Data,
        format!(
            "there is no record {word:?}, neither in the archive nor waiting; expected the name of one \
             as vcycled apel list shows it, a machine, or a LocalJobId"
        ),
    )
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let failed = |why| Failure::new(Exit::Io, format!("{}: {why}", path.display()));
    message::read_text(path).map_err(failed)
}

/// All fields of a record.
fn all_fields(entry: &Entry) -> Result<Fields, Failure> {
    let Some(path) = entry.path() else {
        return Ok(Fields::new());
    };
    let failed = |why| Failure::new(Exit::Io, format!("{}: {why}", path.display()));
    let records = message::parse_jobs(&read_text(path)?).map_err(failed)?;
    let mut records = records.into_iter();
    let own = records.find(|record| record.key == entry.record.key);
    Ok(own.map(|record| record.fields).unwrap_or_default())
}

/// Lines that a terminal can be given.
fn shown_text(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// Paths as text: what is no UTF-8 has no place in JSON.
fn texts(paths: &[PathBuf]) -> Vec<String> {
    let texts = paths.iter().map(|path| path.to_string_lossy().into_owned());
    texts.collect()
}

fn queued_json(queued: &Queued) -> Value {
    json!({ "path": queued.path.to_string_lossy(), "locked": queued.locked })
}

const fn shown(state: State) -> (&'static str, Paint) {
    match state {
        State::Waiting => ("waiting", Paint::Warning),
        State::Sending => ("sending", Paint::Warning),
        State::Sent => ("sent", Paint::Good),
        State::Kept => ("kept", Paint::Faint),
    }
}

fn count_line(queued: &Queued, blocks: &[Fields]) -> String {
    let field = |block: &Fields, name: &str| block.get(name).cloned().unwrap_or_else(|| "?".into());
    let lines = blocks.iter().map(|block| {
        let of = |name| field(block, name);
        format!("{} in {}/{}", of("NumberOfJobs"), of("Month"), of("Year"))
    });
    let lines: Vec<String> = lines.collect();
    let word = if queued.locked { "sending" } else { "waiting" };
    printable(&format!(
        "{}  {word}  a count of records: {}",
        name_of(&queued.path),
        lines.join(", ")
    ))
}

/// Says what could not be read, and what is not whole.
fn tell_troubles(ledger: &Ledger) {
    for (path, why) in &ledger.skipped {
        eprintln!("vcycled: {}: {why}; it is left as it is", path.display());
    }
    for path in &ledger.growing {
        eprintln!(
            "vcycled: {}: is being written, or was left half-written by a writer that was killed; senders pass over it",
            path.display()
        );
    }
}
