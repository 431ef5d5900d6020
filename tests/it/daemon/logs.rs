//! The log: as JSON, and with levels that change while the daemon runs.

use rustix::process::Signal;
use serde_json::Value;

use super::factory::{Factory, SPACE, until};

/// The debug lines of the log that are about a space.
fn debug_lines(factory: &Factory, space: &str) -> Vec<String> {
    let mut lines = factory.log_lines(" DEBUG ");
    lines.retain(|line| line.contains(&format!("space={space}")));
    lines
}

fn two_dead_spaces() -> Factory {
    let factory = Factory::new();
    for name in ["one.org", "two.org"] {
        let text = format!(
            "[space {name}]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
             username = u\npassword_base64 = c2VjcmV0c2VjcmV0\nmax_machines = 4\n{}",
            factory.machinetype(name, "a", "")
        );
        factory.conf(name, &text);
    }
    factory
}

#[test]
fn the_level_of_one_space_changes_until_a_reload() {
    let factory = two_dead_spaces();
    let nobody = factory.run(&["log", "debug"]);
    assert_eq!(nobody.code, Some(69), "{nobody:?}");
    let daemon = factory.start();
    until("both have failed", || {
        (factory.log_lines("nothing is created or destroyed").len() == 2).then_some(())
    });
    assert_eq!(factory.log_lines(" DEBUG "), [""; 0]);
    let set = factory.run(&["log", "--space", "one.org", "debug"]);
    assert_eq!(set.code, Some(0), "{set:?}");
    until("its cycles say more", || {
        (debug_lines(&factory, "one.org").len() > 2).then_some(())
    });
    assert_eq!(debug_lines(&factory, "two.org"), [""; 0]);
    assert_eq!(
        factory
            .log_lines("the log of space one.org is at level debug")
            .len(),
        1
    );
    for (arguments, code) in [
        (&["log", "--space", "three.org", "debug"][..], 64),
        (&["log", "loud"], 64),
    ] {
        let refused = factory.run(arguments);
        assert_eq!(refused.code, Some(code), "{refused:?}");
    }
    daemon.signal(Signal::HUP);
    until("the log is as before", || {
        let lines = factory.log_lines("the log is as at the start again");
        (lines.len() == 1).then_some(())
    });
    let scans = || {
        let status = factory.run(&["status", "--json"]).json();
        status["spaces"]["one.org"]["passes"].as_u64().unwrap()
    };
    let (before, passes) = (debug_lines(&factory, "one.org").len(), scans());
    until("two more cycles", || (scans() > passes + 2).then_some(()));
    assert!(debug_lines(&factory, "one.org").len() <= before + 1);

    // Everything of ours, and nothing of the libraries below; no secret in any.
    assert_eq!(factory.run(&["log", "trace"]).code, Some(0));
    until("both say more", || {
        (!debug_lines(&factory, "two.org").is_empty()).then_some(())
    });
    assert_eq!(factory.run(&["log", "error"]).code, Some(0));
    daemon.end();
    let log = factory.log();
    assert!(
        !log.contains("secretsecret") && !log.contains("c2VjcmV0"),
        "{log}"
    );
    assert!(
        !log.contains("hyper") && !log.contains("pooling idle"),
        "{log}"
    );
}

#[test]
fn each_line_of_json_stands_alone() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start_with(factory.command(&["run", "--log-format", "json"]));
    until("a machine is made", || {
        (!factory.log_lines("created").is_empty()).then_some(())
    });
    daemon.end();
    let log = factory.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        assert!(line["timestamp"].is_string(), "{line}");
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
    let created = lines
        .iter()
        .find(|line| line["message"] == "created")
        .unwrap();
    assert_eq!(created["span"]["space"], SPACE);
    assert!(
        created["machine"]
            .as_str()
            .unwrap()
            .starts_with("vcycle-atlas-")
    );
}
