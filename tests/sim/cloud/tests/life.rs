//! The life of servers, quotas and pages, without faults and with scripted ones.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::{Deletion, DeletionEnd, End, Setup};
use super::{Client, NOW, json_of, order, text};

fn exact() -> Setup {
    Setup {
        boot: 30..=30,
        deletion: 10..=10,
        ..Setup::default()
    }
}

#[test]
fn a_server_boots_runs_and_is_deleted() {
    let mut client = Client::new(exact());
    let id = client.server("vcycle-a-1");
    client.later(29);
    let building = client.listed(&id).unwrap();
    assert_eq!(building["status"], "BUILD");
    assert_eq!(building["OS-EXT-STS:power_state"], 0);
    assert!(building["OS-SRV-USG:launched_at"].is_null());
    assert_eq!(client.cloud.running_since(&id), None);
    client.later(100);
    let active = client.listed(&id).unwrap();
    assert_eq!(active["status"], "ACTIVE");
    assert_eq!(active["created"], "2027-01-15T08:00:00Z");
    assert_eq!(
        active["OS-SRV-USG:launched_at"],
        "2027-01-15T08:00:30.000000"
    );
    assert_eq!(active["metadata"]["manager"], "m.example.org");
    assert_eq!(client.cloud.running_since(&id), Some(NOW + 30));

    assert_eq!(client.delete(&id), StatusCode::NO_CONTENT);
    client.later(9);
    let deleting = client.listed(&id).unwrap();
    assert_eq!(deleting["status"], "ACTIVE");
    assert_eq!(deleting["OS-EXT-STS:task_state"], "deleting");
    assert_eq!(client.delete(&id), StatusCode::NO_CONTENT);
    client.later(5);
    assert_eq!(client.listed(&id), None);
    assert_eq!(client.delete(&id), StatusCode::NOT_FOUND);
    assert_eq!(
        client.get(&format!("/compute/v2.1/servers/{id}")).status,
        StatusCode::NOT_FOUND
    );

    assert_eq!(client.cloud.servers().count(), 0);
    let server = &client.cloud.history()[0];
    assert_eq!(server.ended, Some((NOW + 129, End::Deleted)));
    assert_eq!(server.gone_at, Some(NOW + 139));
    let deletion = |at, status| Deletion {
        at,
        by: "vcycle".to_owned(),
        status,
        echo: false,
    };
    let expected = [
        deletion(NOW + 129, 204),
        deletion(NOW + 138, 204),
        deletion(NOW + 143, 404),
    ];
    assert_eq!(server.deletions, expected);
}

#[test]
fn a_vm_shuts_itself_down_once() {
    let mut client = Client::new(exact());
    let id = client.server("vcycle-a-1");
    assert!(!client.cloud.shut_off(&id, client.now));
    client.later(60);
    assert!(client.cloud.shut_off(&id, client.now));
    assert!(!client.cloud.shut_off(&id, client.now + 1));
    assert_eq!(client.listed(&id).unwrap()["status"], "SHUTOFF");
    let server = client.cloud.server(&id).unwrap();
    assert_eq!(server.ended, Some((NOW + 60, End::ShutOff)));
    assert!(!server.is_alive());
}

#[test]
fn a_deletion_may_fail_and_has_to_be_repeated_or_be_stuck_with_a_living_vm() {
    let mut client = Client::new(exact());
    let (one, two) = (client.server("vcycle-a-1"), client.server("vcycle-a-2"));
    client.later(60);
    client.cloud.set_next_deletion(&one, DeletionEnd::Fails);
    client.cloud.set_next_deletion(&two, DeletionEnd::Stuck);
    client.delete(&one);
    client.delete(&two);
    client.later(10);
    assert_eq!(client.listed(&one).unwrap()["status"], "ERROR");
    assert!(client.cloud.server(&two).unwrap().is_alive());
    client.delete(&one);
    client.later(10);
    assert_eq!(client.listed(&one), None);
    client.log_in();
    client.later(3579);
    assert_eq!(
        client.listed(&two).unwrap()["OS-EXT-STS:task_state"],
        "deleting"
    );
    client.later(1);
    assert_eq!(
        client.cloud.server(&two).unwrap().ended,
        Some((client.now, End::Deleted))
    );
    assert_eq!(
        (
            client.done("deletion fails"),
            client.done("stuck in deleting")
        ),
        (1, 1)
    );
}

#[test]
fn quotas_count_servers_until_they_are_gone() {
    let mut client = Client::new(Setup {
        max_instances: Some(3),
        max_cores: Some(2),
        ..exact()
    });
    let id = client.server("vcycle-a-1");
    client.server("vcycle-a-2");
    let refused = client.create("vcycle-a-3");
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(
        text(&refused).contains("Quota exceeded for cores: Requested 1, but already used 2 of 2")
    );
    client.delete(&id);
    assert_eq!(client.create("vcycle-a-3").status, StatusCode::FORBIDDEN);
    client.later(10);
    client.server("vcycle-a-3");
    let limits = json_of(&client.get("/compute/v2.1/limits"));
    let absolute = &limits["limits"]["absolute"];
    assert_eq!(absolute["maxTotalInstances"], 3);
    assert_eq!(absolute["totalCoresUsed"], 2);
    assert_eq!(absolute["maxTotalRAMSize"], -1);
}

#[test]
fn what_nova_cannot_find_is_a_bad_request() {
    let mut client = Client::new(Setup::default());
    for (member, value) in [
        ("name", json!(" ")),
        ("flavorRef", json!("x")),
        ("imageRef", json!("x")),
        ("key_name", json!("x")),
        ("availability_zone", json!("x")),
        ("security_groups", json!([{"name": "x"}])),
        ("networks", json!([{"uuid": "x"}])),
        ("user_data", json!("x".repeat(65_536))),
        ("metadata", json!({"x": "x".repeat(256)})),
    ] {
        let mut body = order("vcycle-a-1");
        body["server"][member] = value;
        let reply = client.reply(Method::POST, "/compute/v2.1/servers", &body);
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{member}");
    }
    assert!(client.cloud.history().is_empty());
}

#[test]
fn key_pairs_and_images_are_found_by_name() {
    let mut client = Client::new(Setup::default());
    let keys = "/compute/v2.1/os-keypairs";
    assert_eq!(
        client.get(&format!("{keys}/k")).status,
        StatusCode::NOT_FOUND
    );
    let body = json!({"keypair": {"name": "k", "public_key": "ssh-ed25519 AAAA x"}});
    assert_eq!(
        client.reply(Method::POST, keys, &body).status,
        StatusCode::OK
    );
    assert_eq!(
        client.reply(Method::POST, keys, &body).status,
        StatusCode::CONFLICT
    );
    assert_eq!(client.get(&format!("{keys}/k")).status, StatusCode::OK);
    assert_eq!(
        json_of(&client.get(keys))["keypairs"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let found = json_of(&client.get("/image/v2/images?name=cernvm&limit=100"));
    let id = found["images"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        json_of(&client.get(&format!("/image/v2/images/{id}")))["status"],
        "active"
    );
    assert_eq!(
        client.get("/image/v2/images/x").status,
        StatusCode::NOT_FOUND
    );
    let none = json_of(&client.get("/image/v2/images?name=x"));
    assert_eq!(none["images"], json!([]));
    assert_eq!(
        json_of(&client.get("/compute/v2.1/flavors/detail"))["flavors"][1]["vcpus"],
        4
    );
}

/// All pages, following the links.
pub fn pages(client: &mut Client) -> Vec<Vec<Value>> {
    let mut path = "/compute/v2.1/servers/detail".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = json_of(&client.get(&path));
        pages.push(page["servers"].as_array().unwrap().clone());
        match page["servers_links"][0]["href"].as_str() {
            Some(href) => path = href.replace(super::BASE, ""),
            None => return pages,
        }
    }
}

#[test]
fn pages_are_newest_first_and_complete() {
    let mut client = Client::new(Setup {
        page: 3,
        ..Setup::default()
    });
    for number in 0..6 {
        client.server(&format!("vcycle-a-{number}"));
        client.later(1);
    }
    let all = pages(&mut client);
    let sizes: Vec<usize> = all.iter().map(Vec::len).collect();
    assert_eq!(
        sizes,
        [3, 3, 0],
        "a full page has a link, be it to an empty one"
    );
    let names: Vec<&str> = all
        .iter()
        .flatten()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (0..6).rev().map(|n| format!("vcycle-a-{n}")).collect();
    assert_eq!(names, expected);
    let limited = json_of(&client.get("/compute/v2.1/servers/detail?limit=2"));
    assert_eq!(limited["servers"].as_array().unwrap().len(), 2);
    let href = limited["servers_links"][0]["href"].as_str().unwrap();
    assert!(href.contains("?limit=2&marker="), "{href}");
    let gone = client.get("/compute/v2.1/servers/detail?marker=x");
    assert_eq!(gone.status, StatusCode::BAD_REQUEST);
    assert!(text(&gone).contains("marker [x] not found"));
}
