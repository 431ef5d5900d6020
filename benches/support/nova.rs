//! The clouds: one HTTP server that plays Keystone, Nova and Glance of many projects, each below
//! a path of its own (`/SPACE/v3`, `/SPACE/v2.1`). It runs on a thread of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;

use super::site::FACTORY;

/// Nova's default size of a page.
const PAGE: usize = 1000;
/// A project of this name takes connections and never answers.
const SILENT: &str = "silent";

/// A handle to the server, which lives as long as the process.
#[derive(Clone)]
pub struct Nova(Arc<Shared>);

struct Shared {
    base: String,
    /// How long a create takes.
    create: Duration,
    requests: AtomicU64,
    silenced: AtomicU64,
    tokens: AtomicU64,
    creating: AtomicU64,
    most_creating: AtomicU64,
    projects: Mutex<BTreeMap<String, Project>>,
}

#[derive(Default)]
struct Project {
    servers: Vec<String>,
    /// What has been rendered of `servers`; empty when that has changed.
    pages: Vec<Bytes>,
    /// When the project was asked for its flavors, which is how a cycle begins.
    asked: Vec<Instant>,
}

impl Nova {
    /// Starts a server that takes `create` for each create.
    pub fn start(create: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let nova = Self(Arc::new(Shared {
            base: format!("http://{}", listener.local_addr().unwrap()),
            create,
            requests: AtomicU64::new(0),
            silenced: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            creating: AtomicU64::new(0),
            most_creating: AtomicU64::new(0),
            projects: Mutex::default(),
        }));
        let serving = nova.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(serving.serve(listener));
        });
        nova
    }

    /// The `url` option of a space.
    pub fn url(&self, space: &str) -> String {
        format!("{}/{space}/v3", self.0.base)
    }

    /// The `url` option of a space whose cloud takes connections and never answers.
    pub fn silent_url(&self) -> String {
        self.url(SILENT)
    }

    /// Gives a project the servers with these numbers, all running.
    pub fn fill(&self, space: &str, numbers: std::ops::Range<usize>) {
        let servers = numbers.map(|number| server(number, &name(number), space));
        let servers = servers.collect();
        let mut projects = self.0.projects.lock().unwrap();
        let project = projects.entry(space.to_owned()).or_default();
        (project.servers, project.pages) = (servers, Vec::new());
    }

    /// How many servers a project has.
    pub fn servers(&self, space: &str) -> usize {
        let projects = self.0.projects.lock().unwrap();
        projects.get(space).map_or(0, |known| known.servers.len())
    }

    /// The listing of a project, page by page.
    pub fn pages(&self, space: &str) -> Vec<Bytes> {
        let mut projects = self.0.projects.lock().unwrap();
        let project = projects.get_mut(space).unwrap();
        project.render(&self.0.base, space);
        project.pages.clone()
    }

    /// When the cycles of a space began.
    pub fn cycles(&self, space: &str) -> Vec<Instant> {
        let projects = self.0.projects.lock().unwrap();
        projects.get(space).map_or(Vec::new(), |p| p.asked.clone())
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Requests so far that will never be answered.
    pub fn silenced(&self) -> u64 {
        self.0.silenced.load(Ordering::SeqCst)
    }

    /// Tokens given out so far.
    pub fn tokens(&self) -> u64 {
        self.0.tokens.load(Ordering::SeqCst)
    }

    /// The most creates that were under way at once.
    pub fn most_creating(&self) -> u64 {
        self.0.most_creating.load(Ordering::SeqCst)
    }

    async fn serve(self, listener: std::net::TcpListener) {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let nova = self.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let nova = nova.clone();
                    async move { Ok::<_, Infallible>(nova.answer(request).await) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let _closed_by_the_daemon = serving.await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or("").to_owned();
        let (space, path) = path[1..].split_once('/').unwrap();
        if space == SILENT {
            self.0.silenced.fetch_add(1, Ordering::SeqCst);
            return std::future::pending().await;
        }
        let base = format!("{}/{space}", self.0.base);
        let mut response = Response::builder().header("content-type", "application/json");
        let body = match (request.method(), path) {
            (&Method::POST, "v3/auth/tokens") => {
                self.0.tokens.fetch_add(1, Ordering::SeqCst);
                response = response.status(201).header("x-subject-token", "token");
                Bytes::from(catalog(&base))
            }
            (&Method::GET, "v2.1/flavors/detail") => {
                let mut projects = self.0.projects.lock().unwrap();
                let project = projects.entry(space.to_owned()).or_default();
                project.asked.push(Instant::now());
                Bytes::from_static(FLAVORS)
            }
            (&Method::GET, "v2.1/limits") => Bytes::from_static(LIMITS),
            (&Method::GET, "v2/images") => Bytes::from_static(IMAGES),
            // The first pass looks for what a daemon before it may have left over.
            (&Method::GET, "v2.1/os-keypairs") => Bytes::from_static(br#"{"keypairs": []}"#),
            (&Method::GET, "v2.1/servers/detail") => self.page(space, &query),
            (&Method::POST, "v2.1/servers") => {
                response = response.status(202);
                let order = request.into_body().collect().await.unwrap().to_bytes();
                self.create(space, &order).await
            }
            (method, other) => panic!("asked for {method} {other}"),
        };
        response.body(Full::new(body)).unwrap()
    }

    fn page(&self, space: &str, query: &str) -> Bytes {
        let marker = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("marker="));
        let mut projects = self.0.projects.lock().unwrap();
        let project = projects.entry(space.to_owned()).or_default();
        project.render(&self.0.base, space);
        let number = marker.map_or(0, |marker| {
            let pages = project.servers.chunks(PAGE);
            let mut ends = pages.map(|page| page.last().unwrap().get(8..44));
            ends.position(|end| end == Some(marker)).unwrap() + 1
        });
        project.pages.get(number).cloned().unwrap_or_default()
    }

    async fn create(&self, space: &str, order: &[u8]) -> Bytes {
        let order: serde_json::Value = serde_json::from_slice(order).unwrap();
        let now = self.0.creating.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_creating.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.0.create).await;
        self.0.creating.fetch_sub(1, Ordering::SeqCst);
        let mut projects = self.0.projects.lock().unwrap();
        let project = projects.entry(space.to_owned()).or_default();
        let number = project.servers.len();
        let name = order["server"]["name"].as_str().unwrap();
        project.servers.push(server(number, name, space));
        project.pages.clear();
        Bytes::from(format!(r#"{{"server": {{"id": "{}"}}}}"#, id(number)))
    }
}

impl Project {
    fn render(&mut self, base: &str, space: &str) {
        if !self.pages.is_empty() {
            return;
        }
        for servers in self.servers.chunks(PAGE) {
            let mut text = format!(r#"{{"servers": [{}]"#, servers.join(", "));
            // A full page has a link to the next, as Nova's have, be that empty or not.
            if servers.len() == PAGE {
                let marker = servers.last().unwrap().get(8..44).unwrap();
                write!(
                    text,
                    r#", "servers_links": [{{"rel": "next", "href": "{base}/{space}/v2.1/servers/detail?marker={marker}"}}]"#
                )
                .unwrap();
            }
            text.push('}');
            self.pages.push(Bytes::from(text));
        }
        if self.servers.len().is_multiple_of(PAGE) {
            self.pages.push(Bytes::from_static(br#"{"servers": []}"#));
        }
    }
}

/// The name of a machine.
pub fn name(number: usize) -> String {
    format!("vcycle-atlas-{number:010}")
}

/// The identifier of a server.
pub fn id(number: usize) -> String {
    format!("{number:08x}-8ab3-4c1e-9d5f-0123456789ab")
}

/// One server as Nova lists it.
fn server(number: usize, name: &str, space: &str) -> String {
    let id = id(number);
    let urls = ["machinefeatures", "jobfeatures", "joboutputs"]
        .map(|which| format!(r#""{which}": "https://{FACTORY}:443/machines/{name}/{which}""#));
    format!(
        r#"{{"id": "{id}", "name": "{name}", "status": "ACTIVE",
"tenant_id": "ca614763046b4e17acf5df2b57bc96ad", "user_id": "6f70656e737461636b2069732066756e",
"metadata": {{"name": "{name}", "machinetype": "atlas", "space": "{space}", "manager": "{FACTORY}", {}}},
"hostId": "c1b2d3e4f5a6978812345678901234567890123456789012345678aa",
"image": {{"id": "0d591c41-d8e9-4c06-830f-6bfef6713736", "links": [{{"rel": "bookmark", "href": "http://127.0.0.1/images/0d591c41-d8e9-4c06-830f-6bfef6713736"}}]}},
"flavor": {{"id": "b5694a07-26b8-4422-855f-735afdc6bffa", "links": [{{"rel": "bookmark", "href": "http://127.0.0.1/flavors/b5694a07-26b8-4422-855f-735afdc6bffa"}}]}},
"created": "2026-11-20T10:00:00Z", "updated": "2026-11-20T10:01:00Z",
"addresses": {{"vcycle-net": [{{"version": 4, "addr": "10.77.{}.{}", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:12:34:56"}}]}},
"accessIPv4": "", "accessIPv6": "", "links": [{{"rel": "self", "href": "http://127.0.0.1/v2.1/servers/{id}"}}, {{"rel": "bookmark", "href": "http://127.0.0.1/servers/{id}"}}],
"OS-DCF:diskConfig": "MANUAL", "progress": 0, "OS-EXT-AZ:availability_zone": "zone-a", "config_drive": "", "key_name": null,
"OS-SRV-USG:launched_at": "2026-11-20T10:01:00.000000", "OS-SRV-USG:terminated_at": null,
"security_groups": [{{"name": "default"}}], "OS-EXT-STS:task_state": null, "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:power_state": 1,
"os-extended-volumes:volumes_attached": []}}"#,
        urls.join(", "),
        number / 250 % 250,
        number % 250
    )
}

const FLAVORS: &[u8] = br#"{"flavors": [{"id": "b5694a07-26b8-4422-855f-735afdc6bffa", "name": "small", "vcpus": 1, "ram": 2048, "disk": 10}]}"#;
const LIMITS: &[u8] = br#"{"limits": {"rate": [], "absolute": {"maxTotalInstances": 100000, "maxTotalCores": 100000}}}"#;
const IMAGES: &[u8] = br#"{"images": [{"id": "0d591c41-d8e9-4c06-830f-6bfef6713736", "name": "x", "status": "active"}]}"#;

fn catalog(base: &str) -> String {
    format!(
        r#"{{"token": {{"expires_at": "2099-01-01T00:00:00.000000Z", "catalog": [
{{"type": "compute", "name": "nova", "endpoints": [{{"interface": "public", "region": "R", "region_id": "R", "url": "{base}/v2.1"}}]}},
{{"type": "image", "name": "glance", "endpoints": [{{"interface": "public", "region": "R", "region_id": "R", "url": "{base}"}}]}}]}}}}"#
    )
}
