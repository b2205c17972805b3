//! Holders: starting one, keeping one ready, and talking to one.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Pair;
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::wire::{self, HolderState, ToHolder};

/// A connection to a holder.
pub(crate) struct Conn {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Conn {
    pub(crate) fn new(stream: UnixStream) -> Conn {
        Conn { stream, read: Vec::new() }
    }

    /// The holder's next message; none when the connection has ended. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> io::Result<Option<HolderState>> {
        loop {
            if let Some(json) = wire::take_frame(&mut self.read)? {
                return Ok(Some(serde_json::from_slice(&json)?));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &ToHolder) -> io::Result<()> {
        self.stream.write_all(&wire::frame(message)?).await
    }

    /// Sends the work, and with its first bytes the instance's folder.
    pub(crate) async fn send_work(&mut self, frame: &[u8], folder: &OwnedFd) -> io::Result<()> {
        let sent = loop {
            self.stream.writable().await?;
            let attempt = self.stream.try_io(tokio::io::Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let folders = [folder.as_fd()];
                ancillary.push(SendAncillaryMessage::ScmRights(&folders));
                Ok(rustix::net::sendmsg(&self.stream, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL)?)
            });
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        self.stream.write_all(frame.get(sent..).unwrap_or_default()).await
    }
}

/// The holder that is kept ready, so that no start waits for a process to load.
pub(crate) struct Spare {
    command: Vec<OsString>,
    ready: Mutex<Option<Conn>>,
}

impl Spare {
    pub(crate) fn new(command: Vec<OsString>) -> Spare {
        Spare { command, ready: Mutex::new(None) }
    }

    /// The holder that is ready, if there is one.
    pub(crate) fn take(&self) -> Option<Conn> {
        self.ready.lock().take()
    }

    /// Starts a holder. It waits for its work, and leaves by itself when the connection ends before that.
    pub(crate) fn spawn(&self) -> io::Result<Conn> {
        let (own, other) = Pair::pair()?;
        own.set_nonblocking(true)?;
        let (program, args) =
            self.command.split_first().ok_or_else(|| io::Error::other("no command for the holder is configured"))?;
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Only to collect its status: the holder's end shows on the connection.
        tokio::spawn(async move { child.wait().await });
        Ok(Conn::new(UnixStream::from_std(own)?))
    }

    /// Makes a holder ready, if none is. In the background: loading it takes a few milliseconds.
    pub(crate) fn refill(self: &Arc<Self>) {
        let spare = self.clone();
        tokio::task::spawn_blocking(move || {
            if spare.ready.lock().is_some() {
                return;
            }
            match spare.spawn() {
                Ok(conn) => *spare.ready.lock() = Some(conn),
                Err(error) => tracing::warn!(%error, "cannot start a holder in advance"),
            }
        });
    }
}
