//! Who is connected, and who has to leave when somebody else wants to be.
//!
//! There are so many places and no more. When all are taken the newcomer gets the place of the client
//! that has been waited for the longest: one that has sent no whole request, or has got its answer
//! and neither asks again nor, perhaps, reads. Whoever is being answered keeps its place; how many of
//! those can take long is bounded elsewhere ([`super::reply`]). So neither a crowd that holds
//! connections nor browsers with many pages open keep a monitoring system from its answer: that
//! sends a request at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::reply::Body;

/// All places of a listener.
#[derive(Clone, Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Arc<Waiting>,
}

/// Connections whose clients are waited for.
#[derive(Debug, Default)]
struct Waiting {
    line: Mutex<Line>,
    /// Somebody has joined the line.
    joined: Notify,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    /// In the order in which the waiting began.
    all: BTreeMap<u64, CancellationToken>,
}

impl Waiting {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// So many.
    pub fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            waiting: Arc::default(),
        }
    }

    /// A place for one more connection; `None` when there will be none any more.
    pub async fn enter(&self) -> Option<Place> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            let leaves = self.waiting.line().all.pop_first();
            if let Some((_, leaves)) = &leaves {
                leaves.cancel();
            }
            tokio::select! {
                permit = Arc::clone(&self.free).acquire_owned() => break permit.ok()?,
                // One that leaves does so at once; else whoever is next to be waited for has to.
                () = self.waiting.joined.notified(), if leaves.is_none() => {}
            }
        };
        let place = Place {
            seat: Arc::new(Seat {
                waiting: Arc::clone(&self.waiting),
                number: Mutex::default(),
                leave: CancellationToken::new(),
            }),
            _permit: permit,
        };
        place.seat.wait();
        Some(place)
    }
}

/// The place of a connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    seat: Arc<Seat>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Comes back when somebody else needs the place.
    pub async fn needed(&self) {
        self.seat.leave.cancelled().await;
    }

    /// What says when the client is waited for.
    pub fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.seat)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.answer();
    }
}

/// Whether the client of a connection is waited for.
#[derive(Debug)]
pub(super) struct Seat {
    waiting: Arc<Waiting>,
    /// Its number in the line, while it stands there.
    number: Mutex<Option<u64>>,
    leave: CancellationToken,
}

impl Seat {
    fn wait(&self) {
        let mut line = self.waiting.line();
        let number = line.next;
        line.next = number.saturating_add(1);
        line.all.insert(number, self.leave.clone());
        *self.number() = Some(number);
        drop(line);
        self.waiting.joined.notify_one();
    }

    fn answer(&self) {
        let mut line = self.waiting.line();
        if let Some(number) = self.number().take() {
            line.all.remove(&number);
        }
    }

    /// Locked only while the line is.
    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request has come: the client is waited for again when what is returned is gone.
    pub fn answering(self: Arc<Self>) -> Answering {
        self.answer();
        Answering(self)
    }
}

/// While this is there the client is not waited for.
#[derive(Debug)]
pub(super) struct Answering(Arc<Seat>);

impl Answering {
    /// Stays as long as a body, which is gone when all of it has been handed to the connection.
    pub fn until_sent(self, body: Body) -> Body {
        Body::new(Sent {
            body,
            _answering: self,
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// A body that something goes with.
struct Sent {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_waited_for_the_longest_leaves_and_who_is_answered_stays() {
        let places = Places::new(3);
        let first = places.enter().await.unwrap();
        let second = places.enter().await.unwrap();
        let third = places.enter().await.unwrap();
        let answering = first.seat().answering();
        let leaves = tokio::spawn(async move {
            second.needed().await;
            drop(second);
        });
        let fourth = places.enter().await.unwrap();
        leaves.await.unwrap();
        assert!(!third.seat.leave.is_cancelled() && !first.seat.leave.is_cancelled());

        // Answered, the first is waited for after the others.
        drop(answering);
        let leaves = tokio::spawn(async move {
            third.needed().await;
            drop(third);
        });
        drop(places.enter().await.unwrap());
        leaves.await.unwrap();
        assert!(!fourth.seat.leave.is_cancelled() && !first.seat.leave.is_cancelled());
    }

    #[tokio::test]
    async fn while_all_are_answered_a_newcomer_waits() {
        let places = Places::new(1);
        let only = places.enter().await.unwrap();
        let answering = only.seat().answering();
        let newcomer = tokio::spawn({
            let places = places.clone();
            async move { places.enter().await.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!newcomer.is_finished());
        drop(answering);
        only.needed().await;
        drop(only);
        assert!(newcomer.await.unwrap());
        assert!(places.waiting.line().all.is_empty());
    }
}
