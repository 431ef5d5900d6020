//! What became of deletes.

use std::collections::BTreeSet;

use tracing::{debug, error, info};

use super::Recorder;
use crate::act::{DeleteError, DeleteOutcome};
use crate::cloud::{CloudErrorKind, Deletion};
use crate::decide::{Delete, Reason};
use crate::events::Event;
use crate::model::{Ended, MachineName};

/// What [`crate::telemetry::Repeats`] calls the trouble with the deletion of a machine.
pub(super) fn about_deleting(machine: &MachineName) -> String {
    format!("deleting {machine}")
}

/// The deletes of machines whose bookkeeping is on disk: what could not be written about a
/// machine must not be lost with it.
pub fn without_failed(deletes: Vec<Delete>, failed: &BTreeSet<MachineName>) -> Vec<Delete> {
    deletes
        .into_iter()
        .filter(|delete| !failed.contains(&delete.machine))
        .collect()
}

impl Recorder<'_> {
    /// Takes over what became of the deletes, and says so.
    pub fn deletes(&mut self, outcomes: &[DeleteOutcome]) {
        for outcome in outcomes {
            self.note_try(outcome);
            self.say_deleted(outcome);
        }
        let is_late = |outcome: &&DeleteOutcome| matches!(outcome.result, Err(DeleteError::Late));
        let late = outcomes.iter().filter(is_late).count();
        if late > 0 {
            info!(
                "the cloud is too slow for {late} of {} deletes: the next cycle decides anew",
                outcomes.len()
            );
        }
    }

    /// Takes over when it was tried, which is on disk by now.
    fn note_try(&mut self, outcome: &DeleteOutcome) {
        let machine = &outcome.machine;
        let Some(tried) = outcome.tried else {
            return;
        };
        self.files(machine, |files| {
            files.deleted = Some(tried);
            if outcome.reason.message().is_some() {
                files.ended.get_or_insert(outcome.reason.ended());
            }
        });
        // A cloud that says when it may be asked again is left alone for so long anyway, and what was
        // not even sent has not failed.
        if let Err(DeleteError::Cloud(error)) = &outcome.result
            && let CloudErrorKind::RateLimited { retry_after } = error.kind
            && retry_after.is_some()
        {
            return;
        }
        let known = self.memory.volatile.entry(machine.clone()).or_default();
        known.delete_tries = known.delete_tries.saturating_add(1);
    }

    fn say_deleted(&mut self, outcome: &DeleteOutcome) {
        let machine = &outcome.machine;
        match &outcome.result {
            Ok(deletion) => {
                self.repeats.is_over(&about_deleting(machine));
                let already = match deletion {
                    Deletion::Accepted => "",
                    Deletion::AlreadyGone => "; it was already gone",
                };
                info!(%machine, "deleted: {}{already}", outcome.reason);
                self.tell_delete(machine, outcome.reason);
            }
            // All of them are told together.
            Err(why @ DeleteError::Late) => debug!(%machine, "not deleted: {why}"),
            Err(why @ (DeleteError::Withdrawn | DeleteError::Stopping)) => {
                info!(%machine, "not deleted: {why}");
            }
            Err(DeleteError::State(problem)) if self.forget_if_lost(machine, problem) => {}
            Err(DeleteError::State(problem)) if problem.is_disk_full() => {
                self.say_no_room(problem);
            }
            Err(problem) => {
                let subject = about_deleting(machine);
                if self.repeats.is_news(&subject, &problem.to_string()) {
                    error!(
                        %machine,
                        "cannot delete ({}): {problem}; this is tried again, at most once an hour after the third time",
                        outcome.reason
                    );
                }
            }
        }
    }

    fn tell_delete(&mut self, machine: &MachineName, reason: Reason) {
        let files = self.memory.machines.get(machine);
        let machinetype = files.map(|files| files.machinetype.clone());
        let Some(machinetype) = machinetype.or_else(|| machine.machinetype()) else {
            return;
        };
        let space = &self.config.name;
        self.metrics.destroyed(space, &machinetype, reason.word());
        let (machine, reason_text) = (machine.clone(), reason.to_string());
        if reason.ended() == Ended::Heartbeat {
            self.events.push(Event::HeartbeatMissed {
                machine: machine.clone(),
                machinetype: machinetype.clone(),
                reason: reason_text.clone(),
            });
        }
        self.events.push(Event::Destroyed {
            machine,
            machinetype,
            reason: reason_text,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudError;
    use crate::model::{Seconds, Timestamp};
    use crate::record::testing::{NAMES, World};
    use crate::state::StateError;

    #[test]
    fn a_delete_that_cannot_be_written_down_without_a_directory_forgets_the_machine() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        world.store.remove_machine(&machine).unwrap();
        let text = "700 Exceeded max_wallclock_seconds";
        let problem = world.store.leave_shutdown_message(&machine, text);
        let outcome = DeleteOutcome {
            machine: machine.clone(),
            reason: Reason::Stopped,
            tried: None,
            result: Err(problem.unwrap_err().into()),
        };
        world.recorder().deletes(&[outcome]);
        assert!(!world.memory.machines.contains_key(&machine));
        assert_eq!(world.repeats.is_over(&about_deleting(&machine)), None);
    }

    #[test]
    fn a_delete_that_the_cloud_puts_off_makes_no_pause_longer() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let mut tries_after = |retry_after| {
            let kind = CloudErrorKind::RateLimited { retry_after };
            let error = CloudError::new(kind, "DELETE x", "429 Too Many Requests");
            let outcome = DeleteOutcome {
                machine: machine.clone(),
                reason: Reason::Stopped,
                tried: Some(Timestamp::from_unix(2000)),
                result: Err(error.into()),
            };
            world.recorder().deletes(&[outcome]);
            world.memory.volatile[&machine].delete_tries
        };
        assert_eq!(tries_after(None), 1);
        assert_eq!(tries_after(Some(Seconds::new(60))), 1);
        assert_eq!(tries_after(None), 2);
    }

    #[test]
    fn a_delete_that_fails_each_time_is_told_once_until_it_works() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let outcome = |result| DeleteOutcome {
            machine: machine.clone(),
            reason: Reason::Stopped,
            tried: None,
            result,
        };
        let refused = || {
            DeleteError::State(StateError::Io {
                action: "write",
                path: "deleted".into(),
                source: std::io::ErrorKind::PermissionDenied.into(),
            })
        };
        for _ in 0..3 {
            world.recorder().deletes(&[outcome(Err(refused()))]);
        }
        let told = world.repeats.is_over(&about_deleting(&machine));
        assert_eq!(told, Some(3));
        world
            .recorder()
            .deletes(&[outcome(Err(refused())), outcome(Ok(Deletion::Accepted))]);
        assert_eq!(world.repeats.is_over(&about_deleting(&machine)), None);
    }
}
