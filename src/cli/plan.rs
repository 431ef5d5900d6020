//! `vcycled plan`: what the next cycle would do, without doing it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::args::PlanOptions;
use super::exit::{Exit, Failure};
use crate::clock::Clock;
use crate::cloud::{self, Outside};
use crate::config::{self, Config, Raw, SpaceConfig};
use crate::daemon::{Observed, Settings, find_leftovers, last_answers, listed, observe_once};
use crate::decide::leaks::{self, LeakCount, Sightings};
use crate::decide::{self, Bookkeeping, Plan};
use crate::images;
use crate::migrate::waiting;
use crate::model::{LeftoverKind, SpaceName, SpaceSnapshot, Timestamp};
use crate::observe::{Memory, Situation};
use crate::pipes;
use crate::remote::{Asking, Remotes};
use crate::rng::Seed;
use crate::state::disk::{self, Disk};
use crate::state::{Layout, Store};

/// How long a plan waits for the servers that machines write to in place of ours.
const REMOTE_PATIENCE: Duration = Duration::from_secs(15);

/// One space's plan, as `--json` prints it.
#[derive(Serialize)]
struct Planned<'a> {
    space: &'a SpaceName,
    now: Timestamp,
    seed: u64,
    #[serde(flatten)]
    plan: &'a Plan,
}

/// Things on the cloud that bear our marks.
type Counts = BTreeMap<LeftoverKind, LeakCount>;

/// Prints the plan of one space or of all.
pub fn run(settings: &Settings, options: &PlanOptions) -> Result<(), Failure> {
    match &options.snapshot {
        Some(file) => replay(settings, options, file),
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Internal, format!("cannot start: {error}")))?
            .block_on(look(settings, options)),
    }
}

/// Decides from a recorded situation. Touches no cloud and no state directory.
fn replay(settings: &Settings, options: &PlanOptions, file: &Path) -> Result<(), Failure> {
    let found = recorded(settings, options.space.as_ref(), file)?;
    let now = options.now.unwrap_or(found.now);
    print(options, &found.config, &found.snapshot, &Counts::new(), now)
}

/// A situation to decide in.
pub(super) struct Found {
    pub config: SpaceConfig,
    pub snapshot: SpaceSnapshot,
    pub now: Timestamp,
}

/// A recorded situation, which has to be that of `space` if one is named.
pub(super) fn recorded(
    settings: &Settings,
    space: Option<&SpaceName>,
    file: &Path,
) -> Result<Found, Failure> {
    let shown = file.display();
    let bytes = std::fs::read(file)
        .map_err(|error| Failure::new(Exit::Io, format!("cannot read {shown}: {error}")))?;
    let bad = |error: String| Failure::new(Exit::Data, format!("{shown}: {error}"));
    let text = String::from_utf8(bytes)
        .map_err(|error| bad(format!("not a snapshot: {}", error.utf8_error())))?;
    let situation = Situation::parse(&text).map_err(|error| bad(error.to_string()))?;
    if let Some(space) = space
        && *space != situation.space
    {
        return Err(bad(format!(
            "is about the space {}, not {space}",
            situation.space
        )));
    }
    let recorded = situation.now;
    let (config, snapshot) = situation
        .into_snapshot(&settings.config_context())
        .map_err(|error| bad(error.to_string()))?;
    let now = recorded.unwrap_or_else(|| Clock::system().now());
    Ok(Found {
        config,
        snapshot,
        now,
    })
}

/// The configuration as a daemon would take it over, and what it was read from; what is wrong with it
/// is said on standard error.
fn good_config(settings: &Settings) -> Result<(Config, Raw), Failure> {
    let pipes = pipes::read_known(&Layout::new(&settings.state_dir));
    let loaded = config::load_with(&settings.sources, &settings.config_context(), &pipes);
    let Some(config) = loaded.config else {
        for problem in &loaded.problems {
            eprintln!("{problem:#}");
        }
        return Err(Failure::new(Exit::Config, "the configuration has errors"));
    };
    Ok((config, loaded.raw))
}

/// The situation of one space at this moment, as a dry run sees it: connects to its cloud.
pub(super) async fn found_now(settings: &Settings, name: &SpaceName) -> Result<Found, Failure> {
    let (config, _) = good_config(settings)?;
    let space = config.spaces.get(name).ok_or_else(|| no_space(name))?;
    let (config, snapshot, _, _) = look_at(settings, &config, space.clone()).await?;
    Ok(Found {
        config,
        snapshot,
        now: settings.clock.now(),
    })
}

/// A name that the configuration does not have.
fn no_space(name: &SpaceName) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("there is no space {name} in the configuration"),
    )
}

async fn look(settings: &Settings, options: &PlanOptions) -> Result<(), Failure> {
    let (config, raw) = good_config(settings)?;
    let spaces: Vec<&SpaceConfig> = match &options.space {
        None => config.spaces.values().collect(),
        Some(name) => match config.spaces.get(name) {
            Some(space) => vec![space],
            None => return Err(no_space(name)),
        },
    };
    let mut failed = false;
    for space in spaces {
        match look_at(settings, &config, space.clone()).await {
            Ok((space, snapshot, memory, left)) => {
                let now = options.now.unwrap_or_else(|| settings.clock.now());
                if let Some(file) = &options.dump_snapshot {
                    let situation = Situation::record(
                        &raw,
                        &settings.factory,
                        (&space, &snapshot),
                        &memory,
                        now,
                    );
                    write_private(file, &situation.to_json())?;
                }
                print(options, &space, &snapshot, &left, now)?;
            }
            Err(failure) => {
                failed = true;
                if let Some(message) = failure.message {
                    eprintln!("vcycled: space {}: {message}", space.name);
                }
            }
        }
    }
    if failed {
        Err(Failure::silent(Exit::Unavailable))
    } else {
        Ok(())
    }
}

/// A snapshot holds what a site may not want everybody to see.
fn write_private(file: &Path, text: &str) -> Result<(), Failure> {
    let directory = disk::directory_of(file);
    let written = Disk::default().write(directory, file, text.as_bytes(), disk::PRIVATE);
    written.map_err(|error| {
        Failure::new(
            Exit::Io,
            format!("cannot write {}: {error}", file.display()),
        )
    })
}

/// Connects to one space and scans it, beside a running daemon or without one.
async fn look_at(
    settings: &Settings,
    config: &Config,
    mut space: SpaceConfig,
) -> Result<(SpaceConfig, SpaceSnapshot, Memory, Counts), Failure> {
    let store = Arc::new(Store::open_to_read(&settings.state_dir));
    space.ordered_shutdown = store
        .ordered_shutdown(&space.name)
        .map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
    let io = |error: crate::state::StateError| Failure::new(Exit::Io, error.to_string());
    let waiting = waiting::everywhere(store.layout(), &settings.factory).map_err(io)?;
    if let Some(waiting) = waiting.get(&space.name) {
        let text = format!("nothing is created or destroyed: {waiting}");
        return Err(Failure::new(Exit::Unavailable, text));
    }
    let memory = remember(&store, &space)?;
    let unavailable = |error: cloud::CloudError| Failure::new(Exit::Unavailable, error.to_string());
    let outside = Outside::real(&config.server.ca_path, settings.clock.clone());
    let cloud = cloud::connect(&space, &settings.state_dir, &outside, cloud::Use::Look)
        .await
        .map_err(unavailable)?;
    let Observed {
        mut snapshot,
        unread,
        lost,
        untold,
    } = observe_once(cloud.as_ref(), &space, &settings.factory, &store, &memory)
        .await
        .map_err(unavailable)?;
    for problem in unread {
        eprintln!("vcycled: {problem}");
    }
    for machine in lost {
        eprintln!("vcycled: the directory of {machine}, which runs, was removed");
    }
    if let Some(error) = untold {
        eprintln!("vcycled: a machine is not listed, and whether it is gone is not told: {error}");
    }
    ask_remotes(settings, config, &space, &store, &mut snapshot).await?;
    let rule = (config.server.ca_path.as_path(), settings.clock.now());
    let (cloud_of, layout) = (cloud.as_ref(), store.layout());
    snapshot.images = images::look_once(&space, cloud_of, &settings.factory, layout, rule).await;
    let before = Sightings::new();
    let finding = find_leftovers(cloud_of, &space, &settings.factory, &snapshot, &before);
    let (_, found) = finding.await;
    let (found, now) = (listed(&found), settings.clock.now());
    let leaks = leaks::leaks(&space, &snapshot, &BTreeSet::new(), &found, &before, now);
    Ok((space, snapshot, memory, leaks.counts))
}

/// Asks the servers that machines write to in place of ours. Since when they answer is not known to
/// one look, and not asked for: what a machine has not written counts.
async fn ask_remotes(
    settings: &Settings,
    config: &Config,
    space: &SpaceConfig,
    store: &Store,
    snapshot: &mut SpaceSnapshot,
) -> Result<(), Failure> {
    if !Remotes::are_used(space) {
        return Ok(());
    }
    let on_file =
        last_answers(store, space).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
    let asking = Asking {
        config: space,
        clock: &settings.clock,
        break_after: settings.interval + settings.interval,
        on_file,
        patience: REMOTE_PATIENCE,
    };
    let mut remotes = Remotes::default();
    remotes.trust(&config.server.ca_path);
    let found = remotes.ask(&asking, snapshot).await;
    for remote in snapshot.remotes.values_mut() {
        remote.answering_since = None;
    }
    for (machinetype, heard) in found.servers {
        if let Some((machine, trouble)) = heard.trouble {
            eprintln!(
                "vcycled: machinetype {machinetype}: remote_joboutputs_url: {machine}: {}",
                trouble.text()
            );
        }
    }
    Ok(())
}

/// What a daemon that starts now would remember of the space.
fn remember(store: &Store, space: &SpaceConfig) -> Result<Memory, Failure> {
    let io = |error: crate::state::StateError| Failure::new(Exit::Io, error.to_string());
    let loaded = store.load_machines().map_err(io)?;
    for unread in &loaded.unread {
        eprintln!("vcycled: {unread}");
    }
    let of_space = loaded
        .machines
        .into_iter()
        .filter(|files| files.space == space.name);
    let mut memory = Memory::of(of_space);
    memory.recall(store, space).map_err(io)?;
    Ok(memory)
}

fn print(
    options: &PlanOptions,
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    left: &Counts,
    now: Timestamp,
) -> Result<(), Failure> {
    let seed = options.seed.map_or_else(Seed::from_entropy, Seed);
    let plan = decide::decide(config, snapshot, now, seed);
    let planned = Planned {
        space: &config.name,
        now,
        seed: seed.0,
        plan: &plan,
    };
    let text = if options.json {
        let mut json = serde_json::to_string_pretty(&planned)
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        json.push('\n');
        json
    } else {
        for_people(&planned, left)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}")))
}

fn for_people(planned: &Planned<'_>, left: &Counts) -> String {
    let of = |have: String, limit: Option<u32>| match limit {
        Some(limit) => format!("{have} of {limit}"),
        None => format!("{have}, no limit known"),
    };
    let plan = planned.plan;
    let space = &plan.report.space;
    let mut lines = vec![
        format!(
            "space {} at {} (seed {})",
            planned.space,
            planned.now.to_rfc3339(),
            planned.seed
        ),
        format!(
            "  machines {} ({} not ours); processors {}",
            of(space.machines.to_string(), space.machines_limit),
            space.foreign_machines,
            of(space.processors.to_string(), space.processors_limit),
        ),
    ];
    if let Some(at) = space.shutdown_time {
        lines.push(format!(
            "  has to be down by {}{}",
            at.to_rfc3339(),
            if space.shutdown_ordered {
                " (set by vcycled shutdown)"
            } else {
                " (shutdown_time)"
            }
        ));
    }
    lines.push(format!("  would write down {}", plan.bookkeeping.len()));
    for action in &plan.bookkeeping {
        lines.push(format!("    {} {}", action.machine(), about(action)));
    }
    lines.push(format!("  would destroy {}", plan.deletes.len()));
    for delete in &plan.deletes {
        let message = delete
            .message
            .map_or_else(String::new, |message| format!(" ({message})"));
        lines.push(format!("    {} {}{message}", delete.machine, delete.reason));
    }
    lines.push(format!("  would create {}", plan.creates.len()));
    for create in &plan.creates {
        let placements = create.placements.iter();
        let places: Vec<_> = placements.map(ToString::to_string).collect();
        lines.push(format!(
            "    {} flavor {}",
            create.machine,
            places.join(", else ")
        ));
    }
    let no_room = space.exhausted.iter();
    lines.extend(no_room.map(|no_room| format!("  {no_room}")));
    for (name, report) in &plan.report.machinetypes {
        lines.push(format!(
            "  machinetype {name}: {} machine(s), {} starting, {} running, share {}; no more because: {}",
            report.machines, report.starting, report.running, report.target_share, report.stopped_by
        ));
    }
    lines.extend(left_over(left));
    lines.push(String::new());
    lines.join("\n")
}

/// Things of ours that nothing uses, if there are any. When they were first seen, and so when they
/// will be removed, only a running daemon knows.
fn left_over(counts: &Counts) -> Option<String> {
    let some = counts.iter().filter(|(_, count)| count.left > 0);
    let some: Vec<_> = some
        .map(|(kind, count)| format!("{} {kind}(s)", count.left))
        .collect();
    (!some.is_empty()).then(|| format!("  left over, used by nothing: {}", some.join(", ")))
}

fn about(action: &Bookkeeping) -> String {
    match action {
        Bookkeeping::Adopt { listed, .. } => format!("has no directory, adopt {}", listed.id),
        Bookkeeping::Identify { id, .. } => format!("is {id} on the cloud"),
        Bookkeeping::Start { at, .. } => format!("runs since {}", at.to_rfc3339()),
        Bookkeeping::Miss { .. } => "is not listed".to_owned(),
        Bookkeeping::Return { .. } => "is listed again".to_owned(),
        Bookkeeping::Reopen { .. } => "has appeared after all".to_owned(),
        Bookkeeping::Shutdowntime { at, .. } => format!("be down by {}", at.to_rfc3339()),
        Bookkeeping::Volumes { volumes, .. } => format!("has volume(s) {}", volumes.join(", ")),
        Bookkeeping::Exhausted { .. } => "shows that the cloud has no room there".to_owned(),
        Bookkeeping::Finish(finish) => format!(
            "ended at {}: {}{}",
            finish.stopped.to_rfc3339(),
            finish.how,
            if finish.abort { " (an abort)" } else { "" }
        ),
        Bookkeeping::Stop { at, .. } => format!(
            "ended at {}, wait for what it said on the remote server",
            at.to_rfc3339()
        ),
        Bookkeeping::KeepJoboutputs { .. } => "copy its joboutputs".to_owned(),
        Bookkeeping::Forget { .. } => {
            "has been over for long enough, remove its directory".to_owned()
        }
    }
}
