//! placeholder, replaced below
mod cluster;
pub mod disk;
mod error;
mod lock;
mod log;
mod network;
mod proposals;
mod raft;
mod snapshot;
mod state;

use std::io::{self, Read, Write};

use bytes::Bytes;

pub use cluster::{Cluster, Options, State, Status};
pub use error::{OpenError, ProposeError, SnapshotError};
pub use lock::{DirLock, lock_data_dir};

/// A place in the log: the entry `index`, written by the primary of `term`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term of the primary that wrote the entry. It grows with every election and restart.
    pub term: u64,
    /// The number of the entry, counted from 0 over the life of the cluster.
    pub index: u64,
}

/// The deterministic state machine above the log.
///
/// All methods are called from one task, never two at once.
pub trait Machine: Send + 'static {
    /// Applies the commands of one log entry, in order, and gives one reply per command.
    ///
    /// Entries come in log order, each exactly once after [`restore`](Machine::restore). The outcome may depend on the state
    /// and the commands only, or servers would drift apart.
    fn apply(&mut self, at: Position, commands: &[Bytes]) -> Vec<Bytes>;

    /// Makes the state up to `at` visible to readers.
    ///
    /// Called after a run of entries was applied and before their proposers are answered. `at` may be an entry without
    /// commands (the first of a term, a change of members), and is also called after [`restore`](Machine::restore).
    fn publish(&mut self, at: Position);

    /// A frozen, consistent view that can be written out on another thread while apply goes on. Must be cheap.
    fn freeze(&self) -> Box<dyn Frozen>;

    /// Replaces the state by what [`Frozen::write`] wrote.
    ///
    /// # Errors
    /// When the bytes cannot be read or understood. The server then refuses to start.
    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()>;
}

/// A view of a [`Machine`] as it was when it was frozen.
pub trait Frozen: Send {
    /// Writes the view in the form that [`Machine::restore`] reads.
    ///
    /// # Errors
    /// Whatever `out` answers.
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()>;
}
