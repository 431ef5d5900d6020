//! Random spaces for the properties, and a cloud that does what a plan asks.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;

use super::super::testing;
use super::{NOW, at};
use crate::config::{ImageSource, MachinetypeConfig, SpaceConfig};
use crate::decide::{Bookkeeping, Plan};
use crate::model::{
    CloudId, CloudLimits, CloudMachine, Ended, Heartbeat, History, Hs06, Machine, MachineState,
    MachinetypeName, Place, Processors, Seconds, Share, Shortage, ShutdownMessage, SpaceSnapshot,
    Timestamp,
};

/// Machinetypes of the generated spaces; `gone` is never configured.
const KINDS: [&str; 4] = ["a", "b", "c", "gone"];
const STATES: [MachineState; 6] = [
    MachineState::Starting,
    MachineState::Running,
    MachineState::Shutdown,
    MachineState::Deleting,
    MachineState::Failed,
    MachineState::Unknown,
];

/// A space as it may be found, however odd.
pub fn world() -> impl Strategy<Value = (SpaceConfig, SpaceSnapshot)> {
    (
        space(),
        prop_oneof![6 => vec(machine(), 0..12), 1 => vec(absent(), 3..6)],
        vec((0..2usize, state(), processors()), 0..3),
        (0u32..4, 0u32..8),
        vec(history(), 3),
        (past(), 0u32..12, weighted(0.2, moment())),
        vec((place(), moment()), 0..6),
    )
        .prop_map(
            |(config, machines, unfiled, foreign, histories, scans, exhausted)| {
                let mut snapshot = testing::snapshot(Vec::new());
                snapshot.facts.limits = config.1;
                for (number, mut machine) in machines.into_iter().enumerate() {
                    rename(&mut machine, number);
                    snapshot.machines.push(machine);
                }
                for (number, (kind, state, processors)) in unfiled.into_iter().enumerate() {
                    // Two numbers share a name now and then.
                    let name = format!("vcycle-{}-{:0>10}", KINDS[kind], 500 + number / 2);
                    let mut vm = testing::listed(&name, state);
                    vm.id = CloudId::new(format!("unfiled-{number}"));
                    vm.processors = processors;
                    snapshot.unfiled.push(vm);
                }
                snapshot.foreign_machines = foreign.0;
                snapshot.foreign_processors = Processors::new(foreign.0 * foreign.1);
                for (kind, history) in KINDS.iter().zip(histories) {
                    let name = MachinetypeName::new(*kind).unwrap();
                    snapshot.history.insert(name, history);
                }
                snapshot.exhausted.extend(exhausted);
                snapshot.previous_scan = scans.0;
                snapshot.empty_scans = scans.1;
                snapshot.listening_since = scans.2;
                let listed = snapshot.machines.iter().any(|one| !one.listed.is_empty());
                if !listed && snapshot.unfiled.is_empty() {
                    for machine in &mut snapshot.machines {
                        machine.missed_scans = machine.missed_scans.max(scans.1);
                    }
                }
                (config.0, snapshot)
            },
        )
}

/// A flavor, and a zone or none, whether the space has such or not.
fn place() -> impl Strategy<Value = Place> {
    let flavor = select(vec!["flavor-one", "flavor-two", "flavor-eight"]);
    let zone = select(vec![None, Some("east"), Some("west")]);
    (flavor, zone).prop_map(|(flavor, zone)| Place {
        flavor: flavor.to_owned(),
        zone: zone.map(str::to_owned),
    })
}

/// Machines get their names late, so that no two have the same.
fn rename(machine: &mut Machine, number: usize) {
    let name = format!("vcycle-{}-{number:0>10}", machine.files.machinetype);
    machine.files.name = name.parse().unwrap();
    machine.files.id = machine
        .files
        .id
        .take()
        .map(|_| CloudId::new(format!("id-{name}-0")));
    for (copy, vm) in machine.listed.iter_mut().enumerate() {
        vm.name.clone_from(&name);
        vm.id = CloudId::new(format!("id-{name}-{copy}"));
    }
}

fn state() -> impl Strategy<Value = MachineState> {
    select(STATES.to_vec())
}

fn processors() -> impl Strategy<Value = Option<Processors>> {
    of(select(vec![1, 2, 4, 8]).prop_map(Processors::new))
}

/// A moment from a day ago to a little ahead (a clock may have stepped back), often near the
/// rules' edges.
fn moment() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        2 => -200i64..0,
        2 => select(vec![-3601i64, -3600, -1201, -1200, -601, -600, -599, -300, -60, -30, 0]),
        2 => -8000i64..0,
        1 => -90_000i64..100,
    ]
    .prop_map(at)
}

fn past() -> impl Strategy<Value = Option<Timestamp>> {
    weighted(0.8, moment())
}

fn soon() -> impl Strategy<Value = Timestamp> {
    prop_oneof![-3i64..3, -4000i64..90_000].prop_map(at)
}

fn limit(most: u32) -> impl Strategy<Value = Option<u32>> {
    weighted(0.4, 0..most)
}

fn space() -> impl Strategy<Value = (SpaceConfig, CloudLimits)> {
    (
        (limit(30), limit(120)),
        (limit(40), limit(120)),
        (weighted(0.15, soon()), weighted(0.15, soon())),
        select(vec![0, 60, 600]),
        vec(machinetype(), 0..4),
        select(vec!["", "", "east", "east west"]),
    )
        .prop_map(
            |(limits, quota, shutdown_time, grace, machinetypes, zones)| {
                let mut config = testing::space("");
                config.api = testing::openstack(zones);
                (config.max_machines, config.processors_limit) = limits;
                (config.shutdown_time, config.ordered_shutdown) = shutdown_time;
                config.grace = Seconds::new(grace);
                config.cleanup = Seconds::new(3600);
                for (name, mut machinetype) in KINDS.iter().zip(machinetypes) {
                    machinetype.name = MachinetypeName::new(*name).unwrap();
                    let name = machinetype.name.clone();
                    config.machinetypes.insert(name, machinetype);
                }
                let quota = CloudLimits {
                    machines: quota.0,
                    processors: quota.1,
                };
                (config, quota)
            },
        )
}

fn machinetype() -> impl Strategy<Value = MachinetypeConfig> {
    let flavors = select(vec![
        "one",
        "two",
        "one eight",
        "eight one",
        "four two",
        "none",
        "eight none two",
    ]);
    (
        select(vec![0.0, 0.5, 1.0, 1.0, 2.0, 7.0]),
        flavors,
        (of(0.5f64..30.0), of(0.5f64..30.0)),
        (limit(12), limit(40), limit(12), weighted(0.2, 1u32..9)),
        (select(vec![0, 60, 600]), select(vec![0, 60, 600])),
        (
            any::<bool>(),
            select(vec![0, 60, 1200]),
            select(vec![1200, 86_400]),
        ),
        weighted(0.05, Just(())),
    )
        .prop_map(|(share, flavors, hs06, limits, pauses, beat, image)| {
            let mut config = testing::machinetype("x", &format!("flavor_names={flavors}"));
            config.target_share = Share::new(share).unwrap();
            config.hs06 = hs06.0.map(|power| Hs06::new(power).unwrap());
            if config.hs06.is_none() {
                config.hs06_per_processor = hs06.1.map(|power| Hs06::new(power).unwrap());
            }
            (config.max_machines, config.processors_limit) = (limits.0, limits.1);
            config.max_starting_processors = limits.2;
            config.max_processors = limits.3.map(Processors::new);
            config.backoff = Seconds::new(pauses.0);
            config.fizzle = Seconds::new(pauses.1);
            config.heartbeat_file = beat.0.then(|| "beat".to_owned());
            config.heartbeat = Seconds::new(beat.1);
            config.max_wallclock = Seconds::new(beat.2);
            if image.is_some() {
                config.root_image = ImageSource::File("/image".into());
            }
            config
        })
}

fn history() -> impl Strategy<Value = History> {
    (weighted(0.4, moment()), weighted(0.3, (1u32..9, moment()))).prop_map(
        |(last_abort, failed)| History {
            last_abort,
            failures: failed.map_or(0, |(count, _)| count),
            last_failure: failed.map(|(_, time)| time),
        },
    )
}

fn machine() -> impl Strategy<Value = Machine> {
    let files = (
        0..KINDS.len(),
        moment(),
        past(),
        (weighted(0.2, moment()), any::<bool>()),
        (weighted(0.3, moment()), 0u32..5),
        (weighted(0.5, soon()), of(select(vec![1200u64, 86_400]))),
    );
    let seen = (
        prop_oneof![
            8 => vec(vm(), 1..2),
            1 => vec(vm(), 2..4),
            4 => Just(Vec::new()),
        ],
        weighted(0.85, Just(())),
        1u32..12,
        weighted(0.3, moment()),
        heartbeat(),
        message(),
    );
    let rest = (
        processors(),
        weighted(0.2, moment()),
        of(any::<bool>()),
        of(0u64..900),
        weighted(0.6, place()),
    );
    (files, seen, rest).prop_map(|(files, seen, rest)| {
        let (kind, created, started, end, delete, told) = files;
        let (listed, id, missed, last_running, heartbeat, shutdown_message) = seen;
        let mut files = testing::files(&format!("vcycle-{}-0000000000", KINDS[kind]), 0);
        files.created = created;
        files.id = id.map(|()| CloudId::new("id"));
        files.started = started
            .filter(|_| id.is_some())
            .map(|time| time.max(created));
        files.stopped = end.0;
        files.finished = end.0.filter(|_| end.1);
        (files.deleted, files.shutdowntime) = (delete.0, told.0);
        files.wall_limit = told.1.map(Seconds::new);
        (files.processors, files.updated) = (rest.0, rest.1);
        files.ended = rest
            .2
            .map(|beat| if beat { Ended::Heartbeat } else { Ended::Other });
        files.fizzle = rest.3.map(Seconds::new);
        if let Some(place) = rest.4 {
            (files.flavor, files.zone) = (Some(place.flavor), place.zone);
        }
        Machine {
            missed_scans: if listed.is_empty() { missed } else { 0 },
            unconfirmed: false,
            files,
            listed,
            first_running: last_running,
            last_running,
            heard_since: None,
            delete_tries: delete.1,
            heartbeat,
            shutdown_message,
            awaits_message: false,
        }
    })
}

/// A machine that is not listed and should be.
fn absent() -> impl Strategy<Value = Machine> {
    machine().prop_map(|mut machine| {
        machine.listed.clear();
        machine.missed_scans = machine.missed_scans.max(1);
        machine.files.id = Some(CloudId::new("id"));
        machine.files.stopped = None;
        machine.files.finished = None;
        machine.files.deleted = None;
        machine
    })
}

fn vm() -> impl Strategy<Value = CloudMachine> {
    let rest = (
        weighted(0.4, select(vec![Shortage::Hosts, Shortage::Quota])),
        weighted(0.2, Just(vec!["volume-1".to_owned()])),
    );
    (state(), processors(), past(), past(), past(), rest).prop_map(
        |(state, processors, created, started, updated, rest)| {
            let mut vm = testing::listed("x", state);
            vm.processors = processors;
            (vm.created, vm.started, vm.updated) = (created, started, updated);
            vm.shortage = rest.0.filter(|_| state == MachineState::Failed);
            vm.volumes = rest.1.unwrap_or_default();
            vm
        },
    )
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    prop_oneof![
        Just(Heartbeat::Unknown),
        Just(Heartbeat::Missing),
        moment().prop_map(Heartbeat::At),
    ]
}

fn message() -> impl Strategy<Value = Option<ShutdownMessage>> {
    of(
        select(vec!["200 Done", "300 Nothing", "699 x", "700 y", "no code"])
            .prop_map(ShutdownMessage::parse),
    )
}

/// What a cloud does with the machines that it is asked for and asked to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obedience {
    /// It takes the requests and shows nothing of it yet.
    Slow,
    /// What is deleted is gone at once, what is created is starting at once.
    Prompt,
}

/// Carries a plan out at the same moment.
pub fn apply(config: &SpaceConfig, snapshot: &mut SpaceSnapshot, plan: &Plan, cloud: Obedience) {
    for action in &plan.bookkeeping {
        write_down(snapshot, action);
    }
    for delete in &plan.deletes {
        let machine = find(snapshot, delete.machine.as_str());
        if delete.reason != crate::decide::Reason::Duplicate {
            machine.files.deleted = Some(NOW);
            machine.delete_tries += 1;
            if delete.message.is_some() {
                machine.files.ended.get_or_insert(delete.reason.ended());
            }
        }
        if cloud == Obedience::Prompt {
            machine.listed.retain(|vm| vm.id != delete.id);
        }
    }
    if cloud == Obedience::Prompt {
        for create in &plan.creates {
            let name = create.machine.as_str();
            let mut machine = testing::machine(name, MachineState::Starting, NOW.unix());
            machine.listed[0].processors = Some(create.placements[0].flavor.processors);
            machine.files.wall_limit = Some(config.machinetypes[&create.machinetype].max_wallclock);
            snapshot.machines.push(machine);
        }
    }
}

fn find<'a>(snapshot: &'a mut SpaceSnapshot, name: &str) -> &'a mut Machine {
    let mut machines = snapshot.machines.iter_mut();
    machines
        .find(|machine| machine.files.name.as_str() == name)
        .unwrap()
}

fn write_down(snapshot: &mut SpaceSnapshot, action: &Bookkeeping) {
    match action {
        Bookkeeping::Adopt {
            machine,
            machinetype,
            listed,
        } => {
            let mut files = testing::files(machine.as_str(), NOW.unix());
            files.created = listed.created.unwrap_or(NOW).min(NOW);
            files.machinetype = machinetype.clone();
            files.id = Some(listed.id.clone());
            let (same, other) = std::mem::take(&mut snapshot.unfiled)
                .into_iter()
                .partition(|vm| vm.name == listed.name);
            snapshot.unfiled = other;
            snapshot.machines.push(Machine {
                listed: same,
                missed_scans: 0,
                unconfirmed: false,
                ..testing::unlisted(files)
            });
        }
        Bookkeeping::Identify { machine, id } => {
            find(snapshot, machine.as_str()).files.id = Some(id.clone());
        }
        Bookkeeping::Start { machine, at, .. } => {
            find(snapshot, machine.as_str()).files.started = Some(*at);
        }
        Bookkeeping::Miss {
            machine,
            last_running,
        } => find(snapshot, machine.as_str()).files.updated = Some(*last_running),
        Bookkeeping::Reopen { machine } => {
            let files = &mut find(snapshot, machine.as_str()).files;
            (files.updated, files.logged) = (None, None);
            (files.stopped, files.finished) = (None, None);
        }
        Bookkeeping::Return { machine } => {
            find(snapshot, machine.as_str()).files.updated = None;
        }
        Bookkeeping::Shutdowntime { machine, at } => {
            find(snapshot, machine.as_str()).files.shutdowntime = Some(*at);
        }
        Bookkeeping::Finish(finish) => {
            let machine = find(snapshot, finish.machine.as_str());
            machine.files.stopped = Some(finish.stopped);
            machine.files.clock_set_back = Some(finish.set_back);
            machine.files.finished = Some(NOW);
            let history = snapshot
                .history
                .entry(finish.machinetype.clone())
                .or_default();
            if finish.abort {
                history.last_abort = history.last_abort.max(Some(finish.stopped));
            }
            if finish.pauses {
                history.failures += 1;
                history.last_failure = Some(NOW);
            }
        }
        Bookkeeping::Stop {
            machine,
            at,
            set_back,
        } => {
            let files = &mut find(snapshot, machine.as_str()).files;
            files.stopped = Some(*at);
            files.clock_set_back = Some(*set_back);
        }
        Bookkeeping::KeepJoboutputs { machine, .. } => {
            find(snapshot, machine.as_str()).files.logged = Some(NOW);
        }
        Bookkeeping::Volumes { machine, volumes } => {
            find(snapshot, machine.as_str())
                .files
                .volumes
                .clone_from(volumes);
        }
        Bookkeeping::Exhausted { places, at, .. } => {
            for place in places {
                let known = snapshot.exhausted.entry(place.clone()).or_insert(*at);
                *known = (*known).max(*at);
            }
        }
        Bookkeeping::Forget { machine } => {
            let machines = &mut snapshot.machines;
            machines.retain(|one| one.files.name != *machine);
        }
    }
}

/// The counters of one more scan.
pub fn scan_again(snapshot: &mut SpaceSnapshot) {
    let mut expected = false;
    let mut any_listed = !snapshot.unfiled.is_empty();
    for machine in &mut snapshot.machines {
        if machine.listed.is_empty() {
            machine.missed_scans += 1;
            expected |= machine.files.id.is_some() && machine.files.stopped.is_none();
        } else {
            machine.missed_scans = 0;
            any_listed = true;
            let running = |vm: &CloudMachine| vm.state == MachineState::Running;
            if machine.listed.iter().any(running) {
                machine.last_running = Some(NOW);
            }
        }
    }
    snapshot.empty_scans = match expected && !any_listed {
        true => snapshot.empty_scans + 1,
        false => 0,
    };
}

/// How often each word came up.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<String, u32>);

impl Tally {
    /// Counts the name of an enum's variant, without its fields.
    pub fn note(&mut self, value: &impl std::fmt::Debug) {
        let text = format!("{value:?}");
        let word: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
        *self.0.entry(word).or_default() += 1;
    }

    /// Asserts that each of these came up.
    #[track_caller]
    pub fn expect(&self, words: &str) {
        let missing: Vec<_> = words
            .split_whitespace()
            .filter(|word| !self.0.contains_key(*word))
            .collect();
        assert!(
            missing.is_empty(),
            "never came up: {missing:?}; {:?}",
            self.0
        );
    }
}
