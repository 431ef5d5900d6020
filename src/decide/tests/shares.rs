//! Who gets the next machine.

use super::check;

#[test]
fn the_one_with_the_least_of_its_share_is_next() {
    // 1 of 2 against 2 of 1: three of a, then both have as much of their share.
    check(
        "space max_machines=30
         a target_share=2
         b target_share=1
         a.1 running started=-900
         b.1 running started=-900
         b.2 shutdown started=-900 stopped=0 finished=0 deleted=0",
        "create a one x3
         why a: 3 machine(s) is the most for one cycle
         why b: 3 machine(s) is the most for one cycle",
    );
}

#[test]
fn hs06_weighs_machines() {
    // 10 against 1 each: it takes ten of b to have as much as one of a, whatever a's processors.
    check(
        "space max_machines=80
         a hs06=10
         b
         a.1 running started=-900",
        "create b one x8",
    );
    check(
        "space max_machines=80
         a hs06_per_processor=2 flavor_names=four
         b
         a.1 running started=-900 cloud-processors=4",
        "create b one x8",
    );
}

#[test]
fn hepscore23_weighs_machines_where_it_is_all_that_is_known() {
    // As hs06_per_processor above; and hs06 counts where both are given.
    for options in [
        "hepscore23_per_processor=2 flavor_names=four",
        "hepscore23_per_processor=900 flavor_names=four hs06=8",
    ] {
        check(
            &format!(
                "space max_machines=80
                 a {options}
                 b
                 a.1 running started=-900 cloud-processors=4"
            ),
            "create b one x8",
        );
    }
}

#[test]
fn without_hs06_a_machine_weighs_1_in_a_space_limited_by_machines() {
    check(
        "space max_machines=10
         a flavor_names=eight
         b
         a.1 running started=-900 cloud-processors=8
         b.1 running started=-900
         b.2 running started=-900",
        "create a eight",
    );
}

#[test]
fn without_hs06_a_machine_weighs_its_processors_in_a_space_limited_by_processors() {
    check(
        "space processors_limit=50
         a flavor_names=eight
         b
         a.1 running started=-900 cloud-processors=8
         b.1 running started=-900
         b.2 running started=-900",
        "create b one x5",
    );
    // Named choice: in a space with both limits it weighs 1, the manual page's default.
    check(
        "space processors_limit=50 max_machines=10
         a flavor_names=eight
         b
         a.1 running started=-900 cloud-processors=8
         b.1 running started=-900
         b.2 running started=-900",
        "create a eight",
    );
}

#[test]
fn ties_are_broken_at_random() {
    let (config, snapshot) = super::read("space max_machines=10\n a\n b\n c");
    let mut chosen = std::collections::BTreeMap::new();
    for seed in 0..300 {
        let plan = super::decide(&config, &snapshot, super::NOW, crate::rng::Seed(seed));
        let first = plan.creates[0].machinetype.as_str().to_owned();
        *chosen.entry(first).or_insert(0) += 1;
        // The same seed chooses the same again.
        let again = super::decide(&config, &snapshot, super::NOW, crate::rng::Seed(seed));
        assert_eq!(plan, again);
    }
    assert_eq!(chosen.len(), 3);
    assert!(chosen.values().all(|count| *count > 70), "{chosen:?}");
}

#[test]
fn the_order_of_the_listing_does_not_even_change_the_last_bit_of_a_weight() {
    // 0.1 + 0.4 + 0.8 is not 0.8 + 0.4 + 0.1: found by the property, kept as an example.
    let (config, mut snapshot) = super::read(
        "space max_machines=10
         a hs06_per_processor=0.1
         unfiled a.1 running processors=1
         unfiled a.2 running processors=4
         unfiled a.3 running processors=8",
    );
    let plan = super::decide(&config, &snapshot, super::NOW, crate::rng::Seed(1));
    snapshot.unfiled.reverse();
    let again = super::decide(&config, &snapshot, super::NOW, crate::rng::Seed(1));
    assert_eq!(plan, again);
}
