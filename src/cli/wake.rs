//! Asking the daemon that has a state directory for a cycle now, by SIGHUP.
//!
//! Which process that is the kernel tells: whoever holds the lock on the directory. A file with
//! its number could be out of date.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::state::Layout;

/// The name of the program, as the kernel has it.
const PROGRAM: &str = "vcycled";

/// Asks for a cycle, and says in a line for people what comes of it.
pub fn daemon(layout: &Layout) -> String {
    let lock = match fs::metadata(layout.lock()) {
        Ok(lock) => lock,
        Err(_) => return NOT_RUNNING.to_owned(),
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let asked: Vec<_> = holders(&locks, lock.ino())
        .filter_map(|holder| hang_up(holder).map(|sent| (holder, sent)))
        .collect();
    match asked.first() {
        None => NOT_RUNNING.to_owned(),
        Some((holder, Ok(()))) => format!("the daemon (process {holder}) looks at it now"),
        Some((holder, Err(problem))) => format!(
            "the daemon (process {holder}) looks at it at the beginning of its next cycle; it could not be asked for one now: {problem}"
        ),
    }
}

const NOT_RUNNING: &str =
    "no daemon was found on this state directory; it counts as soon as one runs";

/// The processes that hold a lock on a file with this inode number. The number of the file system
/// is not compared, because some report another one here than to whoever looks at the file; the
/// name of the program is looked at instead, and a cycle more does no harm.
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = i32> {
    locks.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        let is_flock = words.nth(1) == Some("FLOCK");
        let process = words.nth(2)?.parse().ok()?;
        let found = words.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
        (is_flock && found == inode).then_some(process)
    })
}

/// Sends the signal to a process if it is a daemon of ours; `None` if it is not. The process is
/// held meanwhile, so that it cannot end and another one get its number.
fn hang_up(process: i32) -> Option<rustix::io::Result<()>> {
    let held = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    (name.trim_end() == PROGRAM).then(|| pidfd_send_signal(&held, Signal::HUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_the_inode_of_the_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 fe:00:1234 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 99 fe:00:12345 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 98 fe:00:1234 0 EOF\n\
                     junk\n5: FLOCK\n";
        assert_eq!(holders(locks, 1234).collect::<Vec<_>>(), [4242]);
        assert_eq!(holders("", 1234).count(), 0);
    }

    #[test]
    fn nobody_else_is_sent_a_signal() {
        // This test is no daemon; a signal would end it.
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(hang_up(me).is_none());
    }
}
