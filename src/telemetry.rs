//! Logging: where it goes and how an error is written out.

pub mod levels;
mod repeats;

use std::error::Error;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use levels::{Levels, NoteSpaces};
pub use repeats::{Lasted, Lasting, Repeats, Telling};

/// An error with everything that caused it, on one line: `a: b: c`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some errors print their source themselves.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// The SDK of EC2 logs whole requests, which have user_data in them: of that nothing is shown,
/// whatever the filter says.
const SECRETIVE: &[&str] = &[
    "aws_smithy_runtime=warn",
    "aws_smithy_runtime_api=warn",
    "aws_sdk_ec2=warn",
    "aws_runtime=warn",
    "aws_sigv4=warn",
];

/// Whether to write to `stream` in colours: to a terminal that has them, unless `NO_COLOR` is set.
pub fn has_colours(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !is_set("NO_COLOR") && !dumb
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object in each line, which stands alone: with its time and its space.
    Json,
}

/// A level that is asked for while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// What a person has to do something about.
    Error,
    /// And what is lived with.
    Warn,
    /// And what changes.
    Info,
    /// And how that comes about.
    Debug,
    /// And everything else.
    Trace,
    /// As the daemon was started.
    Default,
}

impl LogLevel {
    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
            Self::Default => "default",
        }
    }

    /// The level; `None` goes back.
    pub const fn filter(self) -> Option<LevelFilter> {
        match self {
            Self::Error => Some(LevelFilter::ERROR),
            Self::Warn => Some(LevelFilter::WARN),
            Self::Info => Some(LevelFilter::INFO),
            Self::Debug => Some(LevelFilter::DEBUG),
            Self::Trace => Some(LevelFilter::TRACE),
            Self::Default => None,
        }
    }
}

/// Sends events to standard error. Text has no times under systemd, which adds its own, and colours
/// only where [`has_colours`] says so. `VCYCLE_LOG` takes a filter such as `debug` or `vcycle::server=debug`.
pub fn start(filter: Option<&str>, under_systemd: bool, format: Format) {
    let wanted = filter.map(EnvFilter::try_new).transpose();
    let refused = wanted.as_ref().err().map(ToString::to_string);
    let filter_base = wanted
        .ok()
        .flatten()
        .unwrap_or_else(|| EnvFilter::new("info"));
    let filter = SECRETIVE.iter().filter_map(|quiet| quiet.parse().ok());
    let filter = filter.fold(filter_base, EnvFilter::add_directive);
    let (filter, handle) = reload::Layer::new(Levels::new(filter));
    let shown = tracing_subscriber::fmt::layer::<Registry>()
        .with_writer(std::io::stderr)
        .with_target(false);
    let ansi = has_colours(&std::io::stderr());
    let shown = match (format, under_systemd) {
        (Format::Json, _) => shown
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_current_span(true)
            .boxed(),
        (Format::Text, true) => shown.with_ansi(ansi).without_time().boxed(),
        (Format::Text, false) => shown.with_ansi(ansi).boxed(),
    };
    let cycles = filter_fn(|meta| meta.is_span() && meta.name() == levels::CYCLE);
    let spaces = NoteSpaces.with_filter(cycles.with_max_level_hint(LevelFilter::INFO));
    // A second call, in a process that hosts several daemons for a test, changes nothing.
    let started = tracing_subscriber::registry()
        .with(shown.with_filter(filter))
        .with(spaces)
        .try_init();
    match started {
        Ok(()) => levels::keep(handle),
        Err(error) => tracing::debug!(%error, "logging was already set up"),
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "VCYCLE_LOG cannot be understood; logging as without it");
    }
}
