//! The directory of CAs, as far as it can be seen without reading the certificates in it.

use std::fs;
use std::path::Path;

use crate::config::is_hashed_ca;

/// Why no client's certificate can be verified with the CAs of a directory, and what to do about it;
/// `None` when it holds at least one that is found.
pub fn nobody_is_trusted(ca_path: &Path) -> Option<String> {
    let (mut others, entries) = (0_usize, fs::read_dir(ca_path));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_hashed_ca(name) {
            return None;
        }
        if let Some((_, "pem" | "crt" | "cer")) = name.rsplit_once('.') {
            others += 1;
        }
    }
    let place = ca_path.display();
    Some(match others {
        0 => format!("no CA certificates in {place}"),
        _ => format!(
            "no CA in {place} can be found, because none of its {others} certificate(s) has a name of hash and number, as OpenSSL looks for them: openssl rehash {place} makes these names"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Disk;

    #[test]
    fn certificates_that_openssl_cannot_find_are_told_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path();
        let told = || nobody_is_trusted(place);
        assert!(told().unwrap().starts_with("no CA certificates in "));
        let disk = Disk::default();
        let write = |name: &str| disk.write(place, &place.join(name), b"", 0o644).unwrap();
        write("README");
        write("0a1b2c3d.r0");
        assert!(told().unwrap().starts_with("no CA certificates in "));
        write("our-ca.pem");
        let unhashed = told().unwrap();
        assert!(unhashed.contains(&format!("openssl rehash {}", place.display())));
        assert!(
            unhashed.contains("none of its 1 certificate(s)"),
            "{unhashed}"
        );
        write("0a1b2c3d.0");
        assert_eq!(told(), None);
        let nowhere = place.join("nowhere");
        assert!(
            nobody_is_trusted(&nowhere)
                .unwrap()
                .starts_with("no CA certificates in ")
        );
    }
}
