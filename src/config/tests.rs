//! Whole configurations, read from text: what comes out, and what is said.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::model::{MachinetypeName, Seconds};

/// A space and a machinetype with nothing but what is required.
pub(super) const SMALL: &str = "\
[space example.org]
api = openstack
url = https://keystone.example.org:5000/v3
tenancy_name = vcycle
username = robot
password_base64 = aHVudGVyMg==

[machinetype example.org atlas]
flavor_name = m1.small
backoff_seconds = 600
fizzle_seconds = 900
root_image = image:cernvm4
user_data = user_data
";

pub(super) fn raw(files: &[(&str, &str)]) -> (Raw, Vec<Problem>) {
    let mut raw = Raw::default();
    let mut problems = Vec::new();
    for (name, text) in files {
        let file: Arc<Path> = Path::new(name).into();
        let (sections, more) = ini::parse(&file, text.as_bytes());
        raw.merge(sections);
        problems.extend(more);
    }
    (raw, problems)
}

pub(super) fn context() -> Context {
    Context {
        hostname: FactoryName::new("factory.example.org").unwrap(),
        state_dir: "/state".into(),
    }
}

fn read(text: &str) -> (Option<Config>, Vec<String>) {
    let (raw, syntax) = raw(&[("/c", text)]);
    assert_eq!(syntax, [], "{text}");
    let (config, problems) = interpret(&raw, &context());
    let usable = !problems.iter().any(Problem::is_error);
    assert_eq!(config.is_some(), usable);
    (
        config,
        problems
            .iter()
            .map(|problem| format!("{problem:#}"))
            .collect(),
    )
}

/// The configuration of a text without any problem.
fn good(text: &str) -> Config {
    let (config, problems) = read(text);
    assert_eq!(problems, [""; 0]);
    config.unwrap()
}

fn the_space(config: &Config) -> &SpaceConfig {
    config.spaces.first_key_value().unwrap().1
}

fn the_machinetype(config: &Config) -> &MachinetypeConfig {
    the_space(config).machinetypes.first_key_value().unwrap().1
}

/// The small configuration with these lines more in its space.
fn with_space(lines: &str) -> String {
    SMALL.replace("\n[mach", &format!("{lines}\n\n[mach"))
}

/// The small configuration with these lines more in its machinetype.
fn with_machinetype(lines: &str) -> String {
    format!("{SMALL}{lines}\n")
}

/// The one problem of a text, without its place.
fn the_problem(text: &str) -> String {
    let (_, problems) = read(text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let (_, what) = problems[0].split_once("] ").unwrap();
    what.to_owned()
}

#[test]
fn what_is_not_given_has_the_default_of_the_manual_page() {
    let config = good(SMALL);
    let space = the_space(&config);
    assert_eq!(space.name.as_str(), "example.org");
    assert_eq!(space.https_host, "factory.example.org");
    assert_eq!(space.https_port, 443);
    assert_eq!(space.grace, Seconds::new(600));
    assert_eq!(space.cleanup, Seconds::new(72 * 3600));
    assert!(space.remove_leaks);
    assert_eq!((space.max_machines, space.processors_limit), (None, None));
    assert_eq!(space.benchmark, Benchmark::Hepspec);
    let Api::OpenStack(openstack) = &space.api else {
        panic!("{:?}", space.api)
    };
    assert_eq!(openstack.domain, "default");
    assert_eq!(openstack.identity_version, None);
    let OpenStackCredentials::Password { username, password } = &openstack.credentials else {
        panic!("{openstack:?}")
    };
    assert_eq!(
        (username.as_str(), password.reveal().as_str()),
        ("robot", "hunter2")
    );

    let machinetype = the_machinetype(&config);
    assert_eq!(machinetype.flavor_names, ["m1.small"]);
    assert_eq!(machinetype.min_processors.get(), 1);
    assert_eq!(machinetype.max_processors, None);
    assert_eq!(machinetype.mb_per_processor, 2048);
    assert_eq!(machinetype.target_share.get(), 0.0);
    assert_eq!(machinetype.backoff, Seconds::new(600));
    assert_eq!(machinetype.fizzle, Seconds::new(900));
    assert_eq!(machinetype.max_wallclock, Seconds::new(86_400));
    assert_eq!(machinetype.heartbeat, Seconds::new(0));
    assert_eq!(machinetype.joboutputs_kept, Seconds::new(259_200));
    assert!(!machinetype.log_joboutputs && !machinetype.legacy_proxy);
    assert_eq!(
        machinetype.root_image,
        ImageSource::Cloud("cernvm4".to_owned())
    );
    let file = "/state/spaces/example.org/machinetypes/atlas/files/user_data";
    assert_eq!(machinetype.user_data, UserDataSource::File(file.into()));
    assert_eq!(machinetype.root_public_key, None);

    assert_eq!(machinetype.flavor_min_processors, None);
    assert_eq!(machinetype.x509dn, None);

    let server = &config.server;
    let listen: Vec<String> = server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:443", "[::]:443"]);
    assert_eq!(server.http_listen, []);
    assert_eq!(server.cert, Path::new("/etc/grid-security/vcycle.cert.pem"));
    assert_eq!(server.key, Path::new("/etc/grid-security/vcycle.key.pem"));
    assert_eq!(server.ca_path, Path::new("/etc/grid-security/certificates"));
    assert_eq!(server.admin_listen, "127.0.0.1:9280".parse().ok());
    assert_eq!(server.joboutputs_max_bytes, 100 << 20);
    assert_eq!(server.joboutputs_max_bytes_per_machine, 1 << 30);
}

#[test]
fn another_program_may_serve_the_machines() {
    let config = good(&format!(
        "{SMALL}[server]\nlisten = None\nhttp_listen = [::1]:80, 1.2.3.4:80\n"
    ));
    assert_eq!(config.server.listen, []);
    let http: Vec<_> = config
        .server
        .http_listen
        .iter()
        .map(|problem| format!("{problem:#}"))
        .collect();
    assert_eq!(http, ["[::1]:80", "1.2.3.4:80"]);
    assert_eq!(
        the_problem(&format!("{SMALL}[server]\nlisten = 443\n")),
        "listen = \"443\": expected ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443\n  \
         help: write 0.0.0.0:443 [::]:443"
    );
    // An address of its own for each space's port is not guessed.
    let two = SMALL
        .replace("example.org", "b")
        .replace("api = ", "https_port = 8443\napi = ");
    assert_eq!(good(&format!("{SMALL}{two}")).server.listen[0].port(), 443);
}

#[test]
fn the_old_image_api_is_a_warning() {
    let (config, problems) = read(&with_space("glance_api = 1"));
    assert!(config.is_some());
    let [warning] = problems.as_slice() else {
        panic!("{problems:?}");
    };
    assert!(
        warning.contains("version 1 of the image API is gone"),
        "{warning}"
    );
    let problem = the_problem(&with_space("glance_api = 3"));
    assert!(
        problem.starts_with("glance_api = \"3\": expected 1 or 2"),
        "{problem}"
    );
}

#[test]
fn every_option_of_a_space() {
    let config = good(&with_space(
        "max_machines = 0\nprocessors_limit = 80\nflavor_names = a, b\n c\ngocdb_sitename = UK-X\n\
         https_host = vcycle.example.org\nhttps_port = 8443\nshutdown_time = 1767225600\n\
         grace_seconds = 60\ncleanup_hours = 0\nremove_leaks = false\nkeep_old_images = True\nglance_api = 2\napi_version = 3.14\ndomain_name = Default\n\
         region = R 1\nzones = z1 z2\nsecurity_groups = a,b\nnetwork_uuid = 1-2",
    ));
    let space = the_space(&config);
    assert_eq!(
        (space.max_machines, space.processors_limit),
        (Some(0), Some(80))
    );
    assert_eq!(space.flavor_names, ["a", "b", "c"]);
    assert_eq!(space.gocdb_sitename.as_deref(), Some("UK-X"));
    assert_eq!(
        (space.https_host.as_str(), space.https_port),
        ("vcycle.example.org", 8443)
    );
    assert_eq!(space.shutdown_time.map(|t| t.unix()), Some(1_767_225_600));
    assert_eq!(
        (space.grace, space.cleanup),
        (Seconds::new(60), Seconds::new(0))
    );
    assert!(!space.remove_leaks && space.keep_old_images);
    assert_eq!(config.server.listen[0].port(), 8443);
    let Api::OpenStack(openstack) = &space.api else {
        panic!("{:?}", space.api)
    };
    assert_eq!(openstack.identity_version, Some(3));
    assert_eq!(openstack.region.as_deref(), Some("R 1"));
    assert_eq!(openstack.zones, ["z1", "z2"]);
    assert_eq!(openstack.security_groups, ["a", "b"]);
    assert_eq!(openstack.network_uuid.as_deref(), Some("1-2"));
}

#[test]
fn every_option_of_a_machinetype_that_has_an_effect() {
    let config = good(&with_machinetype(
        "flavor_names = m1.small\nhs06 = 25.5\nmin_processors = 2\nmax_processors = 8\n\
         mb_per_processor = 3000\ntarget_share = 1e-1\naccounting_fqan = /atlas/Role=NULL\n\
         max_machines = 3\nprocessors_limit = 6\nmax_starting_processors = 2\n\
         max_wallclock_seconds = 3600\nheartbeat_file = vm-heartbeat\nheartbeat_seconds = 600\n\
         root_public_key = /root/.ssh/\nhttps_x509dn = CN=x,DC=org\nuser_data_option_QUEUE = a b\nuser_data_option_empty =\n\
         user_data_file_ca = ca.pem\nuser_data_file_b = /etc/b",
    ));
    let machinetype = the_machinetype(&config);
    assert_eq!(machinetype.hs06.map(|p| p.get()), Some(25.5));
    assert_eq!(machinetype.min_processors.get(), 2);
    assert_eq!(machinetype.flavor_min_processors.map(|p| p.get()), Some(2));
    assert_eq!(machinetype.max_processors.map(|p| p.get()), Some(8));
    assert_eq!(machinetype.mb_per_processor, 3000);
    assert_eq!(machinetype.target_share.get(), 0.1);
    assert_eq!(
        machinetype.accounting_fqan.as_deref(),
        Some("/atlas/Role=NULL")
    );
    assert_eq!(machinetype.max_machines, Some(3));
    assert_eq!(machinetype.processors_limit, Some(6));
    assert_eq!(machinetype.max_starting_processors, Some(2));
    assert_eq!(machinetype.max_wallclock, Seconds::new(3600));
    assert_eq!(machinetype.heartbeat_file.as_deref(), Some("vm-heartbeat"));
    assert_eq!(machinetype.heartbeat, Seconds::new(600));
    let dn = machinetype.x509dn.as_ref().map(ToString::to_string);
    assert_eq!(dn.as_deref(), Some("/DC=org/CN=x"));
    let key = machinetype.root_public_key.as_deref();
    assert_eq!(key, Some(Path::new("/root/.ssh/id_rsa.pub")));
    let options: Vec<_> = machinetype
        .user_data_options
        .iter()
        .map(|(name, text)| (name.as_str(), text.reveal().as_str()))
        .collect();
    assert_eq!(options, [("empty", ""), ("queue", "a b")]);
    assert!(!format!("{machinetype:?}").contains("a b"));
    let files: Vec<_> = machinetype.user_data_files.values().collect();
    let ca = "/state/spaces/example.org/machinetypes/atlas/files/ca.pem";
    assert_eq!(files, [Path::new("/etc/b"), Path::new(ca)]);
}

#[test]
fn who_wants_hepscore23_in_records_is_told_where_it_is_missing() {
    let text = with_machinetype("hs06_per_processor = 10\nhepscore23_per_processor = 11.5");
    let with = |benchmark: &str, text: &str| {
        read(&text.replace("\n[mach", &format!("benchmark = {benchmark}\n\n[mach"))).1
    };
    for benchmark in ["hepspec", "hepscore23"] {
        assert_eq!(with(benchmark, &text), Vec::<String>::new(), "{benchmark}");
    }
    let without = with_machinetype("hs06 = 10");
    assert_eq!(with("hepspec", &without), Vec::<String>::new());
    let problems = with("hepscore23", &without);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("hepscore23_per_processor is not given"),
        "{problems:?}"
    );
    let zero = with_machinetype("hepscore23_per_processor = 0");
    assert!(with("hepscore23", &zero)[0].contains("expected a number above 0"));
}

#[test]
fn what_a_machinetype_can_ask_for_is_read_without_a_word() {
    let text = with_machinetype(
        "log_joboutputs = TRUE\njoboutputs_days = 0.5\nremote_joboutputs_url = https://x/y\n\
         remote_joboutputs_cert = /c\nremote_joboutputs_key = k\nuser_data_proxy = true\n\
         legacy_proxy = True\ncvmfs_proxy_machinetype = atlas\ncernvm_signing_dn = /CN=x$\n\
         hepscore23_per_processor = 11.5\nheartbeat_file = h",
    )
    .replace("image:cernvm4", "https://example.org/cernvm.iso");
    let text = text.replace(
        "\n[mach",
        "vacmon_hostport = vacmon.example.org:8884\n\n[mach",
    );
    let (config, problems) = read(&text);
    assert_eq!(problems, Vec::<String>::new());
    let config = config.unwrap();
    let machinetype = the_machinetype(&config);
    assert!(machinetype.log_joboutputs && machinetype.legacy_proxy);
    assert_eq!(machinetype.joboutputs_kept, Seconds::new(43_200));
    let files = Path::new("/state/spaces/example.org/machinetypes/atlas/files");
    let identity = (Path::new("/c").to_owned(), files.join("k"));
    assert_eq!(machinetype.remote_joboutputs_identity, Some(identity));
    let proxy = (files.join("x509cert.pem"), files.join("x509key.pem"));
    assert_eq!(machinetype.user_data_proxy, Some(proxy));
    let atlas = MachinetypeName::new("atlas").unwrap();
    assert_eq!(machinetype.cvmfs_proxy_machinetype, Some((atlas, 280)));
    let url = url::Url::parse("https://example.org/cernvm.iso").unwrap();
    assert_eq!(machinetype.root_image, ImageSource::Url(url));
    assert_eq!(machinetype.hepscore23_per_processor, Some(11.5));
    assert_eq!(
        the_space(&config).vacmon_hostport,
        ["vacmon.example.org:8884"]
    );
}

#[test]
fn application_credentials() {
    let text = SMALL
        .replace("username = robot\n", "cred_id = 1234\n")
        .replace("password_base64 = aHVudGVyMg==", "cred_secret = hunter2")
        .replace("tenancy_name = vcycle\n", "");
    let config = good(&text);
    let Api::OpenStack(openstack) = &the_space(&config).api else {
        panic!()
    };
    let OpenStackCredentials::ApplicationCredential { id, secret } = &openstack.credentials else {
        panic!("{openstack:?}")
    };
    assert_eq!((id.as_str(), secret.reveal().as_str()), ("1234", "hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(
        the_problem(&text.replace("cred_id = 1234\n", "")),
        "cred_id is missing; it is required together with cred_secret"
    );
}

#[test]
fn ec2_and_simulated_spaces() {
    let text = "[space a]\napi = ec2\nurl = https://ec2/\naccess_key = AK\nsecret_key = hunter2\n\
                [machinetype a m]\nflavor_name = f\nbackoff_seconds = 1\nfizzle_seconds = 1\n\
                root_image = image:ami\nuser_data = /u\n";
    let (config, problems) = read(text);
    if !cfg!(feature = "ec2") {
        assert!(
            config.is_none() && problems[0].contains("cargo feature ec2"),
            "{problems:?}"
        );
        return;
    }
    assert_eq!(problems, [""; 0]);
    let config = config.unwrap();
    let Api::Ec2(ec2) = &the_space(&config).api else {
        panic!()
    };
    assert_eq!(ec2.version, "2010-08-31");
    assert_eq!(
        (ec2.region.as_str(), ec2.service.as_str()),
        ("us-east-1", "openstack")
    );

    for (version, expected) in [("2010-08-31", 1), ("2016-11-15", 0), ("latest", 0)] {
        let more = format!("secret_key = h\nspot = True\nversion = {version}\n");
        let (config, problems) = read(&text.replace("secret_key = hunter2\n", &more));
        assert_eq!(problems.len(), expected, "{problems:?}");
        assert_eq!(config.is_none(), expected == 1);
    }

    let config = good(
        "[space a]\napi = simulated\nsimulated_work = m:3\n\
         [machinetype a m]\nbackoff_seconds = 1\nfizzle_seconds = 1\nuser_data = /u\n",
    );
    assert_eq!(the_machinetype(&config).flavor_names, ["small"]);
    let image = ImageSource::Cloud("cernvm4".to_owned());
    assert_eq!(the_machinetype(&config).root_image, image);
    let Api::Simulated(simulated) = &the_space(&config).api else {
        panic!()
    };
    assert_eq!((simulated.machines, simulated.processors), (20, 40));
    assert_eq!(
        (simulated.boot, simulated.job),
        (Seconds::new(60), Seconds::new(3600))
    );
    assert_eq!(simulated.work.get("m"), Some(&3));
}

#[test]
fn later_files_win_and_sections_merge() {
    let more = "[Space EXAMPLE.org]\nMAX_MACHINES: 7\n[DEFAULT]\nbackoff_seconds = 1\n\
                cleanup_hours = 5\n[machinetype example.org atlas]\nfizzle_seconds = 5\n";
    let (raw, syntax) = raw(&[("/a", SMALL), ("/b", more)]);
    assert_eq!(syntax, []);
    let (config, problems) = interpret(&raw, &context());
    assert_eq!(problems, []);
    let config = config.unwrap();
    assert_eq!(the_space(&config).max_machines, Some(7));
    assert_eq!(the_space(&config).cleanup, Seconds::new(18_000));
    // [DEFAULT] never overrides a section's own option.
    assert_eq!(the_machinetype(&config).backoff, Seconds::new(600));
    assert_eq!(the_machinetype(&config).fizzle, Seconds::new(5));
}

#[test]
fn wrong_values_say_what_to_write() {
    for (line, expected) in [
        (
            "max_wallclock_seconds = 24h",
            "max_wallclock_seconds = \"24h\": expected whole seconds\n  help: write 86400",
        ),
        (
            "max_wallclock_seconds = 1.5 days",
            "max_wallclock_seconds = \"1.5 days\": expected whole seconds\n  help: write 129600",
        ),
        (
            "heartbeat_file = x\nheartbeat_seconds = 600.0",
            "heartbeat_seconds = \"600.0\": expected whole seconds\n  help: write 600",
        ),
        (
            "max_machines = -1",
            "max_machines = \"-1\": expected a whole number",
        ),
        (
            "max_machines = 1,000",
            "max_machines = \"1,000\": expected a whole number\n  help: write 1000",
        ),
        (
            "max_machines = 10 # ten",
            "max_machines = \"10 # ten\": expected a whole number\n  \
             help: write 10; a comment after a value begins with \" ;\"",
        ),
        (
            "max_machines = 99999999999",
            "max_machines = \"99999999999\": expected a whole number, at most 4294967295",
        ),
        (
            "max_machines =",
            "max_machines = \"\": expected a whole number",
        ),
        (
            "max_wallclock_seconds = 0",
            "max_wallclock_seconds = \"0\": expected whole seconds, at least 1",
        ),
        (
            "target_share = 0,5",
            "target_share = \"0,5\": expected a number\n  help: write 0.5",
        ),
        (
            "target_share = nan",
            "target_share = \"nan\": expected a number",
        ),
        (
            "target_share = -1",
            "target_share = \"-1\": expected a number, 0 or above",
        ),
        ("hs06 = 0", "hs06 = \"0\": expected a number above 0"),
        (
            "heartbeat_file = ../x",
            "heartbeat_file = \"../x\": expected the name of one file: letters, digits and \
             \"._+-\", no dot in front",
        ),
        (
            "cpu_per_machine = 0",
            "cpu_per_machine = \"0\": expected a whole number, at least 1",
        ),
        (
            "min_processors = 4\nmax_processors = 2",
            "max_processors = \"2\": is less than min_processors, 4",
        ),
        (
            "user_data_option_a-b = x",
            "user_data_option_a-b: expected letters, digits and \"_\" after user_data_option_",
        ),
        (
            "root_image = image:",
            "root_image = \"image:\": expected the image's ID or name after image:",
        ),
        (
            "user_data = ftp://x/y",
            "user_data = \"ftp://x/y\": expected a URL that begins with https:// or http://",
        ),
        (
            "x509dn = somebody",
            "x509dn = \"somebody\": no distinguished name: has a component without \"=\"\n  \
             help: write it like /DC=org/DC=example/CN=vm.example.org",
        ),
        (
            "remote_joboutputs_url = http://out.example.org/x",
            "remote_joboutputs_url = \"http://out.example.org/x\": expected a URL that begins \
             with https://",
        ),
        (
            "remote_joboutputs_url = https://out.example.org/x?y",
            "remote_joboutputs_url = \"https://hidden@out.example.org/x?hidden\": expected a \
             URL without ? and #, because names are put at its end",
        ),
        (
            "remote_joboutputs_cert = c\nremote_joboutputs_key = k",
            "remote_joboutputs_cert has no effect without remote_joboutputs_url",
        ),
        (
            "cernvm_signing_dn = /CN=(x",
            "cernvm_signing_dn = \"/CN=(x\": expected a regular expression: unclosed group",
        ),
        ("user_data =", "user_data = \"\": is empty; it is required"),
    ] {
        let problem = the_problem(&with_machinetype(line));
        assert_eq!(problem, expected, "{line}");
    }
}

#[test]
fn wrong_values_in_a_space() {
    for (line, expected) in [
        (
            "api_version = v3",
            "api_version = \"v3\": expected 2 or 3, or a version that begins so",
        ),
        (
            "https_port = 0",
            "https_port = \"0\": expected a port from 1 to 65535",
        ),
        (
            "https_host = x.org:443",
            "https_host = \"x.org:443\": expected a host name without scheme and port\n  \
             help: write x.org; the port is an option of its own",
        ),
        (
            "cleanup_hours = 3d",
            "cleanup_hours = \"3d\": expected whole hours\n  help: write 72",
        ),
        (
            "shutdown_time = 2026-01-01",
            "shutdown_time = \"2026-01-01\": expected a Unix time in whole seconds\n  \
             help: write 1767225600, which is 2026-01-01T00:00:00Z",
        ),
        (
            "benchmark = hepspec06",
            "benchmark = \"hepspec06\": expected hepspec or hepscore23\n  help: write hepspec",
        ),
        (
            "gocdb_sitename = UK X",
            "gocdb_sitename = \"UK X\": expected one word, without blanks",
        ),
        (
            "access_key = AK",
            "access_key has no meaning with api = openstack; it is not used",
        ),
        (
            "max_processors = 8",
            "max_processors is deprecated; its new name is processors_limit",
        ),
        (
            "processor_limit = 8",
            "unknown option \"processor_limit\"; did you mean \"processors_limit\"?",
        ),
        ("frobnicate = 8", "unknown option \"frobnicate\""),
        (
            "project_name = other",
            "tenancy_name and project_name are names of one option, with different values here\n  \
             help: keep tenancy_name",
        ),
        (
            "url = https://robot:hunter2@keystone/v3?token=hunter2",
            "url = \"https://hidden@keystone/v3?hidden\": expected a URL without user and \
             password in it",
        ),
    ] {
        assert_eq!(the_problem(&with_space(line)), expected, "{line}");
    }
    let (config, _) = read(&with_space("max_processors = 8"));
    assert_eq!(the_space(&config.unwrap()).processors_limit, Some(8));
}

#[test]
fn what_belongs_together() {
    for (lines, expected) in [
        (
            "hs06 = 1\nhs06_per_processor = 1",
            "hs06 and hs06_per_processor are both given",
        ),
        (
            "remote_joboutputs_cert = c",
            "remote_joboutputs_cert is given without remote_joboutputs_key",
        ),
        (
            "user_data_proxy_key = c",
            "user_data_proxy_key is given without user_data_proxy_cert",
        ),
        (
            "user_data_option_a = c\nuser_data_file_a = /c",
            "user_data_option_a and user_data_file_a both replace",
        ),
        (
            "user_data_proxy = True\nuser_data_file_x509_proxy = /c",
            "the proxy that is made replaces ##user_data_option_x509_proxy##",
        ),
        (
            "cvmfs_proxy_machinetype = atlas",
            "cvmfs_proxy_machinetype: atlas has no heartbeat_file",
        ),
        ("heartbeat_seconds = 5", "heartbeat_seconds has no effect"),
        (
            "log_joboutputs = yes",
            "log_joboutputs = \"yes\": expected True or False\n  help: write True",
        ),
        (
            "cvmfs_proxy_machinetype = atlass",
            "cvmfs_proxy_machinetype: the space has no machinetype atlass\n  help: write atlas",
        ),
    ] {
        let (_, problems) = read(&with_machinetype(lines));
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{lines}: {problems:?}"
        );
    }
}

#[test]
fn what_is_missing_is_said_at_the_section() {
    let (config, problems) = read("[space a]\n\n[machinetype a m]\n");
    assert_eq!(config, None);
    assert_eq!(
        problems,
        [
            "/c:1: [space a] api is missing; it is required",
            "/c:3: [machinetype a m] flavor_name is missing; it is required here or as \
             flavor_names in the space",
            "/c:3: [machinetype a m] backoff_seconds is missing; it is required",
            "/c:3: [machinetype a m] fizzle_seconds is missing; it is required",
            "/c:3: [machinetype a m] root_image is missing; it is required",
            "/c:3: [machinetype a m] user_data is missing; it is required",
        ]
    );
    let (_, problems) = read("[space a]\napi = openstack\n");
    assert_eq!(
        problems,
        [
            "/c:1: [space a] has no machinetype\n  help: add a section [machinetype a NAME]",
            "/c:1: [space a] url is missing; it is required",
            "/c:1: [space a] username is missing; it is required together with password_base64",
            "/c:1: [space a] password_base64 is missing; it is required together with username",
        ]
    );
}

#[test]
fn sections_that_do_not_fit() {
    for (header, expected) in [
        (
            "[spaces x]",
            "unknown kind of section; expected space, machinetype, vacuum_pipe or \
          server\n  help: did you mean [space ...]?",
        ),
        ("[space]", "expected [space NAME]"),
        ("[space a b]", "expected [space NAME]"),
        (
            "[machinetype example.org]",
            "expected [machinetype SPACE NAME]",
        ),
        ("[server x]", "expected [server]"),
        (
            "[space ..]",
            "space name \"..\": must begin with a letter or a digit",
        ),
        (
            "[space a_b]",
            "space name \"a_b\": expected lower-case letters, digits, \".\" and \"-\"",
        ),
    ] {
        assert_eq!(
            the_problem(&format!("{SMALL}{header}\n")),
            expected,
            "{header}"
        );
    }
    let (_, problems) =
        read(&SMALL.replace("[machinetype example.org", "[machinetype example.com"));
    assert_eq!(
        problems,
        [
            "/c:1: [space example.org] has no machinetype\n  \
             help: add a section [machinetype example.org NAME]",
            "/c:8: [machinetype example.com atlas] there is no [space example.com]\n  \
             help: did you mean the space example.org?",
        ]
    );
    let (config, problems) = read("");
    assert_eq!(config, None);
    assert_eq!(
        problems,
        ["there is no space in the configuration\n  help: add a section [space NAME]"]
    );
}

#[test]
fn vacuum_pipes_are_checked() {
    let pipe = "[vacuum_pipe example.org lhcb]\nvacuum_pipe_url = https://x/pipe.json\n\
                target_share = 2\n[machinetype example.org lhcb-a]\nmax_machines = 1\n";
    let config = good(&format!("{SMALL}{pipe}"));
    assert_eq!(the_space(&config).machinetypes.len(), 1);
    let urls: Vec<_> = config.pipes.iter().map(url::Url::as_str).collect();
    assert_eq!(urls, ["https://x/pipe.json"]);
    let bad = pipe
        .replace("share = 2", "share = x")
        .replace("vacuum_pipe_url", "vacuum_pipe_uri");
    let (_, problems) = read(&format!("{SMALL}{bad}"));
    let all = problems.join("\n");
    assert!(all.contains("vacuum_pipe_url is missing"), "{all}");
    assert!(all.contains("did you mean \"vacuum_pipe_url\""), "{all}");
    assert!(
        all.contains("target_share = \"x\": expected a number"),
        "{all}"
    );
}

#[test]
fn options_of_default_count_everywhere_and_disturb_nowhere() {
    let text = format!("[DEFAULT]\nbackoff_seconds = 1\nusername = x\n{SMALL}");
    good(&text);
    let (_, problems) = read(&format!("[DEFAULT]\nbackof_seconds = 1\n{SMALL}"));
    assert_eq!(
        problems,
        [
            "/c:2: warning: [DEFAULT] unknown option \"backof_seconds\"; did you mean \
          \"backoff_seconds\"?"
        ]
    );
}

/// Invariant 3.
#[test]
fn secrets_are_shown_nowhere() {
    let text = SMALL
        .replace("aHVudGVyMg==", "aHVudG!VyMg\n aHVudGVyMg\naHVudGVyMg==")
        .replace(
            "user_data = user_data",
            "user_data = https://u:hunter2@x/y?t=hunter2",
        );
    let text = format!(
        "{text}user_data_option_key = hunter2\npasword_base64 = aHVudGVyMg==\n\
         [space b]\napi = ec2\nsecret_key = hunter2 hunter2\ncred_secret = hunter2\n\
         [spce c]\npassword_base64 = aHVudGVyMg==\n[DEFAULT]\nsecret_key = hunter2\n"
    );
    let (raw, mut problems) = raw(&[("/c", &text)]);
    problems.extend(interpret(&raw, &context()).1);
    let mut all: String = problems.iter().map(ToString::to_string).collect();
    assert!(all.contains("password_base64: cannot be decoded"), "{all}");
    assert!(all.contains("unknown option right after a secret"), "{all}");
    all.push_str(&raw.to_ini());
    all.push_str(&raw.to_json().to_string());
    let all = all.to_lowercase();
    assert!(!all.contains("hunter2") && !all.contains("ahvud"), "{all}");
    assert!(all.contains("password_base64 = [hidden]"), "{all}");
}

#[test]
fn a_printed_configuration_reads_the_same() {
    let text = with_machinetype("user_data_file_x = /a;b\nmax_machines = 5")
        .replace("m1.small", "\n  a\n  b")
        .replace(
            "[space",
            "[DEFAULT]\ncleanup_hours = 9\nbackoff_seconds = 3\n[space",
        );
    let (first, _) = raw(&[("/c", &text)]);
    let printed = first.to_ini();
    let (second, syntax) = raw(&[("/c", &printed)]);
    assert_eq!(syntax, []);
    assert_eq!(second.to_ini(), printed);
    let (config, problems) = interpret(&second, &context());
    assert_eq!(config, None);
    let [problem] = problems.as_slice() else {
        panic!("{problems:?}")
    };
    assert!(
        problem.what.starts_with("password_base64: was hidden"),
        "{problem}"
    );

    let snapshot = first.to_json();
    assert_eq!(
        snapshot["machinetype example.org atlas"]["max_machines"],
        json!({"value": "5", "file": "/c", "line": 20})
    );
    assert_eq!(
        snapshot["space example.org"]["cleanup_hours"],
        json!({"value": "9", "file": "/c", "line": 2, "default": true})
    );
    let third = Raw::from_json(&snapshot).unwrap();
    let (config, problems) = interpret(&third, &context());
    assert_eq!(problems, []);
    let config = config.unwrap();
    assert_eq!(the_machinetype(&config).flavor_names, ["a", "b"]);
    assert_eq!(the_space(&config).cleanup, Seconds::new(9 * 3600));
    assert_eq!(third.to_json(), snapshot);
}

/// An option of machinetypes means nothing in `[server]`, and is hidden there as any unknown one.
#[test]
fn a_snapshot_keeps_the_defaults_when_there_is_a_server() {
    let text = format!("[DEFAULT]\nmax_wallclock_seconds = 7\n[server]\nlisten = none\n{SMALL}");
    let (first, _) = raw(&[("/a", &text)]);
    let second = Raw::from_json(&first.to_json()).unwrap();
    assert_eq!(
        interpret(&second, &context())
            .0
            .map(|config| the_machinetype(&config).max_wallclock),
        Some(Seconds::new(7))
    );
}

#[test]
fn a_snapshot_written_by_hand() {
    let json = json!({
        "Space x": {"api": "simulated", "max_machines": 10},
        "machinetype x a": {"backoff_seconds": "5", "fizzle_seconds": 6, "target_share": 0.5,
                            "user_data": "/u", "legacy_proxy": false},
        "space y": {"api": "simulated"},
        "machinetype y a": {"backoff_seconds": 5, "fizzle_seconds": 6, "user_data": "/u"},
    });
    let raw = Raw::from_json(&json).unwrap();
    let (config, problems) = interpret(&raw, &context());
    assert!(
        problems.iter().all(|problem| !problem.is_error()),
        "{problems:?}"
    );
    assert_eq!(config.unwrap().spaces.len(), 2);
    let only = raw.only_space(&SpaceName::new("x").unwrap());
    let (config, _) = interpret(&only, &context());
    let config = config.unwrap();
    assert_eq!(config.spaces.len(), 1);
    assert_eq!(the_space(&config).max_machines, Some(10));
    for bad in [
        json!([]),
        json!({"space x": 1}),
        json!({"space x": {"api": null}}),
        json!({"space x": {"api": ["a"]}}),
        json!({"space x": {"api": {"file": "x"}}}),
    ] {
        assert!(Raw::from_json(&bad).is_err(), "{bad}");
    }
}

#[test]
fn the_table_names_every_option_once() {
    use super::options::{ApiName, OPTIONS, OptionSpec, Preset, SectionKind};
    for kind in SectionKind::ALL {
        for api in ApiName::ALL {
            let here = OPTIONS
                .iter()
                .filter(|o| o.section == kind && o.is_for(Some(api)));
            let mut names: Vec<_> = here.flat_map(OptionSpec::names).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{kind:?} {api:?}");
        }
    }
    for option in OPTIONS {
        assert!(!option.meaning.is_empty() && !option.value.is_empty());
        assert_ne!(option.preset, Preset::Text(""), "{}", option.name);
    }
}

proptest::proptest! {
    /// Invariant 2: text that looks like a configuration never makes it panic, and an error is
    /// never lost.
    #[test]
    fn any_configuration_is_judged(
        lines in proptest::collection::vec("(\\[(space|machinetype|server|vacuum_pipe)( [a-z.-]{0,3}){0,3}\\]|\
            (api|url|hs06|root_image|user_data|user_data_option_|flavor_name|backoff_seconds|cred_id|listen)\
            [=:]( ?[ -~]{0,12}| simulated| [0-9]{1,25}| image:x| https?://.{0,8}))", 0..12),
    ) {
        let (raw, _) = raw(&[("/c", &lines.join("\n"))]);
        let (config, problems) = interpret(&raw, &context());
        proptest::prop_assert_eq!(config.is_none(), problems.iter().any(Problem::is_error));
        let _: String = raw.to_ini();
        proptest::prop_assert!(Raw::from_json(&raw.to_json()).is_ok());
    }
}
