//! An agent that starts nothing: it reports what the program named by the first word of the command would do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use byname_api::NameService;
use byname_api::agent::{InstanceReport, Order, Phase, Report, StartOrder, TicketPair};
use byname_api::caller::Caller;
use byname_api::error::{Code, Error};
use byname_api::launch::Launch;
use byname_api::object::InstanceId;
use byname_api::request::Context;
use byname_api::service::{Endpoint, Exit};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::contract::Program;

/// An agent for tests of a server in this process.
#[derive(Clone)]
pub struct PlayedAgent {
    inner: Arc<Inner>,
}

struct Inner {
    reports: mpsc::UnboundedSender<Report>,
    programs: Mutex<BTreeMap<InstanceId, Played>>,
    tickets: Mutex<BTreeMap<InstanceId, TicketPair>>,
    next_pid: AtomicU32,
    silent: AtomicBool,
    load: AtomicU32,
}

/// A program that only its agent believes in.
struct Played {
    service: u64,
    pid: u32,
    endpoints: Vec<Endpoint>,
    log: String,
}

impl PlayedAgent {
    /// Attaches an agent of this computer to a server.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub async fn attach(server: &dyn NameService, computer: &str) -> PlayedAgent {
        PlayedAgent::attach_with(server, computer, BTreeMap::new()).await
    }

    /// Attaches it once more with the programs that it has, as an agent does that was cut off.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub async fn attach_again(&self, server: &dyn NameService, computer: &str) -> PlayedAgent {
        let programs = std::mem::take(&mut *self.programs());
        PlayedAgent::attach_with(server, computer, programs).await
    }

    async fn attach_with(
        server: &dyn NameService,
        computer: &str,
        programs: BTreeMap<InstanceId, Played>,
    ) -> PlayedAgent {
        let (reports, out) = mpsc::unbounded_channel();
        let hello = Report::Hello {
            computer: computer.into(),
            addresses: vec!["127.0.0.1".into()],
            facts: vec![("kernel".into(), "played".into())],
            beats: true,
        };
        let inner = Inner {
            reports,
            programs: Mutex::new(programs),
            tickets: Mutex::default(),
            next_pid: AtomicU32::new(1_000_000),
            silent: AtomicBool::new(false),
            load: AtomicU32::new(0),
        };
        let agent = PlayedAgent { inner: Arc::new(inner) };
        agent.report(hello);
        let cx = Context::of(Caller::internal());
        let mut orders = server
            .attach_agent(&cx, UnboundedReceiverStream::new(out).boxed())
            .await
            .expect("the server takes the agent");
        let playing = agent.clone();
        tokio::spawn(async move {
            while let Some(order) = orders.next().await {
                playing.take(order);
            }
        });
        agent
    }

    /// What to declare so that this agent plays the program.
    pub fn launch(program: Program) -> Launch {
        Launch { command: Some(vec![format!("{program:?}")]), ready: Some(program.ready()), ..Launch::default() }
    }

    /// The program ends as if by SIGKILL.
    pub fn kill(&self, pid: u32) {
        let id = self.programs().iter().find(|(_, p)| p.pid == pid).map(|(id, _)| *id);
        if let Some(id) = id {
            self.end(id, Exit::Signal(9), None, false);
        }
    }

    /// The ticket that an instance was started with.
    pub fn ticket(&self, instance: InstanceId) -> Option<TicketPair> {
        lock(&self.inner.tickets).get(&instance).cloned()
    }

    fn programs(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Played>> {
        lock(&self.inner.programs)
    }

    fn report(&self, report: Report) {
        // The server may be gone already.
        let _ = self.inner.reports.send(report);
    }

    fn take(&self, order: Order) {
        match order {
            Order::Welcome { .. } => {
                let known: Vec<InstanceId> = self.programs().keys().copied().collect();
                for id in known {
                    self.phase(id, Phase::Ready);
                }
                self.report(Report::Synced);
            }
            Order::Beat { every_ms, .. } => self.beat(std::time::Duration::from_millis(every_ms)),
            Order::Start(order) => self.start(*order),
            Order::Stop { instance, .. } => self.end(instance, Exit::Signal(15), None, true),
            Order::Probe { request, instance, .. } => {
                let alive = self.programs().contains_key(&instance);
                self.report(Report::Probed { request, alive, micros: 0 });
            }
            Order::Logs { request, service, tail, .. } => {
                let log: String = self.programs().values().filter(|p| p.service == service).map(|p| &*p.log).collect();
                let lines: Vec<&str> = log.split_inclusive('\n').collect();
                let skipped = tail.map_or(0, |tail| lines.len().saturating_sub(tail as usize));
                let bytes = lines[skipped..].concat().into_bytes();
                self.report(Report::Log { request, bytes, done: true, error: None });
            }
            Order::Rest { request, instance } => {
                let connections = self.programs().contains_key(&instance).then_some(0);
                self.report(Report::Rested { request, connections, unused_ms: None });
            }
            // A played program has no sockets of its own.
            Order::Listens { .. }
            | Order::Listen { .. }
            | Order::Backends { .. }
            | Order::TurnAway { .. }
            | Order::Heard { .. }
            | Order::Wake { .. }
            | Order::Advertised { .. }
            | Order::EndLogs { .. }
            | Order::Forget { .. } => {}
        }
    }

    /// Says every so often that it is there, until it is told to be silent.
    fn beat(&self, every: std::time::Duration) {
        let agent = self.clone();
        tokio::spawn(async move {
            let mut beat = 0;
            while !agent.inner.silent.load(Ordering::Relaxed) && !agent.inner.reports.is_closed() {
                let instances = u32::try_from(agent.programs().len()).unwrap_or(u32::MAX);
                let load = Some(f64::from(agent.inner.load.load(Ordering::Relaxed)) / 100.0);
                agent.report(Report::Beat { beat, load, memory_free: Some(1 << 30), instances });
                beat += 1;
                tokio::time::sleep(every).await;
            }
        });
    }

    /// Says nothing any more, as if its host had lost power; its stream stays open.
    pub fn fall_silent(&self) {
        self.inner.silent.store(true, Ordering::Relaxed);
    }

    /// The load average that it tells from now on, in hundredths.
    pub fn set_load(&self, hundredths: u32) {
        self.inner.load.store(hundredths, Ordering::Relaxed);
    }

    /// How many programs it believes in.
    pub fn count(&self) -> usize {
        self.programs().len()
    }

    fn start(&self, order: StartOrder) {
        let pid = self.inner.next_pid.fetch_add(1, Ordering::Relaxed);
        let word = order.launch.command.iter().flatten().next().map(String::as_str);
        let Some(program) = Program::ALL.into_iter().find(|p| Some(format!("{p:?}").as_str()) == word) else {
            panic!("{word:?} cannot be played");
        };
        let port = u16::try_from(20_000 + pid % 10_000).unwrap_or(1);
        let endpoints = vec![Endpoint { protocol: "tcp".into(), address: String::new(), port }];
        let played =
            Played { service: order.service, pid, endpoints, log: format!("{}\n", program.lines().join("\n")) };
        self.programs().insert(order.instance, played);
        lock(&self.inner.tickets).insert(order.instance, order.ticket);
        self.phase(order.instance, Phase::Started);
        match program {
            Program::Serves => self.phase(order.instance, Phase::Ready),
            Program::Fails => self.end(order.instance, Exit::Status(3), None, false),
            Program::Mute => {
                let (agent, timeout) = (self.clone(), order.launch.start_timeout().duration());
                tokio::spawn(async move {
                    tokio::time::sleep(timeout).await;
                    let error = Error::new(Code::StartTimeout, "it was not ready in time");
                    agent.end(order.instance, Exit::Signal(9), Some(error), false);
                });
            }
            Program::Advertises => {}
        }
    }

    fn phase(&self, instance: InstanceId, phase: Phase) {
        let report = self.programs().get(&instance).map(|p| InstanceReport {
            instance,
            service: p.service,
            phase,
            pid: Some(p.pid),
            endpoints: p.endpoints.clone(),
            started: None,
            checked: None,
        });
        if let Some(report) = report {
            self.report(Report::Instance(report));
        }
    }

    fn end(&self, instance: InstanceId, exit: Exit, error: Option<Error>, ordered: bool) {
        let last_lines = self.programs().get(&instance).map(|p| p.log.clone()).unwrap_or_default();
        self.phase(instance, Phase::Ended { exit, last_lines, error, ordered });
        self.programs().remove(&instance);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
