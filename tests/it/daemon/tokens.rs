//! Tokens: a VM without a certificate writes its heartbeat and lives by it.

use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::client::curl;
use super::factory::until;
use super::secrets;
use crate::scripted::{Reply, Scripted, Seen};

/// An OpenStack that makes every server at once and runs it until it is told otherwise.
pub fn cloud(server: &Mutex<Option<Value>>, seen: &Seen, base: &str) -> Reply {
    let mut server = server.lock().unwrap();
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/nova/v2.1/servers") => {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap();
            let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S").to_string();
            *server = Some(json!({
                "id": "s1", "name": asked["server"]["name"], "status": "ACTIVE",
                "created": format!("{now}Z"), "updated": format!("{now}Z"),
                "metadata": asked["server"]["metadata"], "flavor": {"id": "f1"},
                "OS-SRV-USG:launched_at": now, "OS-EXT-STS:power_state": 1,
                "OS-EXT-STS:vm_state": "active", "addresses": {}, "image": {"id": "i1"},
            }));
            Reply::json(202, json!({"server": {"id": "s1"}}))
        }
        ("GET", "/nova/v2.1/servers/detail") => {
            let all: Vec<_> = server.iter().cloned().collect();
            Reply::json(200, json!({"servers": all}))
        }
        _ => secrets::cloud(seen, base),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_a_certificate_writes_with_the_token_that_it_was_given() {
    let kept = Mutex::new(None);
    let server = Scripted::start(move |seen, base| cloud(&kept, seen, base)).await;
    let factory = secrets::site(&server);
    let template = "token=##user_data_joboutputs_token##\nurl=##user_data_joboutputs_url##\n";
    factory.write("etc/user_data", template);
    let text = std::fs::read_to_string(factory.path("etc/vcycle.d/space.conf")).unwrap();
    let text = text.replace("max_machines = 4", "max_machines = 1");
    let text = text.replace(
        "x509dn",
        "heartbeat_file = heartbeat\nheartbeat_seconds = 600\n#",
    );
    let host = format!(
        "https_host = localhost\nhttps_port = {}\napi =",
        factory.port
    );
    factory.conf("space", &text.replace("api =", &host));
    let mut command = factory.command(&["run"]);
    command.env("VCYCLE_LOG", "debug");
    let daemon = factory.start_with(command);
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("uuid");

    let seen = server.seen();
    let create = seen
        .iter()
        .find(|seen| seen.path.ends_with("/servers") && seen.method == "POST");
    let order: Value = serde_json::from_slice(&create.unwrap().body).unwrap();
    let user_data = order["server"]["user_data"].as_str().unwrap();
    let user_data = String::from_utf8(BASE64_STANDARD.decode(user_data).unwrap()).unwrap();
    let value = |name: &str| {
        let mut lines = user_data.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .to_owned()
    };
    let (token, url) = (value("token="), value("url="));
    assert_eq!(token.len(), 43, "{user_data}");

    factory.write("heartbeat", "alive");
    let ca_path = factory.path("etc/certificates");
    let file = factory.path("heartbeat").display().to_string();
    let upload = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        let arguments = [
            "-H",
            &header,
            "--upload-file",
            &file,
            &format!("{url}/heartbeat"),
        ];
        curl(&ca_path, None, &arguments)
    };
    let Some(answer) = upload(&token) else { return };
    assert_eq!(answer, " 201");
    assert_eq!(upload(&token).unwrap(), " 200");
    let wrong = upload(&token.replace(|c: char| c.is_ascii_lowercase(), "x")).unwrap();
    assert!(wrong.ends_with(" 403"), "{wrong}");
    // fizzle_seconds go by, after which a machine without a heartbeat is destroyed.
    factory.wait_for_scans("o.org", 6);
    assert_eq!(machine.read("deleted"), None, "{}", factory.log());

    assert!(!factory.log().contains(&token), "the log tells the token");
    for file in ["user_data", "joboutputs_token_sha256"] {
        let text = machine.read(file).unwrap();
        assert!(!text.contains(&token), "{file}: {text}");
    }
    assert_eq!(machine.read("https_x509dn"), None);
    daemon.end();
}
