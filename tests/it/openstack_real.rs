//! The OpenStack adapter against a real OpenStack, named by `VCYCLE_TEST_OPENSTACK`.
//!
//! Without the variable these tests say that they were skipped, and pass. They make up to a few
//! machines each, and delete them again also when they fail.

use std::panic::AssertUnwindSafe;

use base64::Engine;
use futures_util::FutureExt;
use serde_json::json;
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{Cloud, CloudErrorKind};
use vcycle::config::space::OpenStackCredentials;
use vcycle::model::{CloudId, MachineState, Secret};

use super::contract::{self, Ground};
use super::openstack_site::{Bystander, site};
/// Runs a test on machines that it adds to the list, and deletes those whatever happens.
async fn with_cleanup<F: Future<Output = ()>>(
    cloud: &OpenStack,
    ground: &Ground,
    test: impl FnOnce(std::rc::Rc<std::cell::RefCell<Vec<CloudId>>>) -> F,
) {
    let made = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let outcome = AssertUnwindSafe(test(made.clone())).catch_unwind().await;
    let made = made.borrow().clone();
    contract::delete_all(cloud, ground, &made).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test]
async fn the_contract_is_kept_with_a_password() {
    let Some((site, _turn)) = site("contract, password").await else {
        return;
    };
    let ground = site.ground().await;
    contract::keeps_the_contract(&site.connect(), &ground).await;
}

#[tokio::test]
async fn the_contract_is_kept_with_an_application_credential() {
    let Some((site, _turn)) = site("contract, application credential").await else {
        return;
    };
    let Some(options) = site.with_application_credential() else {
        println!("skipped: contract: the file has no application credential");
        return;
    };
    let ground = site.ground().await;
    contract::keeps_the_contract(&site.connect_with(&options), &ground).await;
}

#[tokio::test]
async fn every_way_to_log_in_works() {
    let Some((site, _turn)) = site("logins").await else {
        return;
    };
    let mut ways = vec![site.options()];
    if site.user_domain.eq_ignore_ascii_case("default") {
        for domain in ["default", "Default"] {
            let mut options = site.options();
            options.domain = domain.to_owned();
            ways.push(options);
        }
    }
    let mut without_region = site.options();
    without_region.region = None;
    ways.push(without_region);
    let mut asking = site.options();
    if let Some(root) = site.auth_url.trim_end_matches('/').strip_suffix("/v3") {
        asking.url = url::Url::parse(root).unwrap();
        ways.push(asking);
    }
    ways.extend(site.with_application_credential());
    for options in ways {
        let cloud = site.connect_with(&options);
        let facts = cloud
            .facts()
            .await
            .unwrap_or_else(|e| panic!("{options:?}: {e}"));
        assert!(facts.flavor("small").is_some());
        cloud.list().await.unwrap();
    }
}

#[tokio::test]
async fn wrong_credentials_and_regions_are_told() {
    let Some((site, _turn)) = site("wrong logins").await else {
        return;
    };
    let mut options = site.options();
    options.credentials = OpenStackCredentials::Password {
        username: site.user.clone(),
        password: Secret::new("certainly-wrong".to_owned()),
    };
    let error = site.connect_with(&options).facts().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Auth, "{error}");
    assert!(!error.to_string().contains("certainly-wrong"));

    let mut options = site.options();
    options.region = Some("Atlantis".to_owned());
    let error = site.connect_with(&options).facts().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected, "{error}");
    assert!(error.message.contains(&site.region), "{error}");
}

#[tokio::test]
async fn what_nova_does_not_know_is_refused_in_its_own_words() {
    let Some((site, _turn)) = site("refusals").await else {
        return;
    };
    let (cloud, ground) = (site.connect(), site.ground().await);
    let mut image = contract::request(&cloud, &ground).await;
    image.image = "no-such-image".to_owned();
    let mut zone = contract::request(&cloud, &ground).await;
    zone.zone = Some("no-such-zone".to_owned());
    let mut metadata = contract::request(&cloud, &ground).await;
    metadata
        .metadata
        .insert("too long".to_owned(), "x".repeat(300));
    for (request, kind) in [
        (image, CloudErrorKind::NotFound),
        // As of one whose hosts are all down: others are tried.
        (zone, CloudErrorKind::Capacity),
        (metadata, CloudErrorKind::Rejected),
    ] {
        let error = cloud.create(&request).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        println!("{error}");
    }
}

#[tokio::test]
async fn a_machine_stopped_from_outside_is_shut_down_and_got_our_user_data_and_key() {
    let Some((site, _turn)) = site("stopped from outside").await else {
        return;
    };
    let (cloud, ground) = (site.connect(), site.ground().await);
    with_cleanup(&cloud, &ground, async |made| {
        let request = contract::request(&cloud, &ground).await;
        let id = cloud.create(&request).await.unwrap();
        made.borrow_mut().push(id.clone());
        let state = |wanted: MachineState| {
            let id = id.clone();
            move |machines: &[vcycle::model::CloudMachine]| {
                let machine = machines.iter().find(|m| m.id == id)?;
                (machine.state == wanted).then(|| machine.clone())
            }
        };
        let running =
            contract::look_until(&cloud, &ground, "running", state(MachineState::Running)).await;
        assert!(
            running.address.is_some() && running.started.is_some(),
            "{running:?}"
        );
        let bystander = Bystander::log_in(&site).await;
        let server = bystander
            .get(&format!("{}/servers/{id}", bystander.compute))
            .await;
        let key = server["server"]["key_name"].as_str().unwrap();
        assert!(key.starts_with("vcycle-"), "{key}");
        let features = &server["server"]["metadata"]["machinefeatures"];
        assert_eq!(features, "https://factory.example.org/m/machinefeatures");
        if let Some(admin) = &site.admin {
            let admin =
                Bystander::log_in_as(&site, &admin.user, &admin.password, &admin.project).await;
            let server = admin.get(&format!("{}/servers/{id}", admin.compute)).await;
            let kept = server["server"]["OS-EXT-SRV-ATTR:user_data"]
                .as_str()
                .unwrap();
            let sent = base64::engine::general_purpose::STANDARD.encode(request.user_data.reveal());
            assert_eq!(kept, sent);
        }
        bystander.act(&id, json!({"os-stop": null})).await;
        let stopped =
            contract::look_until(&cloud, &ground, "shut down", state(MachineState::Shutdown)).await;
        assert_eq!(stopped.status, "SHUTOFF");
        assert!(stopped.updated >= running.updated);
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_fits_nowhere_fails_with_the_reason() {
    let Some((site, _turn)) = site("no room").await else {
        return;
    };
    if !site.flavors.contains_key("impossible") {
        println!("skipped: no room: the file has no flavor \"impossible\"");
        return;
    }
    let (cloud, mut ground) = (site.connect(), site.ground().await);
    ground.flavor = "impossible".to_owned();
    with_cleanup(&cloud, &ground, async |made| {
        let request = contract::request(&cloud, &ground).await;
        let id = cloud.create(&request).await.unwrap();
        made.borrow_mut().push(id.clone());
        let failed = contract::look_until(&cloud, &ground, "failed", |machines| {
            let machine = machines.iter().find(|machine| machine.id == id)?;
            // Nova writes the state first, and the reason a moment later.
            let told = machine.state == MachineState::Failed && machine.fault.is_some();
            told.then(|| machine.clone())
        })
        .await;
        let fault = failed.fault.unwrap();
        assert!(fault.contains("No valid host"), "{fault}");
    })
    .await;
}

#[tokio::test]
async fn a_quota_is_told_as_one() {
    let Some((site, _turn)) = site("quota").await else {
        return;
    };
    let small = site
        .projects
        .values()
        .find(|project| project.quota.cores == Some(4));
    let (Some(small), true) = (small, site.flavors.contains_key("large")) else {
        println!(
            "skipped: quota: the file has no project with quota.cores 4, or no flavor \"large\""
        );
        return;
    };
    let mut options = site.options();
    options.project = Some(small.project.clone());
    let cloud = site.connect_with(&options);
    let mut ground = site.ground().await;
    // The image of the tests belongs to the first project.
    let bystander = Bystander::log_in_as(&site, &site.user, &site.password, &small.project).await;
    ground.image = bystander.image().await;
    ground.flavor = "large".to_owned();
    assert_eq!(cloud.facts().await.unwrap().limits.processors, Some(4));
    with_cleanup(&cloud, &ground, async |made| {
        let request = contract::request(&cloud, &ground).await;
        let id = cloud.create(&request).await.unwrap();
        made.borrow_mut().push(id.clone());
        contract::look_until(&cloud, &ground, "running", |machines| {
            let machine = machines.iter().find(|machine| machine.id == id)?;
            (machine.state == MachineState::Running).then_some(())
        })
        .await;
        let one_more = contract::request(&cloud, &ground).await;
        let error = cloud.create(&one_more).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Quota, "{error}");
        assert!(
            error
                .message
                .starts_with("403 Forbidden: Quota exceeded for cores"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_listing_of_more_than_a_page_is_complete() {
    let Some((site, _turn)) = site("paging").await else {
        return;
    };
    let Some(limit) = site.page_limit.filter(|limit| *limit <= 50) else {
        println!("skipped: paging: the file has no page_limit of at most 50");
        return;
    };
    let (cloud, ground) = (site.connect(), site.ground().await);
    with_cleanup(&cloud, &ground, async |made| {
        // One more than a page, in creations of a few at once.
        let mut wanted = Vec::new();
        for _ in 0..=limit {
            wanted.push(contract::request(&cloud, &ground).await);
        }
        for some in wanted.chunks(5) {
            let creations = some.iter().map(|request| cloud.create(request));
            for id in futures_util::future::join_all(creations).await {
                made.borrow_mut().push(id.unwrap());
            }
        }
        let made = made.borrow().clone();
        contract::look_until(&cloud, &ground, "all listed, each once", |machines| {
            let times = |id: &CloudId| machines.iter().filter(|m| m.id == *id).count();
            assert!(made.iter().all(|id| times(id) <= 1));
            made.iter().all(|id| times(id) == 1).then_some(())
        })
        .await;
        let bystander = Bystander::log_in(&site).await;
        let first = bystander
            .get(&format!("{}/servers", bystander.compute))
            .await;
        assert_eq!(
            first["servers"].as_array().unwrap().len(),
            limit,
            "page_limit is right"
        );
    })
    .await;
}
