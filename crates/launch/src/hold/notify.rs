//! The sd_notify protocol, from the receiving end: datagrams of `KEY=value` lines.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Result;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// What a program said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) ready: bool,
    pub(super) stopping: bool,
    pub(super) status: Option<String>,
    /// `WATCHDOG=trigger` or `ERRNO=n`: it is not well.
    pub(super) unwell: Option<String>,
    /// `WATCHDOG=1`: it is well.
    pub(super) alive: bool,
}

/// A socket at `notify` in the current folder.
pub(super) fn open() -> Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new("notify")?)?;
    Ok(socket)
}

/// A socket in the abstract space and its name, for programs that may not enter the folder or whose path is too long.
pub(super) fn open_abstract(instance: &str) -> Result<(OwnedFd, OsString)> {
    let socket = socket()?;
    let name = format!("byname-notify-{instance}-{}", std::process::id());
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok((socket, format!("@{name}").into()))
}

fn socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    Ok(socket)
}

/// The next datagram from a process of one of these users; none when there is nothing to read.
pub(super) fn receive(socket: &OwnedFd, users: &[u32]) -> Option<Said> {
    loop {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
        // Descriptors that come along are closed: the file-descriptor store of sd_notify is not offered.
        let got = rustix::net::recvmsg(socket.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
        let known = ancillary.drain().any(|message| {
            matches!(message, RecvAncillaryMessage::ScmCredentials(from) if users.contains(&from.uid.as_raw()))
        });
        if known {
            return Some(parse(bytes.get(..got.bytes)?));
        }
    }
}

fn parse(datagram: &[u8]) -> Said {
    let mut said = Said::default();
    for line in String::from_utf8_lossy(datagram).lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match (key, value) {
            ("READY", "1") => said.ready = true,
            ("STOPPING", "1") => said.stopping = true,
            ("STATUS", text) => said.status = Some(clean(text)),
            ("WATCHDOG", "1") => said.alive = true,
            ("WATCHDOG", "trigger") => said.unwell = Some("it says that it is not well".into()),
            ("ERRNO", number) => said.unwell = Some(format!("it reports error {}", clean(number))),
            // MAINPID and the rest: the main process is the one that was started.
            _ => {}
        }
    }
    said
}

fn clean(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_read_and_the_rest_ignored() {
        let said = parse(b"READY=1\nSTATUS=up\x07\nMAINPID=7\nnonsense\n\xff=\xff");
        assert_eq!(said, Said { ready: true, status: Some("up ".into()), ..Said::default() });
        assert!(parse(b"WATCHDOG=1\nSTOPPING=1").alive);
        assert!(parse(b"ERRNO=5").unwell.is_some());
        assert_eq!(parse(b""), Said::default());
    }
}
