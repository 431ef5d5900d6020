//! The TLS side of the server: certificates, trust, and when to read them again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    AlpnError, Ssl, SslAcceptor, SslContext, SslFiletype, SslMethod, SslOptions,
    SslSessionCacheMode, SslVersion, select_next_proto,
};
use openssl::x509::X509;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use tokio::time::Instant;

use super::cas::nobody_is_trusted;
use super::sessions::{Sessions, timestamp};
use crate::clock::Clock;
use crate::config::ServerConfig;
use crate::model::Timestamp;

/// HTTP/2 as ALPN names it.
pub const H2: &[u8] = b"h2";

/// What we speak, best first, in the wire format of ALPN.
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

/// What our sessions are for; OpenSSL resumes none without, where clients show certificates.
const SESSION_CONTEXT: &[u8] = b"vcycled";

/// The most sessions without tickets. One takes some 20 KiB, for it has the client's certificates.
const CACHED_SESSIONS: i32 = 1024;

/// How long a client's chain may be: CAs, and a proxy for each hand it went through.
const CHAIN_DEPTH: u32 = 20;

/// A store keeps what it has read for ever, and what a directory shows cannot tell every change
/// (a file may be overwritten within the granularity of its times): begin afresh now and then.
/// Sessions begin afresh with it, so that the keys of their tickets are good for no longer.
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
    clock: Clock,
    current: Mutex<Current>,
}

struct Current {
    own: Own,
    /// Shows our certificate and trusts the CAs.
    context: SslContext,
    sessions: Arc<Sessions>,
    /// What the files looked like at the last attempt, good or bad.
    seen: Seen,
    /// Why the certificate or key in their places are not used, if they are not.
    refused: Option<String>,
    /// When CAs and CRLs were read anew.
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
    /// Reads certificate and key. `clock` tells when the sessions of clients run out.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together. A missing directory of CAs is no
    /// error: it only means that nobody may write.
    pub fn new(config: &ServerConfig, clock: Clock) -> Result<Self, TlsError> {
        let (cert, key, ca_path) = (&config.cert, &config.key, &config.ca_path);
        let seen = look(cert, key, ca_path);
        warn_of_missing_cas(ca_path);
        let own = Own::read(cert, key)?;
        let context = build(&own, ca_path)?;
        let sessions = Sessions::new(context.clone(), ca_path.clone(), clock.clone());
        Ok(Self {
            current: Mutex::new(Current {
                own,
                context,
                sessions: Arc::new(sessions),
                seen,
                refused: None,
                built: Instant::now(),
            }),
            cert: cert.clone(),
            key: key.clone(),
            ca_path: ca_path.clone(),
            clock,
        })
    }

    fn sessions(&self, context: &SslContext) -> Arc<Sessions> {
        let (ca_path, clock) = (self.ca_path.clone(), self.clock.clone());
        Arc::new(Sessions::new(context.clone(), ca_path, clock))
    }

    /// When our certificate, or one of the chain that is shown with it, runs out; `None` when that
    /// cannot be told.
    pub fn expires(&self) -> Option<Timestamp> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.own.expires()
    }

    /// For a new connection, with the sessions that it may resume. Connections that exist keep
    /// what they began with.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn begin(&self) -> Result<(Ssl, Arc<Sessions>), TlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.sessions.are_full() {
            // With other keys, so that nobody resumes who is not remembered.
            current.context = build(&current.own, &self.ca_path)?;
            current.sessions = self.sessions(&current.context);
        }
        let (context, sessions) = (current.context.clone(), Arc::clone(&current.sessions));
        drop(current);
        // As for a name that a client asks for: the first context keeps the tickets, the other
        // one has our certificate and the CAs.
        let mut ssl = Ssl::new(sessions.context())?;
        ssl.set_ssl_context(&context)?;
        Ok((ssl, sessions))
    }

    /// Why the certificate and key that are in their places are not used, if they are not: the ones
    /// before are.
    pub fn refused(&self) -> Option<String> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.refused.clone()
    }

    /// Looks whether certificate, key, CAs or CRLs have changed and begins to use them. A
    /// certificate that is broken is said once and tried again each time, and the one before stays
    /// in use.
    pub fn reload(&self) {
        let seen = look(&self.cert, &self.key, &self.ca_path);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let aged = current.built.elapsed() >= STORE_AGE;
        let new_own = seen.own != current.seen.own || current.refused.is_some();
        let new_trust = seen.trust != current.seen.trust || aged;
        if !new_own && !new_trust {
            return;
        }
        if new_own || aged {
            match Own::read(&self.cert, &self.key) {
                Ok(own) => {
                    current.own = own;
                    current.refused = None;
                    if new_own {
                        tracing::info!(cert = %self.cert.display(), "using the new certificate");
                    }
                }
                Err(error) => {
                    let why = format!("{error}; keeping the certificate in use until now");
                    if current.refused.as_ref() != Some(&why) {
                        tracing::error!("{why}, and trying again in each cycle");
                    }
                    current.refused = Some(why);
                }
            }
        }
        if seen.trust != current.seen.trust {
            warn_of_missing_cas(&self.ca_path);
        }
        match build(&current.own, &self.ca_path) {
            Ok(context) => {
                if new_trust {
                    current.sessions = self.sessions(&context);
                    current.built = Instant::now();
                }
                current.context = context;
            }
            Err(error) => tracing::error!(%error, "keeping the CAs and CRLs in use until now"),
        }
        current.seen = seen;
    }
}

/// What we show to clients.
struct Own {
    cert: X509,
    /// Leads from it towards a CA.
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl Own {
    fn read(cert_path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        let file = |what, path: &Path, why: String| TlsError::File {
            what,
            path: path.to_owned(),
            why,
        };
        let read =
            |what, path: &Path| fs::read(path).map_err(|error| file(what, path, error.to_string()));
        let pem = read("cert", cert_path)?;
        let mut certs = X509::stack_from_pem(&pem)
            .map_err(|error| file("cert", cert_path, why(&error)))?
            .into_iter();
        let none = || file("cert", cert_path, "no certificate in it".to_owned());
        let cert = certs.next().ok_or_else(none)?;
        // A key with a passphrase is refused; else OpenSSL would ask the terminal for it.
        let key = PKey::private_key_from_pem_callback(&read("key", key_path)?, |_| Ok(0))
            .map_err(|error| file("key", key_path, why(&error)))?;
        let public = cert
            .public_key()
            .map_err(|error| file("cert", cert_path, why(&error)))?;
        if !public.public_eq(&key) {
            let other = format!("it is not the key of {}", cert_path.display());
            return Err(file("key", key_path, other));
        }
        let chain = certs.collect();
        Ok(Self { cert, chain, key })
    }

    /// When the first of what is shown runs out; `None` when that cannot be told.
    fn expires(&self) -> Option<Timestamp> {
        let ends = std::iter::once(&self.cert).chain(&self.chain);
        let mut ends = ends.filter_map(|cert| timestamp(cert.not_after()).ok());
        let first = ends.next()?;
        Some(ends.fold(first, Timestamp::min))
    }
}

/// What tells one state of the files from another.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    own: [Option<Look>; 2],
    trust: Vec<(std::ffi::OsString, Option<Look>)>,
}

/// Inode, size, and the times of the last changes of content and of rights.
type Look = (u64, u64, [(i64, i64); 2]);

fn look(cert: &Path, key: &Path, ca_path: &Path) -> Seen {
    let one = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        let content = (found.mtime(), found.mtime_nsec());
        let rights = (found.ctime(), found.ctime_nsec());
        Some((found.ino(), found.size(), [content, rights]))
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

/// Whether certificate and key can be used; if so, when the certificate runs out, as far as that can
/// be told.
///
/// # Errors
/// When they cannot be read or do not belong together.
pub fn look_at_certificate(config: &ServerConfig) -> Result<Option<Timestamp>, TlsError> {
    let own = Own::read(&config.cert, &config.key)?;
    Ok(own.expires())
}

fn warn_of_missing_cas(ca_path: &Path) {
    if let Some(why) = nobody_is_trusted(ca_path) {
        tracing::warn!(
            "{why}; no VM can write to joboutputs with a certificate until that is mended, only with its token"
        );
    }
}

fn build(own: &Own, ca_path: &Path) -> Result<SslContext, TlsError> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_certificate(&own.cert)?;
    for cert in &own.chain {
        builder.add_extra_chain_cert(cert.clone())?;
    }
    builder.set_private_key(&own.key)?;
    builder.check_private_key()?;
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    // Takes a request from the system in one piece, not the head of each TLS record by itself.
    builder.set_read_ahead(true);
    // Sessions are in tickets and take no memory, but for clients of TLS 1.2 that take no tickets,
    // as curl. Most clients never resume: one ticket is enough.
    builder.set_num_tickets(1)?;
    builder.set_session_cache_mode(SslSessionCacheMode::SERVER);
    builder.set_session_cache_size(CACHED_SESSIONS);
    builder.set_session_id_context(SESSION_CONTEXT)?;
    // The names of all trusted CAs (hundreds, on the grid) are not sent: clients that have one
    // certificate show it without.
    builder.set_verify_cert_store(trust(ca_path)?)?;
    builder.set_verify_depth(CHAIN_DEPTH);
    builder.set_alpn_select_callback(|_, offered| {
        select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
    });
    Ok(builder.build().into_context())
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

/// OpenSSL's reasons in one line.
fn why(error: &ErrorStack) -> String {
    let reasons: Vec<_> = error
        .errors()
        .iter()
        .filter_map(|one| one.reason())
        .collect();
    match reasons.is_empty() {
        true => "not understood".to_owned(),
        false => reasons.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::rsa::Rsa;

    use super::*;
    use crate::state::Disk;

    fn write_certificate(path: &Path) {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(&key).unwrap();
        let (begin, end) = (Asn1Time::from_unix(0), Asn1Time::days_from_now(1));
        builder.set_not_before(&begin.unwrap()).unwrap();
        builder.set_not_after(&end.unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let cert = builder.build().to_pem().unwrap();
        let pem = [cert, key.private_key_to_pem_pkcs8().unwrap()];
        let tmp = path.parent().unwrap();
        let disk = Disk::default();
        disk.write(tmp, path, &pem.concat(), 0o600).unwrap();
    }

    fn tls(host: &Path, ca_path: &Path) -> Tls {
        let config = ServerConfig {
            listen: Vec::new(),
            http_listen: Vec::new(),
            cert: host.to_owned(),
            key: host.to_owned(),
            ca_path: ca_path.to_owned(),
            admin_listen: None,
            joboutputs_max_bytes: 1,
            joboutputs_max_bytes_per_machine: 1,
        };
        Tls::new(&config, Clock::manual(Timestamp::from_unix(0))).unwrap()
    }

    #[test]
    fn sessions_begin_anew_with_new_cas_and_when_too_many_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("host.pem");
        write_certificate(&host);
        let ca_path = dir.path().join("CAs");
        let tls = tls(&host, &ca_path);
        let sessions = || tls.begin().unwrap().1;
        let first = sessions();
        tls.reload();
        write_certificate(&host);
        tls.reload();
        assert!(Arc::ptr_eq(&first, &sessions()));
        fs::create_dir(&ca_path).unwrap();
        fs::File::create(ca_path.join("0.r0")).unwrap();
        tls.reload();
        let second = sessions();
        assert!(!Arc::ptr_eq(&first, &second));
        second.fill();
        let third = sessions();
        assert!(!Arc::ptr_eq(&second, &third));
        assert!(Arc::ptr_eq(&third, &sessions()));
    }

    #[test]
    fn a_certificate_that_was_refused_is_tried_again_until_it_is_good() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("host.pem");
        write_certificate(&host);
        let tls = tls(&host, &dir.path().join("CAs"));
        let good = fs::read(&host).unwrap();
        let disk = Disk::default();
        disk.write(dir.path(), &host, b"nothing", 0o600).unwrap();
        tls.reload();
        let refused = tls.refused().unwrap();
        assert!(refused.contains(host.to_str().unwrap()), "{refused}");
        // As if nothing had changed since, but for what cannot be seen.
        disk.write(dir.path(), &host, &good, 0o600).unwrap();
        tls.current.lock().unwrap().seen = look(&host, &host, &tls.ca_path);
        tls.reload();
        assert_eq!(tls.refused(), None);
        // New rights are seen too.
        let before = look(&host, &host, &tls.ca_path);
        fs::set_permissions(&host, fs::Permissions::from_mode(0o640)).unwrap();
        assert_ne!(look(&host, &host, &tls.ca_path), before);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_was_read_stays_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("host.pem");
        write_certificate(&host);
        let tls = tls(&host, &dir.path().join("CAs"));
        let sessions = || tls.begin().unwrap().1;
        let first = sessions();
        tls.reload();
        assert!(Arc::ptr_eq(&first, &sessions()));
        tokio::time::advance(STORE_AGE).await;
        tls.reload();
        assert!(!Arc::ptr_eq(&first, &sessions()));
    }
}
