//! The demo that is soaked: its process, its configuration, its files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::daemon::factory::entries;

/// The spaces of the demo.
pub const SPACES: [&str; 2] = ["north.example.org", "south.example.org"];
/// `max_machines` of the space that fills, at scale 1; its machinetypes have shares 2 and 1.
const MACHINES: usize = 15;
/// `cleanup_hours`.
const CLEANUP_HOURS: u64 = 12;
/// How far from its share a machinetype may be, in machines, at scale 1: those that have ended
/// leave a gap until the next cycles.
const TOLERANCE: usize = 2;
/// The longest that a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    /// A share of requests and VMs go wrong, drawn from this seed.
    Faults(u32),
    /// Nothing goes wrong.
    Calm,
    /// Nothing goes wrong, and nothing is wanted.
    Drain,
}

pub struct Site {
    binary: PathBuf,
    root: PathBuf,
    speed: u32,
    scale: usize,
    origin: SystemTime,
    /// The configuration of the spaces as the demo has written it.
    originals: Vec<(PathBuf, String)>,
    process: Option<Child>,
}

impl Site {
    /// A new demo in `root`, with faults.
    pub fn start(binary: &Path, root: PathBuf, speed: u32, scale: usize, seed: u64) -> Self {
        fs::create_dir_all(&root).unwrap();
        let mut site = Self {
            binary: binary.to_owned(),
            root,
            speed,
            scale,
            origin: SystemTime::UNIX_EPOCH,
            originals: Vec::new(),
            process: None,
        };
        site.go_on();
        site.origin = fs::metadata(site.root.join("demo.json"))
            .and_then(|found| found.modified())
            .unwrap();
        for space in SPACES {
            let path = site.root.join(format!("etc/vcycle.d/{space}.conf"));
            let text = fs::read_to_string(&path).unwrap();
            site.originals.push((path, text));
        }
        site.configure(Mood::Faults(u32::try_from(seed % 1_000_000).unwrap()));
        site
    }

    /// Starts the process and waits until the daemon in it runs.
    pub fn go_on(&mut self) {
        let open = |name: &str| {
            let mut beside = self.root.clone().into_os_string();
            beside.push(name);
            let file = File::options().create(true).append(true).open(beside);
            file.unwrap()
        };
        let before = self.starts();
        let mut command = Command::new(&self.binary);
        for name in [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "JOURNAL_STREAM",
            "VCYCLE_LOG",
        ] {
            command.env_remove(name);
        }
        if let Some(preload) = std::env::var_os("VCYCLE_SOAK_PRELOAD") {
            command.env("LD_PRELOAD", preload);
            command.env("VCYCLE_SOAK_HEAP", self.root.with_extension("heap"));
        }
        let child = command
            .args(["demo", "--keep", "--faults", "1"])
            .args(["--speed", &self.speed.to_string(), "--dir"])
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(open(".out"))
            .stderr(open(".err"))
            .spawn();
        self.process = Some(child.unwrap());
        let began = Instant::now();
        while self.starts() == before {
            self.check_it_runs();
            assert!(began.elapsed() < PATIENCE, "the demo does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn starts(&self) -> usize {
        let log = fs::read_to_string(self.root.join("vcycled.log")).unwrap_or_default();
        log.matches("running with ").count()
    }

    /// Fails when the process has ended by itself.
    pub fn check_it_runs(&mut self) {
        if let Some(child) = &mut self.process
            && let Some(status) = child.try_wait().unwrap()
        {
            let said = self.said();
            panic!(
                "the demo ended with {status}: {said}; see {}",
                self.keep().display()
            );
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What the process has on its heap, in bytes, as tests/heap.c counts it.
    pub fn heap(&self) -> Option<u64> {
        let counts = fs::read(self.root.with_extension("heap")).ok()?;
        let bytes = counts.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn end(&mut self) {
        let Some(mut child) = self.process.take() else {
            return;
        };
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let asked = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "it ended with {status}: {}", self.said());
                return;
            }
            assert!(asked.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn hang_up(&self) {
        if let Some(child) = &self.process {
            kill_process(Pid::from_child(child), Signal::HUP).unwrap();
        }
    }

    fn said(&self) -> String {
        let mut beside = self.root.clone().into_os_string();
        beside.push(".err");
        fs::read_to_string(beside).unwrap_or_default()
    }

    pub fn configure(&self, mood: Mood) {
        let (percent, seed) = match mood {
            Mood::Faults(seed) => (5, seed),
            Mood::Calm | Mood::Drain => (0, 0),
        };
        let machines = MACHINES * self.scale;
        for (path, original) in &self.originals {
            let mut text = original.clone();
            let mut set = |option: &str, value: String| text = set(&text, option, &value);
            set("simulated_fault_percent", percent.to_string());
            set("simulated_fault_seed", seed.to_string());
            set("simulated_machines", (machines * 2).to_string());
            set("simulated_processors", (machines * 4).to_string());
            set("max_machines", machines.to_string());
            set("processors_limit", (8 * self.scale).to_string());
            set("cleanup_hours", CLEANUP_HOURS.to_string());
            set("max_wallclock_seconds", "3600".to_owned());
            set("heartbeat_seconds", "2400".to_owned());
            if matches!(mood, Mood::Drain) {
                set("target_share", "0".to_owned());
            }
            self.replace(path, &text);
        }
    }

    pub fn break_configuration(&self) {
        let path = self.root.join("etc/vcycle.d/zz-broken.conf");
        self.replace(&path, "[space nowhere\napi = openstack\n");
    }

    pub fn mend_configuration(&self) {
        fs::remove_file(self.root.join("etc/vcycle.d/zz-broken.conf")).unwrap();
    }

    /// In one step: the daemon reads at any moment.
    fn replace(&self, path: &Path, text: &str) {
        let growing = self.root.join("growing");
        fs::write(&growing, text).unwrap();
        fs::rename(growing, path).unwrap();
    }

    /// The time of the demo's clock.
    pub fn now(&self) -> u64 {
        let elapsed = self.origin.elapsed().unwrap_or_default() * self.speed;
        let then = self.origin + elapsed;
        then.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    }

    /// How long something may take that has to wait for the last stuck machine.
    pub fn patience(&self) -> Duration {
        PATIENCE + Duration::from_secs(14_400) / self.speed
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.root.join("state").join(name)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the cloud of a space has.
    pub fn servers(&self, space: &str) -> Vec<Value> {
        let file = self.state(&format!("simulated/{space}.json"));
        let Ok(bytes) = fs::read(file) else {
            return Vec::new();
        };
        let kept: Value = serde_json::from_slice(&bytes).unwrap();
        kept["servers"].as_array().cloned().unwrap_or_default()
    }

    /// Whether the first space is full, by its shares, of machines that nothing is wrong with.
    pub fn is_full(&self) -> bool {
        let servers = self.servers(SPACES[0]);
        let of = |machinetype: &str| {
            servers
                .iter()
                .filter(|server| {
                    server["metadata"]["machinetype"] == machinetype
                        && server["gone_at"].is_null()
                        && server["phase"] != "shutoff"
                        && server["fate"].is_null()
                })
                .count()
        };
        let machines = MACHINES * self.scale;
        let tolerance = TOLERANCE * self.scale;
        of("atlas").abs_diff(machines * 2 / 3) <= tolerance
            && of("lhcb").abs_diff(machines / 3) <= tolerance
    }

    /// Whether no VM is left and the end of each machine is written down.
    pub fn is_empty(&self) -> bool {
        SPACES.iter().all(|space| self.servers(space).is_empty())
            && entries(&self.state("machines"))
                .iter()
                .all(|dir| dir.join("finished").exists() || !dir.exists())
    }

    /// How long a machine's directory is kept, in seconds.
    pub const fn cleanup(&self) -> u64 {
        CLEANUP_HOURS * 3600
    }

    /// What must not be there after the end.
    pub fn findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let left = entries(&self.state("tmp"));
        if !left.is_empty() {
            found.push(format!("left in tmp: {left:?}"));
        }
        let log = fs::read_to_string(self.root.join("vcycled.log")).unwrap();
        for sign in ["panic", "internal error"] {
            let lines = log.lines().filter(|line| line.contains(sign)).take(5);
            found.extend(lines.map(ToOwned::to_owned));
        }
        let said = self.said();
        if !said.is_empty() {
            found.push(format!("on standard error: {said}"));
        }
        found
    }

    /// Copies everything out of the temporary directory, for who has to find out what happened.
    pub fn keep(&self) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("vcycle-soak-{}", std::process::id()));
        let copied = Command::new("cp")
            .arg("-r")
            .arg(&self.root)
            .arg(&kept)
            .status();
        if copied.is_ok_and(|status| status.success()) {
            kept
        } else {
            self.root.clone()
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The text with each line of an option replaced, or with one added to the section of the space.
fn set(text: &str, option: &str, value: &str) -> String {
    let line = format!("{option} = {value}");
    let is_it = |line: &&str| line.split('=').next().map(str::trim) == Some(option);
    if text.lines().any(|line| is_it(&line)) {
        let lines = text
            .lines()
            .map(|old| if is_it(&old) { line.as_str() } else { old });
        return lines.collect::<Vec<_>>().join("\n") + "\n";
    }
    let known_by_space = ["simulated_", "cleanup_"];
    if !known_by_space
        .iter()
        .any(|prefix| option.starts_with(prefix))
    {
        return text.to_owned();
    }
    text.replacen(
        "api = simulated\n",
        &format!("api = simulated\n{line}\n"),
        1,
    )
}
