//! What is said of a configuration that is wrong, or may be meant otherwise.

use super::*;

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
