//! The messages: what is known of a space after a scan in, JSON objects out. Pure.
//!
//! A field without a value is left out. Powers, the load average and percentages are floats, even
//! when they are whole; times are Unix seconds and with all counts whole numbers; the rest is text.

use serde_json::{Map, Value};

use super::host::Host;
use crate::config::SpaceConfig;
use crate::decide::{Report, Running, Tally};
use crate::model::{
    CloudFacts, FactoryName, Heartbeat, Machine, MachineFiles, MachineName, MachineState,
    MachinetypeName, Processors, SpaceSnapshot, Timestamp,
};

/// The longest message. With the headers of UDP and IPv6 (48 bytes) it stays below 1,500, and
/// below what tunnels leave of that.
pub const LONGEST: usize = 1400;

/// What is given up first of a message that is too long. A part of a name would be another name,
/// so it goes whole; a message of a machine is still one when its end is missing.
const LEAST_NEEDED: [&str; 5] = [
    "os_issue",
    "kernel_version",
    "shutdown_machine",
    "shutdown_message",
    "fqan",
];

/// Who tells, and of which space.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The space.
    pub config: &'a SpaceConfig,
    /// This factory.
    pub factory: &'a FactoryName,
    /// When it is sent.
    pub now: Timestamp,
}

/// A machine that has finished.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// What its directory says.
    pub files: MachineFiles,
    /// When it began to run, if it did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub stopped: Timestamp,
    /// In which state the cloud last listed it.
    pub state: MachineState,
    /// Its shutdown message.
    pub message: Option<String>,
    /// When its heartbeat file was last written.
    pub heartbeat: Option<Timestamp>,
}

impl Ended {
    /// A machine of which the files say that it ended before, or a plan that it has ended now.
    pub fn of(machine: &Machine, end: Option<(Option<Timestamp>, Timestamp)>) -> Option<Self> {
        let files = &machine.files;
        let (started, stopped) = match end {
            Some(end) => end,
            None => (files.began(), files.stopped?),
        };
        let state = machine.vm().map(|vm| vm.state);
        let message = machine.shutdown_message.as_ref();
        Some(Self {
            files: files.clone(),
            started,
            stopped,
            // One that the cloud has forgotten is told as what it must have been.
            state: state.unwrap_or(match started {
                Some(_) => MachineState::Shutdown,
                None => MachineState::Failed,
            }),
            message: message.map(|message| message.text().to_owned()),
            heartbeat: match machine.heartbeat {
                Heartbeat::At(time) => Some(time),
                Heartbeat::Unknown | Heartbeat::Missing => None,
            },
        })
    }
}

/// The last machine of a kind that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEnd {
    /// Which.
    pub machine: MachineName,
    /// What it said.
    pub message: Option<String>,
    /// When.
    pub stopped: Timestamp,
}

/// Machines whose end was on file at `since` or later: what a daemon that died may not have told.
pub fn ended_since(snapshot: &SpaceSnapshot, since: Timestamp) -> Vec<Ended> {
    let machines = snapshot.machines.iter();
    machines
        .filter(|machine| machine.files.finished.is_some_and(|at| at >= since))
        .filter_map(|machine| Ended::of(machine, None))
        .collect()
}

/// One message while it is written.
struct Message(Map<String, Value>);

impl Message {
    fn new(kind: &str, about: &About<'_>) -> Self {
        let site = about.config.gocdb_sitename.as_deref();
        let mut message = Self(Map::new());
        message
            .text("message_type", kind)
            .text(
                "daemon_version",
                concat!("Vcycle ", env!("CARGO_PKG_VERSION"), " vcycled"),
            )
            .text("vacquery_version", "VacQuery 01.02")
            .text("cookie", "0")
            .text("space", about.config.name.as_str())
            .text("site", site.unwrap_or(about.config.name.as_str()))
            .text("factory", about.factory.as_str())
            .time("time_sent", Some(about.now));
        message
    }

    /// Text that is empty is none: a receiver in use ends at an empty fqan.
    fn text<'a>(&mut self, name: &str, value: impl Into<Option<&'a str>>) -> &mut Self {
        if let Some(value) = value.into().filter(|value| !value.trim().is_empty()) {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    fn whole(&mut self, name: &str, value: impl Into<Option<u64>>) -> &mut Self {
        if let Some(value) = value.into() {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    fn count(&mut self, name: &str, value: u32) -> &mut Self {
        self.whole(name, u64::from(value))
    }

    fn time(&mut self, name: &str, value: Option<Timestamp>) -> &mut Self {
        self.whole(name, value.map(Timestamp::unix))
    }

    fn float(&mut self, name: &str, value: Option<f64>) -> &mut Self {
        // What is not finite has no form in JSON.
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    /// The datagram; `None` when the names alone are too long for one.
    fn finish(mut self) -> Option<Vec<u8>> {
        for given_up in LEAST_NEEDED {
            let excess = self.length().saturating_sub(LONGEST);
            if excess == 0 {
                break;
            }
            let text = match self.0.remove(given_up) {
                Some(Value::String(text)) if given_up == "shutdown_message" => text,
                _ => continue,
            };
            self.text(given_up, without_end(&text, excess).trim_end());
        }
        let bytes = serde_json::to_vec(&self.0).unwrap_or_default();
        (bytes.len() <= LONGEST).then_some(bytes)
    }

    fn length(&self) -> usize {
        serde_json::to_vec(&self.0).map_or(0, |bytes| bytes.len())
    }
}

/// The text without so much of its end as takes at least so many bytes in JSON, where some
/// characters are written as six.
fn without_end(text: &str, excess: usize) -> &str {
    let mut cut = 0;
    for (at, character) in text.char_indices().rev() {
        if cut >= excess {
            let end = at + character.len_utf8();
            return text.get(..end).unwrap_or_default();
        }
        // With its quotes.
        let written = serde_json::to_string(&character).map_or(0, |json| json.len());
        cut += written.saturating_sub(2);
    }
    ""
}

/// The power of running machines, if all of it is known: a sum of some of them would be wrong.
fn power(running: &Running) -> Option<f64> {
    (running.without_power == 0).then_some(running.hs06)
}

/// The state of the factory as far as this space goes. `heard` is when machines could last be
/// heard by our own HTTPS server.
pub fn factory_status(
    about: &About<'_>,
    (report, tally): (&Report, &Tally),
    facts: &CloudFacts,
    host: &Host,
    heard: Option<Timestamp>,
) -> Option<Vec<u8>> {
    let space = &report.space;
    let has_power = about
        .config
        .machinetypes
        .values()
        .any(|machinetype| machinetype.power(Processors::ONE).is_some());
    let running_hs06 = power(&tally.all).filter(|_| has_power);
    let max_hs06 = max_hs06(about.config, report, facts);
    let mut message = Message::new("factory_status", about);
    message
        .count("running_processors", tally.all.processors.get())
        .count("running_machines", tally.all.machines)
        .float("running_hs06", running_hs06)
        .whole("max_processors", space.processors_limit.map(u64::from))
        .whole("max_machines", space.machines_limit.map(u64::from))
        .float(
            "max_hs06",
            max_hs06.map(|most| most.max(running_hs06.unwrap_or(0.0))),
        )
        .whole("root_disk_avail_kb", host.root.map(|room| room.kb))
        .whole("root_disk_avail_inodes", host.root.map(|room| room.inodes))
        .whole("daemon_disk_avail_kb", host.state.map(|room| room.kb))
        .whole(
            "daemon_disk_avail_inodes",
            host.state.map(|room| room.inodes),
        )
        .float("load_average", host.load_average)
        .text("kernel_version", host.kernel_version.as_str())
        .text("os_issue", host.os_issue.as_deref())
        .whole("boot_time", host.boot_time)
        .time("factory_heartbeat_time", Some(about.now))
        .time("mjf_heartbeat_time", heard)
        .whole("swap_used_kb", host.memory.map(|memory| memory.swap_used))
        .whole("swap_free_kb", host.memory.map(|memory| memory.swap_free))
        .whole("mem_used_kb", host.memory.map(|memory| memory.used))
        .whole("mem_total_kb", host.memory.map(|memory| memory.total));
    message.finish()
}

/// The power that the space has when it is full at its target shares. Shares are shares of power,
/// so that of one machinetype there are share / power machines, up to a factor that the limits
/// give. `None` when a limit or the power of a machinetype with a share is not known.
fn max_hs06(config: &SpaceConfig, report: &Report, facts: &CloudFacts) -> Option<f64> {
    let (mut shares, mut machines, mut processors) = (0.0, 0.0, 0.0);
    let wanted = config.machinetypes.values();
    for machinetype in wanted.filter(|one| one.target_share.get() > 0.0) {
        let mut flavors = machinetype.flavor_names.iter();
        let flavor = flavors.find_map(|name| facts.flavor(name));
        let size = flavor.map_or(machinetype.min_processors, |flavor| flavor.processors);
        let share = machinetype.target_share.get();
        let count = share / machinetype.power(size)?.get();
        shares += share;
        machines += count;
        processors += count * f64::from(size.get());
    }
    let full = |limit: Option<u32>, needed: f64| Some(f64::from(limit?) * shares / needed);
    let by_machines = full(report.space.machines_limit, machines);
    let by_processors = full(report.space.processors_limit, processors);
    let limits = by_machines.into_iter().chain(by_processors);
    limits.filter(|most| most.is_finite()).reduce(f64::min)
}

/// The state of one machinetype.
pub fn machinetype_status(
    about: &About<'_>,
    name: &MachinetypeName,
    running: &Running,
    facts: &CloudFacts,
    last: Option<&LastEnd>,
) -> Option<Vec<u8>> {
    let configured = about.config.machinetypes.get(name)?;
    let mut flavors = configured.flavor_names.iter();
    let flavor = flavors.find_map(|name| facts.flavor(name));
    // What the flavor tells of memory wins, as for the machines themselves.
    let of_flavor = flavor.and_then(|flavor| {
        let memory = flavor.memory_mb?.saturating_mul(1 << 20);
        memory.checked_div(u64::from(flavor.processors.get()))
    });
    let bytes = of_flavor.unwrap_or(configured.mb_per_processor.saturating_mul(1 << 20));
    let has_power = configured.power(Processors::ONE).is_some();
    let limit = |processors: Processors| u64::from(processors.get());
    let kinds = u32::try_from(about.config.machinetypes.len()).unwrap_or(u32::MAX);
    let mut message = Message::new("machinetype_status", about);
    message
        .count("num_machinetypes", kinds)
        .text("machinetype", name.as_str())
        .float("running_hs06", power(running).filter(|_| has_power))
        .count("running_machines", running.machines)
        .count("running_processors", running.processors.get())
        .count("num_before_fizzle", running.before_fizzle)
        .text(
            "shutdown_message",
            last.and_then(|last| last.message.as_deref()),
        )
        .time("shutdown_time", last.map(|last| last.stopped))
        .text("shutdown_machine", last.map(|last| last.machine.as_str()))
        .text("fqan", configured.accounting_fqan.as_deref())
        .whole("max_wallclock_seconds", configured.max_wallclock.get())
        .whole("min_processors", limit(configured.min_processors))
        .whole("max_processors", configured.max_processors.map(limit))
        .whole("bytes_per_processor", bytes);
    message.finish()
}

/// The end of one machine. Nobody tells us of its use of processors: as in its accounting record,
/// it is taken to have been busy all the time.
pub fn machine_status(about: &About<'_>, ended: &Ended) -> Option<Vec<u8>> {
    let files = &ended.files;
    let configured = about.config.machinetypes.get(&files.machinetype);
    let listed = configured.map(|configured| configured.min_processors);
    let processors = files.processors.or(listed).unwrap_or(Processors::ONE);
    let ran = ended.started.map(|started| ended.stopped.since(started));
    let hs06 = files
        .hs06
        .or(configured.and_then(|configured| configured.power(processors)));
    let fqan = match configured {
        Some(configured) => configured.accounting_fqan.as_deref(),
        None => files.accounting_fqan.as_deref(),
    };
    let state = ended.state.to_string();
    let mut message = Message::new("machine_status", about);
    message
        .count("num_machines", 1)
        .text("machine", files.name.as_str())
        .text("state", state.as_str())
        .text("uuid", files.id.as_ref().map(|id| id.as_str()))
        .time("created_time", Some(files.created))
        .time("started_time", ended.started)
        .time("heartbeat_time", ended.heartbeat)
        .count("num_processors", processors.get())
        .whole("cpu_seconds", ran.map(|ran| ran.get()))
        .float("cpu_percentage", ran.map(|_| 100.0))
        .float("hs06", hs06.map(f64::from))
        .text("machinetype", files.machinetype.as_str())
        .text("shutdown_message", ended.message.as_deref())
        .time("shutdown_time", Some(ended.stopped))
        .text("fqan", fqan);
    message.finish()
}

#[cfg(test)]
mod tests;
