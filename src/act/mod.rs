//! The effects of a plan on the cloud: deletes, then creates; and removals of what was left behind.
//!
//! What happens is decided; here it is only carried out, in an order that survives a crash at any
//! point (write-ahead):
//!
//! 1. delete: the shutdown message, the reason and the time of the try are on disk before the
//!    cloud is asked.
//! 2. create: the machine's directory is on disk, whole, before the cloud is asked; the answer's
//!    identifier follows. A directory without one is a question to the next scans, never a reason
//!    to ask the cloud again. Marks that the cloud takes only afterwards come last, and are set by
//!    the next passes where a crash came before them.
//! 3. A create is never repeated after it may have left. Only a clear refusal removes the
//!    directory.

mod create;
mod delete;
pub mod directory;
mod mark;
pub mod mjf;
pub mod proxy;
mod remove;
pub mod userdata;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use create::{CreateError, CreateOutcome, create_all};
pub use delete::{DeleteError, DeleteOutcome, delete_all};
pub use mark::mark_all;
pub use remove::{RemoveError, RemoveOutcome, public_keys, remove_all};

use crate::blocking;
use crate::clock::{Clock, Lap};
use crate::cloud::Cloud;
use crate::config::SpaceConfig;
use crate::decide::Heartbeats;
use crate::model::{FactoryName, ImageState, MachinetypeName, Seconds};
use crate::rng::Seeds;
use crate::state::Store;

/// How many requests that change something run at once in one space.
pub const CONCURRENCY: usize = 10;

/// Everything that carrying out a plan needs.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The space's configuration in this pass.
    pub config: Arc<SpaceConfig>,
    /// The connection to its cloud.
    pub cloud: Arc<dyn Cloud>,
    /// The state directory.
    pub store: Arc<Store>,
    /// The factory's name.
    pub factory: FactoryName,
    /// The time.
    pub clock: Clock,
    /// When it was decided what is carried out.
    pub decided: Lap,
    /// For how long creates are begun after that; deletes, which come first, for half of it.
    pub hold: Seconds,
    /// How far images are that come from this host.
    pub images: BTreeMap<MachinetypeName, ImageState>,
    /// Where templates come from.
    pub templates: userdata::Templates,
    /// Randomness that is no part of decisions.
    pub seeds: Seeds,
    /// The machines of the space that are alive.
    pub heartbeats: Arc<Heartbeats>,
    /// Once this is cancelled nothing new is begun.
    pub stop: tokio_util::sync::CancellationToken,
}

impl Actor {
    /// Whether what was decided for so long has to be decided anew: by now the machines, the
    /// configuration and what others do in the project can be others.
    fn is_late(&self, hold: Seconds) -> bool {
        self.clock.passed(&self.decided) > hold
    }

    /// Runs file work where it may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, crate::state::StateError> + Send + 'static,
    ) -> Result<T, crate::state::StateError> {
        let store = Arc::clone(&self.store);
        blocking::run(move || work(&store)).await
    }
}
