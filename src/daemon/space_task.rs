//! The task of one space: a pass at every tick, from the connection to the record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{Instrument, debug, error, info};

use super::machines::{Messages, count, machine_statuses};
use super::pass::{Done, Known, Pass, PassError};
use super::shutdown;
use super::status::SpaceStatus;
use super::{Common, Tick};
use crate::act::CreateError;
use crate::blocking;
use crate::cloud::{self, Cloud, CloudError, Outside};
use crate::config::{Api, SpaceConfig};
use crate::decide::Reason;
use crate::events::{Entry, Event};
use crate::migrate::waiting;
use crate::model::{MachineFiles, MachineName, Processors, SpaceName};
use crate::observe::Memory;
use crate::record;
use crate::rng::Seed;
use crate::telemetry::{Lasted, Telling};

/// What [`Repeats`] calls what ends passes.
const CLOUD: &str = "the cloud";
const DISK: &str = "the state directory";
const OLD: &str = "machines of an older version";

/// How a space's task hears from the driver.
pub(super) struct Told {
    pub ticks: watch::Receiver<Tick>,
    /// Directories of the space that could not be read and now can.
    pub found: mpsc::UnboundedReceiver<MachineFiles>,
    /// Machines in `machines` that wait to be taken over from an older version; `None` where none
    /// were known to wait anywhere.
    pub old: Option<BTreeSet<MachineName>>,
}

/// What a task gives back when it ends.
pub(super) struct Ended {
    pub space: SpaceName,
    pub why: WhyEnded,
}

/// Why the task of a space has ended.
pub(super) enum WhyEnded {
    /// The daemon stops, or the space has left the configuration. These are its directories, and
    /// what of them waits to be taken over.
    Left(Vec<MachineFiles>, Option<BTreeSet<MachineName>>),
    /// Machines of an older version have been taken over: its directories are others now.
    TakenOver,
}

/// Runs the passes of one space until the daemon stops, the space leaves the configuration, or its
/// directories have to be read anew.
pub(super) async fn run(
    common: Common,
    space: SpaceName,
    told: Told,
    files: Vec<MachineFiles>,
) -> Ended {
    let Told {
        mut ticks,
        mut found,
        old,
    } = told;
    let mut task = SpaceTask {
        known: Known {
            memory: Memory::of(files),
            ..Known::default()
        },
        latest: ticks.clone(),
        common,
        space,
        old,
        connection: None,
        status: SpaceStatus::default(),
    };
    task.show_what_is_on_disk();
    loop {
        let tick = ticks.borrow_and_update().clone();
        task.take_up(&mut found);
        let Some(config) = tick.config.spaces.get(&task.space).cloned() else {
            task.withdraw_lists().await;
            task.common.metrics.forget(&task.space);
            break;
        };
        let seed = task.common.seeds.draw();
        let span = tracing::info_span!("pass", space = %task.space);
        let passed = task.one_pass(&tick, config, seed).instrument(span).await;
        if passed == Passed::TakenOver {
            return Ended {
                space: task.space,
                why: WhyEnded::TakenOver,
            };
        }
        tokio::select! {
            biased;
            () = task.common.stop.cancelled() => break,
            changed = ticks.changed() => if changed.is_err() { break },
        }
    }
    // What is sent from now on fails, and so is known not to have come.
    found.close();
    task.take_up(&mut found);
    let files = task.known.memory.machines.into_values().collect();
    Ended {
        space: task.space,
        why: WhyEnded::Left(files, task.old),
    }
}

/// What comes after a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// The next one.
    GoOn,
    /// The directories have to be read anew.
    TakenOver,
}

struct SpaceTask {
    common: Common,
    /// What the driver has said last, which may be after a pass has begun.
    latest: watch::Receiver<Tick>,
    space: SpaceName,
    known: Known,
    /// As it was told; noted when machines in the tree of 03 appear.
    old: Option<BTreeSet<MachineName>>,
    connection: Option<Connection>,
    status: SpaceStatus,
}

/// A cloud and what it was connected with.
struct Connection {
    api: Api,
    ca_path: PathBuf,
    flavor_sizes: BTreeMap<String, Processors>,
    cloud: Arc<dyn Cloud>,
}

impl SpaceTask {
    /// Takes up directories that could not be read at first, but for those that the last pass has
    /// taken up, and perhaps done more with, while they were on their way.
    fn take_up(&mut self, found: &mut mpsc::UnboundedReceiver<MachineFiles>) {
        while let Ok(files) = found.try_recv() {
            let machine = &files.name;
            let there = self.common.store.layout().machine(machine).is_dir();
            if there && !self.known.memory.machines.contains_key(machine) {
                info!(space = %self.space, %machine, "its directory can be read again");
                self.known.memory.take_up(files);
            }
        }
    }

    async fn one_pass(&mut self, tick: &Tick, config: SpaceConfig, seed: Seed) -> Passed {
        let clock = self.common.clock.clone();
        let metrics = self.common.metrics.clone();
        // Those that have left the configuration are told of while they have machines.
        let machinetypes = config.machinetypes.keys();
        let machinetypes = machinetypes.chain(count(&self.status.machines).into_keys());
        let machinetypes = machinetypes.cloned().collect();
        let words = (&Reason::WORDS[..], &CreateError::WORDS[..]);
        metrics.expect(&self.space, machinetypes, words);
        let begun = Instant::now();
        self.status.passes += 1;
        self.status.began = clock.now();
        let result = self.try_pass(tick, config.clone(), seed).await;
        match result {
            Ok(None) => {
                let count = self.known.repeats.is_over(OLD);
                if let Some(failed) = count {
                    self.tell(Event::CycleRecovered { failed });
                }
                let count = count.unwrap_or_default();
                info!(
                    "the machines of GridPP's Vcycle have been taken over, after {count} cycle(s): the next cycle looks after them"
                );
                return Passed::TakenOver;
            }
            Ok(Some(done)) => {
                self.status.succeeded(clock.now());
                self.status.last_scan = self.known.memory.previous_scan;
                self.status.decided = Some(done.decided);
                self.status.report = done.report;
                self.status.machines = Arc::new(done.machines);
                self.tell_recovered(CLOUD, "the cloud can be reached again");
                self.tell_recovered(DISK, "the state directory can be used again");
            }
            Err(PassError::Stopping) => return Passed::GoOn,
            Err(problem) => {
                self.status.waiting = match &problem {
                    PassError::Waiting(waiting) => Some(waiting.clone()),
                    PassError::State(_) | PassError::Cloud(_) | PassError::Stopping => None,
                };
                let text = self.tell_failed(&problem);
                self.status.failed(text, clock.now());
            }
        }
        metrics.cycle(&self.space, self.status.error.is_none(), begun.elapsed());
        self.status.took = clock.now().since(self.status.began);
        self.status.disk_full = record::is_out_of_room(&self.known.repeats);
        self.status.totals = self.known.totals;
        let configured = |machinetype: &_| config.machinetypes.contains_key(machinetype);
        self.known.refusals.retain(|name, _| configured(name));
        self.status.refusals = self.known.refusals.clone();
        self.status.leaks = self.known.leaks.status.clone();
        self.status.images = self.known.images.states(&config);
        self.common.board.put(&self.space, self.status.clone());
        Passed::GoOn
    }

    /// Says why a cycle came to nothing, as often as it is of use; returns it.
    fn tell_failed(&mut self, problem: &PassError) -> String {
        let text = problem.to_string();
        let subject = match problem {
            PassError::State(_) => DISK,
            PassError::Waiting(_) => OLD,
            PassError::Cloud(_) | PassError::Stopping => CLOUD,
        };
        let now = self.common.clock.now();
        let repeats = &mut self.known.repeats;
        match repeats.telling(subject, &problem.trouble(), now) {
            Telling::News => {
                error!("{text}; nothing is created or destroyed, and the next cycle tries again");
                self.tell(Event::CycleFailed {
                    error: text.clone(),
                });
            }
            Telling::Reminder(Lasted { count, since }) => error!(
                "still: {text}; {count} cycle(s) since {} have come to nothing, and the next one tries again",
                since.to_rfc3339()
            ),
            Telling::Nothing => debug!("{text}; again nothing is created or destroyed"),
        }
        text
    }

    fn tell_recovered(&mut self, subject: &str, what: &str) {
        if let Some(Lasted { count, since }) = self.known.repeats.ended(subject) {
            self.tell(Event::CycleRecovered { failed: count });
            info!(
                "{what}, after {count} cycle(s) without since {}",
                since.to_rfc3339()
            );
        }
    }

    /// Finds out whether machines of an older version wait. Says whether all that did have been
    /// taken over.
    async fn is_taken_over(&mut self) -> Result<bool, PassError> {
        let (store, factory) = (Arc::clone(&self.common.store), self.common.factory.clone());
        let (space, old) = (self.space.clone(), self.old.clone());
        let looking =
            blocking::run(move || waiting::look(store.layout(), &factory, &space, old.as_ref()));
        match looking.await? {
            Some(waiting) => {
                self.old.get_or_insert_default();
                Err(PassError::Waiting(waiting))
            }
            None => Ok(self.old.is_some()),
        }
    }

    /// `None` when the directories have to be read anew.
    async fn try_pass(
        &mut self,
        tick: &Tick,
        mut config: SpaceConfig,
        seed: Seed,
    ) -> Result<Option<Done>, PassError> {
        if self.is_taken_over().await? {
            return Ok(None);
        }
        // One that is there and cannot be read may ask for the end of everything, or have been
        // meant to: until it can be read nothing is created or destroyed.
        config.ordered_shutdown = self.common.store.ordered_shutdown(&config.name)?;
        let (now, repeats) = (self.common.clock.now(), &mut self.known.repeats);
        if let Some(event) = shutdown::announce(&config, now, repeats) {
            self.tell(event);
        }
        let config = Arc::new(config);
        self.known.memory.recall(&self.common.store, &config)?;
        let cloud = self.connect(tick, &config).await?;
        self.known.remotes.trust(&tick.config.server.ca_path);
        let pass = Pass {
            common: &self.common,
            tick,
            latest: &self.latest,
            config,
            cloud,
            known: &mut self.known,
        };
        pass.run(seed).await.map(Some)
    }

    fn tell(&self, event: Event) {
        self.common.events.take(vec![Entry {
            time: self.common.clock.now(),
            space: Some(self.space.clone()),
            event,
        }]);
    }

    /// Until the first scan: what the directories say.
    fn show_what_is_on_disk(&mut self) {
        let machines = self.known.memory.machines.values();
        let machines = machine_statuses(machines, None, &Messages::new(), None);
        self.status.machines = Arc::new(machines);
        self.common.board.put(&self.space, self.status.clone());
    }

    /// Nobody is to look for machines that nobody looks after.
    async fn withdraw_lists(&self) {
        let (store, space) = (Arc::clone(&self.common.store), self.space.clone());
        let removed = blocking::run(move || store.remove_heartbeat_lists(&space)).await;
        if let Err(problem) = removed {
            error!(space = %self.space, "{problem}; the heartbeat lists of a space that was removed are still there");
        }
    }

    /// The connection, made anew when what it is made with has changed.
    async fn connect(
        &mut self,
        tick: &Tick,
        config: &SpaceConfig,
    ) -> Result<Arc<dyn Cloud>, CloudError> {
        let ca_path = &tick.config.server.ca_path;
        let flavor_sizes = config.flavor_sizes();
        if let Some(connection) = &self.connection
            && connection.api == config.api
            && connection.ca_path == *ca_path
            && connection.flavor_sizes == flavor_sizes
        {
            return Ok(Arc::clone(&connection.cloud));
        }
        // An embedded cloud has to end before it can begin again.
        self.connection = None;
        let state_dir = self.common.store.layout().root();
        let outside = Outside {
            ca_path: ca_path.clone(),
            clock: self.common.clock.clone(),
            seeds: self.common.seeds.clone(),
            network: self.common.network.clone(),
            metrics: self.common.metrics.clone(),
        };
        let cloud = cloud::connect(config, state_dir, &outside, cloud::Use::Drive).await?;
        self.connection = Some(Connection {
            api: config.api.clone(),
            ca_path: ca_path.clone(),
            flavor_sizes,
            cloud: Arc::clone(&cloud),
        });
        Ok(cloud)
    }
}
