//! A VM's side of the wire: HTTPS with one CA and perhaps a certificate, and curl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

use crate::pki::Party;

const PATIENCE: Duration = Duration::from_secs(20);

/// Status and body.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Makes one request on a connection of its own, trusting nobody but `ca`.
pub fn request(
    (port, ca): (u16, &X509),
    party: Option<&Party>,
    (method, path): (&str, &str),
    body: &str,
) -> Answer {
    let mut trusted = X509StoreBuilder::new().unwrap();
    trusted.add_cert(ca.clone()).unwrap();
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_cert_store(trusted.build());
    if let Some(party) = party {
        builder.set_certificate(&party.cert).unwrap();
        builder.set_private_key(&party.key).unwrap();
        for cert in &party.chain {
            builder.add_extra_chain_cert(cert.clone()).unwrap();
        }
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = builder.build().connect("localhost", stream).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: body.to_owned(),
    }
}

/// Runs curl as VMs do; the answer is the body and the status, or nothing without a curl.
pub fn curl(ca_path: &Path, proxy: Option<&Path>, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "20", "--capath"])
        .arg(ca_path)
        .args(["--noproxy", "*", "--write-out", " %{http_code}"]);
    if let Some(proxy) = proxy {
        command.arg("--cert").arg(proxy).arg("--key").arg(proxy);
    }
    let Ok(done) = command.args(arguments).output() else {
        eprintln!("skipped: there is no curl");
        return None;
    };
    Some(String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap())
}
