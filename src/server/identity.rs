//! Who a client is, from the certificates of its TLS handshake.
//!
//! The handshake itself never fails for a certificate: OpenSSL's complaints are gathered and
//! judged here afterwards, so that a VM that may not write is told why, and one that only reads
//! is served whatever it shows. Invariants:
//!
//! 1. The identity is the subject of the end entity: of the first certificate of the *verified*
//!    chain that is no proxy. Limited proxies are as good as full ones: they are what VMs get.
//! 2. Every complaint refuses the chain, but for the few that `is_forgiven` names.
//! 3. A proxy counts only when its policy hands on the rights of its issuer.

use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ssl::SslRef;
use openssl::x509::X509StoreContextRef;
use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::der::parse_der;
use x509_parser::x509::X509Name;

use crate::model::Dn;

/// What is known of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// It showed no certificate.
    None,
    /// It showed one that proves nothing, and why.
    Refused(String),
    /// It proved to be this end entity, or to hold a proxy of it.
    Verified(Dn),
}

/// Something that OpenSSL found wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    code: i32,
    text: &'static str,
    /// Which certificate of the chain; 0 is the client's own.
    depth: usize,
}

/// Gathers the complaints of one handshake.
#[derive(Clone, Debug, Default)]
pub struct Complaints(Arc<Mutex<Vec<Complaint>>>);

/// More than this many complaints tell nothing new.
const MAX_COMPLAINTS: usize = 64;

impl Complaints {
    /// To be called back by OpenSSL for each certificate; lets the verification go on.
    pub fn note(&self, good: bool, context: &X509StoreContextRef) -> bool {
        if !good {
            let mut complaints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let error = context.error();
            if complaints.len() < MAX_COMPLAINTS {
                complaints.push(Complaint {
                    code: error.as_raw(),
                    text: error.error_string(),
                    depth: usize::try_from(context.error_depth()).unwrap_or(usize::MAX),
                });
            }
        }
        // A signature that fails leaves errors in the queue of this thread, and the next wait
        // for data, of any connection on it, would be taken for that error.
        let _forgotten = ErrorStack::get();
        true
    }

    /// Judges the chain of a finished handshake.
    pub fn judge(&self, ssl: &SslRef) -> Credentials {
        let Some(own) = ssl.peer_certificate() else {
            return Credentials::None;
        };
        let chain: Result<Vec<Vec<u8>>, _> = match ssl.verified_chain() {
            Some(chain) => chain.iter().map(|cert| cert.to_der()).collect(),
            None => return Credentials::Refused("the certificate was not verified".to_owned()),
        };
        let complaints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = chain.map_err(|_| UNREADABLE.to_owned()).and_then(|chain| {
            match (chain.first(), own.to_der()) {
                (Some(first), Ok(own)) if *first == own => judge_chain(&chain, &complaints),
                _ => Err(UNREADABLE.to_owned()),
            }
        });
        match judged {
            Ok(dn) => Credentials::Verified(dn),
            Err(reason) => Credentials::Refused(reason),
        }
    }
}

pub(super) const UNREADABLE: &str = "the certificate cannot be read";

/// Numbers of OpenSSL 3 (`X509_V_ERR_*`), as a binding without `unsafe` gives them.
mod code {
    pub const UNABLE_TO_GET_CRL: i32 = 3;
    pub const PATH_LENGTH_EXCEEDED: i32 = 25;
    pub const INVALID_PURPOSE: i32 = 26;
    pub const KEYUSAGE_NO_CERTSIGN: i32 = 32;
    pub const INVALID_CA: i32 = 79;
}

/// The kinds of proxy certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    /// With the extension of RFC 3820; OpenSSL knows them.
    Rfc3820,
    /// Globus's first: nothing but a name, its issuer's with `CN=proxy` or `CN=limited proxy`.
    Legacy,
}

/// The certificates of a chain, the client's own first; `None` for one that cannot be read.
type Chain<'a> = Vec<Option<X509Certificate<'a>>>;

fn at<'a, 'b>(certs: &'b Chain<'a>, depth: usize) -> Option<&'b X509Certificate<'a>> {
    certs.get(depth)?.as_ref()
}

/// Whose chain (DER, the client's own certificate first) this is, by the rules for proxies alone:
/// supposing that signatures, times and trust are found to be good elsewhere.
///
/// # Errors
/// Why it is nobody's.
pub fn end_entity(chain: &[Vec<u8>]) -> Result<Dn, String> {
    judge_chain(chain, &[])
}

/// Tells the end entity of a chain (DER, the client's own first) or why there is none.
pub(super) fn judge_chain(chain: &[Vec<u8>], complaints: &[Complaint]) -> Result<Dn, String> {
    // OpenSSL has accepted CAs that a stricter parser does not; only the certificates up to the
    // end entity have to be readable.
    let certs: Chain<'_> = chain
        .iter()
        .map(|der| X509Certificate::from_der(der).ok().map(|(_, cert)| cert))
        .collect();
    let (end, proxy) = find_end_entity(&certs)?;
    for complaint in complaints {
        if !is_forgiven(complaint, &certs, end, proxy) {
            let about = at(&certs, complaint.depth).or_else(|| at(&certs, 0));
            let name = about.map_or_else(String::new, |cert| show(cert.subject()));
            return Err(format!("certificate of {name}: {}", complaint.text));
        }
    }
    let cert = at(&certs, end).ok_or(UNREADABLE)?;
    if proxy.is_some() && (cert.is_ca() || cert.subject() == cert.issuer()) {
        return Err(format!("proxy of a CA, {}", show(cert.subject())));
    }
    if proxy == Some(Proxy::Legacy) && !is_for_clients(cert) {
        return Err(format!(
            "certificate of {}: it is not meant for clients",
            show(cert.subject())
        ));
    }
    dn(cert.subject()).ok_or_else(|| UNREADABLE.to_owned())
}

/// The place of the end entity in the chain, and the kind of the proxies before it.
fn find_end_entity(certs: &Chain<'_>) -> Result<(usize, Option<Proxy>), String> {
    let mut kind = None;
    for depth in 0..certs.len() {
        let cert = at(certs, depth).ok_or(UNREADABLE)?;
        match (proxy_kind(cert, at(certs, depth + 1))?, kind) {
            (None, _) => return Ok((depth, kind)),
            (Some(found), Some(before)) if found != before => {
                return Err("the chain mixes legacy and RFC 3820 proxies".to_owned());
            }
            (found, _) => kind = found,
        }
    }
    // An incomplete chain of proxies: the complaint about it says more than we could.
    Ok((certs.len().saturating_sub(1), kind))
}

fn proxy_kind(
    cert: &X509Certificate<'_>,
    issuer: Option<&X509Certificate<'_>>,
) -> Result<Option<Proxy>, String> {
    const PROXY_CERT_INFO: &str = "1.3.6.1.5.5.7.1.14";
    let info = cert
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == PROXY_CERT_INFO);
    if let Some(info) = info {
        return match hands_on_rights(info.value) {
            true => Ok(Some(Proxy::Rfc3820)),
            false => Err(format!(
                "proxy {}: its policy does not hand on the rights of its issuer",
                show(cert.subject())
            )),
        };
    }
    let legacy = issuer.is_some_and(|issuer| {
        !cert.is_ca()
            && !issuer.is_ca()
            && cert.issuer().as_raw() == issuer.subject().as_raw()
            && is_legacy_name(cert.subject(), issuer.subject())
    });
    Ok(legacy.then_some(Proxy::Legacy))
}

/// Whether a ProxyCertInfo (RFC 3820, 3.8) has a policy that we understand and that makes the
/// proxy as good as its issuer here: inherit all, or Globus's "limited". An independent proxy has
/// no rights of its issuer, and OpenSSL does not look.
fn hands_on_rights(info: &[u8]) -> bool {
    const INHERIT_ALL: &str = "1.3.6.1.5.5.7.21.1";
    const LIMITED: &str = "1.3.6.1.4.1.3536.1.1.1.9";
    let Ok(([], info)) = parse_der(info) else {
        return false;
    };
    let language = info
        .as_sequence()
        .ok()
        .and_then(|fields| fields.last())
        .and_then(|policy| policy.as_sequence().ok())
        .and_then(|policy| policy.first())
        .and_then(|language| language.as_oid().ok());
    language.is_some_and(|language| [INHERIT_ALL, LIMITED].contains(&&*language.to_id_string()))
}

fn is_legacy_name(name: &X509Name<'_>, issuer: &X509Name<'_>) -> bool {
    let (Some(name), Some(issuer)) = (dn(name), dn(issuer)) else {
        return false;
    };
    let mut components = name.components();
    matches!(
        components.next_back(),
        Some(("CN", "proxy" | "limited proxy"))
    ) && components.eq(issuer.components())
}

/// Whether a complaint is no reason to refuse. Anything about signatures, times, revocation or
/// trust always is.
fn is_forgiven(complaint: &Complaint, certs: &Chain<'_>, end: usize, proxy: Option<Proxy>) -> bool {
    let depth = complaint.depth;
    match complaint.code {
        // Not every CA publishes a CRL, and proxies have none. One that is there counts; one that
        // is out of date refuses the certificates of that CA, and of no other.
        code::UNABLE_TO_GET_CRL => true,
        // To OpenSSL a legacy proxy is a certificate issued by somebody who is no CA. Everything
        // below the end entity was found to be a legacy proxy by name, and its signature is
        // checked like any other.
        code::INVALID_CA | code::INVALID_PURPOSE | code::KEYUSAGE_NO_CERTSIGN => {
            proxy == Some(Proxy::Legacy) && (1..=end).contains(&depth)
        }
        // For the same reason it counts the end entity and its proxies as CAs: count again.
        code::PATH_LENGTH_EXCEEDED => {
            proxy == Some(Proxy::Legacy) && depth > end && {
                let allowed = at(certs, depth)
                    .and_then(|cert| cert.basic_constraints().ok().flatten())
                    .and_then(|constraints| constraints.value.path_len_constraint)
                    .and_then(|allowed| usize::try_from(allowed).ok());
                allowed.is_some_and(|allowed| depth - end - 1 <= allowed)
            }
        }
        _ => false,
    }
}

/// What OpenSSL checks for the end entity of an RFC 3820 proxy but not of a legacy one.
fn is_for_clients(cert: &X509Certificate<'_>) -> bool {
    match cert.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.client_auth || usage.value.any,
        Err(_) => false,
    }
}

/// A name for people to read.
fn show(name: &X509Name<'_>) -> String {
    dn(name).map_or_else(|| "(no readable name)".to_owned(), |dn| dn.to_string())
}

/// The name of a certificate; `None` when it is empty or has a value that is no text.
fn dn(name: &X509Name<'_>) -> Option<Dn> {
    let components = name
        .iter_attributes()
        .map(|attribute| {
            Some((
                attribute.attr_type().to_id_string(),
                text(attribute.attr_value())?,
            ))
        })
        .collect::<Option<Vec<_>>>()?;
    Dn::from_components(components).ok()
}

/// The text of any of the string types that certificates use.
fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::GeneralString => String::from_utf8(value.data.to_vec()).ok(),
        // In practice Latin-1, which is how OpenSSL takes it too.
        Tag::T61String => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let (pairs, []) = value.data.as_chunks::<2>() else {
                return None;
            };
            char::decode_utf16(pairs.iter().map(|pair| u16::from_be_bytes(*pair)))
                .collect::<Result<_, _>>()
                .ok()
        }
        Tag::UniversalString => {
            let (quads, []) = value.data.as_chunks::<4>() else {
                return None;
            };
            quads
                .iter()
                .map(|quad| char::from_u32(u32::from_be_bytes(*quad)))
                .collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_cert_info(policy: &[u8]) -> Vec<u8> {
        let length = u8::try_from(policy.len()).unwrap();
        [&[0x30, length + 4, 0x30, length + 2, 0x06, length], policy].concat()
    }

    #[test]
    fn only_policies_that_hand_on_rights() {
        let inherit_all = proxy_cert_info(&[0x2b, 6, 1, 5, 5, 7, 0x15, 1]);
        let independent = proxy_cert_info(&[0x2b, 6, 1, 5, 5, 7, 0x15, 2]);
        let limited = proxy_cert_info(&[0x2b, 6, 1, 4, 1, 0x9b, 0x50, 1, 1, 1, 9]);
        let with_path_length = [&[0x30, inherit_all[1] + 3, 2, 1, 0], &inherit_all[2..]].concat();
        assert!(hands_on_rights(&inherit_all));
        assert!(hands_on_rights(&limited));
        assert!(hands_on_rights(&with_path_length));
        assert!(!hands_on_rights(&independent));
        for broken in [&inherit_all[..5], &[], &[0x30, 0], &[0xff; 40]] {
            assert!(!hands_on_rights(broken));
        }
        let trailing = [&*inherit_all, &[0]].concat();
        assert!(!hands_on_rights(&trailing));
    }

    #[test]
    fn text_of_all_string_types() {
        let cases: [(Tag, &[u8], Option<&str>); 7] = [
            (Tag::Utf8String, "Zoë".as_bytes(), Some("Zoë")),
            (Tag::PrintableString, b"Zoe", Some("Zoe")),
            (Tag::T61String, b"Zo\xeb", Some("Zoë")),
            (Tag::BmpString, &[0, b'Z', 0, 0xeb], Some("Zë")),
            (Tag::BmpString, &[0, b'Z', 0], None),
            (Tag::Utf8String, b"\xff", None),
            (Tag::OctetString, b"Zoe", None),
        ];
        for (tag, bytes, expected) in cases {
            let value = Any::from_tag_and_data(tag, bytes);
            assert_eq!(text(&value).as_deref(), expected, "{tag:?}");
        }
    }

    #[test]
    fn a_chain_that_cannot_be_read_is_nobody() {
        assert!(judge_chain(&[b"junk".to_vec()], &[]).is_err());
        assert!(judge_chain(&[], &[]).is_err());
    }
}
