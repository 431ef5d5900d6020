//! What to destroy and why.

use super::plan::{Delete, Reason};
use super::view::{Bucket, MachineView, View};
use crate::config::MachinetypeConfig;
use crate::model::{CloudMachine, Heartbeat, MachineFiles, MachineState, Seconds, Timestamp};

/// A machine that has been starting for longer than this never will.
const START_LIMIT: Seconds = Seconds::new(3600);
/// A clock that was set back by less than this is waited for: the cloud's may be as wrong, and a VM
/// that boots must not be ended for that.
const CLOCK_WAIT: Seconds = Seconds::new(86_400);
/// A cloud that is removing a machine is not asked again before this has passed.
const DELETING_LIMIT: Seconds = Seconds::new(3600);

/// The pause before the next delete of a machine that is still there after `tries` deletes: the
/// second soon, from the third on once an hour.
const fn delete_pause(tries: u32) -> Seconds {
    match tries {
        0 | 1 => Seconds::new(30),
        2 => Seconds::new(300),
        _ => Seconds::new(3600),
    }
}

/// The machines to destroy now. Those that have been tried least, and not for the longest time, are
/// the first: where deletes hang, a pass has no time for all.
pub(super) fn deletes(view: &View<'_>) -> Vec<Delete> {
    let mut deletes = Vec::new();
    let mut in_turn: Vec<_> = view.machines.iter().collect();
    in_turn.sort_by_key(|machine| (machine.machine.delete_tries, machine.machine.files.deleted));
    for machine in in_turn {
        // While the machine itself is missing from the listing, the VMs that share its name are
        // left alone: it may be this listing that is wrong.
        let is_missing = machine.bucket == Bucket::Unlisted;
        for duplicate in &machine.duplicates {
            if duplicate.state != MachineState::Deleting && !is_missing {
                deletes.push(delete(machine, duplicate, Reason::Duplicate));
            }
        }
        let Bucket::Listed(listed, state) = machine.bucket else {
            continue;
        };
        if let Some(reason) = reason(view, machine, listed, state)
            && is_due(machine, state, view.now)
        {
            deletes.push(delete(machine, listed, reason));
        }
    }
    deletes
}

fn delete(machine: &MachineView<'_>, listed: &CloudMachine, reason: Reason) -> Delete {
    Delete {
        machine: machine.machine.files.name.clone(),
        machinetype: machine.machine.files.machinetype.clone(),
        id: listed.id.clone(),
        reason,
        message: reason.message(),
    }
}

/// Whether enough time has passed since the delete before.
fn is_due(machine: &MachineView<'_>, state: MachineState, now: Timestamp) -> bool {
    if state == MachineState::Deleting {
        return true; // `reason` has looked at the time
    }
    machine
        .machine
        .files
        .deleted
        // A delete in the future was tried before the clock was set back, who knows when.
        .is_none_or(|last| last > now || now >= last + delete_pause(machine.machine.delete_tries))
}

/// The first rule that asks for the end of this machine.
pub(super) fn reason(
    view: &View<'_>,
    machine: &MachineView<'_>,
    listed: &CloudMachine,
    state: MachineState,
) -> Option<Reason> {
    let files = &machine.machine.files;
    match state {
        MachineState::Starting => {
            let waited = view.now.since(asked_for(files, listed, view.now));
            (waited > START_LIMIT).then_some(Reason::FailedToStart { waited })
        }
        MachineState::Shutdown | MachineState::Failed => Some(Reason::Stopped),
        MachineState::Deleting => {
            let waited = deleting_for(files, listed, view.now);
            (waited >= DELETING_LIMIT).then_some(Reason::StillDeleting { waited })
        }
        MachineState::Running => running(view, machine),
        MachineState::Unknown => None,
    }
}

/// When a machine was asked for. Where the clock has been set back to long before that, the cloud's own
/// word counts; where there is none, nobody knows how long ago it was, and it keeps its time.
fn asked_for(files: &MachineFiles, listed: &CloudMachine, now: Timestamp) -> Timestamp {
    let told = listed.created.filter(|told| *told <= now);
    match told {
        Some(told) if files.created.since(now) > CLOCK_WAIT => told,
        _ => files.created,
    }
}

/// For how long the cloud has been removing a machine. What lies in the future was noted before the
/// clock was set back and says nothing; with nothing else to go by it has been long enough.
fn deleting_for(files: &MachineFiles, listed: &CloudMachine, now: Timestamp) -> Seconds {
    let past = |time: &Timestamp| *time <= now;
    let deleted = files.deleted.filter(past);
    let since = deleted
        .or(listed.updated.filter(past))
        .max(Some(files.created).filter(past));
    since.map_or(DELETING_LIMIT, |since| now.since(since))
}

fn running(view: &View<'_>, machine: &MachineView<'_>) -> Option<Reason> {
    // The same moment that the bookkeeping of this pass writes down, never the cloud's raw word.
    let ran = view.now.since(view.started(machine)?);
    // A machine whose machinetype has left the configuration only has the time that it was told.
    machine
        .machinetype
        .and_then(|configured| {
            if ran > configured.max_wallclock {
                Some(Reason::Wallclock { ran })
            } else {
                heartbeat(view, configured, machine, ran)
            }
        })
        .or_else(|| shutdowntime(view, machine))
}

fn heartbeat(
    view: &View<'_>,
    configured: &MachinetypeConfig,
    machine: &MachineView<'_>,
    ran: Seconds,
) -> Option<Reason> {
    configured.heartbeat_file.as_ref()?;
    let remote = view.remote(configured);
    // While the server was down, or it had lost its directory, no machine could write: its silence
    // counts from when it could be heard again.
    let hearing_since = match remote {
        Some(remote) => remote.answering_since,
        None => {
            let again = machine.machine.heard_since.filter(|at| *at <= view.now);
            view.snapshot.listening_since.max(again)
        }
    };
    let heard = hearing_since.map_or(ran, |since| ran.min(view.now.since(since)));
    if heard <= configured.fizzle {
        return None;
    }
    match machine.machine.heartbeat {
        Heartbeat::Unknown => {
            let silence = remote?.silence(view.now);
            let limit = configured.heartbeat;
            // A server that cannot be reached is a missed heartbeat only after so long.
            (limit > Seconds::default() && ran > limit && silence > limit)
                .then_some(Reason::RemoteSilent { silence })
        }
        Heartbeat::Missing => {
            // One that was there when nobody could hear it may have begun then, and been refused: its
            // next heartbeat is due as any other is. (When it began to run the cloud tells anew when it
            // is resized.)
            let created = machine.machine.files.created;
            let was_there = hearing_since.is_some_and(|since| since > created);
            let begun = was_there && heard <= configured.heartbeat;
            (!begun).then_some(Reason::HeartbeatMissing { ran })
        }
        Heartbeat::At(time) => {
            let age = view.now.since(time);
            let limit = configured.heartbeat;
            (limit > Seconds::default() && heard > limit && age > limit)
                .then_some(Reason::HeartbeatOld { age })
        }
    }
}

fn shutdowntime(view: &View<'_>, machine: &MachineView<'_>) -> Option<Reason> {
    let files = &machine.machine.files;
    let own = files.shutdowntime.filter(|at| view.now > *at);
    // A machine whose time was moved earlier was given some grace, which is kept even when the
    // space's shutdown_time passes meanwhile. The limit it was created with shows that.
    let was_moved = files
        .shutdowntime
        .zip(files.wall_limit)
        .is_some_and(|(told, limit)| told < files.created + limit);
    let of_space = view
        .config
        .shutdown_time
        .filter(|at| view.now > *at && !was_moved);
    // What `vcycled shutdown` said counts from when the machine has been told of it, even where
    // that is later: nobody has planned for it. Only one that cannot be told has to go without.
    let ordered = view
        .config
        .ordered_shutdown
        .filter(|at| view.now > *at && files.shutdowntime.is_none());
    own.or(of_space)
        .or(ordered)
        .map(|at| Reason::Shutdowntime { at })
}
