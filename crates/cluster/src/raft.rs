//! What the consensus engine is told about this program: the types of its log.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::impls::{BasicNode, BoxedErrorSource, InlineBatch, Vote, leader_id_std};
use openraft::raft::{ClientWriteResult, responder::Responder};
use openraft::vote::RaftLeaderId;
use openraft::{Entry, EntryPayload, LogId, OptionalSend, RaftTypeConfig, SnapshotMeta, StoredMembership};

use crate::Position;

/// The choices of this program: numbers for servers and terms, one primary a term, batches of commands as entries.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Types;

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type Term = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type Id = LogId<Term>;
pub(crate) type Ballot = Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Commands, u64, BasicNode>;
pub(crate) type LogEntry = Entry<Term, Payload>;
pub(crate) type Members = openraft::Membership<u64, BasicNode>;
pub(crate) type MembersAt = StoredMembership<Term, u64, BasicNode>;
pub(crate) type Meta = SnapshotMeta<Term, u64, BasicNode>;

impl RaftTypeConfig for Types {
    type D = Commands;
    type R = Vec<Bytes>;
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Ballot;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Answer<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// The commands of one log entry. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commands(pub(crate) Arc<[Bytes]>);

impl Commands {
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

/// Called with the outcome of an entry, on the engine's task: it must not block.
pub(crate) struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl Answer<ClientWriteResult<Types>> {
    pub(crate) fn new(call: impl FnOnce(ClientWriteResult<Types>) + Send + 'static) -> Self {
        Answer(Box::new(call))
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Answer<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) fn id(term: u64, index: u64) -> Id {
    LogId { leader_id: Term::from(term), index }
}

pub(crate) fn position(id: &Id) -> Position {
    Position { term: id.leader_id.term, index: id.index }
}
