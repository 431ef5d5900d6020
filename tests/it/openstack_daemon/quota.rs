//! More machines than the quota allows.

use super::factory::{Factory, Space};
use super::proxy::Proxy;
use super::{Bystander, is_active, scenario, servers_of};

#[test]
fn what_exceeds_the_quota_is_removed_and_not_asked_for_again_and_again() {
    scenario("quota exceeded", async |stage| {
        let site = &stage.site;
        let mut projects = site.projects.values();
        let small = projects.find(|project| project.quota.cores == Some(4));
        let (Some(small), true) = (small, site.flavors.contains_key("large")) else {
            println!(
                "skipped: quota exceeded: no project with quota.cores 4, or no flavor \"large\""
            );
            return;
        };
        let user = Bystander::log_in_as(site, &site.user, &site.password, &small.project).await;
        let image = match &site.image {
            Some(image) => image.clone(),
            None => user.image().await,
        };
        // The cloud is made to hide its limits, as some do whose quotas are those of a tree of
        // projects: then only its refusals tell.
        let proxy = Proxy::start(stage).await;
        proxy.hide_limits();
        let url = proxy.auth_url();
        let machinetypes = [("big", "fizzle_seconds = 600\nflavor_name = large\n")];
        let mut space = Space::new(stage, "quota.example.org", 0, &machinetypes);
        space.auth_url = &url;
        space.project = &small.project;
        space.image = &image;
        space.options = "max_machines = 40\n".to_owned();
        let factory = Factory::start(stage, &space);
        // Four of four processors each are asked for at once. One fits; but Nova may accept several
        // and then find each of them too many.
        factory
            .until("at most one machine, and that running", 90, async || {
                let servers = servers_of(&user, space.name).await;
                let told = !factory
                    .logged(&["WARN", "Quota exceeded for cores"])
                    .is_empty();
                let settled = servers.len() <= 1 && servers.iter().all(is_active);
                (told && settled).then_some(())
            })
            .await;
        // From here on it may try now and then, and must not do so in every pass.
        let tries = proxy.creates().len();
        factory.more_passes(8).await;
        let more = proxy.creates().len() - tries;
        assert!(more <= 4, "{more} more tries\n{}", factory.tail());
        assert!(tries + more <= 12, "{}", factory.tail());

        // What was accepted and then had no room has ended in ERROR, and been deleted.
        let left = servers_of(&user, space.name).await.len();
        let failed = factory
            .logged(&["never ran", "the cloud gave up on it"])
            .len();
        let answers = proxy.created();
        let accepted = answers.iter().filter(|answer| answer.is_success()).count();
        assert_eq!(left + failed, accepted, "{}", factory.tail());
        assert_eq!(proxy.deletes(), failed, "{}", factory.tail());
        let unknown: Vec<String> = factory
            .machines()
            .into_iter()
            .filter(|machine| factory.machine(machine, "uuid").is_none())
            .collect();
        assert_eq!(
            unknown,
            Vec::<String>::new(),
            "a refusal leaves no directory"
        );
        let words = factory.logged(&["WARN", "Quota exceeded for cores"]);
        println!(
            "quota exceeded: {} requests, {accepted} accepted, {left} left; {}",
            answers.len(),
            words[0]
        );
    });
}
