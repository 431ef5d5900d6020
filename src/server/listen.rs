//! Sockets: listening, accepting, the handshake, and HTTP on top.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use openssl::ssl::SslVerifyMode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_openssl::SslStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerError;
use super::access::Received;
use super::identity::{Complaints, Credentials};
use super::limits::{PerAddress, Place, max_connections};
use super::occasionally::Occasionally;
use super::router::{Access, Client, Router};
use super::tls::{H2, Tls};
use crate::metrics::{self, Handshake, Metrics};
use crate::model::Timestamp;

/// A handshake takes two round trips; a client that needs longer is not coming.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// The longest wait for the head of a request, also of the next one on the same connection.
const HEAD: Duration = Duration::from_secs(30);

/// The most bytes of a request's head: names of machines and files are a few hundred.
const HEAD_BYTES: usize = 16 * 1024;

/// After this time a connection ends with the request it is in. A certificate that is revoked or
/// runs out is good for no longer than this on a connection that exists.
const CONNECTION_AGE: Duration = Duration::from_secs(10 * 60);

/// The longest time for the request it is in then: longer than any body that the router takes.
const LAST_REQUEST: Duration = Duration::from_secs(20 * 60);

/// Requests at a time on one connection of HTTP/2; a VM needs one.
const STREAMS: u32 = 16;

/// How often a silent connection of HTTP/2 is asked whether anybody is there, and how long the
/// answer may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);

/// Connections that the system keeps for us while we accept.
const BACKLOG: u32 = 1024;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A trouble that goes on is logged once in this time.
const REPEAT: Duration = Duration::from_secs(60);

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP over TLS.
    Https,
    /// HTTP in clear.
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Https => "https",
            Self::Http => "http",
        })
    }
}

/// The listeners and connections of one server, and how they are ended.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// All of them.
    pub tasks: TaskTracker,
    /// Closes the listeners and lets connections end after the request they are in.
    pub stop: CancellationToken,
    /// Ends connections where they are.
    pub abort: CancellationToken,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    router: Router,
    tls: Tls,
    life: Life,
    places: Arc<Semaphore>,
    per_address: PerAddress,
    metrics: Metrics,
    crowded: Occasionally<()>,
    failing: Occasionally<()>,
}

impl Shared {
    /// For one server.
    pub fn new(router: Router, tls: Tls, life: Life, metrics: Metrics) -> Self {
        let places = max_connections();
        Self {
            router,
            tls,
            life,
            metrics,
            places: Arc::new(Semaphore::new(places)),
            per_address: PerAddress::of(places),
            crowded: Occasionally::every(REPEAT),
            failing: Occasionally::every(REPEAT),
        }
    }

    /// When our certificate runs out.
    pub fn certificate_expires(&self) -> Option<Timestamp> {
        self.tls.expires()
    }

    /// Why the certificate and key in their places are not used, if they are not.
    pub fn refused_certificate(&self) -> Option<String> {
        self.tls.refused()
    }

    /// Looks for new certificates, CAs and CRLs.
    pub fn reload(&self) {
        self.tls.reload();
    }
}

/// Listens on all of `addresses`. A host without IPv6 cannot have `[::]`, which is among the
/// defaults: that is a warning as long as there is another address.
///
/// # Errors
/// When an address cannot be had.
pub fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<std::net::TcpListener>, ServerError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        match bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_no_ipv6(address, &error) && addresses.len() > 1 => {
                tracing::warn!(%address, %error, "this host has no IPv6; not listening there");
            }
            Err(source) => return Err(ServerError::Listen { address, source }),
        }
    }
    Ok(listeners)
}

/// The same listener for another runtime.
///
/// # Errors
/// When there are no more descriptors.
pub fn on(worker: &Handle, listener: &std::net::TcpListener) -> io::Result<TcpListener> {
    let _there = worker.enter();
    TcpListener::from_std(listener.try_clone()?)
}

fn is_no_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    use rustix::io::Errno;
    let no_family = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(|errno| errno.raw_os_error());
    address.is_ipv6()
        && address.ip().is_unspecified()
        && error
            .raw_os_error()
            .is_some_and(|code| no_family.contains(&code))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        // Else [::] takes IPv4 too, and 0.0.0.0 beside it fails.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Accepts connections until the server stops, each in its own task.
pub async fn accept(listener: TcpListener, protocol: Protocol, shared: Arc<Shared>) {
    loop {
        // When all places are taken, the rest wait in the system's queue.
        let accepted = tokio::select! {
            () = shared.life.stop.cancelled() => return,
            () = shared.life.abort.cancelled() => return,
            accepted = async {
                let place = Arc::clone(&shared.places).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (stream, address, place) = match accepted {
            (Ok(place), Ok((stream, address))) => (stream, address, place),
            (Err(_), _) => return,
            (_, Err(error)) => {
                if let Some(more) = shared.failing.due(()) {
                    tracing::error!(%error, more, "cannot accept a connection; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let free = shared.places.available_permits();
        let Some(own_place) = shared.per_address.enter(address.ip(), free) else {
            shared
                .metrics
                .https_connection(metrics::Connection::Crowded);
            if let Some(more) = shared.crowded.due(()) {
                tracing::warn!(client = %address, more, "too many connections from one address");
            }
            continue;
        };
        shared
            .metrics
            .https_connection(metrics::Connection::Accepted);
        let connection = Connection {
            address,
            shared: Arc::clone(&shared),
            place: own_place,
        };
        shared.life.tasks.spawn(async move {
            let _place = place;
            let _open = Open::new(&connection.shared.metrics);
            let aborted = connection.shared.life.abort.clone();
            tokio::select! {
                () = aborted.cancelled() => {}
                () = connection.serve(stream, protocol) => {}
            }
        });
    }
}

/// Counts a connection for as long as it lives.
struct Open(Metrics);

impl Open {
    fn new(metrics: &Metrics) -> Self {
        metrics.https_opened();
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.https_closed();
    }
}

struct Connection {
    address: SocketAddr,
    shared: Arc<Shared>,
    place: Place,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream, protocol: Protocol) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(client = %self.address, %error, "cannot set TCP_NODELAY");
        }
        match protocol {
            Protocol::Http => {
                self.place.begun();
                let client = self.client(Access::Plain);
                self.serve_http(stream, client, false).await;
            }
            Protocol::Https => {
                let handshake = tokio::time::timeout(HANDSHAKE, self.handshake(stream));
                let finished = tokio::select! {
                    () = self.shared.life.stop.cancelled() => return,
                    finished = handshake => finished,
                };
                match finished {
                    Ok(Ok((stream, credentials))) => {
                        self.place.begun();
                        self.shared.metrics.https_handshake(Handshake::Done);
                        let h2 = stream.ssl().selected_alpn_protocol() == Some(H2);
                        let client = self.client(Access::Tls(credentials));
                        self.serve_http(stream, client, h2).await;
                    }
                    // Scanners and health checks do this all day.
                    Ok(Err(error)) => {
                        self.shared.metrics.https_handshake(Handshake::Failed);
                        tracing::debug!(client = %self.address, error, "no TLS handshake");
                    }
                    Err(_) => {
                        self.shared.metrics.https_handshake(Handshake::TimedOut);
                        tracing::debug!(client = %self.address, "the TLS handshake took too long");
                    }
                }
            }
        }
    }

    fn client(&self, access: Access) -> Arc<Client> {
        Arc::new(Client {
            address: self.address,
            access,
        })
    }

    async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<(SslStream<TcpStream>, Credentials), String> {
        let (mut ssl, sessions) = self.shared.tls.begin().map_err(|error| error.to_string())?;
        let complaints = Complaints::default();
        let noted = complaints.clone();
        ssl.set_verify_callback(SslVerifyMode::PEER, move |good, context| {
            noted.note(good, context)
        });
        let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
        Pin::new(&mut stream)
            .accept()
            .await
            .map_err(|error| error.to_string())?;
        let credentials = sessions.credentials(&complaints, stream.ssl());
        Ok((stream, credentials))
    }

    async fn serve_http<S>(&self, stream: S, client: Arc<Client>, h2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (shared, client) = (Arc::clone(&shared), Arc::clone(&client));
            async move {
                let method = request.method().clone();
                let response = shared.router.answer(request, &client).await;
                shared.metrics.https_request(&method, response.status());
                if let Some(received) = response.extensions().get::<Received>() {
                    shared.metrics.https_upload(received.0);
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let builder = http_builder(h2);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.shared.life.stop.cancelled() => None,
            () = tokio::time::sleep(CONNECTION_AGE) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(LAST_REQUEST, connection).await {
                    Ok(ended) => ended,
                    Err(_) => Err("the last request took too long".into()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(client = %self.address, error, "the connection broke");
        }
    }
}

fn http_builder(h2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    // The protocol is known by now, so no time is spent on guessing it from the first bytes,
    // and the limit on the time for the head counts from the start.
    if h2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_share_a_port() {
        let v4 = bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let address: SocketAddr = format!("[::]:{port}").parse().unwrap();
        if let Err(error) = bind(address) {
            assert!(is_no_ipv6(address, &error), "{error}");
        }
        let taken = bind(v4.local_addr().unwrap()).unwrap_err();
        assert!(!is_no_ipv6(address, &taken), "{taken}");
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_an_error_that_names_it() {
        let elsewhere = ["127.0.0.1:0", "192.0.2.1:443"].map(|text| text.parse().unwrap());
        let error = bind_all(&elsewhere).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:443"), "{error}");
    }
}
