//! The HTTPS server over the life of the daemon, and since when machines can be heard.
//!
//! A heartbeat that is not there says something about a machine only when the machine could have
//! written it. While the server is down nothing is judged by heartbeats ([`Hearing::Deaf`]), and
//! after a break (a start, a suspended host, a clock that was set) their age counts anew: where another
//! program takes them, too, for the host may have been down with both, and what was written just before
//! that may be lost with the power. Nor can it be written to a disk that takes nothing. A changed
//! [server] section takes the place of the old one only when a server could start with it.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::status::HttpsStatus;
use crate::blocking;
use crate::clock::{Clock, Lap};
use crate::config::ServerConfig;
use crate::metrics::Metrics;
use crate::model::{Heartbeat, Seconds, SpaceSnapshot, Timestamp};
use crate::server::{Server, ServerError};
use crate::state::{StateError, Store};
use crate::telemetry::{Lasted, Repeats, Telling};

/// How long the HTTPS server waits for requests that are being answered.
const SERVER_GRACE: std::time::Duration = std::time::Duration::from_secs(2);
/// What a tick may be late, beside a whole interval, and the clock be set forward, before it is taken
/// for a break.
pub(super) const LATE: Seconds = Seconds::new(120);
/// The kinds of trouble that are told once.
const START: &str = "start of the HTTPS server";
const CHANGE: &str = "change of the HTTPS server";
const DISK: &str = "the disk for heartbeats";
/// How long a tick waits for the disk.
const PROBE_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether machines can write their heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// To another program, of whose troubles we know nothing; but this host was not down since then.
    Elsewhere(Timestamp),
    /// Without a break since then.
    Since(Timestamp),
    /// They cannot: our server is down.
    Deaf,
}

impl Hearing {
    /// Puts into a snapshot what heartbeats are worth.
    pub(super) fn apply(self, snapshot: &mut SpaceSnapshot) {
        match self {
            Self::Elsewhere(since) | Self::Since(since) => {
                snapshot.listening_since = snapshot.listening_since.max(Some(since));
            }
            Self::Deaf => {
                for machine in &mut snapshot.machines {
                    machine.heartbeat = Heartbeat::Unknown;
                }
            }
        }
    }
}

/// The HTTPS server, or none when another program serves the directory.
pub(super) struct HttpsServer {
    /// The section that it runs with, or should.
    config: ServerConfig,
    server: Option<Server>,
    metrics: Metrics,
    hearing: Hearing,
    last_tick: Lap,
    /// Under way while the disk lets a write wait.
    probe: Option<JoinHandle<Result<(), StateError>>>,
    /// Why it does not run, or not with the section as it is now.
    problem: Option<String>,
}

/// Whether a section asks for a server.
const fn asks_for_one(config: &ServerConfig) -> bool {
    !(config.listen.is_empty() && config.http_listen.is_empty())
}

impl HttpsServer {
    /// Starts it, if `config` wants one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) async fn start(
        config: &ServerConfig,
        store: &Store,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, ServerError> {
        let now = clock.now();
        let mut new = Self {
            config: config.clone(),
            server: None,
            metrics: metrics.clone(),
            hearing: Hearing::Elsewhere(now),
            last_tick: clock.lap(),
            probe: None,
            problem: None,
        };
        if asks_for_one(config) {
            new.server = Some(new.begin(store, clock).await?);
            new.hearing = Hearing::Since(now);
        }
        Ok(new)
    }

    pub(super) const fn hearing(&self) -> Hearing {
        self.hearing
    }

    /// What an admin is shown of it.
    pub(super) fn status(&self) -> HttpsStatus {
        let server = self.server.as_ref();
        let server = server.filter(|_| !self.config.listen.is_empty());
        let refused = server.and_then(Server::refused_certificate);
        HttpsStatus {
            is_down: self.hearing == Hearing::Deaf,
            problem: refused.or_else(|| self.problem.clone()),
            certificate_expires: server.and_then(Server::certificate_expires),
        }
    }

    /// Once a tick, which come every `interval`: takes over new certificates and a changed
    /// [server] section, and starts a server that could not be started before.
    pub(super) async fn tend(
        &mut self,
        wanted: &ServerConfig,
        store: &Arc<Store>,
        (clock, interval): (&Clock, Seconds),
        repeats: &mut Repeats,
    ) {
        // The admin endpoint is another listener.
        let wanted = ServerConfig {
            admin_listen: self.config.admin_listen,
            ..wanted.clone()
        };
        if wanted != self.config {
            self.change(wanted, clock, repeats).await;
        } else if repeats.ended(CHANGE).is_some() {
            info!("[server] is again what the HTTPS server runs with");
            self.problem = None;
        }
        let this_tick = clock.lap();
        match &self.server {
            Some(server) => {
                server.reload();
                self.note_breaks(clock, interval);
            }
            None if asks_for_one(&self.config) => self.start_again(store, clock, repeats).await,
            None => self.note_breaks(clock, interval),
        }
        self.note_disk(store, clock.now(), repeats).await;
        self.last_tick = this_tick;
    }

    /// Lets the old server go, so that the next one can have its ports; but not before it is known
    /// that there can be a next one: a slip in the section must not silence the machines that run.
    async fn change(&mut self, wanted: ServerConfig, clock: &Clock, repeats: &mut Repeats) {
        if let Some(server) = self.server.as_ref().filter(|_| asks_for_one(&wanted))
            && let Err(problem) = server.could_become(&wanted, clock)
        {
            let problem = problem.to_string();
            let still = match repeats.telling(CHANGE, &problem, clock.now()) {
                Telling::News => Some(String::new()),
                Telling::Reminder(lasted) => {
                    Some(format!("still, since {}: ", lasted.since.to_rfc3339()))
                }
                Telling::Nothing => None,
            };
            if let Some(still) = still {
                error!(
                    "{still}cannot change the HTTPS server as [server] asks: {problem}; it goes on as it was, and the next cycle tries again"
                );
            }
            self.problem = Some(format!(
                "[server] cannot be used, and the HTTPS server goes on as it was: {problem}"
            ));
            return;
        }
        self.stop().await;
        self.config = wanted;
        self.hearing = Hearing::Elsewhere(clock.now());
        self.problem = None;
        if let Some(Lasted { count, .. }) = repeats.ended(CHANGE) {
            info!("[server] can be used, after {count} cycle(s)");
        }
    }

    async fn begin(&self, store: &Store, clock: &Clock) -> Result<Server, ServerError> {
        let (layout, metrics) = (store.layout().clone(), self.metrics.clone());
        Server::start_counted(&self.config, layout, clock.clone(), metrics).await
    }

    async fn start_again(&mut self, store: &Store, clock: &Clock, repeats: &mut Repeats) {
        match self.begin(store, clock).await {
            Ok(server) => {
                self.server = Some(server);
                self.hearing = Hearing::Since(clock.now());
                self.problem = None;
                if let Some(Lasted { count, since }) = repeats.ended(START) {
                    let since = since.to_rfc3339();
                    info!("the HTTPS server is back, after {count} cycle(s) without since {since}");
                }
            }
            Err(problem) => {
                self.hearing = Hearing::Deaf;
                self.problem = Some(format!(
                    "the HTTPS server is down, and machines are not judged by their heartbeats: {problem}"
                ));
                let still = match repeats.telling(START, &problem.to_string(), clock.now()) {
                    Telling::News => String::new(),
                    Telling::Reminder(lasted) => {
                        format!("still, since {}: ", lasted.since.to_rfc3339())
                    }
                    Telling::Nothing => return,
                };
                error!(
                    "{still}cannot start the HTTPS server: {problem}; machines cannot reach it and are not judged by their heartbeats, and the next cycle tries again"
                );
            }
        }
    }

    /// While the host was suspended no machine could write, and when the clock has jumped the age
    /// of what they wrote means nothing: they get time to be heard again.
    fn note_breaks(&mut self, clock: &Clock, interval: Seconds) {
        let now = clock.now();
        let gap = now.since(self.last_tick.at());
        let late = gap > interval + interval + LATE || clock.skipped(&self.last_tick) > LATE;
        let since = match &mut self.hearing {
            Hearing::Elsewhere(since) | Hearing::Since(since) => since,
            Hearing::Deaf => return,
        };
        if late || *since > now {
            *since = now;
            warn!(
                "{} between two cycles: this host slept or its clock was set; heartbeats count anew from now",
                if late {
                    format!("{gap} s have passed")
                } else {
                    "the clock went back".to_owned()
                }
            );
        }
    }

    /// A disk that is full, or that cannot be written to, takes no heartbeats either, and when it
    /// takes them again those that are there are old: machines get time to be heard again.
    async fn note_disk(&mut self, store: &Arc<Store>, now: Timestamp, repeats: &mut Repeats) {
        let Err(problem) = self.probe(store).await else {
            if repeats.ended(DISK).is_some() {
                info!("machines can write again; their heartbeats count anew");
            }
            return;
        };
        if let Hearing::Elsewhere(since) | Hearing::Since(since) = &mut self.hearing {
            *since = now;
        }
        let still = match repeats.telling(DISK, &problem, now) {
            Telling::News => String::new(),
            Telling::Reminder(lasted) => format!("still, since {}: ", lasted.since.to_rfc3339()),
            Telling::Nothing => return,
        };
        error!(
            "{still}{problem}: machines cannot write either, and none is judged by heartbeats written here"
        );
    }

    /// Whether the disk takes anything, by a write for which nobody waits long: the watchdog waits for
    /// ticks.
    async fn probe(&mut self, store: &Arc<Store>) -> Result<(), String> {
        let store = Arc::clone(store);
        let mut writing = self
            .probe
            .take()
            .unwrap_or_else(|| tokio::spawn(blocking::run(move || store.try_to_write())));
        match tokio::time::timeout(PROBE_TIME, &mut writing).await {
            Ok(Ok(written)) => written.map_err(|problem| problem.to_string()),
            Ok(Err(failed)) => Err(format!("an internal error: {failed}")),
            Err(_) => {
                self.probe = Some(writing);
                Err("the state directory lets a write wait".to_owned())
            }
        }
    }

    pub(super) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(SERVER_GRACE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;

    use super::*;
    use crate::cli::demo::certificates::{Authority, Use, Validity};
    use crate::decide::testing;
    use crate::model::MachineState;
    use crate::state::Disk;

    const INTERVAL: Seconds = Seconds::new(60);

    struct World {
        dir: tempfile::TempDir,
        store: Arc<Store>,
        clock: Clock,
        repeats: Repeats,
        server: HttpsServer,
    }

    fn config(dir: &Path, listen: Option<SocketAddr>) -> ServerConfig {
        ServerConfig {
            listen: listen.into_iter().collect(),
            http_listen: Vec::new(),
            cert: dir.join("cert.pem"),
            key: dir.join("cert.pem"),
            ca_path: dir.to_owned(),
            admin_listen: None,
            joboutputs_max_bytes: 1000,
            joboutputs_max_bytes_per_machine: 1000,
        }
    }

    impl World {
        /// A daemon without a server of its own.
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path().join("state")).unwrap());
            let clock = Clock::manual(Timestamp::from_unix(1_700_000_000));
            let none = config(dir.path(), None);
            Self {
                server: HttpsServer::start(&none, &store, &clock, &Metrics::default())
                    .await
                    .unwrap(),
                repeats: Repeats::default(),
                store,
                clock,
                dir,
            }
        }

        async fn tick(&mut self, wanted: &ServerConfig, seconds_later: u64) -> Hearing {
            self.clock
                .set(self.clock.now() + Seconds::new(seconds_later));
            let time = (&self.clock, INTERVAL);
            let repeats = &mut self.repeats;
            self.server.tend(wanted, &self.store, time, repeats).await;
            self.server.hearing()
        }

        fn make_certificate(&self) {
            let validity = Validity {
                now: self.clock.now(),
                life: Seconds::new(86400),
            };
            let authority = Authority::new(&[("CN", "factory")], validity).unwrap();
            let host = authority.issue(&[("CN", "host")], &Use::Client, validity);
            let pem = host.unwrap().to_pem().unwrap();
            let path = self.dir.path().join("cert.pem");
            Disk::default()
                .write(self.dir.path(), &path, &pem, 0o600)
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_hears_nobody_and_is_tried_again() {
        let mut world = World::new().await;
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wanted = config(world.dir.path(), Some(port.local_addr().unwrap()));
        assert_eq!(
            world.tick(&wanted, 60).await,
            Hearing::Deaf,
            "no certificate"
        );
        world.make_certificate();
        assert_eq!(world.tick(&wanted, 60).await, Hearing::Deaf, "no port");
        drop(port);
        let heard = world.tick(&wanted, 60).await;
        assert_eq!(heard, Hearing::Since(world.clock.now()));
        assert_eq!(world.tick(&wanted, 60).await, heard);
        let none = config(world.dir.path(), None);
        let elsewhere = world.tick(&none, 60).await;
        assert_eq!(elsewhere, Hearing::Elsewhere(world.clock.now()));
        assert_eq!(world.tick(&none, 60).await, elsewhere);
    }

    #[tokio::test]
    async fn heartbeats_count_anew_after_a_suspend_and_a_step_of_the_clock() {
        let mut world = World::new().await;
        world.make_certificate();
        let wanted = config(world.dir.path(), Some((Ipv4Addr::LOCALHOST, 0).into()));
        let started = world.tick(&wanted, 60).await;
        assert_eq!(world.tick(&wanted, 100).await, started, "a little late");
        let resumed = world.tick(&wanted, 7200).await;
        assert_eq!(resumed, Hearing::Since(world.clock.now()));
        let back = Timestamp::from_unix(world.clock.now().unix() - 5000);
        world.clock.set(back);
        assert_eq!(world.tick(&wanted, 0).await, Hearing::Since(back));
    }

    #[tokio::test]
    async fn heartbeats_to_another_program_count_anew_from_the_start() {
        let mut world = World::new().await;
        let none = config(world.dir.path(), None);
        let started = Hearing::Elsewhere(world.clock.now());
        assert_eq!(world.server.hearing(), started);
        assert_eq!(world.tick(&none, 60).await, started);
        let resumed = world.tick(&none, 7200).await;
        assert_eq!(resumed, Hearing::Elsewhere(world.clock.now()));
        let mut snapshot = testing::snapshot(Vec::new());
        resumed.apply(&mut snapshot);
        assert_eq!(snapshot.listening_since, Some(world.clock.now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_is_a_break_whatever_the_interval() {
        let mut world = World::new().await;
        world.clock = Clock::timer(world.clock.now());
        let none = config(world.dir.path(), None);
        let metrics = Metrics::default();
        let server = HttpsServer::start(&none, &world.store, &world.clock, &metrics);
        world.server = server.await.unwrap();
        let began = world.clock.now();
        let mut heard = Vec::new();
        for set_forward in [0, 100, 130] {
            tokio::time::sleep(INTERVAL.to_duration()).await;
            world.clock.step(set_forward);
            heard.push(world.tick(&none, 0).await);
        }
        let since = |time| Hearing::Elsewhere(time);
        let now = world.clock.now();
        assert_eq!(heard, [since(began), since(began), since(now)]);
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_makes_no_machine_silent() {
        let mut world = World::new().await;
        let none = config(world.dir.path(), None);
        let Hearing::Elsewhere(at_first) = world.tick(&none, 60).await else {
            panic!("there is no server");
        };
        let tmp = world.store.layout().tmp();
        std::fs::remove_dir(&tmp).unwrap();
        std::fs::File::create(&tmp).unwrap();
        let later = Hearing::Elsewhere(at_first + Seconds::new(240));
        world.tick(&none, 60).await;
        world.tick(&none, 60).await;
        assert_eq!(
            world.repeats.ended(DISK).map(|lasted| lasted.count),
            Some(2)
        );
        world.tick(&none, 60).await;
        std::fs::remove_file(&tmp).unwrap();
        std::fs::create_dir(&tmp).unwrap();
        // From the last time on that it took nothing.
        assert_eq!(world.tick(&none, 60).await, later);
        assert_eq!(world.tick(&none, 60).await, later);
    }

    #[test]
    fn a_deaf_daemon_knows_nothing_of_heartbeats() {
        let mut machine = testing::machine("vcycle-a-aaaaaaaaaa", MachineState::Running, 1000);
        machine.heartbeat = Heartbeat::Missing;
        let mut snapshot = testing::snapshot(vec![machine]);
        Hearing::Since(Timestamp::from_unix(5)).apply(&mut snapshot);
        assert_eq!(snapshot.machines[0].heartbeat, Heartbeat::Missing);
        assert_eq!(snapshot.listening_since, Some(Timestamp::from_unix(5)));
        Hearing::Deaf.apply(&mut snapshot);
        assert_eq!(snapshot.machines[0].heartbeat, Heartbeat::Unknown);
    }
}
