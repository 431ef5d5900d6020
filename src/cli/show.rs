//! The table of `vcycled status`.

use std::collections::BTreeMap;

use super::human::{Cell, Paint, Style, ago, length, moment, printable, table};
use super::told::Known;
use crate::config::SpaceConfig;
use crate::daemon::{MachineStatus, Phase, SpaceStatus, Trouble};
use crate::decide::{Blocked, Concern, Rule};
use crate::model::{MachinetypeName, Processors, SpaceName, Timestamp};

/// So many machines that have ended are shown of each space, the latest first.
const ENDED: usize = 5;

/// A scan that is older than so many cycles is worth a look.
const LATE_CYCLES: u64 = 3;

/// Everything.
pub fn factory(known: &Known, all: bool, style: Style) -> String {
    let status = &known.told.status;
    let now = known.told.now;
    let mut text = String::new();
    match &status.daemon {
        Some(daemon) => {
            text += &style.paint(
                Paint::Bold,
                &format!("vcycled {} on {}", daemon.version, daemon.factory),
            );
            text += &format!(
                ", process {}, up {}, a cycle every {} s\n",
                daemon.process,
                length(now.since(daemon.started)),
                daemon.interval
            );
        }
        None => {
            let line = "no daemon runs here (journalctl -u vcycled may tell why): this is what the state directory says";
            text += &style.paint(Paint::Bad, line);
            text.push('\n');
        }
    }
    text += &configuration(known, style);
    text += &https(known, style);
    for (name, space) in &status.spaces {
        let config = known.config.as_ref();
        let config = config.and_then(|config| config.spaces.get(name));
        text.push('\n');
        text += &of_space(&Scene { known, all, style }, name, space, config);
    }
    for (name, machines) in &status.orphans {
        let line = format!(
            "\nspace {name} is not in the configuration: its {machines} machine(s) are left alone, here and on the cloud\n"
        );
        text += &style.paint(Paint::Warning, &line);
    }
    text
}

struct Scene<'a> {
    known: &'a Known,
    all: bool,
    style: Style,
}

impl Scene<'_> {
    const fn now(&self) -> Timestamp {
        self.known.told.now
    }
}

fn configuration(known: &Known, style: Style) -> String {
    let (config, now) = (&known.told.status.config, known.told.now);
    if config.rejected.is_none() {
        return String::new();
    }
    let good = match config.loaded {
        Some(loaded) => format!("that of {} is in use", ago(now, loaded)),
        None => "none is in use".to_owned(),
    };
    let line = format!("the configuration has errors, {good}:");
    let mut text = style.paint(Paint::Bad, &line);
    text.push('\n');
    for problem in &config.problems {
        text += &format!("  {problem}\n");
    }
    text
}

fn https(known: &Known, style: Style) -> String {
    let Some(problem) = &known.told.status.https.problem else {
        return String::new();
    };
    format!("{}\n", style.paint(Paint::Bad, &printable(problem)))
}

fn of_space(
    scene: &Scene<'_>,
    name: &SpaceName,
    space: &SpaceStatus,
    config: Option<&SpaceConfig>,
) -> String {
    let (style, now) = (scene.style, scene.now());
    let mut text = style.paint(Paint::Bold, &format!("space {name}"));
    text += &format!("  {}\n", counts(space));
    text += &health(scene, space);
    let kinds = kinds(space, config);
    if !kinds.is_empty() {
        text += &table(style, 2, &machinetypes(&kinds, space, now));
    }
    for (machinetype, refusal) in &space.refusals {
        let line = format!(
            "{machinetype}: refused {}: {}",
            ago(now, refusal.at),
            printable(&refusal.error)
        );
        text += &format!("  {}\n", style.paint(Paint::Faint, &line));
    }
    let (machines, more) = machines(scene, space);
    if machines.len() > 1 {
        text += &table(style, 2, &machines);
    }
    if more > 0 {
        let line = format!("... and {more} more that have ended (--all)");
        text += &format!("  {}\n", style.paint(Paint::Faint, &line));
    }
    text
}

fn counts(space: &SpaceStatus) -> String {
    if space.decided.is_none() {
        let live = space.machines.iter();
        let live = live.filter(|machine| machine.phase != Phase::Ended).count();
        return format!("{live} machine(s) by their directories");
    }
    let report = &space.report.space;
    let of = |have: String, limit: Option<u32>| match limit {
        Some(limit) => format!("{have} of {limit}"),
        None => format!("{have}, no limit known"),
    };
    let foreign = match report.foreign_machines {
        0 => String::new(),
        foreign => format!(" ({foreign} not ours)"),
    };
    let (created, processors) = created(space);
    format!(
        "machines {}{foreign}; processors {}",
        of(
            report.machines.saturating_add(created).to_string(),
            report.machines_limit
        ),
        of(
            (report.processors + processors).to_string(),
            report.processors_limit
        ),
    )
}

/// What the latest cycle has created, machines and processors: the report counts the space before
/// that.
fn created(space: &SpaceStatus) -> (u32, Processors) {
    let mut created = (0, Processors::default());
    let kinds = space.report.machinetypes.values();
    for check in kinds.flat_map(|kind| &kind.rules) {
        if let Rule::CycleMachines { created: count, .. } = check.rule {
            created.0 = count;
        }
        if let Rule::CycleProcessors { created: count, .. } = check.rule {
            created.1 = count;
        }
    }
    created
}

/// When the cloud was last seen, and what is wrong.
fn health(scene: &Scene<'_>, space: &SpaceStatus) -> String {
    let (style, now) = (scene.style, scene.now());
    let interval = scene.known.told.status.daemon.as_ref();
    let interval = interval.map_or(u64::MAX, |daemon| daemon.interval.get());
    let scanned = match space.last_scan {
        None => style.paint(Paint::Warning, "no complete cycle yet"),
        Some(at) => {
            let late = now.since(at).get() > interval.saturating_mul(LATE_CYCLES).max(60);
            let paint = if late { Paint::Warning } else { Paint::Plain };
            let line = format!("last complete listing {}", ago(now, at));
            style.paint(paint, &line)
        }
    };
    let totals = &space.totals;
    let mut text = format!("  {scanned}");
    if space.passes > 0 {
        text += &format!(
            "; since the start {} created, {} ended, {} abort(s), {} never ran",
            totals.created, totals.ended, totals.aborts, totals.failed
        );
    }
    text.push('\n');
    for (paint, line) in troubles(space, now) {
        text += &format!("  {}\n", style.paint(paint, &line));
    }
    text
}

/// What is wrong with a space, or is soon going to be, a line each.
fn troubles(space: &SpaceStatus, now: Timestamp) -> Vec<(Paint, String)> {
    let mut lines = Vec::new();
    let mut bad = |paint: Paint, line: String| lines.push((paint, line));
    if let Some(waiting) = &space.waiting {
        let line = format!("nothing is created or destroyed: {waiting}");
        bad(Paint::Bad, line);
    }
    // That it waits is no trouble of the cloud.
    let is_told = |trouble: &&Trouble| trouble.over.is_none() && space.waiting.is_some();
    if let Some(trouble) = space.trouble.as_ref().filter(|one| !is_told(one)) {
        match trouble.over {
            None => bad(
                Paint::Bad,
                format!(
                    "cloud: {} cycle(s) failed, the first {}: {}",
                    trouble.passes,
                    ago(now, trouble.since),
                    trouble.text
                ),
            ),
            Some(_) => bad(
                Paint::Faint,
                format!(
                    "last error, over now, {}: {}",
                    ago(now, trouble.last),
                    trouble.text
                ),
            ),
        }
    }
    if space.disk_full {
        let line = "the disk of the state directory is full: nothing is created";
        bad(Paint::Bad, line.to_owned());
    }
    if let Some(at) = space.report.space.shutdown_time {
        bad(Paint::Warning, shutdown(space, now, at));
    }
    for no_room in &space.report.space.exhausted {
        bad(Paint::Warning, no_room.to_string());
    }
    for (kind, leaks) in &space.leaks.kinds {
        if leaks.count.left > 0 {
            bad(
                Paint::Plain,
                format!("left over, used by nothing: {} {kind}(s)", leaks.count.left),
            );
        }
    }
    lines
}

/// Until when the space is to be down, and when it will be: machines keep the time that they were told.
fn shutdown(space: &SpaceStatus, now: Timestamp, at: Timestamp) -> String {
    let live = space.machines.iter();
    let live: Vec<_> = live.filter(|one| one.phase != Phase::Ended).collect();
    let last = live.iter().filter_map(|one| one.shutdowntime).max();
    let text = if now < at {
        format!("has to be down by {}", moment(now, at))
    } else {
        format!("has had to be down since {}", moment(now, at))
    };
    match last.filter(|last| *last > at) {
        _ if live.is_empty() => format!("{text}: it is empty"),
        None => text,
        Some(last) => format!(
            "{text}; the last of {} machine(s) was told {}",
            live.len(),
            moment(now, last)
        ),
    }
}

/// One machinetype in figures.
#[derive(Default)]
struct Kind {
    target: f64,
    weight: f64,
    running: usize,
    starting: usize,
    machines: usize,
    processors: String,
    why: Option<Blocked>,
}

fn kinds(space: &SpaceStatus, config: Option<&SpaceConfig>) -> BTreeMap<MachinetypeName, Kind> {
    let mut kinds: BTreeMap<MachinetypeName, Kind> = BTreeMap::new();
    let configured = config
        .iter()
        .flat_map(|config| config.machinetypes.values());
    for machinetype in configured {
        let kind = kinds.entry(machinetype.name.clone()).or_default();
        kind.target = machinetype.target_share.get();
    }
    for (name, report) in &space.report.machinetypes {
        let kind = kinds.entry(name.clone()).or_default();
        kind.target = report.target_share;
        kind.weight = report.weight;
        kind.processors = report.processors.to_string();
        kind.why = Some(report.stopped_by.clone());
    }
    for machine in space.machines.iter() {
        let kind = kinds.entry(machine.machinetype.clone()).or_default();
        match machine.phase {
            Phase::Ended => continue,
            Phase::Running => kind.running += 1,
            Phase::Starting => kind.starting += 1,
            Phase::Shutdown
            | Phase::Deleting
            | Phase::Failed
            | Phase::Unknown
            | Phase::Unlisted => {}
        }
        kind.machines += 1;
        if space.decided.is_none() {
            kind.weight += 1.0;
        }
    }
    kinds
}

fn machinetypes(
    kinds: &BTreeMap<MachinetypeName, Kind>,
    space: &SpaceStatus,
    now: Timestamp,
) -> Vec<Vec<Cell>> {
    let targets: f64 = kinds.values().map(|kind| kind.target).sum();
    let weights: f64 = kinds.values().map(|kind| kind.weight).sum();
    let percent = |part: f64, whole: f64| {
        if whole > 0.0 {
            format!("{:.0} %", 100.0 * part / whole)
        } else {
            "-".to_owned()
        }
    };
    let right = |text: &str| Cell::number(text).painted(Paint::Faint);
    let left = |text: &str| Cell::text(text).painted(Paint::Faint);
    let mut rows = vec![vec![
        left("MACHINETYPE"),
        right("TARGET"),
        right("ACTUAL"),
        right("RUNNING"),
        right("STARTING"),
        right("ALL"),
        right("PROC"),
        left("WHY NOT MORE"),
    ]];
    for (name, kind) in kinds {
        let why = match &kind.why {
            Some(why) => Cell::text(reason(why, now)).painted(paint(why)),
            None if space.decided.is_some() => {
                Cell::text("not in the configuration").painted(Paint::Warning)
            }
            None => Cell::text(""),
        };
        rows.push(vec![
            Cell::text(name.as_str()),
            Cell::number(percent(kind.target, targets)),
            Cell::number(percent(kind.weight, weights)),
            Cell::number(kind.running),
            Cell::number(kind.starting),
            Cell::number(kind.machines),
            Cell::number(&kind.processors),
            why,
        ]);
    }
    rows
}

/// A reason with how long it still holds.
fn reason(why: &Blocked, now: Timestamp) -> String {
    match why.until() {
        Some(until) if until > now => format!("{why} ({} left)", length(until.since(now))),
        Some(_) => format!("{why} (which has come: see the next cycle)"),
        None => why.to_string(),
    }
}

/// Whether a reason is one that a person has to do something about.
pub const fn paint(why: &Blocked) -> Paint {
    match why.concern() {
        Concern::Wrong => Paint::Bad,
        Concern::Waits => Paint::Warning,
        Concern::None => Paint::Plain,
    }
}

/// The rows, and how many machines that have ended are left out.
fn machines(scene: &Scene<'_>, space: &SpaceStatus) -> (Vec<Vec<Cell>>, usize) {
    let now = scene.now();
    let heads = [
        Cell::text("MACHINE"),
        Cell::text("STATE"),
        Cell::number("AGE"),
        Cell::number("HEARTBEAT"),
        Cell::text("ADDRESS"),
        Cell::text("MESSAGE"),
    ];
    let heads = heads.map(|head| head.painted(Paint::Faint));
    let mut rows = vec![heads.to_vec()];
    let (mut live, mut ended): (Vec<_>, Vec<_>) = space
        .machines
        .iter()
        .partition(|machine| machine.phase != Phase::Ended);
    live.sort_by_key(|machine| (&machine.machinetype, machine.created));
    ended.sort_by_key(|machine| std::cmp::Reverse(machine.stopped));
    rows.extend(live.into_iter().map(|one| machine(one, now)));
    let shown = if scene.all { ended.len() } else { ENDED };
    let more = ended.len().saturating_sub(shown);
    rows.extend(ended.into_iter().take(shown).map(|one| machine(one, now)));
    (rows, more)
}

fn machine(machine: &MachineStatus, now: Timestamp) -> Vec<Cell> {
    let age = match (machine.phase, machine.stopped) {
        (Phase::Ended, Some(stopped)) => ago(now, stopped),
        _ => length(now.since(machine.created)),
    };
    let is_over = machine.phase == Phase::Ended;
    let message = match (&machine.message, &machine.fault) {
        (Some(message), _) => message.text().to_owned(),
        (None, Some(fault)) => fault.clone(),
        (None, None) if is_over && machine.started.is_none() => "never ran".to_owned(),
        (None, None) => String::new(),
    };
    vec![
        Cell::text(machine.name.as_str()),
        Cell::text(machine.phase.to_string()).painted(of_phase(machine.phase)),
        Cell::number(age),
        heartbeat(machine, now),
        Cell::text(machine.address.as_deref().unwrap_or("")),
        Cell::text(message),
    ]
}

fn heartbeat(machine: &MachineStatus, now: Timestamp) -> Cell {
    match (machine.heartbeat, machine.heartbeat_expected, machine.phase) {
        (Some(at), _, _) => Cell::number(ago(now, at)),
        (None, true, Phase::Running) => Cell::number("none").painted(Paint::Warning),
        (None, _, _) => Cell::number(""),
    }
}

const fn of_phase(phase: Phase) -> Paint {
    match phase {
        Phase::Running => Paint::Good,
        Phase::Failed | Phase::Unlisted => Paint::Bad,
        Phase::Shutdown | Phase::Deleting | Phase::Ended => Paint::Faint,
        Phase::Starting | Phase::Unknown => Paint::Plain,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::daemon::admin::Told;
    use crate::daemon::{Messages, Status, machine_statuses};
    use crate::decide::testing;

    #[test]
    fn of_machines_that_have_ended_the_latest_are_shown_and_the_others_counted() {
        let ended = (0..7).map(|number| {
            let mut files = testing::files(&format!("vcycle-a-{number:0>10}"), 1000);
            files.stopped = Some(Timestamp::from_unix(2000 + number));
            files
        });
        let ended: Vec<_> = ended.collect();
        let space = SpaceStatus {
            machines: Arc::new(machine_statuses(&ended, None, &Messages::new(), None)),
            ..SpaceStatus::default()
        };
        let mut status = Status::default();
        let name = SpaceName::new("example.org").unwrap();
        status.spaces.insert(name, Arc::new(space));
        let now = Timestamp::from_unix(2010);
        let known = Known {
            told: Told { now, status },
            config: None,
        };
        let shown = |all| factory(&known, all, Style::default());
        let text = shown(false);
        let lines = |text: &str| {
            text.lines()
                .filter(|line| line.contains("vcycle-a-"))
                .count()
        };
        assert_eq!(lines(&text), 5, "{text}");
        assert!(!text.contains("vcycle-a-0000000001"), "the oldest: {text}");
        assert!(
            text.contains("vcycle-a-0000000006  ended  4 s ago"),
            "{text}"
        );
        assert!(
            text.ends_with("  ... and 2 more that have ended (--all)\n"),
            "{text}"
        );
        assert_eq!(lines(&shown(true)), 7);
        assert!(!shown(true).contains("more that have ended"));
    }
}
