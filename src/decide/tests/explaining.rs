//! What is explained is what is done: the rules of a report against the plan that it came with,
//! and against plans for worlds in which what they name is otherwise.

use std::mem::discriminant;

use proptest::prelude::*;

use super::worlds::world;
use super::{NOW, read};
use crate::config::SpaceConfig;
use crate::decide::{Blocked, Check, MachinetypeReport, Rule, decide};
use crate::model::{MachinetypeName, Seconds, Share, SpaceSnapshot, Timestamp};
use crate::rng::Seed;

fn report(
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    kind: &MachinetypeName,
    now: Timestamp,
) -> MachinetypeReport {
    let plan = decide(config, snapshot, now, Seed(1));
    plan.report.machinetypes[kind].clone()
}

fn deciding(report: &MachinetypeReport) -> Vec<&Check> {
    let rules = report.rules.iter();
    rules.filter(|check| check.decides).collect()
}

/// Takes away what the explanation of `kind` names, if that is something of the configuration.
fn relax(
    config: &mut SpaceConfig,
    snapshot: &mut SpaceSnapshot,
    kind: &MachinetypeName,
    why: &Blocked,
) -> bool {
    let machinetype = config.machinetypes.get_mut(kind).unwrap();
    match why {
        Blocked::NoTargetShare => machinetype.target_share = Share::new(1.0).unwrap(),
        Blocked::ShutdownTime { .. } => {
            (config.shutdown_time, config.ordered_shutdown) = (None, None);
        }
        Blocked::MachinetypeMachines { .. } => machinetype.max_machines = None,
        Blocked::MachinetypeProcessors { .. } => machinetype.processors_limit = None,
        Blocked::StartingProcessors { .. } => machinetype.max_starting_processors = None,
        Blocked::NoLimitKnown => config.max_machines = Some(1000),
        Blocked::SpaceMachines { .. } => {
            (config.max_machines, snapshot.facts.limits.machines) = (None, None);
        }
        Blocked::SpaceProcessors { .. } => {
            (config.processors_limit, snapshot.facts.limits.processors) = (None, None);
        }
        Blocked::SuspectScan { .. }
        | Blocked::NoFlavor { .. }
        | Blocked::Exhausted { .. }
        | Blocked::Image { .. }
        | Blocked::Unsupported { .. }
        | Blocked::Backoff { .. }
        | Blocked::Trial { .. }
        | Blocked::Failing { .. }
        | Blocked::Refused { .. }
        | Blocked::CycleCap { .. } => return false,
    }
    true
}

proptest! {
    #[test]
    fn one_rule_is_marked_and_it_is_the_one_that_decided((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        for (name, report) in &plan.report.machinetypes {
            let marked = deciding(report);
            prop_assert_eq!(marked.len(), 1, "{} {:?}", name, report);
            prop_assert!(marked[0].forbids);
            for check in &report.rules {
                let blocked = check.rule.forbids(NOW);
                prop_assert_eq!(check.forbids, blocked.is_some(), "{:?}", check);
                prop_assert!(!check.decides || blocked.as_ref() == Some(&report.stopped_by));
            }
            // The first that holds: only one flavor may be passed over for another.
            let first = report.rules.iter().find(|check| check.forbids).unwrap();
            prop_assert!(first.decides || first.of_flavor.is_some(), "{:?}", report);
            let flavors = report.rules.iter().filter(|check| {
                matches!(check.rule, Rule::FlavorRoom { .. })
            });
            prop_assert!(first.decides || flavors.count() > 1, "{:?}", report);
            // What forbids all along has created nothing; what was created was forbidden by nothing
            // until then.
            let created = plan.creates.iter().filter(|create| create.machinetype == *name);
            let created = created.count();
            let general = marked[0].of_flavor.is_none()
                && !matches!(marked[0].rule, Rule::Trial { .. });
            prop_assert!(!general || created == 0, "{} created although {:?}", created, marked);
        }
    }

    #[test]
    fn without_what_is_named_something_else_decides((config, snapshot) in world()) {
        for name in config.machinetypes.keys() {
            let before = report(&config, &snapshot, name, NOW);
            let (mut config, mut snapshot) = (config.clone(), snapshot.clone());
            if !relax(&mut config, &mut snapshot, name, &before.stopped_by) {
                continue;
            }
            let after = report(&config, &snapshot, name, NOW);
            prop_assert!(
                discriminant(&after.stopped_by) != discriminant(&before.stopped_by),
                "{:?}, then {:?}", before.stopped_by, after.stopped_by
            );
        }
    }

    #[test]
    fn a_reason_holds_until_the_time_that_is_told((config, snapshot) in world()) {
        for name in config.machinetypes.keys() {
            let before = report(&config, &snapshot, name, NOW);
            let Some(until) = before.stopped_by.until() else {
                continue;
            };
            prop_assert!(until > NOW);
            let then = report(&config, &snapshot, name, until);
            prop_assert!(then.stopped_by != before.stopped_by, "{:?}", before.stopped_by);
            // A trial ends sooner when the young have grown up.
            if !matches!(before.stopped_by, Blocked::Trial { .. }) {
                let rule = &deciding(&before)[0].rule;
                let last = until.earlier(Seconds::new(1));
                let then = report(&config, &snapshot, name, last);
                let mut same = then.rules.iter().filter(|check| {
                    discriminant(&check.rule) == discriminant(rule)
                });
                prop_assert!(same.any(|check| check.forbids), "{:?}", before.stopped_by);
            }
        }
    }
}

/// The rules of the machinetype `a`, as they are shown: mark, title, numbers.
fn explained(situation: &str) -> Vec<String> {
    let (config, snapshot) = read(situation);
    let report = report(&config, &snapshot, &"a".parse().unwrap(), NOW);
    let line = |check: &Check| {
        let mark = match (check.decides, check.forbids) {
            (true, _) => "->",
            (false, true) => "no",
            (false, false) => "ok",
        };
        format!("{mark} {}: {}", check.rule.title(), check.rule)
    };
    report.rules.iter().map(line).collect()
}

#[test]
fn each_rule_is_told_with_its_numbers() {
    let lines = explained("space max_machines=3\na max_machines=2\na.1 running\na.2 running");
    assert_eq!(
        lines,
        [
            "ok target_share: 1",
            "ok shutdown_time: none",
            "ok listing of the cloud: complete",
            "ok root_image: image:image",
            "ok backoff_seconds: 600 s, but nothing has aborted",
            "ok failed creations: none",
            "ok flavor_names: one",
            "ok one at a time: no backoff before",
            "ok room on the cloud: none was refused lately",
            "-> max_machines, machinetype: 2 of 2",
            "ok processors_limit, machinetype: 2, and 1 more, no limit",
            "ok max_starting_processors: 0, and 1 more, no limit",
            "ok a limit is known: 3 machines",
            "ok machines of the space: 2 of 3",
            "ok processors of the space: 2, and 1 more, no limit",
            "ok machines of one cycle: 0 of 1",
            "ok processors of one cycle: 0, and 1 more, no limit",
        ]
    );
}

#[test]
fn of_the_rules_that_forbid_the_first_decides() {
    let lines =
        explained("space max_machines=1\na\nhistory a abort=-100\na.1 running started=-1000");
    let forbidden: Vec<_> = lines
        .iter()
        .filter(|line| !line.starts_with("ok"))
        .collect();
    assert_eq!(forbidden.len(), 2, "{lines:#?}");
    assert!(
        forbidden[0].starts_with("-> backoff_seconds: last abort "),
        "{forbidden:?}"
    );
    assert_eq!(forbidden[1], "no machines of the space: 1 of 1");
}
