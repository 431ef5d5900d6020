//! The HTTP server of the embedded cloud. Every request passes [`Front::answer`] and no other
//! place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Asked, Next};
use super::faults::{Fault, Faults};
use super::project::Refusal;
use super::region::Region;
use super::storage::Written;
use super::vm::Vms;
use super::{compute, identity, images, volumes};

/// The largest request body: encoded user_data and metadata fit well.
const MAX_BODY: usize = 256 * 1024;
/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Pause after a connection could not be accepted (no free file descriptor, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What stands between the network and the project.
#[derive(Debug)]
pub(super) struct Front {
    pub region: Arc<Region>,
    /// What happens inside the servers; `None` when they are only looked at.
    pub vms: Option<Vms>,
    /// Knows what is on disk; `None` when nothing is written.
    pub written: Option<Written>,
    /// What goes wrong; `None` when nothing does.
    pub faults: Option<Faults>,
}

/// The connection ends instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is lost, as it was to be")]
struct Lost;

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    stop.clone()
        .run_until_cancelled_owned(async move {
            while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (front, stop) = (Arc::clone(&front), stop.clone());
                        tokio::spawn(async move {
                            stop.run_until_cancelled(serve_connection(stream, front))
                                .await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "simulated cloud: cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        })
        .await;
}

async fn serve_connection(stream: TcpStream, front: Arc<Front>) {
    let service = service_fn(move |request| {
        let front = Arc::clone(&front);
        async move {
            front
                .respond(request)
                .await
                .map(|answer| answer.map(Full::new))
        }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "simulated cloud: a connection ended early");
    }
}

impl Front {
    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Bytes>, Lost> {
        let asked = match read(request).await {
            Ok(asked) => asked,
            Err(refusal) => return Ok(response(&self.region, refusal.into())),
        };
        let fault = self.faults.as_ref().and_then(|faults| faults.draw(&asked));
        if let Some(fault) = fault {
            let what = asked.path.join("/");
            tracing::debug!(?fault, "simulated cloud: {} /{what}", asked.method);
        }
        self.respond_with(fault, &asked).await
    }

    /// Does what is asked, and answers, as well as the fault allows.
    async fn respond_with(
        &self,
        fault: Option<Fault>,
        asked: &Asked,
    ) -> Result<Response<Bytes>, Lost> {
        if fault == Some(Fault::RequestLost) {
            return Err(Lost);
        }
        if let Some(refusal) = fault.and_then(Fault::refusal) {
            return Ok(response(&self.region, refusal));
        }
        if let Some(Fault::Slow(delay)) = fault {
            self.region.clock.sleep(delay).await;
        }
        let mut answer = self.answer(asked);
        if let Some(next) = &answer.next {
            self.go_on(next).await;
        }
        if let Some(faults) = &self.faults {
            answer = faults.list(fault, asked, self.region.clock.now(), answer);
        }
        let answer = response(&self.region, answer);
        match fault {
            Some(Fault::AnswerLost) => Err(Lost),
            Some(fault) => Ok(fault.spoil(answer)),
            None => Ok(answer),
        }
    }

    /// Answers one request. This is the one place that each request passes.
    fn answer(&self, asked: &Asked) -> Answer {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        let region = &self.region;
        match (asked.method.as_str(), path.as_slice()) {
            ("GET", ["v3"]) => return identity::version(region),
            ("POST", ["v3", "auth", "tokens"]) => return identity::log_in(region, asked),
            _ => {}
        }
        let now = region.clock.now();
        if !region.access.admits(asked.token.as_deref(), now) {
            return Answer::unauthorized();
        }
        match path.as_slice() {
            ["v2.1", rest @ ..] => compute::answer(region, asked, rest),
            ["v2", "images", rest @ ..] => images::answer(region, asked, rest),
            ["v3", _, "volumes", rest @ ..] => volumes::answer(region, asked, rest),
            _ => Answer::no_such_resource(),
        }
    }

    /// Sets off what a request asked for, and waits until a restart would know of it, too.
    async fn go_on(&self, next: &Next) {
        if let Some(vms) = &self.vms {
            match next {
                Next::Boot(id) => vms.boot(id),
                Next::Remove(id) => vms.remove(id),
            }
        }
        if let Some(written) = &self.written {
            written.wait_for_all_changes().await;
        }
    }
}

async fn read(request: Request<Incoming>) -> Result<Asked, Refusal> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().split('/').filter(|part| !part.is_empty());
    let path = path.map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned());
    let path: Vec<String> = path.collect();
    let unreadable = |error: &dyn std::fmt::Display| {
        Refusal::BadRequest(format!("cannot read the request body: {error}"))
    };
    let (body, uploaded) = if images::is_upload(&parts.method, &path) {
        let size = measure(body).await.map_err(|error| unreadable(&error))?;
        (Bytes::new(), Some(size))
    } else {
        let body = Limited::new(body, MAX_BODY).collect().await;
        (body.map_err(|error| unreadable(&error))?.to_bytes(), None)
    };
    let query = parts.uri.query().unwrap_or_default();
    let token = parts.headers.get("x-auth-token");
    Ok(Asked {
        method: parts.method,
        path,
        query: url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        token: token
            .and_then(|token| token.to_str().ok())
            .map(str::to_owned),
        body,
        uploaded,
    })
}

/// Reads a body and keeps nothing of it.
async fn measure(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let data = frame?.into_data();
        size += data.map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
    }
    Ok(size)
}

fn response(region: &Region, answer: Answer) -> Response<Bytes> {
    let body = answer.body.map(|body| body.to_string()).unwrap_or_default();
    let empty = body.is_empty();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    if !empty {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some((name, value)) = answer.header
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(name, value);
    }
    let challenge = format!("Keystone uri=\"{}/v3\"", region.base);
    if answer.status == StatusCode::UNAUTHORIZED
        && let Ok(challenge) = HeaderValue::from_str(&challenge)
    {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
