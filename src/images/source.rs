//! What an image is made from: a file of this host, at one moment.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ImageError;
use crate::blocking;
use crate::cloud::http::{FileBody, shown};
use crate::cloud::{ImageFormat, NewImage};
use crate::config::ImageSource;
use crate::model::{Owner, Timestamp};
use crate::state::Disk;

/// The longest name of an image that Glance takes.
const MAX_NAME: usize = 255;

/// How people know it: the path, or the URL without what may be a password.
pub(super) fn name_of(source: &ImageSource) -> String {
    match source {
        ImageSource::Cloud(id) => format!("image:{id}"),
        ImageSource::File(path) => path.display().to_string(),
        ImageSource::Url(url) => shown(url),
    }
}

/// The whole of it, which is what tells it from others.
fn text_of(source: &ImageSource) -> String {
    match source {
        ImageSource::Url(url) => url.to_string(),
        ImageSource::Cloud(_) | ImageSource::File(_) => name_of(source),
    }
}

/// One content of an image, by all that is looked at to tell whether it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub path: PathBuf,
    pub modified: SystemTime,
    pub size: u64,
}

/// An image that is open.
#[derive(Clone, Debug)]
pub(super) struct Original {
    pub version: Version,
    pub body: FileBody,
}

impl Original {
    /// Opens the file of an image.
    pub(super) async fn open(disk: &Disk, path: &Path) -> Result<Self, ImageError> {
        let (disk, wanted) = (disk.clone(), path.to_owned());
        let opened = blocking::run(move || {
            disk.read(&wanted)?;
            // Opening a named pipe must not wait for its writer.
            let file = File::options()
                .read(true)
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                .open(&wanted)?;
            FileBody::new(file)
        });
        let body = opened.await.map_err(|source| ImageError::File {
            action: "use the image",
            path: path.to_owned(),
            source,
        })?;
        let version = Version {
            path: path.to_owned(),
            modified: body.modified(),
            size: body.size(),
        };
        Ok(Self { version, body })
    }

    /// As the cloud is to keep it.
    pub(super) fn image(&self, source: &ImageSource, owner: &Owner) -> NewImage {
        let name = name_of(source);
        let format = ImageFormat::of_name(&name);
        let since = self.version.modified.duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = since.map_or(0, |since| since.as_nanos());
        let all = format!(
            "{}\n{nanoseconds}\n{}\n{}",
            text_of(source),
            self.version.size,
            format.word()
        );
        let digest = openssl::sha::sha256(all.as_bytes());
        NewImage {
            name: self.shown_name(&name),
            owner: owner.clone(),
            digest: digest.iter().take(16).map(|b| format!("{b:02x}")).collect(),
            format,
        }
    }

    /// The last part of `name`, and its time.
    fn shown_name(&self, name: &str) -> String {
        let last = name.rsplit('/').find(|part| !part.is_empty());
        let plain = |c: char| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '_'
            }
        };
        let when = Timestamp::from_system_time(self.version.modified).to_rfc3339();
        let most = MAX_NAME.saturating_sub(when.len() + 1);
        let last = last.unwrap_or("image").chars().map(plain);
        format!("{} {when}", last.take(most).collect::<String>())
    }
}
