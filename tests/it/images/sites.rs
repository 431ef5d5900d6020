//! The running daemon with images from files and URLs, on the embedded cloud.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::signed::{self, PATTERN, SIGNERS};
use crate::daemon::factory::{Factory, SPACE, until};
use crate::scripted::{Authority, Reply, Scripted, Seen};

/// The images that the embedded cloud has on file.
fn uploads(factory: &Factory) -> Vec<Value> {
    let file = factory.state(&format!("simulated/{SPACE}.json"));
    let Ok(bytes) = fs::read(file) else {
        return Vec::new();
    };
    let kept: Value = serde_json::from_slice(&bytes).unwrap();
    kept["images"].as_array().cloned().unwrap_or_default()
}

/// Waits for a server that boots from this image.
fn until_booted_from(factory: &Factory, image: &Value) {
    until("a server boots from the uploaded image", || {
        let servers = factory.servers(SPACE);
        let mut servers = servers.iter();
        servers
            .find(|server| server["image"] == image["id"])
            .map(|_| ())
    });
}

fn why_not(factory: &Factory, machinetype: &str) -> String {
    let plan = factory.run(&["plan", "--json", SPACE]).json();
    let stopped = &plan["report"]["machinetypes"][machinetype]["stopped_by"];
    if stopped["rule"] == "image" {
        stopped["why"].as_str().unwrap().to_owned()
    } else {
        stopped.to_string()
    }
}

/// Writes a space with machinetypes, each with a root_image of its own, whatever that needs.
fn site(factory: &Factory, space: &str, machinetypes: &[(&str, &str)]) {
    let mut text = factory.space(SPACE, &format!("max_machines = 4\n{space}"));
    for (name, options) in machinetypes {
        let section = factory.machinetype(SPACE, name, "");
        let section = section.replace("root_image = image:cernvm4\n", &format!("{options}\n"));
        text.push_str(&section);
    }
    factory.conf("space", &text);
}

/// The files in a directory of the state.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn an_image_is_uploaded_once_for_all_who_share_it_and_again_when_it_changes() {
    let factory = Factory::new();
    let file = factory.path("disk.img");
    fs::write(&file, vec![1; 300_000]).unwrap();
    let image = format!("root_image = {}", file.display());
    site(
        &factory,
        "",
        &[
            ("one", &image),
            ("two", &image),
            ("cd", "root_image = boot.iso"),
        ],
    );
    let relative = factory.state(&format!("spaces/{SPACE}/machinetypes/cd/files"));
    fs::create_dir_all(&relative).unwrap();
    fs::write(relative.join("boot.iso"), "a CD").unwrap();
    assert!(why_not(&factory, "one").contains("the daemon has not uploaded"));

    let daemon = factory.start();
    until("machines of all kinds", || {
        let machines = factory.machines();
        let has = |name: &str| machines.iter().any(|m| m.name().contains(name));
        (has("-one-") && has("-two-") && has("-cd-")).then_some(())
    });
    let made = uploads(&factory);
    assert_eq!(made.len(), 2, "{made:?}");
    let of = |format: &str| {
        made.iter()
            .find(|image| image["disk_format"] == format)
            .unwrap()
    };
    assert_eq!(of("raw")["size"], 300_000);
    assert_eq!(of("iso")["size"], 4);
    assert!(
        of("iso")["name"]
            .as_str()
            .unwrap()
            .starts_with("boot.iso 20")
    );
    until_booted_from(&factory, of("raw"));
    until_booted_from(&factory, of("iso"));

    fs::write(&file, vec![2; 300_001]).unwrap();
    let newer = until("the new content is uploaded", || {
        let mut images = uploads(&factory).into_iter();
        images.find(|image| image["size"] == 300_001)
    });
    assert_eq!(uploads(&factory).len(), 3, "the one before is in use");
    assert_ne!(newer["tags"], of("raw")["tags"]);

    // A restart knows what is there.
    daemon.end();
    let daemon = factory.start();
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(uploads(&factory).len(), 3);
    assert_eq!(factory.log_lines("uploaded the image").len(), 3);
    daemon.end();
}

/// A web server with one image, whose manners a test changes.
struct Web {
    server: Scripted,
    manners: Arc<Mutex<Manners>>,
}

#[derive(Clone)]
struct Manners {
    content: Vec<u8>,
    modified: Option<SystemTime>,
    works: bool,
}

impl Web {
    async fn start(authority: &Authority) -> Self {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_467_363_600);
        let manners = Arc::new(Mutex::new(Manners {
            content: vec![7; 2_500_000],
            modified: Some(modified),
            works: true,
        }));
        let shared = Arc::clone(&manners);
        let script = move |seen: &Seen, _: &str| answer(seen, &shared.lock().unwrap());
        let server = Scripted::start_tls(authority, script).await;
        Self { server, manners }
    }

    fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.manners.lock().unwrap());
    }

    /// The If-Modified-Since of all requests for the image.
    fn conditions(&self) -> Vec<String> {
        let seen = self.server.seen();
        let of_image = seen.iter().filter(|seen| seen.path == "/cernvm.hdd");
        of_image
            .map(|seen| seen.header("if-modified-since").to_owned())
            .collect()
    }
}

fn answer(seen: &Seen, manners: &Manners) -> Reply {
    if !manners.works {
        return Reply::html(503, "<h1>Service Unavailable</h1>");
    }
    let modified = manners.modified.map(httpdate::fmt_http_date);
    if modified.as_deref() == Some(seen.header("if-modified-since")) {
        return Reply::Raw {
            status: 304,
            headers: Vec::new(),
            body: Vec::new(),
        };
    }
    let headers = modified.map(|date| ("last-modified", date));
    Reply::Raw {
        status: 200,
        headers: headers.into_iter().collect(),
        body: manners.content.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_a_url_is_cached_and_asked_for_with_its_time() {
    let authority = Authority::new();
    let web = Web::start(&authority).await;
    let factory = Factory::new();
    let url = format!("{}/cernvm.hdd", web.server.base);
    site(&factory, "", &[("one", &format!("root_image = {url}"))]);
    // Its CA is not trusted yet.
    let daemon = factory.start();
    let told = until("it is told", || {
        factory
            .log_lines("no machines are created from this image")
            .pop()
    });
    assert!(
        told.contains(&format!("cannot fetch {url}")) && told.contains("certificate"),
        "{told}"
    );
    assert!(web.conditions().is_empty());
    daemon.end();

    fs::copy(
        authority.path().join("Scripted-CA.pem"),
        factory.path("etc/certificates/scripted.pem"),
    )
    .unwrap();
    let daemon = factory.start();
    let made = until("the upload", || {
        uploads(&factory).pop().filter(|i| !i["size"].is_null())
    });
    assert_eq!(made["size"], 2_500_000);
    assert_eq!(made["name"], "cernvm.hdd 2016-07-01T09:00:00Z");
    until_booted_from(&factory, &made);
    assert_eq!(web.conditions(), [""]);
    let cache = factory.state("imagecache");
    let [copy] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    let found = cache.join(copy).metadata().unwrap();
    assert_eq!(
        found.modified().unwrap(),
        web.manners.lock().unwrap().modified.unwrap()
    );
    assert_eq!(found.len(), 2_500_000);
    daemon.end();

    // A new life asks with the time that it finds, and takes a newer image over.
    let daemon = factory.start();
    until("it is asked", || {
        (web.conditions().len() >= 2).then_some(())
    });
    assert_eq!(web.conditions()[1], "Fri, 01 Jul 2016 09:00:00 GMT");
    factory.wait_for_scans(SPACE, 2);
    assert_eq!(uploads(&factory).len(), 1);
    daemon.end();
    web.change(|manners| {
        manners.content = vec![8; 10];
        manners.modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000));
    });
    let daemon = factory.start();
    until("the newer one", || {
        uploads(&factory).into_iter().find(|i| i["size"] == 10)
    });
    daemon.end();

    // A server that fails: the copy goes on, and that is said.
    web.change(|manners| manners.works = false);
    let daemon = factory.start();
    let told = until("it is told", || {
        factory.log_lines("going on with the copy").pop()
    });
    assert!(told.contains("503"), "{told}");
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(factory.log_lines("going on with the copy").len(), 1);
    assert!(
        !why_not(&factory, "one").contains("not"),
        "{}",
        why_not(&factory, "one")
    );
    daemon.end();

    // One that does not say how old it is cannot be used.
    web.change(|manners| {
        manners.works = true;
        manners.modified = None;
    });
    let daemon = factory.start();
    until("it is told", || {
        factory.log_lines("gives no Last-Modified").pop()
    });
    daemon.end();
    assert_eq!(files(&cache).len(), 1);
    assert!(files(&factory.state("tmp")).is_empty());
}

#[test]
fn only_an_image_with_a_good_signature_is_used() {
    let factory = Factory::new();
    SIGNERS.ca.install(&factory.path("etc/certificates"));
    let good = signed::image(&SIGNERS.good, &[1; 500_000]);
    let mut bad = good.clone();
    bad[0] = 0;
    let write = |name: &str, image: &[u8]| {
        fs::write(factory.path(name), image).unwrap();
        format!("root_image = {}", factory.path(name).display())
    };
    let (good, bad) = (write("good.img", &good), write("bad.img", &bad));
    let signed = |image: &str, pattern: &str| format!("{image}\ncernvm_signing_dn = {pattern}");
    let machinetypes = [
        ("good", signed(&good, PATTERN)),
        ("bad", signed(&bad, PATTERN)),
        ("others", signed(&good, "/CN=somebody$")),
        ("clouds", signed("root_image = image:cernvm4", PATTERN)),
    ];
    let machinetypes = machinetypes
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    site(&factory, "", &machinetypes);
    let daemon = factory.start();
    until("a machine", || factory.machines().pop());
    until("it is told", || {
        factory.log_lines("its signature is wrong").pop()
    });
    until("it is told", || {
        factory
            .log_lines("which cernvm_signing_dn = /CN=somebody$")
            .pop()
    });
    until("it is told", || {
        factory
            .log_lines("cernvm_signing_dn cannot be checked of image:cernvm4")
            .pop()
    });
    factory.wait_for_scans(SPACE, 3);
    daemon.end();
    assert!(
        factory
            .machines()
            .iter()
            .all(|machine| machine.name().contains("-good-"))
    );
    assert_eq!(uploads(&factory).len(), 1);
    let verified = factory.log_lines("is signed by /DC=ch/DC=cern/OU=computers/CN=cvm-sign01");
    assert_eq!(verified.len(), 1, "not in each cycle: {verified:?}");
    assert_eq!(factory.log_lines("its signature is wrong").len(), 1);
    assert!(why_not(&factory, "bad").contains("its signature is wrong"));
    let cloud = why_not(&factory, "clouds");
    assert!(
        cloud.contains("cannot be checked of image:cernvm4"),
        "{cloud}"
    );
}

#[test]
fn an_image_that_is_missing_is_told_and_used_when_it_comes() {
    let factory = Factory::new();
    let file = factory.path("late.img");
    site(
        &factory,
        "",
        &[
            ("one", &format!("root_image = {}", file.display())),
            ("two", "root_image = image:cernvm4"),
        ],
    );
    let daemon = factory.start();
    let told = until("it is told", || factory.log_lines("late.img").pop());
    assert!(told.contains("No such file"), "{told}");
    until("the other machinetype goes on", || factory.machines().pop());
    assert!(why_not(&factory, "one").contains("No such file"));
    fs::write(&file, "now").unwrap();
    until("a machine", || {
        let machines = factory.machines();
        machines
            .into_iter()
            .find(|machine| machine.name().contains("-one-"))
    });
    daemon.end();
}
