//! Certificates for tests: CAs in a hashed directory, hosts, users, proxies of all kinds, CRLs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameRef};

/// A certificate, its key, and the certificates that lead from it towards a CA.
#[derive(Clone)]
pub struct Party {
    pub cert: X509,
    pub key: PKey<Private>,
    pub chain: Vec<X509>,
}

/// Kinds of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Rfc3820,
    Rfc3820Limited,
    Rfc3820Independent,
    /// With room for so many proxies below it.
    Rfc3820OfLength(u8),
    Legacy,
    LegacyLimited,
    /// Issued by an end entity like a legacy proxy, under a name that no proxy may have.
    Forged,
}

/// From when to when, in seconds from now.
pub const VALID: (i64, i64) = (-300, 86_400);
pub const EXPIRED: (i64, i64) = (-7200, -3600);

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub fn name(components: &[(&str, &str)]) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    for (kind, value) in components {
        builder.append_entry_by_text(kind, value).unwrap();
    }
    builder.build()
}

fn extend(issuer: &X509NameRef, common_name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    for entry in issuer.entries() {
        builder.append_entry(entry).unwrap();
    }
    builder.append_entry_by_text("CN", common_name).unwrap();
    builder.build()
}

fn builder(subject: &X509NameRef, key: &PKey<Private>, validity: (i64, i64)) -> X509Builder {
    let mut serial = BigNum::new().unwrap();
    serial.rand(63, MsbOption::ONE, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder
        .set_serial_number(&Asn1Integer::from_bn(&serial).unwrap())
        .unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_pubkey(key).unwrap();
    let time = |offset: i64| Asn1Time::from_unix(now() + offset).unwrap();
    builder.set_not_before(&time(validity.0)).unwrap();
    builder.set_not_after(&time(validity.1)).unwrap();
    builder
}

/// A CA of its own whose path length leaves no room for another CA.
pub fn authority(common_name: &str) -> Party {
    root(common_name, Some(0), VALID)
}

/// A CA of its own with room for so many below it.
pub fn root(common_name: &str, path_length: Option<u32>, validity: (i64, i64)) -> Party {
    ca(None, common_name, path_length, validity)
}

fn ca(
    issuer: Option<&Party>,
    common_name: &str,
    path_length: Option<u32>,
    validity: (i64, i64),
) -> Party {
    let subject = name(&[("DC", "org"), ("DC", "example"), ("CN", common_name)]);
    let key = new_key();
    let mut builder = builder(&subject, &key, validity);
    let issuer_name = issuer.map_or(&*subject, |issuer| issuer.cert.subject_name());
    builder.set_issuer_name(issuer_name).unwrap();
    let mut constraints = BasicConstraints::new();
    constraints.critical().ca();
    if let Some(length) = path_length {
        constraints.pathlen(length);
    }
    builder
        .append_extension(constraints.build().unwrap())
        .unwrap();
    let usage = KeyUsage::new()
        .critical()
        .key_cert_sign()
        .crl_sign()
        .build();
    builder.append_extension(usage.unwrap()).unwrap();
    let signer = issuer.map_or(&key, |issuer| &issuer.key);
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    Party {
        cert: builder.build(),
        key,
        chain: issuer.map_or_else(Vec::new, Party::towards_root),
    }
}

/// What an end entity's certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    Clients,
    Servers,
}

impl Party {
    /// Makes a CA below `self`, which is one.
    pub fn subordinate(
        &self,
        common_name: &str,
        path_length: Option<u32>,
        validity: (i64, i64),
    ) -> Party {
        ca(Some(self), common_name, path_length, validity)
    }

    /// What who was issued by this CA sends with its certificate: all CAs but the root.
    fn towards_root(&self) -> Vec<X509> {
        let own = self.cert.issuer_name().try_cmp(self.cert.subject_name());
        let mut chain = Vec::new();
        if own.unwrap().is_ne() {
            chain.push(self.cert.clone());
            chain.extend(self.chain.iter().cloned());
        }
        chain
    }

    /// Issues a certificate of an end entity; `self` is a CA.
    pub fn issue(&self, subject: &X509NameRef, whom: For, validity: (i64, i64)) -> Party {
        self.issue_for(new_key(), subject, whom, validity)
    }

    /// Issues a certificate for a key that is there.
    pub fn issue_for(
        &self,
        key: PKey<Private>,
        subject: &X509NameRef,
        whom: For,
        validity: (i64, i64),
    ) -> Party {
        let mut builder = builder(subject, &key, validity);
        builder.set_issuer_name(self.cert.subject_name()).unwrap();
        let constraints = BasicConstraints::new().critical().build().unwrap();
        builder.append_extension(constraints).unwrap();
        let usage = KeyUsage::new().critical().digital_signature().build();
        builder.append_extension(usage.unwrap()).unwrap();
        let mut purpose = ExtendedKeyUsage::new();
        match whom {
            For::Clients => purpose.client_auth(),
            For::Servers => purpose.server_auth(),
        };
        builder.append_extension(purpose.build().unwrap()).unwrap();
        if whom == For::Servers {
            let names = SubjectAlternativeName::new()
                .dns("localhost")
                .ip("127.0.0.1")
                .build(&builder.x509v3_context(Some(&self.cert), None))
                .unwrap();
            builder.append_extension(names).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Party {
            cert: builder.build(),
            key,
            chain: self.towards_root(),
        }
    }

    /// Makes a proxy of `self`, an end entity or a proxy.
    pub fn proxy(&self, kind: Proxy, validity: (i64, i64)) -> Party {
        let common_name = match kind {
            Proxy::Rfc3820
            | Proxy::Rfc3820Limited
            | Proxy::Rfc3820Independent
            | Proxy::Rfc3820OfLength(_) => "1234567",
            Proxy::Legacy => "proxy",
            Proxy::LegacyLimited => "limited proxy",
            Proxy::Forged => "somebody else",
        };
        let with_length;
        let policy: Option<&[u8]> = match kind {
            Proxy::Rfc3820 => Some(b"\x30\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x15\x01"),
            Proxy::Rfc3820Independent => {
                Some(b"\x30\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x15\x02")
            }
            Proxy::Rfc3820Limited => {
                Some(b"\x30\x0f\x30\x0d\x06\x0b\x2b\x06\x01\x04\x01\x9b\x50\x01\x01\x01\x09")
            }
            Proxy::Rfc3820OfLength(length) => {
                let policy = b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x15\x01";
                with_length = [&b"\x30\x0f\x02\x01"[..], &[length], policy].concat();
                Some(&with_length)
            }
            Proxy::Legacy | Proxy::LegacyLimited | Proxy::Forged => None,
        };
        let key = new_key();
        let subject = extend(self.cert.subject_name(), common_name);
        let mut builder = builder(&subject, &key, validity);
        builder.set_issuer_name(self.cert.subject_name()).unwrap();
        if let Some(policy) = policy {
            let usage = KeyUsage::new().critical().digital_signature().build();
            builder.append_extension(usage.unwrap()).unwrap();
            let oid = Asn1Object::from_str("1.3.6.1.5.5.7.1.14").unwrap();
            let content = Asn1OctetString::new_from_bytes(policy).unwrap();
            let info = X509Extension::new_from_der(&oid, true, &content).unwrap();
            builder.append_extension(info).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let mut chain = vec![self.cert.clone()];
        chain.extend(self.chain.iter().cloned());
        Party {
            cert: builder.build(),
            key,
            chain,
        }
    }

    /// Writes certificate, key and chain into one PEM file, in the order of a grid proxy.
    pub fn write(&self, path: &Path) -> PathBuf {
        let mut pem = self.cert.to_pem().unwrap();
        pem.extend(self.key.private_key_to_pem_pkcs8().unwrap());
        for cert in &self.chain {
            pem.extend(cert.to_pem().unwrap());
        }
        fs::write(path, pem).unwrap();
        path.to_owned()
    }

    /// Puts the CA into a hashed directory.
    pub fn install(&self, ca_path: &Path) {
        fs::write(self.hashed(ca_path, "0"), self.cert.to_pem().unwrap()).unwrap();
    }

    /// Takes the CA out of it again.
    pub fn uninstall(&self, ca_path: &Path) {
        fs::remove_file(self.hashed(ca_path, "0")).unwrap();
    }

    fn hashed(&self, ca_path: &Path, ending: &str) -> PathBuf {
        ca_path.join(format!("{:08x}.{ending}", self.cert.subject_name_hash()))
    }

    /// Publishes a CRL of this CA in a hashed directory, as `openssl ca` makes it. `next_update`
    /// is in seconds from now.
    pub fn publish_crl(&self, ca_path: &Path, revoked: &[&Party], next_update: i64) {
        let work = tempfile::tempdir().unwrap();
        let file = |name: &str| work.path().join(name);
        self.write(&file("ca.pem"));
        let index: String = revoked
            .iter()
            .map(|party| {
                let serial = party.cert.serial_number().to_bn().unwrap();
                let serial = serial.to_hex_str().unwrap();
                format!("R\t400101000000Z\t200101000000Z\t{serial}\tunknown\t/CN=x\n")
            })
            .collect();
        fs::write(file("index.txt"), index).unwrap();
        let conf = format!(
            "[ca]\ndefault_ca=a\n[a]\ndatabase={}\ndefault_md=sha256\ncrl_extensions=e\n\
             crlnumber={}\n[e]\n",
            file("index.txt").display(),
            file("number").display(),
        );
        fs::write(file("conf"), conf).unwrap();
        fs::write(file("number"), "01\n").unwrap();
        let time = |offset: i64| {
            chrono::DateTime::from_timestamp(now() + offset, 0)
                .unwrap()
                .format("%Y%m%d%H%M%SZ")
                .to_string()
        };
        openssl(&[
            "ca",
            "-config",
            &file("conf").to_string_lossy(),
            "-gencrl",
            "-cert",
            &file("ca.pem").to_string_lossy(),
            "-keyfile",
            &file("ca.pem").to_string_lossy(),
            "-crl_lastupdate",
            &time(-86_400),
            "-crl_nextupdate",
            &time(next_update),
            "-out",
            &self.hashed(ca_path, "r0").to_string_lossy(),
        ]);
    }
}

/// Runs the `openssl` command.
pub fn openssl(args: &[&str]) {
    let done = Command::new("openssl")
        .args(args)
        .output()
        .expect("the tests need the openssl command");
    assert!(
        done.status.success(),
        "openssl {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
