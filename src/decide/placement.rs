//! Where new machines can be placed: the flavors that a machinetype may have, the zones of the
//! space, and the places among them for which the cloud has just had no room.
//!
//! Flavors are a preference: the next one is for when there is no room for the first. Zones are not
//! (the manual page says nothing of an order): each machine begins with the next of them, so that
//! a space spreads over all, and goes on with the others in their order. A place without room is
//! not asked for again for [`EXHAUSTED_FOR`].

use std::collections::BTreeMap;

use super::blocked::Blocked;
use super::plan::{Bookkeeping, NoRoom};
use super::view::{Bucket, MachineView, View};
use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{
    CloudMachine, EXHAUSTED_FOR, Flavor, MachineState, Place, Placement, Shortage, Timestamp,
};

/// Places without room, and until when they are not asked for.
pub(super) type Exhausted = BTreeMap<Place, Timestamp>;

/// A flavor that a machinetype may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usable<'a> {
    pub flavor: &'a Flavor,
    /// Set when there is no room for it in any zone: when it is asked for again in the first.
    pub closed_until: Option<Timestamp>,
}

/// What is exhausted at this moment: what is remembered, and what this scan shows.
pub(super) fn exhausted(view: &View<'_>) -> Exhausted {
    let remembered = view.snapshot.exhausted.iter();
    let remembered = remembered.map(|(place, at)| (place.clone(), *at));
    let shown = view.machines.iter().flat_map(|machine| {
        let shown = shown(view, machine).into_iter();
        shown.flat_map(|(places, at)| places.into_iter().map(move |place| (place, at)))
    });
    let mut all = Exhausted::new();
    for (place, at) in remembered.chain(shown) {
        // What was said in the future was said before the clock was set back, who knows when.
        if at <= view.now && view.now.since(at) < EXHAUSTED_FOR {
            let until = all.entry(place).or_default();
            *until = (at + EXHAUSTED_FOR).max(*until);
        }
    }
    all
}

/// What a machine shows of the cloud's room: where there was none for it, and since when that is
/// known. Only one that never ran does, because what comes later (a migration without a host) is
/// another matter.
fn shown(view: &View<'_>, machine: &MachineView<'_>) -> Option<(Vec<Place>, Timestamp)> {
    let Bucket::Listed(vm, MachineState::Failed) = machine.bucket else {
        return None;
    };
    let files = &machine.machine.files;
    let flavor = files.flavor.clone()?;
    let shortage = vm.shortage.filter(|_| view.started(machine).is_none())?;
    let own = Place {
        flavor,
        zone: files.zone.clone(),
    };
    let at = files.stopped.unwrap_or(view.now);
    Some((places(view.config, own, shortage), at))
}

/// Every place that a shortage found at one of them is about: a quota is the same in all zones.
pub fn places(config: &SpaceConfig, found_at: Place, shortage: Shortage) -> Vec<Place> {
    match shortage {
        Shortage::Hosts => vec![found_at],
        Shortage::Quota => {
            let others = zones(config).into_iter().map(|zone| Place {
                flavor: found_at.flavor.clone(),
                zone,
            });
            let mut all: Vec<Place> = others.filter(|place| *place != found_at).collect();
            all.push(found_at);
            all
        }
    }
}

/// What has to be remembered of the cloud's room beyond the machine that has shown it.
pub(super) fn remember(view: &View<'_>, machine: &MachineView<'_>) -> Option<Bookkeeping> {
    let (places, at) = shown(view, machine)?;
    let is_known = |place: &Place| {
        let known = view.snapshot.exhausted.get(place);
        known.is_some_and(|known| *known >= at && *known <= view.now)
    };
    let over = view.now.since(at) >= EXHAUSTED_FOR;
    (!over && !places.iter().all(is_known)).then(|| Bookkeeping::Exhausted {
        machine: machine.machine.files.name.clone(),
        flavor: places
            .first()
            .map_or_else(String::new, |place| flavor_name(view, &place.flavor)),
        places,
        at,
    })
}

/// Whether a machine that never ran says nothing against its machinetype, because the cloud lacked
/// room for it in one place only.
pub(super) fn has_room_elsewhere(
    view: &View<'_>,
    machinetype: Option<&MachinetypeConfig>,
    listed: Option<&CloudMachine>,
) -> bool {
    let short = listed.is_some_and(|listed| listed.shortage.is_some());
    let usable = machinetype.map(|config| usable(view, config));
    short
        && usable.is_some_and(|usable| {
            usable.is_ok_and(|usable| usable.iter().any(|one| one.closed_until.is_none()))
        })
}

/// The zones of a space; one that is left to the cloud when it has none.
fn zones(config: &SpaceConfig) -> Vec<Option<String>> {
    match config.zones() {
        [] => vec![None],
        zones => zones.iter().cloned().map(Some).collect(),
    }
}

/// The flavors of a machinetype that the cloud has and the configuration allows, in its order.
pub(super) fn usable<'a>(
    view: &View<'a>,
    config: &MachinetypeConfig,
) -> Result<Vec<Usable<'a>>, Blocked> {
    let mut why = Vec::new();
    let mut usable = Vec::new();
    for name in &config.flavor_names {
        let Some(flavor) = view.snapshot.facts.flavor(name) else {
            why.push(format!("the cloud has no flavor {name}"));
            continue;
        };
        let has = flavor.processors;
        if config
            .flavor_min_processors
            .is_some_and(|least| has < least)
        {
            why.push(format!(
                "{name} has {has} processor(s), less than min_processors"
            ));
        } else if config.max_processors.is_some_and(|most| has > most) {
            why.push(format!(
                "{name} has {has} processor(s), more than max_processors"
            ));
        } else {
            usable.push(Usable {
                flavor,
                closed_until: closed_until(view, flavor),
            });
        }
    }
    if usable.is_empty() {
        Err(Blocked::NoFlavor {
            why: why.join("; "),
        })
    } else {
        Ok(usable)
    }
}

/// The first moment at which a flavor without room in any zone is asked for again.
fn closed_until(view: &View<'_>, flavor: &Flavor) -> Option<Timestamp> {
    if view.exhausted.is_empty() {
        return None;
    }
    let until = zones(view.config).into_iter().map(|zone| {
        let flavor = flavor.id.clone();
        view.exhausted.get(&Place { flavor, zone }).copied()
    });
    // One that is open makes the whole of it open.
    until.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The places to try for a machine of `chosen`, in this order: each flavor from that on that needs
/// no more processors, in each zone with room, beginning with the zone whose `turn` it is.
pub(super) fn to_try(
    view: &View<'_>,
    flavors: &[Usable<'_>],
    chosen: &Flavor,
    turn: usize,
) -> Vec<Placement> {
    let mut zones = zones(view.config);
    let first = turn % zones.len().max(1);
    zones.rotate_left(first);
    let flavors = flavors.iter().map(|usable| usable.flavor);
    flavors
        .skip_while(|other| other.id != chosen.id)
        .filter(|other| other.processors <= chosen.processors)
        .flat_map(|flavor| {
            zones.iter().map(|zone| Placement {
                flavor: flavor.clone(),
                zone: zone.clone(),
            })
        })
        .filter(|placement| !view.exhausted.contains_key(&placement.place()))
        .collect()
}

/// What is exhausted, for people.
pub(super) fn report(view: &View<'_>) -> Vec<NoRoom> {
    let exhausted = view.exhausted.iter();
    exhausted
        .map(|(place, until)| NoRoom {
            flavor: flavor_name(view, &place.flavor),
            zone: place.zone.clone(),
            until: *until,
        })
        .collect()
}

/// The name of a flavor; its identifier when the cloud does not have it any more.
fn flavor_name(view: &View<'_>, id: &str) -> String {
    let mut flavors = view.snapshot.facts.flavors.iter();
    let flavor = flavors.find(|flavor| flavor.id == id);
    flavor.map_or_else(|| id.to_owned(), |flavor| flavor.name.clone())
}
