//! What the daemon shows of itself while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::decide::Report;
use crate::model::{ImageState, MachinetypeName, SpaceName, Timestamp};
use crate::record::{LeakStatus, Totals};

/// Everything at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// The configuration in use.
    pub config: ConfigStatus,
    /// Each space that is configured.
    pub spaces: BTreeMap<SpaceName, Arc<SpaceStatus>>,
}

/// The configuration in use.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigStatus {
    /// When the files were last found to be good.
    pub loaded: Option<Timestamp>,
    /// When they were last found to be bad, if they are.
    pub rejected: Option<Timestamp>,
    /// What is wrong with them.
    pub problems: Vec<String>,
}

/// One space after its latest pass.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SpaceStatus {
    /// Passes in this life of the daemon.
    pub passes: u64,
    /// When the latest began.
    pub began: Timestamp,
    /// When the latest complete scan was.
    pub last_scan: Option<Timestamp>,
    /// What ended the latest pass early, if anything did.
    pub error: Option<String>,
    /// Counts, limits, and why not more; of the latest pass that came so far.
    pub report: Report,
    /// What has happened since the daemon started.
    pub totals: Totals,
    /// Things on the cloud, beside machines, that bear our marks: in use, left over, removed.
    pub leaks: LeakStatus,
    /// The images of machinetypes whose root_image is a file or a URL.
    pub images: BTreeMap<MachinetypeName, ImageState>,
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

    pub(super) fn config_loaded(&self, now: Timestamp) {
        self.0.send_modify(|status| {
            status.config = ConfigStatus {
                loaded: Some(now),
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
}
