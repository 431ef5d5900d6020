//! The same requests to the embedded server and to an Apache with our configuration and CGI
//! program have the same answers. Where they have not, `Differs` says what Apache does and why.

use super::apache::Apache;
use super::*;
use crate::pki::{EXPIRED, Proxy};

const TOKEN: &str = "a-token-of-the-machine";

/// Who asks, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    Owner,
    Token,
    WrongToken,
    Stranger,
    OtherCa,
    Revoked,
    Expired,
    Proxy,
    LegacyProxy,
}

/// What may come back.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Of both.
    Status(u16),
    /// One of two ways to say the same.
    Either(u16, u16),
    /// Of ours, and what Apache does: `None` is that it ends the handshake.
    Differs(u16, Option<u16>),
}

use Expected::{Differs, Either, Status};

struct Case {
    who: Who,
    method: &'static str,
    path: &'static str,
    /// Header lines, and the body after a blank line.
    rest: &'static str,
    expected: Expected,
}

const fn case(
    who: Who,
    method: &'static str,
    path: &'static str,
    rest: &'static str,
    expected: Expected,
) -> Case {
    Case {
        who,
        method,
        path,
        rest,
        expected,
    }
}

const ALIVE: &str = "Content-Length: 5\r\n\r\nalive";
const EMPTY: &str = "Content-Length: 0\r\n\r\n";

/// In order: later cases find what earlier ones have left.
const CASES: &[Case] = &[
    // What anybody reads.
    case(
        Who::Nobody,
        "GET",
        "M/jobfeatures/wall_limit_secs",
        "",
        Status(200),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/wall_limit_secs",
        "",
        Status(200),
    ),
    case(
        Who::Nobody,
        "HEAD",
        "M/jobfeatures/wall_limit_secs",
        "",
        Status(200),
    ),
    case(
        Who::Nobody,
        "GET",
        "M//jobfeatures//wall_limit_secs",
        "",
        Status(200),
    ),
    case(Who::Nobody, "GET", "M/jobfeatures", "", Status(301)),
    case(Who::Nobody, "GET", "M/jobfeatures/", "", Status(200)),
    case(Who::Nobody, "GET", "M/jobfeatures/missing", "", Status(404)),
    case(
        Who::Nobody,
        "GET",
        "M/machinefeatures/hs06",
        "",
        Status(404),
    ),
    case(
        Who::Nobody,
        "GET",
        "/machines/vcycle-x-abcdefghij/jobfeatures/x",
        "",
        Status(404),
    ),
    case(
        Who::Nobody,
        "GET",
        "/heartbeatlists/example.org/a",
        "",
        Status(200),
    ),
    case(
        Who::Nobody,
        "GET",
        "/heartbeatlists/example.org/none",
        "",
        Status(404),
    ),
    case(
        Who::Nobody,
        "PUT",
        "/heartbeatlists/example.org/a",
        ALIVE,
        Status(405),
    ),
    case(
        Who::Owner,
        "PUT",
        "M/jobfeatures/wall_limit_secs",
        ALIVE,
        Status(405),
    ),
    case(
        Who::Owner,
        "POST",
        "M/jobfeatures/wall_limit_secs",
        ALIVE,
        Status(405),
    ),
    case(
        Who::Owner,
        "DELETE",
        "M/jobfeatures/wall_limit_secs",
        EMPTY,
        Status(405),
    ),
    // As VMs were told that Vcycle 03 made.
    case(
        Who::Nobody,
        "GET",
        "S/jobfeatures/wall_limit_secs",
        "",
        Status(200),
    ),
    case(Who::Nobody, "GET", "S/jobfeatures/", "", Status(200)),
    case(Who::Nobody, "GET", "S/jobfeatures", "", Status(301)),
    case(
        Who::Owner,
        "PUT",
        "S/joboutputs/from-03",
        ALIVE,
        Status(201),
    ),
    case(
        Who::Nobody,
        "PUT",
        "S/joboutputs/from-03",
        ALIVE,
        Status(403),
    ),
    case(Who::Owner, "GET", "S/user_data", "", Status(404)),
    // What has no URL.
    case(Who::Owner, "GET", "/", "", Either(404, 403)),
    case(Who::Owner, "GET", "/machines/", "", Status(404)),
    case(Who::Owner, "GET", "M/", "", Status(404)),
    case(Who::Owner, "GET", "M/user_data", "", Status(404)),
    case(
        Who::Owner,
        "GET",
        "M/joboutputs_token_sha256",
        "",
        Status(404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/../created",
        "",
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/%2e%2e/created",
        "",
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/..%2fcreated",
        "",
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/..%252fcreated",
        "",
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/..%5ccreated",
        "",
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/x%00",
        "",
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "GET",
        "M/jobfeatures/link",
        "",
        Either(404, 403),
    ),
    // Who may write.
    case(
        Who::Nobody,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(403),
    ),
    case(
        Who::Stranger,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(403),
    ),
    case(
        Who::OtherCa,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(403),
    ),
    case(
        Who::Revoked,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(403),
    ),
    case(
        Who::WrongToken,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(403),
    ),
    // Apache has its TLS library refuse what no list of CAs could mend.
    case(
        Who::Expired,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Differs(403, None),
    ),
    case(Who::Nobody, "GET", "M/joboutputs/", "", Status(403)),
    case(
        Who::Nobody,
        "GET",
        "M/joboutputs/heartbeat",
        "",
        Status(403),
    ),
    case(Who::Owner, "GET", "M/joboutputs/heartbeat", "", Status(404)),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(201),
    ),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(200),
    ),
    case(
        Who::Token,
        "PUT",
        "M/joboutputs/heartbeat",
        ALIVE,
        Status(200),
    ),
    case(Who::Token, "GET", "M/joboutputs/heartbeat", "", Status(200)),
    case(Who::Owner, "GET", "M/joboutputs/heartbeat", "", Status(200)),
    case(
        Who::Owner,
        "HEAD",
        "M/joboutputs/heartbeat",
        "",
        Status(200),
    ),
    case(Who::Owner, "GET", "M/joboutputs/", "", Status(200)),
    case(Who::Owner, "GET", "M/joboutputs", "", Status(301)),
    case(
        Who::Owner,
        "DELETE",
        "M/joboutputs/heartbeat",
        EMPTY,
        Status(405),
    ),
    case(
        Who::Owner,
        "PUT",
        "CLOSED/joboutputs/heartbeat",
        ALIVE,
        Status(403),
    ),
    case(
        Who::Owner,
        "PUT",
        "/machines/vcycle-x-abcdefghij/joboutputs/x",
        ALIVE,
        Status(404),
    ),
    // OpenSSL 3 knows proxies only where the program asks it to, and Apache does not ask.
    case(
        Who::Proxy,
        "PUT",
        "M/joboutputs/proxy",
        ALIVE,
        Differs(201, None),
    ),
    case(
        Who::LegacyProxy,
        "PUT",
        "M/joboutputs/legacy",
        ALIVE,
        Differs(201, None),
    ),
    // Bodies.
    case(Who::Owner, "PUT", "M/joboutputs/empty", EMPTY, Status(201)),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/continued",
        "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nalive",
        Status(201),
    ),
    // What a CGI program is not told: whether a chunked body ended or broke off.
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/chunked",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Differs(201, Some(411)),
    ),
    case(Who::Owner, "PUT", "M/joboutputs/none", "\r\n", Status(411)),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/part",
        "Content-Range: bytes 0-4/9\r\nContent-Length: 5\r\n\r\nalive",
        Status(400),
    ),
    case(Who::Owner, "PUT", "M/joboutputs/", ALIVE, Status(400)),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/.hidden",
        ALIVE,
        Status(400),
    ),
    case(Who::Owner, "PUT", "M/joboutputs/a%20b", ALIVE, Status(201)),
    case(Who::Owner, "GET", "M/joboutputs/a%20b", "", Status(200)),
    case(Who::Owner, "PUT", "M/joboutputs/a/b", ALIVE, Status(404)),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/..%2fx",
        ALIVE,
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/%252e%252e%252fx",
        ALIVE,
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/a%5Cb",
        ALIVE,
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/a%00b",
        ALIVE,
        Either(400, 404),
    ),
    case(
        Who::Owner,
        "PUT",
        "M/joboutputs/long",
        "Expect: 100-continue\r\nContent-Length: 3000001\r\n\r\n",
        Status(413),
    ),
];

struct Parties {
    stranger: Party,
    other_ca: Party,
    revoked: Party,
    expired: Party,
    proxy: Party,
    legacy: Party,
}

impl Parties {
    fn new() -> Self {
        let name = pki::name(&SUBJECT);
        let issue = |validity| PKI.ca.issue(&name, For::Clients, validity);
        Self {
            stranger: PKI.ca.issue(&pki::name(&SUBJECT[..3]), For::Clients, VALID),
            other_ca: pki::authority("Other CA").issue(&name, For::Clients, VALID),
            revoked: issue(VALID),
            expired: issue(EXPIRED),
            proxy: PKI.user.proxy(Proxy::Rfc3820Limited, VALID),
            legacy: PKI.user.proxy(Proxy::Legacy, VALID),
        }
    }

    fn of(&self, who: Who) -> Option<&Party> {
        match who {
            Who::Nobody | Who::Token | Who::WrongToken => None,
            Who::Owner => Some(&PKI.user),
            Who::Stranger => Some(&self.stranger),
            Who::OtherCa => Some(&self.other_ca),
            Who::Revoked => Some(&self.revoked),
            Who::Expired => Some(&self.expired),
            Who::Proxy => Some(&self.proxy),
            Who::LegacyProxy => Some(&self.legacy),
        }
    }
}

/// A tree with everything that the cases need.
fn tree(parties: &Parties) -> World {
    let world = World::with(apache::prepare, Some(TokenHash::of(TOKEN)));
    PKI.ca
        .publish_crl(&world.ca_path(), &[&parties.revoked], 3600);
    let stale = pki::authority("Stale CA");
    stale.install(&world.ca_path());
    stale.publish_crl(&world.ca_path(), &[], -3600);
    world.reload();
    let lists = world.layout().root().join("heartbeatlists/example.org");
    fs::create_dir_all(&lists).unwrap();
    fs::write(
        lists.join("a"),
        "1700000000 vcycle-a-abcdefghij 192.0.2.1\n",
    )
    .unwrap();
    let name = MachineName::new(MACHINE).unwrap();
    let features = world.layout().published(&name, Published::Jobfeatures);
    std::os::unix::fs::symlink("/etc/passwd", features.join("link")).unwrap();
    world
}

/// The answer to a case, `None` when the handshake or the connection ends without one.
fn ask(world: &World, parties: &Parties, case: &Case, version: &str) -> Option<Answer> {
    let machine = format!("/machines/{MACHINE}/");
    let closed = format!("/machines/{CLOSED}/");
    let path = match case.path.split_once('/') {
        Some(("M", rest)) => machine + rest,
        Some(("S", rest)) => machine.replace("/machines/", "/machines/example.org/") + rest,
        Some(("CLOSED", rest)) => closed + rest,
        Some(_) | None => case.path.to_owned(),
    };
    let authorization = match case.who {
        Who::Token => format!("Authorization: Bearer {TOKEN}\r\n"),
        Who::WrongToken => "Authorization: Bearer another\r\n".to_owned(),
        _ => String::new(),
    };
    let rest = if case.rest.is_empty() {
        "\r\n"
    } else {
        case.rest
    };
    let text = format!(
        "{} {path} {version}\r\nHost: localhost\r\nConnection: close\r\n{authorization}{rest}",
        case.method
    );
    let mut stream = world.try_connect(parties.of(case.who))?;
    let _maybe_refused = stream.write_all(text.as_bytes());
    let mut bytes = Vec::new();
    let _ended = stream.read_to_end(&mut bytes);
    // What comes before the last answer is "100 Continue".
    let text = String::from_utf8(bytes).unwrap();
    let text = text
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&text);
    let mut answer = (!text.is_empty()).then(|| Answer::read(&mut text.as_bytes()))?;
    // Apache tells the length of nothing that comes from a CGI program.
    if answer.header("Transfer-Encoding") == Some("chunked") {
        answer.body = without_chunks(&answer.body);
    }
    Some(answer)
}

fn without_chunks(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let (piece, after) = after.split_at(usize::from_str_radix(length, 16).unwrap());
        whole.push_str(piece);
        rest = after.strip_prefix("\r\n").unwrap();
    }
    whole
}

fn check(world: &World, parties: &Parties, is_apache: bool) {
    let mut wrong = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let answer = ask(world, parties, case, "HTTP/1.1");
        let status = answer.as_ref().map(|answer| answer.status);
        let good = match (case.expected, is_apache) {
            (Status(expected), _) | (Differs(expected, _), false) => status == Some(expected),
            (Either(one, other), _) => status == Some(one) || status == Some(other),
            (Differs(_, apache), true) => status == apache,
        };
        let Case {
            who,
            method,
            path,
            rest,
            ..
        } = case;
        if !good {
            wrong.push(format!(
                "{number}: {who:?} {method} {path} {rest:?}: {answer:?}"
            ));
            continue;
        }
        match (
            *method,
            path.contains("wall_limit"),
            path.ends_with("outputs/heartbeat"),
            status,
        ) {
            ("GET", true, _, Some(200)) => assert_eq!(answer.unwrap().body, "86400"),
            ("GET", _, true, Some(200)) => assert_eq!(answer.unwrap().body, "alive"),
            ("HEAD", ..) => assert_eq!(answer.unwrap().body, ""),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "Apache {is_apache}: {wrong:#?}");
    conditions(world);
    old_clients(world, parties);
    one_connection(world);
    with_curl(world);
    quotas(world);
    let hidden = fs::read_dir(world.output("")).unwrap();
    let hidden = hidden.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(hidden.count(), 0, "nothing is left half-written");
}

fn conditions(world: &World) {
    let get = |rest: &str| {
        let path = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
        world.raw(None, &request("GET", &path, rest))
    };
    let first = get("");
    assert_eq!(first.header("Cache-Control"), Some("no-cache"));
    assert_eq!(first.header("Content-Type"), Some("text/plain"));
    for (condition, name) in [
        ("If-None-Match", "ETag"),
        ("If-Modified-Since", "Last-Modified"),
    ] {
        let value = first.header(name).unwrap();
        let again = get(&format!("{condition}: {value}\r\n"));
        assert_eq!((again.status, &*again.body), (304, ""), "{condition}");
    }
    let moved = world.get(&format!("/machines/{MACHINE}/jobfeatures"));
    let location = moved.header("Location").unwrap();
    assert!(location.ends_with("/jobfeatures/"), "{location}");
    for (directory, names) in [
        ("jobfeatures/", ["wall_limit_secs", "allocated_cpu"]),
        ("joboutputs/", ["heartbeat", "empty"]),
    ] {
        let path = format!("/machines/{MACHINE}/{directory}");
        let listing = world.raw(Some(&PKI.user), &request("GET", &path, ""));
        for name in names {
            let link = format!("href=\"{name}\"");
            assert!(listing.body.contains(&link), "{link}: {listing:?}");
        }
        for hidden in ["link", "..", "user_data"] {
            let link = format!("href=\"{hidden}\"");
            assert!(!listing.body.contains(&link), "{link}: {listing:?}");
        }
    }
}

/// HTTP/1.0, as some small clients still speak it.
fn old_clients(world: &World, parties: &Parties) {
    for (who, method, path, rest, status) in [
        (Who::Nobody, "GET", "M/jobfeatures/wall_limit_secs", "", 200),
        (Who::Owner, "PUT", "M/joboutputs/old", ALIVE, 201),
    ] {
        let answer = ask(
            world,
            parties,
            &case(who, method, path, rest, Status(status)),
            "HTTP/1.0",
        );
        assert_eq!(answer.unwrap().status, status, "{method}");
    }
}

/// Several uploads and reads on one connection.
fn one_connection(world: &World) {
    let mut stream = world.connect(Some(&PKI.user));
    for (number, status) in [(1, "201"), (2, "200"), (3, "200")] {
        let text = format!(
            "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{number}",
            joboutputs("kept-alive")
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut until_empty_line = || {
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                text.push(byte[0]);
            }
            String::from_utf8(text).unwrap()
        };
        let answer = until_empty_line();
        if answer.contains("chunked") {
            assert_eq!(until_empty_line(), "0\r\n\r\n");
        }
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    assert_eq!(fs::read_to_string(world.output("kept-alive")).unwrap(), "3");
}

/// The client of VMs, over both versions of HTTP.
fn with_curl(world: &World) {
    let user = PKI.user.write(&world.dir.path().join("user.pem"));
    fs::write(world.dir.path().join("upload"), "from curl").unwrap();
    let log = "x".repeat(500_000);
    fs::write(world.dir.path().join("upload.log"), &log).unwrap();
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for (file, url, name) in [
            ("upload", "heartbeat", "heartbeat"),
            ("upload.log", "", "upload.log"),
        ] {
            let url = format!(
                "https://localhost:{}{}",
                world.address.port(),
                joboutputs(url)
            );
            let arguments = [version, "--upload-file", file, &url];
            let Some(answer) = curl::curl(world, Some(&user), &arguments) else {
                return;
            };
            let status = answer.strip_prefix(&format!("{number} "));
            assert!(
                matches!(status, Some("200" | "201")),
                "{version} {url}: {answer}"
            );
            let sent = fs::read(world.dir.path().join(file)).unwrap();
            assert!(fs::read(world.output(name)).unwrap() == sent);
        }
    }
}

/// All files of a machine together.
fn quotas(world: &World) {
    let user = Some(&PKI.user);
    assert_eq!(world.put(user, "big", &"x".repeat(2_500_000)).status, 201);
    // Not more than the server reads of a body that it refuses: who sends more may find the connection
    // closed before the answer can be read.
    let more = "x".repeat(1_000_000);
    assert_eq!(world.put(user, "bigger", &more).status, 507);
    assert!(!world.output("bigger").exists());
    assert_eq!(world.put(user, "heartbeat", "alive").status, 200);
}

#[test]
fn the_embedded_server_answers_as_agreed() {
    let parties = Parties::new();
    check(&tree(&parties), &parties, false);
}

#[test]
fn apache_with_our_configuration_and_cgi_program_answers_the_same() {
    let parties = Parties::new();
    let mut world = tree(&parties);
    let Some((apache, address)) = Apache::start(&world) else {
        return;
    };
    world.address = address;
    check(&world, &parties, true);
    drop(apache);
}
