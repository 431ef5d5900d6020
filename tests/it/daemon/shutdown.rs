//! `shutdown_time`, `grace_seconds` and `vcycled shutdown`, as machines and admins see them.

use std::time::{SystemTime, UNIX_EPOCH};

use super::factory::{Daemon, Factory, MachineDir, PKI, SPACE, until};

const OTHER: &str = "other.org";

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Two spaces of two machines each, which work for an hour and cannot ask for their end.
fn site(options: &str) -> Factory {
    let factory = Factory::new();
    for space in [SPACE, OTHER] {
        let options = format!("max_machines = 2\n{options}");
        let text = factory.space(space, &options) + &factory.machinetype(space, "atlas", "");
        factory.conf(space, &text);
    }
    factory
}

fn machines(factory: &Factory, space: &str) -> Vec<MachineDir> {
    let mut machines = factory.machines();
    machines.retain(|machine| machine.read("space_name").as_deref() == Some(space));
    machines
}

/// The machines of a space, once both run.
fn both_running(factory: &Factory, space: &str) -> Vec<MachineDir> {
    until("both run", || {
        let machines = machines(factory, space);
        let running = machines.iter().filter(|one| one.read("started").is_some());
        (running.count() == 2).then_some(machines)
    })
}

fn told(machine: &MachineDir) -> u64 {
    let times = [
        "machinefeatures/shutdowntime",
        "jobfeatures/shutdowntime_job",
    ]
    .map(|key| machine.time(key).unwrap());
    // The one is written after the other.
    times[0].min(times[1])
}

fn said(factory: &Factory, arguments: &[&str]) -> String {
    let ended = factory.run(&[&["shutdown"], arguments].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out
}

/// A daemon that has a cycle when it is asked to, and otherwise once an hour.
fn start_sleepy(factory: &Factory) -> Daemon {
    let mut command = factory.command(&["run"]);
    command.args(["--interval", "3600"]);
    factory.start_with(command)
}

#[test]
fn a_space_is_shut_down_by_a_command_and_filled_again_by_another() {
    let factory = site("grace_seconds = 3\ncleanup_hours = 0");
    let daemon = factory.start();
    let first = both_running(&factory, SPACE);
    let others = both_running(&factory, OTHER);
    let before: Vec<u64> = others.iter().map(told).collect();

    let at = now() + 6;
    let out = said(&factory, &[SPACE, "--at", &at.to_string()]);
    assert!(
        out.contains(&format!("space {SPACE}: has to be down by ")),
        "{out}"
    );
    assert!(out.contains(" looks at it now"), "{out}");
    until("they are told", || {
        first.iter().all(|one| told(one) == at).then_some(())
    });
    for machine in &first {
        let message = machine.wait_for("joboutputs/shutdown_message");
        assert_eq!(message, "700 Passed shutdowntime");
        let deleted: u64 = machine.wait_for("deleted").parse().unwrap();
        assert!((at + 1..at + 20).contains(&deleted), "{deleted}, not {at}");
        machine.wait_for("finished");
    }
    // It stays empty, and each thing is said once.
    factory.wait_for_scans(SPACE, 4);
    assert_eq!(
        machines(&factory, SPACE)
            .iter()
            .filter(|one| !first.contains(one))
            .count(),
        0
    );
    let lines = |text: &str| factory.log_lines(text).len();
    until("it is said", || {
        factory.log_lines("has no machines left").pop()
    });
    factory.wait_for_scans(SPACE, 2);
    assert_eq!(
        lines("has no machines left, and stays empty until vcycled shutdown --cancel example.org"),
        1
    );
    assert_eq!(lines("the space has to be down by "), 1);
    assert_eq!(lines("the space has had to be down since "), 1);
    // Why, in the plan for people and for programs.
    let plan = factory.run(&["plan", SPACE]);
    assert!(plan.out.contains("\n  has to be down by "), "{plan:?}");
    assert!(
        plan.out.contains("has passed (set by vcycled shutdown)"),
        "{plan:?}"
    );
    let plan = factory.run(&["plan", SPACE, "--json"]).json();
    assert_eq!(plan["report"]["space"]["shutdown_time"], at);
    let why = &plan["report"]["machinetypes"]["atlas"]["stopped_by"];
    assert_eq!(
        (&why["rule"], &why["ordered"]),
        (&"shutdown_time".into(), &true.into())
    );
    // The other space has heard nothing of it.
    assert_eq!(others.iter().map(told).collect::<Vec<_>>(), before);
    assert!(others.iter().all(|one| one.read("deleted").is_none()));

    // It survives a kill, and the new daemon says it again.
    daemon.kill();
    let daemon = factory.start();
    factory.wait_for_scans(SPACE, 2);
    assert_eq!(lines("the space has had to be down since "), 2);
    assert_eq!(
        machines(&factory, SPACE)
            .iter()
            .filter(|one| !first.contains(one))
            .count(),
        0
    );

    let status = factory.run(&["status"]).out;
    assert!(
        status.contains("has had to be down since ") && status.contains(": it is empty"),
        "{status}"
    );
    let out = said(&factory, &["--cancel", SPACE]);
    assert!(out.contains("need not be shut down any more"), "{out}");
    both_running_again(&factory, &first);
    assert_eq!(
        lines("need not be shut down any more: machines are created again"),
        1
    );
    assert!(factory.log_lines("ERROR").is_empty());
    daemon.end();
}

fn both_running_again(factory: &Factory, first: &[MachineDir]) {
    until("new machines run", || {
        let machines = machines(factory, SPACE);
        let new = machines.iter().filter(|one| !first.contains(one));
        (new.filter(|one| one.read("started").is_some()).count() == 2).then_some(())
    });
}

#[test]
fn machines_are_told_at_once_and_never_less_than_the_grace() {
    let factory = site("grace_seconds = 600");
    let mut daemon = factory.start();
    let all = [both_running(&factory, SPACE), both_running(&factory, OTHER)].concat();
    daemon.end();
    daemon = start_sleepy(&factory);
    // The first pass of each space is over.
    factory.wait_for_scans(SPACE, 0);
    until("it has looked", || {
        let cycles = factory.log_lines("running with 2 space(s)").len();
        (cycles == 2).then_some(())
    });
    // All spaces, without waiting for the hour.
    let asked = now();
    let out = said(&factory, &["--in", "0"]);
    assert_eq!(out.matches("has to be down by ").count(), 2, "{out}");
    let grace = "machines that run get grace_seconds, 600 s, from when they are told, which is until about 20";
    assert_eq!(out.matches(grace).count(), 2, "{out}");
    let new = until("all are told", || {
        let told: Vec<u64> = all.iter().map(told).collect();
        told.iter().all(|at| *at < asked + 10_000).then_some(told)
    });
    let heard = now();
    for at in &new {
        assert!(
            (asked + 600..=heard + 600).contains(at),
            "{at}: {asked} {heard}"
        );
    }
    // What the machine reads is what is on disk, and nothing is destroyed before its time.
    let path = format!("/machines/{}/machinefeatures/shutdowntime", all[0].name());
    let server = (factory.port, &PKI.ca.cert);
    let answer = super::client::request(server, None, ("GET", &path), "");
    assert_eq!((answer.status, answer.body), (200, new[0].to_string()));
    assert!(all.iter().all(|one| one.read("deleted").is_none()));
    let status = factory.run(&["status"]).out;
    assert!(
        status.contains("the last of 2 machine(s) was told "),
        "{status}"
    );
    // A later time does not move it back, nor does taking it all back.
    for (arguments, words) in [
        (&["--in", "28h"][..], "has to be down by "),
        (
            &["--cancel"],
            "those that were told to be down end when they were told",
        ),
    ] {
        let cycles = factory.log_lines("asked for a cycle now").len();
        let out = said(&factory, arguments);
        assert_eq!(out.matches(words).count(), 2, "{out}");
        assert!(!out.contains("grace_seconds"), "{out}");
        until("it is heard", || {
            (factory.log_lines("asked for a cycle now").len() > cycles).then_some(())
        });
    }
    until("it is over", || {
        (factory.log_lines("machines are created again").len() == 2).then_some(())
    });
    let still: Vec<u64> = all.iter().map(told).collect();
    assert_eq!(still, new, "what was promised stays");
    daemon.end();
}

#[test]
fn an_order_given_without_a_daemon_counts_when_one_starts() {
    let factory = site("grace_seconds = 2");
    let daemon = factory.start();
    let all = [both_running(&factory, SPACE), both_running(&factory, OTHER)].concat();
    daemon.end();
    let out = said(&factory, &["--in", "0"]);
    assert!(out.contains("no daemon was found"), "{out}");
    // The machines are told before they are destroyed, although the time has passed.
    let started = now();
    let daemon = factory.start();
    for machine in &all {
        let deleted: u64 = machine.wait_for("deleted").parse().unwrap();
        assert!(told(machine) >= started + 2, "{} {started}", told(machine));
        assert!(deleted > told(machine));
    }
    daemon.end();
}

#[test]
fn the_sooner_of_the_configuration_and_the_command_counts() {
    let factory = site("grace_seconds = 0");
    let daemon = factory.start();
    let machines = both_running(&factory, SPACE);
    let configured = now() + 5000;
    let text = factory.space(
        SPACE,
        &format!("max_machines = 2\ngrace_seconds = 0\nshutdown_time = {configured}"),
    ) + &factory.machinetype(SPACE, "atlas", "");
    factory.conf(SPACE, &text);
    until("the configuration is told", || {
        (told(&machines[0]) == configured).then_some(())
    });
    said(&factory, &[SPACE, "--at", &(configured + 900).to_string()]);
    factory.wait_for_scans(SPACE, 2);
    assert_eq!(told(&machines[0]), configured);
    let sooner = now() + 900;
    let zoned = chrono::DateTime::from_timestamp(i64::try_from(sooner).unwrap(), 0).unwrap();
    let zoned = zoned.with_timezone(&chrono::FixedOffset::east_opt(3600).unwrap());
    said(&factory, &[SPACE, "--at", &zoned.to_rfc3339()]);
    until("the command is told", || {
        (told(&machines[0]) == sooner).then_some(())
    });
    daemon.end();
}

#[test]
fn a_configured_shutdown_ends_the_space() {
    let at = now() + 14;
    let factory = Factory::new();
    let machinetype = |space: &str| factory.machinetype(space, "atlas", "fizzle_seconds = 2");
    let options = format!("max_machines = 2\ngrace_seconds = 4\nshutdown_time = {at}");
    let text = factory.space(SPACE, &options) + &machinetype(SPACE);
    // In this space a machine would have less than the grace from the start.
    let late = factory.space(OTHER, &options.replace("= 4", "= 1000")) + &machinetype(OTHER);
    factory.conf("spaces", &(text + &late));
    let daemon = factory.start();
    let first = both_running(&factory, SPACE);
    for machine in &first {
        assert_eq!(told(machine), at, "from its creation on");
        let deleted: u64 = machine.wait_for("deleted").parse().unwrap();
        assert!(deleted > at, "{deleted}");
        assert_eq!(
            machine.wait_for("joboutputs/shutdown_message"),
            "700 Passed shutdowntime"
        );
    }
    until("it is empty", || {
        factory
            .log_lines("stays empty until shutdown_time in the configuration is changed")
            .pop()
    });
    assert_eq!(machines(&factory, OTHER), []);
    assert_eq!(machines(&factory, SPACE), first);
    daemon.end();
}

#[test]
fn a_slip_of_the_hand_changes_nothing() {
    let factory = site("");
    fails(&factory, &[], 64, "--at <TIME>");
    fails(
        &factory,
        &["--in", "5", "--cancel"],
        64,
        "cannot be used with",
    );
    fails(&factory, &["--at", "tomorrow"], 64, "expected Unix seconds");
    fails(&factory, &["--in", "2 h"], 64, "such as 90s, 15m, 2h, 3d");
    fails(
        &factory,
        &["--at", "2036-11-21T18:00:00"],
        64,
        "with its zone",
    );
    fails(
        &factory,
        &["--at", "1700000000"],
        64,
        "2023-11-14T22:13:20Z has passed",
    );
    fails(&factory, &["--at", "1700000000000"], 64, "not milliseconds");
    fails(&factory, &["--in", "999999999999"], 64, "not milliseconds");
    let known = "there is no space exmaple.org; the spaces are example.org, other.org";
    fails(&factory, &["exmaple.org", SPACE, "--in", "5"], 64, known);
    // No daemon has run here: a slip in --state-dir must not make a directory.
    fails(&factory, &["--in", "5"], 74, "cannot look at ");
    assert!(!factory.state("").exists());

    // What cannot be understood stops the space, and says where it is.
    let daemon = factory.start();
    both_running(&factory, SPACE);
    factory.write("order", "soon");
    let order = factory.state(&format!("spaces/{SPACE}/shutdown_time"));
    std::fs::copy(factory.path("order"), &order).unwrap();
    let path = order.to_str().unwrap();
    until("it is said", || factory.log_lines(path).pop());
    // A configuration with errors hides no space from the command.
    factory.conf("broken", "[space broken.org]\napi = what\n");
    let out = said(&factory, &["--cancel", SPACE]);
    assert!(out.contains("need not be shut down any more"), "{out}");
    until("it goes on", || {
        factory
            .log_lines("the state directory can be used again")
            .pop()
    });
    daemon.end();
}

#[track_caller]
fn fails(factory: &Factory, arguments: &[&str], code: i32, why: &str) {
    let ended = factory.run(&[&["shutdown"], arguments].concat());
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.err.contains(why), "{ended:?}");
}

#[test]
fn an_order_is_part_of_a_recorded_situation() {
    let factory = site("");
    let daemon = factory.start();
    both_running(&factory, SPACE);
    daemon.end();
    said(&factory, &[SPACE, "--in", "3000"]);
    let file = factory.path("snapshot.json");
    let file = file.to_str().unwrap();
    let arguments = [
        "plan",
        SPACE,
        "--json",
        "--seed",
        "3",
        "--dump-snapshot",
        file,
    ];
    let planned = factory.run(&arguments).json();
    let action = &planned["bookkeeping"][0]["action"];
    assert_eq!(action, "shutdowntime", "{planned}");
    said(&factory, &["--cancel"]);
    let again = factory.run(&["plan", "--json", "--seed", "3", "--snapshot", file]);
    assert_eq!(again.json(), planned);
}
