//! `vcycled apel list | show | resend`, and the queue as dirq's own library sees it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::factory::{Factory, SPACE, until};

const SITE: &str = "TEST-SITE";
/// 2025-11-30T23:59:59Z
const END: u64 = 1_764_547_199;

fn record(id: &str, user: &str, end: u64) -> String {
    format!(
        "APEL-individual-job-message: v0.3\nSite: {SITE}\nSubmitHost: {SPACE}/vcycle-f\n\
         LocalJobId: {id}\nLocalUserId: {user}\nQueue: atlas\nWallDuration: 5000\n\
         Processors: 4\nStartTime: {}\nEndTime: {end}\nServiceLevelType: HEPSPEC\n\
         ServiceLevel: 1.0\n%%\n",
        end - 5000
    )
}

fn put(factory: &Factory, path: &str, text: &str) {
    let path = factory.state(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// `(record, state)` of all records, in order.
fn states(factory: &Factory, options: &[&str]) -> Vec<(String, String)> {
    let arguments = [&["apel", "list", "--json"], options].concat();
    let listed = factory.run(&arguments).json();
    let records = listed["records"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    records
        .iter()
        .map(|record| (text(&record["record"]), text(&record["state"])))
        .collect()
}

#[test]
fn what_the_daemon_writes_is_listed_shown_and_sent_again_once() {
    let factory = Factory::new();
    let space = format!(
        "max_machines = 1\nsimulated_job_seconds = 4\ngocdb_sitename = {SITE}\n{}",
        factory.vm_certificate()
    );
    let text = factory.space(SPACE, &space) + &factory.machinetype(SPACE, "atlas", "");
    factory.conf("space", &text);
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    let name = machine.name().to_owned();
    machine.wait_for("finished");
    daemon.kill();

    let listed = factory.run(&["apel", "list", "--machine", &name]).out;
    let line = listed.lines().nth(1).unwrap();
    assert!(
        line.contains("  waiting  ") && line.ends_with(&name),
        "{listed}"
    );
    assert!(listed.ends_with("\n1 record: 1 waiting\n"), "{listed}");
    let json = factory
        .run(&["apel", "list", "--json", "--machine", &name])
        .json();
    let record = &json["records"][0];
    assert_eq!(record["machine"], name.as_str());
    assert_eq!(record["space"], SPACE);
    assert_eq!(record["machinetype"], "atlas");
    assert_eq!(
        record["local_job_id"],
        machine.read("uuid").unwrap().as_str()
    );
    let record = record["record"].as_str().unwrap();

    // It still waits: it must not be there twice.
    let refused = factory.run(&["apel", "resend", "--apply", &name]);
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert!(refused.err.contains("it still waits in"), "{refused:?}");
    assert_eq!(factory.records("apel-outgoing").len(), 1);

    // A sender takes it, and the machine's directory goes.
    let queued = factory.state("apel-outgoing").join(record);
    let sent = fs::read_to_string(&queued).unwrap();
    fs::remove_file(&queued).unwrap();
    fs::remove_dir_all(&machine.0).unwrap();
    assert_eq!(
        states(&factory, &[]),
        [(record.to_owned(), "sent".to_owned())]
    );
    assert!(states(&factory, &["--waiting"]).is_empty());
    for word in [record, &name] {
        let shown = factory.run(&["apel", "show", word]);
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert!(shown.out.ends_with(&sent), "{shown:?}");
        assert!(
            shown.out.starts_with(&format!("record {record}: sent\n")),
            "{shown:?}"
        );
    }
    let fields = factory.run(&["apel", "show", "--json", &name]).json();
    assert_eq!(fields["fields"]["NodeCount"], "1", "all of them");
    let dry = factory.run(&["apel", "resend", &name]);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.out.contains("would be queued again"), "{dry:?}");
    assert!(factory.records("apel-outgoing").is_empty(), "dry");
    let again = factory.run(&["apel", "resend", "--apply", &name]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let outgoing = factory.records("apel-outgoing");
    assert_eq!(outgoing.len(), 1);
    assert_eq!(
        (outgoing[0].0.to_str(), &outgoing[0].1),
        (Some(record), &sent)
    );
    let third = factory.run(&["apel", "resend", "--apply", record]);
    assert_eq!(third.code, Some(65), "{third:?}");
    assert_eq!(factory.records("apel-outgoing").len(), 1);
}

#[test]
fn filters_leave_what_was_asked_for_and_broken_files_are_named() {
    let factory = Factory::with_space(&format!("gocdb_sitename = {SITE}"), "");
    let of_old = "vcycle-atlas-aaaaaaaaaa";
    put(
        &factory,
        "apel-archive/20251130/23595900000001",
        &record("id-1", "f", END),
    );
    // Written by an older version, a day later by the host's clock, under a name of its kind.
    put(
        &factory,
        "apel-archive/20251201/0102035812",
        &record("id-2", of_old, END - 10),
    );
    put(
        &factory,
        "apel-archive/20251001/00000000000001",
        &record("id-3", "f", END - 5_000_000),
    );
    let other = record("id-4", "f", END + 5)
        .replace(SPACE, "other.org")
        .replace(SITE, "other.org");
    put(&factory, "apel-archive/20251201/00000400000001", &other);
    put(
        &factory,
        "apel-archive/20251130/23595900000009",
        "APEL-individual-job-message: v0.3\nSite",
    );
    put(
        &factory,
        "apel-outgoing/20251130/23595900000001",
        &record("id-1", "f", END),
    );
    put(
        &factory,
        "apel-outgoing/20251130/23595900000001.77.tmp",
        "APEL-indi",
    );
    put(
        &factory,
        "apel-outgoing/20251130/12345",
        &record("id-5", "f", END),
    );
    put(
        &factory,
        "apel-outgoing/20251202/00000000000003",
        "APEL-sync-message: v0.1\nSite: TEST-SITE\nSubmitHost: a\nNumberOfJobs: 7\nMonth: 11\nYear: 2025\n%%\n",
    );
    // A name that is no text at all.
    let bytes = std::os::unix::ffi::OsStrExt::from_bytes(&b"2359\xff"[..]);
    let strange: &std::ffi::OsStr = bytes;
    fs::write(factory.state("apel-outgoing/20251130").join(strange), "x").unwrap();
    let names = |options: &[&str]| -> Vec<String> {
        states(&factory, options)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    };
    assert_eq!(names(&[]).len(), 4);
    assert_eq!(
        names(&[
            "--since",
            "2025-11-30T00:00:00Z",
            "--until",
            &END.to_string()
        ]),
        ["20251201/0102035812", "20251130/23595900000001"]
    );
    assert_eq!(
        names(&["--space", "other.org"]),
        ["20251201/00000400000001"]
    );
    assert_eq!(names(&["--machine", of_old]), ["20251201/0102035812"]);
    assert_eq!(names(&["--waiting"]), ["20251130/23595900000001"]);
    assert!(
        states(&factory, &[]).contains(&("20251201/00000400000001".to_owned(), "kept".to_owned()))
    );

    let listed = factory.run(&["apel", "list"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    for (path, why) in [
        (
            "apel-archive/20251130/23595900000009",
            "has a line that is no field",
        ),
        ("apel-outgoing/20251130/12345", "senders pass over it"),
        (
            "apel-outgoing/20251130/23595900000001.77.tmp",
            "left half-written",
        ),
    ] {
        let begin = format!("vcycled: {}: ", factory.state(path).display());
        let line = listed.err.lines().find(|line| line.starts_with(&begin));
        assert!(
            line.is_some_and(|line| line.contains(why)),
            "{path}: {listed:?}"
        );
        assert!(factory.state(path).exists(), "{path}");
    }
    assert!(
        listed.out.contains("a count of records: 7 in 11/2025"),
        "{listed:?}"
    );
    assert!(
        listed
            .out
            .ends_with("4 records: 1 kept, 2 sent, 1 waiting\n"),
        "{listed:?}"
    );

    // A broken record is shown as far as it goes, and not sent.
    let broken = factory.run(&["apel", "show", "20251130/23595900000009"]);
    assert_eq!(broken.code, Some(65), "{broken:?}");
    assert!(broken.out.contains("\nSite\n"), "{broken:?}");
    for (word, why) in [
        ("20251130/23595900000009", "there is no record"),
        ("vcycle-atlas-zzzzzzzzzz", "there is no record"),
        ("id-4", "no space has the gocdb_sitename \"other.org\""),
        ("id-1", "it still waits"),
    ] {
        let refused = factory.run(&["apel", "resend", "--apply", word]);
        assert_eq!(refused.code, Some(65), "{word}: {refused:?}");
        assert!(refused.err.contains(why), "{word}: {refused:?}");
    }
    // All of a time: what waits is named and the rest is queued; a name that senders would pass
    // over is not used again.
    let many = factory.run(&[
        "apel",
        "resend",
        "--apply",
        "--space",
        SPACE,
        "--since",
        "2025-11-01T00:00:00Z",
    ]);
    assert_eq!(many.code, Some(65), "{many:?}");
    let queued = factory.records("apel-outgoing");
    let good = |name: &str| name.len() == 23 && name.bytes().filter(|b| *b == b'/').count() == 1;
    let of_second: Vec<_> = queued
        .iter()
        .filter(|(_, text)| text.contains("id-2\n"))
        .collect();
    assert_eq!(of_second.len(), 1, "{queued:?}");
    assert!(good(of_second[0].0.to_str().unwrap()), "{of_second:?}");
    assert!(
        states(&factory, &[]).contains(&("20251201/0102035812".to_owned(), "waiting".to_owned()))
    );

    for arguments in [
        &["apel", "resend"][..],
        &["apel", "show"],
        &["apel"],
        &["apel", "resend", "--apply"],
    ] {
        assert_eq!(factory.run(arguments).code, Some(64), "{arguments:?}");
    }
}

#[test]
fn what_may_not_be_read_or_written_is_said_and_nothing_is_lost() {
    if rustix::process::geteuid().is_root() && nobody(Command::new("true")).is_err() {
        println!("skipped: there is no setpriv to be somebody else with");
        return;
    }
    let factory = Factory::with_space(&format!("gocdb_sitename = {SITE}"), "");
    put(
        &factory,
        "apel-archive/20251130/23595900000001",
        &record("id-1", "f", END),
    );
    fs::create_dir_all(factory.state("apel-outgoing")).unwrap();
    for path in [factory.path(""), factory.path("etc")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output = nobody(factory.command(arguments)).unwrap();
        super::factory::Ended::of(output)
    };
    let refused = run(&["apel", "resend", "--apply", "id-1"]);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    assert!(
        refused.err.contains("Permission denied") && refused.err.contains("apel-outgoing"),
        "{refused:?}"
    );
    assert!(factory.records("apel-outgoing").is_empty());
    let archive = factory.state("apel-archive");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = run(&["apel", "list"]);
    assert_eq!(refused.code, Some(74), "{refused:?}");
    let said = format!("cannot list {}: Permission denied", archive.display());
    assert!(refused.err.contains(&said), "{refused:?}");
    assert_eq!(factory.records("apel-archive").len(), 1);
}

/// Runs a command as somebody who owns nothing here.
fn nobody(command: Command) -> std::io::Result<std::process::Output> {
    if !rustix::process::geteuid().is_root() {
        let mut command = command;
        return command.output();
    }
    let mut as_nobody = Command::new("setpriv");
    as_nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    as_nobody.output()
}

/// Reads a queue as ssmsend does - lock, get, remove - or adds to one; what it has read is printed.
const QUEUE: &str = r#"
import sys
from dirq.QueueSimple import QueueSimple
queue = QueueSimple(sys.argv[2])
if sys.argv[1] == "add":
    print(queue.add(sys.stdin.read().encode()))
elif sys.argv[1] == "lock":
    print([queue.lock(name) for name in queue])
else:
    for name in queue:
        if queue.lock(name):
            sys.stdout.write(name + "\n" + queue.get(name).decode())
            queue.remove(name)
    queue.purge()
"#;

fn python(factory: &Factory, what: &str, text: &str) -> Option<String> {
    let Ok(python) = std::env::var("VCYCLE_TEST_DIRQ") else {
        println!("skipped: VCYCLE_TEST_DIRQ names no python with dirq");
        return None;
    };
    let input = factory.path("message");
    fs::write(&input, text).unwrap();
    let output = Command::new(python)
        .args(["-c", QUEUE, what])
        .arg(factory.state("apel-outgoing"))
        .stdin(fs::File::open(input).unwrap())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn dirq_takes_what_we_queue_and_we_see_what_dirq_adds() {
    let factory = Factory::with_space(&format!("gocdb_sitename = {SITE}"), "");
    let (one, two) = (record("id-1", "f", END), record("id-2", "f", END + 60));
    put(&factory, "apel-archive/20251130/23595900000001", &one);
    let archived = ("20251130/23595900000001".to_owned(), "sent".to_owned());
    let Some(added) = python(&factory, "add", &two) else {
        return;
    };
    let added = added.trim().to_owned();
    assert_eq!(
        states(&factory, &[]),
        [archived.clone(), (added.clone(), "waiting".to_owned())]
    );
    assert_eq!(
        factory.run(&["apel", "resend", "--apply", "id-1"]).code,
        Some(0)
    );
    assert_eq!(factory.run(&["apel-sync", "202511"]).code, Some(0));
    assert_eq!(
        python(&factory, "lock", "").unwrap(),
        "[True, True, True]\n"
    );
    let sending: Vec<_> = states(&factory, &[])
        .into_iter()
        .map(|(_, state)| state)
        .collect();
    assert_eq!(sending, ["sending", "sending"]);
    let locked = factory.run(&["apel", "resend", "--apply", "id-1"]);
    assert!(locked.err.contains("it still waits"), "{locked:?}");
    // The sender that held them died.
    for (path, _) in factory.records("apel-outgoing") {
        if path.extension().is_some() {
            fs::remove_file(factory.state("apel-outgoing").join(path)).unwrap();
        }
    }
    let taken = python(&factory, "take", "").unwrap();
    assert!(
        taken.contains(&format!("20251130/23595900000001\n{one}")),
        "{taken}"
    );
    assert!(taken.contains(&format!("{added}\n{two}")), "{taken}");
    assert!(
        taken.contains("APEL-sync-message: v0.1\nSite: TEST-SITE\n"),
        "{taken}"
    );
    assert_eq!(states(&factory, &[]), [archived]);
    assert_eq!(states(&factory, &["--waiting"]), []);
}
