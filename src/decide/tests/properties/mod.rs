//! What holds of every plan, whatever the space looks like. The counts here are made anew from
//! the snapshot, not taken from the code under test.

mod creations;
mod filling;
mod machines;
mod reach;
mod reasons;

use proptest::prelude::*;

use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::decide::tests::NOW;
use crate::decide::{Bookkeeping, Plan};
use crate::model::{Processors, SpaceSnapshot, Timestamp};

/// So many cases, and in proportion more when PROPTEST_CASES asks for more than its usual 256.
fn cases(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: cases * usual.cases.max(256) / 256,
        ..usual
    }
}

/// Machines and processors that are on the cloud or may be, of one machinetype or of all.
fn have(config: &SpaceConfig, snapshot: &SpaceSnapshot, kind: Option<&str>) -> (u32, u32) {
    let configured = |name: &str| {
        let mut kinds = config.machinetypes.values();
        kinds
            .find(|one| one.name.as_str() == name)
            .map_or(1, |one| one.min_processors.get())
    };
    let (mut machines, mut processors) = (0, 0);
    for machine in &snapshot.machines {
        let name = machine.files.machinetype.as_str();
        if kind.is_some_and(|kind| kind != name) {
            continue;
        }
        let on_file = machine
            .files
            .processors
            .map_or(configured(name), Processors::get);
        // Of duplicates without a figure nothing is certain but that they have a processor.
        let least = if machine.listed.len() == 1 {
            on_file
        } else {
            1
        };
        for vm in &machine.listed {
            machines += 1;
            processors += vm.processors.map_or(least, Processors::get);
        }
        let lost = machine.missed_scans >= 2 || machine.files.finished.is_some();
        if machine.listed.is_empty() && !lost {
            machines += 1;
            processors += on_file;
        }
    }
    for vm in &snapshot.unfiled {
        let name = name_of_kind(&vm.name);
        if kind.is_none_or(|kind| kind == name) {
            machines += 1;
            processors += vm.processors.map_or(1, Processors::get);
        }
    }
    if kind.is_none() {
        machines += snapshot.foreign_machines;
        processors += snapshot.foreign_processors.get();
    }
    (machines, processors)
}

fn name_of_kind(name: &str) -> &str {
    name.split('-').nth(1).unwrap()
}

/// What the plan creates, of one machinetype or of all.
fn new(plan: &Plan, kind: Option<&str>) -> (u32, u32) {
    let mine = plan
        .creates
        .iter()
        .filter(|create| kind.is_none_or(|kind| kind == create.machinetype.as_str()));
    mine.fold((0, 0), |(machines, processors), create| {
        let most = create
            .placements
            .iter()
            .map(|one| one.flavor.processors.get())
            .max();
        (machines + 1, processors + most.unwrap())
    })
}

/// The last abort of a machinetype, those that this plan has found included; now, when that is in
/// the future.
fn last_abort(
    config: &MachinetypeConfig,
    snapshot: &SpaceSnapshot,
    plan: &Plan,
) -> Option<Timestamp> {
    let found = plan.bookkeeping.iter().filter_map(|action| match action {
        Bookkeeping::Finish(finish) if finish.abort && finish.machinetype == config.name => {
            Some(finish.stopped)
        }
        _ => None,
    });
    let known = snapshot
        .history
        .get(&config.name)
        .and_then(|history| history.last_abort);
    found.chain(known).max().map(|last| last.min(NOW))
}
