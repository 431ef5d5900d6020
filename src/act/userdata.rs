//! user_data: the template, and what is put into it (SPEC 11).
//!
//! [`substitute`] is pure and makes one pass: what has been put in is never looked at again.
//! [`Templates`] gets templates from files and servers, with limits on time and size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;

use crate::blocking;
use crate::cloud::http::{client_builder, https_stays_https};
use crate::config::machinetype::UserDataSource;
use crate::config::{ImageSource, MachinetypeConfig, SpaceConfig};
use crate::model::{FactoryName, MachineName};
use crate::state::Published;

use super::mjf;

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

/// Gets templates and makes user_data from them.
#[derive(Clone, Debug)]
pub struct Templates {
    ca_path: PathBuf,
    /// Made when the first template is fetched: it costs a tenth of a second.
    client: Arc<OnceLock<reqwest::Client>>,
}

impl Templates {
    /// A source of templates. Servers are verified with the system's CAs and those in the
    /// directory `ca_path`.
    pub fn new(ca_path: &Path) -> Self {
        Self {
            ca_path: ca_path.to_owned(),
            client: Arc::default(),
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
    pub async fn user_data(&self, context: Context<'_>) -> Result<Vec<u8>, UserDataError> {
        let template = match &context.machinetype.user_data {
            UserDataSource::File(path) => read_file("user_data", path).await?,
            UserDataSource::Url(url) => self.fetch(url).await?,
        };
        let mut values = automatic_values(context);
        for (name, value) in &context.machinetype.user_data_options {
            values.insert(format!("option_{name}"), value.reveal().clone());
        }
        for (name, path) in &context.machinetype.user_data_files {
            let content = read_file(&format!("user_data_file_{name}"), path).await?;
            values.insert(format!("file_{name}"), content.clone());
            values.insert(format!("option_{name}"), content);
        }
        Ok(substitute(&template, &values).into_bytes())
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
        let chain = |error: reqwest::Error| failed(crate::telemetry::chain(&error.without_url()));
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

/// Reads a small file of the site that `option` names. A pipe, a device or a file server that is
/// gone would keep the whole space waiting for ever: what is no file is refused, and what takes too
/// long is given up.
///
/// # Errors
/// When the file cannot be read, is too large, or is not UTF-8.
pub(super) async fn read_file(option: &str, path: &Path) -> Result<String, UserDataError> {
    let failed = |source| UserDataError::Read {
        option: option.to_owned(),
        path: path.to_owned(),
        source,
    };
    let place = path.to_owned();
    let reading = blocking::run(move || read_bytes(&place));
    let bytes = tokio::time::timeout(FETCH_TIMEOUT, reading)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    let what = || format!("{option} {}", path.display());
    if bytes.len() > MAX_BYTES {
        return Err(UserDataError::TooLarge { what: what() });
    }
    String::from_utf8(bytes).map_err(|_| UserDataError::NotText { what: what() })
}

/// At most one byte more than is allowed.
fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    // Opening a named pipe must not wait for its writer.
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
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
        };
        let text = String::from_utf8(templates.user_data(context).await.unwrap()).unwrap();
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
            })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read user_data /user_data: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_pipe_that_nobody_writes_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [pipe.as_path(), dir.path()] {
            let error = read_file("user_data", path).await.unwrap_err().to_string();
            assert!(error.ends_with(": it is not a file"), "{error}");
        }
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
