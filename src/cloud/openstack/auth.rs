//! Identity: tokens of Keystone v3 (password or application credential) and v2.0 (password).
//!
//! Invariants:
//! 1. A token is asked for when there is none, when it is near its end, or when a service has
//!    refused it; never otherwise.
//! 2. Calls that find the same token refused share one new one, and share the error when there is
//!    none to be had: wrong credentials do not knock ten times at once.
//! 3. All tokens lead to one region. Where the configuration names none it is that of the first
//!    one: Keystone lists regions in any order, and machines would be missed in another one.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};
use url::Url;

use super::catalog::{self, Endpoint, Services, Wanted};
use super::document;
use super::wire::{TokenV2Document, TokenV3Document, VersionDocument, Versions};
use crate::clock::Clock;
use crate::cloud::http::{Answer, Http, Request, shown, text};
use crate::cloud::{CloudError, CloudErrorKind};
use crate::config::OpenStackOptions;
use crate::config::space::OpenStackCredentials;
use crate::model::{Seconds, Timestamp};

/// A token is replaced when less than this is left of its life (half of it, when it is short), so
/// that it outlives the request that carries it and what the services do with it.
const MARGIN: Seconds = Seconds::new(120);
/// How long a token is used whose life is not told.
const UNKNOWN_LIFE: Seconds = Seconds::new(600);
/// The largest version document, in bytes; real ones have hundreds. To try its forms one after the
/// other takes many times its size.
const MAX_VERSIONS: usize = 1024 * 1024;
/// How many tokens are kept out of messages: the last, and the one before it, which a request that
/// is still under way may bear.
const RECENT_TOKENS: usize = 2;

/// A token and the addresses it is good for.
#[derive(Debug)]
pub(super) struct Session {
    pub token: HeaderValue,
    pub services: Services,
    /// The identifier of the project that the token is for, if told.
    pub project: Option<String>,
    /// The time, by our clock, from which a new one is asked for.
    stale_from: Timestamp,
    /// Counts the tokens of this space, to tell a refused one from its successor.
    number: u64,
}

impl Session {
    /// The token as text, only for taking it out of messages.
    pub(super) fn token_text(&self) -> &str {
        self.token.to_str().unwrap_or("")
    }
}

/// The two versions of the identity API that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdentityVersion {
    V2,
    V3,
}

/// Gets and keeps the token of one space.
#[derive(Debug)]
pub(super) struct Identity {
    options: OpenStackOptions,
    clock: Clock,
    state: Mutex<State>,
    /// The last tokens, latest first.
    recent: std::sync::Mutex<Vec<HeaderValue>>,
}

#[derive(Debug, Default)]
struct State {
    version: Option<IdentityVersion>,
    session: Option<Arc<Session>>,
    count: u64,
    failure: Option<(Instant, CloudError)>,
    /// The region that the first token led to, when the configuration names none.
    region: Option<String>,
    /// Whether it was said that there are several of them.
    told_of_regions: bool,
}

impl State {
    /// Keeps the region that is `used`, of those there are. Gives what is to be said, once, when
    /// there are others.
    fn keep_region(&mut self, used: &str, regions: &[&str]) -> Option<String> {
        self.region = Some(used.to_owned());
        if self.told_of_regions || regions.len() < 2 {
            return None;
        }
        self.told_of_regions = true;
        Some(format!(
            "region is not set, and the service catalog has several: {used:?} is used, and after a \
             restart it may be another one, without our machines; set region to one of: {}",
            regions.join(", ")
        ))
    }
}

impl Identity {
    /// Prepares to log in; asks nobody yet.
    ///
    /// # Errors
    /// When the options contradict each other.
    pub(super) fn new(options: &OpenStackOptions, clock: Clock) -> Result<Self, CloudError> {
        let version = told_version(options).map_err(|why| {
            CloudError::new(
                CloudErrorKind::Rejected,
                format!("log in at {}", shown(&options.url)),
                why,
            )
        })?;
        Ok(Self {
            options: options.clone(),
            clock,
            state: Mutex::new(State {
                version,
                ..State::default()
            }),
            recent: std::sync::Mutex::default(),
        })
    }

    /// Everything that no message may show.
    pub(super) fn secret(&self) -> &str {
        match &self.options.credentials {
            OpenStackCredentials::Password { password, .. } => password.reveal(),
            OpenStackCredentials::ApplicationCredential { secret, .. } => secret.reveal(),
        }
    }

    /// The tokens that no message may show.
    pub(super) fn recent_tokens(&self) -> Vec<HeaderValue> {
        let recent = self.recent.lock();
        recent.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, token: &HeaderValue) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.truncate(RECENT_TOKENS - 1);
        recent.insert(0, token.clone());
    }

    /// A token that should be good.
    ///
    /// # Errors
    /// `Auth` when the credentials do not work, and the errors of a read.
    pub(super) async fn session(&self, http: &Http) -> Result<Arc<Session>, CloudError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        match &state.session {
            Some(session) if self.clock.now() < session.stale_from => Ok(Arc::clone(session)),
            _ => self.log_in(&mut state, asked, http).await,
        }
    }

    /// A token other than `refused`.
    ///
    /// # Errors
    /// As [`Identity::session`].
    pub(super) async fn renew(
        &self,
        refused: &Session,
        http: &Http,
    ) -> Result<Arc<Session>, CloudError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        match &state.session {
            Some(session) if session.number != refused.number => Ok(Arc::clone(session)),
            _ => self.log_in(&mut state, asked, http).await,
        }
    }

    /// Asks for a token, unless somebody else did and failed while we, who `asked` at that time,
    /// were waiting.
    async fn log_in(
        &self,
        state: &mut State,
        asked: Instant,
        http: &Http,
    ) -> Result<Arc<Session>, CloudError> {
        if let Some((when, error)) = &state.failure
            && *when > asked
        {
            return Err(error.clone());
        }
        state.session = None;
        match self.request_token(state, http).await {
            Ok(session) => {
                let session = Arc::new(session);
                state.session = Some(Arc::clone(&session));
                state.failure = None;
                Ok(session)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn request_token(&self, state: &mut State, http: &Http) -> Result<Session, CloudError> {
        let version = match state.version {
            Some(version) => version,
            None => {
                let version = self.ask_version(http).await?;
                state.version = Some(version);
                version
            }
        };
        let (path, body): (&[&str], Value) = match version {
            IdentityVersion::V3 => (&["v3", "auth", "tokens"], self.body_v3()),
            IdentityVersion::V2 => (&["v2.0", "tokens"], self.body_v2()?),
        };
        let request = Request {
            method: Method::POST,
            url: self.address(path),
            token: None,
            body: Some(Bytes::from(body.to_string())),
            headers: HeaderMap::new(),
        };
        // It changes nothing that matters, so it is repeated like a read.
        let answer = http.read(&request).await.map_err(|f| f.into_error())?;
        if !answer.status.is_success() {
            return Err(self.refusal(&answer));
        }
        let granted = match version {
            IdentityVersion::V3 => granted_v3(&answer)?,
            IdentityVersion::V2 => granted_v2(&answer)?,
        };
        self.remember(&granted.token);
        state.count += 1;
        self.session_from(granted, state, &answer)
    }

    fn session_from(
        &self,
        granted: Granted,
        state: &mut State,
        answer: &Answer,
    ) -> Result<Session, CloudError> {
        let wanted = match (&self.options.region, &state.region) {
            (Some(region), _) => Wanted::Configured(region),
            (None, Some(region)) => Wanted::UsedSoFar(region),
            (None, None) => Wanted::First,
        };
        let services =
            catalog::choose(&granted.endpoints, wanted).map_err(|why| answer.unreadable(why))?;
        if self.options.region.is_none() {
            let regions = catalog::regions(&granted.endpoints);
            if let Some(said) = state.keep_region(&services.region, &regions) {
                let secrets = [self.secret(), granted.token.to_str().unwrap_or("")];
                warn!("{}", text::one_line(&text::without(said, &secrets)));
            }
        }
        if self.options.url.scheme() == "https" && services.compute.scheme() != "https" {
            warn!(endpoint = %shown(&services.compute), "the service catalog leads from https to http: the token travels unprotected");
        }
        let mut token = granted.token;
        token.set_sensitive(true);
        // The cloud's clock need not be ours: only the length of the token's life is taken over.
        let life = match (granted.issued, granted.expires) {
            (Some(issued), Some(expires)) => expires.since(issued),
            (None, Some(expires)) => expires.since(self.clock.now()),
            (_, None) => UNKNOWN_LIFE,
        };
        let usable = life.get() - MARGIN.get().min(life.get() / 2);
        let number = state.count;
        debug!(number, life = life.get(), "new token");
        Ok(Session {
            token,
            services,
            project: granted.project,
            stale_from: self.clock.now() + Seconds::new(usable),
            number,
        })
    }

    fn refusal(&self, answer: &Answer) -> CloudError {
        let mut error = answer.error(answer.read_kind(), &[self.secret()]);
        if error.kind == CloudErrorKind::NotFound {
            error.kind = CloudErrorKind::Rejected;
            error
                .message
                .push_str(" (is url the address of the identity service?)");
        } else if answer.status.as_u16() == 401 {
            error.message.push_str(match &self.options.credentials {
                OpenStackCredentials::Password { .. } => {
                    " (see username, password_base64, tenancy_name and domain_name)"
                }
                OpenStackCredentials::ApplicationCredential { .. } => {
                    " (see cred_id and cred_secret)"
                }
            });
        }
        error
    }

    /// Reads the version document of an endpoint whose address does not tell its version.
    async fn ask_version(&self, http: &Http) -> Result<IdentityVersion, CloudError> {
        let request = Request {
            method: Method::GET,
            url: self.options.url.clone(),
            token: None,
            body: None,
            headers: HeaderMap::new(),
        };
        let answer = http.read(&request).await.map_err(|f| f.into_error())?;
        // Keystone lists its versions with 300 Multiple Choices.
        if !answer.status.is_success() && answer.status.as_u16() != 300 {
            return Err(self.refusal(&answer));
        }
        let document = match answer.body.len() {
            0..=MAX_VERSIONS => serde_json::from_slice(&answer.body).map_err(|e| document::why(&e)),
            _ => Err(format!("more than {MAX_VERSIONS} bytes")),
        };
        let ids: Vec<String> = match document {
            Ok(VersionDocument::All { versions }) => match versions {
                Versions::Wrapped { values } | Versions::Plain(values) => {
                    values.into_iter().map(|version| version.id).collect()
                }
            },
            Ok(VersionDocument::One { version }) => vec![version.id],
            Err(why) => {
                return Err(answer.unreadable(format_args!(
                    "no list of identity versions ({why}); set api_version"
                )));
            }
        };
        if ids.iter().any(|id| id.starts_with("v3")) {
            Ok(IdentityVersion::V3)
        } else if ids.iter().any(|id| id.starts_with("v2")) {
            Ok(IdentityVersion::V2)
        } else {
            Err(answer.unreadable(format_args!(
                "it offers no identity version that we know: {}",
                ids.join(", ")
            )))
        }
    }

    /// The configured address with `path` in the place of any version that it ends in.
    fn address(&self, path: &[&str]) -> Url {
        let mut url = self.options.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let versioned = version_in_path(&url).is_some();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            if versioned {
                segments.pop();
            }
            segments.extend(path);
        }
        url
    }

    fn body_v3(&self) -> Value {
        let domain = domain(&self.options.domain);
        match &self.options.credentials {
            OpenStackCredentials::Password { username, password } => {
                let user =
                    json!({"name": username, "password": password.reveal(), "domain": domain});
                let identity = json!({"methods": ["password"], "password": {"user": user}});
                match &self.options.project {
                    Some(project) => {
                        let scope = json!({"project": {"name": project, "domain": domain}});
                        json!({"auth": {"identity": identity, "scope": scope}})
                    }
                    None => json!({"auth": {"identity": identity}}),
                }
            }
            // An application credential is bound to its project; a scope would be refused.
            OpenStackCredentials::ApplicationCredential { id, secret } => {
                let credential = json!({"id": id, "secret": secret.reveal()});
                let methods = json!(["application_credential"]);
                json!({"auth": {"identity": {"methods": methods, "application_credential": credential}}})
            }
        }
    }

    fn body_v2(&self) -> Result<Value, CloudError> {
        match &self.options.credentials {
            OpenStackCredentials::Password { username, password } => {
                let credentials = json!({"username": username, "password": password.reveal()});
                Ok(match &self.options.project {
                    Some(project) => {
                        json!({"auth": {"tenantName": project, "passwordCredentials": credentials}})
                    }
                    None => json!({"auth": {"passwordCredentials": credentials}}),
                })
            }
            OpenStackCredentials::ApplicationCredential { .. } => Err(CloudError::new(
                CloudErrorKind::Rejected,
                format!("log in at {}", shown(&self.options.url)),
                APPLICATION_CREDENTIAL_NEEDS_V3,
            )),
        }
    }
}

const APPLICATION_CREDENTIAL_NEEDS_V3: &str =
    "cred_id and cred_secret need identity version 3, and this is version 2.0";

/// What a successful login gave.
struct Granted {
    token: HeaderValue,
    issued: Option<Timestamp>,
    expires: Option<Timestamp>,
    project: Option<String>,
    endpoints: Vec<Endpoint>,
}

fn moment(text: Option<String>) -> Option<Timestamp> {
    Timestamp::parse_iso8601(&text?)
}

fn granted_v3(answer: &Answer) -> Result<Granted, CloudError> {
    let document: TokenV3Document = document::read(answer)?;
    let token = answer
        .headers
        .get("x-subject-token")
        .cloned()
        .ok_or_else(|| answer.unreadable("there is no X-Subject-Token header"))?;
    let described = document.token;
    Ok(Granted {
        token,
        issued: moment(described.issued_at),
        expires: moment(described.expires_at),
        project: described.project.and_then(|project| project.id),
        endpoints: catalog::endpoints_v3(described.catalog.unwrap_or_default().0),
    })
}

fn granted_v2(answer: &Answer) -> Result<Granted, CloudError> {
    let document: TokenV2Document = document::read(answer)?;
    let token = document.access.token;
    Ok(Granted {
        token: HeaderValue::from_str(&token.id)
            .map_err(|_| answer.unreadable("the token has characters that no header can carry"))?,
        issued: moment(token.issued_at),
        expires: moment(token.expires),
        project: token.tenant.and_then(|tenant| tenant.id),
        endpoints: catalog::endpoints_v2(document.access.catalog.unwrap_or_default().0),
    })
}

/// `default` is the identifier of the domain that every Keystone begins with (its name is
/// `Default`), and other identifiers are 32 hexadecimal digits; anything else is a name.
fn domain(configured: &str) -> Value {
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if configured == "default" || (configured.len() == 32 && configured.bytes().all(hexadecimal)) {
        json!({"id": configured})
    } else {
        json!({"name": configured})
    }
}

/// The version that the options fix: by `api_version`, else by the end of the url.
fn told_version(options: &OpenStackOptions) -> Result<Option<IdentityVersion>, String> {
    let version = match options.identity_version {
        Some(2) => Some(IdentityVersion::V2),
        Some(3) => Some(IdentityVersion::V3),
        Some(other) => return Err(format!("there is no identity version {other}: use 2 or 3")),
        None => version_in_path(&options.url),
    };
    let application = matches!(
        options.credentials,
        OpenStackCredentials::ApplicationCredential { .. }
    );
    if application && version == Some(IdentityVersion::V2) {
        return Err(APPLICATION_CREDENTIAL_NEEDS_V3.to_owned());
    }
    Ok(version)
}

fn version_in_path(url: &Url) -> Option<IdentityVersion> {
    let last = url.path_segments()?.rfind(|segment| !segment.is_empty())?;
    match last {
        "v3" => Some(IdentityVersion::V3),
        "v2.0" => Some(IdentityVersion::V2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    fn options(url: &str, identity_version: Option<u8>) -> OpenStackOptions {
        OpenStackOptions {
            url: Url::parse(url).unwrap(),
            identity_version,
            project: Some("atlas".to_owned()),
            domain: "default".to_owned(),
            credentials: OpenStackCredentials::Password {
                username: "vcycle".to_owned(),
                password: Secret::new("hunter2".to_owned()),
            },
            region: None,
            zones: Vec::new(),
            security_groups: Vec::new(),
            network_uuid: None,
        }
    }

    fn with_application_credential(mut options: OpenStackOptions) -> OpenStackOptions {
        options.credentials = OpenStackCredentials::ApplicationCredential {
            id: "abc".to_owned(),
            secret: Secret::new("hunter2".to_owned()),
        };
        options
    }

    #[test]
    fn the_version_is_told_by_api_version_then_by_the_url() {
        let cases = [
            ("http://k:5000/v3", None, Ok(Some(IdentityVersion::V3))),
            ("http://k:5000/v3/", None, Ok(Some(IdentityVersion::V3))),
            ("http://k:5000/v2.0", None, Ok(Some(IdentityVersion::V2))),
            ("http://k:5000/v2.0", Some(3), Ok(Some(IdentityVersion::V3))),
            ("http://k/identity", Some(2), Ok(Some(IdentityVersion::V2))),
            ("http://k/identity", None, Ok(None)),
        ];
        for (url, version, expected) in cases {
            assert_eq!(told_version(&options(url, version)), expected, "{url}");
        }
        assert!(told_version(&options("http://k", Some(4))).is_err());
    }

    #[test]
    fn the_address_of_tokens_replaces_a_version() {
        let cases = [
            ("http://k:5000/v3", "http://k:5000/v3/auth/tokens"),
            ("http://k:5000/v2.0/?x=1#y", "http://k:5000/v3/auth/tokens"),
            ("http://k:5000", "http://k:5000/v3/auth/tokens"),
            ("https://k/identity/", "https://k/identity/v3/auth/tokens"),
        ];
        for (url, expected) in cases {
            let identity = Identity::new(&options(url, Some(3)), Clock::system()).unwrap();
            let address = identity.address(&["v3", "auth", "tokens"]);
            assert_eq!(address.as_str(), expected, "{url}");
        }
    }

    #[test]
    fn an_application_credential_is_sent_without_scope_and_only_to_version_3() {
        let new = with_application_credential(options("http://k/v3", None));
        let body = Identity::new(&new, Clock::system()).unwrap().body_v3();
        assert_eq!(body["auth"].get("scope"), None);
        assert_eq!(
            body["auth"]["identity"]["application_credential"]["id"],
            "abc"
        );
        let old = with_application_credential(options("http://k/v2.0", None));
        let error = Identity::new(&old, Clock::system()).unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Rejected);
    }

    #[test]
    fn domains_are_sent_by_identifier_only_when_they_are_one() {
        assert_eq!(domain("default"), json!({"id": "default"}));
        assert_eq!(domain("Default"), json!({"name": "Default"}));
        assert_eq!(domain("cern"), json!({"name": "cern"}));
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(domain(id), json!({"id": id}));
    }

    #[test]
    fn that_there_are_several_regions_is_said_once() {
        let mut state = State::default();
        assert_eq!(state.keep_region("North", &["North"]), None);
        let both = ["North", "South"];
        assert_eq!(
            state.keep_region("North", &both).unwrap(),
            "region is not set, and the service catalog has several: \"North\" is used, and after a \
             restart it may be another one, without our machines; set region to one of: North, South"
        );
        assert_eq!(state.keep_region("North", &both), None);
        assert_eq!(state.region.as_deref(), Some("North"));
    }

    #[test]
    fn nothing_printed_shows_the_credentials() {
        let identity = Identity::new(&options("http://k/v3", None), Clock::system()).unwrap();
        assert!(!format!("{identity:?}").contains("hunter2"));
    }
}
