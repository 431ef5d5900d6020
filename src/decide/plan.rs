//! What a decision says: what to write down, what to destroy, what to create, and why not more.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::blocked::Blocked;
use super::rules::Check;
use crate::model::{
    CloudId, CloudMachine, Ended, MachineName, MachinetypeName, Place, Placement, Processors,
    Seconds, Timestamp,
};

/// Everything that one pass over one space will do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// What to write down, in this order, before anything is destroyed.
    pub bookkeeping: Vec<Bookkeeping>,
    /// What to destroy.
    pub deletes: Vec<Delete>,
    /// What to create, in this order.
    pub creates: Vec<Create>,
    /// Why this and not more.
    pub report: Report,
}

/// Something that was found out about a machine and belongs in its directory.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Bookkeeping {
    /// A VM with our marks has no directory: make one.
    Adopt {
        /// What it is called.
        machine: MachineName,
        /// What kind it is.
        machinetype: MachinetypeName,
        /// What the cloud lists.
        listed: Box<CloudMachine>,
    },
    /// The answer to its creation was lost; the scan has found it.
    Identify {
        /// Which machine.
        machine: MachineName,
        /// What the cloud calls it.
        id: CloudId,
    },
    /// It began to run.
    Start {
        /// Which machine.
        machine: MachineName,
        /// When.
        at: Timestamp,
        /// The zone that it was placed in, if told.
        zone: Option<String>,
    },
    /// It vanished from the listing: keep the time when it was last known to run.
    Miss {
        /// Which machine.
        machine: MachineName,
        /// When it was last known to run.
        last_running: Timestamp,
    },
    /// It is listed again, and runs: what was kept when it had vanished is out of date.
    Return {
        /// Which machine.
        machine: MachineName,
    },
    /// The moment that it is told to be down by moves earlier.
    Shutdowntime {
        /// Which machine.
        machine: MachineName,
        /// The new moment.
        at: Timestamp,
    },
    /// It was given up as one that never appeared, and it runs: all that comes is before it.
    Reopen {
        /// Which machine.
        machine: MachineName,
    },
    /// It has ended, and what it said is still to be read: its time is fixed.
    Stop {
        /// Which machine.
        machine: MachineName,
        /// When it ended.
        at: Timestamp,
        /// By how much the clock was set back while it ran.
        #[serde(skip_serializing_if = "Seconds::is_zero")]
        set_back: Seconds,
    },
    /// The cloud has made volumes for it, and nothing but this says that they are ours.
    Volumes {
        /// Which machine.
        machine: MachineName,
        /// The cloud's identifiers of them.
        volumes: Vec<String>,
    },
    /// It has shown that the cloud has no room.
    Exhausted {
        /// Which machine.
        machine: MachineName,
        /// The name of its flavor.
        flavor: String,
        /// Where there is none.
        places: Vec<Place>,
        /// Since when that is known.
        at: Timestamp,
    },
    /// It has ended.
    Finish(Finish),
    /// Copy what it wrote, beside the passes (log_joboutputs).
    KeepJoboutputs {
        /// Which machine.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
    },
    /// Its directory has been kept for long enough.
    Forget {
        /// Which machine.
        machine: MachineName,
    },
}

impl Bookkeeping {
    /// The machine that it is about.
    pub const fn machine(&self) -> &MachineName {
        match self {
            Self::Adopt { machine, .. }
            | Self::Identify { machine, .. }
            | Self::Start { machine, .. }
            | Self::Miss { machine, .. }
            | Self::Return { machine }
            | Self::Reopen { machine }
            | Self::Shutdowntime { machine, .. }
            | Self::Stop { machine, .. }
            | Self::KeepJoboutputs { machine, .. }
            | Self::Volumes { machine, .. }
            | Self::Exhausted { machine, .. }
            | Self::Forget { machine } => machine,
            Self::Finish(finish) => &finish.machine,
        }
    }

    /// The end that it tells of, if it does.
    pub const fn finish(&self) -> Option<&Finish> {
        if let Self::Finish(finish) = self {
            Some(finish)
        } else {
            None
        }
    }
}

/// The end of a machine: everything that accounting and the backoff need to know of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finish {
    /// Which machine.
    pub machine: MachineName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// When it began to run; `None` when nobody saw it run.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub stopped: Timestamp,
    /// By how much the clock was set back while it ran; `started` is that much earlier than it was
    /// then written down.
    #[serde(skip_serializing_if = "Seconds::is_zero")]
    pub set_back: Seconds,
    /// The code in its shutdown message.
    pub code: Option<u16>,
    /// Whether it ended in a way that says "no work here".
    pub abort: bool,
    /// Whether it ran for at least fizzle_seconds, so that it is accounted for.
    pub account: bool,
    /// Whether new machines of its machinetype wait for it: it never ran, and that was not only
    /// for want of room in one of several places.
    pub pauses: bool,
    /// How it ended, for people.
    pub how: String,
}

impl Finish {
    /// Whether it never ran, which is the cloud's trouble: nobody saw it run, and it left no word
    /// of its own.
    pub const fn never_ran(&self) -> bool {
        self.started.is_none() && !self.abort
    }

    /// Of the end only its time, which must not move while the rest has to wait.
    pub fn stop(&self) -> Bookkeeping {
        Bookkeeping::Stop {
            machine: self.machine.clone(),
            at: self.stopped,
            set_back: self.set_back,
        }
    }
}

/// A machine to destroy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delete {
    /// Which machine.
    pub machine: MachineName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// Which VM: of two with one name, only one is destroyed.
    pub id: CloudId,
    /// Why.
    pub reason: Reason,
    /// What is left as its shutdown message if it has none of its own.
    pub message: Option<&'static str>,
}

/// Why a machine is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Reason {
    /// It has been starting for too long.
    FailedToStart {
        /// Since its creation.
        waited: Seconds,
    },
    /// It has stopped by itself, or the cloud gave up on it.
    Stopped,
    /// It should have been gone since the last delete.
    StillDeleting {
        /// Since that delete.
        waited: Seconds,
    },
    /// It has run for longer than max_wallclock_seconds.
    Wallclock {
        /// How long it has run.
        ran: Seconds,
    },
    /// fizzle_seconds have passed without a heartbeat file.
    HeartbeatMissing {
        /// How long it has run.
        ran: Seconds,
    },
    /// The heartbeat file is too old.
    HeartbeatOld {
        /// Its age.
        age: Seconds,
    },
    /// The remote server that it writes its heartbeat to has not answered for too long.
    RemoteSilent {
        /// For how long.
        silence: Seconds,
    },
    /// The moment that it was told to be down by has passed.
    Shutdowntime {
        /// That moment.
        at: Timestamp,
    },
    /// Another VM of the same name is the one to keep.
    Duplicate,
}

impl Reason {
    /// What is left as the shutdown message of a machine that wrote none.
    pub const fn message(self) -> Option<&'static str> {
        match self {
            Self::FailedToStart { .. } => Some("700 Failed to start"),
            Self::Wallclock { .. } => Some("700 Exceeded max_wallclock_seconds"),
            Self::HeartbeatMissing { .. } => Some("700 Heartbeat file not created"),
            Self::HeartbeatOld { .. } | Self::RemoteSilent { .. } => {
                Some("700 Heartbeat file not updated")
            }
            Self::Shutdowntime { .. } => Some("700 Passed shutdowntime"),
            Self::Stopped | Self::StillDeleting { .. } | Self::Duplicate => None,
        }
    }

    /// What later decisions need to know of it.
    pub const fn ended(self) -> Ended {
        match self {
            Self::HeartbeatMissing { .. }
            | Self::HeartbeatOld { .. }
            | Self::RemoteSilent { .. } => Ended::Heartbeat,
            Self::FailedToStart { .. }
            | Self::Stopped
            | Self::StillDeleting { .. }
            | Self::Wallclock { .. }
            | Self::Shutdowntime { .. }
            | Self::Duplicate => Ended::Other,
        }
    }
}

impl Reason {
    /// All that [`Reason::word`] gives.
    pub const WORDS: [&'static str; 9] = [
        "failed_to_start",
        "stopped",
        "still_deleting",
        "max_wallclock_seconds",
        "heartbeat_missing",
        "heartbeat_old",
        "remote_silent",
        "shutdowntime",
        "duplicate",
    ];

    /// As a label of metrics.
    pub const fn word(self) -> &'static str {
        let at = match self {
            Self::FailedToStart { .. } => 0,
            Self::Stopped => 1,
            Self::StillDeleting { .. } => 2,
            Self::Wallclock { .. } => 3,
            Self::HeartbeatMissing { .. } => 4,
            Self::HeartbeatOld { .. } => 5,
            Self::RemoteSilent { .. } => 6,
            Self::Shutdowntime { .. } => 7,
            Self::Duplicate => 8,
        };
        Self::WORDS[at]
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailedToStart { waited } => write!(f, "still starting after {waited} s"),
            Self::Stopped => write!(f, "it has stopped"),
            Self::StillDeleting { waited } => {
                write!(f, "still there {waited} s after it was deleted")
            }
            Self::Wallclock { ran } => {
                write!(f, "has run for {ran} s, max_wallclock_seconds is less")
            }
            Self::HeartbeatMissing { ran } => {
                write!(f, "no heartbeat file after {ran} s")
            }
            Self::HeartbeatOld { age } => write!(f, "heartbeat file is {age} s old"),
            Self::RemoteSilent { silence } => write!(
                f,
                "the server that it writes its heartbeat file to has not answered for {silence} s"
            ),
            Self::Shutdowntime { at } => write!(f, "shutdowntime {} has passed", at.to_rfc3339()),
            Self::Duplicate => write!(f, "another machine has the same name"),
        }
    }
}

/// A machine to create.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Create {
    /// Its name.
    pub machine: MachineName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// The places to try, in this order; the room for the first flavor has been reserved and none
    /// of the others needs more.
    pub placements: Vec<Placement>,
}

/// What became of the creations of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tried {
    /// Those that are there, or may be.
    pub made: Vec<Create>,
    /// The machinetypes of which one could not be made.
    pub refused: BTreeMap<MachinetypeName, Refused>,
}

/// A creation that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many in a row, this one included; 0 when it is not held against the machinetype.
    pub failures: u32,
    /// What was tried and what came of it.
    pub error: String,
}

/// Why this and not more, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Counts and limits of the whole space, before the creations of this plan.
    pub space: SpaceReport,
    /// Each configured machinetype.
    pub machinetypes: BTreeMap<MachinetypeName, MachinetypeReport>,
}

/// Counts and limits of the space.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpaceReport {
    /// Machines of any state, those that are not ours included.
    pub machines: u32,
    /// Their processors.
    pub processors: Processors,
    /// How many of the machines are not ours.
    pub foreign_machines: u32,
    /// The lower of max_machines and the cloud's quota.
    pub machines_limit: Option<u32>,
    /// The lower of processors_limit and the cloud's quota.
    pub processors_limit: Option<u32>,
    /// Where the cloud had no room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exhausted: Vec<NoRoom>,
    /// When everything has to be down, if it has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_time: Option<Timestamp>,
    /// Whether that is because of `vcycled shutdown`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shutdown_ordered: bool,
}

/// A flavor in a zone that is not asked for because the cloud had no room for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRoom {
    /// The name of the flavor.
    pub flavor: String,
    /// The zone, if the configuration has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// When it is asked for again.
    pub until: Timestamp,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for {}", self.flavor)?;
        if let Some(zone) = &self.zone {
            write!(f, " in {zone}")?;
        }
        write!(f, ", next try at {}", self.until.to_rfc3339())
    }
}

/// One machinetype in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachinetypeReport {
    /// Machines in any state, those created by this plan included.
    pub machines: u32,
    /// How many of them are starting, those created by this plan included.
    pub starting: u32,
    /// How many are running.
    pub running: u32,
    /// Their processors.
    pub processors: Processors,
    /// The sum of their power as it counts for shares.
    pub weight: f64,
    /// target_share.
    pub target_share: f64,
    /// How many of them this plan creates.
    pub creates: u32,
    /// Why no more are created.
    pub stopped_by: Blocked,
    /// Every rule with its numbers, in the order in which they are applied.
    #[serde(default)]
    pub rules: Vec<Check>,
}
