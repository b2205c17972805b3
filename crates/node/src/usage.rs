//! What is known of instances beyond the log: how they are used, their load, their connections, how fast they answer.
//! Soft state: the primary holds it, nothing of it is logged, and after a change of the primary it begins anew.
//!
//! Finds touch it without a lock. An instance that is to be stopped because nobody uses it is retired first: its clock is
//! set from the value that was seen to be old to one that no find moves. So either the find comes first, and the
//! instance stays, or the find sees that it is retired, and waits for the next one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use papaya::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use byname_api::object::InstanceId;
use byname_api::span::Timestamp;
use byname_registry::query::Samples;

use crate::samples::OfInstance;

/// The clock of an instance that no find may name any more.
const RETIRED: u64 = u64::MAX;
/// No load was reported.
const UNSAID: u64 = u64::MAX;

/// The instances of which something is known.
pub(crate) struct Usage {
    begun: Instant,
    map: HashMap<InstanceId, Arc<Use>>,
    /// When to look whether which instance is idle.
    due: Mutex<BTreeSet<(Instant, InstanceId)>>,
    sooner: Notify,
}

/// One instance.
pub(crate) struct Use {
    /// When it was last used, in milliseconds since `begun`; or `RETIRED`.
    last: AtomicU64,
    /// How long it may be unused, in milliseconds; 0 when that is nobody's business.
    idle_ms: AtomicU64,
    /// The bits of the load it reported, or `UNSAID`.
    load: AtomicU64,
    /// One more than the connections its agent saw; 0 before it looked.
    connections: AtomicU32,
    /// One more than the microseconds that its last probe took; 0 before one.
    latency: AtomicU64,
    /// When something was last heard of it, by the wall clock in milliseconds; 0 for never.
    seen: AtomicU64,
}

impl Default for Usage {
    fn default() -> Self {
        Usage { begun: Instant::now(), map: HashMap::new(), due: Mutex::default(), sooner: Notify::new() }
    }
}

impl Usage {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(0)
    }

    fn entry(&self, id: InstanceId) -> Arc<Use> {
        let map = self.map.pin();
        map.get_or_insert_with(id, || {
            Arc::new(Use {
                last: AtomicU64::new(self.now()),
                idle_ms: AtomicU64::new(0),
                load: AtomicU64::new(UNSAID),
                connections: AtomicU32::new(0),
                latency: AtomicU64::new(0),
                seen: AtomicU64::new(0),
            })
        })
        .clone()
    }

    /// A running instance that stops when it is not used for so long. Known already: only the time is noted.
    pub(crate) fn follow(&self, id: InstanceId, idle: Duration) {
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX).max(1);
        let was = self.entry(id).idle_ms.swap(idle_ms, Ordering::Relaxed);
        if was != idle_ms {
            self.look_again(id, idle);
        }
    }

    /// It shall not stop by itself any more.
    pub(crate) fn leave_alone(&self, id: InstanceId) {
        if let Some(entry) = self.map.pin().get(&id) {
            entry.idle_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.map.pin().clear();
        self.due.lock().clear();
    }

    /// What is known of each copy of which anything is.
    pub(crate) fn samples(&self) -> Vec<OfInstance> {
        let map = self.map.pin();
        let known = map.iter().map(|(id, entry)| {
            let load = Some(entry.load.load(Ordering::Relaxed)).filter(|bits| *bits != UNSAID).map(f64::from_bits);
            OfInstance {
                id: id.0,
                load,
                connections: entry.connections.load(Ordering::Relaxed).checked_sub(1),
                latency_us: entry.latency.load(Ordering::Relaxed).checked_sub(1),
                seen: Some(entry.seen.load(Ordering::Relaxed)).filter(|at| *at > 0),
            }
        });
        known.filter(|s| s.load.is_some() || s.connections.is_some() || s.latency_us.is_some()).collect()
    }

    /// Takes what the primary knows of a copy.
    pub(crate) fn take_sample(&self, sample: &OfInstance) {
        let entry = self.entry(InstanceId(sample.id));
        entry.load.store(sample.load.map_or(UNSAID, f64::to_bits), Ordering::Relaxed);
        entry.connections.store(sample.connections.map_or(0, |count| count.saturating_add(1)), Ordering::Relaxed);
        entry.latency.store(sample.latency_us.map_or(0, |micros| micros.saturating_add(1)), Ordering::Relaxed);
        entry.seen.store(sample.seen.unwrap_or(0), Ordering::Relaxed);
    }

    /// It has ended.
    pub(crate) fn forget(&self, id: InstanceId) {
        self.map.pin().remove(&id);
    }

    /// Somebody is told where it is, or uses it. False when it is retired: it must not be named.
    pub(crate) fn touch(&self, id: InstanceId) -> bool {
        let map = self.map.pin();
        let Some(entry) = map.get(&id) else { return true };
        let now = self.now();
        let mut seen = entry.last.load(Ordering::Acquire);
        loop {
            if seen == RETIRED {
                return false;
            }
            if seen >= now {
                return true;
            }
            match entry.last.compare_exchange_weak(seen, now, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
    }

    /// It was used so long ago. True when that is no less than it may be unused: it is idle all the same.
    pub(crate) fn used_before(&self, id: InstanceId, ago: Duration) -> bool {
        let map = self.map.pin();
        let Some(entry) = map.get(&id) else { return true };
        let (idle, ago) = (entry.idle_ms.load(Ordering::Relaxed), u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        if ago >= idle {
            return true;
        }
        let at = self.now().saturating_sub(ago);
        // A later use stays what it is, and so does a retired instance.
        entry.last.fetch_max(at, Ordering::AcqRel);
        false
    }

    /// What its agent saw of its connections.
    pub(crate) fn note_connections(&self, id: InstanceId, count: u32) {
        let entry = self.entry(id);
        let before = entry.connections.swap(count.saturating_add(1), Ordering::Relaxed);
        // A change either way means that it was used just now.
        if count > 0 || before > 1 {
            self.touch(id);
        }
        entry.see();
    }

    /// What it says of its load.
    pub(crate) fn note_load(&self, id: InstanceId, load: f64) {
        let entry = self.entry(id);
        entry.load.store(load.to_bits(), Ordering::Relaxed);
        entry.see();
    }

    /// How long a probe took.
    pub(crate) fn note_latency(&self, id: InstanceId, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let entry = self.entry(id);
        entry.latency.store(micros, Ordering::Relaxed);
        entry.see();
    }

    /// Its connections, if its agent looked.
    pub(crate) fn connections(&self, id: InstanceId) -> Option<u32> {
        self.map.pin().get(&id)?.connections.load(Ordering::Relaxed).checked_sub(1)
    }

    /// When it was last heard of.
    pub(crate) fn seen(&self, id: InstanceId) -> Option<Timestamp> {
        let at = self.map.pin().get(&id)?.seen.load(Ordering::Relaxed);
        (at > 0).then_some(Timestamp(at))
    }

    /// Looks at it again after so long.
    pub(crate) fn look_again(&self, id: InstanceId, after: Duration) {
        self.due.lock().insert((Instant::now() + after, id));
        self.sooner.notify_one();
    }

    /// Waits for the next instance that may be idle, with the clock that makes it so.
    pub(crate) async fn idle(&self) -> (InstanceId, u64) {
        loop {
            let next = self.due.lock().first().copied();
            let sooner = self.sooner.notified();
            match next {
                None => sooner.await,
                Some((at, id)) if at <= Instant::now() => {
                    self.due.lock().remove(&(at, id));
                    match self.rested(id) {
                        Rested::Long(clock) => return (id, clock),
                        Rested::Not(left) => self.look_again(id, left),
                        Rested::Nobodys => {}
                    }
                }
                Some((at, _)) => tokio::select! { () = tokio::time::sleep_until(at) => {}, () = sooner => {} },
            }
        }
    }

    fn rested(&self, id: InstanceId) -> Rested {
        let map = self.map.pin();
        let Some(entry) = map.get(&id) else { return Rested::Nobodys };
        let (last, idle) = (entry.last.load(Ordering::Acquire), entry.idle_ms.load(Ordering::Relaxed));
        if idle == 0 || last == RETIRED {
            return Rested::Nobodys;
        }
        if entry.connections.load(Ordering::Relaxed) > 1 {
            return Rested::Not(Duration::from_millis(idle));
        }
        match (last.saturating_add(idle)).checked_sub(self.now()) {
            None | Some(0) => Rested::Long(last),
            Some(left) => Rested::Not(Duration::from_millis(left)),
        }
    }

    /// Takes an instance out of the answers, unless it was used since `clock` was read.
    pub(crate) fn retire(&self, id: InstanceId, clock: u64) -> bool {
        let map = self.map.pin();
        map.get(&id)
            .is_some_and(|e| e.last.compare_exchange(clock, RETIRED, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// It stays after all, as if it had just been used.
    pub(crate) fn bring_back(&self, id: InstanceId) {
        let map = self.map.pin();
        if let Some(entry) = map.get(&id) {
            entry.last.store(self.now(), Ordering::Release);
            let idle = entry.idle_ms.load(Ordering::Relaxed);
            if idle > 0 {
                self.look_again(id, Duration::from_millis(idle));
            }
        }
    }
}

impl Samples for Usage {
    fn load(&self, id: InstanceId) -> Option<f64> {
        let bits = self.map.pin().get(&id)?.load.load(Ordering::Relaxed);
        (bits != UNSAID).then(|| f64::from_bits(bits))
    }

    fn latency(&self, id: InstanceId) -> Option<f64> {
        let micros = self.map.pin().get(&id)?.latency.load(Ordering::Relaxed).checked_sub(1)?;
        Some(micros as f64 / 1_000.0)
    }
}

enum Rested {
    Long(u64),
    Not(Duration),
    Nobodys,
}

impl Use {
    fn see(&self) {
        self.seen.store(crate::start::now().0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InstanceId = InstanceId(1);

    #[tokio::test(start_paused = true)]
    async fn a_find_and_the_end_of_idleness_exclude_each_other() {
        let usage = Usage::default();
        assert!(usage.touch(A), "what is not followed is not retired");
        usage.follow(A, Duration::from_secs(10));
        let (id, clock) = usage.idle().await;
        assert_eq!((id, usage.now()), (A, 10_000));
        assert!(usage.touch(A), "a find that comes first keeps it");
        assert!(!usage.retire(A, clock));
        usage.look_again(A, Duration::from_millis(1));
        let (_, clock) = usage.idle().await;
        assert_eq!(usage.now(), 20_000);
        assert!(usage.retire(A, clock));
        assert!(!usage.touch(A), "a find that comes later does not get it");
        usage.bring_back(A);
        assert!(usage.touch(A));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_keep_it_and_their_end_begins_the_time_anew() {
        let usage = Usage::default();
        usage.follow(A, Duration::from_secs(10));
        usage.note_connections(A, 2);
        let idle = usage.idle();
        tokio::pin!(idle);
        assert!(tokio::time::timeout(Duration::from_secs(100), &mut idle).await.is_err());
        usage.note_connections(A, 0);
        idle.await;
        assert_eq!(usage.now() / 1_000, 110);
        assert_eq!(usage.connections(A), Some(0));
    }
}
