//! That cost grows no faster than the number of machines and spaces: the built binary against
//! clouds on real sockets, in sizes that take seconds. `cargo bench --bench scale` does the same in
//! the sizes that are promised.

#[path = "../../benches/support/mod.rs"]
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod support;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use support::nova::Nova;
use support::site::{Daemon, Site};
use support::{in_memory, space, trace};

/// A cycle that comes only when it is asked for.
const ON_DEMAND: u64 = 86400;

/// These tests measure: one at a time is enough beside all the others.
static ALONE: Mutex<()> = Mutex::new(());

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vcycled"))
}

#[test]
fn ten_times_the_machines_cost_each_machine_no_more() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cost = |spaces: usize, each: usize, cycles| {
        let nova = Nova::start(Duration::ZERO);
        let site = Site::populated(&nova, spaces, each, &in_memory());
        let daemon = Daemon::start(site.command(program(), ON_DEMAND));
        daemon.wait_for_decisions(spaces);
        let cost = support::steady(&nova, &daemon, (spaces, spaces * each), cycles);
        let since = SystemTime::now();
        daemon.cycle(spaces);
        assert_eq!(site.changed_since(since), 0, "a steady cycle wrote files");
        let tokens = u64::try_from(spaces).unwrap();
        assert_eq!(nova.tokens(), tokens, "the tokens were not kept");
        daemon.end();
        cost
    };
    let small = cost(1, 300, 20);
    for (spaces, each) in [(1, 3000), (10, 300)] {
        let large = cost(spaces, each, 4);
        let ratio = large.per_machine_us() / small.per_machine_us();
        assert!(ratio < 1.5, "{spaces} x {each}: processor time {ratio:.2}");
        let added = large.added_kib(&small);
        assert!(added < 15.0, "{spaces} x {each}: {added:.1} KiB a machine");
    }
}

#[test]
fn a_hundred_dead_clouds_do_not_slow_the_living_one() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let nova = Nova::start(Duration::ZERO);
    let site = Site::populated(&nova, 1, 100, &in_memory());
    let daemon = Daemon::start(site.command(program(), 1));
    let alone = support::rhythm(&nova, &daemon, &space(0), 4);
    let dead = |number: usize| {
        let refusing = "http://127.0.0.1:1/v3".to_owned();
        let url = if number.is_multiple_of(2) {
            refusing
        } else {
            nova.silent_url()
        };
        (format!("dead{number}"), url, 10)
    };
    site.spaces("dead", (0..100).map(dead));
    support::until("the dead are asked", || {
        (nova.silenced() >= 50).then_some(())
    });
    let beside = support::rhythm(&nova, &daemon, &space(0), 4);
    let told = format!("alone {alone}; beside a hundred {beside}");
    assert!(beside.period < alone.period.mul_f64(1.5), "{told}");
    let slack = Duration::from_millis(200);
    assert!(beside.length < alone.length.mul_f64(2.0) + slack, "{told}");
}

#[test]
fn a_space_is_filled_ten_machines_at_a_time() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let create = Duration::from_millis(100);
    support::fill(program(), &in_memory(), 100, create).check(3.0);
}

#[test]
fn a_start_reads_each_file_once() {
    const MACHINES: usize = 200;
    if !trace::is_possible() {
        println!("skipped: strace cannot be run here");
        return;
    }
    let nova = Nova::start(Duration::ZERO);
    let site = Site::populated(&nova, 2, MACHINES / 2, &in_memory());
    let opens = trace::start(&site, program());
    assert_eq!(opens.most_of_one, 1, "{opens:?}");
    assert!(opens.files >= 8 * MACHINES, "{opens:?}");
    assert!(opens.files + opens.missing <= 26 * MACHINES, "{opens:?}");
}
