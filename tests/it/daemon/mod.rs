//! The built binary as an admin runs it: real processes, files, sockets and signals.

mod client;
mod clouds;
mod configuration;
mod contextualization;
mod crashes;
mod disk;
pub mod factory;
mod heartbeats;
mod life;
mod plan;
mod proxies;
mod removed;
mod restart;
mod secrets;
mod serving;
mod systemd;
