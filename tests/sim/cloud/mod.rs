//! A model of an OpenStack project, in memory: Keystone v3, Nova v2.1 and Glance v2 as far as a
//! lifecycle manager asks them, and everything that goes wrong with them.
//!
//! It is plain state. It opens no socket, reads no clock, and draws from the one generator that it
//! was given: the same seed and the same asks give the same answers, byte by byte. What the client
//! sees ([`Carried`]) and what is true ([`Cloud::history`]) are kept apart, so that a test can
//! compare them.
//!
//! Times are Unix seconds. `now` is always the true time; the cloud's own clock, which its answers
//! and its tokens go by, is that and an offset ([`Cloud::step_clock`]).
#![allow(
    dead_code,
    reason = "a model is complete for its own sake; a scenario uses what it needs"
)]

mod answer;
mod call;
mod detail;
mod exchange;
mod faults;
mod glance;
mod keypairs;
mod keystone;
mod lies;
mod life;
mod mishaps;
mod nova;
mod order;
mod outsiders;
mod server;
mod setup;
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use url::Url;

pub use faults::{Exchange, Fate, Fault, Faults, Lie, Strike, World};
pub use server::{Deletion, DeletionEnd, End, Maker, Server};
pub use setup::{Account, ApplicationCredential, Flavor, Image, Setup};

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    pub url: Url,
    /// `X-Auth-Token`.
    pub token: Option<String>,
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// What the client sees of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// An answer arrives.
    Reply { after: Duration, reply: Reply },
    /// It never reached the server, and the client knows that (no connection).
    NotSent { after: Duration },
    /// The connection broke; whether the request was carried out is known to the model only.
    Lost { after: Duration },
    /// No answer, for as long as the client cares to wait; the same holds.
    TimedOut,
}

/// The cloud of one project.
#[derive(Debug)]
pub struct Cloud {
    /// Where its services are, without a slash at the end.
    base: String,
    setup: Setup,
    rng: ChaCha8Rng,
    faults: Faults,
    done: BTreeMap<&'static str, u64>,
    asked: BTreeMap<&'static str, u64>,
    /// What its clock shows is the true time and so many seconds.
    clock_offset: i64,
    /// Every server that ever was, in the order of creation.
    all: Vec<Server>,
    /// Positions in `all`, by identifier.
    index: BTreeMap<String, usize>,
    /// Positions in `all` of those that are not gone.
    present: BTreeSet<usize>,
    keypairs: BTreeMap<String, keypairs::Keypair>,
    tokens: BTreeMap<String, keystone::Token>,
    /// Requests that are carried out after the client has given up, by time and order.
    late: BTreeMap<(u64, u64), Ask>,
    late_count: u64,
    /// Whether the request being served is a repetition that the client has not made.
    echo: bool,
    /// How far the cloud's life has been played.
    advanced_to: Option<u64>,
    /// The list of servers as it was from a time on, oldest first.
    snapshots: VecDeque<(u64, lies::Snapshot)>,
    /// Whether the servers are other than in the last snapshot.
    changed: bool,
}

impl Cloud {
    /// Its availability zones.
    pub fn zones(&self) -> &[String] {
        &self.setup.zones
    }

    /// A cloud without servers and without faults, whose services are below `base_url`.
    pub fn new(base_url: &str, rng: ChaCha8Rng, setup: Setup) -> Self {
        Self {
            base: base_url.trim_end_matches('/').to_owned(),
            setup,
            rng,
            faults: Faults::none(),
            done: BTreeMap::new(),
            asked: BTreeMap::new(),
            clock_offset: 0,
            all: Vec::new(),
            index: BTreeMap::new(),
            present: BTreeSet::new(),
            keypairs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            late: BTreeMap::new(),
            late_count: 0,
            echo: false,
            advanced_to: None,
            snapshots: VecDeque::new(),
            changed: true,
        }
    }

    /// What to configure as `url`: it tells the version. Without its `/v3` it is the address of
    /// the version document.
    pub fn identity_url(&self) -> String {
        format!("{}/identity/v3", self.base)
    }

    /// What the cloud is made of; changes hold from now on (quotas, flavors, images, accounts).
    pub const fn setup_mut(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// What may go wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How many faults there were, by the names of their kinds. One that changed nothing (an empty
    /// listing where there is no server) is not counted.
    pub const fn faults_done(&self) -> &BTreeMap<&'static str, u64> {
        &self.done
    }

    /// How often the cloud was asked for what, by the name of the operation; every attempt counts.
    pub const fn asked(&self) -> &BTreeMap<&'static str, u64> {
        &self.asked
    }

    /// The servers that there are, oldest first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.present.iter().filter_map(|at| self.all.get(*at))
    }

    /// Every server that ever was, oldest first.
    pub fn history(&self) -> &[Server] {
        &self.all
    }

    /// A server, gone or not.
    pub fn server(&self, id: &str) -> Option<&Server> {
        self.all.get(*self.index.get(id)?)
    }

    /// How many requests the client has given up that are still to be carried out.
    pub fn late_requests(&self) -> usize {
        self.late.len()
    }

    /// How many processors a flavor has; 0 when there is no such flavor.
    pub fn processors_of(&self, flavor: &str) -> u32 {
        self.flavor(flavor).map_or(0, |flavor| flavor.processors)
    }

    /// The most servers that it lets the project have.
    pub fn quota(&self) -> Option<u32> {
        self.setup
            .max_instances
            .and_then(|most| u32::try_from(most).ok())
    }

    /// Since when the VM runs, `None` when it does not (yet, or any more).
    pub fn running_since(&self, id: &str) -> Option<u64> {
        self.server(id)
            .filter(|server| server.is_alive())?
            .running_since
    }

    /// What the cloud's own clock shows.
    pub fn clock(&self, now: u64) -> i64 {
        told(now).saturating_add(self.clock_offset)
    }

    fn present_mut(&mut self, id: &str) -> Option<&mut Server> {
        let at = *self.index.get(id)?;
        self.all
            .get_mut(at)
            .filter(|server| server.gone_at.is_none())
    }

    fn add(&mut self, server: Server) {
        let at = self.all.len();
        self.index.insert(server.id.clone(), at);
        self.present.insert(at);
        self.all.push(server);
        self.changed = true;
    }

    fn count(&mut self, fault: impl Into<Fault>) {
        *self.done.entry(fault.into().name()).or_default() += 1;
    }

    /// One of the kinds, each with its chance multiplied by `scale`, or mostly none.
    fn draw<K: Copy + Into<Fault>>(
        &mut self,
        kinds: impl Iterator<Item = K>,
        scale: f64,
    ) -> Option<K> {
        let chances: Vec<(K, f64)> = kinds
            .map(|kind| (kind, self.faults.chance(kind) * scale))
            .filter(|(_, chance)| *chance > 0.0)
            .collect();
        if chances.is_empty() {
            return None;
        }
        let mut left = self.rng.random::<f64>();
        for (kind, chance) in chances {
            if left < chance {
                return Some(kind);
            }
            left -= chance;
        }
        None
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        from.get(self.rng.random_range(0..from.len())).cloned()
    }
}

/// A true time as clouds count it.
fn told(now: u64) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// A random identifier in the form of a UUID of version 4.
fn uuid(rng: &mut ChaCha8Rng) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:x}{:03x}-{:012x}",
        rng.random::<u32>(),
        rng.random::<u16>(),
        rng.random_range(0..0x1000_u32),
        rng.random_range(8..12_u32),
        rng.random_range(0..0x1000_u32),
        rng.random_range(0..1_u64 << 48),
    )
}
