//! A daemon that is killed, or left without an answer, while it asks for a machine.

use super::factory::{Factory, Space, now};
use super::life::all_running;
use super::proxy::{Manner, Proxy};
use super::{scenario, text};

#[test]
fn killed_between_create_and_answer_it_adopts_the_machine() {
    scenario("kill -9 before the answer", async |stage| {
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let mut space = Space::new(stage, "crash.example.org", 2, &machinetypes);
        space.auth_url = &url;
        proxy.set(Manner::WithholdCreates);
        let factory = Factory::start(stage, &space);
        factory
            .until("Nova's answer", 60, async || {
                (proxy.created().len() == 1).then_some(())
            })
            .await;
        factory.kill();
        let machines = factory.machines();
        let [machine] = machines.as_slice() else {
            panic!("one directory, made before the cloud was asked: {machines:?}");
        };
        assert_eq!(factory.machine(machine, "uuid"), None);
        let servers = stage.servers(space.name).await;
        assert_eq!(servers.len(), 1);
        assert_eq!(text(&servers[0], "name"), machine);

        // Every look of the new life has to be the first pass that finds it.
        proxy.set(Manner::Faithful);
        factory.run();
        let running = all_running(stage, &factory, space.name, 2, 60).await;
        let adopted = running
            .iter()
            .find(|server| text(server, "name") == machine);
        let id = text(adopted.unwrap(), "id");
        assert_eq!(id, text(&servers[0], "id"), "the same server, not a second");
        assert_eq!(factory.machine(machine, "uuid").as_deref(), Some(id));
        let features = factory.machine(machine, "jobfeatures/job_id");
        assert_eq!(features.as_deref(), Some(id));
        assert_eq!(proxy.creates().len(), 2);
        assert_eq!(factory.machines().len(), 2);
        assert_eq!(factory.complaints(), Vec::<String>::new());
    });
}

#[test]
fn a_lost_answer_is_not_asked_for_again() {
    scenario("an answer lost on its way", async |stage| {
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let mut space = Space::new(stage, "lost.example.org", 1, &machinetypes);
        space.auth_url = &url;
        proxy.set(Manner::BreakCreates);
        let factory = Factory::start(stage, &space);
        let servers = all_running(stage, &factory, space.name, 1, 60).await;
        factory.more_passes(2).await;
        assert_eq!(proxy.creates().len(), 1, "{}", factory.tail());
        let name = text(&servers[0], "name");
        assert_eq!(
            factory.machine(name, "uuid").as_deref(),
            servers[0]["id"].as_str()
        );
        assert_eq!(
            factory.logged(&["WARN", "it may exist"]).len(),
            1,
            "{}",
            factory.tail()
        );
        assert_eq!(factory.complaints().len(), 1, "{}", factory.tail());
    });
}

#[test]
fn a_request_that_never_arrived_is_closed_as_failed() {
    scenario("kill -9 before the request arrives", async |stage| {
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let mut space = Space::new(stage, "swallowed.example.org", 1, &machinetypes);
        space.auth_url = &url;
        proxy.set(Manner::SwallowCreates);
        let factory = Factory::start(stage, &space);
        factory
            .until("the request", 60, async || {
                (!proxy.creates().is_empty()).then_some(())
            })
            .await;
        factory.kill();
        let machine = factory.machines().remove(0);
        assert_eq!(stage.servers(space.name).await.len(), 0);

        // It may still come: its place is kept, and nothing is said about it.
        proxy.set(Manner::Faithful);
        factory.run();
        factory.more_passes(4).await;
        assert_eq!(proxy.creates().len(), 1, "{}", factory.tail());
        assert_eq!(factory.time(&machine, "finished"), None);
        assert_eq!(factory.complaints(), Vec::<String>::new());
        let plan = factory.plan(&[space.name]);
        let report = &plan["report"]["machinetypes"]["job"];
        assert_eq!(report["stopped_by"]["rule"], "space_machines", "{plan}");
        assert_eq!(report["starting"], 1, "{plan}");

        // Eleven minutes later.
        factory.kill();
        let created = factory.machine_file(&machine, "created");
        std::fs::write(&created, (now() - 660).to_string()).unwrap();
        factory.run();
        factory
            .until("the end of the attempt", 60, async || {
                factory.time(&machine, "finished").map(|_| ())
            })
            .await;
        let said = factory.logged(&["never ran", "never appeared on the cloud"]);
        assert_eq!(said.len(), 1, "{}", factory.tail());
        assert_eq!(factory.records("apel-archive"), Vec::<String>::new());
        assert_eq!(factory.last_abort("job"), None);
        // The failure paces the next one. Memory of it ends with this life of the daemon.
        factory.more_passes(2).await;
        assert_eq!(proxy.creates().len(), 1, "{}", factory.tail());
        factory.kill();
        factory.run();
        let servers = all_running(stage, &factory, space.name, 1, 60).await;
        assert_ne!(text(&servers[0], "name"), machine);
    });
}
