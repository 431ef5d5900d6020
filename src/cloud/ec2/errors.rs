//! What the errors of EC2 mean: [`Problem`] is one error in a form of ours, [`Problem::kind`] the
//! whole of the rule.
//!
//! A code counts before the status: Amazon says that it has no capacity with 500, and that there
//! were too many requests with 503. Without such a code a 503 can come from a proxy while the service
//! goes on behind it.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::Ec2;
use super::client::{NoAnswer, RetryAfter};
use crate::cloud::http::{Failure, FailureKind, UNUSABLE, text};
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::{Seconds, Shortage};

/// What a request was to do, which decides what an unclear answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// To make a machine.
    Create,
    /// Anything that changes nothing, or nothing that matters when it is done twice.
    Other,
}

/// Why a request has no good answer.
#[derive(Clone, Debug)]
pub(super) enum Problem {
    /// No answer came.
    Failed(Failure),
    /// A good answer came that cannot be used.
    Unreadable(String),
    /// The SDK would not send it.
    Unsendable(String),
    /// The service refused.
    Refused(Refusal),
}

/// What the service said.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub status: u16,
    /// Its own word for the error.
    pub code: Option<String>,
    pub message: String,
    pub retry_after: Option<Seconds>,
}

impl<E> From<SdkError<E, HttpResponse>> for Problem
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        match &error {
            SdkError::DispatchFailure(failure) => {
                let source = failure
                    .as_connector_error()
                    .and_then(std::error::Error::source);
                match source.and_then(|source| source.downcast_ref::<NoAnswer>()) {
                    Some(NoAnswer::Failed(failure)) => Self::Failed(failure.clone()),
                    Some(NoAnswer::Unreadable(why)) => Self::Unreadable(why.clone()),
                    None => Self::Unsendable(text::causes(&error)),
                }
            }
            SdkError::ServiceError(service) => {
                let raw = service.raw();
                if raw.status().is_success() {
                    return Self::Unreadable(text::causes(&error));
                }
                let meta = service.err().meta();
                let body = raw.body().bytes().unwrap_or_default();
                let message = match (meta.code(), meta.message()) {
                    (Some(_), said) => said.unwrap_or_default().to_owned(),
                    // A proxy, or an endpoint that is none of EC2.
                    (None, _) => text::readable(body, &[]),
                };
                Self::Refused(Refusal {
                    status: raw.status().as_u16(),
                    code: meta.code().map(str::to_owned),
                    message,
                    retry_after: raw.extension::<RetryAfter>().map(|told| told.0),
                })
            }
            SdkError::ResponseError(_) => Self::Unreadable(text::causes(&error)),
            // Neither happens after a request has left: we set no times, and the rest is ours.
            _ => Self::Unsendable(text::causes(&error)),
        }
    }
}

impl Problem {
    /// The service's own word for the error, if it is one of the service.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => refusal.code.as_deref().unwrap_or_default(),
            Self::Failed(_) | Self::Unreadable(_) | Self::Unsendable(_) => "",
        }
    }

    /// What to decide by.
    /// Whether the service knows no instance of that name. An identifier of another cloud's form is
    /// said to be malformed.
    pub(super) fn is_unknown_instance(&self) -> bool {
        matches!(
            self.code(),
            "InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed"
        )
    }

    pub(super) fn kind(&self, doing: Doing) -> CloudErrorKind {
        let unclear = |otherwise| match doing {
            Doing::Create => CloudErrorKind::Ambiguous,
            Doing::Other => otherwise,
        };
        match self {
            Self::Failed(failure) => match failure.kind {
                FailureKind::NotSent | FailureKind::ConnectTimedOut => CloudErrorKind::Transient,
                FailureKind::Lost | FailureKind::TimedOut => unclear(CloudErrorKind::Transient),
                FailureKind::TooLarge => unclear(CloudErrorKind::Rejected),
                FailureKind::Held(wait) => CloudErrorKind::RateLimited {
                    retry_after: Some(wait),
                },
            },
            Self::Unreadable(_) => unclear(CloudErrorKind::Rejected),
            Self::Unsendable(_) => CloudErrorKind::Rejected,
            Self::Refused(refusal) => refusal
                .kind_by_code()
                .unwrap_or_else(|| refusal.kind_by_status(doing)),
        }
    }

    /// The error for `operation` with the service's own code and message, without `secrets`.
    pub(super) fn error(&self, doing: Doing, operation: &str, secrets: &[&str]) -> CloudError {
        let message = match self {
            Self::Failed(failure) => failure.message.clone(),
            Self::Unreadable(why) | Self::Unsendable(why) => why.clone(),
            Self::Refused(refusal) => refusal.to_text(),
        };
        let message = text::one_line(&text::without(message, secrets));
        CloudError::new(self.kind(doing), operation, message)
    }
}

impl Refusal {
    fn to_text(&self) -> String {
        let status = http::StatusCode::from_u16(self.status).ok();
        let reason = status.and_then(|status| status.canonical_reason());
        let mut text = format!("{} {}", self.status, reason.unwrap_or_default());
        for part in [self.code.as_deref(), Some(self.message.as_str())] {
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                text = format!("{}: {part}", text.trim_end());
            }
        }
        match self.hint() {
            Some(hint) => format!("{text} ({hint})"),
            None => text,
        }
    }

    /// What the person who wrote the configuration should look at.
    fn hint(&self) -> Option<&'static str> {
        let Some(code) = self.code.as_deref() else {
            let elsewhere = matches!(self.status, 301..=308 | 400 | 403..=405 | 410);
            return elsewhere
                .then_some("this is no answer of an EC2: is the url right, with its path?");
        };
        match without_fault(code) {
            "AuthFailure" | "InvalidAccessKeyId" | "InvalidClientTokenId" => {
                Some("see access_key and secret_key, and region and service, which are signed too")
            }
            "SignatureDoesNotMatch" => {
                Some("see secret_key, region and service, and the clock of this host")
            }
            "RequestExpired" => Some("see the clock of this host"),
            "UnauthorizedOperation" | "AccessDenied" => {
                Some("the owner of access_key is not allowed this")
            }
            "NoSuchVersion" => Some("see version"),
            _ => None,
        }
    }

    fn kind_by_code(&self) -> Option<CloudErrorKind> {
        use CloudErrorKind::{Ambiguous, Auth, Capacity, NotFound, Quota, RateLimited, Rejected};
        let code = self.code.as_deref()?;
        let code = without_fault(code);
        let kind = match code {
            "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "EC2ThrottledException"
            | "SlowDown" => RateLimited {
                retry_after: self.retry_after,
            },
            "AuthFailure"
            | "UnauthorizedOperation"
            | "SignatureDoesNotMatch"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "MissingAuthenticationToken"
            | "IncompleteSignature"
            | "UnrecognizedClientException"
            | "AccessDenied"
            | "AccessDeniedException"
            | "OptInRequired"
            | "Blocked"
            | "RequestExpired"
            | "PendingVerification" => Auth,
            // The type is not offered in this zone; another one may have it.
            "Unsupported" | "UnsupportedOperation" if self.is_about_a_zone() => Capacity,
            // A request with this token was taken before: what it made may exist.
            "IdempotentParameterMismatch" => Ambiguous,
            _ if shortage(code) == Some(Shortage::Hosts) => Capacity,
            _ if shortage(code) == Some(Shortage::Quota) => Quota,
            _ if code.ends_with(".NotFound") => NotFound,
            _ if self.status < 500 && self.status != 408 => Rejected,
            _ => return None,
        };
        Some(kind)
    }

    fn is_about_a_zone(&self) -> bool {
        self.message
            .to_ascii_lowercase()
            .contains("availability zone")
    }

    fn kind_by_status(&self, doing: Doing) -> CloudErrorKind {
        let retry_after = self.retry_after;
        match (self.status, doing) {
            (401 | 403, _) => CloudErrorKind::Auth,
            (404 | 410, _) => CloudErrorKind::NotFound,
            (429, _) => CloudErrorKind::RateLimited { retry_after },
            // With Retry-After too, which is respected whatever the kind.
            (408 | 500.., Doing::Create) => CloudErrorKind::Ambiguous,
            (503, Doing::Other) if retry_after.is_some() => {
                CloudErrorKind::RateLimited { retry_after }
            }
            (408 | 500.., Doing::Other) => CloudErrorKind::Transient,
            _ => CloudErrorKind::Rejected,
        }
    }
}

/// A code without the word for whose fault it is, which endpoints of OpenStack and state reasons
/// begin with.
fn without_fault(code: &str) -> &str {
    let code = code.strip_prefix("Client.").unwrap_or(code);
    code.strip_prefix("Server.").unwrap_or(code)
}

/// What there is too little of, if a code of an error or of a state reason says that. Too many
/// requests are another matter.
pub(super) fn shortage(code: &str) -> Option<Shortage> {
    match without_fault(code) {
        "InsufficientFreeAddressesInSubnet"
        | "SpotMaxPriceTooLow"
        | "SpotInstanceTermination"
        | "SpotInstanceShutdown" => Some(Shortage::Hosts),
        "QuotaExceeded" | "MaxSpotInstanceCountExceeded" => Some(Shortage::Quota),
        "RequestLimitExceeded" => None,
        code if code.starts_with("Insufficient") && code.ends_with("Capacity") => {
            Some(Shortage::Hosts)
        }
        code if code.ends_with("LimitExceeded") => Some(Shortage::Quota),
        _ => None,
    }
}

impl Ec2 {
    /// The error of a request that makes no machine.
    pub(super) fn refused(&self, action: &str, problem: impl Into<Problem>) -> CloudError {
        let problem = problem.into();
        let operation = self.operation(action);
        problem.error(Doing::Other, &operation, &[self.secret()])
    }

    /// An error about a good answer whose content is of no use.
    pub(super) fn unreadable(&self, action: &str, why: impl std::fmt::Display) -> CloudError {
        let message = format!("{UNUSABLE}: {why}");
        CloudError::new(
            CloudErrorKind::Rejected,
            self.operation(action),
            text::one_line(&message),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, message: &str) -> Problem {
        Problem::Refused(Refusal {
            status,
            code: Some(code.to_owned()).filter(|code| !code.is_empty()),
            message: message.to_owned(),
            retry_after: None,
        })
    }

    #[test]
    fn every_code_has_its_kind() {
        use CloudErrorKind::{
            Ambiguous, Auth, Capacity, NotFound, Quota, RateLimited, Rejected, Transient,
        };
        let busy = RateLimited { retry_after: None };
        let cases = [
            (500, "InsufficientInstanceCapacity", Capacity, Capacity),
            (500, "InsufficientHostCapacity", Capacity, Capacity),
            (
                400,
                "Server.InsufficientInstanceCapacity",
                Capacity,
                Capacity,
            ),
            (400, "InstanceLimitExceeded", Quota, Quota),
            (400, "VcpuLimitExceeded", Quota, Quota),
            (400, "VolumeLimitExceeded", Quota, Quota),
            (503, "RequestLimitExceeded", busy, busy),
            (400, "Throttling", busy, busy),
            (401, "AuthFailure", Auth, Auth),
            (403, "UnauthorizedOperation", Auth, Auth),
            (403, "SignatureDoesNotMatch", Auth, Auth),
            (400, "InvalidAMIID.NotFound", NotFound, NotFound),
            (400, "InvalidAMIID.Malformed", Rejected, Rejected),
            (400, "InvalidAMIID.Unavailable", Rejected, Rejected),
            (400, "InvalidParameterValue", Rejected, Rejected),
            (400, "IdempotentParameterMismatch", Ambiguous, Ambiguous),
            (500, "InternalError", Ambiguous, Transient),
            (503, "Unavailable", Ambiguous, Transient),
            (503, "", Ambiguous, Transient),
            (502, "", Ambiguous, Transient),
            (404, "", NotFound, NotFound),
            (403, "", Auth, Auth),
            (429, "", busy, busy),
            (302, "", Rejected, Rejected),
        ];
        check(&cases, None);
    }

    /// Status, code, and what they mean for a creation and otherwise.
    fn check(cases: &[(u16, &str, CloudErrorKind, CloudErrorKind)], retry_after: Option<Seconds>) {
        for &(status, code, creating, otherwise) in cases {
            let mut problem = refused(status, code, "said");
            if let Problem::Refused(refusal) = &mut problem {
                refusal.retry_after = retry_after;
            }
            assert_eq!(problem.kind(Doing::Create), creating, "{status} {code}");
            assert_eq!(problem.kind(Doing::Other), otherwise, "{status} {code}");
        }
    }

    #[test]
    fn a_request_to_wait_says_only_with_its_code_that_nothing_was_made() {
        use CloudErrorKind::{Ambiguous, RateLimited};
        let wait = Some(Seconds::new(9));
        let busy = RateLimited { retry_after: wait };
        let cases = [
            (503, "", Ambiguous, busy),
            (503, "Unavailable", Ambiguous, busy),
            (503, "ServiceUnavailable", Ambiguous, busy),
            (503, "RequestLimitExceeded", busy, busy),
            (503, "Server.RequestLimitExceeded", busy, busy),
            (503, "SlowDown", busy, busy),
            (429, "", busy, busy),
        ];
        check(&cases, wait);
    }

    #[test]
    fn a_type_that_one_zone_lacks_is_tried_in_the_next() {
        let said = "Your requested instance type (t2.micro) is not supported in your requested \
                    Availability Zone (us-east-1e).";
        let kind = refused(400, "Unsupported", said).kind(Doing::Create);
        assert_eq!(kind, CloudErrorKind::Capacity);
        let other = refused(400, "Unsupported", "no such feature").kind(Doing::Create);
        assert_eq!(other, CloudErrorKind::Rejected);
    }

    #[test]
    fn an_error_shows_code_and_message_and_no_secret() {
        let problem = refused(
            403,
            "SignatureDoesNotMatch",
            "not signed with hunter2, said\nit",
        );
        let error = problem.error(Doing::Other, "DescribeInstances at http://x/", &["hunter2"]);
        assert_eq!(
            error.to_string(),
            "DescribeInstances at http://x/: 403 Forbidden: SignatureDoesNotMatch: not signed \
             with [hidden], said it (see secret_key, region and service, and the clock of this \
             host)"
        );
    }
}
