//! The daemon removes what it made and nothing uses any more: on the embedded cloud, with a fast
//! clock.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vcycle::clock::Clock;
use vcycle::config::Sources;
use vcycle::daemon::{self, Board, Control, Host, Settings, SpaceStatus};
use vcycle::decide::leaks::LeakCount;
use vcycle::model::{FactoryName, LeftoverKind, Seconds, SpaceName};

/// Two looks, ten minutes from each other, in two seconds.
const SPEED: u32 = 300;
const FIRST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2 me";
const SECOND_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB me";

fn write(path: &Path, text: &str) {
    let growing = path.with_extension("growing");
    std::fs::write(&growing, text).unwrap();
    std::fs::rename(growing, path).unwrap();
}

/// A space whose VMs find no work and end soon.
fn configure(dir: &Path, target_share: u32, options: &str) {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n[space example.org]\napi = simulated\nmax_machines = 2\n\
         simulated_boot_seconds = 10\nsimulated_work = a:0\nhttps_host = localhost\n{options}\n\
         [machinetype example.org a]\ntarget_share = {target_share}\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\nflavor_name = small\nroot_image = image:cernvm4\n\
         user_data = {dir}/user_data\nroot_public_key = {dir}/key.pub\n",
        dir = dir.display()
    );
    write(&dir.join("vcycle.conf"), &text);
}

/// The names of the key pairs on the cloud, as it keeps them.
fn keypairs(dir: &Path) -> Vec<String> {
    let file = dir.join("state/simulated/example.org.json");
    let Ok(text) = std::fs::read(file) else {
        return Vec::new();
    };
    let kept: Value = serde_json::from_slice(&text).unwrap();
    let keypairs = kept["keypairs"].as_array().unwrap().iter();
    keypairs
        .map(|key| key["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn until<T>(what: &str, board: &Board, mut look: impl FnMut(&SpaceStatus) -> Option<T>) -> T {
    let space = SpaceName::new("example.org").unwrap();
    let mut changes = board.subscribe();
    let waiting = async {
        loop {
            let status = board.now().spaces.get(&space).cloned();
            if let Some(found) = status.and_then(|status| look(&status)) {
                return found;
            }
            changes.changed().await.unwrap();
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    found.unwrap_or_else(|_| panic!("waited in vain until {what}: {:#?}", board.now()))
}

#[tokio::test]
async fn a_key_pair_that_nothing_uses_any_more_is_counted_and_removed_later() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("conf.d")).unwrap();
    write(&dir.join("user_data"), "#!/bin/sh\n");
    write(&dir.join("key.pub"), FIRST_KEY);
    configure(dir, 1, "remove_leaks = False");
    let control = Control::default();
    let settings = Settings {
        sources: Sources {
            conf: dir.join("vcycle.conf"),
            dir: dir.join("conf.d"),
        },
        state_dir: dir.join("state"),
        interval: Seconds::new(30),
        factory: FactoryName::new("factory.example.org").unwrap(),
        clock: Clock::fast(SPEED),
        events: None,
        socket: None,
        host: Host::default(),
    };
    let board = Board::default();
    let running = daemon::run(settings, control.clone(), board.clone(), || {});
    let daemon = tokio::spawn(running);

    let keys = |status: &SpaceStatus| {
        let kinds = &status.leaks.kinds;
        kinds.get(&LeftoverKind::Keypair).cloned()
    };
    let used = LeakCount { left: 0, used: 1 };
    until("its key pair is seen in use", &board, |status| {
        (keys(status)?.count == used).then_some(())
    })
    .await;
    let first = keypairs(dir);
    assert_eq!(first.len(), 1);

    // The site changes its key.
    write(&dir.join("key.pub"), SECOND_KEY);
    let one_each = LeakCount { left: 1, used: 1 };
    until("the old key pair is counted", &board, |status| {
        (keys(status)?.count == one_each).then_some(())
    })
    .await;
    // Counted in two looks or more, and left alone while removal is off.
    let looked = until("it was looked at", &board, |status| status.leaks.looked).await;
    until("two more looks", &board, |status| {
        (status.leaks.looked? >= looked + Seconds::new(1200)).then_some(())
    })
    .await;
    assert!(keypairs(dir).contains(&first[0]));

    configure(dir, 1, "");
    let status = until("it is removed", &board, |status| {
        keys(status).filter(|keys| keys.removed == 1)
    })
    .await;
    assert_eq!(status.not_listed, None);
    until("only the new one is left", &board, |_| {
        let now = keypairs(dir);
        (now.len() == 1 && now != first).then_some(())
    })
    .await;
    // What this cloud has not is not counted, and disturbs nobody.
    let ports = until("ports are told", &board, |status| {
        status.leaks.kinds.get(&LeftoverKind::Port).cloned()
    })
    .await;
    assert!(ports.not_listed.unwrap().contains("no network service"));

    control.stop.cancel();
    daemon.await.unwrap().unwrap();
}
