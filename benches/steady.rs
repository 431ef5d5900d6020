//! One steady cycle of a space with 5,000 machines, against an HTTP server on loopback.
//!
//! `cargo bench --bench steady` runs the built daemon with nothing to do, and prints for one
//! cycle: processor time, as a ratio to what parsing the same listing with serde_json alone costs
//! in the same run; requests; files changed; and the resident memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark may end by panicking, and lays out its files by hand"
)]

#[allow(dead_code, reason = "other benchmarks use the rest")]
mod support;

use std::path::Path;
use std::time::{Duration, SystemTime};

use support::nova::Nova;
use support::site::{Daemon, Site, cpu_time};

const MACHINES: usize = 5000;
const CYCLES: u32 = 20;

fn main() {
    let nova = Nova::start(Duration::ZERO);
    let site = Site::populated(&nova, 1, MACHINES, &std::env::temp_dir());
    let program = Path::new(env!("CARGO_BIN_EXE_vcycled"));
    let daemon = Daemon::start(site.command(program, 86400));
    daemon.wait_for_decisions(1);
    let cost = support::steady(&nova, &daemon, (1, MACHINES), CYCLES);
    let since = SystemTime::now();
    daemon.cycle(1);
    assert_eq!(site.changed_since(since), 0, "a steady cycle wrote files");
    assert_eq!(nova.tokens(), 1, "the token was not kept");
    let (cycle, wall, requests) = (cost.cpu, cost.wall, cost.requests);
    let [resident, peak] = ["VmRSS", "VmHWM"].map(|which| daemon.resident_kib(which) / 1024);
    daemon.end();

    let pages = nova.pages(&support::space(0));
    let bytes: usize = pages.iter().map(|page| page.len()).sum();
    println!("machines                      {MACHINES} ({bytes} bytes of listing)");
    println!("cycle, processor time         {cycle:.1?} (wall time {wall:.1?})");
    let compare = |what: &str, parse: &dyn Fn(&[u8])| {
        let alone = time(|| pages.iter().for_each(|page| parse(page)));
        let ratio = cycle.as_secs_f64() / alone.as_secs_f64();
        println!("{what:30}{alone:.1?}   ratio {ratio:.2}");
    };
    compare("serde_json to Value", &|page| {
        std::hint::black_box(serde_json::from_slice::<serde_json::Value>(page).unwrap());
    });
    compare("serde_json to structs", &|page| {
        std::hint::black_box(serde_json::from_slice::<Listing<'_>>(page).unwrap());
    });
    compare("serde_json, everything skipped", &|page| {
        std::hint::black_box(serde_json::from_slice::<serde::de::IgnoredAny>(page).unwrap());
    });
    println!("requests a cycle              {requests}");
    println!("resident memory               {resident} MiB (peak {peak} MiB)");
}

/// What the daemon needs of a listing, as plainly as serde can be asked for it.
#[derive(serde::Deserialize)]
struct Listing<'a> {
    #[serde(borrow)]
    #[expect(dead_code, reason = "only parsing it is measured")]
    servers: Vec<Listed<'a>>,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only parsing it is measured")]
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    status: &'a str,
    created: &'a str,
    updated: &'a str,
    #[serde(rename = "OS-SRV-USG:launched_at")]
    launched: Option<&'a str>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task: Option<&'a str>,
    #[serde(rename = "OS-EXT-STS:power_state")]
    power: Option<u8>,
    #[serde(rename = "OS-EXT-AZ:availability_zone")]
    zone: &'a str,
    flavor: HasId<'a>,
    #[serde(borrow)]
    metadata: std::collections::BTreeMap<&'a str, &'a str>,
    addresses: std::collections::BTreeMap<&'a str, Vec<Address<'a>>>,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only parsing it is measured")]
struct HasId<'a> {
    id: &'a str,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only parsing it is measured")]
struct Address<'a> {
    addr: &'a str,
}

fn time(mut work: impl FnMut()) -> Duration {
    let rounds = 20;
    work();
    let before = cpu_time("self");
    for _ in 0..rounds {
        work();
    }
    (cpu_time("self") - before) / rounds
}
