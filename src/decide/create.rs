//! What to create, and why not more (SPEC 7).

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::finish;
use super::placement::{self, Usable};
use super::plan::{
    Blocked, Bookkeeping, Create, MachinetypeReport, Report, SpaceReport, Unit, share_weight,
};
use super::rules::{Check, Rule};
use super::view::View;
use crate::config::{ImageSource, MachinetypeConfig};
use crate::model::{
    Flavor, History, ImageState, MachineName, MachineState, MachinetypeName, Processors, Seconds,
    Timestamp,
};
use crate::rng::{Purpose, Seed};

/// The most machines, or processors, of one cycle, however large the limit: an admin who means
/// "no limit" by max_machines = 1000000000 must not get a plan that fills the memory and a cycle
/// that never ends.
const MAX_A_CYCLE: u32 = 1000;

/// The longest pause after failed creations.
const MAX_FAILURE_PAUSE: u64 = 3600;

/// The pause after so many failed creations or boots in a row: a minute, doubled each time, up to
/// an hour.
fn failure_pause(failures: u32) -> Seconds {
    let doubled = failures.saturating_sub(1).min(6);
    Seconds::new((60u64 << doubled).min(MAX_FAILURE_PAUSE))
}

/// The machines to create now, in order, and the reasons.
pub(super) fn creates(
    view: &View<'_>,
    bookkeeping: &[Bookkeeping],
    seed: Seed,
) -> (Vec<Create>, Report) {
    let mut room = Room::new(view);
    let space = room.report(view);
    let mut kinds = kinds(view, bookkeeping, room.unit);
    let mut ties = seed.stream(Purpose::Ties);
    let mut names = Names::new(view, seed);
    let mut turn = first_turn(view, seed);
    let mut creates = Vec::new();
    while let Some((index, flavor)) = choose(view, &kinds, &room, &mut ties) {
        let kind = &mut kinds[index];
        room.take(flavor.processors);
        kind.take(flavor.processors, room.unit, view.now);
        creates.push(Create {
            machine: names.next(&kind.config.name),
            machinetype: kind.config.name.clone(),
            placements: placement::to_try(view, &kind.flavors, flavor, turn),
        });
        turn = turn.wrapping_add(1);
    }
    let machinetypes = kinds
        .iter()
        .map(|kind| {
            // `choose` has found nothing that qualifies.
            let stopped_by = qualifies(view, kind, &room)
                .err()
                .unwrap_or(Blocked::NoLimitKnown);
            let rules = explain(view, kind, &room, &stopped_by);
            (kind.config.name.clone(), kind.report(stopped_by, rules))
        })
        .collect();
    (
        creates,
        Report {
            space,
            machinetypes,
        },
    )
}

/// Which zone's turn it is for the first new machine.
fn first_turn(view: &View<'_>, seed: Seed) -> usize {
    match view.config.zones().len() {
        0 | 1 => 0,
        several => seed.stream(Purpose::Zones).random_range(0..several),
    }
}

/// The machinetype to create next: of those that qualify, the one that has least of its share;
/// ties are broken at random.
fn choose<'a>(
    view: &View<'_>,
    kinds: &[Kind<'a>],
    room: &Room,
    ties: &mut impl Rng,
) -> Option<(usize, &'a Flavor)> {
    let mut best: Vec<(usize, &'a Flavor)> = Vec::new();
    let mut least = f64::INFINITY;
    for (index, kind) in kinds.iter().enumerate() {
        let filled = kind.weight / kind.config.target_share.get();
        // A division is cheaper than the rules, and a standing reason is not copied for nothing.
        if kind.standing.is_err() || filled > least {
            continue;
        }
        let Ok(flavor) = qualifies(view, kind, room) else {
            continue;
        };
        if filled < least {
            least = filled;
            best.clear();
        }
        best.push((index, flavor));
    }
    match best.len() {
        0 | 1 => best.first().copied(),
        several => best.get(ties.random_range(0..several)).copied(),
    }
}

/// The flavor of the next machine of this kind, or the first rule that forbids one.
fn qualifies<'a>(view: &View<'_>, kind: &Kind<'a>, room: &Room) -> Result<&'a Flavor, Blocked> {
    kind.standing.clone()?;
    if let Some(blocked) = kind.trial().forbids(view.now) {
        return Err(blocked);
    }
    let mut why = None;
    for usable in &kind.flavors {
        let mut rules = kind.flavor_rules(room, usable);
        match rules.find_map(|rule| rule.forbids(view.now)) {
            None => return Ok(usable.flavor),
            Some(blocked) if blocked.passes_soon() => return Err(blocked),
            Some(blocked) => why = why.or(Some(blocked)),
        }
    }
    // `standing` has made sure that there is a flavor.
    Err(why.unwrap_or(Blocked::NoFlavor { why: String::new() }))
}

/// The rules that [`qualifies`] goes by, in its order, and which of them has given the reason.
fn explain(view: &View<'_>, kind: &Kind<'_>, room: &Room, reason: &Blocked) -> Vec<Check> {
    let general = kind.rules.iter().cloned().chain([kind.trial()]);
    let of_flavors = kind.flavors.iter().flat_map(|usable| {
        let flavor = &usable.flavor.name;
        let rules = kind.flavor_rules(room, usable);
        rules.map(move |rule| (rule, Some(flavor.clone())))
    });
    let mut is_given = false;
    general
        .map(|rule| (rule, None))
        .chain(of_flavors)
        .map(|(rule, of_flavor)| {
            let blocked = rule.forbids(view.now);
            let decides = !is_given && blocked.as_ref() == Some(reason);
            is_given |= decides;
            Check {
                rule,
                of_flavor,
                forbids: blocked.is_some(),
                decides,
            }
        })
        .collect()
}

impl Blocked {
    /// Whether this ends by itself within a few cycles: then waiting for the preferred flavor is
    /// better than filling the space with a lesser one.
    const fn passes_soon(&self) -> bool {
        match self {
            Self::CycleCap { .. } => true,
            Self::StartingProcessors { have, .. } => have.get() > 0,
            Self::NoTargetShare
            | Self::ShutdownTime { .. }
            | Self::SuspectScan { .. }
            | Self::NoLimitKnown
            | Self::NoFlavor { .. }
            | Self::Exhausted { .. }
            | Self::Image { .. }
            | Self::Unsupported { .. }
            | Self::Backoff { .. }
            | Self::Trial { .. }
            | Self::Failing { .. }
            | Self::MachinetypeMachines { .. }
            | Self::MachinetypeProcessors { .. }
            | Self::SpaceMachines { .. }
            | Self::SpaceProcessors { .. } => false,
        }
    }
}

/// One machinetype while the plan grows.
struct Kind<'a> {
    config: &'a MachinetypeConfig,
    flavors: Vec<Usable<'a>>,
    /// The rules that do not change within the pass, in the order in which they are told.
    rules: Vec<Rule>,
    /// Whether any of them forbids new machines.
    standing: Result<(), Blocked>,
    machines: u32,
    starting: u32,
    running: u32,
    /// Machines that are starting, or running for less than fizzle_seconds.
    young: u32,
    processors: Processors,
    starting_processors: Processors,
    weight: f64,
    created: u32,
    trial_until: Option<Timestamp>,
}

impl Kind<'_> {
    fn take(&mut self, processors: Processors, unit: Unit, now: Timestamp) {
        self.created += 1;
        self.count(processors, unit);
        self.note_state(MachineState::Starting, None, processors, now);
    }

    /// One more machine, whatever its state.
    fn count(&mut self, processors: Processors, unit: Unit) {
        self.machines += 1;
        self.processors = self.processors + processors;
        self.weight += weight(self.config, processors, unit);
    }

    /// What the state of a machine adds.
    fn note_state(
        &mut self,
        state: MachineState,
        started: Option<Timestamp>,
        processors: Processors,
        now: Timestamp,
    ) {
        match state {
            MachineState::Starting => {
                self.starting += 1;
                self.young += 1;
                self.starting_processors = self.starting_processors + processors;
            }
            MachineState::Running => {
                self.running += 1;
                if started.is_none_or(|at| now.since(at) < self.config.fizzle) {
                    self.young += 1;
                }
            }
            MachineState::Shutdown
            | MachineState::Deleting
            | MachineState::Failed
            | MachineState::Unknown => {}
        }
    }

    /// After a backoff one machine at a time is tried until one survives fizzle_seconds.
    const fn trial(&self) -> Rule {
        Rule::Trial {
            until: self.trial_until,
            young: self.young,
        }
    }

    /// The rules for one more machine of a flavor: the cloud's room, the machinetype's own limits,
    /// and those of the space.
    fn flavor_rules(&self, room: &Room, usable: &Usable<'_>) -> impl Iterator<Item = Rule> {
        let need = usable.flavor.processors;
        let of_the_cloud = Rule::FlavorRoom {
            flavor: usable.flavor.name.clone(),
            until: usable.closed_until,
        };
        let own = [
            Rule::MachinetypeMachines {
                have: self.machines,
                limit: self.config.max_machines,
            },
            Rule::MachinetypeProcessors {
                have: self.processors,
                need,
                limit: self.config.processors_limit,
            },
            Rule::StartingProcessors {
                have: self.starting_processors,
                need,
                limit: self.config.max_starting_processors,
            },
        ];
        let rules = [of_the_cloud].into_iter().chain(own);
        rules.chain(room.rules(need))
    }

    fn report(&self, stopped_by: Blocked, rules: Vec<Check>) -> MachinetypeReport {
        MachinetypeReport {
            machines: self.machines,
            starting: self.starting,
            running: self.running,
            processors: self.processors,
            weight: self.weight,
            target_share: self.config.target_share.get(),
            creates: self.created,
            stopped_by,
            rules,
        }
    }
}

fn weight(config: &MachinetypeConfig, processors: Processors, unit: Unit) -> f64 {
    share_weight(config, processors, unit)
}

/// All configured machinetypes with what they have now.
fn kinds<'a>(view: &View<'a>, bookkeeping: &[Bookkeeping], unit: Unit) -> Vec<Kind<'a>> {
    let mut kinds: BTreeMap<&MachinetypeName, Kind<'a>> = view
        .config
        .machinetypes
        .values()
        .map(|config| (&config.name, new_kind(view, config, bookkeeping)))
        .collect();
    for machine in &view.machines {
        let Some(kind) = kinds.get_mut(&machine.machine.files.machinetype) else {
            continue;
        };
        if machine.counts() {
            kind.count(machine.processors(), unit);
            kind.note_state(
                machine.state(),
                view.started(machine),
                machine.processors(),
                view.now,
            );
        }
        for duplicate in &machine.duplicates {
            let processors = duplicate.processors.unwrap_or_else(|| machine.processors());
            kind.count(processors, unit);
        }
    }
    for listed in &view.unfiled {
        let Some(kind) = finish::machinetype_of(listed).and_then(|name| kinds.get_mut(&name))
        else {
            continue;
        };
        let processors = listed.processors.unwrap_or(kind.config.min_processors);
        kind.count(processors, unit);
        kind.note_state(listed.state, listed.started, processors, view.now);
    }
    kinds.into_values().collect()
}

fn new_kind<'a>(
    view: &View<'a>,
    config: &'a MachinetypeConfig,
    bookkeeping: &[Bookkeeping],
) -> Kind<'a> {
    let mut history = view
        .snapshot
        .history
        .get(&config.name)
        .copied()
        .unwrap_or_default();
    for action in bookkeeping {
        if let Bookkeeping::Finish(finish) = action
            && finish.machinetype == config.name
        {
            if finish.abort {
                history.last_abort = history.last_abort.max(Some(finish.stopped));
            }
            if finish.pauses {
                history.note_failure(view.now);
            }
        }
    }
    let flavors = placement::usable(view, config);
    let backoff_until = history.last_abort.map(|at| at + config.backoff);
    let no_flavor = flavors.as_ref().err();
    let rules = standing_rules(view, config, &history, backoff_until, no_flavor);
    let forbidden = rules.iter().find_map(|rule| rule.forbids(view.now));
    Kind {
        config,
        flavors: flavors.unwrap_or_default(),
        rules,
        standing: forbidden.map_or(Ok(()), Err),
        machines: 0,
        starting: 0,
        running: 0,
        young: 0,
        processors: Processors::default(),
        starting_processors: Processors::default(),
        weight: 0.0,
        created: 0,
        trial_until: backoff_until.map(|until| until + config.fizzle),
    }
}

/// The rules whose numbers do not change within the pass, in the order in which they are told.
fn standing_rules(
    view: &View<'_>,
    config: &MachinetypeConfig,
    history: &History,
    backoff_until: Option<Timestamp>,
    no_flavor: Option<&Blocked>,
) -> Vec<Rule> {
    let last_failure = history.last_failure.filter(|_| history.failures > 0);
    vec![
        Rule::TargetShare {
            share: config.target_share.get(),
        },
        Rule::ShutdownTime {
            at: view.config.down_by(),
            // A machine is never told of an end that is nearer than the grace, and one that has not
            // lived for fizzle_seconds was made for nothing.
            least: view.config.grace.max(config.fizzle),
            ordered: view.config.is_ordered_down(),
        },
        Rule::Listing {
            missing: view.suspect,
            scans: view.snapshot.empty_scans.max(1),
        },
        root_image(view, config),
        Rule::Backoff {
            last_abort: history.last_abort,
            seconds: config.backoff,
            until: backoff_until,
        },
        Rule::Failing {
            failures: history.failures,
            until: last_failure.map(|last| last + failure_pause(history.failures)),
        },
        Rule::Flavors {
            names: config.flavor_names.clone(),
            why: no_flavor.map(|blocked| match blocked {
                Blocked::NoFlavor { why } => why.clone(),
                other => other.to_string(),
            }),
        },
    ]
}

/// Whether there is something to boot from.
fn root_image(view: &View<'_>, config: &MachinetypeConfig) -> Rule {
    let (mut waits, mut unsupported) = (None, None);
    let image = match &config.root_image {
        ImageSource::Cloud(image) => {
            unsupported = config.cernvm_signing_dn.as_ref().map(|_| {
                format!(
                    "cernvm_signing_dn cannot be checked of image:{image}, which only the cloud has: give root_image as a file or URL, or leave cernvm_signing_dn out"
                )
            });
            format!("image:{image}")
        }
        ImageSource::File(_) | ImageSource::Url(_) => {
            let state = view.snapshot.images.get(&config.name);
            let text = state.map_or_else(|| "not looked at yet".to_owned(), ToString::to_string);
            match state {
                Some(ImageState::Ready { .. }) => {}
                Some(
                    ImageState::Uploading { .. }
                    | ImageState::Waiting { .. }
                    | ImageState::Unwanted,
                )
                | None => waits = Some(text.clone()),
            }
            text
        }
    };
    Rule::RootImage {
        image,
        waits,
        unsupported,
    }
}

/// What is left of the space's limits.
struct Room {
    machines: u32,
    processors: Processors,
    machines_limit: Option<u32>,
    processors_limit: Option<u32>,
    machines_cap: Option<u32>,
    processors_cap: Option<u32>,
    created: u32,
    created_processors: Processors,
    /// What an hs06-less machine weighs one of.
    unit: Unit,
}

impl Room {
    fn new(view: &View<'_>) -> Self {
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

    fn take(&mut self, processors: Processors) {
        self.count(processors);
        self.created += 1;
        self.created_processors = self.created_processors + processors;
    }

    /// The limits of the space for one more machine with `need` processors.
    fn rules(&self, need: Processors) -> [Rule; 5] {
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

    fn report(&self, view: &View<'_>) -> SpaceReport {
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

/// Names for new machines that no machine of the space has.
struct Names<'a> {
    view: &'a View<'a>,
    given: BTreeSet<MachineName>,
    rng: rand_chacha::ChaCha8Rng,
}

impl<'a> Names<'a> {
    fn new(view: &'a View<'a>, seed: Seed) -> Self {
        Self {
            view,
            given: BTreeSet::new(),
            rng: seed.stream(Purpose::Names),
        }
    }

    fn next(&mut self, machinetype: &MachinetypeName) -> MachineName {
        loop {
            let name = MachineName::generate(machinetype, || {
                self.rng.random_range(0..MachineName::ALPHABET.len())
            });
            if !self.is_taken(&name) && self.given.insert(name.clone()) {
                return name;
            }
        }
    }

    fn is_taken(&self, name: &MachineName) -> bool {
        let machines = &self.view.machines;
        machines
            .binary_search_by(|machine| machine.machine.files.name.cmp(name))
            .is_ok()
            || self
                .view
                .snapshot
                .unfiled
                .iter()
                .any(|listed| listed.machine_name().as_ref() == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{decide, testing};

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
