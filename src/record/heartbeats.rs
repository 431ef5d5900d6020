//! Publishing heartbeat lists, so that whoever asks our HTTPS server reads what the last scan showed.

use std::collections::BTreeMap;

use crate::model::{MachinetypeName, SpaceName};
use crate::state::{StateError, Store};

/// The lists of one space as they are on disk: only what changes is written.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatLists {
    /// What each holds, as far as that is known: an earlier run may have written it. `None` until
    /// the disk was looked at.
    on_disk: Option<BTreeMap<MachinetypeName, Option<String>>>,
}

impl HeartbeatLists {
    /// Makes the lists on disk those in `wanted`, and removes all others of the space. One that
    /// cannot be written keeps no other back.
    ///
    /// # Errors
    /// The first of those that the file system has; the next call tries again.
    pub fn publish(
        &mut self,
        store: &Store,
        space: &SpaceName,
        wanted: BTreeMap<MachinetypeName, String>,
    ) -> Result<(), StateError> {
        let mut known = match self.on_disk.take() {
            Some(known) => known,
            None => {
                let found = store.heartbeat_lists(space)?.into_iter();
                found.map(|name| (name, None)).collect()
            }
        };
        let mut result = Ok(());
        let mut now = BTreeMap::new();
        for (name, text) in wanted {
            let before = known.remove(&name);
            if before.as_ref().and_then(Option::as_ref) == Some(&text) {
                now.insert(name, Some(text));
                continue;
            }
            match store.set_heartbeat_list(space, &name, &text) {
                Ok(()) => drop(now.insert(name, Some(text))),
                Err(problem) => {
                    result = result.and(Err(problem));
                    now.extend(before.map(|before| (name, before)));
                }
            }
        }
        for (name, text) in known {
            if let Err(problem) = store.remove_heartbeat_list(space, &name) {
                result = result.and(Err(problem));
                now.insert(name, text);
            }
        }
        self.on_disk = Some(now);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_changes_is_written_and_what_is_not_wanted_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let space = SpaceName::new("example.org").unwrap();
        let [a, b, old] = ["a", "b", "old"].map(|name| MachinetypeName::new(name).unwrap());
        store.set_heartbeat_list(&space, &old, "long ago").unwrap();
        store.set_heartbeat_list(&space, &a, "1").unwrap();
        let mut lists = HeartbeatLists::default();
        let mut publish = |wanted: &[(&MachinetypeName, &str)]| {
            let wanted = wanted.iter();
            let wanted = wanted.map(|(name, text)| ((*name).clone(), (*text).to_owned()));
            lists.publish(&store, &space, wanted.collect())
        };
        let file = |name: &MachinetypeName| {
            let path = store.layout().heartbeat_lists(&space).join(name);
            let inode = std::fs::metadata(&path).ok()?.ino();
            Some((std::fs::read_to_string(path).ok()?, inode))
        };
        publish(&[(&a, "1"), (&b, "2")]).unwrap();
        assert_eq!(file(&old), None);
        let (one, two) = (file(&a), file(&b));
        publish(&[(&a, "1"), (&b, "3")]).unwrap();
        assert_eq!(file(&a), one, "not written again");
        assert_ne!(file(&b), two);
        // What cannot be written keeps nothing else back and is tried again.
        let path = store.layout().heartbeat_lists(&space).join(&a);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let wanted = [(&a, "4"), (&b, "5")];
        assert!(publish(&wanted).is_err());
        assert_eq!(file(&b).unwrap().0, "5");
        std::fs::remove_dir(&path).unwrap();
        publish(&wanted).unwrap();
        assert_eq!(file(&a).unwrap().0, "4");
    }
}
