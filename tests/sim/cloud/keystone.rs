//! The identity service: passwords, application credentials and tokens.

use http::{HeaderName, StatusCode};
use rand::Rng;
use serde_json::{Value, json};

use super::answer::{Refusal, iso_micros};
use super::call::Service;
use super::{Ask, Cloud, Reply};

/// Identifier of the project.
pub(super) const PROJECT_ID: &str = "0d0000000000400080000000000000aa";
/// Identifier of the one domain.
const DOMAIN_ID: &str = "default";

/// A token that was given out.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub user: String,
    /// By the cloud's clock.
    pub expires: i64,
    /// Whether it is for the project; the other services want no other.
    pub scoped: bool,
}

/// Who logs in, with what.
struct Knock {
    user: String,
    method: &'static str,
    scoped: bool,
}

impl Cloud {
    /// All tokens are worthless from now on.
    pub fn revoke_tokens(&mut self) {
        self.tokens.clear();
    }

    /// The user whose token this is, when it is good for the project.
    pub(super) fn user_of(&self, token: Option<&str>, now: u64) -> Option<String> {
        let token = self.tokens.get(token?)?;
        (token.scoped && token.expires > self.clock(now)).then(|| token.user.clone())
    }

    pub(super) fn identity_versions(&self) -> Reply {
        Reply::json(
            StatusCode::MULTIPLE_CHOICES,
            &json!({"versions": {"values": [self.identity_document()]}}),
        )
    }

    pub(super) fn identity_version(&self) -> Reply {
        Reply::ok(&json!({"version": self.identity_document()}))
    }

    fn identity_document(&self) -> Value {
        json!({
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": format!("{}/identity/v3/", self.base)}],
        })
    }

    /// `POST /v3/auth/tokens`.
    pub(super) fn log_in(&mut self, now: u64, ask: &Ask) -> Reply {
        let Ok(body) = serde_json::from_slice::<Value>(&ask.body) else {
            return Refusal::BadRequest("Malformed request body".to_owned())
                .reply(Service::Identity);
        };
        let Some(knock) = self
            .knock_with_password(&body)
            .or_else(|| self.knock_with_credential(&body))
        else {
            return Reply::unauthorized();
        };
        let issued = self.clock(now);
        let life = i64::try_from(self.setup.token_life).unwrap_or(i64::MAX);
        let token = Token {
            user: knock.user.clone(),
            expires: issued.saturating_add(life),
            scoped: knock.scoped,
        };
        let document = self.token_document(&knock, issued, token.expires);
        let text = format!("gAAAA{:032x}", self.rng.random::<u128>());
        self.tokens.retain(|_, token| token.expires > issued);
        self.tokens.insert(text.clone(), token);
        Reply::json(StatusCode::CREATED, &document)
            .with_header(HeaderName::from_static("x-subject-token"), &text)
    }

    fn knock_with_password(&self, body: &Value) -> Option<Knock> {
        let user = body.pointer("/auth/identity/password/user")?;
        let name = user.get("name")?.as_str()?;
        let account = self.setup.accounts.iter().find(|a| a.user == name)?;
        let known = user.get("password")?.as_str()? == account.password
            && self.is_domain(user.get("domain")?);
        let scoped = match body.pointer("/auth/scope/project") {
            None => false,
            Some(project) => {
                let ours = project.get("name")?.as_str()? == self.setup.project
                    && self.is_domain(project.get("domain")?);
                if !ours {
                    return None;
                }
                true
            }
        };
        known.then(|| Knock {
            user: name.to_owned(),
            method: "password",
            scoped,
        })
    }

    fn knock_with_credential(&self, body: &Value) -> Option<Knock> {
        let given = body.pointer("/auth/identity/application_credential")?;
        let (id, secret) = (given.get("id")?.as_str()?, given.get("secret")?.as_str()?);
        let account = self.setup.accounts.iter().find(|account| {
            let known = account.credential.as_ref();
            known.is_some_and(|known| known.id == id && known.secret == secret)
        })?;
        // It is bound to its project, and Keystone refuses a scope beside it.
        body.pointer("/auth/scope").is_none().then(|| Knock {
            user: account.user.clone(),
            method: "application_credential",
            scoped: true,
        })
    }

    fn is_domain(&self, given: &Value) -> bool {
        let member = |name: &str| given.get(name).and_then(Value::as_str);
        member("id") == Some(DOMAIN_ID) || member("name") == Some(self.setup.domain.as_str())
    }

    fn token_document(&self, knock: &Knock, issued: i64, expires: i64) -> Value {
        let domain = json!({"id": DOMAIN_ID, "name": self.setup.domain});
        let mut token = json!({
            "methods": [knock.method],
            "user": {"domain": domain, "id": PROJECT_ID, "name": knock.user},
            "issued_at": iso_micros(issued),
            "expires_at": iso_micros(expires),
        });
        if knock.scoped
            && let Some(token) = token.as_object_mut()
        {
            let project = json!({"domain": domain, "id": PROJECT_ID, "name": self.setup.project});
            token.insert("project".to_owned(), project);
            token.insert("catalog".to_owned(), self.catalog());
        }
        json!({"token": token})
    }

    fn catalog(&self) -> Value {
        let service = |kind: &str, name: &str, path: &str| {
            let endpoint = |interface: &str| {
                json!({
                    "id": format!("{name}-{interface}"),
                    "interface": interface,
                    "region_id": self.setup.region,
                    "region": self.setup.region,
                    "url": format!("{}/{path}", self.base),
                })
            };
            let endpoints = json!([endpoint("admin"), endpoint("internal"), endpoint("public")]);
            json!({"id": name, "type": kind, "name": name, "endpoints": endpoints})
        };
        json!([
            service("identity", "keystone", "identity"),
            service("compute", "nova", "compute/v2.1"),
            service("image", "glance", "image"),
        ])
    }
}
