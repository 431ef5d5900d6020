//! Logging in: versions, tokens, credentials, regions.

use super::*;

#[tokio::test]
async fn a_steady_cycle_costs_two_requests_and_the_pages() {
    let nova = Scripted::start(|seen, base| match seen.query.as_str() {
        "" if seen.is("GET", SERVERS) => page(&["a"], Some("http://other.invalid/x?marker=a")),
        "marker=a" => page(
            &["b"],
            Some("https://127.0.0.1:1/nova/v2.1/servers/detail?marker=b"),
        ),
        "marker=b" => page(&[], None),
        _ => ordinary(seen, base),
    })
    .await;
    let cloud = connect(&nova);
    let facts = cloud.facts().await.unwrap();
    let limits = CloudLimits {
        machines: Some(10),
        processors: None,
    };
    assert_eq!(facts.limits, limits);
    assert_eq!(facts.flavors[0].memory_mb, Some(8192));
    assert_eq!(facts.flavors[0].disk_gb, None);
    cloud.list().await.unwrap();
    let before = nova.seen().len();
    cloud.facts().await.unwrap();
    let machines = cloud.list().await.unwrap();
    assert_eq!(nova.seen().len() - before, 2 + 3);
    assert_eq!(machines.len(), 2);
    assert!(
        machines
            .iter()
            .all(|m| m.processors == Some(Processors::new(4)))
    );
    assert!(machines.iter().all(|m| m.state == MachineState::Running));
    let last = nova.seen().pop().unwrap();
    assert_eq!(last.header("x-auth-token"), "token-1");
    assert_eq!(
        last.header("user-agent"),
        concat!("vcycled/", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn an_old_site_logs_in_with_version_2() {
    let nova = Scripted::start(|seen, base| {
        if seen.is("POST", "/identity/v2.0/tokens") {
            let endpoint = |region: &str, path: &str| json!({"region": region, "publicURL": format!("{base}{path}"), "internalURL": "http://inside.invalid"});
            return Reply::json(200, json!({"access": {
                "token": {"id": "old-token", "issued_at": "2026-11-21T00:00:00.000000", "expires": "2026-11-22T00:00:00Z"},
                "serviceCatalog": [{"type": "compute", "endpoints": [endpoint("regionTwo", "/elsewhere"), endpoint("regionOne", "/nova/v2.1")]}]}}));
        }
        ordinary(seen, base)
    })
    .await;
    let mut options = options(&format!("{}/identity/v2.0", nova.base));
    options.region = Some("regionOne".to_owned());
    let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), times());
    assert_eq!(cloud.list().await.unwrap(), Vec::new());
    let seen = nova.seen();
    assert_eq!(seen[0].json()["auth"]["tenantName"], "atlas");
    assert_eq!(
        seen[0].json()["auth"]["passwordCredentials"]["password"],
        PASSWORD
    );
    assert_eq!(seen[1].header("x-auth-token"), "old-token");
}

#[tokio::test]
async fn the_version_is_asked_for_when_nothing_tells_it() {
    for (document, path) in [
        (
            json!({"versions": {"values": [{"id": "v3.14"}, {"id": "v2.0"}]}}),
            "/identity/v3/auth/tokens",
        ),
        (
            json!({"versions": {"values": [{"id": "v2.0"}]}}),
            "/identity/v2.0/tokens",
        ),
    ] {
        let nova = Scripted::start(move |seen, base| {
            if seen.is("GET", "/identity/") {
                return Reply::json(300, &document)
                    .with("location", "http://elsewhere.invalid/v3/");
            }
            ordinary(seen, base)
        })
        .await;
        let options = options(&format!("{}/identity/", nova.base));
        let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), times());
        let _ = cloud.list().await;
        assert_eq!(nova.seen()[1].path, path);
    }
}

#[tokio::test]
async fn a_token_is_replaced_before_its_end_and_not_sooner() {
    let nova = Scripted::start(ordinary).await;
    let clock = Clock::manual(NOW);
    let options = options(&format!("{}/identity/v3", nova.base));
    let cloud = connect_with(&options, Path::new(""), clock.clone(), times());
    let logins = || nova.count("POST", "/identity/v3/auth/tokens");
    cloud.list().await.unwrap();
    // The cloud's clock is hours behind ours; the token lives for 3600 s all the same.
    clock.set(NOW + Seconds::new(3600 - 121));
    cloud.list().await.unwrap();
    assert_eq!(logins(), 1);
    clock.set(NOW + Seconds::new(3600 - 119));
    cloud.list().await.unwrap();
    assert_eq!(logins(), 2);
}

#[tokio::test]
async fn a_token_refused_within_a_listing_is_replaced_and_the_listing_goes_on() {
    let nova = Scripted::start(|seen, base| {
        if seen.is("GET", SERVERS) && seen.query.is_empty() {
            return page(&["a"], Some("?marker=a"));
        }
        match (seen.query.as_str(), seen.header("x-auth-token")) {
            ("marker=a", "token-1") => Reply::html(401, "<p>Authentication required</p>"),
            ("marker=a", _) => page(&["b"], None),
            _ => ordinary(seen, base),
        }
    })
    .await;
    let machines = connect(&nova).list().await.unwrap();
    let ids: Vec<_> = machines.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(nova.count("POST", "/identity/v3/auth/tokens"), 2);
}

#[tokio::test]
async fn calls_that_find_the_token_revoked_share_one_new_one() {
    let nova = Scripted::start(|seen, base| match seen.header("x-auth-token") {
        "token-1" if seen.nth > 0 => Reply::json(401, "{}"),
        _ => ordinary(seen, base),
    })
    .await;
    let cloud = connect(&nova);
    cloud.list().await.unwrap();
    let many = (0..8).map(|_| cloud.list());
    for outcome in futures_util::future::join_all(many).await {
        outcome.unwrap();
    }
    assert_eq!(nova.count("POST", "/identity/v3/auth/tokens"), 2);
}

#[tokio::test]
async fn wrong_credentials_knock_once_and_their_secret_is_not_shown() {
    let nova = Scripted::start(|seen, _| {
        let echo = format!("bad password in {}", String::from_utf8_lossy(&seen.body));
        Reply::json(401, json!({"error": {"message": echo}}))
    })
    .await;
    let cloud = connect(&nova);
    let many = (0..8).map(|_| cloud.list());
    for outcome in futures_util::future::join_all(many).await {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Auth);
        let shown = format!("{error} {error:?}");
        assert!(
            shown.contains("401 Unauthorized: bad password in"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(nova.seen().len(), 1);
}

#[tokio::test]
async fn a_token_refused_twice_is_an_error_of_the_credentials() {
    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        SERVERS => Reply::json(
            401,
            json!({"error": {"message": format!("no {}", seen.header("x-auth-token"))}}),
        ),
        _ => ordinary(seen, base),
    })
    .await;
    let error = connect(&nova).list().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Auth);
    assert_eq!(error.operation, format!("GET {}{SERVERS}", nova.base));
    assert!(!error.message.contains("token-"), "{error}");
    assert_eq!(nova.count("GET", SERVERS), 2);
}

/// Keystone lists regions in any order, and administrators add and remove them.
#[tokio::test]
async fn a_new_token_leads_to_the_region_of_the_first() {
    let nova = Scripted::start(|seen, base| {
        if !seen.is("POST", "/identity/v3/auth/tokens") {
            return ordinary(seen, base);
        }
        let endpoint = |region: &str, path: &str| json!({"interface": "public", "region": region, "url": format!("{base}{path}")});
        let (first, other) = (endpoint("R1", "/nova/v2.1"), endpoint("R2", "/elsewhere"));
        let endpoints = match seen.nth {
            0 => json!([first, other]),
            1 => json!([other, first]),
            _ => json!([other]),
        };
        Reply::json(
            201,
            json!({"token": {
                "issued_at": "2026-11-21T00:00:00.000000Z", "expires_at": "2026-11-21T01:00:00.000000Z",
                "catalog": [{"type": "compute", "endpoints": endpoints}]}}),
        )
        .with("x-subject-token", format!("token-{}", seen.nth + 1))
    })
    .await;
    let clock = Clock::manual(NOW);
    let options = options(&format!("{}/identity/v3", nova.base));
    let cloud = connect_with(&options, Path::new(""), clock.clone(), times());
    cloud.list().await.unwrap();
    clock.set(NOW + Seconds::new(3600));
    cloud.list().await.unwrap();
    assert_eq!(nova.count("POST", "/identity/v3/auth/tokens"), 2);
    assert_eq!(nova.count("GET", SERVERS), 2);
    clock.set(NOW + Seconds::new(2 * 3600));
    for _ in 0..2 {
        let error = cloud.list().await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Rejected);
        assert!(
            error
                .message
                .contains("region \"R1\", which has been used so far")
                && error.message.ends_with("the service catalog offers: R2"),
            "{error}"
        );
    }
    let elsewhere = nova
        .seen()
        .into_iter()
        .filter(|seen| seen.path.starts_with("/elsewhere"));
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn an_unknown_region_is_told_with_those_there_are() {
    let nova = Scripted::start(ordinary).await;
    let mut options = options(&format!("{}/identity/v3", nova.base));
    options.region = Some("R9".to_owned());
    let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), times());
    let error = cloud.facts().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected);
    assert!(
        error.message.ends_with("the service catalog offers: R1"),
        "{error}"
    );
}
