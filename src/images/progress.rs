//! How far the way of an image is: what the log says of it at times, and what the status shows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::image::percent;

/// After how long the log first says how far it is. Most images are there before.
const FIRST: Duration = Duration::from_secs(10);
/// The longest pause between two lines; each is twice the one before.
const LONGEST: Duration = Duration::from_secs(300);
const MEBIBYTE: u64 = 1024 * 1024;
/// What stands for an unknown size.
const UNTOLD: u64 = u64::MAX;

/// Decides when the log says how far a transfer is, and in which words.
#[derive(Debug)]
pub(super) struct Meter {
    total: Option<u64>,
    /// When it was last said, and how many bytes there were then.
    last: (Instant, u64),
    pause: Duration,
}

impl Meter {
    /// A transfer of `total` bytes, if that is known, that begins now.
    pub fn new(total: Option<u64>, now: Instant) -> Self {
        Self {
            total,
            last: (now, 0),
            pause: FIRST,
        }
    }

    /// What is to be said when `done` bytes are there now: mostly nothing.
    pub fn look(&mut self, done: u64, now: Instant) -> Option<String> {
        let (when, before) = self.last;
        let passed = now.saturating_duration_since(when);
        if passed < self.pause {
            return None;
        }
        self.last = (now, done);
        self.pause = self.pause.saturating_mul(2).min(LONGEST);
        if self.total == Some(done) {
            return Some(format!(
                "all {} MiB are there, but not yet taken over",
                done.div_ceil(MEBIBYTE)
            ));
        }
        // After a repeated attempt there may be less than before.
        let moved = done.saturating_sub(before);
        let speed = per_second(moved, passed);
        let how_fast = match (moved, self.total) {
            (0, _) => format!("nothing for {} s", passed.as_secs()),
            (_, None) => format!("{} MiB/s", mebibytes(speed)),
            (_, Some(total)) => format!(
                "{} MiB/s, {} to go",
                mebibytes(speed),
                length(total.saturating_sub(done) / speed.max(1))
            ),
        };
        Some(format!("{}, {how_fast}", so_far(done, self.total)))
    }
}

fn so_far(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!(
            "{} of {} MiB ({} %)",
            done / MEBIBYTE,
            total.div_ceil(MEBIBYTE),
            percent(done, total)
        ),
        None => format!("{} MiB, of a size that is not told", done / MEBIBYTE),
    }
}

/// `5120 MiB in 43 min, 1.98 MiB/s`.
pub(super) fn taken(size: u64, time: Duration) -> String {
    let (whole, speed) = (size.div_ceil(MEBIBYTE), per_second(size, time));
    let time = length(time.as_secs());
    format!(
        "{whole} MiB ({size} bytes) in {time}, {} MiB/s",
        mebibytes(speed)
    )
}

/// Bytes for each second.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = (u128::from(bytes) * 1000).checked_div(time.as_millis());
    rate.map_or(bytes, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

/// With two digits after the point.
fn mebibytes(bytes: u64) -> String {
    let hundredths = (u128::from(bytes) * 100 + u128::from(MEBIBYTE / 2)) / u128::from(MEBIBYTE);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A length of time, roughly.
fn length(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How far a URL has been fetched, for whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    under_way: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Fetching {
    /// A transfer begins; it is under way until what is returned is dropped.
    pub fn begin(&self, total: Option<u64>) -> UnderWay<'_> {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total.unwrap_or(UNTOLD), Ordering::Relaxed);
        self.under_way.store(true, Ordering::Relaxed);
        UnderWay(self)
    }

    /// How far it is, for people; `None` when nothing is under way.
    pub fn shown(&self) -> Option<String> {
        let total = Some(self.total.load(Ordering::Relaxed)).filter(|total| *total != UNTOLD);
        let under_way = self.under_way.load(Ordering::Relaxed);
        under_way.then(|| so_far(self.done.load(Ordering::Relaxed), total))
    }
}

/// See [`Fetching::begin`].
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a Fetching);

impl UnderWay<'_> {
    /// So many bytes more are there; returns how many are.
    pub fn add(&self, bytes: usize) -> u64 {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.done.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBIBYTE: u64 = 1024 * MEBIBYTE;

    /// What is said of a transfer that is looked at each second.
    fn said(total: Option<u64>, seconds: u64, done: impl Fn(u64) -> u64) -> Vec<(u64, String)> {
        let began = Instant::now();
        let mut meter = Meter::new(total, began);
        let looks = (1..=seconds).filter_map(|second| {
            let now = began + Duration::from_secs(second);
            Some((second, meter.look(done(second), now)?))
        });
        looks.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn five_gibibytes_at_two_a_second_are_a_dozen_lines() {
        let lines = said(Some(5 * GIBIBYTE), 2559, |second| second * 2 * MEBIBYTE);
        let when: Vec<_> = lines.iter().map(|(second, _)| *second).collect();
        assert_eq!(
            when,
            [10, 30, 70, 150, 310, 610, 910, 1210, 1510, 1810, 2110, 2410]
        );
        assert_eq!(
            lines.first().map(|(_, line)| line.as_str()),
            Some("20 of 5120 MiB (0 %), 2.00 MiB/s, 42 min to go")
        );
        assert_eq!(
            lines.last().map(|(_, line)| line.as_str()),
            Some("4820 of 5120 MiB (94 %), 2.00 MiB/s, 2 min to go")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_done_or_has_no_size_is_said_so() {
        let still = said(Some(GIBIBYTE), 30, |second| second.min(10) * MEBIBYTE / 20);
        assert_eq!(
            still,
            [
                (
                    10,
                    "0 of 1024 MiB (0 %), 0.05 MiB/s, 5 h 41 min to go".to_owned()
                ),
                (30, "0 of 1024 MiB (0 %), nothing for 20 s".to_owned()),
            ]
        );
        let stored = said(Some(MEBIBYTE), 10, |_| MEBIBYTE);
        assert_eq!(
            stored,
            [(10, "all 1 MiB are there, but not yet taken over".to_owned())]
        );
        let untold = said(None, 10, |second| second * MEBIBYTE);
        assert_eq!(
            untold,
            [(
                10,
                "10 MiB, of a size that is not told, 1.00 MiB/s".to_owned()
            )]
        );
        assert_eq!(
            taken(5 * GIBIBYTE, Duration::from_secs(2560)),
            "5120 MiB (5368709120 bytes) in 42 min, 2.00 MiB/s"
        );
    }

    #[test]
    fn what_is_under_way_is_shown_until_it_ends() {
        let fetching = Fetching::default();
        assert_eq!(fetching.shown(), None);
        let under_way = fetching.begin(Some(4 * MEBIBYTE));
        assert_eq!(under_way.add(1024 * 1024), MEBIBYTE);
        assert_eq!(fetching.shown().as_deref(), Some("1 of 4 MiB (25 %)"));
        drop(under_way);
        assert_eq!(fetching.shown(), None);
        let _again = fetching.begin(None);
        assert_eq!(
            fetching.shown().as_deref(),
            Some("0 MiB, of a size that is not told")
        );
    }
}
