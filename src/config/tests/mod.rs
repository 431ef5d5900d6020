//! Whole configurations, read from text: what comes out, and what is said.

mod options;
mod problems;
mod shown;

use std::path::Path;
use std::sync::Arc;

use super::*;

/// A space and a machinetype with nothing but what is required.
pub(super) const SMALL: &str = "\
[space example.org]
api = openstack
url = https://keystone.example.org:5000/v3
tenancy_name = vcycle
username = robot
password_base64 = aHVudGVyMg==

[machinetype example.org atlas]
flavor_name = m1.small
backoff_seconds = 600
fizzle_seconds = 900
root_image = image:cernvm4
user_data = user_data
";

pub(super) fn raw(files: &[(&str, &str)]) -> (Raw, Vec<Problem>) {
    let mut raw = Raw::default();
    let mut problems = Vec::new();
    for (name, text) in files {
        let file: Arc<Path> = Path::new(name).into();
        let (sections, more) = ini::parse(&file, text.as_bytes());
        raw.merge(sections);
        problems.extend(more);
    }
    (raw, problems)
}

pub(super) fn context() -> Context {
    Context {
        hostname: FactoryName::new("factory.example.org").unwrap(),
        state_dir: "/state".into(),
    }
}

fn read(text: &str) -> (Option<Config>, Vec<String>) {
    let (raw, syntax) = raw(&[("/c", text)]);
    assert_eq!(syntax, [], "{text}");
    let (config, problems) = interpret(&raw, &context());
    let usable = !problems.iter().any(Problem::is_error);
    assert_eq!(config.is_some(), usable);
    (
        config,
        problems
            .iter()
            .map(|problem| format!("{problem:#}"))
            .collect(),
    )
}

/// The configuration of a text without any problem.
fn good(text: &str) -> Config {
    let (config, problems) = read(text);
    assert_eq!(problems, [""; 0]);
    config.unwrap()
}

fn the_space(config: &Config) -> &SpaceConfig {
    config.spaces.first_key_value().unwrap().1
}

fn the_machinetype(config: &Config) -> &MachinetypeConfig {
    the_space(config).machinetypes.first_key_value().unwrap().1
}

/// The small configuration with these lines more in its space.
fn with_space(lines: &str) -> String {
    SMALL.replace("\n[mach", &format!("{lines}\n\n[mach"))
}

/// The small configuration with these lines more in its machinetype.
fn with_machinetype(lines: &str) -> String {
    format!("{SMALL}{lines}\n")
}

/// The one problem of a text, without its place.
fn the_problem(text: &str) -> String {
    let (_, problems) = read(text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let (_, what) = problems[0].split_once("] ").unwrap();
    what.to_owned()
}
