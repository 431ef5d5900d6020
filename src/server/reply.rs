//! Answers: what goes back to a client, whole or as a stream, and refusals with their reason.

use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// The body of an answer.
pub type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

/// Why a request is not done: the status, and a sentence for the client and our log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// What the body says.
    pub reason: String,
    /// The methods that there are, for 405.
    allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal with this reason.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            allow: None,
        }
    }

    /// There is such a thing, but this cannot be done to it; `allowed` can.
    pub fn method(allowed: &'static str) -> Self {
        Self {
            allow: Some(allowed),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("expected one of {allowed}"),
            )
        }
    }

    /// There is no such thing.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found")
    }

    /// The client may not.
    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    /// Our own disk failed us. The client learns no paths.
    pub fn disk(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("the disk takes nothing more: {error}"),
            ),
            // The machine's directory was removed while we worked in it.
            io::ErrorKind::NotFound => Self::not_found(),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// The refusal as an answer.
    pub fn into_response(self) -> Response<ReplyBody> {
        let mut response = text(self.status, format!("{}\n", self.reason));
        if let Some(allowed) = self.allow {
            let allowed = HeaderValue::from_static(allowed);
            response.headers_mut().insert(http::header::ALLOW, allowed);
        }
        response
    }
}

fn whole(bytes: Bytes) -> ReplyBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer without content.
pub fn empty(status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// An answer in plain text.
pub fn text(status: StatusCode, content: String) -> Response<ReplyBody> {
    content_reply(status, "text/plain; charset=utf-8", content)
}

/// An answer in HTML.
pub fn html(content: String) -> Response<ReplyBody> {
    content_reply(StatusCode::OK, "text/html; charset=utf-8", content)
}

fn content_reply(status: StatusCode, kind: &'static str, content: String) -> Response<ReplyBody> {
    let length = HeaderValue::from(content.len());
    let mut response = empty(status);
    *response.body_mut() = whole(Bytes::from(content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, length);
    response
}

/// Sends a client to another path on the same server.
pub fn moved(path: &str) -> Result<Response<ReplyBody>, Refusal> {
    let location = HeaderValue::from_str(path).map_err(|_| Refusal::not_found())?;
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    response
        .headers_mut()
        .insert(http::header::LOCATION, location);
    Ok(response)
}

/// Takes the content off, for the answer to HEAD: the headers stay those of GET.
pub fn without_body(response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.map(|_| whole(Bytes::new()))
}

/// What identifies one version of a file to caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was written.
    pub modified: SystemTime,
    /// Its entity tag, with the quotes.
    pub etag: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The answer to a request for a file: 304 when the client has this version, else the content,
/// which is only asked for when it is needed.
pub fn file(
    version: &Version,
    request: &HeaderMap,
    content: impl FnOnce() -> Result<FileContent, Refusal>,
) -> Result<Response<ReplyBody>, Refusal> {
    let mut response = if is_current(version, request) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = empty(StatusCode::OK);
        *response.body_mut() = match content()? {
            FileContent::Whole(bytes) => whole(bytes),
            FileContent::Stream(stream) => stream,
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(version.size));
        response
    };
    let headers = response.headers_mut();
    // Values move while a VM runs (shutdowntime does), and VMs are to see it at once, through
    // any cache on the way.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    for (name, value) in [
        (LAST_MODIFIED, httpdate::fmt_http_date(version.modified)),
        (ETAG, version.etag.clone()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// The content of a file.
pub enum FileContent {
    /// Small enough to be in memory.
    Whole(Bytes),
    /// Read as the client takes it.
    Stream(ReplyBody),
}

/// RFC 9110, 13.2.2: If-None-Match decides when it is there, else If-Modified-Since.
fn is_current(version: &Version, request: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == version.etag);
    }
    let whole_seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    };
    request
        .get(IF_MODIFIED_SINCE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| httpdate::parse_http_date(value).ok())
        .is_some_and(|since| whole_seconds(version.modified) <= whole_seconds(since))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_that_has_this_version_is_told_so() {
        let version = Version {
            modified: SystemTime::UNIX_EPOCH + Duration::from_millis(1_462_331_045_700),
            etag: "\"a-b\"".to_owned(),
            size: 1,
        };
        let written = "Wed, 04 May 2016 03:04:05 GMT";
        let earlier = "Wed, 04 May 2016 03:04:04 GMT";
        let cases: [(&[(_, &str)], bool); 9] = [
            (&[], false),
            (&[(IF_NONE_MATCH, "\"a-b\"")], true),
            (&[(IF_NONE_MATCH, "\"x\", W/\"a-b\"")], true),
            (&[(IF_NONE_MATCH, "*")], true),
            (&[(IF_NONE_MATCH, "\"x\"")], false),
            (&[(IF_MODIFIED_SINCE, written)], true),
            (&[(IF_MODIFIED_SINCE, earlier)], false),
            (&[(IF_MODIFIED_SINCE, "yesterday")], false),
            (
                &[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, written)],
                false,
            ),
        ];
        for (headers, expected) in cases {
            let request: HeaderMap = headers
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
                .collect();
            assert_eq!(is_current(&version, &request), expected, "{headers:?}");
        }
    }
}
