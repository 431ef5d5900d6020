//! `vcycled health`, as a monitoring system calls it.

use super::factory::{Factory, PKI, SPACE, until};
use crate::pki::For;

#[test]
fn it_says_how_it_is_by_word_code_and_figures() {
    let factory = Factory::with_space("max_machines = 2", "");
    let unknown = factory.run(&["health"]);
    assert_eq!(unknown.code, Some(3), "nothing was ever here: {unknown:?}");
    assert!(unknown.out.starts_with("VCYCLE UNKNOWN: "), "{unknown:?}");
    let name = crate::pki::name(&[("CN", "localhost")]);
    let host = PKI.ca.issue(&name, For::Servers, (-300, 30 * 86_400));
    host.write(&factory.path("etc/host.pem"));
    let daemon = factory.start();
    let well = until("all is well", || {
        let health = factory.run(&["health"]);
        health
            .out
            .contains("2 machine(s) running")
            .then_some(health)
    });
    assert_eq!(well.code, Some(0), "{well:?}");
    let (word, data) = well.out.trim_end().split_once(" |").unwrap();
    assert_eq!(word, "VCYCLE OK: 1 space(s), 2 machine(s) running");
    for figure in [
        format!(" '{SPACE} machines'=2;;;0;2"),
        format!(" '{SPACE} running'=2;;;0;2"),
        format!(" '{SPACE} created'=2c"),
        "s;300;900;0 ".to_owned(),
    ] {
        assert!(data.contains(&figure), "{figure} in {data}");
    }
    let elsewhere = factory.run(&["health", "--space", "other.org"]);
    assert_eq!(elsewhere.code, Some(2), "{elsewhere:?}");

    // The cloud goes away: by the thresholds that were asked for, first a warning.
    let dead = format!(
        "[space {SPACE}]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
         username = u\npassword_base64 = cGFzc3dvcmQ=\nmax_machines = 4\n{}",
        factory.machinetype(SPACE, "atlas", "")
    );
    factory.conf("space", &dead);
    let ask = |warning: &str, critical: &str| {
        factory.run(&["health", "--warning", warning, "--critical", critical])
    };
    let late = until("it is late", || {
        let late = ask("2", "1000");
        (late.code == Some(1) && late.out.contains("127.0.0.1:1")).then_some(late)
    });
    let said = "VCYCLE WARNING: space example.org: no complete cycle for ";
    assert!(late.out.starts_with(said), "{late:?}");
    let late = ask("1", "2");
    assert_eq!(late.code, Some(2), "{late:?}");
    factory.conf(
        "space",
        &dead.replace("max_machines = 4", "max_machines = many"),
    );
    until("the configuration is told, too", || {
        let bad = ask("1000", "1000");
        let told = bad
            .out
            .starts_with("VCYCLE WARNING: the configuration has 1 error(s)");
        (told && bad.code == Some(1)).then_some(())
    });
    // Cycles that fail again and again are told before the space is late.
    factory.conf("space", &dead);
    let failing = until("three cycles have failed", || {
        let told = ask("1000", "1000");
        told.out
            .contains("cycle(s) failed, the first ")
            .then_some(told)
    });
    assert_eq!(failing.code, Some(1), "{failing:?}");
    assert!(failing.out.contains("127.0.0.1:1"), "{failing:?}");
    let living =
        factory.space(SPACE, "max_machines = 2") + &factory.machinetype(SPACE, "atlas", "");
    factory.conf("space", &living);
    // The certificate is looked at anew in each cycle.
    let certified = |days: i64| {
        let name = crate::pki::name(&[("CN", "localhost")]);
        let validity = (-300, days * 86_400);
        let host = PKI.ca.issue(&name, For::Servers, validity);
        host.write(&factory.path("etc/host.pem"));
    };
    for (days, code, said) in [
        (30, 0, "VCYCLE OK: "),
        (
            10,
            1,
            "VCYCLE WARNING: the certificate of the HTTPS server runs out in ",
        ),
        (
            2,
            2,
            "VCYCLE CRITICAL: the certificate of the HTTPS server runs out in ",
        ),
    ] {
        certified(days);
        until("the certificate is judged", || {
            let told = ask("1000", "1000");
            (told.out.starts_with(said) && told.code == Some(code)).then_some(())
        });
    }
    // One that cannot be used is told, and is tried again: what was refused for its rights is taken
    // once it may be read, which changes nothing of the file but that.
    factory.write("etc/host.pem", "no certificate");
    until("the certificate is refused", || {
        let told = ask("1000", "1000");
        let kept = "host.pem: no certificate in it; keeping the certificate in use until now";
        told.out.contains(kept).then_some(())
    });
    let checked = factory.run(&["check"]);
    assert!(
        !checked.err.contains("has expired"),
        "only a good one is judged: {checked:?}"
    );
    certified(-1);
    until("the new one is used", || {
        let told = ask("1000", "1000").out;
        (told.contains("ran out") && !told.contains("keeping")).then_some(())
    });
    let checked = factory.run(&["check"]);
    assert!(
        checked.err.contains("host.pem has expired at 20"),
        "{checked:?}"
    );
    daemon.end();
    let gone = factory.run(&["health"]);
    assert_eq!(gone.code, Some(2), "{gone:?}");
    assert!(
        gone.out.starts_with("VCYCLE CRITICAL: no daemon runs on "),
        "{gone:?}"
    );
}
