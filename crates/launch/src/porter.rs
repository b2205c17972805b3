//! The porter: a small process for each service that has stable sockets. It owns the listening sockets and the relayed
//! connections, so that both survive the agent and every copy of the service.
//!
//! It is one thread around one epoll, and it never waits for anything else. As long as there is no copy to pass a
//! connection to, it accepts none: connections wait in the kernel's queue, and the agent is told once that somebody
//! knocks. Told of copies, it accepts and relays (`relay`); told to turn away, it resets all that waits. Where the
//! sockets themselves are handed to the program it only knocks.
//!
//! The porter runs in a folder of its own and holds its lock (flock) while it lives, as a holder does. The end of the
//! agent changes nothing; SIGTERM ends it at once, and SIGHUP and SIGINT are ignored.

mod listener;
mod relay;
mod room;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use byname_api::launch::StableSocket;
use byname_api::object::{Choose, InstanceId};
use byname_api::service::Endpoint;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::ports::Transport;
use crate::wire::{self, FromPorter, Sockets, Target, ToPorter};
use listener::{Listener, Open};
use relay::{Pipes, Relay, Side, Stage, Turn};
use room::Rooms;

/// How often sockets that could not be opened are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How long a copy may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// The pause after a copy whose queue was full, and before one is asked again that has just refused.
const PAUSE: Duration = Duration::from_millis(20);
/// Descriptors that are kept for other things than connections.
const RESERVE: u64 = 64;
/// How many connections are accepted before others have their turn.
const ACCEPT: usize = 256;
/// An agent that leaves so much unread is cut off; it finds out by itself and comes back.
const UNREAD: usize = 1 << 20;

/// What an event is about, in the lowest bits of its number; the rest tells which.
const AGENT: u64 = 0;
const LINK: u64 = 1;
const SIGNALS: u64 = 2;
const DOOR: u64 = 3;
const CLIENT: u64 = 4;
const BACKEND: u64 = 5;
const KINDS: u32 = 3;

/// The life of a porter, from the moment that it has its folder.
pub(crate) fn run(agent: OwnedFd, read: Vec<u8>, signals: SignalFd, control: OwnedFd) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"byname-porter");
    let files = raise_limit();
    rustix::io::ioctl_fionbio(&agent, true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let level = epoll::EventFlags::IN;
    epoll::add(&epoll, &signals, epoll::EventData::new_u64(SIGNALS), level)?;
    epoll::add(&epoll, &control, epoll::EventData::new_u64(AGENT), level)?;
    let mut porter = Porter {
        epoll,
        files,
        signals,
        control,
        link: None,
        order: None,
        doors: Vec::new(),
        next: 1,
        backends: Vec::new(),
        rooms: Rooms::default(),
        ended: HashMap::new(),
        open: HashMap::new(),
        resting: HashSet::new(),
        running: false,
        knock: None,
        relays: HashMap::new(),
        waiting: VecDeque::new(),
        connecting: VecDeque::new(),
        busy: VecDeque::new(),
        starved: Vec::new(),
        pipes: Pipes::default(),
        turn: 0,
        again: None,
        doors_again: None,
        full: false,
        gone: false,
    };
    porter.attach(agent, read)?;
    porter.obey();
    while !porter.gone {
        porter.turn()?;
    }
    for door in porter.doors {
        door.close();
    }
    Ok(())
}

/// A relayed connection takes two descriptors.
fn raise_limit() -> u64 {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20)
}

/// The connection to the agent of the moment.
struct Link {
    socket: OwnedFd,
    read: Vec<u8>,
    /// Frames, with the descriptors that go with their first byte.
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    writing: bool,
}

struct Backend {
    instance: InstanceId,
    place: Option<StableSocket>,
}

/// What the agent was told, and has not answered yet.
#[derive(Clone)]
struct Knock {
    socket: String,
    dead: Vec<InstanceId>,
}

struct Porter {
    epoll: OwnedFd,
    /// How many descriptors there may be.
    files: u64,
    signals: SignalFd,
    control: OwnedFd,
    link: Option<Link>,
    order: Option<Sockets>,
    doors: Vec<Listener>,
    /// The next number of a connection or listener.
    next: u64,
    backends: Vec<Backend>,
    rooms: Rooms,
    /// When the last connection to each copy ended.
    ended: HashMap<InstanceId, Instant>,
    /// How many connections each copy has by way of this process.
    open: HashMap<InstanceId, u32>,
    resting: HashSet<InstanceId>,
    /// A program has the sockets themselves.
    running: bool,
    knock: Option<Knock>,
    relays: HashMap<u64, Relay>,
    /// Accepted, with nobody to pass them to.
    waiting: VecDeque<u64>,
    /// Those that a copy was asked for, the oldest first.
    connecting: VecDeque<(Instant, u64)>,
    /// Those that have something to do.
    busy: VecDeque<u64>,
    /// Those that need a pipe.
    starved: Vec<u64>,
    pipes: Pipes,
    /// Counts choices, for those that take turns.
    turn: usize,
    /// When those that wait are tried again.
    again: Option<Instant>,
    /// When sockets that could not be opened are tried again.
    doors_again: Option<Instant>,
    /// There are no descriptors for further connections.
    full: bool,
    gone: bool,
}

impl Porter {
    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut wake = [self.again, self.doors_again, self.connecting.front().map(|(until, _)| *until)]
            .into_iter()
            .flatten()
            .min();
        if !self.busy.is_empty() {
            wake = Some(now);
        }
        let wait = wake.and_then(|at| Timespec::try_from(at.saturating_duration_since(now)).ok());
        let mut space = [MaybeUninit::uninit(); 256];
        let events = match epoll::wait(&self.epoll, &mut space, wait.as_ref()) {
            Ok((events, _)) => &*events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut knocked = Vec::new();
        for event in events {
            let (data, flags) = (event.data, event.flags);
            let data = data.u64();
            let id = data >> KINDS;
            match data & ((1 << KINDS) - 1) {
                AGENT => self.accept_agent(),
                LINK => self.hear(),
                SIGNALS => self.take_signals(),
                DOOR => knocked.push(id),
                kind => self.touched(id, kind == CLIENT, flags),
            }
        }
        for id in knocked {
            self.opened(id);
        }
        self.work();
        self.on_time(Instant::now());
        self.settle();
        self.send();
        Ok(())
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            self.gone |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
    }

    // The agent.

    fn accept_agent(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.control, flags) {
            let own = rustix::process::geteuid();
            if sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own || peer.uid.is_root()) {
                // The newest agent is the one that counts.
                let _ = self.attach(socket, Vec::new());
            }
        }
    }

    fn attach(&mut self, socket: OwnedFd, read: Vec<u8>) -> io::Result<()> {
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(LINK), epoll::EventFlags::IN)?;
        self.link = Some(Link { socket, read, unsent: VecDeque::new(), writing: false });
        self.tell_doors();
        if let Some(Knock { socket, dead }) = self.knock.clone() {
            self.tell(&FromPorter::Knock { socket, dead });
        }
        Ok(())
    }

    fn hear(&mut self) {
        let mut buffer = vec![0; 16 << 10];
        let Some(link) = &mut self.link else { return };
        let gone = loop {
            match rustix::io::read(&link.socket, &mut buffer) {
                Ok(n @ 1..) => link.read.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(Errno::AGAIN) => break false,
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => break true,
            }
        };
        // The last words of an agent that was killed count like any others.
        self.obey();
        if gone {
            self.link = None;
        }
    }

    fn obey(&mut self) {
        while let Some(link) = &mut self.link {
            match wire::take_frame(&mut link.read) {
                Ok(None) => return,
                Err(_) => self.link = None,
                // What this porter does not know is of a newer agent, which must cope.
                Ok(Some(json)) => {
                    if let Ok(message) = serde_json::from_slice(&json) {
                        self.order(message);
                    }
                }
            }
        }
    }

    fn order(&mut self, message: ToPorter) {
        match message {
            ToPorter::Listen(order) => self.listen(order),
            ToPorter::Backends { backends } => self.set_backends(&backends),
            ToPorter::Running(running) => {
                if self.running != running {
                    self.running = running;
                    self.knock = None;
                    // A porter that was started anew could not have what an earlier one had handed over.
                    self.try_doors();
                }
            }
            ToPorter::TurnAway => self.turn_away(),
            ToPorter::Rest { request, instance } => {
                self.resting.insert(instance);
                let relays = self.open.get(&instance).copied().unwrap_or(0);
                if let Some(request) = request {
                    let unused_ms = self.ended.get(&instance).map(|at| at.elapsed().as_millis() as u64);
                    self.tell(&FromPorter::Rested { request, relays, unused_ms });
                }
            }
            ToPorter::Wake { instance } => {
                if self.resting.remove(&instance) && self.someone() {
                    self.answered();
                }
            }
            ToPorter::Gone { instance } => {
                self.resting.remove(&instance);
                self.ended.remove(&instance);
                self.rooms.forget(instance);
                let had = self.backends.len();
                self.backends.retain(|b| b.instance != instance);
                // A copy that never ran is no answer to a knock, and its end no reason for another one.
                if self.backends.len() < had {
                    self.emptied();
                }
            }
            ToPorter::Hand { request } => self.hand(request),
        }
    }

    fn tell(&mut self, message: &FromPorter) {
        self.tell_with(message, Vec::new());
    }

    fn tell_with(&mut self, message: &FromPorter, files: Vec<OwnedFd>) {
        if let (Some(link), Ok(frame)) = (&mut self.link, wire::frame(message)) {
            link.unsent.push_back((frame, files));
            if link.unsent.iter().map(|(bytes, _)| bytes.len()).sum::<usize>() > UNREAD {
                self.link = None;
            }
        }
    }

    /// Sends what waits, as far as the agent takes it.
    fn send(&mut self) {
        let Some(link) = &mut self.link else { return };
        let mut lost = false;
        while let Some((bytes, files)) = link.unsent.front_mut() {
            match wire::send(&link.socket, bytes, files) {
                Ok(n) => {
                    bytes.drain(..n.min(bytes.len()));
                    // They went with the first byte.
                    files.clear();
                    if bytes.is_empty() {
                        link.unsent.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    lost = true;
                    break;
                }
            }
        }
        let writing = !link.unsent.is_empty();
        if writing != link.writing {
            link.writing = writing;
            let flags = if writing { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            lost |= epoll::modify(&self.epoll, &link.socket, epoll::EventData::new_u64(LINK), flags).is_err();
        }
        if lost {
            self.link = None;
        }
    }

    // The sockets.

    fn listen(&mut self, order: Sockets) {
        let mut old = std::mem::take(&mut self.doors);
        let mut wanted = Vec::new();
        for text in &order.sockets {
            let Ok(socket) = StableSocket::parse(text) else { continue };
            wanted.push((text.clone(), socket));
        }
        // First close, so that what is given up can be opened in another way.
        let mut kept = Vec::new();
        while let Some(door) = old.pop() {
            if wanted.iter().any(|(_, socket)| *socket == door.socket) {
                kept.push(door);
            } else {
                door.close();
            }
        }
        for (text, socket) in wanted {
            match kept.iter().position(|door| door.socket == socket) {
                Some(at) => {
                    let mut door = kept.swap_remove(at);
                    door.text = text;
                    door.try_again();
                    self.doors.push(door);
                }
                None => {
                    let id = self.number();
                    self.doors.push(Listener::new(text, socket, id));
                }
            }
        }
        if self.order.as_ref().is_some_and(|before| before.fds != order.fds) {
            self.knock = None;
        }
        self.order = Some(order);
        if self.doors.is_empty() {
            self.knock = None;
            self.reset_waiting();
        }
        self.doors_changed();
    }

    fn doors_changed(&mut self) {
        let troubled = self.doors.iter().any(|door| door.state.is_err());
        self.doors_again = troubled.then(|| Instant::now() + TRY_AGAIN);
        self.tell_doors();
    }

    fn try_doors(&mut self) {
        // Each of them: `any` would stop at the first.
        if self.doors.iter_mut().filter_map(|door| door.try_again().then_some(())).count() > 0 {
            self.doors_changed();
        }
    }

    fn tell_doors(&mut self) {
        if self.order.is_some() {
            let sockets = self.doors.iter().map(|d| (d.text.clone(), d.state.as_ref().err().cloned())).collect();
            self.tell(&FromPorter::Listening { sockets });
        }
    }

    fn hand(&mut self, request: u64) {
        // From now on whoever connects is the program's business.
        self.running = true;
        self.knock = None;
        let (mut files, mut sockets) = (Vec::new(), Vec::new());
        for door in &self.doors {
            if let Ok(open) = &door.state
                && let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(&open.socket, 0)
            {
                files.push(copy);
                sockets.push(door.text.clone());
            }
        }
        self.tell_with(&FromPorter::Handed { request, sockets }, files);
    }

    /// Polls the listeners while there is something to be learnt from them.
    fn arm(&mut self) {
        let open = self.knock.is_none() && !self.full && !(self.hands_over() && self.running);
        for door in &mut self.doors {
            let Ok(Open { socket, .. }) = &door.state else { continue };
            if open != door.armed {
                let data = epoll::EventData::new_u64(door.id << KINDS | DOOR);
                let done = if open {
                    epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)
                } else {
                    epoll::delete(&self.epoll, socket)
                };
                if done.is_ok() {
                    door.armed = open;
                }
            }
        }
    }

    fn hands_over(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.fds)
    }

    /// Somebody connects.
    fn opened(&mut self, id: u64) {
        if !self.someone() {
            if let Some(door) = self.doors.iter().find(|door| door.id == id && door.armed) {
                let socket = door.text.clone();
                self.knock(socket, Vec::new());
            }
            return;
        }
        if self.hands_over() {
            self.blocking(false);
        }
        for _ in 0..ACCEPT {
            if self.knock.is_some() {
                break;
            }
            if self.is_full() {
                self.again.get_or_insert(Instant::now() + PAUSE);
                break;
            }
            match self.accept(id) {
                Ok(connection) => self.dispatch(connection),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    self.full = true;
                    self.again = Some(Instant::now() + PAUSE);
                    break;
                }
                Err(_) => break,
            }
        }
    }

    fn accept(&mut self, door: u64) -> Result<u64, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Some(listener) = self.doors.iter().find(|d| d.id == door) else { return Err(Errno::AGAIN) };
        let Ok(open) = &listener.state else { return Err(Errno::AGAIN) };
        let socket = rustix::net::accept_with(&open.socket, flags)?;
        if matches!(listener.socket, StableSocket::Tcp(_)) {
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            // A client that vanished without a word is noticed within minutes.
            let _ = sockopt::set_socket_keepalive(&socket, true);
            let _ = sockopt::set_tcp_keepidle(&socket, Duration::from_secs(120));
            let _ = sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(30));
            let _ = sockopt::set_tcp_keepcnt(&socket, 4);
        }
        let id = self.number();
        self.watch(&socket, id << KINDS | CLIENT)?;
        self.relays.insert(id, Relay::new(socket, door));
        Ok(id)
    }

    fn watch(&self, socket: &OwnedFd, number: u64) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(number), flags)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether there are too few descriptors for another connection: its two, and a pipe each way.
    fn is_full(&mut self) -> bool {
        let used = 2 * (self.relays.len() + self.pipes.count) as u64 + RESERVE + 4;
        self.full = used > self.files;
        self.full
    }

    // Knocking.

    fn knock(&mut self, socket: String, dead: Vec<InstanceId>) {
        self.knock = Some(Knock { socket: socket.clone(), dead: dead.clone() });
        self.tell(&FromPorter::Knock { socket, dead });
    }

    /// There is somebody to pass connections to.
    fn answered(&mut self) {
        let dead = self.knock.take().map(|knock| knock.dead).unwrap_or_default();
        for id in &self.waiting {
            if let Some(relay) = self.relays.get_mut(id) {
                relay.tried.clear();
            }
        }
        // The agent believes in those that have just refused; it may be right in a moment.
        if self.backends.iter().any(|b| dead.contains(&b.instance)) {
            self.again = Some(Instant::now() + PAUSE);
        }
    }

    /// The last copy is gone: who waits, or waited for it to rest, knocks again.
    fn emptied(&mut self) {
        if self.backends.is_empty() {
            self.knock = None;
        }
    }

    /// Resets everything that waits.
    fn turn_away(&mut self) {
        if self.someone() || (self.hands_over() && self.running) {
            return;
        }
        let mut count = self.reset_waiting();
        self.blocking(false);
        // All are taken before the first is reset: who comes because of that knocks again, and is not among them.
        let mut taken = Vec::new();
        for open in self.doors.iter().filter_map(|door| door.state.as_ref().ok()) {
            loop {
                match rustix::net::accept_with(&open.socket, SocketFlags::CLOEXEC) {
                    Ok(socket) => taken.push(Side::new(socket)),
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    // Or descriptors have run out: the rest knocks again.
                    Err(_) => break,
                }
            }
        }
        count += taken.len() as u64;
        taken.iter().for_each(Side::reset);
        self.knock = None;
        self.tell(&FromPorter::TurnedAway { count });
    }

    /// A program to which sockets were handed shares their mode with us.
    fn blocking(&self, blocking: bool) {
        for open in self.doors.iter().filter_map(|door| door.state.as_ref().ok()) {
            let _ = rustix::io::ioctl_fionbio(&open.socket, !blocking);
        }
    }

    fn reset_waiting(&mut self) -> u64 {
        let mut count = 0;
        for id in std::mem::take(&mut self.waiting) {
            if let Some(relay) = self.relays.remove(&id) {
                relay.client.reset();
                count += 1;
            }
        }
        count
    }

    // The copies.

    fn set_backends(&mut self, targets: &[Target]) {
        let place = |endpoint: &Endpoint| match Transport::of(&endpoint.protocol) {
            None => Some(StableSocket::Unix(endpoint.address.clone())),
            Some(_) => {
                let ip = match endpoint.address.as_str() {
                    "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    text => text.parse().ok()?,
                };
                Some(StableSocket::Tcp(SocketAddr::new(ip, endpoint.port)))
            }
        };
        let had = !self.backends.is_empty();
        self.backends = targets.iter().map(|t| Backend { instance: t.instance, place: place(&t.endpoint) }).collect();
        self.resting.retain(|instance| targets.iter().any(|t| t.instance == *instance));
        if self.someone() {
            self.answered();
        } else if had {
            self.emptied();
        }
    }

    /// Whether there is a copy that connections may be passed to.
    fn someone(&self) -> bool {
        self.backends.iter().any(|b| !self.resting.contains(&b.instance))
    }

    /// The copy that is next for a connection.
    fn choose(&mut self, tried: &[InstanceId]) -> Option<(InstanceId, Option<StableSocket>)> {
        let may = |b: &&Backend| !self.resting.contains(&b.instance) && !tried.contains(&b.instance);
        let choose = self.order.as_ref().map_or(Choose::First, |order| order.choose);
        let (turn, count) = (self.turn, self.backends.iter().filter(may).count());
        let mut able = self.backends.iter().filter(may);
        let chosen = match choose {
            Choose::First => able.next(),
            // A count that all take turns in is as even as chance, and cheaper.
            Choose::Random => able.nth(scatter(turn) % count.max(1)),
            Choose::RoundRobin | Choose::All => able.nth(turn % count.max(1)),
            Choose::LeastLoaded | Choose::Fastest | Choose::Nearest => {
                able.min_by_key(|b| self.open.get(&b.instance).copied().unwrap_or(0))
            }
        };
        let chosen = chosen.map(|b| (b.instance, b.place.clone()));
        self.turn = self.turn.wrapping_add(1);
        chosen
    }

    /// Passes a connection to a copy, or lets it wait.
    fn dispatch(&mut self, id: u64) {
        loop {
            let Some(relay) = self.relays.get_mut(&id) else { return };
            relay.stage = Stage::Waiting;
            let tried = relay.tried.clone();
            let Some((instance, place)) = self.choose(&tried) else {
                self.waiting.push_back(id);
                if self.knock.is_none() {
                    let door = self.relays.get(&id).map_or(0, |relay| relay.door);
                    self.knock(self.door_name(door), tried);
                }
                return;
            };
            let connected =
                if self.rooms.take(instance, place.as_ref()) { self.connect(id, place) } else { Err(Errno::AGAIN) };
            match connected {
                Ok(backend) => {
                    let until = Instant::now() + CONNECT;
                    if let Some(relay) = self.relays.get_mut(&id) {
                        relay.backend = Some(Side::new(backend));
                        relay.instance = Some(instance);
                        relay.stage = Stage::Connecting { until };
                        *self.open.entry(instance).or_default() += 1;
                        self.connecting.push_back((until, id));
                    }
                    return;
                }
                // Its queue is full, or descriptors have run out: a little later.
                Err(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    self.waiting.push_back(id);
                    self.again.get_or_insert(Instant::now() + PAUSE);
                    return;
                }
                Err(_) => {
                    if let Some(relay) = self.relays.get_mut(&id) {
                        relay.tried.push(instance);
                    }
                }
            }
        }
    }

    fn door_name(&self, id: u64) -> String {
        self.doors.iter().find(|d| d.id == id).or(self.doors.first()).map(|d| d.text.clone()).unwrap_or_default()
    }

    /// Begins to connect. The end of it is told by an event.
    fn connect(&self, id: u64, place: Option<StableSocket>) -> Result<OwnedFd, Errno> {
        let (family, address) = match place.ok_or(Errno::INVAL)? {
            StableSocket::Tcp(to) => {
                (if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }, SocketAddrAny::from(to))
            }
            StableSocket::Unix(path) => (AddressFamily::UNIX, SocketAddrUnix::new(path)?.into()),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if family != AddressFamily::UNIX {
            let _ = sockopt::set_tcp_nodelay(&socket, true);
        }
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        // After connecting: a socket that was never connected is reported as hung up.
        self.watch(&socket, id << KINDS | BACKEND)?;
        Ok(socket)
    }

    // The connections.

    /// The kernel says something of one of the two sockets.
    fn touched(&mut self, id: u64, client: bool, flags: epoll::EventFlags) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        let side = if client { Some(&mut relay.client) } else { relay.backend.as_mut() };
        let Some(side) = side else { return };
        let broken = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        side.readable |= flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | broken);
        side.writable |= flags.intersects(epoll::EventFlags::OUT | broken);
        match relay.stage {
            Stage::Open => self.enqueue(id),
            Stage::Connecting { .. } if !client && flags.intersects(epoll::EventFlags::OUT | broken) => {
                self.connected(id);
            }
            // A client that was reset need not wait any longer. One that has said all it wants to say does.
            Stage::Connecting { .. } | Stage::Waiting if client && flags.contains(epoll::EventFlags::ERR) => {
                relay.was_reset();
                self.drop_relay(id);
            }
            Stage::Connecting { .. } | Stage::Waiting => {}
        }
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(relay) = self.relays.get_mut(&id)
            && !relay.queued
        {
            relay.queued = true;
            self.busy.push_back(id);
        }
    }

    /// A copy has taken a connection, or has not.
    fn connected(&mut self, id: u64) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        let taken = relay.backend.as_ref().is_some_and(|backend| {
            matches!(sockopt::socket_error(&backend.socket), Ok(Ok(()))) && !meets_itself(&backend.socket)
        });
        if taken {
            relay.stage = Stage::Open;
            relay.tried = Vec::new();
            self.enqueue(id);
        } else {
            self.refused(id);
        }
    }

    fn refused(&mut self, id: u64) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        relay.backend = None;
        if let Some(instance) = relay.instance.take() {
            relay.tried.push(instance);
            self.leave(instance);
        }
        self.dispatch(id);
    }

    /// A copy has one connection less.
    fn leave(&mut self, instance: InstanceId) {
        self.ended.insert(instance, Instant::now());
        if let Some(open) = self.open.get_mut(&instance) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.open.remove(&instance);
            }
        }
    }

    fn drop_relay(&mut self, id: u64) {
        if let Some(relay) = self.relays.remove(&id) {
            if relay.stage == Stage::Waiting {
                self.waiting.retain(|w| *w != id);
            }
            if let Some(instance) = relay.instance {
                self.leave(instance);
            }
            relay.close(&mut self.pipes);
            if self.full {
                self.is_full();
            }
        }
    }

    /// Gives each connection that has something to do one turn.
    fn work(&mut self) {
        for _ in 0..self.busy.len() {
            let Some(id) = self.busy.pop_front() else { return };
            let Some(relay) = self.relays.get_mut(&id) else { continue };
            relay.queued = false;
            match relay.turn(&mut self.pipes) {
                Turn::Idle => {}
                Turn::More => self.enqueue(id),
                Turn::Starved => {
                    self.starved.push(id);
                    self.again.get_or_insert(Instant::now() + PAUSE);
                }
                Turn::Over => self.drop_relay(id),
            }
        }
    }

    fn on_time(&mut self, now: Instant) {
        while let Some((until, id)) = self.connecting.front().copied().filter(|(until, _)| *until <= now) {
            self.connecting.pop_front();
            if self.relays.get(&id).is_some_and(|relay| relay.stage == Stage::Connecting { until }) {
                self.refused(id);
            }
        }
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            self.full = false;
            for id in std::mem::take(&mut self.starved) {
                self.enqueue(id);
            }
        }
        if self.doors_again.is_some_and(|at| at <= now) {
            self.doors_again = Some(now + TRY_AGAIN);
            self.try_doors();
        }
    }

    /// Brings everything in line with what has changed.
    fn settle(&mut self) {
        if self.knock.is_none() && !self.waiting.is_empty() && self.again.is_none() {
            if self.someone() {
                for _ in 0..self.waiting.len() {
                    let Some(id) = self.waiting.pop_front() else { break };
                    self.dispatch(id);
                }
            } else if let Some(first) = self.waiting.front().and_then(|id| self.relays.get(id)) {
                let socket = self.door_name(first.door);
                self.knock(socket, Vec::new());
            }
        }
        self.arm();
        let left = self.order.is_some() && self.doors.is_empty() && self.relays.is_empty();
        self.gone |= left || (self.order.is_none() && self.link.is_none());
    }
}

/// Whether two sockets are the same: without a listener, a connection can meet itself when the kernel gives it the
/// very port it is looking for.
fn meets_itself(socket: &OwnedFd) -> bool {
    match (rustix::net::getsockname(socket), rustix::net::getpeername(socket)) {
        (Ok(own), Ok(Some(other))) => own.address_family() != AddressFamily::UNIX && own == other,
        // The other end is gone again, which the relay will see.
        _ => false,
    }
}

/// A number that looks as if it had nothing to do with the one before (the finaliser of splitmix64).
fn scatter(n: usize) -> usize {
    let mut z = (n as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 1) as usize
}
