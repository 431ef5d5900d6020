//! The image service: the part of Glance v2 that vcycled uses.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, Asked};
use super::identity::PROJECT_ID;
use super::offer::{self, Image};

/// Answers a request below `/v2/images`; `path` is what follows.
pub(super) fn answer(asked: &Asked, path: &[&str]) -> Answer {
    match (&asked.method, path) {
        (&Method::GET, []) => list(asked),
        (&Method::GET, [id]) => match offer::image(id) {
            Some(image) => Answer::json(StatusCode::OK, detail(image)),
            None => Answer::empty(StatusCode::NOT_FOUND),
        },
        _ => Answer::no_such_resource(),
    }
}

/// `GET /v2/images`, by `name` when that is asked for. They all fit on one page.
fn list(asked: &Asked) -> Answer {
    let name = asked.parameter("name");
    let images: Vec<Value> = offer::IMAGES
        .iter()
        .filter(|image| name.is_none_or(|name| image.name == name))
        .map(detail)
        .collect();
    Answer::json(
        StatusCode::OK,
        json!({"images": images, "first": "/v2/images", "schema": "/v2/schemas/images"}),
    )
}

fn detail(image: &Image) -> Value {
    json!({
        "id": image.id,
        "name": image.name,
        "status": "active",
        "visibility": "private",
        "disk_format": "raw",
        "container_format": "bare",
        "size": 20_971_520,
        "min_ram": 0,
        "min_disk": 0,
        "owner": PROJECT_ID,
        "os_hidden": false,
        "protected": false,
        "created_at": "2016-01-01T00:00:00Z",
        "updated_at": "2016-01-01T00:00:00Z",
        "tags": [],
        "self": format!("/v2/images/{}", image.id),
        "file": format!("/v2/images/{}/file", image.id),
        "schema": "/v2/schemas/image",
    })
}
