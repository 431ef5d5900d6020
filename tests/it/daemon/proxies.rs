//! Proxies in user_data: made for each machine, and good for writing to its joboutputs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::client::{Answer, curl, request};
use super::factory::{Factory, MachineDir, PKI, SPACE, until};
use crate::grid::fixtures::{DN, GRID, Grid};

/// A template that has the proxy in it, by both of its names.
const TEMPLATE: &str = "#!/bin/sh\ncat >/root/proxy.pem <<EOF\n##user_data_x509_proxy##EOF\n\
    cat >/root/same.pem <<EOF\n##user_data_option_x509_proxy##EOF\n";

/// The name of a machinetype, its options, and the files that it needs: fixture and name.
type Kind<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A site whose machines get proxies of the openssl user.
fn site(space: &str, machinetypes: &[Kind<'_>]) -> Factory {
    let factory = Factory::new();
    GRID.trust_in(&factory.path("etc/certificates"));
    factory.write("etc/user_data", TEMPLATE);
    let mut text = factory.space(SPACE, space);
    for (name, options, files) in machinetypes {
        let dir = factory.state(&format!("spaces/{SPACE}/machinetypes/{name}/files"));
        fs::create_dir_all(&dir).unwrap();
        for (from, to) in *files {
            GRID.copy(from, &dir.join(to));
        }
        let options = format!("x509dn = {DN}\nmax_wallclock_seconds = 7200\n{options}");
        text += &factory.machinetype(SPACE, name, &options);
    }
    factory.conf("space", &text);
    factory
}

fn of_kind(factory: &Factory, machinetype: &str) -> Option<MachineDir> {
    let prefix = format!("vcycle-{machinetype}-");
    let mut machines = factory.machines().into_iter();
    machines.find(|machine| machine.name().starts_with(&prefix))
}

/// The proxy in a machine's user_data, in a file, as the machine would have it.
fn proxy(factory: &Factory, machine: &MachineDir) -> std::path::PathBuf {
    let text = machine.wait_for("user_data");
    let parts: Vec<&str> = text
        .split("EOF\n")
        .filter(|part| part.starts_with("-----BEGIN"))
        .collect();
    assert!(parts.len() == 2 && parts[0] == parts[1], "{text}");
    let path = factory.path(&format!("{}.pem", machine.name()));
    fs::write(&path, parts[0]).unwrap();
    path
}

#[test]
fn machines_write_to_their_joboutputs_with_the_proxies_they_were_given() {
    let factory = site(
        "max_machines = 4",
        &[
            (
                "rfc",
                "user_data_proxy_cert = user.pem\nuser_data_proxy_key = user.key",
                &[("user.pem", "user.pem"), ("user.key", "user.key")],
            ),
            (
                "usual",
                "user_data_proxy = True",
                &[("user.pem", "x509cert.pem"), ("user.key", "x509key.pem")],
            ),
            (
                "chain",
                "user_data_proxy_cert = proxy.pem\nuser_data_proxy_key = proxy.pem",
                &[("proxy.pem", "proxy.pem")],
            ),
            (
                "legacy",
                "user_data_proxy = true\nlegacy_proxy = True",
                &[("user.pem", "x509cert.pem"), ("user.key", "x509key.pem")],
            ),
        ],
    );
    let daemon = factory.start();
    let ca_path = factory.path("etc/certificates");
    let mut keys = Vec::new();
    for kind in ["rfc", "usual", "chain", "legacy"] {
        let machine = until(kind, || of_kind(&factory, kind));
        let path = proxy(&factory, &machine);
        let path_text = path.to_str().unwrap();
        keys.push(Grid::openssl(&["pkey", "-pubout", "-in", path_text]));
        // It ends when the machine has to be down, to the second.
        let end = machine.time("machinefeatures/shutdowntime").unwrap();
        assert_eq!(end, machine.time("created").unwrap() + 7200);
        let end = vcycle::model::Timestamp::from_unix(end).to_rfc3339();
        let shown = Grid::openssl(&[
            "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", path_text,
        ]);
        let expected = format!("notAfter={}\n", end.replace('T', " "));
        assert_eq!(shown, expected, "{kind}");
        let subject = Grid::openssl(&["x509", "-noout", "-subject", "-in", path_text]);
        let last = if kind == "legacy" {
            "limited proxy"
        } else {
            kind
        };
        assert!(subject.ends_with(&format!(", CN = {last}\n")), "{subject}");
        let verify = Command::new("openssl")
            .args(["verify", "-allow_proxy_certs", "-CApath"])
            .arg(&ca_path)
            .args(["-untrusted", path_text, path_text])
            .output()
            .unwrap();
        // OpenSSL itself has forgotten legacy proxies; our server has not.
        assert_eq!(verify.status.success(), kind != "legacy", "{verify:?}");

        let url = format!(
            "https://localhost:{}/machines/{}/joboutputs/heartbeat",
            factory.port,
            machine.name()
        );
        let put = ["--upload-file", path_text, &url];
        for status in [201, 200] {
            let said = curl(&ca_path, Some(&path), &put).expect("this test needs curl");
            assert!(said.ends_with(&format!(" {status}")), "{kind}: {said}");
        }
        let said = curl(&ca_path, None, &put).unwrap();
        assert!(said.ends_with(" 403"), "{kind}: {said}");
        // Somebody else's certificate is not the owner of this machine.
        let path = format!("/machines/{}/joboutputs/x", machine.name());
        let server = (factory.port, &PKI.ca.cert);
        let Answer { status, .. } = request(server, Some(&PKI.vm), ("PUT", &path), "x");
        assert_eq!(status, 403);
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 4, "each has a key of its own");
    let log = factory.log();
    assert!(!log.contains("BEGIN") && !log.contains("ERROR"), "{log}");
    daemon.end();
}

#[test]
fn a_certificate_that_will_not_do_stops_its_machinetype_and_no_other() {
    let usual = "user_data_proxy = True";
    let files = [("user.pem", "x509cert.pem"), ("user.key", "x509key.pem")];
    let factory = site(
        "max_machines = 80",
        &[
            ("good", usual, &files),
            (
                "encrypted",
                usual,
                &[files[0], ("user-encrypted.key", "x509key.pem")],
            ),
            ("other-key", usual, &[files[0], ("ca.key", "x509key.pem")]),
            ("no-file", usual, &files[..1]),
            (
                "too-short",
                "user_data_proxy = True\nmax_wallclock_seconds = 2592000",
                &files,
            ),
            (
                "other-kind",
                "user_data_proxy = True\nlegacy_proxy = True",
                &[("proxy.pem", "x509cert.pem"), ("proxy.pem", "x509key.pem")],
            ),
            ("no-pem", usual, &[("conf", "x509cert.pem"), files[1]]),
        ],
    );
    let key = factory.state(&format!(
        "spaces/{SPACE}/machinetypes/good/files/x509key.pem"
    ));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = factory.start();
    for (kind, file, expected) in [
        ("encrypted", "x509key.pem", "is encrypted"),
        ("other-key", "x509key.pem", "does not belong to"),
        ("no-file", "x509key.pem", "No such file"),
        ("too-short", "x509cert.pem", "expires at "),
        ("other-kind", "x509cert.pem", "set legacy_proxy = False"),
        ("no-pem", "x509cert.pem", "no certificate in PEM form"),
    ] {
        let file = format!("machinetypes/{kind}/files/{file}");
        let told = || factory.log_lines(&file);
        let said = until(&format!("{kind} is told"), || told().pop());
        assert!(
            said.contains(expected) && said.contains("WARN") && said.contains("cannot create"),
            "{said}"
        );
        assert_eq!(told().len(), 1, "{kind}: {:?}", told());
        assert_eq!(of_kind(&factory, kind), None);
    }
    until("the good one", || of_kind(&factory, "good"));
    factory.wait_for_scans(SPACE, 3);
    let about_mode = factory.log_lines("can be read by everybody");
    assert_eq!(about_mode.len(), 1, "{about_mode:?}");
    assert!(about_mode[0].contains("mode 0644") && about_mode[0].contains(key.to_str().unwrap()));
    assert!(factory.log_lines("ERROR").is_empty());
    let kinds = factory.machines();
    let mut kinds = kinds.iter().map(MachineDir::name);
    assert!(kinds.all(|name| name.starts_with("vcycle-good-")));
    daemon.end();
}
