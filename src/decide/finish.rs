//! Bookkeeping: what this scan has told us about each machine.

use super::placement;
use super::plan::{Bookkeeping, Finish};
use super::terminate;
use super::view::{Bucket, MachineView, View};
use crate::model::{
    CloudMachine, Ended, Machine, MachineFiles, MachineState, MachinetypeName, Seconds, Timestamp,
};

/// How long the end of a machine waits for the message that a remote server may have.
const MESSAGE_PATIENCE: Seconds = Seconds::new(3600);
/// The same from its end on, whoever is at fault: a server that cannot be asked, because our own
/// certificate cannot be read, is not asked later either. A day lets a person see and mend it.
const MESSAGE_LIMIT: Seconds = Seconds::new(86_400);
/// How much longer than cleanup_hours a directory is kept whose copy (log_joboutputs) has failed.
const COPY_PATIENCE: Seconds = Seconds::new(86_400);

/// What has to be written down, machine by machine.
pub(super) fn bookkeeping(view: &View<'_>) -> Vec<Bookkeeping> {
    let mut actions = adoptions(view);
    for machine in &view.machines {
        one_machine(view, machine, &mut actions);
    }
    actions
}

/// VMs with our marks and no directory. Of two with one name the older gets it; the other is a
/// duplicate from the next scan on.
fn adoptions(view: &View<'_>) -> Vec<Bookkeeping> {
    let mut unfiled = view.unfiled.clone();
    unfiled.dedup_by(|later, kept| later.machine_name() == kept.machine_name());
    unfiled
        .into_iter()
        .filter_map(|listed| {
            let machine = listed.machine_name()?;
            let machinetype = machinetype_of(listed)?;
            Some(Bookkeeping::Adopt {
                machine,
                machinetype,
                listed: Box::new(listed.clone()),
            })
        })
        .collect()
}

/// What kind of machine a VM with our marks is: as they say, else as its name says.
pub(super) fn machinetype_of(listed: &CloudMachine) -> Option<MachinetypeName> {
    listed
        .marks
        .as_ref()
        .and_then(|marks| marks.machinetype.as_deref())
        .and_then(|text| text.parse().ok())
        .or_else(|| listed.machine_name()?.machinetype())
}

/// What the scan has shown of one machine, and then what follows from its end.
fn one_machine(view: &View<'_>, machine: &MachineView<'_>, actions: &mut Vec<Bookkeeping>) {
    let files = &machine.machine.files;
    let name = || files.name.clone();
    let started = view.started(machine);
    if appears_after_all(machine, started) {
        actions.push(Bookkeeping::Reopen { machine: name() });
        let reopened = reopened(machine.machine);
        let machine = MachineView {
            machine: &reopened,
            duplicates: machine.duplicates.clone(),
            ..*machine
        };
        return one_machine(view, &machine, actions);
    }
    match machine.bucket {
        Bucket::Listed(listed, state) => {
            one_listed(view, machine, (listed, state), started, actions);
        }
        Bucket::Unlisted => {
            actions.extend(start(machine, started, None));
            // As it was shown then: by how much the clock has been set back is seen from that.
            let last_running = view.shown_running(machine.machine);
            if files.stopped.is_none() && files.updated != Some(last_running) {
                actions.push(Bookkeeping::Miss {
                    machine: name(),
                    last_running,
                });
            }
        }
        Bucket::Gone | Bucket::NeverAppeared => actions.extend(start(machine, started, None)),
        Bucket::Pending => {}
    }
    actions.extend(placement::remember(view, machine));
    let mut over = files.finished.is_some();
    if !over && let Some(finish) = finish(view, machine, started) {
        if awaits_message(view, machine, finish.stopped) {
            actions.extend(stop(machine, &finish));
        } else {
            over = true;
            actions.push(Bookkeeping::Finish(finish));
        }
    }
    if is_expired(view, machine) {
        actions.push(Bookkeeping::Forget { machine: name() });
    } else if over && is_to_be_kept(view, machine) {
        actions.push(Bookkeeping::KeepJoboutputs {
            machine: name(),
            machinetype: files.machinetype.clone(),
        });
    }
}

/// Whether a machine that was closed without ever having been listed lives, or has lived: the cloud has
/// taken longer to list it than anybody waits, or could not be asked. What it runs is to be accounted for
/// as of any other.
fn appears_after_all(machine: &MachineView<'_>, started: Option<Timestamp>) -> bool {
    let files = &machine.machine.files;
    let has_lived = match machine.bucket {
        Bucket::Listed(_, MachineState::Starting | MachineState::Running) => true,
        Bucket::Listed(..) => started.is_some(),
        Bucket::Pending | Bucket::Unlisted | Bucket::NeverAppeared | Bucket::Gone => false,
    };
    let is_closed = files.stopped.or(files.finished).is_some();
    has_lived && is_closed && files.id.is_none() && files.started.is_none()
}

/// A machine as it is when its end has been taken back.
fn reopened(machine: &Machine) -> Machine {
    let files = MachineFiles {
        updated: None,
        stopped: None,
        finished: None,
        logged: None,
        ..machine.files.clone()
    };
    Machine {
        files,
        ..machine.clone()
    }
}

fn one_listed(
    view: &View<'_>,
    machine: &MachineView<'_>,
    (listed, state): (&CloudMachine, MachineState),
    started: Option<Timestamp>,
    actions: &mut Vec<Bookkeeping>,
) {
    let files = &machine.machine.files;
    let name = || files.name.clone();
    if files.id.as_ref() != Some(&listed.id) {
        actions.push(Bookkeeping::Identify {
            machine: name(),
            id: listed.id.clone(),
        });
    }
    // What it had first: others are attached later, by others.
    if !listed.volumes.is_empty() && files.volumes.is_empty() {
        actions.push(Bookkeeping::Volumes {
            machine: name(),
            volumes: listed.volumes.clone(),
        });
    }
    actions.extend(start(machine, started, listed.zone.clone()));
    if state == MachineState::Running && files.updated.is_some() && files.stopped.is_none() {
        actions.push(Bookkeeping::Return { machine: name() });
    }
    // A machine that is destroyed in this pass is not promised any grace.
    if matches!(state, MachineState::Starting | MachineState::Running)
        && terminate::reason(view, machine, listed, state).is_none()
        && let Some(at) = moved_shutdowntime(view, machine)
    {
        actions.push(Bookkeeping::Shutdowntime {
            machine: name(),
            at,
        });
    }
}

/// Writes down when a machine began to run, unless that is done and the clock has not been set back
/// to before it: also of one that is not listed any
/// more, because the end that follows is finished after a crash from what is on disk.
fn start(
    machine: &MachineView<'_>,
    started: Option<Timestamp>,
    zone: Option<String>,
) -> Option<Bookkeeping> {
    let files = &machine.machine.files;
    let is_news = files.stopped.is_none() && files.started != started;
    let is_news = is_news || files.started.is_none();
    started.filter(|_| is_news).map(|at| Bookkeeping::Start {
        machine: files.name.clone(),
        at,
        zone,
    })
}

/// The end of a machine that has ended, and is not written down while it waits for its message: an
/// abort as long as nothing else is known.
pub(super) fn provisional(view: &View<'_>, machine: &MachineView<'_>) -> Option<Finish> {
    let is_open = machine.machine.awaits_message && machine.machine.files.finished.is_none();
    let finish = is_open.then(|| finish(view, machine, view.started(machine)));
    finish.flatten()
}

/// Whether the end of a machine has to wait for what it may have said on a remote server: without
/// its message it could be an abort that is none. A server that is dead for good is not waited for,
/// and none for longer than [`MESSAGE_LIMIT`].
fn awaits_message(view: &View<'_>, machine: &MachineView<'_>, stopped: Timestamp) -> bool {
    let asked_since = machine
        .machinetype
        .and_then(|configured| view.remote(configured))
        .and_then(|remote| remote.asked_since);
    // An end in the future was dated before the clock was set back, who knows when.
    let ended = Some(stopped).filter(|at| *at <= view.now);
    let waited = view.now.since(ended.max(asked_since).unwrap_or_default());
    let is_early = waited < MESSAGE_PATIENCE && view.now.since(stopped) < MESSAGE_LIMIT;
    machine.machine.awaits_message && (machine.machine.files.stopped.is_none() || is_early)
}

/// Fixes the time of an end whose other consequences have to wait: later scans must not move it.
fn stop(machine: &MachineView<'_>, finish: &Finish) -> Option<Bookkeeping> {
    let is_new = machine.machine.files.stopped.is_none();
    is_new.then(|| finish.stop())
}

/// Whether what a machine wrote is still to be copied.
fn is_to_be_kept(view: &View<'_>, machine: &MachineView<'_>) -> bool {
    let files = &machine.machine.files;
    files.logged.is_none() && view.config.keeps_joboutputs(files)
}

/// The new shutdowntime of a machine that has to be down sooner than it was told: never less than
/// the grace from now.
fn moved_shutdowntime(view: &View<'_>, machine: &MachineView<'_>) -> Option<Timestamp> {
    let files = &machine.machine.files;
    let told = files.shutdowntime?;
    let by_wallclock = machine
        .machinetype
        .map(|configured| files.created + configured.max_wallclock);
    let wanted = by_wallclock
        .into_iter()
        .chain(view.config.down_by())
        .min()?
        .max(view.now + view.config.grace);
    (wanted < told).then_some(wanted)
}

/// The end of a machine, when it has come and is not yet written down in full.
fn finish(
    view: &View<'_>,
    machine: &MachineView<'_>,
    started: Option<Timestamp>,
) -> Option<Finish> {
    let files = &machine.machine.files;
    let (listed, how) = match machine.bucket {
        Bucket::Listed(listed, MachineState::Shutdown) => (Some(listed), "it shut down"),
        Bucket::Listed(listed, MachineState::Failed) => (Some(listed), "the cloud gave up on it"),
        Bucket::Listed(listed, MachineState::Deleting) => (Some(listed), "it is being deleted"),
        Bucket::Gone => (None, "it is gone"),
        Bucket::NeverAppeared => (None, "it never appeared on the cloud"),
        // The daemon died between writing `stopped` and the rest, and the cloud has since changed
        // its mind: what is on file is the truth.
        Bucket::Listed(listed, _) if files.stopped.is_some() => (Some(listed), "it had stopped"),
        Bucket::Unlisted if files.stopped.is_some() => (None, "it had stopped"),
        Bucket::Listed(..) | Bucket::Pending | Bucket::Unlisted => return None,
    };
    // A clock that was set back must not make the run shorter: what it showed before is moved with
    // it, so that the end is not in the future and the length is right. Once the end is on file so
    // is that, and both stay.
    let (set_back, started) = match files.stopped {
        None => {
            let back = view.set_back(machine.machine);
            (back, started.map(|started| started.earlier(back)))
        }
        Some(_) => (files.clock_set_back.unwrap_or_default(), started),
    };
    let stopped = files
        .stopped
        .unwrap_or_else(|| end(view, machine, listed, started));
    let fizzle = machine
        .machinetype
        .map(|configured| configured.fizzle)
        .or(files.fizzle)
        .unwrap_or_default();
    let message = machine.machine.shutdown_message.as_ref();
    let code = message.and_then(crate::model::ShutdownMessage::code);
    let ran = started.map(|started| stopped.since(started));
    let fault = listed.and_then(|listed| listed.fault.as_deref());
    let abort = is_abort(code, ran, fizzle, files.ended);
    let never_ran = started.is_none() && !abort;
    Some(Finish {
        machine: files.name.clone(),
        machinetype: files.machinetype.clone(),
        started,
        stopped,
        set_back,
        code,
        abort,
        account: ran.is_some_and(|ran| ran >= fizzle),
        pauses: never_ran && !placement::has_room_elsewhere(view, machine.machinetype, listed),
        how: match (message, fault) {
            (Some(message), _) => format!("{how}, saying {:?}", message.text()),
            (None, Some(fault)) => format!("{how}: {fault}"),
            (None, None) if machine.machine.awaits_message => {
                format!("{how}, and what it may have said cannot be read")
            }
            (None, None) => how.to_owned(),
        },
    })
}

/// When a machine ended that began at `started`: as the cloud says, held between when it was last
/// known to run and now.
fn end(
    view: &View<'_>,
    machine: &MachineView<'_>,
    listed: Option<&CloudMachine>,
    started: Option<Timestamp>,
) -> Timestamp {
    let Some(started) = started else {
        // Never ran: what counts is when we found out.
        return view.now;
    };
    let last_running = view.last_running(machine.machine);
    let told = listed.and_then(|listed| listed.updated);
    let at = told.map_or(last_running, |told| {
        told.clamp(last_running.min(view.now), view.now)
    });
    at.max(started)
}

/// Whether a machine ended in a way that says "no work here". One that never ran is the
/// cloud's trouble, not the experiment's.
fn is_abort(
    code: Option<u16>,
    ran: Option<Seconds>,
    fizzle: Seconds,
    ended: Option<Ended>,
) -> bool {
    // A message is word from inside: whoever left one has run, whether we saw that or not.
    let spoke = code.is_some_and(|code| (300..700).contains(&code));
    let heartbeat = ended == Some(Ended::Heartbeat) && ran.is_some();
    let fizzled = code.is_none() && ran.is_some_and(|ran| ran < fizzle);
    spoke || heartbeat || fizzled
}

/// Whether the directory of a machine that is over has been kept for cleanup_hours; for a while
/// longer when what is in it could not be copied yet.
fn is_expired(view: &View<'_>, machine: &MachineView<'_>) -> bool {
    let over = matches!(machine.bucket, Bucket::Gone | Bucket::NeverAppeared);
    let longer = if is_to_be_kept(view, machine) {
        COPY_PATIENCE
    } else {
        Seconds::default()
    };
    over && machine
        .machine
        .files
        .finished
        .is_some_and(|finished| view.now.since(finished) > view.config.cleanup + longer)
}
