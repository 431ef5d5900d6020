//! A site in a directory, with machines that run, and the daemon on it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::nova::{Nova, id, name};
use super::{PATIENCE, space};

/// The name of the factory.
pub const FACTORY: &str = "factory.example.org";
/// What [`Site::lay_out`] writes for one machine, as files: what the daemon writes for a machine
/// that runs, and its heartbeat.
pub const FILES: usize = 25;

/// Configuration and state in a directory that goes when this goes.
pub struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    /// A site without spaces, below `parent`.
    pub fn new(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        fs::create_dir(dir.path().join("vcycle.d")).unwrap();
        fs::create_dir_all(dir.path().join("state/machines")).unwrap();
        let site = Self { dir };
        put(&site.path("user_data"), "#cloud-config\n");
        put(
            &site.path("vcycle.conf"),
            "[server]\nlisten = none\nadmin_listen = none\n",
        );
        site
    }

    /// A site with `spaces` spaces of `each` machines, all known to the clouds and running.
    pub fn populated(nova: &Nova, spaces: usize, each: usize, parent: &Path) -> Self {
        let site = Self::new(parent);
        let all = (0..spaces).map(|number| (space(number), nova.url(&space(number)), each));
        site.spaces("spaces", all);
        for number in 0..spaces {
            let machines = number * each..(number + 1) * each;
            nova.fill(&space(number), machines.clone());
            site.lay_out(&space(number), machines);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Configures spaces, all in `vcycle.d/FILE.conf`: name, url, max_machines.
    pub fn spaces(&self, file: &str, spaces: impl IntoIterator<Item = (String, String, usize)>) {
        let mut text = String::new();
        for (space, url, max_machines) in spaces {
            writeln!(
                text,
                "[space {space}]\napi = openstack\nurl = {url}\ntenancy_name = t\nusername = u\n\
                 password_base64 = cA==\nmax_machines = {max_machines}\n\
                 [machinetype {space} atlas]\nflavor_name = small\nroot_image = image:x\n\
                 user_data = {}\ntarget_share = 1\nbackoff_seconds = 600\nfizzle_seconds = 600\n\
                 heartbeat_file = heartbeat\nheartbeat_seconds = 36000",
                self.path("user_data").display()
            )
            .unwrap();
        }
        let growing = self.path("growing");
        put(&growing, &text);
        fs::rename(growing, self.path(&format!("vcycle.d/{file}.conf"))).unwrap();
    }

    /// Configures one space on an embedded cloud.
    pub fn embedded_space(&self, space: &str, machines: usize) {
        let text = format!(
            "[space {space}]\napi = simulated\nhttps_host = localhost\nmax_machines = {machines}\n\
             simulated_machines = {machines}\nsimulated_processors = {machines}\n\
             simulated_boot_seconds = 1\nsimulated_job_seconds = 36000\n\
             [machinetype {space} atlas]\nflavor_name = small\nroot_image = image:cernvm4\n\
             user_data = {}\ntarget_share = 1\nbackoff_seconds = 600\nfizzle_seconds = 600\n",
            self.path("user_data").display()
        );
        put(&self.path("vcycle.d/spaces.conf"), &text);
    }

    /// How many machine directories there are.
    pub fn machines(&self) -> usize {
        fs::read_dir(self.path("state/machines")).unwrap().count()
    }

    /// Makes the directories of the machines with these numbers, all running and heard of.
    pub fn lay_out(&self, space: &str, numbers: std::ops::Range<usize>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        for number in numbers {
            let dir = self.path("state/machines").join(name(number));
            for sub in ["machinefeatures", "jobfeatures", "joboutputs"] {
                fs::create_dir_all(dir.join(sub)).unwrap();
            }
            let (created, down) = ((now - 4000).to_string(), (now + 80000).to_string());
            let (started, id) = ((now - 3900).to_string(), id(number));
            for (file, text) in [
                ("created", created.as_str()),
                ("started", &started),
                ("space_name", space),
                ("machinetype_name", "atlas"),
                ("manager", FACTORY),
                ("uuid", &id),
                ("zone", "zone-a"),
                ("fizzle_seconds", "600"),
                ("user_data", "#cloud-config\n"),
                ("machinefeatures/total_cpu", "1"),
                ("machinefeatures/shutdowntime", &down),
                ("machinefeatures/grace_secs", "600"),
                ("machinefeatures/jobslots", "1"),
                ("machinefeatures/phys_cores", "1"),
                ("machinefeatures/log_cores", "1"),
                ("jobfeatures/allocated_cpu", "1"),
                ("jobfeatures/shutdowntime_job", &down),
                ("jobfeatures/grace_secs_job", "600"),
                ("jobfeatures/jobstart_secs", &created),
                ("jobfeatures/wall_limit_secs", "86400"),
                ("jobfeatures/cpu_limit_secs", "86400"),
                ("jobfeatures/job_id", &id),
                ("jobfeatures/max_rss_bytes", "2147483648"),
                ("jobfeatures/scratch_limit_bytes", "10000000000"),
                ("joboutputs/heartbeat", ""),
            ] {
                put(&dir.join(file), text);
            }
        }
    }

    /// How many files and directories of the state have changed since `then`, apart from the
    /// files that hold the time of a space's last scan.
    pub fn changed_since(&self, then: SystemTime) -> usize {
        let then = then.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let then = (
            i64::try_from(then.as_secs()).unwrap(),
            i64::from(then.subsec_nanos()),
        );
        changed_below(&self.path("state"), then)
    }

    /// The binary with the options of this site and a cycle every `interval` seconds.
    pub fn command(&self, program: &Path, interval: u64) -> Command {
        self.options(Command::new(program), interval)
    }

    /// Adds the options of this site to a command that ends with the binary.
    pub fn options(&self, mut command: Command, interval: u64) -> Command {
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM"] {
            command.env_remove(name);
        }
        command
            // As packaging/vcycled.service does.
            .env("MALLOC_ARENA_MAX", "2")
            .env("VCYCLE_LOG", "info,vcycle::daemon::pass=debug")
            .args(["--factory", FACTORY, "--interval", &interval.to_string()])
            .arg("--config")
            .arg(self.path("vcycle.conf"))
            .arg("--config-dir")
            .arg(self.path("vcycle.d"))
            .arg("--state-dir")
            .arg(self.path("state"));
        command
    }
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Without `last_scan`, which each scan changes, and `tmp`, into which each cycle tries to write.
fn changed_below(dir: &Path, then: (i64, i64)) -> usize {
    let mut changed = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        if found.is_dir() {
            changed += changed_below(&entry.path(), then);
        }
        let later = (found.ctime(), found.ctime_nsec()) > then;
        let is_meant = entry.file_name() != "last_scan" && entry.file_name() != "tmp";
        changed += usize::from(later && is_meant);
    }
    changed
}

/// A running daemon; it is killed when this goes.
pub struct Daemon {
    child: Child,
    decided: Receiver<Line>,
    /// From the start of the process until it ran: configuration and directories are read.
    pub start: Duration,
    /// When it ran.
    pub runs: Instant,
}

enum Line {
    /// It has read everything and begins.
    Runs(Instant),
    /// A pass over a space has come to its decision; all that a steady cycle does then is to note
    /// the time of the scan.
    Decided(String, Instant),
}

impl Daemon {
    /// Starts it and waits until it runs.
    pub fn start(mut command: Command) -> Self {
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, decided) = channel();
        let log = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            follow(log, |line| drop(sender.send(line)));
        });
        let mut daemon = Self {
            child,
            decided,
            start: Duration::ZERO,
            runs: began,
        };
        match daemon.decided.recv_timeout(PATIENCE).unwrap() {
            Line::Runs(when) => (daemon.start, daemon.runs) = (when - began, when),
            Line::Decided(..) => panic!("a decision before the start"),
        }
        daemon
    }

    /// Waits until each space has come to a decision once more, and tells when the last did.
    pub fn wait_for_decisions(&self, spaces: usize) -> Instant {
        let mut seen = HashMap::new();
        while seen.len() < spaces {
            let (space, when) = self.next_decision();
            seen.insert(space, when);
        }
        seen.into_values().max().unwrap()
    }

    /// The next space that comes to a decision, and when that was.
    pub fn next_decision(&self) -> (String, Instant) {
        match self.decided.recv_timeout(PATIENCE).unwrap() {
            Line::Runs(_) => panic!("it started twice"),
            Line::Decided(space, when) => (space, when),
        }
    }

    /// Asks for a cycle and waits until all spaces have had theirs.
    pub fn cycle(&self, spaces: usize) -> Duration {
        let began = Instant::now();
        kill_process(self.pid(), Signal::HUP).unwrap();
        self.wait_for_decisions(spaces) - began
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Processor time so far, of all its threads, also of those that have ended.
    pub fn cpu(&self) -> Duration {
        cpu_time(&self.child.id().to_string())
    }

    /// Resident memory in KiB: now (`VmRSS`) or the most so far (`VmHWM`).
    pub fn resident_kib(&self, which: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with(which)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Asks it to end and waits for it.
    pub fn end(mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped_before = self.child.wait();
    }
}

/// Processor time of a process (its number, or `self`), in steps of a hundredth of a second.
pub fn cpu_time(process: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn follow(log: ChildStderr, mut tell: impl FnMut(Line)) {
    for line in BufReader::new(log).lines() {
        let line = line.unwrap();
        let space = line
            .split_once("pass{space=")
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(space, _)| space.to_owned());
        match space {
            Some(space) if line.contains(" decided ") => tell(Line::Decided(space, Instant::now())),
            None if line.contains(" running with ") => tell(Line::Runs(Instant::now())),
            // Creations are told one by one, and clouds that are dead on purpose.
            Some(_) | None if line.contains(" INFO ") || line.contains("nothing is created") => {}
            Some(_) | None => eprintln!("{line}"),
        }
    }
}
