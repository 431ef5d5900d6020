//! Who is answered.
//!
//! At a loopback address everybody is who is on this host. A page of another site in a browser of
//! this host is not: it cannot read what comes from another origin, unless its name is made to lead
//! here. So a request has to name this host ([`is_this_host`]). At any other address a request has to
//! show the token, as `Authorization: Bearer`, or as the password of any user (`Basic`), for which
//! browsers ask.
//!
//! Nothing can be changed here, so no page of another site can change anything. It could still have a
//! browser ask for long answers and streams all day, and watch how long that takes: at both kinds of
//! address such a request is refused ([`comes_from_another_site`]), but for a link that somebody
//! follows.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri};
use hyper::body::Body;

use crate::model::TokenHash;
use crate::server::occasionally::Occasionally;

/// Wrong tokens are told of once in this time.
const REPEAT: Duration = Duration::from_secs(60);

/// What browsers say of where a request comes from (Fetch Metadata Request Headers, W3C): they send
/// it to loopback addresses and over HTTPS, and no script can change it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It wants to change something, or to send something.
    Method,
    /// It has a body.
    Body,
    /// It was meant for another host.
    Host,
    /// It comes from a page of another site.
    Site,
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
            Self::Site => (
                StatusCode::FORBIDDEN,
                "pages of other sites are not answered here",
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
    Token {
        /// Of the token that has to be shown.
        hash: Mutex<TokenHash>,
        /// When wrong ones were last told of.
        wrong: Occasionally<()>,
    },
}

impl Guard {
    /// For a listener at a loopback address.
    pub const fn of_this_host() -> Self {
        Self::ThisHost
    }

    /// For any other.
    pub fn with_token(hash: TokenHash) -> Self {
        Self::Token {
            hash: Mutex::new(hash),
            wrong: Occasionally::every(REPEAT),
        }
    }

    /// Whether a token has to be shown.
    pub const fn wants_token(&self) -> bool {
        match self {
            Self::ThisHost => false,
            Self::Token { .. } => true,
        }
    }

    /// Takes another token. Tells whether it is another one.
    pub fn renew(&self, hash: TokenHash) -> bool {
        match self {
            Self::ThisHost => false,
            Self::Token { hash: known, .. } => {
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
            Self::Token { hash, .. } => {
                let hash = hash.lock().unwrap_or_else(PoisonError::into_inner);
                if !shown_token(headers).is_some_and(|token| hash.matches(&token)) {
                    return Err(Refusal::Token);
                }
            }
        }
        if comes_from_another_site(headers) {
            return Err(Refusal::Site);
        }
        if asked.method() != Method::GET && asked.method() != Method::HEAD {
            return Err(Refusal::Method);
        }
        if !asked.body().is_end_stream() {
            return Err(Refusal::Body);
        }
        Ok(())
    }

    /// Whether it is time to tell of somebody who shows a wrong token: how many more there were since
    /// the last time. What was shown is told to nobody.
    pub fn complains(&self, headers: &HeaderMap, refusal: Refusal) -> Option<u64> {
        match (self, refusal) {
            (Self::Token { wrong, .. }, Refusal::Token) if headers.contains_key(AUTHORIZATION) => {
                wrong.due(())
            }
            (Self::Token { .. } | Self::ThisHost, _) => None,
        }
    }
}

/// Whether a page of another site, or a program at another port, has a browser ask. A link to here is
/// not that: what comes of it is shown to whoever has followed it, and to no script.
fn comes_from_another_site(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, value: &str| {
        headers
            .get(name)
            .is_some_and(|found| found.as_bytes() == value.as_bytes())
    };
    if headers.contains_key(&SITE) {
        let ours = is(&SITE, "same-origin") || is(&SITE, "none");
        let is_link = is(&MODE, "navigate") && is(&DESTINATION, "document");
        return !ours && !is_link;
    }
    // Browsers that do not say so, or may not at this address: they name the origin of whoever wants
    // to read the answer, and none for our own page.
    headers.get(ORIGIN).is_some_and(|origin| {
        let origin = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"));
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        origin.map(|(_, authority)| authority) != host
    })
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
    fn pages_of_other_sites_are_not_answered() {
        let guard = Guard::of_this_host();
        let ask = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "localhost:9280")];
            all.extend(headers);
            admit(&guard, &all)
        };
        let link = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        for good in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "cross-site"), link[0], link[1]],
            &[("origin", "http://localhost:9280")],
            // Behind a proxy that says another name than the browser.
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "https://x.org"),
            ],
        ] {
            assert_eq!(ask(good), Ok(()), "{good:?}");
        }
        for bad in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "no-cors"),
            ],
            &[
                ("sec-fetch-site", "cross-site"),
                link[0],
                ("sec-fetch-dest", "iframe"),
            ],
            &[("origin", "http://localhost:8000")],
            &[("origin", "http://example.org")],
            &[("origin", "null")],
        ] {
            assert_eq!(ask(bad), Err(Refusal::Site), "{bad:?}");
        }
    }

    #[test]
    fn wrong_tokens_are_told_of_now_and_then() {
        let guard = Guard::with_token(TokenHash::of(TOKEN));
        let mut headers = HeaderMap::new();
        assert_eq!(guard.complains(&headers, Refusal::Token), None, "no token");
        headers.insert(AUTHORIZATION, "Bearer x".parse().unwrap());
        assert_eq!(guard.complains(&headers, Refusal::Method), None);
        assert_eq!(guard.complains(&headers, Refusal::Token), Some(0));
        assert_eq!(guard.complains(&headers, Refusal::Token), None);
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
