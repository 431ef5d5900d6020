//! The daemon ends and comes back, kindly or not, and nothing is lost or doubled.

use super::factory::{Factory, MachineDir, SPACE, until};

#[test]
fn a_daemon_that_was_asked_to_end_goes_on_where_it_was() {
    let factory = Factory::with_space("max_machines = 3", "");
    let daemon = factory.start();
    let started = |machines: &[MachineDir]| {
        machines
            .iter()
            .filter(|m| m.read("started").is_some())
            .count()
    };
    until("one of several runs", || {
        (started(&factory.machines()) >= 1).then_some(())
    });
    daemon.end();
    assert_eq!(factory.log_lines("stopped").len(), 1);
    let facts = |machine: &MachineDir| {
        ["created", "uuid", "user_data", "jobfeatures/job_id"].map(|file| machine.read(file))
    };
    let before: Vec<_> = factory
        .machines()
        .iter()
        .map(|m| (m.clone(), facts(m)))
        .collect();
    assert_eq!(factory.servers(SPACE).len(), before.len());

    let daemon = factory.start();
    until("all of them run", || {
        (started(&factory.machines()) == 3).then_some(())
    });
    for (machine, facts_before) in before {
        assert_eq!(facts(&machine), facts_before);
    }
    assert_eq!(factory.servers(SPACE).len(), 3);
    daemon.end();
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    let second = factory.run(&["run"]);
    assert_eq!(second.code, Some(74), "{second:?}");
    assert!(
        second.err.contains("in use by another vcycled"),
        "{second:?}"
    );
    daemon.end();
    factory.start().end();
}
