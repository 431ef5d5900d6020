//! The reasons why no (more) machines of a machinetype are created, and all that is said and
//! thought of each: whoever shows them asks here, so that log, status, health and metrics agree.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Processors, Timestamp};

/// Why no (more) machines of a machinetype are created. The first that holds is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Blocked {
    /// target_share is 0.
    NoTargetShare,
    /// The space's shutdown_time has passed, or is too near for a machine to live.
    ShutdownTime {
        /// When it is.
        at: Timestamp,
        /// Whether it has passed.
        passed: bool,
        /// Whether it comes from `vcycled shutdown` and not from the configuration.
        ordered: bool,
    },
    /// The scan lists none of our machines: something is wrong with it.
    SuspectScan {
        /// How many scans in a row.
        scans: u32,
        /// How many machines should have been there.
        missing: u32,
    },
    /// Neither the configuration nor the cloud tells a limit.
    NoLimitKnown,
    /// None of the configured flavors can be used.
    NoFlavor {
        /// Why not, for each of them.
        why: String,
    },
    /// The cloud has had no room for the flavor, in any zone.
    Exhausted {
        /// The name of the flavor; others may be without room too.
        flavor: String,
        /// When it is asked for again.
        until: Timestamp,
    },
    /// The cloud does not have its image yet.
    Image {
        /// How far it is, or what is wrong with it.
        why: String,
    },
    /// Something that the machinetype asks for is not there.
    Unsupported {
        /// What.
        what: String,
    },
    /// A machine of this kind aborted recently.
    Backoff {
        /// When the backoff ends.
        until: Timestamp,
    },
    /// After a backoff one machine at a time is tried until one survives fizzle_seconds.
    Trial {
        /// When that rule ends.
        until: Timestamp,
        /// How many young machines there are.
        young: u32,
    },
    /// Creations or boots have failed.
    Failing {
        /// How many in a row.
        failures: u32,
        /// When the next is tried.
        until: Timestamp,
    },
    /// The rules allow one more, and the one that was tried in this cycle could not be made.
    Refused {
        /// How many in a row, this one included; 0 when it is not held against the machinetype.
        failures: u32,
        /// What was tried and what came of it.
        error: String,
    },
    /// max_machines of the machinetype.
    MachinetypeMachines {
        /// How many there are.
        have: u32,
        /// The limit.
        limit: u32,
    },
    /// processors_limit of the machinetype.
    MachinetypeProcessors {
        /// How many there are.
        have: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The limit.
        limit: u32,
    },
    /// max_starting_processors of the machinetype.
    StartingProcessors {
        /// How many are in starting machines.
        have: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The limit.
        limit: u32,
    },
    /// max_machines of the space, or the cloud's quota.
    SpaceMachines {
        /// How many there are.
        have: u32,
        /// The limit.
        limit: u32,
    },
    /// processors_limit of the space, or the cloud's quota.
    SpaceProcessors {
        /// How many there are.
        have: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The limit.
        limit: u32,
    },
    /// 10 % of the space's limit, and never more than 1000, are created in this cycle; more follow
    /// in the next.
    CycleCap {
        /// The cap, in the unit of the limit.
        cap: u32,
        /// That unit.
        unit: Unit,
    },
}

/// What a limit is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Machines.
    Machines,
    /// Processors.
    Processors,
}

/// How bad it is that no more machines are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Concern {
    /// It is as it should be.
    None,
    /// It ends by itself.
    Waits,
    /// A person has to do something about it.
    Wrong,
}

impl Blocked {
    /// As a label of metrics: the name of the rule.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoTargetShare => "no_target_share",
            Self::ShutdownTime { .. } => "shutdown_time",
            Self::SuspectScan { .. } => "suspect_scan",
            Self::NoLimitKnown => "no_limit_known",
            Self::NoFlavor { .. } => "no_flavor",
            Self::Exhausted { .. } => "exhausted",
            Self::Image { .. } => "image",
            Self::Unsupported { .. } => "unsupported",
            Self::Backoff { .. } => "backoff",
            Self::Trial { .. } => "trial",
            Self::Failing { .. } => "failing",
            Self::Refused { .. } => "refused",
            Self::MachinetypeMachines { .. } => "machinetype_machines",
            Self::MachinetypeProcessors { .. } => "machinetype_processors",
            Self::StartingProcessors { .. } => "starting_processors",
            Self::SpaceMachines { .. } => "space_machines",
            Self::SpaceProcessors { .. } => "space_processors",
            Self::CycleCap { .. } => "cycle_cap",
        }
    }

    /// How bad it is.
    pub const fn concern(&self) -> Concern {
        match self {
            Self::SuspectScan { .. }
            | Self::NoLimitKnown
            | Self::NoFlavor { .. }
            | Self::Unsupported { .. } => Concern::Wrong,
            Self::ShutdownTime { .. }
            | Self::Exhausted { .. }
            | Self::Image { .. }
            | Self::Backoff { .. }
            | Self::Trial { .. }
            | Self::Failing { .. }
            | Self::Refused { .. } => Concern::Waits,
            Self::NoTargetShare
            | Self::MachinetypeMachines { .. }
            | Self::MachinetypeProcessors { .. }
            | Self::StartingProcessors { .. }
            | Self::SpaceMachines { .. }
            | Self::SpaceProcessors { .. }
            | Self::CycleCap { .. } => Concern::None,
        }
    }

    /// Whether only the room of the whole space, or the pace at which it is filled, keeps the
    /// machinetype from having more: then it has a claim to what becomes free.
    pub const fn is_of_the_space(&self) -> bool {
        match self {
            Self::SpaceMachines { .. } | Self::SpaceProcessors { .. } | Self::CycleCap { .. } => {
                true
            }
            Self::NoTargetShare
            | Self::ShutdownTime { .. }
            | Self::SuspectScan { .. }
            | Self::NoLimitKnown
            | Self::NoFlavor { .. }
            | Self::Exhausted { .. }
            | Self::Image { .. }
            | Self::Unsupported { .. }
            | Self::Backoff { .. }
            | Self::Trial { .. }
            | Self::Failing { .. }
            | Self::Refused { .. }
            | Self::MachinetypeMachines { .. }
            | Self::MachinetypeProcessors { .. }
            | Self::StartingProcessors { .. } => false,
        }
    }

    /// When it ends by itself, if that is known.
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Exhausted { until, .. }
            | Self::Backoff { until }
            | Self::Trial { until, .. }
            | Self::Failing { until, .. } => Some(*until),
            Self::NoTargetShare
            | Self::ShutdownTime { .. }
            | Self::SuspectScan { .. }
            | Self::NoLimitKnown
            | Self::NoFlavor { .. }
            | Self::Image { .. }
            | Self::Unsupported { .. }
            | Self::Refused { .. }
            | Self::MachinetypeMachines { .. }
            | Self::MachinetypeProcessors { .. }
            | Self::StartingProcessors { .. }
            | Self::SpaceMachines { .. }
            | Self::SpaceProcessors { .. }
            | Self::CycleCap { .. } => None,
        }
    }

    /// What has to happen for it to end, for people.
    pub const fn ends(&self) -> &'static str {
        match self {
            Self::NoTargetShare => "when target_share is more than 0 in the configuration",
            Self::ShutdownTime { ordered: true, .. } => {
                "after vcycled shutdown --cancel for this space"
            }
            Self::ShutdownTime { ordered: false, .. } => {
                "when shutdown_time is removed from the configuration or set later"
            }
            Self::SuspectScan { .. } => {
                "when the cloud lists the machines again: look at project, region and credentials; after ten such scans they are taken to be gone"
            }
            Self::NoLimitKnown => "when max_machines or processors_limit is set in the space",
            Self::NoFlavor { .. } => "when flavor_names names a flavor that the cloud has",
            Self::Exhausted { .. } => "when the cloud is asked for this flavor again",
            Self::Image { .. } => "when the cloud has the image",
            Self::Unsupported { .. } => "when the configuration is changed",
            Self::Backoff { .. } => {
                "when the backoff ends; then one machine at a time is tried, until one has run for fizzle_seconds"
            }
            Self::Trial { .. } => {
                "when the machine on trial has run for fizzle_seconds, or at this time"
            }
            Self::Failing { .. } => "when the pause after the failures is over",
            Self::Refused { .. } => "when one of the next cycles tries again and succeeds",
            Self::MachinetypeMachines { .. } | Self::MachinetypeProcessors { .. } => {
                "when a machine of this machinetype ends, or the limit is raised"
            }
            Self::StartingProcessors { .. } => "when machines that are starting run",
            Self::SpaceMachines { .. } | Self::SpaceProcessors { .. } => {
                "when a machine of the space ends, or the limit (or the cloud's quota) is raised"
            }
            Self::CycleCap { .. } => "with the next cycle",
        }
    }

    /// Whether this ends by itself within a few cycles: then waiting for the preferred flavor is
    /// better than filling the space with a lesser one.
    pub(super) const fn passes_soon(&self) -> bool {
        match self {
            Self::CycleCap { .. } => true,
            Self::StartingProcessors { have, .. } => have.get() > 0,
            Self::NoTargetShare
            | Self::ShutdownTime { .. }
            | Self::SuspectScan { .. }
            | Self::NoLimitKnown
            | Self::NoFlavor { .. }
            | Self::Exhausted { .. }
            | Self::Image { .. }
            | Self::Unsupported { .. }
            | Self::Backoff { .. }
            | Self::Trial { .. }
            | Self::Failing { .. }
            | Self::Refused { .. }
            | Self::MachinetypeMachines { .. }
            | Self::MachinetypeProcessors { .. }
            | Self::SpaceMachines { .. }
            | Self::SpaceProcessors { .. } => false,
        }
    }
}

/// What is said of a shutdown_time that is in no configuration file.
const ORDERED: &str = " (set by vcycled shutdown)";

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTargetShare => write!(f, "target_share is 0"),
            Self::ShutdownTime {
                at,
                passed,
                ordered,
            } => write!(
                f,
                "shutdown_time {} of the space {}{}",
                at.to_rfc3339(),
                if *passed {
                    "has passed"
                } else {
                    "is too near for a new machine"
                },
                if *ordered { ORDERED } else { "" },
            ),
            Self::SuspectScan { scans, missing } => write!(
                f,
                "none of {missing} machines was listed, {scans} scan(s) in a row: wrong project or region?"
            ),
            Self::NoLimitKnown => write!(
                f,
                "no limit is known: set max_machines or processors_limit in the space"
            ),
            Self::NoFlavor { why } => write!(f, "no usable flavor in flavor_names: {why}"),
            Self::Exhausted { flavor, until } => write!(
                f,
                "the cloud has no room for flavor {flavor}, next try at {}",
                until.to_rfc3339()
            ),
            Self::Image { why } => write!(f, "root_image: {why}"),
            Self::Unsupported { what } => f.write_str(what),
            Self::Backoff { until } => {
                write!(f, "backing off after an abort until {}", until.to_rfc3339())
            }
            Self::Trial { until, young } => write!(
                f,
                "after a backoff one at a time, {young} on trial, until {}",
                until.to_rfc3339()
            ),
            Self::Failing { failures, until } => write!(
                f,
                "{failures} creation(s) in a row failed, next try at {}",
                until.to_rfc3339()
            ),
            Self::Refused { error, .. } => {
                write!(f, "the latest creation was refused: {error}")
            }
            Self::MachinetypeMachines { have, limit } => {
                write!(f, "max_machines of the machinetype: {have} of {limit}")
            }
            Self::MachinetypeProcessors { have, need, limit } => write!(
                f,
                "processors_limit of the machinetype: {have} + {need} of {limit}"
            ),
            Self::StartingProcessors { have, need, limit } => {
                write!(f, "max_starting_processors: {have} + {need} of {limit}")
            }
            Self::SpaceMachines { have, limit } => {
                write!(f, "machines in the space: {have} of {limit}")
            }
            Self::SpaceProcessors { have, need, limit } => {
                write!(f, "processors in the space: {have} + {need} of {limit}")
            }
            Self::CycleCap { cap, unit } => write!(
                f,
                "{cap} {} is the most for one cycle",
                match unit {
                    Unit::Machines => "machine(s)",
                    Unit::Processors => "processor(s)",
                }
            ),
        }
    }
}
