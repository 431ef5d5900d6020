//! True time, which no clock of the simulation shows exactly.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;
use vcycle::clock::Clock;
use vcycle::model::Timestamp;

/// When every simulation begins: Unix seconds.
pub const BEGINNING: u64 = 1_800_000_000;

/// True time, and the clocks of the factories' hosts, which show it until they are set.
#[derive(Debug)]
pub struct Earth {
    origin: Instant,
    /// Seconds that have passed without the runtime's timer: a slow disk holds everything up.
    held_up: AtomicU64,
    clock: Clock,
}

impl Earth {
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            held_up: AtomicU64::new(0),
            clock: Clock::timer(Timestamp::from_unix(BEGINNING)),
        }
    }

    /// True time in Unix seconds.
    pub fn now(&self) -> u64 {
        BEGINNING + self.origin.elapsed().as_secs() + self.held_up.load(Ordering::SeqCst)
    }

    /// The clock of the hosts.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Somebody was busy for a second, and everybody with them.
    pub fn pass_a_second(&self) {
        self.held_up.fetch_add(1, Ordering::SeqCst);
        self.clock.step(1);
    }
}
