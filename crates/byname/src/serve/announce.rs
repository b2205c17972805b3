//! Which addresses an agent announces: at which others reach this host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use byname_launch::{own_addresses, reaching};

/// How long the look-up of a server's name may take.
const LOOK_UP: Duration = Duration::from_secs(2);

/// What is known of it before it is asked for.
pub(super) struct Announce {
    given: Vec<IpAddr>,
    /// Hosts and ports of the servers; none of those on a unix socket.
    servers: Vec<(String, u16)>,
}

impl Announce {
    /// `given` was said by the host's owner; `servers` is as in BYNAME_SERVER.
    pub(super) fn new(given: &[IpAddr], servers: &str) -> Announce {
        Announce { given: given.to_vec(), servers: servers.split(',').filter_map(host_and_port).collect() }
    }

    /// The addresses, the best first. They are found out anew each time: a host may move.
    pub(super) async fn addresses(&self) -> Vec<String> {
        let found = match self.given.is_empty() {
            false => self.given.clone(),
            true => {
                let mut best = Vec::new();
                for (host, port) in &self.servers {
                    best.extend(reached(host, *port).await);
                }
                order(&best, &own_addresses())
            }
        };
        found.iter().map(IpAddr::to_string).collect()
    }
}

/// By which addresses this host reaches a server.
async fn reached(host: &str, port: u16) -> Vec<IpAddr> {
    let looked_up = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, port))).await;
    let servers: Vec<SocketAddr> = looked_up.ok().and_then(Result::ok).into_iter().flatten().collect();
    servers.into_iter().filter_map(reaching).collect()
}

/// `https://HOST:PORT`, taken apart; `None` for a unix socket.
fn host_and_port(server: &str) -> Option<(String, u16)> {
    let (_, rest) = server.trim().split_once("://")?;
    let authority = rest.split('/').next().filter(|authority| !authority.is_empty())?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, 7_600),
    };
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// First those by which servers elsewhere are reached, then the others that the host has. When all servers are on this
/// host, whoever asks them is taken to be, too.
fn order(reached: &[IpAddr], own: &[IpAddr]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in reached.iter().filter(|address| !address.is_loopback()) {
        if !found.contains(address) {
            found.push(*address);
        }
    }
    if found.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into()];
    }
    for address in own {
        if !found.contains(address) {
            found.push(*address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_way_to_a_server_elsewhere_comes_first_and_the_loopback_never() {
        let own = [ip("192.0.2.1"), ip("198.51.100.1"), ip("2001:db8::1")];
        assert_eq!(order(&[ip("127.0.0.1"), ip("198.51.100.1")], &own), [own[1], own[0], own[2]]);
        assert_eq!(order(&[ip("127.0.0.1")], &own), [ip("127.0.0.1")]);
        assert_eq!(order(&[], &own), [ip("127.0.0.1")]);
    }

    #[test]
    fn servers_are_taken_apart() {
        assert_eq!(host_and_port("https://ns1.corp.example:7601"), Some(("ns1.corp.example".into(), 7_601)));
        assert_eq!(host_and_port(" https://[2001:db8::1]:80/"), Some(("2001:db8::1".into(), 80)));
        assert_eq!(host_and_port("https://[2001:db8::1]"), Some(("2001:db8::1".into(), 7_600)));
        assert_eq!(host_and_port("unix:///run/byname.sock"), None);
    }

    #[tokio::test]
    async fn what_the_owner_says_is_announced_and_nothing_else() {
        let announce = Announce::new(&[ip("203.0.113.9")], "https://127.0.0.1:7600");
        assert_eq!(announce.addresses().await, ["203.0.113.9"]);
        assert_eq!(Announce::new(&[], "unix:///s,https://127.0.0.1:7600").addresses().await, ["127.0.0.1"]);
    }
}
