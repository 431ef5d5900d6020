//! The table of modules in `src/lib.rs` is true, and decisions are pure.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Not parts of the program.
fn is_test(path: &Path) -> bool {
    ["tests", "tests.rs", "testing.rs"]
        .iter()
        .any(|name| path.ends_with(name))
}

/// The code below `path`, without comments and without the tests at the ends of files.
fn sources(path: &Path, all: &mut Vec<(String, String)>) {
    if is_test(path) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), all);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<_> = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        all.push((path.display().to_string(), code.join("\n")));
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn module(name: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for path in [format!("{name}.rs"), name.to_owned()] {
        let path = src().join(path);
        if path.exists() {
            sources(&path, &mut all);
        }
    }
    assert!(!all.is_empty(), "no module {name}");
    all
}

/// The modules of the crate that code uses.
fn used(code: &str) -> BTreeSet<String> {
    let rests = code.match_indices("crate::").map(|(at, found)| {
        let (_, rest) = code.split_at(at + found.len());
        rest.chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect::<String>()
    });
    rests.filter(|name| !name.is_empty()).collect()
}

/// The rows of the table in `src/lib.rs`: a module, and what it says that the module uses; `None` for
/// all above.
fn table() -> Vec<(String, Option<BTreeSet<String>>)> {
    let text = fs::read_to_string(src().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells = line.strip_prefix("//! | [`")?.strip_suffix(" |")?;
        let (name, cells) = cells.split_once("`] | ")?;
        let (_, uses) = cells.rsplit_once(" | ")?;
        let uses = match uses {
            "all above" => None,
            "nothing" => Some(BTreeSet::new()),
            some => Some(some.split(", ").map(str::to_owned).collect()),
        };
        Some((name.to_owned(), uses))
    });
    rows.collect()
}

#[test]
fn the_map_names_every_module_and_exactly_what_it_uses_all_of_it_above() {
    let rows = table();
    let mut above = BTreeSet::new();
    for (name, uses) in &rows {
        let mut all = BTreeSet::new();
        for (path, code) in module(name) {
            let mut here = used(&code);
            here.remove(name);
            let strange: Vec<_> = here.difference(&above).collect();
            assert!(strange.is_empty(), "{path} uses {strange:?}");
            all.extend(here);
        }
        if let Some(uses) = uses {
            assert_eq!(*uses, all, "what {name} uses");
        }
        above.insert(name.clone());
    }
    let declared = fs::read_to_string(src().join("lib.rs")).unwrap();
    let declared = declared.lines().filter_map(|line| {
        let name = line.strip_prefix("pub mod ")?.strip_suffix(';')?;
        Some(name.to_owned())
    });
    assert_eq!(above, declared.collect());
}

#[test]
fn decisions_see_no_clock_file_socket_or_log() {
    for (path, code) in module("decide") {
        for word in FORBIDDEN_IN_DECIDE {
            assert!(!code.contains(word), "{path} mentions {word}");
        }
    }
}
