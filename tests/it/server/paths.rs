//! Names and places that are not what they seem, also while a request is under way.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

const SECRET: &str = "what nobody may read";

/// One request on a connection that stays open.
fn exchange(stream: &mut (impl Read + Write), head: &str, body: &str) -> (u16, String) {
    stream
        .write_all((head.to_owned() + body).as_bytes())
        .unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let headers = String::from_utf8(bytes).unwrap().to_lowercase();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    let length = headers.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

fn head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// Exchanges two names as fast as it can while `requests` are made.
fn while_exchanging(one: &Path, other: &Path, requests: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                std::thread::yield_now();
            }
        });
        // Also when a request is not answered as it has to be.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        requests();
    });
}

/// A directory beside the state directory with the names of a machine's files.
fn outside(world: &World) -> PathBuf {
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in ["wall_limit_secs", "x"] {
        fs::write(outside.join(name), SECRET).unwrap();
    }
    outside
}

fn assert_untouched(outside: &Path) {
    let entries = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap());
    for entry in entries {
        assert_eq!(fs::read_to_string(entry.path()).unwrap(), SECRET);
    }
    assert_eq!(fs::read_dir(outside).unwrap().count(), 2);
}

/// Statuses that came, each at least once.
fn seen(statuses: &[u16], expected: &[u16]) {
    assert!(
        statuses.iter().all(|status| expected.contains(status)),
        "{statuses:?}"
    );
    for status in expected {
        assert!(statuses.contains(status), "never {status}: {statuses:?}");
    }
}

/// Asks until all of these statuses have come, for some thousand times at most.
fn ask_until(expected: &[u16], mut ask: impl FnMut() -> u16) {
    let mut statuses = Vec::new();
    for number in 0..5000 {
        statuses.push(ask());
        if number > 300 && expected.iter().all(|status| statuses.contains(status)) {
            break;
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    seen(&statuses, expected);
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let world = World::new();
    let outside = outside(&world);
    let name = MachineName::new(MACHINE).unwrap();
    let links = world.dir.path().join("links");
    fs::create_dir(&links).unwrap();

    let features = world.layout().published(&name, Published::Jobfeatures);
    symlink(&outside, links.join("features")).unwrap();
    let path = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
    while_exchanging(&features, &links.join("features"), || {
        let mut stream = TcpStream::connect(world.http_address).unwrap();
        ask_until(&[200, 404], || {
            let (status, body) = exchange(&mut stream, &head("GET", &path, ""), "");
            assert_ne!(body, SECRET);
            status
        });
    });

    let outputs = world.layout().published(&name, Published::Joboutputs);
    symlink(&outside, links.join("outputs")).unwrap();
    world.put(Some(&PKI.user), "x", "first");
    while_exchanging(&outputs, &links.join("outputs"), || {
        let mut stream = world.connect(Some(&PKI.user));
        ask_until(&[200, 404], || {
            let put = head("PUT", &joboutputs("x"), "Content-Length: 7\r\n");
            let (status, _) = exchange(&mut stream, &put, "written");
            let get = head("GET", &joboutputs("x"), "");
            let (_, body) = exchange(&mut stream, &get, "");
            assert_ne!(body, SECRET);
            status
        });
    });
    assert_untouched(&outside);

    // The machine itself.
    let machine = world.layout().machine(&name);
    let other = links.join("machine");
    symlink(world.dir.path(), &other).unwrap();
    fs::create_dir(world.dir.path().join("jobfeatures")).unwrap();
    let secret = world.dir.path().join("jobfeatures/wall_limit_secs");
    fs::write(secret, SECRET).unwrap();
    while_exchanging(&machine, &other, || {
        let mut stream = TcpStream::connect(world.http_address).unwrap();
        let path = format!("/machines/{MACHINE}/machinefeatures/total_cpu");
        ask_until(&[200, 404], || {
            exchange(&mut stream, &head("GET", &path, ""), "").0
        });
        let path = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
        for _ in 0..300 {
            let (_, body) = exchange(&mut stream, &head("GET", &path, ""), "");
            assert_ne!(body, SECRET);
        }
    });
}

#[test]
fn a_file_that_becomes_a_link_is_not_followed() {
    let world = World::new();
    let outside = outside(&world);
    world.put(Some(&PKI.user), "x", "first");
    let link = world.dir.path().join("link");
    symlink(outside.join("x"), &link).unwrap();
    let mut written = 0;
    while_exchanging(&world.output("x"), &link, || {
        let mut stream = world.connect(Some(&PKI.user));
        // One that is a link when it is looked at is refused; one that becomes one then is replaced.
        for _ in 0..300 {
            let put = head("PUT", &joboutputs("x"), "Content-Length: 7\r\n");
            let (status, reason) = exchange(&mut stream, &put, "written");
            assert!(matches!(status, 200 | 201 | 403), "{status} {reason}");
            written += usize::from(status != 403);
            let get = head("GET", &joboutputs("x"), "");
            let (status, body) = exchange(&mut stream, &get, "");
            assert!(matches!(status, 200 | 404), "{status}");
            assert_ne!(body, SECRET);
        }
    });
    assert!(written > 0);
    assert_untouched(&outside);
}

#[test]
fn the_other_name_of_a_file_keeps_its_content() {
    let world = World::new();
    let outside = outside(&world);
    fs::hard_link(outside.join("x"), world.output("x")).unwrap();
    for content in ["new", "newer"] {
        assert_eq!(world.put(Some(&PKI.user), "x", content).status, 200);
        let written = fs::read_to_string(world.output("x")).unwrap();
        assert_eq!(written, content);
    }
    assert_untouched(&outside);
    // A copy that the daemon keeps by a link, for one.
    let kept = world.dir.path().join("kept");
    fs::hard_link(world.output("x"), &kept).unwrap();
    assert_eq!(world.put(Some(&PKI.user), "x", "last").status, 200);
    assert_eq!(fs::read_to_string(kept).unwrap(), "newer");
}

#[test]
fn names_of_any_length() {
    let world = World::new();
    let user = Some(&PKI.user);
    for (length, status) in [(1, 201), (254, 201), (255, 201), (256, 400), (1000, 400)] {
        let name = "n".repeat(length);
        assert_eq!(world.put(user, &name, "x").status, status, "{length}");
        let read = world.raw(user, &request("GET", &joboutputs(&name), ""));
        let expected = if status == 201 { 200 } else { 400 };
        assert_eq!(read.status, expected, "{length}");
    }
    // Three bytes of the path for each of the name.
    let encoded = "%6e".repeat(255);
    assert_eq!(world.put(user, &encoded, "y").status, 200);
    assert_eq!(world.put(user, &"%6e".repeat(256), "y").status, 400);
    for length in [5000, 15_000] {
        assert_eq!(world.put(user, &"n".repeat(length), "x").status, 414);
    }
    // Longer than any head of a request may be: the connection ends, the server does not.
    let mut stream = world.connect(user);
    let endless = request("GET", &format!("/{}", "n".repeat(100_000)), "");
    let _may_break = stream.write_all(endless.as_bytes());
    let mut answer = Vec::new();
    let _may_break = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
    let deep = "/d".repeat(1500);
    assert!(matches!(world.get(&deep).status, 404 | 414));
    assert_eq!(fs::read_dir(world.output("")).unwrap().count(), 3);
}
