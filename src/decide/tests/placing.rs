//! Flavors and zones, and where the cloud has had no room.

use super::{at, check, read};
use crate::decide::{Plan, decide};
use crate::model::Timestamp;
use crate::rng::Seed;

const NOW: Timestamp = super::NOW;

fn plan(situation: &str, now: Timestamp, seed: u64) -> Plan {
    let (config, snapshot) = read(situation);
    decide(&config, &snapshot, now, Seed(seed))
}

/// The places that each creation tries, such as `one@east,one@west`.
fn tried(plan: &Plan) -> Vec<String> {
    let creates = plan.creates.iter();
    creates
        .map(|create| {
            let places = create.placements.iter();
            let places = places.map(|one| one.to_string().replace(" in ", "@"));
            places.collect::<Vec<_>>().join(",")
        })
        .collect()
}

#[test]
fn without_zones_the_choice_is_left_to_the_cloud() {
    check(
        "space max_machines=10\n a flavor_names=four,two",
        "create a four,two",
    );
}

#[test]
fn each_machine_begins_with_the_next_zone_and_the_first_flavor() {
    let situation = "space max_machines=40 zones=x,y,z\n a flavor_names=two,one";
    let mut firsts = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let tried = tried(&plan(situation, NOW, seed));
        assert_eq!(tried.len(), 4);
        let order = ["x", "y", "z"];
        let first = order
            .iter()
            .position(|zone| tried[0].starts_with(&format!("two@{zone}")));
        let first = first.unwrap();
        firsts.insert(first);
        for (number, tried) in tried.iter().enumerate() {
            let zone = |step: usize| order[(first + number + step) % 3];
            let (one, two, three) = (zone(0), zone(1), zone(2));
            assert_eq!(
                *tried,
                format!("two@{one},two@{two},two@{three},one@{one},one@{two},one@{three}")
            );
        }
    }
    assert_eq!(firsts.len(), 3, "a cycle may begin with any zone");
}

#[test]
fn a_place_without_room_is_left_out_for_three_minutes() {
    let situation = |since: i64| {
        format!(
            "space max_machines=10 zones=x,y\n a flavor_names=two,one\n exhausted two@x at={since}"
        )
    };
    for since in [0, -179] {
        let tried = tried(&plan(&situation(since), NOW, 1));
        assert!(tried[0].starts_with("two@y,one@"), "{tried:?}");
    }
    // Nor does a moment in the future count, after the clock was set back.
    for since in [-180, 1, 3600] {
        let tried = tried(&plan(&situation(since), NOW, 1));
        assert!(tried[0].contains("two@x") && tried[0].contains("two@y"));
    }
}

#[test]
fn when_the_first_flavor_has_no_room_anywhere_the_next_is_used() {
    check(
        "space max_machines=10 zones=x,y
         a flavor_names=two,four,one
         exhausted two@x at=-100
         exhausted two@y at=-50
         exhausted four@y at=-50",
        "create a four@x,one@x,one@y",
    );
}

#[test]
fn without_room_anywhere_it_is_said_when_the_next_try_is() {
    check(
        "space max_machines=10 zones=x,y
         a flavor_names=two,one
         exhausted two@x at=-100
         exhausted two@y at=-50
         exhausted one@x at=-170
         exhausted one@y at=-10
         b flavor_names=four max_machines=0",
        "why a: the cloud has no room for flavor two, next try at +80
         why b: max_machines of the machinetype: 0 of 0",
    );
    let plan = plan("space max_machines=10\n a\n exhausted one at=-170", NOW, 1);
    assert!(plan.creates.is_empty());
    let shown: Vec<_> = plan
        .report
        .space
        .exhausted
        .iter()
        .map(ToString::to_string)
        .collect();
    let until = at(10).to_rfc3339();
    assert_eq!(shown, [format!("no room for one, next try at {until}")]);
}

#[test]
fn a_machine_that_failed_for_want_of_a_host_closes_its_place() {
    check(
        "space max_machines=10 zones=x
         a flavor_names=two,one
         a.1 failed created=-20 flavor=two zone=x cloud-shortage=hosts",
        "exhausted a.1 two@x +0
         finish a.1 +0 never ran for want of room
         delete a.1: it has stopped
         create a one@x",
    );
    // It paces its machinetype only when nothing else is left.
    check(
        "space max_machines=10 zones=x
         a flavor_names=two
         a.1 failed created=-20 flavor=two zone=x cloud-shortage=hosts",
        "exhausted a.1 two@x +0
         finish a.1 +0 never ran
         delete a.1: it has stopped
         why a: 1 creation(s) in a row failed, next try at +60",
    );
}

#[test]
fn a_quota_is_the_same_in_all_zones() {
    check(
        "space max_machines=10 zones=x,y
         a flavor_names=two,one
         a.1 failed created=-20 flavor=two zone=y cloud-shortage=quota",
        "exhausted a.1 two@x,two@y +0
         finish a.1 +0 never ran for want of room
         delete a.1: it has stopped
         create a one@x,one@y",
    );
}

#[test]
fn what_is_remembered_is_not_noted_again() {
    check(
        "space max_machines=1
         a
         exhausted one at=-60
         a.1 failed created=-90 stopped=-60 finished=-60 deleted=-10 flavor=one cloud-shortage=hosts",
        "why a: the cloud has no room for flavor one, next try at +120",
    );
    // A daemon that has just been started learns it from what is still listed.
    check(
        "space max_machines=2
         a
         a.1 failed created=-90 stopped=-60 finished=-60 deleted=-10 flavor=one cloud-shortage=hosts",
        "exhausted a.1 one -60
         why a: the cloud has no room for flavor one, next try at +120",
    );
    check(
        "space max_machines=2
         a
         a.1 failed created=-900 stopped=-600 finished=-600 deleted=-10 flavor=one cloud-shortage=hosts",
        "create a one",
    );
}

#[test]
fn a_machine_that_ran_says_nothing_of_room() {
    check(
        "space max_machines=10
         a
         a.1 failed created=-900 started=-800 stopped=-10 finished=-10 deleted=-5 flavor=one cloud-shortage=hosts",
        "create a one",
    );
    // Nor does one whose flavor is not on file, or that failed for another reason.
    for rest in ["cloud-shortage=hosts", "flavor=one"] {
        check(
            &format!(
                "space max_machines=10\n a\n a.1 failed created=-20 stopped=-10 finished=-10 deleted=-5 {rest}"
            ),
            "create a one",
        );
    }
}

#[test]
fn the_volumes_of_a_machine_are_noted_once() {
    check(
        "space max_machines=1
         a
         a.1 running started=-900 cloud-volumes=v1,v2",
        "volumes a.1 v1,v2",
    );
    check(
        "space max_machines=1
         a
         a.1 running started=-900 volumes=v1 cloud-volumes=v1",
        "",
    );
    // What somebody attaches to it later.
    check(
        "space max_machines=1
         a
         a.1 running started=-900 volumes=v1 cloud-volumes=v1,v2",
        "",
    );
}
