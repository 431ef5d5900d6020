//! Who may talk to the cloud, and for how long.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::{Account, ApplicationCredential, Maker, Setup};
use super::{Client, json_of, password};

const LOGIN: &str = "/identity/v3/auth/tokens";
const LIST: &str = "/compute/v2.1/servers/detail";

fn log_in(client: &mut Client, body: &Value) -> StatusCode {
    client.reply(Method::POST, LOGIN, body).status
}

#[test]
fn the_version_document_offers_version_3() {
    let mut client = Client::new(Setup::default());
    let all = client.get("/identity");
    assert_eq!(all.status, StatusCode::MULTIPLE_CHOICES);
    assert_eq!(json_of(&all)["versions"]["values"][0]["id"], "v3.14");
    let one = client.get("/identity/v3/");
    assert_eq!(json_of(&one)["version"]["id"], "v3.14");
    let nova = client.get("/compute/v2.1");
    assert_eq!(json_of(&nova)["version"]["id"], "v2.1");
}

#[test]
fn only_the_right_password_for_the_right_project_gets_a_token() {
    let mut client = Client::new(Setup::default());
    let good = password("vcycle");
    assert_eq!(log_in(&mut client, &good), StatusCode::CREATED);
    for (at, value) in [
        ("/auth/identity/password/user/name", "x"),
        ("/auth/identity/password/user/password", "x"),
        ("/auth/identity/password/user/domain/id", "x"),
        ("/auth/scope/project/name", "x"),
        ("/auth/scope/project/domain/id", "x"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(at).unwrap() = json!(value);
        assert_eq!(log_in(&mut client, &bad), StatusCode::UNAUTHORIZED, "{at}");
    }
}

#[test]
fn an_application_credential_is_bound_to_its_project() {
    let mut client = Client::new(Setup::default());
    let given = json!({"id": "model-credential", "secret": "model-secret"});
    let identity = json!({"methods": ["application_credential"], "application_credential": given});
    let mut body = json!({"auth": {"identity": identity}});
    let reply = client.reply(Method::POST, LOGIN, &body);
    assert_eq!(reply.status, StatusCode::CREATED);
    let catalog = &json_of(&reply)["token"]["catalog"];
    assert_eq!(
        catalog[1]["endpoints"][2]["url"],
        "http://cloud.test/compute/v2.1"
    );
    body["auth"]["scope"] = json!({"project": {"name": "grid", "domain": {"id": "default"}}});
    assert_eq!(log_in(&mut client, &body), StatusCode::UNAUTHORIZED);
}

#[test]
fn without_a_scope_there_is_a_token_without_catalog_that_is_good_for_nothing() {
    let mut client = Client::new(Setup::default());
    let mut body = password("vcycle");
    body["auth"].as_object_mut().unwrap().remove("scope");
    let reply = client.reply(Method::POST, LOGIN, &body);
    assert!(json_of(&reply)["token"].get("catalog").is_none());
    let token = reply.headers["x-subject-token"].to_str().unwrap();
    client.token = Some(token.to_owned());
    assert_eq!(client.get(LIST).status, StatusCode::UNAUTHORIZED);
}

#[test]
fn a_token_ends_with_its_life_by_the_clouds_clock_or_when_it_is_revoked() {
    let mut client = Client::new(Setup::default());
    client.later(3599);
    assert_eq!(client.get(LIST).status, StatusCode::OK);
    client.later(1);
    assert_eq!(client.get(LIST).status, StatusCode::UNAUTHORIZED);
    client.cloud.step_clock(-3600);
    assert_eq!(client.get(LIST).status, StatusCode::OK);
    client.cloud.revoke_tokens();
    assert_eq!(client.get(LIST).status, StatusCode::UNAUTHORIZED);
    client.log_in();
    assert_eq!(client.get(LIST).status, StatusCode::OK);
    client.token = None;
    assert_eq!(client.get(LIST).status, StatusCode::UNAUTHORIZED);
}

#[test]
fn the_truth_names_the_user_of_each_request() {
    let mut setup = Setup::default();
    setup.accounts.push(Account {
        user: "other".to_owned(),
        password: "model-password".to_owned(),
        credential: Some(ApplicationCredential {
            id: "other-credential".to_owned(),
            secret: "other-secret".to_owned(),
        }),
    });
    let mut client = Client::new(setup);
    let id = client.server("vcycle-a-1");
    let reply = client.reply(Method::POST, LOGIN, &password("other"));
    client.token = Some(
        reply.headers["x-subject-token"]
            .to_str()
            .unwrap()
            .to_owned(),
    );
    client.delete(&id);
    let server = client.cloud.server(&id).unwrap();
    let user = "vcycle".to_owned();
    assert_eq!(server.maker, Maker::Request { user });
    assert_eq!(server.deletions[0].by, "other");
}
