//! Copies of images that the configuration gives as URLs, in `imagecache`.
//!
//! A copy has the modification time that its server told, which is what the server is asked
//! with the next time; so a restart knows as much as before. It grows in `tmp` and appears whole.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use http::StatusCode;
use http::header::{IF_MODIFIED_SINCE, LAST_MODIFIED};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use super::ImageError;
use super::progress::{self, Fetching, Meter};
use crate::blocking;
use crate::cloud::http::{client_builder, https_stays_https, shown, text};
use crate::state::Layout;
use crate::state::disk::{NewFile, PUBLIC, temporary_path};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a download may stand still.
const STALL: Duration = Duration::from_secs(60);
/// The longest that one may take at all.
const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// How long an answer counts for all who want the same: spaces that begin their cycles together
/// ask once.
const FRESH: Duration = Duration::from_secs(20);
/// How long a server is left alone that had trouble, while there is a copy to go on with.
const STALE: Duration = Duration::from_secs(120);
/// How much is written at once, in bytes.
const PIECE: usize = 1024 * 1024;
/// The longest name that a file has after its URL; the rest of a longer one is a digest.
const MAX_NAME: usize = 200;

/// The cache of one daemon.
#[derive(Clone, Debug)]
pub struct Cache {
    ca_path: PathBuf,
    /// Made for the first URL: it costs a tenth of a second.
    client: Arc<OnceLock<reqwest::Client>>,
    urls: Arc<Mutex<HashMap<Url, Asked>>>,
}

/// What is known of a URL.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// One at a time asks for it.
    answered: Arc<tokio::sync::Mutex<Option<Answered>>>,
    fetching: Arc<Fetching>,
}

/// What was found out about a URL, and when.
#[derive(Debug)]
struct Answered {
    when: Instant,
    /// Why the copy may be out of date.
    stale: Option<String>,
}

impl Cache {
    /// A cache that verifies servers with the system's CAs and those in the directory `ca_path`.
    pub fn new(ca_path: &Path) -> Self {
        Self {
            ca_path: ca_path.to_owned(),
            client: Arc::default(),
            urls: Arc::default(),
        }
    }

    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = client_builder(&self.ca_path)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL)
            .timeout(LONGEST)
            .redirect(https_stays_https())
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }

    fn asked(&self, url: &Url) -> Asked {
        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        urls.entry(url.clone()).or_default().clone()
    }

    /// How far `url` has been fetched, now and later, whoever fetches it.
    pub(super) fn fetching(&self, url: &Url) -> Arc<Fetching> {
        self.asked(url).fetching
    }

    /// The copy of `url`, after its server was asked whether there is a newer one. When the server
    /// cannot be reached or refuses, the copy that is there counts, and that is said.
    ///
    /// # Errors
    /// When there is no copy and none can be had, or the server tells no Last-Modified.
    pub async fn fetch(&self, layout: &Layout, url: &Url) -> Result<PathBuf, ImageError> {
        let answered = self.asked(url).answered;
        let mut asked = answered.lock().await;
        let path = path(layout, url);
        let is_fresh = |answered: &Answered| {
            let pause = answered.stale.as_ref().map_or(FRESH, |_| STALE);
            answered.when.elapsed() < pause
        };
        let cached = modified(layout, &path).await?;
        if cached.is_some() && asked.as_ref().is_some_and(is_fresh) {
            return Ok(path);
        }
        let outcome = self.ask(layout, url, &path, cached).await;
        let stale = match outcome {
            Ok(()) => None,
            Err(error @ ImageError::NoLastModified { .. }) => return Err(error),
            Err(error) if cached.is_none() => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        say(url, asked.as_ref(), stale.as_deref());
        let when = Instant::now();
        *asked = Some(Answered { when, stale });
        Ok(path)
    }

    /// Asks the server, and takes over what is new.
    async fn ask(
        &self,
        layout: &Layout,
        url: &Url,
        path: &Path,
        cached: Option<(SystemTime, u64)>,
    ) -> Result<(), ImageError> {
        let failed = |why: String| ImageError::Fetch {
            url: shown(url),
            why,
        };
        let chain = |error: reqwest::Error| failed(text::causes(&error.without_url()));
        let mut request = self.client().map_err(chain)?.get(url.clone());
        if let Some((since, _)) = cached {
            request = request.header(IF_MODIFIED_SINCE, httpdate::fmt_http_date(since));
        }
        let response = request.send().await.map_err(chain)?;
        match (response.status(), cached) {
            (StatusCode::NOT_MODIFIED, Some(_)) => return Ok(()),
            (StatusCode::OK, _) => {}
            (status, _) => return Err(failed(format!("the server answered {status}"))),
        }
        let last_modified = response.headers().get(LAST_MODIFIED);
        let last_modified = last_modified
            .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
            .ok_or_else(|| ImageError::NoLastModified { url: shown(url) })?;
        let length = response.content_length();
        // A server that knows nothing of conditions sends it all again.
        if cached.is_some_and(|(modified, size)| {
            modified == last_modified && length.is_none_or(|length| length == size)
        }) {
            return Ok(());
        }
        info!(
            "fetching the image {} ({}, of {})",
            shown(url),
            length.map_or("size not told".to_owned(), |bytes| format!("{bytes} bytes")),
            httpdate::fmt_http_date(last_modified)
        );
        let began = Instant::now();
        let mut meter = Meter::new(length, began);
        let fetching = self.fetching(url);
        let under_way = fetching.begin(length);
        let mut download = Download::begin(layout).await?;
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(chain)?;
            download.add(&chunk).await?;
            let done = under_way.add(chunk.len());
            if let Some(how_far) = meter.look(done, Instant::now()) {
                info!("fetching the image {}: {how_far}", shown(url));
            }
        }
        let size = download.finish(last_modified, path).await?;
        let taken = progress::taken(size, began.elapsed());
        info!("fetched the image {}: {taken}", shown(url));
        Ok(())
    }
}

/// Says once that a copy may be out of date, and that it is not any more.
fn say(url: &Url, before: Option<&Answered>, stale: Option<&str>) {
    let before = before.and_then(|answered| answered.stale.as_deref());
    match (before, stale) {
        (before, Some(why)) if before != Some(why) => {
            warn!("{why}; going on with the copy in imagecache, which may be out of date");
        }
        (Some(_), None) => info!("the image {} can be asked for again", shown(url)),
        (_, _) => {}
    }
}

/// The place of the copy: the URL with everything encoded that is not a letter or a digit, and
/// without what may be a password.
pub(super) fn path(layout: &Layout, url: &Url) -> PathBuf {
    let open = shown(url);
    let mut name: String = utf8_percent_encode(&open, NON_ALPHANUMERIC).to_string();
    if name.len() > MAX_NAME || open != url.as_str() {
        let digest = openssl::sha::sha256(url.as_str().as_bytes());
        let digits: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        name.truncate(MAX_NAME);
        name = format!("{name}-{digits}");
    }
    layout.imagecache().join(name)
}

/// Modification time and size of the copy, if there is one.
async fn modified(layout: &Layout, path: &Path) -> Result<Option<(SystemTime, u64)>, ImageError> {
    let (disk, copy) = (layout.disk().clone(), path.to_owned());
    let found = blocking::run(move || {
        disk.read(&copy)?;
        let found = std::fs::metadata(&copy)?;
        Ok((found.modified()?, found.len()))
    });
    match found.await {
        Ok(found) => Ok(Some(found)),
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ImageError::File {
            action: "look at",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A file that grows in `tmp`, and is thrown away unless it is finished.
struct Download {
    layout: Layout,
    temporary: PathBuf,
    file: Option<NewFile>,
    piece: Vec<u8>,
    size: u64,
}

impl Download {
    async fn begin(layout: &Layout) -> Result<Self, ImageError> {
        let temporary = temporary_path(&layout.tmp());
        let mut download = Self {
            layout: layout.clone(),
            temporary: temporary.clone(),
            file: None,
            piece: Vec::with_capacity(PIECE),
            size: 0,
        };
        let disk = layout.disk().clone();
        let made = blocking::run(move || disk.create_new(&temporary, PUBLIC)).await;
        download.file = Some(made.map_err(|source| download.failed("create", source))?);
        Ok(download)
    }

    async fn add(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), ImageError> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.size += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.with_file(move |file| file.write_all(&piece)).await
    }

    async fn with_file(
        &mut self,
        work: impl FnOnce(&mut NewFile) -> io::Result<()> + Send + 'static,
    ) -> Result<(), ImageError> {
        let Some(mut file) = self.file.take() else {
            return Err(self.failed("write", io::ErrorKind::NotFound.into()));
        };
        let (file, outcome) = blocking::run(move || {
            let outcome = work(&mut file);
            (file, outcome)
        })
        .await;
        self.file = Some(file);
        outcome.map_err(|source| self.failed("write", source))
    }

    /// Puts it in its place with the time that its server tells.
    async fn finish(mut self, modified: SystemTime, path: &Path) -> Result<u64, ImageError> {
        self.write().await?;
        self.with_file(move |file| {
            file.set_modified(modified)?;
            file.sync()
        })
        .await?;
        let (layout, from) = (self.layout.clone(), self.temporary.clone());
        let to = path.to_owned();
        let renamed = blocking::run(move || {
            layout.disk().create_dir_all(&layout.imagecache())?;
            layout.disk().rename(&from, &to)
        });
        renamed.await.map_err(|source| ImageError::File {
            action: "put the image in",
            path: path.to_owned(),
            source,
        })?;
        Ok(self.size)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ImageError {
        ImageError::File {
            action,
            path: self.temporary.clone(),
            source,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.layout.disk().discard(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_url_has_a_name_of_its_own_that_shows_no_password() {
        let layout = Layout::new("/state");
        let name = |url: &str| {
            let path = path(&layout, &Url::parse(url).unwrap());
            assert_eq!(path.parent(), Some(Path::new("/state/imagecache")));
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(
            name("https://example.org/a.iso"),
            "https%3A%2F%2Fexample%2Eorg%2Fa%2Eiso"
        );
        let secret = name("https://me:pw@example.org/a.iso?token=abc");
        assert!(secret.starts_with("https%3A%2F%2Fexample%2Eorg%2Fa%2Eiso-"));
        assert!(!secret.contains("pw") && !secret.contains("abc"));
        let long = |end: &str| name(&format!("http://x/{}{end}", "a/".repeat(300)));
        assert_ne!(long("a"), long("b"));
        assert!(long("a").len() < 255);
    }
}
