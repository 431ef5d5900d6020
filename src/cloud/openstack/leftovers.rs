//! What machines left behind: everything beside servers that bears our marks.
//!
//! Each kind has its service, its list and its place for the marks ([`crate::model::leftover`]),
//! which [`Wire`] says for it. A service that is not in the catalog, does not know a kind (Neutron
//! without routers has no floating IPs) or does not let us ask is passed over. What is found is
//! looked at again before it is removed: a list is old by then.
//!
//! Lists are filtered where the service can do it, and always here: a filter that a service does
//! not know is one that it ignores.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::form_urlencoded;

use super::auth::Session;
use super::document::{self, Few};
use super::list::query_of;
use super::{OpenStack, Service, Target, Trouble};
use crate::cloud::public_key;
use crate::cloud::{CloudError, CloudErrorKind, Leftovers, NotListed, Removal, Search};
use crate::model::leftover::{IMAGE_MARK, MANAGER_MARK, SPACE_MARK};
use crate::model::{CloudId, Leftover, LeftoverKind, User};

/// The longest that looking at one kind or one removal may take. The space's machines wait for
/// it, and a sick network service must not keep them waiting as a sick compute service does.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is asked for on one page, which the services take as their limit when theirs is lower.
const PAGE: &str = "1000";
/// The most pages of one kind.
const MAX_PAGES: usize = 1000;
/// The most things of one kind, ours or not.
const MAX_THINGS: usize = 100_000;
/// The most links of one page: to the one before, and to the next.
const MAX_LINKS: usize = 100;
/// What Cinder has had attachments of their own since (Ocata, 2017).
const ATTACHMENTS: &str = "volume 3.27";

/// One kind of thing as its service describes it.
trait Wire: DeserializeOwned + Send {
    const KIND: LeftoverKind;
    const SERVICE: Service;
    /// The path of the list; that of one thing is below it.
    const PATH: &'static [&'static str];

    /// What to ask the list for.
    fn query(_: &Search, _: &Session) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What holds it to a server, and has to be undone before it can be removed.
    fn attachments(&self) -> Vec<String> {
        Vec::new()
    }

    /// The thing, if it bears the marks.
    fn ours(self, search: &Search) -> Option<Leftover>;
}

/// One page of any list.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Page<T> {
    #[serde(
        alias = "keypairs",
        alias = "images",
        alias = "volumes",
        alias = "ports",
        alias = "floatingips"
    )]
    things: Few<T, MAX_THINGS>,
    #[serde(
        default,
        alias = "keypairs_links",
        alias = "volumes_links",
        alias = "ports_links",
        alias = "floatingips_links"
    )]
    links: Few<PageLink, MAX_LINKS>,
    /// Glance has one link, outside the list of links.
    #[serde(default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct PageLink {
    rel: String,
    href: String,
}

impl<T> Page<T> {
    /// The address of the next page; `None` only when this is the last.
    fn next(&self) -> Option<&str> {
        let mut links = self.links.0.iter();
        let link = links.find(|link| link.rel == "next");
        link.map(|link| link.href.as_str()).or(self.next.as_deref())
    }
}

/// The document of one thing.
#[derive(Deserialize)]
#[serde(untagged)]
enum One<T> {
    Wrapped {
        #[serde(alias = "volume", alias = "port", alias = "floatingip")]
        thing: T,
    },
    /// Glance does not wrap.
    Bare(T),
}

#[derive(Deserialize)]
struct WireKeypair {
    keypair: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Wire for WireKeypair {
    const KIND: LeftoverKind = LeftoverKind::Keypair;
    const SERVICE: Service = Service::Compute;
    const PATH: &'static [&'static str] = &["os-keypairs"];

    fn ours(self, search: &Search) -> Option<Leftover> {
        let name = self.keypair.name;
        let owner = &search.owner;
        if !public_key::is_name_of(&name, owner.space.as_str(), owner.manager.as_str()) {
            return None;
        }
        let mut wanted = search.public_keys.iter().flatten();
        let is_wanted = wanted.any(|text| {
            public_key::name_of(text, owner.space.as_str(), owner.manager.as_str())
                .is_ok_and(|wanted| wanted == name)
        });
        Some(Leftover {
            kind: Self::KIND,
            id: name.clone(),
            name,
            user: is_wanted.then_some(User::Configuration),
        })
    }
}

#[derive(Deserialize)]
struct WireImage {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    protected: bool,
}

impl Wire for WireImage {
    const KIND: LeftoverKind = LeftoverKind::Image;
    const SERVICE: Service = Service::Image;
    const PATH: &'static [&'static str] = &["images"];

    fn query(search: &Search, session: &Session) -> Vec<(&'static str, String)> {
        let mut query: Vec<_> = search.owner.words().map(|word| ("tag", word)).into();
        query.push(("visibility", "private".to_owned()));
        query.extend(session.project.clone().map(|project| ("owner", project)));
        query.push(("limit", PAGE.to_owned()));
        query
    }

    fn ours(self, search: &Search) -> Option<Leftover> {
        // Ours are private from the start (Glance's default is shared): who shares or publishes one
        // has taken it over.
        let private = self.visibility.as_deref().is_none_or(|v| v == "private");
        let tags = self.tags.iter().map(String::as_str);
        let going = matches!(self.status.as_str(), "deleted" | "pending_delete");
        if !private || going || !search.owner.is_named_in(tags) {
            return None;
        }
        // One that we upload: who judges knows those that are under way. Somebody else's under our
        // marks may be under way as well.
        let is_upload = self.tags.iter().any(|tag| is_image_mark(tag));
        let user = match self.status.as_str() {
            _ if self.protected => Some(User::Other("it is protected".to_owned())),
            "saving" | "uploading" | "importing" if !is_upload => {
                Some(User::Other(format!("it is {}", self.status)))
            }
            // A queued one with nobody at it is an upload that died.
            _ => None,
        };
        Some(Leftover {
            kind: Self::KIND,
            id: self.id,
            name: self.name.unwrap_or_default(),
            user,
        })
    }
}

fn is_image_mark(tag: &str) -> bool {
    tag.split_once('=')
        .is_some_and(|(key, _)| key == IMAGE_MARK)
}

#[derive(Deserialize)]
struct WireVolume {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    status: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    attachments: Vec<Attachment>,
    /// Cinder says "true" or "false", as text.
    #[serde(default)]
    bootable: Value,
    /// What Cinder took over from the image that the volume was made from; a volume that was made
    /// empty has none.
    #[serde(default)]
    volume_image_metadata: Value,
}

impl WireVolume {
    /// Whether it may be one that Nova made for a server to boot from. Nova gives those neither name
    /// nor metadata: who has named one has taken it over. And it makes them from an image, unlike a
    /// volume for data, which somebody may have attached to the server by hand.
    fn is_of_nova(&self) -> bool {
        let is_without = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        let is_bare = self.metadata.as_ref().is_none_or(BTreeMap::is_empty)
            && is_without(&self.name)
            && is_without(&self.description);
        let image = self.volume_image_metadata.as_object();
        is_bare && self.bootable == "true" && image.is_some_and(|image| !image.is_empty())
    }
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(default)]
    server_id: Option<String>,
    #[serde(default)]
    attachment_id: Option<String>,
}

impl Wire for WireVolume {
    const KIND: LeftoverKind = LeftoverKind::Volume;
    const SERVICE: Service = Service::Volume;
    const PATH: &'static [&'static str] = &["volumes"];

    fn query(_: &Search, _: &Session) -> Vec<(&'static str, String)> {
        vec![("limit", PAGE.to_owned())]
    }

    fn attachments(&self) -> Vec<String> {
        let attachments = self.attachments.iter();
        attachments
            .filter_map(|attachment| attachment.attachment_id.clone())
            .collect()
    }

    fn ours(self, search: &Search) -> Option<Leftover> {
        let is_of_nova = self.is_of_nova();
        let metadata = self.metadata.unwrap_or_default();
        let mark = |key: &str| metadata.get(key).map(String::as_str);
        let marked = search.owner.is_marked(mark(SPACE_MARK), mark(MANAGER_MARK));
        let attached = self.attachments.first();
        let attached = attached.map(|attachment| attachment.server_id.clone());
        let mut servers = self.attachments.iter().map(|other| &other.server_id);
        let is_shared = servers.any(|server| Some(server) != attached.as_ref());
        let of_gone = search.gone_volumes.contains(&self.id)
            || attached.iter().flatten().any(|server| {
                let server = CloudId::new(server.clone());
                search.gone.contains(&server)
            });
        if !(marked || of_gone && is_of_nova) || self.status == "deleting" {
            return None;
        }
        let user = match attached {
            Some(_) if is_shared => Some(User::Other("several servers have it".to_owned())),
            Some(Some(server)) => Some(User::Machine(CloudId::new(server))),
            Some(None) => Some(User::Other("it is attached".to_owned())),
            None if self.status == "available" || self.status.starts_with("error") => None,
            None => Some(User::Other(format!("it is {}", self.status))),
        };
        Some(Leftover {
            kind: Self::KIND,
            id: self.id,
            name: self.name.unwrap_or_default(),
            user,
        })
    }
}

#[derive(Deserialize)]
struct WirePort {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    device_id: Option<String>,
    #[serde(default)]
    device_owner: Option<String>,
}

impl Wire for WirePort {
    const KIND: LeftoverKind = LeftoverKind::Port;
    const SERVICE: Service = Service::Network;
    const PATH: &'static [&'static str] = &["ports"];

    fn query(_: &Search, session: &Session) -> Vec<(&'static str, String)> {
        let fields = ["id", "name", "description", "device_id", "device_owner"];
        of_project(session, &fields)
    }

    fn ours(self, search: &Search) -> Option<Leftover> {
        let name = self.name.unwrap_or_default();
        let description = self.description.unwrap_or_default();
        let device = self.device_id.filter(|id| !id.is_empty());
        let device = device.map(CloudId::new);
        let of_nova = |owner: &String| owner.starts_with("compute:");
        let is_of_nova = self.device_owner.as_ref().is_some_and(of_nova);
        // Nova makes a server's ports without name and description. A port that somebody else
        // made for it, and that Nova did not let go, has one or the other.
        let made_for_ours = is_of_nova
            && name.is_empty()
            && description.is_empty()
            && device.as_ref().is_some_and(|id| search.gone.contains(id));
        if !made_for_ours && !search.owner.is_named_in(description.split_whitespace()) {
            return None;
        }
        let owner = self.device_owner.filter(|owner| !owner.is_empty());
        let user = match (device, owner) {
            (Some(server), _) if is_of_nova => Some(User::Machine(server)),
            (None, None) => None,
            (_, Some(owner)) => Some(User::Other(format!("{owner} uses it"))),
            (Some(device), None) => Some(User::Other(format!("{device} uses it"))),
        };
        Some(Leftover {
            kind: Self::KIND,
            id: self.id,
            name,
            user,
        })
    }
}

#[derive(Deserialize)]
struct WireFloatingIp {
    id: String,
    #[serde(default)]
    floating_ip_address: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    port_id: Option<String>,
}

impl Wire for WireFloatingIp {
    const KIND: LeftoverKind = LeftoverKind::FloatingIp;
    const SERVICE: Service = Service::Network;
    const PATH: &'static [&'static str] = &["floatingips"];

    fn query(_: &Search, session: &Session) -> Vec<(&'static str, String)> {
        let fields = ["id", "floating_ip_address", "description", "port_id"];
        of_project(session, &fields)
    }

    fn ours(self, search: &Search) -> Option<Leftover> {
        let description = self.description.unwrap_or_default();
        if !search.owner.is_named_in(description.split_whitespace()) {
            return None;
        }
        let port = self.port_id.filter(|id| !id.is_empty());
        Some(Leftover {
            kind: Self::KIND,
            id: self.id,
            name: self.floating_ip_address.unwrap_or_default(),
            user: port.map(|port| User::Other(format!("port {port} has it"))),
        })
    }
}

/// Neutron shows an administrator the things of all projects.
fn of_project(session: &Session, fields: &[&str]) -> Vec<(&'static str, String)> {
    let fields = fields.iter().map(|field| ("fields", (*field).to_owned()));
    let project = session.project.clone();
    fields
        .chain(project.map(|project| ("project_id", project)))
        .chain([("limit", PAGE.to_owned())])
        .collect()
}

impl OpenStack {
    pub(super) async fn find_leftovers(&self, search: &Search) -> Leftovers {
        let kinds = LeftoverKind::ALL.into_iter();
        let kinds =
            kinds.filter(|kind| *kind != LeftoverKind::Keypair || search.public_keys.is_some());
        let lists = kinds.map(async |kind| (kind, self.list_kind(kind, search).await));
        join_all(lists).await.into_iter().collect()
    }

    async fn list_kind(
        &self,
        kind: LeftoverKind,
        search: &Search,
    ) -> Result<Vec<Leftover>, NotListed> {
        let list = async {
            match kind {
                LeftoverKind::Keypair => self.list_things::<WireKeypair>(search).await,
                LeftoverKind::Image => self.list_things::<WireImage>(search).await,
                LeftoverKind::Volume => self.list_things::<WireVolume>(search).await,
                LeftoverKind::Port => self.list_things::<WirePort>(search).await,
                LeftoverKind::FloatingIp => self.list_things::<WireFloatingIp>(search).await,
            }
        };
        let limit = PATIENCE.min(self.http.times().call);
        match tokio::time::timeout(limit, list).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NotListed::Failed(
                self.too_slow(&format!("list each {kind}")),
            )),
        }
    }

    fn too_slow(&self, what: &str) -> CloudError {
        CloudError::new(
            CloudErrorKind::Transient,
            format!("{what} of space {}", self.space),
            format!("not complete after {} s", PATIENCE.as_secs()),
        )
    }

    async fn list_things<T: Wire>(&self, search: &Search) -> Result<Vec<Leftover>, NotListed> {
        let session = self.identity.session(&self.http).await?;
        if !T::SERVICE.is_in(&session) {
            let why = format!("the service catalog has no {} service", T::SERVICE.name());
            return Err(NotListed::Unavailable(why));
        }
        let detail = (T::KIND == LeftoverKind::Volume).then_some("detail");
        let path: Vec<&str> = T::PATH.iter().copied().chain(detail).collect();
        let mut query = Some(encoded(T::query(search, &session)));
        let mut seen = std::collections::HashSet::new();
        let (mut ours, mut things) = (Vec::new(), 0);
        loop {
            let target = Target::of(T::SERVICE, &path).query(query.clone());
            let reply = self.ask(Method::GET, &target, None).await;
            let reply = reply.map_err(Trouble::into_error)?;
            if !reply.is_success() {
                let error = self.clean(self.refused(&reply, reply.answer.read_kind()));
                return Err(if matches!(reply.status(), 403 | 404 | 405 | 501) {
                    NotListed::Unavailable(error.to_string())
                } else {
                    error.into()
                });
            }
            let answer = reply.answer;
            let page: Page<T> = document::read(&answer)?;
            let next = page.next().map(query_of);
            things += page.things.0.len();
            let listed = page.things.0.into_iter();
            ours.extend(listed.filter_map(|thing| thing.ours(search)));
            seen.insert(query);
            let Some(next) = next else { break };
            if seen.contains(&next) || seen.len() >= MAX_PAGES || things > MAX_THINGS {
                let why = format!("its {} pages with {things} things do not end", seen.len());
                return Err(answer.unreadable(why).into());
            }
            query = next;
        }
        // What moved from one page to the next while we read came twice.
        ours.sort_by(|a: &Leftover, b| a.id.cmp(&b.id));
        ours.dedup_by(|a, b| a.id == b.id);
        Ok(ours)
    }

    pub(super) async fn remove_leftover(
        &self,
        search: &Search,
        leftover: &Leftover,
    ) -> Result<Removal, CloudError> {
        let remove = async {
            match leftover.kind {
                LeftoverKind::Keypair => {
                    let outcome = self.delete_thing::<WireKeypair>(&leftover.id).await;
                    // Whatever came back: the next creation looks whether its key is there.
                    self.keys.forget().await;
                    outcome
                }
                LeftoverKind::Image => self.remove_thing::<WireImage>(search, leftover).await,
                LeftoverKind::Volume => self.remove_thing::<WireVolume>(search, leftover).await,
                LeftoverKind::Port => self.remove_thing::<WirePort>(search, leftover).await,
                LeftoverKind::FloatingIp => {
                    self.remove_thing::<WireFloatingIp>(search, leftover).await
                }
            }
        };
        let limit = PATIENCE.min(self.http.times().call);
        match tokio::time::timeout(limit, remove).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.too_slow(&format!("remove {leftover}"))),
        }
    }

    /// Looks at a thing again, and removes it when it is as it was.
    async fn remove_thing<T: Wire>(
        &self,
        search: &Search,
        leftover: &Leftover,
    ) -> Result<Removal, CloudError> {
        let path = path_of::<T>(&leftover.id)?;
        let target = Target::of(T::SERVICE, &path);
        let reply = self.ask(Method::GET, &target, None).await;
        let reply = reply.map_err(Trouble::into_error)?;
        match reply.status() {
            200..=299 => {}
            404 => return Ok(Removal::AlreadyGone),
            _ => return Err(self.refused(&reply, reply.answer.read_kind())),
        }
        let found: One<T> = document::read(&reply.answer)?;
        let (One::Wrapped { thing } | One::Bare(thing)) = found;
        let attachments = thing.attachments();
        match thing.ours(search) {
            None => return Ok(Removal::Changed("it bears our marks no more".to_owned())),
            Some(now) if now.user != leftover.user => {
                return Ok(Removal::Changed("something uses it by now".to_owned()));
            }
            Some(_) => {}
        }
        if let Some(User::Machine(server)) = &leftover.user {
            if self.find_server(server).await?.is_some() {
                let why = format!("server {server} is not listed, and still there");
                return Ok(Removal::InUse(why));
            }
            // Where Nova and Cinder lost sight of each other when the server went.
            for attachment in attachments {
                self.detach(&attachment).await?;
            }
        }
        self.delete_thing::<T>(&leftover.id).await
    }

    /// Ends the attachment of a volume to a server that is gone. (A Cinder since 2023 asks Nova itself
    /// whether it is.)
    async fn detach(&self, attachment: &str) -> Result<(), CloudError> {
        let path = ["attachments", checked(attachment)?];
        let target = Target::of(Service::Volume, &path).version(ATTACHMENTS);
        self.delete_at(&target).await.map(drop)
    }

    async fn delete_thing<T: Wire>(&self, id: &str) -> Result<Removal, CloudError> {
        let path = path_of::<T>(id)?;
        self.delete_at(&Target::of(T::SERVICE, &path)).await
    }

    async fn delete_at(&self, target: &Target<'_>) -> Result<Removal, CloudError> {
        let reply = self.ask(Method::DELETE, target, None).await;
        let reply = reply.map_err(Trouble::into_error)?;
        match reply.status() {
            200..=299 => Ok(Removal::Removed),
            404 => Ok(Removal::AlreadyGone),
            _ => Err(self.refused(&reply, reply.answer.read_kind())),
        }
    }
}

fn path_of<T: Wire>(id: &str) -> Result<Vec<&str>, CloudError> {
    let id = checked(id)?;
    Ok(T::PATH.iter().copied().chain([id]).collect())
}

/// An empty or dotted identifier would make the address another one.
fn checked(id: &str) -> Result<&str, CloudError> {
    if matches!(id, "" | "." | "..") {
        let operation = format!("remove {id:?}");
        let why = "this is no identifier";
        return Err(CloudError::new(CloudErrorKind::Rejected, operation, why));
    }
    Ok(id)
}

fn encoded(query: Vec<(&'static str, String)>) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::model::{FactoryName, Owner, SpaceName};

    fn search() -> Search {
        Search {
            owner: Owner {
                space: SpaceName::new("space.example.org").unwrap(),
                manager: FactoryName::new("factory.example.org").unwrap(),
            },
            public_keys: None,
            gone: BTreeSet::from([CloudId::new("gone")]),
            gone_volumes: BTreeSet::from(["noted".to_owned()]),
        }
    }

    /// Whether a volume that Nova has made, with this changed, is found as ours.
    fn is_ours(change: &Value) -> bool {
        let mut volume = json!({"id": "noted", "status": "available", "name": "", "metadata": {},
            "attachments": [], "bootable": "true", "volume_image_metadata": {"image_id": "i"}});
        let change = change.as_object().unwrap().clone();
        volume.as_object_mut().unwrap().extend(change);
        let volume: WireVolume = serde_json::from_value(volume).unwrap();
        volume.ours(&search()).is_some()
    }

    #[test]
    fn a_volume_that_was_only_attached_to_a_machine_of_ours_is_not_ours() {
        let attached = json!([{"server_id": "gone"}]);
        let attached = json!({"id": "x", "status": "in-use", "attachments": attached});
        for of_ours in [json!({}), attached] {
            assert!(is_ours(&of_ours));
            for other in [
                json!({"bootable": "false"}),
                json!({"bootable": null}),
                json!({"volume_image_metadata": {}}),
                json!({"volume_image_metadata": null}),
                json!({"description": "data"}),
            ] {
                let mut change = of_ours.clone();
                let other = other.as_object().unwrap().clone();
                change.as_object_mut().unwrap().extend(other);
                assert!(!is_ours(&change), "{change}");
            }
        }
        let marks = json!({"space": "space.example.org", "manager": "factory.example.org"});
        assert!(is_ours(&json!({"metadata": marks, "bootable": "false"})));
    }
}
