//! `choose = "fastest"`: how fast the copies of a service answer, measured by their agents every few seconds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;

use byname_api::agent::Order;
use byname_api::object::{Choose, ObjectId};
use byname_api::service::{Instance, State};
use byname_registry::{Node as Object, Tree, query};

use crate::Inner;

/// How often the copies of a service are measured.
const PAUSE: Duration = Duration::from_secs(5);

/// The services that are being measured.
#[derive(Default)]
pub(crate) struct Measured(Mutex<HashSet<ObjectId>>);

/// The copies that there is a choice between.
fn rivals(tree: &Tree, node: &Object) -> Vec<Instance> {
    if node.spec.choose != Some(Choose::Fastest) {
        return Vec::new();
    }
    let instances = query::service_status(tree, node).map(|s| s.instances).unwrap_or_default();
    let running: Vec<Instance> = instances.into_iter().filter(|i| i.state == State::Running).collect();
    if running.len() > 1 { running } else { Vec::new() }
}

impl Inner {
    /// A service changed: if it has several copies and the fastest is wanted, they are measured from now on.
    pub(crate) fn follow_speed(self: &Arc<Self>, id: ObjectId) {
        let tree = self.view.load();
        let wanted = tree.by_id(id).is_some_and(|node| !rivals(&tree, &node).is_empty());
        if wanted && self.measured.0.lock().insert(id) {
            tokio::spawn(self.clone().measure_speed(id));
        }
    }

    async fn measure_speed(self: Arc<Self>, id: ObjectId) {
        while !self.stopping() {
            let tree = self.view.load_full();
            let rivals = tree.by_id(id).map(|node| rivals(&tree, &node)).unwrap_or_default();
            drop(tree);
            if rivals.is_empty() {
                break;
            }
            join_all(rivals.into_iter().map(|i| self.measure_one(i))).await;
            tokio::time::sleep(PAUSE).await;
        }
        self.measured.0.lock().remove(&id);
        // It may have become worth measuring in between.
        if !self.stopping() {
            self.follow_speed(id);
        }
    }

    async fn measure_one(&self, instance: Instance) {
        let Some(computer) = &instance.computer else { return };
        let (id, endpoints) = (instance.id, instance.endpoints);
        let order = |request| Order::Probe { request, instance: id, endpoints };
        match self.agents.probe(computer, order).await {
            Some(probed) if probed.alive => self.usage.note_latency(id, probed.took),
            _ => self.usage.note_latency(id, Duration::MAX),
        }
    }
}
