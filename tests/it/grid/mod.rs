//! Proxies for machines, against certificates that `openssl` makes and what it thinks of ours.

pub mod fixtures;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use vcycle::act::proxy::{self, Kind, Pem, ProxyError, Wanted};
use vcycle::model::{MachinetypeName, Seconds, Secret, Timestamp};

use crate::daemon::factory::until;
use fixtures::{GRID, Grid, SUBJECT};

/// The present, and an hour for the machine.
fn wanted(kind: Kind) -> Wanted {
    // The certificates are made first, or they would not be valid yet.
    std::sync::LazyLock::force(&GRID);
    let now = Timestamp::from_system_time(std::time::SystemTime::now());
    Wanted {
        kind,
        machinetype: MachinetypeName::new("atlas-1").unwrap(),
        now,
        until: now + Seconds::new(3600),
    }
}

fn make((cert, key): (&str, &str), wanted: &Wanted) -> Result<Secret<String>, ProxyError> {
    let pem = |name: &str| Pem {
        path: GRID.path(name),
        bytes: Secret::new(fs::read(GRID.path(name)).unwrap()),
    };
    proxy::make(&pem(cert), &pem(key), wanted)
}

/// Makes a proxy and writes it to a file of its own.
fn made(name: &str, files: (&str, &str), wanted: &Wanted) -> (PathBuf, String) {
    let text = make(files, wanted).unwrap().reveal().clone();
    let path = GRID.path(name);
    fs::write(&path, &text).unwrap();
    (path, text)
}

/// What `openssl x509 -text` says of the first certificate in a file.
fn described(path: &Path) -> String {
    Grid::openssl(&["x509", "-noout", "-text", "-in", path.to_str().unwrap()])
}

fn verify(path: &Path, options: &[&str]) -> Output {
    let path = path.to_str().unwrap();
    let ca = GRID.path("ca.pem");
    Command::new("openssl")
        .args(["verify", "-untrusted", path, "-CAfile"])
        .arg(ca)
        .args(options)
        .arg(path)
        .output()
        .unwrap()
}

#[test]
fn openssl_finds_in_a_proxy_what_it_has_to_have() {
    let wanted = wanted(Kind::Rfc3820);
    let (path, text) = made("made.pem", ("user.pem", "user.key"), &wanted);
    let marks: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("-----BEGIN"))
        .collect();
    assert_eq!(
        marks,
        [
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN RSA PRIVATE KEY-----",
            "-----BEGIN CERTIFICATE-----"
        ]
    );
    let issuing = fs::read_to_string(GRID.path("user.pem")).unwrap();
    assert!(text.ends_with(&issuing), "the issuing chain comes last");
    let description = described(&path);
    for expected in [
        format!("Subject: {SUBJECT}, CN = atlas-1\n"),
        format!("Issuer: {SUBJECT}\n"),
        "Public-Key: (2048 bit)".to_owned(),
        "Signature Algorithm: sha256WithRSAEncryption".to_owned(),
        "Proxy Certificate Information: critical".to_owned(),
        "Path Length Constraint: infinite".to_owned(),
        "Policy Language: 1.3.6.1.4.1.3536.1.1.1.9".to_owned(),
        "Digital Signature, Key Encipherment".to_owned(),
    ] {
        assert!(
            description.contains(&expected),
            "{expected}:\n{description}"
        );
    }
    let path = path.to_str().unwrap();
    let dates = Grid::openssl(&[
        "x509",
        "-noout",
        "-startdate",
        "-enddate",
        "-dateopt",
        "iso_8601",
        "-in",
        path,
    ]);
    let shown = |at: Timestamp| at.to_rfc3339().replace('T', " ");
    let (from, until) = (wanted.now.earlier(Seconds::new(300)), wanted.until);
    let expected = format!("notBefore={}\nnotAfter={}\n", shown(from), shown(until));
    assert_eq!(dates, expected);
    let of_cert = Grid::openssl(&["x509", "-noout", "-pubkey", "-in", path]);
    let of_key = Grid::openssl(&["pkey", "-pubout", "-in", path]);
    assert_eq!(of_cert, of_key, "its key is its own");
    let again = make(("user.pem", "user.key"), &wanted).unwrap();
    assert_ne!(*again.reveal(), text, "each machine has a key of its own");
}

#[test]
fn openssl_verifies_proxies_of_users_of_proxies_and_of_other_keys() {
    let wanted = wanted(Kind::Rfc3820);
    for (name, files) in [
        ("user", ("user.pem", "user.key")),
        ("one-file", ("both.pem", "both.pem")),
        ("of-proxy", ("proxy.pem", "proxy.pem")),
        ("of-limited", ("limited.pem", "limited.pem")),
        ("of-ours", ("ours.pem", "ours.pem")),
        ("elliptic", ("ec.pem", "ec.key")),
    ] {
        if name == "of-ours" {
            made("ours.pem", ("proxy.pem", "proxy.pem"), &wanted);
        }
        let (path, _) = made(&format!("made-{name}.pem"), files, &wanted);
        let good = verify(&path, &["-allow_proxy_certs"]);
        assert!(good.status.success(), "{name}: {good:?}");
        // It is a proxy to OpenSSL, and not just a certificate.
        let bad = verify(&path, &[]);
        let said = String::from_utf8_lossy(&bad.stderr).into_owned();
        assert!(said.contains("proxy certificates not allowed"), "{said}");
    }
}

#[test]
fn a_legacy_proxy_has_a_name_and_nothing_else() {
    let wanted = wanted(Kind::Legacy);
    let (path, _) = made("made-legacy.pem", ("user.pem", "user.key"), &wanted);
    let description = described(&path);
    let subject = format!("Subject: {SUBJECT}, CN = limited proxy\n");
    assert!(description.contains(&subject), "{description}");
    assert!(!description.contains("Proxy Certificate"), "{description}");
    made(
        "made-legacy-2.pem",
        ("made-legacy.pem", "made-legacy.pem"),
        &wanted,
    );
    let twice = described(&GRID.path("made-legacy-2.pem"));
    let subject = format!("Subject: {SUBJECT}, CN = limited proxy, CN = limited proxy\n");
    assert!(twice.contains(&subject), "{twice}");
}

/// `openssl s_server`, ended with the test.
struct TlsServer(Child);

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_asks_for_certificates_takes_a_proxy_in_its_handshake() {
    let (path, _) = made(
        "made-tls.pem",
        ("proxy.pem", "proxy.pem"),
        &wanted(Kind::Rfc3820),
    );
    let port = crate::daemon::factory::free_port().to_string();
    let file = |name: &str| GRID.path(name).display().to_string();
    let (ca, host) = (file("ca.pem"), file("host.pem"));
    let server = Command::new("openssl")
        .args(["s_server", "-accept", &port, "-cert", &host, "-key", &host])
        .args(["-Verify", "20", "-verify_return_error", "-CAfile", &ca])
        .args(["-allow_proxy_certs", "-rev"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _server = TlsServer(server);
    until("the server listens", || {
        TcpListener::bind(format!("127.0.0.1:{port}")).err()
    });
    let connect = |client: &[&str]| {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
            .args(["-CAfile", &ca, "-verify_return_error", "-ign_eof"])
            .args(client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut client = command.spawn().unwrap();
        // The server says each line backwards, and ends after one that begins with "CLOSE".
        let mut input = client.stdin.take().unwrap();
        // A server that has refused the client may have closed already.
        let _ = std::io::Write::write_all(&mut input, b"ecycv\nCLOSE\n");
        let output = client.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let path = path.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let said = connect(&[version, "-cert", path, "-key", path, "-cert_chain", path]);
        assert!(said.contains("vcyce"), "{version}: {said}");
        let said = connect(&[version]);
        assert!(!said.contains("vcyce"), "{version}: {said}");
    }
}

#[test]
fn what_nobody_would_accept_is_not_made_and_the_file_is_named() {
    let (rfc, legacy) = (Kind::Rfc3820, Kind::Legacy);
    for (cert, key, kind, file, expected) in [
        (
            "user.pem",
            "user-encrypted.key",
            rfc,
            "user-encrypted.key",
            "the key in it is encrypted",
        ),
        (
            "user.pem",
            "user-encrypted-old.key",
            rfc,
            "user-encrypted-old.key",
            "the key in it is encrypted",
        ),
        (
            "user.pem",
            "user.pem",
            rfc,
            "user.pem",
            "no private key in PEM form",
        ),
        (
            "user.pem",
            "broken.key",
            rfc,
            "broken.key",
            "the key in it cannot be read",
        ),
        (
            "user.pem",
            "ca.key",
            rfc,
            "ca.key",
            "does not belong to the first certificate",
        ),
        (
            "user.key",
            "user.key",
            rfc,
            "user.key",
            "no certificate in PEM form",
        ),
        (
            "broken.pem",
            "user.key",
            rfc,
            "broken.pem",
            "cannot be read",
        ),
        ("ca.pem", "ca.key", rfc, "ca.pem", "a CA has no proxies"),
        (
            "encipher.pem",
            "user.key",
            rfc,
            "encipher.pem",
            "has no digitalSignature",
        ),
        (
            "pathlen0.pem",
            "pathlen0.pem",
            rfc,
            "pathlen0.pem",
            "allows no further proxy",
        ),
        (
            "proxy.pem",
            "proxy.pem",
            legacy,
            "proxy.pem",
            "set legacy_proxy = False",
        ),
        (
            "legacy.pem",
            "legacy.pem",
            rfc,
            "legacy.pem",
            "set legacy_proxy = True",
        ),
    ] {
        let problem = make((cert, key), &wanted(kind)).unwrap_err().to_string();
        let file = GRID.path(file).display().to_string();
        assert!(
            problem.contains(&file) && problem.contains(expected) && !problem.contains('\n'),
            "{cert} {key}: {problem}"
        );
    }
}

#[test]
fn a_certificate_that_ends_before_the_machine_makes_no_proxy() {
    let mut wanted = wanted(Kind::Rfc3820);
    let files = ("user.pem", "user.key");
    let path = GRID.path("user.pem");
    let cert = openssl::x509::X509::from_pem(&fs::read(&path).unwrap()).unwrap();
    let epoch = openssl::asn1::Asn1Time::from_unix(0).unwrap();
    let left = epoch.diff(cert.not_after()).unwrap();
    let end = i64::from(left.days) * 86_400 + i64::from(left.secs);
    let end = Timestamp::from_unix(u64::try_from(end).unwrap());
    wanted.until = end;
    make(files, &wanted).unwrap();
    wanted.until = end + Seconds::new(1);
    let problem = make(files, &wanted).unwrap_err().to_string();
    let expected = format!(
        "cannot make a proxy from user_data_proxy_cert {}: the certificate of {} expires at {}, \
         before the shutdowntime of the machine; renew it, or lower max_wallclock_seconds",
        path.display(),
        SUBJECT.replace(" = ", "="),
        end.to_rfc3339()
    );
    assert_eq!(problem, expected);
    // The same holds for what issued it.
    wanted.until = Timestamp::from_unix(wanted.now.unix() + 3600);
    let problem = make(("of-short.pem", "of-short.pem"), &wanted).unwrap_err();
    assert!(problem.to_string().contains("expires at "), "{problem}");
    wanted.now = Timestamp::from_unix(1_000_000_000);
    let problem = make(files, &wanted).unwrap_err().to_string();
    assert!(problem.contains("is not valid before "), "{problem}");
}
