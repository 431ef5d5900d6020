//! What is wrong with a configuration, said so that a person can put it right.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In a file.
    Line {
        /// The file.
        file: Arc<Path>,
        /// The line, counted from 1.
        line: usize,
    },
    /// In what a vacuum pipe says.
    Entry {
        /// Its URL, without what may be secret in it.
        pipe: Arc<str>,
        /// The machinetype in it, counted from 1.
        entry: usize,
    },
}

impl Origin {
    /// The line, if it stands in a file.
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::Line { line, .. } => Some(*line),
            Self::Entry { .. } => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Entry { pipe, entry } => write!(f, "{pipe} entry {entry}"),
        }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not mean what its author wanted.
    Warning,
}

/// One problem. Its text never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file; `None` for a configuration that came from a snapshot, and for what a vacuum pipe
    /// says.
    pub file: Option<PathBuf>,
    /// The line, counted from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// The URL of the vacuum pipe that says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipe: Option<String>,
    /// The machinetype in it, counted from 1; `None` when the pipe as a whole is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<usize>,
    /// The section, without its brackets.
    pub section: Option<String>,
    /// The option, as the table of options calls it.
    pub option: Option<String>,
    /// What is wrong and what was expected. It names the option and its value where that helps.
    pub what: String,
    /// What to write instead, if that can be told.
    pub help: Option<String>,
}

impl Problem {
    /// An error that is bound to no place yet.
    pub(super) fn error(what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: None,
            line: None,
            pipe: None,
            entry: None,
            section: None,
            option: None,
            what: what.into(),
            help: None,
        }
    }

    /// A warning that is bound to no place yet.
    pub(super) fn warning(what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(what)
        }
    }

    /// The same problem in this file as a whole.
    pub(super) fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The same problem at this place, if it is known.
    pub(super) fn at(mut self, origin: Option<&Origin>) -> Self {
        match origin {
            Some(Origin::Line { file, line }) => {
                self.file = Some(file.to_path_buf());
                self.line = Some(*line);
            }
            Some(Origin::Entry { pipe, entry }) => {
                self.pipe = Some(pipe.to_string());
                self.entry = Some(*entry);
            }
            None => {}
        }
        self
    }

    /// The same problem in what this vacuum pipe says as a whole.
    pub(super) fn in_pipe(mut self, pipe: &str) -> Self {
        self.pipe = Some(pipe.to_owned());
        self
    }

    /// The same problem in this section.
    pub(super) fn in_section(mut self, section: &str) -> Self {
        self.section = Some(section.to_owned());
        self
    }

    /// The same problem with this option.
    pub(super) fn with_option(mut self, option: &str) -> Self {
        self.option = Some(option.to_owned());
        self
    }

    /// The same problem with advice.
    pub(super) fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// Whether the configuration cannot be used because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    /// `FILE:LINE: [SECTION] WHAT (ADVICE)` on one line, as a log wants it, or `URL entry N:` in the
    /// place of file and line; with `{:#}` the advice
    /// is on a line of its own. What was quoted from a file, an option's name for example, cannot
    /// break the line or move a terminal's cursor: control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", escaped(&file.to_string_lossy()))?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if let Some(pipe) = &self.pipe {
            f.write_str(&escaped(pipe))?;
            if let Some(entry) = self.entry {
                write!(f, " entry {entry}")?;
            }
            f.write_str(": ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if let Some(section) = &self.section {
            write!(f, "[{}] ", shortened(section))?;
        }
        f.write_str(&escaped(&self.what))?;
        if let Some(help) = &self.help {
            let help = escaped(help);
            if f.alternate() {
                write!(f, "\n  help: {help}")?;
            } else {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

/// `text` with its control characters escaped.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut shown, c| {
        if c.is_control() {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// `text` on one line and of bounded length, to be put between quotes in messages.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    let beginning: String = text.chars().take(LONGEST).collect();
    let mut shown = escaped(&beginning).replace('"', "\\\"");
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_like_a_compiler_message() {
        let origin = Origin::Line {
            file: Path::new("/etc/vcycle.d/20-atlas.conf").into(),
            line: 14,
        };
        let problem = Problem::error("max_wallclock_seconds = \"24h\": expected whole seconds")
            .at(Some(&origin))
            .in_section("machinetype example.org atlas")
            .with_help(Some("write 86400".to_owned()));
        assert_eq!(
            format!("{problem:#}"),
            "/etc/vcycle.d/20-atlas.conf:14: [machinetype example.org atlas] \
             max_wallclock_seconds = \"24h\": expected whole seconds\n  help: write 86400"
        );
        assert_eq!(
            problem.to_string(),
            "/etc/vcycle.d/20-atlas.conf:14: [machinetype example.org atlas] \
             max_wallclock_seconds = \"24h\": expected whole seconds (write 86400)"
        );
        let origin = Origin::Entry {
            pipe: "https://x/p.json".into(),
            entry: 2,
        };
        assert_eq!(
            Problem::warning("is bad").at(Some(&origin)).to_string(),
            "https://x/p.json entry 2: warning: is bad"
        );
        let warning = Problem::warning("is empty").in_file(Path::new("/a"));
        assert_eq!(warning.to_string(), "/a: warning: is empty");
    }

    #[test]
    fn a_name_from_the_file_does_not_break_the_line() {
        let problem = Problem::error("user_data_file_\tca: expected letters")
            .in_file(Path::new("/etc/a\nb.conf"))
            .with_help(Some("not \r".to_owned()));
        assert_eq!(
            problem.to_string(),
            "/etc/a\\nb.conf: user_data_file_\\tca: expected letters (not \\r)"
        );
    }

    #[test]
    fn shown_text_stays_on_one_line_and_short() {
        assert_eq!(shortened("a\nb\"\u{1b}"), "a\\nb\\\"\\u{1b}");
        assert_eq!(shortened(&"x".repeat(5000)).len(), 103);
    }
}
