//! What is asked of a cloud about images that come from this host, and its answers.

use std::sync::{Mutex, PoisonError};

use super::{CloudError, CloudErrorKind};
use crate::model::{CloudId, Owner};

/// An image as the cloud is to keep it: private, and under the marks of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Its name, for people.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// What tells this content of this source from all others: hexadecimal digits.
    pub digest: String,
    /// What it is an image of.
    pub format: ImageFormat,
}

/// What an image is an image of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// A disk, byte by byte.
    Raw,
    /// A CD-ROM.
    Iso,
}

impl ImageFormat {
    /// What the manual page says of the name of an image file.
    pub fn of_name(name: &str) -> Self {
        if name.ends_with(".iso") {
            Self::Iso
        } else {
            Self::Raw
        }
    }

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Iso => "iso",
        }
    }
}

/// What a cloud has of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundImage {
    /// The complete copy; of several the oldest.
    pub ready: Option<CloudId>,
    /// Copies that are not complete: an upload that is under way, or one that has died.
    pub unfinished: Vec<CloudId>,
}

/// How an upload shows where it is.
#[derive(Debug, Default)]
pub struct UploadProgress(Mutex<Option<CloudId>>);

impl UploadProgress {
    /// The upload has this identifier.
    pub fn begin(&self, id: &CloudId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
    }

    /// The identifier of what is being uploaded, once there is one.
    pub fn id(&self) -> Option<CloudId> {
        let id = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        id.clone()
    }
}

/// The answer of a cloud that takes no images.
pub(super) fn not_taken(image: &NewImage) -> CloudError {
    CloudError::new(
        CloudErrorKind::Rejected,
        format!("keep the image {}", image.name),
        "this cloud takes no images from here: use root_image = image:ID",
    )
}
