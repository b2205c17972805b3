//! The state machine as the consensus engine sees it: a [`Machine`], how far it has come, and its snapshots.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::impls::BasicNode;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;

use crate::disk::blocking;
use crate::raft::{Id, MembersAt, Meta, Term, Types, position};
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::standing::Standing;
use crate::{Frozen, Machine, OpenError};

/// What the engine drives.
pub(crate) struct StateMachine {
    /// Never locked, the engine's worker owns it: it only makes this `Sync`.
    machine: Mutex<Box<dyn Machine>>,
    snapshots: Arc<Snapshots>,
    standing: Arc<Standing>,
    applied: Option<Id>,
    members: MembersAt,
    /// The next snapshot the engine asks for is written already.
    ready: bool,
}

impl StateMachine {
    /// Restores `machine` from the newest snapshot.
    pub(crate) fn open(mut machine: Box<dyn Machine>, snapshots: Arc<Snapshots>) -> Result<StateMachine, OpenError> {
        let standing = Arc::new(Standing::default());
        let meta = snapshots.restore(|from| machine.restore(from))?.unwrap_or_default();
        if let Some(last) = &meta.last_log_id {
            machine.publish(position(last));
            standing.apply(*last);
        }
        Ok(StateMachine {
            machine: Mutex::new(machine),
            snapshots,
            standing,
            applied: meta.last_log_id,
            members: meta.last_membership,
            ready: false,
        })
    }

    /// A view of the state as it is now, and its description.
    pub(crate) fn freeze(&mut self) -> (Meta, Box<dyn Frozen>) {
        let meta = Meta { last_log_id: self.applied, last_membership: self.members.clone() };
        (meta, self.machine.get_mut().freeze())
    }

    /// Lets the engine's next request for a snapshot find the newest one.
    pub(crate) fn snapshot_ready(&mut self) {
        self.ready = true;
    }

    /// Says what is applied.
    pub(crate) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    pub(crate) fn members(&self) -> &MembersAt {
        &self.members
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<Id>, MembersAt)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let at = position(&entry.log_id);
            let machine = self.machine.get_mut();
            let replies = match &entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(commands) => {
                    let replies = machine.apply(at, &commands.0).inspect_err(|error| {
                        tracing::error!(%error, index = at.index, "this server stops: it cannot apply an entry of the log");
                    })?;
                    if replies.len() != commands.0.len() {
                        let (got, want) = (replies.len(), commands.0.len());
                        return Err(io::Error::other(format!(
                            "the state machine gave {got} replies to {want} commands"
                        )));
                    }
                    replies
                }
                EntryPayload::Membership(members) => {
                    self.members = MembersAt::new(Some(entry.log_id), members.clone());
                    Vec::new()
                }
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                answers.push((responder, replies));
            }
        }
        if let Some(applied) = &self.applied {
            self.machine.get_mut().publish(position(applied));
            self.standing.apply(*applied);
        }
        for (responder, replies) in answers {
            responder.send(replies);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let ready = std::mem::take(&mut self.ready).then(|| self.snapshots.newest()).flatten();
        let work = match ready {
            Some((meta, file)) => Work::Ready(meta, file),
            None => {
                let (meta, frozen) = self.freeze();
                Work::Write(meta, frozen)
            }
        };
        Builder { snapshots: Arc::clone(&self.snapshots), work: Mutex::new(Some(work)) }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotFile) -> io::Result<()> {
        self.snapshots.adopt(meta, &snapshot)?;
        let machine = self.machine.get_mut();
        let meta = self.snapshots.restore(|from| machine.restore(from)).map_err(io::Error::other)?.unwrap_or_default();
        if let Some(last) = &meta.last_log_id {
            machine.publish(position(last));
            self.standing.apply(*last);
        }
        self.applied = meta.last_log_id;
        self.members = meta.last_membership;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<Term, u64, BasicNode, SnapshotFile>>> {
        Ok(self.snapshots.newest().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Makes one snapshot for the engine.
pub(crate) struct Builder {
    snapshots: Arc<Snapshots>,
    work: Mutex<Option<Work>>,
}

enum Work {
    Ready(Meta, SnapshotFile),
    Write(Meta, Box<dyn Frozen>),
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<Term, u64, BasicNode, SnapshotFile>> {
        match self.work.get_mut().take() {
            Some(Work::Ready(meta, snapshot)) => Ok(Snapshot { meta, snapshot }),
            Some(Work::Write(meta, frozen)) => {
                let (snapshots, describe) = (Arc::clone(&self.snapshots), meta.clone());
                let write = move || snapshots.write(&describe, |out| frozen.write(out));
                let snapshot = blocking(self.snapshots.disk(), write).await??;
                Ok(Snapshot { meta, snapshot })
            }
            None => Err(io::Error::other("the snapshot was taken before")),
        }
    }
}
