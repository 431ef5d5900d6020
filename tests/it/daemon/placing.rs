//! Flavors, zones and volumes, by the running daemon: on a cloud that is told what to answer, and
//! on the embedded one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::factory::{FACTORY, Factory, SPACE, until};
use crate::scripted::{Reply, Scripted, Seen};

const SERVERS: &str = "/nova/v2.1/servers";
const IMAGE: &str = "70fafd76-166f-49cb-9c64-eb46d0a5f1a5";

/// An OpenStack with the flavors `large` (4 processors) and `small` (1); `create` answers each
/// request for a server, whose place is given as `FLAVOR@ZONE`, and `servers` lists them.
fn openstack(
    seen: &Seen,
    base: &str,
    create: impl Fn(&str, &Value) -> Reply,
    servers: impl Fn() -> Vec<Value>,
) -> Reply {
    let service = |kind: &str, path: &str| {
        json!({"type": kind, "endpoints":
            [{"interface": "public", "region": "R1", "url": format!("{base}{path}")}]})
    };
    let flavor = |name: &str, processors: u32| json!({"id": format!("id-{name}"), "name": name, "vcpus": processors, "ram": 2048, "disk": 0});
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/v3/auth/tokens") => Reply::json(
            201,
            json!({"token": {"project": {"id": "p1"}, "catalog": [
                service("compute", "/nova/v2.1"),
                service("volumev3", "/cinder/v3/p1"),
            ]}}),
        )
        .with("x-subject-token", "token-1"),
        ("GET", "/nova/v2.1/flavors/detail") => Reply::json(
            200,
            json!({"flavors": [flavor("large", 4), flavor("small", 1)]}),
        ),
        ("GET", "/nova/v2.1/limits") => Reply::json(
            200,
            json!({"limits": {"absolute": {"maxTotalInstances": 100, "maxTotalCores": 100}}}),
        ),
        ("GET", "/nova/v2.1/servers/detail") => Reply::json(200, json!({"servers": servers()})),
        ("GET", "/cinder/v3/p1/volumes/detail") => Reply::json(200, json!({"volumes": []})),
        ("POST", SERVERS) => {
            let body = seen.json();
            create(&place(&body), &body)
        }
        ("DELETE", _) => Reply::json(204, ""),
        _ => Reply::json(404, json!({"itemNotFound": {"message": "no such thing"}})),
    }
}

fn place(body: &Value) -> String {
    let text = |key: &str| body["server"][key].as_str().unwrap_or("any");
    format!("{}@{}", &text("flavorRef")[3..], text("availability_zone"))
}

/// The places that have been asked for, in order.
fn asked(cloud: &Scripted) -> Vec<String> {
    let seen = cloud.seen();
    let creates = seen.iter().filter(|seen| seen.is("POST", SERVERS));
    creates.map(|seen| place(&seen.json())).collect()
}

fn site(cloud: &Scripted, space: &str, machinetypes: &[(&str, &str)]) -> Factory {
    let factory = Factory::new();
    let mut text = format!(
        "[space {SPACE}]\napi = openstack\nurl = {}/v3\ntenancy_name = t\nusername = u\n\
         password_base64 = cGFzc3dvcmQ=\n{space}\n",
        cloud.base
    );
    for (name, options) in machinetypes {
        let options = format!("root_image = image:{IMAGE}\n{options}");
        text += &factory.machinetype(SPACE, name, &options);
    }
    factory.conf("space", &text);
    factory
}

/// A server in Nova's listing.
fn server(body: &Value, id: &str, status: &str, more: Value) -> Value {
    let mut server = json!({"id": id, "name": body["server"]["name"], "status": status,
        "metadata": body["server"]["metadata"], "flavor": {"id": body["server"]["flavorRef"]},
        "OS-EXT-STS:power_state": 1});
    let members = server.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    server
}

fn refusal(status: u16, message: &str) -> Reply {
    Reply::json(
        status,
        json!({"badRequest": {"code": status, "message": message}}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_left_alone_and_the_next_zone_and_flavor_are_used() {
    let made = Arc::new(std::sync::Mutex::new(Vec::<Value>::new()));
    let (listed, ids) = (Arc::clone(&made), AtomicUsize::new(0));
    let cloud = Scripted::start(move |seen, base| {
        let create = |place: &str, body: &Value| {
            if place == "large@west" {
                return refusal(400, "No valid host was found. ");
            }
            if place == "large@nowhere" {
                return refusal(400, "The requested availability zone is not available");
            }
            let id = format!("server-{}", ids.fetch_add(1, Ordering::SeqCst));
            // One place looks as if it had room, and has none.
            let server = if place == "large@east" {
                let fault = json!({"fault": {"message": "No valid host was found. "}});
                server(body, &id, "ERROR", fault)
            } else {
                server(
                    body,
                    &id,
                    "ACTIVE",
                    json!({"OS-EXT-AZ:availability_zone": "east"}),
                )
            };
            listed.lock().unwrap().push(server);
            Reply::json(202, json!({"server": {"id": id}}))
        };
        let servers = || listed.lock().unwrap().clone();
        let reply = openstack(seen, base, create, servers);
        if seen.method == "DELETE" {
            let id = seen.path.rsplit('/').next().unwrap();
            listed.lock().unwrap().retain(|server| server["id"] != id);
        }
        reply
    })
    .await;
    let factory = site(
        &cloud,
        "max_machines = 6\nzones = east west nowhere\n",
        &[("atlas", "flavor_name = large small\nmin_processors = 1\n")],
    );
    let daemon = factory.start();
    until("the space is full of small ones", || {
        let servers = made.lock().unwrap();
        let small = |server: &&Value| server["flavor"]["id"] == "id-small";
        (servers.iter().filter(small).count() == 6).then_some(())
    });
    factory.wait_for_scans(SPACE, 3);
    let asked = asked(&cloud);
    // Each place without room was asked for once; the seventh request and on are no more large.
    for place in ["large@east", "large@west", "large@nowhere"] {
        let times = asked.iter().filter(|one| *one == place).count();
        assert_eq!(times, 1, "{place} in {asked:?}\n{}", factory.log());
    }
    let small: Vec<&String> = asked
        .iter()
        .filter(|one| one.starts_with("small"))
        .collect();
    assert_eq!(small.len(), 6, "{asked:?}");
    // In which zones they are was drawn.
    // It is said once each, with the words of the cloud, and the option that is wrong is named.
    let west = factory.log_lines("no room for flavor large in zone west");
    assert_eq!(west.len(), 1, "{west:?}");
    assert!(
        west[0].contains("WARN") && west[0].contains("No valid host"),
        "{west:?}"
    );
    assert!(west[0].contains("not asked for there until"), "{west:?}");
    let nowhere = factory.log_lines("no room for flavor large in zone nowhere");
    assert_eq!(nowhere.len(), 1, "{nowhere:?}");
    assert!(
        nowhere[0].contains("zones has \\\"nowhere\\\"")
            || nowhere[0].contains("zones has \"nowhere\""),
        "{nowhere:?}"
    );
    let east = factory.log_lines("no room for flavor large in zone east");
    assert_eq!(east.len(), 1, "{east:?}");
    let failed = factory.log_lines("never ran");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].contains("the next one is asked for elsewhere"),
        "{failed:?}"
    );
    // That is the cloud's trouble, and no abort.
    let last_abort = format!("spaces/{SPACE}/machinetypes/atlas/last_abort_time");
    assert!(!factory.state(&last_abort).exists());
    // The directory says where each of them was asked for.
    for machine in factory.machines() {
        assert!(machine.read("flavor").unwrap().starts_with("id-"));
        assert!(machine.read("zone").is_some());
    }
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_is_asked_for_in_no_other_zone() {
    let cloud = Scripted::start(|seen, base| {
        let create = |_: &str, _: &Value| {
            refusal(
                403,
                "Quota exceeded for cores: Requested 4, but already used 4 of 4 cores",
            )
        };
        openstack(seen, base, create, Vec::new)
    })
    .await;
    let factory = site(
        &cloud,
        "max_machines = 20\nzones = east west\n",
        &[
            ("atlas", "flavor_name = large\n"),
            ("cms", "flavor_name = large small\n"),
        ],
    );
    let daemon = factory.start();
    until("both flavors are known to be too much", || {
        let asked = asked(&cloud);
        let has = |flavor: &str| asked.iter().any(|one| one.starts_with(flavor));
        (has("large") && has("small")).then_some(())
    });
    factory.wait_for_scans(SPACE, 4);
    let asked = asked(&cloud);
    let of = |flavor: &str| asked.iter().filter(|one| one.starts_with(flavor)).count();
    // Two are asked for at once in the first pass (10 % of 20), before either answer has come.
    assert!((1..=2).contains(&of("large")), "{asked:?}");
    assert!((1..=2).contains(&of("small")), "{asked:?}");
    assert!(
        factory.machines().is_empty(),
        "a refusal leaves no directory"
    );
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_security_group_and_network_are_named() {
    for (option, words) in [
        (
            "security_groups = nope",
            "Unable to find security_group with name or id 'nope'",
        ),
        ("network_uuid = n-1", "Network n-1 could not be found."),
    ] {
        let cloud = Scripted::start(move |seen, base| {
            openstack(
                seen,
                base,
                |_: &str, _: &Value| refusal(400, words),
                Vec::new,
            )
        })
        .await;
        let factory = site(
            &cloud,
            &format!("max_machines = 4\n{option}\n"),
            &[("atlas", "flavor_name = large\n")],
        );
        let daemon = factory.start();
        let line = until("it is told", || factory.log_lines("cannot create").pop());
        assert!(line.contains(words) && line.contains(option), "{line}");
        daemon.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_on_a_volume_is_told_its_size_and_its_volume_is_noted() {
    let made = Arc::new(std::sync::Mutex::new(Vec::<Value>::new()));
    let listed = Arc::clone(&made);
    let cloud = Scripted::start(move |seen, base| {
        let create = |_: &str, body: &Value| {
            let volumes = json!([{"id": "volume-1"}]);
            let more = json!({"image": "", "os-extended-volumes:volumes_attached": volumes});
            listed
                .lock()
                .unwrap()
                .push(server(body, "server-1", "ACTIVE", more));
            Reply::json(202, json!({"server": {"id": "server-1"}}))
        };
        openstack(seen, base, create, || listed.lock().unwrap().clone())
    })
    .await;
    let factory = site(
        &cloud,
        "max_machines = 1\nvolume_gb_per_processor = 25\n",
        &[("atlas", "flavor_name = large small\n")],
    );
    let daemon = factory.start();
    let machine = until("the machine is there", || factory.machines().pop());
    assert_eq!(machine.wait_for("volumes"), "volume-1");
    let limit = machine.read("jobfeatures/scratch_limit_bytes");
    assert_eq!(limit.as_deref(), Some("100000000000"));
    let seen = cloud.seen();
    let create = seen
        .iter()
        .find(|seen| seen.is("POST", SERVERS))
        .unwrap()
        .json();
    let device = &create["server"]["block_device_mapping_v2"][0];
    assert_eq!(
        (&device["uuid"], &device["volume_size"]),
        (&json!(IMAGE), &json!(100))
    );
    daemon.end();
}

#[test]
fn machines_of_the_embedded_cloud_boot_from_volumes_that_go_with_them() {
    let factory = Factory::new();
    let space = format!(
        "max_machines = 2\nvolume_gb_per_processor = 30\nsimulated_job_seconds = 5\n{}",
        factory.vm_certificate()
    );
    let medium = factory.machinetype(SPACE, "atlas", "flavor_name = medium\n");
    factory.conf("space", &(factory.space(SPACE, &space) + &medium));
    let daemon = factory.start();
    let machine = until("a machine runs", || {
        let mut machines = factory.machines().into_iter();
        machines.find(|machine| machine.time("started").is_some())
    });
    let volume = machine.wait_for("volumes");
    let servers = factory.servers(SPACE);
    let server = servers
        .iter()
        .find(|server| server["volume"]["id"] == *volume);
    let server = server.unwrap_or_else(|| panic!("{volume} is of none of {servers:?}"));
    assert_eq!(server["volume"]["gigabytes"], 60);
    assert_eq!(server["image"], "");
    assert_eq!(server["metadata"]["manager"], FACTORY);
    until("it and its volume are gone", || {
        let servers = factory.servers(SPACE);
        let there = servers
            .iter()
            .any(|server| server["volume"]["id"] == *volume);
        (!there).then_some(())
    });
    daemon.end();
}

#[test]
fn a_plan_says_where_there_is_no_room_and_until_when() {
    let factory = Factory::new();
    let situation = json!({
        "space": SPACE, "now": 1_700_000_100,
        "config": {
            format!("space {SPACE}"): {"api": "openstack", "url": "https://keystone.example.org/v3",
                "cred_id": "c", "cred_secret": "s", "max_machines": 10, "zones": "east west"},
            format!("machinetype {SPACE} atlas"): {"target_share": 1, "backoff_seconds": 600,
                "fizzle_seconds": 600, "flavor_names": "large small", "user_data": "/etc/hostname",
                "root_image": "image:cernvm4"},
        },
        "cloud": {"flavors": [{"id": "l", "name": "large", "processors": 4},
            {"id": "s", "name": "small", "processors": 1}]},
        "exhausted": [{"flavor": "l", "zone": "east", "at": 1_700_000_000},
            {"flavor": "l", "zone": "west", "at": 1_700_000_060},
            {"flavor": "s", "zone": "west", "at": 1_699_999_000}],
    });
    factory.write("situation.json", situation.to_string());
    let file = factory.path("situation.json");
    let file = file.to_str().unwrap();
    let planned = factory.run(&["plan", "--json", "--snapshot", file]).json();
    let exhausted = &planned["report"]["space"]["exhausted"];
    assert_eq!(
        *exhausted,
        json!([{"flavor": "large", "zone": "east", "until": 1_700_000_180},
            {"flavor": "large", "zone": "west", "until": 1_700_000_240}])
    );
    let create = &planned["creates"][0]["placements"];
    let flavors: Vec<_> = create
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["flavor"]["name"])
        .collect();
    assert_eq!(flavors, ["small", "small"]);
    let told = factory.run(&["plan", "--snapshot", file]).out;
    let line = "no room for large in east, next try at 2023-11-14T22:16:20Z";
    assert!(told.contains(line), "{told}");
    // Later it is asked for again, the first zone first.
    let later = ["plan", "--json", "--snapshot", file, "--now", "1700000180"];
    let planned = factory.run(&later).json();
    let first = &planned["creates"][0]["placements"][0];
    assert_eq!(
        (&first["flavor"]["name"], &first["zone"]),
        (&json!("large"), &json!("east"))
    );
}
