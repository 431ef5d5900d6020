//! The world of the tests of this module.

use super::{Recorder, Totals};
use crate::config::SpaceConfig;
use crate::decide::{Bookkeeping, Finish, testing};
use crate::events::Event;
use crate::metrics::Metrics;
use crate::model::{FactoryName, MachineName, MachineState, Seconds, Timestamp};
use crate::observe::Memory;
use crate::state::Store;
use crate::telemetry::Repeats;

/// Two machines of one machinetype.
pub const NAMES: [&str; 2] = ["vcycle-a-aaaaaaaaaa", "vcycle-a-bbbbbbbbbb"];

/// A space with a state directory, and all that a [`Recorder`] works on.
pub struct World {
    _dir: tempfile::TempDir,
    pub store: Store,
    pub config: SpaceConfig,
    factory: FactoryName,
    pub memory: Memory,
    pub repeats: Repeats,
    pub totals: Totals,
    events: Vec<Event>,
    metrics: Metrics,
}

impl World {
    /// The machines of [`NAMES`], started at 1000, of a machinetype that is not configured.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self {
            store: Store::open(dir.path().join("state")).unwrap(),
            _dir: dir,
            config: testing::space("max_machines = 10"),
            factory: FactoryName::new("factory.example.org").unwrap(),
            memory: Memory::default(),
            repeats: Repeats::default(),
            totals: Totals::default(),
            events: Vec::new(),
            metrics: Metrics::default(),
        };
        for name in NAMES {
            let listed = testing::listed(name, MachineState::Running);
            let machine = MachineName::new(name).unwrap();
            let machinetype = machine.machinetype().unwrap();
            let mut recorder = world.recorder();
            recorder
                .adopt(&machine, &machinetype, &listed, Timestamp::from_unix(900))
                .unwrap();
            recorder
                .start(
                    &machine,
                    Timestamp::from_unix(1000),
                    None,
                    Timestamp::from_unix(1000),
                )
                .unwrap();
        }
        world
    }

    pub fn recorder(&mut self) -> Recorder<'_> {
        Recorder {
            config: &self.config,
            store: &self.store,
            factory: &self.factory,
            memory: &mut self.memory,
            repeats: &mut self.repeats,
            totals: &mut self.totals,
            events: &mut self.events,
            metrics: &self.metrics,
        }
    }
}

/// The end of a machine by its own abort message, at `stopped`.
pub fn finish(name: &str, stopped: u64) -> Bookkeeping {
    let machine = MachineName::new(name).unwrap();
    Bookkeeping::Finish(Finish {
        machinetype: machine.machinetype().unwrap(),
        machine,
        started: Some(Timestamp::from_unix(1000)),
        stopped: Timestamp::from_unix(stopped),
        set_back: Seconds::default(),
        code: Some(300),
        abort: true,
        account: true,
        pauses: false,
        how: "it shut down".to_owned(),
    })
}
