//! Whether a program of this host has ended, told at once.
//!
//! The word of an end takes its way through the holder, the agent and the log. Until it is there a server in the same
//! process would still name the dead one. It asks here instead: one `poll` of the program's pidfd, under a microsecond.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use byname_api::agent::{InstanceReport, Phase};
use byname_api::object::InstanceId;
use parking_lot::RwLock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// The programs of one agent. Clones share them.
#[derive(Clone, Default)]
pub struct Alive {
    /// `None`: it has ended, and its end may not be in the log yet.
    programs: Arc<RwLock<HashMap<InstanceId, Option<OwnedFd>>>>,
}

impl Alive {
    /// Whether the main process of this instance has ended, although its end may not be known elsewhere yet. False for
    /// an instance of another host.
    pub fn has_ended(&self, id: InstanceId) -> bool {
        let programs = self.programs.read();
        match programs.get(&id) {
            None => false,
            Some(None) => true,
            Some(Some(program)) => {
                // Readable as soon as the process has exited, before anybody has waited for it (pidfd_open(2)).
                let mut asked = [PollFd::new(program, PollFlags::IN)];
                let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
                rustix::event::poll(&mut asked, Some(&at_once)).is_ok_and(|ready| ready > 0)
            }
        }
    }

    /// Takes note of what is known of an instance now.
    pub(crate) fn note(&self, report: &InstanceReport) {
        if let Phase::Ended { .. } = report.phase {
            // Kept until the log has it, too.
            self.programs.write().insert(report.instance, None);
            return;
        }
        let Some(pid) = report.pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else { return };
        if self.programs.read().contains_key(&report.instance) {
            return;
        }
        let program = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(program) => Some(program),
            Err(rustix::io::Errno::SRCH) => None,
            // Without descriptors or an old kernel: the end is told the long way.
            Err(_) => return,
        };
        self.programs.write().insert(report.instance, program);
    }

    /// The end of this instance is in the log.
    pub(crate) fn forget(&self, id: InstanceId) {
        self.programs.write().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use byname_api::service::Exit;
    use rustix::process::{WaitId, WaitIdOptions};

    use super::*;

    fn report(pid: u32, phase: Phase) -> InstanceReport {
        InstanceReport {
            instance: InstanceId(7),
            service: 1,
            phase,
            pid: Some(pid),
            endpoints: Vec::new(),
            started: None,
            checked: None,
        }
    }

    #[test]
    fn a_killed_program_has_ended_before_anybody_waited_for_it_and_until_it_is_forgotten() {
        let alive = Alive::default();
        let mut program = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        alive.note(&report(program.id(), Phase::Ready));
        assert!(!alive.has_ended(InstanceId(7)));
        assert!(!alive.has_ended(InstanceId(8)), "an instance of another host");
        program.kill().unwrap();
        // Until it is a zombie; it stays one.
        let pid = Pid::from_raw(program.id() as i32).unwrap();
        rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(alive.has_ended(InstanceId(7)));
        program.wait().unwrap();
        let (exit, last_lines) = (Exit::Signal(9), String::new());
        alive.note(&report(program.id(), Phase::Ended { exit, last_lines, error: None, ordered: false }));
        assert!(alive.has_ended(InstanceId(7)), "told, and not in the log yet");
        alive.forget(InstanceId(7));
        assert!(!alive.has_ended(InstanceId(7)));
    }
}
