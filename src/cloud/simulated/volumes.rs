//! The volume service: as much of Cinder v3 as it takes to see the volumes that servers boot from.
//! Like those that Nova makes they have neither name nor metadata, and they go with their servers.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, Asked};
use super::project::{Phase, Server, Volume};
use super::region::Region;

/// Answers a request below `/v3/PROJECT/volumes`; `path` is what follows.
pub(super) fn answer(region: &Region, asked: &Asked, path: &[&str]) -> Answer {
    match (&asked.method, path) {
        (&Method::GET, ["detail"]) => Answer::json(StatusCode::OK, list(region)),
        _ => Answer::no_such_resource(),
    }
}

/// All of them, on one page.
fn list(region: &Region) -> Value {
    let volumes: Vec<Value> = region.read(|project| {
        let servers = project.kept().servers.iter();
        let volumes = servers.filter_map(|server| Some(detail(server, server.volume.as_ref()?)));
        volumes.collect()
    });
    json!({"volumes": volumes})
}

fn detail(server: &Server, volume: &Volume) -> Value {
    let attached = server.phase == Phase::Active || server.phase == Phase::Shutoff;
    let attachments: Vec<Value> = attached
        .then(|| json!({"server_id": server.id, "volume_id": volume.id, "device": "/dev/vda"}))
        .into_iter()
        .collect();
    json!({
        "id": volume.id,
        "name": "",
        "description": "",
        "metadata": {},
        "size": volume.gigabytes,
        "status": if attached { "in-use" } else { "downloading" },
        "bootable": "true",
        "attachments": attachments,
        "volume_image_metadata": {"image_id": volume.image},
        "availability_zone": server.zone,
        "created_at": server.created.to_rfc3339().replace('Z', ".000000"),
    })
}
