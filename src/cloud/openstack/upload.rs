//! Images of ours in Glance: finding them by their marks, and uploading them.
//!
//! An upload is three steps: the image is made, with its marks, and is `queued`; its bytes are sent,
//! and it is `saving`; then it is `active`. One that stands still in between is an upload that died:
//! nobody goes on with it, it is removed and made anew.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::create::forbidden_kind;
use super::document::{self, Few, is_identifier};
use super::{OpenStack, Reply, Target, Trouble};
use crate::cloud::http::FileBody;
use crate::cloud::{CloudError, CloudErrorKind, FoundImage, NewImage, UploadProgress};
use crate::model::CloudId;
use crate::model::leftover::IMAGE_MARK;

/// How often is looked whether an image whose bytes are there has become active.
const LOOK: Duration = Duration::from_secs(2);
/// The most tags of an image that are read.
const MAX_TAGS: usize = 200;

/// What Glance says of an image.
#[derive(Debug, Deserialize)]
pub(super) struct WireCopy {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    tags: Few<String, MAX_TAGS>,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Active,
    Unfinished,
    /// It will never be of use.
    Gone,
}

fn stage(status: &str) -> Stage {
    match status {
        "active" => Stage::Active,
        "queued" | "saving" | "uploading" | "importing" => Stage::Unfinished,
        // killed, deleted, pending_delete, deactivated: a deactivated one is somebody's decision,
        // and is not replaced behind their back by removing it.
        _ => Stage::Gone,
    }
}

fn mark(image: &NewImage) -> String {
    format!("{IMAGE_MARK}={}", image.digest)
}

fn tags(image: &NewImage) -> Vec<String> {
    image
        .owner
        .words()
        .into_iter()
        .chain([mark(image)])
        .collect()
}

impl OpenStack {
    pub(super) async fn find_copies(&self, image: &NewImage) -> Result<FoundImage, CloudError> {
        let wanted = mark(image);
        let session = self.identity.session(&self.http).await?;
        let mut query: Vec<_> = tags(image).into_iter().map(|tag| ("tag", tag)).collect();
        query.push(("visibility", "private".to_owned()));
        query.extend(session.project.clone().map(|project| ("owner", project)));
        let mut copies = self
            .list_images(query, |copy: &WireCopy| {
                let tags = copy.tags.0.iter().map(String::as_str);
                is_identifier(&copy.id)
                    && image.owner.is_named_in(tags.clone())
                    && tags.clone().any(|tag| tag == wanted)
            })
            .await?;
        // Everybody who looks takes the same.
        copies.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        copies.dedup_by(|a, b| a.id == b.id);
        let mut found = FoundImage::default();
        for copy in copies {
            match stage(&copy.status) {
                Stage::Active if found.ready.is_none() => {
                    found.ready = Some(CloudId::new(copy.id));
                }
                Stage::Unfinished => found.unfinished.push(CloudId::new(copy.id)),
                Stage::Active | Stage::Gone => {}
            }
        }
        Ok(found)
    }

    pub(super) async fn upload(
        &self,
        image: &NewImage,
        file: &FileBody,
        progress: &UploadProgress,
    ) -> Result<CloudId, CloudError> {
        for dead in self.find_copies(image).await?.unfinished {
            self.discard(&dead, "it is an upload that was broken off")
                .await;
        }
        let id = self.make_image(image).await?;
        progress.begin(&id);
        let mut uploaded = self.fill(&id, file).await;
        if uploaded.is_ok() && !file.is_unchanged() {
            let operation = format!("upload {}", image.name);
            let why = "the file was changed while it was uploaded";
            uploaded = Err(CloudError::new(CloudErrorKind::Rejected, operation, why));
        }
        if uploaded.is_err() {
            self.discard(&id, "its upload has failed").await;
        }
        uploaded.map(|()| id)
    }

    /// Removes a copy. One that stays in spite of that is found as unfinished or left over later.
    async fn discard(&self, id: &CloudId, why: &str) {
        let path = ["images", id.as_str()];
        let reply = self.ask(Method::DELETE, &Target::image(&path), None).await;
        let problem = match reply.map_err(Trouble::into_error) {
            Ok(reply) if reply.is_success() => {
                info!(space = %self.space, image = %id, "removed: {why}");
                return;
            }
            Ok(reply) if reply.status() == 404 => return,
            Ok(reply) => self.refused(&reply, reply.answer.read_kind()),
            Err(error) => error,
        };
        let problem = self.clean(problem);
        warn!(space = %self.space, image = %id, "cannot be removed ({why}): {problem}");
    }

    async fn make_image(&self, image: &NewImage) -> Result<CloudId, CloudError> {
        let body = json!({
            "name": image.name,
            "disk_format": image.format.word(),
            "container_format": "bare",
            "visibility": "private",
            "tags": tags(image),
        });
        let body = Bytes::from(body.to_string());
        let target = Target::image(&["images"]);
        let reply = self.ask(Method::POST, &target, Some(body)).await;
        let reply = reply.map_err(Trouble::into_error)?;
        if !reply.is_success() {
            return Err(self.image_refused(&reply));
        }
        let made: WireCopy = document::read(&reply.answer)?;
        if is_identifier(&made.id) {
            Ok(CloudId::new(made.id))
        } else {
            Err(reply.answer.unreadable("the image has no identifier"))
        }
    }

    async fn fill(&self, id: &CloudId, file: &FileBody) -> Result<(), CloudError> {
        let path = ["images", id.as_str(), "file"];
        let reply = self.send_file(&Target::image(&path), file).await;
        let reply = reply.map_err(Trouble::into_error)?;
        if !reply.is_success() {
            return Err(self.image_refused(&reply));
        }
        let active = self.wait_until_active(id, file.size());
        self.http
            .in_time("wait for the uploaded image", active)
            .await
    }

    async fn wait_until_active(&self, id: &CloudId, size: u64) -> Result<(), CloudError> {
        let path = ["images", id.as_str()];
        loop {
            let answer = self.read(&Target::image(&path)).await?;
            let now: WireCopy = document::read(&answer)?;
            let failed = |why: String| {
                CloudError::new(
                    CloudErrorKind::Rejected,
                    answer.operation.clone(),
                    format!("the image was uploaded, but {why}"),
                )
            };
            match stage(&now.status) {
                Stage::Active if now.size.is_some_and(|has| has != size) => {
                    let has = now.size.unwrap_or_default();
                    return Err(failed(format!("the cloud has {has} bytes of its {size}")));
                }
                Stage::Active => return Ok(()),
                Stage::Unfinished if now.status == "queued" => {
                    return Err(failed("the cloud has taken none of it".to_owned()));
                }
                Stage::Unfinished => {}
                Stage::Gone => return Err(failed(format!("is {:?} now", now.status))),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What a bad answer to an upload means: 403 and 413 may be quotas.
    fn image_refused(&self, reply: &Reply) -> CloudError {
        let kind = match reply.status() {
            403 | 413 => forbidden_kind(&reply.answer),
            _ => reply.answer.read_kind(),
        };
        self.refused(reply, kind)
    }
}
