//! A server: the registry above the log, the agents, and every operation of `NameService` in one process.
//!
//! - One write path: authorise → propose → on disk → `registry.apply` → reply and events ([`Inner::propose`]).
//! - One read path: authorise → the view → reply. No lock, no wait for writes.
//! - What must happen after a change (orders to agents, waking finds, leases) follows from the events of the change,
//!   and never from the request that made it; so it happens whoever asked.

mod access;
mod act;
mod advertise;
mod agents;
mod auditing;
mod clocks;
mod drain;
mod find;
mod forward;
mod health;
mod hosts;
mod identity;
mod idle;
mod itself;
mod keep;
mod leases;
mod locks;
mod logs;
mod machine;
mod members;
mod place;
mod role;
mod salvage;
mod samples;
mod serve;
mod sockets;
mod speed;
mod start;
mod usage;
mod waits;
mod watch;

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use byname_api::agent;
use byname_api::error::{Code, Error, NO_PRIMARY, Result};
use byname_api::host::HostState;
use byname_api::object::{InstanceId, MAX_VALUE_BYTES, Object, ObjectId, ServiceStatus, Spec, Stamp};
use byname_api::request::*;
use byname_cluster::disk::{Disk, LocalDisk};
use byname_cluster::{Cluster, NoPeers, OpenError, ProposeError, Transport};
use byname_name::Pattern;
use byname_registry::{Command, Entry as LogEntry, Event, Reply, Tree, query, stored};

pub use forward::Peers;
pub use hosts::HostTimes;
pub use identity::{Paired, Setup, server_certificate};
use machine::{RegistryMachine, Told, View};
pub use salvage::Backup;

/// How long a server that leads may take to be ready for it.
const LEADS_SOON: Duration = Duration::from_secs(1);
/// Between two questions to a cluster that has no primary yet.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a server that starts waits for the others before it answers reads with what it had, and how often one that has
/// nothing to answer with says that it waits.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the log and its snapshots; the log owns it.
    pub dir: PathBuf,
    /// This server's number.
    pub id: u64,
    /// Under which DNS suffix the tree is shown (`byname.internal`).
    pub dns_suffix: String,
    /// The program's version, for `info`.
    pub version: String,
}

/// A server in this process.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: Config,
    cluster: Cluster,
    view: View,
    agents: agents::Agents,
    hosts: hosts::Hosts,
    clocks: clocks::Clocks,
    waits: waits::Waits,
    leases: leases::Leases<InstanceId>,
    lock_leases: leases::Leases<ObjectId>,
    usage: usage::Usage,
    reports: health::Reports,
    sockets: sockets::Sockets,
    measured: speed::Measured,
    hub: watch::Hub,
    on_the_way: start::OnTheWay,
    /// Whose turn it is to place a copy, and at which host to begin.
    placing: tokio::sync::Mutex<usize>,
    kept: keep::Kept,
    turn: AtomicU64,
    started: Stamp,
    stopping: AtomicBool,
    finds: metrics::Counter,
    has_ended: OnceLock<Box<dyn Fn(InstanceId) -> bool + Send + Sync>>,
    peers: OnceLock<Arc<dyn Peers>>,
    /// As what this server is in the tree, and who sees to it.
    found: OnceLock<(InstanceId, AbortHandle)>,
    /// Nobody but other servers is admitted before this server can tell who is who.
    awaits_identity: AtomicBool,
    /// The term in which this server leads, or 0.
    reign: AtomicU64,
    /// Since when it does, or since when it is here.
    since: Mutex<Instant>,
    identity: OnceLock<Box<identity::Identity>>,
}

impl Node {
    /// Opens the log, restores the tree and begins to work.
    pub async fn open(config: Config) -> Result<Node, OpenError> {
        let options = byname_cluster::Options::new(config.dir.clone(), config.id);
        Node::open_on(Arc::new(LocalDisk), options, config).await
    }

    /// [`open`](Node::open) on another disk and with other sizes of the log: a disk that fails when a test wants it to.
    ///
    /// # Errors
    /// Those of [`open`](Node::open).
    pub async fn open_on(
        disk: Arc<dyn Disk>,
        options: byname_cluster::Options,
        config: Config,
    ) -> Result<Node, OpenError> {
        Node::open_with(disk, Arc::new(NoPeers), options, config).await
    }

    /// [`open_on`](Node::open_on) with a line to other servers; what they send goes to [`answer`](Node::answer).
    ///
    /// # Errors
    /// Those of [`open`](Node::open).
    pub async fn open_with(
        disk: Arc<dyn Disk>,
        transport: Arc<dyn Transport>,
        options: byname_cluster::Options,
        config: Config,
    ) -> Result<Node, OpenError> {
        let (machine, view, mut events) = RegistryMachine::new();
        // What the log tells again while it is replayed happened long ago: the view says how things stand now. Only those
        // who watched then may come back and ask, so the newest of it is kept, and no more than that.
        let mut hub = None;
        let cluster = {
            let opening = Cluster::open_with(disk, transport, options, machine);
            tokio::pin!(opening);
            loop {
                tokio::select! {
                    biased;
                    Some(told) = events.recv() => watch::Hub::learn(&mut hub, &told),
                    opened = &mut opening => break opened?,
                }
            }
        };
        while let Ok(told) = events.try_recv() {
            watch::Hub::learn(&mut hub, &told);
        }
        let hub = hub.unwrap_or_else(|| watch::Hub::new(view.load().revision));
        metrics::describe_counter!("byname_finds_total", "Finds answered or refused.");
        metrics::describe_counter!("byname_starts_total", "Copies of services ordered.");
        metrics::describe_counter!("byname_denials_total", "Requests refused for want of a right or a ticket.");
        metrics::describe_counter!("byname_writes_total", "Commands proposed to the log.");
        metrics::describe_counter!("byname_knocks_total", "Connections to stable sockets that had to wait for a copy.");
        metrics::describe_gauge!("byname_instances", "Running copies, by their health.");
        metrics::describe_gauge!(
            "byname_clock_offset_seconds",
            "How far the clock of a server is ahead of those of the majority; on the primary."
        );
        metrics::describe_gauge!("byname_services_short", "Services with fewer copies than shall always run.");
        metrics::describe_counter!("byname_idle_stops_total", "Copies stopped because nobody used them.");
        let inner = Arc::new(Inner {
            config,
            cluster,
            view,
            agents: agents::Agents::default(),
            hosts: hosts::Hosts::default(),
            clocks: clocks::Clocks::default(),
            waits: waits::Waits::default(),
            leases: leases::Leases::default(),
            lock_leases: leases::Leases::default(),
            usage: usage::Usage::default(),
            reports: health::Reports::default(),
            sockets: sockets::Sockets::default(),
            measured: speed::Measured::default(),
            hub,
            on_the_way: start::OnTheWay::default(),
            placing: tokio::sync::Mutex::default(),
            kept: keep::Kept::default(),
            turn: AtomicU64::new(0),
            started: Stamp { at: start::now(), by: "byname".into() },
            stopping: AtomicBool::new(false),
            finds: metrics::counter!("byname_finds_total"),
            has_ended: OnceLock::new(),
            identity: OnceLock::new(),
            peers: OnceLock::new(),
            found: OnceLock::new(),
            awaits_identity: AtomicBool::new(false),
            reign: AtomicU64::new(0),
            since: Mutex::new(Instant::now()),
        });
        if inner.cluster.is_primary() {
            // A server that is alone leads already, and does so when this returns, if its disk lets it.
            let mut role = inner.cluster.role();
            let leads = tokio::time::timeout(LEADS_SOON, role.wait_for(|role| role.primary)).await;
            if let Ok(Ok(role)) = leads {
                inner.play(*role);
            }
        }
        tokio::spawn(role::follow(inner.clone()));
        tokio::spawn(members::promote(inner.clone()));
        tokio::spawn(samples::tell(inner.clone()));
        let hearing = Arc::downgrade(&inner);
        inner.cluster.on_word(move |word| {
            if let Some(inner) = hearing.upgrade() {
                inner.hear(&word);
            }
            Inner::clock_to_tell()
        });
        tokio::spawn(follow_events(inner.clone(), events));
        tokio::spawn(end_leases(inner.clone()));
        tokio::spawn(end_locks(inner.clone()));
        tokio::spawn(idle::stop_the_idle(inner.clone()));
        tokio::spawn(health::judge_the_silent(inner.clone()));
        tokio::spawn(hosts::follow(inner.clone()));
        tokio::spawn(drain::follow(inner.clone()));
        tokio::spawn(keep::follow(inner.clone()));
        Ok(Node { inner })
    }

    /// When hosts are judged; the agents that are connected already go on by what they were told.
    pub fn set_host_times(&self, times: HostTimes) {
        self.inner.hosts.set_times(times);
    }

    /// This server's number.
    pub fn id(&self) -> u64 {
        self.inner.config.id
    }

    /// Lets finds ask an agent in this process whether a program that the tree still names has ended.
    pub fn ask_here_first(&self, has_ended: impl Fn(InstanceId) -> bool + Send + Sync + 'static) {
        // Only the first counts; there is one agent in a process.
        let _ = self.inner.has_ended.set(Box::new(has_ended));
    }

    /// Says in the tree that it does not answer any more, and hands the lead over: the first step of going where there are others.
    pub async fn leave(&self) {
        self.take_leave().await;
        self.inner.cluster.hand_over().await;
    }

    /// Ends what would go on for ever, such as watches, and is not ready any more; the first step of going.
    pub fn drain(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
        self.inner.hub.close();
    }

    /// Refuses new writes and closes the log. Programs go on.
    pub async fn shutdown(&self) {
        self.drain();
        self.inner.cluster.hand_over().await;
        self.inner.cluster.shutdown().await;
    }

    /// Whether it can answer with what is so now, and take writes: for `/readyz`. A server that is cut off from the majority cannot.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn readiness(&self) -> Result<(), String> {
        if self.inner.stopping() {
            return Err("the server is stopping".to_owned());
        }
        let freshness = self.inner.cluster.freshness();
        match (freshness.stale, freshness.heard) {
            (false, _) => Ok(()),
            (true, true) => {
                Err("the server is cut off from the majority of the servers: it answers reads with what it has, \
                                 marked stale, and takes no writes"
                    .to_owned())
            }
            (true, false) => {
                Err("the server has not heard from a majority of the servers since it started: it answers reads with \
                                  what it had on disk, marked stale, and takes no writes"
                    .to_owned())
            }
        }
    }

    /// Answers what another server of the cluster sent, as the transport brought it.
    pub fn answer(&self, request: Bytes) -> impl Future<Output = Bytes> + Send + use<> {
        self.inner.cluster.answer(request)
    }

    /// Admits nobody but other servers until [`Node::establish`] is done: without it, callers are taken at their word.
    pub fn await_identity(&self) {
        self.inner.awaits_identity.store(true, Ordering::Relaxed);
    }

    /// Whether what is on disk is enough to tell who is who.
    fn knows_the_domain(&self) -> bool {
        let tree = self.inner.view.load();
        identity::VAULT.iter().all(|name| tree.vault(name).is_some())
    }

    /// Waits until this server has what was answered before it was asked. A server that is alone has it. When no majority answers,
    /// one that has been one of the cluster goes on with what it has: what it answers is marked stale until one does.
    pub async fn catch_up(&self) {
        let cluster = &self.inner.cluster;
        let mut told = Instant::now();
        // The first members that a newcomer hears of are those of long ago.
        let alone =
            || matches!(cluster.members().as_slice(), [only] if only.voter && only.server.id == self.inner.config.id);
        while !alone() && cluster.confirm().await.is_err() {
            if self.inner.stopping() {
                return;
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let others = cluster.members().into_iter().filter(|member| member.server.id != self.inner.config.id);
                let others: Vec<String> = others.map(|m| format!("{} ({})", m.server.id, m.server.address)).collect();
                if self.knows_the_domain() {
                    let servers = others.join(", ");
                    tracing::warn!(
                        servers,
                        "no majority of the servers answers: reads are answered with what was on disk"
                    );
                    return;
                }
                tracing::warn!(servers = others.join(", "), "waiting for a majority of the servers");
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The process of another server has ended, as its broken connections say.
    pub fn peer_gone(&self, server: u64) {
        self.inner.cluster.peer_gone(server);
    }

    /// Whether this server was taken out of the cluster, as far as is known here.
    pub fn was_removed(&self, server: u64) -> bool {
        members::name_of(server).is_ok_and(|name| self.inner.was_removed(&name))
    }

    /// The servers of the cluster, with where their peers reach them.
    pub fn servers(&self) -> Vec<byname_cluster::Server> {
        self.inner.cluster.members().into_iter().map(|member| member.server).collect()
    }

    /// Sets the gauges to what they are now: for `/metrics`.
    pub fn measure(&self) {
        let status = self.inner.cluster.status();
        let tree = self.inner.view.load();
        metrics::gauge!("byname_objects").set(tree.len() as f64);
        metrics::gauge!("byname_revision").set(tree.revision as f64);
        metrics::gauge!("byname_agents").set(self.inner.agents.computers().len() as f64);
        for state in HostState::ALL {
            let count = tree.hosts().filter(|(_, host)| host.state() == state).count();
            metrics::gauge!("byname_hosts", "state" => state.as_str()).set(count as f64);
        }
        metrics::gauge!("byname_log_bytes").set(status.log_bytes as f64);
        metrics::gauge!("byname_writes_waiting").set(status.waiting as f64);
        metrics::gauge!("byname_services_short").set(self.inner.kept.count() as f64);
        self.inner.measure_health(&tree);
        let (watchers, events, bytes) = self.inner.hub.measure();
        metrics::gauge!("byname_watchers").set(watchers as f64);
        metrics::gauge!("byname_watch_events_kept").set(events as f64);
        metrics::gauge!("byname_watch_kept_bytes").set(bytes as f64);
        metrics::gauge!("byname_primary").set(f64::from(u8::from(self.inner.reigns())));
        metrics::gauge!("byname_term").set(status.term as f64);
        metrics::gauge!("byname_age_seconds").set(self.inner.cluster.freshness().age.as_secs_f64());
        self.inner.measure_clocks();
        metrics::gauge!("byname_writes_stalled").set(f64::from(u8::from(status.stalled.is_some())));
    }
}

impl Inner {
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The one write path: on disk and applied when it returns. A refusal by the registry is an error.
    pub(crate) async fn propose(&self, by: &str, request: Option<RequestId>, command: Command) -> Result<Reply> {
        metrics::counter!("byname_writes_total").increment(1);
        let request = request.map(|id| own_request(by, id));
        let anywhere = matches!(command, Command::Anchor { .. } | Command::Vault { .. });
        let entry = LogEntry { at: self.time_to_log(), by: by.to_owned(), request, command };
        let bytes = Bytes::from(stored::encode_command(&entry));
        let proposed = match anywhere {
            // A server's own business, which concerns no other.
            true => self.cluster.propose_anywhere(bytes).await,
            false => self.cluster.propose(bytes).await,
        };
        let reply = proposed.map_err(|error| match error {
            ProposeError::TooLarge { bytes, limit } => {
                Error::new(Code::TooLarge, format!("the request takes {bytes} bytes, and {limit} is the most"))
            }
            ProposeError::Overloaded => Error::new(Code::Unavailable, error.to_string()),
            ProposeError::NotPrimary { .. } | ProposeError::Unknown(_) => {
                Error::new(Code::Unavailable, error.to_string()).field(NO_PRIMARY)
            }
            other => Error::new(Code::Unavailable, other.to_string()),
        })?;
        match stored::decode_reply(&reply)? {
            Reply::Refused(error) => Err(error),
            reply => Ok(reply),
        }
    }

    /// An object as others see it, with what is known beyond the log.
    pub(crate) fn object(&self, tree: &Tree, node: &byname_registry::Node) -> Object {
        let mut object = query::object(tree, node, &self.config.dns_suffix);
        self.add_samples(&mut object);
        object
    }

    fn add_samples(&self, object: &mut Object) {
        if let Some(status) = &mut object.status {
            self.add_to_instances(status);
            status.listening = self.sockets.of(object.id);
        }
        if let Some(host) = &mut object.host
            && let Some((heard, seen)) = self.hosts.of(&object.name)
        {
            (host.last_seen, host.load, host.memory_free) = (seen, heard.load, heard.memory_free);
        }
    }

    fn add_to_status(&self, tree: &Tree, status: &mut ServiceStatus) {
        self.add_to_instances(status);
        if let Some(node) = tree.get(&status.name) {
            status.listening = self.sockets.of(node.id);
        }
    }

    fn add_to_instances(&self, status: &mut ServiceStatus) {
        for instance in &mut status.instances {
            instance.load = query::Samples::load(&self.usage, instance.id);
            instance.connections = self.usage.connections(instance.id);
            instance.last_seen = self.usage.seen(instance.id);
        }
    }

    /// Makes sure that the view holds every write answered so far by any server.
    pub(crate) async fn confirm(&self) -> Result<()> {
        let confirmed = self.cluster.confirm().await;
        confirmed.map(drop).map_err(|e| Error::new(Code::Unavailable, e.to_string()).field(NO_PRIMARY))
    }
}

/// A request id whose session was made from a key that a caller chose (`Idempotency-Key`): two callers that choose the
/// same key must not get each other's replies. Other sessions are random, and known to their callers alone.
fn own_request(by: &str, id: RequestId) -> RequestId {
    if RequestId::made(id.session).is_some() {
        return id;
    }
    let digest = Sha256::digest([by.as_bytes(), &[0], &id.session.to_be_bytes()].concat());
    let mut hash = [0; 16];
    hash.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    RequestId { session: RequestId::session_of_key(u128::from_be_bytes(hash)), ..id }
}

/// Does what follows from changes.
async fn follow_events(inner: Arc<Inner>, mut events: mpsc::UnboundedReceiver<Told>) {
    while let Some(told) = events.recv().await {
        let batch = match told {
            Told::Events(batch) => batch,
            Told::Restored => {
                inner.hub.restart(inner.view.load().revision);
                inner.waits.wake_all();
                inner.forget_known();
                continue;
            }
        };
        inner.hub.tell(&batch);
        for event in batch {
            inner.follow_principals(&event);
            let Some(term) = inner.reign() else {
                // Only those who wait here; the rest is the primary's business.
                match event {
                    Event::Service(id) => inner.waits.wake(id),
                    Event::Object { node, .. } => inner.waits.wake(node.id),
                    Event::Ended { instance, .. } => inner.usage.forget(instance),
                    _ => {}
                }
                continue;
            };
            match event {
                Event::Service(id) => {
                    inner.waits.wake(id);
                    inner.follow_use(id);
                    inner.follow_sockets(id);
                    inner.follow_speed(id);
                    inner.follow_health(id);
                    let short = inner.view.load().by_id(id).is_some_and(|n| keep::missing_copies(&n).is_some());
                    if short {
                        inner.keep(id);
                    }
                }
                Event::Stop { instance, computer } => {
                    inner.agents.send(&computer, agent::Order::Stop { term, instance, now: false });
                }
                Event::Advertised { instance, computer } => {
                    inner.agents.send(&computer, agent::Order::Advertised { instance });
                }
                Event::Ended { instance, computer } => {
                    inner.leases.end(instance);
                    inner.usage.forget(instance);
                    inner.forget_health(instance);
                    if let Some(computer) = computer {
                        inner.agents.send(&computer, agent::Order::Forget { instance });
                    }
                }
                Event::Lease { instance, renewal, ttl_ms } => inner.leases.grant(instance, renewal, ttl_ms),
                Event::LockLease { object, renewal, ttl_ms } => inner.lock_leases.grant(object, renewal, ttl_ms),
                Event::Host(_) => inner.hosts.news.notify_one(),
                // Those who wait for a lock of it.
                Event::Object { node, .. } => inner.waits.wake(node.id),
            }
        }
    }
}

/// Ends leases that ran out.
async fn end_leases(inner: Arc<Inner>) {
    loop {
        let (instance, renewal) = inner.leases.ran_out().await;
        if inner.stopping() {
            return;
        }
        if !inner.reigns() || inner.view.load().by_instance(instance).is_none() {
            inner.leases.end(instance);
            continue;
        }
        if let Err(error) = inner.propose("byname", None, Command::Expire { instance, renewal }).await {
            tracing::warn!(%instance, error = error.log_line(), "a lease that ran out cannot be ended now");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Ends locks whose leases ran out.
async fn end_locks(inner: Arc<Inner>) {
    loop {
        let (object, renewal) = inner.lock_leases.ran_out().await;
        if inner.stopping() {
            return;
        }
        if !inner.reigns() || inner.view.load().by_id(object).is_none_or(|node| node.lock.is_none()) {
            inner.lock_leases.end(object);
            continue;
        }
        if let Err(error) = inner.propose("byname", None, Command::ExpireLock { object, renewal }).await {
            tracing::warn!(%object, error = error.log_line(), "a lock that ran out cannot be ended now");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn pattern(text: &str) -> Result<Pattern> {
    Pattern::parse(text).map_err(|e| Error::new(Code::InvalidName, e.to_string()).field("pattern"))
}

/// Whether a change names stable sockets.
fn declares_sockets(op: &Op) -> bool {
    match op {
        Op::Add { spec, .. } | Op::Put { spec, .. } | Op::Declare { spec, .. } | Op::Modify { spec, .. } => {
            spec.launch.as_ref().is_some_and(|launch| launch.listen.is_some())
        }
        Op::Delete { .. } | Op::Check { .. } => false,
    }
}

/// What can be said of a change before it is in the log, so that nothing too large gets there.
fn check_op(op: &Op) -> Result<()> {
    let too_large = |spec: &Spec| spec.value.as_ref().is_some_and(|v| v.len() > MAX_VALUE_BYTES);
    match op {
        Op::Add { spec, .. } | Op::Put { spec, .. } => spec.check(),
        Op::Declare { spec, .. } | Op::Modify { spec, .. } if too_large(spec) => {
            Err(Error::new(Code::TooLarge, "a value is 1 MiB (1048576 bytes) at most").field("value"))
        }
        Op::Declare { .. } | Op::Modify { .. } | Op::Delete { .. } | Op::Check { .. } => Ok(()),
    }
}
