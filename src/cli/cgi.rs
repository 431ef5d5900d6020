//! `vcycle-cgi`: the same program, called by another web server for one request.
//!
//! It runs as the user of that server, who cannot read our configuration, so what it has to know
//! comes in variables that the configuration of the web server sets.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use crate::server::Limits;
use crate::server::cgi::{self, Settings, Variables};
use crate::state::layout::DEFAULT_ROOT;
use crate::telemetry;

/// What the program is called when it is this one.
const NAME: &str = "vcycle-cgi";

/// Whether that is how we were called.
pub(super) fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// Answers the one request that there is.
pub(super) fn run() -> Result<(), Failure> {
    let variables: Variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let filter = variables.get("VCYCLE_LOG").map(String::as_str);
    telemetry::start(filter, true, telemetry::Format::Text);
    let settings = settings(&variables)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Io, format!("cannot begin: {error}")))?;
    let (input, output) = (io::stdin(), io::stdout().lock());
    runtime
        .block_on(cgi::answer(&settings, &variables, input, output))
        .map_err(|error| {
            let exit = match error {
                cgi::CgiError::Variable(_) => Exit::Usage,
                cgi::CgiError::Request(_) => Exit::Data,
                cgi::CgiError::Write(_) => Exit::Io,
            };
            Failure::new(exit, format!("{error}; see vcycle-cgi(8)"))
        })
}

fn settings(variables: &Variables) -> Result<Settings, Failure> {
    let path = |name: &str, default: &str| {
        PathBuf::from(variables.get(name).map_or(default, String::as_str))
    };
    let bytes = |name: &str, default: u64| match variables.get(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| {
            Failure::new(
                Exit::Usage,
                format!("{name}={text}: expected a number of bytes"),
            )
        }),
    };
    Ok(Settings {
        state_dir: path("VCYCLE_STATE_DIR", DEFAULT_ROOT),
        ca_path: path("VCYCLE_CA_PATH", "/etc/grid-security/certificates"),
        limits: Limits {
            file: bytes("VCYCLE_JOBOUTPUTS_MAX_BYTES", 100 << 20)?,
            machine: bytes("VCYCLE_JOBOUTPUTS_MAX_BYTES_PER_MACHINE", 1 << 30)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        for (name, expected) in [
            ("vcycle-cgi", true),
            ("/usr/lib/vcycle/vcycle-cgi", true),
            ("vcycled", false),
            ("/x/vcycle-cgi/vcycled", false),
            ("", false),
        ] {
            assert_eq!(is_called(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_set_is_as_in_the_manual() {
        let set = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let all: Variables = pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            settings(&all)
        };
        let usual = set(&[]).unwrap();
        assert_eq!(usual.state_dir, Path::new("/var/lib/vcycle"));
        assert_eq!(usual.limits.file, 104_857_600);
        assert_eq!(usual.limits.machine, 1_073_741_824);
        let small = set(&[("VCYCLE_JOBOUTPUTS_MAX_BYTES", "5")]).unwrap();
        assert_eq!(small.limits.file, 5);
        assert!(set(&[("VCYCLE_JOBOUTPUTS_MAX_BYTES", "5M")]).is_err());
    }
}
