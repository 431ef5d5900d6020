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
use rustix::net::sockopt::{set_socket_send_buffer_size, set_tcp_user_timeout};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::guard::Guard;
use super::pace::{Pace, Paced};
use super::places::{Place, Places};
use super::{Context, GRACE, routes};

/// Connections at a time; one more takes the place of one that does nothing ([`Places`]). A page holds
/// one or two, a browser up to six, and a monitoring system one.
const CONNECTIONS: usize = 64;

/// Connections that the system keeps for us.
const BACKLOG: u32 = 128;

/// The longest wait for the head of a request, also of the next one on the same connection. No usual
/// interval of scrapes: a connection that ends when it is used again looks like trouble.
const HEAD: Duration = Duration::from_secs(20);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// How long a reader may take nothing of what is sent to it, in milliseconds.
const STALLED: u32 = 30_000;

/// How fast one has to read: a modem could.
const PACE: Pace = Pace {
    patience: Duration::from_secs(30),
    least: 4096,
};

/// Bytes that the system keeps of an answer until they are taken. Left to itself it would keep
/// megabytes, which counted as taken.
const SEND_BUFFER: usize = 128 * 1024;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What all connections of a listener share.
#[derive(Clone, Debug)]
pub(super) struct Listener {
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
pub(super) async fn accept(listener: TcpListener, here: Listener) {
    let places = Places::new(CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            () = here.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection to the admin endpoint; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            () = here.stop.cancelled() => return,
            place = places.enter() => place,
        };
        let Some(place) = place else { return };
        let here = here.clone();
        here.tasks.clone().spawn(async move {
            tokio::select! {
                () = place.needed() => {
                    debug!(%client, "somebody else needs the place of a connection");
                }
                () = serve(stream, client, &here, &place) => {}
            }
        });
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, here: &Listener, place: &Place) {
    // Nobody who does not read is waited for: without it a full buffer would wait for ever.
    let bounded = set_tcp_user_timeout(&stream, STALLED)
        .and_then(|()| set_socket_send_buffer_size(&stream, SEND_BUFFER));
    if let Err(error) = bounded
        .map_err(io::Error::from)
        .and_then(|()| stream.set_nodelay(true))
    {
        debug!(%client, %error, "cannot set options of a connection");
    }
    let service = service_fn(|request: Request<Incoming>| {
        let answering = place.seat().answering();
        async move {
            let stop = &here.stop;
            let answer = routes::answer(&request, client, &here.context, &here.guard, stop);
            let answer = answer.await.map(|body| answering.until_sent(body));
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Paced::new(stream, PACE)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = here.stop.cancelled() => {
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
