//! Answers.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::guard::Refusal;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers that go on, at a time.
pub(super) const STREAMS: usize = 16;

/// What goes for all answers that say nothing else: nothing may load anything from here, nor show it
/// within a page of its own.
const STRICT: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("cross-origin-resource-policy", "same-origin"),
];

/// An answer that is there at once. `kind` is its Content-Type.
pub(super) fn whole(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    with(status, kind, Full::new(body.into()).boxed_unsync())
}

/// A line for people.
pub(super) fn text(status: StatusCode, line: &str) -> Response<Body> {
    whole(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// An answer that goes on until `pieces` ends, `stop` comes or the reader goes.
pub(super) fn streaming(
    context: &Context,
    stop: &CancellationToken,
    kind: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    let Ok(place) = std::sync::Arc::clone(&context.streams).try_acquire_owned() else {
        let why = "too many streams are being read";
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let frames = pieces.take_until(stop.clone().cancelled_owned());
    let frames = frames.map(move |piece| {
        let _until_the_stream_is_dropped = &place;
        Ok(Frame::data(piece))
    });
    with(StatusCode::OK, kind, StreamBody::new(frames).boxed_unsync())
}

/// Says why a request is not answered.
pub(super) fn refuse(refusal: Refusal) -> Response<Body> {
    let (status, why) = refusal.told();
    let mut response = text(status, why);
    let headers = response.headers_mut();
    match refusal {
        Refusal::Token => {
            // Browsers ask for a password by the first, and the user's name does not matter.
            for scheme in ["Basic realm=\"vcycle\", charset=\"UTF-8\"", "Bearer"] {
                let scheme = HeaderValue::from_static(scheme);
                headers.append(header::WWW_AUTHENTICATE, scheme);
            }
        }
        Refusal::Method => {
            let allowed = HeaderValue::from_static("GET, HEAD");
            headers.insert(header::ALLOW, allowed);
        }
        Refusal::Body | Refusal::Host => {}
    }
    response
}

/// Adds what goes for all answers.
pub(super) fn harden(response: &mut Response<Body>) {
    for (name, value) in STRICT {
        let entry = response.headers_mut().entry(HeaderName::from_static(name));
        entry.or_insert(HeaderValue::from_static(value));
    }
}

fn with(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
