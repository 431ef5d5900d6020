//! Names for new machines.

use std::collections::BTreeSet;

use rand::Rng;

use crate::decide::view::View;
use crate::model::{MachineName, MachinetypeName};
use crate::rng::{Purpose, Seed};

/// Names for new machines that no machine of the space has.
pub(super) struct Names<'a> {
    view: &'a View<'a>,
    given: BTreeSet<MachineName>,
    rng: rand_chacha::ChaCha8Rng,
}

impl<'a> Names<'a> {
    pub fn new(view: &'a View<'a>, seed: Seed) -> Self {
        Self {
            view,
            given: BTreeSet::new(),
            rng: seed.stream(Purpose::Names),
        }
    }

    pub fn next(&mut self, machinetype: &MachinetypeName) -> MachineName {
        loop {
            let name = MachineName::generate(machinetype, || {
                self.rng.random_range(0..MachineName::ALPHABET.len())
            });
            if !self.is_taken(&name) && self.given.insert(name.clone()) {
                return name;
            }
        }
    }

    fn is_taken(&self, name: &MachineName) -> bool {
        let machines = &self.view.machines;
        machines
            .binary_search_by(|machine| machine.machine.files.name.cmp(name))
            .is_ok()
            || self
                .view
                .snapshot
                .unfiled
                .iter()
                .any(|listed| listed.machine_name().as_ref() == Some(name))
    }
}
