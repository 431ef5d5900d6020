//! The same text read by Python and by us. Python 2.7 is what site files were written for, and is
//! compared without exceptions; Python 3 is found more often, and is compared on texts that avoid
//! the rules that it changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use proptest::prelude::*;
use serde_json::Value;
use vcycle::config::{Problem, Sources, load};

use crate::config_examples::context;

/// Answers each line of JSON, which is the text of a file, with what the parser makes of it.
const SCRIPT: &str = r##"
import json, sys
try:
    import ConfigParser as configparser, StringIO
    parser = configparser.RawConfigParser
    lines = lambda text: StringIO.StringIO(text.encode("utf-8"))
    read = lambda p, f: p.readfp(f)
except ImportError:
    import configparser, io
    parser = lambda: configparser.RawConfigParser(
        strict=False, comment_prefixes=("#", ";"), inline_comment_prefixes=(";",),
        delimiters=("=", ":"), empty_lines_in_values=False, allow_no_value=False)
    lines = lambda text: io.StringIO(text)
    read = lambda p, f: p.read_file(f)
for line in iter(sys.stdin.readline, ""):
    p = parser()
    try:
        read(p, lines(json.loads(line)))
        answer = dict((s, dict(p.items(s))) for s in p.sections())
    except configparser.MissingSectionHeaderError as e:
        answer = "headerless"
    except configparser.ParsingError as e:
        answer = [number for number, _ in e.errors]
    print(json.dumps(answer))
    sys.stdout.flush()
"##;

struct Python {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// The first of these commands that runs a Python of this major version.
    fn find(commands: &[&str], major: u8) -> Option<Self> {
        let test = format!("import sys; sys.exit(sys.version_info[0] != {major})");
        let runs = |command: &&&str| {
            let mut python = Command::new(command);
            python.args(["-c", &test]).stderr(Stdio::null());
            python.status().is_ok_and(|status| status.success())
        };
        let command = commands.iter().find(runs)?;
        let mut child = Command::new(command)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            questions: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        })
    }

    fn ask(&mut self, text: &str) -> Value {
        writeln!(self.questions, "{}", Value::from(text)).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What our reader makes of a text, in the form of the script's answers.
fn ours(text: &str) -> Value {
    let root = tempfile::tempdir().unwrap();
    let sources = Sources {
        conf: root.path().join("vcycle.conf"),
        dir: root.path().join("vcycle.d"),
    };
    std::fs::write(&sources.conf, text).unwrap();
    let loaded = load(&sources, &context());
    // Only errors of syntax have a line and no section.
    let syntax: Vec<&Problem> = loaded
        .problems
        .iter()
        .filter(|problem| problem.line.is_some() && problem.section.is_none())
        .collect();
    if syntax
        .iter()
        .any(|problem| problem.what.contains("before the first"))
    {
        return "headerless".into();
    }
    if !syntax.is_empty() {
        return syntax.iter().filter_map(|problem| problem.line).collect();
    }
    let sections: BTreeMap<&str, BTreeMap<&str, &str>> = loaded
        .raw
        .sections()
        .map(|section| (section, loaded.raw.options(section).collect()))
        .collect();
    serde_json::to_value(sections).unwrap()
}

fn compare(python: Option<Python>, texts: impl Strategy<Value = String>) {
    let Some(python) = python else {
        eprintln!("skipped: there is no such Python to compare with");
        return;
    };
    let python = RefCell::new(python);
    let config = ProptestConfig {
        failure_persistence: None,
        cases: 2000,
        ..ProptestConfig::default()
    };
    let outcome = proptest::test_runner::TestRunner::new(config).run(&texts, |text| {
        let theirs = python.borrow_mut().ask(&text);
        prop_assert_eq!(ours(&text), theirs, "{:?}", text);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Lines of the characters and words that the rules are about, in any order. Left out are only
/// carriage returns and names of sections that are not in their canonical form, where we differ on
/// purpose.
fn any_lines() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "x", "y", "Zz", "é", "=", ":", ";", "#", "%", "\\", "\"", "\"\"", "'", "]", "rem", "REM",
        "remx", " ", " ", "\t", "\x0b", "\x0c", "12", "= ", " ;", " = ", " : ",
    ]);
    let free = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    let header = prop::sample::select(vec![
        "[a]",
        "[b c]",
        "[a] ; x",
        "[b c]=",
        "[DEFAULT]",
        "[]",
        "[a",
        " [a]",
        "[a]]",
    ]);
    let option = "(x|y|[A-Z][a-z]{0,2} ?[=:] ?)[ -~]{0,8}";
    let more = "[ \t][ -~]{0,8}";
    let line = prop_oneof![
        3 => free,
        2 => header.prop_map(str::to_owned),
        4 => option,
        2 => more,
        1 => Just(String::new()),
    ];
    let lines = prop::collection::vec(line, 0..12);
    (prop::bool::weighted(0.9), lines).prop_map(|(headed, lines)| {
        let head = if headed { "[a]\n" } else { "" };
        format!("{head}{}\n", lines.join("\n"))
    })
}

/// What both Pythons read alike. Left out, because Python 3 changed it: `rem` comments; `""` for an
/// empty value; indented comments, and comments inside continued lines; semicolons other than one
/// clear comment after an option; a continued value after a comment, a blank line or a header.
fn lines_that_both_read_alike() -> impl Strategy<Value = String> {
    let value = "[!-9<-Z^-~]([ -9<-~]{0,8}[!-9<-~])?";
    let name = "[a-qA-Q][a-z_ ]{0,5}";
    let delimiter = prop::sample::select(vec!["=", ":", " = ", ": ", "\t=\t"]);
    let comment = prop::sample::select(vec!["", "", "", " ; c", "\t;c;c ;"]);
    let more = prop::collection::vec(("[ \t]{1,3}", "[!-\"$-9<-~][ -9<-~]{0,8}"), 0..3);
    let option = (name, delimiter, prop::option::of(value), comment, more)
        .prop_filter(
            "a value that only Python 2.7 takes for empty",
            |(_, _, value, _, _)| value.as_deref() != Some("\"\""),
        )
        .prop_map(|(name, delimiter, value, comment, more)| {
            let value = value.unwrap_or_default();
            let comment = if value.is_empty() { "" } else { comment };
            let more: Vec<_> = more.iter().map(|(a, b)| format!("\n{a}{b}")).collect();
            format!("{name}{delimiter}{value}{comment}{}", more.concat())
        });
    let header = prop::sample::select(vec!["[a]", "[b c]", "[DEFAULT]"]);
    let line = prop_oneof![
        1 => header.prop_map(str::to_owned),
        6 => option,
        1 => "[#;][ -~]{0,5}",
        1 => Just(String::new()),
        1 => "[a-q]{1,5}",
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| format!("[a]\n{}\n", lines.join("\n")))
}

#[test]
fn python_2_7_reads_every_text_as_we_do() {
    compare(Python::find(&["python2.7", "python2"], 2), any_lines());
}

#[test]
fn python_3_reads_most_texts_as_we_do() {
    compare(
        Python::find(&["python3", "python"], 3),
        lines_that_both_read_alike(),
    );
}
