//! What follows from the objects and is kept beside them, so that nothing has to walk the whole tree.

use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};

use byname_api::launch::{Launch, StableSocket};
use byname_api::object::{Audited, InstanceId, Kind, ObjectId, Spec};
use byname_api::service::State;
use byname_name::{Name, NameKey};

use crate::stored::packed::is_special;
use crate::tree::Node;

/// Maintained by every put and remove, and made anew when a snapshot is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Derived {
    by_instance: HashMap<InstanceId, ObjectId>,
    /// The instances on each computer that has any.
    on_computer: OrdMap<NameKey, OnComputer>,
    special: OrdSet<ObjectId>,
    live: OrdSet<ObjectId>,
    locked: OrdSet<ObjectId>,
    sockets: OrdMap<StableSocket, OrdSet<ObjectId>>,
    /// Aliases by the keys of their targets. Those of one target share its key.
    aliases: OrdSet<(NameKey, ObjectId)>,
    /// The lists of objects that have one.
    acls: OrdMap<NameKey, Arc<Spec>>,
    /// What objects say about the audit of reads.
    audits: OrdMap<NameKey, Audited>,
    /// Members of groups that are bound, with their groups.
    memberships: OrdSet<(ObjectId, ObjectId)>,
    /// Members of groups that are not, with their groups.
    waiting: OrdSet<(NameKey, ObjectId)>,
}

/// What is on one computer.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnComputer {
    pub(crate) instances: OrdSet<InstanceId>,
    /// How many of them are starting.
    pub(crate) starting: u32,
}

impl Derived {
    /// Objects that have a list of their own, in the order of their names.
    pub(crate) fn acls(&self) -> &OrdMap<NameKey, Arc<Spec>> {
        &self.acls
    }

    /// What objects say about the audit of reads.
    pub(crate) fn audits(&self) -> &OrdMap<NameKey, Audited> {
        &self.audits
    }

    /// Puts a list where its object is not any more.
    pub(crate) fn put_list(&mut self, key: NameKey, spec: Arc<Spec>) {
        self.acls.insert(key, spec);
    }

    /// The groups that an object is a member of.
    pub(crate) fn groups_of(&self, member: ObjectId) -> impl Iterator<Item = ObjectId> {
        self.memberships.range((member, ObjectId(0))..=(member, ObjectId(u64::MAX))).map(|(_, group)| *group)
    }

    /// Whether any group has a member that is not bound to an object.
    pub(crate) fn somebody_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The groups with a member of this name that is not bound to an object.
    pub(crate) fn waiting_for(&self, member: &NameKey) -> impl Iterator<Item = ObjectId> {
        let range = (member.clone(), ObjectId(0))..=(member.clone(), ObjectId(u64::MAX));
        self.waiting.range(range).map(|(_, group)| *group)
    }

    fn note_access(&mut self, node: &Node, there: bool) {
        let spec = &node.spec;
        if spec.acl.is_some() {
            match there {
                true => self.acls.insert(node.name.key(), spec.clone()),
                false => self.acls.remove(&node.name.key()),
            };
        }
        if let Some(audit) = spec.audit {
            match there {
                true => self.audits.insert(node.name.key(), audit),
                false => self.audits.remove(&node.name.key()),
            };
        }
        for member in spec.members.iter().flatten() {
            match spec.member_ids.as_ref().and_then(|ids| ids.get(member)) {
                Some(id) if there => drop(self.memberships.insert((*id, node.id))),
                Some(id) => drop(self.memberships.remove(&(*id, node.id))),
                None => {
                    let Ok(name) = Name::parse(member) else { continue };
                    match there {
                        true => self.waiting.insert((name.key(), node.id)),
                        false => self.waiting.remove(&(name.key(), node.id)),
                    };
                }
            }
        }
    }

    /// The service that an instance belongs to.
    pub(crate) fn by_instance(&self, id: InstanceId) -> Option<ObjectId> {
        self.by_instance.get(&id).copied()
    }

    /// What is on a computer, when anything is.
    pub(crate) fn on_computer(&self, computer: &NameKey) -> Option<&OnComputer> {
        self.on_computer.get(computer)
    }

    /// Takes note of what is on which computer now.
    fn note_places(&mut self, before: Option<&Node>, after: Option<&Node>) {
        let (had, has) = (places(before), places(after));
        for (computer, instance, starting) in had.iter().filter(|place| !has.contains(place)) {
            let key = computer.key();
            let Some(on) = self.on_computer.get_mut(&key) else { continue };
            on.instances.remove(instance);
            on.starting = on.starting.saturating_sub(u32::from(*starting));
            if on.instances.is_empty() {
                self.on_computer.remove(&key);
            }
        }
        for (computer, instance, starting) in has.iter().filter(|place| !had.contains(place)) {
            let on = self.on_computer.entry(computer.key()).or_default();
            on.instances.insert(*instance);
            on.starting += u32::from(*starting);
        }
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
        self.note_places(before, after);
        if let Some(node) = before.filter(|b| after.is_none_or(|a| a.id != b.id || a.spec != b.spec)) {
            self.special.remove(&node.id);
            self.note_access(node, false);
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
            self.note_access(node, true);
            if let Some(target) = target(node) {
                self.note_alias(target, node.id);
            }
            for socket in sockets(node) {
                self.sockets.entry(socket).or_default().insert(node.id);
            }
        }
    }
}

/// Where the instances of a service are, and which are starting.
fn places(node: Option<&Node>) -> Vec<(&Name, InstanceId, bool)> {
    let instances = node.and_then(|node| node.service.as_deref()).into_iter().flat_map(|service| &service.instances);
    instances.filter_map(|i| Some((i.computer.as_ref()?, i.id, i.state == State::Starting))).collect()
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
