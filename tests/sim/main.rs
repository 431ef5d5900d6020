//! Deterministic simulation: the whole daemon against clouds in memory, on time that nobody waits
//! for. One number decides everything that happens; `tests/README.md` says how to use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may end by panicking, its helper functions included"
)]

mod accounts;
mod cloud;
mod copies;
mod disk;
mod earth;
mod endings;
mod factory;
mod guests;
mod keys;
mod ledger;
mod plan;
mod power;
mod room;
mod seeds;
mod storm;
mod transcript;
mod verdict;
mod wire;
mod world;
