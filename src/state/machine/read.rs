//! Reading machines' directories back.

use std::fs;
use std::io;
use std::path::Path;

use crate::model::{CloudId, Ended, Hs06, MachineFiles, MachineName, Processors, Seconds};
use crate::state::{
    Disk, IoContext, Published, StateError, Store, TimeFile, read_small, read_time, read_value,
};

/// All machine directories of a state directory.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Those that could be read.
    pub machines: Vec<MachineFiles>,
    /// What was wrong with the others; they are left as they are.
    pub unread: Vec<Unread>,
}

/// A machine's directory, or a file in it, that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct Unread {
    /// Whose it is.
    pub machine: MachineName,
    /// What happened.
    pub problem: StateError,
}

/// Threads that read directories side by side. More than there are processors, because after a
/// reboot each of them waits for the disk most of the time; not many more, because what a thread
/// has allocated stays apart in memory from what others have.
const READERS: usize = 4;
/// So many directories are read by one thread: more threads would take longer to start than to
/// read.
const FEW: usize = 64;

impl Store {
    /// Reads all machine directories, each once.
    ///
    /// # Errors
    /// When the directory of machines itself cannot be listed.
    pub fn load_machines(&self) -> Result<Loaded, StateError> {
        let mut names = self.machines_named_in(&self.layout.machines())?;
        names.sort();
        let read = |names: &[MachineName]| -> Vec<Result<MachineFiles, Unread>> {
            let names = names.iter().cloned();
            names
                .map(|machine| {
                    let dir = self.layout.machine(&machine);
                    load_directory(self.layout.disk(), &dir, machine.clone())
                        .map_err(|problem| Unread { machine, problem })
                })
                .collect()
        };
        let share = names.len().div_ceil(READERS).max(FEW);
        let results: Vec<_> = std::thread::scope(|scope| {
            let readers: Vec<_> = names
                .chunks(share)
                .map(|names| scope.spawn(|| read(names)))
                .collect();
            let joined = readers.into_iter().map(|reader| reader.join());
            joined
                .flat_map(|read| read.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut loaded = Loaded::default();
        for result in results {
            match result {
                Ok(machine) => loaded.machines.push(machine),
                Err(unread) => loaded.unread.push(unread),
            }
        }
        Ok(loaded)
    }

    /// The machines that something in a directory is named after, in no order.
    pub(in crate::state) fn machines_named_in(
        &self,
        dir: &Path,
    ) -> Result<Vec<MachineName>, StateError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("list", dir),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.context("list", dir)?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|text| MachineName::new(text).ok());
            names.extend(name);
        }
        Ok(names)
    }

    /// Reads the directory of one machine, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read or understood.
    pub fn load_machine(&self, name: &MachineName) -> Result<Option<MachineFiles>, StateError> {
        let dir = self.layout.machine(name);
        if !dir.exists() {
            return Ok(None);
        }
        load_directory(self.layout.disk(), &dir, name.clone()).map(Some)
    }
}

/// Reads the directory `dir` of a machine. What later versions or site scripts add is not looked
/// at.
pub(super) fn load_directory(
    disk: &Disk,
    dir: &Path,
    name: MachineName,
) -> Result<MachineFiles, StateError> {
    let features = dir.join(Published::Machinefeatures.dir_name());
    let job = dir.join(Published::Jobfeatures.dir_name());
    let time = |which: TimeFile| read_time(disk, &dir.join(which.file_name()));
    let word = |file: &str| {
        let text = read_small(disk, &dir.join(file))?;
        let text = text.map(|text| text.trim().to_owned());
        Ok::<_, StateError>(text.filter(|text| !text.is_empty()))
    };
    let required = |what: &'static str| StateError::Damaged {
        path: dir.join(what),
        what: "is missing; the machine is left alone".to_owned(),
    };
    Ok(MachineFiles {
        space: read_value(disk, &dir.join("space_name"), "a space name")?
            .ok_or_else(|| required("space_name"))?,
        machinetype: read_value(disk, &dir.join("machinetype_name"), "a machinetype name")?
            .ok_or_else(|| required("machinetype_name"))?,
        manager: read_value(disk, &dir.join("manager"), "a host name")?,
        id: word("uuid")?.or(word("instance_id")?).map(CloudId::new),
        created: time(TimeFile::Created)?.ok_or_else(|| required("created"))?,
        started: time(TimeFile::Started)?,
        updated: time(TimeFile::Updated)?,
        stopped: time(TimeFile::Stopped)?,
        clock_set_back: read_value(disk, &dir.join("clock_set_back"), "seconds")?.map(Seconds::new),
        finished: time(TimeFile::Finished)?,
        deleted: time(TimeFile::Deleted)?,
        ended: read_small(disk, &dir.join("ended"))?.map(|word| Ended::from_word(&word)),
        processors: read_value(disk, &job.join("allocated_cpu"), "a number of processors")?
            .map(Processors::new),
        hs06: read_value::<f64>(disk, &features.join("hs06"), "a number")?
            .and_then(|power| Hs06::new(power).ok()),
        memory_bytes: read_value(disk, &job.join("max_rss_bytes"), "a number of bytes")?,
        shutdowntime: read_time(disk, &job.join("shutdowntime_job"))?,
        wall_limit: read_value(disk, &job.join("wall_limit_secs"), "seconds")?.map(Seconds::new),
        fizzle: read_value(disk, &dir.join("fizzle_seconds"), "seconds")?.map(Seconds::new),
        hepscore23_per_processor: read_value(
            disk,
            &dir.join("hepscore23_per_processor"),
            "a number",
        )?
        .filter(|power: &f64| power.is_finite() && *power > 0.0),
        accounting_fqan: read_small(disk, &dir.join("accounting_fqan"))?,
        log_joboutputs: read_small(disk, &dir.join("log_joboutputs"))?
            .is_some_and(|word| word.trim() == "True"),
        logged: time(TimeFile::Logged)?,
        flavor: word("flavor")?,
        zone: word("zone")?,
        volumes: read_small(disk, &dir.join("volumes"))?
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        name,
    })
}
