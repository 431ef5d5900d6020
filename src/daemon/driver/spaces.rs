//! The tasks of the spaces: started, told, ended, lost and started again; and the directories of
//! spaces that have none.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tracing::{error, warn};

use super::{Directories, Driver, read_directories};
use crate::blocking;
use crate::daemon::space_task::{Ended, WhyEnded};
use crate::daemon::{Tick, space_task};
use crate::model::{MachineFiles, MachineName, SpaceName};

/// The task of a space.
pub(super) struct Running {
    task: tokio::task::Id,
    /// Tells it of ticks: each task has a channel of its own, so that they hear in order.
    ticks: watch::Sender<Tick>,
    /// Hands it directories that can be read again.
    found: mpsc::UnboundedSender<MachineFiles>,
}

impl Driver {
    /// Starts a task for each configured space that has none.
    pub(super) async fn start_spaces(&mut self) {
        self.find_the_lost().await;
        let config = Arc::clone(&self.tick.config);
        for space in config.spaces.keys() {
            // A space that is still lost does not begin without its directories: it would take
            // its own machines for somebody else's.
            if self.running.contains_key(space) || self.lost.contains(space) {
                continue;
            }
            let files = self.machines.remove(space).unwrap_or_default();
            let (ticks, receiver) = watch::channel(self.tick.clone());
            let (found, to_take_up) = mpsc::unbounded_channel();
            let told = space_task::Told {
                ticks: receiver,
                found: to_take_up,
                old: self.old.remove(space),
            };
            let task = space_task::run(self.common.clone(), space.clone(), told, files);
            let task = self.tasks.spawn(task).id();
            let running = Running { task, ticks, found };
            self.running.insert(space.clone(), running);
        }
    }

    /// Tells every task of this tick. Once: a second word in one tick could start a second pass right
    /// after the first, and two scans in a row would say less than they are taken to say.
    pub(super) fn tell_spaces(&self, tick: &Tick) {
        for running in self.running.values() {
            running.ticks.send_replace(tick.clone());
        }
    }

    /// Tries unread directories again, and gives those that can be read to whom they belong.
    pub(super) async fn hand_over_what_can_be_read(&mut self) {
        for files in self.unread.try_again(&self.common.store).await {
            match self.running.get(&files.space) {
                Some(running) => {
                    // A task that is just ending takes nothing more.
                    if let Err(mpsc::error::SendError(files)) = running.found.send(files) {
                        self.unread.put_back(files.name);
                    }
                }
                None => {
                    let kept = self.machines.entry(files.space.clone()).or_default();
                    if kept.iter().all(|known| known.name != files.name) {
                        kept.push(files);
                    }
                }
            }
        }
    }

    /// Takes back what a task had, or notes that it is lost.
    pub(super) fn space_ended(&mut self, ended: Result<(tokio::task::Id, Ended), JoinError>) {
        match ended {
            Ok((_, Ended { space, why })) => {
                self.running.remove(&space);
                match why {
                    WhyEnded::TakenOver => {
                        self.lost.insert(space);
                    }
                    WhyEnded::Left(files, old) => self.has_left(space, files, old),
                }
            }
            Err(failed) => {
                let mut spaces = self.running.iter();
                let found = spaces.find(|(_, running)| running.task == failed.id());
                let Some(space) = found.map(|(space, _)| space.clone()) else {
                    return;
                };
                self.running.remove(&space);
                error!(
                    %space, error = %failed,
                    "a pass ended in an internal error; starting again from the files with the next cycle"
                );
                self.lost.insert(space);
            }
        }
    }

    fn has_left(
        &mut self,
        space: SpaceName,
        files: Vec<MachineFiles>,
        old: Option<BTreeSet<MachineName>>,
    ) {
        self.common.board.remove(&space);
        if !files.is_empty() {
            warn!(
                %space,
                "the space has left the configuration: its {} machine(s) are left alone",
                files.len()
            );
        }
        if let Some(old) = old {
            self.old.insert(space.clone(), old);
        }
        self.machines.insert(space, files);
        self.show_orphans();
    }

    /// Reads the directories of spaces that were lost again: once for all of them, and where it
    /// may block, for a hundred thousand take seconds.
    pub(super) async fn find_the_lost(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let store = Arc::clone(&self.common.store);
        let factory = self.settings.factory.clone();
        match blocking::run(move || read_directories(&store, &factory)).await {
            Ok(Directories { loaded, mut old }) => {
                let lost = std::mem::take(&mut self.lost);
                old.retain(|space, _| lost.contains(space));
                self.old.append(&mut old);
                self.unread.note(loaded.unread);
                for files in loaded.machines {
                    if lost.contains(&files.space) {
                        let known = self.machines.entry(files.space.clone());
                        known.or_default().push(files);
                    }
                }
            }
            Err(problem) => {
                for space in &self.lost {
                    error!(%space, "{problem}; the space stands still, and the next cycle tries again");
                }
            }
        }
    }

    /// Shows the machines of spaces that are not configured: they are nobody's, and left alone.
    pub(super) fn show_orphans(&self) {
        let known = self.machines.iter();
        let orphans = known.filter(|(space, machines)| {
            !self.tick.config.spaces.contains_key(*space) && !machines.is_empty()
        });
        let orphans = orphans.map(|(space, machines)| (space.clone(), machines.len()));
        self.common.board.orphans(orphans.collect());
    }
}
