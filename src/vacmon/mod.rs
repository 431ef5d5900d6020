//! VacMon: what the daemon tells monitoring services of other people, as VacQuery 01.02 over UDP.
//! Nobody answers, and nothing depends on it.
//!
//! [`message`] says what, and is pure; [`host`] looks at this host; [`send`] sends, where it
//! holds up nobody.

pub mod host;
pub mod message;
pub mod send;
