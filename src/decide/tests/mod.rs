//! The rules as tables, in a notation that lets a whole situation fit on a screen.
//!
//! A situation is one thing per line, followed by `name=value` words (`~` for a blank in a value).
//! Times are seconds from now: `-60` is a minute ago, `+60` in a minute.
//!
//! ```text
//! space max_machines=20            options of the space
//! quota machines=10 processors=40  what the cloud allows
//! a target_share=2                 a machinetype: as in testing.rs, fizzle and backoff are 600 s
//! history a abort=-700 failures=1 failed=-30
//! scans previous=-60 empty=3       the scan before, and suspect scans in a row
//! scans listening=-900             since when our server has been up
//! foreign 3 processors=8           VMs that are not ours
//! a.1 running started=-90          a machine: its name is vcycle-a-0000000001, created an hour ago
//! a.1 also starting id=x           one more VM with the name of the machine above
//! a.2 unlisted missed=1            a directory whose VM is not in the listing
//! a.3 pending                      the same without an id: the answer has not come
//! unfiled a.4 running              a VM with our marks and no directory
//! ```
//!
//! The plan is written the same way: bookkeeping, deletes and creates in order (creates of one
//! kind in a row as one line). `why` lines are compared only for the machinetypes they name.

use std::fmt::Write as _;

use super::testing;
use super::{Bookkeeping, Plan, decide};
use crate::config::{ImageSource, SpaceConfig};
use crate::model::{
    CloudId, CloudMachine, Ended, Heartbeat, Hs06, Machine, MachineName, MachineState,
    MachinetypeName, Marks, Place, Processors, Seconds, Shortage, ShutdownMessage, SpaceSnapshot,
    Timestamp,
};
use crate::rng::Seed;

mod bookkeeping;
mod creating;
mod destroying;
mod explaining;
mod leaks;
mod pauses;
mod placing;
mod properties;
mod remote;
mod shares;
pub(crate) mod worlds;

/// The moment at which all tables are decided.
pub(crate) const NOW: Timestamp = Timestamp::from_unix(1_000_000_000);

/// Decides `situation` and compares the plan with `expected`.
#[track_caller]
pub(super) fn check(situation: &str, expected: &str) {
    let (config, snapshot) = read(situation);
    let plan = decide(&config, &snapshot, NOW, Seed(1));
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut actual = actions(&plan);
    for (machinetype, report) in &plan.report.machinetypes {
        let start = format!("why {machinetype}: ");
        if expected.iter().any(|line| line.starts_with(&start)) {
            actual.push(start + &relative(&report.stopped_by.to_string()));
        }
    }
    assert_eq!(
        actual,
        expected,
        "\n--- decided ---\n{}\n--- from ---\n{situation}",
        actual.join("\n")
    );
}

fn at(offset: i64) -> Timestamp {
    Timestamp::from_unix(NOW.unix().checked_add_signed(offset).unwrap())
}

fn offset(time: Timestamp) -> String {
    if time >= NOW {
        format!("+{}", time.since(NOW))
    } else {
        format!("-{}", NOW.since(time))
    }
}

/// Moments in a text as offsets.
fn relative(text: &str) -> String {
    text.split(' ')
        .map(|word| Timestamp::parse_iso8601(word).map_or_else(|| word.to_owned(), offset))
        .collect::<Vec<_>>()
        .join(" ")
}

/// `vcycle-a-0000000001` as `a.1`.
fn short(name: &MachineName) -> String {
    let machinetype = name.machinetype().unwrap();
    let (_, number) = name.as_str().rsplit_once('-').unwrap();
    format!("{machinetype}.{}", number.trim_start_matches('0'))
}

fn long(short: &str) -> String {
    let (machinetype, number) = short.split_once('.').expect(short);
    format!("vcycle-{machinetype}-{number:0>10}")
}

fn actions(plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = plan.bookkeeping.iter().map(bookkeeping_line).collect();
    lines.extend(plan.deletes.iter().map(|delete| {
        let why = delete
            .message
            .map_or_else(|| delete.reason.to_string(), str::to_owned);
        let id = if delete.id.as_str() == format!("id-{}", delete.machine) {
            String::new()
        } else {
            format!(" id={}", delete.id)
        };
        format!("delete {}{id}: {why}", short(&delete.machine))
    }));
    let mut creates: Vec<(String, u32)> = Vec::new();
    for create in &plan.creates {
        let placements = create.placements.iter();
        let places: Vec<_> = placements
            .map(|one| one.to_string().replace(" in ", "@"))
            .collect();
        let line = format!("create {} {}", create.machinetype, places.join(","));
        match creates.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => creates.push((line, 1)),
        }
    }
    lines.extend(creates.into_iter().map(|(line, count)| match count {
        1 => line,
        _ => format!("{line} x{count}"),
    }));
    lines
}

fn bookkeeping_line(action: &Bookkeeping) -> String {
    match action {
        Bookkeeping::Adopt {
            machine,
            machinetype,
            listed,
        } => format!("adopt {} as {machinetype} id={}", short(machine), listed.id),
        Bookkeeping::Identify { machine, id } => format!("identify {} id={id}", short(machine)),
        Bookkeeping::Start { machine, at, .. } => {
            format!("start {} {}", short(machine), offset(*at))
        }
        Bookkeeping::Miss {
            machine,
            last_running,
        } => format!("miss {} {}", short(machine), offset(*last_running)),
        Bookkeeping::Return { machine } => format!("return {}", short(machine)),
        Bookkeeping::Reopen { machine } => format!("reopen {}", short(machine)),
        Bookkeeping::Shutdowntime { machine, at } => {
            format!("shutdowntime {} {}", short(machine), offset(*at))
        }
        Bookkeeping::Volumes { machine, volumes } => {
            format!("volumes {} {}", short(machine), volumes.join(","))
        }
        Bookkeeping::Exhausted {
            machine,
            places,
            at,
            ..
        } => {
            let shown = places.iter().map(|place| {
                let flavor = place.flavor.trim_start_matches("flavor-");
                let zone = place.zone.as_ref();
                zone.map_or_else(|| flavor.to_owned(), |zone| format!("{flavor}@{zone}"))
            });
            let shown: Vec<_> = shown.collect();
            format!(
                "exhausted {} {} {}",
                short(machine),
                shown.join(","),
                offset(*at)
            )
        }
        Bookkeeping::Finish(finish) => {
            let mut line = format!(
                "finish {} {}",
                short(&finish.machine),
                offset(finish.stopped)
            );
            match finish.started {
                Some(started) => write!(line, " ran {}", finish.stopped.since(started)).unwrap(),
                None if finish.never_ran() && finish.pauses => line.push_str(" never ran"),
                None if finish.never_ran() => line.push_str(" never ran for want of room"),
                None => line.push_str(" ran unseen"),
            }
            if let Some(code) = finish.code {
                write!(line, " code {code}").unwrap();
            }
            if finish.abort {
                line.push_str(" ABORT");
            }
            if finish.account {
                line.push_str(" account");
            }
            line
        }
        Bookkeeping::Stop { machine, at, .. } => format!("stop {} {}", short(machine), offset(*at)),
        Bookkeeping::KeepJoboutputs { machine, .. } => format!("keep {}", short(machine)),
        Bookkeeping::Forget { machine } => format!("forget {}", short(machine)),
    }
}

/// Reads a situation.
pub(super) fn read(situation: &str) -> (SpaceConfig, SpaceSnapshot) {
    let mut config = testing::space("");
    let mut snapshot = testing::snapshot(Vec::new());
    snapshot.previous_scan = Some(at(-60));
    for line in situation.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let options = options(&words);
        match words[0] {
            "space" => space(&mut config, &options),
            "quota" => {
                for (name, value) in options {
                    match name {
                        "machines" => snapshot.facts.limits.machines = Some(value.parse().unwrap()),
                        "processors" => {
                            snapshot.facts.limits.processors = Some(value.parse().unwrap());
                        }
                        other => panic!("{other}"),
                    }
                }
            }
            "history" => history(&mut snapshot, words[1], &options),
            "scans" => {
                for (name, value) in options {
                    match name {
                        "previous" => snapshot.previous_scan = moment(&value),
                        "empty" => snapshot.empty_scans = value.parse().unwrap(),
                        "listening" => snapshot.listening_since = moment(&value),
                        other => panic!("{other}"),
                    }
                }
            }
            "exhausted" => {
                let (flavor, zone) = words[1].split_once('@').unwrap_or((words[1], ""));
                let place = Place {
                    flavor: format!("flavor-{flavor}"),
                    zone: (!zone.is_empty()).then(|| zone.to_owned()),
                };
                let at = moment(&options[0].1).unwrap();
                snapshot.exhausted.insert(place, at);
            }
            "foreign" => {
                snapshot.foreign_machines = words[1].parse().unwrap();
                snapshot.foreign_processors = Processors::new(options[0].1.parse().unwrap());
            }
            "unfiled" => {
                let mut vm = testing::listed(&long(words[1]), state(words[2]).unwrap());
                vm.marks = Some(Marks {
                    space: "example.org".to_owned(),
                    manager: "factory.example.org".to_owned(),
                    machinetype: None,
                    name: None,
                });
                of_the_cloud(&mut vm, &options);
                snapshot.unfiled.push(vm);
            }
            name if name.contains('.') => machine(&mut snapshot, name, &words, &options),
            name => {
                let configured = machinetype(name, &options);
                config
                    .machinetypes
                    .insert(configured.name.clone(), configured);
            }
        }
    }
    (config, snapshot)
}

fn options<'a>(words: &[&'a str]) -> Vec<(&'a str, String)> {
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name, value.replace('~', " ")))
        .collect()
}

/// `+60`, `-60`, `0`; `none` is no moment.
fn moment(text: &str) -> Option<Timestamp> {
    (text != "none").then(|| at(text.parse().expect(text)))
}

fn state(word: &str) -> Option<MachineState> {
    Some(match word {
        "starting" => MachineState::Starting,
        "running" => MachineState::Running,
        "shutdown" => MachineState::Shutdown,
        "deleting" => MachineState::Deleting,
        "failed" => MachineState::Failed,
        "unknown" => MachineState::Unknown,
        _ => return None,
    })
}

fn space(config: &mut SpaceConfig, options: &[(&str, String)]) {
    for (name, value) in options {
        match *name {
            "max_machines" => config.max_machines = Some(value.parse().unwrap()),
            "processors_limit" => config.processors_limit = Some(value.parse().unwrap()),
            "shutdown_time" => config.shutdown_time = moment(value),
            "ordered_shutdown" => config.ordered_shutdown = moment(value),
            "grace_seconds" => config.grace = Seconds::new(value.parse().unwrap()),
            "zones" => config.api = testing::openstack(&value.replace(',', " ")),
            "cleanup_hours" => config.cleanup = Seconds::new(3600 * value.parse::<u64>().unwrap()),
            other => panic!("{other}"),
        }
    }
}

fn machinetype(name: &str, options: &[(&str, String)]) -> crate::config::MachinetypeConfig {
    let (mut here, mut there) = (Vec::new(), String::new());
    for (name, value) in options {
        match *name {
            "hs06_per_processor" | "cpu_per_machine" | "min_processors" | "root_image" => {
                here.push((*name, value));
            }
            _ => writeln!(there, "{name}={}", value.replace(',', " ")).unwrap(),
        }
    }
    let mut config = testing::machinetype(name, &there);
    for (name, value) in here {
        match name {
            "hs06_per_processor" => {
                config.hs06_per_processor = Some(Hs06::new(value.parse().unwrap()).unwrap());
            }
            "cpu_per_machine" => config.min_processors = Processors::new(value.parse().unwrap()),
            "min_processors" => {
                config.min_processors = Processors::new(value.parse().unwrap());
                config.flavor_min_processors = Some(config.min_processors);
            }
            _ => config.root_image = ImageSource::File(value.into()),
        }
    }
    config
}

fn history(snapshot: &mut SpaceSnapshot, name: &str, options: &[(&str, String)]) {
    let name = MachinetypeName::new(name).unwrap();
    let history = snapshot.history.entry(name).or_default();
    for (name, value) in options {
        match *name {
            "abort" => history.last_abort = moment(value),
            "failures" => history.failures = value.parse().unwrap(),
            "failed" => history.last_failure = moment(value),
            other => panic!("{other}"),
        }
    }
}

fn machine(snapshot: &mut SpaceSnapshot, name: &str, words: &[&str], options: &[(&str, String)]) {
    let long = long(name);
    if words[1] == "also" {
        let mut vm = testing::listed(&long, state(words[2]).unwrap());
        of_the_cloud(&mut vm, options);
        let machine = snapshot.machines.last_mut().unwrap();
        assert_eq!(machine.files.name.as_str(), long);
        machine.listed.push(vm);
        return;
    }
    let mut files = testing::files(&long, at(-3600).unix());
    files.id = Some(CloudId::new(format!("id-{long}")));
    let mut machine = match (words[1], state(words[1])) {
        ("pending", None) => {
            files.id = None;
            testing::unlisted(files)
        }
        ("unlisted", None) => testing::unlisted(files),
        (_, Some(state)) => Machine {
            listed: vec![testing::listed(&long, state)],
            missed_scans: 0,
            unconfirmed: false,
            ..testing::unlisted(files)
        },
        (other, None) => panic!("{other}"),
    };
    for (name, value) in options {
        on_file(&mut machine, name, value);
    }
    let told: Vec<_> = options
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("cloud-")?, value.clone())))
        .collect();
    if let Some(vm) = machine.listed.first_mut() {
        of_the_cloud(vm, &told);
    }
    snapshot.machines.push(machine);
}

fn on_file(machine: &mut Machine, name: &str, value: &str) {
    let files = &mut machine.files;
    let seconds = || Some(Seconds::new(value.parse().unwrap()));
    match name {
        "id" => files.id = (value != "none").then(|| CloudId::new(value)),
        "created" => files.created = moment(value).unwrap(),
        "started" => files.started = moment(value),
        "updated" => files.updated = moment(value),
        "stopped" => files.stopped = moment(value),
        "clock_set_back" => files.clock_set_back = seconds(),
        "finished" => files.finished = moment(value),
        "deleted" => files.deleted = moment(value),
        "shutdowntime" => files.shutdowntime = moment(value),
        "wall_limit" => files.wall_limit = seconds(),
        "fizzle" => files.fizzle = seconds(),
        "processors" => files.processors = Some(Processors::new(value.parse().unwrap())),
        "flavor" => files.flavor = Some(format!("flavor-{value}")),
        "zone" => files.zone = Some(value.to_owned()),
        "volumes" => files.volumes = vec![value.to_owned()],
        "ended" => files.ended = Some(Ended::from_word(value)),
        "missed" => machine.missed_scans = value.parse().unwrap(),
        "first" => machine.first_running = moment(value),
        "seen" => machine.last_running = moment(value),
        "heard" => machine.heard_since = moment(value),
        "tries" => machine.delete_tries = value.parse().unwrap(),
        "message" => machine.shutdown_message = Some(ShutdownMessage::parse(value)),
        "heartbeat" => {
            machine.heartbeat = match value {
                "missing" => Heartbeat::Missing,
                _ => Heartbeat::At(moment(value).unwrap()),
            };
        }
        other => assert!(other.starts_with("cloud-"), "{other}"),
    }
}

fn of_the_cloud(vm: &mut CloudMachine, options: &[(&str, String)]) {
    for (name, value) in options {
        match *name {
            "id" => vm.id = CloudId::new(value.clone()),
            "created" => vm.created = moment(value),
            "started" => vm.started = moment(value),
            "updated" => vm.updated = moment(value),
            "processors" => {
                vm.processors = value.parse().ok().map(Processors::new);
            }
            "volumes" => vm.volumes = value.split(',').map(str::to_owned).collect(),
            "shortage" => {
                vm.shortage = Some(match value.as_str() {
                    "hosts" => Shortage::Hosts,
                    "quota" => Shortage::Quota,
                    other => panic!("{other}"),
                });
            }
            "machinetype" => {
                if let Some(marks) = &mut vm.marks {
                    marks.machinetype = Some(value.clone());
                }
            }
            other => panic!("{other}"),
        }
    }
}
