//! What can go wrong, in words for the person who has to act on it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("{dir} is already in use by {holder}: stop it first, or choose another directory with --data")]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// `pid N`, or `another process` when it did not say.
        holder: String,
    },
    /// The directory lies on a file system that other hosts can write to as well.
    #[error(
        "{dir} is on a network file system ({kind}), where locks and fsync cannot be trusted: put it on a local disk"
    )]
    NetworkFileSystem {
        /// The directory.
        dir: PathBuf,
        /// The kind of file system: `NFS`, `SMB`, …
        kind: &'static str,
    },
    /// A file holds something that was not written there.
    #[error("{file} is damaged at byte {offset}: {what}. {way_out}")]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What was found.
        what: String,
        /// What to do about it.
        way_out: String,
    },
    /// A file was written by a later version of this program.
    #[error(
        "{file} has format {found}, this program knows up to {known}: run the version that wrote it, or a later one"
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The format found.
        found: u32,
        /// The latest format known.
        known: u32,
    },
    /// The directory belongs to another server.
    #[error(
        "{dir} belongs to server {found}, this is server {own}: start it with that id, or give it a directory of its own"
    )]
    OtherServer {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who asked.
        own: u64,
    },
    /// The state machine did not understand its own snapshot.
    #[error("{file} cannot be restored: {source}")]
    Restore {
        /// The snapshot.
        file: PathBuf,
        /// What the state machine said.
        source: io::Error,
    },
    /// The operating system said no.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried: `create`, `read`, …
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The consensus engine did not start.
    #[error("the replicated log did not start: {0}")]
    Engine(String),
}

impl OpenError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io { doing, path: path.to_owned(), source }
    }
}

/// Why a proposal got no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many writes wait already; this one was not made.
    #[error("too many writes are waiting: try again later")]
    Overloaded,
    /// The command exceeds what one log entry may hold; it was not made.
    #[error("the write has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// This server is not the primary; the write was not made.
    #[error("this server is not the primary{}", primary.map(|id| format!(", server {id} is")).unwrap_or_default())]
    NotPrimary {
        /// Who is, as far as is known.
        primary: Option<u64>,
    },
    /// Writes are not possible now; this one was not made.
    #[error("{0}")]
    Unavailable(String),
    /// The write was made but its fate is not known: it may have been applied, or be applied yet. Ask again with the same
    /// request id.
    #[error("{0}")]
    Unknown(String),
    /// The server is shutting down; the write was not made, or its fate is not known.
    #[error("the server is shutting down")]
    Stopped,
}

/// Why no snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Writing it failed; the log is kept, nothing is lost.
    #[error("the snapshot was not written: {0}")]
    Failed(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopped,
}

/// Why the servers of the cluster, or their roles, were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the primary can change them.
    #[error("this server is not the primary{}", primary.map(|id| format!(", server {id} is")).unwrap_or_default())]
    NotPrimary {
        /// Who is, as far as is known.
        primary: Option<u64>,
    },
    /// It cannot be done, or not now; the message says why.
    #[error("{0}")]
    Refused(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopped,
}
