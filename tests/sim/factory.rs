//! A factory: its directory, its configuration, and the lives of its daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, mem};

use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;
use vcycle::clock::Clock;
use vcycle::cloud::http::Network;
use vcycle::config::Sources;
use vcycle::daemon::{self, Board, Control, DaemonError, Host, Settings};
use vcycle::model::{FactoryName, Seconds, SpaceName};
use vcycle::rng::{Seed, Seeds};
use vcycle::server::{Limits as Quota, Router};
use vcycle::state::{Layout, Store};

use crate::disk::SimDisk;
use crate::earth::Earth;
use crate::endings::Endings;
use crate::keys::public_key;
use crate::plan::{Configuration, Kind, USER_DATA};
use crate::power::Power;
use crate::wire::{MayCreate, MayDelete, Sites, Wanted, Wire};

/// From one cycle to the next.
pub const INTERVAL: u64 = 60;
/// Times of the daemon are whole seconds of its own clock.
const ROUNDING: u64 = 2;
/// A pass creates so long after it has looked, at most.
const LOOKED_BEFORE: u64 = 90;
/// So long after a change of the configuration a pass can still be going on with the old one.
pub const OLD_PASSES: u64 = 1500;

/// What may be created, by what is on the disk.
#[derive(Debug)]
pub struct Rules {
    state: PathBuf,
    disk: Arc<SimDisk>,
    clock: Clock,
    /// By space and machinetype: the shortest backoff that the configuration has said of late.
    backoff: BTreeMap<(String, String), u64>,
    /// The clock was set: until then (true time) its times mean nothing.
    pub uncertain_until: u64,
    /// When machines may be destroyed.
    pub endings: Endings,
}

impl Rules {
    /// Before a machine is asked for, its directory has to be there for good: else nobody knows,
    /// after a crash, what was asked for.
    fn knows(&self, name: &str) -> Result<(), String> {
        let path = self.state.join("machines").join(name);
        if self.disk.is_durable(&path) {
            return Ok(());
        }
        Err(format!(
            "{name} is asked for, and its directory would not survive a power loss"
        ))
    }

    /// A place that was found without room has to be left alone, by a clock that was not set.
    fn has_room(&self, name: &str, told: Option<u64>, now: u64) -> Result<(), String> {
        match told {
            Some(told) if now > self.uncertain_until => Err(format!(
                "{name} is asked for {} s after the factory was told that there is no room for it there",
                now - told
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn may_create(&self, wanted: Wanted<'_>, now: u64) -> Result<(), String> {
        let Wanted {
            space, machinetype, ..
        } = wanted;
        let path = self.state.join(format!(
            "spaces/{space}/machinetypes/{machinetype}/last_abort_time"
        ));
        let Ok(text) = fs::read_to_string(path) else {
            return Ok(());
        };
        let last: u64 = text
            .parse()
            .map_err(|_| format!("last_abort_time is {text:?}"))?;
        let backoff = self
            .backoff
            .get(&(space.to_owned(), machinetype.to_owned()))
            .copied()
            .unwrap_or(0);
        let clock = self.clock.now().unix();
        if clock < last + backoff && now > self.uncertain_until {
            return Err(format!(
                "a {machinetype} is created in {space} at {clock}, in the backoff of {backoff} s after {last}"
            ));
        }
        // From then on one is tried at a time, until fizzle_seconds have passed. A machine that is made while
        // the host's clock is ahead of the cloud's has begun to run when it was made.
        let fizzle = self.endings.fizzle(space, machinetype).unwrap_or_default();
        let young = wanted.youngest.map(|since| now.saturating_sub(since));
        if let Some(young) = young
            && clock + ROUNDING < last + backoff + fizzle
            && young + LOOKED_BEFORE < fizzle
            && !self.endings.clock_has_been_set()
        {
            return Err(format!(
                "a {machinetype} is created in {space} at {clock}, beside one that has run for {young} s, and the last abort was at {last}"
            ));
        }
        Ok(())
    }
}

/// One life of a daemon.
struct Life {
    power: Arc<Power>,
    /// True time.
    began: u64,
    /// Whether the power of the host goes in the moment in which the daemon dies.
    ends_with_the_power: bool,
    daemon: JoinHandle<Result<(), DaemonError>>,
    control: Control,
    board: Board,
}

/// A factory.
pub struct Factory {
    pub number: usize,
    pub name: String,
    pub state: PathBuf,
    conf: PathBuf,
    user_data: PathBuf,
    root_key: PathBuf,
    pub disk: Arc<SimDisk>,
    pub configuration: Configuration,
    earth: Arc<Earth>,
    pub rules: Arc<Mutex<Rules>>,
    changed_at: u64,
    life: Option<Life>,
    /// The web server that the VMs write to: a process of its own.
    web: Arc<Power>,
    pub router: Router,
    seed: u64,
    pub lives: u64,
    /// True times at which the disk began to refuse one kind of file.
    pub refusals: Vec<u64>,
    /// Machines whose directories somebody has removed while they ran.
    pub lost: BTreeSet<String>,
}

impl Factory {
    pub fn new(
        number: usize,
        root: &Path,
        earth: &Arc<Earth>,
        configuration: Configuration,
        seed: u64,
    ) -> Self {
        let name = format!("factory-{number}.example.org");
        let state = root.join("state");
        fs::create_dir_all(&state).unwrap();
        let user_data = root.join("user_data");
        fs::write(&user_data, USER_DATA).unwrap();
        let disk = Arc::new(SimDisk::new(&state, Arc::clone(earth)));
        let web = Arc::new(Power::default());
        let rules = Rules {
            state: state.clone(),
            disk: Arc::clone(&disk),
            clock: earth.clock(),
            backoff: BTreeMap::new(),
            uncertain_until: 0,
            endings: Endings::default(),
        };
        let mut factory = Self {
            number,
            name,
            conf: root.join("vcycle.conf"),
            user_data,
            root_key: root.join("root_key.pub"),
            router: router(&disk, &web, &state, earth),
            state,
            disk,
            configuration,
            earth: Arc::clone(earth),
            rules: Arc::new(Mutex::new(rules)),
            changed_at: 0,
            life: None,
            web,
            seed,
            lives: 0,
            refusals: Vec::new(),
            lost: BTreeSet::new(),
        };
        factory.write_configuration();
        factory
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn configuration_text(&self) -> String {
        let configuration = &self.configuration;
        configuration.to_text(&self.user_data, &self.root_key)
    }

    /// Puts the configuration where the daemon reads it.
    pub fn write_configuration(&mut self) {
        fs::write(&self.root_key, public_key(self.configuration.key)).unwrap();
        fs::write(&self.conf, self.configuration_text()).unwrap();
        self.changed_at = self.earth.now();
        let mut rules = self.rules();
        for space in &self.configuration.spaces {
            for kind in &space.kinds {
                let place = (space.name.to_owned(), kind.name.to_owned());
                let shortest = rules.backoff.entry(place).or_insert(kind.backoff);
                *shortest = kind.backoff.min(*shortest);
            }
        }
        rules
            .endings
            .configured(&self.configuration, self.earth.now());
    }

    /// Puts something there that is none.
    pub fn break_configuration(&mut self, text: &str) {
        fs::write(&self.conf, text).unwrap();
    }

    /// No pass goes on with an older configuration any more: only the present one counts.
    pub fn forget_old_configurations(&mut self, sites: &Sites) {
        if self.earth.now() < self.changed_at + OLD_PASSES {
            return;
        }
        self.changed_at = u64::MAX - OLD_PASSES;
        let mut rules = self.rules();
        for space in &self.configuration.spaces {
            for kind in &space.kinds {
                let place = (space.name.to_owned(), kind.name.to_owned());
                rules.backoff.insert(place, kind.backoff);
            }
        }
        drop(rules);
        let mut sites = sites.lock();
        for (site, space) in sites.iter_mut().zip(&self.configuration.spaces) {
            site.limits[self.number] = space.limits;
        }
    }

    /// Tells the ledgers which public key is in the configuration.
    pub fn report_keys(&self, sites: &Sites) {
        let mut sites = sites.lock();
        for (site, space) in sites.iter_mut().zip(&self.configuration.spaces) {
            let mut kinds = space.kinds.iter().filter(|kind| !kind.removed);
            let is_wanted = !space.removed && kinds.any(Kind::has_root_key);
            let wanted = is_wanted.then(|| public_key(self.configuration.key));
            let keys = &mut site.ledgers[self.number].keys;
            keys.configured(wanted, self.earth.now());
        }
    }

    pub fn settings(&self, network: Network, power: &Arc<Power>) -> Settings {
        Settings {
            sources: Sources {
                conf: self.conf.clone(),
                dir: self.conf.with_extension("d"),
            },
            state_dir: self.state.clone(),
            interval: Seconds::new(INTERVAL),
            factory: FactoryName::new(&self.name).unwrap(),
            clock: self.earth.clock(),
            events: None,
            socket: None,
            host: Host {
                disk: self.disk.seen_by(power),
                seeds: Seeds::replayed(Seed(self.seed ^ (self.lives << 32))),
                network,
            },
        }
    }

    /// Whether a daemon runs that has been running for long enough to have its lock.
    pub fn is_established(&self) -> bool {
        let now = self.earth.now();
        self.life.as_ref().is_some_and(|life| {
            let ended = life.daemon.is_finished() || life.power.is_dead();
            !ended && now >= life.began + INTERVAL
        })
    }

    pub fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// Starts the daemon.
    pub fn start(&mut self, sites: &Arc<Sites>) {
        let power = Arc::new(Power::default());
        let rules = Arc::clone(&self.rules);
        let earth = Arc::clone(&self.earth);
        let may_create: Arc<MayCreate> = Arc::new(move |wanted: Wanted<'_>| {
            let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
            rules.endings.asked_for(wanted.name, earth.now());
            rules.knows(wanted.name)?;
            rules.has_room(wanted.name, wanted.no_room, earth.now())?;
            rules.may_create(wanted, earth.now())
        });
        let rules = Arc::clone(&self.rules);
        let earth = Arc::clone(&self.earth);
        let may_delete: Arc<MayDelete> = Arc::new(move |server, cloud| {
            let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
            rules.endings.may_delete(server, cloud, earth.now())
        });
        let wire = Wire {
            sites: Arc::clone(sites),
            factory: self.number,
            power: Arc::clone(&power),
            may_create,
            may_delete,
        };
        for site in sites.lock().iter_mut() {
            site.ledgers[self.number].new_life(&site.cloud);
        }
        self.lives += 1;
        let settings = self.settings(Network::Replaced(Arc::new(wire)), &power);
        let control = Control::default();
        let board = Board::default();
        let run = daemon::run(settings, control.clone(), board.clone(), || {});
        let daemon = tokio::spawn(run);
        self.life = Some(Life {
            power,
            began: self.earth.now(),
            ends_with_the_power: false,
            daemon,
            control,
            board,
        });
    }

    /// Lets the daemon die after so many effects more, alone or with its host's power.
    pub fn dies_after(&mut self, effects: u64, with_the_power: bool) {
        if let Some(life) = &mut self.life {
            life.power.dies_after(effects);
            life.ends_with_the_power = with_the_power;
        }
    }

    /// Asks for a cycle now.
    pub fn wake(&self) {
        if let Some(life) = &self.life {
            life.control.wake.notify_one();
        }
    }

    pub fn has_died(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.power.is_dead())
    }

    /// Why the daemon has ended by itself, if it has.
    pub async fn ended(&mut self) -> Option<String> {
        if !self.life.as_ref()?.daemon.is_finished() {
            return None;
        }
        let life = self.life.take()?;
        Some(match life.daemon.await {
            Ok(Ok(())) => "ended".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => format!("panicked: {error}"),
        })
    }

    /// Clears away a daemon that has died, and says how.
    pub async fn bury(&mut self, rng: &mut ChaCha8Rng) -> &'static str {
        if self
            .life
            .as_ref()
            .is_some_and(|life| life.ends_with_the_power)
        {
            self.lose_power(rng).await;
            return "power lost between two effects";
        }
        self.kill().await;
        "killed between two effects"
    }

    /// Ends the daemon as `kill -9` does.
    pub async fn kill(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.power.cut();
        life.daemon.abort();
        let _aborted = life.daemon.await;
        // Its tasks end when the runtime comes to them.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// Asks the daemon to stop, and waits for it.
    pub async fn stop(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.control.stop.cancel();
        let _stopped = life.daemon.await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// The power of the host goes and comes back.
    pub async fn lose_power(&mut self, rng: &mut ChaCha8Rng) {
        self.kill().await;
        mem::take(&mut self.web).cut();
        self.disk.lose_power(rng);
        self.router = router(&self.disk, &self.web, &self.state, &self.earth);
    }

    /// Starts another daemon on the same directory, which must be refused.
    /// Says by what it was.
    pub async fn start_another(&self) -> Result<&'static str, String> {
        let power = Arc::new(Power::default());
        let settings = self.settings(Network::default(), &power);
        let run = daemon::run(settings, Control::default(), Board::default(), || {});
        match run.await {
            Err(DaemonError::State(vcycle::state::StateError::Locked { .. })) => {
                Ok("second daemon on one directory")
            }
            Err(DaemonError::Config(_)) => Ok("second daemon on a broken configuration"),
            other => Err(format!("a second daemon on one directory: {other:?}")),
        }
    }

    /// Tells the ledgers of the passes that have ended.
    pub fn report_passes(&self, sites: &Sites) {
        let Some(life) = self.life.as_ref().filter(|life| !life.power.is_dead()) else {
            return;
        };
        let (status, store) = (life.board.now(), self.store());
        for site in sites.lock().iter_mut() {
            let ledger = &mut site.ledgers[self.number];
            let name = SpaceName::new(&ledger.space).unwrap();
            if let Some(space) = status.spaces.get(&name) {
                // A scan that a disk would not take, or not all of what it showed, is none for the
                // next life.
                let noted = store
                    .last_scan(&name)
                    .is_ok_and(|scan| scan >= Some(space.began));
                let well = noted && space.error.is_none();
                let unwritten = store.unwritten_scans(&name).unwrap_or_default();
                ledger.passes_have_ended(space.passes, well, &unwritten, &site.cloud);
            }
        }
    }

    /// Somebody removes the directory of a machine that runs, and that is all the daemon has: an end is
    /// not being written down. Returns whether there was one.
    pub fn lose_directory(&mut self, machine: &str, sites: &Sites) -> bool {
        let place = self.state.join("machines").join(machine);
        let has = |file: &str| place.join(file).exists();
        let is_open = has("uuid") && !["stopped", "finished", "deleted"].into_iter().any(has);
        if is_open {
            self.disk.remove(&place);
            self.lost.insert(machine.to_owned());
            for site in sites.lock().iter_mut() {
                site.ledgers[self.number].lost.insert(machine.to_owned());
            }
            let now = self.earth.now();
            self.rules().endings.lost_its_directory(machine, now);
        }
        is_open
    }

    /// The directory, to look at.
    pub fn store(&self) -> Store {
        Store::open_to_read(Layout::new(&self.state))
    }
}

fn router(disk: &Arc<SimDisk>, web: &Arc<Power>, state: &Path, earth: &Earth) -> Router {
    let quota = Quota {
        file: 1_000_000,
        machine: 10_000_000,
    };
    let layout = Layout::on(disk.seen_by(web), state);
    Router::new(layout, earth.clock(), quota)
}
