//! Vacuum pipes over the life of the daemon: fetched beside everything else, kept on disk.
//!
//! The driver asks a [`Keeper`] at each tick what has come in, hands all that is known to the
//! loader of the configuration, and lets it begin to fetch what is due. Invariants:
//!
//! 1. Nobody waits for a pipe: neither the driver nor a pass.
//! 2. What is known of a pipe is replaced by a document that could be understood, and by nothing
//!    else: a pipe that is down, slow or broken goes on saying what it said.
//! 3. Each URL is fetched once at a time, whatever number of sections names it.
//! 4. What is known is on disk, so that a start finds it.

mod fetch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tokio::task::{Id, JoinSet};
use tracing::{info, warn};
use url::Url;

use crate::blocking;
use crate::clock::Clock;
use crate::cloud::Outside;
use crate::cloud::http::{Network, shown};
use crate::config::Pipes;
use crate::config::pipe::{Known, Pipe};
use crate::model::{Seconds, Timestamp};
use crate::rng::Seeds;
use crate::state::pipes::{PipeFile, read_all};
use crate::state::{Layout, Store};
use crate::telemetry::{Lasted, Repeats, Telling};

/// How many pipes are fetched at once.
const MOST_AT_ONCE: usize = 8;
/// The longest pause after a pipe could not be fetched.
const LONGEST_PAUSE: Seconds = Seconds::new(900);
/// How long what a pipe said is kept after its URL has left the configuration.
const KEPT_UNUSED: Seconds = Seconds::new(30 * 86_400);

/// What is known of pipes from before, on disk.
pub async fn remembered(layout: &Layout) -> Arc<Pipes> {
    let layout = layout.clone();
    Arc::new(blocking::run(move || read_known(&layout)).await)
}

/// What is known of pipes from before, on disk. Blocks on the file system.
pub fn read_known(layout: &Layout) -> Pipes {
    let read = read_all(layout);
    for problem in &read.problems {
        warn!("{problem}; the vacuum pipe is fetched as a new one");
    }
    let files = read.files.into_iter();
    files
        .filter_map(|file| {
            let url = Url::parse(&file.url).ok()?;
            // What an earlier version understood and this one does not is fetched anew.
            let pipe = Pipe::parse(file.document.as_bytes()).ok()?;
            let fetched = file.fetched;
            Some((url, Known { fetched, pipe }))
        })
        .collect()
}

/// Fetches all these pipes once, side by side, and adds what they say to what is known. Gives what
/// went wrong. Keeps nothing on disk.
pub async fn fetch_now(urls: &BTreeSet<Url>, outside: &Outside, known: &mut Pipes) -> Vec<String> {
    let fetching = urls.iter().map(|url| fetch::fetch(url, outside));
    let fetched = futures_util::future::join_all(fetching).await;
    let now = outside.clock.now();
    let mut problems = Vec::new();
    for (url, result) in urls.iter().zip(fetched) {
        match result {
            Ok(fetch::Fetched { pipe, .. }) => {
                let fetched = now;
                known.put(url.clone(), Known { fetched, pipe });
            }
            Err(why) => problems.push(why),
        }
    }
    problems
}

/// When a pipe is fetched next.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// When that was settled: a clock that is set back before it ends the pause.
    since: Timestamp,
    until: Timestamp,
    /// Fetches that failed in a row.
    failures: u32,
}

impl Pause {
    fn is_over(self, now: Timestamp) -> bool {
        now >= self.until || now < self.since
    }
}

/// What has come of fetching one pipe.
struct Done {
    url: Url,
    outcome: Result<Pipe, String>,
    /// Why it could not be kept on disk.
    unkept: Option<String>,
}

/// Keeps what is known of all pipes, and fetches them when they are due.
pub struct Keeper {
    store: Arc<Store>,
    clock: Clock,
    network: Network,
    known: Arc<Pipes>,
    pauses: BTreeMap<Url, Pause>,
    fetching: JoinSet<Done>,
    under_way: BTreeMap<Id, Url>,
    interval: Seconds,
    has_tidied: bool,
    repeats: Repeats,
}

impl Keeper {
    /// A keeper that knows what was [`remembered`].
    pub fn new(store: &Arc<Store>, clock: &Clock, network: &Network, known: Arc<Pipes>) -> Self {
        let pauses = known.iter().map(|(url, known)| {
            let pause = Pause {
                since: known.fetched,
                until: known.fetched + known.pipe.cache,
                failures: 0,
            };
            (url.clone(), pause)
        });
        Self {
            pauses: pauses.collect(),
            store: Arc::clone(store),
            clock: clock.clone(),
            network: network.clone(),
            known,
            fetching: JoinSet::new(),
            under_way: BTreeMap::new(),
            interval: Seconds::default(),
            has_tidied: false,
            repeats: Repeats::default(),
        }
    }

    /// What is known of all pipes now.
    pub const fn known(&self) -> &Arc<Pipes> {
        &self.known
    }

    /// Makes every pipe due: somebody has asked for it.
    pub fn forget_pauses(&mut self) {
        self.pauses.clear();
    }

    /// Takes what has come in. Waits for nothing.
    pub fn collect(&mut self) {
        while let Some(ended) = self.fetching.try_join_next_with_id() {
            match ended {
                Ok((id, done)) => {
                    self.under_way.remove(&id);
                    self.take(done);
                }
                Err(error) => {
                    if let Some(url) = self.under_way.remove(&error.id()) {
                        self.failed(&url, &format!("an internal error: {error}"));
                    }
                }
            }
        }
    }

    /// Begins to fetch those of the `wanted` pipes that are due and not being fetched already.
    /// Servers are verified with the system's CAs and those in the directory `ca_path`.
    pub fn fetch_due(&mut self, wanted: &BTreeSet<Url>, ca_path: &Path, interval: Seconds) {
        self.interval = interval;
        self.tidy(wanted);
        let now = self.clock.now();
        for url in wanted {
            let busy = self.under_way.values().any(|other| other == url);
            let due = self.pauses.get(url).is_none_or(|pause| pause.is_over(now));
            if busy || !due || self.under_way.len() >= MOST_AT_ONCE {
                continue;
            }
            let outside = Outside {
                ca_path: ca_path.to_owned(),
                clock: self.clock.clone(),
                seeds: Seeds::default(),
                network: self.network.clone(),
                ..Outside::real(ca_path, self.clock.clone())
            };
            let fetching = fetch_and_keep(url.clone(), outside, Arc::clone(&self.store));
            let task = self.fetching.spawn(fetching);
            self.under_way.insert(task.id(), url.clone());
        }
    }

    fn take(&mut self, done: Done) {
        let Done {
            url,
            outcome,
            unkept,
        } = done;
        let pipe = match outcome {
            Ok(pipe) => pipe,
            Err(why) => return self.failed(&url, &why),
        };
        let (place, now) = (shown(&url), self.clock.now());
        if let Some(Lasted { count, since }) = self.repeats.ended(&subject(&url)) {
            let since = since.to_rfc3339();
            info!("vacuum pipe {place}: fetched again, after {count} failure(s) since {since}");
        }
        let unchanged = self.known.get(&url).is_some_and(|known| known.pipe == pipe);
        if pipe.entries.is_empty() && !unchanged {
            warn!(
                "vacuum pipe {place}: tells no machinetype that can be used here; nothing new is \
                 created for it, and its machines run to their ends"
            );
        } else if !unchanged {
            info!(
                "vacuum pipe {place}: tells {} machinetype(s)",
                pipe.entries.len()
            );
        }
        let pause = Pause {
            since: now,
            until: now + pipe.cache,
            failures: 0,
        };
        self.pauses.insert(url.clone(), pause);
        if let Some(why) = unkept {
            if self.repeats.is_news(&unkept_subject(&url), &why) {
                warn!("vacuum pipe {place}: {why}; it counts until vcycled ends");
            }
        } else {
            self.repeats.is_over(&unkept_subject(&url));
        }
        let known = Arc::make_mut(&mut self.known);
        known.put(url, Known { fetched: now, pipe });
    }

    fn failed(&mut self, url: &Url, why: &str) {
        let now = self.clock.now();
        let failures = self.pauses.get(url).map_or(0, |pause| pause.failures);
        let doubled = 1_u64.checked_shl(failures).unwrap_or(u64::MAX);
        let pause = Seconds::new(self.interval.get().saturating_mul(doubled));
        let pause = Pause {
            since: now,
            until: now + pause.min(LONGEST_PAUSE),
            failures: failures.saturating_add(1),
        };
        self.pauses.insert(url.clone(), pause);
        let still = match self.repeats.telling(&subject(url), why, now) {
            Telling::News => String::new(),
            Telling::Reminder(Lasted { count, since }) => {
                format!("still, {count} failure(s) since {}: ", since.to_rfc3339())
            }
            Telling::Nothing => return,
        };
        let meanwhile = match self.known.get(url) {
            Some(known) => format!("what it said at {} counts", known.fetched.to_rfc3339()),
            None => "nothing is known of it, so that it makes no machinetypes".to_owned(),
        };
        warn!(
            "{still}vacuum pipe {why}; {meanwhile} until it can be fetched, which is tried again"
        );
    }

    /// Once in a life: forgets on disk what has long left the configuration.
    fn tidy(&mut self, wanted: &BTreeSet<Url>) {
        if std::mem::replace(&mut self.has_tidied, true) {
            return;
        }
        let now = self.clock.now();
        for (url, known) in self.known.iter() {
            if !wanted.contains(url)
                && now.since(known.fetched) > KEPT_UNUSED
                && let Err(problem) = self.store.forget_pipe(url.as_str())
            {
                warn!("{problem}; the next start tries again");
            }
        }
    }
}

/// What [`Repeats`] calls the trouble with one pipe.
fn subject(url: &Url) -> String {
    format!("fetch {url}")
}

fn unkept_subject(url: &Url) -> String {
    format!("keep {url}")
}

async fn fetch_and_keep(url: Url, outside: Outside, store: Arc<Store>) -> Done {
    let mut unkept = None;
    let outcome = match fetch::fetch(&url, &outside).await {
        Ok(fetch::Fetched { document, pipe }) => {
            let file = PipeFile {
                url: url.to_string(),
                fetched: outside.clock.now(),
                document,
            };
            let kept = blocking::run(move || store.keep_pipe(&file)).await;
            unkept = kept.err().map(|problem| problem.to_string());
            Ok(pipe)
        }
        Err(why) => Err(why),
    };
    Done {
        url,
        outcome,
        unkept,
    }
}
