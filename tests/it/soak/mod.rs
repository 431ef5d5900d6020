//! The soak: `vcycled demo` with faults, stirred from outside, for some seconds in the usual tests
//! and for as long as is wanted with `tests/soak`. See tests/README.md.
//!
//! 1. Trouble: requests and VMs go wrong, the process is killed and ended and started again, the
//!    configuration is broken, mended and changed.
//! 2. Steady: the same process goes on, with the same faults.
//! 3. Calm: nothing goes wrong any more, and the spaces have to fill by their shares.
//! 4. Drain: no machine is wanted any more, and all of them have to end.
//!
//! Then the books of the cloud, of the machines' directories and of the accounting have to agree,
//! and the samples of the process have to be flat.

mod ledger;
mod sample;
mod site;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use ledger::Ledger;
use sample::Samples;
use site::{Mood, Site};

/// Between two looks at the cloud's files.
const LOOK: Duration = Duration::from_millis(100);
/// Every so many looks the machines' directories are gone through.
const LOOKS_PER_ROUND: u32 = 10;

/// What a soak is to be like.
struct Order {
    seconds: u64,
    seed: u64,
    dir: Option<PathBuf>,
    binary: PathBuf,
}

impl Order {
    /// From the environment that `tests/soak` makes; without it a short one.
    fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Self {
            seconds: number("VCYCLE_SOAK_SECONDS").unwrap_or(7),
            seed: number("VCYCLE_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id())),
            dir: path("VCYCLE_SOAK_DIR"),
            binary: path("VCYCLE_SOAK_BINARY")
                .unwrap_or_else(|| env!("CARGO_BIN_EXE_vcycled").into()),
        }
    }

    fn is_long(&self) -> bool {
        self.seconds >= 60
    }
}

#[test]
fn a_demo_with_faults_ends_well() {
    let order = Order::from_environment();
    eprintln!("VCYCLE_SOAK_SEED={} repeats this sequence", order.seed);
    let temporary = tempfile::tempdir().unwrap();
    let root = order
        .dir
        .clone()
        .unwrap_or_else(|| temporary.path().join("demo"));
    // The heartbeats of short soaks have to come through beside all the other tests.
    let (speed, scale) = if order.is_long() { (300, 3) } else { (600, 1) };
    let mut soak = Soak {
        rng: ChaCha8Rng::seed_from_u64(order.seed),
        site: Site::start(&order.binary, root, speed, scale, order.seed),
        ledger: Ledger::default(),
        samples: Samples::default(),
        began: Instant::now(),
        looks: 0,
    };
    let trouble = Duration::from_secs(order.seconds * 35 / 100);
    let steady = Duration::from_secs(order.seconds) - trouble;
    soak.stir(
        trouble,
        &[
            Event::Kill,
            Event::End,
            Event::Break,
            Event::Change,
            Event::Hangup,
        ],
    );
    soak.stir(steady, &[Event::Break, Event::Hangup]);
    soak.samples.close();
    soak.calm();
    soak.drain();
    soak.verdict();
}

/// What happens to the process from outside.
#[derive(Clone, Copy, Debug)]
enum Event {
    Kill,
    End,
    Hangup,
    Break,
    Change,
}

struct Soak {
    rng: ChaCha8Rng,
    site: Site,
    ledger: Ledger,
    samples: Samples,
    began: Instant,
    looks: u32,
}

impl Soak {
    /// Goes on for so long, with something happening now and then.
    fn stir(&mut self, length: Duration, events: &[Event]) {
        let end = Instant::now() + length;
        let mut next: Vec<Event> = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let pause = (length / 8).min(Duration::from_secs(40));
            let pause = pause.mul_f64(self.rng.random_range(0.2..1.0));
            self.look_for(pause.min(left));
            if pause < left {
                if next.is_empty() {
                    next.extend(events);
                    next.shuffle(&mut self.rng);
                }
                let event = next.pop().unwrap();
                self.let_happen(event);
            }
        }
    }

    fn let_happen(&mut self, event: Event) {
        let a_while = Duration::from_millis(self.rng.random_range(50..1500));
        eprintln!("{:6.1} s: {event:?}", self.began.elapsed().as_secs_f64());
        match event {
            Event::Kill => {
                self.site.kill();
                self.look_for(a_while);
                self.site.go_on();
            }
            Event::End => {
                self.site.end();
                self.site.go_on();
            }
            Event::Hangup => self.site.hang_up(),
            Event::Break => {
                self.site.break_configuration();
                self.look_for(a_while);
                self.site.mend_configuration();
            }
            Event::Change => {
                let seed = self.rng.random();
                self.site.configure(Mood::Faults(seed));
            }
        }
    }

    /// Nothing goes wrong any more: the spaces fill by their shares.
    fn calm(&mut self) {
        self.site.configure(Mood::Calm);
        self.wait_until("the spaces are filled by their shares", Site::is_full);
    }

    /// Nothing is wanted any more: all machines end.
    fn drain(&mut self) {
        self.site.configure(Mood::Drain);
        self.wait_until("all machines have ended", Site::is_empty);
        self.ledger.look(&self.site);
        self.ledger.go_through_directories(&self.site);
        self.site.end();
    }

    fn verdict(mut self) {
        self.ledger.close(&self.site);
        eprintln!("{}", self.ledger);
        eprintln!("{}", self.samples);
        let mut found = std::mem::take(&mut self.ledger.found);
        found.extend(self.samples.findings());
        found.extend(self.site.findings());
        for what in &found {
            eprintln!("FOUND: {what}");
        }
        assert!(found.is_empty(), "{} finding(s), see above", found.len());
        eprintln!("nothing found");
    }

    fn look_for(&mut self, length: Duration) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.look();
            std::thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
        }
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Site) -> bool) {
        let began = Instant::now();
        while !is_so(&self.site) {
            assert!(
                began.elapsed() < self.site.patience(),
                "waited in vain until {what}; see {}",
                self.site.keep().display()
            );
            self.look();
            std::thread::sleep(LOOK);
        }
        eprintln!(
            "{:6.1} s: {what}, after {:.1} s",
            self.began.elapsed().as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
    }

    fn look(&mut self) {
        self.ledger.look(&self.site);
        if self.looks.is_multiple_of(LOOKS_PER_ROUND) {
            self.ledger.go_through_directories(&self.site);
            self.site.check_it_runs();
            self.samples
                .take(&self.site, self.began.elapsed().as_secs_f64(), &self.ledger);
        }
        self.looks += 1;
    }
}
