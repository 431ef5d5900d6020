//! The identity service: as much of Keystone v3 as it takes to log in with a password.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::{HeaderName, StatusCode};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::model::{Seconds, Secret, Timestamp};

use super::answer::{Answer, Asked};
use super::offer;
use super::project::Refusal;
use super::region::Region;

/// The one user.
pub(super) const USER: &str = "vcycle";
/// The one project.
pub(super) const PROJECT: &str = "simulated";
/// The one domain.
pub(super) const DOMAIN: &str = "Default";
/// Identifier of the project and of its user.
pub(super) const PROJECT_ID: &str = "5a1e0000000040008000000000000301";

/// Life of a token, Keystone's default.
const TOKEN_LIFE: Seconds = Seconds::new(3600);
/// Tokens that are valid at once; the one that expires first makes room for the next.
const MAX_TOKENS: usize = 1000;

/// Who may talk to this cloud: the password, made anew by each process, and the tokens in use.
#[derive(Debug)]
pub(super) struct Access {
    password: Secret<String>,
    issued: Mutex<Issued>,
}

#[derive(Debug)]
struct Issued {
    rng: ChaCha8Rng,
    tokens: HashMap<Secret<String>, Timestamp>,
}

impl Access {
    pub(super) fn new(mut rng: ChaCha8Rng) -> Self {
        let password = Secret::new(random_text(&mut rng));
        let tokens = HashMap::new();
        Self {
            password,
            issued: Mutex::new(Issued { rng, tokens }),
        }
    }

    pub(super) const fn password(&self) -> &Secret<String> {
        &self.password
    }

    /// A new token and when it expires.
    fn issue(&self, now: Timestamp) -> (String, Timestamp) {
        let expires = now + TOKEN_LIFE;
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.tokens.retain(|_, expires| *expires > now);
        if issued.tokens.len() >= MAX_TOKENS {
            let first = issued.tokens.iter().min_by_key(|(_, expires)| **expires);
            if let Some(first) = first.map(|(token, _)| token.clone()) {
                issued.tokens.remove(&first);
            }
        }
        let token = random_text(&mut issued.rng);
        issued.tokens.insert(Secret::new(token.clone()), expires);
        (token, expires)
    }

    /// Whether a request with this token may go on.
    pub(super) fn admits(&self, token: Option<&str>, now: Timestamp) -> bool {
        let Some(token) = token else {
            return false;
        };
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let expires = issued.tokens.get(&Secret::new(token.to_owned()));
        expires.is_some_and(|expires| *expires > now)
    }
}

fn random_text(rng: &mut ChaCha8Rng) -> String {
    format!("{:032x}{:032x}", rng.random::<u128>(), rng.random::<u128>())
}

/// `GET /v3`.
pub(super) fn version(region: &Region) -> Answer {
    Answer::json(
        StatusCode::OK,
        json!({"version": {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": format!("{}/v3/", region.base)}],
            "media-types": [{
                "base": "application/json",
                "type": "application/vnd.openstack.identity-v3+json",
            }],
        }}),
    )
}

/// `POST /v3/auth/tokens`.
pub(super) fn log_in(region: &Region, asked: &Asked) -> Answer {
    let Ok(body) = serde_json::from_slice::<Value>(&asked.body) else {
        return Refusal::BadRequest("Malformed request body".to_owned()).into();
    };
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str);
    let user = text("/auth/identity/password/user/name");
    let password = text("/auth/identity/password/user/password");
    let project = text("/auth/scope/project/name");
    if user != Some(USER)
        || password != Some(region.access.password().reveal())
        || project != Some(PROJECT)
    {
        return Answer::unauthorized();
    }
    let now = region.clock.now();
    let (token, expires) = region.access.issue(now);
    Answer::json(StatusCode::CREATED, token_body(region, now, expires))
        .with_header(HeaderName::from_static("x-subject-token"), token)
}

fn token_body(region: &Region, now: Timestamp, expires: Timestamp) -> Value {
    let domain = json!({"id": "default", "name": DOMAIN});
    let base = &region.base;
    json!({"token": {
        "methods": ["password"],
        "user": {
            "domain": domain, "id": PROJECT_ID, "name": USER, "password_expires_at": null,
        },
        "expires_at": micros(expires),
        "issued_at": micros(now),
        "project": {"domain": domain, "id": PROJECT_ID, "name": PROJECT},
        "is_domain": false,
        "roles": [{"id": PROJECT_ID, "name": "member"}],
        "catalog": [
            service("identity", "keystone", &format!("{base}/v3")),
            service("compute", "nova", &format!("{base}/v2.1")),
            service("image", "glance", base),
            service("volumev3", "cinder", &format!("{base}/v3/{PROJECT_ID}")),
        ],
    }})
}

fn service(kind: &str, name: &str, url: &str) -> Value {
    let endpoints: Vec<Value> = ["internal", "public", "admin"]
        .into_iter()
        .map(|interface| {
            json!({
                "id": format!("{name}-{interface}"),
                "interface": interface,
                "region_id": offer::REGION,
                "region": offer::REGION,
                "url": url,
            })
        })
        .collect();
    json!({"endpoints": endpoints, "id": name, "type": kind, "name": name})
}

/// A time in Keystone's format.
fn micros(time: Timestamp) -> String {
    time.to_rfc3339().replace('Z', ".000000Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_token_admits_until_it_expires() {
        let access = Access::new(ChaCha8Rng::seed_from_u64(1));
        let now = Timestamp::from_unix(1_000_000);
        let (token, expires) = access.issue(now);
        assert!(access.admits(Some(&token), now));
        assert!(!access.admits(Some(&token), expires));
        assert!(!access.admits(Some("other"), now));
        assert!(!access.admits(None, now));
    }

    #[test]
    fn tokens_do_not_pile_up() {
        let access = Access::new(ChaCha8Rng::seed_from_u64(1));
        for second in 0..5000 {
            access.issue(Timestamp::from_unix(second / 3));
        }
        assert_eq!(access.issued.lock().unwrap().tokens.len(), MAX_TOKENS);
    }
}
