//! The stream between the agent and the primary: one task that takes orders and gives reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use byname_api::agent::{Order, Report};
use byname_api::object::InstanceId;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::agent::Inner;
use crate::instance::Command;
use crate::pulse::Pulse;
use crate::{idle, logs, ready};

/// How many orders and reports may wait.
const WAITING: usize = 256;
/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(1);
/// How often connections are counted.
const COUNTING: Duration = Duration::from_secs(1);

/// The two directions of the stream between a primary and an agent. It ends when either side drops its channels.
#[derive(Debug)]
pub struct Link {
    /// Orders for the agent.
    pub orders: mpsc::Sender<Order>,
    /// What the agent reports. While nobody takes them, instances are kept with their latest report only.
    pub reports: mpsc::Receiver<Report>,
}

/// Opens a link in place of the one before.
pub(crate) fn open(agent: &Arc<Inner>) -> Link {
    let (orders, taken) = mpsc::channel(WAITING);
    let (given, reports) = mpsc::channel(WAITING);
    let task = agent.runtime.spawn(serve(agent.clone(), taken, given));
    agent.replace_link(task.abort_handle());
    Link { orders, reports }
}

async fn serve(agent: Arc<Inner>, mut orders: mpsc::Receiver<Order>, reports: mpsc::Sender<Report>) {
    let hello = Report::Hello {
        computer: agent.config.computer.clone(),
        addresses: agent.addresses().to_vec(),
        facts: facts(&agent),
        beats: true,
    };
    if reports.send(hello).await.is_err() {
        return;
    }
    let mut work = Work {
        agent: agent.clone(),
        reports: reports.clone(),
        tasks: JoinSet::new(),
        logs: HashMap::new(),
        counts: Arc::default(),
    };
    let (mut welcome, mut synced) = (false, false);
    let mut waiting = None;
    let mut pulse = Pulse::default();
    let mut counting = tokio::time::interval(COUNTING);
    counting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if welcome && waiting.is_none() {
            waiting = agent.next_report();
            if waiting.is_none() && !synced {
                waiting = Some(Report::Synced);
                synced = true;
            }
            if waiting.is_none() {
                agent.synced(&reports);
                // Something may have come in between, and would wait until the next news.
                waiting = agent.next_report().or_else(|| agent.next_porter_report());
            }
        }
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Welcome { term, known }) => {
                    if agent.accept_term(term).await {
                        tracing::debug!(term, known = known.len(), "welcomed");
                        agent.tell_all();
                        agent.tell_porters();
                        (welcome, synced) = (true, false);
                    }
                }
                Some(Order::Beat { every_ms, stop_after_ms }) => {
                    pulse.begin(Duration::from_millis(every_ms));
                    agent.partition.set_term(Duration::from_millis(stop_after_ms));
                }
                Some(Order::Heard { beat }) => {
                    if let Some(sent) = pulse.heard(beat) {
                        agent.partition.heard(sent);
                    }
                }
                Some(order) => work.obey(order).await,
            },
            room = reports.reserve(), if waiting.is_some() => match (room, waiting.take()) {
                (Ok(room), Some(report)) => room.send(report),
                _ => return,
            },
            () = agent.news.notified(), if welcome && waiting.is_none() => {}
            Some(_) = work.tasks.join_next() => {}
            _ = counting.tick(), if synced => work.count(),
            () = pulse.due(), if pulse.beats() => {
                if pulse.is_deaf() {
                    tracing::warn!("the server does not answer any more; looking for one that does");
                    return;
                }
                // When nobody takes the reports that wait, one more would not be taken either.
                if let Ok(room) = reports.try_reserve() {
                    room.send(pulse.beat(agent.living_count()));
                }
            }
        }
    }
}

/// What a link has under way.
struct Work {
    agent: Arc<Inner>,
    reports: mpsc::Sender<Report>,
    tasks: JoinSet<()>,
    logs: HashMap<u64, AbortHandle>,
    /// How many connections this link was told of.
    counts: Arc<tokio::sync::Mutex<HashMap<InstanceId, u32>>>,
}

impl Work {
    /// Reports how many connections there are, where that changed.
    fn count(&mut self) {
        // The last look is not over yet.
        let Ok(mut told) = self.counts.clone().try_lock_owned() else { return };
        let all = self.agent.counted();
        if all.is_empty() {
            told.clear();
            return;
        }
        let (agent, reports) = (self.agent.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let Some(counts) = idle::count(&agent, all).await else { return };
            let counts: HashMap<InstanceId, u32> =
                counts.into_iter().map(|(id, seen)| (id, seen.connections)).collect();
            let changed: Vec<_> =
                counts.iter().filter(|(id, n)| told.get(id) != Some(n)).map(|(id, n)| (*id, *n)).collect();
            *told = counts;
            if !changed.is_empty() {
                let _ = reports.send(Report::Connections { counts: changed }).await;
            }
        });
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Welcome { .. } | Order::Beat { .. } | Order::Heard { .. } => {}
            Order::Start(order) => {
                if self.agent.accept_term(order.term).await {
                    self.agent.start(*order);
                }
            }
            Order::Stop { term, instance, now } => {
                if self.agent.accept_term(term).await && !self.agent.command(instance, Command::Stop { now }) {
                    tracing::warn!(%instance, "there is no such instance to stop");
                }
            }
            Order::Advertised { instance } => {
                self.agent.command(instance, Command::Advertised);
            }
            Order::Probe { request, instance, endpoints } => {
                let (agent, reports) = (self.agent.clone(), self.reports.clone());
                self.tasks.spawn(async move {
                    let begun = std::time::Instant::now();
                    let addresses = agent.addresses();
                    let answers = tokio::time::timeout(PROBE, ready::probe(&endpoints, &addresses));
                    let alive = agent.is_running(instance) && answers.await == Ok(true);
                    let micros = begun.elapsed().as_micros() as u64;
                    let _ = reports.send(Report::Probed { request, alive, micros }).await;
                });
            }
            Order::Logs { request, service, tail, follow } => {
                self.logs.retain(|_, task| !task.is_finished());
                let (agent, reports) = (self.agent.clone(), self.reports.clone());
                let task = self.tasks.spawn(logs::send(agent, reports, request, service, tail, follow));
                if let Some(old) = self.logs.insert(request, task) {
                    old.abort();
                }
            }
            Order::EndLogs { request } => {
                if let Some(task) = self.logs.remove(&request) {
                    task.abort();
                }
            }
            Order::Listens { term, all } => {
                if self.agent.accept_term(term).await {
                    self.agent.listens(all);
                }
            }
            Order::Listen { term, listen } => {
                if self.agent.accept_term(term).await {
                    self.agent.listen(*listen);
                }
            }
            Order::Backends { service, backends } => self.agent.backends(service, backends),
            Order::TurnAway { service, error } => self.agent.turn_away(service, &error),
            Order::Rest { request, instance } => {
                let (agent, reports) = (self.agent.clone(), self.reports.clone());
                self.tasks.spawn(async move {
                    let rested = idle::rest(&agent, instance).await;
                    let connections = rested.as_ref().map(|r| r.connections);
                    let unused_ms = rested.and_then(|r| r.unused_ms);
                    let _ = reports.send(Report::Rested { request, connections, unused_ms }).await;
                });
            }
            Order::Wake { instance } => {
                if let Some((service, _)) = self.agent.living(instance) {
                    self.agent.wake(service, instance);
                }
            }
            Order::Forget { instance } => self.agent.forget(instance),
        }
    }
}

/// Facts about the host.
fn facts(agent: &Inner) -> Vec<(String, String)> {
    let uname = rustix::system::uname();
    let text = |t: &std::ffi::CStr| t.to_string_lossy().into_owned();
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|info| {
        let line = info.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().to_owned();
        line.strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let mut facts = vec![
        ("kernel".to_owned(), format!("{} {}", text(uname.sysname()), text(uname.release()))),
        ("machine".to_owned(), text(uname.machine())),
        ("cores".to_owned(), std::thread::available_parallelism().map_or(1, |n| n.get()).to_string()),
        ("agent".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("limits".to_owned(), agent.cgroups.facts()),
    ];
    if let Some(kib) = memory {
        facts.push(("memory".to_owned(), format!("{} MiB", kib / 1024)));
    }
    facts
}
