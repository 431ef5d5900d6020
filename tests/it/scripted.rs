//! An HTTP server on a real socket that says what a test tells it to: also what a good server
//! never says. With TLS on request, then with HTTP/2 too.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslMethod, select_next_proto};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};
use tokio::net::{TcpListener, TcpStream};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub version: Version,
    /// How many requests with this method and path came before.
    pub nth: usize,
}

impl Seen {
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method.as_str() == method && self.path == path
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers.
    Say {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Answers with bytes that need not be text.
    Raw {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Answers with `head`, then with `piece` so many times, then with `tail`.
    Long {
        status: u16,
        head: String,
        piece: String,
        times: usize,
        tail: String,
    },
    /// Sends the head and half of the body, then breaks the connection.
    BreakOff(String),
    /// Breaks the connection without a word.
    Reset,
    /// Says nothing for an hour.
    Hang,
}

impl Reply {
    pub fn json(status: u16, body: impl ToString) -> Self {
        Self::Say {
            status,
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.to_string(),
        }
    }

    pub fn html(status: u16, body: &str) -> Self {
        Self::Say {
            status,
            headers: vec![("content-type", "text/html".to_owned())],
            body: body.to_owned(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Self::Say { headers, .. } = &mut self {
            headers.push((name, value.to_string()));
        }
        self
    }
}

type Script = dyn Fn(&Seen, &str) -> Reply + Send + Sync;

/// The running server; it ends with the test's runtime.
pub struct Scripted {
    /// `http://127.0.0.1:PORT` or `https://localhost:PORT`.
    pub base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// Serves plain HTTP. The script gets each request and the server's own address.
    pub async fn start(script: impl Fn(&Seen, &str) -> Reply + Send + Sync + 'static) -> Self {
        let (listener, address) = listen().await;
        Self::serve(
            listener,
            format!("http://{address}"),
            None,
            Arc::new(script),
        )
    }

    /// Serves HTTPS with HTTP/2 and HTTP/1.1, under a certificate of `authority`.
    pub async fn start_tls(
        authority: &Authority,
        script: impl Fn(&Seen, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (listener, address) = listen().await;
        let base = format!("https://localhost:{}", address.port());
        let acceptor = authority.acceptor("localhost");
        Self::serve(listener, base, Some(acceptor), Arc::new(script))
    }

    fn serve(
        listener: TcpListener,
        base: String,
        tls: Option<SslAcceptor>,
        script: Arc<Script>,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = Self {
            base: base.clone(),
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen, base) = (script.clone(), seen.clone(), base.clone());
                let tls = tls.clone();
                tokio::spawn(async move {
                    serve_connection(stream, tls, script, seen, base).await;
                });
            }
        });
        server
    }

    /// Every request so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// How many requests so far had this method and path.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|s| s.is(method, path)).count()
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<SslAcceptor>,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    base: String,
) {
    let service = hyper::service::service_fn(move |request| {
        answer(request, script.clone(), seen.clone(), base.clone())
    });
    let builder = Builder::new(TokioExecutor::new());
    // A connection that the client gives up is part of many tests.
    let _ = match tls {
        None => {
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
        Some(acceptor) => {
            let ssl = Ssl::new(acceptor.context()).unwrap();
            let mut stream = tokio_openssl::SslStream::new(ssl, stream).unwrap();
            if std::pin::Pin::new(&mut stream).accept().await.is_err() {
                return;
            }
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
    };
}

type Body = BoxBody<Bytes, std::io::Error>;

/// An answer that comes in one piece.
fn whole(status: u16, headers: Vec<(&'static str, String)>, body: Bytes) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let body = Full::new(body).map_err(|never: Infallible| match never {});
    response.body(body.boxed()).unwrap()
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    base: String,
) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let now = {
        let mut all = seen.lock().unwrap();
        let path = head.uri.path().to_owned();
        let nth = all
            .iter()
            .filter(|s| s.is(head.method.as_str(), &path))
            .count();
        let now = Seen {
            method: head.method,
            path,
            query: head.uri.query().unwrap_or("").to_owned(),
            headers: head.headers,
            body,
            version: head.version,
            nth,
        };
        all.push(now.clone());
        now
    };
    match script(&now, &base) {
        Reply::Say {
            status,
            headers,
            body,
        } => Ok(whole(status, headers, Bytes::from(body))),
        Reply::Raw {
            status,
            headers,
            body,
        } => Ok(whole(status, headers, Bytes::from(body))),
        Reply::Long {
            status,
            head,
            piece,
            times,
            tail,
        } => {
            let pieces = std::iter::repeat_n(Bytes::from(piece), times);
            let all = std::iter::once(Bytes::from(head))
                .chain(pieces)
                .chain(std::iter::once(Bytes::from(tail)));
            let frames = all.map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let response = Response::builder().status(status);
            Ok(response.body(BodyExt::boxed(body)).unwrap())
        }
        Reply::BreakOff(text) => {
            let half = Bytes::from(text).split_to(8);
            let frames = futures_util::stream::iter([
                Ok(Frame::data(half)),
                Err(std::io::Error::other("broken off by the script")),
            ]);
            let response = Response::builder().header("content-length", "1000");
            Ok(response
                .body(BodyExt::boxed(StreamBody::new(frames)))
                .unwrap())
        }
        Reply::Reset => Err(std::io::Error::other("reset by the script")),
        Reply::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Err(std::io::Error::other("hung"))
        }
    }
}

/// A certificate authority in a directory of its own, as a site has one.
pub struct Authority {
    directory: tempfile::TempDir,
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub fn new() -> Self {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let name = common_name("Scripted CA");
        let certificate = certificate(&name, &name, &key, &key, |builder, _| {
            let extension = BasicConstraints::new().critical().ca().build().unwrap();
            builder.append_extension(extension).unwrap();
        });
        let directory = tempfile::tempdir().unwrap();
        let pem = certificate.to_pem().unwrap();
        // Grid directories hold each CA under several names, among other things.
        std::fs::write(directory.path().join("Scripted-CA.pem"), &pem).unwrap();
        std::fs::write(directory.path().join("0a1b2c3d.0"), &pem).unwrap();
        std::fs::write(
            directory.path().join("broken.pem"),
            "-----BEGIN CERTIFICATE-----\nxx\n",
        )
        .unwrap();
        std::fs::write(directory.path().join("0a1b2c3d.signing_policy"), "text").unwrap();
        Self {
            directory,
            certificate,
            key,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn acceptor(&self, host: &str) -> SslAcceptor {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let issuer = common_name("Scripted CA");
        let certificate = certificate(
            &common_name(host),
            &issuer,
            &key,
            &self.key,
            |builder, ca| {
                let context = builder.x509v3_context(ca, None);
                let names = SubjectAlternativeName::new()
                    .dns(host)
                    .build(&context)
                    .unwrap();
                builder.append_extension(names).unwrap();
            },
        );
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        builder.set_private_key(&key).unwrap();
        builder.set_certificate(&certificate).unwrap();
        builder
            .add_extra_chain_cert(self.certificate.clone())
            .unwrap();
        builder.set_alpn_select_callback(|_, offered| {
            select_next_proto(b"\x02h2\x08http/1.1", offered).ok_or(AlpnError::NOACK)
        });
        builder.build()
    }
}

fn common_name(text: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", text).unwrap();
    name.build()
}

fn certificate(
    subject: &X509Name,
    issuer: &X509Name,
    key: &PKey<Private>,
    signer: &PKey<Private>,
    extend: impl FnOnce(&mut openssl::x509::X509Builder, Option<&openssl::x509::X509Ref>),
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(if subject.to_der().unwrap() == issuer.to_der().unwrap() {
        1
    } else {
        2
    });
    builder
        .set_serial_number(&serial.unwrap().to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(2).unwrap())
        .unwrap();
    extend(&mut builder, None);
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    builder.build()
}
