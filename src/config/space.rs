//! `[space NAME]`: one tenancy, project or account on one cloud.

use std::collections::BTreeMap;

use crate::model::{
    Gigabytes, MachineFiles, MachinetypeName, Processors, Seconds, Secret, SpaceName, Timestamp,
};

use super::MachinetypeConfig;
use super::options::ApiName;
use super::read::{Reader, path};
use super::value::{self, Bad, Parsed};

/// Options of one space, with its machinetypes.
#[derive(Clone, Debug, PartialEq)]
pub struct SpaceConfig {
    /// The name in the section.
    pub name: SpaceName,
    /// `api` and the options that go with it.
    pub api: Api,
    /// `max_machines`: limit in machines of any state, those that are not ours included.
    pub max_machines: Option<u32>,
    /// `processors_limit` (deprecated alias `max_processors`): the same in processors.
    pub processors_limit: Option<u32>,
    /// `flavor_names`: flavors for machinetypes that name none.
    pub flavor_names: Vec<String>,
    /// `volume_gb_per_processor`: size of the boot volume, which goes with the VM; 0 is none.
    pub volume_gb_per_processor: u32,
    /// `gocdb_sitename`: site name for APEL; without it records are only archived.
    pub gocdb_sitename: Option<String>,
    /// `benchmark`: what the power in accounting records is measured in.
    pub benchmark: Benchmark,
    /// `vacmon_hostport`: receivers of VacQuery messages, as `host:port`.
    pub vacmon_hostport: Vec<String>,
    /// `https_host`: host in the URLs that VMs are given. Default the factory's host name.
    pub https_host: String,
    /// `https_port`: port in those URLs. Default 443.
    pub https_port: u16,
    /// `shutdown_time`: no new machines after it; running ones are told, then destroyed.
    pub shutdown_time: Option<Timestamp>,
    /// The same as `vcycled shutdown` has said, which is in the state directory and in no
    /// configuration file: whoever carries out a pass puts it here.
    pub ordered_shutdown: Option<Timestamp>,
    /// `grace_seconds`: the notice that a machine is given when its shutdowntime moves. Default 600.
    pub grace: Seconds,
    /// `cleanup_hours`: how long the directory of a finished machine is kept. Default 72 hours.
    pub cleanup: Seconds,
    /// `remove_leaks`: whether things of ours on the cloud that belong to no machine are removed, and
    /// not only counted. Default true.
    pub remove_leaks: bool,
    /// `keep_old_images`: whether images of ours that have been superseded stay on the cloud. Default
    /// false.
    pub keep_old_images: bool,
    /// Its machinetypes. There may be none while nothing is known of a vacuum pipe, or it tells none.
    pub machinetypes: BTreeMap<MachinetypeName, MachinetypeConfig>,
}

impl SpaceConfig {
    /// The availability zones to try; none leaves the choice to the cloud.
    pub fn zones(&self) -> &[String] {
        match &self.api {
            Api::OpenStack(options) => &options.zones,
            Api::Ec2(options) => &options.zones,
            Api::Simulated(_) => &[],
        }
    }

    /// Whether what a machine wrote is to be copied when it has finished (log_joboutputs): as its
    /// machinetype has it, or had it when the machine was made if it is no longer configured.
    pub fn keeps_joboutputs(&self, machine: &MachineFiles) -> bool {
        self.machinetypes
            .get(&machine.machinetype)
            .map_or(machine.log_joboutputs, |configured| {
                configured.log_joboutputs
            })
    }

    /// The flavors that the machinetypes of an EC2 space name, with what the configuration says of
    /// their processors (`cpu_per_machine`): an adapter can list the flavors of an OpenStack, but
    /// not of every EC2. Of two machinetypes with one flavor the larger figure counts, so that no
    /// limit is exceeded.
    pub fn flavor_sizes(&self) -> BTreeMap<String, Processors> {
        let mut sizes: BTreeMap<String, Processors> = BTreeMap::new();
        if !matches!(self.api, Api::Ec2(_)) {
            return sizes;
        }
        for machinetype in self.machinetypes.values() {
            for name in &machinetype.flavor_names {
                let size = sizes.entry(name.clone()).or_insert(Processors::ONE);
                *size = machinetype.min_processors.max(*size);
            }
        }
        sizes
    }

    /// The volume that a machine with so many processors boots from, if it boots from one.
    pub fn volume(&self, processors: Processors) -> Option<Gigabytes> {
        let each = u64::from(self.volume_gb_per_processor);
        Gigabytes::new(each * u64::from(processors.get()))
    }

    /// When everything in the space has to be down, if it has to: the sooner of what the
    /// configuration says and what `vcycled shutdown` said.
    pub fn down_by(&self) -> Option<Timestamp> {
        self.shutdown_time
            .into_iter()
            .chain(self.ordered_shutdown)
            .min()
    }

    /// Whether that is because of `vcycled shutdown`.
    pub fn is_ordered_down(&self) -> bool {
        self.ordered_shutdown.is_some() && self.down_by() == self.ordered_shutdown
    }
}

/// Which cloud API a space speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// `api = openstack`
    OpenStack(OpenStackOptions),
    /// `api = ec2`
    Ec2(Ec2Options),
    /// `api = simulated`: the embedded cloud, for trying things out.
    Simulated(SimulatedOptions),
}

/// Options of an OpenStack space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStackOptions {
    /// `url`: the identity endpoint.
    pub url: url::Url,
    /// Major identity version from `api_version`; `None`: told by the url or asked for.
    pub identity_version: Option<u8>,
    /// `tenancy_name` (alias `project_name`). Not needed with an application credential.
    pub project: Option<String>,
    /// `domain_name`, of the user and the project. Default `default`.
    pub domain: String,
    /// How to prove who we are.
    pub credentials: OpenStackCredentials,
    /// `region`: `None` takes the first region of the service catalog, and stays with it.
    pub region: Option<String>,
    /// `zones`: each machine begins with the next of them, and tries the others when there is no
    /// room; empty leaves the placement to the cloud.
    pub zones: Vec<String>,
    /// `security_groups`: empty means the cloud's default.
    pub security_groups: Vec<String>,
    /// `network_uuid`: needed where the project has more than one network.
    pub network_uuid: Option<String>,
}

/// OpenStack credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenStackCredentials {
    /// `username` and `password_base64` (here decoded).
    Password {
        /// The user's name.
        username: String,
        /// The decoded password.
        password: Secret<String>,
    },
    /// `cred_id` and `cred_secret`.
    ApplicationCredential {
        /// Identifier of the application credential.
        id: String,
        /// Its secret.
        secret: Secret<String>,
    },
}

/// Options of an EC2 space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Options {
    /// `url`: the endpoint; that of Amazon in the region when the service is `ec2` and none is
    /// given.
    pub url: url::Url,
    /// `access_key`.
    pub access_key: String,
    /// `secret_key`.
    pub secret_key: Secret<String>,
    /// `version`: default `2010-08-31`.
    pub version: String,
    /// `region`: default `us-east-1`.
    pub region: String,
    /// `service`: default `openstack`.
    pub service: String,
    /// `zones`: availability zones, as with OpenStack.
    pub zones: Vec<String>,
    /// `security_groups`: identifiers (`sg-...`) or names; empty means the cloud's default.
    pub security_groups: Vec<String>,
    /// `network_uuid`: the identifier of a subnet.
    pub network_uuid: Option<String>,
    /// `spot`: whether machines are made of spare capacity. Default false.
    pub spot: bool,
}

/// Options of a space on the embedded cloud. All have defaults and none are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedOptions {
    /// `simulated_machines`: the cloud's quota in machines. Default 20.
    pub machines: u32,
    /// `simulated_processors`: the cloud's quota in processors. Default 40.
    pub processors: u32,
    /// `simulated_boot_seconds`: from the request to running. Default 60.
    pub boot: Seconds,
    /// `simulated_job_seconds`: how long a VM with work runs. Default 3600.
    pub job: Seconds,
    /// `simulated_work`: `MACHINETYPE:N` pairs: how many VMs of that machinetype can find work at
    /// once; a machinetype that is not named always finds work.
    pub work: BTreeMap<String, u32>,
    /// `simulated_cert`: PEM file with the certificate (chain) and key that VMs write with.
    pub cert: Option<std::path::PathBuf>,
    /// `simulated_fault_percent`: how many of a hundred requests and VMs something goes wrong
    /// with. Default 0.
    pub fault_percent: u32,
    /// `simulated_fault_seed`: what the faults are drawn from. Without it they differ each time.
    pub fault_seed: Option<u64>,
}

/// What the power in accounting records is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Benchmark {
    /// `hepspec`: HEPSPEC06, the default.
    #[default]
    Hepspec,
    /// `hepscore23`.
    Hepscore23,
}

/// A space without its machinetypes, and what reading those needs to know of it.
pub(super) struct SpaceHead {
    /// The space; its machinetypes are still to be filled in.
    pub config: Option<SpaceConfig>,
    /// Flavors for machinetypes that name none.
    pub flavor_names: Vec<String>,
    /// What it speaks, if that could be read.
    pub api: Option<ApiName>,
}

/// Reads what stands in the section itself. `host` is the factory's host name.
pub(super) fn read(mut reader: Reader<'_>, name: &SpaceName, host: &str) -> SpaceHead {
    let choices = ApiName::ALL.map(|api| (api.word(), api));
    let api_name = reader.require("api", |text| value::one_of(text, &choices));
    reader.api = api_name;
    reader.check_names();
    reader.check_doubles();
    let api = api_name.and_then(|api| match api {
        ApiName::OpenStack => read_openstack(&reader).map(Api::OpenStack),
        ApiName::Ec2 => {
            if !cfg!(feature = "ec2") {
                let what = "api = \"ec2\": is not part of this build of vcycled";
                let help = "build it with the cargo feature ec2, which is on by default";
                reader.error("api", what, Some(help.to_owned()));
            }
            read_ec2(&reader).map(Api::Ec2)
        }
        ApiName::Simulated => read_simulated(&reader).map(Api::Simulated),
    });
    let flavor_names = reader.take_list("flavor_names");
    let config = read_limits_and_manners(&reader, name, host, flavor_names.clone(), api);
    SpaceHead {
        config,
        flavor_names,
        api: api_name,
    }
}

fn read_limits_and_manners(
    reader: &Reader<'_>,
    name: &SpaceName,
    host: &str,
    flavor_names: Vec<String>,
    api: Option<Api>,
) -> Option<SpaceConfig> {
    let max_machines = reader.take("max_machines", value::count);
    let processors_limit = reader.take("processors_limit", value::count);
    let volume_gb_per_processor = reader.take("volume_gb_per_processor", value::count);
    let gocdb_sitename = reader.take_text("gocdb_sitename", value::ascii_word);
    let benchmark = reader.take("benchmark", benchmark);
    let vacmon_hostport = reader.take("vacmon_hostport", |text| {
        let all = value::list(text)?;
        all.iter().map(|one| value::host_and_port(one)).collect()
    });
    let https_host = reader.take_text("https_host", value::host_name);
    let https_port = reader.take("https_port", value::port);
    let shutdown_time = reader.take_text("shutdown_time", value::unix_time);
    let grace = reader.take("grace_seconds", value::seconds);
    let cleanup = reader.take("cleanup_hours", value::hours);
    let remove_leaks = reader.take("remove_leaks", value::boolean);
    let keep_old_images = reader.take("keep_old_images", value::boolean);
    Some(SpaceConfig {
        name: name.clone(),
        api: api?,
        max_machines,
        processors_limit,
        flavor_names,
        volume_gb_per_processor: volume_gb_per_processor?,
        gocdb_sitename,
        benchmark: benchmark?,
        vacmon_hostport: vacmon_hostport.unwrap_or_default(),
        https_host: https_host.unwrap_or_else(|| host.to_owned()),
        https_port: https_port?,
        shutdown_time,
        ordered_shutdown: None,
        grace: grace?,
        cleanup: cleanup?,
        remove_leaks: remove_leaks?,
        keep_old_images: keep_old_images?,
        machinetypes: BTreeMap::new(),
    })
}

fn benchmark(text: &str) -> Parsed<Benchmark> {
    let choices = [
        ("hepspec", Benchmark::Hepspec),
        ("hepscore23", Benchmark::Hepscore23),
    ];
    value::one_of(text, &choices)
}

fn read_openstack(reader: &Reader<'_>) -> Option<OpenStackOptions> {
    let url = reader.require("url", value::endpoint_url);
    let identity_version = reader.take_text("api_version", identity_version);
    let credentials = read_credentials(reader);
    let project = reader.take_text("tenancy_name", value::line);
    if let Some(OpenStackCredentials::Password { .. }) = &credentials
        && project.is_none()
    {
        let what = "tenancy_name is missing; it is required with username and password_base64";
        reader.error("tenancy_name", what, None);
    }
    let domain = reader.take_text("domain_name", value::line);
    let region = reader.take_text("region", value::line);
    let (zones, security_groups) = (
        reader.take_list("zones"),
        reader.take_list("security_groups"),
    );
    let network_uuid = reader.take_text("network_uuid", value::word);
    read_glance_api(reader);
    Some(OpenStackOptions {
        url: url?,
        identity_version,
        project,
        domain: domain.unwrap_or_else(|| "default".to_owned()),
        credentials: credentials?,
        region,
        zones,
        security_groups,
        network_uuid,
    })
}

/// `2*` or `3*`; the major version is all that matters.
fn identity_version(text: &str) -> Parsed<u8> {
    let rest_is_minor = |rest: &str| {
        let minor = rest.strip_prefix('.').unwrap_or_default();
        rest.is_empty() || rest == "*" || minor.bytes().all(|b| b.is_ascii_digit() || b == b'*')
    };
    match text.split_at_checked(1) {
        Some(("2", rest)) if rest_is_minor(rest) => Ok(2),
        Some(("3", rest)) if rest_is_minor(rest) => Ok(3),
        Some(_) | None => Err(Bad::new("expected 2 or 3, or a version that begins so")),
    }
}

/// Only version 2 of the image API is left, whatever an old configuration asks for.
fn read_glance_api(reader: &Reader<'_>) {
    let choices = [("1", 1), ("2", 2)];
    let version = reader.take("glance_api", |text| value::one_of(text, &choices));
    if version == Some(1) {
        let what = "glance_api = \"1\": version 1 of the image API is gone from OpenStack since 2018; \
                    version 2 is used";
        reader.warning("glance_api", what);
    }
}

fn read_credentials(reader: &Reader<'_>) -> Option<OpenStackCredentials> {
    let username = reader.take_text("username", value::line);
    let password = reader.take_secret("password_base64", value::base64_text);
    let id = reader.take_text("cred_id", value::word);
    let secret = reader.take_secret("cred_secret", value::word);
    if password
        .as_ref()
        .is_some_and(|p| p.reveal().ends_with('\n'))
    {
        let what = "password_base64: the password ends with a new line, which echo without -n adds";
        reader.warning("password_base64", what);
    }
    let given = |name| reader.gives(name);
    if given("cred_id") || given("cred_secret") {
        if given("username") || given("password_base64") {
            let what = "cred_id is given and counts; username and password_base64 are not used";
            reader.warning("cred_id", what);
        }
        require_both(reader, "cred_id", "cred_secret");
        let credentials = OpenStackCredentials::ApplicationCredential {
            id: id?,
            secret: secret?,
        };
        return Some(credentials);
    }
    require_both(reader, "username", "password_base64");
    Some(OpenStackCredentials::Password {
        username: username?,
        password: password?,
    })
}

fn require_both(reader: &Reader<'_>, first: &str, second: &str) {
    for (name, other) in [(first, second), (second, first)] {
        if !reader.gives(name) || reader.is_empty(name) {
            let what = format!("{name} is missing; it is required together with {other}");
            reader.error(name, what, None);
        }
    }
}

fn read_ec2(reader: &Reader<'_>) -> Option<Ec2Options> {
    let service = reader.require("service", value::word);
    let region = reader.require("region", value::word);
    // Of Amazon's own service the address follows from the region.
    let is_amazon = service.as_deref() == Some(AMAZON_SERVICE) && !reader.gives("url");
    let url = match region.as_deref() {
        Some(region) if is_amazon => amazon_url(reader, region),
        Some(_) | None => reader.require("url", value::endpoint_url),
    };
    let access_key = reader.require("access_key", value::word);
    let secret_key = reader.require_secret("secret_key", value::word);
    let version = reader.require("version", value::word);
    let zones = reader.take_list("zones");
    let security_groups = reader.take_list("security_groups");
    let network_uuid = reader.take_text("network_uuid", value::word);
    let spot = reader.take("spot", value::boolean);
    if let (Some(true), Some(version)) = (spot, &version)
        && version.as_str() < SPOT_VERSION
    {
        let what = format!("spot = True needs version {SPOT_VERSION} or later; it is {version}");
        reader.error("spot", what, None);
    }
    Some(Ec2Options {
        url: url?,
        access_key: access_key?,
        secret_key: secret_key?,
        version: version?,
        region: region?,
        service: service?,
        zones,
        security_groups,
        network_uuid,
        spot: spot?,
    })
}

/// The version of the API since which spare capacity is asked for when a machine is made.
const SPOT_VERSION: &str = "2016-11-15";

/// What requests to Amazon's own EC2 are signed for.
const AMAZON_SERVICE: &str = "ec2";

fn amazon_url(reader: &Reader<'_>, region: &str) -> Option<url::Url> {
    let ending = if region.starts_with("cn-") { ".cn" } else { "" };
    let url = value::endpoint_url(&format!("https://ec2.{region}.amazonaws.com{ending}/"));
    if url.is_err() {
        let what = format!("region = \"{region}\": expected the name of a region of Amazon");
        reader.error("region", what, Some("or give the url".to_owned()));
    }
    url.ok()
}

fn read_simulated(reader: &Reader<'_>) -> Option<SimulatedOptions> {
    let machines = reader.take("simulated_machines", value::count);
    let processors = reader.take("simulated_processors", value::count);
    let boot = reader.take("simulated_boot_seconds", value::seconds);
    let job = reader.take("simulated_job_seconds", value::seconds);
    let work = reader.take("simulated_work", simulated_work);
    let cert = reader.take_text("simulated_cert", |text| path(text, None));
    let fault_percent = reader.take("simulated_fault_percent", value::percent);
    let fault_seed = reader.take("simulated_fault_seed", value::count);
    Some(SimulatedOptions {
        machines: machines?,
        processors: processors?,
        boot: boot?,
        job: job?,
        work: work.unwrap_or_default(),
        cert,
        fault_percent: fault_percent?,
        fault_seed: fault_seed.map(u64::from),
    })
}

fn simulated_work(text: &str) -> Parsed<BTreeMap<String, u32>> {
    let pair = |word: &String| {
        let (name, number) = word
            .split_once(':')
            .ok_or_else(|| Bad::new("expected MACHINETYPE:NUMBER pairs"))?;
        MachinetypeName::new(name).map_err(|error| Bad::new(error.to_string()))?;
        Ok((name.to_owned(), value::count(number)?))
    };
    value::list(text)?.iter().map(pair).collect()
}
