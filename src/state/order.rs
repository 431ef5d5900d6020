//! What `vcycled shutdown` leaves for the daemon: one file for each space. Commands write it,
//! beside a running daemon or without one, and the daemon only reads it.

use std::fs;
use std::io;

use super::{IoContext, Layout, StateError, Store, disk, read_time};
use crate::model::{SpaceName, Timestamp};

impl Store {
    /// When everything in the space has to be down, if `vcycled shutdown` said so.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn ordered_shutdown(&self, space: &SpaceName) -> Result<Option<Timestamp>, StateError> {
        let path = self.layout.ordered_shutdown(space);
        read_time(self.layout.disk(), &path)
    }
}

/// Says when everything in the space has to be down; a time that was said before is replaced. The
/// file grows in the directory of the space: the daemon empties `tmp` when it starts.
///
/// # Errors
/// When the state directory does not exist, or cannot be written.
pub fn shut_down(layout: &Layout, space: &SpaceName, at: Timestamp) -> Result<(), StateError> {
    // A slip in --state-dir must not make a new one, which no daemon looks at.
    fs::metadata(layout.root()).context("look at", layout.root())?;
    let (disk, directory) = (layout.disk(), layout.space(space));
    disk.create_dir_all(&directory)
        .context("create", &directory)?;
    let path = layout.ordered_shutdown(space);
    disk.write(&directory, &path, at.to_string().as_bytes(), disk::PUBLIC)
        .context("write", &path)
}

/// Takes it back. Tells whether there was anything to take back.
///
/// # Errors
/// When the file is there and cannot be removed.
pub fn cancel_shutdown(layout: &Layout, space: &SpaceName) -> Result<bool, StateError> {
    let path = layout.ordered_shutdown(space);
    match fs::symlink_metadata(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context("look at", &path),
    }
    layout.disk().remove_file(&path).context("remove", &path)?;
    Ok(true)
}

/// The spaces that `vcycled shutdown` has said something about, configured or not.
///
/// # Errors
/// When they cannot be listed.
pub fn shut_down_spaces(layout: &Layout) -> Result<Vec<SpaceName>, StateError> {
    let directory = layout.spaces();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("list", &directory),
    };
    let mut spaces = Vec::new();
    for entry in entries {
        let name = entry.context("list", &directory)?.file_name();
        let space = name.to_str().and_then(|name| SpaceName::new(name).ok());
        spaces.extend(
            space.filter(|space| fs::symlink_metadata(layout.ordered_shutdown(space)).is_ok()),
        );
    }
    spaces.sort();
    Ok(spaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_back_until_it_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (layout, space) = (store.layout(), SpaceName::new("example.org").unwrap());
        assert_eq!(store.ordered_shutdown(&space).unwrap(), None);
        assert!(!cancel_shutdown(layout, &space).unwrap());
        for at in [2_000_000_000, 1_900_000_000].map(Timestamp::from_unix) {
            shut_down(layout, &space, at).unwrap();
            assert_eq!(store.ordered_shutdown(&space).unwrap(), Some(at));
        }
        assert_eq!(
            shut_down_spaces(layout).unwrap(),
            std::slice::from_ref(&space)
        );
        assert!(cancel_shutdown(layout, &space).unwrap());
        assert_eq!(store.ordered_shutdown(&space).unwrap(), None);
        assert_eq!(shut_down_spaces(layout).unwrap(), []);
        let left = fs::read_dir(layout.space(&space)).unwrap().count();
        assert_eq!(left, 0, "nothing that grew is left");
    }

    #[test]
    fn no_state_directory_is_made_for_an_order() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("nowhere");
        let space = SpaceName::new("example.org").unwrap();
        shut_down(&Layout::new(&nowhere), &space, Timestamp::from_unix(5)).unwrap_err();
        assert!(!nowhere.exists());
    }

    #[test]
    fn what_is_no_time_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let space = SpaceName::new("example.org").unwrap();
        fs::create_dir_all(store.layout().space(&space)).unwrap();
        let path = store.layout().ordered_shutdown(&space);
        let disk = store.layout().disk();
        disk.write(&store.layout().tmp(), &path, b"tomorrow", disk::PUBLIC)
            .unwrap();
        let problem = store.ordered_shutdown(&space).unwrap_err().to_string();
        assert!(
            problem.contains("spaces/example.org/shutdown_time"),
            "{problem}"
        );
    }
}
