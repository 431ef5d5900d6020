//! What happens to servers, by a scenario's wish.

use http::StatusCode;
use serde_json::Value;

use super::super::{End, Fate, Faults, Maker, Server, Setup};
use super::{Client, NOW, json_of};

fn setup() -> Setup {
    Setup {
        boot: 30..=30,
        deletion: 10..=10,
        foreign_life: 600..=600,
        ..Setup::default()
    }
}

/// A client and a server of its that has run for a minute.
fn running() -> (Client, String) {
    let mut client = Client::new(setup());
    let id = client.server("vcycle-a-0123456789");
    client.later(90);
    (client, id)
}

fn status(client: &mut Client, id: &str) -> String {
    let listed = client.listed(id).unwrap();
    listed["status"].as_str().unwrap().to_owned()
}

fn truth<'a>(client: &'a Client, id: &str) -> &'a Server {
    client.cloud.server(id).unwrap()
}

#[test]
fn a_server_may_never_be_built() {
    let mut client = Client::new(setup());
    let id = client.server("vcycle-a-1");
    assert!(client.cloud.stick_in_build(&id, client.now));
    client.later(3000);
    assert_eq!(status(&mut client, &id), "BUILD");
    assert_eq!(client.done("stuck in BUILD"), 1);
    assert_eq!(client.delete(&id), StatusCode::NO_CONTENT);
    client.later(10);
    let server = truth(&client, &id);
    assert_eq!(server.ended, Some((NOW + 3000, End::Deleted)));
    assert_eq!(server.running_since, None);
}

#[test]
fn a_server_that_finds_no_host_fails_and_tells_why_in_its_own_document_a_moment_later() {
    let mut client = Client::new(setup());
    client
        .cloud
        .set_faults(Faults::none().with(Fate::BuildFails, 1.0));
    let id = client.server("vcycle-a-1");
    assert_eq!(client.done("BUILD to ERROR"), 1);
    client.later(40);
    let listed = client.listed(&id).unwrap();
    assert_eq!(listed["status"], "ERROR");
    assert!(listed.get("fault").is_none());
    let shown = json_of(&client.get(&format!("/compute/v2.1/servers/{id}")));
    assert_eq!(shown["server"]["fault"]["code"], 500);
    let message = shown["server"]["fault"]["message"].as_str().unwrap();
    assert!(message.starts_with("No valid host was found."));
    let server = truth(&client, &id);
    assert_eq!(server.running_since, None);
    assert_eq!(server.ended.unwrap().1, End::Failed);
}

#[test]
fn a_running_server_may_fail() {
    let (mut client, id) = running();
    assert!(client.cloud.fail(&id, client.now));
    assert!(!client.cloud.fail(&id, client.now));
    client.later(5);
    let listed = client.listed(&id).unwrap();
    assert_eq!(listed["status"], "ERROR");
    assert!(listed["fault"]["message"].is_string());
    assert_eq!(truth(&client, &id).ended, Some((NOW + 90, End::Failed)));
    assert_eq!(client.done("ACTIVE to ERROR"), 1);
}

#[test]
fn a_server_may_vanish() {
    let (mut client, id) = running();
    assert!(client.cloud.vanish(&id, client.now));
    assert_eq!(client.listed(&id), None);
    assert_eq!(client.delete(&id), StatusCode::NOT_FOUND);
    let server = truth(&client, &id);
    assert_eq!(
        (server.ended, server.gone_at),
        (Some((NOW + 90, End::Vanished)), Some(NOW + 90))
    );
    assert_eq!(client.done("vanished"), 1);
}

#[test]
fn a_server_may_be_renamed_resized_and_rebooted_while_its_vm_goes_on() {
    let (mut client, id) = running();
    assert!(client.cloud.rename(&id, "other", client.now));
    assert!(!client.cloud.rename(&id, "other", client.now));
    assert_eq!(client.listed(&id).unwrap()["name"], "other");
    assert_eq!(truth(&client, &id).first_name, "vcycle-a-0123456789");

    assert!(client.cloud.resize(&id, "flavor-large", client.now));
    assert_eq!(status(&mut client, &id), "RESIZE");
    assert!(!client.cloud.reboot(&id, 60, client.now));
    client.later(120);
    assert_eq!(status(&mut client, &id), "VERIFY_RESIZE");
    client.log_in();
    client.later(3600);
    client.log_in();
    assert_eq!(status(&mut client, &id), "ACTIVE");
    assert_eq!(client.listed(&id).unwrap()["flavor"]["id"], "flavor-large");

    assert!(client.cloud.reboot(&id, 60, client.now));
    assert_eq!(status(&mut client, &id), "REBOOT");
    client.later(60);
    assert_eq!(status(&mut client, &id), "ACTIVE");
    assert_eq!(client.cloud.running_since(&id), Some(NOW + 30));
    for kind in ["renamed", "resized", "rebooted from outside"] {
        assert_eq!(client.done(kind), 1, "{kind}");
    }
}

#[test]
fn a_server_may_be_stopped_paused_or_suspended() {
    type Halt = fn(&mut Client, &str) -> bool;
    let cases: [(Halt, &str, End, &str); 3] = [
        (
            |c, id| c.cloud.stop(id, c.now),
            "SHUTOFF",
            End::Stopped,
            "stopped from outside",
        ),
        (
            |c, id| c.cloud.pause(id, c.now),
            "PAUSED",
            End::Paused,
            "paused",
        ),
        (
            |c, id| c.cloud.suspend(id, c.now),
            "SUSPENDED",
            End::Suspended,
            "suspended",
        ),
    ];
    for (halt, word, end, kind) in cases {
        let (mut client, id) = running();
        assert!(halt(&mut client, &id));
        assert!(!halt(&mut client, &id));
        assert_eq!(status(&mut client, &id), word);
        assert_eq!(truth(&client, &id).ended, Some((NOW + 90, end)));
        assert_eq!(client.done(kind), 1);
    }
}

#[test]
fn a_power_state_may_blink() {
    let (mut client, id) = running();
    assert!(client.cloud.blink(&id, 30, client.now));
    let power = |client: &mut Client| client.listed(&id).unwrap()["OS-EXT-STS:power_state"].clone();
    assert_eq!(power(&mut client), 0);
    assert_eq!(status(&mut client, &id), "ACTIVE");
    client.later(30);
    assert_eq!(power(&mut client), 1);
    assert_eq!(client.done("power_state 0 while ACTIVE"), 1);
}

#[test]
fn others_have_servers_in_the_project_too() {
    let (mut client, ours) = running();
    let random = client.cloud.add_foreign(client.now).unwrap();
    let like_ours = client.cloud.add_foreign_like_ours(client.now).unwrap();
    let namesake = client.cloud.add_namesake(&ours, true, client.now).unwrap();
    let bare = client.cloud.add_namesake(&ours, false, client.now).unwrap();

    assert!(truth(&client, &random).metadata.is_empty());
    let other = truth(&client, &like_ours);
    assert!(
        other.name.starts_with("vcycle-a-") && other.name.len() == 19,
        "{}",
        other.name
    );
    assert_eq!(other.metadata["manager"], "other-manager.example.org");
    assert_eq!(truth(&client, &namesake).name, truth(&client, &ours).name);
    assert_eq!(
        truth(&client, &namesake).metadata,
        truth(&client, &ours).metadata
    );
    assert!(truth(&client, &bare).metadata.is_empty());
    assert_eq!(truth(&client, &bare).maker, Maker::Outside);

    client.later(600);
    for outside in [&random, &like_ours, &bare] {
        assert!(truth(&client, outside).is_gone());
    }
    assert_eq!(client.listing().len(), 2);
    assert_eq!(client.done("second server of one name"), 2);
    assert_eq!(client.done("foreign server"), 1);
    assert_eq!(client.done("foreign server with a name like ours"), 1);
}

#[test]
fn the_clouds_clock_may_be_wrong_and_the_truth_is_not() {
    let mut client = Client::new(setup());
    client.cloud.step_clock(3600);
    client.log_in();
    let id = client.server("vcycle-a-1");
    client.later(60);
    let listed: Value = client.listed(&id).unwrap();
    assert_eq!(listed["created"], "2027-01-15T09:00:00Z");
    assert_eq!(
        listed["OS-SRV-USG:launched_at"],
        "2027-01-15T09:00:30.000000"
    );
    let server = truth(&client, &id);
    assert_eq!(
        (server.created, server.running_since),
        (NOW, Some(NOW + 30))
    );
    assert_eq!(client.done("clock step"), 1);
}

#[test]
fn a_server_that_is_being_deleted_is_left_alone() {
    let (mut client, id) = running();
    client.delete(&id);
    assert!(!client.cloud.rename(&id, "x", client.now));
    assert!(!client.cloud.stop(&id, client.now));
    assert!(client.cloud.faults_done().is_empty());
}
