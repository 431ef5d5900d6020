//! Volumes and key pairs on moto: made with a machine, deleted with it, and removed when they are
//! left over. The daemon's clock is fast, for a thing is removed ten minutes after it was first seen.

use vcycle::daemon::SpaceStatus;
use vcycle::decide::leaks::LeakCount;
use vcycle::model::LeftoverKind;

use super::moto::{Moto, between};
use super::{AMAZON, KEY, SECRET_KEY};
use crate::fast::{FACTORY, Place, SPACE};

const NEXT_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkM3oQz6X0l7bTqvJ8Gx0Zt1bE7b2T2o8bq1cV2z9aB me";

fn configure(place: &Place, moto: &Moto) {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n[space {SPACE}]\napi = ec2\nurl = http://{}/\n{AMAZON}\
         access_key = AK\nsecret_key = {SECRET_KEY}\nmax_machines = 1\n\
         volume_gb_per_processor = 10\nhttps_host = localhost\n\
         [machinetype {SPACE} a]\ntarget_share = 1\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\nflavor_name = t2.micro\nroot_image = image:{}\n\
         user_data = {dir}/user_data\nroot_public_key = {dir}/key.pub\n",
        moto.address,
        moto.image,
        dir = place.path().display()
    );
    place.write("vcycle.conf", &text);
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
    let place = Place::new();
    place.write("key.pub", KEY);
    configure(&place, &moto);
    let daemon = place.begin();
    let count = |kind: LeftoverKind| {
        move |status: &SpaceStatus| status.leaks.kinds.get(&kind).map(|kind| kind.count)
    };
    let (of_volumes, of_keys) = (count(LeftoverKind::Volume), count(LeftoverKind::Keypair));
    let used = LeakCount { left: 0, used: 1 };
    daemon
        .until("volume and key pair are seen in use", |status| {
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
    daemon
        .until("the lost volume is counted", |status| {
            (of_volumes(status)? == one_each).then_some(())
        })
        .await;
    let removed = |status: &SpaceStatus, kind| Some(status.leaks.kinds.get(&kind)?.removed);
    daemon
        .until("the lost volume is removed", |status| {
            (removed(status, LeftoverKind::Volume)? == 1).then_some(())
        })
        .await;
    let left = ids(&moto);
    assert!(!left.contains(&lost), "{left:?}");
    assert!(left.contains(&foreign) && left.contains(own), "{left:?}");

    // The machine ends, and its volume with it; the next one has another key.
    place.write("key.pub", NEXT_KEY);
    let instance = moto.instances().pop().unwrap();
    moto.ask(&format!("Action=StopInstances&InstanceId.1={instance}"));
    daemon
        .until("the old key pair is removed", |status| {
            (removed(status, LeftoverKind::Keypair)? == 1).then_some(())
        })
        .await;
    assert!(!key_pairs(&moto).contains(&first_key[0]));
    assert_eq!(key_pairs(&moto).len(), 1);
    let left = ids(&moto);
    assert!(left.contains(&foreign) && !left.contains(own), "{left:?}");
    assert_eq!((left.len(), moto.instances().len()), (2, 1));
    // It went with the machine, and was not removed for being left over.
    let status = daemon.until("status", |status| Some(status.clone())).await;
    assert_eq!(removed(&status, LeftoverKind::Volume), Some(1));
    daemon.end().await;
}
