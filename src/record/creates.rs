//! What became of creates.

use std::collections::BTreeSet;

use tracing::{debug, info, warn};

use super::Recorder;
use crate::act::{CreateError, CreateOutcome};
use crate::cloud::CloudErrorKind;
use crate::events::Event;
use crate::model::{CloudId, MachineName, MachinetypeName, Timestamp};

/// Machinetypes by what became of their machines in one pass.
#[derive(Default)]
struct Tried {
    succeeded: BTreeSet<MachinetypeName>,
    failed: BTreeSet<MachinetypeName>,
    /// Those that an event tells of: one of many failures is enough.
    told_of: BTreeSet<MachinetypeName>,
}

/// What [`crate::telemetry::Repeats`] calls the trouble with the creation of a machinetype.
fn about_creating(machinetype: &MachinetypeName) -> String {
    format!("creating {machinetype}")
}

impl Recorder<'_> {
    /// Takes over what became of the creates, and says so.
    pub fn creates(&mut self, outcomes: Vec<CreateOutcome>, now: Timestamp) {
        let mut tried = Tried::default();
        for outcome in outcomes {
            self.note_refusals(
                &outcome.machine,
                &outcome.no_room,
                outcome.files.as_ref(),
                now,
            );
            if let Some(files) = outcome.files {
                self.memory.machines.insert(outcome.machine.clone(), files);
            }
            let (machine, machinetype) = (outcome.machine, outcome.machinetype);
            match outcome.result {
                Ok(id) => self.created(machine, machinetype, id, &mut tried),
                Err(problem) => self.create_failed(machine, machinetype, &problem, &mut tried),
            }
        }
        // One failure of many in a pass says nothing against the machinetype.
        for machinetype in tried.failed.difference(&tried.succeeded) {
            self.memory.note_failure(machinetype, now);
        }
    }

    fn created(
        &mut self,
        machine: MachineName,
        machinetype: MachinetypeName,
        id: CloudId,
        tried: &mut Tried,
    ) {
        self.totals.created += 1;
        self.metrics.created(&self.config.name, &machinetype);
        info!(%machine, %id, "created");
        self.events.push(Event::Created {
            machine,
            machinetype: machinetype.clone(),
            id,
        });
        if let Some(count) = self.repeats.is_over(&about_creating(&machinetype)) {
            info!(
                "machines of machinetype {machinetype} can be created again, after {count} failure(s)"
            );
        }
        tried.succeeded.insert(machinetype);
    }

    fn create_failed(
        &mut self,
        machine: MachineName,
        machinetype: MachinetypeName,
        problem: &CreateError,
        tried: &mut Tried,
    ) {
        if let Some(reason) = problem.word() {
            let space = &self.config.name;
            self.metrics.create_failed(space, &machinetype, reason);
        }
        let next = match problem {
            CreateError::NotTried(why) => {
                debug!(%machine, "not created: {why}");
                return;
            }
            // The disk says nothing against the machinetype or the cloud.
            CreateError::State(problem) if problem.is_disk_full() => {
                self.say_no_room(problem);
                return;
            }
            CreateError::Cloud(error) if error.kind == CloudErrorKind::Ambiguous => {
                "it may exist: the next scans look for it"
            }
            CreateError::State(_) => "the next cycle tries again",
            CreateError::Cloud(_) | CreateError::UserData(_) => {
                "the machinetype waits a little before the next try"
            }
        };
        if tried.told_of.insert(machinetype.clone()) {
            self.events.push(Event::CreateFailed {
                machine: machine.clone(),
                machinetype: machinetype.clone(),
                error: problem.to_string(),
            });
        }
        // Each machine has another name; the trouble is the same.
        let message = problem.to_string().replace(machine.as_str(), "it");
        let is_news = self
            .repeats
            .is_news(&about_creating(&machinetype), &message);
        // Want of room has been told above.
        let is_told =
            matches!(problem, CreateError::Cloud(error) if error.kind.shortage().is_some());
        if is_news && !is_told {
            warn!(%machine, "cannot create: {problem}; {next}");
        } else {
            debug!(%machine, "cannot create: {problem}; {next}");
        }
        // The trouble of our own disk is none of the machinetype's, which has not to wait when it
        // is over.
        if !matches!(problem, CreateError::State(_)) {
            tried.failed.insert(machinetype);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudError;
    use crate::model::History;
    use crate::record::testing::{NAMES, World};
    use crate::state::StateError;

    #[test]
    fn trouble_of_our_own_disk_is_not_held_against_a_machinetype() {
        let mut world = World::new();
        let machine = MachineName::new(NAMES[0]).unwrap();
        let machinetype = machine.machinetype().unwrap();
        let history = History::default();
        world.memory.history.insert(machinetype.clone(), history);
        let unwritable = || StateError::Io {
            action: "create",
            path: "machines".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let refused = || CloudError::new(CloudErrorKind::Rejected, "create", "no such image");
        for (problem, failures) in [
            (CreateError::State(unwritable()), 0),
            (CreateError::Cloud(refused()), 1),
        ] {
            let outcome = CreateOutcome {
                machine: machine.clone(),
                machinetype: machinetype.clone(),
                files: None,
                no_room: Vec::new(),
                result: Err(problem),
            };
            let now = Timestamp::from_unix(5000);
            world.recorder().creates(vec![outcome], now);
            assert_eq!(world.memory.history[&machinetype].failures, failures);
        }
    }
}
