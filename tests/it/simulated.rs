//! The embedded cloud over HTTP, as a client of OpenStack sees it, and what its VMs do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use vcycle::cli::demo::certificates::{Authority, Use, Validity};
use vcycle::clock::Clock;
use vcycle::cloud::simulated::Simulated;
use vcycle::cloud::{Cloud, CloudErrorKind, CreateRequest, Deletion};
use vcycle::config::space::OpenStackCredentials;
use vcycle::config::{ServerConfig, SimulatedOptions};
use vcycle::model::{
    FactoryName, MachineName, MachineState, MachinetypeName, Processors, Seconds, Secret,
    SpaceName, Timestamp,
};
use vcycle::server::Server;
use vcycle::state::disk::{self, Disk};
use vcycle::state::{Layout, NewMachine, Store};

use super::contract::{self, Ground};

/// Fast enough that a life of hours fits into a test, slow enough that order can be seen.
const SPEED: u32 = 600;

fn options() -> SimulatedOptions {
    SimulatedOptions {
        machines: 5,
        processors: 8,
        boot: Seconds::new(60),
        job: Seconds::new(1200),
        work: BTreeMap::from([("idle".to_owned(), 0)]),
        cert: None,
        fault_percent: 0,
        fault_seed: None,
    }
}

fn space() -> SpaceName {
    SpaceName::new("example.org").unwrap()
}

async fn start(state: &Path, options: &SimulatedOptions) -> Simulated {
    let nowhere = state.join("certificates");
    Simulated::start(&space(), options, state, &nowhere, Clock::fast(SPEED))
        .await
        .unwrap()
}

/// A client that has logged in.
struct Session {
    http: Client,
    base: String,
    token: String,
}

fn login_body(user: &str, password: &str) -> Value {
    json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": user, "password": password, "domain": {"name": "Default"}}}},
        "scope": {"project": {"name": "simulated", "domain": {"name": "Default"}}},
    }})
}

impl Session {
    async fn log_in(cloud: &Simulated) -> Self {
        let options = cloud.options();
        let OpenStackCredentials::Password { username, password } = &options.credentials else {
            panic!("the embedded cloud takes a password");
        };
        let http = Client::new();
        let answer = http
            .post(format!("{}/auth/tokens", options.url))
            .json(&login_body(username, password.reveal()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let token = answer.headers()["x-subject-token"].to_str().unwrap();
        let token = token.to_owned();
        let body: Value = answer.json().await.unwrap();
        let catalog = body["token"]["catalog"].as_array().unwrap();
        let nova = catalog
            .iter()
            .find(|service| service["type"] == "compute")
            .unwrap();
        let base = nova["endpoints"][1]["url"].as_str().unwrap().to_owned();
        Self { http, base, token }
    }

    async fn ask(&self, method: Method, url: &str, body: Option<Value>) -> (StatusCode, Value) {
        let url = if url.starts_with("http") {
            url.to_owned()
        } else {
            format!("{}{url}", self.base)
        };
        let mut request = self.http.request(method, url);
        request = request.header("X-Auth-Token", &self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn get(&self, url: &str) -> Value {
        let (status, body) = self.ask(Method::GET, url, None).await;
        assert_eq!(status, StatusCode::OK, "{url}: {body}");
        body
    }

    async fn order(&self, name: &str, flavor: &str, metadata: Value) -> (StatusCode, Value) {
        let flavors = self.get("/flavors/detail").await;
        let flavor = flavors["flavors"]
            .as_array()
            .unwrap()
            .iter()
            .find(|offered| offered["name"] == flavor)
            .unwrap();
        let images = self.base.replace("/v2.1", "/v2/images?name=cernvm4");
        let images = self.get(&images).await;
        let body = json!({"server": {
            "name": name, "flavorRef": flavor["id"], "imageRef": images["images"][0]["id"],
            "metadata": metadata, "user_data": "aGVsbG8=",
        }});
        self.ask(Method::POST, "/servers", Some(body)).await
    }

    async fn create(&self, name: &str, metadata: Value) -> String {
        let (status, body) = self.order(name, "small", metadata).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        assert_eq!(body["server"].get("name"), None, "Nova does not tell");
        body["server"]["id"].as_str().unwrap().to_owned()
    }

    async fn status(&self, id: &str) -> String {
        let body = self.get(&format!("/servers/{id}")).await;
        body["server"]["status"].as_str().unwrap().to_owned()
    }

    async fn wait_for_status(&self, id: &str, wanted: &str) {
        for _ in 0..1000 {
            if self.status(id).await == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("server {id} is not {wanted} but {}", self.status(id).await);
    }
}

#[tokio::test]
async fn only_who_knows_the_password_gets_in() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;

    for (user, password) in [("vcycle", "wrong"), ("admin", ""), ("", "")] {
        let answer = session
            .http
            .post(format!("{}/auth/tokens", cloud.options().url))
            .json(&login_body(user, password))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    for token in ["", "0000"] {
        let answer = session
            .http
            .get(format!("{}/servers/detail", session.base))
            .header("X-Auth-Token", token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Keystone uri="), "{challenge}");
    }
}

#[tokio::test]
async fn a_server_builds_runs_and_is_deleted() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;

    let id = session.create("vcycle-a", json!({"space": "x"})).await;
    let body = session.get(&format!("/servers/{id}")).await;
    let server = &body["server"];
    assert_eq!(server["name"], "vcycle-a");
    assert_eq!(server["metadata"], json!({"space": "x"}));
    if server["status"] == "BUILD" {
        assert_eq!(server["addresses"], json!({}));
        assert_eq!(server["OS-SRV-USG:launched_at"], Value::Null);
        assert_eq!(server["OS-EXT-STS:power_state"], 0);
    }

    session.wait_for_status(&id, "ACTIVE").await;
    let body = session.get(&format!("/servers/{id}")).await;
    let server = &body["server"];
    assert_eq!(server["OS-EXT-STS:power_state"], 1);
    assert!(server["OS-SRV-USG:launched_at"].is_string());
    assert!(server["addresses"]["simulated-net"][0]["addr"].is_string());

    let url = format!("/servers/{id}");
    let (status, _) = session.ask(Method::DELETE, &url, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    for _ in 0..1000 {
        let (status, body) = session.ask(Method::GET, &url, None).await;
        if status == StatusCode::NOT_FOUND {
            let message = format!("Instance {id} could not be found.");
            assert_eq!(body["itemNotFound"]["message"], message);
            break;
        }
        assert_eq!(body["server"]["OS-EXT-STS:task_state"], "deleting");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, _) = session.ask(Method::DELETE, &url, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(session.get("/servers/detail").await["servers"], json!([]));
}

#[tokio::test]
async fn quotas_hold_in_machines_and_processors() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;

    let (status, _) = session.order("a", "large", json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let (status, body) = session.order("b", "xlarge", json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        body["forbidden"]["message"],
        "Quota exceeded for cores: Requested 8, but already used 4 of 8 cores"
    );
    for _ in 0..4 {
        session.create("c", json!({})).await;
    }
    let (status, body) = session.order("d", "small", json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    let limits = session.get("/limits").await;
    let absolute = &limits["limits"]["absolute"];
    assert_eq!(absolute["maxTotalCores"], 8);
    assert_eq!(absolute["totalCoresUsed"], 8);
    assert_eq!(absolute["totalInstancesUsed"], 5);
}

#[tokio::test]
async fn pages_are_linked_as_novas_are() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;
    let mut created = Vec::new();
    for number in 0..4 {
        created.push(session.create(&format!("server-{number}"), json!({})).await);
    }

    let mut url = "/servers/detail?limit=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let body = session.get(&url).await;
        let servers = body["servers"].as_array().unwrap();
        let ids: Vec<String> = servers
            .iter()
            .map(|server| server["id"].as_str().unwrap().to_owned())
            .collect();
        pages.push(ids);
        let Some(next) = body["servers_links"][0]["href"].as_str() else {
            break;
        };
        assert!(next.contains("limit=2&marker="), "{next}");
        url = next.to_owned();
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 0]);
    created.reverse();
    assert_eq!(pages.concat(), created, "newest first");

    for (query, message) in [
        ("marker=x", "marker [x] not found"),
        (
            "limit=-1",
            "Invalid input for query parameters limit. Value: -1. '-1' does not match '^[0-9]*$'",
        ),
    ] {
        let url = format!("/servers/detail?{query}");
        let (status, body) = session.ask(Method::GET, &url, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(body["badRequest"]["message"], message);
    }
}

#[tokio::test]
async fn a_restart_finds_the_same_servers_and_they_go_on() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;
    let stays = session.create("stays", json!({"machinetype": "a"})).await;
    let leaves = session.create("leaves", json!({"machinetype": "a"})).await;
    let (status, _) = session
        .ask(Method::DELETE, &format!("/servers/{leaves}"), None)
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    drop(cloud);

    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;
    let body = session.get(&format!("/servers/{stays}")).await;
    assert_eq!(body["server"]["name"], "stays");
    session.wait_for_status(&stays, "SHUTOFF").await;
    let body = session.get("/servers/detail").await;
    assert_eq!(body["servers"].as_array().unwrap().len(), 1, "{body}");
}

#[tokio::test]
async fn a_look_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let options = SimulatedOptions {
        boot: Seconds::new(86_400),
        ..options()
    };
    let cloud = start(state.path(), &options).await;
    let id = Session::log_in(&cloud).await.create("a", json!({})).await;
    drop(cloud);
    let file = state.path().join("simulated/example.org.json");
    let before = std::fs::read(&file).unwrap();

    let nowhere = state.path().join("certificates");
    let clock = Clock::fast(SPEED);
    let view = Simulated::look(&space(), &options, state.path(), &nowhere, clock)
        .await
        .unwrap();
    let session = Session::log_in(&view).await;
    let body = session.get("/servers/detail").await;
    assert_eq!(body["servers"][0]["id"], id.as_str());
    let (status, _) = session.order("b", "small", json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let url = format!("/servers/{id}");
    let (status, _) = session.ask(Method::DELETE, &url, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_not_replaced() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("simulated/example.org.json");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "{\"servers\": [").unwrap();
    let nowhere = state.path().join("certificates");
    let clock = Clock::fast(SPEED);
    let started = Simulated::start(&space(), &options(), state.path(), &nowhere, clock).await;
    let error = started.unwrap_err().to_string();
    assert!(error.contains("example.org.json"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"{\"servers\": [");
}

#[tokio::test]
async fn keys_are_kept_under_one_name_each() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;
    let key = json!({"keypair": {"name": "k", "public_key":
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB x@y"}});
    let import = |body: Value| session.ask(Method::POST, "/os-keypairs", Some(body));
    assert_eq!(import(key.clone()).await.0, StatusCode::OK);
    assert_eq!(import(key).await.0, StatusCode::CONFLICT);
    let wrong = json!({"keypair": {"name": "w", "public_key": "ssh-rsa bad"}});
    assert_eq!(import(wrong).await.0, StatusCode::BAD_REQUEST);
    let keys = session.get("/os-keypairs").await;
    assert_eq!(keys["keypairs"].as_array().unwrap().len(), 1);
    assert_eq!(
        keys["keypairs"][0]["keypair"]["fingerprint"],
        "67:66:33:c5:89:55:21:d4:1d:cd:fd:b4:59:cc:6d:64"
    );
    let delete = || session.ask(Method::DELETE, "/os-keypairs/k", None);
    assert_eq!(delete().await.0, StatusCode::ACCEPTED);
    assert_eq!(delete().await.0, StatusCode::NOT_FOUND);
    let keys = session.get("/os-keypairs").await;
    assert_eq!(keys["keypairs"], json!([]));
}

async fn request(cloud: &Simulated, flavor: &str, image: &str, name: &str) -> CreateRequest {
    let facts = cloud.facts().await.unwrap();
    CreateRequest {
        name: MachineName::new(name).unwrap(),
        flavor: facts.flavor(flavor).unwrap().clone(),
        image: image.to_owned(),
        volume: None,
        public_key: Some(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB x@y"
                .to_owned(),
        ),
        user_data: Secret::new(b"#!/bin/sh".to_vec()),
        metadata: BTreeMap::from([
            ("space".to_owned(), "example.org".to_owned()),
            ("manager".to_owned(), "factory.example.org".to_owned()),
        ]),
        zone: None,
    }
}

#[tokio::test]
async fn the_openstack_adapter_works_on_it() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let limits = cloud.facts().await.unwrap().limits;
    assert_eq!((limits.machines, limits.processors), (Some(5), Some(8)));

    let name = "vcycle-a-aaaaaaaaaa";
    let wanted = request(&cloud, "medium", "cernvm4", name).await;
    let id = cloud.create(&wanted).await.unwrap();
    let machine = wait_for_machine(&cloud, MachineState::Running).await;
    assert_eq!(machine.id, id);
    assert_eq!(machine.name, name);
    assert_eq!(machine.processors, Some(Processors::new(2)));
    assert!(machine.created.is_some() && machine.started.is_some());
    assert_eq!(machine.marks.unwrap().manager, "factory.example.org");

    assert_eq!(cloud.delete(&id).await.unwrap(), Deletion::Accepted);
    for _ in 0..1000 {
        if cloud.list().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(cloud.delete(&id).await.unwrap(), Deletion::AlreadyGone);
}

async fn wait_for_machine(cloud: &Simulated, state: MachineState) -> vcycle::model::CloudMachine {
    for _ in 0..1000 {
        let machines = cloud.list().await.unwrap();
        if let Some(machine) = machines.into_iter().find(|machine| machine.state == state) {
            return machine;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no machine is {state}");
}

#[tokio::test]
async fn it_keeps_the_contract_of_clouds() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let ground = Ground {
        flavor: "small".to_owned(),
        image: "cernvm4".to_owned(),
        public_key: None,
        zone: Some("zone-b".to_owned()),
        patience: Duration::from_secs(30),
        look_every: Duration::from_millis(20),
    };
    contract::keeps_the_contract(&cloud, &ground).await;
}

#[tokio::test]
async fn the_adapter_understands_its_refusals() {
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let name = "vcycle-a-aaaaaaaaaa";
    let unknown_image = request(&cloud, "small", "no-such-image", name).await;
    let error = cloud.create(&unknown_image).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::NotFound, "{error}");

    let large = request(&cloud, "xlarge", "cernvm4", name).await;
    cloud.create(&large).await.unwrap();
    let one_more = request(&cloud, "small", "cernvm4", "vcycle-a-bbbbbbbbbb").await;
    let error = cloud.create(&one_more).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Quota, "{error}");
}

#[tokio::test]
async fn hundreds_of_vms_live_at_once() {
    let state = tempfile::tempdir().unwrap();
    let options = SimulatedOptions {
        machines: 1000,
        processors: 1000,
        job: Seconds::new(86_400),
        ..options()
    };
    let cloud = start(state.path(), &options).await;
    let wanted = request(&cloud, "small", "cernvm4", "vcycle-a-aaaaaaaaaa").await;
    for _ in 0..30 {
        let creates = (0..10).map(|_| cloud.create(&wanted));
        for created in futures_util::future::join_all(creates).await {
            created.unwrap();
        }
    }
    for _ in 0..1000 {
        let machines = cloud.list().await.unwrap();
        assert_eq!(machines.len(), 300);
        if machines.iter().all(|m| m.state == MachineState::Running) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not all of them run");
}

/// What VMs wrote: path and body of each PUT.
type Outputs = Arc<Mutex<Vec<(String, String)>>>;

/// Stands for vcycled's own server: tells every machine its shutdowntime and takes its files.
async fn features_server(shutdowntime: u64) -> (String, Outputs) {
    let outputs = Outputs::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let shared = Arc::clone(&outputs);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let outputs = Arc::clone(&shared);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let outputs = Arc::clone(&outputs);
                async move {
                    let path = request.uri().path().to_owned();
                    let put = request.method() == Method::PUT;
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let mut answer = String::new();
                    if put {
                        let body = String::from_utf8(body.to_vec()).unwrap();
                        outputs.lock().unwrap().push((path, body));
                    } else if path.ends_with("/machinefeatures/shutdowntime") {
                        answer = shutdowntime.to_string();
                    }
                    let answer = Full::new(Bytes::from(answer));
                    Ok::<_, Infallible>(http::Response::new(answer))
                }
            });
            tokio::spawn(async move {
                let stream = TokioIo::new(stream);
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                server.serve_connection(stream, service).await.ok();
            });
        }
    });
    (base, outputs)
}

/// Lives one life of a VM and tells its heartbeats and last words.
async fn live(machinetype: &str, shutdowntime: u64) -> (usize, Vec<String>) {
    let (base, outputs) = features_server(shutdowntime).await;
    let state = tempfile::tempdir().unwrap();
    let cloud = start(state.path(), &options()).await;
    let session = Session::log_in(&cloud).await;
    let metadata = json!({
        "machinetype": machinetype,
        "machinefeatures": format!("{base}/m/machinefeatures"),
        "joboutputs": format!("{base}/m/joboutputs"),
    });
    let id = session.create("vcycle-a", metadata).await;
    session.wait_for_status(&id, "SHUTOFF").await;
    let outputs = outputs.lock().unwrap();
    let heartbeats = outputs
        .iter()
        .filter(|(path, _)| path == "/m/joboutputs/heartbeat")
        .count();
    let last_words = outputs
        .iter()
        .filter(|(path, _)| path == "/m/joboutputs/shutdown_message")
        .map(|(_, text)| text.clone())
        .collect();
    (heartbeats, last_words)
}

const FAR: u64 = 99_999_999_999;

#[tokio::test]
async fn a_vm_with_work_beats_until_it_is_done() {
    let (heartbeats, last_words) = live("busy", FAR).await;
    assert!(heartbeats >= 3, "{heartbeats} in about 1200 seconds");
    assert_eq!(last_words, ["200 Success"]);
}

#[tokio::test]
async fn a_vm_without_work_says_so_and_ends() {
    let (heartbeats, last_words) = live("idle", FAR).await;
    assert_eq!(heartbeats, 1);
    assert_eq!(last_words, ["300 Nothing to do"]);
}

#[tokio::test]
async fn a_vm_ends_before_its_shutdowntime() {
    let (heartbeats, last_words) = live("busy", 1_000_000).await;
    assert_eq!(heartbeats, 0);
    assert_eq!(last_words, ["100 Shutdown as requested by the host"]);
}

const VM: &[(&str, &str)] = &[("DC", "org"), ("CN", "vm.example.org")];

/// Certificates and a machine directory, as the daemon would have them.
async fn https_server(state: &Path, name: &MachineName) -> (Server, std::path::PathBuf) {
    let validity = Validity {
        now: Clock::system().now(),
        life: Seconds::new(3600),
    };
    let ca_path = state.join("certificates");
    std::fs::create_dir(&ca_path).unwrap();
    let authority = Authority::new(&[("CN", "Test CA")], validity).unwrap();
    authority.install(&ca_path).unwrap();
    let host = Use::Host {
        names: vec!["localhost".to_owned()],
        addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    let host = authority.issue(&[("CN", "localhost")], &host, validity);
    let host = host.unwrap();
    let vm = authority.issue(VM, &Use::Client, validity).unwrap();
    let proxy = vm.limited_proxy(validity).unwrap();
    let write = |file: &str, pem: Vec<u8>| {
        let path = state.join(file);
        Disk::default()
            .create_synced(&path, &pem, disk::PRIVATE)
            .unwrap();
        path
    };
    let cert = write("hostcert.pem", host.certificate_pem().unwrap());
    let key = write("hostkey.pem", host.key_pem().unwrap());
    let vm = write("vm-proxy.pem", proxy.to_pem().unwrap());

    let store = Store::open(state).unwrap();
    store
        .create_machine(&NewMachine {
            name: name.clone(),
            space: space(),
            machinetype: MachinetypeName::new("a").unwrap(),
            manager: FactoryName::new("factory").unwrap(),
            created: Timestamp::from_unix(1),
            id: None,
            https_x509dn: Some("/DC=org/CN=vm.example.org".to_owned()),
            token: None,
            fizzle: None,
            hepscore23_per_processor: None,
            accounting_fqan: None,
            log_joboutputs: false,
            flavor: None,
            zone: None,
            user_data: None,
            machinefeatures: BTreeMap::from([("shutdowntime", FAR.to_string())]),
            jobfeatures: BTreeMap::new(),
        })
        .unwrap();
    let config = ServerConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        http_listen: Vec::new(),
        cert,
        key,
        ca_path,
        admin_listen: None,
        joboutputs_max_bytes: 1 << 20,
        joboutputs_max_bytes_per_machine: 1 << 20,
    };
    let server = Server::start(&config, Layout::new(state), Clock::fast(SPEED));
    (server.await.unwrap(), vm)
}

#[tokio::test]
async fn vms_write_to_the_real_server_with_their_proxy() {
    let state = tempfile::tempdir().unwrap();
    let name = MachineName::new("vcycle-idle-aaaaaaaaaa").unwrap();
    let (server, vm) = https_server(state.path(), &name).await;
    let port = server.addresses().first().unwrap().port();
    let options = SimulatedOptions {
        cert: Some(vm),
        ..options()
    };
    let cloud = start(state.path(), &options).await;
    let session = Session::log_in(&cloud).await;
    let base = format!("https://localhost:{port}/machines/{name}");
    let metadata = json!({
        "machinetype": "idle",
        "machinefeatures": format!("{base}/machinefeatures"),
        "joboutputs": format!("{base}/joboutputs"),
    });
    let id = session.create(name.as_str(), metadata).await;
    session.wait_for_status(&id, "SHUTOFF").await;
    let outputs = state.path().join("machines").join(&name).join("joboutputs");
    assert!(outputs.join("heartbeat").is_file());
    assert_eq!(
        std::fs::read_to_string(outputs.join("shutdown_message")).unwrap(),
        "300 Nothing to do"
    );
}
