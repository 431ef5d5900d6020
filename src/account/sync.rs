//! How many records of a month there are, as an `APEL-sync-message` v0.1: by it the accounting
//! server finds out whether all of them have reached it.
//!
//! Records are counted from the archive, which holds them whether they have been sent or not. The
//! daemon may add to it meanwhile: a record appears whole, and nobody changes one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{Datelike, Days, Months, NaiveDate};

use super::message::{self, Key, is_digits, list};
use crate::model::{Seconds, Timestamp};
use crate::state::{Layout, StateError, failed};

/// Older versions named a directory by when a record was written, in the zone of the host, and not by
/// when its machine had ended: records of a month are looked for from the day before it until so many
/// days after it.
const DAYS_AFTER: Days = Days::new(7);
/// In so much of a month the one before is still counted: machines that ended at its end are found
/// out about later, and a server that is told no new count shows the old one as wrong.
const STILL_LAST_MONTH: Seconds = Seconds::new(7 * 86_400);
/// So many months, this one among them, are looked through for records that came late. After a
/// migration or a copy all directories are new, and it need not be the archive of years.
const LATEST_MONTHS: u32 = 13;

/// A month of a year, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    /// Its first day.
    first: NaiveDate,
}

impl Month {
    /// The month of a moment; `None` beyond the calendar.
    pub fn of(time: Timestamp) -> Option<Self> {
        let first = time.to_chrono()?.date_naive().with_day(1)?;
        Some(Self { first })
    }

    /// The months that a count at `now` is about when none is named: this one, in its first week the
    /// one before as well, and of the latest those with a directory that changed within a week: a
    /// daemon that was down for long writes records of the time before. `days` are the directories
    /// of the archive, and when each was last changed.
    pub fn due(now: Timestamp, days: &[(String, Timestamp)]) -> Vec<Self> {
        let new: Vec<&str> = days
            .iter()
            .filter(|(_, changed)| now.since(*changed) < STILL_LAST_MONTH)
            .map(|(name, _)| name.as_str())
            .collect();
        let latest = Self::of(now).into_iter().flat_map(Self::latest);
        let changed = latest.filter(|month| new.iter().any(|day| month.may_be_in(day)));
        let months: BTreeSet<Self> = [now.earlier(STILL_LAST_MONTH), now]
            .into_iter()
            .filter_map(Self::of)
            .chain(changed)
            .collect();
        months.into_iter().collect()
    }

    /// This month and those before it.
    fn latest(self) -> impl Iterator<Item = Self> {
        (0..LATEST_MONTHS).filter_map(move |count| {
            let first = self.first.checked_sub_months(Months::new(count))?;
            Some(Self { first })
        })
    }

    /// Whether a directory of the archive can hold its records.
    fn may_be_in(self, directory: &str) -> bool {
        self.directories()
            .is_some_and(|(first, last)| (first.as_str()..=last.as_str()).contains(&directory))
    }

    /// The directories that can hold its records, as `YYYYMMDD`: the first and the last.
    fn directories(self) -> Option<(String, String)> {
        let first = self.first.checked_sub_days(Days::new(1))?;
        let next = self.first.checked_add_months(Months::new(1))?;
        let last = next.checked_add_days(DAYS_AFTER)?;
        Some((name_of(first), name_of(last)))
    }
}

fn name_of(day: NaiveDate) -> String {
    day.format("%Y%m%d").to_string()
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit());
        let first = digits
            .then(|| NaiveDate::parse_from_str(&format!("{text}01"), "%Y%m%d").ok())
            .flatten();
        first
            .map(|first| Self { first })
            .ok_or_else(|| "expected a month as YYYYMM, such as 202611".to_owned())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}{:02}", self.first.year(), self.first.month())
    }
}

/// What one line of counting is about: the order is that of the blocks of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// `Site` of the records.
    pub site: String,
    /// `SubmitHost` of the records.
    pub submit_host: String,
    /// The month in which the machines ended.
    pub month: Month,
}

/// What has been counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Records, each machine once.
    pub records: BTreeMap<Group, u64>,
    /// Files that are no records, and why not.
    pub skipped: Vec<(PathBuf, String)>,
}

/// The directories of days in the archive, and when each was last changed: a record came into it.
///
/// # Errors
/// When the archive cannot be listed, or one of them cannot be looked at.
pub fn days(layout: &Layout) -> Result<Vec<(String, Timestamp)>, StateError> {
    let mut days = Vec::new();
    for path in list(&layout.apel_archive())? {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| is_digits(name, 8)) else {
            continue;
        };
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                let changed = found.modified().map_err(failed("look at", &path))?;
                days.push((name.to_owned(), Timestamp::from_system_time(changed)));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", &path)(error)),
        }
    }
    Ok(days)
}

/// Counts the records of machines that ended in these months.
///
/// # Errors
/// When a directory of the archive cannot be listed. An archive that does not exist is empty.
pub fn count(layout: &Layout, months: &[Month]) -> Result<Tally, StateError> {
    let mut tally = Tally::default();
    let files = files(layout, months)?;
    let read = message::read_all(&files, read);
    // A server keeps one record of each machine and end, however often it comes.
    let mut known = HashSet::new();
    for (path, records) in read {
        match records {
            Ok(records) => {
                for record in records {
                    tally.add(record, months, &mut known);
                }
            }
            Err(why) => tally.skipped.push((path, why)),
        }
    }
    Ok(tally)
}

impl Tally {
    fn add(&mut self, record: Counted, months: &[Month], known: &mut HashSet<Counted>) {
        let (key, submit_host) = &record;
        let month = Month::of(Timestamp::from_unix(key.end));
        let Some(month) = month.filter(|month| months.contains(month)) else {
            return;
        };
        let group = Group {
            site: key.site.clone(),
            submit_host: submit_host.clone(),
            month,
        };
        if known.insert(record) {
            *self.records.entry(group).or_default() += 1;
        }
    }
}

/// The files that may hold records of these months, in order.
fn files(layout: &Layout, months: &[Month]) -> Result<Vec<PathBuf>, StateError> {
    let archive = layout.apel_archive();
    let mut found = Vec::new();
    for day in list(&archive)? {
        let name = day.file_name().and_then(|name| name.to_str());
        let is_meant = |name: &str| months.iter().any(|month| month.may_be_in(name));
        if name.is_some_and(|name| is_digits(name, 8) && is_meant(name)) {
            found.extend(list(&day)?);
        }
    }
    found.sort();
    Ok(found)
}

/// What is counted of one record: what a server knows it by, and its submit host.
type Counted = (Key, String);

/// What a file is called does not matter: older versions now and then wrote names that were too
/// short, and such records are listed and sent again as well.
fn read(path: &Path) -> Result<Vec<Counted>, String> {
    let records = message::parse_jobs(&message::read_text(path)?)?.into_iter();
    Ok(records
        .map(|record| (record.key, record.submit_host))
        .collect())
}

/// The text of the message, a block for each group.
pub fn message<'a>(groups: impl IntoIterator<Item = (&'a Group, &'a u64)>) -> String {
    let mut text = String::from("APEL-sync-message: v0.1\n");
    for (group, count) in groups {
        let Group {
            site,
            submit_host,
            month: Month { first },
        } = group;
        text.push_str(&format!(
            "Site: {site}\nSubmitHost: {submit_host}\nNumberOfJobs: {count}\nMonth: {}\nYear: {}\n%%\n",
            first.month(),
            first.year()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::account::apel;
    use crate::decide::testing;

    const RECORD: &str = "APEL-individual-job-message: v0.3\nSite: A\nSubmitHost: s/h\n\
                          LocalJobId: 1\nEndTime: 1764547199\n%%\n";

    fn months(texts: &[&str]) -> Vec<Month> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn archive(files: &[(&str, &str)]) -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for (path, text) in files {
            let path = layout.apel_archive().join(path);
            let directory = path.parent().unwrap();
            layout.disk().create_dir_all(directory).unwrap();
            let bytes = text.as_bytes();
            layout.disk().create_synced(&path, bytes, 0o644).unwrap();
        }
        (dir, layout)
    }

    #[test]
    fn a_month_is_six_digits() {
        for bad in ["2026-11", "202613", "202600", "20261", "2026111", "+20261"] {
            bad.parse::<Month>().unwrap_err();
        }
        assert_eq!(months(&["202611"])[0].to_string(), "202611");
    }

    #[test]
    fn the_month_before_is_due_for_a_week() {
        let due = |text| {
            let now = Timestamp::parse_iso8601(text).unwrap();
            let due: Vec<String> = Month::due(now, &[]).iter().map(Month::to_string).collect();
            due.join(" ")
        };
        assert_eq!(due("2026-01-01T00:00:00Z"), "202512 202601");
        assert_eq!(due("2026-01-07T23:59:59Z"), "202512 202601");
        assert_eq!(due("2026-01-08T00:00:00Z"), "202601");
        assert_eq!(due("2026-01-31T23:59:59Z"), "202601");
    }

    #[test]
    fn a_month_that_records_came_into_late_is_due_for_a_week() {
        let at = |text: &str| Timestamp::parse_iso8601(text).unwrap();
        let due = |now: &str, day: &str, changed: &str| {
            let days = [(day.to_owned(), at(changed))];
            let due = Month::due(at(now), &days);
            let due: Vec<String> = due.iter().map(Month::to_string).collect();
            due.join(" ")
        };
        let late = "2026-12-09T11:00:00Z";
        for (now, day, expected) in [
            (late, "20261130", "202611 202612"),
            ("2026-12-16T10:59:59Z", "20261130", "202611 202612"),
            ("2026-12-16T11:00:00Z", "20261130", "202612"),
            // By the local time of an older version it can be of either month.
            (late, "20261031", "202610 202611 202612"),
            (late, "20261108", "202610 202611 202612"),
            (late, "20261109", "202611 202612"),
            // The clock has been set back since.
            ("2026-12-08T11:00:00Z", "20261130", "202611 202612"),
            (late, "20251215", "202512 202612"),
            (late, "20251115", "202612"),
        ] {
            assert_eq!(due(now, day, late), expected, "{day} at {now}");
        }
    }

    #[test]
    fn days_are_told_with_their_times_and_nothing_else_is() {
        let (_dir, layout) = archive(&[
            ("20251130/23595900000001", RECORD),
            ("notes/20251130", RECORD),
        ]);
        let file = layout.apel_archive().join("20251201");
        layout.disk().create_synced(&file, b"", 0o644).unwrap();
        let time = Timestamp::from_unix(1_764_547_199);
        let day = fs::File::open(layout.apel_archive().join("20251130")).unwrap();
        day.set_modified(time.to_system_time()).unwrap();
        assert_eq!(days(&layout).unwrap(), [("20251130".to_owned(), time)]);
        let (_dir, nothing) = archive(&[]);
        assert_eq!(days(&nothing).unwrap(), []);
    }

    #[test]
    fn a_record_counts_in_the_month_of_its_end_and_once() {
        // 2025-11-30T23:59:59Z, and a second later.
        let next = RECORD.replace("1764547199", "1764547200");
        let other = RECORD.replace("s/h", "t/h").replace("%%", "%%  ");
        // 2025-11-01T02:00:00Z.
        let early = RECORD.replace("1764547199", "1761962400");
        let several = format!(
            "{RECORD}{}",
            RECORD
                .replace("LocalJobId: 1", "LocalJobId: 2")
                .replace("APEL-individual-job-message: v0.3\n", "")
        );
        let (_dir, layout) = archive(&[
            ("20251130/23595900000001", RECORD),
            // Written late, by a version that names directories by that.
            ("20251202/00000100000001", &several),
            // So too, west of Greenwich.
            ("20251031/22000000000001", &early),
            ("20251201/00000000000001", &next),
            ("20251130/23595900000002", &other),
        ]);
        let tally = count(&layout, &months(&["202511"])).unwrap();
        assert_eq!(tally.skipped, []);
        assert_eq!(
            message(&tally.records),
            "APEL-sync-message: v0.1\n\
             Site: A\nSubmitHost: s/h\nNumberOfJobs: 3\nMonth: 11\nYear: 2025\n%%\n\
             Site: A\nSubmitHost: t/h\nNumberOfJobs: 1\nMonth: 11\nYear: 2025\n%%\n"
        );
        let both = count(&layout, &months(&["202511", "202512"])).unwrap();
        assert_eq!(both.records.values().sum::<u64>(), 5);
        assert!(
            count(&layout, &months(&["202510"]))
                .unwrap()
                .records
                .is_empty()
        );
    }

    #[test]
    fn a_record_counts_whatever_its_file_is_called() {
        let other = RECORD.replace("LocalJobId: 1", "LocalJobId: 2");
        let (_dir, layout) = archive(&[
            ("20251130/23595900000001", RECORD),
            ("20251130/23595900000001.old", RECORD),
            ("20251201/0102035812", &other),
            ("20251201/notes.txt", "do not delete"),
        ]);
        let tally = count(&layout, &months(&["202511"])).unwrap();
        assert_eq!(tally.records.values().sum::<u64>(), 2);
        assert_eq!(tally.skipped.len(), 1, "{:?}", tally.skipped);
        let (path, why) = &tally.skipped[0];
        assert!(path.ends_with("20251201/notes.txt"), "{path:?}");
        assert!(why.contains("does not begin"), "{why}");
    }

    #[test]
    fn what_is_no_record_is_told_with_its_reason() {
        for (text, why) in [
            ("", "does not begin"),
            ("APEL-sync-message: v0.1\nSite: A\n%%\n", "does not begin"),
            (RECORD.trim_end_matches("%%\n"), "is cut off"),
            (&RECORD[..40], "is cut off"),
            ("APEL-individual-job-message: v0.3\n", "is cut off"),
            ("APEL-individual-job-message: v0.3\n%%\n", "has no EndTime"),
            (&RECORD.replace("Site: A", "Site:"), "has no Site"),
            (&RECORD.replace("SubmitHost", "x"), "has no SubmitHost"),
            (&RECORD.replace("LocalJobId", "x"), "has no LocalJobId"),
            (
                &RECORD.replace("1764547199", "noon"),
                "EndTime is no Unix time",
            ),
            (
                &RECORD.replace("EndTime: 1764547199", "junk"),
                "is no field: \"junk\"",
            ),
        ] {
            let found = message::parse_jobs(text).unwrap_err();
            assert!(found.contains(why), "{found}, not {why}");
        }
        assert_eq!(message::parse_jobs(RECORD).unwrap().len(), 1);
    }

    #[test]
    fn what_the_daemon_archives_is_counted() {
        let space = testing::space("max_machines = 1");
        let mut files = testing::files("vcycle-a-aaaaaaaaaa", 1000);
        // Text for people from outside goes into one line of a record.
        files.accounting_fqan = Some("/vo: x\n%%\nSite: y".to_owned());
        let factory = crate::model::FactoryName::new("f.example.org").unwrap();
        let end = Timestamp::from_unix(1_764_547_199);
        let times = (Timestamp::from_unix(1_764_500_000), end);
        let text = apel::record(&space, None, &files, &factory, times).to_message();
        let records = message::parse_jobs(&text).unwrap();
        assert_eq!(records.len(), 1);
        let expected = Key {
            site: "example.org".to_owned(),
            local_job_id: "vcycle-a-aaaaaaaaaa".to_owned(),
            end: end.unix(),
        };
        assert_eq!(records[0].key, expected);
        assert_eq!(records[0].submit_host, "example.org/vcycle-f.example.org");
    }

    proptest! {
        #[test]
        fn damage_of_any_kind_is_survived(
            text in any::<String>(), cut in 0usize..200, junk in "[\\PC:\n%]{0,40}"
        ) {
            let _any = message::parse(&text);
            let cut = RECORD.len().min(cut);
            let damaged = format!("{}{junk}{}", &RECORD[..cut], &RECORD[cut..]);
            for record in message::parse_jobs(&damaged).unwrap_or_default() {
                prop_assert!(!record.key.site.is_empty() && !record.submit_host.is_empty());
            }
        }
    }
}
