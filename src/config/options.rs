//! The one table of all options. It says which there are, where they belong, what they are called,
//! and what counts when they are not given. Reading looks every name and default up here; a test
//! holds the table against the manual page.

use super::raw::HIDDEN;

/// The kinds of sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionKind {
    /// `[space NAME]`
    Space,
    /// `[machinetype SPACE NAME]`
    Machinetype,
    /// `[vacuum_pipe SPACE PREFIX]`, which takes the options of a machinetype as well.
    VacuumPipe,
    /// `[server]`
    Server,
}

impl SectionKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Space,
        Self::Machinetype,
        Self::VacuumPipe,
        Self::Server,
    ];

    /// The first word of the header.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Machinetype => "machinetype",
            Self::VacuumPipe => "vacuum_pipe",
            Self::Server => "server",
        }
    }

    /// The kind that a header speaks of.
    pub fn of_header(header: &str) -> Option<Self> {
        let word = header.split(' ').next()?;
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// The values of `api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiName {
    /// `openstack`
    OpenStack,
    /// `ec2`
    Ec2,
    /// `simulated`
    Simulated,
}

impl ApiName {
    /// All values.
    pub const ALL: [Self; 3] = [Self::OpenStack, Self::Ec2, Self::Simulated];

    /// The value as it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::OpenStack => "openstack",
            Self::Ec2 => "ec2",
            Self::Simulated => "simulated",
        }
    }
}

/// How an option's value is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// As it is.
    Plain,
    /// Without what may be a password or token in it.
    Url,
    /// Never.
    Secret,
}

/// What counts when an option is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Nothing: the option is required.
    Required,
    /// Nothing: what the option asks for is not done.
    Off,
    /// This text, read as if it stood in the file.
    Text(&'static str),
    /// What the rest of the configuration or the host tells.
    Told,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// The kind of section that it belongs to.
    pub section: SectionKind,
    /// Its name. A name that ends in `XXX` stands for all that begin like it.
    pub name: &'static str,
    /// The word for its type in the manual page.
    pub value: &'static str,
    /// What counts without it.
    pub preset: Preset,
    /// Other names that are as good.
    pub aliases: &'static [&'static str],
    /// Other names that are not to be used any more.
    pub deprecated: &'static [&'static str],
    /// The APIs that it belongs to; none means all.
    pub apis: &'static [ApiName],
    /// What it means, in a few words.
    pub meaning: &'static str,
    shown: Shown,
}

impl OptionSpec {
    /// Whether `name` is one of the names of this option.
    pub fn is_called(&self, name: &str) -> bool {
        match self.name.strip_suffix("XXX") {
            Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
            None => self.names().any(|own| own == name),
        }
    }

    /// All names, the proper one first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let others = self.aliases.iter().chain(self.deprecated).copied();
        std::iter::once(self.name).chain(others)
    }

    /// Whether it means something in a space of this API; `None` is an API that is not known.
    pub fn is_for(&self, api: Option<ApiName>) -> bool {
        self.apis.is_empty() || api.is_none_or(|api| self.apis.contains(&api))
    }

    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn deprecated(mut self, deprecated: &'static [&'static str]) -> Self {
        self.deprecated = deprecated;
        self
    }

    const fn apis(mut self, apis: &'static [ApiName]) -> Self {
        self.apis = apis;
        self
    }

    const fn secret(mut self) -> Self {
        self.shown = Shown::Secret;
        self
    }

    const fn url(mut self) -> Self {
        self.shown = Shown::Url;
        self
    }
}

const fn option(
    section: SectionKind,
    name: &'static str,
    value: &'static str,
    preset: Preset,
    meaning: &'static str,
) -> OptionSpec {
    OptionSpec {
        section,
        name,
        value,
        preset,
        meaning,
        aliases: &[],
        deprecated: &[],
        apis: &[],
        shown: Shown::Plain,
    }
}

use ApiName::{Ec2, OpenStack, Simulated};
use Preset::{Off, Required, Text, Told};
use SectionKind::{Machinetype, Server, Space, VacuumPipe};

/// All options.
#[rustfmt::skip]
pub const OPTIONS: &[OptionSpec] = &[
    option(Space, "api", "word", Required, "the API that the cloud speaks"),
    option(Space, "max_machines", "number", Off, "limit in machines of any state, whoever made them"),
    option(Space, "processors_limit", "number", Off, "the same limit in processors")
        .deprecated(&["max_processors"]),
    option(Space, "flavor_names", "list", Off, "flavors for machinetypes that name none")
        .aliases(&["flavor_name"]),
    option(Space, "volume_gb_per_processor", "number", Text("0"), "size of the boot volume"),
    option(Space, "gocdb_sitename", "word", Off, "site name in accounting records"),
    option(Space, "benchmark", "word", Text("hepspec"), "what power is measured in in those records"),
    option(Space, "vacmon_hostport", "list", Off, "receivers of VacMon messages"),
    option(Space, "https_host", "word", Told, "host in the URLs that VMs are given"),
    option(Space, "https_port", "number", Text("443"), "port in those URLs"),
    option(Space, "shutdown_time", "number", Off, "Unix time after which nothing runs"),
    option(Space, "grace_seconds", "number", Text("600"), "notice of an earlier end"),
    option(Space, "cleanup_hours", "number", Text("72"), "how long files of finished machines stay"),
    option(Space, "remove_leaks", "boolean", Text("True"), "remove what we made and nothing uses"),
    option(Space, "keep_old_images", "boolean", Text("False"), "keep uploaded images that are superseded"),

    option(Space, "url", "URL", Required, "the cloud's endpoint").apis(&[OpenStack, Ec2]).url(),
    option(Space, "api_version", "word", Told, "version of the identity API").apis(&[OpenStack]),
    option(Space, "tenancy_name", "text", Off, "the tenancy or project")
        .apis(&[OpenStack]).aliases(&["project_name"]),
    option(Space, "domain_name", "text", Text("default"), "domain of user and project").apis(&[OpenStack]),
    option(Space, "username", "text", Off, "the user").apis(&[OpenStack]),
    option(Space, "password_base64", "secret", Off, "the user's password, encoded")
        .apis(&[OpenStack]).secret(),
    option(Space, "cred_id", "word", Off, "identifier of an application credential").apis(&[OpenStack]),
    option(Space, "cred_secret", "secret", Off, "its secret").apis(&[OpenStack]).secret(),
    option(Space, "region", "text", Off, "region in the service catalog").apis(&[OpenStack]),
    option(Space, "zones", "list", Off, "availability zones to try in turn").apis(&[OpenStack, Ec2]),
    option(Space, "security_groups", "list", Off, "security groups of the VMs").apis(&[OpenStack, Ec2]),
    option(Space, "network_uuid", "word", Off, "network of the VMs").apis(&[OpenStack, Ec2]),
    option(Space, "glance_api", "number", Text("2"), "version of the image API").apis(&[OpenStack]),

    option(Space, "access_key", "word", Required, "identifier of the key").apis(&[Ec2]),
    option(Space, "secret_key", "secret", Required, "the key").apis(&[Ec2]).secret(),
    option(Space, "version", "word", Text("2010-08-31"), "version of the EC2 API").apis(&[Ec2]),
    option(Space, "region", "word", Text("us-east-1"), "region to sign for").apis(&[Ec2]),
    option(Space, "service", "word", Text("openstack"), "service to sign for").apis(&[Ec2]),
    option(Space, "spot", "boolean", Text("False"), "ask for spare capacity, which can be taken back").apis(&[Ec2]),

    option(Space, "simulated_machines", "number", Text("20"), "quota in machines").apis(&[Simulated]),
    option(Space, "simulated_processors", "number", Text("40"), "quota in processors").apis(&[Simulated]),
    option(Space, "simulated_boot_seconds", "number", Text("60"), "from request to running").apis(&[Simulated]),
    option(Space, "simulated_job_seconds", "number", Text("3600"), "how long a VM works").apis(&[Simulated]),
    option(Space, "simulated_work", "list", Off, "who finds how much work").apis(&[Simulated]),
    option(Space, "simulated_cert", "file", Off, "certificate and key of the VMs").apis(&[Simulated]),
    option(Space, "simulated_fault_percent", "number", Text("0"), "how much goes wrong").apis(&[Simulated]),
    option(Space, "simulated_fault_seed", "number", Off, "what faults are drawn from").apis(&[Simulated]),

    option(Machinetype, "flavor_names", "list", Told, "flavors to try in turn").aliases(&["flavor_name"]),
    option(Machinetype, "hs06", "decimal", Off, "power of the whole VM"),
    option(Machinetype, "hs06_per_processor", "decimal", Off, "power of one processor"),
    option(Machinetype, "hepscore23_per_processor", "decimal", Off, "the same in HEPscore23"),
    option(Machinetype, "cpu_per_machine", "number", Text("1"), "processors of a VM where the cloud does not tell")
        .aliases(&["processors_per_machine"]),
    option(Machinetype, "min_processors", "number", Off, "least processors of a flavor"),
    option(Machinetype, "max_processors", "number", Off, "most processors of a flavor"),
    option(Machinetype, "mb_per_processor", "number", Text("2048"), "memory where the flavor tells none"),
    option(Machinetype, "target_share", "decimal", Text("0"), "desired share of the space"),
    option(Machinetype, "backoff_seconds", "number", Required, "pause after an abort"),
    option(Machinetype, "fizzle_seconds", "number", Required, "a shorter life is an abort"),
    option(Machinetype, "accounting_fqan", "word", Off, "FQAN in accounting records"),
    option(Machinetype, "max_machines", "number", Off, "limit in machines of any state"),
    option(Machinetype, "processors_limit", "number", Off, "the same limit in processors"),
    option(Machinetype, "max_starting_processors", "number", Off, "most processors starting at once"),
    option(Machinetype, "max_wallclock_seconds", "number", Text("86400"), "longest life of a VM"),
    option(Machinetype, "heartbeat_file", "file name", Off, "file that a living VM writes"),
    option(Machinetype, "heartbeat_seconds", "number", Text("0"), "how often it writes it"),
    option(Machinetype, "x509dn", "DN", Off, "who may write for the VM").aliases(&["https_x509dn"]),
    option(Machinetype, "log_joboutputs", "boolean", Text("False"), "keep what VMs wrote")
        .deprecated(&["log_machineoutputs"]),
    option(Machinetype, "joboutputs_days", "decimal", Text("3"), "how long it is kept")
        .deprecated(&["machineoutputs_days"]),
    option(Machinetype, "remote_joboutputs_url", "URL", Off, "where VMs write instead").url(),
    option(Machinetype, "remote_joboutputs_cert", "file", Off, "certificate to read that with"),
    option(Machinetype, "remote_joboutputs_key", "file", Off, "its key"),
    option(Machinetype, "root_image", "image", Required, "what VMs boot from").url(),
    option(Machinetype, "cernvm_signing_dn", "pattern", Off, "who must have signed the image"),
    option(Machinetype, "root_public_key", "file", Told, "SSH key for root"),
    option(Machinetype, "user_data", "file or URL", Required, "the contextualization").url(),
    option(Machinetype, "user_data_option_XXX", "text", Off, "text for a pattern in it").secret(),
    option(Machinetype, "user_data_file_XXX", "file", Off, "file for a pattern in it"),
    option(Machinetype, "user_data_proxy", "boolean", Text("False"), "proxy from the usual files"),
    option(Machinetype, "user_data_proxy_cert", "file", Off, "certificate to make a proxy from"),
    option(Machinetype, "user_data_proxy_key", "file", Off, "its key"),
    option(Machinetype, "legacy_proxy", "boolean", Text("False"), "make a Globus legacy proxy"),
    option(Machinetype, "cvmfs_proxy_machinetype", "NAME:PORT", Off, "machinetype whose VMs are proxies"),

    option(VacuumPipe, "vacuum_pipe_url", "URL", Required, "where the machinetypes are told").url(),

    option(Server, "listen", "list", Told, "addresses of the HTTPS server"),
    option(Server, "http_listen", "list", Off, "addresses for plain HTTP"),
    option(Server, "cert", "file", Text("/etc/grid-security/vcycle.cert.pem"), "the host certificate"),
    option(Server, "key", "file", Text("/etc/grid-security/vcycle.key.pem"), "its key"),
    option(Server, "ca_path", "file", Text("/etc/grid-security/certificates"), "trusted CAs and CRLs"),
    option(Server, "admin_listen", "address", Text("127.0.0.1:9280"), "the admin endpoint"),
    option(Server, "joboutputs_max_bytes", "number", Text("104857600"), "largest file from a VM"),
    option(Server, "joboutputs_max_bytes_per_machine", "number", Text("1073741824"), "all files of a VM"),
];

/// The options that may stand in a section of this kind; `None` is a section of any kind.
pub fn of_section(kind: Option<SectionKind>) -> impl Iterator<Item = &'static OptionSpec> {
    OPTIONS.iter().filter(move |spec| {
        kind.is_none_or(|kind| {
            spec.section == kind || (kind == VacuumPipe && spec.section == Machinetype)
        })
    })
}

/// The option of that name that counts in a section of this kind in a space of this API.
pub fn find(kind: SectionKind, api: Option<ApiName>, name: &str) -> Option<&'static OptionSpec> {
    of_section(Some(kind)).find(|spec| spec.is_for(api) && spec.is_called(name))
}

/// Whether some section of this kind has an option of that name.
pub(super) fn is_known(kind: Option<SectionKind>, name: &str) -> bool {
    of_section(kind).any(|spec| spec.is_called(name))
}

/// Whether the value of an option of that name is a secret in some section.
pub(super) fn is_secret(name: &str) -> bool {
    OPTIONS
        .iter()
        .any(|spec| spec.shown == Shown::Secret && spec.is_called(name))
}

/// The value as people may see it. The value of an option that is not known is not shown: its name
/// may be a misspelled `password_base64`.
pub(super) fn shown_value(kind: Option<SectionKind>, name: &str, text: &str) -> String {
    let shown = of_section(kind)
        .find(|spec| spec.is_called(name))
        .map_or(Shown::Secret, |spec| spec.shown);
    match shown {
        Shown::Plain => text.to_owned(),
        Shown::Url => shown_url(text),
        Shown::Secret => HIDDEN.to_owned(),
    }
}

/// A URL without user, password and query; any other text that has no `://` as it is.
fn shown_url(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    let Ok(mut url) = url::Url::parse(text) else {
        return HIDDEN.to_owned();
    };
    if url.username().is_empty() && url.password().is_none() && url.query().is_none() {
        return text.to_owned();
    }
    // A URL that cannot have a user has none to hide.
    if url.set_password(None).is_err() || url.set_username("hidden").is_err() {
        return HIDDEN.to_owned();
    }
    if url.query().is_some() {
        url.set_query(Some("hidden"));
    }
    url.into()
}
