//! The OpenStack adapter against a scripted server: what a real OpenStack does not do on demand.

mod change;
mod listing;
mod login;
mod trouble;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use vcycle::clock::Clock;
use vcycle::cloud::http::HttpTimes;
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{Cloud, CloudErrorKind, CreateRequest, Deletion, Outside};
use vcycle::config::OpenStackOptions;
use vcycle::config::space::OpenStackCredentials;
use vcycle::model::{
    CloudId, CloudLimits, Flavor, MachineName, MachineState, Processors, Seconds, Secret,
    SpaceName, Timestamp,
};

use crate::scripted::{Authority, Reply, Scripted, Seen};

pub const PASSWORD: &str = "hunter2-\"quoted\"";
pub const NOW: Timestamp = Timestamp::from_unix(1_795_229_463);
pub const IMAGE: &str = "70fafd76-166f-49cb-9c64-eb46d0a5f1a5";

/// Times short enough for tests and long enough for a busy machine.
pub fn times() -> HttpTimes {
    HttpTimes {
        connect: Duration::from_secs(5),
        request: Duration::from_secs(5),
        call: Duration::from_secs(20),
        longest_wait: Duration::from_secs(2),
        pause: Duration::from_millis(5),
    }
}

pub fn options(url: &str) -> OpenStackOptions {
    OpenStackOptions {
        url: url::Url::parse(url).unwrap(),
        identity_version: None,
        project: Some("atlas".to_owned()),
        domain: "default".to_owned(),
        credentials: OpenStackCredentials::Password {
            username: "vcycle".to_owned(),
            password: Secret::new(PASSWORD.to_owned()),
        },
        region: None,
        zones: Vec::new(),
        security_groups: vec!["grid".to_owned()],
        network_uuid: Some("net-1".to_owned()),
    }
}

pub fn connect_with(
    options: &OpenStackOptions,
    ca: &Path,
    clock: Clock,
    times: HttpTimes,
) -> OpenStack {
    let space = SpaceName::new("space.example.org").unwrap();
    OpenStack::with_times(&space, options, &Outside::real(ca, clock), times).unwrap()
}

pub fn connect(server: &Scripted) -> OpenStack {
    let options = options(&format!("{}/identity/v3", server.base));
    connect_with(&options, &PathBuf::new(), Clock::manual(NOW), times())
}

/// A Keystone v3 whose tokens are `token-1`, `token-2`, ... and live for an hour, a Nova with one
/// flavor and no servers, and a Glance with one image: what a script does not care about.
pub fn ordinary(seen: &Seen, base: &str) -> Reply {
    let endpoints = |path: &str| {
        json!([{"interface": "internal", "region": "R1", "url": "http://inside.invalid"},
               {"interface": "public", "region": "R1", "url": format!("{base}{path}")}])
    };
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/identity/v3/auth/tokens") => Reply::json(
            201,
            json!({"token": {
                "issued_at": "2026-11-21T00:00:00.000000Z", "expires_at": "2026-11-21T01:00:00.000000Z",
                "catalog": [{"type": "compute", "endpoints": endpoints("/nova/v2.1")},
                            {"type": "image", "endpoints": endpoints("/glance")}]}}),
        )
        .with("x-subject-token", format!("token-{}", seen.nth + 1)),
        ("GET", "/nova/v2.1/flavors/detail") => Reply::json(
            200,
            json!({"flavors": [{"id": "f4", "name": "large", "vcpus": 4, "ram": 8192, "disk": 0}]}),
        ),
        ("GET", "/nova/v2.1/limits") => Reply::json(
            200,
            json!({"limits": {"absolute": {"maxTotalInstances": 10, "maxTotalCores": -1}}}),
        ),
        ("GET", SERVERS) => Reply::json(200, json!({"servers": []})),
        ("GET", "/glance/v2/images/70fafd76-166f-49cb-9c64-eb46d0a5f1a5") => {
            Reply::json(200, json!({"id": IMAGE, "status": "active"}))
        }
        ("POST", CREATE) => Reply::json(202, json!({"server": {"id": "new-1"}})),
        _ => Reply::json(404, json!({"itemNotFound": {"message": "no such thing"}})),
    }
}

pub const SERVERS: &str = "/nova/v2.1/servers/detail";
pub const CREATE: &str = "/nova/v2.1/servers";

fn server(id: &str) -> serde_json::Value {
    json!({"id": id, "name": format!("n-{id}"), "status": "ACTIVE", "flavor": {"id": "f4"},
           "OS-EXT-STS:power_state": 1})
}

pub fn page(ids: &[&str], next: Option<&str>) -> Reply {
    let servers: Vec<_> = ids.iter().map(|id| server(id)).collect();
    let links: Vec<_> = next
        .iter()
        .map(|href| json!({"rel": "next", "href": href}))
        .collect();
    Reply::json(200, json!({"servers": servers, "servers_links": links}))
}

pub fn request() -> CreateRequest {
    CreateRequest {
        name: MachineName::new("vcycle-atlas-0123456789").unwrap(),
        flavor: Flavor {
            id: "f4".to_owned(),
            name: "large".to_owned(),
            processors: Processors::new(4),
            memory_mb: None,
            disk_gb: None,
        },
        image: IMAGE.to_owned(),
        volume: None,
        public_key: None,
        user_data: Secret::new(b"secret user data".to_vec()),
        metadata: [("space".to_owned(), "s".to_owned())].into(),
        zone: Some("zone-a".to_owned()),
    }
}
