//! Requests in, answers out. Knows no sockets and no TLS, only who the client was found to be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::Instant;

use super::access::{self, Received};
use super::files::{self, Directory, OpenFile};
use super::identity::Credentials;
use super::joboutputs::{Growing, Joboutputs, Limits, Look, Placed, Reservation, is_durable};
use super::occasionally::Occasionally;
use super::path::{FileName, HeartbeatList, Leaf, Target};
use super::reply::{self, Refusal, ReplyBody};
use crate::blocking;
use crate::clock::Clock;
use crate::model::{Dn, MachineName, TokenHash};
use crate::state::{Layout, Published, TOKEN_HASH};

/// The longest pause within a body. A VM sends from memory or its own disk; a longer pause is a
/// broken network or somebody who wants to hold the connection.
const BODY_PAUSE: Duration = Duration::from_secs(30);

/// The longest time for a whole body: 100 MiB at 1 Mbit/s take 14 minutes.
const BODY_TIME: Duration = Duration::from_secs(15 * 60);

/// How much is held in memory before it goes to the disk. Heartbeats and messages fit, so that
/// the usual upload needs one step on a blocking thread.
const PIECE: usize = 256 * 1024;

/// How much of the body of a refused request is read, and for how long. Clients that speak HTTP/2
/// report no status when a stream ends before their body, and some HTTP/1.1 clients see a reset.
const DRAIN_BYTES: u64 = 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A full disk is said once in this time, and each kind of refusal for one machine in that.
const DISK_FULL: Duration = Duration::from_secs(60);
const REFUSED: Duration = Duration::from_secs(3600);

/// Who asks.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where from, for the log.
    pub address: SocketAddr,
    /// What is known of them.
    pub access: Access,
}

/// How a client came.
#[derive(Clone, Debug)]
pub enum Access {
    /// In clear: whatever they say, they read what anybody may.
    Plain,
    /// Over TLS.
    Tls(Credentials),
}

/// Answers requests from the state directory.
#[derive(Clone, Debug)]
pub struct Router {
    layout: Layout,
    joboutputs: Arc<Joboutputs>,
    disk_full: Arc<Occasionally<()>>,
    refused: Arc<Occasionally<(MachineName, u16)>>,
}

impl Router {
    /// Serves `layout`.
    pub fn new(layout: Layout, clock: Clock, limits: Limits) -> Self {
        Self {
            joboutputs: Arc::new(Joboutputs::new(layout.clone(), clock, limits)),
            layout,
            disk_full: Arc::new(Occasionally::every(DISK_FULL)),
            refused: Arc::new(Occasionally::every(REFUSED)),
        }
    }

    /// Serves `layout` in one of many processes of another server, whose user may write to
    /// joboutputs and nothing else.
    pub fn beside(layout: Layout, clock: Clock, limits: Limits) -> Self {
        let joboutputs = Joboutputs::beside(layout.clone(), clock.clone(), limits);
        Self {
            joboutputs: Arc::new(joboutputs),
            ..Self::new(layout, clock, limits)
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn answer<B>(&self, request: Request<B>, client: &Client) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let begun = Instant::now();
        let (head, mut body) = request.into_parts();
        let response = self.answer_parts(&head, &mut body, client).await;
        access::note(&head, client, &response, begun);
        response
    }

    async fn answer_parts<B>(
        &self,
        head: &http::request::Parts,
        body: &mut B,
        client: &Client,
    ) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let list = HeartbeatList::parse(head.uri.path());
        let answered = match (&head.method, list) {
            (&Method::GET | &Method::HEAD, Some(list)) => self.heartbeat_list(&list, &head.headers),
            (_, Some(_)) => Err(Refusal::method("GET, HEAD")),
            (&Method::GET | &Method::HEAD, None) => {
                self.read(head.uri.path(), &head.headers, client)
            }
            (&Method::PUT, None) => self.write(head, body, client).await,
            (_, None) => Target::parse(head.uri.path()).and_then(|target| Err(no_method(&target))),
        };
        let refusal = match answered {
            Ok(response) => {
                return match head.method {
                    Method::HEAD => reply::without_body(response),
                    _ => response,
                };
            }
            Err(refusal) => refusal,
        };
        self.log_refusal(head, client, &refusal);
        // A client that waits for "100 Continue" has sent nothing and now never will.
        if !head.headers.contains_key(EXPECT) {
            drain(body).await;
        }
        let response = refusal.into_response();
        match head.method {
            Method::HEAD => reply::without_body(response),
            _ => response,
        }
    }

    /// GET and HEAD. The files are small or sent piece by piece, so this does not wait.
    fn read(
        &self,
        path: &str,
        headers: &HeaderMap,
        client: &Client,
    ) -> Result<Response<ReplyBody>, Refusal> {
        let target = Target::parse(path)?;
        let anybodys = target.directory != Published::Joboutputs;
        if let (true, Leaf::File(name)) = (anybodys, &target.leaf) {
            let found =
                files::published_file(&self.layout, &target.machine, target.directory, name);
            let found = found.map_err(|error| Refusal::disk(&error))?;
            return send(found.ok_or_else(Refusal::not_found)?, headers);
        }
        let machine = self.machine(&target.machine)?;
        if !anybodys {
            authorise(&machine, &target.machine, (client, headers))?;
        }
        let directory = published(&machine, target.directory)?;
        match &target.leaf {
            Leaf::NoSlash => reply::moved(&format!("{}/", url_path(&target))),
            Leaf::Directory => listing(&target, &directory),
            Leaf::File(name) => {
                let found = directory
                    .file(name.as_str())
                    .map_err(|error| Refusal::disk(&error))?
                    .ok_or_else(Refusal::not_found)?;
                send(found, headers)
            }
        }
    }

    /// GET and HEAD of a heartbeat list, which anybody may, like machinefeatures.
    fn heartbeat_list(
        &self,
        list: &HeartbeatList,
        headers: &HeaderMap,
    ) -> Result<Response<ReplyBody>, Refusal> {
        let disk = |error: std::io::Error| Refusal::disk(&error);
        let lists = Directory::of_heartbeat_lists(&self.layout, &list.space).map_err(disk)?;
        let lists = lists.ok_or_else(Refusal::not_found)?;
        let found = lists.file(list.machinetype.as_str()).map_err(disk)?;
        send(found.ok_or_else(Refusal::not_found)?, headers)
    }

    /// PUT. Nothing of the body is read, and "100 Continue" is not sent, before it is clear who
    /// asks and that there is room.
    async fn write<B>(
        &self,
        head: &http::request::Parts,
        body: &mut B,
        client: &Client,
    ) -> Result<Response<ReplyBody>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let target = Target::parse(head.uri.path())?;
        if target.directory != Published::Joboutputs {
            return Err(no_method(&target));
        }
        let machine = self.machine(&target.machine)?;
        authorise(&machine, &target.machine, (client, &head.headers))?;
        let Leaf::File(name) = target.leaf else {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "expected the name of a file after joboutputs/",
            ));
        };
        let announced = announced_length(head)?;
        let directory = published(&machine, Published::Joboutputs)?;
        let mut reservation =
            self.joboutputs
                .reserve(&target.machine, &directory, &name, announced)?;
        let receiving = self.receive(body, &mut reservation);
        let growing = match tokio::time::timeout(BODY_TIME, receiving).await {
            Ok(received) => received,
            Err(_) => Err(too_slow()),
        };
        let received = growing.as_ref().map_or(0, |(growing, rest)| {
            let rest = u64::try_from(rest.len()).unwrap_or(u64::MAX);
            let written = growing.as_ref().map_or(0, Growing::written);
            written.saturating_add(rest)
        });
        let place = (directory, name, reservation.look());
        let placed = self.place(growing, &target.machine, place).await?;
        let mut response = reply::empty(match placed {
            Placed::New => StatusCode::CREATED,
            Placed::Replaced => StatusCode::OK,
        });
        response.extensions_mut().insert(Received(received));
        Ok(response)
    }

    /// Takes a body to its end: what fits into memory in one piece, the rest through the disk.
    async fn receive<B>(
        &self,
        body: &mut B,
        reservation: &mut Reservation,
    ) -> Result<(Option<Growing>, Bytes), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut growing = None;
        let mut piece = BytesMut::new();
        let mut total: u64 = 0;
        loop {
            let frame = tokio::time::timeout(BODY_PAUSE, body.frame())
                .await
                .map_err(|_| too_slow())?;
            let data = match frame {
                None => return Ok((growing, piece.freeze())),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    return Err(Refusal::new(
                        StatusCode::BAD_REQUEST,
                        format!("the body did not come to its end: {error}"),
                    ));
                }
            };
            total = total.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            reservation.cover(total)?;
            piece.extend_from_slice(&data);
            if piece.len() >= PIECE {
                let machine = reservation.machine();
                growing = Some(
                    self.append(growing, machine, piece.split().freeze())
                        .await?,
                );
            }
        }
    }

    async fn append(
        &self,
        growing: Option<Growing>,
        machine: &MachineName,
        piece: Bytes,
    ) -> Result<Growing, Refusal> {
        let (joboutputs, machine) = (Arc::clone(&self.joboutputs), machine.clone());
        blocking::run(move || {
            let mut growing = match growing {
                Some(growing) => growing,
                None => joboutputs.begin(&machine)?,
            };
            growing.write(&piece)?;
            Ok(growing)
        })
        .await
    }

    /// Puts what was received in its place; when the disk does not take it, at least notes the sign
    /// of life.
    async fn place(
        &self,
        received: Result<(Option<Growing>, Bytes), Refusal>,
        machine: &MachineName,
        (directory, name, look): (Directory, FileName, Look),
    ) -> Result<Placed, Refusal> {
        // A heartbeat is in the page cache in less time than another thread needs to wake up.
        let quick = matches!(&received, Ok((None, _))) && !is_durable(&name);
        let (joboutputs, machine) = (Arc::clone(&self.joboutputs), machine.clone());
        let work = move || {
            let placed = received.and_then(|(growing, rest)| {
                let mut growing = match growing {
                    Some(growing) => growing,
                    None => joboutputs.begin(&machine)?,
                };
                growing.write(&rest)?;
                joboutputs.place(growing, &machine, (&directory, &name, look))
            });
            if let Err(refusal) = &placed
                && matches!(
                    refusal.status,
                    StatusCode::INSUFFICIENT_STORAGE | StatusCode::INTERNAL_SERVER_ERROR
                )
            {
                joboutputs.keep_alive(&directory, &name);
            }
            placed
        };
        if quick {
            work()
        } else {
            blocking::run(work).await
        }
    }

    fn machine(&self, name: &MachineName) -> Result<Directory, Refusal> {
        Directory::of_machine(&self.layout, name)
            .map_err(|error| Refusal::disk(&error))?
            .ok_or_else(Refusal::not_found)
    }

    /// Refusals that are about a machine that exists matter to an admin: a VM that cannot send
    /// its heartbeat will be destroyed. It tries every few minutes, so each kind is said once in
    /// a while. What is not there is asked for all the time, and by anybody.
    fn log_refusal(&self, head: &http::request::Parts, client: &Client, refusal: &Refusal) {
        let path = access::path(head);
        let method = &head.method;
        let status = refusal.status.as_u16();
        let reason = refusal.reason.as_str();
        let address = client.address;
        let machine = Target::parse(&path).ok().map(|target| target.machine);
        let dn = access::dn(client);
        let said = match (refusal.status, machine) {
            (StatusCode::INSUFFICIENT_STORAGE, _) => self.disk_full.due(()),
            (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) | (_, None) => None,
            (_, Some(machine)) => self.refused.due((machine, status)),
        };
        match said {
            None => tracing::debug!(
                client = %address, dn, %method, path, status, reason, "refused a request"
            ),
            Some(more) if refusal.status.is_server_error() => tracing::error!(
                client = %address, dn, %method, path, status, reason, more,
                "cannot do what a machine asks"
            ),
            Some(more) => tracing::warn!(
                client = %address, dn, %method, path, status, reason, more, "refused a request"
            ),
        }
    }
}

/// The answer with a file, or 304.
fn send(found: OpenFile, headers: &HeaderMap) -> Result<Response<ReplyBody>, Refusal> {
    let version = found.version.clone();
    reply::file(&version, headers, || {
        found.content().map_err(|error| Refusal::disk(&error))
    })
}

fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")
}

fn no_method(target: &Target) -> Refusal {
    match target.directory {
        Published::Machinefeatures | Published::Jobfeatures => Refusal::method("GET, HEAD"),
        Published::Joboutputs => Refusal::method("GET, HEAD, PUT"),
    }
}

fn published(machine: &Directory, which: Published) -> Result<Directory, Refusal> {
    machine
        .published(which)
        .map_err(|error| Refusal::disk(&error))?
        .ok_or_else(Refusal::not_found)
}

/// Whether `client` may read and write the joboutputs of the machine: only when the machinetype
/// had an x509dn when the machine was made, and the client has proved to be just that, or when it
/// shows the machine's own token.
fn authorise(
    machine: &Directory,
    name: &MachineName,
    (client, headers): (&Client, &HeaderMap),
) -> Result<(), Refusal> {
    let credentials = match &client.access {
        Access::Plain => return Err(Refusal::forbidden("joboutputs needs HTTPS")),
        Access::Tls(credentials) => credentials,
    };
    if let Some(token) = bearer_token(headers) {
        return authorise_by_token(machine, token);
    }
    let allowed = machine
        .small_text("https_x509dn")
        .map_err(|error| Refusal::disk(&error))?
        .ok_or_else(|| {
            Refusal::forbidden("the machinetype of this machine had no x509dn when it was made, so it takes only its token")
        })?;
    let allowed = Dn::parse(&allowed).map_err(|error| {
        tracing::error!(machine = %name, %error, "the file https_x509dn holds no DN");
        Refusal::forbidden("the x509dn of this machine cannot be read")
    })?;
    match credentials {
        Credentials::Verified(dn) if *dn == allowed => Ok(()),
        Credentials::Verified(dn) => Err(Refusal::forbidden(format!(
            "the certificate is of {dn}, and this machine takes files from {allowed}"
        ))),
        Credentials::None => Err(Refusal::forbidden(
            "joboutputs needs a client certificate or the machine's token",
        )),
        Credentials::Refused(reason) => Err(Refusal::forbidden(reason.clone())),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750). Other schemes are not ours to judge.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("Bearer")
        .then(|| token.trim_matches(' '))
}

fn authorise_by_token(machine: &Directory, token: &str) -> Result<(), Refusal> {
    let kept = machine
        .small_text(TOKEN_HASH)
        .map_err(|error| Refusal::disk(&error))?;
    match kept.as_deref().map(TokenHash::parse) {
        Some(Some(hash)) if hash.matches(token) => Ok(()),
        Some(_) => Err(Refusal::forbidden("this is not the token of this machine")),
        None => Err(Refusal::forbidden("this machine has no token")),
    }
}

/// The Content-Length of an upload. HTTP/1 must tell the length or send chunks (RFC 9112, 6.3);
/// HTTP/2 frames its bodies.
fn announced_length(head: &http::request::Parts) -> Result<Option<u64>, Refusal> {
    if head.headers.contains_key(CONTENT_RANGE) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "parts of files cannot be sent",
        ));
    }
    let length = head
        .headers
        .get(CONTENT_LENGTH)
        .map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    match length {
        Some(Some(length)) => Ok(Some(length)),
        Some(None) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "expected a number in Content-Length",
        )),
        None if head.version < Version::HTTP_2 && !head.headers.contains_key(TRANSFER_ENCODING) => {
            Err(Refusal::new(
                StatusCode::LENGTH_REQUIRED,
                "expected a Content-Length or a chunked body",
            ))
        }
        None => Ok(None),
    }
}

fn url_path(target: &Target) -> String {
    format!(
        "/machines/{}/{}",
        target.machine,
        target.directory.dir_name()
    )
}

/// The files of a directory as links, which is what generic clients follow.
fn listing(target: &Target, directory: &Directory) -> Result<Response<ReplyBody>, Refusal> {
    let files = directory.list().map_err(|error| Refusal::disk(&error))?;
    let title = format!("Index of {}", url_path(target));
    // Names have no character that means something in HTML; in a URL only blanks do.
    let links: String = files
        .iter()
        .map(|(name, _)| {
            let name = name.as_str();
            let url = name.replace(' ', "%20");
            format!("<li><a href=\"{url}\">{name}</a></li>\n")
        })
        .collect();
    Ok(reply::html(format!(
        "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body><h1>{title}</h1>\n\
         <ul>\n{links}</ul></body></html>\n"
    )))
}

/// Reads some of a body that nobody wants.
async fn drain<B>(body: &mut B)
where
    B: Body<Data = Bytes> + Unpin,
{
    let reading = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
            if left == 0 {
                break;
            }
        }
    };
    // Not reading to the end is no failure: the connection then closes after the answer.
    let _ended = tokio::time::timeout(DRAIN_TIME, reading).await;
}
