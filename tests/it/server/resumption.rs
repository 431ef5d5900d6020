//! TLS sessions that are resumed, by `openssl s_client`: who the client then is, and for how long.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use super::*;
use crate::pki::Proxy;

/// Without tickets, a session of TLS 1.2 is kept by the server.
const VERSIONS: [&str; 3] = ["-tls1_2", "-tls1_2 -no_ticket", "-tls1_3"];

/// A client with a certificate, or without, that keeps its session in a file.
struct SessionClient<'a> {
    world: &'a World,
    party: Option<Party>,
    version: &'static str,
    dir: tempfile::TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    Full,
    Resumed,
}
use Handshake::{Full, Resumed};

impl<'a> SessionClient<'a> {
    fn new(world: &'a World, party: Option<&Party>, version: &'static str) -> Self {
        Self {
            world,
            party: party.cloned(),
            version,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One connection with one request. It offers the session of the one before, if there was one.
    fn ask(&self, request: &str) -> (Handshake, Answer) {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-ign_eof", "-connect"]);
        command.arg(self.world.address.to_string());
        command.args(self.version.split(' '));
        if let Some(party) = &self.party {
            let only = Party {
                chain: Vec::new(),
                ..party.clone()
            };
            let own = only.write(&self.file("own.pem"));
            command.arg("-cert").arg(&own).arg("-key").arg(&own);
            let pem: Vec<_> = party.chain.iter().flat_map(|c| c.to_pem()).collect();
            if !pem.is_empty() {
                fs::write(self.file("chain.pem"), pem.concat()).unwrap();
                command.arg("-cert_chain").arg(self.file("chain.pem"));
            }
        }
        let session = self.file("session");
        if session.exists() {
            command.arg("-sess_in").arg(&session);
        }
        command.arg("-sess_out").arg(&session);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = piped.spawn().unwrap();
        let mut input = running.stdin.take().unwrap();
        input.write_all(request.as_bytes()).unwrap();
        let done = running.wait_with_output().unwrap();
        drop(input);
        let said = String::from_utf8_lossy(&done.stdout);
        let how = match (said.contains("\nReused, TLS"), said.contains("\nNew, TLS")) {
            (true, false) => Resumed,
            (false, true) => Full,
            _ => panic!("{said} {}", String::from_utf8_lossy(&done.stderr)),
        };
        let begins = said.find("HTTP/1.1 ").expect(&said);
        let mut answer = Answer::read(&mut &said.as_bytes()[begins..]);
        // What comes then it says itself.
        let length = answer.header("Content-Length").unwrap();
        answer.body.truncate(length.parse().unwrap());
        (how, answer)
    }

    fn put(&self, file: &str) -> (Handshake, u16, String) {
        let head = request("PUT", &joboutputs(file), "Content-Length: 2\r\n");
        let (how, answer) = self.ask(&(head + "ok"));
        (how, answer.status, answer.body)
    }

    fn status(&self, file: &str) -> (Handshake, u16) {
        let (how, status, _) = self.put(file);
        (how, status)
    }

    /// The next connection begins from nothing.
    fn forget(&self) {
        fs::remove_file(self.file("session")).unwrap();
    }
}

/// Sets the clock of the server to `offset` seconds from the time of the certificates.
fn set_clock(world: &World, offset: u64) {
    let now = Timestamp::from_system_time(SystemTime::now());
    world.clock.set(Timestamp::from_unix(now.unix() + offset));
}

fn key_path() -> String {
    format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs")
}

#[test]
fn a_resumed_session_is_of_who_began_it() {
    let world = World::new();
    let proxy = |kind| Some(PKI.user.proxy(kind, VALID));
    for version in VERSIONS {
        for (who, party) in [
            ("user", Some(PKI.user.clone())),
            ("proxy", proxy(Proxy::Rfc3820Limited)),
            ("legacy", proxy(Proxy::Legacy)),
        ] {
            let client = SessionClient::new(&world, party.as_ref(), version);
            let file = format!("{who}{version}").replace(' ', "");
            assert_eq!(client.status(&file), (Full, 201), "{file}");
            for _ in 0..3 {
                assert_eq!(client.status(&file), (Resumed, 200), "{file}");
            }
        }
        let nobody = SessionClient::new(&world, None, version);
        for expected in [Full, Resumed, Resumed] {
            let (how, answer) = nobody.ask(&request("GET", &key_path(), ""));
            assert_eq!(
                (how, answer.status, &*answer.body),
                (expected, 200, "86400")
            );
        }
        let (how, status, reason) = nobody.put("x");
        assert_eq!((how, status), (Resumed, 403), "{version}");
        assert!(reason.contains("needs a client certificate"), "{reason}");
        let other = PKI.ca.issue(&pki::name(&SUBJECT[..3]), For::Clients, VALID);
        let other = SessionClient::new(&world, Some(&other), version);
        for expected in [Full, Resumed] {
            let (how, status, reason) = other.put("x");
            assert_eq!((how, status), (expected, 403), "{version}");
            assert!(reason.contains("takes files from"), "{reason}");
        }
    }
}

#[test]
fn a_certificate_that_was_refused_stays_refused() {
    let world = World::new();
    let stranger = pki::authority("Other CA").issue(&pki::name(&SUBJECT), For::Clients, VALID);
    for version in VERSIONS {
        let client = SessionClient::new(&world, Some(&stranger), version);
        assert_eq!(client.status("x"), (Full, 403));
        let (how, status, reason) = client.put("x");
        assert_eq!((how, status), (Resumed, 403), "{version}");
        assert!(reason.contains("was refused when this"), "{reason}");
        let (how, answer) = client.ask(&request("GET", &key_path(), ""));
        assert_eq!((how, answer.status), (Resumed, 200), "{version}");
    }
    assert!(!world.output("x").exists());
}

#[test]
fn a_new_host_certificate_ends_no_session() {
    let world = World::new();
    for version in VERSIONS {
        let client = SessionClient::new(&world, Some(&PKI.user), version);
        let file = format!("x{version}").replace(' ', "");
        assert_eq!(client.status(&file), (Full, 201));
        for _ in 0..2 {
            let name = pki::name(&[("CN", "localhost")]);
            let renewed = PKI.ca.issue(&name, For::Servers, VALID);
            renewed.write(&world.dir.path().join("host.pem"));
            world.reload();
            let shown = world.connect(None).ssl().peer_certificate().unwrap();
            assert_eq!(shown.to_der().unwrap(), renewed.cert.to_der().unwrap());
            assert_eq!(client.status(&file), (Resumed, 200), "{version}");
        }
    }
}

#[test]
fn who_has_been_revoked_is_refused_and_all_others_begin_anew() {
    let world = World::new();
    let revoked = PKI.ca.issue(&pki::name(&SUBJECT), For::Clients, VALID);
    PKI.ca.publish_crl(&world.ca_path(), &[], 3600);
    world.reload();
    let clients = VERSIONS.map(|version| {
        let proxy = revoked.proxy(Proxy::Rfc3820, VALID);
        let client = SessionClient::new(&world, Some(&proxy), version);
        client.status("x");
        assert_eq!(client.status("x"), (Resumed, 200));
        client
    });
    let other = SessionClient::new(&world, Some(&PKI.user), "-tls1_3");
    assert_eq!(other.status("x"), (Full, 200));
    PKI.ca.publish_crl(&world.ca_path(), &[&revoked], 3600);
    world.reload();
    for client in &clients {
        let (how, status, reason) = client.put("x");
        assert_eq!((how, status), (Full, 403), "{}", client.version);
        assert!(reason.contains("certificate revoked"), "{reason}");
        assert_eq!(client.status("x"), (Resumed, 403), "{}", client.version);
    }
    assert_eq!(other.status("x"), (Full, 200));
    assert_eq!(other.status("x"), (Resumed, 200));
}

#[test]
fn a_ca_that_is_trusted_no_longer_ends_the_sessions() {
    let world = World::new();
    let ca = pki::authority("Leaving CA");
    ca.install(&world.ca_path());
    world.reload();
    let user = ca.issue(&pki::name(&SUBJECT), For::Clients, VALID);
    let client = SessionClient::new(&world, Some(&user), "-tls1_3");
    assert_eq!(client.status("x"), (Full, 201));
    assert_eq!(client.status("x"), (Resumed, 200));
    ca.uninstall(&world.ca_path());
    world.reload();
    assert_eq!(client.status("x"), (Full, 403));
}

#[test]
fn a_session_ends_with_the_first_of_its_certificates_or_crls() {
    let hours = |hours: i64| (-300, hours * 3600);
    let short = PKI.ca.issue(&pki::name(&SUBJECT), For::Clients, hours(2));
    let cases = [
        ("user", short.clone(), 2),
        ("proxy", PKI.user.proxy(Proxy::Rfc3820, hours(3)), 3),
        (
            "user before proxy",
            short.proxy(Proxy::Rfc3820, hours(3)),
            2,
        ),
        (
            "proxy before its proxy",
            PKI.user
                .proxy(Proxy::Rfc3820, hours(3))
                .proxy(Proxy::Rfc3820, hours(9)),
            3,
        ),
        (
            "legacy before its proxy",
            PKI.user
                .proxy(Proxy::Legacy, hours(4))
                .proxy(Proxy::Legacy, hours(5)),
            4,
        ),
        ("CRL", PKI.user.proxy(Proxy::Rfc3820, hours(8)), 6),
    ];
    for (what, party, end) in cases {
        let world = World::new();
        if what == "CRL" {
            PKI.ca.publish_crl(&world.ca_path(), &[], end * 3600);
            world.reload();
        }
        for version in VERSIONS {
            set_clock(&world, 0);
            let client = SessionClient::new(&world, Some(&party), version);
            let file = format!("x{version}").replace(' ', "");
            assert_eq!(client.status(&file), (Full, 201), "{what}");
            let end = u64::try_from(end).unwrap() * 3600;
            set_clock(&world, end - 60);
            assert_eq!(client.status(&file), (Resumed, 200), "{what}");
            set_clock(&world, end + 60);
            let (how, status, reason) = client.put(&file);
            assert_eq!((how, status), (Resumed, 403), "{what}");
            assert!(reason.contains("has expired"), "{what}: {reason}");
            // OpenSSL goes by the time of the host, to which all this is valid.
            client.forget();
            assert_eq!(client.status(&file), (Full, 200), "{what}");
        }
    }
}

/// With TLS 1.2 curl asks for no ticket: the session has to be with the server.
#[test]
fn curl_resumes_within_one_command() {
    let world = World::new();
    let user = PKI.user.write(&world.dir.path().join("user.pem"));
    fs::write(world.dir.path().join("heartbeat"), "alive").unwrap();
    let url = |file: &str| {
        let path = joboutputs(file);
        format!("https://localhost:{}{path}", world.address.port())
    };
    let (first, second) = (url("first"), url("second"));
    let args = |version| {
        let upload = ["--upload-file", "heartbeat"];
        let close = ["--verbose", "--http1.1", "--header", "Connection: close"];
        let version = match version {
            "--tlsv1.2" => ["--tls-max", "1.2"],
            other => [other, "--verbose"],
        };
        [
            &close[..],
            &version,
            &upload,
            &[first.as_str()],
            &upload,
            &[second.as_str()],
        ]
        .concat()
    };
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let Some(said) = super::curl::curl(&world, Some(Path::new(&user)), &args(version)) else {
            return;
        };
        assert_eq!(said.matches("Connected to ").count(), 2, "{said}");
        // Who resumes is not asked again.
        assert_eq!(said.matches("Request CERT").count(), 1, "{said}");
        assert!(world.output("second").exists());
    }
}
