//! Starting the program.
//!
//! The process that becomes the program is forked before there is work, because a fork takes as long as everything
//! else that a holder does for a start. It waits for its orders on a socket, takes on the session, limits, user and
//! folder, puts the tickets on their descriptor, and replaces its image.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::SigSet;
use nix::unistd::ForkResult;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};
use serde::{Deserialize, Serialize};

use crate::wire::{self, Failure, Step, Work};

/// The number of the descriptor on which the program finds its tickets. Descriptors from 3 on are for passed sockets
/// (LISTEN_FDS), and a plain `sh` redirects from single digits only.
const TICKET_FD: i32 = 9;
/// Where the passed sockets begin (SD_LISTEN_FDS_START).
const FIRST_SOCKET: i32 = 3;
/// Above all descriptors that a program may be given: 16 sockets and the tickets.
const ASIDE: i32 = 64;

/// A process that is ready to become the program.
pub(super) struct Waiting {
    pid: Pid,
    /// Its orders go here, and its failure comes back. Closed at its end when the program begins.
    orders: OwnedFd,
    /// What it will write.
    output: OwnedFd,
}

/// What the waiting process is told.
#[derive(Serialize, Deserialize)]
struct Orders {
    work: Work,
    notify: wire::Text,
}

impl Waiting {
    /// Forks it. The process must have one thread only, and all signals blocked.
    pub(super) fn fork() -> io::Result<Waiting> {
        let (output, output_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let (orders, taken) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let holder = rustix::process::getpid();
        // SAFETY: this process has one thread, so its copy is as good as itself: no lock is held by anybody else.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => {
                drop((orders, output));
                // Out of the way of sockets that may have to be at descriptor 3 and after it.
                let taken = rustix::io::fcntl_dupfd_cloexec(&taken, ASIDE).unwrap_or(taken);
                become_program(holder, &taken, &output_in)
            }
            ForkResult::Parent { child } => {
                let pid = Pid::from_raw(child.as_raw()).ok_or(Errno::SRCH)?;
                Ok(Waiting { pid, orders, output })
            }
        }
    }

    /// Lets it go, with the listening sockets that it is given.
    pub(super) fn release(self, work: Work, notify: OsString, sockets: Vec<OwnedFd>) -> Result<Released, Failure> {
        let failed = |error: io::Error| Failure::of(Step::Prepare, error.raw_os_error().unwrap_or(0));
        let orders = wire::frame(&Orders { work, notify: notify.into() }).map_err(failed)?;
        send_all(&self.orders, &orders, &sockets).map_err(failed)?;
        Ok(Released(self))
    }
}

/// A process that is about to become the program.
pub(super) struct Released(Waiting);

impl Released {
    /// Waits until it is the program, or has failed. Gives its pid and the reading end of what it writes.
    pub(super) fn outcome(self) -> Result<(Pid, OwnedFd), Failure> {
        let Released(Waiting { pid, orders, output }) = self;
        let mut buffer = Vec::new();
        // The end without a word is the good one: the socket was closed by the exec.
        while let Ok(1..) = read_more(&orders, &mut buffer, &mut Vec::new()) {}
        match wire::take_frame(&mut buffer) {
            Ok(None) => Ok((pid, output)),
            Ok(Some(json)) => Err(serde_json::from_slice(&json).unwrap_or(Failure::of(Step::Prepare, 0))),
            Err(error) => Err(Failure::of(Step::Prepare, error.raw_os_error().unwrap_or(0))),
        }
    }
}

impl Failure {
    fn of(step: Step, errno: i32) -> Failure {
        Failure { step, errno, what: String::new() }
    }
}

fn send_all(socket: &OwnedFd, mut bytes: &[u8], mut files: &[OwnedFd]) -> io::Result<()> {
    while !bytes.is_empty() {
        match wire::send(socket, bytes, files) {
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                files = &[];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_more(socket: &OwnedFd, buffer: &mut Vec<u8>, files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 16 << 10];
    loop {
        match wire::receive(socket, &mut bytes, files) {
            Ok(n) => {
                buffer.extend_from_slice(bytes.get(..n).unwrap_or_default());
                return Ok(n);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The whole life of the waiting process, up to the program.
fn become_program(holder: Pid, socket: &OwnedFd, output: &OwnedFd) -> ! {
    if let Err(failure) = try_become_program(holder, socket, output)
        && let Ok(frame) = wire::frame(&failure)
    {
        let _ = send_all(socket, &frame, &[]);
    }
    std::process::exit(127)
}

fn try_become_program(holder: Pid, socket: &OwnedFd, output: &OwnedFd) -> Result<(), Failure> {
    let at = |step: Step| move |errno: Errno| Failure::of(step, errno.raw_os_error());
    let io_at = |step: Step| move |error: io::Error| Failure::of(step, error.raw_os_error().unwrap_or(0));
    // A program that nobody watches must not go on: its holder is the only one that knows its output and its end.
    let bind_to_holder = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(holder) { Ok(()) } else { Err(Errno::SRCH) }
    };
    bind_to_holder().map_err(at(Step::Session))?;
    // A session of its own: signals to its group reach all that it starts and nothing else.
    rustix::process::setsid().map_err(at(Step::Session))?;
    rustix::stdio::dup2_stdout(output).map_err(at(Step::Prepare))?;
    rustix::stdio::dup2_stderr(output).map_err(at(Step::Prepare))?;
    // Descriptor 9 was kept free for this (`reserve_ticket_fd`). A pipe can be read once, by whoever holds the
    // descriptor, and never appears in a file system.
    let (ticket, ticket_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(at(Step::Prepare))?;

    super::warm_up();
    let (mut buffer, mut sockets) = (Vec::new(), Vec::new());
    let Orders { work, notify } = loop {
        if let Some(json) = wire::take_frame(&mut buffer).map_err(io_at(Step::Prepare))? {
            break serde_json::from_slice(&json).map_err(|_| Failure::of(Step::Prepare, 0))?;
        }
        // The holder has left without work.
        if read_more(socket, &mut buffer, &mut sockets).map_err(io_at(Step::Prepare))? == 0 {
            std::process::exit(0);
        }
    };
    if sockets.len() != work.sockets.len() {
        return Err(Failure::of(Step::Prepare, 0));
    }
    File::from(ticket_in).write_all(work.ticket.as_bytes()).map_err(io_at(Step::Prepare))?;
    // Before the number of descriptors is limited: what is to go elsewhere must not be where others go.
    let (ticket, sockets) = set_aside(ticket, sockets).map_err(at(Step::Prepare))?;
    if let Some(folder) = &work.cgroup {
        let procs = PathBuf::from(folder.as_os_str()).join("cgroup.procs");
        File::options().write(true).open(procs).and_then(|mut f| f.write_all(b"0")).map_err(io_at(Step::Cgroup))?;
    }
    for (resource, most) in [(Resource::Nofile, work.files), (Resource::Data, work.data)] {
        if let Some(most) = most {
            limit(resource, most).map_err(at(Step::Limits))?;
        }
    }
    // From here on no more descriptors are opened: their number may be limited now.
    let directory = work.directory.as_ref().map_or(OsStr::new("work"), |d| d.as_os_str());
    if let Some(who) = &work.identity {
        let groups: Vec<Gid> = who.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
        // These act on the calling thread alone, and there is no other.
        rustix::thread::set_thread_groups(&groups).map_err(at(Step::User))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at(Step::User))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(Step::User))?;
        // The change of user has ended it.
        bind_to_holder().map_err(at(Step::Session))?;
    }
    rustix::process::chdir(directory)
        .map_err(|e| Failure { what: directory.to_string_lossy().into(), ..at(Step::Directory)(e) })?;

    let Some((program, args)) = work.argv.split_first() else { return Err(Failure::of(Step::Prepare, 0)) };
    let mut command = Command::new(program.as_os_str());
    command.args(args.iter().map(|arg| arg.as_os_str()));
    command.env_clear();
    command.envs(work.env.iter().map(|(key, value)| (key.as_os_str(), value.as_os_str())));
    command.env("NOTIFY_SOCKET", notify.as_os_str());
    // Above the sockets when there are so many that they need its usual place.
    let after = FIRST_SOCKET + i32::try_from(sockets.len()).unwrap_or(0);
    let ticket_fd = TICKET_FD.max(after);
    if !work.ticket_on_stdin {
        command.env("BYNAME_TICKET_FD", ticket_fd.to_string());
    }
    if !sockets.is_empty() {
        command.env("LISTEN_FDS", sockets.len().to_string());
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDNAMES", work.sockets.join(":"));
    }
    for (to, socket) in (FIRST_SOCKET..).zip(&sockets) {
        place(socket, to).map_err(at(Step::Prepare))?;
        // As systemd gives them. The mode belongs to the socket, and whoever had it before may have changed it.
        rustix::io::ioctl_fionbio(socket, false).map_err(at(Step::Prepare))?;
    }
    if work.ticket_on_stdin {
        rustix::stdio::dup2_stdin(&ticket).map_err(at(Step::Prepare))?;
    } else {
        place(&ticket, ticket_fd).map_err(at(Step::Prepare))?;
    }
    SigSet::empty().thread_set_mask().map_err(|e| Failure::of(Step::Session, e as i32))?;
    let error = command.exec();
    Err(Failure { what: program.as_os_str().to_string_lossy().into(), ..io_at(Step::Exec)(error) })
}

/// Moves what the program is given to high numbers, if it is given sockets.
fn set_aside(ticket: OwnedFd, sockets: Vec<OwnedFd>) -> rustix::io::Result<(OwnedFd, Vec<OwnedFd>)> {
    if sockets.is_empty() {
        return Ok((ticket, sockets));
    }
    let aside = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(&fd, ASIDE);
    Ok((aside(ticket)?, sockets.into_iter().map(aside).collect::<Result<_, _>>()?))
}

/// Puts a descriptor where the program will look for it, without close-on-exec.
fn place(fd: &OwnedFd, number: i32) -> rustix::io::Result<()> {
    // SAFETY: whatever has this number in this copy of the holder is closed by `dup2` and not used afterwards: the
    // reserved descriptor 9, or with sockets something of the holder's, which this process never touches.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup2(fd, &mut target)
}

/// Sets a limit, or the nearest that the process may set.
fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let allowed = rustix::process::getrlimit(resource).maximum;
    let both = |n| Rlimit { current: Some(n), maximum: Some(n) };
    match rustix::process::setrlimit(resource, both(most)) {
        Err(Errno::PERM) => rustix::process::setrlimit(resource, both(allowed.map_or(most, |a| a.min(most)))),
        other => other,
    }
}

/// Opens descriptor 9 on nothing, so that no other file gets its number before the tickets take it.
pub(super) fn reserve_ticket_fd() -> io::Result<OwnedFd> {
    let null = File::open("/dev/null")?;
    let fd = rustix::io::fcntl_dupfd_cloexec(&null, TICKET_FD)?;
    if fd.as_raw_fd() == TICKET_FD { Ok(fd) } else { Err(io::Error::other("descriptor 9 is taken")) }
}

/// Takes the socket that the agent gave as standard input away from there.
pub(super) fn take_stdin() -> io::Result<OwnedFd> {
    let own = rustix::io::fcntl_dupfd_cloexec(io::stdin(), TICKET_FD + 1)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(own)
}

/// Closes every descriptor above the standard three: the agent's own must not live on in a holder.
pub(super) fn close_inherited() {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // Called first thing in the process, when no value of it owns a descriptor above 2. The one of the listing
        // itself is closed already.
        let _ = nix::unistd::close(fd);
    }
}
