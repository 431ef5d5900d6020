//! What goes wrong in the embedded cloud when it is asked to be as bad as real ones:
//! `simulated_fault_percent` of the requests and of the VMs.
//!
//! This draws and describes; the [`super::http_server`] carries out what happens to a request and
//! the [`super::vm`] what becomes of a VM. What the cloud has stays true: a fault changes what is
//! said of it, or is something that happens to real servers.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::RETRY_AFTER;
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
const SLOWEST: u64 = 60;
/// The longest that the cloud asks to be left alone, in seconds.
const LONGEST_HOLD: u64 = 2;
/// What a proxy in front of the cloud says when it means something else.
const PAGE: &str =
    "<html><head><title>Please log in</title></head><body>Single sign-on</body></html>";

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is refused, and nothing is done.
    Refused(StatusCode),
    /// It is refused by a cloud that asks to be left alone for so long.
    Busy(StatusCode, Seconds),
    /// The connection ends before anything is done.
    RequestLost,
    /// It is done, and the connection ends before that is said.
    AnswerLost,
    /// It takes so long until it is done.
    Slow(Seconds),
    /// It is done; half of the answer is missing.
    Truncated,
    /// It is done; something else answers in HTML.
    Html,
    /// A listing has nothing in it.
    EmptyList,
    /// A listing is that of some time ago.
    StaleList,
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
            Self::Listing => &[Fault::EmptyList, Fault::StaleList],
            Self::Order => &[
                Fault::Refused(StatusCode::FORBIDDEN),
                Fault::Refused(StatusCode::CONFLICT),
            ],
            Self::Deletion => &[Fault::Refused(StatusCode::CONFLICT)],
            Self::Other => &[],
        }
    }
}

/// What can go wrong with every request. Times are the longest ones.
const COMMON: &[Fault] = &[
    Fault::Refused(StatusCode::UNAUTHORIZED),
    Fault::Refused(StatusCode::NOT_FOUND),
    Fault::Refused(StatusCode::INTERNAL_SERVER_ERROR),
    Fault::Refused(StatusCode::BAD_GATEWAY),
    Fault::Refused(StatusCode::SERVICE_UNAVAILABLE),
    Fault::Refused(StatusCode::GATEWAY_TIMEOUT),
    Fault::Busy(StatusCode::TOO_MANY_REQUESTS, Seconds::new(LONGEST_HOLD)),
    Fault::Busy(StatusCode::SERVICE_UNAVAILABLE, Seconds::new(LONGEST_HOLD)),
    Fault::RequestLost,
    Fault::AnswerLost,
    Fault::Slow(Seconds::new(SLOWEST)),
    Fault::Truncated,
    Fault::Html,
];

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
            Fault::Busy(status, most) => Fault::Busy(status, self.up_to(most)),
            Fault::Slow(most) => Fault::Slow(self.up_to(most)),
            Fault::Refused(_)
            | Fault::RequestLost
            | Fault::AnswerLost
            | Fault::Truncated
            | Fault::Html
            | Fault::EmptyList
            | Fault::StaleList => fault,
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
        match fault {
            Some(Fault::EmptyList) => answer.body = Some(json!({"servers": []})),
            Some(Fault::StaleList) => {
                if let Some(seen) = &state.seen
                    && seen.query == asked.query
                    && now.since(seen.at) <= MAX_AGE
                {
                    answer.body = Some(seen.body.clone());
                }
            }
            None
            | Some(
                Fault::Refused(_)
                | Fault::Busy(..)
                | Fault::RequestLost
                | Fault::AnswerLost
                | Fault::Slow(_)
                | Fault::Truncated
                | Fault::Html,
            ) => {
                state.seen = answer.body.clone().map(|body| Seen {
                    query: asked.query.clone(),
                    at: now,
                    body,
                });
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
        match self {
            Self::Refused(StatusCode::UNAUTHORIZED) => Some(Answer::unauthorized()),
            Self::Refused(StatusCode::NOT_FOUND) => Some(Answer::no_such_resource()),
            Self::Refused(StatusCode::FORBIDDEN) => Some(
                Refusal::Forbidden(
                    "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances"
                        .to_owned(),
                )
                .into(),
            ),
            Self::Refused(StatusCode::CONFLICT) => Some(
                Refusal::Conflict("There is a conflict with another request.".to_owned()).into(),
            ),
            Self::Refused(status) => Some(trouble(status)),
            Self::Busy(status, hold) => {
                Some(trouble(status).with_header(RETRY_AFTER, hold.get().to_string()))
            }
            Self::RequestLost
            | Self::AnswerLost
            | Self::Slow(_)
            | Self::Truncated
            | Self::Html
            | Self::EmptyList
            | Self::StaleList => None,
        }
    }

    /// How long the request waits before it is carried out.
    pub(super) const fn delay(self) -> Option<Seconds> {
        match self {
            Self::Slow(seconds) => Some(seconds),
            Self::Refused(_)
            | Self::Busy(..)
            | Self::RequestLost
            | Self::AnswerLost
            | Self::Truncated
            | Self::Html
            | Self::EmptyList
            | Self::StaleList => None,
        }
    }

    /// What arrives of an answer.
    pub(super) fn spoil(self, mut answer: Response<Bytes>) -> Response<Bytes> {
        match self {
            Self::Truncated => {
                let half = answer.body().len() / 2;
                answer.body_mut().truncate(half);
            }
            Self::Html => {
                *answer.status_mut() = StatusCode::OK;
                *answer.body_mut() = Bytes::from_static(PAGE.as_bytes());
                let html = HeaderValue::from_static("text/html");
                answer
                    .headers_mut()
                    .insert(http::header::CONTENT_TYPE, html);
            }
            Self::Refused(_)
            | Self::Busy(..)
            | Self::RequestLost
            | Self::AnswerLost
            | Self::Slow(_)
            | Self::EmptyList
            | Self::StaleList => {}
        }
        answer
    }
}

/// Nova's answer when something inside it is broken.
fn trouble(status: StatusCode) -> Answer {
    Answer::json(
        status,
        json!({"computeFault": {
            "code": status.as_u16(),
            "message": "The server has either erred or is incapable of performing the requested \
                        operation.",
        }}),
    )
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
                    Fault::Busy(status, hold) => {
                        assert!((1..=LONGEST_HOLD).contains(&hold.get()));
                        format!("busy {status}")
                    }
                    Fault::Slow(delay) => {
                        assert!((1..=SLOWEST).contains(&delay.get()));
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
        assert_eq!(say(Some(Fault::StaleList), 0, 3), 3, "nothing to be stale");
        assert_eq!(say(None, 0, 3), 3);
        assert_eq!(say(Some(Fault::EmptyList), 60, 4), 0);
        assert_eq!(say(Some(Fault::StaleList), 120, 5), 3);
        assert_eq!(say(Some(Fault::StaleList), 121, 5), 5, "too old");
        let order = asked(Method::POST, &["v2.1", "servers"]);
        let answer = faults.list(Some(Fault::EmptyList), &order, NOW, servers(2));
        assert_eq!(count(&answer), 2, "only listings");
    }

    #[test]
    fn refusals_say_what_they_are_and_spoilt_answers_are_of_no_use() {
        for fault in COMMON {
            let refused = matches!(fault, Fault::Refused(_) | Fault::Busy(..));
            assert_eq!(fault.refusal().is_some(), refused);
        }
        let busy = Fault::Busy(StatusCode::TOO_MANY_REQUESTS, Seconds::new(2));
        let answer = busy.refusal().unwrap();
        assert_eq!(answer.header, Some((RETRY_AFTER, "2".to_owned())));
        let good = || Response::new(Bytes::from_static(b"{\"servers\": []}"));
        for fault in [Fault::Truncated, Fault::Html] {
            let spoilt = fault.spoil(good());
            assert!(serde_json::from_slice::<Value>(spoilt.body()).is_err());
        }
        assert_eq!(Fault::EmptyList.spoil(good()).body(), good().body());
    }
}
