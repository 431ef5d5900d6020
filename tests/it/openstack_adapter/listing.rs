//! Listings: whole or an error, whatever the pages do.

use super::*;

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
