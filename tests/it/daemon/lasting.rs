//! What an admin reads at night: of trouble that lasts, by the fast clock of a demo; of connections
//! that do not come about; and of a download that takes its time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::factory::{Factory, PKI, SPACE, until};
use crate::pki::{self, For};

/// A demo that goes on until it is dropped.
struct Demo {
    root: PathBuf,
    process: Child,
}

impl Demo {
    fn start(root: PathBuf) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vcycled"));
        command
            .args(["demo", "--keep", "--speed", "300", "--dir"])
            .arg(&root)
            .stdout(Stdio::null());
        let process = command.spawn().unwrap();
        Self { root, process }
    }

    fn conf(&self) -> PathBuf {
        self.root.join("etc/vcycle.conf")
    }

    /// Waits for a line of the log that has `text` in it.
    fn says(&self, text: &str) -> String {
        until(text, || {
            let log = fs::read_to_string(self.root.join("vcycled.log")).ok()?;
            let mut lines = log.lines();
            lines.find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    fn count(&self, text: &str) -> usize {
        let log = fs::read_to_string(self.root.join("vcycled.log")).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// As an editor does it: nobody reads half of it.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, file).unwrap();
}

#[test]
fn trouble_that_lasts_is_called_to_mind_and_said_to_be_over() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Demo::start(dir.path().join("demo"));
    demo.says("running with 2 space(s)");
    let good = fs::read_to_string(demo.conf()).unwrap();
    let space = |cloud: &str| {
        format!(
            "{good}\n[space late.org]\n{cloud}\nmax_machines = 1\n[machinetype late.org a]\n\
             flavor_name = small\nroot_image = image:x\nuser_data = /etc/hostname\n\
             backoff_seconds = 60\nfizzle_seconds = 60\n"
        )
    };
    let dead = "api = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
                username = u\npassword_base64 = c2VjcmV0c2VjcmV0";
    replace(&demo.conf(), &space(dead));
    let first = demo.says("late.org}: POST http://127.0.0.1:1/v3");
    assert!(
        first.contains("cannot connect: Connection refused (os error 111); nothing is created"),
        "{first}"
    );
    let again = demo.says("late.org}: still: POST http://127.0.0.1:1/v3");
    assert!(
        again.contains(" ERROR ") && again.contains(" cycle(s) since "),
        "{again}"
    );
    assert_eq!(
        demo.count("and the next cycle tries again"),
        1,
        "once whole"
    );
    replace(&demo.conf(), &space("api = simulated"));
    let over = demo.says("late.org}: the cloud can be reached again, after ");
    assert!(over.contains(" cycle(s) without since "), "{over}");

    replace(&demo.conf(), &format!("{good}\nnonsense\n"));
    demo.says("the configuration has errors; going on with the last good one");
    demo.says("the configuration still has errors, since ");
    assert_eq!(demo.count("expected [SECTION], NAME = VALUE"), 1);
    replace(&demo.conf(), &good);
    demo.says("the configuration is good again; it had errors since ");
}

#[test]
fn https_to_a_port_that_speaks_http_is_told_so_and_names_its_space_once() {
    let factory = Factory::new();
    // The admin endpoint of the daemon itself would do; this one is not in its way.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = plain.accept() {
            use std::io::{Read, Write};
            let _read = stream.read(&mut [0; 512]);
            let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let url = format!("https://127.0.0.1:{port}");
    let clouds = [
        (
            "os.org",
            format!(
                "api = openstack\nurl = {url}/v3\ntenancy_name = t\nusername = u\n\
                 password_base64 = c2VjcmV0c2VjcmV0"
            ),
        ),
        #[cfg(feature = "ec2")]
        (
            "ec2.org",
            format!("api = ec2\nurl = {url}/\naccess_key = a\nsecret_key = secretsecret"),
        ),
    ];
    for (name, cloud) in &clouds {
        let text = format!(
            "[space {name}]\n{cloud}\nmax_machines = 4\n{}",
            factory.machinetype(name, "a", "")
        );
        factory.conf(name, &text);
    }
    let daemon = factory.start();
    for (name, _) in &clouds {
        let line = until("it is told", || {
            let mut lines = factory.log_lines(" ERROR ").into_iter();
            lines.find(|line| line.contains(&format!("space={name}")))
        });
        assert!(
            line.contains(
                "cannot connect: TLS: wrong version number (is it http there, not https?)"
            ),
            "{line}"
        );
        assert_eq!(line.matches("space=").count(), 1, "{line}");
    }
    daemon.end();
}

#[test]
fn a_host_certificate_that_runs_out_is_told_in_time_and_when_it_has() {
    let factory = Factory::with_space("max_machines = 1", "");
    let certified = |seconds: i64| {
        let name = pki::name(&[("CN", "localhost")]);
        let host = PKI.ca.issue(&name, For::Servers, (-7200, seconds));
        host.write(&factory.path("etc/host.pem"));
    };
    certified(10 * 86_400 + 3600);
    let daemon = factory.start();
    until("a cycle is complete", || factory.machines().pop());
    let told = until("it is told", || factory.log_lines(" runs out at ").pop());
    assert!(
        told.contains(" WARN ") && told.contains(", in 10 day(s); "),
        "{told}"
    );
    certified(-3600);
    let told = until("its end is told", || {
        factory.log_lines(" has expired at ").pop()
    });
    assert!(
        told.contains(" ERROR ") && told.contains("/etc/host.pem"),
        "{told}"
    );
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(factory.log_lines(" runs out at ").len(), 1);
    assert_eq!(factory.log_lines(" has expired at ").len(), 1);
    certified(30 * 86_400);
    until("it is good again", || {
        factory
            .log_lines("/etc/host.pem is good again, until ")
            .pop()
    });
    daemon.end();
}

/// A web server with an image of 10 MiB, of which it sends a little every tenth of a second.
async fn slow() -> String {
    const SIZE: usize = 10 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _read = stream.read(&mut [0; 4096]).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\
                     last-modified: Fri, 01 Jul 2016 09:00:00 GMT\r\n\r\n"
                );
                let mut gone = stream.write_all(answer.as_bytes()).await.is_err();
                while !gone {
                    gone = stream.write_all(&[1; 40_000]).await.is_err();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
    });
    format!("http://{address}/disk.img")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_download_says_how_far_it_is_in_the_log_and_in_the_status() {
    let factory = Factory::new();
    let machinetype = factory.machinetype(SPACE, "atlas", "");
    let machinetype = machinetype.replace("image:cernvm4", &slow().await);
    let space = factory.space(SPACE, "max_machines = 2");
    factory.conf("space", &(space + &machinetype));
    let daemon = factory.start();
    let shown = until("the status shows how far it is", || {
        let status = factory.run(&["status", "--json"]);
        let state = status.json()["spaces"][SPACE]["images"]["atlas"].clone();
        let why = state["why"].as_str()?.to_owned();
        (why.contains(" of 10 MiB (") && !why.contains("(0 %)")).then_some(why)
    });
    assert!(shown.starts_with("it is being fetched, "), "{shown}");
    let explained = factory.run(&["explain", SPACE]).out;
    assert!(explained.contains("it is being fetched, "), "{explained}");
    // After ten seconds.
    let told = until("the log says it too", || {
        factory
            .log_lines(" to go")
            .pop()
            .filter(|line| line.contains("fetching the image http://127.0.0.1:"))
    });
    assert!(
        told.contains(" of 10 MiB (") && told.contains(" MiB/s, "),
        "{told}"
    );
    daemon.end();
}
