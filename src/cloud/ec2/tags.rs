//! Tags of machines, where RunInstances does not take them: they are set by a request of their own
//! as soon as the machine's identifier is on file, and in the cycles after it until that was
//! accepted.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Tag;
use tracing::{debug, warn};

use super::Ec2;
use super::errors::Problem;
use super::instance;
use crate::cloud::{CloudError, CloudErrorKind};
use crate::model::CloudId;
use crate::model::machine::Marks;

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
    /// Tags a machine of ours that bears no marks, unless that has been done or refused for good.
    pub(super) async fn tag(
        &self,
        id: &CloudId,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        if !self.version.has_tokens() || self.memory.needs_no_tags(id) {
            return Ok(());
        }
        let request = self.client.create_tags().resources(id.as_str());
        let request = request.set_tags(Some(of(metadata)));
        match request.send().await.map_err(Problem::from) {
            Ok(_) => {
                self.memory.set_needs_no_tags(id);
                Ok(())
            }
            Err(problem) => {
                let is_new = problem.code().ends_with(".NotFound") && self.memory.is_settling(id);
                let error = self.refused("CreateTags", problem);
                if is_new {
                    debug!(%id, "{error}; tried again in the next cycle");
                    return Ok(());
                }
                let for_good = matches!(
                    error.kind,
                    CloudErrorKind::Rejected | CloudErrorKind::Auth | CloudErrorKind::Quota
                );
                if !for_good {
                    return Err(error);
                }
                self.memory.set_needs_no_tags(id);
                let machine = metadata.get("name").map_or("", String::as_str);
                warn!(%machine, %id,
                    "{error}; it stays without tags and is known by its identifier on file");
                Ok(())
            }
        }
    }
}
