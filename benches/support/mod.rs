//! A cloud, a site and a daemon to measure: shared by the benchmarks and `tests/it/scale.rs`.
//!
//! The daemon is the built binary in a process of its own, so that its processor time, memory and
//! open files are those of the product and of nothing else. [`nova`] plays the clouds over HTTP in
//! the process that measures; [`site`] has the files and the process; [`trace`] counts what the
//! process opens.

pub mod nova;
pub mod site;
pub mod trace;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nova::Nova;
use site::{Daemon, Site};

/// Longer than anything takes that a measurement waits for.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `look` finds what it looks for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The middle one of some durations.
pub fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

/// Where files are in memory, if there is such a place: for what does not measure the disk.
pub fn in_memory() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// The name of a space.
pub fn space(number: usize) -> String {
    format!("space{number:03}.example.org")
}

/// What a steady cycle of all spaces costs.
pub struct Steady {
    /// In all spaces.
    pub machines: usize,
    /// Processor time of the daemon.
    pub cpu: Duration,
    /// From the word to begin to the last decision.
    pub wall: Duration,
    /// Requests to clouds.
    pub requests: u64,
    /// Memory of the daemon after it.
    pub resident_kib: u64,
}

/// Lets the daemon have some cycles in all its spaces, after two that do not count.
pub fn steady(
    nova: &Nova,
    daemon: &Daemon,
    (spaces, machines): (usize, usize),
    cycles: u32,
) -> Steady {
    for _ in 0..2 {
        daemon.cycle(spaces);
    }
    let (requests, cpu) = (nova.requests(), daemon.cpu());
    let wall: Duration = (0..cycles).map(|_| daemon.cycle(spaces)).sum();
    Steady {
        machines,
        cpu: (daemon.cpu() - cpu) / cycles,
        wall: wall / cycles,
        requests: (nova.requests() - requests) / u64::from(cycles),
        resident_kib: daemon.resident_kib("VmRSS"),
    }
}

impl Steady {
    /// Processor time for one machine, in microseconds.
    pub fn per_machine_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.machines as f64
    }

    /// Memory for each machine more than in a smaller case: the program itself is a part of the
    /// memory that does not grow.
    pub fn added_kib(&self, smaller: &Self) -> f64 {
        let kib = self.resident_kib.saturating_sub(smaller.resident_kib);
        kib as f64 / (self.machines - smaller.machines) as f64
    }
}

/// How the cycles of a space follow each other.
pub struct Rhythm {
    /// From the start of one to the start of the next.
    pub period: Duration,
    /// From the first request of one to its decision.
    pub length: Duration,
    /// Processor time of the daemon from one to the next.
    pub cpu: Duration,
}

impl fmt::Display for Rhythm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "every {:.0?}, {:.1?} long, {:.1?} of processor time in all",
            self.period, self.length, self.cpu
        )
    }
}

/// Watches the next `cycles` cycles of a space; other spaces have none, because their clouds are
/// dead. The middle period and length.
pub fn rhythm(nova: &Nova, daemon: &Daemon, space: &str, cycles: u32) -> Rhythm {
    daemon.next_decision();
    let cpu = daemon.cpu();
    let ends: Vec<Instant> = (0..cycles).map(|_| daemon.next_decision().1).collect();
    let cpu = (daemon.cpu() - cpu) / cycles;
    let begins = nova.cycles(space);
    let last = |end: &Instant| begins.iter().rfind(|begin| *begin < end).copied();
    let begins: Vec<Instant> = ends.iter().filter_map(last).collect();
    let periods = begins.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let lengths = ends.iter().zip(&begins).map(|(end, begin)| *end - *begin);
    Rhythm {
        period: median(periods),
        length: median(lengths.collect()),
        cpu,
    }
}

/// How an empty space was filled.
pub struct Filled {
    machines: u32,
    create: Duration,
    took: Duration,
    cpu: Duration,
    most_at_once: u64,
}

/// Fills a space in one cycle, on a cloud that takes `create` for each create. At most 1,000
/// machines, which is what one cycle may create.
pub fn fill(program: &Path, parent: &Path, machines: u32, create: Duration) -> Filled {
    const SPACE: &str = "example.org";
    let nova = Nova::start(create);
    let site = Site::new(parent);
    let count = usize::try_from(machines).unwrap();
    // A tenth of the limit is what a cycle may create.
    site.spaces("space", [(SPACE.to_owned(), nova.url(SPACE), 10 * count)]);
    let daemon = Daemon::start(site.command(program, 86400));
    let began = daemon.wait_for_decisions(1);
    until("the space is filled", || {
        (nova.servers(SPACE) >= count).then_some(())
    });
    let filled = Filled {
        machines,
        create,
        took: began.elapsed(),
        cpu: daemon.cpu(),
        most_at_once: nova.most_creating(),
    };
    daemon.end();
    filled
}

impl Filled {
    fn expected(&self) -> Duration {
        self.create * self.machines / 10
    }

    /// Ten at once, no more and hardly ever fewer, and in the time that follows from that.
    pub fn check(&self, factor: f64) {
        assert!((9..=10).contains(&self.most_at_once), "{self}");
        assert!(self.took < self.expected().mul_f64(factor), "{self}");
    }
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1?} ({:.1?} at ten creates at once; most at once {}), {:.1?} of processor time",
            self.took,
            self.expected(),
            self.most_at_once,
            self.cpu
        )
    }
}
