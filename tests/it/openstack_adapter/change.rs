//! Creates and deletes: sent once, and told as what they are.

use super::*;

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
