//! The daemon is killed between RunInstances and CreateTags: whatever was written by then, the
//! instance is known again and gets its tags.

use super::moto::{Moto, between};
use super::relay::{Act, Relay, Sent};
use super::space;
use crate::daemon::factory::{Factory, MachineDir, SPACE, until};

fn site(relay: &Relay, image: &str) -> Factory {
    let factory = Factory::new();
    let machinetype = format!("flavor_name = t2.micro\nroot_image = image:{image}\n");
    let url = format!("{}/services/Cloud", relay.base);
    let options = ("max_machines = 1\n", machinetype.as_str());
    factory.conf("space", &space(&factory, SPACE, &url, options));
    factory
}

/// The tags of the one instance, as moto has them.
fn tags(moto: &Moto) -> Vec<(String, String)> {
    let all = moto.ask("Action=DescribeTags");
    let (keys, values) = (
        between(&all, "<key>", "</key>"),
        between(&all, "<value>", "</value>"),
    );
    keys.zip(values).collect()
}

/// Kills a daemon once a request with this action has come, and starts the next.
fn killed_at(
    action: &str,
    script: impl Fn(&Sent) -> Act + Send + Sync + 'static,
) -> Option<(Moto, Factory, Relay)> {
    let moto = Moto::start()?;
    let relay = Relay::start(Some(moto.address.clone()), script);
    let factory = site(&relay, &moto.image);
    let daemon = factory.start();
    until("the request is there", || relay.of(action).pop());
    until("the instance is made", || moto.instances().pop());
    daemon.kill();
    assert_eq!(tags(&moto), [], "it was killed before it had tags");
    Some((moto, factory, relay))
}

/// One instance, on file, with its tags; and nothing was asked for again.
fn is_ours_again(moto: &Moto, factory: &Factory, relay: &Relay) -> MachineDir {
    let machine = until("the machine", || factory.machines().pop());
    let id = machine.wait_for("instance_id");
    assert_eq!(moto.instances(), [id]);
    let tagged = until("it has its tags", || {
        Some(tags(moto)).filter(|tags| !tags.is_empty())
    });
    for (key, value) in [("name", machine.name()), ("space", SPACE)] {
        let tag = (key.to_owned(), value.to_owned());
        assert!(tagged.contains(&tag), "{tagged:?}");
    }
    assert!(tagged.iter().any(|(key, _)| key == "machinefeatures"));
    machine.wait_for("started");
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(relay.of("RunInstances").len(), 1);
    assert_eq!(factory.machines().len(), 1);
    machine
}

#[test]
fn after_the_identifier_was_written() {
    let killed = killed_at("CreateTags", |sent| match (sent.action(), sent.nth) {
        ("CreateTags", 0) => Act::Ignore,
        _ => Act::Anonymous,
    });
    let Some((moto, factory, relay)) = killed else {
        return;
    };
    // Written before anything else is asked.
    let machine = factory.machines().pop().unwrap();
    assert_eq!(machine.read("instance_id"), moto.instances().pop());
    let daemon = factory.start();
    is_ours_again(&moto, &factory, &relay);
    // Once they are there they are not set again.
    assert_eq!(relay.of("CreateTags").len(), 2);
    assert!(relay.of("DescribeInstanceAttribute").is_empty());
    daemon.end();
}

#[test]
fn before_the_answer_where_the_service_tells_client_tokens() {
    let killed = killed_at("RunInstances", |sent| match (sent.action(), sent.nth) {
        ("RunInstances", 0) => Act::Hold,
        _ => Act::Pass,
    });
    let Some((moto, factory, relay)) = killed else {
        return;
    };
    assert_eq!(factory.machines()[0].read("instance_id"), None);
    let daemon = factory.start();
    is_ours_again(&moto, &factory, &relay);
    assert!(relay.of("DescribeInstanceAttribute").is_empty());
    daemon.end();
}

/// Neither tags nor a token: all that is left is what the machine was made from. Others' instances
/// are looked into as well, and left alone.
#[test]
fn before_the_answer_where_the_service_tells_nothing() {
    let killed = killed_at("RunInstances", |sent| match (sent.action(), sent.nth) {
        ("RunInstances", 0) => Act::Hold,
        _ => Act::Anonymous,
    });
    let Some((moto, factory, relay)) = killed else {
        return;
    };
    let ours = moto.instances();
    let image = &moto.image;
    let other = moto.ask(&format!(
        "Action=RunInstances&ImageId={image}&InstanceType=t2.micro&MinCount=1&MaxCount=1&\
         UserData=IyEvYmluL3NoCg%3D%3D"
    ));
    let other = between(&other, "<instanceId>", "</instanceId>").next();
    let daemon = factory.start();
    let machine = until("the machine", || factory.machines().pop());
    assert_eq!(Some(machine.wait_for("instance_id")).as_ref(), ours.first());
    until("it is told", || {
        let said = "found by its user_data: the answer that named it was lost";
        factory.log_lines(said).pop()
    });
    let asked = relay.of("DescribeInstanceAttribute");
    let of = |id: &str| {
        let mut asked = asked.iter();
        asked.any(|sent| sent.value("InstanceId") == Some(id))
    };
    assert!(of(&ours[0]) && of(&other.clone().unwrap()), "{asked:?}");
    machine.wait_for("started");
    factory.wait_for_scans(SPACE, 3);
    // Nobody is looked into once nothing is missing.
    assert_eq!(relay.of("DescribeInstanceAttribute").len(), asked.len());
    assert_eq!(relay.of("RunInstances").len(), 1);
    assert!(relay.of("TerminateInstances").is_empty());
    let tagged = tags(&moto);
    assert!(
        tagged.contains(&("name".to_owned(), machine.name().to_owned())),
        "{tagged:?}"
    );
    assert_eq!(
        tagged.iter().filter(|(key, _)| key == "name").count(),
        1,
        "{tagged:?}"
    );
    assert_eq!(moto.instances().len(), 2);
    daemon.end();
}
