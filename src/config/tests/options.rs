//! What the options become, and what they default to.

use std::path::Path;

use super::*;
use crate::config::options::{ApiName, OPTIONS, OptionSpec, Preset, SectionKind};
use crate::model::{MachinetypeName, Seconds};

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

#[test]
fn the_table_names_every_option_once() {
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
