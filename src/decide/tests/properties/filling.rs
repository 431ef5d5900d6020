//! A healthy space fills to its limit, by its shares.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{cases, have};
use crate::decide::tests::{at, testing};
use crate::decide::{Plan, decide};
use crate::model::{MachineState, Seconds};
use crate::rng::Seed;

/// A healthy space: every VM boots within a cycle and runs on.
#[derive(Clone, Debug)]
struct Healthy {
    limit: u32,
    by_processors: bool,
    /// target_share, hs06 and flavor of each machinetype.
    kinds: Vec<(f64, Option<f64>, &'static str)>,
}

fn healthy() -> impl Strategy<Value = Healthy> {
    let kind = (
        proptest::sample::select(vec![0.5, 1.0, 2.0, 3.5]),
        proptest::option::of(0.5f64..20.0),
        proptest::sample::select(vec!["one", "two", "four"]),
    );
    (
        8u32..80,
        any::<bool>(),
        proptest::collection::vec(kind, 1..5),
    )
        .prop_map(|(limit, by_processors, mut kinds)| {
            if by_processors {
                // With flavors of several sizes the small ones take what the large ones leave.
                let flavor = kinds[0].2;
                kinds.iter_mut().for_each(|kind| kind.2 = flavor);
            }
            Healthy {
                limit,
                by_processors,
                kinds,
            }
        })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_healthy_space_fills_to_its_limit_and_its_shares(world in healthy(), seed in any::<u64>()) {
        let unit = if world.by_processors { "processors_limit" } else { "max_machines" };
        let mut config = testing::space(&format!("{unit}={}", world.limit));
        for (number, (share, hs06, flavor)) in world.kinds.iter().enumerate() {
            let mut options = format!("target_share={share}\nflavor_names={flavor}");
            if let Some(hs06) = hs06 {
                options += &format!("\nhs06={hs06}");
            }
            let kind = testing::machinetype(&format!("k{number}"), &options);
            config.machinetypes.insert(kind.name.clone(), kind);
        }
        let mut snapshot = testing::snapshot(Vec::new());
        let mut now = at(0);
        let mut plan = Plan::default();
        // Ten cycles of a tenth each, and as many for what rounding and large machines cost.
        for cycle in 0..20 {
            plan = decide(&config, &snapshot, now, Seed(seed ^ cycle));
            for create in &plan.creates {
                let name = create.machine.as_str();
                let mut machine = testing::machine(name, MachineState::Starting, now.unix());
                machine.listed[0].processors = Some(create.placements[0].flavor.processors);
                snapshot.machines.push(machine);
            }
            now = now + Seconds::new(60);
            for machine in &mut snapshot.machines {
                if machine.files.created < now {
                    machine.listed[0].state = MachineState::Running;
                    machine.files.started.get_or_insert(now);
                }
            }
        }
        prop_assert!(plan.creates.is_empty());
        let (machines, processors) = have(&config, &snapshot, None);
        let each = config.machinetypes.values().next().unwrap();
        let each = snapshot.facts.flavor(&each.flavor_names[0]).unwrap().processors.get();
        if world.by_processors {
            prop_assert!(processors <= world.limit && processors + each > world.limit);
        } else {
            prop_assert_eq!(machines, world.limit);
        }
        // Whoever got the last machine had the least of its share before.
        let mut filled = BTreeMap::new();
        for (name, report) in &plan.report.machinetypes {
            prop_assert!(report.machines > 0 || world.limit < 70);
            let one = report.weight / f64::from(report.machines.max(1));
            let before = (report.weight - one) / report.target_share;
            filled.insert(name, (before, report.weight / report.target_share));
        }
        for (before, _) in filled.values().filter(|(_, now)| *now > 0.0) {
            for (_, other) in filled.values() {
                prop_assert!(*before <= other + 1e-6, "{filled:?}");
            }
        }
    }
}
