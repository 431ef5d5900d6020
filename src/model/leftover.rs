//! Things beside machines that we make on a cloud, and the marks that say so.
//!
//! One scheme for all of them: two marks, `space` and `manager`, with the same values as in the
//! metadata of a VM. Both must be there and both must be ours, exactly; anything else belongs to
//! somebody else. How a thing bears them depends on what its service offers and sets in the very
//! request that makes the thing, so that no crash leaves one without:
//!
//! | thing | where its marks are |
//! | --- | --- |
//! | VM | metadata: the keys `space` and `manager` |
//! | volume | the same metadata; or none, if Nova made it with a server of ours: it can mark them with nothing. Such a volume is ours while it is attached to a server that was ours and is gone, or if the server's directory has noted its identifier, and if it was made from an image, unlike one for data that somebody may have attached, and nobody has given it a name, a description or metadata |
//! | image | visibility private, and the tags `space=SPACE` and `manager=FACTORY` (a snapshot of a VM does not inherit those of its image, which it does with properties); one that we have uploaded has a third, `image=DIGEST`, which tells its source and content |
//! | port, floating IP | the words `space=SPACE` and `manager=FACTORY` of its description (tags need a second request) |
//! | key pair | its name, `vcycle-OWNER-KEY`: OWNER is a digest of both marks, KEY of the public key. Names take neither dots nor other data, and key pairs belong to the user, whom other spaces and factories may share |

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CloudId, FactoryName, SpaceName, Timestamp};

/// The key of the mark that names the space.
pub const SPACE_MARK: &str = "space";
/// The key of the mark that names the factory.
pub const MANAGER_MARK: &str = "manager";

/// The key of the mark of images that we have uploaded: its value tells from what.
pub const IMAGE_MARK: &str = "image";

/// Who makes things: one space of one factory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The space.
    pub space: SpaceName,
    /// The factory.
    pub manager: FactoryName,
}

impl Owner {
    /// The marks as words, `KEY=VALUE`: tags, and words of a description.
    pub fn words(&self) -> [String; 2] {
        [
            format!("{SPACE_MARK}={}", self.space),
            format!("{MANAGER_MARK}={}", self.manager),
        ]
    }

    /// The description of a thing that has neither metadata nor tags.
    pub fn description(&self) -> String {
        let [space, manager] = self.words();
        format!("vcycle {space} {manager}")
    }

    /// Whether these are our marks, the one and the other.
    pub fn is_marked(&self, space: Option<&str>, manager: Option<&str>) -> bool {
        space == Some(self.space.as_str()) && manager == Some(self.manager.as_str())
    }

    /// Whether both marks are among these words, and no other space or manager is.
    pub fn is_named_in<'a>(&self, words: impl Iterator<Item = &'a str> + Clone) -> bool {
        let value = |key: &str| {
            let mut values = words.clone().filter_map(|word| {
                let (found, value) = word.split_once('=')?;
                (found == key).then_some(value)
            });
            let first = values.next();
            first.filter(|first| values.all(|other| other == *first))
        };
        self.is_marked(value(SPACE_MARK), value(MANAGER_MARK))
    }
}

/// The kinds of things that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// A public key under a name.
    Keypair,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A port of a network.
    Port,
    /// A floating IP.
    FloatingIp,
}

impl LeftoverKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Keypair,
        Self::Image,
        Self::Volume,
        Self::Port,
        Self::FloatingIp,
    ];
}

impl fmt::Display for LeftoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keypair => "key pair",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Port => "port",
            Self::FloatingIp => "floating IP",
        })
    }
}

/// A thing that bears our marks: in use or left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// The cloud's identifier of it; a key pair's is its name.
    pub id: String,
    /// Its name, or for a floating IP its address, for people.
    pub name: String,
    /// Who uses it, as far as its own description tells. `None` says that by itself it is used by
    /// nothing; a machine or the configuration may still name it.
    pub user: Option<User>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)?;
        if !self.name.is_empty() && self.name != self.id {
            write!(f, " ({})", self.name)?;
        }
        Ok(())
    }
}

/// What uses a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// The configuration asks for it.
    Configuration,
    /// This VM; it may be gone.
    Machine(CloudId),
    /// Something else, in words.
    Other(String),
}

/// A thing that has been found in use by nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When it was first, without a complete look since that found it in use.
    pub first: Timestamp,
    /// How often its removal has been tried.
    pub tries: u32,
    /// When the last time was.
    pub tried: Option<Timestamp>,
    /// Whether that found a machine that uses it and that no listing shows.
    pub hidden_use: bool,
}

impl Sighting {
    /// The first, at `now`.
    pub const fn new(now: Timestamp) -> Self {
        Self {
            first: now,
            tries: 0,
            tried: None,
            hidden_use: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_marks_must_be_ours_and_the_only_ones() {
        let owner = Owner {
            space: SpaceName::new("s.example.org").unwrap(),
            manager: FactoryName::new("f.example.org").unwrap(),
        };
        let named = |text: &str| owner.is_named_in(text.split_whitespace());
        assert!(named(&owner.description()));
        assert!(named(
            "manager=f.example.org space=s.example.org space=s.example.org or so"
        ));
        for text in [
            "",
            "space=s.example.org",
            "manager=f.example.org",
            "space=s.example.org manager=other",
            "space=other manager=f.example.org",
            "space=s.example.org manager=f.example.org space=other",
            "space=s.example.org, manager=f.example.org",
            "space = s.example.org manager = f.example.org",
        ] {
            assert!(!named(text), "{text}");
        }
    }
}
