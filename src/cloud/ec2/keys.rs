//! Key pairs: each distinct public key is imported once for each owner, under the name that
//! [`public_key`] makes, and known again by the fingerprint of the key.

use std::collections::BTreeMap;

use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::{ResourceType, TagSpecification};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openssl::bn::BigNum;
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::{Id, PKey};
use openssl::rsa::Rsa;
use tracing::info;

use super::Ec2;
use super::errors::Problem;
use super::tags;
use crate::cloud::public_key::{self, PublicKey};
use crate::cloud::shared::Shared;
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::leftover::{MANAGER_MARK, SPACE_MARK};

/// The names of the key pairs that are known to be there.
pub(super) type Keys = Shared<()>;

impl Ec2 {
    /// The name of the key pair with this OpenSSH public key, which is imported if need be, for
    /// the owner whose marks are in `metadata`. Concurrent calls share one import.
    pub(super) async fn key_name(
        &self,
        text: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<String, CloudError> {
        let key = public_key::of_owner(text, metadata)?;
        let import = async {
            match self.fingerprint(&key.name).await? {
                Some(told) => self.must_match(&key, &told),
                None => self.import_key(&key, metadata).await,
            }
        };
        self.keys.get(&key.name, |()| true, import).await?;
        Ok(key.name)
    }

    /// The fingerprint of the key pair of this name, if there is one; it may be empty.
    pub(super) async fn fingerprint(&self, name: &str) -> Result<Option<String>, CloudError> {
        let request = self.client.describe_key_pairs().key_names(name);
        let answer = match request.send().await.map_err(Problem::from) {
            Ok(answer) => answer,
            Err(problem) if is_unknown(problem.code()) => return Ok(None),
            Err(problem) => return Err(self.refused("DescribeKeyPairs", problem)),
        };
        let mut pairs = answer.key_pairs.unwrap_or_default().into_iter();
        let pair = pairs.find(|pair| pair.key_name.as_deref() == Some(name));
        Ok(pair.map(|pair| pair.key_fingerprint.unwrap_or_default()))
    }

    fn must_match(&self, key: &PublicKey, told: &str) -> Result<(), CloudError> {
        if told.is_empty() || fingerprints(key).iter().any(|own| own == told) {
            return Ok(());
        }
        Err(CloudError::new(
            CloudErrorKind::Rejected,
            self.operation("DescribeKeyPairs"),
            format!(
                "the key pair {} has the fingerprint {told}, which is not that of the \
                 root_public_key: remove the key pair and it is imported again",
                key.name
            ),
        ))
    }

    async fn import_key(
        &self,
        key: &PublicKey,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        let mut request = self
            .client
            .import_key_pair()
            .key_name(&key.name)
            .public_key_material(Blob::new(key.line.as_bytes()));
        if self.version.has_tag_specifications() {
            let marks = [SPACE_MARK, MANAGER_MARK].into_iter();
            let marks = marks.filter_map(|mark| metadata.get_key_value(mark));
            let marks = marks.map(|(key, value)| (key.clone(), value.clone()));
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::KeyPair)
                .set_tags(Some(tags::of(&marks.collect())));
            request = request.tag_specifications(tags.build());
        }
        match request.send().await.map_err(Problem::from) {
            Ok(answer) => {
                info!(space = %self.space, key = %key.name, "public key imported");
                self.must_match(key, answer.key_fingerprint.as_deref().unwrap_or_default())
            }
            // Another program of the same owner was faster.
            Err(problem) if problem.code() == "InvalidKeyPair.Duplicate" => Ok(()),
            Err(problem) => {
                let about_key = problem.code().starts_with("InvalidKey");
                let mut error = self.refused("ImportKeyPair", problem);
                if about_key || error.kind == CloudErrorKind::Rejected {
                    error.message.push_str(&format!(
                        "; this cloud does not take the root_public_key, which is of the type {}",
                        key.kind
                    ));
                }
                Err(error)
            }
        }
    }
}

/// Whether the service knows no key pair of that name.
pub(super) fn is_unknown(code: &str) -> bool {
    code == "InvalidKeyPair.NotFound"
}

/// What services give as the fingerprint of an imported key: Amazon the MD5 of an RSA key in DER
/// and the SHA-256 of an Ed25519 key in OpenSSH's form, moto the SHA-256 of that in DER, OpenStack
/// the MD5 of OpenSSH's form for all.
fn fingerprints(key: &PublicKey) -> Vec<String> {
    let sha256 = openssl::sha::sha256(&key.blob);
    let mut all = vec![
        STANDARD.encode(sha256),
        STANDARD_NO_PAD.encode(sha256),
        format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256)),
    ];
    all.extend(pairs(MessageDigest::md5(), &key.blob));
    if let Some(der) = der(&key.blob) {
        all.extend(pairs(MessageDigest::md5(), &der));
        all.extend(pairs(MessageDigest::sha256(), &der));
    }
    all
}

/// Pairs of digits with colons between them. A system that forbids a digest has none.
fn pairs(digest: MessageDigest, data: &[u8]) -> Option<String> {
    let digest = hash(digest, data).ok()?;
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(pairs.join(":"))
}

/// A key of RFC 4253 (`ssh-rsa`, exponent, modulus) or RFC 8709 (`ssh-ed25519`, key) as a
/// SubjectPublicKeyInfo.
fn der(blob: &[u8]) -> Option<Vec<u8>> {
    let mut rest = blob;
    let mut field = || {
        let (length, after) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        let (field, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        Some(field)
    };
    match field()? {
        b"ssh-rsa" => {
            let exponent = BigNum::from_slice(field()?).ok()?;
            let modulus = BigNum::from_slice(field()?).ok()?;
            let key = Rsa::from_public_components(modulus, exponent).ok()?;
            key.public_key_to_der().ok()
        }
        b"ssh-ed25519" => {
            let key = PKey::public_key_from_raw_bytes(field()?, Id::ED25519).ok()?;
            key.public_key_to_der().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2";

    fn ssh_rsa(key: &Rsa<openssl::pkey::Private>) -> String {
        let number = |number: &openssl::bn::BigNumRef| {
            let mut bytes = number.to_vec();
            if bytes[0] >= 0x80 {
                bytes.insert(0, 0);
            }
            bytes
        };
        let mut blob = Vec::new();
        for field in [b"ssh-rsa".to_vec(), number(key.e()), number(key.n())] {
            blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend(field);
        }
        format!("ssh-rsa {}", STANDARD.encode(blob))
    }

    #[test]
    fn the_fingerprint_of_an_rsa_key_is_the_md5_of_its_der_form() {
        let rsa = Rsa::generate(2048).unwrap();
        let key = public_key::parse(&ssh_rsa(&rsa), "s", "m").unwrap();
        let der = rsa.public_key_to_der().unwrap();
        let expected = pairs(MessageDigest::md5(), &der).unwrap();
        assert_eq!(expected.len(), 47);
        assert!(fingerprints(&key).contains(&expected));
    }

    #[test]
    fn the_fingerprint_of_an_ed25519_key_is_that_of_ssh_keygen() {
        let key = public_key::parse(ED25519, "s", "m").unwrap();
        let all = fingerprints(&key);
        let with_prefix = all.iter().find(|one| one.starts_with("SHA256:")).unwrap();
        let bare = with_prefix.trim_start_matches("SHA256:");
        assert_eq!(bare.len(), 43);
        assert!(all.contains(&format!("{bare}=")), "{all:?}");
        assert!(der(&key.blob).unwrap().ends_with(&key.blob[19..]));
        assert_eq!(der(b"\0\0\0\x07ssh-dss"), None);
        assert_eq!(der(b"\xff\xff\xff\xff"), None);
    }
}
