//! One instance, from its order to its end: a task that starts it or finds it again, and then watches it.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use byname_api::agent::{InstanceReport, Phase, StartOrder};
use byname_api::launch::{Handover, OnPartition, Ready};
use byname_api::object::InstanceId;
use byname_api::service::{Endpoint, Exit};
use byname_api::span::Timestamp;
use byname_api::{Code, Error};
use nix::errno::Errno;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::agent::Inner;
use crate::check::{Checks, Verdict};
use crate::folder::{Folder, Intent, StoredCheck, StoredHealth, StoredReady};
use crate::plan;
use crate::spare::Conn;
use crate::wire::{End, Failure, HolderState, Step, ToHolder, Why, Work};
use crate::{identity, proc, ready};

/// How long after a start the next holder is loaded at the latest.
const REFILL: Duration = Duration::from_millis(50);

/// What an instance's task is told.
#[derive(Debug)]
pub(crate) enum Command {
    Stop { now: bool },
    Advertised,
}

/// Carries out an order to start.
pub(crate) async fn start(agent: Arc<Inner>, order: StartOrder, commands: mpsc::Receiver<Command>) {
    let id = order.instance;
    let deadline = Instant::now() + order.launch.start_timeout().duration();
    let service = order.service;
    // Asked for while everything else is got ready.
    let certificate = agent.identities.begin(id, &order.name);
    let certificate_until = Instant::now() + identity::WAIT;
    let certified = certificate.is_some();
    let prepared = async {
        let sockets = take_sockets(&agent, &order).await?;
        let inner = agent.clone();
        Ok((blocking(move || prepare(&inner, &order, certified)).await?, sockets))
    };
    let (Prepared { work, intent, folder, mut conn }, sockets) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::info!(instance = %id, %error, "not started");
            agent.ports.release(id);
            agent.identities.forget(id);
            agent.gone(service, id);
            agent.publish(id, |report| {
                report.phase = Phase::Ended {
                    exit: Exit::NotStarted,
                    last_lines: String::new(),
                    error: Some(error),
                    ordered: false,
                };
            });
            return;
        }
    };
    let mut watch = Watch::new(agent.clone(), id, folder, &intent, deadline);
    agent.set(id, |report| report.endpoints.clone_from(&watch.endpoints));
    agent.count(id, intent.counted);
    if let (Some(certificate), Some(place)) = (certificate, intent.identity.clone()) {
        if tokio::time::timeout_at(certificate_until, certificate).await.is_err() {
            tracing::debug!(instance = %id, "started without a certificate; it comes later");
        }
        let identities = agent.identities.clone();
        let written = move || {
            identities.place(id, place);
            Ok(())
        };
        let _ = blocking(written).await;
    }
    // When it fails the holder is gone, which `run` finds out.
    if let Err(error) = conn.send_with(&ToHolder::Work(work), &sockets).await {
        tracing::error!(instance = %id, %error, "the holder does not take its work");
    }
    drop(sockets);
    let end = watch.run(Some(conn), commands, &mut None).await;
    watch.finish(end);
}

/// Takes an instance of an earlier life of the agent up again. `settled` is told once it is clear how it stands.
pub(crate) async fn adopt(
    agent: Arc<Inner>,
    id: InstanceId,
    folder: Folder,
    intent: Intent,
    commands: mpsc::Receiver<Command>,
    settled: oneshot::Sender<()>,
) {
    // The clock may have been set meanwhile; then the whole time is granted once more.
    let spent = Duration::from_millis(now_ms().saturating_sub(intent.ordered_ms));
    let whole = Duration::from_millis(intent.start_timeout_ms);
    let deadline = Instant::now() + whole.checked_sub(spent).unwrap_or(Duration::ZERO);
    for endpoint in &intent.endpoints {
        let endpoint = Endpoint::from(endpoint);
        if endpoint.port != 0 {
            agent.ports.adopt(endpoint.port, id);
        }
    }
    agent.count(id, intent.counted);
    if let Some(term_ms) = intent.stop_after_ms {
        agent.partition.begin(Duration::from_millis(term_ms));
    }
    if let Some(place) = &intent.identity
        && let Ok(name) = intent.name.parse()
    {
        agent.identities.adopt(id, name, place.clone());
    }
    let mut watch = Watch::new(agent, id, folder, &intent, deadline);
    let mut settled = Some(settled);
    let end = watch.run(None, commands, &mut settled).await;
    watch.finish(end);
}

/// Does what may have to wait for the disk, or for the network when a user is looked up, without holding up other
/// tasks. Where the runtime allows it that is done on the spot, because a change of thread takes as long as the rest of
/// an order.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
    }
}

/// The listening sockets that a program is to be given.
async fn take_sockets(agent: &Inner, order: &StartOrder) -> Result<Vec<OwnedFd>, Error> {
    let wanted: Vec<String> = match order.launch.handover() {
        Handover::Fds => order.launch.stable_sockets().iter().map(ToString::to_string).collect(),
        Handover::Relay => return Ok(Vec::new()),
    };
    let handed = agent.hand(order.service, order.instance, &wanted).await.map_err(|why| {
        Error::new(Code::StartFailed, format!("{} cannot be started: {why}", order.name)).field("launch.listen")
    })?;
    Ok(handed.into_iter().map(|(_, socket)| socket).collect())
}

/// An order that is to be carried out, and the holder for it.
struct Prepared {
    work: Box<Work>,
    intent: Intent,
    folder: Folder,
    conn: Conn,
}

fn prepare(agent: &Inner, order: &StartOrder, certified: bool) -> Result<Prepared, Error> {
    let catalogue = agent.catalogue.read().clone();
    let plan = plan::plan(order, certified, &agent.config, &catalogue, &agent.ports, &agent.cgroups)?;
    let intent = Intent {
        instance: order.instance.to_string(),
        service: order.service,
        name: order.name.to_string(),
        term: order.term,
        ordered_ms: now_ms(),
        endpoints: plan.endpoints.iter().map(Into::into).collect(),
        ready: StoredReady::new(order.launch.ready(), order.launch.ready_path.as_deref()),
        start_timeout_ms: order.launch.start_timeout().as_millis(),
        stop_timeout_ms: order.launch.stop_timeout().as_millis(),
        has_sockets: order.launch.handover() == Handover::Fds,
        ready_at_start: order.launch.handover() == Handover::Fds
            && order.launch.endpoints().is_empty()
            && order.launch.ready() == Ready::Port,
        identity: plan.identity,
        checks: plan.checks,
        stop_after_ms: (order.launch.on_partition == Some(OnPartition::Stop))
            .then(|| agent.partition.term_ms())
            .flatten(),
        counted: order.launch.idle_stop.is_some() || order.launch.listen.as_ref().is_some_and(|l| !l.is_empty()),
    };
    let failed = |what: &'static str| {
        move |error: std::io::Error| {
            let message = format!("{} cannot be started: the agent cannot {what}: {}", order.name, sentence(&error));
            Error::new(Code::StartFailed, message).log(format!("cannot {what}: {error}"))
        }
    };
    let waiting = match agent.spare.take() {
        Some(waiting) => waiting,
        None => agent.spare.spawn().map_err(failed("start a holder"))?,
    };
    let folder = waiting
        .folder
        .claim(&agent.config.dir, order.instance, &intent)
        .map_err(failed("write the instance's folder"))?;
    if let Some(holder) = waiting.pid {
        agent.holders.note(holder, order.instance);
    }
    if intent.identity.is_none() {
        agent.identities.forget(order.instance);
    }
    Ok(Prepared { work: plan.work, intent, folder, conn: waiting.conn })
}

struct Watch {
    agent: Arc<Inner>,
    id: InstanceId,
    folder: Folder,
    service: u64,
    name: String,
    endpoints: Vec<Endpoint>,
    readiness: StoredReady,
    ready_at_start: bool,
    start_timeout: Duration,
    stop_timeout: Duration,
    declared: Vec<StoredCheck>,
    /// Begun when it is ready.
    checks: Option<Checks>,
    /// What a check said for which it is ended.
    given_up: Option<String>,
    /// It shall not outlive its primary.
    follows_primary: bool,
    /// When a program that is not ready is given up.
    deadline: Instant,
    ready: bool,
    /// What the holder was told about the end, to be told again after a break.
    stop: Option<(Why, Duration)>,
    state: HolderState,
}

impl Watch {
    fn new(agent: Arc<Inner>, id: InstanceId, folder: Folder, intent: &Intent, deadline: Instant) -> Watch {
        Watch {
            agent,
            id,
            folder,
            service: intent.service,
            name: intent.name.clone(),
            endpoints: intent.endpoints.iter().map(Into::into).collect(),
            readiness: intent.ready.clone(),
            ready_at_start: intent.ready_at_start,
            start_timeout: Duration::from_millis(intent.start_timeout_ms),
            stop_timeout: Duration::from_millis(intent.stop_timeout_ms),
            declared: intent.checks.clone(),
            checks: None,
            given_up: None,
            follows_primary: intent.stop_after_ms.is_some(),
            deadline,
            ready: false,
            stop: None,
            state: HolderState::default(),
        }
    }

    /// Follows the holder until the program has ended.
    async fn run(
        &mut self,
        mut conn: Option<Conn>,
        mut commands: mpsc::Receiver<Command>,
        settled: &mut Option<oneshot::Sender<()>>,
    ) -> End {
        let mut found_ready: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
        let mut looking = false;
        // The next holder is loaded when this program is ready, so as not to take the processor from it; but not much
        // later, because others may want to start too.
        let refill = tokio::time::sleep(REFILL);
        tokio::pin!(refill);
        let mut refilled = false;
        let agent = self.agent.clone();
        let mut cut_off = Box::pin(async move { agent.partition.over().await });
        loop {
            let Some(holder) = &mut conn else {
                match self.find().await {
                    Found::Holder(found) => conn = Some(found),
                    Found::Ended(end) => return end,
                }
                self.remind(&mut conn).await;
                continue;
            };
            tokio::select! {
                message = holder.next() => match message {
                    Ok(Some(mut state)) => {
                        if let Some(end) = state.end.take() {
                            return end;
                        }
                        self.learn(state, holder).await;
                        if !looking && !self.ready && self.state.running.is_some() {
                            looking = true;
                            if let Some(look) = self.look() {
                                found_ready = look;
                            }
                        }
                        if let Some(settled) = settled.take() {
                            let _ = settled.send(());
                        }
                    }
                    Ok(None) | Err(_) => conn = None,
                },
                () = &mut refill, if !refilled => {
                    refilled = true;
                    self.agent.refill();
                }
                () = &mut found_ready, if !self.ready => self.become_ready(holder).await,
                verdict = next_verdict(&mut self.checks) => self.judge(verdict, holder).await,
                command = commands.recv() => match command {
                    Some(Command::Advertised) => self.become_ready(holder).await,
                    Some(Command::Stop { now }) => {
                        let timeout = if now { Duration::ZERO } else { self.stop_timeout };
                        self.end(holder, Why::Ordered, timeout).await;
                    }
                    // The agent is going; programs stay.
                    None => return std::future::pending().await,
                },
                () = cut_off.as_mut(), if self.follows_primary && self.stop.is_none() => {
                    tracing::warn!(instance = %self.id, name = %self.name, "no word from the servers: stopped, as it wants");
                    self.end(holder, Why::Ordered, self.stop_timeout).await;
                }
                () = tokio::time::sleep_until(self.deadline), if !self.ready && self.stop.is_none() => {
                    self.end(holder, Why::Timeout, Duration::ZERO).await;
                }
            }
        }
    }

    /// Waits for the port or the page, when that is how this program becomes ready.
    fn look(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let http = match &self.readiness {
            StoredReady::Port if self.ready_at_start => return None,
            StoredReady::Port => None,
            StoredReady::Http { path } => Some(path.clone()),
            StoredReady::Advertise | StoredReady::Notify => return None,
        };
        let (endpoints, agent) = (self.endpoints.clone(), self.agent.clone());
        Some(Box::pin(async move { ready::wait(&endpoints, &agent.addresses(), http.as_deref()).await }))
    }

    async fn learn(&mut self, state: HolderState, holder: &mut Conn) {
        self.state = state;
        if let Some(running) = &self.state.running {
            self.agent.holders.note(running.holder, self.id);
        }
        let notified = self.readiness == StoredReady::Notify && self.state.notified;
        let begun = self.ready_at_start && self.state.running.is_some();
        if !self.ready && (notified || begun) {
            self.become_ready(holder).await;
        } else {
            self.ready |= self.state.ready;
            self.watch_health();
            self.publish();
        }
    }

    /// Begins the checks, once it is ready and while nobody ends it.
    fn watch_health(&mut self) {
        if self.declared.is_empty()
            || self.checks.is_some()
            || !self.ready
            || self.stop.is_some()
            || self.state.stopping
        {
            return;
        }
        let known = self.folder.health().each;
        let checks = Checks::begin(&self.agent, self.id, self.folder.path.clone(), &self.declared, known);
        let told = checks.told().cloned();
        self.agent.set(self.id, |report| report.checked = told);
        self.checks = Some(checks);
    }

    async fn judge(&mut self, verdict: Verdict, holder: &mut Conn) {
        let Verdict { mut checked, each, restart } = verdict;
        tracing::info!(instance = %self.id, name = %self.name, health = %checked.health, "{}", checked.note);
        if let Err(error) = self.folder.store_health(&StoredHealth { each }) {
            tracing::warn!(instance = %self.id, %error, "what its checks say cannot be written down");
        }
        if restart {
            checked.note.push_str(", and is ended for it");
            self.given_up = Some(checked.note.clone());
        }
        self.agent.publish(self.id, |report| report.checked = Some(checked));
        if restart {
            self.end(holder, Why::Critical, self.stop_timeout).await;
        }
    }

    async fn become_ready(&mut self, holder: &mut Conn) {
        if !self.ready {
            self.ready = true;
            // First the holder, so that an agent that comes after a crash knows what the primary was told. An error
            // shows as the end of the connection, after which `remind` says it again.
            let _ = holder.send(&ToHolder::Ready).await;
            self.watch_health();
            self.publish();
            self.agent.refill();
        }
    }

    async fn end(&mut self, holder: &mut Conn, why: Why, timeout: Duration) {
        let (why, timeout) = match self.stop {
            Some((first, earlier)) => (first, earlier.min(timeout)),
            None => (why, timeout),
        };
        self.stop = Some((why, timeout));
        // What is on its way out is judged no more.
        self.checks = None;
        self.agent.no_more_for(self.service, self.id);
        self.publish();
        let _ = holder.send(&ToHolder::Stop { why, timeout_ms: timeout.as_millis() as u64 }).await;
    }

    /// Tells a holder that was found again what it may have missed.
    async fn remind(&self, conn: &mut Option<Conn>) {
        let Some(holder) = conn else { return };
        if self.ready {
            let _ = holder.send(&ToHolder::Ready).await;
        }
        if let Some((why, timeout)) = self.stop {
            let _ = holder.send(&ToHolder::Stop { why, timeout_ms: timeout.as_millis() as u64 }).await;
        }
    }

    fn publish(&self) {
        let (state, stopping) = (&self.state, self.stop.is_some() || self.state.stopping);
        let phase = if stopping {
            Phase::Stopping
        } else if !self.ready {
            Phase::Started
        } else if let Some(why) = &state.unwell {
            let why = state.status.as_ref().map_or_else(|| why.clone(), |status| format!("{why}: {status}"));
            Phase::Unhealthy { why }
        } else {
            Phase::Ready
        };
        self.agent.publish(self.id, |report| {
            report.phase = phase;
            if let Some(running) = &state.running {
                report.pid = Some(running.pid);
                report.started = Some(Timestamp(running.started_ms));
            }
            report.endpoints.clone_from(&self.endpoints);
        });
    }

    /// Looks for the holder of an instance whose connection has ended or never was.
    ///
    /// The lock decides: while a holder lives, or an order is on its way to one, nobody else gets it.
    async fn find(&self) -> Found {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Ok(stream) = self.folder.connect().await {
                return Found::Holder(Conn::new(stream));
            }
            match self.folder.try_lock() {
                Ok(None) => {}
                // Whoever had the lock has written the end before it let go.
                Ok(Some(_lock)) => return Found::Ended(self.folder.end().unwrap_or_else(|| self.clean_up())),
                Err(error) => {
                    tracing::error!(instance = %self.id, %error, "the instance's folder is gone");
                    return Found::Ended(End::default());
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// The holder is gone without a word. The kernel killed the program with it; what the program had started may still
    /// be there, in its session and with its instance in the environment.
    fn clean_up(&self) -> End {
        let running = self.folder.running().or_else(|| self.state.running.clone());
        if let Some(running) = &running {
            for pid in proc::with_environment("BYNAME_INSTANCE", &self.id.to_string()) {
                if proc::session(pid) == Some(running.pid)
                    && let Some(pid) = rustix::process::Pid::from_raw(pid as i32)
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let end = End {
            why: self.stop.map(|(why, _)| why),
            ready: self.ready || self.state.ready,
            pid: running.as_ref().map(|r| r.pid),
            started_ms: running.as_ref().map(|r| r.started_ms),
            ..End::default()
        };
        let _ = self.folder.store_end(&end);
        end
    }

    fn finish(self, end: End) {
        let exit = match (end.status, end.signal) {
            (Some(status), _) => Exit::Status(status),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) if end.failed.is_some() => Exit::NotStarted,
            (None, None) => Exit::Unknown,
        };
        let ready = self.ready || end.ready;
        let error = self.error(&end, &exit, ready);
        tracing::info!(instance = %self.id, name = %self.name, %exit, ready, "ended");
        self.agent.refill();
        self.agent.ports.release(self.id);
        self.agent.cgroups.remove(self.id);
        self.agent.holders.forget(self.id);
        self.agent.identities.forget(self.id);
        self.agent.gone(self.service, self.id);
        self.agent.publish(self.id, |report| {
            report.pid = end.pid.or(report.pid);
            report.started = end.started_ms.map(Timestamp).or(report.started);
            report.endpoints.clone_from(&self.endpoints);
            report.phase =
                Phase::Ended { exit, last_lines: end.last_lines, error, ordered: end.why == Some(Why::Ordered) };
        });
    }

    /// The error of a start that came to nothing.
    fn error(&self, end: &End, exit: &Exit, ready: bool) -> Option<Error> {
        let name = &self.name;
        if let Some(failure) = &end.failed {
            return Some(Error::new(Code::StartFailed, format!("{name} {}", Self::failure(failure))));
        }
        let lines = match end.last_lines.as_str() {
            "" => "it wrote nothing".to_owned(),
            lines => format!("its last lines: {lines}"),
        };
        match end.why {
            Some(Why::Ordered) => None,
            Some(Why::Timeout) => {
                let wait = byname_api::span::Span::from_millis(self.start_timeout.as_millis() as u64);
                let how = match &self.readiness {
                    StoredReady::Advertise => "it did not advertise itself".into(),
                    StoredReady::Notify => "it did not say READY=1 on NOTIFY_SOCKET".into(),
                    StoredReady::Port => format!("nothing took connections on {}", self.place()),
                    StoredReady::Http { path } => {
                        format!("{} did not answer GET {path} with a status below 400", self.place())
                    }
                };
                let message = format!("{name} was not ready within {wait}: {how}; {lines}");
                Some(Error::new(Code::StartTimeout, message))
            }
            Some(Why::Critical) => {
                let why = self.given_up.as_deref().unwrap_or("a check found it critical, and it is ended for it");
                Some(Error::new(Code::Unavailable, format!("{name}: {why}")))
            }
            _ if ready => None,
            _ => {
                let left = match end.left {
                    0 => String::new(),
                    1 => " and left 1 process in the background".into(),
                    n => format!(" and left {n} processes in the background"),
                };
                let hint = if end.left > 0 { ": run it in the foreground" } else { "" };
                let message = format!("{name} {exit}{left} before it was ready{hint}; {lines}");
                Some(Error::new(Code::StartFailed, message))
            }
        }
    }

    fn failure(failure: &Failure) -> String {
        let why = if failure.errno == 0 { "it is not clear why" } else { Errno::from_raw(failure.errno).desc() };
        match failure.step {
            Step::Exec => format!("cannot be started: cannot run {}: {why}", failure.what.escape_debug()),
            Step::Directory => format!("cannot be started: cannot enter {}: {why}", failure.what.escape_debug()),
            step => format!("cannot be started: the host cannot {step}: {why}"),
        }
    }

    fn place(&self) -> String {
        self.endpoints.first().map_or_else(
            || "its endpoint".into(),
            |e| if e.address.is_empty() { format!("port {}", e.port) } else { e.to_string() },
        )
    }
}

/// Waits for what the checks come to; for ever when there are none.
async fn next_verdict(checks: &mut Option<Checks>) -> Verdict {
    match checks {
        Some(checks) => checks.next().await,
        None => std::future::pending().await,
    }
}

enum Found {
    Holder(Conn),
    Ended(End),
}

/// An error of the system without its number.
fn sentence(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |n| Errno::from_raw(n).desc().to_owned())
}

/// The state of an instance of which nothing is known yet.
pub(crate) fn unknown(instance: InstanceId, service: u64) -> InstanceReport {
    InstanceReport {
        instance,
        service,
        phase: Phase::Started,
        pid: None,
        endpoints: Vec::new(),
        started: None,
        checked: None,
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
