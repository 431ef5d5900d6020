//! `/v1/stream`: server-sent events. Each says only that the status has changed; a page then asks for
//! what it shows.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::reply::{self, Body};
use crate::daemon::Status;

/// The least time from one event to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// After so long without an event a comment shows that somebody is there, to the reader and to the
/// proxies on the way.
const QUIET: Duration = Duration::from_secs(15);

const CHANGED: &[u8] = b"event: status\ndata: changed\n\n";
const STILL_HERE: &[u8] = b": still here\n\n";

/// An event now, and one each time that the status has changed.
pub(super) fn changes(context: &Context, stop: &CancellationToken) -> Response<Body> {
    let mut board = context.board.subscribe();
    board.mark_changed();
    let start = (board, None);
    let events = stream::unfold(start, |(mut board, last)| async move {
        let piece = next(&mut board, last).await?;
        Some((piece, (board, Some(Instant::now()))))
    });
    reply::streaming(context, stop, "text/event-stream", events)
}

async fn next(board: &mut watch::Receiver<Status>, last: Option<Instant>) -> Option<Bytes> {
    if let Some(last) = last {
        tokio::time::sleep_until(last + PAUSE).await;
    }
    match tokio::time::timeout(QUIET, board.changed()).await {
        Ok(Ok(())) => {
            board.mark_unchanged();
            Some(Bytes::from_static(CHANGED))
        }
        Ok(Err(_)) => None,
        Err(_) => Some(Bytes::from_static(STILL_HERE)),
    }
}
