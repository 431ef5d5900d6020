//! The driver: reads the configuration at every tick, hands it to the spaces, and starts their tasks
//! again when they have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::admin::AdminSocket;
use super::https::HttpsServer;
use super::joboutputs::Janitor;
use super::space_task::{Ended, WhyEnded};
use super::unread::UnreadDirectories;
use super::web::{AdminEndpoint, Questions};
use super::{Board, Common, Control, DaemonError, DaemonStatus, Settings, Tick, space_task};
use crate::act::userdata::Templates;
use crate::blocking;
use crate::config::{self, Config};
use crate::events::{Entry, Event, EventLog, Writing};
use crate::images;
use crate::metrics::Metrics;
use crate::migrate::waiting::{self, OldMachines};
use crate::model::{FactoryName, MachineFiles, MachineName, SpaceName, Timestamp};
use crate::pipes;
use crate::state::{Layout, Loaded, StateError, Store};
use crate::telemetry::{Repeats, levels};

/// How long work that is under way may take to end after a stop was asked for.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// What [`Repeats`] calls the errors and the warnings of the configuration.
const ERRORS: &str = "configuration errors";
const WARNINGS: &str = "configuration warnings";

fn in_lines(problems: &[config::Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Takes a good configuration over. Tells whether it is another one.
fn take(config: Config, next: &mut Tick) -> bool {
    let changed = *next.config != config;
    if changed {
        info!("using a changed configuration");
    }
    if next.config.server.ca_path != config.server.ca_path {
        next.templates = Templates::new(&config.server.ca_path);
        next.cache = images::Cache::new(&config.server.ca_path);
    }
    next.config = Arc::new(config);
    changed
}

async fn load(settings: &Settings, pipes: &Arc<config::Pipes>) -> config::Loaded {
    let (sources, context) = (settings.sources.clone(), settings.config_context());
    let pipes = Arc::clone(pipes);
    blocking::run(move || config::load_with(&sources, &context, &pipes)).await
}

fn daemon_status(settings: &Settings, now: Timestamp) -> DaemonStatus {
    DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        factory: settings.factory.clone(),
        process: std::process::id(),
        started: now,
        interval: settings.interval,
    }
}

/// The local socket. A daemon that cannot have it does its work all the same.
fn open_socket(settings: &Settings, store: &Store, board: &Board) -> Option<AdminSocket> {
    let path = settings.socket.clone()?;
    let shown = path.display().to_string();
    let disk = store.layout().disk();
    match AdminSocket::start(path, disk, board.clone(), settings.clock.clone()) {
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

/// The task of a space.
struct Running {
    task: tokio::task::Id,
    /// Tells it of ticks: each task has a channel of its own, so that they hear in order.
    ticks: watch::Sender<Tick>,
    /// Hands it directories that can be read again.
    found: mpsc::UnboundedSender<MachineFiles>,
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
        let loaded = load(&settings, &known).await;
        let Some(config) = loaded.config else {
            return Err(DaemonError::Config(loaded.problems));
        };
        let mut repeats = Repeats::default();
        repeats.is_news(WARNINGS, &in_lines(&loaded.problems));
        for problem in &loaded.problems {
            warn!("{problem}");
        }
        let store = Arc::new(Store::open(layout)?);
        let mut unread = UnreadDirectories::default();
        let (machines, old) = load_machines(&store, &config, &settings.factory, &mut unread)?;
        let metrics = Metrics::default();
        let server = HttpsServer::start(&config.server, &store, &settings.clock, &metrics).await?;
        let config = Arc::new(config);
        let now = settings.clock.now();
        board.begin(daemon_status(&settings, now));
        board.config_loaded(now, config.spaces.keys().cloned().collect());
        board.certificate(server.certificate_expires());
        let socket = open_socket(&settings, &store, &board);
        let disk = store.layout().disk();
        let (events, writing) = EventLog::start(settings.events.clone(), disk);
        let (mut endpoint, questions) =
            AdminEndpoint::new(&settings, &store, &board, &events, &metrics);
        endpoint
            .tend(config.server.admin_listen, &mut repeats)
            .await;
        let tick = Tick {
            config: Arc::clone(&config),
            templates: Templates::new(&config.server.ca_path),
            cache: images::Cache::new(&config.server.ca_path),
            hearing: server.hearing(),
        };
        let pipes = pipes::Keeper::new(&store, &settings.clock, &settings.host.network, known);
        let mut driver = Self {
            pipes,
            common: Common {
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
            },
            settings,
            tick,
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
        let loaded = load(&self.settings, self.pipes.known()).await;
        let now = self.settings.clock.now();
        let mut next = self.tick.clone();
        let text = in_lines(&loaded.problems);
        match loaded.config {
            None => {
                if self.repeats.is_news(ERRORS, &text) {
                    for problem in &loaded.problems {
                        error!("{problem}");
                    }
                    error!("the configuration has errors; going on with the last good one");
                    let problems = loaded.problems.iter().map(ToString::to_string);
                    let problems = problems.collect();
                    self.tell(Event::ConfigRejected { problems });
                }
                let problems = loaded.problems.iter().map(ToString::to_string).collect();
                self.common.board.config_rejected(now, problems);
            }
            Some(config) => {
                let is_good_again = self.repeats.is_over(ERRORS).is_some();
                if is_good_again {
                    info!("the configuration is good again");
                }
                if self.repeats.is_news(WARNINGS, &text) {
                    for problem in &loaded.problems {
                        warn!("{problem}");
                    }
                }
                let spaces = config.spaces.keys().cloned().collect();
                self.common.board.config_loaded(now, spaces);
                if take(config, &mut next) || is_good_again {
                    self.tell(Event::ConfigReloaded {});
                }
            }
        }
        let time = (&self.settings.clock, self.settings.interval);
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
        // Once: a second word in one tick could start a second pass right after the first, and
        // two scans in a row would say less than they are taken to say.
        for running in self.running.values() {
            running.ticks.send_replace(next.clone());
        }
        self.tick = next;
        self.fetch_pipes();
        self.start_spaces().await;
        self.show_orphans();
        let expires = self.server.certificate_expires();
        self.common.board.certificate(expires);
        let admin_listen = self.tick.config.server.admin_listen;
        self.endpoint.tend(admin_listen, &mut self.repeats).await;
        let (store, repeats) = (&self.common.store, &mut self.repeats);
        self.janitor.tend(store, &self.tick.config, now, repeats);
    }

    /// Tries unread directories again, and gives those that can be read to whom they belong.
    async fn hand_over_what_can_be_read(&mut self) {
        for files in self.unread.try_again(&self.common.store).await {
            match self.running.get(&files.space) {
                Some(running) => {
                    // A task that is just ending takes nothing more.
                    if let Err(mpsc::error::SendError(files)) = running.found.send(files) {
                        self.unread.put_back(files.name);
                    }
                }
                None => {
                    let kept = self.machines.entry(files.space.clone()).or_default();
                    if kept.iter().all(|known| known.name != files.name) {
                        kept.push(files);
                    }
                }
            }
        }
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

    /// Starts a task for each configured space that has none.
    async fn start_spaces(&mut self) {
        self.find_the_lost().await;
        let config = Arc::clone(&self.tick.config);
        for space in config.spaces.keys() {
            // A space that is still lost does not begin without its directories: it would take
            // its own machines for somebody else's.
            if self.running.contains_key(space) || self.lost.contains(space) {
                continue;
            }
            let files = self.machines.remove(space).unwrap_or_default();
            let (ticks, receiver) = watch::channel(self.tick.clone());
            let (found, to_take_up) = mpsc::unbounded_channel();
            let told = space_task::Told {
                ticks: receiver,
                found: to_take_up,
                old: self.old.remove(space),
            };
            let task = space_task::run(self.common.clone(), space.clone(), told, files);
            let task = self.tasks.spawn(task).id();
            let running = Running { task, ticks, found };
            self.running.insert(space.clone(), running);
        }
    }

    fn tell(&self, event: Event) {
        self.common.events.take(vec![Entry {
            time: self.settings.clock.now(),
            space: None,
            event,
        }]);
    }

    /// Shows the machines of spaces that are not configured: they are nobody's, and left alone.
    fn show_orphans(&self) {
        let known = self.machines.iter();
        let orphans = known.filter(|(space, machines)| {
            !self.tick.config.spaces.contains_key(*space) && !machines.is_empty()
        });
        let orphans = orphans.map(|(space, machines)| (space.clone(), machines.len()));
        self.common.board.orphans(orphans.collect());
    }

    /// Reads the directories of spaces that were lost again: once for all of them, and where it
    /// may block, for a hundred thousand take seconds.
    async fn find_the_lost(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let (store, factory) = (
            Arc::clone(&self.common.store),
            self.settings.factory.clone(),
        );
        match blocking::run(move || read_directories(&store, &factory)).await {
            Ok(Directories { loaded, mut old }) => {
                let lost = std::mem::take(&mut self.lost);
                old.retain(|space, _| lost.contains(space));
                self.old.append(&mut old);
                self.unread.note(loaded.unread);
                for files in loaded.machines {
                    if lost.contains(&files.space) {
                        let known = self.machines.entry(files.space.clone());
                        known.or_default().push(files);
                    }
                }
            }
            Err(problem) => {
                for space in &self.lost {
                    error!(%space, "{problem}; the space stands still, and the next cycle tries again");
                }
            }
        }
    }

    fn space_ended(&mut self, ended: Result<(tokio::task::Id, Ended), tokio::task::JoinError>) {
        match ended {
            Ok((_, Ended { space, why })) => {
                self.running.remove(&space);
                match why {
                    WhyEnded::TakenOver => {
                        self.lost.insert(space);
                    }
                    WhyEnded::Left(files, old) => self.has_left(space, files, old),
                }
            }
            Err(failed) => {
                let mut spaces = self.running.iter();
                let found = spaces.find(|(_, running)| running.task == failed.id());
                let Some(space) = found.map(|(space, _)| space.clone()) else {
                    return;
                };
                self.running.remove(&space);
                error!(
                    %space, error = %failed,
                    "a pass ended in an internal error; starting again from the files with the next cycle"
                );
                self.lost.insert(space);
            }
        }
    }

    fn has_left(
        &mut self,
        space: SpaceName,
        files: Vec<MachineFiles>,
        old: Option<BTreeSet<MachineName>>,
    ) {
        self.common.board.remove(&space);
        if !files.is_empty() {
            warn!(
                %space,
                "the space has left the configuration: its {} machine(s) are left alone",
                files.len()
            );
        }
        if let Some(old) = old {
            self.old.insert(space.clone(), old);
        }
        self.machines.insert(space, files);
        self.show_orphans();
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
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::Clock;
    use crate::daemon::{Host, run};
    use crate::model::Seconds;
    use crate::state::Disk;

    /// A daemon for one space whose cloud is at `address`.
    fn settings(dir: &std::path::Path, address: &str) -> Settings {
        let text = format!(
            "[server]\nlisten = none\nadmin_listen = none\n\
             [space example.org]\napi = openstack\nurl = http://{address}/v3\n\
             cred_id = a\ncred_secret = b\nmax_machines = 1\n\
             [machinetype example.org a]\nflavor_name = one\nroot_image = image:i\n\
             user_data = /u\nbackoff_seconds = 1\nfizzle_seconds = 1\n"
        );
        let conf = dir.join("vcycle.conf");
        Disk::default()
            .write(dir, &conf, text.as_bytes(), 0o644)
            .unwrap();
        Settings {
            sources: config::Sources {
                conf,
                dir: dir.join("vcycle.d"),
            },
            state_dir: dir.join("state"),
            interval: Seconds::new(3600),
            factory: FactoryName::new("factory.example.org").unwrap(),
            clock: Clock::system(),
            events: None,
            socket: None,
            host: Host::default(),
        }
    }

    #[tokio::test]
    async fn a_watchdog_hears_of_the_driver_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), "127.0.0.1:1");
        let control = Control::default();
        assert_eq!(control.is_alive().now_or_never(), None);
        let daemon = run(settings, control.clone(), Board::default(), || {});
        let watchdog = async {
            control.is_alive().await;
            control.is_alive().await;
            control.stop.cancel();
        };
        let both = async { tokio::join!(daemon, watchdog).0 };
        let ended = tokio::time::timeout(Duration::from_secs(30), both).await;
        ended.unwrap().unwrap();
        assert_eq!(control.is_alive().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_cloud_that_hangs_while_it_is_looked_at_does_not_delay_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let control = Control::default();
        let daemon = tokio::spawn(run(
            settings(dir.path(), &address),
            control.clone(),
            Board::default(),
            || {},
        ));
        let _connection = silent.accept().await.unwrap();
        control.stop.cancel();
        let ended = tokio::time::timeout(STOP_GRACE / 2, daemon).await;
        ended.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_space_that_was_lost_begins_again_with_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), "127.0.0.1:1");
        let machine = dir.path().join("state/machines/vcycle-a-aaaaaaaaaa");
        std::fs::create_dir_all(&machine).unwrap();
        for (file, text) in [
            ("space_name", "example.org"),
            ("machinetype_name", "a"),
            ("manager", "factory.example.org"),
            ("created", "1000"),
        ] {
            let path = machine.join(file);
            let disk = Disk::default();
            disk.write(dir.path(), &path, text.as_bytes(), 0o644)
                .unwrap();
        }
        let space = SpaceName::new("example.org").unwrap();
        let driver = Driver::begin(settings, CancellationToken::new(), Board::default()).await;
        let mut driver = driver.unwrap();
        assert!(driver.machines.is_empty(), "the space has its directories");
        // As after a panic: the task is gone, and what it knew with it.
        driver.tasks.abort_all();
        let ended = driver.tasks.join_next_with_id().await.unwrap();
        driver.space_ended(ended);
        assert!(driver.lost.contains(&space));
        driver.find_the_lost().await;
        assert!(driver.lost.is_empty());
        assert_eq!(driver.machines[&space].len(), 1);
        driver.start_spaces().await;
        assert!(driver.machines.is_empty() && driver.running.len() == 1);
    }
}
