//! Waiting for a service to change.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use byname_api::object::ObjectId;

/// Who waits for which service. A service that nobody waits for takes no room.
#[derive(Default)]
pub(crate) struct Waits {
    map: Mutex<HashMap<ObjectId, Arc<Notify>>>,
}

/// One who waits. Look at the view after making it and before waiting on it: no change is missed then.
pub(crate) struct Wait<'a> {
    waits: &'a Waits,
    id: ObjectId,
    notify: Arc<Notify>,
}

impl Waits {
    /// Begins to listen for changes of a service.
    pub(crate) fn listen(&self, id: ObjectId) -> Wait<'_> {
        let notify = self.map.lock().entry(id).or_default().clone();
        Wait { waits: self, id, notify }
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        self.map.lock().values().for_each(|notify| notify.notify_waiters());
    }

    /// Wakes all who wait for this service.
    pub(crate) fn wake(&self, id: ObjectId) {
        if let Some(notify) = self.map.lock().get(&id) {
            notify.notify_waiters();
        }
    }
}

impl Wait<'_> {
    /// A future that ends with the next change from now on.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut map = self.waits.map.lock();
        // The map's and ours: nobody else listens.
        if Arc::strong_count(&self.notify) == 2 {
            map.remove(&self.id);
        }
    }
}
