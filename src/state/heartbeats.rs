//! Heartbeat lists: one file for each machinetype, which other machines read over HTTPS.

use std::fs;
use std::io;

use super::{IoContext, StateError, Store, disk};
use crate::model::{MachinetypeName, SpaceName};

impl Store {
    /// The machinetypes of a space that have a heartbeat list. What has another name is not ours.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn heartbeat_lists(&self, space: &SpaceName) -> Result<Vec<MachinetypeName>, StateError> {
        let dir = self.layout.heartbeat_lists(space);
        let looked = self.layout.disk().read(&dir);
        let entries = match looked.and_then(|()| fs::read_dir(&dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("read", &dir),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.context("read", &dir)?.file_name();
            let name = name.to_str().map(MachinetypeName::new);
            found.extend(name.and_then(Result::ok));
        }
        found.sort();
        Ok(found)
    }

    /// Puts a heartbeat list in the place of the one before. Who reads it sees one of the two.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_heartbeat_list(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        text: &str,
    ) -> Result<(), StateError> {
        let dir = self.layout.heartbeat_lists(space);
        if !dir.is_dir() {
            let disk = self.layout.disk();
            disk.create_dir_all(&dir).context("create", &dir)?;
        }
        self.write(&dir.join(machinetype), text.as_bytes(), disk::PUBLIC)
    }

    /// Removes the heartbeat list of a machinetype. One that is not there is no error.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove_heartbeat_list(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
    ) -> Result<(), StateError> {
        let path = self.layout.heartbeat_lists(space).join(machinetype);
        let disk = self.layout.disk();
        disk.remove_file(&path).context("remove", &path)
    }

    /// Removes all heartbeat lists of a space that is no longer looked after.
    ///
    /// # Errors
    /// When they are there and cannot be removed.
    pub fn remove_heartbeat_lists(&self, space: &SpaceName) -> Result<(), StateError> {
        let dir = self.layout.heartbeat_lists(space);
        let disk = self.layout.disk();
        disk.remove_dir(&self.layout.tmp(), &dir)
            .context("remove", &dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_replaced_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let space = SpaceName::new("example.org").unwrap();
        let [a, b] = ["a", "b"].map(|name| MachinetypeName::new(name).unwrap());
        assert_eq!(store.heartbeat_lists(&space).unwrap(), []);
        for text in ["one\n", ""] {
            for machinetype in [&b, &a] {
                store.set_heartbeat_list(&space, machinetype, text).unwrap();
                let path = dir.path().join("heartbeatlists/example.org");
                let written = fs::read_to_string(path.join(machinetype)).unwrap();
                assert_eq!(written, text);
            }
        }
        assert_eq!(store.heartbeat_lists(&space).unwrap(), [a.clone(), b]);
        for _ in 0..2 {
            store.remove_heartbeat_list(&space, &a).unwrap();
        }
        assert_eq!(store.heartbeat_lists(&space).unwrap().len(), 1);
        for _ in 0..2 {
            store.remove_heartbeat_lists(&space).unwrap();
        }
        assert!(!store.layout().heartbeat_lists(&space).exists());
    }
}
