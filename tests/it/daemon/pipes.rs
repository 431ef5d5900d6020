//! Vacuum pipes, as the running daemon takes them from a real HTTPS server.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::factory::{Daemon, Factory, MachineDir, SPACE, entries, until};
use crate::scripted::{Authority, Reply, Scripted};

/// A server of pipes and templates, which says what a test tells it to.
struct PipeServer {
    /// Dropped, the server is gone.
    _runtime: tokio::runtime::Runtime,
    scripted: Scripted,
    said: Arc<Mutex<Reply>>,
}

const TEMPLATE: &str = "#!/bin/sh\n# ##user_data_option_queue## ##user_data_option_ca##\n";

impl PipeServer {
    /// Serves under a certificate of `authority`.
    fn start(authority: &Authority) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let said = Arc::new(Mutex::new(Reply::Reset));
        let now = Arc::clone(&said);
        let script = move |seen: &crate::scripted::Seen, _: &str| match seen.path.as_str() {
            "/pipe.json" => now.lock().unwrap().clone(),
            "/hangs.json" => Reply::Hang,
            "/moved.json" => Reply::json(302, "").with("location", "/pipe.json?token=t"),
            "/template" => Reply::html(200, TEMPLATE),
            _ => Reply::html(404, "not here"),
        };
        let scripted = runtime.block_on(Scripted::start_tls(authority, script));
        Self {
            _runtime: runtime,
            scripted,
            said,
        }
    }

    /// What the pipe says from now on.
    fn say(&self, reply: Reply) {
        *self.said.lock().unwrap() = reply;
    }

    fn tell(&self, machinetypes: &Value, cache_seconds: u64) {
        let document = json!({"cache_seconds": cache_seconds, "machinetypes": machinetypes});
        self.say(Reply::json(200, document));
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.scripted.base)
    }

    fn asked(&self) -> usize {
        self.scripted.count("GET", "/pipe.json")
    }
}

/// A site that trusts the server.
fn site(authority: &Authority) -> Factory {
    let factory = Factory::new();
    let ca = factory.path("etc/certificates/scripted.pem");
    fs::copy(authority.path().join("Scripted-CA.pem"), ca).unwrap();
    factory
}

fn section(space: &str, prefix: &str, url: &str, options: &str) -> String {
    format!("[vacuum_pipe {space} {prefix}]\nvacuum_pipe_url = {url}\n{options}\n")
}

/// A machinetype as a pipe tells it.
fn entry(suffix: &str, share: f64, more: &Value) -> Value {
    let mut entry = json!({
        "suffix": suffix, "target_share": share, "backoff_seconds": 600, "fizzle_seconds": "3",
        "root_image": "image:cernvm4", "user_data": "template",
    });
    for (name, value) in more.as_object().unwrap() {
        entry[name] = value.clone();
    }
    entry
}

/// Puts a file where a pipe's machinetypes look for theirs.
fn file(factory: &Factory, prefix: &str, name: &str, text: &str) {
    let dir = format!("spaces/{SPACE}/machinetypes/{prefix}/files");
    fs::create_dir_all(factory.state(&dir)).unwrap();
    fs::write(factory.state(&dir).join(name), text).unwrap();
}

fn kind(machine: &MachineDir) -> Option<String> {
    machine.read("machinetype_name")
}

/// How many machines there are of each machinetype.
fn counts(factory: &Factory) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for kind in factory.machines().iter().filter_map(kind) {
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

fn wait_for_counts(factory: &Factory, expected: &[(&str, usize)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    let mut last = BTreeMap::new();
    until(&format!("{expected:?}"), || {
        last = counts(factory);
        (last == expected).then_some(())
    });
}

/// Has every pipe fetched again, now.
fn ask_again(daemon: &Daemon) {
    daemon.signal(Signal::HUP);
}

/// All that a pipe may say.
fn everything(base: &str) -> Value {
    json!({
        "machine_model": "vm-raw", "accounting_fqan": "/vo/Role=NULL", "cache_seconds": 5,
        "cvmfs_repositories": "a.cern.ch b.cern.ch", "heartbeat_file": "beat",
        "heartbeat_seconds": 600, "image_signing_dn": "/CN=cvm-sign01\\.cern\\.ch$",
        "legacy_proxy": false, "max_processors": 8, "max_wallclock_seconds": "7200",
        "min_processors": 1.0, "min_wallclock_seconds": 60, "root_device": "vda",
        "root_image": format!("{base}/cernvm.iso"), "scratch_device": "vdb",
        "user_data": format!("{base}/template"), "user_data_option_queue": "long",
        "user_data_file_ca": "ca.pem", "user_data_proxy": true,
        "x509dn": "/CN=the pipe", "root_public_key": "/etc/shadow",
    })
}

#[test]
fn a_pipe_is_served_changed_broken_and_down() {
    let authority = Authority::new();
    let factory = site(&authority);
    let server = PipeServer::start(&authority);
    let pipe = section(
        SPACE,
        "vo",
        &server.url("/moved.json?token=secret"),
        "target_share = 3\nflavor_name = small",
    );
    let limited = |limit: u32| {
        let limits = format!("max_machines = {limit}\nsimulated_machines = 40");
        let space = factory.space(SPACE, &limits);
        let own = factory.machinetype(SPACE, "own", "");
        factory.conf("space", &format!("{space}{own}{pipe}"));
    };
    limited(16);
    file(&factory, "vo", "template", TEMPLATE);
    file(&factory, "vo", "ca.pem", "from a file");
    let patterns = json!({"user_data_option_queue": "from the pipe", "user_data_file_ca": "ca.pem",
                          "accounting_fqan": "/vo/Role=NULL", "max_wallclock_seconds": 7200,
                          "user_data": server.url("/template")});
    let all = everything(&server.scripted.base);
    server.tell(
        &json!([
            entry("a", 2.0, &patterns),
            entry("b", 1.0, &json!({})),
            entry("all", 0.0, &all),
            entry("docker", 0.0, &json!({"machine_model": "docker"})),
        ]),
        0,
    );
    let daemon = factory.start();

    // Served: 1 for the site's own, 3 for the pipe, of which one has two thirds.
    wait_for_counts(&factory, &[("own", 4), ("vo-a", 8), ("vo-b", 4)]);
    let machines = factory.machines();
    let of_a = machines.iter().find(|m| kind(m).as_deref() == Some("vo-a"));
    let of_a = of_a.unwrap();
    let user_data = of_a.read("user_data").unwrap();
    assert_eq!(user_data, "#!/bin/sh\n# from the pipe from a file\n");
    assert_eq!(of_a.read("accounting_fqan").unwrap(), "/vo/Role=NULL");
    let wall = of_a.read("jobfeatures/wall_limit_secs").unwrap();
    assert_eq!(wall, "7200");
    assert_eq!(
        factory.log_lines("not used, as pipes may not say it").len(),
        1
    );
    assert_all_is_taken(&factory, &server);

    // Changed: one machinetype has gone, one has come, one is wrong.
    server.tell(
        &json!([
            entry("a", 1.0, &json!({})),
            entry("c", 1.0, &json!({})),
            entry("bad", 1.0, &json!({"backoff_seconds": "10m"})),
            entry("d", 0.0, &json!({"user_data": "/etc/shadow"})),
        ]),
        0,
    );
    until("the change counts", || {
        factory.log_lines("using a changed configuration").pop()
    });
    let told = |what: &str| until(what, || factory.log_lines(what).pop());
    told("[machinetype example.org vo-bad] is left out: backoff_seconds = \"10m\"");
    told("user_data = \"/etc/shadow\": expected the name of a file without \"/\"");
    limited(20);
    // 1 for each of own, a and c: a has more already. b has none any more, and its machines run.
    wait_for_counts(
        &factory,
        &[("own", 4), ("vo-a", 8), ("vo-b", 4), ("vo-c", 4)],
    );

    // Broken in many ways: what it said last counts.
    for (reply, what) in broken() {
        let asked = server.asked();
        server.say(reply);
        ask_again(&daemon);
        until("it is asked", || (server.asked() > asked).then_some(()));
        told(what);
    }
    let redirect = server.url("/pipe.json").replace("https", "http");
    server.say(Reply::json(301, "").with("location", &redirect));
    ask_again(&daemon);
    told("a redirect from https to http://");
    assert_eq!(
        counts(&factory).values().sum::<usize>(),
        20,
        "nothing was ended and nothing was made"
    );
    let plan = factory.run(&["plan", "--json", SPACE]).json();
    let known = plan["report"]["machinetypes"].as_object().unwrap();
    let known: Vec<_> = known.keys().map(String::as_str).collect();
    assert_eq!(known, ["own", "vo-a", "vo-c"]);

    // Down, also for a daemon that starts.
    drop(server);
    daemon.kill();
    let daemon = factory.start();
    let down = told("onnection refused");
    assert!(down.contains("what it said at 20"), "{down}");
    limited(24);
    until("the cached machinetypes go on", || {
        let counts = counts(&factory);
        (counts.get("vo-c") > Some(&4)).then_some(())
    });
    assert_eq!(counts(&factory)["vo-b"], 4);
    assert!(factory.log_lines("ERROR").is_empty());
    assert!(
        !factory.log().contains("secret"),
        "the URL's query is shown"
    );
    daemon.end();
}

/// Everything that the pipe may say has come to its option, and nothing else.
fn assert_all_is_taken(factory: &Factory, server: &PipeServer) {
    let shown = factory.run(&["check", "--json"]).json();
    let section = shown["machinetype example.org vo-all"].as_object().unwrap();
    let options: BTreeMap<_, _> = section
        .iter()
        .map(|(name, option)| (name.as_str(), option["value"].as_str().unwrap()))
        .collect();
    let base = &server.scripted.base;
    let (image, template) = (format!("{base}/cernvm.iso"), format!("{base}/template"));
    let expected = BTreeMap::from([
        ("accounting_fqan", "/vo/Role=NULL"),
        ("backoff_seconds", "600"),
        ("cernvm_signing_dn", "/CN=cvm-sign01\\.cern\\.ch$"),
        ("fizzle_seconds", "3"),
        ("flavor_name", "small"),
        ("heartbeat_file", "beat"),
        ("heartbeat_seconds", "600"),
        ("legacy_proxy", "False"),
        ("max_processors", "8"),
        ("max_wallclock_seconds", "7200"),
        ("min_processors", "1"),
        ("root_image", &image),
        ("target_share", "0"),
        ("user_data", &template),
        ("user_data_file_ca", "ca.pem"),
        ("user_data_option_queue", "[hidden]"),
        ("user_data_proxy", "True"),
    ]);
    assert_eq!(options, expected);
    assert!(shown.get("machinetype example.org vo-docker").is_none());
}

/// What a pipe says on a bad day, and a part of what is said of it.
fn broken() -> Vec<(Reply, &'static str)> {
    let raw = |body: Vec<u8>| Reply::Raw {
        status: 200,
        headers: Vec::new(),
        body,
    };
    vec![
        (
            raw(b"<html>garbage</html>".to_vec()),
            "it is no JSON: expected value",
        ),
        (raw(Vec::new()), "it is no JSON: EOF"),
        (
            raw(b"{\"machinetypes\": [\"\xff\xfe\"]}".to_vec()),
            "it is no UTF-8 text",
        ),
        (
            raw(b"{\"machinetypes\": 1}".to_vec()),
            "expected an object with a list",
        ),
        (raw(b"[".repeat(100_000)), "recursion limit exceeded"),
        (
            Reply::Long {
                status: 200,
                head: "{\"machinetypes\": [".to_owned(),
                piece: "{\"suffix\": \"x\"},".repeat(100),
                times: usize::MAX,
                tail: String::new(),
            },
            "the answer has more than 1048576 bytes",
        ),
        (
            Reply::html(503, "<h1>Busy</h1>"),
            "503 Service Unavailable: Busy",
        ),
        (
            Reply::json(302, "").with("location", "/pipe.json"),
            "more than 5 redirects",
        ),
        (
            Reply::json(302, "").with("location", "file:///etc/shadow"),
            "which is not followed",
        ),
        (
            Reply::BreakOff("{\"machinetypes\": []}".to_owned()),
            "vacuum pipe GET https://localhost",
        ),
    ]
}

#[test]
fn one_url_is_fetched_once_for_all_sections_and_not_again_after_a_start() {
    let authority = Authority::new();
    let factory = site(&authority);
    let server = PipeServer::start(&authority);
    server.tell(&json!([entry("a", 1.0, &json!({}))]), 3600);
    let url = server.url("/pipe.json");
    let options = "target_share = 1\nflavor_name = small";
    for space in [SPACE, "other.org"] {
        // A space may have no machinetypes but those of pipes.
        let text = factory.space(space, "max_machines = 2")
            + &section(space, "one", &url, options)
            + &section(space, "two", &url, options);
        factory.conf(space, &text);
        for prefix in ["one", "two"] {
            let dir = format!("spaces/{space}/machinetypes/{prefix}/files");
            fs::create_dir_all(factory.state(&dir)).unwrap();
            fs::write(factory.state(&dir).join("template"), TEMPLATE).unwrap();
        }
    }
    let checked = factory.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let expected = format!(
        "vcycled: vacuum pipe {url}: nothing is known of it; not fetched now, as --fetch would\n\
         vcycled: configuration is in order: 2 spaces, 0 machinetypes, 0 warnings\n"
    );
    assert_eq!(checked.out, expected);
    assert_eq!(server.asked(), 0);

    let both = [("one-a", 2), ("two-a", 2)];
    let daemon = factory.start();
    wait_for_counts(&factory, &both);
    for space in [SPACE, "other.org"] {
        factory.wait_for_scans(space, 3);
    }
    daemon.kill();
    let daemon = factory.start();
    factory.wait_for_scans(SPACE, 3);
    assert_eq!(server.asked(), 1);
    let cache = entries(&factory.state("pipes"));
    assert_eq!(cache.len(), 1, "{cache:?}");
    daemon.end();

    let checked = factory.run(&["check"]);
    let place = format!("vcycled: vacuum pipe {url}: 1 machinetype, as fetched at ");
    assert!(checked.out.starts_with(&place), "{checked:?}");
    assert!(checked.out.contains("2 spaces, 4 machinetypes, 0 warnings"));
    assert_eq!(server.asked(), 1, "check has fetched");
    let entries = [entry("a", 1.0, &json!({})), entry("b", 1.0, &json!({}))];
    server.tell(&json!(entries), 3600);
    let checked = factory.run(&["check", "--fetch"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("2 spaces, 8 machinetypes, 0 warnings"));
    assert_eq!(server.asked(), 2);
    server.say(Reply::html(500, "broken"));
    let checked = factory.run(&["check", "--fetch"]);
    assert_eq!(checked.code, Some(69), "{checked:?}");
    assert!(
        checked.err.contains("500 Internal Server Error: broken"),
        "{checked:?}"
    );
    assert!(checked.out.contains("2 spaces, 4 machinetypes, 0 warnings"));
}

#[test]
fn a_pipe_that_hangs_or_cannot_be_trusted_delays_nobody() {
    let authority = Authority::new();
    let factory = site(&authority);
    let server = PipeServer::start(&authority);
    server.tell(&json!([entry("a", 1.0, &json!({}))]), 0);
    let unknown = PipeServer::start(&Authority::new());
    unknown.tell(&json!([entry("a", 1.0, &json!({}))]), 0);
    file(&factory, "good", "template", TEMPLATE);
    let options = "target_share = 1\nflavor_name = small";
    factory.conf(
        "live",
        &(factory.space(SPACE, "max_machines = 4")
            + &section(SPACE, "good", &server.url("/pipe.json"), options)),
    );
    factory.conf(
        "hangs",
        &(factory.space("hangs.org", "max_machines = 4")
            + &factory.machinetype("hangs.org", "own", "")
            + &section("hangs.org", "hangs", &server.url("/hangs.json"), options)
            + &section("hangs.org", "forged", &unknown.url("/pipe.json"), options)),
    );
    let daemon = factory.start();
    wait_for_counts(&factory, &[("good-a", 4), ("own", 4)]);
    let untrusted = until("it is told", || {
        factory.log_lines("nothing is known of it").pop()
    });
    let place = format!("GET {}: cannot connect", unknown.url("/pipe.json"));
    assert!(untrusted.contains(&place), "{untrusted}");
    assert_eq!(
        unknown.asked(),
        0,
        "a request was sent to an unknown server"
    );
    factory.wait_for_scans(SPACE, 3);
    factory.wait_for_scans("hangs.org", 3);
    assert_eq!(server.scripted.count("GET", "/hangs.json"), 1);
    // Nor does it delay the end.
    daemon.end();
}

#[test]
fn a_pipe_that_tells_nothing_any_more_ends_no_machine() {
    let authority = Authority::new();
    let factory = site(&authority);
    let server = PipeServer::start(&authority);
    server.tell(&json!([entry("a", 1.0, &json!({}))]), 0);
    file(&factory, "vo", "template", TEMPLATE);
    let options = "target_share = 1\nflavor_name = small";
    let configure = |limit: u32| {
        let space = factory.space(SPACE, &format!("max_machines = {limit}"));
        let pipe = section(SPACE, "vo", &server.url("/pipe.json"), options);
        factory.conf("space", &format!("{space}{pipe}"));
    };
    configure(3);
    let daemon = factory.start();
    wait_for_counts(&factory, &[("vo-a", 3)]);
    server.tell(&json!([]), 0);
    until("it is told", || {
        factory
            .log_lines("tells no machinetype that can be used")
            .pop()
    });
    configure(6);
    factory.wait_for_scans(SPACE, 5);
    wait_for_counts(&factory, &[("vo-a", 3)]);
    for machine in factory.machines() {
        assert_eq!(machine.read("deleted"), None);
    }
    server.tell(&json!([entry("a", 1.0, &json!({}))]), 0);
    wait_for_counts(&factory, &[("vo-a", 6)]);
    assert!(factory.log_lines("ERROR").is_empty());
    daemon.end();
}
