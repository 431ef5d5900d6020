//! `kill -9` at any moment: no VM is lost, doubled or accounted for twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::Rng;

use super::factory::{self, Factory, SPACE, entries, until};

/// What the cloud has had in the whole test, by identifier: the names.
#[derive(Default)]
struct Seen(BTreeMap<String, String>);

impl Seen {
    fn look(&mut self, factory: &Factory) {
        for server in factory.servers(SPACE) {
            let text = |key: &str| server[key].as_str().unwrap().to_owned();
            self.0.insert(text("id"), text("name"));
        }
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_loses_and_doubles_nothing() {
    const KILLS: usize = 30;
    const LONGEST: Duration = Duration::from_millis(1500);
    let mut rng = factory::kills();

    let factory = Factory::new();
    let configure = |share: u32| {
        let space = format!(
            "max_machines = 40\nsimulated_machines = 40\nsimulated_job_seconds = 5\n\
             gocdb_sitename = TEST-SITE\n{}",
            factory.vm_certificate()
        );
        let machinetype =
            format!("target_share = {share}\nfizzle_seconds = 5\nbackoff_seconds = 0");
        let machinetype = factory.machinetype(SPACE, "atlas", &machinetype);
        factory.conf("space", &(factory.space(SPACE, &space) + &machinetype));
    };
    configure(1);
    let mut seen = Seen::default();
    for _ in 0..KILLS {
        let said = factory.log().lines().count();
        let daemon = factory.spawn(factory.command(&["run"]));
        // Some are killed while they start, the others when so much has happened, or could have.
        let lines = [0, rng.random_range(3..12)][usize::from(rng.random_bool(0.8))];
        let began = Instant::now();
        while factory.log().lines().count() < said + lines && began.elapsed() < LONGEST {
            seen.look(&factory);
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..300)));
        // Now and then it is asked, which may come before it listens to that.
        if rng.random_bool(0.2) {
            daemon.terminate();
        } else {
            daemon.kill();
        }
        seen.look(&factory);
    }
    let daemon = factory.start();
    until("enough have worked to show something", || {
        seen.look(&factory);
        (factory.records("apel-archive").len() >= 5).then_some(())
    });
    // From here on nothing new, and all that is there comes to its end.
    configure(0);
    until("no VM is left", || {
        seen.look(&factory);
        factory.servers(SPACE).is_empty().then_some(())
    });
    let ids: BTreeSet<&String> = seen.0.keys().collect();
    until("all ends are written down", || {
        let machines = factory.machines();
        let mut known = machines
            .iter()
            .filter(|machine| machine.read("uuid").is_some());
        known
            .all(|machine| machine.read("finished").is_some())
            .then_some(())
    });
    daemon.end();

    let names: BTreeSet<&String> = seen.0.values().collect();
    assert_eq!(
        names.len(),
        ids.len(),
        "two VMs with one name: {:?}",
        seen.0
    );
    let machines = factory.machines();
    let mut expected = BTreeSet::new();
    for machine in &machines {
        let Some(uuid) = machine.read("uuid") else {
            // Killed before the cloud was asked: an attempt, and no VM.
            assert!(!names.contains(&machine.name().to_owned()), "{machine:?}");
            continue;
        };
        assert_eq!(seen.0.get(&uuid).map(String::as_str), Some(machine.name()));
        let (started, stopped) = (machine.time("started"), machine.time("stopped").unwrap());
        if started.is_some_and(|started| stopped - started >= 5) {
            expected.insert(uuid);
        }
    }
    let with_directory: BTreeSet<_> = machines.iter().filter_map(|m| m.read("uuid")).collect();
    assert_eq!(
        with_directory.iter().collect::<BTreeSet<_>>(),
        ids,
        "VMs without a directory"
    );
    let records = factory.records("apel-archive");
    let recorded = |text: &str| {
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("LocalJobId: "));
        id.unwrap().to_owned()
    };
    let recorded: Vec<String> = records.iter().map(|(_, text)| recorded(text)).collect();
    assert_eq!(recorded.len(), expected.len(), "one record each");
    assert_eq!(recorded.into_iter().collect::<BTreeSet<_>>(), expected);
    let found = factory.log_lines("found on the cloud").len();
    eprintln!(
        "{} VMs, {found} of them found by name after a kill",
        ids.len()
    );
    assert_eq!(factory.records("apel-outgoing"), records);
    assert!(
        entries(&factory.state("tmp")).is_empty(),
        "nothing is left half written"
    );
}
