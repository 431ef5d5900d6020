//! What one seed stands for: the factory's configuration, the cloud behind it, and what happens.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::cloud::{Flavor, Setup};
use crate::ledger::Limits;

/// What is secret about a configuration: none of it may be in a log.
pub const PASSWORD: &str = "pass:word-of-the-simulation";
pub const SECRET_OPTION: &str = "option-of-the-simulation-that-is-secret";
pub const USER_DATA: &str =
    "#!/bin/sh\n# user-data-of-the-simulation ##user_data_option_secret##\n";
pub const DN: &str = "/DC=org/DC=example/CN=vm";

/// The password as a configuration has it.
pub fn encoded_password() -> String {
    base64::engine::general_purpose::STANDARD.encode(PASSWORD)
}

/// Configurations that are none, each for an error on the line of a secret or beside one.
pub fn broken() -> [String; 4] {
    let encoded = encoded_password();
    [
        format!(
            "no section\npassword_base64 = {encoded}\n\
             [space one.example.org]\nuser_data_option_secret {SECRET_OPTION}\n"
        ),
        // A value that is not in base64, and is the password itself.
        format!("[space one.example.org]\napi = cloud\npassword_base64 = {PASSWORD}\n"),
        String::new(),
        format!(
            "[machinetype none.example.org a]\nfizzle_seconds = soon\n\
             user_data_option_secret = {SECRET_OPTION}\npassword_base46 = {encoded}\n"
        ),
    ]
}

/// A machinetype.
#[derive(Clone, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub flavor: &'static str,
    pub share: f64,
    pub backoff: u64,
    pub fizzle: u64,
    pub wallclock: u64,
    pub heartbeat: Option<u64>,
    /// max_machines of its own.
    pub most: Option<u32>,
    /// Left out of the configuration for a while.
    pub removed: bool,
}

/// A space.
#[derive(Clone, Debug)]
pub struct Space {
    pub name: &'static str,
    pub url: String,
    pub limits: Limits,
    pub sends_records: bool,
    pub kinds: Vec<Kind>,
    /// Directories go an hour after the end of their machines, and not days after it.
    pub cleans_up: bool,
    /// `zones`, or nothing.
    pub zones: Option<&'static str>,
    pub removed: bool,
}

/// The configuration of a factory.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub spaces: Vec<Space>,
    /// Which public key the machinetypes have that have one.
    pub key: u32,
}

/// The names of the spaces, and of their machinetypes.
const SPACES: [&str; 2] = ["one.example.org", "two.example.org"];
const KINDS: [&str; 3] = ["alpha", "beta", "gamma"];

impl Configuration {
    /// A configuration for the clouds at `bases`.
    pub fn draw(rng: &mut ChaCha8Rng, bases: &[String]) -> Self {
        let spaces = SPACES.iter().zip(bases).map(|(name, base)| {
            let by_processors = rng.random_bool(0.3);
            let limits = if by_processors {
                Limits {
                    machines: None,
                    processors: Some(rng.random_range(6..=16)),
                }
            } else {
                Limits {
                    machines: Some(rng.random_range(3..=10)),
                    processors: None,
                }
            };
            let count = rng.random_range(1..=KINDS.len());
            let kinds = KINDS.iter().take(count);
            let kinds = kinds.map(|name| draw_kind(rng, name)).collect();
            Space {
                name,
                url: format!("{base}/identity/v3"),
                limits,
                sends_records: rng.random_bool(0.5),
                kinds,
                cleans_up: rng.random_bool(0.5),
                zones: rng.random_bool(0.5).then_some("zone-a zone-b"),
                removed: false,
            }
        });
        Self {
            spaces: spaces.collect(),
            key: 0,
        }
    }

    pub fn to_text(&self, user_data: &Path, root_key: &Path) -> String {
        let mut text = "[server]\nlisten = none\nadmin_listen = none\n\n".to_owned();
        let password = encoded_password();
        for space in self.spaces.iter().filter(|space| !space.removed) {
            let mut line = |line: String| writeln!(text, "{line}").unwrap();
            line(format!("[space {}]", space.name));
            line("api = openstack".to_owned());
            line(format!("url = {}", space.url));
            line("tenancy_name = grid\nusername = vcycle".to_owned());
            line(format!("password_base64 = {password}"));
            if let Some(limit) = space.limits.machines {
                line(format!("max_machines = {limit}"));
            }
            if let Some(limit) = space.limits.processors {
                line(format!("processors_limit = {limit}"));
            }
            if let Some(zones) = space.zones {
                line(format!("zones = {zones}"));
            }
            if space.cleans_up {
                line("cleanup_hours = 1".to_owned());
            }
            if space.sends_records {
                line("gocdb_sitename = SIMULATION".to_owned());
            }
            for kind in space.kinds.iter().filter(|kind| !kind.removed) {
                line(format!("[machinetype {} {}]", space.name, kind.name));
                line(format!("flavor_names = {}", kind.flavor));
                line("root_image = image:cernvm".to_owned());
                line(format!("user_data = {}", user_data.display()));
                line(format!("user_data_option_secret = {SECRET_OPTION}"));
                line(format!("target_share = {}", kind.share));
                line(format!("backoff_seconds = {}", kind.backoff));
                line(format!("fizzle_seconds = {}", kind.fizzle));
                line(format!("max_wallclock_seconds = {}", kind.wallclock));
                line(format!("x509dn = {DN}"));
                if let Some(most) = kind.most {
                    line(format!("max_machines = {most}"));
                }
                if kind.has_root_key() {
                    line(format!("root_public_key = {}", root_key.display()));
                }
                if kind.keeps_outputs() {
                    line("log_joboutputs = True".to_owned());
                }
                if let Some(seconds) = kind.heartbeat {
                    line("heartbeat_file = heartbeat".to_owned());
                    line(format!("heartbeat_seconds = {seconds}"));
                }
            }
        }
        text
    }
}

impl Kind {
    /// Whether what its machines write is copied: by its name, so that nothing is drawn for it.
    pub fn keeps_outputs(&self) -> bool {
        self.name != KINDS[1]
    }

    /// Whether its machines have a public key: by its name, too.
    pub fn has_root_key(&self) -> bool {
        self.name == KINDS[0]
    }
}

fn draw_kind(rng: &mut ChaCha8Rng, name: &'static str) -> Kind {
    Kind {
        name,
        flavor: if rng.random_bool(0.8) {
            "small"
        } else {
            "large"
        },
        share: f64::from(rng.random_range(1..=3)),
        backoff: rng.random_range(300..=1200),
        fizzle: rng.random_range(120..=600),
        wallclock: rng.random_range(2400..=5400),
        heartbeat: rng.random_bool(0.7).then(|| rng.random_range(400..=900)),
        most: rng.random_bool(0.2).then(|| rng.random_range(1..=4)),
        removed: false,
    }
}

/// The cloud of a space.
pub fn draw_setup(rng: &mut ChaCha8Rng) -> Setup {
    let defaults = Setup::default();
    let mut setup = Setup {
        flavors: vec![Flavor::new("small", 1), Flavor::new("large", 4)],
        page: if rng.random_bool(0.7) {
            rng.random_range(2..=6)
        } else {
            1000
        },
        boot: 10..=rng.random_range(30..=200),
        deletion: 2..=rng.random_range(5..=90),
        // Some take longer than anybody waits.
        late: 5..=if rng.random_bool(0.3) { 1800 } else { 300 },
        token_life: rng.random_range(300..=7200),
        foreign_life: 300..=2400,
        ..defaults
    };
    setup.accounts[0].password = PASSWORD.to_owned();
    if rng.random_bool(0.2) {
        setup.max_instances = Some(rng.random_range(3..=8));
    }
    setup
}
