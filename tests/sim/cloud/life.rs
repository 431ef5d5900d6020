//! What happens to the servers while time goes by.

use super::call::Call;
use super::server::{DeletionEnd, End, Failure, Phase, Server};
use super::{Cloud, Strike, World};

/// Chance comes round once a minute, on the minute.
const TICK: u64 = 60;
const TICKS_AN_HOUR: f64 = 60.0;

/// How long a resized server waits for its confirmation, which then comes by itself.
const CONFIRMED_AFTER: u64 = 3600;

impl Cloud {
    /// Plays the cloud's life until `now`. How often this is called makes no difference.
    pub fn advance(&mut self, now: u64) {
        let mut at = *self.advanced_to.get_or_insert(now);
        if now < at {
            return;
        }
        while let Some(tick) = next_tick(at).filter(|tick| *tick <= now) {
            self.settle(tick);
            self.note(tick);
            // What strikes plays the life until now, too, and finds that done.
            self.advanced_to = Some(tick);
            self.strike_all(tick);
            self.note(tick);
            at = tick;
        }
        self.settle(now);
        self.note(now);
        self.advanced_to = Some(now);
    }

    /// Lets everything happen that is due.
    fn settle(&mut self, now: u64) {
        while let Some(entry) = self.late.first_entry().filter(|e| e.key().0 <= now) {
            let due = entry.key().0;
            let ask = entry.remove();
            self.settle_servers(due);
            let call = Call::of(&self.base, &ask);
            self.serve(due, &ask, &call);
        }
        self.settle_servers(now);
    }

    fn settle_servers(&mut self, now: u64) {
        let offset = self.clock_offset;
        let mut gone = Vec::new();
        for at in &self.present {
            let Some(server) = self.all.get_mut(*at) else {
                continue;
            };
            while settle_once(server, now, offset) {}
            if server.is_gone() {
                gone.push(*at);
            }
        }
        for at in gone {
            self.present.remove(&at);
        }
    }

    fn strike_all(&mut self, now: u64) {
        let scale = 1.0 / TICKS_AN_HOUR;
        for kind in World::ALL.iter().copied() {
            if self.draw(std::iter::once(kind), scale).is_some() {
                self.change_world(kind, now);
            }
        }
        let any = |kind: &Strike| self.faults.chance(*kind) > 0.0;
        if !Strike::ALL.iter().any(any) {
            return;
        }
        let present: Vec<usize> = self.present.iter().copied().collect();
        for at in present {
            let kind = self.draw(Strike::ALL.iter().copied(), scale);
            let id = self.all.get(at).map(|server| server.id.clone());
            if let (Some(kind), Some(id)) = (kind, id) {
                self.strike(kind, &id, now);
            }
        }
    }
}

fn next_tick(after: u64) -> Option<u64> {
    (after / TICK).checked_add(1)?.checked_mul(TICK)
}

/// The next thing that is due for a server; false when there is none.
fn settle_once(server: &mut Server, now: u64, offset: i64) -> bool {
    if server.is_gone() {
        return false;
    }
    if let Some(at) = server.leaves_at.filter(|at| *at <= now) {
        server.end(at, End::Deleted);
        server.gone_at = Some(at);
        return true;
    }
    if let Some(deleting) = server.deleting {
        return deleting.until <= now && end_deletion(server, deleting.until, deleting.end, offset);
    }
    match server.phase {
        Phase::Build => settle_build(server, now, offset),
        Phase::Reboot { until } if until <= now => {
            become_phase(server, Phase::Active, until, offset)
        }
        Phase::Resize { until } if until <= now => {
            let phase = Phase::VerifyResize {
                until: until + CONFIRMED_AFTER,
            };
            become_phase(server, phase, until, offset)
        }
        Phase::VerifyResize { until } if until <= now => {
            become_phase(server, Phase::Active, until, offset)
        }
        Phase::Reboot { .. }
        | Phase::Resize { .. }
        | Phase::VerifyResize { .. }
        | Phase::Active
        | Phase::Shutoff
        | Phase::Paused
        | Phase::Suspended
        | Phase::Error => false,
    }
}

fn settle_build(server: &mut Server, now: u64, offset: i64) -> bool {
    if let Some(at) = server.fails_at.filter(|at| *at <= now) {
        fail(server, at, offset);
        return true;
    }
    let Some(at) = server.boots_at.filter(|at| *at <= now) else {
        return false;
    };
    server.running_since = Some(at);
    server.told.launched = Some(super::told(at).saturating_add(offset));
    become_phase(server, Phase::Active, at, offset)
}

fn end_deletion(server: &mut Server, at: u64, end: DeletionEnd, offset: i64) -> bool {
    server.end(at, End::Deleted);
    server.deleting = None;
    match end {
        DeletionEnd::Gone | DeletionEnd::Stuck => server.gone_at = Some(at),
        DeletionEnd::Fails => {
            fail(server, at, offset);
        }
    }
    true
}

pub(super) fn become_phase(server: &mut Server, phase: Phase, at: u64, offset: i64) -> bool {
    server.phase = phase;
    server.told.updated = super::told(at).saturating_add(offset);
    true
}

/// The server is in ERROR from now on.
pub(super) fn fail(server: &mut Server, at: u64, offset: i64) {
    let placed = server.told.launched.is_some();
    let message = if placed {
        "The instance failed: the connection to its host was lost."
    } else {
        "No valid host was found. There are not enough hosts available."
    };
    server.failure = Some(Failure {
        message: message.to_owned(),
        at: super::told(at).saturating_add(offset),
        readable_from: at + 3,
        listed: placed,
    });
    server.end(at, End::Failed);
    become_phase(server, Phase::Error, at, offset);
}
