//! A message that would come with every request is logged now and then, with a count.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

/// So many subjects are told apart; beyond that, all are forgotten and begin anew.
const MAX_SUBJECTS: usize = 10_000;

/// Decides when a message that repeats is due, for each subject that it is about.
#[derive(Debug)]
pub struct Occasionally<K> {
    pause: Duration,
    subjects: Mutex<HashMap<K, Subject>>,
}

#[derive(Debug)]
struct Subject {
    last: Instant,
    kept_back: u64,
}

impl<K: Eq + Hash> Occasionally<K> {
    /// At most one message about one subject in `pause`.
    pub fn every(pause: Duration) -> Self {
        Self {
            pause,
            subjects: Mutex::default(),
        }
    }

    /// `Some` when the message about `subject` is due now: how many were kept back since the
    /// last one.
    pub fn due(&self, subject: K) -> Option<u64> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = subjects.get_mut(&subject) {
            if now.saturating_duration_since(known.last) < self.pause {
                known.kept_back = known.kept_back.saturating_add(1);
                return None;
            }
            known.last = now;
            return Some(std::mem::take(&mut known.kept_back));
        }
        if subjects.len() >= MAX_SUBJECTS {
            subjects.clear();
        }
        let new = Subject {
            last: now,
            kept_back: 0,
        };
        subjects.insert(subject, new);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_message_a_minute_with_the_count_of_the_others() {
        let pause = Duration::from_secs(60);
        let message = Occasionally::every(pause);
        assert_eq!(message.due("a"), Some(0));
        assert_eq!(message.due("a"), None);
        assert_eq!(message.due("b"), Some(0));
        assert_eq!(message.due("a"), None);
        tokio::time::advance(pause).await;
        assert_eq!(message.due("a"), Some(2));
        assert_eq!(message.due("a"), None);
    }

    #[test]
    fn subjects_do_not_pile_up() {
        let message = Occasionally::every(Duration::from_secs(60));
        for subject in 0..=MAX_SUBJECTS {
            assert_eq!(message.due(subject), Some(0));
        }
        assert!(message.subjects.lock().unwrap().len() <= MAX_SUBJECTS);
    }
}
