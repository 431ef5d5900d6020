//! The demo's site: a directory with everything that a site has in /etc and /var/lib, written as
//! a site would write it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::model::{MachinetypeName, Seconds, SpaceName, Timestamp};
use crate::rng::{Purpose, Seed};
use crate::state::Layout;
use crate::state::disk::{self, Disk};

use super::DemoError;
use super::DemoOptions;
use super::certificates::{Authority, Use, Validity};

/// Who the VMs are, in the certificates and in the configuration.
const VM_SUBJECT: &[(&str, &str)] = &[
    ("DC", "org"),
    ("DC", "example"),
    ("OU", "VMs"),
    ("CN", "vm.example.org"),
];
/// Certificates live by the real clock: long enough for a demo that is kept running.
const CERTIFICATE_LIFE: Seconds = Seconds::new(30 * 86_400);

/// `fizzle_seconds` of all machinetypes.
pub(super) const FIZZLE: Seconds = Seconds::new(120);
/// `backoff_seconds` of all machinetypes.
pub(super) const BACKOFF: Seconds = Seconds::new(600);
/// `simulated_fault_percent` of a demo with faults.
pub(super) const FAULT_PERCENT: u32 = 5;
/// Ports for the HTTPS server, and how many of them are tried.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES: u32 = 100;
/// The file that says what the demo in a directory is; it was written when its clock began.
const PLAN: &str = "demo.json";
/// `max_machines` of the space that fills.
pub(super) const MAX_MACHINES: u32 = 18;

/// What each machinetype is there to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Finds work, and takes its share of its space.
    Works,
    /// Finds little work, and backs off.
    Idles,
}

/// One machinetype of the demo.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub space: SpaceName,
    pub machinetype: MachinetypeName,
    pub share: u32,
    pub role: Role,
}

/// What stays the same when a demo goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// How many times as fast as the real clock its clock goes.
    pub speed: u32,
    /// What the faults are drawn from, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<u32>,
}

impl Plan {
    fn of(options: &DemoOptions) -> Self {
        let draw = || {
            Seed::from_entropy()
                .stream(Purpose::SimulatedFaults)
                .random()
        };
        Self {
            speed: options.speed,
            faults: options.faults.map(|seed| seed.unwrap_or_else(draw)),
        }
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub root: PathBuf,
    /// `vcycle.conf`.
    pub config: PathBuf,
    /// `vcycle.d`.
    pub config_dir: PathBuf,
    pub state_dir: PathBuf,
    pub log: PathBuf,
    pub kinds: Vec<Kind>,
    pub plan: Plan,
    /// When its clock showed the time of the system's clock.
    pub began: SystemTime,
}

impl Site {
    /// The site in `root`, which exists: the one that is there, or a new one.
    pub(super) fn open(
        root: &Path,
        options: &DemoOptions,
        now: Timestamp,
    ) -> Result<Self, DemoError> {
        if !root.join(PLAN).exists() {
            let site = Self::at(root, Plan::of(options), SystemTime::UNIX_EPOCH)?;
            site.make(now)?;
        }
        let path = root.join(PLAN);
        let damaged = |why: String| DemoError::Damaged {
            path: path.clone(),
            why,
        };
        let read = fs::read(&path).and_then(|text| {
            let began = fs::metadata(&path)?.modified()?;
            Ok((serde_json::from_slice(&text)?, began))
        });
        let (plan, began) = read.map_err(|error| damaged(error.to_string()))?;
        Self::at(root, plan, began)
    }

    fn at(root: &Path, plan: Plan, began: SystemTime) -> Result<Self, DemoError> {
        let etc = root.join("etc");
        Ok(Self {
            root: root.to_owned(),
            config: etc.join("vcycle.conf"),
            config_dir: etc.join("vcycle.d"),
            state_dir: root.join("state"),
            log: root.join("vcycled.log"),
            kinds: kinds()?,
            plan,
            began,
        })
    }

    /// Where its dashboard is. The one of a demo that is gone on with stays where it was.
    pub(super) fn dashboard(&self) -> Option<String> {
        let text = fs::read_to_string(&self.config).ok()?;
        let mut lines = text.lines();
        let address = lines.find_map(|line| line.strip_prefix("admin_listen = "))?;
        Some(format!("http://{address}/"))
    }

    /// Fills the root, which exists and is empty. What says that it is a demo comes last, so that
    /// one that is half made is not gone on with.
    fn make(&self, now: Timestamp) -> Result<(), DemoError> {
        let grid = self.root.join("etc/grid-security");
        make_certificates(&grid, now)?;
        self.write_user_data()?;
        self.write_configuration(&grid)?;
        // Plain numbers cannot fail to be JSON.
        let plan = serde_json::to_vec(&self.plan).unwrap_or_default();
        write(&self.root.join(PLAN), &plan, disk::PUBLIC)
    }

    fn write_user_data(&self) -> Result<(), DemoError> {
        let layout = Layout::new(&self.state_dir);
        for kind in &self.kinds {
            let files = layout.machinetype_files(&kind.space, &kind.machinetype);
            make_dir(&files)?;
            write(&files.join("user_data"), USER_DATA.as_bytes(), disk::PUBLIC)?;
        }
        Ok(())
    }

    fn write_configuration(&self, grid: &Path) -> Result<(), DemoError> {
        make_dir(&self.config_dir)?;
        let https = free_port().map_err(DemoError::Port)?;
        let admin = free_port().map_err(DemoError::Port)?;
        let server = format!(
            "\
# What the HTTPS server needs.
[server]
listen = 127.0.0.1:{https}
admin_listen = 127.0.0.1:{admin}
cert = {grid}/hostcert.pem
key = {grid}/hostkey.pem
ca_path = {grid}/certificates
",
            grid = grid.display()
        );
        write(&self.config, server.as_bytes(), disk::PUBLIC)?;

        let cert = grid.join("vm-proxy.pem");
        let space_section = |space: &str, limited: &str| {
            space_section(space, limited, https, &cert) + &self.faults()
        };
        let north = space_section("north.example.org", "limited by machines")
            + &format!(
                "\
max_machines = {MAX_MACHINES}
gocdb_sitename = DEMO-NORTH
simulated_machines = 30
simulated_processors = 60
"
            )
            + &machinetype_section("north.example.org", "atlas", "small", 2, 10)
            + &machinetype_section("north.example.org", "lhcb", "small", 1, 10);
        let south = space_section("south.example.org", "limited by processors")
            + "\
processors_limit = 8
# There is work for one machine of belle at a time. The others will not find any.
simulated_work = belle:1
" + &machinetype_section("south.example.org", "belle", "medium", 1, 20);
        for (name, text) in [("north", north), ("south", south)] {
            let file = self.config_dir.join(format!("{name}.example.org.conf"));
            write(&file, text.as_bytes(), disk::PUBLIC)?;
        }
        Ok(())
    }

    fn faults(&self) -> String {
        self.plan.faults.map_or_else(String::new, |seed| {
            format!("simulated_fault_percent = {FAULT_PERCENT}\nsimulated_fault_seed = {seed}\n")
        })
    }
}

fn kinds() -> Result<Vec<Kind>, DemoError> {
    let all = [
        ("north.example.org", "atlas", 2, Role::Works),
        ("north.example.org", "lhcb", 1, Role::Works),
        ("south.example.org", "belle", 1, Role::Idles),
    ];
    let kinds = all.into_iter().map(|(space, machinetype, share, role)| {
        Ok(Kind {
            space: SpaceName::new(space)?,
            machinetype: MachinetypeName::new(machinetype)?,
            share,
            role,
        })
    });
    kinds.collect()
}

fn space_section(space: &str, limited: &str, https: u16, cert: &Path) -> String {
    format!(
        "\
# A space on the embedded cloud, {limited}.
[space {space}]
api = simulated
https_host = 127.0.0.1
https_port = {https}
simulated_boot_seconds = 60
simulated_job_seconds = 900
simulated_cert = {}
",
        cert.display()
    )
}

fn machinetype_section(
    space: &str,
    machinetype: &str,
    flavor: &str,
    share: u32,
    hs06: u32,
) -> String {
    let dn: String = VM_SUBJECT
        .iter()
        .map(|(kind, value)| format!("/{kind}={value}"))
        .collect();
    format!(
        "
[machinetype {space} {machinetype}]
flavor_name = {flavor}
root_image = image:cernvm4
user_data = user_data
user_data_option_queue = demo
target_share = {share}
hs06 = {hs06}
backoff_seconds = {BACKOFF}
fizzle_seconds = {FIZZLE}
max_wallclock_seconds = 86400
heartbeat_file = heartbeat
heartbeat_seconds = 900
x509dn = {dn}
accounting_fqan = /{machinetype}/Role=NULL/Capability=NULL
"
    )
}

/// The contextualization that VMs of the demo are given.
const USER_DATA: &str = "\
#!/bin/sh
# Simulated VMs do not run this; it is here to be looked at.
echo I am ##user_data_machine_hostname## of ##user_data_machinetype## in ##user_data_space##
echo my queue is ##user_data_option_queue##
echo my features are at ##user_data_machinefeatures_url##
";

fn make_certificates(grid: &Path, now: Timestamp) -> Result<(), DemoError> {
    let validity = Validity {
        now,
        life: CERTIFICATE_LIFE,
    };
    let ca_path = grid.join("certificates");
    make_dir(&ca_path)?;
    let authority = Authority::new(
        &[("DC", "org"), ("DC", "example"), ("CN", "Demo CA")],
        validity,
    )?;
    authority
        .install(&ca_path)
        .map_err(|source| DemoError::write(&ca_path, source))?;

    let host = Use::Host {
        names: vec!["localhost".to_owned()],
        addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    let host = authority.issue(
        &[("DC", "org"), ("DC", "example"), ("CN", "localhost")],
        &host,
        validity,
    )?;
    let vm = authority.issue(VM_SUBJECT, &Use::Client, validity)?;
    let proxy = vm.limited_proxy(validity)?;
    for (name, pem, mode) in [
        ("hostcert.pem", host.certificate_pem()?, disk::PUBLIC),
        ("hostkey.pem", host.key_pem()?, disk::PRIVATE),
        ("vm-cert.pem", vm.to_pem()?, disk::PRIVATE),
        ("vm-proxy.pem", proxy.to_pem()?, disk::PRIVATE),
    ] {
        write(&grid.join(name), &pem, mode)?;
    }
    Ok(())
}

/// A port that nobody listens on at this moment, below those that the system gives to clients: it
/// is still free when the demo goes on.
fn free_port() -> io::Result<u16> {
    let mut rng = Seed::from_entropy().stream(Purpose::Ties);
    let mut result = Err(io::Error::from(io::ErrorKind::AddrInUse));
    for _ in 0..PORT_TRIES {
        let port = rng.random_range(PORTS);
        result = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|_| port);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn make_dir(path: &Path) -> Result<(), DemoError> {
    Disk::default()
        .create_dir_all(path)
        .map_err(|source| DemoError::write(path, source))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DemoError> {
    Disk::default()
        .create_synced(path, bytes, mode)
        .map_err(|source| DemoError::write(path, source))
}

/// Makes the directory of the demo: `wanted`, which must be empty or have a demo in it if it
/// exists, or a new one below the directory for temporary files.
pub(super) fn make_root(wanted: Option<&Path>, number: u64) -> Result<PathBuf, DemoError> {
    let Some(path) = wanted else {
        let path = std::env::temp_dir().join(format!("vcycle-demo-{number:016x}"));
        Disk::default()
            .create_dir(&path, 0o700)
            .map_err(|source| DemoError::write(&path, source))?;
        return Ok(path);
    };
    make_dir(path)?;
    let path = fs::canonicalize(path).map_err(|source| DemoError::write(path, source))?;
    let mut entries = fs::read_dir(&path).map_err(|source| DemoError::write(&path, source))?;
    if entries.next().is_some() && !path.join(PLAN).is_file() {
        return Err(DemoError::NotEmpty { path });
    }
    Ok(path)
}
