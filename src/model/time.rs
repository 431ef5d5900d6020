//! Times as Unix seconds, durations as seconds; arithmetic saturates, so a clock that steps back
//! can make an age zero but never negative or enormous.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment: whole seconds since 1970-01-01 00:00:00 UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

/// A length of time in whole seconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seconds(u64);

impl Timestamp {
    /// The moment `seconds` after the epoch.
    pub const fn from_unix(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since the epoch.
    pub const fn unix(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was at this moment; zero when `earlier` is in the future.
    pub const fn since(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0))
    }

    /// The moment so many seconds before, but never one before the epoch.
    pub const fn earlier(self, by: Seconds) -> Self {
        Self(self.0.saturating_sub(by.0))
    }

    /// The same moment for the file system and the standard library.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.0))
            .unwrap_or(UNIX_EPOCH)
    }

    /// A file's or the system's time, cut to whole seconds; moments before 1970 become 0.
    pub fn from_system_time(time: SystemTime) -> Self {
        Self(
            time.duration_since(UNIX_EPOCH)
                .map(|since| since.as_secs())
                .unwrap_or(0),
        )
    }

    /// The moment in UTC as `2016-05-04T03:02:01Z`; years beyond chrono's range as plain seconds.
    pub fn to_rfc3339(self) -> String {
        self.to_chrono().map_or_else(
            || self.0.to_string(),
            |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )
    }

    /// The moment as a calendar time in UTC, `None` beyond chrono's range of years.
    pub fn to_chrono(self) -> Option<chrono::DateTime<chrono::Utc>> {
        i64::try_from(self.0)
            .ok()
            .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0))
    }

    /// Reads the time formats of cloud APIs: RFC 3339, with or without a zone (then UTC) and
    /// with or without a fraction of a second.
    pub fn parse_iso8601(text: &str) -> Option<Self> {
        let seconds = chrono::DateTime::parse_from_rfc3339(text)
            .map(|time| time.timestamp())
            .or_else(|_| {
                chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                    .map(|time| time.and_utc().timestamp())
            })
            .ok()?;
        u64::try_from(seconds).ok().map(Self)
    }
}

impl Seconds {
    /// `seconds` seconds.
    pub const fn new(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The number of seconds.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// The same length for the standard library.
    pub const fn to_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl std::ops::Add<Seconds> for Timestamp {
    type Output = Self;
    fn add(self, seconds: Seconds) -> Self {
        Self(self.0.saturating_add(seconds.0))
    }
}

impl std::ops::Add for Seconds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = std::num::ParseIntError;

    /// Reads what site scripts and older versions leave in the time files: whole seconds, perhaps
    /// with white space around.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stepped_back_gives_age_zero() {
        let (early, late) = (Timestamp::from_unix(100), Timestamp::from_unix(200));
        assert_eq!(late.since(early), Seconds::new(100));
        assert_eq!(early.since(late), Seconds::new(0));
    }

    #[test]
    fn addition_saturates() {
        let far = Timestamp::from_unix(u64::MAX);
        assert_eq!(far + Seconds::new(5), far);
    }

    #[test]
    fn cloud_times_with_and_without_zone_and_fraction() {
        let expected = Some(Timestamp::from_unix(1_462_331_045));
        for text in [
            "2016-05-04T03:04:05Z",
            "2016-05-04T03:04:05.000000",
            "2016-05-04T05:04:05+02:00",
            "2016-05-04T03:04:05",
        ] {
            assert_eq!(Timestamp::parse_iso8601(text), expected, "{text}");
        }
        for text in ["", "yesterday", "1969-01-01T00:00:00Z", "2016-05-04"] {
            assert_eq!(Timestamp::parse_iso8601(text), None, "{text}");
        }
    }
}
