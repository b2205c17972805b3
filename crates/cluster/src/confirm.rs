//! Linearizable reads without a write: how far must a reader be?
//!
//! The primary asks the majority whether it is the primary still (ReadIndex, Raft thesis section 6.4); a backup asks the
//! primary. One question is under way at a time, and all that come meanwhile share the next: so many readers cost no more
//! than one.
//!
//! The majority answers from [`Standing`], beside the engine: a later primary needs a vote of one of them, and that one says
//! so from before it gives the vote. The engine's own way is asked when that one is of no use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::mutations::{Mutation, mutated};
use crate::network::Network;
use crate::peers::Lane;
use crate::raft::{Types, position};
use crate::standing::Standing;
use crate::state::StateMachine;
use crate::wire;
use crate::{Position, ProposeError};

type Answer = Result<Position, ProposeError>;

/// The questions of one server.
pub(crate) struct Confirms {
    raft: Raft<Types, StateMachine>,
    network: Network,
    standing: Arc<Standing>,
    node: u64,
    patience: Duration,
    here: Mutex<Waiting>,
    anywhere: Mutex<Waiting>,
}

/// Those who wait for the next question.
#[derive(Default)]
struct Waiting {
    asking: bool,
    next: Vec<oneshot::Sender<Answer>>,
}

#[derive(Clone, Copy)]
enum Way {
    /// Of the majority, by this server as the primary.
    Here,
    /// Of whoever is the primary.
    Anywhere,
}

impl Confirms {
    pub(crate) fn new(
        raft: Raft<Types, StateMachine>,
        network: Network,
        standing: Arc<Standing>,
        node: u64,
        patience: Duration,
    ) -> Arc<Confirms> {
        let (here, anywhere) = (Mutex::default(), Mutex::default());
        Arc::new(Confirms { raft, network, standing, node, patience, here, anywhere })
    }

    /// Up to where everything was answered; applied here when this returns.
    pub(crate) async fn confirm(self: &Arc<Self>) -> Answer {
        self.share(Way::Anywhere).await
    }

    /// The same, when this server is the primary.
    pub(crate) async fn confirm_here(self: &Arc<Self>) -> Answer {
        self.share(Way::Here).await
    }

    async fn share(self: &Arc<Self>, way: Way) -> Answer {
        let (tell, told) = oneshot::channel();
        let begin = {
            let mut waiting = self.waiting(way).lock();
            waiting.next.push(tell);
            !std::mem::replace(&mut waiting.asking, true)
        };
        if begin {
            // In a task of its own: whoever asks may go away, and others wait for the answer too.
            tokio::spawn(self.clone().ask_for_all(way));
        }
        told.await.unwrap_or(Err(ProposeError::Stopped))
    }

    fn waiting(&self, way: Way) -> &Mutex<Waiting> {
        match way {
            Way::Here => &self.here,
            Way::Anywhere => &self.anywhere,
        }
    }

    async fn ask_for_all(self: Arc<Self>, way: Way) {
        loop {
            let those = {
                let mut waiting = self.waiting(way).lock();
                if waiting.next.is_empty() {
                    waiting.asking = false;
                    return;
                }
                std::mem::take(&mut waiting.next)
            };
            let late = |_| Err(ProposeError::Unavailable("no majority answered in time".to_owned()));
            let answer = tokio::time::timeout(self.patience, self.ask(way)).await.unwrap_or_else(late);
            for tell in those {
                let _ = tell.send(answer.clone());
            }
        }
    }

    async fn ask(&self, way: Way) -> Answer {
        let mut metrics = self.raft.metrics();
        let primary = loop {
            let (leads, primary) = {
                let metrics = metrics.borrow_and_update();
                (metrics.state == ServerState::Leader, metrics.current_leader)
            };
            match (way, primary) {
                (Way::Anywhere, Some(primary)) if !leads && primary != self.node => break primary,
                // Between two primaries, or after a start: there will be one soon.
                (Way::Anywhere, None) => metrics.changed().await.map_err(|_| ProposeError::Stopped)?,
                _ => return self.ask_majority().await,
            }
        };
        self.ask_primary(primary).await
    }

    async fn ask_majority(&self) -> Answer {
        if mutated(Mutation::ConfirmedWithoutMajority)
            && let metrics = self.raft.metrics().borrow_watched().clone()
            && metrics.state == ServerState::Leader
            && let Some(applied) = metrics.last_applied
        {
            return Ok(position(&applied));
        }
        if let Some(at) = self.still_leads().await {
            return Ok(at);
        }
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                ProposeError::NotPrimary { primary: forward.leader_id }
            }
            RaftError::APIError(error) => ProposeError::Unavailable(format!("no majority answers: {error}")),
            RaftError::Fatal(_) => ProposeError::Stopped,
        })?;
        let read = linearizer.await_ready(&self.raft).await.map_err(|_| ProposeError::Stopped)?;
        Ok(position(read.read_log_id().log_id()))
    }

    /// Up to where everything was answered when this was called, if a majority has promised the lead to nobody else since.
    async fn still_leads(&self) -> Option<Position> {
        let (vote, configs) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return None;
            }
            (metrics.vote, metrics.membership_config.membership().get_joint_config().clone())
        };
        // What was answered in earlier terms is known to be here only with an entry of this one.
        let read = self.standing.applied().filter(|at| at.leader_id.term == vote.leader_id.term)?;
        if vote.leader_id.voted_for != self.node || !self.standing.allows(&vote) {
            return None;
        }
        let question = wire::still(&vote);
        let peers: BTreeSet<u64> = configs.iter().flatten().copied().filter(|id| *id != self.node).collect();
        let mut asked: FuturesUnordered<_> = peers
            .into_iter()
            .map(|id| {
                let asked = self.network.ask(id, Lane::Log, question.clone(), self.patience);
                async move { asked.await.is_ok().then_some(id) }
            })
            .collect();
        let mut with = BTreeSet::from([self.node]);
        let most =
            |with: &BTreeSet<u64>| configs.iter().all(|config| config.intersection(with).count() * 2 > config.len());
        while !most(&with) {
            with.extend(asked.next().await?);
        }
        Some(position(&read))
    }

    async fn ask_primary(&self, primary: u64) -> Answer {
        let asked = self.network.ask(primary, Lane::Log, wire::read_point(), self.patience).await;
        let unavailable = |why: String| ProposeError::Unavailable(format!("the primary does not answer: {why}"));
        let answer = asked.map_err(|error| unavailable(error.to_string()))?;
        let at = wire::position_answer(answer).ok_or_else(|| unavailable("the answer is damaged".to_owned()))?;
        let mut applied = self.raft.watch_apply_progress();
        loop {
            if applied.get().is_some_and(|id| id.index >= at.index) {
                return Ok(at);
            }
            applied
                .wait_until_ge(&Some(crate::raft::id(at.term, at.index)))
                .await
                .map_err(|_| ProposeError::Stopped)?;
        }
    }
}
