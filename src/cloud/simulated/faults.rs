//! What goes wrong in the embedded cloud when it is asked to be as bad as real ones:
//! `simulated_fault_percent` of the requests and of the VMs.
//!
//! This draws and describes; the [`super::http_server`] carries out what happens to a request and
//! the [`super::vm`] what becomes of a VM. What the cloud has stays true: a fault changes what is
//! said of it, or is something that happens to real servers.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::SimulatedOptions;
use crate::model::{Seconds, Timestamp};
use crate::rng::{Purpose, Seed};

use super::answer::{Answer, Asked};
use super::project::Refusal;

/// The most that a listing may lag behind, and the longest that an answer takes.
const MAX_AGE: Seconds = Seconds::new(120);
const SLOWEST: Seconds = Seconds::new(60);
/// The longest that the cloud asks to be left alone.
const LONGEST_HOLD: Seconds = Seconds::new(2);
const NO_QUOTA: &str =
    "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances";
const IN_THE_WAY: &str = "There is a conflict with another request.";
/// What a proxy in front of the cloud says when it means something else.
const PAGE: &str =
    "<html><head><title>Please log in</title></head><body>Single sign-on</body></html>";

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is refused, and nothing is done; the cloud may ask to be left alone for so long.
    Refused(StatusCode, Option<Seconds>),
    /// The connection ends before anything is done.
    RequestLost,
    /// It is done, and the connection ends before that is said.
    AnswerLost,
    /// It takes so long until it is done.
    Slow(Seconds),
    /// It is done, and the answer is of no use.
    Spoilt(Spoil),
    /// A listing is not what is there.
    Untrue(Untrue),
}

/// What arrives of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoil {
    /// Half of it.
    Truncated,
    /// Something else that answers in HTML.
    Html,
}

/// What a listing says that is not true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untrue {
    /// There is nothing.
    Empty,
    /// There is what there was some time ago.
    Stale,
}

/// What is wrong with a VM. It is kept with its server, so that a restart does not heal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// It stays in BUILD.
    NeverBuilt,
    /// It goes to ERROR instead of running.
    Fails,
    /// It runs, does nothing, and does not end.
    Hangs,
    /// It works and does not end, whatever it is told.
    NeverEnds,
    /// When it should end it is gone, without a word and from all listings.
    Vanishes,
}

impl Fate {
    const ALL: [Self; 5] = [
        Self::NeverBuilt,
        Self::Fails,
        Self::Hangs,
        Self::NeverEnds,
        Self::Vanishes,
    ];
}

/// Requests that differ in what can go wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Listing,
    Order,
    Deletion,
    Other,
}

impl Kind {
    fn of(asked: &Asked) -> Self {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        match (&asked.method, path.as_slice()) {
            (&Method::GET, ["v2.1", "servers", "detail"]) => Self::Listing,
            (&Method::POST, ["v2.1", "servers"]) => Self::Order,
            (&Method::DELETE, ["v2.1", "servers", _]) => Self::Deletion,
            _ => Self::Other,
        }
    }

    /// What can go wrong with such a request and with no other.
    const fn own(self) -> &'static [Fault] {
        match self {
            Self::Listing => &[Fault::Untrue(Untrue::Empty), Fault::Untrue(Untrue::Stale)],
            Self::Order => &[
                Fault::Refused(StatusCode::FORBIDDEN, None),
                Fault::Refused(StatusCode::CONFLICT, None),
            ],
            Self::Deletion => &[Fault::Refused(StatusCode::CONFLICT, None)],
            Self::Other => &[],
        }
    }
}

/// What can go wrong with every request. Times are the longest ones.
const COMMON: &[Fault] = &[
    refused(StatusCode::UNAUTHORIZED),
    refused(StatusCode::NOT_FOUND),
    refused(StatusCode::INTERNAL_SERVER_ERROR),
    refused(StatusCode::BAD_GATEWAY),
    refused(StatusCode::SERVICE_UNAVAILABLE),
    refused(StatusCode::GATEWAY_TIMEOUT),
    Fault::Refused(StatusCode::TOO_MANY_REQUESTS, Some(LONGEST_HOLD)),
    Fault::Refused(StatusCode::SERVICE_UNAVAILABLE, Some(LONGEST_HOLD)),
    Fault::RequestLost,
    Fault::AnswerLost,
    Fault::Slow(SLOWEST),
    Fault::Spoilt(Spoil::Truncated),
    Fault::Spoilt(Spoil::Html),
];

const fn refused(status: StatusCode) -> Fault {
    Fault::Refused(status, None)
}

/// How often something goes wrong, and the draws of it.
#[derive(Debug)]
pub(super) struct Dice {
    percent: u32,
    rng: ChaCha8Rng,
}

impl Dice {
    /// Dice for one purpose: other draws do not change these.
    pub(super) fn new(options: &SimulatedOptions, seed: Seed, purpose: Purpose) -> Self {
        Self {
            percent: options.fault_percent.min(100),
            rng: seed.stream(purpose),
        }
    }

    fn is_hit(&mut self) -> bool {
        self.percent > 0 && self.rng.random_ratio(self.percent, 100)
    }

    /// What is wrong with the next VM, if anything is.
    pub(super) fn fate(&mut self) -> Option<Fate> {
        if !self.is_hit() {
            return None;
        }
        let index = self.rng.random_range(0..Fate::ALL.len());
        Fate::ALL.get(index).copied()
    }

    fn fault(&mut self, kind: Kind) -> Option<Fault> {
        if !self.is_hit() {
            return None;
        }
        let own = kind.own();
        let index = self.rng.random_range(0..own.len() + COMMON.len());
        let fault = own.iter().chain(COMMON).nth(index).copied()?;
        Some(match fault {
            Fault::Refused(status, Some(most)) => Fault::Refused(status, Some(self.up_to(most))),
            Fault::Slow(most) => Fault::Slow(self.up_to(most)),
            Fault::Refused(_, None)
            | Fault::RequestLost
            | Fault::AnswerLost
            | Fault::Spoilt(_)
            | Fault::Untrue(_) => fault,
        })
    }

    fn up_to(&mut self, most: Seconds) -> Seconds {
        Seconds::new(self.rng.random_range(1..=most.get().max(1)))
    }
}

/// What goes wrong with the requests to one embedded cloud.
#[derive(Debug)]
pub(super) struct Faults(Mutex<State>);

#[derive(Debug)]
struct State {
    dice: Dice,
    /// The last listing that was right.
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    query: Vec<(String, String)>,
    at: Timestamp,
    body: Value,
}

impl Faults {
    pub(super) fn new(dice: Dice) -> Self {
        Self(Mutex::new(State { dice, seen: None }))
    }

    /// What goes wrong with this request, if anything does.
    pub(super) fn draw(&self, asked: &Asked) -> Option<Fault> {
        self.lock().dice.fault(Kind::of(asked))
    }

    /// What a listing says when it goes wrong, and remembers it when it does not. Other answers
    /// are left as they are.
    pub(super) fn list(
        &self,
        fault: Option<Fault>,
        asked: &Asked,
        now: Timestamp,
        mut answer: Answer,
    ) -> Answer {
        if Kind::of(asked) != Kind::Listing || answer.status != StatusCode::OK {
            return answer;
        }
        let mut state = self.lock();
        let Some(Fault::Untrue(untrue)) = fault else {
            state.seen = answer.body.clone().map(|body| Seen {
                query: asked.query.clone(),
                at: now,
                body,
            });
            return answer;
        };
        match untrue {
            Untrue::Empty => answer.body = Some(json!({"servers": []})),
            Untrue::Stale => {
                if let Some(seen) = &state.seen
                    && seen.query == asked.query
                    && now.since(seen.at) <= MAX_AGE
                {
                    answer.body = Some(seen.body.clone());
                }
            }
        }
        answer
    }

    /// A draw is complete or has not begun, whatever panicked meanwhile.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// The answer to a request that is refused.
    pub(super) fn refusal(self) -> Option<Answer> {
        let Self::Refused(status, hold) = self else {
            return None;
        };
        let answer = match status {
            StatusCode::UNAUTHORIZED => Answer::unauthorized(),
            StatusCode::NOT_FOUND => Answer::no_such_resource(),
            StatusCode::FORBIDDEN => Refusal::Forbidden(NO_QUOTA.to_owned()).into(),
            StatusCode::CONFLICT => Refusal::Conflict(IN_THE_WAY.to_owned()).into(),
            other => Answer::trouble(other),
        };
        Some(match hold {
            None => answer,
            Some(hold) => answer.with_header(RETRY_AFTER, hold.get().to_string()),
        })
    }

    /// What arrives of an answer.
    pub(super) fn spoil(self, mut answer: Response<Bytes>) -> Response<Bytes> {
        let Self::Spoilt(spoil) = self else {
            return answer;
        };
        match spoil {
            Spoil::Truncated => {
                let half = answer.body().len() / 2;
                answer.body_mut().truncate(half);
            }
            Spoil::Html => {
                *answer.status_mut() = StatusCode::OK;
                *answer.body_mut() = Bytes::from_static(PAGE.as_bytes());
                let html = HeaderValue::from_static("text/html");
                answer.headers_mut().insert(CONTENT_TYPE, html);
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix(1_000_000);

    fn dice(percent: u32) -> Dice {
        Dice {
            percent,
            rng: Seed(1).stream(Purpose::SimulatedFaults),
        }
    }

    fn asked(method: Method, path: &[&str]) -> Asked {
        Asked {
            method,
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            query: Vec::new(),
            token: None,
            body: Bytes::new(),
            uploaded: None,
        }
    }

    fn listing() -> Asked {
        asked(Method::GET, &["v2.1", "servers", "detail"])
    }

    fn servers(count: usize) -> Answer {
        Answer::json(StatusCode::OK, json!({"servers": vec![json!({}); count]}))
    }

    fn count(answer: &Answer) -> usize {
        let body = answer.body.as_ref().unwrap();
        body["servers"].as_array().unwrap().len()
    }

    #[test]
    fn so_many_go_wrong_and_in_every_way() {
        assert!((0..1000).all(|_| dice(0).fault(Kind::Other).is_none()));
        for (kind, ways) in [
            (Kind::Listing, COMMON.len() + 2),
            (Kind::Order, COMMON.len() + 2),
            (Kind::Deletion, COMMON.len() + 1),
            (Kind::Other, COMMON.len()),
        ] {
            let mut dice = dice(20);
            let drawn: Vec<_> = (0..10_000).filter_map(|_| dice.fault(kind)).collect();
            assert!((1800..2200).contains(&drawn.len()), "{}", drawn.len());
            let seen: std::collections::BTreeSet<String> = drawn
                .iter()
                .map(|fault| match fault {
                    Fault::Refused(status, Some(hold)) => {
                        assert!((1..=LONGEST_HOLD.get()).contains(&hold.get()));
                        format!("busy {status}")
                    }
                    Fault::Slow(delay) => {
                        assert!((1..=SLOWEST.get()).contains(&delay.get()));
                        "slow".to_owned()
                    }
                    other => format!("{other:?}"),
                })
                .collect();
            assert_eq!(seen.len(), ways, "{seen:?}");
        }
    }

    #[test]
    fn vms_meet_every_fate() {
        let mut dice = dice(50);
        let fates: Vec<_> = (0..200).filter_map(|_| dice.fate()).collect();
        assert!(Fate::ALL.iter().all(|fate| fates.contains(fate)));
        assert!((80..120).contains(&fates.len()), "{}", fates.len());
    }

    #[test]
    fn a_listing_is_empty_or_that_of_before() {
        let faults = Faults::new(dice(0));
        let at = |second| NOW + Seconds::new(second);
        let say = |fault, second, truth| {
            let answer = faults.list(fault, &listing(), at(second), servers(truth));
            count(&answer)
        };
        assert_eq!(
            say(Some(Fault::Untrue(Untrue::Stale)), 0, 3),
            3,
            "nothing to be stale"
        );
        assert_eq!(say(None, 0, 3), 3);
        assert_eq!(say(Some(Fault::Untrue(Untrue::Empty)), 60, 4), 0);
        assert_eq!(say(Some(Fault::Untrue(Untrue::Stale)), 120, 5), 3);
        assert_eq!(
            say(Some(Fault::Untrue(Untrue::Stale)), 121, 5),
            5,
            "too old"
        );
        let order = asked(Method::POST, &["v2.1", "servers"]);
        let answer = faults.list(Some(Fault::Untrue(Untrue::Empty)), &order, NOW, servers(2));
        assert_eq!(count(&answer), 2, "only listings");
    }

    #[test]
    fn refusals_say_what_they_are_and_spoilt_answers_are_of_no_use() {
        for fault in COMMON {
            let refused = matches!(fault, Fault::Refused(..));
            assert_eq!(fault.refusal().is_some(), refused);
        }
        let busy = Fault::Refused(StatusCode::TOO_MANY_REQUESTS, Some(Seconds::new(2)));
        let answer = busy.refusal().unwrap();
        assert_eq!(answer.header, Some((RETRY_AFTER, "2".to_owned())));
        let good = || Response::new(Bytes::from_static(b"{\"servers\": []}"));
        for spoil in [Spoil::Truncated, Spoil::Html] {
            let spoilt = Fault::Spoilt(spoil).spoil(good());
            assert!(serde_json::from_slice::<Value>(spoilt.body()).is_err());
        }
        assert_eq!(Fault::AnswerLost.spoil(good()).body(), good().body());
    }
}
