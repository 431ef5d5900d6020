//! The SDK's client, bent to the configuration: requests go through [`Http`] to the configured
//! endpoint, in the configured version, signed for the configured region and service.
//!
//! The SDK writes requests, signs them and reads answers. It connects to nothing (there is one TLS,
//! that of the rest), retries nothing (what may be repeated is ours to say), and reads no clock but
//! ours.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_ec2::config::retry::{ReconnectMode, RetryConfig};
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{
    BehaviorVersion, Config, ConfigBag, Credentials, HttpClient, IdentityCache, Intercept, Region,
    RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_ec2::error::{BoxError, ConnectorError};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_types::SigningName;
use aws_types::region::SigningRegion;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use url::{Url, form_urlencoded};

use super::version::Version;
use super::xml;
use crate::clock::Clock;
use crate::cloud::http::{Answer, Failure, Http, Request};
use crate::config::Ec2Options;
use crate::model::Seconds;

/// The SDK takes only the names of hosts for regions; what is signed is the configured one.
const ANY_REGION: &str = "us-east-1";

/// A client of the SDK that sends through `http`.
pub(super) fn client(options: &Ec2Options, http: Arc<Http>, clock: Clock) -> Client {
    let secret = options.secret_key.reveal().clone();
    let credentials = Credentials::new(&options.access_key, secret, None, None, "vcycle.conf");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(ANY_REGION))
        .endpoint_url(options.url.as_str())
        .credentials_provider(credentials)
        .identity_cache(IdentityCache::no_cache())
        .time_source(OurTime(clock))
        .retry_config(no_retries())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(Courier(http))
        .interceptor(Rewrite {
            url: options.url.clone(),
            version: Version::new(&options.version),
            region: options.region.clone(),
            service: options.service.clone(),
        })
        .build();
    Client::from_conf(config)
}

/// Connections are none of the SDK's business either: it would complain, as of an error, that it
/// finds none to close after each answer with a status of 500 and more.
fn no_retries() -> RetryConfig {
    RetryConfig::disabled().with_reconnect_mode(ReconnectMode::ReuseAllConnections)
}

#[derive(Debug)]
struct OurTime(Clock);

impl TimeSource for OurTime {
    fn now(&self) -> SystemTime {
        self.0.now().to_system_time()
    }
}

/// Makes a request of the SDK that of the configuration, before it is signed.
#[derive(Debug)]
struct Rewrite {
    url: Url,
    version: Version,
    region: String,
    service: String,
}

impl Intercept for Rewrite {
    fn name(&self) -> &'static str {
        "vcycle"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let bag = cfg.interceptor_state();
        bag.store_put(SigningName::from(self.service.clone()));
        bag.store_put(SigningRegion::from(Region::new(self.region.clone())));
        let request = context.request_mut();
        // The SDK adds a `/` to the path.
        request.set_uri(self.url.as_str())?;
        let form = request.body().bytes().ok_or("a request without a form")?;
        let form = rewritten(form, &self.version);
        let length = form.len().to_string();
        *request.body_mut() = SdkBody::from(form);
        request.headers_mut().insert("content-length", length);
        Ok(())
    }
}

/// The form with our version, and without a client token where that is not known.
fn rewritten(form: &[u8], version: &Version) -> String {
    let mut new = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(form) {
        match key.as_ref() {
            "Version" => new.append_pair("Version", version.as_str()),
            // The SDK makes one up where it is given none.
            "ClientToken" if !version.has_tokens() => &mut new,
            key => new.append_pair(key, &value),
        };
    }
    new.finish()
}

/// Carries the requests of the SDK.
#[derive(Clone, Debug)]
struct Courier(Arc<Http>);

impl HttpClient for Courier {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Courier {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = Arc::clone(&self.0);
        HttpConnectorFuture::new(async move { carry(&http, request).await })
    }
}

/// Why the SDK was given no answer. It travels through the SDK's own errors.
#[derive(Clone, Debug)]
pub(super) enum NoAnswer {
    /// None came.
    Failed(Failure),
    /// A good one came that cannot be used.
    Unreadable(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => f.write_str(&failure.message),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NoAnswer {}

/// How long the server asks to be left alone: with an answer on its way through the SDK.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryAfter(pub Seconds);

async fn carry(http: &Http, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let user = |error: BoxError| ConnectorError::user(error);
    let request = request
        .try_into_http1x()
        .map_err(|error| user(error.into()))?;
    let (parts, body) = request.into_parts();
    let url = Url::parse(&parts.uri.to_string()).map_err(|error| user(error.into()))?;
    let body = Bytes::copy_from_slice(body.bytes().unwrap_or_default());
    let mut headers: HeaderMap = parts.headers;
    // What the connection says for itself. None of it is signed, but for the length and the host,
    // which are the same.
    for own in [CONTENT_LENGTH, HOST, USER_AGENT] {
        headers.remove(own);
    }
    let changes_nothing = body.starts_with(b"Action=Describe");
    let request = Request {
        method: parts.method,
        url,
        token: None,
        headers,
        body: Some(body),
    };
    let answer = if changes_nothing {
        http.read(&request).await
    } else {
        http.send(&request).await
    };
    let answer = answer.map_err(|failure| no_answer(NoAnswer::Failed(failure)))?;
    response(answer)
}

fn no_answer(why: NoAnswer) -> ConnectorError {
    ConnectorError::other(why.into(), None)
}

fn response(answer: Answer) -> Result<HttpResponse, ConnectorError> {
    if answer.status.is_success()
        && let Err(why) = xml::check(&answer.body)
    {
        let what = answer.unreadable(why).message;
        return Err(no_answer(NoAnswer::Unreadable(what)));
    }
    let status = answer.status.as_u16().try_into();
    let status = status.map_err(|_| no_answer(NoAnswer::Unreadable("no status".to_owned())))?;
    let mut response = HttpResponse::new(status, SdkBody::from(answer.body));
    if let Some(wait) = answer.retry_after {
        response.add_extension(RetryAfter(wait));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_our_version_and_keeps_the_rest() {
        let form =
            b"Action=RunInstances&Version=2016-11-15&UserData=Version%3D%26a%2Bb&ClientToken=t";
        let current = rewritten(form, &Version::new("2010-08-31"));
        assert_eq!(
            current,
            "Action=RunInstances&Version=2010-08-31&UserData=Version%3D%26a%2Bb&ClientToken=t"
        );
        let old = rewritten(form, &Version::new("2009-11-30"));
        assert!(
            old.ends_with("a%2Bb") && !old.contains("ClientToken"),
            "{old}"
        );
    }
}
