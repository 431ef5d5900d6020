//! One pass over one space: observe, decide, act, record (SPEC 3).

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, error};

use super::Common;
use super::https::Hearing;
use crate::act::{self, Actor, userdata::Templates};
use crate::blocking;
use crate::cloud::{Cloud, CloudError};
use crate::config::SpaceConfig;
use crate::decide::{self, Blocked, Bookkeeping, Plan, Report};
use crate::model::{FactoryName, MachineName, SpaceSnapshot, Timestamp};
use crate::observe::{self, Memory, Unread};
use crate::record::{self, Recorder, Totals};
use crate::rng::Seed;
use crate::state::{StateError, Store};
use crate::telemetry::Repeats;

/// What ends a pass before anything is decided.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The cloud.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The daemon is stopping, and looking changes nothing that would have to come to an end.
    #[error("the daemon is stopping")]
    Stopping,
}

impl PassError {
    /// What is wrong, without the request that happened to meet it first: several are sent side by
    /// side, and a dead cloud is one trouble, to be told once.
    pub(super) fn trouble(&self) -> String {
        match self {
            Self::Cloud(error) => error.message.clone(),
            Self::State(_) | Self::Stopping => self.to_string(),
        }
    }
}

/// Everything that one pass needs.
pub(super) struct Pass<'a> {
    pub common: &'a Common,
    pub config: Arc<SpaceConfig>,
    pub cloud: Arc<dyn Cloud>,
    pub templates: Templates,
    pub hearing: Hearing,
    pub memory: &'a mut Memory,
    pub repeats: &'a mut Repeats,
    pub totals: &'a mut Totals,
}

/// Looks at a space once: connect, list, join, look at files. Changes nothing anywhere.
///
/// # Errors
/// When the cloud does not give a complete answer.
pub async fn observe_once(
    cloud: &dyn Cloud,
    config: &SpaceConfig,
    factory: &FactoryName,
    store: &Arc<Store>,
    memory: &Memory,
) -> Result<(SpaceSnapshot, Vec<Unread>), CloudError> {
    let facts = cloud.facts().await?;
    let listing = cloud.list().await?;
    let snapshot = observe::join(&config.name, factory, facts, listing, memory);
    let (store, config) = (Arc::clone(store), config.clone());
    let looking = blocking::run(move || {
        let mut snapshot = snapshot;
        let unread = observe::look_at_files(&store, &config, &mut snapshot);
        (snapshot, unread)
    });
    Ok(looking.await)
}

impl Pass<'_> {
    pub async fn run(mut self, seed: Seed) -> Result<Report, PassError> {
        let common = self.common;
        let observed = observe_once(
            self.cloud.as_ref(),
            &self.config,
            &common.factory,
            &common.store,
            self.memory,
        );
        let (mut snapshot, unread) = tokio::select! {
            biased;
            () = common.stop.cancelled() => return Err(PassError::Stopping),
            observed = observed => observed?,
        };
        self.hearing.apply(&mut snapshot);
        let now = common.clock.now();
        self.recorder().look_for_room();
        self.report_unread(&unread);
        let mut plan = decide::decide(&self.config, &snapshot, now, seed);
        debug!(
            seed = seed.0,
            bookkeeping = plan.bookkeeping.len(),
            deletes = plan.deletes.len(),
            creates = plan.creates.len(),
            "decided"
        );
        record::hold_back(&mut plan, &unread);
        self.report_blocked(&plan);
        let failed = self
            .write_down(std::mem::take(&mut plan.bookkeeping), now)
            .await;
        // Only now: a crash before this point must leave the time of the scan before, which is
        // what the end of a machine is dated by.
        common.store.set_last_scan(&self.config.name, now)?;
        self.memory.note_scan(&snapshot, now);
        self.carry_out(plan, &failed).await
    }

    /// Writes the bookkeeping where it may block: each file waits for the disk, and machines that
    /// all end at once have thousands. The HTTPS server must not wait with it.
    async fn write_down(
        &mut self,
        actions: Vec<Bookkeeping>,
        now: Timestamp,
    ) -> BTreeSet<MachineName> {
        if actions.is_empty() {
            return BTreeSet::new();
        }
        let config = Arc::clone(&self.config);
        let store = Arc::clone(&self.common.store);
        let factory = self.common.factory.clone();
        let mut memory = std::mem::take(self.memory);
        let mut repeats = std::mem::take(self.repeats);
        let mut totals = *self.totals;
        let span = tracing::Span::current();
        let writing = blocking::run(move || {
            let _in_the_pass = span.enter();
            let mut recorder = Recorder {
                config: &config,
                store: &store,
                factory: &factory,
                memory: &mut memory,
                repeats: &mut repeats,
                totals: &mut totals,
            };
            let failed = recorder.bookkeeping(&actions, now);
            (failed, memory, repeats, totals)
        });
        let (failed, memory, repeats, totals) = writing.await;
        (*self.memory, *self.repeats, *self.totals) = (memory, repeats, totals);
        failed
    }

    async fn carry_out(
        &mut self,
        plan: Plan,
        failed: &BTreeSet<MachineName>,
    ) -> Result<Report, PassError> {
        let Plan {
            deletes,
            creates,
            report,
            bookkeeping: _,
        } = plan;
        let actor = Actor {
            config: Arc::clone(&self.config),
            cloud: Arc::clone(&self.cloud),
            store: Arc::clone(&self.common.store),
            factory: self.common.factory.clone(),
            clock: self.common.clock.clone(),
            templates: self.templates.clone(),
            stop: self.common.stop.clone(),
        };
        let deletes = record::without_failed(deletes, failed);
        let deleted = act::delete_all(&actor, deletes).await;
        self.recorder().deletes(&deleted);
        // What cannot be written down means a full disk: nothing new is begun on it. The damaged
        // directory of one machine keeps no other from being created.
        if !self.recorder().has_no_room() {
            let created = act::create_all(&actor, creates).await;
            let now = self.common.clock.now();
            self.recorder().creates(created, now);
        }
        Ok(report)
    }

    fn recorder(&mut self) -> Recorder<'_> {
        Recorder {
            config: &self.config,
            store: &self.common.store,
            factory: &self.common.factory,
            memory: self.memory,
            repeats: self.repeats,
            totals: self.totals,
        }
    }

    fn report_unread(&mut self, unread: &[Unread]) {
        const SUBJECT: &str = "heartbeats and messages";
        let Some(first) = unread.first() else {
            self.repeats.is_over(SUBJECT);
            return;
        };
        let text = first.to_string();
        if self.repeats.is_news(SUBJECT, &text) {
            error!(
                "{text} ({} such problem(s)); these machines are not judged by their heartbeats, and their ends are not written down, until that can be read",
                unread.len()
            );
        }
    }

    /// Says what keeps a machinetype from being created when a person has to do something about
    /// it, once.
    fn report_blocked(&mut self, plan: &Plan) {
        for (machinetype, report) in &plan.report.machinetypes {
            let subject = format!("blocked {machinetype}");
            let must_act = matches!(
                report.stopped_by,
                Blocked::SuspectScan { .. }
                    | Blocked::NoLimitKnown
                    | Blocked::NoFlavor { .. }
                    | Blocked::Unsupported { .. }
            );
            if !must_act {
                self.repeats.is_over(&subject);
                continue;
            }
            let text = match &report.stopped_by {
                // The count changes with every scan; the trouble does not.
                Blocked::SuspectScan { missing, .. } => {
                    format!("none of {missing} machines was listed: wrong project or region?")
                }
                other => other.to_string(),
            };
            if self.repeats.is_news(&subject, &text) {
                error!(%machinetype, "nothing is created: {text}");
            }
        }
    }
}
