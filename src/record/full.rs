//! A full disk: one trouble, however many machines feel it, told once.

use tracing::{error, info};

use super::Recorder;
use crate::state::StateError;
use crate::telemetry::Repeats;

/// The subject of a full disk.
const NO_ROOM: &str = "room in the state directory";

/// Whether the disk was full, by what has been said of it.
pub fn is_out_of_room(repeats: &Repeats) -> bool {
    repeats.is_standing(NO_ROOM)
}

impl Recorder<'_> {
    /// Tells of it, if it has not been told.
    pub(super) fn say_no_room(&mut self, problem: &StateError) {
        if self.repeats.is_news(NO_ROOM, "") {
            error!(
                "{problem}; nothing is created until there is room, and what cannot be written down is tried again in each cycle"
            );
        }
    }

    /// Whether the disk was full and has not been seen to have room since.
    pub fn has_no_room(&self) -> bool {
        is_out_of_room(self.repeats)
    }

    /// Finds out whether a disk that was full has room again.
    pub fn look_for_room(&mut self) {
        if self.has_no_room() && self.store.check_room().is_ok() {
            self.repeats.is_over(NO_ROOM);
            info!("the state directory has room again");
        }
    }
}
