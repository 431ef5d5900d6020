//! Trouble that would be told in every cycle: told once, counted, called to mind at times while it
//! lasts, and said to be over.

use std::collections::HashMap;

use crate::model::{Seconds, Timestamp};

/// After how long trouble that lasts is called to mind; each later pause is twice the one before.
const FIRST_REMINDER: Seconds = Seconds::new(600);
/// The longest pause between two reminders.
const LONGEST_PAUSE: Seconds = Seconds::new(6 * 3600);
/// How many messages of one trouble are remembered. Two servers behind one address take turns with
/// theirs; more than a few that differ are told each time.
const REMEMBERED: usize = 8;

/// What to say of trouble that has been met again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// All of it: it is the first, or has not been told like this while it lasts.
    News,
    /// That it lasts.
    Reminder(Lasted),
    /// Nothing.
    Nothing,
}

/// How long trouble has lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasted {
    /// How many times it was met.
    pub count: u64,
    /// When it was first met.
    pub since: Timestamp,
}

/// One trouble that lasts.
#[derive(Clone, Debug)]
pub struct Lasting {
    lasted: Lasted,
    told: Vec<String>,
    pause: Seconds,
    reminder: Timestamp,
}

impl Lasting {
    /// Trouble that begins now and is told now.
    pub fn new(message: &str, now: Timestamp) -> Self {
        Self {
            lasted: Lasted {
                count: 1,
                since: now,
            },
            told: vec![message.to_owned()],
            pause: FIRST_REMINDER,
            reminder: now + FIRST_REMINDER,
        }
    }

    /// What to say when it is met once more.
    pub fn again(&mut self, message: &str, now: Timestamp) -> Telling {
        self.lasted.count += 1;
        if !self.told.iter().any(|told| told == message) {
            if self.told.len() == REMEMBERED {
                self.told.remove(0);
            }
            self.told.push(message.to_owned());
            return Telling::News;
        }
        if now < self.reminder {
            return Telling::Nothing;
        }
        self.pause = Seconds::new(self.pause.get() * 2).min(LONGEST_PAUSE);
        self.reminder = now + self.pause;
        Telling::Reminder(self.lasted)
    }

    /// How long it has lasted.
    pub const fn lasted(&self) -> Lasted {
        self.lasted
    }
}

/// All trouble of one part of the daemon, by what it is about.
#[derive(Debug, Default)]
pub struct Repeats {
    standing: HashMap<String, Standing>,
    lasting: HashMap<String, Lasting>,
}

#[derive(Debug)]
struct Standing {
    message: String,
    count: u64,
}

impl Repeats {
    /// Whether `message` about `subject` is news: the first, or another than the last time. For
    /// what nobody has to be reminded of.
    pub fn is_news(&mut self, subject: &str, message: &str) -> bool {
        match self.standing.get_mut(subject) {
            Some(standing) if standing.message == message => {
                standing.count += 1;
                false
            }
            _ => {
                self.standing.insert(
                    subject.to_owned(),
                    Standing {
                        message: message.to_owned(),
                        count: 1,
                    },
                );
                true
            }
        }
    }

    /// The trouble with `subject` is over: how many times it was reported, if it ever was.
    pub fn is_over(&mut self, subject: &str) -> Option<u64> {
        self.standing.remove(subject).map(|standing| standing.count)
    }

    /// Whether there is trouble with `subject` that is not over.
    pub fn is_standing(&self, subject: &str) -> bool {
        self.standing.contains_key(subject)
    }

    /// What to say of trouble with `subject` that lasts until [`Repeats::ended`].
    pub fn telling(&mut self, subject: &str, message: &str, now: Timestamp) -> Telling {
        match self.lasting.get_mut(subject) {
            Some(lasting) => lasting.again(message, now),
            None => {
                let lasting = Lasting::new(message, now);
                self.lasting.insert(subject.to_owned(), lasting);
                Telling::News
            }
        }
    }

    /// The trouble with `subject` is over: how long it lasted, if there was any.
    pub fn ended(&mut self, subject: &str) -> Option<Lasted> {
        self.lasting.remove(subject).map(|lasting| lasting.lasted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_told_once_until_it_changes_or_ends() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_news("cloud", "down"));
        assert!(!repeats.is_news("cloud", "down"));
        assert!(repeats.is_news("cloud", "401"));
        assert!(repeats.is_standing("cloud"));
        assert_eq!(repeats.is_over("cloud"), Some(1));
        assert!(!repeats.is_standing("cloud"));
        assert_eq!(repeats.is_over("cloud"), None);
        assert!(repeats.is_news("cloud", "401"));
    }

    /// What is told of a trouble that is met every 60 s.
    fn told(cycles: u64, message: impl Fn(u64) -> &'static str) -> Vec<(u64, Telling)> {
        let mut repeats = Repeats::default();
        let tellings = (0..cycles).map(|cycle| {
            let now = Timestamp::from_unix(1_000_000 + 60 * cycle);
            (cycle, repeats.telling("cloud", message(cycle), now))
        });
        tellings
            .filter(|(_, telling)| *telling != Telling::Nothing)
            .collect()
    }

    #[test]
    fn a_weekend_of_one_trouble_takes_a_dozen_lines() {
        let told = told(2 * 24 * 60, |_| "down");
        assert_eq!(told.first(), Some(&(0, Telling::News)));
        let reminders = told.iter().skip(1).map(|(cycle, telling)| match telling {
            Telling::Reminder(lasted) => {
                assert_eq!((lasted.count, lasted.since.unix()), (cycle + 1, 1_000_000));
                *cycle
            }
            other => panic!("{other:?} in cycle {cycle}"),
        });
        assert_eq!(
            reminders.collect::<Vec<_>>(),
            [10, 30, 70, 150, 310, 630, 990, 1350, 1710, 2070, 2430, 2790],
            "minutes"
        );
    }

    #[test]
    fn two_messages_that_take_turns_are_each_told_once() {
        let told = told(9, |cycle| if cycle % 2 == 0 { "502" } else { "503" });
        assert_eq!(told, [(0, Telling::News), (1, Telling::News)]);
    }

    #[test]
    fn all_that_was_met_counts_until_it_ends_whatever_was_said() {
        let mut repeats = Repeats::default();
        let at = Timestamp::from_unix;
        for (second, message) in [(5, "401"), (65, "refused"), (125, "refused")] {
            repeats.telling("cloud", message, at(second));
        }
        let lasted = Lasted {
            count: 3,
            since: at(5),
        };
        assert_eq!(repeats.ended("cloud"), Some(lasted));
        assert_eq!(repeats.ended("cloud"), None);
        assert_eq!(repeats.telling("cloud", "401", at(200)), Telling::News);
    }
}
