//! The examples can be used as they are.

use std::path::{Path, PathBuf};

use vcycle::config::pipe::{Known, Pipe};
use vcycle::config::{Api, Config, Context, Sources, load, load_with};
use vcycle::model::{FactoryName, Timestamp};

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn context() -> Context {
    Context {
        hostname: FactoryName::new("factory.example.org").unwrap(),
        state_dir: "/var/lib/vcycle".into(),
    }
}

/// Loads examples under the names that they are installed with.
fn installed(conf: Option<&str>, dir: &[&str]) -> Config {
    let root = tempfile::tempdir().unwrap();
    let sources = Sources {
        conf: root.path().join("vcycle.conf"),
        dir: root.path().join("vcycle.d"),
    };
    std::fs::create_dir(&sources.dir).unwrap();
    if let Some(conf) = conf {
        std::fs::copy(package(conf), &sources.conf).unwrap();
    }
    for name in dir {
        let example = package(&format!("vcycle.d/{name}.example"));
        std::fs::copy(example, sources.dir.join(name)).unwrap();
    }
    let loaded = load(&sources, &context());
    assert_eq!(loaded.problems, []);
    loaded.config.unwrap()
}

/// The text with all its commented-out options put to use.
fn uncommented(text: &str) -> String {
    let option = |line: &str| {
        let name = line.strip_prefix('#')?.split_once(" = ")?.0;
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            .then(|| line[1..].to_owned())
    };
    let lines = text.lines();
    let lines = lines.map(|line| option(line).unwrap_or_else(|| line.to_owned()));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_small_site() {
    let config = installed(Some("conf/vcycle.conf.example"), &[]);
    let (name, space) = config.spaces.first_key_value().unwrap();
    assert_eq!(name.as_str(), "cloud.example.org");
    assert!(matches!(space.api, Api::OpenStack(_)));
    assert_eq!(space.machinetypes.len(), 1);
}

#[test]
fn what_the_small_site_has_in_comments() {
    let text = std::fs::read_to_string(package("conf/vcycle.conf.example")).unwrap();
    let all = uncommented(&text);
    assert!(all.contains("\nheartbeat_file = "), "{all}");
    let root = tempfile::tempdir().unwrap();
    let sources = Sources {
        conf: root.path().join("vcycle.conf"),
        dir: root.path().join("vcycle.d"),
    };
    std::fs::write(&sources.conf, all).unwrap();
    assert_eq!(load(&sources, &context()).problems, []);
}

#[test]
fn the_site_with_several_machinetypes() {
    let dir = ["10-space.conf", "20-machinetypes.conf", "30-shares.conf"];
    let config = installed(None, &dir);
    let space = config.spaces.first_key_value().unwrap().1;
    let shares: Vec<_> = space
        .machinetypes
        .values()
        .map(|machinetype| machinetype.target_share.get())
        .collect();
    assert_eq!(shares, [3.0, 1.0]);
}

#[test]
fn the_simulated_site() {
    let config = installed(Some("conf/simulated.conf.example"), &[]);
    let space = config.spaces.first_key_value().unwrap().1;
    assert!(matches!(space.api, Api::Simulated(_)));
}

#[test]
#[cfg(feature = "ec2")]
fn the_ec2_site() {
    let config = installed(Some("conf/ec2.conf.example"), &[]);
    let space = config.spaces.first_key_value().unwrap().1;
    assert!(matches!(space.api, Api::Ec2(_)));
}

/// A build without EC2 says so at the line, and nothing else about the rest.
#[test]
#[cfg(not(feature = "ec2"))]
fn the_ec2_site_in_a_build_without_it() {
    let root = tempfile::tempdir().unwrap();
    let sources = Sources {
        conf: package("conf/ec2.conf.example"),
        dir: root.path().to_owned(),
    };
    let loaded = load(&sources, &context());
    assert!(loaded.config.is_none());
    let [problem] = loaded.problems.as_slice() else {
        panic!("{:?}", loaded.problems);
    };
    let said = problem.to_string();
    assert!(
        said.contains("not part of this build of vcycled") && said.contains("cargo feature ec2"),
        "{said}"
    );
}

/// The site's part alone, and with a pipe.
#[test]
fn the_site_with_a_vacuum_pipe() {
    let config = installed(Some("conf/vacuum-pipe.conf.example"), &[]);
    let shares = |config: &Config| {
        let space = config.spaces.first_key_value().unwrap().1;
        let machinetypes = space.machinetypes.values();
        let shares = machinetypes.map(|m| format!("{} {}", m.name, m.target_share));
        shares.collect::<Vec<_>>()
    };
    assert_eq!(shares(&config), ["local 1"]);
    let document = r#"{"machinetypes": [
        {"suffix": "prod", "target_share": 2, "backoff_seconds": 600, "fizzle_seconds": 600,
         "root_image": "image:cernvm4", "user_data": "https://repo.example.org/user_data",
         "heartbeat_file": "vm-heartbeat", "heartbeat_seconds": 600},
        {"suffix": "test", "target_share": 1, "backoff_seconds": 60, "fizzle_seconds": 60,
         "root_image": "image:cernvm4", "user_data": "user_data"}]}"#;
    let known = Known {
        fetched: Timestamp::from_unix(1),
        pipe: Pipe::parse(document.as_bytes()).unwrap(),
    };
    let url = config.pipes.first().unwrap().clone();
    let pipes = [(url, known)].into_iter().collect();
    let text = std::fs::read_to_string(package("conf/vacuum-pipe.conf.example")).unwrap();
    let uncommented = uncommented(&text).replace("#[machinetype", "[machinetype");
    let root = tempfile::tempdir().unwrap();
    for (text, expected) in [
        (text, ["lhcb-prod 2", "lhcb-test 1", "local 1"]),
        (uncommented, ["lhcb-prod 2", "lhcb-test 0.1", "local 1"]),
    ] {
        let sources = Sources {
            conf: root.path().join("vcycle.conf"),
            dir: root.path().join("vcycle.d"),
        };
        std::fs::write(&sources.conf, text).unwrap();
        let loaded = load_with(&sources, &context(), &pipes);
        assert_eq!(loaded.problems, []);
        assert_eq!(shares(&loaded.config.unwrap()), expected);
    }
}

#[test]
fn every_example_is_tested() {
    let mut names = Vec::new();
    for dir in ["conf", "vcycle.d"] {
        for entry in std::fs::read_dir(package(dir)).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    names.sort();
    assert_eq!(
        names,
        [
            "10-space.conf.example",
            "20-machinetypes.conf.example",
            "30-shares.conf.example",
            "ec2.conf.example",
            "simulated.conf.example",
            // Run by daemon::user_data_example.
            "user_data.example",
            "vacuum-pipe.conf.example",
            "vcycle.conf.example",
        ]
    );
}
