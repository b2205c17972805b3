//! What follows from the objects and is kept beside them, so that nothing has to walk the whole tree.

use imbl::{HashMap, OrdMap, OrdSet};

use byname_api::launch::{Launch, StableSocket};
use byname_api::object::{InstanceId, Kind, ObjectId};
use byname_name::{Name, NameKey};

use crate::stored::packed::is_special;
use crate::tree::Node;

/// Maintained by every put and remove, and made anew when a snapshot is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Derived {
    by_instance: HashMap<InstanceId, ObjectId>,
    special: OrdSet<ObjectId>,
    live: OrdSet<ObjectId>,
    locked: OrdSet<ObjectId>,
    sockets: OrdMap<StableSocket, OrdSet<ObjectId>>,
    /// Aliases by the keys of their targets. Those of one target share its key.
    aliases: OrdSet<(NameKey, ObjectId)>,
}

impl Derived {
    /// The service that an instance belongs to.
    pub(crate) fn by_instance(&self, id: InstanceId) -> Option<ObjectId> {
        self.by_instance.get(&id).copied()
    }

    /// Services that something must be done for although nobody asks: see `stored::packed::is_special`.
    pub(crate) fn special(&self) -> impl Iterator<Item = ObjectId> {
        self.special.iter().copied()
    }

    /// Services with instances.
    pub(crate) fn live(&self) -> impl Iterator<Item = ObjectId> {
        self.live.iter().copied()
    }

    /// Objects whose lock is held.
    pub(crate) fn locked(&self) -> impl Iterator<Item = ObjectId> {
        self.locked.iter().copied()
    }

    /// The services that declare this stable socket.
    pub(crate) fn listening(&self, socket: &StableSocket) -> impl Iterator<Item = ObjectId> {
        self.sockets.get(socket).into_iter().flatten().copied()
    }

    /// The aliases whose targets have this key or a greater one, in the order of the targets.
    pub(crate) fn aliases_from<'a>(
        &'a self,
        target: &NameKey,
    ) -> impl Iterator<Item = &'a (NameKey, ObjectId)> + use<'a> {
        self.aliases.range((target.clone(), ObjectId(0))..)
    }

    fn note_alias(&mut self, target: NameKey, id: ObjectId) {
        let same = self.aliases_from(&target).next().map(|(key, _)| key).filter(|key| **key == target).cloned();
        self.aliases.insert((same.unwrap_or(target), id));
    }

    /// Takes note that an object became another, is new or is gone.
    pub(crate) fn replace(&mut self, before: Option<&Node>, after: Option<&Node>) {
        let instances = |node: Option<&Node>| -> Vec<InstanceId> {
            node.and_then(|n| n.service.as_deref()).into_iter().flat_map(|s| &s.instances).map(|i| i.id).collect()
        };
        let (had, has) = (instances(before), instances(after));
        for gone in had.iter().filter(|i| !has.contains(i)) {
            self.by_instance.remove(gone);
        }
        for (node, instance) in after.iter().flat_map(|n| has.iter().map(|i| (n.id, *i))) {
            if !had.contains(&instance) {
                self.by_instance.insert(instance, node);
            }
        }
        if let Some(node) = before.filter(|b| after.is_none_or(|a| a.id != b.id || a.spec != b.spec)) {
            self.special.remove(&node.id);
            if let Some(target) = target(node) {
                self.aliases.remove(&(target, node.id));
            }
            for socket in sockets(node) {
                if let Some(who) = self.sockets.get_mut(&socket) {
                    who.remove(&node.id);
                    if who.is_empty() {
                        self.sockets.remove(&socket);
                    }
                }
            }
        }
        if let Some(node) = before.filter(|_| !had.is_empty()) {
            self.live.remove(&node.id);
        }
        if let Some(node) = before.filter(|b| b.lock.is_some()) {
            self.locked.remove(&node.id);
        }
        let Some(node) = after else { return };
        if !has.is_empty() {
            self.live.insert(node.id);
        }
        if node.lock.is_some() {
            self.locked.insert(node.id);
        }
        if before.is_none_or(|b| b.id != node.id || b.spec != node.spec) {
            if launch(node).is_some_and(is_special) {
                self.special.insert(node.id);
            }
            if let Some(target) = target(node) {
                self.note_alias(target, node.id);
            }
            for socket in sockets(node) {
                self.sockets.entry(socket).or_default().insert(node.id);
            }
        }
    }
}

fn launch(node: &Node) -> Option<&Launch> {
    node.spec.launch.as_ref()
}

fn target(node: &Node) -> Option<NameKey> {
    node.spec.target.as_ref().filter(|_| node.kind() == Kind::Alias).map(Name::key)
}

fn sockets(node: &Node) -> Vec<StableSocket> {
    launch(node).map(Launch::stable_sockets).unwrap_or_default()
}
