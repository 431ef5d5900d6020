//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit, setrlimit};

/// The most connections at a time. VMs connect for milliseconds every few minutes: this is for
/// many thousands of them, and for crowds that only hold connections; an idle one costs some
/// 30 KiB.
const MAX_CONNECTIONS: u64 = 16_384;

/// The most connections from one address (of IPv6, one /64 network): all VMs of a site may come
/// through one address translator, and yet one address must not take all places.
const MAX_PER_ADDRESS: u32 = 1024;

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

/// Counts connections by address.
#[derive(Clone, Debug, Default)]
pub struct PerAddress(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// A place for one connection; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    all: PerAddress,
    address: IpAddr,
}

impl PerAddress {
    /// A place for a connection from `address`, `None` when it has too many.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = whose(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place {
            all: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
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

    #[test]
    fn one_network_cannot_take_all_places() {
        let all = PerAddress::default();
        let places: Vec<_> = (0..MAX_PER_ADDRESS)
            .map(|n| {
                let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n));
                all.enter(address.into()).unwrap()
            })
            .collect();
        let same: IpAddr = "2001:db8::ffff:1".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        assert!(all.enter(same).is_none());
        assert!(all.enter(other).is_some());
        assert!(all.enter("192.0.2.1".parse().unwrap()).is_some());
        drop(places);
        assert!(all.enter(same).is_some());
        assert!(all.0.lock().unwrap().is_empty());
    }
}
