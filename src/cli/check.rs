//! `vcycled check`: says everything that is wrong with the configuration, and can print what the
//! files come to. Changes nothing and connects to nothing, unless it is asked to fetch the vacuum
//! pipes. What it prints holds no secret.

use std::io::{self, Write};

use crate::clock::Clock;
use crate::cloud::Outside;
use crate::cloud::http::shown;
use crate::config::{Config, Context, Pipes, Problem, Sources, load_with};
use crate::migrate::waiting;
use crate::pipes;
use crate::state::Layout;

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

/// What is known of vacuum pipes, and how that came.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What is known.
    pub pipes: Pipes,
    /// Whether they were fetched just now; else it is what the daemon has kept.
    pub fetched: bool,
    /// What went wrong with fetching them.
    pub problems: Vec<String>,
}

impl Told {
    /// What the daemon has kept in the state directory.
    pub fn kept(context: &Context) -> Self {
        Self {
            pipes: pipes::read_known(&Layout::new(&context.state_dir)),
            ..Self::default()
        }
    }

    /// What the pipes of the configuration say now; of those that cannot be fetched, what the
    /// daemon has kept. Nothing is fetched for a configuration that cannot be used.
    pub async fn fetched(sources: &Sources, context: &Context, clock: Clock) -> Self {
        let mut told = Self::kept(context);
        if let Some(config) = load_with(sources, context, &told.pipes).config {
            let outside = Outside::real(&config.server.ca_path, clock);
            told.problems = pipes::fetch_now(&config.pipes, &outside, &mut told.pipes).await;
            told.fetched = true;
        }
        told
    }

    /// A line for each pipe of the configuration.
    fn lines(&self, config: &Config) -> Vec<String> {
        let pipes = config.pipes.iter();
        let line = |url| {
            let place = format!("vcycled: vacuum pipe {}", shown(url));
            let how = if self.fetched {
                ""
            } else {
                "; not fetched now, as --fetch would"
            };
            let Some(known) = self.pipes.get(url) else {
                return format!("{place}: nothing is known of it{how}");
            };
            let told = counted(known.pipe.entries.len(), "machinetype");
            let others = match known.pipe.other_models {
                0 => String::new(),
                others => format!(" ({others} more of a machine_model that is not for clouds)"),
            };
            let when = known.fetched.to_rfc3339();
            format!("{place}: {told}{others}, as fetched at {when}{how}")
        };
        pipes.map(line).collect()
    }
}

/// Checks the configuration with what the daemon has kept of vacuum pipes. What was asked for goes
/// to `out`, the problems go to `err`. Says whether the configuration can be used; one that cannot is
/// printed as far as it could be read.
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
    run_with(sources, context, &Told::kept(context), format, out, err)
}

/// Checks the configuration with what is `told` of vacuum pipes, else as [`run`].
///
/// # Errors
/// When `out` or `err` cannot be written to.
pub fn run_with(
    sources: &Sources,
    context: &Context,
    told: &Told,
    format: CheckFormat,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<bool> {
    let loaded = load_with(sources, context, &told.pipes);
    for problem in &loaded.problems {
        writeln!(err, "{problem:#}")?;
    }
    for problem in &told.problems {
        writeln!(err, "vcycled: vacuum pipe {problem}")?;
    }
    for line in loaded.config.iter().flat_map(|config| told.lines(config)) {
        match format {
            CheckFormat::Problems => writeln!(out, "{line}")?,
            CheckFormat::Ini | CheckFormat::Json => writeln!(err, "{line}")?,
        }
    }
    for line in waiting(context) {
        writeln!(err, "{line}")?;
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

/// A line for each space of the state directory in which nothing is done before a migration.
fn waiting(context: &Context) -> Vec<String> {
    let layout = Layout::new(&context.state_dir);
    match waiting::everywhere(&layout, &context.hostname) {
        Ok(spaces) => {
            let spaces = spaces.iter();
            let lines = spaces.map(|(space, waiting)| {
                format!("vcycled: space {space}: nothing will be created or destroyed: {waiting}")
            });
            lines.collect()
        }
        Err(problem) => vec![format!(
            "vcycled: {problem}; whether machines of an older version wait there is not known"
        )],
    }
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
