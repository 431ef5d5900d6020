//! Takes over the state directory of GridPP's Vcycle, 0.8 to 03.00, with the machines that run.
//!
//! Those versions had two trees. Up to 02 a machine's directory was `machines/NAME`, as ours is,
//! with fewer files; in 03 it was `shared/machines/current/SPACE/NAME`. [`tree`] reads both,
//! [`plan`] says what has to be written so that our daemon knows a machine, and [`apply`] writes
//! it. [`running`] finds out whether the old daemon is still at work, [`waiting`] what the
//! daemon has to leave alone until all this is done, and [`options`] what older options come to.
//!
//! What holds:
//!
//! 1. Nothing is asked of a cloud, and no machine's directory is removed.
//! 2. Each step can be repeated. A marker is on disk before the first and until after the last, and
//!    no daemon starts while it is there ([`crate::state::Store::open`]).
//! 3. What is replaced or removed has been kept before, and what was done to a machine is written
//!    down beside it, before it is done.
//! 4. A machine that had ended, and whose record the old daemon wrote, is `finished`: it is not
//!    written again.
//!
//! The names and formats here are those that the sources of Vcycle have (`shared.py` in 0.6, 02 and
//! 03, and `vcycle.httpd.inc`).

pub mod apply;
pub mod options;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod running;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use crate::account::ledger::{self, Range};
use crate::account::message::JobRecord;
use crate::config::Config;
use crate::model::{FactoryName, SpaceName, Timestamp};
use crate::state::{Layout, StateError};
use plan::Plan;
use tree::{Kind, Old, Tree};

/// The records that there are of machines of the tree.
#[derive(Debug, Default)]
pub struct Records {
    /// By the name of the machine, which the old daemon wrote as LocalUserId.
    by_name: BTreeMap<String, JobRecord>,
    /// By the cloud's identifier.
    by_id: BTreeMap<String, JobRecord>,
    /// The first day of the archive, as its directory is named.
    first_day: Option<String>,
}

impl Records {
    /// Reads those of machines that ended at `since` or later.
    ///
    /// # Errors
    /// When the archive cannot be listed.
    pub fn read(layout: &Layout, since: Option<Timestamp>) -> Result<Self, StateError> {
        let Some(since) = since else {
            return Ok(Self::default());
        };
        let range = Range {
            since: Some(since),
            until: None,
        };
        let mut records = Self {
            first_day: ledger::first_day(layout)?,
            ..Self::default()
        };
        for entry in ledger::read(layout, range)?.entries {
            let record = entry.record;
            if let Some(name) = record.field("LocalUserId") {
                records.by_name.insert(name.to_owned(), record.clone());
            }
            let id = record.key.local_job_id.clone();
            records.by_id.insert(id, record);
        }
        Ok(records)
    }

    /// The record of a machine.
    pub fn of(&self, name: &str, id: Option<&str>) -> Option<&JobRecord> {
        let by_id = || self.by_id.get(id?);
        self.by_name.get(name).or_else(by_id)
    }

    /// Whether the archive still has the records of machines that ended then.
    pub fn reach_back_to(&self, end: Timestamp) -> bool {
        let day = end.to_chrono().map(|end| end.format("%Y%m%d").to_string());
        // Directories are named by the day of writing, in the zone of the host.
        let first = self.first_day.as_deref();
        first.is_some_and(|first| day.is_some_and(|day| first < day.as_str()))
    }
}

/// What is decided with.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// This factory.
    pub factory: &'a FactoryName,
    /// The records that there are.
    pub records: &'a Records,
    /// Now.
    pub now: Timestamp,
}

/// What is to become of the tree.
#[derive(Debug, Default)]
pub struct Survey {
    /// The machines that are taken over.
    pub machines: Vec<(Old, Plan)>,
    /// Those that are left, and why.
    pub left: Vec<(Old, String)>,
    /// The last complete cycle of the old daemon in each space with machines, and how that is
    /// known.
    pub last_cycles: BTreeMap<SpaceName, (Timestamp, &'static str)>,
}

/// Decides about every machine of a tree. `last_cycle` is what the admin says of the old daemon.
pub fn survey(tree: &Tree, around: &Around<'_>, last_cycle: Option<Timestamp>) -> Survey {
    let mut survey = Survey::default();
    let mut names = BTreeSet::new();
    let flat = tree.machines.iter().filter(|old| old.kind == Kind::Flat);
    let flat: BTreeSet<_> = flat.map(|old| &old.name).collect();
    for old in &tree.machines {
        let planned = plan::plan(old, around).and_then(|plan| {
            // Two spaces of one tree could have a machine of one name; one directory cannot. And a
            // daemon of ours that was started too early has adopted those of 03.
            if tree.ours.contains(&old.name) {
                Err(format!(
                    "machines/{} is there already, and of ours",
                    old.name
                ))
            } else if old.kind == Kind::Shared && flat.contains(&old.name) {
                Err(format!("machines/{} is in its way", old.name))
            } else if names.insert(old.name.clone()) {
                Ok(plan)
            } else {
                Err("another machine of the tree has its name".to_owned())
            }
        });
        match planned {
            Ok(plan) => {
                let known = match last_cycle {
                    Some(said) => Some((said, "as --last-cycle says")),
                    None => tree.last_cycles.get(&plan.space).copied(),
                };
                if let Some((at, how)) = known {
                    let at = at.min(around.now);
                    survey.last_cycles.insert(plan.space.clone(), (at, how));
                }
                survey.machines.push((old.clone(), plan));
            }
            Err(why) => survey.left.push((old.clone(), why)),
        }
    }
    survey
}
