//! The daemon removes what it made and nothing uses any more: on the embedded cloud, with a fast
//! clock.

use serde_json::Value;
use vcycle::daemon::SpaceStatus;
use vcycle::decide::leaks::LeakCount;
use vcycle::model::LeftoverKind;

use super::fast::{Place, SPACE};

const FIRST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2 me";
const SECOND_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB me";

/// A space whose VMs find no work and end soon.
fn configure(place: &Place, options: &str) {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n[space {SPACE}]\napi = simulated\nmax_machines = 2\n\
         simulated_boot_seconds = 10\nsimulated_work = a:0\nhttps_host = localhost\n{options}\n\
         [machinetype {SPACE} a]\ntarget_share = 1\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\nflavor_name = small\nroot_image = image:cernvm4\n\
         user_data = {dir}/user_data\nroot_public_key = {dir}/key.pub\n",
        dir = place.path().display()
    );
    place.write("vcycle.conf", &text);
}

/// The names of the key pairs on the cloud, as it keeps them.
fn keypairs(place: &Place) -> Vec<String> {
    let Ok(text) = std::fs::read(place.cloud()) else {
        return Vec::new();
    };
    let kept: Value = serde_json::from_slice(&text).unwrap();
    let keypairs = kept["keypairs"].as_array().unwrap().iter();
    keypairs
        .map(|key| key["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_key_pair_that_nothing_uses_any_more_is_counted_and_removed_later() {
    let place = Place::new();
    place.write("key.pub", FIRST_KEY);
    configure(&place, "remove_leaks = False");
    let daemon = place.begin();

    let keys = |status: &SpaceStatus| {
        let kinds = &status.leaks.kinds;
        kinds.get(&LeftoverKind::Keypair).cloned()
    };
    let used = LeakCount { left: 0, used: 1 };
    daemon
        .until("its key pair is seen in use", |status| {
            (keys(status)?.count == used).then_some(())
        })
        .await;
    let first = keypairs(&place);
    assert_eq!(first.len(), 1);

    // The site changes its key.
    place.write("key.pub", SECOND_KEY);
    let one_each = LeakCount { left: 1, used: 1 };
    daemon
        .until("the old key pair is counted", |status| {
            (keys(status)?.count == one_each).then_some(())
        })
        .await;
    // Counted in two looks or more, and left alone while removal is off.
    daemon.until_two_more_looks().await;
    assert!(keypairs(&place).contains(&first[0]));

    configure(&place, "");
    let status = daemon
        .until("it is removed", |status| {
            keys(status).filter(|keys| keys.removed == 1)
        })
        .await;
    assert_eq!(status.not_listed, None);
    daemon
        .until("only the new one is left", |_| {
            let now = keypairs(&place);
            (now.len() == 1 && now != first).then_some(())
        })
        .await;
    // What this cloud has not is not counted, and disturbs nobody.
    let ports = daemon
        .until("ports are told", |status| {
            status.leaks.kinds.get(&LeftoverKind::Port).cloned()
        })
        .await;
    assert!(ports.not_listed.unwrap().contains("no network service"));

    daemon.end().await;
}
