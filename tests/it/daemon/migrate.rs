//! `vcycled migrate`: trees as GridPP's Vcycle wrote them, with VMs of the embedded cloud that run on.
//!
//! The files of a machine are those that the sources of Vcycle write: 02 in `machines/NAME`, 0.8 with
//! fewer, and 03 in `shared/machines/current/SPACE/NAME`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::factory::{DN, FACTORY, Factory, SPACE, entries, until};

const SITE: &str = "TEST-SITE";
/// How many machines run when the old daemon is stopped.
pub const MACHINES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Version {
    /// 0.8: no times but those of its life, old spellings of Machine/Job Features.
    V08,
    /// 01 and 02.
    V02,
    /// The shared tree.
    V03,
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A VM of the old daemon, as the cloud has it.
pub struct Vm {
    pub name: String,
    pub id: String,
    pub started: u64,
}

pub fn write(path: &Path, text: impl ToString) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text.to_string()).unwrap();
}

/// Where a version has the directory of a machine.
pub fn place(factory: &Factory, version: Version, name: &str) -> PathBuf {
    match version {
        Version::V08 | Version::V02 => factory.state("machines").join(name),
        Version::V03 => factory
            .state("shared/machines/current")
            .join(SPACE)
            .join(name),
    }
}

/// The directory of a machine as that version writes it.
pub fn old_machine(
    factory: &Factory,
    version: Version,
    name: &str,
    started: u64,
    id: &str,
) -> PathBuf {
    let dir = place(factory, version, name);
    let (created, end) = (started - 2, started + 86_400);
    let file = |name: &str, text: String| write(&dir.join(name), text);
    file("machinetype_name", "atlas".to_owned());
    file("space_name", SPACE.to_owned());
    file("user_data", format!("#!/bin/sh\n# {name} password\n"));
    file("started", started.to_string());
    fs::create_dir_all(dir.join("joboutputs")).unwrap();
    file("machinefeatures/jobslots", "1".to_owned());
    file("jobfeatures/wall_limit_secs", "86400".to_owned());
    file("jobfeatures/cpu_limit_secs", "86400".to_owned());
    if version == Version::V08 {
        file("machinefeatures/shutdown_time", end.to_string());
        file("jobfeatures/shutdown_time_job", end.to_string());
        file("machinefeatures/log_cores", "1".to_owned());
        file("machinefeatures/hs06", "None".to_owned());
        file("jobfeatures/allocated_CPU", "1".to_owned());
        return dir;
    }
    file("created", created.to_string());
    file("updated", started.to_string());
    file("machinefeatures/total_cpu", "1".to_owned());
    file("jobfeatures/allocated_cpu", "1".to_owned());
    file("jobfeatures/max_rss_bytes", "2147483648".to_owned());
    file("jobfeatures/shutdowntime_job", end.to_string());
    if version == Version::V02 {
        file("machinefeatures/shutdown_time", end.to_string());
        file("jobfeatures/jobstart_secs", created.to_string());
    } else {
        file("manager", FACTORY.to_owned());
        file("https_x509dn", DN.to_owned());
        file("machinefeatures/shutdowntime", end.to_string());
        // As the source has it.
        file("jobfeatures/jobstart_secs", id.to_owned());
    }
    dir
}

/// An ended machine of the old daemon; with its record, if it had written one.
pub fn ended(factory: &Factory, version: Version, name: &str, recorded: bool) {
    let stopped = now() - 600;
    let started = stopped - 4000;
    let id = format!("0000-{name}");
    let dir = old_machine(factory, version, name, started, &id);
    write(&dir.join("stopped"), stopped);
    if recorded {
        let text = format!(
            "APEL-individual-job-message: v0.3\nSite: {SITE}\nSubmitHost: {SPACE}/vcycle-{FACTORY}\n\
             LocalJobId: {id}\nLocalUserId: {name}\nQueue: atlas\nWallDuration: 4000\n\
             StartTime: {started}\nEndTime: {stopped}\n%%\n"
        );
        let day = day_of(stopped);
        write(
            &factory.state(&format!("apel-archive/{day}/00000012345678")),
            text,
        );
    }
}

/// The directory of a day.
fn day_of(time: u64) -> String {
    let time = vcycle::model::Timestamp::from_unix(time).to_rfc3339();
    time[..10].replace('-', "")
}

pub fn configuration(factory: &Factory, share: u32, seconds: u64) {
    let space = format!(
        "max_machines = {MACHINES}\ngocdb_sitename = {SITE}\nsimulated_job_seconds = {seconds}\n{}",
        factory.vm_certificate()
    );
    let machinetype = format!(
        "target_share = {share}\nheartbeat_file = heartbeat\nheartbeat_seconds = 3600\n\
         accounting_fqan = /atlas"
    );
    let machinetype =
        factory
            .machinetype(SPACE, "atlas", &machinetype)
            .replacen("target_share = 1\n", "", 1);
    factory.conf("space", &(factory.space(SPACE, &space) + &machinetype));
}

/// A site of which the old daemon had made machines, which run: made by ours, whose directories then
/// give way to those that `version` would have written.
pub fn old_site(version: Version) -> (Factory, Vec<Vm>) {
    let factory = Factory::new();
    configuration(&factory, 1, 20);
    let daemon = factory.start();
    let machines = until("the machines run", || {
        let machines = factory.machines();
        let started = machines
            .iter()
            .all(|machine| machine.time("started").is_some());
        (machines.len() == MACHINES && started).then_some(machines)
    });
    daemon.kill();
    let vms: Vec<Vm> = machines
        .iter()
        .map(|machine| Vm {
            name: machine.name().to_owned(),
            id: machine.read("uuid").unwrap(),
            started: machine.time("started").unwrap(),
        })
        .collect();
    for name in ["machines", "spaces", "tmp", "heartbeatlists"] {
        let _ = fs::remove_dir_all(factory.state(name));
    }
    for vm in &vms {
        old_machine(&factory, version, &vm.name, vm.started, &vm.id);
    }
    // What the old daemon said of its VMs to the cloud.
    let file = factory.state(&format!("simulated/{SPACE}.json"));
    let mut cloud: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for server in cloud["servers"].as_array_mut().unwrap() {
        let metadata = server["metadata"].as_object_mut().unwrap();
        if version == Version::V03 {
            for url in metadata.values_mut() {
                let text = url.as_str().unwrap();
                *url = json!(text.replace("/machines/", &format!("/machines/{SPACE}/")));
            }
        } else {
            metadata.remove("manager");
            metadata.remove("space");
        }
    }
    fs::write(&file, cloud.to_string()).unwrap();
    write(
        &factory.state("VERSION"),
        match version {
            Version::V08 => "VERSION=0.8.0\n",
            Version::V02 => "VERSION=02.00.00\n",
            Version::V03 => "VERSION=03.00.00\n",
        },
    );
    (factory, vms)
}

/// All files below a directory with what is in them.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in entries(root) {
        if path.is_dir() {
            found.extend(tree(&path));
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// The reasons of what was destroyed, and the machines that were made.
fn destroyed_and_created(factory: &Factory, since: u64) -> (Vec<String>, usize) {
    let events = factory
        .run(&["events", "--json", "--since", &since.to_string()])
        .out;
    let events: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event["event"] == kind)
            .collect::<Vec<_>>()
    };
    let reasons = of("destroyed")
        .iter()
        .map(|event| event["reason"].to_string())
        .collect();
    (reasons, of("created").len())
}

fn taken_over(version: Version) {
    let (factory, vms) = old_site(version);
    let (known, lost) = ("vcycle-atlas-aaaaaaaaaa", "vcycle-atlas-bbbbbbbbbb");
    ended(&factory, version, known, true);
    ended(&factory, version, lost, false);
    // The archive reaches back: what is not in it was not written.
    write(
        &factory.state("apel-archive/20200101/00000000000001"),
        "APEL-individual-job-message: v0.3\nSite: x\nSubmitHost: x\nLocalJobId: x\nEndTime: 1577836800\n%%\n",
    );
    let abort = now() - 5000;
    if version == Version::V03 {
        write(
            &factory.state(&format!("shared/last_abort_times/{SPACE}/atlas")),
            abort,
        );
        write(
            &factory.state(&format!("shared/heartbeatmachines/{SPACE}/atlas")),
            "",
        );
        write(
            &factory.state(&format!(
                "shared/machines/deleted/{SPACE}/vcycle-atlas-cccccccccc/started"
            )),
            5,
        );
    }

    // Nothing changes without --apply.
    let before = tree(&factory.state(""));
    let report = factory.run(&["migrate"]);
    assert_eq!(report.code, Some(0), "{report:?}");
    assert_eq!(tree(&factory.state("")), before, "a report changes nothing");
    assert!(
        report.out.contains("nothing has been changed"),
        "{report:?}"
    );
    for vm in &vms {
        let line = report
            .out
            .lines()
            .find(|line| line.contains(&vm.name))
            .unwrap();
        assert!(line.contains("at its end"), "{line}");
    }
    let line = |name: &str| {
        let line = report.out.lines().find(|line| line.contains(name));
        line.unwrap().to_owned()
    };
    assert!(line(known).contains("written before"), "{report:?}");
    assert!(line(lost).contains("missing, is written"), "{report:?}");
    assert!(!report.out.contains("password"), "{report:?}");

    let begun = now();
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(
        applied.out.contains("taken over: 5 machine(s)"),
        "{applied:?}"
    );
    assert!(!factory.state("migrated/begun").exists());
    let again = factory.run(&["migrate", "--apply"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let words = if version == Version::V03 {
        "taken over: 0 machine(s)"
    } else {
        "there is nothing to take over"
    };
    assert!(again.out.contains(words), "{again:?}");
    assert!(
        again.out.contains("5 machine(s) in our layout already"),
        "{again:?}"
    );
    // What was changed is there as it was.
    for (path, bytes) in &before {
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if ["updated", "user_data"].contains(&file) {
            let machine = path.parent().unwrap().file_name().unwrap();
            let kept = factory.state("migrated").join(machine).join(file);
            assert_eq!(&fs::read(&kept).unwrap(), bytes, "{}", kept.display());
        }
    }

    // No more are made, so that all that ends is what was taken over.
    configuration(&factory, 0, 20);
    let daemon = factory.start();
    let dirs = factory.machines();
    assert_eq!(dirs.len(), MACHINES + 2);
    for vm in &vms {
        let machine = dirs
            .iter()
            .find(|machine| machine.name() == vm.name)
            .unwrap();
        assert_eq!(machine.wait_for("uuid"), vm.id);
        machine.wait_for("finished");
        assert_eq!(machine.time("started"), Some(vm.started));
        assert_eq!(machine.read("https_x509dn").as_deref(), Some(DN));
        // Its last words reached us at the URL that it was told.
        assert_eq!(
            machine
                .wait_for("joboutputs/shutdown_message")
                .split(' ')
                .next(),
            Some("200")
        );
        assert!(machine.read("joboutputs/heartbeat").is_some());
    }
    let lost_one = dirs.iter().find(|machine| machine.name() == lost).unwrap();
    lost_one.wait_for("finished");
    factory.wait_for_scans(SPACE, 4);
    daemon.end();

    let (reasons, created) = destroyed_and_created(&factory, begun);
    assert!(
        reasons
            .iter()
            .all(|reason| reason.contains("stopped") || reason.contains("shut")),
        "{reasons:?}"
    );
    assert_eq!(created, 0);
    // One record each, and that of the old daemon alone.
    let records = factory.records("apel-archive");
    let of = |text: &str| {
        records
            .iter()
            .filter(|(_, record)| record.contains(text))
            .count()
    };
    for vm in &vms {
        assert_eq!(of(&format!("\nLocalJobId: {}\n", vm.id)), 1, "{}", vm.name);
    }
    assert_eq!(
        of(&format!("\nLocalUserId: {known}\n")) + of(&format!("\nLocalJobId: {known}\n")),
        1
    );
    let lost_id = if version == Version::V03 {
        format!("0000-{lost}")
    } else {
        lost.to_owned()
    };
    assert_eq!(of(&format!("\nLocalJobId: {lost_id}\n")), 1);
    assert_eq!(records.len(), 1 + vms.len() + 2);
    let queued = factory.records("apel-outgoing");
    assert_eq!(queued.len(), vms.len() + 1, "those that ours has written");
    if version == Version::V03 {
        let file = format!("spaces/{SPACE}/machinetypes/atlas/last_abort_time");
        assert_eq!(
            fs::read_to_string(factory.state(&file)).unwrap(),
            abort.to_string()
        );
    }
    for word in ["ERROR", "taken over"] {
        let bad = factory.log_lines(word);
        assert!(bad.is_empty(), "{bad:?}");
    }
}

#[test]
fn machines_of_08_are_taken_over() {
    taken_over(Version::V08);
}

#[test]
fn machines_of_02_are_taken_over() {
    taken_over(Version::V02);
}

#[test]
fn machines_of_03_are_taken_over() {
    taken_over(Version::V03);
}

#[test]
fn a_machine_that_vanished_meanwhile_ran_until_the_old_daemon_last_looked() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let (name, seen) = ("vcycle-atlas-aaaaaaaaaa", now() - 300);
    old_machine(&factory, Version::V03, name, seen - 3000, "0000-1");
    let list = factory.state(&format!("shared/heartbeatmachines/{SPACE}/atlas"));
    write(&list, "");
    let time = UNIX_EPOCH + Duration::from_secs(seen);
    fs::File::options()
        .write(true)
        .open(&list)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(
        applied.out.contains("by its lists of heartbeats"),
        "{applied:?}"
    );
    let daemon = factory.start();
    let machine = factory.machines().pop().unwrap();
    machine.wait_for("finished");
    daemon.end();
    let records = factory.records("apel-archive");
    assert_eq!(records.len(), 1);
    assert!(
        records[0].1.contains("\nWallDuration: 3000\n"),
        "{}",
        records[0].1
    );
    assert!(
        records[0].1.contains("\nLocalJobId: 0000-1\n"),
        "{}",
        records[0].1
    );
}

#[test]
fn nothing_is_taken_over_beside_a_daemon_or_without_a_good_configuration() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let name = "vcycle-atlas-aaaaaaaaaa";
    old_machine(&factory, Version::V03, name, now() - 3000, "0000-1");
    let old = place(&factory, Version::V03, name);
    // The old daemon, as far as can be told from outside.
    let script = factory.path("vcycled");
    fs::write(&script, "import time\ntime.sleep(60)\n").unwrap();
    let mut running = Command::new("python3")
        .arg(&script)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = factory.path("vcycled.pid");
    fs::write(&pid_file, format!("{}\n", running.id())).unwrap();
    let arguments = [
        "migrate",
        "--apply",
        "--pid-file",
        pid_file.to_str().unwrap(),
    ];
    // Between fork and exec it is still this program, and then perhaps a script that finds Python.
    until("it runs", || {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", running.id())).unwrap();
        let second = line.split('\0').nth(1).map(str::to_owned);
        (second.as_deref() == script.to_str()).then_some(())
    });
    let refused = factory.run(&arguments);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    assert!(
        refused.err.contains("the old vcycled runs as process"),
        "{refused:?}"
    );
    assert!(old.exists());
    let report = factory.run(&["migrate", "--pid-file", pid_file.to_str().unwrap()]);
    assert!(report.out.contains("stop it before --apply"), "{report:?}");
    running.kill().unwrap();
    running.wait().unwrap();

    // One of ours that cannot be asked what it does.
    let daemon = factory.start();
    fs::remove_file(factory.state("vcycled.sock")).unwrap();
    let refused = factory.run(&arguments);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    assert!(
        refused.err.contains("in use by another vcycled"),
        "{refused:?}"
    );
    daemon.end();

    let good = fs::read_to_string(factory.path("etc/vcycle.d/space.conf")).unwrap();
    factory.conf(
        "space",
        &good.replace(
            "fizzle_seconds = 3\n",
            "fizzle_seconds = soon\nmax_machine = 3\n",
        ),
    );
    for arguments in [&["migrate"][..], &arguments] {
        let refused = factory.run(arguments);
        assert_eq!(refused.code, Some(78), "{refused:?}");
        let file = factory.path("etc/vcycle.d/space.conf");
        let place = format!("{}:", file.display());
        assert!(
            refused.out.contains(&place) && refused.out.contains("fizzle_seconds"),
            "{refused:?}"
        );
    }
    assert!(old.exists());
    assert!(factory.machines().is_empty());
}

#[test]
fn what_cannot_be_taken_over_is_said_and_left() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let name = |n: u32| format!("vcycle-atlas-aaaaaaaaa{n}");
    let dir = |n| old_machine(&factory, Version::V03, &name(n), now() - 50, "0000-1");
    fs::write(dir(1).join("manager"), "other.example.org").unwrap();
    fs::remove_file(dir(2).join("space_name")).unwrap();
    fs::remove_file(dir(3).join("manager")).unwrap();
    dir(4);
    // Ours has made a directory of it already.
    dir(6);
    write(
        &factory.state("machines").join(name(6)).join("manager"),
        FACTORY,
    );
    write(
        &factory.state(&format!(
            "shared/machines/current/{SPACE}/something/created"
        )),
        1,
    );
    let old = old_machine(&factory, Version::V08, &name(5), now() - 50, "");
    fs::rename(old.join("machinetype_name"), old.join("vmtype_name")).unwrap();
    let applied = factory.run(&["migrate", "--apply"]);
    assert_eq!(applied.code, Some(65), "{applied:?}");
    for why in [
        "is looked after by other.example.org",
        "has no space_name",
        "has no manager",
        "something: left as it is",
        "was made by a version before 0.6",
        "is there already, and of ours",
    ] {
        assert!(applied.out.contains(why), "{why}: {applied:?}");
    }
    for n in [1, 2, 3, 6] {
        assert!(place(&factory, Version::V03, &name(n)).exists(), "{n}");
    }
    assert!(old.join("vmtype_name").exists() && !old.join("manager").exists());
    let taken = factory.state("machines").join(name(4));
    assert!(taken.join("uuid").exists() && !place(&factory, Version::V03, &name(4)).exists());
}

/// A tree that several factories shared may be elsewhere; nothing is begun that cannot be ended.
#[test]
fn a_tree_on_another_file_system_is_refused_before_anything_is_begun() {
    let elsewhere = tempfile::tempdir_in("/dev/shm");
    let factory = Factory::new();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let Some(elsewhere) = elsewhere
        .ok()
        .filter(|dir| device(dir.path()) != device(&factory.path("")))
    else {
        println!("skipped: there is no second file system");
        return;
    };
    configuration(&factory, 0, 5);
    fs::create_dir(factory.state("")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), factory.state("shared")).unwrap();
    let name = "vcycle-atlas-aaaaaaaaaa";
    old_machine(&factory, Version::V03, name, now() - 50, "0000-1");
    let refused = factory.run(&["migrate", "--apply"]);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    assert!(
        refused.err.contains("is on another file system"),
        "{refused:?}"
    );
    assert!(place(&factory, Version::V03, name).exists());
    assert!(!factory.state("migrated").exists());
}

/// Killed at any moment, it is begun again, and no daemon starts in between.
#[test]
fn a_migration_that_is_cut_off_is_gone_on_with() {
    let factory = Factory::new();
    configuration(&factory, 0, 5);
    let names: Vec<String> = (0..60)
        .map(|n| format!("vcycle-atlas-aaaaaaaa{n:02}"))
        .collect();
    for (n, name) in names.iter().enumerate() {
        let version = if n % 2 == 0 {
            Version::V02
        } else {
            Version::V03
        };
        old_machine(&factory, version, name, now() - 5000, &format!("0000-{n}"));
    }
    let done = |name: &String| {
        let dir = factory.state("machines").join(name);
        dir.join("manager").exists()
    };
    let mut cut_off = 0;
    for wait in [5, 10, 20, 40, 60, 90] {
        let mut command = factory.command(&["migrate", "--apply"]);
        let mut running = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before = names.iter().filter(|name| done(name)).count();
        // Not before it has begun with the machines, and not at the same place each time.
        until("it is at work", || {
            let ended = running.try_wait().unwrap().is_some();
            let count = names.iter().filter(|name| done(name)).count();
            (ended || count > before).then_some(())
        });
        std::thread::sleep(Duration::from_millis(wait));
        running.kill().unwrap();
        running.wait().unwrap();
        if factory.state("migrated/begun").exists() {
            cut_off += 1;
            let daemon = factory.run(&["run"]);
            assert_eq!(daemon.code, Some(74), "{daemon:?}");
            assert!(daemon.err.contains("a migration was begun"), "{daemon:?}");
        }
    }
    println!("cut off {cut_off} times");
    let last = factory.run(&["migrate", "--apply"]);
    assert_eq!(last.code, Some(0), "{last:?}");
    assert!(names.iter().all(done));
    for (n, name) in names.iter().enumerate() {
        let dir = factory.state("machines").join(name);
        assert!(!dir.join("updated").exists(), "{name}");
        let kept: Value = serde_json::from_slice(
            &fs::read(factory.state("migrated").join(name).join("migration.json")).unwrap(),
        )
        .unwrap();
        assert_eq!(
            kept["removed"],
            json!(["updated"]),
            "{name}: what was there at first is kept"
        );
        assert!(
            factory
                .state("migrated")
                .join(name)
                .join("updated")
                .exists()
        );
        if n % 2 == 1 {
            assert_eq!(
                fs::read_to_string(dir.join("uuid")).unwrap(),
                format!("0000-{n}")
            );
        }
    }
    let daemon = factory.start();
    daemon.end();
}

/// Options that mean something else now, or nothing, are told with their places.
#[test]
fn options_of_old_versions_are_told_with_their_places() {
    let factory = Factory::new();
    let space = "max_machines = 3\nusercert = cert.pem\ngocdb_cert_file = /c\n";
    let machinetype = "disk_gb_per_processor = 20\njoboutputs_days = 2\nprocessors_per_machine = 2";
    let text = factory.space(SPACE, space) + &factory.machinetype(SPACE, "atlas", machinetype);
    factory.conf("space", &text);
    let told = |version: &str| {
        write(&factory.state("VERSION"), format!("VERSION={version}\n"));
        factory.run(&["migrate"]).out
    };
    let report = told("03.00.00");
    let file = factory.path("etc/vcycle.d/space.conf");
    for (option, words) in [
        (
            "max_machines = 3",
            "max_machines counts here; Vcycle 03.00.00 did not look at it",
        ),
        ("usercert = ", "usercert is not used"),
        (
            "gocdb_cert_file = ",
            "gocdb_cert_file was for telling the GOCDB",
        ),
        (
            "disk_gb_per_processor = ",
            "disk_gb_per_processor is not used",
        ),
        ("joboutputs_days = ", "joboutputs_days counts here"),
        (
            "processors_per_machine = ",
            "processors_per_machine is read as cpu_per_machine",
        ),
        ("flavor_name = ", "flavor_name is read as flavor_names"),
    ] {
        let line = text.lines().position(|line| line.starts_with(option));
        let place = format!("{}:{}: [", file.display(), line.unwrap() + 1);
        let told = report
            .lines()
            .any(|line| line.contains(&place) && line.contains(words));
        assert!(told, "{place} {words}: {report}");
    }
    let report = told("0.8.0");
    assert!(!report.contains("did not look at it"), "{report}");
    assert!(!report.contains("URLs without /machines"), "{report}");
    assert!(told("0.7.0").contains("URLs without /machines"));
}
