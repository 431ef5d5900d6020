//! Clouds that are down, and those beside them that are not.

use std::net::TcpListener;

use super::factory::{Factory, until};

/// A space on an OpenStack at `url`.
fn openstack(factory: &Factory, name: &str, url: &str) -> String {
    let space = format!(
        "[space {name}]\napi = openstack\nurl = {url}\ntenancy_name = t\nusername = u\n\
         password_base64 = cGFzc3dvcmQ=\nmax_machines = 4\n"
    );
    space + &factory.machinetype(name, "atlas", "")
}

fn simulated(factory: &Factory, name: &str) -> String {
    factory.space(name, "max_machines = 4") + &factory.machinetype(name, "atlas", "")
}

#[test]
fn dead_clouds_delay_no_other_and_are_told_once() {
    let factory = Factory::new();
    // The system accepts for a listener that never does; nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}/v3", silent.local_addr().unwrap());
    factory.conf("live", &simulated(&factory, "live.org"));
    factory.conf(
        "refusing",
        &openstack(&factory, "refusing.org", "http://127.0.0.1:1/v3"),
    );
    factory.conf("silent", &openstack(&factory, "silent.org", &silent_url));
    let daemon = factory.start();

    until("the living space is full", || {
        (factory.servers("live.org").len() == 4).then_some(())
    });
    let about = |space: &str| {
        let name = format!("space={space}");
        factory
            .log_lines("ERROR")
            .into_iter()
            .filter(move |line| line.contains(&name))
    };
    until("the refusing one is told", || about("refusing.org").next());
    // Mended by its admin, it says how many cycles it was away: each of them was silent.
    let away = || {
        let said = factory
            .log_lines("the cloud can be reached again, after ")
            .pop()?;
        let count = said.split("after ").nth(1)?.split(' ').next()?;
        count.parse::<u32>().ok()
    };
    factory.wait_for_scans("live.org", 4);
    factory.conf("refusing", &simulated(&factory, "refusing.org"));
    let cycles = until("the refusing one is back", away);
    assert!(
        cycles >= 2,
        "it was away for {cycles} cycle(s) only, which shows nothing"
    );
    until("it fills", || {
        (factory.servers("refusing.org").len() == 4).then_some(())
    });
    let lines: Vec<_> = about("refusing.org").collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("127.0.0.1:1") && lines[0].contains("refused"),
        "{lines:?}"
    );
    assert_eq!(about("silent.org").count(), 0, "it is still being asked");

    // Also a request that hangs does not keep the daemon.
    daemon.end();
}
