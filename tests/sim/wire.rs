//! What lies between a daemon and the clouds: no network.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::Value;
use vcycle::cloud::http::{Carried, Carrier, Failure, FailureKind, Request};

use crate::cloud::{Ask, Carried as Outcome, Cloud, Server};
use crate::earth::Earth;
use crate::ledger::{Ledger, Limits};
use crate::power::Power;
use crate::transcript::Transcript;

/// How long a client of ours waits for an answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cloud and the factories' business with it.
#[derive(Debug)]
pub struct Site {
    pub base: String,
    pub cloud: Cloud,
    /// True times, a step apart, at which its clock was wrong.
    pub wrong_clock: Vec<u64>,
    /// By factory.
    pub ledgers: Vec<Ledger>,
    /// What each factory may make, by factory: the largest that its configuration has said of late.
    pub limits: Vec<Limits>,
}

/// A machine that is about to be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub name: &'a str,
    pub space: &'a str,
    pub machinetype: &'a str,
    /// When its place was found without room, if it was of late.
    pub no_room: Option<u64>,
    /// Since when the youngest of its machinetype runs.
    pub youngest: Option<u64>,
}

/// Checks that a creation is allowed now by what is on the factory's disk.
pub type MayCreate = dyn Fn(Wanted<'_>) -> Result<(), String> + Send + Sync;

/// Checks that there is a reason to delete this server.
pub type MayDelete = dyn Fn(&Server, &Cloud) -> Result<(), String> + Send + Sync;

/// Everything that is asked of clouds in one simulation.
pub struct Sites {
    pub earth: Arc<Earth>,
    pub transcript: Transcript,
    pub sites: Mutex<Vec<Site>>,
    violation: Mutex<Option<String>>,
}

impl fmt::Debug for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sites").finish_non_exhaustive()
    }
}

impl Sites {
    pub fn new(earth: Arc<Earth>, transcript: Transcript, sites: Vec<Site>) -> Self {
        Self {
            earth,
            transcript,
            sites: Mutex::new(sites),
            violation: Mutex::new(None),
        }
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Site>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<String> {
        let violation = self
            .violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        violation.clone()
    }

    pub fn accuse(&self, of: String) {
        self.transcript.say(format!("VIOLATION: {of}"));
        let mut violation = self
            .violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        violation.get_or_insert(of);
    }
}

/// The wire of one life of one factory.
pub struct Wire {
    pub sites: Arc<Sites>,
    pub factory: usize,
    pub power: Arc<Power>,
    pub may_create: Arc<MayCreate>,
    pub may_delete: Arc<MayDelete>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// What a request is to the rules.
enum Kind {
    Page {
        first: bool,
    },
    Create {
        name: String,
        flavor: String,
        space: String,
        machinetype: String,
        zone: Option<String>,
        /// In base64.
        user_data: String,
    },
    /// One server by itself.
    Show {
        id: String,
    },
    Delete {
        id: String,
    },
    /// A key pair is imported.
    ImportKey,
    RemoveKey {
        name: String,
    },
    /// What comes before the listing.
    Opening,
    Other,
}

impl Kind {
    fn of(ask: &Ask) -> Self {
        let path: Vec<&str> = ask
            .url
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        match (&ask.method, path.as_slice()) {
            (&Method::GET, [.., "servers", "detail"]) => Self::Page {
                first: !ask.url.query_pairs().any(|(key, _)| key == "marker"),
            },
            (&Method::POST, [.., "servers"]) => {
                let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
                let text = |path: &str| {
                    let value = body.pointer(path).and_then(Value::as_str);
                    value.unwrap_or_default().to_owned()
                };
                Self::Create {
                    name: text("/server/name"),
                    flavor: text("/server/flavorRef"),
                    space: text("/server/metadata/space"),
                    machinetype: text("/server/metadata/machinetype"),
                    zone: Some(text("/server/availability_zone")).filter(|zone| !zone.is_empty()),
                    user_data: text("/server/user_data"),
                }
            }
            (&Method::GET, [.., "servers", id]) => Self::Show {
                id: (*id).to_owned(),
            },
            (&Method::DELETE, [.., "servers", id]) => Self::Delete {
                id: (*id).to_owned(),
            },
            (&Method::POST, [.., "os-keypairs"]) => Self::ImportKey,
            (&Method::DELETE, [.., "os-keypairs", name]) => Self::RemoveKey {
                name: (*name).to_owned(),
            },
            (&Method::POST, [.., "tokens"])
            | (&Method::GET, [.., "flavors", "detail"] | [.., "limits"]) => Self::Opening,
            _ => Self::Other,
        }
    }
}

#[async_trait]
impl Carrier for Wire {
    async fn carry(&self, request: &Request) -> Result<Carried, Failure> {
        if self.power.effect().is_err() {
            return std::future::pending().await;
        }
        let ask = Ask {
            method: request.method.clone(),
            url: request.url.clone(),
            token: request
                .token
                .as_ref()
                .map(|token| token.to_str().unwrap().to_owned()),
            body: request
                .body
                .as_ref()
                .map(|body| body.to_vec())
                .unwrap_or_default(),
        };
        let outcome = self.ask(&ask);
        let failed = |kind, message: &str| Failure {
            operation: request.operation(),
            kind,
            message: message.to_owned(),
        };
        let (after, result) = match outcome {
            Outcome::Reply { after, reply } if after < PATIENCE => (
                after,
                Ok(Carried {
                    status: reply.status,
                    headers: reply.headers,
                    body: reply.body,
                }),
            ),
            Outcome::NotSent { after } => (
                after,
                Err(failed(FailureKind::NotSent, "connection refused")),
            ),
            Outcome::Lost { after } => (
                after,
                Err(failed(FailureKind::Lost, "connection reset by peer")),
            ),
            Outcome::Reply { .. } | Outcome::TimedOut => (
                PATIENCE,
                Err(failed(
                    FailureKind::TimedOut,
                    "no complete answer within 90 s",
                )),
            ),
        };
        tokio::time::sleep(after).await;
        // Between the effect on the cloud and the answer's arrival is a moment to die in.
        if self.power.effect().is_err() {
            return std::future::pending().await;
        }
        result
    }
}

impl Wire {
    /// Asks the cloud, and notes what the rules have to know.
    fn ask(&self, ask: &Ask) -> Outcome {
        let now = self.sites.earth.now();
        let mut sites = self.sites.lock();
        let Some(site) = sites
            .iter_mut()
            .find(|site| ask.url.as_str().starts_with(&site.base))
        else {
            return Outcome::NotSent {
                after: Duration::from_millis(1),
            };
        };
        let kind = Kind::of(ask);
        let ledger = &mut site.ledgers[self.factory];
        let checked = match &kind {
            Kind::Page { first } => {
                ledger.asks_for_page(*first, &site.cloud, now);
                Ok(())
            }
            Kind::Create {
                name,
                flavor,
                space,
                machinetype,
                zone,
                user_data,
            } => {
                self.sites.transcript.must_not_show(user_data);
                ledger.settle(&site.cloud);
                let wanted = Wanted {
                    name,
                    space,
                    machinetype,
                    no_room: ledger.room.refuses(&(flavor.clone(), zone.clone()), now),
                    youngest: ledger.youngest(machinetype, &site.cloud, now),
                };
                ledger
                    .creates(
                        (name, machinetype),
                        flavor,
                        site.limits[self.factory],
                        &site.cloud,
                    )
                    .and_then(|()| (self.may_create)(wanted))
            }
            Kind::Delete { id } => ledger.deletes(id, &site.cloud).and_then(|()| {
                let server = site.cloud.server(id);
                server.map_or(Ok(()), |server| (self.may_delete)(server, &site.cloud))
            }),
            Kind::ImportKey => {
                ledger.keys.imports(&ask.body);
                Ok(())
            }
            Kind::RemoveKey { name } => ledger.removes_key(name, &site.cloud, now),
            Kind::Opening => {
                ledger.begins_a_pass(now);
                Ok(())
            }
            Kind::Show { .. } | Kind::Other => Ok(()),
        };
        let outcome = site.cloud.carry(now, ask);
        self.tell(ask, &outcome);
        match &kind {
            Kind::Page { .. } => {
                let page = match &outcome {
                    Outcome::Reply { reply, after } if reply.status == 200 && *after < PATIENCE => {
                        serde_json::from_slice::<Value>(&reply.body).ok()
                    }
                    _ => None,
                };
                ledger.gets_page(page.as_ref(), now);
            }
            Kind::Create {
                name, flavor, zone, ..
            } => {
                if let Outcome::Reply { reply, after } = &outcome
                    && *after < PATIENCE
                {
                    let place = (flavor.clone(), zone.clone());
                    let (zones, ok) = (site.cloud.zones(), reply.status.is_success());
                    let room = &mut ledger.room;
                    room.answered(place, zones, &reply.body, ok, now);
                }
                if let Outcome::Reply { reply, .. } = &outcome
                    && reply.status.is_client_error()
                    && reply.status != 408
                {
                    ledger.was_refused(name);
                }
                if matches!(outcome, Outcome::NotSent { .. }) {
                    ledger.was_refused(name);
                }
            }
            Kind::Show { id } => {
                // It follows from a listing.
                ledger.settle(&site.cloud);
                if let Outcome::Reply { reply, after } = &outcome
                    && *after < PATIENCE
                {
                    let document = serde_json::from_slice::<Value>(&reply.body);
                    let server = document.ok().filter(|_| reply.status == 200);
                    match server.as_ref().and_then(|document| document.get("server")) {
                        Some(server) => ledger.is_shown(id, server, now),
                        None if reply.status == 404 => ledger.is_told_gone(id),
                        None => {}
                    }
                }
            }
            Kind::Delete { .. }
            | Kind::ImportKey
            | Kind::RemoveKey { .. }
            | Kind::Opening
            | Kind::Other => {}
        }
        drop(sites);
        if let Err(of) = checked {
            self.sites.accuse(of);
        }
        outcome
    }

    fn tell(&self, ask: &Ask, outcome: &Outcome) {
        let transcript = &self.sites.transcript;
        let shown = match outcome {
            Outcome::Reply { reply, after } => {
                if let Some(token) = reply.headers.get("x-subject-token") {
                    transcript.must_not_show(token.to_str().unwrap());
                }
                format!("{} after {} ms", reply.status.as_u16(), after.as_millis())
            }
            Outcome::NotSent { .. } => "not sent".to_owned(),
            Outcome::Lost { .. } => "lost".to_owned(),
            Outcome::TimedOut => "timed out".to_owned(),
        };
        let path = ask.url.path();
        transcript.say(format!(
            "  [{}] {} {path}: {shown}",
            self.factory, ask.method
        ));
    }
}
