//! The TLS side of the server: certificates, trust, and when to read them again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, SslAcceptor, SslFiletype, SslMethod, SslOptions, SslSessionCacheMode, SslVersion,
    select_next_proto,
};
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use tokio::time::Instant;

use crate::config::ServerConfig;

/// HTTP/2 as ALPN names it.
pub const H2: &[u8] = b"h2";

/// What we speak, best first, in the wire format of ALPN.
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

/// How long a client's chain may be: CAs, and a proxy for each hand it went through.
const CHAIN_DEPTH: u32 = 20;

/// A store keeps what it has read for ever, and what a directory shows cannot tell every change
/// (a file may be overwritten within the granularity of its times): begin afresh now and then.
const STORE_AGE: Duration = Duration::from_secs(3600);

/// Why the TLS side cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or not understood.
    #[error("cannot use {what} {path}: {why}", path = path.display())]
    File {
        /// Which option of `[server]` names it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What OpenSSL or the system says.
        why: String,
    },
    /// OpenSSL refuses.
    #[error("cannot set up TLS: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// Certificate, key and trust of the server, kept up to date.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    ca_path: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    acceptor: SslAcceptor,
    /// What the files looked like at the last attempt, good or bad.
    seen: Seen,
    built: Instant,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .field("ca_path", &self.ca_path)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together. A missing directory of CAs is no
    /// error: it only means that nobody may write.
    pub fn new(config: &ServerConfig) -> Result<Self, TlsError> {
        let (cert, key, ca_path) = (&config.cert, &config.key, &config.ca_path);
        let seen = look(cert, key, ca_path);
        if seen.trust.is_empty() {
            tracing::warn!(
                ca_path = %ca_path.display(),
                "no CA certificates there; no VM can write to joboutputs until there are"
            );
        }
        Ok(Self {
            current: Mutex::new(Current {
                acceptor: build(cert, key, ca_path)?,
                seen,
                built: Instant::now(),
            }),
            cert: cert.clone(),
            key: key.clone(),
            ca_path: ca_path.clone(),
        })
    }

    /// What new connections use. Connections that exist keep what they began with.
    pub fn acceptor(&self) -> SslAcceptor {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.acceptor.clone()
    }

    /// Looks whether certificate, key, CAs or CRLs have changed and begins to use them. What is
    /// broken is said once, and what was there before stays in use.
    pub fn reload(&self) {
        let seen = look(&self.cert, &self.key, &self.ca_path);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = seen != current.seen;
        if !changed && current.built.elapsed() < STORE_AGE {
            return;
        }
        current.built = Instant::now();
        match build(&self.cert, &self.key, &self.ca_path) {
            Ok(acceptor) => {
                if seen.own != current.seen.own {
                    tracing::info!(cert = %self.cert.display(), "using the new certificate");
                }
                current.acceptor = acceptor;
            }
            Err(error) => {
                tracing::error!(%error, "keeping the certificate and the CAs in use until now");
            }
        }
        current.seen = seen;
    }
}

/// What tells one state of the files from another.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    own: [Option<Look>; 2],
    trust: Vec<(std::ffi::OsString, Option<Look>)>,
}

type Look = (u64, u64, i64, i64);

fn look(cert: &Path, key: &Path, ca_path: &Path) -> Seen {
    let one = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    let entries = fs::read_dir(ca_path).into_iter().flatten().flatten();
    let mut trust: Vec<_> = entries
        .map(|entry| (entry.file_name(), one(&entry.path())))
        .collect();
    trust.sort();
    Seen {
        own: [one(cert), one(key)],
        trust,
    }
}

fn build(cert: &Path, key: &Path, ca_path: &Path) -> Result<SslAcceptor, TlsError> {
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |error: ErrorStack| TlsError::File {
            what,
            why: why(&path, &error),
            path,
        }
    };
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder
        .set_certificate_chain_file(cert)
        .map_err(file("cert", cert))?;
    builder
        .set_private_key_file(key, SslFiletype::PEM)
        .map_err(file("key", key))?;
    builder.check_private_key().map_err(file("key", key))?;
    // A resumed session comes without the client's certificates, so its requests would be
    // nobody's: every connection makes a full handshake. VMs connect once in minutes; it is no loss.
    builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    // The names of all trusted CAs (hundreds, on the grid) are not sent: clients that have one
    // certificate show it without.
    builder.set_verify_cert_store(trust(ca_path)?)?;
    builder.set_verify_depth(CHAIN_DEPTH);
    builder.set_alpn_select_callback(|_, offered| {
        select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
    });
    Ok(builder.build())
}

/// CAs and CRLs of a directory with hashed names, read when they are needed.
fn trust(ca_path: &Path) -> Result<X509Store, TlsError> {
    let path = ca_path
        .to_str()
        .filter(|path| !path.contains('\0'))
        .ok_or_else(|| TlsError::File {
            what: "ca_path",
            path: ca_path.to_owned(),
            why: "the name is not UTF-8".to_owned(),
        })?;
    let mut store = X509StoreBuilder::new()?;
    store
        .add_lookup(X509Lookup::hash_dir())?
        .add_dir(path, SslFiletype::PEM)?;
    // CRL_CHECK_ALL: without it only the client's own certificate is looked up, and when that is
    // a proxy, a revoked user passes.
    store.set_flags(
        X509VerifyFlags::ALLOW_PROXY_CERTS
            | X509VerifyFlags::CRL_CHECK
            | X509VerifyFlags::CRL_CHECK_ALL,
    )?;
    Ok(store.build())
}

/// OpenSSL's reasons in one line; of a file that cannot be opened, what the system says.
fn why(path: &Path, error: &ErrorStack) -> String {
    if let Err(error) = fs::File::open(path) {
        return error.to_string();
    }
    let reasons: Vec<_> = error
        .errors()
        .iter()
        .filter_map(|one| one.reason())
        .collect();
    if reasons.is_empty() {
        io::Error::other("not understood").to_string()
    } else {
        reasons.join("; ")
    }
}
