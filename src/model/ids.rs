//! Names. Each one is checked where it is made, so that a name can be used as part of a path, a
//! URL or a header without a second thought.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a valid name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {why}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    why: &'static str,
}

/// The longest name accepted, in bytes: what a file system and a DNS name can hold, with room for
/// the prefix and the random part of a machine name.
const MAX_NAME: usize = 200;

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks `text` and takes it as a name.
            ///
            /// # Errors
            /// When the text breaks the rule of this kind of name.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                match $check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(why) => Err(InvalidName { what: $what, text, why }),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<std::path::Path> for $type {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

name_type! {
    /// A space: one tenancy, project or account on one cloud. Lower-case letters, digits, `.` and
    /// `-`, beginning with a letter or digit (vcycle.conf(5): it can be used as a DNS name).
    SpaceName, "space name", check_space
}
name_type! {
    /// A machinetype: one kind of VM in one space. Lower-case letters, digits and `-`.
    MachinetypeName, "machinetype name", check_machinetype
}
name_type! {
    /// A machine: `vcycle-MACHINETYPE-xxxxxxxxxx`, ten random characters of `a-z0-9`.
    MachineName, "machine name", check_machine
}
name_type! {
    /// The factory: the host name of the machine that vcycled runs on. Letters, digits, `.`, `_`
    /// and `-`.
    FactoryName, "factory name", check_factory
}

/// What the cloud calls a machine: a server's UUID or an instance id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CloudId(String);

impl CloudId {
    /// Takes the cloud's word for it: an identifier of another's making is not ours to check.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CloudId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MachineName {
    /// What every name of ours begins with.
    pub const PREFIX: &'static str = "vcycle-";
    /// How many random characters end it.
    pub const RANDOM_CHARS: usize = 10;
    /// The alphabet of the random part.
    pub const ALPHABET: &'static [u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

    /// The name of a new machine. `draw` gives the random characters of its end, each an index
    /// that is taken modulo the size of the alphabet.
    pub fn generate(machinetype: &MachinetypeName, mut draw: impl FnMut() -> usize) -> Self {
        let mut name = format!("{}{machinetype}-", Self::PREFIX);
        for _ in 0..Self::RANDOM_CHARS {
            let index = draw() % Self::ALPHABET.len();
            name.push(char::from(
                Self::ALPHABET.get(index).copied().unwrap_or(b'a'),
            ));
        }
        Self(name)
    }

    /// The machinetype that the name speaks of. The machine's directory has the last word; this
    /// is for machines that have none.
    pub fn machinetype(&self) -> Option<MachinetypeName> {
        let end = self.0.len().checked_sub(Self::RANDOM_CHARS + 1)?;
        let middle = self.0.get(Self::PREFIX.len()..end)?;
        MachinetypeName::new(middle).ok()
    }
}

fn check_chars(text: &str, allowed: impl Fn(u8) -> bool) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > MAX_NAME {
        return Err("is longer than 200 characters");
    }
    if !text.bytes().all(allowed) {
        return Err("has a character that is not allowed");
    }
    Ok(())
}

fn is_lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn check_space(text: &str) -> Result<(), &'static str> {
    check_chars(text, |b| is_lower_or_digit(b) || b == b'.' || b == b'-')
        .map_err(|_| "expected lower-case letters, digits, \".\" and \"-\"")?;
    // It names a directory: "." and ".." must not pass, and a leading "-" confuses every script.
    if text.bytes().next().is_some_and(is_lower_or_digit) {
        Ok(())
    } else {
        Err("must begin with a letter or a digit")
    }
}

fn check_machinetype(text: &str) -> Result<(), &'static str> {
    check_chars(text, |b| is_lower_or_digit(b) || b == b'-')
        .map_err(|_| "expected lower-case letters, digits and \"-\"")
}

fn check_machine(text: &str) -> Result<(), &'static str> {
    const WHY: &str = "expected vcycle-MACHINETYPE- and ten of a-z0-9";
    let middle = text.strip_prefix(MachineName::PREFIX).ok_or(WHY)?;
    let split = middle
        .len()
        .checked_sub(MachineName::RANDOM_CHARS)
        .ok_or(WHY)?;
    let (front, random) = middle.split_at_checked(split).ok_or(WHY)?;
    let machinetype = front.strip_suffix('-').ok_or(WHY)?;
    check_machinetype(machinetype).map_err(|_| WHY)?;
    check_chars(random, is_lower_or_digit).map_err(|_| WHY)?;
    check_chars(text, |_| true)
}

fn check_factory(text: &str) -> Result<(), &'static str> {
    check_chars(text, |b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        .map_err(|_| "expected a host name")?;
    if text.starts_with('.') {
        return Err("must not begin with a dot");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_carry_their_machinetype() {
        let machinetype = MachinetypeName::new("atlas-prod").unwrap();
        let mut next = 0;
        let name = MachineName::generate(&machinetype, || {
            next += 7;
            next
        });
        assert_eq!(name.as_str(), "vcycle-atlas-prod-hov29gnu18");
        assert_eq!(MachineName::new(name.as_str()), Ok(name.clone()));
        assert_eq!(name.machinetype(), Some(machinetype));
    }

    #[test]
    fn names_that_are_no_machine_of_ours() {
        for text in [
            "",
            "vcycle-",
            "vcycle-a",
            "vcycle-abcdefghij",
            "vcycle--abcdefghij",
            "vcycle-a-ABCDEFGHIJ",
            "vcycle-a-abcdefghi",
            "vcycle-../../etc-abcdefghij",
            "vcycle-é-abcdefghij",
            "vcycle-a-abcdéfghij",
            "web-a-abcdefghij",
        ] {
            assert!(MachineName::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn space_names_cannot_leave_their_directory() {
        for text in ["..", ".", "-x", "a/b", "A", ""] {
            assert!(SpaceName::new(text).is_err(), "{text}");
        }
        assert!(SpaceName::new("vcycle01.example.org").is_ok());
    }
}
