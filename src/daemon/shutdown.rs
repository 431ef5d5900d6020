//! What is said of a space that is to be shut down: once when it begins, once when its time has
//! come, once when it is empty, and once when that is over; in the log and as events.

use tracing::info;

use crate::config::SpaceConfig;
use crate::decide::Report;
use crate::events::Event;
use crate::model::Timestamp;
use crate::telemetry::Repeats;

/// What [`Repeats`] calls a space that is to be shut down, the event that tells it, and a space that
/// is empty because of it.
const SHUTDOWN: &str = "shutdown";
const BEGAN: &str = "shutdown began";
const EMPTY: &str = "shutdown and empty";

/// Before a pass: whether the space has to be down, and since or until when. Returns what others
/// have to be told of it.
pub(super) fn announce(
    config: &SpaceConfig,
    now: Timestamp,
    repeats: &mut Repeats,
) -> Option<Event> {
    let Some(at) = config.down_by() else {
        repeats.is_over(BEGAN);
        repeats.is_over(EMPTY);
        return repeats.is_over(SHUTDOWN).map(|_| {
            info!(
                "the space need not be shut down any more: machines are created again; those that were told to be down keep their time"
            );
            Event::ShutdownCancelled {}
        });
    };
    let ordered = config.is_ordered_down();
    let by = if ordered {
        format!(
            "set by vcycled shutdown; vcycled shutdown --cancel {} takes it back",
            config.name
        )
    } else {
        "shutdown_time in the configuration".to_owned()
    };
    let text = if now >= at {
        format!(
            "the space has had to be down since {} ({by}): nothing is created",
            at.to_rfc3339()
        )
    } else {
        format!(
            "the space has to be down by {} ({by}): machines are told, and none is created that could not live",
            at.to_rfc3339()
        )
    };
    if repeats.is_news(SHUTDOWN, &text) {
        info!("{text}");
    }
    let began = Event::ShutdownBegan { by: at, ordered };
    repeats.is_news(BEGAN, &began.to_string()).then_some(began)
}

/// After a decision: whether all machines are gone because of it, which others have to be told.
pub(super) fn note_empty(
    config: &SpaceConfig,
    report: &Report,
    now: Timestamp,
    repeats: &mut Repeats,
) -> Option<Event> {
    let at = config.down_by().filter(|at| now >= *at)?;
    if report.space.machines > report.space.foreign_machines {
        repeats.is_over(EMPTY);
        return None;
    }
    let until = if config.is_ordered_down() {
        format!("vcycled shutdown --cancel {}", config.name)
    } else {
        "shutdown_time in the configuration is changed".to_owned()
    };
    repeats.is_news(EMPTY, &at.to_string()).then(|| {
        info!("the space is shut down: it has no machines left, and stays empty until {until}");
        Event::ShutdownComplete {}
    })
}
