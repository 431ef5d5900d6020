//! Files that VMs send: received whole into `tmp` (by a CGI program, under a hidden name beside
//! their place), then renamed into the machine's `joboutputs`.
//!
//! A client that goes away, a disk that fills up and a crash leave nothing half-written: a file
//! is in `joboutputs` from its rename on, or not at all. What a machine may leave there is limited
//! in bytes and in files, counting what is on its way.

mod hidden;
mod upload;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;

pub use upload::{Growing, Look, Reservation};

use hidden::{create_hidden, sweep};

use super::files::Directory;
use super::path::FileName;
use super::reply::Refusal;
use crate::clock::Clock;
use crate::model::MachineName;
use crate::state::disk;
use crate::state::{Layout, Published, SHUTDOWN_MESSAGE};

/// The most files in a machine's `joboutputs`: logs, a heartbeat and a message are a few dozen;
/// without a limit a VM could use up all inodes with empty files.
pub const MAX_FILES: usize = 1000;

/// The most uploads of one machine at a time. VMs send one after the other.
const MAX_UPLOADS: u32 = 8;

/// Among so many locks the machines are shared out.
const SHARES: usize = 64;

/// How much machines may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in one file.
    pub file: u64,
    /// Bytes in all files of one machine.
    pub machine: u64,
}

/// Receives files and keeps count.
#[derive(Debug)]
pub struct Joboutputs {
    layout: Layout,
    clock: Clock,
    limits: Limits,
    /// What is on its way, by machine.
    pending: Mutex<HashMap<MachineName, Pending>>,
    /// Held from the last look at the quota to the rename, so that both are one step; each for some
    /// of the machines, with a count of the files that it has seen placed.
    placing: [Mutex<u64>; SHARES],
    growth: Growth,
}

/// Where files grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// In `tmp`, where only the daemon writes.
    Tmp,
    /// In joboutputs itself, under names that begin with a dot, as other processes do.
    Beside,
}

#[derive(Debug, Default)]
struct Pending {
    uploads: u32,
    bytes: u64,
}

/// Whether a file is new in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// There was none of this name.
    New,
    /// It took the place of an older one.
    Replaced,
}

/// A poisoned lock only means that another request panicked; the counts behind it stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Joboutputs {
    /// Receives into `layout`, stamping files with the time of `clock`.
    pub fn new(layout: Layout, clock: Clock, limits: Limits) -> Self {
        Self {
            layout,
            clock,
            limits,
            pending: Mutex::default(),
            placing: std::array::from_fn(|_| Mutex::default()),
            growth: Growth::Tmp,
        }
    }

    /// The same for one of many processes that may write to joboutputs and nowhere else.
    pub fn beside(layout: Layout, clock: Clock, limits: Limits) -> Self {
        Self {
            growth: Growth::Beside,
            ..Self::new(layout, clock, limits)
        }
    }

    /// Decides whether `machine` may send `name` now, before any of it is read. `announced` is
    /// the Content-Length, if there is one.
    ///
    /// # Errors
    /// 413 when it is too long, 507 when the machine has no room left, 503 when too much of this
    /// machine is on its way, 403 when the name is taken by no file, or what the disk says.
    pub fn reserve(
        self: &Arc<Self>,
        machine: &MachineName,
        directory: &Directory,
        name: &FileName,
        announced: Option<u64>,
    ) -> Result<Reservation, Refusal> {
        let placed = *lock(self.placing(machine));
        let look = Look::at(directory, name, placed)?;
        {
            let mut pending = lock(&self.pending);
            let entry = pending.entry(machine.clone()).or_default();
            if entry.uploads >= MAX_UPLOADS {
                return Err(Refusal::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{MAX_UPLOADS} uploads of this machine are under way"),
                ));
            }
            entry.uploads += 1;
        }
        let mut reservation = Reservation {
            owner: Arc::clone(self),
            machine: machine.clone(),
            look,
            bytes: 0,
        };
        reservation.cover(announced.unwrap_or(0))?;
        Ok(reservation)
    }

    fn placing(&self, machine: &MachineName) -> &Mutex<u64> {
        let mut hasher = DefaultHasher::new();
        machine.hash(&mut hasher);
        let shares = u64::try_from(SHARES).unwrap_or(1);
        let share = usize::try_from(hasher.finish() % shares).unwrap_or(0);
        self.placing.get(share).unwrap_or(&self.placing[0])
    }

    /// Puts a received file in its place, after what was seen when it was reserved. Blocks, and for
    /// long only when it has to be [durable](is_durable).
    ///
    /// # Errors
    /// 507 when the machine has no room left or the disk is full, else what the disk says.
    pub fn place(
        &self,
        mut growing: Growing,
        machine: &MachineName,
        (directory, name, look): (&Directory, &FileName, Look),
    ) -> Result<Placed, Refusal> {
        let durable = is_durable(name);
        let disk = |error: io::Error| Refusal::disk(&error);
        growing
            .file
            .set_modified(self.clock.now().to_system_time())
            .map_err(disk)?;
        if durable {
            growing.file.sync().map_err(disk)?;
        }
        let placed = {
            let mut count = lock(self.placing(machine));
            let one_process_at_a_time = match self.growth {
                Growth::Tmp => None,
                Growth::Beside => Some(directory.lock().map_err(disk)?),
            };
            // Other processes do not tell us what they place.
            let look = if one_process_at_a_time.is_none() && look.placed == *count {
                look
            } else {
                Look::at(directory, name, *count)?
            };
            if look.others.saturating_add(growing.written) > self.limits.machine {
                return Err(self.no_room());
            }
            *count = count.wrapping_add(1);
            match look.old {
                Some(_) if !durable => growing.exchange(directory, name).map_err(disk)?,
                Some(_) | None => growing.rename(directory, name).map_err(disk)?,
            }
            look.old.map_or(Placed::New, |_| Placed::Replaced)
        };
        if durable {
            self.layout
                .disk()
                .sync_open_dir(directory.handle())
                .map_err(disk)?;
        }
        Ok(placed)
    }

    /// Begins a file for `machine`. Blocks.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin(&self, machine: &MachineName) -> Result<Growing, Refusal> {
        let created = match self.growth {
            Growth::Tmp => {
                let path = disk::temporary_path(&self.layout.tmp());
                self.layout.disk().create_new(&path, disk::PUBLIC)
            }
            Growth::Beside => {
                let outputs = self.layout.published(machine, Published::Joboutputs);
                sweep(self.layout.disk(), &outputs, self.clock.now());
                create_hidden(self.layout.disk(), &outputs)
            }
        };
        let file = created.map_err(|error| match (error.kind(), self.growth) {
            // Not the machine but our own `tmp` is missing.
            (io::ErrorKind::NotFound, Growth::Tmp) => Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the directory for files on their way is missing",
            ),
            (io::ErrorKind::PermissionDenied, Growth::Beside) => Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the web server may not write to joboutputs; see vcycle-cgi(8)",
            ),
            _ => Refusal::disk(&error),
        })?;
        Ok(Growing {
            disk: self.layout.disk().clone(),
            file,
            written: 0,
            is_there: true,
        })
    }

    /// Notes that a VM is alive although the disk does not take what it sends: the file that is
    /// there counts as written now. A full disk of ours must not make heartbeats look missed.
    pub fn keep_alive(&self, directory: &Directory, name: &FileName) {
        let touched = directory.file(name.as_str()).and_then(|found| match found {
            Some(found) => {
                found.set_modified(self.layout.disk(), self.clock.now().to_system_time())
            }
            None => Ok(()),
        });
        if let Err(error) = touched {
            tracing::debug!(file = name.as_str(), %error, "cannot set the time of a file");
        }
    }

    fn no_room(&self) -> Refusal {
        Refusal::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!(
                "the files of a machine may have {} bytes together",
                self.limits.machine
            ),
        )
    }
}

/// Whether a file has to survive a power loss once its writer has been told that we have it. The
/// daemon believes a shutdown message and acts on it for good; other files may be lost.
pub fn is_durable(name: &FileName) -> bool {
    name.as_str() == SHUTDOWN_MESSAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    struct World {
        _root: tempfile::TempDir,
        layout: Layout,
        machine: MachineName,
        joboutputs: Arc<Joboutputs>,
        directory: Directory,
    }

    fn world(file: u64, machine: u64) -> World {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let name = MachineName::new("vcycle-a-abcdefghij").unwrap();
        std::fs::create_dir_all(layout.published(&name, Published::Joboutputs)).unwrap();
        std::fs::create_dir_all(layout.tmp()).unwrap();
        let clock = Clock::manual(Timestamp::from_unix(5000));
        let directory = Directory::of_machine(&layout, &name)
            .unwrap()
            .and_then(|found| found.published(Published::Joboutputs).unwrap())
            .unwrap();
        World {
            joboutputs: Arc::new(Joboutputs::new(
                layout.clone(),
                clock,
                Limits { file, machine },
            )),
            layout,
            machine: name,
            directory,
            _root: root,
        }
    }

    impl World {
        fn reserve(&self, name: &str, announced: u64) -> Result<Reservation, u16> {
            let name = FileName::new(name).unwrap();
            self.joboutputs
                .reserve(&self.machine, &self.directory, &name, Some(announced))
                .map_err(|refusal| refusal.status.as_u16())
        }

        fn put(&self, name: &str, content: &[u8]) -> Result<Placed, u16> {
            let reservation = self.reserve(name, 0)?;
            self.place(&reservation, name, content)
        }

        fn place(
            &self,
            reservation: &Reservation,
            name: &str,
            content: &[u8],
        ) -> Result<Placed, u16> {
            let mut growing = self.joboutputs.begin(&self.machine).unwrap();
            growing.write(content).unwrap();
            let name = FileName::new(name).unwrap();
            let place = (&self.directory, &name, reservation.look());
            self.joboutputs
                .place(growing, &self.machine, place)
                .map_err(|refusal| refusal.status.as_u16())
        }

        fn temporary_files(&self) -> usize {
            std::fs::read_dir(self.layout.tmp()).unwrap().count()
        }
    }

    #[test]
    fn a_file_appears_with_the_time_of_the_clock() {
        let world = world(100, 1000);
        assert_eq!(world.put("heartbeat", b"1"), Ok(Placed::New));
        assert_eq!(world.put("heartbeat", b"22"), Ok(Placed::Replaced));
        let path = world
            .layout
            .published(&world.machine, Published::Joboutputs)
            .join("heartbeat");
        assert_eq!(std::fs::read(&path).unwrap(), b"22");
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(modified, Timestamp::from_unix(5000).to_system_time());
        assert_eq!(world.temporary_files(), 0);
    }

    #[test]
    fn limits_count_what_is_there_and_what_is_on_its_way() {
        let world = world(60, 100);
        assert_eq!(world.reserve("a", 61).map(drop), Err(413));
        assert_eq!(world.put("a", &[0; 50]), Ok(Placed::New));
        let on_its_way = world.reserve("b", 40).unwrap();
        assert_eq!(world.reserve("c", 11).map(drop), Err(507));
        // A file that is replaced makes room for itself.
        assert!(world.reserve("a", 60).is_ok());
        drop(on_its_way);
        let mut chunked = world.reserve("c", 0).unwrap();
        chunked.cover(50).unwrap();
        assert_eq!(chunked.cover(51).unwrap_err().status.as_u16(), 507);
    }

    #[test]
    fn the_last_look_is_before_the_rename() {
        let world = world(60, 100);
        let [first, second] = ["a", "b"].map(|name| world.reserve(name, 0).unwrap());
        assert_eq!(world.place(&first, "a", &[0; 60]), Ok(Placed::New));
        assert_eq!(world.place(&second, "b", &[0; 60]), Err(507));
        assert_eq!(world.temporary_files(), 0);
    }

    #[test]
    fn one_machine_cannot_have_all_uploads_or_all_inodes() {
        let world = world(10, 1000);
        let held: Vec<_> = (0..MAX_UPLOADS)
            .map(|n| world.reserve(&format!("f{n}"), 0).unwrap())
            .collect();
        assert_eq!(world.reserve("x", 0).map(drop), Err(503));
        drop(held);
        for n in 0..MAX_FILES {
            assert_eq!(world.put(&format!("f{n}"), b""), Ok(Placed::New));
        }
        assert_eq!(world.reserve("x", 0).map(drop), Err(507));
        assert!(world.reserve("f7", 0).is_ok());
    }

    #[test]
    fn an_upload_that_stops_leaves_nothing() {
        let world = world(10, 100);
        let mut growing = world.joboutputs.begin(&world.machine).unwrap();
        growing.write(b"half").unwrap();
        assert_eq!(world.temporary_files(), 1);
        drop(growing);
        assert_eq!(world.temporary_files(), 0);
    }

    #[test]
    fn names_that_belong_to_something_else_are_left_alone() {
        let world = world(10, 100);
        let outputs = world
            .layout
            .published(&world.machine, Published::Joboutputs);
        std::os::unix::fs::symlink("/etc/passwd", outputs.join("link")).unwrap();
        std::fs::create_dir(outputs.join("dir")).unwrap();
        for name in ["link", "dir"] {
            assert_eq!(world.put(name, b"x"), Err(403), "{name}");
        }
    }

    #[test]
    fn a_machine_whose_files_cannot_be_stored_is_still_alive() {
        let world = world(10, 100);
        assert_eq!(world.put("heartbeat", b"1"), Ok(Placed::New));
        let name = FileName::new("heartbeat").unwrap();
        world.joboutputs.clock.set(Timestamp::from_unix(6000));
        world.joboutputs.keep_alive(&world.directory, &name);
        let found = world.directory.file("heartbeat").unwrap().unwrap();
        assert_eq!(
            found.version.modified,
            Timestamp::from_unix(6000).to_system_time()
        );
    }

    #[test]
    fn beside_the_daemon_files_grow_hidden_and_what_was_left_goes() {
        let mut world = world(10, 100);
        let clock = Clock::manual(Timestamp::from_unix(10_000));
        let limits = Limits {
            file: 10,
            machine: 100,
        };
        world.joboutputs = Arc::new(Joboutputs::beside(world.layout.clone(), clock, limits));
        let outputs = world
            .layout
            .published(&world.machine, Published::Joboutputs);
        let left = |age: u64| {
            let file = std::fs::File::create(outputs.join(format!(".upload.1.{age}"))).unwrap();
            let time = Timestamp::from_unix(10_000 - age).to_system_time();
            file.set_modified(time).unwrap();
        };
        left(3601);
        left(3500);
        assert_eq!(world.put("heartbeat", b"1"), Ok(Placed::New));
        assert_eq!(world.put("heartbeat", b"2"), Ok(Placed::Replaced));
        let entries = std::fs::read_dir(&outputs).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".upload.1.3500", "heartbeat"]);
        assert_eq!(world.temporary_files(), 0);
        let shown = world.directory.list().unwrap();
        assert_eq!(shown.len(), 1, "{shown:?}");
    }
}
