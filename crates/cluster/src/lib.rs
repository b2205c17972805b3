//! The replicated log under the registry.
//!
//! A [`Cluster`] takes commands, opaque bytes, brings them into one order, has them on disk at a majority of the servers, and
//! applies them to a [`Machine`]. The consensus engine is openraft, behind this boundary. This crate knows neither the registry
//! nor names, and of other servers no more than a number and an address.
//!
//! # Several servers
//!
//! ```text
//! engine ─▶ network.rs: a call a message, entries pipelined ─▶ Transport ═══▶ Cluster::answer ─▶ answer.rs ─▶ engine
//!                        wire.rs: the bytes                     links.rs: over byte streams
//! ```
//!
//! - Membership changes one server at a time, jointly where voters change (`members.rs`). A newcomer receives the log first, and
//!   has a vote when it has nearly caught up.
//! - A read that must see everything asks the majority and writes nothing; questions that come together are one (`confirm.rs`). A
//!   backup asks the primary how far it must be, and waits until it is.
//! - Snapshots are sent in pieces, checked whole before the engine hears of them, and renamed into place.
//! - A backup does not vote against a primary that it heard within the longer election time-out, unless it sees that the
//!   primary's process has ended, or the primary hands the lead over itself before a planned end.
//! - A backup of everything is a snapshot's file; `salvage.rs` begins a cluster from one, and makes the last server that is
//!   left the only one.
//!
//! # The folder
//!
//! ```text
//! DIR/log/0000000000000001.log …        the log: segments, numbered without a gap
//! DIR/snapshots/TERM-INDEX.snap         the state machine written out; the newest two
//! ```
//!
//! `log/frame.rs` and `snapshot.rs` open with the bytes. Each file begins with a magic number and a version; a later version
//! is refused by name. Everything is behind a checksum (CRC-32C). The vote, truncations and purges are records of the log like
//! entries are, and the header of each segment repeats what was true when it was made, so there is no further file whose
//! writes would have to be kept in step with the log's, and a segment can be deleted without a look into it.
//!
//! # The write path
//!
//! ```text
//! propose ─┬─ few entries under way ──▶ one entry ─┐
//!          └─ wait; all that wait are one entry ───┤         (proposals.rs)
//!                                                  ▼
//!              engine: append ──▶ queue ──▶ writer thread: one write, one fdatasync for all that waited
//!                                                  │          (log/writer.rs)
//!              engine: commit ◀── IOFlushed ───────┘
//!                 └─▶ Machine::apply … Machine::publish ──▶ replies      (state.rs)
//! ```
//!
//! Two places gather: proposals into entries while four entries are under way, entries into writes while the disk is busy.
//! Neither waits for company, so one client pays for its own fdatasync and no more, and many share.
//!
//! Segments are reserved on disk when they are made (so a full disk shows then, and not in the middle) and zeroed a little
//! ahead while nothing waits. Everything between is bounded: proposals by number and bytes (the oldest waiting is shed),
//! entries under way by number, the write buffer and the part of the log kept in memory by bytes.
//!
//! # Recovery
//!
//! 1. The newest snapshot is read; a damaged one refuses the start and names the way out, which the log allows, because it is
//!    kept from the older snapshot on.
//! 2. The log is read. Every segment but the last ends where its successor says; a fault before that is damage. In the last
//!    one, the first place that is not a good record is the end. If a good record behind it was written after that place was
//!    on disk (each record says how much was), it is damage, and the start is refused; else it is a write that a power cut
//!    tore, nobody was told of it, and it is cut off. A clean end leaves a mark that proves the very last write.
//! 3. What is not proven is written and synced again, and so are the names: the process before may have been killed between a
//!    write and its sync, or after a sync that failed, and the kernel's memory is not the disk.
//! 4. A sole voter calls all of it committed, for its own disk is the majority, applies it, and makes itself the primary of a
//!    new term without waiting for an election time-out.
//!
//! # When the disk refuses
//!
//! A full disk, or one that fails, never stops the engine. The writer keeps what it holds and tries again until it is told to
//! stop; new proposals are refused at once, those under way are answered `Unknown` after a short while, reads go on, and
//! writes resume by themselves. After a failed sync the file is never written again: its end is fixed in the header of a new
//! segment, where everything unsynced is written anew.
//!
//! # Time
//!
//! No wall clock is read. Time-outs (elections, patience) only decide when to try or to give up, never what is true.
//!
//! # What was rejected
//!
//! - A store of others under the log: every write waits for the log, and it is the one thing that must be as fast as the disk
//!   (raw log 2.6 M synced records/s at batch 512, the next best 0.8 M).
//! - A separate file for the vote: one more fsync in every election, and an order between two files to prove.
//! - Cutting at the first bad record, whatever follows: it would turn rot in the middle into a silent loss of everything
//!   behind it. Refusing whenever a good record follows a bad one: the sectors of one torn write may land in any order, so a
//!   plain power cut would do that.
//! - `O_DIRECT` with `O_DSYNC`: 8 % less latency for one client on ext4, for writes in whole blocks that must be read back
//!   and padded.
//! - A task that gathers proposals: one more task to wake in the path of every write.
//! - The engine's own snapshot policy: it counts entries, and ours hold up to a thousand commands; and it stops for good when a
//!   snapshot cannot be written, which a full disk must not cause.
//! - Restoring leadership at a start without an election: the term would stay the same, and an order given before the start
//!   could not be told from one given after it.

mod answer;
mod cluster;
mod confirm;
pub mod disk;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod links;
mod lock;
mod log;
mod members;
mod mutations;
mod network;
mod peers;
mod proposals;
mod raft;
mod salvage;
mod snapshot;
mod standing;
mod state;
mod wire;

use std::io::{self, Read, Write};

use bytes::Bytes;

pub use cluster::{Cluster, Freshness, Options, Role, State, Status};
pub use error::{ChangeError, OpenError, ProposeError, SnapshotError};
pub use lock::{DirLock, lock_data_dir};
pub use members::Member;
#[cfg(feature = "mutations")]
pub use mutations::Mutation;
pub use peers::{Lane, NoPeers, Server, Transport};
pub use salvage::{read_backup, restore, stand_alone};

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
    ///
    /// # Errors
    /// When an entry is not understood that another server may understand, such as one of a later version. The server then
    /// stops: it would differ from the others for ever.
    fn apply(&mut self, at: Position, commands: &[Bytes]) -> io::Result<Vec<Bytes>>;

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
