//! What somebody sees of many objects: one decision for all that stand beneath the same list.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use byname_api::caller::{Right, Standing};
use byname_api::object::Spec;
use byname_name::{Name, NameKey};

use super::{Judge, Who, above, nearest, upwards};
use crate::stored::packed::Slot;
use crate::tree::{Node, Tree};

/// So many lists are remembered with what they say.
const REMEMBERED: usize = 4_096;

/// What a caller may see of the objects of a view: those to which it has one of some rights. For lists, searches and
/// watches. It says what [`super::allows`] says.
pub struct Sight<'a> {
    tree: &'a Tree,
    who: &'a Who<'a>,
    rights: &'a [Right],
    /// Everything is seen.
    all: bool,
    /// What is seen beneath each list, by the key of the object that has it.
    known: RefCell<BTreeMap<Vec<u8>, bool>>,
    /// The last directory that was asked about where only owners see, and whether it or one above it is the caller's.
    owned: RefCell<Option<(String, bool)>>,
}

impl<'a> Sight<'a> {
    /// What `who` sees with one of these rights.
    pub fn new(tree: &'a Tree, who: &'a Who<'a>, rights: &'a [Right]) -> Sight<'a> {
        let open = tree.derived().acls().is_empty() && rights.iter().any(|right| who.by_default(*right));
        let all = open || who.standing == Standing::Full;
        Sight { tree, who, rights, all, known: RefCell::default(), owned: RefCell::default() }
    }

    /// For whom.
    pub fn who(&self) -> &'a Who<'a> {
        self.who
    }

    /// Whether an object is seen. It need not be in the view any more: what is declared of it counts as it is here. (What
    /// was above it should be: for what a command has removed, look from the view before it.)
    pub fn sees(&self, node: &Node) -> bool {
        if self.who.standing == Standing::Full || (self.all && node.spec.acl.is_none()) {
            return true;
        }
        let there = self.tree.slot(&node.name).is_some_and(|slot| slot.id() == node.id);
        if there || node.spec.acl.is_none() {
            return self.sees_name(&node.name);
        }
        let judge = &mut Judge::new(self.tree, self.who);
        self.rights.iter().any(|right| judge.departed(*right, node))
    }

    /// Whether the object of a name is seen, or would be.
    pub fn sees_name(&self, name: &Name) -> bool {
        self.all || name.with_key(|key| self.sees_key(key))
    }

    pub(crate) fn sees_slot(&self, slot: &Slot) -> bool {
        self.all || std::str::from_utf8(slot.key()).is_ok_and(|key| self.sees_key(key))
    }

    fn sees_key(&self, key: &str) -> bool {
        let region = nearest(self.tree.derived().acls(), key).map(|(at, _)| at.as_str());
        self.region(region) || (self.who.is_somebody() && self.owns(key, region))
    }

    /// Whether what stands beneath a list and belongs to others is seen.
    fn region(&self, region: Option<&str>) -> bool {
        // No object has the key that stands for no list.
        let place = region.map_or_else(|| vec![0xff], |at| at.as_bytes().to_vec());
        let mut known = self.known.borrow_mut();
        if let Some(seen) = known.get(&place) {
            return *seen;
        }
        let seen = match region {
            Some(at) => {
                let mut judge = Judge::new(self.tree, self.who);
                self.rights.iter().any(|right| judge.verdict(*right, at).allowed)
            }
            None => {
                let admin = super::administrators(self.tree)
                    .is_some_and(|group| super::Groups::new(self.tree, self.who).hold(group, false));
                admin || self.rights.iter().any(|right| self.who.by_default(*right))
            }
        };
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(place, seen);
        seen
    }

    /// Whether the caller owns the object of a key or one between it and the list.
    fn owns(&self, key: &str, region: Option<&str>) -> bool {
        let own = |key: &str| self.tree.names().get(key.as_bytes()).is_some_and(|slot| self.who.owns(slot));
        let beneath = |key: &&str| region.is_none_or(|at| key.len() > at.len());
        if !beneath(&key) {
            return false;
        }
        if own(key) {
            return true;
        }
        let Some(directory) = above(key).filter(|d| beneath(d)) else { return false };
        let mut last = self.owned.borrow_mut();
        if let Some((_, owned)) = last.as_ref().filter(|(known, _)| known == directory) {
            return *owned;
        }
        let owned = upwards(directory).take_while(beneath).any(own);
        *last = Some((directory.to_owned(), owned));
        owned
    }

    /// Whether nothing at a key or beneath it can be seen, when the object there is not.
    pub(crate) fn hides_all_beneath(&self, key: &[u8]) -> bool {
        let Ok(key) = std::str::from_utf8(key) else { return false };
        let range = (Bound::Included(key), Bound::Unbounded);
        let mut lists = self.tree.derived().acls().range::<_, str>(range).map(|(at, _)| at.as_str());
        let beneath = |at: &str| at.len() > key.len() && at.starts_with(key);
        !self.all && !self.who.is_somebody() && !lists.find(|at| *at != key).is_some_and(beneath)
    }
}

impl<'t> Judge<'t, '_> {
    /// A decision about an object that is not in the tree any more.
    fn departed(&mut self, right: Right, node: &Node) -> bool {
        let mut tree = self.tree.clone();
        tree.put_list(node.name.key(), node.spec.clone());
        Judge::new(&tree, self.who).verdict(right, node.name.key().as_str()).allowed
    }
}

impl Tree {
    /// Puts a list where its object is not any more.
    fn put_list(&mut self, key: NameKey, spec: Arc<Spec>) {
        self.derived_mut().put_list(key, spec);
    }
}
