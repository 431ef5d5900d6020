//! The life of machines, by the daemon, on moto.

use std::collections::BTreeSet;

use super::moto::{Moto, between};
use super::relay::{Act, Relay};
use super::{AMAZON, SECRET_KEY, space};
use crate::daemon::factory::{FACTORY, Factory, MachineDir, SPACE, until};

/// A site with one space on `relay`.
fn site(relay: &Relay, path: &str, image: &str, options: (&str, &str)) -> Factory {
    let factory = Factory::new();
    let machinetype = format!(
        "flavor_name = t2.micro\nroot_image = image:{image}\n{}",
        options.1
    );
    let url = format!("{}{path}", relay.base);
    factory.conf(
        "space",
        &space(&factory, SPACE, &url, (options.0, &machinetype)),
    );
    factory
}

fn one_machine(factory: &Factory) -> MachineDir {
    until("a machine", || factory.machines().pop())
}

/// From the request to the accounting record, as on an OpenStack's endpoint: another path, the old
/// version, tags in a request of their own.
#[test]
fn a_machine_lives_and_dies_on_the_old_version() {
    let Some(moto) = Moto::start() else { return };
    let relay = Relay::start(Some(moto.address.clone()), |_| Act::Pass);
    let options = "region = region_one\nmax_machines = 1\n";
    let machinetype = "cpu_per_machine = 3\ntarget_share = 1";
    let factory = site(
        &relay,
        "/services/Cloud",
        &moto.image,
        (options, machinetype),
    );
    // Whatever is logged, it has no secret in it.
    let mut command = factory.command(&["run"]);
    command.env("VCYCLE_LOG", "trace,h2=info,hyper=info");
    let daemon = factory.start_with(command);
    let machine = one_machine(&factory);
    machine.wait_for("started");
    let id = machine.read("uuid").unwrap();
    assert_eq!(machine.read("instance_id").as_deref(), Some(id.as_str()));
    assert_eq!(moto.instances(), std::slice::from_ref(&id));
    assert_eq!(
        machine.read("jobfeatures/allocated_cpu").as_deref(),
        Some("3")
    );
    assert_eq!(
        machine.read("jobfeatures/job_id").as_deref(),
        Some(id.as_str())
    );

    let run = relay.of("RunInstances");
    assert_eq!(run.len(), 1);
    assert_eq!(run[0].target, "/services/Cloud");
    assert_eq!(run[0].value("Version"), Some("2010-08-31"));
    assert_eq!(run[0].value("ClientToken"), Some(machine.name()));
    let scope = run[0].header("authorization");
    assert!(
        scope.contains("/region_one/openstack/aws4_request"),
        "{scope}"
    );
    let tags = relay.of("CreateTags")[0].tags("Tag.");
    let names: Vec<&str> = tags.iter().map(|(key, _)| key.as_str()).collect();
    let expected = [
        "jobfeatures",
        "joboutputs",
        "machinefeatures",
        "machinetype",
        "manager",
        "name",
        "space",
    ];
    assert_eq!(names, expected);
    let value = |key: &str| tags.iter().find(|(k, _)| k == key).unwrap().1.as_str();
    assert_eq!((value("space"), value("manager")), (SPACE, FACTORY));
    assert_eq!(
        (value("name"), value("machinetype")),
        (machine.name(), "atlas")
    );

    // The machine shuts itself down.
    moto.ask(&format!("Action=StopInstances&InstanceId.1={id}"));
    machine.wait_for("finished");
    until("the instance is gone", || {
        (!moto.instances().contains(&id)).then_some(())
    });
    assert_eq!(machine.read("ended"), None, "it ended by itself");
    daemon.end();
    let user_data = machine.read("user_data");
    let log = factory.log();
    assert!(log.contains("DEBUG") || log.contains("TRACE"));
    assert!(!log.contains(SECRET_KEY), "the secret key is in the log");
    use base64::Engine;
    let encoded = user_data.map(|text| base64::engine::general_purpose::STANDARD.encode(text));
    if let Some(encoded) = encoded {
        assert!(!log.contains(&encoded), "user_data is in the log");
        let in_form: String = url::form_urlencoded::byte_serialize(encoded.as_bytes()).collect();
        assert!(!log.contains(&in_form), "user_data is in the log");
    }
    assert!(run[0].value("UserData").is_some());
}

/// 1,500 instances of somebody else, on two pages: they count and are left alone.
#[test]
fn instances_of_others_on_all_pages_count_and_are_left_alone() {
    let Some(moto) = Moto::start() else { return };
    let image = &moto.image;
    // moto's pages are of reservations.
    let form = format!(
        "Action=RunInstances&ImageId={image}&InstanceType=t2.micro&MinCount=10&MaxCount=10"
    );
    let mut others = BTreeSet::new();
    for _ in 0..15 {
        let made = moto.ask(&form);
        others.extend(between(&made, "<instanceId>", "</instanceId>"));
    }
    assert_eq!(others.len(), 150);
    let relay = Relay::start(Some(moto.address.clone()), |sent| match sent.action() {
        "DescribeInstances" => Act::PassWith("MaxResults=1000", "MaxResults=6"),
        _ => Act::Pass,
    });
    let options = format!("{AMAZON}max_machines = 153\n");
    let factory = site(&relay, "/", image, (&options, ""));
    let daemon = factory.start();
    until("three machines run", || {
        let machines = factory.machines();
        let running = machines.iter().filter(|one| one.read("started").is_some());
        (running.count() == 3).then_some(())
    });
    factory.wait_for_scans(SPACE, 2);
    let plan = factory.run(&["plan"]);
    assert!(
        plan.out.contains("machines 153 of 153 (150 not ours)"),
        "{plan:?}"
    );
    daemon.end();
    assert_eq!(factory.machines().len(), 3);
    let now: BTreeSet<String> = moto.instances().into_iter().collect();
    assert_eq!(now.len(), 153);
    assert!(others.is_subset(&now));
    assert_eq!(relay.of("RunInstances").len(), 3);
    assert!(relay.of("TerminateInstances").is_empty());
    let pages = relay.of("DescribeInstances");
    assert!(pages.iter().any(|sent| sent.value("NextToken").is_some()));
    // The type of all is asked for once.
    assert_eq!(
        relay.of("DescribeInstanceTypes").len(),
        2,
        "by the daemon and by plan"
    );
}

/// The answer that names the instance gets lost: it is found by its tag.
#[test]
fn an_instance_whose_answer_was_lost_is_adopted() {
    for (version, path) in [(AMAZON, "/"), ("", "/services/Cloud")] {
        let Some(moto) = Moto::start() else { return };
        let relay = Relay::start(Some(moto.address.clone()), |sent| {
            match (sent.action(), sent.nth) {
                ("RunInstances", 0) => Act::Swallow,
                _ => Act::Pass,
            }
        });
        let options = format!("{version}max_machines = 1\n");
        let factory = site(&relay, path, &moto.image, (&options, ""));
        let daemon = factory.start();
        let machine = one_machine(&factory);
        let id = machine.wait_for("uuid");
        machine.wait_for("started");
        factory.wait_for_scans(SPACE, 3);
        let instances = moto.instances();
        assert_eq!(instances, [id]);
        assert_eq!(
            relay.of("RunInstances").len(),
            1,
            "it is not asked for again"
        );
        assert_eq!(factory.machines().len(), 1);
        if version.is_empty() {
            // Known by its client token until it had its tags.
            let tagged = relay.of("CreateTags");
            let name = ("name".to_owned(), machine.name().to_owned());
            assert!(tagged[0].tags("Tag.").contains(&name), "{tagged:?}");
        }
        daemon.end();
    }
}

/// A machine without tags is known by the identifier on file, also after a restart.
#[test]
fn an_instance_without_tags_is_known_by_its_identifier() {
    let Some(moto) = Moto::start() else { return };
    // moto tells client tokens, which the services meant here may not.
    let relay = Relay::start(Some(moto.address.clone()), |sent| match sent.action() {
        "CreateTags" => Act::refuse(400, "InvalidAction", "The action CreateTags is not valid"),
        _ => Act::Pass,
    });
    let options = "max_machines = 1\n";
    let factory = site(&relay, "/services/Cloud", &moto.image, (options, ""));
    let daemon = factory.start();
    let machine = one_machine(&factory);
    machine.wait_for("started");
    daemon.kill();
    let daemon = factory.start();
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(moto.instances(), [machine.read("uuid").unwrap()]);
    assert_eq!(factory.machines(), [machine]);
    daemon.end();
}

/// No capacity for the first flavor and zone: the next is asked for, with another token.
#[test]
fn the_next_zone_and_flavor_are_tried_where_there_is_no_room() {
    let Some(moto) = Moto::start() else { return };
    let relay = Relay::start(Some(moto.address.clone()), |sent| {
        match (sent.action(), sent.value("InstanceType")) {
            ("RunInstances", Some("m5.large")) => Act::refuse(
                500,
                "InsufficientInstanceCapacity",
                "We currently do not have sufficient m5.large capacity",
            ),
            _ => Act::Pass,
        }
    });
    let options = format!("{AMAZON}max_machines = 1\nzones = us-east-1a us-east-1b\n");
    let factory = Factory::new();
    let machinetype = format!(
        "flavor_names = m5.large t2.micro\nroot_image = image:{}\n",
        moto.image
    );
    let url = format!("{}/", relay.base);
    factory.conf(
        "space",
        &space(&factory, SPACE, &url, (&options, &machinetype)),
    );
    let daemon = factory.start();
    let machine = one_machine(&factory);
    machine.wait_for("started");
    daemon.end();
    let asked: Vec<_> = relay
        .of("RunInstances")
        .iter()
        .map(|sent| {
            let value = |key| sent.value(key).unwrap().to_owned();
            (
                value("InstanceType"),
                value("Placement.AvailabilityZone"),
                value("ClientToken"),
            )
        })
        .collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(
        (asked[0].0.as_str(), asked[1].0.as_str()),
        ("m5.large", "m5.large")
    );
    assert_ne!(asked[0].1, asked[1].1);
    assert_eq!(asked[2].0, "t2.micro");
    assert_eq!(machine.read("zone"), Some(asked[2].1.clone()));
    let tokens: BTreeSet<&str> = asked.iter().map(|(_, _, token)| token.as_str()).collect();
    assert_eq!(tokens.len(), 3, "{asked:?}");
}
