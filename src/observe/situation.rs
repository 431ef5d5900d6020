//! A situation in JSON: everything that a decision is made from, recorded by
//! `vcycled plan --dump-snapshot` or written by hand, replayed by `vcycled plan --snapshot`.
//!
//! The format is described in vcycled(8). What is not given has the value that a freshly started
//! daemon would find.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Memory, Volatile, join};
use crate::config::{self, Raw, SpaceConfig};
use crate::model::{
    CloudFacts, CloudId, CloudLimits, CloudMachine, Ended, FactoryName, Flavor, Heartbeat, History,
    Hs06, ImageState, MachineFiles, MachineName, MachinetypeName, Place, Processors, RemoteServer,
    Seconds, ShutdownMessage, SpaceName, SpaceSnapshot, Timestamp,
};
use crate::state::SHUTDOWN_MESSAGE;

/// Why a situation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SituationError {
    /// It is not the JSON that is expected.
    #[error("not a snapshot: {0}")]
    Json(#[from] serde_json::Error),
    /// Its configuration has errors.
    #[error("the configuration in it has errors:\n{0}")]
    Config(String),
    /// It names a space that its configuration does not have.
    #[error("its configuration has no space {0}")]
    NoSuchSpace(SpaceName),
    /// A machine's name does not say its machinetype and its directory does not either.
    #[error("directory {0}: machinetype_name is missing")]
    NoMachinetype(MachineName),
}

/// One space at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Situation {
    /// The space.
    pub space: SpaceName,
    /// When it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    /// The factory; VMs whose `manager` mark is another's are not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factory: Option<FactoryName>,
    /// The configuration: sections, options and their values.
    config: serde_json::Value,
    /// What the cloud says.
    #[serde(default)]
    cloud: CloudView,
    /// The machine directories.
    #[serde(default)]
    directories: BTreeMap<MachineName, Directory>,
    /// What is known of the machinetypes from before.
    #[serde(default)]
    machinetypes: BTreeMap<MachinetypeName, Past>,
    /// Where the cloud had no room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exhausted: Vec<Exhausted>,
    /// The complete scan before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_scan: Option<Timestamp>,
    /// Scans in a row, before this one, that listed none of our machines.
    #[serde(default)]
    empty_scans: u32,
    /// Since when machines can write heartbeats without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listening_since: Option<Timestamp>,
    /// What `vcycled shutdown` has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ordered_shutdown: Option<Timestamp>,
    /// The remote servers that machines write to, by machinetype.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    remotes: BTreeMap<MachinetypeName, RemoteServer>,
    /// The images of machinetypes whose root_image is a file or a URL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    images: BTreeMap<MachinetypeName, ImageState>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudView {
    #[serde(default)]
    limits: CloudLimits,
    #[serde(default)]
    flavors: Vec<Flavor>,
    #[serde(default)]
    machines: Vec<CloudMachine>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_abort_time: Option<Timestamp>,
    #[serde(default)]
    failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_failure: Option<Timestamp>,
}

/// A place without room, and when the cloud said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exhausted {
    flavor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    at: Timestamp,
}

/// The contents of one machine directory, by the names of its files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Directory {
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machinetype_name: Option<MachinetypeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manager: Option<FactoryName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uuid: Option<CloudId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock_set_back: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fizzle_seconds: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hepscore23_per_processor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accounting_fqan: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    log_joboutputs: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logged: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flavor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<String>,
    #[serde(default)]
    machinefeatures: Machinefeatures,
    #[serde(default)]
    jobfeatures: Jobfeatures,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    joboutputs: BTreeMap<String, JobOutput>,
    /// It has ended, and the remote server has not told what it may have said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    awaits_message: bool,
    /// It is missing from the list, and the cloud did not tell whether it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unconfirmed: bool,
    /// What is known only in the memory of a running daemon.
    #[serde(default)]
    memory: DaemonMemory,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Machinefeatures {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hs06: Option<Hs06>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Jobfeatures {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allocated_cpu: Option<Processors>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_rss_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shutdowntime_job: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wall_limit_secs: Option<Seconds>,
}

/// A file in joboutputs: its text, or the time when it was last written, or that a remote server
/// has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum JobOutput {
    Modified { modified: Timestamp },
    Remote { remote: RemoteFile },
    Text(String),
}

/// What a remote server says of a file that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RemoteFile {
    /// There is none.
    Missing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DaemonMemory {
    /// Complete scans in a row, before this one, that did not list it.
    #[serde(default)]
    missed_scans: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_running: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_running: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heard_since: Option<Timestamp>,
    #[serde(default)]
    delete_tries: u32,
}

impl Situation {
    /// Reads a situation.
    ///
    /// # Errors
    /// When the text is not the JSON that vcycled(8) describes.
    pub fn parse(text: &str) -> Result<Self, SituationError> {
        Ok(serde_json::from_str(text)?)
    }

    /// Writes it, for people to read and change.
    pub fn to_json(&self) -> String {
        // Every map in it has text for keys, so this cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The configuration of the space and the snapshot that decisions are made from.
    ///
    /// # Errors
    /// When the configuration in it has errors.
    pub fn into_snapshot(
        &self,
        context: &config::Context,
    ) -> Result<(SpaceConfig, SpaceSnapshot), SituationError> {
        let mut config = self.space_config(context)?;
        config.ordered_shutdown = self.ordered_shutdown;
        let memory = self.memory()?;
        let facts = CloudFacts {
            limits: self.cloud.limits,
            flavors: self.cloud.flavors.clone(),
        };
        let factory = self.factory.as_ref().unwrap_or(&context.hostname);
        let mut snapshot = join(
            &self.space,
            factory,
            facts,
            self.cloud.machines.clone(),
            &memory,
        );
        snapshot.listening_since = self.listening_since;
        snapshot.remotes.clone_from(&self.remotes);
        snapshot.images.clone_from(&self.images);
        for machine in &mut snapshot.machines {
            let outputs = self
                .directories
                .get(&machine.files.name)
                .map(|directory| &directory.joboutputs);
            let find = |file: &str| outputs.and_then(|outputs| outputs.get(file));
            let beat = beats(&config, &machine.files);
            machine.heartbeat = match beat.map(|(file, place)| (find(file), place)) {
                Some((Some(JobOutput::Modified { modified }), _)) => Heartbeat::At(*modified),
                Some((Some(JobOutput::Remote { remote }), _)) => match remote {
                    RemoteFile::Missing => Heartbeat::Missing,
                },
                Some((None | Some(JobOutput::Text(_)), Writes::Here)) => Heartbeat::Missing,
                Some((None | Some(JobOutput::Text(_)), Writes::Elsewhere)) | None => {
                    Heartbeat::Unknown
                }
            };
            if let Some(JobOutput::Text(text)) = find(SHUTDOWN_MESSAGE) {
                machine.shutdown_message = Some(ShutdownMessage::parse(text));
            }
            let directory = self.directories.get(&machine.files.name);
            machine.awaits_message = directory.is_some_and(|known| known.awaits_message);
            machine.unconfirmed = directory.is_some_and(|known| known.unconfirmed);
        }
        Ok((config, snapshot))
    }

    fn space_config(&self, context: &config::Context) -> Result<SpaceConfig, SituationError> {
        let lines = |problems: &[config::Problem]| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            SituationError::Config(lines.join("\n"))
        };
        let raw = Raw::from_json(&self.config)
            .map_err(|problem| SituationError::Config(problem.to_string()))?;
        let (config, problems) = config::interpret(&raw, context);
        let config = config.ok_or_else(|| lines(&problems))?;
        config
            .spaces
            .get(&self.space)
            .cloned()
            .ok_or_else(|| SituationError::NoSuchSpace(self.space.clone()))
    }

    fn memory(&self) -> Result<Memory, SituationError> {
        let mut memory = Memory {
            previous_scan: self.last_scan,
            empty_scans: self.empty_scans,
            ..Memory::default()
        };
        for Exhausted { flavor, zone, at } in self.exhausted.iter().cloned() {
            memory.exhausted.insert(Place { flavor, zone }, at);
        }
        for (name, past) in &self.machinetypes {
            let history = History {
                last_abort: past.last_abort_time,
                failures: past.failures,
                last_failure: past.last_failure,
            };
            memory.history.insert(name.clone(), history);
        }
        for (name, directory) in &self.directories {
            let files = directory.files(name, &self.space)?;
            let volatile = Volatile {
                missed_scans: directory.memory.missed_scans,
                first_running: directory.memory.first_running,
                last_running: directory.memory.last_running,
                heard_since: directory.memory.heard_since,
                delete_tries: directory.memory.delete_tries,
            };
            memory.machines.insert(name.clone(), files);
            memory.volatile.insert(name.clone(), volatile);
        }
        Ok(memory)
    }

    /// Records what has been found. Secrets of the configuration are hidden.
    pub fn record(
        raw: &Raw,
        factory: &FactoryName,
        (config, snapshot): (&SpaceConfig, &SpaceSnapshot),
        memory: &Memory,
        now: Timestamp,
    ) -> Self {
        Self {
            space: config.name.clone(),
            now: Some(now),
            factory: Some(factory.clone()),
            config: raw.only_space(&config.name).to_json(),
            cloud: CloudView {
                limits: snapshot.facts.limits,
                flavors: snapshot.facts.flavors.clone(),
                machines: listing(snapshot),
            },
            directories: snapshot
                .machines
                .iter()
                .map(|machine| {
                    let volatile = memory.volatile.get(&machine.files.name);
                    let beat = beats(config, &machine.files);
                    let directory =
                        Directory::of(machine, beat, volatile.copied().unwrap_or_default());
                    (machine.files.name.clone(), directory)
                })
                .collect(),
            machinetypes: memory
                .history
                .iter()
                .map(|(name, history)| {
                    let past = Past {
                        last_abort_time: history.last_abort,
                        failures: history.failures,
                        last_failure: history.last_failure,
                    };
                    (name.clone(), past)
                })
                .collect(),
            exhausted: memory
                .exhausted
                .iter()
                .map(|(place, at)| Exhausted {
                    flavor: place.flavor.clone(),
                    zone: place.zone.clone(),
                    at: *at,
                })
                .collect(),
            last_scan: memory.previous_scan,
            empty_scans: memory.empty_scans,
            listening_since: snapshot.listening_since,
            ordered_shutdown: config.ordered_shutdown,
            remotes: snapshot.remotes.clone(),
            images: snapshot.images.clone(),
        }
    }
}

/// Where a machine writes its heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Here,
    Elsewhere,
}

/// The file that is a machine's heartbeat, and where it is, if it has to write one.
fn beats<'a>(config: &'a SpaceConfig, files: &MachineFiles) -> Option<(&'a str, Writes)> {
    let configured = config.machinetypes.get(&files.machinetype)?;
    let place = match configured.remote_joboutputs_url {
        None => Writes::Here,
        Some(_) => Writes::Elsewhere,
    };
    Some((configured.heartbeat_file.as_deref()?, place))
}

/// The listing that a snapshot was joined from.
fn listing(snapshot: &SpaceSnapshot) -> Vec<CloudMachine> {
    let mut listing: Vec<_> = snapshot
        .machines
        .iter()
        .flat_map(|machine| &machine.listed)
        .chain(&snapshot.unfiled)
        .chain(&snapshot.foreign)
        .cloned()
        .collect();
    listing.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    listing
}

impl Directory {
    fn files(&self, name: &MachineName, space: &SpaceName) -> Result<MachineFiles, SituationError> {
        let machinetype = self
            .machinetype_name
            .clone()
            .or_else(|| name.machinetype())
            .ok_or_else(|| SituationError::NoMachinetype(name.clone()))?;
        Ok(MachineFiles {
            name: name.clone(),
            space: space.clone(),
            machinetype,
            manager: self.manager.clone(),
            id: self.uuid.clone(),
            created: self.created,
            started: self.started,
            updated: self.updated,
            stopped: self.stopped,
            clock_set_back: self.clock_set_back,
            finished: self.finished,
            deleted: self.deleted,
            ended: self.ended,
            processors: self.jobfeatures.allocated_cpu,
            hs06: self.machinefeatures.hs06,
            memory_bytes: self.jobfeatures.max_rss_bytes,
            shutdowntime: self.jobfeatures.shutdowntime_job,
            wall_limit: self.jobfeatures.wall_limit_secs,
            fizzle: self.fizzle_seconds,
            hepscore23_per_processor: self.hepscore23_per_processor,
            accounting_fqan: self.accounting_fqan.clone(),
            log_joboutputs: self.log_joboutputs,
            logged: self.logged,
            flavor: self.flavor.clone(),
            zone: self.zone.clone(),
            volumes: self.volumes.clone(),
        })
    }

    fn of(
        machine: &crate::model::Machine,
        beat: Option<(&str, Writes)>,
        volatile: Volatile,
    ) -> Self {
        let files = machine.files.clone();
        let mut joboutputs = BTreeMap::new();
        match (machine.heartbeat, beat) {
            (Heartbeat::At(modified), Some((file, _))) => {
                joboutputs.insert(file.to_owned(), JobOutput::Modified { modified });
            }
            // Here a file that is not there is one that is missing; elsewhere it has to be told.
            (Heartbeat::Missing, Some((file, Writes::Elsewhere))) => {
                let remote = RemoteFile::Missing;
                joboutputs.insert(file.to_owned(), JobOutput::Remote { remote });
            }
            (Heartbeat::Missing, Some((_, Writes::Here)) | None)
            | (Heartbeat::At(_), None)
            | (Heartbeat::Unknown, _) => {}
        }
        if let Some(message) = &machine.shutdown_message {
            let text = JobOutput::Text(message.text().to_owned());
            joboutputs.insert(SHUTDOWN_MESSAGE.to_owned(), text);
        }
        Self {
            created: files.created,
            machinetype_name: Some(files.machinetype),
            manager: files.manager,
            uuid: files.id,
            started: files.started,
            updated: files.updated,
            stopped: files.stopped,
            clock_set_back: files.clock_set_back,
            finished: files.finished,
            deleted: files.deleted,
            ended: files.ended,
            fizzle_seconds: files.fizzle,
            hepscore23_per_processor: files.hepscore23_per_processor,
            accounting_fqan: files.accounting_fqan,
            log_joboutputs: files.log_joboutputs,
            logged: files.logged,
            flavor: files.flavor,
            zone: files.zone,
            volumes: files.volumes,
            machinefeatures: Machinefeatures { hs06: files.hs06 },
            jobfeatures: Jobfeatures {
                allocated_cpu: files.processors,
                max_rss_bytes: files.memory_bytes,
                shutdowntime_job: files.shutdowntime,
                wall_limit_secs: files.wall_limit,
            },
            joboutputs,
            awaits_message: machine.awaits_message,
            unconfirmed: machine.unconfirmed,
            memory: DaemonMemory {
                missed_scans: volatile.missed_scans,
                first_running: volatile.first_running,
                last_running: volatile.last_running,
                heard_since: volatile.heard_since,
                delete_tries: volatile.delete_tries,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(option: &str) -> SpaceSnapshot {
        let text = format!(
            r#"{{"space": "s", "config": {{
                "space s": {{"api": "simulated", "max_machines": 1}},
                "machinetype s a": {{"target_share": 1, "backoff_seconds": 1, "fizzle_seconds": 1,
                    "flavor_name": "one", "root_image": "image:i", "user_data": "/u",
                    "heartbeat_file": "heartbeat", {option} "max_machines": 1}}}},
                "directories": {{"vcycle-a-aaaaaaaaaa": {{"created": 5}}}}}}"#
        );
        let context = config::Context {
            hostname: FactoryName::new("factory.example.org").unwrap(),
            state_dir: "/state".into(),
        };
        let situation = Situation::parse(&text).unwrap();
        situation.into_snapshot(&context).unwrap().1
    }

    #[test]
    fn silence_in_the_local_directory_means_nothing_where_machines_write_elsewhere() {
        let here = replayed("");
        assert_eq!(here.machines[0].heartbeat, Heartbeat::Missing);
        let elsewhere = replayed(r#""remote_joboutputs_url": "https://out.example.org/","#);
        assert_eq!(elsewhere.machines[0].heartbeat, Heartbeat::Unknown);
    }

    #[test]
    fn what_a_remote_server_says_comes_back() {
        let text = r#"{"space": "s", "config": {
            "space s": {"api": "simulated", "max_machines": 1},
            "machinetype s a": {"target_share": 1, "backoff_seconds": 1, "fizzle_seconds": 1,
                "flavor_name": "one", "root_image": "image:i", "user_data": "/u",
                "heartbeat_file": "beat", "remote_joboutputs_url": "https://out.example.org/"}},
            "directories": {
                "vcycle-a-aaaaaaaaaa": {"created": 5, "joboutputs": {"beat": {"modified": 7}}},
                "vcycle-a-bbbbbbbbbb": {"created": 5, "joboutputs": {"beat": {"remote": "missing"}}},
                "vcycle-a-cccccccccc": {"created": 5, "awaits_message": true}},
            "remotes": {"a": {"asked_since": 1, "answered": 2, "answering_since": 3}}}"#;
        let context = config::Context {
            hostname: FactoryName::new("factory.example.org").unwrap(),
            state_dir: "/state".into(),
        };
        let situation = Situation::parse(text).unwrap();
        let (config, snapshot) = situation.into_snapshot(&context).unwrap();
        let found: Vec<_> = snapshot
            .machines
            .iter()
            .map(|machine| (machine.heartbeat, machine.awaits_message))
            .collect();
        let expected = [
            (Heartbeat::At(Timestamp::from_unix(7)), false),
            (Heartbeat::Missing, false),
            (Heartbeat::Unknown, true),
        ];
        assert_eq!(found, expected);
        assert_eq!(snapshot.remotes.len(), 1);
        let raw = Raw::from_json(&situation.config).unwrap();
        let memory = situation.memory().unwrap();
        let now = Timestamp::from_unix(9);
        let factory = &context.hostname;
        let again = Situation::record(&raw, factory, (&config, &snapshot), &memory, now);
        let again = Situation::parse(&again.to_json()).unwrap();
        assert_eq!(again.into_snapshot(&context).unwrap().1, snapshot);
    }
}
