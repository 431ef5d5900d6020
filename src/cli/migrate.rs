//! `vcycled migrate`: says what there is of GridPP's Vcycle, and takes it over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use super::args::MigrateOptions;
use super::exit::{Exit, Failure};
use super::human::{Cell, Paint, Style, table};
use super::status::write;
use super::told;
use crate::config::{self, Loaded, options};
use crate::daemon::Settings;
use crate::daemon::admin::Told;
use crate::migrate::plan::{Accounting, Change, Plan};
use crate::migrate::running::{self, PID_FILE};
use crate::migrate::tree::{self, Kind, Old, Tree};
use crate::migrate::{self, Around, Records, Survey, apply};
use crate::model::{SpaceName, Timestamp};
use crate::pipes;
use crate::state::layout::DEFAULT_ROOT;
use crate::state::{Layout, StateError, Store};

/// How often the terminal is told how far it is.
const TOLD_EVERY: usize = 20;

/// Reports, and with `--apply` does it.
pub fn run(settings: &Settings, options: &MigrateOptions) -> Result<(), Failure> {
    let layout = Layout::new(&settings.state_dir);
    let io = |error: StateError| Failure::new(Exit::Io, error.to_string());
    let is_running = old_daemon(settings, options);
    if options.apply {
        if let Some(pid) = is_running {
            return Err(Failure::new(
                Exit::Io,
                format!(
                    "the old vcycled runs as process {pid}; stop it first, and see that nothing starts it again: \
                     two daemons would both make machines. Nothing has been changed"
                ),
            ));
        }
        // A slip in --state-dir must not make a new one.
        std::fs::metadata(layout.root()).map_err(|error| {
            let root = layout.root().display();
            Failure::new(Exit::Io, format!("cannot look at {root}: {error}"))
        })?;
    }
    // Held until the end, so that nobody starts a daemon meanwhile.
    let opened = match options.apply {
        true => Some(open(settings, &layout)?),
        false => None,
    };
    let mut progress = Progress::new("read");
    let tree = tree::read(&layout, &mut |count| progress.tell(count)).map_err(io)?;
    progress.end();
    let known = pipes::read_known(&layout);
    let loaded = config::load_with(&settings.sources, &settings.config_context(), &known);
    let now = settings.clock.now();
    let records = Records::read(&layout, tree.first_end()).map_err(io)?;
    let survey = loaded.config.as_ref().map(|config| {
        let around = Around {
            config,
            factory: &settings.factory,
            records: &records,
            now,
        };
        migrate::survey(&tree, &around, options.last_cycle)
    });
    let style = Style::of_stdout();
    let mut text = about_tree(&layout, &tree, style);
    if let Some(pid) = is_running {
        let line = format!("the old vcycled runs as process {pid}: stop it before --apply");
        text += &painted(style, Paint::Warning, &line);
    }
    if let Some(line) = someone_elses(&layout, &tree) {
        text += &painted(style, Paint::Warning, &line);
    }
    text += &about_configuration(&loaded, tree.version.as_deref(), style);
    if let Some(survey) = &survey {
        text += &about_machines(survey, style);
    }
    text += &about_rest(&layout, &tree, style);
    write(&text)?;
    let Some(survey) = survey else {
        return Err(Failure::new(
            Exit::Config,
            "the configuration has errors, and it says who may write for a machine; nothing is taken over before vcycled check is content",
        ));
    };
    match opened {
        Some((store, beside)) => {
            if let Some(line) = someone_elses(&layout, &tree) {
                let message = format!("{line}. Nothing has been changed");
                return Err(Failure::new(Exit::Io, message));
            }
            if let Some(daemon) = beside {
                check_that_it_waits(&daemon, &store, &tree, &survey)?;
            }
            carry_out(&store, &tree, &survey, now)
        }
        None if tree.is_old() || layout.migration_begun().exists() => {
            write("nothing has been changed; --apply takes it over\n")
        }
        None => Ok(()),
    }
}

/// Opens the state directory, beside a daemon of ours if one runs; then it is told what that shows.
fn open(settings: &Settings, layout: &Layout) -> Result<(Store, Option<Told>), Failure> {
    let io = |error: StateError| Failure::new(Exit::Io, error.to_string());
    let refused = match Store::open_to_migrate(layout.clone()) {
        Ok(store) => return Ok((store, None)),
        Err(refused @ StateError::Locked { .. }) => refused,
        Err(other) => return Err(io(other)),
    };
    // First the lock, then the question: what it waits for can only be done by another migration.
    let store = Store::open_beside(layout.clone()).map_err(io)?;
    let told = told::everything(settings)?.told;
    match told.status.daemon {
        Some(_) => Ok((store, Some(told))),
        None => Err(io(refused)),
    }
}

/// A daemon that runs does nothing in a space before its old machines have been taken over, and goes
/// on by itself when they have been. In all other spaces it may be at work at this moment.
fn check_that_it_waits(
    daemon: &Told,
    store: &Store,
    tree: &Tree,
    survey: &Survey,
) -> Result<(), Failure> {
    let io = |error: StateError| Failure::new(Exit::Io, error.to_string());
    let status = &daemon.status;
    let mut spaces: BTreeSet<_> = survey
        .machines
        .iter()
        .map(|(_, plan)| &plan.space)
        .collect();
    for (space, machinetype, at) in &tree.aborts {
        if apply::is_news(store, space, machinetype, *at).map_err(io)? {
            spaces.insert(space);
        }
    }
    let waits = |space: &SpaceName| match status.spaces.get(space) {
        Some(shown) => shown.waiting.is_some(),
        None => !status.config.spaces.contains(space),
    };
    match spaces.into_iter().find(|space| !waits(space)) {
        None => Ok(()),
        Some(space) => Err(Failure::new(
            Exit::Io,
            format!(
                "the daemon that runs is at work in the space {space}, or has not yet found that machines wait \
                 there: try again after its next cycle, or stop it first. Nothing has been changed"
            ),
        )),
    }
}

/// What has to be done before, where files do not belong to the user who owns the state directory.
fn someone_elses(layout: &Layout, tree: &Tree) -> Option<String> {
    let (path, owner) = tree.someone_elses.as_ref()?;
    let (root, us) = (layout.root().display(), rustix::process::geteuid().as_raw());
    Some(format!(
        "{} belongs to the user with the number {owner}, and the daemon will run as {us}: \
         when the old daemon has been stopped, first chown -R {us} {root}",
        path.display()
    ))
}

fn old_daemon(settings: &Settings, options: &MigrateOptions) -> Option<u32> {
    // It knew no other state directory: with another one this is a rehearsal on a copy.
    let is_real = settings.state_dir == Path::new(DEFAULT_ROOT);
    let default = is_real.then_some(Path::new(PID_FILE));
    running::old_daemon(options.pid_file.as_deref().or(default), is_real)
}

fn carry_out(store: &Store, tree: &Tree, survey: &Survey, now: Timestamp) -> Result<(), Failure> {
    let begun = store.layout().migration_begun();
    if !tree.is_old() && !begun.exists() {
        return write("there is nothing to take over\n");
    }
    let mut progress = Progress::new("taken over");
    let applied = apply::apply(store, tree, survey, now, &mut |count| progress.tell(count));
    progress.end();
    let done = applied.map_err(|error| {
        let message = format!(
            "{error}{}",
            match begun.exists() {
                true => "; what is done is done, and no daemon starts before vcycled migrate --apply has come through",
                false => "; nothing has been changed",
            }
        );
        Failure::new(Exit::Io, message)
    })?;
    let mut text = format!(
        "taken over: {} machine(s), {} time(s) of aborts\n",
        done.machines, done.aborts
    );
    if done.machines > 0 {
        let kept = store.layout().migrated();
        text += &format!("what was changed is kept in {}\n", kept.display());
    }
    write(&text)?;
    if survey.left.is_empty() && tree.unread.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Data,
        "not everything could be taken over, see above; the daemon can be started all the same",
    ))
}

fn heading(style: Style, text: &str) -> String {
    painted(style, Paint::Bold, text)
}

fn painted(style: Style, paint: Paint, line: &str) -> String {
    style.paint(paint, line) + "\n"
}

fn about_tree(layout: &Layout, tree: &Tree, style: Style) -> String {
    let root = layout.root().display();
    let mut text = heading(style, &format!("state directory {root}"));
    if let Some(version) = &tree.version {
        text += &format!("  VERSION says {version}\n");
        if ["0.3.", "0.4.", "0.5.", "0.6.", "0.7."]
            .iter()
            .any(|old| version.starts_with(old))
        {
            let line = "  its VMs were told URLs without /machines, which are not served: they cannot \
                        write heartbeats, so wait until they have ended";
            text += &painted(style, Paint::Warning, line);
        }
    }
    let count = |kind| tree.machines.iter().filter(|old| old.kind == kind).count();
    for (kind, name, how) in [
        (
            Kind::Flat,
            "machines/NAME, as of Vcycle up to 02",
            "the directories are ours in their place and lack some files",
        ),
        (
            Kind::Shared,
            "shared/machines/current/SPACE/NAME, as of Vcycle 03",
            "they are moved to machines/NAME; their VMs go on using URLs with the space in them",
        ),
    ] {
        match count(kind) {
            0 => {}
            machines => text += &format!("  {machines} machine(s) in {name}: {how}\n"),
        }
    }
    if !tree.ours.is_empty() {
        let count = tree.ours.len();
        text += &format!("  {count} machine(s) in our layout already\n");
    }
    if layout.migration_begun().exists() {
        text += "  a migration was begun here and has not ended: --apply goes on with it\n";
    } else if !tree.is_old() {
        text += "  nothing of an older version: there is nothing to take over\n";
    }
    text
}

fn about_configuration(loaded: &Loaded, version: Option<&str>, style: Style) -> String {
    let mut text = heading(style, "configuration");
    for problem in &loaded.problems {
        for line in format!("{problem:#}").lines() {
            text += &format!("  {line}\n");
        }
    }
    for line in remarks(loaded, version) {
        text += &format!("  {line}\n");
    }
    text += match &loaded.config {
        Some(_) => "  can be used; what it does not mention above means what it meant\n",
        None => "  cannot be used\n",
    };
    text
}

/// The options that have another name now, with what it is, without those that are deprecated, which
/// the problems say; and those that meant nothing to the old daemon, or mean nothing to ours.
fn remarks(loaded: &Loaded, version: Option<&str>) -> Vec<String> {
    let json = loaded.raw.to_json();
    let mut lines = Vec::new();
    for (section, values) in json.as_object().into_iter().flatten() {
        let Some(kind) = options::SectionKind::of_header(section) else {
            continue;
        };
        for (name, value) in values.as_object().into_iter().flatten() {
            let spec = options::find(kind, None, name);
            let new_name = spec.filter(|spec| spec.aliases.contains(&name.as_str()));
            let new_name = new_name.map(|spec| format!("is read as {}", spec.name));
            let remark = migrate::options::remark(version, kind, name);
            let all: Vec<String> = new_name.into_iter().chain(remark).collect();
            if all.is_empty() {
                continue;
            }
            let place = match (value["file"].as_str(), value["line"].as_u64()) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                _ => String::new(),
            };
            lines.push(format!("{place}[{section}] {name} {}", all.join("; ")));
        }
    }
    lines
}

fn about_machines(survey: &Survey, style: Style) -> String {
    if survey.machines.is_empty() && survey.left.is_empty() {
        return String::new();
    }
    let mut text = heading(style, "machines");
    for (space, (at, how)) in &survey.last_cycles {
        text += &format!(
            "  {space}: the old daemon last looked at {}, {how}\n",
            at.to_rfc3339()
        );
    }
    let headings = [
        "MACHINE",
        "SPACE",
        "MACHINETYPE",
        "STATE",
        "RECORD",
        "FILES",
    ];
    let mut rows = vec![
        headings
            .map(|text| Cell::text(text).painted(Paint::Bold))
            .to_vec(),
    ];
    for (old, plan) in &survey.machines {
        rows.push(vec![
            Cell::text(old.name.as_str()),
            Cell::text(plan.space.as_str()),
            Cell::text(plan.machinetype.as_str()),
            Cell::text(state(old)),
            Cell::text(accounted(plan.accounting)),
            Cell::text(changes(plan)),
        ]);
    }
    text += &table(style, 2, &rows);
    // Many machines have the same to say.
    let mut notes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (old, plan) in &survey.machines {
        for note in &plan.notes {
            notes.entry(note).or_default().push(old.name.as_str());
        }
    }
    for (note, machines) in notes {
        let line = format!("  {}: {note}", machines.join(", "));
        text += &painted(style, Paint::Warning, &line);
    }
    for (old, why) in &survey.left {
        let line = format!("  {}: left as it is: {why}", old.dir.display());
        text += &painted(style, Paint::Bad, &line);
    }
    text
}

fn state(old: &Old) -> String {
    let at = |file| old.time(file).map(Timestamp::to_rfc3339);
    match (at("stopped"), at("started"), at("created")) {
        (Some(at), _, _) => format!("ended {at}"),
        (None, Some(at), _) => format!("running since {at}"),
        (None, None, Some(at)) => format!("created {at}"),
        (None, None, None) => "created".to_owned(),
    }
}

const fn accounted(accounting: Accounting) -> &'static str {
    match accounting {
        Accounting::Open => "at its end",
        Accounting::Written => "written before",
        Accounting::None => "none",
        Accounting::Missing => "missing, is written",
        Accounting::Archived => "taken as written",
    }
}

fn changes(plan: &Plan) -> String {
    let words = plan.changes.iter().map(|change| match change {
        Change::Write(file, _) => format!("+{}", short(file)),
        Change::Remove(file) => format!("-{}", short(file)),
        Change::Hide => "user_data 0600".to_owned(),
        Change::Joboutputs => "+joboutputs/".to_owned(),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        "as they are".to_owned()
    } else {
        words.join(" ")
    }
}

fn short(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn about_rest(layout: &Layout, tree: &Tree, style: Style) -> String {
    let mut text = String::new();
    for (space, machinetype, at) in &tree.aborts {
        let at = at.to_rfc3339();
        text += &format!("  {space} {machinetype}: its last abort was at {at}\n");
    }
    if !tree.ended.is_empty() {
        text += &format!(
            "  {} directories of machines that have ended stay in shared/machines; the old daemon was done with them\n",
            tree.ended.len()
        );
    }
    for path in &tree.unused {
        text += &format!("  {} is of no use any more and stays\n", path.display());
    }
    for path in [
        layout.apel_archive(),
        layout.apel_outgoing(),
        layout.joboutputs(),
    ] {
        if path.exists() && tree.is_old() {
            text += &format!("  {} is used as it is\n", path.display());
        }
    }
    for (path, why) in &tree.unread {
        let line = format!("  {}: left as it is: {why}", path.display());
        text += &painted(style, Paint::Bad, &line);
    }
    if text.is_empty() {
        return text;
    }
    heading(style, "the rest") + &text
}

/// A line on a terminal that says how far it is.
struct Progress {
    what: &'static str,
    told: bool,
    is_terminal: bool,
}

impl Progress {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            told: false,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn tell(&mut self, count: usize) {
        if self.is_terminal && count.is_multiple_of(TOLD_EVERY) {
            self.told = true;
            // Nothing depends on it.
            let _written = write!(io::stderr(), "\r{count} machines {}", self.what);
        }
    }

    fn end(&mut self) {
        if self.told {
            let _written = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
