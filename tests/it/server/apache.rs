//! A real Apache with the configuration that we ship and our CGI program, on a tree of a test.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;

/// Where distributions have the program and its modules.
const PROGRAMS: [(&str, &str); 2] = [
    ("/usr/sbin/apache2", "/usr/lib/apache2/modules"),
    ("/usr/sbin/httpd", "/usr/lib64/httpd/modules"),
];

/// What the configuration needs; some are part of the program in some builds.
const MODULES: [&str; 14] = [
    "mpm_event",
    "authz_core",
    "unixd",
    "socache_shmcb",
    "alias",
    "autoindex",
    "dir",
    "env",
    "headers",
    "allowmethods",
    "reqtimeout",
    "http2",
    "cgid",
    "ssl",
];

/// The user of the web server where we may choose one.
const USER: [&str; 2] = ["www-data", "apache"];

pub struct Apache {
    child: Child,
    dir: PathBuf,
}

impl Drop for Apache {
    fn drop(&mut self) {
        // Its children end with it, as they do not when it is killed.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("apache/error.log"));
            eprintln!("the log of Apache:\n{}", log.unwrap_or_default());
        }
    }
}

/// The numbers of a user and its group.
fn user() -> Option<(&'static str, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    USER.into_iter().find_map(|user| {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(user))?;
        Some((user, line.split(':').nth(3)?.parse().unwrap()))
    })
}

/// Lets the group of Apache write to the joboutputs of machines made from now on, as
/// vcycle-cgi(8) tells admins to.
pub fn prepare(root: &Path) {
    let machines = root.join("state/machines");
    fs::create_dir_all(&machines).unwrap();
    // We are root, who chooses the user, or Apache runs as ourselves.
    if fs::metadata(root).unwrap().uid() == 0 {
        fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
        let (_, group) = user().expect("a user for Apache");
        std::os::unix::fs::chown(&machines, None, Some(group)).unwrap();
    }
    fs::set_permissions(&machines, Permissions::from_mode(0o2755)).unwrap();
}

impl Apache {
    /// Starts it beside the embedded server of a world, `None` where there is no Apache.
    pub fn start(world: &World) -> Option<(Self, SocketAddr)> {
        let Some((program, modules)) = PROGRAMS.iter().find(|(path, _)| Path::new(path).exists())
        else {
            eprintln!("skipped: there is no Apache");
            return None;
        };
        let dir = world.dir.path().to_owned();
        fs::create_dir_all(dir.join("apache/cgi")).unwrap();
        let cgi = dir.join("apache/cgi/vcycle-cgi");
        fs::copy(env!("CARGO_BIN_EXE_vcycled"), &cgi).unwrap();
        fs::set_permissions(&cgi, Permissions::from_mode(0o755)).unwrap();
        let port = crate::daemon::factory::free_port();
        fs::write(
            dir.join("apache/httpd.conf"),
            configuration(&dir, modules, port),
        )
        .unwrap();
        let conf = dir.join("apache/httpd.conf");
        let child = Command::new(program)
            .args(["-D", "FOREGROUND", "-f"])
            .arg(conf)
            .stdin(Stdio::null())
            // It may end the whole group of processes that it is in.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut apache = Self { child, dir };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until("Apache listens", || {
            let ended = apache.child.try_wait().unwrap();
            assert!(ended.is_none(), "Apache ended: {ended:?}");
            TcpStream::connect(address).is_ok()
        });
        Some((apache, address))
    }
}

fn configuration(dir: &Path, modules: &str, port: u16) -> String {
    let dir = dir.display();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("apache/vcycle.conf");
    let mut text = format!(
        "ServerRoot {dir}/apache\nServerName localhost\nPidFile {dir}/apache/pid\n\
         DefaultRuntimeDir {dir}/apache\nDocumentRoot {dir}/apache\nErrorLog {dir}/apache/error.log\n\
         LogLevel info\nListen 127.0.0.1:{port}\n"
    );
    for module in MODULES {
        let file = format!("{modules}/mod_{module}.so");
        if Path::new(&file).exists() {
            text += &format!("LoadModule {module}_module {file}\n");
        }
    }
    if rustix::process::geteuid().is_root()
        && let Some((user, _)) = user()
    {
        text += &format!("User {user}\nGroup {user}\n");
    }
    text + &format!(
        "<Directory />\nRequire all denied\n</Directory>\nScriptSock {dir}/apache/cgid.sock\n\
         Protocols h2 http/1.1\n\
         Define VCYCLE_STATE_DIR {dir}/state\nDefine VCYCLE_CGI_DIR {dir}/apache/cgi\n\
         Define VCYCLE_PORT {port}\nDefine VCYCLE_CERT {dir}/host.pem\n\
         Define VCYCLE_KEY {dir}/host.pem\nDefine VCYCLE_CA_PATH {dir}/certificates\n\
         Define VCYCLE_MAX_BYTES 3000000\nDefine VCYCLE_MAX_BYTES_PER_MACHINE 4000000\n\
         Include {}\n",
        ours.display()
    )
}
