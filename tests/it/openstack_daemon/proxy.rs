//! Between the daemon and the cloud: a proxy that passes everything on, learns the tokens, and
//! does what it is told to do wrong.
//!
//! The daemon's `url` leads to it, and it puts itself in place of the compute endpoint in the
//! service catalog, so that requests to Nova come here too.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::Stage;

type Body = BoxBody<Bytes, io::Error>;

/// What the proxy does with requests to Nova.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    Faithful,
    /// Every answer is 503.
    Unavailable,
    /// Every answer is the page of a portal, with status 200.
    Html,
    /// The connection breaks in the middle of each page of the listing but the first.
    HalfPage,
    /// The second page of the listing is cut short, with nothing else wrong.
    CutPage,
    /// Creations reach Nova, and their answers never come back.
    WithholdCreates,
    /// Creations reach Nova, and the connection breaks before the answer.
    BreakCreates,
    /// Creations never reach Nova, and nothing is answered.
    SwallowCreates,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub body: Bytes,
}

impl Seen {
    fn is_create(&self) -> bool {
        self.method == Method::POST && self.path == "/compute/servers"
    }

    fn is_listing(&self) -> bool {
        self.method == Method::GET && self.path == "/compute/servers/detail"
    }

    fn is_later_page(&self) -> bool {
        self.is_listing() && self.query.contains("marker=")
    }
}

#[derive(Default)]
struct State {
    manner: Manner,
    hide_limits: bool,
    offer_volumes: bool,
    seen: Vec<Seen>,
    tokens: Vec<String>,
    refused: HashSet<String>,
    /// What Nova has answered to creations.
    created: Vec<StatusCode>,
}

struct Shared {
    client: reqwest::Client,
    /// The identity service without `/v3`, and the compute endpoint.
    identity: String,
    compute: String,
    region: String,
    address: SocketAddr,
    state: Mutex<State>,
}

/// The proxy; it stops when this is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.down();
    }
}

impl Proxy {
    pub async fn start(stage: &Stage) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let site = &stage.site;
        let shared = Arc::new(Shared {
            client: stage.user.client.clone(),
            identity: site
                .auth_url
                .trim_end_matches('/')
                .trim_end_matches("/v3")
                .to_owned(),
            compute: stage.user.compute.trim_end_matches('/').to_owned(),
            region: site.region.clone(),
            address: listener.local_addr().unwrap(),
            state: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            shared,
            accepting: Mutex::new(Some(accepting)),
        }
    }

    /// The `url` of a space behind the proxy.
    pub fn auth_url(&self) -> String {
        format!("http://{}/identity/v3", self.shared.address)
    }

    /// Closes all connections and refuses new ones.
    pub fn down(&self) {
        let accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(accepting) = accepting {
            accepting.abort();
        }
    }

    /// Listens again at the same address.
    pub async fn up(&self) {
        let listener = TcpListener::bind(self.shared.address).await.unwrap();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        *self.accepting.lock().unwrap() = Some(accepting);
    }

    pub fn set(&self, manner: Manner) {
        self.shared.state().manner = manner;
    }

    /// Tells the daemon from now on that the project has no limits.
    pub fn hide_limits(&self) {
        self.shared.state().hide_limits = true;
    }

    /// Tells the daemon from now on that there is a volume service, to which nobody listens.
    pub fn offer_volumes(&self) {
        self.shared.state().offer_volumes = true;
    }

    /// All requests for creations.
    pub fn creates(&self) -> Vec<Value> {
        let state = self.shared.state();
        let creates = state.seen.iter().filter(|seen| seen.is_create());
        creates
            .map(|seen| serde_json::from_slice(&seen.body).unwrap())
            .collect()
    }

    /// What Nova has answered to creations, whether the answer was passed on or not.
    pub fn created(&self) -> Vec<StatusCode> {
        self.shared.state().created.clone()
    }

    /// How many requests for the first page of the listing, and how many for others, have come.
    pub fn listings(&self) -> (usize, usize) {
        let state = self.shared.state();
        let listings = state.seen.iter().filter(|seen| seen.is_listing());
        let (later, first): (Vec<&Seen>, Vec<&Seen>) = listings.partition(|s| s.is_later_page());
        (first.len(), later.len())
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.shared.state().seen.len()
    }

    /// How many requests for deletions have come.
    pub fn deletes(&self) -> usize {
        let state = self.shared.state();
        let deletes = |seen: &&Seen| seen.method == Method::DELETE;
        state.seen.iter().filter(deletes).count()
    }

    /// How many tokens Keystone has given out.
    pub fn tokens(&self) -> usize {
        self.shared.state().tokens.len()
    }

    /// Revokes the last token at Keystone. Nova believes for some minutes what Keystone told it
    /// before; that it has heard of it is played here.
    pub async fn revoke(&self) {
        let token = self.shared.state().tokens.last().unwrap().clone();
        let url = format!("{}/v3/auth/tokens", self.shared.identity);
        let request = self.shared.client.delete(url);
        let request = request.header("x-auth-token", &token);
        let answer = request.header("x-subject-token", &token).send().await;
        assert_eq!(answer.unwrap().status(), 204);
        self.shared.state().refused.insert(token);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| shared.serve(request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A connection that breaks is what many scenarios are about.
            let _broken = connection.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
struct Silence;

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Body>, Silence> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return Err(Silence);
        };
        let seen = Seen {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or("").to_owned(),
            body: body.to_bytes(),
        };
        let (manner, hide_limits, refused) = {
            let mut state = self.state();
            state.seen.push(seen.clone());
            let token = parts.headers.get("x-auth-token");
            let token = token.map_or("", |token| token.to_str().unwrap());
            (
                state.manner,
                state.hide_limits,
                state.refused.contains(token),
            )
        };
        if !seen.path.starts_with("/compute/") {
            return self.log_in(&seen, &parts.headers).await;
        }
        if refused {
            let body = r#"{"error": {"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}}"#;
            return Ok(said(StatusCode::UNAUTHORIZED, "application/json", body));
        }
        match manner {
            Manner::Unavailable => {
                let body = "<html><h1>503 Service Unavailable</h1>No server is available.</html>";
                return Ok(said(StatusCode::SERVICE_UNAVAILABLE, "text/html", body));
            }
            Manner::Html => {
                let body = "<!DOCTYPE html><html><body>Please log in.</body></html>";
                return Ok(said(StatusCode::OK, "text/html", body));
            }
            Manner::SwallowCreates if seen.is_create() => std::future::pending().await,
            _ => {}
        }
        let (status, headers, body) = self.pass_on(&seen, &parts.headers).await;
        if seen.is_create() {
            self.state().created.push(status);
        }
        match manner {
            Manner::WithholdCreates if seen.is_create() => std::future::pending().await,
            Manner::BreakCreates if seen.is_create() => Err(Silence),
            Manner::HalfPage if seen.is_later_page() => Ok(half(status, &headers, &body)),
            Manner::CutPage if seen.is_later_page() => {
                let half = body.slice(..body.len() / 2);
                Ok(whole(status, &headers, half))
            }
            _ if hide_limits && seen.path == "/compute/limits" => {
                let none = json!({"limits": {"rate": [], "absolute":
                    {"maxTotalCores": -1, "maxTotalInstances": -1}}});
                Ok(whole(status, &headers, Bytes::from(none.to_string())))
            }
            _ => Ok(whole(status, &headers, body)),
        }
    }

    async fn log_in(&self, seen: &Seen, headers: &HeaderMap) -> Result<Response<Body>, Silence> {
        let (status, headers, body) = self.pass_on(seen, headers).await;
        let Some(token) = headers.get("x-subject-token") else {
            return Ok(whole(status, &headers, body));
        };
        self.state().tokens.push(token.to_str().unwrap().to_owned());
        let mut document: Value = serde_json::from_slice(&body).unwrap();
        for service in document["token"]["catalog"].as_array_mut().unwrap() {
            if service["type"] != "compute" {
                continue;
            }
            for endpoint in service["endpoints"].as_array_mut().unwrap() {
                if endpoint["region"] == self.region.as_str() {
                    endpoint["url"] = json!(format!("http://{}/compute", self.address));
                }
            }
        }
        if self.state().offer_volumes {
            let endpoint = json!({"interface": "public", "region": self.region,
                "url": format!("http://{}/compute/no-volumes", self.address)});
            let service = json!({"type": "volumev3", "endpoints": [endpoint]});
            let catalog = document["token"]["catalog"].as_array_mut().unwrap();
            catalog.push(service);
        }
        Ok(whole(status, &headers, Bytes::from(document.to_string())))
    }

    async fn pass_on(&self, seen: &Seen, headers: &HeaderMap) -> (StatusCode, HeaderMap, Bytes) {
        let path = &seen.path;
        let base = match path.strip_prefix("/compute") {
            Some(rest) => format!("{}{rest}", self.compute),
            None => format!(
                "{}{}",
                self.identity,
                path.strip_prefix("/identity").unwrap()
            ),
        };
        let query = if seen.query.is_empty() {
            String::new()
        } else {
            format!("?{}", seen.query)
        };
        let mut request = self
            .client
            .request(seen.method.clone(), format!("{base}{query}"))
            .body(seen.body.clone());
        for name in ["x-auth-token", "content-type", "accept"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        (status, headers, answer.bytes().await.unwrap())
    }
}

fn said(status: StatusCode, kind: &str, body: &'static str) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
    whole(status, &headers, Bytes::from_static(body.as_bytes()))
}

fn whole(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never: Infallible| match never {});
    answer(status, headers, body.boxed())
}

/// Half of a body, and then the end of the connection.
fn half(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    let frames = [
        Ok(Frame::data(body.slice(..body.len() / 2))),
        Err(io::Error::other("the connection breaks")),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    answer(status, headers, BoxBody::new(body))
}

fn answer(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for name in [
        "content-type",
        "x-subject-token",
        "x-openstack-request-id",
        "retry-after",
    ] {
        if let Some(value) = headers.get(name) {
            let name = header::HeaderName::from_static(name);
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
