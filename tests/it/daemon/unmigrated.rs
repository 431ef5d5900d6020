//! A daemon that is started before `vcycled migrate` has been there: it does nothing where machines
//! of an older version wait, says so everywhere, and goes on when they have been taken over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use super::factory::{Factory, SPACE, until};
use super::migrate::{
    MACHINES, Version, configuration, ended, now, old_machine, old_site, place, tree, write,
};
use crate::dashboard::browser::Browser;

/// A space beside it that has nothing old.
const OTHER: &str = "other.example.org";
/// What is to be run, as it has to be said wherever somebody looks.
const TOLD: &str =
    "run vcycled migrate to see what would be done, and then vcycled migrate --apply";

/// The events of one kind in the space.
fn events(factory: &Factory, kind: &str, since: u64) -> Vec<Value> {
    let since = since.to_string();
    let events = factory.run(&["events", "--json", "--since", &since]).out;
    let events = events.lines().map(serde_json::from_str::<Value>);
    let events = events.map(Result::unwrap);
    let events = events.filter(|event| event["space"] == SPACE && event["event"] == kind);
    events.collect()
}

/// Waits until a space that may not have been scanned yet has been, so many times.
fn wait_for_scans(factory: &Factory, space: &str, count: usize) {
    let file = factory.state(&format!("spaces/{space}/last_scan"));
    until("it is scanned", || file.exists().then_some(()));
    factory.wait_for_scans(space, count);
}

/// Everything that the old version has there.
fn old_files(factory: &Factory) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let places = ["machines", "shared"].map(|name| factory.state(name));
    let files = places.iter().flat_map(|place| tree(place));
    let of_other = |path: &Path| {
        let machine = path.strip_prefix(factory.state("machines")).ok();
        let machine = machine.and_then(|path| path.iter().next());
        machine.is_some_and(|name| name.to_string_lossy().starts_with("vcycle-lhcb-"))
    };
    files.filter(|(path, _)| !of_other(path)).collect()
}

/// On the page it is not the cloud that is at fault.
#[test]
fn the_dashboard_says_what_waits() {
    let (factory, _vms) = old_site(Version::V03);
    let daemon = factory.start();
    let browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/", factory.admin));
    let shown = browser.wait_for(".attention tbody tr", "not migrated");
    assert!(shown.contains("vcycled migrate"), "{shown}");
    daemon.end();
}

fn waits_and_goes_on(version: Version) {
    let (factory, vms) = old_site(version);
    let (known, lost) = ("vcycle-atlas-aaaaaaaaaa", "vcycle-atlas-bbbbbbbbbb");
    ended(&factory, version, known, true);
    ended(&factory, version, lost, false);
    write(
        &factory.state("apel-archive/20200101/00000000000001"),
        "APEL-individual-job-message: v0.3\nSite: x\nSubmitHost: x\nLocalJobId: x\nEndTime: 1577836800\n%%\n",
    );
    let other = factory.space(OTHER, "max_machines = 1\n")
        + &factory.machinetype(OTHER, "lhcb", "target_share = 1");
    factory.conf("other", &other);
    let (before, servers) = (old_files(&factory), factory.servers(SPACE));
    let begun = now();

    let checked = factory.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.err.contains(TOLD), "{checked:?}");
    let dry = factory.run(&["plan", SPACE]);
    assert_eq!(dry.code, Some(69), "{dry:?}");
    assert!(dry.err.contains(TOLD), "{dry:?}");

    // The machines of this space would have been destroyed after fizzle_seconds, which are 3: they
    // cannot write their heartbeats. There would have been room for others, too.
    let daemon = factory.start();
    wait_for_scans(&factory, OTHER, 8);
    assert_eq!(factory.servers(OTHER).len(), 1, "the other space goes on");
    assert_eq!(old_files(&factory), before);
    assert_eq!(factory.servers(SPACE), servers);
    assert!(!factory.state(&format!("spaces/{SPACE}/last_scan")).exists());
    for kind in ["created", "destroyed", "ended", "accounted"] {
        let events = events(&factory, kind, begun);
        assert!(events.is_empty(), "{events:?}");
    }
    let said = factory.log_lines(TOLD);
    assert_eq!(said.len(), 1, "once: {said:?}");
    let first = place(&factory, version, "vcycle-atlas-");
    for word in [
        "ERROR",
        SPACE,
        &format!("{} machine(s) of GridPP's Vcycle", MACHINES + 2),
        first.to_str().unwrap(),
        "nothing is created or destroyed",
    ] {
        assert!(said[0].contains(word), "{word}: {}", said[0]);
    }
    let health = factory.run(&["health"]);
    assert_eq!(health.code, Some(2), "{health:?}");
    let nobody = format!("space {SPACE}: nobody looks after its machines");
    assert!(health.out.contains(&nobody), "{health:?}");
    assert!(health.out.contains(TOLD), "{health:?}");
    for command in [
        &["status"][..],
        &["explain", SPACE],
        &["explain", SPACE, "--json"],
    ] {
        let told = factory.run(command);
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(told.out.contains(TOLD), "{told:?}");
        assert!(
            told.out.contains(first.to_str().unwrap()),
            "{command:?}: {told:?}"
        );
    }
    let status = factory.run(&["status", "--json"]).json();
    let waiting = &status["spaces"][SPACE]["waiting"];
    assert_eq!(waiting["machines"], MACHINES + 2, "{status}");

    // No more are made, so that all that ends is what was taken over.
    configuration(&factory, 0, 20);
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    until("it goes on", || {
        let lines = factory.log_lines("have been taken over, after");
        (!lines.is_empty()).then_some(())
    });
    let dirs = factory.machines();
    let find = |name: &str| dirs.iter().find(|dir| dir.name() == name).unwrap();
    for vm in &vms {
        let machine = find(&vm.name);
        machine.wait_for("finished");
        assert_eq!(machine.time("started"), Some(vm.started));
        let message = machine.wait_for("joboutputs/shutdown_message");
        assert_eq!(message.split(' ').next(), Some("200"), "{message}");
    }
    find(lost).wait_for("finished");
    wait_for_scans(&factory, SPACE, 4);
    let health = factory.run(&["health"]);
    assert!(!health.out.contains("GridPP"), "{health:?}");
    let status = factory.run(&["status"]);
    assert!(!status.out.contains("GridPP"), "{status:?}");
    let checked = factory.run(&["check"]);
    assert!(!checked.err.contains("GridPP"), "{checked:?}");
    daemon.end();

    for event in events(&factory, "destroyed", begun) {
        let reason = event["reason"].to_string();
        assert!(
            reason.contains("stopped") || reason.contains("shut"),
            "{event}"
        );
    }
    assert_eq!(events(&factory, "created", begun).len(), 0);
    let records = factory.records("apel-archive");
    let of = |text: &str| {
        let of_it = records.iter().filter(|(_, record)| record.contains(text));
        of_it.count()
    };
    for vm in &vms {
        assert_eq!(of(&format!("\nLocalJobId: {}\n", vm.id)), 1, "{}", vm.name);
    }
    assert_eq!(of(&format!("\nLocalUserId: {known}\n")), 1);
    assert_eq!(of(known), 1, "{records:?}");
    assert_eq!(of(lost), 1, "{records:?}");
    let errors = factory.log_lines("ERROR");
    assert_eq!(errors.len(), 1, "only that it waits: {errors:?}");
}

#[test]
fn nothing_is_done_before_machines_of_08_are_taken_over() {
    waits_and_goes_on(Version::V08);
}

#[test]
fn nothing_is_done_before_machines_of_02_are_taken_over() {
    waits_and_goes_on(Version::V02);
}

#[test]
fn nothing_is_done_before_machines_of_03_are_taken_over() {
    waits_and_goes_on(Version::V03);
}

/// A tree of 03 that is put there while the daemon runs, as from a backup.
#[test]
fn a_tree_that_appears_stops_its_space_and_no_other() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let name = "vcycle-atlas-aaaaaaaaaa";
    let daemon = factory.start();
    wait_for_scans(&factory, SPACE, 2);
    let scan = factory.state(&format!("spaces/{SPACE}/last_scan"));
    // Another factory's, and what no machine can be called, keep it from nothing.
    let other = old_machine(
        &factory,
        Version::V03,
        "vcycle-atlas-cccccccccc",
        now() - 50,
        "0-2",
    );
    fs::write(other.join("manager"), "other.example.org").unwrap();
    let current = format!("shared/machines/current/{SPACE}/something/created");
    write(&factory.state(&current), 1);
    wait_for_scans(&factory, SPACE, 2);
    old_machine(&factory, Version::V03, name, now() - 3000, "0000-1");
    until("it waits", || {
        (!factory.log_lines(TOLD).is_empty()).then_some(())
    });
    let scanned = fs::metadata(&scan).unwrap().modified().unwrap();
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(65), "the other factory's: {applied:?}");
    let machine = factory.machines().pop().unwrap();
    assert_eq!(machine.name(), name);
    // It vanished before anybody of ours looked, and the last to look here was our daemon.
    machine.wait_for("finished");
    wait_for_scans(&factory, SPACE, 2);
    assert!(fs::metadata(&scan).unwrap().modified().unwrap() > scanned);
    assert_eq!(factory.records("apel-archive").len(), 1);
    daemon.end();
    // What the migration has left keeps no later daemon from its work.
    let daemon = factory.start();
    wait_for_scans(&factory, SPACE, 2);
    daemon.end();
    assert_eq!(factory.log_lines(TOLD).len(), 1);
}

/// Where the daemon is at work, nothing is written beside it.
#[test]
fn a_daemon_that_does_not_wait_keeps_a_migration_off() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let daemon = factory.start();
    wait_for_scans(&factory, SPACE, 2);
    let abort = factory.state(&format!("shared/last_abort_times/{SPACE}/atlas"));
    write(&abort, now() - 50);
    let refused = factory.run(&["migrate", "--apply"]);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    assert!(
        refused.err.contains("is at work in the space"),
        "{refused:?}"
    );
    assert!(!factory.state("migrated").exists());
    daemon.end();
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let daemon = factory.start();
    let again = factory.run(&["migrate", "--apply"]);
    assert_eq!(again.code, Some(0), "nothing is news: {again:?}");
    daemon.end();
}

/// No crash leaves such directories in our trees; people and file systems may.
#[test]
fn damaged_directories_of_ours_are_not_taken_for_old_ones() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let dir = |n: u32| factory.state(&format!("machines/vcycle-atlas-aaaaaaaaa{n}"));
    let some = |n: u32, files: &[(&str, &str)]| {
        fs::create_dir_all(dir(n)).unwrap();
        for (file, text) in files {
            write(&dir(n).join(file), text);
        }
    };
    let created = (now() - 50).to_string();
    some(0, &[]);
    some(1, &[("created", &created)]);
    // In the order in which ours writes them.
    let names = [
        ("created", created.as_str()),
        ("machinetype_name", "atlas"),
        ("space_name", SPACE),
    ];
    some(2, &names);
    some(3, &names);
    some(3, &[("manager", ""), ("jobfeatures/wall_limit_secs", "5")]);
    some(4, &names);
    some(
        4,
        &[("fizzle_seconds", "3"), ("jobfeatures/allocated_cpu", "1")],
    );
    write(&dir(5), "no directory");
    let checked = factory.run(&["check"]);
    assert!(!checked.err.contains("GridPP"), "{checked:?}");
    let daemon = factory.start();
    wait_for_scans(&factory, SPACE, 2);
    daemon.end();
    assert!(factory.log_lines("GridPP").is_empty());
    // Nor does a migration touch them.
    let before = tree(&factory.state("machines"));
    let applied = factory.run(&["migrate", "--apply"]);
    assert!(matches!(applied.code, Some(0 | 65)), "{applied:?}");
    assert_eq!(tree(&factory.state("machines")), before);
    // One that has what 0.8 had is old.
    some(6, &names);
    some(6, &[("jobfeatures/allocated_CPU", "1")]);
    let checked = factory.run(&["check"]);
    assert!(
        checked.err.contains("1 machine(s) of GridPP's"),
        "{checked:?}"
    );
}

/// The old daemon ran as root, also after our package had given the state directory to its user.
#[test]
fn files_of_another_user_are_named_before_anything_is_begun() {
    const USER: u32 = 65_534;
    let factory = Factory::new();
    let chown = |path: &Path| std::os::unix::fs::chown(path, Some(USER), Some(USER));
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give files to another user");
        return;
    }
    configuration(&factory, 0, 5);
    let dir = old_machine(
        &factory,
        Version::V02,
        "vcycle-atlas-aaaaaaaaaa",
        now() - 50,
        "0-1",
    );
    // That user has to reach all that the program reads.
    let open =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(&factory.path(""), 0o755);
    for file in ["host.pem", "vm.pem"] {
        open(&factory.path("etc").join(file), 0o644);
    }
    open(&dir.join("created"), 0o600);
    chown(&factory.state("")).unwrap();
    chown(&factory.state("machines")).unwrap();
    let before = tree(&factory.state("machines"));
    let report = factory.run(&["migrate"]);
    if report.err.contains("cannot go on as the user") {
        println!("skipped: that user cannot reach the program");
        return;
    }
    let said = format!("first chown -R {USER} {}", factory.state("").display());
    let said = said.trim_end_matches('/');
    assert!(report.out.contains(said), "{report:?}");
    let refused = factory.run(&["migrate", "--apply"]);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    assert!(refused.err.contains(said), "{refused:?}");
    assert!(!factory.state("migrated").exists());
    assert_eq!(tree(&factory.state("machines")), before);
    let done = std::process::Command::new("chown")
        .args(["-R", &USER.to_string()])
        .arg(factory.state(""))
        .status();
    assert!(done.unwrap().success());
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
}
