//! Deterministic simulation: the daemon against a cloud in memory, on time that nobody waits for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may end by panicking, its helper functions included"
)]

mod cloud;
