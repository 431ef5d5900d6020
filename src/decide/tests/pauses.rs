//! When nothing is created, or one machine at a time: after aborts, and after failures.

use super::check;

#[test]
fn nothing_is_created_until_backoff_seconds_after_the_last_abort() {
    check(
        "space max_machines=10\n a backoff_seconds=600\n history a abort=-599",
        "why a: backing off after an abort until +1",
    );
    check(
        "space max_machines=10\n a backoff_seconds=600\n history a abort=-600",
        "create a one",
    );
}

#[test]
fn what_was_noted_by_a_clock_that_was_ahead_ends_no_later_than_if_it_were_noted_now() {
    check(
        "space max_machines=10\n a backoff_seconds=600\n history a abort=+90000",
        "why a: backing off after an abort until +600",
    );
    // An end in the future that has not been finished is no later than now either.
    check(
        "space max_machines=10
         a
         a.1 shutdown started=-900 stopped=+90000 message=300~Nothing deleted=0",
        "finish a.1 +90000 ran 90900 code 300 ABORT account
         why a: backing off after an abort until +600",
    );
    check(
        "space max_machines=10\n a\n history a failures=99 failed=+1",
        "create a one",
    );
}

#[test]
fn an_abort_found_in_this_pass_counts_at_once() {
    check(
        "space max_machines=10
         a
         a.1 shutdown started=-900 cloud-updated=-20 message=300~Nothing deleted=0",
        "finish a.1 -20 ran 880 code 300 ABORT account
         why a: backing off after an abort until +580",
    );
    // It never moves the last abort back.
    check(
        "space max_machines=10
         a
         history a abort=-5
         a.1 shutdown started=-900 cloud-updated=-20 message=300~Nothing deleted=0",
        "finish a.1 -20 ran 880 code 300 ABORT account
         why a: backing off after an abort until +595",
    );
}

#[test]
fn one_machinetype_in_backoff_leaves_the_room_to_the_others() {
    check(
        "space max_machines=30\n a target_share=9\n b\n history a abort=-10",
        "create b one x3",
    );
}

#[test]
fn after_a_backoff_one_machine_at_a_time_is_tried() {
    let space = "space max_machines=100
         a backoff_seconds=600 fizzle_seconds=300
         history a abort=-700";
    check(
        space,
        "create a one
         why a: after a backoff one at a time, 1 on trial, until +200",
    );
    for on_trial in [
        "a.1 starting",
        "a.1 pending created=-10",
        "a.1 running started=-299",
        "a.1 running",
        "a.1 unlisted updated=-60 seen=-60",
        "a.1 unlisted updated=-60 seen=-60 started=-299",
    ] {
        let start = match on_trial {
            "a.1 running" => "start a.1 +0\n",
            _ => "",
        };
        check(
            &format!("{space}\n {on_trial}"),
            &format!("{start}why a: after a backoff one at a time, 1 on trial, until +200"),
        );
    }
    check(
        &format!("{space}\n unfiled a.1 starting"),
        "adopt a.1 as a id=id-vcycle-a-0000000001
         why a: after a backoff one at a time, 1 on trial, until +200",
    );
    // One that has survived fizzle_seconds lets the next be tried.
    check(
        &format!("{space}\n a.1 running started=-300"),
        "create a one",
    );
}

#[test]
fn the_trial_rule_ends_fizzle_seconds_after_the_backoff() {
    check(
        "space max_machines=30
         a backoff_seconds=600 fizzle_seconds=300
         history a abort=-899
         a.1 starting",
        "why a: after a backoff one at a time, 1 on trial, until +1",
    );
    check(
        "space max_machines=30
         a backoff_seconds=600 fizzle_seconds=300
         history a abort=-900
         a.1 starting",
        "create a one x3",
    );
}

#[test]
fn failures_of_the_cloud_pace_creation() {
    // A minute, doubled each time, up to an hour.
    for (failures, pause) in [
        (1, 60),
        (2, 120),
        (3, 240),
        (6, 1920),
        (7, 3600),
        (99, 3600),
    ] {
        check(
            &format!(
                "space max_machines=10
                 a
                 history a failures={failures} failed=-{}",
                pause - 1
            ),
            &format!("why a: {failures} creation(s) in a row failed, next try at +1"),
        );
        check(
            &format!("space max_machines=10\n a\n history a failures={failures} failed=-{pause}"),
            "create a one",
        );
    }
}

#[test]
fn a_failed_boot_found_in_this_pass_counts_at_once() {
    check(
        "space max_machines=10
         a
         a.1 failed deleted=0",
        "finish a.1 +0 never ran
         why a: 1 creation(s) in a row failed, next try at +60",
    );
}

#[test]
fn machines_of_other_machinetypes_do_not_put_one_on_trial() {
    check(
        "space max_machines=10
         a
         b target_share=0
         history a abort=-700
         b.1 starting
         gone.2 starting",
        "create a one",
    );
}
