//! The Pythons of this machine, each a process that reads configuration texts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Answers each line, which is a text in base64, with what the parser makes of it: sections of
/// options, `"headerless"`, `"no text"`, or the numbers of the lines that it cannot read.
const SCRIPT: &str = r##"
import base64, json, sys
try:
    import ConfigParser as configparser, StringIO
    parser = configparser.RawConfigParser
    lines = StringIO.StringIO
    read = lambda p, f: p.readfp(f)
except ImportError:
    import configparser, io
    parser = lambda: configparser.RawConfigParser(
        strict=False, comment_prefixes=("#", ";"), inline_comment_prefixes=(";",),
        delimiters=("=", ":"), empty_lines_in_values=False, allow_no_value=False)
    lines = lambda text: io.StringIO(text.decode("utf-8"))
    read = lambda p, f: p.read_file(f)
for line in iter(sys.stdin.readline, ""):
    p = parser()
    try:
        read(p, lines(base64.b64decode(line)))
        answer = json.dumps(dict((s, dict(p.items(s))) for s in p.sections()))
    except configparser.MissingSectionHeaderError as e:
        answer = json.dumps("headerless")
    except configparser.ParsingError as e:
        answer = json.dumps([number for number, _ in e.errors])
    except UnicodeDecodeError:
        answer = json.dumps("no text")
    print(answer)
    sys.stdout.flush()
"##;

/// One Python.
#[derive(Debug)]
pub struct Python {
    /// `2.7`
    pub version: String,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// Every Python that is found, one of each version: `python2` and `python3` with and without
    /// their minor versions, and those that pyenv keeps.
    pub fn all() -> Vec<Self> {
        let mut found: BTreeMap<(u32, u32), PathBuf> = BTreeMap::new();
        for command in commands() {
            // To ask one takes long where it is a script that looks for the real one.
            if !is_known(&command, &found)
                && let Some(version) = version(&command)
            {
                found.entry(version).or_insert(command);
            }
        }
        found
            .iter()
            .map(|(version, command)| Self::start(*version, command))
            .collect()
    }

    fn start((major, minor): (u32, u32), command: &Path) -> Self {
        let mut child = Command::new(command)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            version: format!("{major}.{minor}"),
            questions: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub fn is_2(&self) -> bool {
        self.version.starts_with("2.")
    }

    pub fn ask(&mut self, text: &[u8]) -> Value {
        writeln!(self.questions, "{}", STANDARD.encode(text)).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("Python failed at {text:?}"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn commands() -> Vec<PathBuf> {
    let names = ["python2.7", "python2", "python3", "python"].map(str::to_owned);
    let minor = (4..30).map(|minor| format!("python3.{minor}"));
    let named = names.into_iter().chain(minor).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or(home);
    let kept = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let kept = kept.into_iter().flatten().flatten();
    let kept = kept.map(|entry| entry.path().join("bin/python"));
    kept.chain(named).collect()
}

/// Whether the name of a command tells a version that has been found.
fn is_known(command: &Path, found: &BTreeMap<(u32, u32), PathBuf>) -> bool {
    let name = command
        .to_str()
        .and_then(|name| name.strip_prefix("python"));
    name.is_some_and(|told| {
        let versions = found
            .keys()
            .map(|(major, minor)| format!("{major}.{minor}"));
        versions
            .into_iter()
            .any(|version| version.starts_with(told))
    })
}

fn version(command: &Path) -> Option<(u32, u32)> {
    let asked = Command::new(command)
        .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        .stderr(Stdio::null())
        .output();
    let told = String::from_utf8(asked.ok()?.stdout).ok()?;
    let (major, minor) = told.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
