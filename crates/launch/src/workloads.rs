//! Which instance a process belongs to, and what it may have: the agent's side of the Workload API.
//!
//! A holder collects every process that its program starts, those that went to the background too (it is their
//! subreaper). So whoever belongs to an instance has its holder among its parents. Process ids are used again, so each
//! step is checked: a holder by the time it began, a parent by being older than its child, and who asks by a descriptor
//! of the process that the kernel kept with the socket (SO_PEERPIDFD, Linux 6.5).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use byname_api::Result;
use byname_api::identity::{Secret, TrustReply};
use byname_api::object::InstanceId;
use nix::sys::socket::{getsockopt, sockopt};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use tokio::sync::watch;

use crate::agent::Inner;
use crate::identity::Svid;
use crate::proc;

/// How far up parents are followed.
const DEEPEST: usize = 128;

/// What programs on this host may ask the agent for.
#[async_trait]
pub trait Workloads: Send + Sync {
    /// The instance to which the process at the other end of a connected unix socket belongs. Ask when the connection
    /// is new: it is the process that connected which counts.
    fn identify(&self, socket: BorrowedFd<'_>) -> Option<InstanceId>;

    /// The certificate of an instance, now and whenever it changes; `None` in the channel while it is waited for. No
    /// channel: it has none and gets none. It closes with the end of the instance.
    fn svid(&self, instance: InstanceId) -> Option<watch::Receiver<Option<Arc<Svid>>>>;

    /// A token for an instance, good for these audiences.
    async fn token(&self, instance: InstanceId, audience: Vec<String>) -> Result<Secret>;

    /// Whom to trust.
    async fn trust(&self) -> Result<TrustReply>;
}

#[async_trait]
impl Workloads for Inner {
    fn identify(&self, socket: BorrowedFd<'_>) -> Option<InstanceId> {
        let (pid, process) = peer(socket)?;
        let found = self.holders.holder_of(pid)?;
        // It lives, so the id was its own all the time.
        is_alive(&process).then_some(found)
    }

    fn svid(&self, instance: InstanceId) -> Option<watch::Receiver<Option<Arc<Svid>>>> {
        self.identities.watch(instance)
    }

    async fn token(&self, instance: InstanceId, audience: Vec<String>) -> Result<Secret> {
        self.identities.issuer()?.token(instance, audience).await
    }

    async fn trust(&self) -> Result<TrustReply> {
        self.identities.issuer()?.trust().await
    }
}

/// The holders of living instances.
#[derive(Default)]
pub(crate) struct Holders(Mutex<HashMap<u32, Holder>>);

struct Holder {
    /// When it began, in ticks since the host did.
    began: u64,
    instance: InstanceId,
}

impl Holders {
    /// Notes that this process holds this instance.
    pub(crate) fn note(&self, pid: u32, instance: InstanceId) {
        let mut holders = self.0.lock();
        if holders.get(&pid).is_some_and(|holder| holder.instance == instance) {
            return;
        }
        if let Some(stat) = proc::stat(pid) {
            holders.insert(pid, Holder { began: stat.began, instance });
        }
    }

    /// The instance has ended.
    pub(crate) fn forget(&self, instance: InstanceId) {
        self.0.lock().retain(|_, holder| holder.instance != instance);
    }

    fn holder_of(&self, pid: u32) -> Option<InstanceId> {
        // A parent that ends on the way up breaks the way; the child has another one then.
        (0..3).find_map(|_| self.walk_up(pid))
    }

    fn walk_up(&self, mut pid: u32) -> Option<InstanceId> {
        let mut youngest = u64::MAX;
        for _ in 0..DEEPEST {
            let stat = proc::stat(pid).filter(|stat| stat.began <= youngest)?;
            if let Some(holder) = self.0.lock().get(&pid).filter(|holder| holder.began == stat.began) {
                return Some(holder.instance);
            }
            (pid, youngest) = (stat.parent, stat.began);
            if pid <= 1 {
                return None;
            }
        }
        None
    }
}

/// The process that connected, by its number and by a descriptor.
fn peer(socket: BorrowedFd<'_>) -> Option<(u32, OwnedFd)> {
    let pid = getsockopt(&socket, sockopt::PeerCredentials).ok()?.pid();
    let process = match getsockopt(&socket, sockopt::PeerPidfd) {
        Ok(process) => process,
        // An older kernel keeps the number only.
        Err(nix::errno::Errno::ENOPROTOOPT) => {
            rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?
        }
        Err(_) => return None,
    };
    Some((u32::try_from(pid).ok().filter(|pid| *pid > 0)?, process))
}

fn is_alive(process: &OwnedFd) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut asked, Some(&at_once)) == Ok(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_process_belongs_to_the_holder_above_it_and_a_new_process_with_its_number_does_not() {
        let own = std::process::id();
        let parent = proc::stat(own).unwrap().parent;
        let holders = Holders::default();
        assert_eq!(holders.holder_of(own), None);
        holders.note(parent, InstanceId(4));
        assert_eq!(holders.holder_of(own), Some(InstanceId(4)));
        holders.0.lock().get_mut(&parent).unwrap().began += 1;
        assert_eq!(holders.holder_of(own), None);
        holders.forget(InstanceId(4));
        assert!(holders.0.lock().is_empty());
    }

    #[test]
    fn whoever_connected_is_known_while_it_lives() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (pid, process) = peer(ours.as_fd()).unwrap();
        assert_eq!(pid, std::process::id());
        assert!(is_alive(&process));
        drop(theirs);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let child_fd =
            rustix::process::pidfd_open(Pid::from_raw(child.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&child_fd));
    }
}
