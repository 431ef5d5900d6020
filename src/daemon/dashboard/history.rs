//! How many machines there were, and how it went, over the last hours: a ring of samples for each
//! space, all on the same grid of times. Pure, and bounded whatever happens.
//!
//! The grid begins as fine as the cycles are. When a ring is full all samples are merged two by two
//! and the grid becomes twice as wide, until a ring covers [`SPAN`]; from then on the oldest go.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::daemon::SpaceStatus;
use crate::decide::{MachinetypeReport, Rule};
use crate::model::{Seconds, SpaceName, Timestamp};
use crate::record::Totals;

/// The most samples of a space.
pub const SAMPLES: usize = 240;

/// What a full ring is to cover at least: two days.
pub const SPAN: Seconds = Seconds::new(48 * 3600);

/// One space, or all of them, from one moment of the grid to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When it begins.
    pub at: Timestamp,
    /// Machines in any state, those that are not ours included: the last count.
    pub machines: u32,
    /// How many were running: the last count.
    pub running: u32,
    /// How many were starting: the last count.
    pub starting: u32,
    /// The limit in machines, if there was one; of all spaces only if each that has machines
    /// had one.
    pub limit: Option<u32>,
    /// How many machines were created.
    pub created: u64,
    /// How many ended after having run.
    pub ended: u64,
    /// How many of those aborted.
    pub aborts: u64,
    /// How many ended without ever having run.
    pub failed: u64,
    /// The most machinetypes that backed off at one time.
    pub backoffs: u32,
    /// The most spaces that had trouble with their cloud at one time.
    pub troubled: u32,
}

impl Sample {
    /// A sample of both, of which `later` is the later one.
    fn merge(&mut self, later: &Self) {
        self.machines = later.machines;
        self.running = later.running;
        self.starting = later.starting;
        self.limit = later.limit;
        self.created = self.created.saturating_add(later.created);
        self.ended = self.ended.saturating_add(later.ended);
        self.aborts = self.aborts.saturating_add(later.aborts);
        self.failed = self.failed.saturating_add(later.failed);
        self.backoffs = self.backoffs.max(later.backoffs);
        self.troubled = self.troubled.max(later.troubled);
    }

    /// A sample of both, which are of two spaces at one time.
    fn add(&mut self, other: &Self) {
        // A space that nothing was ever seen of has no limit that would be missing.
        let limit = |sample: &Self| sample.limit.or((sample.machines == 0).then_some(0));
        let both = limit(self).zip(limit(other));
        self.limit = both.map(|(one, other)| one.saturating_add(other));
        self.machines = self.machines.saturating_add(other.machines);
        self.running = self.running.saturating_add(other.running);
        self.starting = self.starting.saturating_add(other.starting);
        self.created = self.created.saturating_add(other.created);
        self.ended = self.ended.saturating_add(other.ended);
        self.aborts = self.aborts.saturating_add(other.aborts);
        self.failed = self.failed.saturating_add(other.failed);
        self.backoffs = self.backoffs.saturating_add(other.backoffs);
        self.troubled = self.troubled.saturating_add(other.troubled);
    }
}

/// One space.
#[derive(Clone, Debug, Default)]
struct Ring {
    samples: VecDeque<Sample>,
    /// What had happened at the last look.
    totals: Totals,
}

/// All spaces.
#[derive(Clone, Debug)]
pub struct History {
    width: Seconds,
    rings: BTreeMap<SpaceName, Ring>,
}

impl History {
    /// Nothing yet, on a grid as wide as a cycle.
    pub fn new(interval: Seconds) -> Self {
        Self {
            width: Seconds::new(interval.get().max(1)),
            rings: BTreeMap::new(),
        }
    }

    /// From one sample to the next.
    pub const fn width(&self) -> Seconds {
        self.width
    }

    /// Takes in how things are at `now`. Spaces that are not among them any more are forgotten.
    pub fn note<'a>(
        &mut self,
        now: Timestamp,
        spaces: impl IntoIterator<Item = (&'a SpaceName, &'a SpaceStatus)>,
    ) {
        let mut before = std::mem::take(&mut self.rings);
        for (name, space) in spaces {
            let mut ring = before.remove(name).unwrap_or_default();
            let sample = sample(space, ring.totals, on_grid(now, self.width));
            ring.totals = space.totals;
            match ring.samples.back_mut() {
                // Also when the clock has stepped back: time goes forward here.
                Some(last) if last.at >= sample.at => last.merge(&sample),
                _ => ring.samples.push_back(sample),
            }
            self.rings.insert(name.clone(), ring);
        }
        self.make_room();
    }

    /// The samples of a space, the oldest first.
    pub fn of_space(&self, space: &SpaceName) -> Vec<Sample> {
        let ring = self.rings.get(space);
        ring.map_or_else(Vec::new, |ring| ring.samples.iter().cloned().collect())
    }

    /// The same of all spaces together.
    pub fn of_all(&self) -> Vec<Sample> {
        let mut sums: BTreeMap<Timestamp, Sample> = BTreeMap::new();
        for sample in self.rings.values().flat_map(|ring| &ring.samples) {
            sums.entry(sample.at)
                .and_modify(|sum| sum.add(sample))
                .or_insert_with(|| sample.clone());
        }
        sums.into_values().collect()
    }

    fn make_room(&mut self) {
        while self.rings.values().any(|ring| ring.samples.len() > SAMPLES) {
            if self.covers() < SPAN.get() {
                self.width = self.width + self.width;
                for ring in self.rings.values_mut() {
                    ring.samples = widened(&ring.samples, self.width);
                }
            } else {
                for ring in self.rings.values_mut() {
                    let surplus = ring.samples.len().saturating_sub(SAMPLES);
                    ring.samples.drain(..surplus);
                }
            }
        }
    }

    /// What a full ring covers, in seconds.
    fn covers(&self) -> u64 {
        let samples = u64::try_from(SAMPLES).unwrap_or(u64::MAX);
        self.width.get().saturating_mul(samples)
    }
}

/// The latest moment of the grid.
const fn on_grid(at: Timestamp, width: Seconds) -> Timestamp {
    Timestamp::from_unix(at.unix() - at.unix() % width.get())
}

fn widened(samples: &VecDeque<Sample>, width: Seconds) -> VecDeque<Sample> {
    let mut merged: VecDeque<Sample> = VecDeque::with_capacity(SAMPLES);
    for sample in samples {
        let at = on_grid(sample.at, width);
        match merged.back_mut() {
            Some(last) if last.at == at => last.merge(sample),
            _ => merged.push_back(Sample {
                at,
                ..sample.clone()
            }),
        }
    }
    merged
}

fn sample(space: &SpaceStatus, before: Totals, at: Timestamp) -> Sample {
    let report = &space.report;
    let kinds = || report.machinetypes.values();
    // The daemon counts anew for a space that went and came back.
    let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
    let totals = &space.totals;
    Sample {
        at,
        machines: super::overview::counted(space).0,
        running: kinds().map(|kind| kind.running).sum(),
        starting: kinds().map(|kind| kind.starting).sum(),
        limit: report.space.machines_limit,
        created: since(totals.created, before.created),
        ended: since(totals.ended, before.ended),
        aborts: since(totals.aborts, before.aborts),
        failed: since(totals.failed, before.failed),
        backoffs: count(kinds().filter(|kind| is_backing_off(kind))),
        troubled: u32::from(space.error.is_some()),
    }
}

/// Whether a machinetype backs off, whatever else there is to say of it.
pub fn is_backing_off(kind: &MachinetypeReport) -> bool {
    let mut rules = kind.rules.iter();
    rules.any(|check| check.forbids && matches!(check.rule, Rule::Backoff { .. }))
}

fn count<T>(all: impl Iterator<Item = T>) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SpaceName {
        SpaceName::new(text).unwrap()
    }

    /// A space with so many machines, of which so many have ever aborted.
    fn space(machines: u32, aborts: u64) -> SpaceStatus {
        let mut space = SpaceStatus::default();
        space.report.space.machines = machines;
        space.report.space.machines_limit = Some(100);
        space.totals.aborts = aborts;
        space
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(seconds)
    }

    #[test]
    fn levels_are_the_last_and_events_are_counted_once() {
        let (mut history, a) = (History::new(Seconds::new(60)), name("a.org"));
        for (now, machines, aborts) in [(600, 1, 2), (630, 5, 3), (659, 4, 3), (660, 7, 10)] {
            history.note(at(now), [(&a, &space(machines, aborts))]);
        }
        let samples = history.of_space(&a);
        let seen: Vec<_> = samples
            .iter()
            .map(|s| (s.at, s.machines, s.aborts))
            .collect();
        assert_eq!(seen, [(at(600), 4, 3), (at(660), 7, 7)]);
        // A clock that steps back adds to the last sample, and a space that begins anew counts anew.
        history.note(at(10), [(&a, &space(1, 1))]);
        let samples = history.of_space(&a);
        assert_eq!(
            (samples.len(), samples[1].machines, samples[1].aborts),
            (2, 1, 8)
        );
    }

    #[test]
    fn it_never_holds_more_than_its_bound_and_loses_no_event_before_its_span() {
        let (mut history, a) = (History::new(Seconds::new(60)), name("a.org"));
        let minutes = SPAN.get() / 60;
        for minute in 0..minutes {
            history.note(at(minute * 60), [(&a, &space(1, minute))]);
            let samples = history.of_space(&a);
            assert!(samples.len() <= SAMPLES);
            assert!(samples.windows(2).all(|two| two[0].at < two[1].at));
            let aborts: u64 = samples.iter().map(|sample| sample.aborts).sum();
            assert_eq!(aborts, minute);
            assert_eq!(samples[0].at, at(0), "nothing is dropped yet");
        }
        for minute in minutes..minutes * 3 {
            history.note(at(minute * 60), [(&a, &space(1, minute))]);
        }
        let samples = history.of_space(&a);
        assert_eq!(samples.len(), SAMPLES);
        let covered = samples[SAMPLES - 1].at.since(samples[0].at);
        assert!(
            covered.get() + history.width().get() >= SPAN.get(),
            "{covered}"
        );
    }

    #[test]
    fn all_spaces_add_up_and_those_that_left_are_forgotten() {
        let (mut history, a, b) = (History::new(Seconds::new(60)), name("a.org"), name("b.org"));
        history.note(at(0), [(&a, &space(1, 1))]);
        history.note(at(60), [(&a, &space(2, 1)), (&b, &space(3, 5))]);
        let all = history.of_all();
        let seen: Vec<_> = all
            .iter()
            .map(|s| (s.machines, s.aborts, s.limit))
            .collect();
        assert_eq!(seen, [(1, 1, Some(100)), (5, 5, Some(200))]);
        let mut unlimited = space(3, 5);
        unlimited.report.space.machines_limit = None;
        history.note(at(60), [(&a, &space(2, 1)), (&b, &unlimited)]);
        assert_eq!(history.of_all()[1].limit, None);
        history.note(at(120), [(&b, &space(3, 5))]);
        assert_eq!(history.of_space(&a), []);
        assert_eq!(history.of_all().len(), 2);
    }
}
