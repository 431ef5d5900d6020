//! What leaves the configuration while its machines run.

use super::factory::{Factory, SPACE, until};

#[test]
fn a_machine_whose_machinetype_was_removed_runs_until_its_shutdowntime() {
    let factory = Factory::new();
    // The VM cannot ask for its shutdowntime, so that it does not end by itself before.
    factory.server("listen = none\n");
    let space = factory.space(SPACE, "max_machines = 2");
    let short = factory.machinetype(
        SPACE,
        "short",
        "max_wallclock_seconds = 8\nmax_machines = 1",
    );
    let other = factory.machinetype(SPACE, "other", "target_share = 0");
    factory.conf("space", &format!("{space}{other}{short}"));
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("started");
    let shutdowntime = machine.time("machinefeatures/shutdowntime").unwrap();
    assert_eq!(shutdowntime, machine.time("created").unwrap() + 8);

    factory.conf("space", &format!("{space}{other}"));
    until("the change counts", || {
        factory.log_lines("using a changed configuration").pop()
    });
    let message = machine.wait_for("joboutputs/shutdown_message");
    assert_eq!(message, "700 Passed shutdowntime");
    let deleted: u64 = machine.wait_for("deleted").parse().unwrap();
    assert!(deleted > shutdowntime, "not sooner");
    machine.wait_for("finished");
    // It is accounted for by what its directory says.
    let records = factory.records("apel-archive");
    assert_eq!(records.len(), 1);
    assert!(records[0].1.contains("\nQueue: short\n"), "{records:?}");
    assert_eq!(factory.machines().len(), 1, "nothing new of that kind");
    daemon.end();
}

#[test]
fn machines_of_a_removed_space_are_left_alone_until_it_comes_back() {
    let factory = Factory::new();
    let section = |space: &str, options: &str| {
        factory.space(space, options) + &factory.machinetype(space, "atlas", "")
    };
    factory.conf("stays", &section("stays.org", "max_machines = 2"));
    let options = "max_machines = 1\nsimulated_job_seconds = 1\n".to_owned();
    let leaving = section("leaving.org", &(options + &factory.vm_certificate()));
    factory.conf("leaves", &leaving);
    let daemon = factory.start();
    let of = |space: &str| {
        let mut machines = factory.machines();
        machines.retain(|machine| machine.read("space_name").as_deref() == Some(space));
        machines
    };
    let machine = until("a machine", || of("leaving.org").pop());
    machine.wait_for("uuid");

    std::fs::remove_file(factory.path("etc/vcycle.d/leaves.conf")).unwrap();
    let told = "the space has left the configuration: its 1 machine(s) are left alone";
    until("it is told", || factory.log_lines(told).pop());
    until("the other space goes on", || {
        let running = of("stays.org")
            .iter()
            .filter(|m| m.read("started").is_some())
            .count();
        (running == 2).then_some(())
    });
    assert_eq!(machine.read("finished"), None);
    assert_eq!(machine.read("deleted"), None);
    assert_eq!(factory.servers("leaving.org").len(), 1);

    // Nor does a start without it touch them.
    daemon.end();
    let daemon = factory.start();
    assert_eq!(
        factory
            .log_lines("of a space that is not configured: left alone")
            .len(),
        1
    );
    assert_eq!(factory.servers("leaving.org").len(), 1);
    assert!(machine.0.exists());

    // When it comes back it goes on from there: no second VM, and the end of the first is seen.
    factory.conf("leaves", &leaving);
    machine.wait_for("finished");
    assert_eq!(of("leaving.org").len(), 1);
    daemon.end();
}
