//! The switch that ends one life of a daemon between any two of its effects.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// No effect happens any more: the process is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead;

/// Counts the effects of one life: steps on the disk, requests sent, answers taken.
#[derive(Debug, Default)]
pub struct Power {
    state: Mutex<State>,
    died: Notify,
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
            drop(state);
            self.died.notify_one();
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

    pub fn effects(&self) -> u64 {
        self.state().effects
    }

    /// Comes back when the process has died of its effects.
    pub async fn died(&self) {
        self.died.notified().await;
    }
}
