//! A server as it truly is.

use std::collections::BTreeMap;
use std::sync::Arc;

/// One server, present or gone. Times are true times; what the cloud tells is by its own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub id: String,
    /// Its name now.
    pub name: String,
    /// The name it was created with.
    pub first_name: String,
    pub metadata: BTreeMap<String, String>,
    /// Identifier of its flavor now.
    pub flavor: String,
    /// The flavor it was created with.
    pub first_flavor: String,
    pub image: String,
    pub key_name: Option<String>,
    pub zone: String,
    pub address: String,
    pub security_groups: Vec<String>,
    /// In base64, as it came.
    pub user_data: Arc<str>,
    pub maker: Maker,
    pub created: u64,
    /// When its VM began to run.
    pub running_since: Option<u64>,
    /// When its VM ended, or the server before it ever ran, and how.
    pub ended: Option<(u64, End)>,
    /// When it disappeared from the cloud.
    pub gone_at: Option<u64>,
    /// Every DELETE for it that reached the cloud, those for a server that was gone included.
    pub deletions: Vec<Deletion>,
    pub(super) phase: Phase,
    pub(super) told: Told,
    /// When the VM will run; `None` is never.
    pub(super) boots_at: Option<u64>,
    /// When the building will fail.
    pub(super) fails_at: Option<u64>,
    pub(super) deleting: Option<Deleting>,
    /// What is to become of the next deletion, when that is not left to chance.
    pub(super) next_deletion: Option<DeletionEnd>,
    /// Until when its power state is told as 0.
    pub(super) blinks_until: Option<u64>,
    /// When its owner, who is not us, will delete it.
    pub(super) leaves_at: Option<u64>,
    pub(super) failure: Option<Failure>,
}

/// Who made a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maker {
    /// A request of this user.
    Request { user: String },
    /// The repetition, on the way, of a request of this user.
    Echo { user: String },
    /// Somebody outside.
    Outside,
}

/// How a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It shut itself down.
    ShutOff,
    /// It was stopped from outside.
    Stopped,
    Paused,
    Suspended,
    /// It failed, or was never built.
    Failed,
    /// Its server was deleted.
    Deleted,
    /// Its server vanished.
    Vanished,
}

/// One DELETE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub at: u64,
    /// The user of the token.
    pub by: String,
    /// What Nova answered: 204 or 404.
    pub status: u16,
    /// Whether it is a repetition that the client has not made.
    pub echo: bool,
}

/// What becomes of an accepted deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionEnd {
    Gone,
    /// Gone, an hour later; the VM goes on meanwhile.
    Stuck,
    /// The server stays, in ERROR.
    Fails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deleting {
    pub until: u64,
    pub end: DeletionEnd,
}

/// What the server does, apart from being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Build,
    Active,
    Shutoff,
    Paused,
    Suspended,
    Error,
    Reboot { until: u64 },
    Resize { until: u64 },
    VerifyResize { until: u64 },
}

/// Times by the cloud's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub created: i64,
    pub updated: i64,
    pub launched: Option<i64>,
}

/// Nova's `fault` of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub message: String,
    pub at: i64,
    /// From when it can be read; it is written a moment after the status.
    pub readable_from: u64,
    /// Whether the listing has it, too. It lacks those of servers that were never placed.
    pub listed: bool,
}

impl Server {
    /// Whether its VM runs.
    pub const fn is_alive(&self) -> bool {
        self.running_since.is_some() && self.ended.is_none() && self.gone_at.is_none()
    }

    pub const fn is_gone(&self) -> bool {
        self.gone_at.is_some()
    }

    pub const fn is_being_deleted(&self) -> bool {
        self.deleting.is_some() && self.gone_at.is_none()
    }

    /// Nova's word for its status.
    pub const fn status(&self) -> &'static str {
        match self.phase {
            Phase::Build => "BUILD",
            Phase::Active => "ACTIVE",
            Phase::Shutoff => "SHUTOFF",
            Phase::Paused => "PAUSED",
            Phase::Suspended => "SUSPENDED",
            Phase::Error => "ERROR",
            Phase::Reboot { .. } => "REBOOT",
            Phase::Resize { .. } => "RESIZE",
            Phase::VerifyResize { .. } => "VERIFY_RESIZE",
        }
    }

    /// The end of its VM, unless it has ended before.
    pub(super) fn end(&mut self, at: u64, how: End) {
        self.ended.get_or_insert((at, how));
    }
}
