//! What clients of the HTTPS server send: paths, and chains of certificates.

use std::fs;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use vcycle::clock::Clock;
use vcycle::model::{Dn, MachineName, Timestamp};
use vcycle::server::{Access, Client, Credentials, Limits, Router, end_entity};
use vcycle::state::{Layout, Published};

use super::bytes::{Change, changes, mutate};
use super::{Cost, cases, fuzz};
use crate::pki::{self, For, Party, Proxy, VALID};

const MACHINE: &str = "vcycle-a-abcdefghij";
const DN: &str = "/DC=org/DC=example/CN=vm";
const SECRET: &str = "what nobody may read";
const PUBLIC: &str = "86400";

/// Pieces of paths.
const PIECES: &[&str] = &[
    "/",
    "//",
    "machines",
    "heartbeatlists",
    "example.org",
    "atlas",
    MACHINE,
    "machinefeatures",
    "jobfeatures",
    "joboutputs",
    "key",
    "secret",
    "created",
    "user_data",
    "..",
    ".",
    "%2e%2e",
    "%2e",
    "%2f",
    "%5c",
    "\\",
    "%00",
    "%25",
    "%252e%252e%252f",
    "%ff",
    "%c0%ae",
    "etc/passwd",
    "x",
    "%20",
    "?",
    "%3f",
    ";",
    "~",
    "+",
    "*",
];

/// A tree with one file that may be read, and secrets all around it.
fn tree() -> (tempfile::TempDir, Layout) {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::new(root.path().join("state"));
    let name = MachineName::new(MACHINE).unwrap();
    for which in Published::ALL {
        fs::create_dir_all(layout.published(&name, which)).unwrap();
    }
    fs::create_dir_all(layout.tmp()).unwrap();
    let features = layout.published(&name, Published::Jobfeatures);
    fs::write(features.join("key"), PUBLIC).unwrap();
    for secret in [
        layout.machine(&name).join("user_data"),
        layout.machine(&name).join("secret"),
        layout.machines().join("secret"),
        layout.root().join("secret"),
        root.path().join("secret"),
    ] {
        fs::write(&secret, SECRET).unwrap();
    }
    std::os::unix::fs::symlink(root.path().join("secret"), features.join("secret")).unwrap();
    let owner = layout.machine(&name).join("https_x509dn");
    fs::write(owner, DN).unwrap();
    (root, layout)
}

/// All files below a directory.
fn count(path: &std::path::Path) -> usize {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => count(&entry.path()),
            false => 1,
        })
        .sum()
}

#[test]
fn no_path_leads_to_anything_but_what_is_published() {
    let (root, layout) = tree();
    let limits = Limits {
        file: 10,
        machine: 100,
    };
    let clock = Clock::manual(Timestamp::from_unix(2000));
    let router = Router::new(layout.clone(), clock, limits);
    let name = MachineName::new(MACHINE).unwrap();
    let outputs = layout.published(&name, Published::Joboutputs);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outside = count(root.path());
    let start = prop_oneof![
        2 => Just(String::new()),
        5 => select(vec![
            format!("/machines/{MACHINE}/jobfeatures/key"),
            format!("/machines/{MACHINE}/jobfeatures/"),
            format!("/machines/{MACHINE}/joboutputs/"),
        ]),
    ];
    let piece = prop_oneof![
        8 => select(PIECES).prop_map(str::to_owned),
        1 => "[ -~]{0,4}",
        1 => any::<char>().prop_map(String::from),
    ];
    let inputs = (
        (start, prop::collection::vec(piece, 0..10), any::<bool>()),
        changes(PIECES),
        any::<bool>(),
    );
    let inputs = inputs.prop_map(|((start, pieces, damaged), changes, put)| {
        let path = start + &pieces.concat();
        let path = match damaged {
            true => mutate(path.into_bytes(), &changes),
            false => path.into_bytes(),
        };
        (path, put)
    });
    fuzz(file!(), cases(Cost::Cheap, 1000), &inputs, |(path, put)| {
        // What is no URI does not get as far as the router.
        let Ok(uri) = Uri::try_from(path.as_slice()) else {
            return Ok(());
        };
        let method = if put { "PUT" } else { "GET" };
        let body = Full::<Bytes>::from("written");
        let request = Request::builder().method(method).uri(uri);
        let request = request.header("content-length", 7).body(body).unwrap();
        let client = Client {
            address: "192.0.2.1:4711".parse().unwrap(),
            access: Access::Tls(Credentials::Verified(Dn::parse(DN).unwrap())),
        };
        let (status, body) = runtime.block_on(async {
            let answer = router.answer(request, &client).await;
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        });
        prop_assert!(!body.contains(SECRET), "{}", body);
        prop_assert!(
            !status.is_server_error() || status == StatusCode::INSUFFICIENT_STORAGE,
            "{}",
            status
        );
        if put {
            // What was written is in joboutputs, and is taken away again.
            for entry in fs::read_dir(&outputs).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            prop_assert_eq!(count(root.path()), outside, "{}", status);
        }
        Ok(())
    });
}

/// A CA, a user, and proxies of that user of both kinds, two deep.
struct Chains {
    all: Vec<Vec<Vec<u8>>>,
}

static CHAINS: LazyLock<Chains> = LazyLock::new(|| {
    let ca = pki::authority("Test CA");
    let name = pki::name(&[("DC", "org"), ("DC", "example"), ("CN", "vm")]);
    let user = ca.issue(&name, For::Clients, VALID);
    let der = |party: &Party| {
        let mut chain = vec![party.cert.to_der().unwrap()];
        chain.extend(party.chain.iter().map(|cert| cert.to_der().unwrap()));
        chain.push(ca.cert.to_der().unwrap());
        chain
    };
    let proxy = |kind| user.proxy(kind, VALID);
    Chains {
        all: vec![
            der(&user),
            der(&proxy(Proxy::Rfc3820)),
            der(&proxy(Proxy::Rfc3820Limited).proxy(Proxy::Rfc3820Limited, VALID)),
            der(&proxy(Proxy::Legacy)),
            der(&proxy(Proxy::LegacyLimited).proxy(Proxy::LegacyLimited, VALID)),
            der(&proxy(Proxy::Rfc3820Independent)),
        ],
    }
});

/// Pieces of DER.
const DER: &[&str] = &[
    "\x30\x03\x02\x01\x00",
    "\x06\x03\x55\x04\x03",
    "\x06\x03\x55\x1d\x13",
    "\x06\x08\x2b\x06\x01\x05\x05\x07\x01\x0e",
    "\x0c\x05proxy",
    "\x13\x05proxy",
    "\x0c\x0dlimited proxy",
    "\x01\x01",
    "\x30\x00",
    "\x05\x00",
];

/// How a chain differs from a good one.
#[derive(Clone, Debug)]
enum Damage {
    Bytes(Index, Vec<Change>),
    Drop(Index),
    Repeat(Index),
    Swap(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        6 => (at(), changes(DER)).prop_map(|(at, changes)| Damage::Bytes(at, changes)),
        1 => at().prop_map(Damage::Drop),
        1 => at().prop_map(Damage::Repeat),
        1 => (at(), at()).prop_map(|(one, other)| Damage::Swap(one, other)),
    ]
}

#[test]
fn a_chain_of_any_certificates_is_somebodys_or_refused() {
    for (number, chain) in CHAINS.all.iter().enumerate() {
        let expected = (number < 5).then(|| Dn::parse(DN).unwrap());
        assert_eq!(end_entity(chain).ok(), expected, "{number}");
    }
    let inputs = (any::<Index>(), prop::collection::vec(damage(), 0..4));
    fuzz(
        file!(),
        cases(Cost::Cheap, 1000),
        &inputs,
        |(which, damages)| {
            let mut chain = CHAINS.all[which.index(CHAINS.all.len())].clone();
            for damage in &damages {
                let count = chain.len();
                if count == 0 {
                    break;
                }
                match damage {
                    Damage::Bytes(at, changes) => {
                        let at = at.index(count);
                        chain[at] = mutate(std::mem::take(&mut chain[at]), changes);
                    }
                    Damage::Drop(at) => drop(chain.remove(at.index(count))),
                    Damage::Repeat(at) => {
                        chain.insert(at.index(count), chain[at.index(count)].clone())
                    }
                    Damage::Swap(one, other) => chain.swap(one.index(count), other.index(count)),
                }
            }
            match end_entity(&chain) {
                Ok(dn) => {
                    let shown = dn.to_string();
                    prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
                    prop_assert_eq!(Dn::parse(&shown).ok(), Some(dn), "{}", shown);
                }
                Err(reason) => {
                    prop_assert!(!reason.is_empty() && reason.len() < 20_000, "{}", reason);
                    prop_assert!(!reason.contains(char::is_control), "{:?}", reason);
                }
            }
            Ok(())
        },
    );
}
