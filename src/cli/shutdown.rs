//! `vcycled shutdown`: says when spaces have to be down, in files that the daemon reads at the
//! beginning of each pass, and asks the daemon for one.

use std::collections::BTreeSet;

use super::args::ShutdownOptions;
use super::exit::{Exit, Failure};
use super::wake;
use crate::config::{self, Loaded};
use crate::daemon::Settings;
use crate::model::{Seconds, SpaceName, Timestamp};
use crate::state::{Layout, order};

/// A time later than this is in milliseconds, or another slip: the end of the year 9999.
const LATEST: Timestamp = Timestamp::from_unix(253_402_300_799);

/// Writes the files, or removes them, and wakes the daemon.
pub fn run(settings: &Settings, options: &ShutdownOptions) -> Result<(), Failure> {
    let layout = Layout::new(&settings.state_dir);
    let loaded = config::load(&settings.sources, &settings.config_context());
    let spaces = spaces(&loaded, options, &layout)?;
    let now = settings.clock.now();
    let grace = |space: &SpaceName| {
        let config = loaded.config.as_ref();
        config.and_then(|config| Some(config.spaces.get(space)?.grace))
    };
    let at = moment(options, now)?;
    let mut failed = None;
    for space in &spaces {
        let done = match at {
            Some(at) => {
                order::shut_down(&layout, space, at).map(|()| promise(now, at, grace(space)))
            }
            None => order::cancel_shutdown(&layout, space).map(|was_set| {
                if was_set {
                    CANCELLED.to_owned()
                } else {
                    "was not to be shut down".to_owned()
                }
            }),
        };
        match done {
            Ok(done) => println!("space {space}: {done}"),
            Err(problem) => {
                failed = Some(Failure::new(
                    Exit::Io,
                    format!("space {space}: {problem}; nothing has changed there"),
                ));
                break;
            }
        }
    }
    println!("{}", wake::daemon(&layout));
    failed.map_or(Ok(()), Err)
}

/// What has been told cannot be taken back: a machine may be ending its work because of it.
const CANCELLED: &str = "need not be shut down any more: machines are created again; those that were told to be down end when they were told";

/// When the space will be down. Each machine has `grace` from when it is told, if that is known.
fn promise(now: Timestamp, at: Timestamp, grace: Option<Seconds>) -> String {
    let text = format!("has to be down by {}", at.to_rfc3339());
    match grace {
        Some(grace) if at < now + grace => format!(
            "{text}; machines that run get grace_seconds, {grace} s, from when they are told, which is until about {}",
            (now + grace).to_rfc3339()
        ),
        _ => text,
    }
}

/// What was asked for: a moment, or `None` to cancel.
fn moment(options: &ShutdownOptions, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let at = match (options.at, options.wait) {
        (Some(at), _) if at < now => {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "--at: {} has passed; --in 0 means as soon as possible",
                    at.to_rfc3339()
                ),
            ));
        }
        (at, wait) => at.or(wait.map(|wait| now + wait)),
    };
    if at.is_some_and(|at| at > LATEST) {
        return Err(Failure::new(
            Exit::Usage,
            "the time is beyond the year 9999; expected seconds, not milliseconds",
        ));
    }
    Ok(at)
}

/// The spaces that are meant. Their names are taken from the configuration even when it has
/// errors, for a site may have to be emptied at such a moment too. What was said of a space that
/// has left the configuration can be cancelled.
fn spaces(
    loaded: &Loaded,
    options: &ShutdownOptions,
    layout: &Layout,
) -> Result<BTreeSet<SpaceName>, Failure> {
    let mut known: BTreeSet<SpaceName> = loaded
        .raw
        .sections()
        .filter_map(|section| SpaceName::new(section.strip_prefix("space ")?).ok())
        .collect();
    if options.cancel {
        let set = order::shut_down_spaces(layout);
        known.extend(set.map_err(|error| Failure::new(Exit::Io, error.to_string()))?);
    }
    let list = |names: &BTreeSet<SpaceName>| {
        let names: Vec<&str> = names.iter().map(SpaceName::as_str).collect();
        names.join(", ")
    };
    if known.is_empty() {
        for problem in &loaded.problems {
            eprintln!("{problem:#}");
        }
        return Err(Failure::new(
            Exit::Config,
            "there is no space in the configuration",
        ));
    }
    if options.spaces.is_empty() {
        return Ok(known);
    }
    let wanted: BTreeSet<SpaceName> = options.spaces.iter().cloned().collect();
    let unknown: BTreeSet<SpaceName> = wanted.difference(&known).cloned().collect();
    if unknown.is_empty() {
        Ok(wanted)
    } else {
        Err(Failure::new(
            Exit::Usage,
            format!(
                "there is no space {}; the spaces are {}",
                list(&unknown),
                list(&known)
            ),
        ))
    }
}
