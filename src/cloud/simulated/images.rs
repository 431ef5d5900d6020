//! The image service: the part of Glance v2 that vcycled uses. Of an image that is uploaded only its
//! size is kept.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Answer, Asked};
use super::compute::refuse_when_read_only;
use super::identity::PROJECT_ID;
use super::offer::{self, Image};
use super::project::Refusal;
use super::region::Region;
use crate::model::Timestamp;

/// The most images that are kept.
const MAX_IMAGES: usize = 100;

/// An image that somebody has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptImage {
    pub id: String,
    pub name: String,
    pub disk_format: String,
    pub tags: Vec<String>,
    pub created: Timestamp,
    /// Its bytes; `None` while they have not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    disk_format: String,
    #[serde(default)]
    tags: Vec<String>,
}

/// Whether the body of a request is an image, of which only the size is wanted.
pub(super) fn is_upload(method: &Method, path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    *method == Method::PUT && matches!(path.as_slice(), ["v2", "images", _, "file"])
}

/// Answers a request below `/v2/images`; `path` is what follows.
pub(super) fn answer(region: &Region, asked: &Asked, path: &[&str]) -> Answer {
    match (&asked.method, path) {
        (&Method::GET, []) => list(region, asked),
        (&Method::GET, [id]) => show(region, id).into(),
        (&Method::POST, []) => make(region, asked).into(),
        (&Method::PUT, [id, "file"]) => fill(region, asked, id).into(),
        (&Method::DELETE, [id]) => remove(region, id).into(),
        _ => Answer::no_such_resource(),
    }
}

/// `GET /v2/images`, by `name` and `tag` when that is asked for. They all fit on one page.
fn list(region: &Region, asked: &Asked) -> Answer {
    let name = asked.parameter("name");
    let tags = asked.query.iter().filter(|(key, _)| key == "tag");
    let tags: Vec<&str> = tags.map(|(_, tag)| tag.as_str()).collect();
    let kept = region.read(|project| project.kept().images.clone());
    let offered = offer::IMAGES.iter().map(offered);
    let images: Vec<Value> = offered
        .chain(kept.iter().map(detail))
        .filter(|image| name.is_none_or(|name| image["name"] == name))
        .filter(|image| tags.iter().all(|tag| has_tag(image, tag)))
        .collect();
    Answer::json(
        StatusCode::OK,
        json!({"images": images, "first": "/v2/images", "schema": "/v2/schemas/images"}),
    )
}

fn has_tag(image: &Value, wanted: &str) -> bool {
    let tags = image["tags"].as_array();
    tags.is_some_and(|tags| tags.iter().any(|tag| tag == wanted))
}

fn show(region: &Region, id: &str) -> Result<Answer, Refusal> {
    let kept = region.read(|project| project.image(id).map(detail));
    let found = offer::image(id).map(offered).or(kept);
    let found = found.ok_or_else(|| no_such_image(id))?;
    Ok(Answer::json(StatusCode::OK, found))
}

fn make(region: &Region, asked: &Asked) -> Result<Answer, Refusal> {
    let wanted: Wanted = serde_json::from_slice(&asked.body)
        .map_err(|error| Refusal::BadRequest(format!("Provided object does not match: {error}")))?;
    refuse_when_read_only(region)?;
    let now = region.clock.now();
    let made = region.change(|project| {
        let images = project.kept().images.len();
        if images >= MAX_IMAGES {
            let why = format!("Resource image_count_total is over limit of {MAX_IMAGES}");
            return Err(Refusal::Forbidden(why));
        }
        let image = KeptImage {
            id: project.identifier(),
            name: wanted.name,
            disk_format: wanted.disk_format,
            tags: wanted.tags,
            created: now,
            size: None,
        };
        project.images().push(image.clone());
        Ok(image)
    })?;
    Ok(Answer::json(StatusCode::CREATED, detail(&made)))
}

fn fill(region: &Region, asked: &Asked, id: &str) -> Result<Answer, Refusal> {
    refuse_when_read_only(region)?;
    let size = asked.uploaded.unwrap_or_default();
    region.change(|project| {
        let mut images = project.images().iter_mut();
        let image = images.find(|image| image.id == id);
        let image = image.ok_or_else(|| no_such_image(id))?;
        if image.size.is_some() {
            let why = "Image status transition from active to saving is not allowed".to_owned();
            return Err(Refusal::Conflict(why));
        }
        image.size = Some(size);
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    })
}

fn remove(region: &Region, id: &str) -> Result<Answer, Refusal> {
    refuse_when_read_only(region)?;
    region.change(|project| {
        let before = project.images().len();
        project.images().retain(|image| image.id != id);
        if project.images().len() == before {
            return Err(no_such_image(id));
        }
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    })
}

fn no_such_image(id: &str) -> Refusal {
    Refusal::NotFound(format!("No image found with ID {id}"))
}

fn offered(image: &Image) -> Value {
    detail(&KeptImage {
        id: image.id.to_owned(),
        name: image.name.to_owned(),
        disk_format: "raw".to_owned(),
        tags: Vec::new(),
        created: Timestamp::from_unix(1_451_606_400),
        size: Some(20_971_520),
    })
}

fn detail(image: &KeptImage) -> Value {
    let created = image.created.to_rfc3339();
    json!({
        "id": image.id,
        "name": image.name,
        "status": if image.size.is_some() { "active" } else { "queued" },
        "visibility": "private",
        "disk_format": image.disk_format,
        "container_format": "bare",
        "size": image.size,
        "min_ram": 0,
        "min_disk": 0,
        "owner": PROJECT_ID,
        "os_hidden": false,
        "protected": false,
        "created_at": created,
        "updated_at": created,
        "tags": image.tags,
        "self": format!("/v2/images/{}", image.id),
        "file": format!("/v2/images/{}/file", image.id),
        "schema": "/v2/schemas/image",
    })
}
