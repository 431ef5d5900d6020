//! The HTTPS server: what VMs read (machinefeatures, jobfeatures, heartbeat lists) and write
//! (joboutputs).
//!
//! ```text
//! workers: listen -> tls -> sessions -> identity -> router -> path, files, joboutputs, reply
//! ```
//!
//! It serves the state directory and nothing else: whether a machine exists and who may write to
//! it is read from disk with each request, so it needs no word from the daemon and never sees a
//! cloud or a space. The same tree can be served by Apache, which calls [`cgi`] for
//! joboutputs. Invariants:
//!
//! 1. Anybody may read the features of a machine that exists, and heartbeat lists. Joboutputs are
//!    for the one whose certificate has exactly the subject in the machine's `https_x509dn`, and
//!    for the holder of the machine's token.
//! 2. Nothing outside the heartbeat lists and a machine's published directories can be read or
//!    written, by any path or symbolic link.
//! 3. A client's certificate never ends a handshake; it decides what the client may do.
//! 4. Everything that a client can make us hold is limited: connections, time, bytes, files.

mod access;
mod cas;
pub mod cgi;
mod files;
mod identity;
mod joboutputs;
mod limits;
mod listen;
pub(crate) mod occasionally;
mod offline;
mod path;
mod reply;
mod router;
mod sessions;
mod tls;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::DropGuard;

pub use cas::nobody_is_trusted;
pub use identity::{Credentials, end_entity};
pub use joboutputs::Limits;
pub use reply::ReplyBody;
pub use router::{Access, Client, Router};
pub use tls::{TlsError, look_at_certificate};

use crate::clock::Clock;
use crate::config::ServerConfig;
use crate::metrics::Metrics;
use crate::model::Timestamp;
use crate::state::Layout;
use listen::{Life, Protocol, Shared};
use workers::Workers;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address of `listen` or `http_listen`.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Certificate, key or CAs.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The threads cannot be had.
    #[error("cannot start the threads of the HTTPS server: {0}")]
    Threads(#[source] io::Error),
}

/// The running server. Dropping it ends it at once; [`Server::stop`] lets requests end first.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    life: Life,
    /// Ends connections where they are.
    _abort: DropGuard,
    _workers: Workers,
}

impl Server {
    /// Listens on all addresses of the configuration and serves `layout` from now on. Files that
    /// VMs send get the time of `clock`.
    ///
    /// # Errors
    /// When an address cannot be had, or the certificate cannot be used.
    pub async fn start(
        config: &ServerConfig,
        layout: Layout,
        clock: Clock,
    ) -> Result<Self, ServerError> {
        Self::start_counted(config, layout, clock, Metrics::default()).await
    }

    /// The same, with somebody who counts.
    ///
    /// # Errors
    /// When an address cannot be had, or the certificate cannot be used.
    pub async fn start_counted(
        config: &ServerConfig,
        layout: Layout,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, ServerError> {
        let tls = tls::Tls::new(config, clock.clone())?;
        let limits = Limits {
            file: config.joboutputs_max_bytes,
            machine: config.joboutputs_max_bytes_per_machine,
        };
        let life = Life::default();
        let router = Router::new(layout, clock, limits);
        let shared = Arc::new(Shared::new(router, tls, life.clone(), metrics));
        let workers = Workers::start().map_err(ServerError::Threads)?;
        // All listeners first: half a server is none.
        let mut listeners = Vec::new();
        for (protocol, addresses) in [
            (Protocol::Https, &config.listen),
            (Protocol::Http, &config.http_listen),
        ] {
            for listener in listen::bind_all(addresses)? {
                listeners.push((protocol, listener));
            }
        }
        let mut addresses = Vec::new();
        for (protocol, listener) in listeners {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, %protocol, "listening");
                addresses.push(address);
            }
            for worker in workers.handles() {
                let listener = listen::on(worker, &listener).map_err(ServerError::Threads)?;
                let accepting = listen::accept(listener, protocol, Arc::clone(&shared));
                life.tasks.spawn_on(accepting, worker);
            }
        }
        Ok(Self {
            addresses,
            shared,
            _abort: life.abort.clone().drop_guard(),
            life,
            _workers: workers,
        })
    }

    /// The addresses that it listens on, HTTPS before HTTP, with the real port where the
    /// configuration had port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether a server could start with `config` once this one has ended: its certificate, key and
    /// CAs can be used, and its ports are free, apart from those that are ours.
    ///
    /// # Errors
    /// When it could not.
    pub fn could_become(&self, config: &ServerConfig, clock: &Clock) -> Result<(), ServerError> {
        tls::Tls::new(config, clock.clone())?;
        let is_ours = |port| self.addresses.iter().any(|ours| ours.port() == port);
        for addresses in [&config.listen, &config.http_listen] {
            let others = addresses.iter().filter(|other| !is_ours(other.port()));
            listen::bind_all(&others.copied().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// When the certificate that it shows runs out, if that can be told.
    pub fn certificate_expires(&self) -> Option<Timestamp> {
        self.shared.certificate_expires()
    }

    /// Why the certificate and key in their places are not used, if they are not.
    pub fn refused_certificate(&self) -> Option<String> {
        self.shared.refused_certificate()
    }

    /// Looks for new certificates, CAs and CRLs; to be called every minute or so. Reads one
    /// directory and a few files. Connections that exist are not touched.
    pub fn reload(&self) {
        self.shared.reload();
    }

    /// Stops listening, lets requests that are under way end for at most `grace`, and ends.
    pub async fn stop(self, grace: Duration) {
        let tasks = &self.life.tasks;
        self.life.stop.cancel();
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = tasks.len(),
                "ending connections that are still busy"
            );
        }
    }
}
