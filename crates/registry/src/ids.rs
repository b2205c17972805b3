//! Objects by id: a persistent trie, compact because ids are given one after the other.

use std::sync::Arc;

use byname_api::object::ObjectId;

use crate::stored::packed::Slot;

/// Children of a node, as a power of two.
const BITS: u32 = 4;
const WIDTH: usize = 1 << BITS;

/// Cloning copies a pointer; a change copies the way to what it changes, where others hold it too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    root: Option<Arc<Branch>>,
    /// Levels above the leaves.
    height: u32,
}

#[derive(Clone, Debug)]
enum Branch {
    Leaf([Option<Slot>; WIDTH]),
    Inner([Option<Arc<Branch>>; WIDTH]),
}

impl Branch {
    fn new(height: u32) -> Branch {
        match height {
            0 => Branch::Leaf([const { None }; WIDTH]),
            _ => Branch::Inner([const { None }; WIDTH]),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Branch::Leaf(slots) => slots.iter().all(Option::is_none),
            Branch::Inner(children) => children.iter().all(Option::is_none),
        }
    }
}

/// Which child of a node at this height leads to an id.
fn child_of(id: u64, height: u32) -> usize {
    (id.checked_shr(height * BITS).unwrap_or(0) as usize) % WIDTH
}

impl Ids {
    pub(crate) fn get(&self, id: ObjectId) -> Option<&Slot> {
        if !self.holds(id.0) {
            return None;
        }
        let mut branch = self.root.as_deref()?;
        for height in (0..=self.height).rev() {
            let at = child_of(id.0, height);
            branch = match branch {
                Branch::Leaf(slots) => return slots.get(at)?.as_ref(),
                Branch::Inner(children) => children.get(at)?.as_deref()?,
            };
        }
        None
    }

    pub(crate) fn insert(&mut self, slot: Slot) {
        let id = slot.id().0;
        while !self.holds(id) {
            let below = self.root.take();
            self.height += 1;
            if let Some(below) = below {
                let mut children = [const { None }; WIDTH];
                if let Some(first) = children.first_mut() {
                    *first = Some(below);
                }
                self.root = Some(Arc::new(Branch::Inner(children)));
            }
        }
        let mut place = &mut self.root;
        let mut height = self.height;
        loop {
            let branch = Arc::make_mut(place.get_or_insert_with(|| Arc::new(Branch::new(height))));
            let at = child_of(id, height);
            match branch {
                Branch::Leaf(slots) => {
                    if let Some(place) = slots.get_mut(at) {
                        *place = Some(slot);
                    }
                    return;
                }
                Branch::Inner(children) => {
                    let Some(child) = children.get_mut(at) else { return };
                    place = child;
                    height = height.saturating_sub(1);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, id: ObjectId) {
        if self.get(id).is_some() {
            remove(&mut self.root, id.0, self.height);
        }
    }

    fn holds(&self, id: u64) -> bool {
        id.checked_shr((self.height + 1) * BITS).unwrap_or(0) == 0
    }
}

fn remove(place: &mut Option<Arc<Branch>>, id: u64, height: u32) {
    let Some(branch) = place else { return };
    let branch = Arc::make_mut(branch);
    let at = child_of(id, height);
    match branch {
        Branch::Leaf(slots) => {
            if let Some(slot) = slots.get_mut(at) {
                *slot = None;
            }
        }
        Branch::Inner(children) => {
            if let Some(child) = children.get_mut(at) {
                remove(child, id, height.saturating_sub(1));
            }
        }
    }
    if branch.is_empty() {
        *place = None;
    }
}
