//! The access log: one event for each request, at level debug with the target `vcycle::access`, so
//! that `VCYCLE_LOG=info,vcycle::access=debug` shows all of them. Refusals that an admin should hear
//! of are said without it.

use http::header::CONTENT_LENGTH;
use http::{Response, request};
use tokio::time::Instant;

use super::identity::Credentials;
use super::path::Target;
use super::reply::ReplyBody;
use super::router::{Access, Client};

/// The target of the events.
const TARGET: &str = "vcycle::access";

/// The longest path that goes into our log.
const LOGGED_PATH: usize = 600;

/// How many bytes of a file a client sent: put into the answer to an upload, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Received(pub u64);

/// The path of a request, cut to what a log can take.
pub fn path(head: &request::Parts) -> String {
    head.uri.path().chars().take(LOGGED_PATH).collect()
}

/// Who a client has proved to be; empty when nobody in particular.
pub fn dn(client: &Client) -> String {
    match &client.access {
        Access::Tls(Credentials::Verified(dn)) => dn.to_string(),
        Access::Plain | Access::Tls(Credentials::None | Credentials::Refused(_)) => String::new(),
    }
}

/// Notes one request and its answer. `bytes` are those of the file, whichever way it went.
pub fn note(
    head: &request::Parts,
    client: &Client,
    response: &Response<ReplyBody>,
    begun: Instant,
) {
    // Working out what nobody reads would cost as much as a small answer.
    if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        return;
    }
    let length = response.headers().get(CONTENT_LENGTH);
    let sent = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let received = response.extensions().get::<Received>();
    let bytes: u64 = received.map_or(sent.unwrap_or(0), |received| received.0);
    let machine = Target::parse(head.uri.path()).map(|target| target.machine.to_string());
    tracing::debug!(
        target: TARGET,
        client = %client.address,
        dn = dn(client),
        machine = machine.unwrap_or_default(),
        method = %head.method,
        path = path(head),
        status = response.status().as_u16(),
        bytes,
        seconds = begun.elapsed().as_secs_f64(),
        "request"
    );
}
