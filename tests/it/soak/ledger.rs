//! The books of a soak: what the cloud had, what the directories said, what was accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use super::site::{SPACES, Site};
use crate::daemon::factory::entries;

/// `fizzle_seconds` of the demo's machinetypes.
const FIZZLE: u64 = 120;
/// A listing may be that of two minutes ago, and so may be the end of a machine; and the clock of
/// these tests is fast.
const DOUBT: u64 = 150;
/// The longest that a VM may be without a directory that expects it, or the other way round:
/// deletes that fail are repeated once an hour.
const ORPHANED: u64 = 3 * 3600;

/// A VM as the cloud has shown it.
#[derive(Debug, Default)]
struct Vm {
    launched: Option<u64>,
    /// When it shut itself down.
    halted: Option<u64>,
}

/// A machine whose directory says that it is over.
#[derive(Debug)]
struct Over {
    id: Option<String>,
    ran: Option<u64>,
    at: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    vms: BTreeMap<String, Vm>,
    over: BTreeMap<String, Over>,
    /// What does not fit at the moment, and since when.
    odd: BTreeMap<String, u64>,
    pub servers: usize,
    pub directories: usize,
    pub unfinished: usize,
    pub records: usize,
    removed: usize,
    pub found: BTreeSet<String>,
}

impl Ledger {
    /// Notes what the clouds have now.
    pub fn look(&mut self, site: &Site) {
        self.servers = 0;
        for space in SPACES {
            for server in site.servers(space) {
                self.servers += 1;
                let id = server["id"].as_str().unwrap().to_owned();
                let vm = self.vms.entry(id).or_default();
                vm.launched = vm.launched.or_else(|| server["launched"].as_u64());
                if server["phase"] == "shutoff" && server["gone_at"].is_null() {
                    vm.halted = vm.halted.or_else(|| server["updated"].as_u64());
                }
            }
        }
    }

    /// Goes through the machines' directories.
    pub fn go_through_directories(&mut self, site: &Site) {
        let now = site.now();
        // The cloud comes first: whatever it has, has a directory already.
        let servers: Vec<(String, String, bool)> = SPACES
            .iter()
            .flat_map(|space| site.servers(space))
            .map(|server| {
                let text = |key: &str| server[key].as_str().unwrap().to_owned();
                (text("name"), text("id"), server["gone_at"].is_null())
            })
            .collect();
        let mut odd = BTreeSet::new();
        let mut waiting = BTreeMap::new();
        let dirs = entries(&site.state("machines"));
        (self.directories, self.unfinished) = (dirs.len(), 0);
        for dir in &dirs {
            let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
            if !self.over.contains_key(&name) {
                if let Some(over) = Over::read(dir) {
                    self.over.insert(name.clone(), over);
                } else if dir.exists() {
                    waiting.insert(name.clone(), read(dir, "uuid"));
                }
            }
            if let Some(over) = self.over.get(&name)
                && now > over.at + site.cleanup() + ORPHANED
                && dir.exists()
            {
                odd.insert(format!("the directory of {name} is not removed"));
            }
        }
        self.unfinished = waiting.len();
        self.removed = (self.over.len() + waiting.len()).saturating_sub(dirs.len());
        let mut names = BTreeSet::new();
        for (name, id, wanted) in &servers {
            if !wanted {
                continue;
            }
            if !names.insert(name) {
                odd.insert(format!("there are two VMs {name}, one of them {id}"));
            }
            let problem = match waiting.get(name) {
                None => format!("VM {name} {id} has no directory that knows of it"),
                Some(Some(known)) if known != id => {
                    format!("VM {name} is {id}, but its directory says {known}")
                }
                Some(_) => continue,
            };
            odd.insert(problem);
        }
        for (name, id) in &waiting {
            if !servers.iter().any(|(server, ..)| server == name) {
                odd.insert(format!("machine {name} {id:?} is not over and has no VM"));
            }
        }
        self.odd.retain(|what, _| odd.contains(what));
        for what in odd {
            let since = *self.odd.entry(what.clone()).or_insert(now);
            if now > since + ORPHANED {
                self.found.insert(format!("{what}, since {since}"));
            }
        }
    }

    /// Compares everything when all has ended.
    pub fn close(&mut self, site: &Site) {
        for dir in entries(&site.state("machines")) {
            let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
            if let Some(over) = Over::read(&dir) {
                self.over.insert(name, over);
            } else {
                self.found.insert(format!("machine {name} is not over"));
            }
        }
        let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
        let mut walls: BTreeMap<String, u64> = BTreeMap::new();
        for day in entries(&site.state("apel-archive")) {
            for record in entries(&day) {
                let text = fs::read_to_string(&record).unwrap();
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
                let id = field("LocalJobId: ").unwrap().to_owned();
                walls.insert(
                    id.clone(),
                    field("WallDuration: ").unwrap().parse().unwrap(),
                );
                *recorded.entry(id).or_default() += 1;
            }
        }
        self.records = recorded.values().sum();
        let mut found = Vec::new();
        for (id, count) in &recorded {
            if *count > 1 {
                found.push(format!("{count} records of {id}"));
            }
        }
        let mut known: BTreeSet<&String> = self.vms.keys().collect();
        for (name, over) in &self.over {
            let Some(id) = &over.id else { continue };
            known.insert(id);
            let due = over.ran.is_some_and(|ran| ran >= FIZZLE);
            if due != recorded.contains_key(id) {
                found.push(format!(
                    "{name} {id} ran for {:?} s: record due: {due}",
                    over.ran
                ));
            }
        }
        for id in recorded.keys().filter(|id| !known.contains(id)) {
            found.push(format!("a record of {id}, which nobody has seen"));
        }
        for (id, vm) in &self.vms {
            let (Some(launched), Some(halted)) = (vm.launched, vm.halted) else {
                continue;
            };
            let ran = halted.saturating_sub(launched);
            match walls.get(id) {
                None if ran >= FIZZLE + DOUBT => {
                    found.push(format!(
                        "VM {id} ran for {ran} s on the cloud and has no record"
                    ));
                }
                Some(wall) if *wall + DOUBT < ran || *wall > ran + DOUBT => {
                    found.push(format!(
                        "VM {id} ran for {ran} s, and its record says {wall} s"
                    ));
                }
                None | Some(_) => {}
            }
        }
        self.found.extend(found);
    }
}

impl Over {
    /// The books of a machine, when they are closed.
    fn read(dir: &Path) -> Option<Self> {
        let time = |file: &str| read(dir, file).and_then(|text| text.parse::<u64>().ok());
        let at = time("finished")?;
        let over = Self {
            id: read(dir, "uuid"),
            ran: time("started")
                .zip(time("stopped"))
                .map(|(started, stopped)| stopped - started),
            at,
        };
        // A directory is removed as a whole, which may have been while it was read.
        dir.join("finished").exists().then_some(over)
    }
}

fn read(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} VMs seen, {} machines over ({} of them removed), {} accounting records",
            self.vms.len(),
            self.over.len(),
            self.removed,
            self.records
        )
    }
}
