//! Each fault of a request has the shape and the effect that it promises, and is counted.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::{Carried, Exchange, Faults, Maker, Setup};
use super::{Client, json_of, order, text};

const SERVERS: &str = "/compute/v2.1/servers";
const LIST: &str = "/compute/v2.1/servers/detail";

/// A client of a cloud on which each request meets this fault, and whose servers are there at
/// once.
fn client(kind: Exchange) -> Client {
    let mut client = Client::new(Setup {
        retry_after: 7..=7,
        ..Setup::default()
    });
    client.cloud.set_faults(Faults::none().with(kind, 1.0));
    client
}

fn create(client: &mut Client) -> Carried {
    client.carry(Method::POST, SERVERS, &order("vcycle-a-1"))
}

/// How many servers there truly are.
fn servers(client: &Client) -> usize {
    client.cloud.servers().count()
}

fn answered(carried: &Carried) -> Option<u16> {
    match carried {
        Carried::Reply { reply, .. } => Some(reply.status.as_u16()),
        Carried::NotSent { .. } | Carried::Lost { .. } | Carried::TimedOut => None,
    }
}

/// What the client sees of a creation: the status, or how it went without one.
fn seen(carried: &Carried) -> &'static str {
    match carried {
        Carried::Reply { .. } => "reply",
        Carried::NotSent { .. } => "not sent",
        Carried::Lost { .. } => "lost",
        Carried::TimedOut => "timeout",
    }
}

#[test]
fn every_fault_of_a_creation_looks_as_it_should_and_has_the_effect_that_it_should() {
    use Exchange as E;
    let cases: [(Exchange, &str, Option<u16>, usize); 26] = [
        (E::ConnectionRefused, "not sent", None, 0),
        (E::LostBefore, "lost", None, 0),
        (E::LostAfter, "lost", None, 1),
        (E::TimedOutBefore, "timeout", None, 0),
        (E::TimedOutAfter, "timeout", None, 1),
        (E::TimedOutLate, "timeout", None, 0),
        (E::Twice, "reply", Some(202), 2),
        (E::Slow, "reply", Some(202), 1),
        (E::TokenRevoked, "reply", Some(401), 0),
        (E::QuotaExceeded, "reply", Some(403), 0),
        (E::Forbidden, "reply", Some(403), 0),
        (E::NotFound, "reply", Some(202), 1),
        (E::Conflict, "reply", Some(409), 0),
        (E::OverLimit, "reply", Some(413), 0),
        (E::TooManyRequests, "reply", Some(429), 0),
        (E::TooManyRequestsDate, "reply", Some(429), 0),
        (E::InternalError, "reply", Some(500), 0),
        (E::InternalErrorAfter, "reply", Some(500), 1),
        (E::BadGateway, "reply", Some(502), 0),
        (E::BadGatewayHtml, "reply", Some(502), 0),
        (E::Unavailable, "reply", Some(503), 0),
        (E::UnavailableRetry, "reply", Some(503), 0),
        (E::GatewayTimeout, "reply", Some(504), 1),
        (E::TruncatedBody, "reply", Some(202), 1),
        (E::MalformedBody, "reply", Some(202), 1),
        (E::Html, "reply", Some(200), 0),
    ];
    assert_eq!(cases.len(), Exchange::ALL.len());
    for (kind, shape, status, made) in cases {
        let mut client = client(kind);
        let carried = create(&mut client);
        assert_eq!(seen(&carried), shape, "{kind:?}");
        assert_eq!(answered(&carried), status, "{kind:?}");
        assert_eq!(servers(&client), made, "{kind:?}");
        // What cannot happen to a creation is not counted.
        let counted = u64::from(kind != E::NotFound);
        assert_eq!(client.done(kind.name()), counted, "{kind:?}");
        assert_eq!(client.cloud.faults_done().len(), usize::from(counted == 1));
        let has_effect = made > 0 || kind == E::TimedOutLate;
        assert_eq!(
            kind.has_effect() || kind == E::NotFound,
            has_effect,
            "{kind:?}"
        );
    }
}

#[test]
fn an_answer_that_says_wait_says_how_long() {
    for (kind, expected) in [
        (Exchange::OverLimit, Some("7")),
        (Exchange::TooManyRequests, Some("7")),
        (
            Exchange::TooManyRequestsDate,
            Some("Fri, 15 Jan 2027 08:00:07 GMT"),
        ),
        (Exchange::UnavailableRetry, Some("7")),
        (Exchange::Unavailable, None),
    ] {
        let reply = client(kind).get(LIST);
        let told = reply
            .headers
            .get("retry-after")
            .map(|v| v.to_str().unwrap());
        assert_eq!(told, expected, "{kind:?}");
    }
}

#[test]
fn the_words_of_a_refusal_tell_a_quota_from_rights() {
    let quota = client(Exchange::QuotaExceeded).create("vcycle-a-1");
    assert!(text(&quota).contains("Quota exceeded"));
    let rights = client(Exchange::Forbidden).create("vcycle-a-1");
    assert!(!text(&rights).to_lowercase().contains("quota"));
    assert_eq!(json_of(&rights)["forbidden"]["code"], 403);
}

#[test]
fn a_page_of_html_is_no_json() {
    for kind in [
        Exchange::Html,
        Exchange::BadGatewayHtml,
        Exchange::GatewayTimeout,
    ] {
        let reply = client(kind).get(LIST);
        assert!(text(&reply).starts_with("<!DOCTYPE html>"), "{kind:?}");
        assert_eq!(reply.headers["content-type"], "text/html; charset=utf-8");
    }
}

#[test]
fn a_spoilt_body_is_not_what_was_asked_for() {
    for seed in 0..50 {
        for kind in [Exchange::TruncatedBody, Exchange::MalformedBody] {
            let mut client = Client::seeded(seed, Setup::default());
            client.server("vcycle-a-1");
            client.cloud.set_faults(Faults::none().with(kind, 1.0));
            let body: Result<Value, _> = serde_json::from_slice(&client.get(LIST).body);
            let servers = body
                .ok()
                .and_then(|body| Some(body["servers"][0]["status"].as_str()?.len()));
            assert_eq!(servers, None, "{kind:?}");
        }
    }
}

#[test]
fn a_repeated_creation_makes_two_servers_of_one_name_and_a_repeated_deletion_asks_twice() {
    let mut client = client(Exchange::Twice);
    create(&mut client);
    let servers = client.cloud.history();
    assert_eq!(servers[0].name, servers[1].name);
    assert_ne!(servers[0].id, servers[1].id);
    let user = || "vcycle".to_owned();
    assert_eq!(servers[0].maker, Maker::Request { user: user() });
    assert_eq!(servers[1].maker, Maker::Echo { user: user() });
    let id = servers[0].id.clone();
    assert_eq!(client.delete(&id), StatusCode::NO_CONTENT);
    let echoes: Vec<bool> = client.cloud.history()[0]
        .deletions
        .iter()
        .map(|d| d.echo)
        .collect();
    assert_eq!(echoes, [false, true]);
}

#[test]
fn a_repetition_that_is_refused_does_not_hide_the_first() {
    let mut client = client(Exchange::Twice);
    client.cloud.setup_mut().max_instances = Some(1);
    let carried = create(&mut client);
    assert_eq!((answered(&carried), servers(&client)), (Some(202), 1));
}

#[test]
fn a_late_creation_happens_after_the_client_has_given_up() {
    let mut client = client(Exchange::TimedOutLate);
    create(&mut client);
    assert_eq!(client.cloud.late_requests(), 1);
    client.later(300);
    assert_eq!((client.cloud.late_requests(), servers(&client)), (0, 1));
    let created = client.cloud.history()[0].created - super::NOW;
    assert!((5..=300).contains(&created), "{created}");
}

#[test]
fn a_revoked_token_is_good_for_nothing_and_a_new_one_is() {
    let mut client = client(Exchange::TokenRevoked);
    assert_eq!(client.get(LIST).status, StatusCode::UNAUTHORIZED);
    client.cloud.set_faults(Faults::none());
    assert_eq!(client.get(LIST).status, StatusCode::UNAUTHORIZED);
    client.log_in();
    assert_eq!(client.get(LIST).status, StatusCode::OK);
}

#[test]
fn a_404_for_a_deletion_leaves_the_server_where_it_is() {
    let mut client = Client::new(Setup::default());
    let id = client.server("vcycle-a-1");
    client
        .cloud
        .set_faults(Faults::none().with(Exchange::NotFound, 1.0));
    assert_eq!(client.delete(&id), StatusCode::NOT_FOUND);
    assert_eq!(client.done("404"), 1);
    assert!(client.cloud.server(&id).unwrap().deletions.is_empty());
}

#[test]
fn a_slow_answer_takes_seconds_and_others_do_not() {
    let mut slow = client(Exchange::Slow);
    let Carried::Reply { after, .. } = slow.carry(Method::GET, LIST, &Value::Null) else {
        panic!("no reply");
    };
    assert!(after >= Duration::from_secs(5) && after <= Duration::from_secs(80));
    slow.cloud.set_faults(Faults::none());
    let Carried::Reply { after, .. } = slow.carry(Method::GET, LIST, &Value::Null) else {
        panic!("no reply");
    };
    assert!(after <= Duration::from_millis(300));
}

#[test]
fn logging_in_meets_the_same_faults_in_the_words_of_keystone() {
    let mut client = client(Exchange::Unavailable);
    let reply = client.reply(Method::POST, "/identity/v3/auth/tokens", &json!({}));
    assert_eq!(json_of(&reply)["error"]["code"], 503);
    assert_eq!(client.cloud.asked()["log in"], 2);
}
