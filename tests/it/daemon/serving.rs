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
    // The admin has the server listen on all addresses, of which somebody has one: that can be known
    // only when it has let its own go.
    let port = factory.port;
    let taken = TcpListener::bind(("127.0.0.2", port)).unwrap();
    factory.server(&format!("listen = 0.0.0.0:{port}\n"));
    let told = || factory.log_lines("cannot start the HTTPS server");
    until("it is told", || told().pop());
    machine.wait_for("started");
    // For longer than fizzle_seconds it cannot write a heartbeat.
    factory.wait_for_scans(SPACE, 5);
    assert_eq!(machine.read("deleted"), None, "its silence is ours");
    assert_eq!(told().len(), 1, "said once");
    let health = factory.run(&["health"]);
    assert_eq!(health.code, Some(2), "{health:?}");
    assert!(
        health.out.contains("the HTTPS server is down"),
        "{health:?}"
    );

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

#[test]
fn the_server_goes_on_when_none_could_start_as_server_asks() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    let path = format!("/machines/{}/jobfeatures/wall_limit_secs", machine.name());
    let answers = |port| request((port, &PKI.ca.cert), None, ("GET", &path), "").status;

    let port = free_port();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for (slip, named) in [
        (format!("listen = 127.0.0.1:{port}\n"), port.to_string()),
        (
            "key = /nonexistent.pem\n".to_owned(),
            "/nonexistent.pem".to_owned(),
        ),
    ] {
        factory.server(&slip);
        let told = || {
            let lines = factory.log_lines("cannot change the HTTPS server");
            lines.into_iter().find(|line| line.contains(&named))
        };
        until("it is told", told);
        assert_eq!(answers(factory.port), 200, "{slip}");
        until("health warns of it", || {
            let health = factory.run(&["health"]);
            let warns = health.out.contains("goes on as it was");
            (warns && health.out.contains(&named)).then_some(())
        });
        let status = factory.run(&["status"]);
        assert!(status.out.contains(&named), "{status:?}");
    }
    factory.server("");
    until("it is over", || {
        factory
            .log_lines("again what the HTTPS server runs with")
            .pop()
    });
    drop(taken);
    factory.server(&format!("listen = 127.0.0.1:{port}\n"));
    until("the server has moved", || {
        std::net::TcpStream::connect(("127.0.0.1", factory.port)).err()
    });
    assert_eq!(answers(port), 200);
    until("all is well", || {
        let health = factory.run(&["health"]);
        (!health.out.contains("goes on as it was")).then_some(())
    });
    daemon.end();
}
