//! The addresses of this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The addresses at which others may reach this host, the loopback's and link-local ones left out, in the order of the
/// interfaces. Empty when they cannot be read.
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut found: Vec<IpAddr> = Vec::new();
    for address in interfaces.filter_map(|interface| interface.address) {
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::from(v4.ip()),
            (None, Some(v6)) => IpAddr::from(v6.ip()),
            (None, None) => continue,
        };
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            // Without its interface such an address leads nowhere.
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if !ip.is_loopback() && !link_local && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// The address of this host by which it reaches another, as the kernel's routes say; nothing is sent.
///
/// `None` when there is no way to it.
pub fn reaching(other: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if other.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(other).ok()?;
    socket.local_addr().ok().map(|own| own.ip()).filter(|own| !own.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_reached_by_the_loopback() {
        let reached = |text: &str| reaching(text.parse().unwrap());
        assert_eq!(reached("127.0.0.1:7600"), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_host_reaches_its_own_address_by_it() {
        for own in own_addresses() {
            assert_eq!(reaching(SocketAddr::new(own, 7600)), Some(own));
        }
    }
}
