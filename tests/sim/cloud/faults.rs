//! The kinds of faults, and how likely each is.

use std::collections::BTreeMap;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Exchange(Exchange),
    Lie(Lie),
    Fate(Fate),
    Strike(Strike),
    World(World),
}

impl Fault {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exchange(kind) => kind.name(),
            Self::Lie(kind) => kind.name(),
            Self::Fate(kind) => kind.name(),
            Self::Strike(kind) => kind.name(),
            Self::World(kind) => kind.name(),
        }
    }
}

macro_rules! kinds {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl From<$name> for Fault {
            fn from(kind: $name) -> Self {
                Self::$name(kind)
            }
        }
    };
}

kinds! {
    /// What happens to one request: at most one of these, with a chance for each request that it
    /// can happen to.
    Exchange {
        /// No connection; the client knows.
        ConnectionRefused = "connection refused",
        /// The connection breaks before the request is read.
        LostBefore = "request lost",
        /// The connection breaks after the request was carried out.
        LostAfter = "answer lost",
        /// Never answered and never carried out.
        TimedOutBefore = "timeout without effect",
        /// Never answered, but carried out.
        TimedOutAfter = "timeout with effect",
        /// Never answered, and carried out some time later (creations and deletions).
        TimedOutLate = "timeout with late effect",
        /// Carried out a second time by something on the way (creations and deletions).
        Twice = "request repeated on the way",
        /// Answered after many seconds.
        Slow = "slow answer",
        /// 401: the token is revoked.
        TokenRevoked = "401 token revoked",
        /// 403 for a quota, although there is room (creations).
        QuotaExceeded = "403 quota",
        /// 403 for want of rights.
        Forbidden = "403 forbidden",
        /// 404 for something that is there.
        NotFound = "404",
        /// 409 (creations and deletions).
        Conflict = "409",
        /// 413 with `Retry-After` in seconds.
        OverLimit = "413",
        /// 429 with `Retry-After` in seconds.
        TooManyRequests = "429 with seconds",
        /// 429 with `Retry-After` as a date of the cloud's clock.
        TooManyRequestsDate = "429 with a date",
        /// 500 without effect.
        InternalError = "500 without effect",
        /// 500 although the request was carried out.
        InternalErrorAfter = "500 with effect",
        /// 502 with a JSON body, without effect.
        BadGateway = "502",
        /// 502 with a page of HTML, without effect.
        BadGatewayHtml = "502 html",
        /// 503 without effect.
        Unavailable = "503",
        /// 503 with `Retry-After`, without effect.
        UnavailableRetry = "503 with seconds",
        /// 504 although the request was carried out.
        GatewayTimeout = "504 with effect",
        /// The body ends early; the request was carried out.
        TruncatedBody = "truncated body",
        /// The body is not what it should be; the request was carried out.
        MalformedBody = "malformed body",
        /// 200 with a page of HTML, without effect.
        Html = "200 html",
    }
}

impl Exchange {
    /// Whether an affected request may be, or may come to be, carried out.
    pub const fn has_effect(self) -> bool {
        match self {
            Self::LostAfter
            | Self::TimedOutAfter
            | Self::TimedOutLate
            | Self::Twice
            | Self::Slow
            | Self::InternalErrorAfter
            | Self::GatewayTimeout
            | Self::TruncatedBody
            | Self::MalformedBody => true,
            Self::ConnectionRefused
            | Self::LostBefore
            | Self::TimedOutBefore
            | Self::TokenRevoked
            | Self::QuotaExceeded
            | Self::Forbidden
            | Self::NotFound
            | Self::Conflict
            | Self::OverLimit
            | Self::TooManyRequests
            | Self::TooManyRequestsDate
            | Self::InternalError
            | Self::BadGateway
            | Self::BadGatewayHtml
            | Self::Unavailable
            | Self::UnavailableRetry
            | Self::Html => false,
        }
    }
}

kinds! {
    /// What is wrong with a page of the listing: at most one of these, with a chance for each page
    /// that is answered.
    Lie {
        /// The page is of the list as it was some seconds ago.
        Stale = "stale listing",
        /// There is nothing on it, and no next page.
        Empty = "empty listing",
        /// It ends early, without a next page.
        Truncated = "truncated listing",
        /// The link leads to the page after the next.
        PageSkipped = "page skipped",
        /// One short and without a link, as Nova does when a server on it is just getting its
        /// host. What follows is there for who asks with the last one as marker.
        PageShort = "short page while building",
        /// A server is on it twice.
        Twice = "server twice on a page",
        /// It begins with the server that ended the page before.
        TwiceAcross = "server on two pages",
        StatusNull = "status null",
        StatusMissing = "status missing",
        NameNull = "name null",
        MetadataMissing = "metadata missing",
        MetadataNull = "metadata null",
        CreatedMissing = "created missing",
        FlavorMissing = "flavor missing",
        PowerStateNull = "power_state null",
        LaunchedNull = "launched_at null",
        UpdatedMissing = "updated missing",
        UpdatedNull = "updated null",
        TaskStateMissing = "task_state missing",
        /// Nobody can tell which server it is, so the page is of no use.
        IdMissing = "id missing",
    }
}

impl Lie {
    /// Whether a client can tell from the page, or from the pages together, that something is
    /// wrong, or what is missing is of no consequence.
    pub const fn can_be_noticed(self) -> bool {
        match self {
            Self::PageShort
            | Self::Twice
            | Self::TwiceAcross
            | Self::StatusNull
            | Self::StatusMissing
            | Self::NameNull
            | Self::CreatedMissing
            | Self::FlavorMissing
            | Self::PowerStateNull
            | Self::LaunchedNull
            | Self::UpdatedMissing
            | Self::UpdatedNull
            | Self::TaskStateMissing
            | Self::IdMissing => true,
            Self::Stale
            | Self::Empty
            | Self::Truncated
            | Self::PageSkipped
            | Self::MetadataMissing
            | Self::MetadataNull => false,
        }
    }
}

kinds! {
    /// What becomes of a creation or of a deletion that was accepted, with a chance for each.
    Fate {
        /// It stays in BUILD.
        BuildStuck = "stuck in BUILD",
        /// It ends in ERROR, for want of a host.
        BuildFails = "BUILD to ERROR",
        /// It is being deleted for an hour, and its VM goes on meanwhile.
        DeletionStuck = "stuck in deleting",
        /// It ends in ERROR instead of going away.
        DeletionFails = "deletion fails",
    }
}

kinds! {
    /// What happens to a server, with a chance for each server and hour.
    Strike {
        Fails = "ACTIVE to ERROR",
        Vanishes = "vanished",
        Renamed = "renamed",
        Resized = "resized",
        Rebooted = "rebooted from outside",
        Paused = "paused",
        Suspended = "suspended",
        Stopped = "stopped from outside",
        PowerBlinks = "power_state 0 while ACTIVE",
    }
}

kinds! {
    /// What happens to the project, with a chance for each hour.
    World {
        /// A server of others, with a name of theirs.
        Foreign = "foreign server",
        /// A server of another manager, with a name in our form.
        ForeignLikeOurs = "foreign server with a name like ours",
        /// A second server with the name of one of ours.
        Namesake = "second server of one name",
        /// The cloud's clock goes an hour forwards or backwards, or right again.
        ClockStep = "clock step",
    }
}

/// How likely what is.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    chances: BTreeMap<Fault, f64>,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every kind with the same chance.
    pub fn all(chance: f64) -> Self {
        Self::none()
            .with_all(Exchange::ALL, chance)
            .with_all(Lie::ALL, chance)
            .with_all(Fate::ALL, chance)
            .with_all(Strike::ALL, chance)
            .with_all(World::ALL, chance)
    }

    /// The same with this chance of `kind`.
    pub fn with(mut self, kind: impl Into<Fault>, chance: f64) -> Self {
        self.chances.insert(kind.into(), chance);
        self
    }

    /// The same with this chance of each of `kinds`.
    pub fn with_all<K: Copy + Into<Fault>>(self, kinds: &[K], chance: f64) -> Self {
        kinds
            .iter()
            .fold(self, |faults, kind| faults.with(*kind, chance))
    }

    /// The same without `kind`.
    pub fn without(mut self, kind: impl Into<Fault>) -> Self {
        self.chances.remove(&kind.into());
        self
    }

    pub fn chance(&self, kind: impl Into<Fault>) -> f64 {
        self.chances.get(&kind.into()).copied().unwrap_or(0.0)
    }
}
