//! Templates: where they come from, what is put into them, and what is wrong with some.

use std::fs;

use super::factory::{FACTORY, Factory, MachineDir, SPACE, until};
use super::secrets;
use crate::scripted::{Authority, Reply, Scripted};

fn of_kind(factory: &Factory, machinetype: &str) -> Option<MachineDir> {
    let prefix = format!("vcycle-{machinetype}-");
    let mut machines = factory.machines().into_iter();
    machines.find(|machine| machine.name().starts_with(&prefix))
}

/// A template with each pattern that there is and some that are none, one a line.
const PATTERNS: &[&str] = &[
    "space",
    "site",
    "machinetype",
    "vmtype",
    "machine_hostname",
    "vm_hostname",
    "manager_version",
    "vmlm_version",
    "manager_hostname",
    "vmlm_hostname",
    "url",
    "root_image_url",
    "heartbeat_machines_url",
    "machinefeatures_url",
    "jobfeatures_url",
    "joboutputs_url",
    "manager_machinefeatures_url",
    "manager_jobfeatures_url",
    "manager_joboutputs_url",
    "uuid",
    "joboutputs_token",
    "x509_proxy",
    "option_x509_proxy",
    "option_cvmfs_proxy",
    "option_queue",
    "option_Queue",
    "option_from_file",
    "file_from_file",
    "option_unknown",
    "file_unknown",
    "no_such_thing",
];

#[test]
fn every_pattern_is_replaced_once_or_removed() {
    let factory = Factory::new();
    let lines = PATTERNS.iter();
    let lines = lines.map(|name| format!("{name}=##user_data_{name}##\n"));
    let tail = "twice=##user_data_space####user_data_space##\n\
                none=##user_data_a-b## ##user_data_## # ##x## ##user_data_space#\n";
    factory.write("etc/user_data", lines.collect::<String>() + tail);
    factory.write("etc/inserted", "line 1\n##user_data_space##\n");
    let options = format!(
        "user_data_option_queue = long ##user_data_site## queue\nuser_data_file_from_file = {}",
        factory.path("etc/inserted").display()
    );
    let text = factory.space(SPACE, "max_machines = 1\ngocdb_sitename = TEST-SITE")
        + &factory.machinetype(SPACE, "atlas", &options);
    factory.conf("space", &text);
    let daemon = factory.start();
    let machine = until("a machine", || factory.machines().pop());
    let (name, port) = (machine.name(), factory.port);
    let version = format!("Vcycle {}", env!("CARGO_PKG_VERSION"));
    let template = factory.path("etc/user_data").display().to_string();
    let base = format!("https://localhost:{port}");
    let of_machine = |which: &str| format!("{base}/machines/{name}/{which}");
    let inserted = "line 1\n##user_data_space##\n";
    let values: &[(&str, String)] = &[
        ("space", SPACE.to_owned()),
        ("site", "TEST-SITE".to_owned()),
        ("machinetype", "atlas".to_owned()),
        ("vmtype", "atlas".to_owned()),
        ("machine_hostname", name.to_owned()),
        ("vm_hostname", name.to_owned()),
        ("manager_version", version.clone()),
        ("vmlm_version", version),
        ("manager_hostname", FACTORY.to_owned()),
        ("vmlm_hostname", FACTORY.to_owned()),
        ("url", template),
        ("root_image_url", "image:cernvm4".to_owned()),
        (
            "heartbeat_machines_url",
            format!("{base}/heartbeatlists/{SPACE}/atlas"),
        ),
        ("machinefeatures_url", of_machine("machinefeatures")),
        ("jobfeatures_url", of_machine("jobfeatures")),
        ("joboutputs_url", of_machine("joboutputs")),
        ("manager_machinefeatures_url", of_machine("machinefeatures")),
        ("manager_jobfeatures_url", of_machine("jobfeatures")),
        ("manager_joboutputs_url", of_machine("joboutputs")),
        // On disk there is only its hash.
        ("joboutputs_token", "[hidden]".to_owned()),
        ("option_queue", "long ##user_data_site## queue".to_owned()),
        ("option_Queue", "long ##user_data_site## queue".to_owned()),
        ("option_from_file", inserted.to_owned()),
        ("file_from_file", inserted.to_owned()),
    ];
    let value = |pattern: &str| {
        let found = values.iter().find(|(name, _)| *name == pattern);
        found.map_or("", |(_, value)| value.as_str())
    };
    let expected: String = PATTERNS
        .iter()
        .map(|pattern| format!("{pattern}={}\n", value(pattern)))
        .collect();
    let tail = tail.replacen(
        "##user_data_space####user_data_space##",
        &SPACE.repeat(2),
        1,
    );
    assert_eq!(machine.read("user_data").unwrap(), expected + &tail);
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_had_stops_its_machinetype_and_no_other() {
    let plain = Scripted::start(|seen, _| match seen.path.as_str() {
        "/good" => Reply::html(200, "#!/bin/sh\n# ##user_data_machinetype##\n"),
        "/moved" => Reply::html(302, "").with("location", "/good"),
        "/404" => Reply::html(404, "#!/bin/sh\n# not me\n"),
        "/500" => Reply::html(500, "#!/bin/sh\n# not me\n"),
        "/circle" => Reply::html(302, "").with("location", "/circle"),
        "/large" => Reply::Long {
            status: 200,
            head: "#!/bin/sh\n".to_owned(),
            piece: "#".repeat(1 << 16),
            times: 17,
            tail: String::new(),
        },
        "/binary" => Reply::Raw {
            status: 200,
            headers: Vec::new(),
            body: b"\x1f\x8b\x08\xff".to_vec(),
        },
        "/broken" => Reply::BreakOff("#!/bin/sh\n# half of me\n".to_owned()),
        "/silent" => Reply::Hang,
        _ => Reply::Reset,
    })
    .await;
    let authority = Authority::new();
    let insecure = format!("{}/good", plain.base);
    let secure = Scripted::start_tls(&authority, move |seen, _| match seen.path.as_str() {
        "/down" => Reply::html(302, "").with("location", &insecure),
        _ => Reply::html(200, "#!/bin/sh\n# secure ##user_data_machinetype##\n"),
    })
    .await;
    let stranger = Authority::new();
    let untrusted = Scripted::start_tls(&stranger, |_, _| Reply::html(200, "#!/bin/sh\n")).await;

    let factory = Factory::new();
    fs::copy(
        authority.path().join("Scripted-CA.pem"),
        factory.path("etc/certificates/scripted.pem"),
    )
    .unwrap();
    let good = [
        ("good", format!("{}/good?token=hidden-1", plain.base)),
        ("moved", format!("{}/moved", plain.base)),
        ("secure", format!("{}/good", secure.base)),
    ];
    let bad = [
        (
            "s404",
            format!("{}/404?token=hidden-2", plain.base),
            "404 Not Found",
        ),
        (
            "s500",
            format!("{}/500", plain.base),
            "500 Internal Server Error",
        ),
        (
            "circle",
            format!("{}/circle", plain.base),
            "too many redirects",
        ),
        (
            "large",
            format!("{}/large", plain.base),
            "is larger than 1048576 bytes",
        ),
        (
            "binary",
            format!("{}/binary", plain.base),
            "is not UTF-8 text",
        ),
        ("broken", format!("{}/broken", plain.base), "cannot fetch"),
        ("reset", format!("{}/reset", plain.base), "cannot fetch"),
        ("silent", format!("{}/silent", plain.base), "timed out"),
        (
            "down",
            format!("{}/down", secure.base),
            "refused to follow a redirect from https to plain http",
        ),
        (
            "untrusted",
            format!("{}/x", untrusted.base),
            "certificate verify failed",
        ),
    ];
    let mut text = factory.space(SPACE, "max_machines = 130");
    let all = bad.iter().map(|(name, url, _)| (*name, url));
    for (name, url) in all.chain(good.iter().map(|(name, url)| (*name, url))) {
        text += &factory.machinetype(SPACE, name, &format!("user_data = {url}"));
    }
    factory.conf("space", &text);
    let daemon = factory.start();
    for (name, start) in [("good", "# "), ("moved", "# "), ("secure", "# secure ")] {
        let machine = until(name, || of_kind(&factory, name));
        let expected = format!("#!/bin/sh\n{start}{name}\n");
        assert_eq!(machine.read("user_data").unwrap(), expected);
    }
    let fetched = plain.seen().into_iter().find(|seen| seen.path == "/good");
    let expected = concat!("vcycled/", env!("CARGO_PKG_VERSION"));
    assert_eq!(fetched.unwrap().header("user-agent"), expected);
    for (name, url, expected) in &bad {
        let url = url.split('?').next().unwrap();
        let of_kind_told = format!("machine=vcycle-{name}-");
        let told = || {
            let lines = factory.log_lines("cannot create: ").into_iter();
            lines
                .filter(|line| line.contains(&of_kind_told))
                .collect::<Vec<_>>()
        };
        let said = until(&format!("{name} is told"), || told().pop());
        assert!(
            said.contains(expected) && said.contains(url),
            "{name}: {said}"
        );
        assert_eq!(told().len(), 1, "{name}");
        assert_eq!(of_kind(&factory, name), None);
    }
    assert!(!factory.log().contains("hidden-"), "a token is no news");
    assert!(factory.log_lines("ERROR").is_empty());
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn user_data_that_no_cloud_takes_is_not_sent() {
    let server = Scripted::start(secrets::cloud).await;
    let factory = secrets::site(&server);
    // 49,152 bytes are 65,536 in base64, one more than Nova takes.
    factory.write("etc/user_data", "#".repeat(49_152));
    let daemon = factory.start();
    let said = until("it is told", || factory.log_lines("cannot create").pop());
    assert!(said.contains("65535"), "{said}");
    assert!(factory.machines().is_empty());
    assert_eq!(server.count("POST", "/nova/v2.1/servers"), 0);
    daemon.end();

    // What just fits is sent.
    factory.write("etc/user_data", "#".repeat(49_149));
    let daemon = factory.start();
    until("it is sent", || {
        (server.count("POST", "/nova/v2.1/servers") > 0).then_some(())
    });
    daemon.end();
}
