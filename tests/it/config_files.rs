//! Files on disk: which ones are read, in which order, and what is said of those that cannot be;
//! and `check`, which shows it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vcycle::cli::check::{self, CheckFormat};
use vcycle::config::{Loaded, Sources, load};

use crate::config_examples::context;

const SITE: &str = "\
[space a]
api = simulated
[machinetype a m]
user_data = /u
backoff_seconds = 1
fizzle_seconds = 1
";

struct Site {
    root: tempfile::TempDir,
    sources: Sources,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let sources = Sources {
            conf: root.path().join("vcycle.conf"),
            dir: root.path().join("vcycle.d"),
        };
        Self { root, sources }
    }

    fn with_dir() -> Self {
        let site = Self::new();
        std::fs::create_dir(&site.sources.dir).unwrap();
        site
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.root.path().join(name), text).unwrap();
        self
    }

    fn load(&self) -> Loaded {
        load(&self.sources, &context())
    }

    /// All problems, with the site's directory cut out.
    fn problems(&self) -> Vec<String> {
        let root = format!("{}/", self.root.path().display());
        let problems = self.load().problems;
        let all = problems.iter().map(|problem| format!("{problem:#}"));
        all.map(|problem| problem.replace(&root, "")).collect()
    }
}

fn max_machines(site: &Site) -> Option<u32> {
    let loaded = site.load();
    assert_eq!(loaded.problems, []);
    let config = loaded.config.unwrap();
    config.spaces.first_key_value().unwrap().1.max_machines
}

#[test]
fn either_place_is_enough_and_the_file_comes_last() {
    let site = Site::new();
    assert_eq!(
        site.problems(),
        ["there is no configuration: neither vcycle.conf nor vcycle.d exists"]
    );
    assert_eq!(max_machines(site.write("vcycle.conf", SITE)), None);

    let site = Site::with_dir();
    let limit = |n: u32| format!("[space a]\nmax_machines = {n}\n");
    site.write("vcycle.d/site.conf", SITE);
    assert_eq!(max_machines(&site), None);
    assert_eq!(
        max_machines(site.write("vcycle.d/9.conf", limit(9))),
        Some(9)
    );
    assert_eq!(
        max_machines(site.write("vcycle.d/10.conf", limit(10))),
        Some(9)
    );
    assert_eq!(max_machines(site.write("vcycle.conf", limit(3))), Some(3));
    // None of these is a configuration file.
    site.write("vcycle.d/x.conf.rpmsave", "x");
    site.write("vcycle.d/.#x.conf", "x");
    site.write("vcycle.d/README", "x");
    assert_eq!(max_machines(&site), Some(3));
}

#[test]
fn a_section_ends_with_its_file() {
    let site = Site::with_dir();
    site.write("vcycle.d/1.conf", SITE);
    site.write("vcycle.d/2.conf", "max_machines = 1\n[space a]\n");
    assert_eq!(
        site.problems(),
        ["vcycle.d/2.conf:1: stands before the first [SECTION] of the file"]
    );
}

#[test]
fn files_that_cannot_be_read_are_errors() {
    let site = Site::with_dir();
    site.write("vcycle.conf", SITE);
    std::fs::create_dir(site.sources.dir.join("a.conf")).unwrap();
    std::os::unix::fs::symlink("nowhere", site.sources.dir.join("b.conf")).unwrap();
    site.write("vcycle.d/c.conf", vec![b'#'; 5 << 20]);
    site.write("vcycle.d/d.conf", b"\x7fELF\0\0\0");
    site.write("vcycle.d/e.conf", b"[space a]\nhttps_host = \xff\n");
    site.write(
        "vcycle.d/f.conf",
        [b"[space a]\nhttps_host=\xff\n".as_slice(), SITE.as_bytes()].concat(),
    );
    let loaded = site.load();
    assert_eq!(loaded.config, None);
    assert_eq!(
        site.problems(),
        [
            "vcycle.d/a.conf: cannot be read: is a directory",
            "vcycle.d/b.conf: is a symbolic link to a file that does not exist",
            "vcycle.d/c.conf: cannot be read: is larger than 4194304 bytes",
            "vcycle.d/d.conf: is not a text file: it has NUL bytes in it\n  \
             help: save it as UTF-8 text",
            "vcycle.d/e.conf:2: is not UTF-8 text",
            "vcycle.d/f.conf:2: is not UTF-8 text",
        ]
    );
}

#[test]
fn a_file_without_read_permission_is_an_error() {
    let site = Site::with_dir();
    site.write("vcycle.conf", SITE).write("vcycle.d/a.conf", "");
    let file = site.sources.dir.join("a.conf");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::read(&file).is_ok() {
        eprintln!("skipped: this user may read every file");
        return;
    }
    assert_eq!(
        site.problems(),
        ["vcycle.d/a.conf: cannot be read: Permission denied (os error 13)"]
    );
}

#[test]
fn a_pipe_does_not_hang_it() {
    let site = Site::with_dir();
    site.write("vcycle.conf", SITE);
    let pipe = site.sources.dir.join("a.conf");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert_eq!(
        site.problems(),
        ["vcycle.d/a.conf: cannot be read: is not a regular file"]
    );
    let nothing = Sources {
        conf: "/dev/null".into(),
        dir: site.root.path().join("nowhere"),
    };
    let problems = load(&nothing, &context()).problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].what, "there is no space in the configuration");
}

#[test]
fn of_a_file_of_nothing_but_mistakes_enough_is_told() {
    let site = Site::new();
    let mut text = SITE.to_owned();
    for n in 0..100_000 {
        text.push_str(&format!("max_machine_{n:06} = {n}\n"));
    }
    let loaded = site.write("vcycle.conf", &text).load();
    assert!(loaded.config.is_some());
    assert_eq!(loaded.problems.len(), 1001);
    let last = loaded.problems.last().unwrap();
    assert_eq!(
        last.what,
        "there are 99000 more problems, which are not listed"
    );
    // An error is told, however many warnings come before it.
    text.push_str("fizzle_seconds = x\n");
    let loaded = site.write("vcycle.conf", &text).load();
    assert_eq!(loaded.config, None);
    assert!(loaded.problems.iter().any(|problem| problem.is_error()));
}

fn checked(site: &Site, format: CheckFormat) -> (bool, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let usable = check::run(&site.sources, &context(), format, &mut out, &mut err).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (usable, text(out), text(err))
}

#[test]
fn check_says_all_and_prints_the_rest() {
    let site = Site::new();
    site.write("vcycle.conf", format!("{SITE}target_shar = 1\n"));
    let conf = site.sources.conf.display().to_string();
    let warning = format!(
        "{conf}:7: warning: [machinetype a m] unknown option \"target_shar\"; did you mean \
         \"target_share\"?\n"
    );
    let verdict = "vcycled: configuration is in order: 1 space, 1 machinetype, 1 warning\n";
    assert_eq!(
        checked(&site, CheckFormat::Problems),
        (true, verdict.to_owned(), warning.clone())
    );
    let (usable, ini, err) = checked(&site, CheckFormat::Ini);
    assert_eq!((usable, err.as_str()), (true, warning.as_str()));
    assert_eq!(
        ini,
        "[space a]\napi = simulated\n\n[machinetype a m]\nbackoff_seconds = 1\n\
         fizzle_seconds = 1\ntarget_shar = [hidden]\nuser_data = /u\n"
    );
    let (_, json, _) = checked(&site, CheckFormat::Json);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let expected = serde_json::json!({"value": "simulated", "file": conf, "line": 2});
    assert_eq!(json["space a"]["api"], expected);

    site.write("vcycle.conf", "[space a]\n");
    let (usable, out, err) = checked(&site, CheckFormat::Problems);
    assert!(!usable);
    assert_eq!(out, "");
    assert!(
        err.ends_with("vcycled: configuration cannot be used: 2 errors, 0 warnings\n"),
        "{err}"
    );
    assert!(Path::new(err.split(':').next().unwrap()).is_absolute());
}
