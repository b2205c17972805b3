//! Request ids: a write that is sent again is applied once (DESIGN section 3).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use byname_api::error::{Code, Error};
use byname_api::request::RequestId;
use byname_api::span::Timestamp;

/// How long a reply is remembered, in milliseconds of logged time.
pub(crate) const REMEMBERED_MS: u64 = 10 * 60 * 1_000;
/// Replies remembered per session.
pub(crate) const PER_SESSION: usize = 1_024;
/// Sessions remembered.
const SESSIONS: usize = 200_000;
/// Opaque keys that are known to be used, beyond their replies.
const USED_KEYS: usize = 200_000;

/// Replies to writes, by session and sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sessions {
    pub(crate) sessions: HashMap<u128, Session>,
    /// Every remembered reply in the order of its time.
    pub(crate) order: VecDeque<(Timestamp, RequestId)>,
    /// Forgotten sessions whose ids do not tell their age, the oldest first.
    pub(crate) used: VecDeque<u128>,
    /// The same, to look one up.
    known: HashSet<u128>,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Session {
    pub(crate) replies: BTreeMap<u64, Arc<[u8]>>,
    /// Sequences up to this one have been forgotten.
    pub(crate) floor: u64,
}

impl Sessions {
    /// The remembered reply, an error for an id that is too old to be known, or `None` for a new one.
    pub(crate) fn recall(&self, id: RequestId, now: Timestamp) -> Option<Result<Arc<[u8]>, Error>> {
        let forgotten = |what: &str| {
            Some(Err(Error::new(
                Code::Conflict,
                format!(
                    "the request id {id} {what}: replies are remembered for 10 minutes, so the request was not applied \
                     (again); read what is there and send a new request with a new id"
                ),
            )
            .field("request_id")))
        };
        match self.sessions.get(&id.session) {
            Some(session) => match session.replies.get(&id.sequence) {
                Some(reply) => Some(Ok(reply.clone())),
                None if id.sequence <= session.floor => forgotten("has been forgotten"),
                None => None,
            },
            None => match RequestId::made(id.session) {
                Some(made) if made.0.saturating_add(REMEMBERED_MS) < now.0 => {
                    forgotten("belongs to a session that was made too long ago")
                }
                None if self.known.contains(&id.session) => forgotten("was used before"),
                _ => None,
            },
        }
    }

    /// Remembers a reply, and forgets what is too old or too much.
    pub(crate) fn remember(&mut self, id: RequestId, reply: Arc<[u8]>, now: Timestamp) {
        self.order.push_back((now, id));
        let session = self.sessions.entry(id.session).or_default();
        session.replies.insert(id.sequence, reply);
        while session.replies.len() > PER_SESSION {
            if let Some((sequence, _)) = session.replies.pop_first() {
                session.floor = session.floor.max(sequence);
            }
        }
        while let Some((at, id)) = self.order.front().copied() {
            if at.0.saturating_add(REMEMBERED_MS) >= now.0 && self.sessions.len() <= SESSIONS {
                break;
            }
            self.order.pop_front();
            self.forget(id);
        }
    }

    fn forget(&mut self, id: RequestId) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        session.replies.remove(&id.sequence);
        session.floor = session.floor.max(id.sequence);
        if session.replies.is_empty() {
            self.sessions.remove(&id.session);
            if RequestId::made(id.session).is_none() {
                self.use_up(id.session);
            }
        }
    }

    /// Takes note of an opaque key that must not be applied again.
    pub(crate) fn use_up(&mut self, key: u128) {
        if self.used.len() == USED_KEYS
            && let Some(oldest) = self.used.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.used.push_back(key);
        self.known.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(n: u8) -> Arc<[u8]> {
        Arc::from([n])
    }

    #[test]
    fn a_retry_gets_the_first_reply_and_an_old_one_a_conflict() {
        let start = Timestamp(1_000_000_000);
        let stamped = RequestId { session: RequestId::session_at(start, 7), sequence: 1 };
        let opaque = RequestId { session: RequestId::session_of_key(9), sequence: 1 };
        let mut sessions = Sessions::default();
        for id in [stamped, opaque] {
            assert!(sessions.recall(id, start).is_none());
            sessions.remember(id, reply(1), start);
            assert_eq!(sessions.recall(id, start).unwrap().unwrap(), reply(1));
        }
        let later = Timestamp(start.0 + REMEMBERED_MS + 1);
        let fresh = RequestId { session: RequestId::session_at(later, 8), sequence: 1 };
        sessions.remember(fresh, reply(2), later);
        for id in [stamped, opaque] {
            assert_eq!(sessions.recall(id, later).unwrap().unwrap_err().code(), Code::Conflict);
        }
        assert_eq!(sessions.recall(fresh, later).unwrap().unwrap(), reply(2));
    }

    #[test]
    fn a_session_keeps_a_bounded_number_of_replies() {
        let now = Timestamp(5);
        let session = RequestId::session_at(now, 1);
        let mut sessions = Sessions::default();
        for sequence in 1..=PER_SESSION as u64 + 1 {
            sessions.remember(RequestId { session, sequence }, reply(0), now);
        }
        let first = sessions.recall(RequestId { session, sequence: 1 }, now).unwrap();
        assert_eq!(first.unwrap_err().code(), Code::Conflict);
        assert!(sessions.recall(RequestId { session, sequence: 2 }, now).unwrap().is_ok());
    }
}
