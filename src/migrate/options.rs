//! What the options of older versions come to here, beyond what the configuration says of itself:
//! those that mean nothing any more, and those that a later version had stopped to look at.

use crate::config::options::SectionKind::{self, Machinetype, Space};

/// The first version that did not look at an option any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Since {
    V01,
    V03,
}

impl Since {
    /// Whether a version, as `VERSION` has it, is that one or a later one.
    fn holds(self, version: &str) -> bool {
        let major = version.split('.').next();
        let major: u32 = major.and_then(|major| major.parse().ok()).unwrap_or(0);
        major
            >= match self {
                Self::V01 => 1,
                Self::V03 => 3,
            }
    }
}

/// Options that we do not have, and what to do about it.
const GONE: &[(SectionKind, &str, &str)] = &[
    (
        Space,
        "password",
        "was an encoding of versions before 0.8: use password_base64",
    ),
    (
        Space,
        "usercert",
        "is not used, for there is no login with a certificate: use cred_id and cred_secret, or username and password_base64",
    ),
    (
        Space,
        "userkey",
        "is not used, for there is no login with a certificate: use cred_id and cred_secret, or username and password_base64",
    ),
    (
        Space,
        "gocdb_cert_file",
        "was for telling the GOCDB of the space, which is not done since 03: remove it",
    ),
    (
        Space,
        "gocdb_key_file",
        "was for telling the GOCDB of the space, which is not done since 03: remove it",
    ),
    (
        Machinetype,
        "disk_gb_per_processor",
        "is not used: only the plugin for Google's cloud had it; remove it, or see volume_gb_per_processor",
    ),
    (
        Machinetype,
        "machinetype_path",
        "was for vacuum pipes and is not needed: remove it",
    ),
];

/// Options that count here, and that versions since then did not look at.
const BACK: &[(SectionKind, &str, Since)] = &[
    (Space, "max_machines", Since::V01),
    (Machinetype, "max_machines", Since::V01),
    (Machinetype, "hs06", Since::V01),
    (Machinetype, "user_data_proxy_cert", Since::V01),
    (Machinetype, "user_data_proxy_key", Since::V01),
    (Machinetype, "log_joboutputs", Since::V03),
    (Machinetype, "log_machineoutputs", Since::V03),
    (Machinetype, "joboutputs_days", Since::V03),
    (Machinetype, "machineoutputs_days", Since::V03),
    (Machinetype, "remote_joboutputs_url", Since::V03),
    (Machinetype, "remote_joboutputs_cert", Since::V03),
    (Machinetype, "remote_joboutputs_key", Since::V03),
];

/// What is to be said of an option in the configuration of that version, if anything is.
pub fn remark(version: Option<&str>, kind: SectionKind, name: &str) -> Option<String> {
    if let Some((.., what)) = GONE
        .iter()
        .find(|(of, gone, _)| *of == kind && *gone == name)
    {
        return Some((*what).to_owned());
    }
    let (.., since) = BACK
        .iter()
        .find(|(of, back, _)| *of == kind && *back == name)?;
    let version = version.filter(|version| since.holds(version))?;
    Some(format!("counts here; Vcycle {version} did not look at it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::of_section;

    #[test]
    fn what_is_gone_is_no_option_and_what_counts_is_one() {
        let is_known = |kind, name: &str| of_section(Some(kind)).any(|spec| spec.is_called(name));
        for (kind, name, _) in GONE {
            assert!(!is_known(*kind, name), "{name}");
        }
        for (kind, name, _) in BACK {
            assert!(is_known(*kind, name), "{name}");
        }
    }

    /// All that the sources of 0.8 to 03 read, with the plugins for OpenStack and EC2.
    #[test]
    fn every_option_of_the_old_daemon_is_known_or_told_of() {
        let space = "api api_version max_machines max_processors processors_limit flavor_names \
                     shutdown_time gocdb_sitename gocdb_cert_file gocdb_key_file vacmon_hostport \
                     https_host https_port url tenancy_name project_name domain_name network_uuid \
                     username usercert userkey password_base64 cred_id cred_secret region zones \
                     access_key secret_key version service";
        let machinetype = "root_image cernvm_signing_dn flavor_name flavor_names cpu_per_machine \
                           processors_per_machine min_processors max_processors max_machines \
                           disk_gb_per_processor root_public_key processors_limit \
                           max_starting_processors backoff_seconds fizzle_seconds \
                           max_wallclock_seconds x509dn https_x509dn heartbeat_file \
                           heartbeat_seconds cvmfs_proxy_machinetype log_machineoutputs \
                           log_joboutputs machineoutputs_days joboutputs_days \
                           remote_joboutputs_url remote_joboutputs_cert remote_joboutputs_key \
                           accounting_fqan mb_per_processor hs06 hs06_per_processor user_data \
                           target_share user_data_option_a user_data_file_a user_data_proxy \
                           user_data_proxy_cert user_data_proxy_key legacy_proxy machinetype_path";
        for (kind, names) in [(Space, space), (Machinetype, machinetype)] {
            for name in names.split_whitespace() {
                let is_known = of_section(Some(kind)).any(|spec| spec.is_called(name));
                assert!(is_known || remark(None, kind, name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn what_counts_again_is_told_of_the_versions_that_did_not_look_at_it() {
        let told = |version| remark(version, Machinetype, "hs06").is_some();
        assert!(!told(None) && !told(Some("0.8.0")));
        assert!(told(Some("01.00.00")) && told(Some("03.00.00")));
        let told = |version| remark(Some(version), Machinetype, "joboutputs_days").is_some();
        assert!(!told("02.00.00") && told("03.00.00"));
        assert!(remark(None, Space, "usercert").is_some());
        assert!(remark(None, Machinetype, "usercert").is_none());
    }
}
