//! Which path is answered by what.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::guard::Guard;
use super::reply::{self, Body};
use super::{Context, health, metrics};
use crate::blocking;
use crate::daemon::admin;

/// The answer to a request.
pub(super) async fn answer(
    asked: &Request<Incoming>,
    client: SocketAddr,
    context: &Arc<Context>,
    guard: &Guard,
    stop: &CancellationToken,
) -> Response<Body> {
    let mut response = match guard.admit(asked) {
        Ok(()) => route(asked, context, stop).await,
        Err(refusal) => {
            debug!(%client, ?refusal, "the admin endpoint does not answer");
            if let Some(more) = guard.complains(asked.headers(), refusal) {
                warn!(%client, more, "somebody asks the admin endpoint with a token that is not the one in admin_token");
            }
            reply::refuse(refusal, asks_for_people(asked.headers()))
        }
    };
    reply::harden(&mut response);
    response
}

/// Whether a request may come of a person who can be asked for a password. Scripts of the dashboard say
/// what they take, and nothing that a person would look at.
fn asks_for_people(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).map(HeaderValue::as_bytes);
    !matches!(accepted, Some(b"application/json" | b"text/event-stream"))
}

/// Each path there is.
async fn route(
    asked: &Request<Incoming>,
    context: &Arc<Context>,
    stop: &CancellationToken,
) -> Response<Body> {
    match asked.uri().path() {
        "/healthz" => health::alive(context).await,
        "/readyz" => health::ready(&context.board.now()),
        "/metrics" => metrics::scrape(asked.headers(), context).await,
        "/v1/stream" => {
            let messages = context.dashboard.messages();
            reply::streaming(context, stop, "text/event-stream", messages)
        }
        path => match context.dashboard.answer(asked).await {
            Some(answer) => answer,
            None if path.starts_with("/v1/") => told(asked, context).await,
            None => reply::text(StatusCode::NOT_FOUND, "there is nothing here"),
        },
    }
}

/// What the local socket tells, too.
async fn told(asked: &Request<Incoming>, context: &Arc<Context>) -> Response<Body> {
    let (method, uri) = (asked.method().clone(), asked.uri().clone());
    let place = if admin::names_all_machines(uri.path(), uri.query()) {
        match reply::place_in(&context.lists) {
            Some(place) => Some(place),
            None => return reply::crowded(),
        }
    } else {
        None
    };
    let context = Arc::clone(context);
    // A status with a hundred thousand machines takes a while to write out.
    let answered = blocking::run(move || {
        let question = (&method, uri.path(), uri.query());
        admin::answer(question, &context.board.now(), context.clock.now())
    });
    let (parts, body) = answered.await.into_parts();
    let body = match (place, body.into_inner()) {
        (Some(place), Some(bytes)) => reply::in_pieces(bytes, place),
        (_, bytes) => Full::new(bytes.unwrap_or_default()).boxed_unsync(),
    };
    Response::from_parts(parts, body)
}
