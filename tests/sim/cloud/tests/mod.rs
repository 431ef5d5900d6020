//! Tests of the model itself: that it is a cloud, and that its faults are what they promise.

mod life;
mod login;

use http::{Method, StatusCode};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use url::Url;

use super::{Ask, Carried, Cloud, Reply, Setup};

pub const BASE: &str = "http://cloud.test";
pub const NOW: u64 = 1_800_000_000;

/// A client that knows as much of OpenStack as the tests need.
pub struct Client {
    pub cloud: Cloud,
    pub token: Option<String>,
    pub now: u64,
}

impl Client {
    pub fn new(setup: Setup) -> Self {
        Self::seeded(1, setup)
    }

    pub fn seeded(seed: u64, setup: Setup) -> Self {
        let mut client = Self {
            cloud: Cloud::new(BASE, ChaCha8Rng::seed_from_u64(seed), setup),
            token: None,
            now: NOW,
        };
        client.log_in();
        client
    }

    pub fn log_in(&mut self) {
        let reply = self.reply(
            Method::POST,
            "/identity/v3/auth/tokens",
            &password("vcycle"),
        );
        assert_eq!(reply.status, StatusCode::CREATED);
        let token = reply.headers.get("x-subject-token").unwrap();
        self.token = Some(token.to_str().unwrap().to_owned());
    }

    pub fn carry(&mut self, method: Method, path: &str, body: &Value) -> Carried {
        let ask = Ask {
            method,
            url: Url::parse(&format!("{BASE}{path}")).unwrap(),
            token: self.token.clone(),
            body: if body.is_null() {
                Vec::new()
            } else {
                body.to_string().into_bytes()
            },
        };
        self.cloud.carry(self.now, &ask)
    }

    pub fn reply(&mut self, method: Method, path: &str, body: &Value) -> Reply {
        match self.carry(method, path, body) {
            Carried::Reply { reply, .. } => reply,
            other => panic!("{path}: {other:?}"),
        }
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.reply(Method::GET, path, &Value::Null)
    }

    pub fn create(&mut self, name: &str) -> Reply {
        self.reply(Method::POST, "/compute/v2.1/servers", &order(name))
    }

    /// Creates a server that must be accepted, and gives its identifier.
    pub fn server(&mut self, name: &str) -> String {
        let reply = self.create(name);
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", text(&reply));
        json_of(&reply)["server"]["id"].as_str().unwrap().to_owned()
    }

    pub fn delete(&mut self, id: &str) -> StatusCode {
        let path = format!("/compute/v2.1/servers/{id}");
        self.reply(Method::DELETE, &path, &Value::Null).status
    }

    /// The first page.
    pub fn listing(&mut self) -> Vec<Value> {
        let reply = self.get("/compute/v2.1/servers/detail");
        assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
        json_of(&reply)["servers"].as_array().unwrap().clone()
    }

    /// How the listing shows a server.
    pub fn listed(&mut self, id: &str) -> Option<Value> {
        self.listing().into_iter().find(|server| server["id"] == id)
    }

    pub fn later(&mut self, seconds: u64) {
        self.now += seconds;
        self.cloud.advance(self.now);
    }

    pub fn done(&self, kind: &str) -> u64 {
        self.cloud.faults_done().get(kind).copied().unwrap_or(0)
    }
}

pub fn password(user: &str) -> Value {
    let domain = json!({"id": "default"});
    json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": user, "password": "model-password", "domain": domain,
        }}},
        "scope": {"project": {"name": "grid", "domain": domain}},
    }})
}

pub fn order(name: &str) -> Value {
    json!({"server": {
        "name": name,
        "flavorRef": "flavor-small",
        "imageRef": "70fafd76-166f-49cb-9c64-eb46d0a5f1a5",
        "user_data": "I2Nsb3VkLWNvbmZpZwo=",
        "metadata": {"space": "s.example.org", "manager": "m.example.org", "machinetype": "a"},
    }})
}

pub fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", text(reply)))
}

pub fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}
