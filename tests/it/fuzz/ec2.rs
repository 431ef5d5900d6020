//! Answers of an EC2, mutated, through the adapter, which is given them without a network.
//!
//! Whatever comes back: no panic, an end in time; a listing that is whole or an error, with no
//! machine twice; a create that was not understood is ambiguous; and errors that show no secret
//! and fit in a line.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use proptest::sample::select;
use vcycle::clock::Clock;
use vcycle::cloud::ec2::Ec2;
use vcycle::cloud::http::{Carried, Carrier, Failure, Network, Request};
use vcycle::cloud::{Cloud, CloudErrorKind, CreateRequest, Outside};
use vcycle::model::{CloudId, Flavor, MachineName, Processors, Secret, Timestamp};

use super::bytes::{Change, Text, changes, mutate};
use super::memory::most_mib;
use super::{Cost, cases, fuzz};
use crate::ec2::{SECRET_KEY, connect_by, options};

const LISTING: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<requestId>fdcdcab1-ae5c-489e-9c33-4637c5dda355</requestId>
<reservationSet>
<item><reservationId>r-1</reservationId><ownerId>1</ownerId>
<instancesSet>
<item><instanceId>i-0a1</instanceId><imageId>ami-1</imageId>
<instanceState><code>16</code><name>running</name></instanceState>
<clientToken>vcycle-a-0123456789</clientToken><instanceType>t2.micro</instanceType>
<launchTime>2026-11-21T02:51:03.000Z</launchTime>
<placement><availabilityZone>us-east-1a</availabilityZone></placement>
<blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-1</volumeId></ebs></item></blockDeviceMapping>
<tagSet><item><key>name</key><value>vcycle-a-0123456789</value></item>
<item><key>space</key><value>s</value></item><item><key>manager</key><value>m</value></item></tagSet>
</item>
<item><instanceId>i-0a2</instanceId><instanceState><code>80</code><name>stopped</name></instanceState>
<reason>User initiated (2026-11-21 02:51:05 GMT)</reason>
<stateReason><code>Client.UserInitiatedShutdown</code><message>User initiated</message></stateReason>
</item>
</instancesSet></item>
</reservationSet>
<nextToken></nextToken>
</DescribeInstancesResponse>
"#;
const MADE: &str = r#"<RunInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<instancesSet><item><instanceId>i-0a3</instanceId>
<instanceState><code>0</code><name>pending</name></instanceState></item></instancesSet>
</RunInstancesResponse>
"#;
const TYPES: &str = r#"<DescribeInstanceTypesResponse><instanceTypeSet>
<item><instanceType>t2.micro</instanceType><vCpuInfo><defaultVCpus>1</defaultVCpus></vCpuInfo>
<memoryInfo><sizeInMiB>1024</sizeInMiB></memoryInfo></item>
</instanceTypeSet></DescribeInstanceTypesResponse>
"#;
const GONE: &str = r#"<TerminateInstancesResponse><instancesSet><item><instanceId>x</instanceId>
<previousState><name>running</name></previousState></item></instancesSet></TerminateInstancesResponse>
"#;
const ERROR: &str = r#"<Response><Errors><Error><Code>AuthFailure</Code>
<Message>no</Message></Error></Errors><RequestID>1</RequestID></Response>
"#;
const DOCUMENTS: &[&str] = &[LISTING, LISTING, MADE, TYPES, GONE, ERROR];
const ACTIONS: &[&str] = &[
    "DescribeInstances",
    "DescribeInstances",
    "RunInstances",
    "DescribeInstanceTypes",
    "TerminateInstances",
];
const STATUSES: &[u16] = &[
    200, 200, 200, 204, 302, 400, 401, 403, 404, 408, 429, 500, 503, 999,
];
const TOKENS: &[&str] = &[
    "<item>",
    "</item>",
    "<item/>",
    "<instanceId>i-0a1</instanceId>",
    "<instanceId></instanceId>",
    "<instancesSet>",
    "<reservationSet>",
    "</reservationSet>",
    "<nextToken>t</nextToken>",
    "<name>terminated</name>",
    "<defaultVCpus>-1</defaultVCpus>",
    "<launchTime>99999999999999999999</launchTime>",
    "<!DOCTYPE a [<!ENTITY b \"&b;&b;\">]>",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "&lt;",
    "&#0;",
    "&nope;",
    "<?x?>",
    "\u{feff}",
    "\u{1b}[2J",
    SECRET_KEY,
];

/// What one action is answered with in place of its document.
#[derive(Clone, Debug)]
struct Twist {
    action: &'static str,
    status: u16,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Told(Arc<Mutex<Option<Twist>>>);

#[async_trait]
impl Carrier for Told {
    async fn carry(&self, request: &Request) -> Result<Carried, Failure> {
        let form = request.body.as_deref().unwrap_or_default();
        let form: Vec<_> = url::form_urlencoded::parse(form).into_owned().collect();
        let action = &form.iter().find(|(key, _)| key == "Action").unwrap().1;
        let twist = self.0.lock().unwrap().clone();
        let (status, body) = match twist {
            Some(twist) if twist.action == action => (twist.status, twist.body),
            _ => {
                let usual = match action.as_str() {
                    "DescribeInstances" => LISTING,
                    "RunInstances" => MADE,
                    "DescribeInstanceTypes" => TYPES,
                    _ => GONE,
                };
                (200, usual.as_bytes().to_vec())
            }
        };
        Ok(Carried {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body,
        })
    }
}

fn connect(told: &Arc<Mutex<Option<Twist>>>) -> Ec2 {
    let clock = Clock::manual(Timestamp::from_unix(1_795_229_463));
    let outside = Outside {
        network: Network::Replaced(Arc::new(Told(Arc::clone(told)))),
        ..Outside::real(std::path::Path::new("/nonexistent"), clock)
    };
    connect_by(&options("http://ec2.invalid/", "2016-11-15"), &outside)
}

fn request() -> CreateRequest {
    CreateRequest {
        name: MachineName::new("vcycle-a-0123456789").unwrap(),
        flavor: Flavor {
            id: "t2.micro".to_owned(),
            name: "t2.micro".to_owned(),
            processors: Processors::ONE,
            memory_mb: None,
            disk_gb: None,
        },
        image: "ami-1".to_owned(),
        volume: None,
        public_key: None,
        user_data: Secret::new(b"secret user data".to_vec()),
        metadata: std::collections::BTreeMap::new(),
        zone: None,
    }
}

fn check(twist: &Twist) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let begun = Instant::now();
    let told = Arc::new(Mutex::new(Some(twist.clone())));
    let (facts, listed, made, deleted) = runtime.block_on(async {
        let cloud = connect(&told);
        (
            cloud.facts().await,
            cloud.list().await,
            cloud.create(&request()).await,
            cloud.delete(&CloudId::new("x")).await,
        )
    });
    prop_assert!(begun.elapsed() < Duration::from_secs(10));
    if let Ok(machines) = &listed {
        let ids: BTreeSet<&str> = machines.iter().map(|one| one.id.as_str()).collect();
        prop_assert_eq!(ids.len(), machines.len(), "a machine twice");
        prop_assert!(ids.iter().all(|id| !id.is_empty()));
        for text in machines.iter().flat_map(|one| [&one.status, &one.name]) {
            prop_assert!(text.len() < 2000);
        }
    }
    if let Err(error) = &made {
        let unclear = twist.status < 300 || twist.status == 408 || twist.status >= 500;
        if unclear
            && twist.action == "RunInstances"
            && !twist.body.windows(6).any(|w| w == b"<Code>")
        {
            prop_assert_eq!(error.kind, CloudErrorKind::Ambiguous, "{}", error);
        }
    }
    let errors = [facts.err(), listed.err(), made.err(), deleted.err()];
    for error in errors.into_iter().flatten() {
        let text = error.to_string();
        prop_assert!(text.len() < 3000, "{}", text);
        prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
        for secret in [SECRET_KEY, "c2VjcmV0IHVzZXIgZGF0YQ=="] {
            prop_assert!(!text.contains(secret), "{}", text);
        }
    }
    Ok(())
}

fn twists() -> impl Strategy<Value = Twist> {
    let body = (select(DOCUMENTS), changes(TOKENS)).prop_map(
        |(document, changes): (&'static str, Vec<Change>)| {
            Text(mutate(document.as_bytes().to_vec(), &changes)).0
        },
    );
    (select(ACTIONS), select(STATUSES), body).prop_map(|(action, status, body)| Twist {
        action,
        status,
        body,
    })
}

#[test]
fn mutated_answers_are_whole_or_an_error() {
    fuzz(file!(), cases(Cost::Cheap, 200), &twists(), |twist| {
        check(&twist)
    });
}

/// Part of a listing, cut anywhere, is none.
#[test]
fn a_part_of_a_listing_is_an_error() {
    let cuts = 0..LISTING.trim_end().len();
    fuzz(file!(), cases(Cost::Cheap, 100), &cuts, |cut| {
        let twist = Twist {
            action: "DescribeInstances",
            status: 200,
            body: LISTING.as_bytes()[..cut].to_vec(),
        };
        let told = Arc::new(Mutex::new(Some(twist)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        prop_assert!(runtime.block_on(connect(&told).list()).is_err());
        Ok(())
    });
}

/// Deep, wide and long: the answer ends, and in time.
#[test]
fn monstrous_answers_end() {
    let item = "<item><instanceId>i-1</instanceId><instanceState><name>running</name></instanceState></item>";
    let wrap = |inside: &str| {
        let begin = "<DescribeInstancesResponse><reservationSet><item><instancesSet>";
        let end = "</instancesSet></item></reservationSet></DescribeInstancesResponse>";
        format!("{begin}{inside}{end}").into_bytes()
    };
    for body in [
        wrap(&"<a>".repeat(1_000_000)),
        wrap(&format!(
            "{}{}",
            "<a>".repeat(200_000),
            "</a>".repeat(200_000)
        )),
        wrap(&item.repeat(99_000)),
        wrap(&item.repeat(110_000)),
        wrap(&"<item/>".repeat(4_000_000)),
        wrap(&format!("<item a=\"{}\"/>", "x".repeat(10_000_000))),
        wrap(&"<x/>".repeat(2_000_000)),
    ] {
        let twist = Twist {
            action: "DescribeInstances",
            status: 200,
            body,
        };
        let told = Arc::new(Mutex::new(Some(twist)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let begun = Instant::now();
        let listed = runtime.block_on(connect(&told).list());
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{:?}",
            begun.elapsed()
        );
        if let Ok(machines) = listed {
            assert!(machines.len() <= 1, "{}", machines.len());
        }
    }
    if std::env::var_os(ALONE).is_some() {
        let most = most_mib();
        eprintln!("{most} MiB at most");
        assert!(most < MOST_MIB, "{most} MiB");
    }
}

/// Tells the test above that nothing else uses the memory of its process.
const ALONE: &str = "VCYCLE_FUZZ_MEMORY_EC2";
/// What that process may have at its most, in MiB: what the SDK makes of a hundred thousand instances.
const MOST_MIB: u64 = 512;

#[test]
fn monstrous_answers_take_bounded_memory() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fuzz::ec2::monstrous_answers_end", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(" MiB at most"), "{said}");
    eprintln!("{said}");
}
