//! Starting the program: a session, limits, a user and a folder of its own, and the ticket on an inherited descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::SigSet;
use rustix::io::{Errno, FdFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};

use crate::wire::{Failure, Step, Work};

/// The number of the descriptor on which the program finds its tickets. Descriptors from 3 on are for passed sockets
/// (LISTEN_FDS), and a plain `sh` redirects from single digits only.
pub(super) const TICKET_FD: i32 = 9;

/// Opens descriptor 9 on nothing, so that no other file of the holder gets its number before the tickets take it.
pub(super) fn reserve_ticket_fd() -> io::Result<OwnedFd> {
    let null = File::open("/dev/null")?;
    let fd = rustix::io::fcntl_dupfd_cloexec(&null, TICKET_FD)?;
    if fd.as_raw_fd() == TICKET_FD { Ok(fd) } else { Err(io::Error::other("descriptor 9 is taken")) }
}

/// Starts the program. Gives its pid and the reading end of what it writes.
pub(super) fn spawn(work: &Work, notify: &OsStr, mut ticket_fd: OwnedFd) -> Result<(Pid, OwnedFd), Failure> {
    let prepare = |errno: Errno| Failure { step: Step::Prepare, errno: errno.raw_os_error(), what: String::new() };
    let io_error = |error: io::Error| Failure {
        step: Step::Prepare,
        errno: error.raw_os_error().unwrap_or(0),
        what: String::new(),
    };

    // A pipe can be read once, by whoever holds the descriptor, and never appears in a file system.
    let (ticket, ticket_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(prepare)?;
    rustix::io::write(&ticket_in, work.ticket.as_bytes()).map_err(prepare)?;
    drop(ticket_in);
    rustix::io::dup2(&ticket, &mut ticket_fd).map_err(prepare)?;
    drop(ticket);
    // Kept from the program's relatives until the very start of the program itself.
    rustix::io::fcntl_setfd(&ticket_fd, FdFlags::CLOEXEC).map_err(prepare)?;

    let (output, output_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(prepare)?;
    rustix::io::ioctl_fionbio(&output, true).map_err(prepare)?;
    let errors_in = output_in.try_clone().map_err(io_error)?;
    let (failed, failed_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(prepare)?;
    rustix::io::ioctl_fionbio(&failed, true).map_err(prepare)?;
    let cgroup = match &work.cgroup {
        Some(folder) => {
            let path = PathBuf::from(folder.as_os_str()).join("cgroup.procs");
            Some(
                File::options()
                    .write(true)
                    .open(path)
                    .map_err(|error| Failure { step: Step::Cgroup, ..io_error(error) })?,
            )
        }
        None => None,
    };

    let program = work.argv.first().ok_or(io_error(io::Error::other("nothing to start")))?;
    let mut command = Command::new(program.as_os_str());
    command.args(work.argv.iter().skip(1).map(|arg| arg.as_os_str()));
    command.env_clear();
    for (key, value) in &work.env {
        command.env(key.as_os_str(), value.as_os_str());
    }
    command.env("NOTIFY_SOCKET", notify);
    command.env("BYNAME_TICKET_FD", TICKET_FD.to_string());
    command.stdin(Stdio::null()).stdout(output_in).stderr(errors_in);

    let directory = work.directory.as_ref().map_or(OsStr::new("work"), |d| d.as_os_str());
    let shown_directory = directory.to_string_lossy().into_owned();
    let directory = std::ffi::CString::new(directory.as_encoded_bytes()).map_err(|e| io_error(e.into()))?;
    let identity = work.identity.as_ref().map(|who| {
        let groups: Vec<Gid> = who.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        (Uid::from_raw(who.uid), Gid::from_raw(who.gid), groups)
    });
    let (files, data) = (work.files, work.data);
    let holder = rustix::process::getpid();
    let became = move || -> Result<(), (Step, Errno)> {
        SigSet::empty().thread_set_mask().map_err(|e| (Step::Session, Errno::from_raw_os_error(e as i32)))?;
        // A session of its own: signals to its group reach all that it starts and nothing else.
        rustix::process::setsid().map_err(|e| (Step::Session, e))?;
        if let Some(procs) = &cgroup {
            rustix::io::write(procs, b"0").map_err(|e| (Step::Cgroup, e))?;
        }
        for (resource, most) in [(Resource::Nofile, files), (Resource::Data, data)] {
            if let Some(most) = most {
                limit(resource, most).map_err(|e| (Step::Limits, e))?;
            }
        }
        if let Some((uid, gid, groups)) = &identity {
            // These act on the calling thread alone, and after a fork there is no other.
            rustix::thread::set_thread_groups(groups).map_err(|e| (Step::User, e))?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid).map_err(|e| (Step::User, e))?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid).map_err(|e| (Step::User, e))?;
        }
        rustix::process::chdir(directory.as_c_str()).map_err(|e| (Step::Directory, e))?;
        // After the change of user, which would clear it. A program that nobody watches must not go on: its holder is
        // the only one that knows its output and its end.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| (Step::Session, e))?;
        if rustix::process::getppid() != Some(holder) {
            return Err((Step::Session, Errno::SRCH));
        }
        // SAFETY: descriptor 9 is `ticket_fd`, which is open for as long as `spawn` runs, in this copy of the process too.
        let ticket = unsafe { BorrowedFd::borrow_raw(TICKET_FD) };
        rustix::io::fcntl_setfd(ticket, FdFlags::empty()).map_err(|e| (Step::Session, e))
    };
    // SAFETY: the closure runs between fork and exec of a single-threaded process. It makes system calls on values that
    // were prepared before, allocates nothing and takes no locks.
    unsafe {
        command.pre_exec(move || {
            became().map_err(|(step, errno)| {
                let _ = rustix::io::write(&failed_in, &[step as u8]);
                errno.into()
            })
        });
    }
    let started = command.spawn();
    match started {
        Ok(child) => match Pid::from_raw(child.id() as i32) {
            Some(pid) => Ok((pid, output)),
            None => Err(io_error(io::Error::other("nothing to start"))),
        },
        Err(error) => {
            let mut step = [0];
            let step = match rustix::io::read(&failed, &mut step) {
                Ok(1..) => step_of(step[0]),
                _ => Step::Exec,
            };
            let what =
                if step == Step::Directory { shown_directory } else { program.as_os_str().to_string_lossy().into() };
            Err(Failure { step, errno: error.raw_os_error().unwrap_or(0), what })
        }
    }
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

fn step_of(byte: u8) -> Step {
    [Step::Prepare, Step::Session, Step::Cgroup, Step::Limits, Step::User, Step::Directory]
        .into_iter()
        .find(|step| *step as u8 == byte)
        .unwrap_or(Step::Exec)
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
