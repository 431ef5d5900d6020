//! A request as the services see it, and their answers in OpenStack's formats.

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use super::project::Refusal;

/// One request, read to its end.
#[derive(Debug)]
pub(super) struct Asked {
    pub method: Method,
    /// The path, split at its slashes and decoded; empty parts are left out.
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    /// `X-Auth-Token`.
    pub token: Option<String>,
    pub body: Bytes,
    /// The size of a body that is not kept.
    pub uploaded: Option<u64>,
}

impl Asked {
    /// The last value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let mut values = self.query.iter().rev();
        values
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub header: Option<(HeaderName, String)>,
    pub body: Option<Value>,
    /// What has to happen because of the request, after its answer is certain.
    pub next: Option<Next>,
}

/// What a request sets off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The server with this identifier boots.
    Boot(String),
    /// The server with this identifier is deleted.
    Remove(String),
}

impl Answer {
    pub(super) const fn json(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            header: None,
            body: Some(body),
            next: None,
        }
    }

    pub(super) const fn empty(status: StatusCode) -> Self {
        Self {
            status,
            header: None,
            body: None,
            next: None,
        }
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: String) -> Self {
        self.header = Some((name, value));
        self
    }

    pub(super) fn then(mut self, next: Next) -> Self {
        self.next = Some(next);
        self
    }

    /// Keystone's answer to who is not known, which all services pass on.
    pub(super) fn unauthorized() -> Self {
        Self::json(
            StatusCode::UNAUTHORIZED,
            json!({"error": {
                "code": 401,
                "title": "Unauthorized",
                "message": "The request you have made requires authentication.",
            }}),
        )
    }

    /// Nova's answer when something inside it is broken.
    pub(super) fn trouble(status: StatusCode) -> Self {
        Self::json(
            status,
            json!({"computeFault": {
                "code": status.as_u16(),
                "message": "The server has either erred or is incapable of performing the \
                            requested operation.",
            }}),
        )
    }

    /// The answer to an address that no service has.
    pub(super) fn no_such_resource() -> Self {
        Refusal::NotFound("The resource could not be found.".to_owned()).into()
    }
}

impl From<Refusal> for Answer {
    /// Nova's format of faults: one member, named after the kind of fault.
    fn from(refusal: Refusal) -> Self {
        let (status, kind, message) = match refusal {
            Refusal::BadRequest(message) => (StatusCode::BAD_REQUEST, "badRequest", message),
            Refusal::Forbidden(message) => (StatusCode::FORBIDDEN, "forbidden", message),
            Refusal::NotFound(message) => (StatusCode::NOT_FOUND, "itemNotFound", message),
            Refusal::Conflict(message) => (StatusCode::CONFLICT, "conflictingRequest", message),
        };
        let mut body = serde_json::Map::new();
        body.insert(
            kind.to_owned(),
            json!({"code": status.as_u16(), "message": message}),
        );
        Self::json(status, Value::Object(body))
    }
}

impl From<Result<Self, Refusal>> for Answer {
    fn from(result: Result<Self, Refusal>) -> Self {
        result.unwrap_or_else(Self::from)
    }
}
