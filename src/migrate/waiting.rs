//! Which machines of an older version wait to be taken over. Only reads.
//!
//! The daemon asks this, so that it does nothing in a space before `vcycled migrate` has been there:
//! such machines cannot write their heartbeats to us, and the records of those that have ended may
//! have been written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::{directories, name_of};
use crate::account::message::list;
use crate::model::{FactoryName, MachineName, SpaceName};
use crate::state::{Layout, StateError, failed, read_small};

/// What waits in one space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// So many machines; 0 when all are done and the migration has not ended.
    pub machines: usize,
    /// The directory of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<PathBuf>,
    /// Whether a migration was begun and has not ended.
    pub begun: bool,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = &self.first {
            write!(
                f,
                "{} machine(s) of GridPP's Vcycle wait to be taken over, the first in {}: ",
                self.machines,
                first.display()
            )?;
        }
        f.write_str(match self.begun {
            true => {
                "a migration was begun and has not ended: vcycled migrate --apply goes on with it"
            }
            false => {
                "stop the old daemon, run vcycled migrate to see what would be done, and then vcycled migrate --apply"
            }
        })
    }
}

/// The machines in `machines` that wait, by space. A space that has some only in the tree of 03 is
/// there without any.
pub type OldMachines = BTreeMap<SpaceName, BTreeSet<MachineName>>;

/// All that wait: of these names in `machines`, and in the tree of 03.
///
/// # Errors
/// When the tree of 03 cannot be read.
pub fn of_tree(
    layout: &Layout,
    factory: &FactoryName,
    names: impl Iterator<Item = MachineName>,
) -> Result<OldMachines, StateError> {
    let mut left = Left::of(layout);
    let mut old = OldMachines::new();
    for name in names {
        let place = layout.machine(&name);
        // What cannot be looked at is told by whoever reads the directory.
        if is_old(layout, &name).unwrap_or_default()
            && let Ok(Some(space)) = space_of(layout, &place)
            && !left.has(&place)?
        {
            old.entry(space).or_default().insert(name);
        }
    }
    for dir in directories(&current(layout))? {
        let space = name_of(&dir).and_then(|name| SpaceName::new(name).ok());
        let Some(space) = space else { continue };
        if !shared(layout, factory, &space, &mut left)?.is_empty() {
            old.entry(space).or_default();
        }
    }
    Ok(old)
}

/// The names of all machines in `machines`.
///
/// # Errors
/// When they cannot be listed.
pub fn names(layout: &Layout) -> Result<Vec<MachineName>, StateError> {
    let paths = list(&layout.machines())?;
    let names = paths.iter().filter_map(|path| name_of(path));
    Ok(names
        .filter_map(|name| MachineName::new(name).ok())
        .collect())
}

/// What waits in a space of which `old` was known to wait in `machines`; `None` where nothing was
/// known to wait anywhere.
///
/// # Errors
/// When that cannot be found out.
pub fn look(
    layout: &Layout,
    factory: &FactoryName,
    space: &SpaceName,
    old: Option<&BTreeSet<MachineName>>,
) -> Result<Option<Waiting>, StateError> {
    let mut left = Left::of(layout);
    let mut waiting = Vec::new();
    for name in old.into_iter().flatten() {
        let place = layout.machine(name);
        if is_old(layout, name)? && !left.has(&place)? {
            waiting.push(place);
        }
    }
    waiting.extend(shared(layout, factory, space, &mut left)?);
    // It is written before the first of them is changed, and removed after all: where it is not
    // there and nothing waits, everything is done.
    let begun = is_there(&layout.migration_begun())?;
    if waiting.is_empty() && !(begun && old.is_some()) {
        return Ok(None);
    }
    Ok(Some(Waiting {
        machines: waiting.len(),
        first: waiting.into_iter().next(),
        begun,
    }))
}

/// What waits in every space, found out anew.
///
/// # Errors
/// When that cannot be found out.
pub fn everywhere(
    layout: &Layout,
    factory: &FactoryName,
) -> Result<BTreeMap<SpaceName, Waiting>, StateError> {
    let old = of_tree(layout, factory, names(layout)?.into_iter())?;
    let mut all = BTreeMap::new();
    for (space, machines) in old {
        if let Some(waiting) = look(layout, factory, &space, Some(&machines))? {
            all.insert(space, waiting);
        }
    }
    Ok(all)
}

/// Whether a directory in `machines` was made by an older version and has not been taken over.
///
/// A directory of ours appears whole, with `manager` in it, so that no crash leaves one without.
/// One that has lost it otherwise is known by `fizzle_seconds`, which older versions never wrote; a
/// migration does, after it has kept what it changes.
///
/// # Errors
/// When that cannot be found out.
pub fn is_old(layout: &Layout, name: &MachineName) -> Result<bool, StateError> {
    let dir = layout.machine(name);
    if !is_there(&dir.join("space_name"))? || is_there(&dir.join("manager"))? {
        return Ok(false);
    }
    // Ours writes these after `manager`.
    if !is_there(&dir.join("machinefeatures"))? && !is_there(&dir.join("jobfeatures"))? {
        return Ok(false);
    }
    Ok(!is_there(&dir.join("fizzle_seconds"))? || is_there(&layout.migrated().join(name))?)
}

fn is_there(path: &Path) -> Result<bool, StateError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn space_of(layout: &Layout, dir: &Path) -> Result<Option<SpaceName>, StateError> {
    let text = read_small(layout.disk(), &dir.join("space_name"))?;
    Ok(text.and_then(|text| SpaceName::new(text.trim()).ok()))
}

/// Where 03 has the machines that it looks after, by space.
fn current(layout: &Layout) -> PathBuf {
    layout.root().join("shared/machines/current")
}

/// The directories of a space in the tree of 03, but for those of other factories, which may have
/// shared the tree, and what a migration has left.
fn shared(
    layout: &Layout,
    factory: &FactoryName,
    space: &SpaceName,
    left: &mut Left<'_>,
) -> Result<Vec<PathBuf>, StateError> {
    let mut found = Vec::new();
    for dir in directories(&current(layout).join(space))? {
        let is_machine = name_of(&dir).is_some_and(|name| MachineName::new(name).is_ok());
        if !is_machine || left.has(&dir)? {
            continue;
        }
        // Who cannot be read may be us.
        let manager = read_small(layout.disk(), &dir.join("manager")).unwrap_or_default();
        let manager = manager.as_deref().map(str::trim);
        if manager.is_none_or(|manager| manager.is_empty() || manager == factory.as_str()) {
            found.push(dir);
        }
    }
    Ok(found)
}

/// The directories that the last migration could not take over, and has named. Read when the first
/// is asked for.
struct Left<'a> {
    layout: &'a Layout,
    dirs: Option<BTreeSet<PathBuf>>,
}

impl<'a> Left<'a> {
    const fn of(layout: &'a Layout) -> Self {
        Self { layout, dirs: None }
    }

    fn has(&mut self, dir: &Path) -> Result<bool, StateError> {
        if let Some(dirs) = &self.dirs {
            return Ok(dirs.contains(dir));
        }
        let path = self.layout.left_by_migration();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if is_absence(&error) => String::new(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let root = self.layout.root();
        let dirs: BTreeSet<_> = text.lines().map(|line| root.join(line)).collect();
        let is_left = dirs.contains(dir);
        self.dirs = Some(dirs);
        Ok(is_left)
    }
}
