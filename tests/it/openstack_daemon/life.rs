//! The life of machines: made by shares, told their features, heard, stopped, accounted for.

use std::collections::BTreeMap;

use base64::Engine;
use serde_json::{Value, json};
use vcycle::model::CloudId;

use super::factory::{Factory, Login, Space, now};
use super::{Stage, is_active, scenario, text};

/// Waits until a space has so many servers, all of them active and known to run.
pub async fn all_running(
    stage: &Stage,
    factory: &Factory,
    space: &str,
    count: usize,
    seconds: u64,
) -> Vec<Value> {
    let what = format!("{count} running machine(s) in {space}");
    factory
        .until(&what, seconds, async || {
            let servers = stage.servers(space).await;
            assert!(servers.len() <= count, "{}", factory.tail());
            let known = |server: &&Value| factory.time(text(server, "name"), "started").is_some();
            let running = servers
                .iter()
                .filter(|s| is_active(s))
                .filter(known)
                .count();
            (running == count).then_some(servers)
        })
        .await
}

#[test]
fn the_space_is_filled_by_shares_and_its_machines_are_served() {
    scenario("fill by shares, serve features", async |stage| {
        let options = "fizzle_seconds = 600\nhs06 = 10\n";
        let two = format!("{options}target_share = 2\n");
        let machinetypes = [("two", two.as_str()), ("one", options)];
        let space = Space::new(stage, "shares.example.org", 6, &machinetypes);
        let factory = Factory::start(stage, &space);
        let servers = all_running(stage, &factory, space.name, 6, 120).await;
        let of = |kind: &str| {
            servers
                .iter()
                .filter(|s| s["metadata"]["machinetype"] == kind)
                .count()
        };
        assert_eq!((of("two"), of("one")), (4, 2), "{}", factory.tail());
        factory.more_passes(3).await;
        let ids = |servers: &[Value]| -> Vec<String> {
            let mut ids: Vec<_> = servers.iter().map(|s| text(s, "id").to_owned()).collect();
            ids.sort();
            ids
        };
        assert_eq!(
            ids(&stage.servers(space.name).await),
            ids(&servers),
            "no more, no other"
        );
        for server in &servers {
            check_server(stage, &factory, server, space.name).await;
        }
        let plan = factory.plan(&[space.name]);
        assert_eq!(plan["creates"], json!([]), "{plan}");
        assert_eq!(plan["deletes"], json!([]), "{plan}");
        let stopped = &plan["report"]["machinetypes"]["one"]["stopped_by"]["rule"];
        assert_eq!(stopped, "space_machines", "{plan}");
        assert_eq!(factory.complaints(), Vec::<String>::new());
        check_served(stage, &factory, &servers[0]).await;
    });
}

/// What Nova has been told of a machine.
async fn check_server(stage: &Stage, factory: &Factory, server: &Value, space: &str) {
    let name = text(server, "name");
    let metadata = &server["metadata"];
    let kind = text(metadata, "machinetype");
    assert!(name.starts_with(&format!("vcycle-{kind}-")), "{name}");
    assert_eq!(text(metadata, "name"), name);
    assert_eq!(text(metadata, "space"), space);
    for directory in ["machinefeatures", "jobfeatures", "joboutputs"] {
        let url = text(metadata, directory);
        assert!(url.starts_with("https://localhost:"), "{url}");
        assert!(
            url.ends_with(&format!("/machines/{name}/{directory}")),
            "{url}"
        );
    }
    assert!(text(server, "key_name").starts_with("vcycle-"));
    assert_eq!(
        factory.machine(name, "uuid").as_deref(),
        Some(text(server, "id"))
    );
    assert_eq!(
        factory.machine(name, "zone").as_deref(),
        server["OS-EXT-AZ:availability_zone"].as_str()
    );
    let expected = format!(
        "#!/bin/sh\necho I am {name} of {kind} in {space}\n\
         echo my features are at {}, my queue is test\n",
        text(metadata, "machinefeatures")
    );
    assert_eq!(
        factory.machine(name, "user_data").as_deref(),
        Some(expected.as_str())
    );
    if let Some(admin) = &stage.admin {
        let url = format!("{}/servers/{}", admin.compute, text(server, "id"));
        let kept = admin.get(&url).await;
        let kept = text(&kept["server"], "OS-EXT-SRV-ATTR:user_data");
        let kept = base64::engine::general_purpose::STANDARD
            .decode(kept)
            .unwrap();
        assert_eq!(String::from_utf8(kept).unwrap(), expected);
    }
}

/// What a machine reads at the URLs in its metadata, and what it can write.
async fn check_served(stage: &Stage, factory: &Factory, server: &Value) {
    let flavor = stage
        .user
        .get(&format!("{}/flavors/detail", stage.user.compute))
        .await;
    let small = flavor["flavors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["name"] == "small");
    let processors = small.unwrap()["vcpus"].to_string();
    let name = text(server, "name");
    let url = |key: &str| {
        format!(
            "{}/{key}",
            text(&server["metadata"], key.split('/').next().unwrap())
                .rsplit_once('/')
                .unwrap()
                .0
        )
    };
    let created = factory.time(name, "created").unwrap();
    let down = (created + 7200).to_string();
    let expected = BTreeMap::from([
        ("machinefeatures/total_cpu", processors.clone()),
        ("machinefeatures/hs06", "10".to_owned()),
        ("machinefeatures/shutdowntime", down.clone()),
        ("jobfeatures/allocated_cpu", processors),
        ("jobfeatures/job_id", text(server, "id").to_owned()),
        ("jobfeatures/shutdowntime_job", down),
        ("jobfeatures/jobstart_secs", created.to_string()),
        ("jobfeatures/wall_limit_secs", "7200".to_owned()),
    ]);
    for (key, value) in expected {
        assert_eq!(factory.read(&url(key)).await, (200, value), "{key}");
    }
    assert_eq!(factory.read(&url("machinefeatures/nonsense")).await.0, 404);
    let heartbeat = url("joboutputs/heartbeat");
    assert_eq!(factory.write_as_stranger(&heartbeat, "x").await, 403);
    assert_eq!(factory.write(&heartbeat, "x").await, 201);
    assert_eq!(factory.write(&heartbeat, "x").await, 200);
    assert_eq!(
        factory.machine(name, "joboutputs/heartbeat").as_deref(),
        Some("x")
    );
}

#[test]
fn silence_ends_a_machine_and_a_heartbeat_keeps_it() {
    scenario("heartbeats", async |stage| {
        let options = "fizzle_seconds = 4\nheartbeat_file = heartbeat\nheartbeat_seconds = 6\n\
                       max_machines = 1\n";
        let machinetypes = [("mute", options), ("lively", options)];
        let space = Space::new(stage, "heartbeats.example.org", 2, &machinetypes);
        let factory = Factory::start(stage, &space);
        let mut name_of = BTreeMap::new();
        let mut heartbeat = String::new();
        // Both come; one of them is heard once a look from then on, until it has lived for longer
        // than any of its times; the other is destroyed meanwhile.
        let mut look = async || {
            for server in stage.servers(space.name).await {
                let kind = text(&server["metadata"], "machinetype").to_owned();
                if kind == "lively" {
                    heartbeat = format!("{}/heartbeat", text(&server["metadata"], "joboutputs"));
                }
                name_of.insert(kind, text(&server, "name").to_owned());
            }
            if !heartbeat.is_empty() {
                let status = factory.write(&heartbeat, "alive").await;
                assert!(matches!(status, 200 | 201), "{status}");
            }
            let (mute, lively) = (name_of.get("mute")?, name_of.get("lively")?);
            factory.time(mute, "deleted")?;
            let started = factory.time(lively, "started")?;
            (now() > started + 14).then(|| (mute.clone(), lively.clone()))
        };
        let (mute, lively) = factory.until("the mute one's end", 90, &mut look).await;
        let message = |machine: &str| factory.machine(machine, "joboutputs/shutdown_message");
        assert_eq!(
            message(&mute).as_deref(),
            Some("700 Heartbeat file not created")
        );
        assert_eq!(factory.time(&lively, "deleted"), None, "{}", factory.tail());
        let lived =
            factory.time(&mute, "deleted").unwrap() - factory.time(&mute, "started").unwrap();
        assert!((4..20).contains(&lived), "{lived}");

        factory
            .until("the end of the one that fell silent", 60, async || {
                let left = stage.servers(space.name).await;
                (left.is_empty() && factory.time(&lively, "finished").is_some()).then_some(())
            })
            .await;
        assert_eq!(
            message(&lively).as_deref(),
            Some("700 Heartbeat file not updated")
        );
        assert!(factory.last_abort("mute").is_some() && factory.last_abort("lively").is_some());
        factory.more_passes(3).await;
        assert_eq!(
            factory.machines().len(),
            2,
            "nothing is made while both back off"
        );
        let plan = factory.plan(&[space.name]);
        for kind in ["mute", "lively"] {
            let why = &plan["report"]["machinetypes"][kind]["stopped_by"]["rule"];
            assert_eq!(why, "backoff", "{plan}");
        }
    });
}

#[test]
fn a_machine_stopped_from_outside_is_accounted_for_once_and_replaced() {
    scenario("stopped from outside", async |stage| {
        let machinetypes = [("job", "fizzle_seconds = 1\nhs06 = 12.5\n")];
        let space = Space::new(stage, "stopped.example.org", 1, &machinetypes);
        let factory = Factory::start(stage, &space);
        let first = all_running(stage, &factory, space.name, 1, 60)
            .await
            .remove(0);
        let (name, id) = (text(&first, "name"), text(&first, "id"));
        let started = factory.time(name, "started").unwrap();
        factory
            .until("some seconds of work", 20, async || {
                (now() > started + 3).then_some(())
            })
            .await;
        let output = format!(
            "{}/shutdown_message",
            text(&first["metadata"], "joboutputs")
        );
        assert_eq!(factory.write(&output, "200 Work completed\n").await, 201);
        stage
            .user
            .act(&CloudId::new(id), json!({"os-stop": null}))
            .await;
        factory
            .until("its record, its end and its successor", 60, async || {
                let servers = stage.servers(space.name).await;
                let replaced = servers.len() == 1 && text(&servers[0], "id") != id;
                let done = factory.time(name, "finished").is_some();
                (replaced && done).then_some(())
            })
            .await;
        let records = factory.records("apel-archive");
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(factory.records("apel-outgoing"), records);
        let stopped = factory.time(name, "stopped").unwrap();
        for field in [
            "Site: TEST-TIER".to_owned(),
            format!("LocalJobId: {id}"),
            "Queue: job".to_owned(),
            format!("WallDuration: {}", stopped - started),
            format!("StartTime: {started}\nEndTime: {stopped}"),
            "ServiceLevel: 12.5".to_owned(),
        ] {
            assert!(
                records[0].contains(&format!("\n{field}\n")),
                "{field}: {}",
                records[0]
            );
        }
        assert!(stopped > started + 2 && stopped <= now());
        let message = factory.machine(name, "joboutputs/shutdown_message");
        assert_eq!(
            message.as_deref(),
            Some("200 Work completed\n"),
            "its own message stays"
        );
        assert_eq!(factory.last_abort("job"), None, "work done is no abort");

        // The whole once more from the files: still one record.
        factory.kill();
        factory.run();
        factory.more_passes(3).await;
        assert_eq!(factory.records("apel-archive").len(), 1);
        assert_eq!(factory.complaints(), Vec::<String>::new());
    });
}

#[test]
fn a_machine_in_error_is_accounted_for_and_deleted() {
    scenario("put in ERROR", async |stage| {
        let Some(admin) = &stage.admin else {
            println!("skipped: put in ERROR: the file has no admin");
            return;
        };
        let machinetypes = [("job", "fizzle_seconds = 1\n")];
        let space = Space::new(stage, "error.example.org", 1, &machinetypes);
        let factory = Factory::start(stage, &space);
        let server = all_running(stage, &factory, space.name, 1, 60)
            .await
            .remove(0);
        let (name, id) = (text(&server, "name"), text(&server, "id"));
        let started = factory.time(name, "started").unwrap();
        factory
            .until("some seconds of work", 20, async || {
                (now() > started + 3).then_some(())
            })
            .await;
        let state = json!({"os-resetState": {"state": "error"}});
        admin.act(&CloudId::new(id), state).await;
        factory
            .until("its end", 60, async || {
                let servers = stage.servers(space.name).await;
                let gone = servers.iter().all(|server| text(server, "id") != id);
                (gone && factory.time(name, "finished").is_some()).then_some(())
            })
            .await;
        assert_eq!(factory.logged(&[name, "the cloud gave up on it"]).len(), 1);
        assert_eq!(factory.records("apel-archive").len(), 1, "it had worked");
    });
}

#[test]
fn an_application_credential_and_a_zone_will_do() {
    scenario("application credential, zones", async |stage| {
        if stage.site.application_credential_id.is_none() {
            println!("skipped: the file has no application credential");
            return;
        }
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let mut space = Space::new(stage, "zones.example.org", 1, &machinetypes);
        space.login = Login::ApplicationCredential;
        let zones = &stage.site.availability_zones;
        if !zones.is_empty() {
            space
                .options
                .push_str(&format!("zones = {}\n", zones.join(", ")));
        }
        let factory = Factory::start(stage, &space);
        let server = all_running(stage, &factory, space.name, 1, 60)
            .await
            .remove(0);
        if !zones.is_empty() {
            // Whose turn it is first is left to chance.
            let zone = text(&server, "OS-EXT-AZ:availability_zone");
            assert!(zones.iter().any(|one| one == zone), "{zone}");
            let kept = factory.machine(text(&server, "name"), "zone");
            assert_eq!(kept.as_deref(), Some(zone));
        }
        assert_eq!(factory.complaints(), Vec::<String>::new());
    });
}
