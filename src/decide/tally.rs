//! What runs now, by machinetype: for those who watch, not for the decisions.

use std::collections::BTreeMap;

use super::finish;
use super::view::View;
use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{
    Hs06, MachineState, MachinetypeName, Processors, Seconds, SpaceSnapshot, Timestamp,
};

/// Running machines of ours, counted as the report of a plan counts them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Each configured machinetype.
    pub machinetypes: BTreeMap<MachinetypeName, Running>,
    /// All machines of ours, those of machinetypes that have left the configuration included.
    pub all: Running,
}

/// What runs of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Running {
    /// How many machines.
    pub machines: u32,
    /// Their processors.
    pub processors: Processors,
    /// Their power in HEPSPEC06, of those where it is known.
    pub hs06: f64,
    /// How many of them have no known power.
    pub without_power: u32,
    /// How many are starting, or have been running for less than fizzle_seconds.
    pub before_fizzle: u32,
}

impl Running {
    fn add(&mut self, machine: Counted, fizzle: Seconds, now: Timestamp) {
        match machine.state {
            MachineState::Starting => self.before_fizzle += 1,
            MachineState::Running => {
                self.machines += 1;
                self.processors = self.processors + machine.processors;
                match machine.hs06 {
                    Some(power) => self.hs06 += power.get(),
                    None => self.without_power += 1,
                }
                let is_young = machine.started.is_none_or(|at| now.since(at) < fizzle);
                self.before_fizzle += u32::from(is_young);
            }
            MachineState::Shutdown
            | MachineState::Deleting
            | MachineState::Failed
            | MachineState::Unknown => {}
        }
    }
}

/// One machine, as far as it matters here.
#[derive(Clone, Copy)]
struct Counted {
    state: MachineState,
    started: Option<Timestamp>,
    processors: Processors,
    hs06: Option<Hs06>,
}

/// Counts what runs.
pub fn tally(config: &SpaceConfig, snapshot: &SpaceSnapshot, now: Timestamp) -> Tally {
    let view = View::new(config, snapshot, now);
    let mut tally = Tally::default();
    for name in config.machinetypes.keys() {
        tally.machinetypes.insert(name.clone(), Running::default());
    }
    let power = |configured: Option<&MachinetypeConfig>, processors| {
        configured.and_then(|configured| configured.power(processors))
    };
    for machine in view.machines.iter().filter(|machine| machine.counts()) {
        let (files, processors) = (&machine.machine.files, machine.processors());
        let counted = Counted {
            state: machine.state(),
            started: view.started(machine),
            processors,
            hs06: files.hs06.or(power(machine.machinetype, processors)),
        };
        let fizzle = machine.machinetype.map(|configured| configured.fizzle);
        let fizzle = fizzle.or(files.fizzle).unwrap_or_default();
        if let Some(kind) = tally.machinetypes.get_mut(&files.machinetype) {
            kind.add(counted, fizzle, now);
        }
        tally.all.add(counted, fizzle, now);
    }
    for listed in &view.unfiled {
        let kind = finish::machinetype_of(listed);
        let configured = kind.as_ref().and_then(|kind| config.machinetypes.get(kind));
        let of_kind = configured.map(|configured| configured.min_processors);
        let processors = listed.processors.or(of_kind).unwrap_or(Processors::ONE);
        let counted = Counted {
            state: listed.state,
            started: listed.started,
            processors,
            hs06: power(configured, processors),
        };
        let fizzle = configured.map_or(Seconds::default(), |configured| configured.fizzle);
        if let Some(kind) = kind.and_then(|kind| tally.machinetypes.get_mut(&kind)) {
            kind.add(counted, fizzle, now);
        }
        tally.all.add(counted, fizzle, now);
    }
    tally
}
