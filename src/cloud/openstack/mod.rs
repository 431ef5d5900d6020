//! OpenStack: Keystone for tokens, Nova for machines, Glance to find and keep images; Cinder and Neutron only
//! for what machines left behind.
//!
//! It speaks Nova's default microversion, which every Nova since 2015 (and, for what we use, the
//! 2.0 API before it) understands.
//!
//! Invariants, beside those of [`Cloud`]:
//! 1. A token goes only to the addresses of the service catalog: links in answers are never
//!    followed, only their query is used.
//! 2. With a valid token a cycle costs two requests (flavors, limits) and one for each page. A
//!    machine that fails without telling why costs up to three more, once. A look for leftovers
//!    costs one for each page of each kind, and the daemon looks every ten minutes.
//! 3. No message has a token, a password or user_data in it.

mod auth;
mod blame;
mod catalog;
mod create;
mod document;
mod faults;
mod images;
mod keys;
mod leftovers;
mod list;
mod upload;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use self::auth::{Identity, Session};
use self::faults::Faults;
use self::images::Images;
use self::keys::Keys;
use super::http::{Answer, Failure, FileBody, Http, HttpTimes, Request};
use super::{
    Cloud, CloudError, CloudErrorKind, CreateRequest, Deletion, FoundImage, Leftovers, NewImage,
    NotListed, Outside, Removal, Search, UploadProgress,
};
use crate::clock::Clock;
use crate::config::OpenStackOptions;
use crate::model::{
    CloudFacts, CloudId, CloudLimits, CloudMachine, Flavor, Leftover, Processors, SpaceName,
};

/// The most pages of flavors that are read; the list is the cloud's, not ours.
const MAX_FLAVOR_PAGES: usize = 100;
/// The most flavors of all pages, which bounds the memory they take.
const MAX_FLAVORS: usize = 10_000;
/// Where a request says which microversion it is written for.
const API_VERSION: HeaderName = HeaderName::from_static("openstack-api-version");

/// A connection to one project of one OpenStack.
pub struct OpenStack {
    space: SpaceName,
    options: OpenStackOptions,
    clock: Clock,
    http: Http,
    identity: Identity,
    images: Images,
    keys: Keys,
    faults: Faults,
    /// Flavor id to processors, of the last [`Cloud::facts`]: a listing names only the id.
    processors: RwLock<Arc<HashMap<String, Processors>>>,
}

impl fmt::Debug for OpenStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStack")
            .field("space", &self.space)
            .field("url", &self.options.url.host_str())
            .finish_non_exhaustive()
    }
}

/// A service of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Compute,
    Image,
    Network,
    Volume,
}

impl Service {
    const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }

    /// Its address; a cloud may lack every service but compute.
    const fn endpoint(self, session: &Session) -> Option<&Url> {
        match self {
            Self::Compute => Some(&session.services.compute),
            Self::Image => session.services.image.as_ref(),
            Self::Network => session.services.network.as_ref(),
            Self::Volume => session.services.volume.as_ref(),
        }
    }

    const fn is_in(self, session: &Session) -> bool {
        self.endpoint(session).is_some()
    }
}

/// What is asked of a service: the path below its endpoint and a query.
#[derive(Clone, Debug)]
struct Target<'a> {
    service: Service,
    path: &'a [&'a str],
    query: Option<String>,
    /// The service and its microversion, where the default is not enough.
    version: Option<&'static str>,
}

impl<'a> Target<'a> {
    const fn of(service: Service, path: &'a [&'a str]) -> Self {
        Self {
            service,
            path,
            query: None,
            version: None,
        }
    }

    const fn compute(path: &'a [&'a str]) -> Self {
        Self::of(Service::Compute, path)
    }

    const fn image(path: &'a [&'a str]) -> Self {
        Self::of(Service::Image, path)
    }

    fn query(mut self, query: Option<String>) -> Self {
        self.query = query;
        self
    }

    const fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }

    fn headers(&self) -> HeaderMap {
        let version = self.version.map(HeaderValue::from_static);
        let named = version.map(|version| (API_VERSION, version));
        named.into_iter().collect()
    }

    fn url(&self, session: &Session) -> Result<Url, CloudError> {
        let mut url = self.service.endpoint(session).cloned().ok_or_else(|| {
            CloudError::new(
                CloudErrorKind::Rejected,
                format!("find the {} service", self.service.name()),
                "the service catalog has none in this region",
            )
        })?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(self.path);
        }
        url.set_query(self.query.as_deref());
        Ok(url)
    }
}

/// Why there is no answer to a request with a token.
#[derive(Debug)]
enum Trouble {
    /// Before the request was sent, so that it changed nothing.
    Before(CloudError),
    /// While it was sent; the failure says how far it got.
    During(Failure),
}

impl Trouble {
    /// The error when the request changes nothing that matters when it is done twice.
    fn into_error(self) -> CloudError {
        match self {
            Self::Before(error) => error,
            Self::During(failure) => failure.into_error(),
        }
    }
}

/// An answer, and the session it was asked with.
#[derive(Debug)]
struct Reply {
    answer: Answer,
    session: Arc<Session>,
}

impl Reply {
    fn is_success(&self) -> bool {
        self.answer.status.is_success()
    }

    fn status(&self) -> u16 {
        self.answer.status.as_u16()
    }
}

impl OpenStack {
    /// Prepares a connection; asks nobody yet. Building it can cost a tenth of a second (TLS): make
    /// one for each space and keep it.
    ///
    /// # Errors
    /// When the options contradict each other or TLS cannot be set up.
    pub fn new(
        space: &SpaceName,
        options: &OpenStackOptions,
        outside: &Outside,
    ) -> Result<Self, CloudError> {
        Self::with_times(space, options, outside, HttpTimes::default())
    }

    /// The same with other times than the usual ones.
    ///
    /// # Errors
    /// As [`OpenStack::new`].
    pub fn with_times(
        space: &SpaceName,
        options: &OpenStackOptions,
        outside: &Outside,
        times: HttpTimes,
    ) -> Result<Self, CloudError> {
        let clock = outside.clock.clone();
        Ok(Self {
            space: space.clone(),
            options: options.clone(),
            http: Http::new(space, &options.url, outside, times)?,
            identity: Identity::new(options, clock.clone())?,
            images: Images::default(),
            keys: Keys::default(),
            faults: Faults::default(),
            processors: RwLock::default(),
            clock,
        })
    }

    /// Sends a request with a token; when the token is refused, once more with a new one. A `GET`
    /// is repeated when the network or the server has trouble, nothing else is.
    async fn ask(
        &self,
        method: Method,
        target: &Target<'_>,
        body: Option<Bytes>,
    ) -> Result<Reply, Trouble> {
        let session = self.identity.session(&self.http).await;
        let session = session.map_err(Trouble::Before)?;
        let reply = self.ask_with(session, &method, target, &body).await?;
        if reply.status() != 401 {
            return Ok(reply);
        }
        // 401 means that nothing was done, so that this is safe for a create as well.
        let session = self.identity.renew(&reply.session, &self.http).await;
        let session = session.map_err(Trouble::Before)?;
        self.ask_with(session, &method, target, &body).await
    }

    async fn ask_with(
        &self,
        session: Arc<Session>,
        method: &Method,
        target: &Target<'_>,
        body: &Option<Bytes>,
    ) -> Result<Reply, Trouble> {
        let request = Request {
            method: method.clone(),
            url: target.url(&session).map_err(Trouble::Before)?,
            token: Some(session.token.clone()),
            body: body.clone(),
            headers: target.headers(),
        };
        let answer = if *method == Method::GET {
            self.http.read(&request).await
        } else {
            self.http.send(&request).await
        };
        let answer = answer.map_err(Trouble::During)?;
        Ok(Reply { answer, session })
    }

    /// Sends a file with a token; when the token is refused, once more with a new one.
    async fn send_file(&self, target: &Target<'_>, file: &FileBody) -> Result<Reply, Trouble> {
        let mut session = self.identity.session(&self.http).await;
        let mut renewed = false;
        loop {
            let current = session.map_err(Trouble::Before)?;
            let request = Request {
                method: Method::PUT,
                url: target.url(&current).map_err(Trouble::Before)?,
                token: Some(current.token.clone()),
                body: None,
                headers: HeaderMap::new(),
            };
            let answer = self.http.send_file(&request, file).await;
            let answer = answer.map_err(Trouble::During)?;
            if answer.status.as_u16() != 401 || renewed {
                return Ok(Reply {
                    answer,
                    session: current,
                });
            }
            renewed = true;
            session = self.identity.renew(&current, &self.http).await;
        }
    }

    /// The error that a bad answer means, without secrets.
    fn refused(&self, reply: &Reply, kind: CloudErrorKind) -> CloudError {
        let secrets = [self.identity.secret(), reply.session.token_text()];
        reply.answer.error(kind, &secrets)
    }

    /// Reads with a token; an answer other than a success is an error.
    async fn read(&self, target: &Target<'_>) -> Result<Answer, CloudError> {
        let reply = self.ask(Method::GET, target, None).await;
        let reply = reply.map_err(Trouble::into_error)?;
        if reply.is_success() {
            Ok(reply.answer)
        } else {
            Err(self.refused(&reply, reply.answer.read_kind()))
        }
    }

    async fn flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let mut flavors = Vec::new();
        let mut query = None;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..MAX_FLAVOR_PAGES {
            let target = Target::compute(&["flavors", "detail"]).query(query.clone());
            let answer = self.read(&target).await?;
            let page: wire::FlavorPage<'_> = document::read(&answer)?;
            let next = wire::next_page(page.flavors_links.as_ref()).map(list::query_of);
            flavors.extend(page.flavors.0.into_iter().filter_map(usable_flavor));
            if flavors.len() > MAX_FLAVORS {
                return Err(answer.unreadable(format_args!("more than {MAX_FLAVORS} flavors")));
            }
            seen.insert(query);
            match next {
                None => return Ok(flavors),
                Some(next) if seen.contains(&next) => {
                    return Err(answer.unreadable("its pages lead in a circle"));
                }
                Some(next) => query = next,
            }
        }
        Err(CloudError::new(
            CloudErrorKind::Rejected,
            format!("list the flavors of space {}", self.space),
            format!("there are more than {MAX_FLAVOR_PAGES} pages"),
        ))
    }

    async fn limits(&self) -> Result<CloudLimits, CloudError> {
        let answer = self.read(&Target::compute(&["limits"])).await?;
        let document: wire::LimitsDocument = document::read(&answer)?;
        let absolute = document.limits.absolute;
        Ok(CloudLimits {
            machines: limit(absolute.instances),
            processors: limit(absolute.cores),
        })
    }

    fn known_processors(&self) -> Arc<HashMap<String, Processors>> {
        let known = self.processors.read();
        Arc::clone(&known.unwrap_or_else(PoisonError::into_inner))
    }
}

/// The path of a server. An empty or dotted identifier would make the address another one.
fn server_path<'a>(operation: &str, id: &'a CloudId) -> Result<[&'a str; 2], CloudError> {
    if matches!(id.as_str(), "" | "." | "..") {
        let operation = format!("{operation} server {id:?}");
        let why = "this is no identifier of a server";
        return Err(CloudError::new(CloudErrorKind::Rejected, operation, why));
    }
    Ok(["servers", id.as_str()])
}

/// A quota: negative is none, and what does not fit is as good as none.
fn limit(told: Option<i64>) -> Option<u32> {
    u32::try_from(told?).ok()
}

/// A flavor that machines can be made of. One with a name that no Nova allows cannot be meant by a
/// configuration.
fn usable_flavor(flavor: wire::WireFlavor) -> Option<Flavor> {
    let named = document::is_identifier(&flavor.id) && flavor.name.len() <= document::MAX_NAME;
    if flavor.disabled == Some(true) || !named {
        return None;
    }
    Some(Flavor {
        id: flavor.id,
        name: flavor.name,
        processors: Processors::new(flavor.vcpus),
        memory_mb: flavor.ram.filter(|ram| *ram > 0),
        disk_gb: flavor.disk.filter(|disk| *disk > 0),
    })
}

#[async_trait]
impl Cloud for OpenStack {
    async fn facts(&self) -> Result<CloudFacts, CloudError> {
        let both = async { tokio::try_join!(self.flavors(), self.limits()) };
        let facts = self.http.in_time("read the facts", both).await;
        let (flavors, limits) = facts.map_err(|error| self.clean(error))?;
        let known = flavors
            .iter()
            .map(|flavor| (flavor.id.clone(), flavor.processors))
            .collect();
        *self
            .processors
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        Ok(CloudFacts { limits, flavors })
    }

    async fn list(&self) -> Result<Vec<CloudMachine>, CloudError> {
        let all = async {
            let mut machines = self.list_all().await?;
            self.explain_failures(&mut machines).await;
            for machine in &mut machines {
                machine.shortage = machine.fault.as_deref().and_then(blame::shortage);
            }
            Ok(machines)
        };
        let listed = self.http.in_time("list the machines", all).await;
        listed.map_err(|error| self.clean(error))
    }

    async fn find(&self, machine: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
        let found = self
            .http
            .in_time("look for the machine", self.find_server(machine));
        found.await.map_err(|error| self.clean(error))
    }

    async fn create(&self, request: &CreateRequest) -> Result<CloudId, CloudError> {
        let created = self.create_server(request).await;
        created.map_err(|error| self.clean_of(error, &[&create::encoded_user_data(request)]))
    }

    async fn delete(&self, id: &CloudId) -> Result<Deletion, CloudError> {
        let deleted = self.delete_server(id).await;
        deleted.map_err(|error| self.clean(error))
    }

    async fn leftovers(&self, search: &Search) -> Leftovers {
        let mut found = self.find_leftovers(search).await;
        for listed in found.values_mut() {
            if let Err(NotListed::Failed(error)) = listed {
                *error = self.clean(error.clone());
            }
        }
        found
    }

    async fn remove(&self, search: &Search, leftover: &Leftover) -> Result<Removal, CloudError> {
        let removed = self.remove_leftover(search, leftover).await;
        removed.map_err(|error| self.clean(error))
    }

    async fn find_image(&self, image: &NewImage) -> Result<FoundImage, CloudError> {
        let found = self
            .http
            .in_time("look for the image", self.find_copies(image));
        found.await.map_err(|error| self.clean(error))
    }

    async fn upload_image(
        &self,
        image: &NewImage,
        file: &FileBody,
        progress: &UploadProgress,
    ) -> Result<CloudId, CloudError> {
        let uploaded = self.upload(image, file, progress).await;
        uploaded.map_err(|error| self.clean(error))
    }
}
