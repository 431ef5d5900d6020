//! What certificates do: who may write, what is revoked, what the server itself shows.

use std::path::Path;

use super::*;
use crate::pki::{EXPIRED, Proxy};

#[test]
fn the_owner_and_all_proxies_of_the_owner_write() {
    let world = World::new();
    let proxy = |kind| PKI.user.proxy(kind, VALID);
    let parties = [
        ("user", PKI.user.clone()),
        ("proxy", proxy(Proxy::Rfc3820)),
        ("limited", proxy(Proxy::Rfc3820Limited)),
        (
            "proxy-of-proxy",
            proxy(Proxy::Rfc3820).proxy(Proxy::Rfc3820Limited, VALID),
        ),
        ("legacy", proxy(Proxy::Legacy)),
        ("legacy-limited", proxy(Proxy::LegacyLimited)),
        (
            "legacy-of-legacy",
            proxy(Proxy::Legacy).proxy(Proxy::Legacy, VALID),
        ),
    ];
    for (who, party) in parties {
        let answer = world.put(Some(&party), who, "written");
        assert_eq!(answer.status, 201, "{who}: {answer:?}");
        let answer = world.put(Some(&party), who, "again");
        assert_eq!(answer.status, 200, "{who}: {answer:?}");
        assert_eq!(fs::read_to_string(world.output(who)).unwrap(), "again");
        let read = world.raw(Some(&party), &request("GET", &joboutputs(who), ""));
        assert_eq!((read.status, &*read.body), (200, "again"), "{who}");
    }
    let mut old = world.connect_by(Some(&PKI.user), SslVersion::TLS1_2);
    let head = request("PUT", &joboutputs("tls-1.2"), "Content-Length: 1\r\n");
    old.write_all((head + "1").as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut old).status, 201);
    let listing = world.raw(Some(&PKI.user), &request("GET", &joboutputs(""), ""));
    assert!(listing.body.contains("href=\"tls-1.2\""), "{listing:?}");
}

#[test]
fn nobody_else_writes_and_is_told_why() {
    let world = World::new();
    let stranger = pki::authority("Other CA");
    // The trusted CA's name with a key of one's own.
    let impostor = pki::authority("Test CA");
    let issue = |subject: &[(&str, &str)]| PKI.ca.issue(&pki::name(subject), For::Clients, VALID);
    let longer = [&SUBJECT[..], &[("CN", "proxy")]].concat();
    let cases: [(&str, Option<Party>, &str); 15] = [
        ("nobody", None, "needs a client certificate"),
        (
            "another CA",
            Some(stranger.issue(&pki::name(&SUBJECT), For::Clients, VALID)),
            "certificate of /DC=org/DC=example/O=Users/CN=The VM: unable to get local issuer certificate",
        ),
        (
            "a forged signature",
            Some(impostor.issue(&pki::name(&SUBJECT), For::Clients, VALID)),
            "signature failure",
        ),
        (
            "an expired certificate",
            Some(PKI.ca.issue(&pki::name(&SUBJECT), For::Clients, EXPIRED)),
            "certificate has expired",
        ),
        (
            "an expired proxy",
            Some(PKI.user.proxy(Proxy::Rfc3820, EXPIRED)),
            "/CN=1234567: certificate has expired",
        ),
        (
            "an expired legacy proxy",
            Some(PKI.user.proxy(Proxy::Legacy, EXPIRED)),
            "certificate has expired",
        ),
        (
            "a shorter name",
            Some(issue(&SUBJECT[..3])),
            "takes files from",
        ),
        ("a longer name", Some(issue(&longer)), "takes files from"),
        (
            "another case",
            Some(issue(&[&SUBJECT[..3], &[("CN", "the vm")]].concat())),
            "takes files from",
        ),
        (
            "one value for two",
            Some(issue(&[
                ("DC", "org"),
                ("DC", "example"),
                ("O", "Users/CN=The VM"),
            ])),
            "takes files from",
        ),
        (
            "a server's certificate",
            Some(PKI.ca.issue(&pki::name(&SUBJECT), For::Servers, VALID)),
            "certificate purpose",
        ),
        (
            "a legacy proxy of a server's certificate",
            Some(
                PKI.ca
                    .issue(&pki::name(&SUBJECT), For::Servers, VALID)
                    .proxy(Proxy::Legacy, VALID),
            ),
            "not meant for clients",
        ),
        (
            "an independent proxy",
            Some(PKI.user.proxy(Proxy::Rfc3820Independent, VALID)),
            "does not hand on the rights",
        ),
        (
            "a mix of proxies",
            Some(
                PKI.user
                    .proxy(Proxy::Rfc3820, VALID)
                    .proxy(Proxy::Legacy, VALID),
            ),
            "mixes legacy and RFC 3820",
        ),
        (
            "a user who plays CA",
            Some(PKI.user.proxy(Proxy::Forged, VALID)),
            "invalid CA",
        ),
    ];
    for (who, party, reason) in cases {
        let answer = world.put(party.as_ref(), "x", "content");
        assert_eq!(answer.status, 403, "{who}: {answer:?}");
        assert!(answer.body.contains(reason), "{who}: {answer:?}");
        let read = world.raw(party.as_ref(), &request("GET", &joboutputs("x"), ""));
        assert_eq!(read.status, 403, "{who}: {read:?}");
        // Reading features asks for no certificate, so a bad one does not matter.
        let key = format!("/machines/{MACHINE}/jobfeatures/allocated_cpu");
        let read = world.raw(party.as_ref(), &request("GET", &key, ""));
        assert_eq!(read.status, 200, "{who}: {read:?}");
    }
    assert!(!world.output("x").exists());
}

#[test]
fn a_proxy_that_a_ca_made_is_not_the_ca() {
    let world = World::new();
    let name = MachineName::new("vcycle-c-abcdefghij").unwrap();
    let dn = "/DC=org/DC=example/CN=Test CA";
    let new = machine(name.as_str(), "c", Some(dn));
    world.store.create_machine(&new).unwrap();
    for kind in [Proxy::Rfc3820, Proxy::Legacy] {
        let path = format!("/machines/{name}/joboutputs/x");
        let head = request("PUT", &path, "Content-Length: 0\r\n");
        let answer = world.raw(Some(&PKI.ca.proxy(kind, VALID)), &head);
        assert_eq!(answer.status, 403, "{kind:?}: {answer:?}");
    }
}

#[test]
fn a_revoked_certificate_and_its_proxies_are_refused_from_the_next_reload_on() {
    let world = World::new();
    let user = PKI.ca.issue(&pki::name(&SUBJECT), For::Clients, VALID);
    let parties = [
        user.clone(),
        user.proxy(Proxy::Rfc3820, VALID),
        user.proxy(Proxy::Legacy, VALID),
    ];
    let all = |expected: u16, reason: &str| {
        for party in &parties {
            let answer = world.put(Some(party), "x", "");
            assert_eq!(answer.status, expected, "{answer:?}");
            assert!(answer.body.contains(reason), "{answer:?}");
        }
    };
    PKI.ca.publish_crl(&world.ca_path(), &[], 3600);
    world.reload();
    assert_eq!(world.put(Some(&user), "x", "").status, 201);
    all(200, "");
    PKI.ca.publish_crl(&world.ca_path(), &[&user], 3600);
    world.reload();
    all(403, "certificate revoked");
    assert_eq!(world.put(Some(&PKI.user), "x", "").status, 200);
    PKI.ca.publish_crl(&world.ca_path(), &[], -3600);
    world.reload();
    all(403, "CRL has expired");
}

#[test]
fn the_crl_of_another_ca_locks_nobody_out() {
    let world = World::new();
    let other = pki::authority("Other CA");
    other.install(&world.ca_path());
    other.publish_crl(&world.ca_path(), &[], -3600);
    world.reload();
    assert_eq!(world.put(Some(&PKI.user), "x", "").status, 201);
}

#[test]
fn a_new_host_certificate_is_used_and_a_broken_one_is_not() {
    let world = World::new();
    let shown = |world: &World| {
        let stream = world.connect(None);
        stream.ssl().peer_certificate().unwrap().to_der().unwrap()
    };
    let before = world.connect(None);
    let renewed = PKI
        .ca
        .issue(&pki::name(&[("CN", "localhost")]), For::Servers, VALID);
    let path = world.dir.path().join("host.pem");
    renewed.write(&path);
    world.reload();
    let expected = renewed.cert.to_der().unwrap();
    assert_eq!(shown(&world), expected);
    fs::write(&path, "no certificate").unwrap();
    world.reload();
    assert_eq!(shown(&world), expected);
    // A connection from before goes on.
    let mut before = before;
    before
        .write_all(request("GET", "/", "").as_bytes())
        .unwrap();
    assert_eq!(Answer::read(&mut before).status, 404);
}

#[test]
fn a_broken_host_certificate_keeps_no_crl_from_being_used() {
    let world = World::new();
    let user = PKI.ca.issue(&pki::name(&SUBJECT), For::Clients, VALID);
    assert_eq!(world.put(Some(&user), "x", "").status, 201);
    fs::write(world.dir.path().join("host.pem"), "no certificate").unwrap();
    PKI.ca.publish_crl(&world.ca_path(), &[&user], 3600);
    world.reload();
    let answer = world.put(Some(&user), "x", "");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("certificate revoked"), "{answer:?}");
    assert_eq!(world.put(Some(&PKI.user), "x", "").status, 200);
}

#[test]
fn an_address_in_use_and_a_wrong_key_are_named() {
    let world = World::new();
    let other = PKI.user.write(&world.dir.path().join("other.pem"));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let start = |listen: SocketAddr, cert: &Path, key: &Path| {
        let config = ServerConfig {
            listen: vec![listen],
            http_listen: Vec::new(),
            cert: cert.to_owned(),
            key: key.to_owned(),
            ca_path: world.ca_path(),
            admin_listen: None,
            joboutputs_max_bytes: 1,
            joboutputs_max_bytes_per_machine: 1,
        };
        let starting = Server::start(&config, world.layout().clone(), Clock::system());
        world.runtime.block_on(starting).unwrap_err().to_string()
    };
    let host = world.dir.path().join("host.pem");
    let taken = start(world.address, &host, &host);
    assert!(taken.contains(&world.address.to_string()), "{taken}");
    let mismatch = start(any, &host, &other);
    assert!(mismatch.contains("other.pem"), "{mismatch}");
    let missing = start(any, Path::new("/nonexistent.pem"), &host);
    assert!(
        missing.contains("/nonexistent.pem: No such file"),
        "{missing}"
    );
}
