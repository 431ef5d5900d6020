//! The built binary as an admin runs it: real processes, files, sockets and signals.

mod access;
mod apel;
mod client;
mod clouds;
mod configuration;
mod contextualization;
mod crashes;
pub mod disk;
mod elsewhere;
pub mod factory;
mod heartbeats;
mod kept;
mod life;
mod pipes;
mod placing;
mod plan;
mod proxies;
mod remote;
mod removed;
mod restart;
mod secrets;
mod serving;
mod shutdown;
mod systemd;
mod tokens;
mod vacmon;
