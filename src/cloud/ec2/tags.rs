//! Tags of machines, where RunInstances does not take them: they are set as soon as the service
//! lets us, in the answer to a creation and in the listings after it.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Tag;
use futures_util::StreamExt;
use tracing::{debug, warn};

use super::Ec2;
use super::errors::Problem;
use super::instance;
use crate::cloud::CloudErrorKind;
use crate::cloud::http::MAX_AT_ONCE;
use crate::model::machine::Marks;
use crate::model::{CloudMachine, MachineState};

/// The tags of a machine with this metadata.
pub(super) fn of(metadata: &BTreeMap<String, String>) -> Vec<Tag> {
    let tags = metadata.iter();
    tags.map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect()
}

/// The marks that these tags make.
pub(super) fn marks(metadata: &BTreeMap<String, String>) -> Option<Marks> {
    instance::marks(&of(metadata))
}

impl Ec2 {
    /// Gives a machine the tags that it still lacks, if there are any.
    pub(super) async fn tag(&self, machine: &mut CloudMachine) {
        let Some(name) = machine.machine_name() else {
            return;
        };
        let Some(tags) = self.memory.owed_tags(&name) else {
            return;
        };
        let request = self
            .client
            .create_tags()
            .resources(machine.id.as_str())
            .set_tags(Some(of(&tags)));
        match request.send().await.map_err(Problem::from) {
            Ok(_) => {
                machine.marks = marks(&tags);
                self.memory.owe_no_tags(&name);
            }
            Err(problem) => {
                let unknown = problem.code().ends_with(".NotFound");
                let error = self.refused("CreateTags", problem);
                if matches!(error.kind, CloudErrorKind::Rejected | CloudErrorKind::Auth) {
                    self.memory.owe_no_tags(&name);
                    warn!(space = %self.space, machine = %name,
                        "{error}; it stays without tags and is known by its identifier");
                } else if unknown {
                    debug!(machine = %name, "{error}; tried again in the next cycle");
                } else {
                    warn!(space = %self.space, machine = %name,
                        "{error}; tried again in the next cycle");
                }
            }
        }
    }

    /// Tags the machines of a listing that still lack tags.
    pub(super) async fn tag_what_is_not(&self, machines: &mut [CloudMachine]) {
        let lacking = machines.iter_mut().filter(|machine| {
            let lives = matches!(
                machine.state,
                MachineState::Starting | MachineState::Running
            );
            lives && machine.marks.is_none()
        });
        futures_util::stream::iter(lacking)
            .for_each_concurrent(MAX_AT_ONCE, |machine| self.tag(machine))
            .await;
    }
}
