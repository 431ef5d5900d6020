//! A factory host: a directory with configuration, certificates and state, the daemon on it, and
//! what its VMs would do.

use std::fmt::Write;
use std::fs::{self, File, OpenOptions, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use serde_json::Value;

use super::super::openstack_site::PUBLIC_KEY;
use super::super::pki::{self, For, Party, Proxy as Kind, VALID};
use super::{FACTORY, Stage};

/// Who the VMs are.
const VM: [(&str, &str); 3] = [("DC", "org"), ("DC", "example"), ("CN", "vm")];
/// The template of all machinetypes.
pub const USER_DATA: &str = "#!/bin/sh\n\
    echo I am ##user_data_machine_hostname## of ##user_data_machinetype## in ##user_data_space##\n\
    echo my features are at ##user_data_machinefeatures_url##, my queue is ##user_data_option_queue##\n";
/// Another, which they find as `proxied`; a certificate and its key are where `user_data_proxy =
/// True` looks for them.
const PROXIED: &str = "#!/bin/sh\n# ##user_data_heartbeat_machines_url##\n\
    cat >/root/proxy.pem <<EOF\n##user_data_x509_proxy##EOF\n";
/// What each machinetype has unless it says otherwise.
const MACHINETYPE: &str = "flavor_name = small\ntarget_share = 1\nbackoff_seconds = 3600\n\
    user_data = user_data\nuser_data_option_queue = test\n\
    max_wallclock_seconds = 7200\nx509dn = /DC=org/DC=example/CN=vm\n";

/// How the daemon logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Password,
    ApplicationCredential,
}

/// Everything that a scenario chooses about its space.
#[derive(Clone, Debug)]
pub struct Space<'a> {
    pub name: &'a str,
    /// Where the identity service is: the site's own, or a proxy's.
    pub auth_url: &'a str,
    pub project: &'a str,
    pub login: Login,
    /// Further options of `[space]`.
    pub options: String,
    /// Machinetypes and their options, `fizzle_seconds` among them.
    pub machinetypes: &'a [(&'a str, &'a str)],
    pub image: &'a str,
}

impl<'a> Space<'a> {
    /// A space in the main project, with room for `machines` of ours.
    pub fn new(
        stage: &'a Stage,
        name: &'a str,
        machines: usize,
        machinetypes: &'a [(&'a str, &'a str)],
    ) -> Self {
        Self {
            name,
            auth_url: &stage.site.auth_url,
            project: &stage.site.project,
            login: Login::Password,
            options: format!("max_machines = {}\n", stage.present + machines),
            machinetypes,
            image: &stage.image,
        }
    }
}

/// A factory host. Its daemon is killed when this is dropped; the log of one whose scenario failed
/// is kept.
pub struct Factory {
    dir: tempfile::TempDir,
    space: String,
    authority: Party,
    user: Party,
    vm: reqwest::Client,
    stranger: reqwest::Client,
    daemon: Mutex<Option<Child>>,
}

impl Drop for Factory {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let kept = std::env::temp_dir().join(format!("vcycle-test-{}.log", self.space));
            match fs::copy(self.path("log"), &kept) {
                Ok(_) => println!("the daemon's log is kept in {}", kept.display()),
                Err(error) => println!("the daemon's log cannot be kept: {error}"),
            }
        }
    }
}

impl Factory {
    /// Makes the host; its daemon does not run yet.
    pub fn new(stage: &Stage, space: &Space<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = pki::authority("Test CA");
        let user = authority.issue(&pki::name(&VM), For::Clients, VALID);
        let proxy = user.proxy(Kind::Rfc3820Limited, VALID);
        let factory = Self {
            vm: client(&authority, Some(&proxy)),
            stranger: client(&authority, None),
            dir,
            space: space.name.to_owned(),
            authority,
            user,
            daemon: Mutex::new(None),
        };
        factory.write_certificates(stage);
        factory.write_configuration(stage, space);
        factory
    }

    /// Makes the host and starts its daemon.
    pub fn start(stage: &Stage, space: &Space<'_>) -> Self {
        let factory = Self::new(stage, space);
        factory.run();
        factory
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_certificates(&self, stage: &Stage) {
        let ca_path = self.path("certificates");
        fs::create_dir(&ca_path).unwrap();
        // The daemon reads one directory for clouds and VMs.
        if let Ok(entries) = fs::read_dir(stage.site.ca_path()) {
            for entry in entries.flatten() {
                let _unreadable = fs::copy(entry.path(), ca_path.join(entry.file_name()));
            }
        }
        self.authority.install(&ca_path);
        let host = pki::name(&[("DC", "org"), ("DC", "example"), ("CN", "localhost")]);
        let host = self
            .authority
            .issue(&host, For::Servers, (-300, 30 * 86_400));
        host.write(&self.path("host.pem"));
        fs::write(self.path("key.pub"), PUBLIC_KEY).unwrap();
    }

    fn write_configuration(&self, stage: &Stage, space: &Space<'_>) {
        let site = &stage.site;
        let port = free_port();
        let root = self.dir.path().display();
        let mut conf = format!(
            "[server]\nlisten = 127.0.0.1:{port}\nadmin_listen = none\ncert = {root}/host.pem\nkey = {root}/host.pem\n\
             ca_path = {root}/certificates\n\n\
             [space {name}]\napi = openstack\nurl = {url}\nregion = {region}\n\
             domain_name = {domain}\nhttps_host = localhost\nhttps_port = {port}\n\
             gocdb_sitename = TEST-TIER\n{options}",
            name = space.name,
            url = space.auth_url,
            region = site.region,
            domain = site.user_domain,
            options = space.options,
        );
        for (option, value) in [
            ("security_groups", &site.security_group),
            ("network_uuid", &site.network_id),
        ] {
            // What the scenario says counts.
            let said = space.options.lines().any(|line| line.starts_with(option));
            if let Some(value) = value.as_ref().filter(|_| !said) {
                writeln!(conf, "{option} = {value}").unwrap();
            }
        }
        match space.login {
            Login::Password => {
                let password = base64::engine::general_purpose::STANDARD.encode(&site.password);
                let (user, project) = (&site.user, space.project);
                writeln!(
                    conf,
                    "tenancy_name = {project}\nusername = {user}\npassword_base64 = {password}"
                )
                .unwrap();
            }
            Login::ApplicationCredential => {
                let id = site.application_credential_id.as_ref().unwrap();
                let secret = site.application_credential_secret.as_ref().unwrap();
                writeln!(conf, "cred_id = {id}\ncred_secret = {secret}").unwrap();
            }
        }
        for (machinetype, options) in space.machinetypes {
            write!(
                conf,
                "\n[machinetype {} {machinetype}]\n{MACHINETYPE}root_image = image:{}\n\
                 root_public_key = {root}/key.pub\n{options}\n",
                space.name, space.image
            )
            .unwrap();
            let kept = format!(
                "state/spaces/{}/machinetypes/{machinetype}/files",
                space.name
            );
            fs::create_dir_all(self.path(&kept)).unwrap();
            let kept = self.path(&kept);
            fs::write(kept.join("user_data"), USER_DATA).unwrap();
            fs::write(kept.join("proxied"), PROXIED).unwrap();
            for file in ["x509cert.pem", "x509key.pem"] {
                self.user.write(&kept.join(file));
                fs::set_permissions(kept.join(file), Permissions::from_mode(0o600)).unwrap();
            }
        }
        fs::create_dir(self.path("vcycle.d")).unwrap();
        fs::write(self.path("vcycle.conf"), conf).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vcycled"));
        command
            .arg("--config")
            .arg(self.path("vcycle.conf"))
            .arg("--config-dir")
            .arg(self.path("vcycle.d"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .args(["--interval", "1", "--factory", FACTORY])
            .stdin(Stdio::null());
        command
    }

    /// Starts the daemon.
    pub fn run(&self) {
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let daemon = self
            .command()
            .arg("run")
            .env("VCYCLE_LOG", "info,vcycle::daemon=debug")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.daemon() = Some(daemon);
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the daemon as a crash would, with SIGKILL.
    pub fn kill(&self) {
        if let Some(mut daemon) = self.daemon().take() {
            let _ended_already = daemon.kill();
            daemon.wait().unwrap();
        }
    }

    /// Asks the daemon to end, and waits until it has.
    pub fn stop(&self) {
        if let Some(mut daemon) = self.daemon().take() {
            let pid = rustix::process::Pid::from_child(&daemon);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            assert!(daemon.wait().unwrap().success());
        }
    }

    /// The most memory that the daemon has had at once, in kB.
    pub fn memory(&self) -> u64 {
        let id = self.daemon().as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let figure = line.unwrap().split_whitespace().next();
        figure.unwrap().parse().unwrap()
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.daemon().as_mut()?.try_wait().unwrap()
    }

    /// What a command that has to succeed writes to standard output.
    pub fn say(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `vcycled plan --json` says beside the running daemon or without one.
    pub fn plan(&self, further: &[&str]) -> Value {
        let output = self
            .command()
            .arg("plan")
            .arg("--json")
            .args(further)
            .output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Everything that the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The lines of the log with all of these words.
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Warnings and errors in the log.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        log.lines().filter(bad).map(ToOwned::to_owned).collect()
    }

    /// How many passes have come to a decision.
    pub fn passes(&self) -> usize {
        self.logged(&["DEBUG", "decided"]).len()
    }

    /// How many passes have ended without a decision.
    pub fn failed_passes(&self) -> usize {
        self.logged(&["nothing is created or destroyed"]).len()
    }

    /// Waits for so many more passes that come to a decision.
    pub async fn more_passes(&self, count: usize) {
        let enough = self.passes() + count;
        self.until("more passes", 60, async || {
            (self.passes() >= enough).then_some(())
        })
        .await;
    }

    /// Waits until `look` finds what it looks for, at most so many seconds.
    pub async fn until<T>(
        &self,
        what: &str,
        seconds: u64,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if let Some(status) = self.ended() {
                panic!(
                    "waiting for {what}: the daemon has ended, {status}\n{}",
                    self.tail()
                );
            }
            assert!(
                Instant::now() < end,
                "waited {seconds} s for {what}\n{}",
                self.tail()
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// The end of the log, for the message of a test that fails.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| !line.contains("decided"))
            .collect();
        let from = lines.len().saturating_sub(60);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// The names of the machine directories.
    pub fn machines(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("state/machines")) else {
            return Vec::new();
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    /// A file of a machine's directory.
    pub fn machine_file(&self, machine: &str, file: &str) -> PathBuf {
        self.path("state/machines").join(machine).join(file)
    }

    /// The content of a file of a machine's directory, if it is there.
    pub fn machine(&self, machine: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.machine_file(machine, file)).ok()
    }

    /// A moment in a file of a machine's directory, in Unix seconds.
    pub fn time(&self, machine: &str, file: &str) -> Option<u64> {
        self.machine(machine, file)?.trim().parse().ok()
    }

    /// The time of the last abort of a machinetype.
    pub fn last_abort(&self, machinetype: &str) -> Option<u64> {
        let space = &self.space;
        let file = format!("state/spaces/{space}/machinetypes/{machinetype}/last_abort_time");
        fs::read_to_string(self.path(&file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// The accounting records in `apel-archive` or `apel-outgoing`.
    pub fn records(&self, kind: &str) -> Vec<String> {
        let entries = |path| fs::read_dir(path).into_iter().flatten().flatten();
        entries(self.path("state").join(kind))
            .flat_map(|day| entries(day.path()))
            .map(|record| fs::read_to_string(record.path()).unwrap())
            .collect()
    }

    /// What a VM without a certificate reads at a URL that it was given.
    pub async fn read(&self, url: &str) -> (u16, String) {
        let answer = self.stranger.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What a client without a certificate is told when it writes.
    pub async fn write_as_stranger(&self, url: &str, body: &str) -> u16 {
        let request = self.stranger.put(url).body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    }

    /// What a client with this certificate is told when it writes.
    pub async fn write_as(&self, party: &Party, url: &str, body: &str) -> u16 {
        let request = client(&self.authority, Some(party)).put(url);
        let request = request.body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    }

    /// What a VM with its proxy is told when it writes.
    pub async fn write(&self, url: &str, body: &str) -> u16 {
        let request = self.vm.put(url).body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    }
}

/// Now, in Unix seconds.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A client that trusts the factory's CA, and shows a certificate if there is one.
fn client(authority: &Party, party: Option<&Party>) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(&authority.cert.to_pem().unwrap()).unwrap();
    let mut builder = reqwest::Client::builder()
        .add_root_certificate(ca)
        .no_proxy();
    if let Some(party) = party {
        let mut chain = party.cert.to_pem().unwrap();
        for cert in &party.chain {
            chain.extend(cert.to_pem().unwrap());
        }
        let key = party.key.private_key_to_pem_pkcs8().unwrap();
        builder = builder.identity(reqwest::Identity::from_pkcs8_pem(&chain, &key).unwrap());
    }
    builder.build().unwrap()
}
