//! Small files of the site: templates, what goes into them, certificates and keys.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{FETCH_TIMEOUT, MAX_BYTES, UserDataError};
use crate::act::proxy::Pem;
use crate::blocking;
use crate::model::Secret;

/// Reads a small file of the site that `option` names. A pipe, a device or a file server that is
/// gone would keep the whole space waiting for ever: what is no file is refused, and what takes too
/// long is given up.
///
/// # Errors
/// When the file cannot be read, is too large, or is not UTF-8.
pub(in crate::act) async fn read_file(option: &str, path: &Path) -> Result<String, UserDataError> {
    let (bytes, _) = read_whole(option, path).await?;
    String::from_utf8(bytes).map_err(|_| UserDataError::NotText {
        what: format!("{option} {}", path.display()),
    })
}

/// The same for PEM texts, which may have comments in any encoding; with the file's mode.
pub(super) async fn read_pem(option: &str, path: &Path) -> Result<(Pem, u32), UserDataError> {
    let (bytes, mode) = read_whole(option, path).await?;
    let (path, bytes) = (path.to_owned(), Secret::new(bytes));
    Ok((Pem { path, bytes }, mode))
}

async fn read_whole(option: &str, path: &Path) -> Result<(Vec<u8>, u32), UserDataError> {
    let failed = |source| UserDataError::Read {
        option: option.to_owned(),
        path: path.to_owned(),
        source,
    };
    let place = path.to_owned();
    let reading = blocking::run(move || read_bytes(&place));
    let (bytes, mode) = tokio::time::timeout(FETCH_TIMEOUT, reading)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        return Err(UserDataError::TooLarge {
            what: format!("{option} {}", path.display()),
        });
    }
    Ok((bytes, mode))
}

/// At most one byte more than is allowed, and the file's mode.
fn read_bytes(path: &Path) -> std::io::Result<(Vec<u8>, u32)> {
    // Opening a named pipe must not wait for its writer.
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes, found.mode()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pipe_that_nobody_writes_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [pipe.as_path(), dir.path()] {
            let error = read_file("user_data", path).await.unwrap_err().to_string();
            assert!(error.ends_with(": it is not a file"), "{error}");
        }
    }
}
