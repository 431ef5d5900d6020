//! The dashboard: a page for a browser that shows what the daemon does, and what the page asks for.
//!
//! It only tells and takes no orders. Who may ask is decided by whoever listens.
//!
//! | path | what is there |
//! | --- | --- |
//! | `/`, `/dashboard/...` | the page ([`files`]) |
//! | `/v1/stream` | server-sent events: what has changed, at most once a second ([`stream`]) |
//! | `/v1/history?space=NAME` | machines and aborts over time, of all spaces without a name ([`history`]) |
//! | `/v1/machines?space=NAME` | the machines of a space, a page at a time ([`machines`]) |
//! | `/v1/machines/NAME/story` | the story of one machine ([`super::story`]) |
//!
//! Whatever a client asks for, an answer is bounded in size; a stream holds one message at a time.

mod files;
pub mod history;
pub mod machines;
mod overview;
pub mod stream;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use overview::{KindView, SpaceView, Why, overview};

use super::admin;
use super::status::Board;
use super::story::story;
use crate::blocking;
use crate::clock::Clock;
use crate::events::Recent;
use crate::model::{Seconds, SpaceName, Timestamp};
use crate::state::Store;
use history::{History, Sample};
use machines::Question;

/// An answer that is there at once.
pub type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The least time between two looks at the board for the history, in real time.
const LOOK: Duration = Duration::from_secs(1);

/// Answers a browser. Dropping it ends the keeping of the history.
#[derive(Debug)]
pub struct Dashboard {
    board: Board,
    clock: Clock,
    store: Arc<Store>,
    recent: watch::Receiver<Recent>,
    history: Arc<watch::Sender<History>>,
    keeping: OnceLock<DropGuard>,
}

impl Dashboard {
    /// One that keeps no history yet.
    pub fn new(
        (board, recent): (Board, watch::Receiver<Recent>),
        store: Arc<Store>,
        clock: Clock,
        interval: Seconds,
    ) -> Self {
        Self {
            board,
            clock,
            store,
            recent,
            history: Arc::new(watch::Sender::new(History::new(interval))),
            keeping: OnceLock::new(),
        }
    }

    /// Begins to keep the history, unless it has begun.
    pub fn begin(&self) {
        self.keeping.get_or_init(|| {
            let stop = CancellationToken::new();
            let (board, clock) = (self.board.clone(), self.clock.clone());
            let keeping = keep(board, clock, Arc::clone(&self.history));
            let until = stop.clone();
            tokio::spawn(async move { until.run_until_cancelled(keeping).await });
            stop.drop_guard()
        });
    }

    /// The answer to GET or HEAD, if the path is one of the dashboard's but that of the stream.
    pub async fn answer<B>(&self, asked: &Request<B>) -> Option<Reply> {
        let query = asked.uri().query().unwrap_or_default();
        match asked.uri().path() {
            "/v1/history" => Some(self.history(query)),
            "/v1/machines" => Some(self.machines(query).await),
            path => match story_of(path) {
                Some(name) => Some(self.story(name.to_owned()).await),
                None => files::file(path, asked.headers()),
            },
        }
    }

    /// What `/v1/stream` sends to one client, without end: whoever serves it ends it.
    pub fn messages(&self) -> impl Stream<Item = Bytes> + Send + use<> {
        stream::messages(stream::Sources {
            status: self.board.subscribe(),
            recent: self.recent.clone(),
            clock: self.clock.clone(),
            page: files::version(),
        })
    }

    fn history(&self, query: &str) -> Reply {
        let mut space = None;
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if name == "space" {
                space = SpaceName::new(&*value).ok();
                if space.is_none() {
                    return refuse(StatusCode::NOT_FOUND, "there is no such space");
                }
            }
        }
        let history = self.history.borrow();
        json(&ToldHistory {
            now: self.clock.now(),
            width: history.width(),
            samples: match &space {
                Some(space) => history.of_space(space),
                None => history.of_all(),
            },
            space,
        })
    }

    async fn machines(&self, query: &str) -> Reply {
        let question = match Question::parse(query) {
            Ok(question) => question,
            Err(problem) => return refuse(StatusCode::BAD_REQUEST, &problem),
        };
        let (status, now) = (self.board.now(), self.clock.now());
        // A hundred thousand take a while to sort.
        let found = blocking::run(move || machines::page(&status, &question, now));
        match found.await {
            Some(page) => json(&page),
            None => refuse(StatusCode::NOT_FOUND, "there is no such space"),
        }
    }

    async fn story(&self, name: String) -> Reply {
        let (status, now) = (self.board.now(), self.clock.now());
        let store = Arc::clone(&self.store);
        let told = blocking::run(move || {
            let told = admin::machine(&status, &name, now)?;
            Some(story(&told, &store))
        });
        match told.await {
            Some(story) => json(&story),
            None => refuse(StatusCode::NOT_FOUND, "there is no such machine"),
        }
    }
}

/// The name in `/v1/machines/NAME/story`.
fn story_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/v1/machines/")?;
    name.strip_suffix("/story")
}

/// The history as it is sent.
#[derive(Debug, Serialize)]
struct ToldHistory {
    now: Timestamp,
    space: Option<SpaceName>,
    width: Seconds,
    samples: Vec<Sample>,
}

/// Takes samples whenever the board changes, until it is stopped.
async fn keep(board: Board, clock: Clock, history: Arc<watch::Sender<History>>) {
    let mut changes = board.subscribe();
    loop {
        let status = changes.borrow_and_update().clone();
        history.send_modify(|history| {
            let spaces = status.spaces.iter();
            // Before its first pass nothing has been counted.
            let spaces = spaces.filter(|(_, space)| space.passes > 0);
            let spaces = spaces.map(|(name, space)| (name, space.as_ref()));
            history.note(clock.now(), spaces);
        });
        tokio::time::sleep(LOOK).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn full(body: Bytes) -> UnsyncBoxBody<Bytes, Infallible> {
    UnsyncBoxBody::new(Full::new(body).map_err(|never| match never {}))
}

fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(StatusCode::OK, full(body.into()), "application/json"),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> Reply {
    let body = serde_json::json!({ "error": why }).to_string();
    with_type(status, full(body.into()), "application/json")
}

fn with_type(
    status: StatusCode,
    body: UnsyncBoxBody<Bytes, Infallible>,
    kind: &'static str,
) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let fresh = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, fresh);
    let exact = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, exact);
    response
}
