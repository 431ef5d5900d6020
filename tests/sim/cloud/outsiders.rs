//! Servers that others make in the same project, and the cloud's clock.

use std::collections::BTreeMap;

use rand::Rng;

use super::order::Order;
use super::server::{Maker, Server};
use super::{Cloud, World};

/// How far the clock goes wrong, in seconds.
const STEP: i64 = 3600;

impl Cloud {
    /// Something of this kind happens to the project. False when there is nothing that it could
    /// happen to.
    pub fn change_world(&mut self, kind: World, now: u64) -> bool {
        match kind {
            World::Foreign => self.add_foreign(now).is_some(),
            World::ForeignLikeOurs => self.add_foreign_like_ours(now).is_some(),
            World::Namesake => {
                let ours = self.servers().filter(|s| is_requested(s));
                let ours: Vec<String> = ours.map(|server| server.id.clone()).collect();
                let marked = self.rng.random_bool(0.5);
                match self.pick(&ours) {
                    Some(id) => self.add_namesake(&id, marked, now).is_some(),
                    None => false,
                }
            }
            World::ClockStep => {
                let step = match self.clock_offset {
                    0 if self.rng.random_bool(0.5) => STEP,
                    0 => -STEP,
                    wrong => -wrong,
                };
                self.step_clock(step);
                true
            }
        }
    }

    /// The cloud's own clock goes forwards by so many seconds, or backwards.
    pub fn step_clock(&mut self, by: i64) {
        self.clock_offset = self.clock_offset.saturating_add(by);
        self.count(World::ClockStep);
    }

    /// Whether it was ever wrong.
    pub fn clock_has_been_wrong(&self) -> bool {
        self.done.contains_key(World::ClockStep.name())
    }

    /// Somebody sets it right.
    pub const fn set_clock_right(&mut self) {
        self.clock_offset = 0;
    }

    /// A server of others, without our metadata. Its owner deletes it some time.
    pub fn add_foreign(&mut self, now: u64) -> Option<String> {
        let name = format!("db-{:06x}", self.rng.random_range(0..0x0100_0000_u32));
        let id = self.add_outside(&name, BTreeMap::new(), true, now)?;
        self.count(World::Foreign);
        Some(id)
    }

    /// A server of another manager. Its name has the form of ours (that of one of ours with other
    /// last characters, when there is one), its metadata name that manager.
    pub fn add_foreign_like_ours(&mut self, now: u64) -> Option<String> {
        let ours: Vec<Server> = self
            .servers()
            .filter(|s| is_requested(s))
            .cloned()
            .collect();
        let model = self.pick(&ours);
        let ending = format!("{:010}", self.rng.random_range(0..10_000_000_000_u64));
        let stem = model.as_ref().and_then(|server| {
            let characters = server.name.chars().count();
            let stem: String = server
                .name
                .chars()
                .take(characters.checked_sub(10)?)
                .collect();
            Some(stem)
        });
        let name = format!(
            "{}{ending}",
            stem.unwrap_or_else(|| "vcycle-model-".to_owned())
        );
        let mut metadata = model.map(|server| server.metadata).unwrap_or_default();
        metadata.insert("name".to_owned(), name.clone());
        metadata.insert("manager".to_owned(), "other-manager.example.org".to_owned());
        for (key, value) in [("space", "other.example.org"), ("machinetype", "model")] {
            metadata
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        let id = self.add_outside(&name, metadata, true, now)?;
        self.count(World::ForeignLikeOurs);
        Some(id)
    }

    /// A second server with the name of an existing one, with the same metadata (`marked`) or
    /// without any, which its owner deletes some time: with it, it stays until somebody deletes it.
    pub fn add_namesake(&mut self, id: &str, marked: bool, now: u64) -> Option<String> {
        self.advance(now);
        let server = self.server(id).filter(|server| !server.is_gone())?;
        let name = server.name.clone();
        let metadata = if marked {
            server.metadata.clone()
        } else {
            BTreeMap::new()
        };
        let id = self.add_outside(&name, metadata, !marked, now)?;
        self.count(World::Namesake);
        Some(id)
    }

    /// Nobody asks about quotas here: an administrator may do as he likes.
    fn add_outside(
        &mut self,
        name: &str,
        metadata: BTreeMap<String, String>,
        leaves: bool,
        now: u64,
    ) -> Option<String> {
        self.advance(now);
        let flavors: Vec<String> = self.setup.flavors.iter().map(|f| f.id.clone()).collect();
        let order = Order {
            name: name.to_owned(),
            flavor: self.pick(&flavors)?,
            image: self
                .setup
                .images
                .first()
                .map(|i| i.id.clone())
                .unwrap_or_default(),
            key_name: None,
            availability_zone: None,
            security_groups: Vec::new(),
            networks: Vec::new(),
            metadata,
            user_data: String::new(),
        };
        let mut server = self.make(order, Maker::Outside, now);
        if leaves {
            let life = self.rng.random_range(self.setup.foreign_life.clone());
            server.leaves_at = Some(now + life);
        }
        let id = server.id.clone();
        self.add(server);
        self.note(now);
        Some(id)
    }
}

const fn is_requested(server: &Server) -> bool {
    matches!(server.maker, Maker::Request { .. } | Maker::Echo { .. })
}
