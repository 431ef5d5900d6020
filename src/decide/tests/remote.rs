//! Machines that write to a server elsewhere, and copies of what machines write.

use super::super::blocked::Blocked;
use super::super::plan::{Bookkeeping, Reason};
use super::super::{decide, testing};
use crate::config::SpaceConfig;
use crate::model::{
    Heartbeat, Machine, MachineState, RemoteServer, Seconds, ShutdownMessage, Timestamp,
};
use crate::rng::Seed;

const NAME: &str = "vcycle-a-aaaaaaaaaa";
/// It is created at 0 and runs since 60.
const NOW: u64 = 10_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(seconds)
}

fn config(options: &str) -> SpaceConfig {
    let mut config = testing::space("max_machines = 0");
    let options = format!("fizzle_seconds = 600\nbackoff_seconds = 0\n{options}");
    let machinetype = testing::machinetype("a", &options);
    config
        .machinetypes
        .insert(machinetype.name.clone(), machinetype);
    config
}

fn elsewhere(options: &str) -> SpaceConfig {
    config(&format!(
        "remote_joboutputs_url = https://out.example.org/x\n{options}"
    ))
}

const BEAT: &str = "heartbeat_file = beat\nheartbeat_seconds = 1000";

fn known(asked_since: u64, answered: Option<u64>, answering_since: Option<u64>) -> RemoteServer {
    RemoteServer {
        asked_since: Some(at(asked_since)),
        answered: answered.map(at),
        answering_since: answering_since.map(at),
    }
}

/// Why a running machine with this heartbeat is destroyed, if it is.
fn reason(options: &str, heartbeat: Heartbeat, remote: RemoteServer) -> Option<Reason> {
    let config = elsewhere(options);
    let mut machine = testing::machine(NAME, MachineState::Running, 0);
    machine.heartbeat = heartbeat;
    let machinetype = machine.files.machinetype.clone();
    let mut snapshot = testing::snapshot(vec![machine]);
    snapshot.remotes.insert(machinetype, remote);
    // Our own server has just begun to listen, which is of no interest to these machines.
    snapshot.listening_since = Some(at(NOW));
    let plan = decide(&config, &snapshot, at(NOW), Seed(1));
    plan.deletes.first().map(|delete| delete.reason)
}

#[test]
fn a_heartbeat_elsewhere_is_judged_like_one_here() {
    let good = known(0, Some(NOW), Some(0));
    assert_eq!(reason(BEAT, Heartbeat::At(at(NOW - 1000)), good), None);
    assert_eq!(
        reason(BEAT, Heartbeat::At(at(NOW - 1001)), good),
        Some(Reason::HeartbeatOld {
            age: Seconds::new(1001)
        })
    );
    assert_eq!(
        reason(BEAT, Heartbeat::Missing, good),
        Some(Reason::HeartbeatMissing {
            ran: Seconds::new(NOW - 60)
        })
    );
}

#[test]
fn silence_counts_from_when_the_server_could_be_written_to_again() {
    let back = |since| known(0, Some(NOW), Some(since));
    let old = Heartbeat::At(at(100));
    assert_eq!(reason(BEAT, old, back(NOW - 1000)), None);
    assert!(reason(BEAT, old, back(NOW - 1001)).is_some());
    assert_eq!(reason(BEAT, Heartbeat::Missing, back(NOW - 1000)), None);
    assert!(reason(BEAT, Heartbeat::Missing, back(NOW - 1001)).is_some());
}

#[test]
fn after_a_break_a_server_elsewhere_is_heard_anew_too() {
    let config = elsewhere(BEAT);
    for (heartbeat, remote) in [
        (Heartbeat::Missing, known(0, Some(NOW), Some(0))),
        (Heartbeat::Unknown, known(0, Some(100), Some(0))),
    ] {
        let mut machine = testing::machine(NAME, MachineState::Running, 0);
        machine.heartbeat = heartbeat;
        let machinetype = machine.files.machinetype.clone();
        let mut snapshot = testing::snapshot(vec![machine]);
        snapshot.remotes.insert(machinetype, remote);
        let deletes = |snapshot: &_| decide(&config, snapshot, at(NOW), Seed(1)).deletes.len();
        assert_eq!(deletes(&snapshot), 1);
        snapshot.hear_anew(at(NOW));
        assert_eq!(deletes(&snapshot), 0, "{heartbeat:?}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_a_missed_heartbeat_after_heartbeat_seconds() {
    let unknown = Heartbeat::Unknown;
    let silent = |answered| known(0, Some(answered), Some(0));
    assert_eq!(reason(BEAT, unknown, silent(NOW - 1000)), None);
    let silence = Seconds::new(1001);
    let expected = Reason::RemoteSilent { silence };
    assert_eq!(reason(BEAT, unknown, silent(NOW - 1001)), Some(expected));
    assert_eq!(expected.message(), Some("700 Heartbeat file not updated"));
    // While nobody asked it could not answer.
    let asked = |since| known(since, Some(100), None);
    assert_eq!(reason(BEAT, unknown, asked(NOW - 1000)), None);
    assert!(reason(BEAT, unknown, asked(NOW - 1001)).is_some());
    // Only that the file is there is asked for: nothing says that it is not.
    let exists = "heartbeat_file = beat\nheartbeat_seconds = 0";
    assert_eq!(reason(exists, unknown, silent(100)), None);
    assert_eq!(reason(BEAT, unknown, RemoteServer::default()), None);
}

/// What is written down about a machine that has shut down at 9000.
fn written(config: &SpaceConfig, change: impl FnOnce(&mut Machine), now: u64) -> Vec<Bookkeeping> {
    let mut machine = testing::machine(NAME, MachineState::Shutdown, 0);
    machine.listed[0].updated = Some(at(9000));
    machine.last_running = Some(at(8990));
    change(&mut machine);
    let mut snapshot = testing::snapshot(vec![machine]);
    let asked = known(9500, None, None);
    for name in config.machinetypes.keys() {
        snapshot.remotes.insert(name.clone(), asked);
    }
    decide(config, &snapshot, at(now), Seed(1)).bookkeeping
}

fn finish(actions: &[Bookkeeping]) -> Option<(Timestamp, bool, Option<u16>)> {
    actions.iter().find_map(|action| match action {
        Bookkeeping::Finish(finish) => Some((finish.stopped, finish.abort, finish.code)),
        _ => None,
    })
}

#[test]
fn an_end_waits_for_its_message_but_its_time_does_not() {
    let config = elsewhere("");
    let first = written(&config, |machine| machine.awaits_message = true, NOW);
    assert!(matches!(first[..], [Bookkeeping::Stop { at: stopped, .. }] if stopped == at(9000)));
    let waiting = |machine: &mut Machine| {
        machine.awaits_message = true;
        machine.files.stopped = Some(at(9000));
    };
    assert_eq!(written(&config, waiting, NOW), []);
    // An hour of asking is enough, and that began at 9500.
    assert_eq!(written(&config, waiting, 9500 + 3599), []);
    let given_up = written(&config, waiting, 9500 + 3600);
    assert_eq!(finish(&given_up), Some((at(9000), false, None)));
    // The message has come.
    let told = |machine: &mut Machine| {
        machine.files.stopped = Some(at(9000));
        machine.shutdown_message = Some(ShutdownMessage::parse("300 No more work"));
    };
    let told = written(&config, told, NOW + 60);
    assert_eq!(finish(&told), Some((at(9000), true, Some(300))));
}

/// The end of the machine at 9000, which waits while the server is asked since `asked_since`.
fn ended_at_9000(asked_since: u64, now: u64) -> Option<(Timestamp, bool, Option<u16>)> {
    let config = elsewhere("");
    let mut machine = testing::machine(NAME, MachineState::Shutdown, 0);
    machine.awaits_message = true;
    machine.files.stopped = Some(at(9000));
    let name = machine.files.machinetype.clone();
    let mut snapshot = testing::snapshot(vec![machine]);
    snapshot
        .remotes
        .insert(name, known(asked_since, None, None));
    finish(&decide(&config, &snapshot, at(now), Seed(1)).bookkeeping)
}

#[test]
fn an_end_waits_for_a_day_at_most_where_the_server_cannot_be_asked() {
    // What hinders is ours: it is as if the asking began anew in each pass.
    let day = 9000 + 86_400;
    assert_eq!(ended_at_9000(day - 1, day - 1), None);
    assert_eq!(ended_at_9000(day, day), Some((at(9000), false, None)));
}

#[test]
fn an_end_in_the_future_waits_for_its_message_no_longer_than_another() {
    assert_eq!(ended_at_9000(1000, 1000 + 3599), None);
    let given_up = ended_at_9000(1000, 1000 + 3600);
    assert_eq!(given_up.map(|(stopped, ..)| stopped), Some(at(9000)));
}

/// Until when machinetype a backs off because of a machine that ran from 60 to `stopped`.
fn backs_off_until(stopped: u64, change: impl FnOnce(&mut Machine)) -> Option<Timestamp> {
    let config = elsewhere("backoff_seconds = 900");
    let mut machine = testing::machine(NAME, MachineState::Shutdown, 0);
    machine.files.stopped = Some(at(stopped));
    machine.awaits_message = true;
    change(&mut machine);
    let name = machine.files.machinetype.clone();
    let mut snapshot = testing::snapshot(vec![machine]);
    snapshot
        .remotes
        .insert(name.clone(), known(500, None, None));
    let plan = decide(&config, &snapshot, at(700), Seed(1));
    match plan.report.machinetypes[&name].stopped_by {
        Blocked::Backoff { until } => Some(until),
        _ => None,
    }
}

#[test]
fn a_short_run_whose_message_is_waited_for_begins_the_backoff_already() {
    let new = |machine: &mut Machine| {
        machine.files.stopped = None;
        machine.listed[0].updated = Some(at(659));
        machine.last_running = Some(at(600));
    };
    assert_eq!(backs_off_until(659, |_| {}), Some(at(659 + 900)));
    assert_eq!(
        backs_off_until(659, new),
        Some(at(659 + 900)),
        "ended just now"
    );
    assert_eq!(backs_off_until(660, |_| {}), None, "ran for fizzle_seconds");
    let told = |machine: &mut Machine| {
        machine.awaits_message = false;
        machine.shutdown_message = Some(ShutdownMessage::parse("200 Success"));
    };
    assert_eq!(backs_off_until(659, told), None);
    let finished = |machine: &mut Machine| machine.files.finished = Some(at(690));
    assert_eq!(backs_off_until(659, finished), None, "the file counts now");
}

#[test]
fn what_a_machine_wrote_is_copied_when_it_has_finished_and_once() {
    let config = config("log_joboutputs = True");
    let keeps = |actions: &[Bookkeeping]| {
        let mut actions = actions.iter();
        actions.any(|action| matches!(action, Bookkeeping::KeepJoboutputs { .. }))
    };
    let actions = written(&config, |_| {}, NOW);
    assert!(matches!(
        actions[..],
        [Bookkeeping::Finish(_), Bookkeeping::KeepJoboutputs { .. }]
    ));
    let finished = |machine: &mut Machine| machine.files.finished = Some(at(9060));
    assert!(keeps(&written(&config, finished, NOW)), "tried again");
    let logged = |machine: &mut Machine| {
        machine.files.finished = Some(at(9060));
        machine.files.logged = Some(at(9061));
    };
    assert!(!keeps(&written(&config, logged, NOW)));
    assert!(!keeps(&written(&super::remote::config(""), finished, NOW)));
    // A machinetype that has left the configuration is taken for what it was.
    let mut without = config;
    without.machinetypes.clear();
    assert!(!keeps(&written(&without, finished, NOW)));
    let kept = |machine: &mut Machine| {
        machine.files.finished = Some(at(9060));
        machine.files.log_joboutputs = true;
    };
    assert!(keeps(&written(&without, kept, NOW)));
    assert!(
        !keeps(&written(&super::remote::config(""), kept, NOW)),
        "switched off since"
    );
}

#[test]
fn a_directory_waits_a_day_for_its_copy_and_no_longer() {
    let config = config("log_joboutputs = True");
    let cleanup = config.cleanup.get();
    let forgets = |logged: bool, now: u64| {
        let gone = |machine: &mut Machine| {
            machine.listed.clear();
            machine.missed_scans = 2;
            machine.files.stopped = Some(at(9000));
            machine.files.finished = Some(at(9060));
            machine.files.logged = logged.then_some(at(9061));
        };
        let actions = written(&config, gone, now);
        let mut actions = actions.iter();
        actions.any(|action| matches!(action, Bookkeeping::Forget { .. }))
    };
    assert!(forgets(true, 9061 + cleanup));
    assert!(!forgets(false, 9061 + cleanup));
    assert!(!forgets(false, 9060 + cleanup + 86_400));
    assert!(forgets(false, 9061 + cleanup + 86_400));
}
