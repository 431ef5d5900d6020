//! What is on the disk, when, and what becomes of a request when the disk does not take it.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

use vcycle::state::disk::{Effect, Watch};

use super::*;
use crate::daemon::disk::SmallDisk;

/// What a step is called in these tests.
fn step(effect: &Effect<'_>) -> &'static str {
    match effect {
        Effect::Read(_) => "read",
        Effect::CreateFile(_) => "create",
        Effect::Write(..) => "write",
        Effect::SyncFile(_) => "sync",
        Effect::SetTime(_) => "time",
        Effect::CreateDir(_) => "mkdir",
        Effect::SyncDir(_) => "sync-directory",
        Effect::SyncAll(_) => "sync-all",
        Effect::Rename(..) => "rename",
        Effect::Exchange(..) => "exchange",
        Effect::Link(..) => "link",
        Effect::RemoveFile(_) => "remove",
        Effect::RemoveTree(_) => "remove-tree",
    }
}

/// Notes all steps, refuses some, and holds some back.
#[derive(Debug, Default)]
struct Watcher {
    seen: Mutex<Vec<String>>,
    /// A step that fails, after so many that do not.
    refused: Mutex<Option<(&'static str, usize, io::ErrorKind)>>,
    /// A step that waits.
    held: Mutex<Option<&'static str>>,
    let_go: Condvar,
}

impl Watch for Watcher {
    fn before(&self, effect: Effect<'_>) -> io::Result<()> {
        let step = step(&effect);
        let what = match effect {
            Effect::Rename(_, path) | Effect::SyncDir(path) => {
                let name = path.file_name().unwrap_or_default();
                format!("{step} {}", name.to_string_lossy())
            }
            _ => step.to_owned(),
        };
        self.seen.lock().unwrap().push(what);
        let mut held = self.held.lock().unwrap();
        while *held == Some(step) {
            held = self.let_go.wait(held).unwrap();
        }
        drop(held);
        let mut refused = self.refused.lock().unwrap();
        if let Some((which, left, kind)) = &mut *refused
            && *which == step
        {
            if *left == 0 {
                return Err((*kind).into());
            }
            *left -= 1;
        }
        Ok(())
    }
}

impl Watcher {
    fn world(self: &Arc<Self>) -> World {
        let disk = Disk::watched(Arc::clone(self) as Arc<dyn Watch>);
        World::on(disk, |_| {}, None)
    }

    /// What has been done since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    fn has(&self, what: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen == what)
    }

    fn refuse(&self, refused: Option<(&'static str, usize, io::ErrorKind)>) {
        *self.refused.lock().unwrap() = refused;
    }

    fn hold(&self, step: Option<&'static str>) {
        *self.held.lock().unwrap() = step;
        self.let_go.notify_all();
    }
}

#[test]
fn a_shutdown_message_is_on_the_disk_before_it_is_answered() {
    let watcher = Arc::new(Watcher::default());
    let world = watcher.world();
    for status in [201, 200] {
        watcher.take();
        let answer = world.put(Some(&PKI.user), "shutdown_message", "200 Success");
        assert_eq!(answer.status, status);
        let expected = [
            "create",
            "write",
            "time",
            "sync",
            "rename shutdown_message",
            "sync-directory joboutputs",
        ];
        assert_eq!(watcher.take(), expected);
    }
    // Each of both is waited for.
    let head = request(
        "PUT",
        &joboutputs("shutdown_message"),
        "Content-Length: 3\r\n",
    );
    for (step, seen) in [
        ("sync", "sync"),
        ("sync-directory", "sync-directory joboutputs"),
    ] {
        watcher.take();
        watcher.hold(Some(step));
        let mut stream = world.connect(Some(&PKI.user));
        stream.write_all((head.clone() + "300").as_bytes()).unwrap();
        wait_until("it is held", || watcher.has(seen));
        let early = Duration::from_millis(300);
        stream.get_ref().set_read_timeout(Some(early)).unwrap();
        let nothing = stream.read(&mut [0]).unwrap_err().kind();
        assert_eq!(nothing, io::ErrorKind::WouldBlock, "{step}");
        stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        watcher.hold(None);
        assert_eq!(Answer::read(&mut stream).status, 200, "{step}");
    }
    // A heartbeat may be lost with the power, and does not wait for the disk.
    watcher.take();
    assert_eq!(world.put(Some(&PKI.user), "heartbeat", "1").status, 201);
    let done = watcher.take();
    assert!(
        !done.iter().any(|step| step.starts_with("sync")),
        "{done:?}"
    );
}

#[test]
fn a_step_that_fails_is_no_success_and_leaves_the_old_file() {
    let watcher = Arc::new(Watcher::default());
    let world = watcher.world();
    let user = Some(&PKI.user);
    let large = "x".repeat(1_000_000);
    for (kind, status) in [
        (io::ErrorKind::StorageFull, 507),
        (io::ErrorKind::QuotaExceeded, 507),
        (io::ErrorKind::ReadOnlyFilesystem, 507),
        (io::ErrorKind::Other, 500),
    ] {
        // A message is renamed into its place, other files are exchanged for the older ones.
        for (file, step, after, content) in [
            ("shutdown_message", "create", 0, "new"),
            ("shutdown_message", "write", 0, "new"),
            ("shutdown_message", "write", 2, &*large),
            ("shutdown_message", "time", 0, "new"),
            ("shutdown_message", "sync", 0, "new"),
            ("shutdown_message", "rename", 0, "new"),
            ("heartbeat", "create", 0, "new"),
            ("heartbeat", "write", 0, "new"),
            ("heartbeat", "write", 2, &*large),
            ("heartbeat", "exchange", 0, "new"),
        ] {
            let before = world.put(user, file, "old");
            assert!(matches!(before.status, 200 | 201), "{before:?}");
            let path = world.output(file);
            let opened = fs::File::options().write(true).open(&path).unwrap();
            opened.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            watcher.refuse(Some((step, after, kind)));
            let answer = world.put(user, file, content);
            assert_eq!(answer.status, status, "{step} {kind}: {answer:?}");
            watcher.refuse(None);
            let kept = fs::read_to_string(world.output(file)).unwrap();
            assert_eq!(kept, "old", "{step}");
            // A disk of ours that fails makes no machine silent, if it takes the time at least.
            let heard = fs::metadata(&path).unwrap().modified().unwrap();
            let is_refused = step == "time";
            assert_eq!(heard > SystemTime::UNIX_EPOCH, !is_refused, "{step} {kind}");
            let left = fs::read_dir(world.layout().tmp()).unwrap().count();
            assert_eq!(left, 0, "{step}");
            // The rest of the server goes on.
            let key = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
            assert_eq!(world.get(&key).status, 200);
        }
        // It is in its place by then, but nobody is told that it will stay there.
        watcher.refuse(Some(("sync-directory", 0, kind)));
        assert_eq!(world.put(user, "shutdown_message", "x").status, status);
        watcher.refuse(None);
    }
}

#[test]
fn a_full_disk_is_507_until_there_is_room() {
    let probe = tempfile::tempdir().unwrap();
    if SmallDisk::mount(probe.path().join("disk")).is_none() {
        return;
    }
    let world = World::with(
        |root| std::mem::forget(SmallDisk::mount(root.join("state")).unwrap()),
        None,
    );
    let small = SmallDisk(world.layout().root().to_owned());
    let user = Some(&PKI.user);
    for file in ["heartbeat", "log"] {
        assert_eq!(world.put(user, file, "before").status, 201);
    }
    small.fill();
    world.clock.set(Timestamp::from_unix(NOW + 600));
    for (file, content) in [
        ("heartbeat", "again".to_owned()),
        ("log", "x".repeat(2_000_000)),
        ("new", "x".repeat(5000)),
        ("shutdown_message", "200 Success".to_owned()),
    ] {
        let answer = world.put(user, file, &content);
        assert_eq!(answer.status, 507, "{file}: {answer:?}");
    }
    for file in ["heartbeat", "log"] {
        let path = world.output(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        // The machine has been heard of.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(time, Timestamp::from_unix(NOW + 600).to_system_time());
    }
    for file in ["new", "shutdown_message"] {
        assert!(!world.output(file).exists(), "{file}");
    }
    assert_eq!(fs::read_dir(world.layout().tmp()).unwrap().count(), 0);
    let key = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
    assert_eq!(world.get(&key).status, 200);
    let read = request("GET", &joboutputs("heartbeat"), "");
    assert_eq!(world.raw(user, &read).body, "before");

    small.make_room();
    assert_eq!(world.put(user, "heartbeat", "again").status, 200);
    assert_eq!(world.put(user, "shutdown_message", "200").status, 201);
    drop(world.runtime);
    drop(world.store);
}

#[test]
fn an_upload_that_breaks_off_leaves_the_old_file_and_nothing_else() {
    let world = World::new();
    let user = Some(&PKI.user);
    assert_eq!(world.put(user, "x", "old").status, 201);
    let chunked = "Transfer-Encoding: chunked\r\n";
    let large = format!("61a80\r\n{}\r\n", "x".repeat(400_000));
    let cases = [
        ("Content-Length: 10\r\n", "half".to_owned()),
        ("Content-Length: 900000\r\n", "x".repeat(600_000)),
        (chunked, "5\r\nhel".to_owned()),
        (chunked, "5\r\nhello\r\n".to_owned()),
        (chunked, "5\r\nhello\r\n0\r\n".to_owned()),
        (chunked, "5\r\nhello\r\nnonsense\r\n\r\n".to_owned()),
        (chunked, "ffffffffffffffffff\r\nhello".to_owned()),
        (chunked, large.clone()),
        (chunked, large + "7\r\nsho"),
    ];
    for (number, (length, body)) in cases.iter().enumerate() {
        for goodbye in [true, false] {
            let mut stream = world.connect(user);
            let head = request("PUT", &joboutputs("x"), length);
            stream.write_all((head + body).as_bytes()).unwrap();
            if goodbye {
                // An end of TLS in good order is no end of the body.
                let _sent = stream.shutdown();
            }
            let socket = stream.get_ref();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            let _broken = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(!answer.starts_with("HTTP/1.1 2"), "{number}: {answer}");
        }
    }
    let tmp = world.layout().tmp();
    wait_until("nothing is left", || {
        fs::read_dir(&tmp).unwrap().count() == 0
    });
    assert_eq!(fs::read_to_string(world.output("x")).unwrap(), "old");
    assert_eq!(fs::read_dir(world.output("")).unwrap().count(), 1);
}
