//! The configuration over the life of the daemon: read at every tick, taken over when it is good,
//! told about when that is news.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::Driver;
use crate::act::userdata::Templates;
use crate::blocking;
use crate::config::{self, Config};
use crate::daemon::{DaemonError, Settings, Tick};
use crate::events::Event;
use crate::images;
use crate::model::Timestamp;
use crate::telemetry::{Lasted, Repeats, Telling};

/// What [`Repeats`] calls the errors and the warnings of the configuration.
const ERRORS: &str = "configuration errors";
const WARNINGS: &str = "configuration warnings";

/// The first configuration, which has to be good.
///
/// # Errors
/// When it is not.
pub(super) async fn begin(
    settings: &Settings,
    pipes: &Arc<config::Pipes>,
    repeats: &mut Repeats,
) -> Result<Config, DaemonError> {
    let loaded = load(settings, pipes).await;
    let Some(config) = loaded.config else {
        return Err(DaemonError::Config(loaded.problems));
    };
    tell_warnings(&loaded.problems, repeats);
    Ok(config)
}

pub(super) async fn load(settings: &Settings, pipes: &Arc<config::Pipes>) -> config::Loaded {
    let (sources, context) = (settings.sources.clone(), settings.config_context());
    let pipes = Arc::clone(pipes);
    blocking::run(move || config::load_with(&sources, &context, &pipes)).await
}

fn as_text(problems: &[config::Problem]) -> String {
    as_lines(problems).join("\n")
}

fn as_lines(problems: &[config::Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn tell_warnings(problems: &[config::Problem], repeats: &mut Repeats) {
    if repeats.is_news(WARNINGS, &as_text(problems)) {
        for problem in problems {
            warn!("{problem}");
        }
    }
}

/// Takes a good configuration over. Tells whether it is another one.
fn take(config: Config, next: &mut Tick) -> bool {
    let changed = *next.config != config;
    if changed {
        info!("using a changed configuration");
    }
    if next.config.server.ca_path != config.server.ca_path {
        next.templates = Templates::new(&config.server.ca_path);
        next.cache = images::Cache::new(&config.server.ca_path);
    }
    next.config = Arc::new(config);
    changed
}

impl Driver {
    /// Puts a good configuration into the next tick; with a bad one the last good one stays.
    pub(super) fn take_over(&mut self, loaded: config::Loaded, now: Timestamp, next: &mut Tick) {
        match loaded.config {
            None => self.reject(&loaded.problems, now),
            Some(config) => {
                let mended = self.repeats.ended(ERRORS);
                if let Some(Lasted { since, .. }) = mended {
                    let since = since.to_rfc3339();
                    info!("the configuration is good again; it had errors since {since}");
                }
                tell_warnings(&loaded.problems, &mut self.repeats);
                let spaces = config.spaces.keys().cloned().collect();
                self.common.board.config_loaded(now, spaces);
                if take(config, next) || mended.is_some() {
                    self.tell(Event::ConfigReloaded {});
                }
            }
        }
    }

    /// Names each error once, and later only says that there are some.
    fn reject(&mut self, problems: &[config::Problem], now: Timestamp) {
        let (problems, warnings): (Vec<_>, Vec<_>) = problems
            .iter()
            .cloned()
            .partition(config::Problem::is_error);
        tell_warnings(&warnings, &mut self.repeats);
        let problems = problems.as_slice();
        match self.repeats.telling(ERRORS, &as_text(problems), now) {
            Telling::News => {
                for problem in problems {
                    error!("{problem}");
                }
                error!("the configuration has errors; going on with the last good one");
                self.tell(Event::ConfigRejected {
                    problems: as_lines(problems),
                });
            }
            Telling::Reminder(Lasted { since, .. }) => error!(
                "the configuration still has errors, since {}; going on with the last good one, and vcycled check names them",
                since.to_rfc3339()
            ),
            Telling::Nothing => {}
        }
        self.common.board.config_rejected(now, as_lines(problems));
    }
}
