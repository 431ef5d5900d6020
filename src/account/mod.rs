//! Accounting: one APEL record for each machine that ran for long enough (SPEC 10).
//!
//! [`apel`] writes the text of a record and nothing else; [`spool`] puts it where it belongs,
//! exactly once however often it is asked to; [`sync`] counts what is there.

pub mod apel;
pub mod spool;
pub mod sync;
