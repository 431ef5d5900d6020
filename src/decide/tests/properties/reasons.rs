//! The report: why no more are created, and the counts.

use proptest::prelude::*;

use super::{cases, have, last_abort, new};
use crate::config::{ImageSource, MachinetypeConfig, SpaceConfig};
use crate::decide::tests::NOW;
use crate::decide::tests::worlds::world;
use crate::decide::{Blocked, Plan, Unit, decide};
use crate::model::{EXHAUSTED_FOR, Processors, SpaceSnapshot};
use crate::rng::Seed;

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_machinetype_has_a_reason_that_is_true((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        prop_assert!(plan.report.machinetypes.keys().eq(config.machinetypes.keys()));
        for machinetype in config.machinetypes.values() {
            why_is_true(machinetype, &config, &snapshot, &plan)?;
        }
    }

    #[test]
    fn counts_of_the_report_are_right((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        for (name, report) in &plan.report.machinetypes {
            let (machines, _) = have(&config, &snapshot, Some(name.as_str()));
            let (created, _) = new(&plan, Some(name.as_str()));
            prop_assert_eq!(report.creates, created);
            prop_assert!(report.machines >= machines + created);
            prop_assert!(report.starting >= created);
            prop_assert!(report.starting + report.running <= report.machines);
        }
        let (machines, _) = have(&config, &snapshot, None);
        prop_assert!(plan.report.space.machines >= machines);
        prop_assert_eq!(plan.report.space.foreign_machines, snapshot.foreign_machines);
    }

    #[test]
    fn what_runs_is_counted_as_the_report_counts_it((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        let tally = crate::decide::tally::tally(&config, &snapshot, NOW);
        prop_assert!(tally.machinetypes.keys().eq(config.machinetypes.keys()));
        let (mut machines, mut processors) = (0, 0);
        for (name, running) in &tally.machinetypes {
            prop_assert_eq!(running.machines, plan.report.machinetypes[name].running);
            prop_assert!(running.processors <= plan.report.machinetypes[name].processors);
            prop_assert!(running.without_power <= running.machines);
            prop_assert!((running.without_power == running.machines) == (running.hs06 == 0.0));
            machines += running.machines;
            processors += running.processors.get();
        }
        prop_assert!(machines <= tally.all.machines && processors <= tally.all.processors.get());
        prop_assert!(tally.all.machines <= plan.report.space.machines);
    }
}

fn why_is_true(
    machinetype: &MachinetypeConfig,
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    plan: &Plan,
) -> Result<(), TestCaseError> {
    let report = &plan.report.machinetypes[&machinetype.name];
    let space = &plan.report.space;
    let quota = snapshot.facts.limits;
    let (created, created_processors) = new(plan, None);
    let aborted = || last_abort(machinetype, snapshot, plan).unwrap();
    let flavor_fits = |need: Processors| {
        let mut names = machinetype.flavor_names.iter();
        names.any(|name| {
            let flavor = snapshot.facts.flavor(name);
            flavor.is_some_and(|flavor| flavor.processors == need)
        })
    };
    let lower = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
    let holds = match &report.stopped_by {
        Blocked::NoTargetShare => machinetype.target_share.get() == 0.0,
        Blocked::ShutdownTime {
            at,
            passed,
            ordered,
        } => {
            let least = config.grace.max(machinetype.fizzle);
            config.down_by() == Some(*at)
                && *passed == (NOW >= *at)
                && *ordered == (config.ordered_shutdown == Some(*at))
                && NOW + least > *at
        }
        Blocked::SuspectScan { missing, .. } => {
            *missing >= 3 && snapshot.machines.iter().all(|one| one.listed.is_empty())
        }
        Blocked::NoLimitKnown => {
            lower(config.max_machines, config.processors_limit).is_none()
                && lower(quota.machines, quota.processors).is_none()
        }
        Blocked::NoFlavor { why } => !why.is_empty() && created_of(plan, machinetype) == 0,
        Blocked::Exhausted { flavor, until } => {
            let named = machinetype.flavor_names.contains(flavor);
            named && NOW < *until && *until <= NOW + EXHAUSTED_FOR
        }
        Blocked::Unsupported { .. } => machinetype.cernvm_signing_dn.is_some(),
        Blocked::Image { .. } => !matches!(machinetype.root_image, ImageSource::Cloud(_)),
        Blocked::Backoff { until } => *until == aborted() + machinetype.backoff && NOW < *until,
        Blocked::Trial { until, young } => {
            let end = aborted() + machinetype.backoff + machinetype.fizzle;
            *until == end && NOW < end && *young > 0
        }
        Blocked::Failing { failures, until } => *failures > 0 && NOW < *until,
        Blocked::MachinetypeMachines { have, limit } => {
            machinetype.max_machines == Some(*limit) && *have == report.machines && have >= limit
        }
        Blocked::MachinetypeProcessors { have, need, limit } => {
            machinetype.processors_limit == Some(*limit)
                && *have == report.processors
                && (*have + *need).get() > *limit
                && flavor_fits(*need)
        }
        Blocked::StartingProcessors { have, need, limit } => {
            machinetype.max_starting_processors == Some(*limit)
                && (*have + *need).get() > *limit
                && flavor_fits(*need)
        }
        Blocked::SpaceMachines { have, limit } => {
            lower(config.max_machines, quota.machines) == Some(*limit)
                && *have == space.machines + created
                && have >= limit
        }
        Blocked::SpaceProcessors { have, need, limit } => {
            lower(config.processors_limit, quota.processors) == Some(*limit)
                && have.get() == space.processors.get() + created_processors
                && (*have + *need).get() > *limit
                && flavor_fits(*need)
        }
        // Only carrying out a plan can be refused.
        Blocked::Refused { .. } => false,
        Blocked::CycleCap { cap, unit } => {
            created > 0
                && match unit {
                    Unit::Machines => created >= *cap,
                    Unit::Processors => created_processors + 8 > *cap,
                }
        }
    };
    prop_assert!(holds, "{:?} of {report:?} in {space:?}", report.stopped_by);
    Ok(())
}

fn created_of(plan: &Plan, machinetype: &MachinetypeConfig) -> u32 {
    new(plan, Some(machinetype.name.as_str())).0
}
