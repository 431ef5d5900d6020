//! `benchmark = hepscore23` and `vcycled apel-sync`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::factory::{Factory, SPACE, entries, until};

#[test]
fn records_in_hepscore23_are_told_to_the_machine_in_hs06() {
    let factory = Factory::new();
    let section = |machinetypes: &str| {
        let options = format!(
            "max_machines = 1\nsimulated_job_seconds = 4\nbenchmark = hepscore23\n{}",
            factory.vm_certificate()
        );
        factory.space(SPACE, &options) + machinetypes
    };
    let scored = factory.machinetype(
        SPACE,
        "scored",
        "hs06_per_processor = 9\nhepscore23_per_processor = 11.25",
    );
    let other = factory.machinetype(
        SPACE,
        "other",
        "target_share = 0\nhepscore23_per_processor = 1",
    );
    factory.conf("space", &section(&(scored + &other)));
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    assert_eq!(machine.read("machinefeatures/hs06").as_deref(), Some("9"));
    assert_eq!(
        machine.read("hepscore23_per_processor").as_deref(),
        Some("11.25")
    );
    machine.wait_for("started");
    // Its machinetype leaves the configuration before it ends: its directory still knows.
    factory.conf("space", &section(&other));
    machine.wait_for("finished");
    let records = factory.records("apel-archive");
    assert_eq!(records.len(), 1);
    assert!(
        records[0]
            .1
            .contains("\nServiceLevelType: hepscore23\nServiceLevel: 11.25\n%%\n"),
        "{}",
        records[0].1
    );
    assert!(factory.log_lines("WARN").is_empty(), "{}", factory.log());

    // Beside the daemon: what it has archived, counted.
    let message = factory.run(&["apel-sync"]);
    assert_eq!(message.code, Some(0), "{message:?}");
    assert!(
        message
            .out
            .starts_with("APEL-sync-message: v0.1\nSite: example.org\n"),
        "{message:?}"
    );
    assert!(
        message.err.contains("no space has a gocdb_sitename"),
        "{message:?}"
    );
    assert!(!factory.state("apel-outgoing").exists());
    let checked = factory.run(&["check"]);
    assert_eq!(
        checked.err.matches("hepscore23").count() + checked.err.matches(": warning").count(),
        0,
        "nothing is left to warn of: {checked:?}"
    );
    daemon.end();
}

/// Puts a record into the archive as the daemon does.
fn archive(factory: &Factory, day: &str, name: &str, text: &str) {
    let directory = factory.state("apel-archive").join(day);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), text).unwrap();
}

fn record(site: &str, host: &str, id: usize, end: u64) -> String {
    format!(
        "APEL-individual-job-message: v0.3\nSite: {site}\nSubmitHost: {host}\nLocalJobId: {id}\n\
         WallDuration: 5\nStartTime: {}\nEndTime: {end}\nServiceLevelType: HEPSPEC\n\
         ServiceLevel: 1.0\n%%\n",
        end - 5
    )
}

/// The blocks of a message: submit host to number of jobs.
fn blocks(message: &str) -> BTreeMap<String, u64> {
    let body = message.strip_prefix("APEL-sync-message: v0.1\n").unwrap();
    let blocks = body.split_terminator("%%\n").map(|block| {
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .collect();
        assert_eq!(fields.len(), 5, "{block}");
        assert_eq!(fields["Site"], "TEST-SITE");
        assert_eq!((fields["Month"], fields["Year"]), ("11", "2025"));
        (
            fields["SubmitHost"].to_owned(),
            fields["NumberOfJobs"].parse().unwrap(),
        )
    });
    blocks.collect()
}

#[test]
fn a_month_is_counted_and_queued_and_what_is_damaged_is_named() {
    let factory = Factory::with_space("gocdb_sitename = TEST-SITE", "");
    // 2025-11-30T23:59:59Z
    const END: u64 = 1_764_547_199;
    let (a, b) = ("a.org/vcycle-f", "b.org/vcycle-f");
    for (number, host) in [a, a, a, b].into_iter().enumerate() {
        let name = format!("2359590000000{number}");
        archive(
            &factory,
            "20251130",
            &name,
            &record("TEST-SITE", host, number, END),
        );
    }
    archive(
        &factory,
        "20251201",
        "00000000000000",
        &record("TEST-SITE", a, 9, END + 1),
    );
    archive(
        &factory,
        "20251130",
        "23595900000009",
        &record("other.org", a, 10, END),
    );
    archive(
        &factory,
        "20251130",
        "23595900000010",
        "APEL-individual-job-message: v0.3\nSite: x\n",
    );
    archive(&factory, "20251130", "notes.txt", "do not delete");
    let synced = factory.run(&["apel-sync", "202511"]);
    assert_eq!(synced.code, Some(0), "{synced:?}");
    let expected = BTreeMap::from([(a.to_owned(), 3), (b.to_owned(), 1)]);
    assert_eq!(blocks(&synced.out), expected);
    for (path, why) in [
        ("apel-archive/20251130/23595900000010", "is cut off"),
        ("apel-archive/20251130/notes.txt", "does not begin"),
    ] {
        let path = factory.state(path);
        let line = format!("vcycled: {}: ", path.display());
        let line = synced
            .err
            .lines()
            .find(|said| said.starts_with(&line))
            .unwrap();
        assert!(
            line.contains(why) && line.ends_with("; not counted"),
            "{line}"
        );
    }
    assert!(
        synced.err.contains("1 record(s) of other.org"),
        "{synced:?}"
    );
    let queued = factory.records("apel-outgoing");
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].1, synced.out);
    let digits = |path: &Path, count: usize| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.len() == count && name.bytes().all(|b| b.is_ascii_digit())
    };
    assert!(digits(&queued[0].0, 14) && digits(queued[0].0.parent().unwrap(), 8));
    assert_eq!(
        entries(&factory.state("apel-archive")).len(),
        2,
        "counting adds nothing"
    );

    for (arguments, code, why) in [
        (
            &["apel-sync", "2025-11"][..],
            64,
            "expected a month as YYYYMM",
        ),
        (&["apel-sync", "202513"], 64, "expected a month as YYYYMM"),
        (
            &["apel-sync", "202405"],
            0,
            "there are no records of 202405",
        ),
    ] {
        let said = factory.run(arguments);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.err.contains(why) && said.out.is_empty(), "{said:?}");
    }
    assert_eq!(factory.records("apel-outgoing").len(), 1);
}

#[test]
fn the_queue_is_there_before_a_record_is_and_belongs_to_who_owns_the_state() {
    const USER: u32 = 65_534;
    let factory = Factory::with_space("gocdb_sitename = TEST-SITE", "");
    let said = factory.run(&["apel-sync"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!factory.state("").exists(), "no state directory is made");
    fs::create_dir(factory.state("")).unwrap();
    if rustix::process::geteuid().is_root() {
        // That user has to reach all that the program reads.
        for path in [factory.path(""), factory.path("etc")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::chown(factory.state(""), Some(USER), Some(USER)).unwrap();
    }
    let said = factory.run(&["apel-sync"]);
    if said.err.contains("cannot go on as the user") {
        println!("skipped: that user cannot reach the program");
        return;
    }
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains("there are no records of ") && said.out.is_empty(),
        "{said:?}"
    );
    let queue = fs::metadata(factory.state("apel-outgoing")).unwrap();
    let state = fs::metadata(factory.state("")).unwrap();
    assert!(queue.is_dir());
    assert_eq!(queue.uid(), state.uid());
    assert!(factory.records("apel-outgoing").is_empty());
}

#[test]
fn a_hundred_thousand_records_are_counted_in_seconds() {
    const COUNT: usize = 100_000;
    let factory = Factory::with_space("gocdb_sitename = TEST-SITE", "");
    // In memory where there is such a place: it is our time that is measured.
    let memory = Path::new("/dev/shm");
    let memory = tempfile::tempdir_in(if memory.is_dir() {
        memory
    } else {
        Path::new("/tmp")
    });
    let memory = memory.unwrap();
    let factory = factory.state_at(memory.path().join("state"));
    for day in 1..=25 {
        let directory = factory
            .state("apel-archive")
            .join(format!("202511{day:02}"));
        fs::create_dir_all(&directory).unwrap();
        for number in 0..COUNT / 25 {
            let end = 1_762_000_000 + (day - 1) * 86_400 + u64::try_from(number).unwrap();
            let id = usize::try_from(day).unwrap() * COUNT + number;
            let text = record("TEST-SITE", "a.org/vcycle-f", id, end);
            fs::write(directory.join(format!("000000{number:08}")), text).unwrap();
        }
    }
    let began = Instant::now();
    let synced = factory.run(&["apel-sync", "202511"]);
    let took = began.elapsed();
    let expected = BTreeMap::from([("a.org/vcycle-f".to_owned(), 100_000)]);
    assert_eq!(blocks(&synced.out), expected, "{}", synced.err);
    println!("{COUNT} records counted in {took:?}");
    // A build without optimisation, on a machine with other things to do.
    assert!(took < Duration::from_secs(20), "{took:?}");
}
