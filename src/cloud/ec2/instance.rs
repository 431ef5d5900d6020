//! What an instance of EC2 is in our words.

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{Instance, Tag};

use super::faults::Reason;
use crate::cloud::http::text;
use crate::model::leftover::{MANAGER_MARK, SPACE_MARK};
use crate::model::machine::Marks;
use crate::model::{CloudId, CloudMachine, MachineName, MachineState, Timestamp};

/// The longest name that is kept, in bytes; a longer one is cut, and equal to none of ours.
const MAX_NAME: usize = 255;
/// The longest identifier; Amazon's have 19 characters.
const MAX_ID: usize = 64;

/// The word for an instance that is gone, of which only the word is left for an hour.
pub(super) const TERMINATED: &str = "terminated";

/// An instance as the listing has it.
///
/// # Errors
/// What it lacks.
pub(super) fn machine(instance: Instance) -> Result<CloudMachine, &'static str> {
    let id = instance.instance_id.filter(|id| is_identifier(id));
    let id = id.ok_or("an instance has no identifier")?;
    let state = instance.state.and_then(|state| state.name);
    let status = state.ok_or("an instance has no state")?.as_str().to_owned();
    let tags = instance.tags.unwrap_or_default();
    let devices = instance.block_device_mappings.unwrap_or_default();
    let volumes = devices
        .into_iter()
        .filter_map(|device| device.ebs?.volume_id)
        .filter(|id| is_identifier(id));
    let reason = Reason::new(instance.state_reason.as_ref());
    let state = match self::state(&status) {
        // The cloud itself has ended it.
        MachineState::Deleting if reason.is_fault => MachineState::Failed,
        // It has ended itself, and was made so that this is the end of it.
        MachineState::Deleting if reason.is_own => MachineState::Shutdown,
        state => state,
    };
    let updated = instance
        .state_transition_reason
        .as_deref()
        .filter(|_| {
            let ended = [
                MachineState::Shutdown,
                MachineState::Deleting,
                MachineState::Failed,
            ];
            ended.contains(&state)
        })
        .and_then(transition_time);
    let address = instance.public_ip_address.or(instance.private_ip_address);
    Ok(CloudMachine {
        name: name(&tags, instance.client_token.as_deref()),
        state,
        status: text::one_line(&status),
        created: instance.launch_time.as_ref().and_then(timestamp),
        // Told by nobody: it is when it is first seen running.
        started: None,
        updated,
        processors: None,
        address: filled(address),
        zone: filled(instance.placement.and_then(|at| at.availability_zone)),
        key: filled(instance.key_name),
        image: filled(instance.image_id),
        volumes: volumes.collect(),
        fault: reason.said.filter(|_| state != MachineState::Running),
        shortage: reason.shortage.filter(|_| state == MachineState::Failed),
        marks: marks(&tags),
        id: CloudId::new(id),
    })
}

/// Whether a text can be an identifier: it goes into file names and forms.
pub(super) fn is_identifier(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    let mut found = tags.iter().filter(|tag| tag.key.as_deref() == Some(key));
    found.next()?.value.as_deref()
}

/// The name of an instance: the `name` tag that we set; before it is there the client token, which
/// is made of the name; and for the instances of others the tag that consoles show.
fn name(tags: &[Tag], token: Option<&str>) -> String {
    let tagged = value(tags, "name").filter(|name| !name.is_empty());
    let asked_as = token.and_then(name_in_token);
    let name = match (tagged, &asked_as) {
        (Some(tagged), _) => tagged,
        (None, Some(asked_as)) => asked_as.as_str(),
        (None, None) => value(tags, "Name").unwrap_or_default(),
    };
    bounded(name)
}

/// The machine that a client token was made for.
pub(super) fn name_in_token(token: &str) -> Option<MachineName> {
    let (name, _) = token.split_once('.').unwrap_or((token, ""));
    MachineName::new(name).ok()
}

/// What `tags` say of who made a thing.
pub(super) fn marks(tags: &[Tag]) -> Option<Marks> {
    Some(Marks {
        space: bounded(value(tags, SPACE_MARK)?),
        manager: bounded(value(tags, MANAGER_MARK)?),
        machinetype: value(tags, "machinetype").map(bounded),
        name: value(tags, "name").map(bounded),
    })
}

fn bounded(text: &str) -> String {
    let mut ends = (0..=text.len().min(MAX_NAME)).rev();
    let cut = ends.find_map(|end| text.get(..end));
    cut.unwrap_or_default().to_owned()
}

/// A text that is shown to people and written to a file of one line.
fn filled(text: Option<String>) -> Option<String> {
    text.map(|text| text::one_line(&text))
        .filter(|text| !text.is_empty())
}

fn timestamp(time: &DateTime) -> Option<Timestamp> {
    u64::try_from(time.secs()).ok().map(Timestamp::from_unix)
}

/// What a word for the state of an instance means. Some are those of OpenStack's EC2.
fn state(word: &str) -> MachineState {
    match word {
        "pending" => MachineState::Starting,
        "running" => MachineState::Running,
        "stopping" | "stopped" | "pause" | "paused" | "suspend" | "suspended" => {
            MachineState::Shutdown
        }
        word if word.starts_with("shelved") => MachineState::Shutdown,
        "shutting-down" | TERMINATED => MachineState::Deleting,
        "error" => MachineState::Failed,
        _ => MachineState::Unknown,
    }
}

/// The time in a reason such as `User initiated (2026-11-21 15:04:05 GMT)`.
fn transition_time(reason: &str) -> Option<Timestamp> {
    let (_, rest) = reason.rsplit_once('(')?;
    let (time, _) = rest.split_once(')')?;
    let (time, zone) = time.rsplit_once(' ')?;
    let (date, time) = time.split_once(' ')?;
    if !matches!(zone, "GMT" | "UTC") {
        return None;
    }
    Timestamp::parse_iso8601(&format!("{date}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{InstanceState, InstanceStateName, StateReason};
    use proptest::prelude::*;

    fn tag(key: &str, value: &str) -> Tag {
        Tag::builder().key(key).value(value).build()
    }

    #[test]
    fn every_word_of_ec2_has_its_state() {
        use MachineState::{Deleting, Failed, Running, Shutdown, Starting, Unknown};
        for (word, expected) in [
            ("pending", Starting),
            ("running", Running),
            ("stopping", Shutdown),
            ("stopped", Shutdown),
            ("pause", Shutdown),
            ("suspended", Shutdown),
            ("shelved_offloaded", Shutdown),
            ("shutting-down", Deleting),
            ("terminated", Deleting),
            ("error", Failed),
            ("rebooting", Unknown),
            ("", Unknown),
        ] {
            assert_eq!(state(word), expected, "{word}");
        }
    }

    #[test]
    fn a_stopped_instance_says_when_and_why() {
        let stopped = Instance::builder()
            .instance_id("i-0123456789abcdef0")
            .state(
                InstanceState::builder()
                    .name(InstanceStateName::Stopped)
                    .build(),
            )
            .state_transition_reason("User initiated (2026-11-21 02:51:05 GMT)")
            .state_reason(
                StateReason::builder()
                    .message("Client.InstanceInitiatedShutdown")
                    .build(),
            )
            .launch_time(DateTime::from_secs(1_795_229_463))
            .tags(tag("name", "vcycle-a-0123456789"))
            .build();
        let machine = machine(stopped).unwrap();
        assert_eq!(machine.updated, Some(Timestamp::from_unix(1_795_229_465)));
        assert_eq!(machine.created, Some(Timestamp::from_unix(1_795_229_463)));
        assert_eq!(machine.started, None);
        assert_eq!(
            machine.fault.as_deref(),
            Some("Client.InstanceInitiatedShutdown")
        );
        assert_eq!(
            (machine.name.as_str(), machine.marks),
            ("vcycle-a-0123456789", None)
        );
    }

    #[test]
    fn one_that_shut_itself_down_has_shut_down_also_when_that_terminates_it() {
        let ended = |word: InstanceStateName, code: &str| {
            let instance = Instance::builder()
                .instance_id("i-0123456789abcdef0")
                .state(InstanceState::builder().name(word).build())
                .state_transition_reason("(2026-11-21 02:51:05 GMT)")
                .state_reason(StateReason::builder().code(code).build());
            let machine = machine(instance.build()).unwrap();
            (machine.state, machine.updated.map(Timestamp::unix))
        };
        let own = "Client.InstanceInitiatedShutdown";
        let at = Some(1_795_229_465);
        for word in [
            InstanceStateName::ShuttingDown,
            InstanceStateName::Terminated,
        ] {
            assert_eq!(ended(word, own), (MachineState::Shutdown, at));
        }
        let by_us = "Client.UserInitiatedShutdown";
        let deleted = ended(InstanceStateName::Terminated, by_us);
        assert_eq!(deleted, (MachineState::Deleting, at));
    }

    #[test]
    fn an_instance_without_identifier_or_state_is_none() {
        let nameless = Instance::builder().build();
        assert!(machine(nameless).is_err());
        let stateless = Instance::builder().instance_id("i-1").build();
        assert!(machine(stateless).is_err());
    }

    #[test]
    fn the_tag_counts_before_the_token_and_that_before_the_console() {
        let ours = "vcycle-a-0123456789";
        assert_eq!(name(&[tag("name", "x"), tag("Name", "y")], Some(ours)), "x");
        assert_eq!(name(&[tag("Name", "y")], Some(ours)), ours);
        assert_eq!(name(&[], Some("vcycle-a-0123456789.2")), ours);
        assert_eq!(name(&[tag("Name", "y")], Some("9a7c-random")), "y");
        assert_eq!(name(&[], None), "");
    }

    #[test]
    fn both_marks_make_a_mark() {
        let both = [
            tag("space", "s"),
            tag("manager", "m"),
            tag("machinetype", "a"),
        ];
        let found = marks(&both).unwrap();
        assert_eq!((found.space.as_str(), found.manager.as_str()), ("s", "m"));
        assert_eq!(found.machinetype.as_deref(), Some("a"));
        assert_eq!(marks(&both[..1]), None);
    }

    proptest! {
        #[test]
        fn no_reason_panics(reason in "[0-9() GMTUé:-]{0,40}") {
            let _ = transition_time(&reason);
        }
    }
}
