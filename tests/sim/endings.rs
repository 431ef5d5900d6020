//! When a machine has to be destroyed, and when it must not be, by what is true of it: how long it has
//! run, when it was last heard of, how the hosts' clocks were set meanwhile.

use std::collections::BTreeMap;

use crate::cloud::{Cloud, Server};
use crate::ledger::Knowledge;
use crate::plan::{Configuration, Kind};

/// A machine that has been starting for longer than this may be given up, and has to be.
const START_LIMIT: u64 = 3600;
/// The pauses before the second and third delete of one server; from then on it is an hour.
const DELETE_PAUSES: [u64; 2] = [30, 300];
const LONGEST_DELETE_PAUSE: u64 = 3600;
/// A machine's time counts from the decision to make it, so long before its request takes effect at most: a
/// pass asks for ten at once, a slow disk takes a second for each step, and the key pair and the request
/// itself a minute and more each.
const BEFORE_THE_REQUEST: u64 = 360;
/// From looking at a heartbeat file to the last try of the delete that follows from it.
const LOOKED_BEFORE: u64 = 300;
/// So long after a change of the configuration a pass can still be going on with the old one.
const OLD_PASSES: u64 = 1500;
/// In the calm a machine is destroyed within so long: two cycles, and their requests.
const PROMPT: u64 = 300;
/// The longest that a cloud which asked for it in the storm is left alone in the calm.
const LEFT_ALONE: u64 = 900;
/// A server that was resized waits so long for its confirmation, and is left alone meanwhile.
const RESIZED: u64 = 120 + 3600;
/// The clocks of the hosts and of the cloud are off by so much from each other at most.
const CLOCKS_APART: u64 = 7200;
/// Times of the daemon are whole seconds of its own clock.
const ROUNDING: u64 = 2;

/// What a machinetype gives its machines.
#[derive(Clone, Debug)]
struct Terms {
    fizzle: u64,
    heartbeat: Option<u64>,
    /// max_wallclock_seconds, each with the true time since which it was configured.
    wallclocks: Vec<(u64, u64)>,
}

/// What is true of the machines of one factory.
#[derive(Debug, Default)]
pub struct Endings {
    /// By space and machinetype.
    terms: BTreeMap<(String, String), Terms>,
    /// By machine: when heartbeats of it were taken. All times are true ones.
    beats: BTreeMap<String, Vec<u64>>,
    /// When the request for a machine was first sent.
    asked: BTreeMap<String, u64>,
    /// How often the deletion of a server was asked for, by its identifier.
    deletes: BTreeMap<String, usize>,
    /// Machines whose directories were removed, and when: what was known of them was lost.
    lost: BTreeMap<String, u64>,
    /// When the hosts' clock was set, and by how much.
    steps: Vec<(u64, i64)>,
    off: i64,
    /// How many deletes were judged, by what was found.
    pub tally: BTreeMap<&'static str, u64>,
}

impl Endings {
    /// A configuration was written.
    pub fn configured(&mut self, configuration: &Configuration, now: u64) {
        for space in &configuration.spaces {
            for kind in &space.kinds {
                let place = (space.name.to_owned(), kind.name.to_owned());
                let terms = self.terms.entry(place).or_insert_with(|| Terms {
                    fizzle: kind.fizzle,
                    heartbeat: kind.heartbeat,
                    wallclocks: Vec::new(),
                });
                terms.wallclocks.push((now, kind.wallclock));
            }
        }
    }

    pub fn beat(&mut self, machine: &str, now: u64) {
        self.beats.entry(machine.to_owned()).or_default().push(now);
    }

    pub fn asked_for(&mut self, machine: &str, now: u64) {
        self.asked.entry(machine.to_owned()).or_insert(now);
    }

    pub fn lost_its_directory(&mut self, machine: &str, now: u64) {
        self.lost.insert(machine.to_owned(), now);
    }

    /// The hosts' clock is off by so many seconds from now on.
    pub fn clock_was_set(&mut self, now: u64, off: i64) {
        self.steps.push((now, off - self.off));
        self.off = off;
    }

    /// The most that a clock can say has passed since a true time.
    fn most_since(&self, since: u64, now: u64) -> u64 {
        let steps = self.steps.iter().filter(|(at, _)| *at >= since);
        let forward = steps.filter_map(|(_, by)| u64::try_from(*by).ok());
        now.saturating_sub(since) + forward.sum::<u64>()
    }

    /// How far the clock has been set back since a true time: so much later may be done what is due.
    fn back_since(&self, since: u64) -> u64 {
        let steps = self.steps.iter().filter(|(at, _)| *at >= since);
        steps
            .filter_map(|(_, by)| u64::try_from(by.saturating_neg()).ok())
            .sum()
    }

    pub fn clock_has_been_set(&self) -> bool {
        !self.steps.is_empty()
    }

    /// fizzle_seconds of a machinetype, which never change.
    pub fn fizzle(&self, space: &str, machinetype: &str) -> Option<u64> {
        let terms = self.terms.get(&(space.to_owned(), machinetype.to_owned()));
        terms.map(|terms| terms.fizzle)
    }

    fn terms_of(&self, server: &Server) -> Option<&Terms> {
        let mark = |key: &str| server.metadata.get(key).cloned();
        self.terms.get(&(mark("space")?, mark("machinetype")?))
    }

    /// A DELETE for this server is about to be carried out: whether there is a reason for it.
    ///
    /// # Errors
    /// When the server has not done anything to deserve it.
    pub fn may_delete(&mut self, server: &Server, cloud: &Cloud, now: u64) -> Result<(), String> {
        *self.deletes.entry(server.id.clone()).or_default() += 1;
        let reason = self.reason(server, cloud, now);
        let what = reason.unwrap_or("= deletes without a reason");
        *self.tally.entry(what).or_default() += 1;
        if reason.is_some() {
            return Ok(());
        }
        let beats = self.beats.get(&server.first_name);
        Err(format!(
            "{} ({}) is deleted without a reason: {}, asked for at {:?}, runs since {:?}, last heartbeats {:?}",
            server.name,
            server.id,
            server.status(),
            self.asked.get(&server.first_name),
            server.running_since,
            beats.map(|beats| &beats[beats.len().saturating_sub(3)..])
        ))
    }

    fn reason(&self, server: &Server, cloud: &Cloud, now: u64) -> Option<&'static str> {
        if server.is_gone() || server.is_being_deleted() || server.ended.is_some() {
            return Some("= deletes of what was over");
        }
        // Which of two is the one to keep goes by what was listed and written down of them.
        let is_namesake = |other: &&Server| {
            other.id != server.id
                && (other.first_name == server.first_name || other.name == server.name)
        };
        if cloud.history().iter().any(|other| is_namesake(&other)) {
            return Some("= deletes not judged: two servers of one name");
        }
        let Some(terms) = self.terms_of(server) else {
            return Some("= deletes not judged: no machinetype of ours");
        };
        let asked = self.asked.get(&server.first_name).copied();
        let made = asked.map_or(server.created, |asked| asked.min(server.created));
        let written = made.saturating_sub(BEFORE_THE_REQUEST);
        let mut age = self.most_since(written, now);
        let lost = self.lost.get(&server.first_name).copied();
        if lost.is_some() && (!self.steps.is_empty() || cloud.clock_has_been_wrong()) {
            // The host's clock does not tell any more when it began, and the cloud's shows another time.
            age += CLOCKS_APART;
        }
        // A listing that was drawn up before it began to run may have shown it as starting.
        let has_begun = server
            .running_since
            .map(|since| since + LOOKED_BEFORE < now);
        if age > START_LIMIT && has_begun != Some(true) {
            return Some("= deletes of what did not start");
        }
        has_begun?;
        if age > terms.shortest_wallclock(written) {
            return Some("= deletes for wallclock");
        }
        let limit = terms.heartbeat?;
        // A cloud whose clock is wrong may tell any time since it was made for its start.
        // In a new directory it has to write as a new machine has to; where that was made while its
        // machinetype was not configured, it cannot.
        let fizzle = terms.fizzle;
        let is_off = self.clock_has_been_set() || cloud.clock_has_been_wrong();
        let began = if is_off { written } else { made };
        let silent_since = lost.map(|lost| {
            let beats = self.beats.get(&server.first_name);
            let last = beats.and_then(|beats| beats.last());
            last.map_or(lost, |last| lost.max(*last))
        });
        let is_silent = silent_since.is_some_and(|since| now.saturating_sub(since) > fizzle)
            || self.was_silent(&server.first_name, (limit, fizzle), began, now);
        is_silent.then_some("= deletes for heartbeats")
    }

    /// Whether at some moment of late the machine was silent for so long that it may be destroyed: after
    /// its last heartbeat, or without any since it was made. By true time: a clock that was set forward
    /// makes nobody silent.
    fn was_silent(&self, machine: &str, (limit, fizzle): (u64, u64), made: u64, now: u64) -> bool {
        let beats = self.beats.get(machine).into_iter().flatten().copied();
        let (mut before, mut limit_before) = (made, limit.min(fizzle));
        for beat in beats.chain([now]) {
            let silence = beat.saturating_sub(before) + ROUNDING;
            if silence > limit_before && beat + LOOKED_BEFORE >= now {
                return true;
            }
            (before, limit_before) = (beat, limit);
        }
        false
    }

    /// In the calm: the true time by which a server has to be destroyed, or its deletion asked for again.
    pub fn due(&self, server: &Server, kind: &Kind, known: Knowledge, calm_since: u64) -> u64 {
        let calm_since = calm_since + LEFT_ALONE;
        let after_the_storm = |at: u64| at.max(calm_since) + PROMPT;
        let pause = self.pause_before_the_next_delete(&server.id);
        let back = self.back_since(server.created);
        if let Some((ended, _)) = server.ended {
            return after_the_storm(ended) + pause + back;
        }
        let Some(runs_since) = server.running_since else {
            return after_the_storm(server.created + START_LIMIT) + pause + back;
        };
        // What the cloud did not tell, or told wrongly, counts from when it was seen.
        let first = known.first_running;
        let first = first.filter(|_| !self.lost.contains_key(&server.first_name));
        let seen = first.unwrap_or(calm_since + PROMPT);
        let began = runs_since.max(seen.min(calm_since + PROMPT));
        let overdue = after_the_storm(began + kind.wallclock) + back;
        let silent = self.silent_from(server, kind, began, calm_since);
        let due = silent.map_or(overdue, |silent| silent.min(overdue)) + pause;
        if server.flavor == server.first_flavor {
            due
        } else {
            due.max(after_the_storm(calm_since + RESIZED) + pause)
        }
    }

    /// For how long a server may stay, because deletes of it have failed.
    fn pause_before_the_next_delete(&self, id: &str) -> u64 {
        match self
            .deletes
            .get(id)
            .and_then(|deletes| deletes.checked_sub(1))
        {
            None => 0,
            Some(more) => *DELETE_PAUSES.get(more).unwrap_or(&LONGEST_DELETE_PAUSE),
        }
    }

    /// By when it has to be known that nothing is heard of a machine.
    fn silent_from(
        &self,
        server: &Server,
        kind: &Kind,
        began: u64,
        calm_since: u64,
    ) -> Option<u64> {
        let limit = kind.heartbeat?;
        let last = self
            .beats
            .get(&server.first_name)
            .and_then(|beats| beats.last());
        // The daemon listens anew from its last start on, and nobody heard what was said before that.
        let patience = limit.max(kind.fizzle);
        let listens = calm_since + PROMPT;
        let since = last.map_or(began, |last| began.max(*last));
        Some(since.max(listens) + patience + PROMPT + self.back_since(since))
    }
}

impl Terms {
    /// The shortest max_wallclock_seconds that has been in force since a true time.
    fn shortest_wallclock(&self, since: u64) -> u64 {
        let ends = self
            .wallclocks
            .iter()
            .skip(1)
            .map(|(at, _)| at + OLD_PASSES);
        let ends = ends.chain([u64::MAX]);
        let in_force = self.wallclocks.iter().zip(ends);
        let in_force = in_force.filter(|(_, end)| *end >= since);
        in_force
            .map(|((_, seconds), _)| *seconds)
            .min()
            .unwrap_or(0)
    }
}
