//! The disk of a factory: a real directory, and beside it a model that knows what of it would be
//! there after a power loss.
//!
//! What the model assumes is no more than POSIX gives: bytes are durable after fsync of the file,
//! names after fsync of the directory. What was not synced may be there or not, each name and the
//! end of each file for itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use vcycle::state::disk::{Disk, Effect, Watch};

use crate::earth::Earth;
use crate::power::Power;

type Id = usize;
const ROOT: Id = 0;

#[derive(Clone, Debug)]
enum Node {
    File {
        live: Vec<u8>,
        /// Bytes that are synced, from the beginning.
        durable: usize,
        modified: SystemTime,
    },
    Directory {
        live: BTreeMap<String, Id>,
        durable: BTreeMap<String, Id>,
    },
}

impl Node {
    fn directory() -> Self {
        Self::Directory {
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
        }
    }
}

/// What goes wrong with the disk at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Nothing new fits.
    pub full: bool,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Each step takes a second.
    pub slow: bool,
    /// Paths that contain this cannot be read or replaced.
    pub denied: Option<String>,
}

/// The disk with one state directory.
#[derive(Debug)]
pub struct SimDisk {
    root: PathBuf,
    state: Mutex<State>,
    earth: Arc<Earth>,
}

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    faults: DiskFaults,
    refused: BTreeMap<&'static str, u64>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// Watches `root`, which exists and is empty.
    pub fn new(root: &Path, earth: Arc<Earth>) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::new(State {
                nodes: vec![Node::directory()],
                faults: DiskFaults::default(),
                refused: BTreeMap::new(),
            }),
            earth,
        }
    }

    /// The disk as a process sees it that runs on `power`.
    pub fn seen_by(self: &Arc<Self>, power: &Arc<Power>) -> Disk {
        Disk::watched(Arc::new(Watcher {
            disk: Arc::clone(self),
            power: Arc::clone(power),
        }))
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        lock(&self.state).faults = faults;
    }

    pub fn is_well(&self) -> bool {
        lock(&self.state).faults == DiskFaults::default()
    }

    /// How often the disk refused something, by kind.
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.state).refused.clone()
    }

    /// The power goes: the directory is what a disk could show afterwards.
    pub fn lose_power(&self, rng: &mut ChaCha8Rng) {
        let mut state = lock(&self.state);
        state.note_times(&self.root, ROOT);
        let mut times = BTreeMap::new();
        directory_times(&self.root, &mut times);
        let mut survived = vec![Node::directory()];
        let entries = state.survive(ROOT, rng, &mut survived);
        survived[ROOT] = Node::Directory {
            live: entries.clone(),
            durable: entries,
        };
        state.nodes = survived;
        for entry in fs::read_dir(&self.root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        state.lay_out(&self.root, ROOT);
        // Times of directories go to the disk with their entries; here they simply stay.
        for (path, time) in times {
            if let Ok(directory) = fs::File::open(path) {
                directory.set_modified(time).unwrap();
            }
        }
    }

    /// Somebody removes a directory, with all below it, past the daemon.
    pub fn remove(&self, path: &Path) {
        let names = |path: &Path| self.names(path);
        lock(&self.state).mirror(names, Effect::RemoveTree(path));
        fs::remove_dir_all(path).unwrap();
    }

    /// Whether a file or directory, with all below it, would be there after a power loss.
    pub fn is_durable(&self, path: &Path) -> bool {
        let names = self.names(path).unwrap_or_default();
        let state = lock(&self.state);
        let mut above = ROOT;
        for name in &names {
            match state.durable_entry(above, name) {
                Some(id) => above = id,
                None => return false,
            }
        }
        state.is_durable(above)
    }

    /// What differs between the directory and what its watch has seen being done to it.
    pub fn difference(&self) -> Option<String> {
        lock(&self.state).difference(&self.root, ROOT)
    }

    fn names(&self, path: &Path) -> Option<Vec<String>> {
        let below = path.strip_prefix(&self.root).ok()?;
        below
            .components()
            .map(|part| match part {
                Component::Normal(name) => Some(name.to_str()?.to_owned()),
                _ => None,
            })
            .collect()
    }
}

/// The modification times of all directories below `path`.
fn directory_times(path: &Path, times: &mut BTreeMap<PathBuf, SystemTime>) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let modified = entry.metadata().unwrap().modified().unwrap();
            times.insert(entry.path(), modified);
            directory_times(&entry.path(), times);
        }
    }
}

/// One process at a disk.
#[derive(Debug)]
struct Watcher {
    disk: Arc<SimDisk>,
    power: Arc<Power>,
}

impl Watch for Watcher {
    fn before(&self, effect: Effect<'_>) -> io::Result<()> {
        let mut state = lock(&self.disk.state);
        if self.power.is_dead() {
            return Err(io::Error::other("the process is dead"));
        }
        let slow = state.faults.slow;
        state.fault(effect)?;
        if !matches!(effect, Effect::Read(_)) {
            let dead = |_| io::Error::other("the process is dead");
            self.power.effect().map_err(dead)?;
            state.mirror(|path| self.disk.names(path), effect);
        }
        drop(state);
        if slow {
            self.disk.earth.pass_a_second();
        }
        Ok(())
    }
}

impl State {
    fn fault(&mut self, effect: Effect<'_>) -> io::Result<()> {
        let faults = &self.faults;
        let shown = |path: &Path| {
            let text = path.to_string_lossy();
            faults
                .denied
                .as_ref()
                .is_some_and(|denied| text.contains(denied.as_str()))
        };
        let (kind, error) = match effect {
            Effect::Read(path)
            | Effect::Rename(_, path)
            | Effect::Exchange(_, path)
            | Effect::Link(_, path)
                if shown(path) =>
            {
                ("permission denied", io::ErrorKind::PermissionDenied)
            }
            // There is nothing to sync on a disk that cannot be changed.
            Effect::Read(_) | Effect::SyncFile(_) | Effect::SyncDir(_) | Effect::SyncAll(_) => {
                return Ok(());
            }
            _ if faults.read_only => ("read-only", io::ErrorKind::ReadOnlyFilesystem),
            Effect::CreateDir(_) | Effect::Write(..) if faults.full => {
                ("disk full", io::ErrorKind::StorageFull)
            }
            _ => return Ok(()),
        };
        *self.refused.entry(kind).or_default() += 1;
        Err(error.into())
    }

    fn find(&self, names: &[String]) -> Option<Id> {
        names
            .iter()
            .try_fold(ROOT, |id, name| match &self.nodes[id] {
                Node::Directory { live, .. } => live.get(name).copied(),
                Node::File { .. } => None,
            })
    }

    /// What has this name in a directory, now and after a power loss.
    fn durable_entry(&self, directory: Id, name: &str) -> Option<Id> {
        match &self.nodes[directory] {
            Node::Directory { live, durable } if live.get(name) == durable.get(name) => {
                live.get(name).copied()
            }
            Node::Directory { .. } | Node::File { .. } => None,
        }
    }

    fn is_durable(&self, id: Id) -> bool {
        match &self.nodes[id] {
            Node::File { live, durable, .. } => *durable == live.len(),
            Node::Directory { live, durable } => {
                live == durable && live.values().all(|id| self.is_durable(*id))
            }
        }
    }

    fn live_entries(&mut self, names: &[String]) -> Option<&mut BTreeMap<String, Id>> {
        let id = self.find(names)?;
        match &mut self.nodes[id] {
            Node::Directory { live, .. } => Some(live),
            Node::File { .. } => None,
        }
    }

    fn add(&mut self, names: &[String], node: Node) {
        let Some((name, parent)) = names.split_last() else {
            return;
        };
        let id = self.nodes.len();
        if self.find(names).is_none() && self.find(parent).is_some() {
            self.nodes.push(node);
            self.live_entries(parent).unwrap().insert(name.clone(), id);
        }
    }

    /// Does to the model what is about to be done to the directory, failures included.
    fn mirror(&mut self, names: impl Fn(&Path) -> Option<Vec<String>>, effect: Effect<'_>) {
        let place = |path: &Path| names(path);
        // A power loss may bring back what goes now, with the time that it has.
        if let Effect::Rename(_, gone) | Effect::RemoveFile(gone) | Effect::RemoveTree(gone) =
            effect
            && let Some(id) = place(gone).and_then(|names| self.find(&names))
        {
            self.note_times(gone, id);
        }
        match effect {
            Effect::Read(_) | Effect::SetTime(_) => {}
            Effect::CreateFile(path) => {
                if let Some(names) = place(path) {
                    let node = Node::File {
                        live: Vec::new(),
                        durable: 0,
                        modified: SystemTime::UNIX_EPOCH,
                    };
                    self.add(&names, node);
                }
            }
            Effect::CreateDir(path) => {
                if let Some(names) = place(path) {
                    self.add(&names, Node::directory());
                }
            }
            Effect::Write(path, bytes) => {
                if let Some(Node::File { live, .. }) = self.node(place(path)) {
                    live.extend_from_slice(bytes);
                }
            }
            Effect::SyncFile(path) => {
                if let Some(Node::File { live, durable, .. }) = self.node(place(path)) {
                    *durable = live.len();
                }
            }
            Effect::SyncDir(path) => {
                if let Some(Node::Directory { live, durable }) = self.node(place(path)) {
                    durable.clone_from(live);
                }
            }
            Effect::SyncAll(_) => self.nodes.iter_mut().for_each(|node| match node {
                Node::File { live, durable, .. } => *durable = live.len(),
                Node::Directory { live, durable } => durable.clone_from(live),
            }),
            Effect::Rename(from, to) => {
                if let (Some(from), Some(to)) = (place(from), place(to)) {
                    self.rename(&from, &to);
                }
            }
            Effect::Exchange(from, to) => {
                if let (Some(from), Some(to)) = (place(from), place(to))
                    && let (Some(one), Some(other)) = (self.find(&from), self.find(&to))
                {
                    self.give(&from, other);
                    self.give(&to, one);
                }
            }
            Effect::Link(from, to) => {
                if let (Some(from), Some(to)) = (place(from), place(to))
                    && let Some(id) = self.find(&from)
                    && self.find(&to).is_none()
                {
                    self.give(&to, id);
                }
            }
            Effect::RemoveFile(path) | Effect::RemoveTree(path) => {
                if let Some(names) = place(path)
                    && let Some((name, parent)) = names.split_last()
                    && let Some(entries) = self.live_entries(parent)
                {
                    entries.remove(name);
                }
            }
        }
    }

    /// Lets this name lead to that node.
    fn give(&mut self, names: &[String], id: Id) {
        if let Some((name, parent)) = names.split_last()
            && let Some(entries) = self.live_entries(parent)
        {
            entries.insert(name.clone(), id);
        }
    }

    fn node(&mut self, names: Option<Vec<String>>) -> Option<&mut Node> {
        let id = self.find(&names?)?;
        self.nodes.get_mut(id)
    }

    fn rename(&mut self, from: &[String], to: &[String]) {
        let Some(id) = self.find(from) else { return };
        let (Some((from, from_parent)), Some((to, to_parent))) =
            (from.split_last(), to.split_last())
        else {
            return;
        };
        if self.find(to_parent).is_some() {
            self.live_entries(from_parent).unwrap().remove(from);
            self.live_entries(to_parent).unwrap().insert(to.clone(), id);
        }
    }

    /// Takes the modification times from the directory, of what is there.
    fn note_times(&mut self, path: &Path, id: Id) {
        match &mut self.nodes[id] {
            Node::File { modified, .. } => {
                if let Ok(metadata) = fs::metadata(path) {
                    *modified = metadata.modified().unwrap();
                }
            }
            Node::Directory { live, .. } => {
                for (name, id) in live.clone() {
                    self.note_times(&path.join(name), id);
                }
            }
        }
    }

    /// What is left of a directory's entries.
    fn survive(
        &self,
        id: Id,
        rng: &mut ChaCha8Rng,
        survived: &mut Vec<Node>,
    ) -> BTreeMap<String, Id> {
        let Node::Directory { live, durable } = &self.nodes[id] else {
            unreachable!("only called for directories");
        };
        let mut names: Vec<&String> = live.keys().chain(durable.keys()).collect();
        names.sort();
        names.dedup();
        let mut entries = BTreeMap::new();
        for name in names {
            let (new, old) = (live.get(name), durable.get(name));
            let chosen = if new == old || rng.random_bool(0.5) {
                new
            } else {
                old
            };
            let Some(&chosen) = chosen else { continue };
            let place = survived.len();
            match &self.nodes[chosen] {
                Node::File {
                    live,
                    durable,
                    modified,
                } => {
                    let length = rng.random_range(*durable..=live.len());
                    survived.push(Node::File {
                        live: live[..length].to_vec(),
                        durable: length,
                        modified: *modified,
                    });
                }
                Node::Directory { .. } => {
                    survived.push(Node::directory());
                    let below = self.survive(chosen, rng, survived);
                    survived[place] = Node::Directory {
                        live: below.clone(),
                        durable: below,
                    };
                }
            }
            entries.insert(name.clone(), place);
        }
        entries
    }

    fn lay_out(&self, path: &Path, id: Id) {
        let Node::Directory { live, .. } = &self.nodes[id] else {
            unreachable!("only called for directories");
        };
        for (name, id) in live {
            let path = path.join(name);
            match &self.nodes[*id] {
                Node::File { live, modified, .. } => {
                    fs::write(&path, live).unwrap();
                    let file = fs::File::options().append(true).open(&path).unwrap();
                    file.set_modified(*modified).unwrap();
                }
                Node::Directory { .. } => {
                    fs::create_dir(&path).unwrap();
                    self.lay_out(&path, *id);
                }
            }
        }
    }

    fn difference(&self, path: &Path, id: Id) -> Option<String> {
        match &self.nodes[id] {
            Node::File { live, .. } => match fs::read(path) {
                Ok(bytes) if bytes == *live => None,
                Ok(_) => Some(format!("{} has other bytes", path.display())),
                Err(error) => Some(format!("{}: {error}", path.display())),
            },
            Node::Directory { live, .. } => {
                for entry in fs::read_dir(path).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    // The lock is opened, not written.
                    if !live.contains_key(&name) && name != "vcycled.lock" {
                        return Some(format!("{} appeared", path.join(name).display()));
                    }
                }
                live.iter()
                    .find_map(|(name, id)| self.difference(&path.join(name), *id))
            }
        }
    }
}
