//! How many connections there may be, in all and from one address.
//!
//! All VMs of a site may come through one address translator, and yet one address must not take all
//! places. So an address may have as many connections as there are places left for everybody else:
//! alone it gets half of all places, two that want everything get a third each, and some are always
//! left. Its share, one of [`SHARES`], an address has whoever else is there.
//!
//! Before a handshake is finished a connection has cost its client nothing: of those an address may
//! have no more than its share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit, setrlimit};

/// The most connections at a time. VMs connect for milliseconds every few minutes: this is for
/// many thousands of them, and for crowds that only hold connections; an idle one costs some
/// 30 KiB.
const MAX_CONNECTIONS: u64 = 16_384;

/// So many addresses have a share of their own.
const SHARES: usize = 16;

/// How many connections fit: each needs a descriptor, and as many again for files and for the
/// rest of the daemon. Raises the process's soft limit of descriptors to its hard limit.
pub fn max_connections() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum;
    if limit.current != wanted {
        let raised = rustix::process::Rlimit {
            current: wanted,
            maximum: wanted,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.current = wanted,
            Err(error) => tracing::debug!(%error, "cannot raise the limit of open files"),
        }
    }
    let fit = limit.current.map_or(MAX_CONNECTIONS, |files| files / 2);
    usize::try_from(fit.clamp(16, MAX_CONNECTIONS)).unwrap_or(16)
}

/// The connections of one address (of IPv6, one /64 network).
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: usize,
    /// Those whose handshake is not finished.
    beginning: usize,
}

/// Counts connections by address.
#[derive(Clone, Debug)]
pub struct PerAddress {
    share: usize,
    counts: Arc<Mutex<HashMap<IpAddr, Count>>>,
}

/// A place for one connection; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    all: PerAddress,
    address: IpAddr,
    beginning: bool,
}

impl PerAddress {
    /// For so many places in all.
    pub fn of(places: usize) -> Self {
        Self {
            share: (places / SHARES).max(1),
            counts: Arc::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, `None` when it has too many. `free` is how many
    /// places nobody has.
    pub fn enter(&self, address: IpAddr, free: usize) -> Option<Place> {
        let address = whose(address);
        let mut counts = self.counts();
        let count = counts.get(&address).copied().unwrap_or_default();
        if count.beginning >= self.share || count.all >= self.share.max(free) {
            return None;
        }
        let more = Count {
            all: count.all + 1,
            beginning: count.beginning + 1,
        };
        counts.insert(address, more);
        Some(Place {
            all: self.clone(),
            address,
            beginning: true,
        })
    }
}

impl Place {
    /// Notes that the handshake is finished.
    pub fn begun(&mut self) {
        if std::mem::take(&mut self.beginning)
            && let Some(count) = self.all.counts().get_mut(&self.address)
        {
            count.beginning -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.begun();
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.address) {
            count.all -= 1;
            if count.all == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// A host has a whole /64 of IPv6 addresses to choose from.
fn whose(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 16_000;
    const SHARE: usize = PLACES / SHARES;

    /// All places of a server.
    struct Hall {
        all: PerAddress,
        taken: Vec<Place>,
    }

    impl Hall {
        fn new() -> Self {
            Self {
                all: PerAddress::of(PLACES),
                taken: Vec::new(),
            }
        }

        fn enter(&mut self, address: &str, is_begun: bool) -> bool {
            let free = PLACES - self.taken.len();
            match self.all.enter(address.parse().unwrap(), free) {
                None => false,
                Some(mut place) => {
                    if is_begun {
                        place.begun();
                    }
                    self.taken.push(place);
                    true
                }
            }
        }

        /// As many as it gets.
        fn fill(&mut self, address: &str, is_begun: bool) -> usize {
            (0..).take_while(|_| self.enter(address, is_begun)).count()
        }
    }

    #[test]
    fn a_site_behind_one_address_gets_half_of_all_places() {
        let mut hall = Hall::new();
        assert_eq!(hall.fill("192.0.2.1", true), PLACES / 2);
        assert!(hall.enter("192.0.2.2", true));
        hall.taken.clear();
        assert!(hall.all.counts().is_empty());
        assert!(hall.enter("192.0.2.1", true));
    }

    #[test]
    fn some_places_are_left_whoever_wants_all() {
        let mut hall = Hall::new();
        for number in 1..SHARES {
            // In turns, so that nobody is there first.
            let all: Vec<_> = (1..=number).map(|n| format!("192.0.2.{n}")).collect();
            while all.iter().filter(|one| hall.enter(one, true)).count() > 0 {}
            let left = PLACES - hall.taken.len();
            assert!(left >= PLACES / (number + 1) - number, "{number}: {left}");
            assert!(hall.enter("198.51.100.1", true));
            hall.taken.clear();
        }
    }

    #[test]
    fn its_share_has_an_address_even_in_a_crowd() {
        let mut hall = Hall::new();
        hall.fill("192.0.2.1", true);
        hall.fill("192.0.2.2", true);
        hall.fill("192.0.2.3", true);
        assert!(hall.fill("198.51.100.1", true) >= SHARE);
    }

    #[test]
    fn handshakes_that_are_not_finished_are_no_more_than_the_share() {
        let mut hall = Hall::new();
        assert_eq!(hall.fill("192.0.2.1", false), SHARE);
        assert!(hall.enter("192.0.2.2", false));
        for place in &mut hall.taken {
            place.begun();
        }
        assert!(hall.enter("192.0.2.1", false));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut hall = Hall::new();
        for number in 0..SHARE {
            assert!(hall.enter(&format!("2001:db8::{number:x}"), false));
        }
        assert!(!hall.enter("2001:db8::ffff:1", false));
        assert!(hall.enter("2001:db8:0:1::1", false));
        assert_eq!(PerAddress::of(16).share, 1);
    }
}
