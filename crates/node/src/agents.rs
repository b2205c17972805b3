//! The agents that are connected: orders go down their streams, their reports become commands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use byname_api::agent::{InstanceReport, Order, Phase, Report};
use byname_api::error::{Code, Error, Result};
use byname_api::object::InstanceId;
use byname_api::service::{Exit, State};
use byname_name::Name;
use byname_registry::Command;
use byname_registry::command::Change;

use crate::Inner;

/// Orders that may wait for one agent.
const QUEUE: usize = 1_024;
/// Pieces of a log that may wait for one reader.
const LOG_QUEUE: usize = 64;

/// What an agent says of an instance that it lets rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rested {
    /// Its connections; none when the agent does not know the instance.
    pub(crate) connections: Option<u32>,
    /// How long ago the last one ended, where that is known.
    pub(crate) unused: Option<Duration>,
}

/// What a probe found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed {
    /// It runs and takes connections.
    pub(crate) alive: bool,
    /// How long it took to find out.
    pub(crate) took: Duration,
}

/// The agents, by computer.
#[derive(Default)]
pub(crate) struct Agents {
    connected: Mutex<BTreeMap<Name, Agent>>,
    next: AtomicU64,
    probes: Mutex<HashMap<u64, oneshot::Sender<Probed>>>,
    rests: Mutex<HashMap<u64, oneshot::Sender<Rested>>>,
    logs: Mutex<HashMap<u64, mpsc::Sender<Result<Bytes>>>>,
    /// Told when an agent arrives.
    pub(crate) arrived: Notify,
    /// Told when all streams end.
    parted: watch::Sender<()>,
}

#[derive(Clone)]
struct Agent {
    stream: u64,
    orders: mpsc::Sender<Order>,
    /// Until the agent has told what it has: instances whose start was sent on this stream, which it may not have
    /// known yet when it told.
    sent: Arc<Mutex<Option<HashSet<InstanceId>>>>,
}

impl Agents {
    /// The computers whose agents are connected.
    pub(crate) fn computers(&self) -> Vec<Name> {
        self.connected.lock().keys().cloned().collect()
    }

    /// Ends all streams: the agents look for the primary.
    pub(crate) fn part(&self) {
        self.connected.lock().clear();
        self.probes.lock().clear();
        self.rests.lock().clear();
        self.logs.lock().clear();
        self.parted.send_replace(());
    }

    /// Sends an order; false when the agent is not there or does not keep up.
    pub(crate) fn send(&self, computer: &Name, order: Order) -> bool {
        let Some(agent) = self.connected.lock().get(computer).cloned() else { return false };
        if let Order::Start(start) = &order
            && let Some(sent) = agent.sent.lock().as_mut()
        {
            sent.insert(start.instance);
        }
        agent.orders.try_send(order).is_ok()
    }

    /// Asks an agent whether an instance is alive and answers.
    pub(crate) async fn probe(&self, computer: &Name, order: impl FnOnce(u64) -> Order) -> Option<Probed> {
        self.ask(&self.probes, computer, order).await
    }

    /// Asks an agent to let an instance rest, and how many connections it has; `None` when the agent is not there, does
    /// not answer.
    pub(crate) async fn rest(&self, computer: &Name, order: impl FnOnce(u64) -> Order) -> Option<Rested> {
        self.ask(&self.rests, computer, order).await
    }

    async fn ask<A>(
        &self,
        asked: &Mutex<HashMap<u64, oneshot::Sender<A>>>,
        computer: &Name,
        order: impl FnOnce(u64) -> Order,
    ) -> Option<A> {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        asked.lock().insert(request, tell);
        let sent = self.send(computer, order(request));
        let answer = if sent { tokio::time::timeout(Duration::from_secs(3), told).await.ok() } else { None };
        asked.lock().remove(&request);
        answer.and_then(std::result::Result::ok)
    }

    /// Asks an agent for a log; the pieces come out of the receiver, and dropping it ends a followed log.
    pub(crate) fn read_log(
        &self,
        computer: &Name,
        order: impl FnOnce(u64) -> Order,
    ) -> Option<(u64, mpsc::Receiver<Result<Bytes>>)> {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (pieces, out) = mpsc::channel(LOG_QUEUE);
        self.logs.lock().insert(request, pieces);
        if !self.send(computer, order(request)) {
            self.logs.lock().remove(&request);
            return None;
        }
        Some((request, out))
    }

    async fn log_piece(&self, computer: &Name, request: u64, bytes: Vec<u8>, done: bool, error: Option<Error>) {
        let Some(reader) = self.logs.lock().get(&request).cloned() else { return };
        let piece = match error {
            Some(error) => Some(Err(error)),
            None if bytes.is_empty() => None,
            None => Some(Ok(Bytes::from(bytes))),
        };
        // A reader that takes nothing for so long is cut off, so that it cannot hold up its agent's other reports.
        let gone = match piece {
            Some(piece) => reader.send_timeout(piece, Duration::from_secs(5)).await.is_err(),
            None => reader.is_closed(),
        };
        if done || gone {
            self.logs.lock().remove(&request);
        }
        if gone && !done {
            self.send(computer, Order::EndLogs { request });
        }
    }
}

/// Takes an agent's stream: waits for its hello and gives the stream of its orders.
pub(crate) async fn attach(
    inner: Arc<Inner>,
    mut reports: BoxStream<'static, Report>,
    only: Option<Name>,
) -> Result<BoxStream<'static, Order>> {
    let hello = tokio::time::timeout(Duration::from_secs(10), reports.next()).await;
    let Ok(Some(Report::Hello { computer, addresses, facts, beats })) = hello else {
        return Err(Error::invalid("report", "an agent begins with `hello`"));
    };
    let name =
        Name::parse("/computers").and_then(|c| c.child(&computer)).map_err(|e| Error::from(e).field("computer"))?;
    if only.as_ref().is_some_and(|only| only.key() != name.key()) {
        return Err(Error::new(
            Code::Denied,
            format!("the certificate is another host's: it does not speak for `{name}`"),
        ));
    }
    let hello = Command::Arrive { name: name.clone(), addresses, facts };
    inner.propose("byname", None, hello).await?;
    let (orders, out) = mpsc::channel(QUEUE);
    let parted = inner.agents.parted.subscribe();
    if !inner.reigns() {
        return Err(Error::new(Code::Unavailable, "this server is not the primary any more: ask again"));
    }
    let stream = inner.agents.next.fetch_add(1, Ordering::Relaxed);
    let sent = Arc::new(Mutex::new(Some(HashSet::new())));
    // Before anybody can send it a start, so that what is not known here was sent later.
    let known: Vec<InstanceId> = inner.view.load().on_computer(&name.key()).collect();
    let agent = Agent { stream, orders: orders.clone(), sent: sent.clone() };
    tracing::info!(computer = %name, instances = known.len(), "agent connected");
    let _ = orders.send(Order::Welcome { term: inner.order_term(), known: known.clone() }).await;
    inner.agents.connected.lock().insert(name.clone(), agent);
    inner.hosts.arrived(&name, beats);
    if beats {
        let times = inner.hosts.times();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let _ = orders.send(Order::Beat { every_ms: ms(times.beat), stop_after_ms: ms(times.stop_after) }).await;
    }
    let reports = hear(inner.clone(), name.clone(), orders.clone(), reports);
    inner.tell_sockets(&name);
    inner.agents.arrived.notify_waiters();
    let stream = Stream { computer: name, stream, orders, known, sent, parted };
    tokio::spawn(stream.listen(inner, reports));
    Ok(tokio_stream::wrappers::ReceiverStream::new(out).boxed())
}

/// Hears an agent apart from doing what follows from its words: a log that is slow must not make the agent look dead.
fn hear(
    inner: Arc<Inner>,
    computer: Name,
    orders: mpsc::Sender<Order>,
    mut reports: BoxStream<'static, Report>,
) -> BoxStream<'static, Report> {
    let (forward, out) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let report = tokio::select! {
                report = reports.next() => report,
                // This server leads no more: the agent looks for the one that does.
                () = forward.closed() => None,
            };
            let Some(report) = report else { break };
            inner.hosts.spoke(&computer);
            if let Report::Beat { beat, load, memory_free, .. } = report {
                inner.hosts.sampled(&computer, load, memory_free);
                // Not heard, if it takes no orders, or by one that may have been superseded.
                if inner.reigns() && !inner.cluster.freshness().stale {
                    let _ = orders.try_send(Order::Heard { beat });
                }
                continue;
            }
            if forward.send(report).await.is_err() {
                break;
            }
        }
        inner.hosts.left(&computer);
    });
    tokio_stream::wrappers::ReceiverStream::new(out).boxed()
}

/// One agent's stream.
struct Stream {
    computer: Name,
    stream: u64,
    orders: mpsc::Sender<Order>,
    known: Vec<InstanceId>,
    sent: Arc<Mutex<Option<HashSet<InstanceId>>>>,
    parted: watch::Receiver<()>,
}

impl Stream {
    async fn listen(mut self, inner: Arc<Inner>, mut reports: BoxStream<'static, Report>) {
        let mut seen = HashSet::new();
        loop {
            let next = tokio::select! {
                next = reports.next() => next,
                _ = self.parted.changed() => None,
            };
            let Some(report) = next else { break };
            match report {
                Report::Hello { .. } | Report::Beat { .. } => {}
                Report::Instance(report) => {
                    if self.sent.lock().is_some() {
                        seen.insert(report.instance);
                        self.stop_again(&inner, &report);
                    }
                    take_report(&inner, &self.computer, &self.orders, report).await;
                }
                Report::Synced => {
                    self.bury_the_lost(&inner, std::mem::take(&mut seen)).await;
                    inner.hosts.synced(&self.computer);
                }
                Report::Probed { request, alive, micros } => {
                    if let Some(waiting) = inner.agents.probes.lock().remove(&request) {
                        let _ = waiting.send(Probed { alive, took: Duration::from_micros(micros) });
                    }
                }
                Report::Rested { request, connections, unused_ms } => {
                    if let Some(waiting) = inner.agents.rests.lock().remove(&request) {
                        let _ = waiting.send(Rested { connections, unused: unused_ms.map(Duration::from_millis) });
                    }
                }
                Report::Knock { service, socket, dead } => {
                    // The start that answers it may need this stream's next reports.
                    tokio::spawn(inner.clone().answer_knock(self.computer.clone(), service, socket, dead));
                }
                Report::Listening { service, sockets } => inner.note_sockets(&self.computer, service, sockets),
                Report::Connections { counts } => {
                    for (instance, count) in counts {
                        inner.usage.note_connections(instance, count);
                    }
                }
                Report::Log { request, bytes, done, error } => {
                    inner.agents.log_piece(&self.computer, request, bytes, done, error).await;
                }
            }
        }
        let mut connected = inner.agents.connected.lock();
        if connected.get(&self.computer).is_some_and(|a| a.stream == self.stream) {
            connected.remove(&self.computer);
            tracing::warn!(computer = %self.computer, "agent disconnected; its programs go on");
        }
    }

    /// What was told to stop while the agent was away does not know it yet.
    fn stop_again(&self, inner: &Inner, report: &InstanceReport) {
        let id = report.instance;
        let tree = inner.view.load();
        let node = tree.by_instance(id);
        let copy = node.as_ref().and_then(|node| node.service.as_deref()?.instance(id));
        let stopping = copy.is_some_and(|copy| copy.state == State::Stopping);
        if stopping && !matches!(report.phase, Phase::Stopping | Phase::Ended { .. }) {
            let _ = self.orders.try_send(Order::Stop { term: inner.order_term(), instance: id, now: false });
        }
    }

    /// The agent has told all it has. What was known before it came, was not told and is not on its way to it has ended
    /// while nobody looked.
    async fn bury_the_lost(&self, inner: &Arc<Inner>, seen: HashSet<InstanceId>) {
        let Some(sent) = self.sent.lock().take() else { return };
        for id in &self.known {
            if !seen.contains(id) && !sent.contains(id) && !inner.is_on_its_way(*id) {
                lost(inner, *id).await;
            }
        }
    }
}

async fn take_report(inner: &Arc<Inner>, computer: &Name, orders: &mpsc::Sender<Order>, report: InstanceReport) {
    let id = report.instance;
    let ended = matches!(report.phase, Phase::Ended { .. });
    let node = inner.view.load().by_instance(id);
    let copy = node.as_ref().and_then(|node| node.service.as_deref()?.instance(id));
    if copy.is_some_and(|copy| copy.computer.as_ref().is_some_and(|its| its.key() != computer.key())) {
        tracing::warn!(%computer, instance = %id, "a report about another host's instance is not taken");
        return;
    }
    if node.is_none() {
        // Its end is logged already, or its service was deleted while the agent was away.
        let order = if ended {
            Order::Forget { instance: id }
        } else {
            Order::Stop { term: inner.order_term(), instance: id, now: false }
        };
        let _ = orders.try_send(order);
        return;
    }
    // Told again, or with news of its checks only.
    let known = copy.is_some_and(|copy| {
        matches!(copy.state, State::Running | State::Unhealthy) && copy.health.is_none() && copy.pid == report.pid
    });
    let checked = report.checked.filter(|_| matches!(report.phase, Phase::Ready | Phase::Unhealthy { .. }));
    if known
        && report.phase == Phase::Ready
        && let Some(checked) = checked
    {
        return inner.take_checked(id, checked).await;
    }
    let change = match report.phase {
        Phase::Started => {
            // Nobody waits for this one: it must not hold up the word that the program is ready.
            let change = Change::Started { pid: report.pid, endpoints: report.endpoints };
            let inner = inner.clone();
            tokio::spawn(async move { propose_report(&inner, id, change, 1).await });
            return;
        }
        Phase::Ready => Change::Ready { pid: report.pid, endpoints: report.endpoints },
        Phase::Unhealthy { why } => Change::Unhealthy { why },
        Phase::Stopping => return,
        Phase::Ended { exit, last_lines, error, ordered } => {
            if let Some(node) = node.filter(|_| !ordered && exit != Exit::Status(0)) {
                inner.hosts.failed(node.id, computer);
            }
            Change::Ended { exit, last_lines, error, ordered }
        }
    };
    propose_report(inner, id, change, u32::MAX).await;
    if let Some(checked) = checked {
        inner.take_checked(id, checked).await;
    }
}

async fn lost(inner: &Arc<Inner>, id: InstanceId) {
    let change = Change::Ended { exit: Exit::Unknown, last_lines: String::new(), error: None, ordered: false };
    propose_report(inner, id, change, u32::MAX).await;
}

/// An agent says each thing once to a primary, so it is tried until it is in the log, or another server leads: that one is
/// told everything anew, and what was true under this one may not be true any more.
async fn propose_report(inner: &Arc<Inner>, instance: InstanceId, change: Change, tries: u32) {
    let reign = inner.reign();
    for _ in 0..tries {
        let command = Command::Report { instance, change: change.clone() };
        match inner.propose("byname", None, command).await {
            Err(error) if matches!(error.code(), Code::Unavailable | Code::RateLimited) => {
                if inner.stopping() || inner.reign() != reign {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => {
                tracing::error!(%instance, error = error.log_line(), "a report was not taken");
                return;
            }
            Ok(_) => return,
        }
    }
}
