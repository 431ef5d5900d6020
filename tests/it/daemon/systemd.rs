//! What systemd is told.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use super::factory::{Factory, until};

/// A socket as systemd has it.
struct Notified {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Notified {
    fn new(factory: &Factory) -> Self {
        let socket = UnixDatagram::bind(factory.path("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let said = Vec::new();
        Self { socket, said }
    }

    /// Takes what has come, line by line.
    fn take(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            self.said.extend(text.lines().map(ToOwned::to_owned));
        }
        &self.said
    }

    fn count(&mut self, line: &str) -> usize {
        self.take().iter().filter(|said| *said == line).count()
    }
}

/// The daemon as systemd starts it: the watchdog is for this process and no other.
fn under_systemd(factory: &Factory) -> Command {
    let daemon = factory.command(&["run"]);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .env("NOTIFY_SOCKET", factory.path("notify"))
        .env("WATCHDOG_USEC", "200000");
    command
}

#[test]
fn systemd_is_told_of_the_start_the_life_and_the_end() {
    let factory = Factory::with_space("max_machines = 1", "");
    let mut notified = Notified::new(&factory);
    let daemon = factory.start_with(under_systemd(&factory));
    until("it is ready", || {
        (notified.count("READY=1") == 1).then_some(())
    });
    let already = notified.count("WATCHDOG=1");
    until("signs of life", || {
        (notified.count("WATCHDOG=1") >= already + 3).then_some(())
    });
    assert_eq!(notified.count("STOPPING=1"), 0);
    daemon.end();
    assert_eq!(notified.count("STOPPING=1"), 1, "{:?}", notified.said);
    assert_eq!(notified.count("READY=1"), 1);
}

#[test]
fn a_daemon_that_does_not_start_is_never_ready() {
    let factory = Factory::with_space("max_machines = none", "");
    let mut notified = Notified::new(&factory);
    let mut daemon = factory.spawn(under_systemd(&factory));
    let status = until("it ends", || daemon.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(78));
    assert_eq!(notified.count("READY=1"), 0);
}
