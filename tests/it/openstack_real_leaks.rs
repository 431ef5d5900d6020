//! What machines left behind on a real OpenStack, named by `VCYCLE_TEST_OPENSTACK`: counted, and
//! removed when it has been seen twice. Time is told, not waited for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use reqwest::Method;
use serde_json::{Value, json};
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{Cloud, NotListed, Removal, Search};
use vcycle::config::{self, SpaceConfig};
use vcycle::daemon::{listed, observe_once};
use vcycle::decide::leaks::{self, LeakCount, Leaks, Sightings};
use vcycle::model::{CloudId, FactoryName, LeftoverKind, MachineState, Timestamp};
use vcycle::observe::Memory;
use vcycle::state::Store;

use super::contract::{self, Ground};
use super::openstack_site::{Bystander, PUBLIC_KEY, Site, site};

const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB vcycle-test";

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + seconds)
}

/// Everything that this test makes, to be removed whatever happens.
#[derive(Default)]
struct Made {
    servers: RefCell<Vec<CloudId>>,
    urls: RefCell<Vec<String>>,
}

struct Stage<'a> {
    cloud: OpenStack,
    ground: Ground,
    bystander: Bystander,
    network: String,
    network_id: String,
    /// The marks of a factory that nobody else is.
    search: Search,
    made: &'a Made,
}

impl Stage<'_> {
    /// A server of ours with this key.
    async fn server(&self, key: &str) -> CloudId {
        let mut request = contract::request(&self.cloud, &self.ground).await;
        let manager = self.search.owner.manager.to_string();
        request.metadata.insert("manager".to_owned(), manager);
        request.public_key = Some(key.to_owned());
        let id = self.cloud.create(&request).await.unwrap();
        self.made.servers.borrow_mut().push(id.clone());
        self.running(&id).await;
        id
    }

    async fn running(&self, id: &CloudId) {
        contract::look_until(&self.cloud, &self.ground, "running", |machines| {
            let machine = machines.iter().find(|machine| machine.id == *id)?;
            (machine.state == MachineState::Running).then_some(())
        })
        .await;
    }

    /// Makes something by a plain request, and gives its address and identifier.
    async fn make(&self, url: String, kind: Option<&str>, body: Value) -> (String, String) {
        let document = kind.map_or(body.clone(), |kind| json!({kind: body}));
        let (status, made) = self.bystander.ask(Method::POST, &url, Some(document)).await;
        assert_eq!(status, 201, "{url}: {made}");
        let made = kind.map_or(&made, |kind| &made[kind]);
        let id = made["id"].as_str().unwrap().to_owned();
        let address = format!("{url}/{id}");
        self.made.urls.borrow_mut().push(address.clone());
        (address, id)
    }

    async fn port(&self, more: Value) -> (String, String) {
        let mut port = json!({"network_id": self.network_id});
        let fields = port.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.make(format!("{}/ports", self.network), Some("port"), port)
            .await
    }

    async fn image(&self, tags: &[String]) -> (String, String) {
        let body = json!({"name": "vcycle-test-leaks", "disk_format": "raw",
            "container_format": "bare", "visibility": "private", "tags": tags});
        let url = format!("{}/v2/images", self.bystander.image);
        self.make(url, None, body).await
    }

    async fn is_there(&self, url: &str) -> bool {
        let (status, _) = self.bystander.ask(Method::GET, url, None).await;
        assert!(matches!(status, 200 | 404), "{url}: {status}");
        status == 200
    }

    /// One look at this moment.
    async fn look(&self, config: &SpaceConfig, before: &Sightings, now: Timestamp) -> Leaks {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let factory = &self.search.owner.manager;
        let memory = Memory::default();
        let observed = observe_once(&self.cloud, config, factory, &store, &memory).await;
        let snapshot = observed.unwrap().snapshot;
        let found = self.cloud.leftovers(&self.search).await;
        for (kind, outcome) in &found {
            match outcome {
                Ok(things) => println!("{kind}: {} with our marks", things.len()),
                Err(NotListed::Unavailable(why)) => println!("{kind}: {why}"),
                Err(NotListed::Failed(error)) => panic!("{kind}: {error}"),
            }
        }
        leaks::leaks(
            config,
            &snapshot,
            &BTreeSet::new(),
            &listed(&found),
            before,
            now,
        )
    }
}

/// A space whose one machinetype boots from this image.
fn config(image: &str) -> SpaceConfig {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = format!(
        "[space contract.example.org]\napi = simulated\nmax_machines = 1\n\
         [machinetype contract.example.org a]\nbackoff_seconds = 1\nfizzle_seconds = 1\n\
         flavor_name = small\nroot_image = image:{image}\nuser_data = /user_data\n"
    );
    std::fs::write(path("vcycle.conf"), text).unwrap();
    let sources = config::Sources {
        conf: path("vcycle.conf"),
        dir: path("vcycle.d"),
    };
    let context = config::Context {
        hostname: FactoryName::new("factory.example.org").unwrap(),
        state_dir: Path::new("/state").to_owned(),
    };
    let loaded = config::load(&sources, &context);
    let config = loaded
        .config
        .unwrap_or_else(|| panic!("{:?}", loaded.problems));
    config.spaces.into_values().next().unwrap()
}

async fn clean_up(site: &Site, ground: &Ground, made: &Made) {
    let servers = made.servers.borrow().clone();
    contract::delete_all(&site.connect(), ground, &servers).await;
    let bystander = Bystander::log_in(site).await;
    let urls = made.urls.borrow().clone();
    for url in urls {
        let (status, _) = bystander.ask(Method::DELETE, &url, None).await;
        assert!(matches!(status, 200..=299 | 404), "{url}: {status}");
    }
}

#[tokio::test]
async fn what_was_left_behind_is_counted_and_removed_when_it_was_seen_twice() {
    let Some((site, _turn)) = site("leaks").await else {
        return;
    };
    let (bystander, ground) = (Bystander::log_in(&site).await, site.ground().await);
    let (Some(network), Some(network_id)) = (bystander.network.clone(), site.network_id.clone())
    else {
        println!("skipped: leaks: there is no network service, or the file has no network_id");
        return;
    };
    let made = Made::default();
    let cloud = site.connect();
    let unique = contract::request(&cloud, &ground).await.name;
    let mut search = contract::search(&format!("{unique}.example.org"), &[]);
    search.gone = BTreeSet::new();
    let stage = Stage {
        cloud,
        ground: ground.clone(),
        bystander,
        network,
        network_id,
        search,
        made: &made,
    };
    let outcome = AssertUnwindSafe(leave_and_find(stage)).catch_unwind().await;
    clean_up(&site, &ground, &made).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn leave_and_find(mut stage: Stage<'_>) {
    let owner = stage.search.owner.clone();
    // A server that is gone and one that stays, each with its key.
    let gone = stage.server(PUBLIC_KEY).await;
    let stays = stage.server(OTHER_KEY).await;
    let compute = stage.bystander.compute.clone();
    for id in [&gone, &stays] {
        let (_, server) = stage
            .bystander
            .ask(Method::GET, &format!("{compute}/servers/{id}"), None)
            .await;
        let key = server["server"]["key_name"].as_str().unwrap();
        let url = format!("{compute}/os-keypairs/{key}");
        stage.made.urls.borrow_mut().push(url);
    }
    contract::delete_all(&stage.cloud, &stage.ground, std::slice::from_ref(&gone)).await;
    let keys = stage.made.urls.borrow().clone();
    stage.search.gone.insert(gone.clone());

    let ours = json!({"description": owner.description(), "name": "vcycle-test-leaks"});
    let (port, _) = stage.port(ours.clone()).await;
    let (plugged, plugged_id) = stage.port(ours).await;
    let theirs = format!("vcycle space={} manager=other.example.org", owner.space);
    let (their_port, _) = stage.port(json!({"description": theirs})).await;
    // As Nova leaves one whose server it deleted while Neutron did not answer.
    let (of_gone, _) = stage
        .port(json!({"device_id": gone, "device_owner": "compute:nova"}))
        .await;
    let (image, _) = stage.image(&owner.words()).await;
    let (wanted, wanted_id) = stage.image(&owner.words()).await;
    let (their_image, _) = stage.image(&[]).await;
    let address = floating_ip(&stage).await;

    let user = stage.bystander.create(
        json!({"name": "vcycle-test-leaks", "flavorRef": flavor(&stage).await,
        "imageRef": image_id(&stage).await, "networks": [{"port": plugged_id}]}),
    );
    let user = CloudId::new(user.await);
    stage.made.servers.borrow_mut().push(user.clone());
    stage.running(&user).await;

    let config = config(&wanted_id);
    let first = stage.look(&config, &Sightings::new(), at(0)).await;
    let count = |left, used| LeakCount { left, used };
    let mut expected = BTreeMap::from([
        (LeftoverKind::Keypair, count(1, 1)),
        (LeftoverKind::Image, count(1, 1)),
        (LeftoverKind::Port, count(2, 1)),
    ]);
    if address.is_some() {
        expected.insert(LeftoverKind::FloatingIp, count(1, 0));
    }
    let mut counts = first.counts.clone();
    counts.retain(|_, count| *count != LeakCount::default());
    assert_eq!(counts, expected);
    assert_eq!(first.removals, []);

    let second = stage.look(&config, &first.sightings, at(600)).await;
    assert_eq!(second.removals.len(), 4 + usize::from(address.is_some()));
    for removal in &second.removals {
        let outcome = stage.cloud.remove(&stage.search, &removal.leftover).await;
        assert_eq!(outcome, Ok(Removal::Removed), "{}", removal.leftover);
        println!("removed {}", removal.leftover);
    }
    let third = stage.look(&config, &second.sightings, at(1200)).await;
    assert!(third.counts.values().all(|count| count.left == 0));
    assert_eq!((third.removals.len(), third.sightings.len()), (0, 0));
    for (url, stays) in [
        (&keys[0], false),
        (&keys[1], true),
        (&port, false),
        (&of_gone, false),
        (&plugged, true),
        (&their_port, true),
        (&image, false),
        (&wanted, true),
        (&their_image, true),
    ] {
        assert_eq!(stage.is_there(url).await, stays, "{url}");
    }
}

/// A floating IP with our marks, where the site has a network to take it from.
async fn floating_ip(stage: &Stage<'_>) -> Option<String> {
    let url = format!("{}/networks?router%3Aexternal=true", stage.network);
    let networks = stage.bystander.get(&url).await;
    let Some(external) = networks["networks"][0]["id"].as_str() else {
        println!("no external network: nothing is tried with floating IPs");
        return None;
    };
    let url = format!("{}/floatingips", stage.network);
    let description = stage.search.owner.description();
    let body = json!({"floating_network_id": external, "description": description});
    let (address, _) = stage.make(url, Some("floatingip"), body).await;
    Some(address)
}

async fn flavor(stage: &Stage<'_>) -> String {
    let facts = stage.cloud.facts().await.unwrap();
    facts.flavor(&stage.ground.flavor).unwrap().id.clone()
}

/// The identifier of the image that servers of the tests boot from.
async fn image_id(stage: &Stage<'_>) -> String {
    let machines = stage.cloud.list().await.unwrap();
    let mut images = machines.into_iter().filter(|machine| {
        let by = machine.marks.as_ref().map(|marks| marks.manager.as_str());
        by == Some(stage.search.owner.manager.as_str())
    });
    images.find_map(|machine| machine.image).unwrap()
}
