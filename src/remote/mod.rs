//! $JOBOUTPUTS on remote servers (`remote_joboutputs_url`): heartbeats and shutdown messages that
//! machines leave elsewhere, asked for over HTTPS.
//!
//! In each pass every machine that writes elsewhere is a question: when did it last write its
//! heartbeat, or, once it has ended, what did it say? A pass waits a few seconds for the answers,
//! and not at all for a server that has kept it waiting before; what is answered later counts in
//! the next pass. So a server that hangs costs a space a few seconds once.
//!
//! 1. A question is asked over verified TLS only, follows no redirect, and ends within
//!    [`client::WHOLE`]; at most [`rounds::AT_ONCE`] of a machinetype are under way, and never two
//!    about one machine.
//! 2. What a server says is believed only when it can be meant (see [`answer`]); else the machine
//!    is not judged.
//! 3. Nothing here changes anything: answers go into the snapshot, and messages to whoever writes
//!    them down.

pub mod answer;
pub mod client;
pub mod rounds;

pub use rounds::{Asking, Found, Remotes};

use url::Url;

use crate::config::{MachinetypeConfig, SpaceConfig};
use crate::model::{Machine, MachineName, MachineState, MachinetypeName, Seconds, SpaceSnapshot};
use crate::state::SHUTDOWN_MESSAGE;

/// What is asked about one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The machine.
    pub machine: MachineName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// Where.
    pub url: Url,
    /// What.
    pub about: About,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// When it last wrote its heartbeat.
    Heartbeat {
        /// Only whether there is one: then a time that cannot be understood does not matter.
        only_existence: bool,
    },
    /// What it said at its end.
    Message,
}

/// The questions that a snapshot raises, by machine.
fn questions(config: &SpaceConfig, snapshot: &SpaceSnapshot) -> Vec<Question> {
    let asked = snapshot.machines.iter().filter_map(|machine| {
        let configured = config.machinetypes.get(&machine.files.machinetype)?;
        let base = configured.remote_joboutputs_url.as_ref()?;
        let about = about(configured, machine)?;
        let file = match about {
            About::Heartbeat { .. } => configured.heartbeat_file.as_deref()?,
            About::Message => SHUTDOWN_MESSAGE,
        };
        Some(Question {
            machine: machine.files.name.clone(),
            machinetype: configured.name.clone(),
            url: url(base, &machine.files.name, file)?,
            about,
        })
    });
    asked.collect()
}

/// The same machines whose files are looked at here, see `observe::look_at_files`; but of those
/// without a VM only such as may have had one.
fn about(configured: &MachinetypeConfig, machine: &Machine) -> Option<About> {
    let files = &machine.files;
    let beats = About::Heartbeat {
        only_existence: configured.heartbeat == Seconds::default(),
    };
    match machine.vm().map(|vm| vm.state) {
        Some(MachineState::Running) if files.stopped.is_none() => Some(beats),
        Some(MachineState::Starting) if files.stopped.is_none() => files.started.map(|_| beats),
        Some(MachineState::Unknown) if files.stopped.is_none() => None,
        None if files.id.is_none() && machine.missed_scans < 2 => None,
        _ => machine.is_unsettled().then_some(About::Message),
    }
}

/// The file of a machine below the URL that its machinetype writes to.
fn url(base: &Url, machine: &MachineName, file: &str) -> Option<Url> {
    let mut url = base.clone();
    let mut path = url.path_segments_mut().ok()?;
    path.pop_if_empty().push(machine.as_str()).push(file);
    drop(path);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    fn asked(machine: Machine, options: &str) -> Option<Question> {
        let mut config = testing::space("");
        let mut machinetype = testing::machinetype("a", options);
        machinetype.remote_joboutputs_url = Some("https://out.example.org/x/".parse().unwrap());
        config
            .machinetypes
            .insert(machinetype.name.clone(), machinetype);
        questions(&config, &testing::snapshot(vec![machine])).pop()
    }

    #[test]
    fn a_machine_is_asked_for_its_heartbeat_while_it_runs_and_for_its_message_at_its_end() {
        const NAME: &str = "vcycle-a-aaaaaaaaaa";
        let machine = |state| testing::machine(NAME, state, 1000);
        let beat = "heartbeat_file = beat\nheartbeat_seconds = 60";
        let running = asked(machine(MachineState::Running), beat).unwrap();
        assert_eq!(
            running.url.as_str(),
            "https://out.example.org/x/vcycle-a-aaaaaaaaaa/beat"
        );
        let only_existence = false;
        assert_eq!(running.about, About::Heartbeat { only_existence });
        assert_eq!(asked(machine(MachineState::Running), ""), None);
        assert_eq!(asked(machine(MachineState::Starting), beat), None);
        for state in [
            MachineState::Shutdown,
            MachineState::Failed,
            MachineState::Deleting,
        ] {
            let ended = asked(machine(state), beat).unwrap();
            assert_eq!(ended.about, About::Message);
            assert!(ended.url.path().ends_with("/shutdown_message"));
            let mut finished = machine(state);
            finished.files.finished = Some(crate::model::Timestamp::from_unix(2000));
            assert_eq!(asked(finished.clone(), beat), None);
            // Given up before it was listed, it may have said something.
            finished.files.id = None;
            assert_eq!(asked(finished, beat).unwrap().about, About::Message);
        }
        assert_eq!(asked(machine(MachineState::Unknown), beat), None);
        let mut vanished = testing::unlisted(machine(MachineState::Running).files);
        assert!(asked(vanished.clone(), beat).is_some());
        vanished.files.id = None;
        assert_eq!(asked(vanished, beat), None, "it may still be made");
    }
}
