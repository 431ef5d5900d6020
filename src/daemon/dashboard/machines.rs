//! The machines of a space, a page at a time.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use super::overview::shortened;
use crate::daemon::machines::count;
use crate::daemon::{MachineStatus, Phase, SpaceStatus, Status};
use crate::model::{CloudId, MachinetypeName, ShutdownMessage, SpaceName, Timestamp};

/// The most machines of a page.
pub const PAGE: usize = 200;

/// The machines of a page when nobody says otherwise.
const DEFAULT: usize = 50;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Of which space.
    pub space: String,
    /// Only of this machinetype.
    pub machinetype: Option<String>,
    /// Only in this state.
    pub phase: Option<String>,
    /// Only with this text in their name, address, identifier, message or fault, in any case.
    pub find: Option<String>,
    /// So many are left out at the beginning.
    pub offset: usize,
    /// The most that are wanted.
    pub limit: Option<usize>,
}

impl Question {
    /// Reads the query of a URL.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut question = Self::default();
        let number = |name: &str, value: &str| {
            let parsed = value.parse();
            parsed.map_err(|_| format!("{name}: expected a whole number, not {value:?}"))
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let given = || Some(value.to_string()).filter(|value| !value.is_empty());
            match name.as_ref() {
                "space" => question.space = value.to_string(),
                "machinetype" => question.machinetype = given(),
                "phase" => question.phase = given(),
                "find" => question.find = given().map(|text| text.to_lowercase()),
                "offset" => question.offset = number("offset", &value)?,
                "limit" => question.limit = Some(number("limit", &value)?),
                other => return Err(format!("there is no {other:?} to ask for")),
            }
        }
        Ok(question)
    }

    fn wants(&self) -> impl Fn(&MachineStatus) -> bool + use<'_> {
        // A state that there is not is no machine's.
        let phase = self.phase.as_ref().map(|wanted| {
            let mut all = Phase::ALL.into_iter();
            all.find(|phase| phase.to_string() == *wanted)
        });
        move |machine| {
            let of_kind = |wanted: &String| machine.machinetype.as_str() == wanted;
            self.machinetype.as_ref().is_none_or(of_kind)
                && phase.is_none_or(|wanted| wanted == Some(machine.phase))
                && self.find.as_ref().is_none_or(|text| has(machine, text))
        }
    }
}

fn has(machine: &MachineStatus, text: &str) -> bool {
    let message = machine.message.as_ref().map(ShutdownMessage::text);
    let places = [
        Some(machine.name.as_str()),
        machine.address.as_deref(),
        machine.id.as_ref().map(CloudId::as_str),
        message,
        machine.fault.as_deref(),
    ];
    let mut places = places.into_iter().flatten();
    places.any(|place| contains(place, text))
}

/// Whether `part`, which is in small letters, is in `text` in any letters. Without a copy of each
/// text: of a hundred thousand machines that would take most of the time.
fn contains(text: &str, part: &str) -> bool {
    if !part.is_ascii() {
        return text.to_lowercase().contains(part);
    }
    let mut windows = text.as_bytes().windows(part.len().max(1));
    part.is_empty() || windows.any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

/// A page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// The time by the daemon's clock.
    pub now: Timestamp,
    /// The space.
    pub space: SpaceName,
    /// When the scan was that this is known from.
    pub last_scan: Option<Timestamp>,
    /// How many machines the space has.
    pub all: usize,
    /// How many of them are as asked for.
    pub found: usize,
    /// So many of those are before the first of this page.
    pub offset: usize,
    /// How many of the space there are in each state.
    pub phases: BTreeMap<Phase, u32>,
    /// The machinetypes that there are machines of.
    pub machinetypes: Vec<MachinetypeName>,
    /// The machines: first those that live, by machinetype and age, then those that have ended, the
    /// latest first. Long messages are cut.
    pub machines: Vec<MachineStatus>,
}

/// The answer; `None` when there is no such space.
pub fn page(status: &Status, question: &Question, now: Timestamp) -> Option<Page> {
    let name = SpaceName::new(&question.space).ok()?;
    let space = status.spaces.get(&name)?;
    Some(of_space(name, space, question, now))
}

fn of_space(name: SpaceName, space: &SpaceStatus, question: &Question, now: Timestamp) -> Page {
    let counts = count(&space.machines);
    let mut phases = BTreeMap::new();
    for (phase, number) in counts.values().flatten() {
        *phases.entry(*phase).or_default() += number;
    }
    let machinetypes = counts.into_keys().cloned().collect();
    let wants = question.wants();
    let wanted = space.machines.iter().filter(|one| wants(one));
    let mut all: Vec<&MachineStatus> = wanted.collect();
    let found = all.len();
    let limit = question.limit.unwrap_or(DEFAULT).clamp(1, PAGE);
    // Of a page that is not there any more the last one.
    let last = found.saturating_sub(1) / limit * limit;
    let offset = question.offset.min(last);
    let shown = part(&mut all, offset, limit);
    Page {
        now,
        space: name,
        last_scan: space.last_scan,
        all: space.machines.len(),
        found,
        offset,
        phases,
        machinetypes,
        machines: shown.iter().map(|machine| cut(machine)).collect(),
    }
}

/// The order in which machines are shown.
fn order(one: &MachineStatus, other: &MachineStatus) -> Ordering {
    let key = |machine: &MachineStatus| machine.phase == Phase::Ended;
    key(one).cmp(&key(other)).then_with(|| {
        let by_time = if key(one) {
            other.stopped.cmp(&one.stopped)
        } else {
            let kinds = one.machinetype.cmp(&other.machinetype);
            kinds.then_with(|| one.created.cmp(&other.created))
        };
        by_time.then_with(|| one.name.cmp(&other.name))
    })
}

/// Those from `offset` on, at most `limit`, in order. The others are put before and behind them, in
/// no order: to sort all takes ten times as long.
fn part<'a, 'b>(
    all: &'b mut [&'a MachineStatus],
    offset: usize,
    limit: usize,
) -> &'b [&'a MachineStatus] {
    let by_order = |one: &&MachineStatus, other: &&MachineStatus| order(one, other);
    let mut rest = all;
    if offset > 0 && offset < rest.len() {
        rest.select_nth_unstable_by(offset, by_order);
        rest = rest.split_at_mut(offset).1;
    }
    if limit < rest.len() {
        rest.select_nth_unstable_by(limit, by_order);
        rest = rest.split_at_mut(limit).0;
    }
    rest.sort_unstable_by(by_order);
    rest
}

fn cut(machine: &MachineStatus) -> MachineStatus {
    let message = machine.message.as_ref().map(ShutdownMessage::text);
    MachineStatus {
        message: message.map(|text| ShutdownMessage::parse(&shortened(text))),
        fault: machine.fault.as_deref().map(shortened),
        ..machine.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::daemon::{Messages, machine_statuses};
    use crate::decide::testing;

    /// Seven machines of `a` that live and three that have ended, one of `b`.
    fn status() -> Status {
        let mut files = Vec::new();
        for number in 0..7 {
            let name = format!("vcycle-a-{number:0>10}");
            files.push(testing::files(&name, 2000 - number));
        }
        for number in 7..10 {
            let mut ended = testing::files(&format!("vcycle-a-{number:0>10}"), 1000);
            ended.stopped = Some(Timestamp::from_unix(3000 + number));
            files.push(ended);
        }
        files.push(testing::files("vcycle-b-0000000000", 5));
        let message = ShutdownMessage::parse(&format!("300 Nothing {}", "x".repeat(4000)));
        let messages = Messages::from([(files[8].name.clone(), Some(message))]);
        let space = SpaceStatus {
            machines: Arc::new(machine_statuses(&files, None, &messages, None)),
            ..SpaceStatus::default()
        };
        let mut status = Status::default();
        let name = SpaceName::new("example.org").unwrap();
        status.spaces.insert(name, Arc::new(space));
        status
    }

    fn ask(query: &str) -> Page {
        let question = Question::parse(query).unwrap();
        page(&status(), &question, Timestamp::from_unix(5000)).unwrap()
    }

    fn names(page: &Page) -> Vec<&str> {
        let names = page.machines.iter();
        names.map(|machine| machine.name.as_str()).collect()
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut seen = Vec::new();
        for offset in ["0", "4", "8"] {
            let page = ask(&format!("space=example.org&limit=4&offset={offset}"));
            assert_eq!((page.all, page.found), (11, 11));
            seen.extend(names(&page).into_iter().map(str::to_owned));
        }
        assert_eq!(seen.len(), 11);
        assert_eq!(seen[0], "vcycle-a-0000000006", "the oldest");
        assert_eq!(seen[7], "vcycle-b-0000000000");
        assert_eq!(seen[8], "vcycle-a-0000000009", "the latest to end");
        let beyond = ask("space=example.org&limit=4&offset=400");
        assert_eq!((beyond.offset, beyond.machines.len()), (8, 3));
        assert_eq!(ask("space=example.org&limit=0").machines.len(), 1);
    }

    #[test]
    fn only_what_is_asked_for_is_found() {
        let ended = ask("space=example.org&phase=ended&machinetype=a");
        assert_eq!(ended.found, 3);
        assert_eq!(ended.phases[&Phase::Ended], 3);
        let kinds: Vec<&str> = ended
            .machinetypes
            .iter()
            .map(|kind| kind.as_str())
            .collect();
        assert_eq!(kinds, ["a", "b"]);
        let found = ask("space=example.org&find=NOTHING");
        assert_eq!(names(&found), ["vcycle-a-0000000008"]);
        let message = found.machines[0].message.as_ref().unwrap();
        assert!(message.text().len() < 700, "cut: {}", message.text().len());
        let none = ask("space=example.org&find=%3Cb%3E");
        assert_eq!((none.found, none.offset, none.machines.len()), (0, 0, 0));
    }

    #[test]
    fn a_text_is_found_in_any_letters() {
        for (text, part) in [("aBc", "bc"), ("É", "é"), ("x", ""), ("", ""), ("ab", "ab")] {
            assert!(contains(text, part), "{part} in {text}");
        }
        for (text, part) in [("abc", "d"), ("", "a"), ("a", "ab"), ("x", "é")] {
            assert!(!contains(text, part), "{part} in {text}");
        }
        assert_eq!(ask("space=example.org&phase=broken").found, 0);
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        assert!(Question::parse("limit=many").unwrap_err().contains("many"));
        assert!(Question::parse("sort=up").unwrap_err().contains("sort"));
        let nowhere = Question::parse("space=..%2F").unwrap();
        let now = Timestamp::from_unix(1);
        assert_eq!(page(&status(), &nowhere, now), None);
    }
}
