//! TLS sessions that clients resume, with what their certificates proved when they began.
//!
//! A resumed handshake costs no signature, but it comes without certificates: nothing is verified,
//! and OpenSSL asks nobody. So what the full handshake proved is kept here, and counts for as long
//! as a new one would prove the same. Invariants:
//!
//! 1. What is resumed has the credentials that were verified for this very certificate, or none.
//! 2. They end with the first certificate of the verified chain that runs out, proxies and CAs
//!    included, and with the CRLs of its CAs.
//! 3. A session can only be resumed with the [`Sessions`] in which it began, and there are new ones when a CA
//!    or a CRL has changed: then everybody makes a full handshake. A new host certificate changes
//!    nothing, for what it says about us was verified by the client.
//! 4. The sessions themselves are with the clients, in tickets, or few; what is kept is limited.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::ssl::{SslContext, SslRef};
use openssl::x509::{X509Crl, X509Ref};

use super::identity::{Complaints, Credentials};
use super::offline::MAX_CRLS;
use crate::clock::Clock;
use crate::model::{Dn, Timestamp};

/// The most clients whose credentials are kept. VMs are thousands, each with one certificate.
const MAX_KNOWN: usize = 20_000;

/// SHA-256 of a client's own certificate.
type Fingerprint = Vec<u8>;

/// The sessions that began under one state of CAs and CRLs.
pub struct Sessions {
    /// Has the keys of the tickets.
    context: SslContext,
    ca_path: PathBuf,
    clock: Clock,
    known: Mutex<HashMap<Fingerprint, Known>>,
    /// Until when the CRLs of a CA are good, by the hash of its name; `None` when it has none.
    crls: Mutex<HashMap<u32, Option<Timestamp>>>,
}

/// What a certificate proved.
#[derive(Clone, Debug)]
struct Known {
    dn: Dn,
    /// From here on it proves nothing.
    end: Timestamp,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Sessions with ticket keys of their own, which `context` has made.
    pub fn new(context: SslContext, ca_path: PathBuf, clock: Clock) -> Self {
        Self {
            context,
            ca_path,
            clock,
            known: Mutex::default(),
            crls: Mutex::default(),
        }
    }

    /// The context whose tickets these are.
    pub const fn context(&self) -> &SslContext {
        &self.context
    }

    /// Whether nobody more can be remembered, so that new ones are needed.
    pub fn are_full(&self) -> bool {
        lock(&self.known).len() >= MAX_KNOWN
    }

    #[cfg(test)]
    pub fn fill(&self) {
        for number in 0..MAX_KNOWN {
            let known = Known {
                dn: Dn::parse("/CN=x").unwrap(),
                end: Timestamp::from_unix(0),
            };
            lock(&self.known).insert(number.to_be_bytes().to_vec(), known);
        }
    }

    /// Who the client of a finished handshake is; `complaints` are those about its certificates.
    pub fn credentials(&self, complaints: &Complaints, ssl: &SslRef) -> Credentials {
        if ssl.session_reused() {
            return match ssl.peer_certificate() {
                Some(own) => self.recall(&own),
                None => Credentials::None,
            };
        }
        let credentials = complaints.judge(ssl);
        self.remember(ssl, &credentials);
        credentials
    }

    fn recall(&self, own: &X509Ref) -> Credentials {
        let Ok(fingerprint) = fingerprint(own) else {
            return Credentials::Refused("the certificate cannot be read".to_owned());
        };
        let known = lock(&self.known).get(&fingerprint).cloned();
        match known {
            Some(Known { dn, end }) if self.clock.now() < end => Credentials::Verified(dn),
            Some(_) => Credentials::Refused(
                "a certificate has expired, or the CRL of its CA, since this TLS session began"
                    .to_owned(),
            ),
            None => Credentials::Refused(
                "the certificate was refused when this TLS session began; a new one tells why"
                    .to_owned(),
            ),
        }
    }

    fn remember(&self, ssl: &SslRef, credentials: &Credentials) {
        let Some(own) = ssl.peer_certificate() else {
            return;
        };
        let Ok(fingerprint) = fingerprint(&own) else {
            return;
        };
        let known = match credentials {
            Credentials::Verified(dn) => self.end(ssl).map(|end| Known {
                dn: dn.clone(),
                end,
            }),
            Credentials::None | Credentials::Refused(_) => None,
        };
        let mut all = lock(&self.known);
        match known {
            Some(known) if all.len() < MAX_KNOWN || all.contains_key(&fingerprint) => {
                all.insert(fingerprint, known);
            }
            // Also when it was accepted before: the last judgement counts.
            Some(_) | None => drop(all.remove(&fingerprint)),
        }
    }

    /// Until when the chain of a full handshake is good; `None` when that cannot be told.
    fn end(&self, ssl: &SslRef) -> Option<Timestamp> {
        let chain: Vec<&X509Ref> = ssl.verified_chain()?.iter().collect();
        let mut end = Timestamp::from_unix(u64::MAX);
        for cert in &chain {
            end = end.min(timestamp(cert.not_after()).ok()?);
        }
        for issuer in chain.iter().skip(1) {
            if let Some(crls) = self.crls_end(issuer) {
                end = end.min(crls);
            }
        }
        Some(end)
    }

    /// Until when there is a CRL of `issuer` that is good; `None` when it publishes none.
    fn crls_end(&self, issuer: &X509Ref) -> Option<Timestamp> {
        let hash = issuer.subject_name_hash();
        if let Some(end) = lock(&self.crls).get(&hash) {
            return *end;
        }
        let ends = (0..MAX_CRLS).map_while(|number| {
            std::fs::read(self.ca_path.join(format!("{hash:08x}.r{number}"))).ok()
        });
        let end = ends.filter_map(|pem| crl_end(&pem, issuer)).max();
        lock(&self.crls).insert(hash, end);
        end
    }
}

fn fingerprint(cert: &X509Ref) -> Result<Fingerprint, ErrorStack> {
    Ok(cert.digest(MessageDigest::sha256())?.to_vec())
}

/// When this CRL runs out, if it is one of `issuer` that has an end.
fn crl_end(pem: &[u8], issuer: &X509Ref) -> Option<Timestamp> {
    let crl = X509Crl::from_pem(pem).ok()?;
    let same = crl.issuer_name().try_cmp(issuer.subject_name()).ok()?;
    let next = crl.next_update().filter(|_| same.is_eq())?;
    timestamp(next).ok()
}

/// A time before 1970 is 1970.
pub(super) fn timestamp(time: &Asn1TimeRef) -> Result<Timestamp, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    Ok(Timestamp::from_unix(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates() {
        for (unix, expected) in [(1_700_000_000, 1_700_000_000), (0, 0), (-5, 0)] {
            let time = Asn1Time::from_unix(unix).unwrap();
            let found = timestamp(&time).unwrap();
            assert_eq!(found, Timestamp::from_unix(expected), "{unix}");
        }
        // The last second that a certificate can tell.
        let never = Asn1Time::from_str("99991231235959Z").unwrap();
        assert_eq!(timestamp(&never).unwrap().unix(), 253_402_300_799);
    }
}
