//! What happens, as server-sent events: the status of spaces that have changed, at most once a
//! second, and events.
//!
//! A message holds no more than [`SPACES`] spaces, and never single machines: its size depends on the
//! configuration, not on how many machines there are. A message is made when the one before has
//! been taken, so a client that does not read holds up nothing and fills nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::watch;

use super::overview::{SpaceView, overview, shortened};
use crate::blocking;
use crate::clock::Clock;
use crate::daemon::{ConfigStatus, DaemonStatus, HttpsStatus, SpaceStatus, Status};
use crate::events::{Entry, Recent};
use crate::model::{MachineName, SpaceName, Timestamp};

/// The most spaces in one message.
pub const SPACES: usize = 50;

/// The most problems of a configuration that are sent.
const PROBLEMS: usize = 50;

/// The least time from one message to the next, in real time.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest time without a message, so that each side knows that the other is there.
pub const IDLE: Duration = Duration::from_secs(10);

/// What a client is sent. What it does not hold has not changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Message {
    /// The time by the daemon's clock.
    pub now: Timestamp,
    /// In the first message: which page this daemon serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<&'static str>,
    /// The process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<DaemonStatus>,
    /// The configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigStatus>,
    /// The HTTPS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<HttpsStatus>,
    /// Machines of spaces that are not configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphans: Option<BTreeMap<SpaceName, usize>>,
    /// Spaces that are new or have changed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spaces: BTreeMap<SpaceName, SpaceView>,
    /// Spaces that are there no more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<SpaceName>,
    /// Whether more spaces follow at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// What has happened, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Line>,
}

/// An event for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// When.
    pub time: Timestamp,
    /// In which space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceName>,
    /// Of which machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// What. It may hold what a cloud or a VM has said.
    pub text: String,
}

impl Line {
    fn of(entry: &Entry) -> Self {
        Self {
            time: entry.time,
            space: entry.space.clone(),
            machine: entry.event.machine().cloned(),
            text: shortened(&entry.event.to_string()),
        }
    }
}

/// What one client knows.
#[derive(Debug, Default)]
pub struct Known {
    greeted: bool,
    daemon: Option<DaemonStatus>,
    config: Option<ConfigStatus>,
    https: Option<HttpsStatus>,
    orphans: Option<BTreeMap<SpaceName, usize>>,
    /// Weak: a client that does not read must not keep machines in memory that are long gone.
    spaces: BTreeMap<SpaceName, Weak<SpaceStatus>>,
    events: u64,
}

impl Known {
    /// What there is to tell that is not known, which is known from now on.
    pub fn next(
        &mut self,
        status: &Status,
        recent: &Recent,
        page: &'static str,
        now: Timestamp,
    ) -> Message {
        let mut message = Message {
            now,
            ..Message::default()
        };
        if !self.greeted {
            self.greeted = true;
            message.page = Some(page);
        }
        if self.daemon != status.daemon {
            self.daemon.clone_from(&status.daemon);
            message.daemon.clone_from(&status.daemon);
        }
        if self.config.as_ref() != Some(&status.config) {
            self.config = Some(status.config.clone());
            message.config = Some(bounded(&status.config));
        }
        if self.https.as_ref() != Some(&status.https) {
            self.https = Some(status.https.clone());
            message.https = Some(status.https.clone());
        }
        if self.orphans.as_ref() != Some(&status.orphans) {
            self.orphans = Some(status.orphans.clone());
            message.orphans = Some(status.orphans.clone());
        }
        self.spaces.retain(|name, _| {
            let stays = status.spaces.contains_key(name);
            if !stays {
                message.gone.push(name.clone());
            }
            stays
        });
        for (name, space) in &status.spaces {
            let new = Arc::downgrade(space);
            if self.spaces.get(name).is_some_and(|old| old.ptr_eq(&new)) {
                continue;
            }
            if message.spaces.len() == SPACES {
                message.more = true;
                break;
            }
            message.spaces.insert(name.clone(), overview(space));
            self.spaces.insert(name.clone(), new);
        }
        let events = recent.after(self.events);
        self.events = recent.count();
        message.events = events.iter().map(|entry| Line::of(entry)).collect();
        message
    }
}

fn bounded(config: &ConfigStatus) -> ConfigStatus {
    let problems = config.problems.iter().take(PROBLEMS);
    let mut problems: Vec<String> = problems.map(|problem| shortened(problem)).collect();
    let more = config.problems.len().saturating_sub(PROBLEMS);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    ConfigStatus {
        loaded: config.loaded,
        rejected: config.rejected,
        problems,
        // They come by themselves.
        spaces: Vec::new(),
    }
}

/// Where a stream looks.
#[derive(Debug)]
pub struct Sources {
    /// The status.
    pub status: watch::Receiver<Status>,
    /// The events.
    pub recent: watch::Receiver<Recent>,
    /// The time.
    pub clock: Clock,
    /// Which page is served.
    pub page: &'static str,
}

struct State {
    sources: Sources,
    known: Known,
    /// Whether something is left to tell at once.
    more: bool,
}

/// The messages for one client, without end: whoever serves them ends them.
pub fn messages(sources: Sources) -> impl Stream<Item = Bytes> + Send {
    let state = State {
        sources,
        known: Known::default(),
        more: true,
    };
    stream::unfold(state, |mut state| async move {
        if !state.more {
            state.wait().await;
        }
        let (state, text) = state.tell().await;
        Some((Bytes::from(text), state))
    })
}

impl State {
    /// Comes back when there may be something to tell, not too soon and not too late.
    async fn wait(&mut self) {
        let idle = tokio::time::sleep(IDLE);
        tokio::time::sleep(PAUSE).await;
        // A daemon that ends drops what there is to look at, and then this stream.
        tokio::select! {
            () = idle => {}
            Ok(()) = self.sources.status.changed() => {}
            Ok(()) = self.sources.recent.changed() => {}
        }
    }

    /// The next message. To count a hundred thousand machines takes a moment.
    async fn tell(mut self) -> (Self, String) {
        blocking::run(move || {
            let sources = &mut self.sources;
            let status = sources.status.borrow_and_update().clone();
            let recent = sources.recent.borrow_and_update().clone();
            let now = sources.clock.now();
            let message = self.known.next(&status, &recent, sources.page, now);
            self.more = message.more;
            // JSON has no bare line ends, which would end the field.
            let text = match serde_json::to_string(&message) {
                Ok(json) => format!("data: {json}\n\n"),
                Err(error) => format!(": {error}\n\n"),
            };
            (self, text)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::model::Seconds;

    fn name(number: usize) -> SpaceName {
        SpaceName::new(format!("space{number:0>3}.org")).unwrap()
    }

    fn status(spaces: usize) -> Status {
        let mut status = Status::default();
        for number in 0..spaces {
            status.spaces.insert(name(number), Arc::default());
        }
        status
    }

    fn tell(known: &mut Known, status: &Status, recent: &Recent) -> Message {
        known.next(status, recent, "page", Timestamp::from_unix(1000))
    }

    #[test]
    fn only_what_has_changed_is_sent_again() {
        let (mut known, recent) = (Known::default(), Recent::default());
        let mut status = status(3);
        let first = tell(&mut known, &status, &recent);
        assert_eq!((first.page, first.spaces.len()), (Some("page"), 3));
        assert!(first.config.is_some() && first.orphans.is_some());
        let second = tell(&mut known, &status, &recent);
        let nothing = Message {
            now: Timestamp::from_unix(1000),
            ..Message::default()
        };
        assert_eq!(second, nothing);
        let changed = SpaceStatus {
            took: Seconds::new(5),
            ..SpaceStatus::default()
        };
        status.spaces.insert(name(1), Arc::new(changed));
        status.spaces.remove(&name(2));
        let third = tell(&mut known, &status, &recent);
        assert_eq!(third.spaces.keys().collect::<Vec<_>>(), [&name(1)]);
        assert_eq!(third.gone, [name(2)]);
        assert_eq!(tell(&mut known, &status, &recent), nothing);
    }

    #[test]
    fn many_spaces_come_in_several_messages_and_each_once() {
        let (mut known, recent) = (Known::default(), Recent::default());
        let status = status(2 * SPACES + 1);
        let mut seen = Vec::new();
        loop {
            let message = tell(&mut known, &status, &recent);
            assert!(message.spaces.len() <= SPACES);
            seen.extend(message.spaces.into_keys());
            if !message.more {
                break;
            }
        }
        assert_eq!(seen, status.spaces.into_keys().collect::<Vec<_>>());
    }

    #[test]
    fn events_are_told_once_and_a_bad_configuration_in_bounds() {
        let (mut known, mut recent, mut status) = (Known::default(), Recent::default(), status(0));
        status.config.problems = vec!["x".repeat(5000); 3 * PROBLEMS];
        recent.extend(&[Entry {
            time: Timestamp::from_unix(7),
            space: None,
            event: Event::ConfigRejected {
                problems: status.config.problems.clone(),
            },
        }]);
        let message = tell(&mut known, &status, &recent);
        let problems = message.config.unwrap().problems;
        assert_eq!(problems.len(), PROBLEMS + 1);
        assert_eq!(problems[PROBLEMS], "and 100 more");
        assert_eq!(message.events.len(), 1);
        assert!(message.events[0].text.len() < 1000);
        assert!(tell(&mut known, &status, &recent).events.is_empty());
    }
}
