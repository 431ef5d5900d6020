//! vcycle: a VM lifecycle manager daemon. This page is the map of the code.
//!
//! One pass over one space goes one way:
//!
//! ```text
//!     files + vacuum pipes        cloud + directories
//!              |                          |
//!           config  ------------------> observe
//!              |                          |   SpaceSnapshot
//!              +-----------+--------------+
//!                          v
//!                       decide            pure: (config, snapshot, now, seed) -> Plan
//!                          |   Plan: bookkeeping, deletes, creates, and why not more
//!              +-----------+--------------+
//!              v                          v
//!           record                       act
//!   directories, abort times,     deletes, then creates,
//!   accounting, memory            on the cloud
//! ```
//!
//! [`daemon::run`] does that for every space in a task of its own, at every tick. There are no
//! retries inside a pass that change anything: the next pass is the retry. Every ten minutes a pass
//! ends with a look for what machines left behind ([`decide::leaks`]). The dry run
//! (`vcycled plan`) and replays go through the same observe and decide and stop there.
//!
//! Each module uses only what stands above it in this table, which a test compares with the code:
//!
//! | module | what it is for | uses |
//! | --- | --- | --- |
//! | [`model`] | names, units, times, machines: plain data | nothing |
//! | [`clock`] | the only place that reads the time | model |
//! | [`rng`] | the only place that reads entropy | nothing |
//! | [`blocking`] | where work that may block is done | nothing |
//! | [`metrics`] | what is counted while it happens | model |
//! | [`telemetry`] | the log: where it goes, how much is told, and what has been told already | model |
//! | [`config`] | from files to typed, checked values; every problem with file and line | model |
//! | [`state`] | the state directory; the only place that knows its names | model |
//! | [`cloud`] | the seam to the clouds, and the adapters behind it | blocking, clock, config, metrics, model, rng, state |
//! | [`images`] | images from files and URLs on their way to a cloud | blocking, clock, cloud, config, model, state, telemetry |
//! | [`observe`] | joins what the cloud lists with what the directories say; what is remembered between passes | config, model, state |
//! | [`remote`] | asks remote servers what machines left there | blocking, clock, cloud, config, model, state |
//! | [`decide`] | what to write down, destroy and create | config, model, rng |
//! | [`act`] | carries out deletes, creates and removals | blocking, clock, cloud, config, decide, model, rng, state, telemetry |
//! | [`account`] | APEL records and where they go | config, model, state |
//! | [`events`] | tells what has happened, one line of JSON each | blocking, model, state |
//! | [`record`] | writes down what was found out and done, and tells it | account, act, cloud, config, decide, events, metrics, model, observe, state, telemetry |
//! | [`pipes`] | fetches vacuum pipes beside all passes, and keeps what they said | blocking, clock, cloud, config, model, rng, state, telemetry |
//! | [`vacmon`] | what monitoring services are told, over UDP | config, decide, model, telemetry |
//! | [`server`] | HTTPS for the machines: features out, heartbeats and messages in | blocking, clock, config, metrics, model, state |
//! | [`migrate`] | takes over the state directories of older versions | account, config, model, state |
//! | [`daemon`] | the driver and the tasks of the spaces | all above |
//! | [`cli`] | the command line | all above |
//!
//! Commands beside a running daemon tell it something through [`state::order`] and, of what it logs,
//! over its local socket, [`daemon::admin`], where they also ask it. Monitoring systems and browsers
//! ask it over HTTP, in `daemon::web`; what browsers are shown is [`daemon::dashboard`].
//!
//! What holds everywhere:
//!
//! 1. [`decide`] never fails, never does I/O, and never reads a clock.
//! 2. Without a complete listing nothing is destroyed, created or written down.
//! 3. What must survive a crash is on disk before the cloud is asked ([`act`]), and the end of a
//!    machine is written so that each step can be repeated ([`record`]).
//! 4. Memory is a cache of the state directory. A daemon that is killed at any instruction goes
//!    on from the files.
//! 5. The [`server`] never sees a cloud and the clouds' adapters never see a machine's directory;
//!    they meet in files. (The embedded cloud keeps a file of its own below the state directory.)
//! 6. A secret is a [`model::Secret`] from where it is read to where it is sent.
//! 7. There is one writer for each thing: one daemon on a state directory, one task for a space,
//!    and values that are handed over, not locks that are shared.

pub mod account;
pub mod act;
pub mod blocking;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod daemon;
pub mod decide;
pub mod events;
pub mod images;
pub mod metrics;
pub mod migrate;
pub mod model;
pub mod observe;
pub mod pipes;
pub mod record;
pub mod remote;
pub mod rng;
pub mod server;
pub mod state;
pub mod telemetry;
pub mod vacmon;
