//! Counts the connections of each remote address, so that none of them takes every place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use byname_api::caller::Peer;

/// Who is here.
#[derive(Clone)]
pub(crate) struct Crowd {
    most: usize,
    here: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place in the crowd, given back when it is dropped.
pub(crate) struct Turn {
    crowd: Crowd,
    address: Option<IpAddr>,
}

impl Crowd {
    /// Each remote address may hold so many places.
    pub(crate) fn new(most: usize) -> Self {
        Crowd { most, here: Arc::default() }
    }

    /// A place for this peer, unless it holds as many as it may. Callers on this host are not counted.
    pub(crate) fn enter(&self, peer: &Peer) -> Option<Turn> {
        let address = match peer {
            Peer::Tcp { address, .. } if !peer.is_loopback() => Some(network(*address)),
            _ => None,
        };
        if let Some(address) = address {
            let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
            let places = here.entry(address).or_default();
            if *places >= self.most {
                return None;
            }
            *places += 1;
        }
        Some(Turn { crowd: self.clone(), address })
    }
}

/// Whoever has one address of IPv6 has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut here = self.crowd.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = here.get_mut(&address) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                here.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_to_others() {
        let crowd = Crowd::new(2);
        let peer = |address: &str| Peer::Tcp { address: address.parse().unwrap(), encrypted: false };
        let enter = |address| crowd.enter(&peer(address));
        let first = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(first.0.is_some() && first.1.is_some());
        assert!(enter("192.0.2.1").is_none() && enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());

        let neighbours = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(neighbours.0.is_some() && enter("2001:db8::3").is_none() && enter("2001:db8:0:1::1").is_some());
        let local: Vec<_> = (0..9).map(|_| enter("127.0.0.1").or_else(|| enter("::1"))).collect();
        assert!(local.iter().all(Option::is_some));
        drop((neighbours, local));
        assert!(crowd.here.lock().unwrap().is_empty());
    }
}
