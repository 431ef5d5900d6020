//! The OpenStack adapter against answers that no good cloud gives: they quote our secrets, have
//! the wrong form, or would fill the memory.

use std::path::Path;

use serde_json::{Value, json};
use vcycle::clock::Clock;
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{Cloud, CloudErrorKind};

use super::openstack_adapter::{
    CREATE, NOW, PASSWORD, SERVERS, connect, connect_with, options, ordinary, request, times,
};
use super::scripted::{Reply, Scripted};

/// The adapter at a cloud that answers `path` with `reply`.
async fn cloud_that_says(path: &'static str, reply: Reply) -> (Scripted, OpenStack) {
    let nova = Scripted::start(move |seen, base| {
        if seen.path == path {
            reply.clone()
        } else {
            ordinary(seen, base)
        }
    })
    .await;
    let cloud = connect(&nova);
    (nova, cloud)
}

const USER_DATA: &str = "c2VjcmV0IHVzZXIgZGF0YQ==";

#[tokio::test]
async fn a_document_in_the_wrong_form_is_described_and_not_quoted() {
    let server = json!({"id": "a", "name": "n", "status": "ACTIVE"});
    for secret in [PASSWORD, "token-1", USER_DATA, "line\nbreak \u{1b}[2J"] {
        let with = |member: &str| {
            let mut server = server.clone();
            server[member] = json!([secret]);
            json!({"servers": [server]})
        };
        for (path, body) in [
            (SERVERS, json!({ "servers": secret })),
            (SERVERS, with("id")),
            (
                SERVERS,
                json!({"servers": [{"id": secret, "name": "n", "status": "A"}]}),
            ),
            (
                SERVERS,
                json!({"servers": [{"id": "a", "name": "n", "status": "A",
                                          "OS-EXT-STS:power_state": secret}]}),
            ),
            (CREATE, json!({"server": {"id": [secret]}})),
            (CREATE, json!({ "server": secret })),
            (
                "/nova/v2.1/limits",
                json!({"limits": {"absolute": {"maxTotalCores": secret}}}),
            ),
            ("/identity/v3/auth/tokens", json!({ "token": secret })),
        ] {
            let (_nova, cloud) = cloud_that_says(path, Reply::json(200, &body)).await;
            let errors = [
                cloud.list().await.err(),
                cloud.create(&request()).await.err(),
                cloud.facts().await.err(),
            ];
            for error in errors.into_iter().flatten() {
                let shown = format!("{error} {error:?}");
                assert!(!error.message.contains(secret), "{body}: {shown}");
                assert!(!shown.contains(char::is_control), "{body}: {shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_secret_is_hidden_wherever_the_cloud_quotes_it() {
    let twice = json!({"servers": [{"id": "token-1", "name": "n", "status": "A"},
                                   {"id": "token-1", "name": "n", "status": "A"}]});
    let (_nova, cloud) = cloud_that_says(SERVERS, Reply::json(200, twice)).await;
    let error = cloud.list().await.unwrap_err();
    assert!(
        error
            .message
            .contains("lists server [hidden] more than once"),
        "{error}"
    );

    let quoted = format!(
        "<p>bad user_data {USER_DATA} of {}</p>",
        PASSWORD.replace('"', "&quot;")
    );
    for body in [quoted.clone(), format!("oops: {quoted}")] {
        let (_nova, cloud) = cloud_that_says(CREATE, Reply::html(400, &body)).await;
        let error = cloud.create(&request()).await.unwrap_err();
        assert!(
            error.message.contains("bad user_data [hidden] of [hidden]"),
            "{error}"
        );
    }
    let target = format!(
        "http://elsewhere.invalid/{PASSWORD}/token-1/{}",
        "x/".repeat(900)
    );
    let reply = Reply::json(302, "").with("location", target);
    let (_nova, cloud) = cloud_that_says(SERVERS, reply).await;
    let error = cloud.list().await.unwrap_err();
    assert!(
        !error.message.contains("hunter2") && error.message.len() < 400,
        "{error}"
    );
}

#[tokio::test]
async fn an_identifier_that_would_not_come_back_from_a_file_is_refused() {
    for id in [" a", "a\n", "a b", "", "\u{7f}", "é", &"x".repeat(300)] {
        let reply = Reply::json(202, json!({"server": {"id": id}}));
        let (_nova, cloud) = cloud_that_says(CREATE, reply).await;
        let error = cloud.create(&request()).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Ambiguous, "{id:?}: {error}");
        let reply = Reply::json(
            200,
            json!({"servers": [{"id": id, "name": "n", "status": "ACTIVE"}]}),
        );
        let (_nova, cloud) = cloud_that_says(SERVERS, reply).await;
        cloud.list().await.unwrap_err();
    }
}

#[tokio::test]
async fn texts_of_a_listing_are_short_and_on_one_line() {
    let long = format!("{}\u{1b}\n{}", "é".repeat(90), "word ".repeat(100_000));
    let mut server = json!({"id": "a", "name": long, "status": long, "fault": {"message": long},
        "addresses": {"n": [{"addr": long}]}, "OS-EXT-STS:task_state": long,
        "metadata": {"space": long, "manager": long, "machinetype": long, "name": long}});
    server["OS-EXT-AZ:availability_zone"] = json!(long);
    let (_nova, cloud) =
        cloud_that_says(SERVERS, Reply::json(200, json!({"servers": [server]}))).await;
    let machine = cloud.list().await.unwrap().remove(0);
    for text in [
        machine.zone,
        machine.address,
        machine.fault,
        Some(machine.status),
    ] {
        let text = text.unwrap();
        assert!(
            text.len() < 700 && !text.contains(char::is_control),
            "{text}"
        );
    }
    let marks = machine.marks.unwrap();
    for text in [
        machine.name,
        marks.space,
        marks.manager,
        marks.machinetype.unwrap(),
        marks.name.unwrap(),
    ] {
        assert!(text.len() <= 255, "{text}");
    }
}

/// A kind of some megabytes was copied for each of thousands of endpoints.
#[tokio::test]
async fn a_catalog_of_services_that_nobody_asked_for_takes_no_room() {
    let endpoints: Vec<Value> = (0..400)
        .map(|_| json!({"interface": "public", "url": ""}))
        .collect();
    let nova = Scripted::start(move |seen, base| {
        let reply = ordinary(seen, base);
        let Reply::Say {
            status: 201,
            headers,
            body,
        } = reply
        else {
            return reply;
        };
        let mut document: Value = serde_json::from_str(&body).unwrap();
        let service = json!({"type": "k".repeat(4 << 20), "endpoints": endpoints});
        document["token"]["catalog"]
            .as_array_mut()
            .unwrap()
            .insert(0, service);
        Reply::Say {
            status: 201,
            headers,
            body: document.to_string(),
        }
    })
    .await;
    connect(&nova).list().await.unwrap();
}

#[tokio::test]
async fn an_endless_list_of_versions_is_refused() {
    let document = format!("[{}0]", "[],".repeat(2_000_000));
    let (nova, _) = cloud_that_says("/identity/", Reply::json(200, document)).await;
    let options = options(&format!("{}/identity/", nova.base));
    let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), times());
    let error = cloud.list().await.unwrap_err();
    assert!(error.message.contains("more than 1048576 bytes"), "{error}");
}
