//! The driver: reads the configuration at every tick, hands it to the spaces, and starts their tasks
//! again when they have ended.

mod reload;
mod spaces;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::admin::AdminSocket;
use super::certificate;
use super::https::HttpsServer;
use super::joboutputs::Janitor;
use super::space_task::Ended;
use super::unread::UnreadDirectories;
use super::web::{AdminEndpoint, Questions};
use super::{Board, Common, Control, DaemonError, DaemonStatus, Settings, Tick};
use crate::act::userdata::Templates;
use crate::clock::Clock;
use crate::config::Config;
use crate::events::{Entry, Event, EventLog, Writing};
use crate::images;
use crate::metrics::Metrics;
use crate::migrate::waiting::{self, OldMachines};
use crate::model::{FactoryName, MachineFiles, MachineName, SpaceName, Timestamp};
use crate::pipes;
use crate::state::{Layout, Loaded, StateError, Store};
use crate::telemetry::{Repeats, levels};
use spaces::Running;

/// How long work that is under way may take to end after a stop was asked for.
const STOP_GRACE: Duration = Duration::from_secs(8);

fn daemon_status(settings: &Settings, now: Timestamp) -> DaemonStatus {
    DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        factory: settings.factory.clone(),
        process: std::process::id(),
        started: now,
        interval: settings.interval,
    }
}

/// What all tasks share, and who writes down its events.
fn common(
    settings: &Settings,
    store: Arc<Store>,
    metrics: Metrics,
    board: Board,
    stop: CancellationToken,
) -> (Common, Option<Writing>) {
    let disk = store.layout().disk();
    let (events, writing) = EventLog::start(settings.events.clone(), disk);
    let common = Common {
        store,
        interval: settings.interval,
        factory: settings.factory.clone(),
        clock: settings.clock.clone(),
        seeds: settings.host.seeds.clone(),
        network: settings.host.network.clone(),
        board,
        events,
        metrics,
        stop,
    };
    (common, writing)
}

/// The local socket. A daemon that cannot have it does its work all the same.
fn open_socket(settings: &Settings, common: &Common) -> Option<AdminSocket> {
    let path = settings.socket.clone()?;
    let shown = path.display().to_string();
    let disk = common.store.layout().disk();
    match AdminSocket::start(path, disk, common.board.clone(), common.clock.clone()) {
        Ok(socket) => Some(socket),
        Err(error) => {
            warn!(
                "cannot listen at {shown}: {error}; vcycled status and explain cannot ask this daemon"
            );
            None
        }
    }
}

/// The machine directories as they are now.
struct Directories {
    loaded: Loaded,
    /// Those that wait to be taken over from an older version.
    old: OldMachines,
}

/// Reads all machine directories. Those that an older version made and that lack what we need are
/// not told of as unread: they wait to be taken over.
fn read_directories(store: &Store, factory: &FactoryName) -> Result<Directories, StateError> {
    let mut loaded = store.load_machines()?;
    let without_manager = loaded.machines.iter();
    let without_manager = without_manager.filter(|files| files.manager.is_none());
    let suspects = without_manager.map(|files| files.name.clone());
    let suspects = suspects.chain(loaded.unread.iter().map(|unread| unread.machine.clone()));
    let old = waiting::of_tree(store.layout(), factory, suspects)?;
    let is_old = |name: &MachineName| old.values().any(|names| names.contains(name));
    loaded.unread.retain(|unread| !is_old(&unread.machine));
    Ok(Directories { loaded, old })
}

/// All machine directories, by space. Those of spaces that are not configured are kept too: the
/// space may come back.
fn load_machines(
    store: &Store,
    config: &Config,
    factory: &FactoryName,
    unread: &mut UnreadDirectories,
) -> Result<(BTreeMap<SpaceName, Vec<MachineFiles>>, OldMachines), StateError> {
    let Directories { loaded, old } = read_directories(store, factory)?;
    unread.note(loaded.unread);
    for space in old.keys() {
        if !config.spaces.contains_key(space) {
            warn!(
                %space,
                "machines of GridPP's Vcycle wait to be taken over, see vcycled migrate; their space is not configured"
            );
        }
    }
    let mut machines: BTreeMap<SpaceName, Vec<MachineFiles>> = BTreeMap::new();
    for files in loaded.machines {
        machines.entry(files.space.clone()).or_default().push(files);
    }
    for (space, orphans) in &machines {
        if !config.spaces.contains_key(space) {
            warn!(
                %space,
                "{} machine director(ies) of a space that is not configured: left alone, here and on the cloud",
                orphans.len()
            );
        }
    }
    Ok((machines, old))
}

/// Reads the configuration at every tick and keeps a task for each space.
pub(super) struct Driver {
    settings: Settings,
    common: Common,
    /// The latest.
    tick: Tick,
    server: HttpsServer,
    socket: Option<AdminSocket>,
    endpoint: AdminEndpoint,
    /// Asks whether the driver comes round.
    questions: Questions,
    writing: Option<Writing>,
    pipes: pipes::Keeper,
    /// Directories of spaces that have no task now.
    machines: BTreeMap<SpaceName, Vec<MachineFiles>>,
    /// Machines of an older version in spaces that have no task now.
    old: OldMachines,
    unread: UnreadDirectories,
    janitor: Janitor,
    tasks: JoinSet<Ended>,
    running: BTreeMap<SpaceName, Running>,
    /// Spaces whose task has panicked, or has found its directories changed: what was known of them
    /// is read from the files again.
    lost: BTreeSet<SpaceName>,
    repeats: Repeats,
}

impl Driver {
    /// Reads everything and starts the spaces.
    ///
    /// # Errors
    /// When the daemon cannot start.
    pub async fn begin(
        settings: Settings,
        stop: CancellationToken,
        board: Board,
    ) -> Result<Self, DaemonError> {
        let layout = Layout::on(settings.host.disk.clone(), &settings.state_dir);
        let known = pipes::remembered(&layout).await;
        let mut repeats = Repeats::default();
        let config = reload::begin(&settings, &known, &mut repeats).await?;
        let store = Arc::new(Store::open(layout)?);
        let mut unread = UnreadDirectories::default();
        let (machines, old) = load_machines(&store, &config, &settings.factory, &mut unread)?;
        let metrics = Metrics::default();
        let clock = &settings.clock;
        let server = HttpsServer::start(&config.server, &store, clock, &metrics).await?;
        let config = Arc::new(config);
        let now = settings.clock.now();
        board.begin(daemon_status(&settings, now));
        board.config_loaded(now, config.spaces.keys().cloned().collect());
        board.https(server.status());
        let (common, writing) = common(&settings, store, metrics, board, stop);
        let socket = open_socket(&settings, &common);
        let (mut endpoint, questions) = AdminEndpoint::new(&common);
        let admin_listen = config.server.admin_listen;
        endpoint.tend(admin_listen, &mut repeats).await;
        let network = &settings.host.network;
        let mut driver = Self {
            pipes: pipes::Keeper::new(&common.store, &settings.clock, network, known),
            tick: Tick {
                templates: Templates::new(&config.server.ca_path),
                cache: images::Cache::new(&config.server.ca_path),
                hearing: server.hearing(),
                lap: settings.clock.lap(),
                config: Arc::clone(&config),
            },
            common,
            settings,
            server,
            socket,
            endpoint,
            questions,
            writing,
            machines,
            old,
            unread,
            janitor: Janitor::default(),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            lost: BTreeSet::new(),
            repeats,
        };
        driver.fetch_pipes();
        driver.start_spaces().await;
        driver.show_orphans();
        driver.tell(Event::DaemonStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        info!(
            version = env!("CARGO_PKG_VERSION"),
            "running with {} space(s), state in {}",
            config.spaces.len(),
            driver.settings.state_dir.display()
        );
        Ok(driver)
    }

    /// Runs until the stop.
    pub async fn drive(&mut self, control: &Control) {
        let period = self.settings.clock.real(self.settings.interval);
        let mut ticker = tokio::time::interval(period.max(Duration::from_millis(10)));
        // A suspended host does not make up for the cycles that it missed.
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticker.tick().await; // the spaces begin their first pass when they start
        loop {
            tokio::select! {
                // The stop comes first: spaces end because of it, not because they have left the
                // configuration.
                biased;
                () = control.stop.cancelled() => return,
                () = control.asked.notified() => control.answered.notify_one(),
                () = control.wake.notified() => {
                    if levels::reset() {
                        info!("the log is as at the start again");
                    }
                    info!("asked for a cycle now");
                    self.common.events.reopen();
                    self.pipes.forget_pauses();
                    self.tick().await;
                    ticker.reset();
                }
                _ = ticker.tick() => self.tick().await,
                Some(ended) = self.tasks.join_next_with_id() => self.space_ended(ended),
                // The last: who asks all the time delays nothing.
                () = self.questions.answer() => {}
            }
        }
    }

    /// Reads the configuration again and tells everybody, which is what starts the passes.
    async fn tick(&mut self) {
        // What has come in since the last tick; nothing is waited for.
        self.pipes.collect();
        let loaded = reload::load(&self.settings, self.pipes.known()).await;
        let now = self.settings.clock.now();
        let mut next = self.tick.clone();
        self.take_over(loaded, now, &mut next);
        let time = (&self.settings.clock, self.settings.interval);
        // Before it is looked for breaks: what comes after that, the passes find.
        next.lap = self.settings.clock.lap();
        self.server
            .tend(
                &next.config.server,
                &self.common.store,
                time,
                &mut self.repeats,
            )
            .await;
        next.hearing = self.server.hearing();
        self.hand_over_what_can_be_read().await;
        self.tell_spaces(&next);
        self.tick = next;
        self.fetch_pipes();
        self.start_spaces().await;
        self.show_orphans();
        let https = self.server.status();
        let file = &self.tick.config.server.cert;
        // Clients judge it by the real time, also in a demo.
        let real = Clock::system().now();
        certificate::tell(https.certificate_expires, file, real, &mut self.repeats);
        self.common.board.https(https);
        let admin_listen = self.tick.config.server.admin_listen;
        self.endpoint.tend(admin_listen, &mut self.repeats).await;
        let (store, repeats) = (&self.common.store, &mut self.repeats);
        self.janitor.tend(store, &self.tick.config, now, repeats);
    }

    /// Begins to fetch the vacuum pipes that are due; a later tick finds what has come of it.
    fn fetch_pipes(&mut self) {
        let config = &self.tick.config;
        self.pipes.fetch_due(
            &config.pipes,
            &config.server.ca_path,
            self.settings.interval,
        );
    }

    fn tell(&self, event: Event) {
        self.common.events.take(vec![Entry {
            time: self.settings.clock.now(),
            space: None,
            event,
        }]);
    }

    /// Waits for what is under way, not for long.
    pub async fn end(mut self) {
        info!("stopping");
        let all = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                if let Err(failed) = ended {
                    warn!(error = %failed, "a space did not end well");
                }
            }
        };
        if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
            warn!(
                "some requests to clouds did not end in time; the next start finds out what became of them"
            );
        }
        self.server.stop().await;
        self.endpoint.stop().await;
        if let Some(socket) = self.socket.take() {
            socket.end();
        }
        self.tell(Event::DaemonStopped {});
        if let Some(writing) = self.writing.take() {
            writing.end(&self.common.events).await;
        }
        info!("stopped");
    }
}

#[cfg(test)]
mod tests;
