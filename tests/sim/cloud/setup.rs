//! What a model cloud is made of.

use std::ops::RangeInclusive;

/// A user who may log in.
#[derive(Clone, Debug)]
pub struct Account {
    pub user: String,
    pub password: String,
    pub credential: Option<ApplicationCredential>,
}

/// An application credential of a user.
#[derive(Clone, Debug)]
pub struct ApplicationCredential {
    pub id: String,
    pub secret: String,
}

/// A flavor.
#[derive(Clone, Debug)]
pub struct Flavor {
    pub id: String,
    pub name: String,
    pub processors: u32,
    pub memory_mb: u64,
    pub disk_gb: u64,
    pub disabled: bool,
}

impl Flavor {
    /// A flavor with 2 GiB and 10 GB for each processor.
    pub fn new(name: &str, processors: u32) -> Self {
        Self {
            id: format!("flavor-{name}"),
            name: name.to_owned(),
            processors,
            memory_mb: 2048 * u64::from(processors),
            disk_gb: 10 * u64::from(processors),
            disabled: false,
        }
    }
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: String,
    pub name: String,
    /// Glance's word: `active`, `queued`, `deactivated`.
    pub status: String,
}

/// Everything that can be chosen. Ranges are in seconds unless the name says otherwise.
#[derive(Clone, Debug)]
pub struct Setup {
    pub accounts: Vec<Account>,
    pub project: String,
    /// Name of the domain; its identifier is `default`.
    pub domain: String,
    pub region: String,
    pub flavors: Vec<Flavor>,
    pub images: Vec<Image>,
    pub zones: Vec<String>,
    pub security_groups: Vec<String>,
    /// Identifiers.
    pub networks: Vec<String>,
    /// Quotas; `None` is none.
    pub max_instances: Option<u64>,
    pub max_cores: Option<u64>,
    pub max_memory_mb: Option<u64>,
    pub max_keypairs: usize,
    /// Nova's `[api] max_limit`: the most servers on a page.
    pub page: usize,
    /// From the creation until the VM runs.
    pub boot: RangeInclusive<u64>,
    /// From an accepted DELETE until the server is gone.
    pub deletion: RangeInclusive<u64>,
    /// Life of a token in seconds.
    pub token_life: u64,
    /// How long an answer takes, in milliseconds.
    pub latency_ms: RangeInclusive<u64>,
    /// How long a slow answer takes.
    pub slow: RangeInclusive<u64>,
    /// How old a stale listing is.
    pub stale: RangeInclusive<u64>,
    /// How long after the request a late one is carried out.
    pub late: RangeInclusive<u64>,
    /// What `Retry-After` asks for.
    pub retry_after: RangeInclusive<u64>,
    /// How long a stuck deletion takes.
    pub stuck_deletion: u64,
    /// How long a server of others stays.
    pub foreign_life: RangeInclusive<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            accounts: vec![Account {
                user: "vcycle".to_owned(),
                password: "model-password".to_owned(),
                credential: Some(ApplicationCredential {
                    id: "model-credential".to_owned(),
                    secret: "model-secret".to_owned(),
                }),
            }],
            project: "grid".to_owned(),
            domain: "Default".to_owned(),
            region: "RegionOne".to_owned(),
            flavors: vec![Flavor::new("small", 1), Flavor::new("large", 4)],
            images: vec![Image {
                id: "70fafd76-166f-49cb-9c64-eb46d0a5f1a5".to_owned(),
                name: "cernvm".to_owned(),
                status: "active".to_owned(),
            }],
            zones: vec!["zone-a".to_owned(), "zone-b".to_owned()],
            security_groups: vec!["default".to_owned()],
            networks: vec!["e9de7f91-92da-4a0c-8e92-6b885b0e8054".to_owned()],
            max_instances: Some(100),
            max_cores: Some(400),
            max_memory_mb: None,
            max_keypairs: 100,
            page: 1000,
            boot: 20..=60,
            deletion: 2..=20,
            token_life: 3600,
            latency_ms: 20..=300,
            slow: 5..=80,
            stale: 5..=120,
            late: 5..=300,
            retry_after: 1..=120,
            stuck_deletion: 3600,
            foreign_life: 600..=14_400,
        }
    }
}
