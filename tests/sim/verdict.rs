//! What must hold: while it goes on, and when it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use vcycle::model::{MachineFiles, MachinetypeName, SpaceName};
use vcycle::state::{Published, SHUTDOWN_MESSAGE};

use crate::accounts::{Record, records, sent_as_archived};
use crate::cloud::{Cloud, End, Maker, Server};
use crate::copies::copies_are_whole;
use crate::ledger::{Knowledge, Ledger};
use crate::plan::Space;
use crate::wire::Site;
use crate::world::World;

/// How long a VM with our marks may be without a directory: the adoption time, and two cycles to
/// see it.
const UNKNOWN: u64 = 600 + 120;
/// The last part of the calm, in which the spaces have to be as configured.
const SETTLED: u64 = 3600;
/// How long two VMs of one name may both be there, and a directory may lag behind its VM.
const SETTLING: u64 = 1800;
/// A scan is as old as its pass, which may have waited before its first request because the cloud
/// had asked to be left alone.
const WAITS: u64 = 90;
/// Times of the daemon are whole seconds of its own clock.
const ROUNDING: u64 = 2;

/// How long the place of a machine that ends is empty: a cycle may pass until that is seen, 90 s until
/// the server is gone, another cycle until that is seen, too; and the requests take time.
const TURNOVER: u64 = 240;
/// How far the mean of a machinetype may be from its share: machines are whole, and how long they live
/// differs.
const SHARE_MACHINES: f64 = 1.0;
const SHARE_PART: f64 = 0.1;

/// How many machines there were of each kind, over time: by space and machinetype.
#[derive(Debug, Default)]
pub struct Counts {
    looks: u64,
    kinds: BTreeMap<(usize, String), u64>,
    /// What of each space was in use by what runs or will: by space.
    in_use: BTreeMap<usize, u64>,
}

impl World {
    /// The clocks of the hosts have been set at `now`, and are `off` by so many seconds.
    pub fn clocks_were_set(&mut self, now: u64, off: i64) {
        self.set_clocks.push((now, off));
        for factory in &self.factories {
            let mut rules = factory.rules.lock().unwrap();
            rules.uncertain_until = now + 1500;
            rules.endings.clock_was_set(now, off);
        }
    }

    /// Servers of others go, so that the space has the room that it is configured to have; and
    /// the clouds' clocks are right.
    pub fn clear_away_others(&mut self) {
        let now = self.now();
        let names: BTreeSet<String> = self.directories(0).into_keys().collect();
        for site in self.sites.lock().iter_mut() {
            let ours = &site.ledgers[0];
            let others: Vec<String> = site
                .cloud
                .servers()
                .filter(|server| !ours.owns(server) && !names.contains(&server.name))
                .map(|server| server.id.clone())
                .collect();
            for id in others {
                site.cloud.take_away(&id, now);
            }
            site.cloud.set_clock_right();
        }
    }

    /// Every file of the state directory can be read.
    pub fn check_files(&self, at: usize) -> Result<(), String> {
        let factory = &self.factories[at];
        let store = factory.store();
        let loaded = store.load_machines().map_err(|error| error.to_string())?;
        if let Some(problem) = loaded.unread.first() {
            return Err(format!("factory {at}: {problem}"));
        }
        for space in &factory.configuration.spaces {
            let name = SpaceName::new(space.name).unwrap();
            store.last_scan(&name).map_err(|error| error.to_string())?;
            let unwritten = store.unwritten_scans(&name);
            unwritten.map_err(|error| error.to_string())?;
            for kind in &space.kinds {
                let kind = MachinetypeName::new(kind.name).unwrap();
                let read = store.last_abort_time(&name, &kind);
                read.map_err(|error| error.to_string())?;
            }
        }
        records(&factory.state.join("apel-archive"))?;
        records(&factory.state.join("apel-outgoing"))?;
        Ok(())
    }

    fn directories(&self, at: usize) -> BTreeMap<String, MachineFiles> {
        let loaded = self.factories[at].store().load_machines().unwrap();
        let machines = loaded.machines.into_iter();
        machines
            .map(|files| (files.name.to_string(), files))
            .collect()
    }

    /// What has to hold at every moment of the calm.
    pub fn watch_the_calm(&mut self) -> Result<(), String> {
        let now = self.now();
        let calm_since = self.calm_since.unwrap_or(now);
        if now < calm_since + UNKNOWN {
            return Ok(());
        }
        if now % 60 < crate::world::STEP {
            self.nobody_is_unknown(now, calm_since)?;
            self.nobody_is_overdue(now, calm_since)?;
        }
        if now + SETTLED >= calm_since + crate::world::CALM {
            self.count();
        }
        Ok(())
    }

    fn nobody_is_unknown(&self, now: u64, calm_since: u64) -> Result<(), String> {
        let machines = self.factories[0].state.join("machines");
        for site in self.sites.lock().iter() {
            let ours = &site.ledgers[0];
            for server in site.cloud.servers().filter(|server| ours.owns(server)) {
                let known = ours.knowledge.get(&server.id).copied();
                let is_ours_to_keep = server.is_alive()
                    && !server.is_being_deleted()
                    && matches!(server.maker, Maker::Request { .. })
                    && !known.unwrap_or_default().written_off;
                let is_known = |name: &str| {
                    let directory = machines.join(name);
                    // One that was closed knows nothing of what lives.
                    let is_closed = is_ours_to_keep && directory.join("finished").exists();
                    directory.exists() && !is_closed
                };
                let known = is_known(&server.first_name) || is_known(&server.name);
                let since = server.created.max(calm_since);
                if !known && now > since + UNKNOWN {
                    return Err(format!(
                        "{} ({}) has been unknown to its factory for {} s",
                        server.name,
                        server.id,
                        now - since
                    ));
                }
            }
        }
        Ok(())
    }

    /// What has ended, has run for too long or is silent is destroyed.
    fn nobody_is_overdue(&self, now: u64, calm_since: u64) -> Result<(), String> {
        let rules = self.factories[0].rules.lock().unwrap();
        for (site, space) in self.sites.lock().iter().zip(self.spaces()) {
            let ours = &site.ledgers[0];
            let servers = site.cloud.servers();
            for server in servers.filter(|s| ours.owns(s) && !s.is_being_deleted()) {
                let kind = server.metadata.get("machinetype");
                let kind = kind.and_then(|kind| space.kinds.iter().find(|k| k.name == kind));
                let Some(kind) = kind else { continue };
                let known = ours.knowledge.get(&server.id).copied();
                let known = known.unwrap_or_default();
                let due = rules.endings.due(server, kind, known, calm_since);
                if due < now {
                    return Err(format!(
                        "{} ({}) should have been destroyed {} s ago: {}, runs since {:?}, ended {:?}, {known:?}",
                        server.name,
                        server.id,
                        now - due,
                        server.status(),
                        server.running_since,
                        server.ended
                    ));
                }
            }
        }
        Ok(())
    }

    fn spaces(&self) -> &[Space] {
        &self.factories[0].configuration.spaces
    }

    fn count(&mut self) {
        self.counts.looks += 1;
        for (at, site) in self.sites.lock().iter().enumerate() {
            let ours: Vec<&Server> = site
                .cloud
                .servers()
                .filter(|server| site.ledgers[0].owns(server))
                .collect();
            for server in &ours {
                let kind = server.metadata.get("machinetype").cloned();
                let weight = u64::from(unit(
                    &self.factories[0].configuration.spaces[at],
                    &site.cloud,
                    server,
                ));
                let place = (at, kind.unwrap_or_default());
                *self.counts.kinds.entry(place).or_default() += weight;
            }
            let lives = |server: &&&Server| server.ended.is_none() && !server.is_being_deleted();
            let weights = ours.iter().filter(lives).map(|server| {
                u64::from(unit(
                    &self.factories[0].configuration.spaces[at],
                    &site.cloud,
                    server,
                ))
            });
            *self.counts.in_use.entry(at).or_default() += weights.sum::<u64>();
        }
    }

    /// The end of it all.
    pub async fn judge(&mut self) -> Result<(), String> {
        self.check_files(0)?;
        self.spaces_are_full()?;
        self.directories_match()?;
        self.no_key_is_left_over()?;
        self.machines_are_accounted_for(0)?;
        self.factories[0].stop().await;
        if self.factories[1].lives > 0 {
            self.machines_are_accounted_for(1)?;
        }
        for factory in &self.factories {
            if let Some(difference) = factory.disk.difference() {
                return Err(format!("the disk was written to unseen: {difference}"));
            }
        }
        let left = std::fs::read_dir(self.factories[0].state.join("tmp"));
        let left = left.unwrap().count();
        if left > 0 {
            return Err(format!("{left} temporary file(s) are left"));
        }
        Ok(())
    }

    /// The target shares are reached, up to one machine, and nothing is left free.
    fn spaces_are_full(&self) -> Result<(), String> {
        for (at, site) in self.sites.lock().iter().enumerate() {
            let space = &self.factories[0].configuration.spaces[at];
            let quota = site.cloud.quota().unwrap_or(u32::MAX);
            let limit = match (space.limits.machines, space.limits.processors) {
                (Some(machines), _) => machines.min(quota),
                (None, Some(processors)) => processors,
                (None, None) => quota,
            };
            let quota_binds = space.limits.processors.is_some() && quota < limit;
            let usable = f64::from(usable(space, limit));
            let kinds_bind = space.kinds.iter().any(|kind| kind.most.is_some());
            let sum = self.counts.in_use.get(&at).copied().unwrap_or(0);
            let in_use = sum as f64 / self.counts.looks as f64;
            let empty = (self.ended_of_late(space, site) * TURNOVER) as f64 / SETTLED as f64;
            if !quota_binds && in_use < usable - empty {
                return Err(format!(
                    "{} has {in_use:.2} of {limit} in use on average in the last hour, and what ended explains {empty:.2}",
                    space.name
                ));
            }
            // Where machines have different sizes and their processors are limited, what ends makes
            // room for the smallest only, and the others wait for ever: the rule says so.
            let sizes = space.kinds.iter().map(|kind| size(space, kind.flavor));
            let mixed = sizes.min() != space.kinds.iter().map(|k| size(space, k.flavor)).max();
            if quota_binds || mixed || kinds_bind {
                continue;
            }
            let shares: f64 = space.kinds.iter().map(|kind| kind.share).sum();
            let mean = |kind: &str| {
                let sum = self.counts.kinds.get(&(at, kind.to_owned())).copied();
                sum.unwrap_or(0) as f64 / self.counts.looks as f64
            };
            let total: f64 = space.kinds.iter().map(|kind| mean(kind.name)).sum();
            for kind in &space.kinds {
                let ideal = total * kind.share / shares;
                let largest = space
                    .kinds
                    .iter()
                    .map(|kind| size(space, kind.flavor))
                    .max();
                let slack = f64::from(largest.unwrap_or(1)) * SHARE_MACHINES + ideal * SHARE_PART;
                if (mean(kind.name) - ideal).abs() > slack {
                    return Err(format!(
                        "{} {} has {:.2} on average in the last hour, and its share is {ideal:.2}",
                        space.name,
                        kind.name,
                        mean(kind.name)
                    ));
                }
            }
        }
        Ok(())
    }

    /// What ended in the last hour, in the unit of the space's limit.
    fn ended_of_late(&self, space: &Space, site: &Site) -> u64 {
        let since = self.now().saturating_sub(SETTLED + TURNOVER);
        let ended = site.cloud.history().iter().filter(|server| {
            let at = server.ended.map(|(at, _)| at);
            site.ledgers[0].owns(server) && at >= Some(since)
        });
        ended
            .map(|server| u64::from(unit(space, &site.cloud, server)))
            .sum()
    }

    /// What nothing uses any more is removed.
    fn no_key_is_left_over(&self) -> Result<(), String> {
        let now = self.now();
        for site in self.sites.lock().iter() {
            let keys = &site.ledgers[0].keys;
            if let Some(name) = keys.left_over(&site.cloud, now) {
                return Err(format!("the key pair {name} is left over"));
            }
        }
        Ok(())
    }

    /// VMs and directories belong together, one to one.
    fn directories_match(&self) -> Result<(), String> {
        let now = self.now();
        let directories = self.directories(0);
        for site in self.sites.lock().iter() {
            let ours = &site.ledgers[0];
            let mut names = BTreeSet::new();
            for server in site.cloud.servers().filter(|server| ours.owns(server)) {
                if server.created + SETTLING > now {
                    continue;
                }
                if !server.is_being_deleted() && !names.insert(&server.name) {
                    return Err(format!("two VMs have the name {}", server.name));
                }
            }
            for files in directories.values() {
                if files.space.as_str() != ours.space || files.finished.is_some() {
                    continue;
                }
                let name = files.name.as_str();
                let there = site
                    .cloud
                    .servers()
                    .any(|server| server.first_name == name || server.name == name);
                let gone = site
                    .cloud
                    .history()
                    .iter()
                    .filter(|server| server.first_name == name);
                let gone_at = gone.filter_map(|server| server.gone_at).max();
                let late = gone_at.unwrap_or(files.created.unix()) + SETTLING < now;
                if !there && late {
                    return Err(format!("the end of {name} was never written down"));
                }
            }
        }
        Ok(())
    }

    /// Exactly one record for each machine that ran for fizzle_seconds, with its times; none for
    /// the others; and each abort has been noted.
    fn machines_are_accounted_for(&self, at: usize) -> Result<(), String> {
        let factory = &self.factories[at];
        let archived = records(&factory.state.join("apel-archive"))?;
        let outgoing = records(&factory.state.join("apel-outgoing"))?;
        let directories = self.directories(at);
        let sites = self.sites.lock();
        let mut jobs = BTreeMap::new();
        for record in &archived {
            if let Some(first) = jobs.insert(&record.job, record.path()) {
                let second = record.path();
                return Err(format!("{first} and {second} account for {}", record.job));
            }
        }
        sent_as_archived(&factory.configuration, &archived, &outgoing)?;
        let mut seen = 0;
        for (number, site) in sites.iter().enumerate() {
            let space = &factory.configuration.spaces[number];
            let ledger = &site.ledgers[at];
            for name in ledger.names() {
                let servers: Vec<&Server> = site
                    .cloud
                    .history()
                    .iter()
                    .filter(|server| server.first_name == *name && ledger.owns(server))
                    .collect();
                let of_it = archived.iter().filter(|record| {
                    record.job == *name || servers.iter().any(|server| server.id == record.job)
                });
                let of_it: Vec<&Record> = of_it.collect();
                seen += of_it.len();
                if of_it.len() > 1 {
                    return Err(format!("{name} has {} records", of_it.len()));
                }
                let [server] = servers.as_slice() else {
                    if !servers.is_empty() {
                        self.note("= records not judged: two servers of one name");
                    }
                    continue;
                };
                if factory.lost.contains(name) {
                    self.note(
                        "= records not judged, but that there is one at most: directory removed",
                    );
                    continue;
                }
                let files = directories.get(name.as_str());
                self.one_machine(
                    space,
                    ledger,
                    server,
                    files,
                    of_it.first().copied(),
                    &[site.wrong_clock.as_slice(), &factory.refusals].concat(),
                )
                .map_err(|what| format!("{name} ({}): {what}", server.id))?;
                if at == 0 && files.is_none() {
                    self.copy_is_there(space, name)?;
                }
            }
        }
        if seen != archived.len() {
            return Err(format!(
                "{} of {} records are of no machine of ours",
                archived.len() - seen,
                archived.len()
            ));
        }
        if at == 0 {
            let configuration = &factory.configuration;
            let (store, disk) = (factory.store(), &factory.disk);
            copies_are_whole(&store, disk, configuration, &directories, self.now())?;
        }
        for (space, site) in factory.configuration.spaces.iter().zip(sites.iter()) {
            self.silent_aborts_are_noted(at, space, site, &directories)?;
        }
        self.messages_are_kept(at, &directories)
    }

    /// What ended by itself within fizzle_seconds, without a word, has begun a backoff.
    fn silent_aborts_are_noted(
        &self,
        at: usize,
        space: &Space,
        site: &Site,
        directories: &BTreeMap<String, MachineFiles>,
    ) -> Result<(), String> {
        if !self.set_clocks.is_empty() || !site.wrong_clock.is_empty() {
            return Ok(());
        }
        let store = self.factories[at].store();
        for server in site.cloud.history().iter().filter(|server| {
            let is_by_itself = matches!(server.ended, Some((_, End::ShutOff)));
            is_by_itself && site.ledgers[at].owns(server) && server.running_since.is_some()
        }) {
            let Some(files) = directories.get(&server.first_name) else {
                continue;
            };
            let kind = space
                .kinds
                .iter()
                .find(|kind| files.machinetype.as_str() == kind.name);
            let (Some(kind), Some(started), Some(stopped)) = (kind, files.started, files.stopped)
            else {
                continue;
            };
            let outputs = store.layout().published(&files.name, Published::Joboutputs);
            let is_silent = !outputs.join(SHUTDOWN_MESSAGE).exists();
            let is_it = files.id.as_ref().is_some_and(|id| id.as_str() == server.id);
            let has_fizzled = stopped.since(started).get() < kind.fizzle;
            // One that got its directory anew while its machinetype was out of the configuration has none
            // on file: nobody could say that it was short.
            let was_known = files.fizzle.is_some();
            if !(is_silent && is_it && has_fizzled && was_known && files.finished.is_some()) {
                continue;
            }
            self.note("= aborts without a word");
            let last = store.last_abort_time(&files.space, &files.machinetype);
            if last.ok().flatten() < Some(stopped) {
                return Err(format!(
                    "{} ran from {started} to {stopped} and said nothing, and that abort was not noted",
                    files.name
                ));
            }
        }
        Ok(())
    }

    fn one_machine(
        &self,
        space: &Space,
        ledger: &Ledger,
        server: &Server,
        files: Option<&MachineFiles>,
        record: Option<&Record>,
        wrong: &[u64],
    ) -> Result<(), String> {
        if !matches!(server.maker, Maker::Request { .. }) {
            self.note("= records not judged: not made by a request of ours");
            return Ok(());
        }
        let known = ledger
            .knowledge
            .get(&server.id)
            .copied()
            .unwrap_or_default();
        let kind = server.metadata.get("machinetype");
        let kind = kind.and_then(|kind| space.kinds.iter().find(|k| k.name == kind));
        let Some(kind) = kind else { return Ok(()) };
        // Its end is written down a few listings after the first that tells of it.
        let written_down = known.told_end.map_or(self.now(), |told| told + SETTLING);
        let lasted = server.created.saturating_sub(60)..=written_down;
        let mut was_off = self.set_clocks.iter().rev();
        let was_off = was_off.find(|(at, _)| at <= lasted.start());
        let set = self.set_clocks.iter().any(|(at, _)| lasted.contains(at))
            || was_off.is_some_and(|(_, off)| *off != 0);
        // A slow listing may show as running what has ended since it was drawn up.
        let until_its_end = |last: u64| server.ended.map_or(last, |(at, _)| last.min(at));
        let Some(record) = record else {
            let seen = match (known.first_running, known.last_running) {
                // A pass that saw it once has begun before it was answered.
                (Some(first), Some(last)) => until_its_end(last).saturating_sub(first),
                _ => 0,
            };
            let finished = files.is_none_or(|files| files.finished.is_some());
            let lost = self.may_be_lost(&known, &lasted);
            let due = |ran: u64| finished && !known.written_off && ran > kind.fizzle + ROUNDING;
            if due(seen.saturating_sub(lost)) {
                return Err(format!(
                    "was seen running for {seen} s and has no record: {server:?}, {known:?}"
                ));
            }
            // Of one that was seen alive the factory goes by what it was told then.
            let is_told = known.is_told && !known.shown_alive;
            let told = known.told_run.filter(|_| is_told);
            let told = told.unwrap_or_default();
            if due(told) && !set && !wrong.iter().any(|at| lasted.contains(at)) {
                return Err(format!(
                    "ran for {told} s, as listings told, and has no record"
                ));
            }
            self.note(match (finished, known.written_off, lost) {
                (false, _, _) => "= no record, not judged: not finished",
                (_, true, _) => "= no record, not judged: missing from two listings",
                (_, _, 0) => "= no record, as it should be",
                _ => "= no record, judged but for what a clock set back hides",
            });
            return Ok(());
        };
        if server.running_since.is_none() {
            return Err("never ran and has a record".to_owned());
        }
        let Some(ran) = record.end.checked_sub(record.start) else {
            return Err(format!(
                "has a record that ends at {}, before its start at {}",
                record.end, record.start
            ));
        };
        if ran < kind.fizzle {
            return Err(format!(
                "has a record of {ran} s, and fizzle_seconds is {}",
                kind.fizzle
            ));
        }
        // A cloud whose clock is wrong tells other times than those of these checks; and what a
        // disk would not show at a start is dated by what was seen later.
        let excuse = if set {
            Some("= records, times not judged: the hosts' clock")
        } else if known.written_off {
            Some("= records, times not judged: missing from two listings")
        } else if wrong.iter().any(|at| lasted.contains(at)) {
            Some("= records, times not judged: the cloud's clock, or a file that was refused")
        } else {
            None
        };
        if let Some(excuse) = excuse {
            self.note(excuse);
            return Ok(());
        }
        let (Some(first), Some(last)) = (known.first_running, known.last_running) else {
            self.note("= records, times not judged: never listed as running");
            return Ok(());
        };
        let starts = server.created.saturating_sub(ROUNDING)..=first + 90 + ROUNDING;
        if !starts.contains(&record.start) {
            return Err(format!(
                "starts at {} in its record, in truth at {:?}, seen first at {first}",
                record.start, server.running_since
            ));
        }
        let last = until_its_end(last);
        let told_end = known.told_end.unwrap_or(self.now()) + 90;
        // Nothing that a factory is told truly shows a VM running that has ended; but that a deletion
        // has failed the cloud tells with the time of that.
        let is_told_truly = !known.lied_about && server.status() != "ERROR";
        self.note(if is_told_truly {
            "= records, times judged"
        } else {
            "= records, times judged, the end by what was told"
        });
        let latest = match server.ended {
            Some((at, _)) if is_told_truly => told_end.min(at + ROUNDING),
            Some(_) | None => told_end,
        };
        let ends = last.saturating_sub(WAITS + ROUNDING)..=latest;
        if !ends.contains(&record.end) {
            return Err(format!(
                "ends at {} in its record, in truth at {:?}, seen running last at {last}, ended at {:?}",
                record.end, server.ended, known.told_end
            ));
        }
        Ok(())
    }

    fn note(&self, what: &'static str) {
        *self.judged.borrow_mut().entry(what).or_default() += 1;
    }

    /// How much of a run the steps of the hosts' clocks may have hidden. One that begins after what the
    /// clock shows once it was set back is known to have run for as long as it was seen, but for the
    /// time about that moment in which nobody looked; of one that began before that, nobody can tell.
    fn may_be_lost(&self, known: &Knowledge, lasted: &RangeInclusive<u64>) -> u64 {
        let mut off_before = 0;
        let mut lost = 0;
        for &(at, off) in &self.set_clocks {
            let back = u64::try_from(off_before - off).unwrap_or_default();
            off_before = off;
            if !lasted.contains(&at) {
                continue;
            }
            let ran = known.first_running.map(|first| at.saturating_sub(first));
            let is_young = ran.is_some_and(|ran| ran + known.longest_gap + WAITS < back);
            lost += if is_young {
                known.longest_gap + WAITS
            } else {
                back
            };
        }
        lost
    }

    /// What a machine wrote outlives its directory, if its machinetype asks for that.
    fn copy_is_there(&self, space: &Space, machine: &str) -> Result<(), String> {
        let has_spoken = self
            .guests
            .iter()
            .any(|guests| guests.accepted.contains_key(machine));
        let mut kinds = space.kinds.iter();
        let kind = kinds.find(|kind| machine.starts_with(&format!("vcycle-{}-", kind.name)));
        let Some(kind) = kind.filter(|kind| has_spoken && kind.keeps_outputs()) else {
            return Ok(());
        };
        self.note("= copies judged whose machines' directories are gone");
        let names = (SpaceName::new(space.name), MachinetypeName::new(kind.name));
        let (Ok(space), Ok(kind)) = names else {
            return Ok(());
        };
        let store = self.factories[0].store();
        let place = store.layout().joboutputs_of(&space, &kind).join(machine);
        if place.exists() {
            return Ok(());
        }
        Err(format!(
            "what {machine} wrote was not copied before its directory was removed"
        ))
    }

    /// What a VM has said and was told to have been heard is there, and what follows from it.
    fn messages_are_kept(
        &self,
        at: usize,
        directories: &BTreeMap<String, MachineFiles>,
    ) -> Result<(), String> {
        let store = self.factories[at].store();
        let accepted = self.guests.iter().flat_map(|guests| &guests.accepted);
        for (machine, &(said, when)) in accepted {
            let is_lost = self.factories[at].lost.contains(machine);
            let Some(files) = directories.get(machine).filter(|_| !is_lost) else {
                continue;
            };
            let path = store
                .layout()
                .published(&files.name, Published::Joboutputs)
                .join(SHUTDOWN_MESSAGE);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text != said {
                return Err(format!("{machine} said {said:?}, and {text:?} is on file"));
            }
            // What comes after the end was written down changes nothing any more: from a VM that
            // was taken for gone, or from another one of the same name.
            let in_time = files.finished.is_some_and(|at| when < at.unix());
            let aborts = in_time && said.starts_with(['3', '4', '5', '6']);
            let last = store.last_abort_time(&files.space, &files.machinetype);
            if let (true, Some(stopped)) = (aborts, files.stopped)
                && last.ok().flatten() < Some(stopped)
                && self.set_clocks.is_empty()
            {
                return Err(format!(
                    "{machine} aborted with {said:?}, and that was not noted"
                ));
            }
        }
        Ok(())
    }
}

/// What a machine counts for in the unit of the space's limit.
fn unit(space: &Space, cloud: &Cloud, server: &Server) -> u32 {
    if space.limits.machines.is_some() {
        1
    } else {
        cloud.processors_of(&server.flavor)
    }
}

/// How much of a limit is in use at least when no machinetype may have one more: small machines fill what
/// large ones leave, as far as they may.
fn usable(space: &Space, limit: u32) -> u32 {
    let at_most = |wanted: u32| {
        let kinds = space.kinds.iter();
        let of_this_size = kinds.filter(|kind| size(space, kind.flavor) == wanted);
        let most = of_this_size.map(|kind| kind.most.unwrap_or(limit));
        most.sum::<u32>()
    };
    let small = at_most(1).min(limit);
    small + 4 * at_most(4).min((limit - small) / 4)
}

fn size(space: &Space, flavor: &str) -> u32 {
    match (space.limits.machines, flavor) {
        (None, "large") => 4,
        _ => 1,
    }
}
