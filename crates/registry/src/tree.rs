//! The one tree: objects by name, and how names lead to them.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use byname_api::error::{Code, Error, Result};
use byname_api::launch::StableSocket;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Stamp};
use byname_api::span::Timestamp;
use byname_name::{Name, NameKey};

use crate::derived::Derived;
use crate::index::Indexes;
use crate::service::{LockState, Service};

/// How many aliases a name may lead through.
const MAX_ALIASES: usize = 32;

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
}

impl Node {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }
}

/// All objects. Cloning is cheap and gives a frozen view: readers work on such a view while writes go on.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: OrdMap<NameKey, Arc<Node>>,
    by_id: HashMap<ObjectId, NameKey>,
    derived: Derived,
    indexes: Indexes,
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
            nodes: OrdMap::new(),
            by_id: HashMap::new(),
            derived: Derived::default(),
            indexes: Indexes::default(),
            revision: 0,
            now: Timestamp(0),
            next_id: 1,
        };
        tree.put(Node {
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
        });
        tree
    }
}

impl Tree {
    /// The object of exactly this name, aliases not followed.
    pub fn get(&self, name: &Name) -> Option<Arc<Node>> {
        name.with_key(|key| self.nodes.get(key)).cloned()
    }

    /// The object of this key.
    pub(crate) fn at(&self, key: &NameKey) -> Option<Arc<Node>> {
        self.nodes.get(key).cloned()
    }

    pub(crate) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    /// The object of this id.
    pub fn by_id(&self, id: ObjectId) -> Option<Arc<Node>> {
        self.by_id.get(&id).and_then(|key| self.nodes.get(key)).cloned()
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
        self.nodes.len()
    }

    /// Never: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Objects in the order of their keys, within these bounds.
    pub(crate) fn range(&self, bounds: (Bound<NameKey>, Bound<NameKey>)) -> impl Iterator<Item = Arc<Node>> {
        self.nodes.range::<_, NameKey>(bounds).map(|(_, node)| node.clone())
    }

    /// All objects in the order of their keys: parents before children.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Node>> {
        self.nodes.values().cloned()
    }

    /// Whether it has children.
    pub fn has_children(&self, name: &Name) -> bool {
        self.range(name.key().beneath_range()).next().is_some()
    }

    /// Follows aliases to the object that a name stands for.
    pub fn resolve(&self, name: &Name) -> Result<Resolved> {
        if let Some(node) = self.get(name).filter(|n| n.kind() != Kind::Alias) {
            return Ok(Resolved { node, aliased: false });
        }
        let end = self.follow(name, true, None)?;
        match self.get(&end) {
            Some(node) => Ok(Resolved { node, aliased: true }),
            None if end == *name => Err(self.not_found(name)),
            None => Err(match self.not_found(&end) {
                error if error.code() == Code::NotFound => Error::new(
                    Code::NotFound,
                    format!("`{name}` leads through an alias to `{end}`, and there is no such name"),
                ),
                error => error,
            }),
        }
    }

    /// The name that a name leads to when aliases on the way are followed, and the last label's too if `last`. The
    /// result need not exist. `within` is an alias as it would be, taken instead of what is there.
    pub fn follow(&self, name: &Name, last: bool, within: Option<(&Name, &Name)>) -> Result<Name> {
        let mut name = name.clone();
        'again: for _ in 0..=MAX_ALIASES {
            let depth = name.depth();
            // From the top, because what is beneath an alias is beneath its target.
            let mut way: Vec<Name> = name.ancestors().filter(|a| !a.is_root()).collect();
            way.sort_by_key(Name::depth);
            if last {
                way.push(name.clone());
            }
            for step in &way {
                let target = match within {
                    Some((alias, target)) if alias == step => Some(target.clone()),
                    _ => self.get(step).and_then(|n| n.spec.target.clone()),
                };
                if let Some(target) = target {
                    let rest: Vec<&str> = name.labels().skip(step.depth()).collect();
                    debug_assert!(rest.len() < depth || depth == 0);
                    let mut next = target;
                    for label in rest {
                        next = next.child(label).map_err(|e| {
                            Error::new(Code::InvalidName, format!("aliases make `{name}` too long: {e}"))
                        })?;
                    }
                    name = next;
                    continue 'again;
                }
            }
            return Ok(name);
        }
        Err(Error::new(
            Code::AliasLoop,
            format!("following aliases from `{name}` does not end: `byname show` each of them and change one"),
        ))
    }

    /// The error for a name that is not there, naming the nearest ancestor that is.
    pub fn not_found(&self, name: &Name) -> Error {
        let nearest = name.ancestors().find_map(|a| self.get(&a));
        let hint = match nearest.as_deref() {
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

    /// Puts an object in its place, new or changed.
    pub(crate) fn put(&mut self, node: Node) -> Arc<Node> {
        let (key, node) = (node.name.key(), Arc::new(node));
        self.by_id.insert(node.id, key.clone());
        let before = self.nodes.insert(key, node.clone());
        self.note(before.as_deref(), Some(&node));
        node
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
                    indexes.rebuild(&key, declared, self.range(key.subtree_range()));
                    self.indexes = indexes;
                }
                None => self.indexes.forget(&key),
            }
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, name: &Name) -> Option<Arc<Node>> {
        let node = self.nodes.remove(&name.key())?;
        self.by_id.remove(&node.id);
        self.note(Some(&node), None);
        Some(node)
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
            self.put(Node { service: Some(Arc::new(service)), ..Node::clone(&before) });
        }
        Some(result)
    }
}
