//! The documents of vacuum pipes: from any bytes to a configuration, which nothing in them may
//! spoil, and which they may give no more than what pipes may say.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use vcycle::config::pipe::{ACCEPTED, Known, MAX_BYTES, Pipe, Pipes};
use vcycle::config::{ImageSource, Loaded, MachinetypeConfig, Sources, UserDataSource, load_with};
use vcycle::model::Timestamp;

use super::bytes::{Text, changes, mutate};
use super::json::{form, render, restructure, structure};
use super::{Cost, cases, fuzz};
use crate::config_examples::context;
use crate::daemon::factory::Factory;

/// Local sections around the pipe, which are in order.
const SITE: &str = "\
[space a.org]
api = simulated
[machinetype a.org own]
user_data = /u
backoff_seconds = 1
fizzle_seconds = 1
[vacuum_pipe a.org vo]
vacuum_pipe_url = https://x.org/p
target_share = 3
flavor_name = small
user_data_option_local = mine
[machinetype a.org vo-b]
max_processors = 4
accounting_fqan = /b
";

/// Where the files of the pipe's machinetypes are.
const FILES: &str = "/var/lib/vcycle/spaces/a.org/machinetypes/vo/files";

fn everything(suffix: &str) -> Value {
    json!({
        "suffix": suffix, "target_share": 1, "backoff_seconds": 600, "fizzle_seconds": "900",
        "root_image": "https://x.org/a.iso", "user_data": "https://x.org/u", "machine_model": "cernvm3",
        "accounting_fqan": "/vo", "cache_seconds": 1, "cvmfs_repositories": "a b",
        "heartbeat_file": "beat", "heartbeat_seconds": 600, "image_signing_dn": "/CN=x$",
        "legacy_proxy": true, "max_processors": 8, "max_wallclock_seconds": 3600,
        "min_processors": 1.0, "min_wallclock_seconds": 1, "root_device": "vda",
        "scratch_device": "vdb", "user_data_proxy": "True", "user_data_option_x": "x",
        "user_data_file_y": "y.pem",
    })
}

fn document() -> Value {
    let small = json!({"suffix": "b", "target_share": "0.5", "backoff_seconds": 1,
                       "fizzle_seconds": 1, "user_data": "u"});
    json!({"cache_seconds": 3600, "machinetypes": [everything("a"), small,
           {"suffix": "c", "machine_model": "docker"}]})
}

/// Values that may get where they should not.
const EVIL: &[&str] = &[
    "https:{//x.org/a",
    "/etc/shadow",
    "../../../etc/shadow",
    "..",
    "https://x.org/../y",
    "https://x.org/%2e%2e/y",
    "file:///etc/shadow",
    "image:/etc/shadow",
    "a/b",
    "a\\b",
    "1e308",
    "-1",
    "NaN",
    "B",
    "",
    "b",
];

/// Names of members, some of which a pipe may not say.
const NAMES: &[&str] = &[
    "suffix",
    "target_share",
    "user_data",
    "root_image",
    "heartbeat_file",
    "user_data_file_z",
    "user_data_option_z",
    "machine_model",
    "x509dn",
    "flavor_name",
    "root_public_key",
    "user_data_proxy_cert",
    "user_data_proxy_key",
    "remote_joboutputs_url",
    "max_machines",
    "processors_limit",
    "hs06",
    "log_joboutputs",
    "cernvm_signing_dn",
    "image_signing_dn",
    "user_data_file_../z",
    "USER_DATA",
    "vacuum_pipe_url",
    "cvmfs_proxy_machinetype",
];

struct Site {
    sources: Sources,
    _dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources {
            conf: dir.path().join("vcycle.conf"),
            dir: dir.path().join("vcycle.d"),
        };
        std::fs::write(&sources.conf, SITE).unwrap();
        Self { sources, _dir: dir }
    }

    fn load(&self, pipe: Pipe) -> Loaded {
        let fetched = Timestamp::from_unix(1);
        let mut pipes = Pipes::default();
        let url = url::Url::parse("https://x.org/p").unwrap();
        pipes.put(url, Known { fetched, pipe });
        load_with(&self.sources, &context(), &pipes)
    }

    /// Whatever the pipe says, the site goes on, and gets nothing that pipes may not give.
    fn check(&self, bytes: &[u8]) -> Result<(), TestCaseError> {
        let Ok(pipe) = Pipe::parse(bytes) else {
            return Ok(());
        };
        prop_assert!(pipe.entries.len() <= 200 && pipe.ignored.len() <= 30);
        for told in pipe
            .entries
            .iter()
            .filter_map(|entry| entry.told.as_ref().ok())
        {
            for name in told.options.keys() {
                let accepted = ACCEPTED
                    .iter()
                    .any(|accepted| match accepted.strip_suffix("XXX") {
                        Some(beginning) => {
                            name.starts_with(beginning) && !name.contains(['/', '-'])
                        }
                        None => accepted == name || name == "cernvm_signing_dn",
                    });
                prop_assert!(accepted, "{name}");
            }
        }
        let loaded = self.load(pipe);
        let said: String = loaded.problems.iter().map(ToString::to_string).collect();
        prop_assert!(loaded.problems.len() <= 500);
        let config = loaded.config;
        prop_assert!(config.is_some(), "a pipe spoils the configuration: {said}");
        let space = config.unwrap().spaces.into_values().next().unwrap();
        let mut shares = 0.0;
        for (name, machinetype) in &space.machinetypes {
            if name.as_str() != "own" {
                prop_assert!(name.as_str().starts_with("vo-") && name.as_str().len() < 190);
                prop_assert!(machinetype.name == *name);
                shares += machinetype.target_share.get();
                check_machinetype(machinetype)?;
            }
        }
        prop_assert!(space.machinetypes.keys().any(|name| name.as_str() == "own"));
        prop_assert!(shares <= 3.000_001, "{shares}");
        Ok(())
    }
}

fn check_machinetype(machinetype: &MachinetypeConfig) -> Result<(), TestCaseError> {
    let is_in_files = |path: &Path| {
        let name = path.strip_prefix(FILES).ok().and_then(Path::to_str);
        name.is_some_and(|name| !name.contains('/') && !matches!(name, "" | "." | ".."))
    };
    if let UserDataSource::File(path) = &machinetype.user_data {
        prop_assert!(is_in_files(path), "{path:?}");
    }
    match &machinetype.root_image {
        ImageSource::File(path) => prop_assert!(is_in_files(path), "{path:?}"),
        ImageSource::Cloud(id) => prop_assert!(!id.contains('/'), "{id}"),
        ImageSource::Url(url) => prop_assert!(!url.as_str().contains("/../"), "{url}"),
    }
    for path in machinetype.user_data_files.values() {
        prop_assert!(is_in_files(path), "{path:?}");
    }
    if let Some((cert, key)) = &machinetype.user_data_proxy {
        prop_assert!(is_in_files(cert) && is_in_files(key));
    }
    let heartbeat_file = machinetype.heartbeat_file.as_deref().unwrap_or("x");
    prop_assert!(!heartbeat_file.contains('/'));
    // What the site alone may say.
    prop_assert!(machinetype.flavor_names == ["small"]);
    prop_assert!(machinetype.x509dn.is_none() && machinetype.root_public_key.is_none());
    prop_assert!(machinetype.remote_joboutputs_url.is_none());
    prop_assert!(machinetype.remote_joboutputs_identity.is_none());
    prop_assert!(machinetype.max_machines.is_none() && machinetype.processors_limit.is_none());
    prop_assert!(machinetype.hs06.is_none() && !machinetype.log_joboutputs);
    prop_assert!(machinetype.cvmfs_proxy_machinetype.is_none());
    prop_assert!(machinetype.user_data_options["local"].reveal() == "mine");
    if machinetype.name.as_str() == "vo-b" {
        prop_assert!(machinetype.accounting_fqan.as_deref() == Some("/b"));
    }
    Ok(())
}

#[test]
fn a_pipe_that_is_in_order_is_used() {
    let pipe = Pipe::parse(document().to_string().as_bytes()).unwrap();
    let space = Site::new()
        .load(pipe)
        .config
        .unwrap()
        .spaces
        .into_values()
        .next();
    let machinetypes = space.unwrap().machinetypes;
    let names: Vec<_> = machinetypes.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["own", "vo-a", "vo-b"]);
    for machinetype in machinetypes.values().skip(1) {
        check_machinetype(machinetype).unwrap();
    }
}

#[test]
fn a_changed_pipe_spoils_nothing() {
    let original = document();
    let site = Site::new();
    let member = (any::<Index>(), select(NAMES), select(EVIL));
    let members = prop::collection::vec(member, 0..6);
    let inputs = (members, structure(EVIL), form());
    fuzz(
        file!(),
        cases(Cost::Cheap, 300),
        &inputs,
        |(members, changes, form)| {
            let mut document = original.clone();
            for (at, name, value) in members {
                let entries = document["machinetypes"].as_array_mut().unwrap();
                let entry = at.index(entries.len());
                entries[entry][name] = json!(value);
            }
            let document = restructure(document, &changes);
            site.check(&render(&document, &form))
        },
    );
}

#[test]
fn any_bytes_are_a_pipe_or_none() {
    const TOKENS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        "\"machinetypes\":",
        "\"suffix\":",
        "\"a\"",
        ",",
        "null",
        "1e999",
    ];
    let site = Site::new();
    let original = document().to_string().into_bytes();
    let any = prop::collection::vec(any::<u8>(), 0..300);
    let inputs = prop_oneof![
        any,
        changes(TOKENS).prop_map(move |changes| mutate(original.clone(), &changes)),
    ];
    let inputs = inputs.prop_map(Text);
    fuzz(file!(), cases(Cost::Cheap, 300), &inputs, |text| {
        site.check(&text.0)
    });
}

/// A process that may have 300 MB of address space reads the worst documents of the largest size.
#[test]
fn the_largest_documents_take_bounded_memory() {
    let full = |head: &str, piece: &str, tail: &str| {
        let room = MAX_BYTES - head.len() - tail.len();
        format!("{head}{}{tail}", piece.repeat(room / piece.len()))
    };
    let list = "{\"machinetypes\":[";
    let lists = full(list, "[],", "[]]}");
    let mut members: String = (0..50_000).map(|n| format!("\"{n}\":0,")).collect();
    members.truncate(MAX_BYTES - 100);
    let members = format!("{list}{{{members}\"suffix\":\"a\"}}]}}");
    let long = full(&format!("{list}{{\"suffix\":\""), "x", "\"}]}");
    let factory = Factory::new();
    std::fs::create_dir_all(factory.state("pipes")).unwrap();
    for (document, told) in [
        (lists, "200 machinetypes"),
        (members, "1 machinetype,"),
        (long, "1 machinetype,"),
        (full("", "[", ""), "nothing is known of it"),
    ] {
        factory.conf("site", SITE);
        let file = json!({"url": "https://x.org/p", "fetched": 1, "document": document});
        std::fs::write(factory.state("pipes/x.json"), file.to_string()).unwrap();
        let check = factory.command(&["check"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -v 300000; exec \"$@\"", "sh"]);
        limited.arg(check.get_program()).args(check.get_args());
        let said = limited.output().unwrap();
        let out = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success(), "{out} {said:?}");
        assert!(out.contains(told), "{out}");
    }
}
