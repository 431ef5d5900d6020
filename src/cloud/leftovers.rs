//! What is asked of a cloud about things that machines left behind, and its answers.

use std::collections::{BTreeMap, BTreeSet};

use super::CloudError;
use crate::model::{CloudId, Leftover, LeftoverKind, Owner};

/// What to look for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Whose marks.
    pub owner: Owner,
    /// The texts of all OpenSSH public keys that the configuration asks for; `None` when they are
    /// not known, and then nothing can be said of key pairs.
    pub public_keys: Option<Vec<String>>,
    /// Machines of ours that the cloud lists no more: what it made for them by itself bears no
    /// marks, only their identifiers.
    pub gone: BTreeSet<CloudId>,
    /// The identifiers of volumes that were attached to them, as far as that is on file: it made them
    /// to boot from, or somebody has attached them by hand.
    pub gone_volumes: BTreeSet<String>,
}

/// For each kind all things that bear the marks, or why they are not listed.
pub type Leftovers = BTreeMap<LeftoverKind, Result<Vec<Leftover>, NotListed>>;

/// Why things of one kind are not listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotListed {
    /// The cloud does not have them, or does not let us look at them: there is nothing to do.
    #[error("{0}")]
    Unavailable(String),
    /// This time it did not work.
    #[error(transparent)]
    Failed(#[from] CloudError),
}

/// What became of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The cloud took the request.
    Removed,
    /// There was no such thing (any more).
    AlreadyGone,
    /// It is not as it was when it was listed, and was left alone.
    Changed(String),
    /// It is as it was, and used by what the listing of machines does not show; it was left alone.
    InUse(String),
}
