//! A set of automaton states, walked in ascending order while it grows.

/// The most states an automaton has.
pub(super) const MAX_STATES: usize = 2_048;

const BITS: usize = u64::BITS as usize;

/// A set of numbers below [`MAX_STATES`], on the stack.
#[derive(Clone)]
pub(super) struct States {
    words: [u64; MAX_STATES / BITS],
}

impl States {
    pub(super) fn empty() -> Self {
        Self { words: [0; MAX_STATES / BITS] }
    }

    pub(super) fn only(state: usize) -> Self {
        let mut states = Self::empty();
        states.insert(state);
        states
    }

    /// Numbers from [`MAX_STATES`] on are not kept; automata are never that large.
    pub(super) fn insert(&mut self, state: usize) {
        if let Some(word) = self.words.get_mut(state / BITS) {
            *word |= 1 << (state % BITS);
        }
    }

    /// The lowest member that is at least `from`.
    pub(super) fn next_from(&self, from: usize) -> Option<usize> {
        let mut index = from / BITS;
        let mut word = self.words.get(index)? & (u64::MAX << (from % BITS));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index * BITS + word.trailing_zeros() as usize)
    }
}
