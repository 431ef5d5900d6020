//! `vcycled explain`: why nothing (more) is created, rule by rule.
//!
//! The rules and their numbers are those of the daemon's latest pass, as the function that decides
//! has reported them; without a daemon, those of a dry run of the same function. None is known here.

use std::collections::BTreeMap;

use serde::Serialize;

use super::args::ExplainOptions;
use super::exit::{Exit, Failure};
use super::human::{Cell, Paint, Style, ago, length, moment, printable, table};
use super::plan::{self, Found};
use super::status::{to_json, write};
use super::{run, show, told};
use crate::daemon::admin::Told;
use crate::daemon::{Phase, Refusal, Settings, SpaceStatus};
use crate::decide::{self, Check, MachinetypeReport, Report};
use crate::model::{MachinetypeName, SpaceName, Timestamp};
use crate::rng::Seed;

/// What has to hold before any rule is applied.
#[derive(Debug, Serialize)]
struct Condition {
    condition: &'static str,
    text: String,
    forbids: bool,
    /// Whether it is not as it should be, although it forbids nothing.
    amiss: bool,
}

impl Condition {
    fn new(condition: &'static str, forbids: bool, text: impl Into<String>) -> Self {
        Self {
            condition,
            text: text.into(),
            forbids,
            amiss: forbids,
        }
    }
}

/// The explanation of one space.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    space: &'a SpaceName,
    now: Timestamp,
    /// When the rules were applied; `None` before the first time.
    decided: Option<Timestamp>,
    conditions: Vec<Condition>,
    /// When the next machine of the space ends at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_end: Option<Timestamp>,
    /// The machinetypes that are first in line for the next machine.
    next_in_line: Vec<&'a MachinetypeName>,
    machinetypes: BTreeMap<&'a MachinetypeName, Kind<'a>>,
}

/// The explanation of one machinetype.
#[derive(Debug, Serialize)]
struct Kind<'a> {
    /// The reason, in words.
    reason: String,
    /// When it ends by itself, if that is known.
    until: Option<Timestamp>,
    /// What has to happen for it to end.
    ends: &'static str,
    /// The latest machine that could not be made, while that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a Refusal>,
    #[serde(flatten)]
    report: &'a MachinetypeReport,
}

/// Prints the explanation.
pub fn run(settings: &Settings, options: &ExplainOptions) -> Result<(), Failure> {
    if let Some(file) = &options.snapshot {
        let found = plan::recorded(settings, Some(&options.space), file)?;
        return dry(options, found, Vec::new());
    }
    let known = told::everything(settings)?;
    if known.told.status.daemon.is_none() {
        let nobody = format!(
            "no daemon runs on {}: nothing is created until one does; the rules are those of a dry run now",
            settings.state_dir.display()
        );
        let conditions = vec![Condition::new("daemon", true, nobody)];
        let found = run::look_around(plan::found_now(settings, &options.space))??;
        return dry(options, found, conditions);
    }
    let told = &known.told;
    let Some(space) = told.status.spaces.get(&options.space) else {
        return Err(not_there(told, &options.space));
    };
    let explained = Explained {
        space: &options.space,
        now: told.now,
        decided: space.decided,
        conditions: conditions(told, space),
        next_end: next_end(space),
        next_in_line: next_in_line(&space.report),
        machinetypes: kinds(&space.report, &space.refusals, options)?,
    };
    print(options, &explained, &space.report)
}

/// Decides without doing anything, and explains that.
fn dry(options: &ExplainOptions, found: Found, conditions: Vec<Condition>) -> Result<(), Failure> {
    let now = options.now.unwrap_or(found.now);
    let plan = decide::decide(&found.config, &found.snapshot, now, Seed::from_entropy());
    let nothing_tried = BTreeMap::new();
    let explained = Explained {
        space: &options.space,
        now,
        decided: Some(now),
        conditions,
        next_end: None,
        next_in_line: next_in_line(&plan.report),
        machinetypes: kinds(&plan.report, &nothing_tried, options)?,
    };
    print(options, &explained, &plan.report)
}

fn not_there(told: &Told, space: &SpaceName) -> Failure {
    let status = &told.status;
    let known = joined(status.spaces.keys());
    let why = if status.config.rejected.is_some() {
        "; the configuration has errors, and the daemon goes on with an older one"
    } else {
        ""
    };
    Failure::new(
        Exit::Usage,
        format!("the daemon has no space {space}{why}; the spaces are {known}"),
    )
}

/// What the daemon says of itself: whether a pass came to the rules at all.
fn conditions(told: &Told, space: &SpaceStatus) -> Vec<Condition> {
    let (status, now) = (&told.status, told.now);
    let mut all = Vec::new();
    if let Some(daemon) = &status.daemon {
        let text = format!(
            "vcycled {}, process {}, runs since {}",
            daemon.version,
            daemon.process,
            moment(now, daemon.started)
        );
        all.push(Condition::new("daemon", false, text));
    }
    let config = &status.config;
    let text = match (config.rejected, config.loaded) {
        (Some(_), Some(loaded)) => format!(
            "has {} error(s); that of {} is in use",
            config.problems.len(),
            ago(now, loaded)
        ),
        (Some(_), None) => format!("has {} error(s)", config.problems.len()),
        (None, Some(loaded)) => format!("good, read {}", ago(now, loaded)),
        (None, None) => "not read yet".to_owned(),
    };
    all.push(Condition {
        amiss: config.rejected.is_some(),
        ..Condition::new("configuration", false, text)
    });
    all.push(match (&space.error, space.decided, space.passes) {
        (Some(error), _, _) => Condition::new("cycle", true, format!("ended early: {error}")),
        (None, Some(decided), _) => {
            Condition::new("cycle", false, format!("complete, {}", ago(now, decided)))
        }
        (None, None, _) => Condition::new("cycle", true, "the first one has not ended yet"),
    });
    if let Some(waiting) = &space.waiting {
        all.insert(0, Condition::new("migration", true, waiting.to_string()));
    }
    let disk = if space.disk_full {
        "full: nothing is created until there is room"
    } else {
        "has room"
    };
    all.push(Condition::new("disk", space.disk_full, disk));
    all
}

/// The first of the moments that machines were told to be down by.
fn next_end(space: &SpaceStatus) -> Option<Timestamp> {
    let machines = space.machines.iter();
    let live = machines.filter(|machine| machine.phase != Phase::Ended);
    live.filter_map(|machine| machine.shutdowntime).min()
}

/// Who gets the next machine that the space has room for: of those that only the space or the cycle
/// keeps from having more, the one that has least of its share, or all that have equally little.
fn next_in_line(report: &Report) -> Vec<&MachinetypeName> {
    let all = report.machinetypes.iter();
    let waiting = all.filter(|(_, kind)| kind.stopped_by.is_of_the_space());
    let filled: Vec<(&MachinetypeName, f64)> = waiting
        .map(|(name, kind)| (name, kind.weight / kind.target_share))
        .collect();
    let least = filled.iter().map(|(_, filled)| *filled).reduce(f64::min);
    let first = filled
        .into_iter()
        .filter(|(_, filled)| Some(*filled) == least);
    first.map(|(name, _)| name).collect()
}

fn kinds<'a>(
    report: &'a Report,
    refusals: &'a BTreeMap<MachinetypeName, Refusal>,
    options: &ExplainOptions,
) -> Result<BTreeMap<&'a MachinetypeName, Kind<'a>>, Failure> {
    let all = report.machinetypes.iter();
    let wanted =
        all.filter(|(name, _)| options.machinetype.as_ref().is_none_or(|one| one == *name));
    let kinds: BTreeMap<_, _> = wanted
        .map(|(name, report)| {
            let kind = Kind {
                reason: report.stopped_by.to_string(),
                until: report.stopped_by.until(),
                ends: report.stopped_by.ends(),
                refusal: Refusal::behind(refusals, name, &report.stopped_by),
                report,
            };
            (name, kind)
        })
        .collect();
    match &options.machinetype {
        Some(name) if kinds.is_empty() && !report.machinetypes.is_empty() => Err(Failure::new(
            Exit::Usage,
            format!(
                "there is no machinetype {name} in the space {}; the machinetypes are {}",
                options.space,
                joined(report.machinetypes.keys())
            ),
        )),
        _ => Ok(kinds),
    }
}

fn print(
    options: &ExplainOptions,
    explained: &Explained<'_>,
    report: &Report,
) -> Result<(), Failure> {
    if options.json {
        return write(&to_json(explained)?);
    }
    write(&for_people(explained, report, Style::of_stdout()))
}

fn for_people(explained: &Explained<'_>, report: &Report, style: Style) -> String {
    let now = explained.now;
    let mut text = style.paint(Paint::Bold, &format!("space {}", explained.space));
    if let Some(decided) = explained.decided {
        text += &format!(", as decided {}", ago(now, decided));
    }
    text.push('\n');
    // The first that forbids keeps the rules from being asked.
    let blocking = explained.conditions.iter().position(|one| one.forbids);
    let rows: Vec<_> = explained
        .conditions
        .iter()
        .enumerate()
        .map(|(number, one)| {
            let [arrow, verdict] = mark(one.forbids, blocking == Some(number));
            let verdict = if one.amiss && !one.forbids {
                Cell::text("!!").painted(Paint::Warning)
            } else {
                verdict
            };
            let words = [Cell::text(one.condition), Cell::text(&one.text)];
            [arrow, verdict].into_iter().chain(words).collect()
        })
        .collect();
    text += &table(style, 2, &rows);
    if let Some(end) = explained.next_end {
        let at = moment(now, end);
        text += &format!("  the next machine of the space ends at the latest {at}\n");
    }
    match explained.next_in_line.as_slice() {
        [] => {}
        [only] => text += &format!("  next in line by share: {only}\n"),
        several => {
            let names = joined(several.iter().copied());
            text += &format!("  next in line by share, equally: {names}\n");
        }
    }
    let weights: f64 = report.machinetypes.values().map(|kind| kind.weight).sum();
    let targets: f64 = report
        .machinetypes
        .values()
        .map(|kind| kind.target_share)
        .sum();
    for (name, kind) in &explained.machinetypes {
        text.push('\n');
        text += &style.paint(Paint::Bold, &format!("machinetype {name}"));
        text += &format!(": {}\n", counts(kind.report, weights, targets));
        text += &verdict(kind, blocking.is_some(), now, style);
        text += &table(style, 2, &rules(&kind.report.rules));
    }
    text
}

fn counts(report: &MachinetypeReport, weights: f64, targets: f64) -> String {
    let percent = |part: f64, whole: f64| {
        if whole > 0.0 {
            100.0 * part / whole
        } else {
            0.0
        }
    };
    let created = match report.creates {
        0 => String::new(),
        created => format!(", {created} of them created by this cycle"),
    };
    format!(
        "{} machine(s), {} running{created}; {:.0} % of the space, target {:.0} %",
        report.machines,
        report.running,
        percent(report.weight, weights),
        percent(report.target_share, targets),
    )
}

fn verdict(kind: &Kind<'_>, blocked_before: bool, now: Timestamp, style: Style) -> String {
    let paint = show::paint(&kind.report.stopped_by);
    let reason = style.paint(paint, &kind.reason);
    let lead = if blocked_before {
        "and then no more because"
    } else {
        "no more because"
    };
    let change = match kind.until {
        Some(until) if until > now => format!(
            "at {}, in {}, {}",
            until.to_rfc3339(),
            length(until.since(now)),
            kind.ends
        ),
        Some(_) => format!("with the next cycle, {}", kind.ends),
        None => kind.ends.to_owned(),
    };
    let latest = kind.refusal.map_or_else(String::new, |refusal| {
        let error = printable(&refusal.error);
        format!("  the latest, {}: {error}\n", ago(now, refusal.at))
    });
    format!("  {lead}: {reason}\n{latest}  this changes {change}\n")
}

fn rules(checks: &[Check]) -> Vec<Vec<Cell>> {
    let several = checks.iter().any(|check| {
        let first = checks.iter().find_map(|check| check.of_flavor.as_ref());
        check.of_flavor.is_some() && check.of_flavor.as_ref() != first
    });
    let rows = checks.iter().map(|check| {
        let mut row = mark(check.forbids, check.decides).to_vec();
        let title = match &check.of_flavor {
            Some(flavor) if several => format!("{}, {flavor}", check.rule.title()),
            Some(_) | None => check.rule.title().to_owned(),
        };
        let paint = if check.decides {
            Paint::Bold
        } else {
            Paint::Plain
        };
        row.push(Cell::text(title).painted(paint));
        row.push(Cell::text(check.rule.to_string()).painted(paint));
        row
    });
    rows.collect()
}

/// The mark of the one that decides, and whether it forbids.
fn mark(forbids: bool, decides: bool) -> [Cell; 2] {
    let arrow = Cell::text(if decides { "->" } else { "" }).painted(Paint::Bold);
    let verdict = if forbids {
        Cell::text("no").painted(Paint::Bad)
    } else {
        Cell::text("ok").painted(Paint::Good)
    };
    [arrow, verdict]
}

/// Names in a line.
fn joined<'a, T: ToString + 'a>(names: impl Iterator<Item = &'a T>) -> String {
    let names: Vec<String> = names.map(ToString::to_string).collect();
    names.join(", ")
}
