//! Who is answered.
//!
//! At a loopback address everybody is who is on this host. A page of another site in a browser of
//! this host is not: it cannot read what comes from another origin, unless its name is made to lead
//! here. So a request has to name this host ([`is_this_host`]). At any other address a request has to
//! show the token, as `Authorization: Bearer`, or as the password of any user (`Basic`), for which
//! browsers ask.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri};
use hyper::body::Body;

use crate::model::TokenHash;

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It wants to change something, or to send something.
    Method,
    /// It has a body.
    Body,
    /// It was meant for another host.
    Host,
    /// It shows no token, or another one.
    Token,
}

impl Refusal {
    /// The status, and the reason as it is told.
    pub const fn told(self) -> (StatusCode, &'static str) {
        match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD"),
            Self::Body => (StatusCode::PAYLOAD_TOO_LARGE, "no request has a body here"),
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "ask for this host by localhost or by its loopback address",
            ),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "show the token in admin_token of the state directory",
            ),
        }
    }
}

/// Decides for one listener.
#[derive(Debug)]
pub(super) enum Guard {
    /// It can only be reached from this host.
    ThisHost,
    /// It can be reached from elsewhere.
    Token(Mutex<TokenHash>),
}

impl Guard {
    /// For a listener at a loopback address.
    pub const fn of_this_host() -> Self {
        Self::ThisHost
    }

    /// For any other.
    pub const fn with_token(hash: TokenHash) -> Self {
        Self::Token(Mutex::new(hash))
    }

    /// Whether a token has to be shown.
    pub const fn wants_token(&self) -> bool {
        match self {
            Self::ThisHost => false,
            Self::Token(_) => true,
        }
    }

    /// Takes another token. Tells whether it is another one.
    pub fn renew(&self, hash: TokenHash) -> bool {
        match self {
            Self::ThisHost => false,
            Self::Token(known) => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let changed = *known != hash;
                *known = hash;
                changed
            }
        }
    }

    /// Whether a request is to be answered.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, asked: &http::Request<impl Body>) -> Result<(), Refusal> {
        let headers = asked.headers();
        match self {
            Self::ThisHost => {
                if !is_meant_for_us(asked.uri(), headers) {
                    return Err(Refusal::Host);
                }
            }
            Self::Token(hash) => {
                let hash = hash.lock().unwrap_or_else(PoisonError::into_inner);
                if !shown_token(headers).is_some_and(|token| hash.matches(&token)) {
                    return Err(Refusal::Token);
                }
            }
        }
        if asked.method() != Method::GET && asked.method() != Method::HEAD {
            return Err(Refusal::Method);
        }
        if !asked.body().is_end_stream() {
            return Err(Refusal::Body);
        }
        Ok(())
    }
}

fn is_meant_for_us(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = Authority::try_from(host.as_bytes());
    host.is_ok_and(|host| is_this_host(&host)) && uri.authority().is_none_or(is_this_host)
}

/// Whether a name can only mean this host, whatever name servers say. The port may be another one:
/// that of a tunnel.
fn is_this_host(authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// The token that a request shows.
fn shown_token(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("Bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    pair.split_once(':')
        .map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{Empty, Full};

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn admit(guard: &Guard, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.admit(&request.body(Empty::<Bytes>::new()).unwrap())
    }

    #[test]
    fn on_this_host_a_request_has_to_name_it() {
        let guard = Guard::of_this_host();
        for good in [
            "localhost",
            "LocalHost:9280",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]:9280",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(admit(&guard, &[("host", good)]), Ok(()), "{good}");
        }
        for bad in [
            "example.org:9280",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "192.0.2.1",
            "0.0.0.0",
            "[::]",
            "a@localhost",
            "",
        ] {
            let found = admit(&guard, &[("host", bad)]);
            assert_eq!(found, Err(Refusal::Host), "{bad}");
        }
        assert_eq!(admit(&guard, &[]), Err(Refusal::Host));
        let twice = [("host", "localhost"), ("host", "example.org")];
        assert_eq!(admit(&guard, &twice), Err(Refusal::Host));
        // The form that proxies are asked in names the host twice.
        let request = Request::get("http://example.org/").header("host", "localhost");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(guard.admit(&request), Err(Refusal::Host));
    }

    #[test]
    fn elsewhere_it_has_to_show_the_token() {
        let guard = Guard::with_token(TokenHash::of(TOKEN));
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let good = [
            format!("Bearer {TOKEN}"),
            format!("bearer  {TOKEN}"),
            basic(&format!(":{TOKEN}")),
            basic(&format!("admin:{TOKEN}")),
        ];
        for value in &good {
            assert_eq!(
                admit(&guard, &[("authorization", value)]),
                Ok(()),
                "{value}"
            );
        }
        let bad = [
            TOKEN.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Digest {TOKEN}"),
            basic(TOKEN),
            format!("Basic {TOKEN}"),
        ];
        for value in &bad {
            let found = admit(&guard, &[("authorization", value), ("host", "localhost")]);
            assert_eq!(found, Err(Refusal::Token), "{value}");
        }
        assert!(!guard.renew(TokenHash::of(TOKEN)));
        assert!(guard.renew(TokenHash::of("another")));
        let old = admit(&guard, &[("authorization", &good[0])]);
        assert_eq!(old, Err(Refusal::Token));
    }

    #[test]
    fn nothing_is_taken() {
        let guard = Guard::of_this_host();
        let request = |method| {
            Request::builder()
                .method(method)
                .header("host", "localhost")
        };
        let put = request("PUT").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(guard.admit(&put), Err(Refusal::Method));
        let body = request("GET").body(Full::new(Bytes::from_static(b"x")));
        assert_eq!(guard.admit(&body.unwrap()), Err(Refusal::Body));
        let head = request("HEAD").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(guard.admit(&head), Ok(()));
    }
}
