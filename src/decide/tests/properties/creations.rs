//! Creations: within every limit, after every pause, only where there is room.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{cases, have, last_abort, name_of_kind, new};
use crate::config::MachinetypeConfig;
use crate::decide::decide;
use crate::decide::tests::NOW;
use crate::decide::tests::worlds::world;
use crate::model::{
    CloudMachine, EXHAUSTED_FOR, Machine, MachineState, Place, Shortage, SpaceSnapshot, Timestamp,
};
use crate::rng::Seed;

fn within(have: u32, new: u32, limit: Option<u32>) -> bool {
    new == 0 || limit.is_none_or(|limit| have + new <= limit)
}

/// VMs of a machinetype that are certainly starting, or running for less than fizzle_seconds.
fn on_trial(config: &MachinetypeConfig, snapshot: &SpaceSnapshot) -> usize {
    let of_kind = |machine: &&Machine| machine.files.machinetype == config.name;
    let young = |machine: &&Machine| {
        let started = machine.files.started;
        let [vm] = machine.listed.as_slice() else {
            return false;
        };
        match vm.state {
            MachineState::Starting => started.is_none(),
            MachineState::Running => {
                let told = vm.started.map(|told| told.max(machine.files.created));
                let started = started.or(told).unwrap_or(NOW);
                NOW.since(started) < config.fizzle
            }
            _ => false,
        }
    };
    let starting = |vm: &&CloudMachine| {
        vm.state == MachineState::Starting && name_of_kind(&vm.name) == config.name.as_str()
    };
    snapshot
        .machines
        .iter()
        .filter(of_kind)
        .filter(young)
        .count()
        + snapshot.unfiled.iter().filter(starting).count()
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn creations_never_pass_a_limit((config, snapshot) in world(), seed in any::<u64>()) {
        let plan = decide(&config, &snapshot, NOW, Seed(seed));
        let quota = snapshot.facts.limits;
        let (have_machines, have_processors) = have(&config, &snapshot, None);
        let (machines, processors) = new(&plan, None);
        for limit in [config.max_machines, quota.machines] {
            prop_assert!(within(have_machines, machines, limit));
        }
        for limit in [config.processors_limit, quota.processors] {
            prop_assert!(within(have_processors, processors, limit));
        }
        let limits = [config.max_machines, quota.machines, config.processors_limit, quota.processors];
        prop_assert!(machines == 0 || limits.iter().any(Option::is_some));
        for machinetype in config.machinetypes.values() {
            let kind = Some(machinetype.name.as_str());
            let (have_machines, have_processors) = have(&config, &snapshot, kind);
            let (machines, processors) = new(&plan, kind);
            prop_assert!(within(have_machines, machines, machinetype.max_machines));
            prop_assert!(within(have_processors, processors, machinetype.processors_limit));
            prop_assert!(within(0, processors, machinetype.max_starting_processors));
        }
    }

    #[test]
    fn at_most_a_tenth_of_the_limit_is_created_in_a_cycle((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        let (machines, processors) = new(&plan, None);
        if let Some(limit) = config.max_machines {
            prop_assert!(machines <= limit.div_ceil(10));
        }
        if let Some(limit) = config.processors_limit {
            prop_assert!(processors <= limit.div_ceil(10) || machines == 1);
        }
    }

    #[test]
    fn nothing_is_created_inside_a_backoff_and_one_on_trial_after((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        for machinetype in config.machinetypes.values() {
            let (created, _) = new(&plan, Some(machinetype.name.as_str()));
            let Some(abort) = last_abort(machinetype, &snapshot, &plan) else {
                continue;
            };
            let until = abort + machinetype.backoff;
            prop_assert!(created == 0 || NOW >= until);
            if NOW < until + machinetype.fizzle && created > 0 {
                prop_assert_eq!(created, 1);
                prop_assert_eq!(on_trial(machinetype, &snapshot), 0);
            }
        }
    }

    #[test]
    fn nothing_is_asked_for_where_there_was_no_room_before_its_time(
        (config, snapshot) in world(),
        seed in any::<u64>(),
    ) {
        let plan = decide(&config, &snapshot, NOW, Seed(seed));
        let mut closed = BTreeMap::new();
        let mut close = |place: Place, at: Timestamp| {
            let known: &mut Timestamp = closed.entry(place).or_default();
            *known = at.max(*known);
        };
        for (place, at) in &snapshot.exhausted {
            if *at <= NOW {
                close(place.clone(), *at);
            }
        }
        // What this scan shows counts as well, in all zones if it is a quota.
        for machine in &snapshot.machines {
            let files = &machine.files;
            let Some(vm) = machine.vm().filter(|vm| vm.state == MachineState::Failed) else {
                continue;
            };
            let (Some(shortage), Some(flavor)) = (vm.shortage, &files.flavor) else {
                continue;
            };
            let at = files.stopped.unwrap_or(NOW);
            // One that has run found room; what the files say of it may be older.
            let has_run = machine.first_running.is_some();
            if vm.started.is_some() || files.started.is_some() || has_run || at > NOW {
                continue;
            }
            let of_zone = |zone| Place { flavor: flavor.clone(), zone };
            close(of_zone(files.zone.clone()), at);
            if shortage == Shortage::Quota {
                config.zones().iter().for_each(|zone| close(of_zone(Some(zone.clone())), at));
                if config.zones().is_empty() {
                    close(of_zone(None), at);
                }
            }
        }
        let is_open = |place: &Place| {
            closed.get(place).is_none_or(|at| NOW >= *at + EXHAUSTED_FOR)
        };
        for create in &plan.creates {
            for placement in &create.placements {
                prop_assert!(is_open(&placement.place()), "{placement} in {closed:?}");
            }
        }
        // And what is open again is not shown as closed.
        for no_room in &plan.report.space.exhausted {
            prop_assert!(NOW < no_room.until && no_room.until <= NOW + EXHAUSTED_FOR);
        }
    }

    #[test]
    fn flavors_are_tried_in_their_order_and_each_in_all_zones_with_room(
        (config, snapshot) in world(),
        seed in any::<u64>(),
    ) {
        let plan = decide(&config, &snapshot, NOW, Seed(seed));
        let zones: Vec<Option<String>> = match config.zones() {
            [] => vec![None],
            zones => zones.iter().cloned().map(Some).collect(),
        };
        let is_closed = |place: Place| {
            plan.report.space.exhausted.iter().any(|no_room| {
                format!("flavor-{}", no_room.flavor) == place.flavor && no_room.zone == place.zone
            })
        };
        for create in &plan.creates {
            let names = &config.machinetypes[&create.machinetype].flavor_names;
            let rank = |name: &str| names.iter().position(|one| one == name).unwrap();
            let ranks: Vec<_> = create.placements.iter().map(|one| rank(&one.flavor.name)).collect();
            prop_assert!(ranks.is_sorted(), "{create:?}");
            let most = create.placements[0].flavor.processors;
            prop_assert!(create.placements.iter().all(|one| one.flavor.processors <= most));
            let flavors: BTreeSet<_> = create.placements.iter().map(|one| &one.flavor.id).collect();
            for flavor in flavors {
                let tried = create.placements.iter().filter(|one| one.flavor.id == *flavor);
                let tried: Vec<_> = tried.map(|one| &one.zone).collect();
                let open = zones.iter().filter(|zone| {
                    !is_closed(Place { flavor: flavor.clone(), zone: (*zone).clone() })
                });
                let open: Vec<_> = open.collect();
                // In their order, from some one on.
                let turned = (0..open.len().max(1)).any(|turn| {
                    let mut turned = open.clone();
                    turned.rotate_left(turn);
                    turned == tried
                });
                prop_assert!(turned, "{tried:?} of {open:?}");
            }
        }
    }
}
