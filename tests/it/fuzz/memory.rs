//! Answers without an end. The adapter runs in a process of its own, so that its memory can be
//! measured whatever the other tests do.

use std::process::Command;
use std::time::{Duration, Instant};

use vcycle::clock::Clock;
use vcycle::cloud::Cloud;

use crate::openstack_adapter::{NOW, connect_with, options, ordinary, request, times};
use crate::scripted::{Reply, Scripted};

/// What the process may have at its most, in MiB, while it reads one answer: the body (at most 32
/// MiB, twice that while its buffer grows), the document, and the program itself.
const MOST_MIB: u64 = 256;
/// About as many bytes as the adapter reads at most.
const FULL: usize = 31 << 20;

const ADDRESS: &str = "VCYCLE_FUZZ_MEMORY";

fn long(status: u16, head: &str, piece: &str, times: usize, tail: &str) -> Reply {
    // Pieces of a size that is worth a frame.
    let together = (16_384 / piece.len()).max(1);
    Reply::Long {
        status,
        head: head.to_owned(),
        piece: piece.repeat(together),
        times: (times / together).max(1),
        tail: tail.to_owned(),
    }
}

const FOR_EVER: usize = usize::MAX;

/// A list that has just room in an answer.
fn full(head: &str, piece: &str, tail: &str) -> Reply {
    long(200, head, piece, FULL / piece.len(), tail)
}

/// An answer for each path: what it is, where it stands, and whether it is an error.
fn answers() -> Vec<(&'static str, &'static str, Reply)> {
    const SERVERS: &str = "/nova/v2.1/servers/detail";
    const FLAVORS: &str = "/nova/v2.1/flavors/detail";
    const LOGIN: &str = "/identity/v3/auth/tokens";
    let server = r#"{"id":"","name":"","status":""},"#;
    vec![
        (
            "blanks for ever",
            SERVERS,
            long(200, "", "        ", FOR_EVER, ""),
        ),
        ("lists for ever", SERVERS, long(200, "", "[", FOR_EVER, "")),
        (
            "a text for ever",
            SERVERS,
            long(200, r#"{"servers":[{"id":""#, "xxxx", FOR_EVER, ""),
        ),
        (
            "an error for ever",
            SERVERS,
            long(500, "", "<p>no</p>", FOR_EVER, ""),
        ),
        (
            "a redirect for ever",
            SERVERS,
            long(302, "", "x", FOR_EVER, ""),
        ),
        (
            "servers",
            SERVERS,
            full(
                r#"{"servers":["#,
                server,
                r#"{"id":"","name":"","status":""}]}"#,
            ),
        ),
        (
            "links",
            SERVERS,
            full(
                r#"{"servers":[],"servers_links":["#,
                r#"{"rel":"","href":""},"#,
                "0]}",
            ),
        ),
        (
            "addresses",
            SERVERS,
            full(
                r#"{"servers":[{"id":"","name":"","status":"","addresses":{"n":["#,
                r#"{"addr":""},"#,
                "0]}}]}",
            ),
        ),
        (
            "lists that nobody reads",
            SERVERS,
            full(r#"{"x":["#, "[],", r#"0],"servers":0}"#),
        ),
        (
            "flavors",
            FLAVORS,
            full(
                r#"{"flavors":["#,
                r#"{"id":"","name":"","vcpus":1},"#,
                "0]}",
            ),
        ),
        (
            "services",
            LOGIN,
            full(r#"{"token":{"catalog":["#, r#"{"type":""},"#, "0]}}"),
        ),
        (
            "endpoints",
            LOGIN,
            full(
                r#"{"token":{"catalog":[{"type":"","endpoints":["#,
                r#"{"interface":"","url":""},"#,
                "0]}]}}",
            ),
        ),
        (
            "a created machine for ever",
            "/nova/v2.1/servers",
            long(202, r#"{"server":{"id":""#, "x", FOR_EVER, ""),
        ),
    ]
}

#[test]
fn an_answer_without_end_takes_bounded_memory_and_time() {
    if std::env::var_os(ADDRESS).is_some() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Scripted::start(|seen, base| {
        // The first part of the path says which of the answers is tried.
        let mut parts = seen.path.splitn(3, '/').skip(1);
        let number: usize = parts.next().unwrap().parse().unwrap();
        let path = format!("/{}", parts.next().unwrap_or(""));
        let (_, place, reply) = answers().swap_remove(number);
        if place == path {
            return reply;
        }
        let mut plain = seen.clone();
        plain.path = path;
        ordinary(&plain, &format!("{base}/{number}"))
    }));
    let begun = Instant::now();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fuzz::memory::child", "--nocapture"])
        .env(ADDRESS, &server.base)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprintln!("{said}in {:?}", begun.elapsed());
    assert_eq!(
        said.matches(" MiB after ").count(),
        answers().len(),
        "{said}"
    );
}

/// Runs only as a child of the test above.
#[test]
fn child() {
    let Ok(base) = std::env::var(ADDRESS) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (number, (what, _, _)) in answers().into_iter().enumerate() {
        let options = options(&format!("{base}/{number}/identity/v3"));
        let begun = Instant::now();
        let errors = runtime.block_on(async {
            let mut times = times();
            times.request = Duration::from_secs(20);
            let cloud = connect_with(&options, "".as_ref(), Clock::manual(NOW), times);
            [
                cloud.facts().await.err(),
                cloud.list().await.err(),
                cloud.create(&request()).await.err(),
            ]
        });
        let most = most_mib();
        let error = errors.into_iter().flatten().next();
        eprintln!("{most} MiB after {what}, {:?}: {error:?}", begun.elapsed());
        assert!(error.is_some(), "{what}");
        assert!(most < MOST_MIB, "{what}: {most} MiB");
    }
}

/// The most memory that this process has had resident.
pub(super) fn most_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() / 1024
}
