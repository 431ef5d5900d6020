//! Steps on a real file system.

use super::*;

#[test]
fn a_file_is_replaced_whole_and_has_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    for (text, mode) in [("one", PRIVATE), ("two", PUBLIC)] {
        let disk = Disk::default();
        disk.write(dir.path(), &path, text.as_bytes(), mode)
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_relative_path_begins_in_the_current_directory() {
    assert_eq!(directory_of(Path::new("state")), Path::new("."));
    assert_eq!(directory_of(Path::new("a/b")), Path::new("a"));
    assert_eq!(directory_of(Path::new("/a")), Path::new("/"));
    assert_eq!(directory_of(Path::new("/")), Path::new("/"));
}

#[test]
fn a_write_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/such/dir/file");
    let written = Disk::default().write(dir.path(), &missing, b"x", PUBLIC);
    assert!(written.is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_made_or_only_there_is_synced_before_it_is_built_on() {
    #[derive(Debug, Default)]
    struct Synced(std::sync::Mutex<Vec<PathBuf>>);
    impl Watch for Synced {
        fn before(&self, effect: Effect<'_>) -> io::Result<()> {
            if let Effect::SyncDir(path) = effect {
                self.0.lock().unwrap().push(path.to_owned());
            }
            Ok(())
        }
    }
    let synced = Arc::new(Synced::default());
    let take = || std::mem::take(&mut *synced.0.lock().unwrap());
    let disk = Disk::watched(Arc::<Synced>::clone(&synced));
    let dir = tempfile::tempdir().unwrap();
    let day = dir.path().join("archive/20270115");
    disk.create_dir_all(&day).unwrap();
    let both = [dir.path().to_owned(), dir.path().join("archive")];
    assert!(
        both.iter()
            .all(|path| synced.0.lock().unwrap().contains(path))
    );
    take();
    // Another thread may have made it, and not come to the sync yet.
    disk.create_dir_all(&day).unwrap();
    assert_eq!(take(), [dir.path().join("archive")]);
    let scan = day.join("last_scan");
    disk.touch(&scan, SystemTime::UNIX_EPOCH).unwrap();
    assert!(take().contains(&day));
    let later = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    disk.touch(&scan, later).unwrap();
    assert!(take().is_empty());
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    disk.remove_dir(dir.path(), &dir.path().join("machine"))
        .unwrap();
}

#[test]
fn an_exchange_keeps_the_old_file_for_who_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, tmp) = (Disk::default(), dir.path().join("tmp"));
    let place = dir.path().join("file");
    let open = File::open(dir.path()).unwrap();
    for content in ["first", "second", "third"] {
        disk.create_synced(&tmp, content.as_bytes(), PUBLIC)
            .unwrap();
        let reader = File::open(&place).ok();
        // The first finds nothing to be exchanged for.
        disk.exchange_into(&tmp, &open, "file").unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), content);
        disk.discard_file(&tmp);
        assert!(!tmp.exists());
        if let Some(mut reader) = reader {
            let mut seen = String::new();
            io::Read::read_to_string(&mut reader, &mut seen).unwrap();
            assert_ne!(
                seen, content,
                "who has the old file open reads the old file"
            );
        }
    }
}

#[test]
fn a_watch_that_refuses_keeps_a_step_from_being_taken() {
    #[derive(Debug)]
    struct ReadOnly;
    impl Watch for ReadOnly {
        fn before(&self, effect: Effect<'_>) -> io::Result<()> {
            match effect {
                Effect::Read(_) => Ok(()),
                _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::watched(Arc::new(ReadOnly));
    let path = dir.path().join("file");
    disk.read(&path).unwrap();
    let open = File::open(dir.path()).unwrap();
    let refused = [
        disk.write(dir.path(), &path, b"x", PUBLIC),
        disk.create_dir(&path, 0o755),
        disk.touch(&path, SystemTime::UNIX_EPOCH),
        disk.rename_into(&path, &open, "other"),
        disk.exchange_into(&path, &open, "other"),
        disk.sync_open_dir(&open),
    ];
    for outcome in refused {
        let kind = outcome.unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
