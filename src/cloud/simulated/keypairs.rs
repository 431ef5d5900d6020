//! Nova's key pairs: public keys that servers are given, under a name that is unique to the user.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use openssl::hash::{MessageDigest, hash};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Asked};
use super::compute::refuse_when_read_only;
use super::identity::PROJECT_ID;
use super::project::{Keypair, Refusal};
use super::region::Region;

#[derive(Deserialize)]
struct Body {
    keypair: Import,
}

#[derive(Deserialize)]
struct Import {
    name: String,
    public_key: String,
}

/// `GET /os-keypairs`.
pub(super) fn list(region: &Region) -> Answer {
    let keypairs: Vec<Value> = region.read(|project| {
        let keypairs = project.kept().keypairs.iter();
        keypairs.map(|key| json!({"keypair": key})).collect()
    });
    Answer::json(StatusCode::OK, json!({"keypairs": keypairs}))
}

/// `GET /os-keypairs/NAME`.
pub(super) fn show(region: &Region, name: &str) -> Result<Answer, Refusal> {
    let found = region.read(|project| project.keypair(name).cloned());
    let keypair = found.ok_or_else(|| no_such_keypair(name))?;
    Ok(Answer::json(StatusCode::OK, body(&keypair)))
}

/// `POST /os-keypairs`.
pub(super) fn import(region: &Region, asked: &Asked) -> Result<Answer, Refusal> {
    let wanted: Body = serde_json::from_slice(&asked.body).map_err(|error| {
        Refusal::BadRequest(format!(
            "Invalid input for field/attribute keypair. {error}"
        ))
    })?;
    refuse_when_read_only(region)?;
    let Import { name, public_key } = wanted.keypair;
    if name.is_empty() || name.chars().count() > 255 {
        return Err(Refusal::BadRequest(
            "Invalid input for field/attribute name.".to_owned(),
        ));
    }
    let fingerprint = fingerprint(&public_key).ok_or_else(|| {
        Refusal::BadRequest("Keypair data is invalid: failed to generate fingerprint".to_owned())
    })?;
    let keypair = Keypair {
        name,
        public_key,
        fingerprint,
    };
    region.change(|project| project.add_keypair(keypair.clone()))?;
    Ok(Answer::json(StatusCode::OK, body(&keypair)))
}

/// `DELETE /os-keypairs/NAME`. Servers that were made with it keep the public key.
pub(super) fn delete(region: &Region, name: &str) -> Result<Answer, Refusal> {
    refuse_when_read_only(region)?;
    if region.change(|project| project.remove_keypair(name)) {
        Ok(Answer::empty(StatusCode::ACCEPTED))
    } else {
        Err(no_such_keypair(name))
    }
}

fn no_such_keypair(name: &str) -> Refusal {
    Refusal::NotFound(format!("Keypair {name} not found for user {PROJECT_ID}"))
}

fn body(keypair: &Keypair) -> Value {
    json!({"keypair": {
        "name": keypair.name,
        "public_key": keypair.public_key,
        "fingerprint": keypair.fingerprint,
        "user_id": PROJECT_ID,
    }})
}

/// The MD5 fingerprint of an OpenSSH public key, `None` when it is not one.
fn fingerprint(public_key: &str) -> Option<String> {
    let mut words = public_key.split_whitespace();
    let kind = words.next()?;
    let blob = STANDARD.decode(words.next()?).ok()?;
    // The blob begins with the length and the text of the kind of key.
    let length = u32::try_from(kind.len()).ok()?.to_be_bytes();
    let rest = blob.strip_prefix(&length)?;
    rest.strip_prefix(kind.as_bytes())?;
    let digest = hash(MessageDigest::md5(), &blob).ok()?;
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(pairs.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_one_that_nova_gives() {
        let key = "ssh-ed25519 \
            AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB x@y";
        assert_eq!(
            fingerprint(key).as_deref(),
            Some("67:66:33:c5:89:55:21:d4:1d:cd:fd:b4:59:cc:6d:64")
        );
    }

    #[test]
    fn what_is_no_public_key_has_none() {
        for text in [
            "",
            "ssh-rsa",
            "ssh-rsa bad",
            "ssh-rsa AAAA",
            "x AAAAAXg= y z",
        ] {
            let expected = text.starts_with('x');
            assert_eq!(fingerprint(text).is_some(), expected, "{text:?}");
        }
    }
}
