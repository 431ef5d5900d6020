//! Machines that write to a server elsewhere: their life by what it says, and what it may say
//! wrong.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::elsewhere::{Elsewhere, Manner, Seen};
use super::factory::{Daemon, Factory, MachineDir, PKI, SPACE, until};
use crate::pki::{self, EXPIRED, For, VALID};

/// How the factory shows itself.
const READER: &str = "reader of the factory";

/// Writes the factory's certificate for servers elsewhere.
fn identity(factory: &Factory) -> PathBuf {
    let reader = PKI
        .ca
        .issue(&pki::name(&[("CN", READER)]), For::Clients, VALID);
    reader.write(&factory.path("etc/reader.pem"))
}

/// A site whose machines, one at a time unless `space` says otherwise, write to `server`.
fn site(server: &Elsewhere, space: &str, machinetype: &str) -> Factory {
    let factory = Factory::new();
    configure(&factory, server, space, machinetype);
    factory
}

fn configure(factory: &Factory, server: &Elsewhere, space: &str, machinetype: &str) {
    let options = server.options(&identity(factory)) + machinetype;
    let space = format!("simulated_job_seconds = 3600\n{space}");
    let text = factory.space(SPACE, &space) + &factory.machinetype(SPACE, "atlas", &options);
    factory.conf("space", &text);
}

fn running_machine(factory: &Factory) -> MachineDir {
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("started");
    machine
}

/// A machine that has been heard of, and goes on while nobody touches the server.
fn heard_machine(factory: &Factory, server: &Elsewhere) -> (Daemon, MachineDir) {
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    server.put(machine.name(), "heartbeat", "", Duration::ZERO);
    server.set(Manner::Fresh);
    machine.wait_for("started");
    until("it is asked for", || {
        let heads = server
            .seen()
            .into_iter()
            .filter(|seen| seen.method == "HEAD");
        (heads.count() > 2).then_some(())
    });
    (daemon, machine)
}

const BEAT: &str = "heartbeat_file = heartbeat\nheartbeat_seconds = 6\n";

#[test]
fn a_machine_that_writes_elsewhere_lives_works_and_is_accounted_for() {
    let server = Elsewhere::start(&PKI.host);
    let factory = Factory::new();
    let space = format!(
        "max_machines = 1\nsimulated_job_seconds = 6\n{}",
        factory.vm_certificate()
    );
    let machinetype = "heartbeat_file = heartbeat\nlog_joboutputs = True\n";
    configure(&factory, &server, &space, machinetype);
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    let name = machine.name();
    machine.wait_for("finished");
    let url = format!("https://localhost:{}/outputs/{name}", server.port);
    let told = factory.servers(SPACE).into_iter().find_map(|vm| {
        let told = vm["metadata"]["joboutputs"].as_str()?.to_owned();
        (vm["name"] == *name).then_some(told)
    });
    assert!(told.is_none_or(|told| told == url));
    assert_eq!(machine.read("ended"), None, "its heartbeat was found");
    let said = server.file(name, "shutdown_message");
    assert_eq!(said.as_deref(), Some("200 Success"));
    let message = machine.read("joboutputs/shutdown_message");
    assert_eq!(message.as_deref(), Some("200 Success"));
    assert_eq!(machine.read("joboutputs/heartbeat"), None);
    assert_eq!(factory.records("apel-archive").len(), 1);
    let copy = factory.state(&format!("joboutputs/{SPACE}/atlas/{name}/shutdown_message"));
    until("it is copied", || {
        fs::read_to_string(&copy)
            .ok()
            .filter(|text| text == "200 Success")
    });
    let asked = |method: &str, file: &str| {
        let path = format!("/outputs/{name}/{file}");
        let mut seen = server.seen().into_iter();
        seen.find(|seen| seen.method == method && seen.path == path)
    };
    for (method, file, client) in [
        ("PUT", "heartbeat", "vm"),
        ("HEAD", "heartbeat", READER),
        ("PUT", "shutdown_message", "vm"),
        ("GET", "shutdown_message", READER),
    ] {
        let Some(Seen { client: found, .. }) = asked(method, file) else {
            panic!("no {method} of {file}: {:?}", server.seen());
        };
        assert_eq!(found, client, "{method} of {file}");
    }
    assert!(factory.log_lines("ERROR").is_empty());
    let answered = factory.state(&format!(
        "spaces/{SPACE}/machinetypes/atlas/remote_answered"
    ));
    assert_eq!(fs::metadata(answered).unwrap().len(), 0);
    daemon.end();
}

#[test]
fn a_machine_without_a_heartbeat_elsewhere_is_destroyed() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "max_machines = 1", BEAT);
    let daemon = factory.start();
    let machine = running_machine(&factory);
    let message = machine.wait_for("joboutputs/shutdown_message");
    assert_eq!(message, "700 Heartbeat file not created");
    machine.wait_for("finished");
    assert_eq!(machine.read("ended").unwrap(), "heartbeat");
    daemon.end();
}

#[test]
fn a_machine_whose_heartbeat_elsewhere_gets_old_is_destroyed() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "max_machines = 1", BEAT);
    let (daemon, machine) = heard_machine(&factory, &server);
    factory.wait_for_scans(SPACE, 8);
    assert_eq!(machine.read("deleted"), None);
    // From now on the file is as old as it is.
    server.put(machine.name(), "heartbeat", "", Duration::ZERO);
    server.set(Manner::Good);
    let stopped_writing = Instant::now();
    let message = machine.wait_for("joboutputs/shutdown_message");
    assert_eq!(message, "700 Heartbeat file not updated");
    assert!(stopped_writing.elapsed() > Duration::from_secs(5));
    daemon.end();
}

#[test]
fn a_server_that_hangs_is_a_missed_heartbeat_only_after_heartbeat_seconds() {
    let server = Elsewhere::start(&PKI.host);
    let machinetype = "heartbeat_file = heartbeat\nheartbeat_seconds = 15\n";
    let factory = site(&server, "max_machines = 1", machinetype);
    let (daemon, machine) = heard_machine(&factory, &server);
    server.set(Manner::Hang);
    let hangs = Instant::now();
    let deleted = machine.wait_for("joboutputs/shutdown_message");
    let took = hangs.elapsed();
    assert_eq!(deleted, "700 Heartbeat file not updated");
    // The last answer came up to a slow cycle before.
    assert!(took > Duration::from_secs(11), "{took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    let why = || factory.log_lines("has not answered for");
    until("it is told why", || why().pop());
    assert_eq!(why().len(), 1, "{:?}", why());
    daemon.end();
}

#[test]
fn a_server_that_comes_back_in_time_costs_no_machine() {
    let server = Elsewhere::start(&PKI.host);
    let machinetype = "heartbeat_file = heartbeat\nheartbeat_seconds = 20\n";
    let factory = site(&server, "max_machines = 1", machinetype);
    let (daemon, machine) = heard_machine(&factory, &server);
    server.set(Manner::Status(503));
    let told = || factory.log_lines("remote_joboutputs_url: 503");
    until("it is told", || told().pop());
    // A new life of the daemon goes on with what it knows.
    daemon.kill();
    let daemon = factory.start();
    factory.wait_for_scans(SPACE, 5);
    assert_eq!(machine.read("deleted"), None);
    assert_eq!(told().len(), 2, "once in each life");
    // The VM could not write either: what it has left is old, and it has time to write again.
    server.put(machine.name(), "heartbeat", "", Duration::from_secs(100));
    server.set(Manner::Good);
    until("it is told", || {
        factory.log_lines("answers as it should again").pop()
    });
    factory.wait_for_scans(SPACE, 5);
    assert_eq!(machine.read("deleted"), None);
    server.set(Manner::Fresh);
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(machine.read("deleted"), None);
    daemon.end();
}

#[test]
fn the_time_of_an_outage_goes_on_over_a_restart() {
    let server = Elsewhere::start(&PKI.host);
    let machinetype = "heartbeat_file = heartbeat\nheartbeat_seconds = 15\n";
    let factory = site(&server, "max_machines = 1", machinetype);
    let (daemon, machine) = heard_machine(&factory, &server);
    server.set(Manner::Status(502));
    let down = Instant::now();
    until("most of the time has passed", || {
        (down.elapsed() > Duration::from_secs(9)).then_some(())
    });
    assert_eq!(machine.read("deleted"), None);
    daemon.kill();
    let daemon = factory.start();
    machine.wait_for("deleted");
    let took = down.elapsed();
    assert!(took > Duration::from_secs(11), "{took:?}");
    assert!(took < Duration::from_secs(23), "counted anew: {took:?}");
    daemon.end();
}

/// While a server tells what cannot be meant no machine is judged by it, and it is told once.
#[test]
fn no_machine_suffers_from_what_a_server_makes_up() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "max_machines = 1", BEAT);
    let (daemon, machine) = heard_machine(&factory, &server);
    let elsewhere = Elsewhere::start(&PKI.host);
    elsewhere.set(Manner::Fresh);
    let to = format!("https://localhost:{}/x?token=secret", elsewhere.port);
    let cases = [
        (Manner::Html, "200 OK with an HTML page"),
        (
            Manner::Modified("yesterday".to_owned()),
            "no date: yesterday",
        ),
        (Manner::Redirect(to), "302 Found to https://localhost"),
        (
            Manner::Redirect("http://localhost/outputs".to_owned()),
            "302 Found to http://localhost/outputs (not followed)",
        ),
        (Manner::Status(403), "403 Forbidden"),
        (Manner::Status(401), "401 Unauthorized"),
    ];
    for (manner, said) in cases {
        server.set(manner.clone());
        let told = || factory.log_lines(said);
        until("it is told", || told().pop());
        factory.wait_for_scans(SPACE, 8);
        assert_eq!(machine.read("deleted"), None, "{manner:?}");
        assert_eq!(told().len(), 1, "{manner:?}: said once");
    }
    assert!(elsewhere.seen().is_empty(), "no redirect is followed");
    assert!(!factory.log().contains("secret"));
    server.set(Manner::Fresh);
    until("it is told", || {
        factory.log_lines("answers as it should again").pop()
    });
    // A time of the future does not make a machine live for ever.
    let future = "Fri, 31 Dec 2100 23:59:59 GMT".to_owned();
    server.set(Manner::Modified(future));
    let message = machine.wait_for("joboutputs/shutdown_message");
    assert_eq!(message, "700 Heartbeat file not updated");
    daemon.end();
}

#[test]
fn a_server_that_cannot_be_verified_is_not_talked_to() {
    let stranger = pki::authority("Stranger CA");
    let localhost = pki::name(&[("CN", "localhost")]);
    let other_host = PKI.ca.issue(&localhost, For::Servers, EXPIRED);
    let unknown = stranger.issue(&localhost, For::Servers, VALID);
    for (host, said) in [
        (other_host, "expired"),
        (unknown, "certificate verify failed"),
    ] {
        let server = Elsewhere::start(&host);
        let factory = site(&server, "max_machines = 1", BEAT);
        let daemon = factory.start();
        let told = || factory.log_lines("remote_joboutputs_url: ");
        until("it is told", || told().pop());
        factory.wait_for_scans(SPACE, 3);
        assert_eq!(told().len(), 1, "said once: {:?}", told());
        assert!(told()[0].contains(said), "{:?}", told());
        assert!(server.seen().is_empty());
        daemon.end();
    }
}

#[test]
fn a_server_that_refuses_our_certificate_costs_no_machine() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "max_machines = 1", BEAT);
    let name = pki::name(&[("CN", READER)]);
    let expired = PKI.ca.issue(&name, For::Clients, EXPIRED);
    expired.write(&factory.path("etc/reader.pem"));
    let daemon = factory.start();
    let machine = running_machine(&factory);
    let told = || factory.log_lines("it refuses us: ");
    until("it is told", || told().pop());
    factory.wait_for_scans(SPACE, 10);
    assert!(told()[0].contains("certificate expired"), "{:?}", told());
    assert_eq!(machine.read("deleted"), None);
    // None at all, where one is wanted.
    let conf = fs::read_to_string(factory.path("etc/vcycle.d/space.conf")).unwrap();
    let without: Vec<_> = conf
        .lines()
        .filter(|line| !line.contains("reader.pem"))
        .collect();
    factory.conf("space", &without.join("\n"));
    until("it is told", || {
        factory.log_lines("certificate required").pop()
    });
    factory.wait_for_scans(SPACE, 5);
    assert_eq!(machine.read("deleted"), None);
    // The server may also hang up before its refusal is read, which is another trouble: none is said
    // twice in a row.
    let all = factory.log_lines("remote_joboutputs_url: ");
    let texts: Vec<_> = all
        .iter()
        .filter_map(|line| line.split_once(" ERROR "))
        .map(|(_, text)| text)
        .collect();
    let repeated = texts.windows(2).any(|pair| pair[0] == pair[1]);
    assert!(!repeated && texts.len() >= 2, "{all:?}");
    daemon.end();
}

#[test]
fn without_a_usable_certificate_of_ours_no_machine_is_judged() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "max_machines = 1", BEAT);
    let reader = factory.path("etc/reader.pem");
    let whole = fs::read_to_string(&reader).unwrap();
    let (cert, _) = whole.split_once("-----BEGIN PRIVATE KEY").unwrap();
    factory.write("etc/reader.pem", cert);
    let daemon = factory.start();
    let machine = running_machine(&factory);
    let told = || factory.log_lines("reader.pem cannot be used to show who we are");
    until("it is told", || told().pop());
    // For longer than fizzle_seconds and heartbeat_seconds.
    factory.wait_for_scans(SPACE, 10);
    assert_eq!(machine.read("deleted"), None);
    assert_eq!(told().len(), 1, "said once");
    // A new certificate is used without a restart.
    factory.write("etc/reader.pem", &whole);
    server.put(machine.name(), "heartbeat", "", Duration::ZERO);
    server.set(Manner::Fresh);
    until("it is asked for", || {
        server.seen().into_iter().find(|seen| seen.client == READER)
    });
    until("it is told", || {
        factory.log_lines("answers as it should again").pop()
    });
    assert_eq!(machine.read("deleted"), None);
    daemon.end();
}

#[test]
fn a_message_elsewhere_decides_like_one_here_and_is_waited_for() {
    let server = Elsewhere::start(&PKI.host);
    let factory = Factory::new();
    // The VM has no certificate, so that it is the test that speaks for it.
    configure(
        &factory,
        &server,
        "max_machines = 1\nsimulated_job_seconds = 8",
        "",
    );
    let daemon = factory.start();
    let machine = running_machine(&factory);
    server.put(
        machine.name(),
        "shutdown_message",
        "300 No more work\n",
        Duration::ZERO,
    );
    server.set(Manner::Status(503));
    let stopped = machine.wait_for("stopped");
    factory.wait_for_scans(SPACE, 4);
    assert_eq!(machine.read("finished"), None, "its message is waited for");
    assert_eq!(factory.records("apel-archive").len(), 0);
    // Its VM is destroyed all the same.
    until("the VM is gone", || {
        let servers = factory.servers(SPACE);
        let mut names = servers.iter().map(|vm| &vm["name"]);
        names.all(|name| name != machine.name()).then_some(())
    });
    daemon.kill();
    let daemon = factory.start();
    factory.wait_for_scans(SPACE, 2);
    server.set(Manner::Good);
    machine.wait_for("finished");
    assert_eq!(machine.read("stopped").unwrap(), stopped, "its end stays");
    let message = machine.read("joboutputs/shutdown_message");
    assert_eq!(message.as_deref(), Some("300 No more work\n"));
    let abort = factory.state(&format!(
        "spaces/{SPACE}/machinetypes/atlas/last_abort_time"
    ));
    assert_eq!(fs::read_to_string(abort).unwrap(), stopped);
    assert_eq!(factory.records("apel-archive").len(), 1);
    daemon.end();
}

#[test]
fn an_endless_message_is_read_as_far_as_it_counts() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "max_machines = 1\nsimulated_job_seconds = 5", "");
    server.set(Manner::Endless("600 grid-wide trouble\n".to_owned()));
    let daemon = factory.start();
    let machine = running_machine(&factory);
    machine.wait_for("finished");
    let message = machine.read("joboutputs/shutdown_message").unwrap();
    assert!(message.starts_with("600 grid-wide trouble\nxxx"));
    assert_eq!(message.len(), 4096);
    until("it is told", || {
        factory.log_lines("saying \"600 grid-wide trouble\"").pop()
    });
    daemon.end();
}

/// Two hundred machines on a server that hangs: the first pass waits for it a little, once.
#[test]
fn many_machines_on_a_server_that_hangs_do_not_hold_up_the_passes() {
    let server = Elsewhere::start(&PKI.host);
    server.set(Manner::Hang);
    let space = "max_machines = 200\nsimulated_machines = 200\nsimulated_processors = 200";
    let machinetype = "heartbeat_file = heartbeat\nheartbeat_seconds = 3600\n";
    let factory = site(&server, space, machinetype);
    let daemon = factory.start();
    until("all machines run", || {
        let machines = factory.machines();
        let started = machines.iter().filter(|m| m.read("started").is_some());
        (started.count() == 200).then_some(())
    });
    let began = Instant::now();
    factory.wait_for_scans(SPACE, 10);
    let took = began.elapsed();
    eprintln!("ten cycles of a second with 200 machines on a server that hangs: {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let connections: std::collections::BTreeSet<_> =
        server.seen().into_iter().map(|seen| seen.path).collect();
    eprintln!("{} machines have been asked for so far", connections.len());
    let asked = Instant::now();
    daemon.end();
    eprintln!("the end took {:?}", asked.elapsed());
}

#[test]
fn a_plan_asks_elsewhere_too_and_is_replayed() {
    let server = Elsewhere::start(&PKI.host);
    let machinetype = "heartbeat_file = heartbeat\nheartbeat_seconds = 50\n";
    let factory = site(&server, "max_machines = 1", machinetype);
    let (daemon, machine) = heard_machine(&factory, &server);
    daemon.end();
    server.put(machine.name(), "heartbeat", "", Duration::from_secs(100));
    server.set(Manner::Good);
    let now = (machine.time("started").unwrap() + 60).to_string();
    let snapshot = factory.path("snapshot.json");
    let snapshot = snapshot.to_str().unwrap();
    let dumped = ["plan", SPACE, "--json", "--seed", "1", "--now", &now];
    let plan = factory.run(&[&dumped[..], &["--dump-snapshot", snapshot]].concat());
    let deletes = plan.json()["deletes"].clone();
    assert_eq!(deletes[0]["reason"]["rule"], "heartbeat_old", "{plan:?}");
    let again = [
        "plan",
        "--json",
        "--seed",
        "1",
        "--now",
        &now,
        "--snapshot",
        snapshot,
    ];
    assert_eq!(factory.run(&again).out, plan.out);
    let written = fs::read_to_string(snapshot).unwrap();
    assert!(written.contains("\"remotes\""), "{written}");
    // A server that says nothing is told of, and the plan goes on.
    server.set(Manner::Status(500));
    let plan = factory.run(&["plan", SPACE, "--json"]);
    assert_eq!(plan.json()["deletes"], serde_json::json!([]));
    assert!(plan.err.contains("500"), "{plan:?}");
}

#[test]
fn a_url_without_tls_is_an_error_with_its_line() {
    let server = Elsewhere::start(&PKI.host);
    let factory = site(&server, "", "remote_joboutputs_url = http://localhost/x\n");
    let said = factory.run(&["check"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    let conf = fs::read_to_string(factory.path("etc/vcycle.d/space.conf")).unwrap();
    let line = conf
        .lines()
        .position(|line| line.contains("http://"))
        .unwrap()
        + 1;
    let place = format!("space.conf:{line}: ");
    let told = said.err.lines().chain(said.out.lines());
    let told: Vec<_> = told.filter(|line| line.contains(&place)).collect();
    assert!(
        told.iter()
            .any(|told| told.contains("expected a URL that begins with https://")),
        "{said:?}"
    );
}
