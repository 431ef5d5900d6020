//! OpenSSH public keys, and the names of the key pairs that are imported of them: made from the
//! owner's marks and the key's content, so that no list of ours can be out of step with the cloud's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{CloudError, CloudErrorKind};
use crate::model::leftover::{MANAGER_MARK, SPACE_MARK};

/// A public key without its comment, and the name of its key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey {
    /// The line of an OpenSSH public key file, with the owner's marks for a comment.
    pub line: String,
    /// The name of the key pair.
    pub name: String,
    /// `ssh-rsa`, `ssh-ed25519` and so on.
    pub kind: String,
    /// The key in the form of RFC 4253, section 6.6.
    pub blob: Vec<u8>,
}

/// What the names of all key pairs of an owner begin with.
fn prefix(space: &str, manager: &str) -> String {
    format!(
        "vcycle-{}-",
        hex(format!("{space}\n{manager}").as_bytes(), 8)
    )
}

/// The first `bytes` of the SHA-256 of `data`, in hexadecimal digits.
fn hex(data: &[u8], bytes: usize) -> String {
    let digest = openssl::sha::sha256(data);
    let digits = digest.iter().take(bytes).map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Whether a key pair of this name is one that was imported for this owner.
pub(super) fn is_name_of(name: &str, space: &str, manager: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.strip_prefix(&prefix(space, manager))
        .is_some_and(|rest| rest.len() == 64 && rest.bytes().all(digit))
}

/// The name of this owner's key pair with this OpenSSH public key.
///
/// # Errors
/// Why it is no public key.
pub(super) fn name_of(text: &str, space: &str, manager: &str) -> Result<String, String> {
    parse(text, space, manager).map(|key| key.name)
}

/// The key pair of this OpenSSH public key for the owner whose marks are in `metadata`.
///
/// # Errors
/// When the text is no public key.
pub(super) fn of_owner(
    text: &str,
    metadata: &BTreeMap<String, String>,
) -> Result<PublicKey, CloudError> {
    let mark = |key: &str| metadata.get(key).map_or("", String::as_str);
    parse(text, mark(SPACE_MARK), mark(MANAGER_MARK))
        .map_err(|why| CloudError::new(CloudErrorKind::Rejected, "import the root_public_key", why))
}

/// Reads the first key of an OpenSSH public key file.
///
/// # Errors
/// Why it is no public key.
pub(super) fn parse(text: &str, space: &str, manager: &str) -> Result<PublicKey, String> {
    const WHY: &str = "this is no OpenSSH public key: expected \"TYPE BASE64 COMMENT\"";
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .ok_or("the file has no key in it")?;
    let mut words = line.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err(WHY.to_owned());
    };
    let decoded = STANDARD.decode(blob).map_err(|_| WHY)?;
    // The blob begins with its type again, as a 32-bit length and the text.
    let inner = decoded
        .get(4..)
        .and_then(|rest| rest.get(..kind.len()))
        .filter(|_| {
            decoded.get(..4)
                == u32::try_from(kind.len())
                    .ok()
                    .map(u32::to_be_bytes)
                    .as_ref()
                    .map(<[u8; 4]>::as_slice)
        });
    if inner != Some(kind.as_bytes()) {
        return Err(WHY.to_owned());
    }
    let digits = hex(format!("{kind} {blob}").as_bytes(), 32);
    Ok(PublicKey {
        // The comment is for people.
        line: format!("{kind} {blob} vcycle {SPACE_MARK}={space} {MANAGER_MARK}={manager}"),
        name: format!("{}{digits}", prefix(space, manager)),
        kind: kind.to_owned(),
        blob: decoded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2";

    #[test]
    fn the_name_depends_on_the_key_and_not_on_its_comment() {
        let bare = parse(KEY, "s", "f").unwrap();
        let commented = parse(&format!("# mine\n\n  {KEY}   me@here\n"), "s", "f").unwrap();
        assert_eq!(bare, commented);
        assert_eq!(bare.name.len(), 7 + 17 + 64);
        assert!(bare.line.starts_with(KEY));
    }

    #[test]
    fn each_owner_has_names_of_its_own() {
        let name = name_of(KEY, "s.example.org", "f.example.org").unwrap();
        assert!(is_name_of(&name, "s.example.org", "f.example.org"));
        for (space, manager) in [
            ("s.example.org", "other"),
            ("other", "f.example.org"),
            ("f.example.org", "s.example.org"),
            ("", "s.example.org\nf.example.org"),
        ] {
            assert!(!is_name_of(&name, space, manager), "{space} {manager}");
        }
        for other in [
            "vcycle",
            "vcycle-",
            name.trim_end_matches(|c: char| c != '-'),
            &format!("{name}0"),
            &name.to_uppercase(),
        ] {
            assert!(
                !is_name_of(other, "s.example.org", "f.example.org"),
                "{other}"
            );
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for text in [
            "",
            "# nothing",
            "ssh-rsa",
            "ssh-rsa %%%",
            "ssh-rsa AAAA",
            &KEY.replace("ssh-ed25519", "ssh-rsa"),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA",
        ] {
            assert!(parse(text, "s", "f").is_err(), "{text}");
        }
    }
}
