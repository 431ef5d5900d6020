//! How far an image of this host has come on its way to a cloud.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::CloudId;

/// The image of a machinetype whose root_image is a file or a URL, as it is in the space's cloud.
/// The state is that of the current content: of a file that has changed, the copy of the content
/// before counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ImageState {
    /// The cloud has it, and machines can boot from it.
    Ready {
        /// The cloud's identifier of it.
        id: CloudId,
    },
    /// It is on its way.
    Uploading {
        /// The cloud's identifier of what it will be, once that is known.
        id: Option<CloudId>,
        /// Bytes that have been sent.
        sent: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It is not there, and something else comes first.
    Waiting {
        /// What, for people.
        why: String,
    },
    /// It is not there, and nobody wants it: target_share is 0.
    Unwanted,
}

impl ImageState {
    /// The identifier that the cloud has for it, complete or not.
    pub const fn id(&self) -> Option<&CloudId> {
        match self {
            Self::Ready { id } => Some(id),
            Self::Uploading { id, .. } => id.as_ref(),
            Self::Waiting { .. } | Self::Unwanted => None,
        }
    }

    /// Whether it is known which copy counts: only then can another one be superseded.
    pub const fn is_settled(&self) -> bool {
        match self {
            Self::Ready { .. } | Self::Unwanted => true,
            Self::Uploading { .. } | Self::Waiting { .. } => false,
        }
    }
}

impl fmt::Display for ImageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { id } => write!(f, "the cloud has it as {id}"),
            Self::Uploading { sent, total, .. } => write!(
                f,
                "being uploaded, {} of {} MiB ({} %)",
                sent / MEBIBYTE,
                total.div_ceil(MEBIBYTE),
                percent(*sent, *total)
            ),
            Self::Waiting { why } => f.write_str(why),
            Self::Unwanted => f.write_str("not uploaded while target_share is 0"),
        }
    }
}

const MEBIBYTE: u64 = 1024 * 1024;

/// What part of `total` is `done`; all of nothing.
pub fn percent(done: u64, total: u64) -> u64 {
    let part = u128::from(done.min(total)) * 100;
    let part = part.checked_div(u128::from(total)).unwrap_or(100);
    u64::try_from(part).unwrap_or(100)
}
