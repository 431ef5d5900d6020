//! Limited X.509 proxies: what a machine shows so as to act for its experiment, for as
//! long as it may run.
//!
//! [`make`] is given the contents of files and gives a text; it reads nothing but OpenSSL's random
//! numbers. A new key takes it tens of milliseconds, so it is for where work may block.
//!
//! What nobody would accept is not made: a chain is judged first, as those judge it who verify the
//! proxy, and the error names the file and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time, Asn1Type};
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::KeyUsage;
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameRef};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::der::parse_der;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{RelativeDistinguishedName, X509Name as ParsedName};

use crate::model::{MachinetypeName, Seconds, Secret, Timestamp};

/// Size of the new RSA key.
const KEY_BITS: u32 = 2048;
/// So much earlier than now a proxy is valid, for VMs and servers whose clocks are slow.
const EARLIER: Seconds = Seconds::new(300);
/// The extension ProxyCertInfo (RFC 3820, 3.8).
const PROXY_CERT_INFO: &str = "1.3.6.1.5.5.7.1.14";
/// Its value in DER: no limit on the length of the path, and the policy language 1.3.6.1.4.1.3536.1.1.1.9,
/// by which Globus and all that came after it know a limited proxy.
const LIMITED: &[u8] = b"\x30\x0f\x30\x0d\x06\x0b\x2b\x06\x01\x04\x01\x9b\x50\x01\x01\x01\x09";
/// The last name of a limited legacy proxy, and of one that is not.
const LEGACY_LIMITED: &str = "limited proxy";
const LEGACY_FULL: &str = "proxy";

/// The kinds of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With the extension of RFC 3820.
    Rfc3820,
    /// Globus's first: nothing but a name.
    Legacy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rfc3820 => "an RFC 3820",
            Self::Legacy => "a legacy",
        })
    }
}

/// Why there is no proxy. The texts stay the same from cycle to cycle, so that they are told once.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The certificates will not do.
    #[error("cannot make a proxy from user_data_proxy_cert {path}: {fault}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        fault: CertificateFault,
    },
    /// The key will not do.
    #[error("cannot make a proxy with user_data_proxy_key {path}: {fault}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// OpenSSL refuses.
    #[error("cannot make a proxy from user_data_proxy_cert {path}: OpenSSL says {why}", path = path.display())]
    OpenSsl {
        /// The file with the certificate.
        path: PathBuf,
        /// Its reasons.
        why: String,
    },
}

/// What can be wrong with a certificate and its chain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// There is none.
    #[error("there is no certificate in PEM form in it")]
    Missing,
    /// There is something that is none.
    #[error("a certificate in it cannot be read: {0}")]
    Unreadable(String),
    /// It ends before the machine does.
    #[error(
        "the certificate of {subject} expires at {at}, before the shutdowntime of the machine; renew it, or lower max_wallclock_seconds"
    )]
    ExpiresSooner {
        /// Whose.
        subject: String,
        /// When, in UTC.
        at: String,
    },
    /// It does not hold yet.
    #[error("the certificate of {subject} is not valid before {from}")]
    NotYetValid {
        /// Whose.
        subject: String,
        /// From when on, in UTC.
        from: String,
    },
    /// It is a CA's.
    #[error("the first certificate in it is that of a CA, {0}, and a CA has no proxies")]
    Authority(String),
    /// It may not sign.
    #[error(
        "the key usage of {0} has no digitalSignature, without which nobody accepts its proxies"
    )]
    MayNotSign(String),
    /// A proxy says that no more may follow.
    #[error("{0} is a proxy that allows no further proxy after it")]
    TooLong(String),
    /// A proxy of the other kind, and nobody accepts a mix.
    #[error(
        "the certificate in it is {of} proxy, of which {wanted} proxy cannot be made; set legacy_proxy = {set}",
        set = if *of == Kind::Legacy { "True" } else { "False" }
    )]
    OtherKind {
        /// What it is.
        of: Kind,
        /// What legacy_proxy asks for.
        wanted: Kind,
    },
}

/// What can be wrong with a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// There is none.
    #[error("there is no private key in PEM form in it")]
    Missing,
    /// It needs a passphrase.
    #[error(
        "the key in it is encrypted, and nobody is there to give the passphrase; store it unencrypted, with mode 0600"
    )]
    Encrypted,
    /// There is something that is none.
    #[error("the key in it cannot be read: {0}")]
    Unreadable(String),
    /// It belongs to something else.
    #[error("the key in it does not belong to the first certificate in {path}", path = .0.display())]
    OtherCertificate(PathBuf),
}

/// A file and what is in it.
#[derive(Clone, Debug)]
pub struct Pem {
    /// Its name, for errors.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Secret<Vec<u8>>,
}

/// What kind of proxy, for whom and for how long.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which kind.
    pub kind: Kind,
    /// The machinetype, which an RFC 3820 proxy has as its last name.
    pub machinetype: MachinetypeName,
    /// The present.
    pub now: Timestamp,
    /// The end of the proxy: the machine's shutdowntime.
    pub until: Timestamp,
}

/// Makes a limited proxy of the first certificate in `cert`, whose key is in `key`, with a new
/// key: the PEM texts of the proxy, its key, and all certificates in `cert`.
///
/// # Errors
/// When certificate or key will not do.
pub fn make(cert: &Pem, key: &Pem, wanted: &Wanted) -> Result<Secret<String>, ProxyError> {
    let issuing = || -> Result<String, ProxyError> {
        let chain = read_chain(&cert.bytes).and_then(|chain| {
            judge(&chain, wanted)?;
            Ok(chain)
        });
        let chain = chain.map_err(|fault| ProxyError::Certificate {
            path: cert.path.clone(),
            fault,
        })?;
        let issuer = chain.first().ok_or_else(|| ProxyError::Certificate {
            path: cert.path.clone(),
            fault: CertificateFault::Missing,
        })?;
        let issuer_key = read_key(&key.bytes, issuer, &cert.path);
        let issuer_key = issuer_key.map_err(|fault| ProxyError::Key {
            path: key.path.clone(),
            fault,
        })?;
        issue(&chain, issuer, &issuer_key, wanted).map_err(|error| ProxyError::OpenSsl {
            path: cert.path.clone(),
            why: reasons(&error),
        })
    };
    let made = issuing().map(Secret::new);
    // Whoever uses TLS on this thread next must not find errors of ours in OpenSSL's queue.
    let _forgotten = ErrorStack::get();
    made
}

fn read_chain(bytes: &Secret<Vec<u8>>) -> Result<Vec<X509>, CertificateFault> {
    let chain = X509::stack_from_pem(bytes.reveal())
        .map_err(|error| CertificateFault::Unreadable(reasons(&error)))?;
    if chain.is_empty() {
        return Err(CertificateFault::Missing);
    }
    Ok(chain)
}

fn read_key(
    bytes: &Secret<Vec<u8>>,
    issuer: &X509,
    cert: &Path,
) -> Result<PKey<Private>, KeyFault> {
    let bytes = bytes.reveal();
    let has = |mark: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
    if !has(b"PRIVATE KEY-----") {
        return Err(KeyFault::Missing);
    }
    if has(b"BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(KeyFault::Encrypted);
    }
    // With no passphrase to give; the plain call would ask for one on the terminal.
    let unreadable = |error: ErrorStack| KeyFault::Unreadable(reasons(&error));
    let key = PKey::private_key_from_pem_callback(bytes, |_| Ok(0)).map_err(unreadable)?;
    let public = issuer.public_key().map_err(unreadable)?;
    if !public.public_eq(&key) {
        return Err(KeyFault::OtherCertificate(cert.to_owned()));
    }
    Ok(key)
}

/// OpenSSL's reasons in one line.
fn reasons(error: &ErrorStack) -> String {
    let reasons: Vec<_> = error
        .errors()
        .iter()
        .filter_map(|one| one.reason())
        .collect();
    if reasons.is_empty() {
        "nothing more".to_owned()
    } else {
        reasons.join("; ")
    }
}

/// Whether a proxy of the first certificate of `chain` will be accepted, as far as the chain
/// tells. Whom its reader trusts is not known here.
fn judge(chain: &[X509], wanted: &Wanted) -> Result<(), CertificateFault> {
    let ders: Result<Vec<Vec<u8>>, _> = chain.iter().map(|cert| cert.to_der()).collect();
    let ders = ders.map_err(|error| CertificateFault::Unreadable(reasons(&error)))?;
    let certs: Result<Vec<X509Certificate<'_>>, _> = ders
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, cert)| cert))
        .collect();
    let certs = certs.map_err(|error| CertificateFault::Unreadable(error.to_string()))?;
    for cert in &certs {
        judge_times(cert, wanted)?;
    }
    if let Some(issuer) = certs.first() {
        if issuer.is_ca() {
            return Err(CertificateFault::Authority(subject(issuer)));
        }
        let usage = issuer.key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(CertificateFault::MayNotSign(subject(issuer)));
        }
    }
    // From the issuer up to the end entity; each has one proxy more below it than the one before.
    let kinds = certs.iter().map(|cert| (cert, proxy_kind(cert)));
    let proxies = kinds.map_while(|(cert, kind)| Some((cert, kind?)));
    for (below, (cert, of)) in proxies.enumerate() {
        if of != wanted.kind {
            let wanted = wanted.kind;
            return Err(CertificateFault::OtherKind { of, wanted });
        }
        let allowed = path_length(cert).and_then(|allowed| usize::try_from(allowed).ok());
        if allowed.is_some_and(|allowed| allowed <= below) {
            return Err(CertificateFault::TooLong(subject(cert)));
        }
    }
    Ok(())
}

/// Whose a certificate is, for people to read, on one line.
fn subject(cert: &X509Certificate<'_>) -> String {
    let name = cert.subject().to_string();
    name.replace(char::is_control, " ")
}

fn judge_times(cert: &X509Certificate<'_>, wanted: &Wanted) -> Result<(), CertificateFault> {
    let validity = cert.validity();
    // A time before 1970 is as good as that moment.
    let moment = |seconds: i64| Timestamp::from_unix(u64::try_from(seconds).unwrap_or(0));
    let from = moment(validity.not_before.timestamp());
    let at = moment(validity.not_after.timestamp());
    if at < wanted.until {
        return Err(CertificateFault::ExpiresSooner {
            subject: subject(cert),
            at: at.to_rfc3339(),
        });
    }
    if from > wanted.now {
        return Err(CertificateFault::NotYetValid {
            subject: subject(cert),
            from: from.to_rfc3339(),
        });
    }
    Ok(())
}

/// The kind of proxy that a certificate is, `None` for one that is none.
fn proxy_kind(cert: &X509Certificate<'_>) -> Option<Kind> {
    if proxy_cert_info(cert).is_some() {
        return Some(Kind::Rfc3820);
    }
    is_legacy(cert.subject(), cert.issuer()).then_some(Kind::Legacy)
}

fn proxy_cert_info<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    let mut extensions = cert.extensions().iter();
    let found = extensions.find(|extension| extension.oid.to_id_string() == PROXY_CERT_INFO)?;
    Some(found.value)
}

/// How many proxies may follow one of RFC 3820, when it says so.
fn path_length(cert: &X509Certificate<'_>) -> Option<u32> {
    let (_, info) = parse_der(proxy_cert_info(cert)?).ok()?;
    info.as_sequence().ok()?.first()?.as_u32().ok()
}

/// Whether a name is that of the issuer with the last name of a legacy proxy added to it.
fn is_legacy(name: &ParsedName<'_>, issuer: &ParsedName<'_>) -> bool {
    let names: Vec<_> = name.iter_rdn().collect();
    let Some((last, above)) = names.split_last() else {
        return false;
    };
    let is_ours = |last: &RelativeDistinguishedName<'_>| {
        last.iter().any(|attribute| {
            *attribute.attr_type() == OID_X509_COMMON_NAME
                && matches!(attribute.as_str(), Ok(LEGACY_LIMITED | LEGACY_FULL))
        })
    };
    is_ours(last) && above.iter().copied().eq(issuer.iter_rdn())
}

/// Makes key and certificate, and puts the texts together.
fn issue(
    chain: &[X509],
    issuer: &X509,
    issuer_key: &PKey<Private>,
    wanted: &Wanted,
) -> Result<String, ErrorStack> {
    let key = Rsa::generate(KEY_BITS)?;
    // PKCS #1, which is what software of the time of legacy proxies reads, and all later too.
    let key_text = key.private_key_to_pem()?;
    let key = PKey::from_rsa(key)?;
    let proxy = sign(issuer, issuer_key, &key, wanted)?;
    let mut pem = proxy.to_pem()?;
    pem.extend(key_text);
    for cert in chain {
        pem.extend(cert.to_pem()?);
    }
    Ok(String::from_utf8_lossy(&pem).into_owned())
}

fn sign(
    issuer: &X509,
    issuer_key: &PKey<Private>,
    key: &PKey<Private>,
    wanted: &Wanted,
) -> Result<X509, ErrorStack> {
    let last_name = match wanted.kind {
        Kind::Rfc3820 => wanted.machinetype.as_str(),
        Kind::Legacy => LEGACY_LIMITED,
    };
    let mut serial = BigNum::new()?;
    serial.rand(63, MsbOption::MAYBE_ZERO, false)?;
    let serial = Asn1Integer::from_bn(&serial)?;
    let subject = below(issuer.subject_name(), last_name)?;
    let (from, until) = (time(wanted.now.earlier(EARLIER))?, time(wanted.until)?);
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(&serial)?;
    builder.set_issuer_name(issuer.subject_name())?;
    builder.set_subject_name(&subject)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    let mut usage = KeyUsage::new();
    usage.critical().digital_signature().key_encipherment();
    builder.append_extension(usage.build()?)?;
    if wanted.kind == Kind::Rfc3820 {
        let oid = Asn1Object::from_str(PROXY_CERT_INFO)?;
        let limited = Asn1OctetString::new_from_bytes(LIMITED)?;
        builder.append_extension(X509Extension::new_from_der(&oid, true, &limited)?)?;
    }
    builder.sign(issuer_key, MessageDigest::sha256())?;
    Ok(builder.build())
}

/// The name of an issuer with one more at its end.
fn below(issuer: &X509NameRef, last: &str) -> Result<X509Name, ErrorStack> {
    let mut builder = X509Name::builder()?;
    for entry in issuer.entries() {
        builder.append_entry(entry)?;
    }
    builder.append_entry_by_nid_with_type(Nid::COMMONNAME, last, Asn1Type::PRINTABLESTRING)?;
    Ok(builder.build())
}

/// A time beyond what OpenSSL can count in is its last.
fn time(at: Timestamp) -> Result<Asn1Time, ErrorStack> {
    Asn1Time::from_unix(i64::try_from(at.unix()).unwrap_or(i64::MAX))
}
