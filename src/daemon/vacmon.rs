//! Telling VacMon at the end of a scan, once its bookkeeping is on disk.
//!
//! The end of a machine is told in the pass that writes it down, before the scan of that pass is
//! dated. A daemon that dies in between finds, when it starts again, that the end was written since
//! the last scan, and tells of it then: its first pass tells of all such machines. A machine's end
//! is thus told at least once, and around a restart perhaps twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::https::Hearing;
use super::pass::Pass;
use crate::blocking;
use crate::config::SpaceConfig;
use crate::decide::{Finish, Report, tally};
use crate::model::{MachineName, MachinetypeName, SpaceSnapshot, Timestamp};
use crate::state::Store;
use crate::vacmon::host::Host;
use crate::vacmon::message::{self, About, Ended, LastEnd};
use crate::vacmon::send::Receivers;

/// What one space remembers for it.
#[derive(Debug, Default)]
pub(super) struct VacMonMemory {
    receivers: Receivers,
    last: BTreeMap<MachinetypeName, LastEnd>,
    /// Whether what a daemon before may not have told has been told.
    caught_up: bool,
}

/// What [`crate::telemetry::Repeats`] calls a message that is too long.
const TOO_LONG: &str = "VacMon messages";

impl Pass<'_> {
    /// Sends what there is to send. `finished` are the machines whose end this pass has written
    /// down.
    pub(super) async fn tell_vacmon(
        &mut self,
        snapshot: &SpaceSnapshot,
        report: &Report,
        finished: &[Finish],
        now: Timestamp,
    ) {
        if self.config.vacmon_hostport.is_empty() {
            return;
        }
        let (ended, host) = self.look_for_vacmon(snapshot, finished).await;
        let config = Arc::clone(&self.config);
        let about = About {
            config: &config,
            factory: &self.common.factory,
            now,
        };
        let heard = match self.tick.hearing {
            Hearing::Since(_) => Some(now),
            Hearing::Elsewhere(_) | Hearing::Deaf => None,
        };
        let facts = &snapshot.facts;
        let tally = tally::tally(&config, snapshot, now);
        let numbers = (report, &tally);
        let mut messages = vec![message::factory_status(
            &about, numbers, facts, &host, heard,
        )];
        messages.extend(tally.machinetypes.iter().map(|(name, running)| {
            let last = self.known.vacmon.last.get(name);
            message::machinetype_status(&about, name, running, facts, last)
        }));
        messages.extend(ended.iter().map(|one| message::machine_status(&about, one)));
        let all = messages.len();
        let messages: Vec<Bytes> = messages.into_iter().flatten().map(Bytes::from).collect();
        self.report_too_long(all - messages.len());
        self.known
            .vacmon
            .receivers
            .send(&config.vacmon_hostport, &messages);
    }

    /// The machines whose end is to be told, the oldest first, with what is on disk of them; and how
    /// this host is. Remembers the last end of each machinetype.
    async fn look_for_vacmon(
        &mut self,
        snapshot: &SpaceSnapshot,
        finished: &[Finish],
    ) -> (Vec<Ended>, Host) {
        let mut ended = finished_now(snapshot, finished);
        if !self.known.vacmon.caught_up {
            self.known.vacmon.caught_up = true;
            if let Some(since) = snapshot.previous_scan {
                ended.extend(message::ended_since(snapshot, since));
            }
            // Of each kind the last end is looked up too, for the status of its machinetype.
            self.known.vacmon.last = last_ends(snapshot);
        }
        let last = std::mem::take(&mut self.known.vacmon.last);
        let store = Arc::clone(&self.common.store);
        let config = Arc::clone(&self.config);
        let (host, mut ended, mut last) = blocking::run(move || {
            let (mut ended, mut last) = (ended, last);
            for one in &mut ended {
                read_files(&store, &config, one);
            }
            for one in last.values_mut().filter(|one| one.message.is_none()) {
                one.message = message_of(&store, &one.machine);
            }
            (Host::look(store.layout().root()), ended, last)
        })
        .await;
        ended.sort_by_key(|one| one.stopped);
        for one in &ended {
            let end = LastEnd {
                machine: one.files.name.clone(),
                message: one.message.clone(),
                stopped: one.stopped,
            };
            last.insert(one.files.machinetype.clone(), end);
        }
        self.known.vacmon.last = last;
        (ended, host)
    }

    fn report_too_long(&mut self, count: usize) {
        if count == 0 {
            self.known.repeats.is_over(TOO_LONG);
        } else if self.known.repeats.is_news(TOO_LONG, "") {
            warn!(
                "the names of this space are too long for {count} VacMon message(s), which are not sent"
            );
        }
    }
}

/// The machines whose end has just been written down.
fn finished_now(snapshot: &SpaceSnapshot, finished: &[Finish]) -> Vec<Ended> {
    let finished: BTreeMap<&MachineName, &Finish> = finished
        .iter()
        .map(|finish| (&finish.machine, finish))
        .collect();
    let machines = snapshot.machines.iter();
    machines
        .filter_map(|machine| {
            let finish = finished.get(&machine.files.name)?;
            Ended::of(machine, Some((finish.started, finish.stopped)))
        })
        .collect()
}

/// The machine of each kind that was the last to end, as the directories say.
fn last_ends(snapshot: &SpaceSnapshot) -> BTreeMap<MachinetypeName, LastEnd> {
    let mut last: BTreeMap<MachinetypeName, LastEnd> = BTreeMap::new();
    for machine in &snapshot.machines {
        let files = &machine.files;
        let Some(stopped) = files.stopped else {
            continue;
        };
        let is_later = last
            .get(&files.machinetype)
            .is_none_or(|known| known.stopped < stopped);
        if is_later {
            let end = LastEnd {
                machine: files.name.clone(),
                message: None,
                stopped,
            };
            last.insert(files.machinetype.clone(), end);
        }
    }
    last
}

/// Adds what only the directory of a machine tells. What cannot be read is left out.
fn read_files(store: &Store, config: &SpaceConfig, ended: &mut Ended) {
    if ended.message.is_none() {
        ended.message = message_of(store, &ended.files.name);
    }
    let configured = config.machinetypes.get(&ended.files.machinetype);
    let file = configured
        .filter(|configured| configured.remote_joboutputs_url.is_none())
        .and_then(|configured| configured.heartbeat_file.as_deref());
    if let Some(file) = file {
        ended.heartbeat = store.heartbeat(&ended.files.name, file).ok().flatten();
    }
}

fn message_of(store: &Store, machine: &MachineName) -> Option<String> {
    let message = store.shutdown_message(machine).ok().flatten()?;
    Some(message.text().to_owned())
}
