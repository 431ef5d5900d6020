//! What is done about one image, from its source to the cloud. Everything here may take long and may
//! be given up at any await.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::progress::{self, Fetching, Meter};
use super::signature::{self, Rule};
use super::source::{Original, Version, name_of};
use super::{Cache, ImageError, cache};
use crate::blocking;
use crate::clock::Clock;
use crate::cloud::http::FileBody;
use crate::cloud::{Cloud, CloudErrorKind, FoundImage, UploadProgress};
use crate::config::ImageSource;
use crate::model::{CloudId, ImageState, Owner, Seconds, Timestamp};
use crate::state::Layout;
use crate::telemetry::{Lasted, Lasting, Telling};

/// How long it is believed that the cloud still has an image.
const BELIEVED: Seconds = Seconds::new(600);
/// The pause after a first failure; it doubles with each.
const PAUSE: Seconds = Seconds::new(60);
/// The longest pause.
const LONGEST_PAUSE: Seconds = Seconds::new(600);
/// How often an upload is looked at for the log.
const LOOK: Duration = Duration::from_secs(1);

/// An image as the configuration asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub source: ImageSource,
    /// `cernvm_signing_dn`.
    pub pattern: Option<String>,
    /// Whether machines are to be made from it: some target_share is not 0.
    pub used: bool,
}

/// What is known of one image.
#[derive(Debug)]
pub(super) struct Known {
    state: ImageState,
    /// The upload that is under way.
    upload: Option<(FileBody, Arc<UploadProgress>)>,
    /// How far its URL has been fetched, while that is under way.
    fetch: Option<Arc<Fetching>>,
    /// What has been found on the cloud, and when.
    ready: Option<(Version, Timestamp)>,
    /// What has a good signature, by this pattern.
    verified: Option<(Version, String)>,
    failure: Option<Failure>,
}

/// A failure that a pause follows.
#[derive(Debug)]
struct Failure {
    /// Of which content; `None` when there was none.
    version: Option<Version>,
    lasting: Lasting,
    until: Timestamp,
}

/// What a task finds out about an image and passes ask for.
#[derive(Debug)]
pub(super) struct Shared {
    known: Mutex<Known>,
    /// Whether it is more than nothing.
    looked: watch::Sender<bool>,
}

impl Shared {
    pub fn new() -> Self {
        let known = Known {
            state: waiting("not looked at yet"),
            upload: None,
            fetch: None,
            ready: None,
            verified: None,
            failure: None,
        };
        Self {
            known: Mutex::new(known),
            looked: watch::Sender::new(false),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, state: ImageState) {
        self.with(|known| {
            known.state = state;
            known.upload = None;
            known.fetch = None;
        });
        self.looked.send_replace(true);
    }

    /// How far it is now.
    pub fn state(&self) -> ImageState {
        self.with(|known| match (&known.upload, &known.fetch) {
            (Some((body, progress)), _) => ImageState::Uploading {
                id: progress.id(),
                sent: body.sent(),
                total: body.size(),
            },
            (None, Some(fetch)) if known.ready.is_none() => match fetch.shown() {
                Some(how_far) => waiting(format!("it is being fetched, {how_far}")),
                None => known.state.clone(),
            },
            (None, _) => known.state.clone(),
        })
    }

    /// Until it is there this is all that can be said.
    fn is_fetching(&self, how_far: Arc<Fetching>) {
        self.with(|known| {
            known.fetch = Some(how_far);
            if known.ready.is_none() && known.failure.is_none() {
                known.state = waiting("it is being fetched, or asked for at its server");
            }
        });
    }

    /// Waits until something is known.
    pub async fn is_looked_at(&self) {
        // Its sender is in `self`.
        drop(self.looked.subscribe().wait_for(|looked| *looked).await);
    }

    /// Something is wrong with what is believed to be on the cloud: it is looked at again.
    pub fn doubt(&self) {
        self.with(|known| known.ready = None);
    }

    /// A task that ended by itself, or was given up, uploads no more.
    pub fn no_upload(&self) {
        self.with(|known| {
            known.upload = None;
            known.fetch = None;
        });
    }
}

pub(super) fn waiting(why: impl Into<String>) -> ImageState {
    ImageState::Waiting { why: why.into() }
}

/// Everything that a task needs.
pub(super) struct Job {
    pub wanted: Wanted,
    pub shared: Arc<Shared>,
    pub cloud: Arc<dyn Cloud>,
    pub owner: Owner,
    pub layout: Layout,
    pub cache: Cache,
    pub ca_path: std::path::PathBuf,
    pub clock: Clock,
    /// Held by the one that uploads.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Job {
    /// Looks once, and does what is to be done.
    pub async fn run(self) {
        let pausing = self.shared.with(|known| {
            let failure = known.failure.as_ref();
            let failure = failure.filter(|failure| failure.version.is_none());
            failure.is_some_and(|failure| self.clock.now() < failure.until)
        });
        // To look at a file costs nothing.
        if pausing && matches!(self.wanted.source, ImageSource::Url(_)) {
            return;
        }
        let original = match self.open().await {
            Ok(Some(original)) => original,
            Ok(None) => {
                let why = "not fetched while target_share is 0";
                return self.shared.set(waiting(why));
            }
            Err(error) => return self.fail(None, &error),
        };
        if !self.has_news(&original.version) {
            return;
        }
        match self.bring(&original).await {
            Ok(Some(id)) => self.succeed(&original.version, id),
            Ok(None) => self.shared.set(ImageState::Unwanted),
            Err(error) => self.fail(Some(original.version), &error),
        }
    }

    /// The file of the image, up to date; `None` when nobody wants it and there is none.
    async fn open(&self) -> Result<Option<Original>, ImageError> {
        let disk = self.layout.disk();
        match &self.wanted.source {
            ImageSource::Cloud(_) => Ok(None),
            ImageSource::File(path) => Original::open(disk, path).await.map(Some),
            ImageSource::Url(url) if self.wanted.used => {
                self.shared.is_fetching(self.cache.fetching(url));
                let path = self.cache.fetch(&self.layout, url).await?;
                Original::open(disk, &path).await.map(Some)
            }
            ImageSource::Url(url) => {
                let path = cache::path(&self.layout, url);
                Ok(Original::open(disk, &path).await.ok())
            }
        }
    }

    /// Whether there is anything to do about this content now.
    fn has_news(&self, version: &Version) -> bool {
        let now = self.clock.now();
        self.shared.with(|known| {
            let is_ready = known.ready.as_ref().is_some_and(|(ready, when)| {
                ready == version && *when <= now && now.since(*when) < BELIEVED
            });
            let failed = known.failure.as_ref();
            let is_pausing = failed.is_some_and(|failure| {
                failure.version.as_ref() == Some(version) && now < failure.until
            });
            if let Some((ready, _)) = &known.ready
                && ready != version
            {
                // What the cloud has is no longer what the configuration names.
                known.ready = None;
                known.state = waiting("it has changed, and is looked at again");
            }
            !is_ready && !is_pausing
        })
    }

    /// Verifies the image, and brings it to the cloud if it is not there.
    async fn bring(&self, original: &Original) -> Result<Option<CloudId>, ImageError> {
        self.verify(original).await?;
        if let Some(id) = self.find(original).await?.ready {
            return Ok(Some(id));
        }
        if !self.wanted.used {
            return Ok(None);
        }
        self.shared
            .set(waiting("another image of the space is uploaded first"));
        let _turn = self.turn.lock().await;
        self.upload(original).await.map(Some)
    }

    async fn find(&self, original: &Original) -> Result<FoundImage, ImageError> {
        let image = original.image(&self.wanted.source, &self.owner);
        Ok(self.cloud.find_image(&image).await?)
    }

    async fn verify(&self, original: &Original) -> Result<(), ImageError> {
        let Some(pattern) = &self.wanted.pattern else {
            return Ok(());
        };
        let verified = (original.version.clone(), pattern.clone());
        if self
            .shared
            .with(|known| known.verified.as_ref() == Some(&verified))
        {
            return Ok(());
        }
        self.shared.set(waiting("its signature is being verified"));
        let image = name_of(&self.wanted.source);
        let rule = Rule {
            pattern,
            ca_path: &self.ca_path,
            now: self.clock.now(),
        };
        let outcome = signature::verify(original.body.file(), original.version.size, rule).await;
        let dn = outcome.map_err(|source| ImageError::Signature {
            image: image.clone(),
            source,
        })?;
        info!("the image {image} is signed by {dn}");
        self.shared.with(|known| known.verified = Some(verified));
        Ok(())
    }

    async fn upload(&self, original: &Original) -> Result<CloudId, ImageError> {
        let image = original.image(&self.wanted.source, &self.owner);
        let body = &original.body;
        info!(
            "uploading the image {} as {:?} ({}, {} bytes)",
            name_of(&self.wanted.source),
            image.name,
            image.format.word(),
            body.size()
        );
        let began = Instant::now();
        let progress = Arc::new(UploadProgress::default());
        self.shared
            .with(|known| known.upload = Some((body.clone(), Arc::clone(&progress))));
        self.shared.looked.send_replace(true);
        let uploading = self.cloud.upload_image(&image, body, &progress);
        let outcome = tokio::select! {
            outcome = uploading => outcome,
            never = tell(&image.name, body) => match never {},
        };
        let id = outcome?;
        info!(
            "uploaded the image {:?} as {id}: {}",
            image.name,
            progress::taken(body.size(), began.elapsed())
        );
        Ok(id)
    }

    fn succeed(&self, version: &Version, id: CloudId) {
        let failed = self.shared.with(|known| {
            known.ready = Some((version.clone(), self.clock.now()));
            known.failure.take()
        });
        if let Some(failure) = failed {
            let name = name_of(&self.wanted.source);
            let Lasted { count, since } = failure.lasting.lasted();
            let since = since.to_rfc3339();
            info!("the image {name} can be used, after {count} failure(s) since {since}");
        }
        self.shared.set(ImageState::Ready { id });
    }

    /// Says once what is wrong, and pauses.
    fn fail(&self, version: Option<Version>, error: &ImageError) {
        let now = self.clock.now();
        let text = error.to_string();
        let is_known = self.shared.with(|known| known.ready.is_some());
        // The cloud has trouble: what it was known to have it has still.
        let passing = matches!(error, ImageError::Cloud(error) if matches!(
            error.kind,
            CloudErrorKind::Transient | CloudErrorKind::RateLimited { .. }
        ));
        if is_known && passing {
            debug!("cannot look after the image on the cloud: {text}");
            return;
        }
        let (pause, telling) = self.shared.with(|known| {
            let before = known.failure.take();
            let before = before.filter(|failure| failure.version == version);
            let (telling, lasting) = match before.map(|failure| failure.lasting) {
                Some(mut lasting) => (lasting.again(&text, now), lasting),
                None => (Telling::News, Lasting::new(&text, now)),
            };
            let doublings = lasting.lasted().count.saturating_sub(1).min(8);
            let pause = Seconds::new(PAUSE.get() << doublings).min(LONGEST_PAUSE);
            known.ready = None;
            known.failure = Some(Failure {
                version,
                lasting,
                until: now + pause,
            });
            (pause, telling)
        });
        let consequence =
            format!("no machines are created from this image, and the next try is in {pause} s");
        match telling {
            Telling::News => warn!("{text}; {consequence}"),
            Telling::Reminder(Lasted { count, since }) => warn!(
                "still: {text}; {count} tries since {} have failed, {consequence}",
                since.to_rfc3339()
            ),
            Telling::Nothing => debug!("{text}; the next try is in {pause} s"),
        }
        self.shared.set(waiting(text));
    }
}

/// Says in the log how far an upload is.
async fn tell(name: &str, body: &FileBody) -> std::convert::Infallible {
    let mut meter = Meter::new(Some(body.size()), Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(how_far) = meter.look(body.sent(), Instant::now()) {
            info!("uploading the image {name:?}: {how_far}");
        }
    }
}

/// Looks at an image without a daemon, and changes nothing anywhere.
pub(super) async fn look(
    wanted: &Wanted,
    cloud: &dyn Cloud,
    owner: &Owner,
    layout: &Layout,
    rule: (&std::path::Path, Timestamp),
) -> ImageState {
    let name = name_of(&wanted.source);
    let path = match &wanted.source {
        ImageSource::Cloud(_) => return waiting("the cloud has it"),
        ImageSource::File(path) => path.clone(),
        ImageSource::Url(url) => {
            let path = cache::path(layout, url);
            let there = path.clone();
            if !blocking::run(move || there.exists()).await {
                return waiting(format!("the daemon has not fetched {name} yet"));
            }
            path
        }
    };
    let looking = async {
        let original = Original::open(layout.disk(), &path).await?;
        if let Some(pattern) = &wanted.pattern {
            let (ca_path, now) = rule;
            let rule = Rule {
                pattern,
                ca_path,
                now,
            };
            let outcome = signature::verify(original.body.file(), original.version.size, rule);
            outcome.await.map_err(|source| ImageError::Signature {
                image: name.clone(),
                source,
            })?;
        }
        let image = original.image(&wanted.source, owner);
        Ok::<_, ImageError>(cloud.find_image(&image).await?)
    };
    match looking.await {
        Err(error) => waiting(error.to_string()),
        Ok(FoundImage {
            ready: Some(id), ..
        }) => ImageState::Ready { id },
        Ok(_) if !wanted.used => ImageState::Unwanted,
        Ok(found) if found.unfinished.is_empty() => {
            waiting(format!("the daemon has not uploaded {name} yet"))
        }
        Ok(_) => waiting(format!(
            "{name} is being uploaded, or its upload was broken off"
        )),
    }
}
