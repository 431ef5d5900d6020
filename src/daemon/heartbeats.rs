//! Heartbeat lists: written after each scan, for whoever asks the HTTPS server. Whatever goes wrong
//! with them ends no pass: it is said once and tried again in the next one.

use tracing::{error, info};

use super::pass::Pass;
use crate::blocking;
use crate::decide::Heartbeats;
use crate::model::SpaceSnapshot;

/// What [`crate::telemetry::Repeats`] calls trouble with them.
const SUBJECT: &str = "heartbeat lists";

impl Pass<'_> {
    /// Writes the lists that have changed. A scan that is not believed changes none.
    pub(super) async fn publish_heartbeats(
        &mut self,
        heartbeats: &Heartbeats,
        snapshot: &SpaceSnapshot,
    ) {
        if snapshot.empty_scans > 0 {
            return;
        }
        let wanted = heartbeats.lists();
        let (store, space) = (self.common.store.clone(), self.config.name.clone());
        let mut lists = std::mem::take(&mut self.known.lists);
        let writing = blocking::run(move || {
            let published = lists.publish(&store, &space, wanted);
            (lists, published)
        });
        let (lists, published) = writing.await;
        self.known.lists = lists;
        match published {
            Ok(()) => {
                if self.known.repeats.is_over(SUBJECT).is_some() {
                    info!("heartbeat lists can be written again");
                }
            }
            Err(problem) => {
                if self.known.repeats.is_news(SUBJECT, &problem.to_string()) {
                    error!("{problem}; the heartbeat list stays as it was until the next cycle");
                }
            }
        }
    }
}
