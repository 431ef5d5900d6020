//! Heartbeats: who is destroyed for them, who is in the lists, and who finds proxies there.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::client::{Answer, curl, request};
use super::factory::{Factory, MachineDir, PKI, SPACE, until};

fn of_kind(factory: &Factory, machinetype: &str) -> Vec<MachineDir> {
    let prefix = format!("vcycle-{machinetype}-");
    let mut machines = factory.machines();
    machines.retain(|machine| machine.name().starts_with(&prefix));
    machines
}

fn ask(factory: &Factory, what: (&str, &str), body: &str) -> Answer {
    request((factory.port, &PKI.ca.cert), Some(&PKI.vm), what, body)
}

/// Writes a heartbeat as the VM would.
fn beat(factory: &Factory, machine: &MachineDir) {
    let path = format!("/machines/{}/joboutputs/alive", machine.name());
    let answer = ask(factory, ("PUT", &path), "x");
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
}

fn list(factory: &Factory, machinetype: &str) -> Answer {
    let path = format!("/heartbeatlists/{SPACE}/{machinetype}");
    let server = (factory.port, &PKI.ca.cert);
    request(server, None, ("GET", &path), "")
}

/// The line of a machine in a heartbeat list.
fn line(factory: &Factory, machine: &MachineDir) -> String {
    let file = fs::metadata(machine.0.join("joboutputs/alive")).unwrap();
    let written = file.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
    let servers = factory.servers(SPACE);
    let server = servers
        .iter()
        .find(|server| server["name"] == machine.name())
        .unwrap();
    let address = server["address"].as_str().unwrap();
    format!("{} {} {address}\n", written.as_secs(), machine.name())
}

#[test]
fn a_heartbeat_once_is_enough_for_some_and_has_to_go_on_for_others() {
    let factory = Factory::new();
    let mut text = factory.space(SPACE, "max_machines = 3");
    for (name, options) in [
        ("once", "heartbeat_file = alive"),
        ("always", "heartbeat_file = alive\nheartbeat_seconds = 4"),
        ("never", "heartbeat_file = alive\nheartbeat_seconds = 4"),
    ] {
        let options = format!("max_machines = 1\nbackoff_seconds = 6000\n{options}");
        text += &factory.machinetype(SPACE, name, &options);
    }
    factory.conf("space", &text);
    let daemon = factory.start();
    let machine = |kind: &str| until(kind, || of_kind(&factory, kind).pop());
    let (once, always, never) = (machine("once"), machine("always"), machine("never"));
    for machine in [&once, &always] {
        machine.wait_for("started");
        beat(&factory, machine);
    }
    let message = |machine: &MachineDir| machine.wait_for("joboutputs/shutdown_message");
    assert_eq!(message(&never), "700 Heartbeat file not created");
    // It stays alive for as long as it says so, however many scans look.
    let seconds = |count| std::time::Duration::from_secs(count);
    let (mut next, end) = (SystemTime::now(), SystemTime::now() + seconds(8));
    until("some time has passed", || {
        if SystemTime::now() > next {
            beat(&factory, &always);
            next += seconds(1);
        }
        (SystemTime::now() > end).then_some(())
    });
    assert_eq!(always.read("deleted"), None);
    let last = fs::metadata(always.0.join("joboutputs/alive")).unwrap();
    let last = last.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(message(&always), "700 Heartbeat file not updated");
    let deleted: u64 = always.wait_for("deleted").parse().unwrap();
    assert!(deleted > last.as_secs() + 4, "it was silent for too long");
    factory.wait_for_scans(SPACE, 2);
    assert_eq!(once.read("deleted"), None, "it has said so once");
    until("only that is in a list", || {
        (list(&factory, "always").body.is_empty()).then_some(())
    });
    assert_eq!(list(&factory, "once").body, line(&factory, &once));
    assert_eq!(list(&factory, "never").body, "");
    daemon.end();
}

#[test]
fn lists_tell_who_is_alive_and_where_the_proxies_are() {
    let factory = Factory::new();
    let space = factory.space(SPACE, "max_machines = 4");
    let squid = factory.machinetype(
        SPACE,
        "squid",
        "max_machines = 2\nheartbeat_file = alive\nheartbeat_seconds = 3600",
    );
    let silent = factory.machinetype(SPACE, "silent", "max_machines = 0");
    factory.conf("space", &format!("{space}{squid}{silent}"));
    let daemon = factory.start();
    let squids = until("two machines", || {
        let squids = of_kind(&factory, "squid");
        (squids.len() == 2).then_some(squids)
    });
    for machine in &squids {
        machine.wait_for("started");
    }
    until("nobody is alive yet", || {
        let answer = list(&factory, "squid");
        (answer.status == 200).then(|| assert_eq!(answer.body, ""))
    });
    beat(&factory, &squids[0]);
    until("another second begins", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let first = line(&factory, &squids[0]);
        let first: u64 = first.split(' ').next().unwrap().parse().unwrap();
        (now.as_secs() > first).then_some(())
    });
    beat(&factory, &squids[1]);
    let lines = || squids.iter().rev().map(|machine| line(&factory, machine));
    until("both are in the list, the latest first", || {
        let expected: String = lines().collect();
        (list(&factory, "squid").body == expected).then_some(())
    });
    assert_eq!(list(&factory, "silent").body, "");
    assert_eq!(list(&factory, "no-such").status, 404);
    let path = format!("/heartbeatlists/{SPACE}/squid");
    assert_eq!(ask(&factory, ("PUT", &path), "x").status, 405);
    assert_eq!(ask(&factory, ("GET", "/heartbeatlists/"), "").status, 404);
    let url = format!("https://localhost:{}{path}", factory.port);
    let said = curl(&factory.path("etc/certificates"), None, &[&url]).expect("needs curl");
    assert_eq!(said, lines().collect::<String>() + " 200");

    // Machines made from now on are told of both.
    let address = |machine: &MachineDir| {
        let line = line(&factory, machine);
        line.trim().rsplit_once(' ').unwrap().1.to_owned()
    };
    factory.write("etc/proxied", "proxy='##user_data_option_cvmfs_proxy##'\n");
    let template = factory.path("etc/proxied");
    let options = |extra: &str| {
        format!(
            "max_machines = 1\nuser_data = {}\ncvmfs_proxy_machinetype = squid:3128\n{extra}",
            template.display()
        )
    };
    let fallback = "user_data_option_cvmfs_proxy = http://squid.example.org:3128;DIRECT";
    let with = factory.machinetype(SPACE, "with", &options(fallback));
    let without = factory.machinetype(SPACE, "without", &options(""));
    factory.conf("space", &format!("{space}{squid}{with}{without}"));
    let group = format!(
        "http://{}:3128|http://{}:3128",
        address(&squids[1]),
        address(&squids[0])
    );
    for (kind, expected) in [
        (
            "with",
            format!("proxy='{group};http://squid.example.org:3128;DIRECT'\n"),
        ),
        ("without", format!("proxy='{group}'\n")),
    ] {
        let machine = until(kind, || of_kind(&factory, kind).pop());
        assert_eq!(machine.read("user_data").unwrap(), expected);
    }
    // A machinetype and a space that go take their lists with them.
    until("one list is gone", || {
        (list(&factory, "silent").status == 404).then_some(())
    });
    assert_eq!(list(&factory, "squid").status, 200);
    let other = factory.space("other.org", "max_machines = 1");
    let machinetype = factory.machinetype("other.org", "atlas", "target_share = 0");
    factory.conf("space", &(other + &machinetype));
    until("all lists of the space are gone", || {
        (list(&factory, "squid").status == 404).then_some(())
    });
    assert!(!factory.state(&format!("heartbeatlists/{SPACE}")).exists());
    assert!(factory.log_lines("ERROR").is_empty());
    daemon.end();
}

#[test]
fn without_a_living_proxy_machine_what_is_configured_is_left() {
    let factory = Factory::new();
    factory.write(
        "etc/user_data",
        "proxy='##user_data_option_cvmfs_proxy##'\n",
    );
    let proxied = "cvmfs_proxy_machinetype = squid\nmax_machines = 1\n";
    let fallback = format!("{proxied}user_data_option_cvmfs_proxy = DIRECT");
    let text = factory.space(SPACE, "max_machines = 2")
        + &factory.machinetype(SPACE, "squid", "heartbeat_file = alive\nmax_machines = 0")
        + &factory.machinetype(SPACE, "with", &fallback)
        + &factory.machinetype(SPACE, "without", proxied);
    factory.conf("space", &text);
    let daemon = factory.start();
    for (kind, expected) in [("with", "proxy='DIRECT'\n"), ("without", "proxy=''\n")] {
        let machine = until(kind, || of_kind(&factory, kind).pop());
        assert_eq!(machine.read("user_data").unwrap(), expected);
    }
    daemon.end();
}

#[test]
fn a_machine_whose_directory_is_removed_gets_a_new_one_and_time_to_write_there() {
    let factory = Factory::new();
    let machinetype = factory.machinetype(SPACE, "atlas", "heartbeat_file = alive");
    let machinetype = machinetype.replace("fizzle_seconds = 3", "fizzle_seconds = 8");
    factory.conf(
        "space",
        &(factory.space(SPACE, "max_machines = 1") + &machinetype),
    );
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    let id = machine.wait_for("uuid");
    let started: u64 = machine.wait_for("started").parse().unwrap();
    beat(&factory, &machine);
    let lived_for_fizzle_seconds = |since: u64| {
        until("fizzle_seconds have passed", || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (now.as_secs() > since + 9).then_some(())
        });
        factory.wait_for_scans(SPACE, 2);
    };
    lived_for_fizzle_seconds(started);
    fs::remove_dir_all(&machine.0).unwrap();
    assert_eq!(machine.wait_for("uuid"), id);
    // It has not heard of that yet, and writes when it is its time.
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(machine.read("deleted"), None);
    beat(&factory, &machine);
    let found = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    lived_for_fizzle_seconds(found.as_secs());
    assert_eq!(machine.read("deleted"), None);
    let servers = factory.servers(SPACE);
    assert_eq!(
        (servers.len(), servers[0]["id"].as_str()),
        (1, Some(id.as_str()))
    );
    assert_eq!(factory.log_lines("was removed while it runs").len(), 1);
    daemon.end();
}
