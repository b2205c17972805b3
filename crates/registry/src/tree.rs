//! The one tree: objects by name, and how names lead to them.

use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use byname_api::error::{Code, Error, Result};
use byname_api::object::{InstanceId, Kind, ObjectId, Spec, Stamp};
use byname_api::span::Timestamp;
use byname_name::{Name, NameKey};

use crate::service::Service;

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
    /// Nobody added it: it vanishes with its last instance.
    pub unregistered: bool,
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
    by_instance: HashMap<InstanceId, ObjectId>,
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
            by_instance: HashMap::new(),
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
        });
        tree
    }
}

impl Tree {
    /// The object of exactly this name, aliases not followed.
    pub fn get(&self, name: &Name) -> Option<&Arc<Node>> {
        name.with_key(|key| self.nodes.get(key))
    }

    /// The object of this id.
    pub fn by_id(&self, id: ObjectId) -> Option<&Arc<Node>> {
        self.by_id.get(&id).and_then(|key| self.nodes.get(key))
    }

    /// The service that an instance belongs to.
    pub fn by_instance(&self, id: InstanceId) -> Option<&Arc<Node>> {
        self.by_instance.get(&id).and_then(|id| self.by_id(*id))
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
    pub fn range(
        &self,
        bounds: (std::ops::Bound<NameKey>, std::ops::Bound<NameKey>),
    ) -> impl DoubleEndedIterator<Item = (&NameKey, &Arc<Node>)> {
        self.nodes.range::<_, NameKey>(bounds)
    }

    /// All objects in the order of their keys: parents before children.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All services, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values().filter(|n| n.service.is_some())
    }

    /// Whether it has children.
    pub fn has_children(&self, name: &Name) -> bool {
        self.range(name.key().beneath_range()).next().is_some()
    }

    /// Follows aliases to the object that a name stands for.
    pub fn resolve(&self, name: &Name) -> Result<Resolved> {
        if let Some(node) = self.get(name).filter(|n| n.kind() != Kind::Alias) {
            return Ok(Resolved { node: node.clone(), aliased: false });
        }
        let end = self.follow(name, true, None)?;
        match self.get(&end) {
            Some(node) => Ok(Resolved { node: node.clone(), aliased: true }),
            None if end == *name => Err(self.not_found(name)),
            None => Err(Error::new(
                Code::NotFound,
                format!("`{name}` leads through an alias to `{end}`, and there is no such name"),
            )),
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
        let nearest = name.ancestors().find(|a| self.get(a).is_some());
        let hint = match nearest {
            Some(parent) if !parent.is_root() => {
                format!("there is no `{name}`; `{parent}` exists: `byname list '{parent}/**'` shows what is beneath it")
            }
            _ => format!("there is no `{name}`: `byname list` shows what there is"),
        };
        Error::new(Code::NotFound, hint)
    }

    /// Puts an object in its place, new or changed.
    pub(crate) fn put(&mut self, node: Node) {
        let key = node.name.key();
        for instance in node.service.iter().flat_map(|s| &s.instances) {
            self.by_instance.insert(instance.id, node.id);
        }
        self.by_id.insert(node.id, key.clone());
        self.nodes.insert(key, Arc::new(node));
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, name: &Name) -> Option<Arc<Node>> {
        let node = self.nodes.remove(&name.key())?;
        self.by_id.remove(&node.id);
        for instance in node.service.iter().flat_map(|s| &s.instances) {
            self.by_instance.remove(&instance.id);
        }
        Some(node)
    }

    /// Changes an object's service state in place; `None` when there is no such service.
    pub(crate) fn change_service<R>(
        &mut self,
        id: ObjectId,
        change: impl FnOnce(&Node, &mut Service) -> R,
    ) -> Option<R> {
        let key = self.by_id.get(&id)?.clone();
        let slot = self.nodes.get_mut(&key)?;
        let mut node = Node::clone(slot);
        let mut service = node.service.take()?;
        let before: Vec<InstanceId> = service.instances.iter().map(|i| i.id).collect();
        let result = change(&node, Arc::make_mut(&mut service));
        for instance in &service.instances {
            if !before.contains(&instance.id) {
                self.by_instance.insert(instance.id, id);
            }
        }
        for gone in before.iter().filter(|b| service.instance(**b).is_none()) {
            self.by_instance.remove(gone);
        }
        node.service = Some(service);
        *slot = Arc::new(node);
        Some(result)
    }
}
