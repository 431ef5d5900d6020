//! Says in time that the certificate of the HTTPS server runs out: without one that is good no
//! machine writes a heartbeat, and all of them end for want of it.

use std::path::Path;

use tracing::{error, info, warn};

use crate::model::Timestamp;
use crate::telemetry::{Lasted, Repeats, Telling};

/// What [`Repeats`] calls a certificate that runs out, and one that has.
const RUNS_OUT: &str = "certificate that runs out";
const EXPIRED: &str = "certificate that has expired";
/// From how many days before its end on it is told, once a day.
const DAYS: u64 = 14;
const DAY: u64 = 86_400;

/// Tells of the certificate in `file`, which is good until `expires`; `None` when none is shown.
pub(super) fn tell(expires: Option<Timestamp>, file: &Path, now: Timestamp, repeats: &mut Repeats) {
    let file = file.display();
    let end = expires.map(Timestamp::to_rfc3339).unwrap_or_default();
    match expires.map(|expires| (expires > now, expires.since(now).get() / DAY)) {
        Some((false, _)) => {
            let still = match repeats.telling(EXPIRED, &end, now) {
                Telling::News => "",
                Telling::Reminder(_) => "still: ",
                Telling::Nothing => return,
            };
            error!(
                "{still}the certificate in {file} has expired at {end}: machines that verify it write nothing any more, and are destroyed when their heartbeats are missed; a new one is used from the next cycle on"
            );
            return;
        }
        Some((true, days)) if days < DAYS => {
            if repeats.is_news(RUNS_OUT, &format!("{end} {days}")) {
                warn!(
                    "the certificate in {file} runs out at {end}, in {}; a new one is used from the next cycle on",
                    match days {
                        0 => "less than a day".to_owned(),
                        days => format!("{days} day(s)"),
                    }
                );
            }
        }
        Some((true, _)) | None => {
            repeats.is_over(RUNS_OUT);
        }
    }
    if let Some(Lasted { since, .. }) = repeats.ended(EXPIRED) {
        let since = since.to_rfc3339();
        match expires {
            Some(_) => info!(
                "the certificate in {file} is good again, until {end}; it was not since {since}"
            ),
            None => info!("no certificate is shown any more; the one before had expired"),
        }
    }
}
