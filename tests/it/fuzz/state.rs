//! Anything in the place of any file of a machine's directory, and of what a space has in words.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;
use serde_json::json;
use vcycle::config::{Raw, SpaceConfig, interpret};
use vcycle::decide::decide;
use vcycle::model::{
    CloudFacts, CloudId, CloudMachine, FactoryName, MachineFiles, MachineName, MachinetypeName,
    Seconds, Secret, SpaceName, Timestamp,
};
use vcycle::observe::{Memory, join, look_at_files};
use vcycle::rng::Seed;
use vcycle::state::{NewMachine, StateError, Store};

use super::{Cost, cases, fuzz};
use crate::config_examples::context;

const FILES: &[&str] = &[
    "space_name",
    "machinetype_name",
    "manager",
    "uuid",
    "created",
    "started",
    "updated",
    "stopped",
    "finished",
    "deleted",
    "logged",
    "clock_set_back",
    "ended",
    "instance_id",
    "fizzle_seconds",
    "hepscore23_per_processor",
    "accounting_fqan",
    "log_joboutputs",
    "user_data",
    "flavor",
    "zone",
    "volumes",
    "https_x509dn",
    "joboutputs_token_sha256",
    "jobfeatures/allocated_cpu",
    "jobfeatures/max_rss_bytes",
    "jobfeatures/shutdowntime_job",
    "jobfeatures/wall_limit_secs",
    "machinefeatures/hs06",
    "joboutputs/heartbeat",
    "joboutputs/shutdown_message",
    "jobfeatures",
    "machinefeatures",
    "joboutputs",
    "",
];
const TEXTS: &[&str] = &[
    "",
    " ",
    "\n",
    "0",
    "-1",
    "1",
    "1000",
    " 1000\n",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "253402300800",
    "4294967295",
    "4294967296",
    "1e308",
    "-0.0",
    "NaN",
    "inf",
    "1.5",
    "a",
    "cloud.example.org",
    "heartbeat",
    "other",
    "700 x",
    "../..",
    "factory.example.org",
    "a\nb\u{1b}[2J",
];

/// What is in the place of a file.
#[derive(Clone, Debug)]
enum Thing {
    Nothing,
    Text(&'static str),
    Bytes(Vec<u8>),
    Huge,
    Directory,
    Pipe,
    Link(&'static str),
    Unreadable,
}

fn thing() -> impl Strategy<Value = Thing> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        1 => Just(Thing::Nothing),
        10 => select(TEXTS).prop_map(Thing::Text),
        3 => bytes.prop_map(Thing::Bytes),
        1 => Just(Thing::Huge),
        1 => Just(Thing::Directory),
        1 => Just(Thing::Pipe),
        2 => select(&["/nonexistent", ".", "/etc/hostname", "/dev/zero", "uuid"][..]).prop_map(Thing::Link),
        1 => Just(Thing::Unreadable),
    ]
}

fn put(path: &Path, thing: &Thing) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
    // What is put below something that is no directory any more is not put.
    let put = match thing {
        Thing::Nothing => Ok(()),
        Thing::Text(text) => fs::write(path, text),
        Thing::Bytes(bytes) => fs::write(path, bytes),
        Thing::Huge => fs::write(path, vec![b'1'; 300_000]),
        Thing::Directory => fs::create_dir(path),
        Thing::Pipe => {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).map_err(Into::into)
        }
        Thing::Link(target) => symlink(target, path),
        Thing::Unreadable => fs::write(path, "1").and_then(|()| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
            fs::set_permissions(path, mode)
        }),
    };
    drop(put);
}

const INTACT: &str = "vcycle-a-aaaaaaaaaa";
const BROKEN: &str = "vcycle-a-bbbbbbbbbb";

fn new_machine(name: &str) -> NewMachine {
    NewMachine {
        name: MachineName::new(name).unwrap(),
        space: SpaceName::new("cloud.example.org").unwrap(),
        machinetype: MachinetypeName::new("a").unwrap(),
        manager: FactoryName::new("factory.example.org").unwrap(),
        created: Timestamp::from_unix(1000),
        id: Some(CloudId::new(name)),
        https_x509dn: None,
        token: None,
        fizzle: Some(Seconds::new(600)),
        hepscore23_per_processor: None,
        accounting_fqan: None,
        log_joboutputs: false,
        flavor: None,
        zone: None,
        user_data: Some(Secret::new(b"secret".to_vec())),
        machinefeatures: BTreeMap::from([("hs06", "10".to_owned())]),
        jobfeatures: BTreeMap::from([("allocated_cpu", "2".to_owned())]),
    }
}

fn space() -> SpaceConfig {
    let raw = Raw::from_json(&super::situation::config()).unwrap();
    let (config, problems) = interpret(&raw, &context());
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    config.spaces.into_values().next().unwrap()
}

#[test]
fn a_damaged_directory_hides_no_other_and_hangs_nobody() {
    let space = space();
    let things = prop::collection::vec((select(FILES), thing()), 1..5);
    let now = prop_oneof![Just(0), Just(5000), any::<u64>(), Just(u64::MAX)];
    let listed = any::<bool>();
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let inputs = (things, now, listed);
    fuzz(
        file!(),
        cases(Cost::Dear, 15),
        &inputs,
        |(things, now, listed)| {
            let machines = store.layout().machines();
            for name in [INTACT, BROKEN] {
                put(&machines.join(name), &Thing::Nothing);
                store.create_machine(&new_machine(name)).unwrap();
            }
            for (file, thing) in &things {
                let dir = machines.join(BROKEN);
                let path = if file.is_empty() { dir } else { dir.join(file) };
                put(&path, thing);
            }
            let loaded = store.load_machines().unwrap();
            let has = |name| {
                loaded
                    .machines
                    .iter()
                    .any(|machine| machine.name.as_str() == name)
            };
            prop_assert!(has(INTACT));
            let there = fs::symlink_metadata(machines.join(BROKEN)).is_ok();
            if there && !has(BROKEN) {
                let [unread] = loaded.unread.as_slice() else {
                    return Err(TestCaseError::fail(format!("{:?}", loaded.unread)));
                };
                prop_assert!(unread.to_string().contains(BROKEN), "{}", unread);
                prop_assert!(
                    !unread.to_string().contains(char::is_control),
                    "{:?}",
                    unread
                );
            } else {
                prop_assert!(loaded.unread.is_empty(), "{:?}", loaded.unread);
            }
            let listing = if listed {
                listing(&loaded.machines)
            } else {
                Vec::new()
            };
            let memory = Memory::of(loaded.machines);
            let factory = FactoryName::new("factory.example.org").unwrap();
            let facts = CloudFacts::default();
            let mut snapshot = join(&space.name, &factory, facts, listing, &memory);
            for unread in look_at_files(&store, &space, &factory, &mut snapshot).unread {
                prop_assert!(unread.to_string().contains(BROKEN), "{}", unread);
            }
            let plan = decide(&space, &snapshot, Timestamp::from_unix(now), Seed(1));
            serde_json::to_string(&plan).unwrap();
            Ok(())
        },
    );
}

/// The first machine runs.
fn listing(files: &[MachineFiles]) -> Vec<CloudMachine> {
    let first = files.first().and_then(|files| files.id.clone());
    let machine = first.map(|id| {
        let machine = json!({"id": id, "name": INTACT, "state": "running", "started": 1060});
        serde_json::from_value(machine).unwrap()
    });
    machine.into_iter().collect()
}

#[test]
fn a_time_of_any_text_is_a_time_or_an_error() {
    let text = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..30),
        1 => select(TEXTS).prop_map(|text| text.as_bytes().to_vec()),
    ];
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let (space, machinetype) = (
        SpaceName::new("s").unwrap(),
        MachinetypeName::new("a").unwrap(),
    );
    store
        .set_last_abort_time(&space, &machinetype, Timestamp::from_unix(1))
        .unwrap();
    let machine = MachineName::new(INTACT).unwrap();
    store
        .set_unwritten_scan(&space, &machine, Timestamp::from_unix(1))
        .unwrap();
    let layout = store.layout();
    let read_abort = || store.last_abort_time(&space, &machinetype);
    let read_unwritten = || {
        let scans = store.unwritten_scans(&space)?;
        Ok(scans.get(&machine).copied())
    };
    type Read<'a> = &'a dyn Fn() -> Result<Option<Timestamp>, StateError>;
    let read_order = || store.ordered_shutdown(&space);
    let readers: [(_, Read<'_>); 3] = [
        (layout.ordered_shutdown(&space), &read_order),
        (layout.last_abort_time(&space, &machinetype), &read_abort),
        (
            layout.unwritten_scans(&space).join(&machine),
            &read_unwritten,
        ),
    ];
    fuzz(file!(), cases(Cost::Cheap, 200), &text, |bytes| {
        for (path, read) in &readers {
            fs::write(path, &bytes).unwrap();
            match read() {
                Ok(time) => {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    prop_assert_eq!(time.map(Timestamp::unix), text.trim().parse().ok());
                }
                Err(problem) => {
                    let shown = problem.to_string();
                    prop_assert!(shown.contains(path.to_str().unwrap()), "{}", shown);
                    prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
                }
            }
        }
        Ok(())
    });
}
