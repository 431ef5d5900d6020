//! The full life of a machine, as its VM and as the accounting see it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::client::{self, Answer};
use super::factory::{DN, FACTORY, Factory, MachineDir, PKI, SPACE, until};
use crate::pki::{self, For, Party, Proxy, VALID};

/// The one machine of a site, once it is there and its VM runs.
fn running_machine(factory: &Factory) -> MachineDir {
    let machine = until("a machine", || factory.machines().pop());
    machine.wait_for("started");
    machine
}

/// Asks the daemon as the VM of `machine` would.
fn ask(
    factory: &Factory,
    machine: &MachineDir,
    party: Option<&Party>,
    method: &str,
    (path, body): (&str, &str),
) -> Answer {
    let path = format!("/machines/{}/{path}", machine.name());
    let server = (factory.port, &PKI.ca.cert);
    client::request(server, party, (method, &path), body)
}

#[test]
fn a_machine_lives_works_and_is_accounted_for() {
    let factory = Factory::with_space("", "");
    let space = format!(
        "max_machines = 1\nsimulated_job_seconds = 5\ngocdb_sitename = TEST-SITE\n{}",
        factory.vm_certificate()
    );
    let machinetype = "heartbeat_file = heartbeat\nhs06 = 12.5\n\
                       accounting_fqan = /atlas/Role=NULL/Capability=NULL\n";
    let text = factory.space(SPACE, &space) + &factory.machinetype(SPACE, "atlas", machinetype);
    factory.conf("space", &text);
    let daemon = factory.start();
    let machine = running_machine(&factory);
    assert_eq!(machine.read("machinetype_name").unwrap(), "atlas");
    assert_eq!(machine.read("space_name").unwrap(), SPACE);
    assert_eq!(machine.read("manager").unwrap(), FACTORY);
    let mode = fs::metadata(machine.0.join("user_data"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "the user_data is for its owner only");

    // What it is told, read without a certificate.
    let get = |path: &str| ask(&factory, &machine, None, "GET", (path, ""));
    for key in ["shutdowntime", "grace_secs", "total_cpu", "hs06"] {
        let path = format!("machinefeatures/{key}");
        let expected = machine.read(&path).unwrap();
        assert_eq!(
            get(&path),
            Answer {
                status: 200,
                body: expected
            }
        );
    }
    let uuid = machine.read("uuid").unwrap();
    assert_eq!(get("jobfeatures/job_id").body, uuid);
    assert_eq!(get("jobfeatures/hs06_job").body, "12.5");
    assert_eq!(get("jobfeatures/no_such_key").status, 404);
    assert_eq!(get("user_data").status, 404);
    assert!(get("jobfeatures/").body.contains("wall_limit_secs"));

    may_write_or_not(&factory, &machine);

    // The VM ends by itself, and everything that follows from that is written down.
    machine.wait_for("finished");
    assert_eq!(
        machine.read("joboutputs/shutdown_message").unwrap(),
        "200 Success"
    );
    assert_accounted(&factory, &machine, &uuid);
    until("the VM is gone", || {
        let servers = factory.servers(SPACE);
        servers
            .iter()
            .all(|server| server["id"] != *uuid)
            .then_some(())
    });
    assert_eq!(
        machine.read("ended"),
        None,
        "it was not destroyed, it ended"
    );
    assert!(factory.log_lines("ERROR").is_empty());
    daemon.end();
}

/// Puts files into joboutputs as the VM itself, its proxies, and those who may not.
fn may_write_or_not(factory: &Factory, machine: &MachineDir) {
    let stranger = pki::authority("Stranger CA");
    let issue = |subject: &[(&str, &str)]| PKI.ca.issue(&pki::name(subject), For::Clients, VALID);
    let other = issue(&[("DC", "org"), ("DC", "example"), ("CN", "other")]);
    let longer = issue(&[("DC", "org"), ("DC", "example"), ("CN", "vm"), ("CN", "x")]);
    let same_name = stranger.issue(PKI.vm.cert.subject_name(), For::Clients, VALID);
    let cases: [(&str, Option<&Party>, u16, u16); 7] = [
        ("the VM", Some(&PKI.vm), 201, 200),
        (
            "proxy",
            Some(&PKI.vm.proxy(Proxy::Rfc3820, VALID)),
            201,
            200,
        ),
        (
            "limited proxy",
            Some(&PKI.vm.proxy(Proxy::Rfc3820Limited, VALID)),
            201,
            200,
        ),
        ("another DN", Some(&other), 403, 403),
        ("a longer DN", Some(&longer), 403, 403),
        ("another CA", Some(&same_name), 403, 403),
        ("nobody", None, 403, 403),
    ];
    for (who, party, first, second) in cases {
        let path = format!("joboutputs/from-{}", who.replace(' ', "-"));
        for (status, text) in [(first, "one"), (second, "two")] {
            let answer = ask(factory, machine, party, "PUT", (&path, text));
            assert_eq!(answer.status, status, "{who}: {answer:?}");
            let written = (status < 300).then(|| text.to_owned());
            assert_eq!(machine.read(&path), written, "{who}");
        }
        let read = ask(factory, machine, party, "GET", (&path, ""));
        assert_eq!(read.status, if first == 201 { 200 } else { 403 }, "{who}");
    }
    let heartbeat = ("joboutputs/heartbeat", "alive");
    let answer = ask(factory, machine, Some(&PKI.vm), "PUT", heartbeat);
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");

    let proxy = factory.path("proxy.pem");
    PKI.vm.proxy(Proxy::Rfc3820, VALID).write(&proxy);
    let ca_path = factory.path("etc/certificates");
    let base = format!(
        "https://localhost:{}/machines/{}",
        factory.port,
        machine.name()
    );
    let (features, output) = (
        format!("{base}/jobfeatures/"),
        format!("{base}/joboutputs/curl"),
    );
    let file = factory.path("etc/user_data");
    let put = ["--upload-file", file.to_str().unwrap(), &output];
    let steps: [(_, &[&str], _); 4] = [
        (None, &[&features], 200),
        (None, &put, 403),
        (Some(proxy.as_path()), &put, 201),
        (Some(proxy.as_path()), &put, 200),
    ];
    for (proxy, arguments, status) in steps {
        let Some(said) = client::curl(&ca_path, proxy, arguments) else {
            return;
        };
        assert!(
            said.ends_with(&format!(" {status}")),
            "{arguments:?}: {said}"
        );
    }
}

/// The one record, in the archive and in the queue, has all fields.
fn assert_accounted(factory: &Factory, machine: &MachineDir, uuid: &str) {
    let (started, stopped) = (
        machine.time("started").unwrap(),
        machine.time("stopped").unwrap(),
    );
    let wall = stopped - started;
    assert!(
        (4..=8).contains(&wall),
        "it worked for about 5 seconds, not {wall}"
    );
    let memory: u64 = machine
        .read("jobfeatures/max_rss_bytes")
        .unwrap()
        .parse()
        .unwrap();
    let kb = memory / 1024;
    let expected = format!(
        "APEL-individual-job-message: v0.3\n\
         Site: TEST-SITE\n\
         SubmitHost: {SPACE}/vcycle-{FACTORY}\n\
         LocalJobId: {uuid}\n\
         LocalUserId: {FACTORY}\n\
         Queue: atlas\n\
         GlobalUserName: /DC=org/DC=example\n\
         FQAN: /atlas/Role=NULL/Capability=NULL\n\
         WallDuration: {wall}\n\
         CpuDuration: {wall}\n\
         Processors: 1\n\
         NodeCount: 1\n\
         InfrastructureDescription: APEL-VCYCLE\n\
         InfrastructureType: grid\n\
         StartTime: {started}\n\
         EndTime: {stopped}\n\
         MemoryReal: {kb}\n\
         MemoryVirtual: {kb}\n\
         ServiceLevelType: HEPSPEC\n\
         ServiceLevel: 12.5\n\
         %%\n"
    );
    let archived = factory.records("apel-archive");
    let [(path, text)] = &archived[..] else {
        panic!("expected one record, not {archived:?}");
    };
    assert_eq!(*text, expected);
    let path = path.to_str().unwrap();
    let (day, name) = path.split_once('/').unwrap();
    assert!(day.len() == 8 && name.len() == 14, "{path}");
    assert!(
        path.chars().all(|c| c.is_ascii_digit() || c == '/'),
        "{path}"
    );
    assert_eq!(factory.records("apel-outgoing"), archived);
}

#[test]
fn a_machine_that_is_never_heard_of_is_destroyed_and_its_kind_backs_off() {
    // Without a certificate the VM cannot write.
    let factory = Factory::with_space("max_machines = 2", "heartbeat_file = heartbeat");
    let daemon = factory.start();
    let machine = running_machine(&factory);
    let message = machine.wait_for("joboutputs/shutdown_message");
    assert_eq!(message, "700 Heartbeat file not created");
    machine.wait_for("finished");
    assert_eq!(machine.read("ended").unwrap(), "heartbeat");
    let deleted: u64 = machine.time("deleted").unwrap();
    assert!(
        deleted > machine.time("started").unwrap() + 3,
        "not before fizzle_seconds"
    );

    until("all have ended", || {
        let machines = factory.machines();
        let mut ended = machines.iter().map(|m| m.read("finished").is_some());
        ended.all(|ended| ended).then_some(())
    });
    let last = factory
        .machines()
        .iter()
        .filter_map(|m| m.time("stopped"))
        .max();
    let abort = factory.state(&format!(
        "spaces/{SPACE}/machinetypes/atlas/last_abort_time"
    ));
    assert_eq!(fs::read_to_string(abort).unwrap().parse().ok(), last);
    let plan = factory.run(&["plan", "--json", SPACE]).json();
    let why = &plan["report"]["machinetypes"]["atlas"]["stopped_by"];
    assert_eq!(why["rule"], "backoff", "{plan}");
    // Two at most: what was there when the first one was destroyed.
    assert!(factory.machines().len() <= 2);
    // They ran, so they are accounted for; without a GOCDB name nothing is sent.
    assert_eq!(
        factory.records("apel-archive").len(),
        factory.machines().len()
    );
    assert!(factory.records("apel-outgoing").is_empty());
    assert!(
        factory.records("apel-archive")[0]
            .1
            .contains(&format!("\nSite: {SPACE}\n"))
    );
    daemon.end();
    assert_eq!(machine.read("https_x509dn").unwrap(), DN);
}
