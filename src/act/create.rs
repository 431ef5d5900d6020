//! Carrying out creates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use futures_util::StreamExt;
use tracing::debug;

use super::userdata::{Context, UserData, UserDataError, read_file};
use super::{Actor, CONCURRENCY, directory, mjf};
use crate::cloud::{CloudError, CloudErrorKind, CreateRequest};
use crate::config::{ImageSource, MachinetypeConfig};
use crate::decide::{self, Create};
use crate::model::{
    CloudId, Gigabytes, ImageState, MachineFiles, MachineName, MachinetypeName, Place, Placement,
    WriteToken,
};
use crate::state::{NewMachine, Published, StateError};

/// So many errors in a row stop the creations of a pass.
const MAX_ERRORS_IN_A_ROW: u32 = 3;

/// The key that gives access from the factory when no root_public_key is configured.
const FACTORY_ROOT_KEY: &str = "/root/.ssh/id_rsa.pub";

/// What became of one create.
#[derive(Debug)]
pub struct CreateOutcome {
    /// Which machine.
    pub machine: MachineName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// Its directory, when there is one now.
    pub files: Option<MachineFiles>,
    /// How it went.
    pub result: Result<CloudId, CreateError>,
    /// Where the cloud said that it has no room, and how.
    pub no_room: Vec<(Placement, CloudError)>,
}

/// Why a machine was not created, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The cloud refused or did not answer.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// What has to be on disk first could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its user_data cannot be made, or its public key cannot be read.
    #[error(transparent)]
    UserData(#[from] UserDataError),
    /// Earlier creates of this pass failed in a way that makes this one pointless.
    #[error("not tried: {0}")]
    NotTried(String),
}

impl CreateError {
    /// All that [`CreateError::word`] gives.
    pub const WORDS: [&'static str; 10] = [
        "not_found",
        "quota",
        "capacity",
        "denied",
        "rate_limited",
        "transient",
        "ambiguous",
        "rejected",
        "state_directory",
        "user_data",
    ];

    /// As a label of metrics; `None` when nothing was tried.
    pub fn word(&self) -> Option<&'static str> {
        match self {
            Self::Cloud(error) => Some(error.kind.word()),
            Self::State(_) => Some("state_directory"),
            Self::UserData(_) => Some("user_data"),
            Self::NotTried(_) => None,
        }
    }
}

/// What the creates of one pass tell each other.
#[derive(Debug, Default)]
struct Pass {
    /// Where the cloud has no room now.
    exhausted: BTreeSet<Place>,
    /// Errors in a row that are about the cloud as a whole.
    cloud_errors: u32,
    /// Errors in a row that are about one machinetype, so that one that cannot be created never
    /// stops the others.
    machinetype_errors: BTreeMap<MachinetypeName, u32>,
    /// Why nothing more is tried.
    stopped: Option<String>,
}

/// Carries out all creates, some at once.
pub async fn create_all(actor: &Actor, creates: Vec<Create>) -> Vec<CreateOutcome> {
    let pass = Mutex::new(Pass::default());
    futures_util::stream::iter(creates)
        .map(|create| create_one(actor, create, &pass))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await
}

async fn create_one(actor: &Actor, create: Create, pass: &Mutex<Pass>) -> CreateOutcome {
    let (mut files, mut no_room) = (None, Vec::new());
    let result = match with(pass, |pass| pass.refuses(&create.machinetype)) {
        Some(why) => Err(CreateError::NotTried(why)),
        None => {
            let result = try_create(actor, &create, pass, (&mut files, &mut no_room)).await;
            with(pass, |pass| pass.learn(&create.machinetype, &result));
            result
        }
    };
    CreateOutcome {
        machine: create.machine,
        machinetype: create.machinetype,
        files,
        result,
        no_room,
    }
}

/// A lock that is never held across an await and that a panic elsewhere does not break.
fn with<T>(pass: &Mutex<Pass>, work: impl FnOnce(&mut Pass) -> T) -> T {
    let mut guard = pass
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    work(&mut guard)
}

impl Pass {
    fn refuses(&self, machinetype: &MachinetypeName) -> Option<String> {
        if let Some(why) = &self.stopped {
            return Some(why.clone());
        }
        let errors = self.machinetype_errors.get(machinetype).copied();
        (errors.unwrap_or(0) >= MAX_ERRORS_IN_A_ROW)
            .then(|| format!("{MAX_ERRORS_IN_A_ROW} errors in a row for this machinetype"))
    }

    fn learn(&mut self, machinetype: &MachinetypeName, result: &Result<CloudId, CreateError>) {
        let of_machinetype = self
            .machinetype_errors
            .entry(machinetype.clone())
            .or_default();
        match result {
            Ok(_) => {
                *of_machinetype = 0;
                self.cloud_errors = 0;
            }
            Err(CreateError::State(error)) => {
                self.stopped = Some(format!("the state directory: {error}"));
            }
            Err(CreateError::UserData(_)) => *of_machinetype += 1,
            Err(CreateError::NotTried(_)) => {}
            Err(CreateError::Cloud(error)) => match error.kind {
                // The flavor has been taken out already.
                CloudErrorKind::Quota | CloudErrorKind::Capacity => {}
                CloudErrorKind::Rejected | CloudErrorKind::NotFound => *of_machinetype += 1,
                CloudErrorKind::RateLimited { .. } => {
                    self.stopped = Some("the cloud asks for fewer requests".to_owned());
                }
                CloudErrorKind::Auth | CloudErrorKind::Transient | CloudErrorKind::Ambiguous => {
                    self.cloud_errors += 1;
                    if self.cloud_errors >= MAX_ERRORS_IN_A_ROW {
                        self.stopped = Some(format!(
                            "{MAX_ERRORS_IN_A_ROW} errors of the cloud in a row"
                        ));
                    }
                }
            },
        }
    }
}

async fn try_create(
    actor: &Actor,
    create: &Create,
    pass: &Mutex<Pass>,
    (files, no_room): (&mut Option<MachineFiles>, &mut Vec<(Placement, CloudError)>),
) -> Result<CloudId, CreateError> {
    unless_over(actor)?;
    let Some(machinetype) = actor.config.machinetypes.get(&create.machinetype) else {
        return Err(CreateError::NotTried("its machinetype is gone".to_owned()));
    };
    let image = image(actor, machinetype)?;
    let context = Context {
        space: &actor.config,
        machinetype,
        machine: &create.machine,
        factory: &actor.factory,
        heartbeats: &actor.heartbeats,
        clock: &actor.clock,
        seeds: &actor.seeds,
    };
    let public_key = public_key(machinetype).await?;
    // Last: the machine's time counts from the moment that this takes.
    let user_data = actor.templates.user_data(context).await?;
    for placement in &create.placements {
        let place = placement.place();
        if with(pass, |pass| pass.exhausted.contains(&place)) {
            continue;
        }
        // Getting here can have taken a while.
        unless_over(actor)?;
        let flavor = placement.flavor.clone();
        let request = CreateRequest {
            name: create.machine.clone(),
            volume: actor.config.volume(flavor.processors),
            flavor,
            image: image.to_owned(),
            public_key: public_key.clone(),
            user_data: user_data.text.clone(),
            metadata: metadata(actor, machinetype, &create.machine),
            zone: placement.zone.clone(),
        };
        let error = match ask(actor, machinetype, (&request, &user_data), files).await {
            Err(CreateError::Cloud(error)) => error,
            other => return other,
        };
        let Some(shortage) = error.kind.shortage() else {
            return Err(error.into());
        };
        let places = decide::places(&actor.config, place, shortage);
        with(pass, |pass| pass.exhausted.extend(places));
        no_room.push((placement.clone(), error));
    }
    Err(no_room.last().map_or_else(
        || CreateError::NotTried("the cloud has no room for its flavor(s) now".to_owned()),
        |(_, error)| CreateError::Cloud(error.clone()),
    ))
}

/// What the cloud calls the image of the machinetype.
fn image<'a>(actor: &'a Actor, machinetype: &'a MachinetypeConfig) -> Result<&'a str, CreateError> {
    match (&machinetype.root_image, actor.images.get(&machinetype.name)) {
        (ImageSource::Cloud(image), _) => Ok(image),
        (ImageSource::File(_) | ImageSource::Url(_), Some(ImageState::Ready { id })) => {
            Ok(id.as_str())
        }
        (ImageSource::File(_) | ImageSource::Url(_), _) => {
            let why = "its image is not on the cloud".to_owned();
            Err(CreateError::NotTried(why))
        }
    }
}

fn unless_over(actor: &Actor) -> Result<(), CreateError> {
    if actor.stop.is_cancelled() {
        return Err(CreateError::NotTried("the daemon is stopping".to_owned()));
    }
    if actor.is_late(actor.hold) {
        return Err(CreateError::NotTried(
            "it was decided too long ago; the next cycle decides anew".to_owned(),
        ));
    }
    Ok(())
}

/// One machine with one flavor in one zone: directory, request, identifier.
async fn ask(
    actor: &Actor,
    machinetype: &MachinetypeConfig,
    (request, user_data): (&CreateRequest, &UserData),
    files: &mut Option<MachineFiles>,
) -> Result<CloudId, CreateError> {
    let new = new_machine(actor, machinetype, request, user_data);
    let made = actor
        .on_disk(move |store| store.create_machine(&new))
        .await?;
    *files = Some(made);
    match actor.cloud.create(request).await {
        Ok(id) => {
            let (name, written) = (request.name.clone(), id.clone());
            if let Some(files) = files {
                files.id = Some(id.clone());
            }
            // Should this fail, the next scan finds the machine by its name.
            actor
                .on_disk(move |store| store.set_id(&name, &written))
                .await
                .inspect_err(|_| {
                    if let Some(files) = files {
                        files.id = None;
                    }
                })?;
            // Only now: a machine without marks is known by what is on file.
            if let Err(error) = actor.cloud.mark(&id, &request.metadata).await {
                debug!(machine = %request.name, "cannot be marked: {error}; the next cycle tries again");
            }
            Ok(id)
        }
        Err(error) if error.kind == CloudErrorKind::Ambiguous => Err(error.into()),
        Err(error) => {
            let name = request.name.clone();
            actor
                .on_disk(move |store| store.remove_machine(&name))
                .await?;
            *files = None;
            Err(error.into())
        }
    }
}

fn new_machine(
    actor: &Actor,
    machinetype: &MachinetypeConfig,
    request: &CreateRequest,
    user_data: &UserData,
) -> NewMachine {
    let names = (&request.name, &machinetype.name);
    let size = size(request);
    NewMachine {
        flavor: Some(request.flavor.id.clone()),
        zone: request.zone.clone(),
        user_data: Some(user_data.kept()),
        token: user_data.token.as_ref().map(WriteToken::hash),
        ..directory::contents(
            &actor.config,
            &actor.factory,
            names,
            size,
            user_data.created,
        )
    }
}

/// What the machine will have. A volume that it boots from takes the place of the flavor's disk.
fn size(request: &CreateRequest) -> mjf::Size {
    let flavor = &request.flavor;
    mjf::Size {
        processors: flavor.processors,
        memory_mb: flavor.memory_mb,
        disk_gb: request.volume.map(Gigabytes::get).or(flavor.disk_gb),
    }
}

/// The metadata keys of the manual page, and those by which a machine is known again.
pub(super) fn metadata(
    actor: &Actor,
    machinetype: &MachinetypeConfig,
    machine: &MachineName,
) -> BTreeMap<String, String> {
    let space = &actor.config;
    [
        ("name", machine.to_string()),
        ("machinetype", machinetype.name.to_string()),
        ("space", space.name.to_string()),
        ("manager", actor.factory.to_string()),
        (
            "machinefeatures",
            mjf::url(space, machine, Published::Machinefeatures),
        ),
        (
            "jobfeatures",
            mjf::url(space, machine, Published::Jobfeatures),
        ),
        (
            "joboutputs",
            mjf::joboutputs_url(space, machinetype, machine),
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// The text of root_public_key; without that option the factory's own root key, where it can be
/// read.
pub(super) async fn public_key(
    machinetype: &MachinetypeConfig,
) -> Result<Option<String>, UserDataError> {
    let (path, wanted) = match &machinetype.root_public_key {
        Some(path) => (path.as_path(), true),
        None => (Path::new(FACTORY_ROOT_KEY), false),
    };
    match read_file("root_public_key", path).await {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) if !wanted => Ok(None),
        Err(problem) => Err(problem),
    }
}
