//! What a state directory of Vcycle holds. Only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::waiting;
use crate::account::message::list;
use crate::model::{MachineName, MachinetypeName, SpaceName, Timestamp};
use crate::state::{Layout, StateError, read_small};

/// Where a machine's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `machines/NAME`, up to 02.
    Flat,
    /// `shared/machines/current/SPACE/NAME`, in 03.
    Shared,
}

/// The directory of a machine that the old daemon made.
#[derive(Clone, Debug)]
pub struct Old {
    /// Its name, which both daemons give it on the cloud too.
    pub name: MachineName,
    /// Its directory.
    pub dir: PathBuf,
    /// In which kind of tree.
    pub kind: Kind,
    /// The text of its small files, without blanks at their ends, by their names below the
    /// directory; without user_data, which may hold secrets.
    pub files: BTreeMap<String, String>,
    /// The permissions of user_data, if there is one.
    pub user_data_mode: Option<u32>,
    /// What the machine has written; `None` when it has no directory for that.
    pub joboutputs: Option<BTreeSet<String>>,
    /// When the oldest of its files was written.
    pub oldest: Timestamp,
}

impl Old {
    /// A file with something in it.
    pub fn text(&self, file: &str) -> Option<&str> {
        let text = self.files.get(file).map(String::as_str);
        text.filter(|text| !text.is_empty())
    }

    /// A file with a whole number.
    pub fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.parse().ok()
    }

    /// A file with a moment.
    pub fn time(&self, file: &str) -> Option<Timestamp> {
        self.number(file).map(Timestamp::from_unix)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Tree {
    /// What `VERSION` says.
    pub version: Option<String>,
    /// The machines, by name.
    pub machines: Vec<Old>,
    /// The machines that have directories of ours.
    pub ours: BTreeSet<MachineName>,
    /// Directories of machines that have ended and that the cloud had removed.
    pub ended: Vec<PathBuf>,
    /// The last abort of machinetypes, where 03 kept it.
    pub aborts: Vec<(SpaceName, MachinetypeName, Timestamp)>,
    /// The last sign of the old daemon in each space, and what it is.
    pub last_cycles: BTreeMap<SpaceName, (Timestamp, &'static str)>,
    /// What cannot be read or understood, and why.
    pub unread: Vec<(PathBuf, String)>,
    /// The first thing of a machine that belongs to another user than us, and which.
    pub someone_elses: Option<(PathBuf, u32)>,
    /// What else is there and of no use any more.
    pub unused: Vec<PathBuf>,
}

impl Tree {
    /// Whether there is anything of an old version.
    pub fn is_old(&self) -> bool {
        !self.machines.is_empty() || !self.aborts.is_empty() || self.has_shared()
    }

    /// Whether there is a tree as of 03.
    pub fn has_shared(&self) -> bool {
        let is_shared = |old: &Old| old.kind == Kind::Shared;
        self.machines.iter().any(is_shared) || !self.ended.is_empty() || !self.unused.is_empty()
    }

    /// When the first of its machines ended that have.
    pub fn first_end(&self) -> Option<Timestamp> {
        let ends = self.machines.iter().filter_map(|old| old.time("stopped"));
        ends.min()
    }
}

/// Files whose modification times are signs of the old daemon, which it writes in no cycle but when
/// something happens.
const SIGNS: [&str; 5] = ["created", "started", "updated", "stopped", "deleted"];

/// Reads everything. `progress` is told how many machines have been read.
///
/// # Errors
/// When a directory cannot be listed.
pub fn read(layout: &Layout, progress: &mut dyn FnMut(usize)) -> Result<Tree, StateError> {
    let root = layout.root();
    let shared = root.join("shared");
    let mut tree = Tree {
        version: version(layout),
        ..Tree::default()
    };
    let mut signs = BTreeMap::new();
    for dir in directories(&layout.machines())? {
        read_machine(layout, dir, Kind::Flat, &mut tree, &mut signs);
        progress(tree.machines.len() + tree.ours.len());
    }
    for dir in shared_machines(layout)? {
        read_machine(layout, dir, Kind::Shared, &mut tree, &mut signs);
        progress(tree.machines.len() + tree.ours.len());
    }
    tree.machines.sort_by(|a, b| a.name.cmp(&b.name));
    for space in directories(&shared.join("machines/deleted"))? {
        tree.ended.extend(directories(&space)?);
    }
    tree.ended
        .extend(directories(&shared.join("machines/finished"))?);
    read_aborts(layout, &shared.join("last_abort_times"), &mut tree)?;
    tree.last_cycles = signs;
    // Lists of heartbeats were written at the end of each complete scan.
    let lists = directories(&shared.join("heartbeatmachines"))?.into_iter();
    let mut lists: Vec<_> = lists.map(|dir| (dir.clone(), dir)).collect();
    for space in directories(&layout.spaces())? {
        lists.push((space.clone(), space.join("heartbeatmachines")));
    }
    for (space, dir) in lists {
        let Some(space) = name_of(&space).and_then(|name| SpaceName::new(name).ok()) else {
            continue;
        };
        let times = list(&dir)?.into_iter().filter_map(|path| modified(&path));
        if let Some(at) = times.max() {
            let how = "by its lists of heartbeats";
            tree.last_cycles.insert(space, (at, how));
        }
    }
    for name in ["heartbeatmachines", "tmp"] {
        let path = shared.join(name);
        if path.exists() {
            tree.unused.push(path);
        }
    }
    Ok(tree)
}

/// The directories of machines that 03 looked after.
///
/// # Errors
/// When they cannot be listed.
pub fn shared_machines(layout: &Layout) -> Result<Vec<PathBuf>, StateError> {
    let mut found = Vec::new();
    for space in directories(&layout.root().join("shared/machines/current"))? {
        found.extend(directories(&space)?);
    }
    Ok(found)
}

/// `VERSION=01.00.00` as `01.00.00`.
fn version(layout: &Layout) -> Option<String> {
    let text = read_small(layout.disk(), &layout.root().join("VERSION")).ok()??;
    let (_, version) = text.lines().next()?.split_once('=')?;
    Some(version.trim().to_owned())
}

pub(super) fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The directories in a directory, by name; links lead elsewhere and are none.
pub(super) fn directories(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let mut found = list(dir)?;
    found.retain(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()));
    found.sort();
    Ok(found)
}

fn modified(path: &Path) -> Option<Timestamp> {
    let time = fs::symlink_metadata(path).and_then(|found| found.modified());
    time.ok().map(Timestamp::from_system_time)
}

/// Whether it is not ours. One that has no space waits for nothing, and is told of.
fn is_old(layout: &Layout, name: &MachineName) -> bool {
    let dir = layout.machine(name);
    let is_there = |file: &str| dir.join(file).symlink_metadata().is_ok();
    match is_there("space_name") {
        true => waiting::is_old(layout, name).unwrap_or_default(),
        false => !is_there("manager"),
    }
}

fn read_machine(
    layout: &Layout,
    dir: PathBuf,
    kind: Kind,
    tree: &mut Tree,
    signs: &mut BTreeMap<SpaceName, (Timestamp, &'static str)>,
) {
    let named = name_of(&dir).unwrap_or_default();
    let name = match MachineName::new(named) {
        Ok(name) => name,
        Err(why) => {
            tree.unread.push((dir, why.to_string()));
            return;
        }
    };
    if kind == Kind::Shared || is_old(layout, &name) {
        let found = tree.someone_elses.take();
        tree.someone_elses = found.or_else(|| someone_elses(&dir));
    }
    match contents(layout, name, &dir, kind) {
        // A daemon that runs beside us has just removed it.
        Ok(old) if !old.dir.exists() => {}
        Ok(old) if kind == Kind::Flat && !is_old(layout, &old.name) => {
            tree.ours.insert(old.name);
        }
        Ok(old) => {
            let space = old
                .text("space_name")
                .and_then(|text| SpaceName::new(text).ok());
            let times = SIGNS.iter().filter_map(|file| modified(&dir.join(file)));
            if let (Some(space), Some(at)) = (space, times.max()) {
                let sign = signs.entry(space).or_default();
                *sign = (sign.0.max(at), "by the latest file of its machines");
            }
            tree.machines.push(old);
        }
        Err(error) => tree.unread.push((dir, error.to_string())),
    }
}

/// The old daemon ran as root, also after our package had given the directory to a user of its own:
/// what it made since then that user can neither read nor change.
fn someone_elses(dir: &Path) -> Option<(PathBuf, u32)> {
    let us = rustix::process::geteuid();
    if us.is_root() {
        return None;
    }
    let subs = ["machinefeatures", "jobfeatures", "joboutputs"].map(|sub| dir.join(sub));
    // What a web server has written in joboutputs may belong to it.
    let inside = [dir, &subs[0], &subs[1]];
    let inside = inside
        .into_iter()
        .flat_map(|dir| list(dir).unwrap_or_default());
    let all = [dir.to_owned()]
        .into_iter()
        .chain(subs.clone())
        .chain(inside);
    all.into_iter().find_map(|path| {
        let owner = fs::symlink_metadata(&path).ok()?.uid();
        (owner != us.as_raw()).then_some((path, owner))
    })
}

fn contents(layout: &Layout, name: MachineName, dir: &Path, kind: Kind) -> Result<Old, StateError> {
    let mut files = BTreeMap::new();
    let mut times = vec![modified(dir)];
    for (prefix, sub) in [
        ("", dir.to_owned()),
        ("machinefeatures/", dir.join("machinefeatures")),
        ("jobfeatures/", dir.join("jobfeatures")),
    ] {
        for path in list(&sub)? {
            let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
            let Some(file) = name_of(&path).filter(|file| is_file && *file != "user_data") else {
                continue;
            };
            times.push(modified(&path));
            if let Some(text) = read_small(layout.disk(), &path)? {
                files.insert(format!("{prefix}{file}"), text.trim().to_owned());
            }
        }
    }
    let mode = |found: Metadata| found.mode() & 0o777;
    let joboutputs = dir.join("joboutputs");
    let written = list(&joboutputs)?;
    let written = written.iter().filter_map(|path| name_of(path));
    let written = written.map(str::to_owned).collect();
    Ok(Old {
        files,
        user_data_mode: fs::symlink_metadata(dir.join("user_data")).ok().map(mode),
        joboutputs: joboutputs.is_dir().then_some(written),
        oldest: times.into_iter().flatten().min().unwrap_or_default(),
        dir: dir.to_owned(),
        name,
        kind,
    })
}

fn read_aborts(layout: &Layout, dir: &Path, tree: &mut Tree) -> Result<(), StateError> {
    for space in directories(dir)? {
        for path in list(&space)? {
            let names = name_of(&space)
                .zip(name_of(&path))
                .and_then(|(space, kind)| {
                    Some((
                        SpaceName::new(space).ok()?,
                        MachinetypeName::new(kind).ok()?,
                    ))
                });
            let text = read_small(layout.disk(), &path)?.unwrap_or_default();
            match (names, text.trim().parse()) {
                (Some((space, kind)), Ok(at)) => tree.aborts.push((space, kind, at)),
                _ => {
                    let why = "is no time of an abort of a machinetype";
                    tree.unread.push((path, why.to_owned()));
                }
            }
        }
    }
    Ok(())
}
