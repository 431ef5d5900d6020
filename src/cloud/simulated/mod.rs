//! `api = simulated`: a small OpenStack inside the process, for trying things out.
//!
//! It is a real HTTP server on the loopback interface that speaks the part of Keystone, Nova and
//! Glance that vcycled uses, with Nova's formats and behaviour. The OpenStack adapter talks to it
//! as to any other cloud, so that a simulated space goes through the same code as one in
//! production. Its VMs are tasks that behave as real ones do: they boot, read their machine
//! features, find work or none, write heartbeats and a shutdown message over HTTPS with a
//! certificate, and shut themselves down.
//!
//! What it offers is fixed: flavors `small`, `medium`, `large` and `xlarge` (1, 2, 4 and 8
//! processors), images `cernvm3`, `cernvm4` and `vm-raw` (and those that are uploaded), zones `zone-a` and `zone-b`. It keeps its
//! servers in `STATE/simulated/SPACE.json`; a restart of the daemon finds them again and goes on
//! with them. Nobody outside this host can reach it, and its password is a new one each time.
//!
//! It has no faults of its own: what goes wrong here goes wrong as it would elsewhere, by quotas,
//! certificates and time. With `simulated_fault_percent` it is as bad as real clouds are at their
//! worst (`faults`).

mod answer;
mod compute;
mod faults;
mod guest;
mod http_server;
mod identity;
mod images;
mod keypairs;
mod offer;
mod order;
mod project;
mod region;
mod storage;
mod vm;
mod volumes;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;
use crate::config::{OpenStackOptions, SimulatedOptions, space::OpenStackCredentials};
use crate::model::{CloudFacts, CloudId, CloudMachine, Leftover, SpaceName};
use crate::rng::{Purpose, Seed};

use super::http::FileBody;
use super::openstack::OpenStack;
use super::{
    Cloud, CloudError, CloudErrorKind, CreateRequest, Deletion, FoundImage, Leftovers, NewImage,
    Outside, Removal, Search, UploadProgress,
};

use faults::{Dice, Faults};
use guest::Guest;
use http_server::Front;
use identity::Access;
use project::Project;
use region::Region;
use storage::Place;
use vm::Vms;

/// The embedded cloud of one space. Dropping it stops the server and the VMs; what the VMs would
/// have done next, they do when it is started again.
#[derive(Debug)]
pub struct Simulated {
    adapter: OpenStack,
    options: OpenStackOptions,
    _stop: DropGuard,
}

impl Simulated {
    /// Starts the HTTP server and the VMs of one space, with all VMs that its file below
    /// `state_dir` has. VMs trust the CAs in `ca_path`; all waiting is done by `clock`.
    ///
    /// # Errors
    /// When no port can be had, when the file or the certificate of the VMs cannot be read, or
    /// when the directory of the file cannot be made.
    pub async fn start(
        space: &SpaceName,
        options: &SimulatedOptions,
        state_dir: &Path,
        ca_path: &Path,
        clock: Clock,
    ) -> Result<Self, CloudError> {
        let place = Place::new(state_dir, space);
        place.prepare()?;
        let guest = Arc::new(Guest::new(options.cert.as_deref(), ca_path)?);
        let (region, listener) = open(space, options, &place, clock, false).await?;

        let stop = CancellationToken::new();
        let (written, writer) = storage::writer(Arc::clone(&region), place, stop.clone());
        tokio::spawn(writer);
        let vms = Vms {
            region: Arc::clone(&region),
            guest,
            stop: stop.clone(),
        };
        vms.resume();
        let front = Front {
            region,
            vms: Some(vms),
            written: Some(written),
            faults: faults(options),
        };
        Self::serve(space, listener, front, ca_path, stop)
    }

    /// Answers from the file below `state_dir` as it is now, without running any VM, and refuses
    /// to create and to delete: for a look beside a running daemon. Nothing is written.
    ///
    /// # Errors
    /// When no port can be had or the file cannot be read.
    pub async fn look(
        space: &SpaceName,
        options: &SimulatedOptions,
        state_dir: &Path,
        ca_path: &Path,
        clock: Clock,
    ) -> Result<Self, CloudError> {
        let place = Place::new(state_dir, space);
        let (region, listener) = open(space, options, &place, clock, true).await?;
        let front = Front {
            region,
            vms: None,
            written: None,
            faults: None,
        };
        Self::serve(space, listener, front, ca_path, CancellationToken::new())
    }

    /// How to reach it as an OpenStack.
    pub fn options(&self) -> OpenStackOptions {
        self.options.clone()
    }

    fn serve(
        space: &SpaceName,
        listener: TcpListener,
        front: Front,
        ca_path: &Path,
        stop: CancellationToken,
    ) -> Result<Self, CloudError> {
        let options = reach(&front.region)?;
        let adapter = OpenStack::new(
            space,
            &options,
            &Outside::real(ca_path, front.region.clock.clone()),
        )?;
        tokio::spawn(http_server::serve(listener, Arc::new(front), stop.clone()));
        Ok(Self {
            adapter,
            options,
            _stop: stop.drop_guard(),
        })
    }
}

/// A region with what is on file, and the socket for it.
async fn open(
    space: &SpaceName,
    options: &SimulatedOptions,
    place: &Place,
    clock: Clock,
    read_only: bool,
) -> Result<(Arc<Region>, TcpListener), CloudError> {
    let no_port = |error: std::io::Error| {
        CloudError::new(
            CloudErrorKind::Transient,
            format!("start the simulated cloud of space {space} on 127.0.0.1"),
            error.to_string(),
        )
    };
    let kept = match read_only {
        true => place.read()?,
        false => place.take_over().await?,
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(no_port)?;
    let address = listener.local_addr().map_err(no_port)?;
    let seed = Seed::from_entropy();
    tracing::debug!(%space, %address, seed = seed.0, servers = kept.servers.len(), "simulated cloud");
    let fates = Dice::new(options, fault_seed(options), Purpose::SimulatedFates);
    let vms = seed.stream(Purpose::SimulatedVms);
    let project = Project::new(options.clone(), kept, vms, fates);
    // The password must not follow from a seed that is in the log.
    let access = Access::new(Seed::from_entropy().stream(Purpose::SimulatedVms));
    let base = format!("http://{address}");
    let region = Region::new(base, clock, access, project, read_only);
    Ok((Arc::new(region), listener))
}

/// Where the faults come from: the seed in the configuration, else a new one. The servers have
/// one of their own, which is new each time: their identifiers must not come again.
fn fault_seed(options: &SimulatedOptions) -> Seed {
    options.fault_seed.map_or_else(Seed::from_entropy, Seed)
}

fn faults(options: &SimulatedOptions) -> Option<Faults> {
    let dice = Dice::new(options, fault_seed(options), Purpose::SimulatedFaults);
    (options.fault_percent > 0).then(|| Faults::new(dice))
}

fn reach(region: &Region) -> Result<OpenStackOptions, CloudError> {
    let url = format!("{}/v3", region.base);
    let url = url::Url::parse(&url).map_err(|error| {
        CloudError::new(CloudErrorKind::Rejected, url.clone(), error.to_string())
    })?;
    Ok(OpenStackOptions {
        url,
        identity_version: Some(3),
        project: Some(identity::PROJECT.to_owned()),
        domain: identity::DOMAIN.to_owned(),
        credentials: OpenStackCredentials::Password {
            username: identity::USER.to_owned(),
            password: region.access.password().clone(),
        },
        region: Some(offer::REGION.to_owned()),
        zones: Vec::new(),
        security_groups: Vec::new(),
        network_uuid: None,
    })
}

#[async_trait]
impl Cloud for Simulated {
    async fn facts(&self) -> Result<CloudFacts, CloudError> {
        self.adapter.facts().await
    }

    async fn list(&self) -> Result<Vec<CloudMachine>, CloudError> {
        self.adapter.list().await
    }

    async fn find(&self, machine: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
        self.adapter.find(machine).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<CloudId, CloudError> {
        self.adapter.create(request).await
    }

    async fn delete(&self, id: &CloudId) -> Result<Deletion, CloudError> {
        self.adapter.delete(id).await
    }

    async fn leftovers(&self, search: &Search) -> Leftovers {
        self.adapter.leftovers(search).await
    }

    async fn remove(&self, search: &Search, leftover: &Leftover) -> Result<Removal, CloudError> {
        self.adapter.remove(search, leftover).await
    }

    async fn find_image(&self, image: &NewImage) -> Result<FoundImage, CloudError> {
        self.adapter.find_image(image).await
    }

    async fn upload_image(
        &self,
        image: &NewImage,
        file: &FileBody,
        progress: &UploadProgress,
    ) -> Result<CloudId, CloudError> {
        self.adapter.upload_image(image, file, progress).await
    }
}
