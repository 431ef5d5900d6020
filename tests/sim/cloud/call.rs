//! Which operation of which service a request asks for.

use http::Method;
use percent_encoding::percent_decode_str;
use url::Url;

use super::Ask;

/// A service of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Identity,
    Compute,
    Image,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    IdentityVersions,
    IdentityVersion,
    LogIn,
    ComputeVersions,
    ComputeVersion,
    Flavors,
    Limits,
    ListServers,
    CreateServer,
    ShowServer(String),
    DeleteServer(String),
    ListKeypairs,
    CreateKeypair,
    ShowKeypair(String),
    DeleteKeypair(String),
    ListImages,
    ShowImage(String),
    /// Nothing that there is.
    Unknown,
}

impl Call {
    pub(super) fn of(base: &str, ask: &Ask) -> Self {
        let Some(path) = below(base, &ask.url) else {
            return Self::Unknown;
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["identity", rest @ ..] => Self::identity(&ask.method, rest),
            ["compute", rest @ ..] => Self::compute(&ask.method, rest),
            ["image", "v2", "images"] if ask.method == Method::GET => Self::ListImages,
            ["image", "v2", "images", id] if ask.method == Method::GET => {
                Self::ShowImage((*id).to_owned())
            }
            _ => Self::Unknown,
        }
    }

    fn identity(method: &Method, path: &[&str]) -> Self {
        match (method, path) {
            (&Method::GET, []) => Self::IdentityVersions,
            (&Method::GET, ["v3"]) => Self::IdentityVersion,
            (&Method::POST, ["v3", "auth", "tokens"]) => Self::LogIn,
            _ => Self::Unknown,
        }
    }

    fn compute(method: &Method, path: &[&str]) -> Self {
        match (method, path) {
            (&Method::GET, []) => Self::ComputeVersions,
            (&Method::GET, ["v2.1"]) => Self::ComputeVersion,
            (&Method::GET, ["v2.1", "flavors", "detail"]) => Self::Flavors,
            (&Method::GET, ["v2.1", "limits"]) => Self::Limits,
            (&Method::GET, ["v2.1", "servers", "detail"]) => Self::ListServers,
            (&Method::POST, ["v2.1", "servers"]) => Self::CreateServer,
            (&Method::GET, ["v2.1", "servers", id]) => Self::ShowServer((*id).to_owned()),
            (&Method::DELETE, ["v2.1", "servers", id]) => Self::DeleteServer((*id).to_owned()),
            (&Method::GET, ["v2.1", "os-keypairs"]) => Self::ListKeypairs,
            (&Method::POST, ["v2.1", "os-keypairs"]) => Self::CreateKeypair,
            (&Method::GET, ["v2.1", "os-keypairs", name]) => Self::ShowKeypair((*name).to_owned()),
            (&Method::DELETE, ["v2.1", "os-keypairs", name]) => {
                Self::DeleteKeypair((*name).to_owned())
            }
            _ => Self::Unknown,
        }
    }

    /// The name to count it by.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::IdentityVersions | Self::IdentityVersion => "identity versions",
            Self::LogIn => "log in",
            Self::ComputeVersions | Self::ComputeVersion => "compute versions",
            Self::Flavors => "flavors",
            Self::Limits => "limits",
            Self::ListServers => "list servers",
            Self::CreateServer => "create server",
            Self::ShowServer(_) => "show server",
            Self::DeleteServer(_) => "delete server",
            Self::ListKeypairs => "list keypairs",
            Self::CreateKeypair => "create keypair",
            Self::ShowKeypair(_) => "show keypair",
            Self::DeleteKeypair(_) => "delete keypair",
            Self::ListImages => "list images",
            Self::ShowImage(_) => "show image",
            Self::Unknown => "unknown",
        }
    }

    pub(super) const fn service(&self) -> Service {
        match self {
            Self::IdentityVersions | Self::IdentityVersion | Self::LogIn => Service::Identity,
            Self::ListImages | Self::ShowImage(_) => Service::Image,
            Self::ComputeVersions
            | Self::ComputeVersion
            | Self::Flavors
            | Self::Limits
            | Self::ListServers
            | Self::CreateServer
            | Self::ShowServer(_)
            | Self::DeleteServer(_)
            | Self::ListKeypairs
            | Self::CreateKeypair
            | Self::ShowKeypair(_)
            | Self::DeleteKeypair(_)
            | Self::Unknown => Service::Compute,
        }
    }

    /// Whether it makes or ends a server.
    pub(super) const fn changes_servers(&self) -> bool {
        matches!(self, Self::CreateServer | Self::DeleteServer(_))
    }

    /// Whether it asks for one thing by its identifier.
    pub(super) const fn names_one(&self) -> bool {
        matches!(
            self,
            Self::ShowServer(_)
                | Self::DeleteServer(_)
                | Self::ShowKeypair(_)
                | Self::DeleteKeypair(_)
                | Self::ShowImage(_)
        )
    }
}

/// The path below `base`, split at its slashes and decoded; `None` when it is another place.
fn below(base: &str, url: &Url) -> Option<Vec<String>> {
    let base = Url::parse(base).ok()?;
    if base.origin() != url.origin() {
        return None;
    }
    let rest = url.path().strip_prefix(base.path().trim_end_matches('/'))?;
    let parts = rest.split('/').filter(|part| !part.is_empty());
    parts
        .map(|part| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned()))
        .collect()
}

/// The last value of a parameter of the query.
pub(super) fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .filter(|(key, _)| key == name)
        .last()
        .map(|(_, value)| value.into_owned())
}
