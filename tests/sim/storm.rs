//! Everything that goes wrong, drawn from the seed.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::cloud::{Exchange, Fate, Faults, Lie, Strike, World as Outside};
use crate::disk::DiskFaults;
use crate::guests::Manners;
use crate::plan::broken;
use crate::world::{STEP, World};

/// What is wrong at the moment, and until when (true time).
pub struct Storm {
    clouds: Vec<u64>,
    disks: Vec<u64>,
    configurations: Vec<u64>,
    restarts: Vec<Option<u64>>,
    /// How far the hosts' clock is off.
    clock_off: i64,
    /// How much goes wrong in this simulation: 0 to 1.
    strength: f64,
    mix: Mix,
    /// The faults of clouds that this simulation has; any, when it is empty.
    pool: Vec<Fault>,
    second_factory: bool,
}

/// How much more often than usual each kind of trouble comes. What troubles have to meet for a bug
/// to show, and which ones hide it, nobody knows: so simulations differ most in that.
struct Mix {
    kills: f64,
    power_losses: f64,
    stops: f64,
    disks: f64,
    configurations: f64,
    clocks: f64,
    removals: f64,
}

impl Mix {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        const TIMES: [f64; 5] = [0.0, 0.5, 1.0, 2.0, 4.0];
        let mut times = || TIMES[rng.random_range(0..TIMES.len())];
        Self {
            kills: times(),
            power_losses: times(),
            stops: times(),
            disks: times(),
            configurations: times(),
            clocks: times(),
            removals: times(),
        }
    }
}

/// A kind of faults of clouds, and which of them.
type Fault = (usize, usize);

fn draw_fault(rng: &mut ChaCha8Rng) -> Fault {
    let kind = match rng.random_range(0..10) {
        0..=3 => 0,
        4..=5 => 1,
        6 => 2,
        7..=8 => 3,
        _ => 4,
    };
    (kind, rng.random_range(0..1000))
}

/// How a daemon ends.
enum End {
    Kill,
    PowerLoss,
    Stop,
}

/// Whether a machine is not known at the start of a daemon that cannot read this file.
fn is_needed_at_a_start(file: &str) -> bool {
    let others = ["/joboutputs/", "/last_", "/apel-"];
    !others.iter().any(|other| file.starts_with(other))
}

impl Storm {
    pub fn new(world: &mut World) -> Self {
        let rng = &mut world.rng;
        let mix = Mix::draw(rng);
        let mut pool = Vec::new();
        if rng.random_bool(0.5) {
            let size = rng.random_range(3..=10);
            pool.extend((0..size).map(|_| draw_fault(rng)));
        }
        Self {
            mix,
            pool,
            clouds: vec![0; 2],
            disks: vec![0; 2],
            configurations: vec![0; 2],
            restarts: vec![None, None],
            clock_off: 0,
            strength: world.rng.random_range(0.1..=1.0),
            second_factory: world.rng.random_bool(0.4),
        }
    }

    /// Whether something happens in this step that happens so often an hour.
    fn strikes(&self, world: &mut World, an_hour: f64) -> bool {
        let steps_an_hour = f64::from(u32::try_from(3600 / STEP).unwrap());
        world
            .rng
            .random_bool((an_hour * self.strength / steps_an_hour).min(1.0))
    }

    /// One step of the storm.
    pub async fn blow(&mut self, world: &mut World) -> Result<(), String> {
        let now = world.now();
        for at in 0..2 {
            if at < world.manners.len() {
                self.change_cloud(world, at, now);
            }
            self.change_disk(world, at, now);
            self.change_configuration(world, at, now);
            self.remove_directories(world, at);
            self.end_a_life(world, at, now).await?;
        }
        if self.strikes(world, 0.5 * self.mix.clocks) {
            self.set_clock(world, if self.clock_off == 0 { None } else { Some(0) });
        }
        if world.factories[0].is_established() && self.strikes(world, 1.0) {
            let what = world.factories[0].start_another().await?;
            world.tick(what);
        }
        if self.second_factory && now % 3600 < STEP && !world.factories[1].is_alive() {
            self.restarts[1].get_or_insert(now);
        }
        for at in 0..2 {
            if self.restarts[at].is_some_and(|when| now >= when) {
                self.restarts[at] = None;
                world
                    .transcript
                    .say(format!("*** factory {at} starts its daemon"));
                world.factories[at].start(&world.sites);
            } else if self.restarts[at].is_none()
                && !world.factories[at].is_alive()
                && (at == 0 || world.factories[1].lives > 0)
            {
                self.restarts[at] = Some(now + draw_pause(&mut world.rng));
            }
        }
        if self.strikes(world, 3.0) {
            world.tick("asked for a cycle");
            world.factories[0].wake();
        }
        Ok(())
    }

    fn change_cloud(&mut self, world: &mut World, at: usize, now: u64) {
        if now < self.clouds[at] {
            return;
        }
        self.clouds[at] = now + world.rng.random_range(60..=900);
        world.manners[at] = Manners::draw(&mut world.rng);
        let faults = if world.rng.random_bool(0.35) {
            Faults::none()
        } else {
            self.draw_faults(world)
        };
        world.transcript.say(format!("*** cloud {at}: {faults:?}"));
        world.sites.lock()[at].cloud.set_faults(faults);
    }

    fn change_disk(&mut self, world: &mut World, at: usize, now: u64) {
        if !world.factories[at].disk.is_well() {
            if now >= self.disks[at] {
                world.factories[at].disk.set_faults(DiskFaults::default());
                world.transcript.say(format!("*** disk {at} is well again"));
            }
            return;
        }
        if !self.strikes(world, 1.5 * self.mix.disks) {
            return;
        }
        let faults = match world.rng.random_range(0..4) {
            0 => DiskFaults {
                full: true,
                ..DiskFaults::default()
            },
            1 => DiskFaults {
                read_only: true,
                ..DiskFaults::default()
            },
            2 => DiskFaults {
                slow: true,
                ..DiskFaults::default()
            },
            _ => {
                const FILES: [&str; 12] = [
                    "/started",
                    "/stopped",
                    "/finished",
                    "/uuid",
                    "/updated",
                    "/joboutputs/heartbeat",
                    "/joboutputs/shutdown_message",
                    "/last_abort_time",
                    "/last_scan",
                    "/apel-archive/",
                    "/apel-outgoing/",
                    "/deleted",
                ];
                let file = FILES[world.rng.random_range(0..FILES.len())];
                DiskFaults {
                    denied: Some(file.to_owned()),
                    ..DiskFaults::default()
                }
            }
        };
        world.tick(if faults.slow {
            "disk slow"
        } else {
            "disk trouble"
        });
        world.transcript.say(format!("*** disk {at}: {faults:?}"));
        if faults.denied.as_deref().is_some_and(is_needed_at_a_start) {
            world.factories[at].refusals.push(now);
        }
        let most = if faults.slow { 60 } else { 400 };
        self.disks[at] = now + world.rng.random_range(5..=most);
        world.factories[at].disk.set_faults(faults);
    }

    fn change_configuration(&mut self, world: &mut World, at: usize, now: u64) {
        if self.configurations[at] > 0 {
            if now >= self.configurations[at] {
                self.configurations[at] = 0;
                for space in &mut world.factories[at].configuration.spaces {
                    space.removed = false;
                    for kind in &mut space.kinds {
                        kind.removed = false;
                    }
                }
                world.factories[at].write_configuration();
                world
                    .transcript
                    .say(format!("*** configuration {at} is complete again"));
            }
            return;
        }
        if !self.strikes(world, 2.0 * self.mix.configurations) {
            return;
        }
        self.configurations[at] = now + world.rng.random_range(30..=1200);
        let factory = &mut world.factories[at];
        let place = world
            .rng
            .random_range(0..factory.configuration.spaces.len());
        let what = match world.rng.random_range(0..5) {
            0 => {
                let broken = broken();
                factory.break_configuration(&broken[world.rng.random_range(0..broken.len())]);
                "configuration broken"
            }
            1 => {
                let space = &mut factory.configuration.spaces[place];
                if space.kinds.len() > 1 {
                    let kind = world.rng.random_range(0..space.kinds.len());
                    space.kinds[kind].removed = true;
                }
                factory.write_configuration();
                "machinetype removed"
            }
            2 => {
                factory.configuration.spaces[place].removed = true;
                factory.write_configuration();
                "space removed"
            }
            _ => {
                let space = &mut factory.configuration.spaces[place];
                for limit in [&mut space.limits.machines, &mut space.limits.processors]
                    .into_iter()
                    .flatten()
                {
                    *limit = world.rng.random_range(3..=12).max(*limit / 2);
                }
                for kind in &mut space.kinds {
                    kind.share = f64::from(world.rng.random_range(1..=3));
                    kind.backoff = world.rng.random_range(300..=1200);
                    kind.wallclock = world.rng.random_range(2400..=5400);
                }
                let limits = space.limits;
                factory.configuration.key += 1;
                let known = &mut world.sites.lock()[place].limits[at];
                known.machines = known.machines.max(limits.machines);
                known.processors = known.processors.max(limits.processors);
                factory.write_configuration();
                "configuration changed"
            }
        };
        world
            .transcript
            .say(format!("*** factory {at}: {what} (space {place})"));
        world.tick(what);
    }

    /// Somebody removes the directory of a machine that runs, or, now and then, of all.
    fn remove_directories(&self, world: &mut World, at: usize) {
        if !world.factories[at].disk.is_well() || !self.strikes(world, 0.7 * self.mix.removals) {
            return;
        }
        let mut running = Vec::new();
        for site in world.sites.lock().iter() {
            let servers = site.cloud.servers().filter(|server| server.is_alive());
            let ours = servers.filter(|server| site.ledgers[at].owns(server));
            running.extend(ours.map(|server| server.first_name.clone()));
        }
        if running.is_empty() {
            return;
        }
        let some = if world.rng.random_bool(0.1) {
            running.len()
        } else {
            1
        };
        let first = world.rng.random_range(0..running.len());
        for machine in running.iter().cycle().skip(first).take(some) {
            let sites = Arc::clone(&world.sites);
            if world.factories[at].lose_directory(machine, &sites) {
                world.tick("directory of a machine removed");
                world
                    .transcript
                    .say(format!("*** factory {at} loses the directory of {machine}"));
            }
        }
    }

    async fn end_a_life(&mut self, world: &mut World, at: usize, now: u64) -> Result<(), String> {
        if !world.factories[at].is_alive() {
            return Ok(());
        }
        let end = if self.strikes(world, 6.0 * self.mix.kills) {
            End::Kill
        } else if self.strikes(world, 1.5 * self.mix.power_losses) {
            End::PowerLoss
        } else if self.strikes(world, self.mix.stops) {
            End::Stop
        } else {
            return Ok(());
        };
        match end {
            End::Kill => {
                let_die(world, at, false);
                return Ok(());
            }
            End::PowerLoss if world.rng.random_bool(0.5) => {
                let_die(world, at, true);
                return Ok(());
            }
            End::PowerLoss => {
                world.tick("power lost");
                world
                    .transcript
                    .say(format!("*** factory {at} loses its power"));
                let (factory, rng) = (&mut world.factories[at], &mut world.rng);
                factory.lose_power(rng).await;
            }
            End::Stop => {
                world.tick("stopped");
                world.transcript.say(format!("*** factory {at} is stopped"));
                world.factories[at].stop().await;
            }
        }
        self.restarts[at] = Some(now + draw_pause(&mut world.rng));
        if world.factories[at].disk.is_well() {
            world.check_files(at)?;
        }
        Ok(())
    }

    fn draw_faults(&self, world: &mut World) -> Faults {
        let mut faults = Faults::none();
        let rng = &mut world.rng;
        for _ in 0..rng.random_range(1..=5) {
            let chance = rng.random_range(0.02..=0.4) * self.strength;
            let (kind, at) = if self.pool.is_empty() {
                draw_fault(rng)
            } else {
                self.pool[rng.random_range(0..self.pool.len())]
            };
            faults = match kind {
                0 => faults.with(Exchange::ALL[at % Exchange::ALL.len()], chance),
                1 => faults.with(Lie::ALL[at % Lie::ALL.len()], chance),
                2 => faults.with(Fate::ALL[at % Fate::ALL.len()], chance),
                3 => faults.with(Strike::ALL[at % Strike::ALL.len()], chance * 10.0),
                _ => faults.with(Outside::ALL[at % Outside::ALL.len()], chance * 20.0),
            };
        }
        faults
    }

    /// Sets the hosts' clock right, or an hour wrong.
    fn set_clock(&mut self, world: &mut World, to: Option<i64>) {
        let wanted = to.unwrap_or(if world.rng.random_bool(0.5) {
            3600
        } else {
            -3600
        });
        world.earth.clock().step(wanted - self.clock_off);
        self.clock_off = wanted;
        world.tick("host clock set");
        world
            .transcript
            .say(format!("*** the hosts' clock is {wanted} s off"));
        let now = world.now();
        world.clocks_were_set(now, wanted);
    }

    /// Everything is well again.
    pub async fn abate(&mut self, world: &mut World) -> Result<(), String> {
        world.transcript.say("*** calm");
        world.clear_cloud_faults();
        if self.clock_off != 0 {
            self.set_clock(world, Some(0));
        }
        world.manners.fill(Manners::GOOD);
        for factory in &mut world.factories {
            factory.disk.set_faults(DiskFaults::default());
            for space in &mut factory.configuration.spaces {
                space.removed = false;
                for kind in &mut space.kinds {
                    kind.removed = false;
                    if factory.number > 0 {
                        // This one makes room, and only brings to an end what it has.
                        kind.share = 0.0;
                    }
                }
            }
            factory.write_configuration();
        }
        for factory in world.factories.iter_mut().filter(|f| f.lives > 0) {
            if factory.has_died() {
                factory.bury(&mut world.rng).await;
            }
            // What was to end it may still be to come.
            factory.dies_after(u64::MAX / 2, false);
            if !factory.is_alive() {
                factory.start(&world.sites);
            }
        }
        world.clear_away_others();
        Ok(())
    }
}

/// Lets a daemon die between two effects of the near future.
fn let_die(world: &mut World, at: usize, with_the_power: bool) {
    let effects = match world.rng.random_range(0..3) {
        0 => world.rng.random_range(0..10),
        1 => world.rng.random_range(0..100),
        _ => world.rng.random_range(0..1000),
    };
    let also = if with_the_power {
        " with its power"
    } else {
        ""
    };
    world.transcript.say(format!(
        "*** factory {at} dies{also} after {effects} effects"
    ));
    world.factories[at].dies_after(effects, with_the_power);
}

/// How long a host is down: some minutes mostly, and now and then for most of a machine's life.
fn draw_pause(rng: &mut ChaCha8Rng) -> u64 {
    let longest = if rng.random_bool(0.15) { 2400 } else { 600 };
    rng.random_range(5..=longest)
}
