//! Which machines say of themselves that they are alive: what heartbeat lists tell, and
//! where machines find the CernVM-FS proxies that run in other machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use super::plan::Delete;
use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{
    Heartbeat, Machine, MachineName, MachineState, MachinetypeName, Seconds, SpaceSnapshot,
    Timestamp,
};

/// So many proxies are told to a machine at most, those with the latest heartbeats: it chooses
/// among them by lot, and its user_data has room for little.
const MAX_PROXIES: usize = 100;

/// One machine that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Its last heartbeat.
    pub at: Timestamp,
    /// Its name.
    pub machine: MachineName,
    /// Its address, as the cloud tells it.
    pub address: IpAddr,
}

/// The machines that are alive, of each machinetype of a space, latest heartbeat first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeats(BTreeMap<MachinetypeName, Vec<Beat>>);

/// Finds the machines that are alive: those that run, have a heartbeat file that is not older than
/// heartbeat_seconds (with 0, one of any age), have an address, and are not being destroyed. A
/// machinetype without heartbeat_file has none.
pub fn heartbeats(
    config: &SpaceConfig,
    snapshot: &SpaceSnapshot,
    deletes: &[Delete],
    now: Timestamp,
) -> Heartbeats {
    let doomed: BTreeSet<_> = deletes.iter().map(|delete| &delete.machine).collect();
    let configured = config.machinetypes.keys();
    let mut alive: BTreeMap<_, Vec<_>> = configured
        .map(|machinetype| (machinetype.clone(), Vec::new()))
        .collect();
    for machine in &snapshot.machines {
        let machinetype = &machine.files.machinetype;
        if let Some(configured) = config.machinetypes.get(machinetype)
            && let Some(beats) = alive.get_mut(machinetype)
            && !doomed.contains(&machine.files.name)
        {
            beats.extend(beat(configured, machine, now));
        }
    }
    for beats in alive.values_mut() {
        beats.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.machine.cmp(&b.machine)));
    }
    Heartbeats(alive)
}

fn beat(configured: &MachinetypeConfig, machine: &Machine, now: Timestamp) -> Option<Beat> {
    configured.heartbeat_file.as_ref()?;
    let files = &machine.files;
    if files.deleted.is_some() || files.stopped.is_some() {
        return None;
    }
    let vm = machine.vm()?;
    let at = match (vm.state, machine.heartbeat) {
        (MachineState::Running, Heartbeat::At(at)) => at,
        (MachineState::Running, Heartbeat::Unknown | Heartbeat::Missing) => return None,
        (
            MachineState::Starting
            | MachineState::Shutdown
            | MachineState::Deleting
            | MachineState::Failed
            | MachineState::Unknown,
            _,
        ) => return None,
    };
    let limit = configured.heartbeat;
    if limit > Seconds::default() && now.since(at) > limit {
        return None;
    }
    Some(Beat {
        at,
        machine: files.name.clone(),
        // Anything else that a cloud may put there belongs neither into a list nor into a URL.
        address: vm.address.as_deref()?.parse().ok()?,
    })
}

impl Heartbeats {
    /// The machines of one machinetype that are alive.
    pub fn of(&self, machinetype: &MachinetypeName) -> &[Beat] {
        self.0.get(machinetype).map_or(&[], Vec::as_slice)
    }

    /// The heartbeat list of each machinetype: lines `HEARTBEATTIME NAME IP`, the time in Unix
    /// seconds.
    pub fn lists(&self) -> BTreeMap<MachinetypeName, String> {
        let text = |beats: &Vec<Beat>| {
            let mut text = String::new();
            for beat in beats {
                // Writing to a String cannot fail.
                let _written = writeln!(text, "{} {} {}", beat.at, beat.machine, beat.address);
            }
            text
        };
        let lists = self.0.iter();
        lists
            .map(|(machinetype, beats)| (machinetype.clone(), text(beats)))
            .collect()
    }

    /// The machines of `machinetype` as one group of proxies in the syntax of CVMFS_HTTP_PROXY, at
    /// this port; before the proxies that are `configured` anyway, to which clients turn when none
    /// of the group answers. `None` when no machine is alive: then only the latter are left.
    pub fn cvmfs_proxies(
        &self,
        machinetype: &MachinetypeName,
        port: u16,
        configured: Option<&str>,
    ) -> Option<String> {
        let beats = self.of(machinetype).iter().take(MAX_PROXIES);
        let group: Vec<_> = beats
            .map(|beat| match beat.address {
                IpAddr::V4(address) => format!("http://{address}:{port}"),
                IpAddr::V6(address) => format!("http://[{address}]:{port}"),
            })
            .collect();
        if group.is_empty() {
            return None;
        }
        let configured = configured.map(str::trim).filter(|text| !text.is_empty());
        let group = group.join("|");
        Some(match configured {
            Some(configured) => format!("{group};{configured}"),
            None => group,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    const NOW: u64 = 10_000;

    fn name(text: &str) -> MachinetypeName {
        MachinetypeName::new(text).unwrap()
    }

    /// A machine of machinetype `a` that runs, with a heartbeat and an address.
    fn alive(letter: char, at: u64, address: &str) -> Machine {
        let machine = format!("vcycle-a-{}", String::from(letter).repeat(10));
        let mut machine = testing::machine(&machine, MachineState::Running, 1000);
        machine.heartbeat = Heartbeat::At(Timestamp::from_unix(at));
        machine.listed[0].address = Some(address.to_owned());
        machine
    }

    fn found(options: &str, machines: Vec<Machine>) -> Heartbeats {
        let mut config = testing::space("max_machines = 10");
        for (machinetype, options) in [("a", options), ("b", "")] {
            let machinetype = testing::machinetype(machinetype, options);
            config
                .machinetypes
                .insert(machinetype.name.clone(), machinetype);
        }
        let snapshot = testing::snapshot(machines);
        heartbeats(&config, &snapshot, &[], Timestamp::from_unix(NOW))
    }

    #[test]
    fn a_list_has_who_is_alive_latest_first() {
        let options = "heartbeat_file = h\nheartbeat_seconds = 600";
        let mut machines = vec![
            alive('a', NOW - 600, "10.0.0.1"),
            alive('b', NOW - 601, "10.0.0.2"),
            alive('c', NOW - 20, "fd00::3"),
            alive('d', NOW - 20, "10.0.0.4"),
            alive('e', NOW - 10, "10.0.0.5 and more"),
            alive('f', NOW - 10, "10.0.0.6"),
            alive('g', NOW - 10, "10.0.0.7"),
            alive('h', NOW - 10, "10.0.0.8"),
            alive('i', NOW - 10, "10.0.0.9"),
        ];
        machines[5].heartbeat = Heartbeat::Missing;
        machines[6].listed[0].state = MachineState::Shutdown;
        machines[7].files.deleted = Some(Timestamp::from_unix(NOW - 1));
        machines[8].listed[0].address = None;
        let lists = found(options, machines).lists();
        assert_eq!(
            lists[&name("a")],
            "9980 vcycle-a-cccccccccc fd00::3\n9980 vcycle-a-dddddddddd 10.0.0.4\n\
             9400 vcycle-a-aaaaaaaaaa 10.0.0.1\n"
        );
        assert_eq!(lists[&name("b")], "", "there is one for each machinetype");
        assert_eq!(lists.len(), 2);
    }

    #[test]
    fn with_no_heartbeat_seconds_any_heartbeat_counts_and_without_a_file_none() {
        let machines = || vec![alive('a', 1, "10.0.0.1")];
        let of = |options| found(options, machines()).of(&name("a")).len();
        assert_eq!(of("heartbeat_file = h"), 1);
        assert_eq!(of("heartbeat_file = h\nheartbeat_seconds = 9998"), 0);
        assert_eq!(of(""), 0);
    }

    #[test]
    fn what_this_pass_destroys_is_in_no_list() {
        let mut config = testing::space("max_machines = 10");
        let machinetype = testing::machinetype("a", "heartbeat_file = h");
        config.machinetypes.insert(name("a"), machinetype);
        let machine = alive('a', NOW, "10.0.0.1");
        let doomed = Delete {
            machine: machine.files.name.clone(),
            machinetype: name("a"),
            id: machine.listed[0].id.clone(),
            reason: crate::decide::Reason::Stopped,
            message: None,
        };
        let snapshot = testing::snapshot(vec![machine]);
        let now = Timestamp::from_unix(NOW);
        let found = |deletes: &[Delete]| heartbeats(&config, &snapshot, deletes, now);
        assert_eq!(found(&[]).of(&name("a")).len(), 1);
        assert_eq!(found(&[doomed]).of(&name("a")).len(), 0);
    }

    #[test]
    fn proxies_are_one_group_before_what_is_configured() {
        let machines = vec![
            alive('a', NOW - 1, "10.0.0.1"),
            alive('b', NOW - 2, "fd00::2"),
        ];
        let some = found("heartbeat_file = h", machines);
        let group = "http://10.0.0.1:280|http://[fd00::2]:280";
        let proxies = |configured| some.cvmfs_proxies(&name("a"), 280, configured);
        assert_eq!(proxies(None).unwrap(), group);
        assert_eq!(proxies(Some("\n")).unwrap(), group);
        let after = "http://squid.example.org:3128;DIRECT";
        assert_eq!(proxies(Some(after)).unwrap(), format!("{group};{after}"));
        let none = Heartbeats::default();
        assert_eq!(none.cvmfs_proxies(&name("a"), 280, Some(after)), None);
    }
}
