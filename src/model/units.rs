//! Quantities that a configuration or a cloud tells us; an invalid one cannot be built.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a number is no valid quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUnit(pub &'static str);

/// A number of processors (virtual CPUs).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Processors(u32);

impl Processors {
    /// One processor: what a machine is taken to have when nothing says otherwise.
    pub const ONE: Self = Self(1);

    /// `count` processors.
    pub const fn new(count: u32) -> Self {
        Self(count)
    }

    /// The number of processors.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::iter::Sum for Processors {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        Self(all.fold(0, |sum, one| sum.saturating_add(one.0)))
    }
}

impl std::ops::Add for Processors {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// HEPSPEC06 power: finite and above zero.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Hs06(f64);

/// A target share: finite and not negative. Zero means that nothing is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

impl Hs06 {
    /// The power that a machine has when none is configured (vcycle.conf(5), hs06).
    pub const DEFAULT: Self = Self(1.0);

    /// # Errors
    /// When `power` is not a finite number above zero.
    pub fn new(power: f64) -> Result<Self, InvalidUnit> {
        if power.is_finite() && power > 0.0 {
            Ok(Self(power))
        } else {
            Err(InvalidUnit("expected a number above 0"))
        }
    }

    /// The power as a plain number.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The power of a machine with this much per processor.
    pub fn times(self, processors: Processors) -> Self {
        Self(self.0 * f64::from(processors.get().max(1)))
    }

    /// The power of one of its processors.
    pub fn per(self, processors: Processors) -> Self {
        Self(self.0 / f64::from(processors.get().max(1)))
    }
}

impl Share {
    /// # Errors
    /// When `share` is negative or no finite number.
    pub fn new(share: f64) -> Result<Self, InvalidUnit> {
        if share.is_finite() && share >= 0.0 {
            Ok(Self(share))
        } else {
            Err(InvalidUnit("expected a number, 0 or above"))
        }
    }

    /// The share as a plain number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

macro_rules! float_unit {
    ($unit:ident) => {
        impl TryFrom<f64> for $unit {
            type Error = InvalidUnit;
            fn try_from(value: f64) -> Result<Self, InvalidUnit> {
                Self::new(value)
            }
        }

        impl From<$unit> for f64 {
            fn from(value: $unit) -> f64 {
                value.0
            }
        }

        impl fmt::Display for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

float_unit!(Hs06);
float_unit!(Share);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_and_shares_refuse_what_would_break_a_comparison() {
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Hs06::new(bad).is_err());
            assert!(Share::new(bad).is_err());
        }
        assert!(Hs06::new(0.0).is_err());
        assert!(Share::new(0.0).is_ok());
    }
}
