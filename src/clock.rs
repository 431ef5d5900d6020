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

/// A moment by a clock, and by the host's count of the time that passes, which nobody can set and
/// which stands still while the host is suspended.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    at: Timestamp,
    counted: tokio::time::Instant,
}

impl Lap {
    /// What the clock showed.
    pub const fn at(&self) -> Timestamp {
        self.at
    }
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
        Self::fast_since(system_now(), speed)
    }

    /// A clock that showed the system's time at `origin` and has run `speed` times as fast since.
    pub fn fast_since(origin: SystemTime, speed: u32) -> Self {
        Self(Kind::Fast {
            origin,
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

    /// This moment, to measure from.
    pub fn lap(&self) -> Lap {
        Lap {
            at: self.now(),
            counted: tokio::time::Instant::now(),
        }
    }

    /// How much time has passed since `lap`, whatever the clock was set to. A manual clock knows
    /// no other time than its own.
    pub fn passed(&self, lap: &Lap) -> Seconds {
        let counted = lap.counted.elapsed();
        match &self.0 {
            Kind::System | Kind::Timer { .. } => Seconds::new(counted.as_secs()),
            Kind::Fast { speed, .. } => Seconds::new(counted.saturating_mul(*speed).as_secs()),
            Kind::Manual(_) => self.now().since(lap.at),
        }
    }

    /// By how much the clock was set forward since `lap`; what the host was suspended for counts
    /// as that, too.
    pub fn skipped(&self, lap: &Lap) -> Seconds {
        self.now().since(lap.at + self.passed(lap))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_and_what_is_skipped_are_told_apart() {
        let clock = Clock::timer(Timestamp::from_unix(1_000_000));
        let lap = clock.lap();
        clock.sleep(Seconds::new(90)).await;
        let seen = |clock: &Clock| (clock.passed(&lap).get(), clock.skipped(&lap).get());
        assert_eq!(seen(&clock), (90, 0));
        clock.step(3600);
        assert_eq!(seen(&clock), (90, 3600));
        clock.step(-7200);
        assert_eq!(seen(&clock), (90, 0), "set back is not forward");
    }

    #[test]
    fn the_speed_of_a_fast_clock_is_no_skip() {
        let clock = Clock::fast(10_000);
        let lap = clock.lap();
        while clock.now().since(lap.at()) < Seconds::new(1000) {
            std::hint::spin_loop();
        }
        assert!(clock.skipped(&lap) < Seconds::new(500));
        assert!(clock.passed(&lap) > Seconds::new(500));
    }
}
