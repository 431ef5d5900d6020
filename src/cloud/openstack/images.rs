//! Images: from what the configuration says, an identifier or a name, to the identifier that Nova
//! wants.

use std::collections::HashSet;

use http::Method;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::document;
use super::list::query_of;
use super::wire::{Image, ImagePage};
use super::{OpenStack, Reply, Target, Trouble};
use crate::cloud::http::text;
use crate::cloud::shared::Shared;
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::{Seconds, Timestamp};

/// How long an answer is believed. A site gives a name to a new image without telling us; and a
/// batch of creations should ask once.
const KEPT: Seconds = Seconds::new(600);

/// What is asked for on one page, which Glance takes as its limit when that is lower.
const PAGE: &str = "100";
/// The most pages of a list, and the most images on them.
const MAX_PAGES: usize = 1000;
const MAX_IMAGES: usize = 100_000;

/// What has been looked up: configured text to identifier, and when.
pub(super) type Images = Shared<(String, Timestamp)>;

impl OpenStack {
    /// The identifier of the image that the configuration calls `wanted`. Concurrent calls share
    /// one look-up.
    pub(super) async fn image_id(&self, wanted: &str) -> Result<String, CloudError> {
        let now = self.clock.now();
        let fresh = |(_, when): &(String, Timestamp)| now.since(*when) < KEPT;
        let look_up = async { Ok((self.look_up_image(wanted).await?, now)) };
        let (id, _) = self.images.get(wanted, fresh, look_up).await?;
        Ok(id)
    }

    async fn look_up_image(&self, wanted: &str) -> Result<String, CloudError> {
        let session = self.identity.session(&self.http).await?;
        if looks_like_id(wanted) && session.services.image.is_none() {
            // Nobody to ask: Nova will know whether the identifier is good.
            return Ok(wanted.to_owned());
        }
        if looks_like_id(wanted)
            && let Some(image) = self.image_by_id(wanted).await?
        {
            return usable(image, wanted);
        }
        self.image_by_name(wanted).await
    }

    /// The image with this identifier, if there is one.
    async fn image_by_id(&self, id: &str) -> Result<Option<Image>, CloudError> {
        let path = ["images", id];
        let reply = self.ask(Method::GET, &Target::image(&path), None).await;
        let reply = reply.map_err(Trouble::into_error)?;
        match reply.status() {
            200..=299 => read(&reply).map(Some),
            404 => Ok(None),
            _ => Err(self.refused(&reply, reply.answer.read_kind())),
        }
    }

    async fn image_by_name(&self, name: &str) -> Result<String, CloudError> {
        // Glance reads some names as operators ("in:a,b"), so that the answer is checked.
        let query = vec![("name", name.to_owned())];
        let named = self
            .list_images(query, |image: &Image| {
                image.name.as_deref() == Some(name) && document::is_identifier(&image.id)
            })
            .await?;
        let error = |kind, message: String| {
            let operation = format!("find the image {name:?} of space {}", self.space);
            CloudError::new(kind, operation, message)
        };
        let (mut active, other): (Vec<Image>, Vec<Image>) = named.into_iter().partition(is_active);
        // What moved from one page to the next while we read came twice.
        active.sort_by(|a, b| a.id.cmp(&b.id));
        active.dedup_by(|a, b| a.id == b.id);
        match active.as_slice() {
            [image] => Ok(image.id.clone()),
            [] => match other.into_iter().next() {
                Some(image) => usable(image, name),
                None => Err(error(
                    CloudErrorKind::NotFound,
                    format!("there is no image with the identifier or name {name:?}"),
                )),
            },
            several => {
                let ids: Vec<&str> = several.iter().map(|i| i.id.as_str()).take(5).collect();
                Err(error(
                    CloudErrorKind::Rejected,
                    format!(
                        "several images are named {name:?}; set root_image to image: and one of: {}",
                        ids.join(", ")
                    ),
                ))
            }
        }
    }

    /// The images of all pages of a list that are `wanted`.
    pub(super) async fn list_images<T: DeserializeOwned>(
        &self,
        query: Vec<(&'static str, String)>,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>, CloudError> {
        let mut query = Some(
            form_urlencoded::Serializer::new(String::new())
                .extend_pairs(query)
                .append_pair("limit", PAGE)
                .finish(),
        );
        let mut seen = HashSet::new();
        let (mut found, mut images) = (Vec::new(), 0);
        loop {
            let target = Target::image(&["images"]).query(query.clone());
            let answer = self.read(&target).await?;
            let page: ImagePage<T> = document::read(&answer)?;
            let next = page.next.as_deref().map(query_of);
            images += page.images.0.len();
            found.extend(page.images.0.into_iter().filter(&wanted));
            seen.insert(query);
            let Some(next) = next else { return Ok(found) };
            if seen.contains(&next) || seen.len() >= MAX_PAGES || images > MAX_IMAGES {
                let why = format!("its {} pages with {images} images do not end", seen.len());
                return Err(answer.unreadable(why));
            }
            query = next;
        }
    }
}

fn read(reply: &Reply) -> Result<Image, CloudError> {
    let image: Image = document::read(&reply.answer)?;
    if document::is_identifier(&image.id) {
        Ok(image)
    } else {
        Err(reply.answer.unreadable("the image has no identifier"))
    }
}

fn is_active(image: &Image) -> bool {
    image
        .status
        .as_deref()
        .is_none_or(|status| status.eq_ignore_ascii_case("active"))
}

fn usable(image: Image, wanted: &str) -> Result<String, CloudError> {
    if is_active(&image) {
        return Ok(image.id);
    }
    Err(CloudError::new(
        CloudErrorKind::Rejected,
        format!("use image {wanted:?}"),
        format!(
            "image {} is {}, not active",
            image.id,
            text::one_line(&image.status.unwrap_or_default())
        ),
    ))
}

/// Whether the text has the form of a UUID: other texts are never asked for as identifiers.
fn looks_like_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_look_like_identifiers() {
        assert!(looks_like_id("70fafd76-166f-49cb-9c64-eb46d0a5f1a5"));
        for text in [
            "",
            "CernVM 4",
            "70fafd76166f49cb9c64eb46d0a5f1a5",
            "70fafd76-166f-49cb-9c64-eb46d0a5f1a/",
        ] {
            assert!(!looks_like_id(text), "{text}");
        }
    }
}
