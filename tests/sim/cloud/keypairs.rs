//! Nova's key pairs. They belong to a user; the model keeps one set for all.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Refusal;
use super::keystone::PROJECT_ID;
use super::{Ask, Cloud, Reply};

/// A public key.
#[derive(Clone, Debug)]
pub(super) struct Keypair {
    pub public_key: String,
}

#[derive(Deserialize)]
struct Document {
    keypair: Import,
}

#[derive(Deserialize)]
struct Import {
    name: String,
    public_key: String,
}

impl Cloud {
    /// Whether there is one of this name.
    pub fn has_keypair(&self, name: &str) -> bool {
        self.keypairs.contains_key(name)
    }

    /// `GET /os-keypairs`.
    pub(super) fn list_keypairs(&self) -> Reply {
        let keypairs: Vec<Value> = self
            .keypairs
            .iter()
            .map(|(name, keypair)| document(name, keypair))
            .collect();
        Reply::ok(&json!({"keypairs": keypairs}))
    }

    /// `GET /os-keypairs/NAME`.
    pub(super) fn show_keypair(&self, name: &str) -> Result<Reply, Refusal> {
        match self.keypairs.get(name) {
            Some(keypair) => Ok(Reply::ok(&document(name, keypair))),
            None => Err(not_found(name)),
        }
    }

    /// `POST /os-keypairs`.
    pub(super) fn create_keypair(&mut self, ask: &Ask) -> Result<Reply, Refusal> {
        let Document { keypair: import } = serde_json::from_slice(&ask.body).map_err(|error| {
            Refusal::BadRequest(format!(
                "Invalid input for field/attribute keypair. {error}"
            ))
        })?;
        if !import.public_key.starts_with("ssh-") {
            return Err(Refusal::BadRequest(
                "Keypair data is invalid: failed to generate fingerprint".to_owned(),
            ));
        }
        if self.keypairs.contains_key(&import.name) {
            let message = format!("Key pair '{}' already exists.", import.name);
            return Err(Refusal::Conflict(message));
        }
        if self.keypairs.len() >= self.setup.max_keypairs {
            return Err(Refusal::Forbidden(
                "Quota exceeded, too many key pairs.".to_owned(),
            ));
        }
        let keypair = Keypair {
            public_key: import.public_key,
        };
        let reply = Reply::ok(&document(&import.name, &keypair));
        self.keypairs.insert(import.name, keypair);
        Ok(reply)
    }

    /// `DELETE /os-keypairs/NAME`.
    pub(super) fn delete_keypair(&mut self, name: &str) -> Result<Reply, Refusal> {
        match self.keypairs.remove(name) {
            Some(_) => Ok(Reply::empty(StatusCode::ACCEPTED)),
            None => Err(not_found(name)),
        }
    }
}

fn document(name: &str, keypair: &Keypair) -> Value {
    json!({"keypair": {
        "name": name,
        "public_key": keypair.public_key,
        "fingerprint": "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
        "user_id": PROJECT_ID,
    }})
}

fn not_found(name: &str) -> Refusal {
    Refusal::NotFound(format!("Keypair {name} not found for user {PROJECT_ID}"))
}
