//! The holder: a small process around each program, which owns what must survive the agent: the program's output and
//! its log files, its NOTIFY_SOCKET, its exit status, and the program itself as its child.
//!
//! The same process becomes the porter of a service instead when that is what its first message says (`porter`).
//!
//! It is one thread and one poll loop. It waits on its standard input, a socket, for its work; that is why one can be
//! kept ready, with the process that will become the program forked already (`spawn`). From then on the instance's folder is its current folder, and it listens there on `control` for agents
//! that come later. It leaves when the program and all its descendants have ended; the file `exit` then says how. While
//! it lives it holds the lock (flock) of the folder, so an agent that finds the lock free knows that nobody is there.
//!
//! SIGTERM to a holder ends its program in the orderly way; SIGHUP, SIGINT and the end of the agent change nothing.
//! When a holder itself is killed, the kernel kills the program with it (PR_SET_PDEATHSIG).

mod notify;
mod output;
mod spawn;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::wire::{self, End, Failure, HolderState, Running, Step, ToHolder, Why, Work};
use crate::{porter, proc};
use output::Output;
pub(crate) use output::escape;

/// How long a program may take to end when the holder itself gets SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// How long processes that were sent SIGKILL are waited for.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// The most that is read of the output once the program has ended.
const DRAIN: usize = 8 << 20;

/// The whole life of a holder. Call it before anything else is set up in the process; the arguments after `hold` are
/// for people who look at the list of processes and have no meaning yet.
pub fn main(_args: impl Iterator<Item = OsString>) -> ! {
    let status = match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("byname hold is started by the agent, not by hand: {error}");
            2
        }
    };
    std::process::exit(status)
}

fn run() -> io::Result<()> {
    spawn::close_inherited();
    let agent = spawn::take_stdin()?;
    rustix::net::sockopt::socket_peercred(&agent)?;
    // Until the end, in the process that becomes the program too.
    let _ticket_fd = spawn::reserve_ticket_fd()?;
    rustix::process::chdir("/")?;
    // Fails when this is a leader already, which is as good.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"byname-hold");
    let signals = take_over_signals()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let mut inbox = Inbox { agent: &agent, signals: &signals, read: Vec::new(), files: Vec::new() };
    // The agent may go away before it has work.
    let keeps = match inbox.next()? {
        Some(ToHolder::Prepare) => false,
        Some(ToHolder::Keep) => true,
        _ => return Ok(()),
    };
    let folder = inbox.files.pop().ok_or_else(|| io::Error::other("no folder comes with the first message"))?;
    rustix::process::fchdir(&folder)?;
    if keeps {
        let read = inbox.read;
        // Left by a porter that was killed.
        let _ = std::fs::remove_file("control");
        let kept = porter::run(agent, read, signals, listen_for_agents()?);
        let _ = std::fs::remove_file("control");
        drop(folder);
        return kept;
    }
    // What passes through here may be secret: no core dump, and nobody else's look at its memory. The program itself is
    // not bound by that, for an exec ends it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let place = Place::prepare()?;
    let waiting = spawn::Waiting::fork()?;
    warm_up();
    let Some(ToHolder::Work(work)) = inbox.next()? else { return Ok(()) };
    let (read, sockets) = (inbox.read, inbox.files);
    let held = hold(*work, sockets, place, waiting, agent, read, signals);
    if let Err(error) = &held {
        // Nobody reads the standard error of a holder.
        Output::new().mark(&format!("the holder failed: {error}"));
    }
    // Until here, so that the folder stays locked to the end.
    drop(folder);
    held
}

/// What is made in the folder before there is work.
struct Place {
    listener: OwnedFd,
    notify: OwnedFd,
    output: Output,
}

impl Place {
    fn prepare() -> io::Result<Place> {
        Ok(Place { listener: listen_for_agents()?, notify: notify::open()?, output: Output::new() })
    }
}

/// The socket on which agents that come later are heard.
fn listen_for_agents() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new("control")?)?;
    rustix::net::listen(&listener, 8)?;
    Ok(listener)
}

/// Does once what a start will do, so that its code and memory are at hand by then.
pub(crate) fn warm_up() {
    let work = Work::default();
    let json = serde_json::to_vec(&ToHolder::Work(Box::new(work))).unwrap_or_default();
    let _ = serde_json::from_slice::<ToHolder>(&json);
    let _ = wire::seal("running", &HolderState::default());
}

/// Blocks all signals and reads them from a descriptor instead. Their actions become the default ones, because the
/// program must not inherit what the agent's own parent chose to ignore.
fn take_over_signals() -> io::Result<SignalFd> {
    let all = SigSet::all();
    all.thread_block()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in NixSignal::iterator().filter(|s| !matches!(s, NixSignal::SIGKILL | NixSignal::SIGSTOP)) {
        // SAFETY: the default action is no code of ours.
        let _ = unsafe { nix::sys::signal::sigaction(signal, &default) };
    }
    Ok(SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn hold(
    work: Work,
    sockets: Vec<OwnedFd>,
    place: Place,
    waiting: spawn::Waiting,
    agent: OwnedFd,
    read: Vec<u8>,
    signals: SignalFd,
) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let user = work.identity.as_ref().map_or(own, |who| who.uid);
    let Place { listener, mut notify, mut output } = place;
    output.limit(work.log_bytes);
    let notify_path = match &work.notify {
        Some(path) => path.as_os_str().to_owned(),
        None => {
            let (socket, name) = notify::open_abstract(&work.instance)?;
            notify = socket;
            name
        }
    };
    let released = waiting.release(work, notify_path, sockets);
    rustix::io::ioctl_fionbio(&agent, true)?;
    let mut holder = Holder {
        state: HolderState { format: wire::FORMAT, ..HolderState::default() },
        link: Some(Link { socket: agent, read, unsent: Vec::new(), behind: false }),
        listener,
        signals,
        notify,
        output,
        pipe: None,
        users: vec![0, own, user],
        main: None,
        status: None,
        failed: None,
        why: None,
        left: 0,
        kill_at: None,
        killing: None,
        gone: false,
    };
    holder.started(released.and_then(spawn::Released::outcome));
    // What came with the work.
    holder.obey();
    while !holder.gone {
        holder.turn()?;
    }
    holder.leave();
    Ok(())
}

/// The agent's messages while there is no work.
struct Inbox<'a> {
    agent: &'a OwnedFd,
    signals: &'a SignalFd,
    read: Vec<u8>,
    /// Descriptors that came along.
    files: Vec<OwnedFd>,
}

impl Inbox<'_> {
    /// The next message; none when the agent is gone or the holder is told to go.
    fn next(&mut self) -> io::Result<Option<ToHolder>> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if let Some(json) = wire::take_frame(&mut self.read)? {
                return Ok(Some(serde_json::from_slice(&json)?));
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.agent.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            rustix::event::poll(&mut fds, None)?;
            let [said, signalled] = fds.map(|fd| !fd.revents().is_empty());
            if signalled && self.signals.read_signal()?.is_some_and(|s| s.ssi_signo == NixSignal::SIGTERM as u32) {
                return Ok(None);
            }
            if !said {
                continue;
            }
            let got = match wire::receive(self.agent, &mut bytes, &mut self.files) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => other?,
            };
            if got == 0 {
                return Ok(None);
            }
            self.read.extend_from_slice(bytes.get(..got).unwrap_or_default());
        }
    }
}

/// The connection to the agent of the moment.
struct Link {
    socket: OwnedFd,
    read: Vec<u8>,
    unsent: Vec<u8>,
    /// The state changed since it was last put into `unsent`.
    behind: bool,
}

struct Holder {
    state: HolderState,
    link: Option<Link>,
    listener: OwnedFd,
    signals: SignalFd,
    notify: OwnedFd,
    output: Output,
    /// The reading end of the program's output; none before the start and after the last writer closed it.
    pipe: Option<OwnedFd>,
    /// Users whose processes may speak on NOTIFY_SOCKET.
    users: Vec<u32>,
    /// The program, until its status was collected.
    main: Option<Pid>,
    status: Option<WaitStatus>,
    failed: Option<Failure>,
    why: Option<Why>,
    left: u32,
    /// When SIGKILL follows.
    kill_at: Option<Instant>,
    /// Since when everything that is left is being killed.
    killing: Option<Instant>,
    gone: bool,
}

impl Holder {
    fn started(&mut self, outcome: Result<(Pid, OwnedFd), Failure>) {
        match outcome {
            Ok((pid, pipe)) => {
                self.main = Some(pid);
                self.pipe = Some(pipe);
                let running =
                    Running { pid: pid.as_raw_pid() as u32, started_ms: now_ms(), holder: std::process::id() };
                self.state.running = Some(running.clone());
                self.changed();
                self.send();
                let _ = store("running", &running, false);
            }
            Err(failure) => {
                self.failed = Some(failure);
                self.gone = true;
            }
        }
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> io::Result<()> {
        let none = PollFlags::empty();
        let nothing = self.signals.as_fd();
        let writing = self.link.as_ref().is_some_and(|l| !l.unsent.is_empty() || l.behind);
        let linked = if writing { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.notify.as_fd(), PollFlags::IN),
            match &self.pipe {
                Some(pipe) => PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN),
                None => PollFd::from_borrowed_fd(nothing, none),
            },
            match &self.link {
                Some(link) => PollFd::from_borrowed_fd(link.socket.as_fd(), linked),
                None => PollFd::from_borrowed_fd(nothing, none),
            },
        ];
        let wake = self.killing.map(|_| Instant::now() + Duration::from_millis(50)).or(self.kill_at);
        let wait = wake.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.and_then(|w| Timespec::try_from(w).ok());
        match rustix::event::poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [signals, listener, notify, pipe, link] = fds.map(|fd| !fd.revents().is_empty());
        if notify {
            self.hear();
        }
        if pipe && self.pipe.is_some() {
            self.read_output(1 << 20);
        }
        if link && self.link.is_some() {
            self.listen_to_agent();
        }
        if listener {
            self.accept();
        }
        if signals {
            self.take_signals();
        }
        self.move_on();
        self.send();
        Ok(())
    }

    fn hear(&mut self) {
        while let Some(said) = notify::receive(&self.notify, &self.users) {
            self.state.notified |= said.ready;
            self.state.stopping |= said.stopping;
            if said.status.is_some() {
                self.state.status = said.status;
            }
            if said.ready || said.alive {
                self.state.unwell = None;
            }
            if said.unwell.is_some() {
                self.state.unwell = said.unwell;
            }
            self.changed();
        }
    }

    /// Reads what is there of the output, `most` bytes at most, so that a flood leaves room for everything else.
    fn read_output(&mut self, most: usize) {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        while let Some(pipe) = self.pipe.as_ref().filter(|_| total < most) {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    self.output.write(buffer.get(..n).unwrap_or_default());
                    total += n;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn listen_to_agent(&mut self) {
        let mut buffer = vec![0; 4 << 10];
        let Some(link) = &mut self.link else { return };
        let gone = loop {
            match rustix::io::read(&link.socket, &mut buffer) {
                Ok(n @ 1..) => link.read.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => break false,
                Err(rustix::io::Errno::INTR) => {}
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
                // What this holder does not know is of a newer agent, which must cope.
                Ok(Some(json)) => match serde_json::from_slice(&json) {
                    Ok(ToHolder::Ready) => self.state.ready = true,
                    Ok(ToHolder::Stop { why, timeout_ms }) => self.stop(why, Duration::from_millis(timeout_ms)),
                    Ok(ToHolder::Prepare | ToHolder::Keep | ToHolder::Work(_)) | Err(_) => {}
                },
            }
        }
    }

    /// The newest agent is the one that counts.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let own = rustix::process::geteuid();
            if rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own || peer.uid.is_root()) {
                self.link = Some(Link { socket, read: Vec::new(), unsent: Vec::new(), behind: true });
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == NixSignal::SIGTERM as u32 {
                self.stop(Why::Shutdown, SHUTDOWN);
            }
        }
        // Every child is ours to collect: the program, and what it left behind and the kernel gave to us.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if Some(pid) == self.main {
                self.main = None;
                self.status = Some(status);
                if self.kill_at.is_none() && self.killing.is_none() {
                    // The program ran in the foreground or it did not: its end is the end of all.
                    self.left = proc::descendants(std::process::id()).len() as u32;
                    self.killing = Some(Instant::now());
                }
            }
        }
    }

    fn stop(&mut self, why: Why, timeout: Duration) {
        let at = Instant::now() + timeout;
        self.why.get_or_insert(why);
        if self.killing.is_some() {
            return;
        }
        let first = self.kill_at.is_none();
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        if let Some(main) = self.main.filter(|_| first && !timeout.is_zero()) {
            let _ = rustix::process::kill_process_group(main, Signal::TERM);
            let _ = rustix::process::kill_process_group(main, Signal::CONT);
        }
        self.state.stopping = true;
        self.changed();
    }

    /// Kills what must go and notices when nothing is left.
    fn move_on(&mut self) {
        let now = Instant::now();
        if self.killing.is_none() && self.kill_at.is_some_and(|at| at <= now) {
            self.killing = Some(now);
        }
        if let Some(since) = self.killing {
            // Children of killed processes become ours and are found the next time.
            for pid in proc::descendants(std::process::id()) {
                if let Some(pid) = Pid::from_raw(pid as i32) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            if now.duration_since(since) > KILL_WAIT && self.main.is_none() {
                self.gone = true;
            }
        }
        if self.main.is_none() && self.status.is_some() {
            let left = rustix::process::waitid(
                rustix::process::WaitId::All,
                rustix::process::WaitIdOptions::EXITED
                    | rustix::process::WaitIdOptions::NOHANG
                    | rustix::process::WaitIdOptions::NOWAIT,
            );
            self.gone |= matches!(left, Err(rustix::io::Errno::CHILD));
        }
    }

    /// Writes down how it ended, tells the agent and makes the record durable.
    fn leave(&mut self) {
        self.read_output(DRAIN);
        if self.left > 0 {
            self.output.mark(&format!(
                "the program exited and left {} in the background, which were ended: run it in the foreground",
                if self.left == 1 { "1 process".into() } else { format!("{} processes", self.left) }
            ));
        }
        let end = End {
            status: self.status.and_then(|s| s.exit_status()),
            signal: self.status.and_then(|s| s.terminating_signal()),
            failed: self.failed.take(),
            why: self.why,
            ready: self.state.ready,
            left: self.left,
            last_lines: self.output.last_lines(),
            pid: self.state.running.as_ref().map(|r| r.pid),
            started_ms: self.state.running.as_ref().map(|r| r.started_ms),
        };
        let stored = store("exit", &end, false);
        self.state.end = Some(end);
        self.changed();
        let patience = Instant::now() + Duration::from_secs(1);
        while self.link.as_ref().is_some_and(|l| l.behind || !l.unsent.is_empty()) && Instant::now() < patience {
            self.send();
            if let Some(link) = self.link.as_ref().filter(|l| !l.unsent.is_empty()) {
                let mut fds = [PollFd::from_borrowed_fd(link.socket.as_fd(), PollFlags::OUT)];
                let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                let _ = rustix::event::poll(&mut fds, Some(&wait));
            }
        }
        // Only now: the agent need not wait for the disk, but one that comes after a crash of the host wants to know.
        if stored.is_ok() {
            let _ = File::open("exit").and_then(|f| f.sync_all());
            let _ = File::open(".").and_then(|f| f.sync_all());
        } else if let Some(end) = &self.state.end {
            let _ = store("exit", end, true);
        }
        let _ = std::fs::remove_file("control");
        let _ = std::fs::remove_file("notify");
    }

    fn changed(&mut self) {
        if let Some(link) = &mut self.link {
            link.behind = true;
        }
    }

    /// Sends the state if it changed, as far as the agent takes it; an agent that is slow gets the newest only.
    fn send(&mut self) {
        let Some(link) = &mut self.link else { return };
        loop {
            if link.unsent.is_empty() {
                if !link.behind {
                    return;
                }
                link.behind = false;
                link.unsent = wire::frame(&self.state).unwrap_or_default();
            }
            match rustix::net::send(&link.socket, &link.unsent, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    link.unsent.drain(..n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => {
                    self.link = None;
                    return;
                }
            }
        }
    }
}

/// Replaces a small checksummed file in the current folder.
fn store(kind: &str, content: &impl serde::Serialize, durable: bool) -> io::Result<()> {
    let new = format!("{kind}.new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&wire::seal(kind, content)?)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&new, kind)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Steps in words, for the message of a start that failed.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Step::Prepare => "prepare the start",
            Step::Session => "begin a session",
            Step::Cgroup => "enter the control group",
            Step::Limits => "set the limits",
            Step::User => "change the user",
            Step::Directory => "enter the directory",
            Step::Exec => "run the program",
        })
    }
}
