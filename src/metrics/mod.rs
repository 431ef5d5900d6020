//! What is counted while it happens, for whoever scrapes the admin endpoint.
//!
//! Counting costs a lookup and an addition, and never waits. Labels are spaces, machinetypes and
//! words of this program, and never names of machines: there are as many series as the
//! configuration makes, and those of what has left it are forgotten. Names and units follow the conventions of Prometheus.

mod api;
mod families;
mod series;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
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

    /// Begins the series of a space and its machinetypes at zero, so that the first machine is an
    /// increase, and forgets those of machinetypes that are not among these. `reasons` are those that a
    /// machine can be destroyed for, and `failures` those that it may not be made for.
    pub fn expect(
        &self,
        space: &SpaceName,
        machinetypes: BTreeSet<MachinetypeName>,
        (reasons, failures): (&[&'static str], &[&'static str]),
    ) {
        let all = &self.0;
        let mut expected = all.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let known = expected.get(space);
        if known == Some(&machinetypes) {
            return;
        }
        let label = of_space(space);
        if known.is_some_and(|known| !known.is_subset(&machinetypes)) {
            let stays: BTreeSet<Label> = machinetypes.iter().map(of_machinetype).collect();
            all.forget(&label, Some(&|kind| !stays.contains(kind)));
        }
        all.records.at(std::array::from_ref(&label));
        for complete in [true, false] {
            all.cycles.at(&[label.clone(), cycle(complete)]);
        }
        for machinetype in &machinetypes {
            let machinetype = of_machinetype(machinetype);
            all.created.at(&[label.clone(), machinetype.clone()]);
            for end in End::ALL {
                all.ended
                    .at(&[label.clone(), machinetype.clone(), ended(end)]);
            }
            for &reason in reasons {
                let labels = for_reason(label.clone(), machinetype.clone(), reason);
                all.destroyed.at(&labels);
            }
            for &reason in failures {
                let labels = for_reason(label.clone(), machinetype.clone(), reason);
                all.create_failures.at(&labels);
            }
        }
        expected.insert(space.clone(), machinetypes);
    }

    /// Forgets the series of a space that has left the configuration.
    pub fn forget(&self, space: &SpaceName) {
        let mut expected = self
            .0
            .expected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        expected.remove(space);
        self.0.forget(&of_space(space), None);
    }

    /// The cloud agreed to make a machine.
    pub fn created(&self, space: &SpaceName, machinetype: &MachinetypeName) {
        let labels = [of_space(space), of_machinetype(machinetype)];
        self.0.created.at(&labels).inc();
    }

    /// A machine could not be made.
    pub fn create_failed(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        reason: &'static str,
    ) {
        let labels = for_reason(of_space(space), of_machinetype(machinetype), reason);
        self.0.create_failures.at(&labels).inc();
    }

    /// The cloud agreed to delete a machine.
    pub fn destroyed(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        reason: &'static str,
    ) {
        let labels = for_reason(of_space(space), of_machinetype(machinetype), reason);
        self.0.destroyed.at(&labels).inc();
    }

    /// A machine has ended.
    pub fn ended(&self, space: &SpaceName, machinetype: &MachinetypeName, end: End) {
        let labels = [of_space(space), of_machinetype(machinetype), ended(end)];
        self.0.ended.at(&labels).inc();
    }

    /// An accounting record was written.
    pub fn accounted(&self, space: &SpaceName) {
        self.0.records.at(&[of_space(space)]).inc();
    }

    /// A cycle of a space is over: complete, or ended early.
    pub fn cycle(&self, space: &SpaceName, complete: bool, took: Duration) {
        let labels = [of_space(space), cycle(complete)];
        self.0.cycles.at(&labels).inc();
        let seconds = self.0.cycle_seconds.at(&[of_space(space)]);
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
        self.0.api_requests.at(&labels).inc();
        let seconds = self.0.api_seconds.at(&[of_space(space)]);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(metrics: &Metrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_has_left_the_configuration_is_forgotten_and_the_rest_goes_on() {
        let metrics = Metrics::default();
        let [one, other] = ["one.org", "other.org"].map(|name| SpaceName::new(name).unwrap());
        let [a, b]: [MachinetypeName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let words = (&["heartbeat"][..], &["quota"][..]);
        let both = BTreeSet::from([a.clone(), b.clone()]);
        for space in [&one, &other] {
            metrics.expect(space, both.clone(), words);
            metrics.created(space, &a);
            metrics.created(space, &b);
            metrics.cycle(space, true, Duration::from_secs(1));
            let answered = ApiOutcome::Answered(http::StatusCode::OK);
            metrics.api_request(space, "read_server", answered, Duration::from_secs(1));
        }
        metrics.expect(&one, BTreeSet::from([a.clone()]), words);
        metrics.created(&one, &a);
        let text = scrape(&metrics);
        let of_a = "vcycle_machines_created_total{space=\"one.org\",machinetype=\"a\"} 2";
        assert!(text.contains(of_a), "{text}");
        assert!(
            !text.contains("space=\"one.org\",machinetype=\"b\""),
            "{text}"
        );
        assert!(
            text.contains("space=\"other.org\",machinetype=\"b\""),
            "{text}"
        );
        metrics.forget(&one);
        let text = scrape(&metrics);
        assert!(!text.contains("one.org"), "{text}");
        assert!(text.contains("vcycle_cycles_total{space=\"other.org\",outcome=\"complete\"} 1"));
        // One that comes back begins anew.
        metrics.expect(&one, both, words);
        let of_a = "vcycle_machines_created_total{space=\"one.org\",machinetype=\"a\"} 0";
        assert!(scrape(&metrics).contains(of_a));
    }
}
