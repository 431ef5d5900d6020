//! `vcycled status` beside a running daemon, and without one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Stdio;

use serde_json::Value;

use super::client;
use super::factory::{FACTORY, Factory, PKI, SPACE, until};

/// The machines in a status.
fn machines(status: &Value) -> &Vec<Value> {
    status["spaces"][SPACE]["machines"].as_array().unwrap()
}

fn status(factory: &Factory) -> Value {
    factory.run(&["status", "--json"]).json()
}

/// A text without the blanks that align its columns.
fn words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Waits until the status shows so many machines in this phase.
fn wait_for(factory: &Factory, count: usize, phase: &str) -> Value {
    until(&format!("{count} machine(s) are shown {phase}"), || {
        let status = status(factory);
        let all = machines(&status).iter();
        let found = all.filter(|one| one["phase"] == phase).count();
        (found == count).then_some(status)
    })
}

#[test]
fn it_shows_what_runs_and_the_story_of_each_machine() {
    let machinetype = "heartbeat_file = heartbeat\ntarget_share = 3";
    let factory = Factory::new();
    let other = factory
        .machinetype(SPACE, "lhcb", "")
        .replace("target_share = 1", "target_share = 0");
    let text = factory.space(SPACE, "max_machines = 2")
        + &factory
            .machinetype(SPACE, "atlas", machinetype)
            .replace("fizzle_seconds = 3", "fizzle_seconds = 600")
        + &other;
    factory.conf("space", &text);
    let daemon = factory.start();
    let shown = wait_for(&factory, 2, "running");
    assert_eq!(shown["daemon"]["factory"], FACTORY);
    assert_eq!(shown["daemon"]["process"], daemon.child.id());
    assert_eq!(shown["daemon"]["interval"], 1);
    assert!(shown["now"].as_u64().unwrap() >= shown["config"]["loaded"].as_u64().unwrap());
    let space = &shown["spaces"][SPACE];
    assert_eq!(space["totals"]["created"], 2);
    let report = &space["report"]["machinetypes"];
    assert_eq!(report["lhcb"]["stopped_by"]["rule"], "no_target_share");

    // A heartbeat is seen by the next cycle.
    let name = machines(&shown)[0]["name"].as_str().unwrap().to_owned();
    let path = format!("/machines/{name}/joboutputs/heartbeat");
    let server = (factory.port, &PKI.ca.cert);
    let put = client::request(server, Some(&PKI.vm), ("PUT", &path), "alive");
    assert_eq!(put.status, 201, "{put:?}");
    let seen = until("the heartbeat is shown", || {
        let status = status(&factory);
        let machine = machines(&status).iter().find(|one| one["name"] == *name)?;
        machine["heartbeat"].as_u64().map(|_| machine.clone())
    });
    let address = seen["address"].as_str().unwrap().to_owned();

    let for_people = factory.run(&["status"]);
    assert_eq!(for_people.code, Some(0), "{for_people:?}");
    let text = words(&for_people.out);
    assert!(
        !text.contains('\u{1b}'),
        "no colours outside a terminal: {text}"
    );
    for part in [
        &format!("on {FACTORY}, process {}", daemon.child.id()),
        &format!("space {SPACE} machines 2 of 2; processors 2"),
        "atlas 100 % 100 % 2 0 2 2 machines in the space: 2 of 2",
        "lhcb 0 % 0 % 0 0 0 0 target_share is 0",
        &name,
        &address,
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }

    let story = factory.run(&["status", &name]);
    assert_eq!(story.code, Some(0), "{story:?}");
    for part in [
        "asked for",
        "began to run, after",
        "last heartbeat",
        "5 bytes",
        &address,
    ] {
        assert!(story.out.contains(part), "{part:?} in\n{}", story.out);
    }
    let story = factory.run(&["status", "--json", &name]).json();
    assert_eq!(
        (&story["space"], &story["phase"]),
        (&SPACE.into(), &"running".into())
    );
    let stranger = factory.run(&["status", "vcycle-atlas-0000000000"]);
    assert_eq!(stranger.code, Some(64), "{stranger:?}");
    assert!(stranger.err.contains("there is no machine"), "{stranger:?}");
    let elsewhere = factory.run(&["status", "--space", "other.org"]);
    assert_eq!(elsewhere.code, Some(64), "{elsewhere:?}");
    assert!(elsewhere.err.contains(SPACE), "{elsewhere:?}");
    daemon.end();
}

#[test]
fn without_a_daemon_it_reads_the_directories_and_says_so() {
    let factory = Factory::with_space("max_machines = 1", "");
    let nowhere = factory.run(&["status"]);
    assert_eq!(
        nowhere.code,
        Some(74),
        "no state directory yet: {nowhere:?}"
    );
    let daemon = factory.start();
    let running = wait_for(&factory, 1, "running");
    let socket = factory.state("vcycled.sock");
    let found = fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    // One that is killed leaves its socket.
    daemon.kill();
    assert!(socket.exists());
    let known = status(&factory);
    assert_eq!(known["daemon"], Value::Null);
    assert_eq!(machines(&known)[0]["name"], machines(&running)[0]["name"]);
    assert_eq!(machines(&known)[0]["phase"], "running");
    let text = factory.run(&["status"]).out;
    assert!(text.starts_with("no daemon runs here"), "{text}");
    let name = machines(&known)[0]["name"].as_str().unwrap();
    let story = factory.run(&["status", name]);
    assert!(story.out.contains("no daemon runs here"), "{story:?}");
    assert!(story.out.contains("began to run"), "{story:?}");
    // The next one takes its place, and clears it away at its end.
    let daemon = factory.start();
    assert!(status(&factory)["daemon"].is_object());
    // What stays on the cloud when its space is removed belongs to nobody.
    factory.conf("space", "");
    factory.conf(
        "other",
        &(factory.space("other.org", "") + &factory.machinetype("other.org", "a", "")),
    );
    let orphans = until("orphans are shown", || {
        let status = status(&factory);
        status["orphans"][SPACE].as_u64()
    });
    assert_eq!(orphans, 1);
    let text = factory.run(&["status"]).out;
    assert!(
        text.contains("space example.org is not in the configuration"),
        "{text}"
    );
    daemon.end();
    assert!(!socket.exists());
}

#[test]
fn trouble_is_shown_with_its_age_and_kept_when_it_is_over() {
    let factory = Factory::with_space("max_machines = 1", "");
    let good = fs::read_to_string(factory.path("etc/vcycle.d/space.conf")).unwrap();
    let daemon = factory.start();
    wait_for(&factory, 1, "running");
    let dead = format!(
        "[space {SPACE}]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
         username = u\npassword_base64 = c2VjcmV0c2VjcmV0\nmax_machines = 4\n{}",
        factory.machinetype(SPACE, "atlas", "")
    );
    factory.conf("space", &dead);
    let trouble = |expect: fn(&Value) -> bool| {
        until("the trouble is shown", || {
            let status = status(&factory);
            let space = status["spaces"][SPACE].clone();
            expect(&space).then_some(space)
        })
    };
    let failing = trouble(|space| space["trouble"]["passes"].as_u64() >= Some(2));
    let text = failing["error"].as_str().unwrap();
    assert!(text.contains("127.0.0.1:1"), "{text}");
    assert_eq!(
        failing["machines"].as_array().unwrap().len(),
        1,
        "still shown"
    );
    let shown = factory.run(&["status"]).out;
    assert!(shown.contains("cycle(s) failed, the first "), "{shown}");
    let explained = factory.run(&["explain", SPACE]).out;
    assert!(
        explained.contains("->  no  cycle          ended early: "),
        "{explained}"
    );
    factory.conf("space", &good);
    let over = trouble(|space| space["trouble"]["over"].is_u64());
    assert_eq!(over["error"], Value::Null);
    let shown = factory.run(&["status"]).out;
    assert!(
        shown.contains("last error, over now, ") && !shown.contains("failed, the first"),
        "{shown}"
    );

    // A configuration that is not used is shown, too, and is nowhere in it a secret.
    factory.conf(
        "space",
        &dead.replace("max_machines = 4", "max_machines = many"),
    );
    let rejected = until("the configuration is shown to be bad", || {
        let status = status(&factory);
        status["config"]["rejected"].is_u64().then_some(status)
    });
    let problems = rejected["config"]["problems"].to_string();
    assert!(problems.contains("max_machines"), "{problems}");
    assert!(!rejected.to_string().contains("secretsecret"));
    let shown = factory.run(&["status"]).out;
    assert!(
        shown.contains("the configuration has errors, that of "),
        "{shown}"
    );
    daemon.end();
}

#[test]
fn it_can_be_watched_across_a_restart() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    let mut watching = factory
        .command(&["status", "--watch=1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut wait_for = |start: &str| {
        let found = lines.by_ref().any(|line| line.unwrap().starts_with(start));
        assert!(found, "{start}");
    };
    wait_for("vcycled ");
    daemon.end();
    wait_for("no daemon runs here");
    let daemon = factory.start();
    wait_for("vcycled ");
    watching.kill().unwrap();
    watching.wait().unwrap();
    daemon.end();
}

#[test]
fn the_latest_refused_creation_is_shown_also_when_it_is_over() {
    let factory = Factory::with_space("max_machines = 1", "");
    let user_data = factory.path("etc/user_data");
    fs::rename(&user_data, factory.path("etc/elsewhere")).unwrap();
    let daemon = factory.start();
    let refused = until("a creation is refused", || {
        let status = status(&factory);
        let refusal = status["spaces"][SPACE]["refusals"]["atlas"].clone();
        refusal["error"].is_string().then_some(refusal)
    });
    assert!(
        refused["error"].as_str().unwrap().contains("user_data"),
        "{refused}"
    );
    assert!(refused["at"].is_u64());
    let shown = factory.run(&["status"]).out;
    assert!(shown.contains("  atlas: refused "), "{shown}");
    daemon.end();
}
