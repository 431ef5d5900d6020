//! What is left of a space's limits while the plan grows.

use crate::decide::blocked::Unit;
use crate::decide::placement;
use crate::decide::plan::SpaceReport;
use crate::decide::rules::Rule;
use crate::decide::view::View;
use crate::model::Processors;

/// The most machines, or processors, of one cycle, however large the limit: an admin who means
/// "no limit" by max_machines = 1000000000 must not get a plan that fills the memory and a cycle
/// that never ends.
const MAX_A_CYCLE: u32 = 1000;

/// What is left of the space's limits.
pub(super) struct Room {
    machines: u32,
    processors: Processors,
    machines_limit: Option<u32>,
    processors_limit: Option<u32>,
    machines_cap: Option<u32>,
    processors_cap: Option<u32>,
    created: u32,
    created_processors: Processors,
    /// What an hs06-less machine weighs one of.
    pub unit: Unit,
}

impl Room {
    pub fn new(view: &View<'_>) -> Self {
        let facts = view.snapshot.facts.limits;
        let lower = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        let machines_limit = lower(view.config.max_machines, facts.machines);
        let processors_limit = lower(view.config.processors_limit, facts.processors);
        // 10 % a cycle counts in the unit of the limit that the admin chose; when there is none,
        // in each unit that the cloud limits.
        let configured =
            view.config.max_machines.is_some() || view.config.processors_limit.is_some();
        let cap = |own: Option<u32>, limit: Option<u32>| {
            limit
                .filter(|_| own.is_some() || !configured)
                .map(|limit| limit.div_ceil(10).clamp(1, MAX_A_CYCLE))
        };
        let unit = match (view.config.max_machines, view.config.processors_limit) {
            (None, Some(_)) => Unit::Processors,
            (Some(_), _) => Unit::Machines,
            (None, None) if machines_limit.is_none() && processors_limit.is_some() => {
                Unit::Processors
            }
            (None, None) => Unit::Machines,
        };
        let mut room = Self {
            machines: view.snapshot.foreign_machines,
            processors: view.snapshot.foreign_processors,
            machines_cap: cap(view.config.max_machines, machines_limit),
            processors_cap: cap(view.config.processors_limit, processors_limit),
            machines_limit,
            processors_limit,
            created: 0,
            created_processors: Processors::default(),
            unit,
        };
        for machine in &view.machines {
            if machine.counts() {
                room.count(machine.processors());
            }
            for duplicate in &machine.duplicates {
                room.count(duplicate.processors.unwrap_or_else(|| machine.processors()));
            }
        }
        for listed in &view.unfiled {
            room.count(listed.processors.unwrap_or(Processors::ONE));
        }
        room
    }

    fn count(&mut self, processors: Processors) {
        self.machines = self.machines.saturating_add(1);
        self.processors = self.processors + processors;
    }

    pub fn take(&mut self, processors: Processors) {
        self.count(processors);
        self.created += 1;
        self.created_processors = self.created_processors + processors;
    }

    /// The limits of the space for one more machine with `need` processors.
    pub fn rules(&self, need: Processors) -> [Rule; 5] {
        [
            Rule::LimitKnown {
                machines: self.machines_limit,
                processors: self.processors_limit,
            },
            Rule::SpaceMachines {
                have: self.machines,
                limit: self.machines_limit,
            },
            Rule::SpaceProcessors {
                have: self.processors,
                need,
                limit: self.processors_limit,
            },
            Rule::CycleMachines {
                created: self.created,
                cap: self.machines_cap,
            },
            Rule::CycleProcessors {
                created: self.created_processors,
                need,
                cap: self.processors_cap,
            },
        ]
    }

    pub fn report(&self, view: &View<'_>) -> SpaceReport {
        SpaceReport {
            machines: self.machines,
            processors: self.processors,
            foreign_machines: view.snapshot.foreign_machines,
            machines_limit: self.machines_limit,
            processors_limit: self.processors_limit,
            exhausted: placement::report(view),
            shutdown_time: view.config.down_by(),
            shutdown_ordered: view.config.is_ordered_down(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decide::{decide, testing};
    use crate::model::Timestamp;
    use crate::rng::Seed;

    #[test]
    fn a_limit_that_means_none_still_gives_a_plan_that_can_be_carried_out() {
        for limit in ["max_machines = 4000000000", "processors_limit = 4000000000"] {
            let mut space = testing::space(limit);
            let machinetype = testing::machinetype("a", "");
            space
                .machinetypes
                .insert(machinetype.name.clone(), machinetype);
            let now = Timestamp::from_unix(1_000_000);
            let plan = decide(&space, &testing::snapshot(Vec::new()), now, Seed(1));
            assert_eq!(plan.creates.len(), 1000, "{limit}");
        }
    }
}
