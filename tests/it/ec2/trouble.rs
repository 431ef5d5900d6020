//! What sites get wrong, and services that are in trouble: a clear error, and the other spaces are
//! none the worse for it.

use super::moto::Moto;
use super::relay::{Act, Relay};
use super::{AMAZON, SECRET_KEY, space};
use crate::daemon::factory::{Factory, SPACE, until};

fn ec2(factory: &Factory, name: &str, url: &str, (options, machinetype): (&str, &str)) -> String {
    let options = format!("{AMAZON}max_machines = 2\n{options}");
    space(factory, name, url, (&options, machinetype))
}

#[test]
fn mistakes_are_told_and_harm_no_other_space() {
    let Some(moto) = Moto::start() else { return };
    let refusing = Relay::start(None, |_| {
        Act::refuse(
            401,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        )
    });
    let factory = Factory::new();
    let url = format!("http://{}/", moto.address);
    let with_flavor =
        |flavor: &str, image: &str| format!("flavor_name = {flavor}\nroot_image = image:{image}\n");
    let with_path = format!("{url}services/Cloud");
    let image = moto.image.as_str();
    for (name, url, machinetype) in [
        (
            "key.org",
            refusing.base.as_str(),
            with_flavor("t2.micro", image),
        ),
        (
            "image.org",
            url.as_str(),
            with_flavor("t2.micro", "ami-0badbadbadbadbad0"),
        ),
        (
            "named.org",
            url.as_str(),
            with_flavor("t2.micro", "no-such-name"),
        ),
        (
            "flavor.org",
            url.as_str(),
            with_flavor("t2.gigantic", image),
        ),
        (
            "path.org",
            with_path.as_str(),
            with_flavor("t2.micro", image),
        ),
        (
            "dead.org",
            "http://127.0.0.1:1/",
            with_flavor("t2.micro", image),
        ),
    ] {
        factory.conf(name, &ec2(&factory, name, url, ("", &machinetype)));
    }
    let good = with_flavor("t2.micro", image);
    factory.conf("good", &ec2(&factory, "good.org", &url, ("", &good)));
    let simulated =
        factory.space(SPACE, "max_machines = 2") + &factory.machinetype(SPACE, "atlas", "");
    factory.conf("simulated", &simulated);
    let daemon = factory.start();
    let said = |space: &str, words: &[&str]| {
        until(&format!("{space} is told: {words:?}"), || {
            let log = factory.log();
            let mut lines = log.lines().filter(|line| line.contains(space));
            lines
                .any(|line| words.iter().all(|word| line.contains(word)))
                .then_some(())
        });
    };
    said(
        "key.org",
        &[
            "401 Unauthorized: AuthFailure: AWS was not able to validate",
            "DescribeInstance",
            "see access_key and secret_key",
        ],
    );
    said(
        "image.org",
        &[
            "InvalidAMIID.NotFound",
            "root_image = image:ami-0badbadbadbadbad0",
        ],
    );
    said("named.org", &["there is no image \"no-such-name\""]);
    said(
        "path.org",
        &["404 Not Found", "is the url right, with its path?"],
    );
    said("dead.org", &["127.0.0.1:1", "refused"]);
    until("the simulated space is full", || {
        (factory.servers(SPACE).len() == 2).then_some(())
    });
    until("the good space has its machines", || {
        let machines = factory.machines();
        let of_good = machines.iter().filter(|one| {
            one.read("space_name").as_deref() == Some("good.org") && one.read("started").is_some()
        });
        (of_good.count() == 2).then_some(())
    });
    let plan = factory.run(&["plan", "flavor.org"]);
    assert!(
        plan.out.contains("the cloud has no flavor t2.gigantic"),
        "{plan:?}"
    );
    daemon.end();
    assert_eq!(moto.instances().len(), 2);
    assert!(!factory.log().contains(SECRET_KEY));
}

#[test]
fn a_url_without_scheme_and_a_wrong_word_are_told_by_check() {
    let factory = Factory::new();
    let machinetype = "flavor_name = a\nroot_image = image:ami-1\n";
    let text = ec2(
        &factory,
        SPACE,
        "ec2.example.org/services/Cloud",
        ("spot = perhaps\n", machinetype),
    );
    factory.conf("space", &text);
    let check = factory.run(&["check"]);
    assert_ne!(check.code, Some(0));
    let all = format!("{}{}", check.out, check.err);
    assert!(
        all.contains("url = \"ec2.example.org/services/Cloud\""),
        "{all}"
    );
    assert!(all.contains("spot = \"perhaps\""), "{all}");
    assert!(!all.contains(SECRET_KEY));
    // For Amazon's own no url is needed.
    let text = ec2(&factory, SPACE, "x", ("", machinetype)).replace("url = x\n", "");
    factory.conf("space", &text);
    let check = factory.run(&["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let text = text.replace("service = ec2\n", "");
    factory.conf("space", &text);
    let check = factory.run(&["check"]);
    assert!(
        format!("{}{}", check.out, check.err).contains("url is missing"),
        "{check:?}"
    );
}

/// Throttled: a listing is asked for again, a machine is not made, and it is told.
#[test]
fn throttling_costs_time_and_nothing_else() {
    let Some(moto) = Moto::start() else { return };
    let busy = |sent: &super::relay::Sent| match (sent.action(), sent.nth) {
        ("RunInstances", _) | ("DescribeInstances", 1..=2) => {
            Act::refuse(503, "RequestLimitExceeded", "Request limit exceeded.")
        }
        // What the SDK makes of it is not for people.
        ("DescribeInstances", 4) => Act::Say(502, "<html>Bad Gateway</html>".to_owned()),
        _ => Act::Pass,
    };
    let relay = Relay::start(Some(moto.address.clone()), busy);
    let factory = Factory::new();
    let machinetype = format!(
        "flavor_name = t2.micro\nroot_image = image:{}\n",
        moto.image
    );
    let text = ec2(&factory, SPACE, &relay.base, ("", &machinetype));
    factory.conf("space", &text);
    let daemon = factory.start();
    until("it is told", || {
        let said = "503 Service Unavailable: RequestLimitExceeded: Request limit exceeded.";
        let mut lines = factory.log_lines(said).into_iter();
        lines.find(|line| line.contains("RunInstances"))
    });
    factory.wait_for_scans(SPACE, 3);
    daemon.end();
    assert_eq!(moto.instances(), [""; 0]);
    assert_eq!(factory.machines(), []);
    assert!(
        factory.log_lines("ERROR").is_empty(),
        "the listings went on"
    );
    let asked = relay.of("RunInstances").len();
    assert!(asked <= 2, "{asked} creations were asked for");
}
