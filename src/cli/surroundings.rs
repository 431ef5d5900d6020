//! What `check` says beside the configuration: whether the daemon can use what is around it.
//!
//! That can only be told by the user that the daemon runs as, which is the owner of the state
//! directory; for others this says nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::config::machinetype::UserDataSource;
use crate::config::{Config, ImageSource, MachinetypeConfig, ServerConfig};
use crate::server::look_at_certificate;
use crate::state::Layout;

/// What stands in the daemon's way, a line for each, with what to do about it.
pub fn obstacles(config: &Config, layout: &Layout) -> Vec<String> {
    let owner = fs::metadata(layout.root()).ok().map(|found| found.uid());
    if owner != Some(rustix::process::geteuid().as_raw()) {
        return Vec::new();
    }
    let directories = written(config, layout).into_iter().filter_map(|dir| {
        let forbidden = dir.is_dir() && access(&dir, Access::WRITE_OK).is_err();
        let dir = dir.display();
        forbidden
            .then(|| format!("the daemon cannot write to {dir}\n  help: chown vcycle:vcycle {dir}"))
    });
    let files = read(&config.server).into_iter().filter_map(|file| {
        let error = access(file, Access::READ_OK).err()?;
        let file = file.display();
        Some(match error {
            rustix::io::Errno::ACCESS => format!(
                "the daemon cannot read {file}\n  help: chgrp vcycle {file} && chmod g+r {file}"
            ),
            rustix::io::Errno::NOENT => format!(
                "{file} does not exist\n  help: put the certificate and the key of the host in their places, or say where they are with cert and key in [server]; listen = none there does without"
            ),
            other => format!("the daemon cannot read {file}: {other}"),
        })
    });
    let mut lines: Vec<String> = directories.chain(files).collect();
    if lines.is_empty() && !config.server.listen.is_empty() {
        let unusable = look_at_certificate(&config.server).err();
        lines.extend(unusable.map(|error| {
            format!("[server]: {error}; a daemon that is started now ends, one that runs keeps what it has")
        }));
    }
    lines
}

/// The directories that it writes to, where they are there already. The site's own files are in
/// the same tree, so that root may have made some of them.
fn written(config: &Config, layout: &Layout) -> Vec<PathBuf> {
    let mut all = vec![
        layout.root().to_owned(),
        layout.machines(),
        layout.spaces(),
        layout.apel_archive(),
        layout.apel_outgoing(),
        layout.imagecache(),
        layout.joboutputs(),
        layout.pipes(),
        layout.all_heartbeat_lists(),
    ];
    for (name, space) in &config.spaces {
        let dir = layout.space(name);
        all.push(dir.join("machinetypes"));
        all.push(dir);
        let machinetypes = space.machinetypes.keys();
        all.extend(machinetypes.map(|machinetype| layout.machinetype(name, machinetype)));
    }
    all
}

/// The site's files without which no machine of a machinetype is made, as far as they are not there
/// or cannot be read: a line for each. Those of machinetypes without a target_share may be missing.
pub fn lacking(config: &Config) -> Vec<String> {
    let machinetypes = config.spaces.iter().flat_map(|(space, about)| {
        let named = about.machinetypes.iter();
        named.map(move |(name, machinetype)| (format!("[machinetype {space} {name}]"), machinetype))
    });
    let used = machinetypes.filter(|(_, machinetype)| machinetype.target_share.get() > 0.0);
    let lines = used.flat_map(|(section, machinetype)| {
        let files = needed(machinetype).into_iter();
        let lines = files.filter_map(|(option, file)| {
            let error = access(file, Access::READ_OK).err()?;
            let why = match error {
                rustix::io::Errno::NOENT => "does not exist".to_owned(),
                other => format!("cannot be read: {}", std::io::Error::from(other)),
            };
            let file = file.display();
            Some(format!(
                "{section} {option}: {file} {why}; until it can be read no machine of this kind is made"
            ))
        });
        lines.collect::<Vec<_>>()
    });
    lines.collect()
}

/// The files of this host that a machine is made from, by the options that name them.
fn needed(machinetype: &MachinetypeConfig) -> Vec<(String, &Path)> {
    let mut files: Vec<(String, &Path)> = Vec::new();
    let mut add = |option: &str, file| files.push((option.to_owned(), file));
    if let UserDataSource::File(file) = &machinetype.user_data {
        add("user_data", file.as_path());
    }
    for (name, file) in &machinetype.user_data_files {
        add(&format!("user_data_file_{name}"), file);
    }
    if let Some((cert, key)) = &machinetype.user_data_proxy {
        add("user_data_proxy_cert", cert);
        add("user_data_proxy_key", key);
    }
    if let ImageSource::File(file) = &machinetype.root_image {
        add("root_image", file);
    }
    files
}

/// The files that the HTTPS server cannot do without.
fn read(server: &ServerConfig) -> Vec<&Path> {
    if server.listen.is_empty() {
        Vec::new()
    } else {
        vec![&server.cert, &server.key]
    }
}
