//! What the page asks for, without the page.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::factory::{Factory, SPACE, until};

/// An answer: its head, and the connection to read on from.
fn ask(factory: &Factory, path: &str) -> (String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(("127.0.0.1", factory.admin)).unwrap();
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    (head, reader)
}

/// The JSON of an answer, after its status.
fn json(factory: &Factory, path: &str) -> (String, Value) {
    let (head, mut reader) = ask(factory, path);
    let mut body = String::new();
    std::io::Read::read_to_string(&mut reader, &mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, serde_json::from_str(&body).unwrap())
}

/// The next message of a stream.
fn next(reader: &mut impl BufRead) -> Value {
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[test]
fn the_stream_tells_what_changes_and_never_names_machines() {
    let factory = Factory::with_space("max_machines = 3", "");
    let daemon = factory.start();
    let (head, mut stream) = ask(&factory, "/v1/stream");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let first = next(&mut stream);
    assert!(
        first["page"].is_string() && first["config"].is_object(),
        "{first}"
    );
    assert_eq!(first["daemon"]["process"], daemon.child.id());
    let mut events = Vec::new();
    let full = until("three machines run", || {
        let message = next(&mut stream);
        assert_eq!(message["page"], Value::Null, "only once: {message}");
        let new = message["events"].as_array().into_iter().flatten();
        events.extend(new.map(|event| event["text"].as_str().unwrap().to_owned()));
        let space = &message["spaces"][SPACE];
        (space["phases"]["running"] == 3).then(|| space.clone())
    });
    let name = factory.machines()[0].name().to_owned();
    assert!(!full.to_string().contains("vcycle-atlas-"), "{full}");
    assert_eq!(full["machinetypes"]["atlas"]["share"], 1.0);
    assert!(events.iter().any(|text| text.contains(&name)), "{events:?}");

    let (status, page) = json(
        &factory,
        &format!("/v1/machines?space={SPACE}&limit=2&offset=2"),
    );
    assert_eq!((status.as_str(), page["found"].as_u64()), ("200", Some(3)));
    assert_eq!(page["machines"].as_array().unwrap().len(), 1);
    let (_, history) = json(&factory, &format!("/v1/history?space={SPACE}"));
    let samples = history["samples"].as_array().unwrap();
    let created: u64 = samples
        .iter()
        .map(|one| one["created"].as_u64().unwrap())
        .sum();
    assert_eq!(created, 3, "{history}");
    let (_, story) = json(&factory, &format!("/v1/machines/{name}/story"));
    assert_eq!(story["events"][0]["what"]["event"], "asked_for");
    for wrong in [
        "?space=other.org",
        "/vcycle-atlas-0000000000/story",
        "?space=",
    ] {
        let (status, answer) = json(&factory, &format!("/v1/machines{wrong}"));
        assert_eq!(status, "404", "{wrong}: {answer}");
    }
    assert_eq!(json(&factory, "/v1/machines?sort=up").0, "400");
    assert_eq!(
        json(&factory, "/v1/history?space=other.org").1["samples"],
        Value::Array(Vec::new())
    );
    // The end of the daemon is the end of the stream, and holds up nothing.
    daemon.end();
}

#[test]
fn the_page_may_load_nothing_from_elsewhere() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    for path in ["/", "/dashboard/app.js", "/dashboard/style.css"] {
        let (head, _) = ask(&factory, path);
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        let policies = head.matches("content-security-policy: ").count();
        assert_eq!(policies, 1, "{head}");
        for part in [
            "default-src 'none'; script-src 'self'",
            "require-trusted-types-for 'script'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
        ] {
            assert!(head.contains(part), "{path}: {head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
    }
    daemon.end();
}
