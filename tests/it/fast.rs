//! A daemon in this process whose clock is fast: what takes it ten minutes is over in two seconds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use vcycle::clock::Clock;
use vcycle::config::Sources;
use vcycle::daemon::{self, Board, Control, DaemonError, Host, Settings, SpaceStatus};
use vcycle::model::{FactoryName, Seconds, SpaceName};

/// So many of the daemon's seconds pass in one.
const SPEED: u32 = 300;
/// Its one space.
pub const SPACE: &str = "example.org";
/// Its name.
pub const FACTORY: &str = "factory.example.org";

/// A directory with the configuration and all that it names, before the daemon starts.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        let place = Self(dir);
        place.write("user_data", "#!/bin/sh\n");
        place
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file as a whole, for the daemon may be reading it. The configuration is
    /// `vcycle.conf`.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        let growing = path.with_extension("growing");
        std::fs::write(&growing, text).unwrap();
        std::fs::rename(growing, path).unwrap();
    }

    /// What the embedded cloud has on file.
    pub fn cloud(&self) -> PathBuf {
        self.path().join(format!("state/simulated/{SPACE}.json"))
    }

    /// Starts the daemon.
    pub fn begin(&self) -> Fast {
        let settings = Settings {
            sources: Sources {
                conf: self.path().join("vcycle.conf"),
                dir: self.path().join("conf.d"),
            },
            state_dir: self.path().join("state"),
            interval: Seconds::new(30),
            factory: FactoryName::new(FACTORY).unwrap(),
            clock: Clock::fast(SPEED),
            events: None,
            socket: None,
            host: Host::default(),
        };
        let (control, board) = (Control::default(), Board::default());
        let running = daemon::run(settings, control.clone(), board.clone(), || {});
        Fast {
            control,
            board,
            task: tokio::spawn(running),
        }
    }
}

/// The running daemon.
pub struct Fast {
    control: Control,
    board: Board,
    task: JoinHandle<Result<(), DaemonError>>,
}

impl Fast {
    /// What `look` finds in the status of the space, as soon as it finds anything.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&SpaceStatus) -> Option<T>) -> T {
        let space = SpaceName::new(SPACE).unwrap();
        let mut changes = self.board.subscribe();
        let waiting = async {
            loop {
                let status = self.board.now().spaces.get(&space).cloned();
                if let Some(found) = status.and_then(|status| look(&status)) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        found.unwrap_or_else(|_| panic!("waited in vain until {what}: {:#?}", self.board.now()))
    }

    /// Waits until the daemon has looked at least twice more for what is left over.
    pub async fn until_two_more_looks(&self) {
        let looked = self.until("it looked", |status| status.leaks.looked).await;
        self.until("two more looks", |status| {
            (status.leaks.looked? >= looked + Seconds::new(1200)).then_some(())
        })
        .await;
    }

    /// Stops it. It has to end well.
    pub async fn end(self) {
        self.control.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}
