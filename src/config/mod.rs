//! From files to typed, checked values.
//!
//! `sources` finds the files, `ini` reads their syntax, `raw` merges them, `options` is the table of
//! all options, `value` knows the types of values, `read` takes options from a section and gathers
//! every problem, `sections` says how sections belong together, and `space`, `machinetype` and
//! `server` say what comes out. What vacuum pipes say is one more input: `pipe` reads such a
//! document, and `piped` puts it into the merged sections, to be read as everything there.
//!
//! 1. A [`Config`] that exists is valid; nothing downstream checks an option again.
//! 2. All problems come out at once (up to a bound), each with file and line; no input makes any of
//!    this panic.
//! 3. No problem, and nothing that [`Raw`] prints, holds a secret.
//!
//! 4. Nothing that a vacuum pipe says makes a configuration unusable: a machinetype of a pipe with
//!    something wrong in it is left out, with one warning.
//!
//! It reads the configuration's own files and no others: that the files which options name exist is
//! seen where they are used, at the time when they are used. Nor does it fetch anything: what is
//! known of vacuum pipes is handed to it.

mod ini;
pub mod machinetype;
pub mod options;
pub mod pipe;
mod piped;
mod problem;
mod raw;
mod read;
mod sections;
pub mod server;
mod sources;
pub mod space;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use machinetype::{ImageSource, MachinetypeConfig, UserDataSource};
pub use pipe::Pipes;
pub use problem::{Origin, Problem, Severity};
pub use raw::{HIDDEN, NotAConfiguration, Raw};
pub use server::{ServerConfig, is_hashed_ca};
pub use space::{
    Api, Benchmark, Ec2Options, OpenStackCredentials, OpenStackOptions, SimulatedOptions,
    SpaceConfig,
};

use crate::model::{FactoryName, SpaceName};
use read::Findings;

/// A complete, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// All spaces.
    pub spaces: BTreeMap<SpaceName, SpaceConfig>,
    /// The HTTPS server and the admin endpoint.
    pub server: ServerConfig,
    /// The addresses of all vacuum pipes, whose machinetypes are among those of the spaces as soon
    /// as something is known of them.
    pub pipes: BTreeSet<url::Url>,
}

/// Where the files of a configuration are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The file that is read last, `/etc/vcycle.conf`. It may be missing if the directory is there.
    pub conf: PathBuf,
    /// The directory whose `*.conf` are read before, by name, `/etc/vcycle.d`. It may be missing if
    /// the file is there.
    pub dir: PathBuf,
}

/// What the configuration takes from around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The factory's host name, which is the default of `https_host`.
    pub hostname: FactoryName,
    /// The root of the state directory, below which relative file names are.
    pub state_dir: PathBuf,
}

/// Everything that came out of the files.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The merged files, as far as they could be read.
    pub raw: Raw,
    /// The configuration, unless a problem is an error.
    pub config: Option<Config>,
    /// All problems, by file and line.
    pub problems: Vec<Problem>,
}

/// The most problems that are told; a file with more is not a configuration, whatever its name.
const MOST_PROBLEMS: usize = 1000;

/// Reads all files and makes a configuration of them, knowing nothing of vacuum pipes. Blocks on
/// the file system.
pub fn load(sources: &Sources, context: &Context) -> Loaded {
    load_with(sources, context, &Pipes::default())
}

/// Reads all files and makes a configuration of them and of what is known of vacuum pipes. Blocks
/// on the file system.
pub fn load_with(sources: &Sources, context: &Context, pipes: &Pipes) -> Loaded {
    let (files, mut problems) = sources::read_all(sources);
    let mut raw = Raw::default();
    for (file, bytes) in files {
        let (sections, syntax) = ini::parse(&file, &bytes);
        raw.merge(sections);
        problems.extend(syntax);
    }
    let findings = Findings::default();
    piped::expand(&mut raw, pipes, &findings);
    let (config, more) = judge(&raw, context, findings);
    // A file that cannot be read is the reason why nothing is there; that is said already.
    if problems.is_empty() || !raw.sections.is_empty() {
        problems.extend(more);
    }
    let (config, problems) = conclude(config, problems);
    Loaded {
        raw,
        config,
        problems,
    }
}

/// Makes a configuration of merged sections; `None` if a problem is an error.
pub fn interpret(raw: &Raw, context: &Context) -> (Option<Config>, Vec<Problem>) {
    let (config, problems) = judge(raw, context, Findings::default());
    conclude(config, problems)
}

fn judge(raw: &Raw, context: &Context, findings: Findings) -> (Option<Config>, Vec<Problem>) {
    if !raw.sections.keys().any(|name| name.starts_with("space ")) {
        let what = "there is no space in the configuration";
        let help = "add a section [space NAME]".to_owned();
        findings.add(Problem::error(what).with_help(Some(help)));
    }
    let config = sections::read(raw, context, &findings);
    (config, findings.into_problems())
}

/// Withholds a configuration with errors, and puts the problems in order: by file and line, and
/// errors before warnings where there are too many to tell.
fn conclude(config: Option<Config>, mut problems: Vec<Problem>) -> (Option<Config>, Vec<Problem>) {
    let usable = !problems.iter().any(Problem::is_error);
    let untold = problems.len().saturating_sub(MOST_PROBLEMS);
    let place = |problem: &Problem| {
        let (file, pipe) = (problem.file.clone(), problem.pipe.clone());
        (file, pipe, problem.line.or(problem.entry))
    };
    if untold > 0 {
        problems.sort_by_cached_key(|problem| (!problem.is_error(), place(problem)));
        problems.truncate(MOST_PROBLEMS);
    }
    problems.sort_by_cached_key(place);
    if untold > 0 {
        let what = format!("there are {untold} more problems, which are not listed");
        problems.push(Problem::warning(what));
    }
    (config.filter(|_| usable), problems)
}
