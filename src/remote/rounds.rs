//! The questions of one space, pass by pass: asked side by side, waited for a little, and what
//! comes too late is taken over in the next pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::answer::{Answer, Trouble};
use super::client::{self, Kind, Made};
use super::{About, Question, questions};
use crate::blocking;
use crate::clock::Clock;
use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{
    Heartbeat, MachineName, MachinetypeName, RemoteServer, Seconds, ShutdownMessage, SpaceSnapshot,
    Timestamp,
};

/// Questions about machines of one machinetype that are under way at once.
pub const AT_ONCE: usize = 20;
/// How long a pass waits for answers of servers that have not kept it waiting before.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What one pass brings along to ask with.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// The space.
    pub config: &'a SpaceConfig,
    /// The time.
    pub clock: &'a Clock,
    /// Two passes that are further apart than this know nothing of the time between them.
    pub break_after: Seconds,
    /// When each server last answered in a former life of the daemon.
    pub on_file: BTreeMap<MachinetypeName, Timestamp>,
    /// How long to wait.
    pub patience: Duration,
}

/// What came of it, beside what is in the snapshot.
#[derive(Debug, Default)]
pub struct Found {
    /// Messages that are not on file yet, as they were read.
    pub messages: Vec<(MachineName, String)>,
    /// For each machinetype that was heard of: how it stands.
    pub servers: BTreeMap<MachinetypeName, Heard>,
}

/// What was heard of one server in one pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether it answered at all.
    pub answered: bool,
    /// The first trouble, by name of the machine.
    pub trouble: Option<(MachineName, Trouble)>,
}

/// What one space remembers of the servers that its machines write to.
#[derive(Debug, Default)]
pub struct Remotes {
    ca_path: PathBuf,
    servers: BTreeMap<MachinetypeName, Server>,
    asked: JoinSet<Asked>,
    under_way: BTreeMap<MachineName, (MachinetypeName, AbortHandle)>,
    /// Machines whose last question took longer than a pass waits.
    late: BTreeSet<MachineName>,
    /// Heartbeats that bear a time of the future: that time, and when it was first seen.
    future: BTreeMap<MachineName, (Timestamp, Timestamp)>,
    last_round: Option<Timestamp>,
}

#[derive(Debug)]
struct Server {
    /// The configuration that it was asked by.
    configured: (url::Url, Option<(PathBuf, PathBuf)>),
    made: Option<Made>,
    gate: Arc<Semaphore>,
    known: RemoteServer,
    /// Whether it answered when it was last asked.
    answers: bool,
    /// Whether a pass has waited for it in vain since it last answered.
    hangs: bool,
    /// Why its certificate cannot be used, while an older one is.
    outdated: Option<Trouble>,
}

type Questions = BTreeMap<MachineName, Question>;
type Results = BTreeMap<MachineName, Asked>;

/// What became of one question.
#[derive(Debug)]
struct Asked {
    question: Question,
    result: Result<Answer, Trouble>,
}

impl Remotes {
    /// The directory of the site's CAs.
    pub fn trust(&mut self, ca_path: &Path) {
        if self.ca_path != ca_path {
            ca_path.clone_into(&mut self.ca_path);
        }
    }

    /// Whether nothing has been asked yet in this life of the daemon.
    pub const fn are_new(&self) -> bool {
        self.last_round.is_none()
    }

    /// Whether any machine of the space writes elsewhere.
    pub fn are_used(config: &SpaceConfig) -> bool {
        let mut machinetypes = config.machinetypes.values();
        machinetypes.any(|configured| configured.remote_joboutputs_url.is_some())
    }

    /// Asks about all machines that write elsewhere, and puts what is known into the snapshot.
    pub async fn ask(&mut self, asking: &Asking<'_>, snapshot: &mut SpaceSnapshot) -> Found {
        let began = asking.clock.now();
        self.take_over(asking, snapshot, began);
        let questions = questions(asking.config, snapshot);
        let questions: Questions = questions
            .into_iter()
            .map(|question| (question.machine.clone(), question))
            .collect();
        let mut results = Results::new();
        self.collect(&mut results);
        self.begin(asking, &questions, &mut results).await;
        self.wait(asking.patience, &mut results).await;
        // The answer to an earlier question is none to this one.
        results.retain(|machine, asked| questions.get(machine) == Some(&asked.question));
        let now = asking.clock.now();
        let found = self.judge(&questions, &results, now);
        let messages = self.apply(&questions, results, snapshot, now);
        snapshot.remotes = self
            .servers
            .iter()
            .map(|(name, server)| (name.clone(), server.known))
            .collect();
        self.last_round = Some(began);
        Found {
            messages,
            servers: found,
        }
    }

    /// Follows the configuration, and the breaks in our own asking.
    fn take_over(&mut self, asking: &Asking<'_>, snapshot: &SpaceSnapshot, now: Timestamp) {
        let before = self.last_round.or(snapshot.previous_scan);
        let goes_on =
            before.is_some_and(|before| before <= now && now.since(before) <= asking.break_after);
        let wanted = |name: &MachinetypeName| {
            let configured = asking.config.machinetypes.get(name)?;
            origin(configured)
        };
        self.servers
            .retain(|name, server| wanted(name).as_ref() == Some(&server.configured));
        for (name, configured) in &asking.config.machinetypes {
            let Some(origin) = origin(configured) else {
                continue;
            };
            let is_first = self.last_round.is_none();
            let server = self.servers.entry(name.clone()).or_insert_with(|| {
                let on_file = asking.on_file.get(name).copied();
                Server::new(origin, on_file.filter(|_| is_first && goes_on), now)
            });
            if !goes_on {
                server.known.asked_since = Some(now);
                server.known.answering_since = None;
                server.answers = false;
            }
        }
        let machines: BTreeSet<_> = snapshot.machines.iter().map(|m| &m.files.name).collect();
        self.late.retain(|name| machines.contains(name));
        self.future.retain(|name, _| machines.contains(name));
    }

    /// Takes over what has been answered meanwhile.
    fn collect(&mut self, results: &mut Results) {
        while let Some(ended) = self.asked.try_join_next() {
            self.note(ended, results);
        }
        // A question that ended in a panic is asked again.
        self.under_way.retain(|_, (_, task)| !task.is_finished());
    }

    fn note(&mut self, ended: Result<Asked, tokio::task::JoinError>, results: &mut Results) {
        match ended {
            Ok(asked) => {
                let machine = asked.question.machine.clone();
                self.under_way.remove(&machine);
                if asked.result.is_ok() {
                    self.late.remove(&machine);
                }
                results.insert(machine, asked);
            }
            Err(failed) => {
                if failed.is_panic() {
                    tracing::error!(error = %failed, "a question to a remote server ended in an internal error");
                }
            }
        }
    }

    /// Begins with the questions that are neither answered nor under way.
    async fn begin(&mut self, asking: &Asking<'_>, questions: &Questions, results: &mut Results) {
        let mut clients = BTreeMap::new();
        for question in questions.values() {
            let machine = &question.machine;
            let is_answered = results.get(machine).map(|asked| &asked.question) == Some(question);
            let Some(server) = self.servers.get_mut(&question.machinetype) else {
                continue;
            };
            if is_answered || self.under_way.contains_key(machine) {
                continue;
            }
            let machinetype = question.machinetype.clone();
            if !clients.contains_key(&machinetype) {
                let client = server.client(&self.ca_path).await;
                clients.insert(machinetype.clone(), client);
            }
            let question = question.clone();
            match clients.get(&machinetype) {
                Some(Ok(client)) => {
                    let (client, gate) = (Arc::clone(client), Arc::clone(&server.gate));
                    let clock = asking.clock.clone();
                    let task = self.asked.spawn(async move {
                        let _permit = gate.acquire_owned().await;
                        let result = client::ask(&client, &question, &clock).await;
                        Asked { question, result }
                    });
                    self.under_way.insert(machine.clone(), (machinetype, task));
                }
                Some(Err(trouble)) => {
                    let result = Err(trouble.clone());
                    results.insert(machine.clone(), Asked { question, result });
                }
                None => {}
            }
        }
    }

    /// Waits for what may be answered soon.
    async fn wait(&mut self, patience: Duration, results: &mut Results) {
        let end = Instant::now() + patience;
        while self.is_worth_waiting() {
            match tokio::time::timeout_at(end, self.asked.join_next()).await {
                Ok(Some(ended)) => self.note(ended, results),
                Ok(None) | Err(_) => break,
            }
            self.under_way.retain(|_, (_, task)| !task.is_finished());
        }
        self.late.extend(self.under_way.keys().cloned());
        for (machinetype, _) in self.under_way.values() {
            if let Some(server) = self.servers.get_mut(machinetype) {
                server.hangs = true;
            }
        }
    }

    fn is_worth_waiting(&self) -> bool {
        self.under_way.iter().any(|(machine, (machinetype, _))| {
            let server = self.servers.get(machinetype);
            server.is_some_and(|server| !server.hangs) && !self.late.contains(machine)
        })
    }

    /// What each server has shown of itself.
    fn judge(
        &mut self,
        questions: &Questions,
        results: &Results,
        now: Timestamp,
    ) -> BTreeMap<MachinetypeName, Heard> {
        let mut heard: BTreeMap<MachinetypeName, Heard> = BTreeMap::new();
        for Asked { question, result } in results.values() {
            let heard = heard.entry(question.machinetype.clone()).or_default();
            match result {
                Ok(_) | Err(Trouble::Useless(_)) => heard.answered = true,
                Err(Trouble::Unreachable(_) | Trouble::Ours(_)) => {}
            }
            if let Err(trouble) = result {
                let machine = question.machine.clone();
                heard.trouble.get_or_insert((machine, trouble.clone()));
            }
        }
        let asked: BTreeSet<_> = questions.values().map(|q| &q.machinetype).collect();
        for (name, server) in &mut self.servers {
            server.note_round(heard.get(name), asked.contains(name), now);
            if let (Some(outdated), Some(heard)) = (&server.outdated, heard.get_mut(name))
                && let Some(machine) = questions.values().find(|q| q.machinetype == *name)
            {
                let machine = machine.machine.clone();
                heard.trouble.get_or_insert((machine, outdated.clone()));
            }
        }
        heard
    }

    /// Puts answers into the snapshot. Gives back the messages that are not on file yet.
    fn apply(
        &mut self,
        questions: &Questions,
        mut results: Results,
        snapshot: &mut SpaceSnapshot,
        now: Timestamp,
    ) -> Vec<(MachineName, String)> {
        let mut messages = Vec::new();
        for machine in &mut snapshot.machines {
            let name = &machine.files.name;
            let Some(question) = questions.get(name) else {
                continue;
            };
            let result = results.remove(name).map(|asked| asked.result);
            match (question.about, result) {
                (About::Heartbeat { .. }, Some(Ok(answer))) => {
                    machine.heartbeat = self.heartbeat(name, &answer, now);
                }
                (About::Heartbeat { .. }, None | Some(Err(_))) => {}
                (About::Message, Some(Ok(Answer::Message(text)))) => {
                    let said = ShutdownMessage::parse(&text);
                    if machine.shutdown_message.as_ref() != Some(&said) {
                        messages.push((name.clone(), text));
                    }
                    machine.shutdown_message = Some(said);
                }
                (About::Message, Some(Ok(_))) => {}
                (About::Message, None | Some(Err(_))) => machine.awaits_message = true,
            }
        }
        messages
    }

    fn heartbeat(&mut self, name: &MachineName, answer: &Answer, now: Timestamp) -> Heartbeat {
        match answer {
            Answer::Beat(at) => {
                self.future.remove(name);
                Heartbeat::At(*at)
            }
            Answer::FutureBeat(value) => {
                let seen = self.future.entry(name.clone()).or_insert((*value, now));
                if seen.0 != *value {
                    *seen = (*value, now);
                }
                Heartbeat::At(seen.1)
            }
            Answer::NoBeat => Heartbeat::Missing,
            Answer::Message(_) | Answer::NoMessage => Heartbeat::Unknown,
        }
    }
}

/// What a machinetype's server is known by.
fn origin(configured: &MachinetypeConfig) -> Option<(url::Url, Option<(PathBuf, PathBuf)>)> {
    let url = configured.remote_joboutputs_url.clone()?;
    Some((url, configured.remote_joboutputs_identity.clone()))
}

impl Server {
    /// A server that is asked for the first time; `on_file` is when it last answered, if it has
    /// been asked until now by a former life of the daemon.
    fn new(
        configured: (url::Url, Option<(PathBuf, PathBuf)>),
        on_file: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let on_file = on_file.filter(|answered| *answered <= now);
        Self {
            configured,
            made: None,
            gate: Arc::new(Semaphore::new(AT_ONCE)),
            known: RemoteServer {
                asked_since: Some(on_file.unwrap_or(now)),
                answered: on_file,
                answering_since: None,
            },
            answers: false,
            hangs: false,
            outdated: None,
        }
    }

    /// Takes over what a round has shown.
    fn note_round(&mut self, heard: Option<&Heard>, was_asked: bool, now: Timestamp) {
        let trouble = heard.and_then(|heard| heard.trouble.as_ref());
        let is_ours = matches!(trouble, Some((_, Trouble::Ours(_))));
        if heard.is_some_and(|heard| heard.answered) {
            if !self.answers || self.known.answering_since.is_none() {
                self.known.answering_since = Some(now);
            }
            self.known.answered = Some(now);
            self.answers = true;
            self.hangs = false;
        } else if is_ours || !was_asked {
            // Nobody could ask it: its silence means nothing.
            self.known.asked_since = Some(now);
            self.answers &= !was_asked;
        } else {
            self.answers = false;
        }
    }

    /// The client for it, made anew when its certificate or the CAs may have changed. While a new
    /// certificate cannot be read the old one goes on.
    async fn client(&mut self, ca_path: &Path) -> Result<Arc<reqwest::Client>, Trouble> {
        let (url, identity) = &self.configured;
        let kind = Kind::new(ca_path, identity.clone(), url);
        if let Some(made) = &self.made
            && made.is_good(&kind, !self.answers)
        {
            return Ok(made.client());
        }
        let made = blocking::run(move || Made::new(kind)).await;
        self.outdated = made.as_ref().err().cloned();
        match (made, &self.made) {
            (Ok(made), _) => Ok(self.made.insert(made).client()),
            (Err(_), Some(old)) => Ok(old.client()),
            (Err(trouble), None) => Err(trouble),
        }
    }
}
