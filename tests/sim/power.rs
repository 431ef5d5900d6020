//! The switch that ends one life of a daemon between any two of its effects.

use std::sync::{Mutex, PoisonError};

/// No effect happens any more: the process is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead;

/// Counts the effects of one life: steps on the disk, requests sent, answers taken.
#[derive(Debug, Default)]
pub struct Power {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    effects: u64,
    dies_after: Option<u64>,
    dead: bool,
}

impl Power {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the process live for so many effects more.
    pub fn dies_after(&self, effects: u64) {
        let mut state = self.state();
        state.dies_after = Some(state.effects + effects);
    }

    /// Called before each effect. Once dead, no effect happens.
    pub fn effect(&self) -> Result<(), Dead> {
        let mut state = self.state();
        if state.dead {
            return Err(Dead);
        }
        if state.dies_after.is_some_and(|last| state.effects >= last) {
            state.dead = true;
            return Err(Dead);
        }
        state.effects += 1;
        Ok(())
    }

    /// Ends the process now.
    pub fn cut(&self) {
        self.state().dead = true;
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }
}
