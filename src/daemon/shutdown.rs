//! What is said of a space that is to be shut down: once when it begins, once when its time has
//! come, once when it is empty, and once when that is over.

use tracing::info;

use crate::config::SpaceConfig;
use crate::decide::Report;
use crate::model::Timestamp;
use crate::telemetry::Repeats;

/// What [`Repeats`] calls a space that is to be shut down, and one that is empty because of it.
const SHUTDOWN: &str = "shutdown";
const EMPTY: &str = "shutdown and empty";

/// Before a pass: whether the space has to be down, and since or until when.
pub(super) fn announce(config: &SpaceConfig, now: Timestamp, repeats: &mut Repeats) {
    let Some(at) = config.down_by() else {
        if repeats.is_over(SHUTDOWN).is_some() {
            info!(
                "the space need not be shut down any more: machines are created again; those that were told to be down keep their time"
            );
        }
        repeats.is_over(EMPTY);
        return;
    };
    let by = if config.is_ordered_down() {
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
}

/// After a decision: whether all machines are gone because of it.
pub(super) fn note_empty(
    config: &SpaceConfig,
    report: &Report,
    now: Timestamp,
    repeats: &mut Repeats,
) {
    let Some(at) = config.down_by().filter(|at| now >= *at) else {
        return;
    };
    if report.space.machines > report.space.foreign_machines {
        repeats.is_over(EMPTY);
        return;
    }
    let until = if config.is_ordered_down() {
        format!("vcycled shutdown --cancel {}", config.name)
    } else {
        "shutdown_time in the configuration is changed".to_owned()
    };
    if repeats.is_news(EMPTY, &at.to_string()) {
        info!("the space is shut down: it has no machines left, and stays empty until {until}");
    }
}
