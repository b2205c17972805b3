//! Membership: which groups somebody is in, directly or through others.

use std::collections::BTreeMap;

use byname_api::caller::Standing;
use byname_api::object::{Kind, ObjectId};
use byname_name::Name;

use super::Who;
use crate::tree::Tree;

/// Groups within groups count so deep.
const DEPTH: usize = 32;
/// So many groups of one caller count, the nearest first.
const MOST: usize = 10_000;

/// The groups of a caller, found when they are first asked for.
pub(super) struct Groups<'t, 'w> {
    tree: &'t Tree,
    who: &'w Who<'w>,
    /// Each group with the one through which the caller is in it, if it is not directly in it; all, and those that are
    /// certified all the way.
    all: Option<Found>,
    certified: Option<Found>,
}

type Found = BTreeMap<ObjectId, Option<ObjectId>>;

impl<'t, 'w> Groups<'t, 'w> {
    pub(super) fn new(tree: &'t Tree, who: &'w Who<'w>) -> Groups<'t, 'w> {
        Groups { tree, who, all: None, certified: None }
    }

    fn find(&self, certified: bool) -> Found {
        let mut found = Found::new();
        let Some(own) = self.who.id.filter(|_| self.who.standing != Standing::Anonymous) else { return found };
        let derived = self.tree.derived();
        let counts = |group| !certified || self.tree.by_id(group).is_some_and(|node| (self.who.certified)(&node));
        let mut level = vec![own];
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for member in level {
                for group in derived.groups_of(member) {
                    if found.len() < MOST && !found.contains_key(&group) && counts(group) {
                        found.insert(group, (member != own).then_some(member));
                        next.push(group);
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        found
    }

    fn found(&mut self, certified: bool) -> &Found {
        if (if certified { &self.certified } else { &self.all }).is_none() {
            let found = self.find(certified);
            *(if certified { &mut self.certified } else { &mut self.all }) = Some(found);
        }
        (if certified { &mut self.certified } else { &mut self.all }).get_or_insert_default()
    }

    /// Whether the caller is in this group.
    pub(super) fn hold(&mut self, group: ObjectId, certified: bool) -> bool {
        self.found(certified).contains_key(&group)
    }

    /// The names of the groups through which the caller is in this one, which comes first.
    pub(super) fn path(&mut self, group: ObjectId, certified: bool) -> Vec<Name> {
        let tree = self.tree;
        let found = self.found(certified);
        let path = std::iter::successors(Some(group), |at| found.get(at).copied().flatten());
        path.take(DEPTH).filter_map(|id| Some(tree.by_id(id)?.name.clone())).collect()
    }
}

/// Whether somebody is in a group, directly or through others.
pub fn is_member(tree: &Tree, who: &Who<'_>, group: &Name) -> bool {
    let id = tree.slot(group).filter(|slot| slot.kind() == Kind::Group).map(|slot| slot.id());
    id.is_some_and(|id| Groups::new(tree, who).hold(id, false))
}

/// The groups that somebody is in, directly or through others, sorted.
pub fn groups(tree: &Tree, who: &Who<'_>) -> Vec<Name> {
    let found = Groups::new(tree, who).find(false);
    let mut names: Vec<Name> = found.keys().filter_map(|id| Some(tree.by_id(*id)?.name.clone())).collect();
    names.sort();
    names
}
