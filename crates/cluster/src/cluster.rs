//! The one handle the rest of the server has on the log.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::BasicNode;
use openraft::{Config, Instant as _, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::answer::Answering;
use crate::confirm::Confirms;
use crate::disk::{Disk, LocalDisk, blocking};
use crate::log::{self, LogHandle, LogStore};
use crate::mutations::{Mutation, mutated};
use crate::network::Network;
use crate::peers::{NoPeers, Transport};
use crate::proposals::Proposals;
use crate::raft::{Meta, Types, position};
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::standing::Standing;
use crate::state::StateMachine;
use crate::wire::{self, Request};
use crate::{Lane, Machine, OpenError, Position, ProposeError, SnapshotError, members};

/// The engine needs milliseconds; after this long something is wrong with it.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a snapshot waits for the log that it frees to be gone.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);
/// Before a snapshot that failed is tried again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);

/// Where the log lies and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that belongs to this crate alone; created when it is not there.
    pub dir: PathBuf,
    /// This server's number in the cluster; fixed for the life of the folder.
    pub node_id: u64,
    /// Size of one log file, in bytes; reserved on disk when the file is made. Default 16 MiB.
    pub segment_bytes: u64,
    /// A snapshot is taken when the log since the last one exceeds this and the size of the last snapshot, in bytes. Default
    /// 64 MiB.
    pub snapshot_every: u64,
    /// Between two heartbeats of the primary. Default 100 ms.
    pub heartbeat: Duration,
    /// A backup that hears nothing from the primary for a time between these two starts an election. Default 300 to 600 ms; the
    /// longer one is also the time for which a backup that has heard a primary stands by it.
    pub election: (Duration, Duration),
    /// At most this many proposals wait or are under way; default 65,536. Beyond it the oldest waiting is given up.
    pub proposals_max: usize,
    /// At most this many bytes of proposals wait or are under way; default 64 MiB.
    pub proposal_bytes_max: usize,
    /// While the disk takes no writes, proposals are answered after this long. Default 1 s.
    pub stall_patience: Duration,
    /// Where the other servers reach this one, `HOST:PORT`; told to the cluster when it changes. Empty when there are none.
    pub address: String,
    /// Whether a new folder becomes a cluster of this one server. If not, it waits until the primary of a cluster has added
    /// this server. Default true.
    pub found: bool,
}

impl Options {
    /// The defaults for server `node_id` with its log in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, node_id: u64) -> Options {
        Options {
            dir: dir.into(),
            node_id,
            segment_bytes: 16 << 20,
            snapshot_every: 64 << 20,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            proposals_max: 65_536,
            proposal_bytes_max: 64 << 20,
            stall_patience: Duration::from_secs(1),
            address: String::new(),
            found: true,
        }
    }
}

/// What a server is to its cluster at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It decides; writes go here.
    Primary,
    /// It follows the primary.
    Backup,
    /// It asks to become the primary.
    Candidate,
    /// It receives the log but has no vote.
    Learner,
    /// It has stopped and says why in the log.
    Stopped,
}

/// Whether this server decides, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The current term.
    pub term: u64,
    /// It is the primary of this term, and has applied all that was answered in earlier ones.
    pub primary: bool,
    /// The primary, when one is known.
    pub of: Option<u64>,
}

/// How old what is read on a server may be (see [`Cluster::freshness`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The time since the primary was heard; none on the primary itself.
    pub age: Duration,
    /// Cut off from the majority for longer than an election takes.
    pub stale: bool,
    /// The primary was heard since the start, or this server is it. If not, `age` is the time since the start.
    pub heard: bool,
}

/// A look at the log, for people and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The current term.
    pub term: u64,
    /// What this server is.
    pub state: State,
    /// The primary, when one is known.
    pub primary: Option<u64>,
    /// The last entry in this server's log.
    pub last_index: Option<u64>,
    /// The last entry applied to the state machine.
    pub applied: Option<u64>,
    /// The last entry covered by the newest snapshot.
    pub snapshot: Option<u64>,
    /// Bytes of log on disk since the newest snapshot.
    pub log_bytes: u64,
    /// Proposals waiting or under way.
    pub waiting: usize,
    /// Why writes stand still, when they do: `the disk is full: …`.
    pub stalled: Option<String>,
}

/// The replicated log and the state machine above it. Clones share one log.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

/// Takes what another server tells.
type Hear = Box<dyn Fn(Bytes) -> Vec<u8> + Send + Sync>;

pub(crate) struct Inner {
    pub(crate) node: u64,
    pub(crate) raft: Raft<Types, StateMachine>,
    pub(crate) metrics: WatchReceiverOf<Types, RaftMetrics<Types>>,
    pub(crate) network: Network,
    pub(crate) election: (Duration, Duration),
    standing: Arc<Standing>,
    answering: Arc<Answering>,
    confirms: Arc<Confirms>,
    role: watch::Receiver<Role>,
    opened: tokio::time::Instant,
    hear: OnceLock<Hear>,
    /// Whose turn it is to change the membership.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    proposals: Arc<Proposals>,
    snapshotter: Arc<Snapshotter>,
    stalled: watch::Receiver<Option<Arc<str>>>,
    drain_patience: Duration,
    tasks: Vec<JoinHandle<()>>,
}

/// Takes snapshots, one at a time.
struct Snapshotter {
    raft: Raft<Types, StateMachine>,
    log: Arc<LogHandle>,
    snapshots: Arc<Snapshots>,
    every: u64,
    turn: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// Opens the log in `options.dir`, restores `machine` from its newest snapshot and the log, and takes part in the
    /// cluster. A new folder becomes a cluster of this one server. A sole voter is the primary when this returns, unless the
    /// disk takes no writes (see [`Status::stalled`]): then it becomes the primary when it does.
    ///
    /// # Errors
    /// When the folder cannot be used; the message says what to do.
    pub async fn open<M: Machine>(options: Options, machine: M) -> Result<Cluster, OpenError> {
        Cluster::open_on(Arc::new(LocalDisk), options, machine).await
    }

    /// [`open`](Cluster::open) on another disk: one that fails when a test wants it to.
    ///
    /// # Errors
    /// Those of [`open`](Cluster::open).
    pub async fn open_on<M: Machine>(disk: Arc<dyn Disk>, options: Options, machine: M) -> Result<Cluster, OpenError> {
        Cluster::open_with(disk, Arc::new(NoPeers), options, machine).await
    }

    /// [`open_on`](Cluster::open_on) with a line to other servers. What they send is to be given to
    /// [`answer`](Cluster::answer).
    ///
    /// # Errors
    /// Those of [`open`](Cluster::open).
    pub async fn open_with<M: Machine>(
        disk: Arc<dyn Disk>,
        transport: Arc<dyn Transport>,
        options: Options,
        machine: M,
    ) -> Result<Cluster, OpenError> {
        let node = options.node_id;
        let read = {
            let (disk, options) = (Arc::clone(&disk), options.clone());
            move || read_folder(&disk, &options, Box::new(machine))
        };
        let folder = blocking(&*disk, read).await.map_err(|e| OpenError::Engine(e.to_string()))??;
        let Folder { store, state, log, snapshots, standing, sole_voter } = folder;
        let config = engine_config(&options)?;
        let engine = |e: &dyn std::fmt::Display| OpenError::Engine(e.to_string());
        let network = Network::new(transport);
        let raft = Raft::new(node, Arc::new(config), network.clone(), store, state).await.map_err(|e| engine(&e))?;
        let metrics = raft.metrics();

        let stalled = log.stalled();
        let proposals = Arc::new(Proposals::new(options.proposals_max, options.proposal_bytes_max));
        proposals.start(raft.clone());
        let snapshotter = Arc::new(Snapshotter {
            raft: raft.clone(),
            log,
            snapshots: Arc::clone(&snapshots),
            every: options.snapshot_every,
            turn: tokio::sync::Mutex::new(()),
        });
        snapshotter.arm();
        let (tell_role, role) = watch::channel(Role::default());
        let tasks = vec![
            tokio::spawn(watch_stalls(stalled.clone(), Arc::clone(&proposals), options.stall_patience)),
            tokio::spawn(Arc::clone(&snapshotter).run()),
            tokio::spawn(members::follow(metrics.clone(), network.clone(), tell_role)),
            tokio::spawn(watch_majority(metrics.clone(), Arc::clone(&proposals), options.election.1)),
        ];
        let cluster = Cluster {
            inner: Arc::new(Inner {
                node,
                confirms: Confirms::new(raft.clone(), network.clone(), Arc::clone(&standing), node, options.election.1),
                standing,
                answering: Arc::new(Answering::new(raft.clone(), snapshots)),
                metrics,
                raft,
                network,
                election: options.election,
                role,
                opened: tokio::time::Instant::now(),
                hear: OnceLock::new(),
                changing: Arc::default(),
                proposals,
                snapshotter,
                stalled,
                drain_patience: options.stall_patience,
                tasks,
            }),
        };
        // Not one of the tasks, as below.
        tokio::spawn(members::make_way(
            Arc::downgrade(&cluster.inner),
            cluster.inner.stalled.clone(),
            options.stall_patience,
        ));
        cluster.take_part(&options, sole_voter).await?;
        tokio::spawn(members::finish_changes(Arc::downgrade(&cluster.inner)));
        if !options.address.is_empty() {
            // Not one of the tasks: it ends by itself, and holds nothing that must go.
            tokio::spawn(members::announce(Arc::downgrade(&cluster.inner), options.address));
        }
        Ok(cluster)
    }

    /// Founds the cluster, or makes a sole voter its primary at once instead of after an election time-out.
    async fn take_part(&self, options: &Options, sole_voter: bool) -> Result<(), OpenError> {
        let node = options.node_id;
        let raft = &self.inner.raft;
        let engine = |e: &dyn std::fmt::Display| OpenError::Engine(e.to_string());
        let begin = async {
            if !raft.is_initialized().await.map_err(|e| engine(&e))? {
                if !options.found {
                    return Ok(());
                }
                let members = BTreeMap::from([(node, BasicNode::new(options.address.clone()))]);
                raft.initialize(members).await.map_err(|e| engine(&e))?;
            } else if sole_voter {
                raft.trigger().elect(false).await.map_err(|e| engine(&e))?;
            } else {
                return Ok(());
            }
            let leads = |m: &RaftMetrics<Types>| {
                m.state == ServerState::Leader && m.last_applied.map(|id| id.index) == m.last_log_index
            };
            raft.wait(Some(OPEN_PATIENCE)).metrics(leads, "a sole voter leads").await.map_err(|e| engine(&e))?;
            Ok(())
        };
        let mut stalled = self.inner.stalled.clone();
        tokio::select! {
            biased;
            outcome = begin => outcome,
            // Reads are possible.
            _ = stalled.wait_for(Option::is_some) => Ok(()),
        }
    }

    /// Applies `command` on every server, in one order. Answers with the state machine's reply when a majority of the servers
    /// has the command on disk and this one has applied it.
    ///
    /// A dropped future does not take the command back.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] and [`ProposeError::Stopped`] when the command may or may not be applied; all others mean
    /// that it is not.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        self.inner.proposals.propose(command).await
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.inner.metrics.borrow_watched().current_term
    }

    /// Whether this server believes to be the primary. Only [`confirm_primary`](Cluster::confirm_primary) knows.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.inner.metrics.borrow_watched().state == ServerState::Leader
    }

    /// A look at the log.
    #[must_use]
    pub fn status(&self) -> Status {
        let stalled = self.inner.stalled.borrow().as_deref().map(str::to_owned);
        let (log_bytes, waiting) = (self.inner.snapshotter.log.bytes_since_snapshot(), self.inner.proposals.count());
        let metrics = self.inner.metrics.borrow_watched();
        let running = metrics.running_state.is_ok();
        Status {
            term: metrics.current_term,
            state: match metrics.state {
                _ if !running => State::Stopped,
                ServerState::Leader => State::Primary,
                ServerState::Follower => State::Backup,
                ServerState::Candidate => State::Candidate,
                ServerState::Learner => State::Learner,
                ServerState::Shutdown => State::Stopped,
            },
            primary: metrics.current_leader,
            last_index: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: self
                .inner
                .snapshotter
                .snapshots
                .newest()
                .and_then(|(meta, _)| meta.last_log_id)
                .map(|id| id.index),
            log_bytes,
            waiting,
            stalled,
        }
    }

    /// Asks the majority, on a backup by way of the primary, up to where everything was answered, and waits until it is
    /// applied here. A read of the published state after this returns sees every write that was answered before the call.
    /// Calls that come while one asks share the next question.
    ///
    /// # Errors
    /// [`ProposeError::NotPrimary`] when no primary is known, [`ProposeError::Unavailable`] when no majority answers, or
    /// [`ProposeError::Stopped`].
    pub async fn confirm(&self) -> Result<Position, ProposeError> {
        self.inner.confirms.confirm().await
    }

    /// [`propose`](Cluster::propose) by whichever server is the primary. The reply may come before the command is applied
    /// here.
    ///
    /// # Errors
    /// Those of [`propose`](Cluster::propose).
    pub async fn propose_anywhere(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        match self.propose(command.clone()).await {
            Err(ProposeError::NotPrimary { primary: Some(primary) }) if primary != self.inner.node => {
                let within = self.inner.election.1 * 2;
                let asked = self.inner.network.ask(primary, Lane::Log, wire::propose(&command), within).await;
                asked.map_err(|error| ProposeError::Unknown(format!("the primary did not answer: {error}")))
            }
            other => other,
        }
    }

    /// Answers what another server of the cluster sent, as the [`Transport`] brought it. Messages of one sender are to be
    /// polled for the first time in the order in which they came.
    pub fn answer(&self, request: Bytes) -> impl Future<Output = Bytes> + Send + use<> {
        let inner = Arc::clone(&self.inner);
        async move {
            match wire::request(request) {
                Err(why) => wire::refusal(&why),
                Ok(Request::ReadPoint) => match inner.confirms.confirm_here().await {
                    Ok(at) => wire::answer_position(at),
                    Err(error) => wire::refusal(&error.to_string()),
                },
                Ok(Request::Still(vote)) => match inner.standing.allows(&vote) {
                    true => wire::answer_nothing(),
                    false => wire::refusal("another primary has come since"),
                },
                Ok(Request::Propose(command)) => match inner.proposals.propose(command).await {
                    Ok(reply) => wire::answer_reply(&reply),
                    Err(error) => wire::refusal(&error.to_string()),
                },
                Ok(Request::Announce { id, address }) => match members::take_address(&inner, id, address).await {
                    Ok(()) => wire::answer_nothing(),
                    Err(error) => wire::refusal(&error.to_string()),
                },
                Ok(Request::Word(word)) => {
                    // The first versions answered nothing, and look at nothing.
                    wire::answer_reply(&inner.hear.get().map(|hear| hear(word)).unwrap_or_default())
                }
                Ok(request) => Arc::clone(&inner.answering).answer(request).await,
            }
        }
    }

    /// Tells the other servers something that is not worth an entry of the log. Whoever does not hear it hears the next. Gives what
    /// those answered that did.
    pub async fn tell(&self, word: &[u8]) -> Vec<(u64, Bytes)> {
        let word = wire::word(word);
        let others = self.members().into_iter().filter(|member| member.server.id != self.inner.node);
        let calls = others.map(|member| {
            let (id, within) = (member.server.id, self.inner.election.1);
            let asked = self.inner.network.ask(id, Lane::Log, word.clone(), within);
            async move { asked.await.ok().map(|answer| (id, answer)) }
        });
        futures_util::future::join_all(calls).await.into_iter().flatten().collect()
    }

    /// Gives what other servers [`tell`](Cluster::tell) to `hear`, which gives what is answered and must not block. The
    /// first call counts.
    pub fn on_word(&self, hear: impl Fn(Bytes) -> Vec<u8> + Send + Sync + 'static) {
        let _ = self.inner.hear.set(Box::new(hear));
    }

    /// What this server is, told again when it changes.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.role.clone()
    }

    /// How old what is read here may be.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let cut_off = self.inner.election.1;
        {
            let metrics = self.inner.metrics.borrow_watched();
            if metrics.state == ServerState::Leader {
                let sole = metrics.membership_config.membership().voter_ids().count() == 1;
                let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
                let stale = !sole && acked.is_some_and(|acked| acked > cut_off);
                return Freshness { age: Duration::ZERO, stale, heard: true };
            }
        }
        // Without the look at the engine in hand: it looks there itself, and a second look waits for whoever wants to write.
        match self.inner.answering.silence() {
            Some(age) => Freshness { age, stale: age > cut_off, heard: true },
            // Nobody was heard since the start.
            None => Freshness { age: self.inner.opened.elapsed(), stale: true, heard: false },
        }
    }

    /// Writes a snapshot now and drops the log that is no longer needed. Answers with the last entry it covers.
    ///
    /// # Errors
    /// When it could not be written; the log stays as it was.
    pub async fn snapshot(&self) -> Result<Position, SnapshotError> {
        self.inner.snapshotter.take().await
    }

    pub(crate) fn newest_snapshot(&self) -> Option<(Meta, SnapshotFile)> {
        self.inner.snapshotter.snapshots.newest()
    }

    /// Stops: waits for writes under way, closes the log. Proposals still waiting get [`ProposeError::Stopped`].
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.proposals.refuse(Some(ProposeError::Stopped));
        if inner.proposals.count() > 0 && inner.stalled.borrow().is_none() {
            // An entry behind all others.
            let _ = tokio::time::timeout(inner.drain_patience, inner.raft.write_blank()).await;
        }
        inner.proposals.give_up(&ProposeError::Stopped, &ProposeError::Stopped);
        for task in &inner.tasks {
            task.abort();
        }
        let log = &inner.snapshotter.log;
        // In a task of its own: to give up waiting for it would leave the engine in a state at which later calls panic.
        let raft = inner.raft.clone();
        let mut stopped = tokio::spawn(async move { raft.shutdown().await });
        // The engine may be waiting for a disk that takes no writes; closing the log ends that.
        if tokio::time::timeout(inner.drain_patience, &mut stopped).await.is_err() {
            log.close().await;
            let _ = stopped.await;
        }
        log.close().await;
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("status", &self.status()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What a folder holds.
struct Folder {
    store: LogStore,
    state: StateMachine,
    log: Arc<LogHandle>,
    snapshots: Arc<Snapshots>,
    standing: Arc<Standing>,
    /// The log says that this server alone decides.
    sole_voter: bool,
}

/// Reads the folder: the newest snapshot, then the log. Blocks.
fn read_folder(disk: &Arc<dyn Disk>, options: &Options, machine: Box<dyn Machine>) -> Result<Folder, OpenError> {
    let node = options.node_id;
    let snapshots = Arc::new(Snapshots::open(Arc::clone(disk), options.dir.join("snapshots"), node)?);
    let state = StateMachine::open(machine, Arc::clone(&snapshots))?;
    let covered = snapshots.newest().and_then(|(meta, _)| meta.last_log_id);
    let log_dir = options.dir.join("log");
    let index = covered.map(|id| id.index);
    let mut opened = log::open(Arc::clone(disk), log_dir.clone(), node, options.segment_bytes, index)?;
    if let Some(covered) = covered {
        opened.follow(covered).map_err(|e| OpenError::io("read", &log_dir, e))?;
    }
    if let Some(purged) = opened.purged
        && index.is_none_or(|index| index < purged.index)
    {
        return Err(OpenError::Corrupt {
            file: options.dir.join("snapshots"),
            offset: 0,
            what: format!("the log begins behind entry {}, and no snapshot reaches that far", purged.index),
            way_out: "Put the missing snapshot back, or restore the folder from a backup".to_owned(),
        });
    }
    let members = match opened.members {
        Some((at, members)) if state.members().log_id().is_none_or(|known| known.index < at.index) => members,
        _ => state.members().membership().clone(),
    };
    let sole_voter = *members.get_joint_config() == [BTreeSet::from([node])];
    let mut store = opened.store;
    // The disk of a sole voter is the majority.
    let all = sole_voter || mutated(Mutation::FoundIsCommitted);
    store.commit(if all { opened.last } else { opened.agreed.max(opened.committed) });
    let standing = Arc::clone(state.standing());
    store.promise_in(Arc::clone(&standing), opened.vote);
    Ok(Folder { store, state, log: Arc::new(opened.handle), snapshots, standing, sole_voter })
}

fn engine_config(options: &Options) -> Result<Config, OpenError> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "byname".to_owned(),
        heartbeat_interval: ms(options.heartbeat),
        election_timeout_min: ms(options.election.0),
        election_timeout_max: ms(options.election.1),
        // Snapshots are taken by size, and here, where a full disk is no reason to stop.
        snapshot_policy: SnapshotPolicy::Never,
        // What the older snapshot needs is kept by the log itself.
        max_in_snapshot_log_to_keep: 0,
        // The engine allots these when it starts, by default for megabytes. Few messages are ever under way.
        api_channel_size: Some(256),
        notification_channel_size: Some(1024),
        state_machine_channel_size: Some(256),
        enable_pre_vote: Some(true),
        // Every start is a new term, so that whoever holds an order of the last one can tell.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|e| OpenError::Engine(e.to_string()))
}

/// Answers proposals while the disk takes no writes.
async fn watch_stalls(mut stalled: watch::Receiver<Option<Arc<str>>>, proposals: Arc<Proposals>, patience: Duration) {
    loop {
        let Ok(reason) = stalled.wait_for(Option::is_some).await.map(|reason| reason.as_deref().map(str::to_owned))
        else {
            return;
        };
        let reason = reason.unwrap_or_default();
        proposals.refuse(Some(ProposeError::Unavailable(reason.clone())));
        let again = tokio::time::timeout(patience, stalled.wait_for(Option::is_none)).await.is_ok();
        if !again {
            let unknown = format!("{reason}; this write may yet be applied: ask again with the same request id");
            proposals.give_up(&ProposeError::Unavailable(reason), &ProposeError::Unknown(unknown));
            if stalled.wait_for(Option::is_none).await.is_err() {
                return;
            }
        }
        proposals.refuse(None);
    }
}

/// Answers proposals while a primary hears no majority: the engine keeps them, and goes on believing in itself.
async fn watch_majority(
    metrics: WatchReceiverOf<Types, RaftMetrics<Types>>,
    proposals: Arc<Proposals>,
    patience: Duration,
) {
    let mut every = tokio::time::interval(patience / 4);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let isolated = {
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader;
            let several = metrics.membership_config.membership().voter_ids().count() > 1;
            leads && several && metrics.last_quorum_acked.is_some_and(|at| at.elapsed() > patience * 2)
        };
        proposals.isolate(isolated);
    }
}

impl Snapshotter {
    /// Tells the log how much may be written before the next snapshot, and what must stay.
    fn arm(&self) {
        let size = self.snapshots.newest().map_or(0, |(_, file)| file.bytes);
        self.log.snapshot_taken(0, self.snapshots.floor(), self.every.max(size));
    }

    /// Takes snapshots when they are due.
    async fn run(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.log.snapshot_due() => {}
                () = self.snapshots.adopted() => {
                    let size = self.snapshots.newest().map_or(0, |(_, file)| file.bytes);
                    self.log.snapshot_taken(self.log.written(), self.snapshots.floor(), self.every.max(size));
                    continue;
                }
            }
            match self.take().await {
                Ok(_) => {}
                Err(SnapshotError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "the log is kept until a snapshot can be written");
                    tokio::time::sleep(SNAPSHOT_RETRY).await;
                }
            }
        }
    }

    async fn take(&self) -> Result<Position, SnapshotError> {
        let _turn = self.turn.lock().await;
        let log = Arc::clone(&self.log);
        let frozen = self.raft.with_state_machine(move |state| {
            let (meta, frozen) = state.freeze();
            Box::pin(std::future::ready((meta, frozen, log.written())))
        });
        let (meta, frozen, written) = frozen.await.map_err(|_| SnapshotError::Stopped)?;
        let Some(last) = meta.last_log_id else {
            return Err(SnapshotError::Failed("there is nothing to take a snapshot of".to_owned()));
        };
        if self.snapshots.newest().is_some_and(|(newest, _)| newest.last_log_id == meta.last_log_id) {
            return Ok(position(&last));
        }
        let snapshots = Arc::clone(&self.snapshots);
        let write = move || snapshots.write(&meta, |out| frozen.write(out));
        let failed = |e: &dyn std::fmt::Display| SnapshotError::Failed(e.to_string());
        let file = blocking(self.snapshots.disk(), write).await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        self.log.snapshot_taken(written, self.snapshots.floor(), self.every.max(file.bytes));

        // The engine is told only now, when nothing can go wrong any more: it stops for good when a snapshot fails.
        let ready = self.raft.with_state_machine(|state| {
            state.snapshot_ready();
            Box::pin(std::future::ready(()))
        });
        ready.await.map_err(|_| SnapshotError::Stopped)?;
        self.raft.trigger().snapshot().await.map_err(|_| SnapshotError::Stopped)?;
        let known = |m: &RaftMetrics<Types>| m.snapshot >= Some(last) && m.purged >= Some(last);
        let known = self.raft.wait(Some(OPEN_PATIENCE)).metrics(known, "the snapshot is known").await;
        known.map_err(|e| failed(&e))?;
        // The old log goes when the disk lets it, which this need not wait for.
        let _ = tokio::time::timeout(SETTLE_PATIENCE, self.log.settled()).await;
        Ok(position(&last))
    }
}
