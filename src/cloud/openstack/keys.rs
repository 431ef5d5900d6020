//! Key pairs: each distinct public key is imported once for a space, under a name made from the
//! owner's marks and the key's content, so that no list of ours can be out of step with the cloud's.
//!
//! Key pairs belong to a user, whom other spaces and factories may share. With the owner in the
//! name none of them uses what another may remove.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tracing::info;

use super::create::forbidden_kind;
use super::{OpenStack, Target, Trouble};
use crate::cloud::public_key::{self, PublicKey};
use crate::cloud::shared::Shared;
use crate::cloud::{CloudError, CloudErrorKind};

/// The names of the key pairs that are known to be there.
pub(super) type Keys = Shared<()>;

impl OpenStack {
    /// The name of the key pair with this OpenSSH public key, which is imported if need be, for
    /// the owner whose marks are in `metadata`. Concurrent calls share one import.
    pub(super) async fn key_name(
        &self,
        text: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<String, CloudError> {
        let key = public_key::of_owner(text, metadata)?;
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
            // Another program of the same owner was faster.
            409 => Ok(()),
            403 | 413 => Err(self.refused(&reply, forbidden_kind(&reply.answer))),
            // Not every Nova knows every type: those of security tokens are often missing.
            400 => {
                let kind = &key.kind;
                let mut error = self.refused(&reply, CloudErrorKind::Rejected);
                error.message.push_str(&format!(
                    "; this cloud does not take the root_public_key, which is of the type {kind}"
                ));
                Err(error)
            }
            _ => Err(self.refused(&reply, reply.answer.read_kind())),
        }
    }
}
