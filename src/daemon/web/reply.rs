//! Answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::guard::Refusal;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers that go on, at a time.
pub(super) const STREAMS: usize = 16;

/// Answers that name every machine, at a time: with a hundred thousand each takes 30 MB until it has
/// been read.
pub(super) const LISTS: usize = 4;

/// So much of a long answer is handed to its connection at once.
const PIECE: usize = 64 * 1024;

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
    let Ok(place) = Arc::clone(&context.streams).try_acquire_owned() else {
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

/// A place for an answer that names every machine, if there is one.
pub(super) fn place_in(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok()
}

/// Says that there is none.
pub(super) fn crowded() -> Response<Body> {
    let why = "too many such answers are being read; ask again, or with machines=no";
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, why);
    let soon = HeaderValue::from_static("5");
    response.headers_mut().insert(header::RETRY_AFTER, soon);
    response
}

/// A long body that keeps its place until it has been read, but for its end.
pub(super) fn in_pieces(body: Bytes, place: OwnedSemaphorePermit) -> Body {
    Body::new(Pieces {
        rest: body,
        _place: place,
    })
}

struct Pieces {
    rest: Bytes,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.rest.len().min(PIECE);
        let piece = (length > 0).then(|| Ok(Frame::data(self.rest.split_to(length))));
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}

/// Says why a request is not answered. Only `people` are told how to show a password: a browser opens
/// its dialog by that, and would do so again and again for a page that tries by itself.
pub(super) fn refuse(refusal: Refusal, people: bool) -> Response<Body> {
    let (status, why) = refusal.told();
    let mut response = text(status, why);
    let headers = response.headers_mut();
    match refusal {
        Refusal::Token => {
            let basic = people.then_some("Basic realm=\"vcycle\", charset=\"UTF-8\"");
            for scheme in basic.into_iter().chain(["Bearer"]) {
                let scheme = HeaderValue::from_static(scheme);
                headers.append(header::WWW_AUTHENTICATE, scheme);
            }
        }
        Refusal::Method => {
            let allowed = HeaderValue::from_static("GET, HEAD");
            headers.insert(header::ALLOW, allowed);
        }
        Refusal::Body | Refusal::Host | Refusal::Site => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_answer_has_its_place_until_it_has_been_read() {
        let places = Arc::new(Semaphore::new(1));
        let place = place_in(&places).unwrap();
        let all = Bytes::from(vec![7; 2 * PIECE + 1]);
        let mut body = in_pieces(all.clone(), place);
        let length = hyper::body::Body::size_hint(&body).exact();
        assert_eq!(length, u64::try_from(all.len()).ok());
        let mut read = Vec::new();
        while let Some(piece) = body.frame().await {
            assert!(place_in(&places).is_none(), "it is being read");
            let piece = piece.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE);
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, all);
        drop(body);
        assert!(place_in(&places).is_some());
    }

    #[test]
    fn only_people_are_asked_for_a_password() {
        let schemes = |people| {
            let refused = refuse(Refusal::Token, people);
            refused
                .headers()
                .get_all(header::WWW_AUTHENTICATE)
                .iter()
                .count()
        };
        assert_eq!((schemes(true), schemes(false)), (2, 1));
    }
}
