//! What is counted while it happens, for whoever scrapes the admin endpoint.
//!
//! Counting costs a lookup and an addition, and never waits. Labels are spaces, machinetypes and
//! words of this program, and never names of machines: there are as many series as the
//! configuration makes. Names and units follow the conventions of Prometheus.

mod api;
mod families;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;

pub use api::ApiOutcome;
use families::Families;

use crate::model::{MachinetypeName, SpaceName};

/// One label with its value.
pub type Label = (&'static str, Cow<'static, str>);

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After work.
    Finished,
    /// It said that there is no work, or was destroyed in a way that says so.
    Abort,
    /// An abort, because it ran for less than fizzle_seconds.
    Fizzle,
    /// It never ran.
    NeverRan,
}

impl End {
    const ALL: [Self; 4] = [Self::Finished, Self::Abort, Self::Fizzle, Self::NeverRan];

    const fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Abort => "abort",
            Self::Fizzle => "fizzle",
            Self::NeverRan => "never_ran",
        }
    }
}

/// What became of a connection to the HTTPS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It is served.
    Accepted,
    /// Its address has too many.
    Crowded,
}

/// What became of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It is done.
    Done,
    /// One of both did not like the other.
    Failed,
    /// It took too long.
    TimedOut,
}

/// All counters of one daemon. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Families>);

/// A label whose value is a word of this program.
pub const fn word(name: &'static str, value: &'static str) -> Label {
    (name, Cow::Borrowed(value))
}

/// The label of a space.
pub fn of_space(space: &SpaceName) -> Label {
    ("space", Cow::Owned(space.to_string()))
}

/// The label of a machinetype.
pub fn of_machinetype(machinetype: &MachinetypeName) -> Label {
    ("machinetype", Cow::Owned(machinetype.to_string()))
}

impl Metrics {
    /// Puts everything where it can be read.
    pub fn register(&self, registry: &mut Registry) {
        self.0.register(registry);
    }

    /// Begins the series of a machinetype at zero, so that the first machine is an increase.
    /// `reasons` are those that a machine can be destroyed for, and `failures` those that it may not
    /// be made for.
    pub fn expect(
        &self,
        space: &SpaceName,
        machinetypes: impl IntoIterator<Item = MachinetypeName>,
        (reasons, failures): (&[&'static str], &[&'static str]),
    ) {
        let all = &self.0;
        let space = of_space(space);
        let only = [space.clone()];
        drop(all.records.get_or_create(&only));
        for complete in [true, false] {
            drop(all.cycles.get_or_create(&[space.clone(), cycle(complete)]));
        }
        for machinetype in machinetypes {
            let machinetype = of_machinetype(&machinetype);
            let both = [space.clone(), machinetype.clone()];
            drop(all.created.get_or_create(&both));
            for end in End::ALL {
                let labels = [space.clone(), machinetype.clone(), ended(end)];
                drop(all.ended.get_or_create(&labels));
            }
            for &reason in reasons {
                let labels = for_reason(space.clone(), machinetype.clone(), reason);
                drop(all.destroyed.get_or_create(&labels));
            }
            for &reason in failures {
                let labels = for_reason(space.clone(), machinetype.clone(), reason);
                drop(all.create_failures.get_or_create(&labels));
            }
        }
    }

    /// The cloud agreed to make a machine.
    pub fn created(&self, space: &SpaceName, machinetype: &MachinetypeName) {
        let labels = [of_space(space), of_machinetype(machinetype)];
        self.0.created.get_or_create(&labels).inc();
    }

    /// A machine could not be made.
    pub fn create_failed(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        reason: &'static str,
    ) {
        let labels = for_reason(of_space(space), of_machinetype(machinetype), reason);
        self.0.create_failures.get_or_create(&labels).inc();
    }

    /// The cloud agreed to delete a machine.
    pub fn destroyed(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        reason: &'static str,
    ) {
        let labels = for_reason(of_space(space), of_machinetype(machinetype), reason);
        self.0.destroyed.get_or_create(&labels).inc();
    }

    /// A machine has ended.
    pub fn ended(&self, space: &SpaceName, machinetype: &MachinetypeName, end: End) {
        let labels = [of_space(space), of_machinetype(machinetype), ended(end)];
        self.0.ended.get_or_create(&labels).inc();
    }

    /// An accounting record was written.
    pub fn accounted(&self, space: &SpaceName) {
        self.0.records.get_or_create(&[of_space(space)]).inc();
    }

    /// A cycle of a space is over: complete, or ended early.
    pub fn cycle(&self, space: &SpaceName, complete: bool, took: Duration) {
        let labels = [of_space(space), cycle(complete)];
        self.0.cycles.get_or_create(&labels).inc();
        let seconds = self.0.cycle_seconds.get_or_create_owned(&[of_space(space)]);
        seconds.observe(took.as_secs_f64());
    }

    /// A request was sent to a cloud. `kind` comes of [`Metrics::kind`].
    pub fn api_request(
        &self,
        space: &SpaceName,
        kind: &'static str,
        outcome: ApiOutcome,
        took: Duration,
    ) {
        let labels = [
            of_space(space),
            word("kind", kind),
            word("outcome", outcome.word()),
        ];
        self.0.api_requests.get_or_create(&labels).inc();
        let seconds = self.0.api_seconds.get_or_create_owned(&[of_space(space)]);
        seconds.observe(took.as_secs_f64());
    }

    /// The kind of a request to a cloud, by its method, path and body.
    pub fn kind(method: &http::Method, path: &str, body: Option<&[u8]>) -> &'static str {
        api::kind(method, path, body)
    }

    /// Somebody connects to the HTTPS server.
    pub fn https_connection(&self, what: Connection) {
        let labels = [word("outcome", families::connection(what))];
        self.0.https_connections.get_or_create(&labels).inc();
    }

    /// The HTTPS server has one connection more.
    pub fn https_opened(&self) {
        self.0.https_open.inc();
    }

    /// The HTTPS server has one connection less.
    pub fn https_closed(&self) {
        self.0.https_open.dec();
    }

    /// A handshake is over.
    pub fn https_handshake(&self, what: Handshake) {
        let labels = [word("outcome", families::handshake(what))];
        self.0.https_handshakes.get_or_create(&labels).inc();
    }

    /// A request was answered.
    pub fn https_request(&self, method: &http::Method, status: http::StatusCode) {
        let labels = [
            word("method", families::method(method)),
            word("code", families::class(status)),
        ];
        self.0.https_requests.get_or_create(&labels).inc();
    }

    /// A file has come from a machine, of so many bytes.
    pub fn https_upload(&self, bytes: u64) {
        self.0.https_uploaded.inc_by(bytes);
    }
}

const fn for_reason(space: Label, machinetype: Label, reason: &'static str) -> [Label; 3] {
    [space, machinetype, word("reason", reason)]
}

fn cycle(complete: bool) -> Label {
    word("outcome", if complete { "complete" } else { "failed" })
}

fn ended(end: End) -> Label {
    word("outcome", end.word())
}
