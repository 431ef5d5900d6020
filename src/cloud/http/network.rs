//! What lies between a space and its cloud: the network, or a model of it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use url::Url;

use super::{
    AUTH_TOKEN, Failure, FailureKind, HttpTimes, IDLE, MAX_AT_ONCE, MAX_BODY, MAX_ERROR_BODY,
    Request, ca, failure, text,
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
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// The network of this host.
    #[default]
    Real,
    /// Something else in its place: a simulation.
    Replaced(Arc<dyn Carrier>),
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
        match self {
            Self::Real => Ok(Arc::new(Wire::new(
                space,
                endpoint,
                &outside.ca_path,
                times,
            )?)),
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

/// Whether an address leads back to this host, where no proxy could ever reach it.
fn is_this_host(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The network of this host.
#[derive(Debug)]
struct Wire {
    client: reqwest::Client,
    times: HttpTimes,
}

impl Wire {
    fn new(
        space: &SpaceName,
        endpoint: &Url,
        ca_path: &Path,
        times: HttpTimes,
    ) -> Result<Self, CloudError> {
        let mut builder = client_builder(ca_path);
        if is_this_host(endpoint) {
            builder = builder.no_proxy();
        }
        let client = builder
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(times.connect)
            .timeout(times.request)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_AT_ONCE)
            .build()
            .map_err(|error| {
                CloudError::new(
                    CloudErrorKind::Rejected,
                    format!("set up TLS for space {space}"),
                    text::causes(&error),
                )
            })?;
        Ok(Self { client, times })
    }

    async fn read_body(
        &self,
        request: &Request,
        response: &mut reqwest::Response,
    ) -> Result<Vec<u8>, Failure> {
        let good = response.status().is_success();
        let limit = if good { MAX_BODY } else { MAX_ERROR_BODY };
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
        let mut builder = self
            .client
            .request(request.method.clone(), request.url.clone())
            .header(ACCEPT, "application/json");
        if let Some(token) = &request.token {
            builder = builder.header(AUTH_TOKEN, token);
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
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
