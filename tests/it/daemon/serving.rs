//! The `[server]` section: what cannot be served, and what becomes of the machines meanwhile.

use std::net::TcpListener;

use super::client::{Answer, request};
use super::factory::{Factory, PKI, SPACE, free_port, until};

#[test]
fn a_daemon_that_cannot_serve_does_not_start() {
    let factory = Factory::with_space("max_machines = 1", "");
    let taken = TcpListener::bind(("127.0.0.1", factory.port)).unwrap();
    let said = factory.run(&["run"]);
    assert_eq!(said.code, Some(74), "{said:?}");
    let address = taken.local_addr().unwrap().to_string();
    assert!(said.err.contains(&address), "{said:?}");
    drop(taken);
    factory.server("key = /nonexistent.pem\n");
    let said = factory.run(&["run"]);
    assert_eq!(said.code, Some(74), "{said:?}");
    assert!(said.err.contains("/nonexistent.pem"), "{said:?}");
    assert!(factory.machines().is_empty());
}

#[test]
fn no_machine_suffers_while_the_server_cannot_be_started_again() {
    let factory = Factory::with_space(
        "max_machines = 1\nsimulated_boot_seconds = 3",
        "heartbeat_file = heartbeat",
    );
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    // The admin moves the server to a port that somebody else has.
    let port = free_port();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    factory.server(&format!("listen = 127.0.0.1:{port}\n"));
    let told = || factory.log_lines("cannot start the HTTPS server");
    until("it is told", || told().pop());
    machine.wait_for("started");
    // For longer than fizzle_seconds it cannot write a heartbeat.
    factory.wait_for_scans(SPACE, 5);
    assert_eq!(machine.read("deleted"), None, "its silence is ours");
    assert_eq!(told().len(), 1, "said once");

    drop(taken);
    let again = "the HTTPS server is back";
    until("it serves again by itself", || {
        factory.log_lines(again).pop()
    });
    let path = format!("/machines/{}/joboutputs/heartbeat", machine.name());
    let server = (port, &PKI.ca.cert);
    let Answer { status, body } = request(server, Some(&PKI.vm), ("PUT", &path), "alive");
    assert_eq!(status, 201, "{body}");
    factory.wait_for_scans(SPACE, 4);
    assert_eq!(machine.read("deleted"), None, "it has been heard");
    daemon.end();
}
