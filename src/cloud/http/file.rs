//! A file as the body of a request: read as it is sent, a piece at a time, so that its size does
//! not matter to us.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::HttpTimes;
use crate::blocking;

/// How much is read at once, in bytes.
const PIECE: u64 = 256 * 1024;
/// How many pieces are read ahead of the network.
const AHEAD: usize = 2;
/// How often is looked whether anything moves.
const LOOK: Duration = Duration::from_millis(500);

/// An open file as it was when it was opened. Its clones share the count of what has been sent.
#[derive(Clone, Debug)]
pub struct FileBody {
    file: Arc<File>,
    size: u64,
    modified: SystemTime,
    sent: Arc<AtomicU64>,
}

impl FileBody {
    /// A file, which must have something in it.
    ///
    /// # Errors
    /// When it is no file, is empty, or cannot be looked at.
    pub fn new(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        if found.len() == 0 {
            return Err(io::Error::other("it is empty"));
        }
        Ok(Self {
            size: found.len(),
            modified: found.modified()?,
            file: Arc::new(file),
            sent: Arc::default(),
        })
    }

    /// The open file.
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// How many bytes it has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// When it was last changed.
    pub const fn modified(&self) -> SystemTime {
        self.modified
    }

    /// Whether it is as it was when it was opened.
    pub fn is_unchanged(&self) -> bool {
        let now = self.file.metadata();
        now.is_ok_and(|now| {
            now.len() == self.size && now.modified().is_ok_and(|then| then == self.modified)
        })
    }

    /// How many bytes the network has taken in the latest sending.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The body of one request. It needs a runtime, and ends reading when it is dropped.
    pub(super) fn stream(&self) -> Stream {
        self.sent.store(0, Ordering::Relaxed);
        let (sender, pieces) = mpsc::channel(AHEAD);
        tokio::spawn(read(Arc::clone(&self.file), self.size, sender));
        Stream {
            pieces,
            left: self.size,
            sent: Arc::clone(&self.sent),
        }
    }

    /// Waits until nothing has moved for too long, and says so.
    pub(super) async fn stall(&self, times: HttpTimes) -> String {
        let (mut seen, mut since) = (self.sent(), Instant::now());
        loop {
            tokio::time::sleep(LOOK.min(times.request)).await;
            let sent = self.sent();
            if sent != seen {
                (seen, since) = (sent, Instant::now());
            }
            let limit = if sent < self.size {
                times.request
            } else {
                times.call
            };
            if since.elapsed() >= limit {
                let seconds = limit.as_secs_f32();
                return format!(
                    "nothing moved for {seconds} s after {sent} of {} bytes",
                    self.size
                );
            }
        }
    }
}

/// Reads piece after piece until the end, an error, or nobody wants more.
async fn read(file: Arc<File>, size: u64, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(PIECE.min(size - offset)).unwrap_or(0);
        let source = Arc::clone(&file);
        let piece = blocking::run(move || {
            let mut piece = vec![0; length];
            source.read_exact_at(&mut piece, offset)?;
            Ok(Bytes::from(piece))
        });
        let piece = piece.await.map_err(explain);
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
        offset += PIECE;
    }
}

fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::other("the file became shorter while it was sent")
        }
        kind => io::Error::new(kind, format!("the file cannot be read: {error}")),
    }
}

/// See [`FileBody::stream`].
pub(super) struct Stream {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    sent: Arc<AtomicU64>,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.pieces.poll_recv(context).map(|piece| {
            let piece = piece?;
            if let Ok(piece) = &piece {
                let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                self.left = self.left.saturating_sub(length);
                self.sent.fetch_add(length, Ordering::Relaxed);
            }
            Some(piece.map(Frame::data))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
