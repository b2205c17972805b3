//! What the primary knows beyond the log, told to the backups, so that they show it and choose by it too.
//!
//! Load, connections, how fast copies answer and when they were last heard of; load and memory of hosts. Told every two
//! seconds and never logged; what a backup was told is forgotten when it becomes the primary and hears for itself.

use std::sync::Arc;
use std::time::Duration;

use byname_api::object::InstanceId;
use byname_api::sample::{OfInstance, Word};
use byname_name::Name;

use crate::Inner;

/// How often the primary tells.
const EVERY: Duration = Duration::from_secs(2);
/// More than so many at once are told in several words.
const AT_ONCE: usize = 4_096;

/// Tells the backups while this server leads.
pub(crate) async fn tell(inner: Arc<Inner>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !inner.stopping() {
        tokio::select! {
            _ = every.tick() => {}
            () = inner.clocks.asked.notified() => {}
        }
        if !inner.reigns() || inner.cluster.members().len() < 2 {
            continue;
        }
        let (instances, mut hosts) = (inner.usage.samples(), inner.hosts.samples());
        let mut parts: Vec<&[OfInstance]> = instances.chunks(AT_ONCE).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for part in parts {
            let word = Word { instances: part.to_vec(), hosts: std::mem::take(&mut hosts) };
            inner.hear_clocks(&inner.cluster.tell(&word.encode()).await);
        }
    }
}

impl Inner {
    /// Takes a word of the primary.
    pub(crate) fn hear(&self, bytes: &[u8]) {
        if self.reigns() {
            return;
        }
        let Ok(word) = Word::decode(bytes) else {
            tracing::debug!("a word of the primary is not understood: it may be a newer one");
            return;
        };
        let tree = self.view.load();
        for sample in word.instances {
            // Of those that are in the log here; the others' ends would never be heard of.
            if tree.by_instance(InstanceId(sample.id)).is_some() {
                self.usage.take_sample(&sample);
            }
        }
        for host in &word.hosts {
            if let Ok(name) = Name::parse(&host.name) {
                self.hosts.take_sample(&name, host);
            }
        }
    }
}
