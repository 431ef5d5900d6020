//! The grid's CA directory (`/etc/grid-security/certificates`): `*.pem` and `HASH.N` files.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use openssl::x509::X509;
use reqwest::Certificate;
use tracing::{debug, warn};

use crate::config::is_hashed_ca;

/// A CA file is a few kB; what is larger is something else.
const MAX_FILE: u64 = 1024 * 1024;

/// Every distinct certificate in `directory`. Sites without grid CAs have no such directory, and
/// one bad file must not make the others useless: both are logged and passed over.
pub(in crate::cloud) fn load(directory: &Path) -> Vec<Certificate> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            debug!(directory = %directory.display(), %error, "no CA directory: only the system's CAs are trusted");
            return Vec::new();
        }
    };
    let mut seen = BTreeSet::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_certificate_file) {
            continue;
        }
        match read_file(&entry.path()) {
            Ok(found) => seen.extend(found),
            Err(error) => {
                warn!(file = %entry.path().display(), %error, "this CA file cannot be used; the others are");
            }
        }
    }
    seen.iter()
        .filter_map(|der| Certificate::from_der(der).ok())
        .collect()
}

/// `NAME.pem`, `NAME.crt`, or the eight hexadecimal digits and the number of an OpenSSL CA
/// directory. (`HASH.rN` is a CRL.)
fn is_certificate_file(name: &str) -> bool {
    is_hashed_ca(name) || matches!(name.rsplit_once('.'), Some((_, "pem" | "crt")))
}

fn read_file(path: &Path) -> Result<Vec<Vec<u8>>, std::io::Error> {
    let mut pem = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE)
        .read_to_end(&mut pem)?;
    let mut all = Vec::new();
    for certificate in X509::stack_from_pem(&pem)? {
        all.push(certificate.to_der()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_from_what_else_is_in_a_grid_directory() {
        for name in ["CERN-Root-2.pem", "1d879c6c.0", "ffc3d59b.12", "site.crt"] {
            assert!(is_certificate_file(name), "{name}");
        }
        for name in [
            "1d879c6c.r0",
            "CERN.signing_policy",
            "x.info",
            "pem",
            "1d879c6c.",
            "a.0",
        ] {
            assert!(!is_certificate_file(name), "{name}");
        }
    }

    #[test]
    fn a_missing_directory_gives_no_certificates() {
        assert!(load(Path::new("/nonexistent/ca")).is_empty());
    }
}
