//! What is left over, and when it is removed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::testing;
use crate::config::{ImageSource, SpaceConfig};
use crate::decide::leaks::{
    self as judge, LOOK_EVERY, Leaks, MOST_REMOVALS, SEEN_APART, Sightings, gone, gone_volumes,
    time_to_look,
};
use crate::model::{
    CloudId, ImageState, Leftover, LeftoverKind, MachineState, Seconds, Sighting, SpaceSnapshot,
    Timestamp, User,
};

const HERE: &str = "vcycle-a-aaaaaaaaaa";
const ENDED: &str = "vcycle-a-bbbbbbbbbb";
const UNLISTED: &str = "vcycle-a-cccccccccc";

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_000_000 + seconds)
}

fn config() -> SpaceConfig {
    let mut config = testing::space("");
    let mut machinetype = testing::machinetype("a", "");
    machinetype.root_image = ImageSource::Cloud("wanted".to_owned());
    config
        .machinetypes
        .insert(machinetype.name.clone(), machinetype);
    config
}

/// One machine that runs, with a key and an image; one that has ended, and one that this scan does
/// not list; and somebody else's.
fn snapshot() -> SpaceSnapshot {
    let mut here = testing::machine(HERE, MachineState::Running, 1000);
    here.listed[0].key = Some("key-in-use".to_owned());
    here.listed[0].image = Some("image-in-use".to_owned());
    let mut ended = testing::machine(ENDED, MachineState::Running, 1000);
    ended.listed.clear();
    ended.files.stopped = Some(at(0));
    let mut unlisted = testing::machine(UNLISTED, MachineState::Running, 1000);
    unlisted.listed.clear();
    let mut snapshot = testing::snapshot(vec![here, ended, unlisted]);
    let mut foreign = testing::listed("theirs", MachineState::Running);
    foreign.key = Some("their-key".to_owned());
    snapshot.foreign.push(foreign);
    snapshot
}

/// The same, where the machine that is not listed is being deleted: nothing is missing.
fn complete() -> SpaceSnapshot {
    let mut snapshot = snapshot();
    snapshot.machines[2].files.deleted = Some(at(0));
    snapshot
}

/// A look before which nothing was made.
fn leaks(
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    listed: &BTreeMap<LeftoverKind, Vec<Leftover>>,
    before: &Sightings,
    now: Timestamp,
) -> Leaks {
    judge::leaks(config, snapshot, &BTreeSet::new(), listed, before, now)
}

fn thing(kind: LeftoverKind, id: &str, user: Option<User>) -> Leftover {
    Leftover {
        kind,
        id: id.to_owned(),
        name: format!("name of {id}"),
        user,
    }
}

fn listed(things: &[Leftover]) -> BTreeMap<LeftoverKind, Vec<Leftover>> {
    let mut listed: BTreeMap<_, Vec<_>> = LeftoverKind::ALL.map(|kind| (kind, Vec::new())).into();
    for thing in things {
        listed.entry(thing.kind).or_default().push(thing.clone());
    }
    listed
}

fn ids(leaks: &Leaks) -> Vec<&str> {
    let removals = leaks.removals.iter();
    removals
        .map(|removal| removal.leftover.id.as_str())
        .collect()
}

fn machine(name: &str) -> Option<User> {
    Some(User::Machine(CloudId::new(format!("id-{name}"))))
}

/// Whether a thing is still left over in a second look, long after the first.
fn is_removed(thing: &Leftover) -> bool {
    let (config, snapshot) = (config(), complete());
    let listed = listed(std::slice::from_ref(thing));
    let first = leaks(&config, &snapshot, &listed, &Sightings::new(), at(0));
    assert_eq!(first.removals, [], "never at first sight");
    let second = leaks(&config, &snapshot, &listed, &first.sightings, at(100_000));
    let count = second.counts[&thing.kind];
    let removed = second.removals.len() == 1;
    assert_eq!(
        (count.left, count.used),
        (u32::from(removed), u32::from(!removed))
    );
    removed
}

#[test]
fn what_anything_uses_is_not_left_over() {
    use LeftoverKind::{FloatingIp, Image, Keypair, Port, Volume};
    let other = || Some(User::Other("a router uses it".to_owned()));
    let mut named = thing(Image, "i", None);
    named.name = "wanted".to_owned();
    let cases = [
        (thing(Keypair, "k", None), true),
        (thing(Keypair, "k", Some(User::Configuration)), false),
        (thing(Keypair, "key-in-use", None), false),
        (thing(Keypair, "their-key", None), false),
        (thing(Image, "i", None), true),
        (thing(Image, "wanted", None), false),
        (named, false),
        (thing(Image, "image-in-use", None), false),
        (thing(Image, "i", other()), false),
        (thing(Volume, "v", None), true),
        (thing(Volume, "v", machine(HERE)), false),
        (thing(Volume, "v", machine(ENDED)), true),
        (thing(Port, "p", None), true),
        (thing(Port, "p", other()), false),
        (thing(Port, "p", machine(HERE)), false),
        (thing(Port, "p", machine(ENDED)), true),
        (thing(Port, "p", machine(UNLISTED)), false),
        (thing(Port, "p", machine("theirs")), false),
        (thing(Port, "p", machine("nobody")), true),
        (thing(FloatingIp, "f", None), true),
        (thing(FloatingIp, "f", other()), false),
    ];
    for (thing, expected) in cases {
        assert_eq!(is_removed(&thing), expected, "{thing:?}");
    }
}

#[test]
fn a_thing_is_removed_when_two_looks_far_enough_apart_saw_it_left_over() {
    let (config, snapshot) = (config(), snapshot());
    let port = thing(LeftoverKind::Port, "p", None);
    let used = thing(LeftoverKind::Port, "p", machine(HERE));
    let mut sightings = Sightings::new();
    let mut look = |thing: &Leftover, seconds| {
        let listed = listed(std::slice::from_ref(thing));
        let found = leaks(&config, &snapshot, &listed, &sightings, at(seconds));
        sightings = found.sightings.clone();
        found.removals.len()
    };
    assert_eq!(look(&port, 0), 0);
    assert_eq!(look(&port, SEEN_APART.get() - 1), 0);
    assert_eq!(look(&used, SEEN_APART.get()), 0);
    assert_eq!(look(&port, 1000), 0, "it was in use meanwhile");
    assert_eq!(look(&port, 1000 + SEEN_APART.get()), 1);
    // A clock that goes back begins anew.
    assert_eq!(look(&port, 10), 0);
    assert_eq!(look(&port, 9 + SEEN_APART.get()), 0);
    assert_eq!(look(&port, 10 + SEEN_APART.get()), 1);
}

#[test]
fn what_only_a_listing_tells_of_is_not_removed_while_a_machine_is_not_listed() {
    use LeftoverKind::{Image, Keypair, Port};
    let kinds = [Image, Keypair, Port];
    let things = listed(&kinds.map(|kind| thing(kind, "x", None)));
    let config = config();
    let first = leaks(&config, &complete(), &things, &Sightings::new(), at(0));
    let removed = |snapshot: &SpaceSnapshot, before: &Sightings, now| {
        let found = leaks(&config, snapshot, &things, before, at(now));
        let kinds: Vec<_> = found.removals.iter().map(|one| one.leftover.kind).collect();
        (kinds, found.sightings)
    };
    let (kinds, sightings) = removed(&snapshot(), &first.sightings, 600);
    assert_eq!(kinds, [Port]);
    // They wait for a look in which all machines are there, and for no longer.
    let (kinds, _) = removed(&complete(), &sightings, 1200);
    assert_eq!(kinds, [Keypair, Image, Port]);
}

#[test]
fn what_a_hidden_machine_uses_counts_as_used_until_a_removal_finds_otherwise() {
    let (config, snapshot) = (config(), snapshot());
    let listed = listed(&[thing(LeftoverKind::Port, "p", machine("hidden"))]);
    let mut sighting = Sighting::new(at(0));
    sighting.hidden_use = true;
    let before = Sightings::from([((LeftoverKind::Port, "p".to_owned()), sighting)]);
    let found = leaks(&config, &snapshot, &listed, &before, at(600));
    let count = found.counts[&LeftoverKind::Port];
    assert_eq!((count.left, count.used), (0, 1));
    assert_eq!(ids(&found), ["p"], "it is tried again");
    assert_eq!(found.sightings, before);
}

#[test]
fn what_a_machine_uses_that_was_made_since_the_scan_is_not_left_over() {
    let volume = thing(LeftoverKind::Volume, "v", machine("made"));
    let count = |made: &[&str]| {
        let made = made.iter().copied().map(CloudId::new).collect();
        let listed = listed(std::slice::from_ref(&volume));
        let (config, before) = (config(), Sightings::new());
        let found = judge::leaks(&config, &snapshot(), &made, &listed, &before, at(0));
        let count = found.counts[&LeftoverKind::Volume];
        (count.left, count.used)
    };
    assert_eq!(count(&[]), (1, 0));
    assert_eq!(count(&["id-made"]), (0, 1));
}

#[test]
fn what_is_switched_off_is_counted_all_the_same() {
    let mut config = config();
    config.remove_leaks = false;
    let listed = listed(&[thing(LeftoverKind::Port, "p", None)]);
    let first = leaks(&config, &snapshot(), &listed, &Sightings::new(), at(0));
    let second = leaks(&config, &snapshot(), &listed, &first.sightings, at(10_000));
    assert_eq!(second.counts[&LeftoverKind::Port].left, 1);
    assert_eq!(second.removals, []);
}

#[test]
fn an_uploaded_image_is_left_over_only_when_the_current_copy_is_known() {
    let mut config = config();
    let mut machinetype = testing::machinetype("b", "");
    machinetype.root_image = ImageSource::File("/disk.img".into());
    let name = machinetype.name.clone();
    config.machinetypes.insert(name.clone(), machinetype);
    let things = ["current", "older", "image-in-use"];
    let listed = listed(&things.map(|id| thing(LeftoverKind::Image, id, None)));
    let removals = |config: &SpaceConfig, state: Option<ImageState>| {
        let mut snapshot = complete();
        snapshot.images = state
            .map(|state| (name.clone(), state))
            .into_iter()
            .collect();
        let first = leaks(config, &snapshot, &listed, &Sightings::new(), at(0));
        let second = leaks(config, &snapshot, &listed, &first.sightings, at(10_000));
        let left = second.counts[&LeftoverKind::Image].left;
        let ids: Vec<String> = ids(&second).into_iter().map(ToOwned::to_owned).collect();
        (left, ids)
    };
    let id = CloudId::new("current");
    let ready = ImageState::Ready { id: id.clone() };
    let uploading = ImageState::Uploading {
        id: Some(id),
        sent: 1,
        total: 2,
    };
    let waiting = ImageState::Waiting {
        why: "no such file".to_owned(),
    };
    for unsettled in [None, Some(uploading), Some(waiting)] {
        assert_eq!(
            removals(&config, unsettled.clone()),
            (0, vec![]),
            "{unsettled:?}"
        );
    }
    assert_eq!(
        removals(&config, Some(ready.clone())),
        (1, vec!["older".to_owned()])
    );
    let both = vec!["current".to_owned(), "older".to_owned()];
    assert_eq!(removals(&config, Some(ImageState::Unwanted)), (2, both));
    config.keep_old_images = true;
    assert_eq!(removals(&config, Some(ready)), (1, vec![]));
}

#[test]
fn a_scan_that_lists_none_of_our_machines_is_no_ground_to_judge_on() {
    let mut empty = snapshot();
    empty.empty_scans = 1;
    assert!(!time_to_look(&empty, None, at(0)));
    let port = thing(LeftoverKind::Port, "p", machine(HERE));
    let before = Sightings::from([((LeftoverKind::Port, "p".to_owned()), Sighting::new(at(0)))]);
    let found = leaks(&config(), &empty, &listed(&[port]), &before, at(10_000));
    assert_eq!(found.removals, []);
    assert_eq!(found.sightings, before);
}

#[test]
fn it_is_looked_for_at_once_and_then_now_and_then() {
    let every = LOOK_EVERY.get();
    let due = |last: Option<u64>, now| time_to_look(&snapshot(), last.map(at), at(now));
    assert!(due(None, 0));
    assert!(!due(Some(0), every - 1));
    assert!(due(Some(0), every));
    assert!(due(Some(100), 50), "the clock went back");
}

#[test]
fn a_removal_that_fails_is_tried_again_with_growing_pauses() {
    let (config, snapshot) = (config(), snapshot());
    let listed = listed(&[thing(LeftoverKind::Volume, "v", None)]);
    let mut sightings = leaks(&config, &snapshot, &listed, &Sightings::new(), at(0)).sightings;
    let mut tried = Vec::new();
    for now in (0..20_000).step_by(usize::try_from(LOOK_EVERY.get()).unwrap()) {
        let found = leaks(&config, &snapshot, &listed, &sightings, at(now));
        sightings = found.sightings;
        if !found.removals.is_empty() {
            tried.push(now);
            let sighting = sightings.values_mut().next().unwrap();
            sighting.tries += 1;
            sighting.tried = Some(at(now));
        }
    }
    assert_eq!(tried, [600, 1200, 3000, 6600, 10_200, 13_800, 17_400]);
}

#[test]
fn one_look_removes_no_more_than_it_may_and_failures_wait_for_the_others() {
    let (config, snapshot) = (config(), snapshot());
    let things: Vec<_> = (0..MOST_REMOVALS + 20)
        .map(|number| thing(LeftoverKind::Port, &format!("p{number:04}"), None))
        .collect();
    let listed = listed(&things);
    let mut first = leaks(&config, &snapshot, &listed, &Sightings::new(), at(0));
    let key = (LeftoverKind::Port, "p0000".to_owned());
    first.sightings.get_mut(&key).unwrap().tries = 1;
    let second = leaks(&config, &snapshot, &listed, &first.sightings, at(600));
    assert_eq!(second.removals.len(), MOST_REMOVALS);
    assert_eq!(second.counts[&LeftoverKind::Port].left, 120);
    assert!(!ids(&second).contains(&"p0000"));
}

#[test]
fn a_kind_that_could_not_be_listed_stays_as_it_was() {
    let (config, snapshot) = (config(), complete());
    let things = [
        thing(LeftoverKind::Port, "p", None),
        thing(LeftoverKind::Image, "i", None),
    ];
    let first = leaks(
        &config,
        &snapshot,
        &listed(&things),
        &Sightings::new(),
        at(0),
    );
    let mut partial = listed(&things);
    partial.remove(&LeftoverKind::Port);
    let second = leaks(&config, &snapshot, &partial, &first.sightings, at(600));
    assert_eq!(ids(&second), ["i"]);
    assert!(!second.counts.contains_key(&LeftoverKind::Port));
    let third = leaks(
        &config,
        &snapshot,
        &listed(&things),
        &second.sightings,
        at(1200),
    );
    assert_eq!(third.removals[0].since, at(0));
    assert_eq!(third.removals.len(), 2);
}

#[test]
fn what_is_looked_for_as_gone_has_ended_and_is_not_listed() {
    let mut snapshot = snapshot();
    let id = |name: &str| CloudId::new(format!("id-{name}"));
    assert_eq!(gone(&snapshot), BTreeSet::from([id(ENDED)]));
    for machine in &mut snapshot.machines {
        machine.files.volumes = vec![format!("volume of {}", machine.files.name)];
    }
    let volume = format!("volume of {ENDED}");
    assert_eq!(gone_volumes(&snapshot), BTreeSet::from([volume]));
    snapshot.machines[1].listed = vec![testing::listed(ENDED, MachineState::Deleting)];
    assert_eq!(gone(&snapshot), BTreeSet::new());
}

/// Things of every kind under a few identifiers, used or not.
fn any_things() -> impl Strategy<Value = Vec<Leftover>> {
    let user = prop_oneof![
        Just(None),
        Just(Some(User::Configuration)),
        Just(machine(HERE)),
        Just(machine(ENDED)),
        Just(machine(UNLISTED)),
        Just(Some(User::Other(String::new()))),
    ];
    let ids = ["a", "b", "key-in-use", "image-in-use", "wanted"];
    let one = (0..5usize, prop::sample::select(ids.to_vec()), user);
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let unique: BTreeMap<_, _> = all
            .into_iter()
            .map(|(kind, id, user)| ((kind, id), user))
            .collect();
        let things = unique.into_iter();
        things
            .map(|((kind, id), user)| thing(LeftoverKind::ALL[kind], id, user))
            .collect()
    })
}

proptest! {
    /// Over any history of looks: a removal names a thing that this look has listed unused, as did
    /// every look that listed its kind for at least the interval before.
    #[test]
    fn only_what_was_unused_all_the_time_is_removed(
        history in prop::collection::vec(
            (any_things(), 0..2000u64, 0..5usize, any::<bool>(), any::<bool>()), 1..8)
    ) {
        let config = config();
        let mut sightings = Sightings::new();
        let mut unused_since: BTreeMap<(LeftoverKind, String), Timestamp> = BTreeMap::new();
        let mut now = at(0);
        for (things, step, hidden, is_suspect, is_complete) in history {
            now = now + Seconds::new(step);
            let mut listed = listed(&things);
            listed.remove(&LeftoverKind::ALL[hidden]);
            let mut scan = if is_complete { complete() } else { snapshot() };
            scan.empty_scans = if is_suspect { 3 } else { 0 };
            let found = leaks(&config, &scan, &listed, &sightings, now);
            if !is_suspect {
                unused_since.retain(|(kind, id), _| {
                    listed.get(kind).is_none_or(|things| things.iter().any(|thing| thing.id == *id))
                });
                for thing in listed.values().flatten() {
                    let key = (thing.kind, thing.id.clone());
                    let in_use = matches!(&thing.user, Some(User::Configuration | User::Other(_)))
                        || thing.user == machine(HERE)
                        || thing.user == machine(UNLISTED)
                        || (thing.kind == LeftoverKind::Keypair && thing.id == "key-in-use")
                        || (thing.kind == LeftoverKind::Image
                            && ["wanted", "image-in-use"].contains(&thing.id.as_str()));
                    if in_use {
                        unused_since.remove(&key);
                    } else {
                        unused_since.entry(key).or_insert(now);
                    }
                }
            }
            let removals: BTreeSet<_> = found
                .removals
                .iter()
                .map(|removal| (removal.leftover.kind, removal.leftover.id.clone()))
                .collect();
            let expected: BTreeSet<_> = unused_since
                .iter()
                .filter(|((kind, _), since)| {
                    let by_listing = [LeftoverKind::Keypair, LeftoverKind::Image].contains(kind);
                    !is_suspect
                        && (is_complete || !by_listing)
                        && listed.contains_key(kind)
                        && now.since(**since) >= SEEN_APART
                })
                .map(|(key, _)| key.clone())
                .collect();
            prop_assert_eq!(removals, expected);
            sightings = found.sightings;
        }
    }
}
