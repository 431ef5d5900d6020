//! VacMon, as a receiver that is not ours hears it: a few lines of Python with a table of fields.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

use super::factory::{FACTORY, Factory, SPACE, until};

/// Listens, checks each field of each message, and prints the port and then a line for each
/// message: `OK` and the message, or `BAD` and what is wrong with it.
const RECEIVER: &str = r#"
import json, socket, sys
ALL = {"message_type": str, "daemon_version": str, "vacquery_version": str, "cookie": str,
       "space": str, "site": str, "factory": str, "time_sent": int}
KINDS = {
  "factory_status": ({"running_processors": int, "running_machines": int, "max_machines": int,
      "root_disk_avail_kb": int, "root_disk_avail_inodes": int, "daemon_disk_avail_kb": int,
      "daemon_disk_avail_inodes": int, "load_average": float, "kernel_version": str, "boot_time": int,
      "factory_heartbeat_time": int, "mjf_heartbeat_time": int, "swap_used_kb": int,
      "swap_free_kb": int, "mem_used_kb": int, "mem_total_kb": int},
    {"running_hs06": float, "max_hs06": float, "max_processors": int, "os_issue": str,
     "responder_heartbeat_time": int, "metadata_heartbeat_time": int}),
  "machinetype_status": ({"num_machinetypes": int, "machinetype": str, "running_machines": int,
      "running_processors": int, "num_before_fizzle": int, "max_wallclock_seconds": int,
      "min_processors": int, "bytes_per_processor": int},
    {"running_hs06": float, "shutdown_message": str, "shutdown_time": int, "shutdown_machine": str,
     "fqan": str, "max_processors": int, "min_wallclock_seconds": int}),
  "machine_status": ({"num_machines": int, "machine": str, "state": str, "uuid": str,
      "created_time": int, "num_processors": int, "machinetype": str},
    {"started_time": int, "heartbeat_time": int, "cpu_seconds": int, "cpu_percentage": float,
     "hs06": float, "shutdown_message": str, "shutdown_time": int, "fqan": str}),
}
def wrong(data):
    if len(data) + 48 >= 1500:
        return "%d bytes" % len(data)
    message = json.loads(data.decode("utf-8"))
    needed, others = KINDS[message["message_type"]]
    needed = dict(ALL, **needed)
    for name in needed:
        if name not in message:
            return "no " + name
    for name, value in message.items():
        kind = needed.get(name) or others.get(name)
        # A bool is an int in Python, and no field is one.
        if type(value) is not kind:
            return "%s: %r is no %s" % (name, value, kind)
        if value == "":
            return name + " is empty"
    message.get("fqan", "/")[0]
    return None
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
listener = socket.socket(family, socket.SOCK_DGRAM)
listener.bind(("::1" if sys.argv[1] == "6" else "127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    data = listener.recv(65536)
    try:
        problem = wrong(data)
    except Exception as error:
        problem = repr(error)
    text = data.decode("utf-8", "replace")
    print("OK " + text if problem is None else "BAD %s: %s" % (problem, text), flush=True)
"#;

/// The receiver; it ends with the test.
struct Listener {
    process: Child,
    port: u16,
    lines: Receiver<String>,
}

impl Listener {
    /// Listens on loopback, by IPv4 or IPv6.
    fn start(factory: &Factory, version: &str) -> Self {
        factory.write("receiver.py", RECEIVER);
        let mut process = Command::new("python3")
            .arg(factory.path("receiver.py"))
            .arg(version)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let port = lines.recv_timeout(Duration::from_secs(30)).unwrap();
        Self {
            process,
            port: port.parse().unwrap(),
            lines,
        }
    }

    /// The next message, which is as it has to be.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(45)).unwrap();
        let text = line.strip_prefix("OK ");
        let text = text.unwrap_or_else(|| panic!("{line}"));
        serde_json::from_str(text).unwrap()
    }

    /// The next message that is wanted.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.next();
            if wanted(&message) {
                return message;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is(kind: &'static str) -> impl Fn(&Value) -> bool {
    move |message| message["message_type"] == kind
}

#[test]
fn a_receiver_hears_of_the_factory_its_machinetypes_and_each_end() {
    let factory = Factory::new();
    // A host may have no IPv6; then both listen by IPv4.
    let (version, host) = match UdpSocket::bind("[::1]:0") {
        Ok(_) => ("6", "[::1]"),
        Err(_) => ("4", "127.0.0.1"),
    };
    let listeners = [
        Listener::start(&factory, "4"),
        Listener::start(&factory, version),
    ];
    let [four, six] = &listeners;
    let options = format!(
        "max_machines = 3\nsimulated_job_seconds = 5\ngocdb_sitename = TEST-SITE\n\
         vacmon_hostport = localhost:{}, {host}:{}\n{}",
        four.port,
        six.port,
        factory.vm_certificate()
    );
    let text = factory.space(SPACE, &options)
        + &factory.machinetype(
            SPACE,
            "atlas",
            "hs06 = 10\nheartbeat_file = heartbeat\nmax_machines = 1\n\
             accounting_fqan = /atlas/Role=NULL/Capability=NULL",
        )
        + &factory.machinetype(SPACE, "plain", "max_machines = 1\nmax_processors = 2");
    factory.conf("space", &text);
    let daemon = factory.start();

    // The whole of the first cycle, on both.
    for listener in &listeners {
        let first = listener.until(is("factory_status"));
        assert_eq!(first["space"], SPACE);
        assert_eq!(first["site"], "TEST-SITE");
        assert_eq!(first["factory"], FACTORY);
        assert_eq!(first["cookie"], "0");
        let version = format!("Vcycle {} vcycled", env!("CARGO_PKG_VERSION"));
        assert_eq!(first["daemon_version"], version);
        assert_eq!(first["running_machines"], 0);
        let kinds = [listener.next(), listener.next()];
        assert_eq!(kinds[0]["machinetype"], "atlas");
        assert_eq!(kinds[0]["running_hs06"], 0.0);
        assert_eq!(kinds[1]["machinetype"], "plain");
        assert_eq!(kinds[1].get("running_hs06"), None);
    }
    let full = four.until(|message| message["running_machines"] == 2);
    assert_eq!(full["running_processors"], 2);
    assert_eq!(
        (&full["max_machines"], &full["max_processors"]),
        (&3.into(), &40.into())
    );
    assert_eq!(full.get("running_hs06"), None, "that of one is not known");
    assert_eq!(full.get("max_hs06"), None);
    four.until(|message| message["running_hs06"] == 10.0);

    // Ends, with what the machines said.
    let ended =
        four.until(|message| message["machinetype"] == "atlas" && is("machine_status")(message));
    let name = ended["machine"].as_str().unwrap();
    let machine = factory
        .machines()
        .into_iter()
        .find(|one| one.name() == name)
        .unwrap();
    for (field, file) in [
        ("created_time", "created"),
        ("started_time", "started"),
        ("shutdown_time", "stopped"),
    ] {
        assert_eq!(ended[field], machine.time(file).unwrap(), "{field}");
    }
    assert_eq!(ended["uuid"], machine.read("uuid").unwrap());
    assert_eq!(ended["shutdown_message"], "200 Success");
    assert_eq!(ended["fqan"], "/atlas/Role=NULL/Capability=NULL");
    assert_eq!(
        (&ended["hs06"], &ended["cpu_percentage"]),
        (&10.0.into(), &100.0.into())
    );
    assert!(ended["heartbeat_time"].is_u64());
    let status = four.until(|message| message.get("shutdown_machine").is_some());
    assert_eq!(status["shutdown_message"], "200 Success");
    // Each machine once, as long as the daemon lives.
    let mut heard = vec![name.to_owned()];
    while heard.len() < 5 {
        let message = four.until(is("machine_status"));
        heard.push(message["machine"].as_str().unwrap().to_owned());
    }
    let all = heard.len();
    heard.sort();
    heard.dedup();
    assert_eq!(heard.len(), all);
    assert!(factory.log_lines("ERROR").is_empty() && factory.log_lines("WARN").is_empty());
    daemon.end();
}

#[test]
fn the_end_of_a_machine_is_told_after_a_daemon_that_died_with_it() {
    let factory = Factory::new();
    let listener = Listener::start(&factory, "4");
    let options = format!(
        "max_machines = 1\nsimulated_job_seconds = 2\nvacmon_hostport = 127.0.0.1:{}\n{}",
        listener.port,
        factory.vm_certificate()
    );
    let text =
        factory.space(SPACE, &options) + &factory.machinetype(SPACE, "atlas", "max_machines = 1");
    factory.conf("space", &text.replace("vacmon_hostport", "; "));
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("finished");
    daemon.kill();
    // As if the daemon had died right after it wrote the end down, before it could tell anybody:
    // its scan was not dated yet.
    let scan = factory.state(&format!("spaces/{SPACE}/last_scan"));
    let finished = machine.time("finished").unwrap();
    let before = std::time::UNIX_EPOCH + Duration::from_secs(finished - 1);
    fs::File::options()
        .write(true)
        .open(scan)
        .unwrap()
        .set_modified(before)
        .unwrap();
    factory.conf("space", &text);
    let daemon = factory.start();
    let told = listener.until(|message| message["machine"] == machine.name());
    assert_eq!(told["shutdown_time"], machine.time("stopped").unwrap());
    assert_eq!(told["shutdown_message"], "200 Success");
    // It is history, not told in each cycle.
    factory.wait_for_scans(SPACE, 3);
    let later = (0..6).map(|_| listener.next());
    assert_eq!(
        later
            .filter(|message| message["machine"] == machine.name())
            .count(),
        0
    );
    daemon.end();
}

#[test]
fn receivers_that_cannot_be_reached_hold_nothing_up_and_are_named_once() {
    // A port that refuses, a name that does not exist, and one that takes everything.
    let refusing = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = refusing.local_addr().unwrap();
    drop(refusing);
    let factory = Factory::new();
    let listener = Listener::start(&factory, "4");
    let options = format!(
        "max_machines = 2\nvacmon_hostport = {refused} no-such-host.invalid:8884 127.0.0.1:{}",
        listener.port
    );
    let text = factory.space(SPACE, &options) + &factory.machinetype(SPACE, "atlas", "");
    factory.conf("space", &text);
    let daemon = factory.start();
    until("both machines run", || {
        let machines = factory.machines();
        let running = machines.iter().filter(|one| one.read("started").is_some());
        (running.count() == 2).then_some(())
    });
    factory.wait_for_scans(SPACE, 5);
    for _ in 0..6 {
        listener.next();
    }
    until("the name is told", || {
        factory
            .log_lines("cannot send VacMon messages to no-such-host.invalid:8884")
            .pop()
    });
    let refused = format!("VacMon messages do not reach {refused}");
    until("the refusal is told", || factory.log_lines(&refused).pop());
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(factory.log_lines("no-such-host.invalid").len(), 1);
    assert_eq!(factory.log_lines(&refused).len(), 1);
    assert_eq!(factory.log_lines("VacMon").len(), 2);
    daemon.end();
}
