//! The table of modules in `src/lib.rs` holds: each one uses only what it may.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Module, and the modules of the crate that it may use. The binary's `cli` and `daemon` may use
/// everything and are left out.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &["model"]),
    ("rng", &[]),
    ("blocking", &[]),
    ("metrics", &["model"]),
    ("config", &["model", "state"]),
    ("state", &["model"]),
    (
        "cloud",
        &[
            "blocking", "clock", "config", "metrics", "model", "rng", "state",
        ],
    ),
    (
        "images",
        &[
            "blocking",
            "clock",
            "cloud",
            "config",
            "model",
            "state",
            "telemetry",
        ],
    ),
    ("observe", &["config", "model", "state"]),
    (
        "pipes",
        &[
            "blocking",
            "clock",
            "cloud",
            "config",
            "model",
            "rng",
            "state",
            "telemetry",
        ],
    ),
    ("decide", &["config", "model", "rng"]),
    (
        "act",
        &[
            "blocking",
            "clock",
            "cloud",
            "config",
            "decide",
            "model",
            "rng",
            "state",
            "telemetry",
        ],
    ),
    ("account", &["config", "model", "state"]),
    ("events", &["blocking", "model", "state"]),
    ("migrate", &["account", "config", "model", "state"]),
    (
        "record",
        &[
            "account",
            "act",
            "cloud",
            "config",
            "decide",
            "events",
            "metrics",
            "model",
            "observe",
            "state",
            "telemetry",
        ],
    ),
    ("vacmon", &["config", "decide", "model", "telemetry"]),
    (
        "remote",
        &["blocking", "clock", "cloud", "config", "model", "state"],
    ),
    (
        "server",
        &["blocking", "clock", "config", "metrics", "model", "state"],
    ),
];

/// What decisions must never see.
const FORBIDDEN_IN_DECIDE: &[&str] = &[
    "tokio",
    "reqwest",
    "std::fs",
    "tracing",
    "SystemTime",
    "Instant",
    "std::env",
    "async",
];

fn sources(path: &Path, all: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), all);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        let text = fs::read_to_string(path).unwrap();
        // Tests may use what they like.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned();
        all.push((path.display().to_string(), code));
    }
}

fn module(name: &str) -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    let file = src.join(format!("{name}.rs"));
    if file.is_file() {
        sources(&file, &mut all);
    }
    let dir = src.join(name);
    if dir.is_dir() {
        sources(&dir, &mut all);
    }
    assert!(!all.is_empty(), "no module {name}");
    all.retain(|(path, _)| !path.ends_with("testing.rs") && !path.ends_with("tests.rs"));
    all
}

#[test]
fn modules_use_only_what_the_map_allows() {
    let mut wrong = BTreeSet::new();
    for (name, allowed) in MAY_USE {
        for (path, code) in module(name) {
            for (_, rest) in code
                .match_indices("crate::")
                .map(|(at, _)| code.split_at(at))
            {
                let used: String = rest["crate::".len()..]
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                if !used.is_empty() && used != *name && !allowed.contains(&used.as_str()) {
                    wrong.insert(format!("{path} uses {used}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The cycle is a span with the name of its space: a field of the same name says it twice.
#[test]
fn lines_of_a_cycle_name_their_space_once() {
    for name in ["cloud", "act", "record", "observe"] {
        for (path, code) in module(name) {
            assert!(!code.contains("space = %"), "{path}");
        }
    }
}

#[test]
fn decisions_see_no_clock_file_socket_or_log() {
    for (path, code) in module("decide") {
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for word in FORBIDDEN_IN_DECIDE {
            assert!(!code.contains(word), "{path} mentions {word}");
        }
    }
}
