//! Writing down what was found out about things left behind, for status and log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::act::{RemoveError, RemoveOutcome};
use crate::cloud::{Leftovers, NotListed, Removal};
use crate::decide::leaks::{LeakCount, Leaks, Sightings};
use crate::model::{LeftoverKind, Timestamp};
use crate::telemetry::Repeats;

/// What is known of things that bear the marks of a space, since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakStatus {
    /// When it was looked for last.
    pub looked: Option<Timestamp>,
    /// Each kind of thing.
    pub kinds: BTreeMap<LeftoverKind, KindStatus>,
}

/// What is known of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindStatus {
    /// How many there were when they were last listed.
    #[serde(flatten)]
    pub count: LeakCount,
    /// How many have been removed.
    pub removed: u64,
    /// Why the last look could not list them, if it could not.
    pub not_listed: Option<String>,
}

impl LeakStatus {
    /// Takes over a look at `now` and what follows from it, and says what is new about it.
    pub fn note_look(
        &mut self,
        found: &Leftovers,
        leaks: &Leaks,
        before: &Sightings,
        repeats: &mut Repeats,
        now: Timestamp,
    ) {
        self.looked = Some(now);
        for key in before
            .keys()
            .filter(|key| !leaks.sightings.contains_key(key))
        {
            repeats.is_over(&about_removing(key));
        }
        for (kind, listed) in found {
            let status = self.kinds.entry(*kind).or_default();
            status.not_listed = listed.as_ref().err().map(ToString::to_string);
            let subject = format!("listing each {kind}");
            match listed {
                Ok(_) => {
                    repeats.is_over(&subject);
                    status.count = leaks.counts.get(kind).copied().unwrap_or_default();
                    say_count(*kind, status.count.left, repeats);
                }
                Err(NotListed::Unavailable(why)) => {
                    if repeats.is_news(&subject, why) {
                        debug!("not looking whether a {kind} is left over: {why}");
                    }
                }
                Err(NotListed::Failed(error)) => {
                    if repeats.is_news(&subject, &error.message) {
                        warn!(
                            "cannot look whether a {kind} is left over: {error}; looking again in ten minutes"
                        );
                    }
                }
            }
        }
    }

    /// Takes over what became of removals at `now`, and says so.
    pub fn note_removals(
        &mut self,
        outcomes: &[RemoveOutcome],
        sightings: &mut Sightings,
        repeats: &mut Repeats,
        now: Timestamp,
    ) {
        for outcome in outcomes {
            let leftover = &outcome.remove.leftover;
            let key = (leftover.kind, leftover.id.clone());
            let subject = about_removing(&key);
            match &outcome.result {
                Ok(removal @ (Removal::Removed | Removal::AlreadyGone)) => {
                    repeats.is_over(&subject);
                    sightings.remove(&key);
                    let status = self.kinds.entry(leftover.kind).or_default();
                    status.count.left = status.count.left.saturating_sub(1);
                    let since = outcome.remove.since.to_rfc3339();
                    if *removal == Removal::Removed {
                        info!("removed {leftover}: it is ours, and nothing uses it since {since}");
                        status.removed += 1;
                    } else {
                        info!("{leftover} was left over since {since}; it is already gone");
                    }
                }
                Ok(Removal::Changed(why)) => {
                    // Without a sighting no later look would find out that this is over.
                    repeats.is_over(&subject);
                    sightings.remove(&key);
                    info!("{leftover} is not removed: {why}");
                }
                Ok(Removal::InUse(why)) => {
                    if !note_try(sightings, &key, true, now) {
                        let status = self.kinds.entry(leftover.kind).or_default();
                        status.count.left = status.count.left.saturating_sub(1);
                        status.count.used = status.count.used.saturating_add(1);
                    }
                    if repeats.is_news(&subject, why) {
                        info!("{leftover} is not removed: {why}; looking again later");
                    }
                }
                Err(RemoveError::NotTried) => debug!("{leftover} is not removed in this cycle"),
                Err(RemoveError::Cloud(error)) => {
                    note_try(sightings, &key, false, now);
                    if repeats.is_news(&subject, &error.message) {
                        warn!(
                            "cannot remove {leftover}: {error}; this is tried again, at most once an hour after the third time"
                        );
                    }
                }
            }
        }
    }
}

/// Notes a removal that did not succeed, and says whether the one before found a hidden use already.
fn note_try(
    sightings: &mut Sightings,
    key: &(LeftoverKind, String),
    hidden_use: bool,
    now: Timestamp,
) -> bool {
    let Some(sighting) = sightings.get_mut(key) else {
        return false;
    };
    sighting.tries = sighting.tries.saturating_add(1);
    sighting.tried = Some(now);
    std::mem::replace(&mut sighting.hidden_use, hidden_use)
}

/// What [`Repeats`] calls the trouble with a removal.
fn about_removing((kind, id): &(LeftoverKind, String)) -> String {
    format!("removing {kind} {id}")
}

fn say_count(kind: LeftoverKind, left: u32, repeats: &mut Repeats) {
    let subject = format!("{kind} left over");
    if left == 0 {
        repeats.is_over(&subject);
    } else if repeats.is_news(&subject, &left.to_string()) {
        info!("{left} {kind}(s) of ours are used by nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{CloudError, CloudErrorKind};
    use crate::decide::leaks::Remove;
    use crate::model::{Leftover, Sighting};

    /// A port that is left over, and what sightings call it.
    fn port() -> (Leftover, (LeftoverKind, String)) {
        let port = Leftover {
            kind: LeftoverKind::Port,
            id: "p1".to_owned(),
            name: String::new(),
            user: None,
        };
        let key = (port.kind, port.id.clone());
        (port, key)
    }

    #[test]
    fn a_thing_in_use_by_what_no_listing_shows_is_told_of_once_and_waits() {
        let now = Timestamp::from_unix(5000);
        let (leftover, key) = port();
        let sighting = Sighting::new(now);
        let mut sightings = Sightings::from([(key.clone(), sighting)]);
        let (mut status, mut repeats) = (LeakStatus::default(), Repeats::default());
        let kind = status.kinds.entry(leftover.kind).or_default();
        kind.count = LeakCount { left: 1, used: 0 };
        for tries in 1..3 {
            let why = "server s is not listed, and still there";
            let outcome = RemoveOutcome {
                remove: Remove {
                    leftover: leftover.clone(),
                    since: now,
                },
                result: Ok(Removal::InUse(why.to_owned())),
            };
            status.note_removals(&[outcome], &mut sightings, &mut repeats, now);
            let count = status.kinds[&leftover.kind].count;
            assert_eq!(count, LeakCount { left: 0, used: 1 });
            assert_eq!(sightings[&key].tries, tries);
            assert_eq!(sightings[&key].tried, Some(now));
            assert!(!repeats.is_news(&about_removing(&key), why), "it was told");
        }
    }

    #[test]
    fn what_is_said_of_a_thing_is_forgotten_with_its_sighting() {
        let now = Timestamp::from_unix(5000);
        let (leftover, key) = port();
        let refused = || {
            let error = CloudError::new(CloudErrorKind::Rejected, "DELETE", "409");
            Err(RemoveError::Cloud(error))
        };
        for end in [
            Removal::Removed,
            Removal::AlreadyGone,
            Removal::Changed("something uses it by now".to_owned()),
        ] {
            let mut status = LeakStatus::default();
            let mut repeats = Repeats::default();
            let sighting = Sighting::new(now);
            let mut sightings = Sightings::from([(key.clone(), sighting)]);
            for (result, stands) in [(refused(), true), (Ok(end.clone()), false)] {
                let outcome = RemoveOutcome {
                    remove: Remove {
                        leftover: leftover.clone(),
                        since: now,
                    },
                    result,
                };
                status.note_removals(&[outcome], &mut sightings, &mut repeats, now);
                let standing = repeats.is_standing(&about_removing(&key));
                assert_eq!(standing, stands, "{end:?}");
                assert_eq!(sightings.contains_key(&key), stands, "{end:?}");
            }
        }
    }
}
