//! The compute service: versions, flavors, limits, the listing, one server, and its end.

use http::StatusCode;
use rand::Rng;
use serde_json::{Map, Value, json};
use url::Url;

use super::answer::Refusal;
use super::call::parameter;
use super::detail::{Place, detail};
use super::server::{Deleting, Deletion, DeletionEnd, End};
use super::{Cloud, Fate, Reply, Server};

/// A page of the listing.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub servers: Vec<Value>,
    /// The marker of the next page, when there is a link to one.
    pub next: Option<String>,
}

impl Cloud {
    pub(super) fn compute_versions(&self) -> Reply {
        Reply::ok(&json!({"versions": [self.compute_document()]}))
    }

    pub(super) fn compute_version(&self) -> Reply {
        Reply::ok(&json!({"version": self.compute_document()}))
    }

    fn compute_document(&self) -> Value {
        json!({
            "id": "v2.1",
            "status": "CURRENT",
            "version": "2.93",
            "min_version": "2.1",
            "updated": "2013-07-23T11:33:21Z",
            "links": [{"rel": "self", "href": format!("{}/compute/v2.1/", self.base)}],
        })
    }

    /// `GET /flavors/detail`, on one page.
    pub(super) fn flavors(&self) -> Reply {
        let flavors = self.setup.flavors.iter().map(|flavor| {
            json!({
                "id": flavor.id,
                "name": flavor.name,
                "ram": flavor.memory_mb,
                "disk": flavor.disk_gb,
                "swap": "",
                "vcpus": flavor.processors,
                "rxtx_factor": 1.0,
                "OS-FLV-EXT-DATA:ephemeral": 0,
                "OS-FLV-DISABLED:disabled": flavor.disabled,
                "os-flavor-access:is_public": true,
                "links": [],
            })
        });
        Reply::ok(&json!({"flavors": flavors.collect::<Vec<_>>()}))
    }

    /// `GET /limits`; -1 is no limit.
    pub(super) fn limits(&self) -> Reply {
        let usage = self.usage();
        let quota = |most: Option<u64>| most.map_or(json!(-1), |most| json!(most));
        Reply::ok(&json!({"limits": {"rate": [], "absolute": {
            "maxTotalInstances": quota(self.setup.max_instances),
            "maxTotalCores": quota(self.setup.max_cores),
            "maxTotalRAMSize": quota(self.setup.max_memory_mb),
            "maxTotalKeypairs": self.setup.max_keypairs,
            "maxServerMeta": 128,
            "totalInstancesUsed": usage.instances,
            "totalCoresUsed": usage.cores,
            "totalRAMUsed": usage.memory_mb,
        }}}))
    }

    /// `GET /servers/detail`.
    pub(super) fn list_servers(&self, now: u64, url: &Url) -> Result<Reply, Refusal> {
        let page = self.page(self.servers(), now, url)?;
        Ok(self.page_reply(&page, url))
    }

    /// A page of these servers: newest first by the cloud's clock, from behind the marker.
    pub(super) fn page<'a>(
        &self,
        servers: impl Iterator<Item = &'a Server>,
        now: u64,
        url: &Url,
    ) -> Result<Page, Refusal> {
        let limit = self.page_size(url)?;
        let mut servers: Vec<&Server> = servers.collect();
        servers.sort_by(|a, b| (b.told.created, &b.id).cmp(&(a.told.created, &a.id)));
        let from = match parameter(url, "marker") {
            None => 0,
            Some(marker) => servers
                .iter()
                .position(|server| server.id == marker)
                .map(|at| at + 1)
                .ok_or_else(|| Refusal::BadRequest(format!("marker [{marker}] not found")))?,
        };
        let page: Vec<&Server> = servers.into_iter().skip(from).take(limit).collect();
        // A full page has a link, be it to an empty one.
        let last = page.last().filter(|_| page.len() == limit);
        Ok(Page {
            next: last.map(|server| server.id.clone()),
            servers: page
                .into_iter()
                .map(|server| detail(&self.base, server, now, Place::Listing))
                .collect(),
        })
    }

    fn page_size(&self, url: &Url) -> Result<usize, Refusal> {
        let Some(limit) = parameter(url, "limit").filter(|limit| !limit.is_empty()) else {
            return Ok(self.setup.page);
        };
        if !limit.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::BadRequest(format!(
                "Invalid input for query parameters limit. Value: {limit}."
            )));
        }
        Ok(limit.parse().unwrap_or(usize::MAX).min(self.setup.page))
    }

    pub(super) fn page_reply(&self, page: &Page, url: &Url) -> Reply {
        let mut body = Map::new();
        body.insert("servers".to_owned(), Value::Array(page.servers.clone()));
        if let Some(marker) = &page.next {
            // The page size that was asked for is repeated, not the one that was given.
            let size = parameter(url, "limit").map_or_else(String::new, |n| format!("limit={n}&"));
            let href = format!(
                "{}/compute/v2.1/servers/detail?{size}marker={marker}",
                self.base
            );
            let links = json!([{"rel": "next", "href": href}]);
            body.insert("servers_links".to_owned(), links);
        }
        Reply::ok(&Value::Object(body))
    }

    /// `GET /servers/ID`.
    pub(super) fn show_server(&self, now: u64, id: &str) -> Result<Reply, Refusal> {
        let server = self.server(id).filter(|server| !server.is_gone());
        let server = server.ok_or_else(|| no_such_server(id))?;
        let document = detail(&self.base, server, now, Place::Own);
        Ok(Reply::ok(&json!({"server": document})))
    }

    /// `DELETE /servers/ID`. Asking again while it is being deleted changes nothing.
    pub(super) fn delete_server(
        &mut self,
        now: u64,
        by: String,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let at = self
            .index
            .get(id)
            .copied()
            .ok_or_else(|| no_such_server(id))?;
        let begins = self
            .all
            .get(at)
            .is_some_and(|server| !server.is_gone() && server.deleting.is_none());
        let begun = begins.then(|| self.begin_deletion(now, at));
        let (clock, echo) = (self.clock(now), self.echo);
        let server = self.all.get_mut(at).ok_or_else(|| no_such_server(id))?;
        server.deletions.push(Deletion {
            at: now,
            by,
            status: if server.is_gone() { 404 } else { 204 },
            echo,
        });
        if server.is_gone() {
            return Err(no_such_server(id));
        }
        if let Some(deleting) = begun {
            if deleting.end != DeletionEnd::Stuck {
                server.end(now, End::Deleted);
            }
            server.deleting = Some(deleting);
            server.told.updated = clock;
        }
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }

    /// What will become of a deletion that is accepted now.
    fn begin_deletion(&mut self, now: u64, at: usize) -> Deleting {
        let chosen = self
            .all
            .get_mut(at)
            .and_then(|server| server.next_deletion.take());
        let end = chosen.unwrap_or_else(|| {
            let kinds = [Fate::DeletionStuck, Fate::DeletionFails];
            match self.draw(kinds.into_iter(), 1.0) {
                Some(Fate::DeletionStuck) => DeletionEnd::Stuck,
                Some(Fate::DeletionFails) => DeletionEnd::Fails,
                Some(Fate::BuildStuck | Fate::BuildFails) | None => DeletionEnd::Gone,
            }
        });
        let normal = self.rng.random_range(self.setup.deletion.clone());
        let takes = match end {
            DeletionEnd::Gone => normal,
            DeletionEnd::Stuck => {
                self.count(Fate::DeletionStuck);
                self.setup.stuck_deletion
            }
            DeletionEnd::Fails => {
                self.count(Fate::DeletionFails);
                normal
            }
        };
        Deleting {
            until: now + takes,
            end,
        }
    }
}

pub(super) fn no_such_server(id: &str) -> Refusal {
    Refusal::NotFound(format!("Instance {id} could not be found."))
}
