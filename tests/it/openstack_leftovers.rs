//! What the OpenStack adapter finds of ours beside servers, against a scripted cloud with all
//! services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use vcycle::cloud::{Cloud, CloudErrorKind, Leftovers, NotListed, Removal, Search};
use vcycle::model::{CloudId, FactoryName, Leftover, LeftoverKind, Owner, SpaceName, User};

use super::openstack_adapter::{connect, ordinary};
use super::scripted::{Reply, Scripted, Seen};

const OURS: &str = "space=space.example.org manager=factory.example.org";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2";

fn search() -> Search {
    Search {
        owner: Owner {
            space: SpaceName::new("space.example.org").unwrap(),
            manager: FactoryName::new("factory.example.org").unwrap(),
        },
        public_keys: Some(Vec::new()),
        gone: BTreeSet::from([CloudId::new("gone-1")]),
        gone_volumes: BTreeSet::from(["noted", "noted-named", "noted-data"].map(str::to_owned)),
    }
}

/// [`ordinary`] with the services of networks and volumes, in the project `p1`.
fn whole(seen: &Seen, base: &str) -> Reply {
    if !seen.is("POST", "/identity/v3/auth/tokens") {
        return ordinary(seen, base);
    }
    let service = |kind: &str, path: &str| {
        json!({"type": kind, "endpoints":
            [{"interface": "public", "region": "R1", "url": format!("{base}{path}")}]})
    };
    let catalog = json!([
        service("compute", "/nova/v2.1"),
        service("image", "/glance"),
        service("network", "/neutron/"),
        service("volumev3", "/cinder/v3/p1"),
    ]);
    let token = json!({"token": {"catalog": catalog, "project": {"id": "p1"}}});
    Reply::json(201, token).with("x-subject-token", "token-1")
}

/// The identifiers and users of one kind.
fn found(leftovers: &Leftovers, kind: LeftoverKind) -> BTreeMap<&str, Option<&User>> {
    let things = leftovers[&kind].as_ref().unwrap().iter();
    things
        .map(|thing| (thing.id.as_str(), thing.user.as_ref()))
        .collect()
}

fn other(user: Option<&User>) -> bool {
    matches!(user, Some(User::Other(_)))
}

#[tokio::test]
async fn each_kind_is_known_by_its_marks_and_nothing_else_is_touched() {
    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        "/glance/v2/images" => {
            let image = |id: &str, more: Value| {
                let mut image = json!({"id": id, "name": id, "status": "active", "visibility": "private",
                    "protected": false, "tags": OURS.split(' ').collect::<Vec<_>>()});
                image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                image
            };
            Reply::json(200, json!({"next": null, "images": [
                image("ours", json!({})),
                image("half", json!({"tags": ["space=space.example.org"]})),
                image("theirs", json!({"tags": ["space=space.example.org", "manager=other"]})),
                image("published", json!({"visibility": "public"})),
                image("protected", json!({"protected": true})),
                image("growing", json!({"status": "saving"})),
                image("going", json!({"status": "pending_delete"})),
                image("dead", json!({"status": "queued", "name": null})),
            ]}))
        }
        "/cinder/v3/p1/volumes/detail" => {
            let volume = |id: &str, status: &str, manager: &str, server: Option<&str>| {
                let attached: Vec<_> = server.iter().map(|id| json!({"server_id": id})).collect();
                json!({"id": id, "name": "", "status": status, "attachments": attached,
                    "metadata": {"space": "space.example.org", "manager": manager, "more": "x"}})
            };
            let of_nova = |more: Value| {
                let mut volume = json!({"name": "", "metadata": {}, "status": "available",
                    "attachments": [], "bootable": "true",
                    "volume_image_metadata": {"image_id": "image-1"}});
                volume.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                volume
            };
            let ours = "factory.example.org";
            Reply::json(200, json!({"volumes": [
                volume("ours", "available", ours, None),
                volume("broken", "error_deleting", ours, None),
                volume("theirs", "available", "other", None),
                volume("attached", "in-use", ours, Some("s1")),
                volume("growing", "downloading", ours, None),
                volume("going", "deleting", ours, None),
                json!({"id": "plain", "status": "available"}),
                // Made by Nova from an image: without marks, without a name.
                of_nova(json!({"id": "of-nova", "description": "",
                    "status": "in-use", "attachments": [{"server_id": "gone-1"}]})),
                of_nova(json!({"id": "of-nova-too",
                    "status": "in-use", "attachments": [{"server_id": "s1"}]})),
                of_nova(json!({"id": "noted", "description": null})),
                of_nova(json!({"id": "noted-named", "name": "precious"})),
                of_nova(json!({"id": "taken", "metadata": {"keep": "me"},
                    "status": "in-use", "attachments": [{"server_id": "gone-1"}]})),
                // Attached by hand to a machine of ours.
                json!({"id": "noted-data", "name": "", "metadata": {}, "bootable": "false",
                    "status": "available", "attachments": []}),
                json!({"id": "data", "name": "", "metadata": {}, "bootable": "false",
                    "status": "in-use", "attachments": [{"server_id": "gone-1"}]}),
            ]}))
        }
        "/neutron/v2.0/ports" => {
            let port = |id: &str, description: &str, device: &str, owner: &str| {
                json!({"id": id, "name": "", "description": description, "device_id": device, "device_owner": owner})
            };
            Reply::json(200, json!({"ports": [
                port("ours", &format!("vcycle {OURS}"), "", ""),
                port("plugged", OURS, "s1", "compute:nova"),
                port("router", OURS, "r1", "network:router_interface"),
                port("of-nova", "", "gone-1", "compute:zone-a"),
                port("of-nova-too", "", "s1", "compute:zone-a"),
                port("described", "web server", "gone-1", "compute:zone-a"),
                json!({"id": "named", "name": "web", "description": "", "device_id": "gone-1",
                    "device_owner": "compute:zone-a"}),
                port("theirs", "space=space.example.org manager=other", "", ""),
                port("load-balancer", "", "gone-1", "Octavia"),
            ]}))
        }
        "/neutron/v2.0/floatingips" => {
            let address = |id: &str, description: &str, port: Option<&str>| {
                json!({"id": id, "floating_ip_address": "192.0.2.7", "description": description, "port_id": port})
            };
            Reply::json(200, json!({"floatingips": [
                address("ours", OURS, None),
                address("given", OURS, Some("p1")),
                address("theirs", "", None),
            ]}))
        }
        "/nova/v2.1/os-keypairs" => {
            let key = |name: &str| json!({"keypair": {"name": name, "public_key": KEY}});
            Reply::json(200, json!({"keypairs": [key("mine"), key(&format!("vcycle-{}", "0".repeat(64)))]}))
        }
        _ => whole(seen, base),
    })
    .await;
    let cloud = connect(&nova);
    let leftovers = cloud.leftovers(&search()).await;
    let of = |kind| found(&leftovers, kind);
    assert_eq!(leftovers.len(), 5);

    let images = of(LeftoverKind::Image);
    assert_eq!(
        images.keys().copied().collect::<Vec<_>>(),
        ["dead", "growing", "ours", "protected"]
    );
    assert_eq!((images["dead"], images["ours"]), (None, None));
    assert!(other(images["growing"]) && other(images["protected"]));

    let volumes = of(LeftoverKind::Volume);
    assert_eq!(
        volumes.keys().copied().collect::<Vec<_>>(),
        ["attached", "broken", "growing", "noted", "of-nova", "ours"]
    );
    assert_eq!(volumes["noted"], None);
    let gone = User::Machine(CloudId::new("gone-1"));
    assert_eq!(volumes["of-nova"], Some(&gone));
    let server = User::Machine(CloudId::new("s1"));
    assert_eq!(volumes["attached"], Some(&server));
    assert_eq!((volumes["broken"], volumes["ours"]), (None, None));
    assert!(other(volumes["growing"]));

    let ports = of(LeftoverKind::Port);
    assert_eq!(
        ports.keys().copied().collect::<Vec<_>>(),
        ["of-nova", "ours", "plugged", "router"]
    );
    assert_eq!(
        ports["of-nova"],
        Some(&User::Machine(CloudId::new("gone-1")))
    );
    assert_eq!(ports["plugged"], Some(&server));
    assert_eq!(ports["ours"], None);
    assert!(other(ports["router"]));

    let addresses = of(LeftoverKind::FloatingIp);
    assert_eq!(
        addresses.keys().copied().collect::<Vec<_>>(),
        ["given", "ours"]
    );
    assert!(other(addresses["given"]) && addresses["ours"].is_none());
    assert!(of(LeftoverKind::Keypair).is_empty());

    let seen = nova.seen();
    let query = |path: &str| seen.iter().find(|s| s.path == path).unwrap().query.clone();
    assert!(query("/neutron/v2.0/ports").ends_with("project_id=p1&limit=1000"));
    assert_eq!(
        query("/glance/v2/images"),
        "tag=space%3Dspace.example.org&tag=manager%3Dfactory.example.org\
         &visibility=private&owner=p1&limit=1000"
    );
    assert!(seen.iter().all(|s| s.method != "DELETE"));
}

#[tokio::test]
async fn lists_are_read_to_their_end_at_our_own_address() {
    let nova = Scripted::start(|seen, base| {
        let of_volume = |id: &str| {
            json!({"id": id, "status": "available",
                "metadata": {"space": "space.example.org", "manager": "factory.example.org"}})
        };
        let of_image = |id: &str| json!({"id": id, "status": "active", "tags": OURS.split(' ').collect::<Vec<_>>()});
        match (seen.path.as_str(), seen.query.as_str()) {
            ("/cinder/v3/p1/volumes/detail", "limit=1000") => Reply::json(200, json!({
                "volumes": [of_volume("a"), of_volume("b")],
                "volumes_links": [{"rel": "next", "href": "http://elsewhere.invalid/x?marker=b"}]})),
            ("/cinder/v3/p1/volumes/detail", "marker=b") => {
                Reply::json(200, json!({"volumes": [of_volume("b"), of_volume("c")]}))
            }
            ("/glance/v2/images", "marker=x") => Reply::json(200, json!({"images": [of_image("y")]})),
            ("/glance/v2/images", _) => Reply::json(200, json!({
                "images": [of_image("x")], "next": "/v2/images?marker=x"})),
            ("/neutron/v2.0/ports", _) => Reply::json(200, json!({
                "ports": [], "ports_links": [{"rel": "next", "href": format!("?{}", seen.query)}]})),
            _ => whole(seen, base),
        }
    })
    .await;
    let leftovers = connect(&nova).leftovers(&search()).await;
    let ids = |kind| found(&leftovers, kind).into_keys().collect::<Vec<_>>();
    assert_eq!(ids(LeftoverKind::Volume), ["a", "b", "c"]);
    assert_eq!(ids(LeftoverKind::Image), ["x", "y"]);
    let Err(NotListed::Failed(error)) = &leftovers[&LeftoverKind::Port] else {
        panic!("{leftovers:?}");
    };
    assert_eq!(error.kind, CloudErrorKind::Rejected, "{error}");
}

#[tokio::test]
async fn what_a_cloud_lacks_forbids_or_cannot_do_now_spoils_nothing_else() {
    // No network and no volume service.
    let small = Scripted::start(|seen, base| match seen.path.as_str() {
        "/nova/v2.1/os-keypairs" => Reply::json(200, json!({"keypairs": []})),
        "/glance/v2/images" => Reply::json(403, json!({"message": "policy"})),
        _ => ordinary(seen, base),
    })
    .await;
    let leftovers = connect(&small).leftovers(&search()).await;
    assert_eq!(leftovers[&LeftoverKind::Keypair], Ok(Vec::new()));
    for kind in [
        LeftoverKind::Image,
        LeftoverKind::Volume,
        LeftoverKind::Port,
        LeftoverKind::FloatingIp,
    ] {
        let outcome = &leftovers[&kind];
        assert!(
            matches!(outcome, Err(NotListed::Unavailable(_))),
            "{kind}: {outcome:?}"
        );
    }

    let sick = Scripted::start(|seen, base| match seen.path.as_str() {
        "/nova/v2.1/os-keypairs" => Reply::json(200, json!({"keypairs": []})),
        "/neutron/v2.0/ports" => Reply::html(500, "<h1>Internal Server Error</h1>"),
        "/neutron/v2.0/floatingips" => Reply::json(404, json!({"message": "no routers here"})),
        "/glance/v2/images" => Reply::json(200, json!({"pictures": []})),
        "/cinder/v3/p1/volumes/detail" => Reply::Reset,
        _ => whole(seen, base),
    })
    .await;
    let leftovers = connect(&sick).leftovers(&search()).await;
    assert_eq!(leftovers[&LeftoverKind::Keypair], Ok(Vec::new()));
    assert!(matches!(
        &leftovers[&LeftoverKind::FloatingIp],
        Err(NotListed::Unavailable(_))
    ));
    let kind = |kind| match &leftovers[&kind] {
        Err(NotListed::Failed(error)) => error.kind,
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(kind(LeftoverKind::Port), CloudErrorKind::Transient);
    assert_eq!(kind(LeftoverKind::Volume), CloudErrorKind::Transient);
    assert_eq!(kind(LeftoverKind::Image), CloudErrorKind::Rejected);
}

fn port(id: &str, user: Option<User>) -> Leftover {
    Leftover {
        kind: LeftoverKind::Port,
        id: id.to_owned(),
        name: String::new(),
        user,
    }
}

#[tokio::test]
async fn a_thing_is_looked_at_again_before_it_is_removed() {
    let nova = Scripted::start(|seen, base| {
        let port = |description: &str, device: &str| {
            let owner = if device.is_empty() {
                ""
            } else {
                "compute:nova"
            };
            Reply::json(
                200,
                json!({"port": {"id": "p", "name": "", "description": description,
                "device_id": device, "device_owner": owner}}),
            )
        };
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/neutron/v2.0/ports/left" | "/neutron/v2.0/ports/stuck") => port(OURS, ""),
            ("GET", "/neutron/v2.0/ports/handed-over") => port("the web server's", ""),
            ("GET", "/neutron/v2.0/ports/plugged-in") => port(OURS, "s2"),
            ("GET", "/neutron/v2.0/ports/of-gone") => port("", "gone-1"),
            ("GET", "/neutron/v2.0/ports/of-hidden") => port(OURS, "hidden"),
            ("GET", "/neutron/v2.0/ports/of-unknown") => port(OURS, "unknown"),
            // What a listing leaves out while its cell is down.
            ("GET", "/nova/v2.1/servers/hidden") => Reply::json(
                200,
                json!({"server": {"id": "hidden", "name": "n", "status": "ACTIVE"}}),
            ),
            ("GET", "/nova/v2.1/servers/unknown") => Reply::html(500, "cell down"),
            ("DELETE", "/neutron/v2.0/ports/left" | "/neutron/v2.0/ports/of-gone") => {
                Reply::json(204, "")
            }
            ("DELETE", "/neutron/v2.0/ports/stuck") => {
                Reply::json(409, json!({"NeutronError": {"message": "in use"}}))
            }
            _ => whole(seen, base),
        }
    })
    .await;
    let cloud = connect(&nova);
    let search = search();
    let remove = async |id: &str, user: Option<User>| cloud.remove(&search, &port(id, user)).await;
    let of = |id: &str| Some(User::Machine(CloudId::new(id)));
    assert_eq!(remove("left", None).await, Ok(Removal::Removed));
    assert_eq!(remove("of-gone", of("gone-1")).await, Ok(Removal::Removed));
    assert_eq!(remove("vanished", None).await, Ok(Removal::AlreadyGone));
    let hidden = remove("of-hidden", of("hidden")).await;
    assert!(matches!(hidden, Ok(Removal::InUse(_))), "{hidden:?}");
    for (id, user) in [("handed-over", None), ("plugged-in", None)] {
        let outcome = remove(id, user).await;
        assert!(
            matches!(outcome, Ok(Removal::Changed(_))),
            "{id}: {outcome:?}"
        );
    }
    for (id, user, kind) in [
        ("of-unknown", of("unknown"), CloudErrorKind::Transient),
        ("stuck", None, CloudErrorKind::Rejected),
        ("..", None, CloudErrorKind::Rejected),
    ] {
        let error = remove(id, user).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    let seen = nova.seen();
    let deleted: Vec<_> = seen.iter().filter(|s| s.method == "DELETE").collect();
    assert_eq!(deleted.len(), 3, "{deleted:#?}");
}

#[tokio::test]
async fn a_volume_that_a_server_took_along_is_detached_before_it_is_removed() {
    let attached = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&attached);
    let nova = Scripted::start(move |seen, base| {
        let volume = |attachments: Value| {
            Reply::json(
                200,
                json!({"volume": {"id": "x", "name": "", "metadata": {},
                "status": if attachments == json!([]) { "available" } else { "in-use" },
                "bootable": "true", "volume_image_metadata": {"image_id": "i"},
                "attachments": attachments}}),
            )
        };
        let of = |server: &str, id: &str| json!({"server_id": server, "attachment_id": id});
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/cinder/v3/p1/volumes/one") => volume(json!([of("gone-1", "a1")])),
            ("GET", "/cinder/v3/p1/volumes/refused") => volume(json!([of("gone-1", "a2")])),
            ("GET", "/cinder/v3/p1/volumes/two") => {
                volume(json!([of("gone-1", "a1"), of("s1", "a3")]))
            }
            ("GET", "/cinder/v3/p1/volumes/twice") => {
                volume(json!([of("gone-1", "a4"), of("gone-1", "a5")]))
            }
            ("DELETE", "/cinder/v3/p1/attachments/a4" | "/cinder/v3/p1/attachments/a5") => {
                Reply::json(200, json!({"attachments": []}))
            }
            ("DELETE", "/cinder/v3/p1/volumes/twice") => Reply::html(503, "later"),
            ("DELETE", "/cinder/v3/p1/attachments/a1") => {
                state.store(false, Ordering::SeqCst);
                Reply::json(200, json!({"attachments": []}))
            }
            ("DELETE", "/cinder/v3/p1/attachments/a2") => Reply::json(
                409,
                json!({"conflictingRequest": {"message": "Detach volume from instance"}}),
            ),
            ("DELETE", "/cinder/v3/p1/volumes/one") if !state.load(Ordering::SeqCst) => {
                Reply::json(202, "")
            }
            ("DELETE", _) => Reply::json(
                400,
                json!({"badRequest": {"message": "Volume must not be attached"}}),
            ),
            ("GET", "/nova/v2.1/servers/gone-1") => Reply::json(404, json!({"itemNotFound": {}})),
            _ => whole(seen, base),
        }
    })
    .await;
    let cloud = connect(&nova);
    let volume = |id: &str| Leftover {
        kind: LeftoverKind::Volume,
        ..port(id, Some(User::Machine(CloudId::new("gone-1"))))
    };
    let remove = async |id: &str| cloud.remove(&search(), &volume(id)).await;
    assert_eq!(remove("one").await, Ok(Removal::Removed));
    let seen = nova.seen();
    let detach = seen.iter().find(|s| s.path.ends_with("/attachments/a1"));
    let version = detach.unwrap().header("openstack-api-version");
    assert_eq!(version, "volume 3.27");
    let error = remove("refused").await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected, "{error}");
    let error = remove("twice").await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient, "{error}");
    assert_eq!(nova.count("DELETE", "/cinder/v3/p1/attachments/a5"), 1);
    // Another server has it as well.
    let outcome = remove("two").await;
    assert!(matches!(outcome, Ok(Removal::Changed(_))), "{outcome:?}");
    for path in ["volumes/refused", "volumes/two", "attachments/a3"] {
        assert_eq!(nova.count("DELETE", &format!("/cinder/v3/p1/{path}")), 0);
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_quoted_without_secrets_and_has_an_end() {
    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        "/neutron/v2.0/ports" => Reply::json(200, json!({"ports": "token-1"})),
        "/neutron/v2.0/floatingips" => {
            let many = vec![json!({"id": ""}); 100_001];
            Reply::json(200, json!({ "floatingips": many }))
        }
        _ => whole(seen, base),
    })
    .await;
    let leftovers = connect(&nova).leftovers(&search()).await;
    let why = |kind| match &leftovers[&kind] {
        Err(NotListed::Failed(error)) => error.to_string(),
        outcome => panic!("{outcome:?}"),
    };
    let ports = why(LeftoverKind::Port);
    assert!(!ports.contains("token-1"), "{ports}");
    let addresses = why(LeftoverKind::FloatingIp);
    assert!(addresses.contains("more than 100000"), "{addresses}");
}

#[tokio::test]
async fn every_kind_has_its_address() {
    let nova = Scripted::start(|seen, base| {
        let tags: Vec<_> = OURS.split(' ').collect();
        let metadata = json!({"space": "space.example.org", "manager": "factory.example.org"});
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/glance/v2/images/x") => {
                Reply::json(200, json!({"id": "x", "status": "active", "tags": tags}))
            }
            ("GET", "/cinder/v3/p1/volumes/x") => Reply::json(
                200,
                json!({"volume": {"id": "x", "status": "available", "metadata": metadata}}),
            ),
            ("GET", "/neutron/v2.0/ports/x") => {
                Reply::json(200, json!({"port": {"id": "x", "description": OURS}}))
            }
            ("GET", "/neutron/v2.0/floatingips/x") => {
                Reply::json(200, json!({"floatingip": {"id": "x", "description": OURS}}))
            }
            ("DELETE", _) => Reply::json(204, ""),
            _ => whole(seen, base),
        }
    })
    .await;
    let cloud = connect(&nova);
    for kind in LeftoverKind::ALL {
        let thing = Leftover {
            kind,
            ..port("x", None)
        };
        assert_eq!(
            cloud.remove(&search(), &thing).await,
            Ok(Removal::Removed),
            "{kind}"
        );
    }
    for path in [
        "/nova/v2.1/os-keypairs/x",
        "/glance/v2/images/x",
        "/cinder/v3/p1/volumes/x",
        "/neutron/v2.0/ports/x",
        "/neutron/v2.0/floatingips/x",
    ] {
        assert_eq!(nova.count("DELETE", path), 1, "{path}");
    }
}
