//! How long one decision takes: 10,000 machines of 50 machinetypes, at most 5 ms.
//!
//! Three spaces: one at rest, one where a quarter of the machines have something to say, and one
//! that is half empty, so that a tenth of the limit is created in one plan.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use vcycle::config::machinetype::UserDataSource;
use vcycle::config::{
    Api, Benchmark, ImageSource, MachinetypeConfig, SimulatedOptions, SpaceConfig,
};
use vcycle::decide::decide;
use vcycle::model::{
    CloudFacts, CloudId, CloudMachine, Flavor, Heartbeat, Hs06, Machine, MachineFiles, MachineName,
    MachineState, MachinetypeName, Processors, Seconds, Share, ShutdownMessage, SpaceName,
    SpaceSnapshot, Timestamp,
};
use vcycle::rng::Seed;

const NOW: Timestamp = Timestamp::from_unix(1_500_000_000);
const MACHINETYPES: usize = 50;
const MACHINES: usize = 10_000;

fn ago(seconds: u64) -> Timestamp {
    Timestamp::from_unix(NOW.unix() - seconds)
}

fn space(max_machines: u32) -> SpaceConfig {
    SpaceConfig {
        name: SpaceName::new("example.org").unwrap(),
        api: Api::Simulated(SimulatedOptions {
            machines: 0,
            processors: 0,
            boot: Seconds::new(60),
            job: Seconds::new(60),
            work: BTreeMap::new(),
            cert: None,
            fault_percent: 0,
            fault_seed: None,
        }),
        max_machines: Some(max_machines),
        processors_limit: Some(max_machines * 8),
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
        machinetypes: (0..MACHINETYPES)
            .map(machinetype)
            .map(|config| (config.name.clone(), config))
            .collect(),
    }
}

fn machinetype(number: usize) -> MachinetypeConfig {
    let weight = f64::from(u32::try_from(number).unwrap());
    MachinetypeConfig {
        name: MachinetypeName::new(format!("experiment-{number:02}")).unwrap(),
        flavor_names: vec!["large".to_owned(), "small".to_owned()],
        hs06: number
            .is_multiple_of(2)
            .then(|| Hs06::new(10.0 + weight).unwrap()),
        hs06_per_processor: None,
        hepscore23_per_processor: None,
        min_processors: Processors::ONE,
        flavor_min_processors: None,
        max_processors: None,
        mb_per_processor: 2048,
        target_share: Share::new(1.0 + weight).unwrap(),
        backoff: Seconds::new(600),
        fizzle: Seconds::new(600),
        accounting_fqan: None,
        max_machines: Some(5000),
        processors_limit: None,
        max_starting_processors: Some(10_000),
        max_wallclock: Seconds::new(86_400),
        heartbeat_file: Some("heartbeat".to_owned()),
        heartbeat: Seconds::new(600),
        x509dn: None,
        log_joboutputs: false,
        joboutputs_kept: Seconds::new(3 * 86_400),
        remote_joboutputs_url: None,
        remote_joboutputs_identity: None,
        root_image: ImageSource::Cloud("image".to_owned()),
        cernvm_signing_dn: None,
        root_public_key: None,
        user_data: UserDataSource::File("/user_data".into()),
        user_data_options: BTreeMap::new(),
        user_data_files: BTreeMap::new(),
        user_data_proxy: None,
        legacy_proxy: false,
        cvmfs_proxy_machinetype: None,
    }
}

/// A machine that runs well.
fn machine(number: usize) -> Machine {
    // Names are random, so the directory order says nothing about machinetypes.
    let random = number.wrapping_mul(7_919) % 1_000_000;
    let name = format!(
        "vcycle-experiment-{:02}-{random:0>10}",
        number % MACHINETYPES
    );
    let name = MachineName::new(name).unwrap();
    let id = CloudId::new(format!("00000000-0000-4000-8000-{number:012}"));
    let (created, started) = (ago(20_060), ago(20_000));
    Machine {
        listed: vec![CloudMachine {
            id: id.clone(),
            name: name.as_str().to_owned(),
            state: MachineState::Running,
            status: "ACTIVE".to_owned(),
            created: Some(created),
            started: Some(started),
            updated: Some(started),
            processors: Some(Processors::new(8)),
            address: Some("10.0.0.1".to_owned()),
            zone: Some("nova".to_owned()),
            key: None,
            image: None,
            volumes: Vec::new(),
            fault: None,
            shortage: None,
            marks: None,
        }],
        files: MachineFiles {
            machinetype: name.machinetype().unwrap(),
            name,
            space: SpaceName::new("example.org").unwrap(),
            manager: None,
            id: Some(id),
            created,
            started: Some(started),
            updated: None,
            stopped: None,
            clock_set_back: None,
            finished: None,
            deleted: None,
            ended: None,
            processors: Some(Processors::new(8)),
            hs06: None,
            memory_bytes: None,
            shutdowntime: Some(created + Seconds::new(86_400)),
            wall_limit: Some(Seconds::new(86_400)),
            fizzle: Some(Seconds::new(600)),
            hepscore23_per_processor: None,
            accounting_fqan: None,
            log_joboutputs: false,
            logged: None,
            flavor: None,
            zone: None,
            volumes: Vec::new(),
        },
        missed_scans: 0,
        unconfirmed: false,
        first_running: None,
        last_running: Some(ago(60)),
        heard_since: None,
        delete_tries: 0,
        heartbeat: Heartbeat::At(ago(100)),
        shutdown_message: None,
        awaits_message: false,
    }
}

fn snapshot(machines: usize) -> SpaceSnapshot {
    let flavor = |name: &str, processors| Flavor {
        id: format!("flavor-{name}"),
        name: name.to_owned(),
        processors: Processors::new(processors),
        memory_mb: None,
        disk_gb: None,
    };
    SpaceSnapshot {
        facts: CloudFacts {
            flavors: vec![flavor("small", 1), flavor("large", 8)],
            ..CloudFacts::default()
        },
        machines: (0..machines).map(machine).collect(),
        foreign_machines: 3,
        foreign_processors: Processors::new(12),
        previous_scan: Some(ago(60)),
        ..SpaceSnapshot::default()
    }
}

/// A quarter of the machines has just ended, begun, vanished or fallen silent.
fn busy() -> SpaceSnapshot {
    let mut snapshot = snapshot(MACHINES);
    for (number, machine) in snapshot.machines.iter_mut().enumerate() {
        match number % 16 {
            0 => {
                machine.listed[0].state = MachineState::Shutdown;
                machine.shutdown_message = Some(ShutdownMessage::parse("200 Success"));
            }
            1 => machine.files.started = None,
            2 => {
                machine.listed.clear();
                machine.missed_scans = 1;
            }
            3 => machine.heartbeat = Heartbeat::At(ago(700)),
            _ => {}
        }
    }
    snapshot
}

fn benches(c: &mut Criterion) {
    let full = space(10_003);
    let half_empty = space(20_003);
    let (rest, busy) = (snapshot(MACHINES), busy());
    let spaces = [
        ("10000 machines at rest", &full, &rest),
        ("10000 machines, 2500 with news", &full, &busy),
        ("10000 machines and 2000 creations", &half_empty, &rest),
    ];
    for (name, config, snapshot) in spaces {
        let plan = decide(config, snapshot, NOW, Seed(1));
        println!(
            "{name}: {} bookkeeping, {} deletes, {} creates",
            plan.bookkeeping.len(),
            plan.deletes.len(),
            plan.creates.len()
        );
        c.bench_function(name, |bench| {
            bench.iter(|| decide(black_box(config), black_box(snapshot), NOW, Seed(1)));
        });
    }
}

criterion_group!(decisions, benches);
criterion_main!(decisions);
