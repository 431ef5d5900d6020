//! One server as Nova shows it at the default microversion.

use serde_json::{Map, Value, json};

use super::answer::{iso, iso_without_zone};
use super::keystone::PROJECT_ID;
use super::server::{Phase, Server};

/// Where a server is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Listing,
    Own,
}

/// The server's document. `base` is the cloud's address.
pub(super) fn detail(base: &str, server: &Server, now: u64, place: Place) -> Value {
    let placed = server.told.launched.is_some();
    let zone = if placed { server.zone.as_str() } else { "" };
    let (vm_state, power_state) = states(server, now);
    let mut detail = json!({
        "id": server.id,
        "name": server.name,
        "status": server.status(),
        "tenant_id": PROJECT_ID,
        "user_id": PROJECT_ID,
        "metadata": server.metadata,
        "hostId": zone,
        "image": {"id": server.image, "links": []},
        "flavor": {"id": server.flavor, "links": []},
        "created": iso(server.told.created),
        "updated": iso(server.told.updated),
        "addresses": addresses(server),
        "accessIPv4": "",
        "accessIPv6": "",
        "links": [{"rel": "self", "href": format!("{base}/compute/v2.1/servers/{}", server.id)}],
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": zone,
        "config_drive": "",
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": server.told.launched.map(iso_without_zone),
        "OS-SRV-USG:terminated_at": null,
        "OS-EXT-STS:task_state": task_state(server),
        "OS-EXT-STS:vm_state": vm_state,
        "OS-EXT-STS:power_state": power_state,
        "os-extended-volumes:volumes_attached": [],
    });
    if let Some(members) = detail.as_object_mut() {
        add_failure(members, server, now, place);
    }
    detail
}

fn add_failure(members: &mut Map<String, Value>, server: &Server, now: u64, place: Place) {
    let Some(failure) = &server.failure else {
        return;
    };
    if now < failure.readable_from || (place == Place::Listing && !failure.listed) {
        return;
    }
    let fault = json!({"code": 500, "created": iso(failure.at), "message": failure.message});
    members.insert("fault".to_owned(), fault);
}

fn addresses(server: &Server) -> Value {
    if server.told.launched.is_none() {
        return json!({});
    }
    json!({"model-net": [{
        "version": 4,
        "addr": server.address,
        "OS-EXT-IPS:type": "fixed",
        "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
    }]})
}

fn task_state(server: &Server) -> Option<&'static str> {
    if server.deleting.is_some() {
        return Some("deleting");
    }
    match server.phase {
        Phase::Build => Some("spawning"),
        Phase::Reboot { .. } => Some("rebooting"),
        Phase::Resize { .. } => Some("resize_migrating"),
        Phase::Active
        | Phase::Shutoff
        | Phase::Paused
        | Phase::Suspended
        | Phase::Error
        | Phase::VerifyResize { .. } => None,
    }
}

/// Nova's `vm_state` and `power_state`.
fn states(server: &Server, now: u64) -> (&'static str, u32) {
    match server.phase {
        Phase::Build => ("building", 0),
        Phase::Active if server.blinks_until.is_some_and(|until| now < until) => ("active", 0),
        Phase::Active | Phase::Reboot { .. } | Phase::Resize { .. } => ("active", 1),
        Phase::VerifyResize { .. } => ("resized", 1),
        Phase::Shutoff => ("stopped", 4),
        Phase::Paused => ("paused", 3),
        Phase::Suspended => ("suspended", 4),
        Phase::Error => ("error", 0),
    }
}
