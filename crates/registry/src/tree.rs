//! The one tree: objects by name, and how names lead to them.

use std::sync::Arc;

use imbl::OrdMap;

use byname_api::error::{Code, Error, Result};
use byname_api::launch::StableSocket;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Stamp};
use byname_api::service::State;
use byname_api::span::Timestamp;
use byname_name::{Name, NameKey};

use crate::computers::Host;
use crate::derived::Derived;
use crate::identity::Identity;
use crate::ids::Ids;
use crate::index::Indexes;
use crate::names::Names;
use crate::service::{LockState, Service};
use crate::stored::packed::Slot;

/// How many aliases a name may lead through.
pub(crate) const MAX_ALIASES: usize = 32;

/// An object of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Immutable identity.
    pub id: ObjectId,
    /// The name, as created.
    pub name: Name,
    /// Changed by every write to the declaration.
    pub version: u64,
    /// What is declared.
    pub spec: Arc<Spec>,
    /// The apply set that declared it.
    pub set: Option<String>,
    /// When and by whom it was made.
    pub created: Stamp,
    /// When and by whom it was last changed.
    pub modified: Stamp,
    /// A service's instances.
    pub service: Option<Arc<Service>>,
    /// Nobody added it: it vanishes with its last instance and its lock.
    pub unregistered: bool,
    /// Its lock, while somebody holds it.
    pub lock: Option<Arc<LockState>>,
    /// The owner's object when somebody named the owner. Without it the owner is the object of the owner's name, if that
    /// is older than this one.
    pub owner_id: Option<ObjectId>,
}

impl Node {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }

    /// Whether it has more than was declared: a service's state that is not that of a new one, or a lock.
    pub(crate) fn has_more(&self) -> bool {
        self.lock.is_some() || self.service.as_deref().is_some_and(|s| *s != Service::default())
    }
}

/// All objects. Cloning is cheap and gives a frozen view: readers work on such a view while writes go on.
///
/// Every object is packed, once, and found by name and by id. Those that have more than was declared (a service with
/// instances or a past, a lock) are kept whole beside that.
#[derive(Clone, Debug)]
pub struct Tree {
    names: Names,
    ids: Ids,
    whole: OrdMap<ObjectId, Arc<Node>>,
    derived: Derived,
    indexes: Indexes,
    pub(crate) identity: Arc<Identity>,
    /// What is known of the hosts that agents spoke for, by their computers.
    pub(crate) hosts: OrdMap<ObjectId, Host>,
    /// Whether names are bound to ids; not while a command of an earlier format is applied again.
    pub(crate) binds: bool,
    /// Changes with every command that changes anything.
    pub revision: u64,
    /// Logged time: that of the newest command, and never going back.
    pub now: Timestamp,
    pub(crate) next_id: u64,
}

/// Where a name leads.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The object.
    pub node: Arc<Node>,
    /// Aliases were followed, so the object has another name than was asked for.
    pub aliased: bool,
}

impl Default for Tree {
    fn default() -> Self {
        let stamp = Stamp { at: Timestamp(0), by: "byname".into() };
        let spec = Spec { owner: Some("byname".into()), ..Spec::of(Kind::Directory) };
        let mut tree = Tree {
            names: Names::default(),
            ids: Ids::default(),
            whole: OrdMap::new(),
            derived: Derived::default(),
            indexes: Indexes::default(),
            identity: Arc::default(),
            hosts: OrdMap::new(),
            binds: true,
            revision: 0,
            now: Timestamp(0),
            next_id: 1,
        };
        let root = Node {
            id: ObjectId(0),
            name: Name::root(),
            version: 0,
            spec: Arc::new(spec),
            set: None,
            created: stamp.clone(),
            modified: stamp,
            service: None,
            unregistered: false,
            lock: None,
            owner_id: None,
        };
        tree.put(None, root);
        tree
    }
}

/// The error for an alias that leads to no object.
pub(crate) fn leads_nowhere(name: &Name, end: &Name) -> Error {
    let what = format!("`{name}` leads through an alias to `{end}`, and there is no such name");
    Error::new(Code::NotFound, what)
}

impl Tree {
    /// The object of exactly this name, aliases not followed.
    pub fn get(&self, name: &Name) -> Option<Arc<Node>> {
        self.slot(name).map(|slot| self.node(slot))
    }

    /// The object of this id.
    pub fn by_id(&self, id: ObjectId) -> Option<Arc<Node>> {
        self.ids.get(id).map(|slot| self.node(slot))
    }

    /// The object of exactly this name, packed.
    pub(crate) fn slot(&self, name: &Name) -> Option<&Slot> {
        name.with_key(|key| self.names.get(key.as_bytes()))
    }

    /// All objects by name.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// The whole object.
    pub(crate) fn node(&self, slot: &Slot) -> Arc<Node> {
        match self.whole.get(&slot.id()) {
            Some(node) => node.clone(),
            None => Arc::new(slot.unpack()),
        }
    }

    /// The state of a service, without unpacking it.
    pub(crate) fn state(&self, slot: &Slot) -> Option<State> {
        (slot.kind() == Kind::Service).then(|| {
            let service = self.whole.get(&slot.id()).and_then(|n| n.service.as_deref());
            service.map_or(State::Stopped, Service::state)
        })
    }

    /// The object of this key and what is beneath it, parents before children.
    pub(crate) fn subtree(&self, key: &[u8]) -> impl Iterator<Item = &Slot> {
        let key = key.to_vec();
        self.names.from(&key).take_while(move |slot| slot.key().starts_with(&key))
    }

    /// The aliases whose targets have this key or a greater one, with the keys of the targets, in their order.
    pub(crate) fn aliases_from<'a>(
        &'a self,
        target: &NameKey,
    ) -> impl Iterator<Item = (&'a NameKey, &'a Slot)> + use<'a> {
        self.derived.aliases_from(target).filter_map(|(target, id)| Some((target, self.ids.get(*id)?)))
    }

    /// What follows from the objects.
    pub(crate) fn derived(&self) -> &Derived {
        &self.derived
    }

    pub(crate) fn derived_mut(&mut self) -> &mut Derived {
        &mut self.derived
    }

    pub(crate) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    /// The objects that have more than was declared, in the order of their ids.
    pub(crate) fn whole(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.whole.values()
    }

    /// The service that an instance belongs to.
    pub fn by_instance(&self, id: InstanceId) -> Option<Arc<Node>> {
        self.derived.by_instance(id).and_then(|id| self.by_id(id))
    }

    /// Services that something must be done for although nobody asks: those with stable sockets, with an `idle_stop`,
    /// and those that shall always run. In the order of their ids.
    pub fn special(&self) -> impl Iterator<Item = Arc<Node>> {
        self.derived.special().filter_map(|id| self.by_id(id))
    }

    /// Services with instances, in the order of their ids.
    pub fn live(&self) -> impl Iterator<Item = Arc<Node>> {
        self.derived.live().filter_map(|id| self.by_id(id))
    }

    /// The instances on a computer, by its key.
    pub fn on_computer(&self, computer: &NameKey) -> impl Iterator<Item = InstanceId> {
        self.derived.on_computer(computer).into_iter().flat_map(|on| on.instances.iter().copied())
    }

    /// How many instances are on a computer, by its key, and how many of them are starting.
    pub fn count_on(&self, computer: &NameKey) -> (usize, u32) {
        self.derived.on_computer(computer).map_or((0, 0), |on| (on.instances.len(), on.starting))
    }

    /// Objects whose lock is held, in the order of their ids.
    pub fn locked(&self) -> impl Iterator<Item = Arc<Node>> {
        self.derived.locked().filter_map(|id| self.by_id(id))
    }

    /// The services that declare this stable socket.
    pub(crate) fn listening(&self, socket: &StableSocket) -> impl Iterator<Item = ObjectId> {
        self.derived.listening(socket)
    }

    /// How many objects there are, the root included.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.names.len() == 0
    }

    /// All objects in the order of their keys: parents before children.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Node>> {
        self.names.from(&[]).map(|slot| self.node(slot))
    }

    /// Whether it has children.
    pub fn has_children(&self, name: &Name) -> bool {
        name.with_key(|key| self.subtree(key.as_bytes()).nth(1).is_some())
    }

    /// Follows aliases to the object that a name stands for.
    pub fn resolve(&self, name: &Name) -> Result<Resolved> {
        if let Some(slot) = self.slot(name).filter(|s| s.kind() != Kind::Alias) {
            return Ok(Resolved { node: self.node(slot), aliased: false });
        }
        let end = self.follow(name, true, None)?;
        match self.get(&end) {
            Some(node) => Ok(Resolved { node, aliased: true }),
            None if end == *name => Err(self.not_found(name)),
            None => Err(match self.not_found(&end) {
                error if error.code() == Code::NotFound => leads_nowhere(name, &end),
                error => error,
            }),
        }
    }

    /// The name that a name leads to when aliases on the way are followed, and the last label's too if `last`. The
    /// result need not exist. `within` is an alias as it would be, taken instead of what is there.
    pub fn follow(&self, name: &Name, last: bool, within: Option<(&Name, &Name)>) -> Result<Name> {
        let mut name = name.clone();
        for _ in 0..=MAX_ALIASES {
            match self.step(&name, last, within)? {
                Some(next) => name = next,
                None => return Ok(name),
            }
        }
        Err(Error::new(
            Code::AliasLoop,
            format!("following aliases from `{name}` does not end: `byname show` each of them and change one"),
        ))
    }

    /// Follows the first alias on the way to a name; `None` when there is none.
    pub(crate) fn step(&self, name: &Name, last: bool, within: Option<(&Name, &Name)>) -> Result<Option<Name>> {
        let Some((depth, mut next)) = self.first_alias(name, last, within) else { return Ok(None) };
        for label in name.labels().skip(depth) {
            next = next
                .child(label)
                .map_err(|e| Error::new(Code::InvalidName, format!("aliases make `{name}` too long: {e}")))?;
        }
        Ok(Some(next))
    }

    /// The first alias on the way to a name, from the top, because what is beneath an alias is beneath its target: at
    /// which depth it stands, and where it leads.
    fn first_alias(&self, name: &Name, last: bool, within: Option<(&Name, &Name)>) -> Option<(usize, Name)> {
        let within = within.map(|(alias, target)| (alias.key(), target));
        name.with_key(|key| {
            let key = key.as_bytes();
            let ends = key.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at + 1);
            for (depth, end) in ends.enumerate().filter(|(_, end)| last || *end < key.len()) {
                let step = key.get(..end).unwrap_or_default();
                if let Some((_, target)) = within.as_ref().filter(|(alias, _)| alias.as_bytes() == step) {
                    return Some((depth + 1, Name::clone(target)));
                }
                if let Some(target) = self.names.get(step).and_then(Slot::target) {
                    return Some((depth + 1, target));
                }
            }
            None
        })
    }

    /// The error for a name that is not there, naming the nearest ancestor that is. It is for those who may see
    /// everything; see [`Tree::not_found_for`].
    pub fn not_found(&self, name: &Name) -> Error {
        self.missing(name, &mut |_| true)
    }

    /// The error for a name that is not there, naming the nearest ancestor that is and may be named.
    pub(crate) fn missing(&self, name: &Name, seen: &mut dyn FnMut(&Name) -> bool) -> Error {
        let mut there = name.ancestors().filter_map(|a| self.slot(&a));
        let nearest = there.find(|slot| seen(&slot.name())).map(Slot::unpack);
        let hint = match nearest.as_ref() {
            Some(node) if node.kind() == Kind::Junction => {
                return Error::new(
                    Code::Unsupported,
                    format!(
                        "the tree goes on behind the junction `{}` ({}), which this server does not follow yet",
                        node.name,
                        node.spec.interface.as_deref().unwrap_or("no interface")
                    ),
                );
            }
            Some(Node { name: parent, .. }) if !parent.is_root() => {
                format!("there is no `{name}`; `{parent}` exists: `byname list '{parent}/**'` shows what is beneath it")
            }
            _ => format!("there is no `{name}`: `byname list` shows what there is"),
        };
        Error::new(Code::NotFound, hint)
    }

    /// Puts an object in its place, new or instead of `before`, which is what is there.
    pub(crate) fn put(&mut self, before: Option<&Node>, node: Node) -> Arc<Node> {
        let slot = Slot::pack(&node);
        self.ids.insert(slot.clone());
        self.names.insert(slot);
        self.keep_whole(before, node)
    }

    /// Changes what an object has beyond its declaration: its service's state, its lock.
    pub(crate) fn put_state(&mut self, before: &Node, node: Node) -> Arc<Node> {
        self.keep_whole(Some(before), node)
    }

    fn keep_whole(&mut self, before: Option<&Node>, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        if node.has_more() {
            self.whole.insert(node.id, node.clone());
        } else {
            self.whole.remove(&node.id);
        }
        self.note(before, Some(&node));
        node
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, name: &Name) -> Option<Arc<Node>> {
        let node = self.get(name)?;
        name.with_key(|key| self.names.remove(key.as_bytes()));
        self.ids.remove(node.id);
        self.whole.remove(&node.id);
        self.hosts.remove(&node.id);
        self.forget_identity(node.id);
        self.note(Some(&node), None);
        Some(node)
    }

    /// Puts in all objects that a snapshot holds, in order. `None` when they are not, or one cannot be read.
    pub(crate) fn restore(&mut self, slots: impl Iterator<Item = Option<Slot>>) -> Option<()> {
        let (mut ids, mut special) = (Ids::default(), Vec::new());
        let names = Names::from_sorted(slots.inspect(|slot| {
            if let Some(slot) = slot {
                ids.insert(slot.clone());
                if slot.is_special() {
                    special.push(slot.clone());
                }
            }
        }))?;
        names.get(&[])?;
        (self.names, self.ids, self.whole) = (names, ids, OrdMap::new());
        (self.derived, self.indexes) = (Derived::default(), Indexes::default());
        for slot in special {
            self.note(None, Some(&slot.unpack()));
        }
        Some(())
    }

    /// Keeps up what follows from the objects.
    fn note(&mut self, before: Option<&Node>, after: Option<&Node>) {
        self.derived.replace(before, after);
        self.indexes.replace(before, after);
        if Indexes::declares_anew(before, after)
            && let Some(node) = before.or(after)
        {
            let key = node.name.key();
            match after.and_then(|n| n.spec.index.as_deref()) {
                Some(declared) => {
                    let mut indexes = std::mem::take(&mut self.indexes);
                    indexes.rebuild(
                        &key,
                        declared,
                        self.subtree(key.as_bytes()).filter(|s| s.has_attributes()).map(Slot::unpack),
                    );
                    self.indexes = indexes;
                }
                None => self.indexes.forget(&key),
            }
        }
    }

    /// Changes a service's state; `None` when there is no such service.
    pub(crate) fn change_service<R>(
        &mut self,
        id: ObjectId,
        change: impl FnOnce(&Node, &mut Service) -> R,
    ) -> Option<R> {
        let before = self.by_id(id)?;
        let mut service = Service::clone(before.service.as_deref()?);
        let result = change(&before, &mut service);
        if before.service.as_deref() != Some(&service) {
            self.put_state(&before, Node { service: Some(Arc::new(service)), ..Node::clone(&before) });
        }
        Some(result)
    }
}
