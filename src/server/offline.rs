//! Who a client is, from certificates that another server took in its handshake.
//!
//! That server was told to ask for a certificate and to leave the judgement to us, so that the
//! same directory of CAs and CRLs decides by the same rules, and is read afresh for each upload.
//! Revocation is looked up here: OpenSSL would refuse every CA that publishes no CRL.

use std::path::Path;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::SslFiletype;
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Lookup, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{CrlStatus, X509, X509Crl, X509PurposeId, X509Ref, X509StoreContext};

use super::identity::{Credentials, UNREADABLE, judge_chain};

/// A CA has its CRLs as HASH.r0, HASH.r1 and so on: so many are looked at.
pub(super) const MAX_CRLS: u32 = 16;

/// Judges the certificates of a client, its own and those that it sent with it, in PEM.
pub fn verify(ca_path: &Path, own: &str, others: &[String]) -> Credentials {
    let judged = verified_chain(ca_path, own, others)
        .map_err(|error| format!("the certificate cannot be verified: {error}"))
        .and_then(|chain| {
            let chain = chain?;
            not_revoked(ca_path, &chain)?;
            let ders: Result<Vec<_>, _> = chain.iter().map(|cert| cert.to_der()).collect();
            judge_chain(&ders.map_err(|_| UNREADABLE.to_owned())?, &[])
        });
    match judged {
        Ok(dn) => Credentials::Verified(dn),
        Err(reason) => Credentials::Refused(reason),
    }
}

/// The chain up to a trusted CA, the client's own certificate first, or what is wrong with it.
fn verified_chain(
    ca_path: &Path,
    own: &str,
    others: &[String],
) -> Result<Result<Vec<X509>, String>, ErrorStack> {
    let own = X509::from_pem(own.as_bytes())?;
    let mut sent = Stack::new()?;
    for other in others {
        sent.push(X509::from_pem(other.as_bytes())?)?;
    }
    let mut store = X509StoreBuilder::new()?;
    store
        .add_lookup(X509Lookup::hash_dir())?
        .add_dir(&ca_path.to_string_lossy(), SslFiletype::PEM)?;
    store.set_flags(X509VerifyFlags::ALLOW_PROXY_CERTS)?;
    store.set_purpose(X509PurposeId::SSL_CLIENT)?;
    let store = store.build();
    let all = |chain: &StackRef<X509>| chain.iter().map(ToOwned::to_owned).collect();
    let mut context = X509StoreContext::new()?;
    context.init(&store, &own, &sent, |context| {
        let good = context.verify_cert()?;
        Ok(match (good, context.chain()) {
            (true, Some(chain)) => Ok(all(chain)),
            (true, None) => Err(UNREADABLE.to_owned()),
            (false, _) => Err(context.error().error_string().to_owned()),
        })
    })
}

/// Looks each certificate up in the CRLs of its issuer. A CRL that is there counts; one that is out
/// of date refuses the certificates of that CA, and of no other.
fn not_revoked(ca_path: &Path, chain: &[X509]) -> Result<(), String> {
    for (cert, issuer) in chain.iter().zip(chain.iter().skip(1)) {
        for number in 0..MAX_CRLS {
            let name = format!("{:08x}.r{number}", issuer.subject_name_hash());
            let Ok(pem) = std::fs::read(ca_path.join(name)) else {
                break;
            };
            check_crl(&pem, cert, issuer)
                .map_err(|why| format!("certificate of {}: {why}", common_name(cert)))?;
        }
    }
    Ok(())
}

fn check_crl(pem: &[u8], cert: &X509Ref, issuer: &X509Ref) -> Result<(), &'static str> {
    const NO_CRL: &str = "the CRL of its CA cannot be read";
    let crl = X509Crl::from_pem(pem).map_err(|_| NO_CRL)?;
    let same_name = crl
        .issuer_name()
        .try_cmp(issuer.subject_name())
        .is_ok_and(std::cmp::Ordering::is_eq);
    if !same_name {
        // Another CA whose name has the same hash.
        return Ok(());
    }
    let key = issuer.public_key().map_err(|_| NO_CRL)?;
    if !crl.verify(&key).unwrap_or(false) {
        return Err("the CRL of its CA has a bad signature");
    }
    let now = openssl::asn1::Asn1Time::days_from_now(0).map_err(|_| NO_CRL)?;
    if crl.next_update().is_some_and(|next| *next < *now) {
        return Err("CRL has expired");
    }
    match crl.get_by_cert(&cert.to_owned()) {
        CrlStatus::Revoked(_) => Err("certificate revoked"),
        CrlStatus::NotRevoked | CrlStatus::RemoveFromCrl(_) => Ok(()),
    }
}

fn common_name(cert: &X509Ref) -> String {
    let mut names = cert.subject_name().entries_by_nid(Nid::COMMONNAME);
    let name = names.next().and_then(|entry| entry.data().to_string().ok());
    name.map_or_else(
        || "(no name)".to_owned(),
        |name| name.escape_debug().to_string(),
    )
}
