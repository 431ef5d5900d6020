//! Creating and deleting servers.
//!
//! The request that creates is sent once, or a second time when the first was refused for its
//! token (401: nothing was done). What came back decides whether a machine may exist:
//! [`create_kind`] and [`failure_kind`] are the whole of that rule.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;

use super::document::{self, is_identifier};
use super::wire::{BlockDevice, CreatedDocument, Named, Network, NewServer, NewServerDocument};
use super::{OpenStack, Reply, Service, Target, Trouble, blame, server_path};
use crate::cloud::http::{Answer, FailureKind, text};
use crate::cloud::{CloudError, CloudErrorKind, CreateRequest, Deletion};
use crate::model::CloudId;

/// The most user_data that Nova takes, in bytes of its base64 form.
const MAX_USER_DATA: usize = 65_535;

impl OpenStack {
    pub(super) async fn create_server(
        &self,
        request: &CreateRequest,
    ) -> Result<CloudId, CloudError> {
        let user_data = encode_user_data(request)?;
        if request.volume.is_some() {
            self.require_volume_service(request).await?;
        }
        let image = self.image_id(&request.image).await?;
        let key = match &request.public_key {
            Some(text) => Some(self.key_name(text, &request.metadata).await?),
            None => None,
        };
        let document = NewServerDocument {
            server: NewServer {
                name: request.name.as_str(),
                flavor: &request.flavor.id,
                image: request.volume.is_none().then_some(image.as_str()),
                block_devices: boot_volume(request, &image),
                key_name: key.as_deref(),
                user_data: &user_data,
                metadata: &request.metadata,
                security_groups: named(&self.options.security_groups),
                networks: networks(self.options.network_uuid.as_deref()),
                availability_zone: request.zone.as_deref(),
            },
        };
        let body = serde_json::to_vec(&document).map_err(|error| {
            let operation = format!("create {}", request.name);
            CloudError::new(CloudErrorKind::Rejected, operation, error.to_string())
        })?;
        let target = Target::compute(&["servers"]);
        let reply = self
            .ask(Method::POST, &target, Some(Bytes::from(body)))
            .await;
        let reply = reply.map_err(|trouble| match trouble {
            Trouble::Before(error) => error,
            Trouble::During(failure) => {
                let kind = failure_kind(failure.kind);
                CloudError::new(kind, failure.operation, failure.message)
            }
        })?;
        self.created(request, &reply).await
    }

    async fn created(&self, request: &CreateRequest, reply: &Reply) -> Result<CloudId, CloudError> {
        if reply.is_success() {
            return match document::read::<CreatedDocument>(&reply.answer) {
                Ok(document) if is_identifier(&document.server.id) => {
                    Ok(CloudId::new(document.server.id))
                }
                Ok(_) => Err(ambiguous(reply.answer.unreadable(NO_IDENTIFIER))),
                Err(error) => Err(ambiguous(error)),
            };
        }
        if reply.status() == 400 {
            // Perhaps the image or the key is not there any more: look again next time.
            self.images.forget().await;
            self.keys.forget().await;
        }
        let mut error = self.refused(reply, create_kind(&reply.answer));
        let said = text::readable(&reply.answer.body, &[]);
        if let Some(option) = blame::option(&said, request, &self.options) {
            error.message = format!("{} ({option})", error.message);
        }
        Err(error)
    }

    /// Nova takes a request for a volume also where nobody makes volumes, and its server ends in
    /// ERROR: "publicURL endpoint for volumev3 service not found" (seen with Zed).
    async fn require_volume_service(&self, request: &CreateRequest) -> Result<(), CloudError> {
        let session = self.identity.session(&self.http).await?;
        if Service::Volume.is_in(&session) {
            return Ok(());
        }
        Err(CloudError::new(
            CloudErrorKind::Rejected,
            format!("create {}", request.name),
            "volume_gb_per_processor asks for a volume, and the service catalog has no volume \
             service in this region",
        ))
    }

    pub(super) async fn delete_server(&self, id: &CloudId) -> Result<Deletion, CloudError> {
        let path = server_path("delete", id)?;
        let reply = self
            .ask(Method::DELETE, &Target::compute(&path), None)
            .await;
        let reply = reply.map_err(Trouble::into_error)?;
        match reply.status() {
            // 409: Nova is busy deleting it.
            200..=299 | 409 => Ok(Deletion::Accepted),
            404 => Ok(Deletion::AlreadyGone),
            _ => Err(self.refused(&reply, reply.answer.read_kind())),
        }
    }
}

const NO_IDENTIFIER: &str = "the identifier is empty, too long, or has blanks in it";

fn ambiguous(error: CloudError) -> CloudError {
    CloudError {
        kind: CloudErrorKind::Ambiguous,
        ..error
    }
}

/// What of the user_data travels in a request to create.
pub(super) fn encoded_user_data(request: &CreateRequest) -> String {
    STANDARD.encode(request.user_data.reveal())
}

fn encode_user_data(request: &CreateRequest) -> Result<String, CloudError> {
    let encoded = encoded_user_data(request);
    if encoded.len() > MAX_USER_DATA {
        return Err(CloudError::new(
            CloudErrorKind::Rejected,
            format!("create {}", request.name),
            format!(
                "user_data has {} bytes in base64, and OpenStack takes {MAX_USER_DATA}",
                encoded.len()
            ),
        ));
    }
    Ok(encoded)
}

fn boot_volume<'a>(request: &CreateRequest, image: &'a str) -> Vec<BlockDevice<'a>> {
    let volume = request.volume.into_iter();
    volume
        .map(|size| BlockDevice::boot_volume(image, size.get()))
        .collect()
}

fn named(groups: &[String]) -> Vec<Named<'_>> {
    groups.iter().map(|name| Named { name }).collect()
}

fn networks(uuid: Option<&str>) -> Vec<Network<'_>> {
    uuid.map(|uuid| Network { uuid }).into_iter().collect()
}

/// What a create that got no answer means: only one that never left is harmless.
const fn failure_kind(kind: FailureKind) -> CloudErrorKind {
    match kind {
        FailureKind::NotSent | FailureKind::ConnectTimedOut => CloudErrorKind::Transient,
        FailureKind::Held(wait) => CloudErrorKind::RateLimited {
            retry_after: Some(wait),
        },
        FailureKind::Lost | FailureKind::TimedOut | FailureKind::TooLarge => {
            CloudErrorKind::Ambiguous
        }
    }
}

/// What a bad answer to a create means. A 5xx can come from a proxy while Nova goes on behind it.
fn create_kind(answer: &Answer) -> CloudErrorKind {
    let retry_after = answer.retry_after;
    match answer.status.as_u16() {
        401 => CloudErrorKind::Auth,
        403 | 413 => forbidden_kind(answer),
        429 => CloudErrorKind::RateLimited { retry_after },
        // Also with Retry-After: a proxy can say so after Nova has taken the request.
        408 | 500..=599 => CloudErrorKind::Ambiguous,
        _ if says(answer, blame::NO_ROOM) => CloudErrorKind::Capacity,
        _ => CloudErrorKind::Rejected,
    }
}

/// 403 (and 413 in old releases) is a quota, a rate limit, or a matter of rights.
pub(super) fn forbidden_kind(answer: &Answer) -> CloudErrorKind {
    let retry_after = answer.retry_after;
    if says(answer, &["quota", "maximum number of"]) {
        CloudErrorKind::Quota
    } else if says(answer, &["zero disk"]) {
        // The request and not who sends it: this flavor boots only from a volume.
        CloudErrorKind::Rejected
    } else if answer.status.as_u16() == 403 {
        CloudErrorKind::Auth
    } else if retry_after.is_some() {
        CloudErrorKind::RateLimited { retry_after }
    } else {
        CloudErrorKind::Rejected
    }
}

fn says(answer: &Answer, words: &[&str]) -> bool {
    let message = text::readable(&answer.body, &[]).to_ascii_lowercase();
    words.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Seconds;
    use http::{HeaderMap, StatusCode};

    fn answer(status: u16, body: &str, retry_after: Option<u64>) -> Answer {
        Answer {
            operation: "POST http://nova/servers".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
            retry_after: retry_after.map(Seconds::new),
        }
    }

    #[test]
    fn every_answer_to_a_create_has_its_kind() {
        use CloudErrorKind::{Ambiguous, Auth, Capacity, Quota, RateLimited, Rejected};
        let quota = r#"{"forbidden": {"code": 403, "message": "Quota exceeded for cores: Requested 4, but already used 4 of 4 cores"}}"#;
        let wait = RateLimited {
            retry_after: Some(Seconds::new(9)),
        };
        let cases = [
            (
                400,
                r#"{"badRequest": {"message": "Flavor zz could not be found."}}"#,
                None,
                Rejected,
            ),
            (
                400,
                r#"{"badRequest": {"message": "No valid host was found. "}}"#,
                None,
                Capacity,
            ),
            (
                400,
                r#"{"badRequest": {"message": "The requested availability zone is not available"}}"#,
                None,
                Capacity,
            ),
            (
                403,
                r#"{"forbidden": {"message": "Only volume-backed servers are allowed for flavors with zero disk. "}}"#,
                None,
                Rejected,
            ),
            (401, "", None, Auth),
            (403, quota, None, Quota),
            (
                403,
                r#"{"forbidden": {"message": "Policy doesn't allow"}}"#,
                None,
                Auth,
            ),
            (404, "<html>not here</html>", None, Rejected),
            (
                409,
                r#"{"conflictingRequest": {"message": "Multiple possible networks found"}}"#,
                None,
                Rejected,
            ),
            (
                413,
                r#"{"overLimit": {"message": "This request was rate-limited."}}"#,
                Some(9),
                wait,
            ),
            (
                413,
                r#"{"overLimit": {"message": "Quota exceeded for instances"}}"#,
                Some(0),
                Quota,
            ),
            (413, "", None, Rejected),
            (429, "", Some(9), wait),
            (429, "", None, RateLimited { retry_after: None }),
            (500, "{}", None, Ambiguous),
            (502, "<h1>Bad Gateway</h1>", None, Ambiguous),
            (503, "", None, Ambiguous),
            (503, "", Some(9), Ambiguous),
            (504, "", Some(9), Ambiguous),
            (302, "", None, Rejected),
        ];
        for (status, body, retry_after, expected) in cases {
            assert_eq!(
                create_kind(&answer(status, body, retry_after)),
                expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn only_a_create_that_never_left_is_harmless() {
        assert_eq!(
            failure_kind(FailureKind::NotSent),
            CloudErrorKind::Transient
        );
        assert_eq!(
            failure_kind(FailureKind::ConnectTimedOut),
            CloudErrorKind::Transient
        );
        for kind in [
            FailureKind::Lost,
            FailureKind::TimedOut,
            FailureKind::TooLarge,
        ] {
            assert_eq!(failure_kind(kind), CloudErrorKind::Ambiguous);
        }
    }
}
