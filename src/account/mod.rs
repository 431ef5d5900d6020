//! Accounting: one APEL record for each machine that ran for long enough.
//!
//! [`apel`] writes the text of a record and nothing else; [`spool`] puts it where it belongs,
//! exactly once however often it is asked to; [`sync`] counts what is there, and [`ledger`] lists it.
//! [`queue`] is what a sender empties, and [`message`] reads what is in it and in the archive.

pub mod apel;
pub mod ledger;
pub mod message;
pub mod queue;
pub mod spool;
pub mod sync;
