//! What happens to machines, spaces and the configuration, one line of JSON for each event, for
//! programs of the site and for `vcycled events`.
//!
//! An event is told after what it tells of was done and written down. Nothing depends on it: one that
//! is lost with the process, or for want of room on a disk, is lost, and after a crash the end of a
//! machine may be told twice. What must not be lost is in the state directory.

mod log;
mod recent;

pub use log::{EventLog, Place, Writing, files, read_lines};
pub use recent::{KEPT, Recent};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{CloudId, MachineName, MachinetypeName, Seconds, SpaceName, Timestamp};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// In which space; `None` for what concerns all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceName>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The daemon runs.
    DaemonStarted {
        /// Its version.
        version: String,
    },
    /// The daemon ends.
    DaemonStopped {},
    /// A configuration that has changed, or is good again, is in use.
    ConfigReloaded {},
    /// The configuration has errors; the last good one stays in use.
    ConfigRejected {
        /// What is wrong.
        problems: Vec<String>,
    },
    /// The cloud has agreed to make a machine.
    Created {
        /// Which.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// What the cloud calls it.
        id: CloudId,
    },
    /// A machine could not be made: one for each machinetype and cycle.
    CreateFailed {
        /// Which.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// What came of it.
        error: String,
    },
    /// A machine of ours was found on the cloud and taken up.
    Found {
        /// Which.
        machine: MachineName,
        /// What the cloud calls it.
        id: CloudId,
    },
    /// A machine runs.
    Running {
        /// Which.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// Since when.
        since: Timestamp,
    },
    /// A machine is destroyed because its heartbeat is missing or too old.
    HeartbeatMissed {
        /// Which.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// What is known of the heartbeat.
        reason: String,
    },
    /// The cloud was asked to delete a machine.
    Destroyed {
        /// Which.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// Why.
        reason: String,
    },
    /// A machine has ended, by itself or not.
    Ended {
        /// Which.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// When it began to run, if it was seen running.
        started: Option<Timestamp>,
        /// When it ended.
        stopped: Timestamp,
        /// For how long it ran.
        ran: Option<Seconds>,
        /// Whether it says that there is no work.
        abort: bool,
        /// The code of its shutdown message.
        code: Option<u16>,
        /// How it ended, for people.
        how: String,
    },
    /// The accounting record of a machine was written.
    Accounted {
        /// Whose.
        machine: MachineName,
        /// Its machinetype.
        machinetype: MachinetypeName,
        /// The file.
        record: String,
    },
    /// No machines of a kind are made for a while, because one has aborted.
    BackoffBegan {
        /// Of which kind.
        machinetype: MachinetypeName,
        /// The one that has aborted.
        machine: MachineName,
        /// Until when; `None` when the abort was found after that, or its machinetype has left the
        /// configuration.
        until: Option<Timestamp>,
    },
    /// That is over.
    BackoffEnded {
        /// Of which kind.
        machinetype: MachinetypeName,
    },
    /// A space has to be down, by the configuration or by `vcycled shutdown`; told again when the
    /// daemon has started.
    ShutdownBegan {
        /// By when.
        by: Timestamp,
        /// Whether `vcycled shutdown` said so, and not the configuration.
        ordered: bool,
    },
    /// No machines are left in a space that has to be down.
    ShutdownComplete {},
    /// A space need not be down any more.
    ShutdownCancelled {},
    /// Cycles end early.
    CycleFailed {
        /// What was tried and what came of it.
        error: String,
    },
    /// A cycle is complete again.
    CycleRecovered {
        /// How many had failed.
        failed: u64,
    },
}

impl Event {
    /// The machine that it is about, if it is about one.
    pub const fn machine(&self) -> Option<&MachineName> {
        match self {
            Self::Created { machine, .. }
            | Self::CreateFailed { machine, .. }
            | Self::Found { machine, .. }
            | Self::Running { machine, .. }
            | Self::HeartbeatMissed { machine, .. }
            | Self::Destroyed { machine, .. }
            | Self::Ended { machine, .. }
            | Self::Accounted { machine, .. }
            | Self::BackoffBegan { machine, .. } => Some(machine),
            Self::DaemonStarted { .. }
            | Self::DaemonStopped {}
            | Self::ConfigReloaded {}
            | Self::ConfigRejected { .. }
            | Self::BackoffEnded { .. }
            | Self::ShutdownBegan { .. }
            | Self::ShutdownComplete {}
            | Self::ShutdownCancelled {}
            | Self::CycleFailed { .. }
            | Self::CycleRecovered { .. } => None,
        }
    }
}

/// For people, on one line.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DaemonStarted { version } => write!(f, "vcycled {version} started"),
            Self::DaemonStopped {} => write!(f, "vcycled stopped"),
            Self::ConfigReloaded {} => write!(f, "configuration reloaded"),
            Self::ConfigRejected { problems } => {
                write!(f, "configuration rejected: {}", problems.join("; "))
            }
            Self::Created { machine, id, .. } => write!(f, "{machine} created as {id}"),
            Self::CreateFailed { machine, error, .. } => {
                write!(f, "{machine} cannot be created: {error}")
            }
            Self::Found { machine, id } => write!(f, "{machine} found on the cloud as {id}"),
            Self::Running { machine, since, .. } => {
                write!(f, "{machine} runs since {}", since.to_rfc3339())
            }
            Self::HeartbeatMissed {
                machine, reason, ..
            } => write!(f, "{machine} missed its heartbeat: {reason}"),
            Self::Destroyed {
                machine, reason, ..
            } => write!(f, "{machine} destroyed: {reason}"),
            Self::Ended {
                machine,
                ran,
                abort,
                how,
                ..
            } => {
                match ran {
                    Some(ran) => write!(f, "{machine} ended after {ran} s: {how}")?,
                    None => write!(f, "{machine} ended, never seen running: {how}")?,
                }
                if *abort {
                    write!(f, " (an abort)")?;
                }
                Ok(())
            }
            Self::Accounted {
                machine, record, ..
            } => write!(f, "{machine} accounted for in {record}"),
            Self::BackoffBegan {
                machinetype,
                machine,
                until: Some(until),
            } => write!(
                f,
                "{machinetype} backs off until {}, after {machine}",
                until.to_rfc3339()
            ),
            Self::BackoffBegan {
                machinetype,
                machine,
                until: None,
            } => write!(f, "{machinetype} has an abort: {machine}"),
            Self::BackoffEnded { machinetype } => write!(f, "the backoff of {machinetype} is over"),
            Self::ShutdownBegan { by, ordered } => write!(
                f,
                "to be down by {}, by {}",
                by.to_rfc3339(),
                if *ordered {
                    "vcycled shutdown"
                } else {
                    "shutdown_time in the configuration"
                }
            ),
            Self::ShutdownComplete {} => write!(f, "shut down: no machines are left"),
            Self::ShutdownCancelled {} => write!(f, "need not be shut down any more"),
            Self::CycleFailed { error } => write!(f, "cycle failed: {error}"),
            Self::CycleRecovered { failed } => {
                write!(f, "cycle complete again, after {failed} that failed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_that_comes_back() {
        let machine: MachineName = "vcycle-a-aaaaaaaaaa".parse().unwrap();
        let machinetype = machine.machinetype().unwrap();
        let events = [
            Event::DaemonStopped {},
            Event::ConfigRejected {
                problems: vec!["two\nlines".to_owned()],
            },
            Event::BackoffBegan {
                machinetype,
                machine,
                until: None,
            },
        ];
        for event in events {
            let entry = Entry {
                time: Timestamp::from_unix(1000),
                space: Some("example.org".parse().unwrap()),
                event,
            };
            let line = serde_json::to_string(&entry).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
        }
    }
}
