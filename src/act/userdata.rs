//! user_data: the template, and what is put into it.
//!
//! [`substitute`] is pure and makes one pass: what has been put in is never looked at again.
//! [`Templates`] gets templates from files and servers, with limits on time and size.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;

use crate::blocking;
use crate::clock::Clock;
use crate::cloud::http::{client_builder, https_stays_https, text};
use crate::config::machinetype::UserDataSource;
use crate::config::{ImageSource, MachinetypeConfig, SpaceConfig};
use crate::decide::Heartbeats;
use crate::model::{FactoryName, MachineName, Secret, Timestamp, WriteToken};
use crate::rng::Seeds;
use crate::state::Published;

use super::mjf;
use super::proxy::{self, ProxyError};
pub(super) use files::read_file;
use files::read_pem;

/// The largest template or substituted file that is read. The clouds take 64 KiB at most, so this
/// only keeps a mistake from filling the memory.
const MAX_BYTES: usize = 1 << 20;
/// The longest that fetching a template may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What every pattern begins with.
const OPEN: &str = "##user_data_";
/// What every pattern ends with.
const CLOSE: &str = "##";

/// The names of the pattern for the proxy: that of the manual page, and that which later templates
/// have.
const X509_PROXY: [&str; 2] = ["x509_proxy", "option_x509_proxy"];
/// The name of the pattern for the token that lets a machine write.
const TOKEN: &str = "joboutputs_token";
/// The name of the pattern that cvmfs_proxy_machinetype is for.
const CVMFS_PROXY: &str = "option_cvmfs_proxy";

/// Why there is no user_data for a machine.
#[derive(Debug, thiserror::Error)]
pub enum UserDataError {
    /// A file cannot be read.
    #[error("cannot read {option} {path}: {source}", path = path.display())]
    Read {
        /// The option that names the file.
        option: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A template or file is too large.
    #[error("{what} is larger than {MAX_BYTES} bytes")]
    TooLarge {
        /// The file or URL.
        what: String,
    },
    /// A template or file is not UTF-8.
    #[error("{what} is not UTF-8 text")]
    NotText {
        /// The file or URL.
        what: String,
    },
    /// A proxy cannot be made.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A template cannot be fetched.
    #[error("cannot fetch user_data from {url}: {why}")]
    Fetch {
        /// The URL, without its query and credentials.
        url: String,
        /// What happened.
        why: String,
    },
}

/// What goes into the template of one machine.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The space.
    pub space: &'a SpaceConfig,
    /// The machinetype.
    pub machinetype: &'a MachinetypeConfig,
    /// The new machine.
    pub machine: &'a MachineName,
    /// The factory.
    pub factory: &'a FactoryName,
    /// The machines of the space that are alive.
    pub heartbeats: &'a Heartbeats,
    /// The time.
    pub clock: &'a Clock,
    /// Randomness, for its token.
    pub seeds: &'a Seeds,
}

/// What a machine is given.
#[derive(Clone, Debug)]
pub struct UserData {
    /// The template with everything put in.
    pub text: Secret<Vec<u8>>,
    /// The moment from which the machine's shutdowntime counts, which is also the end of the proxy
    /// in the text.
    pub created: Timestamp,
    /// The token in the text, if the template asks for one.
    pub token: Option<WriteToken>,
}

impl UserData {
    /// The text as it is kept on disk: the token is not.
    pub fn kept(&self) -> Secret<Vec<u8>> {
        let Some(token) = &self.token else {
            return self.text.clone();
        };
        // All of it came from text.
        let text = String::from_utf8_lossy(self.text.reveal());
        let without = text.replace(token.text().reveal(), "[hidden]");
        Secret::new(without.into_bytes())
    }
}

/// The version as VMs are told it: `Vcycle v.v.v`.
pub fn manager_version() -> String {
    format!("Vcycle {}", env!("CARGO_PKG_VERSION"))
}

/// Names and values of all patterns that need no file.
fn automatic_values(context: Context<'_>) -> BTreeMap<String, String> {
    let Context {
        space,
        machinetype,
        machine,
        factory,
        heartbeats: _,
        clock: _,
        seeds: _,
    } = context;
    let machinefeatures = mjf::url(space, machine, Published::Machinefeatures);
    let jobfeatures = mjf::url(space, machine, Published::Jobfeatures);
    let joboutputs = mjf::joboutputs_url(space, machinetype, machine);
    let root_image = match &machinetype.root_image {
        ImageSource::Cloud(id) => format!("image:{id}"),
        ImageSource::File(path) => path.display().to_string(),
        ImageSource::Url(url) => url.to_string(),
    };
    let template = match &machinetype.user_data {
        UserDataSource::File(path) => path.display().to_string(),
        UserDataSource::Url(url) => url.to_string(),
    };
    let site = space
        .gocdb_sitename
        .clone()
        .unwrap_or_else(|| space.name.to_string());
    let heartbeat_machines = format!(
        "https://{}:{}/heartbeatlists/{}/{}",
        space.https_host, space.https_port, space.name, machinetype.name
    );
    // HSF-TN-2016-04 and the manual page, each with its deprecated spellings.
    let pairs = [
        ("space", space.name.to_string()),
        ("site", site),
        ("machinetype", machinetype.name.to_string()),
        ("vmtype", machinetype.name.to_string()),
        ("machine_hostname", machine.to_string()),
        ("vm_hostname", machine.to_string()),
        ("manager_version", manager_version()),
        ("vmlm_version", manager_version()),
        ("manager_hostname", factory.to_string()),
        ("vmlm_hostname", factory.to_string()),
        ("url", template),
        ("root_image_url", root_image),
        ("heartbeat_machines_url", heartbeat_machines),
        ("machinefeatures_url", machinefeatures.clone()),
        ("jobfeatures_url", jobfeatures.clone()),
        ("joboutputs_url", joboutputs.clone()),
        ("manager_machinefeatures_url", machinefeatures),
        ("manager_jobfeatures_url", jobfeatures),
        ("manager_joboutputs_url", joboutputs),
    ];
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Replaces each pattern `##user_data_NAME##` by its value; a pattern without one is removed.
/// Text that is no pattern stays as it is. Names of options have no capital letters once they are
/// read, so capital and small letters are the same in a pattern too.
pub fn substitute(template: &str, values: &BTreeMap<String, String>) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once(OPEN) {
        text.push_str(before);
        let end = after
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        match tail.strip_prefix(CLOSE) {
            Some(tail) if !name.is_empty() => {
                let value = values.get(&name.to_ascii_lowercase());
                text.push_str(value.map_or("", String::as_str));
                rest = tail;
            }
            _ => {
                text.push_str(OPEN);
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// A token for the machine when its template asks for one: each is one more secret on the machine.
/// It opens nothing on another server that the machine writes to, and is not shown to that.
fn token(context: Context<'_>, template: &str) -> Option<WriteToken> {
    let asked = template
        .to_ascii_lowercase()
        .contains(&format!("{OPEN}{TOKEN}{CLOSE}"));
    let ours = context.machinetype.remote_joboutputs_url.is_none();
    (asked && ours).then(|| WriteToken::new(&Secret::new(context.seeds.secret())))
}

/// Gets templates and makes user_data from them.
#[derive(Clone, Debug)]
pub struct Templates {
    ca_path: PathBuf,
    /// Made when the first template is fetched: it costs a tenth of a second.
    client: Arc<OnceLock<reqwest::Client>>,
    /// Keys that others can read, of which that was said.
    exposed: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Templates {
    /// A source of templates. Servers are verified with the system's CAs and those in the
    /// directory `ca_path`.
    pub fn new(ca_path: &Path) -> Self {
        Self {
            ca_path: ca_path.to_owned(),
            client: Arc::default(),
            exposed: Arc::default(),
        }
    }

    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = client_builder(&self.ca_path)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .redirect(https_stays_https())
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The user_data of one machine: the template, fetched or read now, with everything put in.
    ///
    /// # Errors
    /// When the template or a file that goes into it cannot be had; then there is no machine.
    pub async fn user_data(&self, context: Context<'_>) -> Result<UserData, UserDataError> {
        let machinetype = context.machinetype;
        let template = match &machinetype.user_data {
            UserDataSource::File(path) => read_file("user_data", path).await?,
            UserDataSource::Url(url) => self.fetch(url).await?,
        };
        let mut values = automatic_values(context);
        for (name, value) in &machinetype.user_data_options {
            values.insert(format!("option_{name}"), value.reveal().clone());
        }
        for (name, path) in &machinetype.user_data_files {
            let content = read_file(&format!("user_data_file_{name}"), path).await?;
            values.insert(format!("file_{name}"), content.clone());
            values.insert(format!("option_{name}"), content);
        }
        if let Some((of, port)) = &machinetype.cvmfs_proxy_machinetype {
            let configured = values.get(CVMFS_PROXY).map(String::as_str);
            let proxies = context.heartbeats.cvmfs_proxies(of, *port, configured);
            values.extend(proxies.map(|proxies| (CVMFS_PROXY.to_owned(), proxies)));
        }
        let token = token(context, &template);
        values.extend(
            token
                .as_ref()
                .map(|token| (TOKEN.to_owned(), token.text().reveal().clone())),
        );
        // Nothing after this takes long.
        let created = context.clock.now();
        if let Some(files) = &machinetype.user_data_proxy {
            let proxy = self.proxy(context, files, created).await?;
            for name in X509_PROXY {
                values.insert(name.to_owned(), proxy.reveal().clone());
            }
        }
        Ok(UserData {
            text: Secret::new(substitute(&template, &values).into_bytes()),
            created,
            token,
        })
    }

    /// The proxy for a machine created at `created`.
    async fn proxy(
        &self,
        context: Context<'_>,
        (cert, key): &(PathBuf, PathBuf),
        created: Timestamp,
    ) -> Result<Secret<String>, UserDataError> {
        let machinetype = context.machinetype;
        let (cert, _) = read_pem("user_data_proxy_cert", cert).await?;
        let (key, mode) = read_pem("user_data_proxy_key", key).await?;
        self.look_at_mode(&key.path, mode);
        let wanted = proxy::Wanted {
            kind: if machinetype.legacy_proxy {
                proxy::Kind::Legacy
            } else {
                proxy::Kind::Rfc3820
            },
            machinetype: machinetype.name.clone(),
            now: created,
            until: mjf::shutdowntime(context.space, Some(machinetype), created),
        };
        Ok(blocking::run(move || proxy::make(&cert, &key, &wanted)).await?)
    }

    /// Says of a key that everybody on this host can read it; once, until that has changed.
    fn look_at_mode(&self, key: &Path, mode: u32) {
        const OTHERS: u32 = 0o007;
        let mut exposed = self.exposed.lock().unwrap_or_else(PoisonError::into_inner);
        if mode & OTHERS == 0 {
            exposed.remove(key);
        } else if exposed.insert(key.to_owned()) {
            tracing::warn!(
                "user_data_proxy_key {} can be read by everybody on this host (mode {:04o}); it is used all the same, and chmod 600 mends that",
                key.display(),
                mode & 0o7777,
            );
        }
    }

    async fn fetch(&self, url: &url::Url) -> Result<String, UserDataError> {
        // A query may hold a token, and so may the user part.
        let mut shown = url.clone();
        shown.set_query(None);
        if shown
            .set_username("")
            .and(shown.set_password(None))
            .is_err()
        {
            tracing::trace!("the url cannot carry credentials");
        }
        let shown = shown.to_string();
        let failed = |why: String| UserDataError::Fetch {
            url: shown.clone(),
            why,
        };
        let chain = |error: reqwest::Error| failed(text::causes(&error.without_url()));
        let response = self
            .client()
            .map_err(chain)?
            .get(url.clone())
            .send()
            .await
            .map_err(chain)?;
        if !response.status().is_success() {
            return Err(failed(format!("the server answered {}", response.status())));
        }
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(chain)?;
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(UserDataError::TooLarge { what: shown });
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| UserDataError::NotText { what: shown })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decide::testing;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn patterns_are_replaced_removed_or_left_alone() {
        let values = values(&[
            ("space", "example.org"),
            ("option_x", "##user_data_space##"),
        ]);
        let cases = [
            ("a ##user_data_space## b", "a example.org b"),
            (
                "##user_data_space####user_data_space##",
                "example.orgexample.org",
            ),
            ("##user_data_unknown##", ""),
            ("##user_data_Space##", "example.org"),
            ("##user_data_option_x##", "##user_data_space##"),
            ("##user_data_sp ace##", "##user_data_sp ace##"),
            ("##user_data_space", "##user_data_space"),
            ("##user_data_##", "##user_data_##"),
            ("##user_data_##user_data_space##", "##user_data_example.org"),
            ("# ## ##other##", "# ## ##other##"),
            ("", ""),
        ];
        for (template, expected) in cases {
            assert_eq!(substitute(template, &values), expected, "{template}");
        }
    }

    #[tokio::test]
    async fn a_template_gets_options_files_and_what_vcycled_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = dir.path().join(name);
            crate::state::Disk::default()
                .write(dir.path(), &path, text.as_bytes(), 0o600)
                .unwrap();
            path
        };
        let space = testing::space("");
        let mut machinetype = testing::machinetype("a", "");
        machinetype.user_data = UserDataSource::File(path(
            "template",
            "##user_data_machine_hostname## ##user_data_vm_hostname## \
             ##user_data_manager_hostname## ##user_data_manager_version## \
             ##user_data_joboutputs_url## ##user_data_option_site## \
             ##user_data_option_cert## ##user_data_file_cert##",
        ));
        machinetype.user_data_options.insert(
            "site".to_owned(),
            crate::model::Secret::new("Here".to_owned()),
        );
        machinetype
            .user_data_files
            .insert("cert".to_owned(), path("cert", "PEM"));
        let machine = MachineName::new("vcycle-a-aaaaaaaaaa").unwrap();
        let factory = FactoryName::new("f.example.org").unwrap();
        let templates = Templates::new(dir.path());
        let context = Context {
            space: &space,
            machinetype: &machinetype,
            machine: &machine,
            factory: &factory,
            heartbeats: &Heartbeats::default(),
            clock: &Clock::manual(Timestamp::from_unix(1000)),
            seeds: &Seeds::default(),
        };
        let made = templates.user_data(context).await.unwrap();
        assert_eq!(made.created, Timestamp::from_unix(1000));
        let text = String::from_utf8(made.text.reveal().clone()).unwrap();
        assert_eq!(
            text,
            format!(
                "{machine} {machine} f.example.org {} \
                 https://factory.example.org:443/machines/{machine}/joboutputs Here PEM PEM",
                manager_version()
            )
        );
    }

    #[tokio::test]
    async fn a_token_is_made_only_for_who_asks_and_writes_here() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        let space = testing::space("");
        let mut machinetype = testing::machinetype("a", "");
        machinetype.user_data = UserDataSource::File(template.clone());
        let machine = MachineName::new("vcycle-a-aaaaaaaaaa").unwrap();
        let factory = FactoryName::new("f").unwrap();
        let templates = Templates::new(dir.path());
        let (heartbeats, clock, seeds) = (Heartbeats::default(), Clock::system(), Seeds::default());
        let mut seen = BTreeSet::new();
        for (text, elsewhere, expected) in [
            ("x=##user_data_joboutputs_token##", false, true),
            ("x=##user_data_joboutputs_TOKEN##", false, true),
            ("x=##user_data_joboutputs_token##", true, false),
            ("x=", false, false),
        ] {
            crate::state::Disk::default()
                .write(dir.path(), &template, text.as_bytes(), 0o600)
                .unwrap();
            let url = "https://out.example.org/".parse().unwrap();
            machinetype.remote_joboutputs_url = elsewhere.then_some(url);
            let context = Context {
                space: &space,
                machinetype: &machinetype,
                machine: &machine,
                factory: &factory,
                heartbeats: &heartbeats,
                clock: &clock,
                seeds: &seeds,
            };
            let made = templates.user_data(context).await.unwrap();
            let token = made.token.as_ref().map(|token| token.text().reveal());
            assert_eq!(token.is_some(), expected, "{text} {elsewhere}");
            let whole = format!("x={}", token.map_or("", String::as_str));
            assert_eq!(*made.text.reveal(), whole.as_bytes());
            let kept = if expected { "x=[hidden]" } else { "x=" };
            assert_eq!(*made.kept().reveal(), kept.as_bytes());
            assert!(seen.insert(whole) || !expected, "each has its own");
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_named_with_its_option() {
        let space = testing::space("");
        let machinetype = testing::machinetype("a", "");
        let machine = MachineName::new("vcycle-a-aaaaaaaaaa").unwrap();
        let factory = FactoryName::new("f").unwrap();
        let templates = Templates::new(Path::new(""));
        let error = templates
            .user_data(Context {
                space: &space,
                machinetype: &machinetype,
                machine: &machine,
                factory: &factory,
                heartbeats: &Heartbeats::default(),
                clock: &Clock::system(),
                seeds: &Seeds::default(),
            })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read user_data /user_data: "),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn text_without_patterns_is_untouched(text in "[^#]*(#[^#]+)*") {
            prop_assert_eq!(substitute(&text, &BTreeMap::new()), text);
        }

        #[test]
        fn any_text_goes_through(text in ".*(##user_data_[a-z_#]*.*)*") {
            let once = substitute(&text, &values(&[("a", "b")]));
            prop_assert!(once.len() <= text.len());
        }
    }
}
