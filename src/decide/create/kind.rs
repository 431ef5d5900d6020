//! One machinetype while the plan grows: what it has, and the rules for one more machine of it.

use std::collections::BTreeMap;

use super::room::Room;
use crate::config::{ImageSource, MachinetypeConfig};
use crate::decide::blocked::{Blocked, Unit};
use crate::decide::finish;
use crate::decide::placement::{self, Usable};
use crate::decide::plan::{Bookkeeping, MachinetypeReport};
use crate::decide::rules::{Check, Rule};
use crate::decide::view::View;
use crate::model::{
    History, Hs06, ImageState, MachineState, MachinetypeName, Processors, Seconds, Timestamp,
};

/// The longest pause after failed creations.
const MAX_FAILURE_PAUSE: u64 = 3600;

/// The pause after so many failed creations or boots in a row: a minute, doubled each time, up to
/// an hour.
fn failure_pause(failures: u32) -> Seconds {
    let doubled = failures.saturating_sub(1).min(6);
    Seconds::new((60u64 << doubled).min(MAX_FAILURE_PAUSE))
}

/// One machinetype while the plan grows.
pub(super) struct Kind<'a> {
    pub config: &'a MachinetypeConfig,
    pub flavors: Vec<Usable<'a>>,
    /// The rules that do not change within the pass, in the order in which they are told.
    pub rules: Vec<Rule>,
    /// Whether any of them forbids new machines.
    pub standing: Result<(), Blocked>,
    machines: u32,
    starting: u32,
    running: u32,
    /// Machines that are starting, or running for less than fizzle_seconds.
    young: u32,
    processors: Processors,
    starting_processors: Processors,
    pub weight: f64,
    created: u32,
    trial_until: Option<Timestamp>,
}

impl Kind<'_> {
    pub fn take(&mut self, processors: Processors, unit: Unit, now: Timestamp) {
        self.created += 1;
        self.count(processors, unit);
        self.note_state(MachineState::Starting, None, processors, now);
    }

    /// One more machine, whatever its state.
    fn count(&mut self, processors: Processors, unit: Unit) {
        self.machines += 1;
        self.processors = self.processors + processors;
        self.weight += share_weight(self.config, processors, unit);
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
    pub const fn trial(&self) -> Rule {
        Rule::Trial {
            until: self.trial_until,
            young: self.young,
        }
    }

    /// The rules for one more machine of a flavor: the cloud's room, the machinetype's own limits,
    /// and those of the space.
    pub fn flavor_rules(&self, room: &Room, usable: &Usable<'_>) -> impl Iterator<Item = Rule> {
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

    pub fn report(&self, stopped_by: Blocked, rules: Vec<Check>) -> MachinetypeReport {
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

/// All configured machinetypes with what they have now.
pub(super) fn all<'a>(view: &View<'a>, bookkeeping: &[Bookkeeping], unit: Unit) -> Vec<Kind<'a>> {
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

/// What is known of a machinetype from before, and from the ends that this pass has found.
fn history(view: &View<'_>, config: &MachinetypeConfig, bookkeeping: &[Bookkeeping]) -> History {
    let known = view.snapshot.history.get(&config.name);
    let mut history = known.copied().unwrap_or_default();
    let ends = bookkeeping.iter().filter_map(Bookkeeping::finish);
    for finish in ends.filter(|finish| finish.machinetype == config.name) {
        if finish.abort {
            history.last_abort = history.last_abort.max(Some(finish.stopped));
        }
        if finish.pauses {
            history.note_failure(view.now);
        }
    }
    // An end can wait for its message for hours, in which the next machines would fizzle as well.
    history.last_abort = history.last_abort.max(provisional_abort(view, config));
    // One in the future was noted before the clock was set back: it is brought back to when that was
    // found, which is now ([`crate::record::Recorder::bring_back_aborts`]).
    history.last_abort = history.last_abort.map(|at| at.min(view.now));
    history
}

/// The latest end that is an abort unless the message that is still waited for says otherwise.
fn provisional_abort(view: &View<'_>, config: &MachinetypeConfig) -> Option<Timestamp> {
    let machines = view.machines.iter();
    machines
        .filter(|machine| machine.machine.files.machinetype == config.name)
        .filter_map(|machine| finish::provisional(view, machine))
        .filter(|end| end.abort)
        .map(|end| end.stopped)
        .max()
}

fn new_kind<'a>(
    view: &View<'a>,
    config: &'a MachinetypeConfig,
    bookkeeping: &[Bookkeeping],
) -> Kind<'a> {
    let history = history(view, config, bookkeeping);
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
    // One in the future was noted before the clock was set back: its pause is over.
    let last_failure = history
        .last_failure
        .filter(|last| history.failures > 0 && *last <= view.now);
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

/// The power of one machine as it counts for target shares. HEPscore23 stands in for
/// HEPSPEC06 where only that is known: its scale was chosen so that the two agree on the machine
/// that it was made on, while 1.0 would be wrong by a factor of ten beside a machinetype with hs06.
fn share_weight(machinetype: &MachinetypeConfig, processors: Processors, unit: Unit) -> f64 {
    let count = f64::from(processors.get().max(1));
    let configured = machinetype.power(processors).map(Hs06::get);
    let hepscore23 = machinetype.hepscore23_per_processor;
    configured
        .or(hepscore23.map(|each| each * count))
        .unwrap_or(match unit {
            Unit::Machines => Hs06::DEFAULT.get(),
            Unit::Processors => count,
        })
}
