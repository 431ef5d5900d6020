//! The admin endpoint: what the daemon shows of itself over plain HTTP at `admin_listen`, for
//! monitoring systems and browsers.
//!
//! ```text
//! listen -> guard -> routes -> reply
//! ```
//!
//! [`routes`] is the one place that says which path is answered by what. A path whose answer is
//! there at once returns [`reply::whole`] (or what [`super::admin::answer`] gives). One whose body
//! goes on for as long as somebody reads, such as server-sent events, makes a
//! [`Stream`](futures_util::Stream) of `Bytes` and returns [`reply::streaming`] with it: that counts
//! the reader among [`reply::STREAMS`] (with too many the answer is 503), ends the stream when the
//! listener ends, and leaves it to the system to end the connection of a reader who reads nothing.
//! [`super::dashboard`] is an example. What a route may need is in [`Context`]. A page that loads scripts sets
//! a `Content-Security-Policy` of its own; without one it gets the strictest.
//!
//! Invariants:
//!
//! 1. It only tells, and takes no orders: GET and HEAD, no bodies.
//! 2. Beyond this host it tells nothing to whoever does not show the token of the state directory;
//!    on it, nothing to a page of another site ([`guard`]).
//! 3. A port that cannot be had stops nothing else: it is tried again at each tick.

mod guard;
mod health;
mod listen;
mod metrics;
mod reply;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::Common;
use super::dashboard::Dashboard;
use super::status::Board;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::model::{Secret, WriteToken};
use crate::rng::Seeds;
use crate::state::{StateError, Store};
use crate::telemetry::Repeats;
use guard::Guard;

/// How long answers that are under way may take to end when the listener ends.
const GRACE: Duration = Duration::from_secs(1);

/// What [`Repeats`] calls troubles with the listener and with the token.
const LISTENER: &str = "admin endpoint";
const TOKEN: &str = "token of the admin endpoint";

/// What routes answer from.
#[derive(Debug)]
pub(super) struct Context {
    /// What the daemon shows.
    pub board: Board,
    /// The time.
    pub clock: Clock,
    /// Asks the driver whether it comes round.
    pub driver: mpsc::Sender<oneshot::Sender<()>>,
    /// The page, and what it asks for.
    pub dashboard: Dashboard,
    /// What has been counted.
    pub metrics: Metrics,
    /// Where records wait.
    pub store: Arc<Store>,
    /// Places for answers that go on.
    pub streams: Arc<Semaphore>,
}

/// What the driver is asked by [`health`].
#[derive(Debug)]
pub(super) struct Questions(mpsc::Receiver<oneshot::Sender<()>>);

impl Questions {
    /// Waits for a question and answers it.
    pub async fn answer(&mut self) {
        match self.0.recv().await {
            // Whoever has asked may have gone.
            Some(asker) => drop(asker.send(())),
            None => std::future::pending().await,
        }
    }
}

/// A listener, as long as it is wanted.
#[derive(Debug)]
struct Listening {
    guard: Arc<Guard>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The admin endpoint over the life of the daemon.
#[derive(Debug)]
pub(super) struct AdminEndpoint {
    wanted: Option<SocketAddr>,
    listening: Option<Listening>,
    context: Arc<Context>,
    seeds: Seeds,
}

/// Why it cannot listen.
#[derive(Debug, thiserror::Error)]
enum EndpointError {
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Token(#[from] StateError),
}

impl AdminEndpoint {
    /// One that does not listen yet, and what its driver has to answer.
    pub fn new(common: &Common) -> (Self, Questions) {
        let (driver, asked) = mpsc::channel(reply::STREAMS);
        let dashboard = Dashboard::new(
            (common.board.clone(), common.events.recent()),
            Arc::clone(&common.store),
            common.clock.clone(),
            common.interval,
        );
        let context = Context {
            board: common.board.clone(),
            clock: common.clock.clone(),
            driver,
            dashboard,
            metrics: common.metrics.clone(),
            store: Arc::clone(&common.store),
            streams: Arc::new(Semaphore::new(reply::STREAMS)),
        };
        let new = Self {
            wanted: None,
            listening: None,
            context: Arc::new(context),
            seeds: common.seeds.clone(),
        };
        (new, Questions(asked))
    }

    /// Once a tick: listens where it is wanted now, and looks whether the token has changed.
    pub async fn tend(&mut self, wanted: Option<SocketAddr>, repeats: &mut Repeats) {
        if wanted != self.wanted {
            self.stop().await;
            repeats.is_over(LISTENER);
            self.wanted = wanted;
        }
        match (&self.listening, wanted) {
            (Some(listening), _) => {
                if listening.guard.wants_token() {
                    self.renew(&listening.guard, repeats);
                }
            }
            (None, Some(address)) => match self.start(address).await {
                Ok(listening) => {
                    if let Some(count) = repeats.is_over(LISTENER) {
                        info!("the admin endpoint is there, after {count} cycle(s)");
                    }
                    self.listening = Some(listening);
                }
                Err(problem) => {
                    if repeats.is_news(LISTENER, &problem.to_string()) {
                        error!(
                            "cannot start the admin endpoint: {problem}; there are no metrics and no health checks over HTTP, and the next cycle tries again"
                        );
                    }
                }
            },
            (None, None) => {}
        }
    }

    async fn start(&self, address: SocketAddr) -> Result<Listening, EndpointError> {
        let refused = |source| EndpointError::Listen { address, source };
        let listener = listen::bind(address).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let guard = if address.ip().to_canonical().is_loopback() {
            info!("the admin endpoint is at http://{address}/");
            Guard::of_this_host()
        } else {
            let token = self.context.store.admin_token(&self.fresh_token())?;
            warn!(
                "the admin endpoint is at http://{address}/, in clear and not only for this host: it asks everybody for the token in {}",
                self.context.store.layout().admin_token().display()
            );
            Guard::with_token(token.hash)
        };
        let listening = Listening {
            guard: Arc::new(guard),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let place = listen::Place {
            context: Arc::clone(&self.context),
            guard: Arc::clone(&listening.guard),
            stop: listening.stop.clone(),
            tasks: listening.tasks.clone(),
        };
        self.context.dashboard.begin();
        listening.tasks.spawn(listen::accept(listener, place));
        Ok(listening)
    }

    fn fresh_token(&self) -> WriteToken {
        WriteToken::new(&Secret::new(self.seeds.secret()))
    }

    /// Takes over a token that an admin has changed or removed.
    fn renew(&self, guard: &Guard, repeats: &mut Repeats) {
        match self.context.store.admin_token(&self.fresh_token()) {
            Ok(token) => {
                repeats.is_over(TOKEN);
                if guard.renew(token.hash) {
                    let how = if token.is_new {
                        "the old one was no secret or was gone"
                    } else {
                        "an admin has changed it"
                    };
                    info!("the admin endpoint asks for another token from now on: {how}");
                }
            }
            Err(problem) => {
                if repeats.is_news(TOKEN, &problem.to_string()) {
                    error!("{problem}; the admin endpoint goes on with the token that it has");
                }
            }
        }
    }

    /// Stops listening, and ends what is under way.
    pub async fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.stop.cancel();
            listening.tasks.close();
            // What has not ended by then ends with its connection.
            let _late = tokio::time::timeout(GRACE, listening.tasks.wait()).await;
        }
    }
}
