//! One look at a space: connect, list, join, look at files. It changes nothing anywhere; the daemon,
//! `vcycled plan` and `vcycled explain` look the same way.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;
use tracing::{debug, info};

use crate::act::CONCURRENCY;
use crate::blocking;
use crate::cloud::{Cloud, CloudError};
use crate::config::SpaceConfig;
use crate::decide;
use crate::model::{CloudMachine, FactoryName, MachineName, SpaceSnapshot};
use crate::observe::{self, Memory};
use crate::state::{Store, Unread};

/// The most machines that the cloud is asked for one by one in a look: less than a minute of it where
/// each answer takes ten seconds. Of the others it is asked in the next.
const MAX_QUESTIONS: usize = 50;

/// What a look has shown.
#[derive(Debug)]
pub struct Observed {
    /// The space.
    pub snapshot: SpaceSnapshot,
    /// Files that could not be read.
    pub unread: Vec<Unread>,
    /// Machines that run, and whose directories somebody has removed.
    pub lost: Vec<MachineName>,
    /// What came back, in place of an answer, when the cloud was asked for a machine that it does not
    /// list.
    pub untold: Option<CloudError>,
}

/// Looks at a space once.
///
/// # Errors
/// When the cloud does not give a complete list.
pub async fn observe_once(
    cloud: &dyn Cloud,
    config: &SpaceConfig,
    factory: &FactoryName,
    store: &Arc<Store>,
    memory: &Memory,
) -> Result<Observed, CloudError> {
    let facts = cloud.facts().await?;
    let listing = cloud.list().await?;
    let mut snapshot = observe::join(&config.name, factory, facts, listing, memory);
    recognise(cloud, &mut snapshot).await;
    let untold = ask_for_missing(cloud, &mut snapshot).await;
    let (store, config, factory) = (Arc::clone(store), config.clone(), factory.clone());
    let looking = blocking::run(move || {
        let looked = observe::look_at_files(&store, &config, &factory, &mut snapshot);
        Observed {
            snapshot,
            unread: looked.unread,
            lost: looked.lost,
            untold,
        }
    });
    Ok(looking.await)
}

/// Looks into VMs that nobody knows and that may be machines whose answers were lost.
async fn recognise(cloud: &dyn Cloud, snapshot: &mut SpaceSnapshot) {
    for id in observe::nameless(snapshot) {
        let told = match cloud.user_data(&id).await {
            Ok(told) => told,
            Err(error) => {
                debug!(
                    "{error}; whether {id} is a machine of ours is asked again in the next cycle"
                );
                None
            }
        };
        if let Some(user_data) = told
            && let Some(machine) = observe::recognise(snapshot, &id, user_data.reveal())
        {
            info!(%machine, %id, "found by its user_data: the answer that named it was lost");
        }
    }
}

/// Asks for each machine that seems to be gone. One that is there is as good as listed; one of which
/// the cloud cannot tell stays what it was. Returns an error that came back.
async fn ask_for_missing(cloud: &dyn Cloud, snapshot: &mut SpaceSnapshot) -> Option<CloudError> {
    let missing = decide::seem_gone(snapshot);
    let names: BTreeSet<&MachineName> = missing.iter().map(|(name, _)| name).collect();
    for machine in &mut snapshot.machines {
        machine.unconfirmed = names.contains(&machine.files.name);
    }
    let questions = missing.into_iter().take(MAX_QUESTIONS);
    let mut answers = futures_util::stream::iter(questions)
        .map(|(name, id)| async move { (name, cloud.find(&id).await) })
        .buffer_unordered(CONCURRENCY);
    let mut untold = None;
    while let Some((name, answer)) = answers.next().await {
        match answer {
            Ok(found) => note_answer(snapshot, &name, found),
            Err(error) => untold = Some(error),
        }
    }
    untold
}

fn note_answer(snapshot: &mut SpaceSnapshot, name: &MachineName, found: Option<CloudMachine>) {
    let mut machines = snapshot.machines.iter_mut();
    if let Some(machine) = machines.find(|machine| machine.files.name == *name) {
        machine.unconfirmed = false;
        machine.listed.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;

    use super::*;
    use crate::cloud::{CloudErrorKind, CreateRequest, Deletion, Leftovers, Removal, Search};
    use crate::decide::testing;
    use crate::model::{CloudFacts, CloudId, Leftover, MachineState, Seconds, Timestamp};
    use crate::rng::Seed;

    /// What a cloud says when it is asked for one machine.
    #[derive(Clone, Copy, Debug)]
    enum Says {
        Runs,
        Gone,
        Nothing,
    }

    /// A cloud whose list has one machine of four, and what it says of the others.
    #[derive(Debug)]
    struct HalfDown {
        listed: CloudMachine,
        says: BTreeMap<CloudId, Says>,
    }

    #[async_trait]
    impl Cloud for HalfDown {
        async fn facts(&self) -> Result<CloudFacts, CloudError> {
            Ok(CloudFacts::default())
        }

        async fn list(&self) -> Result<Vec<CloudMachine>, CloudError> {
            Ok(vec![self.listed.clone()])
        }

        async fn find(&self, id: &CloudId) -> Result<Option<CloudMachine>, CloudError> {
            match self.says[id] {
                Says::Gone => Ok(None),
                Says::Runs => {
                    let name = id.as_str().strip_prefix("id-").unwrap();
                    Ok(Some(testing::listed(name, MachineState::Running)))
                }
                Says::Nothing => {
                    let kind = CloudErrorKind::Transient;
                    Err(CloudError::new(kind, "GET server", "the cell is down"))
                }
            }
        }

        async fn create(&self, _: &CreateRequest) -> Result<CloudId, CloudError> {
            panic!("nothing is to be created")
        }

        async fn delete(&self, _: &CloudId) -> Result<Deletion, CloudError> {
            panic!("nothing is to be deleted")
        }

        async fn leftovers(&self, _: &Search) -> Leftovers {
            Leftovers::default()
        }

        async fn remove(&self, _: &Search, _: &Leftover) -> Result<Removal, CloudError> {
            panic!("nothing is to be removed")
        }
    }

    #[tokio::test]
    async fn what_a_complete_list_lacks_is_gone_only_when_the_cloud_says_so_of_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let names = ["a", "b", "c", "d"].map(|end| format!("vcycle-a-{}", end.repeat(10)));
        let machines = names
            .each_ref()
            .map(|name| testing::machine(name, MachineState::Running, 1000));
        let mut memory = Memory::of(machines.map(|machine| machine.files));
        for name in memory.machines.keys() {
            let disk = store.layout().disk();
            disk.create_dir_all(&store.layout().machine(name)).unwrap();
        }
        let ids = names
            .each_ref()
            .map(|name| CloudId::new(format!("id-{name}")));
        let [_, runs, gone, silent] = ids;
        let cloud = HalfDown {
            listed: testing::listed(&names[0], MachineState::Running),
            says: BTreeMap::from([
                (runs, Says::Runs),
                (gone, Says::Gone),
                (silent, Says::Nothing),
            ]),
        };
        let config = testing::space("max_machines = 10");
        let factory = FactoryName::new("factory.example.org").unwrap();
        let mut ended = Vec::new();
        for scan in 1..=5 {
            let now = Timestamp::from_unix(5000) + Seconds::new(scan * 60);
            let looked = observe_once(&cloud, &config, &factory, &store, &memory).await;
            let observed = looked.unwrap();
            let plan = decide::decide(&config, &observed.snapshot, now, Seed(1));
            let finishes = plan.bookkeeping.iter().filter_map(|action| action.finish());
            ended.push(
                finishes
                    .map(|finish| finish.machine.clone())
                    .collect::<Vec<_>>(),
            );
            assert_eq!(observed.untold.is_some(), scan > 1, "{scan}");
            // The first scan that lacks one says nothing yet.
            let lives = observed.snapshot.machines.iter();
            let lives = lives.filter(|machine| machine.vm().is_some()).count();
            assert_eq!(lives, if scan > 1 { 2 } else { 1 });
            memory.note_scan(&observed.snapshot, now);
        }
        let gone = MachineName::new(names[2].as_str()).unwrap();
        assert_eq!(ended[0], []);
        assert!(
            ended[1..].iter().all(|ended| *ended == [gone.clone()]),
            "{ended:?}"
        );
    }
}
