//! Requests to clouds, by kind and outcome.

use http::{Method, StatusCode};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiOutcome {
    /// It was answered.
    Answered(StatusCode),
    /// It did not reach the server.
    NotSent,
    /// It was not answered: the connection broke.
    Lost,
    /// It was not answered in time.
    TimedOut,
    /// It was answered with more than is read.
    TooLarge,
}

impl ApiOutcome {
    /// As a label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered(status) => match status.as_u16() {
                401 | 403 => "denied",
                404 | 410 => "not_found",
                429 => "rate_limited",
                100..=399 => "success",
                400..=499 => "client_error",
                _ => "server_error",
            },
            Self::NotSent => "not_sent",
            Self::Lost => "lost",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
        }
    }
}

/// A word for each way to ask: GET, POST, any other, DELETE.
macro_rules! kinds {
    ($what:literal) => {
        [
            concat!("read_", $what),
            concat!("create_", $what),
            concat!("change_", $what),
            concat!("delete_", $what),
        ]
    };
}

/// What requests are about: the first of these that is in the path, with a word for each way to ask.
const RESOURCES: &[(&str, [&str; 4])] = &[
    ("tokens", kinds!("token")),
    ("servers", kinds!("server")),
    ("flavors", kinds!("flavor")),
    ("limits", kinds!("limits")),
    ("images", kinds!("image")),
    ("os-keypairs", kinds!("keypair")),
    ("os-quota-sets", kinds!("quota")),
    ("volumes", kinds!("volume")),
    ("ports", kinds!("port")),
    ("networks", kinds!("network")),
    ("floatingips", kinds!("floatingip")),
];
const OTHER: [&str; 4] = kinds!("other");

/// Actions of EC2.
const ACTIONS: &[&str] = &[
    "CreateTags",
    "DeleteKeyPair",
    "DeleteVolume",
    "DescribeImages",
    "DescribeInstances",
    "DescribeInstanceTypes",
    "DescribeKeyPairs",
    "DescribeVolumes",
    "ImportKeyPair",
    "RunInstances",
    "TerminateInstances",
];

/// The kind of a request.
pub fn kind(method: &Method, path: &str, body: Option<&[u8]>) -> &'static str {
    if let Some(action) = body.and_then(action) {
        return action;
    }
    let words = path.split('/').find_map(|segment| {
        let mut known = RESOURCES.iter();
        known.find(|(name, _)| *name == segment)
    });
    let [read, create, change, delete] = words.map_or(OTHER, |(_, words)| *words);
    match *method {
        Method::GET | Method::HEAD => read,
        Method::POST => create,
        Method::DELETE => delete,
        _ => change,
    }
}

/// The action in a form.
fn action(body: &[u8]) -> Option<&'static str> {
    let fields = body.split(|byte| *byte == b'&');
    let value = fields
        .take(2)
        .find_map(|field| field.strip_prefix(b"Action="))?;
    let known = ACTIONS.iter().find(|action| action.as_bytes() == value);
    Some(known.copied().unwrap_or("other_action"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_of_method_path_and_action() {
        for (method, path, body, expected) in [
            (
                Method::POST,
                "/identity/v3/auth/tokens",
                None,
                "create_token",
            ),
            (Method::GET, "/v2.1/servers/detail", None, "read_server"),
            (Method::DELETE, "/v2.1/servers/1-2-3", None, "delete_server"),
            (Method::PUT, "/v2/images/x/file", None, "change_image"),
            (Method::GET, "/v3", None, "read_other"),
            (
                Method::POST,
                "/",
                Some("Action=RunInstances&Version=1"),
                "RunInstances",
            ),
            (Method::POST, "/", Some("Action=Dance"), "other_action"),
        ] {
            let body = body.map(str::as_bytes);
            assert_eq!(kind(&method, path, body), expected, "{method} {path}");
        }
    }

    #[test]
    fn outcomes_are_few() {
        for (status, expected) in [
            (200, "success"),
            (300, "success"),
            (401, "denied"),
            (404, "not_found"),
            (409, "client_error"),
            (429, "rate_limited"),
            (503, "server_error"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(ApiOutcome::Answered(status).word(), expected);
        }
    }
}
