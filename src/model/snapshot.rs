//! One space as it was at one moment: everything that decisions are made from, apart from the
//! configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    CloudFacts, CloudMachine, ImageState, MachineFiles, MachinetypeName, Place, Processors,
    Seconds, ShutdownMessage, Timestamp,
};

/// So many machines must be missing at once for a scan to be suspect.
const SUSPECT_MACHINES: u32 = 3;

/// One space at the moment of one complete scan. There is no snapshot of an incomplete one: a
/// partial list is no list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpaceSnapshot {
    /// What the cloud says of itself.
    pub facts: CloudFacts,
    /// Our machines: each has a directory, a VM, or both.
    pub machines: Vec<Machine>,
    /// VMs that carry our marks but have no directory: created by us before the state directory
    /// was lost.
    pub unfiled: Vec<CloudMachine>,
    /// VMs that are not ours, for people to look at; decisions only see how many there are.
    pub foreign: Vec<CloudMachine>,
    /// How many VMs are not ours.
    pub foreign_machines: u32,
    /// The processors of those.
    pub foreign_processors: Processors,
    /// What is known of each machinetype from before.
    pub history: BTreeMap<MachinetypeName, History>,
    /// Where the cloud had no room, and when it last said so.
    pub exhausted: BTreeMap<Place, Timestamp>,
    /// When the complete scan before this one was.
    pub previous_scan: Option<Timestamp>,
    /// How many scans in a row, this one included, have listed none of three or more machines
    /// that should be there.
    pub empty_scans: u32,
    /// Since when machines have been able to write heartbeats without a break: the start of our HTTPS
    /// server, or of the daemon where another program takes them, or the moment at which they were taken
    /// over from an older version. `None` when that is not known.
    pub listening_since: Option<Timestamp>,
    /// The servers that machines write to in place of ours, by machinetype.
    pub remotes: BTreeMap<MachinetypeName, RemoteServer>,
    /// The images of machinetypes whose root_image is a file or a URL; those that have not been
    /// looked at yet are not in it.
    pub images: BTreeMap<MachinetypeName, ImageState>,
}

impl SpaceSnapshot {
    /// Lets all that is heard of machines count from `now` on: before, they could not be heard.
    pub fn hear_anew(&mut self, now: Timestamp) {
        self.listening_since = self.listening_since.max(Some(now));
        for remote in self.remotes.values_mut() {
            remote.answering_since = remote.answering_since.max(Some(now));
        }
    }

    /// How many machines should have been listed, when there are three or more and none was: such
    /// a scan is suspect.
    pub fn suspect_missing(&self) -> Option<u32> {
        let mut missing: u32 = 0;
        for machine in &self.machines {
            if !machine.listed.is_empty() {
                return None;
            }
            // A machine that we have deleted is meant to vanish.
            let expected = machine.files.stopped.is_none() && machine.files.deleted.is_none();
            if machine.files.id.is_some() && expected {
                missing = missing.saturating_add(1);
            }
        }
        (missing >= SUSPECT_MACHINES && self.unfiled.is_empty()).then_some(missing)
    }
}

/// One machine of ours: its directory joined with what the cloud lists under its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What its directory says.
    pub files: MachineFiles,
    /// What the cloud lists: nothing, one VM, or, after a lost answer, more than one.
    pub listed: Vec<CloudMachine>,
    /// How many complete scans in a row, this one included, have not listed it. Those that are
    /// suspect do not count.
    pub missed_scans: u32,
    /// It seems to be gone, and the cloud has not said so when it was asked for this one alone: it
    /// has not been asked yet, or could not tell.
    pub unconfirmed: bool,
    /// The first scan of this daemon's life that saw it running: when it began to run, for one
    /// whose `started` could not be written and whose cloud does not tell.
    pub first_running: Option<Timestamp>,
    /// The last scan that saw it running; one of the daemon before, when none of this life did.
    pub last_running: Option<Timestamp>,
    /// When it got a directory in this daemon's life, if it had lost the one that it was made with: it
    /// could not write anywhere before that.
    pub heard_since: Option<Timestamp>,
    /// How many deletes of it have been tried in this daemon's life.
    pub delete_tries: u32,
    /// Its heartbeat file.
    pub heartbeat: Heartbeat,
    /// What `joboutputs/shutdown_message` holds. Looked for only when the machine has stopped.
    pub shutdown_message: Option<ShutdownMessage>,
    /// Whether it may have left a message on a remote server that has not told yet.
    pub awaits_message: bool,
}

impl Machine {
    /// Of the VMs with its name the one that is the machine: whose id is on file, else, when none
    /// is on file yet, the oldest. The identifier breaks a tie so that every pass
    /// chooses the same.
    pub fn vm(&self) -> Option<&CloudMachine> {
        match &self.files.id {
            Some(id) => self.listed.iter().find(|vm| vm.id == *id),
            None => self
                .listed
                .iter()
                .min_by_key(|vm| (vm.created.unwrap_or_default(), &vm.id)),
        }
    }

    /// Whether its end is still to be written down: for the first time, or because it was given up before
    /// it was ever listed, and is listed now.
    pub fn is_unsettled(&self) -> bool {
        let is_listed_after_all = self.files.id.is_none() && self.vm().is_some();
        self.files.finished.is_none() || is_listed_after_all
    }
}

/// What was found when a heartbeat file was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// It was not looked for, or could not be: nothing follows from that.
    Unknown,
    /// There is no such file.
    Missing,
    /// The file was last written at this time.
    At(Timestamp),
}

/// What is known of a remote server that machines write to (`remote_joboutputs_url`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteServer {
    /// Since when we have asked it in every cycle: what it was like while nobody asked is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_since: Option<Timestamp>,
    /// When it last answered, whatever it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Timestamp>,
    /// Since when it has answered each time: machines could write to it since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answering_since: Option<Timestamp>,
}

impl RemoteServer {
    /// For how long it has said nothing although it was asked.
    pub fn silence(&self, now: Timestamp) -> Seconds {
        let last = self.answered.max(self.asked_since);
        last.map_or(Seconds::default(), |last| now.since(last))
    }
}

/// What is known of a machinetype from before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// `last_abort_time`.
    pub last_abort: Option<Timestamp>,
    /// How many passes in a row, of those that learnt anything, have found creations or boots
    /// failed; 0 after a machine that started.
    pub failures: u32,
    /// When the last of them did.
    pub last_failure: Option<Timestamp>,
}

impl History {
    /// A pass at `now` has found a creation or boot failed. A second one in the same pass is the
    /// same trouble: a batch that fails at once must not pause like as many tries in a row.
    pub fn note_failure(&mut self, now: Timestamp) {
        if self.last_failure != Some(now) {
            self.failures = self.failures.saturating_add(1);
            self.last_failure = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_fails_at_once_counts_as_one_failure() {
        let mut history = History::default();
        for now in [100, 100, 100, 160, 160] {
            history.note_failure(Timestamp::from_unix(now));
        }
        assert_eq!(history.failures, 2);
        assert_eq!(history.last_failure, Some(Timestamp::from_unix(160)));
    }
}
