//! Volumes and key pairs on moto: made with a machine, deleted with it, and removed when they are
//! left over. The daemon's clock is fast, for a thing is removed ten minutes after it was first seen.

use std::path::Path;
use std::time::Duration;

use vcycle::clock::Clock;
use vcycle::config::Sources;
use vcycle::daemon::{self, Board, Control, Host, Settings, SpaceStatus};
use vcycle::decide::leaks::LeakCount;
use vcycle::model::{FactoryName, LeftoverKind, Seconds, SpaceName};

use super::moto::{Moto, between};
use super::{AMAZON, KEY, SECRET_KEY};

/// Two looks, ten minutes from each other, in two seconds.
const SPEED: u32 = 300;
const NEXT_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB me";
const SPACE: &str = "example.org";
const FACTORY: &str = "factory.example.org";

fn write(path: &Path, text: &str) {
    let growing = path.with_extension("growing");
    std::fs::write(&growing, text).unwrap();
    std::fs::rename(growing, path).unwrap();
}

fn configure(dir: &Path, moto: &Moto) {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n[space {SPACE}]\napi = ec2\nurl = http://{}/\n{AMAZON}\
         access_key = AK\nsecret_key = {SECRET_KEY}\nmax_machines = 1\n\
         volume_gb_per_processor = 10\nhttps_host = localhost\n\
         [machinetype {SPACE} a]\ntarget_share = 1\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\nflavor_name = t2.micro\nroot_image = image:{}\n\
         user_data = {dir}/user_data\nroot_public_key = {dir}/key.pub\n",
        moto.address,
        moto.image,
        dir = dir.display()
    );
    write(&dir.join("vcycle.conf"), &text);
}

async fn until<T>(what: &str, board: &Board, mut look: impl FnMut(&SpaceStatus) -> Option<T>) -> T {
    let space = SpaceName::new(SPACE).unwrap();
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

/// The volumes that moto has, each with its document.
fn volumes(moto: &Moto) -> Vec<(String, String)> {
    let all = moto.ask("Action=DescribeVolumes");
    let set = between(&all, "<volumeSet>", "</volumeSet>").next();
    let set = set.unwrap_or_default();
    let each = set.split("</encrypted>").filter_map(|document| {
        let id = between(document, "<volumeId>", "</volumeId>").next()?;
        Some((id, document.to_owned()))
    });
    each.collect()
}

fn ids(moto: &Moto) -> Vec<String> {
    volumes(moto).into_iter().map(|(id, _)| id).collect()
}

/// Makes a volume by hand with these marks.
fn volume(moto: &Moto, manager: &str) -> String {
    let made = moto.ask(&format!(
        "Action=CreateVolume&Size=1&AvailabilityZone=us-east-1a&\
         TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=space&\
         TagSpecification.1.Tag.1.Value={SPACE}&TagSpecification.1.Tag.2.Key=manager&\
         TagSpecification.1.Tag.2.Value={manager}"
    ));
    between(&made, "<volumeId>", "</volumeId>").next().unwrap()
}

fn key_pairs(moto: &Moto) -> Vec<String> {
    let all = moto.ask("Action=DescribeKeyPairs");
    between(&all, "<keyName>", "</keyName>").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_with_its_machine_and_what_is_left_over_is_removed() {
    let Some(moto) = Moto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("conf.d")).unwrap();
    write(&dir.join("user_data"), "#!/bin/sh\n");
    write(&dir.join("key.pub"), KEY);
    configure(dir, &moto);
    let control = Control::default();
    let settings = Settings {
        sources: Sources {
            conf: dir.join("vcycle.conf"),
            dir: dir.join("conf.d"),
        },
        state_dir: dir.join("state"),
        interval: Seconds::new(30),
        factory: FactoryName::new(FACTORY).unwrap(),
        clock: Clock::fast(SPEED),
        events: None,
        socket: None,
        host: Host::default(),
    };
    let board = Board::default();
    let running = daemon::run(settings, control.clone(), board.clone(), || {});
    let daemon = tokio::spawn(running);
    let count = |kind: LeftoverKind| {
        move |status: &SpaceStatus| status.leaks.kinds.get(&kind).map(|kind| kind.count)
    };
    let (of_volumes, of_keys) = (count(LeftoverKind::Volume), count(LeftoverKind::Keypair));
    let used = LeakCount { left: 0, used: 1 };
    until("volume and key pair are seen in use", &board, |status| {
        (of_volumes(status)? == used && of_keys(status)? == used).then_some(())
    })
    .await;
    let own = volumes(&moto);
    let [(own, document)] = own.as_slice() else {
        panic!("{own:?}");
    };
    assert!(document.contains("<size>10</size>"), "{document}");
    for marked in [SPACE, FACTORY] {
        assert!(
            document.contains(&format!("<value>{marked}</value>")),
            "{document}"
        );
    }
    let first_key = key_pairs(&moto);
    assert_eq!(first_key.len(), 1);

    // A volume that outlived its machine, and one of another factory.
    let (lost, foreign) = (volume(&moto, FACTORY), volume(&moto, "other.example.org"));
    let one_each = LeakCount { left: 1, used: 1 };
    until("the lost volume is counted", &board, |status| {
        (of_volumes(status)? == one_each).then_some(())
    })
    .await;
    let removed = |status: &SpaceStatus, kind| Some(status.leaks.kinds.get(&kind)?.removed);
    until("the lost volume is removed", &board, |status| {
        (removed(status, LeftoverKind::Volume)? == 1).then_some(())
    })
    .await;
    let left = ids(&moto);
    assert!(!left.contains(&lost), "{left:?}");
    assert!(left.contains(&foreign) && left.contains(own), "{left:?}");

    // The machine ends, and its volume with it; the next one has another key.
    write(&dir.join("key.pub"), NEXT_KEY);
    let instance = moto.instances().pop().unwrap();
    moto.ask(&format!("Action=StopInstances&InstanceId.1={instance}"));
    until("the old key pair is removed", &board, |status| {
        (removed(status, LeftoverKind::Keypair)? == 1).then_some(())
    })
    .await;
    assert!(!key_pairs(&moto).contains(&first_key[0]));
    assert_eq!(key_pairs(&moto).len(), 1);
    let left = ids(&moto);
    assert!(left.contains(&foreign) && !left.contains(own), "{left:?}");
    assert_eq!((left.len(), moto.instances().len()), (2, 1));
    // It went with the machine, and was not removed for being left over.
    let status = until("status", &board, |status| Some(status.clone())).await;
    assert_eq!(removed(&status, LeftoverKind::Volume), Some(1));
    control.stop.cancel();
    daemon.await.unwrap().unwrap();
}
