//! Asking the running daemon over its local socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::exit::{Exit, Failure};
use crate::state::Layout;
use crate::state::disk::socket_address;

/// The longest that a daemon may take to answer: it does so from memory.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The daemon has answered.
    Told(Vec<u8>),
    /// It knows nothing of that.
    Unknown,
    /// Nobody listens: no daemon runs on this state directory.
    NoDaemon,
}

/// Asks for `path`.
///
/// # Errors
/// When there is a daemon that may not be asked or does not answer.
pub fn daemon(layout: &Layout, path: &str) -> Result<Answer, Failure> {
    talk(layout, Method::GET, path)
}

/// Tells it to do what `path` says.
///
/// # Errors
/// When there is a daemon that may not be told or does not answer.
pub fn order(layout: &Layout, path: &str) -> Result<Answer, Failure> {
    talk(layout, Method::PUT, path)
}

fn talk(layout: &Layout, method: Method, path: &str) -> Result<Answer, Failure> {
    let socket = layout.socket();
    let shown = socket.display();
    let failed =
        |exit, why: String| Failure::new(exit, format!("cannot ask the daemon at {shown}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(Exit::Internal, error.to_string()))?;
    let asked = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, exchange(&socket, method, path)).await });
    match asked {
        Ok(Ok((StatusCode::OK, body))) => Ok(Answer::Told(body)),
        Ok(Ok((StatusCode::NOT_FOUND, _))) => Ok(Answer::Unknown),
        Ok(Ok((status, body))) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            Err(failed(
                Exit::Unavailable,
                format!("it answers {status}: {body}"),
            ))
        }
        Ok(Err(error)) if is_nobody(&error) => Ok(Answer::NoDaemon),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(
            Exit::Io,
            "permission denied; only its user, its group and root may".to_owned(),
        )),
        Ok(Err(error)) => Err(failed(Exit::Unavailable, error.to_string())),
        Err(_) => Err(failed(
            Exit::Unavailable,
            format!("no answer within {} s", PATIENCE.as_secs()),
        )),
    }
}

/// Whether the socket is not there, or was left by a daemon that is gone.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

async fn exchange(socket: &Path, method: Method, path: &str) -> io::Result<(StatusCode, Vec<u8>)> {
    let (_held, short) = socket_address(socket)?;
    let stream = UnixStream::connect(short).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let talking = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "vcycled")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?;
    talking.abort();
    Ok((status, body.to_bytes().to_vec()))
}

/// Reads an answer.
///
/// # Errors
/// When it cannot be understood: the daemon that runs is of another version.
pub fn understand<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format!(
                "cannot understand the daemon ({error}); this is vcycled {}: does another version run, and has to be restarted?",
                env!("CARGO_PKG_VERSION")
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_where_there_is_no_socket_or_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        // A path that is too long for a socket's address.
        let root = dir.path().join("x".repeat(120));
        for root in [dir.path(), &root] {
            std::fs::create_dir_all(root).unwrap();
            let layout = Layout::new(root);
            let ask = || daemon(&layout, "/v1/status").unwrap();
            assert_eq!(ask(), Answer::NoDaemon);
            let listener = layout.disk().listen(&layout.socket(), 0o600).unwrap();
            drop(listener);
            assert!(layout.socket().exists());
            assert_eq!(ask(), Answer::NoDaemon);
        }
    }
}
