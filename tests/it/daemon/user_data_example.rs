//! The example of user_data, as a VM runs it: what the daemon has made of it, against its server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::factory::{Factory, PKI, until};
use super::{secrets, tokens};
use crate::scripted::Scripted;

const EXAMPLE: &str = include_str!("../../../conf/user_data.example");
const MANUAL: &str = include_str!("../../../man/vcycle.conf.5");

/// A directory of commands that would end a VM, and here only say that they were called.
fn stubs(factory: &Factory) -> String {
    let bin = factory.path("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["poweroff", "shutdown"] {
        let stub = bin.join(name);
        fs::write(&stub, "#!/bin/sh\n: >\"$VM_WORK/off\"\n").unwrap();
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", bin.display());
    for name in ["poweroff", "shutdown"] {
        let mut which = Command::new("/bin/sh");
        which.args(["-c", &format!("command -v {name}")]);
        let found = which.env("PATH", &path).output().unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        // This host has to outlive the test.
        assert_eq!(Path::new(found.trim()), bin.join(name));
    }
    path
}

/// The user_data of the only machine that the cloud was asked for.
fn ordered(server: &Scripted) -> String {
    let seen = server.seen();
    let mut creates = seen.iter().filter(|seen| seen.method == "POST");
    let create = creates.find(|seen| seen.path.ends_with("/servers"));
    let order: Value = serde_json::from_slice(&create.unwrap().body).unwrap();
    let user_data = order["server"]["user_data"].as_str().unwrap();
    String::from_utf8(BASE64_STANDARD.decode(user_data).unwrap()).unwrap()
}

#[test]
fn its_patterns_are_those_of_the_manual_page() {
    let patterns: Vec<_> = EXAMPLE
        .split("##")
        .filter(|text| text.starts_with("user_data_") && !text.contains(char::is_whitespace))
        .collect();
    assert!(patterns.len() > 5, "{patterns:?}");
    for pattern in patterns {
        let own = ["user_data_option_ca", "user_data_option_payload"].contains(&pattern);
        assert!(
            own || MANUAL.contains(&format!("##{pattern}##")),
            "{pattern}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_user_data_does_what_a_vm_has_to_do() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("there is no curl here");
        return;
    }
    let kept = Mutex::new(None);
    let server = Scripted::start(move |seen, base| tokens::cloud(&kept, seen, base)).await;
    let factory = secrets::site(&server);
    factory.write("etc/user_data", EXAMPLE);
    factory.write("etc/ca.pem", PKI.ca.cert.to_pem().unwrap());
    let text = fs::read_to_string(factory.path("etc/vcycle.d/space.conf")).unwrap();
    let text = text.replace("max_machines = 4", "max_machines = 1");
    let options = format!(
        "fizzle_seconds = 600\nheartbeat_file = vm-heartbeat\nuser_data_file_ca = {}\n\
         user_data_option_payload = echo \"work for $JOBOUTPUTS\"; sleep $VM_TEST_SLEEP; exit 3\n#",
        factory.path("etc/ca.pem").display()
    );
    let text = text.replace("x509dn", &options);
    let host = format!(
        "https_host = localhost\nhttps_port = {}\napi =",
        factory.port
    );
    factory.conf("space", &text.replace("api =", &host));
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("uuid");
    let user_data = ordered(&server);
    assert!(!user_data.contains("##user_data"), "{user_data}");
    factory.write("vm.sh", &user_data);
    let path = stubs(&factory);
    let run = |notice: &str, seconds: &str| {
        let work = factory.path(&format!("vm{notice}"));
        let mut script = Command::new("/bin/sh");
        script.arg(factory.path("vm.sh")).env("PATH", &path);
        script.env("VM_WORK", &work).env("VM_NOTICE", notice);
        script
            .env("VM_HEARTBEAT_EVERY", "1")
            .env("VM_TEST_SLEEP", seconds);
        let output = script.output().unwrap();
        assert!(work.join("off").exists(), "not powered off: {output:?}");
        let said = machine.read("joboutputs/shutdown_message");
        said.unwrap_or_else(|| panic!("no shutdown_message: {output:?}"))
    };

    assert_eq!(run("300", "2").trim_end(), "300 No more work available");
    let log = machine.read("joboutputs/vm-log").unwrap();
    assert!(log.starts_with("work for https://localhost:"), "{log}");
    let beat = machine.read("joboutputs/vm-heartbeat").unwrap();
    assert!(beat.trim_end().parse::<u64>().is_ok(), "{beat}");
    // Its end is less than so many seconds away: the payload, which would go on, is stopped.
    let said = run("100000000", "3600");
    assert_eq!(said.trim_end(), "100 Shutdown as requested by the host");
    daemon.end();
}
