//! What the dashboard shows of a space at a glance: a summary of fixed size, however many machines
//! there are.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::daemon::machines::count;
use crate::daemon::{Phase, SpaceStatus, Trouble};
use crate::decide::{Concern, NoRoom, Rule};
use crate::model::{ImageState, LeftoverKind, MachinetypeName, Processors, Seconds, Timestamp};
use crate::record::Totals;

/// The longest text of an error or a reason, in characters: a cloud may answer with a whole page.
pub const TEXT: usize = 600;

/// One space.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpaceView {
    /// Passes in this life of the daemon.
    pub passes: u64,
    /// When the latest began.
    pub began: Timestamp,
    /// How long it took.
    pub took: Seconds,
    /// When the latest complete listing was.
    pub last_scan: Option<Timestamp>,
    /// When the counts are from; `None` before the first complete pass.
    pub decided: Option<Timestamp>,
    /// The latest trouble that ended passes early, also when it is over.
    pub trouble: Option<Trouble>,
    /// Whether that is machines of an older version, which wait for `vcycled migrate`.
    pub unmigrated: bool,
    /// Whether the disk of the state directory is full.
    pub disk_full: bool,
    /// Machines in any state, those that are not ours included.
    pub machines: u32,
    /// The limit of that.
    pub machines_limit: Option<u32>,
    /// Their processors.
    pub processors: Processors,
    /// The limit of that.
    pub processors_limit: Option<u32>,
    /// How many of the machines are not ours.
    pub foreign: u32,
    /// Where the cloud had no room.
    pub exhausted: Vec<NoRoom>,
    /// When everything has to be down.
    pub shutdown_time: Option<Timestamp>,
    /// Whether that is because of `vcycled shutdown`.
    pub shutdown_ordered: bool,
    /// What has happened since the daemon started.
    pub totals: Totals,
    /// Things on the cloud that nothing uses, by kind; those that there are none of are left out.
    pub left_over: BTreeMap<LeftoverKind, u32>,
    /// Images on their way to the cloud.
    pub images: BTreeMap<MachinetypeName, String>,
    /// How many machines, by state.
    pub phases: BTreeMap<Phase, u32>,
    /// Each machinetype.
    pub machinetypes: BTreeMap<MachinetypeName, KindView>,
}

/// One machinetype.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KindView {
    /// Its part of what all machinetypes of the space have, by power, 0 to 1; `None` when they
    /// have nothing.
    pub share: Option<f64>,
    /// The part that it should have; `None` when no machinetype should have any.
    pub target: Option<f64>,
    /// Processors of its machines.
    pub processors: Processors,
    /// How many machines, by state.
    pub phases: BTreeMap<Phase, u32>,
    /// Why there are no more; `None` when it has left the configuration or nothing is known yet.
    pub why: Option<Why>,
    /// When a machine last aborted.
    pub last_abort: Option<Timestamp>,
    /// Until when it backs off, if it does.
    pub backs_off_until: Option<Timestamp>,
}

/// Why there are no more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// For people.
    pub text: String,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
    /// How bad it is.
    pub concern: Concern,
}

/// Summarizes a space.
pub fn overview(space: &SpaceStatus) -> SpaceView {
    let report = &space.report.space;
    let (machines, processors) = counted(space);
    let left = space.leaks.kinds.iter();
    let left = left.filter(|(_, status)| status.count.left > 0);
    let counts = count(&space.machines);
    let mut phases = BTreeMap::new();
    for (phase, number) in counts.values().flatten() {
        *phases.entry(*phase).or_default() += number;
    }
    let trouble = space.trouble.as_ref().map(|trouble| Trouble {
        text: shortened(&trouble.text),
        ..trouble.clone()
    });
    SpaceView {
        passes: space.passes,
        began: space.began,
        took: space.took,
        last_scan: space.last_scan,
        decided: space.decided,
        trouble,
        unmigrated: space.waiting.is_some(),
        disk_full: space.disk_full,
        machines,
        machines_limit: report.machines_limit,
        processors,
        processors_limit: report.processors_limit,
        foreign: report.foreign_machines,
        exhausted: report.exhausted.clone(),
        shutdown_time: report.shutdown_time,
        shutdown_ordered: report.shutdown_ordered,
        totals: space.totals,
        left_over: left
            .map(|(kind, status)| (*kind, status.count.left))
            .collect(),
        images: images(&space.images),
        phases,
        machinetypes: kinds(space, counts),
    }
}

/// Machines and processors of the space with those that the latest pass has created: the report
/// counts the space before that.
pub fn counted(space: &SpaceStatus) -> (u32, Processors) {
    let report = &space.report;
    let (mut machines, mut processors) = (report.space.machines, report.space.processors);
    let (mut created, mut with) = (0, Processors::default());
    for check in report.machinetypes.values().flat_map(|kind| &kind.rules) {
        if let Rule::CycleMachines { created: count, .. } = check.rule {
            created = count;
        }
        if let Rule::CycleProcessors { created: count, .. } = check.rule {
            with = count;
        }
    }
    machines = machines.saturating_add(created);
    processors = processors + with;
    (machines, processors)
}

fn images(all: &BTreeMap<MachinetypeName, ImageState>) -> BTreeMap<MachinetypeName, String> {
    let each = all.iter();
    each.map(|(kind, state)| (kind.clone(), shortened(&state.to_string())))
        .collect()
}

fn kinds(
    space: &SpaceStatus,
    counts: BTreeMap<&MachinetypeName, BTreeMap<Phase, u32>>,
) -> BTreeMap<MachinetypeName, KindView> {
    let reports = &space.report.machinetypes;
    let targets: f64 = reports.values().map(|kind| kind.target_share).sum();
    let weights: f64 = reports.values().map(|kind| kind.weight).sum();
    let part = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    let mut kinds: BTreeMap<MachinetypeName, KindView> = BTreeMap::new();
    for (name, report) in reports {
        let why = &report.stopped_by;
        let backoff = report.rules.iter().find_map(|check| {
            let Rule::Backoff {
                last_abort, until, ..
            } = check.rule
            else {
                return None;
            };
            Some((last_abort, until.filter(|_| check.forbids)))
        });
        let (last_abort, backs_off_until) = backoff.unwrap_or_default();
        let kind = KindView {
            share: part(report.weight, weights),
            target: part(report.target_share, targets),
            processors: report.processors,
            phases: BTreeMap::new(),
            why: Some(Why {
                text: shortened(&why.to_string()),
                until: why.until(),
                concern: why.concern(),
            }),
            last_abort,
            backs_off_until,
        };
        kinds.insert(name.clone(), kind);
    }
    for (name, phases) in counts {
        // One that has left the configuration is shown while it has machines that live.
        let lives = phases.keys().any(|phase| *phase != Phase::Ended);
        if let Some(kind) = kinds.get_mut(name) {
            kind.phases = phases;
        } else if lives {
            let kind = KindView {
                phases,
                ..KindView::default()
            };
            kinds.insert(name.clone(), kind);
        }
    }
    kinds
}

/// A text of at most [`TEXT`] characters.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::daemon::{Messages, machine_statuses};
    use crate::decide::testing;
    use crate::model::MachineState;

    #[test]
    fn it_has_the_same_size_however_many_machines_there_are() {
        let many = |count: u32| {
            let machines: Vec<_> = (0..count)
                .map(|number| {
                    let name = format!("vcycle-a-{number:0>10}");
                    testing::machine(&name, MachineState::Running, 1000)
                })
                .collect();
            let snapshot = testing::snapshot(machines.clone());
            let mut config = testing::space("max_machines = 5000");
            for (name, options) in [("a", ""), ("b", "target_share = 3")] {
                let machinetype = testing::machinetype(name, options);
                config
                    .machinetypes
                    .insert(machinetype.name.clone(), machinetype);
            }
            let now = Timestamp::from_unix(5000);
            let plan = crate::decide::decide(&config, &snapshot, now, crate::rng::Seed(1));
            let files = machines.iter().map(|machine| &machine.files);
            let shown = machine_statuses(files, Some(&snapshot), &Messages::new(), None);
            overview(&SpaceStatus {
                machines: Arc::new(shown),
                report: plan.report,
                ..SpaceStatus::default()
            })
        };
        let few = many(2);
        let kind = &few.machinetypes[&"a".parse().unwrap()];
        assert_eq!(kind.phases, BTreeMap::from([(Phase::Running, 2)]));
        assert!(
            kind.target < Some(0.5) && kind.share > Some(0.0),
            "{kind:?}"
        );
        assert_eq!(few.machines_limit, Some(5000));
        assert!(few.machines > 2, "what it creates counts: {}", few.machines);
        let size = |view: &SpaceView| serde_json::to_string(view).unwrap().len();
        let (few, lots) = (size(&few), size(&many(4000)));
        assert!(lots < few + 100, "{few} and {lots} bytes");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "é".repeat(TEXT + 1);
        assert_eq!(shortened(&long).chars().count(), TEXT + 4);
        assert_eq!(shortened("short"), "short");
    }
}
