//! What this server has promised and has applied, to be looked at without asking the engine.

use parking_lot::Mutex;

use crate::mutations::{Mutation, mutated};
use crate::raft::{Ballot, Id};

/// Kept by the log and the state machine of one server.
#[derive(Default)]
pub(crate) struct Standing(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    promised: Option<Ballot>,
    applied: Option<Id>,
}

impl Standing {
    /// A vote is about to be written: nobody hears of it before it was said here.
    pub(crate) fn promise(&self, vote: Ballot) {
        self.0.lock().promised = Some(vote);
    }

    /// Everything up to here is applied and can be read: nobody hears the answer to a write before it was said here.
    pub(crate) fn apply(&self, upto: Id) {
        self.0.lock().applied = Some(upto);
    }

    /// Up to where everything is applied.
    pub(crate) fn applied(&self) -> Option<Id> {
        self.0.lock().applied
    }

    /// Whether this server has promised nothing to anybody who came after the primary of `vote`.
    pub(crate) fn allows(&self, vote: &Ballot) -> bool {
        if mutated(Mutation::AllowedWithoutLooking) {
            return true;
        }
        self.0.lock().promised.is_none_or(|promised| {
            promised.leader_id.term < vote.leader_id.term || promised.leader_id == vote.leader_id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::LeaderId;

    #[test]
    fn a_server_allows_whom_it_follows_and_nobody_whom_it_has_left() {
        let vote = |term, voted_for, committed| Ballot { leader_id: LeaderId { term, voted_for }, committed };
        let standing = Standing::default();
        assert!(standing.allows(&vote(1, 1, true)));
        standing.promise(vote(3, 2, false));
        for (asked, allowed) in
            [(vote(2, 1, true), false), (vote(3, 1, true), false), (vote(3, 2, true), true), (vote(4, 1, true), true)]
        {
            assert_eq!(standing.allows(&asked), allowed, "{asked}");
        }
    }
}
