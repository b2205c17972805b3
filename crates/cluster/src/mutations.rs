//! This crate, broken on purpose, so that a simulation can show that it would notice.
//!
//! Only with the feature `mutations`, which nothing that ships has; without it every question here is answered with no when the
//! program is compiled.

/// A way to be broken.
#[cfg_attr(not(feature = "mutations"), expect(unreachable_pub, reason = "only simulations see it"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// A vote is given and not written down.
    VoteNotWritten = 1,
    /// Entries are acknowledged before they are on disk.
    EntriesNotSynced,
    /// A failed sync is taken for a good one.
    FailedSyncIgnored,
    /// The primary takes it for granted that its peers have what it sent them.
    AnsweredBeforeMajority,
    /// A primary answers linearizable reads without asking whether it is the primary still.
    ConfirmedWithoutMajority,
    /// A server says that it has promised the lead to nobody else, without looking.
    AllowedWithoutLooking,
    /// What was cut off from the log is not marked so on disk.
    TruncationNotWritten,
    /// Entries that are read from disk may be some that were cut off.
    CutOffEndRead,
    /// All that a start finds in its log counts as committed, however many servers there are.
    FoundIsCommitted,
    /// A snapshot gets its name before it is on disk.
    SnapshotNotSynced,
    /// A snapshot's name is not made durable before the log that it stands for goes.
    SnapshotNameNotSynced,
}

#[cfg(feature = "mutations")]
static ACTIVE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

#[cfg(feature = "mutations")]
impl Mutation {
    /// Every one.
    pub const ALL: [Mutation; 11] = [
        Mutation::VoteNotWritten,
        Mutation::EntriesNotSynced,
        Mutation::FailedSyncIgnored,
        Mutation::AnsweredBeforeMajority,
        Mutation::ConfirmedWithoutMajority,
        Mutation::AllowedWithoutLooking,
        Mutation::TruncationNotWritten,
        Mutation::CutOffEndRead,
        Mutation::FoundIsCommitted,
        Mutation::SnapshotNotSynced,
        Mutation::SnapshotNameNotSynced,
    ];

    /// Breaks the crate in this way, for the rest of the process.
    pub fn activate(self) {
        ACTIVE.store(self as u8, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Whether the crate is broken in this way.
#[cfg(feature = "mutations")]
pub(crate) fn mutated(by: Mutation) -> bool {
    ACTIVE.load(std::sync::atomic::Ordering::Relaxed) == by as u8
}

/// Whether the crate is broken in this way: it is not.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn mutated(_: Mutation) -> bool {
    false
}
