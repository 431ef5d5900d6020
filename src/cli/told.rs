//! What there is to know of a factory: from the daemon while it runs, else from the state directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ask::{self, Answer};
use super::exit::{Exit, Failure};
use crate::config::{self, Config, SpaceConfig};
use crate::daemon::admin::Told;
use crate::daemon::{
    ConfigStatus, MachineStatus, Messages, Phase, Settings, SpaceStatus, Status, machine_statuses,
};
use crate::migrate::waiting;
use crate::model::{MachineFiles, SpaceName, Timestamp};
use crate::pipes;
use crate::state::{Layout, Store};

/// The status, and how to say where it is from.
pub struct Known {
    /// The status; its `daemon` is `None` when none runs.
    pub told: Told,
    /// The configuration, when no daemon runs and it is good.
    pub config: Option<Config>,
}

/// What there is to know. Says what cannot be read on standard error.
///
/// # Errors
/// When a daemon runs that cannot be asked, or none runs and the state directory cannot be read.
pub fn everything(settings: &Settings) -> Result<Known, Failure> {
    let layout = Layout::new(&settings.state_dir);
    match ask::daemon(&layout, "/v1/status")? {
        Answer::Told(body) => Ok(Known {
            told: ask::understand(&body)?,
            config: None,
        }),
        Answer::Unknown => Err(Failure::new(
            Exit::Unavailable,
            "the daemon that runs is of another version, and has no status to tell",
        )),
        Answer::NoDaemon => from_files(settings),
    }
}

fn from_files(settings: &Settings) -> Result<Known, Failure> {
    let layout = Layout::new(&settings.state_dir);
    let io = |error: crate::state::StateError| Failure::new(Exit::Io, error.to_string());
    std::fs::metadata(layout.root()).map_err(|error| {
        Failure::new(
            Exit::Io,
            format!(
                "no daemon runs, and there is no state directory {}: {error}",
                layout.root().display()
            ),
        )
    })?;
    let store = Store::open_to_read(layout);
    let loaded = store.load_machines().map_err(io)?;
    for unread in &loaded.unread {
        eprintln!("vcycled: {unread}");
    }
    let mut waiting = waiting::everywhere(store.layout(), &settings.factory).map_err(io)?;
    let pipes = pipes::read_known(store.layout());
    let read = config::load_with(&settings.sources, &settings.config_context(), &pipes);
    let now = settings.clock.now();
    let mut status = Status {
        config: as_read(&read, now),
        ..Status::default()
    };
    for (name, machines) in by_space(loaded.machines, read.config.as_ref()) {
        let config = read
            .config
            .as_ref()
            .and_then(|config| config.spaces.get(&name));
        let space = SpaceStatus {
            last_scan: store.last_scan(&name).map_err(io)?,
            waiting: waiting.remove(&name),
            machines: Arc::new(on_disk(&store, &machines, config)),
            ..SpaceStatus::default()
        };
        if read.config.is_some() && config.is_none() {
            status.orphans.insert(name, machines.len());
        } else {
            status.spaces.insert(name, Arc::new(space));
        }
    }
    Ok(Known {
        told: Told { now, status },
        config: read.config,
    })
}

/// What a daemon would say of a configuration that was read now.
fn as_read(read: &config::Loaded, now: Timestamp) -> ConfigStatus {
    match &read.config {
        Some(config) => ConfigStatus {
            loaded: Some(now),
            spaces: config.spaces.keys().cloned().collect(),
            ..ConfigStatus::default()
        },
        None => ConfigStatus {
            rejected: Some(now),
            problems: read.problems.iter().map(ToString::to_string).collect(),
            ..ConfigStatus::default()
        },
    }
}

/// The machines of each space, also of those that are configured and have none.
fn by_space(
    machines: Vec<MachineFiles>,
    config: Option<&Config>,
) -> BTreeMap<SpaceName, Vec<MachineFiles>> {
    let configured = config.into_iter().flat_map(|config| config.spaces.keys());
    let mut spaces: BTreeMap<SpaceName, Vec<MachineFiles>> = configured
        .map(|space| (space.clone(), Vec::new()))
        .collect();
    for files in machines {
        spaces.entry(files.space.clone()).or_default().push(files);
    }
    spaces
}

/// Machines as their directories alone tell of them.
pub fn on_disk(
    store: &Store,
    machines: &[MachineFiles],
    config: Option<&SpaceConfig>,
) -> Vec<MachineStatus> {
    let messages = machines.iter().filter(|files| files.stopped.is_some());
    let messages: Messages = messages
        .map(|files| {
            // What cannot be read is not shown.
            let message = store.shutdown_message(&files.name).unwrap_or_default();
            (files.name.clone(), message)
        })
        .collect();
    let mut all = machine_statuses(machines, None, &messages, config);
    for machine in all.iter_mut().filter(|one| one.phase == Phase::Running) {
        let configured = config.and_then(|config| config.machinetypes.get(&machine.machinetype));
        let file = configured.and_then(|configured| configured.heartbeat_file.as_deref());
        machine.heartbeat =
            file.and_then(|file| store.heartbeat(&machine.name, file).unwrap_or_default());
    }
    all
}
