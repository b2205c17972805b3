//! Choosing ports for programs.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use byname_api::object::InstanceId;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// How long a port is not given again after it was given.
const REST: Duration = Duration::from_secs(60);
/// Where ports are chosen from when nobody says: below the usual range of the kernel's own choices for outgoing
/// connections, so that none of those takes a port between our choice and the program's bind.
const USUAL: RangeInclusive<u16> = 20_000..=31_999;

/// The ports of this host's programs.
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    given: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    live: HashMap<u16, Vec<InstanceId>>,
    recent: VecDeque<(Instant, u16)>,
    /// Stable sockets: of a service, and its name.
    held: HashMap<u64, (String, Vec<SocketAddr>)>,
}

/// Why a port cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is a stable socket of the service of this name.
    Held(String),
    /// Something else listens there.
    InUse,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Of an endpoint's protocol word; none for `unix`.
    pub(crate) fn of(protocol: &str) -> Option<Transport> {
        match protocol {
            "unix" => None,
            "udp" | "dns" | "quic" | "h3" => Some(Transport::Udp),
            _ => Some(Transport::Tcp),
        }
    }
}

impl Ports {
    pub(crate) fn new(range: Option<RangeInclusive<u16>>) -> Ports {
        Ports { range: range.filter(|r| !r.is_empty()).unwrap_or(USUAL), given: Mutex::default() }
    }

    /// A free port that no living instance has.
    pub(crate) fn choose(&self, transport: Transport, address: Option<IpAddr>, owner: InstanceId) -> Option<u16> {
        let mut given = self.given.lock();
        let now = Instant::now();
        while given.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > REST) {
            given.recent.pop_front();
        }
        let (low, high) = (u32::from(*self.range.start()), u32::from(*self.range.end()));
        let count = high - low + 1;
        let random = std::hash::RandomState::new().build_hasher().finish();
        let begin = (random % u64::from(count)) as u32;
        // Twice around: ports that were given a moment ago only when there is no other.
        for round in 0..2 {
            for step in 0..count {
                let port = (low + (begin + step) % count) as u16;
                let rests = given.recent.iter().any(|(_, p)| *p == port);
                let held = given.held.values().flat_map(|(_, all)| all).any(|a| a.port() == port);
                if port == 0 || held || given.live.contains_key(&port) || (round == 0 && rests) {
                    continue;
                }
                if is_free(transport, address, port, false) == Ok(true) {
                    given.live.entry(port).or_default().push(owner);
                    given.recent.push_back((now, port));
                    return Some(port);
                }
            }
        }
        None
    }

    /// Notes a port that was declared.
    pub(crate) fn claim(
        &self,
        transport: Transport,
        address: Option<IpAddr>,
        port: u16,
        owner: InstanceId,
    ) -> Result<(), Taken> {
        if transport == Transport::Tcp {
            let given = self.given.lock();
            let same = |held: &SocketAddr| match address {
                Some(ip) => overlap(*held, SocketAddr::new(ip, port)),
                None => held.port() == port,
            };
            if let Some((name, _)) = given.held.values().find(|(_, all)| all.iter().any(same)) {
                return Err(Taken::Held(name.clone()));
            }
        }
        if is_free(transport, address, port, true) == Ok(false) {
            return Err(Taken::InUse);
        }
        self.adopt(port, owner);
        Ok(())
    }

    /// Notes the stable sockets of a service, in place of those before.
    pub(crate) fn hold(&self, service: u64, name: &str, sockets: Vec<SocketAddr>) {
        let mut given = self.given.lock();
        if sockets.is_empty() {
            given.held.remove(&service);
        } else {
            given.held.insert(service, (name.to_owned(), sockets));
        }
    }

    /// Notes the port of a running instance.
    pub(crate) fn adopt(&self, port: u16, owner: InstanceId) {
        let mut given = self.given.lock();
        let owners = given.live.entry(port).or_default();
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }

    /// The instance has ended: its ports are free again.
    pub(crate) fn release(&self, owner: InstanceId) {
        self.given.lock().live.retain(|_, owners| {
            owners.retain(|o| *o != owner);
            !owners.is_empty()
        });
    }
}

/// Whether two addresses cannot be listened on at once.
pub(crate) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || any)
}

/// Whether a program could listen there now. With `reuse`, connections that linger from an earlier listener do not
/// count, as they do not for most servers.
fn is_free(transport: Transport, address: Option<IpAddr>, port: u16, reuse: bool) -> Result<bool, Errno> {
    let addresses: &[IpAddr] = match &address {
        Some(one) => std::slice::from_ref(one),
        None => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    for address in addresses {
        match try_bind(transport, SocketAddr::new(*address, port), reuse) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => return Ok(false),
            // No IPv6 here, or an address that only the program can tell: not ours to judge.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(true)
}

fn try_bind(transport: Transport, address: SocketAddr, reuse: bool) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if transport == Transport::Udp { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if reuse && transport == Transport::Tcp {
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_to_one_living_instance_only() {
        let ports = Ports::new(Some(31_000..=31_063));
        let mut seen = std::collections::HashSet::new();
        for n in 0..20 {
            assert!(seen.insert(ports.choose(Transport::Tcp, None, InstanceId(n)).unwrap()));
        }
        for n in 0..20 {
            ports.release(InstanceId(n));
        }
        // Rested ports come first.
        let next = ports.choose(Transport::Tcp, None, InstanceId(99)).unwrap();
        assert!(!seen.contains(&next));
    }

    #[test]
    fn a_port_in_use_is_not_given_and_not_claimed() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        let ports = Ports::new(Some(port..=port));
        assert_eq!(ports.choose(Transport::Tcp, None, InstanceId(1)), None);
        assert_eq!(ports.claim(Transport::Tcp, None, port, InstanceId(1)), Err(Taken::InUse));
        drop(busy);
        assert_eq!(ports.claim(Transport::Tcp, None, port, InstanceId(1)), Ok(()));
        assert_eq!(ports.choose(Transport::Tcp, None, InstanceId(2)), None);
    }
    #[test]
    fn a_stable_socket_s_port_belongs_to_its_service() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held = busy.local_addr().unwrap();
        drop(busy);
        let ports = Ports::new(Some(held.port()..=held.port()));
        ports.hold(3, "/db", vec![held]);
        assert_eq!(ports.choose(Transport::Tcp, None, InstanceId(1)), None);
        let claim = |ip: &str| ports.claim(Transport::Tcp, ip.parse().ok(), held.port(), InstanceId(1));
        for ip in ["127.0.0.1", "0.0.0.0", ""] {
            assert_eq!(claim(ip), Err(Taken::Held("/db".into())), "{ip}");
        }
        assert_eq!(claim("127.0.0.2"), Ok(()));
        ports.hold(3, "", vec![]);
        assert_eq!(claim("127.0.0.1"), Ok(()));
    }
}
