//! Bad input: all of it is told at once with its place, and harms nothing that runs.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use super::factory::{Ended, Factory, SPACE, until};

/// Asserts that what is said has, for each file, all these problems at these lines.
fn assert_told(said: &Ended, expected: &[(&Path, &[&str])]) {
    assert_eq!(said.code, Some(78), "{said:?}");
    for (file, problems) in expected {
        for problem in *problems {
            let line = format!("{}{problem}", file.display());
            assert!(
                said.err.contains(&line),
                "missing: {line}\nin: {}",
                said.err
            );
        }
    }
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let factory = Factory::new();
    let bad = "\
[space example.org]
api = simulated
max_machines = lots
https_prot = 443

[machinetype example.org atlas]
target_share = 1
fizzle_seconds = 10m
log_joboutputs = maybe
heartbeat_file = ../x

[machinetype example.com atlas]
backoff_seconds = 1
fizzle_seconds = 1
user_data = x

[blob x]
a = b
";
    // Sections of one name are one: the last value counts, and it is the one that is wrong.
    let again = "[Space Example.org]\nMAX_MACHINES = 3\n[machinetype example.org atlas]\n\
                 target_share = 2\ntarget_share = -2\n";
    factory.conf("10-bad", bad);
    factory.conf("20-again", again);
    factory.conf("30-syntax", "stray = 1\n[space a.org]\nno value here\n[]\n");
    factory.conf(
        "40-openstack",
        "[space o.org]\napi = openstack\npassword_base64 = %%%SECRET\n",
    );
    factory.write(
        "etc/vcycle.d/50-junk.conf",
        b"\x7fELF\0\x01[\x80]\n=\n\xff\xff\n",
    );
    fs::create_dir(factory.path("etc/vcycle.d/60-directory.conf")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", factory.path("etc/vcycle.d/70-link.conf")).unwrap();
    factory.server("listen = here\n");

    let file = |name: &str| factory.path(&format!("etc/vcycle.d/{name}.conf"));
    let (bad, again, syntax) = (file("10-bad"), file("20-again"), file("30-syntax"));
    let (openstack, junk) = (file("40-openstack"), file("50-junk"));
    let (directory, link) = (file("60-directory"), file("70-link"));
    let conf = factory.path("etc/vcycle.conf");
    let expected: [(&Path, &[&str]); 8] = [
        (
            &bad,
            &[
                ":4: warning: [space example.org] unknown option \"https_prot\"; did you mean \"https_port\"?",
                ":6: [machinetype example.org atlas] backoff_seconds is missing",
                ":6: [machinetype example.org atlas] user_data is missing",
                ":8: [machinetype example.org atlas] fizzle_seconds = \"10m\": expected whole seconds\n  help: write 600",
                ":9: [machinetype example.org atlas] log_joboutputs = \"maybe\": ",
                ":10: [machinetype example.org atlas] heartbeat_file = \"../x\": ",
                ":12: [machinetype example.com atlas] there is no [space example.com]",
                ":17: [blob x] unknown kind of section",
            ],
        ),
        (
            &again,
            &[":5: [machinetype example.org atlas] target_share = \"-2\": "],
        ),
        (
            &syntax,
            &[
                ":1: stands before",
                ":2: [space a.org] api is missing",
                ":3: ",
                ":4: ",
            ],
        ),
        (
            &openstack,
            &[
                ":1: [space o.org] url is missing",
                ":1: [space o.org] username is missing",
                ":1: [space o.org] has no machinetype",
                ":3: [space o.org] password_base64",
            ],
        ),
        (&junk, &[": is not a text file"]),
        (&directory, &[": cannot be read: is a directory"]),
        (
            &link,
            &[": is a symbolic link to a file that does not exist"],
        ),
        (&conf, &[":6: [server] listen = \"here\": "]),
    ];
    let said = factory.run(&["run"]);
    assert_told(&said, &expected);
    // The max_machines of the first file is not the one that counts.
    assert!(!said.err.contains("lots"), "{}", said.err);
    assert!(!said.err.contains("SECRET"), "{}", said.err);
    assert!(
        said.err
            .ends_with("vcycled: the configuration has errors; not started\n")
    );
    assert!(!factory.state("").exists(), "nothing may be touched");

    let checked = factory.run(&["check"]);
    assert_told(&checked, &expected);
    let planned = factory.run(&["plan"]);
    assert_told(&planned, &expected);
    assert!(!factory.state("").exists(), "nothing may be touched");
}

#[test]
fn nothing_to_read_is_an_error_too() {
    let factory = Factory::new();
    let nowhere = |what: &str| {
        for command in ["run", "check", "plan"] {
            let said = factory.run(&[command]);
            assert_eq!(said.code, Some(78), "{command}: {said:?}");
            assert!(said.err.contains(what), "{command}: {said:?}");
        }
    };
    nowhere("there is no space in the configuration");
    factory.write("etc/vcycle.conf", "");
    nowhere("there is no space in the configuration");
    fs::remove_file(factory.path("etc/vcycle.conf")).unwrap();
    fs::remove_dir(factory.path("etc/vcycle.d")).unwrap();
    nowhere("there is no configuration: neither ");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    // Permissions do not hold root back; a loop of symbolic links holds everybody back.
    let factory = Factory::with_space("max_machines = 1", "");
    let link = factory.path("etc/vcycle.d/90-loop.conf");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    let said = factory.run(&["run"]);
    assert_told(&said, &[(&link, &[": "])]);
}

#[test]
fn a_command_line_that_is_not_understood_is_64() {
    let factory = Factory::with_space("max_machines = 1", "");
    for arguments in [
        &["rum"][..],
        &["--nothing"],
        &["plan", "a", "b"],
        &["plan", "Not A Name"],
        &["plan", "other.org"],
        &["plan", "--snapshot", "a", "--dump-snapshot", "b"],
        &["check", "--print", "--json"],
        &["--factory", "no spaces allowed"],
    ] {
        let said = factory.run(arguments);
        assert_eq!(said.code, Some(64), "{arguments:?}: {said:?}");
        assert!(!said.err.is_empty());
    }
    let help = factory.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("vcycled check"), "{help:?}");
}

#[test]
fn a_running_daemon_goes_on_with_the_last_good_configuration() {
    let factory = Factory::with_space("max_machines = 1", "");
    let good = fs::read(factory.path("etc/vcycle.d/space.conf")).unwrap();
    let daemon = factory.start();
    let first = until("a machine", || factory.machines().pop());

    // Broken in a way that would end the machine if it counted.
    let broken = String::from_utf8_lossy(&good).replace("fizzle_seconds = 3", "fizzle_seconds = x");
    factory.conf("space", &broken);
    let verdict = "the configuration has errors; going on with the last good one";
    until("the daemon says so", || factory.log_lines(verdict).pop());
    let place = format!("{}:", factory.path("etc/vcycle.d/space.conf").display());
    assert_eq!(factory.log_lines(&place).len(), 1);
    factory.wait_for_scans(SPACE, 3);
    // It goes on: the machine's start is noticed by a cycle that read the broken file.
    first.wait_for("started");

    let changed = String::from_utf8_lossy(&good).replace("max_machines = 1", "max_machines = 2");
    factory.conf("space", &changed);
    until("the change counts", || {
        (factory.machines().len() == 2).then_some(())
    });
    assert_eq!(factory.log_lines(verdict).len(), 1, "said once");
    assert_eq!(
        factory.log_lines("the configuration is good again").len(),
        1
    );
    assert_eq!(factory.log_lines("using a changed configuration").len(), 1);
    daemon.end();
}

#[test]
fn sighup_starts_one_cycle_now() {
    let factory = Factory::with_space("max_machines = 20", "");
    let mut command = factory.command(&["run"]);
    command
        .args(["--interval", "3600"])
        .env("VCYCLE_LOG", "debug");
    let daemon = factory.start_with(command);
    // 10 % of 20 a cycle.
    for cycle in 1..=10 {
        until("a cycle", || {
            (factory.servers(SPACE).len() >= 2 * cycle).then_some(())
        });
        let begun = factory.log_lines("asked for a cycle now").len();
        assert_eq!(begun, cycle - 1);
        daemon.signal(Signal::HUP);
        until("it is heard", || {
            (factory.log_lines("asked for a cycle now").len() == cycle).then_some(())
        });
    }
    until("the last cycle", || {
        (factory.log_lines(" decided ").len() > 10).then_some(())
    });
    daemon.end();
    assert_eq!(factory.log_lines(" decided ").len(), 11);
    assert_eq!(factory.machines().len(), 20);
}

#[test]
fn check_names_files_that_machines_are_made_from_and_that_are_not_there() {
    let factory = Factory::with_space("max_machines = 1", "user_data_file_key = gone.key");
    let idle = factory.machinetype(SPACE, "idle", "target_share = 0\nuser_data = /not/needed");
    factory.conf("idle", &idle);
    let told = |checked: &Ended| {
        assert_eq!(checked.code, Some(0), "only a warning: {checked:?}");
        let about = |line: &&str| line.starts_with("[machinetype ");
        let lines: Vec<_> = checked
            .err
            .lines()
            .filter(about)
            .map(str::to_owned)
            .collect();
        lines
    };
    let file = factory.state(&format!("spaces/{SPACE}/machinetypes/atlas/files/gone.key"));
    assert_eq!(
        told(&factory.run(&["check"])),
        [format!(
            "[machinetype {SPACE} atlas] user_data_file_key: {} does not exist; until it can be \
             read no machine of this kind is made",
            file.display()
        )]
    );
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "x").unwrap();
    assert_eq!(told(&factory.run(&["check"])), [""; 0]);
}
