//! What lies between a space and its cloud: the network, or a model of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::{
    AUTH_TOKEN, Failure, FailureKind, FileBody, HttpTimes, IDLE, MAX_BODY, MAX_ERROR_BODY, Request,
    ca, failure, text,
};
use crate::cloud::{CloudError, CloudErrorKind, Outside};
use crate::model::SpaceName;

/// Takes one request to a server and brings the answer back.
///
/// Contract: it sends what it is given at most once, comes back within a bounded time, follows no
/// redirect, and says of a request without an answer how far it got.
#[async_trait]
pub trait Carrier: Send + Sync + fmt::Debug {
    /// Carries one request.
    async fn carry(&self, request: &Request) -> Result<Carried, Failure>;

    /// Carries one request whose body is a file, for as long as that moves.
    async fn carry_file(&self, request: &Request, _: &FileBody) -> Result<Carried, Failure> {
        let why = "files are not carried here";
        Err(failure(request, FailureKind::NotSent, why))
    }
}

/// What a [`Carrier`] brings back, whatever the status. It has no `Debug`, because the answer to a
/// login has the token in its headers.
pub struct Carried {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body: whole when the status is a success, else at most 64 KiB of it.
    pub body: Vec<u8>,
}

/// What carries the requests of spaces.
#[derive(Clone, Debug)]
pub enum Network {
    /// The network of this host.
    Real(Wires),
    /// Something else in its place: a simulation.
    Replaced(Arc<dyn Carrier>),
}

impl Default for Network {
    fn default() -> Self {
        Self::Real(Wires::default())
    }
}

impl Network {
    /// The carrier for one space. On the real network proxies are taken from the environment, as
    /// curl takes them, but not for an `endpoint` on this host.
    pub(super) fn carrier(
        &self,
        space: &SpaceName,
        endpoint: &Url,
        outside: &Outside,
        times: HttpTimes,
    ) -> Result<Arc<dyn Carrier>, CloudError> {
        let whom = format!("space {space}");
        self.carrier_for(&whom, endpoint, outside, (times, MAX_BODY))
    }

    /// The carrier for something else than a space, which `whom` says. Good answers of more than
    /// so many bytes are not read.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn carrier_for(
        &self,
        whom: &str,
        endpoint: &Url,
        outside: &Outside,
        (times, max_body): (HttpTimes, usize),
    ) -> Result<Arc<dyn Carrier>, CloudError> {
        match self {
            Self::Real(wires) => {
                let kind = Kind {
                    ca_path: outside.ca_path.clone(),
                    with_proxies: !is_this_host(endpoint),
                    times,
                    max_body,
                };
                Ok(wires.wire(whom, kind)?)
            }
            Self::Replaced(carrier) => Ok(Arc::clone(carrier)),
        }
    }
}

/// What every client of ours begins with: our name, the system's CAs and those in the directory
/// `ca_path`.
pub fn client_builder(ca_path: &Path) -> reqwest::ClientBuilder {
    let builder =
        reqwest::Client::builder().user_agent(concat!("vcycled/", env!("CARGO_PKG_VERSION")));
    ca::load(ca_path)
        .into_iter()
        .fold(builder, reqwest::ClientBuilder::add_root_certificate)
}

/// Most redirects that are followed to what a site names by a URL.
const MAX_REDIRECTS: usize = 5;

/// For what a site names by a URL, which is not a cloud's: redirects are followed, but never from
/// https to plain http.
pub fn https_stays_https() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let from_https = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if from_https && attempt.url().scheme() != "https" {
            attempt.error("refused to follow a redirect from https to plain http")
        } else {
            attempt.follow()
        }
    })
}

/// Whether an address leads back to this host, where no proxy could ever reach it.
pub fn is_this_host(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The network of this host. Setting up TLS reads some hundred CA certificates, which takes a tenth
/// of a second and more than a megabyte: what connects at about the same time shares that, as all
/// spaces do when the daemon starts. Who connects later reads the certificates anew, because an
/// admin may have added one meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Wires(Arc<Mutex<Vec<Made>>>);

/// How long after it was made something is given to others too.
const SHARED: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Made {
    kind: Kind,
    when: Instant,
    wire: Weak<Wire>,
}

/// All that one connection to the network can differ from another in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    ca_path: PathBuf,
    with_proxies: bool,
    times: HttpTimes,
    /// The largest good answer, in bytes.
    max_body: usize,
}

impl Wires {
    fn wire(&self, whom: &str, kind: Kind) -> Result<Arc<Wire>, CloudError> {
        // Held while one is made: others who want the same wait for it.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|made| made.when.elapsed() < SHARED);
        let mut same = made.iter().filter(|made| made.kind == kind);
        if let Some(wire) = same.find_map(|made| made.wire.upgrade()) {
            return Ok(wire);
        }
        let wire = Arc::new(Wire::new(whom, &kind)?);
        made.push(Made {
            kind,
            when: Instant::now(),
            wire: Arc::downgrade(&wire),
        });
        Ok(wire)
    }
}

#[derive(Debug)]
struct Wire {
    client: reqwest::Client,
    times: HttpTimes,
    max_body: usize,
}

impl Wire {
    fn new(whom: &str, kind: &Kind) -> Result<Self, CloudError> {
        let mut builder = client_builder(&kind.ca_path);
        if !kind.with_proxies {
            builder = builder.no_proxy();
        }
        let times = kind.times;
        let client = builder
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(times.connect)
            .timeout(times.request)
            // Of idle connections there are no more than spaces have had requests under way.
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|error| {
                CloudError::new(
                    CloudErrorKind::Rejected,
                    format!("set up TLS for {whom}"),
                    text::causes(&error),
                )
            })?;
        Ok(Self {
            client,
            times,
            max_body: kind.max_body,
        })
    }

    async fn read_body(
        &self,
        request: &Request,
        response: &mut reqwest::Response,
    ) -> Result<Vec<u8>, Failure> {
        let good = response.status().is_success();
        let limit = if good { self.max_body } else { MAX_ERROR_BODY };
        let told = response
            .content_length()
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(0);
        let mut body = Vec::with_capacity(told.min(limit));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.explain(request, &error))?
        {
            let room = limit - body.len();
            if chunk.len() > room && good {
                return Err(failure(
                    request,
                    FailureKind::TooLarge,
                    format!("the answer has more than {limit} bytes"),
                ));
            }
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if body.len() == limit && !good {
                break;
            }
        }
        Ok(body)
    }

    /// Says how far a request got. A failed connect has sent nothing; after that anything may
    /// have reached the server.
    fn explain(&self, request: &Request, error: &reqwest::Error) -> Failure {
        let (kind, message) = if error.is_builder() {
            (FailureKind::NotSent, text::causes(error))
        } else if error.is_connect() && error.is_timeout() {
            let seconds = self.times.connect.as_secs_f32();
            let message = format!("no connection within {seconds} s");
            (FailureKind::ConnectTimedOut, message)
        } else if error.is_connect() {
            (FailureKind::NotSent, text::causes(error))
        } else if error.is_timeout() {
            let seconds = self.times.request.as_secs_f32();
            let message = format!("no complete answer within {seconds} s");
            (FailureKind::TimedOut, message)
        } else {
            (FailureKind::Lost, text::causes(error))
        };
        failure(request, kind, message)
    }
}

#[async_trait]
impl Carrier for Wire {
    async fn carry(&self, request: &Request) -> Result<Carried, Failure> {
        let mut builder = self.begin(request);
        if let Some(body) = &request.body {
            if request.headers.is_empty() {
                builder = builder.header(CONTENT_TYPE, "application/json");
            }
            builder = builder.body(body.clone());
        }
        self.finish(request, builder).await
    }

    async fn carry_file(&self, request: &Request, file: &FileBody) -> Result<Carried, Failure> {
        let builder = self
            .begin(request)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap(file.stream()))
            .timeout(LONGEST_UPLOAD);
        let sending = self.finish(request, builder);
        tokio::select! {
            outcome = sending => outcome,
            why = file.stall(self.times) => Err(failure(request, FailureKind::TimedOut, why)),
        }
    }
}

/// Whatever the watch over a file that moves says.
const LONGEST_UPLOAD: Duration = Duration::from_secs(7 * 86_400);

impl Wire {
    fn begin(&self, request: &Request) -> reqwest::RequestBuilder {
        let builder = self
            .client
            .request(request.method.clone(), request.url.clone());
        let builder = if request.headers.is_empty() {
            builder.header(ACCEPT, "application/json")
        } else {
            builder.headers(request.headers.clone())
        };
        match &request.token {
            Some(token) => builder.header(AUTH_TOKEN, token),
            None => builder,
        }
    }

    async fn finish(
        &self,
        request: &Request,
        builder: reqwest::RequestBuilder,
    ) -> Result<Carried, Failure> {
        let mut response = builder
            .send()
            .await
            .map_err(|error| self.explain(request, &error))?;
        let status = response.status();
        let body = match self.read_body(request, &mut response).await {
            Err(_) if !status.is_success() => Vec::new(),
            outcome => outcome?,
        };
        Ok(Carried {
            status,
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn spaces_that_connect_together_share_and_later_ones_do_not() {
        let outside = Outside::real(Path::new("/nonexistent"), Clock::system());
        let carrier = |url: &str, times| {
            let space = SpaceName::new("example.org").unwrap();
            let endpoint = Url::parse(url).unwrap();
            let carrier = outside.network.carrier(&space, &endpoint, &outside, times);
            carrier.unwrap()
        };
        let (here, there) = ("http://127.0.0.1:1/v3", "https://keystone.example.org/v3");
        let usual = HttpTimes::default();
        let first = carrier(here, usual);
        assert!(Arc::ptr_eq(&first, &carrier(here, usual)));
        assert!(!Arc::ptr_eq(&first, &carrier(there, usual)), "proxies");
        let hasty = HttpTimes {
            connect: Duration::from_secs(1),
            ..usual
        };
        assert!(!Arc::ptr_eq(&first, &carrier(here, hasty)), "times");
        tokio::time::advance(SHARED).await;
        assert!(!Arc::ptr_eq(&first, &carrier(here, usual)), "CAs");
    }

    #[test]
    fn no_proxy_is_asked_for_this_host() {
        for (url, expected) in [
            ("http://127.0.0.1:5000/v3", true),
            ("http://[::1]:5000/v3", true),
            ("https://localhost/v3", true),
            ("https://keystone.example.org/v3", false),
            ("https://192.0.2.1/v3", false),
        ] {
            assert_eq!(is_this_host(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
