//! UDP: a thread and a socket for each processor, many datagrams a system call. The kernel spreads clients over the sockets
//! (SO_REUSEPORT); within a thread nothing is shared but what is only read.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrLike, bind, recvmmsg, sendmmsg, sendmsg, setsockopt, socket, sockopt,
};

use crate::Shared;
use crate::answer::{Asker, Scratch, Verdict};
use crate::count::Counts;
use crate::limit::Allowed;
use crate::wire;

/// Datagrams in one system call.
const BATCH: usize = 32;
/// The largest datagram that is read: queries are small, and one with a signature is below this.
const READ: usize = 4_096;
/// How often a thread that gets nothing looks whether it shall end.
const LOOK: Duration = Duration::from_secs(1);

/// Sockets on one address, the first of which chose the port.
pub(crate) fn bind_all(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let first = bind_one(address)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(address)?);
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    // Bursts wait here and not in the sender; where less is allowed the kernel takes what is.
    let _ = setsockopt(&fd, sockopt::RcvBuf, &(4 << 20));
    let _ = setsockopt(&fd, sockopt::SndBuf, &(4 << 20));
    match address {
        SocketAddr::V4(address) => {
            if address.ip().is_unspecified() {
                setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            }
            bind(fd.as_raw_fd(), &SockaddrIn::from(address))?;
        }
        SocketAddr::V6(address) => {
            if address.ip().is_unspecified() {
                setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
                setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            bind(fd.as_raw_fd(), &SockaddrIn6::from(address))?;
        }
    }
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

/// Where a datagram came from, and to which of our addresses: an answer must come from that one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The client.
    pub(crate) client: SocketAddr,
    /// Ours, on a socket of every address.
    local: Option<IpAddr>,
}

/// An address as the kernel gives it.
trait Peer: SockaddrLike + Copy {
    fn address(&self) -> SocketAddr;
    /// What a message says about the address that it was sent to.
    fn local(message: &ControlMessageOwned) -> Option<IpAddr>;
}

impl Peer for SockaddrIn {
    fn address(&self) -> SocketAddr {
        SocketAddr::from((self.ip(), self.port()))
    }

    fn local(message: &ControlMessageOwned) -> Option<IpAddr> {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes())),
            _ => None,
        }
    }
}

impl Peer for SockaddrIn6 {
    fn address(&self) -> SocketAddr {
        std::net::SocketAddrV6::new(self.ip(), self.port(), self.flowinfo(), self.scope_id()).into()
    }

    fn local(message: &ControlMessageOwned) -> Option<IpAddr> {
        match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        }
    }
}

/// Answers what comes to a socket until it is told to end.
pub(crate) fn serve(socket: Arc<UdpSocket>, shared: Arc<Shared>, stop: Arc<AtomicBool>) {
    let served = match socket.local_addr() {
        Ok(address) if address.is_ipv4() => serve_with::<SockaddrIn>(&socket, &shared, &stop, address),
        Ok(address) => serve_with::<SockaddrIn6>(&socket, &shared, &stop, address),
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!("a socket of the DNS ended: {error}");
    }
}

fn serve_with<P: Peer>(
    socket: &Arc<UdpSocket>,
    shared: &Shared,
    stop: &AtomicBool,
    address: SocketAddr,
) -> io::Result<()> {
    let everywhere = address.ip().is_unspecified();
    let room = everywhere.then(|| nix::cmsg_space!(nix::libc::in6_pktinfo));
    let mut heads = MultiHeaders::<P>::preallocate(BATCH, room);
    let mut sent_heads = MultiHeaders::<P>::preallocate(BATCH, None);
    let mut read: Vec<[u8; READ]> = vec![[0; READ]; BATCH];
    let mut out: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(READ)).collect();
    let mut scratch = Scratch::default();
    let mut counts = Counts::default();
    let mut turn = rand::random::<u32>();
    while !stop.load(Ordering::Relaxed) {
        let mut came: [Option<(usize, P, Option<IpAddr>)>; BATCH] = [None; BATCH];
        {
            let mut places = read.iter_mut();
            let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(places.next().map_or(&mut [], |place| &mut place[..]))]);
            match recvmmsg(socket.as_raw_fd(), &mut heads, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => {
                    for (message, place) in messages.zip(came.iter_mut()) {
                        let local = everywhere
                            .then(|| message.cmsgs().ok().and_then(|mut all| all.find_map(|m| P::local(&m))))
                            .flatten();
                        *place = message.address.map(|from| (message.bytes, from, local));
                    }
                }
                // Nothing came; or the kernel tells of a client that is not there any more.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {
                    counts.publish_now();
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let begun = Instant::now();
        let now = shared.clock();
        let _guard = shared.answers.image.guard();
        let mut any = false;
        for ((message, came), out) in read.iter().zip(&came).zip(&mut out) {
            out.clear();
            let Some((length, from, local)) = came else { continue };
            let Some(message) = message.get(..*length) else { continue };
            let way = Way { client: from.address(), local: *local };
            turn = turn.wrapping_add(1);
            let asker = Asker { address: way.client.ip().to_canonical(), tcp: false, turn, now, waited: false };
            let send = match shared.answers.answer(message, asker, &mut scratch, out) {
                Verdict::Answer(answer) => {
                    counts.count(&answer);
                    let name = scratch.name();
                    match shared.limit.count(asker.address, name, answer, now) {
                        Allowed::Whole => true,
                        Allowed::CutShort => {
                            cut_short(out);
                            true
                        }
                        Allowed::Nothing => {
                            counts.dropped();
                            false
                        }
                    }
                }
                Verdict::Silent => false,
                verdict => {
                    // What has to be waited for is waited for elsewhere; when too much waits, the client asks again.
                    let job = Job { message: message.into(), asker, verdict, socket: socket.clone(), way };
                    if shared.jobs.try_send(job).is_err() {
                        counts.shed();
                    }
                    false
                }
            };
            if !send {
                out.clear();
                continue;
            }
            if everywhere {
                send_from(socket, out, way);
                out.clear();
            } else {
                any = true;
            }
        }
        if any {
            send_all(socket, &mut sent_heads, &out, &came);
        }
        counts.took(begun.elapsed());
        counts.publish();
    }
    Ok(())
}

/// Sends what is in the buffers, each to where its question came from.
fn send_all<P: Peer>(
    socket: &UdpSocket,
    heads: &mut MultiHeaders<P>,
    out: &[Vec<u8>],
    came: &[Option<(usize, P, Option<IpAddr>)>; BATCH],
) {
    let mut slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|_| [IoSlice::new(&[])]);
    let mut to: [Option<P>; BATCH] = [None; BATCH];
    let mut count = 0;
    for (out, came) in out.iter().zip(came) {
        let Some((_, from, _)) = came else { continue };
        if out.is_empty() {
            continue;
        }
        if let (Some(slice), Some(place)) = (slices.get_mut(count), to.get_mut(count)) {
            (*slice, *place) = ([IoSlice::new(out)], Some(*from));
            count += 1;
        }
    }
    let (Some(slices), Some(to)) = (slices.get(..count), to.get(..count)) else { return };
    let flags = MsgFlags::empty();
    let sent = sendmmsg(socket.as_raw_fd(), heads, slices.iter(), to, [], flags).map_or(0, Iterator::count);
    // One that cannot be sent stops those behind it: they are sent one by one, and it is passed over.
    for (slice, to) in slices.iter().zip(to).skip(sent) {
        let _ = sendmsg(socket.as_raw_fd(), slice, &[], flags, to.as_ref());
    }
}

/// Sends an answer from the address that was asked.
pub(crate) fn send_from(socket: &UdpSocket, bytes: &[u8], way: Way) {
    let slices = [IoSlice::new(bytes)];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    let _ = match (way.client, way.local) {
        (SocketAddr::V4(client), Some(IpAddr::V4(local))) => {
            let info = nix::libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: nix::libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                ipi_addr: nix::libc::in_addr { s_addr: 0 },
            };
            sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&SockaddrIn::from(client)))
        }
        (SocketAddr::V6(client), Some(IpAddr::V6(local))) => {
            let info = nix::libc::in6_pktinfo {
                ipi6_addr: nix::libc::in6_addr { s6_addr: local.octets() },
                ipi6_ifindex: client.scope_id(),
            };
            sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&SockaddrIn6::from(client)))
        }
        (SocketAddr::V4(client), _) => sendmsg(fd, &slices, &[], flags, Some(&SockaddrIn::from(client))),
        (SocketAddr::V6(client), _) => sendmsg(fd, &slices, &[], flags, Some(&SockaddrIn6::from(client))),
    };
}

/// Leaves the question and that the answer is to be had over TCP.
fn cut_short(out: &mut Vec<u8>) {
    let mut name = wire::Asked::default();
    let asked = out.get(5) == Some(&1);
    let end = if asked { name.read(out, wire::HEADER).map_or(wire::HEADER, |end| end + 4) } else { wire::HEADER };
    out.truncate(end);
    if let Some(header) = out.get_mut(..wire::HEADER) {
        header[2] |= 0x02;
        header[6..].fill(0);
    }
}

/// A message that somebody else must deal with before it is answered.
pub(crate) struct Job {
    pub(crate) message: Box<[u8]>,
    pub(crate) asker: Asker,
    pub(crate) verdict: Verdict,
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) way: Way,
}
