//! What a cloud says of a machine, what its directory says, and the words for its states.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    CloudId, FactoryName, Hs06, MachineName, MachinetypeName, Processors, Shortage, SpaceName,
    Timestamp,
};

/// The state of a machine in our words. Each cloud module maps its own words to these
/// with an exhaustive match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// Asked for, not yet running.
    Starting,
    /// Running, as far as the cloud can see.
    Running,
    /// Stopped, paused, suspended or shelved: it will not do more work.
    Shutdown,
    /// The cloud is removing it.
    Deleting,
    /// The cloud gave up on it.
    Failed,
    /// Something else (rebooting, resizing, migrating, ...): counted and left alone.
    Unknown,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

/// One VM in the cloud's listing, ours or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloudMachine {
    /// The cloud's identifier.
    pub id: CloudId,
    /// The name, which for a VM that is not ours can be any text.
    pub name: String,
    /// The state in our words.
    pub state: MachineState,
    /// The state in the cloud's own words, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// When the cloud took the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When it began to run, if the cloud tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the cloud last changed it, if the cloud tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// Its processors, if the cloud tells or the flavor is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<Processors>,
    /// Its first address, for people and heartbeat lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The zone it was placed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The name of the key pair that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The identifier of the image that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The identifiers of the volumes that the cloud has made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Why it failed, in the cloud's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What there was too little of, if those words say that it failed for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortage: Option<Shortage>,
    /// The marks that its creator left on it: present when its metadata or tags name a space and
    /// a manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Marks>,
}

impl CloudMachine {
    /// Which machine this is by name, if it can be one of a factory's: the mark that its creator
    /// left counts before the name that it has now, for anybody in the project can rename a VM.
    pub fn machine_name(&self) -> Option<MachineName> {
        let marked = self.marks.as_ref().and_then(|marks| marks.name.as_deref());
        let marked = marked.and_then(|name| MachineName::new(name).ok());
        marked.or_else(|| MachineName::new(self.name.as_str()).ok())
    }
}

/// Who created a VM, by the metadata or tags on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The `space` mark, as found.
    pub space: String,
    /// The `manager` mark: the factory's host name, as found.
    pub manager: String,
    /// The `machinetype` mark, as found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machinetype: Option<String>,
    /// The `name` mark, as found: what its creator called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A flavor as the cloud describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flavor {
    /// The cloud's identifier of it, which a create request needs.
    pub id: String,
    /// The name that the configuration uses.
    pub name: String,
    /// Processors of one machine.
    pub processors: Processors,
    /// Memory in MiB, if told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Root disk in GB (10^9 bytes), if told and not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gb: Option<u64>,
}

/// The most that the cloud lets this tenancy have; `None` means no limit, or none told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudLimits {
    /// In machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<u32>,
    /// In processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
}

/// What a connection to a cloud tells before any machine is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudFacts {
    /// Quotas.
    #[serde(default)]
    pub limits: CloudLimits,
    /// All flavors that may be used.
    #[serde(default)]
    pub flavors: Vec<Flavor>,
}

impl CloudFacts {
    /// The flavor that the configuration calls `name`: by name, else by identifier.
    pub fn flavor(&self, name: &str) -> Option<&Flavor> {
        self.flavors
            .iter()
            .find(|flavor| flavor.name == name)
            .or_else(|| self.flavors.iter().find(|flavor| flavor.id == name))
    }
}

/// What the directory of a machine says. Read once at start; afterwards the daemon keeps
/// it in step with each file it writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineFiles {
    /// The machine, which is also the name of the directory.
    pub name: MachineName,
    /// `space_name`.
    pub space: SpaceName,
    /// `machinetype_name`.
    pub machinetype: MachinetypeName,
    /// `manager`: the factory that created it. Trees of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<FactoryName>,
    /// `uuid`: the cloud's identifier, once it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CloudId>,
    /// `created`: when the directory was made, just before the cloud was asked.
    pub created: Timestamp,
    /// `started`: when it began to run. Once written it is never moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// `updated`: the last time that it was known to run, written only when that is about to
    /// become uncertain (it vanished from a listing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// `stopped`: when it ended. Written first of all the files of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Timestamp>,
    /// `clock_set_back`: by how much the clock was set back between `started` and `stopped`. Written
    /// before `stopped`, and of no account without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_set_back: Option<super::Seconds>,
    /// `finished`: when everything that its end asks for (abort time, accounting record) was on
    /// disk. Stopped without finished means that this work has to be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// `deleted`: the last time that we asked the cloud to delete it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// `ended`: the first reason why we destroyed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Processors (`jobfeatures/allocated_cpu`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<Processors>,
    /// Power of the whole machine (`machinefeatures/hs06`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hs06: Option<Hs06>,
    /// Memory in bytes (`jobfeatures/max_rss_bytes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// `jobfeatures/shutdowntime_job`: the moment it has been told to be down by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdowntime: Option<Timestamp>,
    /// `jobfeatures/wall_limit_secs`: what max_wallclock_seconds was when it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_limit: Option<super::Seconds>,
    /// `fizzle_seconds` of its machinetype when it was created, for when that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fizzle: Option<super::Seconds>,
    /// `hepscore23_per_processor` of its machinetype when it was created, for when that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hepscore23_per_processor: Option<f64>,
    /// `accounting_fqan` of its machinetype when it was created, for when that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounting_fqan: Option<String>,
    /// `log_joboutputs`: whether its machinetype had that when it was created, for when that is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_joboutputs: bool,
    /// `logged`: when the copy of what it wrote was whole, for log_joboutputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<Timestamp>,
    /// `flavor`: the cloud's identifier of the flavor that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// `zone`: the zone that was asked for; once it runs, that in which it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// `volumes`: the identifiers of the volumes that the cloud made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

impl MachineFiles {
    /// When it began to run; of one that has ended, by the clock that says when that was.
    pub fn began(&self) -> Option<Timestamp> {
        let back = self.clock_set_back.filter(|_| self.stopped.is_some());
        Some(self.started?.earlier(back.unwrap_or_default()))
    }
}

/// Why we destroyed a machine, as far as later decisions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its heartbeat was missing or too old: this counts as an abort.
    Heartbeat,
    /// Anything else.
    Other,
}

impl Ended {
    /// The word in the `ended` file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Other => "other",
        }
    }

    /// Reads the word in the `ended` file; a word of a later version is `Other`.
    pub fn from_word(word: &str) -> Self {
        if word.trim() == Self::Heartbeat.word() {
            Self::Heartbeat
        } else {
            Self::Other
        }
    }
}

/// A shutdown message: `CODE text`. Only the code decides anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ShutdownMessage {
    code: Option<u16>,
    text: String,
}

impl ShutdownMessage {
    /// The longest message kept, in bytes; a VM may write what it likes.
    pub const MAX_BYTES: usize = 4096;

    /// Reads a message as a VM wrote it. Only its first line counts; a line that does not begin
    /// with a number from 100 to 999 has no code. Control characters become blanks, so that a
    /// message can be shown and logged.
    pub fn parse(raw: &str) -> Self {
        let line = raw.trim_start().lines().next().unwrap_or("");
        let mut text: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        while text.len() > Self::MAX_BYTES {
            text.pop();
        }
        let text = text.trim().to_owned();
        let code = text
            .split_whitespace()
            .next()
            .filter(|word| word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|word| word.parse().ok())
            .filter(|code| (100..=999).contains(code));
        Self { code, text }
    }

    /// The code, 100 to 999, if there is one.
    pub const fn code(&self) -> Option<u16> {
        self.code
    }

    /// The first line of the message.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<String> for ShutdownMessage {
    fn from(text: String) -> Self {
        Self::parse(&text)
    }
}

impl From<ShutdownMessage> for String {
    fn from(message: ShutdownMessage) -> Self {
        message.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_digits_at_the_start_are_a_code() {
        let cases = [
            ("300 Nothing to do\n", Some(300)),
            ("200", Some(200)),
            ("  700 Heartbeat\nmore", Some(700)),
            ("099 too low", None),
            ("1000 too high", None),
            ("30 short", None),
            ("+30 sign", None),
            ("Everything fine", None),
            ("", None),
            ("\u{1b}300 after a control character", Some(300)),
        ];
        for (raw, code) in cases {
            let message = ShutdownMessage::parse(raw);
            assert_eq!(message.code(), code, "{raw:?}");
            // A recorded situation holds the text, and must mean the same.
            assert_eq!(ShutdownMessage::parse(message.text()), message, "{raw:?}");
        }
    }

    #[test]
    fn a_hostile_message_can_be_logged() {
        let message = ShutdownMessage::parse(&format!("300 \x1b[2J{}\u{7}", "é".repeat(9000)));
        assert_eq!(message.code(), Some(300));
        assert!(message.text().len() <= ShutdownMessage::MAX_BYTES);
        assert!(!message.text().chars().any(char::is_control));
    }
}
