//! The messages against a table of their fields and types, for spaces of all kinds.

use proptest::prelude::*;

use super::super::host::{Memory, Room};
use super::*;
use crate::decide::tests::{NOW, worlds};
use crate::decide::{decide, tally, testing};
use crate::model::{CloudId, Flavor, Hs06, Share, SpaceName};
use crate::rng::Seed;

const TEXT: &[&str] = &[
    "message_type",
    "daemon_version",
    "vacquery_version",
    "cookie",
    "space",
    "site",
    "factory",
    "kernel_version",
    "os_issue",
    "machinetype",
    "shutdown_message",
    "shutdown_machine",
    "fqan",
    "machine",
    "state",
    "uuid",
];
const FLOAT: &[&str] = &[
    "running_hs06",
    "max_hs06",
    "hs06",
    "load_average",
    "cpu_percentage",
];
const WHOLE: &[&str] = &[
    "time_sent",
    "running_processors",
    "running_machines",
    "max_processors",
    "max_machines",
    "root_disk_avail_kb",
    "root_disk_avail_inodes",
    "daemon_disk_avail_kb",
    "daemon_disk_avail_inodes",
    "boot_time",
    "factory_heartbeat_time",
    "mjf_heartbeat_time",
    "swap_used_kb",
    "swap_free_kb",
    "mem_used_kb",
    "mem_total_kb",
    "num_machinetypes",
    "num_before_fizzle",
    "shutdown_time",
    "max_wallclock_seconds",
    "min_processors",
    "bytes_per_processor",
    "num_machines",
    "created_time",
    "started_time",
    "heartbeat_time",
    "num_processors",
    "cpu_seconds",
];

/// The object in a datagram, whose fields all have the types of the table.
fn checked(datagram: &[u8]) -> Map<String, Value> {
    assert!(datagram.len() <= LONGEST);
    let fields: Map<String, Value> = serde_json::from_slice(datagram).unwrap();
    for (name, value) in &fields {
        let name = name.as_str();
        let right = match value {
            Value::String(text) => TEXT.contains(&name) && !text.is_empty(),
            Value::Number(number) if number.is_u64() => WHOLE.contains(&name),
            Value::Number(number) => FLOAT.contains(&name) && number.is_f64(),
            _ => false,
        };
        assert!(right, "{name}: {value}");
    }
    for name in ["message_type", "space", "site", "factory", "time_sent"] {
        assert!(fields.contains_key(name), "{name}: {fields:?}");
    }
    fields
}

fn host() -> Host {
    Host {
        root: Some(Room { kb: 5, inodes: 6 }),
        state: Some(Room {
            kb: u64::MAX,
            inodes: u64::MAX,
        }),
        load_average: Some(2.0),
        kernel_version: "6.1.0".to_owned(),
        os_issue: Some("Debian GNU/Linux 12".to_owned()),
        boot_time: Some(1_700_000_000),
        memory: Some(Memory {
            total: 10,
            used: 4,
            swap_used: 1,
            swap_free: 2,
        }),
    }
}

fn factory() -> FactoryName {
    FactoryName::new("factory.example.org").unwrap()
}

fn a_space(options: &str) -> SpaceConfig {
    let mut config = testing::space("max_machines = 10");
    let machinetype = testing::machinetype("a", options);
    config
        .machinetypes
        .insert(machinetype.name.clone(), machinetype);
    config
}

fn factory_message(config: &SpaceConfig, snapshot: &SpaceSnapshot) -> Map<String, Value> {
    let (factory, now) = (factory(), NOW);
    let about = About {
        config,
        factory: &factory,
        now,
    };
    let plan = decide(config, snapshot, now, Seed(1));
    let tally = tally::tally(config, snapshot, now);
    let numbers = (&plan.report, &tally);
    let datagram = factory_status(&about, numbers, &snapshot.facts, &host(), Some(now));
    checked(&datagram.unwrap())
}

fn kind_message(config: &SpaceConfig, snapshot: &SpaceSnapshot) -> Map<String, Value> {
    let factory = factory();
    let about = About {
        config,
        factory: &factory,
        now: NOW,
    };
    let tally = tally::tally(config, snapshot, NOW);
    let (name, running) = tally.machinetypes.iter().next().unwrap();
    let datagram = machinetype_status(&about, name, running, &snapshot.facts, None);
    checked(&datagram.unwrap())
}

/// A running machine of machinetype `a`, so many seconds old.
fn running(number: u8, age: u64) -> Machine {
    let name = format!("vcycle-a-{number:010}");
    testing::machine(&name, MachineState::Running, NOW.unix() - age - 60)
}

#[test]
fn a_factory_without_power_tells_none() {
    let snapshot = testing::snapshot(vec![running(1, 900), running(2, 30)]);
    let message = factory_message(&a_space(""), &snapshot);
    assert_eq!(message["message_type"], "factory_status");
    assert_eq!(message["vacquery_version"], "VacQuery 01.02");
    assert_eq!(message["site"], "example.org");
    assert_eq!(message["running_machines"], 2);
    assert_eq!(message["running_processors"], 2);
    assert_eq!(message["max_machines"], 10);
    for absent in ["running_hs06", "max_hs06", "max_processors"] {
        assert!(!message.contains_key(absent), "{absent}");
    }
    // Every field that there is otherwise.
    assert_eq!(message.len(), 8 + 2 + 1 + 14);
}

#[test]
fn power_is_a_float_and_that_of_a_full_space_follows_from_the_shares() {
    let mut config = a_space("hs06 = 10\nflavor_names = two");
    let mut snapshot = testing::snapshot(vec![running(1, 900)]);
    let message = factory_message(&config, &snapshot);
    assert_eq!(message["running_hs06"], 10.0);
    assert_eq!(message["max_hs06"], 100.0);
    // A third of the power to machines of 20: five of them to ten of the others.
    let mut other = testing::machinetype("b", "hs06 = 20\nflavor_names = eight");
    other.target_share = Share::new(1.0).unwrap();
    config.machinetypes.insert(other.name.clone(), other);
    let full = factory_message(&config, &snapshot)["max_hs06"]
        .as_f64()
        .unwrap();
    assert!((full - 10.0 * 2.0 / (0.1 + 0.05)).abs() < 1e-9, "{full}");
    // 4 processors are less than those machines: 2 for each 10 and 8 for each 20.
    snapshot.facts.limits.processors = Some(4);
    let full = factory_message(&config, &snapshot)["max_hs06"]
        .as_f64()
        .unwrap();
    assert!((full - 4.0 * 2.0 / (0.2 + 0.4)).abs() < 1e-9, "{full}");
    // What runs is never more than the most.
    snapshot.facts.limits.processors = Some(0);
    assert_eq!(factory_message(&config, &snapshot)["max_hs06"], 10.0);
    // One whose power nobody knows leaves it open.
    for kind in config.machinetypes.values_mut() {
        kind.hs06 = kind.hs06.filter(|power| *power > Hs06::new(10.0).unwrap());
    }
    let message = factory_message(&config, &snapshot);
    assert!(!message.contains_key("max_hs06"), "{message:?}");
    assert!(!message.contains_key("running_hs06"), "{message:?}");
}

#[test]
fn a_machinetype_tells_its_sizes_and_its_last_end() {
    let mut config = a_space("flavor_names = none four\nmax_processors = 4\nhs06 = 4");
    let mut snapshot = testing::snapshot(vec![running(1, 900), running(2, 30)]);
    let kind = kind_message(&config, &snapshot);
    assert_eq!(kind["num_machinetypes"], 1);
    assert_eq!(kind["running_machines"], 2);
    assert_eq!(kind["num_before_fizzle"], 1);
    assert_eq!(kind["running_hs06"], 8.0);
    assert_eq!(kind["max_wallclock_seconds"], 86400);
    assert_eq!(
        (&kind["min_processors"], &kind["max_processors"]),
        (&1.into(), &4.into())
    );
    assert_eq!(kind["bytes_per_processor"], 2_147_483_648u64);
    assert!(!kind.contains_key("fqan") && !kind.contains_key("shutdown_time"));
    // What a flavor tells wins, and an empty fqan is none.
    let flavor = |flavor: &mut Flavor| flavor.memory_mb = Some(16_384);
    snapshot.facts.flavors.iter_mut().for_each(flavor);
    let machinetype = config.machinetypes.values_mut().next().unwrap();
    machinetype.accounting_fqan = Some(" ".to_owned());
    let kind = kind_message(&config, &snapshot);
    assert_eq!(kind["bytes_per_processor"], 4_294_967_296u64);
    assert!(!kind.contains_key("fqan"), "{kind:?}");
}

fn ended(message: &str) -> Ended {
    let mut machine = running(7, 900);
    machine.files.id = Some(CloudId::new("id-7"));
    machine.files.hs06 = Some(Hs06::new(12.0).unwrap());
    let end = (machine.files.started, NOW);
    Ended {
        message: Some(message.to_owned()),
        heartbeat: Some(NOW),
        state: MachineState::Shutdown,
        ..Ended::of(&machine, Some(end)).unwrap()
    }
}

fn machine_message(config: &SpaceConfig, ended: &Ended) -> Map<String, Value> {
    let factory = factory();
    let about = About {
        config,
        factory: &factory,
        now: NOW,
    };
    checked(&machine_status(&about, ended).unwrap())
}

#[test]
fn a_machine_that_ended_tells_its_whole_life() {
    let mut config = a_space("");
    config.gocdb_sitename = Some("UKI-EXAMPLE".to_owned());
    let machine = machine_message(&config, &ended("200 Success"));
    assert_eq!(machine["site"], "UKI-EXAMPLE");
    assert_eq!(machine["space"], "example.org");
    assert_eq!(
        (&machine["num_machines"], &machine["uuid"]),
        (&1.into(), &"id-7".into())
    );
    assert_eq!(
        (&machine["cpu_seconds"], &machine["hs06"]),
        (&900.into(), &12.0.into())
    );
    assert_eq!(
        (&machine["cpu_percentage"], &machine["state"]),
        (&100.0.into(), &"shutdown".into())
    );
    assert_eq!(machine["shutdown_message"], "200 Success");
    assert_eq!(machine.len(), 8 + 14);
    // One that never ran says nothing of running.
    let never = Ended {
        started: None,
        message: None,
        ..ended("")
    };
    let machine = machine_message(&config, &never);
    for absent in [
        "started_time",
        "cpu_seconds",
        "cpu_percentage",
        "shutdown_message",
    ] {
        assert!(!machine.contains_key(absent), "{absent}");
    }
}

#[test]
fn a_long_message_of_a_machine_is_cut_and_names_are_not() {
    let mut config = a_space("");
    let fqan = format!("/{}", "v".repeat(500));
    let machinetype = config.machinetypes.values_mut().next().unwrap();
    machinetype.accounting_fqan = Some(fqan.clone());
    for text in [
        "x".repeat(4000),
        "\u{1}".repeat(4000),
        "\u{e9}".repeat(4000),
    ] {
        let text = format!("200 {text}");
        let machine = machine_message(&config, &ended(&text));
        assert_eq!(machine["fqan"], fqan);
        let told = machine["shutdown_message"].as_str().unwrap();
        assert!(text.starts_with(told) && told.starts_with("200"), "{told}");
    }
    let machinetype = config.machinetypes.values_mut().next().unwrap();
    machinetype.accounting_fqan = Some("/v".repeat(900));
    let machine = machine_message(&config, &ended("200 Success"));
    assert!(
        !machine.contains_key("fqan"),
        "another VO would be worse than none"
    );
    // Names that leave no room for anything are not sent in part.
    config.gocdb_sitename = Some("S".repeat(1400));
    let factory = factory();
    let about = About {
        config: &config,
        factory: &factory,
        now: NOW,
    };
    assert_eq!(machine_status(&about, &ended("")), None);
}

#[test]
fn the_ends_since_the_last_scan_are_told_again() {
    let mut machines = vec![running(1, 900), running(2, 900), running(3, 900)];
    for (machine, finished) in machines.iter_mut().zip([-10i64, -9, 0]) {
        let at = Timestamp::from_unix(NOW.unix().checked_add_signed(finished).unwrap());
        (machine.files.stopped, machine.files.finished) = (Some(at), Some(at));
    }
    machines[2].files.finished = None;
    machines[1].listed.clear();
    let snapshot = testing::snapshot(machines);
    let since = NOW.earlier(crate::model::Seconds::new(9));
    let told = ended_since(&snapshot, since);
    assert_eq!(told.len(), 1);
    assert!(told[0].files.name.as_str().ends_with("2"));
    assert_eq!(told[0].state, MachineState::Shutdown);
}

proptest! {
    #[test]
    fn every_message_has_its_types_and_fits((mut config, snapshot) in worlds::world(), length in 1usize..190) {
        config.name = SpaceName::new("s".repeat(length)).unwrap();
        let factory = factory_message(&config, &snapshot);
        let number = |name: &str| factory.get(name).and_then(Value::as_f64);
        if let (Some(running), Some(most)) = (number("running_hs06"), number("max_hs06")) {
            prop_assert!(running <= most);
        }
        if !config.machinetypes.is_empty() {
            let kind = kind_message(&config, &snapshot);
            prop_assert!(kind["running_machines"].as_u64() <= factory["running_machines"].as_u64());
        }
        for machine in &snapshot.machines {
            let end = (machine.files.started, NOW);
            let ended = Ended::of(machine, Some(end)).unwrap();
            let message = machine_message(&config, &ended);
            prop_assert_eq!(&message["machine"], machine.files.name.as_str());
        }
    }
}
