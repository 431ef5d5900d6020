//! Where machines are placed, and what a cloud has no room for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Flavor, Seconds};

/// How long a flavor that the cloud had no room for in a zone is not asked for there again.
pub const EXHAUSTED_FOR: Seconds = Seconds::new(180);

/// A flavor in a zone: that for which a cloud has room or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The cloud's identifier of the flavor.
    pub flavor: String,
    /// The zone; `None` when the choice of one was left to the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A place with all that there is to say of its flavor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The flavor.
    pub flavor: Flavor,
    /// The zone; `None` leaves the choice to the cloud.
    pub zone: Option<String>,
}

impl Placement {
    /// The place that this is.
    pub fn place(&self) -> Place {
        Place {
            flavor: self.flavor.id.clone(),
            zone: self.zone.clone(),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.flavor.name)?;
        match &self.zone {
            Some(zone) => write!(f, " in {zone}"),
            None => Ok(()),
        }
    }
}

/// What a cloud had too little of to make a machine that it had agreed to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortage {
    /// Hosts with room for the flavor in the zone.
    Hosts,
    /// Quota of the tenancy, which is the same in all zones.
    Quota,
}

/// The size of a volume in GB, as the cloud counts them; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gigabytes(std::num::NonZeroU64);

impl Gigabytes {
    /// `count` GB; `None` for 0, which is no volume.
    pub const fn new(count: u64) -> Option<Self> {
        match std::num::NonZeroU64::new(count) {
            Some(count) => Some(Self(count)),
            None => None,
        }
    }

    /// The number of GB.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Gigabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
