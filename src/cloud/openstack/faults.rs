//! Why machines failed: for the listing's failed machines that come without a reason.
//!
//! Nova keeps a server that was never placed ("No valid host") in a database of its own, and its
//! listing then lacks the fault, which the server's own document has. It is also written a moment
//! after the state. So each failed machine that bears marks is asked about, a few times and no
//! more: in a steady state this costs nothing. It is a service to people; nothing depends on it,
//! and its errors do not spoil a listing.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use tracing::debug;

use super::document;
use super::wire::ServerFaultDocument;
use super::{OpenStack, Target};
use crate::cloud::CloudError;
use crate::cloud::http::text;
use crate::model::{CloudMachine, MachineState};

/// How often one machine is asked about.
const MAX_QUESTIONS: u8 = 3;
/// How many machines are asked about within one listing.
const MAX_AT_ONCE: usize = 10;

/// What is known of the failed machines in the last listing.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<HashMap<String, Known>>);

#[derive(Debug, Default)]
struct Known {
    questions: u8,
    fault: Option<String>,
}

impl Faults {
    /// Fills in what is known, forgets machines that are no longer there, and gives the indices
    /// of those to ask about.
    fn apply(&self, machines: &mut [CloudMachine]) -> Vec<usize> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ask = Vec::new();
        let mut present = HashSet::new();
        for (index, machine) in machines.iter_mut().enumerate() {
            let unexplained = machine.state == MachineState::Failed && machine.fault.is_none();
            if !unexplained || machine.marks.is_none() {
                continue;
            }
            present.insert(machine.id.as_str().to_owned());
            let (questions, fault) = known
                .get(machine.id.as_str())
                .map_or((0, None), |known| (known.questions, known.fault.clone()));
            machine.fault = fault;
            if machine.fault.is_none() && questions < MAX_QUESTIONS && ask.len() < MAX_AT_ONCE {
                ask.push(index);
            }
        }
        known.retain(|id, _| present.contains(id));
        ask
    }

    fn learn(&self, id: &str, fault: Option<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(id.to_owned()).or_default();
        entry.questions = entry.questions.saturating_add(1);
        entry.fault = fault;
    }
}

impl OpenStack {
    /// Adds the reasons that the listing lacks.
    pub(super) async fn explain_failures(&self, machines: &mut [CloudMachine]) {
        let ask = self.faults.apply(machines);
        let questions = ask.into_iter().filter_map(|index| {
            let id = machines.get(index)?.id.as_str().to_owned();
            Some(async move { (index, self.fault(&id).await, id) })
        });
        for (index, outcome, id) in join_all(questions).await {
            let fault = outcome.unwrap_or_else(|error| {
                let error = self.clean(error);
                debug!(%error, "a failed machine's reason cannot be read");
                None
            });
            self.faults.learn(&id, fault.clone());
            if let Some(machine) = machines.get_mut(index) {
                machine.fault = fault;
            }
        }
    }

    async fn fault(&self, id: &str) -> Result<Option<String>, CloudError> {
        let path = ["servers", id];
        let answer = self.read(&Target::compute(&path)).await?;
        let document: ServerFaultDocument<'_> = document::read(&answer)?;
        let message = document.server.fault.and_then(|fault| fault.message);
        Ok(message
            .map(|message| text::one_line(message.as_str()))
            .filter(|message| !message.is_empty()))
    }
}
