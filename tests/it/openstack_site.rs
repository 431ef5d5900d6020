//! The real OpenStack that `VCYCLE_TEST_OPENSTACK` names, and somebody else who uses it.
//!
//! That variable is the name of a JSON file, described in `tests/README.md`; [`Site`] is what is
//! read of it. All tests on it share its projects, so that they take turns ([`Turn`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use vcycle::clock::Clock;
use vcycle::cloud::Outside;
use vcycle::cloud::http::client_builder;
use vcycle::cloud::openstack::OpenStack;
use vcycle::config::OpenStackOptions;
use vcycle::config::space::OpenStackCredentials;
use vcycle::model::{CloudId, Secret, SpaceName};

use super::contract::Ground;

pub const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2 vcycle-test";

/// The file that `VCYCLE_TEST_OPENSTACK` names. Unknown members are ignored.
#[derive(Clone, Debug, Deserialize)]
pub struct Site {
    pub auth_url: String,
    pub region: String,
    pub user: String,
    pub password: String,
    pub user_domain: String,
    pub project: String,
    #[serde(default)]
    pub application_credential_id: Option<String>,
    #[serde(default)]
    pub application_credential_secret: Option<String>,
    #[serde(default)]
    pub projects: BTreeMap<String, Project>,
    pub flavors: BTreeMap<String, Value>,
    #[serde(default)]
    pub image: Option<String>,
    #[serde(default)]
    pub availability_zones: Vec<String>,
    #[serde(default)]
    pub security_group: Option<String>,
    #[serde(default)]
    pub network_id: Option<String>,
    #[serde(default)]
    pub admin: Option<Admin>,
    #[serde(default)]
    pub page_limit: Option<usize>,
    #[serde(default)]
    pub ca_path: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Project {
    pub project: String,
    #[serde(default)]
    pub quota: Quota,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Quota {
    #[serde(default)]
    pub cores: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Admin {
    pub user: String,
    pub password: String,
    pub project: String,
}

/// While a test holds this, no other test of this process uses the site.
pub type Turn = MutexGuard<'static, ()>;

static TURN: Mutex<()> = Mutex::const_new(());

/// The site to test on and the turn on it, or `None` after saying so.
pub async fn site(test: &str) -> Option<(Site, Turn)> {
    let Some(path) = std::env::var_os("VCYCLE_TEST_OPENSTACK") else {
        println!("skipped: {test}: VCYCLE_TEST_OPENSTACK names no file (see tests/README.md)");
        return None;
    };
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let site = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    Some((site, TURN.lock().await))
}

impl Site {
    pub fn options(&self) -> OpenStackOptions {
        OpenStackOptions {
            url: url::Url::parse(&self.auth_url).unwrap(),
            identity_version: None,
            project: Some(self.project.clone()),
            domain: self.user_domain.clone(),
            credentials: OpenStackCredentials::Password {
                username: self.user.clone(),
                password: Secret::new(self.password.clone()),
            },
            region: Some(self.region.clone()),
            zones: Vec::new(),
            security_groups: self.security_group.iter().cloned().collect(),
            network_uuid: self.network_id.clone(),
        }
    }

    pub fn with_application_credential(&self) -> Option<OpenStackOptions> {
        let mut options = self.options();
        options.project = None;
        options.credentials = OpenStackCredentials::ApplicationCredential {
            id: self.application_credential_id.clone()?,
            secret: Secret::new(self.application_credential_secret.clone()?),
        };
        Some(options)
    }

    pub fn connect_with(&self, options: &OpenStackOptions) -> OpenStack {
        let space = SpaceName::new("contract.example.org").unwrap();
        let outside = Outside::real(&self.ca_path(), Clock::system());
        OpenStack::new(&space, options, &outside).unwrap()
    }

    pub fn ca_path(&self) -> PathBuf {
        let default = Path::new("/etc/grid-security/certificates");
        self.ca_path.as_ref().map_or(default, Path::new).to_owned()
    }

    pub fn connect(&self) -> OpenStack {
        self.connect_with(&self.options())
    }

    pub async fn ground(&self) -> Ground {
        let image = match &self.image {
            Some(image) => image.clone(),
            None => Bystander::log_in(self).await.image().await,
        };
        Ground {
            flavor: "small".to_owned(),
            image,
            public_key: Some(PUBLIC_KEY.to_owned()),
            zone: self.availability_zones.first().cloned(),
            patience: Duration::from_secs(300),
            look_every: Duration::from_secs(1),
        }
    }
}

/// Somebody else who uses the project: does by plain requests what the adapter cannot do.
pub struct Bystander {
    pub client: reqwest::Client,
    pub token: String,
    pub compute: String,
    pub image: String,
    /// The network service with its version, if there is one.
    pub network: Option<String>,
    /// Whether there is a volume service.
    pub has_volumes: bool,
}

impl Bystander {
    pub async fn log_in(site: &Site) -> Self {
        Self::log_in_as(site, &site.user, &site.password, &site.project).await
    }

    pub async fn log_in_as(site: &Site, user: &str, password: &str, project: &str) -> Self {
        let domain = json!({"name": site.user_domain});
        let body = json!({"auth": {
            "identity": {"methods": ["password"],
                "password": {"user": {"name": user, "password": password, "domain": domain}}},
            "scope": {"project": {"name": project, "domain": domain}}}});
        let client = client_builder(&site.ca_path()).build().unwrap();
        let answer = client
            .post(format!("{}/auth/tokens", site.auth_url))
            .json(&body)
            .send()
            .await
            .unwrap();
        let token = answer.headers()["x-subject-token"]
            .to_str()
            .unwrap()
            .to_owned();
        let catalog: Value = answer.json().await.unwrap();
        let endpoint = |service: &str| -> Option<String> {
            let services = catalog["token"]["catalog"].as_array().unwrap();
            let service = services.iter().find(|s| s["type"] == service)?;
            let endpoints = service["endpoints"].as_array().unwrap();
            let public = endpoints
                .iter()
                .find(|e| e["interface"] == "public" && e["region"] == site.region.as_str());
            Some(public?["url"].as_str().unwrap().to_owned())
        };
        Self {
            client,
            token,
            compute: endpoint("compute").unwrap(),
            image: endpoint("image").unwrap(),
            has_volumes: endpoint("volumev3").is_some(),
            network: endpoint("network").map(|url| {
                format!(
                    "{}/v2.0",
                    url.trim_end_matches('/').trim_end_matches("/v2.0")
                )
            }),
        }
    }

    /// Any request, and what came back: the status and a document, if there was one.
    pub async fn ask(&self, method: Method, url: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.client.request(method, url);
        request = request.header("x-auth-token", &self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn get(&self, url: &str) -> Value {
        let request = self.client.get(url).header("x-auth-token", &self.token);
        let request = request.header("openstack-api-version", "compute 2.3");
        request.send().await.unwrap().json().await.unwrap()
    }

    /// All servers of the project, as Nova describes them, page by page, each once.
    pub async fn servers(&self) -> Vec<Value> {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        let mut marker = String::new();
        loop {
            let url = format!("{}/servers/detail{marker}", self.compute);
            let page = self.get(&url).await;
            let Some(servers) = page["servers"].as_array() else {
                // The server at the end of the page before has just gone: begin again.
                (all, marker) = (BTreeMap::new(), String::new());
                continue;
            };
            for server in servers {
                let id = server["id"].as_str().unwrap();
                marker = format!("?marker={id}");
                // One that moves from the queue to a host while we read can come twice.
                all.insert(id.to_owned(), server.clone());
            }
            if page["servers_links"].is_null() {
                return all.into_values().collect();
            }
        }
    }

    /// Asks for a server and gives its identifier.
    pub async fn create(&self, server: Value) -> String {
        let request = self.client.post(format!("{}/servers", self.compute));
        let request = request.header("x-auth-token", &self.token);
        let answer = request.json(&json!({"server": server})).send().await;
        let made: Value = answer.unwrap().json().await.unwrap();
        let id = made["server"]["id"].as_str();
        id.unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// Asks for the end of a server; one that is gone already is as good.
    pub async fn delete(&self, id: &str) {
        let request = self
            .client
            .delete(format!("{}/servers/{id}", self.compute))
            .header("x-auth-token", &self.token);
        let status = request.send().await.unwrap().status();
        assert!(
            status.is_success() || matches!(status.as_u16(), 404 | 409),
            "deleting {id}: {status}"
        );
    }

    pub async fn act(&self, id: &CloudId, action: Value) {
        let url = format!("{}/servers/{id}/action", self.compute);
        let request = self.client.post(url).header("x-auth-token", &self.token);
        let answer = request.json(&action).send().await.unwrap();
        assert!(
            answer.status().is_success(),
            "{action}: {}",
            answer.status()
        );
    }

    /// The image `vcycle-test`, which is uploaded when there is none: a few bytes, for clouds that
    /// never look into it. On a cloud that does, the file names an image.
    pub async fn image(&self) -> String {
        let found = self
            .get(&format!("{}/v2/images?name=vcycle-test", self.image))
            .await;
        if let Some(id) = found["images"][0]["id"].as_str() {
            return id.to_owned();
        }
        let body = json!({"name": "vcycle-test", "disk_format": "raw", "container_format": "bare"});
        let request = self.client.post(format!("{}/v2/images", self.image));
        let request = request.header("x-auth-token", &self.token).json(&body);
        let made: Value = request.send().await.unwrap().json().await.unwrap();
        let id = made["id"].as_str().unwrap().to_owned();
        let request = self
            .client
            .put(format!("{}/v2/images/{id}/file", self.image));
        let request = request.header("x-auth-token", &self.token);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.body("any bytes will do").send().await.unwrap();
        assert!(answer.status().is_success());
        id
    }
}
