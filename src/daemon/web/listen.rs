//! Sockets: listening, accepting, and HTTP/1.1 on top.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::guard::Guard;
use super::{Context, GRACE, routes};

/// Connections at a time; the others wait in the system's queue. A page holds one or two, and a
/// monitoring system one.
const CONNECTIONS: usize = 64;

/// Connections that the system keeps for us.
const BACKLOG: u32 = 128;

/// The longest wait for the head of a request, also of the next one on the same connection.
const HEAD: Duration = Duration::from_secs(15);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// How long a reader may take nothing of what is sent to it, in milliseconds.
const STALLED: u32 = 30_000;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What all connections of a listener share.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub context: Arc<Context>,
    pub guard: Arc<Guard>,
    /// Ends the listener and its connections.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// Listens.
///
/// # Errors
/// What the system says.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()?
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until it is stopped, each in its own task.
pub(super) async fn accept(listener: TcpListener, place: Place) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = place.stop.cancelled() => return,
            accepted = async {
                let permit = Arc::clone(&places).acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (Ok(permit), Ok((stream, client))) => {
                let connection = serve(stream, client, place.clone());
                place.tasks.spawn(async move {
                    let _permit = permit;
                    connection.await;
                });
            }
            (Err(_), _) => return,
            (_, Err(error)) => {
                warn!(%error, "cannot accept a connection to the admin endpoint; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, place: Place) {
    // Nobody who does not read is waited for: without it a full buffer would wait for ever.
    let bounded = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED);
    if let Err(error) = bounded
        .map_err(io::Error::from)
        .and_then(|()| stream.set_nodelay(true))
    {
        debug!(%client, %error, "cannot set options of a connection");
    }
    let stop = place.stop.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let place = place.clone();
        async move {
            let stop = &place.stop;
            let answer = routes::answer(&request, client, &place.context, &place.guard, stop);
            Ok::<_, Infallible>(answer.await)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%client, %error, "a connection to the admin endpoint ended");
    }
}
