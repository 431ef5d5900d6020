//! Images: `image:ID`, or a name that exactly one image has.

use std::time::Duration;

use aws_sdk_ec2::types::Filter;
use tokio::time::Instant;

use super::Ec2;
use super::errors::Problem;
use crate::cloud::shared::Shared;
use crate::cloud::{CloudError, CloudErrorKind};

const ACTION: &str = "DescribeImages";
/// How long an answer is used before the service is asked again.
const FRESH: Duration = Duration::from_secs(600);

/// Images by what the configuration calls them.
pub(super) type Images = Shared<Image>;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub id: String,
    /// The device that its root disk appears as, if it was asked for.
    pub root_device: Option<String>,
    found: Instant,
}

impl Ec2 {
    /// The image that the configuration means. `with_device` asks for the root device too; without
    /// it an identifier needs no question.
    pub(super) async fn image(&self, text: &str, with_device: bool) -> Result<Image, CloudError> {
        if is_id(text) && !with_device {
            return Ok(Image {
                id: text.to_owned(),
                root_device: None,
                found: Instant::now(),
            });
        }
        let fresh = |image: &Image| image.found.elapsed() < FRESH;
        self.images.get(text, fresh, self.look_up(text)).await
    }

    async fn look_up(&self, text: &str) -> Result<Image, CloudError> {
        let request = self.client.describe_images();
        let request = if is_id(text) {
            request.image_ids(text)
        } else {
            let name = Filter::builder().name("name").values(text);
            request.filters(name.build())
        };
        let answer = request.send().await.map_err(|error| {
            let problem = Problem::from(error);
            let about = problem.code().starts_with("InvalidAMI");
            let mut error = self.refused(ACTION, problem);
            if about {
                error.message = format!("{} (root_image = image:{text})", error.message);
            }
            error
        })?;
        let mut found = answer.images.unwrap_or_default();
        // A service that does not know the filter ignores it.
        found.retain(|image| {
            let told = if is_id(text) {
                &image.image_id
            } else {
                &image.name
            };
            told.as_deref() == Some(text)
        });
        let refused = |kind, why: String| Err(CloudError::new(kind, self.operation(ACTION), why));
        match found.as_slice() {
            [image] => match &image.image_id {
                Some(id) => Ok(Image {
                    id: id.clone(),
                    root_device: image.root_device_name.clone(),
                    found: Instant::now(),
                }),
                None => Err(self.unreadable(ACTION, "an image has no identifier")),
            },
            [] => refused(
                CloudErrorKind::NotFound,
                format!("there is no image {text:?} (root_image = image:{text})"),
            ),
            several => {
                let ids: Vec<_> = several
                    .iter()
                    .filter_map(|one| one.image_id.as_deref())
                    .collect();
                refused(
                    CloudErrorKind::Rejected,
                    format!(
                        "{} images are called {text:?}: give the identifier of one of them in \
                         root_image: {}",
                        several.len(),
                        ids.join(" ")
                    ),
                )
            }
        }
    }
}

/// `ami-` and hexadecimal digits. OpenStack's have the same form.
fn is_id(text: &str) -> bool {
    let digits = text.strip_prefix("ami-").unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
}
