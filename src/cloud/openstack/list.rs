//! The complete list of servers, page by page, and what Nova's words for states mean to us.
//!
//! A page is asked for by the query of the link that led to it, always at our own endpoint: behind
//! a proxy, links often name a host or scheme that is not ours. A listing is given up and begun
//! again when it changed under us (the server that marks a page was deleted, a server came
//! twice); it ends where a page has no next link, and that is not believed while servers are being
//! built ([`beyond_doubted_end`]). It is whole or an error.

use std::collections::{HashMap, HashSet};

use chrono::NaiveDate;
use http::Method;
use tracing::debug;
use url::form_urlencoded;

use super::document::{self, Few, MAX_NAME, is_identifier};
use super::wire::{self, Server, ServerDocument, ServerPage, Text};
use super::{OpenStack, Target, Trouble, blame, server_path};
use crate::cloud::CloudError;
use crate::cloud::http::{Answer, text};
use crate::model::machine::Marks;
use crate::model::{CloudId, CloudMachine, MachineState, Processors, Timestamp};

/// How often a listing is begun.
const ATTEMPTS: usize = 3;
/// The most pages of a listing: 100,000 machines at 20 a page.
const MAX_PAGES: usize = 5000;
/// The most machines of a listing, which bounds the memory it takes.
const MAX_MACHINES: usize = 100_000;

/// How one pass through the pages ended.
enum Pass {
    Complete(Vec<CloudMachine>),
    /// The list changed meanwhile; the error to give when it happens every time.
    Changed(CloudError),
}

impl OpenStack {
    pub(super) async fn list_all(&self) -> Result<Vec<CloudMachine>, CloudError> {
        let mut attempt = 1;
        loop {
            match self.list_once().await? {
                Pass::Complete(machines) => return Ok(machines),
                Pass::Changed(error) if attempt >= ATTEMPTS => return Err(error),
                Pass::Changed(error) => {
                    let error = self.clean(error);
                    debug!(%error, attempt, "listing is begun again");
                }
            }
            attempt += 1;
        }
    }

    /// One server by itself; `None` when Nova says that there is none.
    pub(super) async fn find_server(
        &self,
        id: &CloudId,
    ) -> Result<Option<CloudMachine>, CloudError> {
        let path = server_path("look for", id)?;
        let reply = self.ask(Method::GET, &Target::compute(&path), None).await;
        let reply = reply.map_err(Trouble::into_error)?;
        if reply.status() == 404 {
            return Ok(None);
        }
        if !reply.is_success() {
            return Err(self.refused(&reply, reply.answer.read_kind()));
        }
        let answer = reply.answer;
        let document: ServerDocument<'_> = document::read(&answer)?;
        let server = document.server;
        if server.id.as_str() != id.as_str() || server.status.as_str().is_empty() {
            return Err(answer.unreadable("it is of another server or has no status"));
        }
        if server.status.as_str().eq_ignore_ascii_case("DELETED") {
            return Ok(None);
        }
        let mut found = machine(server, &self.known_processors());
        found.shortage = found.fault.as_deref().and_then(blame::shortage);
        Ok(Some(found))
    }

    async fn list_once(&self) -> Result<Pass, CloudError> {
        let processors = self.known_processors();
        let mut machines = Vec::new();
        let mut query: Option<String> = None;
        let mut seen: HashSet<Option<String>> = HashSet::new();
        // Whether this page is asked for although no link led to it.
        let mut doubted = false;
        loop {
            let target = Target::compute(&["servers", "detail"]).query(query.clone());
            let reply = self.ask(Method::GET, &target, None).await;
            let reply = reply.map_err(Trouble::into_error)?;
            if !reply.is_success() {
                let error = self.refused(&reply, reply.answer.read_kind());
                // "marker not found": the last server of the page before has been deleted.
                let marker_gone = query.is_some() && reply.status() == 400;
                return marker_gone
                    .then_some(Pass::Changed(error.clone()))
                    .ok_or(error);
            }
            let answer = reply.answer;
            let listed = machines.len();
            let next = read_page(&answer, &processors, &mut machines)?;
            if doubted {
                drop_known(&mut machines, listed);
            }
            seen.insert(query);
            let beyond = machines.get(listed..).and_then(beyond_doubted_end);
            doubted = next.is_none() && beyond.is_some();
            let Some(next) = next.or(beyond.map(Some)) else {
                return Ok(match first_twice(&machines) {
                    None => Pass::Complete(machines),
                    Some(id) => Pass::Changed(
                        answer.unreadable(format_args!("it lists server {id} more than once")),
                    ),
                });
            };
            if seen.contains(&next) {
                return Err(answer.unreadable("its pages lead in a circle"));
            }
            if seen.len() >= MAX_PAGES || machines.len() > MAX_MACHINES {
                return Err(answer.unreadable(format_args!(
                    "it goes on after {} pages with {} machines",
                    seen.len(),
                    machines.len()
                )));
            }
            query = next;
        }
    }
}

/// Adds the servers of a page to `machines` and gives the query of the next page: `None` at the
/// end, `Some(None)` for a link without query.
fn read_page(
    answer: &Answer,
    processors: &HashMap<String, Processors>,
    machines: &mut Vec<CloudMachine>,
) -> Result<Option<Option<String>>, CloudError> {
    let page: ServerPage<'_> = document::read(answer)?;
    let next = wire::next_page(page.servers_links.as_ref()).map(query_of);
    machines.reserve(page.servers.0.len());
    for server in page.servers.0 {
        if !is_identifier(server.id.as_str()) || server.status.as_str().is_empty() {
            return Err(answer.unreadable("a server has no identifier or no status"));
        }
        machines.push(machine(server, processors));
    }
    Ok(next)
}

/// The query that goes on after a page without a link, when that page need not be the last.
///
/// Nova lists servers that wait for a host before the others. One that is just getting its host is
/// in both lists: it counts twice when the page is filled and is then given once, so that the page
/// is one short, and a page that is not full gets no link (seen with Zed, 30 servers and pages of
/// 20: the second page was never offered). Such a server is still being built.
fn beyond_doubted_end(page: &[CloudMachine]) -> Option<String> {
    let last = page.last()?;
    let building = |machine: &CloudMachine| machine.status.starts_with("BUILD");
    page.iter().any(building).then(|| {
        form_urlencoded::Serializer::new(String::new())
            .append_pair("marker", last.id.as_str())
            .finish()
    })
}

/// Drops the machines from `from` on that stand before it already: what follows a doubted end may
/// begin with servers that have moved from the one list to the other meanwhile.
fn drop_known(machines: &mut Vec<CloudMachine>, from: usize) {
    let new = machines.split_off(from.min(machines.len()));
    let known: HashSet<&CloudId> = machines.iter().map(|machine| &machine.id).collect();
    let new: Vec<CloudMachine> = new
        .into_iter()
        .filter(|machine| !known.contains(&machine.id))
        .collect();
    machines.extend(new);
}

/// The query of a link, whatever host and path it names.
pub(super) fn query_of(href: &str) -> Option<String> {
    let (_, query) = href.split_once('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    Some(query.to_owned()).filter(|query| !query.is_empty())
}

fn first_twice(machines: &[CloudMachine]) -> Option<&CloudId> {
    let mut ids = HashSet::with_capacity(machines.len());
    machines
        .iter()
        .map(|machine| &machine.id)
        .find(|id| !ids.insert(id.as_str()))
}

fn machine(server: Server<'_>, processors: &HashMap<String, Processors>) -> CloudMachine {
    let task = server
        .task_state
        .as_ref()
        .map(Text::as_str)
        .filter(|task| !task.is_empty());
    let flavor = server.flavor.as_ref();
    let image = filled(server.image.and_then(|image| image.0));
    CloudMachine {
        state: state(server.status.as_str(), task, server.power_state),
        status: status(server.status.as_str(), task, server.power_state),
        created: moment(server.created.as_ref()),
        started: moment(server.launched_at.as_ref()),
        updated: moment(server.updated.as_ref()),
        processors: flavor.and_then(|flavor| {
            let told = flavor.vcpus.map(Processors::new);
            told.or_else(|| processors.get(flavor.id.as_ref()?.as_str()).copied())
        }),
        address: server.addresses.and_then(|first| filled(first.0)),
        zone: filled(server.zone),
        key: filled(server.key_name),
        volumes: match server.volumes {
            Some(attached) if image.is_none() => boot_volume(attached),
            Some(_) | None => Vec::new(),
        },
        image,
        // Known once all faults are.
        shortage: None,
        fault: server
            .fault
            .and_then(|fault| fault.message)
            .map(|message| text::one_line(message.as_str()))
            .filter(|message| !message.is_empty()),
        marks: server.metadata.and_then(marks),
        id: CloudId::new(String::from(server.id)),
        name: bounded(server.name),
    }
}

/// The volume that Nova has made for a server to boot from, by an identifier that can stand in a file
/// and in a path. A server that boots from one has no image of its own; all volumes of others, and one
/// of several, were attached by somebody, or may have been.
fn boot_volume<const N: usize>(attached: Few<wire::AttachedVolume<'_>, N>) -> Vec<String> {
    let ids = attached.0.into_iter().map(|volume| String::from(volume.id));
    let ids: Vec<_> = ids.collect();
    match ids.as_slice() {
        [id] if is_identifier(id) => ids,
        _ => Vec::new(),
    }
}

/// A text that is shown to people and written to a file of one line.
fn filled(text: Option<Text<'_>>) -> Option<String> {
    text.map(|text| text::one_line(text.as_str()))
        .filter(|text| !text.is_empty())
}

/// A text that is compared with names of ours, which are shorter than this limit, so that a text
/// that is cut is equal to none.
fn bounded(text: Text<'_>) -> String {
    let text = text.as_str();
    let mut ends = (0..=text.len().min(MAX_NAME)).rev();
    let cut = ends.find_map(|end| text.get(..end));
    cut.unwrap_or_default().to_owned()
}

fn marks(metadata: wire::Metadata<'_>) -> Option<Marks> {
    Some(Marks {
        space: bounded(metadata.space?),
        manager: bounded(metadata.manager?),
        machinetype: metadata.machinetype.map(bounded),
        name: metadata.name.map(bounded),
    })
}

/// Nova's power state 1 is "running"; a cloud that does not tell it has only its status
/// to go by.
fn state(status: &str, task: Option<&str>, power: Option<u32>) -> MachineState {
    let being_deleted = |task: &str| {
        task.eq_ignore_ascii_case("deleting") || task.eq_ignore_ascii_case("soft-deleting")
    };
    if task.is_some_and(being_deleted) {
        return MachineState::Deleting;
    }
    match status.to_ascii_uppercase().as_str() {
        "BUILD" => MachineState::Starting,
        "ACTIVE" if power.unwrap_or(RUNNING) == RUNNING => MachineState::Running,
        "ACTIVE" => MachineState::Starting,
        "SHUTOFF" | "PAUSED" | "SUSPENDED" => MachineState::Shutdown,
        "DELETED" | "SOFT_DELETED" => MachineState::Deleting,
        "ERROR" => MachineState::Failed,
        other if other.starts_with("SHELVED") => MachineState::Shutdown,
        // REBOOT, HARD_REBOOT, REBUILD, RESCUE, RESIZE, VERIFY_RESIZE, REVERT_RESIZE, MIGRATING,
        // PASSWORD, UNKNOWN, and what later releases invent.
        _ => MachineState::Unknown,
    }
}

const RUNNING: u32 = 1;

/// The cloud's words: its status, with what it is doing and a power state that matters.
fn status(status: &str, task: Option<&str>, power: Option<u32>) -> String {
    let power = power.filter(|power| status.eq_ignore_ascii_case("ACTIVE") && *power != RUNNING);
    match (task, power) {
        (None, None) => text::one_line(status),
        (Some(task), None) => text::one_line(&format!("{status} ({task})")),
        (None, Some(power)) => text::one_line(&format!("{status} (power state {power})")),
        (Some(task), Some(power)) => {
            text::one_line(&format!("{status} ({task}, power state {power})"))
        }
    }
}

/// Reads Nova's times. There are up to three in each of thousands of servers, nearly all in one
/// fixed form, which this reads in a tenth of the time that a general parser takes.
fn moment(text: Option<&Text<'_>>) -> Option<Timestamp> {
    let text = text?.as_str();
    fixed_form(text).or_else(|| Timestamp::parse_iso8601(text))
}

/// `YYYY-MM-DDTHH:MM:SS` in UTC, with a fraction and `Z` or without.
fn fixed_form(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u32> {
        bytes.get(from..to)?.iter().try_fold(0_u32, |sum, byte| {
            let digit = char::from(*byte).to_digit(10)?;
            Some(sum * 10 + digit)
        })
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators
        .iter()
        .any(|(at, byte)| bytes.get(*at) != Some(byte))
    {
        return None;
    }
    let rest = bytes.get(19..)?;
    let rest = rest.strip_suffix(b"Z").unwrap_or(rest);
    let fraction = rest
        .strip_prefix(b".")
        .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
    if !rest.is_empty() && !fraction {
        return None;
    }
    let year = i32::try_from(number(0, 4)?).ok()?;
    let time = NaiveDate::from_ymd_opt(year, number(5, 7)?, number(8, 10)?)?.and_hms_opt(
        number(11, 13)?,
        number(14, 16)?,
        number(17, 19)?,
    )?;
    u64::try_from(time.and_utc().timestamp())
        .ok()
        .map(Timestamp::from_unix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(json: &str) -> CloudMachine {
        let processors = HashMap::from([("f1".to_owned(), Processors::new(4))]);
        machine(serde_json::from_str(json).unwrap(), &processors)
    }

    #[test]
    fn every_word_of_nova_has_its_state() {
        use MachineState::{Deleting, Failed, Running, Shutdown, Starting, Unknown};
        let cases = [
            ("BUILD", None, Some(0), Starting, "BUILD"),
            (
                "BUILD",
                Some("spawning"),
                Some(0),
                Starting,
                "BUILD (spawning)",
            ),
            ("ACTIVE", None, Some(1), Running, "ACTIVE"),
            ("ACTIVE", None, None, Running, "ACTIVE"),
            ("ACTIVE", None, Some(0), Starting, "ACTIVE (power state 0)"),
            (
                "ACTIVE",
                Some("powering-off"),
                Some(4),
                Starting,
                "ACTIVE (powering-off, power state 4)",
            ),
            (
                "ACTIVE",
                Some("deleting"),
                Some(1),
                Deleting,
                "ACTIVE (deleting)",
            ),
            (
                "ERROR",
                Some("DELETING"),
                Some(0),
                Deleting,
                "ERROR (DELETING)",
            ),
            ("ERROR", None, Some(0), Failed, "ERROR"),
            ("SHUTOFF", None, Some(4), Shutdown, "SHUTOFF"),
            ("PAUSED", None, Some(3), Shutdown, "PAUSED"),
            ("SUSPENDED", None, Some(4), Shutdown, "SUSPENDED"),
            ("SHELVED", None, Some(4), Shutdown, "SHELVED"),
            (
                "SHELVED_OFFLOADED",
                None,
                Some(4),
                Shutdown,
                "SHELVED_OFFLOADED",
            ),
            ("DELETED", None, Some(0), Deleting, "DELETED"),
            ("SOFT_DELETED", None, Some(4), Deleting, "SOFT_DELETED"),
            (
                "REBOOT",
                Some("rebooting"),
                Some(1),
                Unknown,
                "REBOOT (rebooting)",
            ),
            ("VERIFY_RESIZE", None, Some(1), Unknown, "VERIFY_RESIZE"),
            ("MIGRATING", Some(""), Some(1), Unknown, "MIGRATING"),
            ("BRAND_NEW", None, None, Unknown, "BRAND_NEW"),
        ];
        for (word, task, power, expected, shown) in cases {
            let task = task.filter(|task: &&str| !task.is_empty());
            assert_eq!(
                state(word, task, power),
                expected,
                "{word} {task:?} {power:?}"
            );
            assert_eq!(status(word, task, power), shown);
        }
    }

    #[test]
    fn a_running_server_is_read_whole() {
        let machine = one(
            r#"{"id": "u", "name": "vcycle-a-0123456789", "status": "ACTIVE", "tenant_id": "t",
            "metadata": {"space": "s", "manager": "m", "machinetype": "a", "name": "n", "x": "y"},
            "image": {"id": "i"}, "flavor": {"id": "f1", "links": []},
            "created": "2026-11-21T02:51:03Z", "updated": "2026-11-21T02:51:05Z",
            "addresses": {"net": [{"version": 4, "addr": "10.77.0.5"}]}, "key_name": "k",
            "OS-EXT-AZ:availability_zone": "zone-a", "OS-SRV-USG:launched_at": "2026-11-21T02:51:04.000000",
            "OS-EXT-STS:task_state": null, "OS-EXT-STS:power_state": 1}"#,
        );
        assert_eq!(machine.state, MachineState::Running);
        assert_eq!(machine.processors, Some(Processors::new(4)));
        assert_eq!(machine.created, Some(Timestamp::from_unix(1_795_229_463)));
        assert_eq!(machine.started, Some(Timestamp::from_unix(1_795_229_464)));
        assert_eq!(machine.updated, Some(Timestamp::from_unix(1_795_229_465)));
        assert_eq!(machine.address.as_deref(), Some("10.77.0.5"));
        assert_eq!(machine.zone.as_deref(), Some("zone-a"));
        assert_eq!(machine.key.as_deref(), Some("k"));
        assert_eq!(machine.image.as_deref(), Some("i"));
        let marks = machine.marks.unwrap();
        assert_eq!(marks.machinetype.as_deref(), Some("a"));
        assert_eq!(marks.name.as_deref(), Some("n"));
    }

    #[test]
    fn a_server_in_build_is_mostly_null() {
        let machine = one(
            r#"{"id": "u", "name": "", "status": "BUILD", "metadata": null, "flavor": null,
            "created": null, "updated": "garbage", "image": "", "key_name": null, "addresses": null, "fault": {"message": null},
            "OS-EXT-AZ:availability_zone": "", "OS-SRV-USG:launched_at": null,
            "OS-EXT-STS:task_state": "spawning", "OS-EXT-STS:power_state": null}"#,
        );
        assert_eq!(machine.state, MachineState::Starting);
        assert_eq!(
            (machine.zone, machine.started, machine.updated),
            (None, None, None)
        );
        assert_eq!((machine.fault, machine.marks), (None, None));
    }

    #[test]
    fn a_new_microversion_tells_processors_and_a_fault_is_kept_short() {
        let machine = one(
            r#"{"id": "u", "name": "n", "status": "ERROR", "flavor": {"vcpus": 8},
            "fault": {"code": 500, "message": "No valid host\nwas found.", "details": "x"}}"#,
        );
        assert_eq!(machine.processors, Some(Processors::new(8)));
        assert_eq!(machine.fault.as_deref(), Some("No valid host was found."));
    }

    #[test]
    fn of_a_link_only_the_query_counts() {
        let cases = [
            (
                "http://evil/v9/servers?limit=2&marker=a",
                Some("limit=2&marker=a"),
            ),
            ("/servers?marker=a#top", Some("marker=a")),
            ("?marker=a", Some("marker=a")),
            ("http://nova/servers", None),
            ("http://nova/servers?", None),
        ];
        for (href, expected) in cases {
            assert_eq!(query_of(href).as_deref(), expected, "{href}");
        }
    }

    #[test]
    fn the_fixed_form_is_read_as_the_general_parser_reads_it() {
        for text in [
            "2026-11-21T02:51:03Z",
            "2026-11-21T02:51:03.000000",
            "2024-02-29T23:59:59",
            "2026-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21 02:51:03",
            "2026-1a-21T02:51:03Z",
            "1969-12-31T23:59:59Z",
        ] {
            let general = Timestamp::parse_iso8601(text);
            if let Some(fixed) = fixed_form(text) {
                assert_eq!(Some(fixed), general, "{text}");
            }
        }
        let general = Timestamp::parse_iso8601("2026-11-21T02:51:03Z");
        assert!(general.is_some());
        assert_eq!(fixed_form("2026-11-21T02:51:03Z"), general);
    }

    proptest! {
        #[test]
        fn no_time_text_panics(text in "[0-9TZ:.é+-]{0,30}") {
            let _ = fixed_form(&text);
        }
    }
}
