//! A service's instances, its state derived from them, and its restart budget.

use std::collections::VecDeque;

use byname_api::error::Error;
use byname_api::launch::Restart;
use byname_api::object::{InstanceId, Stamp};
use byname_api::service::{Endpoint, State};
use byname_api::span::{Span, Timestamp};
use byname_name::Name;

use crate::computers::Footing;
use crate::health::Verdict;

/// How much of a service's story is kept.
const STORY: usize = 40;
/// How many ends are kept, so that everybody who waited for one of several copies learns of it.
const ENDS: usize = 8;
/// The longest pause between two starts.
const MAX_BACKOFF: Span = Span::from_secs(30);

/// What runs under a service's name, and what happened to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Live instances, in the order of their starts.
    pub instances: Vec<Instance>,
    /// Who stopped it for good, if somebody did.
    pub held: Option<Stamp>,
    /// Starts since it was made.
    pub starts: u64,
    /// When it failed lately; those within the budget's window count.
    pub failures: Vec<Timestamp>,
    /// The budget is spent.
    pub failed: bool,
    /// The last ends, the newest last.
    pub ends: VecDeque<End>,
    /// The story, oldest first.
    pub story: VecDeque<Happening>,
}

/// One copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Where it runs; a program that advertised itself from elsewhere has none.
    pub computer: Option<Name>,
    /// Where it listens; an empty address is the computer's.
    pub endpoints: Vec<Endpoint>,
    /// Its state.
    pub state: State,
    /// Its process.
    pub pid: Option<u32>,
    /// When it was started or first advertised.
    pub started: Timestamp,
    /// How it came to be.
    pub origin: Origin,
    /// SHA-256 of its credential, once it has one.
    pub credential: Option<[u8; 32]>,
    /// Its share.
    pub weight: Option<u32>,
    /// What its program says of itself when it is not well.
    pub health: Option<String>,
    /// What its agent's checks found, if there are any.
    pub checked: Option<Verdict>,
    /// What was reported of it, if anything was.
    pub reported: Option<Verdict>,
    /// Its ticket and credential were revoked: no find gives it any more, and nobody can speak for it.
    pub revoked: bool,
    /// How firmly it stands, by the state of its host.
    pub footing: Footing,
}

/// How an instance came to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// An agent started it by order.
    Launched {
        /// SHA-256 of the program's half of the ticket, until it is used.
        ticket: Option<[u8; 32]>,
        /// SHA-256 of the server's half.
        proof: [u8; 32],
    },
    /// It advertised itself and holds a lease.
    Advertised {
        /// How long the lease holds, in milliseconds.
        ttl_ms: u64,
        /// How often it was granted in the log.
        renewal: u64,
    },
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Which.
    pub instance: InstanceId,
    /// When.
    pub at: Timestamp,
    /// In words.
    pub how: String,
    /// Its last lines.
    pub last_lines: String,
    /// The error for those who waited for it, when the start failed.
    pub error: Option<Error>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// When.
    pub at: Timestamp,
    /// To which instance.
    pub instance: Option<InstanceId>,
    /// What.
    pub what: String,
}

/// The lock of an object, while somebody holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct LockState {
    /// The fencing token: the revision of the tree at the grant, so greater than that of every earlier lock.
    pub fence: u64,
    /// Who holds it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// How long it holds without renewal, in milliseconds.
    pub ttl_ms: u64,
    /// Identifies the lease: the revision of the tree at the grant or the last renewal.
    pub renewal: u64,
    /// SHA-256 of the holder's key.
    pub key: [u8; 32],
}

impl Instance {
    /// Whether it has proved to be what it says, and may go on doing so: it exchanged its launch ticket for a
    /// credential, or an authenticated caller advertised it, and it is not revoked.
    pub fn holds_ticket(&self) -> bool {
        let shown = match self.origin {
            Origin::Launched { ticket, .. } => ticket.is_none(),
            Origin::Advertised { .. } => true,
        };
        shown && self.credential.is_some() && !self.revoked
    }
}

impl Service {
    /// The state that the service is in, from those of its instances.
    pub fn state(&self) -> State {
        let has = |state| self.instances.iter().any(|i| i.seen_state() == state);
        [State::Running, State::Starting, State::Unhealthy, State::Stopping]
            .into_iter()
            .find(|s| has(*s))
            .unwrap_or(if self.failed { State::Failed } else { State::Stopped })
    }

    /// The instance of this id.
    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.iter().find(|i| i.id == id)
    }

    /// The instance of this id, to change it.
    pub fn instance_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|i| i.id == id)
    }

    /// Copies that are there or will be: starting or running, and not about to leave or lost.
    pub fn copies(&self) -> usize {
        self.instances.iter().filter(|i| i.counts() && matches!(i.state, State::Starting | State::Running)).count()
    }

    /// Instances that take up room within `max`.
    pub fn taken(&self) -> usize {
        self.instances.iter().filter(|i| i.counts()).count()
    }

    /// How the given instance ended, if that is still known.
    pub fn end_of(&self, id: InstanceId) -> Option<&End> {
        self.ends.iter().rev().find(|e| e.instance == id)
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, at: Timestamp, instance: Option<InstanceId>, what: impl Into<String>) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story.push_back(Happening { at, instance, what: what.into() });
    }

    /// Takes note of an end.
    pub fn note_end(&mut self, end: End) {
        if self.ends.len() == ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
    }

    /// Counts a failure; true when it spent the budget.
    pub fn count_failure(&mut self, at: Timestamp, budget: Restart) -> bool {
        self.failures.push(at);
        self.forget_failures(at, budget);
        self.failed = self.failures.len() >= budget.max as usize;
        self.failed
    }

    /// How many failures count at this time.
    pub fn recent_failures(&self, now: Timestamp, budget: Restart) -> usize {
        let from = now.0.saturating_sub(budget.window.as_millis());
        self.failures.iter().filter(|at| at.0 >= from).count()
    }

    /// When the next start may be: at once after the first failure, then after a pause that doubles.
    pub fn not_before(&self, now: Timestamp, budget: Restart) -> Timestamp {
        match (self.recent_failures(now, budget), self.failures.last()) {
            (count @ 2.., Some(last)) => {
                let doublings = u32::try_from(count - 2).unwrap_or(u32::MAX).min(20);
                let pause = budget.backoff.as_millis().saturating_mul(1 << doublings).min(MAX_BACKOFF.as_millis());
                Timestamp(last.0.saturating_add(pause))
            }
            _ => Timestamp(0),
        }
    }

    fn forget_failures(&mut self, now: Timestamp, budget: Restart) {
        let from = now.0.saturating_sub(budget.window.as_millis());
        self.failures.retain(|at| at.0 >= from);
        let excess = self.failures.len().saturating_sub(budget.max as usize);
        self.failures.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_the_budget_ends() {
        let budget = Restart { max: 4, window: Span::from_secs(10), backoff: Span::from_millis(100) };
        let mut service = Service::default();
        let mut pauses = Vec::new();
        for n in 1..=4u64 {
            let at = Timestamp(n * 1_000);
            let spent = service.count_failure(at, budget);
            assert_eq!(spent, n == 4);
            pauses.push(service.not_before(at, budget).0.saturating_sub(at.0));
        }
        assert_eq!(pauses, [0, 100, 200, 400]);
        assert_eq!(service.state(), State::Failed);
        assert_eq!(service.recent_failures(Timestamp(13_500), budget), 1);
    }
}
