//! The admin endpoint: who is answered, and what.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::Value;

use super::client::Answer;
use super::factory::{Factory, SPACE, until};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends the head of a request, and what is behind it, on a connection of its own.
fn send(address: impl Into<SocketAddr>, head: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address.into()).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).ok()?;
    Some(stream)
}

fn exchange(address: impl Into<SocketAddr>, head: &str) -> Option<(String, Answer)> {
    let mut text = String::new();
    send(address, head)?.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let answer = Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: body.to_owned(),
    };
    Some((head.to_lowercase(), answer))
}

pub fn head_of(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")
}

/// What the admin endpoint of a factory answers to a GET from this host, once it answers.
pub fn get(factory: &Factory, path: &str) -> Answer {
    until("the admin endpoint answers", || {
        try_get(factory.admin, path)
    })
}

/// The same with more headers.
pub fn get_with(factory: &Factory, path: &str, headers: &str) -> Answer {
    let head = head_of(path, &format!("Host: localhost\r\n{headers}"));
    let here = (Ipv4Addr::LOCALHOST, factory.admin);
    exchange(here, &head).unwrap().1
}

fn try_get(port: u16, path: &str) -> Option<Answer> {
    let head = head_of(path, "Host: localhost\r\n");
    exchange((Ipv4Addr::LOCALHOST, port), &head).map(|(_, answer)| answer)
}

#[test]
fn it_tells_what_the_local_socket_tells() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    until("all spaces have been looked at", || {
        let ready = get(&factory, "/readyz");
        assert!(matches!(ready.status, 200 | 503), "{ready:?}");
        (ready.body == "ready\n").then_some(())
    });
    let alive = get(&factory, "/healthz");
    assert_eq!((alive.status, alive.body.as_str()), (200, "ok\n"));
    let name = until("a machine is shown", || {
        let status: Value = serde_json::from_str(&get(&factory, "/v1/status").body).unwrap();
        assert_eq!(status["daemon"]["process"], daemon.child.id());
        let machine = &status["spaces"][SPACE]["machines"][0]["name"];
        machine.as_str().map(ToOwned::to_owned)
    });
    let machine = get(&factory, &format!("/v1/machines/{name}"));
    let machine: Value = serde_json::from_str(&machine.body).unwrap();
    assert_eq!(machine["space"], SPACE);
    let brief = get(&factory, "/v1/status?machines=no").body;
    assert!(!brief.contains(&name), "{brief}");
    for path in ["/v1/machines/vcycle-a-aaaaaaaaaa", "/v1/none", "/x", "//"] {
        assert_eq!(get(&factory, path).status, 404, "{path}");
    }
    assert!(get(&factory, "/").body.contains("/readyz"));

    // A space whose cloud does not answer is not ready, and the body says why.
    let dead = format!(
        "[space other.org]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
         username = u\npassword_base64 = c2VjcmV0c2VjcmV0\nmax_machines = 4\n{}",
        factory.machinetype("other.org", "a", "")
    );
    factory.conf("other", &dead);
    until("the new space is missed", || {
        let ready = get(&factory, "/readyz");
        let said = "space other.org has not been looked at: ";
        (ready.status == 503 && ready.body.contains(said)).then_some(())
    });
    assert_eq!(get(&factory, "/healthz").status, 200);
    daemon.end();
    assert_eq!(try_get(factory.admin, "/healthz"), None);
}

#[test]
fn on_this_host_it_answers_nobody_who_was_sent_here_by_a_name() {
    let factory = Factory::with_space("max_machines = 0", "");
    let daemon = factory.start();
    assert_eq!(get(&factory, "/healthz").status, 200);
    assert!(!factory.state("admin_token").exists());
    let here: SocketAddr = (Ipv4Addr::LOCALHOST, factory.admin).into();
    let ask = |head: &str| exchange(here, head).unwrap();
    for (host, status) in [
        ("Host: 127.0.0.1:9999\r\n", 200),
        ("Host: attacker.example.org\r\n", 421),
        ("", 421),
    ] {
        let (_, answer) = ask(&head_of("/v1/status", host));
        assert_eq!(answer.status, status, "{host:?}");
        assert_eq!(answer.body.contains(SPACE), status == 200);
    }
    let (head, _) = ask(&head_of("/v1/status", "Host: localhost\r\n"));
    for header in [
        "content-security-policy: default-src 'none'",
        "x-content-type-options: nosniff",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header} in {head}");
    }
    assert!(!head.contains("access-control"), "{head}");
    for method in ["PUT", "POST", "DELETE", "OPTIONS"] {
        let get = head_of("/v1/status", "Host: localhost\r\n");
        let (head, answer) = ask(&get.replacen("GET", method, 1));
        assert_eq!(answer.status, 405, "{method}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
    let with_body = "Host: localhost\r\nContent-Length: 4\r\n";
    let (_, answer) = ask(&format!("{}body", head_of("/healthz", with_body)));
    assert_eq!(answer.status, 413);
    let long = format!("Host: localhost\r\nX: {}\r\n", "x".repeat(20_000));
    assert_eq!(ask(&head_of("/healthz", &long)).1.status, 431);
    let get = head_of("/v1/status", "Host: localhost\r\n");
    let (head, answer) = ask(&get.replacen("GET", "HEAD", 1));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(head.contains("content-length: "), "{head}");
    daemon.end();
}

#[test]
fn a_port_that_is_taken_stops_nothing_and_is_tried_again() {
    let factory = Factory::with_space("max_machines = 1", "");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, factory.admin)).unwrap();
    let daemon = factory.start();
    let scanned = factory.state(&format!("spaces/{SPACE}/last_scan"));
    until("the space is looked at", || scanned.exists().then_some(()));
    factory.wait_for_scans(SPACE, 2);
    let said = factory.log_lines("cannot start the admin endpoint");
    assert_eq!(said.len(), 1, "once: {said:?}");
    assert!(said[0].contains(&factory.admin.to_string()), "{said:?}");
    drop(taken);
    assert_eq!(get(&factory, "/healthz").status, 200);
    assert_eq!(
        factory
            .log_lines("the admin endpoint is there, after")
            .len(),
        1
    );

    // Another address is taken up by a running daemon, and so is none. The HTTPS server is another
    // one, and goes on.
    let listening = factory.log_lines("listening").len();
    let other = super::factory::free_port();
    factory.server(&format!("admin_listen = 127.0.0.1:{other}\n"));
    daemon.signal(Signal::HUP);
    until("the other port answers", || try_get(other, "/healthz"));
    assert_eq!(try_get(factory.admin, "/healthz"), None);
    factory.server("admin_listen = none\n");
    daemon.signal(Signal::HUP);
    until("it is gone", || {
        try_get(other, "/healthz").is_none().then_some(())
    });
    assert_eq!(factory.log_lines("listening").len(), listening);
    daemon.end();
}

/// An address of this host that others can reach; no packet is sent.
pub fn outer_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}

#[test]
fn beyond_this_host_it_asks_for_the_token() {
    let factory = Factory::with_space("max_machines = 0", "");
    factory.server(&format!("admin_listen = 0.0.0.0:{}\n", factory.admin));
    let daemon = factory.start();
    let path = factory.state("admin_token");
    let read = || fs::read_to_string(&path).unwrap().trim().to_owned();
    let token = read();
    assert!(token.len() > 40, "{token}");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let said = factory.log_lines("not only for this host");
    assert!(
        said.len() == 1 && said[0].contains("admin_token"),
        "{said:?}"
    );
    let mut addresses: Vec<SocketAddr> = vec![(Ipv4Addr::LOCALHOST, factory.admin).into()];
    addresses.extend(outer_address().map(|ip| SocketAddr::from((ip, factory.admin))));
    let ask = |address: SocketAddr, path: &str, headers: &str| {
        let headers = format!("Host: site.example.org\r\n{headers}");
        exchange(address, &head_of(path, &headers)).unwrap()
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for &address in &addresses {
        for path in ["/", "/healthz", "/readyz", "/v1/status", "/v1/stream", "/x"] {
            let (head, answer) = ask(address, path, "");
            assert_eq!(answer.status, 401, "{path}");
            assert!(head.contains("www-authenticate: basic"), "{head}");
        }
        let (_, wrong) = ask(address, "/v1/status", &bearer(&token.to_uppercase()));
        assert_eq!(wrong.status, 401);
        let (_, right) = ask(address, "/v1/status", &bearer(&token));
        assert_eq!(right.status, 200);
        // As a browser shows it, whatever user name was given.
        let pair = BASE64_STANDARD.encode(format!("admin:{token}"));
        let (_, right) = ask(address, "/", &format!("Authorization: Basic {pair}\r\n"));
        assert_eq!(right.status, 200);
    }
    // Removing the file makes a new one with the next cycle; the old token is good for nothing.
    let here = addresses[0];
    fs::remove_file(&path).unwrap();
    daemon.signal(Signal::HUP);
    until("the old token is refused", || {
        let (_, answer) = ask(here, "/healthz", &bearer(&token));
        (answer.status == 401).then_some(())
    });
    let second = read();
    assert_eq!(ask(here, "/healthz", &bearer(&second)).1.status, 200);
    daemon.end();
    // It outlives the daemon, for it stands in the configuration of others.
    let daemon = factory.start();
    assert_eq!(read(), second);
    daemon.end();
    let log = factory.log();
    assert!(!log.contains(&token) && !log.contains(&second), "{log}");
}

#[test]
fn a_stream_goes_on_until_its_reader_or_the_daemon_goes() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    assert_eq!(get(&factory, "/healthz").status, 200);
    let here: SocketAddr = (Ipv4Addr::LOCALHOST, factory.admin).into();
    let open = || {
        let head = "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
        BufReader::new(send(here, head).unwrap())
    };
    let status = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    };
    let mut first = open();
    assert_eq!(status(&mut first), "200");
    let mut events = 0;
    for line in first.by_ref().lines() {
        events += usize::from(line.unwrap().starts_with("data: {"));
        if events == 2 {
            break;
        }
    }
    // There are sixteen places, and one that is left is free again.
    let mut others: Vec<_> = (0..15).map(|_| open()).collect();
    for reader in &mut others {
        assert_eq!(status(reader), "200");
    }
    assert_eq!(status(&mut open()), "503");
    assert_eq!(get(&factory, "/healthz").status, 200, "others are answered");
    drop(others.pop());
    until("a place is free", || {
        (status(&mut open()) == "200").then_some(())
    });
    daemon.end();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
}
