//! The counters themselves, with the names that they are told by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use http::{Method, StatusCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::series::Series;
use super::{Connection, Handshake, Label, word};
use crate::model::{MachinetypeName, SpaceName};

type Counters<const N: usize> = Family<[Label; N], Counter>;

/// Seconds of a cycle: of a few requests, or of thousands of them.
fn cycle_seconds() -> Histogram {
    Histogram::new([
        0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
    ])
}

/// Seconds of a request to a cloud, which may take 90.
fn api_seconds() -> Histogram {
    Histogram::new([
        0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 90.0,
    ])
}

#[derive(Debug)]
pub struct Families {
    pub created: Series<2, Counter>,
    pub create_failures: Series<3, Counter>,
    pub destroyed: Series<3, Counter>,
    pub ended: Series<3, Counter>,
    pub records: Series<1, Counter>,
    pub cycles: Series<2, Counter>,
    pub cycle_seconds: Series<1, Histogram>,
    pub api_requests: Series<3, Counter>,
    pub api_seconds: Series<1, Histogram>,
    pub https_connections: Counters<1>,
    pub https_open: Gauge,
    pub https_handshakes: Counters<1>,
    pub https_requests: Counters<2>,
    pub https_uploaded: Counter,
    /// The spaces and machinetypes that there are.
    pub expected: Mutex<BTreeMap<SpaceName, BTreeSet<MachinetypeName>>>,
}

impl Default for Families {
    fn default() -> Self {
        let new = Self {
            created: Series::new(Counter::default),
            create_failures: Series::new(Counter::default),
            destroyed: Series::new(Counter::default),
            ended: Series::new(Counter::default),
            records: Series::new(Counter::default),
            cycles: Series::new(Counter::default),
            cycle_seconds: Series::new(cycle_seconds),
            api_requests: Series::new(Counter::default),
            api_seconds: Series::new(api_seconds),
            https_connections: Family::default(),
            https_open: Gauge::default(),
            https_handshakes: Family::default(),
            https_requests: Family::default(),
            https_uploaded: Counter::default(),
            expected: Mutex::default(),
        };
        // What can be known beforehand begins at zero.
        for what in [Connection::Accepted, Connection::Crowded] {
            let label = word("outcome", connection(what));
            drop(new.https_connections.get_or_create(&[label]));
        }
        for what in [Handshake::Done, Handshake::Failed, Handshake::TimedOut] {
            let label = word("outcome", handshake(what));
            drop(new.https_handshakes.get_or_create(&[label]));
        }
        for method in ["GET", "PUT"] {
            for class in ["2xx", "4xx", "5xx"] {
                let labels = [word("method", method), word("code", class)];
                drop(new.https_requests.get_or_create(&labels));
            }
        }
        new
    }
}

impl Families {
    /// Forgets the series of a space, or of machinetypes of it that `is_over` is true of.
    pub fn forget(&self, space: &Label, is_over: Option<&dyn Fn(&Label) -> bool>) {
        let of_space = |found: &Label| found == space && is_over.is_none();
        let of_kind = |found: &Label, kind: &Label| {
            found == space && is_over.is_none_or(|is_over| is_over(kind))
        };
        self.created.forget(|[of, kind]| of_kind(of, kind));
        self.create_failures
            .forget(|[of, kind, _]| of_kind(of, kind));
        self.destroyed.forget(|[of, kind, _]| of_kind(of, kind));
        self.ended.forget(|[of, kind, _]| of_kind(of, kind));
        self.records.forget(|[of]| of_space(of));
        self.cycles.forget(|[of, _]| of_space(of));
        self.cycle_seconds.forget(|[of]| of_space(of));
        self.api_requests.forget(|[of, _, _]| of_space(of));
        self.api_seconds.forget(|[of]| of_space(of));
    }

    pub fn register(&self, registry: &mut Registry) {
        let Self {
            created,
            create_failures,
            destroyed,
            ended,
            records,
            cycles,
            cycle_seconds,
            api_requests,
            api_seconds,
            https_connections,
            https_open,
            https_handshakes,
            https_requests,
            https_uploaded,
            expected: _,
        } = self;
        registry.register(
            "vcycle_machines_created",
            "Machines that the cloud agreed to make",
            created.family(),
        );
        registry.register(
            "vcycle_machine_creation_failures",
            "Machines that could not be made",
            create_failures.family(),
        );
        registry.register(
            "vcycle_machines_destroyed",
            "Machines that the cloud agreed to delete",
            destroyed.family(),
        );
        registry.register(
            "vcycle_machines_ended",
            "Machines that have ended, by themselves or not",
            ended.family(),
        );
        registry.register(
            "vcycle_accounting_records",
            "Accounting records written",
            records.family(),
        );
        registry.register(
            "vcycle_cycles",
            "Cycles, complete or ended early",
            cycles.family(),
        );
        registry.register(
            "vcycle_cycle_duration_seconds",
            "How long cycles take",
            cycle_seconds.family(),
        );
        registry.register(
            "vcycle_api_requests",
            "Requests to clouds",
            api_requests.family(),
        );
        registry.register(
            "vcycle_api_request_duration_seconds",
            "How long requests to clouds take",
            api_seconds.family(),
        );
        registry.register(
            "vcycle_https_connections",
            "Connections to the HTTPS server",
            https_connections.clone(),
        );
        registry.register(
            "vcycle_https_open_connections",
            "Connections that the HTTPS server has now",
            https_open.clone(),
        );
        registry.register(
            "vcycle_https_handshakes",
            "TLS handshakes of the HTTPS server",
            https_handshakes.clone(),
        );
        registry.register(
            "vcycle_https_requests",
            "Requests to the HTTPS server",
            https_requests.clone(),
        );
        registry.register(
            "vcycle_https_received_bytes",
            "Bytes of the files that machines have written",
            https_uploaded.clone(),
        );
    }
}

pub const fn connection(what: Connection) -> &'static str {
    match what {
        Connection::Accepted => "accepted",
        Connection::Crowded => "crowded",
    }
}

pub const fn handshake(what: Handshake) -> &'static str {
    match what {
        Handshake::Done => "done",
        Handshake::Failed => "failed",
        Handshake::TimedOut => "timed_out",
    }
}

/// Clients may send any word for a method.
pub fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

pub fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
