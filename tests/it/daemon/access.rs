//! The access log of a running daemon.

use super::client::request;
use super::factory::{Factory, PKI, until};

#[test]
fn requests_are_logged_when_asked_for_and_refusals_always() {
    let factory = Factory::with_space("max_machines = 1", "");
    let ask = |machine: &str, method: &str, path: &str, party| {
        let path = format!("/machines/{machine}/{path}");
        let server = (factory.port, &PKI.ca.cert);
        request(server, party, (method, &path), "alive").status
    };
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    let name = machine.name();
    assert_eq!(ask(name, "PUT", "joboutputs/x", Some(&PKI.vm)), 201);
    assert_eq!(ask(name, "PUT", "joboutputs/x", None), 403);
    let refused = until("the refusal is told", || {
        factory.log_lines("joboutputs/x").pop()
    });
    for part in [
        "refused a request",
        "client=127.0.0.1:",
        "status=403",
        "client certificate",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(
        factory.log_lines("joboutputs/x").len(),
        1,
        "what went well is not told"
    );
    daemon.end();

    let mut command = factory.command(&["run"]);
    command.env("VCYCLE_LOG", "info,vcycle::access=debug");
    let daemon = factory.start_with(command);
    assert_eq!(ask(name, "PUT", "joboutputs/log", Some(&PKI.vm)), 201);
    let written = until("it is told", || factory.log_lines("joboutputs/log").pop());
    for part in [
        "client=127.0.0.1:",
        "dn=\"/DC=org/DC=example/CN=vm\"",
        &format!("machine=\"{name}\""),
        "method=PUT",
        "status=201",
        "bytes=5",
        "seconds=0.",
    ] {
        assert!(written.contains(part), "{part}: {written}");
    }
    assert_eq!(ask(name, "GET", "jobfeatures/wall_limit_secs", None), 200);
    let read = until("it is told", || factory.log_lines("wall_limit_secs").pop());
    assert!(
        read.contains("bytes=5") && read.contains("dn=\"\""),
        "{read}"
    );
    daemon.end();
}
