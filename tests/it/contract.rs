//! The contract of the `Cloud` trait as a suite that runs on every adapter.
//!
//! Each function takes the cloud and a [`Ground`]: what the suite needs to know of the cloud it
//! runs on. [`keeps_the_contract`] runs them all. They clean up after themselves unless they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vcycle::cloud::{Cloud, CloudErrorKind, CreateRequest, Deletion, Removal, Search};
use vcycle::model::{
    CloudId, CloudMachine, FactoryName, Leftover, LeftoverKind, MachineName, MachineState,
    MachinetypeName, Owner, Secret, SpaceName, User,
};
use vcycle::rng::{Purpose, Seed};

/// What the suite needs of a cloud: a flavor that fits, an image that boots, and its pace.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Name or identifier of a flavor of which the cloud has room for three.
    pub flavor: String,
    /// Identifier or name of an image.
    pub image: String,
    /// An OpenSSH public key, if the cloud takes one.
    pub public_key: Option<String>,
    /// A zone to place machines in.
    pub zone: Option<String>,
    /// How long a machine may take from the request to running, or from the delete to gone.
    pub patience: Duration,
    /// How long to wait between two looks.
    pub look_every: Duration,
}

/// Looks for what bears the marks of [`request`]s.
pub fn search(manager: &str, public_keys: &[String]) -> Search {
    Search {
        owner: Owner {
            space: SpaceName::new("contract.example.org").unwrap(),
            manager: FactoryName::new(manager).unwrap(),
        },
        public_keys: Some(public_keys.to_vec()),
        gone: BTreeSet::new(),
        gone_volumes: BTreeSet::new(),
    }
}

/// Runs the whole suite.
pub async fn keeps_the_contract(cloud: &dyn Cloud, ground: &Ground) {
    tells_its_facts(cloud, ground).await;
    deleting_what_never_was_is_no_error(cloud).await;
    a_refused_create_makes_nothing(cloud, ground).await;
    a_machine_lives_and_dies(cloud, ground).await;
    machines_asked_for_at_once_are_all_listed_once(cloud, ground).await;
    what_a_creation_made_is_found_and_removed(cloud, ground).await;
}

/// A request for one machine with a fresh name and the marks of a factory.
pub async fn request(cloud: &dyn Cloud, ground: &Ground) -> CreateRequest {
    let facts = cloud.facts().await.unwrap();
    let flavor = facts.flavor(&ground.flavor).cloned();
    let machinetype = MachinetypeName::new("contract").unwrap();
    let mut draws = Seed::from_entropy().stream(Purpose::Names);
    let name = MachineName::generate(&machinetype, || {
        usize::try_from(rand::Rng::random::<u32>(&mut draws)).unwrap()
    });
    let metadata = [
        ("name", name.as_str()),
        ("machinetype", "contract"),
        ("space", "contract.example.org"),
        ("manager", "factory.example.org"),
        (
            "machinefeatures",
            "https://factory.example.org/m/machinefeatures",
        ),
    ];
    let metadata = metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    CreateRequest {
        name,
        flavor: flavor.expect("the flavor of the ground is among the facts"),
        image: ground.image.clone(),
        volume: None,
        public_key: ground.public_key.clone(),
        user_data: Secret::new(b"#!/bin/sh\nshutdown -h now\n".to_vec()),
        metadata,
        zone: ground.zone.clone(),
    }
}

/// Looks at the listing until `done` is content with it.
pub async fn look_until<T>(
    cloud: &dyn Cloud,
    ground: &Ground,
    what: &str,
    mut done: impl FnMut(&[CloudMachine]) -> Option<T>,
) -> T {
    let end = tokio::time::Instant::now() + ground.patience;
    loop {
        let machines = cloud.list().await.unwrap();
        if let Some(found) = done(&machines) {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{what}: not within {:?}; the cloud lists {machines:#?}",
            ground.patience
        );
        tokio::time::sleep(ground.look_every).await;
    }
}

/// Deletes machines and waits until the cloud lists them no more.
pub async fn delete_all(cloud: &dyn Cloud, ground: &Ground, ids: &[CloudId]) {
    for id in ids {
        cloud.delete(id).await.unwrap();
    }
    look_until(cloud, ground, "all deleted", |machines| {
        (!machines.iter().any(|machine| ids.contains(&machine.id))).then_some(())
    })
    .await;
}

/// Facts can be asked for again and again, and name each flavor once.
pub async fn tells_its_facts(cloud: &dyn Cloud, ground: &Ground) {
    let facts = cloud.facts().await.unwrap();
    assert!(facts.flavor(&ground.flavor).is_some(), "{facts:?}");
    assert!(
        facts
            .flavors
            .iter()
            .all(|flavor| flavor.processors.get() > 0)
    );
    let ids: BTreeSet<&str> = facts.flavors.iter().map(|f| f.id.as_str()).collect();
    assert_eq!(ids.len(), facts.flavors.len(), "a flavor comes twice");
    assert_eq!(cloud.facts().await.unwrap(), facts);
}

/// Contract 4.
pub async fn deleting_what_never_was_is_no_error(cloud: &dyn Cloud) {
    let id = CloudId::new("00000000-0000-4000-8000-00000000dead");
    assert_eq!(cloud.delete(&id).await, Ok(Deletion::AlreadyGone));
}

/// Contract 3: an error other than Ambiguous says that no machine was made.
pub async fn a_refused_create_makes_nothing(cloud: &dyn Cloud, ground: &Ground) {
    let mut wrong = request(cloud, ground).await;
    wrong.flavor.id = "no-such-flavor".to_owned();
    let error = cloud.create(&wrong).await.unwrap_err();
    assert!(
        matches!(
            error.kind,
            CloudErrorKind::Rejected | CloudErrorKind::NotFound
        ),
        "{error:?}"
    );
    assert!(!error.operation.is_empty() && !error.message.is_empty());
    let machines = cloud.list().await.unwrap();
    let name = wrong.name.as_str();
    assert!(machines.iter().all(|machine| machine.name != name));
}

/// From the request to gone.
pub async fn a_machine_lives_and_dies(cloud: &dyn Cloud, ground: &Ground) {
    let wanted = request(cloud, ground).await;
    let id = cloud.create(&wanted).await.unwrap();
    // As often as one likes.
    cloud.mark(&id, &wanted.metadata).await.unwrap();
    cloud.mark(&id, &wanted.metadata).await.unwrap();
    let machine = look_until(cloud, ground, "running", |machines| {
        let found: Vec<_> = machines
            .iter()
            .filter(|machine| machine.name == wanted.name.as_str())
            .collect();
        assert!(found.len() <= 1, "listed twice: {found:?}");
        let machine = (*found.first()?).clone();
        assert_eq!(machine.id, id);
        assert!(
            matches!(
                machine.state,
                MachineState::Starting | MachineState::Running
            ),
            "{machine:?}"
        );
        (machine.state == MachineState::Running).then_some(machine)
    })
    .await;
    assert_eq!(machine.processors, Some(wanted.flavor.processors));
    let marks = machine.marks.expect("a machine of ours bears our marks");
    assert_eq!(marks.space, "contract.example.org");
    assert_eq!(marks.manager, "factory.example.org");
    assert_eq!(marks.machinetype.as_deref(), Some("contract"));
    assert_eq!(marks.name.as_deref(), Some(wanted.name.as_str()));
    if ground.zone.is_some() {
        assert_eq!(machine.zone, ground.zone);
    }
    if let (Some(created), Some(started)) = (machine.created, machine.started) {
        assert!(created <= started, "{created} {started}");
    }
    let found = cloud.find(&id).await.unwrap();
    let found = found.map(|found| (found.id, found.marks));
    assert_eq!(found, Some((id.clone(), Some(marks))));
    assert_eq!(cloud.delete(&id).await, Ok(Deletion::Accepted));
    look_until(cloud, ground, "gone", |machines| {
        (!machines.iter().any(|machine| machine.id == id)).then_some(())
    })
    .await;
    assert_eq!(cloud.find(&id).await, Ok(None));
    assert_eq!(cloud.delete(&id).await, Ok(Deletion::AlreadyGone));
}

/// Contract 2, and that an adapter can be used by several tasks at once.
pub async fn machines_asked_for_at_once_are_all_listed_once(cloud: &dyn Cloud, ground: &Ground) {
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.push(request(cloud, ground).await);
    }
    let (a, b, c) = tokio::join!(
        cloud.create(&wanted[0]),
        cloud.create(&wanted[1]),
        cloud.create(&wanted[2])
    );
    let ids = [a.unwrap(), b.unwrap(), c.unwrap()];
    look_until(cloud, ground, "all three listed", |machines| {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for machine in machines {
            *count.entry(machine.id.as_str()).or_default() += 1;
        }
        assert!(count.values().all(|times| *times == 1), "{count:?}");
        ids.iter()
            .all(|id| count.contains_key(id.as_str()))
            .then_some(())
    })
    .await;
    delete_all(cloud, ground, &ids).await;
}

/// The key pairs that a search finds.
async fn keypairs(cloud: &dyn Cloud, search: &Search) -> Vec<Leftover> {
    let mut found = cloud.leftovers(search).await;
    let listed = found.remove(&LeftoverKind::Keypair);
    listed.map_or_else(Vec::new, |listed| listed.unwrap())
}

/// Contract 7, 8 and 9, for the one thing that creations make beside machines.
pub async fn what_a_creation_made_is_found_and_removed(cloud: &dyn Cloud, ground: &Ground) {
    let Some(key) = &ground.public_key else {
        return;
    };
    // A factory of its own: key pairs belong to the user, who may run other tests beside this one.
    let first = request(cloud, ground).await;
    let factory = format!("{}.example.org", first.name);
    let by_factory = |mut request: CreateRequest| {
        request
            .metadata
            .insert("manager".to_owned(), factory.clone());
        request
    };
    let id = cloud.create(&by_factory(first)).await.unwrap();
    let name = look_until(cloud, ground, "listed with its key", |machines| {
        let machine = machines.iter().find(|machine| machine.id == id)?;
        machine.key.clone()
    })
    .await;
    let keys = [key.clone()];
    let asked_for = keypairs(cloud, &search(&factory, &keys)).await;
    let found = asked_for.iter().find(|key| key.id == name).unwrap();
    assert_eq!(found.user, Some(User::Configuration));
    // Another factory has nothing to do with it, though it has the same user and key.
    let of_another = keypairs(cloud, &search("other.example.org", &keys)).await;
    assert!(of_another.iter().all(|key| key.id != name));
    let mut unknown = search(&factory, &[]);
    unknown.public_keys = None;
    let found = cloud.leftovers(&unknown).await;
    assert!(!found.contains_key(&LeftoverKind::Keypair));

    let unwanted = search(&factory, &[]);
    let found = keypairs(cloud, &unwanted).await;
    let left = found.iter().find(|key| key.id == name).unwrap();
    assert_eq!(left.user, None);
    delete_all(cloud, ground, &[id]).await;
    assert_eq!(cloud.remove(&unwanted, left).await, Ok(Removal::Removed));
    assert_eq!(
        cloud.remove(&unwanted, left).await,
        Ok(Removal::AlreadyGone)
    );
    assert!(
        keypairs(cloud, &unwanted)
            .await
            .iter()
            .all(|key| key.id != name)
    );
    // The next creation makes it anew.
    let next = by_factory(request(cloud, ground).await);
    let id = cloud.create(&next).await.unwrap();
    let found = keypairs(cloud, &search(&factory, &keys)).await;
    assert!(found.iter().any(|key| key.id == name));
    delete_all(cloud, ground, &[id]).await;
    cloud.remove(&unwanted, left).await.unwrap();
}
