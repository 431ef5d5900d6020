//! The seam to the clouds: one narrow trait with a written contract.
//!
//! [`Cloud`] is everything that vcycled wants from a cloud. Each adapter keeps its wire format,
//! its authentication and its words for states to itself. What an adapter must hold is written at
//! the trait and checked by one contract suite (`tests/it/contract.rs`) that runs on all of them.
//!
//! An adapter never reads or writes state files, never decides, and never retries a create.

#[cfg(feature = "ec2")]
pub mod ec2;
pub mod http;
mod images;
mod leftovers;
pub mod openstack;
mod public_key;
mod shared;
pub mod simulated;

use std::collections::BTreeMap;
use std::fmt;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::config::{Api, SpaceConfig};
use crate::metrics::Metrics;
use crate::model::{
    CloudFacts, CloudId, CloudMachine, Flavor, Gigabytes, Leftover, MachineName, Seconds, Secret,
    Shortage,
};
use crate::rng::Seeds;

use http::{FileBody, Network};
use openstack::OpenStack;
use simulated::Simulated;

pub use images::{FoundImage, ImageFormat, NewImage, UploadProgress};
pub use leftovers::{Leftovers, NotListed, Removal, Search};

/// A connection to one space.
///
/// Contract:
///
/// 1. `facts` and `list` may be called again after an error; reads may be retried inside.
/// 2. `list` is complete (all pages, no machine twice) or an error. Never a part.
/// 3. `create` sends at most one request that creates. An answer that did not arrive, or that
///    cannot be understood, is [`CloudErrorKind::Ambiguous`]: the machine may exist. Every other
///    error kind says that no machine was made.
/// 4. `delete` of a machine that does not exist is `Ok(Deletion::AlreadyGone)`.
/// 5. Every call ends within a bounded time, and every error names the operation, the address
///    without secrets, and what the cloud answered.
/// 6. An expired or revoked token is renewed inside, once a call; [`CloudErrorKind::Auth`] means
///    that the credentials themselves do not work.
/// 7. Whatever an adapter makes beside machines (key pairs now; images, volumes, ports and floating
///    IPs when it makes such) bears the marks of the space and the factory from the request that
///    makes it on, as [`leftover`](crate::model::leftover) says, so that a crash leaves nothing that
///    nobody knows.
/// 8. There is one upload of an image at a time; `upload_image` may take what is unfinished of it
///    for dead.
/// 9. `leftovers` gives what bears the marks that were asked for and nothing else; each kind is
///    complete or says why it is not. A service that the cloud lacks or does not let us ask is no
///    error. It changes nothing and may be called again.
/// 10. `remove` looks again before it removes: what has lost our marks or found a user since it was
///    listed is left alone and is `Ok(Removal::Changed)`, or `InUse` where a machine uses it that no
///    listing shows; what is not there is `Ok(Removal::AlreadyGone)`. Afterwards a create makes anew
///    what it needs of it.
#[async_trait]
pub trait Cloud: Send + Sync + fmt::Debug {
    /// Connects if needed, and tells quotas and flavors.
    async fn facts(&self) -> Result<CloudFacts, CloudError>;

    /// The complete list of VMs in the space, ours or not. A VM that has ended but is still listed
    /// is [`Deleting`](crate::model::MachineState::Deleting) where it still takes room, and left
    /// out where it does not (EC2's terminated instances); one of ours that the cloud has ended by
    /// itself is [`Failed`](crate::model::MachineState::Failed) until it is deleted.
    async fn list(&self) -> Result<Vec<CloudMachine>, CloudError>;

    /// One machine by itself; `None` when the cloud says that there is no such machine, or that it has
    /// ended and takes no room any more. For one that the list lacks: Nova's leaves out servers of a cell
    /// that is down, and EC2's may lag behind.
    async fn find(&self, machine: &CloudId) -> Result<Option<CloudMachine>, CloudError>;

    /// Asks for one machine.
    async fn create(&self, request: &CreateRequest) -> Result<CloudId, CloudError>;

    /// Asks for the end of one machine.
    async fn delete(&self, id: &CloudId) -> Result<Deletion, CloudError>;

    /// Gives a machine of ours its metadata, where that cannot be done by the request that makes it.
    /// It is called after each creation, and in every cycle for each machine without marks; what was
    /// refused for good is not asked for again and is no error.
    async fn mark(
        &self,
        machine: &CloudId,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        let _ = (machine, metadata);
        Ok(())
    }

    /// What a machine was made from, where the cloud tells it and where a machine can be listed
    /// that has neither name nor marks yet.
    async fn user_data(&self, machine: &CloudId) -> Result<Option<Secret<Vec<u8>>>, CloudError> {
        let _ = machine;
        Ok(None)
    }

    /// All things beside machines that bear our marks, in use or not.
    async fn leftovers(&self, search: &Search) -> Leftovers;

    /// Removes one thing that the same search has found.
    async fn remove(&self, search: &Search, leftover: &Leftover) -> Result<Removal, CloudError>;

    /// What the cloud has of an image of ours. Changes nothing and may be called again.
    async fn find_image(&self, image: &NewImage) -> Result<FoundImage, CloudError> {
        Err(images::not_taken(image))
    }

    /// Uploads an image and waits until machines can boot from it. What an earlier upload of the
    /// same image has left unfinished is removed first. An upload takes as long as it needs; one
    /// that does not move for as long as a request may take is an error. It may be given up at any
    /// moment: what it has made by then bears the marks of the image.
    async fn upload_image(
        &self,
        image: &NewImage,
        file: &FileBody,
        progress: &UploadProgress,
    ) -> Result<CloudId, CloudError> {
        let _ = (file, progress);
        Err(images::not_taken(image))
    }
}

/// Everything that a new machine is made from.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Its name, which is also how a lost answer is found again.
    pub name: MachineName,
    /// The flavor.
    pub flavor: Flavor,
    /// The image, by the cloud's identifier or by name (an ambiguous name is an error).
    pub image: String,
    /// The volume to boot from, made from the image by the same request and deleted with the
    /// machine; `None` boots from the flavor's disk.
    pub volume: Option<Gigabytes>,
    /// The text of an OpenSSH public key for root, imported once for each distinct key.
    pub public_key: Option<String>,
    /// The contextualization, not yet encoded.
    pub user_data: Secret<Vec<u8>>,
    /// Metadata or tags: name, machinetype, space, manager, machinefeatures, jobfeatures,
    /// joboutputs.
    pub metadata: BTreeMap<String, String>,
    /// The zone to place it in; `None` leaves that to the cloud.
    pub zone: Option<String>,
}

/// What became of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The cloud took the request.
    Accepted,
    /// There was no such machine (any more).
    AlreadyGone,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To drive the space: an embedded cloud comes to life.
    Drive,
    /// To look at it beside a running daemon: an embedded cloud answers from its file.
    Look,
}

/// What connections meet outside of the program, each given from outside of it.
#[derive(Clone, Debug)]
pub struct Outside {
    /// The directory of CA certificates to verify servers with.
    pub ca_path: PathBuf,
    /// The time.
    pub clock: Clock,
    /// Randomness, for pauses.
    pub seeds: Seeds,
    /// What carries requests.
    pub network: Network,
    /// Where requests are counted.
    pub metrics: Metrics,
}

impl Outside {
    /// The network and the entropy of this host.
    pub fn real(ca_path: &Path, clock: Clock) -> Self {
        Self {
            ca_path: ca_path.to_owned(),
            clock,
            seeds: Seeds::default(),
            network: Network::default(),
            metrics: Metrics::default(),
        }
    }
}

/// Connects to the cloud of a space as its configuration says.
///
/// # Errors
/// When the connection cannot be set up, or this version has no adapter for the API.
pub async fn connect(
    space: &SpaceConfig,
    state_dir: &Path,
    outside: &Outside,
    what_for: Use,
) -> Result<Arc<dyn Cloud>, CloudError> {
    let (name, ca_path) = (&space.name, &outside.ca_path);
    let clock = outside.clock.clone();
    match (&space.api, what_for) {
        (Api::OpenStack(options), _) => Ok(Arc::new(OpenStack::new(name, options, outside)?)),
        (Api::Simulated(options), Use::Drive) => {
            let cloud = Simulated::start(name, options, state_dir, ca_path, clock).await?;
            Ok(Arc::new(cloud))
        }
        (Api::Simulated(options), Use::Look) => {
            let cloud = Simulated::look(name, options, state_dir, ca_path, clock).await?;
            Ok(Arc::new(cloud))
        }
        #[cfg(feature = "ec2")]
        (Api::Ec2(options), _) => {
            let sizes = space.flavor_sizes();
            Ok(Arc::new(ec2::Ec2::new(name, options, sizes, outside)?))
        }
        #[cfg(not(feature = "ec2"))]
        (Api::Ec2(_), _) => Err(CloudError::new(
            CloudErrorKind::Rejected,
            format!("connecting to the space {name}"),
            "api = ec2 is not part of this build: it was made without the cargo feature ec2",
        )),
    }
}

/// What kind of error this is: all that the rest of the program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudErrorKind {
    /// The thing does not exist.
    NotFound,
    /// A quota of the tenancy is used up.
    Quota,
    /// The cloud has no room for this flavor in this zone now, or no such zone to offer.
    Capacity,
    /// The credentials do not work, or may not do this.
    Auth,
    /// Too many requests; wait as long as told.
    RateLimited {
        /// How long the cloud asks to wait, when it says so.
        retry_after: Option<Seconds>,
    },
    /// Network or server trouble; nothing was changed on the cloud.
    Transient,
    /// A create whose outcome is not known: the machine may exist.
    Ambiguous,
    /// The cloud understood and refuses: a wrong name, image, size, or an answer we cannot read.
    Rejected,
}

impl CloudErrorKind {
    /// As a label of metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
            Self::Auth => "denied",
            Self::RateLimited { .. } => "rate_limited",
            Self::Transient => "transient",
            Self::Ambiguous => "ambiguous",
            Self::Rejected => "rejected",
        }
    }

    /// What the cloud has too little of, when that is what the error says.
    pub const fn shortage(self) -> Option<Shortage> {
        match self {
            Self::Quota => Some(Shortage::Quota),
            Self::Capacity => Some(Shortage::Hosts),
            Self::NotFound
            | Self::Auth
            | Self::RateLimited { .. }
            | Self::Transient
            | Self::Ambiguous
            | Self::Rejected => None,
        }
    }
}

/// An error of a cloud, ready to be shown: `POST http://nova/servers: 403 Forbidden: Quota exceeded`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct CloudError {
    /// What to decide by.
    pub kind: CloudErrorKind,
    /// What was tried, on which address (no secret in it).
    pub operation: String,
    /// What came back: status and the cloud's own message, or the network's error.
    pub message: String,
}

impl CloudError {
    /// An error of `kind`.
    pub fn new(
        kind: CloudErrorKind,
        operation: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation: operation.into(),
            message: message.into(),
        }
    }
}
