//! Everything that goes wrong, drawn from the seed.

use rand::Rng;

use crate::cloud::{Exchange, Fate, Faults, Lie, Strike, World as Outside};
use crate::disk::DiskFaults;
use crate::guests::Manners;
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
    second_factory: bool,
}

/// How a daemon ends.
enum End {
    Kill,
    PowerLoss,
    Stop,
}

impl Storm {
    pub fn new(world: &mut World) -> Self {
        Self {
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
            self.end_a_life(world, at, now).await?;
        }
        if self.strikes(world, 0.5) {
            self.set_clock(world, if self.clock_off == 0 { None } else { Some(0) });
        }
        if world.factories[0].is_established() && self.strikes(world, 1.0) {
            world.tick("second daemon on one directory");
            world.factories[0].start_another().await?;
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
                self.restarts[at] = Some(now + world.rng.random_range(5..=400));
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
            draw_faults(world, self.strength)
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
        if !self.strikes(world, 1.5) {
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
                const FILES: [&str; 9] = [
                    "/started",
                    "/stopped",
                    "/finished",
                    "/uuid",
                    "/joboutputs/heartbeat",
                    "/joboutputs/shutdown_message",
                    "/last_abort_time",
                    "/apel-archive/",
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
        if faults.denied.is_some() {
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
        if !self.strikes(world, 2.0) {
            return;
        }
        self.configurations[at] = now + world.rng.random_range(30..=1200);
        let factory = &mut world.factories[at];
        let place = world
            .rng
            .random_range(0..factory.configuration.spaces.len());
        let what = match world.rng.random_range(0..5) {
            0 => {
                const BROKEN: [&str; 4] = [
                    "no section\n",
                    "[space one.example.org]\napi = cloud\n",
                    "",
                    "[machinetype none.example.org a]\nfizzle_seconds = soon\n",
                ];
                factory.break_configuration(BROKEN[world.rng.random_range(0..BROKEN.len())]);
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

    async fn end_a_life(&mut self, world: &mut World, at: usize, now: u64) -> Result<(), String> {
        if !world.factories[at].is_alive() {
            return Ok(());
        }
        let end = if self.strikes(world, 6.0) {
            End::Kill
        } else if self.strikes(world, 1.5) {
            End::PowerLoss
        } else if self.strikes(world, 1.0) {
            End::Stop
        } else {
            return Ok(());
        };
        match end {
            End::Kill => {
                let effects = match world.rng.random_range(0..3) {
                    0 => world.rng.random_range(0..10),
                    1 => world.rng.random_range(0..100),
                    _ => world.rng.random_range(0..1000),
                };
                world
                    .transcript
                    .say(format!("*** factory {at} dies after {effects} effects"));
                world.factories[at].dies_after(effects);
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
        self.restarts[at] = Some(now + world.rng.random_range(5..=600));
        if world.factories[at].disk.is_well() {
            world.check_files(at)?;
        }
        Ok(())
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
            // What was to end it may still be to come.
            factory.dies_after(u64::MAX / 2);
            if factory.has_died() {
                factory.kill().await;
            }
            if !factory.is_alive() {
                factory.start(&world.sites);
            }
        }
        world.clear_away_others();
        Ok(())
    }
}

fn draw_faults(world: &mut World, strength: f64) -> Faults {
    let mut faults = Faults::none();
    for _ in 0..world.rng.random_range(1..=5) {
        let rng = &mut world.rng;
        let often = rng.random_range(0.02..=0.4) * strength;
        let kinds: [fn(Faults, usize, f64) -> Faults; 5] = [
            |faults, at, chance| faults.with(Exchange::ALL[at % Exchange::ALL.len()], chance),
            |faults, at, chance| faults.with(Lie::ALL[at % Lie::ALL.len()], chance),
            |faults, at, chance| faults.with(Fate::ALL[at % Fate::ALL.len()], chance),
            |faults, at, chance| faults.with(Strike::ALL[at % Strike::ALL.len()], chance * 10.0),
            |faults, at, chance| faults.with(Outside::ALL[at % Outside::ALL.len()], chance * 20.0),
        ];
        let which = match rng.random_range(0..10) {
            0..=3 => 0,
            4..=5 => 1,
            6 => 2,
            7..=8 => 3,
            _ => 4,
        };
        faults = kinds[which](faults, rng.random_range(0..1000), often);
    }
    faults
}
