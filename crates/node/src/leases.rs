//! Leases of advertised instances and of locks: timed by the primary's monotonic clock, ended by a logged command.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When which lease runs out.
pub(crate) struct Leases<Id> {
    inner: Mutex<Inner<Id>>,
    sooner: Notify,
}

struct Inner<Id> {
    leases: HashMap<Id, Lease>,
    order: BTreeSet<(Instant, Id)>,
}

impl<Id> Default for Leases<Id> {
    fn default() -> Self {
        Leases { inner: Mutex::new(Inner { leases: HashMap::new(), order: BTreeSet::new() }), sooner: Notify::new() }
    }
}

#[derive(Clone, Copy)]
struct Lease {
    renewal: u64,
    ttl: Duration,
    ends: Instant,
}

impl<Id: Copy + Ord + Hash> Leases<Id> {
    /// Takes note of a lease that the log granted, for one full term from now.
    pub(crate) fn grant(&self, id: Id, renewal: u64, ttl_ms: u64) {
        let ttl = Duration::from_millis(ttl_ms);
        let lease = Lease { renewal, ttl, ends: Instant::now() + ttl };
        let mut inner = self.inner.lock();
        if let Some(old) = inner.leases.insert(id, lease) {
            inner.order.remove(&(old.ends, id));
        }
        inner.order.insert((lease.ends, id));
        drop(inner);
        self.sooner.notify_one();
    }

    /// Renews a lease without a word in the log; false when there is none.
    pub(crate) fn renew(&self, id: Id) -> bool {
        let mut inner = self.inner.lock();
        let Some(lease) = inner.leases.get_mut(&id) else { return false };
        let old = lease.ends;
        lease.ends = Instant::now() + lease.ttl;
        let new = lease.ends;
        inner.order.remove(&(old, id));
        inner.order.insert((new, id));
        true
    }

    /// Forgets a lease.
    pub(crate) fn end(&self, id: Id) {
        let mut inner = self.inner.lock();
        if let Some(lease) = inner.leases.remove(&id) {
            inner.order.remove(&(lease.ends, id));
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.leases.clear();
        inner.order.clear();
    }

    /// Waits for the next lease that runs out. It stays out for a short time only: if its end cannot be logged now, it
    /// runs out again.
    pub(crate) async fn ran_out(&self) -> (Id, u64) {
        loop {
            let next = self.inner.lock().order.first().copied();
            let sooner = self.sooner.notified();
            match next {
                None => sooner.await,
                Some((ends, id)) if ends <= Instant::now() => {
                    let mut inner = self.inner.lock();
                    inner.order.remove(&(ends, id));
                    let again = Instant::now() + Duration::from_secs(1);
                    if let Some(lease) = inner.leases.get_mut(&id) {
                        lease.ends = again;
                        let renewal = lease.renewal;
                        inner.order.insert((again, id));
                        return (id, renewal);
                    }
                }
                Some((ends, _)) => {
                    tokio::select! { () = tokio::time::sleep_until(ends) => {}, () = sooner => {} }
                }
            }
        }
    }
}
