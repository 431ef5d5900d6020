//! `vcycled health`: one word for a monitoring system, with the exit codes and performance data of
//! Nagios plugins.

use std::fmt::{self, Write as _};

use super::args::HealthOptions;
use super::exit::{Exit, Failure};
use super::human::{ago, length, printable};
use super::status::write;
use super::told;
use crate::daemon::admin::Told;
use crate::daemon::{Phase, Refusal, Settings, SpaceStatus};
use crate::decide::{Blocked, Concern};
use crate::model::{Seconds, SpaceName};

/// A space whose latest complete cycle is older than so many cycles is in trouble, and older than so
/// many in great trouble; but not before so many seconds.
const LATE: (u64, Seconds) = (5, Seconds::new(300));
const TOO_LATE: (u64, Seconds) = (15, Seconds::new(900));

/// A certificate is to be renewed when it is good for no longer than so many seconds, and has to be
/// when it is good for no longer than so many.
const EXPIRES: (Seconds, Seconds) = (Seconds::new(14 * 86_400), Seconds::new(3 * 86_400));

/// So many cycles that fail in a row are no passing trouble.
const FAILED_CYCLES: u64 = 3;

/// So many creations of one machinetype that fail in a row are none either.
const FAILED_CREATIONS: u32 = 2;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Ok,
    Warning,
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        })
    }
}

/// What was looked at and found not to be well.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    text: String,
}

impl Finding {
    fn warning(text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            text: text.into(),
        }
    }

    fn critical(text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Critical,
            text: text.into(),
        }
    }
}

/// The ages of the latest complete cycle at which it is late.
#[derive(Clone, Copy, Debug)]
struct Thresholds {
    warning: Seconds,
    critical: Seconds,
}

/// Says how it is, in a line and by the exit code.
pub fn run(settings: &Settings, options: &HealthOptions) -> Result<(), Failure> {
    let known = match told::everything(settings) {
        Ok(known) => known,
        Err(failure) => {
            let why = failure.message.unwrap_or_default();
            // The state directory of a daemon that has never run may not be there.
            write(&format!("VCYCLE UNKNOWN: {}\n", printable(&why)))?;
            return Err(Failure::silent(Exit::Unknown));
        }
    };
    let (severity, text) = judge(&known.told, options, settings);
    write(&text)?;
    match severity {
        Severity::Ok => Ok(()),
        Severity::Warning => Err(Failure::silent(Exit::Warning)),
        Severity::Critical => Err(Failure::silent(Exit::Critical)),
    }
}

fn judge(told: &Told, options: &HealthOptions, settings: &Settings) -> (Severity, String) {
    let Some(daemon) = &told.status.daemon else {
        let text = format!(
            "VCYCLE CRITICAL: no daemon runs on {}; journalctl -u vcycled may tell why\n",
            settings.state_dir.display()
        );
        return (Severity::Critical, text);
    };
    let at = |(cycles, least): (u64, Seconds)| {
        let late = Seconds::new(daemon.interval.get().saturating_mul(cycles));
        late.max(least)
    };
    let thresholds = Thresholds {
        warning: options.warning.map_or_else(|| at(LATE), Seconds::new),
        critical: options.critical.map_or_else(|| at(TOO_LATE), Seconds::new),
    };
    let spaces = told.status.spaces.iter();
    let spaces: Vec<_> = spaces
        .filter(|(name, _)| options.space.as_ref().is_none_or(|one| one == *name))
        .collect();
    let mut findings = of_the_daemon(told);
    if let (Some(space), true) = (&options.space, spaces.is_empty()) {
        findings.push(Finding::critical(format!("there is no space {space}")));
    }
    let mut data = String::new();
    for (name, space) in &spaces {
        findings.extend(of_space(told, name, space, thresholds));
        data += &performance(told, name, space, thresholds);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = findings
        .first()
        .map_or(Severity::Ok, |first| first.severity);
    let running = spaces
        .iter()
        .map(|(_, space)| in_phase(space, Phase::Running));
    let running: usize = running.sum();
    let mut lines = findings.iter().map(|finding| printable(&finding.text));
    let first = lines
        .next()
        .unwrap_or_else(|| format!("{} space(s), {running} machine(s) running", spaces.len()));
    // In the first line nothing but the performance data may follow a bar.
    let first = first.replace('|', "/");
    let mut text = format!("VCYCLE {worst}: {first} |{data}\n");
    for line in lines {
        text += &format!("{}\n", line.replace('|', "/"));
    }
    (worst, text)
}

fn of_the_daemon(told: &Told) -> Vec<Finding> {
    let config = &told.status.config;
    let mut findings = Vec::new();
    if config.rejected.is_some() {
        let first = config.problems.first().map_or("", String::as_str);
        let good = config.loaded.map_or_else(String::new, |loaded| {
            format!("; that of {} is in use", ago(told.now, loaded))
        });
        findings.push(Finding::warning(format!(
            "the configuration has {} error(s){good}: {first}",
            config.problems.len()
        )));
    }
    findings.extend(of_https(told));
    findings.extend(of_the_certificate(told));
    findings
}

fn of_https(told: &Told) -> Option<Finding> {
    let https = &told.status.https;
    let problem = https.problem.as_deref()?;
    Some(if https.is_down {
        Finding::critical(problem)
    } else {
        Finding::warning(problem)
    })
}

fn of_the_certificate(told: &Told) -> Option<Finding> {
    let expires = told.status.https.certificate_expires?;
    let (warning, critical) = EXPIRES;
    let left = expires.since(told.now);
    if expires <= told.now {
        let text = format!(
            "the certificate of the HTTPS server ran out {}",
            ago(told.now, expires)
        );
        return Some(Finding::critical(text));
    }
    let text = format!(
        "the certificate of the HTTPS server runs out in {}, at {}",
        length(left),
        expires.to_rfc3339()
    );
    if left <= critical {
        Some(Finding::critical(text))
    } else if left <= warning {
        Some(Finding::warning(text))
    } else {
        None
    }
}

/// How old the latest complete scan is; of a space that has had none, since when one is waited for.
fn age(told: &Told, space: &SpaceStatus) -> Seconds {
    let started = told.status.daemon.as_ref().map(|daemon| daemon.started);
    let since = space
        .last_scan
        .max(started.filter(|_| space.decided.is_none()));
    since.map_or(Seconds::default(), |since| told.now.since(since))
}

fn of_space(
    told: &Told,
    name: &SpaceName,
    space: &SpaceStatus,
    thresholds: Thresholds,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let age = age(told, space);
    if age >= thresholds.warning {
        let why = space.error.as_deref().unwrap_or("the cloud is slow");
        let text = format!("space {name}: no complete cycle for {}: {why}", length(age));
        findings.push(if age >= thresholds.critical {
            Finding::critical(text)
        } else {
            Finding::warning(text)
        });
    } else if space.waiting.is_none() {
        findings.extend(of_failed_cycles(told, name, space));
    }
    if let Some(waiting) = &space.waiting {
        let text = format!("space {name}: nobody looks after its machines: {waiting}");
        findings.push(Finding::critical(text));
    }
    if space.disk_full {
        let text = format!("space {name}: the disk of the state directory is full");
        findings.push(Finding::critical(text));
    }
    for (machinetype, report) in &space.report.machinetypes {
        let why = &report.stopped_by;
        let mut text = format!("space {name}: nothing is created of {machinetype}: {why}");
        if is_failing(why) {
            let refusal = Refusal::behind(&space.refusals, machinetype, why);
            text += &refusal.map_or_else(String::new, |refusal| format!(": {}", refusal.error));
        } else if why.concern() != Concern::Wrong {
            continue;
        }
        findings.push(if matches!(why, Blocked::SuspectScan { .. }) {
            Finding::critical(text)
        } else {
            Finding::warning(text)
        });
    }
    findings
}

/// Cycles that have failed again and again, before the space is late because of it.
fn of_failed_cycles(told: &Told, name: &SpaceName, space: &SpaceStatus) -> Option<Finding> {
    let trouble = space.trouble.as_ref()?;
    let lasts = trouble.over.is_none() && trouble.passes >= FAILED_CYCLES;
    lasts.then(|| {
        Finding::warning(format!(
            "space {name}: {} cycle(s) failed, the first {}: {}",
            trouble.passes,
            ago(told.now, trouble.since),
            trouble.text
        ))
    })
}

/// Whether machines cannot be made, or do not boot, again and again. What only waits for room on the
/// cloud, or for its quota, is not counted as a failure.
const fn is_failing(why: &Blocked) -> bool {
    matches!(why, Blocked::Failing { failures, .. } | Blocked::Refused { failures, .. }
        if *failures >= FAILED_CREATIONS)
}

fn in_phase(space: &SpaceStatus, phase: Phase) -> usize {
    let machines = space.machines.iter();
    machines.filter(|machine| machine.phase == phase).count()
}

/// ` 'LABEL'=VALUE[UNIT];WARNING;CRITICAL;MIN;MAX` for each figure.
fn performance(
    told: &Told,
    name: &SpaceName,
    space: &SpaceStatus,
    thresholds: Thresholds,
) -> String {
    let report = &space.report.space;
    let most = report
        .machines_limit
        .map_or_else(String::new, |limit| limit.to_string());
    let mut data = String::new();
    let mut figure = |label: &str, value: String| {
        // Writing to a String cannot fail.
        let _written = write!(data, " '{name} {label}'={value}");
    };
    let (warning, critical) = (thresholds.warning, thresholds.critical);
    figure(
        "age",
        format!("{}s;{warning};{critical};0", age(told, space)),
    );
    figure("took", format!("{}s;;;0", space.took));
    figure("machines", format!("{};;;0;{most}", report.machines));
    figure(
        "running",
        format!("{};;;0;{most}", in_phase(space, Phase::Running)),
    );
    figure(
        "starting",
        format!("{};;;0;{most}", in_phase(space, Phase::Starting)),
    );
    for (label, total) in [
        ("created", space.totals.created),
        ("ended", space.totals.ended),
        ("aborts", space.totals.aborts),
        ("failed", space.totals.failed),
    ] {
        figure(label, format!("{total}c"));
    }
    data
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::daemon::Trouble;
    use crate::daemon::{DaemonStatus, Status};
    use crate::decide::MachinetypeReport;
    use crate::model::{FactoryName, MachinetypeName, Processors, Timestamp};

    fn told(change: impl FnOnce(&mut SpaceStatus)) -> Told {
        let at = Timestamp::from_unix;
        let mut space = SpaceStatus {
            last_scan: Some(at(9_990)),
            decided: Some(at(9_990)),
            ..SpaceStatus::default()
        };
        change(&mut space);
        let mut status = Status {
            daemon: Some(DaemonStatus {
                version: "1".to_owned(),
                factory: FactoryName::new("factory.example.org").unwrap(),
                process: 1,
                started: at(1_000),
                interval: Seconds::new(60),
            }),
            ..Status::default()
        };
        let name = SpaceName::new("example.org").unwrap();
        status.spaces.insert(name, Arc::new(space));
        Told {
            now: at(10_000),
            status,
        }
    }

    fn findings(told: &Told) -> Vec<Finding> {
        let thresholds = Thresholds {
            warning: Seconds::new(300),
            critical: Seconds::new(900),
        };
        let name = SpaceName::new("example.org").unwrap();
        of_space(told, &name, &told.status.spaces[&name], thresholds)
    }

    fn found(told: &Told) -> Option<Severity> {
        let findings = findings(told);
        findings.iter().map(|finding| finding.severity).max()
    }

    #[test]
    fn a_space_is_judged_by_its_latest_complete_cycle() {
        let cases = [
            (9_701, None),
            (9_700, Some(Severity::Warning)),
            (9_101, Some(Severity::Warning)),
            (9_100, Some(Severity::Critical)),
        ];
        for (scan, expected) in cases {
            let scan = Timestamp::from_unix(scan);
            let told = told(|space| space.last_scan = Some(scan));
            assert_eq!(found(&told), expected, "{scan}");
        }
        // After a start the scan of the daemon before says nothing.
        let mut told = told(|space| (space.last_scan, space.decided) = (None, None));
        assert_eq!(found(&told), Some(Severity::Critical));
        if let Some(daemon) = &mut told.status.daemon {
            daemon.started = Timestamp::from_unix(9_900);
        }
        assert_eq!(found(&told), None);
    }

    #[test]
    fn a_certificate_is_renewed_in_time() {
        const DAY: u64 = 86_400;
        let cases = [
            (10_000, Some(Severity::Critical)),
            (10_000 + 3 * DAY, Some(Severity::Critical)),
            (10_001 + 3 * DAY, Some(Severity::Warning)),
            (10_000 + 14 * DAY, Some(Severity::Warning)),
            (10_001 + 14 * DAY, None),
        ];
        let mut told = told(|_| {});
        assert_eq!(of_the_certificate(&told), None);
        for (expires, expected) in cases {
            told.status.https.certificate_expires = Some(Timestamp::from_unix(expires));
            let found = of_the_certificate(&told).map(|finding| finding.severity);
            assert_eq!(found, expected, "{expires}");
        }
    }

    #[test]
    fn a_server_that_is_down_is_critical_and_one_that_goes_on_as_it_was_is_not() {
        let mut told = told(|_| {});
        assert_eq!(of_https(&told), None);
        told.status.https.problem = Some("no such key".to_owned());
        for (is_down, expected) in [(false, Severity::Warning), (true, Severity::Critical)] {
            told.status.https.is_down = is_down;
            let found = of_https(&told).map(|finding| finding.severity);
            assert_eq!(found, Some(expected));
        }
    }

    #[test]
    fn cycles_that_fail_again_and_again_are_told_before_the_space_is_late() {
        let at = Timestamp::from_unix;
        let failed = |passes: u64, over: bool| {
            told(|space| {
                space.trouble = Some(Trouble {
                    text: "refused".to_owned(),
                    since: at(9_700),
                    last: at(9_900),
                    passes,
                    over: over.then(|| at(9_999)),
                });
            })
        };
        let cases = [
            (2, false, None),
            (3, false, Some(Severity::Warning)),
            (3, true, None),
        ];
        for (passes, over, expected) in cases {
            assert_eq!(found(&failed(passes, over)), expected, "{passes} {over}");
        }
        // Late, it is told once.
        let mut late = failed(3, false);
        late.now = at(10_290);
        let findings = findings(&late);
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn creations_that_fail_again_and_again_are_told_with_what_came_back() {
        let at = Timestamp::from_unix;
        let machinetype: MachinetypeName = "a".parse().unwrap();
        let failing = |failures| {
            told(|space| {
                let report = MachinetypeReport {
                    machines: 0,
                    starting: 0,
                    running: 0,
                    processors: Processors::default(),
                    weight: 0.0,
                    target_share: 1.0,
                    creates: 0,
                    stopped_by: Blocked::Failing {
                        failures,
                        until: at(10_060),
                    },
                    rules: Vec::new(),
                };
                let kinds = &mut space.report.machinetypes;
                kinds.insert(machinetype.clone(), report);
                let refusal = Refusal {
                    at: at(9_990),
                    error: "image x is not there".to_owned(),
                };
                space.refusals.insert(machinetype.clone(), refusal);
            })
        };
        assert_eq!(found(&failing(1)), None);
        let told = failing(2);
        let findings = findings(&told);
        let text = "space example.org: nothing is created of a: 2 creation(s) in a row failed, next try at 1970-01-01T02:47:40Z: image x is not there";
        assert_eq!(findings, [Finding::warning(text)]);
    }

    #[test]
    fn a_full_disk_is_critical() {
        assert_eq!(
            found(&told(|space| space.disk_full = true)),
            Some(Severity::Critical)
        );
    }
}
