//! `/metrics`: what the status says and what was counted, in the text formats of Prometheus and
//! OpenMetrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use http::header::{ACCEPT, HeaderMap};
use http::{Response, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tracing::debug;

use super::Context;
use super::reply::{self, Body};
use crate::account::spool;
use crate::blocking;
use crate::daemon::{Phase, SpaceStatus, Status};
use crate::decide::{Blocked, MachinetypeReport};
use crate::metrics::{Label, of_machinetype, of_space};
use crate::model::{MachinetypeName, Seconds, SpaceName, Timestamp};

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything, in the format that is asked for.
pub(super) async fn scrape(headers: &HeaderMap, context: &Arc<Context>) -> Response<Body> {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let is_open =
        accepted.is_some_and(|accepted| accepted.contains("application/openmetrics-text"));
    let context = Arc::clone(context);
    // A hundred thousand machines and records take a while to count.
    let written = blocking::run(move || write(&context)).await;
    match written {
        Ok(text) if is_open => reply::whole(StatusCode::OK, OPEN, text),
        Ok(text) => reply::whole(StatusCode::OK, CLASSIC, classic(&text)),
        Err(fmt::Error) => {
            let why = "the metrics cannot be written";
            reply::text(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}

fn write(context: &Context) -> Result<String, fmt::Error> {
    let waiting = spool::waiting(context.store.layout());
    if let Err(error) = &waiting {
        debug!(%error, "cannot count the records that wait");
    }
    let now = Snapshot {
        status: context.board.now(),
        now: context.clock.now(),
        waiting: waiting.ok(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(now));
    context.metrics.register(&mut registry);
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The same in the format from before OpenMetrics, where a counter is described by its whole name.
fn classic(open: &str) -> String {
    let described = |line: &str, what: &str| {
        let rest = line.strip_prefix(what)?.split_once(' ')?;
        Some((rest.0.to_owned(), rest.1.to_owned()))
    };
    let types = open.lines().filter_map(|line| described(line, "# TYPE "));
    let counters = types.filter(|(_, kind)| kind == "counter");
    let counters: BTreeSet<String> = counters.map(|(name, _)| name).collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        if line.starts_with("# EOF") || line.starts_with("# UNIT ") {
            continue;
        }
        let about = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|what| Some((what, described(line, what)?)));
        match about {
            Some((what, (name, rest))) if counters.contains(&name) => {
                text.push_str(&format!("{what}{name}_total {rest}"));
            }
            Some(_) | None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// What the status says at one moment.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    now: Timestamp,
    waiting: Option<u64>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut told = Told(&mut encoder);
        self.daemon(&mut told)?;
        self.spaces(&mut told)?;
        self.machinetypes(&mut told)
    }
}

impl Snapshot {
    fn daemon(&self, told: &mut Told<'_, '_>) -> fmt::Result {
        let Self {
            status, waiting, ..
        } = self;
        if let Some(daemon) = &status.daemon {
            let version = [("version", daemon.version.clone())];
            told.each(
                "vcycle_build_info",
                "The version of vcycled",
                [(version, 1_u64)],
            )?;
            let started = daemon.started.unix();
            told.one(
                "process_start_time_seconds",
                "When the daemon started, in seconds since 1970",
                started,
            )?;
            told.one(
                "vcycle_cycle_interval_seconds",
                "From the start of one cycle to the start of the next",
                daemon.interval.get(),
            )?;
        }
        if let Some(loaded) = status.config.loaded {
            told.one(
                "vcycle_config_last_good_timestamp_seconds",
                "When the configuration was last read and found to be good",
                loaded.unix(),
            )?;
        }
        told.one(
            "vcycle_config_rejected",
            "Whether the configuration has errors, so that the last good one is in use",
            u64::from(status.config.rejected.is_some()),
        )?;
        told.one(
            "vcycle_https_problem",
            "Whether the HTTPS server is down, or does not run as [server] asks",
            u64::from(status.https.problem.is_some()),
        )?;
        if let Some(expires) = status.https.certificate_expires {
            told.one(
                "vcycle_certificate_expiry_timestamp_seconds",
                "When the certificate of the HTTPS server runs out",
                expires.unix(),
            )?;
        }
        if let Some(waiting) = *waiting {
            told.one(
                "vcycle_accounting_records_waiting",
                "Accounting records that wait to be sent",
                waiting,
            )?;
        }
        Ok(())
    }

    /// Samples of spaces: one for each that has the figure.
    fn of_spaces<V>(
        &self,
        figure: impl Fn(&SpaceStatus) -> Option<V>,
    ) -> impl Iterator<Item = ([Label; 1], V)> {
        let spaces = self.status.spaces.iter();
        spaces.filter_map(move |(name, space)| Some(([of_space(name)], figure(space)?)))
    }

    fn spaces(&self, told: &mut Told<'_, '_>) -> fmt::Result {
        told.each(
            "vcycle_space_last_scan_timestamp_seconds",
            "When the latest complete listing was; 0 for never",
            self.of_spaces(|space| Some(space.last_scan.map_or(0, Timestamp::unix))),
        )?;
        told.each(
            "vcycle_space_failing",
            "Whether the latest cycle ended early",
            self.of_spaces(|space| Some(u64::from(space.error.is_some()))),
        )?;
        told.each(
            "vcycle_space_disk_full",
            "Whether nothing is created for want of room in the state directory",
            self.of_spaces(|space| Some(u64::from(space.disk_full))),
        )?;
        told.each(
            "vcycle_space_machines",
            "Machines of any state, whoever made them",
            self.of_spaces(|space| Some(space.report.space.machines)),
        )?;
        told.each(
            "vcycle_space_foreign_machines",
            "Machines of somebody else",
            self.of_spaces(|space| Some(space.report.space.foreign_machines)),
        )?;
        told.each(
            "vcycle_space_processors",
            "Processors of all machines",
            self.of_spaces(|space| Some(space.report.space.processors.get())),
        )?;
        told.each(
            "vcycle_space_machines_limit",
            "The most machines, by configuration and quota",
            self.of_spaces(|space| space.report.space.machines_limit),
        )?;
        told.each(
            "vcycle_space_processors_limit",
            "The most processors, by configuration and quota",
            self.of_spaces(|space| space.report.space.processors_limit),
        )
    }

    /// Samples of machinetypes; `figure` is also given the sums over the space.
    fn of_machinetypes<V>(
        &self,
        figure: impl Fn(&MachinetypeReport, &Sums) -> Option<V>,
    ) -> Vec<([Label; 2], V)> {
        let mut samples = Vec::new();
        for (name, space) in &self.status.spaces {
            let all = &space.report.machinetypes;
            let sums = Sums {
                weight: all.values().map(|report| report.weight).sum(),
                target: all.values().map(|report| report.target_share).sum(),
            };
            for (machinetype, report) in all {
                let labels = [of_space(name), of_machinetype(machinetype)];
                samples.extend(figure(report, &sums).map(|value| (labels, value)));
            }
        }
        samples
    }

    fn machinetypes(&self, told: &mut Told<'_, '_>) -> fmt::Result {
        let machines = self
            .status
            .spaces
            .iter()
            .flat_map(|(name, space)| by_phase(name, space));
        told.each(
            "vcycle_machines",
            "Machines of ours by state; those that have ended until they are forgotten",
            machines,
        )?;
        told.each(
            "vcycle_machinetype_target_share_ratio",
            "The part of the space that the machinetype is to have",
            self.of_machinetypes(|report, sums| ratio(report.target_share, sums.target)),
        )?;
        told.each(
            "vcycle_machinetype_share_ratio",
            "The part of what our machines in the space weigh that the machinetype has",
            self.of_machinetypes(|report, sums| ratio(report.weight, sums.weight)),
        )?;
        let now = self.now;
        told.each(
            "vcycle_machinetype_backoff_seconds",
            "How long no machine is made because one has aborted",
            self.of_machinetypes(|report, _| Some(backoff(&report.stopped_by, now).get())),
        )?;
        let blocked = self.status.spaces.iter().flat_map(|(name, space)| {
            let all = space.report.machinetypes.iter();
            all.map(move |(machinetype, report)| {
                let reason = ("reason", report.stopped_by.word().into());
                ([of_space(name), of_machinetype(machinetype), reason], 1_u64)
            })
        });
        told.each(
            "vcycle_machinetype_blocked_info",
            "Why no more machines are made",
            blocked,
        )
    }
}

struct Sums {
    weight: f64,
    target: f64,
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    Some(if whole > 0.0 { part / whole } else { 0.0 })
}

fn backoff(blocked: &Blocked, now: Timestamp) -> Seconds {
    if let Blocked::Backoff { until } = blocked {
        until.since(now)
    } else {
        Seconds::default()
    }
}

/// The machines of a space, counted; of configured machinetypes also those states that none is in.
fn by_phase(name: &SpaceName, space: &SpaceStatus) -> Vec<([Label; 3], u64)> {
    let mut counts: BTreeMap<(&MachinetypeName, Phase), u64> = BTreeMap::new();
    let known = space.report.machinetypes.keys();
    for machinetype in known.chain(space.machines.iter().map(|machine| &machine.machinetype)) {
        for phase in Phase::ALL {
            counts.entry((machinetype, phase)).or_default();
        }
    }
    for machine in space.machines.iter() {
        *counts
            .entry((&machine.machinetype, machine.phase))
            .or_default() += 1;
    }
    let samples = counts.into_iter().map(|((machinetype, phase), count)| {
        let state = ("state", phase.to_string().into());
        ([of_space(name), of_machinetype(machinetype), state], count)
    });
    samples.collect()
}

/// Where samples go.
struct Told<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Told<'_, '_> {
    fn one(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, None, gauge)?;
        metric.encode_gauge(&value)
    }

    fn each<K, V, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, K); N], V)>,
    ) -> fmt::Result
    where
        K: prometheus_client::encoding::EncodeLabelValue,
        V: EncodeGaugeValue,
    {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let gauge = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, None, gauge)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_calls_counters_by_their_whole_name() {
        let open = "# HELP a_things Things.\n# TYPE a_things counter\na_things_total{x=\"y\"} 1\n\
                    # HELP b B.\n# TYPE b gauge\n# UNIT b seconds\nb 2\n# EOF\n";
        let expected = "# HELP a_things_total Things.\n# TYPE a_things_total counter\n\
                        a_things_total{x=\"y\"} 1\n# HELP b B.\n# TYPE b gauge\nb 2\n";
        assert_eq!(classic(open), expected);
    }
}
