//! Plain data: names, units, times, machines. No I/O, no async, no clock.
//!
//! Everything else in the crate talks in these types. A value that exists is a valid value: each
//! type checks what it is made from and there is no way around the check.

pub mod dn;
pub mod ids;
pub mod image;
pub mod leftover;
pub mod machine;
pub mod placement;
pub mod secret;
pub mod snapshot;
pub mod time;
pub mod token;
pub mod units;

pub use dn::Dn;
pub use ids::{CloudId, FactoryName, InvalidName, MachineName, MachinetypeName, SpaceName};
pub use image::ImageState;
pub use leftover::{Leftover, LeftoverKind, Owner, Sighting, User};
pub use machine::{
    CloudFacts, CloudLimits, CloudMachine, Ended, Flavor, MachineFiles, MachineState, Marks,
    ShutdownMessage,
};
pub use placement::{EXHAUSTED_FOR, Gigabytes, Place, Placement, Shortage};
pub use secret::Secret;
pub use snapshot::{Heartbeat, History, Machine, RemoteServer, SpaceSnapshot};
pub use time::{Seconds, Timestamp};
pub use token::{TokenHash, WriteToken};
pub use units::{Hs06, InvalidUnit, Processors, Share};
