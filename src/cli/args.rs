//! The arguments.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use super::check::CheckFormat;
use super::completions::Shell;
use super::examples;
use crate::account::ledger::Range;
use crate::account::sync::Month;
use crate::events::Place;
use crate::model::{FactoryName, MachineName, MachinetypeName, Seconds, SpaceName, Timestamp};
use crate::state::layout::DEFAULT_ROOT;
use crate::telemetry::{Format, LogLevel};

/// Where the configuration is by default.
const CONFIG: &str = "/etc/vcycle.conf";

/// The directory beside it.
const CONFIG_DIR: &str = "/etc/vcycle.d";

/// The heading of the options that all commands have.
const ALL_COMMANDS: &str = "Options of all commands";

/// Keeps cloud projects full of VMs by target shares. Without a command: the daemon.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "vcycled",
    version,
    disable_help_subcommand = true,
    after_help = examples::VCYCLED
)]
pub struct Arguments {
    /// Configuration, read last.
    #[arg(
        long,
        global = true,
        help_heading = ALL_COMMANDS,
        value_name = "FILE",
        default_value = CONFIG
    )]
    pub config: PathBuf,
    /// Its *.conf, read first.
    #[arg(
        long,
        global = true,
        help_heading = ALL_COMMANDS,
        value_name = "DIR",
        default_value = CONFIG_DIR
    )]
    pub config_dir: PathBuf,
    /// Machines and records.
    #[arg(long, global = true, help_heading = ALL_COMMANDS, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub state_dir: PathBuf,
    /// From cycle to cycle.
    #[arg(long, global = true, help_heading = ALL_COMMANDS, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub interval: u64,
    /// Name of this factory [default: the host's name].
    #[arg(long, global = true, help_heading = ALL_COMMANDS, value_name = "NAME")]
    pub factory: Option<FactoryName>,
    /// Events [default: /var/log/vcycle/events.jsonl].
    #[arg(long, global = true, help_heading = ALL_COMMANDS, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// The size at which that file is rotated, in bytes; four old ones are kept.
    #[arg(long, global = true, hide = true, value_name = "BYTES", default_value_t = EVENT_LOG_BYTES,
          value_parser = clap::value_parser!(u64).range(1000..))]
    event_log_bytes: u64,
    /// The daemon's log: text or json.
    #[arg(
        long,
        global = true,
        help_heading = ALL_COMMANDS,
        value_enum,
        hide_possible_values = true,
        value_name = "FORMAT",
        default_value_t
    )]
    pub log_format: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The size at which the file of events is rotated, in bytes.
pub const EVENT_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// Where events go by default.
const EVENT_LOG: &str = "/var/log/vcycle/events.jsonl";

/// The same below another state directory than the default: a second instance, or a test.
pub const EVENT_LOG_BESIDE: &str = "events.jsonl";

impl Arguments {
    /// Whether the configuration is taken from its usual places.
    pub fn has_usual_sources(&self) -> bool {
        self.config == Path::new(CONFIG) && self.config_dir == Path::new(CONFIG_DIR)
    }

    /// Where events go, unless nowhere.
    pub fn events(&self) -> Option<Place> {
        let path = match &self.event_log {
            Some(path) if path.as_os_str() == "none" => return None,
            Some(path) => path.clone(),
            None if self.state_dir == Path::new(DEFAULT_ROOT) => PathBuf::from(EVENT_LOG),
            None => self.state_dir.join(EVENT_LOG_BESIDE),
        };
        Some(Place {
            path,
            max_bytes: self.event_log_bytes,
        })
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground (the default).
    #[command(after_help = examples::RUN)]
    Run,
    /// Read the configuration and report every problem.
    Check(CheckOptions),
    /// Show what the next cycle would destroy and create; change nothing.
    Plan(PlanOptions),
    /// Show what the daemon has: spaces, machinetypes, machines.
    Status(StatusOptions),
    /// Say why nothing (more) is created in a space, and until when.
    Explain(ExplainOptions),
    /// Show what has happened: machines, backoffs, configuration.
    Events(EventsOptions),
    /// Say whether all is well, as a Nagios plugin does.
    Health(HealthOptions),
    /// Change what the running daemon logs.
    Log(LogOptions),
    /// Shut spaces down for a while, or cancel that.
    Shutdown(ShutdownOptions),
    /// Count accounting records, for the accounting server.
    ApelSync(ApelSyncOptions),
    /// List the accounting records, show one, or send one again.
    #[command(subcommand, after_help = examples::APEL)]
    Apel(ApelCommand),
    /// Take over the state and the machines of GridPP's Vcycle.
    Migrate(MigrateOptions),
    /// See it work: two spaces on embedded clouds, for about a minute.
    Demo(DemoOptions),
    /// Print the completion for a shell.
    Completions(CompletionsOptions),
}

/// Options of `completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::COMPLETIONS)]
pub struct CompletionsOptions {
    /// The shell: bash, fish or zsh.
    #[arg(hide_possible_values = true)]
    pub shell: Shell,
}

/// Options of `check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::CHECK)]
pub struct CheckOptions {
    /// Print the merged configuration as INI, secrets hidden.
    #[arg(long, conflicts_with = "json")]
    print: bool,
    /// Print it as JSON with file and line of each value, secrets hidden.
    #[arg(long)]
    json: bool,
    /// Fetch the vacuum pipes, in place of what the daemon has kept of them.
    #[arg(long)]
    pub fetch: bool,
}

impl CheckOptions {
    /// What to print.
    pub const fn format(&self) -> CheckFormat {
        if self.json {
            CheckFormat::Json
        } else if self.print {
            CheckFormat::Ini
        } else {
            CheckFormat::Problems
        }
    }
}

/// Options of `plan`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::PLAN)]
pub struct PlanOptions {
    /// Only this space.
    pub space: Option<SpaceName>,
    /// Print one JSON object for each space.
    #[arg(long)]
    pub json: bool,
    /// Decide from a recorded or hand-written situation instead of a cloud.
    #[arg(long, value_name = "FILE", conflicts_with = "dump_snapshot")]
    pub snapshot: Option<PathBuf>,
    /// The moment to decide at, in Unix seconds [default: that of the snapshot, else now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub now: Option<Timestamp>,
    /// The seed of random choices [default: drawn].
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Write the situation that was found to a file, secrets hidden.
    #[arg(long, value_name = "FILE", requires = "space")]
    pub dump_snapshot: Option<PathBuf>,
}

/// Options of `status`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::STATUS)]
pub struct StatusOptions {
    /// The whole story of this machine.
    #[arg(value_name = "MACHINE", value_parser = parse_machine)]
    pub machine: Option<MachineName>,
    /// Only this space.
    #[arg(long, value_name = "SPACE", conflicts_with = "machine")]
    pub space: Option<SpaceName>,
    /// Show all machines that have ended and whose directories are kept, not only the latest.
    #[arg(long)]
    pub all: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Show it again every so many seconds [default: 2].
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<Option<u64>>,
}

impl StatusOptions {
    /// How often it is shown; `None` for once.
    pub fn every(&self) -> Option<u64> {
        self.watch.map(|seconds| seconds.unwrap_or(2))
    }
}

/// Who gives the name of a space is told how it is done.
fn parse_machine(text: &str) -> Result<MachineName, String> {
    text.parse()
        .map_err(|why| format!("not the name of a machine, {why}; --space NAME shows one space"))
}

/// Options of `health`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::HEALTH)]
pub struct HealthOptions {
    /// Only this space.
    #[arg(long, value_name = "SPACE")]
    pub space: Option<SpaceName>,
    /// Warn when the latest complete cycle is so old [default: 5 cycles, at least 300].
    #[arg(long, value_name = "SECONDS")]
    pub warning: Option<u64>,
    /// Critical when it is so old [default: 15 cycles, at least 900].
    #[arg(long, value_name = "SECONDS")]
    pub critical: Option<u64>,
}

/// Options of `log`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::LOG)]
pub struct LogOptions {
    /// Only what the cycles of this space say.
    #[arg(long, value_name = "SPACE")]
    pub space: Option<SpaceName>,
    /// error, warn, info, debug, trace, or default: as the daemon was started.
    #[arg(value_enum, hide_possible_values = true, value_name = "LEVEL")]
    pub level: LogLevel,
}

/// Options of `events`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::EVENTS)]
pub struct EventsOptions {
    /// Only from then on: a length of time such as 90s, 15m, 2h, 3d, Unix seconds, or a time such as
    /// 2026-11-21T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Timestamp>,
    /// Only about this machine.
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<MachineName>,
    /// Only about this space.
    #[arg(long, value_name = "SPACE")]
    pub space: Option<SpaceName>,
    /// Go on with those that come, until interrupted.
    #[arg(long, short)]
    pub follow: bool,
    /// Print the lines as they are.
    #[arg(long)]
    pub json: bool,
}

/// A moment, or how long ago it was.
fn parse_since(text: &str) -> Result<Timestamp, String> {
    let now = crate::clock::Clock::system().now();
    parse_length(text).map_or_else(|| parse_moment(text), |length| Ok(now.earlier(length)))
}

/// `90s`, `15m`, `2h`, `3d`.
fn parse_length(text: &str) -> Option<Seconds> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return None,
    };
    let count: u64 = text.get(..text.len().checked_sub(1)?)?.parse().ok()?;
    Some(Seconds::new(count.checked_mul(unit)?))
}

/// A length of time, in seconds if it has no unit.
fn parse_wait(text: &str) -> Result<Seconds, String> {
    let plain = || text.parse().ok().map(Seconds::new);
    parse_length(text)
        .or_else(plain)
        .ok_or_else(|| "expected seconds, or a length of time such as 90s, 15m, 2h, 3d".to_owned())
}

/// Options of `explain`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::EXPLAIN)]
pub struct ExplainOptions {
    /// The space.
    pub space: SpaceName,
    /// Only this machinetype.
    pub machinetype: Option<MachinetypeName>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Explain a recorded or hand-written situation, as plan does, in place of what the daemon does.
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// The moment to decide at, in Unix seconds [default: that of the snapshot].
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "snapshot")]
    pub now: Option<Timestamp>,
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "expected Unix seconds, as date +%s prints them".to_owned())
}

/// Options of `shutdown`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::SHUTDOWN)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct ShutdownOptions {
    /// Only these spaces [default: all].
    #[arg(value_name = "SPACE")]
    pub spaces: Vec<SpaceName>,
    /// Have all machines down by then: Unix seconds, or a time such as 2026-11-21T18:00:00Z.
    #[arg(long, value_name = "TIME", group = "what", value_parser = parse_moment)]
    pub at: Option<Timestamp>,
    /// Have all machines down in so many seconds, or in a time such as 15m, 2h, 3d; 0 is as soon as
    /// grace_seconds allow.
    #[arg(long = "in", value_name = "LENGTH", group = "what", value_parser = parse_wait)]
    pub wait: Option<Seconds>,
    /// Create machines again. Those that have been told to end still end.
    #[arg(long, group = "what")]
    pub cancel: bool,
}

/// A moment, with its zone if it is a calendar time: an hour more or less matters here.
fn parse_moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let zoned = chrono::DateTime::parse_from_rfc3339(text).ok();
    zoned.and_then(|_| Timestamp::parse_iso8601(text)).ok_or_else(|| {
        "expected Unix seconds, or a time with its zone such as 2026-11-21T18:00:00Z or 2026-11-21T19:00:00+01:00".to_owned()
    })
}

/// Options of `apel-sync`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::APEL_SYNC)]
pub struct ApelSyncOptions {
    /// The month in which the machines ended [default: this one, in its first week also the one
    /// before, and those that records came into within the last week].
    #[arg(value_name = "YYYYMM")]
    pub month: Option<Month>,
}

/// What to do with accounting records.
#[derive(Clone, Debug, Subcommand)]
pub enum ApelCommand {
    /// List the records that wait to be sent and those in the archive.
    List(ApelListOptions),
    /// Show one record whole.
    Show(ApelShowOptions),
    /// Put records of the archive into the outgoing queue again.
    Resend(ApelResendOptions),
}

/// Whose ends are meant.
#[derive(Clone, Copy, Debug, Args)]
pub struct ApelRange {
    /// Only of machines that ended from then on: a length of time such as 90s, 15m, 2h, 3d ago,
    /// Unix seconds, or a time such as 2026-11-21T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Timestamp>,
    /// Only of machines that ended by then.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub until: Option<Timestamp>,
}

impl ApelRange {
    /// As a range.
    pub const fn range(self) -> Range {
        Range {
            since: self.since,
            until: self.until,
        }
    }
}

/// Options of `apel list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::APEL_LIST)]
pub struct ApelListOptions {
    /// From when until when.
    #[command(flatten)]
    pub range: ApelRange,
    /// Only of this space.
    #[arg(long, value_name = "SPACE")]
    pub space: Option<SpaceName>,
    /// Only of this machine.
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<MachineName>,
    /// Only what is in the outgoing queue.
    #[arg(long)]
    pub waiting: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `apel show`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::APEL_SHOW)]
pub struct ApelShowOptions {
    /// The name of the record, such as 20261121/18000012345678, its machine, or its LocalJobId.
    #[arg(value_name = "RECORD")]
    pub record: String,
    /// Print one JSON object for each record.
    #[arg(long)]
    pub json: bool,
}

/// Options of `apel resend`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::APEL_RESEND)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["records", "since", "until", "space"])))]
pub struct ApelResendOptions {
    /// The records: names, machines or LocalJobIds [default: all that the options leave].
    #[arg(value_name = "RECORD")]
    pub records: Vec<String>,
    /// From when until when.
    #[command(flatten)]
    pub range: ApelRange,
    /// Only of this space.
    #[arg(long, value_name = "SPACE")]
    pub space: Option<SpaceName>,
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    pub apply: bool,
}

/// Options of `migrate`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::MIGRATE)]
pub struct MigrateOptions {
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    pub apply: bool,
    /// When the old daemon last completed a cycle [default: as its files say]: a length of time such
    /// as 10m ago, Unix seconds, or a time such as 2026-11-21T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub last_cycle: Option<Timestamp>,
    /// Where the old daemon writes its process number [default: /var/run/vcycled.pid, for the default
    /// state directory].
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
}

/// Options of `demo`.
#[derive(Clone, Debug, Args)]
#[command(after_help = examples::DEMO)]
pub struct DemoOptions {
    /// Go on until interrupted.
    #[arg(long)]
    pub keep: bool,
    /// Work in this directory, which must be empty or not exist, and leave it there; or go on
    /// with the demo that is in it.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long it takes, in real seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        conflicts_with = "keep"
    )]
    pub seconds: u64,
    /// How many times as fast as the real clock the demo's clock goes.
    #[arg(long, value_name = "TIMES", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=600))]
    pub speed: u32,
    /// Let requests and VMs go wrong as on a bad day of a real cloud, the same each time with the
    /// same SEED.
    #[arg(long, value_name = "SEED", num_args = 0..=1)]
    pub faults: Option<Option<u32>>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn each_help_fits_a_screen_and_has_examples() {
        let program = Arguments::command().term_width(80);
        let mut names = Vec::new();
        for command in program.get_subcommands() {
            names.push(vec![command.get_name()]);
            for nested in command.get_subcommands() {
                names.push(vec![command.get_name(), nested.get_name()]);
            }
        }
        assert!(names.len() > 10, "{names:?}");
        let help = |line: &[&str]| {
            let shown = program.clone().try_get_matches_from(line);
            shown.unwrap_err().to_string()
        };
        let mut helps = vec![("vcycled".to_owned(), help(&["vcycled", "--help"]))];
        helps.extend(names.iter().map(|names| {
            let line = [&["vcycled"], &**names, &["--help"]].concat();
            (names.join(" "), help(&line))
        }));
        for (name, help) in helps {
            let lines = help.lines().count();
            assert!((24..=40).contains(&lines), "{name}: {lines} lines\n{help}");
            assert!(help.contains("\nExamples:\n"), "{name}\n{help}");
            // Clap breaks all lines but this one.
            let mut lines = help.lines().filter(|line| !line.starts_with("Usage:"));
            let wide = lines.find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{name}");
        }
    }

    #[test]
    fn an_interval_is_one_that_can_be_waited_for() {
        for (text, good) in [("1", true), ("86400", true), ("0", false), ("86401", false)] {
            let parsed = Arguments::try_parse_from(["vcycled", "--interval", text]);
            assert_eq!(parsed.is_ok(), good, "{text}");
        }
    }
}
