//! The complete list of instances, page by page: it is whole or an error.
//!
//! A page leads to the next by its token. A listing is begun again when an instance came twice or
//! a token was not taken any more; what was made a moment ago and is not listed yet is added from the
//! answer that made it. What has been terminated is left out, except for a machine of ours that the
//! cloud has ended by itself, or that has shut down and was made so that this ends it (all of spare
//! capacity are): it is a failed one, or one that has shut down, until it is deleted, so that its reason
//! and its end are told and what it says of the cloud's room is known.

use std::collections::{BTreeMap, HashSet};

use aws_sdk_ec2::types::Instance;
use tracing::debug;

use super::Ec2;
use super::errors::Problem;
use super::instance::{self, TERMINATED};
use crate::cloud::CloudError;
use crate::model::{CloudId, CloudMachine, Processors};

const ACTION: &str = "DescribeInstances";
/// How often a listing is begun.
const ATTEMPTS: usize = 3;
/// Instances of a page; Amazon's largest.
const PAGE: i32 = 1000;
/// The most pages of a listing: 100,000 machines at 20 a page.
const MAX_PAGES: usize = 5000;
/// The most machines of a listing, which bounds the memory it takes.
const MAX_MACHINES: usize = 100_000;

/// How one pass through the pages ended.
enum Pass {
    Complete(Listed),
    /// The list changed meanwhile; the error to give when it happens every time.
    Changed(CloudError),
}

/// What a listing holds.
#[derive(Default)]
struct Listed {
    machines: Vec<CloudMachine>,
    /// The type of each, in the same order.
    types: Vec<Option<String>>,
    terminated: HashSet<CloudId>,
}

impl Ec2 {
    pub(super) async fn list_all(&self) -> Result<Vec<CloudMachine>, CloudError> {
        let mut attempt = 1;
        let Listed {
            mut machines,
            types,
            terminated,
        } = loop {
            match self.list_once().await? {
                Pass::Complete(listed) => break listed,
                Pass::Changed(error) if attempt >= ATTEMPTS => return Err(error),
                Pass::Changed(error) => debug!(%error, attempt, "listing is begun again"),
            }
            attempt += 1;
        };
        self.fill_in_processors(&mut machines, &types).await?;
        self.memory.compare(&mut machines, &terminated);
        Ok(machines)
    }

    async fn list_once(&self) -> Result<Pass, CloudError> {
        let mut listed = Listed::default();
        let mut seen: HashSet<String> = HashSet::new();
        let mut token: Option<String> = None;
        loop {
            let is_first = token.is_none();
            let request = self.client.describe_instances().set_next_token(token);
            let size = self.version.has_pages().then_some(PAGE);
            let answer = request.set_max_results(size).send().await;
            let answer = match answer.map_err(Problem::from) {
                Ok(answer) => answer,
                Err(problem) => {
                    // A token that has grown old.
                    let lost = !is_first && problem.code().contains("NextToken");
                    let error = self.refused(ACTION, problem);
                    return lost.then_some(Pass::Changed(error.clone())).ok_or(error);
                }
            };
            let Some(reservations) = answer.reservations else {
                return Err(self.unreadable(ACTION, "it has no reservationSet"));
            };
            for found in reservations
                .into_iter()
                .flat_map(|one| one.instances.unwrap_or_default())
            {
                let (machine, kind) = self.read(found)?;
                if self.is_gone(&machine) {
                    listed.terminated.insert(machine.id);
                } else {
                    listed.machines.push(machine);
                    listed.types.push(kind);
                }
            }
            token = answer.next_token.filter(|token| !token.is_empty());
            if seen.len() >= MAX_PAGES || listed.len() > MAX_MACHINES {
                return Err(self.unreadable(
                    ACTION,
                    format_args!(
                        "it goes on after {} pages with {} machines",
                        seen.len(),
                        listed.len()
                    ),
                ));
            }
            let Some(next) = &token else {
                return Ok(match listed.first_twice() {
                    None => Pass::Complete(listed),
                    Some(id) => Pass::Changed(self.unreadable(
                        ACTION,
                        format_args!("it lists instance {id} more than once"),
                    )),
                });
            };
            if !seen.insert(next.clone()) {
                return Err(self.unreadable(ACTION, "its pages lead in a circle"));
            }
        }
    }

    /// An instance, with its type.
    fn read(&self, found: Instance) -> Result<(CloudMachine, Option<String>), CloudError> {
        let kind = found.instance_type.as_ref().map(|t| t.as_str().to_owned());
        let machine = instance::machine(found).map_err(|why| self.unreadable(ACTION, why))?;
        Ok((machine, kind))
    }

    /// Whether it is terminated and nothing of that is still to be told.
    fn is_gone(&self, machine: &CloudMachine) -> bool {
        machine.status == TERMINATED && !self.memory.is_to_be_told(machine, &self.space)
    }

    /// One instance by itself, that the list lacks. One that was made a moment ago may not be known yet.
    pub(super) async fn find_one(&self, id: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
        let request = self.client.describe_instances().instance_ids(id.as_str());
        let answer = match request.send().await.map_err(Problem::from) {
            Ok(answer) => answer,
            Err(problem) if problem.is_unknown_instance() && !self.memory.is_settling(id) => {
                return Ok(None);
            }
            Err(problem) => return Err(self.refused(ACTION, problem)),
        };
        let reservations = answer.reservations.into_iter().flatten();
        let instances = reservations.flat_map(|one| one.instances.unwrap_or_default());
        let mut named =
            instances.filter(|instance| instance.instance_id.as_deref() == Some(id.as_str()));
        let Some(found) = named.next() else {
            // An answer to another question tells nothing of this machine.
            return Err(self.unreadable(ACTION, format_args!("it has no instance {id}")));
        };
        let (mut machine, kind) = self.read(found)?;
        if self.is_gone(&machine) {
            return Ok(None);
        }
        self.fill_in_processors(std::slice::from_mut(&mut machine), &[kind])
            .await?;
        Ok(Some(machine))
    }

    /// What the service says of the type of each, else what the configuration says.
    async fn fill_in_processors(
        &self,
        machines: &mut [CloudMachine],
        types: &[Option<String>],
    ) -> Result<(), CloudError> {
        self.learn_types(types.iter().flatten().cloned()).await?;
        for (machine, kind) in machines.iter_mut().zip(types) {
            machine.processors = kind.as_deref().and_then(|kind| self.processors(kind));
        }
        Ok(())
    }

    /// The processors of an instance type, as far as anybody tells.
    pub(super) fn processors(&self, kind: &str) -> Option<Processors> {
        let told = self.types.processors(kind);
        told.or_else(|| self.flavors.get(kind).copied())
    }
}

impl Listed {
    fn len(&self) -> usize {
        self.machines.len() + self.terminated.len()
    }

    /// An instance that came twice. One that was terminated between two pages is in both lists.
    fn first_twice(&self) -> Option<&CloudId> {
        let mut ids = BTreeMap::new();
        let machines = self.machines.iter().map(|machine| &machine.id);
        machines
            .chain(&self.terminated)
            .find(|id| ids.insert(*id, ()).is_some())
    }
}
