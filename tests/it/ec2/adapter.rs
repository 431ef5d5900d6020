//! The adapter alone.

use std::time::Duration;

use vcycle::cloud::{Cloud, CloudErrorKind, Deletion};
use vcycle::config::Ec2Options;
use vcycle::model::{CloudId, Gigabytes, MachineState};

use super::moto::{Moto, between};
use super::relay::{Act, Relay, Sent};
use super::{KEY, SECRET_KEY, connect, options};
use crate::contract::{self, Ground};

fn ground(image: &str) -> Ground {
    Ground {
        flavor: "t2.micro".to_owned(),
        image: image.to_owned(),
        public_key: Some(KEY.to_owned()),
        zone: None,
        patience: Duration::from_secs(30),
        look_every: Duration::from_millis(50),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_on_moto_as_on_amazon() {
    let Some(moto) = Moto::start() else { return };
    let cloud = connect(&options(&format!("http://{}/", moto.address), "2016-11-15"));
    contract::keeps_the_contract(&cloud, &ground(&moto.image)).await;
    let mut with_zone = ground(&moto.image);
    with_zone.zone = Some("us-east-1b".to_owned());
    contract::a_machine_lives_and_dies(&cloud, &with_zone).await;
    assert!(moto.instances().is_empty());
}

/// The version and path of OpenStack, with moto behind it.
#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_with_the_old_version() {
    let Some(moto) = Moto::start() else { return };
    let relay = Relay::start(Some(moto.address.clone()), |_| Act::Pass);
    let url = format!("{}/services/Cloud", relay.base);
    let cloud = connect(&options(&url, "2010-08-31"));
    contract::keeps_the_contract(&cloud, &ground(&moto.image)).await;
    assert!(moto.instances().is_empty());
    for sent in relay.sent() {
        assert_eq!(sent.target, "/services/Cloud");
        assert_eq!(sent.value("Version"), Some("2010-08-31"));
        assert!(
            sent.header("authorization")
                .contains("/region_one/openstack/aws4_request")
        );
        let newer = sent
            .form
            .iter()
            .find(|(name, _)| name.starts_with("TagSpecification") || name == "MaxResults");
        assert_eq!(newer, None, "{sent:?}");
    }
    assert!(relay.of("DescribeInstanceTypes").is_empty());
    let run = &relay.of("RunInstances")[1];
    let name = run.value("ClientToken").unwrap().to_owned();
    let tagged = relay.of("CreateTags");
    let tags = tagged.iter().map(|sent| sent.tags("Tag."));
    assert!(
        tags.into_iter()
            .any(|tags| tags.contains(&("name".to_owned(), name.clone()))),
        "{name} was not tagged: {tagged:?}"
    );
}

/// The signature is made over what is sent: botocore, which moto brings, makes the same one.
#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_makes_the_same_signature() {
    let Some(program) = std::env::var_os("VCYCLE_TEST_MOTO") else {
        println!("skipped: VCYCLE_TEST_MOTO names no moto_server (tests/run does)");
        return;
    };
    let relay = Relay::start(None, |_| Act::Say(200, listing("")));
    let url = format!("{}/services/Cloud", relay.base);
    connect(&options(&url, "2010-08-31")).list().await.unwrap();
    let sent = &relay.sent()[0];
    let script = r#"
import sys, datetime
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
url, body, secret, date, names = sys.argv[1:6]
headers = dict(pair.split(": ", 1) for pair in sys.argv[6:])
auth = SigV4Auth(Credentials("AKIATEST", secret), "openstack", "region_one")
request = AWSRequest(method="POST", url=url, data=body, headers=headers)
request.context["timestamp"] = date
auth.headers_to_sign = lambda r: {n: headers[n] for n in names.split(";")}
canonical = "\n".join(["POST", "/services/Cloud", "",
    "".join("%s:%s\n" % (n, headers[n].strip()) for n in names.split(";")), names, auth.payload(request)])
print(auth.signature(auth.string_to_sign(request, canonical), request))
"#;
    let authorization = sent.header("authorization");
    let part = |name: &str| {
        let rest = authorization.split(name).nth(1).unwrap();
        rest.split([',', ' ']).next().unwrap().to_owned()
    };
    let python = std::path::Path::new(&program).with_file_name("python3");
    let names = part("SignedHeaders=");
    let headers = names.split(';').map(|n| format!("{n}: {}", sent.header(n)));
    let output = std::process::Command::new(python)
        .args([
            "-c",
            script,
            &url,
            &sent.body,
            SECRET_KEY,
            sent.header("x-amz-date"),
            &names,
        ])
        .args(headers)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(
        said,
        part("Signature="),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An answer to DescribeInstances with these reservations.
pub fn listing(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>r</requestId><reservationSet>{inside}</reservationSet></DescribeInstancesResponse>"
    )
}

/// A reservation with one instance.
pub fn reservation(id: &str, state: &str, more: &str) -> String {
    format!(
        "<item><instancesSet><item><instanceId>{id}</instanceId><instanceState><code>0</code>\
         <name>{state}</name></instanceState><instanceType>t2.micro</instanceType>{more}</item>\
         </instancesSet></item>"
    )
}

fn made(id: &str) -> Act {
    Act::Say(
        200,
        format!(
            "<RunInstancesResponse><instancesSet><item><instanceId>{id}</instanceId><instanceState>\
             <name>pending</name></instanceState></item></instancesSet></RunInstancesResponse>"
        ),
    )
}

/// A service without instance types that makes one instance and has an answer for the rest.
fn service(answer: impl Fn(&Sent) -> Act + Send + Sync + 'static) -> Relay {
    Relay::start(None, move |sent| match sent.action() {
        "DescribeInstanceTypes" => Act::refuse(400, "InvalidAction", "no such action"),
        _ => answer(sent),
    })
}

fn amazon(relay: &Relay) -> Ec2Options {
    options(&relay.base, "2016-11-15")
}

#[tokio::test]
async fn half_a_listing_is_an_error_and_changes_in_it_begin_it_again() {
    let whole = listing(&(reservation("i-1", "running", "") + &reservation("i-2", "running", "")));
    for cut in [whole.len() / 2, whole.len() - 1, whole.len() - 30, 0] {
        let part = whole[..cut].to_owned();
        let relay = service(move |_| Act::Say(200, part.clone()));
        let error = connect(&amazon(&relay)).list().await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Rejected, "{error}");
        assert!(
            error
                .to_string()
                .contains("DescribeInstances at http://127"),
            "{error}"
        );
    }
    let relay = service(|_| Act::Say(200, "<DescribeInstancesResponse/>".to_owned()));
    assert!(connect(&amazon(&relay)).list().await.is_err());
    // An instance that comes on two pages.
    let page = |token: &str, inside: &str| {
        let token = format!("<nextToken>{token}</nextToken></DescribeInstancesResponse>");
        listing(inside).replace("</DescribeInstancesResponse>", &token)
    };
    let first = page("t", &reservation("i-1", "running", ""));
    let relay = service(move |sent| match (sent.value("NextToken"), sent.nth) {
        (None, _) => Act::Say(200, first.clone()),
        (Some(_), 1) => Act::Say(200, listing(&reservation("i-1", "running", ""))),
        (Some(_), _) => Act::Say(200, listing(&reservation("i-2", "stopped", ""))),
    });
    let machines = connect(&amazon(&relay)).list().await.unwrap();
    assert_eq!(machines.len(), 2);
    assert_eq!(relay.of("DescribeInstances").len(), 4);
    assert_eq!(
        relay.of("DescribeInstances")[0].value("MaxResults"),
        Some("1000")
    );
    // For ever the same page.
    let same = page("t", "");
    let relay = service(move |_| Act::Say(200, same.clone()));
    let error = connect(&amazon(&relay)).list().await.unwrap_err();
    assert!(error.message.contains("circle"), "{error}");
}

#[tokio::test]
async fn what_was_made_a_moment_ago_is_not_gone() {
    let unknown = "InvalidInstanceID.NotFound";
    let relay = service(move |sent| match sent.action() {
        "RunInstances" => made("i-0a"),
        "TerminateInstances" => Act::refuse(400, unknown, "The instance ID does not exist"),
        _ => Act::Say(200, listing("")),
    });
    let cloud = connect(&amazon(&relay));
    let mut wanted = contract::request(&cloud, &ground("ami-1")).await;
    wanted.public_key = None;
    let id = cloud.create(&wanted).await.unwrap();
    let machines = cloud.list().await.unwrap();
    assert_eq!((machines.len(), &machines[0].id), (1, &id));
    assert_eq!(machines[0].state, MachineState::Starting);
    assert_eq!(machines[0].name, wanted.name.as_str());
    let error = cloud.delete(&id).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert!(error.message.contains(unknown), "{error}");
    let other = CloudId::new("i-0b");
    assert_eq!(cloud.delete(&other).await, Ok(Deletion::AlreadyGone));
}

#[tokio::test]
async fn a_machine_that_the_list_lacks_is_asked_for_alone() {
    let unknown = "InvalidInstanceID.NotFound";
    let relay = service(
        move |sent| match (sent.action(), sent.value("InstanceId.1")) {
            ("RunInstances", _) => made("i-new"),
            (_, Some(id @ "i-runs")) => Act::Say(200, listing(&reservation(id, "running", ""))),
            (_, Some(id @ "i-over")) => Act::Say(200, listing(&reservation(id, "terminated", ""))),
            (_, Some("i-other")) => Act::Say(200, listing(&reservation("i-x", "running", ""))),
            (_, Some("i-odd")) => Act::refuse(500, "InternalError", "trouble"),
            (_, Some(_)) => Act::refuse(400, unknown, "The instance ID does not exist"),
            (_, None) => Act::Say(200, listing("")),
        },
    );
    let cloud = connect(&amazon(&relay));
    let found = cloud.find(&CloudId::new("i-runs")).await.unwrap().unwrap();
    assert_eq!(
        (found.id.as_str(), found.state),
        ("i-runs", MachineState::Running)
    );
    assert_eq!(found.processors.map(|count| count.get()), Some(1));
    for gone in ["i-over", "i-none"] {
        assert_eq!(cloud.find(&CloudId::new(gone)).await, Ok(None), "{gone}");
    }
    // What tells nothing of it is no answer; nor is, for a while, that one just made is unknown.
    let mut wanted = contract::request(&cloud, &ground("ami-1")).await;
    wanted.public_key = None;
    let new = cloud.create(&wanted).await.unwrap();
    for untold in ["i-other", "i-odd", new.as_str()] {
        assert!(cloud.find(&CloudId::new(untold)).await.is_err(), "{untold}");
    }
}

#[tokio::test]
async fn a_creation_says_all_that_was_configured_and_one_refusal_changes_the_token() {
    let relay = service(|sent| match (sent.action(), sent.nth) {
        ("RunInstances", 0) => Act::refuse(
            500,
            "InsufficientInstanceCapacity",
            "There is no Spot capacity available",
        ),
        ("RunInstances", _) => made("i-0a"),
        ("DescribeImages", _) => Act::Say(
            200,
            "<DescribeImagesResponse><imagesSet><item><imageId>ami-7</imageId><name>cernvm</name>\
             <rootDeviceName>/dev/xvda</rootDeviceName></item></imagesSet></DescribeImagesResponse>"
                .to_owned(),
        ),
        _ => Act::Say(200, listing("")),
    });
    let cloud = connect(&Ec2Options {
        security_groups: vec!["sg-01".to_owned(), "grid".to_owned()],
        network_uuid: Some("subnet-1".to_owned()),
        spot: true,
        ..amazon(&relay)
    });
    let mut wanted = contract::request(&cloud, &ground("cernvm")).await;
    wanted.public_key = None;
    wanted.zone = Some("us-east-1c".to_owned());
    wanted.volume = Gigabytes::new(40);
    let error = cloud.create(&wanted).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Capacity);
    assert!(
        error
            .message
            .contains("InsufficientInstanceCapacity: There is no Spot"),
        "{error}"
    );
    wanted.flavor.id = "m5.large".to_owned();
    cloud.create(&wanted).await.unwrap();
    let sent = relay.of("RunInstances");
    let name = wanted.name.as_str();
    assert_eq!(sent[0].value("ClientToken"), Some(name));
    assert_eq!(
        sent[1].value("ClientToken"),
        Some(format!("{name}.2").as_str())
    );
    for (key, value) in [
        ("ImageId", "ami-7"),
        ("InstanceType", "m5.large"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("Placement.AvailabilityZone", "us-east-1c"),
        ("SubnetId", "subnet-1"),
        ("SecurityGroupId.1", "sg-01"),
        ("SecurityGroup.1", "grid"),
        ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
        ("BlockDeviceMapping.1.Ebs.VolumeSize", "40"),
        ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
        ("InstanceMarketOptions.MarketType", "spot"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.2.ResourceType", "volume"),
        ("UserData", "IyEvYmluL3NoCnNodXRkb3duIC1oIG5vdwo="),
        ("Version", "2016-11-15"),
    ] {
        assert_eq!(sent[1].value(key), Some(value), "{key}");
    }
    let tags: Vec<_> = wanted.metadata.into_iter().collect();
    assert_eq!(sent[1].tags("TagSpecification.1.Tag."), tags);
    assert_eq!(
        relay.of("DescribeImages").len(),
        1,
        "the image is known by then"
    );
    assert!(sent[1].header("user-agent").starts_with("vcycled/"));
}

#[tokio::test]
async fn what_cannot_be_is_not_asked_for() {
    let relay = service(|_| Act::Say(200, listing("")));
    let cloud = connect(&amazon(&relay));
    let mut wanted = contract::request(&cloud, &ground("ami-1")).await;
    wanted.user_data = vcycle::model::Secret::new(vec![b'x'; 16 * 1024 + 1]);
    let error = cloud.create(&wanted).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected);
    assert!(
        error.message.contains("16385 bytes, and EC2 takes 16384"),
        "{error}"
    );
    assert!(relay.of("RunInstances").is_empty());
}

#[tokio::test]
async fn an_unclear_answer_to_a_creation_is_ambiguous_and_it_is_sent_once() {
    for act in [
        Act::Say(200, "<RunInstancesResponse><instancesSet>".to_owned()),
        Act::Say(200, "<RunInstancesResponse/>".to_owned()),
        Act::Say(502, "<html>Bad Gateway</html>".to_owned()),
        Act::refuse(500, "InternalError", "An internal error has occurred"),
        Act::refuse(503, "Unavailable", "try later"),
        Act::refuse(400, "IdempotentParameterMismatch", "other parameters"),
    ] {
        let said = act.clone();
        let relay = service(move |sent| match sent.action() {
            "RunInstances" => said.clone(),
            _ => Act::Say(200, listing("")),
        });
        let cloud = connect(&amazon(&relay));
        let mut wanted = contract::request(&cloud, &ground("ami-1")).await;
        wanted.public_key = None;
        let error = cloud.create(&wanted).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Ambiguous, "{act:?}: {error}");
        assert_eq!(relay.of("RunInstances").len(), 1, "{act:?}");
    }
}

/// A proxy says so when the service took too long, and may have made the machine after all.
#[tokio::test]
async fn a_creation_that_was_told_to_wait_is_ambiguous_and_the_service_is_left_alone() {
    let relay = service(|sent| match sent.action() {
        "RunInstances" => Act::Busy(60),
        _ => Act::Say(200, listing("")),
    });
    let cloud = connect(&amazon(&relay));
    let mut wanted = contract::request(&cloud, &ground("ami-1")).await;
    wanted.public_key = None;
    let error = cloud.create(&wanted).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Ambiguous, "{error}");
    let error = cloud.create(&wanted).await.unwrap_err();
    assert!(
        matches!(error.kind, CloudErrorKind::RateLimited { retry_after: Some(wait) } if wait.get() > 50),
        "{error}"
    );
    assert_eq!(relay.of("RunInstances").len(), 1);
}

/// Moto has the key of an RSA user under the fingerprint that Amazon gives it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_imported_once_and_known_again() {
    let Some(moto) = Moto::start() else { return };
    let relay = Relay::start(Some(moto.address.clone()), |_| Act::Pass);
    let mut keys = vec![KEY.to_owned()];
    let pem = openssl::rsa::Rsa::generate(2048).unwrap();
    keys.push(ssh_rsa(&pem));
    for key in &keys {
        for _ in 0..2 {
            // As after a restart.
            let cloud = connect(&amazon(&relay));
            let mut wanted = contract::request(&cloud, &ground(&moto.image)).await;
            wanted.public_key = Some(key.clone());
            cloud.create(&wanted).await.unwrap();
        }
    }
    assert_eq!(relay.of("ImportKeyPair").len(), 2);
    let pairs = moto.ask("Action=DescribeKeyPairs");
    assert_eq!(between(&pairs, "<keyName>", "</keyName>").count(), 2);
    // Another key in its place.
    let name = between(&pairs, "<keyName>", "</keyName>").next().unwrap();
    moto.ask(&format!("Action=DeleteKeyPair&KeyName={name}"));
    moto.ask(&format!("Action=CreateKeyPair&KeyName={name}"));
    let cloud = connect(&amazon(&relay));
    let mut errors = 0;
    for key in &keys {
        let mut wanted = contract::request(&cloud, &ground(&moto.image)).await;
        wanted.public_key = Some(key.clone());
        if let Err(error) = cloud.create(&wanted).await {
            assert!(error.message.contains("fingerprint"), "{error}");
            errors += 1;
        }
    }
    assert_eq!(errors, 1);
}

fn ssh_rsa(key: &openssl::rsa::Rsa<openssl::pkey::Private>) -> String {
    use base64::Engine;
    let number = |bytes: Vec<u8>| match bytes[0] {
        0x80.. => [vec![0], bytes].concat(),
        _ => bytes,
    };
    let fields = [
        b"ssh-rsa".to_vec(),
        number(key.e().to_vec()),
        number(key.n().to_vec()),
    ];
    let field = |f: &Vec<u8>| [&u32::try_from(f.len()).unwrap().to_be_bytes()[..], f].concat();
    let blob: Vec<u8> = fields.iter().flat_map(field).collect();
    format!(
        "ssh-rsa {}",
        base64::engine::general_purpose::STANDARD.encode(blob)
    )
}
