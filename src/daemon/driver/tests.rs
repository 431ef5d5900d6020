//! A driver at its start and its end, and with a space that was lost.

use futures_util::FutureExt;

use super::*;
use crate::clock::Clock;
use crate::config;
use crate::daemon::{Host, run};
use crate::model::{FactoryName, Seconds};
use crate::state::Disk;

/// A daemon for one space whose cloud is at `address`.
fn settings(dir: &std::path::Path, address: &str) -> Settings {
    let text = format!(
        "[server]\nlisten = none\nadmin_listen = none\n\
         [space example.org]\napi = openstack\nurl = http://{address}/v3\n\
         cred_id = a\ncred_secret = b\nmax_machines = 1\n\
         [machinetype example.org a]\nflavor_name = one\nroot_image = image:i\n\
         user_data = /u\nbackoff_seconds = 1\nfizzle_seconds = 1\n"
    );
    let conf = dir.join("vcycle.conf");
    Disk::default()
        .write(dir, &conf, text.as_bytes(), 0o644)
        .unwrap();
    Settings {
        sources: config::Sources {
            conf,
            dir: dir.join("vcycle.d"),
        },
        state_dir: dir.join("state"),
        interval: Seconds::new(3600),
        factory: FactoryName::new("factory.example.org").unwrap(),
        clock: Clock::system(),
        events: None,
        socket: None,
        host: Host::default(),
    }
}

/// Makes the directory of a machine, and tells where.
fn machine(dir: &std::path::Path, space: &str) -> std::path::PathBuf {
    let machine = dir.join("state/machines/vcycle-a-aaaaaaaaaa");
    std::fs::create_dir_all(&machine).unwrap();
    for (file, text) in [
        ("space_name", space),
        ("machinetype_name", "a"),
        ("created", "1000"),
    ] {
        let disk = Disk::default();
        disk.write(dir, &machine.join(file), text.as_bytes(), 0o644)
            .unwrap();
    }
    machine
}

#[tokio::test]
async fn a_watchdog_hears_of_the_driver_and_of_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), "127.0.0.1:1");
    let control = Control::default();
    assert_eq!(control.is_alive().now_or_never(), None);
    let daemon = run(settings, control.clone(), Board::default(), || {});
    let watchdog = async {
        control.is_alive().await;
        control.is_alive().await;
        control.stop.cancel();
    };
    let both = async { tokio::join!(daemon, watchdog).0 };
    let ended = tokio::time::timeout(Duration::from_secs(30), both).await;
    ended.unwrap().unwrap();
    assert_eq!(control.is_alive().now_or_never(), None);
}

#[tokio::test]
async fn a_cloud_that_hangs_while_it_is_looked_at_does_not_delay_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let control = Control::default();
    let daemon = tokio::spawn(run(
        settings(dir.path(), &address),
        control.clone(),
        Board::default(),
        || {},
    ));
    let _connection = silent.accept().await.unwrap();
    control.stop.cancel();
    let ended = tokio::time::timeout(STOP_GRACE / 2, daemon).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_space_that_was_lost_begins_again_with_its_directories() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), "127.0.0.1:1");
    machine(dir.path(), "example.org");
    let space = SpaceName::new("example.org").unwrap();
    let driver = Driver::begin(settings, CancellationToken::new(), Board::default()).await;
    let mut driver = driver.unwrap();
    assert!(driver.machines.is_empty(), "the space has its directories");
    // As after a panic: the task is gone, and what it knew with it.
    driver.tasks.abort_all();
    let ended = driver.tasks.join_next_with_id().await.unwrap();
    driver.space_ended(ended);
    assert!(driver.lost.contains(&space));
    driver.find_the_lost().await;
    assert!(driver.lost.is_empty());
    assert_eq!(driver.machines[&space].len(), 1);
    driver.start_spaces().await;
    assert!(driver.machines.is_empty() && driver.running.len() == 1);
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_at_the_start_is_tried_again_in_each_cycle() {
    let dir = tempfile::tempdir().unwrap();
    let created = machine(dir.path(), "left.example.org").join("created");
    let aside = dir.path().join("created");
    let disk = Disk::default();
    disk.rename(&created, &aside).unwrap();
    std::fs::create_dir(&created).unwrap();
    let settings = settings(dir.path(), "127.0.0.1:1");
    let driver = Driver::begin(settings, CancellationToken::new(), Board::default()).await;
    let mut driver = driver.unwrap();
    driver.tick().await;
    assert!(driver.machines.is_empty(), "it cannot be read");
    std::fs::remove_dir(&created).unwrap();
    disk.rename(&aside, &created).unwrap();
    driver.tick().await;
    let space = SpaceName::new("left.example.org").unwrap();
    assert_eq!(driver.machines[&space].len(), 1);
}
