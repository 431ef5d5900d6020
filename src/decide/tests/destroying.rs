//! What is destroyed, and why. Rule by rule, with the second before and after.

use super::check;

#[test]
fn rule_1_starting_for_more_than_3600_seconds() {
    check(
        "a
         a.1 starting created=-3600
         a.2 starting created=-3601",
        "delete a.2: 700 Failed to start",
    );
}

#[test]
fn rule_1_goes_by_the_clouds_word_when_the_creation_is_far_in_the_future() {
    check(
        "a
         a.1 starting created=+90000 cloud-created=-3600
         a.2 starting created=+90000 cloud-created=-3601
         a.3 starting created=+90000 cloud-created=+1
         a.4 starting created=+90000
         a.5 starting created=-3600 cloud-created=-90000
         a.6 starting created=+3600 cloud-created=-7200",
        "delete a.2: 700 Failed to start",
    );
}

#[test]
fn rule_1_holds_whatever_time_the_cloud_tells_for_its_start() {
    // EC2 tells a launchTime from the request on; a VM that is ACTIVE without power has not
    // started either. Neither is written down as a start, or a failed boot would be an abort.
    check(
        "a
         a.1 starting created=-3601 cloud-started=-3590
         a.2 starting created=-100 cloud-started=-90",
        "delete a.1: 700 Failed to start",
    );
}

#[test]
fn a_machine_that_has_run_is_not_starting_again() {
    check("a\n a.1 starting created=-4000 started=-3900", "");
    check(
        "a max_wallclock_seconds=3899
         a.1 starting created=-4000 started=-3900",
        "delete a.1: 700 Exceeded max_wallclock_seconds",
    );
}

#[test]
fn rule_2_stopped_machines_leave_no_message_of_ours() {
    check(
        "a
         a.1 shutdown started=-900 finished=-60 stopped=-60
         a.2 failed started=-900 finished=-60 stopped=-60",
        "delete a.1: it has stopped
         delete a.2: it has stopped",
    );
}

#[test]
fn rule_2_a_delete_is_repeated_only_after_an_hour_while_the_cloud_deletes() {
    check(
        "a
         a.1 deleting started=-9000 finished=-60 stopped=-60 created=-9000 deleted=-3599
         a.2 deleting started=-9000 finished=-60 stopped=-60 created=-9000 deleted=-3600",
        "delete a.2: still there 3600 s after it was deleted",
    );
    // Somebody else deleted it: the hour begins when the cloud last changed it.
    check(
        "a
         a.1 deleting started=-9000 finished=-60 stopped=-60 created=-9000 cloud-updated=-3599
         a.2 deleting started=-9000 finished=-60 stopped=-60 created=-9000 cloud-updated=-3600",
        "delete a.2: still there 3600 s after it was deleted",
    );
}

#[test]
fn rule_3_running_for_longer_than_max_wallclock_seconds() {
    check(
        "a max_wallclock_seconds=1000
         a.1 running started=-1000
         a.2 running started=-1001",
        "delete a.2: 700 Exceeded max_wallclock_seconds",
    );
}

#[test]
fn rule_3_counts_from_the_start_that_is_written_down() {
    // A cloud that tells a start long before the creation must not cost a young VM its life.
    check(
        "a max_wallclock_seconds=1000
         a.1 running created=-100 cloud-started=-90000",
        "start a.1 -100",
    );
}

#[test]
fn rule_4_no_heartbeat_file_after_fizzle_seconds() {
    check(
        "a heartbeat_file=beat fizzle_seconds=600
         a.1 running started=-600 heartbeat=missing
         a.2 running started=-601 heartbeat=missing
         a.3 running started=-601 heartbeat=-601
         a.4 running started=-601",
        "delete a.2: 700 Heartbeat file not created",
    );
}

#[test]
fn rule_4_no_heartbeat_is_asked_for_without_heartbeat_file() {
    check("a\n a.1 running started=-9000 heartbeat=missing", "");
}

#[test]
fn rule_4_heartbeat_seconds_0_checks_only_that_the_file_exists() {
    check(
        "a heartbeat_file=beat heartbeat_seconds=0
         a.1 running started=-9000 heartbeat=-8000",
        "",
    );
}

#[test]
fn rule_4_heartbeat_older_than_heartbeat_seconds() {
    check(
        "a heartbeat_file=beat heartbeat_seconds=1000 fizzle_seconds=600
         a.1 running created=-9000 started=-8000 heartbeat=-1000
         a.2 running created=-9000 started=-8000 heartbeat=-1001
         a.3 running started=-1000 heartbeat=-1500
         a.4 running started=-1001 heartbeat=-1500
         a.5 running started=-8000 heartbeat=+50",
        "delete a.2: 700 Heartbeat file not updated
         delete a.4: 700 Heartbeat file not updated",
    );
    // A short heartbeat_seconds still waits for fizzle_seconds.
    check(
        "a heartbeat_file=beat heartbeat_seconds=60 fizzle_seconds=600
         a.1 running started=-600 heartbeat=-500
         a.2 running started=-601 heartbeat=-500",
        "delete a.2: 700 Heartbeat file not updated",
    );
}

#[test]
fn rule_4_silence_counts_only_while_machines_could_write() {
    // Named choice: after a restart of our own server every machine has its time again.
    let space = |listening: &str| {
        format!(
            "scans listening={listening}
             a heartbeat_file=beat heartbeat_seconds=1000 fizzle_seconds=600
             a.1 running created=-9000 started=-8000 heartbeat=missing
             a.2 running created=-9000 started=-8000 heartbeat=-3000"
        )
    };
    check(&space("-1000"), "");
    check(
        &space("-1001"),
        "delete a.1: 700 Heartbeat file not created
         delete a.2: 700 Heartbeat file not updated",
    );
}

#[test]
fn rule_4_a_machine_refused_once_is_not_due_again_before_heartbeat_seconds() {
    // It may have begun while nobody could hear it, even where the cloud tells a later start, as after
    // a resize; one that was made later has fizzle_seconds.
    check(
        "scans listening=-610
         a heartbeat_file=beat heartbeat_seconds=1000 fizzle_seconds=600
         a.1 running created=-611 started=-611 heartbeat=missing
         a.2 running created=-611 started=-601 heartbeat=missing
         a.3 running created=-610 started=-601 heartbeat=missing",
        "delete a.3: 700 Heartbeat file not created",
    );
    // With 0 nothing says how often it is written: as soon as is asked for in the beginning.
    check(
        "scans listening=-601
         a heartbeat_file=beat heartbeat_seconds=0 fizzle_seconds=600
         a.1 running started=-8000 heartbeat=missing",
        "delete a.1: 700 Heartbeat file not created",
    );
}

#[test]
fn rule_4_silence_counts_only_since_a_machine_has_had_its_new_directory() {
    check(
        "scans listening=-9000
         a heartbeat_file=beat heartbeat_seconds=1000 fizzle_seconds=600
         a.1 running created=-9000 started=-8000 heartbeat=missing heard=-1000
         a.2 running created=-9000 started=-8000 heartbeat=missing heard=-1001
         a.3 running created=-9000 started=-8000 heartbeat=missing heard=+60",
        "delete a.2: 700 Heartbeat file not created
         delete a.3: 700 Heartbeat file not created",
    );
}

#[test]
fn rule_5_past_the_shutdown_time_of_the_space() {
    check("space shutdown_time=0\n a\n a.1 running started=-900", "");
    check(
        "space shutdown_time=-1
         a
         a.1 running started=-900
         a.2 starting
         a.3 running started=-900 shutdowntime=+80000 wall_limit=83600",
        "delete a.1: 700 Passed shutdowntime
         delete a.3: 700 Passed shutdowntime",
    );
}

#[test]
fn rule_5_what_vcycled_shutdown_said_is_told_before_it_counts() {
    // Named choice, unlike that of the configuration: whoever says "now" means as soon as the
    // machines can. One whose directory holds no time cannot be told.
    check(
        "space ordered_shutdown=-1 grace_seconds=600
         a
         a.1 running started=-900 shutdowntime=+80000 wall_limit=83600
         a.2 running started=-900 shutdowntime=+600 wall_limit=83600
         a.3 running started=-900 shutdowntime=-1 wall_limit=83600
         a.4 running started=-900",
        "shutdowntime a.1 +600
         delete a.3: 700 Passed shutdowntime
         delete a.4: 700 Passed shutdowntime",
    );
}

#[test]
fn rule_5_past_its_own_shutdowntime() {
    check(
        "a
         a.1 running started=-900 shutdowntime=0
         a.2 running started=-900 shutdowntime=-1",
        "delete a.2: 700 Passed shutdowntime",
    );
}

#[test]
fn the_grace_of_a_moved_shutdowntime_is_kept() {
    // Told +86400 at first (wall_limit), then +300 when the space's shutdown_time was set.
    check(
        "space shutdown_time=-1
         a
         a.1 running started=-900 shutdowntime=+300 wall_limit=86400
         a.2 running started=-900 shutdowntime=-1 wall_limit=86400",
        "delete a.2: 700 Passed shutdowntime",
    );
}

#[test]
fn the_first_rule_that_matches_gives_the_reason() {
    check(
        "space shutdown_time=-1
         a max_wallclock_seconds=1000 heartbeat_file=beat
         a.1 running started=-1001 heartbeat=missing
         a.2 running started=-999 heartbeat=missing",
        "delete a.1: 700 Exceeded max_wallclock_seconds
         delete a.2: 700 Heartbeat file not created",
    );
}

#[test]
fn unknown_states_are_left_alone() {
    check(
        "space shutdown_time=-1
         a max_wallclock_seconds=1000
         a.1 unknown started=-9000 shutdowntime=-1
         a.2 unknown created=-9000",
        "",
    );
}

#[test]
fn a_machine_of_a_removed_machinetype_has_the_time_that_it_was_told() {
    check(
        "a
         gone.1 running created=-99999 started=-99000 heartbeat=missing shutdowntime=0
         gone.2 running created=-99999 started=-99000 shutdowntime=-1
         gone.3 running created=-99999 started=-99000
         gone.4 shutdown started=-900 stopped=-60 finished=-60",
        "delete gone.2: 700 Passed shutdowntime
         delete gone.4: it has stopped",
    );
}

#[test]
fn a_delete_that_fails_is_repeated_with_growing_pauses() {
    check(
        "a
         a.1 shutdown started=-900 stopped=-60 finished=-60 deleted=-29 tries=1
         a.2 shutdown started=-900 stopped=-60 finished=-60 deleted=-30 tries=1
         a.3 shutdown started=-900 stopped=-60 finished=-60 deleted=-299 tries=2
         a.4 shutdown started=-900 stopped=-60 finished=-60 deleted=-300 tries=2
         a.5 shutdown started=-900 stopped=-60 finished=-60 deleted=-3599 tries=3
         a.6 shutdown started=-900 stopped=-60 finished=-60 deleted=-3600 tries=3
         a.7 shutdown started=-900 stopped=-60 finished=-60 deleted=-3599 tries=99",
        "delete a.2: it has stopped
         delete a.4: it has stopped
         delete a.6: it has stopped",
    );
}

#[test]
fn a_delete_in_the_future_is_not_waited_for() {
    // It was tried while the clock was ahead. The one that follows is dated by now.
    check(
        "a
         a.1 shutdown started=-900 stopped=-60 finished=-60 deleted=+1 tries=99
         a.2 deleting started=-9000 finished=-60 stopped=-60 created=-9000 deleted=+90000
         a.3 deleting started=-9000 finished=-60 stopped=-60 created=-3000 deleted=+90000
         a.4 deleting started=-9000 finished=-60 stopped=-60 created=+90000 deleted=+90000
         a.5 deleting started=-9000 finished=-60 stopped=-60 created=+90000 deleted=-60
         a.6 deleting started=-9000 finished=-60 stopped=-60 created=-9000 deleted=+1 cloud-updated=-60",
        "delete a.2: still there 9000 s after it was deleted
         delete a.4: still there 3600 s after it was deleted
         delete a.1: it has stopped",
    );
}

#[test]
fn a_restart_forgets_the_tries_but_not_the_last_delete() {
    check(
        "a
         a.1 running started=-90000 created=-90000 deleted=-29
         a.2 running started=-90000 created=-90000 deleted=-30",
        "delete a.2: 700 Exceeded max_wallclock_seconds",
    );
}

#[test]
fn of_two_vms_with_one_name_the_one_on_file_is_kept() {
    check(
        "a
         a.1 running started=-900 cloud-created=-3600
         a.1 also running id=older created=-4000
         a.1 also starting id=younger created=-3000",
        "delete a.1 id=older: another machine has the same name
         delete a.1 id=younger: another machine has the same name",
    );
}

#[test]
fn of_two_vms_with_one_name_and_no_id_on_file_the_oldest_is_kept() {
    check(
        "a
         a.1 running id=none cloud-id=younger cloud-created=-100 started=-100
         a.1 also running id=older created=-200",
        "identify a.1 id=older
         delete a.1 id=younger: another machine has the same name",
    );
}

#[test]
fn a_listing_without_the_vm_on_file_gives_its_place_to_no_other() {
    check(
        "a
         a.1 unlisted started=-900 seen=-60 missed=1
         a.1 also running id=other created=-300",
        "miss a.1 -60",
    );
    check(
        "a
         a.1 unlisted started=-900 seen=-60 missed=2
         a.1 also running id=other created=-300",
        "finish a.1 -60 ran 840 account
         delete a.1 id=other: another machine has the same name",
    );
}

#[test]
fn a_duplicate_that_is_being_deleted_is_not_deleted_again() {
    check(
        "a
         a.1 running started=-900
         a.1 also deleting id=other",
        "",
    );
}

#[test]
fn machines_that_are_not_listed_are_not_deleted() {
    check(
        "space shutdown_time=-1
         a
         a.1 unlisted started=-99999 updated=-60 missed=1 shutdowntime=-1
         a.2 unlisted started=-99999 stopped=-60 finished=-60 missed=5
         a.3 pending created=-10",
        "",
    );
}
