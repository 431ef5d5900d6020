//! The image service.

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::Refusal;
use super::call::{Service, parameter};
use super::keystone::PROJECT_ID;
use super::{Ask, Cloud, Image, Reply};

impl Cloud {
    /// `GET /v2/images`, by `name` when that is asked for. They are all on one page.
    pub(super) fn list_images(&self, ask: &Ask) -> Reply {
        let name = parameter(&ask.url, "name");
        let images: Vec<Value> = self
            .setup
            .images
            .iter()
            .filter(|image| name.as_ref().is_none_or(|name| image.name == *name))
            .map(detail)
            .collect();
        Reply::ok(&json!({
            "images": images, "first": "/v2/images", "schema": "/v2/schemas/images",
        }))
    }

    /// `GET /v2/images/ID`.
    pub(super) fn show_image(&self, id: &str) -> Reply {
        match self.setup.images.iter().find(|image| image.id == id) {
            Some(image) => Reply::json(StatusCode::OK, &detail(image)),
            None => Refusal::NotFound(format!("No image found with ID {id}")).reply(Service::Image),
        }
    }
}

fn detail(image: &Image) -> Value {
    json!({
        "id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": "private",
        "owner": PROJECT_ID,
        "min_ram": 0,
        "min_disk": 0,
        "created_at": "2016-01-01T00:00:00Z",
        "updated_at": "2016-01-01T00:00:00Z",
        "self": format!("/v2/images/{}", image.id),
        "schema": "/v2/schemas/image",
    })
}
