//! One simulation, from its seed to its verdict.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tracing_subscriber::layer::SubscriberExt;

use crate::cloud::{Cloud, Faults, Server};
use crate::earth::{BEGINNING, Earth};
use crate::factory::{Factory, INTERVAL};
use crate::guests::{Guests, Manners, Wish};
use crate::ledger::{Ledger, Limits};
use crate::plan::{Configuration, PASSWORD, SECRET_OPTION, draw_setup, encoded_password};
use crate::storm::Storm;
use crate::transcript::Transcript;
use crate::verdict::Counts;
use crate::wire::{Site, Sites};

/// The world is looked at, and its VMs act, once in so many seconds.
pub const STEP: u64 = 10;
/// How long things go wrong, in seconds.
pub const STORM: u64 = 5400;
/// How long everything is well afterwards, so that the space has to come to its targets: longer
/// than a machine that is stuck in BUILD or in deletion, or a pause after failures, can last.
pub const CALM: u64 = 12_600;

/// The result of one simulation.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<String>,
    pub transcript: Vec<String>,
    pub tally: BTreeMap<String, u64>,
}

/// Everything that there is.
pub struct World {
    pub rng: ChaCha8Rng,
    pub earth: Arc<Earth>,
    pub transcript: Transcript,
    pub sites: Arc<Sites>,
    pub factories: Vec<Factory>,
    pub guests: Vec<Guests>,
    pub manners: Vec<Manners>,
    pub tally: BTreeMap<String, u64>,
    pub counts: Counts,
    /// How many machines were accounted for as they should be, and which of them could not be judged.
    pub judged: RefCell<BTreeMap<&'static str, u64>>,
    /// Since when nothing goes wrong any more.
    pub calm_since: Option<u64>,
    /// When the hosts' clocks were set (true time), and how far they have been off since.
    pub set_clocks: Vec<(u64, i64)>,
}

/// Runs the simulation of one seed.
pub fn simulate(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let root = Root::new();
    let _entered = runtime.enter();
    let mut world = World::new(seed, &root.0);
    let subscriber = tracing_subscriber::registry().with(world.transcript.clone());
    let _logging = tracing::subscriber::set_default(subscriber);
    match unwinding(|| runtime.block_on(world.run())) {
        Ok(ended) => Outcome {
            seed,
            violation: ended.err(),
            transcript: world.transcript.lines(),
            tally: world.tally(),
        },
        Err(panicked) => Outcome {
            seed,
            violation: Some(panicked),
            transcript: world.transcript.lines(),
            tally: BTreeMap::new(),
        },
    }
}

/// Runs something that may panic, outside the tasks of a daemon, where that is seen anyway.
fn unwinding<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    ended.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("no message"))
    })
}

#[test]
fn a_panic_fails_its_seed_and_no_other() {
    let panicked = unwinding(|| panic!("{} of the web server", "lost"));
    let panicked: Result<(), String> = panicked;
    assert_eq!(panicked, Err("panicked: lost of the web server".to_owned()));
    assert_eq!(unwinding(|| 5), Ok(5));
}

/// A directory that goes away again: in memory, where that can be had.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let number = COUNTER.fetch_add(1, Ordering::SeqCst);
        let path = parent.join(format!("vcycle-sim-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _kept_when_that_fails = std::fs::remove_dir_all(&self.0);
    }
}

impl World {
    fn new(seed: u64, root: &std::path::Path) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let earth = Arc::new(Earth::new());
        let transcript = Transcript::new(Arc::clone(&earth), root);
        for secret in [PASSWORD, SECRET_OPTION, "user-data-of-the-simulation"] {
            transcript.must_not_show(secret);
        }
        transcript.must_not_show(&encoded_password());
        let mut bases = vec!["http://cloud-one".to_owned()];
        if rng.random_bool(0.4) {
            bases.push("http://cloud-two".to_owned());
        }
        let factories: Vec<Factory> = (0..2)
            .map(|number| {
                let root = root.join(number.to_string());
                std::fs::create_dir(&root).unwrap();
                let configuration = Configuration::draw(&mut rng, &bases);
                Factory::new(number, &root, &earth, configuration, rng.random())
            })
            .collect();
        let sites = bases.iter().enumerate().map(|(at, base)| {
            let spaces = factories
                .iter()
                .map(|factory| &factory.configuration.spaces[at]);
            let limits: Vec<Limits> = spaces.clone().map(|space| space.limits).collect();
            let ledgers = factories.iter().zip(spaces);
            let ledgers = ledgers.map(|(factory, space)| {
                let mut ledger = Ledger::new(&factory.name, space.name);
                let kinds = space.kinds.iter();
                ledger.most = kinds
                    .filter_map(|kind| Some((kind.name, kind.most?)))
                    .collect();
                ledger
            });
            let setup = draw_setup(&mut rng);
            let generator = ChaCha8Rng::seed_from_u64(rng.random());
            Site {
                base: base.clone(),
                cloud: Cloud::new(base, generator, setup),
                wrong_clock: Vec::new(),
                ledgers: ledgers.collect(),
                limits,
            }
        });
        let sites = sites.collect();
        Self {
            sites: Arc::new(Sites::new(Arc::clone(&earth), transcript.clone(), sites)),
            rng,
            earth,
            transcript,
            factories,
            guests: bases.iter().map(|_| Guests::default()).collect(),
            manners: vec![Manners::GOOD; bases.len()],
            tally: BTreeMap::new(),
            counts: Counts::default(),
            judged: RefCell::default(),
            calm_since: None,
            set_clocks: Vec::new(),
        }
    }

    pub fn now(&self) -> u64 {
        self.earth.now()
    }

    pub fn tick(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    async fn run(&mut self) -> Result<(), String> {
        for factory in &self.factories {
            for line in factory.configuration_text().lines() {
                self.transcript.say(format!("[{}] {line}", factory.number));
            }
        }
        self.factories[0].start(&self.sites);
        let mut storm = Storm::new(self);
        while self.now() < BEGINNING + STORM {
            storm.blow(self).await?;
            self.step().await?;
        }
        storm.abate(self).await?;
        self.calm_since = Some(self.now());
        let end = self.now() + CALM;
        while self.now() < end {
            self.step().await?;
            self.watch_the_calm()?;
        }
        self.judge().await
    }

    /// A few seconds pass.
    async fn step(&mut self) -> Result<(), String> {
        tokio::time::sleep(Duration::from_secs(STEP)).await;
        let now = self.now();
        for site in self.sites.lock().iter_mut() {
            site.cloud.advance(now);
            if site.cloud.clock(now) != i64::try_from(now).unwrap() {
                site.wrong_clock.push(now);
            }
            let cloud = &site.cloud;
            for ledger in &mut site.ledgers {
                ledger.settle(cloud);
            }
        }
        self.let_vms_live().await;
        for factory in &mut self.factories {
            factory.report_passes(&self.sites);
            factory.forget_old_configurations(&self.sites);
            factory.report_keys(&self.sites);
        }
        self.look_after_daemons().await?;
        if let Some(violation) = self.sites.violation() {
            return Err(violation);
        }
        match self.transcript.offence() {
            Some(offence) => Err(offence),
            None => Ok(()),
        }
    }

    async fn let_vms_live(&mut self) {
        let now = self.now();
        for at in 0..self.guests.len() {
            let alive: Vec<(String, String, String)> = {
                let sites = self.sites.lock();
                let servers = sites[at].cloud.servers().filter(|server| server.is_alive());
                servers
                    .filter_map(|server| {
                        let manager = server.metadata.get("manager")?;
                        Some((
                            server.id.clone(),
                            server.first_name.clone(),
                            manager.clone(),
                        ))
                    })
                    .collect()
            };
            for (id, machine, manager) in alive {
                let Some(factory) = self.factories.iter().find(|f| f.name == manager) else {
                    continue;
                };
                let names = (id.as_str(), machine.as_str());
                let wish = self.guests[at]
                    .live(names, &factory.router, self.manners[at], now, &mut self.rng)
                    .await;
                if self.guests[at].heard.get(&machine) == Some(&now) {
                    let mut rules = factory.rules.lock().unwrap();
                    rules.endings.beat(&machine, now);
                }
                // The daemon sees once in a cycle whether the disk takes anything.
                if self.guests[at].refused.get(&machine) == Some(&now) {
                    let mut rules = factory.rules.lock().unwrap();
                    rules.endings.beat(&machine, now - INTERVAL);
                }
                if wish == Wish::ShutOff {
                    self.sites.lock()[at].cloud.shut_off(&id, now);
                }
            }
        }
    }

    /// A daemon that has died is started again after a while; one that did not start, too.
    async fn look_after_daemons(&mut self) -> Result<(), String> {
        for at in 0..self.factories.len() {
            if self.factories[at].has_died() {
                let how = self.factories[at].bury(&mut self.rng).await;
                self.tick(how);
                self.transcript
                    .say(format!("*** factory {at} is dead: {how}"));
                if self.factories[at].disk.is_well() {
                    self.check_files(at)?;
                }
                continue;
            }
            if let Some(why) = self.factories[at].ended().await {
                self.transcript
                    .say(format!("*** daemon {at} did not go on: {why}"));
                if why.contains("panicked") {
                    return Err(why);
                }
                self.tick("did not start");
            }
        }
        Ok(())
    }

    fn tally(&self) -> BTreeMap<String, u64> {
        let mut tally = self.tally.clone();
        let mut add = |what: String, count: u64| *tally.entry(what).or_default() += count;
        for site in self.sites.lock().iter() {
            for (what, count) in site.cloud.faults_done() {
                add(format!("cloud: {what}"), *count);
            }
            for ledger in &site.ledgers {
                add("= listings".to_owned(), ledger.listings);
                add("= creations asked for".to_owned(), ledger.creates);
                add("= deletions asked for".to_owned(), ledger.deletes);
                add("= key pairs imported".to_owned(), ledger.keys.imports);
                add("= key pairs removed".to_owned(), ledger.keys.removals);
            }
            let owned = |server: &&Server| site.ledgers.iter().any(|ledger| ledger.owns(server));
            let ours = site.cloud.history().iter().filter(owned);
            let ran = ours.filter(|server| server.running_since.is_some());
            add(
                "= machines that ran".to_owned(),
                u64::try_from(ran.count()).unwrap(),
            );
        }
        for (what, count) in self.judged.borrow().iter() {
            add((*what).to_owned(), *count);
        }
        for factory in &self.factories {
            for (what, count) in factory.disk.refused() {
                add(format!("disk: {what}"), count);
            }
            add("= lives of daemons".to_owned(), factory.lives);
            for (what, count) in &factory.rules.lock().unwrap().endings.tally {
                add((*what).to_owned(), *count);
            }
        }
        for guests in &self.guests {
            add("= heartbeats".to_owned(), guests.heartbeats);
            let accepted = u64::try_from(guests.accepted.len()).unwrap();
            add("= shutdown messages".to_owned(), accepted);
        }
        tally
    }

    /// All clouds are well from now on.
    pub fn clear_cloud_faults(&self) {
        for site in self.sites.lock().iter_mut() {
            site.cloud.set_faults(Faults::none());
        }
    }
}
