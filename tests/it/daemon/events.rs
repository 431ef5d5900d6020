//! The event log, as programs of the site read it and as `vcycled events` shows it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use super::factory::{Factory, SPACE, until};

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    // The last may still be being written.
    lines.map_while(Result::ok).collect()
}

fn events(factory: &Factory) -> Vec<Value> {
    read(&factory.state("events.jsonl"))
}

/// Waits for an event of this kind, and gives the first.
fn wait_for(factory: &Factory, kind: &str) -> Value {
    until(&format!("{kind} is told"), || {
        events(factory).into_iter().find(|one| one["event"] == kind)
    })
}

/// The kinds of events about one machine, in their order.
fn story(events: &[Value], machine: &Value) -> Vec<String> {
    let of_machine = events.iter().filter(|one| one["machine"] == *machine);
    let kinds = of_machine.map(|one| one["event"].as_str().unwrap().to_owned());
    kinds.collect()
}

#[test]
fn the_life_of_a_machine_is_told_in_order_and_can_be_asked_for() {
    let factory = Factory::with_space("", "");
    let space = format!(
        "max_machines = 1\nsimulated_job_seconds = 5\n{}",
        factory.vm_certificate()
    );
    let machinetype = factory.machinetype(SPACE, "atlas", "heartbeat_file = heartbeat");
    factory.conf("space", &(factory.space(SPACE, &space) + &machinetype));
    let nothing = factory.run(&["events"]);
    assert_eq!(nothing.code, Some(74), "{nothing:?}");
    let daemon = factory.start();
    let machine = wait_for(&factory, "destroyed")["machine"].clone();
    let all = events(&factory);
    assert_eq!(all[0]["event"], "daemon_started");
    let expected = ["created", "running", "accounted", "ended", "destroyed"];
    assert_eq!(story(&all, &machine), expected, "{all:#?}");
    let ended = all.iter().find(|one| one["event"] == "ended").unwrap();
    assert_eq!(
        (&ended["code"], &ended["abort"]),
        (&200.into(), &false.into())
    );
    assert_eq!(ended["space"], SPACE);
    let ran = ended["ran"].as_u64().unwrap();
    assert!((4..=8).contains(&ran), "{ended}");
    let record = all.iter().find(|one| one["event"] == "accounted").unwrap();
    let record = record["record"].as_str().unwrap();
    assert!(
        fs::read_to_string(record)
            .unwrap()
            .starts_with("APEL-individual-job-message")
    );

    let name = machine.as_str().unwrap();
    let shown = factory.run(&["events", "--machine", name]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert_eq!(shown.out.lines().count(), expected.len(), "{shown:?}");
    assert!(
        shown.out.contains(&format!("{SPACE}  {name} created as ")),
        "{shown:?}"
    );
    let lines = factory.run(&["events", "--json", "--space", SPACE, "--since", "1h"]);
    let told: Vec<Value> = lines
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        !told.is_empty() && told.iter().all(|one| one["space"] == SPACE),
        "{told:?}"
    );
    let later = factory.run(&["events", "--since", "2099-01-01T00:00:00Z"]);
    assert_eq!((later.code, later.out.as_str()), (Some(0), ""));
    daemon.end();
    assert_eq!(events(&factory).last().unwrap()["event"], "daemon_stopped");
}

#[test]
fn a_missed_heartbeat_a_backoff_and_a_bad_configuration_are_told() {
    let factory = Factory::new();
    // Without a certificate the VM cannot write.
    let machinetype = factory
        .machinetype(SPACE, "atlas", "heartbeat_file = heartbeat")
        .replace("backoff_seconds = 600", "backoff_seconds = 6");
    let good = factory.space(SPACE, "max_machines = 1") + &machinetype;
    factory.conf("space", &good);
    let daemon = factory.start();
    let mut following = factory
        .command(&["events", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let began = wait_for(&factory, "backoff_began");
    let machine = began["machine"].clone();
    let expected = ["created", "running", "heartbeat_missed", "destroyed"];
    let all = events(&factory);
    let told = story(&all, &machine);
    assert_eq!(told[..4], expected, "{all:#?}");
    let ended = all.iter().find(|one| one["event"] == "ended").unwrap();
    assert_eq!(ended["abort"], true);
    let until_then = ended["stopped"].as_u64().unwrap() + 6;
    assert_eq!(began["until"], until_then);
    let over = wait_for(&factory, "backoff_ended");
    assert!(
        over["time"].as_u64().unwrap() >= until_then,
        "{over} {began}"
    );
    assert_eq!(over["machinetype"], "atlas");

    factory.conf(
        "space",
        &good.replace("max_machines = 1", "max_machines = many"),
    );
    let rejected = wait_for(&factory, "config_rejected");
    assert!(
        rejected["problems"].to_string().contains("max_machines"),
        "{rejected}"
    );
    factory.conf("space", &good);
    wait_for(&factory, "config_reloaded");
    let kinds = events(&factory);
    let rejections = kinds.iter().filter(|one| one["event"] == "config_rejected");
    assert_eq!(rejections.count(), 1, "told once");

    // Whoever follows has seen it all.
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    for text in [
        "missed its heartbeat",
        "backs off until",
        "is over",
        "configuration reloaded",
    ] {
        let found = lines.by_ref().any(|line| line.unwrap().contains(text));
        assert!(found, "{text}");
    }
    following.kill().unwrap();
    following.wait().unwrap();
    daemon.end();
}

#[test]
fn the_log_is_rotated_by_size_and_can_be_moved_away() {
    let factory = Factory::with_space("max_machines = 6", "");
    let daemon = factory.start_with(factory.command(&["run", "--event-log-bytes", "1000"]));
    until("it was rotated", || {
        let old = read(&factory.state("events.jsonl.1"));
        (!old.is_empty()).then_some(())
    });
    let size = fs::metadata(factory.state("events.jsonl.1")).unwrap().len();
    assert!(size <= 1000, "{size}");
    let created = |events: &[Value]| {
        events
            .iter()
            .filter(|one| one["event"] == "created")
            .count()
    };
    until("all is told in both", || {
        let shown = factory.run(&["events", "--json"]);
        let lines = shown
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        (created(&lines.collect::<Vec<_>>()) == 6).then_some(())
    });
    // As logrotate does.
    let moved = factory.state("moved");
    fs::rename(factory.state("events.jsonl"), &moved).unwrap();
    let size = fs::metadata(&moved).unwrap().len();
    daemon.signal(Signal::HUP);
    factory.conf("more", &factory.machinetype(SPACE, "lhcb", ""));
    wait_for(&factory, "config_reloaded");
    assert_eq!(fs::metadata(&moved).unwrap().len(), size);
    daemon.end();
}

#[test]
fn a_full_disk_under_the_event_log_stops_nothing() {
    let factory = Factory::with_space("max_machines = 2", "");
    let daemon = factory.start_with(factory.command(&["run", "--event-log", "/dev/full"]));
    until("machines run all the same", || {
        let running = factory.machines().into_iter();
        let running = running.filter(|machine| machine.read("started").is_some());
        (running.count() == 2).then_some(())
    });
    let warnings = factory.log_lines("cannot write events to /dev/full");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    daemon.end();
    let none = factory.run(&["events", "--event-log", "none"]);
    assert_eq!(none.code, Some(64), "{none:?}");
}
