//! `vcycled check`: says everything that is wrong with the configuration, and can print what the
//! files come to. Changes nothing and connects to nothing. What it prints holds no secret.

use std::io::{self, Write};

use crate::config::{Config, Context, Problem, Sources, load};

/// What to print besides the problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFormat {
    /// A line that says whether the configuration can be used.
    Problems,
    /// The merged configuration as INI.
    Ini,
    /// The merged configuration as JSON, each value with its file and line.
    Json,
}

/// Checks the configuration. What was asked for goes to `out`, the problems go to `err`. Says
/// whether the configuration can be used; one that cannot is printed as far as it could be read.
///
/// # Errors
/// When `out` or `err` cannot be written to.
pub fn run(
    sources: &Sources,
    context: &Context,
    format: CheckFormat,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<bool> {
    let loaded = load(sources, context);
    for problem in &loaded.problems {
        writeln!(err, "{problem:#}")?;
    }
    let verdict = verdict(loaded.config.as_ref(), &loaded.problems);
    match format {
        CheckFormat::Problems if loaded.config.is_some() => writeln!(out, "{verdict}")?,
        CheckFormat::Problems => {}
        CheckFormat::Ini => out.write_all(loaded.raw.to_ini().as_bytes())?,
        CheckFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, &loaded.raw.to_json())?;
            writeln!(out)?;
        }
    }
    if loaded.config.is_none() {
        writeln!(err, "{verdict}")?;
    }
    out.flush()?;
    Ok(loaded.config.is_some())
}

/// `vcycled: configuration is in order: 2 spaces, 3 machinetypes, 1 warning`
fn verdict(config: Option<&Config>, problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len().saturating_sub(errors);
    let (warnings, errors) = (counted(warnings, "warning"), counted(errors, "error"));
    match config {
        Some(config) => {
            let spaces = counted(config.spaces.len(), "space");
            let machinetypes = config.spaces.values().map(|space| space.machinetypes.len());
            let machinetypes = counted(machinetypes.sum(), "machinetype");
            format!("vcycled: configuration is in order: {spaces}, {machinetypes}, {warnings}")
        }
        None => format!("vcycled: configuration cannot be used: {errors}, {warnings}"),
    }
}

fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}
