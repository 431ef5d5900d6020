//! A connection that is given up when its client does not read.
//!
//! The system's own limit (`TCP_USER_TIMEOUT`) is for clients that take nothing at all. One that takes
//! a byte now and then would have a large answer kept in memory for as long as it likes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;

/// How fast a client has to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest that it may take to begin with.
    pub patience: Duration,
    /// Bytes a second from then on.
    pub least: u32,
}

/// What can be ended without what is still on its way.
pub(super) trait Abandon {
    /// Has the end, when it comes, be at once: the system would keep what has not been read, and go on
    /// sending it for as long as a little is taken.
    fn abandon(&self);
}

impl Abandon for TcpStream {
    fn abandon(&self) {
        if let Err(error) = set_socket_linger(self, Some(Duration::ZERO)) {
            debug!(%error, "what a client does not read is kept until it is gone");
        }
    }
}

/// A stream that keeps a client to its pace.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    /// When the client was first waited for with what is being written.
    since: Option<Instant>,
    /// What it has taken since then.
    taken: u64,
    timer: Pin<Box<Sleep>>,
}

impl<S: Abandon> Paced<S> {
    /// Nothing has been written yet.
    pub fn new(stream: S, pace: Pace) -> Self {
        Self {
            stream,
            pace,
            since: None,
            taken: 0,
            timer: Box::pin(tokio::time::sleep(pace.patience)),
        }
    }

    /// Looks at what came of a write.
    fn note(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if self.since.is_some() {
                let bytes = written.as_ref().map_or(0, |bytes| *bytes);
                self.taken = self
                    .taken
                    .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            }
            return Poll::Ready(written);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let earned = Duration::from_secs(self.taken / u64::from(self.pace.least.max(1)));
        let until = since + self.pace.patience + earned;
        if self.timer.deadline() != until {
            self.timer.as_mut().reset(until);
        }
        ready!(self.timer.as_mut().poll(context));
        self.stream.abandon();
        let why = format!(
            "the client has taken {} bytes in {} s",
            self.taken,
            since.elapsed().as_secs()
        );
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: Abandon + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Comes when everything has been written: from here on nothing is waited for.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.since = None;
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    impl Abandon for DuplexStream {
        fn abandon(&self) {}
    }

    const PACE: Pace = Pace {
        patience: Duration::from_secs(30),
        least: 100,
    };

    /// How long a client that reads `bytes` every ten seconds is sent to, if it is given up.
    async fn given_up_after(bytes: usize) -> Option<Duration> {
        let (server, mut client) = tokio::io::duplex(1000);
        let mut server = Paced::new(server, PACE);
        let begun = Instant::now();
        let reading = async {
            let mut buffer = vec![0; bytes];
            loop {
                tokio::time::sleep(Duration::from_secs(10)).await;
                client.read_exact(&mut buffer).await.unwrap();
            }
        };
        let writing = async {
            for _ in 0..100 {
                server.write_all(&[0; 1000]).await?;
            }
            server.flush().await
        };
        tokio::select! {
            () = reading => None,
            written = writing => written.err().map(|error| {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                begun.elapsed()
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_too_slowly_is_given_up_and_who_keeps_pace_is_not() {
        // A byte each ten seconds earns nothing.
        let after = given_up_after(1).await.unwrap();
        assert_eq!(after.as_secs(), 30);
        // Half of the pace: sixty seconds for what thirty are allowed for.
        let after = given_up_after(500).await.unwrap().as_secs();
        assert!((50..=70).contains(&after), "{after}");
        assert_eq!(given_up_after(1000).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_been_written_is_forgotten() {
        let (server, mut client) = tokio::io::duplex(1000);
        let mut server = Paced::new(server, PACE);
        let mut buffer = vec![0; 2000];
        for _ in 0..5 {
            let reading = async {
                tokio::time::sleep(Duration::from_secs(25)).await;
                client.read_exact(&mut buffer).await
            };
            let writing = async {
                server.write_all(&[0; 2000]).await?;
                server.flush().await
            };
            let (read, written) = tokio::join!(reading, writing);
            read.unwrap();
            written.unwrap();
        }
    }
}
