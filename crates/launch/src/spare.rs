//! Holders: starting one, keeping one ready, and talking to one.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::folder::Folder;
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

    /// Sends a message and descriptors with it.
    pub(crate) async fn send_with(&mut self, message: &ToHolder, files: &[OwnedFd]) -> io::Result<()> {
        let frame = wire::frame(message)?;
        let send = || wire::send(&self.stream, &frame, files).map_err(io::Error::from);
        let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
        self.stream.write_all(frame.get(sent..).unwrap_or_default()).await
    }

    /// Whether the other end is still there, as far as can be seen.
    fn is_open(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A holder that waits for its work in a folder of its own.
pub(crate) struct Waiting {
    pub(crate) conn: Conn,
    pub(crate) folder: Folder,
    /// The holder's process.
    pub(crate) pid: Option<u32>,
}

/// The holder that is kept ready, so that no start waits for a process to load.
pub(crate) struct Spare {
    dir: PathBuf,
    command: Vec<OsString>,
    ready: Mutex<Option<Waiting>>,
}

impl Spare {
    pub(crate) fn new(dir: PathBuf, command: Vec<OsString>) -> Spare {
        Spare { dir, command, ready: Mutex::new(None) }
    }

    /// The holder that is ready, if there is one.
    pub(crate) fn take(&self) -> Option<Waiting> {
        let waiting = self.ready.lock().take()?;
        if waiting.conn.is_open() { Some(waiting) } else { None }
    }

    /// Starts a holder. It waits for its work, and leaves by itself when the connection ends before that.
    pub(crate) fn spawn(&self) -> io::Result<Waiting> {
        let (folder, lock) = Folder::create_spare(&self.dir)?;
        let (stream, pid) = spawn(&self.command, &[], &ToHolder::Prepare, lock)?;
        Ok(Waiting { conn: Conn::new(stream), folder, pid })
    }

    /// Makes a holder ready, if none is. In the background: loading it takes a few milliseconds.
    pub(crate) fn refill(self: &Arc<Self>) {
        let spare = self.clone();
        tokio::task::spawn_blocking(move || {
            if spare.ready.lock().is_some() {
                return;
            }
            match spare.spawn() {
                Ok(waiting) => *spare.ready.lock() = Some(waiting),
                Err(error) => tracing::warn!(%error, "cannot start a holder in advance"),
            }
        });
    }
}

/// Starts a process of the holder's kind, with its first message and the locked folder that it is for. Gives the
/// connection and its process id. `words` are for people who look at the list of processes.
pub(crate) fn spawn(
    command: &[OsString],
    words: &[&str],
    first: &ToHolder,
    folder: OwnedFd,
) -> io::Result<(UnixStream, Option<u32>)> {
    let (own, other) = Pair::pair()?;
    own.set_nonblocking(true)?;
    let (program, args) =
        command.split_first().ok_or_else(|| io::Error::other("no command for the holder is configured"))?;
    let mut child = Command::new(program)
        .args(args)
        .args(words)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(other)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id();
    // Only to collect its status: the process's end shows on the connection.
    tokio::spawn(async move { child.wait().await });
    // The agent's own descriptor of the folder is closed afterwards, and so the lock is that of the process. A new
    // socket has room for so few bytes.
    wire::send(&own, &wire::frame(first)?, &[folder])?;
    Ok((UnixStream::from_std(own)?, pid))
}
