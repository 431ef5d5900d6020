//! EC2: Amazon's own, and the endpoints of OpenStack and others that speak its query API.
//!
//! The SDK knows the API, `client` what of it is ours. Nothing of the SDK leaves this module.
//!
//! Invariants, beside those of [`Cloud`]:
//! 1. Every request carries the configured `Version`, and its signature the configured region and
//!    service; a parameter that this version does not know is not sent (`version`).
//! 2. Only a whole document is read (`xml`), and only a complete listing is one (`list`).
//! 3. Nothing that changes something is repeated here, by the SDK or by us.
//! 4. A cycle costs one request for each page of the listing, and one more when an instance type is
//!    new or not known to the service.
//! 5. No message has the secret key or user_data in it.
//!
//! EC2 is eventually consistent: for a while after RunInstances other requests may not know the
//! instance yet. `memory` knows what has been made just now, so that "not found" is not taken for
//! "gone" and a listing that lags is not taken for the truth.

mod blame;
mod client;
mod create;
mod errors;
mod faults;
mod images;
mod instance;
mod keys;
mod leftovers;
mod list;
mod memory;
mod tags;
mod types;
mod version;
mod xml;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_ec2::Client;

use self::images::Images;
use self::keys::Keys;
use self::memory::Memory;
use self::types::Types;
use self::version::Version;
use super::http::{Http, HttpTimes, shown};
use super::{Cloud, CloudError, CreateRequest, Deletion, Leftovers, Outside, Removal, Search};
use crate::config::Ec2Options;
use crate::model::{
    CloudFacts, CloudId, CloudLimits, CloudMachine, Leftover, Processors, Secret, SpaceName,
};

/// A connection to one account of one EC2.
pub struct Ec2 {
    space: SpaceName,
    options: Ec2Options,
    version: Version,
    /// The flavors that the configuration names, and the processors that it says they have.
    flavors: BTreeMap<String, Processors>,
    http: Arc<Http>,
    client: Client,
    types: Types,
    images: Images,
    keys: Keys,
    memory: Memory,
}

impl fmt::Debug for Ec2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2")
            .field("space", &self.space)
            .field("url", &self.options.url.host_str())
            .finish_non_exhaustive()
    }
}

impl Ec2 {
    /// Prepares a connection; asks nobody yet. Building it can cost a tenth of a second (TLS): make
    /// one for each space and keep it. `flavors` are the instance types that may be asked for, with
    /// the processors that each has where the service does not tell.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        space: &SpaceName,
        options: &Ec2Options,
        flavors: BTreeMap<String, Processors>,
        outside: &Outside,
    ) -> Result<Self, CloudError> {
        Self::with_times(space, options, flavors, (outside, HttpTimes::default()))
    }

    /// The same with other times than the usual ones.
    ///
    /// # Errors
    /// As [`Ec2::new`].
    pub fn with_times(
        space: &SpaceName,
        options: &Ec2Options,
        flavors: BTreeMap<String, Processors>,
        (outside, times): (&Outside, HttpTimes),
    ) -> Result<Self, CloudError> {
        let http = Arc::new(Http::new(space, &options.url, outside, times)?);
        Ok(Self {
            space: space.clone(),
            version: Version::new(&options.version),
            flavors,
            client: client::client(options, Arc::clone(&http), outside.clock.clone()),
            http,
            types: Types::default(),
            images: Images::default(),
            keys: Keys::default(),
            memory: Memory::default(),
            options: options.clone(),
        })
    }

    /// What a request tries, for people: the action, and the address without user and query.
    fn operation(&self, action: &str) -> String {
        format!("{action} at {}", shown(&self.options.url))
    }

    fn secret(&self) -> &str {
        self.options.secret_key.reveal()
    }
}

#[async_trait]
impl Cloud for Ec2 {
    /// EC2 tells no quota that can be compared with machines or processors.
    async fn facts(&self) -> Result<CloudFacts, CloudError> {
        let flavors = self
            .http
            .in_time("read the facts", self.configured_flavors());
        Ok(CloudFacts {
            limits: CloudLimits::default(),
            flavors: flavors.await?,
        })
    }

    async fn list(&self) -> Result<Vec<CloudMachine>, CloudError> {
        self.http
            .in_time("list the machines", self.list_all())
            .await
    }

    async fn find(&self, machine: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
        self.find_one(machine).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<CloudId, CloudError> {
        self.run_instance(request).await
    }

    async fn delete(&self, id: &CloudId) -> Result<Deletion, CloudError> {
        self.terminate(id).await
    }

    async fn mark(
        &self,
        machine: &CloudId,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        self.tag(machine, metadata).await
    }

    async fn user_data(&self, machine: &CloudId) -> Result<Option<Secret<Vec<u8>>>, CloudError> {
        self.told_user_data(machine).await
    }

    async fn leftovers(&self, search: &Search) -> Leftovers {
        self.find_leftovers(search).await
    }

    async fn remove(&self, search: &Search, leftover: &Leftover) -> Result<Removal, CloudError> {
        self.remove_leftover(search, leftover).await
    }
}
