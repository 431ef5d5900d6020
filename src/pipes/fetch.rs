//! Fetches one vacuum pipe: one GET, a few redirects, with limits on time and size.

use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::blocking;
use crate::cloud::Outside;
use crate::cloud::http::{Carried, HttpTimes, Request, shown, text};
use crate::config::pipe::{MAX_BYTES, Pipe};

/// The longest that fetching a pipe may take, redirects included.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// The longest that each of its requests may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;

/// What a pipe said, word for word and understood.
#[derive(Debug)]
pub(super) struct Fetched {
    pub document: String,
    pub pipe: Pipe,
}

/// Fetches a pipe once. The error says what was tried and what came back, and holds no secret.
pub(super) async fn fetch(url: &Url, outside: &Outside) -> Result<Fetched, String> {
    let fetching = fetch_body(url, outside);
    let body = tokio::time::timeout(TIME_LIMIT, fetching)
        .await
        .unwrap_or_else(|_| {
            let seconds = TIME_LIMIT.as_secs();
            let operation = format!("GET {}", shown(url));
            Err(format!(
                "{operation}: no complete answer within {seconds} s"
            ))
        })?;
    let operation = format!("GET {}", shown(url));
    blocking::run(move || {
        let pipe = Pipe::parse(&body).map_err(|error| format!("{operation}: {error}"))?;
        let document = String::from_utf8(body).map_err(|error| format!("{operation}: {error}"))?;
        Ok(Fetched { document, pipe })
    })
    .await
}

async fn fetch_body(first: &Url, outside: &Outside) -> Result<Vec<u8>, String> {
    let times = HttpTimes {
        request: REQUEST_LIMIT,
        ..HttpTimes::default()
    };
    let mut url = first.clone();
    for _ in 0..=MAX_REDIRECTS {
        let request = Request {
            method: Method::GET,
            url: url.clone(),
            token: None,
            body: None,
            headers: HeaderMap::new(),
        };
        let operation = request.operation();
        let network = &outside.network;
        let carrier = network
            .carrier_for("vacuum pipes", &url, outside, (times, MAX_BYTES))
            .map_err(|error| error.to_string())?;
        let carried = carrier
            .carry(&request)
            .await
            .map_err(|failure| format!("{operation}: {}", failure.message))?;
        if carried.status == StatusCode::OK {
            return Ok(carried.body);
        }
        url = match target(&url, &carried) {
            Some(target) => target.map_err(|why| format!("{operation}: {why}"))?,
            None => return Err(format!("{operation}: {}", refusal(&url, &carried))),
        };
    }
    let operation = format!("GET {}", shown(first));
    Err(format!("{operation}: more than {MAX_REDIRECTS} redirects"))
}

/// Where an answer sends us, if it does: from https to nothing but https.
fn target(url: &Url, carried: &Carried) -> Option<Result<Url, String>> {
    if !matches!(carried.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let told = carried.headers.get(LOCATION)?.to_str().ok()?;
    let Ok(target) = url.join(told) else {
        return Some(Err("a redirect to what is no URL".to_owned()));
    };
    let to = text::one_line(&shown(&target));
    if !matches!(target.scheme(), "https" | "http") || !target.has_host() {
        return Some(Err(format!("a redirect to {to}, which is not followed")));
    }
    if url.scheme() == "https" && target.scheme() != "https" {
        let why = format!("a redirect from https to {to}, which is not followed");
        return Some(Err(why));
    }
    Some(Ok(target))
}

fn refusal(url: &Url, carried: &Carried) -> String {
    let secrets = [url.query().unwrap_or(""), url.password().unwrap_or("")];
    let said = text::readable(&carried.body, &secrets);
    let status = carried.status;
    if said.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {said}")
    }
}
