//! The Machine/Job Features of a machine (HSF-TN-2016-02). Pure: facts in, keys out.

use std::collections::BTreeMap;

use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{MachineName, Processors, Seconds, Timestamp};
use crate::state::Published;

/// What a machine has, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its processors.
    pub processors: Processors,
    /// Its memory in MiB, if the flavor tells.
    pub memory_mb: Option<u64>,
    /// Its root disk in GB, if the flavor tells.
    pub disk_gb: Option<u64>,
}

/// Keys and values. A key without value is not in it.
pub type Keys = BTreeMap<&'static str, String>;

/// When a machine created at `created` has to be down. `machinetype` is `None` when it is not
/// configured.
pub fn shutdowntime(
    space: &SpaceConfig,
    machinetype: Option<&MachinetypeConfig>,
    created: Timestamp,
) -> Timestamp {
    let by_wallclock = created + wall_limit(machinetype);
    space
        .down_by()
        .map_or(by_wallclock, |at| at.min(by_wallclock))
}

fn wall_limit(machinetype: Option<&MachinetypeConfig>) -> Seconds {
    machinetype.map_or(Seconds::new(86400), |configured| configured.max_wallclock)
}

/// The keys of machinefeatures and jobfeatures of a machine created at `created`. `machinetype`
/// is `None` for a machine found on the cloud whose machinetype is no longer configured; what
/// depends on it is then left out, or taken from `max_wallclock_seconds`' default.
pub fn features(
    space: &SpaceConfig,
    machinetype: Option<&MachinetypeConfig>,
    size: Size,
    created: Timestamp,
) -> (Keys, Keys) {
    let processors = size.processors.max(Processors::ONE);
    let wall = wall_limit(machinetype);
    let shutdowntime = shutdowntime(space, machinetype, created);
    let hs06 = machinetype.and_then(|configured| configured.power(processors));
    let memory_mb = size.memory_mb.or(machinetype.map(|configured| {
        configured
            .mb_per_processor
            .saturating_mul(u64::from(processors.get()))
    }));
    let grace = space.grace.to_string();
    let cpus = processors.to_string();

    let mut machine: Keys = BTreeMap::from([
        ("total_cpu", cpus.clone()),
        ("shutdowntime", shutdowntime.to_string()),
        ("grace_secs", grace.clone()),
        // Deprecated keys that some clients still read.
        ("jobslots", "1".to_owned()),
        ("phys_cores", cpus.clone()),
        ("log_cores", cpus.clone()),
    ]);
    let mut job: Keys = BTreeMap::from([
        ("allocated_cpu", cpus.clone()),
        ("allocated_CPU", cpus),
        ("shutdowntime_job", shutdowntime.to_string()),
        ("grace_secs_job", grace),
        ("jobstart_secs", created.to_string()),
        ("wall_limit_secs", wall.to_string()),
        (
            "cpu_limit_secs",
            wall.get()
                .saturating_mul(u64::from(processors.get()))
                .to_string(),
        ),
    ]);
    if let Some(hs06) = hs06 {
        machine.insert("hs06", hs06.to_string());
        job.insert("hs06_job", hs06.to_string());
    }
    if let Some(mb) = memory_mb {
        job.insert("max_rss_bytes", mb.saturating_mul(1 << 20).to_string());
    }
    if let Some(gb) = size.disk_gb {
        let bytes = gb.saturating_mul(1_000_000_000);
        job.insert("scratch_limit_bytes", bytes.to_string());
    }
    (machine, job)
}

/// The URL of one of a machine's directories, without a slash at its end.
pub fn url(space: &SpaceConfig, machine: &MachineName, which: Published) -> String {
    format!(
        "https://{}:{}/machines/{machine}/{}",
        space.https_host,
        space.https_port,
        which.dir_name()
    )
}

/// The URL that a machine is given as $JOBOUTPUTS: ours, or that of the remote server that its
/// machinetype writes to.
pub fn joboutputs_url(
    space: &SpaceConfig,
    machinetype: &MachinetypeConfig,
    machine: &MachineName,
) -> String {
    match &machinetype.remote_joboutputs_url {
        Some(remote) => format!("{}/{machine}", remote.as_str().trim_end_matches('/')),
        None => url(space, machine, Published::Joboutputs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    const SIZE: Size = Size {
        processors: Processors::new(4),
        memory_mb: None,
        disk_gb: Some(20),
    };

    #[test]
    fn the_four_keys_that_a_client_needs_are_always_there() {
        let space = testing::space("max_machines = 1");
        let machinetype = testing::machinetype("a", "max_wallclock_seconds = 3600");
        let created = Timestamp::from_unix(1000);
        for machinetype in [Some(&machinetype), None] {
            let (machine, job) = features(&space, machinetype, SIZE, created);
            assert!(machine.contains_key("shutdowntime"));
            for key in ["shutdowntime_job", "jobstart_secs", "wall_limit_secs"] {
                assert!(job.contains_key(key), "{key}");
            }
            assert!(machine.values().chain(job.values()).all(|v| !v.is_empty()));
        }
        let (machine, job) = features(&space, Some(&machinetype), SIZE, created);
        assert_eq!(machine["shutdowntime"], "4600");
        assert_eq!(job["cpu_limit_secs"], "14400");
        assert_eq!(job["max_rss_bytes"], (8192u64 << 20).to_string());
        assert_eq!(job["scratch_limit_bytes"], "20000000000");
        assert!(!machine.contains_key("hs06"));
    }

    #[test]
    fn power_and_an_earlier_shutdown_of_the_space_reach_the_machine() {
        let space = testing::space("shutdown_time = 2000");
        let machinetype = testing::machinetype("a", "hs06 = 40.5");
        let (machine, job) = features(&space, Some(&machinetype), SIZE, Timestamp::from_unix(1000));
        assert_eq!(machine["hs06"], "40.5");
        assert_eq!(job["hs06_job"], "40.5");
        assert_eq!(machine["shutdowntime"], "2000");
        assert_eq!(job["shutdowntime_job"], "2000");
    }

    #[test]
    fn urls_have_no_slash_at_their_end() {
        let space = testing::space("");
        let machine = MachineName::new("vcycle-a-aaaaaaaaaa").unwrap();
        assert_eq!(
            url(&space, &machine, Published::Machinefeatures),
            "https://factory.example.org:443/machines/vcycle-a-aaaaaaaaaa/machinefeatures"
        );
        let mut machinetype = testing::machinetype("a", "");
        machinetype.remote_joboutputs_url = Some("https://out.example.org/x/".parse().unwrap());
        assert_eq!(
            joboutputs_url(&space, &machinetype, &machine),
            "https://out.example.org/x/vcycle-a-aaaaaaaaaa"
        );
    }
}
