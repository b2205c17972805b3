//! What wakes the writer of the log, be it a thread or a task.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::Inner;

/// Rung when there is work, and when the log is closed.
#[derive(Default)]
pub(super) struct Bell {
    work: Condvar,
    closed: Condvar,
    /// Rung for both.
    pub(super) task: Notify,
}

impl Bell {
    pub(super) fn ring_work(&self) {
        self.work.notify_one();
        self.task.notify_one();
    }

    pub(super) fn ring_closed(&self) {
        self.work.notify_all();
        self.closed.notify_all();
        self.task.notify_one();
    }

    /// Returns when there is work, the writer is not to rest, or the log is closed.
    pub(super) fn wait_for_work(&self, log: &Mutex<Inner>) {
        let mut inner = log.lock();
        while !inner.has_work() && inner.resting && !inner.closed {
            self.work.wait(&mut inner);
        }
    }

    /// Returns when there is work, or the log is closed; after `time` at the latest, and says whether it is over.
    pub(super) fn wait_a_while(&self, log: &Mutex<Inner>, time: Duration) -> bool {
        let mut inner = log.lock();
        let until = Instant::now() + time;
        while !inner.has_work() && !inner.closed {
            if self.work.wait_until(&mut inner, until).timed_out() {
                return true;
            }
        }
        false
    }

    /// Returns after `time`, or when the log is closed.
    pub(super) fn pause(&self, log: &Mutex<Inner>, time: Duration) {
        let mut inner = log.lock();
        if !inner.closed {
            self.closed.wait_for(&mut inner, time);
        }
    }
}
