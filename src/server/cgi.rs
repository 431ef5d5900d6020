//! The router behind another web server: one request in the variables and on the standard input of
//! a CGI program (RFC 3875), its answer on the standard output. Same rules, same answers.
//!
//! What differs is what that server keeps to itself: it has read the body before we are asked, its
//! own limits on time hold, and it does not tell whether a chunked body ended or broke off, so
//! that a body without Content-Length is refused.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};

use super::identity::Credentials;
use super::joboutputs::Limits;
use super::offline;
use super::reply::ReplyBody;
use super::router::{Access, Client, Router};
use crate::clock::Clock;
use crate::state::Layout;

/// Pieces in which a body is read.
const PIECE: usize = 64 * 1024;

/// How much of a body that nobody wants is read.
const LEFT_OVER: u64 = 1024 * 1024;

/// The most certificates between a client and its CA that are looked at.
const MAX_CHAIN: usize = 20;

/// What the program is told about its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The directory of trusted CAs and CRLs.
    pub ca_path: PathBuf,
    /// How much machines may send.
    pub limits: Limits,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CgiError {
    /// Not called by a web server, or by one that speaks something else.
    #[error("expected the variable {0} of a CGI request")]
    Variable(&'static str),
    /// The request cannot be understood.
    #[error("cannot understand the request: {0}")]
    Request(#[from] http::Error),
    /// The answer cannot be written.
    #[error("cannot write the answer: {0}")]
    Write(#[from] io::Error),
}

/// The variables of one request.
pub type Variables = BTreeMap<String, String>;

/// Answers one request; `input` is its body.
///
/// # Errors
/// When there is no request, or nobody to take the answer. A refusal is an answer.
pub async fn answer(
    settings: &Settings,
    variables: &Variables,
    mut input: impl Read + Send,
    output: impl Write,
) -> Result<(), CgiError> {
    let client = client(settings, variables);
    let request = request(variables, &mut input)?;
    let layout = Layout::new(settings.state_dir.clone());
    let router = Router::beside(layout, Clock::system(), settings.limits);
    let response = router.answer(request, &client).await;
    // What is left unread when we end makes some servers lose the answer.
    io::copy(&mut input.take(LEFT_OVER), &mut io::sink())?;
    send(response, output).await
}

fn get<'a>(variables: &'a Variables, name: &'static str) -> Result<&'a str, CgiError> {
    let value = variables.get(name).map(String::as_str);
    value.ok_or(CgiError::Variable(name))
}

fn request(
    variables: &Variables,
    input: impl Read + Send,
) -> Result<Request<impl Body<Data = Bytes, Error = io::Error> + Unpin>, CgiError> {
    let method = get(variables, "REQUEST_METHOD")?;
    // As the client wrote it. PATH_INFO is decoded already, and what is decoded twice leads
    // elsewhere.
    let uri = get(variables, "REQUEST_URI")?;
    let path = uri.split('?').next().unwrap_or("");
    let uri = Uri::try_from(path).map_err(http::Error::from)?;
    let mut builder = Request::builder().method(method).uri(uri);
    let passed = variables.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("HTTP_")?.replace('_', "-");
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    for (name, value) in passed {
        // The body comes without its chunks, and has come already.
        if name != http::header::TRANSFER_ENCODING && name != http::header::EXPECT {
            builder = builder.header(name, value);
        }
    }
    let length = variables
        .get("CONTENT_LENGTH")
        .filter(|text| !text.is_empty());
    if let Some(length) = length {
        builder = builder.header(http::header::CONTENT_LENGTH, length);
    }
    let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(builder.body(body(input, length))?)
}

/// The body of `length` bytes; one that ends before is an error.
fn body(
    input: impl Read + Send,
    length: u64,
) -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
    let pieces = stream::try_unfold((input, length), |(mut input, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let mut piece = vec![0; wanted];
        let read = input.read(&mut piece)?;
        if read == 0 {
            let why = format!("{left} bytes are missing at its end");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        piece.truncate(read);
        let left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(Some((Frame::data(Bytes::from(piece)), (input, left))))
    });
    StreamBody::new(Box::pin(pieces))
}

fn client(settings: &Settings, variables: &Variables) -> Client {
    let text = |name: &str| variables.get(name).map(String::as_str);
    let ip = text("REMOTE_ADDR").and_then(|text| text.parse().ok());
    let port = text("REMOTE_PORT").and_then(|text| text.parse().ok());
    let nowhere = IpAddr::from([0, 0, 0, 0]);
    Client {
        address: SocketAddr::new(ip.unwrap_or(nowhere), port.unwrap_or(0)),
        access: match text("HTTPS") {
            Some(on) if on.eq_ignore_ascii_case("on") => Access::Tls(credentials(settings, text)),
            Some(_) | None => Access::Plain,
        },
    }
}

fn credentials<'a>(settings: &Settings, text: impl Fn(&str) -> Option<&'a str>) -> Credentials {
    let Some(own) = text("SSL_CLIENT_CERT").filter(|pem| !pem.is_empty()) else {
        return Credentials::None;
    };
    let others: Vec<_> = (0..MAX_CHAIN)
        .map_while(|number| text(&format!("SSL_CLIENT_CERT_CHAIN_{number}")))
        .map(ToOwned::to_owned)
        .collect();
    offline::verify(&settings.ca_path, own, &others)
}

/// Writes an answer as a CGI program does.
async fn send(response: Response<ReplyBody>, mut output: impl Write) -> Result<(), CgiError> {
    let (head, mut body) = response.into_parts();
    let reason = head.status.canonical_reason().unwrap_or("");
    let mut text = format!("Status: {} {reason}\r\n", head.status.as_u16()).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    output.write_all(&text)?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            output.write_all(&data)?;
        }
    }
    Ok(output.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MachineName;
    use crate::model::TokenHash;
    use crate::state::{Disk, Published, TOKEN_HASH};

    struct World {
        root: tempfile::TempDir,
        settings: Settings,
    }

    const MACHINE: &str = "vcycle-a-abcdefghij";

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn world() -> World {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let name = MachineName::new(MACHINE).unwrap();
        std::fs::create_dir_all(layout.published(&name, Published::Joboutputs)).unwrap();
        let hash = TokenHash::of("secret").to_string();
        let file = layout.machine(&name).join(TOKEN_HASH);
        let disk = Disk::default();
        disk.create_synced(&file, hash.as_bytes(), 0o644).unwrap();
        let settings = Settings {
            state_dir: root.path().to_owned(),
            ca_path: root.path().join("no-CAs"),
            limits: Limits {
                file: 100,
                machine: 1000,
            },
        };
        World { root, settings }
    }

    fn variables(method: &str, path: &str, more: &[(&str, &str)]) -> Variables {
        let usual = [
            ("REQUEST_METHOD", method),
            ("REQUEST_URI", path),
            ("HTTPS", "on"),
            ("REMOTE_ADDR", "192.0.2.1"),
            ("HTTP_AUTHORIZATION", "Bearer secret"),
        ];
        let all = usual.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    impl World {
        async fn ask(&self, method: &str, more: &[(&str, &str)], input: &str) -> String {
            let path = format!("/machines/{MACHINE}/joboutputs/heartbeat?x");
            let variables = variables(method, &path, more);
            let mut output = Vec::new();
            answer(&self.settings, &variables, input.as_bytes(), &mut output)
                .await
                .unwrap();
            String::from_utf8(output).unwrap()
        }

        fn files(&self) -> Vec<String> {
            let name = MachineName::new(MACHINE).unwrap();
            let path = Layout::new(self.root.path()).published(&name, Published::Joboutputs);
            let entries = std::fs::read_dir(path).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect()
        }
    }

    #[tokio::test]
    async fn a_file_is_written_replaced_and_read() {
        let world = world();
        let length = [("CONTENT_LENGTH", "5")];
        let first = world.ask("PUT", &length, "alive").await;
        assert!(first.starts_with("Status: 201 Created\r\n"), "{first}");
        let again = world.ask("PUT", &length, "still").await;
        assert!(again.starts_with("Status: 200 OK\r\n"), "{again}");
        let read = world.ask("GET", &[], "").await;
        assert!(read.ends_with("\r\n\r\nstill"), "{read}");
        assert_eq!(world.files(), ["heartbeat"]);
    }

    #[tokio::test]
    async fn what_is_not_whole_or_not_allowed_leaves_nothing() {
        let world = world();
        let cases: [(Pairs<'_>, &str, &str); 6] = [
            (&[("CONTENT_LENGTH", "6")], "short", "400"),
            (&[("CONTENT_LENGTH", "101")], "x", "413"),
            (&[("CONTENT_LENGTH", "x")], "x", "400"),
            (&[("HTTP_TRANSFER_ENCODING", "chunked")], "x", "411"),
            (&[("CONTENT_LENGTH", "1"), ("HTTPS", "off")], "x", "403"),
            (
                &[("CONTENT_LENGTH", "1"), ("HTTP_AUTHORIZATION", "Basic x")],
                "x",
                "403",
            ),
        ];
        for (more, input, status) in cases {
            let answer = world.ask("PUT", more, input).await;
            let expected = format!("Status: {status} ");
            assert!(answer.starts_with(&expected), "{more:?}: {answer}");
        }
        assert!(world.files().is_empty(), "{:?}", world.files());
    }

    #[tokio::test]
    async fn without_a_request_there_is_no_answer() {
        let world = world();
        let none = Variables::new();
        let nothing = answer(&world.settings, &none, io::empty(), io::sink());
        let said = nothing.await.unwrap_err().to_string();
        assert!(said.contains("REQUEST_METHOD"), "{said}");
    }
}
