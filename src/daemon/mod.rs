//! The daemon: one driver, one task for each space, one HTTPS server.
//!
//! A local socket ([`admin`]) tells commands what the [`Board`] shows, and the admin endpoint (`web`)
//! tells it to monitoring systems and browsers.
//!
//! The driver reads the configuration at every tick and hands it to the spaces; each space runs
//! its own passes in its own task, so that a slow or dead cloud delays no other. A tick that comes
//! while a space is still in a pass is not queued: the next pass begins with the latest one.
//!
//! Invariants:
//!
//! 1. A configuration with an error is never used; the last good one stays.
//! 2. A panic ends one pass of one space. The space starts again from its files.
//! 3. No vacuum pipe is waited for: what they say is taken from what came in before a tick.
//! 4. After a stop is asked for, nothing new is begun, looking at clouds ends at once, and what
//!    changes something and is under way may end for a few seconds. A process that is killed
//!    instead loses nothing either.

pub mod admin;
mod certificate;
pub mod dashboard;
mod driver;
mod heartbeats;
mod https;
mod joboutputs;
mod leaks;
mod look;
mod machines;
mod pass;
mod remote;
mod showing;
mod shutdown;
mod space_task;
mod status;
pub mod story;
mod tried;
mod unread;
mod vacmon;
mod web;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use leaks::{find_leftovers, listed};
pub use look::{Observed, observe_once};
pub use machines::{MachineStatus, Messages, Phase, machine_statuses};
pub use remote::last_answers;
pub use status::{
    Board, ConfigStatus, DaemonStatus, HttpsStatus, Refusal, SpaceStatus, Status, Trouble,
};

use crate::act::userdata::Templates;
use crate::clock::{Clock, Lap};
use crate::cloud::http::Network;
use crate::config::{self, Config};
use crate::events::{self, EventLog};
use crate::images;
use crate::metrics::Metrics;
use crate::model::{FactoryName, Seconds};
use crate::rng::Seeds;
use crate::server::ServerError;
use crate::state::{Disk, StateError, Store};
use driver::Driver;
use https::Hearing;

/// Everything that a daemon is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the configuration is.
    pub sources: config::Sources,
    /// Where the state is.
    pub state_dir: PathBuf,
    /// From the start of one cycle to the start of the next, in seconds of the clock.
    pub interval: Seconds,
    /// The factory's name.
    pub factory: FactoryName,
    /// The time.
    pub clock: Clock,
    /// Where events are to be told; `None` for nowhere.
    pub events: Option<events::Place>,
    /// Where the local socket is to be; `None` for none.
    pub socket: Option<PathBuf>,
    /// What else the daemon finds around it.
    pub host: Host,
}

/// What a daemon finds on its host beside the time: by default what really is there. A simulation
/// gives it something else.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The disk that the state directory is on.
    pub disk: Disk,
    /// Randomness.
    pub seeds: Seeds,
    /// What carries requests to clouds.
    pub network: Network,
}

impl Settings {
    /// What options that are not given default to.
    pub fn config_context(&self) -> config::Context {
        config::Context {
            hostname: self.factory.clone(),
            state_dir: self.state_dir.clone(),
        }
    }
}

/// How a running daemon is told things from outside.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Asks the daemon to end.
    pub stop: CancellationToken,
    /// Asks for a cycle now.
    pub wake: Arc<Notify>,
    asked: Arc<Notify>,
    answered: Arc<Notify>,
}

impl Control {
    /// Comes back when the driver has come round, which takes no time unless it is stuck: for a
    /// watchdog. One caller at a time.
    pub async fn is_alive(&self) {
        self.asked.notify_one();
        self.answered.notified().await;
    }
}

/// Why a daemon did not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The first configuration is not usable; the problems say why.
    #[error("the configuration has errors; not started")]
    Config(Vec<config::Problem>),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The HTTPS server cannot be started.
    #[error("cannot start the HTTPS server: {0}")]
    Server(#[from] ServerError),
}

/// What the driver hands to every space at every tick.
#[derive(Clone)]
struct Tick {
    config: Arc<Config>,
    templates: Templates,
    cache: images::Cache,
    hearing: Hearing,
    /// When it was made.
    lap: Lap,
}

/// What stays the same for the life of the daemon.
#[derive(Clone)]
struct Common {
    store: Arc<Store>,
    /// From the start of one cycle to the start of the next.
    interval: Seconds,
    factory: FactoryName,
    clock: Clock,
    seeds: Seeds,
    network: Network,
    board: Board,
    events: EventLog,
    metrics: Metrics,
    stop: CancellationToken,
}

/// Runs until `control.stop`. `ready` is called once, when the configuration is loaded and the
/// HTTPS server listens; `board` shows what happens.
///
/// # Errors
/// When the daemon cannot start. Once it runs, trouble is reported and lived with.
pub async fn run(
    settings: Settings,
    control: Control,
    board: Board,
    ready: impl FnOnce(),
) -> Result<(), DaemonError> {
    let mut driver = Driver::begin(settings, control.stop.clone(), board).await?;
    ready();
    driver.drive(&control).await;
    driver.end().await;
    Ok(())
}
