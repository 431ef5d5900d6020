//! The local socket: what the daemon shows of itself, as JSON over HTTP, for commands on the same
//! host.
//!
//! It tells nothing that the state directory does not tell to everybody who may read it: no secret.
//! Its user and its group may ask ([`MODE`]). The only order that it takes is what to log.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::machines::MachineStatus;
use super::status::{Board, SpaceStatus, Status};
use crate::blocking;
use crate::clock::Clock;
use crate::model::{MachineName, SpaceName, Timestamp};
use crate::state::Disk;
use crate::telemetry::{LogLevel, levels};

/// Who may connect: the daemon's user and its group.
pub const MODE: u32 = 0o660;

/// Connections at a time; the others wait.
const CONNECTIONS: usize = 16;

/// The longest wait for a request on a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The whole status.
const STATUS: &str = "/v1/status";

/// What is put to change what is logged.
const LOG: &str = "/v1/log";

/// What is asked for in `?machines=no`: the same without each machine.
const WITHOUT_MACHINES: &str = "machines=no";

/// The status as it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The time by the daemon's clock: ages are counted from it.
    pub now: Timestamp,
    /// The status.
    #[serde(flatten)]
    pub status: Status,
}

/// One machine as it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToldMachine {
    /// The time by the daemon's clock.
    pub now: Timestamp,
    /// Its space.
    pub space: SpaceName,
    /// When the scan was that this is known from.
    pub last_scan: Option<Timestamp>,
    /// The machine.
    #[serde(flatten)]
    pub machine: MachineStatus,
}

/// The socket while it listens. Dropping it ends all connections.
#[derive(Debug)]
pub(super) struct AdminSocket {
    path: PathBuf,
    disk: Disk,
    _stop: DropGuard,
}

impl AdminSocket {
    /// Listens at `path`. The caller holds the lock of the state directory: a socket that is there
    /// was left by a daemon that is gone.
    ///
    /// # Errors
    /// When the file system or the system refuses.
    pub fn start(path: PathBuf, disk: &Disk, board: Board, clock: Clock) -> io::Result<Self> {
        let listener = UnixListener::from_std(disk.listen(&path, MODE)?)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared { board, clock });
        tokio::spawn(accept(listener, shared, stop.clone()));
        Ok(Self {
            path,
            disk: disk.clone(),
            _stop: stop.drop_guard(),
        })
    }

    /// Ends it, and removes its name.
    pub fn end(self) {
        if let Err(error) = self.disk.remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "left the socket behind");
        }
    }
}

#[derive(Debug)]
struct Shared {
    board: Board,
    clock: Clock,
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (Ok(place), Ok((stream, _))) => {
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tasks.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = serve(stream, shared) => {}
                    }
                });
            }
            (Err(_), _) => return,
            (_, Err(error)) => {
                warn!(%error, "cannot accept a connection on the local socket; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            // A status with a hundred thousand machines takes a while to write out.
            let answered = blocking::run(move || {
                if request.method() == Method::PUT && request.uri().path() == LOG {
                    return set_level(request.uri().query(), &shared.board.now());
                }
                let question = (
                    request.method(),
                    request.uri().path(),
                    request.uri().query(),
                );
                answer(question, &shared.board.now(), shared.clock.now())
            });
            Ok::<_, Infallible>(answered.await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(%error, "a connection on the local socket ended");
    }
}

/// Changes what is logged: `level=WORD`, and `space=NAME` for the cycles of one space.
fn set_level(query: Option<&str>, status: &Status) -> Response<Full<Bytes>> {
    let (mut level, mut space) = (None, None);
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "level" => level = LogLevel::from_str(&value, false).ok(),
            "space" => space = Some(SpaceName::new(value.as_ref())),
            _ => {}
        }
    }
    let Some(level) = level else {
        return refuse(StatusCode::BAD_REQUEST, "there is no such level");
    };
    let space = match space {
        None => None,
        Some(Ok(name)) if status.config.spaces.contains(&name) => Some(name),
        Some(_) => return refuse(StatusCode::NOT_FOUND, "there is no such space"),
    };
    if !levels::set(space.as_ref(), level.filter()) {
        return refuse(StatusCode::CONFLICT, "the log of this process is fixed");
    }
    let whose = space.map_or_else(String::new, |space| format!(" of space {space}"));
    info!("the log{whose} is at level {} from now on", level.word());
    json(&serde_json::json!({ "level": level.word() }))
}

/// Whether the answer to a question names every machine there is.
pub fn names_all_machines(path: &str, query: Option<&str>) -> bool {
    path == STATUS && query != Some(WITHOUT_MACHINES)
}

/// The answer to one question. Pure, so that whatever listens elsewhere can give the same.
pub fn answer(
    (method, path, query): (&Method, &str, Option<&str>),
    status: &Status,
    now: Timestamp,
) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    }
    match path {
        STATUS => {
            let status = if names_all_machines(path, query) {
                status.clone()
            } else {
                without_machines(status)
            };
            json(&Told { now, status })
        }
        _ => match path.strip_prefix("/v1/machines/") {
            Some(name) => match machine(status, name, now) {
                Some(told) => json(&told),
                None => refuse(StatusCode::NOT_FOUND, "there is no such machine"),
            },
            None => refuse(StatusCode::NOT_FOUND, "there is nothing here"),
        },
    }
}

fn without_machines(status: &Status) -> Status {
    let mut status = status.clone();
    for space in status.spaces.values_mut() {
        *space = Arc::new(SpaceStatus {
            machines: Arc::default(),
            ..SpaceStatus::clone(space)
        });
    }
    status
}

/// The machine of a name, if there is one.
pub(super) fn machine(status: &Status, name: &str, now: Timestamp) -> Option<ToldMachine> {
    let name = MachineName::new(name).ok()?;
    status.spaces.iter().find_map(|(space, of_space)| {
        let mut machines = of_space.machines.iter();
        let machine = machines.find(|machine| machine.name == name)?.clone();
        Some(ToldMachine {
            now,
            space: space.clone(),
            last_scan: of_space.last_scan,
            machine,
        })
    })
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => reply(StatusCode::OK, body),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "error": why });
    reply(status, body.to_string().into_bytes())
}

fn reply(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    let fresh = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, fresh);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::daemon::machines::{Messages, machine_statuses};
    use crate::decide::testing;
    use crate::model::MachineState;

    const NAME: &str = "vcycle-a-aaaaaaaaaa";

    fn status() -> Status {
        let machine = testing::machine(NAME, MachineState::Running, 1000);
        let snapshot = testing::snapshot(vec![machine.clone()]);
        let mut config = testing::space("max_machines = 1");
        for (name, options) in [("a", ""), ("b", "target_share = 0")] {
            let machinetype = testing::machinetype(name, options);
            let name = machinetype.name.clone();
            config.machinetypes.insert(name, machinetype);
        }
        let now = Timestamp::from_unix(5000);
        let plan = crate::decide::decide(&config, &snapshot, now, crate::rng::Seed(1));
        let machines = machine_statuses([&machine.files], Some(&snapshot), &Messages::new(), None);
        let space = SpaceStatus {
            machines: Arc::new(machines),
            report: plan.report,
            ..SpaceStatus::default()
        };
        let mut status = Status::default();
        status.spaces.insert(config.name, Arc::new(space));
        status
    }

    async fn ask(method: Method, path: &str, query: Option<&str>) -> (StatusCode, String) {
        let now = Timestamp::from_unix(6000);
        let response = answer((&method, path, query), &status(), now);
        let code = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_is_told_can_be_read_again() {
        let (code, body) = ask(Method::GET, "/v1/status", None).await;
        assert_eq!(code, StatusCode::OK);
        let told: Told = serde_json::from_str(&body).unwrap();
        assert_eq!(told.now, Timestamp::from_unix(6000));
        let (before, after) = (status(), told.status);
        for (name, space) in before.spaces {
            assert_eq!(after.spaces[&name].machines, space.machines);
            assert_eq!(after.spaces[&name].report, space.report);
        }
    }

    #[tokio::test]
    async fn machines_are_told_apart_and_left_out() {
        let (_, body) = ask(Method::GET, "/v1/status", Some("machines=no")).await;
        assert!(!body.contains(NAME), "{body}");
        let (code, body) = ask(Method::GET, &format!("/v1/machines/{NAME}"), None).await;
        let told: ToldMachine = serde_json::from_str(&body).unwrap();
        assert_eq!((code, told.machine.name.as_str()), (StatusCode::OK, NAME));
        for path in ["/v1/machines/vcycle-a-bbbbbbbbbb", "/v1/machines/../x", "/"] {
            assert_eq!(ask(Method::GET, path, None).await.0, StatusCode::NOT_FOUND);
        }
        let (code, _) = ask(Method::PUT, "/v1/status", None).await;
        assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED);
    }
}
