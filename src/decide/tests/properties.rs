//! What holds of every plan, whatever the space looks like. The counts here are made anew from
//! the snapshot, not taken from the code under test.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::view::View;
use super::worlds::{Obedience, Tally, apply, scan_again, world};
use super::{NOW, at, testing};
use crate::config::{ImageSource, MachinetypeConfig, SpaceConfig};
use crate::decide::{Blocked, Bookkeeping, Finish, Plan, Reason, Unit, decide};
use crate::model::{
    CloudMachine, EXHAUSTED_FOR, Machine, MachineName, MachineState, Place, Processors, Seconds,
    Shortage, SpaceSnapshot, Timestamp,
};
use crate::rng::Seed;

/// So many cases, and in proportion more when PROPTEST_CASES asks for more than its usual 256.
fn cases(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: cases * usual.cases.max(256) / 256,
        ..usual
    }
}

/// Machines and processors that are on the cloud or may be, of one machinetype or of all.
fn have(config: &SpaceConfig, snapshot: &SpaceSnapshot, kind: Option<&str>) -> (u32, u32) {
    let configured = |name: &str| {
        let mut kinds = config.machinetypes.values();
        kinds
            .find(|one| one.name.as_str() == name)
            .map_or(1, |one| one.min_processors.get())
    };
    let (mut machines, mut processors) = (0, 0);
    for machine in &snapshot.machines {
        let name = machine.files.machinetype.as_str();
        if kind.is_some_and(|kind| kind != name) {
            continue;
        }
        let on_file = machine
            .files
            .processors
            .map_or(configured(name), Processors::get);
        // Of duplicates without a figure nothing is certain but that they have a processor.
        let least = if machine.listed.len() == 1 {
            on_file
        } else {
            1
        };
        for vm in &machine.listed {
            machines += 1;
            processors += vm.processors.map_or(least, Processors::get);
        }
        let lost = machine.missed_scans >= 2 || machine.files.finished.is_some();
        if machine.listed.is_empty() && !lost {
            machines += 1;
            processors += on_file;
        }
    }
    for vm in &snapshot.unfiled {
        let name = name_of_kind(&vm.name);
        if kind.is_none_or(|kind| kind == name) {
            machines += 1;
            processors += vm.processors.map_or(1, Processors::get);
        }
    }
    if kind.is_none() {
        machines += snapshot.foreign_machines;
        processors += snapshot.foreign_processors.get();
    }
    (machines, processors)
}

fn name_of_kind(name: &str) -> &str {
    name.split('-').nth(1).unwrap()
}

/// What the plan creates, of one machinetype or of all.
fn new(plan: &Plan, kind: Option<&str>) -> (u32, u32) {
    let mine = plan
        .creates
        .iter()
        .filter(|create| kind.is_none_or(|kind| kind == create.machinetype.as_str()));
    mine.fold((0, 0), |(machines, processors), create| {
        let most = create
            .placements
            .iter()
            .map(|one| one.flavor.processors.get())
            .max();
        (machines + 1, processors + most.unwrap())
    })
}

fn within(have: u32, new: u32, limit: Option<u32>) -> bool {
    new == 0 || limit.is_none_or(|limit| have + new <= limit)
}

/// The last abort of a machinetype, those that this plan has found included.
fn last_abort(
    config: &MachinetypeConfig,
    snapshot: &SpaceSnapshot,
    plan: &Plan,
) -> Option<Timestamp> {
    let found = plan.bookkeeping.iter().filter_map(|action| match action {
        Bookkeeping::Finish(finish) if finish.abort && finish.machinetype == config.name => {
            Some(finish.stopped)
        }
        _ => None,
    });
    let known = snapshot
        .history
        .get(&config.name)
        .and_then(|history| history.last_abort);
    found.chain(known).max()
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
    fn only_machines_of_ours_are_acted_on_and_each_is_deleted_once((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        let mut ids = BTreeSet::new();
        let mut machines = BTreeSet::new();
        for delete in &plan.deletes {
            let machine = snapshot.machines.iter().find(|one| one.files.name == delete.machine);
            let listed = &machine.unwrap().listed;
            prop_assert!(listed.iter().any(|vm| vm.id == delete.id), "{delete:?}");
            prop_assert!(ids.insert(&delete.id), "twice: {delete:?}");
            if delete.reason == Reason::Duplicate {
                prop_assert!(listed.len() > 1);
                prop_assert!(machine.unwrap().files.id.as_ref() != Some(&delete.id));
            } else {
                prop_assert!(machines.insert(&delete.machine), "twice: {delete:?}");
            }
        }
        let names: BTreeSet<&str> = snapshot
            .machines
            .iter()
            .map(|machine| machine.files.name.as_str())
            .chain(snapshot.unfiled.iter().map(|vm| vm.name.as_str()))
            .collect();
        for action in &plan.bookkeeping {
            prop_assert!(names.contains(action.machine().as_str()));
        }
        let mut fresh = BTreeSet::new();
        for create in &plan.creates {
            prop_assert!(!names.contains(create.machine.as_str()));
            prop_assert!(fresh.insert(&create.machine));
            prop_assert!(!create.placements.is_empty());
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

    #[test]
    fn a_delete_is_repeated_only_after_a_pause((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        for delete in plan.deletes.iter().filter(|one| one.reason != Reason::Duplicate) {
            let machine = snapshot.machines.iter().find(|one| one.files.name == delete.machine);
            let machine = machine.unwrap();
            let Some(last) = machine.files.deleted else {
                continue;
            };
            let passed = NOW.since(last).get();
            prop_assert!(passed >= 30);
            prop_assert!(machine.delete_tries < 3 || passed >= 3600);
            let slow = matches!(delete.reason, Reason::StillDeleting { .. });
            prop_assert!(!slow || passed >= 3600);
        }
    }

    #[test]
    fn the_order_of_the_listing_changes_nothing(
        (config, snapshot) in world(),
        seed in any::<u64>(),
        turn in 0usize..9,
    ) {
        let mut shuffled = snapshot.clone();
        shuffled.machines.reverse();
        shuffled.unfiled.reverse();
        if !shuffled.machines.is_empty() {
            let turn = turn % shuffled.machines.len();
            shuffled.machines.rotate_left(turn);
        }
        for machine in &mut shuffled.machines {
            machine.listed.reverse();
        }
        prop_assert_eq!(
            decide(&config, &snapshot, NOW, Seed(seed)),
            decide(&config, &shuffled, NOW, Seed(seed))
        );
    }

    #[test]
    fn what_was_written_down_and_asked_for_is_not_asked_for_again((config, snapshot) in world()) {
        let first = decide(&config, &snapshot, NOW, Seed(1));
        let suspect = View::new(&config, &snapshot, NOW).suspect.is_some();
        let adopted: BTreeSet<_> = snapshot.unfiled.iter().map(|vm| vm.name.clone()).collect();
        let mut after = snapshot.clone();
        apply(&config, &mut after, &first, Obedience::Slow);
        let second = decide(&config, &after, NOW, Seed(2));
        // What is found out in ten suspect scans lets the other rules speak again; a machine that
        // has just got its directory is looked at for the first time.
        if suspect {
            return Ok(());
        }
        for action in &second.bookkeeping {
            prop_assert!(adopted.contains(action.machine().as_str()), "{action:?}");
        }
        for delete in &second.deletes {
            let known = !adopted.contains(delete.machine.as_str());
            // A duplicate has no file that says when it was deleted.
            prop_assert!(!known || delete.reason == Reason::Duplicate, "{delete:?}");
        }
    }

    #[test]
    fn an_end_that_a_crash_left_half_written_is_the_same_end_later((config, snapshot) in world()) {
        let first = decide(&config, &snapshot, NOW, Seed(1));
        let mut after = snapshot;
        apply(&config, &mut after, &first, Obedience::Slow);
        for machine in &mut after.machines {
            machine.files.finished = None;
            (machine.first_running, machine.last_running) = (None, None);
        }
        let second = decide(&config, &after, NOW + Seconds::new(500), Seed(2));
        let ends = |plan: &Plan| -> BTreeMap<MachineName, (Option<Timestamp>, Timestamp, bool)> {
            let finishes = plan.bookkeeping.iter().filter_map(|action| match action {
                Bookkeeping::Finish(finish) => Some(finish),
                _ => None,
            });
            finishes
                .map(|end| (end.machine.clone(), (end.started, end.stopped, end.account)))
                .collect()
        };
        let later = ends(&second);
        for (machine, end) in ends(&first) {
            prop_assert_eq!(later.get(&machine), Some(&end), "{}", machine);
        }
    }

    #[test]
    fn with_a_prompt_cloud_everything_comes_to_rest((config, snapshot) in world()) {
        let mut now_is = snapshot.clone();
        let mut last = None;
        for _ in 0..50 {
            let plan = decide(&config, &now_is, NOW, Seed(1));
            if plan.bookkeeping.is_empty() && plan.deletes.is_empty() && plan.creates.is_empty() {
                return Ok(());
            }
            apply(&config, &mut now_is, &plan, Obedience::Prompt);
            scan_again(&mut now_is);
            last = Some(plan);
        }
        prop_assert!(false, "still busy: {last:?}");
    }

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

/// The ways in which a machine can end.
#[derive(Debug)]
enum End {
    Failed,
    Fizzled,
    Aborted,
    Short,
    Accounted,
}

impl End {
    fn of(finish: &Finish) -> Self {
        match (finish.started, finish.code, finish.abort) {
            (None, _, false) => Self::Failed,
            (None, _, true) => Self::Aborted,
            (Some(_), None, true) => Self::Fizzled,
            (Some(_), Some(_), true) => Self::Aborted,
            (Some(_), _, false) if finish.account => Self::Accounted,
            (Some(_), _, false) => Self::Short,
        }
    }
}

/// The properties above say little if their worlds never come near a rule.
#[test]
fn the_generated_worlds_reach_every_bucket_and_rule() {
    let mut runner = TestRunner::deterministic();
    let strategy = world();
    let (mut buckets, mut states) = (Tally::default(), Tally::default());
    let (mut actions, mut reasons) = (Tally::default(), Tally::default());
    let (mut blocked, mut ends) = (Tally::default(), Tally::default());
    let mut full_plans = 0;
    for _ in 0..1500 {
        let (config, snapshot) = strategy.new_tree(&mut runner).unwrap().current();
        for machine in &View::new(&config, &snapshot, NOW).machines {
            buckets.note(&machine.bucket);
            states.note(&machine.state());
        }
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        for action in &plan.bookkeeping {
            actions.note(action);
            if let Bookkeeping::Finish(finish) = action {
                ends.note(&End::of(finish));
            }
        }
        plan.deletes
            .iter()
            .for_each(|delete| reasons.note(&delete.reason));
        let reports = plan.report.machinetypes.values();
        reports.for_each(|report| blocked.note(&report.stopped_by));
        full_plans += u32::from(!plan.creates.is_empty() && !plan.deletes.is_empty());
    }
    buckets.expect("Pending NeverAppeared Listed Unlisted Gone");
    states.expect("Starting Running Shutdown Deleting Failed Unknown");
    actions.expect("Adopt Identify Start Miss Shutdowntime Volumes Exhausted Finish Forget");
    reasons.expect(
        "FailedToStart Stopped StillDeleting Wallclock HeartbeatMissing HeartbeatOld Shutdowntime \
         Duplicate",
    );
    blocked.expect(
        "NoTargetShare ShutdownTime SuspectScan NoLimitKnown NoFlavor Exhausted Image Backoff Trial \
         Failing MachinetypeMachines MachinetypeProcessors StartingProcessors SpaceMachines \
         SpaceProcessors CycleCap",
    );
    ends.expect("Failed Fizzled Aborted Short Accounted");
    assert!(
        full_plans > 20,
        "{full_plans} plans with creates and deletes"
    );
}

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

proptest! {
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
