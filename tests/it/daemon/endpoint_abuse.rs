//! Clients of the admin endpoint that hold on to what they get, and requests that are none.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::endpoint::{get, head_of};
use super::factory::{Daemon, Factory, until};

/// Places that there are for connections.
const PLACES: usize = 64;

/// What a monitoring system waits at most.
const PROBE: Duration = Duration::from_secs(5);

/// A factory without machines whose admin endpoint answers.
fn started() -> (Factory, Daemon, SocketAddr) {
    let factory = Factory::with_space("max_machines = 0", "");
    let daemon = factory.start();
    assert_eq!(get(&factory, "/healthz").status, 200);
    let here = (Ipv4Addr::LOCALHOST, factory.admin).into();
    (factory, daemon, here)
}

/// A connection on which these bytes have been sent.
fn hold(here: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(here).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

const GET_HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const GET_STREAM: &[u8] = b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A page that is open in a browser: its stream, which has begun.
fn open_page(here: SocketAddr) -> BufReader<TcpStream> {
    let mut page = BufReader::new(hold(here, GET_STREAM));
    assert!(next_message(&mut page), "a stream begins");
    page
}

/// Reads to the end of the next message; false when the stream ends before.
fn next_message(page: &mut impl BufRead) -> bool {
    let mut line = String::new();
    while page.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        if line.starts_with("data: ") {
            return true;
        }
        line.clear();
    }
    false
}

/// A client that keeps its connection after an answer.
fn answered(here: SocketAddr) -> TcpStream {
    let mut stream = hold(here, GET_HEALTH);
    let mut answer = [0; 4096];
    assert!(stream.read(&mut answer).unwrap() > 0);
    stream
}

fn probe(factory: &Factory) {
    for path in ["/healthz", "/metrics", "/readyz"] {
        let begun = Instant::now();
        let answer = get(factory, path);
        assert!(matches!(answer.status, 200 | 503), "{path}: {answer:?}");
        let took = begun.elapsed();
        assert!(took < PROBE, "{path} took {took:?}");
    }
}

#[test]
fn neither_open_pages_nor_a_crowd_keep_monitoring_from_its_answers() {
    let (factory, daemon, here) = started();
    let mut pages: Vec<_> = (0..16).map(|_| open_page(here)).collect();
    // What browsers keep beside their streams: more than there are places.
    let mut kept: Vec<_> = (0..PLACES).map(|_| answered(here)).collect();
    probe(&factory);
    // The first of them had to leave, the last has not.
    let mut byte = [0];
    let first = kept.first_mut().unwrap().read(&mut byte);
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    let last = kept.last_mut().unwrap();
    last.write_all(GET_HEALTH).unwrap();
    assert_eq!(last.read(&mut byte).unwrap(), 1);
    drop(kept);

    // Who says nothing, and who begins to say something.
    let crowd: Vec<_> = (0..3 * PLACES)
        .map(|number| hold(here, &GET_HEALTH[..number % 30]))
        .collect();
    for _ in 0..3 {
        probe(&factory);
    }
    // A monitoring system that keeps its connection is one of the last to lose it.
    let mut monitor = answered(here);
    let more: Vec<_> = (0..PLACES / 2).map(|_| hold(here, b"")).collect();
    monitor.write_all(GET_HEALTH).unwrap();
    assert_eq!(monitor.read(&mut byte).unwrap(), 1);
    drop((crowd, more));

    // No page has noticed.
    for page in &mut pages {
        assert!(next_message(page), "a stream goes on");
    }
    daemon.end();
}

/// Waits until a connection is ended by the other side, whatever is sent until then.
fn ended(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it goes on for ever"),
            Err(_) => return begun.elapsed(),
        }
    }
}

/// A client that asks for some megabytes and reads `bytes` of them each second: how long it may.
fn slow_reader(here: SocketAddr, bytes: usize) -> Duration {
    // The dashboard's largest file, over and over.
    let many = b"GET /dashboard/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(600);
    let mut stream = hold(here, b"");
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    stream.write_all(&many).unwrap();
    let begun = Instant::now();
    let mut buffer = vec![0; bytes];
    while begun.elapsed() < Duration::from_secs(100) {
        // How fast somebody reads is real time.
        std::thread::sleep(Duration::from_secs(1));
        // What has come before a reset can still be read.
        let is_reset = stream.take_error().unwrap().is_some();
        let mut is_at_its_end =
            || bytes > 0 && !matches!(stream.read(&mut buffer), Ok(read) if read > 0);
        if is_reset || is_at_its_end() {
            return begun.elapsed();
        }
    }
    panic!("it is waited for after {:?}", begun.elapsed());
}

#[test]
fn who_takes_too_long_is_let_go() {
    let (factory, daemon, here) = started();
    let seconds = |range: std::ops::Range<u64>, took: Duration, what: &str| {
        assert!(range.contains(&took.as_secs()), "{what}: {took:?}");
    };
    std::thread::scope(|all| {
        let silent = all.spawn(|| ended(hold(here, b"")));
        let kept = all.spawn(|| ended(answered(here)));
        let trickle = all.spawn(|| {
            let mut stream = hold(here, b"GET /healthz HTTP/1.1\r\nX: ");
            let begun = Instant::now();
            while stream.write_all(b"x").is_ok() && begun.elapsed() < Duration::from_secs(60) {
                // How fast somebody writes is real time.
                std::thread::sleep(Duration::from_millis(500));
            }
            begun.elapsed()
        });
        let stalled = all.spawn(|| slow_reader(here, 0));
        let crawling = all.spawn(|| slow_reader(here, 100));
        // Meanwhile a page that reads is told of everything.
        let page = all.spawn(|| {
            let (mut page, begun) = (open_page(here), Instant::now());
            while begun.elapsed() < Duration::from_secs(40) {
                assert!(next_message(&mut page), "a stream goes on");
            }
        });
        seconds(19..30, silent.join().unwrap(), "nothing is said");
        seconds(19..30, kept.join().unwrap(), "nothing more is said");
        seconds(19..32, trickle.join().unwrap(), "a head byte by byte");
        seconds(25..75, stalled.join().unwrap(), "nothing is read");
        seconds(25..75, crawling.join().unwrap(), "a hundred bytes a second");
        page.join().unwrap();
    });
    probe(&factory);
    daemon.end();
}

/// Everything that comes for some bytes on one connection.
fn exchange(here: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = hold(here, bytes);
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    // The end may be a reset: not everything that was sent has been read.
    while let Ok(read) = stream.read(&mut buffer)
        && read > 0
    {
        all.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

#[test]
fn what_is_no_request_is_refused_and_nothing_hangs() {
    let (factory, daemon, here) = started();
    let host = "Host: localhost\r\n";
    let ask = |head: &str| exchange(here, head.as_bytes());
    let get = |path: &str, headers: &str| head_of(path, &format!("{host}{headers}"));
    let many: String = (0..150)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect();
    let long = "x".repeat(20_000);
    for (what, request, expected) in [
        (
            "a long header",
            get("/healthz", &format!("X: {long}\r\n")),
            431,
        ),
        ("many headers", get("/healthz", &many), 431),
        ("a long path", get(&format!("/{long}"), ""), 431),
        ("no HTTP", "is anybody there?\r\n\r\n".to_owned(), 400),
        ("a bad version", "GET / HTTP/3.7\r\n\r\n".to_owned(), 400),
        ("a bad header", get("/healthz", "x y: z\r\n"), 400),
        (
            "TLS",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned(),
            400,
        ),
        (
            "no length that can be",
            get("/healthz", "Content-Length: x\r\n"),
            400,
        ),
        (
            "two lengths",
            get(
                "/healthz",
                "Content-Length: 1\r\nTransfer-Encoding: identity\r\n",
            ),
            400,
        ),
        (
            "a body",
            get("/healthz", "Content-Length: 5\r\n") + "body\n",
            413,
        ),
        (
            "a body in chunks",
            get("/healthz", "Transfer-Encoding: chunked\r\n") + "1\r\nx\r\n0\r\n\r\n",
            413,
        ),
        (
            "a body that is announced",
            get("/healthz", "Content-Length: 5\r\nExpect: 100-continue\r\n"),
            413,
        ),
        (
            "another method",
            get("/healthz", "").replacen("GET", "BREW", 1),
            405,
        ),
        (
            "TRACE",
            get("/healthz", "").replacen("GET", "TRACE", 1),
            405,
        ),
        (
            "CONNECT",
            format!("CONNECT localhost:80 HTTP/1.1\r\nConnection: close\r\n{host}\r\n"),
            405,
        ),
        (
            "HTTP/1.0",
            format!("GET /healthz HTTP/1.0\r\n{host}\r\n"),
            200,
        ),
        (
            "small letters",
            get("/healthz", "").replacen("GET", "get", 1),
            405,
        ),
    ] {
        let answer = ask(&request);
        // To say nothing and to end the connection will do for what is no HTTP.
        let fits = match status(&answer) {
            Some(found) => found == expected || (expected == 431 && found == 414),
            None => expected == 400,
        };
        assert!(fits, "{what}: expected {expected}, got {answer:?}");
        assert!(!answer.contains("100 Continue"), "{what}: {answer}");
    }
    // A request within a body is none.
    let inner = String::from_utf8(GET_HEALTH.to_vec()).unwrap();
    let length = format!("{host}Content-Length: {}\r\n", inner.len());
    let answer = exchange(
        here,
        format!("GET /healthz HTTP/1.1\r\n{length}\r\n{inner}").as_bytes(),
    );
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");

    // HEAD is GET without the body, and takes no place of a stream.
    for path in [
        "/",
        "/healthz",
        "/metrics",
        "/v1/status",
        "/v1/history",
        "/none",
    ] {
        let (head, whole) = (get(path, "").replacen("GET", "HEAD", 1), get(path, ""));
        let (head, whole) = (ask(&head), ask(&whole));
        assert_eq!(status(&head), status(&whole), "{path}");
        assert!(
            head.ends_with("\r\n\r\n") && head.contains("content-length: "),
            "{head}"
        );
    }
    for _ in 0..20 {
        let head = get("/v1/stream", "").replacen("GET", "HEAD", 1);
        assert_eq!(status(&ask(&head)), Some(200));
    }
    until("no place is taken", || {
        let mut page = BufReader::new(hold(here, GET_STREAM));
        let mut line = String::new();
        page.read_line(&mut line).unwrap();
        line.contains(" 200 ").then_some(())
    });
    assert!(factory.log_lines("panic").is_empty());
    probe(&factory);
    daemon.end();
}
