//! What must hold of copies of joboutputs (log_joboutputs) at the end.

use std::collections::BTreeMap;

use vcycle::model::{MachineFiles, Seconds, Timestamp};
use vcycle::state::{Published, SHUTDOWN_MESSAGE, Store};

use crate::disk::SimDisk;
use crate::plan::Configuration;

/// A machine that has finished is copied within two cycles.
const SOON: u64 = 120;

/// Whether each machine that has finished is copied, whole, once and durably.
///
/// # Errors
/// With what is wrong.
pub fn copies_are_whole(
    store: &Store,
    disk: &SimDisk,
    configuration: &Configuration,
    directories: &BTreeMap<String, MachineFiles>,
    now: u64,
) -> Result<u64, String> {
    let mut copies = 0;
    for (name, files) in directories {
        let Some(finished) = files.finished else {
            continue;
        };
        let mut spaces = configuration.spaces.iter();
        let space = spaces.find(|space| space.name == files.space.as_str());
        let kind = space.and_then(|space| {
            let mut kinds = space.kinds.iter();
            kinds.find(|kind| kind.name == files.machinetype.as_str())
        });
        let above = store
            .layout()
            .joboutputs_of(&files.space, &files.machinetype);
        let place = above.join(name);
        if above.join(format!(".{name}")).exists() && files.logged.is_some() {
            return Err(format!("half a copy of {name} is left beside the whole"));
        }
        if !kind.is_some_and(|kind| kind.keeps_outputs()) {
            if place.exists() {
                return Err(format!("{name} was copied, which nobody asked for"));
            }
            continue;
        }
        if files.logged.is_none() {
            if finished.unix() + SOON < now {
                return Err(format!("{name} finished at {finished} and is not copied"));
            }
            continue;
        }
        let outputs = store.layout().published(&files.name, Published::Joboutputs);
        if !place.exists() {
            // What came after the end is not copied. Our own messages have times of the real clock.
            let logged = files.logged.unwrap_or_default();
            let is_ours_and_late = files.deleted.is_some_and(|deleted| deleted > logged);
            let early = std::fs::read_dir(&outputs).unwrap().filter_map(|entry| {
                let entry = entry.unwrap();
                if entry.file_name() == SHUTDOWN_MESSAGE && is_ours_and_late {
                    return None;
                }
                let modified = entry.metadata().unwrap().modified().unwrap();
                let modified = Timestamp::from_system_time(modified);
                (modified + Seconds::new(SOON) < logged).then(|| (entry.file_name(), modified))
            });
            let early: Vec<_> = early.collect();
            if !early.is_empty() {
                return Err(format!(
                    "{name} has no copy, made at {logged}, of {early:?}: {files:?}"
                ));
            }
            continue;
        }
        copies += 1;
        if !disk.is_durable(&place) {
            return Err(format!("a power loss could take the copy of {name}"));
        }
        match std::fs::read_to_string(place.join(SHUTDOWN_MESSAGE)) {
            Ok(text) if text.is_empty() => {
                return Err(format!("the message in the copy of {name} is empty"));
            }
            _ => {}
        }
    }
    Ok(copies)
}
