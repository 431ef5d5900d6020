//! A server elsewhere that machines write to: HTTPS with client certificates, and whatever can be
//! wrong with it. It runs in threads of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;

use super::factory::PKI;
use crate::pki::Party;

/// What it does with requests for files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Shows them as they are.
    Good,
    /// The same, but each file was written just now.
    Fresh,
    /// Says nothing.
    Hang,
    /// This status.
    Status(u16),
    /// The page of a portal.
    Html,
    /// A redirect to this address.
    Redirect(String),
    /// This for a time.
    Modified(String),
    /// A body that never ends, after this.
    Endless(String),
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// The common name of the client.
    pub client: String,
}

struct State {
    manner: Manner,
    files: BTreeMap<String, (Vec<u8>, SystemTime)>,
    seen: Vec<Seen>,
}

/// The server; it ends with this.
pub struct Elsewhere {
    pub port: u16,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

impl Elsewhere {
    /// Serves under `host`'s certificate, to clients with certificates of the usual CA only.
    pub fn start(host: &Party) -> Self {
        Self::start_at(host, 0)
    }

    pub fn start_at(host: &Party, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(State {
                manner: Manner::Good,
                files: BTreeMap::new(),
                seen: Vec::new(),
            })),
            over: Arc::default(),
        };
        let acceptor = Arc::new(acceptor(host));
        let (state, over) = (Arc::clone(&server.state), Arc::clone(&server.over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (acceptor, state) = (Arc::clone(&acceptor), Arc::clone(&state));
                let over = Arc::clone(&over);
                std::thread::spawn(move || {
                    // A connection that the client gives up is part of many tests.
                    let _ended = serve(stream.unwrap(), &acceptor, &state, &over);
                });
            }
        });
        server
    }

    /// The options of a machinetype that writes here.
    pub fn options(&self, identity: &Path) -> String {
        let identity = identity.display();
        format!(
            "remote_joboutputs_url = https://localhost:{}/outputs/\n\
             remote_joboutputs_cert = {identity}\nremote_joboutputs_key = {identity}\n",
            self.port
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set(&self, manner: Manner) {
        self.state().manner = manner;
    }

    /// Puts a file of a machine there, as old as this.
    pub fn put(&self, machine: &str, file: &str, text: &str, age: Duration) {
        let written = SystemTime::now() - age;
        let path = format!("/outputs/{machine}/{file}");
        let file = (text.as_bytes().to_vec(), written);
        self.state().files.insert(path, file);
    }

    /// The content of a file of a machine.
    pub fn file(&self, machine: &str, file: &str) -> Option<String> {
        let path = format!("/outputs/{machine}/{file}");
        let state = self.state();
        let (bytes, _) = state.files.get(&path)?;
        Some(String::from_utf8(bytes.clone()).unwrap())
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // So that the thread that accepts looks.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn acceptor(host: &Party) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(&host.cert).unwrap();
    builder.set_private_key(&host.key).unwrap();
    let mut store = X509StoreBuilder::new().unwrap();
    store.add_cert(PKI.ca.cert.clone()).unwrap();
    builder.set_verify_cert_store(store.build()).unwrap();
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    // A resumed session would not tell who the client is.
    builder.set_session_cache_mode(openssl::ssl::SslSessionCacheMode::OFF);
    builder.set_options(openssl::ssl::SslOptions::NO_TICKET);
    builder.build()
}

fn serve(
    stream: TcpStream,
    acceptor: &SslAcceptor,
    state: &Mutex<State>,
    over: &AtomicBool,
) -> Option<()> {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let ssl = Ssl::new(acceptor.context()).ok()?;
    let stream = ssl.accept(stream).ok()?;
    let client = stream.ssl().peer_certificate()?;
    let names = client.subject_name();
    let name = names.entries_by_nid(openssl::nid::Nid::COMMONNAME).last()?;
    let client = name.data().to_string().ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let (method, path, body) = request(&mut stream)?;
        let manner = {
            let mut state = state.lock().unwrap();
            state.seen.push(Seen {
                method: method.clone(),
                path: path.clone(),
                client: client.clone(),
            });
            if method == "PUT" {
                let written = SystemTime::now();
                state.files.insert(path.clone(), (body, written));
            }
            state.manner.clone()
        };
        let answer = if method == "PUT" {
            "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n".to_owned()
        } else {
            let file = state.lock().unwrap().files.get(&path).cloned();
            match manner {
                Manner::Hang => {
                    while !over.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    return None;
                }
                manner => answer(&method, &manner, file),
            }
        };
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
        if let Manner::Endless(_) = state.lock().unwrap().manner
            && method == "GET"
        {
            while !over.load(Ordering::SeqCst) {
                let piece = [b'x'; 4096];
                stream.get_mut().write_all(&piece).ok()?;
            }
        }
    }
}

/// Method, path and body.
fn request(stream: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream
            .read_line(&mut header)
            .ok()
            .filter(|read| *read > 0)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((method, path, body))
}

fn answer(method: &str, manner: &Manner, file: Option<(Vec<u8>, SystemTime)>) -> String {
    let say = |status: &str, headers: &str, body: &str| {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let length = body.len();
        let body = if method == "HEAD" { "" } else { body };
        format!(
            "HTTP/1.1 {status}\r\ndate: {date}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
    };
    let found = |modified: String| match &file {
        None => say(
            "404 Not Found",
            "content-type: text/html\r\n",
            "<h1>Not Found</h1>",
        ),
        Some((bytes, _)) => {
            let headers = format!("last-modified: {modified}\r\ncontent-type: text/plain\r\n");
            say("200 OK", &headers, &String::from_utf8_lossy(bytes))
        }
    };
    match manner {
        Manner::Good | Manner::Hang => {
            let time = file.as_ref().map_or(SystemTime::now(), |(_, time)| *time);
            found(httpdate::fmt_http_date(time))
        }
        Manner::Fresh => found(httpdate::fmt_http_date(SystemTime::now())),
        Manner::Status(status) => say(&format!("{status} Said"), "", "no"),
        Manner::Html => say(
            "200 OK",
            "content-type: text/html; charset=utf-8\r\n",
            "<html>Please log in</html>",
        ),
        Manner::Redirect(to) => say("302 Found", &format!("location: {to}\r\n"), ""),
        Manner::Modified(value) => found(value.clone()),
        Manner::Endless(text) if method == "GET" => {
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n{text}")
        }
        Manner::Endless(_) => found(httpdate::fmt_http_date(SystemTime::now())),
    }
}
