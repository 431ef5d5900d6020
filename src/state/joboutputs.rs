//! Copies of what machines wrote (log_joboutputs): `joboutputs/SPACE/MACHINETYPE/NAME/`.
//!
//! A file in a machine's `joboutputs` is never written to once it is there: it came by a rename,
//! and what comes later under its name is another file. So a copy is a hard link, which takes no
//! time and no room however large the file is, has the owner, the mode and the time of the
//! original, and stays when the machine's directory goes. Only a copy on another file system is
//! one of bytes, in pieces.
//!
//! A copy grows under a name that begins with a dot, beside its place, because the place may be on
//! a file system of its own. It gets its name when all of it is on the disk; what a crash has left
//! of one is thrown away when it is made again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Disk, IoContext, Published, StateError, Store, disk, read_value};
use crate::model::{MachineName, MachinetypeName, Seconds, SpaceName, Timestamp};

/// Bytes that are copied at once where a link cannot be made.
const PIECE: usize = 1 << 20;
/// How much longer what a crash has left of a copy is kept than a copy.
const UNFINISHED: Seconds = Seconds::new(86_400);

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is whole, with so many files.
    Whole(usize),
    /// It had been made before.
    Already,
    /// The machine has left no file.
    Nothing,
}

impl Store {
    /// Copies the files in a machine's `joboutputs`, once and whole. `now` is the time that the
    /// copy counts from; `is_over` is asked between pieces whether to give up.
    ///
    /// # Errors
    /// When anything cannot be read or written; then there is no copy. Giving up is
    /// `Interrupted`.
    pub fn keep_joboutputs(
        &self,
        (space, machinetype): (&SpaceName, &MachinetypeName),
        name: &MachineName,
        now: Timestamp,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Kept, StateError> {
        let above = self.layout.joboutputs_of(space, machinetype);
        let place = above.join(name);
        let disk = self.layout.disk();
        if place.is_dir() {
            // Whoever made it may have died before its name was on the disk.
            disk.sync_dir(&above).context("sync", &above)?;
            return Ok(Kept::Already);
        }
        let source = self.layout.published(name, Published::Joboutputs);
        let files = regular_files(disk, &source).context("list", &source)?;
        if files.is_empty() {
            return Ok(Kept::Nothing);
        }
        let growing = above.join(unfinished_name(name));
        // The error names the place: what grows is of no interest to people.
        let made = (|| {
            disk.create_dir_all(&above)?;
            if growing.symlink_metadata().is_ok() {
                disk.remove_tree(&growing)?;
            }
            disk.create_dir(&growing, self.mode_of_copy(name)?)?;
            for file in &files {
                if is_over() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                copy(disk, &source.join(file), &growing.join(file), is_over)?;
            }
            disk.set_time(&File::open(&growing)?, now.to_system_time())?;
            disk.sync_dir(&growing)?;
            disk.rename(&growing, &place)
        })();
        if made.is_err() {
            disk.discard(&growing);
        }
        made.context("copy joboutputs to", &place)?;
        Ok(Kept::Whole(files.len()))
    }

    /// Takes the copy away that was made of a machine which was thought to be over: at its end there is to be
    /// a new one. No power loss brings it back.
    ///
    /// # Errors
    /// When the file system refuses; then the copy is there.
    pub fn take_back_joboutputs(
        &self,
        (space, machinetype): (&SpaceName, &MachinetypeName),
        name: &MachineName,
    ) -> Result<(), StateError> {
        let above = self.layout.joboutputs_of(space, machinetype);
        let place = above.join(name);
        if !place.is_dir() {
            return Ok(());
        }
        let disk = self.layout.disk();
        let gone = above.join(unfinished_name(name));
        let taken = (|| {
            if gone.symlink_metadata().is_ok() {
                disk.remove_tree(&gone)?;
            }
            disk.rename(&place, &gone)?;
            disk.sync_dir(&above)
        })();
        taken.context("take back", &place)?;
        disk.discard(&gone);
        Ok(())
    }

    /// Whoever could not get at the originals must not get at the copy: it is open to those to
    /// whom each directory above the originals is.
    fn mode_of_copy(&self, name: &MachineName) -> io::Result<u32> {
        let above = [
            self.layout.machines(),
            self.layout.machine(name),
            self.layout.published(name, Published::Joboutputs),
        ];
        above.iter().try_fold(0o755, |mode, directory| {
            Ok(mode & fs::metadata(directory)?.permissions().mode())
        })
    }

    /// Writes down how long copies of a machinetype are kept, unless that is on file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_joboutputs_time(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
        kept: Seconds,
    ) -> Result<(), StateError> {
        if self.joboutputs_time(space, machinetype).ok().flatten() == Some(kept) {
            return Ok(());
        }
        let path = self.layout.joboutputs_seconds(space, machinetype);
        let above = disk::directory_of(&path);
        let disk = self.layout.disk();
        disk.create_dir_all(above).context("create", above)?;
        self.write(&path, kept.to_string().as_bytes(), disk::PUBLIC)
    }

    /// How long copies of a machinetype were kept when it was last configured, if that is on file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn joboutputs_time(
        &self,
        space: &SpaceName,
        machinetype: &MachinetypeName,
    ) -> Result<Option<Seconds>, StateError> {
        let path = self.layout.joboutputs_seconds(space, machinetype);
        let seconds = read_value(self.layout.disk(), &path, "seconds")?;
        Ok(seconds.map(Seconds::new))
    }

    /// Spaces and machinetypes that have copies, configured or not.
    ///
    /// # Errors
    /// When the directories cannot be listed.
    pub fn joboutputs_kinds(&self) -> Result<Vec<(SpaceName, MachinetypeName)>, StateError> {
        let root = self.layout.joboutputs();
        let mut kinds = Vec::new();
        for space in names(&root)? {
            let Ok(space) = SpaceName::new(space) else {
                continue;
            };
            for machinetype in names(&root.join(&space))? {
                if let Ok(machinetype) = MachinetypeName::new(machinetype) {
                    kinds.push((space.clone(), machinetype));
                }
            }
        }
        Ok(kinds)
    }

    /// Removes copies that are older than `kept`, and what crashes have left of others. What has
    /// no name of a machine is left alone. Tells how many copies it removed.
    ///
    /// # Errors
    /// When one cannot be removed; the others are all the same.
    pub fn expire_joboutputs(
        &self,
        (space, machinetype): (&SpaceName, &MachinetypeName),
        kept: Seconds,
        now: Timestamp,
    ) -> Result<usize, StateError> {
        let above = self.layout.joboutputs_of(space, machinetype);
        let mut removed = 0;
        let mut first_problem = None;
        for name in names(&above)? {
            let unfinished = name.strip_prefix('.');
            let Ok(machine) = MachineName::new(unfinished.unwrap_or(&name)) else {
                continue;
            };
            let longest = match unfinished {
                Some(_) => kept + UNFINISHED,
                None => kept,
            };
            match self.expire(&above, &name, &machine, (longest, now)) {
                Ok(gone) => removed += usize::from(gone),
                Err(problem) => {
                    first_problem.get_or_insert(problem);
                }
            }
        }
        first_problem.map_or(Ok(removed), Err)
    }

    /// Removes a copy when its time has come: first its name, so that nobody sees half of it.
    fn expire(
        &self,
        above: &Path,
        name: &str,
        machine: &MachineName,
        (longest, now): (Seconds, Timestamp),
    ) -> Result<bool, StateError> {
        let path = above.join(name);
        let found = path.symlink_metadata().context("look at", &path)?;
        let made = found.modified().context("look at", &path)?;
        let age = now.since(Timestamp::from_system_time(made));
        if !found.is_dir() || age < longest {
            return Ok(false);
        }
        let disk = self.layout.disk();
        let going = above.join(unfinished_name(machine));
        let gone = (|| {
            if going != path {
                if going.symlink_metadata().is_ok() {
                    disk.remove_tree(&going)?;
                }
                disk.rename(&path, &going)?;
            }
            disk.remove_tree(&going)
        })();
        gone.context("remove", &path)?;
        Ok(true)
    }

    /// Removes the directories of a machinetype that has no copies left, and of its space.
    pub fn forget_joboutputs_of(&self, space: &SpaceName, machinetype: &MachinetypeName) {
        let above = self.layout.joboutputs_of(space, machinetype);
        // What is not empty stays, which is no error.
        if self.layout.disk().remove_empty_dir(&above).is_ok() {
            let _stays_when_not_empty = self
                .layout
                .disk()
                .remove_empty_dir(&self.layout.joboutputs().join(space));
        }
    }
}

fn unfinished_name(name: &MachineName) -> String {
    format!(".{name}")
}

/// The names in a directory; none when it is not there.
fn names(directory: &Path) -> Result<Vec<String>, StateError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(error).context("list", directory),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context("list", directory)?.file_name();
        names.extend(name.into_string());
    }
    names.sort();
    Ok(names)
}

/// The regular files in a directory. Links, pipes and directories are none that a machine wrote,
/// and what begins with a dot is still on its way.
fn regular_files(disk: &Disk, directory: &Path) -> io::Result<Vec<OsString>> {
    disk.read(directory)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if entry.file_type()?.is_file() && !hidden {
            files.push(entry.file_name());
        }
    }
    files.sort();
    Ok(files)
}

fn copy(disk: &Disk, from: &Path, to: &Path, is_over: &dyn Fn() -> bool) -> io::Result<()> {
    match disk.link(from, to) {
        // Only the message of a machine is on the disk for certain before this.
        Ok(()) => disk.sync_file(to),
        Err(error) if cannot_be_linked(&error) => copy_bytes(disk, from, to, is_over),
        Err(error) => Err(error),
    }
}

/// Whether a file has to be copied byte by byte: to another file system, to one without links,
/// from an owner whose files must not be linked, or with too many links.
fn cannot_be_linked(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
    )
}

fn copy_bytes(disk: &Disk, from: &Path, to: &Path, is_over: &dyn Fn() -> bool) -> io::Result<()> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    disk.read(from)?;
    let mut original = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(from)?;
    let found = original.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file any more"));
    }
    let mode = found.permissions().mode() & 0o777;
    let mut written = disk.create_new(to, mode)?;
    let mut piece = vec![0; PIECE];
    loop {
        if is_over() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = original.read(&mut piece)?;
        let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        written.write_all(bytes)?;
    }
    written.set_modified(found.modified()?)?;
    written.sync()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::state::disk::{Effect, Watch};

    const NAME: &str = "vcycle-a-abcdefghij";

    struct World {
        dir: tempfile::TempDir,
        space: SpaceName,
        machinetype: MachinetypeName,
        name: MachineName,
    }

    impl World {
        /// A machine that has left a log and a message.
        fn new() -> Self {
            let world = Self {
                dir: tempfile::tempdir().unwrap(),
                space: SpaceName::new("example.org").unwrap(),
                machinetype: MachinetypeName::new("a").unwrap(),
                name: MachineName::new(NAME).unwrap(),
            };
            let outputs = world.outputs();
            Disk::default().create_dir_all(&outputs).unwrap();
            for (file, text) in [("log", "line\n"), ("shutdown_message", "200 Success")] {
                world.put(file, text);
            }
            world
        }

        fn outputs(&self) -> PathBuf {
            let layout = super::super::Layout::new(self.dir.path());
            layout.published(&self.name, Published::Joboutputs)
        }

        fn put(&self, file: &str, text: &str) {
            let path = self.outputs().join(file);
            let written = Disk::default().write(self.dir.path(), &path, text.as_bytes(), 0o640);
            written.unwrap();
        }

        fn store(&self) -> Store {
            Store::open(self.dir.path()).unwrap()
        }

        fn keep(&self, store: &Store, now: u64) -> Result<Kept, StateError> {
            let kind = (&self.space, &self.machinetype);
            store.keep_joboutputs(kind, &self.name, Timestamp::from_unix(now), &|| false)
        }

        fn expire(&self, store: &Store, now: u64) -> usize {
            let kind = (&self.space, &self.machinetype);
            let now = Timestamp::from_unix(now);
            store
                .expire_joboutputs(kind, Seconds::new(100), now)
                .unwrap()
        }

        fn place(&self) -> PathBuf {
            let root = self.dir.path().join("joboutputs/example.org/a");
            root.join(NAME)
        }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_copy_is_made_once_and_does_not_change_with_the_original() {
        let world = World::new();
        let store = world.store();
        assert_eq!(world.keep(&store, 1000).unwrap(), Kept::Whole(2));
        world.put("log", "other\n");
        world.put("late", "x");
        assert_eq!(world.keep(&store, 1100).unwrap(), Kept::Already);
        assert_eq!(read(&world.place().join("log")), "line\n");
        assert!(!world.place().join("late").exists());
        store.remove_machine(&world.name).unwrap();
        assert_eq!(read(&world.place().join("shutdown_message")), "200 Success");
        let made = fs::metadata(world.place()).unwrap().modified().unwrap();
        assert_eq!(Timestamp::from_system_time(made).unix(), 1000);
    }

    #[test]
    fn a_machine_that_wrote_nothing_leaves_no_directory() {
        let world = World::new();
        for file in ["log", "shutdown_message"] {
            fs::remove_file(world.outputs().join(file)).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", world.outputs().join("link")).unwrap();
        fs::create_dir(world.outputs().join("directory")).unwrap();
        assert_eq!(world.keep(&world.store(), 1000).unwrap(), Kept::Nothing);
        assert!(!world.place().exists());
    }

    #[test]
    fn a_copy_is_open_to_nobody_to_whom_the_original_is_not() {
        for (directory, expected) in [("", 0o755), ("machines", 0o750), (NAME, 0o700)] {
            let world = World::new();
            let path = match directory {
                "machines" => world.dir.path().join("machines"),
                _ => world.dir.path().join("machines").join(NAME),
            };
            if !directory.is_empty() {
                fs::set_permissions(path, fs::Permissions::from_mode(expected)).unwrap();
            }
            world.keep(&world.store(), 1000).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
            assert_eq!(mode(&world.place()), expected);
            assert_eq!(mode(&world.place().join("log")), 0o640);
        }
    }

    /// Refuses links, or everything from an effect on.
    #[derive(Debug)]
    struct Trouble {
        no_links: bool,
        left: AtomicUsize,
    }

    impl Watch for Trouble {
        fn before(&self, effect: Effect<'_>) -> io::Result<()> {
            match effect {
                Effect::Read(_) => return Ok(()),
                Effect::Link(..) if self.no_links => {
                    return Err(io::ErrorKind::CrossesDevices.into());
                }
                _ => {}
            }
            let counted = self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                });
            counted.map(drop).map_err(|_| io::Error::other("dead"))
        }
    }

    fn troubled(world: &World, no_links: bool, left: usize) -> Store {
        let trouble = Trouble {
            no_links,
            // What opening the store takes.
            left: AtomicUsize::new(usize::MAX),
        };
        let trouble = Arc::new(trouble);
        let disk = Disk::watched(Arc::clone(&trouble) as Arc<dyn Watch>);
        let store = Store::open(super::super::Layout::on(disk, world.dir.path())).unwrap();
        trouble.left.store(left, Ordering::SeqCst);
        store
    }

    #[test]
    fn a_process_that_dies_at_any_step_leaves_no_copy_or_all_of_it() {
        for no_links in [false, true] {
            let mut steps = 0;
            loop {
                let world = World::new();
                let ended = world.keep(&troubled(&world, no_links, steps), 1000);
                let files = fs::read_dir(world.place()).map_or(0, Iterator::count);
                assert!([0, 2].contains(&files), "{files} files after {steps} steps");
                // The next life makes it, or finds it made.
                let again = world.keep(&world.store(), 2000).unwrap();
                let expected = if files == 2 {
                    Kept::Already
                } else {
                    Kept::Whole(2)
                };
                assert_eq!(again, expected);
                assert_eq!(fs::read_dir(world.place()).unwrap().count(), 2);
                let above = fs::read_dir(world.place().parent().unwrap()).unwrap();
                assert_eq!(above.count(), 1, "nothing else after {steps} steps");
                if ended.is_ok() {
                    break;
                }
                steps += 1;
            }
            assert!(steps > 5, "{steps}");
        }
    }

    #[test]
    fn a_copy_of_bytes_is_like_the_original() {
        let world = World::new();
        world.put("large", &"0123456789abcdef".repeat(150_000));
        let store = troubled(&world, true, usize::MAX);
        assert_eq!(world.keep(&store, 1000).unwrap(), Kept::Whole(3));
        for file in ["log", "large"] {
            let found = [world.outputs(), world.place()].map(|at| at.join(file));
            assert_eq!(fs::read(&found[0]).unwrap(), fs::read(&found[1]).unwrap());
            let [one, other] = found.map(|path| fs::metadata(path).unwrap());
            assert_ne!(one.ino(), other.ino());
            assert_eq!((one.mode(), one.mtime()), (other.mode(), other.mtime()));
        }
    }

    #[test]
    fn giving_up_leaves_nothing() {
        let world = World::new();
        let store = troubled(&world, true, usize::MAX);
        let kind = (&world.space, &world.machinetype);
        let asked = AtomicUsize::new(0);
        let is_over = || asked.fetch_add(1, Ordering::SeqCst) > 1;
        let kept = store.keep_joboutputs(kind, &world.name, Timestamp::default(), &is_over);
        kept.unwrap_err();
        let above = fs::read_dir(world.place().parent().unwrap()).unwrap();
        assert_eq!(above.count(), 0);
    }

    #[test]
    fn copies_go_when_their_time_has_come_and_nothing_else_does() {
        let world = World::new();
        let store = world.store();
        world.keep(&store, 1000).unwrap();
        let above = world.place().parent().unwrap().to_owned();
        let old = |name: &str| {
            fs::create_dir(above.join(name)).unwrap();
            let time = Timestamp::from_unix(1000).to_system_time();
            let directory = File::open(above.join(name)).unwrap();
            directory.set_modified(time).unwrap();
        };
        old("notes-of-the-admin");
        old(".vcycle-a-bbbbbbbbbb");
        assert_eq!(world.expire(&store, 1099), 0);
        assert!(world.place().exists());
        assert_eq!(world.expire(&store, 1100), 1);
        assert!(!world.place().exists());
        assert_eq!(world.expire(&store, 1100 + 86_400), 1);
        let left = fs::read_dir(&above).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes-of-the-admin"]);
        let kinds = store.joboutputs_kinds().unwrap();
        assert_eq!(kinds, [(world.space.clone(), world.machinetype.clone())]);
        store.forget_joboutputs_of(&world.space, &world.machinetype);
        assert_eq!(store.joboutputs_kinds().unwrap().len(), 1);
        fs::remove_dir(above.join("notes-of-the-admin")).unwrap();
        store.forget_joboutputs_of(&world.space, &world.machinetype);
        assert_eq!(
            fs::read_dir(store.layout().joboutputs()).unwrap().count(),
            0
        );
    }

    #[test]
    fn the_time_that_copies_are_kept_outlives_the_configuration() {
        let world = World::new();
        let store = world.store();
        let (space, machinetype) = (&world.space, &world.machinetype);
        assert_eq!(store.joboutputs_time(space, machinetype).unwrap(), None);
        for seconds in [5, 5, 7] {
            let kept = Seconds::new(seconds);
            store
                .note_joboutputs_time(space, machinetype, kept)
                .unwrap();
            let found = store.joboutputs_time(space, machinetype).unwrap();
            assert_eq!(found, Some(kept));
        }
    }
}
