//! What is done to machines: only to ours, once, the same whatever the order of the listing, and after
//! a crash as before it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::cases;
use crate::decide::tests::NOW;
use crate::decide::tests::worlds::{Obedience, apply, scan_again, world};
use crate::decide::view::View;
use crate::decide::{Bookkeeping, Plan, Reason, decide};
use crate::model::{MachineName, Seconds, Timestamp};
use crate::rng::Seed;

proptest! {
    #![proptest_config(cases(256))]

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
    fn a_delete_is_repeated_only_after_a_pause((config, snapshot) in world()) {
        let plan = decide(&config, &snapshot, NOW, Seed(1));
        for delete in plan.deletes.iter().filter(|one| one.reason != Reason::Duplicate) {
            let machine = snapshot.machines.iter().find(|one| one.files.name == delete.machine);
            let machine = machine.unwrap();
            // One in the future was noted before the clock was set back.
            let Some(last) = machine.files.deleted.filter(|last| *last <= NOW) else {
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
            let finishes = plan.bookkeeping.iter().filter_map(Bookkeeping::finish);
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
}
