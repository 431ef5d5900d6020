//! Certificates and keys of a site as they may come to us: cut, joined the wrong way, or damaged
//! inside.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use openssl::x509::X509;
use proptest::prelude::*;
use proptest::sample::select;
use vcycle::act::proxy::{self, Kind, Pem, Wanted};
use vcycle::model::{MachinetypeName, Seconds, Secret, Timestamp};

use super::bytes::{Change, changes, mutate};
use super::{Cost, cases, fuzz};
use crate::grid::fixtures::GRID;

/// Lines that PEM files have, and pieces of DER.
const TOKENS: &[&str] = &[
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----\n",
    "Proc-Type: 4,ENCRYPTED\n",
    "subject=\n",
    "\r\n",
    "\0",
    "AAAA",
    "\x30\x03\x02\x01\x00",
    "\x06\x03\x55\x04\x03",
    "\x17\r700101000000Z",
];

/// How a file was damaged.
#[derive(Clone, Debug)]
enum Damage {
    /// As a text.
    Outside(Vec<Change>),
    /// Each certificate and key in it.
    Inside(Vec<Change>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        changes(TOKENS).prop_map(Damage::Outside),
        changes(TOKENS).prop_map(Damage::Inside),
        Just(Damage::Outside(Vec::new())),
    ]
}

fn damaged(name: &str, damage: &Damage) -> Vec<u8> {
    let text = std::fs::read(GRID.path(name)).unwrap();
    let changes = match damage {
        Damage::Outside(changes) => return mutate(text, changes),
        Damage::Inside(changes) => changes,
    };
    let text = String::from_utf8(text).unwrap();
    let mut damaged = String::new();
    for block in text.split_inclusive("-----END ") {
        let inside = block.strip_suffix("-----END ");
        let Some((head, base64)) = inside.and_then(|inside| inside.rsplit_once("-----\n")) else {
            damaged.push_str(block);
            continue;
        };
        let base64 = base64.replace('\n', "");
        let der = BASE64_STANDARD.decode(base64).unwrap();
        let encoded = BASE64_STANDARD.encode(mutate(der, changes));
        damaged.push_str(&format!("{head}-----\n"));
        for line in encoded.as_bytes().chunks(64) {
            damaged.push_str(&String::from_utf8_lossy(line));
            damaged.push('\n');
        }
        damaged.push_str("-----END ");
    }
    damaged.into_bytes()
}

#[test]
fn any_certificate_and_key_make_a_proxy_or_one_line_that_names_a_file() {
    let names = || {
        select(vec![
            "user.pem",
            "user.key",
            "both.pem",
            "proxy.pem",
            "ec.pem",
        ])
    };
    let kind = || select(vec![Kind::Rfc3820, Kind::Legacy]);
    let inputs = ((names(), damage()), (names(), damage()), kind());
    std::sync::LazyLock::force(&GRID);
    let now = Timestamp::from_system_time(std::time::SystemTime::now());
    fuzz(
        file!(),
        cases(Cost::Dear, 200),
        &inputs,
        |(cert, key, kind)| {
            let pem = |path: &str, (name, damage): &(&str, Damage)| Pem {
                path: path.into(),
                bytes: Secret::new(damaged(name, damage)),
            };
            let (cert, key) = (pem("/c", &cert), pem("/k", &key));
            let wanted = Wanted {
                kind,
                machinetype: MachinetypeName::new("a").unwrap(),
                now,
                until: now + Seconds::new(3600),
            };
            match proxy::make(&cert, &key, &wanted) {
                Ok(made) => {
                    let certs = X509::stack_from_pem(made.reveal().as_bytes()).unwrap();
                    let issuer = certs[1].public_key().unwrap();
                    prop_assert!(certs[0].verify(&issuer).unwrap());
                }
                Err(problem) => {
                    let text = problem.to_string();
                    prop_assert!(text.contains("/c") || text.contains("/k"), "{}", text);
                    prop_assert!(!text.contains(char::is_control), "{:?}", text);
                    prop_assert!(text.len() < 2000, "{}", text);
                }
            }
            Ok(())
        },
    );
}
