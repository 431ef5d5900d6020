//! `vcycled run` and `vcycled demo`: a runtime, signals, and the word to systemd.

use std::io::IsTerminal;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info};

use super::args::DemoOptions;
use super::exit::{Exit, Failure};
use crate::daemon::{self, Board, Control, DaemonError, Settings};
use crate::telemetry;

/// How long threads that hang in a call of the system are waited for at the end.
const LINGER: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to end.
pub fn run(settings: Settings, format: telemetry::Format) -> Result<(), Failure> {
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let filter = std::env::var("VCYCLE_LOG").ok();
    telemetry::start(filter.as_deref(), under_systemd, format);
    to_its_end(runtime()?, async {
        let control = Control::default();
        let signals = Signals::install()?;
        tokio::spawn(signals.forward(control.clone()));
        let watchdog = tokio::spawn(watchdog(control.clone()));
        let ended = daemon::run(settings, control, Board::default(), || {
            tell_systemd(&[NotifyState::Ready, NotifyState::Status("running")]);
        })
        .await;
        watchdog.abort();
        ended.map_err(failure)
    })
}

/// Runs `work` and does not wait for what hangs in the system after that: a name that is being
/// looked up, a file of a server that is gone. Dropping a runtime would wait for ever.
fn to_its_end<T>(runtime: tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(LINGER);
    result
}

/// Runs the demo until it is over or interrupted.
pub fn demo(options: DemoOptions) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let in_place = out.is_terminal();
    to_its_end(runtime()?, super::demo::run(options, in_place, &mut out))
}

/// Does `work` that only looks, for a command that ends with it.
pub fn look_around<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    Ok(to_its_end(runtime()?, work))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot start threads: {error}")))
}

fn failure(error: DaemonError) -> Failure {
    let exit = match &error {
        DaemonError::Config(problems) => {
            for problem in problems {
                eprintln!("{problem:#}");
            }
            Exit::Config
        }
        DaemonError::State(_) | DaemonError::Server(_) => Exit::Io,
    };
    Failure::new(exit, telemetry::chain(&error))
}

/// The signals that mean something: SIGTERM and SIGINT end the daemon, SIGHUP starts a cycle now.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Self, Failure> {
        let install = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(
                    Exit::Internal,
                    format!("cannot listen for signals: {error}"),
                )
            })
        };
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hangup: install(SignalKind::hangup())?,
        })
    }

    async fn forward(mut self, control: Control) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => info!("SIGTERM"),
                _ = self.interrupt.recv() => info!("SIGINT"),
                _ = self.hangup.recv() => {
                    control.wake.notify_one();
                    continue;
                }
            }
            tell_systemd(&[NotifyState::Stopping]);
            control.stop.cancel();
            return;
        }
    }
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        debug!(%error, "systemd was not told");
    }
}

/// Tells systemd twice in each watchdog period that the daemon is alive: that its driver goes
/// round, not only that the runtime does.
async fn watchdog(control: Control) {
    let mut microseconds = 0;
    if !sd_notify::watchdog_enabled(false, &mut microseconds) {
        return;
    }
    let mut ticker = tokio::time::interval(Duration::from_micros((microseconds / 2).max(1)));
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        control.is_alive().await;
        tell_systemd(&[NotifyState::Watchdog]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_does_not_wait_for_a_thread_that_hangs() {
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let result = to_its_end(runtime().unwrap(), async {
            tokio::task::spawn_blocking(move || {
                began.send(()).unwrap();
                hang.recv()
            });
            has_begun.await
        });
        assert_eq!(result, Ok(()));
        drop(release);
    }
}
