//! Asking the remote servers that machines write to, in each pass: what they say goes into the
//! snapshot, messages go to the machines' directories, and trouble is told once.

use std::collections::BTreeMap;

use tracing::{error, info};

use super::https::LATE;
use super::pass::{Pass, PassError};
use crate::blocking;
use crate::model::{MachineName, MachinetypeName, SpaceSnapshot, Timestamp};
use crate::remote::answer::Trouble;
use crate::remote::rounds::{Heard, PATIENCE};
use crate::remote::{Asking, Found, Remotes};
use crate::state::{StateError, Store, Unread};
use crate::telemetry::{Lasted, Telling};

impl Pass<'_> {
    /// Asks about all machines that write elsewhere. Messages are put on disk before anything is
    /// decided from them; what cannot be put there is returned.
    pub(super) async fn ask_remotes(
        &mut self,
        snapshot: &mut SpaceSnapshot,
    ) -> Result<Vec<Unread>, PassError> {
        const SUBJECT: &str = "when remote servers answered";
        if !Remotes::are_used(&self.config) {
            self.known.remotes = Remotes::default();
            return Ok(Vec::new());
        }
        let common = self.common;
        let mut trouble = None;
        let mut on_file = BTreeMap::new();
        if self.known.remotes.are_new() {
            match last_answers(&common.store, &self.config) {
                Ok(known) => on_file = known,
                Err(problem) => trouble = Some(problem),
            }
        }
        let asking = Asking {
            config: &self.config,
            clock: &common.clock,
            break_after: common.interval + common.interval + LATE,
            on_file,
            patience: PATIENCE,
        };
        let found = tokio::select! {
            biased;
            () = common.stop.cancelled() => return Err(PassError::Stopping),
            found = self.known.remotes.ask(&asking, snapshot) => found,
        };
        let Found { messages, servers } = found;
        let unread = self.take_messages(messages).await;
        trouble = trouble.or(self.note_answers(&servers).err());
        match trouble {
            None => drop(self.known.repeats.is_over(SUBJECT)),
            Some(problem) => {
                if self.known.repeats.is_news(SUBJECT, &problem.to_string()) {
                    error!(
                        "{problem}; after a restart, the time that a remote server has not answered counts anew"
                    );
                }
            }
        }
        self.tell_of_remotes(&servers);
        Ok(unread)
    }

    async fn take_messages(&self, messages: Vec<(MachineName, String)>) -> Vec<Unread> {
        if messages.is_empty() {
            return Vec::new();
        }
        let store = std::sync::Arc::clone(&self.common.store);
        blocking::run(move || {
            let write = |(machine, text): (MachineName, String)| {
                let written = store.take_shutdown_message(&machine, &text);
                written.err().map(|problem| Unread { machine, problem })
            };
            messages.into_iter().filter_map(write).collect()
        })
        .await
    }

    fn note_answers(&self, servers: &BTreeMap<MachinetypeName, Heard>) -> Result<(), StateError> {
        let now = self.common.clock.now();
        for (machinetype, heard) in servers {
            if heard.answered {
                let (store, space) = (&self.common.store, &self.config.name);
                store.set_remote_answered(space, machinetype, now)?;
            }
        }
        Ok(())
    }

    fn tell_of_remotes(&mut self, servers: &BTreeMap<MachinetypeName, Heard>) {
        for (machinetype, heard) in servers {
            let subject = format!("remote joboutputs of {machinetype}");
            let Some((machine, trouble)) = &heard.trouble else {
                if let Some(Lasted { count, since }) = self.known.repeats.ended(&subject) {
                    let since = since.to_rfc3339();
                    info!(%machinetype, "the remote server answers as it should again, after {count} cycle(s) without since {since}");
                }
                continue;
            };
            let now = self.common.clock.now();
            let still = match self.known.repeats.telling(&subject, trouble.text(), now) {
                Telling::News => String::new(),
                Telling::Reminder(lasted) => {
                    format!("still, since {}: ", lasted.since.to_rfc3339())
                }
                Telling::Nothing => continue,
            };
            error!(
                %machinetype, %machine,
                "{still}remote_joboutputs_url: {}; {}", trouble.text(), consequence(trouble)
            );
        }
    }
}

/// What follows from trouble for the machines.
const fn consequence(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Unreachable(_) => {
            "machines are judged by their heartbeats when it answers, or when it has not for heartbeat_seconds; their ends wait for what they may have said"
        }
        Trouble::Useless(_) | Trouble::Ours(_) => {
            "machines whose heartbeats cannot be read are not judged by them, and their ends wait for what they may have said"
        }
    }
}

/// When the servers answered last, as far as that is on file.
///
/// # Errors
/// When it is there and cannot be read.
pub fn last_answers(
    store: &Store,
    config: &crate::config::SpaceConfig,
) -> Result<BTreeMap<MachinetypeName, Timestamp>, StateError> {
    let mut known = BTreeMap::new();
    for configured in config.machinetypes.values() {
        if configured.remote_joboutputs_url.is_some()
            && let Some(time) = store.remote_answered(&config.name, &configured.name)?
        {
            known.insert(configured.name.clone(), time);
        }
    }
    Ok(known)
}
