//! The addresses of this host.

use std::net::IpAddr;

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
