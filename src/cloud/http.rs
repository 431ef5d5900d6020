//! HTTP to clouds: one client for each space, with its manners.
//!
//! It sends, waits, counts and cleans; it does not know what a request means. It never follows a
//! redirect (a token would travel with it), never repeats anything but a read, and never shows a
//! query, a header or a request body.
//!
//! Invariants:
//! 1. At most [`MAX_AT_ONCE`] requests of a space are under way at once.
//! 2. Every request ends within [`HttpTimes::request`] of being sent; one that carries a file ends
//!    when none of the file has moved for so long, or when the answer does not come within
//!    [`HttpTimes::call`] after its end.
//! 3. A server that asked to be left alone (`Retry-After`) is left alone, by all requests.
//! 4. A [`Failure`] says whether the request can have reached the server.

pub(super) mod ca;
mod file;
mod network;
pub mod text;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

pub use self::file::FileBody;
pub use self::network::{
    Carried, Carrier, Network, Wires, client_builder, https_stays_https, is_this_host,
};

use super::{CloudError, CloudErrorKind, Outside};
use crate::clock::Clock;
use crate::metrics::{ApiOutcome, Metrics};
use crate::model::{Seconds, SpaceName, Timestamp};
use crate::rng::{Seed, Seeds};

/// Requests of one space that may be under way at once.
pub const MAX_AT_ONCE: usize = 10;
/// The largest good answer, in bytes: a page of 1,000 servers is about 2 MB.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// As much of a bad answer as is read, in bytes; people are shown a few hundred characters of it.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How often a read is sent at most.
const READ_ATTEMPTS: u32 = 3;
/// The longest `Retry-After` that is believed.
const MAX_RETRY_AFTER: Seconds = Seconds::new(900);
/// Idle connections are closed sooner than servers close them (Apache after 5 s), so that a create
/// is hardly ever lost on a connection that the server is just closing.
const IDLE: Duration = Duration::from_secs(4);
const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// How long things may take. Tests take less than the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimes {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// One request, from connecting to the last byte of the answer.
    pub request: Duration,
    /// One call of several requests, such as a listing of many pages.
    pub call: Duration,
    /// The longest `Retry-After` that a request waits for; a longer one is an error at once.
    pub longest_wait: Duration,
    /// The pause before a read is repeated; it doubles and is jittered.
    pub pause: Duration,
}

impl Default for HttpTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(90),
            call: Duration::from_secs(600),
            longest_wait: Duration::from_secs(10),
            pause: Duration::from_millis(500),
        }
    }
}

/// One request. It has no `Debug`, because bodies hold passwords and user_data.
pub struct Request {
    /// The method; [`Http::read`] is for those that change nothing.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// The value of `X-Auth-Token`.
    pub token: Option<HeaderValue>,
    /// Headers of a request that is signed with them: nothing is added then of what the carrier
    /// says of bodies and answers otherwise, that both are JSON.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
}

impl Request {
    /// What the request tries, for people: the method and the address without user and query.
    pub fn operation(&self) -> String {
        format!("{} {}", self.method, shown(&self.url))
    }
}

/// An address without user information, query and fragment.
pub fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// What came back, whatever the status.
pub struct Answer {
    /// What was tried.
    pub operation: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body: whole when the status is a success, else at most 64 KiB of it.
    pub body: Vec<u8>,
    /// How long the server asks to be left alone.
    pub retry_after: Option<Seconds>,
}

impl std::fmt::Debug for Answer {
    /// Leaves out headers and body: the answer to a login has the token in them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("operation", &self.operation)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// No usable answer came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub operation: String,
    /// How far it got.
    pub kind: FailureKind,
    /// The network's error.
    pub message: String,
}

/// How far a request without an answer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The server never saw it.
    NotSent,
    /// The server never saw it, and it took the whole time for connecting to find that out.
    ConnectTimedOut,
    /// It may have been carried out; the connection broke.
    Lost,
    /// It may have been carried out; the time was up.
    TimedOut,
    /// It was answered, with more than we are ready to read.
    TooLarge,
    /// It was not sent, because the server asked to be left alone for so long.
    Held(Seconds),
}

impl Failure {
    /// The error for a request that changes nothing on the cloud, or nothing that matters when it
    /// is done twice.
    pub fn into_error(self) -> CloudError {
        let kind = match self.kind {
            FailureKind::NotSent
            | FailureKind::ConnectTimedOut
            | FailureKind::Lost
            | FailureKind::TimedOut => CloudErrorKind::Transient,
            FailureKind::TooLarge => CloudErrorKind::Rejected,
            FailureKind::Held(wait) => CloudErrorKind::RateLimited {
                retry_after: Some(wait),
            },
        };
        CloudError::new(kind, self.operation, self.message)
    }
}

impl Answer {
    /// An error of `kind` with the status and the cloud's own message, in which none of `secrets`
    /// appears.
    pub fn error(&self, kind: CloudErrorKind, secrets: &[&str]) -> CloudError {
        let reason = self.status.canonical_reason().unwrap_or("");
        let mut message = format!("{} {reason}", self.status.as_u16());
        let said = text::readable(&self.body, secrets);
        let target = self
            .headers
            .get(LOCATION)
            .filter(|_| self.status.is_redirection())
            .and_then(|value| Url::parse(value.to_str().ok()?).ok());
        if let Some(target) = target {
            let target = text::one_line(&text::without(shown(&target), secrets));
            message.push_str(&format!(" to {target} (not followed)"));
        } else if !said.is_empty() {
            message = format!("{}: {said}", message.trim_end());
        }
        CloudError::new(kind, self.operation.clone(), message.trim_end())
    }

    /// What kind of error this answer is to a request that changes nothing on the cloud.
    pub fn read_kind(&self) -> CloudErrorKind {
        let retry_after = self.retry_after;
        match self.status.as_u16() {
            401 | 403 => CloudErrorKind::Auth,
            404 | 410 => CloudErrorKind::NotFound,
            429 => CloudErrorKind::RateLimited { retry_after },
            413 | 503 if retry_after.is_some() => CloudErrorKind::RateLimited { retry_after },
            408 | 500..=599 => CloudErrorKind::Transient,
            _ => CloudErrorKind::Rejected,
        }
    }

    /// An error about a good answer whose content is of no use.
    pub fn unreadable(&self, why: impl std::fmt::Display) -> CloudError {
        CloudError::new(
            CloudErrorKind::Rejected,
            self.operation.clone(),
            format!(
                "{} with {UNUSABLE}: {}",
                self.status,
                text::one_line(&why.to_string())
            ),
        )
    }
}

/// What is said of a good answer whose content is of no use, before why.
pub const UNUSABLE: &str = "an answer that cannot be used";

/// The client of one space. What it sends requests over may be shared with other spaces; the limits
/// are its own.
#[derive(Debug)]
pub struct Http {
    carrier: Arc<dyn Carrier>,
    seeds: Seeds,
    gate: Semaphore,
    times: HttpTimes,
    clock: Clock,
    space: SpaceName,
    metrics: Metrics,
    /// For each server that asked to be left alone: until when.
    holds: Mutex<BTreeMap<String, Instant>>,
}

impl Http {
    /// A client for the servers of `endpoint`'s cloud. Making one can cost a tenth of a second on a
    /// real network: keep it.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(
        space: &SpaceName,
        endpoint: &Url,
        outside: &Outside,
        times: HttpTimes,
    ) -> Result<Self, CloudError> {
        Ok(Self {
            carrier: outside.network.carrier(space, endpoint, outside, times)?,
            gate: Semaphore::new(MAX_AT_ONCE),
            times,
            clock: outside.clock.clone(),
            seeds: outside.seeds.clone(),
            space: space.clone(),
            metrics: outside.metrics.clone(),
            holds: Mutex::new(BTreeMap::new()),
        })
    }

    /// The times in force.
    pub const fn times(&self) -> HttpTimes {
        self.times
    }

    /// Ends `call`, which tries `what`, when it takes longer than [`HttpTimes::call`]: each request is
    /// bounded, but a cloud decides how many pages it has.
    ///
    /// # Errors
    /// Those of `call`; [`CloudErrorKind::Transient`] when the time is up.
    pub async fn in_time<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, CloudError>> + Send,
    ) -> Result<T, CloudError> {
        let limit = self.times.call;
        match tokio::time::timeout(limit, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CloudError::new(
                CloudErrorKind::Transient,
                format!("{what} of space {}", self.space),
                format!("not complete after {} s", limit.as_secs_f32()),
            )),
        }
    }

    /// Sends a request that changes nothing, again after a pause when the network or the server
    /// had trouble. A request that took all its time is not repeated: the next cycle is.
    ///
    /// # Errors
    /// As [`Http::send`], of the last attempt.
    pub async fn read(&self, request: &Request) -> Result<Answer, Failure> {
        let mut attempt = 1;
        loop {
            let outcome = self.send(request).await;
            if attempt >= READ_ATTEMPTS || !self.worth_another_try(&outcome) {
                return outcome;
            }
            let pause = self.times.pause.saturating_mul(1 << attempt);
            tokio::time::sleep(jittered(pause, self.seeds.draw())).await;
            attempt += 1;
        }
    }

    fn worth_another_try(&self, outcome: &Result<Answer, Failure>) -> bool {
        match outcome {
            Ok(answer) => {
                matches!(answer.status.as_u16(), 429 | 500 | 502 | 503 | 504)
                    && answer
                        .retry_after
                        .is_none_or(|wait| wait.to_duration() <= self.times.longest_wait)
            }
            Err(failure) => match failure.kind {
                FailureKind::NotSent | FailureKind::Lost => true,
                FailureKind::ConnectTimedOut
                | FailureKind::TimedOut
                | FailureKind::TooLarge
                | FailureKind::Held(_) => false,
            },
        }
    }

    /// Sends a request once.
    ///
    /// # Errors
    /// When no answer came back, or one that is too large.
    pub async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        self.deliver(request, None).await
    }

    /// Sends a request with a file for its body, once.
    ///
    /// # Errors
    /// When no answer came back, or one that is too large.
    pub async fn send_file(&self, request: &Request, file: &FileBody) -> Result<Answer, Failure> {
        self.deliver(request, Some(file)).await
    }

    async fn deliver(&self, request: &Request, file: Option<&FileBody>) -> Result<Answer, Failure> {
        self.wait_until_welcome(request).await?;
        let Ok(_permit) = self.gate.acquire().await else {
            return Err(failure(
                request,
                FailureKind::NotSent,
                "the client is closed",
            ));
        };
        let begun = Instant::now();
        let carried = match file {
            None => self.carrier.carry(request).await,
            Some(file) => self.carrier.carry_file(request, file).await,
        };
        self.count(request, &carried, begun.elapsed());
        let carried = carried?;
        let retry_after = self.retry_after(carried.status, &carried.headers);
        if let Some(wait) = retry_after {
            self.hold(&request.url, wait);
        }
        Ok(Answer {
            operation: request.operation(),
            status: carried.status,
            headers: carried.headers,
            body: carried.body,
            retry_after,
        })
    }

    fn count(&self, request: &Request, carried: &Result<Carried, Failure>, took: Duration) {
        let outcome = match carried {
            Ok(carried) => ApiOutcome::Answered(carried.status),
            Err(failure) => match failure.kind {
                FailureKind::NotSent | FailureKind::ConnectTimedOut | FailureKind::Held(_) => {
                    ApiOutcome::NotSent
                }
                FailureKind::Lost => ApiOutcome::Lost,
                FailureKind::TimedOut => ApiOutcome::TimedOut,
                FailureKind::TooLarge => ApiOutcome::TooLarge,
            },
        };
        let kind = Metrics::kind(&request.method, request.url.path(), request.body.as_deref());
        self.metrics.api_request(&self.space, kind, outcome, took);
    }

    /// Reads `Retry-After` where it means that the server has had enough.
    fn retry_after(&self, status: StatusCode, headers: &HeaderMap) -> Option<Seconds> {
        if !matches!(status.as_u16(), 413 | 429 | 503) {
            return None;
        }
        let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = match value.parse() {
            Ok(seconds) => Seconds::new(seconds),
            Err(_) => {
                let until = httpdate::parse_http_date(value).ok()?;
                Timestamp::from_system_time(until).since(self.clock.now())
            }
        };
        Some(wait.min(MAX_RETRY_AFTER))
    }

    fn hold(&self, url: &Url, wait: Seconds) {
        let until = Instant::now() + wait.to_duration();
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|_, until| *until > Instant::now());
        holds.insert(url.origin().ascii_serialization(), until);
    }

    async fn wait_until_welcome(&self, request: &Request) -> Result<(), Failure> {
        let origin = request.url.origin().ascii_serialization();
        let until = {
            let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            holds.get(&origin).copied()
        };
        let Some(until) = until else { return Ok(()) };
        let wait = until.saturating_duration_since(Instant::now());
        if wait > self.times.longest_wait {
            let seconds = wait.as_secs() + 1;
            return Err(failure(
                request,
                FailureKind::Held(Seconds::new(seconds)),
                format!("not sent: the server asked to be left alone for {seconds} s more"),
            ));
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }
}

fn failure(request: &Request, kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        operation: request.operation(),
        kind,
        message: message.into(),
    }
}

/// Between half of `pause` and the whole of it, so that spaces that failed together do not come
/// back together.
fn jittered(pause: Duration, seed: Seed) -> Duration {
    let draw = u32::try_from(seed.0 % 500).unwrap_or(0);
    pause.saturating_mul(500 + draw) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_shows_no_query_and_no_user() {
        let request = Request {
            method: Method::GET,
            url: Url::parse("https://me:pw@nova:8774/v2.1/servers?token=abc#x").unwrap(),
            token: None,
            body: None,
            headers: HeaderMap::new(),
        };
        assert_eq!(request.operation(), "GET https://nova:8774/v2.1/servers");
    }

    #[test]
    fn jitter_stays_between_half_and_the_whole() {
        let pause = Duration::from_millis(1000);
        for draw in 0..1000 {
            let drawn = jittered(pause, Seed(draw));
            assert!(drawn >= pause / 2 && drawn <= pause, "{drawn:?}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_bounded() {
        let clock = Clock::manual(Timestamp::from_unix(784_111_777));
        let space = SpaceName::new("s").unwrap();
        let http = Http::new(
            &space,
            &Url::parse("http://127.0.0.1/").unwrap(),
            &Outside::real(std::path::Path::new("/nonexistent"), clock),
            HttpTimes::default(),
        );
        let http = http.unwrap();
        let read = |status: u16, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            http.retry_after(status, &headers).map(Seconds::get)
        };
        assert_eq!(read(429, "7"), Some(7));
        assert_eq!(read(503, "Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(read(503, "Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(read(429, "99999999"), Some(900));
        assert_eq!(read(429, "soon"), None);
        assert_eq!(read(200, "7"), None);
    }
}
