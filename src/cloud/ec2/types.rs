//! What is known of instance types: their processors and memory.
//!
//! Amazon tells of hundreds; only those are asked for that the configuration names or that
//! instances have, and they do not change. Other services do not know the question at all.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, InstanceTypeInfo};
use tokio::time::Instant;
use tracing::info;

use super::Ec2;
use super::errors::{Doing, Problem};
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::{Flavor, Processors};

/// How long it is believed that a type does not exist.
const UNKNOWN_FOR: Duration = Duration::from_secs(600);
/// How long it is believed that the service tells nothing of types.
const SILENT_FOR: Duration = Duration::from_secs(3600);
/// So many types are asked for at once; a filter takes 200 values.
const AT_ONCE: usize = 100;
/// The most pages of one answer.
const MAX_PAGES: usize = 100;
/// So many types are remembered; Amazon has about a thousand.
const MAX_TYPES: usize = 10_000;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Types(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    told: HashMap<String, Told>,
    /// When the service did not know a type.
    unknown: HashMap<String, Instant>,
    /// When the service would not tell.
    silent: Option<Instant>,
}

/// What the service says of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    processors: Processors,
    memory_mb: Option<u64>,
}

impl Types {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The processors of a type, if the service has told.
    pub(super) fn processors(&self, name: &str) -> Option<Processors> {
        self.with(|known| known.told.get(name).map(|told| told.processors))
    }
}

impl Ec2 {
    /// The flavors that the configuration names: those that exist where the service tells, else
    /// all, with what the configuration says of their processors.
    pub(super) async fn configured_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let tells = self.learn_types(self.flavors.keys().cloned()).await?;
        let flavor = |(name, configured): (&String, &Processors)| {
            let told = self.types.with(|known| known.told.get(name).copied());
            let told = match (told, tells) {
                (Some(told), _) => told,
                (None, true) => return None,
                (None, false) => Told {
                    processors: *configured,
                    memory_mb: None,
                },
            };
            Some(Flavor {
                id: name.clone(),
                name: name.clone(),
                processors: told.processors,
                memory_mb: told.memory_mb,
                // Of the root disk, which is that of the image; instance stores are another matter.
                disk_gb: None,
            })
        };
        Ok(self.flavors.iter().filter_map(flavor).collect())
    }

    /// Learns of these types what is not known yet. Says whether the service tells of types.
    pub(super) async fn learn_types(
        &self,
        names: impl Iterator<Item = String>,
    ) -> Result<bool, CloudError> {
        if !self.version.has_instance_types() {
            return Ok(false);
        }
        let missing: Option<BTreeSet<String>> = self.types.with(|known| {
            known.unknown.retain(|_, when| when.elapsed() < UNKNOWN_FOR);
            if known.silent.is_some_and(|when| when.elapsed() < SILENT_FOR) {
                return None;
            }
            let is_new =
                |name: &String| !known.told.contains_key(name) && !known.unknown.contains_key(name);
            Some(names.filter(is_new).collect())
        });
        let Some(missing) = missing else {
            return Ok(false);
        };
        let missing: Vec<String> = missing.into_iter().collect();
        for some in missing.chunks(AT_ONCE) {
            if !self.ask_types(some).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn ask_types(&self, names: &[String]) -> Result<bool, CloudError> {
        const ACTION: &str = "DescribeInstanceTypes";
        let filter = Filter::builder()
            .name("instance-type")
            .set_values(Some(names.to_vec()))
            .build();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let request = self.client.describe_instance_types();
            let request = request.filters(filter.clone()).set_next_token(token);
            let answer = match request.send().await.map_err(Problem::from) {
                Ok(answer) => answer,
                Err(problem) if is_silence(&problem) => {
                    let error = self.refused(ACTION, problem);
                    info!("{error}; cpu_per_machine says how many processors a flavor has");
                    self.types.with(|known| known.silent = Some(Instant::now()));
                    return Ok(false);
                }
                Err(problem) => return Err(self.refused(ACTION, problem)),
            };
            let types = answer.instance_types.unwrap_or_default();
            self.types.with(|known| known.learn(&types));
            token = answer.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                self.types.with(|known| known.miss(names));
                return Ok(true);
            }
        }
        Err(self.unreadable(ACTION, format_args!("more than {MAX_PAGES} pages")))
    }
}

impl Known {
    fn learn(&mut self, types: &[InstanceTypeInfo]) {
        for one in types {
            let name = one.instance_type.as_ref().map(|name| name.as_str());
            let processors = one.v_cpu_info.as_ref().and_then(|info| info.default_v_cpus);
            let processors = processors.and_then(|number| u32::try_from(number).ok());
            let memory = one.memory_info.as_ref().and_then(|info| info.size_in_mib);
            let memory_mb = memory.and_then(|mib| u64::try_from(mib).ok());
            if let (Some(name), Some(processors @ 1..)) = (name, processors)
                && self.told.len() < MAX_TYPES
            {
                let told = Told {
                    processors: Processors::new(processors),
                    memory_mb: memory_mb.filter(|mib| *mib > 0),
                };
                self.told.insert(name.to_owned(), told);
            }
        }
    }

    /// Notes which of the types that were asked for the service does not have.
    fn miss(&mut self, names: &[String]) {
        let missed = names.iter().filter(|name| !self.told.contains_key(*name));
        let now = Instant::now();
        let missed: Vec<_> = missed.map(|name| (name.clone(), now)).collect();
        if self.unknown.len() < MAX_TYPES {
            self.unknown.extend(missed);
        }
    }
}

/// Whether a refusal says that this service, or what our credentials may do on it, has no such
/// question: everything but trouble that passes, and credentials that work for nothing.
fn is_silence(problem: &Problem) -> bool {
    match problem.kind(Doing::Other) {
        CloudErrorKind::Rejected | CloudErrorKind::NotFound => {
            matches!(problem, Problem::Refused(_))
        }
        CloudErrorKind::Auth => problem.code() == "UnauthorizedOperation",
        CloudErrorKind::Quota
        | CloudErrorKind::Capacity
        | CloudErrorKind::RateLimited { .. }
        | CloudErrorKind::Transient
        | CloudErrorKind::Ambiguous => false,
    }
}
