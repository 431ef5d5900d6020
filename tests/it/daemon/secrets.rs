//! A cloud with a password: what it is asked, and that no secret goes anywhere else.

use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::factory::{Factory, until};
use crate::scripted::{Reply, Scripted, Seen};

const PASSWORD: &str = "correct-horse-battery";
const OPTION: &str = "staple-from-an-option";
const TEMPLATE: &str = "staple-from-the-template";
const TOKEN: &str = "token-that-opens-the-cloud";

/// An OpenStack with one flavor, one image and no servers that takes every order.
pub fn cloud(seen: &Seen, base: &str) -> Reply {
    let endpoint = |path: &str| json!([{"interface": "public", "region": "R1", "url": format!("{base}{path}")}]);
    let later = chrono::Utc::now() + chrono::Duration::hours(1);
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/v3/auth/tokens") => Reply::json(
            201,
            json!({"token": {
                "issued_at": chrono::Utc::now().to_rfc3339(), "expires_at": later.to_rfc3339(),
                "catalog": [{"type": "compute", "endpoints": endpoint("/nova/v2.1")},
                            {"type": "image", "endpoints": endpoint("/glance")}]}}),
        )
        .with("x-subject-token", TOKEN),
        ("GET", "/nova/v2.1/flavors/detail") => Reply::json(
            200,
            json!({"flavors": [{"id": "f1", "name": "small", "vcpus": 1, "ram": 2048, "disk": 0}]}),
        ),
        ("GET", "/nova/v2.1/limits") => Reply::json(
            200,
            json!({"limits": {"absolute": {"maxTotalInstances": 10, "maxTotalCores": 10}}}),
        ),
        ("GET", "/nova/v2.1/servers/detail") => Reply::json(200, json!({"servers": []})),
        ("GET", "/glance/v2/images") => Reply::json(
            200,
            json!({"images": [{"id": "i1", "name": "cernvm4", "status": "active"}]}),
        ),
        // It says again what it was told, as careless clouds do.
        ("POST", "/nova/v2.1/servers") => Reply::json(
            400,
            json!({"badRequest": {"message": format!("bad: {}", String::from_utf8_lossy(&seen.body))}}),
        ),
        _ => Reply::json(404, json!({"itemNotFound": {"message": "no such thing"}})),
    }
}

/// A site that uses that cloud.
pub fn site(server: &Scripted) -> Factory {
    let factory = Factory::new();
    let password = BASE64_STANDARD.encode(PASSWORD);
    let space = format!(
        "[space o.org]\napi = openstack\nurl = {}/v3\ntenancy_name = t\nusername = u\n\
         password_base64 = {password}\nmax_machines = 4\n",
        server.base
    );
    let option = format!("user_data_option_token = {OPTION}");
    factory.conf(
        "space",
        &(space + &factory.machinetype("o.org", "atlas", &option)),
    );
    let template = format!("#!/bin/sh\n# {TEMPLATE} ##user_data_option_token##\n");
    factory.write("etc/user_data", template);
    factory
}

/// Asserts that none of the secrets is in a text, neither as it is nor encoded.
fn assert_silent(whose: &str, text: &str) {
    for secret in [PASSWORD, OPTION, TEMPLATE, TOKEN] {
        assert!(!text.contains(secret), "{whose} tells {secret}:\n{text}");
        // Encoded on its own, or in the middle of something at any of three offsets.
        for offset in 0..3 {
            let encoded = BASE64_STANDARD.encode(format!("{}{secret}", "\0".repeat(offset)));
            let middle = &encoded[4..encoded.len() - 4];
            assert!(
                !text.contains(middle),
                "{whose} tells {secret}, encoded:\n{text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_only_looks_and_nothing_tells_a_secret() {
    let server = Scripted::start(cloud).await;
    let factory = site(&server);
    let snapshot = factory.path("snapshot.json");
    let commands: [&[&str]; 6] = [
        &["check"],
        &["check", "--print"],
        &["check", "--json"],
        &["plan"],
        &["plan", "--json"],
        &[
            "plan",
            "o.org",
            "--dump-snapshot",
            snapshot.to_str().unwrap(),
        ],
    ];
    for arguments in commands {
        let mut command = factory.command(arguments);
        command.env("VCYCLE_LOG", "debug");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = [output.stdout, output.stderr].concat();
        assert_silent(&format!("{arguments:?}"), &String::from_utf8_lossy(&text));
    }
    assert_silent("the snapshot", &fs::read_to_string(&snapshot).unwrap());
    let replay = factory.run(&["plan", "--snapshot", snapshot.to_str().unwrap()]);
    assert_eq!(replay.code, Some(0), "{replay:?}");
    // Everything that the cloud was asked, three times over.
    let seen = server.seen();
    let changes = seen.iter().filter(|seen| seen.method != "GET");
    let paths: Vec<_> = changes.map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths, ["/v3/auth/tokens"; 3]);
    assert_eq!(server.count("GET", "/nova/v2.1/servers/detail"), 3);
    assert!(!factory.state("").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_no_secret_even_when_the_cloud_does() {
    let server = Scripted::start(cloud).await;
    let factory = site(&server);
    let mut command = factory.command(&["run"]);
    command.env("VCYCLE_LOG", "debug");
    let daemon = factory.start_with(command);
    until("it tries to create", || {
        factory.log_lines("cannot create").pop()
    });
    daemon.end();
    assert!(server.count("POST", "/nova/v2.1/servers") > 0);
    assert_silent("the log", &factory.log());
    assert!(factory.machines().is_empty(), "refused is not created");
}

#[test]
fn a_cloud_that_cannot_be_reached_is_69() {
    let factory = Factory::new();
    let space = "[space o.org]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
                 username = u\npassword_base64 = eA==\nmax_machines = 4\n";
    let text = space.to_owned() + &factory.machinetype("o.org", "atlas", "");
    factory.conf("space", &text);
    let said = factory.run(&["plan"]);
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(
        said.err.contains("space o.org: ") && said.err.contains("refused"),
        "{said:?}"
    );
}
