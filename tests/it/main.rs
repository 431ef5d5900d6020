//! Tests that drive the built binary and the adapters over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may end by panicking, its helper functions included"
)]

mod architecture;
mod colours;
mod commands_manual;
mod config_examples;
mod config_files;
mod config_manual;
mod config_names;
mod contract;
mod daemon;
mod dashboard;
mod demo;
#[cfg(feature = "ec2")]
mod ec2;
mod fast;
mod fuzz;
mod grid;
mod images;
mod leaks;
mod openstack_adapter;
mod openstack_daemon;
mod openstack_hostile;
mod openstack_leftovers;
mod openstack_placement;
mod openstack_real;
mod openstack_real_keys;
mod openstack_real_leaks;
mod openstack_site;
mod pki;
mod router;
mod scale;
mod scripted;
mod server;
mod simulated;
mod soak;
