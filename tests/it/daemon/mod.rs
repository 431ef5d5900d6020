//! The built binary as an admin runs it: real processes, files, sockets and signals.

mod client;
mod clouds;
mod configuration;
mod crashes;
mod disk;
mod elsewhere;
pub mod factory;
mod kept;
mod life;
mod pipes;
mod plan;
mod remote;
mod removed;
mod restart;
mod secrets;
mod serving;
mod systemd;
