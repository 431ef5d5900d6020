//! A certificate authority of our own, for the demo and for tests: host certificates, the
//! certificates of VMs, and RFC 3820 proxies made from them, with the layout of a grid CA
//! directory.
//!
//! These are throw-away certificates. Nothing that runs in production trusts or makes them.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameRef, X509Ref};

use crate::model::{Seconds, Timestamp};
use crate::state::disk::{self, Disk};

/// Size of all keys: what grid CAs ask for at least.
const KEY_BITS: u32 = 2048;
/// How long before now a certificate begins to be valid, for clocks that differ.
const BACKDATE: u64 = 300;
/// The extension that makes a certificate a proxy (RFC 3820).
const PROXY_CERT_INFO: &str = "1.3.6.1.5.5.7.1.14";
/// Its content for a limited proxy: no path length, policy 1.3.6.1.4.1.3536.1.1.1.9.
const LIMITED: [u8; 17] = [
    0x30, 0x0f, 0x30, 0x0d, 0x06, 0x0b, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x9b, 0x50, 0x01, 0x01, 0x01,
    0x09,
];

/// When certificates are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The moment at which they are made.
    pub now: Timestamp,
    /// For how long from then on.
    pub life: Seconds,
}

/// A certificate with its key and the certificates between it and the authority.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: X509,
    key: PKey<Private>,
    chain: Vec<X509>,
}

/// A certificate authority.
#[derive(Clone, Debug)]
pub struct Authority(Identity);

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// An HTTPS server with these DNS names and addresses.
    Host {
        /// DNS names.
        names: Vec<String>,
        /// IP addresses.
        addresses: Vec<IpAddr>,
    },
    /// A client: a VM, a person.
    Client,
}

/// A subject as pairs of short name and value, most general first: `[("DC", "org"), ("CN", "x")]`.
pub type Subject<'a> = &'a [(&'a str, &'a str)];

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When OpenSSL cannot make the key or sign.
    pub fn new(subject: Subject<'_>, validity: Validity) -> Result<Self, ErrorStack> {
        let key = new_key()?;
        let name = name(subject)?;
        let mut builder = builder(&name, &name, &key, validity)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        let usage = KeyUsage::new()
            .critical()
            .key_cert_sign()
            .crl_sign()
            .build()?;
        builder.append_extension(usage)?;
        let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(identifier)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self(Identity {
            certificate: builder.build(),
            key,
            chain: Vec::new(),
        }))
    }

    /// A certificate signed by this authority, with a new key.
    ///
    /// # Errors
    /// When OpenSSL cannot make the key or sign.
    pub fn issue(
        &self,
        subject: Subject<'_>,
        purpose: &Use,
        validity: Validity,
    ) -> Result<Identity, ErrorStack> {
        let key = new_key()?;
        let issuer = &self.0.certificate;
        let name = name(subject)?;
        let mut builder = builder(&name, issuer.subject_name(), &key, validity)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        append_key_usage(&mut builder)?;
        append_identifiers(&mut builder, issuer)?;
        match purpose {
            Use::Host { names, addresses } => {
                let usage = ExtendedKeyUsage::new()
                    .server_auth()
                    .client_auth()
                    .build()?;
                builder.append_extension(usage)?;
                let mut alternatives = SubjectAlternativeName::new();
                for name in names {
                    alternatives.dns(name);
                }
                for address in addresses {
                    alternatives.ip(&address.to_string());
                }
                let alternatives =
                    alternatives.build(&builder.x509v3_context(Some(issuer), None))?;
                builder.append_extension(alternatives)?;
            }
            Use::Client => {
                builder.append_extension(ExtendedKeyUsage::new().client_auth().build()?)?;
            }
        }
        builder.sign(&self.0.key, MessageDigest::sha256())?;
        Ok(Identity {
            certificate: builder.build(),
            key,
            chain: Vec::new(),
        })
    }

    /// Puts the authority's certificate into a CA directory, under the name by which OpenSSL
    /// looks for it. The answer is the path.
    ///
    /// # Errors
    /// When the file cannot be written, or is there already.
    pub fn install(&self, ca_path: &Path) -> io::Result<PathBuf> {
        let certificate = &self.0.certificate;
        let path = ca_path.join(format!("{:08x}.0", certificate.subject_name_hash()));
        Disk::default().create_synced(&path, &certificate.to_pem()?, disk::PUBLIC)?;
        Ok(path)
    }
}

impl Identity {
    /// An RFC 3820 limited proxy made from this certificate, with a new key.
    ///
    /// # Errors
    /// When OpenSSL cannot make the key or sign.
    pub fn limited_proxy(&self, validity: Validity) -> Result<Self, ErrorStack> {
        let key = new_key()?;
        let issuer = &self.certificate;
        // The subject is the issuer's, entry by entry as it is, and one more CN.
        let mut subject = X509Name::builder()?;
        for entry in issuer.subject_name().entries() {
            subject.append_entry(entry)?;
        }
        subject.append_entry_by_nid(Nid::COMMONNAME, &serial()?.to_dec_str()?)?;
        let subject = subject.build();

        let mut builder = builder(&subject, issuer.subject_name(), &key, validity)?;
        append_key_usage(&mut builder)?;
        let kind = Asn1Object::from_str(PROXY_CERT_INFO)?;
        let content = Asn1OctetString::new_from_bytes(&LIMITED)?;
        builder.append_extension(X509Extension::new_from_der(&kind, true, &content)?)?;
        builder.sign(&self.key, MessageDigest::sha256())?;

        let mut chain = vec![issuer.clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Self {
            certificate: builder.build(),
            key,
            chain,
        })
    }

    /// The certificate and the chain below it, without the key.
    ///
    /// # Errors
    /// When OpenSSL cannot encode them.
    pub fn certificate_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        let mut pem = self.certificate.to_pem()?;
        pem.extend(self.chain_pem()?);
        Ok(pem)
    }

    /// The key, as PKCS#8.
    ///
    /// # Errors
    /// When OpenSSL cannot encode it.
    pub fn key_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.key.private_key_to_pem_pkcs8()
    }

    /// Everything in the order that grid software expects of a proxy file: the certificate, its
    /// key, the chain.
    ///
    /// # Errors
    /// When OpenSSL cannot encode it.
    pub fn to_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        let mut pem = self.certificate.to_pem()?;
        pem.extend(self.key_pem()?);
        pem.extend(self.chain_pem()?);
        Ok(pem)
    }

    fn chain_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        let mut pem = Vec::new();
        for certificate in &self.chain {
            pem.extend(certificate.to_pem()?);
        }
        Ok(pem)
    }
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    PKey::from_rsa(Rsa::generate(KEY_BITS)?)
}

fn serial() -> Result<BigNum, ErrorStack> {
    let mut number = BigNum::new()?;
    number.rand(64, MsbOption::MAYBE_ZERO, false)?;
    Ok(number)
}

fn name(subject: Subject<'_>) -> Result<X509Name, ErrorStack> {
    let mut name = X509Name::builder()?;
    for (kind, value) in subject {
        name.append_entry_by_text(kind, value)?;
    }
    Ok(name.build())
}

/// Everything that all kinds of certificate have in common.
fn builder(
    subject: &X509NameRef,
    issuer: &X509NameRef,
    key: &PKeyRef<Private>,
    validity: Validity,
) -> Result<X509Builder, ErrorStack> {
    let time = |seconds: u64| Asn1Time::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX));
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial: Asn1Integer = serial()?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    let now = validity.now.unix();
    let until = now.saturating_add(validity.life.get());
    builder.set_not_before(&*time(now.saturating_sub(BACKDATE))?)?;
    builder.set_not_after(&*time(until)?)?;
    Ok(builder)
}

fn append_key_usage(builder: &mut X509Builder) -> Result<(), ErrorStack> {
    let usage = KeyUsage::new()
        .critical()
        .digital_signature()
        .key_encipherment()
        .build()?;
    builder.append_extension(usage)
}

fn append_identifiers(builder: &mut X509Builder, issuer: &X509Ref) -> Result<(), ErrorStack> {
    let context = builder.x509v3_context(Some(issuer), None);
    let subject = SubjectKeyIdentifier::new().build(&context)?;
    let authority = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
    builder.append_extension(subject)?;
    builder.append_extension(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::stack::Stack;
    use openssl::x509::store::X509StoreBuilder;
    use openssl::x509::verify::X509VerifyFlags;
    use openssl::x509::{X509PurposeId, X509StoreContext};

    const VALID: Validity = Validity {
        now: Timestamp::from_unix(1_700_000_000),
        life: Seconds::new(3600),
    };

    /// Whether OpenSSL itself accepts the chain, `second` seconds after it was made.
    fn verifies(authority: &Authority, identity: &Identity, second: i64) -> bool {
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(authority.0.certificate.clone()).unwrap();
        store.set_flags(X509VerifyFlags::ALLOW_PROXY_CERTS).unwrap();
        store.set_purpose(X509PurposeId::SSL_CLIENT).unwrap();
        let mut parameters = openssl::x509::verify::X509VerifyParam::new().unwrap();
        parameters.set_time(1_700_000_000 + second);
        store.set_param(&parameters).unwrap();
        let mut chain = Stack::new().unwrap();
        for certificate in &identity.chain {
            chain.push(certificate.clone()).unwrap();
        }
        X509StoreContext::new()
            .unwrap()
            .init(&store.build(), &identity.certificate, &chain, |context| {
                context.verify_cert()
            })
            .unwrap()
    }

    #[test]
    fn openssl_accepts_certificates_and_proxies_while_they_are_valid() {
        let authority = Authority::new(&[("DC", "org"), ("CN", "Test CA")], VALID).unwrap();
        let vm = authority
            .issue(&[("DC", "org"), ("CN", "vm")], &Use::Client, VALID)
            .unwrap();
        let proxy = vm.limited_proxy(VALID).unwrap();
        let second = proxy.limited_proxy(VALID).unwrap();
        for identity in [&vm, &proxy, &second] {
            assert!(verifies(&authority, identity, 0));
            assert!(verifies(&authority, identity, -299));
            assert!(!verifies(&authority, identity, 3601));
        }
        let other = Authority::new(&[("DC", "org"), ("CN", "Other CA")], VALID).unwrap();
        assert!(!verifies(&other, &proxy, 0));
    }

    #[test]
    fn the_authority_is_where_openssl_looks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(&[("CN", "Test CA")], VALID).unwrap();
        let path = authority.install(dir.path()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.len() == 10 && name.ends_with(".0"), "{name}");
        let pem = std::fs::read(&path).unwrap();
        assert_eq!(X509::from_pem(&pem).unwrap(), authority.0.certificate);
    }

    #[test]
    fn a_proxy_file_has_its_parts_in_order() {
        let authority = Authority::new(&[("CN", "Test CA")], VALID).unwrap();
        let vm = authority
            .issue(&[("CN", "vm")], &Use::Client, VALID)
            .unwrap();
        let pem = vm.limited_proxy(VALID).unwrap().to_pem().unwrap();
        let text = String::from_utf8(pem).unwrap();
        let headers: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("-----BEGIN"))
            .collect();
        assert_eq!(
            headers,
            [
                "-----BEGIN CERTIFICATE-----",
                "-----BEGIN PRIVATE KEY-----",
                "-----BEGIN CERTIFICATE-----"
            ]
        );
    }
}
