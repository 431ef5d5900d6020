//! log_joboutputs: copies of what machines wrote.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;

use super::client;
use super::disk::SmallDisk;
use super::factory::{self, Factory, MachineDir, PKI, SPACE, entries, until};

/// A site whose VMs work for some seconds and leave messages.
fn configure(factory: &Factory, space: &str, kinds: &[(&str, &str)]) {
    let space = format!("{}{space}\n", factory.vm_certificate());
    let mut text = factory.space(SPACE, &space);
    for (name, options) in kinds {
        let options = format!("backoff_seconds = 0\n{options}");
        text += &factory.machinetype(SPACE, name, &options);
    }
    factory.conf("space", &text);
}

fn copy_of(factory: &Factory, kind: &str, machine: &MachineDir) -> PathBuf {
    factory.state(&format!("joboutputs/{SPACE}/{kind}/{}", machine.name()))
}

fn put(factory: &Factory, machine: &MachineDir, file: &str, text: &str) {
    let path = format!("/machines/{}/joboutputs/{file}", machine.name());
    let server = (factory.port, &PKI.ca.cert);
    let answer = client::request(server, Some(&PKI.vm), ("PUT", &path), text);
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
}

#[test]
fn what_a_machine_wrote_outlives_its_directory_and_goes_when_its_time_has_come() {
    let factory = Factory::new();
    let keeps = "log_joboutputs = True\njoboutputs_days = 0.0003\nheartbeat_file = heartbeat";
    let space = "max_machines = 2\nsimulated_job_seconds = 6\ncleanup_hours = 0";
    configure(&factory, space, &[("atlas", keeps), ("lhcb", "")]);
    let daemon = factory.start();
    let of_kind = |kind: &str| {
        let mut machines = factory.machines().into_iter();
        machines.find(|m| m.name().starts_with(&format!("vcycle-{kind}-")))
    };
    let machine = until("a machine", || of_kind("atlas"));
    machine.wait_for("started");
    put(&factory, &machine, "log.txt", "first\n");
    put(&factory, &machine, "log.txt", "second\n");
    let log = fs::metadata(machine.0.join("joboutputs/log.txt")).unwrap();
    let place = copy_of(&factory, "atlas", &machine);
    assert!(!place.exists(), "it has not finished");
    until("the copy is there", || place.exists().then_some(()));
    let mut names: Vec<_> = entries(&place)
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["heartbeat", "log.txt", "shutdown_message"]);
    let read = |file: &str| fs::read_to_string(place.join(file)).unwrap();
    assert_eq!(read("log.txt"), "second\n");
    assert_eq!(read("shutdown_message"), "200 Success");
    let copied = fs::metadata(place.join("log.txt")).unwrap();
    assert_eq!(copied.ino(), log.ino(), "a link takes no room");
    assert_eq!(copied.permissions().mode() & 0o777, 0o644);
    assert_eq!((copied.mtime(), copied.uid()), (log.mtime(), log.uid()));
    until("its directory goes", || (!machine.0.exists()).then_some(()));
    assert_eq!(read("log.txt"), "second\n");
    assert!(!factory.state(&format!("joboutputs/{SPACE}/lhcb")).exists());

    // The machinetype leaves the configuration: its copies go all the same, and its directory too.
    configure(&factory, space, &[("lhcb", "")]);
    until("the copies are removed", || {
        (!factory.state(&format!("joboutputs/{SPACE}")).exists()).then_some(())
    });
    until("it is told", || factory.log_lines("removed 1 old").pop());
    assert!(factory.log_lines("ERROR").is_empty());
    daemon.end();
}

#[test]
fn a_full_disk_for_copies_keeps_nothing_else() {
    let factory = Factory::new();
    fs::create_dir_all(factory.state("")).unwrap();
    let Some(disk) = SmallDisk::mount(factory.state("joboutputs")) else {
        return;
    };
    let space = "max_machines = 2\nsimulated_job_seconds = 8\ncleanup_hours = 1";
    configure(&factory, space, &[("atlas", "log_joboutputs = True")]);
    disk.fill();
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("started");
    put(&factory, &machine, "log.txt", &"x".repeat(100_000));
    machine.wait_for("finished");
    let told = || factory.log_lines("cannot copy joboutputs to");
    until("it is told", || told().pop());
    // Others are created, end and are accounted for meanwhile.
    until("others end", || {
        (factory.records("apel-archive").len() > 1).then_some(())
    });
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(told().len(), 1, "said once: {:?}", told());
    assert!(told()[0].contains("No space left"), "{:?}", told());
    assert_eq!(machine.read("logged"), None);
    disk.make_room();
    machine.wait_for("logged");
    let place = copy_of(&factory, "atlas", &machine);
    let copied = fs::read(place.join("log.txt")).unwrap();
    assert_eq!(copied, "x".repeat(100_000).as_bytes());
    let original = fs::metadata(machine.0.join("joboutputs/log.txt")).unwrap();
    let copied = fs::metadata(place.join("log.txt")).unwrap();
    assert_ne!(original.dev(), copied.dev(), "it is a disk of its own");
    assert_eq!(original.mtime(), copied.mtime());
    until("it is told", || {
        factory.log_lines("joboutputs can be copied again").pop()
    });
    daemon.end();
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_whole_copies() {
    const KILLS: usize = 20;
    let mut rng = factory::kills();
    let factory = Factory::new();
    let space = "max_machines = 40\nsimulated_machines = 40\nsimulated_job_seconds = 4";
    let keeps = |share: u32| format!("target_share = {share}\nlog_joboutputs = True");
    configure(&factory, space, &[("atlas", &keeps(1))]);
    for _ in 0..KILLS {
        let daemon = factory.spawn(factory.command(&["run"]));
        std::thread::sleep(Duration::from_millis(rng.random_range(100..1500)));
        daemon.kill();
    }
    let daemon = factory.start();
    configure(&factory, space, &[("atlas", &keeps(0))]);
    until("all that ended are copied", || {
        let machines = factory.machines();
        let ended = machines.iter().filter(|m| m.read("uuid").is_some());
        ended
            .into_iter()
            .all(|m| m.read("logged").is_some())
            .then_some(())
    });
    daemon.end();
    let mut copies = 0;
    for machine in factory.machines() {
        let outputs = entries(&machine.0.join("joboutputs"));
        let place = copy_of(&factory, "atlas", &machine);
        assert_eq!(place.exists(), !outputs.is_empty(), "{machine:?}");
        for file in &outputs {
            let name = file.file_name().unwrap();
            assert_eq!(fs::read(file).unwrap(), fs::read(place.join(name)).unwrap());
        }
        assert_eq!(entries(&place).len(), outputs.len());
        copies += usize::from(place.exists());
    }
    let places = entries(&factory.state(&format!("joboutputs/{SPACE}/atlas")));
    assert_eq!(
        places.len(),
        copies,
        "nothing half made is left: {places:?}"
    );
    assert!(copies >= 3, "{copies}");
    eprintln!("{copies} copies");
}
