//! The JSON that `vcycled plan --snapshot` reads, and decisions from whatever it says.

use proptest::prelude::*;
use serde_json::{Value, json};
use vcycle::decide::decide;
use vcycle::model::Timestamp;
use vcycle::observe::Situation;
use vcycle::rng::Seed;

use super::json::{form, render, restructure, structure};
use super::{Cost, cases, fuzz};
use crate::config_examples::context;

pub fn config() -> Value {
    json!({
        "space cloud.example.org": {"api": "simulated", "max_machines": 20, "processors_limit": 40,
            "shutdown_time": 1_800_000_000_u64},
        "machinetype cloud.example.org a": {"target_share": 1, "root_image": "image:x",
            "user_data": "/u", "flavor_name": "small", "heartbeat_file": "heartbeat",
            "heartbeat_seconds": 600, "fizzle_seconds": 600, "backoff_seconds": 600,
            "max_wallclock_seconds": 86400, "hs06": 10, "accounting_fqan": "/a/Role=NULL"},
        "machinetype cloud.example.org b": {"target_share": 1, "root_image": "image:x",
            "user_data": "/u", "flavor_name": "small", "heartbeat_file": "heartbeat",
            "heartbeat_seconds": 600, "fizzle_seconds": 600, "backoff_seconds": 600,
            "log_joboutputs": "True", "remote_joboutputs_url": "https://out.example.org/"},
    })
}

fn situation() -> Value {
    let vm = |name: &str, id: &str, state: &str| {
        json!({"id": id, "name": name, "state": state, "status": "S", "created": 1000, "started": 1060,
            "updated": 2000, "processors": 2, "zone": "z", "fault": "f",
            "marks": {"space": "cloud.example.org", "manager": "factory.example.org", "machinetype": "a"}})
    };
    let directory = |id: &str| {
        json!({"created": 1000, "machinetype_name": "a", "manager": "factory.example.org", "uuid": id,
            "started": 1060, "updated": 1500, "ended": "heartbeat", "fizzle_seconds": 600,
            "accounting_fqan": "/a", "machinefeatures": {"hs06": 10.0},
            "jobfeatures": {"allocated_cpu": 2, "max_rss_bytes": 1, "shutdowntime_job": 9000, "wall_limit_secs": 86400},
            "joboutputs": {"heartbeat": {"modified": 1900}, "shutdown_message": "200 Success"},
            "memory": {"missed_scans": 1, "last_running": 1900, "heard_since": 1800, "delete_tries": 3}})
    };
    json!({
        "space": "cloud.example.org", "now": 2000, "factory": "factory.example.org",
        "config": config(),
        "cloud": {"limits": {"machines": 20, "processors": 40},
            "flavors": [{"id": "f", "name": "small", "processors": 2, "memory_mb": 4000, "disk_gb": 10}],
            "machines": [vm("vcycle-a-aaaaaaaaaa", "u1", "running"), vm("vcycle-a-bbbbbbbbbb", "u2", "shutdown"),
                vm("vcycle-a-cccccccccc", "u3", "failed"), vm("other", "u4", "unknown")]},
        "directories": {"vcycle-a-aaaaaaaaaa": directory("u1"), "vcycle-a-bbbbbbbbbb": directory("u2"),
            "vcycle-a-dddddddddd": directory("u5"),
            "vcycle-b-eeeeeeeeee": {"created": 1000, "started": 1060, "uuid": "u6", "finished": 1900,
                "logged": 1901, "joboutputs": {"heartbeat": {"remote": "missing"}}},
            "vcycle-b-ffffffffff": {"created": 1000, "started": 1060, "stopped": 1900, "uuid": "u7",
                "awaits_message": true}},
        "remotes": {"b": {"asked_since": 500, "answered": 600, "answering_since": 550}},
        "machinetypes": {"a": {"last_abort_time": 900, "failures": 2, "last_failure": 950}},
        "last_scan": 1940, "empty_scans": 1, "listening_since": 500,
    })
}

#[test]
fn any_situation_is_decided_or_refused() {
    let original = situation();
    let now = prop_oneof![Just(0), Just(2000), Just(u64::MAX), any::<u64>()];
    let inputs = (structure(&["secret"]), form(), now, any::<u64>());
    fuzz(
        file!(),
        cases(Cost::Cheap, 300),
        &inputs,
        |(changes, form, now, seed)| {
            let document = restructure(original.clone(), &changes);
            let bytes = render(&document, &form);
            let Ok(situation) = Situation::parse(&String::from_utf8_lossy(&bytes)) else {
                return Ok(());
            };
            let written = situation.to_json();
            prop_assert_eq!(&Situation::parse(&written).unwrap().to_json(), &written);
            let Ok((config, snapshot)) = situation.into_snapshot(&context()) else {
                return Ok(());
            };
            for now in [now, situation.now.map_or(now, Timestamp::unix)] {
                let now = Timestamp::from_unix(now);
                let plan = decide(&config, &snapshot, now, Seed(seed));
                prop_assert_eq!(&plan, &decide(&config, &snapshot, now, Seed(seed)));
                serde_json::to_string(&plan).unwrap();
            }
            Ok(())
        },
    );
}

#[test]
fn the_original_is_decided() {
    let situation = Situation::parse(&situation().to_string()).unwrap();
    situation.into_snapshot(&context()).unwrap();
}
