//! The built binary as an admin runs it: real processes, files, sockets and signals.

mod apel;
mod client;
mod clouds;
mod configuration;
mod crashes;
mod disk;
pub mod factory;
mod life;
mod plan;
mod removed;
mod restart;
mod secrets;
mod serving;
mod shutdown;
mod systemd;
mod vacmon;
