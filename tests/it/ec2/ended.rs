//! Instances that the cloud has ended by itself: why is told, and what it says of the cloud's room
//! counts. moto never does that, so a listener plays the whole service.

use std::sync::{Arc, Mutex};

use super::adapter::{listing, reservation};
use super::relay::{Act, Relay, Sent};
use super::{AMAZON, space};
use crate::daemon::factory::{Factory, SPACE, until};

/// An instance of the service that is played.
#[derive(Clone)]
struct Instance {
    kind: String,
    state: &'static str,
    /// The tags as the listing has them, and the reason of the state.
    more: String,
    reason: String,
}

type Instances = Arc<Mutex<Vec<Instance>>>;

fn reason(code: &str, message: &str) -> String {
    format!("<stateReason><code>{code}</code><message>{code}: {message}</message></stateReason>")
}

fn id(nth: usize) -> String {
    format!("i-{nth:017x}")
}

/// A service whose instances are what `outcome` says when they are made.
fn service(
    outcome: impl Fn(&str) -> (&'static str, String) + Send + Sync + 'static,
) -> (Relay, Instances) {
    let instances = Instances::default();
    let all = Arc::clone(&instances);
    let relay = Relay::start(None, move |sent: &Sent| {
        let mut all = all.lock().unwrap();
        match sent.action() {
            "RunInstances" => {
                let kind = sent.value("InstanceType").unwrap().to_owned();
                let (state, reason) = outcome(&kind);
                let tags = sent.tags("TagSpecification.1.Tag.");
                let tags = tags.iter().map(|(key, value)| {
                    format!("<item><key>{key}</key><value>{value}</value></item>")
                });
                all.push(Instance {
                    kind,
                    state,
                    more: format!("<tagSet>{}</tagSet>", tags.collect::<String>()),
                    reason,
                });
                let id = id(all.len() - 1);
                Act::Say(
                    200,
                    format!(
                        "<RunInstancesResponse><instancesSet><item><instanceId>{id}</instanceId>\
                         <instanceState><name>pending</name></instanceState></item></instancesSet>\
                         </RunInstancesResponse>"
                    ),
                )
            }
            "DescribeInstances" => {
                let inside = all.iter().enumerate().map(|(nth, one)| {
                    let more = format!("{}{}", one.more, one.reason);
                    let item = reservation(&id(nth), one.state, &more);
                    item.replace("t2.micro", &one.kind)
                });
                Act::Say(200, listing(&inside.collect::<String>()))
            }
            "TerminateInstances" => {
                let wanted = sent.value("InstanceId.1").unwrap();
                let mut before = "terminated";
                for (nth, one) in all.iter_mut().enumerate() {
                    if id(nth) == wanted {
                        before = one.state;
                        one.state = "terminated";
                    }
                }
                Act::Say(
                    200,
                    format!(
                        "<TerminateInstancesResponse><instancesSet><item><instanceId>{wanted}\
                         </instanceId><previousState><name>{before}</name></previousState></item>\
                         </instancesSet></TerminateInstancesResponse>"
                    ),
                )
            }
            _ => Act::refuse(400, "InvalidAction", "no such action"),
        }
    });
    (relay, instances)
}

fn site(relay: &Relay, flavors: &str, options: &str) -> Factory {
    let factory = Factory::new();
    let machinetype = format!("flavor_names = {flavors}\nroot_image = image:ami-1\n");
    let options = format!("{AMAZON}max_machines = 1\n{options}");
    let text = space(&factory, SPACE, &relay.base, (&options, &machinetype));
    factory.conf("space", &text);
    factory
}

fn told(factory: &Factory, words: &[&str]) {
    until(&format!("the log says {words:?}"), || {
        let log = factory.log();
        let mut lines = log.lines();
        lines
            .any(|line| words.iter().all(|word| line.contains(word)))
            .then_some(())
    });
}

/// RunInstances was accepted, and then there was no room: the next flavor is asked for.
#[test]
fn an_instance_that_could_not_be_made_after_all_tells_why() {
    for (code, message) in [
        (
            "Server.InsufficientInstanceCapacity",
            "Insufficient capacity to satisfy instance request",
        ),
        ("Client.VolumeLimitExceeded", "Volume limit exceeded"),
    ] {
        let why = reason(code, message);
        let (relay, instances) = service(move |kind| match kind {
            "m5.large" => ("terminated", why.clone()),
            _ => ("running", String::new()),
        });
        let factory = site(&relay, "m5.large t2.micro", "");
        let daemon = factory.start();
        told(
            &factory,
            &["the cloud gave up on it", &format!("{code}: {message}")],
        );
        told(&factory, &["the cloud has no room for flavor m5.large"]);
        until("the other flavor runs", || {
            let machines = factory.machines();
            machines.iter().find_map(|one| one.read("started"))
        });
        // What has been told is not listed again, and takes no room.
        factory.wait_for_scans(SPACE, 3);
        let kinds: Vec<String> = {
            let all = instances.lock().unwrap();
            all.iter().map(|one| one.kind.clone()).collect()
        };
        assert_eq!(kinds, ["m5.large", "t2.micro"], "{code}");
        assert_eq!(relay.of("TerminateInstances").len(), 1, "{code}");
        let gave_up = factory.log_lines("the cloud gave up on it");
        assert_eq!(gave_up.len(), 1, "{gave_up:?}");
        daemon.end();
    }
}

/// Spare capacity is taken back: the machine has ended and is accounted for, also when that happened
/// while the daemon was not there.
#[test]
fn an_instance_whose_capacity_was_taken_back_tells_why() {
    for is_running in [true, false] {
        let (relay, instances) = service(|_| ("running", String::new()));
        let factory = site(&relay, "t2.micro", "spot = True\n");
        let mut daemon = factory.start();
        let first = until("a machine", || factory.machines().pop());
        first.wait_for("started");
        // Longer than fizzle_seconds, so that it is no abort.
        factory.wait_for_scans(SPACE, 5);
        let take_back = || {
            let mut all = instances.lock().unwrap();
            all[0].state = "terminated";
            all[0].reason = reason(
                "Server.SpotInstanceTermination",
                "Spot instance termination",
            );
        };
        if is_running {
            take_back();
        } else {
            daemon.kill();
            take_back();
            daemon = factory.start();
        }
        first.wait_for("finished");
        told(
            &factory,
            &["Server.SpotInstanceTermination: Spot instance termination"],
        );
        until("its record", || factory.records("apel-archive").pop());
        until("the next one", || {
            (factory.machines().len() == 2).then_some(())
        });
        daemon.end();
    }
}
