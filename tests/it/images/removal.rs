//! Copies of an image that have been superseded, with a fast clock, as the status shows it.

use serde_json::Value;
use vcycle::daemon::SpaceStatus;
use vcycle::decide::leaks::LeakCount;
use vcycle::model::{CloudId, ImageState, LeftoverKind, MachinetypeName};

use crate::fast::{Place, SPACE};

/// A space whose VMs find no work and end soon.
fn configure(place: &Place, options: &str) {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n[space {SPACE}]\napi = simulated\nmax_machines = 2\n\
         simulated_boot_seconds = 10\nsimulated_work = a:0\nhttps_host = localhost\n{options}\n\
         [machinetype {SPACE} a]\ntarget_share = 1\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\nflavor_name = small\nroot_image = {dir}/disk.img\n\
         user_data = {dir}/user_data\n",
        dir = place.path().display()
    );
    place.write("vcycle.conf", &text);
}

/// The identifiers of the images that the cloud keeps.
fn images(place: &Place) -> Vec<String> {
    let text = std::fs::read(place.cloud()).unwrap();
    let kept: Value = serde_json::from_slice(&text).unwrap();
    let images = kept["images"].as_array().unwrap().iter();
    images
        .map(|image| image["id"].as_str().unwrap().to_owned())
        .collect()
}

fn ready(status: &SpaceStatus) -> Option<CloudId> {
    match status.images.get(&MachinetypeName::new("a").unwrap())? {
        ImageState::Ready { id } => Some(id.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_superseded_copy_is_kept_as_long_as_it_is_wanted_and_then_removed() {
    let place = Place::new();
    place.write("disk.img", "the first content");
    configure(&place, "keep_old_images = True");
    let daemon = place.begin();
    let first = daemon.until("the image is there", ready).await;
    daemon
        .until("machines are made from it", |status| {
            (status.totals.created > 0).then_some(())
        })
        .await;

    place.write("disk.img", "a second content");
    let second = daemon
        .until("the new one is there", |status| {
            ready(status).filter(|id| *id != first)
        })
        .await;
    let counted = |status: &SpaceStatus| status.leaks.kinds.get(&LeftoverKind::Image).cloned();
    daemon
        .until("the old one is used by nothing", |status| {
            (counted(status)?.count == LeakCount { left: 1, used: 1 }).then_some(())
        })
        .await;
    daemon.until_two_more_looks().await;
    assert_eq!(images(&place), [first.as_str(), second.as_str()]);

    configure(&place, "");
    daemon
        .until("it is removed", |status| {
            (counted(status)?.removed == 1).then_some(())
        })
        .await;
    daemon
        .until("only the new one is left", |_| {
            (images(&place) == [second.as_str()]).then_some(())
        })
        .await;
    let created = daemon
        .until("status", |status| Some(status.totals.created))
        .await;
    daemon
        .until("machines go on being made from it", |status| {
            (status.totals.created > created).then_some(())
        })
        .await;
    daemon.end().await;
}
