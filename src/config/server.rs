//! `[server]`: the embedded HTTPS server and the admin endpoint.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::read::{Reader, path};
use super::value::{self, Unit};

/// Options of `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// `listen`: addresses of the HTTPS server. Default `0.0.0.0:PORT` and `[::]:PORT`, where PORT
    /// is the https_port on which all spaces agree, else 443. `none`: another program serves the
    /// machines' directories.
    pub listen: Vec<SocketAddr>,
    /// `http_listen`: addresses for plain HTTP, reads only. Default none.
    pub http_listen: Vec<SocketAddr>,
    /// `cert`: PEM file of the host certificate and its chain.
    pub cert: PathBuf,
    /// `key`: PEM file of its key.
    pub key: PathBuf,
    /// `ca_path`: directory of trusted CAs and CRLs, for VMs that write and for clouds.
    pub ca_path: PathBuf,
    /// `admin_listen`: address of the admin endpoint. Default `127.0.0.1:9280`; `none`: there is
    /// none.
    pub admin_listen: Option<SocketAddr>,
    /// `joboutputs_max_bytes`: largest file that a VM may write. Default 100 MiB.
    pub joboutputs_max_bytes: u64,
    /// `joboutputs_max_bytes_per_machine`: the same for all files of a machine. Default 1 GiB.
    pub joboutputs_max_bytes_per_machine: u64,
}

/// Whether a file of [`ServerConfig::ca_path`] is named `HASH.N`, where OpenSSL looks for the CA whose
/// name has this hash. (`HASH.rN` is a CRL.)
pub fn is_hashed_ca(name: &str) -> bool {
    let Some((stem, ending)) = name.rsplit_once('.') else {
        return false;
    };
    let hashed = stem.len() == 8 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    let numbered = !ending.is_empty() && ending.bytes().all(|byte| byte.is_ascii_digit());
    hashed && numbered
}

/// Reads `[server]`. `https_port` is the one on which all spaces agree, or the default.
pub(super) fn read(reader: &Reader<'_>, https_port: u16) -> Option<ServerConfig> {
    reader.check_names();
    let listen = reader.take_text("listen", value::socket_addresses);
    let http_listen = reader.take_text("http_listen", value::socket_addresses);
    let everywhere = || {
        vec![
            (Ipv4Addr::UNSPECIFIED, https_port).into(),
            (Ipv6Addr::UNSPECIFIED, https_port).into(),
        ]
    };
    let bytes = |text: &str| value::size(text, Unit::Bytes);
    let file = |name| reader.require(name, |text| path(text, None));
    let (cert, key, ca_path) = (file("cert"), file("key"), file("ca_path"));
    let admin_listen = reader.take("admin_listen", value::socket_address_or_none);
    let per_file = reader.take("joboutputs_max_bytes", bytes);
    let per_machine = reader.take("joboutputs_max_bytes_per_machine", bytes);
    Some(ServerConfig {
        listen: listen.unwrap_or_else(everywhere),
        http_listen: http_listen.unwrap_or_default(),
        cert: cert?,
        key: key?,
        ca_path: ca_path?,
        admin_listen: admin_listen?,
        joboutputs_max_bytes: per_file?,
        joboutputs_max_bytes_per_machine: per_machine?,
    })
}
