//! Uploads to a scripted Glance: what a real one does not do on demand.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use vcycle::clock::Clock;
use vcycle::cloud::http::{FileBody, HttpTimes};
use vcycle::cloud::openstack::OpenStack;
use vcycle::cloud::{Cloud, CloudErrorKind, FoundImage, ImageFormat, NewImage, UploadProgress};
use vcycle::model::{CloudId, FactoryName, Owner, SpaceName};

use crate::openstack_adapter::{NOW, connect, connect_with, options, ordinary, times};
use crate::scripted::{Reply, Scripted, Seen};

const LIST: &str = "/glance/v2/images";
const DIGEST: &str = "00112233445566778899aabbccddeeff";

fn wanted() -> NewImage {
    NewImage {
        name: "disk.img 2026-01-01T00:00:00Z".to_owned(),
        owner: Owner {
            space: SpaceName::new("space.example.org").unwrap(),
            manager: FactoryName::new("factory.example.org").unwrap(),
        },
        digest: DIGEST.to_owned(),
        format: ImageFormat::Raw,
    }
}

fn ours() -> Vec<String> {
    let [space, manager] = wanted().owner.words();
    vec![space, manager, format!("image={DIGEST}")]
}

fn described(id: &str, status: &str, tags: &[String]) -> Value {
    json!({"id": id, "name": "x", "status": status, "size": 600_000, "tags": tags,
        "created_at": format!("2026-01-01T00:00:0{}Z", id.len())})
}

fn file(size: usize) -> (File, FileBody) {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..size)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    file.write_all(&bytes).unwrap();
    let body = FileBody::new(file.try_clone().unwrap()).unwrap();
    (file, body)
}

/// A Glance that does as it should, apart from what `other` says.
async fn glance(other: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Scripted {
    Scripted::start(move |seen, base| {
        if let Some(reply) = other(seen) {
            return reply;
        }
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", LIST) => Reply::json(200, json!({"images": []})),
            ("POST", LIST) => Reply::json(201, described("new", "queued", &ours())),
            ("PUT", "/glance/v2/images/new/file") => Reply::json(204, ""),
            ("GET", "/glance/v2/images/new") => {
                Reply::json(200, described("new", "active", &ours()))
            }
            ("DELETE", path) if path.starts_with(LIST) => Reply::json(204, ""),
            _ => ordinary(seen, base),
        }
    })
    .await
}

async fn upload(cloud: &OpenStack) -> Result<CloudId, vcycle::cloud::CloudError> {
    let (_file, body) = file(600_000);
    cloud
        .upload_image(&wanted(), &body, &UploadProgress::default())
        .await
}

fn deleted(glance: &Scripted) -> Vec<String> {
    let seen = glance
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "DELETE");
    seen.map(|seen| seen.path.rsplit('/').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn copies_are_found_on_all_pages_by_all_of_their_marks() {
    let glance = glance(|seen| {
        if !seen.is("GET", LIST) {
            return None;
        }
        let mut others = ours();
        others[2] = "image=other".to_owned();
        let mut strangers = ours();
        strangers.push("space=other".to_owned());
        let page = match seen.query.contains("marker") {
            false => json!({"next": "/v2/images?marker=older", "images": [
                described("of-another-content", "active", &others),
                described("of-somebody-else", "active", &strangers),
                described("half", "saving", &ours()),
                described("never-begun", "queued", &ours()),
            ]}),
            true => json!({"next": null, "images": [
                described("younger", "active", &ours()),
                described("older", "active", &ours()),
                described("half", "saving", &ours()),
                described("dead", "killed", &ours()),
                described("switched-off", "deactivated", &ours()),
            ]}),
        };
        Some(Reply::json(200, page))
    })
    .await;
    let found = connect(&glance).find_image(&wanted()).await.unwrap();
    let expected = FoundImage {
        ready: Some(CloudId::new("older")),
        unfinished: vec![CloudId::new("never-begun"), CloudId::new("half")],
    };
    assert_eq!(found, expected);
    let query = &glance
        .seen()
        .into_iter()
        .find(|seen| seen.is("GET", LIST))
        .unwrap()
        .query;
    let asked = "tag=space%3Dspace.example.org&tag=manager%3Dfactory.example.org\
                 &tag=image%3D00112233445566778899aabbccddeeff&visibility=private";
    assert!(query.starts_with(asked), "{query}");
}

#[tokio::test]
async fn pages_that_do_not_end_are_an_error() {
    let glance = glance(|seen| {
        let page = json!({"next": "/v2/images?marker=x", "images": []});
        seen.is("GET", LIST).then(|| Reply::json(200, page))
    })
    .await;
    let error = connect(&glance).find_image(&wanted()).await.unwrap_err();
    assert!(error.message.contains("do not end"), "{error}");
}

#[tokio::test]
async fn an_upload_replaces_what_is_dead_and_is_private_and_marked() {
    let glance = glance(|seen| {
        let dead = [
            described("dead", "saving", &ours()),
            described("dead2", "queued", &ours()),
        ];
        seen.is("GET", LIST)
            .then(|| Reply::json(200, json!({"images": dead})))
    })
    .await;
    let progress = UploadProgress::default();
    let (_file, body) = file(600_000);
    let id = connect(&glance)
        .upload_image(&wanted(), &body, &progress)
        .await
        .unwrap();
    assert_eq!(id.as_str(), "new");
    assert_eq!(progress.id(), Some(id));
    assert_eq!(body.sent(), 600_000);
    assert_eq!(deleted(&glance), ["dead", "dead2"]);
    let seen = glance.seen();
    let made = seen
        .iter()
        .find(|seen| seen.is("POST", LIST))
        .unwrap()
        .json();
    let expected = json!({"name": "disk.img 2026-01-01T00:00:00Z", "disk_format": "raw",
        "container_format": "bare", "visibility": "private", "tags": ours()});
    assert_eq!(made, expected);
    let sent = seen.iter().find(|seen| seen.method == "PUT").unwrap();
    assert_eq!(sent.header("content-length"), "600000");
    assert_eq!(sent.header("content-type"), "application/octet-stream");
    assert_eq!(sent.header("x-auth-token"), "token-1");
    assert!(
        sent.body
            .iter()
            .enumerate()
            .all(|(at, byte)| usize::from(*byte) == at % 251)
    );
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_and_all_is_sent_again() {
    let glance = glance(|seen| {
        let refused = seen.method == "PUT" && seen.header("x-auth-token") == "token-1";
        refused.then(|| Reply::json(401, json!({"message": "expired"})))
    })
    .await;
    upload(&connect(&glance)).await.unwrap();
    let seen = glance.seen();
    let sent: Vec<usize> = seen
        .iter()
        .filter(|s| s.method == "PUT")
        .map(|s| s.body.len())
        .collect();
    assert_eq!(sent, [600_000, 600_000]);
    assert!(deleted(&glance).is_empty());
}

#[tokio::test]
async fn an_upload_that_fails_is_told_and_removed() {
    let put = |reply: Reply| move |seen: &Seen| (seen.method == "PUT").then(|| reply.clone());
    let shown = |status: &'static str, size: u64| {
        move |seen: &Seen| {
            let mut image = described("new", status, &ours());
            image["size"] = size.into();
            seen.is("GET", "/glance/v2/images/new")
                .then(|| Reply::json(200, image.clone()))
        }
    };
    type Other = Box<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;
    let full =
        "<html><body><h1>413 Request Entity Too Large</h1>The quota is exceeded</body></html>";
    let cases: Vec<(&str, Other, CloudErrorKind, &str)> = vec![
        (
            "quota",
            Box::new(put(Reply::html(413, full))),
            CloudErrorKind::Quota,
            "quota is exceeded",
        ),
        (
            "trouble",
            Box::new(put(Reply::html(503, "<h1>x</h1>"))),
            CloudErrorKind::Transient,
            "503",
        ),
        (
            "reset",
            Box::new(put(Reply::Reset)),
            CloudErrorKind::Transient,
            "",
        ),
        (
            "gone",
            Box::new(put(Reply::json(404, ""))),
            CloudErrorKind::NotFound,
            "404",
        ),
        (
            "short",
            Box::new(shown("active", 599_999)),
            CloudErrorKind::Rejected,
            "has 599999 bytes of its 600000",
        ),
        (
            "killed",
            Box::new(shown("killed", 600_000)),
            CloudErrorKind::Rejected,
            "is \"killed\" now",
        ),
        (
            "back to nothing",
            Box::new(shown("queued", 0)),
            CloudErrorKind::Rejected,
            "has taken none of it",
        ),
    ];
    for (what, other, kind, why) in cases {
        let glance = glance(other).await;
        let error = upload(&connect(&glance)).await.expect_err(what);
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert!(error.to_string().contains(why), "{what}: {error}");
        assert_eq!(deleted(&glance), ["new"], "{what}");
    }
    let glance = glance(|seen| {
        let refused = json!({"message": "You are not authorized to complete create_image action."});
        seen.is("POST", LIST).then(|| Reply::json(403, refused))
    })
    .await;
    let error = upload(&connect(&glance)).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Auth);
    assert!(error.message.contains("not authorized"), "{error}");
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_is_not_taken_for_what_it_was() {
    let (changing, body) = file(600_000);
    let changing = Arc::new(Mutex::new(changing));
    let glance = glance(move |seen| {
        if seen.method == "PUT" {
            changing.lock().unwrap().write_all(b"more").unwrap();
        }
        None
    })
    .await;
    let cloud = connect(&glance);
    let error = cloud
        .upload_image(&wanted(), &body, &UploadProgress::default())
        .await;
    assert!(error.unwrap_err().message.contains("was changed while"));
    assert_eq!(deleted(&glance), ["new"]);

    let (shorter, body) = file(600_000);
    shorter.set_len(300_000).unwrap();
    let error = cloud
        .upload_image(&wanted(), &body, &UploadProgress::default())
        .await;
    assert!(error.unwrap_err().message.contains("became shorter"));
}

/// A Glance that reads the head of an upload and then nothing more.
async fn deaf_glance() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut head).await {
                    let text = String::from_utf8_lossy(&head[..read]).into_owned();
                    let (status, body) = match text.split(' ').next().unwrap() {
                        "GET" => (200, json!({"images": []})),
                        "POST" => (201, described("new", "queued", &ours())),
                        "DELETE" => (204, Value::Null),
                        _ => std::future::pending().await,
                    };
                    let body = if status == 204 {
                        String::new()
                    } else {
                        body.to_string()
                    };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    base
}

#[tokio::test]
async fn an_upload_that_does_not_move_ends_and_one_that_moves_may_take_long() {
    let quick = HttpTimes {
        request: Duration::from_secs(1),
        call: Duration::from_secs(2),
        ..times()
    };
    let cloud = |server: &Scripted| {
        let options = options(&format!("{}/identity/v3", server.base));
        connect_with(&options, &PathBuf::new(), Clock::manual(NOW), quick)
    };
    let deaf = deaf_glance().await;
    let keystone = Scripted::start(move |seen, base| match ordinary(seen, base) {
        Reply::Say {
            status,
            headers,
            body,
        } => Reply::Say {
            status,
            headers,
            body: body.replace(&format!("{base}/glance"), &deaf),
        },
        other => other,
    })
    .await;
    // More than what fits between two sockets.
    let (_file, body) = file(32_000_000);
    let progress = UploadProgress::default();
    let error = cloud(&keystone)
        .upload_image(&wanted(), &body, &progress)
        .await
        .unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Transient);
    assert!(
        error.message.contains("nothing moved for 1 s after"),
        "{error}"
    );

    // It has all of it, and does not answer.
    let silent = glance(|seen| (seen.method == "PUT").then_some(Reply::Hang)).await;
    let error = upload(&cloud(&silent)).await.unwrap_err();
    assert!(
        error.message.contains("nothing moved for 2 s after 600000"),
        "{error}"
    );
}
