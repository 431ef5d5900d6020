//! Each rule of what has to be written, by itself.

use std::collections::BTreeMap;

use super::plan::{self, Accounting, Change, Plan};
use super::tests::{FACTORY, NAME, config};
use super::tree::{Kind, Old};
use super::{Around, Records};
use crate::account::message::parse_jobs;
use crate::model::{FactoryName, MachineName, Timestamp};

const NOW: u64 = 1_700_000_000;

/// Files below a machine's directory and their texts.
type Files = &'static [(&'static str, &'static str)];

/// A machine that lacks nothing but `manager`, with these files besides; an empty text is no file.
fn old(kind: Kind, files: &[(&str, &str)]) -> Old {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (file, text) in [
        ("space_name", "example.org"),
        ("machinetype_name", "atlas"),
        ("created", "1699990000"),
        ("started", "1699990010"),
        ("uuid", "id-1"),
        ("https_x509dn", "/DC=org/CN=vm"),
        ("fizzle_seconds", "600"),
        ("accounting_fqan", "/atlas"),
        ("machinefeatures/shutdowntime", "1700076400"),
        ("machinefeatures/hs06", "10.5"),
        ("jobfeatures/shutdowntime_job", "1700076400"),
        ("jobfeatures/wall_limit_secs", "86400"),
        ("jobfeatures/jobstart_secs", "1699990010"),
        ("jobfeatures/allocated_cpu", "2"),
        ("jobfeatures/max_rss_bytes", "2147483648"),
        ("jobfeatures/job_id", "id-1"),
    ]
    .iter()
    .chain(files)
    {
        match text.is_empty() {
            true => all.remove(*file),
            false => all.insert((*file).to_owned(), (*text).to_owned()),
        };
    }
    Old {
        name: MachineName::new(NAME).unwrap(),
        dir: "/nowhere".into(),
        kind,
        files: all,
        user_data_mode: Some(0o600),
        joboutputs: Some(["heartbeat".to_owned()].into()),
        oldest: Timestamp::from_unix(1_699_980_000),
    }
}

fn flat(files: &[(&str, &str)]) -> Old {
    old(Kind::Flat, files)
}

/// Records of machines, by name and identifier, in an archive that begins on that day.
fn records(of: &[(&str, &str)], first_day: Option<&str>) -> Records {
    let mut records = Records {
        first_day: first_day.map(str::to_owned),
        ..Records::default()
    };
    for (name, id) in of {
        let text = format!(
            "APEL-individual-job-message: v0.3\nSite: x\nSubmitHost: example.org/vcycle-{FACTORY}\n\
             LocalJobId: {id}\nLocalUserId: {name}\nStartTime: 1\nEndTime: 1699995000\n%%\n"
        );
        let record = parse_jobs(&text).unwrap().remove(0);
        records.by_name.insert((*name).to_owned(), record.clone());
        records.by_id.insert((*id).to_owned(), record);
    }
    records
}

fn planned_with(old: &Old, records: &Records, options: &str) -> Result<Plan, String> {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), options);
    let around = Around {
        config: &config,
        factory: &FactoryName::new(FACTORY).unwrap(),
        records,
        now: Timestamp::from_unix(NOW),
    };
    plan::plan(old, &around)
}

fn planned(old: &Old) -> Plan {
    planned_with(old, &Records::default(), "").unwrap()
}

fn write(file: &'static str, text: &str) -> Change {
    Change::Write(file, text.to_owned())
}

fn manager() -> Change {
    write("manager", FACTORY)
}

/// These changes, and `manager` as the last.
fn check(old: &Old, changes: &[Change]) {
    let mut expected = changes.to_vec();
    expected.push(manager());
    assert_eq!(planned(old).changes, expected);
}

#[test]
fn what_lacks_nothing_gets_its_manager() {
    check(&flat(&[]), &[]);
    let of_03 = old(Kind::Shared, &[("manager", FACTORY)]);
    assert_eq!(planned(&of_03).changes, []);
}

#[test]
fn whose_it_is_has_to_be_known() {
    let why = |old: &Old| planned_with(old, &Records::default(), "").unwrap_err();
    assert_eq!(why(&flat(&[("space_name", "")])), "has no space_name");
    let no_kind = flat(&[("machinetype_name", "")]);
    assert_eq!(why(&no_kind), "has no machinetype_name");
    why(&flat(&[("space_name", "Not A Space")]));
    why(&flat(&[("machinetype_name", "Not A Kind")]));
    let ancient = flat(&[("machinetype_name", ""), ("vmtype_name", "atlas")]);
    assert!(why(&ancient).contains("before 0.6"));
    let both = flat(&[("vmtype_name", "atlas")]);
    check(&both, &[]);
    assert!(why(&old(Kind::Shared, &[])).contains("has no manager"));
    let other = old(Kind::Shared, &[("manager", "other.example.org")]);
    assert!(why(&other).contains("--factory other.example.org"));
}

#[test]
fn when_it_was_created_is_told_or_found_out() {
    let without = |files: &[(&str, &str)]| {
        let files = [&[("created", "")], files].concat();
        let changes = planned(&flat(&files)).changes;
        let Some(Change::Write("created", text)) = changes.into_iter().next() else {
            panic!("nothing was written");
        };
        text
    };
    // By when it has to be down and how long it may run.
    assert_eq!(without(&[]), "1699990000");
    assert_eq!(
        without(&[("jobfeatures/wall_limit_secs", "80000")]),
        "1699990010",
        "not after it started"
    );
    // The machinetype says how long.
    assert_eq!(
        without(&[("jobfeatures/wall_limit_secs", "")]),
        "1699990000"
    );
    for end in [
        "jobfeatures/shutdowntime_job",
        "machinefeatures/shutdowntime",
        "machinefeatures/shutdown_time",
        "jobfeatures/shutdown_time_job",
    ] {
        let only = [
            ("jobfeatures/shutdowntime_job", ""),
            ("machinefeatures/shutdowntime", ""),
            (end, "1700076300"),
        ];
        assert_eq!(without(&only), "1699989900", "{end}");
    }
    // Else by the oldest file.
    let neither = [
        ("jobfeatures/shutdowntime_job", ""),
        ("machinefeatures/shutdowntime", ""),
    ];
    assert_eq!(without(&neither), "1699980000");
    let none = [("created", "None")];
    assert_eq!(
        planned(&flat(&none)).changes[0],
        write("created", "1699990000")
    );
}

#[test]
fn its_identifier_is_taken_from_where_it_is() {
    let id = |files: &[(&str, &str)], records: &Records| {
        let files = [&[("uuid", ""), ("jobfeatures/job_id", "")], files].concat();
        let changes = planned_with(&flat(&files), records, "").unwrap().changes;
        let of = |file: &str| {
            let mut found = changes.iter().filter_map(|change| match change {
                Change::Write(name, text) if *name == file => Some(text.clone()),
                Change::Write(..) | Change::Remove(_) | Change::Hide | Change::Joboutputs => None,
            });
            found.next()
        };
        assert_eq!(of("uuid"), of("jobfeatures/job_id"));
        of("uuid")
    };
    let none = Records::default();
    let recorded = records(&[(NAME, "id-9")], None);
    assert_eq!(id(&[], &none), None);
    assert_eq!(
        id(&[("instance_id", "i-1")], &recorded).as_deref(),
        Some("i-1")
    );
    let slipped = [("jobfeatures/jobstart_secs", "abc-def")];
    assert_eq!(id(&slipped, &recorded).as_deref(), Some("abc-def"));
    assert_eq!(id(&[], &recorded).as_deref(), Some("id-9"));
    for text in ["12345", "None", "two words-"] {
        let odd = [("jobfeatures/jobstart_secs", text)];
        assert_eq!(id(&odd, &none), None, "{text}");
    }
}

#[test]
fn features_are_completed() {
    const START: &str = "jobfeatures/jobstart_secs";
    let cases: &[(Files, Files)] = &[
        (
            &[("jobfeatures/wall_limit_secs", "")],
            &[("jobfeatures/wall_limit_secs", "86400")],
        ),
        (
            &[("machinefeatures/shutdowntime", "")],
            &[("machinefeatures/shutdowntime", "1700076400")],
        ),
        (
            &[("jobfeatures/shutdowntime_job", "None")],
            &[("jobfeatures/shutdowntime_job", "1700076400")],
        ),
        (&[(START, "")], &[(START, "1699990010")]),
        (&[(START, "None")], &[(START, "1699990010")]),
        (&[(START, ""), ("started", "")], &[(START, "1699990000")]),
        (
            &[("jobfeatures/job_id", "")],
            &[("jobfeatures/job_id", "id-1")],
        ),
        (
            &[("jobfeatures/job_id", "other")],
            &[("jobfeatures/job_id", "id-1")],
        ),
        (
            &[("https_x509dn", "")],
            &[("https_x509dn", "/DC=org/CN=vm")],
        ),
        (
            &[("https_x509dn", "/CN=x")],
            &[("https_x509dn", "/DC=org/CN=vm")],
        ),
        (&[("fizzle_seconds", "")], &[("fizzle_seconds", "600")]),
        (&[("accounting_fqan", "")], &[("accounting_fqan", "/atlas")]),
        (
            &[
                ("machinefeatures/hs06", "None"),
                ("jobfeatures/hs06_job", "7.5"),
            ],
            &[("machinefeatures/hs06", "7.5")],
        ),
    ];
    for (files, written) in cases {
        let written: Vec<_> = written
            .iter()
            .map(|(file, text)| write(file, text))
            .collect();
        check(&flat(files), &written);
    }
    for file in [
        "jobfeatures/allocated_CPU",
        "machinefeatures/total_cpu",
        "machinefeatures/log_cores",
        "machinefeatures/phys_cores",
    ] {
        let processors = flat(&[("jobfeatures/allocated_cpu", ""), (file, "8")]);
        check(&processors, &[write("jobfeatures/allocated_cpu", "8")]);
    }
    let no_processors = [
        ("jobfeatures/allocated_cpu", ""),
        ("machinefeatures/total_cpu", "0"),
    ];
    check(&flat(&no_processors), &[]);
}

/// Our daemon refuses a directory with such a file.
#[test]
fn what_should_be_a_number_and_is_none_goes() {
    for file in [
        "jobfeatures/max_rss_bytes",
        "jobfeatures/allocated_cpu",
        "machinefeatures/hs06",
        "deleted",
        "stopped",
    ] {
        check(&flat(&[(file, "None")]), &[Change::Remove(file)]);
    }
    let started = flat(&[("started", "None")]);
    check(&started, &[Change::Remove("started")]);
    check(
        &flat(&[("updated", "1699990010")]),
        &[Change::Remove("updated")],
    );
}

#[test]
fn secrets_are_hidden_and_the_machine_can_write() {
    for (mode, hidden) in [(0o600, false), (0o640, true), (0o604, true), (0o400, false)] {
        let mut machine = flat(&[]);
        machine.user_data_mode = Some(mode);
        let expected: &[Change] = if hidden { &[Change::Hide] } else { &[] };
        check(&machine, expected);
    }
    let mut machine = flat(&[]);
    machine.user_data_mode = None;
    machine.joboutputs = None;
    check(&machine, &[Change::Joboutputs]);
}

#[test]
fn an_end_is_accounted_for_once() {
    let ended: Files = &[("stopped", "1699995000")];
    let short: Files = &[("stopped", "1699990100")];
    let never: Files = &[("stopped", "1699990100"), ("started", "")];
    let none = records(&[], None);
    let old_archive = records(&[], Some("20231101"));
    let same_day = records(&[], Some("20231114"));
    let by_name = records(&[(NAME, "other")], Some("20231101"));
    let by_id = records(&[("other", "id-1")], Some("20231101"));
    let cases: &[(Files, &Records, Accounting)] = &[
        (&[], &by_name, Accounting::Open),
        (ended, &by_name, Accounting::Written),
        (ended, &by_id, Accounting::Written),
        (short, &old_archive, Accounting::None),
        (never, &old_archive, Accounting::None),
        (ended, &old_archive, Accounting::Missing),
        // A day of the archive is one of the host's zone: the first says nothing for sure.
        (ended, &same_day, Accounting::Archived),
        (ended, &none, Accounting::Archived),
    ];
    for (files, records, accounting) in cases {
        let machine = flat(files);
        let plan = planned_with(&machine, records, "").unwrap();
        assert_eq!(plan.accounting, *accounting, "{files:?}");
        let finished = plan.changes.contains(&write("finished", &NOW.to_string()));
        let is_done = !matches!(accounting, Accounting::Open | Accounting::Missing);
        assert_eq!(finished, is_done, "{files:?}: {plan:?}");
        let is_noted = plan
            .notes
            .iter()
            .any(|note| note.contains("the daemon writes it"));
        assert_eq!(is_noted, *accounting == Accounting::Missing);
    }
    // What was finished before stays so, and `updated` goes once.
    let before = flat(&[
        ("stopped", "1699995000"),
        ("finished", "5"),
        ("updated", "6"),
    ]);
    let plan = planned_with(&before, &by_name, "").unwrap();
    assert_eq!(plan.changes, [Change::Remove("updated"), manager()]);
}

#[test]
fn what_the_first_cycle_would_do_is_said() {
    let notes = |machine: &Old, options: &str| {
        let plan = planned_with(machine, &Records::default(), options).unwrap();
        plan.notes.join("; ")
    };
    let machine = flat(&[]);
    let heartbeat = "heartbeat_file = heartbeat\n";
    assert_eq!(notes(&machine, heartbeat), "");
    let long = notes(&machine, "max_wallclock_seconds = 9989\n");
    assert!(long.contains("longer than max_wallclock_seconds"), "{long}");
    assert_eq!(notes(&machine, "max_wallclock_seconds = 9990\n"), "");
    let mut silent = flat(&[]);
    silent.joboutputs = Some(["other".to_owned()].into());
    assert_eq!(notes(&silent, ""), "");
    let told = notes(&silent, heartbeat);
    assert!(told.contains("it has written no heartbeat"), "{told}");
    silent.joboutputs = None;
    assert!(notes(&silent, heartbeat).contains("it has written no heartbeat"));
    let young = flat(&[("started", "1699999500")]);
    assert_eq!(
        notes(
            &Old {
                joboutputs: None,
                ..young
            },
            heartbeat
        ),
        ""
    );
    for ended in [("stopped", "1699995000"), ("started", "")] {
        let machine = Old {
            joboutputs: None,
            ..flat(&[ended])
        };
        let told = notes(&machine, heartbeat);
        assert!(!told.contains("heartbeat"), "{told}");
    }
    // 03 made machines that write here, whatever the configuration still says.
    let remote = format!("{heartbeat}remote_joboutputs_url = https://remote.example.org/\n");
    assert_eq!(notes(&silent, &remote), "");
    let of_03 = old(Kind::Shared, &[("manager", FACTORY)]);
    let told = notes(&of_03, &remote);
    assert!(told.contains("remote_joboutputs_url"), "{told}");

    let gone = flat(&[("machinetype_name", "lhcb")]);
    assert!(notes(&gone, "").contains("its machinetype is not configured"));
    let elsewhere = flat(&[("space_name", "other.example.org")]);
    assert!(notes(&elsewhere, "").contains("its space is not configured"));
    // Nothing is known then that the configuration would say.
    let bare = [
        ("machinetype_name", "lhcb"),
        ("https_x509dn", ""),
        ("fizzle_seconds", ""),
        ("accounting_fqan", ""),
        ("jobfeatures/wall_limit_secs", ""),
    ];
    check(&flat(&bare), &[]);
}
