//! What `check` says of a configuration that can be used and will not do what its author expects.
//! It is told and changes no exit status: each of these can be meant.

use std::collections::BTreeMap;
use std::fs;

use crate::config::machinetype::UserDataSource;
use crate::config::{Api, Config, MachinetypeConfig, SpaceConfig};
use crate::model::Timestamp;
use crate::server::{look_at_certificate, nobody_is_trusted};
use crate::state::Layout;

/// The pattern that gives a machine its token; in user_data, or in a file that is put into it.
const TOKEN: &str = "##user_data_joboutputs_token##";

/// A line for each surprise.
pub fn surprises(config: &Config, layout: &Layout, now: Timestamp) -> Vec<String> {
    let spaces = config.spaces.iter();
    let mut lines: Vec<String> = spaces
        .flat_map(|(name, space)| of_space(name.as_str(), space))
        .collect();
    lines.extend(left_alone(config, layout));
    lines.extend(without_cas(config));
    lines.extend(expired(config, now));
    lines
}

/// Whether the certificate of the HTTPS server has run out.
fn expired(config: &Config, now: Timestamp) -> Option<String> {
    let server = &config.server;
    if server.listen.is_empty() {
        return None;
    }
    let expires = look_at_certificate(server).ok()??;
    (expires <= now).then(|| {
        format!(
            "[server] cert: the certificate in {} has expired at {}: machines that verify it write nothing",
            server.cert.display(),
            expires.to_rfc3339()
        )
    })
}

/// Whether machines are to write with certificates that nobody can verify.
fn without_cas(config: &Config) -> Option<String> {
    let mut machinetypes = config
        .spaces
        .values()
        .flat_map(|space| space.machinetypes.values());
    let serves = !config.server.listen.is_empty();
    let is_wanted =
        machinetypes.any(|about| about.x509dn.is_some() && about.target_share.get() > 0.0);
    let why = nobody_is_trusted(&config.server.ca_path).filter(|_| serves && is_wanted)?;
    Some(format!(
        "[server] ca_path: {why}; machines cannot write joboutputs with the certificate of their x509dn"
    ))
}

fn of_space(name: &str, space: &SpaceConfig) -> Vec<String> {
    let mut lines = Vec::new();
    let kinds = &space.machinetypes;
    if !kinds.is_empty() && kinds.values().all(|kind| kind.target_share.get() <= 0.0) {
        lines.push(format!(
            "[space {name}]: no machinetype has a target_share above 0; nothing is created"
        ));
    }
    let openstack = matches!(space.api, Api::OpenStack(_));
    if openstack && space.max_machines.is_none() && space.processors_limit.is_none() {
        lines.push(format!(
            "[space {name}]: no max_machines and no processors_limit: the cloud's quota counts"
        ));
    }
    let silent = kinds.iter().filter(|(_, kind)| cannot_write(kind));
    lines.extend(silent.map(|(kind, about)| {
        let fizzle = about.fizzle;
        format!(
            "[machinetype {name} {kind}] heartbeat_file: machines cannot write it, without x509dn and without {TOKEN} in user_data; each is destroyed when fizzle_seconds ({fizzle}) have passed"
        )
    }));
    lines
}

/// Whether machines have a heartbeat to write and nothing to write it with, as far as can be told: of
/// user_data at a URL, or that cannot be read, nothing can.
fn cannot_write(kind: &MachinetypeConfig) -> bool {
    let waits = kind.heartbeat_file.is_some() && kind.target_share.get() > 0.0;
    if !waits || kind.x509dn.is_some() || kind.remote_joboutputs_url.is_some() {
        return false;
    }
    let UserDataSource::File(user_data) = &kind.user_data else {
        return false;
    };
    // As where they are replaced, capital and small letters are the same.
    let asks = |text: Vec<u8>| {
        String::from_utf8_lossy(&text)
            .to_ascii_lowercase()
            .contains(TOKEN)
    };
    let is_text = fs::metadata(user_data).is_ok_and(|found| found.is_file());
    is_text && fs::read(user_data).is_ok_and(|text| !asks(text))
}

/// The spaces that machines on file belong to and that are not configured.
fn left_alone(config: &Config, layout: &Layout) -> Vec<String> {
    let Ok(machines) = fs::read_dir(layout.machines()) else {
        return Vec::new();
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for dir in machines.flatten().map(|entry| entry.path()) {
        // What has stopped has ended already; only its directory is kept.
        if dir.join("stopped").exists() {
            continue;
        }
        if let Ok(space) = fs::read_to_string(dir.join("space_name")) {
            *counts.entry(space.trim().to_owned()).or_default() += 1;
        }
    }
    let known = |space: &str| config.spaces.keys().any(|name| name.as_str() == space);
    let lost = counts.into_iter().filter(|(space, _)| !known(space));
    let line = |(space, count): (String, usize)| {
        format!(
            "[space {space}] is not configured: its {count} machine(s) on file are left alone, and nobody ends them\n  help: put the space back, and empty it with vcycled shutdown --in 0 {space}"
        )
    };
    lost.map(line).collect()
}
