//! Answers in OpenStack's formats.

use chrono::DateTime;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::Reply;
use super::call::Service;

/// Why a service does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    BadRequest(String),
    Forbidden(String),
    NotFound(String),
    Conflict(String),
}

impl Reply {
    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        let mut reply = Self::empty(status);
        reply.body = body.to_string().into_bytes();
        reply.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        reply
    }

    pub(super) fn ok(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Vec::new(),
        }
    }

    /// A page of something on the way.
    pub(super) fn html(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("");
        let mut reply = Self::empty(status);
        reply.body = format!(
            "<!DOCTYPE html>\n<html><head><title>{code} {reason}</title></head>\n\
             <body><h1>{reason}</h1><p>The proxy has something to say.</p></body></html>\n",
            code = status.as_u16(),
        )
        .into_bytes();
        reply.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        reply
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// A refusal in the format of the service.
    pub(super) fn refusal(service: Service, status: StatusCode, message: &str) -> Self {
        let code = status.as_u16();
        match service {
            Service::Identity => {
                let title = status.canonical_reason().unwrap_or("");
                Self::json(
                    status,
                    &json!({"error": {"code": code, "message": message, "title": title}}),
                )
            }
            Service::Compute => {
                let mut body = Map::new();
                body.insert(
                    fault_name(code).to_owned(),
                    json!({"code": code, "message": message}),
                );
                Self::json(status, &Value::Object(body))
            }
            Service::Image => {
                let mut reply = Self::html(status);
                reply.body = format!(
                    "<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  {message}\n \
                     </body>\n</html>"
                )
                .into_bytes();
                reply
            }
        }
    }

    /// The answer to who is not known, which all services pass on.
    pub(super) fn unauthorized() -> Self {
        Self::refusal(
            Service::Identity,
            StatusCode::UNAUTHORIZED,
            "The request you have made requires authentication.",
        )
    }
}

impl Refusal {
    pub(super) fn reply(&self, service: Service) -> Reply {
        let (status, message) = match self {
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, message),
            Self::Forbidden(message) => (StatusCode::FORBIDDEN, message),
            Self::NotFound(message) => (StatusCode::NOT_FOUND, message),
            Self::Conflict(message) => (StatusCode::CONFLICT, message),
        };
        Reply::refusal(service, status, message)
    }
}

/// The member that Nova puts a fault in.
const fn fault_name(code: u16) -> &'static str {
    match code {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        503 => "serviceUnavailable",
        _ => "computeFault",
    }
}

/// A time as Nova writes it.
pub(super) fn iso(time: i64) -> String {
    formatted(time, "%Y-%m-%dT%H:%M:%SZ")
}

/// A time as Keystone writes it.
pub(super) fn iso_micros(time: i64) -> String {
    formatted(time, "%Y-%m-%dT%H:%M:%S.000000Z")
}

/// A time as Nova's usage extension writes it.
pub(super) fn iso_without_zone(time: i64) -> String {
    formatted(time, "%Y-%m-%dT%H:%M:%S.000000")
}

/// A time as HTTP writes it.
pub(super) fn http_date(time: i64) -> String {
    formatted(time, "%a, %d %b %Y %H:%M:%S GMT")
}

fn formatted(time: i64, format: &str) -> String {
    DateTime::from_timestamp(time, 0)
        .map(|time| time.format(format).to_string())
        .unwrap_or_default()
}
