//! Trouble with the cloud that is no fault of the machines: tokens, flavors, outages of a create.

use serde_json::Value;

use super::factory::{Factory, Space, now};
use super::life::all_running;
use super::proxy::Proxy;
use super::{scenario, text};

#[test]
fn a_token_revoked_in_mid_run_is_renewed_without_a_word() {
    scenario("token revoked", async |stage| {
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [("job", "fizzle_seconds = 600\n")];
        let mut space = Space::new(stage, "tokens.example.org", 2, &machinetypes);
        space.auth_url = &url;
        let factory = Factory::start(stage, &space);
        factory
            .until("the first machine", 60, async || {
                (!proxy.created().is_empty()).then_some(())
            })
            .await;
        assert_eq!(proxy.tokens(), 1);
        // Once while machines are being made, once when nothing changes any more.
        proxy.revoke().await;
        all_running(stage, &factory, space.name, 2, 60).await;
        factory.more_passes(2).await;
        assert_eq!(proxy.tokens(), 2, "{}", factory.tail());
        proxy.revoke().await;
        factory.more_passes(3).await;
        assert_eq!(
            proxy.tokens(),
            3,
            "one new token for all requests of a pass"
        );
        // One that was refused for its token may have been sent again.
        assert_eq!(proxy.created(), [202, 202], "{}", factory.tail());
        assert_eq!(factory.complaints(), Vec::<String>::new());
    });
}

#[test]
fn a_flavor_that_never_fits_waits_longer_each_time_and_starves_nobody() {
    scenario("a flavor that never fits", async |stage| {
        if !stage.site.flavors.contains_key("impossible") {
            println!("skipped: the file has no flavor \"impossible\"");
            return;
        }
        let proxy = Proxy::start(stage).await;
        let url = proxy.auth_url();
        let machinetypes = [
            (
                "never",
                "fizzle_seconds = 600\nflavor_name = impossible\ntarget_share = 100\n",
            ),
            ("works", "fizzle_seconds = 600\n"),
        ];
        let mut space = Space::new(stage, "impossible.example.org", 3, &machinetypes);
        space.auth_url = &url;
        let factory = Factory::start(stage, &space);
        factory
            .until(
                "three machines that work and nothing else",
                90,
                async || {
                    let servers = stage.servers(space.name).await;
                    let works = |s: &&Value| s["metadata"]["machinetype"] == "works";
                    let all = servers.len() == 3 && servers.iter().filter(works).count() == 3;
                    let running = servers
                        .iter()
                        .all(|s| factory.time(text(s, "name"), "started").is_some());
                    (all && running).then_some(())
                },
            )
            .await;
        let failed = factory.logged(&["WARN", "never ran", "No valid host"]);
        assert!(!failed.is_empty(), "{}", factory.tail());
        let tries = || {
            let creates = proxy.creates();
            let never = |c: &&Value| c["server"]["metadata"]["machinetype"] == "never";
            creates.iter().filter(never).count()
        };
        // Those of the passes before the first failure was known, and no more for a minute.
        assert!(
            (1..=4).contains(&tries()),
            "{} tries\n{}",
            tries(),
            factory.tail()
        );
        let before = (tries(), now());
        factory.more_passes(5).await;
        assert!(
            now() - before.1 < 60,
            "the machine is too slow for this test"
        );
        assert_eq!(tries(), before.0, "{}", factory.tail());
        assert_eq!(
            factory.last_abort("never"),
            None,
            "a cloud's failure is no abort"
        );
        assert_eq!(factory.records("apel-archive"), Vec::<String>::new());
    });
}
