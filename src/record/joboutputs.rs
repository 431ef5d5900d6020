//! Taking over what became of copies of joboutputs (log_joboutputs), and saying so.

use tracing::{debug, error, info, warn};

use super::Recorder;
use crate::model::{MachineName, Timestamp};
use crate::state::{Kept, StateError};

/// What [`crate::telemetry::Repeats`] calls the trouble with copies.
const COPIES: &str = "copies of joboutputs";

/// What became of one copy.
#[derive(Debug)]
pub struct KeepOutcome {
    /// Whose files.
    pub machine: MachineName,
    /// When `logged` was written, and what was copied.
    pub result: Result<(Timestamp, Kept), StateError>,
}

impl Recorder<'_> {
    /// Takes over what became of copies. One trouble is told once, however many machines feel it.
    pub fn kept_joboutputs(&mut self, outcomes: &[KeepOutcome]) {
        let mut trouble = None;
        for KeepOutcome { machine, result } in outcomes {
            match result {
                Ok((at, kept)) => {
                    self.files(machine, |files| files.logged = Some(*at));
                    match kept {
                        Kept::Whole(files) => {
                            info!(%machine, "copied the {files} file(s) that it left");
                        }
                        Kept::Already => debug!(%machine, "had been copied"),
                        Kept::Nothing => debug!(%machine, "left no file to copy"),
                    }
                }
                Err(problem) => trouble = trouble.or(Some((machine, problem))),
            }
        }
        let Some((machine, problem)) = trouble else {
            if !outcomes.is_empty()
                && let Some(count) = self.repeats.is_over(COPIES)
            {
                info!("joboutputs can be copied again, after {count} failure(s)");
            }
            return;
        };
        // Each machine has another name; the trouble is the same.
        let message = problem.to_string().replace(machine.as_str(), "it");
        if self.repeats.is_news(COPIES, &message) {
            error!(
                %machine,
                "{problem}; this is tried again in each cycle, and nothing else waits for it"
            );
        }
    }

    /// Says what is lost with the directory of a machine whose files could not be copied in time.
    pub(super) fn tell_what_is_lost(&mut self, machine: &MachineName) {
        let Some(files) = self.memory.machines.get(machine) else {
            return;
        };
        if files.logged.is_none() && self.config.keeps_joboutputs(files) {
            warn!(%machine, "what it left could not be copied in time, and goes with its directory");
        }
    }
}
