//! Whether the old daemon is still at work.

use std::fs;
use std::path::Path;

/// Where the old daemon writes its process number.
pub const PID_FILE: &str = "/var/run/vcycled.pid";

/// The number of a process that is the old daemon, by its file or, where that may be stale, by what
/// runs on this host.
pub fn old_daemon(pid_file: Option<&Path>, all_processes: bool) -> Option<u32> {
    let filed = pid_file
        .and_then(|path| fs::read_to_string(path).ok())
        .and_then(|text| text.trim().parse::<u32>().ok())
        .filter(|pid| is_vcycled(&arguments(*pid)));
    filed.or_else(|| all_processes.then(of_python).flatten())
}

/// The arguments of a process; none for one that is not there.
fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split('\0').map(str::to_owned).collect()
}

fn base(argument: &str) -> &str {
    argument.rsplit('/').next().unwrap_or(argument)
}

/// Whether a program of that name runs, by itself or in an interpreter. The number may have become
/// that of something else.
fn is_vcycled(arguments: &[String]) -> bool {
    let mut first = arguments.iter().take(3);
    first.any(|argument| base(argument) == "vcycled")
}

/// A Python that runs `vcycled`, which ours is not.
fn of_python() -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    let mut numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.find(|pid| {
        let arguments = arguments(*pid);
        let program = arguments.first().map(|program| base(program));
        program.is_some_and(|program| program.starts_with("python"))
            && is_vcycled(arguments.get(1..).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_what_it_runs() {
        let is = |line: &[&str]| {
            let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            is_vcycled(&line)
        };
        assert!(is(&["/usr/bin/python", "/usr/sbin/vcycled"]));
        assert!(is(&["/usr/bin/python2.7", "-u", "/usr/sbin/vcycled", ""]));
        assert!(is(&["vcycled", ""]));
        assert!(!is(&["vi", "-R", "-n", "/usr/sbin/vcycled"]));
        assert!(!is(&["/bin/sh", "-c", "tail /var/log/vcycled.log"]));
    }

    #[test]
    fn a_number_that_is_stale_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        assert_eq!(old_daemon(Some(&file), false), None);
        // This test program is no vcycled.
        let disk = crate::state::Disk::default();
        let number = std::process::id().to_string();
        disk.create_synced(&file, number.as_bytes(), 0o644).unwrap();
        assert_eq!(old_daemon(Some(&file), false), None);
    }
}
