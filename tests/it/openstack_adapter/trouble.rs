//! Servers in trouble, and how much is asked of them.

use super::*;

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
