//! Key pairs: each distinct public key is imported once, under a name made from its content, so
//! that no list of ours can be out of step with the cloud's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde_json::json;
use tracing::info;

use super::create::forbidden_kind;
use super::shared::Shared;
use super::{OpenStack, Target, Trouble};
use crate::cloud::{CloudError, CloudErrorKind};

/// The names of the key pairs that are known to be there.
pub(super) type Keys = Shared<()>;

/// A public key without its comment, and the name of its key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicKey {
    line: String,
    name: String,
}

impl OpenStack {
    /// The name of the key pair with this OpenSSH public key, which is imported if need be.
    /// Concurrent calls share one import.
    pub(super) async fn key_name(&self, text: &str) -> Result<String, CloudError> {
        let key = parse(text).map_err(|why| {
            CloudError::new(CloudErrorKind::Rejected, "import the root_public_key", why)
        })?;
        let import = async {
            if self.has_key(&key).await? {
                return Ok(());
            }
            self.import_key(&key).await
        };
        self.keys.get(&key.name, |()| true, import).await?;
        Ok(key.name)
    }

    async fn has_key(&self, key: &PublicKey) -> Result<bool, CloudError> {
        let path = ["os-keypairs", key.name.as_str()];
        let reply = self.ask(Method::GET, &Target::compute(&path), None).await;
        let reply = reply.map_err(Trouble::into_error)?;
        match reply.status() {
            200..=299 => Ok(true),
            404 => Ok(false),
            _ => Err(self.refused(&reply, reply.answer.read_kind())),
        }
    }

    async fn import_key(&self, key: &PublicKey) -> Result<(), CloudError> {
        let body = json!({"keypair": {"name": key.name, "public_key": key.line}});
        let body = Bytes::from(body.to_string());
        let target = Target::compute(&["os-keypairs"]);
        let reply = self.ask(Method::POST, &target, Some(body)).await;
        let reply = reply.map_err(Trouble::into_error)?;
        match reply.status() {
            200..=299 => {
                info!(space = %self.space, key = %key.name, "public key imported");
                Ok(())
            }
            // Another factory of the same user was faster.
            409 => Ok(()),
            403 | 413 => Err(self.refused(&reply, forbidden_kind(&reply.answer))),
            _ => Err(self.refused(&reply, reply.answer.read_kind())),
        }
    }
}

/// Reads the first key of an OpenSSH public key file.
fn parse(text: &str) -> Result<PublicKey, String> {
    const WHY: &str = "this is no OpenSSH public key: expected \"TYPE BASE64 COMMENT\"";
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .ok_or("the file has no key in it")?;
    let mut words = line.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err(WHY.to_owned());
    };
    let decoded = STANDARD.decode(blob).map_err(|_| WHY)?;
    // The blob begins with its type again, as a 32-bit length and the text.
    let inner = decoded
        .get(4..)
        .and_then(|rest| rest.get(..kind.len()))
        .filter(|_| {
            decoded.get(..4)
                == u32::try_from(kind.len())
                    .ok()
                    .map(u32::to_be_bytes)
                    .as_ref()
                    .map(<[u8; 4]>::as_slice)
        });
    if inner != Some(kind.as_bytes()) {
        return Err(WHY.to_owned());
    }
    let digest = openssl::sha::sha256(format!("{kind} {blob}").as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(PublicKey {
        line: format!("{kind} {blob} vcycle"),
        name: format!("vcycle-{hex}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2";

    #[test]
    fn the_name_depends_on_the_key_and_not_on_its_comment() {
        let bare = parse(KEY).unwrap();
        let commented = parse(&format!("# mine\n\n  {KEY}   me@here\n")).unwrap();
        assert_eq!(bare, commented);
        assert_eq!(bare.name.len(), 7 + 64);
        assert!(bare.line.starts_with(KEY));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for text in [
            "",
            "# nothing",
            "ssh-rsa",
            "ssh-rsa %%%",
            "ssh-rsa AAAA",
            &KEY.replace("ssh-ed25519", "ssh-rsa"),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
