//! The OpenStack adapter against a scripted server: what a real OpenStack does not do on demand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use vcycle::clock::Clock;
use vcycle::cloud::http::HttpTimes;
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{Cloud, CloudErrorKind, CreateRequest, Deletion, Outside};
use vcycle::config::OpenStackOptions;
use vcycle::config::space::OpenStackCredentials;
use vcycle::model::{
    CloudId, CloudLimits, Flavor, MachineName, MachineState, Processors, Seconds, Secret,
    SpaceName, Timestamp,
};

use super::scripted::{Authority, Reply, Scripted, Seen};

pub const PASSWORD: &str = "hunter2-\"quoted\"";
pub const NOW: Timestamp = Timestamp::from_unix(1_795_229_463);
pub const IMAGE: &str = "70fafd76-166f-49cb-9c64-eb46d0a5f1a5";

/// Times short enough for tests and long enough for a busy machine.
pub fn times() -> HttpTimes {
    HttpTimes {
        connect: Duration::from_secs(5),
        request: Duration::from_secs(5),
        call: Duration::from_secs(20),
        longest_wait: Duration::from_secs(2),
        pause: Duration::from_millis(5),
    }
}

pub fn options(url: &str) -> OpenStackOptions {
    OpenStackOptions {
        url: url::Url::parse(url).unwrap(),
        identity_version: None,
        project: Some("atlas".to_owned()),
        domain: "default".to_owned(),
        credentials: OpenStackCredentials::Password {
            username: "vcycle".to_owned(),
            password: Secret::new(PASSWORD.to_owned()),
        },
        region: None,
        zones: Vec::new(),
        security_groups: vec!["grid".to_owned()],
        network_uuid: Some("net-1".to_owned()),
    }
}

pub fn connect_with(
    options: &OpenStackOptions,
    ca: &Path,
    clock: Clock,
    times: HttpTimes,
) -> OpenStack {
    let space = SpaceName::new("space.example.org").unwrap();
    OpenStack::with_times(&space, options, &Outside::real(ca, clock), times).unwrap()
}

pub fn connect(server: &Scripted) -> OpenStack {
    let options = options(&format!("{}/identity/v3", server.base));
    connect_with(&options, &PathBuf::new(), Clock::manual(NOW), times())
}

/// A Keystone v3 whose tokens are `token-1`, `token-2`, ... and live for an hour, a Nova with one
/// flavor and no servers, and a Glance with one image: what a script does not care about.
pub fn ordinary(seen: &Seen, base: &str) -> Reply {
    let endpoints = |path: &str| {
        json!([{"interface": "internal", "region": "R1", "url": "http://inside.invalid"},
               {"interface": "public", "region": "R1", "url": format!("{base}{path}")}])
    };
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/identity/v3/auth/tokens") => Reply::json(
            201,
            json!({"token": {
                "issued_at": "2026-11-21T00:00:00.000000Z", "expires_at": "2026-11-21T01:00:00.000000Z",
                "catalog": [{"type": "compute", "endpoints": endpoints("/nova/v2.1")},
                            {"type": "image", "endpoints": endpoints("/glance")}]}}),
        )
        .with("x-subject-token", format!("token-{}", seen.nth + 1)),
        ("GET", "/nova/v2.1/flavors/detail") => Reply::json(
            200,
            json!({"flavors": [{"id": "f4", "name": "large", "vcpus": 4, "ram": 8192, "disk": 0}]}),
        ),
        ("GET", "/nova/v2.1/limits") => Reply::json(
            200,
            json!({"limits": {"absolute": {"maxTotalInstances": 10, "maxTotalCores": -1}}}),
        ),
        ("GET", SERVERS) => Reply::json(200, json!({"servers": []})),
        ("GET", "/glance/v2/images/70fafd76-166f-49cb-9c64-eb46d0a5f1a5") => {
            Reply::json(200, json!({"id": IMAGE, "status": "active"}))
        }
        ("POST", CREATE) => Reply::json(202, json!({"server": {"id": "new-1"}})),
        _ => Reply::json(404, json!({"itemNotFound": {"message": "no such thing"}})),
    }
}

pub const SERVERS: &str = "/nova/v2.1/servers/detail";
pub const CREATE: &str = "/nova/v2.1/servers";

fn server(id: &str) -> serde_json::Value {
    json!({"id": id, "name": format!("n-{id}"), "status": "ACTIVE", "flavor": {"id": "f4"},
           "OS-EXT-STS:power_state": 1})
}

pub fn page(ids: &[&str], next: Option<&str>) -> Reply {
    let servers: Vec<_> = ids.iter().map(|id| server(id)).collect();
    let links: Vec<_> = next
        .iter()
        .map(|href| json!({"rel": "next", "href": href}))
        .collect();
    Reply::json(200, json!({"servers": servers, "servers_links": links}))
}

pub fn request() -> CreateRequest {
    CreateRequest {
        name: MachineName::new("vcycle-atlas-0123456789").unwrap(),
        flavor: Flavor {
            id: "f4".to_owned(),
            name: "large".to_owned(),
            processors: Processors::new(4),
            memory_mb: None,
            disk_gb: None,
        },
        image: IMAGE.to_owned(),
        volume: None,
        public_key: None,
        user_data: Secret::new(b"secret user data".to_vec()),
        metadata: [("space".to_owned(), "s".to_owned())].into(),
        zone: Some("zone-a".to_owned()),
    }
}

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
async fn flavors_come_from_all_pages() {
    let nova = Scripted::start(|seen, base| {
        if !seen.is("GET", "/nova/v2.1/flavors/detail") {
            return ordinary(seen, base);
        }
        let flavor = |id: &str| json!({"id": id, "name": id, "vcpus": 1, "OS-FLV-DISABLED:disabled": id == "c"});
        match seen.query.as_str() {
            "" => Reply::json(200, json!({"flavors": [flavor("a")],
                "flavors_links": [{"rel": "next", "href": "http://x.invalid/?marker=a"}]})),
            _ => Reply::json(200, json!({"flavors": [flavor("b"), flavor("c")]})),
        }
    })
    .await;
    let facts = connect(&nova).facts().await.unwrap();
    let names: Vec<_> = facts.flavors.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "a disabled flavor cannot be used");
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

#[tokio::test]
async fn a_listing_is_whole_or_an_error() {
    let cases: [(&str, Reply, CloudErrorKind, &str); 8] = [
        (
            "no id",
            Reply::json(200, r#"{"servers": [{"name": "n", "status": "ACTIVE"}]}"#),
            CloudErrorKind::Rejected,
            "missing field `id`",
        ),
        (
            "null name",
            Reply::json(
                200,
                r#"{"servers": [{"id": "i", "name": null, "status": "A"}]}"#,
            ),
            CloudErrorKind::Rejected,
            "invalid type: null",
        ),
        (
            "empty status",
            Reply::json(
                200,
                r#"{"servers": [{"id": "i", "name": "n", "status": ""}]}"#,
            ),
            CloudErrorKind::Rejected,
            "no status",
        ),
        (
            "cut short",
            Reply::json(200, r#"{"servers": [{"id": "i", "na"#),
            CloudErrorKind::Rejected,
            "EOF",
        ),
        (
            "not a listing",
            Reply::json(200, r#"{"error": "x"}"#),
            CloudErrorKind::Rejected,
            "missing field `servers`",
        ),
        (
            "html",
            Reply::html(200, "<html>Welcome</html>"),
            CloudErrorKind::Rejected,
            "cannot be used",
        ),
        (
            "redirected",
            Reply::html(302, "").with("location", "http://login.invalid/?t=1"),
            CloudErrorKind::Rejected,
            "302 Found to http://login.invalid/ (not followed)",
        ),
        (
            "broken off",
            Reply::BreakOff(r#"{"servers": []}"#.to_owned()),
            CloudErrorKind::Transient,
            "",
        ),
    ];
    for (what, second, kind, why) in cases {
        let nova = Scripted::start(move |seen, base| match seen.query.as_str() {
            "marker=a" => second.clone(),
            "" if seen.path == SERVERS => page(&["a"], Some("?marker=a")),
            _ => ordinary(seen, base),
        })
        .await;
        let error = connect(&nova).list().await.unwrap_err();
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert!(error.message.contains(why), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_failure_without_a_reason_is_asked_about_a_few_times() {
    let failed = |id: &str| json!({"id": id, "name": id, "status": "ERROR", "metadata": {"space": "s", "manager": "m"}});
    let nova = Scripted::start(move |seen, base| match seen.path.as_str() {
        SERVERS => {
            let foreign = json!({"id": "foreign", "name": "x", "status": "ERROR"});
            Reply::json(
                200,
                json!({"servers": [failed("late"), failed("mute"), foreign]}),
            )
        }
        "/nova/v2.1/servers/late" if seen.nth > 0 => Reply::json(
            200,
            json!({"server": {"fault": {"message": "No valid host was found. "}}}),
        ),
        "/nova/v2.1/servers/late" => Reply::json(200, json!({"server": {}})),
        "/nova/v2.1/servers/mute" => Reply::html(403, "no"),
        _ => ordinary(seen, base),
    })
    .await;
    let cloud = connect(&nova);
    for _ in 0..6 {
        assert_eq!(cloud.list().await.unwrap().len(), 3);
    }
    let machines = cloud.list().await.unwrap();
    assert_eq!(
        machines[0].fault.as_deref(),
        Some("No valid host was found.")
    );
    assert_eq!(machines[1].fault, None);
    assert_eq!(nova.count("GET", "/nova/v2.1/servers/late"), 2);
    assert_eq!(nova.count("GET", "/nova/v2.1/servers/mute"), 3);
    assert_eq!(nova.count("GET", "/nova/v2.1/servers/foreign"), 0);
}

#[tokio::test]
async fn pages_that_lead_in_a_circle_are_an_error() {
    for next in ["?marker=a", "http://nova.invalid/servers/detail"] {
        let nova = Scripted::start(move |seen, base| match seen.query.as_str() {
            "marker=a" => page(&["b"], Some(next)),
            "" if seen.path == SERVERS => page(&["a"], Some("?marker=a")),
            _ => ordinary(seen, base),
        })
        .await;
        let error = connect(&nova).list().await.unwrap_err();
        assert!(error.message.contains("circle"), "{error}");
        assert_eq!(nova.count("GET", SERVERS), 2);
    }
}

#[tokio::test]
async fn a_listing_that_changed_under_us_is_begun_again() {
    // The marker of the second page is deleted at first; later a server comes twice; then all is well.
    let nova = Scripted::start(|seen, base| match (seen.query.as_str(), seen.nth) {
        ("marker=a", 1) => Reply::json(
            400,
            json!({"badRequest": {"message": "marker [a] not found"}}),
        ),
        ("marker=a", 3) => page(&["b", "a"], None),
        ("marker=a", _) => page(&["b"], None),
        ("", _) if seen.path == SERVERS => page(&["a"], Some("?marker=a")),
        _ => ordinary(seen, base),
    })
    .await;
    assert_eq!(connect(&nova).list().await.unwrap().len(), 2);
    assert_eq!(nova.count("GET", SERVERS), 6);
}

#[tokio::test]
async fn a_short_page_with_a_server_being_built_is_not_taken_for_the_last() {
    let building = |id: &str| {
        let mut server = server(id);
        server["status"] = json!("BUILD");
        server
    };
    // What lies beyond, and what has to be found in the end.
    for (beyond, expected) in [
        (page(&["c"], None), "abc"),
        (page(&[], None), "ab"),
        // A server that got its host meanwhile, and a cloud that knows no markers.
        (page(&["b", "c"], None), "abc"),
        (page(&["a", "b"], None), "ab"),
    ] {
        let server = Scripted::start(move |seen, base| match seen.query.as_str() {
            "marker=b" => beyond.clone(),
            "" if seen.path == SERVERS => {
                Reply::json(200, json!({"servers": [building("a"), server("b")]}))
            }
            _ => ordinary(seen, base),
        })
        .await;
        let machines = connect(&server).list().await.unwrap();
        let ids: String = machines.iter().map(|machine| machine.id.as_str()).collect();
        assert_eq!(ids, expected);
    }
}

#[tokio::test]
async fn a_listing_that_never_stands_still_is_an_error_in_the_end() {
    for (reply, why) in [
        (
            Reply::json(
                400,
                json!({"badRequest": {"message": "marker [a] not found"}}),
            ),
            "marker [a] not found",
        ),
        (page(&["a"], None), "lists server a more than once"),
    ] {
        let nova = Scripted::start(move |seen, base| match seen.query.as_str() {
            "marker=a" => reply.clone(),
            "" if seen.path == SERVERS => page(&["a"], Some("?marker=a")),
            _ => ordinary(seen, base),
        })
        .await;
        let error = connect(&nova).list().await.unwrap_err();
        assert!(error.message.contains(why), "{error}");
        assert_eq!(nova.count("GET", SERVERS), 6);
    }
}

#[tokio::test]
async fn reads_are_repeated_after_trouble() {
    for trouble in [
        Reply::html(500, "<h1>Internal Server Error</h1>"),
        Reply::html(502, "<h1>Bad Gateway</h1>"),
        Reply::Reset,
        Reply::BreakOff("{\"servers\": []}".to_owned()),
        Reply::json(429, "{}").with("retry-after", 1),
    ] {
        let nova = Scripted::start(move |seen, base| match seen.nth {
            0 if seen.path == SERVERS => trouble.clone(),
            _ => ordinary(seen, base),
        })
        .await;
        assert_eq!(connect(&nova).list().await.unwrap(), Vec::new());
        assert_eq!(nova.count("GET", SERVERS), 2);
    }
}

#[tokio::test]
async fn reads_give_up_with_the_servers_own_words() {
    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        SERVERS => Reply::html(502, "<html><head><title>502 Bad Gateway</title></head><body>The <b>proxy</b>\n says no</body></html>"),
        _ => ordinary(seen, base),
    })
    .await;
    let error = connect(&nova).list().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert_eq!(
        error.to_string(),
        format!(
            "GET {}{SERVERS}: 502 Bad Gateway: 502 Bad Gateway The proxy says no",
            nova.base
        )
    );
    assert_eq!(nova.count("GET", SERVERS), 3);
}

#[tokio::test]
async fn a_cloud_that_asks_to_be_left_alone_is_left_alone_by_all_calls() {
    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        SERVERS => {
            Reply::json(429, json!({"overLimit": {"message": "slow down"}})).with("retry-after", 60)
        }
        _ => ordinary(seen, base),
    })
    .await;
    let cloud = connect(&nova);
    let limited = CloudErrorKind::RateLimited {
        retry_after: Some(Seconds::new(60)),
    };
    assert_eq!(cloud.list().await.unwrap_err().kind, limited);
    let before = nova.seen().len();
    let kind = cloud.create(&request()).await.unwrap_err().kind;
    assert!(
        matches!(kind, CloudErrorKind::RateLimited { retry_after: Some(wait) } if wait.get() > 50),
        "{kind:?}"
    );
    assert!(cloud.facts().await.is_err());
    assert_eq!(nova.seen().len(), before, "nothing was sent meanwhile");
}

#[tokio::test]
async fn a_dead_address_and_a_hanging_server_end_in_bounded_time() {
    let nobody = connect_with(
        &options("http://127.0.0.1:1/v3"),
        Path::new(""),
        Clock::manual(NOW),
        times(),
    );
    let error = nobody.list().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert!(error.message.contains("refused"), "{error}");

    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        SERVERS => Reply::Hang,
        _ => ordinary(seen, base),
    })
    .await;
    let mut short = times();
    short.request = Duration::from_millis(300);
    let options = options(&format!("{}/identity/v3", nova.base));
    let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), short);
    let error = cloud.list().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert_eq!(error.message, "no complete answer within 0.3 s");
    assert_eq!(
        nova.count("GET", SERVERS),
        1,
        "a request that took all its time is not repeated"
    );
}

#[tokio::test]
async fn a_listing_that_never_ends_ends() {
    let nova = Scripted::start(|seen, base| match seen.path.as_str() {
        SERVERS => page(&[], Some(&format!("?marker={}", seen.nth))),
        _ => ordinary(seen, base),
    })
    .await;
    let mut short = times();
    short.call = Duration::from_millis(500);
    let options = options(&format!("{}/identity/v3", nova.base));
    let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), short);
    let error = cloud.list().await.unwrap_err();
    assert!(
        error.message.contains("not complete after 0.5 s")
            || error.message.contains("goes on after"),
        "{error}"
    );
}

#[tokio::test]
async fn a_create_says_everything_and_is_sent_once() {
    let nova = Scripted::start(ordinary).await;
    let cloud = connect(&nova);
    assert_eq!(cloud.create(&request()).await, Ok(CloudId::new("new-1")));
    let seen = nova
        .seen()
        .into_iter()
        .find(|s| s.is("POST", CREATE))
        .unwrap();
    assert_eq!(
        seen.json(),
        json!({"server": {
            "name": "vcycle-atlas-0123456789", "flavorRef": "f4", "imageRef": IMAGE,
            "user_data": "c2VjcmV0IHVzZXIgZGF0YQ==", "metadata": {"space": "s"},
            "security_groups": [{"name": "grid"}], "networks": [{"uuid": "net-1"}],
            "availability_zone": "zone-a"}})
    );
    // The image is known now: the next create is one request.
    let before = nova.seen().len();
    cloud.create(&request()).await.unwrap();
    assert_eq!(nova.seen().len(), before + 1);
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_ambiguous_and_never_sent_again() {
    for lost in [
        Reply::Reset,
        Reply::Hang,
        Reply::BreakOff(r#"{"server": {"id": "x"}}"#.to_owned()),
        Reply::html(500, "<h1>Oops</h1>"),
        Reply::html(502, ""),
        Reply::html(503, ""),
        Reply::html(504, "<h1>Gateway Timeout</h1>"),
        Reply::json(202, "{}"),
        Reply::json(202, r#"{"server": {"id": ""}}"#),
        Reply::html(202, "<p>accepted, honestly</p>"),
    ] {
        let what = format!("{lost:?}");
        let nova = Scripted::start(move |seen, base| match seen.is("POST", CREATE) {
            true => lost.clone(),
            false => ordinary(seen, base),
        })
        .await;
        let mut short = times();
        short.request = Duration::from_millis(500);
        let options = options(&format!("{}/identity/v3", nova.base));
        let cloud = connect_with(&options, Path::new(""), Clock::manual(NOW), short);
        let error = cloud.create(&request()).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Ambiguous, "{what}: {error}");
        assert_eq!(nova.count("POST", CREATE), 1, "{what}");
    }
}

#[tokio::test]
async fn a_create_that_never_left_made_no_machine() {
    // The catalog leads to a Nova that nobody listens at.
    let nova = Scripted::start(|seen, base| {
        let Reply::Say {
            status,
            headers,
            body,
        } = ordinary(seen, base)
        else {
            return Reply::Reset;
        };
        let body = body.replace(&format!("{base}/nova"), "http://127.0.0.1:1/nova");
        Reply::Say {
            status,
            headers,
            body,
        }
    })
    .await;
    let error = connect(&nova).create(&request()).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert_eq!(error.operation, "POST http://127.0.0.1:1/nova/v2.1/servers");
}

#[tokio::test]
async fn a_create_with_a_revoked_token_is_sent_again_with_a_new_one() {
    let nova = Scripted::start(|seen, base| match seen.header("x-auth-token") {
        "token-1" if seen.is("POST", CREATE) => Reply::json(401, "{}"),
        _ => ordinary(seen, base),
    })
    .await;
    assert!(connect(&nova).create(&request()).await.is_ok());
    assert_eq!(nova.count("POST", CREATE), 2);
}

#[tokio::test]
async fn refusals_carry_novas_words_and_hide_ours() {
    let nova = Scripted::start(|seen, base| {
        if !seen.is("POST", CREATE) {
            return ordinary(seen, base);
        }
        let sent = seen.json()["server"]["user_data"]
            .as_str()
            .unwrap()
            .to_owned();
        let message = format!(
            "Invalid input for field/attribute user_data. Value: {sent}. {sent} is too long"
        );
        Reply::json(
            400,
            json!({"badRequest": {"code": 400, "message": message}}),
        )
    })
    .await;
    let mut request = request();
    request.user_data = Secret::new(b"-----BEGIN RSA PRIVATE KEY-----".repeat(20));
    let error = connect(&nova).create(&request).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected);
    assert_eq!(
        error.message,
        "400 Bad Request: Invalid input for field/attribute user_data. Value: [hidden] [hidden] is too long"
    );
}

#[tokio::test]
async fn too_much_user_data_is_refused_before_anything_is_sent() {
    let nova = Scripted::start(ordinary).await;
    let mut request = request();
    request.user_data = Secret::new(vec![b'x'; 49_149]);
    let cloud = connect(&nova);
    assert!(cloud.create(&request).await.is_ok());
    request.user_data = Secret::new(vec![b'x'; 49_150]);
    let before = nova.seen().len();
    let error = cloud.create(&request).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected);
    assert_eq!(
        error.message,
        "user_data has 65536 bytes in base64, and OpenStack takes 65535"
    );
    assert_eq!(nova.seen().len(), before);
}

#[tokio::test]
async fn an_image_is_found_by_its_name_if_only_one_has_it() {
    let image =
        |id: &str, name: &str, status: &str| json!({"id": id, "name": name, "status": status});
    let nova = Scripted::start(move |seen, base| {
        if !seen.is("GET", "/glance/v2/images") {
            return ordinary(seen, base);
        }
        let images = match seen.query.split('&').next().unwrap() {
            "name=CernVM+4" => json!([
                image("i1", "CernVM 4", "active"),
                image("i0", "CernVM 4", "queued")
            ]),
            "name=twice" => json!([
                image("i1", "twice", "active"),
                image("i2", "twice", "active")
            ]),
            "name=queued" => json!([image("i1", "queued", "queued")]),
            "name=operator" => json!([image("i1", "other", "active")]),
            _ => json!([]),
        };
        Reply::json(200, json!({"images": images}))
    })
    .await;
    let cloud = connect(&nova);
    let create = async |name: &str| {
        let mut request = request();
        request.image = name.to_owned();
        cloud.create(&request).await
    };
    create("CernVM 4").await.unwrap();
    let sent = nova.seen().pop().unwrap().json();
    assert_eq!(sent["server"]["imageRef"], "i1");
    for (name, kind, why) in [
        ("twice", CloudErrorKind::Rejected, "one of: i1, i2"),
        (
            "queued",
            CloudErrorKind::Rejected,
            "image i1 is queued, not active",
        ),
        (
            "operator",
            CloudErrorKind::NotFound,
            "no image with the identifier or name \"operator\"",
        ),
        ("nothing", CloudErrorKind::NotFound, "no image"),
        (
            "00000000-0000-4000-8000-000000000000",
            CloudErrorKind::NotFound,
            "no image",
        ),
    ] {
        let error = create(name).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(why), "{error}");
    }
    assert_eq!(nova.count("POST", CREATE), 1);
}

#[tokio::test]
async fn a_key_is_imported_once_and_looked_for_again_after_a_refusal() {
    let nova = Scripted::start(|seen, base| {
        if seen.is("POST", "/nova/v2.1/os-keypairs") {
            // Another program of the same owner was faster.
            return Reply::json(
                409,
                json!({"conflictingRequest": {"message": "Key pair exists"}}),
            );
        }
        if seen.is("POST", CREATE) && seen.nth == 2 {
            return Reply::json(
                400,
                json!({"badRequest": {"message": "Invalid key_name provided."}}),
            );
        }
        ordinary(seen, base)
    })
    .await;
    let cloud = connect(&nova);
    let mut request = request();
    request.public_key = Some(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2 me\n"
            .to_owned(),
    );
    let imports = || nova.count("POST", "/nova/v2.1/os-keypairs");
    let (a, b) = tokio::join!(cloud.create(&request), cloud.create(&request));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(imports(), 1);
    let sent = nova.seen().pop().unwrap().json();
    let name = sent["server"]["key_name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("vcycle-") && name.len() == 88, "{name}");
    assert!(cloud.create(&request).await.is_err());
    assert_eq!(imports(), 1);
    cloud.create(&request).await.unwrap();
    assert_eq!(imports(), 2);
}

#[tokio::test]
async fn a_delete_is_taken_or_was_not_needed() {
    let nova = Scripted::start(
        |seen, base| match seen.path.strip_prefix("/nova/v2.1/servers/") {
            Some("there") => Reply::json(204, ""),
            Some("busy") => {
                Reply::json(409, json!({"conflictingRequest": {"message": "deleting"}}))
            }
            Some("down") => Reply::html(503, ""),
            Some("locked") => Reply::json(403, json!({"forbidden": {"message": "not yours"}})),
            _ => ordinary(seen, base),
        },
    )
    .await;
    let cloud = connect(&nova);
    let delete = async |id: &str| cloud.delete(&CloudId::new(id)).await;
    assert_eq!(delete("there").await, Ok(Deletion::Accepted));
    assert_eq!(delete("busy").await, Ok(Deletion::Accepted));
    assert_eq!(delete("gone").await, Ok(Deletion::AlreadyGone));
    assert_eq!(
        delete("down").await.unwrap_err().kind,
        CloudErrorKind::Transient
    );
    assert_eq!(nova.count("DELETE", "/nova/v2.1/servers/down"), 1);
    assert_eq!(
        delete("locked").await.unwrap_err().kind,
        CloudErrorKind::Auth
    );
    for nonsense in ["", ".", ".."] {
        assert_eq!(
            delete(nonsense).await.unwrap_err().kind,
            CloudErrorKind::Rejected
        );
    }
    assert_eq!(delete("../images/x").await, Ok(Deletion::AlreadyGone));
    assert_eq!(
        nova.seen().pop().unwrap().path,
        "/nova/v2.1/servers/..%2Fimages%2Fx"
    );
}

#[tokio::test]
async fn a_site_ca_from_its_directory_is_trusted_and_http_2_is_spoken() {
    let authority = Authority::new();
    let nova = Scripted::start_tls(&authority, ordinary).await;
    let options = options(&format!("{}/identity/v3", nova.base));
    let stranger = connect_with(
        &options,
        Path::new("/nonexistent"),
        Clock::manual(NOW),
        times(),
    );
    let error = stranger.list().await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert!(error.message.contains("certificate"), "{error}");

    let cloud = connect_with(&options, &authority.path(), Clock::manual(NOW), times());
    cloud.facts().await.unwrap();
    assert!(cloud.create(&request()).await.is_ok());
    assert!(
        nova.seen()
            .iter()
            .all(|seen| seen.version == http::Version::HTTP_2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn no_more_than_ten_requests_are_under_way_at_once() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NOW_UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let nova = Scripted::start(|seen, base| {
        let now = NOW_UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1;
        MOST.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        NOW_UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        ordinary(seen, base)
    })
    .await;
    let cloud = connect(&nova);
    for outcome in futures_util::future::join_all((0..40).map(|_| cloud.list())).await {
        outcome.unwrap();
    }
    let most = MOST.load(Ordering::SeqCst);
    assert!((2..=10).contains(&most), "{most}");
}
