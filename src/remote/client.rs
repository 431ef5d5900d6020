//! The HTTPS client for remote servers: it shows the machinetype's certificate, if there is one,
//! and trusts the system's CAs and those of the site.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL};
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::x509::X509;
use reqwest::Identity;
use tokio::time::Instant;

use super::answer::{self, Answer, Head, Trouble};
use super::{About, Question};
use crate::clock::Clock;
use crate::cloud::http::{client_builder, is_this_host, text};
use crate::model::ShutdownMessage;

/// Until a connection stands, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A whole question: also the body of a server that sends a byte now and then.
pub const WHOLE: Duration = Duration::from_secs(30);
/// Idle connections are kept from one cycle to the next.
const IDLE: Duration = Duration::from_secs(75);
/// How long a client is used: CAs may have been added since.
const LIFE: Duration = Duration::from_secs(3600);
/// The same after trouble, which the new CAs may be meant to end.
const LIFE_IN_TROUBLE: Duration = Duration::from_secs(60);
/// A certificate or key is a few kB; what is larger is something else.
const MAX_FILE: u64 = 1024 * 1024;

/// All that one client can differ from another in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub ca_path: PathBuf,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub with_proxies: bool,
}

impl Kind {
    pub fn new(ca_path: &Path, identity: Option<(PathBuf, PathBuf)>, base: &url::Url) -> Self {
        Self {
            ca_path: ca_path.to_owned(),
            identity,
            with_proxies: !is_this_host(base),
        }
    }

    /// What tells that a file has been replaced since.
    fn versions(&self) -> Vec<Option<(u64, u64, i64, i64)>> {
        let files = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let version = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
        };
        files.map(version).collect()
    }
}

/// A client, and what it was made from.
#[derive(Debug)]
pub(super) struct Made {
    kind: Kind,
    versions: Vec<Option<(u64, u64, i64, i64)>>,
    when: Instant,
    client: Arc<reqwest::Client>,
}

impl Made {
    /// Makes a client. Blocks: it reads some hundred CA certificates.
    pub fn new(kind: Kind) -> Result<Self, Trouble> {
        let versions = kind.versions();
        let when = Instant::now();
        let mut builder = client_builder(&kind.ca_path)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .pool_idle_timeout(IDLE);
        if !kind.with_proxies {
            builder = builder.no_proxy();
        }
        if let Some((cert, key)) = &kind.identity {
            builder = builder.identity(identity(cert, key)?);
        }
        let client = builder.build().map_err(|error| {
            Trouble::Ours(format!("TLS cannot be set up: {}", text::causes(&error)))
        })?;
        Ok(Self {
            kind,
            versions,
            when,
            client: Arc::new(client),
        })
    }

    /// Whether it is still what `kind` asks for.
    pub fn is_good(&self, kind: &Kind, in_trouble: bool) -> bool {
        let life = if in_trouble { LIFE_IN_TROUBLE } else { LIFE };
        self.kind == *kind && self.when.elapsed() < life && self.versions == kind.versions()
    }

    pub fn client(&self) -> Arc<reqwest::Client> {
        Arc::clone(&self.client)
    }
}

/// The certificate with its chain, and the key, from one file or two.
fn identity(cert: &Path, key: &Path) -> Result<Identity, Trouble> {
    let wrong = |path: &Path, why: String| {
        let path = path.display();
        Trouble::Ours(format!("{path} cannot be used to show who we are: {why}"))
    };
    let read = |path: &Path| read_file(path).map_err(|error| wrong(path, error.to_string()));
    let (cert_pem, key_pem) = (read(cert)?, read(key)?);
    let openssl = |path: &'static str| move |error: ErrorStack| format!("{path}: {error}");
    let chain = X509::stack_from_pem(&cert_pem)
        .map_err(openssl("not a PEM certificate"))
        .map_err(|why| wrong(cert, why))?;
    let Some(own) = chain.first() else {
        return Err(wrong(cert, "there is no certificate in it".to_owned()));
    };
    // An encrypted key would ask for its password on a terminal.
    let private = PKey::private_key_from_pem_callback(&key_pem, |_| Ok(0))
        .map_err(openssl("no private key without a password"))
        .map_err(|why| wrong(key, why))?;
    let is_pair = own
        .public_key()
        .is_ok_and(|public| public.public_eq(&private));
    if !is_pair {
        let cert = cert.display();
        return Err(wrong(key, format!("it is not the key of {cert}")));
    }
    let both = || {
        let mut certificates = Vec::new();
        for certificate in &chain {
            certificates.extend(certificate.to_pem()?);
        }
        Ok::<_, ErrorStack>((certificates, private.private_key_to_pem_pkcs8()?))
    };
    let (certificates, private) = both().map_err(|error| wrong(cert, error.to_string()))?;
    Identity::from_pkcs8_pem(&certificates, &private)
        .map_err(|error| wrong(cert, text::causes(&error)))
}

/// A small file. What is no file is refused: opening a named pipe would wait for its writer.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Asks one question.
///
/// # Errors
/// When nothing was learnt.
pub(super) async fn ask(
    client: &reqwest::Client,
    question: &Question,
    clock: &Clock,
) -> Result<Answer, Trouble> {
    let lost = |error: reqwest::Error| Trouble::Unreachable(explain(&error));
    let request = match question.about {
        About::Heartbeat { .. } => client.head(question.url.clone()),
        About::Message => client.get(question.url.clone()),
    };
    let mut response = request
        .header(ACCEPT, "*/*")
        .header(CACHE_CONTROL, "no-cache")
        .send()
        .await
        .map_err(lost)?;
    let head = answer::head(response.status(), response.headers(), &question.url)?;
    match (head, question.about) {
        (Head::Missing, About::Heartbeat { .. }) => Ok(Answer::NoBeat),
        (Head::Missing, About::Message) => Ok(Answer::NoMessage),
        (Head::Found, About::Heartbeat { .. }) => {
            answer::beat(question.about, response.headers(), clock.now())
        }
        (Head::Found, About::Message) => {
            let mut body = Vec::new();
            // Only the first line counts; the rest of an endless body is left where it is.
            while body.len() < ShutdownMessage::MAX_BYTES
                && let Some(piece) = response.chunk().await.map_err(lost)?
            {
                body.extend_from_slice(&piece);
            }
            body.truncate(ShutdownMessage::MAX_BYTES);
            answer::message(&body)
        }
    }
}

/// What the network said, without the address, which differs from machine to machine.
fn explain(error: &reqwest::Error) -> String {
    if error.is_connect() && error.is_timeout() {
        format!("no connection within {} s", CONNECT.as_secs())
    } else if error.is_timeout() {
        format!("no complete answer within {} s", WHOLE.as_secs())
    } else {
        text::causes(error)
    }
}
