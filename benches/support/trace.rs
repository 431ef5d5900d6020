//! What a daemon opens while it starts, as strace(1) sees it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::site::{Daemon, Site};

/// What was opened below `machines` until the daemon ran.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opens {
    /// Files that were opened.
    pub files: usize,
    /// The most often that one file was opened.
    pub most_of_one: usize,
    /// Directories that were opened.
    pub directories: usize,
    /// What was looked for and is not there.
    pub missing: usize,
}

/// Whether strace is there and may trace.
pub fn is_possible() -> bool {
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "true"]);
    let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success())
}

/// Starts and ends a daemon on `site` and counts what it opened of its machines' directories.
pub fn start(site: &Site, program: &Path) -> Opens {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    // As a grandchild, so that the daemon is our child; stopping only for what is asked for.
    command.args(["-D", "-f", "--seccomp-bpf", "-y", "-s", "512"]);
    command.args(["-e", "trace=open,openat,openat2", "-o"]);
    command.arg(file.path()).arg(program);
    Daemon::start(site.options(command, 86400)).end();
    super::until("strace has written everything", || {
        let text = std::fs::read_to_string(file.path()).unwrap();
        text.lines()
            .next_back()
            .is_some_and(|line| line.contains("+++ exited"))
            .then(|| count(&text))
    })
}

/// An open that another thread's interrupts takes two lines; the result is in the second, and it
/// alone names the file whatever it was opened by: `= 9</tmp/state/machines/NAME/created>`.
fn count(text: &str) -> Opens {
    let mut opens = Opens::default();
    let mut files: HashMap<&str, usize> = HashMap::new();
    let mut tried = 0;
    for line in text.lines() {
        let begins = !line.contains(" resumed>");
        tried += usize::from(begins && line.contains("/machines/vcycle-"));
        let opened = line
            .rsplit_once(" = ")
            .and_then(|(_, result)| result.split_once('<'))
            .map(|(_, path)| path.trim_end_matches('>'))
            .filter(|path| path.contains("/machines/vcycle-"));
        let Some(path) = opened else { continue };
        let whose = path.rsplit('/').next().unwrap();
        if matches!(whose, "machinefeatures" | "jobfeatures" | "joboutputs")
            || whose.starts_with("vcycle-")
        {
            opens.directories += 1;
        } else {
            *files.entry(path).or_default() += 1;
        }
    }
    opens.files = files.values().sum();
    opens.most_of_one = files.values().copied().max().unwrap_or(0);
    opens.missing = tried - opens.files - opens.directories;
    opens
}
