//! The built binary as an admin runs it: real processes, files, sockets and signals.

mod client;
mod clouds;
mod configuration;
mod crashes;
pub mod disk;
pub mod factory;
mod life;
mod plan;
mod removed;
mod restart;
mod secrets;
mod serving;
mod systemd;
