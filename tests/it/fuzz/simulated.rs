//! The file of the embedded cloud.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use vcycle::clock::Clock;
use vcycle::cloud::simulated::Simulated;
use vcycle::cloud::{Cloud, CloudErrorKind};
use vcycle::config::SimulatedOptions;
use vcycle::model::{Seconds, SpaceName, Timestamp};

use super::json::{form, render, restructure, structure};
use super::{Cost, cases, fuzz};

fn file() -> Value {
    let server = |id: &str, phase: &str| {
        json!({"id": id, "name": "vcycle-a-aaaaaaaaaa", "flavor": "1", "image": "i", "key_name": "k",
            "zone": "zone-a", "address": "10.77.1.2", "security_groups": ["default"],
            "metadata": {"machinetype": "a"}, "created": 1000, "updated": 1000, "boots_at": 1060,
            "launched": 1060, "phase": phase, "gone_at": 2000, "job": {"work": true, "until": 5000}})
    };
    json!({"servers": [server("a", "active"), server("b", "building"), server("c", "shutoff")],
        "keypairs": [{"name": "k", "public_key": "ssh-rsa AAAA", "fingerprint": "aa"}]})
}

#[test]
fn any_file_is_a_cloud_or_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let root = tempfile::tempdir().unwrap();
    let space = SpaceName::new("s").unwrap();
    let path = root.path().join("simulated/s.json");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let options = SimulatedOptions {
        machines: 20,
        processors: 40,
        boot: Seconds::new(60),
        job: Seconds::new(3600),
        work: BTreeMap::new(),
        cert: None,
        fault_percent: 0,
        fault_seed: None,
    };
    let original = file();
    let inputs = (structure(&["secret"]), form());
    fuzz(file!(), cases(Cost::Dear, 5), &inputs, |(changes, form)| {
        let bytes = render(&restructure(original.clone(), &changes), &form);
        std::fs::write(&path, &bytes).unwrap();
        let clock = Clock::manual(Timestamp::from_unix(1500));
        let outcome = runtime.block_on(async {
            let cloud =
                Simulated::look(&space, &options, root.path(), Path::new(""), clock).await?;
            cloud.facts().await?;
            cloud.list().await
        });
        if let Err(error) = outcome {
            // A panic in the cloud would be a connection that breaks.
            prop_assert_eq!(error.kind, CloudErrorKind::Rejected, "{}", error);
            prop_assert!(!error.to_string().contains(char::is_control), "{}", error);
        }
        Ok(())
    });
}
