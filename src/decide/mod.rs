//! The decisions: what to write down, what to destroy, what to create. vcycled(8) tells the rules.
//!
//! [`decide`] is a pure function of the configuration, the snapshot of one scan, the time and a
//! seed. It reads no clock, file, socket, environment or global, and it does not log. The daemon,
//! the dry run and the simulation call the same function. Invariants:
//!
//! 1. It never fails, whatever the snapshot says.
//! 2. The order of machines in the snapshot changes nothing.
//! 3. A VM that is not ours is counted and appears in no action.
//! 4. One machine appears in at most one delete, except that each duplicate VM of one name is a
//!    delete of its own.
//! 5. What is created never passes a limit, counted in every unit that has one.
//! 6. Every configured machinetype has a reason why no more of it are created, and the rules that
//!    are told with it are those that were applied.
//!
//! [`heartbeats`] says which machines are alive. [`leaks`] decides, less often, about what machines
//! have left behind. [`tally`] decides nothing: it counts what runs, for those who watch.

mod blocked;
mod create;
mod finish;
mod heartbeats;
pub mod leaks;
mod placement;
mod plan;
mod rules;
pub mod tally;
mod terminate;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod view;

pub use blocked::{Blocked, Concern, Unit};
pub use heartbeats::{Beat, Heartbeats, heartbeats};
pub use placement::places;
pub use plan::{
    Bookkeeping, Create, Delete, Finish, MachinetypeReport, NoRoom, Plan, Reason, Refused, Report,
    SpaceReport, Tried,
};
pub use rules::{Check, Rule};
pub use tally::{Running, Tally};
pub use view::seem_gone;

use crate::config::SpaceConfig;
use crate::model::{SpaceSnapshot, Timestamp};
use crate::rng::Seed;

/// Decides one pass over one space.
pub fn decide(config: &SpaceConfig, snapshot: &SpaceSnapshot, now: Timestamp, seed: Seed) -> Plan {
    let space = view::View::new(config, snapshot, now);
    let bookkeeping = finish::bookkeeping(&space);
    let deletes = terminate::deletes(&space);
    let (creates, report) = create::creates(&space, &bookkeeping, seed);
    Plan {
        bookkeeping,
        deletes,
        creates,
        report,
    }
}

/// The report of a plan of which not all creations succeeded: it counts those that did, and says
/// what became of the others. The other arguments are those of [`decide`], and the plan's bookkeeping.
pub fn report_after(
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    now: Timestamp,
    bookkeeping: &[Bookkeeping],
    tried: &Tried,
) -> Report {
    let space = view::View::new(config, snapshot, now);
    create::report_after(&space, bookkeeping, tried)
}
