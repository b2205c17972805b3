//! The one handle the rest of the server has on the log.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::{Machine, OpenError, Position, ProposeError, SnapshotError};

/// Where the log lies and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that belongs to this crate alone; created when it is not there.
    pub dir: PathBuf,
    /// This server's number in the cluster; fixed for the life of the folder.
    pub node_id: u64,
    /// Size of one log file, in bytes; reserved on disk when the file is made. Default 16 MiB.
    pub segment_bytes: u64,
    /// A snapshot is taken when the log since the last one exceeds this and the size of the last snapshot, in bytes. Default
    /// 64 MiB.
    pub snapshot_every: u64,
    /// Between two heartbeats of the primary. Default 100 ms.
    pub heartbeat: Duration,
    /// A backup that hears nothing from the primary for a time between these two starts an election. Default 600 ms to 1 s.
    pub election: (Duration, Duration),
    /// At most this many proposals wait or are under way; default 65,536. Beyond it the oldest waiting is given up.
    pub proposals_max: usize,
    /// At most this many bytes of proposals wait or are under way; default 64 MiB.
    pub proposal_bytes_max: usize,
    /// While the disk takes no writes, proposals are answered after this long. Default 1 s.
    pub stall_patience: Duration,
}

impl Options {
    /// The defaults for server `node_id` with its log in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, node_id: u64) -> Options {
        Options {
            dir: dir.into(),
            node_id,
            segment_bytes: 16 << 20,
            snapshot_every: 64 << 20,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(600), Duration::from_millis(1000)),
            proposals_max: 65_536,
            proposal_bytes_max: 64 << 20,
            stall_patience: Duration::from_secs(1),
        }
    }
}

/// What a server is to its cluster at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It decides; writes go here.
    Primary,
    /// It follows the primary.
    Backup,
    /// It asks to become the primary.
    Candidate,
    /// It receives the log but has no vote.
    Learner,
    /// It has stopped and says why in the log.
    Stopped,
}

/// A look at the log, for people and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The current term.
    pub term: u64,
    /// What this server is.
    pub state: State,
    /// The primary, when one is known.
    pub primary: Option<u64>,
    /// The last entry in this server's log.
    pub last_index: Option<u64>,
    /// The last entry applied to the state machine.
    pub applied: Option<u64>,
    /// The last entry covered by the newest snapshot.
    pub snapshot: Option<u64>,
    /// Bytes of log on disk since the newest snapshot.
    pub log_bytes: u64,
    /// Proposals waiting or under way.
    pub waiting: usize,
    /// Why writes stand still, when they do: `the disk is full: …`.
    pub stalled: Option<String>,
}

/// The replicated log and the state machine above it. Clones share one log.
#[derive(Clone, Debug)]
pub struct Cluster {}

impl Cluster {
    /// Opens the log in `options.dir`, restores `machine` from its newest snapshot and the log, and takes part in the
    /// cluster. A new folder becomes a cluster of this one server. A sole voter is the primary when this returns.
    ///
    /// # Errors
    /// When the folder cannot be used; the message says what to do.
    pub async fn open<M: Machine>(_options: Options, _machine: M) -> Result<Cluster, OpenError> {
        Err(OpenError::Engine("not yet".to_owned()))
    }

    /// Applies `command` on every server, in one order. Answers with the state machine's reply when a majority of the servers
    /// has the command on disk and this one has applied it.
    ///
    /// A dropped future does not take the command back.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] and [`ProposeError::Stopped`] when the command may or may not be applied; all others mean
    /// that it is not.
    pub async fn propose(&self, _command: Bytes) -> Result<Bytes, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        0
    }

    /// Whether this server believes to be the primary. Only [`confirm_primary`](Cluster::confirm_primary) knows.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        false
    }

    /// A look at the log.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            term: 0,
            state: State::Stopped,
            primary: None,
            last_index: None,
            applied: None,
            snapshot: None,
            log_bytes: 0,
            waiting: 0,
            stalled: None,
        }
    }

    /// Asks the majority whether this server is the primary still. A read of the published state after this returns sees
    /// every write that was answered before the call.
    ///
    /// # Errors
    /// [`ProposeError::NotPrimary`], [`ProposeError::Unavailable`] or [`ProposeError::Stopped`].
    pub async fn confirm_primary(&self) -> Result<Position, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// Writes a snapshot now and drops the log that is no longer needed. Answers with the last entry it covers.
    ///
    /// # Errors
    /// When it could not be written; the log stays as it was.
    pub async fn snapshot(&self) -> Result<Position, SnapshotError> {
        Err(SnapshotError::Stopped)
    }

    /// Stops: waits for writes under way, closes the log. Proposals still waiting get [`ProposeError::Stopped`].
    pub async fn shutdown(&self) {}
}
