//! One pass over one space: observe, decide, act, record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{debug, error, warn};

use super::https::LATE;
use super::joboutputs::{self, Keeper};
use super::leaks::LeakMemory;
use super::look::{Observed, observe_once};
use super::machines::{MachineStatus, Messages};
use super::shutdown;
use super::status::Refusal;
use super::vacmon::VacMonMemory;
use super::{Common, Tick, tried};
use crate::act::{self, Actor, CreateError, CreateOutcome};
use crate::blocking;
use crate::clock::Lap;
use crate::cloud::http::UNUSABLE;
use crate::cloud::{Cloud, CloudError, CloudErrorKind};
use crate::config::SpaceConfig;
use crate::decide::{self, Blocked, Bookkeeping, Concern, Finish, Heartbeats, Plan, Report, Tried};
use crate::events::Event;
use crate::images;
use crate::migrate::waiting::Waiting;
use crate::model::{MachineName, MachinetypeName, Seconds, SpaceSnapshot, Timestamp};
use crate::observe::Memory;
use crate::record::{self, HeartbeatLists, Recorder, Totals};
use crate::remote::Remotes;
use crate::rng::Seed;
use crate::state::{StateError, Unread};
use crate::telemetry::{Repeats, Telling};

/// What ends a pass before anything is decided.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The cloud.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Machines of an older version that have not been taken over.
    #[error("{0}")]
    Waiting(Waiting),
    /// The daemon is stopping, and looking changes nothing that would have to come to an end.
    #[error("the daemon is stopping")]
    Stopping,
}

impl PassError {
    /// What is wrong, without the request that happened to meet it first: several are sent side by
    /// side, and a dead cloud is one trouble, to be told once. Answers that break off do so at
    /// another place each time, which is no other trouble either.
    pub(super) fn trouble(&self) -> String {
        match self {
            Self::Cloud(error) => match error.message.split_once(UNUSABLE) {
                Some((before, _why)) => format!("{before}{UNUSABLE}"),
                None => error.message.clone(),
            },
            // Their number goes down while they are taken over.
            Self::Waiting(waiting) if waiting.begun => "a migration has not ended".to_owned(),
            Self::Waiting(_) => "machines wait to be taken over".to_owned(),
            Self::State(_) | Self::Stopping => self.to_string(),
        }
    }
}

/// What a space's task knows from pass to pass. All of it but the joboutputs that are being copied
/// can be found again from the files and the cloud.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its machines, and what the scans before have shown.
    pub memory: Memory,
    /// Trouble that has been told.
    pub repeats: Repeats,
    pub totals: Totals,
    pub leaks: LeakMemory,
    pub vacmon: VacMonMemory,
    /// Joboutputs that are being copied.
    pub keeper: Keeper,
    /// The servers that machines write to in place of ours.
    pub remotes: Remotes,
    pub lists: HeartbeatLists,
    pub images: images::Keeper,
    /// What machines that have ended left as their shutdown messages.
    pub messages: Messages,
    /// What has happened and is still to be told.
    pub events: Vec<Event>,
    /// The latest machines that could not be made.
    pub refusals: BTreeMap<MachinetypeName, Refusal>,
    /// Machinetypes that are in a backoff.
    pub backing_off: BTreeSet<MachinetypeName>,
}

/// Everything that one pass needs.
pub(super) struct Pass<'a> {
    pub common: &'a Common,
    pub tick: &'a Tick,
    /// What has been said since this pass began.
    pub latest: &'a watch::Receiver<Tick>,
    pub config: Arc<SpaceConfig>,
    pub cloud: Arc<dyn Cloud>,
    pub known: &'a mut Known,
}

/// What a pass that came through has to show.
#[derive(Debug)]
pub(super) struct Done {
    /// When it was decided.
    pub decided: Timestamp,
    /// Counts, limits, and why not more.
    pub report: Report,
    /// The machines.
    pub machines: Vec<MachineStatus>,
}

/// For so long at least what was decided is begun. The first of many machines can tell that there is no
/// work before the last is asked for, and deletes that all wait for a cloud can take an hour.
const DECISIONS_HOLD: Seconds = Seconds::new(300);

/// Whether a machine was refused in a way that a lost image would be.
fn may_lack_image(outcome: &CreateOutcome) -> bool {
    match &outcome.result {
        Err(CreateError::Cloud(error)) => {
            matches!(
                error.kind,
                CloudErrorKind::NotFound | CloudErrorKind::Rejected
            )
        }
        Ok(_) | Err(_) => false,
    }
}

impl Pass<'_> {
    pub async fn run(mut self, seed: Seed) -> Result<Done, PassError> {
        self.collect_joboutputs();
        // What was seen is at least as old as this: a listing with repeats takes minutes.
        let scanned = self.common.clock.now();
        let (mut snapshot, unread, heard) = self.observe().await?;
        let now = self.common.clock.now();
        let decided = self.common.clock.lap();
        self.forgive_a_break(&mut snapshot, &heard, now);
        let mut plan = self.decide(&snapshot, &unread, now, seed);
        let ends = plan.bookkeeping.iter().filter(|one| one.finish().is_some());
        let ends: Vec<Bookkeeping> = ends.cloned().collect();
        let failed = self.record(&snapshot, &mut plan, (scanned, now)).await?;
        self.note_backoffs(&plan.report);
        let heartbeats = decide::heartbeats(&self.config, &snapshot, &plan.deletes, now);
        self.publish_heartbeats(&heartbeats, &snapshot).await;
        let actor = self.actor(heartbeats, &snapshot, decided);
        let planned = plan.report.clone();
        let tried = self.carry_out(&actor, plan, &failed).await;
        let report = if tried.refused.is_empty() {
            planned
        } else {
            decide::report_after(&self.config, &snapshot, now, &ends, &tried)
        };
        self.mark_machines(&snapshot, &actor).await;
        self.look_for_leaks(&snapshot, &actor).await;
        let machines = self.machines(&snapshot).await;
        Ok(Done {
            decided: now,
            report,
            machines,
        })
    }

    /// Looks at everything that is decided from, and until when it is known whether machines could
    /// write. Ends at once when the daemon is to stop.
    async fn observe(&mut self) -> Result<(SpaceSnapshot, Vec<Unread>, Lap), PassError> {
        let common = self.common;
        self.known.images.tend(&images::Scene {
            config: &self.config,
            cloud: &self.cloud,
            factory: &common.factory,
            layout: common.store.layout(),
            cache: &self.tick.cache,
            ca_path: &self.tick.config.server.ca_path,
            clock: &common.clock,
            stop: &common.stop,
        });
        let observed = async {
            let (cloud, factory) = (self.cloud.as_ref(), &common.factory);
            let memory = &self.known.memory;
            let observed =
                observe_once(cloud, &self.config, factory, &common.store, memory).await?;
            self.known.images.first_look().await;
            Ok::<_, CloudError>(observed)
        };
        let observed = tokio::select! {
            biased;
            () = common.stop.cancelled() => return Err(PassError::Stopping),
            observed = observed => observed?,
        };
        self.report_missing(&observed);
        let Observed {
            mut snapshot,
            mut unread,
            lost,
            untold: _,
        } = observed;
        self.recorder().let_go(&lost);
        snapshot.images = self.known.images.states(&self.config);
        // A listing can take longer than some ticks.
        let (hearing, heard) = {
            let latest = self.latest.borrow();
            (latest.hearing, latest.lap)
        };
        hearing.apply(&mut snapshot);
        unread.extend(self.ask_remotes(&mut snapshot).await?);
        Ok((snapshot, unread, heard))
    }

    /// What the driver says of breaks is as old as its last tick. When the host was suspended since
    /// then, or its clock set forward, all that machines wrote seems to be old.
    fn forgive_a_break(&self, snapshot: &mut SpaceSnapshot, heard: &Lap, now: Timestamp) {
        let skipped = self.common.clock.skipped(heard);
        if skipped > LATE {
            snapshot.hear_anew(now);
            warn!(
                "the clock has skipped {skipped} s during this cycle: no machine is judged by its heartbeats in it"
            );
        }
    }

    /// What is to be done, but for what rests on files that could not be read.
    fn decide(
        &mut self,
        snapshot: &SpaceSnapshot,
        unread: &[Unread],
        now: Timestamp,
        seed: Seed,
    ) -> Plan {
        self.recorder().look_for_room(now);
        self.recorder().bring_back_aborts(now);
        self.report_unread(unread, now);
        let mut plan = decide::decide(&self.config, snapshot, now, seed);
        debug!(
            seed = seed.0,
            bookkeeping = plan.bookkeeping.len(),
            deletes = plan.deletes.len(),
            creates = plan.creates.len(),
            "decided"
        );
        record::hold_back(&mut plan, unread);
        self.report_blocked(&plan, now);
        let repeats = &mut self.known.repeats;
        let empty = shutdown::note_empty(&self.config, &plan.report, now, repeats);
        self.known.events.extend(empty);
        plan
    }

    /// Writes down what the scan has shown, and tells those who have to be told of it: before
    /// anything is changed on the cloud. Returns the machines of which not all could be written.
    async fn record(
        &mut self,
        snapshot: &SpaceSnapshot,
        plan: &mut Plan,
        (scanned, now): (Timestamp, Timestamp),
    ) -> Result<BTreeSet<MachineName>, PassError> {
        let mut to_keep = joboutputs::wanted(&plan.bookkeeping);
        let mut finishes = self.finishes(plan);
        let failed = self
            .write_down(std::mem::take(&mut plan.bookkeeping), now)
            .await;
        finishes.retain(|finish| !failed.contains(&finish.machine));
        self.tell_vacmon(snapshot, &plan.report, &finishes, now)
            .await;
        to_keep.retain(|(machine, _)| !failed.contains(machine));
        self.keep_joboutputs(to_keep);
        self.known.memory.note_scan(snapshot, scanned);
        // Only now: after a crash the end of a machine is dated by this time, and a scan that has
        // seen it ended must not move it.
        self.recorder().scanned(&failed, scanned)?;
        Ok(failed)
    }

    /// The ends of machines in a plan, for those who have to be told of them.
    fn finishes(&self, plan: &Plan) -> Vec<Finish> {
        if self.config.vacmon_hostport.is_empty() {
            return Vec::new();
        }
        let ends = plan.bookkeeping.iter().filter_map(Bookkeeping::finish);
        ends.cloned().collect()
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
        let metrics = self.common.metrics.clone();
        let mut memory = std::mem::take(&mut self.known.memory);
        let mut repeats = std::mem::take(&mut self.known.repeats);
        let mut totals = self.known.totals;
        let mut events = std::mem::take(&mut self.known.events);
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
                events: &mut events,
                metrics: &metrics,
            };
            let failed = recorder.bookkeeping(&actions, now);
            (failed, memory, repeats, totals, events)
        });
        let (failed, memory, repeats, totals, events) = writing.await;
        (self.known.memory, self.known.repeats, self.known.totals) = (memory, repeats, totals);
        self.known.events = events;
        self.tell_events();
        failed
    }

    async fn carry_out(
        &mut self,
        actor: &Actor,
        plan: Plan,
        failed: &BTreeSet<MachineName>,
    ) -> Tried {
        let Plan {
            deletes,
            creates,
            report: _,
            bookkeeping: _,
        } = plan;
        let deletes = record::without_failed(deletes, failed);
        let deleted = act::delete_all(actor, deletes).await;
        self.recorder().deletes(&deleted);
        self.tell_events();
        // What cannot be written down means a full disk: nothing new is begun on it. The damaged
        // directory of one machine keeps no other from being created.
        if self.recorder().has_no_room() {
            return tried::none(&creates, "the disk of the state directory is full");
        }
        let created = act::create_all(actor, creates.clone()).await;
        for outcome in created.iter().filter(|outcome| may_lack_image(outcome)) {
            self.known.images.doubt(&self.config, &outcome.machinetype);
        }
        let mut tried = tried::of(creates, &created);
        let now = self.common.clock.now();
        self.recorder().creates(created, now);
        tried::count_failures(&mut tried, &self.known.memory.history, now);
        self.tell_events();
        tried
    }

    /// Gives machines the marks that they lack, where the cloud takes those only afterwards.
    async fn mark_machines(&mut self, snapshot: &SpaceSnapshot, actor: &Actor) {
        const SUBJECT: &str = "marks of machines";
        let Some((machine, error)) = act::mark_all(actor, snapshot).await else {
            self.known.repeats.is_over(SUBJECT);
            return;
        };
        // Each machine has another name; the trouble is the same.
        if self.known.repeats.is_news(SUBJECT, &error.message) {
            warn!(%machine, "cannot set its tags: {error}; the next cycle tries again");
        }
    }

    fn actor(&self, heartbeats: Heartbeats, snapshot: &SpaceSnapshot, decided: Lap) -> Actor {
        Actor {
            images: snapshot.images.clone(),
            config: Arc::clone(&self.config),
            cloud: Arc::clone(&self.cloud),
            store: Arc::clone(&self.common.store),
            factory: self.common.factory.clone(),
            clock: self.common.clock.clone(),
            decided,
            hold: DECISIONS_HOLD.max(self.common.interval),
            templates: self.tick.templates.clone(),
            seeds: self.common.seeds.clone(),
            heartbeats: Arc::new(heartbeats),
            stop: self.common.stop.clone(),
        }
    }

    pub(super) fn recorder(&mut self) -> Recorder<'_> {
        Recorder {
            config: &self.config,
            store: &self.common.store,
            factory: &self.common.factory,
            memory: &mut self.known.memory,
            repeats: &mut self.known.repeats,
            totals: &mut self.known.totals,
            events: &mut self.known.events,
            metrics: &self.common.metrics,
        }
    }

    /// Says when the cloud's list lacks machines that are there, or may be.
    fn report_missing(&mut self, observed: &Observed) {
        const HIDDEN: &str = "machines missing from the list";
        const UNTOLD: &str = "machines of which the cloud does not tell";
        let machines = &observed.snapshot.machines;
        let hidden = machines
            .iter()
            .filter(|machine| machine.missed_scans > 0 && machine.vm().is_some());
        let repeats = &mut self.known.repeats;
        match hidden.clone().next() {
            None => drop(repeats.is_over(HIDDEN)),
            Some(first) if repeats.is_news(HIDDEN, "") => warn!(
                machine = %first.files.name,
                "the cloud's list lacks {} machine(s), this one for example, that are there when they are asked for by themselves: part of the cloud may be down; they are looked after as if they were listed",
                hidden.count()
            ),
            Some(_) => {}
        }
        match &observed.untold {
            None => drop(repeats.is_over(UNTOLD)),
            Some(error) if repeats.is_news(UNTOLD, &error.message) => warn!(
                "{} machine(s) are missing from the cloud's list, and whether they are gone it does not tell: {error}; they count as running, and the next cycle asks again",
                machines
                    .iter()
                    .filter(|machine| machine.unconfirmed)
                    .count()
            ),
            Some(_) => {}
        }
    }

    fn report_unread(&mut self, unread: &[Unread], now: Timestamp) {
        const SUBJECT: &str = "heartbeats and messages";
        let Some(first) = unread.first() else {
            self.known.repeats.ended(SUBJECT);
            return;
        };
        let text = first.to_string();
        if self.known.repeats.telling(SUBJECT, &text, now) != Telling::Nothing {
            error!(
                "{text} ({} such problem(s)); these machines are not judged by their heartbeats, and their ends are not written down, until that can be read",
                unread.len()
            );
        }
    }

    /// Says what keeps a machinetype from being created when a person has to do something about
    /// it, once.
    fn report_blocked(&mut self, plan: &Plan, now: Timestamp) {
        for (machinetype, report) in &plan.report.machinetypes {
            let subject = format!("blocked {machinetype}");
            if report.stopped_by.concern() != Concern::Wrong {
                self.known.repeats.ended(&subject);
                continue;
            }
            let text = match &report.stopped_by {
                // The count changes with every scan; the trouble does not.
                Blocked::SuspectScan { missing, .. } => {
                    format!("none of {missing} machines was listed: wrong project or region?")
                }
                other => other.to_string(),
            };
            match self.known.repeats.telling(&subject, &text, now) {
                Telling::News => error!(%machinetype, "nothing is created: {text}"),
                Telling::Reminder(lasted) => error!(
                    %machinetype,
                    "nothing is created since {}: {text}",
                    lasted.since.to_rfc3339()
                ),
                Telling::Nothing => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio_util::sync::CancellationToken;

    use std::sync::Mutex;

    use super::*;
    use crate::act::directory;
    use crate::act::mjf::Size;
    use crate::act::userdata::Templates;
    use crate::clock::Clock;
    use crate::cloud::http::Network;
    use crate::cloud::{CreateRequest, Deletion};
    use crate::cloud::{Leftovers, Removal, Search};
    use crate::config::{self, Config};
    use crate::daemon::Board;
    use crate::daemon::https::Hearing;
    use crate::decide::testing;
    use crate::model::{
        CloudFacts, CloudId, CloudMachine, FactoryName, Leftover, LeftoverKind, MachineState,
        Processors, SpaceName,
    };
    use crate::rng::Seeds;
    use crate::state::{Published, Store, TimeFile};

    /// A cloud that takes its time, and while it lists somebody may set the clock.
    #[derive(Debug)]
    struct Slow {
        clock: Clock,
        machines: Vec<CloudMachine>,
        times: Times,
        deletes: Mutex<Vec<CloudId>>,
        removals: Mutex<usize>,
        volumes_looked_for: Mutex<usize>,
    }

    #[async_trait]
    impl Cloud for Slow {
        async fn facts(&self) -> Result<CloudFacts, CloudError> {
            Ok(CloudFacts::default())
        }

        async fn list(&self) -> Result<Vec<CloudMachine>, CloudError> {
            self.clock.sleep(self.times.listing).await;
            self.clock.step(self.times.set_forward);
            Ok(self.machines.clone())
        }

        async fn find(&self, _: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
            Ok(None)
        }

        async fn create(&self, _: &CreateRequest) -> Result<CloudId, CloudError> {
            panic!("nothing is to be created")
        }

        async fn delete(&self, machine: &CloudId) -> Result<Deletion, CloudError> {
            self.deletes.lock().unwrap().push(machine.clone());
            self.clock.sleep(self.times.deleting).await;
            Ok(Deletion::Accepted)
        }

        async fn leftovers(&self, search: &Search) -> Leftovers {
            *self.volumes_looked_for.lock().unwrap() = search.gone_volumes.len();
            let volume = |number| Leftover {
                kind: LeftoverKind::Volume,
                id: format!("volume-{number}"),
                name: String::new(),
                user: None,
            };
            let volumes = (0..self.times.left).map(volume).collect();
            Leftovers::from([(LeftoverKind::Volume, Ok(volumes))])
        }

        async fn remove(&self, _: &Search, _: &Leftover) -> Result<Removal, CloudError> {
            *self.removals.lock().unwrap() += 1;
            self.clock.sleep(self.times.removing).await;
            Ok(Removal::Removed)
        }
    }

    /// One space with one machinetype, whose machines have to be heard of every ten minutes.
    fn config(dir: &std::path::Path) -> Config {
        let text = "[server]\nlisten = none\n[space example.org]\napi = simulated\n\
                    [machinetype example.org a]\nuser_data = /u\nbackoff_seconds = 1\n\
                    fizzle_seconds = 1\nheartbeat_file = heartbeat\nheartbeat_seconds = 600\n";
        let conf = dir.join("vcycle.conf");
        crate::state::Disk::default()
            .write(dir, &conf, text.as_bytes(), 0o644)
            .unwrap();
        let sources = config::Sources {
            conf,
            dir: dir.join("vcycle.d"),
        };
        let context = config::Context {
            hostname: FactoryName::new("factory.example.org").unwrap(),
            state_dir: dir.join("state"),
        };
        config::load(&sources, &context).config.unwrap()
    }

    const BEGAN: Timestamp = Timestamp::from_unix(1_000_000);

    struct World {
        dir: tempfile::TempDir,
        config: Arc<Config>,
        common: Common,
        known: Known,
        machines: Vec<CloudMachine>,
    }

    /// What takes its time.
    #[derive(Debug, Default)]
    struct Times {
        listing: Seconds,
        set_forward: i64,
        deleting: Seconds,
        /// So many volumes are left over.
        left: usize,
        removing: Seconds,
    }

    impl World {
        /// With so many machines that run and have been heard of a minute ago.
        fn with_machines(count: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = Arc::new(config(dir.path()));
            let space = config.spaces.values().next().unwrap();
            let clock = Clock::timer(BEGAN);
            let common = Common {
                store: Arc::new(Store::open(dir.path().join("state")).unwrap()),
                interval: Seconds::new(60),
                factory: FactoryName::new("factory.example.org").unwrap(),
                clock: clock.clone(),
                board: Board::default(),
                events: crate::events::EventLog::default(),
                metrics: crate::metrics::Metrics::default(),
                stop: CancellationToken::new(),
                seeds: Seeds::default(),
                network: Network::default(),
            };
            let (store, mut machines) = (&common.store, Vec::new());
            for number in 0..count {
                let name = format!("vcycle-a-{number:010}");
                let listed = testing::listed(&name, MachineState::Running);
                let name = MachineName::new(name).unwrap();
                let kind = MachinetypeName::new("a").unwrap();
                let size = Size {
                    processors: Processors::ONE,
                    memory_mb: None,
                    disk_gb: None,
                };
                let created = BEGAN.earlier(Seconds::new(7200));
                let names = (&name, &kind);
                let new = directory::contents(space, &common.factory, names, size, created);
                store.create_machine(&new).unwrap();
                store.set_id(&name, &listed.id).unwrap();
                store.set_time(&name, TimeFile::Started, created).unwrap();
                let outputs = store.layout().published(&name, Published::Joboutputs);
                let heartbeat = std::fs::File::create(outputs.join("heartbeat")).unwrap();
                let heard = BEGAN.earlier(Seconds::new(60)).to_system_time();
                heartbeat.set_modified(heard).unwrap();
                machines.push(listed);
            }
            let files = store.load_machines().unwrap().machines;
            Self {
                known: Known {
                    memory: Memory::of(files),
                    ..Known::default()
                },
                machines,
                common,
                config,
                dir,
            }
        }

        /// One pass, and whose deletion was asked for in it.
        async fn pass(&mut self, times: Times) -> Vec<CloudId> {
            let cloud = self.run(times).await;
            cloud.deletes.lock().unwrap().clone()
        }

        /// One pass, and how many things were asked to be removed in it.
        async fn removals(&mut self, left: usize, removing: u64) -> usize {
            let times = Times {
                left,
                removing: Seconds::new(removing),
                ..Times::default()
            };
            let cloud = self.run(times).await;
            *cloud.removals.lock().unwrap()
        }

        async fn run(&mut self, times: Times) -> Arc<Slow> {
            let clock = &self.common.clock;
            let tick = Tick {
                config: Arc::clone(&self.config),
                templates: Templates::new(self.dir.path()),
                cache: images::Cache::new(self.dir.path()),
                hearing: Hearing::Elsewhere(BEGAN.earlier(Seconds::new(7200))),
                lap: clock.lap(),
            };
            let cloud = Arc::new(Slow {
                clock: clock.clone(),
                machines: self.machines.clone(),
                times,
                deletes: Mutex::default(),
                removals: Mutex::default(),
                volumes_looked_for: Mutex::default(),
            });
            let space = self.config.spaces.values().next().unwrap();
            let pass = Pass {
                common: &self.common,
                tick: &tick,
                latest: &watch::channel(tick.clone()).1,
                config: Arc::new(space.clone()),
                cloud: Arc::clone(&cloud) as Arc<dyn Cloud>,
                known: &mut self.known,
            };
            pass.run(Seed(1)).await.unwrap();
            cloud
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_is_dated_by_its_beginning() {
        let mut world = World::with_machines(0);
        let times = Times {
            listing: Seconds::new(600),
            ..Times::default()
        };
        world.pass(times).await;
        assert_eq!(world.known.memory.previous_scan, Some(BEGAN));
        let space = SpaceName::new("example.org").unwrap();
        let written = world.common.store.last_scan(&space).unwrap();
        assert_eq!(written, Some(BEGAN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_while_it_is_listed_makes_no_machine_silent() {
        let mut world = World::with_machines(3);
        let set = Times {
            set_forward: 3600,
            ..Times::default()
        };
        assert_eq!(world.pass(set).await, []);
        let mut world = World::with_machines(3);
        let waited = Times {
            listing: Seconds::new(3600),
            ..Times::default()
        };
        assert_eq!(
            world.pass(waited).await.len(),
            3,
            "an hour has really passed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_decided_long_ago_is_decided_anew() {
        let mut world = World::with_machines(25);
        let times = Times {
            listing: Seconds::new(3600),
            deleting: Seconds::new(100),
            ..Times::default()
        };
        // Ten at once, begun after 0 s and 100 s; the others would have been after 200 s.
        let first = world.pass(times).await;
        assert_eq!(first.len(), 20);
        let second = world.pass(Times::default()).await;
        assert_eq!(second.len(), 25, "all are still there");
        let next = second.iter().take(5);
        assert!(
            next.clone().all(|machine| !first.contains(machine)),
            "{next:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_makes_nothing_left_over_for_longer() {
        let mut world = World::with_machines(0);
        assert_eq!(world.removals(1, 0).await, 0, "never at first sight");
        world.common.clock.step(3600);
        assert_eq!(world.removals(1, 0).await, 0, "a minute later");
        world.common.clock.sleep(Seconds::new(600)).await;
        assert_eq!(world.removals(1, 0).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_that_was_found_once_is_looked_for_until_it_is_gone() {
        let mut world = World::with_machines(0);
        let mut looked_for = Vec::new();
        for left in [2, 1, 0, 0] {
            let times = Times {
                left,
                ..Times::default()
            };
            let cloud = world.run(times).await;
            looked_for.push(*cloud.volumes_looked_for.lock().unwrap());
            world.common.clock.sleep(Seconds::new(600)).await;
        }
        // The second look removes the one that is left.
        assert_eq!(looked_for, [0, 2, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn removals_keep_no_pass_waiting_for_long() {
        let mut world = World::with_machines(0);
        assert_eq!(world.removals(100, 50).await, 0);
        world.common.clock.sleep(Seconds::new(600)).await;
        // Ten at once, begun after 0 s and 50 s.
        assert_eq!(world.removals(100, 50).await, 20);
        assert_eq!(
            world.removals(100, 50).await,
            0,
            "the rest in the next look"
        );
        world.common.clock.sleep(Seconds::new(600)).await;
        assert_eq!(world.removals(100, 0).await, 80);
    }

    #[test]
    fn answers_that_break_off_here_and_there_are_one_trouble() {
        let trouble = |status: &str, why: &str| {
            let message = format!("{status} with {UNUSABLE}: {why}");
            let error = CloudError::new(CloudErrorKind::Rejected, "GET servers", message);
            PassError::Cloud(error).trouble()
        };
        let first = trouble("200 OK", "EOF while parsing a string at line 1 column 9014");
        assert_eq!(
            first,
            trouble("200 OK", "EOF while parsing a list at line 1 column 7")
        );
        assert_ne!(first, trouble("201 Created", "EOF while parsing a list"));
        let other = CloudError::new(CloudErrorKind::Transient, "GET servers", "503 at noon");
        assert_eq!(PassError::Cloud(other).trouble(), "503 at noon");
    }
}
