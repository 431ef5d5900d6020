//! `[machinetype SPACE NAME]`: one kind of VM in one space.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::{Dn, Hs06, MachinetypeName, Processors, Seconds, Secret, Share};

use super::options::ApiName;
use super::read::{Reader, path};
use super::value::{self, Bad, Parsed, Unit};

/// Options of one machinetype.
#[derive(Clone, Debug, PartialEq)]
pub struct MachinetypeConfig {
    /// The name in the section.
    pub name: MachinetypeName,
    /// `flavor_name` / `flavor_names`, or those of the space: tried in this order. Never empty.
    pub flavor_names: Vec<String>,
    /// `hs06`: power of the whole VM.
    pub hs06: Option<Hs06>,
    /// `hs06_per_processor`; never together with `hs06`.
    pub hs06_per_processor: Option<Hs06>,
    /// `hepscore23_per_processor`, for accounting with `benchmark = hepscore23`, and for target
    /// shares where there is no hs06. A finite number above 0.
    pub hepscore23_per_processor: Option<f64>,
    /// `cpu_per_machine` (aliases `processors_per_machine`, `min_processors`): what a VM has when
    /// the cloud does not tell. Default 1.
    pub min_processors: Processors,
    /// The least that a flavor must have: set only by the spelling `min_processors`, because the
    /// manual page lets the flavor's own figure win over `cpu_per_machine`.
    pub flavor_min_processors: Option<Processors>,
    /// `max_processors`: the most that a flavor may have.
    pub max_processors: Option<Processors>,
    /// `mb_per_processor`: memory in MiB where the flavor does not tell. Default 2048.
    pub mb_per_processor: u64,
    /// `target_share`: default 0, which creates nothing.
    pub target_share: Share,
    /// `backoff_seconds`: pause after an abort.
    pub backoff: Seconds,
    /// `fizzle_seconds`: a VM that ends sooner without a code has aborted.
    pub fizzle: Seconds,
    /// `accounting_fqan`.
    pub accounting_fqan: Option<String>,
    /// `max_machines` of this machinetype in this space.
    pub max_machines: Option<u32>,
    /// `processors_limit` of this machinetype in this space.
    pub processors_limit: Option<u32>,
    /// `max_starting_processors`: the most processors in machines that are starting.
    pub max_starting_processors: Option<u32>,
    /// `max_wallclock_seconds`: life of a VM. Default 86400.
    pub max_wallclock: Seconds,
    /// `heartbeat_file`: a file name in $JOBOUTPUTS.
    pub heartbeat_file: Option<String>,
    /// `heartbeat_seconds`: 0 checks only that the file exists. Default 0.
    pub heartbeat: Seconds,
    /// `x509dn` (alias `https_x509dn`): who may write to $JOBOUTPUTS.
    pub x509dn: Option<Dn>,
    /// `log_joboutputs`: keep a copy of $JOBOUTPUTS. Default false.
    pub log_joboutputs: bool,
    /// `joboutputs_days` as seconds: how long that copy is kept. Default 3 days.
    pub joboutputs_kept: Seconds,
    /// `remote_joboutputs_url`.
    pub remote_joboutputs_url: Option<url::Url>,
    /// `remote_joboutputs_cert` and `remote_joboutputs_key`, resolved.
    pub remote_joboutputs_identity: Option<(PathBuf, PathBuf)>,
    /// `root_image`.
    pub root_image: ImageSource,
    /// `cernvm_signing_dn`: a regular expression.
    pub cernvm_signing_dn: Option<String>,
    /// `root_public_key`, resolved.
    pub root_public_key: Option<PathBuf>,
    /// `user_data`: an http(s) URL or a resolved path.
    pub user_data: UserDataSource,
    /// `user_data_option_XXX`: pattern name XXX to text, which may be a password or a token.
    pub user_data_options: BTreeMap<String, Secret<String>>,
    /// `user_data_file_XXX`: pattern name XXX to resolved path.
    pub user_data_files: BTreeMap<String, PathBuf>,
    /// `user_data_proxy_cert` and `user_data_proxy_key`, resolved.
    pub user_data_proxy: Option<(PathBuf, PathBuf)>,
    /// `legacy_proxy`: default false.
    pub legacy_proxy: bool,
    /// `cvmfs_proxy_machinetype`: name and port.
    pub cvmfs_proxy_machinetype: Option<(MachinetypeName, u16)>,
}

impl MachinetypeConfig {
    /// The power of a VM with so many processors, in HEPSPEC06, if it is configured.
    pub fn power(&self, processors: Processors) -> Option<Hs06> {
        let per_processor = self.hs06_per_processor;
        self.hs06
            .or(per_processor.map(|each| each.times(processors)))
    }
}

/// Where a VM boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// `image:X`: an image that the cloud has, by identifier or name.
    Cloud(String),
    /// A file of this host, resolved.
    File(PathBuf),
    /// An http(s) URL.
    Url(url::Url),
}

/// Where the user_data template comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserDataSource {
    /// A file of this host, resolved.
    File(PathBuf),
    /// An http(s) URL, fetched for each creation.
    Url(url::Url),
}

/// The flavor and the image that a machinetype of a simulated space has without naming them.
const SIMULATED_FLAVOR: &str = "small";
const SIMULATED_IMAGE: &str = "image:cernvm4";

/// The pattern name that the proxy replaces in later templates.
const PROXY: &str = "x509_proxy";

/// Where an SSH public key is, in a directory that root_public_key names by a slash at its end.
const PUBLIC_KEY_FILE: &str = "id_rsa.pub";

/// Reads a machinetype. `flavors` are those of its space, relative file names are below `files`.
pub(super) fn read(
    reader: &Reader<'_>,
    name: &MachinetypeName,
    flavors: &[String],
    files: &Path,
) -> Option<MachinetypeConfig> {
    reader.check_names();
    reader.check_doubles();
    let (hs06, hs06_per_processor) = read_power(reader);
    let processors = read_processors(reader);
    let (heartbeat_file, heartbeat) = read_heartbeat(reader);
    let flavor_names = read_flavors(reader, flavors);
    let target_share = reader.take("target_share", value::share);
    let backoff = reader.require("backoff_seconds", value::seconds);
    let fizzle = reader.require("fizzle_seconds", value::seconds);
    let max_wallclock = reader.take("max_wallclock_seconds", value::positive_seconds);
    let mb_per_processor = reader.take("mb_per_processor", |t| value::size(t, Unit::Plain));
    let joboutputs_kept = reader.take("joboutputs_days", value::days);
    let root_image = read_root_image(reader, files);
    let user_data = reader.require("user_data", |text| file_or_url(text, files));
    let (user_data_options, user_data_files) = read_substitutions(reader, files);
    let user_data_proxy = read_user_data_proxy(reader, files);
    if user_data_proxy.is_some()
        && (user_data_options.contains_key(PROXY) || user_data_files.contains_key(PROXY))
    {
        let what = "the proxy that is made replaces ##user_data_option_x509_proxy##, and another \
                    option gives a text for it; only one of them can";
        reader.error("user_data_proxy", what, None);
    }
    Some(MachinetypeConfig {
        name: name.clone(),
        flavor_names,
        hs06,
        hs06_per_processor,
        hepscore23_per_processor: reader
            .take("hepscore23_per_processor", value::power)
            .map(Hs06::get),
        min_processors: processors.of_machine,
        flavor_min_processors: processors.least,
        max_processors: processors.most,
        mb_per_processor: mb_per_processor.unwrap_or_default(),
        target_share: target_share.unwrap_or_default(),
        accounting_fqan: reader.take_text("accounting_fqan", value::ascii_word),
        max_machines: reader.take("max_machines", value::count),
        processors_limit: reader.take("processors_limit", value::count),
        max_starting_processors: reader.take("max_starting_processors", value::count),
        max_wallclock: max_wallclock.unwrap_or_default(),
        heartbeat_file,
        heartbeat,
        x509dn: reader.take_text("x509dn", value::dn),
        log_joboutputs: reader.take("log_joboutputs", value::boolean) == Some(true),
        joboutputs_kept: joboutputs_kept.unwrap_or_default(),
        remote_joboutputs_url: reader.take_text("remote_joboutputs_url", base_url),
        remote_joboutputs_identity: read_remote_identity(reader, files),
        cernvm_signing_dn: reader.take_text("cernvm_signing_dn", value::pattern),
        root_public_key: reader.take_text("root_public_key", |text| public_key_path(text, files)),
        user_data_options,
        user_data_files,
        user_data_proxy,
        legacy_proxy: reader.take("legacy_proxy", value::boolean) == Some(true),
        cvmfs_proxy_machinetype: reader.take_text("cvmfs_proxy_machinetype", name_and_port),
        root_image: root_image?,
        user_data: user_data?,
        backoff: backoff?,
        fizzle: fizzle?,
    })
}

fn read_flavors(reader: &Reader<'_>, of_space: &[String]) -> Vec<String> {
    let own = reader.take_list("flavor_names");
    if !own.is_empty() {
        return own;
    }
    if !of_space.is_empty() {
        return of_space.to_vec();
    }
    if reader.api == Some(ApiName::Simulated) {
        return vec![SIMULATED_FLAVOR.to_owned()];
    }
    if !reader.partial {
        let what = "flavor_name is missing; it is required here or as flavor_names in the space";
        reader.error("flavor_names", what, None);
    }
    Vec::new()
}

fn read_power(reader: &Reader<'_>) -> (Option<Hs06>, Option<Hs06>) {
    let whole = reader.take("hs06", value::power);
    let per_processor = reader.take("hs06_per_processor", value::power);
    if reader.gives("hs06") && reader.gives("hs06_per_processor") {
        let what = "hs06 and hs06_per_processor are both given; only one of them can count";
        let help = "keep hs06_per_processor where the flavors differ in processors";
        reader.error("hs06_per_processor", what, Some(help.to_owned()));
    }
    (whole, per_processor)
}

/// What a machinetype says of processors.
struct ReadProcessors {
    of_machine: Processors,
    least: Option<Processors>,
    most: Option<Processors>,
}

fn read_processors(reader: &Reader<'_>) -> ReadProcessors {
    let least = reader.take("min_processors", value::positive_count);
    let most = reader.take("max_processors", value::positive_count);
    let default = reader.take("cpu_per_machine", value::positive_count);
    let of_machine = match least {
        Some(least) if !reader.gives("cpu_per_machine") => least,
        _ => default.unwrap_or(1),
    };
    if let (Some(least), Some(most)) = (least, most)
        && most < least
    {
        let what = format!("max_processors = \"{most}\": is less than min_processors, {least}");
        reader.error("max_processors", what, None);
    }
    ReadProcessors {
        of_machine: Processors::new(of_machine),
        least: least.map(Processors::new),
        most: most.map(Processors::new),
    }
}

fn read_heartbeat(reader: &Reader<'_>) -> (Option<String>, Seconds) {
    let file = reader.take_text("heartbeat_file", value::plain_file_name);
    let seconds = reader.take("heartbeat_seconds", value::seconds);
    let seconds = seconds.unwrap_or_default();
    if seconds > Seconds::new(0) && !reader.gives("heartbeat_file") && !reader.partial {
        let what = "heartbeat_seconds has no effect without heartbeat_file";
        reader.warning("heartbeat_seconds", what);
    }
    (file, seconds)
}

fn read_root_image(reader: &Reader<'_>, files: &Path) -> Option<ImageSource> {
    if reader.api == Some(ApiName::Simulated) && !reader.gives("root_image") {
        return image(SIMULATED_IMAGE, files).ok();
    }
    let source = reader.require("root_image", |text| image(text, files))?;
    match source {
        ImageSource::Cloud(_) => {}
        ImageSource::File(_) | ImageSource::Url(_) if reader.api == Some(ApiName::Ec2) => {
            let what = "root_image: expected image:ID, as api = ec2 cannot take an image from here";
            reader.error("root_image", what, None);
        }
        ImageSource::File(_) | ImageSource::Url(_) => {}
    }
    Some(source)
}

fn image(text: &str, files: &Path) -> Parsed<ImageSource> {
    if let Some(id) = text.strip_prefix("image:") {
        let id = value::line(id.trim())?;
        if id.is_empty() {
            return Err(Bad::new("expected the image's ID or name after image:"));
        }
        return Ok(ImageSource::Cloud(id));
    }
    Ok(match file_or_url(text, files)? {
        UserDataSource::File(file) => ImageSource::File(file),
        UserDataSource::Url(url) => ImageSource::Url(url),
    })
}

fn file_or_url(text: &str, files: &Path) -> Parsed<UserDataSource> {
    if value::is_url(text) {
        value::http_url(text).map(UserDataSource::Url)
    } else {
        path(text, Some(files)).map(UserDataSource::File)
    }
}

fn public_key_path(text: &str, files: &Path) -> Parsed<PathBuf> {
    let mut file = path(text, Some(files))?;
    if text.ends_with('/') {
        file.push(PUBLIC_KEY_FILE);
    }
    Ok(file)
}

fn read_substitutions(
    reader: &Reader<'_>,
    files: &Path,
) -> (BTreeMap<String, Secret<String>>, BTreeMap<String, PathBuf>) {
    let options = reader.take_all("user_data_option_XXX", |text| {
        Ok(Secret::new(text.to_owned()))
    });
    let from_files = reader.take_all("user_data_file_XXX", |text| path(text, Some(files)));
    for name in options.keys().filter(|name| from_files.contains_key(*name)) {
        let what = format!(
            "user_data_option_{name} and user_data_file_{name} both replace \
             ##user_data_option_{name}##; only one of them can"
        );
        reader.error("user_data_option_XXX", what, None);
    }
    (options, from_files)
}

/// Two files that are of use only together.
fn read_pair(
    reader: &Reader<'_>,
    files: &Path,
    cert: &str,
    key: &str,
) -> Option<(PathBuf, PathBuf)> {
    let pair = (
        reader.take_path(cert, Some(files)),
        reader.take_path(key, Some(files)),
    );
    let (given, missing) = match pair {
        (Some(cert), Some(key)) => return Some((cert, key)),
        (None, None) => return None,
        (Some(_), None) => (cert, key),
        (None, Some(_)) => (key, cert),
    };
    if !reader.partial {
        let what = format!("{given} is given without {missing}; both are needed");
        let help = format!("where one file holds both, give it as {missing} too");
        reader.error(given, what, Some(help));
    }
    None
}

/// The URL that names of machines are put at the end of.
fn base_url(text: &str) -> Parsed<url::Url> {
    let url = value::https_url(text)?;
    if url.query().is_none() && url.fragment().is_none() {
        Ok(url)
    } else {
        Err(Bad::new(
            "expected a URL without ? and #, because names are put at its end",
        ))
    }
}

fn read_remote_identity(reader: &Reader<'_>, files: &Path) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = ("remote_joboutputs_cert", "remote_joboutputs_key");
    let pair = read_pair(reader, files, cert, key);
    if pair.is_some() && !reader.gives("remote_joboutputs_url") && !reader.partial {
        let what = format!("{cert} has no effect without remote_joboutputs_url");
        reader.warning(cert, what);
    }
    pair
}

/// The two files by name, or by `user_data_proxy = True` at their usual place.
fn read_user_data_proxy(reader: &Reader<'_>, files: &Path) -> Option<(PathBuf, PathBuf)> {
    let pair = read_pair(reader, files, "user_data_proxy_cert", "user_data_proxy_key");
    let usual = reader.take("user_data_proxy", value::boolean) == Some(true);
    if pair.is_some() && !usual && reader.gives("user_data_proxy") {
        let what = "user_data_proxy = \"False\": contradicts user_data_proxy_cert, which is given";
        reader.error("user_data_proxy", what, None);
    }
    let usual_pair = || (files.join("x509cert.pem"), files.join("x509key.pem"));
    pair.or_else(|| usual.then(usual_pair))
}

fn name_and_port(text: &str) -> Parsed<(MachinetypeName, u16)> {
    const PORT: u16 = 280;
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, value::port(port)?),
        None => (text, PORT),
    };
    let name = MachinetypeName::new(name)
        .map_err(|_| Bad::new("expected a machinetype's name, or NAME:PORT"))?;
    Ok((name, port))
}
