//! Whole trees in a temporary directory: what is read of them, and that they can be taken over
//! whatever is cut off.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::plan::Accounting;
use super::{Around, Records, Survey, apply, survey, tree, waiting};
use crate::config::{self, Config};
use crate::model::{FactoryName, MachinetypeName, SpaceName, Timestamp};
use crate::state::disk::{Effect, Watch};
use crate::state::{Disk, Layout, StateError, Store};

pub const FACTORY: &str = "factory.example.org";
pub const NAME: &str = "vcycle-atlas-0000000000";
const SPACE: &str = "example.org";
const NOW: u64 = 1_700_000_000;

/// One space with one machinetype, which has these options besides.
pub fn config(dir: &Path, options: &str) -> Config {
    let text = format!(
        "[server]\nlisten = none\n[space {SPACE}]\napi = simulated\n\
         [machinetype {SPACE} atlas]\nuser_data = /u\nbackoff_seconds = 600\nfizzle_seconds = 600\n\
         x509dn = /DC=org/CN=vm\naccounting_fqan = /atlas\n{options}"
    );
    let conf = dir.join("vcycle.conf");
    Disk::default()
        .write(dir, &conf, text.as_bytes(), 0o644)
        .unwrap();
    let sources = config::Sources {
        conf,
        dir: dir.join("vcycle.d"),
    };
    let context = config::Context {
        hostname: factory(),
        state_dir: dir.join("state"),
    };
    let loaded = config::load(&sources, &context);
    loaded
        .config
        .unwrap_or_else(|| panic!("{:?}", loaded.problems))
}

fn factory() -> FactoryName {
    FactoryName::new(FACTORY).unwrap()
}

fn space() -> SpaceName {
    SpaceName::new(SPACE).unwrap()
}

/// A directory in memory where that can be had: a real disk takes minutes for what follows.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn put(path: &Path, text: &str) {
    let disk = Disk::default();
    let directory = crate::state::disk::directory_of(path);
    std::fs::create_dir_all(directory).unwrap();
    disk.write(directory, path, text.as_bytes(), 0o644).unwrap();
}

/// The directory of a machine as each version has it.
#[derive(Clone, Copy, Debug)]
enum Version {
    V08,
    V02,
    V03,
}

fn put_machine(root: &Path, version: Version, name: &str, more: &[(&str, &str)]) -> PathBuf {
    let dir = match version {
        Version::V08 | Version::V02 => root.join("machines").join(name),
        Version::V03 => root.join("shared/machines/current").join(SPACE).join(name),
    };
    let all = [
        ("machinetype_name", "atlas"),
        ("space_name", SPACE),
        ("user_data", "#!/bin/sh\n# password\n"),
        ("started", "1699990010"),
        ("jobfeatures/wall_limit_secs", "86400"),
        ("joboutputs/heartbeat", ""),
    ];
    let of_version: &[(&str, &str)] = match version {
        Version::V08 => &[
            ("machinefeatures/shutdown_time", "1700076400"),
            ("machinefeatures/hs06", "None"),
            ("jobfeatures/allocated_CPU", "1"),
        ],
        Version::V02 => &[
            ("created", "1699990000"),
            ("updated", "1699990010"),
            // People add ends of lines.
            ("jobfeatures/shutdowntime_job", "1700076400\n"),
            ("jobfeatures/allocated_cpu", "1"),
        ],
        Version::V03 => &[
            ("created", "1699990000"),
            ("updated", "1699990010"),
            ("manager", FACTORY),
            ("machinefeatures/shutdowntime", "1700076400"),
            ("jobfeatures/jobstart_secs", "0-1-2"),
        ],
    };
    for (file, text) in all.iter().chain(of_version).chain(more) {
        put(&dir.join(file), text);
    }
    dir
}

fn name(version: Version, n: u32) -> String {
    format!(
        "vcycle-atlas-{}00000{n:02}",
        format!("{version:?}").to_lowercase()
    )
}

/// A tree with a machine of each kind, and one that cannot be taken over.
fn put_tree(root: &Path) {
    let ended = ("stopped", "1699995000");
    put_machine(root, Version::V08, &name(Version::V08, 1), &[]);
    let bare = put_machine(
        root,
        Version::V08,
        &name(Version::V08, 2),
        &[("deleted", "None")],
    );
    std::fs::remove_dir_all(bare.join("joboutputs")).unwrap();
    put_machine(root, Version::V02, &name(Version::V02, 1), &[]);
    put_machine(root, Version::V02, &name(Version::V02, 2), &[ended]);
    put_machine(root, Version::V03, &name(Version::V03, 1), &[]);
    put_machine(root, Version::V03, &name(Version::V03, 2), &[ended]);
    let other = [("manager", "other.example.org")];
    put_machine(root, Version::V03, &name(Version::V03, 3), &other);
    put(
        &root
            .join("shared/last_abort_times")
            .join(SPACE)
            .join("atlas"),
        "1699990100",
    );
    put(
        &root
            .join("shared/heartbeatmachines")
            .join(SPACE)
            .join("atlas"),
        "",
    );
    for (day, name) in [
        ("20231101", "other"),
        ("20231114", name(Version::V02, 2).as_str()),
    ] {
        let record = format!(
            "APEL-individual-job-message: v0.3\nSite: x\nSubmitHost: x\nLocalJobId: 1\n\
             LocalUserId: {name}\nEndTime: 1699995000\n%%\n"
        );
        put(
            &root.join("apel-archive").join(day).join("00000000000001"),
            &record,
        );
    }
}

/// What `vcycled migrate --apply` does at a moment.
fn migrate_at(
    layout: &Layout,
    config: &Config,
    now: u64,
) -> Result<(apply::Done, Survey), StateError> {
    let store = Store::open_to_migrate(layout.clone())?;
    let tree = tree::read(layout, &mut |_| {})?;
    let records = Records::read(layout, tree.first_end())?;
    let factory = factory();
    let around = Around {
        config,
        factory: &factory,
        records: &records,
        now: Timestamp::from_unix(now),
    };
    let survey = survey(&tree, &around, None);
    let done = apply::apply(&store, &tree, &survey, around.now, &mut |_| {})?;
    Ok((done, survey))
}

fn migrate(layout: &Layout, config: &Config) -> Result<(apply::Done, Survey), StateError> {
    migrate_at(layout, config, NOW)
}

/// All files with mode and text, and the empty directories, but for locks and what grows.
fn contents(root: &Path) -> BTreeMap<PathBuf, (u32, Option<String>)> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, (u32, Option<String>)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().to_owned();
            if below.starts_with("tmp") || below.extension().is_some_and(|end| end == "lock") {
                continue;
            }
            let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
            if path.is_dir() {
                all.insert(below, (mode, None));
                walk(root, &path, all);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.replace(root.to_str().unwrap(), "/state");
                all.insert(below, (mode, Some(text)));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

/// The same, whatever is told when they are not.
fn assert_same(site: &Site, expected: &BTreeMap<PathBuf, (u32, Option<String>)>, when: &str) {
    let found = contents(&site.root());
    let paths = found.keys().chain(expected.keys());
    let others: Vec<_> = paths
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| (path, found.get(path), expected.get(path)))
        .collect();
    assert!(others.is_empty(), "{when}: {others:?}");
}

fn modified(path: &Path) -> Timestamp {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    Timestamp::from_system_time(time)
}

/// What a migration has to leave, beside the files: the times that daemons go by.
fn times(layout: &Layout) -> Vec<Timestamp> {
    let machine = |version| layout.machines().join(name(version, 1));
    vec![
        modified(&layout.last_scan(&space())),
        modified(&layout.taken_over(&space())),
        modified(&machine(Version::V02).join("joboutputs/heartbeat")),
        modified(&machine(Version::V03).join("joboutputs/heartbeat")),
    ]
}

/// Gives what the VMs and the old daemon wrote a time of its own.
fn age(root: &Path) {
    let at = |unix| SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
    let disk = Disk::default();
    let lists = root.join("shared/heartbeatmachines").join(SPACE);
    disk.touch(&lists.join("atlas"), at(1_699_999_000)).unwrap();
    for dir in [
        "machines".to_owned(),
        format!("shared/machines/current/{SPACE}"),
    ] {
        for machine in std::fs::read_dir(root.join(dir)).unwrap() {
            for file in ["started", "created", "updated", "stopped", "deleted"] {
                let path = machine.as_ref().unwrap().path().join(file);
                if path.exists() {
                    disk.touch(&path, at(1_699_997_000)).unwrap();
                }
            }
        }
    }
    let v02 = root.join("machines").join(name(Version::V02, 1));
    disk.touch(&v02.join("joboutputs/heartbeat"), at(1_699_998_000))
        .unwrap();
    let v03 = root.join("shared/machines/current").join(SPACE);
    let v03 = v03.join(name(Version::V03, 1)).join("joboutputs/heartbeat");
    disk.touch(&v03, at(1_699_998_100)).unwrap();
}

struct Site {
    dir: tempfile::TempDir,
    config: Config,
}

impl Site {
    fn new() -> Self {
        let dir = directory();
        let config = config(dir.path(), "heartbeat_file = heartbeat\n");
        put_tree(&dir.path().join("state"));
        age(&dir.path().join("state"));
        Self { dir, config }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn layout(&self) -> Layout {
        Layout::new(self.root())
    }

    fn layout_on(&self, watch: Arc<dyn Watch>) -> Layout {
        Layout::on(Disk::watched(watch), self.root())
    }

    /// What waits there, as a daemon finds it that had found it all before.
    fn waits(&self) -> Option<waiting::Waiting> {
        let names = [Version::V08, Version::V02].iter();
        let names = names.flat_map(|version| [1, 2].map(|n| name(*version, n)));
        let names = names.map(|name| name.parse().unwrap()).collect();
        waiting::look(&self.layout(), &factory(), &space(), Some(&names)).unwrap()
    }
}

/// Lets some effects happen, and then none any more, or all but one.
#[derive(Debug)]
struct Ends {
    left: usize,
    seen: AtomicUsize,
    for_good: bool,
}

impl Ends {
    fn after(left: usize, for_good: bool) -> Arc<Self> {
        Arc::new(Self {
            left,
            seen: AtomicUsize::new(0),
            for_good,
        })
    }
}

impl Watch for Ends {
    fn before(&self, effect: Effect<'_>) -> io::Result<()> {
        if matches!(effect, Effect::Read(_)) {
            return Ok(());
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        if seen == self.left || (self.for_good && seen > self.left) {
            return Err(io::Error::other("no more"));
        }
        Ok(())
    }
}

#[test]
fn a_tree_is_taken_over_as_a_whole() {
    let site = Site::new();
    let before = contents(&site.root());
    let found = site.waits().unwrap();
    assert_eq!((found.machines, found.begun), (6, false));
    let (done, survey) = migrate(&site.layout(), &site.config).unwrap();
    assert_eq!((done.machines, done.aborts), (6, 1));
    assert_eq!(survey.left.len(), 1);
    assert_eq!(site.waits(), None);
    let accounting = |name: &str| {
        let mut found = survey.machines.iter();
        let found = found.find(|(old, _)| old.name.as_str() == name);
        found.unwrap().1.accounting
    };
    assert_eq!(accounting(&name(Version::V02, 2)), Accounting::Written);
    assert_eq!(accounting(&name(Version::V03, 2)), Accounting::Missing);
    let after = contents(&site.root());
    let text = |path: &str| {
        let (_, text) = after.get(Path::new(path))?;
        text.as_deref()
    };
    let machine = |version, n| format!("machines/{}", name(version, n));
    for (version, n) in [
        (Version::V08, 1),
        (Version::V08, 2),
        (Version::V02, 1),
        (Version::V02, 2),
        (Version::V03, 1),
        (Version::V03, 2),
    ] {
        let dir = machine(version, n);
        let file = |file: &str| text(&format!("{dir}/{file}"));
        assert_eq!(file("manager"), Some(FACTORY), "{dir}");
        assert_eq!(file("created"), Some("1699990000"), "{dir}");
        assert_eq!(file("fizzle_seconds"), Some("600"), "{dir}");
        assert_eq!(file("https_x509dn"), Some("/DC=org/CN=vm"), "{dir}");
        assert_eq!(file("updated"), None, "{dir}");
        assert_eq!(
            after[Path::new(&format!("{dir}/user_data"))].0,
            0o600,
            "{dir}"
        );
        assert_eq!(
            after[Path::new(&format!("{dir}/joboutputs"))].0,
            0o755,
            "{dir}"
        );
        // All that was replaced or removed is there as it was, readable by nobody else.
        let kept = format!("migrated/{}", name(version, n));
        assert_eq!(after[Path::new(&kept)].0, 0o700, "{kept}");
        let old = match version {
            Version::V08 | Version::V02 => dir.clone(),
            Version::V03 => format!("shared/machines/current/{SPACE}/{}", name(version, n)),
        };
        for (path, (_, bytes)) in &before {
            if let (Ok(below), Some(bytes)) = (path.strip_prefix(&old), bytes) {
                let now = text(&format!("{dir}/{}", below.display()));
                let kept = text(&format!("{kept}/{}", below.display()));
                assert!(
                    now.or(kept) == Some(bytes) || kept == Some(bytes),
                    "{}",
                    path.display()
                );
            }
        }
    }
    assert_eq!(text(&format!("{}/deleted", machine(Version::V08, 2))), None);
    assert_eq!(
        text(&format!("{}/uuid", machine(Version::V03, 1))),
        Some("0-1-2")
    );
    assert_eq!(
        text(&format!("{}/uuid", machine(Version::V02, 2))),
        Some("1")
    );
    assert_eq!(
        text(&format!("{}/finished", machine(Version::V02, 2))),
        Some(NOW.to_string().as_str())
    );
    assert_eq!(
        text(&format!("{}/finished", machine(Version::V03, 2))),
        None
    );
    let left = format!("shared/machines/current/{SPACE}/{}", name(Version::V03, 3));
    assert_eq!(text("migrated/left"), Some(format!("{left}\n").as_str()));
    assert!(after.contains_key(Path::new(&left)));
    let kept = text(&format!(
        "migrated/{}/migration.json",
        name(Version::V08, 2)
    ));
    let kept: serde_json::Value = serde_json::from_str(kept.unwrap()).unwrap();
    let added = kept["added"].as_array().unwrap();
    for file in [
        "created",
        "joboutputs",
        "manager",
        "jobfeatures/allocated_cpu",
    ] {
        assert!(added.iter().any(|one| one == file), "{file}: {kept}");
    }
    assert_eq!(kept["replaced"], serde_json::json!(["user_data"]));
    assert_eq!(
        kept["removed"],
        serde_json::json!(["machinefeatures/hs06", "deleted"])
    );
    assert_eq!(kept["from"], kept["to"]);
    assert_eq!(
        times(&site.layout()),
        [1_699_999_000, NOW, 1_699_998_000, 1_699_998_100].map(Timestamp::from_unix)
    );
    let store = Store::open(site.layout()).unwrap();
    let machinetype = MachinetypeName::new("atlas").unwrap();
    let abort = store.last_abort_time(&space(), &machinetype).unwrap();
    assert_eq!(abort, Some(Timestamp::from_unix(1_699_990_100)));
    let loaded = store.load_machines().unwrap();
    assert!(loaded.unread.is_empty(), "{:?}", loaded.unread);
    assert_eq!(loaded.machines.len(), 6);
}

/// Ends a migration before each of its effects, as a kill does or as a disk that refuses one, and
/// runs it again, perhaps to end once more.
#[test]
fn whatever_is_cut_off_ends_as_if_nothing_had_been() {
    let whole = Site::new();
    let effects = Ends::after(usize::MAX, true);
    migrate(
        &whole.layout_on(Arc::clone(&effects) as Arc<dyn Watch>),
        &whole.config,
    )
    .unwrap();
    let effects = effects.seen.load(Ordering::Relaxed);
    assert!(effects > 200, "{effects} effects");
    let expected = contents(&whole.root());
    let mut refused = 0;
    for for_good in [true, false] {
        // A disk that refuses one says less than a kill.
        for left in (0..effects).step_by(if for_good { 1 } else { 7 }) {
            let site = Site::new();
            let before = contents(&site.root());
            let ended = migrate(&site.layout_on(Ends::after(left, for_good)), &site.config);
            // What cannot be thrown away of `tmp` is no failure.
            if ended.is_err() {
                refused += 1;
                let left_behind = contents(&site.root());
                let changed: Vec<_> = left_behind
                    .iter()
                    .filter(|(path, found)| before.get(*path) != Some(*found))
                    .filter(|(_, (_, text))| text.is_some())
                    .collect();
                let begun = site.layout().migration_begun().exists();
                // Only the marker's end was not yet on the disk.
                let is_done = left_behind == expected;
                assert!(
                    begun || is_done || changed.is_empty(),
                    "after {left}: {changed:?}"
                );
                assert_eq!(Store::open(site.layout()).is_err(), begun, "after {left}");
                assert_eq!(site.waits().is_some(), !is_done, "after {left}");
                if !for_good {
                    let growing = std::fs::read_dir(site.layout().tmp()).map_or(0, Iterator::count);
                    assert_eq!(growing, 0, "after {left}");
                }
                // Now and then it is cut off once more.
                if left % 3 == 0 {
                    let again = Ends::after(left / 2, for_good);
                    let _ended = migrate(&site.layout_on(again), &site.config);
                }
            } else {
                assert!(
                    !for_good,
                    "all of {effects} effects are needed, and {left} were there"
                );
            }
            let repeated = migrate(&site.layout(), &site.config);
            repeated.unwrap_or_else(|error| panic!("after {left}: {error}"));
            assert_same(&site, &expected, &format!("after {left} ({for_good})"));
            assert_eq!(
                times(&site.layout()),
                times(&whole.layout()),
                "after {left}"
            );
            assert_eq!(site.waits(), None, "after {left}");
            let tmp = std::fs::read_dir(site.layout().tmp()).unwrap();
            assert_eq!(tmp.count(), 0, "after {left}");
        }
    }
    println!("{effects} effects, ended {refused} times");
}

/// Who could not write before that was taken over gets as much time as anybody after a break.
#[test]
fn a_space_whose_machines_were_done_before_a_crash_counts_from_the_end() {
    let effects = effects_of_a_whole_one();
    let mut met = 0;
    for left in (0..effects.len()).rev().take(15) {
        let site = Site::new();
        let ended = migrate(&site.layout_on(Ends::after(left, true)), &site.config);
        if ended.is_ok() || site.waits().is_none_or(|found| found.machines > 0) {
            continue;
        }
        met += 1;
        assert!(site.waits().unwrap().begun);
        migrate_at(&site.layout(), &site.config, NOW + 5000).unwrap();
        let store = Store::open(site.layout()).unwrap();
        let at = store.taken_over(&space()).unwrap();
        assert_eq!(at, Some(Timestamp::from_unix(NOW + 5000)), "after {left}");
    }
    assert!(met > 3, "met {met} times");
}

/// What we have written before a crash is no sign of the old daemon.
#[test]
fn the_last_cycle_is_that_of_the_old_daemon_whatever_is_cut_off() {
    for left in (0..effects_of_a_whole_one().len()).step_by(5) {
        let site = Site::new();
        std::fs::remove_dir_all(site.root().join("shared/heartbeatmachines")).unwrap();
        let _ended = migrate(&site.layout_on(Ends::after(left, true)), &site.config);
        migrate(&site.layout(), &site.config).unwrap();
        let scan = modified(&site.layout().last_scan(&space()));
        assert_eq!(scan.unix(), 1_699_997_000, "after {left}");
    }
}

/// What one that is not cut off does to the disk.
fn effects_of_a_whole_one() -> Vec<String> {
    #[derive(Debug, Default)]
    struct Notes(std::sync::Mutex<Vec<String>>);
    impl Watch for Notes {
        fn before(&self, effect: Effect<'_>) -> io::Result<()> {
            if !matches!(effect, Effect::Read(_)) {
                self.0.lock().unwrap().push(format!("{effect:?}"));
            }
            Ok(())
        }
    }
    let (site, notes) = (Site::new(), Arc::new(Notes::default()));
    let watch = Arc::clone(&notes) as Arc<dyn Watch>;
    migrate(&site.layout_on(watch), &site.config).unwrap();
    let root = site.root();
    let notes = notes.0.lock().unwrap();
    let notes = notes.iter();
    notes
        .map(|note| note.replace(root.to_str().unwrap(), ""))
        .collect()
}

/// After a power loss, too, nothing is found half done without the marker.
#[test]
fn all_is_on_the_disk_before_the_marker_goes() {
    let effects = effects_of_a_whole_one();
    let at = |what: &str| {
        let found = effects.iter().rposition(|effect| effect.contains(what));
        found.unwrap_or_else(|| panic!("no {what}: {effects:#?}"))
    };
    let gone = at("RemoveFile(\"/migrated/begun\")");
    assert_eq!(at("SyncAll"), gone - 1, "{effects:#?}");
    let moved = at("Rename(\"/shared/machines/current");
    let synced = at("SyncDir(\"/shared/machines/current/example.org\")");
    assert!(moved < synced, "{effects:#?}");
}

#[test]
fn a_name_is_taken_over_once() {
    let site = Site::new();
    let root = site.root();
    // Of another space, whose directory comes later.
    let twin = put_machine(&root, Version::V03, "vcycle-atlas-twin000000", &[]);
    let other = root.join("shared/machines/current/other.example.org");
    std::fs::create_dir_all(&other).unwrap();
    Disk::default()
        .rename(&twin, &other.join("vcycle-atlas-twin000000"))
        .unwrap();
    put(
        &other.join("vcycle-atlas-twin000000/space_name"),
        "other.example.org",
    );
    put_machine(&root, Version::V03, "vcycle-atlas-twin000000", &[]);
    // Something is where it would go.
    put_machine(&root, Version::V03, "vcycle-atlas-blocked000", &[]);
    std::fs::create_dir(root.join("machines/vcycle-atlas-blocked000")).unwrap();
    // A link leads elsewhere.
    let elsewhere = root.join("machines").join(name(Version::V02, 1));
    let link = root.join("machines/vcycle-atlas-link000000");
    std::os::unix::fs::symlink(elsewhere, &link).unwrap();
    let (done, survey) = migrate(&site.layout(), &site.config).unwrap();
    assert_eq!(done.machines, 7);
    let why = |name: &str| {
        let left = survey
            .left
            .iter()
            .filter(|(old, _)| old.name.as_str() == name);
        left.map(|(_, why)| why.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert_eq!(
        why("vcycle-atlas-twin000000"),
        "another machine of the tree has its name"
    );
    let blocked = why("vcycle-atlas-blocked000");
    assert!(blocked.contains("has no space_name"), "{blocked}");
    assert!(blocked.contains("is in its way"), "{blocked}");
    assert_eq!(why("vcycle-atlas-link000000"), "");
    assert!(link.symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_second_migration_beside_a_daemon_is_refused() {
    let site = Site::new();
    let first = Store::open_beside(site.layout()).unwrap();
    let second = Store::open_beside(site.layout());
    assert!(matches!(second, Err(StateError::Locked { .. })));
    drop(first);
    Store::open_beside(site.layout()).unwrap();
}

#[test]
fn what_is_known_to_be_later_stays() {
    let site = Site::new();
    let store = Store::open(site.layout()).unwrap();
    let machinetype = MachinetypeName::new("atlas").unwrap();
    let late = Timestamp::from_unix(NOW - 5);
    store
        .set_last_abort_time(&space(), &machinetype, late)
        .unwrap();
    let dir = site.layout().space(&space());
    Disk::default().create_dir_all(&dir).unwrap();
    store.set_last_scan(&space(), late).unwrap();
    drop(store);
    let (done, _) = migrate(&site.layout(), &site.config).unwrap();
    assert_eq!(done.aborts, 0);
    let store = Store::open(site.layout()).unwrap();
    let abort = store.last_abort_time(&space(), &machinetype).unwrap();
    assert_eq!(abort, Some(late));
    assert_eq!(store.last_scan(&space()).unwrap(), Some(late));
}

#[test]
fn the_last_cycle_is_known_by_lists_by_files_or_by_what_is_said() {
    let site = Site::new();
    let of = |site: &Site, said: Option<u64>| {
        let tree = tree::read(&site.layout(), &mut |_| {}).unwrap();
        let factory = factory();
        let around = Around {
            config: &site.config,
            factory: &factory,
            records: &Records::default(),
            now: Timestamp::from_unix(NOW + 1_000_000_000),
        };
        let survey = survey(&tree, &around, said.map(Timestamp::from_unix));
        survey.last_cycles[&space()].0.unix()
    };
    assert_eq!(of(&site, Some(5)), 5);
    assert_eq!(
        of(&site, Some(NOW + 2_000_000_000)),
        NOW + 1_000_000_000,
        "not after now"
    );
    assert_eq!(of(&site, None), 1_699_999_000);
    // In 01 and 02 they were below the space.
    std::fs::remove_dir_all(site.root().join("shared/heartbeatmachines")).unwrap();
    let list = site
        .root()
        .join("spaces")
        .join(SPACE)
        .join("heartbeatmachines/atlas");
    put(&list, "");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_699_998_500);
    Disk::default().touch(&list, time).unwrap();
    assert_eq!(of(&site, None), 1_699_998_500);
    // Without lists: the latest of its machines' files.
    std::fs::remove_dir_all(list.parent().unwrap()).unwrap();
    assert_eq!(of(&site, None), 1_699_997_000);
}

#[test]
fn what_waits_is_what_a_migration_would_take_over() {
    let site = Site::new();
    let layout = site.layout();
    let everywhere = || waiting::everywhere(&layout, &factory()).unwrap();
    assert_eq!(everywhere()[&space()].machines, 6);
    let stranger = FactoryName::new("stranger.example.org").unwrap();
    let theirs = waiting::everywhere(&layout, &stranger).unwrap();
    assert_eq!(theirs[&space()].machines, 4, "those of 03 are not theirs");
    // A machine of 03 without a manager, and one that no machine can be called.
    let current = site.root().join("shared/machines/current").join(SPACE);
    put(&current.join("vcycle-atlas-nobodys000/space_name"), SPACE);
    put(&current.join("Nobody/space_name"), SPACE);
    assert_eq!(everywhere()[&space()].machines, 7);
    migrate(&layout, &site.config).unwrap();
    assert!(
        everywhere().is_empty(),
        "what was left keeps nobody waiting"
    );
    // Another migration that leaves nothing takes the list away.
    let left = std::fs::read_to_string(layout.left_by_migration()).unwrap();
    assert_eq!(left.lines().count(), 2, "{left}");
    std::fs::remove_dir_all(&current).unwrap();
    migrate(&layout, &site.config).unwrap();
    assert!(!layout.left_by_migration().exists());
}
