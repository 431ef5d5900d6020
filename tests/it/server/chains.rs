//! Chains of CAs and proxies as there are on the grid: what is trusted, and what is not any more.

use super::*;
use crate::pki::{EXPIRED, Proxy};

fn root(path_length: Option<u32>) -> Party {
    pki::root("Root CA", path_length, VALID)
}

fn user_of(ca: &Party) -> Party {
    ca.issue(&pki::name(&SUBJECT), For::Clients, VALID)
}

/// The answer to a user with this chain, with `ca_path` as `prepare` leaves it.
fn ask(world: &World, party: &Party) -> (u16, String) {
    world.reload();
    let answer = world.put(Some(party), "x", "content");
    (answer.status, answer.body)
}

fn accepted(world: &World, party: &Party, what: &str) {
    let (status, reason) = ask(world, party);
    assert!(matches!(status, 200 | 201), "{what}: {status} {reason}");
}

fn refused(world: &World, party: &Party, why: &str) {
    let (status, reason) = ask(world, party);
    assert_eq!(status, 403, "{why}: {reason}");
    assert!(reason.contains(why), "{why}: {reason}");
}

#[test]
fn an_intermediate_ca_is_found_in_the_directory_or_comes_from_the_client() {
    let world = World::new();
    let root = root(None);
    let middle = root.subordinate("Middle CA", None, VALID);
    let lowest = middle.subordinate("Lowest CA", None, VALID);
    let user = user_of(&lowest);
    refused(&world, &user, "unable to get local issuer certificate");
    let alone = Party {
        chain: Vec::new(),
        ..user.clone()
    };
    root.install(&world.ca_path());
    accepted(&world, &user, "the client sends all but the root");
    refused(&world, &alone, "unable to get local issuer certificate");
    middle.install(&world.ca_path());
    lowest.install(&world.ca_path());
    accepted(&world, &alone, "all CAs are in the directory");
    let proxy = alone.proxy(Proxy::Rfc3820, VALID);
    accepted(&world, &proxy, "a proxy of it");
    accepted(&world, &alone.proxy(Proxy::Legacy, VALID), "a legacy proxy");
    // As the host of a grid that trusts the lower CA only: a chain has to end at a root.
    root.uninstall(&world.ca_path());
    refused(&world, &user, "unable to get issuer certificate");
}

#[test]
fn crls_of_all_cas_of_the_chain_count_and_of_no_other() {
    let root = root(None);
    let middle = root.subordinate("Middle CA", None, VALID);
    let user = user_of(&middle);
    let parties = [
        user.clone(),
        user.proxy(Proxy::Rfc3820, VALID),
        user.proxy(Proxy::Legacy, VALID),
    ];
    let outcome = |prepare: &dyn Fn(&World), why: Option<&str>| {
        let world = World::new();
        root.install(&world.ca_path());
        middle.install(&world.ca_path());
        prepare(&world);
        for party in &parties {
            match why {
                None => accepted(&world, party, "with these CRLs"),
                Some(why) => refused(&world, party, why),
            }
        }
        // Whatever becomes of this chain, the users of the other CA can write.
        accepted(&world, &PKI.user, "another CA");
    };
    let crl = |ca: &Party, world: &World, revoked: &[&Party], end: i64| {
        ca.publish_crl(&world.ca_path(), revoked, end);
    };
    outcome(&|_| {}, None);
    outcome(&|world| crl(&middle, world, &[], 3600), None);
    outcome(&|world| crl(&root, world, &[], 3600), None);
    outcome(
        &|world| {
            crl(&root, world, &[], 3600);
            crl(&middle, world, &[], 3600);
        },
        None,
    );
    outcome(
        &|world| crl(&middle, world, &[&user], 3600),
        Some("certificate revoked"),
    );
    outcome(
        &|world| crl(&root, world, &[&middle], 3600),
        Some("Middle CA: certificate revoked"),
    );
    outcome(
        &|world| crl(&middle, world, &[], -3600),
        Some("CRL has expired"),
    );
    outcome(
        &|world| crl(&root, world, &[], -3600),
        Some("CRL has expired"),
    );
    // Made by somebody who has the name of the CA, and not its key.
    let impostor = pki::root("Root CA", None, VALID);
    outcome(
        &|world| crl(&impostor, world, &[], 3600),
        Some("CRL signature failure"),
    );
    // What revoked them is of another CA, with the same serial numbers or not.
    let other = pki::authority("Other CA");
    outcome(
        &|world| {
            other.install(&world.ca_path());
            crl(&other, world, &[&user, &middle], -3600);
        },
        None,
    );
    let unknown = pki::authority("Unknown CA");
    outcome(&|world| crl(&unknown, world, &[&user], -3600), None);
}

#[test]
fn a_chain_is_expired_at_any_level() {
    let old_root = pki::root("Old root", None, EXPIRED);
    let root = root(None);
    let old_middle = root.subordinate("Old middle", None, EXPIRED);
    let middle = root.subordinate("Middle CA", None, VALID);
    let old_user = middle.issue(&pki::name(&SUBJECT), For::Clients, EXPIRED);
    let user = user_of(&middle);
    let proxy = |kind, validity| user.proxy(kind, validity);
    let world = World::new();
    for ca in [&old_root, &root, &old_middle, &middle] {
        ca.install(&world.ca_path());
    }
    accepted(&world, &user, "nothing is expired");
    let mut cases = vec![
        ("root", user_of(&old_root)),
        (
            "below an old root",
            user_of(&old_root.subordinate("M", None, VALID)),
        ),
        ("intermediate", user_of(&old_middle)),
        ("user", old_user.clone()),
    ];
    for kind in [Proxy::Rfc3820, Proxy::Legacy] {
        cases.extend([
            (
                "proxy of a user of an old root",
                user_of(&old_root).proxy(kind, VALID),
            ),
            (
                "proxy below an old CA",
                user_of(&old_middle).proxy(kind, VALID),
            ),
            ("proxy of an old user", old_user.proxy(kind, VALID)),
            ("old proxy", proxy(kind, EXPIRED)),
            (
                "proxy of an old proxy",
                proxy(kind, EXPIRED).proxy(kind, VALID),
            ),
            (
                "old proxy of a proxy",
                proxy(kind, VALID).proxy(kind, EXPIRED),
            ),
        ]);
    }
    for (what, party) in cases {
        let (status, reason) = ask(&world, &party);
        assert_eq!(status, 403, "{what}: {reason}");
        assert!(
            reason.contains("certificate has expired"),
            "{what}: {reason}"
        );
    }
    let early = proxy(Proxy::Rfc3820, (3600, 7200));
    refused(&world, &early, "certificate is not yet valid");
}

#[test]
fn the_path_length_of_cas_counts_cas_and_that_of_proxies_proxies() {
    for (allowed, depth, good) in [
        (Some(0), 0, true),
        (Some(0), 1, false),
        (Some(1), 1, true),
        (Some(1), 2, false),
        (None, 3, true),
    ] {
        let world = World::new();
        let root = root(allowed);
        root.install(&world.ca_path());
        let mut ca = root;
        for level in 0..depth {
            ca = ca.subordinate(&format!("Level {level}"), None, VALID);
        }
        let user = user_of(&ca);
        let rfc = user.proxy(Proxy::Rfc3820, VALID);
        let legacy = user.proxy(Proxy::Legacy, VALID);
        // Proxies are no CAs: they do not use up what a CA allows.
        for party in [
            rfc.proxy(Proxy::Rfc3820Limited, VALID),
            legacy.proxy(Proxy::LegacyLimited, VALID),
            rfc,
            legacy,
            user,
        ] {
            match good {
                true => accepted(&world, &party, &format!("{depth} below {allowed:?}")),
                false => refused(&world, &party, "path length constraint exceeded"),
            }
        }
    }
    let world = World::new();
    let none = PKI.user.proxy(Proxy::Rfc3820OfLength(0), VALID);
    accepted(&world, &none, "a proxy that may have none");
    refused(
        &world,
        &none.proxy(Proxy::Rfc3820, VALID),
        "proxy path length constraint exceeded",
    );
    let one = PKI.user.proxy(Proxy::Rfc3820OfLength(1), VALID);
    let second = one.proxy(Proxy::Rfc3820, VALID);
    accepted(&world, &second, "a proxy of one that may have one");
    refused(
        &world,
        &second.proxy(Proxy::Rfc3820, VALID),
        "proxy path length constraint exceeded",
    );
}

#[test]
fn long_chains_of_proxies() {
    let world = World::new();
    for kind in [Proxy::Rfc3820, Proxy::Legacy] {
        let mut proxy = PKI.user.clone();
        for _ in 0..10 {
            proxy = proxy.proxy(kind, VALID);
        }
        accepted(&world, &proxy, "ten proxies");
        // Somebody in the middle of the chain is not who signed it.
        let mut broken = proxy.clone();
        broken.chain.remove(4);
        refused(&world, &broken, "unable to get");
        let mut endless = proxy;
        for _ in 0..20 {
            endless = endless.proxy(kind, VALID);
        }
        let (status, reason) = ask(&world, &endless);
        assert_eq!(status, 403, "{reason}");
    }
}

/// A directory of CAs as distributions and fetch-crl leave it.
#[test]
fn what_else_is_in_the_directory_of_cas_disturbs_nobody() {
    let world = World::new();
    let path = world.ca_path();
    let hash = format!("{:08x}", PKI.ca.cert.subject_name_hash());
    for ending in [
        "signing_policy",
        "namespaces",
        "info",
        "crl_url",
        "0.bak",
        "1",
        "r0",
        "r1",
    ] {
        let text = "access_id_CA X509 '/DC=org/DC=example/CN=Test CA'\npos_rights globus CA:sign\n\
                    cond_subjects globus '\"/DC=nowhere/*\"'\n";
        fs::write(path.join(format!("{hash}.{ending}")), text).unwrap();
    }
    fs::write(path.join("0000dead.0"), "").unwrap();
    fs::write(path.join("0000dead.r0"), [0xff; 4096]).unwrap();
    fs::create_dir(path.join("igtf-policy")).unwrap();
    std::os::unix::fs::symlink("nowhere", path.join("dangling.pem")).unwrap();
    std::os::unix::fs::symlink(".", path.join("loop.0")).unwrap();
    accepted(&world, &PKI.user, "junk beside the CAs");
    fs::create_dir(path.join("11111111.0")).unwrap();
    accepted(&world, &PKI.user, "a directory by the name of a CA");
}

#[test]
fn ipv6_is_served_like_ipv4() {
    let world = World::new();
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return;
    };
    drop(probe);
    let config = ServerConfig {
        listen: vec!["[::1]:0".parse().unwrap()],
        http_listen: Vec::new(),
        ..world.config.clone()
    };
    let starting = Server::start(&config, world.layout().clone(), world.clock.clone());
    let server = world.runtime.block_on(starting).unwrap();
    let address = server.addresses()[0];
    assert!(address.is_ipv6());
    for status in [201, 200] {
        let mut client = CONNECTOR.configure().unwrap();
        client.set_certificate(&PKI.user.cert).unwrap();
        client.set_private_key(&PKI.user.key).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let mut stream = client.connect("localhost", stream).unwrap();
        let head = request("PUT", &joboutputs("six"), "Content-Length: 3\r\n");
        stream.write_all((head + "::1").as_bytes()).unwrap();
        assert_eq!(Answer::read(&mut stream).status, status);
    }
    let user = PKI.user.write(&world.dir.path().join("user.pem"));
    let url = format!("https://{address}{}", joboutputs("six"));
    // The name in its certificate is another.
    let read = super::curl::curl(&world, Some(&user), &["--insecure", &url]);
    if let Some(read) = read {
        assert!(read.starts_with("::1") && read.ends_with(" 200"), "{read}");
    }
    world.runtime.block_on(server.stop(PATIENCE));
}
