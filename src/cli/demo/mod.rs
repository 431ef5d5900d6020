//! `vcycled demo`: the real daemon with two spaces on the embedded cloud, for a minute.
//!
//! The demo makes a site of its own (certificates, configuration files, state directory), runs the
//! daemon on it with a clock that goes faster, and shows what can be seen from outside, in the
//! files. Nothing in the daemon knows that it is a demo. At the end it checks that what it was
//! to show has happened: a demo that shows nothing fails.
//!
//! In a directory that has a demo already it goes on with that one, whose clock has not stood
//! still: as a daemon that was killed does.

pub mod certificates;
mod show;
mod site;
mod summary;
mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::args::DemoOptions;
use super::exit::{Exit, Failure};
use crate::clock::Clock;
use crate::config::Sources;
use crate::daemon::{self, Board, Control, DaemonError, Host, Settings};
use crate::model::{FactoryName, InvalidName, Seconds};
use crate::rng::Seed;
use crate::state::{Layout, StateError};
use crate::telemetry::chain;

use show::Screen;
use site::Site;
use summary::Summary;
use watch::{View, Watcher};

/// From the start of one cycle to the start of the next, by the demo's clock: what the daemon
/// does by default.
const INTERVAL: Seconds = Seconds::new(60);
/// Between two looks at the files, in real time.
const LOOK: Duration = Duration::from_secs(1);

/// Why there was no demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    /// The directory is somebody else's.
    #[error("{path} is not empty; the demo needs a directory of its own", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory cannot be made.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates cannot be made.
    #[error("cannot make certificates: {0}")]
    Certificates(#[from] openssl::error::ErrorStack),
    /// There is no free port.
    #[error("cannot find a free port on 127.0.0.1: {0}")]
    Port(#[source] io::Error),
    /// What an earlier demo left cannot be read.
    #[error("cannot go on with the demo in {path}: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name of the demo's own is not accepted.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The state directory cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The daemon did not start.
    #[error("the daemon did not start: {}", with_problems(.0))]
    Daemon(#[from] DaemonError),
    /// The daemon ended in the middle of the demo.
    #[error("the daemon ended by itself; its log is {log}", log = log.display())]
    Ended {
        /// The log.
        log: PathBuf,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    /// There is nowhere to show anything.
    #[error("cannot write the demo's output: {0}")]
    Output(#[source] io::Error),
}

impl DemoError {
    fn write(path: &Path, source: io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            source,
        }
    }
}

/// What the daemon says, with what is wrong with the configuration when that is why.
fn with_problems(error: &DaemonError) -> String {
    let mut text = chain(error);
    if let DaemonError::Config(problems) = error {
        for problem in problems {
            text += &format!("\n{problem:#}");
        }
    }
    text
}

/// Runs the demo and shows it on `out`; `in_place` says that this is a terminal, where a table can be
/// drawn over the last one.
///
/// The log of the daemon goes to `vcycled.log` in the demo's directory, unless this process logs
/// already. The directory is left when that was asked for, and when something went wrong.
///
/// # Errors
/// When the demo cannot be set up or shown, when the daemon ends by itself, and when anything that
/// the demo is there to show was not seen to happen. (A demo that is interrupted need not show
/// everything.)
pub async fn run(
    options: DemoOptions,
    in_place: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let root = site::make_root(options.dir.as_deref(), Seed::from_entropy().0)?;
    let result = run_in(&root, &options, in_place, out).await;
    let all_seen = matches!(result, Ok(true));
    if all_seen && !options.keep && options.dir.is_none() {
        std::fs::remove_dir_all(&root).map_err(|source| DemoError::write(&root, source))?;
    } else {
        writeln!(out, "Everything is in {}", root.display()).map_err(DemoError::Output)?;
    }
    if result? {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::Internal,
            "the demo did not show everything that it should",
        ))
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        let exit = match &error {
            DemoError::NotEmpty { .. } | DemoError::Damaged { .. } => Exit::Usage,
            DemoError::Write { .. }
            | DemoError::Port(_)
            | DemoError::State(_)
            | DemoError::Output(_) => Exit::Io,
            DemoError::Certificates(_)
            | DemoError::Name(_)
            | DemoError::Daemon(_)
            | DemoError::Ended { .. }
            | DemoError::Signals(_) => Exit::Internal,
        };
        Self::new(exit, error.to_string())
    }
}

/// The demo in its directory; the answer is whether everything was seen.
async fn run_in(
    root: &Path,
    options: &DemoOptions,
    in_place: bool,
    out: &mut (dyn Write + Send),
) -> Result<bool, DemoError> {
    let site = Site::open(root, options, Clock::system().now())?;
    log_to(&site.log)?;
    let mut screen = Screen::new(out, in_place);
    screen
        .say(&introduction(&site, options))
        .map_err(DemoError::Output)?;

    let clock = Clock::fast_since(site.began, site.plan.speed);
    let control = Control::default();
    let board = Board::default();
    let settings = settings(&site, clock.clone())?;
    let running = daemon::run(settings, control.clone(), board.clone(), || {});
    let mut daemon = tokio::spawn(running);
    let mut show = Show {
        options,
        site: &site,
        clock,
        watcher: Watcher::new(&site),
        screen,
    };
    let shown = show.until_end(&mut daemon, &control).await;
    control.stop.cancel();
    let (summary, interrupted) = shown?;
    let ended = daemon.await;
    ended.map_err(|_| DemoError::Ended {
        log: site.log.clone(),
    })??;

    let missing = show.sum_up(summary)?;
    if interrupted || missing.is_empty() {
        return Ok(true);
    }
    show.say_missing(&missing, &board)?;
    Ok(false)
}

/// What the daemon of the demo is started with.
fn settings(site: &Site, clock: Clock) -> Result<Settings, DemoError> {
    Ok(Settings {
        sources: Sources {
            conf: site.config.clone(),
            dir: site.config_dir.clone(),
        },
        state_dir: site.state_dir.clone(),
        interval: INTERVAL,
        factory: FactoryName::new("demo.example.org")?,
        clock,
        events: Some(crate::events::Place {
            path: site.state_dir.join(super::args::EVENT_LOG_BESIDE),
            max_bytes: super::args::EVENT_LOG_BYTES,
        }),
        socket: Some(Layout::new(&site.state_dir).socket()),
        host: Host::default(),
    })
}

/// Who looks at the files of the demo, and shows what is there.
struct Show<'a> {
    options: &'a DemoOptions,
    site: &'a Site,
    clock: Clock,
    watcher: Watcher,
    screen: Screen<'a>,
}

impl Show<'_> {
    /// Looks at the files again and again until it is time to end. Tells also whether the demo was
    /// interrupted.
    async fn until_end(
        &mut self,
        daemon: &mut JoinHandle<Result<(), DaemonError>>,
        control: &Control,
    ) -> Result<(Summary, bool), DemoError> {
        let mut hangup = signal(SignalKind::hangup()).map_err(DemoError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Signals)?;
        let DemoOptions { keep, seconds, .. } = *self.options;
        let time = async {
            if keep {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        };
        tokio::pin!(time);
        let mut looks = tokio::time::interval(LOOK);
        let mut summary = Summary::default();
        loop {
            tokio::select! {
                () = &mut time => return Ok((summary, false)),
                _ = terminate.recv() => return Ok((summary, true)),
                _ = interrupt.recv() => return Ok((summary, true)),
                // As for any daemon. When it means that the terminal is gone, the next output fails.
                _ = hangup.recv() => control.wake.notify_one(),
                ended = &mut *daemon => {
                    if let Ok(Err(error)) = ended {
                        return Err(error.into());
                    }
                    return Err(DemoError::Ended { log: self.site.log.clone() });
                }
                _ = looks.tick() => {
                    let view: View = self.watcher.look(self.clock.now())?;
                    self.screen.show(&view).map_err(DemoError::Output)?;
                    summary.note(view);
                }
            }
        }
    }

    /// Shows the sums, and tells what has not been seen. What the daemon did in its last moments
    /// counts, too.
    fn sum_up(&mut self, summary: Summary) -> Result<Vec<String>, DemoError> {
        let summary = summary.with_last(self.watcher.look(self.clock.now())?);
        self.screen
            .say(&summary.to_string(self.site))
            .map_err(DemoError::Output)?;
        Ok(summary.missing(self.site.plan.faults.is_some()))
    }

    fn say_missing(&mut self, missing: &[String], board: &Board) -> Result<(), DemoError> {
        let errors = board.now().spaces;
        let errors = errors.iter().filter_map(|(space, status)| {
            let error = status.error.as_ref()?;
            Some(format!("ERROR in {space}: {error}"))
        });
        for line in missing
            .iter()
            .map(|what| format!("NOT SEEN: {what}"))
            .chain(errors)
        {
            self.screen.say(&line).map_err(DemoError::Output)?;
        }
        Ok(())
    }
}

fn introduction(site: &Site, options: &DemoOptions) -> String {
    let speed = site.plan.speed;
    let faults = match site.plan.faults {
        None => String::new(),
        Some(seed) => format!(
            "\n{} % of the requests and of the machines go wrong (seed {seed}).",
            site::FAULT_PERCENT
        ),
    };
    let how_long = if options.keep {
        "until Ctrl-C".to_owned()
    } else {
        format!("for {} s", options.seconds)
    };
    let dashboard = site.dashboard();
    let dashboard = dashboard.map_or_else(String::new, |url| format!("\nIn a browser: {url}"));
    format!(
        "vcycled runs here {how_long} with two spaces on the embedded cloud; its clock goes {speed} \
         times as fast.{faults}\nConfiguration, state and log are in {}\n\
         In another terminal: vcycled --state-dir {} status --watch{dashboard}\n\
         # is a running machine, + one that starts.",
        site.root.display(),
        site.state_dir.display()
    )
}

fn log_to(path: &Path) -> Result<(), DemoError> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| DemoError::write(path, source))?;
    let started = tracing_subscriber::fmt()
        .with_writer(Mutex::new(log))
        .with_ansi(false)
        .with_target(false)
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logging was already set up");
    }
    Ok(())
}
