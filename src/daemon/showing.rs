//! What a pass shows and tells to those who watch; nothing is decided by it.

use std::sync::Arc;

use super::machines::{MachineStatus, Messages, machine_statuses};
use super::pass::Pass;
use crate::blocking;
use crate::model::SpaceSnapshot;

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
}
