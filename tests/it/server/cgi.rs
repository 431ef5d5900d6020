//! The CGI program as processes: what those that were killed leave behind, and several at a time.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;

const TOKEN: &str = "a-token-of-the-machine";

/// The environment of one upload.
struct Program {
    path: PathBuf,
    world: World,
}

struct Upload {
    process: Child,
    input: ChildStdin,
}

impl Program {
    fn new() -> Self {
        let world = World::with(|_| {}, Some(TokenHash::of(TOKEN)));
        let path = world.dir.path().join("vcycle-cgi");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vcycled"), &path).unwrap();
        Self { path, world }
    }

    /// Starts it to take `length` bytes for `file`; `before` is what the shell does that becomes
    /// the program, and so has its process number.
    fn start(&self, before: &str, file: &str, length: usize) -> Upload {
        let outputs = self.world.output("");
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{before}\nexec \"$0\""));
        command.arg(&self.path).current_dir(&outputs).env_clear();
        command.envs([
            ("REQUEST_METHOD", "PUT"),
            ("REQUEST_URI", &joboutputs(file)),
            ("HTTPS", "on"),
            ("REMOTE_ADDR", "192.0.2.1"),
            ("HTTP_AUTHORIZATION", &format!("Bearer {TOKEN}")),
            ("CONTENT_LENGTH", &length.to_string()),
        ]);
        command.env("VCYCLE_STATE_DIR", self.world.layout().root());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = piped.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        Upload { process, input }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.world.output("")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Upload {
    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
    }

    fn end(self) -> String {
        drop(self.input);
        let done = self.process.wait_with_output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }
}

fn hidden(path: &Path) -> usize {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload."))
        .count()
}

#[test]
fn what_a_process_of_the_same_number_has_left_is_in_nobodys_way() {
    let program = Program::new();
    let left = "for n in 0 1 2 3; do echo left >.upload.$$.$n; done";
    let mut upload = program.start(left, "heartbeat", 5);
    upload.send(b"alive");
    let answer = upload.end();
    assert!(answer.starts_with("Status: 201 "), "{answer}");
    let written = fs::read_to_string(program.world.output("heartbeat"));
    assert_eq!(written.unwrap(), "alive");
    let outputs = program.world.output("");
    assert_eq!(hidden(&outputs), 4, "{:?}", program.names());
    for entry in fs::read_dir(&outputs).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "heartbeat" {
            assert_eq!(fs::read_to_string(&path).unwrap(), "left\n");
            let file = fs::File::options().append(true).open(&path).unwrap();
            let hours_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
            file.set_modified(hours_ago).unwrap();
        }
    }
    let mut upload = program.start("", "heartbeat", 5);
    upload.send(b"still");
    let answer = upload.end();
    assert!(answer.starts_with("Status: 200 "), "{answer}");
    assert_eq!(program.names(), ["heartbeat"]);
}

#[test]
fn two_that_write_the_same_file_leave_one_of_both() {
    const LENGTH: usize = 1_000_000;
    let program = Program::new();
    let mut uploads = [b'a', b'b'].map(|byte| (byte, program.start("", "log", LENGTH)));
    for (byte, upload) in &mut uploads {
        upload.send(&vec![*byte; LENGTH / 2]);
    }
    let outputs = program.world.output("");
    wait_until("both grow", || hidden(&outputs) == 2);
    assert!(!program.world.output("log").exists());
    for (byte, upload) in &mut uploads {
        upload.send(&vec![*byte; LENGTH / 2]);
    }
    for (byte, upload) in uploads {
        let answer = upload.end();
        assert!(answer.starts_with("Status: 20"), "{answer}");
        let written = fs::read(program.world.output("log")).unwrap();
        assert_eq!(written.len(), LENGTH);
        assert!(written.iter().all(|found| *found == written[0]), "{byte}");
    }
    assert_eq!(program.names(), ["log"]);
}

#[test]
fn one_that_is_killed_leaves_the_old_file() {
    let program = Program::new();
    let mut upload = program.start("", "log", 3);
    upload.send(b"old");
    upload.end();
    let mut upload = program.start("", "log", 1_000_000);
    upload.send(&[b'x'; 500_000]);
    let outputs = program.world.output("");
    wait_until("it grows", || hidden(&outputs) == 1);
    upload.process.kill().unwrap();
    upload.process.wait().unwrap();
    let log = fs::read_to_string(program.world.output("log"));
    assert_eq!(log.unwrap(), "old");
    // Nobody sees it, and the name can be written again.
    let listing = request("GET", &joboutputs(""), "");
    let listing = program.world.raw(Some(&PKI.user), &listing);
    assert!(!listing.body.contains("upload"), "{listing:?}");
    let mut upload = program.start("", "log", 3);
    upload.send(b"new");
    let answer = upload.end();
    assert!(answer.starts_with("Status: 200 "), "{answer}");
    let log = fs::read_to_string(program.world.output("log"));
    assert_eq!(log.unwrap(), "new");
}
