//! A site in a temporary directory, and the binary that is run on it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::pki::{self, For, Party, VALID};

/// The space of most tests.
pub const SPACE: &str = "example.org";
/// The name of the factory.
pub const FACTORY: &str = "factory.example.org";
/// Who the VMs are.
pub const SUBJECT: [(&str, &str); 3] = [("DC", "org"), ("DC", "example"), ("CN", "vm")];
pub const DN: &str = "/DC=org/DC=example/CN=vm";
/// Longer than anything takes that a test waits for, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(45);

/// A host's certificate that gives no reason to complain.
const A_MONTH: (i64, i64) = (-300, 30 * 86_400);

/// Certificates take longer to make than files, so all tests share these.
pub struct Pki {
    pub ca: Party,
    pub host: Party,
    pub vm: Party,
}

pub static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let ca = pki::authority("Test CA");
    Pki {
        host: ca.issue(&pki::name(&[("CN", "localhost")]), For::Servers, A_MONTH),
        vm: ca.issue(&pki::name(&SUBJECT), For::Clients, VALID),
        ca,
    }
});

/// A port that nobody has, below those that the system gives to clients: it is still free when a
/// daemon that was killed starts again.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap();
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset.wrapping_mul(37).wrapping_add(next)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `look` finds what it looks for. No test waits in any other way.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// When a daemon is killed: another sequence in each run, unless `VCYCLE_TEST_SEED` repeats one.
pub fn kills() -> ChaCha8Rng {
    let seed = std::env::var("VCYCLE_TEST_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("VCYCLE_TEST_SEED={seed} repeats this sequence of kills");
    ChaCha8Rng::seed_from_u64(seed)
}

/// The site: configuration files, certificates, state directory, log.
pub struct Factory {
    dir: tempfile::TempDir,
    state: PathBuf,
    pub port: u16,
    /// The port of the admin endpoint.
    pub admin: u16,
}

impl Factory {
    /// A site with certificates, a `[server]` section and no space.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let factory = Self {
            state: dir.path().join("state"),
            port: free_port(),
            admin: free_port(),
            dir,
        };
        fs::create_dir_all(factory.path("etc/vcycle.d")).unwrap();
        fs::create_dir(factory.path("etc/certificates")).unwrap();
        PKI.ca.install(&factory.path("etc/certificates"));
        PKI.host.write(&factory.path("etc/host.pem"));
        PKI.vm.write(&factory.path("etc/vm.pem"));
        factory.write(
            "etc/user_data",
            "#!/bin/sh\n# ##user_data_machine_hostname##\n",
        );
        factory.server("");
        factory
    }

    /// A site with one space, whose sections have these options besides the usual ones.
    pub fn with_space(space: &str, machinetype: &str) -> Self {
        let factory = Self::new();
        let text = factory.space(SPACE, space) + &factory.machinetype(SPACE, "atlas", machinetype);
        factory.conf("space", &text);
        factory
    }

    /// The same site with its state elsewhere.
    pub fn state_at(mut self, state: PathBuf) -> Self {
        self.state = state;
        self
    }

    /// Writes `vcycle.conf` with the `[server]` section and these options; those that come later
    /// count.
    pub fn server(&self, options: &str) {
        let etc = self.path("etc");
        let etc = etc.display();
        let mut text = format!(
            "[server]\nlisten = 127.0.0.1:{}\ncert = {etc}/host.pem\nkey = {etc}/host.pem\n\
             ca_path = {etc}/certificates\n{options}",
            self.port
        );
        if !options.contains("admin_listen") {
            text += &format!("\nadmin_listen = 127.0.0.1:{}\n", self.admin);
        }
        self.write("etc/vcycle.conf", text);
    }

    /// A `[space]` section on the embedded cloud, with quick VMs that have no certificate.
    pub fn space(&self, name: &str, options: &str) -> String {
        format!(
            "[space {name}]\napi = simulated\nhttps_host = localhost\nhttps_port = {}\n\
             simulated_boot_seconds = 1\n{options}\n",
            self.port
        )
    }

    /// The option that gives the VMs their certificate. One that has none tries for half a minute to
    /// leave its last words.
    pub fn vm_certificate(&self) -> String {
        format!("simulated_cert = {}\n", self.path("etc/vm.pem").display())
    }

    /// A `[machinetype]` section.
    pub fn machinetype(&self, space: &str, name: &str, options: &str) -> String {
        format!(
            "[machinetype {space} {name}]\ntarget_share = 1\nbackoff_seconds = 600\n\
             fizzle_seconds = 3\nflavor_name = small\nroot_image = image:cernvm4\n\
             user_data = {}\nx509dn = {DN}\n{options}\n",
            self.path("etc/user_data").display()
        )
    }

    /// Writes `vcycle.d/NAME.conf`.
    pub fn conf(&self, name: &str, text: &str) {
        self.write(&format!("etc/vcycle.d/{name}.conf"), text);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file in its place at once, as careful editors do: the daemon reads at any moment.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let growing = self.path("growing");
        fs::write(&growing, text).unwrap();
        fs::rename(growing, self.path(name)).unwrap();
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// What the daemons of this site have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The lines of the log that have `text` in them.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(ToOwned::to_owned).collect()
    }

    /// The binary with this site's options, none of our environment that it looks at, and a
    /// cycle every second.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vcycled"));
        for name in [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "JOURNAL_STREAM",
            "VCYCLE_LOG",
        ] {
            command.env_remove(name);
        }
        command
            .args(["--interval", "1", "--factory", FACTORY, "--config"])
            .arg(self.path("etc/vcycle.conf"))
            .arg("--config-dir")
            .arg(self.path("etc/vcycle.d"))
            .arg("--state-dir")
            .arg(&self.state)
            .args(arguments);
        command
    }

    /// Runs a command that ends by itself: code, standard output, standard error.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().unwrap())
    }

    /// Starts the daemon and waits until it runs.
    pub fn start(&self) -> Daemon {
        self.start_with(self.command(&["run"]))
    }

    pub fn start_with(&self, command: Command) -> Daemon {
        let running = || self.log_lines("running with ").len();
        let before = running();
        let mut daemon = self.spawn(command);
        until("the daemon runs", || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            (running() > before).then_some(())
        });
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&self, mut command: Command) -> Daemon {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Daemon {
            child: command.spawn().unwrap(),
        }
    }

    /// The directories of machines, by name.
    pub fn machines(&self) -> Vec<MachineDir> {
        let mut paths = entries(&self.state("machines"));
        paths.sort();
        paths.into_iter().map(MachineDir).collect()
    }

    /// The servers that the embedded cloud of a space has on file.
    pub fn servers(&self, space: &str) -> Vec<Value> {
        let file = self.state(&format!("simulated/{space}.json"));
        let Ok(bytes) = fs::read(file) else {
            return Vec::new();
        };
        let mut kept: Value = serde_json::from_slice(&bytes).unwrap();
        match kept["servers"].take() {
            Value::Array(servers) => servers,
            other => panic!("expected a list of servers, not {other}"),
        }
    }

    /// Waits until a space has been scanned so many times.
    pub fn wait_for_scans(&self, space: &str, count: usize) {
        let file = self.state(&format!("spaces/{space}/last_scan"));
        let mut seen = HashSet::new();
        until("cycles go on", || {
            seen.extend(file.metadata().and_then(|found| found.modified()));
            (seen.len() > count).then_some(())
        });
    }

    /// Accounting records in `apel-archive` or `apel-outgoing`: path below it, text.
    pub fn records(&self, queue: &str) -> Vec<(PathBuf, String)> {
        let root = self.state(queue);
        let days = entries(&root).into_iter().flat_map(|day| entries(&day));
        let mut records: Vec<_> = days
            .map(|path| {
                let text = fs::read_to_string(&path).unwrap();
                (path.strip_prefix(&root).unwrap().to_owned(), text)
            })
            .collect();
        records.sort();
        records
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the daemon:\n{}", self.log());
        }
    }
}

/// What is in a directory; nothing is in one that does not exist.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// The standard output of a command that has to succeed, as JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A running daemon; it is killed when the test ends.
pub struct Daemon {
    pub child: Child,
}

impl Daemon {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to end and waits for it.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let status = until("the daemon ends", || self.child.try_wait().unwrap());
        (status, asked.elapsed())
    }

    /// Asks it to end, which has to go well.
    pub fn end(self) {
        let (status, took) = self.terminate();
        assert!(status.success(), "{status}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    /// Ends it without a chance to do anything.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The directory of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDir(pub PathBuf);

impl MachineDir {
    pub fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }

    /// The content of a file, if there is one.
    pub fn read(&self, file: &str) -> Option<String> {
        match fs::read_to_string(self.0.join(file)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{}/{file}: {error}", self.0.display()),
        }
    }

    /// A file with a moment in it, if there is one.
    pub fn time(&self, file: &str) -> Option<u64> {
        self.read(file).map(|text| text.parse().unwrap())
    }

    /// The value of a file that has to come.
    pub fn wait_for(&self, file: &str) -> String {
        until(&format!("{} has {file}", self.name()), || self.read(file))
    }
}
