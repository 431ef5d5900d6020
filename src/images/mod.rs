//! Images that the configuration gives as files or URLs, on their way to the cloud.
//!
//! [`Keeper`] has a task for each image of a space: it gets the image ([`Cache`] for URLs), verifies
//! its signature where one is asked for ([`signature`]), looks whether the cloud has it, and uploads
//! it. Passes never wait for that: they ask how far it is, and create nothing from an image that is
//! not there.
//!
//! Invariants:
//!
//! 1. An image is known on the cloud by a digest of its source, its modification time and its size.
//!    Nothing about it is kept on disk: a restart finds what there is.
//! 2. What is verified is what is uploaded: the file is opened once.
//! 3. One image of a space is uploaded at a time. What an upload that died has left is replaced by
//!    the next upload of the same image, and is found by the look for leaks when there is none.

mod cache;
mod job;
mod json;
mod keeper;
mod progress;
pub mod signature;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use cache::Cache;
pub use keeper::{Keeper, Scene, look_once};
use signature::SignatureError;

use crate::cloud::CloudError;

/// Why an image is not on the cloud.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image cannot be fetched.
    #[error("cannot fetch {url}: {why}")]
    Fetch {
        /// The URL, without its query and credentials.
        url: String,
        /// What happened.
        why: String,
    },
    /// Its server does not say how old it is.
    #[error(
        "{url} cannot be used: its server gives no Last-Modified, by which a new version is known"
    )]
    NoLastModified {
        /// The URL, without its query and credentials.
        url: String,
    },
    /// Its signature is not what the configuration asks for.
    #[error("{image} is not used, because of cernvm_signing_dn: {source}")]
    Signature {
        /// The file or URL.
        image: String,
        /// What is wrong with it.
        source: SignatureError,
    },
    /// The cloud refused or did not answer.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}
