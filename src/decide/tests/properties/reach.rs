//! The other properties say little if their worlds never come near a rule: these worlds do.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::decide::tests::NOW;
use crate::decide::tests::worlds::{Tally, world};
use crate::decide::view::View;
use crate::decide::{Bookkeeping, Finish, decide};
use crate::rng::Seed;

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
