//! Copies of an image that have been superseded, with a fast clock, as the status shows it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vcycle::clock::Clock;
use vcycle::config::Sources;
use vcycle::daemon::{self, Board, Control, Host, Settings, SpaceStatus};
use vcycle::decide::leaks::LeakCount;
use vcycle::model::{
    CloudId, FactoryName, ImageState, LeftoverKind, MachinetypeName, Seconds, SpaceName,
};

/// Two looks, ten minutes from each other, in two seconds.
const SPEED: u32 = 300;

fn write(path: &Path, text: &str) {
    let growing = path.with_extension("growing");
    std::fs::write(&growing, text).unwrap();
    std::fs::rename(growing, path).unwrap();
}

/// A space whose VMs find no work and end soon.
fn configure(dir: &Path, options: &str) {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n[space example.org]\napi = simulated\nmax_machines = 2\n\
         simulated_boot_seconds = 10\nsimulated_work = a:0\nhttps_host = localhost\n{options}\n\
         [machinetype example.org a]\ntarget_share = 1\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\nflavor_name = small\nroot_image = {dir}/disk.img\n\
         user_data = {dir}/user_data\n",
        dir = dir.display()
    );
    write(&dir.join("vcycle.conf"), &text);
}

/// The identifiers of the images that the cloud keeps.
fn images(dir: &Path) -> Vec<String> {
    let text = std::fs::read(dir.join("state/simulated/example.org.json")).unwrap();
    let kept: Value = serde_json::from_slice(&text).unwrap();
    let images = kept["images"].as_array().unwrap().iter();
    images
        .map(|image| image["id"].as_str().unwrap().to_owned())
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

fn ready(status: &SpaceStatus) -> Option<CloudId> {
    match status.images.get(&MachinetypeName::new("a").unwrap())? {
        ImageState::Ready { id } => Some(id.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_superseded_copy_is_kept_as_long_as_it_is_wanted_and_then_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("conf.d")).unwrap();
    write(&dir.join("user_data"), "#!/bin/sh\n");
    write(&dir.join("disk.img"), "the first content");
    configure(dir, "keep_old_images = True");
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
    let daemon = tokio::spawn(daemon::run(settings, control.clone(), board.clone(), || {}));
    let first = until("the image is there", &board, ready).await;
    until("machines are made from it", &board, |status| {
        (status.totals.created > 0).then_some(())
    })
    .await;

    write(&dir.join("disk.img"), "a second content");
    let second = until("the new one is there", &board, |status| {
        ready(status).filter(|id| *id != first)
    })
    .await;
    let counted = |status: &SpaceStatus| status.leaks.kinds.get(&LeftoverKind::Image).cloned();
    until("the old one is used by nothing", &board, |status| {
        (counted(status)?.count == LeakCount { left: 1, used: 1 }).then_some(())
    })
    .await;
    let looked = until("it was looked at", &board, |status| status.leaks.looked).await;
    until("two more looks", &board, |status| {
        (status.leaks.looked? >= looked + Seconds::new(1200)).then_some(())
    })
    .await;
    assert_eq!(images(dir), [first.as_str(), second.as_str()]);

    configure(dir, "");
    until("it is removed", &board, |status| {
        (counted(status)?.removed == 1).then_some(())
    })
    .await;
    until("only the new one is left", &board, |_| {
        (images(dir) == [second.as_str()]).then_some(())
    })
    .await;
    let created = board.now().spaces.values().next().unwrap().totals.created;
    until("machines go on being made from it", &board, |status| {
        (status.totals.created > created).then_some(())
    })
    .await;
    control.stop.cancel();
    daemon.await.unwrap().unwrap();
}
