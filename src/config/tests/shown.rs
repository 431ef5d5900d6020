//! What is shown of a configuration, and read again: never a secret.

use serde_json::json;

use super::*;
use crate::model::Seconds;

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
