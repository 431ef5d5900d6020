//! What a scrape tells, and that dashboard and alerts ask for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;

use super::client;
use super::endpoint::{get, get_with};
use super::factory::{Factory, PKI, SPACE, until};

/// The samples of a scrape, by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
    pairs
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn names(text: &str) -> BTreeSet<String> {
    let samples = samples(text).into_keys();
    let names = samples.map(|name| name.split('{').next().unwrap().to_owned());
    names.collect()
}

/// Whether a sample of this name, with all of these labels, has this value.
fn has(text: &str, name: &str, labels: &[(&str, &str)], value: f64) -> bool {
    samples(text).iter().any(|(sample, found)| {
        let is_it = sample == name || sample.starts_with(&format!("{name}{{"));
        let labels = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""));
        is_it && labels.into_iter().all(|label| sample.contains(&label)) && *found == value
    })
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// promtool, if there is one.
fn promtool() -> Option<OsString> {
    let named = std::env::var_os("VCYCLE_TEST_PROMTOOL");
    let found = named.or_else(|| {
        let fetched = repository("target/promtool/promtool");
        fetched.is_file().then(|| fetched.into_os_string())
    });
    if found.is_none() {
        println!("skipped: there is no promtool (packaging/setup --tests fetches it)");
    }
    found
}

/// A factory with one space that works and one whose cloud does not answer.
fn two_spaces() -> Factory {
    let factory = Factory::with_space("max_machines = 2\ngocdb_sitename = SITE", "");
    let dead = format!(
        "[space dead.org]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
         username = u\npassword_base64 = c2VjcmV0c2VjcmV0\nmax_machines = 4\nprocessors_limit = 9\n{}",
        factory.machinetype("dead.org", "a", "")
    );
    factory.conf("dead", &dead);
    factory
}

fn scrape(factory: &Factory) -> String {
    let answer = get(factory, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn a_scrape_tells_what_the_daemon_does() {
    let factory = two_spaces();
    let daemon = factory.start();
    let kind = [("space", SPACE), ("machinetype", "atlas")];
    let text = until("two machines run, and requests have failed", || {
        let text = scrape(&factory);
        let running = [kind[0], kind[1], ("state", "running")];
        let failed = [("space", "dead.org"), ("outcome", "not_sent")];
        let there = has(&text, "vcycle_machines", &running, 2.0)
            && samples(&text).iter().any(|(name, value)| {
                name.starts_with("vcycle_api_requests_total")
                    && failed.iter().all(|(_, word)| name.contains(word))
                    && *value >= 3.0
            })
            && has(&text, "vcycle_space_failing", &[failed[0]], 1.0);
        there.then_some(text)
    });
    let outcome = |word| [kind[0], kind[1], ("outcome", word)];
    for (name, labels, value) in [
        ("vcycle_machines_created_total", &kind[..], 2.0),
        ("vcycle_machines_ended_total", &outcome("finished"), 0.0),
        ("vcycle_machines_ended_total", &outcome("fizzle"), 0.0),
        ("vcycle_machinetype_target_share_ratio", &kind, 1.0),
        ("vcycle_machinetype_share_ratio", &kind, 1.0),
        ("vcycle_space_machines_limit", &kind[..1], 2.0),
        ("vcycle_space_failing", &kind[..1], 0.0),
        (
            "vcycle_space_last_scan_timestamp_seconds",
            &[("space", "dead.org")],
            0.0,
        ),
        ("vcycle_config_rejected", &[], 0.0),
        ("vcycle_https_problem", &[], 0.0),
        ("vcycle_cycle_interval_seconds", &[], 1.0),
        (
            "vcycle_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        ),
        ("vcycle_accounting_records_waiting", &[], 0.0),
    ] {
        assert!(
            has(&text, name, labels, value),
            "{name} {labels:?} in\n{text}"
        );
    }
    let expires = samples(&text)["vcycle_certificate_expiry_timestamp_seconds"];
    let not_after = PKI.host.cert.not_after().to_string();
    assert!(
        expires > samples(&text)["process_start_time_seconds"],
        "{not_after}"
    );
    assert!(
        !text.contains("vcycle-atlas-"),
        "no machine is named:\n{text}"
    );
    assert!(!text.contains("secret"), "{text}");

    // Heartbeats and refusals are counted by the server.
    let machine = factory.machines().remove(0).0;
    let name = machine.file_name().unwrap().to_str().unwrap();
    let server = (factory.port, &PKI.ca.cert);
    let path = format!("/machines/{name}/joboutputs/heartbeat");
    let put = client::request(server, Some(&PKI.vm), ("PUT", &path), "alive");
    assert_eq!(put.status, 201, "{put:?}");
    let put = client::request(server, None, ("PUT", &path), "dead");
    assert!(put.status >= 400, "{put:?}");
    // The VMs of the embedded cloud write, too, and are refused for want of a certificate.
    let after = scrape(&factory);
    for (name, labels, least) in [
        (
            "vcycle_https_requests_total",
            "{method=\"PUT\",code=\"2xx\"}",
            1.0,
        ),
        (
            "vcycle_https_requests_total",
            "{method=\"PUT\",code=\"4xx\"}",
            1.0,
        ),
        ("vcycle_https_handshakes_total", "{outcome=\"done\"}", 2.0),
        (
            "vcycle_https_connections_total",
            "{outcome=\"accepted\"}",
            2.0,
        ),
        ("vcycle_https_received_bytes_total", "", 5.0),
    ] {
        let name = format!("{name}{labels}");
        let more = samples(&after)[&name] - samples(&text)[&name];
        assert!(more >= least, "{name} grew by {more}:\n{after}");
    }

    // Both formats tell the same.
    let open = get_with(
        &factory,
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0\r\n",
    );
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
    assert_eq!(names(&open.body), names(&after));
    factory.conf("dead", "[space dead.org]\napi = openstack\n");
    until("the configuration is told to be bad", || {
        has(&scrape(&factory), "vcycle_config_rejected", &[], 1.0).then_some(())
    });
    daemon.end();
}

#[test]
fn dashboard_and_alerts_ask_for_what_is_told() {
    let factory = two_spaces();
    let daemon = factory.start();
    let told = until("both spaces are told of", || {
        let names = names(&scrape(&factory));
        let all = [
            "vcycle_api_requests_total",
            "vcycle_machinetype_share_ratio",
        ];
        all.iter()
            .all(|name| names.contains(*name))
            .then_some(names)
    });
    daemon.end();
    let dashboard = fs::read_to_string(repository("packaging/grafana/vcycle.json")).unwrap();
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 15);
    let alerts = fs::read_to_string(repository("packaging/prometheus/vcycle.rules.yml")).unwrap();
    let tests = repository("packaging/prometheus/vcycle.rules.test.yml");
    let tests = fs::read_to_string(tests).unwrap();
    let metric = Regex::new(r"\b(vcycle_[a-z0-9_]+|process_start_time_seconds)\b").unwrap();
    for (text, least) in [(&dashboard, 20), (&alerts, 9), (&tests, 9)] {
        let asked: BTreeSet<&str> = metric.find_iter(text).map(|found| found.as_str()).collect();
        let asked: Vec<&str> = asked
            .into_iter()
            .filter(|name| *name != "vcycle_admin_token")
            .collect();
        assert!(asked.len() >= least, "{asked:?}");
        let unknown: Vec<_> = asked.iter().filter(|name| !told.contains(**name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} are not among {told:#?}");
    }
    // The manual page names all, histograms without their parts.
    let page = fs::read_to_string(repository("man/vcycle-metrics.7")).unwrap();
    for name in &told {
        let whole = ["_bucket", "_sum", "_count"].into_iter();
        let whole = whole.fold(name.as_str(), |name, part| {
            name.strip_suffix(part).unwrap_or(name)
        });
        assert!(page.contains(whole), "{whole} is not in the manual page");
    }
    // Each alert has a test of its own.
    let alert = Regex::new(r"(?m)^ +- alert: (\w+)$").unwrap();
    for found in alert.captures_iter(&alerts) {
        assert!(
            tests.contains(&format!("alertname: {}\n", &found[1])),
            "{}",
            &found[1]
        );
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    let Some(promtool) = promtool() else { return };
    let run = |arguments: &[&str], input: &str| {
        let mut child = Command::new(&promtool)
            .args(arguments)
            .current_dir(repository("packaging/prometheus"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned()
            + &String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{arguments:?}: {said}");
        said
    };
    run(&["check", "rules", "vcycle.rules.yml"], "");
    run(&["test", "rules", "vcycle.rules.test.yml"], "");
    let factory = two_spaces();
    let daemon = factory.start();
    let text = until("everything is told", || {
        let text = scrape(&factory);
        text.contains("vcycle_api_requests_total{").then_some(text)
    });
    daemon.end();
    let said = run(&["check", "metrics"], &text);
    assert_eq!(said.trim(), "", "{text}");
}
