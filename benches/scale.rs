//! How the daemon scales, in figures and assertions, against real HTTP on loopback.
//!
//! `cargo bench --bench scale` prints the table of steady cycles (`steady`), a hundred dead clouds
//! beside a living one (`dead`), the time to fill a space (`fill`) and the start on 100,000 machine
//! directories (`start`), and fills an embedded cloud (`embedded`). With names of parts as arguments it
//! does only those. It ends with an error when a figure is beyond its bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark may end by panicking, and lays out its files by hand"
)]

#[allow(dead_code, reason = "other benchmarks and tests use the rest")]
mod support;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use support::nova::Nova;
use support::site::{Daemon, FILES, Site};
use support::{Steady, in_memory, space, trace};

/// A cycle that comes only when it is asked for.
const ON_DEMAND: u64 = 86400;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let parts: [(&str, fn()); 5] = [
        ("steady", steady),
        ("dead", dead_clouds),
        ("fill", fill),
        ("start", start),
        ("embedded", embedded),
    ];
    // Cargo adds options of its own.
    let all = wanted.iter().all(|word| word.starts_with('-'));
    for (name, part) in parts {
        if all || wanted.iter().any(|word| word == name) {
            part();
        }
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vcycled"))
}

fn steady() {
    println!("steady cycles: nothing to do, all machines running and heard of");
    println!(
        "{:>13} {:>8} | {:>8} {:>8} | {:>7} {:>7} {:>8} | {:>8} {:>8} | {:>8} | {:>7} {:>7} {:>7}",
        "spaces x",
        "machines",
        "cycle",
        "machine",
        "RSS",
        "peak",
        "machine",
        "requests",
        "files",
        "wall",
        "start",
        "CPU",
        "scanned"
    );
    println!(
        "{:>13} {:>8} | {:>8} {:>8} | {:>7} {:>7} {:>8} | {:>8} {:>8} | {:>8} | {:>7} {:>7} {:>7}",
        "each", "", "CPU ms", "CPU us", "MiB", "MiB", "KiB", "", "changed", "ms", "ms", "ms", "ms"
    );
    let small = measure(1, 1000);
    let large = measure(1, 10_000);
    let many = measure(10, 1000);
    let scattered = measure(100, 100);
    let hundred = measure(100, 1000);
    let one = measure(1, 100_000);
    for cost in [&large, &many, &hundred, &one] {
        let ratio = cost.per_machine_us() / small.per_machine_us();
        assert!(ratio < 1.5, "processor time of a machine: {ratio:.2} times");
    }
    // A space has its own requests and its own client, whatever machines it has.
    let spaces = 99.0;
    let beyond_us = scattered.cpu.saturating_sub(large.cpu).as_secs_f64() * 1e6 / spaces;
    let as_many = beyond_us / large.per_machine_us();
    let memory = scattered.resident_kib.saturating_sub(large.resident_kib) as f64 / spaces;
    println!(
        "a space more, beside its machines: {beyond_us:.0} us, as {as_many:.0} machines; {memory:.0} KiB"
    );
    assert!(
        as_many < 100.0,
        "processor time of a space: {as_many:.0} machines"
    );
    assert!(memory < 1024.0, "memory of a space: {memory:.0} KiB");
    let (few, lots) = (large.added_kib(&small), one.added_kib(&large));
    println!("memory for each machine more: {few:.1} KiB to 10,000, {lots:.1} KiB to 100,000");
    assert!(lots < 1.5 * few, "memory grows faster than the machines");
    println!();
}

/// Prints one line of the table.
fn measure(spaces: usize, each: usize) -> Steady {
    let machines = spaces * each;
    let nova = Nova::start(Duration::ZERO);
    let site = Site::populated(&nova, spaces, each, &in_memory());
    let daemon = Daemon::start(site.command(program(), ON_DEMAND));
    let scanned = daemon.start
        + daemon
            .wait_for_decisions(spaces)
            .saturating_duration_since(daemon.runs);
    let first = daemon.cpu();
    let cycles = u32::try_from((200_000 / machines).clamp(5, 100)).unwrap();
    let cost = support::steady(&nova, &daemon, (spaces, machines), cycles);
    let since = SystemTime::now();
    daemon.cycle(spaces);
    let changed = site.changed_since(since);
    println!(
        "{:>13} {machines:>8} | {:>8.1} {:>8.1} | {:>7} {:>7} {:>8.1} | {:>8} {changed:>8} | {:>8.1} | {:>7} {:>7} {:>7}",
        format!("{spaces} x {each}"),
        cost.cpu.as_secs_f64() * 1e3,
        cost.per_machine_us(),
        cost.resident_kib / 1024,
        daemon.resident_kib("VmHWM") / 1024,
        cost.resident_kib as f64 / machines as f64,
        cost.requests,
        cost.wall.as_secs_f64() * 1e3,
        daemon.start.as_millis(),
        first.as_millis(),
        scanned.as_millis(),
    );
    assert_eq!(changed, 0, "a steady cycle wrote files");
    assert_eq!(nova.tokens(), spaces as u64, "the tokens were not kept");
    daemon.end();
    cost
}

/// The living space's cycles alone, then beside a hundred spaces whose clouds are dead.
fn dead_clouds() {
    const MACHINES: usize = 1000;
    println!("a space of {MACHINES} machines, a cycle a second, beside dead clouds");
    let nova = Nova::start(Duration::ZERO);
    let site = Site::populated(&nova, 1, MACHINES, &in_memory());
    let daemon = Daemon::start(site.command(program(), 1));
    let alone = support::rhythm(&nova, &daemon, &space(0), 10);
    println!("alone:                     {alone}");
    let refused = |number| {
        (
            format!("refused{number}"),
            "http://127.0.0.1:1/v3".to_owned(),
            10,
        )
    };
    let silent = |number| (format!("silent{number}"), nova.silent_url(), 10);
    for (what, dead) in [
        (
            "100 refuse connections:    ",
            (0..100).map(refused).collect::<Vec<_>>(),
        ),
        (
            "100 never answer:          ",
            (0..100).map(silent).collect(),
        ),
    ] {
        site.spaces("dead", dead);
        // The first cycle with them makes their clients.
        daemon.next_decision();
        daemon.next_decision();
        let beside = support::rhythm(&nova, &daemon, &space(0), 10);
        println!("{what}{beside}");
        assert!(beside.period < alone.period.mul_f64(1.2), "fewer cycles");
        let slack = Duration::from_millis(50);
        assert!(
            beside.length < alone.length.mul_f64(2.0) + slack,
            "longer cycles"
        );
    }
    daemon.end();
    println!();
}

fn fill() {
    println!("filling a space, ten creates at once");
    for (machines, create, parent) in [(1000, 500, in_memory()), (1000, 500, std::env::temp_dir())]
    {
        let filled = support::fill(program(), &parent, machines, Duration::from_millis(create));
        println!(
            "{machines} machines of {create} ms on {}: {filled}",
            parent.display()
        );
        filled.check(1.5);
    }
    println!();
}

fn start() {
    const MACHINES: usize = 100_000;
    println!("starting on the directories of {MACHINES} machines, {FILES} files each");
    let nova = Nova::start(Duration::ZERO);
    for parent in [in_memory(), std::env::temp_dir()] {
        let site = Site::new(&parent);
        site.spaces("spaces", [(space(0), nova.silent_url(), MACHINES)]);
        site.lay_out(&space(0), 0..MACHINES);
        let daemon = Daemon::start(site.command(program(), ON_DEMAND));
        println!(
            "on {}: {:.2?}, {:.2?} of processor time, {} MiB",
            parent.display(),
            daemon.start,
            daemon.cpu(),
            daemon.resident_kib("VmRSS") / 1024
        );
        // Processor time, because others work on this machine too; that of all threads that read, so it
        // is about twice as long as the start. And not on a disk, which may have forgotten what it just
        // wrote: there the figure is only told.
        if parent == in_memory() {
            let cpu = daemon.cpu();
            assert!(
                cpu < Duration::from_secs(20),
                "it takes longer than seconds: {cpu:?}"
            );
        }
        daemon.end();
    }
    let site = Site::populated(&nova, 10, 1000, &in_memory());
    if trace::is_possible() {
        let opens = trace::start(&site, program());
        println!("what is opened for 10,000 machines: {opens:?}");
        assert!(opens.most_of_one <= 1, "a file was read twice");
    } else {
        println!("strace cannot be run here: not counted what is opened");
    }
}

/// The cloud of `api = simulated`, which keeps its servers in one file.
fn embedded() {
    const ROUNDS: usize = 10;
    println!("filling an embedded cloud with 10,000 machines, 1,000 a cycle");
    let site = Site::new(&in_memory());
    site.embedded_space(&space(0), 1000 * ROUNDS);
    let daemon = Daemon::start(site.command(program(), ON_DEMAND));
    daemon.wait_for_decisions(1);
    let mut costs = Vec::new();
    for round in 1..=ROUNDS {
        let (began, cpu) = (Instant::now(), daemon.cpu());
        support::until("a cycle's machines are made", || {
            (site.machines() >= 1000 * round).then_some(())
        });
        if round < ROUNDS {
            daemon.cycle(1);
        }
        let cost = daemon.cpu() - cpu;
        println!(
            "{:>6} machines: {:.1?}, {cost:.2?} of processor time",
            1000 * round,
            began.elapsed()
        );
        costs.push(cost);
    }
    let added = costs[ROUNDS - 1].as_secs_f64() / costs[0].as_secs_f64();
    println!("the last thousand cost {added:.1} times the first");
    daemon.end();
}
