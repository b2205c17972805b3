//! Who belongs to the cluster: adding and removing servers, handing over, and what to do when one has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::BasicNode;
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, Instant as _, RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{Cluster, Inner, Role};
use crate::error::ChangeError;
use crate::network::Network;
use crate::peers::{Lane, Server};
use crate::raft::Types;
use crate::wire;

type Metrics = RaftMetrics<Types>;

/// How long a new server may take to catch up before its addition is given up.
const CATCH_UP: Duration = Duration::from_secs(300);
/// A new server this far behind (in entries) is as good as there.
const NEAR: u64 = 1_000;
/// Between the servers that see the primary gone, so that they do not stand against each other.
const STAGGER: Duration = Duration::from_millis(30);
/// Between two tries to succeed a primary that has gone: the others may not have noticed yet.
const SUCCEED_AGAIN: Duration = Duration::from_millis(20);
const SUCCEED_TRIES: u32 = 10;
/// Between two tries to say where this server is reached.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);
/// How long a majority may take to agree on a change. Whoever is taken out need not hear that it is.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);
/// How long those that would be left when a server is taken out may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_LOOK: Duration = Duration::from_millis(20);
/// How often the primary looks whether a change was left half done.
const FINISH_EVERY: Duration = Duration::from_millis(500);

/// A server of the cluster and how it stands, as the server that was asked knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The server.
    pub server: Server,
    /// Whether it has a vote; if not, it receives the log only.
    pub voter: bool,
    /// It is the primary.
    pub primary: bool,
    /// Entries that it has not confirmed yet; known on the primary only.
    pub behind: Option<u64>,
    /// The time since it last answered; known on the primary only.
    pub silent: Option<Duration>,
}

impl Member {
    /// Whether it lacks so little that it may have a vote.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.behind.is_some_and(|behind| behind <= NEAR)
    }
}

fn servers(metrics: &Metrics) -> Vec<Server> {
    let nodes = metrics.membership_config.membership().nodes();
    nodes.map(|(id, node)| Server { id: *id, address: node.addr.clone() }).collect()
}

/// Follows the engine: tells what this server is, and the network where the others are.
pub(crate) async fn follow(mut metrics: WatchReceiverOf<Types, Metrics>, network: Network, role: watch::Sender<Role>) {
    let mut known = Vec::new();
    loop {
        let (now, members) = {
            let metrics = metrics.borrow_and_update();
            let term = metrics.current_term;
            let caught_up = metrics.last_applied.is_some_and(|id| id.leader_id.term == term);
            let primary = metrics.state == ServerState::Leader && caught_up;
            (Role { term, primary, of: metrics.current_leader }, servers(&metrics))
        };
        if members != known {
            network.learn(members.iter().cloned());
            known = members;
        }
        role.send_if_modified(|role| std::mem::replace(role, now) != now);
        if metrics.changed().await.is_err() {
            role.send_if_modified(|role| std::mem::take(&mut role.primary));
            return;
        }
    }
}

/// Sees to it that the cluster knows where this server is reached.
pub(crate) async fn announce(inner: Weak<Inner>, address: String) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let (node, known, primary) = {
            let metrics = inner.metrics.borrow_watched();
            let known = metrics.membership_config.membership().get_node(&inner.node).map(|node| node.addr.clone());
            (inner.node, known, metrics.current_leader)
        };
        if known.as_ref() == Some(&address) {
            return;
        }
        // A server that was not added yet is announced by whoever adds it.
        let done = match (known, primary) {
            (None, _) => false,
            (Some(_), Some(primary)) if primary == node => take_address(&inner, node, address.clone()).await.is_ok(),
            (Some(_), primary) => {
                // A primary that looks for this server where it was is not heard: then whoever is there is asked.
                let others = servers(&inner.metrics.borrow_watched()).into_iter().map(|server| server.id);
                let asked = others.filter(|id| *id != node && primary.is_none_or(|primary| primary == *id));
                let asked: Vec<u64> = asked.collect();
                let calls = asked
                    .into_iter()
                    .map(|id| inner.network.ask(id, Lane::Log, wire::announce(node, &address), inner.election.1));
                futures_util::future::join_all(calls).await.iter().any(Result::is_ok)
            }
        };
        drop(inner);
        if !done {
            tokio::time::sleep(ANNOUNCE_AGAIN).await;
        }
    }
}

/// Notes where a server is reached now.
pub(crate) async fn take_address(inner: &Inner, id: u64, address: String) -> Result<(), ChangeError> {
    let known = {
        let metrics = inner.metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).map(|node| node.addr.clone())
    };
    match known {
        None => Err(ChangeError::Refused(format!("server {id} does not belong to the cluster"))),
        Some(known) if known == address => Ok(()),
        Some(_) => inner.change(ChangeMembers::SetNodes(BTreeMap::from([(id, BasicNode::new(address))]))).await,
    }
}

impl Inner {
    /// Changes the membership, one change at a time and to its end, whether whoever asked waits for it or not: a change of voters
    /// has two steps, and between them more servers are needed than before or after.
    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), ChangeError> {
        let (raft, turn, node) = (self.raft.clone(), Arc::clone(&self.changing), self.node);
        let changing = tokio::spawn(async move {
            let _turn = turn.lock().await;
            // A primary that was taken out leads for a moment yet; a change that it began would be left to nobody.
            let votes = raft.metrics().borrow_watched().membership_config.membership().voter_ids().any(|id| id == node);
            if !votes {
                return Err(ChangeError::NotPrimary { primary: None });
            }
            let changed = tokio::time::timeout(CHANGE_PATIENCE, raft.change_membership(change, false)).await;
            let late = |_| Err(ChangeError::Refused("no majority has agreed in time; it may yet be done".to_owned()));
            changed.map_or_else(late, |changed| changed.map(drop).map_err(refused))
        });
        changing.await.unwrap_or(Err(ChangeError::Stopped))
    }
}

/// Takes the second step of changes whose first one is in the log, and whose server did not live to take the second.
pub(crate) async fn finish_changes(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(FINISH_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let half = {
            let metrics = inner.metrics.borrow_watched();
            let joint = metrics.membership_config.membership().get_joint_config().len() > 1;
            joint && metrics.state == ServerState::Leader
        };
        // Whoever holds the turn takes the step itself.
        if half && inner.changing.try_lock().is_ok() {
            let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
            match inner.change(nobody).await {
                Ok(()) => tracing::info!("a change of the servers that was begun is done"),
                Err(error) => tracing::warn!(%error, "a change of the servers that was begun cannot be finished now"),
            }
        }
    }
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ChangeError::NotPrimary { primary: forward.leader_id }
        }
        RaftError::APIError(error) => ChangeError::Refused(error.to_string()),
        RaftError::Fatal(_) => ChangeError::Stopped,
    }
}

impl Cluster {
    /// The servers of the cluster, by number.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.inner.metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        // Between the two steps of a change, those that count before and after.
        let configs = members.get_joint_config();
        let votes = |id: &u64| !configs.is_empty() && configs.iter().all(|config| config.contains(id));
        let last = metrics.last_log_index.unwrap_or(0);
        let mut found: Vec<Member> = servers(&metrics)
            .into_iter()
            .map(|server| {
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&server.id).copied());
                let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&server.id).copied());
                let own = server.id == self.inner.node;
                Member {
                    voter: votes(&server.id),
                    primary: metrics.current_leader == Some(server.id),
                    behind: matched.map(|at| last.saturating_sub(at.map_or(0, |id| id.index))),
                    silent: heard.flatten().filter(|_| !own).map(|at| at.elapsed()),
                    server,
                }
            })
            .collect();
        found.sort_by_key(|member| member.server.id);
        found
    }

    /// Lets a server receive the log, without a vote. One that is there already is no error.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, server: Server) -> Result<(), ChangeError> {
        let inner = &self.inner;
        inner.network.learn([server.clone()]);
        match self.members().into_iter().find(|member| member.server.id == server.id) {
            Some(member) if member.server.address != server.address => {
                take_address(inner, server.id, server.address).await
            }
            Some(_) => Ok(()),
            None => {
                let node = BasicNode::new(server.address);
                inner.change(ChangeMembers::AddNodes(BTreeMap::from([(server.id, node)]))).await
            }
        }
    }

    /// Adds a server: it receives the log first, and a vote when it has nearly caught up. Adding one that is there again,
    /// with another address perhaps, is no error.
    ///
    /// # Errors
    /// [`ChangeError`]; when it does not catch up, it stays without a vote.
    pub async fn add_server(&self, server: Server) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let id = server.id;
        let known = self.members().into_iter().find(|member| member.server.id == id);
        self.add_learner(server).await?;
        if known.is_some_and(|member| member.voter) {
            return Ok(());
        }
        let near = |metrics: &Metrics| {
            let last = metrics.last_log_index.unwrap_or(0);
            let at = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
            metrics.state != ServerState::Leader || at.is_some_and(|at| at.index + NEAR >= last)
        };
        let waited = inner.raft.wait(Some(CATCH_UP)).metrics(near, "a new server catches up").await;
        waited.map_err(|_| {
            ChangeError::Refused(format!("server {id} does not catch up; it receives the log and has no vote yet"))
        })?;
        inner.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Refuses to take out a voter when those that are left are no majority of themselves that answers: nothing could be
    /// written then, and nobody taken out any more.
    async fn leaves_a_majority(&self, id: u64) -> Result<(), ChangeError> {
        let begun = Instant::now();
        loop {
            // Whoever has answered since this was asked.
            let within = begun.elapsed();
            let left = self.members().into_iter().filter(|member| member.voter && member.server.id != id);
            let (up, down): (Vec<_>, Vec<_>) = left.partition(|member| {
                member.server.id == self.inner.node || member.silent.is_some_and(|silent| silent < within)
            });
            // One that does not lead cannot tell, and is refused as such.
            if up.len() > down.len() || !self.is_primary() {
                return Ok(());
            }
            if within > ANSWER_PATIENCE {
                let down: Vec<String> = down.iter().map(|member| member.server.id.to_string()).collect();
                let what = format!(
                    "without server {id} there would be no majority: of the servers that are left, {} do not answer. Start them \
                     again, or take them out first",
                    down.join(", ")
                );
                return Err(ChangeError::Refused(what));
            }
            tokio::time::sleep(ANSWER_LOOK).await;
        }
    }

    /// Takes a server out of the cluster. The primary may take out itself: it is the primary until that is agreed on.
    ///
    /// # Errors
    /// [`ChangeError`]; the last voter cannot be removed, and none that a majority of the others needs.
    pub async fn remove_server(&self, id: u64) -> Result<(), ChangeError> {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.server.id == id) else {
            return Err(ChangeError::Refused(format!("server {id} does not belong to the cluster")));
        };
        if member.voter && members.iter().filter(|member| member.voter).count() == 1 {
            return Err(ChangeError::Refused("the last server with a vote cannot be removed".to_owned()));
        }
        if member.voter {
            self.leaves_a_majority(id).await?;
        }
        let change = match member.voter {
            true => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            false => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
        };
        self.inner.change(change).await
    }

    /// Hands the lead over to another server, and returns when it has it.
    ///
    /// # Errors
    /// [`ChangeError`]; the lead stays where it is when the other does not take it.
    pub async fn transfer(&self, to: u64) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let (leads, primary, term) = {
            let metrics = inner.metrics.borrow_watched();
            (metrics.state == ServerState::Leader, metrics.current_leader, metrics.current_term)
        };
        if primary == Some(to) {
            return Ok(());
        }
        if !leads {
            return Err(ChangeError::NotPrimary { primary });
        }
        if !self.members().iter().any(|member| member.server.id == to && member.voter) {
            return Err(ChangeError::Refused(format!("server {to} has no vote in the cluster")));
        }
        inner.raft.trigger().transfer_leader(to).await.map_err(|_| ChangeError::Stopped)?;
        let moved = |metrics: &Metrics| metrics.current_term > term && metrics.current_leader.is_some();
        let waited = inner.raft.wait(Some(inner.election.1 * 2)).metrics(moved, "another server leads").await;
        match waited {
            Ok(metrics) if metrics.current_leader == Some(to) => Ok(()),
            Ok(_) => Err(ChangeError::Refused("another server has taken the lead".to_owned())),
            Err(_) => Err(ChangeError::Refused(format!("server {to} does not take the lead"))),
        }
    }

    /// Before a planned end: hands the lead to the voter that is nearest to the end of the log, if there is one. Best
    /// effort.
    pub async fn hand_over(&self) {
        if !self.is_primary() {
            return;
        }
        let others = self.members().into_iter().filter(|member| member.voter && member.server.id != self.inner.node);
        let alive = others.filter(|member| member.silent.is_some_and(|silent| silent < self.inner.election.1));
        let Some(best) = alive.min_by_key(|member| member.behind) else { return };
        if let Err(error) = self.transfer(best.server.id).await {
            tracing::warn!(%error, "the lead is not handed over; the others elect");
        }
    }

    /// The process of another server has ended, as its broken connections say. When that was the primary, this server does
    /// not wait for the time-out, but asks the others at once whether they see it too.
    pub fn peer_gone(&self, id: u64) {
        let inner = Arc::clone(&self.inner);
        if inner.metrics.borrow_watched().current_leader == Some(id) {
            tokio::spawn(async move { inner.succeed(id).await });
        }
    }
}

/// Hands the lead over when the disk of the primary takes no writes for so long: the others' may. It tries again for as long
/// as that lasts, because nobody may be there to take it.
pub(crate) async fn make_way(inner: Weak<Inner>, mut stalled: watch::Receiver<Option<Arc<str>>>, patience: Duration) {
    while stalled.wait_for(Option::is_some).await.is_ok() {
        match tokio::time::timeout(patience, stalled.wait_for(Option::is_none)).await {
            Ok(Ok(_)) => continue,
            // The log was closed as it stood.
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        Cluster { inner }.hand_over().await;
    }
}

impl Inner {
    /// Stands for the succession of a primary that has gone.
    async fn succeed(&self, gone: u64) {
        let (rank, term) = {
            let metrics = self.metrics.borrow_watched();
            let voters = metrics.membership_config.membership().voter_ids();
            let mut left: Vec<u64> = voters.filter(|id| *id != gone).collect();
            left.sort_unstable();
            let Some(rank) = left.iter().position(|id| *id == self.node) else { return };
            (rank as u32, metrics.current_term)
        };
        let Ok(vote) = self.raft.with_raft_state(|state| *state.vote_ref()).await else { return };
        // Handing over to nobody: all that it does here is to end the time for which the primary is believed to be there.
        let nobody = TransferLeaderRequest::new(vote, u64::MAX, None);
        if self.raft.handle_transfer_leader(nobody).await.is_err() {
            return;
        }
        tracing::info!(server = gone, term, "the primary has gone; asking the others who follows");
        let mut next = Instant::now() + STAGGER * rank;
        for _ in 0..SUCCEED_TRIES {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + SUCCEED_AGAIN * (rank + 1);
            let waits = {
                let metrics = self.metrics.borrow_watched();
                metrics.current_term == term && metrics.current_leader == Some(gone)
            };
            if !waits || self.raft.trigger().elect(true).await.is_err() {
                return;
            }
        }
    }
}
