//! The only place that reads the time of day.
//!
//! The daemon asks one [`Clock`] that it was given; the demo gives it a faster one, tests one that
//! they move by hand. Decisions never see a clock, only a `now` that somebody read from one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::model::{Seconds, Timestamp};

/// Tells the time of day and waits.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System,
    /// Runs `speed` times as fast as the system's clock since `origin`.
    Fast {
        origin: SystemTime,
        speed: u32,
    },
    Manual(Arc<AtomicU64>),
    /// Showed `start` at `origin`, and has been set forward by `steps` seconds in all.
    Timer {
        origin: tokio::time::Instant,
        start: Timestamp,
        steps: Arc<AtomicI64>,
    },
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the time"
)]
fn system_now() -> SystemTime {
    SystemTime::now()
}

impl Clock {
    /// The system's clock.
    pub const fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that shows the system's time now and then runs `speed` times as fast.
    pub fn fast(speed: u32) -> Self {
        Self(Kind::Fast {
            origin: system_now(),
            speed: speed.max(1),
        })
    }

    /// A clock that stands still until [`Clock::set`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Kind::Manual(Arc::new(AtomicU64::new(start.unix()))))
    }

    /// A clock that shows `start` now and goes with the timer of the runtime, which a simulation
    /// can pause. As the clock of a host it can be set: see [`Clock::step`].
    pub fn timer(start: Timestamp) -> Self {
        Self(Kind::Timer {
            origin: tokio::time::Instant::now(),
            start,
            steps: Arc::default(),
        })
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System => Timestamp::from_system_time(system_now()),
            Kind::Fast { origin, speed } => {
                let elapsed = system_now().duration_since(*origin).unwrap_or_default();
                Timestamp::from_system_time(*origin + elapsed.saturating_mul(*speed))
            }
            Kind::Manual(seconds) => Timestamp::from_unix(seconds.load(Ordering::SeqCst)),
            Kind::Timer {
                origin,
                start,
                steps,
            } => {
                let passed = start.unix().saturating_add(origin.elapsed().as_secs());
                Timestamp::from_unix(passed.saturating_add_signed(steps.load(Ordering::SeqCst)))
            }
        }
    }

    /// Moves a manual clock; does nothing to the others.
    pub fn set(&self, now: Timestamp) {
        if let Kind::Manual(seconds) = &self.0 {
            seconds.store(now.unix(), Ordering::SeqCst);
        }
    }

    /// Sets a clock made by [`Clock::timer`] forward by `seconds`, or back; does nothing to the
    /// others.
    pub fn step(&self, seconds: i64) {
        if let Kind::Timer { steps, .. } = &self.0 {
            steps.fetch_add(seconds, Ordering::SeqCst);
        }
    }

    /// How long `seconds` of this clock take for a process that waits for them.
    pub fn real(&self, seconds: Seconds) -> Duration {
        match &self.0 {
            Kind::System | Kind::Manual(_) | Kind::Timer { .. } => seconds.to_duration(),
            Kind::Fast { speed, .. } => seconds.to_duration() / *speed,
        }
    }

    /// Waits for `seconds` of this clock.
    pub async fn sleep(&self, seconds: Seconds) {
        tokio::time::sleep(self.real(seconds)).await;
    }
}
