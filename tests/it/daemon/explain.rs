//! `vcycled explain`: the rules of the daemon's latest cycle, or those of a dry run.

use serde_json::Value;

use super::factory::{Factory, SPACE, until};

/// The rule that decides about a machinetype.
fn deciding(explained: &Value, machinetype: &str) -> Value {
    let rules = explained["machinetypes"][machinetype]["rules"].as_array();
    let mut deciding = rules.unwrap().iter().filter(|rule| rule["decides"] == true);
    let found = deciding.next().unwrap().clone();
    assert!(deciding.next().is_none());
    found
}

fn explain(factory: &Factory, arguments: &[&str]) -> Value {
    factory
        .run(&[&["explain", SPACE, "--json"], arguments].concat())
        .json()
}

#[test]
fn a_full_space_says_so_and_what_would_change_it() {
    let factory = Factory::with_space("max_machines = 2", "");
    let daemon = factory.start();
    let explained = until("the space is full", || {
        let explained = factory.run(&["explain", SPACE, "--json"]);
        let explained: Value = serde_json::from_str(&explained.out).ok()?;
        let full = explained["machinetypes"]["atlas"]["machines"] == 2
            && explained["machinetypes"]["atlas"]["creates"] == 0;
        full.then_some(explained)
    });
    let rule = deciding(&explained, "atlas");
    assert_eq!(rule["rule"], "space_machines");
    assert_eq!((&rule["have"], &rule["limit"]), (&2.into(), &2.into()));
    let conditions = explained["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().all(|one| one["forbids"] == false),
        "{conditions:?}"
    );

    assert_eq!(explained["next_in_line"][0], "atlas");
    until("the first end of a machine is told", || {
        let status = factory.run(&["status", "--json"]).json();
        let machines = status["spaces"][SPACE]["machines"].as_array().unwrap();
        let ends = machines.iter();
        let ends = ends.filter_map(|machine| machine["shutdowntime"].as_u64());
        let first = ends.min()?;
        (explain(&factory, &[])["next_end"].as_u64() == Some(first)).then_some(())
    });

    let text = factory.run(&["explain", SPACE, "atlas"]).out;
    for part in [
        "the next machine of the space ends at the latest 20",
        "next in line by share: atlas\n",
        "machinetype atlas: 2 machine(s), ",
        "100 % of the space, target 100 %",
        "no more because: machines in the space: 2 of 2",
        "this changes when a machine of the space ends",
        "->  no  machines of the space ",
        "    ok  target_share ",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let unknown = factory.run(&["explain", SPACE, "lhcb"]);
    assert_eq!(unknown.code, Some(64), "{unknown:?}");
    assert!(
        unknown.err.contains("the machinetypes are atlas"),
        "{unknown:?}"
    );
    let unknown = factory.run(&["explain", "other.org"]);
    assert_eq!(unknown.code, Some(64), "{unknown:?}");
    daemon.end();
}

#[test]
fn a_backoff_is_explained_with_its_end_by_the_daemon_and_by_a_dry_run() {
    // Without a certificate the VM cannot write, and is destroyed for its heartbeat.
    let factory = Factory::with_space("max_machines = 1", "heartbeat_file = heartbeat");
    let daemon = factory.start();
    let explained = until("it backs off", || {
        let said = factory.run(&["explain", SPACE, "--json"]);
        let explained: Value = serde_json::from_str(&said.out).ok()?;
        let why = &explained["machinetypes"]["atlas"]["stopped_by"];
        (why["rule"] == "backoff").then_some(explained)
    });
    let rule = deciding(&explained, "atlas");
    assert_eq!(rule["rule"], "backoff");
    let abort = rule["last_abort"].as_u64().unwrap();
    assert_eq!(rule["until"], abort + 600);
    let text = factory.run(&["explain", SPACE]).out;
    for part in [
        "->  no  backoff_seconds",
        "this changes at ",
        "when the backoff ends; then one",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    // The same function decides in a dry run.
    let planned = factory.run(&["plan", "--json", SPACE]).json();
    let why = &planned["report"]["machinetypes"]["atlas"]["stopped_by"]["rule"];
    assert_eq!(why, "backoff");
    let snapshot = factory.path("snapshot.json");
    let snapshot = snapshot.to_str().unwrap();
    factory.run(&["plan", SPACE, "--dump-snapshot", snapshot]);
    daemon.end();

    let nobody = explain(&factory, &[]);
    assert_eq!(nobody["conditions"][0]["condition"], "daemon");
    assert_eq!(nobody["conditions"][0]["forbids"], true);
    assert_eq!(deciding(&nobody, "atlas")["rule"], "backoff");
    // Of a recorded situation: still in the backoff, and when it is over.
    let recorded = explain(&factory, &["--snapshot", snapshot]);
    assert_eq!(deciding(&recorded, "atlas")["until"], abort + 600);
    let later = (abort + 700).to_string();
    let later = explain(&factory, &["--snapshot", snapshot, "--now", &later]);
    assert_ne!(deciding(&later, "atlas")["rule"], "backoff");
}

#[test]
fn a_creation_that_failed_is_the_reason_and_is_not_counted() {
    let factory = Factory::with_space("max_machines = 2", "");
    let user_data = factory.path("etc/user_data");
    std::fs::remove_file(&user_data).unwrap();
    // One cycle only: its report is what the daemon tells from then on.
    let mut command = factory.command(&["run"]);
    command.args(["--interval", "3600"]);
    let daemon = factory.start_with(command);
    let explained = until("the first cycle is over", || {
        let said = factory.run(&["explain", SPACE, "--json"]);
        let explained: Value = serde_json::from_str(&said.out).ok()?;
        explained["machinetypes"]["atlas"]["stopped_by"]["rule"]
            .is_string()
            .then_some(explained)
    });
    let atlas = &explained["machinetypes"]["atlas"];
    assert_eq!(
        (&atlas["machines"], &atlas["creates"]),
        (&0.into(), &0.into())
    );
    let why = &atlas["stopped_by"];
    assert_eq!(
        (&why["rule"], &why["failures"]),
        (&"refused".into(), &1.into())
    );
    let error = why["error"].as_str().unwrap();
    assert!(error.contains(user_data.to_str().unwrap()), "{error}");

    let status = factory.run(&["status"]).out;
    for part in [
        "machines 0 of 2",
        "the latest creation was refused: ",
        error,
    ] {
        assert!(status.contains(part), "{part:?} in\n{status}");
    }
    let events = factory.run(&["events"]).out;
    assert!(events.contains("cannot be created: "), "{events}");

    // In the pause after it the reason is the pause, and what came back is still told.
    factory.run(&["shutdown", "--cancel"]);
    until("another cycle", || {
        let text = factory.run(&["explain", SPACE]).out;
        let told = text.contains("1 creation(s) in a row failed, next try at ")
            && text.contains(&format!(": {error}\n  this changes at "));
        told.then_some(())
    });
    daemon.end();
}
