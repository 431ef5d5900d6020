//! A space emptied by a command and filled again, and what a monitoring service hears of it.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use super::factory::{Factory, Space, now};
use super::{is_active, scenario, text};

/// Everything that has come so far.
fn heard(listener: &UdpSocket) -> Vec<Value> {
    let mut messages = Vec::new();
    let mut buffer = [0; 2000];
    while let Ok(length) = listener.recv(&mut buffer) {
        messages.push(serde_json::from_slice(&buffer[..length]).unwrap());
    }
    messages
}

#[test]
fn a_space_is_shut_down_and_filled_again_by_commands() {
    scenario("shutdown", async |stage| {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        listener
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let machinetypes = [("job", "fizzle_seconds = 1\n")];
        let mut space = Space::new(stage, "shutdown.example.org", 2, &machinetypes);
        let receiver = listener.local_addr().unwrap();
        space.options += &format!("grace_seconds = 6\nvacmon_hostport = {receiver}\n");
        let factory = Factory::start(stage, &space);
        let all_active = async || {
            let servers = stage.servers(space.name).await;
            let seen = factory.machines().len() == 2
                && factory
                    .machines()
                    .iter()
                    .all(|one| factory.time(one, "started").is_some());
            (servers.len() == 2 && servers.iter().all(is_active) && seen).then_some(servers)
        };
        let servers = factory.until("two servers", 120, all_active).await;
        let machines = factory.machines();

        let asked = now();
        let said = factory.say(&["shutdown", "--in", "0", space.name]);
        assert!(said.contains("looks at it now"), "{said}");
        let told = factory
            .until("they are told", 30, async || {
                let told = machines
                    .iter()
                    .map(|one| factory.time(one, "jobfeatures/shutdowntime_job"));
                let told: Vec<u64> = told.collect::<Option<_>>()?;
                told.iter().all(|at| *at < asked + 60).then_some(told)
            })
            .await;
        assert!(told.iter().all(|at| *at >= asked + 6), "{told:?} {asked}");
        // As the VM reads it.
        let metadata = &servers[0]["metadata"];
        let url = format!("{}/shutdowntime", text(metadata, "machinefeatures"));
        let (status, read) = factory.read(&url).await;
        assert_eq!(
            (status, told.contains(&read.parse().unwrap())),
            (200, true),
            "{read}"
        );
        factory
            .until("no server is left", 90, async || {
                stage.servers(space.name).await.is_empty().then_some(())
            })
            .await;
        for (machine, told) in machines.iter().zip(&told) {
            assert!(factory.time(machine, "deleted").unwrap() > *told);
            let message = factory.machine(machine, "joboutputs/shutdown_message");
            assert_eq!(message.as_deref(), Some("700 Passed shutdowntime"));
        }
        factory
            .until("it is said that it is empty", 30, async || {
                factory.logged(&["has no machines left"]).pop()
            })
            .await;
        factory.more_passes(3).await;
        assert!(stage.servers(space.name).await.is_empty());
        let rule = &factory.plan(&[space.name])["report"]["machinetypes"]["job"]["stopped_by"];
        assert_eq!(
            (&rule["rule"], &rule["ordered"]),
            (&"shutdown_time".into(), &true.into())
        );
        let counted = factory.say(&["apel-sync"]);
        assert!(counted.contains("\nNumberOfJobs: 2\n"), "{counted}");

        let messages = heard(&listener);
        let of = |kind: &str| {
            let messages = messages
                .iter()
                .filter(|message| message["message_type"] == kind);
            messages.collect::<Vec<_>>()
        };
        let mut ends: Vec<&str> = of("machine_status")
            .iter()
            .map(|one| text(one, "machine"))
            .collect();
        ends.sort_unstable();
        assert_eq!(ends, machines);
        assert!(
            of("factory_status")
                .iter()
                .any(|one| one["running_machines"] == 2)
        );
        assert!(
            of("machinetype_status")
                .iter()
                .any(|one| one["shutdown_message"] == "700 Passed shutdowntime")
        );

        factory.say(&["shutdown", "--cancel"]);
        factory
            .until("it is filled again", 120, async || {
                let servers = stage.servers(space.name).await;
                (servers.len() == 2 && servers.iter().all(is_active)).then_some(())
            })
            .await;
        assert_eq!(factory.complaints(), Vec::<String>::new());
    });
}
