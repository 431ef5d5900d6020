//! What a remote server's answer to one question means, if it can mean anything.
//!
//! A server that is broken, behind a portal, or lies must not make a machine look dead, and not
//! look alive for ever either:
//!
//! - The age of a heartbeat is the time between `Last-Modified` and `Date`, both by the server's
//!   own clock, so that it need not agree with ours.
//! - A `Last-Modified` in the server's future tells no age. What counts then is when it was first
//!   seen: a file that is written changes it.
//! - An HTML page is neither a heartbeat nor a message, whatever its status.

use http::header::{CONTENT_TYPE, DATE, LAST_MODIFIED, LOCATION};
use http::{HeaderMap, StatusCode};
use url::Url;

use super::About;
use crate::cloud::http::{shown, text};
use crate::model::{Seconds, Timestamp};

/// As much as a file may be from the future without being odd: the two times are whole seconds,
/// and may come from two hosts.
const SKEW: Seconds = Seconds::new(60);

/// What was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The heartbeat was written at this time, by our clock.
    Beat(Timestamp),
    /// The heartbeat is there and bears this time of the future, by the server's clock.
    FutureBeat(Timestamp),
    /// There is no heartbeat.
    NoBeat,
    /// The message.
    Message(String),
    /// There is no message.
    NoMessage,
}

/// Why nothing was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server could not be reached, or could not answer.
    Unreachable(String),
    /// It answered, with something that cannot be used.
    Useless(String),
    /// We could not ask: our certificate or key cannot be used.
    Ours(String),
}

impl Trouble {
    /// What happened.
    pub fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Useless(text) | Self::Ours(text) => text,
        }
    }
}

/// What the head of an answer says, before any body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The file is there.
    Found,
    /// It is not.
    Missing,
}

/// Reads the status and the kind of content. `url` is the question's.
///
/// # Errors
/// When the answer is about neither.
pub fn head(status: StatusCode, headers: &HeaderMap, url: &Url) -> Result<Head, Trouble> {
    let said = || {
        let reason = status.canonical_reason().unwrap_or("");
        format!("{} {reason}", status.as_u16())
            .trim_end()
            .to_owned()
    };
    match status.as_u16() {
        200 if is_page(headers, url) => {
            let what = format!("{} with an HTML page, which no machine wrote", said());
            Err(Trouble::Useless(what))
        }
        200 => Ok(Head::Found),
        404 | 410 => Ok(Head::Missing),
        408 | 429 | 500..=599 => Err(Trouble::Unreachable(said())),
        300..=399 => {
            let target = headers
                .get(LOCATION)
                .and_then(|value| url.join(value.to_str().ok()?).ok());
            let target = target.map(|target| format!(" to {}", text::one_line(&shown(&target))));
            let what = format!("{}{} (not followed)", said(), target.unwrap_or_default());
            Err(Trouble::Useless(what))
        }
        _ => Err(Trouble::Useless(said())),
    }
}

/// Whether it is a page for people. A machine may call its file that.
fn is_page(headers: &HeaderMap, url: &Url) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let is_html = kind.is_some_and(|kind| {
        let kind = kind.to_ascii_lowercase();
        kind.starts_with(b"text/html") || kind.starts_with(b"application/xhtml")
    });
    let path = url.path();
    is_html && !(path.ends_with(".html") || path.ends_with(".htm"))
}

/// When a heartbeat that is there was written. `now` is when the answer came.
///
/// # Errors
/// When it does not say, and it matters.
pub fn beat(about: About, headers: &HeaderMap, now: Timestamp) -> Result<Answer, Trouble> {
    let date = |name| {
        let value = headers.get(name)?.to_str().ok()?;
        let time = httpdate::parse_http_date(value).ok()?;
        Some(Timestamp::from_system_time(time))
    };
    let Some(modified) = date(LAST_MODIFIED) else {
        return match about {
            About::Heartbeat {
                only_existence: true,
            } => Ok(Answer::Beat(now)),
            About::Heartbeat { .. } | About::Message => {
                Err(Trouble::Useless(match headers.get(LAST_MODIFIED) {
                    None => "200 without Last-Modified".to_owned(),
                    Some(value) => format!(
                        "200 with a Last-Modified that is no date: {}",
                        text::one_line(&String::from_utf8_lossy(value.as_bytes()))
                    ),
                }))
            }
        };
    };
    let there = date(DATE).unwrap_or(now);
    if modified > there + SKEW {
        return Ok(Answer::FutureBeat(modified));
    }
    Ok(Answer::Beat(now.earlier(there.since(modified))))
}

/// The message in a body that was cut to what is read of one.
///
/// # Errors
/// When it is a page of HTML.
pub fn message(body: &[u8]) -> Result<Answer, Trouble> {
    let text = String::from_utf8_lossy(body).into_owned();
    if text.trim_start().starts_with('<') {
        let what = "200 with an HTML page, which no machine wrote";
        return Err(Trouble::Useless(what.to_owned()));
    }
    Ok(Answer::Message(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: About = About::Heartbeat {
        only_existence: false,
    };

    fn url() -> Url {
        Url::parse("https://out.example.org/x/vcycle-a-aaaaaaaaaa/beat").unwrap()
    }

    fn headers(pairs: &[(http::header::HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_a_file_and_a_missing_file_say_something_about_a_machine() {
        let page = headers(&[(CONTENT_TYPE, "Text/HTML; charset=utf-8")]);
        let plain = headers(&[(CONTENT_TYPE, "text/plain")]);
        let read = |status: u16, headers: &HeaderMap| {
            head(StatusCode::from_u16(status).unwrap(), headers, &url())
        };
        assert_eq!(read(200, &plain), Ok(Head::Found));
        assert_eq!(read(200, &HeaderMap::new()), Ok(Head::Found));
        assert_eq!(read(404, &page), Ok(Head::Missing));
        assert_eq!(read(410, &plain), Ok(Head::Missing));
        assert!(matches!(read(200, &page), Err(Trouble::Useless(_))));
        for status in [204, 206, 301, 304, 400, 401, 403, 405] {
            let answer = read(status, &plain);
            assert!(matches!(answer, Err(Trouble::Useless(_))), "{status}");
        }
        for status in [429, 500, 502, 503] {
            let answer = read(status, &plain);
            assert!(matches!(answer, Err(Trouble::Unreachable(_))), "{status}");
        }
        let html = Url::parse("https://out.example.org/m/beat.html").unwrap();
        assert_eq!(head(StatusCode::OK, &page, &html), Ok(Head::Found));
    }

    #[test]
    fn a_redirect_is_named_without_what_may_be_secret_in_it() {
        let to = headers(&[(LOCATION, "http://me:pw@other.example.org/login?token=x")]);
        let Err(Trouble::Useless(what)) = head(StatusCode::FOUND, &to, &url()) else {
            panic!("a redirect is no answer");
        };
        assert_eq!(
            what,
            "302 Found to http://other.example.org/login (not followed)"
        );
    }

    #[test]
    fn the_age_of_a_heartbeat_is_told_by_the_servers_own_clock() {
        let now = Timestamp::from_unix(2_000_000_000);
        let read = |modified: &str, date: &str| {
            let found = headers(&[(LAST_MODIFIED, modified), (DATE, date)]);
            beat(BEAT, &found, now)
        };
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:50:37 GMT";
        let expected = Answer::Beat(Timestamp::from_unix(1_999_999_940));
        assert_eq!(read(modified, later), Ok(expected));
        assert_eq!(read(later, modified), Ok(Answer::Beat(now)));
        let future = "Sun, 06 Nov 1994 09:00:00 GMT";
        let value = Timestamp::from_unix(784_112_400);
        assert_eq!(read(future, modified), Ok(Answer::FutureBeat(value)));
        // Without its clock ours has to do.
        let found = headers(&[(LAST_MODIFIED, modified)]);
        let expected = Answer::Beat(Timestamp::from_unix(784_111_777));
        assert_eq!(beat(BEAT, &found, now), Ok(expected));
    }

    #[test]
    fn garbage_for_a_time_says_nothing_unless_only_the_file_matters() {
        let now = Timestamp::from_unix(1000);
        for value in ["yesterday", "", "-1", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            let found = headers(&[(LAST_MODIFIED, value)]);
            let answer = beat(BEAT, &found, now);
            assert!(matches!(answer, Err(Trouble::Useless(_))), "{value:?}");
            let only_existence = true;
            let about = About::Heartbeat { only_existence };
            assert_eq!(beat(about, &found, now), Ok(Answer::Beat(now)));
        }
    }

    #[test]
    fn a_page_is_no_message() {
        assert!(message(b"  <!DOCTYPE html><title>Log in</title>").is_err());
        let said = message(b"300 Nothing\xff to do\n").unwrap();
        assert_eq!(
            said,
            Answer::Message("300 Nothing\u{fffd} to do\n".to_owned())
        );
    }
}
