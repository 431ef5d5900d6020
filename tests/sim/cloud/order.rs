//! A request for a server: what Nova checks in it, the quotas, and what is made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{StatusCode, header};
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Refusal;
use super::server::{Maker, Phase, Server, Told};
use super::{Ask, Cloud, Fate, Flavor, Reply, uuid};

/// Nova's limits: items of metadata, characters of a name or of an item, bytes of user_data.
const MAX_METADATA: usize = 128;
const MAX_CHARS: usize = 255;
const MAX_USER_DATA: usize = 65_535;

#[derive(Deserialize)]
struct Document {
    server: Order,
}

/// The body of `POST /servers`.
#[derive(Deserialize)]
pub(super) struct Order {
    pub name: String,
    #[serde(rename = "flavorRef")]
    pub flavor: String,
    #[serde(rename = "imageRef")]
    pub image: String,
    #[serde(default)]
    pub key_name: Option<String>,
    #[serde(default)]
    pub availability_zone: Option<String>,
    #[serde(default)]
    pub security_groups: Vec<Group>,
    #[serde(default)]
    pub networks: Vec<Network>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub user_data: String,
}

#[derive(Deserialize)]
pub(super) struct Group {
    pub name: String,
}

#[derive(Deserialize)]
pub(super) struct Network {
    pub uuid: String,
}

/// What is used of the quotas.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub instances: u64,
    pub cores: u64,
    pub memory_mb: u64,
}

impl Cloud {
    /// `POST /servers`: the answer has no name and no status, as with Nova.
    pub(super) fn create_server(
        &mut self,
        now: u64,
        user: String,
        ask: &Ask,
    ) -> Result<Reply, Refusal> {
        let Document { server: order } = serde_json::from_slice(&ask.body).map_err(|error| {
            Refusal::BadRequest(format!("Invalid input for field/attribute server. {error}"))
        })?;
        self.check(&order)?;
        let flavor = self.flavor(&order.flavor).cloned().ok_or_else(|| {
            Refusal::BadRequest(format!("Flavor {} could not be found.", order.flavor))
        })?;
        self.check_quotas(&flavor)?;
        let maker = if self.echo {
            Maker::Echo { user }
        } else {
            Maker::Request { user }
        };
        let groups = order.security_groups.iter().map(|group| &group.name);
        let groups: Value = groups.map(|name| json!({"name": name})).collect();
        let mut server = self.make(order, maker, now);
        self.decide_fate(&mut server, now);
        let location = format!("{}/compute/v2.1/servers/{}", self.base, server.id);
        let body = json!({"server": {
            "id": server.id,
            "links": [{"rel": "self", "href": location}],
            "OS-DCF:diskConfig": "MANUAL",
            "security_groups": groups,
            "adminPass": "model",
        }});
        self.add(server);
        Ok(Reply::json(StatusCode::ACCEPTED, &body).with_header(header::LOCATION, &location))
    }

    pub(super) fn flavor(&self, id: &str) -> Option<&Flavor> {
        self.setup.flavors.iter().find(|flavor| flavor.id == id)
    }

    /// A server that counts towards the quotas until it is gone, whatever its state.
    pub(super) fn usage(&self) -> Usage {
        let flavors = self.servers().map(|server| self.flavor(&server.flavor));
        flavors.fold(Usage::default(), |sum, flavor| Usage {
            instances: sum.instances + 1,
            cores: sum.cores + flavor.map_or(0, |flavor| u64::from(flavor.processors)),
            memory_mb: sum.memory_mb + flavor.map_or(0, |flavor| flavor.memory_mb),
        })
    }

    fn check(&self, order: &Order) -> Result<(), Refusal> {
        let bad = |message: &str| Err(Refusal::BadRequest(message.to_owned()));
        let too_long = |text: &str| text.chars().count() > MAX_CHARS;
        if order.name.trim().is_empty() || too_long(&order.name) {
            return bad("Invalid input for field/attribute name.");
        }
        if order.user_data.len() > MAX_USER_DATA {
            return bad("Invalid input for field/attribute user_data. It is too long");
        }
        if order
            .metadata
            .iter()
            .any(|(k, v)| too_long(k) || too_long(v))
        {
            return bad("Invalid input for field/attribute metadata. It is too long");
        }
        if order.metadata.len() > MAX_METADATA {
            let message = format!("Maximum number of metadata items exceeds {MAX_METADATA}");
            return Err(Refusal::Forbidden(message));
        }
        let image = self.setup.images.iter().find(|i| i.id == order.image);
        match image.map(|image| image.status.as_str()) {
            None => return bad("Can not find requested image"),
            Some("active") => {}
            Some(_) => return bad("Image is not active."),
        }
        let key = order.key_name.as_ref();
        if key.is_some_and(|key| !self.keypairs.contains_key(key)) {
            return bad("Invalid key_name provided.");
        }
        let zone = order.availability_zone.as_ref();
        if zone.is_some_and(|zone| !self.setup.zones.contains(zone)) {
            return bad("The requested availability zone is not available");
        }
        let known_group = |group: &Group| self.setup.security_groups.contains(&group.name);
        if !order.security_groups.iter().all(known_group) {
            return bad("Unable to find security_group with that name or id");
        }
        let known_network = |network: &Network| self.setup.networks.contains(&network.uuid);
        if !order.networks.iter().all(known_network) {
            return bad("Network could not be found.");
        }
        Ok(())
    }

    /// Nova names every quota that is too small in one message.
    fn check_quotas(&self, flavor: &Flavor) -> Result<(), Refusal> {
        let used = self.usage();
        let cores = u64::from(flavor.processors);
        let quotas = [
            ("cores", cores, used.cores, self.setup.max_cores),
            ("instances", 1, used.instances, self.setup.max_instances),
            (
                "ram",
                flavor.memory_mb,
                used.memory_mb,
                self.setup.max_memory_mb,
            ),
        ];
        let mut over = Vec::new();
        for (name, asked, used, most) in quotas {
            if let Some(most) = most.filter(|most| used + asked > *most) {
                over.push((name, asked, used, most));
            }
        }
        if over.is_empty() {
            return Ok(());
        }
        let list = |pick: fn(&(&'static str, u64, u64, u64)) -> String| {
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

    /// A server in BUILD that nobody has promised anything yet.
    pub(super) fn make(&mut self, order: Order, maker: Maker, now: u64) -> Server {
        let zones = self.setup.zones.clone();
        let zone = order.availability_zone.or_else(|| self.pick(&zones));
        let told = self.clock(now);
        Server {
            id: uuid(&mut self.rng),
            first_name: order.name.clone(),
            name: order.name,
            metadata: order.metadata,
            first_flavor: order.flavor.clone(),
            flavor: order.flavor,
            image: order.image,
            key_name: order.key_name,
            zone: zone.unwrap_or_default(),
            address: format!(
                "10.77.{}.{}",
                self.rng.random_range(0..=254),
                self.rng.random_range(2..=254)
            ),
            security_groups: order.security_groups.into_iter().map(|g| g.name).collect(),
            user_data: Arc::from(order.user_data),
            maker,
            created: now,
            running_since: None,
            ended: None,
            gone_at: None,
            deletions: Vec::new(),
            phase: Phase::Build,
            told: Told {
                created: told,
                updated: told,
                launched: None,
            },
            boots_at: Some(now + self.rng.random_range(self.setup.boot.clone())),
            fails_at: None,
            deleting: None,
            next_deletion: None,
            blinks_until: None,
            leaves_at: None,
            failure: None,
        }
    }

    fn decide_fate(&mut self, server: &mut Server, now: u64) {
        match self.draw([Fate::BuildStuck, Fate::BuildFails].into_iter(), 1.0) {
            Some(Fate::BuildStuck) => {
                server.boots_at = None;
                self.count(Fate::BuildStuck);
            }
            Some(Fate::BuildFails) => {
                server.boots_at = None;
                server.fails_at = Some(now + self.rng.random_range(2..=30));
                self.count(Fate::BuildFails);
            }
            Some(Fate::DeletionStuck | Fate::DeletionFails) | None => {}
        }
    }
}
