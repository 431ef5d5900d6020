//! `vcycled plan`: what the next cycle would do, changing nothing; and its replay.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::factory::{Ended, Factory, SPACE, entries, until};

/// Everything below a directory: when it was changed, and what is in it.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)> {
    let mut all = BTreeMap::new();
    for path in entries(dir) {
        let found = fs::symlink_metadata(&path).unwrap();
        let content = found.is_file().then(|| fs::read(&path).unwrap());
        if found.is_dir() {
            all.extend(tree(&path));
        }
        all.insert(path, (found.modified().unwrap(), content));
    }
    all
}

#[test]
fn a_plan_changes_nothing_and_is_replayed_from_its_snapshot() {
    let factory = Factory::with_space("max_machines = 20", "hs06 = 10\nmax_machines = 9");
    let daemon = factory.start();
    until("machines in several states", || {
        let machines = factory.machines();
        let running = machines.iter().filter(|m| m.read("started").is_some());
        (running.count() >= 2 && machines.len() >= 4).then_some(())
    });
    // Beside a running daemon.
    let beside = factory.run(&["plan"]);
    assert_eq!(beside.code, Some(0), "{beside:?}");
    assert!(
        beside.out.starts_with(&format!("space {SPACE} at ")),
        "{beside:?}"
    );
    daemon.end();

    let before = tree(&factory.state(""));
    let cloud = factory.servers(SPACE).len();
    assert!(before.contains_key(&factory.state(&format!("simulated/{SPACE}.json"))));
    let now = factory.machines()[0].time("created").unwrap() + 30;
    let fixed = ["--now", &now.to_string(), "--seed", "7"];
    let snapshot = factory.path("snapshot.json");
    let snapshot = snapshot.to_str().unwrap();
    let plan = |arguments: &[&str]| factory.run(&[&["plan"], arguments].concat());
    let recorded = plan(&[&[SPACE, "--json", "--dump-snapshot", snapshot], &fixed[..]].concat());
    let for_people = plan(&[&[SPACE], &fixed[..]].concat());
    plan(&["--json"]).json();
    assert_eq!(tree(&factory.state("")), before, "a plan changed something");

    let planned = recorded.json();
    assert_eq!(
        planned["report"]["space"]["machines"],
        json!(cloud),
        "it has looked"
    );
    let creates = planned["creates"].as_array().unwrap();
    // 10 % of 20, and not more than 9.
    assert_eq!(creates.len(), 2.min(9 - cloud), "{planned}");
    for create in creates {
        assert!(for_people.out.contains(create["machine"].as_str().unwrap()));
    }
    let again = plan(&[&["--json", "--snapshot", snapshot], &fixed[..]].concat());
    assert_eq!((again.code, &again.out), (Some(0), &recorded.out));
    // The snapshot knows its moment.
    let again = plan(&["--json", "--snapshot", snapshot, "--seed", "7"]);
    assert_eq!(again.out, recorded.out);
    let other = plan(&["--json", "--snapshot", snapshot, "--seed", "8"]).json();
    assert_ne!(
        other["creates"], planned["creates"],
        "other names, at least"
    );
    // Replaying needs neither the cloud nor the state directory nor the configuration.
    fs::remove_dir_all(factory.state("")).unwrap();
    fs::remove_dir_all(factory.path("etc")).unwrap();
    let again = plan(&["--json", "--snapshot", snapshot, "--seed", "7"]);
    assert_eq!(again.out, recorded.out);
    assert!(!factory.state("").exists());
}

#[test]
fn a_plan_needs_no_state_directory_and_makes_none() {
    let factory = Factory::with_space("max_machines = 20", "");
    let planned = factory.run(&["plan", "--json"]).json();
    assert_eq!(planned["creates"].as_array().unwrap().len(), 2);
    assert!(!factory.state("").exists());
}

/// The literal text of the manual page's example between two lines.
fn example(from: &str, to: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/vcycled.8");
    let page = fs::read_to_string(page).unwrap();
    let lines = page.lines().skip_while(|line| *line != from).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| *line != to).collect();
    assert!(!lines.is_empty());
    lines.join("\n")
}

#[test]
fn the_example_of_the_manual_page_gives_what_the_page_says() {
    const COMMAND: &str = "$ vcycled plan --snapshot stopped.json --now 1700003050 --seed 1";
    let factory = Factory::new();
    let text = example("$ cat stopped.json", COMMAND);
    fs::write(factory.path("stopped.json"), text).unwrap();
    let arguments: Vec<&str> = COMMAND.split(' ').skip(2).collect();
    let run = |more: &[&str]| {
        let mut command = factory.command(&[&arguments[..], more].concat());
        let output = command.current_dir(factory.path("")).output().unwrap();
        Ended::of(output)
    };
    let mut planned = run(&["--json"]).json();
    let rules = planned["report"]["machinetypes"]["atlas"]["rules"].take();
    let decide = |rule: &&Value| rule["decides"] == true;
    let deciding: Vec<_> = rules.as_array().unwrap().iter().filter(decide).collect();
    let expected = json!([{
        "rule": "backoff", "last_abort": 1_700_003_000, "seconds": 600,
        "until": 1_700_003_600, "forbids": true, "decides": true,
    }]);
    assert_eq!(json!(deciding), expected);
    let expected = json!({
        "space": "example.org", "now": 1_700_003_050, "seed": 1,
        "bookkeeping": [{
            "action": "finish", "machine": "vcycle-atlas-abcdefghij", "machinetype": "atlas",
            "started": 1_700_000_060, "stopped": 1_700_003_000, "code": 300,
            "abort": true, "account": true, "pauses": false, "how": "it shut down, saying \"300 Nothing to do\"",
        }],
        "deletes": [{
            "machine": "vcycle-atlas-abcdefghij", "machinetype": "atlas", "id": "a1",
            "reason": {"rule": "stopped"}, "message": null,
        }],
        "creates": [],
        "report": {
            "space": {
                "machines": 1, "processors": 1, "foreign_machines": 0,
                "machines_limit": 10, "processors_limit": null,
            },
            "machinetypes": {"atlas": {
                "machines": 1, "starting": 0, "running": 0, "processors": 1, "weight": 1.0,
                "target_share": 1.0, "creates": 0,
                "stopped_by": {"rule": "backoff", "until": 1_700_003_600},
                "rules": null,
            }},
        },
    });
    assert_eq!(planned, expected);
    let for_people = run(&[]);
    assert_eq!(for_people.code, Some(0));
    let lines = [
        "would destroy 1\n    vcycle-atlas-abcdefghij it has stopped\n",
        "would create 0\n",
        "no more because: backing off after an abort until 2023-11-14T23:13:20Z\n",
    ];
    for line in lines {
        assert!(for_people.out.contains(line), "{}", for_people.out);
    }
    // Once the backoff is over one machine is tried; that it is the only one is the trial's rule.
    let until_then: Vec<&str> = arguments
        .iter()
        .map(|word| {
            if *word == "1700003050" {
                "1700003601"
            } else {
                word
            }
        })
        .chain(["--json"])
        .collect();
    let mut command = factory.command(&until_then);
    let later = Ended::of(command.current_dir(factory.path("")).output().unwrap()).json();
    assert_eq!(later["creates"].as_array().unwrap().len(), 1);
    assert_eq!(later["creates"][0]["machinetype"], "atlas");
}

#[test]
fn what_is_no_snapshot_is_65() {
    let factory = Factory::new();
    let config = json!({
        "space example.org": {"api": "simulated", "max_machines": 1},
        "machinetype example.org a": {"backoff_seconds": 1, "fizzle_seconds": 1, "user_data": "x"},
    });
    let mut broken = config.clone();
    broken["machinetype example.org a"]["fizzle_seconds"] = json!("1h");
    let cases: [(Value, &[&str], &str); 6] = [
        (json!([1]), &[], "not a snapshot"),
        (
            json!({"space": "example.org"}),
            &[],
            "missing field `config`",
        ),
        (
            json!({"space": "example.org", "config": config, "machiens": {}}),
            &[],
            "machiens",
        ),
        (
            json!({"space": "example.com", "config": config}),
            &[],
            "has no space example.com",
        ),
        (
            json!({"space": "example.org", "config": broken}),
            &[],
            "fizzle_seconds = \"1h\"",
        ),
        (
            json!({"space": "example.org", "config": config}),
            &["other.org"],
            "not other.org",
        ),
    ];
    let file = factory.path("snapshot.json");
    let replay = |more: &[&str]| {
        factory.run(&[&["plan", "--snapshot", file.to_str().unwrap()], more].concat())
    };
    for (snapshot, more, why) in cases {
        fs::write(&file, snapshot.to_string()).unwrap();
        let said = replay(more);
        assert_eq!(said.code, Some(65), "{snapshot}: {said:?}");
        assert!(
            said.err.contains("snapshot.json: ") && said.err.contains(why),
            "{said:?}"
        );
        assert_eq!(said.out, "");
    }
    for junk in [&b""[..], b"{", b"\xff\xfe\0", &b"[".repeat(100_000)] {
        fs::write(&file, junk).unwrap();
        let said = replay(&[]);
        assert_eq!(said.code, Some(65), "{said:?}");
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(replay(&[]).code, Some(74));
}
