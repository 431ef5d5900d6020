//! What is written down about each machine.

use super::check;

#[test]
fn a_machine_seen_running_for_the_first_time() {
    check(
        "a
         a.1 running cloud-started=-45
         a.2 running
         a.3 running created=-100 cloud-started=-200
         a.4 running cloud-started=+5
         a.5 starting cloud-started=-45
         a.6 unknown
         a.7 running started=-9 cloud-started=-45",
        "start a.1 -45
         start a.2 +0
         start a.3 -100
         start a.4 +0",
    );
}

#[test]
fn a_machine_that_has_shut_down_before_it_was_seen_running() {
    // It must have run since the scan before; a failed one may never have.
    check(
        "scans previous=-60
         a
         a.1 shutdown cloud-started=-700 cloud-updated=-20
         a.2 shutdown cloud-updated=-20 message=200~Done
         a.3 failed
         a.4 failed cloud-started=-700 cloud-updated=-20",
        "start a.1 -700
         finish a.1 -20 ran 680 account
         start a.2 -60
         finish a.2 -20 ran 40 code 200
         finish a.3 +0 never ran
         start a.4 -700
         finish a.4 -20 ran 680 account
         delete a.1: it has stopped
         delete a.2: it has stopped
         delete a.3: it has stopped
         delete a.4: it has stopped",
    );
}

#[test]
fn codes_300_to_699_are_aborts_however_long_it_ran() {
    let codes = [
        (99, false), // no code, and it ran for long enough
        (100, false),
        (200, false),
        (299, false),
        (300, true),
        (400, true),
        (500, true),
        (600, true),
        (699, true),
        (700, false),
        (999, false),
        (1000, false),
    ];
    for (code, abort) in codes {
        let shown = match code {
            100..=999 => format!(" code {code}"),
            _ => String::new(),
        };
        check(
            &format!(
                "a
                 a.1 shutdown started=-900 cloud-updated=-10 message={code:03}~Text"
            ),
            &format!(
                "finish a.1 -10 ran 890{shown}{} account
                 delete a.1: it has stopped",
                if abort { " ABORT" } else { "" }
            ),
        );
    }
}

#[test]
fn without_a_code_it_is_an_abort_when_it_ran_for_less_than_fizzle_seconds() {
    check(
        "scans previous=-900
         a fizzle_seconds=600
         a.1 shutdown started=-900 cloud-updated=-300 deleted=0
         a.2 shutdown started=-900 cloud-updated=-301 deleted=0
         a.3 shutdown started=-900 cloud-updated=-301 deleted=0 message=What~now?
         a.4 shutdown started=-900 cloud-updated=-301 deleted=0 message=700~Transient
         a.5 shutdown started=-900 cloud-updated=-301 deleted=0 message=200~Completed",
        "finish a.1 -300 ran 600 account
         finish a.2 -301 ran 599 ABORT
         finish a.3 -301 ran 599 ABORT
         finish a.4 -301 ran 599 code 700
         finish a.5 -301 ran 599 code 200",
    );
}

#[test]
fn a_machine_that_never_started_is_no_abort() {
    check(
        "a
         a.1 failed deleted=0
         a.2 failed deleted=0 message=700~Failed~to~start
         a.3 deleting deleted=0
         a.4 unlisted missed=2",
        "finish a.1 +0 never ran
         finish a.2 +0 never ran code 700
         finish a.3 +0 never ran
         finish a.4 +0 never ran",
    );
}

#[test]
fn a_machine_that_left_a_message_has_run_even_if_nobody_saw_it() {
    check(
        "a backoff_seconds=600
         a.1 unlisted missed=2 message=300~Nothing",
        "finish a.1 +0 ran unseen code 300 ABORT",
    );
}

#[test]
fn what_was_kept_of_a_machine_that_vanished_is_dropped_when_it_runs_again() {
    // Else a restart would date its end by the time before it vanished.
    check(
        "a
         a.1 running started=-900 updated=-500
         a.2 starting updated=-500
         a.3 shutdown started=-900 updated=-500 cloud-updated=-20 deleted=0
         a.4 unlisted started=-900 updated=-500 missed=1",
        "return a.1
         finish a.3 -20 ran 880 account",
    );
}

#[test]
fn a_kill_for_its_heartbeat_is_an_abort_whatever_it_said() {
    check(
        "a
         a.1 deleting started=-900 seen=-60 deleted=-60 ended=heartbeat message=700~Heartbeat
         a.2 deleting started=-900 seen=-60 deleted=-60 ended=other message=700~Exceeded
         a.3 shutdown started=-900 seen=-60 deleted=-10 ended=heartbeat message=200~Done",
        "finish a.1 -60 ran 840 code 700 ABORT account
         finish a.2 -60 ran 840 code 700 account
         finish a.3 -60 ran 840 code 200 ABORT account",
    );
}

#[test]
fn a_kill_for_its_heartbeat_counts_as_an_abort_when_the_stop_is_recorded_not_before() {
    // Named choice: the machine runs until the cloud says otherwise, so its replacement can be
    // created in the pass that asks for the delete.
    check(
        "space max_machines=10
         a heartbeat_file=beat
         a.1 running started=-900 heartbeat=missing",
        "delete a.1: 700 Heartbeat file not created
         create a one",
    );
    check(
        "space max_machines=10
         a heartbeat_file=beat
         a.1 deleting started=-900 seen=-60 deleted=-60 ended=heartbeat",
        "finish a.1 -60 ran 840 ABORT account
         why a: backing off after an abort until +540",
    );
}

#[test]
fn the_end_is_what_the_cloud_says_between_the_last_scan_that_saw_it_running_and_now() {
    check(
        "scans previous=-60
         a fizzle_seconds=0
         a.1 shutdown started=-900 deleted=0 cloud-updated=-30 seen=-60
         a.2 shutdown started=-900 deleted=0 cloud-updated=-500 seen=-60
         a.3 shutdown started=-900 deleted=0 cloud-updated=+500 seen=-60
         a.4 shutdown started=-900 deleted=0 seen=-120
         a.5 shutdown started=-900 deleted=0
         a.6 shutdown started=-30 deleted=0 seen=-60
         a.7 unlisted started=-900 missed=2 updated=-180
         a.8 unlisted started=-900 missed=2",
        "finish a.1 -30 ran 870 account
         finish a.2 -60 ran 840 account
         finish a.3 +0 ran 900 account
         finish a.4 -120 ran 780 account
         finish a.5 -900 ran 0 account
         finish a.6 -30 ran 0 account
         finish a.7 -180 ran 720 account
         finish a.8 -900 ran 0 account",
    );
}

#[test]
fn a_machine_whose_start_could_not_be_written_ran_since_it_was_first_seen() {
    check(
        "scans previous=-60
         a fizzle_seconds=600
         a.1 running first=-900 seen=-60
         a.2 shutdown first=-900 seen=-60 deleted=0
         a.3 unlisted first=-900 seen=-60 missed=2",
        "start a.1 -900
         start a.2 -900
         finish a.2 -60 ran 840 account
         start a.3 -900
         finish a.3 -60 ran 840 account",
    );
}

#[test]
fn a_clock_that_stepped_back_ends_no_machine_in_the_future_and_takes_nothing_from_its_run() {
    check(
        "scans previous=+50
         a fizzle_seconds=0
         a.1 shutdown started=-900 deleted=0 cloud-updated=-30 seen=+50
         a.2 unlisted started=-900 missed=2 seen=+50
         a.3 unlisted started=-900 missed=1 seen=+50
         a.4 shutdown deleted=0",
        "finish a.1 +0 ran 950 account
         finish a.2 +0 ran 950 account
         miss a.3 +50
         start a.4 +0
         finish a.4 +0 ran 0 account",
    );
}

#[test]
fn a_machine_that_ran_for_fizzle_seconds_is_accounted_for() {
    check(
        "scans previous=-900
         a fizzle_seconds=600
         a.1 shutdown started=-900 deleted=0 cloud-updated=-301 message=200
         a.2 shutdown started=-900 deleted=0 cloud-updated=-300 message=200",
        "finish a.1 -301 ran 599 code 200
         finish a.2 -300 ran 600 code 200 account",
    );
}

#[test]
fn an_end_is_written_down_exactly_once() {
    check(
        "a\n a.1 shutdown started=-900 stopped=-60 finished=-60 deleted=0",
        "",
    );
    check(
        "a\n a.1 unlisted missed=2 started=-900 stopped=-60 finished=-60",
        "",
    );
    check(
        "a\n a.1 unlisted missed=1 started=-900 stopped=-60 finished=-60",
        "",
    );
}

#[test]
fn an_end_that_a_crash_left_half_written_is_finished_at_the_time_on_file() {
    check(
        "a
         a.1 shutdown started=-900 stopped=-200 deleted=0 cloud-updated=-100
         a.2 unlisted started=-900 stopped=-200 missed=1
         a.3 running started=-900 stopped=-200",
        "finish a.1 -200 ran 700 account
         finish a.2 -200 ran 700 account
         finish a.3 -200 ran 700 account",
    );
}

#[test]
fn the_length_of_a_run_outlives_a_crash_after_the_clock_was_set_back() {
    check(
        "a fizzle_seconds=60
         a.1 shutdown started=+2700 clock_set_back=3600 stopped=-200 deleted=0
         a.2 shutdown started=-900 clock_set_back=3600 seen=-60 deleted=0",
        "finish a.1 -200 ran 700 account
         finish a.2 -60 ran 840 account",
    );
}

#[test]
fn a_machine_that_began_to_run_in_the_future_has_run_for_as_long_as_it_was_seen() {
    // An hour back: a.1 was last seen 700 s after its start, a.2 not since, a.3 began before that. The
    // starts of a.4, a.5, a.6 and a.9 could not be written down before.
    check(
        "a
         a.1 running started=+2840 seen=+3540
         a.2 running started=+3540
         a.3 running started=-100 seen=+3540
         a.4 running first=+2840 seen=+3540
         a.5 running first=+2840 seen=+3540 created=+2800 cloud-started=+2810
         a.6 shutdown first=+2840 seen=+3540 deleted=0
         a.7 unknown started=+2840 seen=+3540
         a.8 starting started=+2840 seen=+3540
         a.9 unlisted first=+2840 seen=+3540 missed=1",
        "start a.1 -700
         start a.2 +0
         start a.4 -700
         start a.5 -700
         start a.6 +2840
         finish a.6 +0 ran 700 account
         start a.7 -700
         start a.8 -700
         start a.9 +2840
         miss a.9 +3540",
    );
}

#[test]
fn the_fizzle_seconds_of_a_removed_machinetype_are_those_on_file() {
    check(
        "scans previous=-900
         a
         gone.1 shutdown started=-900 cloud-updated=-301 deleted=0 fizzle=600
         gone.2 shutdown started=-900 cloud-updated=-300 deleted=0 fizzle=600
         gone.3 shutdown started=-900 cloud-updated=-899 deleted=0",
        "finish gone.1 -301 ran 599 ABORT
         finish gone.2 -300 ran 600 account
         finish gone.3 -899 ran 1 account",
    );
}

#[test]
fn a_machine_is_gone_when_two_scans_in_a_row_do_not_list_it() {
    check(
        "a
         a.1 unlisted started=-900 missed=1 seen=-60
         a.2 unlisted started=-900 missed=1 updated=-60 seen=-60
         a.3 unlisted started=-900 missed=2 updated=-120
         a.4 running started=-900",
        "miss a.1 -60
         finish a.3 -120 ran 780 account",
    );
}

#[test]
fn a_machine_that_appears_after_it_was_given_up_is_looked_after_again() {
    check(
        "a
         a.1 running id=none created=-900 stopped=-100 finished=-100 cloud-started=-60
         a.2 starting id=none created=-900 stopped=-100 finished=-100
         a.3 running created=-900 started=-800 stopped=-100 finished=-100
         a.4 starting created=-900 stopped=-100 finished=-100 deleted=0",
        "reopen a.1
         identify a.1 id=id-vcycle-a-0000000001
         start a.1 -60
         reopen a.2
         identify a.2 id=id-vcycle-a-0000000002",
    );
}

#[test]
fn a_machine_that_appears_after_it_was_given_up_and_has_run_is_accounted_for() {
    check(
        "scans previous=-60
         a
         a.1 shutdown id=none created=-2000 stopped=-1300 finished=-1300 cloud-started=-1950 cloud-updated=-20
         a.2 failed id=none created=-2000 stopped=-1300 finished=-1300
         a.3 shutdown id=none created=-2000 finished=-1300 cloud-started=-1950 cloud-updated=-1900
         a.4 deleting id=none created=-2000 stopped=-1300 finished=-1300 cloud-started=-1950 cloud-updated=-20",
        "reopen a.1
         identify a.1 id=id-vcycle-a-0000000001
         start a.1 -1950
         finish a.1 -20 ran 1930 account
         identify a.2 id=id-vcycle-a-0000000002
         reopen a.3
         identify a.3 id=id-vcycle-a-0000000003
         start a.3 -1950
         finish a.3 -1900 ran 50 ABORT
         reopen a.4
         identify a.4 id=id-vcycle-a-0000000004
         start a.4 -1950
         finish a.4 -20 ran 1930 account
         delete a.1: it has stopped
         delete a.2: it has stopped
         delete a.3: it has stopped",
    );
}

#[test]
fn a_scan_that_lists_none_of_two_machines_is_believed() {
    check(
        "space max_machines=10
         scans empty=2
         a
         a.1 unlisted started=-900 missed=2 updated=-120
         a.2 unlisted started=-900 missed=2 updated=-120",
        "finish a.1 -120 ran 780 account
         finish a.2 -120 ran 780 account
         create a one",
    );
}

#[test]
fn a_scan_that_lists_none_of_three_machines_is_suspect_ten_times() {
    let missing = |scans: u32| {
        format!(
            "space max_machines=30
             scans empty={scans}
             a
             a.1 unlisted started=-900 missed={scans} updated=-600
             a.2 unlisted started=-900 missed={scans} updated=-600
             a.3 unlisted started=-900 missed={scans} updated=-600"
        )
    };
    for scans in 1..10 {
        check(
            &missing(scans),
            &format!(
                "why a: none of 3 machines was listed, {scans} scan(s) in a row: wrong project or region?"
            ),
        );
    }
    check(
        &missing(10),
        "finish a.1 -600 ran 300 ABORT
         finish a.2 -600 ran 300 ABORT
         finish a.3 -600 ran 300 ABORT
         why a: none of 3 machines was listed, 10 scan(s) in a row: wrong project or region?",
    );
}

#[test]
fn one_vm_of_ours_in_the_listing_and_the_scan_is_not_suspect() {
    let three = "scans empty=0
         a
         a.1 unlisted started=-900 missed=1 updated=-60
         a.2 unlisted started=-900 missed=1 updated=-60
         a.3 unlisted started=-900 missed=1 updated=-60";
    check(
        &format!("{three}\n space max_machines=10\n a.4 running started=-900"),
        "create a one",
    );
    check(
        &format!("{three}\n space max_machines=10\n unfiled a.4 running"),
        "adopt a.4 as a id=id-vcycle-a-0000000004\n create a one",
    );
}

#[test]
fn machines_that_we_have_deleted_may_vanish_together() {
    check(
        "space max_machines=10
         scans empty=2
         a
         a.1 unlisted started=-900 missed=2 updated=-120 deleted=-100
         a.2 unlisted started=-900 missed=2 updated=-120 deleted=-100
         a.3 unlisted started=-900 missed=2 updated=-120 deleted=-100",
        "finish a.1 -120 ran 780 account
         finish a.2 -120 ran 780 account
         finish a.3 -120 ran 780 account
         create a one",
    );
}

#[test]
fn a_lost_answer_is_found_again_by_name() {
    check(
        "a
         a.1 starting id=none
         a.2 running id=none",
        "identify a.1 id=id-vcycle-a-0000000001
         identify a.2 id=id-vcycle-a-0000000002
         start a.2 +0",
    );
}

#[test]
fn an_attempt_without_a_vm_for_600_seconds_is_closed_as_failed() {
    check(
        "a
         a.1 pending created=-599 missed=9
         a.2 pending created=-600 missed=2
         a.3 pending created=-9000 missed=1",
        "finish a.2 +0 never ran",
    );
}

#[test]
fn a_suspect_scan_closes_no_attempt() {
    check(
        "scans empty=9
         a
         a.1 unlisted started=-900 missed=9 updated=-600
         a.2 unlisted started=-900 missed=9 updated=-600
         a.3 unlisted started=-900 missed=9 updated=-600
         a.4 pending created=-700 missed=9",
        "",
    );
}

#[test]
fn a_vm_with_our_marks_and_no_directory_gets_one() {
    check(
        "a
         unfiled a.7 running
         unfiled a.8 running machinetype=other
         unfiled a.9 running id=younger created=-10
         unfiled a.9 running id=older created=-20",
        "adopt a.7 as a id=id-vcycle-a-0000000007
         adopt a.8 as other id=id-vcycle-a-0000000008
         adopt a.9 as a id=older",
    );
}

#[test]
fn directories_are_kept_for_cleanup_hours_after_the_machine_is_gone() {
    check(
        "space cleanup_hours=1
         a
         a.1 unlisted missed=2 started=-9000 stopped=-8000 finished=-3600
         a.2 unlisted missed=2 started=-9000 stopped=-8000 finished=-3601
         a.3 unlisted missed=1 started=-9000 stopped=-8000 finished=-3601
         a.4 shutdown          started=-9000 stopped=-8000 finished=-3601 deleted=0
         a.5 pending  missed=2 created=-9000 stopped=-8000 finished=-3601",
        "forget a.2
         forget a.5",
    );
}

#[test]
fn machines_are_told_when_shutdown_time_is_sooner_but_never_less_than_the_grace() {
    check(
        "space shutdown_time=+5000 grace_seconds=600
         a
         a.1 running started=-60 shutdowntime=+80000
         a.2 starting shutdowntime=+80000
         a.3 running started=-60 shutdowntime=+4000
         a.4 shutdown started=-900 stopped=0 finished=0 deleted=0 shutdowntime=+80000
         a.5 running started=-60",
        "shutdowntime a.1 +5000
         shutdowntime a.2 +5000",
    );
    check(
        "space shutdown_time=+599 grace_seconds=600
         a
         a.1 running started=-60 shutdowntime=+80000
         a.2 running started=-60 shutdowntime=+600
         a.3 running started=-60 shutdowntime=+601",
        "shutdowntime a.1 +600
         shutdowntime a.3 +600",
    );
}

#[test]
fn the_sooner_of_the_configured_and_the_ordered_shutdown_is_told() {
    check(
        "space shutdown_time=+5000 ordered_shutdown=+4000 grace_seconds=600
         a
         a.1 running started=-60 shutdowntime=+80000",
        "shutdowntime a.1 +4000",
    );
    check(
        "space shutdown_time=+5000 ordered_shutdown=+9000 grace_seconds=600
         a
         a.1 running started=-60 shutdowntime=+80000",
        "shutdowntime a.1 +5000",
    );
}

#[test]
fn machines_are_told_when_max_wallclock_seconds_is_lowered() {
    check(
        "a max_wallclock_seconds=7200
         a.1 running created=-3600 started=-3500 shutdowntime=+82800",
        "shutdowntime a.1 +3600",
    );
}

#[test]
fn a_shutdowntime_never_moves_later() {
    check(
        "a max_wallclock_seconds=999999
         a.1 running created=-3600 started=-3500 shutdowntime=+100",
        "",
    );
}

#[test]
fn a_machine_that_is_destroyed_in_this_pass_is_promised_no_grace() {
    // Named choice: a shutdown_time that has already passed when the machines hear of it destroys
    // those that run at once; those that are starting are told and get their grace.
    check(
        "space shutdown_time=-1 grace_seconds=600
         a
         a.1 running started=-60 shutdowntime=+80000 wall_limit=83600
         a.2 starting shutdowntime=+80000 wall_limit=83600",
        "shutdowntime a.2 +600
         delete a.1: 700 Passed shutdowntime",
    );
}
