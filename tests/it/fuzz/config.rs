//! Configuration text, read by every Python of this machine and by us: the same sections, options
//! and values, or an error from both and for the same lines.
//!
//! Python 2.7 is what site files were written for. Where we differ from it on purpose, and why, is
//! [`prepared`], [`we_differ`] and [`we_lower_names`], and nowhere else. Python 3 has changed rules;
//! [`python_3_changed`] tells the texts that they matter for, and all others are compared.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use vcycle::config::{Context, Problem, Sources, load};

use super::bytes::{Text, changes, mutate};
use super::pythons::Python;
use super::{Cost, cases, fuzz};
use crate::config_examples::context;

/// What Python is given: our first two differences are taken out of the text.
///
/// 1. A byte order mark at the beginning is dropped: editors of Windows write it, and Python takes
///    it for a part of the first line, so that the file is refused.
/// 2. A carriage return before the end of a line is dropped, as if the file had been saved on Unix.
///    Python keeps it until it strips values, and mistakes it for the blank that makes a comment of
///    `x = ;a`.
fn prepared(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n');
    let lines: Vec<&[u8]> = lines.map(|l| l.strip_suffix(b"\r").unwrap_or(l)).collect();
    lines.join(&b'\n')
}

/// Whether we read the text otherwise on purpose; `ours` is what we make of it.
///
/// 3. A file with a NUL in it is refused whole: it is no text, or a disk has lost a block of it.
/// 4. A line that is not UTF-8 is an error unless it is a comment. Python 2 passes bytes on; here
///    values become JSON and file names, and passwords bytes of UTF-8. (Python 3 refuses the file.)
/// 5. Two headers that are the same after [`we_lower_names`] are one section.
/// 6. `[default]` is `[DEFAULT]`.
/// 7. `__name__` is an option like any other (and an unknown one); Python 2 has it for its own use.
/// 8. Capital letters beyond ASCII are put in lower case too, as Python 3 does; to Python 2 they are
///    bytes, so that it may see two names where we see one. No option that we know has any.
fn we_differ(text: &str, python: &Python) -> bool {
    let headers: BTreeSet<&str> = text.lines().filter_map(header).collect();
    let lowered: BTreeSet<String> = headers.iter().map(|name| we_lower_names(name)).collect();
    let default = |name: &&str| we_lower_names(name) == "default" && *name != "DEFAULT";
    let capital = |c: char| !c.is_ascii() && !c.to_lowercase().eq([c]);
    headers.len() != lowered.len()
        || headers.iter().any(default)
        || (python.is_2() && (text.to_lowercase().contains("__name__") || text.contains(capital)))
}

/// 9. Names of sections are put in lower case with single blanks; names of machines and files are
///    made of them, which must not depend on how often somebody pressed the space bar. Names of
///    options are in lower case as in Python, and letters beyond ASCII as in Python 3.
fn we_lower_names(name: &str) -> String {
    let words: Vec<&str> = name.split(is_space).filter(|w| !w.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// White space of Python 2.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn header(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix('[')?.split_once(']')?;
    (!name.is_empty()).then_some(name)
}

/// Whether a text has something that Python 3 reads otherwise than Python 2, where we go with
/// Python 2:
///
/// - white space beyond ASCII, and the separators 0x1c to 0x1f;
/// - `rem`, which begins a comment;
/// - `""`, which is an empty value;
/// - lines that are indented: after a comment, a blank line, a header or a line in error they go on
///   with the option before that, and they are never comments, headers or options;
/// - `]` within the name of a section (changed in Python 3.13);
/// - semicolons: only the first of an option's first line can begin a comment.
fn python_3_changed(text: &str) -> bool {
    let odd = |c: char| (c.is_whitespace() && !is_space(c)) || ('\x1c'..='\x1f').contains(&c);
    if text.contains(odd) {
        return true;
    }
    // Whether the line before is an option or goes on with one.
    let mut goes_on = false;
    for line in text.split('\n') {
        let trimmed = line.trim_matches(is_space);
        if trimmed.is_empty() || line.starts_with(['#', ';']) {
            goes_on = false;
        } else if line.starts_with(is_space) {
            if !goes_on || trimmed.starts_with(['#', ';']) || comment_at(trimmed).is_some() {
                return true;
            }
        } else if line.starts_with('[') {
            let name_has_comment = comment_at(line.split(']').next().unwrap_or("")).is_some();
            if line.matches(']').count() != 1 || name_has_comment {
                return true;
            }
            goes_on = false;
        } else {
            match option_changed(line) {
                Some(true) => return true,
                Some(false) => goes_on = true,
                None => goes_on = false,
            }
        }
    }
    false
}

/// Whether Python 3 reads the first line of an option otherwise; `None` for no option.
fn option_changed(line: &str) -> Option<bool> {
    if line.split(is_space).next()?.eq_ignore_ascii_case("rem") {
        return Some(true);
    }
    let delimiter = line.find(['=', ':']);
    let comment = comment_at(line);
    let Some(delimiter) = delimiter.filter(|at| *at > 0) else {
        return comment.map(|_| true);
    };
    let value = line[delimiter + 1..].trim_matches(is_space);
    let first = line[delimiter..].find(';').map(|at| delimiter + at);
    let before = first.map_or("", |at| line[delimiter + 1..at].trim_matches(is_space));
    let changed = value.starts_with(';')
        || value == "\"\""
        || before == "\"\""
        || comment.is_some_and(|at| at < delimiter || Some(at) != first);
    Some(changed)
}

/// The first semicolon that follows a blank.
fn comment_at(text: &str) -> Option<usize> {
    let mut before = None;
    text.char_indices().find_map(|(at, c)| {
        let found = c == ';' && before.is_some_and(is_space);
        before = Some(c);
        found.then_some(at)
    })
}

/// Reads texts as files, in a directory that is used again.
struct Reader {
    sources: Sources,
    context: Context,
    _root: tempfile::TempDir,
}

impl Reader {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            sources: Sources {
                conf: root.path().join("vcycle.conf"),
                dir: root.path().join("vcycle.d"),
            },
            context: context(),
            _root: root,
        }
    }

    /// What we make of a text, in the form of the script's answers.
    fn read(&self, text: &[u8]) -> Value {
        std::fs::write(&self.sources.conf, text).unwrap();
        let loaded = load(&self.sources, &self.context);
        // Only errors of syntax have a line and no section.
        let placed = |problem: &Problem| problem.line.is_some() && problem.section.is_none();
        let syntax = |problem: &&Problem| problem.is_error() && placed(problem);
        let syntax: Vec<&Problem> = loaded.problems.iter().filter(syntax).collect();
        let says = |words: &str| loaded.problems.iter().any(|p| p.what.contains(words));
        if says("NUL bytes") || says("not UTF-8") {
            return "no text".into();
        }
        if says("before the first") {
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
}

/// Lines in error that we tell one by one.
const MOST_BAD_LINES: usize = 50;

/// Python's answer with the names as we have them.
fn with_our_names(answer: Value) -> Value {
    let lowered = |members: serde_json::Map<String, Value>| -> serde_json::Map<String, Value> {
        let lowered = members.into_iter();
        lowered
            .map(|(name, value)| (we_lower_names(&name), value))
            .collect()
    };
    let options = |value: Value| match value {
        Value::Object(options) => {
            let lowered = options
                .into_iter()
                .map(|(name, v)| (name.to_lowercase(), v));
            Value::Object(lowered.collect())
        }
        other => other,
    };
    match answer {
        Value::Object(sections) => {
            let sections = lowered(sections).into_iter();
            Value::Object(
                sections
                    .map(|(name, value)| (name, options(value)))
                    .collect(),
            )
        }
        Value::Array(mut lines) => {
            lines.truncate(MOST_BAD_LINES);
            Value::Array(lines)
        }
        other => other,
    }
}

/// Reads each text with all Pythons and with us.
fn compare(usual: u32, texts: &impl Strategy<Value = Text>) {
    let mut pythons = Python::all();
    if pythons.is_empty() {
        eprintln!("skipped: there is no Python to compare with");
    } else if !pythons.iter().any(Python::is_2) {
        eprintln!("skipped: there is no Python 2 to compare with, which read these files first");
    }
    // Every day the oldest and the newest do, at night all of them.
    if std::env::var_os("VCYCLE_FUZZ_CASES").is_none() {
        let last = pythons.len().saturating_sub(1);
        let mut at = 0..;
        pythons.retain(|python| at.next() == Some(last) || python.is_2());
    }
    let compared: Vec<Cell<u32>> = pythons.iter().map(|_| Cell::new(0)).collect();
    let pythons = RefCell::new(pythons);
    let reader = Reader::new();
    let cases = cases(Cost::Cheap, usual);
    fuzz(file!(), cases, texts, |Text(text)| {
        let ours = reader.read(&text);
        let prepared = prepared(&text);
        let Ok(plain) = std::str::from_utf8(&prepared) else {
            return Ok(());
        };
        if plain.contains('\0') {
            prop_assert_eq!(ours, "no text");
            return Ok(());
        }
        for (python, compared) in pythons.borrow_mut().iter_mut().zip(&compared) {
            let changed = !python.is_2() && python_3_changed(plain);
            if changed || we_differ(plain, python) {
                continue;
            }
            compared.set(compared.get() + 1);
            let theirs = with_our_names(python.ask(&prepared));
            prop_assert_eq!(&ours, &theirs, "{} {:?}", &python.version, plain);
        }
        Ok(())
    });
    for (python, compared) in pythons.borrow().iter().zip(&compared) {
        let compared = compared.get();
        eprintln!(
            "Python {}: {compared} of {cases} texts compared",
            python.version
        );
        let least = if python.is_2() { cases / 2 } else { cases / 20 };
        assert!(compared >= least, "too few texts are compared");
    }
}

/// Words and characters that the rules are about.
const TOKENS: &[&str] = &[
    "=",
    ":",
    ";",
    "#",
    "%",
    "\\",
    "\"",
    "\"\"",
    "'",
    "[",
    "]",
    "rem",
    "REM ",
    "remx",
    "rem\t",
    " ",
    "\t",
    "\x0b",
    "\x0c",
    "\r",
    "\r\n",
    "\n",
    "\n\n",
    "\n ",
    "\n\t",
    "= ",
    " ;",
    "\t;",
    " = ",
    " : ",
    " ; ",
    "; ",
    "\u{a0}",
    "\u{85}",
    "\u{2003}",
    "\u{2028}",
    "\u{3000}",
    "\u{feff}",
    "\x1c",
    "\x1f",
    "\0",
    "\x7f",
    "é",
    "É",
    "ß",
    "İ",
    "Σ",
    "K",
    "\u{1d400}",
    "x",
    "Zz",
    "12",
    "[DEFAULT]",
    "\n[a]\n",
    "\n[A  b]\n",
    "__name__",
    "%(x)s",
    "                                        ",
];

/// Lines of any characters.
fn free_line() -> impl Strategy<Value = String> {
    prop::collection::vec(select(TOKENS), 0..8).prop_map(|pieces| pieces.concat())
}

/// Lines that mostly mean something, together: sections with options whose values go on.
fn lines() -> impl Strategy<Value = Text> {
    let header = select(vec![
        "[a]",
        "[b c]",
        "[a] ; x",
        "[b c]=",
        "[DEFAULT]",
        "[]",
        "[a",
        " [a]",
        "[a]]",
        "[B  C]",
        "[default]",
        "[ a ]",
        "[a;b]",
        "[a ;b]",
        "[[a]]",
        "[é]",
        "[a]x=1",
        "[a\t b]",
    ]);
    let option = "(x|y|[A-Z][a-z]{0,2} ?|a b|é|É[a-z]?)[ \t]{0,2}[=:][ \t]{0,2}[ -~]{0,10}( ;| ; |;|\t; )?[ -~]{0,6}";
    let plain = "[a-q]{1,3} ?[=:] ?[!-:<-Z^-~]{0,8}( ; c)?";
    let more = "[ \t\x0b]{1,3}[ -~]{0,8}";
    let line = prop_oneof![
        2 => free_line(),
        2 => header.prop_map(str::to_owned),
        4 => option,
        6 => plain,
        3 => more,
        2 => "[ \t]{1,40}[a-z]{1,5}",
        1 => "[#;]([ -~]|é){0,8}",
        1 => "[a-z ]{0,6}",
        1 => Just(String::new()),
        1 => (1..6000usize).prop_map(|length| format!("x = {}", "long ".repeat(length))),
    ];
    let ends = select(vec!["\n", "\n", "\n", "\n", "\r\n", "\n\n"]);
    let head = select(vec![
        "[a]\n",
        "[a]\n",
        "[a]\n",
        "[a]\n",
        "[A B]\r\n",
        "\u{feff}[a]\n",
        "",
    ]);
    (
        head,
        prop::collection::vec((line, ends), 0..14),
        any::<bool>(),
    )
        .prop_map(|(head, lines, ended)| {
            let mut text = head.to_owned();
            for (line, end) in &lines {
                text.push_str(line);
                text.push_str(end);
            }
            let text = if ended {
                &text
            } else {
                text.trim_end_matches('\n')
            };
            Text(text.as_bytes().to_vec())
        })
}

/// The examples that are installed, changed a little.
fn site_files() -> impl Strategy<Value = Text> {
    let examples: Vec<Vec<u8>> = [
        include_str!("../../../conf/vcycle.conf.example"),
        include_str!("../../../conf/simulated.conf.example"),
        include_str!("../../../vcycle.d/10-space.conf.example"),
        include_str!("../../../vcycle.d/20-machinetypes.conf.example"),
        include_str!("../../../vcycle.d/30-shares.conf.example"),
    ]
    .into_iter()
    .flat_map(|text| [text.to_owned(), in_use(text)])
    .map(String::into_bytes)
    .collect();
    (select(examples), changes(TOKENS)).prop_map(|(text, changes)| Text(mutate(text, &changes)))
}

/// With the options that are commented out, and without the explanations.
fn in_use(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("# "));
    let lines: Vec<&str> = lines.map(|line| line.trim_start_matches('#')).collect();
    lines.join("\n")
}

#[test]
fn python_reads_generated_lines_as_we_do() {
    compare(400, &lines());
}

#[test]
fn python_reads_changed_site_files_as_we_do() {
    compare(150, &site_files());
}

#[test]
fn any_bytes_are_a_configuration_or_an_error() {
    let reader = Reader::new();
    let bytes = prop::collection::vec(any::<u8>(), 0..600).prop_map(Text);
    let texts = prop_oneof![bytes, lines(), site_files()];
    fuzz(file!(), cases(Cost::Cheap, 200), &texts, |Text(text)| {
        std::fs::write(&reader.sources.conf, &text).unwrap();
        let loaded = load(&reader.sources, &reader.context);
        let failed = loaded.problems.iter().any(Problem::is_error);
        prop_assert_eq!(loaded.config.is_none(), failed);
        // A problem is a line and perhaps its advice.
        for problem in &loaded.problems {
            let shown = problem.to_string().replacen("\n  help: ", "", 1);
            prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
        }
        loaded.raw.to_ini();
        let json = loaded.raw.to_json();
        let again = vcycle::config::Raw::from_json(&json).unwrap();
        prop_assert_eq!(again.to_json(), json);
        Ok(())
    });
}
