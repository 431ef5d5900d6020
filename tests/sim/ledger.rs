//! What one factory was told by one cloud and what it did there, and the rules for that.
//!
//! The rules know what is true (the model's servers) and what the factory could know (the answers
//! that it got), and ask of it only what follows from the second.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::Value;
use vcycle::model::{MachineName, Timestamp};

use crate::cloud::{Cloud, Maker, Server};
use crate::keys::Keys;
use crate::room::Room;

/// How far a listing has come.
#[derive(Clone, Debug, Default)]
enum Listing {
    /// None yet in this life, or none that was good.
    #[default]
    None,
    Growing {
        /// True times: when its pass asked for the first time, at the latest, and when this did.
        pass_began: u64,
        asked: u64,
        seen: BTreeMap<String, Seen>,
        /// True time of the page that has no next one, when it has come.
        ended: Option<u64>,
    },
    Complete,
}

/// True times of a listing: of the first request of its pass, as far as that is known (a scan is as
/// old as that), of its own first request, and of its last page.
#[derive(Clone, Copy, Debug)]
struct Times {
    pass_began: u64,
    asked: u64,
    ended: u64,
}

/// After so many suspect listings in a row they may be believed.
const BELIEVED: u32 = 10;

/// A server as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    running: bool,
    /// It may run, as far as is told.
    alive: bool,
    /// Its VM has ended, or is about to.
    over: bool,
    flavor: Option<String>,
    /// How long it ran, if it has shut down and the cloud tells both times.
    ran: Option<u64>,
    /// The cloud tells when it changed last.
    is_dated: bool,
}

/// From `OS-SRV-USG:launched_at`, which has no zone, to `updated`, of a server that has shut down; no
/// time where the cloud does not tell one of them.
fn told_run(server: &Value) -> Option<u64> {
    let text = |key: &str| server.get(key).and_then(Value::as_str);
    if text("status") != Some("SHUTOFF") {
        return None;
    }
    let launched = text("OS-SRV-USG:launched_at").and_then(|time| time.parse().ok());
    let updated = text("updated").and_then(|time| time.parse::<DateTime<Utc>>().ok());
    let ran = launched
        .zip(updated)
        .map(|(launched, updated): (NaiveDateTime, _)| {
            updated
                .signed_duration_since(launched.and_utc())
                .num_seconds()
        });
    u64::try_from(ran.unwrap_or_default()).ok()
}

/// What a factory knows of one server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Knowledge {
    /// True times of the first and the last complete listing that showed it running.
    pub first_running: Option<u64>,
    pub last_running: Option<u64>,
    /// The longest time between two of those that showed it so.
    pub longest_gap: u64,
    /// The first complete listing after its VM had ended.
    pub told_end: Option<u64>,
    /// Some listing showed it after its start and before its end, whatever came of the pass.
    pub shown_alive: bool,
    /// A listing said that it has ended, or is being deleted.
    pub told_over: bool,
    /// The shortest run that complete listings told of, once it had shut down.
    pub told_run: Option<u64>,
    /// Some of them was told to the daemon that runs, or to one that has come to the end of its pass.
    pub is_told: bool,
    /// The second.
    told_for_good: bool,
    /// A listing that was asked for after its VM had ended showed it as if it had not.
    pub lied_about: bool,
    /// Complete listings that did not show it although it was there. Whether they came in a row is
    /// for the factory to say: it may have thrown away one in between for what else was in it.
    omitted: u32,
    /// It was shown: the factory can ask for it by its identifier.
    shown: bool,
    /// There were two that did not show it, and, where the factory could ask for it alone, the answer
    /// was that there is no such server: it may take it for gone.
    pub written_off: bool,
    /// A listing did not show it, nor did any before, when a machine whose creation was not answered is
    /// given up: it may have begun to be only just before.
    given_up: bool,
}

/// A creation that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    /// Whether it may have made a server.
    may_have_made: bool,
    /// The listing that it was decided by.
    at: u64,
}

/// A machine that was asked for without an answer is given up so long after its directory was made.
const ADOPTION: u64 = 600;

/// What may be created at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub machines: Option<u32>,
    pub processors: Option<u32>,
}

/// One factory's business with one cloud.
#[derive(Debug)]
pub struct Ledger {
    pub factory: String,
    pub space: String,
    listing: Listing,
    /// When the pass that is going on asked for the first time, at the latest.
    pass_began: u64,
    /// Whether that pass has come to its listing.
    lists: bool,
    listed: BTreeMap<String, Seen>,
    /// What it knows for sure: the passes that found it out have come to their end.
    pub knowledge: BTreeMap<String, Knowledge>,
    passes: u64,
    /// With what the pass that is going on has found out.
    fresh: BTreeMap<String, Knowledge>,
    /// Listings in a row that showed none of several servers of ours.
    suspects: u32,
    /// Names asked for.
    asked_for: BTreeMap<String, Asked>,
    /// When the latest complete listing ended.
    listed_at: u64,
    /// Machines that have lost their directories: a listing without marks does not tell whose they are.
    pub lost: BTreeSet<String>,
    /// max_machines of machinetypes that have one.
    pub most: BTreeMap<&'static str, u32>,
    /// Names that the pass that is going on has asked for, and their processors.
    asked_in_this_pass: BTreeMap<String, u32>,
    /// What it was told of the cloud's room.
    pub room: Room,
    pub keys: Keys,
    pub listings: u64,
    pub creates: u64,
    pub deletes: u64,
}

impl Ledger {
    pub fn new(factory: &str, space: &str) -> Self {
        Self {
            factory: factory.to_owned(),
            space: space.to_owned(),
            listing: Listing::None,
            pass_began: 0,
            lists: false,
            listed: BTreeMap::new(),
            knowledge: BTreeMap::new(),
            fresh: BTreeMap::new(),
            passes: 0,
            suspects: 0,
            asked_for: BTreeMap::new(),
            listed_at: 0,
            lost: BTreeSet::new(),
            most: BTreeMap::new(),
            asked_in_this_pass: BTreeMap::new(),
            room: Room::default(),
            keys: Keys::default(),
            listings: 0,
            creates: 0,
            deletes: 0,
        }
    }

    /// The daemon has begun again: it has no listing to act on.
    pub fn new_life(&mut self, cloud: &Cloud) {
        self.settle(cloud);
        self.take_up(|_| false);
        for known in self.knowledge.values_mut() {
            known.is_told = known.told_for_good;
        }
        self.fresh.clone_from(&self.knowledge);
        self.listing = Listing::None;
        self.lists = true;
        self.passes = 0;
        self.room.forget();
    }

    /// Whether a server carries the marks of this factory in this space.
    pub fn owns(&self, server: &Server) -> bool {
        let mark = |key: &str| server.metadata.get(key).map(String::as_str);
        mark("manager") == Some(&self.factory) && mark("space") == Some(&self.space)
    }

    /// Something was asked that a pass begins with.
    pub fn begins_a_pass(&mut self, now: u64) {
        let in_the_middle = matches!(self.listing, Listing::Growing { ended: None, .. });
        if self.lists && !in_the_middle {
            self.pass_began = now;
            self.lists = false;
        }
    }

    /// A page of the listing was asked for: the first one begins anew.
    pub fn asks_for_page(&mut self, first: bool, cloud: &Cloud, now: u64) {
        self.lists = true;
        if first {
            self.asked_in_this_pass.clear();
            self.settle(cloud);
            self.listing = Listing::Growing {
                pass_began: self.pass_began,
                asked: now,
                seen: BTreeMap::new(),
                ended: None,
            };
        }
    }

    /// So many passes of this life have come to their end, the latest as it should or not: one that
    /// did not has learnt nothing, and neither has any of a machine that could not be written about.
    pub fn passes_have_ended(
        &mut self,
        passes: u64,
        well: bool,
        unwritten: &BTreeMap<MachineName, Timestamp>,
        cloud: &Cloud,
    ) {
        if passes == self.passes {
            return;
        }
        if passes < self.passes {
            // The space was dropped and taken up again.
            self.room.forget();
        }
        // Of two that have ended since the last look only the second is told of.
        let well = well && passes <= self.passes + 1;
        self.passes = passes;
        self.settle(cloud);
        self.room.pass_has_ended(well);
        let is_unwritten = |server: &Server| {
            let mut names = unwritten.keys();
            names.any(|name| name.as_str() == server.first_name)
        };
        self.take_up(|id| well && !cloud.server(id).is_some_and(is_unwritten));
    }

    /// Takes over what was found out of the servers of which it has been noted. Of the others nothing
    /// is known for sure; but that one was missing, or seems to run, may have been noted all the same.
    fn take_up(&mut self, is_noted: impl Fn(&str) -> bool) {
        for (id, fresh) in &self.fresh {
            let known = self.knowledge.entry(id.clone()).or_default();
            if is_noted(id) {
                *known = *fresh;
                known.told_for_good = fresh.is_told;
                continue;
            }
            known.is_told = fresh.is_told;
            known.omitted = fresh.omitted;
            known.shown |= fresh.shown;
            known.written_off |= fresh.written_off;
            known.given_up |= fresh.given_up;
            known.lied_about |= fresh.lied_about;
            known.shown_alive |= fresh.shown_alive;
            known.told_run = fresh.told_run;
        }
        self.fresh.clone_from(&self.knowledge);
    }

    /// Takes over a listing whose last page has come. There may be one more that was not linked.
    pub fn settle(&mut self, cloud: &Cloud) {
        if let Listing::Growing {
            pass_began,
            asked,
            seen,
            ended: Some(at),
        } = &mut self.listing
        {
            let seen = std::mem::take(seen);
            let times = Times {
                pass_began: (*pass_began).min(*at),
                asked: *asked,
                ended: *at,
            };
            self.listing_is_complete(&seen, cloud, times);
        }
    }

    /// A page of the listing came, or something else in its place.
    pub fn gets_page(&mut self, page: Option<&Value>, now: u64) {
        let Listing::Growing { seen, ended, .. } = &mut self.listing else {
            return;
        };
        let Some(servers) = page
            .and_then(|page| page.get("servers"))
            .and_then(Value::as_array)
        else {
            // Another try may follow, for this page.
            return;
        };
        let is_whole = |server: &Value| server.get("id").is_some_and(Value::is_string);
        if !servers.iter().all(is_whole) {
            self.listing = Listing::None;
            return;
        }
        for server in servers {
            self.room.shown(server, now);
            let text = |key: &str| server.get(key).and_then(Value::as_str);
            let id = text("id").unwrap();
            let powered = server.get("OS-EXT-STS:power_state").and_then(Value::as_u64);
            let deleting = text("OS-EXT-STS:task_state") == Some("deleting");
            let running = text("status") == Some("ACTIVE") && powered == Some(1) && !deleting;
            let flavor = server.pointer("/flavor/id").and_then(Value::as_str);
            let flavor = flavor.map(str::to_owned);
            let over = ["SHUTOFF", "PAUSED", "SUSPENDED", "ERROR", "DELETED"];
            let over = deleting || text("status").is_some_and(|status| over.contains(&status));
            let shown = Seen {
                running,
                alive: !over && text("status") != Some("BUILD"),
                over,
                flavor,
                ran: told_run(server),
                is_dated: text("updated").is_some(),
            };
            seen.insert(id.to_owned(), shown);
        }
        if page.and_then(|page| page.get("servers_links")).is_none() {
            *ended = Some(now);
        }
    }

    /// It was asked for alone, and shown.
    pub fn is_shown(&mut self, id: &str, server: &Value, now: u64) {
        self.room.shown(server, now);
        self.fresh.entry(id.to_owned()).or_default().shown = true;
    }

    /// It was asked for alone, and the answer is that there is no such server.
    pub fn is_told_gone(&mut self, id: &str) {
        let known = self.fresh.entry(id.to_owned()).or_default();
        known.written_off |= known.omitted >= 2;
    }

    fn listing_is_complete(&mut self, seen: &BTreeMap<String, Seen>, cloud: &Cloud, times: Times) {
        let now = times.ended;
        self.listing = Listing::Complete;
        self.listings += 1;
        self.listed_at = now;
        self.listed.clone_from(seen);
        self.suspects = if self.is_suspect(seen, cloud) {
            self.suspects + 1
        } else {
            0
        };
        let is_believed = self.suspects == 0 || self.suspects >= BELIEVED;
        for server in cloud.servers() {
            let known = self.fresh.entry(server.id.clone()).or_default();
            match seen.get(&server.id) {
                Some(seen) => {
                    known.shown = true;
                    let runs = seen.ran.into_iter().chain(known.told_run);
                    known.told_run = runs.min();
                    known.is_told |= seen.ran.is_some();
                    known.shown_alive |= seen.alive;
                    // Its end is written down at the first word of it, and once.
                    known.told_over |= seen.over;
                    if seen.running && !known.told_over {
                        known.first_running.get_or_insert(now);
                        let before = known.last_running.replace(times.pass_began);
                        let gap = now.saturating_sub(before.unwrap_or(now));
                        known.longest_gap = known.longest_gap.max(gap);
                    }
                }
                None => {
                    known.omitted += 1;
                    known.written_off |= known.omitted >= 2 && is_believed && !known.shown;
                    let asked = self.asked_for.get(&server.first_name);
                    let is_late = asked.is_some_and(|asked| now >= asked.at + ADOPTION);
                    known.given_up |= is_late && !known.shown;
                }
            }
        }
        for (id, known) in &mut self.fresh {
            let Some((ended, _)) = cloud.server(id).and_then(|server| server.ended) else {
                continue;
            };
            let shown = seen.get(id);
            let lies = |shown: &Seen| !shown.over || !shown.is_dated;
            known.lied_about |= ended < times.asked && shown.is_some_and(lies);
            if !shown.is_some_and(|shown| shown.running) {
                known.told_end.get_or_insert(now);
            }
        }
    }

    /// Whether a listing shows none of ours, and three are there that the factory knows to run.
    fn is_suspect(&self, seen: &BTreeMap<String, Seen>, cloud: &Cloud) -> bool {
        let ours = || cloud.servers().filter(|server| self.owns(server));
        if ours().any(|server| seen.contains_key(&server.id)) {
            return false;
        }
        let runs = |server: &&Server| {
            let known = self.fresh.get(&server.id);
            let known =
                known.is_some_and(|known| known.last_running.is_some() && !known.written_off);
            known && server.ended.is_none() && server.deletions.is_empty()
        };
        ours().filter(runs).nth(2).is_some()
    }

    fn acts_on_a_complete_listing(&self) -> bool {
        matches!(self.listing, Listing::Complete)
    }

    /// A DELETE for this server is about to be carried out.
    pub fn deletes(&mut self, id: &str, cloud: &Cloud) -> Result<(), String> {
        self.deletes += 1;
        self.settle(cloud);
        if !self.acts_on_a_complete_listing() {
            return Err(format!(
                "{} deletes {id} without a complete listing",
                self.factory
            ));
        }
        let Some(server) = cloud.server(id) else {
            return Err(format!("{} deletes {id}, which never was", self.factory));
        };
        // A namesake without any marks may be taken for what it pretends to be while the answer that
        // named the real one is lost.
        let mut real = cloud
            .servers()
            .filter(|real| self.owns(real) && real.first_name == server.first_name);
        let is_known = |real: &Server| {
            let known = self.fresh.get(&real.id);
            known.is_some_and(|known| known.shown)
        };
        let unmarked = !server.metadata.contains_key("manager")
            && self.asked_for.contains_key(&server.first_name)
            && !real.any(is_known);
        if !self.owns(server) && !unmarked {
            return Err(format!(
                "{} deletes {id} ({}), which is not its own: {:?}",
                self.factory, server.name, server.metadata
            ));
        }
        Ok(())
    }

    /// A DELETE of this key pair is about to be carried out.
    pub fn removes_key(&mut self, name: &str, cloud: &Cloud, now: u64) -> Result<(), String> {
        let is_shown = |server: &Server| {
            let known = self.fresh.get(&server.id);
            known.is_some_and(|known| known.shown && known.omitted == 0)
        };
        self.keys.removes(name, cloud, is_shown, now)
    }

    /// A POST for this name and flavor is about to be carried out.
    pub fn creates(
        &mut self,
        (name, machinetype): (&str, &str),
        flavor: &str,
        limits: Limits,
        cloud: &Cloud,
    ) -> Result<(), String> {
        self.creates += 1;
        self.settle(cloud);
        if !self.acts_on_a_complete_listing() {
            return Err(format!(
                "{} creates {name} without a complete listing",
                self.factory
            ));
        }
        let before = self.asked_for.get(name);
        if before.is_some_and(|asked| asked.may_have_made) {
            return Err(format!(
                "{} asks for {name} again although it may exist",
                self.factory
            ));
        }
        let counted: Vec<&Server> = cloud
            .servers()
            .filter(|server| self.counts(server))
            .collect();
        let machines = u32::try_from(counted.len()).unwrap() + 1;
        let cores = counted
            .iter()
            .map(|server| self.processors_known_of(server, cloud))
            .sum::<u32>()
            + cloud.processors_of(flavor);
        if limits.machines.is_some_and(|limit| machines > limit) {
            return Err(format!(
                "{} creates {name} as machine {machines} of {:?} beside {}",
                self.factory,
                limits.machines,
                self.shown(&counted)
            ));
        }
        if limits.processors.is_some_and(|limit| cores > limit) {
            return Err(format!(
                "{} creates {name} to have {cores} of {:?} processors beside {}",
                self.factory,
                limits.processors,
                self.shown(&counted)
            ));
        }
        let is_of_it = |server: &&&Server| {
            let kind = server.metadata.get("machinetype").map(String::as_str);
            let is_known = !self.lost.contains(&server.first_name);
            self.owns(server) && kind == Some(machinetype) && is_known
        };
        let of_it = counted.iter().filter(is_of_it).count();
        if let Some(most) = self.most.get(machinetype)
            && u32::try_from(of_it).unwrap() >= *most
        {
            return Err(format!(
                "{} creates {name} beside {of_it} of its machinetype, which may have {most}",
                self.factory
            ));
        }
        let asked = &mut self.asked_in_this_pass;
        asked.insert(name.to_owned(), cloud.processors_of(flavor));
        let machines = u32::try_from(asked.len()).unwrap();
        // The first is made even when it has more processors than that.
        let processors = if machines > 1 {
            asked.values().sum()
        } else {
            0
        };
        let is_too_much =
            |asked: u32, limit: Option<u32>| limit.is_some_and(|limit| asked > limit.div_ceil(10));
        if is_too_much(machines, limits.machines) || is_too_much(processors, limits.processors) {
            return Err(format!(
                "{} creates {name} in one pass with {asked:?}, more than a tenth of {limits:?}",
                self.factory
            ));
        }
        let asked = Asked {
            may_have_made: true,
            at: self.listed_at,
        };
        self.asked_for.insert(name.to_owned(), asked);
        Ok(())
    }

    /// Since when the youngest machine of a machinetype runs that the latest listing showed as running or
    /// being built, or that this pass has asked for; one that does not run yet does so now. A cloud whose
    /// clock was wrong may tell of any as older.
    pub fn youngest(&self, machinetype: &str, cloud: &Cloud, now: u64) -> Option<u64> {
        if cloud.clock_has_been_wrong() {
            return None;
        }
        let lives = |server: &&Server| {
            let kind = server.metadata.get("machinetype").map(String::as_str);
            let seen = self.listed.get(&server.id);
            let is_shown = seen.is_some_and(|seen| seen.running || !(seen.alive || seen.over));
            let is_new = self.asked_in_this_pass.contains_key(&server.first_name);
            // Somebody's under the name of a machine that has ended is none that is tried.
            let is_asked_for = matches!(server.maker, Maker::Request { .. });
            let is_ours = is_asked_for && self.owns(server) && kind == Some(machinetype);
            is_ours && (is_shown || is_new) && server.ended.is_none()
        };
        let running_since = |server: &Server| server.running_since.unwrap_or(now);
        cloud.servers().filter(lives).map(running_since).max()
    }

    /// Whether the factory can know that a server is there: it made it, or it was listed.
    fn counts(&self, server: &Server) -> bool {
        let known = self.fresh.get(&server.id).copied().unwrap_or_default();
        let made_it = self.owns(server)
            && matches!(server.maker, Maker::Request { .. })
            && self.asked_for.contains_key(&server.first_name);
        if self.listed.contains_key(&server.id) {
            return true;
        }
        // Its own machine counts on, until it was missing twice; one that has ended, or that it was
        // told is being deleted, and that is missing does not. Nor one that is missing, and so is its
        // directory.
        let is_over = server.ended.is_some() || !server.deletions.is_empty();
        let is_lost = self.lost.contains(&server.first_name);
        let is_not_there = known.written_off || known.given_up;
        let is_gone = is_not_there || is_lost || (is_over && known.omitted > 0);
        made_it && !is_gone
    }

    fn shown(&self, servers: &[&Server]) -> String {
        let shown = servers.iter().map(|server| {
            let listed = self.listed.get(&server.id);
            let known = self.fresh.get(&server.id);
            format!(
                "{} ({}, {}, {:?}, listed as {listed:?}, known {known:?})",
                server.name,
                server.flavor,
                server.status(),
                server.maker
            )
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// The processors of a server by the flavor that the latest listing told, else by that which
    /// was ordered; one, when it was ordered by somebody else.
    fn processors_known_of(&self, server: &Server, cloud: &Cloud) -> u32 {
        let listed = self.listed.get(&server.id);
        let told = listed.and_then(|seen| seen.flavor.as_deref());
        let ordered = self.owns(server) && matches!(server.maker, Maker::Request { .. });
        match told {
            Some(flavor) => cloud.processors_of(flavor),
            None if ordered => cloud.processors_of(&server.first_flavor),
            None => 1,
        }
    }

    /// The POST was answered so that nothing can have come of it.
    pub fn was_refused(&mut self, name: &str) {
        if let Some(asked) = self.asked_for.get_mut(name) {
            asked.may_have_made = false;
        }
    }

    /// Names that it has asked for.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.asked_for.keys()
    }
}
