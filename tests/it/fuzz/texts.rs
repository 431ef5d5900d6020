//! Texts of VMs, certificates, clouds and sites.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use vcycle::act::userdata::substitute;
use vcycle::cloud::http::text::{readable, without};
use vcycle::model::{
    Dn, FactoryName, MachineName, MachinetypeName, ShutdownMessage, SpaceName, Timestamp,
};

use super::{Cost, cases, fuzz};

/// Words in any order.
fn words(words: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        5 => select(words).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[ -~]{0,8}",
    ];
    prop::collection::vec(word, 0..most).prop_map(|words| words.concat())
}

#[test]
fn any_shutdown_message_can_be_shown() {
    let raw = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        words(
            &[
                "300",
                "099",
                "1000",
                " ",
                "\n",
                "\r",
                "\t",
                "\u{1b}[2J",
                "\u{85}",
                "\u{2028}",
                "\u{a0}",
                "\u{1}",
                "é"
            ],
            12
        )
        .prop_map(String::into_bytes),
        (0..6000usize).prop_map(|length| "é".repeat(length).into_bytes()),
    ];
    fuzz(file!(), cases(Cost::Cheap, 1000), &raw, |raw| {
        let message = ShutdownMessage::parse(&String::from_utf8_lossy(&raw));
        prop_assert!(message.text().len() <= ShutdownMessage::MAX_BYTES);
        prop_assert!(!message.text().contains(char::is_control));
        prop_assert!(
            message
                .code()
                .is_none_or(|code| (100..=999).contains(&code))
        );
        prop_assert_eq!(&ShutdownMessage::parse(message.text()), &message);
        Ok(())
    });
}

#[test]
fn a_name_that_is_read_is_read_back() {
    let texts = words(
        &[
            "/",
            "CN=",
            "DC=",
            "O=",
            ",",
            "+",
            ";",
            "=",
            "\\",
            "\\2C",
            "\\x41",
            "\\/",
            "\"",
            "#",
            " ",
            "1.2.3",
            "OID.2.5.4.3=",
            "emailAddress=",
            "é",
            "\0",
            "\n",
        ],
        16,
    );
    fuzz(file!(), cases(Cost::Cheap, 1000), &texts, |text| {
        if let Ok(dn) = Dn::parse(&text) {
            let shown = dn.to_string();
            prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
            prop_assert_eq!(Dn::parse(&shown).ok(), Some(dn), "{}", shown);
        }
        Ok(())
    });
}

#[test]
fn a_template_is_filled_in_one_pass() {
    let template = words(
        &[
            "##",
            "#",
            "##user_data_",
            "user_data_",
            "space",
            "x",
            "_",
            "##user_data_space##",
            "\n",
        ],
        16,
    );
    fuzz(file!(), cases(Cost::Cheap, 1000), &template, |template| {
        let value = "##user_data_x##".to_owned();
        let values = BTreeMap::from([("space".to_owned(), value.clone())]);
        let filled = substitute(&template, &values);
        let pattern = "##user_data_space##";
        let most = template.matches(pattern).count() * value.len() + template.len();
        prop_assert!(filled.len() <= most);
        // Without a value for anything nothing is left of any pattern, and nothing else changes.
        let emptied = substitute(&template, &BTreeMap::new());
        let others = filled.replace(&value, "");
        if !template.contains("##user_data_x##") {
            prop_assert_eq!(others.len(), emptied.len(), "{} {}", filled, emptied);
        }
        Ok(())
    });
}

#[test]
fn an_error_of_a_cloud_is_one_line_without_secrets() {
    const SECRET: &str = "hunter2-\"quoted\"<&'%20> x";
    let body = words(
        &[
            "{\"message\": \"",
            "\"}",
            "<p>",
            "</p>",
            "<script>",
            "</script>",
            "<",
            ">",
            "&quot;",
            "&lt;",
            "&amp;",
            SECRET,
            "hunter2-\\\"quoted\\\"<&'%20> x",
            "hunter2-&quot;quoted&quot;&lt;&amp;&#39;%20&gt; x",
            "\n",
            "\u{1b}",
            "\u{85}",
        ],
        14,
    );
    fuzz(file!(), cases(Cost::Cheap, 1000), &body, |body| {
        let shown = readable(body.as_bytes(), &[SECRET]);
        prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
        prop_assert!(
            !shown.contains("hunter2-\"quoted\""),
            "{:?} {:?}",
            body,
            shown
        );
        prop_assert!(!without(body, &[SECRET]).contains(SECRET));
        Ok(())
    });
}

#[test]
fn names_and_times_of_any_text() {
    let text = words(
        &[
            "vcycle-",
            "a",
            "-",
            ".",
            "..",
            "/",
            "0123456789",
            "abcdefghij",
            "2026-11-21",
            "T",
            "07:53:02",
            "Z",
            ".000000",
            "+99:99",
            "\n",
        ],
        8,
    );
    fuzz(file!(), cases(Cost::Cheap, 1000), &text, |text| {
        let path_of = |name: &str| name != "." && name != ".." && !name.contains(['/', '\0', '\n']);
        if let Ok(name) = MachineName::new(&*text) {
            prop_assert!(path_of(name.as_str()) && name.machinetype().is_some());
        }
        prop_assert!(SpaceName::new(&*text).map_or(true, |name| path_of(name.as_str())));
        prop_assert!(MachinetypeName::new(&*text).map_or(true, |name| path_of(name.as_str())));
        prop_assert!(FactoryName::new(&*text).map_or(true, |name| path_of(name.as_str())));
        if let Some(time) = Timestamp::parse_iso8601(&text) {
            time.to_rfc3339();
        }
        Ok(())
    });
}

#[test]
fn any_moment_can_be_written() {
    fuzz(
        file!(),
        cases(Cost::Cheap, 1000),
        &any::<u64>(),
        |seconds| {
            let time = Timestamp::from_unix(seconds);
            prop_assert!(!time.to_rfc3339().is_empty());
            time.to_system_time();
            prop_assert_eq!(time.to_string().parse(), Ok(time));
            Ok(())
        },
    );
}
