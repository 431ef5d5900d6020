//! The compute service: the part of Nova v2.1 that vcycled uses, in Nova's formats.

use http::{HeaderName, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::model::Timestamp;

use super::answer::{Answer, Asked, Next};
use super::identity::PROJECT_ID;
use super::keypairs;
use super::offer;
use super::order::Order;
use super::project::{Phase, Project, Refusal, Server};
use super::region::Region;

/// Nova's `max_limit`: the most servers on one page.
const MAX_PAGE: usize = 1000;

/// Answers a request below `/v2.1`; `path` is what follows.
pub(super) fn answer(region: &Region, asked: &Asked, path: &[&str]) -> Answer {
    match (&asked.method, path) {
        (&Method::GET, []) => version(region),
        (&Method::GET, ["flavors", "detail"]) => flavors(region),
        (&Method::GET, ["limits"]) => limits(region),
        (&Method::GET, ["servers", "detail"]) => servers(region, asked).into(),
        (&Method::POST, ["servers"]) => create(region, asked).into(),
        (&Method::GET, ["servers", id]) => server(region, id).into(),
        (&Method::DELETE, ["servers", id]) => delete(region, id).into(),
        (&Method::GET, ["os-keypairs"]) => keypairs::list(region),
        (&Method::POST, ["os-keypairs"]) => keypairs::import(region, asked).into(),
        (&Method::GET, ["os-keypairs", name]) => keypairs::show(region, name).into(),
        (&Method::DELETE, ["os-keypairs", name]) => keypairs::delete(region, name).into(),
        _ => Answer::no_such_resource(),
    }
}

fn version(region: &Region) -> Answer {
    Answer::json(
        StatusCode::OK,
        json!({"version": {
            "id": "v2.1",
            "status": "CURRENT",
            "version": "2.1",
            "min_version": "2.1",
            "updated": "2013-07-23T11:33:21Z",
            "links": [{"rel": "self", "href": format!("{}/v2.1/", region.base)}],
        }}),
    )
}

fn flavors(region: &Region) -> Answer {
    let flavors: Vec<Value> = offer::FLAVORS
        .iter()
        .map(|flavor| {
            json!({
                "id": flavor.id,
                "name": flavor.name,
                "ram": flavor.memory_mb,
                "disk": flavor.disk_gb,
                "swap": "",
                "OS-FLV-EXT-DATA:ephemeral": 0,
                "OS-FLV-DISABLED:disabled": false,
                "vcpus": flavor.processors,
                "os-flavor-access:is_public": true,
                "rxtx_factor": 1.0,
                "links": links(region, "flavors", flavor.id),
            })
        })
        .collect();
    Answer::json(StatusCode::OK, json!({"flavors": flavors}))
}

fn limits(region: &Region) -> Answer {
    let usage = region.read(Project::usage);
    Answer::json(
        StatusCode::OK,
        json!({"limits": {"rate": [], "absolute": {
            "maxTotalInstances": usage.max_machines,
            "maxTotalCores": usage.max_processors,
            "maxTotalRAMSize": -1,
            "maxServerMeta": 128,
            "maxTotalKeypairs": 100,
            "totalRAMUsed": usage.memory_mb,
            "totalCoresUsed": usage.processors,
            "totalInstancesUsed": usage.machines,
        }}}),
    )
}

/// `GET /servers/detail`: newest first, in pages.
fn servers(region: &Region, asked: &Asked) -> Result<Answer, Refusal> {
    let limit = page_size(asked.parameter("limit"))?;
    let marker = asked.parameter("marker");
    let page = region.read(|project| {
        let servers = &project.kept().servers;
        let end = match marker {
            None => servers.len(),
            Some(marker) => servers
                .iter()
                .position(|server| server.id == marker)
                .ok_or_else(|| Refusal::BadRequest(format!("marker [{marker}] not found")))?,
        };
        let rest = servers.get(..end).unwrap_or_default();
        Ok(rest.iter().rev().take(limit).cloned().collect::<Vec<_>>())
    })?;

    let detailed: Vec<Value> = page.iter().map(|server| detail(region, server)).collect();
    let mut body = Map::new();
    body.insert("servers".to_owned(), Value::Array(detailed));
    if let Some(last) = page.last()
        && page.len() == limit
    {
        // The page size that was asked for is repeated, not the one that was given.
        let size = asked
            .parameter("limit")
            .map_or_else(String::new, |limit| format!("limit={limit}&"));
        let next = format!(
            "{}/v2.1/servers/detail?{size}marker={}",
            region.base, last.id
        );
        body.insert(
            "servers_links".to_owned(),
            json!([{"rel": "next", "href": next}]),
        );
    }
    Ok(Answer::json(StatusCode::OK, Value::Object(body)))
}

fn page_size(limit: Option<&str>) -> Result<usize, Refusal> {
    let Some(limit) = limit.filter(|limit| !limit.is_empty()) else {
        return Ok(MAX_PAGE);
    };
    if !limit.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::BadRequest(format!(
            "Invalid input for query parameters limit. Value: {limit}. '{limit}' does not match \
             '^[0-9]*$'"
        )));
    }
    // A number that is too large for the type is too large for a page, too.
    Ok(limit.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE))
}

fn server(region: &Region, id: &str) -> Result<Answer, Refusal> {
    let server = region.read(|project| project.server(id).cloned())?;
    Ok(Answer::json(
        StatusCode::OK,
        json!({"server": detail(region, &server)}),
    ))
}

/// `POST /servers`: the answer has no name and no status, as with Nova.
fn create(region: &Region, asked: &Asked) -> Result<Answer, Refusal> {
    let malformed = |error: serde_json::Error| {
        Refusal::BadRequest(format!("Invalid input for field/attribute server. {error}"))
    };
    let mut body: Map<String, Value> = serde_json::from_slice(&asked.body)
        .map_err(|_| Refusal::BadRequest("Malformed request body".to_owned()))?;
    let order: Order =
        serde_json::from_value(body.remove("server").unwrap_or_default()).map_err(malformed)?;
    refuse_when_read_only(region)?;
    let now = region.clock.now();
    let server = region.change(|project| project.create(order, now))?;
    let links = links(region, "servers", &server.id);
    let location = format!("{}/v2.1/servers/{}", region.base, server.id);
    Ok(Answer::json(
        StatusCode::ACCEPTED,
        json!({"server": {
            "id": server.id,
            "links": links,
            "OS-DCF:diskConfig": "MANUAL",
            "security_groups": security_groups(&server),
            "adminPass": "simulated",
        }}),
    )
    .with_header(HeaderName::from_static("location"), location)
    .then(Next::Boot(server.id)))
}

fn delete(region: &Region, id: &str) -> Result<Answer, Refusal> {
    refuse_when_read_only(region)?;
    let now = region.clock.now();
    region.change(|project| project.delete(id, now))?;
    Ok(Answer::empty(StatusCode::NO_CONTENT).then(Next::Remove(id.to_owned())))
}

/// What is read beside a running daemon belongs to that daemon.
pub(super) fn refuse_when_read_only(region: &Region) -> Result<(), Refusal> {
    if region.read_only {
        return Err(Refusal::Forbidden(
            "This is a view of the simulated cloud; nothing can be changed through it.".to_owned(),
        ));
    }
    Ok(())
}

/// One server as `/servers/detail` shows it.
fn detail(region: &Region, server: &Server) -> Value {
    let built = matches!(server.phase, Phase::Active | Phase::Shutoff);
    let (status, vm_state, power_state) = match server.phase {
        Phase::Building => ("BUILD", "building", 0),
        Phase::Active => ("ACTIVE", "active", 1),
        Phase::Shutoff => ("SHUTOFF", "stopped", 4),
        Phase::Failed => ("ERROR", "error", 0),
    };
    let task_state = match (server.gone_at, server.phase) {
        (Some(_), _) => Some("deleting"),
        (None, Phase::Building) => Some("spawning"),
        (None, Phase::Active | Phase::Shutoff | Phase::Failed) => None,
    };
    let mut detail = json!({
        "id": server.id,
        "name": server.name,
        "status": status,
        "tenant_id": PROJECT_ID,
        "user_id": PROJECT_ID,
        "metadata": server.metadata,
        "hostId": if built { server.zone.as_str() } else { "" },
        "image": image(region, server),
        "flavor": {"id": server.flavor, "links": links(region, "flavors", &server.flavor)},
        "created": server.created.to_rfc3339(),
        "updated": server.updated.to_rfc3339(),
        "addresses": addresses(server),
        "accessIPv4": "",
        "accessIPv6": "",
        "links": links(region, "servers", &server.id),
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": if built { server.zone.as_str() } else { "" },
        "config_drive": "",
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": server.launched.map(micros_without_zone),
        "OS-SRV-USG:terminated_at": null,
        "OS-EXT-STS:task_state": task_state,
        "OS-EXT-STS:vm_state": vm_state,
        "OS-EXT-STS:power_state": power_state,
        "os-extended-volumes:volumes_attached": volumes_attached(server),
    });
    if let Some(detail) = detail.as_object_mut() {
        if built {
            detail.insert("security_groups".to_owned(), security_groups(server));
        }
        if matches!(server.phase, Phase::Building | Phase::Active) {
            detail.insert("progress".to_owned(), json!(0));
        }
        if server.phase == Phase::Failed {
            detail.insert("fault".to_owned(), fault(server));
        }
    }
    detail
}

/// An empty text for a server that boots from a volume, as with Nova.
fn image(region: &Region, server: &Server) -> Value {
    match server.volume {
        Some(_) => json!(""),
        None => {
            json!({"id": server.image, "links": links(region, "images", &server.image)})
        }
    }
}

fn volumes_attached(server: &Server) -> Value {
    let built = matches!(server.phase, Phase::Active | Phase::Shutoff);
    let volumes = server.volume.iter().filter(|_| built);
    volumes.map(|volume| json!({"id": volume.id})).collect()
}

/// Why a server is in ERROR.
fn fault(server: &Server) -> Value {
    json!({
        "code": 500,
        "created": server.updated.to_rfc3339(),
        "message": "No valid host was found. There are not enough hosts available.",
    })
}

fn addresses(server: &Server) -> Value {
    if matches!(server.phase, Phase::Building | Phase::Failed) {
        return json!({});
    }
    let mut networks = Map::new();
    networks.insert(
        offer::NETWORK.to_owned(),
        json!([{
            "version": 4,
            "addr": server.address,
            "OS-EXT-IPS:type": "fixed",
            "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
        }]),
    );
    Value::Object(networks)
}

fn security_groups(server: &Server) -> Value {
    let groups = server.security_groups.iter();
    groups.map(|name| json!({"name": name})).collect()
}

fn links(region: &Region, kind: &str, id: &str) -> Value {
    json!([
        {"rel": "self", "href": format!("{}/v2.1/{kind}/{id}", region.base)},
        {"rel": "bookmark", "href": format!("{}/{kind}/{id}", region.base)},
    ])
}

/// A time in the format of Nova's usage extension.
fn micros_without_zone(time: Timestamp) -> String {
    time.to_rfc3339().replace('Z', ".000000")
}
