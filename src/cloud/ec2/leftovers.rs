//! What machines left behind: key pairs, and volumes that were made with machines and outlived
//! them. Nothing else is made here.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Volume};

use super::Ec2;
use super::errors::Problem;
use super::instance::{self, is_identifier};
use super::keys;
use crate::cloud::{CloudError, CloudErrorKind, Leftovers, NotListed, Removal, Search, public_key};
use crate::model::leftover::{MANAGER_MARK, SPACE_MARK};
use crate::model::{CloudId, Leftover, LeftoverKind, User};

/// The longest that looking at one kind or one removal may take: the space's machines wait for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most pages of one kind.
const MAX_PAGES: usize = 1000;
/// The most things of one kind, which bounds the memory they take.
const MAX_THINGS: usize = 100_000;

impl Ec2 {
    pub(super) async fn find_leftovers(&self, search: &Search) -> Leftovers {
        self.memory.set_manager(search.owner.manager.as_str());
        let mut found = BTreeMap::new();
        if search.public_keys.is_some() {
            let keys = self.patient(LeftoverKind::Keypair, self.key_pairs(search));
            found.insert(LeftoverKind::Keypair, keys.await);
        }
        // Without tags of their own, volumes are nobody's.
        if self.version.has_tag_specifications() {
            let volumes = self.patient(LeftoverKind::Volume, self.volumes(search));
            found.insert(LeftoverKind::Volume, volumes.await);
        }
        found
    }

    async fn patient<T>(
        &self,
        kind: LeftoverKind,
        look: impl Future<Output = Result<T, NotListed>> + Send,
    ) -> Result<T, NotListed> {
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NotListed::Failed(CloudError::new(
                CloudErrorKind::Transient,
                format!("look for each {kind} of space {}", self.space),
                format!("not complete after {} s", PATIENCE.as_secs()),
            ))),
        }
    }

    async fn key_pairs(&self, search: &Search) -> Result<Vec<Leftover>, NotListed> {
        let answer = self.client.describe_key_pairs().send().await;
        let answer = answer.map_err(|error| self.not_listed("DescribeKeyPairs", error.into()))?;
        let pairs = answer.key_pairs.unwrap_or_default().into_iter();
        let names = pairs.filter_map(|pair| pair.key_name);
        Ok(names
            .filter_map(|name| our_key_pair(name, search))
            .collect())
    }

    async fn volumes(&self, search: &Search) -> Result<Vec<Leftover>, NotListed> {
        const ACTION: &str = "DescribeVolumes";
        let marks = [
            (SPACE_MARK, search.owner.space.as_str()),
            (MANAGER_MARK, search.owner.manager.as_str()),
        ];
        let filters = marks.map(|(mark, value)| {
            let filter = Filter::builder().name(format!("tag:{mark}")).values(value);
            filter.build()
        });
        let (mut found, mut token) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let request = self.client.describe_volumes();
            let request = request.set_filters(Some(filters.to_vec()));
            let answer = request.set_next_token(token).send().await;
            let answer = answer.map_err(|error| self.not_listed(ACTION, error.into()))?;
            let volumes = answer.volumes.unwrap_or_default().into_iter();
            found.extend(volumes.filter_map(|volume| our_volume(volume, search)));
            token = answer.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(found);
            }
            if found.len() > MAX_THINGS {
                break;
            }
        }
        Err(NotListed::Failed(
            self.unreadable(ACTION, "it goes on and on"),
        ))
    }

    /// A service that lacks something, or does not let us look at it, is no error.
    fn not_listed(&self, action: &str, problem: Problem) -> NotListed {
        let refused = matches!(problem, Problem::Refused(_));
        let error = self.refused(action, problem);
        match error.kind {
            CloudErrorKind::Auth | CloudErrorKind::NotFound | CloudErrorKind::Rejected
                if refused =>
            {
                NotListed::Unavailable(error.to_string())
            }
            CloudErrorKind::Auth
            | CloudErrorKind::NotFound
            | CloudErrorKind::Rejected
            | CloudErrorKind::Quota
            | CloudErrorKind::Capacity
            | CloudErrorKind::RateLimited { .. }
            | CloudErrorKind::Transient
            | CloudErrorKind::Ambiguous => NotListed::Failed(error),
        }
    }

    pub(super) async fn remove_leftover(
        &self,
        search: &Search,
        leftover: &Leftover,
    ) -> Result<Removal, CloudError> {
        let removal = async {
            match leftover.kind {
                LeftoverKind::Keypair => self.remove_key_pair(search, leftover).await,
                LeftoverKind::Volume => self.remove_volume(search, leftover).await,
                LeftoverKind::Image | LeftoverKind::Port | LeftoverKind::FloatingIp => Ok(
                    Removal::Changed("nothing here makes such things".to_owned()),
                ),
            }
        };
        match tokio::time::timeout(PATIENCE, removal).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CloudError::new(
                CloudErrorKind::Transient,
                format!("remove the {leftover}"),
                format!("not complete after {} s", PATIENCE.as_secs()),
            )),
        }
    }

    async fn remove_key_pair(
        &self,
        search: &Search,
        leftover: &Leftover,
    ) -> Result<Removal, CloudError> {
        if self.fingerprint(&leftover.id).await?.is_none() {
            return Ok(Removal::AlreadyGone);
        }
        if let Some(kept) = kept(our_key_pair(leftover.id.clone(), search)) {
            return Ok(kept);
        }
        let removed = self.client.delete_key_pair().key_name(&leftover.id);
        let removed = removed.send().await.map_err(Problem::from);
        self.keys.forget().await;
        match removed {
            Ok(_) => Ok(Removal::Removed),
            Err(problem) if keys::is_unknown(problem.code()) => Ok(Removal::AlreadyGone),
            Err(problem) => Err(self.refused("DeleteKeyPair", problem)),
        }
    }

    async fn remove_volume(
        &self,
        search: &Search,
        leftover: &Leftover,
    ) -> Result<Removal, CloudError> {
        let is_unknown = |problem: &Problem| problem.code() == "InvalidVolume.NotFound";
        let request = self.client.describe_volumes().volume_ids(&leftover.id);
        let volumes = match request.send().await.map_err(Problem::from) {
            Ok(answer) => answer.volumes.unwrap_or_default(),
            Err(problem) if is_unknown(&problem) => return Ok(Removal::AlreadyGone),
            Err(problem) => return Err(self.refused("DescribeVolumes", problem)),
        };
        let is_it = |volume: &Volume| volume.volume_id.as_deref() == Some(leftover.id.as_str());
        let Some(volume) = volumes.into_iter().find(is_it) else {
            return Ok(Removal::AlreadyGone);
        };
        if let Some(kept) = kept(our_volume(volume, search)) {
            return Ok(kept);
        }
        let removed = self.client.delete_volume().volume_id(&leftover.id);
        match removed.send().await.map_err(Problem::from) {
            Ok(_) => Ok(Removal::Removed),
            Err(problem) if is_unknown(&problem) => Ok(Removal::AlreadyGone),
            Err(problem) => Err(self.refused("DeleteVolume", problem)),
        }
    }
}

/// Why a thing is not to be removed, now that it has been looked at again.
fn kept(now: Option<Leftover>) -> Option<Removal> {
    match now {
        None => Some(Removal::Changed(
            "it does not bear our marks any more".to_owned(),
        )),
        Some(Leftover {
            user: Some(user), ..
        }) => Some(match user {
            User::Configuration => Removal::Changed("the configuration asks for it".to_owned()),
            // Of an instance that is terminated, until EC2 lets go of it.
            User::Machine(id) => Removal::InUse(format!("the instance {id} has it")),
            User::Other(what) => Removal::Changed(what),
        }),
        Some(Leftover { user: None, .. }) => None,
    }
}

fn our_key_pair(name: String, search: &Search) -> Option<Leftover> {
    let (space, manager) = (search.owner.space.as_str(), search.owner.manager.as_str());
    if !public_key::is_name_of(&name, space, manager) {
        return None;
    }
    let mut wanted = search.public_keys.iter().flatten();
    let is_wanted = wanted
        .any(|text| public_key::name_of(text, space, manager).is_ok_and(|wanted| wanted == name));
    Some(Leftover {
        kind: LeftoverKind::Keypair,
        id: name.clone(),
        name,
        user: is_wanted.then_some(User::Configuration),
    })
}

fn our_volume(volume: Volume, search: &Search) -> Option<Leftover> {
    let id = volume.volume_id.filter(|id| is_identifier(id))?;
    let marks = instance::marks(&volume.tags.unwrap_or_default())?;
    let (space, manager) = (Some(marks.space.as_str()), Some(marks.manager.as_str()));
    if !search.owner.is_marked(space, manager) {
        return None;
    }
    let mut attached = volume.attachments.unwrap_or_default().into_iter();
    let machine = attached.find_map(|attachment| attachment.instance_id);
    let state = volume.state.map(|state| state.as_str().to_owned());
    let user = match (machine, state.as_deref()) {
        (Some(machine), _) => Some(User::Machine(CloudId::new(machine))),
        (None, Some("available" | "error")) => None,
        (None, state) => Some(User::Other(format!(
            "its state is {}",
            state.unwrap_or("not told")
        ))),
    };
    Some(Leftover {
        kind: LeftoverKind::Volume,
        id,
        name: marks.name.unwrap_or_default(),
        user,
    })
}
