//! Downloads that meet a full disk, a server that stops in the middle, and a crash.

use std::fs;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::daemon::disk::SmallDisk;
use crate::daemon::factory::{Factory, SPACE, entries, until};

/// A web server that promises ten million bytes and stops after so many.
async fn stalling(bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _read = stream.read(&mut head).await;
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\
                              last-modified: Fri, 01 Jul 2016 09:00:00 GMT\r\n\r\n";
                let _gone = stream.write_all(answer.as_bytes()).await;
                let _gone = stream.write_all(&vec![1; bytes]).await;
                tokio::time::sleep(Duration::from_secs(3600)).await;
            });
        }
    });
    format!("http://{address}/disk.img")
}

fn site(factory: &Factory, image: &str) {
    let machinetype = factory.machinetype(SPACE, "atlas", "");
    let machinetype = machinetype.replace("image:cernvm4", image);
    let space = factory.space(SPACE, "max_machines = 2");
    factory.conf("space", &(space + &machinetype));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_of_a_download_is_removed_and_a_stop_does_not_wait_for_one() {
    let factory = Factory::new();
    site(&factory, &stalling(5_000_000).await);
    let daemon = factory.start();
    let growing = || entries(&factory.state("tmp")).into_iter().next();
    let half = until("the download is under way", || {
        growing().filter(|file| file.metadata().is_ok_and(|found| found.len() > 4_000_000))
    });
    // Passes go on meanwhile.
    let scan = factory.state(&format!("spaces/{SPACE}/last_scan"));
    until("a pass", || scan.exists().then_some(()));
    let plan = factory.run(&["plan", "--json", SPACE]).json();
    let why = plan["report"]["machinetypes"]["atlas"]["stopped_by"]["why"].clone();
    assert!(
        why.as_str().unwrap().contains("the daemon has not fetched"),
        "{why}"
    );
    factory.wait_for_scans(SPACE, 2);
    daemon.kill();
    assert!(half.exists());
    let daemon = factory.start();
    assert!(!half.exists());
    until("the download is under way again", growing);
    daemon.end();
    assert_eq!(growing(), None);
    assert!(entries(&factory.state("imagecache")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_leaves_no_part_of_an_image() {
    let mut factory = Factory::new();
    let Some(disk) = SmallDisk::mount(factory.path("disk")) else {
        return;
    };
    factory = factory.state_at(disk.0.join("state"));
    // The small disk has 16 MiB.
    fs::create_dir_all(disk.0.join("state")).unwrap();
    fs::write(disk.0.join("filler"), vec![1; 12_000_000]).unwrap();
    site(&factory, &stalling(9_000_000).await);
    let daemon = factory.start();
    let told = until("it is told", || {
        factory
            .log_lines("no machines are created from this image")
            .pop()
    });
    assert!(
        told.contains("cannot write") && told.contains("No space left on device"),
        "{told}"
    );
    assert!(entries(&factory.state("tmp")).is_empty());
    factory.wait_for_scans(SPACE, 2);
    daemon.end();
}
