//! Zones, flavors, security groups, networks and volumes.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::factory::{Factory, Space};
use super::life::all_running;
use super::proxy::Proxy;
use super::{Stage, scenario, text};

#[test]
fn machines_spread_over_the_zones_and_pass_over_one_that_is_not_there() {
    scenario("zones", async |stage| {
        let zones = stage.site.availability_zones.as_slice();
        let [first, second, ..] = zones else {
            println!("skipped: zones: the file has less than two availability_zones");
            return;
        };
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let mut space = Space::new(stage, "zones.example.org", 6, &machinetypes);
        space.options += &format!("zones = {first} vcycle-test-nowhere {second}\n");
        let factory = Factory::start(stage, &space);
        all_running(stage, &factory, space.name, 6, 90).await;
        let servers = stage.servers(space.name).await;
        let mut used = Vec::new();
        for server in &servers {
            let zone = text(server, "OS-EXT-AZ:availability_zone");
            let on_file = factory.machine(text(server, "name"), "zone");
            assert_eq!(on_file.as_deref(), Some(zone));
            used.push(zone);
        }
        // A cycle may begin with any zone, so that which are used is drawn.
        assert!(used.iter().all(|zone| zone == first || zone == second));
        // The one that is wrong was asked for at most once, and is named with its option.
        let told = factory.logged(&["in zone vcycle-test-nowhere"]);
        assert!(told.len() <= 1, "{told:?}");
        for line in &told {
            let words = "The requested availability zone is not available";
            assert!(line.contains("WARN") && line.contains(words), "{line}");
            assert!(line.contains("zones has"), "{line}");
        }
        assert_eq!(factory.complaints(), told);
        println!("zones: {used:?}; {told:?}");
    });
}

#[test]
fn a_flavor_without_a_host_gives_way_to_the_next_and_is_not_asked_for_again() {
    scenario("the next flavor", async |stage| {
        if !stage.site.flavors.contains_key("impossible") {
            println!("skipped: the next flavor: the file has no flavor \"impossible\"");
            return;
        }
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [(
            "job",
            "fizzle_seconds = 600\nflavor_name = impossible small\n",
        )];
        let mut space = Space::new(stage, "fallback.example.org", 4, &machinetypes);
        space.auth_url = &url;
        if let [first, second, ..] = stage.site.availability_zones.as_slice() {
            space.options += &format!("zones = {first} {second}\n");
        }
        let factory = Factory::start(stage, &space);
        factory
            .until("four machines of the next flavor", 90, async || {
                let servers = stage.servers(space.name).await;
                let running =
                    |server: &&Value| factory.time(text(server, "name"), "started").is_some();
                (servers.len() == 4 && servers.iter().all(|s| running(&s))).then_some(())
            })
            .await;
        factory.more_passes(5).await;
        // Each zone was tried with the first flavor, in one request or in several of one pass, and
        // then left alone.
        let impossible = text(&stage.site.flavors["impossible"], "id").to_owned();
        let creates = proxy.creates();
        let (first, next): (Vec<&Value>, Vec<&Value>) = creates
            .iter()
            .partition(|c| c["server"]["flavorRef"] == impossible.as_str());
        let zones: BTreeSet<Option<&str>> = first
            .iter()
            .map(|c| c["server"]["availability_zone"].as_str())
            .collect();
        let tried = first.len();
        let expected = stage.site.availability_zones.len().clamp(1, 2);
        assert_eq!(zones.len(), expected, "{creates:?}");
        // In the passes before the first failure was known, and not after.
        assert!(tried <= 4 * expected, "{tried} tries\n{}", factory.tail());
        let last = creates.iter().rev().take(next.len());
        for create in last {
            assert!(create["server"]["flavorRef"] != impossible.as_str());
        }
        assert_eq!(next.len(), 4, "{creates:?}");
        // The cloud's trouble is no abort, and nobody waits for it.
        assert_eq!(factory.last_abort("job"), None);
        let failed = factory.logged(&["WARN", "never ran", "No valid host"]);
        assert_eq!(failed.len(), tried, "{}", factory.tail());
        let told = factory.logged(&["no room for flavor impossible", "not asked for there until"]);
        assert_eq!(told.len(), expected, "{told:?}\n{}", factory.tail());
        println!("the next flavor: {tried} tries in {zones:?}; {}", told[0]);
    });
}

/// What Neutron made for a scenario; removed with its end.
struct Extras {
    network: String,
    group: String,
}

const EXTRA: &str = "vcycle-test-placing";

async fn neutron(stage: &Stage, method: Method, path: &str, body: Option<Value>) -> Value {
    let network = stage.user.network.as_ref().unwrap();
    let url = format!("{network}/{path}");
    let (status, answer) = stage.user.ask(method, &url, body).await;
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

impl Extras {
    async fn make(stage: &Stage) -> Self {
        Self::remove(stage).await;
        let network = neutron(
            stage,
            Method::POST,
            "networks",
            Some(json!({"network": {"name": EXTRA}})),
        )
        .await;
        let network = text(&network["network"], "id").to_owned();
        let subnet = json!({"subnet": {"network_id": network, "ip_version": 4,
            "cidr": "10.99.0.0/24", "name": EXTRA}});
        neutron(stage, Method::POST, "subnets", Some(subnet)).await;
        let group = json!({"security_group": {"name": EXTRA, "description": "of a test"}});
        neutron(stage, Method::POST, "security-groups", Some(group)).await;
        Self {
            network,
            group: EXTRA.to_owned(),
        }
    }

    /// Also what a run left behind that was killed.
    async fn remove(stage: &Stage) {
        for (path, member) in [
            ("networks", "networks"),
            ("security-groups", "security_groups"),
        ] {
            let found = neutron(stage, Method::GET, &format!("{path}?name={EXTRA}"), None).await;
            for thing in found[member].as_array().unwrap() {
                let url = format!(
                    "{}/{path}/{}",
                    stage.user.network.as_ref().unwrap(),
                    text(thing, "id")
                );
                // Ports of servers that have just gone take a moment.
                for _ in 0..30 {
                    let (status, _) = stage.user.ask(Method::DELETE, &url, None).await;
                    if status < 300 || status == 404 {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}

#[test]
fn security_groups_and_the_network_are_those_of_the_configuration() {
    scenario("security groups and networks", async |stage| {
        if stage.user.network.is_none() {
            println!("skipped: security groups and networks: there is no network service");
            return;
        }
        let extras = Extras::make(stage).await;
        let played = std::panic::AssertUnwindSafe(play_with(stage, &extras));
        let outcome = futures_util::FutureExt::catch_unwind(played).await;
        super::delete_ours(&stage.user).await;
        Extras::remove(stage).await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn play_with(stage: &Stage, extras: &Extras) {
    let machinetypes = [("job", "fizzle_seconds = 600\n")];
    let space = |name: &'static str, options: String| {
        let mut space = Space::new(stage, name, 1, &machinetypes);
        space.options += &options;
        space
    };
    // Two groups, and the second network.
    let chosen = space(
        "groups.example.org",
        format!(
            "security_groups = default {}\nnetwork_uuid = {}\n",
            extras.group, extras.network
        ),
    );
    let factory = Factory::start(stage, &chosen);
    all_running(stage, &factory, chosen.name, 1, 60).await;
    let server = &stage.servers(chosen.name).await[0];
    let groups = server["security_groups"].as_array().unwrap();
    let groups: BTreeSet<&str> = groups.iter().map(|group| text(group, "name")).collect();
    assert_eq!(groups, BTreeSet::from(["default", EXTRA]));
    let networks = server["addresses"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), [EXTRA]);
    assert_eq!(factory.complaints(), Vec::<String>::new());
    drop(factory);
    // It would take the room of the next ones.
    super::delete_ours(&stage.user).await;

    // Each value that is wrong is named, with the words of the cloud.
    let unknown = "00000000-0000-4000-8000-000000000000";
    let cases = [
        (
            "no-group.example.org",
            "security_groups = vcycle-test-nobody\n".to_owned(),
            "Unable to find security_group",
            "security_groups = vcycle-test-nobody".to_owned(),
        ),
        (
            "no-network.example.org",
            format!("network_uuid = {unknown}\n"),
            "could not be found",
            format!("network_uuid = {unknown}"),
        ),
        (
            "odd-network.example.org",
            "network_uuid = my-net\n".to_owned(),
            "not in proper format",
            "network_uuid = my-net".to_owned(),
        ),
        (
            "no-zone.example.org",
            "zones = vcycle-test-nowhere\n".to_owned(),
            "availability zone is not available",
            "zones has".to_owned(),
        ),
    ];
    for (name, options, words, option) in cases {
        let wrong = space(name, options);
        let factory = Factory::start(stage, &wrong);
        let told = factory
            .until("the option that is wrong", 60, async || {
                factory.logged(&["WARN", words]).pop()
            })
            .await;
        assert!(told.contains(&option), "{told}");
        println!("  {told}");
        assert_eq!(stage.servers(wrong.name).await.len(), 0);
    }
    let flavors = [(
        "job",
        "fizzle_seconds = 600\nflavor_name = vcycle-test-none\n",
    )];
    let wrong = Space::new(stage, "no-flavor.example.org", 1, &flavors);
    let factory = Factory::start(stage, &wrong);
    let told = factory
        .until("the flavor that is wrong", 60, async || {
            factory
                .logged(&["ERROR", "the cloud has no flavor vcycle-test-none"])
                .pop()
        })
        .await;
    assert!(told.contains("flavor_names"), "{told}");
    println!("  {told}");

    // With two networks and none chosen Nova does not know which.
    let neither = space("two-networks.example.org", "network_uuid =\n".to_owned());
    let factory = Factory::start(stage, &neither);
    let told = factory
        .until("that a network has to be chosen", 60, async || {
            factory.logged(&["WARN", "409"]).pop()
        })
        .await;
    assert!(told.contains("network_uuid says which"), "{told}");
    println!("  {told}");
}

#[test]
fn a_volume_needs_a_volume_service() {
    scenario("volumes", async |stage| {
        let volumes = "volume_gb_per_processor = 20\n";
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let mut space = Space::new(stage, "volumes.example.org", 1, &machinetypes);
        space.auth_url = &url;
        space.options += volumes;
        if stage.user.has_volumes {
            let factory = Factory::start(stage, &space);
            all_running(stage, &factory, space.name, 1, 300).await;
            return;
        }
        let factory = Factory::start(stage, &space);
        let told = factory
            .until("that there is no volume service", 60, async || {
                factory.logged(&["WARN", "volume_gb_per_processor"]).pop()
            })
            .await;
        assert!(told.contains("no volume service"), "{told}");
        assert_eq!(proxy.creates().len(), 0, "nothing is asked for in vain");
        println!("  {told}");
        drop(factory);

        // A cloud whose catalog promises volumes, and whose Nova finds nobody to make them: it
        // takes the request as it is, and fails on the host.
        proxy.offer_volumes();
        space.name = "promised-volumes.example.org";
        let factory = Factory::start(stage, &space);
        let told = factory
            .until("the reason of the failure", 60, async || {
                factory.logged(&["WARN", "never ran", "volumev3"]).pop()
            })
            .await;
        println!("  {told}");
        let creates = proxy.creates();
        let device = &creates[0]["server"]["block_device_mapping_v2"][0];
        assert_eq!(
            (&device["volume_size"], &device["boot_index"]),
            (&json!(20), &json!(0))
        );
        assert_eq!(creates[0]["server"].get("imageRef"), None);
        assert!(proxy.created().iter().all(|answer| *answer == 202));
        factory
            .until("the failed machine is gone", 60, async || {
                stage.servers(space.name).await.is_empty().then_some(())
            })
            .await;
        assert_eq!(
            factory.last_abort("job"),
            None,
            "a cloud's failure is no abort"
        );
    });
}
