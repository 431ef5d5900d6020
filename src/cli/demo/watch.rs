//! What the demo can be seen to do. Everything here is read from the files of the state
//! directory, as a site's own scripts could; nothing is asked of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::model::{MachineFiles, MachineName, MachinetypeName, Seconds, SpaceName, Timestamp};
use crate::state::{Layout, StateError, Store};

use super::site::{BACKOFF, FIZZLE, Kind, Role, Site};

/// The file of the VMs' heartbeats.
const HEARTBEAT: &str = "heartbeat";

/// The demo at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub now: Timestamp,
    pub rows: Vec<Row>,
    /// Accounting records in the archive.
    pub archived: usize,
    /// Those of them that wait to be sent.
    pub outgoing: usize,
    /// Heartbeats that were seen to arrive.
    pub heartbeats: u64,
    /// Finished machines that ran long enough to be accounted for.
    pub accountable: usize,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// One machinetype at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub kind: Kind,
    pub created: usize,
    pub starting: usize,
    pub running: usize,
    pub ended: usize,
    /// Machines that ended with work done.
    pub succeeded: usize,
    /// Machines that ended with a code that counts as an abort.
    pub aborted: usize,
    /// Times that it began to back off.
    pub backoffs: usize,
    /// Until when it backs off, if it does.
    pub backing_off_until: Option<Timestamp>,
}

/// Follows the state directory and remembers what later looks cannot see any more.
#[derive(Debug)]
pub(super) struct Watcher {
    store: Store,
    kinds: Vec<Kind>,
    heartbeats: BTreeMap<MachineName, Timestamp>,
    heartbeats_seen: u64,
    backoffs: BTreeMap<(SpaceName, MachinetypeName), Backoffs>,
}

/// How often a machinetype has begun to back off.
#[derive(Clone, Copy, Debug, Default)]
struct Backoffs {
    count: usize,
    last_abort: Option<Timestamp>,
}

impl Backoffs {
    /// An abort begins a backoff unless one is under way, which it only makes longer.
    fn note(&mut self, abort: Timestamp) {
        if self.last_abort == Some(abort) {
            return;
        }
        if self.last_abort.is_none_or(|last| abort >= last + BACKOFF) {
            self.count += 1;
        }
        self.last_abort = Some(abort);
    }
}

impl Watcher {
    pub(super) fn new(site: &Site) -> Self {
        Self {
            store: Store::open_to_read(&site.state_dir),
            kinds: site.kinds.clone(),
            heartbeats: BTreeMap::new(),
            heartbeats_seen: 0,
            backoffs: BTreeMap::new(),
        }
    }

    /// Looks at everything once.
    pub(super) fn look(&mut self, now: Timestamp) -> Result<View, StateError> {
        let loaded = self.store.load_machines()?;
        for machine in &loaded.machines {
            self.note_heartbeat(&machine.name);
        }
        // Machines whose directory has been removed are not remembered.
        let names: BTreeSet<&MachineName> = loaded.machines.iter().map(|m| &m.name).collect();
        self.heartbeats.retain(|name, _| names.contains(name));
        let mut rows = Vec::new();
        for kind in self.kinds.clone() {
            rows.push(self.row(kind, &loaded.machines, now)?);
        }
        let layout = self.store.layout();
        Ok(View {
            now,
            rows,
            archived: count_records(&layout.apel_archive()),
            outgoing: count_records(&layout.apel_outgoing()),
            heartbeats: self.heartbeats_seen,
            accountable: loaded.machines.iter().filter(|m| is_accountable(m)).count(),
            problems: loaded.unread.iter().map(ToString::to_string).collect(),
        })
    }

    /// A directory that has gone meanwhile has none.
    fn note_heartbeat(&mut self, name: &MachineName) {
        let written = self.store.heartbeat(name, HEARTBEAT).ok().flatten();
        if let Some(written) = written
            && self.heartbeats.insert(name.clone(), written) != Some(written)
        {
            self.heartbeats_seen += 1;
        }
    }

    fn row(
        &mut self,
        kind: Kind,
        machines: &[MachineFiles],
        now: Timestamp,
    ) -> Result<Row, StateError> {
        let last_abort = self.store.last_abort_time(&kind.space, &kind.machinetype)?;
        let backoffs = self
            .backoffs
            .entry((kind.space.clone(), kind.machinetype.clone()))
            .or_default();
        if let Some(abort) = last_abort {
            backoffs.note(abort);
        }
        let backoffs = backoffs.count;

        let is_mine = |machine: &&MachineFiles| {
            machine.space == kind.space && machine.machinetype == kind.machinetype
        };
        let mine: Vec<&MachineFiles> = machines.iter().filter(is_mine).collect();
        let alive = || mine.iter().filter(|machine| machine.stopped.is_none());
        let (mut succeeded, mut aborted) = (0, 0);
        for machine in mine.iter().filter(|machine| machine.stopped.is_some()) {
            match self
                .store
                .shutdown_message(&machine.name)?
                .and_then(|message| message.code())
            {
                Some(200) => succeeded += 1,
                Some(300..700) => aborted += 1,
                _ => {}
            }
        }
        Ok(Row {
            created: mine.len(),
            starting: alive().filter(|machine| machine.started.is_none()).count(),
            running: alive().filter(|machine| machine.started.is_some()).count(),
            ended: mine.len() - alive().count(),
            succeeded,
            aborted,
            backoffs,
            backing_off_until: last_abort
                .map(|abort| abort + BACKOFF)
                .filter(|until| *until > now),
            kind,
        })
    }
}

impl View {
    /// Machines of all rows with this role, starting or running, as (row's share, machines).
    pub(super) fn shares(&self) -> Vec<(u32, usize)> {
        self.rows
            .iter()
            .filter(|row| row.kind.role == Role::Works)
            .map(|row| (row.kind.share, row.starting + row.running))
            .collect()
    }
}

/// Whether there has to be an accounting record.
fn is_accountable(machine: &MachineFiles) -> bool {
    let ran = match (machine.started, machine.stopped, machine.finished) {
        (Some(started), Some(stopped), Some(_)) => stopped.since(started),
        _ => Seconds::new(0),
    };
    ran >= FIZZLE
}

/// Files two levels down: the days, and the records in them.
fn count_records(dir: &Path) -> usize {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    entries(dir).map(|day| entries(&day.path()).count()).sum()
}

/// How many servers the embedded cloud of a space has, `None` when its file cannot be read.
pub(super) fn servers_left(layout: &Layout, space: &SpaceName) -> Option<usize> {
    let file = layout
        .root()
        .join("simulated")
        .join(format!("{space}.json"));
    let text = fs::read(file).ok()?;
    let kept: serde_json::Value = serde_json::from_slice(&text).ok()?;
    kept.get("servers")?.as_array().map(Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_within_a_backoff_belong_to_it() {
        let count = |times: &[u64]| {
            let mut backoffs = Backoffs::default();
            for time in times {
                backoffs.note(Timestamp::from_unix(*time));
            }
            backoffs.count
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[1000]), 1);
        assert_eq!(count(&[1000, 1000, 1100, 1699]), 1);
        assert_eq!(count(&[1000, 1600]), 2);
        assert_eq!(count(&[1000, 1500, 2099, 2699, 2699]), 2);
    }
}
