//! Carries a survey out. Each step may be the last before a crash, and all may be repeated.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plan::{Change, Plan};
use super::tree::{Kind, Old, Tree, directories, name_of};
use super::{Survey, plan};
use crate::model::{MachinetypeName, SpaceName, Timestamp};
use crate::state::{Layout, StateError, Store, disk, failed};

/// What has been done.
#[derive(Debug, Default)]
pub struct Done {
    /// Machines that have been taken over.
    pub machines: usize,
    /// Times of aborts that have been taken over.
    pub aborts: usize,
}

/// Does everything, in a state directory whose lock the store holds. `progress` is told how many
/// machines are done.
///
/// # Errors
/// When something cannot be written. Then no daemon starts before this has been called again and
/// has come through.
pub fn apply(
    store: &Store,
    tree: &Tree,
    survey: &Survey,
    now: Timestamp,
    progress: &mut dyn FnMut(usize),
) -> Result<Done, StateError> {
    let layout = store.layout();
    let mut done = Done::default();
    check_file_systems(layout, survey)?;
    let goes_on = begin(layout, now)?;
    for (space, machinetype, at) in &tree.aborts {
        if is_news(store, space, machinetype, *at)? {
            store.set_last_abort_time(space, machinetype, *at)?;
            done.aborts += 1;
        }
    }
    // Before the machines: from the first of them on, the tree no longer says it.
    for (space, (at, _)) in &survey.last_cycles {
        let dir = layout.space(space);
        layout
            .disk()
            .create_dir_all(&dir)
            .map_err(failed("create", &dir))?;
        // What has been written since then is no sign of the old daemon.
        let is_newer = |known| !goes_on && known < *at;
        if store.last_scan(space)?.is_none_or(is_newer) {
            set_time_of(layout, &layout.last_scan(space), *at)?;
        }
    }
    let spaces = spaces_of(store, survey, goes_on)?;
    for space in &spaces {
        let dir = layout.space(space);
        layout
            .disk()
            .create_dir_all(&dir)
            .map_err(failed("create", &dir))?;
        set_time_of(layout, &layout.taken_over(space), now)?;
    }
    for (old, plan) in &survey.machines {
        take_over(layout, old, plan, now)?;
        done.machines += 1;
        progress(done.machines);
    }
    note_left(layout, survey)?;
    let root = layout.root();
    layout.disk().sync_all(root).map_err(failed("sync", root))?;
    let marker = layout.migration_begun();
    layout
        .disk()
        .remove_file(&marker)
        .map_err(failed("remove", &marker))?;
    Ok(done)
}

/// Whether a later abort of the machinetype is known now than was before.
///
/// # Errors
/// When what is known cannot be read.
pub fn is_news(
    store: &Store,
    space: &SpaceName,
    machinetype: &MachinetypeName,
    at: Timestamp,
) -> Result<bool, StateError> {
    let known = store.last_abort_time(space, machinetype)?;
    Ok(known.is_none_or(|known| known < at))
}

/// The spaces with machines that are taken over, or were before a crash.
fn spaces_of(
    store: &Store,
    survey: &Survey,
    goes_on: bool,
) -> Result<BTreeSet<SpaceName>, StateError> {
    let plans = survey.machines.iter().map(|(_, plan)| plan);
    let mut spaces: BTreeSet<_> = plans.map(|plan| plan.space.clone()).collect();
    if goes_on {
        for dir in directories(&store.layout().spaces())? {
            let space = name_of(&dir).and_then(|name| SpaceName::new(name).ok());
            if let Some(space) = space
                && store.taken_over(&space)?.is_some()
            {
                spaces.insert(space);
            }
        }
    }
    Ok(spaces)
}

/// Puts the marker there that keeps daemons from starting; says whether it was there.
fn begin(layout: &Layout, now: Timestamp) -> Result<bool, StateError> {
    let (disk, kept) = (layout.disk(), layout.migrated());
    disk.create_dir_all(&kept)
        .map_err(failed("create", &kept))?;
    let marker = layout.migration_begun();
    if marker.symlink_metadata().is_ok() {
        return Ok(true);
    }
    let text = now.to_string();
    disk.write(&layout.tmp(), &marker, text.as_bytes(), disk::PUBLIC)
        .map_err(failed("write", &marker))?;
    Ok(false)
}

/// A directory can be moved, and a file kept by a link, on one file system only: one that was shared
/// between factories may be on another. This is found out before anything is begun.
fn check_file_systems(layout: &Layout, survey: &Survey) -> Result<(), StateError> {
    let device = |path: &Path| {
        let found = std::fs::metadata(path).map_err(failed("look at", path))?;
        Ok::<_, StateError>(found.dev())
    };
    let ours = device(layout.root())?;
    for path in [layout.machines(), layout.tmp()]
        .iter()
        .chain(survey.machines.iter().map(|(old, _)| &old.dir))
    {
        if device(path)? != ours {
            let root = layout.root().display();
            return Err(StateError::Damaged {
                path: path.clone(),
                what: format!(
                    "is on another file system than {root}: copy it there first, with cp -a, which keeps the times of heartbeats"
                ),
            });
        }
    }
    Ok(())
}

/// Puts an empty file of that time in its place, in one step: one that has been made and does not yet
/// have its time would be taken for one of now, by who goes on after a crash.
fn set_time_of(layout: &Layout, path: &Path, time: Timestamp) -> Result<(), StateError> {
    let disk = layout.disk();
    let growing = disk::temporary_path(&layout.tmp());
    let made = disk
        .create_synced(&growing, b"", disk::PUBLIC)
        .and_then(|()| disk.touch(&growing, time.to_system_time()))
        .and_then(|()| disk.sync_file(&growing))
        .and_then(|()| disk.rename(&growing, path));
    if made.is_err() {
        disk.discard(&growing);
    }
    made.map_err(failed("set the time of", path))
}

/// Names what could not be taken over, for which a daemon is not to wait.
fn note_left(layout: &Layout, survey: &Survey) -> Result<(), StateError> {
    let (disk, path) = (layout.disk(), layout.left_by_migration());
    let dirs = survey.left.iter().filter_map(|(old, _)| {
        let below = old.dir.strip_prefix(layout.root()).ok()?;
        Some(format!("{}\n", below.display()))
    });
    let text: String = dirs.collect();
    match text.is_empty() {
        true => disk.remove_file(&path).map_err(failed("remove", &path)),
        false => disk
            .write(&layout.tmp(), &path, text.as_bytes(), disk::PUBLIC)
            .map_err(failed("write", &path)),
    }
}

fn take_over(layout: &Layout, old: &Old, plan: &Plan, now: Timestamp) -> Result<(), StateError> {
    keep(layout, old, plan, now)?;
    for change in &plan.changes {
        change_one(layout, old, change)?;
    }
    let place = layout.machine(&old.name);
    match old.kind {
        Kind::Flat => Ok(()),
        Kind::Shared if place.exists() => Err(StateError::Damaged {
            path: place,
            what: format!("is in the way of {}", old.dir.display()),
        }),
        Kind::Shared => {
            let from = disk::directory_of(&old.dir);
            let disk = layout.disk();
            let machines = layout.machines();
            disk.create_dir_all(&machines)
                .map_err(failed("create", &machines))?;
            disk.rename(&old.dir, &place)
                .map_err(failed("move here the directory of the old daemon:", &place))?;
            disk.sync_dir(from).map_err(failed("sync", from))
        }
    }
}

/// Keeps what will be replaced or removed, and a list of what will be done, in a directory that
/// appears whole. One that is there is from before a crash, and has what was there at first.
fn keep(layout: &Layout, old: &Old, plan: &Plan, now: Timestamp) -> Result<(), StateError> {
    let place = layout.migrated().join(&old.name);
    if place.exists() {
        return Ok(());
    }
    let disk = layout.disk();
    let growing = disk::temporary_path(&layout.tmp());
    let fill = || -> io::Result<()> {
        disk.create_dir(&growing, 0o700)?;
        for file in changed_files(plan) {
            let from = old.dir.join(file);
            if from.symlink_metadata().is_ok() {
                let to = growing.join(file);
                disk.create_dir_all(disk::directory_of(&to))?;
                disk.link(&from, &to)?;
                disk.sync_dir(disk::directory_of(&to))?;
            }
        }
        let text = description(layout, old, plan, now).to_string();
        disk.create_synced(
            &growing.join("migration.json"),
            text.as_bytes(),
            disk::PUBLIC,
        )?;
        disk.sync_dir(&growing)?;
        disk.rename(&growing, &place)
    };
    let kept = fill();
    if kept.is_err() {
        disk.discard(&growing);
    }
    kept.map_err(failed("keep the files of the machine in", &place))
}

fn changed_files(plan: &Plan) -> impl Iterator<Item = &'static str> {
    plan.changes.iter().filter_map(|change| match change {
        Change::Write(file, _) | Change::Remove(file) => Some(*file),
        Change::Hide => Some("user_data"),
        Change::Joboutputs => None,
    })
}

fn description(layout: &Layout, old: &Old, plan: &Plan, now: Timestamp) -> Value {
    let files = |is_meant: &dyn Fn(&Change) -> Option<&'static str>| -> Vec<&'static str> {
        plan.changes.iter().filter_map(is_meant).collect()
    };
    let place: PathBuf = layout.machine(&old.name);
    let is_there = |file: &str| old.files.contains_key(file);
    json!({
        "machine": old.name,
        "time": now,
        "from": old.dir.to_string_lossy(),
        "to": place.to_string_lossy(),
        "added": files(&|change| match change {
            Change::Write(file, _) if !is_there(file) => Some(*file),
            Change::Joboutputs => Some("joboutputs"),
            Change::Write(..) | Change::Remove(_) | Change::Hide => None,
        }),
        "replaced": files(&|change| match change {
            Change::Write(file, _) if is_there(file) => Some(*file),
            Change::Hide => Some("user_data"),
            Change::Write(..) | Change::Remove(_) | Change::Joboutputs => None,
        }),
        "removed": files(&|change| match change {
            Change::Remove(file) => Some(*file),
            Change::Write(..) | Change::Hide | Change::Joboutputs => None,
        }),
    })
}

fn change_one(layout: &Layout, old: &Old, change: &plan::Change) -> Result<(), StateError> {
    let (disk, tmp) = (layout.disk(), layout.tmp());
    match change {
        Change::Write(file, text) => {
            let path = old.dir.join(file);
            let directory = disk::directory_of(&path);
            disk.create_dir_all(directory)
                .map_err(failed("create", directory))?;
            disk.write(&tmp, &path, text.as_bytes(), disk::PUBLIC)
                .map_err(failed("write", &path))
        }
        Change::Remove(file) => {
            let path = old.dir.join(file);
            disk.remove_file(&path).map_err(failed("remove", &path))
        }
        Change::Hide => {
            let path = old.dir.join("user_data");
            std::fs::read(&path)
                .and_then(|bytes| disk.write(&tmp, &path, &bytes, disk::PRIVATE))
                .map_err(failed("write", &path))
        }
        Change::Joboutputs => {
            let path = old.dir.join("joboutputs");
            disk.create_dir(&path, 0o755)
                .map_err(failed("create", &path))
        }
    }
}
