//! Each lie of the listing has the shape that it promises, and is counted when it is one.

use http::StatusCode;
use serde_json::Value;

use super::super::{Faults, Lie, Setup};
use super::life::pages;
use super::{Client, json_of};

const LIST: &str = "/compute/v2.1/servers/detail";

/// A client of a cloud with six servers on pages of two, the newest of them in BUILD.
fn client() -> Client {
    let mut client = Client::new(Setup {
        page: 2,
        boot: 5..=5,
        stale: 10..=10,
        ..Setup::default()
    });
    for number in 0..6 {
        client.server(&format!("vcycle-a-{number}"));
        client.later(3);
    }
    client
}

fn lying(lie: Lie) -> Client {
    let mut client = client();
    client.cloud.set_faults(Faults::none().with(lie, 1.0));
    client
}

fn names(pages: &[Vec<Value>]) -> Vec<Vec<&str>> {
    let name = |server: &'_ Value| -> Option<usize> { server["name"].as_str().map(str::len) };
    assert!(pages.iter().flatten().all(|server| name(server).is_some()));
    pages
        .iter()
        .map(|page| {
            page.iter()
                .map(|s| &s["name"].as_str().unwrap()[9..])
                .collect()
        })
        .collect()
}

#[test]
fn the_honest_pages() {
    let all = pages(&mut client());
    let expected: [&[&str]; 4] = [&["5", "4"], &["3", "2"], &["1", "0"], &[]];
    assert_eq!(names(&all), expected);
}

#[test]
fn an_empty_listing_has_nothing_on_it_and_no_link() {
    let mut client = lying(Lie::Empty);
    assert_eq!(names(&pages(&mut client)), [[""; 0]]);
    assert_eq!(client.done("empty listing"), 1);
    let mut empty = Client::new(Setup::default());
    empty.cloud.set_faults(Faults::none().with(Lie::Empty, 1.0));
    empty.listing();
    assert!(empty.cloud.faults_done().is_empty(), "that was the truth");
}

#[test]
fn a_truncated_listing_ends_early_without_a_link() {
    let mut client = lying(Lie::Truncated);
    let all = pages(&mut client);
    assert_eq!(all.len(), 1);
    assert!(all[0].len() < 2);
    assert_eq!(client.done("truncated listing"), 1);
}

#[test]
fn a_link_may_skip_a_page() {
    let mut client = lying(Lie::PageSkipped);
    let expected: [&[&str]; 2] = [&["5", "4"], &["1", "0"]];
    let all = pages(&mut client);
    assert_eq!(names(&all)[..2], expected);
    assert_eq!(client.done("page skipped"), 1);
}

#[test]
fn a_short_page_has_no_link_but_what_follows_is_there() {
    let mut client = lying(Lie::PageShort);
    let all = pages(&mut client);
    assert_eq!(names(&all), [["5"]]);
    assert_eq!(client.done("short page while building"), 1);
    let last = all[0][0]["id"].as_str().unwrap();
    let next = json_of(&client.get(&format!("{LIST}?marker={last}")));
    assert_eq!(next["servers"][0]["name"], "vcycle-a-4");
}

#[test]
fn a_server_may_be_listed_twice_on_a_page_or_on_two() {
    let mut within = lying(Lie::Twice);
    let page = within.listing();
    assert_eq!(page.len(), 3);
    assert!(page[..2].contains(&page[2]));
    let mut across = lying(Lie::TwiceAcross);
    let all = pages(&mut across);
    let expected: [&[&str]; 2] = [&["5", "4"], &["4", "3", "2"]];
    assert_eq!(names(&all)[..2], expected);
    assert_eq!(across.done("server on two pages"), 3);
}

#[test]
fn a_stale_listing_is_the_list_of_some_seconds_ago() {
    let mut client = Client::new(Setup {
        boot: 1..=1,
        deletion: 1..=1,
        stale: 10..=10,
        ..Setup::default()
    });
    client
        .cloud
        .set_faults(Faults::none().with(Lie::Stale, 1.0));
    let id = client.server("vcycle-a-1");
    client.later(9);
    assert_eq!(
        client.listed(&id).unwrap()["status"],
        "ACTIVE",
        "older than all we know"
    );
    client.later(1);
    assert_eq!(client.listed(&id).unwrap()["status"], "BUILD");
    client.later(10);
    assert_eq!(client.listed(&id).unwrap()["status"], "ACTIVE");
    client.delete(&id);
    client.later(5);
    assert!(client.cloud.server(&id).unwrap().is_gone());
    assert_eq!(client.listed(&id).unwrap()["status"], "ACTIVE");
    client.later(20);
    assert_eq!(client.listed(&id), None);
    assert_eq!(client.done("stale listing"), 2);
}

#[test]
fn a_member_is_null_or_missing_on_one_server() {
    for (lie, member, null) in [
        (Lie::StatusNull, "status", true),
        (Lie::StatusMissing, "status", false),
        (Lie::NameNull, "name", true),
        (Lie::MetadataMissing, "metadata", false),
        (Lie::MetadataNull, "metadata", true),
        (Lie::CreatedMissing, "created", false),
        (Lie::FlavorMissing, "flavor", false),
        (Lie::PowerStateNull, "OS-EXT-STS:power_state", true),
        (Lie::LaunchedNull, "OS-SRV-USG:launched_at", true),
        (Lie::UpdatedMissing, "updated", false),
        (Lie::UpdatedNull, "updated", true),
        (Lie::IdMissing, "id", false),
    ] {
        let mut client = lying(lie);
        client.later(10);
        let honest = {
            client.cloud.set_faults(Faults::none());
            let honest = client.listing();
            client.cloud.set_faults(Faults::none().with(lie, 1.0));
            honest
        };
        let told = client.listing();
        let changed: Vec<usize> = (0..2).filter(|at| told[*at] != honest[*at]).collect();
        assert_eq!(changed.len(), 1, "{lie:?}");
        let server = &told[changed[0]];
        let expected = if null { Some(&Value::Null) } else { None };
        assert_eq!(server.get(member), expected, "{lie:?}");
        assert_eq!(client.done(lie.name()), 1);
    }
}

#[test]
fn a_refused_listing_is_left_alone() {
    let mut client = lying(Lie::Empty);
    let reply = client.get(&format!("{LIST}?marker=x"));
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(client.cloud.faults_done().is_empty());
}
