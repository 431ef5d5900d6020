//! What happens to single servers: by chance, by a scenario's wish, and by their VMs themselves.
//!
//! Each method says whether it had an effect, and only then is it counted.

use rand::Rng;

use super::life::{become_phase, fail};
use super::server::{DeletionEnd, End, Phase};
use super::{Cloud, Fate, Server, Strike};

impl Cloud {
    /// The VM has shut itself down. It may do so while a deletion is stuck.
    pub fn shut_off(&mut self, id: &str, now: u64) -> bool {
        self.advance(now);
        let offset = self.clock_offset;
        let Some(server) = self.present_mut(id).filter(|server| server.is_alive()) else {
            return false;
        };
        server.end(now, End::ShutOff);
        if server.deleting.is_none() {
            become_phase(server, Phase::Shutoff, now, offset);
        }
        self.changed = true;
        self.note(now);
        true
    }

    /// The VM is stopped from outside.
    pub fn stop(&mut self, id: &str, now: u64) -> bool {
        let done = self.halt(id, now, Phase::Shutoff, End::Stopped);
        self.counted(Strike::Stopped, done)
    }

    pub fn pause(&mut self, id: &str, now: u64) -> bool {
        let done = self.halt(id, now, Phase::Paused, End::Paused);
        self.counted(Strike::Paused, done)
    }

    pub fn suspend(&mut self, id: &str, now: u64) -> bool {
        let done = self.halt(id, now, Phase::Suspended, End::Suspended);
        self.counted(Strike::Suspended, done)
    }

    /// A server in BUILD stays there.
    pub fn stick_in_build(&mut self, id: &str, now: u64) -> bool {
        let done = self.change(id, now, |server, _| {
            let building = server.phase == Phase::Build;
            if building {
                server.boots_at = None;
                server.fails_at = None;
            }
            building
        });
        self.counted(Fate::BuildStuck, done)
    }

    /// A server in BUILD or with a VM ends in ERROR.
    pub fn fail(&mut self, id: &str, now: u64) -> bool {
        let building = self.server(id).is_some_and(|s| s.phase == Phase::Build);
        let offset = self.clock_offset;
        let done = self.change(id, now, |server, now| {
            let can = server.phase == Phase::Build || server.is_alive();
            if can {
                fail(server, now, offset);
            }
            can
        });
        if building {
            self.counted(Fate::BuildFails, done)
        } else {
            self.counted(Strike::Fails, done)
        }
    }

    /// A server is no longer there, whatever it was doing.
    pub fn vanish(&mut self, id: &str, now: u64) -> bool {
        let done = self.take_away(id, now);
        self.counted(Strike::Vanishes, done)
    }

    /// Its owner takes it away at once, which is no fault.
    pub fn take_away(&mut self, id: &str, now: u64) -> bool {
        self.advance(now);
        let Some(server) = self.present_mut(id) else {
            return false;
        };
        server.end(now, End::Vanished);
        server.gone_at = Some(now);
        if let Some(at) = self.index.get(id) {
            self.present.remove(at);
        }
        self.changed = true;
        self.note(now);
        true
    }

    pub fn rename(&mut self, id: &str, name: &str, now: u64) -> bool {
        let done = self.change(id, now, |server, _| {
            let other = server.name != name;
            name.clone_into(&mut server.name);
            other
        });
        self.counted(Strike::Renamed, done)
    }

    /// Gives an ACTIVE server another flavor: RESIZE for two minutes, VERIFY_RESIZE for an hour,
    /// ACTIVE. Its VM goes on.
    pub fn resize(&mut self, id: &str, flavor: &str, now: u64) -> bool {
        let offset = self.clock_offset;
        let done = self.change(id, now, |server, now| {
            let can = server.phase == Phase::Active && server.flavor != flavor;
            if can {
                flavor.clone_into(&mut server.flavor);
                become_phase(server, Phase::Resize { until: now + 120 }, now, offset);
            }
            can
        });
        self.counted(Strike::Resized, done)
    }

    /// An ACTIVE server is in REBOOT for so many seconds. For the model its VM goes on.
    pub fn reboot(&mut self, id: &str, seconds: u64, now: u64) -> bool {
        let offset = self.clock_offset;
        let done = self.change(id, now, |server, now| {
            let until = now + seconds;
            server.phase == Phase::Active
                && become_phase(server, Phase::Reboot { until }, now, offset)
        });
        self.counted(Strike::Rebooted, done)
    }

    /// The power state of an ACTIVE server is told as 0 for so many seconds.
    pub fn blink(&mut self, id: &str, seconds: u64, now: u64) -> bool {
        let done = self.change(id, now, |server, now| {
            let can = server.phase == Phase::Active;
            if can {
                server.blinks_until = Some(now + seconds);
            }
            can
        });
        self.counted(Strike::PowerBlinks, done)
    }

    /// What becomes of the next deletion of a server. It is counted when it happens.
    pub fn set_next_deletion(&mut self, id: &str, end: DeletionEnd) -> bool {
        match self.present_mut(id) {
            Some(server) => {
                server.next_deletion = Some(end);
                true
            }
            None => false,
        }
    }

    /// Something of this kind happens to a server, with details left to chance.
    pub fn strike(&mut self, kind: Strike, id: &str, now: u64) -> bool {
        match kind {
            // By chance, a server that is being built has a fate of its own.
            Strike::Fails if self.running_since(id).is_none() => false,
            Strike::Fails => self.fail(id, now),
            Strike::Vanishes => self.vanish(id, now),
            Strike::Renamed => {
                let name = format!("renamed-{:06}", self.rng.random_range(0..1_000_000_u32));
                self.rename(id, &name, now)
            }
            Strike::Resized => {
                let flavors = self.setup.flavors.iter().map(|flavor| flavor.id.clone());
                let flavors: Vec<String> = flavors.collect();
                match self.pick(&flavors) {
                    Some(flavor) => self.resize(id, &flavor, now),
                    None => false,
                }
            }
            Strike::Rebooted => {
                let seconds = self.rng.random_range(10..=300);
                self.reboot(id, seconds, now)
            }
            Strike::Paused => self.pause(id, now),
            Strike::Suspended => self.suspend(id, now),
            Strike::Stopped => self.stop(id, now),
            Strike::PowerBlinks => {
                let seconds = self.rng.random_range(10..=180);
                self.blink(id, seconds, now)
            }
        }
    }

    fn halt(&mut self, id: &str, now: u64, phase: Phase, how: End) -> bool {
        let offset = self.clock_offset;
        self.change(id, now, |server, now| {
            let alive = server.is_alive();
            if alive {
                server.end(now, how);
                become_phase(server, phase, now, offset);
            }
            alive
        })
    }

    /// Changes a server that is there; one that is being deleted is left alone.
    fn change(
        &mut self,
        id: &str,
        now: u64,
        change: impl FnOnce(&mut Server, u64) -> bool,
    ) -> bool {
        self.advance(now);
        let server = self
            .present_mut(id)
            .filter(|server| server.deleting.is_none());
        let done = server.is_some_and(|server| change(server, now));
        self.changed |= done;
        self.note(now);
        done
    }

    fn counted(&mut self, fault: impl Into<super::Fault>, done: bool) -> bool {
        if done {
            self.count(fault);
        }
        done
    }
}
