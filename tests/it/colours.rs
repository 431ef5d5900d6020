//! Colours: on a terminal, and nowhere else.

use std::path::Path;
use std::process::{Command, Stdio};

/// A situation whose explanation has something to paint.
const SNAPSHOT: &str = r#"{
  "space": "example.org", "now": 1700003050,
  "config": {
    "space example.org": {"api": "simulated", "max_machines": 10},
    "machinetype example.org atlas": {
      "target_share": 0, "backoff_seconds": 600, "fizzle_seconds": 600,
      "flavor_name": "small", "user_data": "/etc/hostname", "root_image": "image:cernvm4"
    }
  },
  "cloud": {"flavors": [{"id": "1", "name": "small", "processors": 1}], "machines": []}
}"#;

/// What a command writes, to a terminal of its own or to a pipe.
fn written(dir: &Path, command: &str, terminal: bool, variables: &[(&str, &str)]) -> String {
    let line = format!("{} {command}", env!("CARGO_BIN_EXE_vcycled"));
    let mut shell = if terminal {
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]);
        script
    } else {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{line} 2>&1")]);
        shell
    };
    let done = shell
        .current_dir(dir)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn only_terminals_get_colours_and_no_color_takes_them_away() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("now.json"), SNAPSHOT).unwrap();
    let commands = [
        // A table; a log, which begins with a complaint about the filter; clap's own.
        ("explain --snapshot now.json example.org", "atlas"),
        (
            "run --state-dir ./state --config ./none --config-dir ./none",
            "VCYCLE_LOG cannot be understood",
        ),
        ("--help", "Usage"),
    ];
    let filter = ("VCYCLE_LOG", "=");
    for (command, expected) in commands {
        let cases = [
            (true, vec![filter], true),
            (true, vec![filter, ("CI", "1")], true),
            (true, vec![filter, ("CI", "1"), ("TERM", "dumb")], false),
            (false, vec![filter, ("CLICOLOR_FORCE", "1")], false),
            (true, vec![filter, ("NO_COLOR", "1")], false),
            (true, vec![filter, ("TERM", "dumb")], false),
            (false, vec![filter], false),
        ];
        for (terminal, variables, coloured) in cases {
            let text = written(dir.path(), command, terminal, &variables);
            let case = format!("{command}, terminal {terminal}, {variables:?}:\n{text}");
            assert!(text.contains(expected), "{case}");
            assert_eq!(text.contains('\u{1b}'), coloured, "{case}");
        }
    }
}
