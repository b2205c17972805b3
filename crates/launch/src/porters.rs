//! The porters of this host, from the agent's side: one task for each, which starts it, finds it again, tells it what the
//! primary wants and hears what it has to say.
//!
//! `DIR/listen/SERVICE/` is a porter's folder. As with an instance's, whoever has its lock is in charge; the file
//! `listen` says which sockets it holds, for an agent that comes later. What the primary wants is kept here, so that a
//! porter that was killed is started again with all of it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use byname_api::Error;
use byname_api::agent::{Backend, Listen, Report};
use byname_api::launch::{Handover, StableSocket};
use byname_api::object::InstanceId;
use byname_api::service::Endpoint;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::agent::Inner;
use crate::wire::{self, FromPorter, Sockets, Target, ToHolder, ToPorter, Trouble};
use crate::{ports, spare};

/// How long a porter may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// A porter that lived for less is started again after a pause.
const SHORT: Duration = Duration::from_secs(2);
/// The longest pause before a porter is started again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// All porters of an agent.
#[derive(Default)]
pub(crate) struct Porters {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    /// The programs of this host that have the sockets of a service themselves.
    running: HashMap<u64, HashSet<InstanceId>>,
    next: u64,
    closed: bool,
}

struct Entry {
    order: Sockets,
    /// None until the primary has said so: a porter that was found again goes on with what it knows.
    backends: Option<Vec<Target>>,
    resting: HashSet<InstanceId>,
    commands: mpsc::UnboundedSender<ToPorter>,
    task: AbortHandle,
    listening: Option<Vec<(String, Option<Trouble>)>>,
    knock: Option<(String, Vec<InstanceId>)>,
    /// What the primary has not been told.
    untold_listening: bool,
    untold_knock: bool,
    waits: HashMap<u64, oneshot::Sender<Answer>>,
}

/// What a porter says of a copy that it passes nothing more to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rested {
    /// Connections that are relayed to it.
    pub(crate) relays: u32,
    /// How long ago the last of them ended, in milliseconds.
    pub(crate) unused_ms: Option<u64>,
}

enum Answer {
    Rested(Rested),
    Handed(Vec<(String, OwnedFd)>),
}

impl Inner {
    /// Takes up the porters of an earlier life again. Those that were killed wait for the primary's word.
    pub(crate) fn adopt_porters(self: &Arc<Self>) {
        for entry in std::fs::read_dir(self.config.dir.join("listen")).into_iter().flatten().flatten() {
            let place = Place { path: entry.path() };
            let order = std::fs::read(place.path.join("listen")).ok().and_then(|b| wire::unseal("listen", &b));
            match (order, place.try_lock()) {
                (Some(order), Ok(None)) => self.attend(order),
                (_, Ok(Some(_lock))) => drop(std::fs::remove_dir_all(place.path)),
                (None, _) => tracing::warn!(folder = %place.path.display(), "whose sockets are held here is not clear"),
                (_, Err(error)) => tracing::warn!(%error, folder = %place.path.display(), "cannot look for a porter"),
            }
        }
    }

    /// The full set of stable sockets that this host holds.
    pub(crate) fn listens(self: &Arc<Self>, all: Vec<Listen>) {
        let others: Vec<u64> = {
            let table = self.porters.table.lock();
            table.entries.keys().filter(|service| !all.iter().any(|l| l.service == **service)).copied().collect()
        };
        // First those that are given up: another may take the same socket.
        for service in others {
            self.give_up(service);
        }
        for listen in all {
            self.listen(listen);
        }
    }

    /// The stable sockets of one service.
    pub(crate) fn listen(self: &Arc<Self>, listen: Listen) {
        if listen.sockets.is_empty() {
            return self.give_up(listen.service);
        }
        let order = Sockets {
            service: listen.service,
            name: listen.name.to_string(),
            sockets: listen.sockets,
            choose: listen.choose,
            fds: listen.handover == Handover::Fds,
        };
        self.note_ports(&order);
        if let Some(entry) = self.porters.table.lock().entries.get_mut(&order.service) {
            entry.order = order.clone();
            let place = Place::of(&self.config.dir, order.service);
            if let Err(error) = place.write(&order) {
                tracing::warn!(%error, name = %order.name, "cannot write down which sockets are held");
            }
            entry.tell(ToPorter::Listen(order));
            return;
        }
        self.attend(order);
    }

    fn note_ports(&self, order: &Sockets) {
        let sockets = order.sockets.iter().filter_map(|text| match StableSocket::parse(text) {
            Ok(StableSocket::Tcp(address)) => Some(address),
            _ => None,
        });
        self.ports.hold(order.service, &order.name, sockets.collect());
    }

    fn give_up(&self, service: u64) {
        self.ports.hold(service, "", Vec::new());
        if let Some(entry) = self.porters.table.lock().entries.get_mut(&service) {
            entry.order.sockets.clear();
            entry.knock = None;
            let order = entry.order.clone();
            // Or the next agent would open them again.
            if let Err(error) = Place::of(&self.config.dir, service).write(&order) {
                tracing::warn!(%error, name = %order.name, "cannot write down that no sockets are held");
            }
            entry.tell(ToPorter::Listen(order));
        }
    }

    fn attend(self: &Arc<Self>, order: Sockets) {
        self.note_ports(&order);
        let mut table = self.porters.table.lock();
        if table.closed {
            return;
        }
        let service = order.service;
        let (commands, taken) = mpsc::unbounded_channel();
        let task = self.runtime.spawn(attend(self.clone(), service, taken)).abort_handle();
        let entry = Entry {
            order,
            backends: None,
            resting: HashSet::new(),
            commands,
            task,
            listening: None,
            knock: None,
            untold_listening: false,
            untold_knock: false,
            waits: HashMap::new(),
        };
        table.entries.insert(service, entry);
    }

    /// Where the copies of a service run.
    pub(crate) fn backends(&self, service: u64, backends: Vec<Backend>) {
        let local: HashSet<InstanceId> = self.of_service(service).into_iter().collect();
        let own = self.addresses();
        let mut table = self.porters.table.lock();
        let Some(entry) = table.entries.get_mut(&service) else { return };
        if backends.iter().any(|b| !entry.resting.contains(&b.instance)) {
            entry.knock = None;
        }
        let mut targets = Vec::new();
        for Backend { instance, endpoint } in backends {
            // A program that has the sockets gets its connections without our doing.
            if entry.order.fds && local.contains(&instance) {
                continue;
            }
            if entry.order.sockets.iter().any(|text| leads_to(text, &endpoint, &own)) {
                tracing::warn!(%instance, %endpoint, name = %entry.order.name, "a copy cannot be on its stable socket");
                continue;
            }
            targets.push(Target { instance, endpoint });
        }
        entry.resting.retain(|instance| targets.iter().any(|t| t.instance == *instance));
        entry.backends = Some(targets.clone());
        entry.tell(ToPorter::Backends { backends: targets });
    }

    /// The service cannot be started.
    pub(crate) fn turn_away(&self, service: u64, error: &Error) {
        let mut table = self.porters.table.lock();
        if let Some(entry) = table.entries.get_mut(&service) {
            tracing::warn!(name = %entry.order.name, %error, "connections are turned away");
            entry.knock = None;
            entry.tell(ToPorter::TurnAway);
        }
    }

    /// Passes nothing more to an instance. Gives what the porter knows of its connections; none when it does not answer.
    pub(crate) async fn rest(&self, service: u64, instance: InstanceId) -> Option<Rested> {
        let answer = {
            let mut table = self.porters.table.lock();
            table.next += 1;
            let request = table.next;
            let Some(entry) = table.entries.get_mut(&service) else { return Some(Rested::default()) };
            entry.resting.insert(instance);
            entry.ask(request, ToPorter::Rest { request: Some(request), instance })
        };
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(Answer::Rested(rested))) => Some(rested),
            _ => None,
        }
    }

    /// Connections are passed to it again.
    pub(crate) fn wake(&self, service: u64, instance: InstanceId) {
        if let Some(entry) = self.porters.table.lock().entries.get_mut(&service)
            && entry.resting.remove(&instance)
        {
            entry.tell(ToPorter::Wake { instance });
        }
    }

    /// A stop of this instance was begun.
    pub(crate) fn no_more_for(&self, service: u64, instance: InstanceId) {
        if let Some(entry) = self.porters.table.lock().entries.get_mut(&service)
            && entry.resting.insert(instance)
        {
            entry.tell(ToPorter::Rest { request: None, instance });
        }
    }

    /// This instance has ended, or was never started.
    pub(crate) fn gone(&self, service: u64, instance: InstanceId) {
        let mut table = self.porters.table.lock();
        let table = &mut *table;
        let had = table.running.get_mut(&service).is_some_and(|running| running.remove(&instance));
        let left = table.running.get(&service).is_some_and(|running| !running.is_empty());
        if !left {
            table.running.remove(&service);
        }
        let Some(entry) = table.entries.get_mut(&service) else { return };
        entry.resting.remove(&instance);
        if let Some(backends) = &mut entry.backends {
            backends.retain(|b| b.instance != instance);
        }
        entry.tell(ToPorter::Gone { instance });
        if had && !left {
            entry.tell(ToPorter::Running(false));
        }
    }

    /// A program of this host has the sockets of this service.
    pub(crate) fn has_sockets(&self, service: u64, instance: InstanceId) {
        self.porters.table.lock().running.entry(service).or_default().insert(instance);
    }

    /// Duplicates of the listening sockets of a service, for a program of its. From now on the porter does not knock.
    pub(crate) async fn hand(
        &self,
        service: u64,
        instance: InstanceId,
        wanted: &[String],
    ) -> Result<Vec<(String, OwnedFd)>, String> {
        let answer = {
            let mut table = self.porters.table.lock();
            table.next += 1;
            let request = table.next;
            table.running.entry(service).or_default().insert(instance);
            let Some(entry) = table.entries.get_mut(&service) else {
                return Err("this host does not hold its stable sockets".into());
            };
            entry.ask(request, ToPorter::Hand { request })
        };
        let Ok(Ok(Answer::Handed(mut handed))) = tokio::time::timeout(ANSWER, answer).await else {
            return Err("the process that holds its stable sockets does not answer".into());
        };
        let mut sockets = Vec::new();
        for text in wanted {
            let same = |(held, _): &(String, OwnedFd)| {
                held == text || StableSocket::parse(held).is_ok_and(|s| StableSocket::parse(text).is_ok_and(|t| s == t))
            };
            match handed.iter().position(same) {
                Some(at) => sockets.push(handed.swap_remove(at)),
                None => {
                    let told = self.porters.table.lock().sentence(service, text, Some(instance));
                    return Err(told.unwrap_or_else(|| format!("{text} is not held by this host")));
                }
            }
        }
        Ok(sockets)
    }

    /// Where the primary says that this instance listens, and the sockets that were handed to it.
    pub(crate) fn places(&self, service: u64, instance: InstanceId) -> Vec<Endpoint> {
        let table = self.porters.table.lock();
        let Some(entry) = table.entries.get(&service) else { return Vec::new() };
        let mut places: Vec<Endpoint> =
            entry.backends.iter().flatten().filter(|b| b.instance == instance).map(|b| b.endpoint.clone()).collect();
        if table.running.get(&service).is_some_and(|running| running.contains(&instance)) {
            places.extend(entry.order.sockets.iter().filter_map(|t| Some(endpoint(&StableSocket::parse(t).ok()?))));
        }
        places
    }

    /// The next report about stable sockets that waits.
    pub(crate) fn next_porter_report(&self) -> Option<Report> {
        let mut table = self.porters.table.lock();
        let untold = |e: &Entry| (e.untold_listening && e.listening.is_some()) || (e.untold_knock && e.knock.is_some());
        let (service, entry) = table.entries.iter_mut().find(|(_, e)| untold(e))?;
        let service = *service;
        if std::mem::take(&mut entry.untold_listening)
            && let Some(listening) = entry.listening.clone()
        {
            let told = |(text, trouble): (String, Option<Trouble>)| {
                let why = trouble.and_then(|_| table.sentence(service, &text, None));
                (text, why)
            };
            return Some(Report::Listening { service, sockets: listening.into_iter().map(told).collect() });
        }
        entry.untold_knock = false;
        let (socket, dead) = entry.knock.clone()?;
        Some(Report::Knock { service, socket, dead })
    }

    /// Marks everything to be told.
    pub(crate) fn tell_porters(&self) {
        for entry in self.porters.table.lock().entries.values_mut() {
            entry.untold_listening = entry.listening.is_some();
            entry.untold_knock = entry.knock.is_some();
        }
    }

    /// Ends the work for all of them. The porters themselves go on.
    pub(crate) fn leave_porters(&self) {
        let mut table = self.porters.table.lock();
        table.closed = true;
        table.entries.values().for_each(|entry| entry.task.abort());
    }

    fn heard(&self, service: u64, message: FromPorter, files: &mut Vec<OwnedFd>) {
        let mut table = self.porters.table.lock();
        let Some(entry) = table.entries.get_mut(&service) else { return };
        match message {
            FromPorter::Listening { sockets } => {
                entry.listening = Some(sockets);
                entry.untold_listening = true;
            }
            FromPorter::Knock { socket, dead } => {
                entry.knock = Some((socket, dead));
                entry.untold_knock = true;
            }
            FromPorter::TurnedAway { count } => {
                tracing::warn!(name = %entry.order.name, count, "connections were turned away");
            }
            FromPorter::Rested { request, relays, unused_ms } => {
                if let Some(waits) = entry.waits.remove(&request) {
                    let _ = waits.send(Answer::Rested(Rested { relays, unused_ms }));
                }
            }
            FromPorter::Handed { request, sockets } => {
                let count = sockets.len().min(files.len());
                let handed = sockets.into_iter().zip(files.drain(..count)).collect();
                if let Some(waits) = entry.waits.remove(&request) {
                    let _ = waits.send(Answer::Handed(handed));
                }
            }
        }
        drop(table);
        self.news.notify_one();
    }
}

impl Table {
    /// Why a socket of a service is not listened on, as far as it is not for this instance to have it.
    fn sentence(&self, service: u64, socket: &str, wants: Option<InstanceId>) -> Option<String> {
        let listening = self.entries.get(&service)?.listening.as_ref()?;
        let trouble = listening.iter().find(|(text, _)| text == socket)?.1.as_ref()?;
        if trouble.in_use {
            if self.running.get(&service).is_some_and(|running| running.iter().any(|id| Some(*id) != wants)) {
                return Some(format!("{socket} is still held by the program that it was handed to"));
            }
            let other = self
                .entries
                .iter()
                .find(|(id, entry)| **id != service && entry.order.sockets.iter().any(|held| overlap(held, socket)));
            if let Some((_, other)) = other {
                return Some(format!("{socket} is held by `{}`; change one of them", other.order.name));
            }
        }
        Some(format!("{socket} {}", trouble.why))
    }
}

impl Entry {
    fn tell(&self, message: ToPorter) {
        // The task takes everything at once, and ends only with the entry.
        let _ = self.commands.send(message);
    }

    fn ask(&mut self, request: u64, message: ToPorter) -> oneshot::Receiver<Answer> {
        let (waits, answer) = oneshot::channel();
        self.waits.retain(|_, w| !w.is_closed());
        self.waits.insert(request, waits);
        self.tell(message);
        answer
    }
}

/// Follows one porter until its sockets are given up and its last connection has ended.
async fn attend(agent: Arc<Inner>, service: u64, mut commands: mpsc::UnboundedReceiver<ToPorter>) {
    let place = Place::of(&agent.config.dir, service);
    let mut pause = Duration::from_millis(50);
    loop {
        let Some(mut conn) = attach(&agent, service, &place).await else { return };
        let begun = Instant::now();
        let all = {
            let table = agent.porters.table.lock();
            let Some(entry) = table.entries.get(&service) else { return };
            let mut all = vec![ToPorter::Listen(entry.order.clone())];
            all.push(ToPorter::Running(table.running.contains_key(&service)));
            all.extend(entry.backends.clone().map(|backends| ToPorter::Backends { backends }));
            all.extend(entry.resting.iter().map(|i| ToPorter::Rest { request: None, instance: *i }));
            // What was said meanwhile is in there, except for what wants an answer.
            while let Ok(command) = commands.try_recv() {
                match command {
                    ToPorter::Rest { request: Some(_), .. } | ToPorter::Hand { .. } | ToPorter::TurnAway => {
                        all.push(command);
                    }
                    _ => {}
                }
            }
            all
        };
        let mut lost = all.iter().any(|message| conn.queue(message).is_err());
        while !lost {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => lost = conn.queue(&command).is_err(),
                    None => return,
                },
                heard = conn.next() => match heard {
                    Ok(Some(message)) => agent.heard(service, message, &mut conn.files),
                    Ok(None) | Err(_) => lost = true,
                },
            }
        }
        if let Some(entry) = agent.porters.table.lock().entries.get_mut(&service) {
            // Whoever waited is gone with it, and so are its answers.
            entry.knock = None;
            entry.waits.clear();
        }
        if begun.elapsed() < SHORT && agent.wants(service) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = Duration::from_millis(50);
        }
    }
}

/// The connection to a service's porter, which is started if it is not there; none when nobody wants one any more.
async fn attach(agent: &Arc<Inner>, service: u64, place: &Place) -> Option<Conn> {
    let mut pause = Duration::from_millis(1);
    let mut complained = false;
    loop {
        if let Ok(stream) = place.connect().await {
            return Some(Conn::new(stream));
        }
        let begun = match place.make() {
            Ok(None) => Ok(None),
            Ok(Some(lock)) => {
                let order = {
                    let mut table = agent.porters.table.lock();
                    let entry = table.entries.get(&service)?;
                    if entry.order.sockets.is_empty() {
                        let _ = std::fs::remove_dir_all(&place.path);
                        table.entries.remove(&service);
                        return None;
                    }
                    entry.order.clone()
                };
                place.write(&order).and_then(|()| {
                    let words = ["listen", order.name.as_str()];
                    spare::spawn(&agent.config.holder, &words, &ToHolder::Keep, lock).map(|(stream, _)| Some(stream))
                })
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok(Some(stream)) => return Some(Conn::new(stream)),
            Ok(None) => {}
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(%error, service, "stable sockets cannot be held");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

impl Inner {
    fn wants(&self, service: u64) -> bool {
        self.porters.table.lock().entries.get(&service).is_some_and(|e| !e.order.sockets.is_empty())
    }
}

/// A porter's folder.
struct Place {
    path: PathBuf,
}

impl Place {
    fn of(dir: &Path, service: u64) -> Place {
        Place { path: dir.join("listen").join(service.to_string()) }
    }

    /// Makes the folder if need be, and takes its lock if no porter has it.
    fn make(&self) -> io::Result<Option<OwnedFd>> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.try_lock()
    }

    fn try_lock(&self) -> io::Result<Option<OwnedFd>> {
        let fd = self.open(OFlags::RDONLY)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(fd)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(&self.path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Connects to the porter. By way of a descriptor, because the path may be longer than a socket address.
    async fn connect(&self) -> io::Result<UnixStream> {
        let fd = self.open(OFlags::PATH)?;
        UnixStream::connect(format!("/proc/self/fd/{}/control", fd.as_raw_fd())).await
    }

    fn write(&self, order: &Sockets) -> io::Result<()> {
        let new = self.path.join("listen.new");
        std::fs::write(&new, wire::seal("listen", order)?)?;
        std::fs::rename(new, self.path.join("listen"))
    }
}

/// The connection to a porter.
struct Conn {
    stream: UnixStream,
    read: Vec<u8>,
    files: Vec<OwnedFd>,
    unsent: Vec<u8>,
}

impl Conn {
    fn new(stream: UnixStream) -> Conn {
        Conn { stream, read: Vec::new(), files: Vec::new(), unsent: Vec::new() }
    }

    /// Sends a message as soon as the porter takes it.
    fn queue(&mut self, message: &ToPorter) -> io::Result<()> {
        self.unsent.extend(wire::frame(message)?);
        // One that does not read is cut off; it is told everything again when it comes back.
        if self.unsent.len() > wire::MAX_FRAME { Err(io::ErrorKind::TimedOut.into()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.try_write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message; none when the porter is gone. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> io::Result<Option<FromPorter>> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            while let Some(json) = wire::take_frame(&mut self.read)? {
                // What is not known is of a newer porter.
                if let Ok(message) = serde_json::from_slice(&json) {
                    return Ok(Some(message));
                }
            }
            let writing = !self.unsent.is_empty();
            let interest = if writing { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() {
                self.flush()?;
            }
            if ready.is_readable() {
                let (stream, files) = (&self.stream, &mut self.files);
                match stream.try_io(Interest::READABLE, || Ok(wire::receive(stream, &mut bytes, files)?)) {
                    Ok(0) => return Ok(None),
                    Ok(n) => self.read.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Whether two sockets cannot be listened on at once.
fn overlap(a: &str, b: &str) -> bool {
    match (StableSocket::parse(a), StableSocket::parse(b)) {
        (Ok(StableSocket::Tcp(a)), Ok(StableSocket::Tcp(b))) => ports::overlap(a, b),
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Whether a connection to this endpoint would come back to this stable socket.
fn leads_to(socket: &str, endpoint: &Endpoint, own: &[String]) -> bool {
    match StableSocket::parse(socket) {
        Ok(StableSocket::Unix(path)) => endpoint.protocol == "unix" && endpoint.address == path,
        Ok(StableSocket::Tcp(held)) => {
            let ip = match endpoint.address.parse::<IpAddr>() {
                Ok(ip) => ip,
                Err(_) if endpoint.address.is_empty() => IpAddr::from([127, 0, 0, 1]),
                Err(_) => return false,
            };
            let here = ip.is_loopback() || ip.is_unspecified() || own.iter().any(|a| a.parse() == Ok(ip));
            held.port() == endpoint.port
                && (held.ip() == ip || (held.ip().is_unspecified() && held.is_ipv4() == ip.is_ipv4() && here))
        }
        Err(_) => false,
    }
}

/// A stable socket as the endpoint of the program that it was handed to.
pub(crate) fn endpoint(socket: &StableSocket) -> Endpoint {
    match socket {
        StableSocket::Tcp(SocketAddr::V4(a)) => {
            Endpoint { protocol: "tcp".into(), address: a.ip().to_string(), port: a.port() }
        }
        StableSocket::Tcp(SocketAddr::V6(a)) => {
            Endpoint { protocol: "tcp".into(), address: a.ip().to_string(), port: a.port() }
        }
        StableSocket::Unix(path) => Endpoint { protocol: "unix".into(), address: path.clone(), port: 0 },
    }
}
