//! The command line: `vcycled [run] | check | plan | status | explain | events | health | log |
//! shutdown | apel-sync | apel | migrate | demo | completions`.
//!
//! Commands that show what the daemon does ask it over its local socket ([`crate::daemon::admin`]),
//! and read the state directory when none runs.
//!
//! Arguments, the environment and the host's name are read here and nowhere below. Every expected
//! failure has a code in [`exit`].

mod apel;
mod apel_sync;
pub mod args;
mod ask;
mod cgi;
pub mod check;
mod completions;
pub mod demo;
mod events;
mod examples;
pub mod exit;
mod explain;
mod health;
mod human;
mod log;
mod migrate;
mod outlook;
mod owner;
mod plan;
mod run;
mod show;
mod shutdown;
mod status;
mod story;
mod surroundings;
mod told;
mod wake;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, CheckOptions, Command};
use check::Told;
use exit::{Exit, Failure};

use crate::clock::Clock;
use crate::config::Sources;
use crate::daemon::{Host, Settings};
use crate::model::FactoryName;
use crate::telemetry::has_colours;

/// Runs the command that `arguments` ask for, and says how it went.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    // A web server gives no arguments of ours.
    if arguments.first().is_some_and(|name| cgi::is_called(name)) {
        return report("vcycle-cgi", cgi::run());
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Clap's own errors are for people and complete; that they cannot be printed leaves
            // nobody to tell.
            let text = error.render();
            let _printed = if error.use_stderr() {
                write_styled(&mut io::stderr(), &text)
            } else {
                write_styled(&mut io::stdout(), &text)
            };
            return match error.kind() {
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion => {
                    Exit::Ok
                }
                _ => Exit::Usage,
            }
            .into();
        }
    };
    report("vcycled", dispatch(arguments))
}

/// Writes what clap has to say, in colours by the rule of all other output: clap's own knows more
/// variables, and would paint a dumb terminal of a CI runner.
fn write_styled(
    stream: &mut (impl Write + IsTerminal),
    text: &clap::builder::StyledStr,
) -> io::Result<()> {
    if has_colours(stream) {
        write!(stream, "{}", text.ansi())
    } else {
        write!(stream, "{text}")
    }
}

fn report(program: &str, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            if let Some(message) = &failure.message {
                // The last resort of a program whose standard error is closed is its exit code.
                let _written = writeln!(io::stderr(), "{program}: {message}");
            }
            failure.exit.into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    owner::become_owner(&arguments)?;
    let settings = settings(&arguments)?;
    let in_place = arguments.has_usual_sources();
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run::run(settings, arguments.log_format),
        Command::Check(options) => run_check(&settings, &options, in_place),
        Command::Plan(options) => plan::run(&settings, &options),
        Command::Status(options) => status::run(&settings, &options),
        Command::Explain(options) => explain::run(&settings, &options),
        Command::Events(options) => events::run(&settings, &options),
        Command::Health(options) => health::run(&settings, &options),
        Command::Log(options) => log::run(&settings, &options),
        Command::ApelSync(options) => apel_sync::run(&settings, &options),
        Command::Apel(command) => apel::run(&settings, &command),
        Command::Migrate(options) => migrate::run(&settings, &options),
        Command::Shutdown(options) => shutdown::run(&settings, &options),
        Command::Demo(options) => run::demo(options),
        Command::Completions(options) => print(&completions::script(options.shell)),
    }
}

fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))
}

/// Checks the configuration and, if it is the one `in_place` and good, what is around it.
fn run_check(settings: &Settings, options: &CheckOptions, in_place: bool) -> Result<(), Failure> {
    let (sources, context) = (&settings.sources, settings.config_context());
    let told = if options.fetch {
        run::look_around(Told::fetched(sources, &context, settings.clock.clone()))?
    } else {
        Told::kept(&context)
    };
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let format = options.format();
    let usable = check::run_with(sources, &context, &told, format, &mut out, &mut err)
        .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))?;
    let loaded = crate::config::load_with(sources, &context, &told.pipes);
    let (lacking, obstacles) = match loaded.config {
        Some(config) => {
            let layout = crate::state::Layout::new(&settings.state_dir);
            let obstacles = in_place.then(|| surroundings::obstacles(&config, &layout));
            let mut lacking = surroundings::lacking(&config);
            lacking.extend(outlook::surprises(&config, &layout, settings.clock.now()));
            (lacking, obstacles.unwrap_or_default())
        }
        None => Default::default(),
    };
    for line in lacking.iter().chain(&obstacles) {
        writeln!(err, "{line}")
            .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))?;
    }
    match (usable, told.problems.is_empty()) {
        (true, true) if !obstacles.is_empty() => Err(Failure::silent(Exit::Io)),
        (true, true) => Ok(()),
        (true, false) => Err(Failure::silent(Exit::Unavailable)),
        (false, _) => Err(Failure::silent(Exit::Config)),
    }
}

fn settings(arguments: &Arguments) -> Result<Settings, Failure> {
    let factory = match &arguments.factory {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    Ok(Settings {
        sources: Sources {
            conf: arguments.config.clone(),
            dir: arguments.config_dir.clone(),
        },
        state_dir: arguments.state_dir.clone(),
        interval: crate::model::Seconds::new(arguments.interval),
        factory,
        clock: Clock::system(),
        events: arguments.events(),
        socket: Some(crate::state::Layout::new(&arguments.state_dir).socket()),
        host: Host::default(),
    })
}

/// The host's name, which names this factory in records and on VMs.
fn host_name() -> Result<FactoryName, Failure> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    FactoryName::new(name).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{error}; name the factory with --factory"),
        )
    })
}
