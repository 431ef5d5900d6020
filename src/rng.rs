//! The only place that reads entropy.
//!
//! Each pass draws one [`Seed`], logs it, and splits it into one stream for each purpose, so that
//! a pass can be replayed and a new draw for one purpose does not change the others.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Where the randomness of one pass comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

/// What a stream of random numbers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Breaking ties between machinetypes.
    Ties = 1,
    /// The random characters of machine names.
    Names = 2,
    /// What the embedded cloud and its VMs do.
    SimulatedVms = 3,
    /// What goes wrong with requests to the embedded cloud.
    SimulatedFaults = 4,
    /// What goes wrong with its VMs.
    SimulatedFates = 5,
    /// Further seeds.
    Seeds = 6,
    /// The zone of the first new machine of a cycle.
    Zones = 7,
}

impl Seed {
    /// A seed from the system's entropy.
    pub fn from_entropy() -> Self {
        Self(ChaCha8Rng::from_os_rng().random())
    }

    /// The stream for one purpose.
    pub fn stream(self, purpose: Purpose) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.0);
        rng.set_stream(purpose as u64);
        rng
    }
}

/// Where new seeds come from.
#[derive(Clone, Debug, Default)]
pub struct Seeds(Option<Arc<Mutex<ChaCha8Rng>>>);

impl Seeds {
    /// The same seeds each time: what draws from them can be replayed.
    pub fn replayed(seed: Seed) -> Self {
        Self(Some(Arc::new(Mutex::new(seed.stream(Purpose::Seeds)))))
    }

    /// The next seed; from the system's entropy by default.
    pub fn draw(&self) -> Seed {
        match &self.0 {
            None => Seed::from_entropy(),
            Some(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                Seed(stream.random())
            }
        }
    }

    /// Random bytes that nobody may guess, unlike what comes of a [`Seed`], which is logged.
    pub fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        match &self.0 {
            None => ChaCha8Rng::from_os_rng().fill_bytes(&mut bytes),
            Some(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                stream.fill_bytes(&mut bytes);
            }
        }
        bytes
    }
}
