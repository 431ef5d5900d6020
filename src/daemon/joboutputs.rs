//! Copies of joboutputs (log_joboutputs): made beside the passes of a space, because files can be
//! large and disks slow, and removed beside the driver when their time has come.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::pass::Pass;
use crate::blocking;
use crate::clock::Clock;
use crate::config::{Config, SpaceConfig};
use crate::decide::Bookkeeping;
use crate::model::{MachineName, MachinetypeName, Seconds, Timestamp};
use crate::record::KeepOutcome;
use crate::state::{Kept, StateError, Store, TimeFile};
use crate::telemetry::Repeats;

/// How long copies are kept when no configuration has ever said so: the default of joboutputs_days.
const USUALLY_KEPT: Seconds = Seconds::new(3 * 86_400);
/// The longest between two looks for copies whose time has come.
const LOOK: u64 = 600;

/// A machine whose files are to be copied, and its machinetype.
type Wanted = (MachineName, MachinetypeName);

/// The copies of one space that are being made: one job at a time.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    job: JoinSet<Vec<KeepOutcome>>,
}

impl Keeper {
    /// What has been copied since it was last asked.
    fn collect(&mut self) -> Vec<KeepOutcome> {
        let mut outcomes = Vec::new();
        while let Some(ended) = self.job.try_join_next() {
            match ended {
                Ok(more) => outcomes.extend(more),
                Err(failed) => error!(
                    error = %failed,
                    "copying joboutputs ended in an internal error; the next cycle tries again"
                ),
            }
        }
        outcomes
    }
}

impl Pass<'_> {
    /// Takes over what has been copied since the pass before.
    pub(super) fn collect_joboutputs(&mut self) {
        let outcomes = self.known.keeper.collect();
        self.recorder().kept_joboutputs(&outcomes);
    }

    /// Begins to copy what machines have left, unless that is under way for others.
    pub(super) fn keep_joboutputs(&mut self, wanted: Vec<Wanted>) {
        if wanted.is_empty() || !self.known.keeper.job.is_empty() {
            return;
        }
        let store = Arc::clone(&self.common.store);
        let config = Arc::clone(&self.config);
        let (clock, stop) = (self.common.clock.clone(), self.common.stop.clone());
        let work = move || copy_all(&store, &config, wanted, &clock, &stop);
        self.known.keeper.job.spawn(blocking::run(work));
    }
}

/// The machines that are to be copied by these actions.
pub(super) fn wanted(actions: &[Bookkeeping]) -> Vec<Wanted> {
    let wanted = actions.iter().filter_map(|action| {
        if let Bookkeeping::KeepJoboutputs {
            machine,
            machinetype,
        } = action
        {
            Some((machine.clone(), machinetype.clone()))
        } else {
            None
        }
    });
    wanted.collect()
}

/// Copies for one machine after the other. Blocks. A disk that is full is full for all.
fn copy_all(
    store: &Store,
    config: &SpaceConfig,
    wanted: Vec<Wanted>,
    clock: &Clock,
    stop: &CancellationToken,
) -> Vec<KeepOutcome> {
    let mut outcomes = Vec::new();
    for (machine, machinetype) in wanted {
        if stop.is_cancelled() {
            break;
        }
        let result = copy_one(store, config, (&machine, &machinetype), clock, stop);
        let is_full = matches!(&result, Err(problem) if problem.is_disk_full());
        outcomes.push(KeepOutcome { machine, result });
        if is_full {
            break;
        }
    }
    outcomes
}

/// Copies for one machine, and writes down that this is done: in this order, so that after a crash
/// in between the copy is found, not made again.
fn copy_one(
    store: &Store,
    config: &SpaceConfig,
    (machine, machinetype): (&MachineName, &MachinetypeName),
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(Timestamp, Kept), StateError> {
    let now = clock.now();
    let kind = (&config.name, machinetype);
    if let Some(configured) = config.machinetypes.get(machinetype) {
        store.note_joboutputs_time(&config.name, machinetype, configured.joboutputs_kept)?;
    }
    let kept = store.keep_joboutputs(kind, machine, now, &|| stop.is_cancelled())?;
    store.set_time(machine, TimeFile::Logged, now)?;
    Ok((now, kept))
}

/// Removes copies whose time has come, of all spaces and machinetypes, configured or not.
#[derive(Debug, Default)]
pub(super) struct Janitor {
    job: JoinSet<Looked>,
    looked: Option<Timestamp>,
    /// The shortest time that copies are kept which are there.
    shortest: Option<Seconds>,
}

/// What a look for old copies has shown and done.
#[derive(Debug, Default)]
struct Looked {
    removed: usize,
    shortest: Option<Seconds>,
    problem: Option<StateError>,
}

impl Janitor {
    /// Once a tick: takes over what has been done, and begins to look when it is time to.
    pub(super) fn tend(
        &mut self,
        store: &Arc<Store>,
        config: &Arc<Config>,
        now: Timestamp,
        repeats: &mut Repeats,
    ) {
        while let Some(ended) = self.job.try_join_next() {
            if let Ok(looked) = &ended {
                self.shortest = looked.shortest;
            }
            tell(ended, repeats);
        }
        let pause = self.pause(config);
        let is_time = self
            .looked
            .is_none_or(|looked| now.since(looked) >= pause || now < looked);
        if !is_time || !self.job.is_empty() {
            return;
        }
        self.looked = Some(now);
        let (store, config) = (Arc::clone(store), Arc::clone(config));
        self.job
            .spawn(blocking::run(move || expire_all(&store, &config, now)));
    }

    /// Between two looks: a hundredth of the shortest time that copies are kept, so that none is
    /// kept noticeably longer, but not more often than once a second and at least every ten
    /// minutes.
    fn pause(&self, config: &Config) -> Seconds {
        let machinetypes = config
            .spaces
            .values()
            .flat_map(|space| space.machinetypes.values());
        let shortest = machinetypes
            .map(|configured| configured.joboutputs_kept)
            .chain(self.shortest)
            .min();
        Seconds::new(shortest.map_or(LOOK, |kept| (kept.get() / 100).clamp(1, LOOK)))
    }
}

fn tell(ended: Result<Looked, tokio::task::JoinError>, repeats: &mut Repeats) {
    const SUBJECT: &str = "old copies of joboutputs";
    let problem = match ended {
        Ok(looked) => {
            if looked.removed > 0 {
                info!("removed {} old cop(ies) of joboutputs", looked.removed);
            }
            looked.problem.map(|problem| problem.to_string())
        }
        Err(failed) => Some(failed.to_string()),
    };
    let Some(problem) = problem else {
        repeats.is_over(SUBJECT);
        return;
    };
    if repeats.is_news(SUBJECT, &problem) {
        error!("{problem}; old copies of joboutputs may stay, and this is tried again");
    }
}

/// Removes what is old. Blocks. What cannot be removed keeps nothing else.
fn expire_all(store: &Store, config: &Config, now: Timestamp) -> Looked {
    let mut looked = Looked::default();
    let kinds = store.joboutputs_kinds().unwrap_or_else(|problem| {
        looked.problem = Some(problem);
        Vec::new()
    });
    for (space, machinetype) in kinds {
        let configured = config
            .spaces
            .get(&space)
            .and_then(|config| config.machinetypes.get(&machinetype));
        let kept = match configured {
            Some(configured) => Ok(configured.joboutputs_kept),
            None => store
                .joboutputs_time(&space, &machinetype)
                .map(|kept| kept.unwrap_or(USUALLY_KEPT)),
        };
        let expired = kept.and_then(|kept| {
            looked.shortest = Some(looked.shortest.map_or(kept, |other| other.min(kept)));
            store.expire_joboutputs((&space, &machinetype), kept, now)
        });
        match expired {
            Ok(removed) => looked.removed += removed,
            Err(problem) => {
                looked.problem.get_or_insert(problem);
            }
        }
        if configured.is_none() {
            store.forget_joboutputs_of(&space, &machinetype);
        }
    }
    looked
}
