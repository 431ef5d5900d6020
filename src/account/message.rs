//! Reads accounting messages from disk: ours, and those of older versions of Vcycle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::Timestamp;
use crate::state::StateError;

/// A record is a few hundred bytes; a file longer than this is something else.
const LONGEST_FILE: u64 = 1 << 20;
/// How an individual record begins, up to its version.
const INDIVIDUAL: &str = "APEL-individual-job-message: v";
/// How a count of records begins, up to its version.
const SYNC: &str = "APEL-sync-message: v";
/// Threads that read side by side: a disk that has to be waited for is waited for by all of them.
const READERS: usize = 4;

/// The fields of one block of a message, by name. One without a value is not there.
pub type Fields = BTreeMap<String, String>;

/// What identifies a record on an accounting server: one that comes again takes the place of the
/// one that is there.
///
/// The server of APEL keeps job records under the primary key (SiteID, LocalJobId, EndTime) and
/// writes them with `REPLACE INTO` (schemas/server.sql of apel/apel, ReplaceJobRecord).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `Site`.
    pub site: String,
    /// `LocalJobId`.
    pub local_job_id: String,
    /// `EndTime`, in Unix seconds.
    pub end: u64,
}

/// One block of an individual message that has what every record needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// What it is known by.
    pub key: Key,
    /// `SubmitHost`: the space, a slash, and the factory.
    pub submit_host: String,
    /// Everything that it says.
    pub fields: Fields,
}

impl JobRecord {
    /// The space of the machine.
    pub fn space(&self) -> &str {
        let host = self.submit_host.as_str();
        host.split_once('/').map_or(host, |(space, _)| space)
    }

    /// When the machine ended.
    pub const fn end(&self) -> Timestamp {
        Timestamp::from_unix(self.key.end)
    }

    /// A field, if the record has it.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field with a whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Records. Some versions put several into one file.
    Jobs(Vec<JobRecord>),
    /// A count of records, a block for each month and submit host.
    Sync(Vec<Fields>),
}

/// The entries of a directory; one that does not exist has none.
///
/// # Errors
/// When it cannot be listed.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, StateError> {
    let failed = |source| StateError::Io {
        action: "list",
        path: directory.to_owned(),
        source,
    };
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(failed)?.path()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// Whether `name` is so many decimal digits.
pub fn is_digits(name: &str, count: usize) -> bool {
    name.len() == count && name.bytes().all(|b| b.is_ascii_digit())
}

/// Reads many files side by side, each by `read`, in order.
pub fn read_all<T: Send>(
    files: &[PathBuf],
    read: impl Fn(&Path) -> Result<T, String> + Sync,
) -> Vec<(PathBuf, Result<T, String>)> {
    let share = files.len().div_ceil(READERS).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = files
            .chunks(share)
            .map(|files| scope.spawn(|| files.iter().map(|path| read(path)).collect::<Vec<_>>()))
            .collect();
        let joined = readers.into_iter().map(|reader| reader.join());
        let results =
            joined.flat_map(|read| read.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        files.iter().cloned().zip(results).collect()
    })
}

/// The text of a file.
///
/// # Errors
/// Why it cannot be a message, in the words that follow its name.
pub fn read_text(path: &Path) -> Result<String, String> {
    // A named pipe would be waited for, and a link may lead anywhere.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = opened.map_err(|error| format!("cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    if !is_file {
        return Err("is not a regular file".to_owned());
    }
    file.take(LONGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LONGEST_FILE) {
        return Err(format!("is longer than {LONGEST_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not text".to_owned())
}

/// What a text says, whatever kind of message it is.
///
/// # Errors
/// Why it is none, in the words that follow the name of its file.
pub fn parse(text: &str) -> Result<Message, String> {
    if text.starts_with(SYNC) {
        return blocks(text).map(Message::Sync);
    }
    parse_jobs(text).map(Message::Jobs)
}

/// The records of an individual message.
///
/// # Errors
/// Why it is none, in the words that follow the name of its file.
pub fn parse_jobs(text: &str) -> Result<Vec<JobRecord>, String> {
    if !text.starts_with(INDIVIDUAL) {
        return Err("does not begin with APEL-individual-job-message".to_owned());
    }
    blocks(text)?.into_iter().map(job).collect()
}

/// The blocks after the first line.
fn blocks(text: &str) -> Result<Vec<Fields>, String> {
    let mut found = Vec::new();
    let mut fields = Fields::new();
    let mut is_open = false;
    for line in text.lines().skip(1) {
        if line.trim_end() == "%%" {
            found.push(std::mem::take(&mut fields));
            is_open = false;
        } else if let Some((name, value)) = line.split_once(':') {
            is_open = true;
            if !value.trim().is_empty() {
                fields.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        } else if !line.trim().is_empty() {
            return Err(format!(
                "has a line that is no field: {:?}",
                shortened(line)
            ));
        }
    }
    if is_open || found.is_empty() {
        return Err("is cut off: its last line is not %%".to_owned());
    }
    Ok(found)
}

fn shortened(line: &str) -> String {
    line.chars().take(40).collect()
}

fn job(fields: Fields) -> Result<JobRecord, String> {
    let field = |name: &str| {
        let value = fields.get(name).cloned();
        value.ok_or_else(|| format!("has no {name}"))
    };
    let end = field("EndTime")?;
    Ok(JobRecord {
        key: Key {
            site: field("Site")?,
            local_job_id: field("LocalJobId")?,
            end: end
                .parse()
                .map_err(|_| format!("its EndTime is no Unix time: {:?}", shortened(&end)))?,
        },
        submit_host: field("SubmitHost")?,
        fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_message_is_told_from_the_others() {
        let sync = "APEL-sync-message: v0.1\nSite: A\nNumberOfJobs: 3\n%%\nSite: B\n%%\n";
        let Ok(Message::Sync(blocks)) = parse(sync) else {
            panic!("{:?}", parse(sync));
        };
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0]["NumberOfJobs"], "3");
        let jobs = "APEL-individual-job-message: v0.3\nSite: A\nSubmitHost: s.org/vcycle-f\n\
                    LocalJobId: 1\nFQAN:\nEndTime: 7\n%%\n";
        let Ok(Message::Jobs(records)) = parse(jobs) else {
            panic!("{:?}", parse(jobs));
        };
        assert_eq!(records[0].space(), "s.org");
        assert_eq!(records[0].end(), Timestamp::from_unix(7));
        assert_eq!(records[0].field("FQAN"), None, "no value, no field");
        assert_eq!(records[0].number("EndTime"), Some(7));
        parse("APEL-summary-job-message: v0.2\nSite: A\n%%\n").unwrap_err();
    }
}
