//! Old and new names of options, side by side: from the oldest manual page of Vcycle to its release
//! 03.00. Each does the same; a deprecated one is warned of once, with its new name.

use std::collections::BTreeSet;

use vcycle::config::options::{ApiName, OPTIONS, SectionKind};
use vcycle::config::{Config, MachinetypeConfig, Sources, load};

use crate::config_examples::context;

use SectionKind::{Machinetype, Space};

/// How another name of an option is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    AsGood,
    Deprecated,
}

/// Section, the name in our table, another name of the same option, how that is taken, and a value
/// that is not the default.
const NAMES: &[(SectionKind, &str, &str, Is, &str)] = &[
    // 0.x; project_name since 01.00.
    (Space, "tenancy_name", "project_name", Is::AsGood, "atlas"),
    // For a while before 01.00.
    (
        Space,
        "processors_limit",
        "max_processors",
        Is::Deprecated,
        "40",
    ),
    (Space, "flavor_names", "flavor_name", Is::AsGood, "a b"),
    // One flavor in 0.x, several since 01.00.
    (Machinetype, "flavor_names", "flavor_name", Is::AsGood, "c"),
    // 0.6 to 0.8, and for a while before 01.00.
    (
        Machinetype,
        "cpu_per_machine",
        "processors_per_machine",
        Is::AsGood,
        "4",
    ),
    // 0.6 to 01.00, and 03.00.
    (
        Machinetype,
        "x509dn",
        "https_x509dn",
        Is::AsGood,
        "/DC=org/CN=vm",
    ),
    // Up to 0.6.
    (
        Machinetype,
        "log_joboutputs",
        "log_machineoutputs",
        Is::Deprecated,
        "True",
    ),
    (
        Machinetype,
        "joboutputs_days",
        "machineoutputs_days",
        Is::Deprecated,
        "9",
    ),
];

/// Options of different meaning of which the later took the place of the earlier, with the same
/// effect: lines in a machinetype.
const SUCCESSORS: &[(&str, &str)] = &[
    ("cpu_per_machine = 4\n", "min_processors = 4\n"),
    (
        "user_data_proxy_cert = x509cert.pem\nuser_data_proxy_key = x509key.pem\n",
        "user_data_proxy = True\n",
    ),
];

/// A small site with these lines more in its space and its machinetype: what comes out, and what is
/// said but for options that this version only checks.
fn read(space: &str, machinetype: &str) -> (Config, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let has = |names: [&str; 2]| {
        names
            .iter()
            .any(|name| space.contains(&format!("{name} =")))
    };
    let tenancy = if has(["tenancy_name", "project_name"]) {
        ""
    } else {
        "tenancy_name = vcycle\n"
    };
    let flavor = if machinetype.contains("flavor_name") {
        ""
    } else {
        "flavor_names = small\n"
    };
    let text = format!(
        "[space a.org]\napi = openstack\nurl = https://k.org/v3\nusername = u\n\
         password_base64 = aHVudGVyMg==\n{tenancy}{space}\n\
         [machinetype a.org m]\nbackoff_seconds = 1\nfizzle_seconds = 1\nroot_image = image:x\n\
         user_data = u\n{flavor}{machinetype}\n"
    );
    let sources = Sources {
        conf: dir.path().join("vcycle.conf"),
        dir: dir.path().join("vcycle.d"),
    };
    std::fs::write(&sources.conf, &text).unwrap();
    let loaded = load(&sources, &context());
    let said = loaded.problems.iter().map(|problem| problem.what.clone());
    let said = said.filter(|what| !what.contains("without effect in this version"));
    let said = said.collect();
    (
        loaded.config.unwrap_or_else(|| panic!("{text}{said:?}")),
        said,
    )
}

fn lines(section: SectionKind, name: &str, value: &str) -> (String, String) {
    let line = format!("{name} = {value}\n");
    match section {
        Space => (line, String::new()),
        Machinetype => (String::new(), line),
        SectionKind::VacuumPipe | SectionKind::Server => panic!("{section:?} has one name for all"),
    }
}

#[test]
fn every_name_does_the_same() {
    let (without, _) = read("", "");
    for &(section, name, other, is, value) in NAMES {
        let with = |name| {
            let (space, machinetype) = lines(section, name, value);
            read(&space, &machinetype)
        };
        let (config, said) = with(name);
        assert_eq!(said, [""; 0], "{name}");
        assert_ne!(config, without, "{name} = {value} changes nothing");
        let (again, said) = with(other);
        assert_eq!(again, config, "{other}");
        let expected = match is {
            Is::AsGood => Vec::new(),
            Is::Deprecated => vec![format!("{other} is deprecated; its new name is {name}")],
        };
        assert_eq!(said, expected, "{other}");
        // Given both ways, the same is no contradiction, and something else is one.
        let (first, second) = (lines(section, name, value), lines(section, other, value));
        let both = read(&(first.0 + &second.0), &(first.1 + &second.1));
        assert_eq!(both.0, config, "{name} and {other}");
    }
}

#[test]
fn the_list_of_names_is_that_of_the_table() {
    let mut of_table = BTreeSet::new();
    for option in OPTIONS {
        for name in option.aliases {
            of_table.insert((option.section, option.name, *name, false));
        }
        for name in option.deprecated {
            of_table.insert((option.section, option.name, *name, true));
        }
    }
    let of_list = NAMES.iter();
    let of_list: BTreeSet<_> = of_list
        .map(|&(section, name, other, is, _)| (section, name, other, is == Is::Deprecated))
        .collect();
    assert_eq!(of_list, of_table);
}

#[test]
fn what_took_the_place_of_another_option_does_the_same() {
    for (old, new) in SUCCESSORS {
        let one = |lines| {
            let (config, said) = read("", lines);
            assert_eq!(said, [""; 0], "{lines}");
            let space = config.spaces.into_values().next().unwrap();
            let machinetype: MachinetypeConfig = space.machinetypes.into_values().next().unwrap();
            machinetype
        };
        let (old, new) = (one(old), one(new));
        assert_eq!(old.min_processors, new.min_processors);
        assert_eq!(old.user_data_proxy, new.user_data_proxy);
    }
}

/// Every option of the manual pages of Vcycle, by section and API, from the oldest that we know
/// (0.8) to 03.00; those that 03.00 has left out too.
const PAGES: &[(SectionKind, Option<ApiName>, &[&str])] = &[
    (
        Space,
        None,
        &[
            "api",
            "max_machines",
            "max_processors",
            "processors_limit",
            "flavor_names",
            "volume_gb_per_processor",
            "gocdb_sitename",
            "vacmon_hostport",
            "https_host",
            "https_port",
            "shutdown_time",
            "cleanup_hours",
        ],
    ),
    (
        Space,
        Some(ApiName::OpenStack),
        &[
            "url",
            "api_version",
            "tenancy_name",
            "project_name",
            "domain_name",
            "username",
            "password_base64",
            "cred_id",
            "cred_secret",
            "region",
            "zones",
            "security_groups",
            "network_uuid",
            "glance_api",
        ],
    ),
    (
        Space,
        Some(ApiName::Ec2),
        &[
            "url",
            "access_key",
            "secret_key",
            "version",
            "region",
            "service",
            "zones",
            "security_groups",
            "network_uuid",
            "spot",
        ],
    ),
    (
        Machinetype,
        None,
        &[
            "flavor_name",
            "flavor_names",
            "hs06",
            "hs06_per_processor",
            "cpu_per_machine",
            "processors_per_machine",
            "min_processors",
            "max_processors",
            "mb_per_processor",
            "target_share",
            "backoff_seconds",
            "fizzle_seconds",
            "accounting_fqan",
            "max_machines",
            "processors_limit",
            "max_starting_processors",
            "max_wallclock_seconds",
            "heartbeat_file",
            "heartbeat_seconds",
            "cvmfs_proxy_machinetype",
            "x509dn",
            "https_x509dn",
            "log_joboutputs",
            "joboutputs_days",
            "remote_joboutputs_url",
            "remote_joboutputs_cert",
            "remote_joboutputs_key",
            "root_image",
            "cernvm_signing_dn",
            "root_public_key",
            "user_data",
            "user_data_option_x",
            "user_data_file_x",
            "user_data_proxy",
            "user_data_proxy_cert",
            "user_data_proxy_key",
            "legacy_proxy",
        ],
    ),
    (
        SectionKind::VacuumPipe,
        None,
        &["vacuum_pipe_url", "target_share"],
    ),
];

#[test]
fn every_option_of_the_manual_pages_is_known() {
    use vcycle::config::options::find;
    for (section, api, names) in PAGES {
        for name in *names {
            assert!(
                find(*section, *api, name).is_some(),
                "{section:?} {api:?} {name}"
            );
        }
    }
}

/// What Vcycle before 0.6 called machinetypes is an error that says the new word.
#[test]
fn the_oldest_kind_of_section_is_told_its_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("vcycle.conf");
    std::fs::write(&conf, "[space a]\napi = simulated\n[vmtype a m]\n").unwrap();
    let sources = Sources {
        conf,
        dir: dir.path().join("vcycle.d"),
    };
    let problems = load(&sources, &context()).problems;
    let help = problems
        .iter()
        .filter_map(|problem| problem.help.as_deref());
    assert!(
        help.into_iter()
            .any(|help| help == "write [machinetype SPACE NAME]")
    );
}
