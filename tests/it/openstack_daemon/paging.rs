//! Fifty servers, more than a page of them, other people's among them; and then a cloud that
//! fails in every way while they run.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::factory::{Factory, Space};
use super::proxy::{Manner, Proxy};
use super::{FACTORY, MADE_BY, Stage, is_active, scenario, text};

/// Servers of ours.
const OURS: usize = 46;

#[test]
fn fifty_servers_over_pages_and_a_cloud_that_fails() {
    scenario("fifty servers, outages", async |stage| {
        let began = Instant::now();
        let foreign = make_foreign(stage).await;
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let machines = OURS + foreign.len();
        let mut space = Space::new(stage, "fifty.example.org", machines, &machinetypes);
        space.auth_url = &url;
        let factory = Factory::start(stage, &space);
        let ours = factory
            .until("all of them", 400, async || {
                let servers = stage.servers(space.name).await;
                let known = |s: &&Value| factory.time(text(s, "name"), "started").is_some();
                let all = servers
                    .iter()
                    .filter(|s| is_active(s))
                    .filter(known)
                    .count()
                    == OURS;
                assert!(servers.len() <= OURS, "{}", factory.tail());
                all.then(|| ids(&servers))
            })
            .await;
        println!(
            "fifty servers: all {} run after {:.0} s",
            OURS + foreign.len(),
            began.elapsed().as_secs_f32()
        );
        factory.more_passes(2).await;
        let plan = factory.plan(&[space.name]);
        let counts = &plan["report"]["space"];
        assert_eq!(counts["machines"], stage.present + machines, "{plan}");
        assert_eq!(
            counts["foreign_machines"],
            stage.present + foreign.len(),
            "{plan}"
        );
        assert_eq!(counts["machines_limit"], stage.present + machines, "{plan}");
        assert_eq!(factory.complaints(), Vec::<String>::new());
        let first = stage
            .user
            .get(&format!("{}/servers", stage.user.compute))
            .await;
        let page = first["servers"].as_array().unwrap().len();
        let paged = page < machines;
        if paged {
            let (first, later) = proxy.listings();
            assert!(later >= first, "{first} listings, {later} further pages");
        } else {
            println!(
                "fifty servers: pages of {page} are not exercised; lower Nova's [api] max_limit"
            );
        }

        for (manner, what) in [
            (Manner::Faithful, "connections refused"),
            (Manner::Unavailable, "503"),
            (Manner::Html, "HTML"),
            (Manner::HalfPage, "a page that breaks off"),
            (Manner::CutPage, "a page cut short"),
        ] {
            if !paged && matches!(manner, Manner::HalfPage | Manner::CutPage) {
                continue;
            }
            outage(&factory, &proxy, manner, what).await;
            assert_eq!(ids(&stage.servers(space.name).await), ours, "after {what}");
        }
        let all = stage.user.servers().await;
        for id in &foreign {
            let server = all.iter().find(|server| text(server, "id") == id).unwrap();
            assert!(is_active(server), "{server}");
        }
        assert_eq!(proxy.creates().len(), OURS);
        assert_eq!(proxy.deletes(), 0);
    });
}

/// Some bad cycles, what is said about them, and what comes after.
async fn outage(factory: &Factory, proxy: &Proxy, manner: Manner, what: &str) {
    let before = factory.complaints().len();
    let passes = factory.passes();
    let (requests, failed) = (proxy.requests(), factory.failed_passes());
    if manner == Manner::Faithful {
        proxy.down();
    } else {
        proxy.set(manner);
    }
    let wait = format!("three bad passes with {what}");
    factory
        .until(&wait, 90, async || {
            (factory.failed_passes() >= failed + 3).then_some(())
        })
        .await;
    // One pass may have been under way.
    assert!(factory.passes() <= passes + 1, "{what}\n{}", factory.tail());
    let said = factory.complaints().split_off(before);
    assert_eq!(said.len(), 1, "{what}: {said:#?}");
    assert!(
        said[0].contains("nothing is created or destroyed"),
        "{what}: {said:?}"
    );
    println!(
        "{what}: {} requests, and {}",
        proxy.requests() - requests,
        said[0]
    );
    if manner == Manner::Faithful {
        proxy.up().await;
    } else {
        proxy.set(Manner::Faithful);
    }
    factory.more_passes(2).await;
    let over = factory.logged(&["the cloud can be reached again"]);
    assert!(!over.is_empty(), "{what}\n{}", factory.tail());
    assert_eq!(
        factory.complaints().len(),
        before + 1,
        "{what}\n{}",
        factory.tail()
    );
}

fn ids(servers: &[Value]) -> BTreeSet<String> {
    servers
        .iter()
        .map(|server| text(server, "id").to_owned())
        .collect()
}

/// Four servers that are not the daemon's, though their names look like it: names that we do not
/// make, a perfect name without marks, one with another factory's marks, and one with marks of
/// another space.
async fn make_foreign(stage: &Stage) -> BTreeSet<String> {
    let marks = |space: &str, manager: &str| json!({"space": space, "manager": manager, "machinetype": "job", MADE_BY: FACTORY});
    let ours = "fifty.example.org";
    let servers = [
        ("vcycle-test-somebody-else", json!({MADE_BY: FACTORY})),
        ("vcycle-job-0123456789", json!({MADE_BY: FACTORY})),
        ("vcycle-job-abcdefghij", marks(ours, "another.example.org")),
        (
            "vcycle-job-zyxwvutsrq",
            marks("another.example.org", FACTORY),
        ),
    ];
    let flavors = stage
        .user
        .get(&format!("{}/flavors", stage.user.compute))
        .await;
    let small = flavors["flavors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["name"] == "small");
    let flavor = text(small.unwrap(), "id");
    let image = stage.image_id().await;
    futures_util::stream::iter(servers)
        .then(async |(name, metadata)| {
            let mut server =
                json!({"name": name, "flavorRef": flavor, "imageRef": image, "metadata": metadata});
            if let Some(network) = &stage.site.network_id {
                server["networks"] = json!([{"uuid": network}]);
            }
            stage.user.create(server).await
        })
        .collect()
        .await
}
