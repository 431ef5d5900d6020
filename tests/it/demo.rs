//! `vcycled demo`, as a person runs it: the whole program for one hour of a fast clock.

use std::path::Path;
use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycled"))
        .arg("demo")
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names of all files two levels below `dir`.
fn records(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for day in std::fs::read_dir(dir).unwrap() {
        for record in std::fs::read_dir(day.unwrap().path()).unwrap() {
            names.push(text(record.unwrap().file_name().as_encoded_bytes()));
        }
    }
    names
}

#[test]
fn the_demo_shows_what_it_promises_and_leaves_it_to_look_at() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("demo");
    let arguments = ["--seconds", "30", "--speed", "120", "--dir"];
    let output = demo(&[&arguments[..], &[root.to_str().unwrap()]].concat());
    let log = std::fs::read_to_string(root.join("vcycled.log")).unwrap();
    let shown = text(&output.stdout);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}\n{told}\n{log}");
    assert!(shown.contains("Summary"), "{shown}");
    assert!(shown.contains("In a browser: http://127.0.0.1:"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no drawing outside a terminal");

    let state = root.join("state");
    let archived = records(&state.join("apel-archive"));
    assert!(!archived.is_empty() && archived.iter().all(|name| name.len() == 14));
    let outgoing = records(&state.join("apel-outgoing"));
    assert!(!outgoing.is_empty() && outgoing.iter().all(|name| archived.contains(name)));
    assert!(state.join("simulated/north.example.org.json").is_file());
    assert!(root.join("etc/vcycle.conf").is_file());
    for line in log.lines() {
        assert!(
            !line.contains(" ERROR ") && !line.contains(" WARN "),
            "{line}"
        );
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let output = demo(&["--dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("is not empty"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_demo_that_is_too_short_to_show_anything_fails() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&["--seconds", "2", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(70));
    let shown = text(&output.stdout);
    assert!(shown.contains("NOT SEEN: accounting records"), "{shown}");
}
