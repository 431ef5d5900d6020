//! What `check` says of a configuration that can be used and will not do what is expected of it.

use std::fs;

use super::factory::{Factory, SPACE};

/// The lines about sections, of a check that ends well.
fn told(factory: &Factory) -> Vec<String> {
    let checked = factory.run(&["check"]);
    assert_eq!(checked.code, Some(0), "only told: {checked:?}");
    let lines = checked.err.lines().filter(|line| line.starts_with('['));
    lines.map(ToOwned::to_owned).collect()
}

#[test]
fn heartbeats_that_no_machine_can_write_are_told() {
    let factory = Factory::with_space("", "heartbeat_file = beat");
    assert_eq!(told(&factory), [""; 0], "x509dn lets them write");
    let machinetype = factory.machinetype(SPACE, "atlas", "heartbeat_file = beat");
    let text = factory.space(SPACE, "") + &machinetype.replace("x509dn", "#");
    factory.conf("space", &text);
    let lines = told(&factory);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let expected = format!("[machinetype {SPACE} atlas] heartbeat_file: machines cannot write it");
    assert!(lines[0].starts_with(&expected), "{lines:?}");
    factory.write("etc/user_data", "x=##user_data_joboutputs_Token##\n");
    assert_eq!(told(&factory), [""; 0], "the token lets them write");
}

#[test]
fn a_space_that_makes_nothing_and_one_that_has_no_limit_are_told() {
    let factory = Factory::with_space("", "target_share = 0");
    assert_eq!(
        told(&factory),
        [format!(
            "[space {SPACE}]: no machinetype has a target_share above 0; nothing is created"
        )]
    );
    let cloud = "[space o.org]\napi = openstack\nurl = https://k.example.org:5000/v3\n\
                 tenancy_name = t\nusername = u\npassword_base64 = eA==\n";
    let machinetype = factory.machinetype("o.org", "atlas", "");
    factory.conf("space", &format!("{cloud}{machinetype}"));
    assert_eq!(
        told(&factory),
        ["[space o.org]: no max_machines and no processors_limit: the cloud's quota counts"]
    );
    factory.conf("space", &format!("{cloud}max_machines = 2\n{machinetype}"));
    assert_eq!(told(&factory), [""; 0]);
}

#[test]
fn machines_of_a_space_that_is_not_configured_are_told() {
    let factory = Factory::with_space("", "");
    for (name, space) in [
        ("vcycle-a-1", "lost.org"),
        ("vcycle-a-2", SPACE),
        ("vcycle-a-3", "lost.org"),
    ] {
        let dir = factory.state(&format!("machines/{name}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("space_name"), space).unwrap();
    }
    fs::write(factory.state("machines/vcycle-a-3/stopped"), "1").unwrap();
    assert_eq!(
        told(&factory),
        [
            "[space lost.org] is not configured: its 1 machine(s) on file are left alone, and nobody ends them"
        ]
    );
}
