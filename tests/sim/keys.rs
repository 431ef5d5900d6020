//! The key pairs that a factory imports into a cloud: which of them it may remove, and when none may be
//! left over any more.

use std::collections::BTreeMap;

use base64::Engine;
use serde_json::Value;

use crate::cloud::{Cloud, Server};
use crate::factory::OLD_PASSES;

/// What nothing has used for so long must be gone: the two looks that it takes are ten minutes apart,
/// and each waits for its turn.
const LEFT_OVER: u64 = 3600;

/// An OpenSSH public key, another for each number.
pub fn public_key(number: u32) -> String {
    const KIND: &str = "ssh-ed25519";
    let mut blob = Vec::new();
    for part in [KIND.as_bytes(), &[u8::try_from(number % 251).unwrap(); 32]] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend(part);
    }
    let blob = base64::engine::general_purpose::STANDARD.encode(blob);
    format!("{KIND} {blob} root@simulation")
}

/// What makes two keys one: not the comment.
fn content(line: &str) -> Vec<&str> {
    line.split_whitespace().take(2).collect()
}

/// One factory's key pairs on one cloud.
#[derive(Debug, Default)]
pub struct Keys {
    /// The names that it has asked the cloud for, each with its public key.
    imported: BTreeMap<String, String>,
    /// The key of its configuration, if a machinetype has one, and the true time since when.
    wanted: (Option<String>, u64),
    pub imports: u64,
    pub removals: u64,
}

impl Keys {
    /// What the configuration says at this (true) time.
    pub fn configured(&mut self, wanted: Option<String>, now: u64) {
        if self.wanted.0 != wanted {
            self.wanted = (wanted, now);
        }
    }

    /// A POST with this body is about to be carried out.
    pub fn imports(&mut self, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |path: &str| body.pointer(path).and_then(Value::as_str);
        let both = text("/keypair/name").zip(text("/keypair/public_key"));
        if let Some((name, line)) = both {
            self.imports += 1;
            self.imported.insert(name.to_owned(), line.to_owned());
        }
    }

    /// A DELETE of this name is about to be carried out. `is_shown` tells which servers no complete
    /// listing has failed to show.
    pub fn removes(
        &mut self,
        name: &str,
        cloud: &Cloud,
        is_shown: impl Fn(&Server) -> bool,
        now: u64,
    ) -> Result<(), String> {
        self.removals += 1;
        let Some(line) = self.imported.get(name) else {
            return Err(format!(
                "the key pair {name} is removed, which the factory has not made"
            ));
        };
        if self.is_wanted(line) && now > self.wanted.1 + OLD_PASSES {
            return Err(format!(
                "the key pair {name} is removed, which is in the configuration"
            ));
        }
        match self.user(name, cloud).filter(|server| is_shown(server)) {
            Some(server) => Err(format!(
                "the key pair {name} is removed, and {} has it",
                server.name
            )),
            None => Ok(()),
        }
    }

    /// A key pair of the factory that has been in use by nothing for long, by what there has been in
    /// the cloud; `now` is long after the last change of the configuration.
    pub fn left_over<'a>(&'a self, cloud: &Cloud, now: u64) -> Option<&'a str> {
        let mut imported = self.imported.iter();
        let found = imported.find(|(name, line)| {
            let was_used = cloud.history().iter().any(|server| {
                let is_user = server.key_name.as_deref() == Some(name.as_str());
                is_user && server.gone_at.is_none_or(|at| at + LEFT_OVER > now)
            });
            cloud.has_keypair(name) && !self.is_wanted(line) && !was_used
        });
        found.map(|(name, _)| name.as_str())
    }

    fn is_wanted(&self, line: &str) -> bool {
        let wanted = self.wanted.0.as_deref();
        wanted.is_some_and(|wanted| content(wanted) == content(line))
    }

    fn user<'a>(&self, name: &str, cloud: &'a Cloud) -> Option<&'a Server> {
        cloud
            .servers()
            .find(|server| server.key_name.as_deref() == Some(name) && !server.is_being_deleted())
    }
}
