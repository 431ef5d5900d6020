//! What the embedded cloud has: servers, key pairs, quotas, and the rules that Nova applies to
//! them. Plain state: no I/O, no clock; each change is given the moment at which it happens.
//!
//! Invariants:
//!
//! 1. A server counts towards the quotas from the answer to its creation until it is gone.
//! 2. A server moves only forwards: building, active, shut off, or from building to failed; being
//!    deleted ends each of them.
//! 3. What a server's VM does next depends only on what is kept here, so that a restart goes on
//!    where the last process ended.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::SimulatedOptions;
use crate::model::{Seconds, Timestamp};

use super::faults::{Dice, Fate};
use super::images::KeptImage;
use super::offer;
use super::order::Order;

/// How long a VM without work looks for some before it gives up.
const SEARCH: Seconds = Seconds::new(90);
/// How long the cloud takes to delete a server.
const DELETION: Seconds = Seconds::new(10);
/// Nova's default quota of key pairs.
const MAX_KEYPAIRS: usize = 100;

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Server {
    pub id: String,
    pub name: String,
    /// Identifier of the flavor.
    pub flavor: String,
    /// Identifier of the image; empty when it boots from a volume.
    pub image: String,
    /// What it boots from instead; gone with the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    pub zone: String,
    pub address: String,
    pub security_groups: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// When it will be or was running.
    pub boots_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched: Option<Timestamp>,
    pub phase: Phase,
    /// When it will be gone, once somebody has asked to delete it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Timestamp>,
    /// What its VM has found to do, once it has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<Fate>,
}

/// A volume that a server boots from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volume {
    pub id: String,
    pub gigabytes: u64,
    /// Identifier of the image that it was made from.
    pub image: String,
}

/// How far a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    Building,
    Active,
    Shutoff,
    /// It could not be built.
    Failed,
}

/// What a VM does while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Whether it is work, or only the search for some.
    pub work: bool,
    /// When it ends by itself.
    pub until: Timestamp,
}

/// A public key under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keypair {
    pub name: String,
    pub public_key: String,
    pub fingerprint: String,
}

/// Why the cloud does not do what it is asked, in Nova's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    BadRequest(String),
    Forbidden(String),
    NotFound(String),
    Conflict(String),
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(default)]
    pub servers: Vec<Server>,
    #[serde(default)]
    pub keypairs: Vec<Keypair>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<KeptImage>,
}

/// Quotas and what is used of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub max_machines: u32,
    pub max_processors: u32,
    pub machines: u32,
    pub processors: u32,
    pub memory_mb: u64,
}

/// The state of one space's cloud.
#[derive(Debug)]
pub(super) struct Project {
    options: SimulatedOptions,
    kept: Kept,
    rng: ChaCha8Rng,
    fates: Dice,
}

impl Project {
    pub(super) const fn new(
        options: SimulatedOptions,
        kept: Kept,
        rng: ChaCha8Rng,
        fates: Dice,
    ) -> Self {
        Self {
            options,
            kept,
            rng,
            fates,
        }
    }

    pub(super) const fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(super) fn server(&self, id: &str) -> Result<&Server, Refusal> {
        let found = self.kept.servers.iter().find(|server| server.id == id);
        found.ok_or_else(|| no_such_server(id))
    }

    /// Quotas and usage.
    pub(super) fn usage(&self) -> Usage {
        let flavors = || {
            let servers = self.kept.servers.iter();
            servers.filter_map(|server| offer::flavor(&server.flavor))
        };
        Usage {
            max_machines: self.options.machines,
            max_processors: self.options.processors,
            machines: u32::try_from(self.kept.servers.len()).unwrap_or(u32::MAX),
            processors: flavors().map(|flavor| flavor.processors).sum(),
            memory_mb: flavors().map(|flavor| flavor.memory_mb).sum(),
        }
    }

    /// Takes an order, as Nova does after checking everything it can check at once.
    pub(super) fn create(&mut self, order: Order, now: Timestamp) -> Result<Server, Refusal> {
        let flavor = offer::flavor(&order.flavor).ok_or_else(|| {
            Refusal::BadRequest(format!("Flavor {} could not be found.", order.flavor))
        })?;
        let has_image = |id: &str| {
            offer::image(id).is_some() || self.image(id).is_some_and(|image| image.size.is_some())
        };
        order.check(|key| self.keypair(key).is_some(), has_image)?;
        check_quota(self.usage(), flavor.processors)?;

        let zone = match order.availability_zone {
            Some(zone) => zone,
            None => self.pick(offer::ZONES).to_owned(),
        };
        let address = format!(
            "10.77.{}.{}",
            self.rng.random_range(0..=254),
            self.rng.random_range(2..=254)
        );
        let mut security_groups: Vec<String> = order
            .security_groups
            .into_iter()
            .map(|group| group.name)
            .collect();
        if security_groups.is_empty() {
            security_groups.push(offer::SECURITY_GROUP.to_owned());
        }
        let volume = order.block_devices.into_iter().next();
        let volume = volume.map(|device| Volume {
            id: uuid(&mut self.rng),
            gigabytes: device.volume_size,
            image: device.uuid,
        });
        let server = Server {
            id: uuid(&mut self.rng),
            name: order.name,
            flavor: flavor.id.to_owned(),
            image: if volume.is_some() {
                String::new()
            } else {
                order.image
            },
            volume,
            key_name: order.key_name,
            zone,
            address,
            security_groups,
            metadata: order.metadata,
            created: now,
            updated: now,
            boots_at: now + spread(&mut self.rng, self.options.boot),
            launched: None,
            phase: Phase::Building,
            gone_at: None,
            job: None,
            fate: self.fates.fate(),
        };
        self.kept.servers.push(server.clone());
        Ok(server)
    }

    /// Asks for the end of a server. Asking again changes nothing.
    pub(super) fn delete(&mut self, id: &str, now: Timestamp) -> Result<(), Refusal> {
        let delay = spread(&mut self.rng, DELETION);
        let server = find_mut(&mut self.kept.servers, id).ok_or_else(|| no_such_server(id))?;
        if server.gone_at.is_none() {
            server.gone_at = Some(now + delay);
            server.updated = now;
        }
        Ok(())
    }

    /// The deletion of a server is complete.
    pub(super) fn remove(&mut self, id: &str) {
        self.kept.servers.retain(|server| server.id != id);
    }

    pub(super) fn keypair(&self, name: &str) -> Option<&Keypair> {
        self.kept.keypairs.iter().find(|key| key.name == name)
    }

    pub(super) fn add_keypair(&mut self, keypair: Keypair) -> Result<(), Refusal> {
        if self.keypair(&keypair.name).is_some() {
            return Err(Refusal::Conflict(format!(
                "Key pair '{}' already exists.",
                keypair.name
            )));
        }
        if self.kept.keypairs.len() >= MAX_KEYPAIRS {
            return Err(Refusal::Forbidden(
                "Quota exceeded, too many key pairs.".to_owned(),
            ));
        }
        self.kept.keypairs.push(keypair);
        Ok(())
    }

    /// An image that somebody has made.
    pub(super) fn image(&self, id: &str) -> Option<&KeptImage> {
        self.kept.images.iter().find(|image| image.id == id)
    }

    /// All of those.
    pub(super) const fn images(&mut self) -> &mut Vec<KeptImage> {
        &mut self.kept.images
    }

    /// An identifier that nothing has.
    pub(super) fn identifier(&mut self) -> String {
        uuid(&mut self.rng)
    }

    /// False when there is no such key pair.
    pub(super) fn remove_keypair(&mut self, name: &str) -> bool {
        let before = self.kept.keypairs.len();
        self.kept.keypairs.retain(|key| key.name != name);
        self.kept.keypairs.len() < before
    }

    /// A server's VM begins to run. False when the server does not want that any more.
    pub(super) fn boot(&mut self, id: &str, now: Timestamp) -> bool {
        let Some(server) = self.living(id) else {
            return false;
        };
        if server.phase == Phase::Building {
            server.phase = Phase::Active;
            server.launched = Some(now);
            server.updated = now;
        }
        server.phase == Phase::Active
    }

    /// A server's VM cannot be started.
    pub(super) fn fail(&mut self, id: &str, now: Timestamp) {
        if let Some(server) = self.living(id)
            && server.phase == Phase::Building
        {
            server.phase = Phase::Failed;
            server.updated = now;
        }
    }

    /// A VM looks for work and gets what it will do from now on; a VM that has looked before
    /// goes on with what it got then.
    pub(super) fn find_job(&mut self, id: &str, now: Timestamp) -> Option<Job> {
        let server = self.living(id)?;
        if let Some(job) = server.job {
            return Some(job);
        }
        let machinetype = server.metadata.get("machinetype").cloned();
        let work = self.has_work_for(machinetype.as_deref());
        let length = if work { self.options.job } else { SEARCH };
        let job = Job {
            work,
            until: now + spread(&mut self.rng, length),
        };
        self.living(id)?.job = Some(job);
        Some(job)
    }

    fn has_work_for(&self, machinetype: Option<&str>) -> bool {
        let Some((name, most)) =
            machinetype.and_then(|name| self.options.work.get(name).map(|most| (name, *most)))
        else {
            return true;
        };
        let at_work = self.kept.servers.iter().filter(|server| {
            server.phase == Phase::Active
                && server.job.is_some_and(|job| job.work)
                && server.metadata.get("machinetype").map(String::as_str) == Some(name)
        });
        u32::try_from(at_work.count()).unwrap_or(u32::MAX) < most
    }

    /// Whether a server's VM runs and is wanted.
    pub(super) fn runs(&self, id: &str) -> bool {
        self.server(id)
            .is_ok_and(|server| server.phase == Phase::Active && server.gone_at.is_none())
    }

    /// A VM has shut itself down.
    pub(super) fn halt(&mut self, id: &str, now: Timestamp) {
        if let Some(server) = self.living(id) {
            server.phase = Phase::Shutoff;
            server.updated = now;
        }
    }

    /// A number of seconds that VMs do something in, each time a little different.
    pub(super) fn vary(&mut self, seconds: Seconds) -> Seconds {
        spread(&mut self.rng, seconds)
    }

    fn living(&mut self, id: &str) -> Option<&mut Server> {
        find_mut(&mut self.kept.servers, id).filter(|server| server.gone_at.is_none())
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        let index = self.rng.random_range(0..from.len().max(1));
        from.get(index).copied().unwrap_or_default()
    }
}

fn find_mut<'a>(servers: &'a mut [Server], id: &str) -> Option<&'a mut Server> {
    servers.iter_mut().find(|server| server.id == id)
}

fn no_such_server(id: &str) -> Refusal {
    Refusal::NotFound(format!("Instance {id} could not be found."))
}

/// Nova's answer when one more server with so many processors is too much.
fn check_quota(usage: Usage, processors: u32) -> Result<(), Refusal> {
    let quotas = [
        ("cores", processors, usage.processors, usage.max_processors),
        ("instances", 1, usage.machines, usage.max_machines),
    ];
    let over: Vec<_> = quotas
        .into_iter()
        .filter(|(_, asked, used, most)| used.saturating_add(*asked) > *most)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let list = |pick: fn(&(&'static str, u32, u32, u32)) -> String| {
        over.iter().map(pick).collect::<Vec<_>>().join(", ")
    };
    let names = list(|quota| quota.0.to_owned());
    Err(Refusal::Forbidden(format!(
        "Quota exceeded for {names}: Requested {}, but already used {} of {} {names}",
        list(|quota| quota.1.to_string()),
        list(|quota| quota.2.to_string()),
        list(|quota| quota.3.to_string()),
    )))
}

/// About `seconds`: a fifth more or less, and never 0 unless it is 0.
fn spread(rng: &mut ChaCha8Rng, seconds: Seconds) -> Seconds {
    let middle = seconds.get();
    let fifth = middle / 5;
    Seconds::new(rng.random_range(middle - fifth..=middle.saturating_add(fifth)))
}

/// A random identifier in the form of a UUID of version 4.
fn uuid(rng: &mut ChaCha8Rng) -> String {
    let bits = (rng.random::<u128>() & !(0xf000_u128 << 64) & !(0xc000_u128 << 48))
        | (0x4000_u128 << 64)
        | (0x8000_u128 << 48);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Seed};
    use rand::SeedableRng;

    fn options(machines: u32, processors: u32) -> SimulatedOptions {
        SimulatedOptions {
            machines,
            processors,
            boot: Seconds::new(60),
            job: Seconds::new(3600),
            work: BTreeMap::from([("busy".to_owned(), 1), ("idle".to_owned(), 0)]),
            cert: None,
            fault_percent: 0,
            fault_seed: None,
        }
    }

    fn project(machines: u32, processors: u32) -> Project {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let options = options(machines, processors);
        let fates = Dice::new(&options, Seed(1), Purpose::SimulatedFates);
        Project::new(options, Kept::default(), rng, fates)
    }

    fn order(machinetype: &str, flavor: &str) -> Order {
        let named = |offered: &&offer::Flavor| offered.name == flavor;
        let flavor = offer::FLAVORS.iter().find(named).unwrap().id;
        let image = offer::IMAGES.first().unwrap().id;
        serde_json::from_value(serde_json::json!({
            "name": "vcycle-x", "flavorRef": flavor, "imageRef": image,
            "metadata": {"machinetype": machinetype},
        }))
        .unwrap()
    }

    const NOW: Timestamp = Timestamp::from_unix(1_000_000);

    fn running(project: &mut Project, machinetype: &str) -> String {
        let order = order(machinetype, "small");
        let id = project.create(order, NOW).unwrap().id;
        assert!(project.boot(&id, NOW));
        id
    }

    #[test]
    fn quotas_are_answered_in_novas_words() {
        let mut project = project(2, 4);
        project.create(order("a", "medium"), NOW).unwrap();
        assert_eq!(
            project.create(order("a", "large"), NOW).unwrap_err(),
            Refusal::Forbidden(
                "Quota exceeded for cores: Requested 4, but already used 2 of 4 cores".to_owned()
            )
        );
        project.create(order("a", "small"), NOW).unwrap();
        assert_eq!(
            project.create(order("a", "medium"), NOW).unwrap_err(),
            Refusal::Forbidden(
                "Quota exceeded for cores, instances: Requested 2, 1, but already used 3, 2 of \
                 4, 2 cores, instances"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_server_counts_until_it_is_gone() {
        let mut project = project(1, 4);
        let id = running(&mut project, "a");
        project.halt(&id, NOW);
        project.delete(&id, NOW).unwrap();
        assert!(project.create(order("a", "small"), NOW).is_err());
        project.remove(&id);
        assert!(project.create(order("a", "small"), NOW).is_ok());
        assert_eq!(project.delete(&id, NOW), Err(no_such_server(&id)));
    }

    #[test]
    fn work_is_found_by_as_many_as_there_is_work_for() {
        let mut project = project(20, 40);
        let first = running(&mut project, "busy");
        let second = running(&mut project, "busy");
        let idle = running(&mut project, "idle");
        let other = running(&mut project, "other");
        assert!(project.find_job(&first, NOW).unwrap().work);
        assert!(!project.find_job(&second, NOW).unwrap().work);
        assert!(!project.find_job(&idle, NOW).unwrap().work);
        assert!(project.find_job(&other, NOW).unwrap().work);

        project.halt(&first, NOW);
        let third = running(&mut project, "busy");
        assert!(project.find_job(&third, NOW).unwrap().work);
        assert!(
            !project.find_job(&second, NOW).unwrap().work,
            "it has looked"
        );
    }

    #[test]
    fn a_server_that_is_being_deleted_does_nothing_more() {
        let mut project = project(20, 40);
        let id = running(&mut project, "a");
        project.delete(&id, NOW).unwrap();
        let gone_at = project.server(&id).unwrap().gone_at;
        assert!(!project.boot(&id, NOW) && !project.runs(&id));
        assert_eq!(project.find_job(&id, NOW), None);
        project.delete(&id, NOW + Seconds::new(500)).unwrap();
        assert_eq!(project.server(&id).unwrap().gone_at, gone_at);
    }

    #[test]
    fn identifiers_are_uuids_and_differ() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (one, two) = (uuid(&mut rng), uuid(&mut rng));
        assert_ne!(one, two);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&one.as_bytes()[19]));
    }

    #[test]
    fn a_spread_stays_within_a_fifth() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let seconds = spread(&mut rng, Seconds::new(100)).get();
            assert!((80..=120).contains(&seconds), "{seconds}");
        }
        assert_eq!(spread(&mut rng, Seconds::new(0)).get(), 0);
        spread(&mut rng, Seconds::new(u64::MAX));
    }
}
