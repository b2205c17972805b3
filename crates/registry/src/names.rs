//! Objects in the order of their names: a persistent B+-tree of [`Slot`]s.
//!
//! A leaf is a run of slots, an inner node holds for each child but the first a key that is greater than all before it
//! and not greater than the child's first. Cloning copies a pointer; a change copies the way to what it changes, where
//! others hold it too. Leaves are filled from below: what is added in order leaves full leaves behind.

use std::sync::Arc;

use crate::stored::packed::Slot;

/// Slots in a leaf. Small, because copying one touches every object in it.
const LEAF: usize = 24;
/// Children of an inner node.
const INNER: usize = 16;
/// A node that holds less than a quarter joins its neighbour.
const FEW: usize = 4;

/// All objects by name.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: Arc<Branch>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Branch {
    Leaf(Vec<Slot>),
    Inner { bounds: Bounds, children: Vec<Arc<Branch>> },
}

/// What a split adds to the node above.
type Split = (Vec<u8>, Arc<Branch>);

/// Keys in order, one after the other, so that copying and searching them touches little memory.
#[derive(Clone, Debug, Default)]
struct Bounds {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Bounds {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize)
    }

    fn get(&self, at: usize) -> &[u8] {
        let end = self.ends.get(at).map_or(self.bytes.len(), |end| *end as usize);
        self.bytes.get(self.start(at)..end).unwrap_or_default()
    }

    fn insert(&mut self, at: usize, key: &[u8]) {
        let start = self.start(at);
        self.bytes.splice(start..start, key.iter().copied());
        self.ends.insert(at, start as u32);
        self.ends.iter_mut().skip(at).for_each(|end| *end += key.len() as u32);
    }

    fn remove(&mut self, at: usize) -> Vec<u8> {
        let (start, key) = (self.start(at), self.get(at).to_vec());
        self.bytes.drain(start..start + key.len());
        self.ends.remove(at);
        self.ends.iter_mut().skip(at).for_each(|end| *end -= key.len() as u32);
        key
    }

    /// Gives those from `at` on, and keeps the rest.
    fn split_off(&mut self, at: usize) -> Bounds {
        let start = self.start(at);
        let bytes = self.bytes.split_off(start);
        let ends = self.ends.split_off(at).into_iter().map(|end| end - start as u32).collect();
        Bounds { bytes, ends }
    }

    fn append(&mut self, more: &Bounds) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&more.bytes);
        self.ends.extend(more.ends.iter().map(|end| start + end));
    }

    /// The child that holds a key, if any does: how many bounds are not greater.
    fn child_for(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.get(middle) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl Default for Names {
    fn default() -> Self {
        Names { root: Arc::new(Branch::Leaf(Vec::new())), len: 0 }
    }
}

impl Branch {
    fn len(&self) -> usize {
        match self {
            Branch::Leaf(slots) => slots.len(),
            Branch::Inner { children, .. } => children.len(),
        }
    }

    fn most(&self) -> usize {
        match self {
            Branch::Leaf(_) => LEAF,
            Branch::Inner { .. } => INNER,
        }
    }

    fn first_key(&self) -> &[u8] {
        match self {
            Branch::Leaf(slots) => slots.first().map(Slot::key).unwrap_or_default(),
            Branch::Inner { children, .. } => children.first().map(|c| c.first_key()).unwrap_or_default(),
        }
    }

    fn last_key(&self) -> &[u8] {
        match self {
            Branch::Leaf(slots) => slots.last().map(Slot::key).unwrap_or_default(),
            Branch::Inner { children, .. } => children.last().map(|c| c.last_key()).unwrap_or_default(),
        }
    }
}

/// The shortest key that is greater than `before` and not greater than `after`.
fn bound(before: &[u8], after: &[u8]) -> Vec<u8> {
    let common = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    after.get(..=common).unwrap_or(after).into()
}

impl Names {
    /// Makes a tree of what is in order already, and gives up with `None` where it is not.
    pub(crate) fn from_sorted(slots: impl Iterator<Item = Option<Slot>>) -> Option<Names> {
        let mut len = 0;
        let mut leaves: Vec<Arc<Branch>> = Vec::new();
        let mut leaf: Vec<Slot> = Vec::with_capacity(LEAF);
        for slot in slots {
            let slot = slot?;
            if leaf.last().is_some_and(|last| *last >= slot) {
                return None;
            }
            if leaf.len() == LEAF {
                let full = std::mem::replace(&mut leaf, Vec::with_capacity(LEAF));
                if full.last().is_some_and(|last| *last >= slot) {
                    return None;
                }
                leaves.push(Arc::new(Branch::Leaf(full)));
            }
            leaf.push(slot);
            len += 1;
        }
        leaves.push(Arc::new(Branch::Leaf(leaf)));
        let mut level = leaves;
        while level.len() > 1 {
            let mut above = Vec::with_capacity(level.len() / INNER + 1);
            for children in level.chunks(INNER) {
                let pairs = children.iter().zip(children.iter().skip(1));
                let mut bounds = Bounds::default();
                for (at, (one, next)) in pairs.enumerate() {
                    bounds.insert(at, &bound(one.last_key(), next.first_key()));
                }
                above.push(Arc::new(Branch::Inner { bounds, children: children.to_vec() }));
            }
            level = above;
        }
        let root = level.pop().unwrap_or_else(|| Arc::new(Branch::Leaf(Vec::new())));
        Some(Names { root, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        let mut branch = &*self.root;
        loop {
            match branch {
                Branch::Leaf(slots) => {
                    let at = slots.binary_search_by(|slot| slot.key().cmp(key)).ok()?;
                    return slots.get(at);
                }
                Branch::Inner { bounds, children } => branch = children.get(bounds.child_for(key))?,
            }
        }
    }

    /// Puts an object in its place; gives the one that was there.
    pub(crate) fn insert(&mut self, slot: Slot) -> Option<Slot> {
        let (before, split) = insert(&mut self.root, slot);
        if let Some((bound, right)) = split {
            let left = self.root.clone();
            let mut bounds = Bounds::default();
            bounds.insert(0, &bound);
            self.root = Arc::new(Branch::Inner { bounds, children: vec![left, right] });
        }
        if before.is_none() {
            self.len += 1;
        }
        before
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        // So that nothing is copied in vain.
        self.get(key)?;
        let gone = remove(&mut self.root, key)?;
        self.len -= 1;
        loop {
            let only = match &*self.root {
                Branch::Inner { children, .. } if children.len() == 1 => children.first().cloned(),
                _ => None,
            };
            match only {
                Some(only) => self.root = only,
                None => return Some(gone),
            }
        }
    }

    /// Walks from the first object whose key is `from` or greater.
    pub(crate) fn from(&self, from: &[u8]) -> Walk<'_> {
        let mut walk = Walk { names: self, way: Vec::with_capacity(6) };
        walk.seek(from);
        walk
    }
}

fn insert(place: &mut Arc<Branch>, slot: Slot) -> (Option<Slot>, Option<Split>) {
    match Arc::make_mut(place) {
        Branch::Leaf(slots) => {
            let at = match slots.binary_search(&slot) {
                Ok(at) => return (slots.get_mut(at).map(|old| std::mem::replace(old, slot)), None),
                Err(at) => at,
            };
            if slots.len() < LEAF {
                grow(slots, LEAF);
                slots.insert(at, slot);
                return (None, None);
            }
            // In order: the full leaf stays full.
            let from = if at == slots.len() { at } else { LEAF / 2 };
            let mut right = Vec::with_capacity(LEAF);
            right.extend(slots.drain(from..));
            if at > from || right.is_empty() {
                right.insert(at - from, slot);
            } else {
                slots.insert(at, slot);
            }
            let bound = bound(
                slots.last().map(Slot::key).unwrap_or_default(),
                right.first().map(Slot::key).unwrap_or_default(),
            );
            (None, Some((bound, Arc::new(Branch::Leaf(right)))))
        }
        Branch::Inner { bounds, children } => {
            let at = bounds.child_for(slot.key());
            let Some(child) = children.get_mut(at) else { return (None, None) };
            let (before, split) = insert(child, slot);
            let Some((bound, right)) = split else { return (before, None) };
            bounds.insert(at, &bound);
            children.insert(at + 1, right);
            if children.len() <= INNER {
                return (before, None);
            }
            let from = if at + 2 == children.len() { children.len() - 2 } else { children.len() / 2 };
            let right = children.split_off(from);
            let right_bounds = bounds.split_off(from);
            let middle = bounds.remove(from - 1);
            (before, Some((middle, Arc::new(Branch::Inner { bounds: right_bounds, children: right }))))
        }
    }
}

/// Makes room for one more, in few steps, so that a leaf that is full takes no more than it needs.
fn grow(slots: &mut Vec<Slot>, most: usize) {
    if slots.len() == slots.capacity() {
        let more = (most - slots.len()).min(8);
        slots.reserve_exact(more);
    }
}

fn remove(place: &mut Arc<Branch>, key: &[u8]) -> Option<Slot> {
    match Arc::make_mut(place) {
        Branch::Leaf(slots) => {
            let at = slots.binary_search_by(|slot| slot.key().cmp(key)).ok()?;
            Some(slots.remove(at))
        }
        Branch::Inner { bounds, children } => {
            let at = bounds.child_for(key);
            let gone = remove(children.get_mut(at)?, key)?;
            tidy(bounds, children, at);
            Some(gone)
        }
    }
}

/// Joins a child that holds few with its neighbour.
fn tidy(bounds: &mut Bounds, children: &mut Vec<Arc<Branch>>, at: usize) {
    let Some(child) = children.get(at) else { return };
    if child.len() > child.most() / FEW || children.len() < 2 {
        return;
    }
    let left = if at + 1 < children.len() { at } else { at - 1 };
    let room = match (children.get(left), children.get(left + 1)) {
        (Some(one), Some(other)) => one.len() + other.len() <= one.most(),
        _ => false,
    };
    if !room {
        return;
    }
    let (right, middle) = (children.remove(left + 1), bounds.remove(left));
    let Some(place) = children.get_mut(left) else { return };
    match (Arc::make_mut(place), Arc::unwrap_or_clone(right)) {
        (Branch::Leaf(slots), Branch::Leaf(mut more)) => slots.append(&mut more),
        (Branch::Inner { bounds, children }, Branch::Inner { bounds: more_bounds, children: mut more }) => {
            bounds.insert(bounds.len(), &middle);
            bounds.append(&more_bounds);
            children.append(&mut more);
        }
        // All leaves are at one depth.
        _ => {}
    }
}

/// A way through the objects in their order, that can skip.
pub(crate) struct Walk<'a> {
    names: &'a Names,
    /// The nodes on the way to the next object, each with the place of what comes next in it.
    way: Vec<(&'a Branch, usize)>,
}

impl<'a> Walk<'a> {
    /// Goes to the first object whose key is `from` or greater.
    pub(crate) fn seek(&mut self, from: &[u8]) {
        self.way.clear();
        let mut branch = &*self.names.root;
        loop {
            match branch {
                Branch::Leaf(slots) => {
                    let at = slots.partition_point(|slot| slot.key() < from);
                    self.way.push((branch, at));
                    return;
                }
                Branch::Inner { bounds, children } => {
                    let at = bounds.child_for(from);
                    self.way.push((branch, at + 1));
                    let Some(child) = children.get(at) else { return };
                    branch = child;
                }
            }
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a Slot;

    fn next(&mut self) -> Option<&'a Slot> {
        loop {
            let (branch, at) = self.way.last_mut()?;
            let next = *at;
            *at += 1;
            match branch {
                Branch::Leaf(slots) => match slots.get(next) {
                    Some(slot) => return Some(slot),
                    None => drop(self.way.pop()),
                },
                Branch::Inner { children, .. } => match children.get(next) {
                    Some(child) => self.way.push((child, 0)),
                    None => drop(self.way.pop()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use byname_api::object::{Kind, ObjectId, Spec, Stamp};
    use byname_api::span::Timestamp;
    use byname_name::Name;
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Node;

    fn slot(text: &str, id: u64) -> Slot {
        let stamp = Stamp { at: Timestamp(1), by: "liu".into() };
        Slot::pack(&Node {
            id: ObjectId(id),
            name: Name::parse(text).unwrap(),
            version: id,
            spec: Arc::new(Spec::of(Kind::Directory)),
            set: None,
            created: stamp.clone(),
            modified: stamp,
            service: None,
            unregistered: false,
            lock: None,
            owner_id: None,
        })
    }

    /// All leaves at one depth, nothing too full, and bounds between what they divide.
    fn check(branch: &Branch, low: &[u8]) -> usize {
        assert!(branch.len() <= branch.most());
        match branch {
            Branch::Leaf(slots) => {
                assert!(slots.iter().all(|s| s.key() >= low));
                assert!(slots.windows(2).all(|w| w[0] < w[1]));
                0
            }
            Branch::Inner { bounds, children } => {
                assert_eq!(bounds.len() + 1, children.len());
                let depths: Vec<usize> = children
                    .iter()
                    .enumerate()
                    .map(|(at, child)| {
                        assert!(at == bounds.len() || child.last_key() < bounds.get(at));
                        check(child, if at == 0 { low } else { bounds.get(at - 1) })
                    })
                    .collect();
                assert!(depths.windows(2).all(|w| w[0] == w[1]));
                depths[0] + 1
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u16),
        Run(u16, u16),
        Remove(u16),
        RemoveRun(u16, u16),
        Keep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..5_000u16).prop_map(Step::Put),
            2 => (0..5_000u16, 1..400u16).prop_map(|(from, count)| Step::Run(from, count)),
            3 => (0..5_000u16).prop_map(Step::Remove),
            1 => (0..5_000u16, 1..600u16).prop_map(|(from, count)| Step::RemoveRun(from, count)),
            1 => Just(Step::Keep),
        ]
    }

    fn name(n: u16) -> String {
        format!("/{}/{}", n / 100, n)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec(step(), 1..60)) {
            let (mut names, mut model) = (Names::default(), BTreeMap::new());
            let mut kept = None;
            let mut id = 0;
            for step in steps {
                let (puts, removes) = match step {
                    Step::Put(n) => (n..n + 1, 0..0),
                    Step::Run(from, count) => (from..from + count, 0..0),
                    Step::Remove(n) => (0..0, n..n + 1),
                    Step::RemoveRun(from, count) => (0..0, from..from + count),
                    Step::Keep => {
                        kept = Some((names.clone(), model.clone()));
                        (0..0, 0..0)
                    }
                };
                for n in puts {
                    id += 1;
                    let slot = slot(&name(n), id);
                    let key = slot.key().to_vec();
                    let before = names.insert(slot).map(|s| s.id().0);
                    prop_assert_eq!(before, model.insert(key, id));
                }
                for n in removes {
                    let key = slot(&name(n), 0).key().to_vec();
                    prop_assert_eq!(names.remove(&key).map(|s| s.id().0), model.remove(&key));
                }
                check(&names.root, &[]);
            }
            let held = |names: &Names| names.from(&[]).map(|s| (s.key().to_vec(), s.id().0)).collect::<Vec<_>>();
            prop_assert_eq!(names.len(), model.len());
            prop_assert!(held(&names).into_iter().eq(model.clone()));
            for n in (0..5_600).step_by(97) {
                let key = slot(&name(n), 0).key().to_vec();
                prop_assert_eq!(names.get(&key).map(|s| s.id().0), model.get(&key).copied());
                let next = model.range(key.clone()..).next().map(|(_, id)| *id);
                prop_assert_eq!(names.from(&key).next().map(|s| s.id().0), next);
            }
            if let Some((names, model)) = kept {
                prop_assert!(held(&names).into_iter().eq(model), "a view changed");
            }
            let built = Names::from_sorted(names.from(&[]).cloned().map(Some)).unwrap();
            check(&built.root, &[]);
            prop_assert!(held(&built).into_iter().eq(model));
        }
    }
}
