//! How many connections programs have, as the kernel knows it: TCP by sock_diag(7), unix sockets by proc_net(5).
//!
//! Counted is the program's end of a connection, known by its port and address; connections that wait to be accepted
//! are among them. The other end may be on this host too, and is not counted.
//!
//! A connection that has ended leaves a trace for a minute, at the end that closed it first: TIME_WAIT, with the time
//! that is left. So the last use of a program is known even where all its connections were short.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use byname_api::service::Endpoint;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::ports::Transport;

// From linux/sock_diag.h, linux/netlink.h and net/tcp_states.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;
/// The states of a connection over which something may still come or go.
const STATES: [u8; 6] = [ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, NEW_SYN_RECV];

/// How long the kernel remembers a connection that has ended (TCP_TIMEWAIT_LEN), in milliseconds.
const REMEMBERED_MS: u64 = 60_000;

/// What was seen of the connections to a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Those that are there.
    pub(crate) connections: u32,
    /// How long ago the last one ended, in milliseconds, as far as there is a trace of it.
    pub(crate) unused_ms: Option<u64>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
struct Socket {
    own: SocketAddr,
    peer: SocketAddr,
    /// It has ended, so long ago.
    ended_ms: Option<u64>,
}

/// What connections there are to each of these lists of endpoints. One look at the kernel's tables for all.
pub(crate) fn count(all: &[Vec<Endpoint>]) -> io::Result<Vec<Seen>> {
    let endpoints = || all.iter().flatten();
    let mut sockets = Vec::new();
    if endpoints().any(|e| Transport::of(&e.protocol) == Some(Transport::Tcp)) {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            dump(family, |socket| sockets.push(socket))?;
        }
    }
    let mut paths = Vec::new();
    if endpoints().any(|e| e.protocol == "unix") {
        paths = connected(&String::from_utf8_lossy(&std::fs::read("/proc/net/unix")?));
    }
    let counted = |wanted: &Vec<Endpoint>| {
        let at = |address: SocketAddr| wanted.iter().any(|e| is_at(e, address));
        let tcp = sockets.iter().filter(|s| s.ended_ms.is_none() && at(s.own)).count();
        let unused_ms = sockets.iter().filter(|s| at(s.own) || at(s.peer)).filter_map(|s| s.ended_ms).min();
        let unix = paths.iter().filter(|p| wanted.iter().any(|e| e.protocol == "unix" && e.address == **p)).count();
        Seen { connections: u32::try_from(tcp + unix).unwrap_or(u32::MAX), unused_ms }
    };
    Ok(all.iter().map(counted).collect())
}

/// Whether a socket's own address is this endpoint.
fn is_at(endpoint: &Endpoint, socket: SocketAddr) -> bool {
    Transport::of(&endpoint.protocol) == Some(Transport::Tcp)
        && endpoint.port == socket.port()
        && match endpoint.address.parse::<IpAddr>() {
            Ok(ip) => ip.is_unspecified() || ip.to_canonical() == socket.ip().to_canonical(),
            // That of the computer: any.
            Err(_) => true,
        }
}

/// How many connections wait to be accepted at this address of this host, and how many may; none when nothing listens
/// there, or the kernel does not say.
pub(crate) fn backlog(at: SocketAddr) -> Option<(u32, u32)> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG)).ok()?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(100))).ok()?;
    rustix::net::send(&socket, &request(family, Some(at)), SendFlags::empty()).ok()?;
    let mut buffer = [0; 1024];
    let bytes = receive(&socket, &mut buffer).ok()?;
    let (kind, body, _) = message(buffer.get(..bytes)?)?;
    let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk::<4>()?));
    // Of a listener, idiag_rqueue is what waits and idiag_wqueue what may (sock_diag(7)).
    let listens = kind == SOCK_DIAG_BY_FAMILY && body.get(1) == Some(&LISTEN);
    if listens { Some((word(56)?, word(60)?)) } else { None }
}

/// Calls `found` with each connection of this family.
fn dump(family: AddressFamily, mut found: impl FnMut(Socket)) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    // Nobody waits for a kernel that does not answer.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(5)))?;
    rustix::net::send(&socket, &request(family, None), SendFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = receive(&socket, &mut buffer)?;
        let mut rest = buffer.get(..bytes).unwrap_or_default();
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let error = body.first_chunk::<4>().map_or(0, |e| i32::from_ne_bytes(*e));
                    return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
                }
                _ => {
                    if let Some(socket) = connection(body) {
                        found(socket);
                    }
                }
            }
            rest = after;
        }
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((_, bytes)) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A `struct nlmsghdr` and the `struct inet_diag_req_v2` that asks for all TCP sockets in `STATES`, or for the listener
/// at an address.
fn request(family: AddressFamily, listener: Option<SocketAddr>) -> Vec<u8> {
    let family = if family == AddressFamily::INET { 2u8 } else { 10 };
    let states = match listener {
        Some(_) => 1 << LISTEN,
        None => STATES.iter().fold(1u32 << TIME_WAIT, |mask, state| mask | 1 << state),
    };
    let flags = if listener.is_some() { NLM_F_REQUEST } else { NLM_F_REQUEST | NLM_F_DUMP };
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence and port: this socket asks one thing.
    bytes.extend([0; 8]);
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    // The address of a single socket: its port, the peer's, its address, the peer's, the interface, and a cookie, which
    // nobody has.
    let Some(at) = listener else {
        bytes.extend([0; 48]);
        return bytes;
    };
    bytes.extend(at.port().to_be_bytes());
    bytes.extend([0; 2]);
    let mut ip = [0; 16];
    match at.ip() {
        IpAddr::V4(v4) => ip[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => ip = v6.octets(),
    }
    bytes.extend(ip);
    bytes.extend([0; 20]);
    bytes.extend([0xff; 8]);
    bytes
}

/// The first netlink message: its type, its content, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk::<2>()?);
    let body = bytes.get(16..length)?;
    // Messages begin at multiples of 4.
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// What a `struct inet_diag_msg` tells, if it is about a connection that lives or has just ended.
fn connection(body: &[u8]) -> Option<Socket> {
    let [family, state] = *body.first_chunk::<2>()?;
    let address = |port: usize, ip: usize| {
        let port = u16::from_be_bytes(*body.get(port..)?.first_chunk::<2>()?);
        let bytes = body.get(ip..)?.first_chunk::<16>()?;
        let ip = match family {
            2 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
            10 => IpAddr::V6(Ipv6Addr::from(*bytes)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    let (own, peer) = (address(4, 8)?, address(6, 24)?);
    if state == TIME_WAIT {
        let left = u32::from_ne_bytes(*body.get(52..)?.first_chunk::<4>()?);
        return Some(Socket { own, peer, ended_ms: Some(REMEMBERED_MS.saturating_sub(left.into())) });
    }
    let inode = u32::from_ne_bytes(*body.get(68..)?.first_chunk::<4>()?);
    if !STATES.contains(&state) {
        return None;
    }
    // The program has closed it already, and the kernel is delivering the rest. A connection without a file in the
    // other states is one that was not accepted yet.
    if inode == 0 && matches!(state, FIN_WAIT1 | FIN_WAIT2) {
        return None;
    }
    Some(Socket { own, peer, ended_ms: None })
}

/// The paths of the connected sockets in `/proc/net/unix`: a socket that was accepted, or waits for that, has its
/// listener's path.
fn connected(list: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for line in list.lines().skip(1) {
        // Num RefCount Protocol Flags Type St Inode Path. The inode is aligned with blanks, and the path may hold some.
        let mut rest = line;
        let mut words = [""; 7];
        for word in &mut words {
            let (one, after) = rest.trim_start_matches(' ').split_once(' ').unwrap_or((rest, ""));
            (*word, rest) = (one, after);
        }
        let [_, _, _, flags, kind, state, _] = words;
        // 00010000 is a listener; 0001 a stream; 03 connected, and 02 when it was not accepted yet.
        if flags == "00000000" && kind == "0001" && matches!(state, "02" | "03") && rest.starts_with('/') {
            paths.push(rest.to_owned());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn at(protocol: &str, address: &str, port: u16) -> Vec<Endpoint> {
        vec![Endpoint { protocol: protocol.into(), address: address.into(), port }]
    }

    fn one(endpoints: Vec<Endpoint>) -> u32 {
        count(&[endpoints]).unwrap()[0].connections
    }

    #[test]
    fn connections_count_before_they_are_accepted_until_they_are_closed_and_on_one_side_only() {
        for ip in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((ip, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let count = || one(at("tcp", ip, port));
            assert_eq!(count(), 0, "a listener is no connection");
            let clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect((ip, port)).unwrap()).collect();
            assert_eq!(count(), 3);
            assert_eq!(one(at("http", "", port)), 3, "any address of the computer");
            assert_eq!(one(at("tcp", "127.0.0.9", port)), 0, "another address");
            assert_eq!(one(at("udp", ip, port)), 0);
            let mut accepted: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
            assert_eq!(count(), 3);
            // A client that has said everything may still be answered.
            clients[0].shutdown(Shutdown::Write).unwrap();
            assert_eq!(accepted[0].read(&mut [0]).unwrap(), 0);
            assert_eq!(count(), 3);
            let other = TcpStream::connect((ip, port)).unwrap();
            let seen = super::count(&[at("tcp", ip, port), at("tcp", ip, 1)]).unwrap();
            assert_eq!([seen[0].connections, seen[1].connections], [4, 0]);
            drop((accepted, clients, other));
            drop(listener);
            assert_eq!(count(), 0);
        }
    }

    #[test]
    fn a_listener_for_both_families_is_counted_by_the_address_that_was_called() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let Ok(_client) = TcpStream::connect(("127.0.0.1", port)) else { return };
        assert_eq!(one(at("tcp", "127.0.0.1", port)), 1);
        assert_eq!(one(at("tcp", "0.0.0.0", port)), 1);
        assert_eq!(one(at("tcp", "::1", port)), 0);
    }

    #[test]
    fn connections_of_unix_sockets_count_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        let listener = UnixListener::bind(&path).unwrap();
        let count = || one(at("unix", path.to_str().unwrap(), 0));
        assert_eq!(count(), 0);
        let client = UnixStream::connect(&path).unwrap();
        let _second = UnixStream::connect(&path).unwrap();
        assert_eq!(count(), 2);
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(count(), 2);
        drop((client, accepted));
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_listener_s_queue_is_seen() {
        for ip in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(listener) = TcpListener::bind(ip) else { continue };
            let mut at = listener.local_addr().unwrap();
            if at.ip().is_unspecified() {
                at.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            let (waiting, most) = backlog(at).unwrap();
            assert!(waiting == 0 && most > 0, "{waiting} of {most}");
            let _clients = [TcpStream::connect(at).unwrap(), TcpStream::connect(at).unwrap()];
            assert_eq!(backlog(at), Some((2, most)), "{ip}");
            drop(listener);
            assert_eq!(backlog(at), None, "{ip}");
        }
    }

    #[test]
    fn messages_that_are_cut_short_are_no_connections() {
        let mut body = [0u8; 72];
        (body[0], body[1], body[68]) = (2, ESTABLISHED, 1);
        assert!(connection(&body).is_some());
        for cut in 0..72 {
            assert!(connection(&body[..cut]).is_none(), "{cut}");
        }
        assert_eq!(message(&[200, 0, 0, 0, 0, 0]), None);
        assert_eq!(message(&[]), None);
        assert_eq!(message(&[3; 15]), None);
    }
}
