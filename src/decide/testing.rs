//! Small worlds for tests: a space, machinetypes and machines from a few words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::machinetype::UserDataSource;
use crate::config::space::OpenStackCredentials;
use crate::config::{
    Api, Benchmark, ImageSource, MachinetypeConfig, OpenStackOptions, SimulatedOptions, SpaceConfig,
};
use crate::model::{
    CloudFacts, CloudId, CloudMachine, Flavor, Heartbeat, Machine, MachineFiles, MachineName,
    MachineState, MachinetypeName, Processors, Seconds, Secret, Share, SpaceName, SpaceSnapshot,
    Timestamp,
};

/// A space called example.org without machinetypes; `options` are lines of the configuration.
pub fn space(options: &str) -> SpaceConfig {
    let mut config = SpaceConfig {
        name: SpaceName::new("example.org").unwrap(),
        api: Api::Simulated(SimulatedOptions {
            machines: 20,
            processors: 40,
            boot: Seconds::new(60),
            job: Seconds::new(3600),
            work: BTreeMap::new(),
            cert: None,
            fault_percent: 0,
            fault_seed: None,
        }),
        max_machines: None,
        processors_limit: None,
        flavor_names: Vec::new(),
        volume_gb_per_processor: 0,
        gocdb_sitename: None,
        benchmark: Benchmark::Hepspec,
        vacmon_hostport: Vec::new(),
        https_host: "factory.example.org".to_owned(),
        https_port: 443,
        shutdown_time: None,
        ordered_shutdown: None,
        grace: Seconds::new(600),
        cleanup: Seconds::new(72 * 3600),
        remove_leaks: true,
        keep_old_images: false,
        machinetypes: BTreeMap::new(),
    };
    for (option, value) in lines(options) {
        match option {
            "max_machines" => config.max_machines = Some(value.parse().unwrap()),
            "processors_limit" => config.processors_limit = Some(value.parse().unwrap()),
            "shutdown_time" => config.shutdown_time = Some(value.parse().unwrap()),
            "zones" => config.api = openstack(value),
            "ordered_shutdown" => config.ordered_shutdown = Some(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    config
}

/// An OpenStack with these zones.
pub fn openstack(zones: &str) -> Api {
    Api::OpenStack(OpenStackOptions {
        url: "https://keystone.example.org/v3".parse().unwrap(),
        identity_version: None,
        project: None,
        domain: "default".to_owned(),
        credentials: OpenStackCredentials::ApplicationCredential {
            id: "id".to_owned(),
            secret: Secret::new("secret".to_owned()),
        },
        region: None,
        zones: zones.split_whitespace().map(str::to_owned).collect(),
        security_groups: Vec::new(),
        network_uuid: None,
    })
}

fn lines(options: &str) -> impl Iterator<Item = (&str, &str)> {
    options
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(option, value)| (option.trim(), value.trim()))
}

/// A machinetype with flavor `one` (of one processor), target_share 1, fizzle_seconds 600,
/// backoff_seconds 600, unless `options` say otherwise.
pub fn machinetype(name: &str, options: &str) -> MachinetypeConfig {
    let mut config = MachinetypeConfig {
        name: MachinetypeName::new(name).unwrap(),
        flavor_names: vec!["one".to_owned()],
        hs06: None,
        hs06_per_processor: None,
        hepscore23_per_processor: None,
        min_processors: Processors::ONE,
        flavor_min_processors: None,
        max_processors: None,
        mb_per_processor: 2048,
        target_share: Share::new(1.0).unwrap(),
        backoff: Seconds::new(600),
        fizzle: Seconds::new(600),
        accounting_fqan: None,
        max_machines: None,
        processors_limit: None,
        max_starting_processors: None,
        max_wallclock: Seconds::new(86400),
        heartbeat_file: None,
        heartbeat: Seconds::new(0),
        x509dn: None,
        log_joboutputs: false,
        joboutputs_kept: Seconds::new(3 * 86400),
        remote_joboutputs_url: None,
        remote_joboutputs_identity: None,
        root_image: ImageSource::Cloud("image".to_owned()),
        cernvm_signing_dn: None,
        root_public_key: None,
        user_data: UserDataSource::File(PathBuf::from("/user_data")),
        user_data_options: BTreeMap::new(),
        user_data_files: BTreeMap::new(),
        user_data_proxy: None,
        legacy_proxy: false,
        cvmfs_proxy_machinetype: None,
    };
    for (option, value) in lines(options) {
        let seconds = || Seconds::new(value.parse().unwrap());
        match option {
            "target_share" => config.target_share = Share::new(value.parse().unwrap()).unwrap(),
            "hs06" => config.hs06 = Some(crate::model::Hs06::new(value.parse().unwrap()).unwrap()),
            "hepscore23_per_processor" => {
                config.hepscore23_per_processor = Some(value.parse().unwrap());
            }
            "flavor_names" => {
                config.flavor_names = value.split(' ').map(str::to_owned).collect();
            }
            "max_machines" => config.max_machines = Some(value.parse().unwrap()),
            "processors_limit" => config.processors_limit = Some(value.parse().unwrap()),
            "max_starting_processors" => {
                config.max_starting_processors = Some(value.parse().unwrap());
            }
            "max_processors" => {
                config.max_processors = Some(Processors::new(value.parse().unwrap()));
            }
            "max_wallclock_seconds" => config.max_wallclock = seconds(),
            "backoff_seconds" => config.backoff = seconds(),
            "fizzle_seconds" => config.fizzle = seconds(),
            "heartbeat_file" => config.heartbeat_file = Some(value.to_owned()),
            "heartbeat_seconds" => config.heartbeat = seconds(),
            "log_joboutputs" => config.log_joboutputs = value == "True",
            "remote_joboutputs_url" => {
                config.remote_joboutputs_url = Some(value.parse().unwrap());
            }
            other => panic!("{other}"),
        }
    }
    config
}

/// The directory of a machine that was created at `created` and has nothing else yet.
pub fn files(name: &str, created: u64) -> MachineFiles {
    let name = MachineName::new(name).unwrap();
    MachineFiles {
        machinetype: name.machinetype().unwrap(),
        name,
        space: SpaceName::new("example.org").unwrap(),
        manager: None,
        id: None,
        created: Timestamp::from_unix(created),
        started: None,
        updated: None,
        stopped: None,
        clock_set_back: None,
        finished: None,
        deleted: None,
        ended: None,
        processors: None,
        hs06: None,
        memory_bytes: None,
        shutdowntime: None,
        wall_limit: None,
        fizzle: None,
        hepscore23_per_processor: None,
        accounting_fqan: None,
        log_joboutputs: false,
        logged: None,
        flavor: None,
        zone: None,
        volumes: Vec::new(),
    }
}

/// A machine without a VM.
pub fn unlisted(files: MachineFiles) -> Machine {
    Machine {
        files,
        listed: Vec::new(),
        missed_scans: 1,
        unconfirmed: false,
        first_running: None,
        heard_since: None,
        last_running: None,
        delete_tries: 0,
        heartbeat: Heartbeat::Unknown,
        shutdown_message: None,
        awaits_message: false,
    }
}

/// What the cloud lists for a machine whose id is `id-NAME`.
pub fn listed(name: &str, state: MachineState) -> CloudMachine {
    CloudMachine {
        id: CloudId::new(format!("id-{name}")),
        name: name.to_owned(),
        state,
        status: String::new(),
        created: None,
        started: None,
        updated: None,
        processors: Some(Processors::ONE),
        address: None,
        zone: None,
        key: None,
        image: None,
        volumes: Vec::new(),
        fault: None,
        shortage: None,
        marks: None,
    }
}

/// A machine with a directory (created at `created`, started a minute later unless it is
/// starting) and a VM in `state`.
pub fn machine(name: &str, state: MachineState, created: u64) -> Machine {
    let mut files = files(name, created);
    files.id = Some(CloudId::new(format!("id-{name}")));
    if state != MachineState::Starting {
        files.started = Some(Timestamp::from_unix(created + 60));
    }
    Machine {
        listed: vec![listed(name, state)],
        missed_scans: 0,
        unconfirmed: false,
        ..unlisted(files)
    }
}

/// A snapshot with flavors `one` (1 processor), `two`, `four` and `eight`.
pub fn snapshot(machines: Vec<Machine>) -> SpaceSnapshot {
    let flavors = [("one", 1), ("two", 2), ("four", 4), ("eight", 8)]
        .map(|(name, processors)| Flavor {
            id: format!("flavor-{name}"),
            name: name.to_owned(),
            processors: Processors::new(processors),
            memory_mb: None,
            disk_gb: None,
        })
        .to_vec();
    SpaceSnapshot {
        facts: CloudFacts {
            flavors,
            ..CloudFacts::default()
        },
        machines,
        ..SpaceSnapshot::default()
    }
}
