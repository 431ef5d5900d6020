//! Faults by chance: as often as they should, and the same for the same seed.

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;

use super::super::{Carried, Exchange, Fate, Fault, Faults, Lie, Server, Setup, Strike, World};
use super::{Client, NOW, order, password};

const LIST: &str = "/compute/v2.1/servers/detail";

/// An hour's work of a client that creates, lists and deletes, whatever comes back, and what it
/// saw of it.
fn work(client: &mut Client, hours: u64) -> Vec<Carried> {
    let mut seen = Vec::new();
    for minute in 0..hours * 60 {
        client.later(60);
        let login = client.carry(
            Method::POST,
            "/identity/v3/auth/tokens",
            &password("vcycle"),
        );
        if let Carried::Reply { reply, .. } = &login
            && let Some(token) = reply.headers.get("x-subject-token")
        {
            client.token = Some(token.to_str().unwrap().to_owned());
        }
        seen.push(login);
        let body = order(&format!("vcycle-a-{minute:010}"));
        seen.push(client.carry(Method::POST, "/compute/v2.1/servers", &body));
        seen.push(client.carry(Method::GET, LIST, &Value::Null));
        if let Some(server) = client.cloud.servers().last() {
            let path = format!("{LIST}?marker={}", server.id);
            seen.push(client.carry(Method::GET, &path, &Value::Null));
        }
        let old = client
            .cloud
            .servers()
            .find(|s| s.created + 1200 < client.now);
        if let Some(id) = old.map(|server| server.id.clone()) {
            let path = format!("/compute/v2.1/servers/{id}");
            seen.push(client.carry(Method::GET, &path, &Value::Null));
            seen.push(client.carry(Method::DELETE, &path, &Value::Null));
        }
    }
    seen
}

fn client(seed: u64, faults: Faults) -> Client {
    let mut client = Client::seeded(
        seed,
        Setup {
            page: 10,
            ..Setup::default()
        },
    );
    client.cloud.set_faults(faults);
    client
}

type Outcome = (Vec<Carried>, Vec<Server>, BTreeMap<&'static str, u64>);

fn outcome(seed: u64) -> Outcome {
    let mut client = client(seed, Faults::all(0.02));
    let seen = work(&mut client, 2);
    let history = client.cloud.history().to_vec();
    (seen, history, client.cloud.faults_done().clone())
}

#[test]
fn the_same_seed_and_the_same_asks_give_the_same_cloud_byte_by_byte() {
    assert_eq!(outcome(7), outcome(7));
    assert_ne!(outcome(7).0, outcome(8).0);
}

#[test]
fn it_makes_no_difference_how_often_the_time_is_told() {
    let run = |step: u64| {
        let faults = Faults::none()
            .with_all(Strike::ALL, 0.5)
            .with_all(World::ALL, 0.5)
            .with_all(Fate::ALL, 0.1);
        let mut client = client(3, faults);
        for number in 0..40 {
            client.create(&format!("vcycle-a-{number}"));
        }
        let until = NOW + 6 * 3600;
        while client.now < until {
            client.later(step);
        }
        (
            client.cloud.history().to_vec(),
            client.cloud.faults_done().clone(),
        )
    };
    let (history, done) = run(6 * 3600);
    assert!(done.len() > 8, "{done:?}");
    assert_eq!((history, done), run(1));
}

#[test]
fn every_kind_happens_some_time() {
    let mut client = client(
        1,
        Faults::all(0.02)
            .with_all(Strike::ALL, 0.3)
            .with_all(World::ALL, 0.3),
    );
    work(&mut client, 16);
    let done = client.cloud.faults_done();
    let kinds = Exchange::ALL.iter().map(|kind| Fault::from(*kind));
    let kinds = kinds
        .chain(Lie::ALL.iter().map(|kind| Fault::from(*kind)))
        .chain(Fate::ALL.iter().map(|kind| Fault::from(*kind)))
        .chain(Strike::ALL.iter().map(|kind| Fault::from(*kind)))
        .chain(World::ALL.iter().map(|kind| Fault::from(*kind)));
    let missing: Vec<Fault> = kinds
        .filter(|kind| !done.contains_key(kind.name()))
        .collect();
    assert_eq!(missing, []);
}

#[test]
fn a_chance_is_what_it_says() {
    let faults = Faults::none()
        .with(Exchange::InternalError, 0.1)
        .with(Exchange::Forbidden, 0.2);
    let mut client = client(1, faults);
    for _ in 0..2000 {
        client.get(LIST);
    }
    let (errors, refusals) = (
        client.done("500 without effect"),
        client.done("403 forbidden"),
    );
    assert!((150..250).contains(&errors), "{errors}");
    assert!((330..470).contains(&refusals), "{refusals}");
}

#[test]
fn without_faults_none_happens_and_nobody_is_lost() {
    let mut client = client(1, Faults::all(1.0).with_all(Exchange::ALL, 0.0));
    client.cloud.set_faults(Faults::none());
    let seen = work(&mut client, 3);
    assert!(client.cloud.faults_done().is_empty());
    let good = |carried: &Carried| {
        matches!(carried, Carried::Reply { reply, .. } if reply.status.is_success()
            || reply.status.as_u16() == 404)
    };
    assert!(seen.iter().all(good));
    for server in client.cloud.history() {
        let ended = server.ended.map(|(at, _)| at);
        assert!(
            server
                .gone_at
                .is_none_or(|gone| ended.is_some_and(|ended| ended <= gone))
        );
    }
}

#[test]
fn a_kind_can_be_taken_out() {
    let faults = Faults::all(0.5).without(Lie::Empty);
    assert!(faults.chance(Lie::Empty) <= 0.0);
    assert!(faults.chance(Lie::Stale) > 0.4);
    assert!(Lie::ALL.iter().any(|lie| lie.can_be_noticed()));
}
