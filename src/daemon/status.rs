//! What the daemon shows of itself while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::machines::MachineStatus;
use crate::decide::{Blocked, Report};
use crate::migrate::waiting::Waiting;
use crate::model::{FactoryName, ImageState, MachinetypeName, Seconds, SpaceName, Timestamp};
use crate::record::{LeakStatus, Totals};

/// Everything at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The process; `None` when there is none.
    pub daemon: Option<DaemonStatus>,
    /// The configuration in use.
    pub config: ConfigStatus,
    /// The HTTPS server.
    #[serde(default)]
    pub https: HttpsStatus,
    /// Each space that is configured.
    pub spaces: BTreeMap<SpaceName, Arc<SpaceStatus>>,
    /// How many machines spaces have that are not configured: they are left alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub orphans: BTreeMap<SpaceName, usize>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// The version of the program.
    pub version: String,
    /// The factory's name.
    pub factory: FactoryName,
    /// The number of the process.
    pub process: u32,
    /// When it started.
    pub started: Timestamp,
    /// From the start of one cycle to the start of the next.
    pub interval: Seconds,
}

/// The HTTPS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpsStatus {
    /// Whether there should be one and is none.
    pub is_down: bool,
    /// Why there is none, or why it does not run as `[server]` asks.
    pub problem: Option<String>,
    /// When its certificate runs out.
    pub certificate_expires: Option<Timestamp>,
}

/// The configuration in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// When the files were last found to be good.
    pub loaded: Option<Timestamp>,
    /// When they were last found to be bad, if they are.
    pub rejected: Option<Timestamp>,
    /// What is wrong with them.
    pub problems: Vec<String>,
    /// The spaces that are configured, also before anything else is known of them.
    #[serde(default)]
    pub spaces: Vec<SpaceName>,
}

/// One space after its latest pass.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// Passes in this life of the daemon.
    pub passes: u64,
    /// When the latest began.
    pub began: Timestamp,
    /// How long it took.
    #[serde(default)]
    pub took: Seconds,
    /// When the latest complete scan was.
    pub last_scan: Option<Timestamp>,
    /// What ended the latest pass early, if anything did.
    pub error: Option<String>,
    /// Machines of an older version, because of which nothing is done in the space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The latest trouble that ended passes early, also when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// Whether the disk of the state directory is full, so that nothing is created.
    #[serde(default)]
    pub disk_full: bool,
    /// Counts, limits, and why not more; of the latest pass that came so far.
    pub report: Report,
    /// When that was decided.
    #[serde(default)]
    pub decided: Option<Timestamp>,
    /// The latest machine of each machinetype that could not be made, also when others can be again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<MachinetypeName, Refusal>,
    /// What has happened since the daemon started.
    pub totals: Totals,
    /// Things on the cloud, beside machines, that bear our marks: in use, left over, removed.
    pub leaks: LeakStatus,
    /// The images of machinetypes whose root_image is a file or a URL.
    pub images: BTreeMap<MachinetypeName, ImageState>,
    /// Each machine that has a directory, ended ones included until those are removed.
    #[serde(default)]
    pub machines: Arc<Vec<MachineStatus>>,
}

/// A machine that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When.
    pub at: Timestamp,
    /// What was tried and what came of it.
    pub error: String,
}

impl Refusal {
    /// The latest refusal of a machinetype that is paused because of it: the pause itself only tells
    /// how long it is.
    pub fn behind<'a>(
        refusals: &'a BTreeMap<MachinetypeName, Self>,
        machinetype: &MachinetypeName,
        why: &Blocked,
    ) -> Option<&'a Self> {
        refusals
            .get(machinetype)
            .filter(|_| matches!(why, Blocked::Failing { .. }))
    }
}

/// Trouble that ended passes early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What was tried and what came of it, the last time.
    pub text: String,
    /// The first pass that it ended.
    pub since: Timestamp,
    /// The last.
    pub last: Timestamp,
    /// How many.
    pub passes: u64,
    /// When a pass came through again.
    pub over: Option<Timestamp>,
}

impl SpaceStatus {
    /// A pass at `now` was ended early.
    pub(super) fn failed(&mut self, text: String, now: Timestamp) {
        let before = self.trouble.take().filter(|trouble| trouble.over.is_none());
        self.trouble = Some(Trouble {
            since: before.as_ref().map_or(now, |trouble| trouble.since),
            passes: before.map_or(1, |trouble| trouble.passes.saturating_add(1)),
            text: text.clone(),
            last: now,
            over: None,
        });
        self.error = Some(text);
    }

    /// A pass at `now` came through.
    pub(super) fn succeeded(&mut self, now: Timestamp) {
        self.error = None;
        self.waiting = None;
        if let Some(trouble) = &mut self.trouble {
            trouble.over.get_or_insert(now);
        }
    }
}

/// Where the driver and the spaces put their status, and everybody may look.
#[derive(Clone, Debug)]
pub struct Board(Arc<watch::Sender<Status>>);

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Status::default())))
    }
}

impl Board {
    /// The status now.
    pub fn now(&self) -> Status {
        self.0.borrow().clone()
    }

    /// To be told of changes.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    pub(super) fn begin(&self, daemon: DaemonStatus) {
        self.0.send_modify(|status| status.daemon = Some(daemon));
    }

    pub(super) fn config_loaded(&self, now: Timestamp, spaces: Vec<SpaceName>) {
        self.0.send_modify(|status| {
            status.config = ConfigStatus {
                loaded: Some(now),
                spaces,
                ..ConfigStatus::default()
            };
        });
    }

    pub(super) fn config_rejected(&self, now: Timestamp, problems: Vec<String>) {
        self.0.send_modify(|status| {
            status.config.rejected = Some(now);
            status.config.problems = problems;
        });
    }

    pub(super) fn https(&self, https: HttpsStatus) {
        self.0.send_modify(|status| status.https = https);
    }

    pub(super) fn put(&self, space: &SpaceName, new: SpaceStatus) {
        self.0.send_modify(|status| {
            status.spaces.insert(space.clone(), Arc::new(new));
        });
    }

    pub(super) fn remove(&self, space: &SpaceName) {
        self.0.send_modify(|status| {
            status.spaces.remove(space);
        });
    }

    pub(super) fn orphans(&self, orphans: BTreeMap<SpaceName, usize>) {
        self.0.send_modify(|status| status.orphans = orphans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_counted_while_it_lasts_and_kept_when_it_is_over() {
        let at = Timestamp::from_unix;
        let mut status = SpaceStatus::default();
        status.succeeded(at(50));
        assert_eq!(status.trouble, None);
        status.failed("refused".to_owned(), at(100));
        status.failed("timed out".to_owned(), at(160));
        status.succeeded(at(220));
        status.succeeded(at(280));
        let trouble = status.trouble.clone().unwrap();
        assert_eq!((trouble.since, trouble.last), (at(100), at(160)));
        assert_eq!((trouble.passes, trouble.over), (2, Some(at(220))));
        assert_eq!(
            (trouble.text.as_str(), status.error.is_none()),
            ("timed out", true)
        );
        status.failed("refused".to_owned(), at(340));
        let trouble = status.trouble.unwrap();
        assert_eq!(
            (trouble.since, trouble.passes, trouble.over),
            (at(340), 1, None)
        );
    }
}
