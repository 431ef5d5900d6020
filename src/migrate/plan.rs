//! What has to be written so that our daemon goes on with a machine of the old one. Pure.

use super::Around;
use super::tree::{Kind, Old};
use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{FactoryName, MachinetypeName, Seconds, SpaceName, Timestamp};

/// One thing that is done in a machine's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file gets this text.
    Write(&'static str, String),
    /// A file is removed.
    Remove(&'static str),
    /// user_data may be read by its owner only.
    Hide,
    /// The machine gets a directory to write to.
    Joboutputs,
}

/// Whether the end of a machine is accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// It has not ended, as far as the old daemon knew: ours writes its record.
    Open,
    /// The old daemon has written its record.
    Written,
    /// It ran too short, or never, and has none.
    None,
    /// It ended, and its record is not there: ours writes it.
    Missing,
    /// It ended before the archive begins; the old daemon wrote the record when it saw the end.
    Archived,
}

/// What is done with a machine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its space.
    pub space: SpaceName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// In this order.
    pub changes: Vec<Change>,
    /// Whether its record is written.
    pub accounting: Accounting,
    /// What the admin should know.
    pub notes: Vec<String>,
}

/// Decides about one machine.
///
/// # Errors
/// Why it is left as it is.
pub fn plan(old: &Old, around: &Around<'_>) -> Result<Plan, String> {
    let (space, machinetype) = whose(old)?;
    let manager = manager(old, around.factory)?;
    let config = around.config.spaces.get(&space);
    let configured = config.and_then(|config| config.machinetypes.get(&machinetype));
    let mut draft = Draft {
        old,
        changes: Vec::new(),
        notes: Vec::new(),
    };
    let created = draft.created(configured);
    let id = draft.identifier(around);
    draft.features(configured, created, id.as_deref());
    draft.machinetype(configured);
    let accounting = draft.end(around, configured, id.as_deref());
    // The moment at which ours is no moment that the cloud told: it would count as "missing since".
    if old.files.contains_key("updated") && accounting == Accounting::Open {
        draft.changes.push(Change::Remove("updated"));
    }
    draft.damaged("deleted");
    if old.user_data_mode.is_some_and(|mode| mode & 0o077 != 0) {
        draft.changes.push(Change::Hide);
    }
    if old.joboutputs.is_none() {
        draft.changes.push(Change::Joboutputs);
    }
    draft.warn(around, config, configured);
    // This is what a directory of ours is known by.
    draft.write("manager", manager.as_str());
    Ok(Plan {
        space,
        machinetype,
        changes: draft.changes,
        accounting,
        notes: draft.notes,
    })
}

fn whose(old: &Old) -> Result<(SpaceName, MachinetypeName), String> {
    if old.files.contains_key("vmtype_name") && !old.files.contains_key("machinetype_name") {
        return Err("was made by a version before 0.6; wait until it has ended".to_owned());
    }
    let name = |file: &str| old.text(file).ok_or_else(|| format!("has no {file}"));
    let space = SpaceName::new(name("space_name")?).map_err(|why| why.to_string())?;
    let kind = MachinetypeName::new(name("machinetype_name")?).map_err(|why| why.to_string())?;
    Ok((space, kind))
}

/// Who looks after it: in 03 several factories may have shared the tree.
fn manager(old: &Old, factory: &FactoryName) -> Result<FactoryName, String> {
    match (old.kind, old.text("manager")) {
        (Kind::Flat, None) => Ok(factory.clone()),
        (_, Some(manager)) if manager == factory.as_str() => Ok(factory.clone()),
        (_, Some(other)) => Err(format!(
            "is looked after by {other}, and this is {factory}; --factory {other} says otherwise"
        )),
        (Kind::Shared, None) => Err("has no manager: the old daemon had left it alone".to_owned()),
    }
}

struct Draft<'a> {
    old: &'a Old,
    changes: Vec<Change>,
    notes: Vec<String>,
}

impl Draft<'_> {
    /// Writes a file unless it says so already.
    fn write(&mut self, file: &'static str, text: impl ToString) {
        let text = text.to_string();
        if self.old.files.get(file) != Some(&text) {
            self.changes.push(Change::Write(file, text));
        }
    }

    /// Writes a file unless it has a number.
    fn fill(&mut self, file: &'static str, number: Option<u64>) {
        match (self.old.number(file), number) {
            (Some(_), _) => {}
            (None, Some(number)) => self.write(file, number),
            (None, None) => self.damaged(file),
        }
    }

    /// Removes a file that should be a number and is none: our daemon would refuse the directory.
    fn damaged(&mut self, file: &'static str) {
        if self.old.files.contains_key(file) && self.old.number(file).is_none() {
            self.changes.push(Change::Remove(file));
        }
    }

    fn shutdowntime(&self) -> Option<u64> {
        let names = [
            "jobfeatures/shutdowntime_job",
            "machinefeatures/shutdowntime",
            "machinefeatures/shutdown_time",
            "jobfeatures/shutdown_time_job",
        ];
        names.iter().find_map(|file| self.old.number(file))
    }

    /// When it was created: 0.8 may not have said so.
    fn created(&mut self, configured: Option<&MachinetypeConfig>) -> Timestamp {
        if let Some(created) = self.old.time("created") {
            return created;
        }
        let life = self.old.number("jobfeatures/wall_limit_secs");
        let life = life.or(configured.map(|configured| configured.max_wallclock.get()));
        let told = self.shutdowntime().zip(life);
        let told = told.map(|(end, life)| Timestamp::from_unix(end.saturating_sub(life)));
        let mut created = told.unwrap_or(self.old.oldest);
        if let Some(started) = self.old.time("started") {
            created = created.min(started);
        }
        self.write("created", created);
        created
    }

    /// The cloud's identifier. 03 wrote it into jobstart_secs by mistake.
    fn identifier(&mut self, around: &Around<'_>) -> Option<String> {
        let old = self.old;
        let known = old.text("uuid").or_else(|| old.text("instance_id"));
        let slipped = || {
            let text = old.text("jobfeatures/jobstart_secs")?;
            let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let is_number = text.parse::<u64>().is_ok();
            (!is_number && text.contains('-') && text.chars().all(is_id)).then_some(text)
        };
        let record = around.records.of(old.name.as_str(), None);
        let recorded = || Some(record?.key.local_job_id.as_str());
        let id = known.or_else(slipped).or_else(recorded)?.to_owned();
        self.write("uuid", &id);
        Some(id)
    }

    /// The keys of Machine/Job Features that ours has always, and those that it reads.
    fn features(
        &mut self,
        configured: Option<&MachinetypeConfig>,
        created: Timestamp,
        id: Option<&str>,
    ) {
        let old = self.old;
        let life = configured.map(|configured| configured.max_wallclock);
        self.fill("jobfeatures/wall_limit_secs", life.map(Seconds::get));
        let end = self.shutdowntime();
        let end = end.or(life.map(|life| (created + life).unix()));
        self.fill("machinefeatures/shutdowntime", end);
        self.fill("jobfeatures/shutdowntime_job", end);
        let began = old.time("started").unwrap_or(created);
        self.fill("jobfeatures/jobstart_secs", Some(began.unix()));
        let processors = [
            "jobfeatures/allocated_CPU",
            "machinefeatures/total_cpu",
            "machinefeatures/log_cores",
            "machinefeatures/phys_cores",
        ];
        let processors = processors.iter().find_map(|file| old.number(file));
        let processors = processors.filter(|count| *count > 0);
        self.fill("jobfeatures/allocated_cpu", processors);
        self.damaged("jobfeatures/max_rss_bytes");
        let power = |file| {
            old.text(file)?
                .parse::<f64>()
                .ok()
                .filter(|power| *power > 0.0)
        };
        if power("machinefeatures/hs06").is_none() {
            match power("jobfeatures/hs06_job") {
                Some(power) => self.write("machinefeatures/hs06", power),
                None if old.files.contains_key("machinefeatures/hs06") => {
                    self.changes.push(Change::Remove("machinefeatures/hs06"));
                }
                None => {}
            }
        }
        if let Some(id) = id {
            self.write("jobfeatures/job_id", id);
        }
    }

    /// What the old daemon asked its configuration for, and ours asks the directory for.
    fn machinetype(&mut self, configured: Option<&MachinetypeConfig>) {
        let Some(configured) = configured else {
            return;
        };
        if let Some(dn) = &configured.x509dn {
            self.write("https_x509dn", dn);
        }
        self.write("fizzle_seconds", configured.fizzle);
        if let Some(fqan) = &configured.accounting_fqan {
            self.write("accounting_fqan", fqan);
        }
        if configured.log_joboutputs {
            self.write("log_joboutputs", "True");
        }
    }

    /// Marks an end as finished that the old daemon has dealt with: it wrote the time of an abort,
    /// and the record, in the step in which it wrote `stopped`.
    fn end(
        &mut self,
        around: &Around<'_>,
        configured: Option<&MachinetypeConfig>,
        id: Option<&str>,
    ) -> Accounting {
        self.damaged("started");
        let Some(stopped) = self.old.time("stopped") else {
            self.damaged("stopped");
            return Accounting::Open;
        };
        let ran = self.old.time("started").map(|at| stopped.since(at));
        let short = ran.is_none_or(|ran| configured.is_some_and(|known| ran < known.fizzle));
        let recorded = around.records.of(self.old.name.as_str(), id).is_some();
        let accounting = if recorded {
            Accounting::Written
        } else if short {
            Accounting::None
        } else if around.records.reach_back_to(stopped) {
            Accounting::Missing
        } else {
            Accounting::Archived
        };
        if accounting == Accounting::Missing {
            self.notes.push(
                "it ended and its record is not in the archive: the daemon writes it".to_owned(),
            );
        } else if self.old.time("finished").is_none() {
            self.write("finished", around.now);
        }
        if self.old.files.contains_key("updated") {
            self.changes.push(Change::Remove("updated"));
        }
        accounting
    }

    /// What the first cycle would do to it that the old daemon would not have done.
    fn warn(
        &mut self,
        around: &Around<'_>,
        config: Option<&SpaceConfig>,
        configured: Option<&MachinetypeConfig>,
    ) {
        let (old, now) = (self.old, around.now);
        let Some(configured) = configured else {
            self.notes.push(match config {
                None => "its space is not configured: it is left alone on the cloud".to_owned(),
                Some(_) => "its machinetype is not configured: it runs until it ends by itself or \
                            passes its shutdowntime"
                    .to_owned(),
            });
            return;
        };
        let (Some(started), None) = (old.time("started"), old.time("stopped")) else {
            return;
        };
        if now > started + configured.max_wallclock {
            self.notes
                .push("it has run for longer than max_wallclock_seconds".to_owned());
        }
        let Some(file) = &configured.heartbeat_file else {
            return;
        };
        if configured.remote_joboutputs_url.is_some() && old.kind == Kind::Shared {
            self.notes.push(
                "the configuration has a remote_joboutputs_url, which 03 did not look at: the daemon \
                 would look for its heartbeat there, not find it and destroy it; remove the option \
                 until it has ended"
                    .to_owned(),
            );
        }
        let is_missing = !old.joboutputs.iter().any(|written| written.contains(file));
        let is_local = configured.remote_joboutputs_url.is_none();
        if is_local && is_missing && now > started + configured.fizzle {
            self.notes.push(format!(
                "it has written no {file}, its heartbeat_file, for which the daemon will destroy it; \
                 without heartbeat_seconds some versions did not look"
            ));
        }
    }
}
