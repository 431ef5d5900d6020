//! What a pass shows and tells to those who watch; nothing is decided by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::machines::{MachineStatus, Messages, machine_statuses};
use super::pass::Pass;
use super::status::Refusal;
use crate::blocking;
use crate::decide::{MachinetypeReport, Report, Rule};
use crate::events::{Entry, Event};
use crate::model::{MachinetypeName, SpaceSnapshot};

impl Pass<'_> {
    /// The machines as they are now, for those who watch.
    pub async fn machines(&mut self, snapshot: &SpaceSnapshot) -> Vec<MachineStatus> {
        let known = &mut self.known;
        let machines = &known.memory.machines;
        known.messages.retain(|name, _| machines.contains_key(name));
        for machine in &snapshot.machines {
            let (name, message) = (&machine.files.name, &machine.shutdown_message);
            if message.is_some() && machines.contains_key(name) {
                known.messages.insert(name.clone(), message.clone());
            }
        }
        // Those that had ended before this daemon started.
        let ended = machines.values().filter(|files| files.finished.is_some());
        let unread = ended.filter(|files| !known.messages.contains_key(&files.name));
        let unread: Vec<_> = unread.map(|files| files.name.clone()).collect();
        if !unread.is_empty() {
            let store = Arc::clone(&self.common.store);
            let read = blocking::run(move || {
                let each = unread.into_iter().map(|name| {
                    // Nothing depends on it: what cannot be read is not shown.
                    let message = store.shutdown_message(&name).unwrap_or_default();
                    (name, message)
                });
                each.collect::<Messages>()
            });
            known.messages.extend(read.await);
        }
        let machines = known.memory.machines.values();
        let config = Some(self.config.as_ref());
        machine_statuses(machines, Some(snapshot), &known.messages, config)
    }

    /// Tells what has happened since the last time.
    pub fn tell_events(&mut self) {
        let (time, space) = (self.common.clock.now(), &self.config.name);
        let events = std::mem::take(&mut self.known.events);
        for event in &events {
            if let Event::CreateFailed {
                machinetype, error, ..
            } = event
            {
                let (at, error) = (time, error.clone());
                let refusal = Refusal { at, error };
                self.known.refusals.insert(machinetype.clone(), refusal);
            }
        }
        let events = events.into_iter();
        let entries = events.map(|event| Entry {
            time,
            space: Some(space.clone()),
            event,
        });
        self.common.events.take(entries.collect());
    }

    /// Notes which machinetypes back off, and tells of those that have done so.
    pub fn note_backoffs(&mut self, report: &Report) {
        let is_backing_off = |report: &MachinetypeReport| {
            let mut rules = report.rules.iter();
            rules.any(|check| check.forbids && matches!(check.rule, Rule::Backoff { .. }))
        };
        let kinds = report.machinetypes.iter();
        let now: BTreeSet<MachinetypeName> = kinds
            .filter(|(_, report)| is_backing_off(report))
            .map(|(name, _)| name.clone())
            .collect();
        let before = std::mem::take(&mut self.known.backing_off);
        let over = before.difference(&now);
        let over = over.filter(|name| report.machinetypes.contains_key(*name));
        let over = over
            .cloned()
            .map(|machinetype| Event::BackoffEnded { machinetype });
        self.known.events.extend(over);
        self.known.backing_off = now;
        self.tell_events();
    }
}
