//! Root at the command line, beside a daemon that runs as a user of its own.
//!
//! The state directory belongs to that user. Files that root makes in it could not be changed by the
//! daemon; and what root can read the daemon perhaps cannot. So commands that write there, and
//! `check`, which has to say what the daemon will say, do their work as that user when root calls
//! them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Process;

use super::args::{ApelCommand, Arguments, Command};
use super::exit::{Exit, Failure};

/// What a command means for root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// It may go on: it only looks, or has nothing to do with the state directory.
    Stays,
    /// It goes on as the user who owns the state directory.
    Becomes,
    /// It has to be started as that user.
    MayNot,
}

/// What root may do with this command on a directory of somebody else's.
fn rule(arguments: &Arguments) -> Root {
    match &arguments.command {
        None | Some(Command::Run) => Root::MayNot,
        Some(
            Command::Shutdown(_)
            | Command::ApelSync(_)
            | Command::Apel(ApelCommand::Resend(_))
            | Command::Migrate(_),
        ) => Root::Becomes,
        // A file that is not in its place yet may be where only root can read it.
        Some(Command::Check(_)) if arguments.has_usual_sources() => Root::Becomes,
        Some(
            Command::Check(_)
            | Command::Plan(_)
            | Command::Status(_)
            | Command::Explain(_)
            | Command::Events(_)
            | Command::Health(_)
            | Command::Log(_)
            | Command::Apel(ApelCommand::List(_) | ApelCommand::Show(_))
            | Command::Demo(_)
            | Command::Completions(_),
        ) => Root::Stays,
    }
}

/// Goes on as the user who owns the state directory, where that is called for: then this process
/// becomes one of that user with the same arguments, and does not come back here.
///
/// # Errors
/// When it cannot, and when root may not do this at all.
pub(super) fn become_owner(arguments: &Arguments) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some((user, group)) = owner(&arguments.state_dir) else {
        return Ok(());
    };
    let dir = arguments.state_dir.display();
    match rule(arguments) {
        Root::Stays => Ok(()),
        Root::MayNot => Err(Failure::new(
            Exit::Usage,
            format!(
                "{dir} belongs to the user with the number {user}, and files that root makes there could not be changed by that user; not started. The service runs as that user: systemctl start vcycled"
            ),
        )),
        Root::Becomes => {
            let failed = |error| {
                Failure::new(
                    Exit::Io,
                    format!(
                        "cannot go on as the user with the number {user}, who owns {dir}: {error}"
                    ),
                )
            };
            let program = std::env::current_exe().map_err(failed)?;
            Err(failed(
                Process::new(program)
                    .arg0("vcycled")
                    .args(std::env::args_os().skip(1))
                    .uid(user)
                    .gid(group)
                    .exec(),
            ))
        }
    }
}

/// User and group of the directory, unless it is root's or not there.
fn owner(dir: &Path) -> Option<(u32, u32)> {
    let found = fs::metadata(dir).ok()?;
    (found.uid() != 0).then(|| (found.uid(), found.gid()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_writes_does_so_as_the_owner() {
        let cases = [
            ("vcycled", Root::MayNot),
            ("vcycled run --interval 5", Root::MayNot),
            ("vcycled shutdown --in 0", Root::Becomes),
            ("vcycled apel-sync", Root::Becomes),
            ("vcycled check", Root::Becomes),
            ("vcycled check --config ./new.conf", Root::Stays),
            ("vcycled check --config-dir /root/new", Root::Stays),
            ("vcycled plan", Root::Stays),
            ("vcycled demo", Root::Stays),
        ];
        for (line, expected) in cases {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(rule(&arguments), expected, "{line}");
        }
    }
}
