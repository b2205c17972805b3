//! A program in the foreground of whoever asked for it: it has the caller's terminal and environment, gets the signals
//! that the caller gets, and its status is the caller's. For `byname run`, `byname lock` and editors; nothing here is
//! an instance that an agent watches.

use std::io;
use std::os::unix::process::ExitStatusExt;

use byname_api::object::InstanceId;
use byname_api::service::Endpoint;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use crate::ports::{Ports, Transport};
use crate::ready;

/// A running program.
pub struct Foreground {
    child: Child,
    /// SIGINT, SIGQUIT, SIGTERM and SIGHUP.
    signals: [Arrivals; 4],
}

impl Foreground {
    /// Starts the program that the first word names, with variables beside those of this process. From here on the
    /// signals of [`Foreground::wait`] no longer end this process. The program ends with it: SIGTERM, when the thread
    /// that called this is gone.
    ///
    /// # Errors
    ///
    /// There is no such program, or the system has no room for another process.
    pub fn start(words: &[String], variables: &[(String, String)]) -> io::Result<Foreground> {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        let mut command = Command::new(program);
        command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
        let parent = rustix::process::getpid();
        let with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            // It may have gone between the fork and the call above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only, allocates nothing and takes no lock.
        unsafe { command.pre_exec(with_parent) };
        Ok(Foreground { child: command.spawn()?, signals })
    }

    /// Waits for its end, and passes signals on to it meanwhile. Gives its status as a shell does: 128 and the signal
    /// when one ended it. May be dropped and called again.
    ///
    /// # Errors
    ///
    /// The system cannot tell how it ended.
    pub async fn wait(&mut self) -> io::Result<u8> {
        let pid = self.pid();
        let Foreground { child, signals } = self;
        let [interrupt, quit, terminate, hangup] = signals;
        // The terminal sends the signals of its keys to the program by itself.
        let by_key = |signal| {
            if !has_terminal() {
                send(pid, signal)
            }
        };
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                _ = interrupt.recv() => by_key(Signal::INT),
                _ = quit.recv() => by_key(Signal::QUIT),
                _ = terminate.recv() => send(pid, Signal::TERM),
                _ = hangup.recv() => send(pid, Signal::HUP),
            }
        };
        let code = status.code().or_else(|| Some(128 + status.signal()?));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        send(self.pid(), Signal::TERM);
    }

    /// Its process; none when its end was seen.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

fn send(pid: Option<u32>, signal: Signal) {
    if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // It may have ended a moment ago.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether this process and the program are what the terminal's keys are sent to.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty")
        .is_ok_and(|tty| rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == rustix::process::getpgrp()))
}

/// Waits until the first of these endpoints takes connections.
pub async fn listening(endpoints: &[Endpoint]) {
    ready::wait(endpoints, &[], None).await;
}

/// A TCP port on which nothing listens now, below those that the kernel gives to outgoing connections.
pub fn free_port() -> Option<u16> {
    Ports::new(None).choose(Transport::Tcp, None, InstanceId(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Foreground {
        let words = ["sh", "-c", script].map(str::to_owned);
        Foreground::start(&words, &[("WORD".into(), "7".into())]).unwrap()
    }

    #[tokio::test]
    async fn its_status_is_that_of_a_shell_and_its_environment_ours_and_more() {
        assert_eq!(shell("test -n \"$PATH\" && exit $WORD").wait().await.unwrap(), 7);
        assert_eq!(shell("kill -9 $$").wait().await.unwrap(), 137);
        assert!(Foreground::start(&["/does/not/exist".into()], &[]).is_err());
        assert!(Foreground::start(&[], &[]).is_err());
    }

    #[tokio::test]
    async fn it_is_asked_to_end() {
        let mut program = shell("exec sleep 1000");
        assert!(program.pid().is_some());
        program.terminate();
        assert_eq!(program.wait().await.unwrap(), 143);
        assert_eq!(program.pid(), None);
        program.terminate();
    }

    #[test]
    fn a_free_port_can_be_listened_on() {
        std::net::TcpListener::bind(("127.0.0.1", free_port().unwrap())).unwrap();
    }
}
