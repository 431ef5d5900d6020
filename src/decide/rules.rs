//! The rules of creation, each with the numbers that it is applied to.
//!
//! A rule forbids by its numbers and by nothing else: [`Rule::forbids`] is what
//! `create` goes by, and a report of the same rules is the explanation. So what is explained
//! cannot differ from what is done.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::blocked::{Blocked, Unit};
use crate::model::{Processors, Seconds, Timestamp};

/// One rule and the numbers of a machinetype at one moment. A number that is `None` is not known or
/// not configured, and forbids nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Rule {
    /// target_share is more than 0.
    TargetShare {
        /// target_share.
        share: f64,
    },
    /// The space is not to be shut down before a new machine has lived.
    ShutdownTime {
        /// When it has to be down.
        at: Option<Timestamp>,
        /// The least that a new machine has to have left: the longer of grace_seconds and
        /// fizzle_seconds.
        least: Seconds,
        /// Whether it comes from `vcycled shutdown`.
        ordered: bool,
    },
    /// The scan lists machines of ours, if there should be any.
    Listing {
        /// How many should have been there, when none of three or more was.
        missing: Option<u32>,
        /// How many such scans there were in a row.
        scans: u32,
    },
    /// There is something to boot from.
    RootImage {
        /// root_image, or how far it is.
        image: String,
        /// Why it cannot be booted from yet.
        waits: Option<String>,
        /// Why it never can be.
        unsupported: Option<String>,
    },
    /// backoff_seconds have passed since the last abort.
    Backoff {
        /// When a machine last aborted.
        last_abort: Option<Timestamp>,
        /// backoff_seconds.
        seconds: Seconds,
        /// When the backoff ends, or ended.
        until: Option<Timestamp>,
    },
    /// The pause after creations or boots that failed has passed.
    Failing {
        /// How many in a row failed.
        failures: u32,
        /// When the next is tried.
        until: Option<Timestamp>,
    },
    /// The cloud has a flavor that the configuration allows.
    Flavors {
        /// flavor_names.
        names: Vec<String>,
        /// Why none can be used.
        why: Option<String>,
    },
    /// In the fizzle_seconds after a backoff no other young machine is there.
    Trial {
        /// When this rule ends, or ended.
        until: Option<Timestamp>,
        /// Machines that are starting, or running for less than fizzle_seconds.
        young: u32,
    },
    /// The cloud has room for the flavor.
    FlavorRoom {
        /// The flavor.
        flavor: String,
        /// When it is asked for again.
        until: Option<Timestamp>,
    },
    /// max_machines of the machinetype.
    MachinetypeMachines {
        /// How many there are.
        have: u32,
        /// The limit.
        limit: Option<u32>,
    },
    /// processors_limit of the machinetype.
    MachinetypeProcessors {
        /// How many there are.
        have: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The limit.
        limit: Option<u32>,
    },
    /// max_starting_processors of the machinetype.
    StartingProcessors {
        /// How many are in starting machines.
        have: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The limit.
        limit: Option<u32>,
    },
    /// There is a limit at all.
    LimitKnown {
        /// In machines.
        machines: Option<u32>,
        /// In processors.
        processors: Option<u32>,
    },
    /// max_machines of the space, or the cloud's quota.
    SpaceMachines {
        /// How many there are.
        have: u32,
        /// The limit.
        limit: Option<u32>,
    },
    /// processors_limit of the space, or the cloud's quota.
    SpaceProcessors {
        /// How many there are.
        have: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The limit.
        limit: Option<u32>,
    },
    /// The most machines of one cycle.
    CycleMachines {
        /// How many this cycle has created.
        created: u32,
        /// The most.
        cap: Option<u32>,
    },
    /// The most processors of one cycle.
    CycleProcessors {
        /// How many are in machines that this cycle has created.
        created: Processors,
        /// How many one more machine needs.
        need: Processors,
        /// The most.
        cap: Option<u32>,
    },
}

/// A rule and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The rule with its numbers.
    #[serde(flatten)]
    pub rule: Rule,
    /// The flavor that it was applied to, where each of them has its own numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_flavor: Option<String>,
    /// Whether it forbids one more machine.
    pub forbids: bool,
    /// Whether it is the reason that is given: of the rules that forbid the first, but for flavors,
    /// of which each has to be forbidden.
    pub decides: bool,
}

impl Rule {
    /// Why one more machine is forbidden, if it is.
    pub(super) fn forbids(&self, now: Timestamp) -> Option<Blocked> {
        match self {
            Self::TargetShare { share } => (*share <= 0.0).then_some(Blocked::NoTargetShare),
            Self::ShutdownTime { at, least, ordered } => {
                let at = at.filter(|at| now + *least > *at)?;
                Some(Blocked::ShutdownTime {
                    at,
                    passed: now >= at,
                    ordered: *ordered,
                })
            }
            Self::Listing { missing, scans } => missing.map(|missing| Blocked::SuspectScan {
                scans: *scans,
                missing,
            }),
            Self::RootImage {
                waits, unsupported, ..
            } => {
                let unsupported = unsupported.clone();
                let unsupported = unsupported.map(|what| Blocked::Unsupported { what });
                let waits = || waits.clone().map(|why| Blocked::Image { why });
                unsupported.or_else(waits)
            }
            Self::Backoff { until, .. } => {
                let until = until.filter(|until| now < *until)?;
                Some(Blocked::Backoff { until })
            }
            Self::Failing { failures, until } => {
                let until = until.filter(|until| now < *until)?;
                Some(Blocked::Failing {
                    failures: *failures,
                    until,
                })
            }
            Self::Flavors { why, .. } => why.clone().map(|why| Blocked::NoFlavor { why }),
            Self::Trial { until, young } => {
                let until = until.filter(|until| now < *until && *young > 0)?;
                Some(Blocked::Trial {
                    until,
                    young: *young,
                })
            }
            Self::FlavorRoom { flavor, until } => until.map(|until| Blocked::Exhausted {
                flavor: flavor.clone(),
                until,
            }),
            Self::MachinetypeMachines { .. }
            | Self::MachinetypeProcessors { .. }
            | Self::StartingProcessors { .. }
            | Self::LimitKnown { .. }
            | Self::SpaceMachines { .. }
            | Self::SpaceProcessors { .. }
            | Self::CycleMachines { .. }
            | Self::CycleProcessors { .. } => self.passes_limit(),
        }
    }

    /// The same of the rules that are limits: whatever the time is.
    fn passes_limit(&self) -> Option<Blocked> {
        match *self {
            Self::MachinetypeMachines { have, limit } => {
                let limit = limit.filter(|limit| have >= *limit)?;
                Some(Blocked::MachinetypeMachines { have, limit })
            }
            Self::MachinetypeProcessors { have, need, limit } => {
                let limit = limit.filter(|limit| (have + need).get() > *limit)?;
                Some(Blocked::MachinetypeProcessors { have, need, limit })
            }
            Self::StartingProcessors { have, need, limit } => {
                let limit = limit.filter(|limit| (have + need).get() > *limit)?;
                Some(Blocked::StartingProcessors { have, need, limit })
            }
            Self::LimitKnown {
                machines,
                processors,
            } => (machines.is_none() && processors.is_none()).then_some(Blocked::NoLimitKnown),
            Self::SpaceMachines { have, limit } => {
                let limit = limit.filter(|limit| have >= *limit)?;
                Some(Blocked::SpaceMachines { have, limit })
            }
            Self::SpaceProcessors { have, need, limit } => {
                let limit = limit.filter(|limit| (have + need).get() > *limit)?;
                Some(Blocked::SpaceProcessors { have, need, limit })
            }
            Self::CycleMachines { created, cap } => {
                let cap = cap.filter(|cap| created >= *cap)?;
                let unit = Unit::Machines;
                Some(Blocked::CycleCap { cap, unit })
            }
            // A machine larger than 10 % of the limit is still created, one in a cycle.
            Self::CycleProcessors { created, need, cap } => {
                let cap = cap.filter(|cap| created.get() > 0 && (created + need).get() > *cap)?;
                let unit = Unit::Processors;
                Some(Blocked::CycleCap { cap, unit })
            }
            Self::TargetShare { .. }
            | Self::ShutdownTime { .. }
            | Self::Listing { .. }
            | Self::RootImage { .. }
            | Self::Backoff { .. }
            | Self::Failing { .. }
            | Self::Flavors { .. }
            | Self::Trial { .. }
            | Self::FlavorRoom { .. } => None,
        }
    }

    /// What the rule is called, by the option that it comes from where there is one.
    pub const fn title(&self) -> &'static str {
        match self {
            Self::TargetShare { .. } => "target_share",
            Self::ShutdownTime { .. } => "shutdown_time",
            Self::Listing { .. } => "listing of the cloud",
            Self::RootImage { .. } => "root_image",
            Self::Backoff { .. } => "backoff_seconds",
            Self::Failing { .. } => "failed creations",
            Self::Flavors { .. } => "flavor_names",
            Self::Trial { .. } => "one at a time",
            Self::FlavorRoom { .. } => "room on the cloud",
            Self::MachinetypeMachines { .. } => "max_machines, machinetype",
            Self::MachinetypeProcessors { .. } => "processors_limit, machinetype",
            Self::StartingProcessors { .. } => "max_starting_processors",
            Self::LimitKnown { .. } => "a limit is known",
            Self::SpaceMachines { .. } => "machines of the space",
            Self::SpaceProcessors { .. } => "processors of the space",
            Self::CycleMachines { .. } => "machines of one cycle",
            Self::CycleProcessors { .. } => "processors of one cycle",
        }
    }
}

/// `have of limit`.
fn of(have: impl fmt::Display, limit: Option<u32>) -> String {
    match limit {
        Some(limit) => format!("{have} of {limit}"),
        None => format!("{have}, no limit"),
    }
}

/// `have, need more of limit`.
fn with(have: Processors, need: Processors, limit: Option<u32>) -> String {
    of(format!("{have}, and {need} more"), limit)
}

/// The numbers, for people.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TargetShare { share } => write!(f, "{share}"),
            Self::ShutdownTime { at: None, .. } => f.write_str("none"),
            Self::ShutdownTime {
                at: Some(at),
                least,
                ordered,
            } => write!(
                f,
                "{}{}; a new machine needs {least} s",
                at.to_rfc3339(),
                if *ordered {
                    " (by vcycled shutdown)"
                } else {
                    ""
                }
            ),
            Self::Listing { missing: None, .. } => f.write_str("complete"),
            Self::Listing {
                missing: Some(missing),
                scans,
            } => write!(
                f,
                "none of {missing} machines was listed, {scans} scan(s) in a row"
            ),
            Self::RootImage {
                image,
                waits,
                unsupported,
            } => f.write_str(unsupported.as_ref().or(waits.as_ref()).unwrap_or(image)),
            Self::Backoff {
                last_abort: Some(at),
                seconds,
                until: Some(until),
            } => write!(
                f,
                "last abort {} + {seconds} s = {}",
                at.to_rfc3339(),
                until.to_rfc3339()
            ),
            Self::Backoff { seconds, .. } => write!(f, "{seconds} s, but nothing has aborted"),
            Self::Failing { until: None, .. } => f.write_str("none"),
            Self::Failing {
                failures,
                until: Some(until),
            } => write!(f, "{failures} in a row, next try {}", until.to_rfc3339()),
            Self::Flavors { why: Some(why), .. } => f.write_str(why),
            Self::Flavors { names, why: None } => f.write_str(&names.join(", ")),
            Self::Trial { until: None, .. } => f.write_str("no backoff before"),
            Self::Trial {
                until: Some(until),
                young,
            } => write!(f, "until {}, {young} on trial", until.to_rfc3339()),
            Self::FlavorRoom { until: None, .. } => f.write_str("none was refused lately"),
            Self::FlavorRoom {
                until: Some(until), ..
            } => write!(f, "none, next try {}", until.to_rfc3339()),
            Self::MachinetypeMachines { have, limit } | Self::SpaceMachines { have, limit } => {
                f.write_str(&of(have, *limit))
            }
            Self::MachinetypeProcessors { have, need, limit }
            | Self::StartingProcessors { have, need, limit }
            | Self::SpaceProcessors { have, need, limit } => {
                f.write_str(&with(*have, *need, *limit))
            }
            Self::LimitKnown {
                machines: None,
                processors: None,
            } => f.write_str("neither the configuration nor the cloud tells one"),
            Self::LimitKnown {
                machines,
                processors,
            } => {
                let machines = machines.map(|limit| format!("{limit} machines"));
                let processors = processors.map(|limit| format!("{limit} processors"));
                let both: Vec<_> = machines.into_iter().chain(processors).collect();
                f.write_str(&both.join(", "))
            }
            Self::CycleMachines { created, cap } => f.write_str(&of(created, *cap)),
            Self::CycleProcessors { created, need, cap } => {
                f.write_str(&with(*created, *need, *cap))
            }
        }
    }
}
