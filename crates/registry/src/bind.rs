//! Names become ids at the end of a batch, so that a name that is used again inherits nothing (DESIGN section 3).
//!
//! Lists, owners and groups name principals; what they name is noted as an id when the whole batch is done, so that the
//! order of a file does not matter. Entries that were there before keep the ids that they have, also of objects that are
//! gone. A member of a group that does not exist is bound when an object of its name is made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use byname_api::access::{AclEntry, Subject};
use byname_api::error::{Code, Error, Result};
use byname_api::object::{ObjectId, Spec};
use byname_api::request::Change as ObjectChange;
use byname_name::{Name, NameKey};

use crate::command::Event;
use crate::tree::{Node, Tree};

/// What is to be bound.
#[derive(Debug, Default)]
pub(crate) struct Unbound {
    /// Objects, with the change of the batch that is to blame, and whether its owner is to be bound.
    touched: BTreeMap<ObjectId, (usize, bool)>,
    /// The present change of the batch.
    pub(crate) index: usize,
}

impl Unbound {
    /// An object is new: groups may have waited for it.
    pub(crate) fn made(&mut self, tree: &Tree, name: &Name) {
        if tree.derived().somebody_waits() {
            for group in tree.derived().waiting_for(&name.key()) {
                self.touched.entry(group).or_insert((self.index, false));
            }
        }
    }

    /// An object was declared; `owner` when somebody named another owner.
    pub(crate) fn touched(&mut self, id: ObjectId, spec: &Spec, owner: bool) {
        if owner || spec.members.is_some() || acl_of(spec).any(|entry| entry.id.is_none() && named(entry).is_some()) {
            let touched = self.touched.entry(id).or_default();
            *touched = (self.index, touched.1 || owner);
        }
    }
}

fn acl_of(spec: &Spec) -> impl Iterator<Item = &AclEntry> {
    spec.acl.iter().flatten()
}

fn named(entry: &AclEntry) -> Option<&Name> {
    match &entry.who {
        Subject::Named(name) => Some(name),
        _ => None,
    }
}

/// Forgets what only the server may say.
pub(crate) fn only_declared(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    spec.member_ids = None;
    spec.fingerprint = None;
    spec.acl.iter_mut().flatten().for_each(|entry| entry.id = None);
    spec
}

/// Gives entries and members the ids that the same ones had before.
pub(crate) fn carry_over(spec: &mut Spec, before: &Spec) {
    for entry in spec.acl.iter_mut().flatten() {
        entry.id = acl_of(before).find(|old| old.says_the_same(entry)).and_then(|old| old.id);
    }
    let had: BTreeMap<NameKey, ObjectId> = before
        .member_ids
        .iter()
        .flatten()
        .filter_map(|(member, id)| Some((Name::parse(member).ok()?.key(), *id)))
        .collect();
    spec.member_ids = None;
    if had.is_empty() {
        return;
    }
    let mut ids = BTreeMap::new();
    for member in spec.members.iter().flatten() {
        if let Some(id) = Name::parse(member).ok().and_then(|name| had.get(&name.key())) {
            ids.insert(member.clone(), *id);
        }
    }
    spec.member_ids = Some(ids).filter(|ids| !ids.is_empty());
}

/// Binds what a batch has left unbound, in the objects and in the events that tell of them. The error carries the index
/// of the change to blame.
pub(crate) fn bind(tree: &mut Tree, unbound: Unbound, events: &mut Vec<Event>) -> Result<(), (usize, Error)> {
    let touched = unbound.touched;
    if !tree.binds || touched.is_empty() {
        return Ok(());
    }
    let mut told: HashMap<ObjectId, usize> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        if let Event::Object { node, .. } = event {
            told.insert(node.id, at);
        }
    }
    for (id, (index, owner)) in touched {
        // What a later change of the batch has removed needs nothing.
        let Some(node) = tree.by_id(id) else { continue };
        let (spec, owner_id) = bound(tree, &node, owner).map_err(|error| (index, error))?;
        if spec == *node.spec && owner_id == node.owner_id {
            continue;
        }
        let after = tree.put(Some(&node), Node { spec: Arc::new(spec), owner_id, ..Node::clone(&node) });
        match told.get(&id).and_then(|at| events.get_mut(*at)) {
            Some(Event::Object { node, .. }) => *node = after,
            _ => {
                let change = ObjectChange::State;
                events.push(Event::Object { revision: tree.revision, change, node: after });
            }
        }
    }
    Ok(())
}

fn bound(tree: &Tree, node: &Node, owner: bool) -> Result<(Spec, Option<ObjectId>)> {
    let mut spec = Spec::clone(&node.spec);
    let id_of = |name: &Name| tree.slot(name).map(|slot| slot.id());
    for entry in spec.acl.iter_mut().flatten().filter(|entry| entry.id.is_none()) {
        if let Some(name) = named(entry) {
            let id = id_of(name).ok_or_else(|| {
                let what =
                    format!("there is no `{name}` that the list of `{}` could be about: add it first", node.name);
                Error::new(Code::NotFound, what).field("acl")
            })?;
            entry.id = Some(id);
        }
    }
    let owner_id = match spec.owner.as_deref().filter(|owner_name| owner && owner_name.starts_with('/')) {
        Some(text) => {
            let name = Name::parse(text).map_err(|e| Error::from(e).field("owner"))?;
            let id = id_of(&name).ok_or_else(|| {
                let what = format!("there is no `{name}` that could own `{}`: add it first", node.name);
                Error::new(Code::NotFound, what).field("owner")
            })?;
            Some(id)
        }
        None => node.owner_id,
    };
    if let Some(members) = &spec.members {
        let mut ids = spec.member_ids.take().unwrap_or_default();
        for member in members {
            if !ids.contains_key(member)
                && let Some(id) = Name::parse(member).ok().and_then(|name| id_of(&name))
            {
                ids.insert(member.clone(), id);
            }
        }
        spec.member_ids = Some(ids).filter(|ids| !ids.is_empty());
    }
    Ok((spec, owner_id))
}
