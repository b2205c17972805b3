//! From single commands to entries of the log, and from their outcomes back to those who wait.
//!
//! A command goes straight to the engine when few entries are under way. Otherwise it waits, and all that wait become one
//! entry as soon as an entry completes. So a lone client pays for nothing but its own write, and many clients share entries,
//! writes and syncs, the more the busier it is; no timer is involved.
//!
//! The proposer makes the entry itself, in its own task, so there is no queue task to wake. Those who wait are kept in a table
//! here and not in the engine, so that they can be answered while the disk stands still.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};

use bytes::Bytes;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ProposeError;
use crate::raft::{Answer, Commands, Types};
use crate::state::StateMachine;

/// At most this many entries are under way.
const ENTRIES_UNDER_WAY: usize = 4;
/// At most this many commands go into one entry,
const COMMANDS_PER_ENTRY: usize = 1024;
/// and they exceed this many bytes only if the first alone does.
const BYTES_PER_ENTRY: usize = 1 << 20;
/// The largest command.
pub(crate) const COMMAND_BYTES_MAX: usize = 4 << 20;

type Reply = oneshot::Sender<Result<Bytes, ProposeError>>;

/// All proposals that have no answer yet.
pub(crate) struct Proposals {
    inner: Mutex<Inner>,
    raft: OnceLock<Raft<Types, StateMachine>>,
    count_max: usize,
    bytes_max: usize,
}

struct Inner {
    waiting: VecDeque<(Bytes, Reply)>,
    under_way: HashMap<u64, UnderWay>,
    next: u64,
    /// Of both.
    count: usize,
    bytes: usize,
    refuse: Option<ProposeError>,
    /// No majority has been heard for a while.
    isolated: bool,
}

/// An entry that was given to the engine.
struct UnderWay {
    replies: Vec<Reply>,
    count: usize,
    bytes: usize,
}

/// Sees to it that an entry is answered even when the engine stops and drops it.
struct Ticket {
    proposals: Arc<Proposals>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.proposals.complete(self.number, Err(ProposeError::Stopped));
    }
}

impl Proposals {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Proposals {
        Proposals {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                under_way: HashMap::new(),
                next: 0,
                count: 0,
                bytes: 0,
                refuse: None,
                isolated: false,
            }),
            raft: OnceLock::new(),
            count_max,
            bytes_max,
        }
    }

    /// Must be called once, before the first proposal.
    pub(crate) fn start(&self, raft: Raft<Types, StateMachine>) {
        let _ = self.raft.set(raft);
    }

    pub(crate) async fn propose(self: &Arc<Self>, command: Bytes) -> Result<Bytes, ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len(), limit: COMMAND_BYTES_MAX });
        }
        let (reply, answer) = oneshot::channel();
        let (entry, shed) = {
            let mut inner = self.inner.lock();
            if let Some(refuse) = &inner.refuse {
                return Err(refuse.clone());
            }
            if inner.isolated {
                return Err(ProposeError::NotPrimary { primary: None });
            }
            inner.count += 1;
            inner.bytes += command.len();
            inner.waiting.push_back((command, reply));
            let shed = inner.shed(self.count_max, self.bytes_max);
            (inner.next_entry(), shed)
        };
        for reply in shed {
            let _ = reply.send(Err(ProposeError::Overloaded));
        }
        if let Some((number, commands)) = entry {
            self.submit(number, commands);
        }
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// How many have no answer yet.
    pub(crate) fn count(&self) -> usize {
        self.inner.lock().count
    }

    /// Refuses new proposals with this error, or takes them again.
    pub(crate) fn refuse(&self, error: Option<ProposeError>) {
        self.inner.lock().refuse = error;
    }

    /// Refuses new proposals while no majority is heard, and answers those that wait: nothing would answer them before it is.
    pub(crate) fn isolate(&self, isolated: bool) {
        let was = std::mem::replace(&mut self.inner.lock().isolated, isolated);
        if isolated && !was {
            let unknown =
                "no majority of the servers answers; this write may yet be applied: ask again with the same request id";
            self.give_up(&ProposeError::NotPrimary { primary: None }, &ProposeError::Unknown(unknown.to_owned()));
        }
    }

    /// Answers everybody now. Those whose command is with the engine get `unknown`: it may be applied yet.
    pub(crate) fn give_up(&self, waiting: &ProposeError, unknown: &ProposeError) {
        let (never, perhaps) = {
            let mut inner = self.inner.lock();
            let never: Vec<_> = inner.waiting.drain(..).collect();
            inner.count -= never.len();
            inner.bytes -= never.iter().map(|(command, _)| command.len()).sum::<usize>();
            let perhaps: Vec<_> =
                inner.under_way.values_mut().flat_map(|entry| std::mem::take(&mut entry.replies)).collect();
            (never, perhaps)
        };
        for (_, reply) in never {
            let _ = reply.send(Err(waiting.clone()));
        }
        for reply in perhaps {
            let _ = reply.send(Err(unknown.clone()));
        }
    }

    /// Gives an entry to the engine. Once it is taken from the queue it must arrive there, even if the caller's future is
    /// dropped, for it carries the commands of others: so there is nothing to await here.
    fn submit(self: &Arc<Self>, number: u64, commands: Commands) {
        let Some(raft) = self.raft.get().cloned() else { return self.complete(number, Err(ProposeError::Stopped)) };
        let answer = Answer::new({
            let ticket = Ticket { proposals: Arc::clone(self), number };
            move |result: ClientWriteResult<Types>| {
                let outcome = match result {
                    Ok(response) => Ok(response.data),
                    Err(ClientWriteError::ForwardToLeader(forward)) => {
                        Err(ProposeError::NotPrimary { primary: forward.leader_id })
                    }
                    Err(error) => Err(ProposeError::Unknown(format!("the primary changed during the write: {error}"))),
                };
                ticket.proposals.complete(number, outcome);
            }
        });
        let mut sending = Box::pin(async move {
            // An engine that has stopped drops the answer, and that says so.
            let _ = raft.client_write_ff(commands, Some(answer)).await;
        });
        if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(sending);
        }
    }

    /// Passes on the outcome of an entry, and makes the next one.
    fn complete(self: &Arc<Self>, number: u64, outcome: Result<Vec<Bytes>, ProposeError>) {
        let (done, next) = {
            let mut inner = self.inner.lock();
            let Some(done) = inner.under_way.remove(&number) else { return };
            inner.count -= done.count;
            inner.bytes -= done.bytes;
            (done, inner.next_entry())
        };
        // First the next entry: the disk is idle.
        if let Some((number, commands)) = next {
            self.submit(number, commands);
        }
        match outcome {
            Ok(replies) => {
                for (reply, bytes) in done.replies.into_iter().zip(replies) {
                    let _ = reply.send(Ok(bytes));
                }
            }
            Err(error) => {
                for reply in done.replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

impl Inner {
    /// Makes an entry of what waits, if it is time for one.
    fn next_entry(&mut self) -> Option<(u64, Commands)> {
        if self.waiting.is_empty() || self.under_way.len() >= ENTRIES_UNDER_WAY {
            return None;
        }
        let count = self.waiting.len().min(COMMANDS_PER_ENTRY);
        let (mut commands, mut replies) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut bytes = 0;
        while commands.len() < count
            && let Some((next, _)) = self.waiting.front()
            && (commands.is_empty() || bytes + next.len() <= BYTES_PER_ENTRY)
        {
            let Some((command, reply)) = self.waiting.pop_front() else { break };
            bytes += command.len();
            commands.push(command);
            replies.push(reply);
        }
        let number = self.next;
        self.next += 1;
        self.under_way.insert(number, UnderWay { count: commands.len(), replies, bytes });
        Some((number, Commands(Arc::from(commands))))
    }

    /// Takes out the oldest that wait, until the rest is within bounds.
    fn shed(&mut self, count_max: usize, bytes_max: usize) -> Vec<Reply> {
        let mut shed = Vec::new();
        while self.count > count_max || self.bytes > bytes_max {
            let Some((command, reply)) = self.waiting.pop_front() else { break };
            self.count -= 1;
            self.bytes -= command.len();
            shed.push(reply);
        }
        shed
    }
}
