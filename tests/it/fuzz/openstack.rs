//! Answers of a real OpenStack (`fixtures/openstack.json`), mutated, through the adapter.
//!
//! Whatever comes back: no panic, an end in time; a listing that is whole or an error, with no
//! machine twice and none taken for ended without its word; a create that was not understood is
//! ambiguous; and errors that show no secret and fit in a line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};
use vcycle::clock::Clock;
use vcycle::cloud::http::{FileBody, HttpTimes};
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{
    Cloud, CloudError, CloudErrorKind, CreateRequest, ImageFormat, NewImage, UploadProgress,
};
use vcycle::model::{CloudId, CloudMachine, FactoryName, MachineState, Owner, Seconds, SpaceName};

use super::json::{Change, Form, form, render, restructure, structure};
use super::{Cost, cases, fuzz};
use crate::openstack_adapter::{NOW, PASSWORD, connect_with, options, request};
use crate::scripted::{Reply, Scripted, Seen};

const TOKEN: &str = "gAAAAfuzz-token";
const USER_DATA: &str = "c2VjcmV0IHVzZXIgZGF0YQ==";
const SECRETS: &[&str] = &[PASSWORD, TOKEN, USER_DATA];
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2";

/// The documents that the adapter reads.
const DOCUMENTS: &[&str] = &[
    "token_v3",
    "token_v2",
    "flavors",
    "limits",
    "servers_page",
    "servers",
    "servers_page",
    "created",
    "created",
    "images",
    "image",
    "keypair",
    "keypair_created",
    "server_failed",
];
/// The same, and what a cloud says when it refuses.
const BODIES: &[&str] = &[
    "servers",
    "created",
    "token_refused",
    "create_refused",
    "no_such_server",
    "marker_gone",
    "unauthorized",
    "no_such_image",
    "keypair_conflict",
];
const STATUSES: &[u16] = &[
    200, 201, 202, 204, 206, 300, 302, 400, 401, 403, 404, 409, 410, 413, 418, 429, 500, 502, 503,
    504, 599, 999,
];

fn fixtures() -> BTreeMap<String, Value> {
    let text = include_str!("../fixtures/openstack.json");
    // Names that lead nowhere, also when they are mutated.
    let text = text.replace(".example.org", ".invalid");
    let recorded: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let bodies = recorded
        .into_iter()
        .map(|(name, mut answer)| (name, answer["body"].take()));
    let mut bodies: BTreeMap<String, Value> = bodies.collect();
    let endpoint = |url: &str| json!([{"region": "RegionOne", "publicURL": url, "adminURL": url}]);
    bodies.insert("token_v2".to_owned(), json!({"access": {
        "token": {"id": TOKEN, "issued_at": "2026-11-21T00:00:00.000000", "expires": "2026-11-22T00:00:00Z"},
        "serviceCatalog": [
            {"type": "compute", "endpoints": endpoint("http://nova.invalid:8774/v2.1")},
            {"type": "image", "endpoints": endpoint("http://glance.invalid:9292")}]}}));
    bodies
}

/// What the server says in place of one of the documents.
#[derive(Clone, Debug, Default)]
struct Twist {
    document: &'static str,
    status: Option<u16>,
    body: Vec<u8>,
}

/// The document that a request is answered with, and the status that belongs to it.
fn asked_for(seen: &Seen) -> (&'static str, u16) {
    match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", "/identity/" | "/identity") => ("versions", 300),
        (_, "/identity/v2.0/tokens") => ("token_v2", 200),
        (_, "/identity/v3/auth/tokens") => ("token_v3", 201),
        (_, "/v2.1/flavors/detail") => ("flavors", 200),
        (_, "/v2.1/limits") => ("limits", 200),
        (_, "/v2.1/servers/detail") if seen.query.is_empty() => ("servers_page", 200),
        (_, "/v2.1/servers/detail") => ("servers", 200),
        ("POST", "/v2.1/servers") => ("created", 202),
        ("POST", "/v2.1/os-keypairs") => ("keypair_created", 200),
        ("GET", path) if path.starts_with("/v2.1/os-keypairs/") => ("keypair", 404),
        ("GET", path) if path.starts_with("/v2.1/servers/") => ("server_failed", 200),
        ("GET", "/v2/images") => ("images", 200),
        ("POST", "/v2/images") => ("image", 201),
        ("GET", path) if path.starts_with("/v2/images/") => ("image", 200),
        _ => ("no_such_server", 404),
    }
}

/// A cloud with one twist, and the adapter that talks to it.
struct World {
    runtime: tokio::runtime::Runtime,
    server: Scripted,
    twist: Arc<Mutex<Twist>>,
    cloud: OpenStack,
    clock: Clock,
    bodies: BTreeMap<String, Value>,
}

fn times() -> HttpTimes {
    HttpTimes {
        connect: Duration::from_millis(500),
        request: Duration::from_secs(2),
        call: Duration::from_secs(4),
        longest_wait: Duration::from_millis(20),
        pause: Duration::from_micros(10),
    }
}

impl World {
    fn new(identity: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let twist = Arc::new(Mutex::new(Twist::default()));
        let bodies = fixtures();
        let (said, known) = (Arc::clone(&twist), bodies.clone());
        let server = runtime.block_on(Scripted::start(move |seen, base| {
            let (document, status) = asked_for(seen);
            let twist = said.lock().unwrap().clone();
            let twisted = twist.document == document;
            let body = match twisted {
                true => twist.body,
                false => known[document].to_string().into_bytes(),
            };
            Reply::Raw {
                status: twist.status.filter(|_| twisted).unwrap_or(status),
                headers: vec![("x-subject-token", TOKEN.to_owned())],
                body: at_home(&body, base),
            }
        }));
        let clock = Clock::manual(NOW);
        let options = options(&format!("{}{identity}", server.base));
        let cloud = {
            let _entered = runtime.enter();
            connect_with(&options, Path::new(""), clock.clone(), times())
        };
        Self {
            runtime,
            server,
            twist,
            cloud,
            clock,
            bodies,
        }
    }

    /// An image is looked for and uploaded, whose bytes nobody takes.
    async fn image(&self) -> [Option<CloudError>; 2] {
        let image = NewImage {
            name: "disk".to_owned(),
            owner: Owner {
                space: SpaceName::new("space.example.org").unwrap(),
                manager: FactoryName::new("factory.example.org").unwrap(),
            },
            digest: "00".to_owned(),
            format: ImageFormat::Raw,
        };
        let body = FileBody::new(std::fs::File::open("Cargo.toml").unwrap()).unwrap();
        let progress = UploadProgress::default();
        [
            self.cloud.find_image(&image).await.err(),
            self.cloud
                .upload_image(&image, &body, &progress)
                .await
                .err(),
        ]
    }

    /// Everything that is asked of a cloud, with this twist.
    fn calls(&self, twist: &Twist) -> Calls {
        self.server.forget();
        // Old tokens and look-ups are asked for again.
        self.clock.set(self.clock.now() + Seconds::new(86_400 * 2));
        *self.twist.lock().unwrap() = twist.clone();
        let mut request: CreateRequest = request();
        request.image = "CernVM 5".to_owned();
        request.public_key = Some(KEY.to_owned());
        let begun = Instant::now();
        let calls = self.runtime.block_on(async {
            Calls {
                facts: self.cloud.facts().await.err(),
                listed: self.cloud.list().await,
                created: self.cloud.create(&request).await,
                deleted: self.cloud.delete(&CloudId::new("x")).await.err(),
                image: self.image().await,
                took: Duration::ZERO,
            }
        });
        Calls {
            took: begun.elapsed(),
            ..calls
        }
    }
}

/// The body with addresses that lead to the server itself.
fn at_home(body: &[u8], base: &str) -> Vec<u8> {
    let mut out = body.to_vec();
    for name in [
        "http://nova.invalid:8774",
        "http://glance.invalid:9292",
        "http://keystone.invalid:5000",
    ] {
        while let Some(at) = out
            .windows(name.len())
            .position(|part| part == name.as_bytes())
        {
            out.splice(at..at + name.len(), base.bytes());
        }
    }
    out
}

struct Calls {
    facts: Option<CloudError>,
    listed: Result<Vec<CloudMachine>, CloudError>,
    created: Result<CloudId, CloudError>,
    deleted: Option<CloudError>,
    image: [Option<CloudError>; 2],
    took: Duration,
}

impl Calls {
    fn check(&self, twist: &Twist, base: &str) -> Result<(), TestCaseError> {
        prop_assert!(self.took < Duration::from_secs(10), "took {:?}", self.took);
        let errors = [
            self.image[0].as_ref(),
            self.image[1].as_ref(),
            self.facts.as_ref(),
            self.listed.as_ref().err(),
            self.created.as_ref().err(),
            self.deleted.as_ref(),
        ];
        for error in errors.into_iter().flatten() {
            fit_for_a_log(&error.to_string(), &[PASSWORD, TOKEN])?;
            fit_for_a_log(&format!("{error:?}"), &[PASSWORD, TOKEN])?;
        }
        // Only a create bears user_data, and only its answers can quote it.
        if let Err(error) = &self.created {
            fit_for_a_log(&error.to_string(), SECRETS)?;
        }
        let said = at_home(&twist.body, base);
        let told = serde_json::from_slice::<Value>(&said).unwrap_or(Value::Null);
        if let Ok(machines) = &self.listed {
            whole(machines, twist, &told)?;
        }
        if twist.document == "created" {
            understood(&self.created, twist, &told)?;
        }
        Ok(())
    }
}

fn fit_for_a_log(line: &str, secrets: &[&str]) -> Result<(), TestCaseError> {
    prop_assert!(!line.contains(char::is_control), "{:?}", line);
    prop_assert!(line.len() < 8000, "{}", line);
    for secret in secrets {
        prop_assert!(!line.contains(secret), "{} shows {}", line, secret);
    }
    Ok(())
}

/// A listing has every server of every page, once, in a state that its words allow.
fn whole(machines: &[CloudMachine], twist: &Twist, told: &Value) -> Result<(), TestCaseError> {
    let ids: BTreeSet<&str> = machines.iter().map(|machine| machine.id.as_str()).collect();
    prop_assert_eq!(ids.len(), machines.len(), "a machine twice");
    for machine in machines {
        let status = machine.status.to_ascii_uppercase();
        let says = |words: &[&str]| words.iter().any(|word| status.contains(word));
        let allowed = match machine.state {
            MachineState::Shutdown => says(&["SHUTOFF", "PAUSED", "SUSPENDED", "SHELVED"]),
            MachineState::Deleting => says(&["DELETED", "DELETING"]),
            MachineState::Failed => says(&["ERROR"]),
            MachineState::Running => says(&["ACTIVE"]),
            MachineState::Starting | MachineState::Unknown => true,
        };
        prop_assert!(allowed, "{} taken for {}", status, machine.state);
    }
    let document = match twist.document {
        "servers" | "servers_page" => told,
        _ => return Ok(()),
    };
    let servers = document["servers"].as_array();
    for server in servers.into_iter().flatten() {
        let id = server["id"].as_str().unwrap_or("?");
        prop_assert!(ids.contains(id), "{} is left out", id);
    }
    Ok(())
}

/// An identifier from a good answer, or no certainty.
fn understood(
    created: &Result<CloudId, CloudError>,
    twist: &Twist,
    told: &Value,
) -> Result<(), TestCaseError> {
    let good = twist
        .status
        .is_none_or(|status| (200..300).contains(&status));
    match created {
        Ok(id) => {
            prop_assert!(good);
            if !told.is_null() {
                prop_assert_eq!(Some(id.as_str()), told["server"]["id"].as_str());
            }
        }
        Err(error) if good => prop_assert_eq!(error.kind, CloudErrorKind::Ambiguous),
        Err(error) => prop_assert_ne!(error.kind, CloudErrorKind::NotFound),
    }
    Ok(())
}

type Input = (&'static str, Vec<Change>, Form, Option<u16>);

fn twists(documents: &'static [&'static str], refused: f64) -> impl Strategy<Value = Input> {
    let status = prop::option::weighted(refused, select(STATUSES));
    (select(documents), structure(SECRETS), form(), status)
}

fn run(identity: &str, usual: u32, inputs: &impl Strategy<Value = Input>) {
    let world = World::new(identity);
    fuzz(
        file!(),
        cases(Cost::Dear, usual),
        inputs,
        |(name, changes, form, status)| {
            let document = restructure(world.bodies[name].clone(), &changes);
            let twist = Twist {
                // What is said in a refusal is said to the request that fails.
                document: match name {
                    "token_refused" => "token_v3",
                    "create_refused" | "keypair_conflict" => "created",
                    "no_such_server" | "marker_gone" | "unauthorized" => "servers_page",
                    "no_such_image" => "images",
                    other => other,
                },
                status,
                body: render(&document, &form),
            };
            world.calls(&twist).check(&twist, &world.server.base)
        },
    );
}

#[test]
fn good_answers_mutated() {
    run("/identity/v3", 25, &twists(DOCUMENTS, 0.01));
}

#[test]
fn refusals_mutated() {
    run("/identity/v3", 20, &twists(BODIES, 0.99));
}

#[test]
fn answers_of_identity_version_2_mutated() {
    run("/identity/v2.0", 8, &twists(&["token_v2"], 0.1));
}

/// The version is asked for once in the life of an adapter: each case has its own.
#[test]
fn version_documents_mutated() {
    const VERSIONS: &[&str] = &["versions", "version_3"];
    fuzz(
        file!(),
        cases(Cost::Dear, 3).min(1000),
        &twists(VERSIONS, 0.1),
        |(name, changes, form, status)| {
            let world = World::new("/identity/");
            let document = restructure(world.bodies[name].clone(), &changes);
            let body = render(&document, &form);
            let twist = Twist {
                document: "versions",
                status,
                body,
            };
            world.calls(&twist).check(&twist, &world.server.base)
        },
    );
}

/// The recorded answers, as they are, are understood.
#[test]
fn recorded_answers_are_understood() {
    for identity in ["/identity/v3", "/identity/v2.0", "/identity/"] {
        let world = World::new(identity);
        let calls = world.calls(&Twist::default());
        assert_eq!(calls.facts, None);
        assert_eq!(calls.deleted.map(|error| error.kind), None);
        calls.created.unwrap();
        calls.listed.unwrap_err();
        let mut page = world.bodies["servers_page"].clone();
        page["servers"] = json!([]);
        let body = page.to_string().into_bytes();
        let listed = world
            .calls(&Twist {
                document: "servers_page",
                status: None,
                body,
            })
            .listed;
        let states: Vec<_> = listed
            .unwrap()
            .iter()
            .map(|machine| machine.state)
            .collect();
        assert_eq!(states.len(), 3);
        assert!(states.contains(&MachineState::Failed) && states.contains(&MachineState::Running));
    }
}
