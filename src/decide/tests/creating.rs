//! What is created within the limits, and why not more.

use super::{NOW, check, read};
use crate::decide::{Blocked, Refused, Tried, decide, report_after};
use crate::rng::Seed;

#[test]
fn what_was_refused_is_not_counted_and_is_the_reason() {
    let (config, snapshot) = read("space max_machines=1\n a");
    let plan = decide(&config, &snapshot, NOW, Seed(1));
    let kind = plan.creates[0].machinetype.clone();
    let planned = &plan.report.machinetypes[&kind];
    assert_eq!((planned.creates, planned.machines), (1, 1));
    assert!(matches!(planned.stopped_by, Blocked::SpaceMachines { .. }));
    let refused = Refused {
        failures: 2,
        error: "no such image".to_owned(),
    };
    let mut tried = Tried {
        made: Vec::new(),
        refused: [(kind.clone(), refused)].into(),
    };
    let after = |tried: &Tried| {
        let report = report_after(&config, &snapshot, NOW, &plan.bookkeeping, tried);
        report.machinetypes[&kind].clone()
    };
    let report = after(&tried);
    assert_eq!((report.creates, report.machines), (0, 0));
    assert_eq!(
        report.stopped_by.to_string(),
        "the latest creation was refused: no such image"
    );
    assert!(report.rules.iter().all(|check| !check.forbids));
    // With all made it is the report of the plan.
    tried.made.clone_from(&plan.creates);
    assert_eq!(&after(&tried), planned);
}

#[test]
fn without_any_limit_nothing_is_created() {
    check(
        "a",
        "why a: no limit is known: set max_machines or processors_limit in the space",
    );
}

#[test]
fn a_limit_told_by_the_cloud_is_enough() {
    check("quota machines=10\n a", "create a one");
    check("quota processors=10\n a", "create a one");
}

#[test]
fn ten_percent_of_the_limit_a_cycle_rounded_up() {
    for (limit, created) in [
        (1, 1),
        (9, 1),
        (10, 1),
        (11, 2),
        (20, 2),
        (21, 3),
        (100, 10),
    ] {
        let times = if created == 1 {
            String::new()
        } else {
            format!(" x{created}")
        };
        check(
            &format!("space max_machines={limit}\n a"),
            &format!("create a one{times}"),
        );
        check(
            &format!("space processors_limit={limit}\n a"),
            &format!("create a one{times}"),
        );
    }
    check(
        "space max_machines=0\n a",
        "why a: machines in the space: 0 of 0",
    );
}

#[test]
fn the_cap_is_counted_in_the_unit_of_the_limit() {
    check(
        "space processors_limit=100\n a flavor_names=four",
        "create a four x2
         why a: 10 processor(s) is the most for one cycle",
    );
    check(
        "space max_machines=30\n a flavor_names=four",
        "create a four x3
         why a: 3 machine(s) is the most for one cycle",
    );
}

#[test]
fn the_cap_of_two_limits_is_that_of_the_configured_ones() {
    // Named choice. A processors quota next to max_machines is a limit, but no pace.
    check(
        "space max_machines=30\n quota processors=20\n a flavor_names=four",
        "create a four x3",
    );
    check(
        "space max_machines=30 processors_limit=40\n a flavor_names=four",
        "create a four
         why a: 4 processor(s) is the most for one cycle",
    );
    // Without a configured limit, both quotas set the pace.
    check(
        "quota machines=100 processors=40\n a flavor_names=four",
        "create a four",
    );
}

#[test]
fn a_machine_larger_than_the_cap_is_created_one_in_a_cycle() {
    // Named choice: otherwise such a site would never be filled.
    check(
        "space processors_limit=40\n a flavor_names=eight",
        "create a eight
         why a: 4 processor(s) is the most for one cycle",
    );
}

#[test]
fn the_lower_of_configuration_and_quota_is_the_limit() {
    check(
        "space max_machines=50\n quota machines=4\n foreign 3 processors=3\n a",
        "create a one\n why a: machines in the space: 4 of 4",
    );
    check(
        "space max_machines=4\n quota machines=50\n foreign 3 processors=3\n a",
        "create a one\n why a: machines in the space: 4 of 4",
    );
    check(
        "space processors_limit=50\n quota processors=9\n foreign 1 processors=8\n a",
        "create a one\n why a: processors in the space: 9 + 1 of 9",
    );
}

#[test]
fn machines_of_every_state_count_for_the_limits() {
    let ten = "a
         a.1 starting
         a.2 running started=-900
         a.3 shutdown started=-900 stopped=0 finished=0 deleted=0
         a.4 deleting started=-900 stopped=0 finished=0 deleted=0
         a.5 failed started=-900 stopped=0 finished=0 deleted=0
         a.6 unknown started=-900
         a.7 pending created=-10
         a.8 unlisted started=-900 updated=-60 seen=-60
         gone.9 running started=-900
         foreign 1 processors=1";
    check(
        &format!("space max_machines=10\n {ten}"),
        "why a: machines in the space: 10 of 10",
    );
    check(
        &format!("space processors_limit=10\n {ten}"),
        "why a: processors in the space: 10 + 1 of 10",
    );
    check(&format!("space max_machines=11\n {ten}"), "create a one");
    check(
        &format!("space max_machines=99\n {ten}").replace("a\n", "a max_machines=8\n"),
        "why a: max_machines of the machinetype: 8 of 8",
    );
}

#[test]
fn machines_that_are_gone_do_not_count() {
    check(
        "space max_machines=2
         a
         a.1 running started=-900
         a.2 unlisted missed=2 started=-900 stopped=-300 finished=-300
         a.3 unlisted missed=1 started=-900 stopped=-300 finished=-300
         a.4 pending missed=2 created=-9000 stopped=-300 finished=-300",
        "create a one",
    );
}

#[test]
fn duplicates_and_adopted_vms_count() {
    check(
        "space processors_limit=15
         a
         a.1 running started=-900
         a.1 also running id=x processors=8
         unfiled a.2 running processors=4
         unfiled a.2 running id=y processors=2",
        "adopt a.2 as a id=id-vcycle-a-0000000002
         delete a.1 id=x: another machine has the same name
         why a: processors in the space: 15 + 1 of 15",
    );
    check(
        "space processors_limit=99
         a processors_limit=15
         a.1 running started=-900
         a.1 also running id=x processors=8
         unfiled a.2 running processors=4
         unfiled a.2 running id=y processors=2",
        "adopt a.2 as a id=id-vcycle-a-0000000002
         delete a.1 id=x: another machine has the same name
         why a: processors_limit of the machinetype: 15 + 1 of 15",
    );
}

#[test]
fn a_machine_that_does_not_fit_is_not_created() {
    check(
        "space processors_limit=10
         foreign 1 processors=7
         a flavor_names=four",
        "why a: processors in the space: 7 + 4 of 10",
    );
    check(
        "space processors_limit=100
         a flavor_names=four processors_limit=7",
        "create a four
         why a: processors_limit of the machinetype: 4 + 4 of 7",
    );
}

#[test]
fn the_processors_of_a_machine_are_those_that_the_cloud_tells() {
    check(
        "space processors_limit=20
         a cpu_per_machine=5
         a.1 running started=-900 processors=3 cloud-processors=8
         a.2 running started=-900 processors=3 cloud-processors=?
         a.3 running started=-900 cloud-processors=?
         gone.4 running started=-900 cloud-processors=?",
        "create a one x2
         why a: 2 processor(s) is the most for one cycle",
    );
}

#[test]
fn limits_of_the_machinetype() {
    check(
        "space max_machines=100\n a max_machines=3\n a.1 running started=-900",
        "create a one x2
         why a: max_machines of the machinetype: 3 of 3",
    );
    check(
        "space max_machines=100\n a processors_limit=3 flavor_names=two",
        "create a two
         why a: processors_limit of the machinetype: 2 + 2 of 3",
    );
}

#[test]
fn max_starting_processors() {
    check(
        "space max_machines=100
         a flavor_names=two max_starting_processors=6
         a.1 running started=-900 cloud-processors=2
         a.2 starting cloud-processors=2
         a.3 pending created=-10 processors=2",
        "create a two
         why a: max_starting_processors: 6 + 2 of 6",
    );
    // A VM that the cloud is late in listing is starting still; an adopted one may be as well.
    check(
        "space max_machines=100
         a flavor_names=two max_starting_processors=4
         a.1 unlisted missed=1 processors=2 updated=-60
         unfiled a.2 starting processors=2",
        "adopt a.2 as a id=id-vcycle-a-0000000002
         why a: max_starting_processors: 4 + 2 of 4",
    );
}

#[test]
fn the_first_flavor_allowed_by_min_and_max_processors() {
    check(
        "space max_machines=10\n a flavor_names=one,four,two,eight min_processors=2",
        "create a four,two",
    );
    check(
        "space max_machines=10\n a flavor_names=eight,four,two max_processors=4",
        "create a four,two",
    );
    check(
        "space max_machines=10\n a flavor_names=four,flavor-two",
        "create a four,two",
    );
    check(
        "space max_machines=10\n a flavor_names=one,ten,eight min_processors=2 max_processors=4",
        "why a: no usable flavor in flavor_names: one has 1 processor(s), less than min_processors; the cloud has \
         no flavor ten; eight has 8 processor(s), more than max_processors",
    );
    // cpu_per_machine only says what a flavor has when the cloud does not.
    check(
        "space max_machines=10\n a flavor_names=one cpu_per_machine=2",
        "create a one",
    );
}

#[test]
fn a_lesser_flavor_fills_what_a_limit_leaves() {
    // Named choice: "the next one when the cloud has no room for the first" includes its limits.
    check(
        "space max_machines=100\n quota processors=11\n a flavor_names=eight,two",
        "create a eight,two
         create a two
         why a: processors in the space: 10 + 8 of 11",
    );
}

#[test]
fn a_lesser_flavor_is_not_taken_only_because_this_cycle_is_full() {
    check(
        "space processors_limit=100\n a flavor_names=eight,one",
        "create a eight,one
         why a: 10 processor(s) is the most for one cycle",
    );
    check(
        "space max_machines=100\n a flavor_names=eight,one max_starting_processors=10",
        "create a eight,one
         why a: max_starting_processors: 8 + 8 of 10",
    );
    // One that can never start is as good as not there.
    check(
        "space max_machines=10\n a flavor_names=eight,one max_starting_processors=4",
        "create a one",
    );
}

#[test]
fn no_target_share_no_machines() {
    check(
        "space max_machines=10\n a target_share=0",
        "why a: target_share is 0",
    );
}

#[test]
fn an_image_that_the_cloud_does_not_have_yet_is_waited_for() {
    check(
        "space max_machines=10\n a root_image=/image.iso",
        "why a: root_image: not looked at yet",
    );
}

#[test]
fn no_machines_from_the_shutdown_time_on() {
    // No later than that a new machine could be told of it in time, and survive fizzle_seconds.
    check(
        "space max_machines=10 shutdown_time=+600\n a",
        "create a one",
    );
    check(
        "space max_machines=10 shutdown_time=+599\n a",
        "why a: shutdown_time +599 of the space is too near for a new machine",
    );
    check(
        "space max_machines=10 shutdown_time=+900 grace_seconds=10\n a fizzle_seconds=1000\n b",
        "create b one
         why a: shutdown_time +900 of the space is too near for a new machine",
    );
    check(
        "space max_machines=10 shutdown_time=+9000 ordered_shutdown=-1\n a",
        "why a: shutdown_time -1 of the space has passed (set by vcycled shutdown)",
    );
    check(
        "space max_machines=10 shutdown_time=-1 ordered_shutdown=+9000\n a",
        "why a: shutdown_time -1 of the space has passed",
    );
    check(
        "space max_machines=10 shutdown_time=0\n a",
        "why a: shutdown_time +0 of the space has passed",
    );
}
