//! What happens inside the servers: one light task for each VM that is alive.
//!
//! A VM boots, reads its machine features, looks for work, writes a heartbeat every few minutes,
//! says why it ends, and shuts itself down, at the latest shortly before its shutdowntime. All it
//! knows of the world are the URLs in its metadata and its certificate.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::model::{Seconds, Timestamp};

use super::faults::Fate;
use super::guest::{Guest, Urls};
use super::project::{Job, Phase};
use super::region::Region;

/// Between two heartbeats, about.
const HEARTBEAT: Seconds = Seconds::new(270);
/// How long before its shutdowntime a VM ends by itself.
const MARGIN: u64 = 120;
/// How often and after what pause a VM tries to leave its shutdown message.
const LAST_WORDS_TRIES: u32 = 3;
const LAST_WORDS_PAUSE: Seconds = Seconds::new(10);

/// The VMs of one region.
#[derive(Clone, Debug)]
pub(super) struct Vms {
    pub region: Arc<Region>,
    pub guest: Arc<Guest>,
    /// Ends all of them, without a trace: what they would have done next is on disk.
    pub stop: CancellationToken,
}

impl Vms {
    /// Goes on with all servers that a former process left.
    pub(super) fn resume(&self) {
        let servers = self.region.read(|project| {
            let servers = project.kept().servers.iter();
            servers
                .map(|server| (server.id.clone(), server.phase, server.gone_at))
                .collect::<Vec<_>>()
        });
        for (id, phase, gone_at) in servers {
            match (gone_at, phase) {
                (Some(_), _) => self.remove(&id),
                (None, Phase::Building | Phase::Active) => self.boot(&id),
                (None, Phase::Shutoff | Phase::Failed) => {}
            }
        }
    }

    /// A server boots, or goes on from where it was.
    pub(super) fn boot(&self, id: &str) {
        let (vms, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move { until(&vms.stop, vms.live(&id)).await });
    }

    /// A server is deleted.
    pub(super) fn remove(&self, id: &str) {
        let (vms, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move { until(&vms.stop, vms.vanish(&id)).await });
    }

    async fn vanish(&self, id: &str) {
        let server = self.region.read(|project| project.server(id).cloned());
        if let Ok(server) = server
            && let Some(gone_at) = server.gone_at
        {
            self.wait_until(gone_at).await;
            self.region.change(|project| project.remove(id));
        }
    }

    /// The life of a VM. It looks after each wait whether it has been deleted meanwhile.
    async fn live(&self, id: &str) {
        let server = self.region.read(|project| project.server(id).cloned());
        let Ok(server) = server else {
            return;
        };
        let urls = Urls::from_metadata(&server.metadata);
        if server.fate == Some(Fate::NeverBuilt) {
            return;
        }
        self.wait_until(server.boots_at).await;
        let now = self.region.clock.now();
        if server.fate == Some(Fate::Fails) {
            self.region.change(|project| project.fail(id, now));
            return;
        }
        if !self.region.change(|project| project.boot(id, now)) {
            return;
        }
        let job = self.region.change(|project| project.find_job(id, now));
        let Some(job) = job else {
            return;
        };
        let ended = match server.fate {
            Some(Fate::Hangs) => return,
            Some(Fate::NeverEnds) => self.work(id, &urls, None).await,
            None | Some(Fate::NeverBuilt | Fate::Fails | Fate::Vanishes) => {
                self.work(id, &urls, Some(job)).await
            }
        };
        let Some(message) = ended else {
            return;
        };
        if server.fate == Some(Fate::Vanishes) {
            self.region.change(|project| project.remove(id));
            return;
        }
        for _ in 0..LAST_WORDS_TRIES {
            if self.guest.put(&urls, "shutdown_message", message).await {
                break;
            }
            self.region.clock.sleep(LAST_WORDS_PAUSE).await;
        }
        let now = self.region.clock.now();
        self.region.change(|project| project.halt(id, now));
    }

    /// Works, or looks for work, with heartbeats; without a job for ever, whatever it is told. The
    /// answer is what the VM has to say at its end; `None` when it was deleted before.
    async fn work(&self, id: &str, urls: &Urls, job: Option<Job>) -> Option<&'static str> {
        let mut told = None;
        loop {
            if !self.region.read(|project| project.runs(id)) {
                return None;
            }
            // What was told stays true while it cannot be asked for again.
            told = self.guest.shutdowntime(urls).await.or(told);
            let by = told.map(|told| Timestamp::from_unix(told.unix().saturating_sub(MARGIN)));
            let now = self.region.clock.now();
            let Some(job) = job else {
                self.guest.put(urls, "heartbeat", "").await;
                let pause = self.region.vary(HEARTBEAT);
                self.region.clock.sleep(pause).await;
                continue;
            };
            if now >= job.until {
                return Some(if job.work {
                    "200 Success"
                } else {
                    "300 Nothing to do"
                });
            }
            if by.is_some_and(|by| now >= by) {
                return Some("100 Shutdown as requested by the host");
            }
            self.guest.put(urls, "heartbeat", "").await;
            let end = by.map_or(job.until, |by| by.min(job.until));
            let pause = self.region.vary(HEARTBEAT);
            self.region.clock.sleep(pause.min(end.since(now))).await;
        }
    }

    async fn wait_until(&self, then: Timestamp) {
        let clock = &self.region.clock;
        loop {
            let left = then.since(clock.now());
            if left == Seconds::new(0) {
                return;
            }
            clock.sleep(left).await;
        }
    }
}

/// Goes on until the stop. The stop comes first: what the daemon serves ends right after it, and a
/// VM that saw that before it saw the stop would complain of it.
async fn until(stop: &CancellationToken, life: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = life => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vm_that_was_stopped_does_not_do_what_it_was_about_to_do() {
        let stop = CancellationToken::new();
        let (send, sent) = tokio::sync::oneshot::channel();
        let acted = std::cell::Cell::new(false);
        let life = async {
            sent.await.unwrap();
            acted.set(true);
        };
        let vm = until(&stop, life);
        tokio::pin!(vm);
        assert!(futures_util::poll!(&mut vm).is_pending());
        // Both happen before its task has a turn again.
        stop.cancel();
        send.send(()).unwrap();
        vm.await;
        assert!(!acted.get());
    }
}
