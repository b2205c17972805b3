//! Opening stable sockets, and giving them up.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use byname_api::launch::StableSocket;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::wire::Trouble;

/// How many connections may wait in the kernel; it takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;

/// A stable socket that is to be held.
pub(super) struct Listener {
    /// As declared.
    pub(super) text: String,
    pub(super) socket: StableSocket,
    pub(super) state: Result<Open, Trouble>,
    /// The number that its events carry.
    pub(super) id: u64,
    /// It is being polled.
    pub(super) armed: bool,
}

/// A socket that listens.
pub(super) struct Open {
    pub(super) socket: OwnedFd,
    /// The file of a unix socket: device and number, so that nobody else's is removed.
    file: Option<(u64, u64)>,
}

impl Listener {
    pub(super) fn new(text: String, socket: StableSocket, id: u64) -> Listener {
        let state = open(&socket);
        Listener { text, socket, state, id, armed: false }
    }

    /// Tries once more; whether anything changed.
    pub(super) fn try_again(&mut self) -> bool {
        let Err(before) = &self.state else { return false };
        let state = open(&self.socket);
        let changed = state.as_ref().err() != Some(before);
        self.state = state;
        changed
    }

    /// Gives it up.
    pub(super) fn close(self) {
        if let (StableSocket::Unix(path), Ok(Open { file: Some(file), .. })) = (&self.socket, &self.state)
            && identity(path) == Some(*file)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn open(socket: &StableSocket) -> Result<Open, Trouble> {
    match socket {
        StableSocket::Tcp(address) => {
            tcp(*address).map(|socket| Open { socket, file: None }).map_err(|e| trouble(e, ""))
        }
        StableSocket::Unix(path) => unix(path),
    }
}

fn trouble(error: Errno, at: &str) -> Trouble {
    let why = match error {
        Errno::ADDRINUSE => return Trouble { in_use: true, why: "is in use by another program".into() },
        Errno::ADDRNOTAVAIL => "is no address of this host".into(),
        Errno::ACCESS => format!("cannot be listened on: the agent's user may not{at}"),
        Errno::NOENT => "cannot be listened on: its folder does not exist".into(),
        other => format!("cannot be listened on: {}", nix::errno::Errno::from_raw(other.raw_os_error()).desc()),
    };
    Trouble { in_use: false, why }
}

fn tcp(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // What is declared is what is held: `[::]:80` leaves `0.0.0.0:80` to whoever declares it.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn unix(path: &str) -> Result<Open, Trouble> {
    let at = |error: Errno| trouble(error, " write into its folder");
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        Ok(found) if !found.file_type().is_socket() => {
            let why = "is a file that is no socket: remove it, or choose another path".into();
            return Err(Trouble { in_use: false, why });
        }
        Ok(_) if is_listened_on(path) => return Err(at(Errno::ADDRINUSE)),
        // Left by a process that is gone.
        Ok(_) => std::fs::remove_file(path).map_err(|e| at(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?,
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(at)?;
    let address = SocketAddrUnix::new(path).map_err(at)?;
    // The mode is 0660 from the file's first moment.
    let before = rustix::process::umask(Mode::from_raw_mode(0o117));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(before);
    bound.map_err(at)?;
    rustix::net::listen(&socket, BACKLOG).map_err(at)?;
    Ok(Open { socket, file: identity(path) })
}

fn identity(path: impl AsRef<Path>) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Whether somebody listens on the socket at this path. The kernel's list is asked first: a connection made to find out
/// would knock at the door of another service.
fn is_listened_on(path: &str) -> bool {
    // Num RefCount Protocol Flags Type St Inode Path; 00010000 is __SO_ACCEPTCON (proc_net(5), net/unix/af_unix.c).
    let list = std::fs::read("/proc/net/unix").unwrap_or_default();
    let end = format!(" {path}");
    let listed = String::from_utf8_lossy(&list)
        .lines()
        .any(|line| line.split_whitespace().nth(3) == Some("00010000") && line.ends_with(&end));
    if listed {
        return true;
    }
    // Bound by another spelling of the path.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return true;
    };
    let Ok(address) = SocketAddrUnix::new(path) else { return true };
    !matches!(rustix::net::connect(&socket, &address), Err(Errno::CONNREFUSED | Errno::PROTOTYPE))
}
