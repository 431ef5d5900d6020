//! `vcycled apel-sync`: tells the accounting server how many records there are.

use std::collections::BTreeSet;
use std::io::Write;

use super::args::ApelSyncOptions;
use super::exit::{Exit, Failure};
use crate::account::queue;
use crate::account::sync::{self, Group, Month};
use crate::config;
use crate::daemon::Settings;
use crate::state::Layout;

/// Counts, queues the message, and prints it. What is not the message goes to standard error.
pub fn run(settings: &Settings, options: &ApelSyncOptions) -> Result<(), Failure> {
    let loaded = config::load(&settings.sources, &settings.config_context());
    let Some(config) = loaded.config else {
        for problem in &loaded.problems {
            eprintln!("{problem:#}");
        }
        return Err(Failure::new(Exit::Config, "the configuration has errors"));
    };
    let sites = config.spaces.values();
    let sites: BTreeSet<String> = sites
        .filter_map(|space| space.gocdb_sitename.clone())
        .collect();
    let layout = Layout::new(&settings.state_dir);
    let io = |error: crate::state::StateError| Failure::new(Exit::Io, error.to_string());
    // A sender that runs as root makes a queue that is missing, and the daemon could put nothing into
    // that one. A slip in --state-dir must not make a state directory.
    if !sites.is_empty() && layout.root().is_dir() {
        queue::make(&layout).map_err(io)?;
    }
    let now = settings.clock.now();
    let months = match options.month {
        Some(month) => vec![month],
        None => Month::due(now, &sync::days(&layout).map_err(io)?),
    };
    let tally = sync::count(&layout, &months).map_err(io)?;
    for (path, why) in &tally.skipped {
        eprintln!("vcycled: {}: {why}; not counted", path.display());
    }
    // Without a name in the GOCDB nothing is sent, and there is a message only to be looked at.
    let is_ours = |group: &Group| sites.is_empty() || sites.contains(&group.site);
    let (ours, others): (Vec<_>, Vec<_>) =
        tally.records.iter().partition(|(group, _)| is_ours(group));
    for (group, count) in others {
        eprintln!(
            "vcycled: {count} record(s) of {} from {} in {} are left out: no space has that gocdb_sitename",
            group.site, group.submit_host, group.month
        );
    }
    if ours.is_empty() {
        let months: Vec<String> = months.iter().map(Month::to_string).collect();
        eprintln!(
            "vcycled: there are no records of {}; no message is made",
            months.join(" and ")
        );
        return Ok(());
    }
    let message = sync::message(ours);
    if sites.is_empty() {
        eprintln!("vcycled: no space has a gocdb_sitename; the message is not queued");
    } else {
        let path = queue::add(&layout, &message, now).map_err(io)?;
        eprintln!("vcycled: queued as {}", path.display());
    }
    std::io::stdout()
        .write_all(message.as_bytes())
        .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))
}
