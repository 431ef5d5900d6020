//! Which seeds are run, and what is told of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::world::{Outcome, simulate};

/// Seeds of an ordinary run of the tests.
const FEW: u64 = 100;
/// Seeds that have failed once, for a bug of the product or of these checks. What a seed shows depends
/// on the draws: when those change this list begins anew, and the bugs are kept as `planted/*.patch`.
const ONCE_FAILED: [u64; 1] = [153];

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// The seeds that find the bugs in `planted`, as those say: without the bug they have to run clean.
fn of_planted_bugs() -> Vec<u64> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/planted");
    let mut seeds = Vec::new();
    for patch in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(patch.unwrap().path()).unwrap();
        let named = text
            .lines()
            .filter_map(|line| line.strip_prefix("# Seed: "));
        seeds.extend(named.map(|seed| seed.parse::<u64>().unwrap()));
    }
    seeds
}

/// Where the transcript of a failing seed is kept.
fn keep(outcome: &Outcome) -> String {
    let path = std::env::temp_dir().join(format!("vcycle-sim-{}.txt", outcome.seed));
    std::fs::write(&path, outcome.transcript.join("\n")).unwrap();
    path.display().to_string()
}

fn tell(outcome: &Outcome) -> String {
    let what = outcome.violation.as_deref().unwrap_or("nothing");
    format!(
        "seed {}: {what}\n  replay: VCYCLE_SIM_SEED={} cargo test --test sim seeds -- --nocapture\n  transcript: {}",
        outcome.seed,
        outcome.seed,
        keep(outcome)
    )
}

/// Runs seeds, on all processors.
fn run(seeds: &[u64]) -> (Vec<Outcome>, BTreeMap<String, u64>) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let tally: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let most = number("VCYCLE_SIM_FAILURES").unwrap_or(1);
    let sought = std::env::var("VCYCLE_SIM_SAYS").ok();
    let is_sought = |line: &str| sought.as_ref().is_some_and(|text| line.contains(text));
    let work = || {
        loop {
            let seed = seeds.get(next.fetch_add(1, Ordering::SeqCst));
            let failed = failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len();
            let Some(&seed) = seed.filter(|_| u64::try_from(failed).unwrap() < most) else {
                return;
            };
            let outcome = simulate(seed);
            {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                for (what, count) in &outcome.tally {
                    *tally.entry(what.clone()).or_default() += count;
                }
            }
            for line in outcome.transcript.iter().filter(|line| is_sought(line)) {
                println!("seed {seed} says: {line}");
            }
            if outcome.violation.is_some() {
                println!("{}", tell(&outcome));
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(outcome);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    (
        failures,
        tally.into_inner().unwrap_or_else(PoisonError::into_inner),
    )
}

#[test]
fn seeds_run_clean() {
    let seeds: Vec<u64> = match number("VCYCLE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number("VCYCLE_SIM_FIRST").unwrap_or(0);
            let end = first + number("VCYCLE_SIM_SEEDS").unwrap_or(FEW);
            let mut others: Vec<u64> = ONCE_FAILED.into_iter().chain(of_planted_bugs()).collect();
            others.retain(|seed| *seed >= end);
            others.sort_unstable();
            others.dedup();
            (first..end).chain(others).collect()
        }
    };
    let began = std::time::Instant::now();
    let (failures, tally) = run(&seeds);
    for (what, count) in &tally {
        println!("{count:>12}  {what}");
    }
    println!(
        "{} seed(s) from {} in {:.1} s",
        seeds.len(),
        seeds[0],
        began.elapsed().as_secs_f64()
    );
    assert!(failures.is_empty(), "{} seed(s) failed", failures.len());
}

#[test]
fn a_seed_is_the_same_each_time() {
    let seed = number("VCYCLE_SIM_SEED").unwrap_or(7);
    let [first, second] = [simulate(seed), simulate(seed)];
    for (line, (one, other)) in first.transcript.iter().zip(&second.transcript).enumerate() {
        if one != other {
            let before = first.transcript[line.saturating_sub(20)..line].join("\n");
            panic!("line {line}:\n{before}\n- {one}\n+ {other}");
        }
    }
    assert_eq!(first.transcript.len(), second.transcript.len());
}
