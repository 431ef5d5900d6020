//! What the process takes, sampled into a file, and whether that is flat.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;

use super::ledger::Ledger;
use super::site::Site;
use crate::daemon::factory::entries;

/// Shorter series of samples say nothing.
const SHORTEST: f64 = 240.0;
/// How much more may be on the heap at the end of the series, in KiB. It goes up and down by half
/// of that with the number of machines' directories.
const HEAP_LEAST: f64 = 1024.0;
/// Resident memory has what malloc keeps for later in each of its arenas, too: it rises to a
/// high-water mark for so many seconds of a process before it can be judged, and after that more
/// slowly than by so much in an hour, as a share of it, or by so many KiB.
const RSS_WARM_UP: f64 = 900.0;
const RSS_SHARE: f64 = 0.15;
const RSS_LEAST: f64 = 2048.0;
/// How many more descriptors may be in use at the end of the series.
const COUNT_LEAST: f64 = 2.0;
/// What may be in `tmp` at one moment: everything that is being written.
const MOST_IN_TMP: usize = 100;
/// Standard errors within which a slope is no slope.
const ERRORS: f64 = 2.0;

#[derive(Clone, Copy, Debug)]
struct Sample {
    second: f64,
    pid: u32,
    rss_kib: f64,
    /// NaN when it is not counted.
    heap_kib: f64,
    fds: f64,
    threads: f64,
}

#[derive(Debug, Default)]
pub struct Samples {
    csv: Option<File>,
    all: Vec<Sample>,
    most_in_tmp: usize,
    closed: bool,
}

/// A straight line through samples: the mean, the growth from the first to the last, and the
/// standard error of that.
#[derive(Debug)]
struct Line {
    mean: f64,
    growth: f64,
    error: f64,
    seconds: f64,
}

impl Samples {
    /// Takes a sample, which counts until the samples are closed.
    pub fn take(&mut self, site: &Site, second: f64, ledger: &Ledger) {
        let Some(pid) = site.pid() else { return };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            return;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
        };
        let sample = Sample {
            second,
            pid,
            rss_kib: field("VmRSS:"),
            heap_kib: site.heap().map_or(f64::NAN, kib),
            fds: f64::from(
                u32::try_from(entries(format!("/proc/{pid}/fd").as_ref()).len()).unwrap(),
            ),
            threads: field("Threads:"),
        };
        let tmp = entries(&site.state("tmp")).len();
        self.most_in_tmp = self.most_in_tmp.max(tmp);
        let log = fs::metadata(site.root().join("vcycled.log")).map_or(0, |found| found.len());
        let csv = self.csv.get_or_insert_with(|| {
            let mut file = File::create(site.root().with_extension("csv")).unwrap();
            writeln!(
                file,
                "second,clock,pid,rss_kib,fds,threads,directories,unfinished,servers,in_tmp,log_bytes,heap_kib"
            )
            .unwrap();
            file
        });
        writeln!(
            csv,
            "{second:.1},{},{pid},{},{},{},{},{},{},{tmp},{log},{:.0}",
            site.now(),
            sample.rss_kib,
            sample.fds,
            sample.threads,
            ledger.directories,
            ledger.unfinished,
            ledger.servers,
            sample.heap_kib
        )
        .unwrap();
        if !self.closed {
            self.all.push(sample);
        }
    }

    /// What is sampled from now on is only written down.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The second half of the time, as far as it is the last process's.
    fn second_half(&self) -> Vec<Sample> {
        let Some(last) = self.all.last() else {
            return Vec::new();
        };
        let counts =
            |sample: &&Sample| sample.pid == last.pid && sample.second >= last.second / 2.0;
        self.all.iter().filter(counts).copied().collect()
    }

    /// When the last process was seen first.
    fn last_start(&self) -> f64 {
        let last = self.all.last().map(|sample| sample.pid);
        let first = self.all.iter().find(|sample| Some(sample.pid) == last);
        first.map_or(0.0, |sample| sample.second)
    }

    fn lines(&self) -> [(&'static str, Line, f64); 4] {
        let half = self.second_half();
        let warm = self.last_start() + RSS_WARM_UP;
        let line = |since: f64, value: fn(&Sample) -> f64| {
            let points: Vec<_> = half
                .iter()
                .filter(|sample| sample.second >= since)
                .map(|sample| (sample.second, value(sample)))
                .collect();
            Line::through(&points)
        };
        let rss = line(warm, |sample| sample.rss_kib);
        let limit = (rss.mean * RSS_SHARE * rss.seconds / 3600.0).max(RSS_LEAST);
        [
            (
                "heap in KiB",
                line(0.0, |sample| sample.heap_kib),
                HEAP_LEAST,
            ),
            ("RSS in KiB", rss, limit),
            (
                "file descriptors",
                line(0.0, |sample| sample.fds),
                COUNT_LEAST,
            ),
            // Those for blocking work stay as many as were ever needed at once.
            ("threads", line(0.0, |sample| sample.threads), f64::INFINITY),
        ]
    }

    pub fn findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.most_in_tmp > MOST_IN_TMP {
            found.push(format!("{} files in tmp at one moment", self.most_in_tmp));
        }
        for (what, line, limit) in self.lines() {
            if line.seconds >= SHORTEST && line.growth - ERRORS * line.error > limit {
                found.push(format!(
                    "{what} are not flat: {line}, and at most {limit:.0} may be"
                ));
            }
        }
        found
    }
}

impl Line {
    /// Least squares.
    fn through(points: &[(f64, f64)]) -> Self {
        let count = f64::from(u32::try_from(points.len()).unwrap());
        let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let sum = |of: &dyn Fn(f64, f64) -> f64| {
            points.iter().map(|(a, b)| of(a - x, b - y)).sum::<f64>()
        };
        let spread = sum(&|a, _| a * a);
        let slope = sum(&|a, b| a * b) / spread;
        let rest = sum(&|a, b| (b - slope * a).powi(2));
        let first = points.first().map_or(0.0, |point| point.0);
        let seconds = points.last().map_or(0.0, |point| point.0 - first);
        Self {
            mean: y,
            growth: slope * seconds,
            error: (rest / (count - 2.0) / spread).sqrt() * seconds,
            seconds,
        }
    }
}

/// Bytes in KiB.
fn kib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX))
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mean.is_nan() {
            return f.write_str("not known");
        }
        write!(
            f,
            "{:.1} on average, {:+.1} (± {:.1}) in {:.0} s",
            self.mean, self.growth, self.error, self.seconds
        )
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, line, _) in self.lines() {
            writeln!(f, "{what}: {line}")?;
        }
        write!(f, "most files in tmp: {}", self.most_in_tmp)
    }
}

#[test]
fn a_slope_is_found_and_noise_is_none() {
    let points = |slope: f64| {
        let point = move |n: u32| {
            let noise = f64::from(n * 7919 % 101) - 50.0;
            (f64::from(n), 1000.0 + slope * f64::from(n) + noise)
        };
        (0..600).map(point).collect::<Vec<_>>()
    };
    let flat = Line::through(&points(0.0));
    assert!(flat.growth.abs() < ERRORS * flat.error, "{flat}");
    let steep = Line::through(&points(0.1));
    assert!((steep.growth - 60.0).abs() < 5.0, "{steep}");
    assert!(steep.growth - ERRORS * steep.error > 40.0, "{steep}");
}

/// The samples of one process in an hour.
fn hour(rss_kib: impl Fn(f64) -> f64, heap_kib: impl Fn(f64) -> f64) -> Samples {
    let sample = |n: u32| {
        let second = f64::from(n) * 4.0;
        Sample {
            second,
            pid: 1,
            rss_kib: rss_kib(second),
            heap_kib: heap_kib(second),
            fds: 40.0,
            threads: 51.0,
        }
    };
    Samples {
        all: (0..900).map(sample).collect(),
        ..Samples::default()
    }
}

#[test]
fn a_leak_is_found_and_a_high_water_mark_is_none() {
    // As it was measured: fast at first, then more and more slowly.
    let marked = |second: f64| 31_000.0 + 6000.0 * (second / 60.0).ln_1p() / 61_f64.ln();
    let flat = |second: f64| 6000.0 + 500.0 * (second / 50.0).sin();
    let leaking = |second: f64| flat(second) + second;
    assert_eq!(hour(marked, flat).findings(), [""; 0]);
    assert_eq!(hour(marked, |_| f64::NAN).findings(), [""; 0]);
    assert!(hour(marked, leaking).findings()[0].contains("heap in KiB are not flat"));
    let rising = |second: f64| 31_000.0 + 3.0 * second;
    assert!(hour(rising, flat).findings()[0].contains("RSS in KiB are not flat"));
}
