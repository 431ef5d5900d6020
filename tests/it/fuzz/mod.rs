//! Fuzzing: every parser that meets text from outside, with generated and with mutated input.
//!
//! Each target is a property over many inputs. The normal suite tries a few; `VCYCLE_FUZZ_CASES`
//! sets how many a cheap target tries, and one that needs sockets or many files tries a hundredth
//! of that (see tests/README.md). What fails is shrunk, printed and kept in
//! `tests/proptest-regressions/`, which is tried first from then on: commit it.
//!
//! | target | input |
//! | --- | --- |
//! | `config` | configuration text, against every Python that is found; any bytes |
//! | `openstack` | recorded answers of an OpenStack, mutated, through the adapter |
//! | `ec2` | answers of an EC2, mutated, through the adapter |
//! | `memory` | answers that never end, with a bound on resident memory |
//! | `state` | anything in the place of any file of a machine's directory, and of what a space has in words |
//! | `situation` | the JSON of `vcycled plan --snapshot`, and decisions from it |
//! | `simulated` | the file of the embedded cloud |
//! | `vacuum_pipe` | the documents of vacuum pipes, to the configuration that comes of them |
//! | `proxies` | certificates and keys that proxies are made from |
//! | `server` | paths of requests, and chains of certificates |
//! | `texts` | shutdown_message, DNs, cloud errors, user_data templates, names |
//!
//! Parsers that nothing outside their module sees have their properties beside them (`src/config/ini.rs`,
//! `src/server/path.rs`, `src/cloud/openstack/wire.rs`, `src/cloud/ec2/xml.rs`).

mod bytes;
mod config;
#[cfg(feature = "ec2")]
mod ec2;
mod json;
mod memory;
mod openstack;
mod proxies;
mod pythons;
mod server;
mod simulated;
mod situation;
mod state;
mod texts;
mod vacuum_pipe;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};

/// How dear one case is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// Microseconds: a parser.
    Cheap,
    /// Milliseconds: sockets, directories, other processes.
    Dear,
}

/// How many cases a target tries: `usual` unless the environment says otherwise.
fn cases(cost: Cost, usual: u32) -> u32 {
    let told = std::env::var("VCYCLE_FUZZ_CASES").ok();
    let Some(told) = told.and_then(|told| told.parse::<u32>().ok()) else {
        return usual;
    };
    match cost {
        Cost::Cheap => told,
        Cost::Dear => (told / 100).max(1),
    }
}

/// Tries a property; what fails is kept for the module in `file`.
fn fuzz<S: Strategy>(
    file: &'static str,
    cases: u32,
    inputs: &S,
    property: impl Fn(S::Value) -> TestCaseResult,
) {
    let config = ProptestConfig {
        cases,
        max_global_rejects: u32::MAX,
        max_shrink_iters: 20_000,
        source_file: Some(file),
        ..ProptestConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(inputs, property) {
        panic!("{error}");
    }
}
