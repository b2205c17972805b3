//! What this server is to its zone, and what changes with that.
//!
//! Every server follows the log and answers reads. Only the primary gives orders to agents, ends leases and keeps copies
//! running; all of that begins when the lead is taken up, from the view alone, and ends with it. Nothing of it is kept over a
//! change: a new primary judges nobody before it has looked for one full term.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use byname_api::request::Fresh;
use byname_cluster::Role;
use byname_registry::service::Origin;

use crate::{Inner, keep, start};

/// Takes the lead up and lays it down, as the log says.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut role = inner.cluster.role();
    loop {
        let now = *role.borrow_and_update();
        inner.play(now);
        if role.changed().await.is_err() {
            inner.lay_down();
            return;
        }
    }
}

impl Inner {
    /// The term in which this server leads, if it does. It may have been superseded without knowing yet.
    pub(crate) fn reign(&self) -> Option<u64> {
        Some(self.reign.load(Ordering::Acquire)).filter(|term| *term > 0)
    }

    /// Whether this server is the primary, as far as it knows.
    pub(crate) fn reigns(&self) -> bool {
        self.reign().is_some()
    }

    /// The term that orders carry: an agent that has seen a later one refuses them.
    pub(crate) fn order_term(&self) -> u64 {
        self.reign.load(Ordering::Acquire)
    }

    pub(crate) fn play(self: &Arc<Self>, role: Role) {
        match (role.primary, self.reign()) {
            (true, Some(term)) if term == role.term => {}
            (true, before) => {
                if before.is_some() {
                    self.lay_down();
                }
                self.reign.store(role.term, Ordering::Release);
                tracing::info!(term = role.term, "this server is the primary");
                self.take_up();
            }
            (false, Some(_)) => self.lay_down(),
            (false, None) => {}
        }
    }

    /// Grants every lease one full term, and starts what shall always run: a new primary judges nobody at once.
    fn take_up(self: &Arc<Self>) {
        *self.since.lock() = tokio::time::Instant::now();
        self.clocks.begin(self.view.load().now);
        // What the last primary told; from now on it is heard here.
        self.usage.clear();
        self.hosts.grant_all();
        let tree = self.view.load_full();
        for node in tree.live() {
            for instance in node.service.iter().flat_map(|s| &s.instances) {
                if let Origin::Advertised { ttl_ms, renewal } = instance.origin {
                    self.leases.grant(instance.id, renewal, ttl_ms);
                }
            }
        }
        self.begin_reports(&tree);
        for node in tree.live() {
            self.follow_speed(node.id);
        }
        for node in tree.special() {
            self.follow_use(node.id);
            if keep::missing_copies(&node).is_some() {
                self.keep(node.id);
            }
        }
        for node in tree.locked() {
            if let Some(lock) = &node.lock {
                self.lock_leases.grant(node.id, lock.renewal, lock.ttl_ms);
            }
        }
    }

    /// Another server leads, or none: what only the primary may do ends, and those who were waiting for it are told.
    fn lay_down(self: &Arc<Self>) {
        if self.reign.swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        tracing::info!("this server is not the primary any more");
        // Their streams end, and they look for the primary.
        self.agents.part();
        self.leases.clear();
        self.lock_leases.clear();
        self.reports.clear();
        self.usage.clear();
        self.sockets.clear();
        self.kept.clear();
        // Those who wait here for a start wait for nothing.
        self.waits.wake_all();
    }

    /// How old what is read here may be.
    pub(crate) fn freshen(&self, fresh: &mut Fresh) {
        let here = self.cluster.freshness();
        fresh.age_ms = u64::try_from(here.age.as_millis()).unwrap_or(u64::MAX);
        if !here.heard {
            // It is as old as what was written last. By two clocks, but nothing is decided by it.
            fresh.age_ms = fresh.age_ms.max(start::now().0.saturating_sub(self.view.load().now.0));
        }
        fresh.stale = here.stale;
    }
}
