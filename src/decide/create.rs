//! What to create, and why not more: as long as a machinetype may have another machine, the
//! one that has least of its share gets it.

mod kind;
mod names;
mod room;

use rand::Rng;

use self::kind::Kind;
use self::names::Names;
use self::room::Room;
use super::blocked::Blocked;
use super::placement;
use super::plan::{Bookkeeping, Create, MachinetypeReport, Report, Tried};
use super::rules::Check;
use super::view::View;
use crate::model::{Flavor, MachinetypeName};
use crate::rng::{Purpose, Seed};

/// The machines to create now, in order, and the reasons.
pub(super) fn creates(
    view: &View<'_>,
    bookkeeping: &[Bookkeeping],
    seed: Seed,
) -> (Vec<Create>, Report) {
    let mut room = Room::new(view);
    let space = room.report(view);
    let mut kinds = kind::all(view, bookkeeping, room.unit);
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
    // `choose` has found nothing that qualifies.
    let otherwise = |_: &Kind<'_>| Blocked::NoLimitKnown;
    let machinetypes = kinds
        .iter()
        .map(|kind| told(view, kind, &room, otherwise))
        .collect();
    (
        creates,
        Report {
            space,
            machinetypes,
        },
    )
}

/// The report when only some of the creations succeeded. Where the rules now allow one more, it was
/// a refusal that has kept it from being there.
pub(super) fn report_after(view: &View<'_>, bookkeeping: &[Bookkeeping], tried: &Tried) -> Report {
    let mut room = Room::new(view);
    let space = room.report(view);
    let mut kinds = kind::all(view, bookkeeping, room.unit);
    for create in &tried.made {
        let kind = kinds
            .iter_mut()
            .find(|kind| kind.config.name == create.machinetype);
        // What was reserved for it, whichever of the places has taken it.
        let reserved = create.placements.first();
        if let (Some(kind), Some(reserved)) = (kind, reserved) {
            let processors = reserved.flavor.processors;
            room.take(processors);
            kind.take(processors, room.unit, view.now);
        }
    }
    let otherwise = |kind: &Kind<'_>| refused(kind, tried);
    let machinetypes = kinds
        .iter()
        .map(|kind| told(view, kind, &room, otherwise))
        .collect();
    Report {
        space,
        machinetypes,
    }
}

/// The refusal because of which there is no more of a machinetype: its own, or that of another
/// for which the room was meant.
fn refused(kind: &Kind<'_>, tried: &Tried) -> Blocked {
    if let Some(refused) = tried.refused.get(&kind.config.name) {
        return Blocked::Refused {
            failures: refused.failures,
            error: refused.error.clone(),
        };
    }
    match tried.refused.first_key_value() {
        Some((other, refused)) => Blocked::Refused {
            failures: 0,
            error: format!("machinetype {other}: {}", refused.error),
        },
        None => Blocked::NoLimitKnown,
    }
}

/// One machinetype with the first rule that forbids one more of it, or what `otherwise` gives when
/// none does.
fn told(
    view: &View<'_>,
    kind: &Kind<'_>,
    room: &Room,
    otherwise: impl FnOnce(&Kind<'_>) -> Blocked,
) -> (MachinetypeName, MachinetypeReport) {
    let forbidden = qualifies(view, kind, room).err();
    let stopped_by = forbidden.unwrap_or_else(|| otherwise(kind));
    let rules = explain(view, kind, room, &stopped_by);
    (kind.config.name.clone(), kind.report(stopped_by, rules))
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
