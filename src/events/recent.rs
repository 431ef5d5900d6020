//! The latest events, kept in memory for those who watch.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Entry;

/// So many are kept.
pub const KEPT: usize = 200;

/// The latest events.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// How many there have been.
    count: u64,
    entries: VecDeque<Arc<Entry>>,
}

impl Recent {
    /// Adds those that have come.
    pub fn extend(&mut self, entries: &[Entry]) {
        for entry in entries {
            if self.entries.len() >= KEPT {
                self.entries.pop_front();
            }
            self.entries.push_back(Arc::new(entry.clone()));
            self.count = self.count.saturating_add(1);
        }
    }

    /// How many there have been since the start.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Those of them that came after the first `seen` ones, the oldest first; of those only the
    /// latest are kept.
    pub fn after(&self, seen: u64) -> Vec<Arc<Entry>> {
        let new = usize::try_from(self.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skipped = self.entries.len().saturating_sub(new);
        self.entries.iter().skip(skipped).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::model::Timestamp;

    fn entry(time: usize) -> Entry {
        Entry {
            time: Timestamp::from_unix(u64::try_from(time).unwrap()),
            space: None,
            event: Event::ConfigReloaded {},
        }
    }

    #[test]
    fn each_is_told_once_and_the_oldest_are_dropped() {
        let mut recent = Recent::default();
        assert!(recent.after(0).is_empty());
        recent.extend(&[entry(1), entry(2)]);
        assert_eq!(recent.after(0).len(), 2);
        let seen = recent.count();
        assert!(recent.after(seen).is_empty());
        recent.extend(&[entry(3)]);
        let new = recent.after(seen);
        assert_eq!((new.len(), new[0].time.unix()), (1, 3));
        let many: Vec<Entry> = (4..4 + KEPT + 50).map(entry).collect();
        recent.extend(&many);
        let kept = recent.after(seen);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].time.unix(), 54);
    }
}
