//! The page itself: files that are part of the program.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use openssl::sha::Sha256;

use super::{Reply, full};

/// What the page may do: load what is beside it, and ask where it comes from. There is no script and
/// no style in its text, no other host, no frame around it, and text never becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [File; 11] = [
    File {
        path: "/",
        kind: HTML,
        text: include_str!("page/index.html"),
    },
    File {
        path: "/dashboard/style.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("page/style.css"),
    },
    File {
        path: "/dashboard/icon.svg",
        kind: "image/svg+xml",
        text: include_str!("page/icon.svg"),
    },
    File {
        path: "/dashboard/app.js",
        kind: SCRIPT,
        text: include_str!("page/app.js"),
    },
    File {
        path: "/dashboard/dom.js",
        kind: SCRIPT,
        text: include_str!("page/dom.js"),
    },
    File {
        path: "/dashboard/text.js",
        kind: SCRIPT,
        text: include_str!("page/text.js"),
    },
    File {
        path: "/dashboard/parts.js",
        kind: SCRIPT,
        text: include_str!("page/parts.js"),
    },
    File {
        path: "/dashboard/charts.js",
        kind: SCRIPT,
        text: include_str!("page/charts.js"),
    },
    File {
        path: "/dashboard/overview.js",
        kind: SCRIPT,
        text: include_str!("page/overview.js"),
    },
    File {
        path: "/dashboard/space.js",
        kind: SCRIPT,
        text: include_str!("page/space.js"),
    },
    File {
        path: "/dashboard/machine.js",
        kind: SCRIPT,
        text: include_str!("page/machine.js"),
    },
];

/// What all files are, in hexadecimal digits: another program may serve another page.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for file in &FILES {
        hash.update(file.path.as_bytes());
        hash.update(file.text.as_bytes());
    }
    let digits = hash.finish();
    digits.iter().take(8).map(|b| format!("{b:02x}")).collect()
});

/// Which page this is.
pub fn version() -> &'static str {
    &VERSION
}

/// The file at a path, if there is one there.
pub fn file(path: &str, asked: &HeaderMap) -> Option<Reply> {
    let file = FILES.iter().find(|file| file.path == path)?;
    let tag = format!("\"{}\"", version());
    let known = asked.get(header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let body = if is_known { "" } else { file.text };
    let mut response = Response::new(full(Bytes::from_static(body.as_bytes())));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    headers.extend(HeaderValue::from_str(&tag).map(|tag| (header::ETAG, tag)));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Kept, and asked for each time: after an upgrade the old one is of no use.
    (header::CACHE_CONTROL, "no-cache"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_only_files_that_are_there_and_no_other_host() {
        let html = FILES[0].text;
        let named = html
            .split('"')
            .filter(|word| word.starts_with("dashboard/"));
        let named: Vec<&str> = named.collect();
        assert!(named.len() >= 3, "{named:?}");
        for path in named {
            let path = format!("/{path}");
            assert!(file(&path, &HeaderMap::new()).is_some(), "{path}");
        }
        for part in FILES {
            let text = part.text.replace("http://www.w3.org/", "");
            assert!(!text.contains("://"), "{} names a host", part.path);
        }
    }

    #[test]
    fn nothing_in_it_turns_text_into_markup_or_runs_text() {
        for part in FILES {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                " onclick",
                " style=",
                "javascript:",
            ] {
                assert!(!part.text.contains(word), "{} has {word}", part.path);
            }
        }
        let html = FILES[0].text;
        assert!(!html.contains("<style") && !html.contains("<script>"));
        let reply = file("/", &HeaderMap::new()).unwrap();
        let policy = reply.headers()[header::CONTENT_SECURITY_POLICY].to_str();
        let policy = policy.unwrap();
        assert!(!policy.contains("unsafe") && policy.contains("default-src 'none'"));
    }

    #[test]
    fn a_page_that_is_known_is_not_sent_again() {
        let first = file("/", &HeaderMap::new()).unwrap();
        let mut asked = HeaderMap::new();
        let tag = first.headers()[header::ETAG].clone();
        asked.insert(header::IF_NONE_MATCH, tag);
        let again = file("/", &asked).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(file("/dashboard/../x", &asked).is_none());
    }
}
