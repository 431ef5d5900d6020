//! Accounting records as they are on the disk, and what must hold of those that are sent.

use std::collections::BTreeMap;
use std::path::Path;

use crate::plan::Configuration;

/// One accounting record.
#[derive(Clone, Debug)]
pub struct Record {
    day: String,
    name: String,
    text: String,
    space: String,
    pub job: String,
    pub start: u64,
    pub end: u64,
}

impl Record {
    /// Where it is, below the directory of all.
    pub fn path(&self) -> String {
        format!("{}/{}", self.day, self.name)
    }
}

/// All records below a directory.
///
/// # Errors
/// When something there is none, or not a whole one.
pub fn records(directory: &Path) -> Result<Vec<Record>, String> {
    let mut found = Vec::new();
    let Ok(days) = std::fs::read_dir(directory) else {
        return Ok(found);
    };
    for day in days {
        let day = day.unwrap();
        for file in std::fs::read_dir(day.path()).unwrap() {
            let file = file.unwrap();
            let text = std::fs::read_to_string(file.path()).unwrap();
            let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().unwrap();
            found.push(record(name(&day), name(&file), text)?);
        }
    }
    Ok(found)
}

fn record(day: String, name: String, text: String) -> Result<Record, String> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(name, value)| (name == key).then(|| value.to_owned()))
    };
    let number = |key: &str| value(key).and_then(|text| text.parse().ok());
    let host = value("SubmitHost").unwrap_or_default();
    let (Some((space, _)), Some(job), Some(start), Some(end)) = (
        host.split_once('/'),
        value("LocalJobId"),
        number("StartTime"),
        number("EndTime"),
    ) else {
        return Err(format!("{day}/{name} is no record: {text:?}"));
    };
    if !text.ends_with("%%\n") {
        return Err(format!("{day}/{name} is cut off: {text:?}"));
    }
    Ok(Record {
        space: space.to_owned(),
        day,
        name,
        job,
        start,
        end,
        text,
    })
}

/// What waits to be sent is what is archived of the spaces that send their records, under the same
/// names, and nothing else. Nobody takes anything out of the queue here.
///
/// # Errors
/// With the first record that is in one place only, or differs.
pub fn sent_as_archived(
    configuration: &Configuration,
    archived: &[Record],
    outgoing: &[Record],
) -> Result<(), String> {
    let sends = |space: &str| {
        let mut spaces = configuration.spaces.iter();
        spaces.any(|configured| configured.name == space && configured.sends_records)
    };
    let mut waiting: BTreeMap<String, &Record> = outgoing
        .iter()
        .map(|record| (record.path(), record))
        .collect();
    for record in archived.iter().filter(|record| sends(&record.space)) {
        match waiting.remove(&record.path()) {
            None => return Err(format!("{record:?} is archived and not sent")),
            Some(sent) if sent.text != record.text => {
                return Err(format!("{record:?} is archived, and {sent:?} is sent"));
            }
            Some(_) => {}
        }
    }
    match waiting.values().next() {
        Some(record) => Err(format!("{record:?} is sent, which nobody asked for")),
        None => Ok(()),
    }
}
