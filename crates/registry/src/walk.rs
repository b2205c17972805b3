//! Names that a pattern selects, found by skipping what cannot match: label by label, whole subtrees at once.

use std::ops::{Bound, RangeBounds};

use byname_name::{NameKey, Pattern};

use crate::names::{Names, Walk};
use crate::stored::packed::Slot;

/// In front of a label, so that a pattern for it alone is one for a name of two.
const FRONT: &str = "x";

/// The objects whose names a pattern selects, in order.
pub(crate) struct Matches<'a> {
    walk: Walk<'a>,
    pattern: &'a Pattern,
    /// What the labels must be, up to the first `**`; without one, those of all labels.
    labels: Vec<Label>,
    /// Whether names may be longer than `labels`.
    open: bool,
    /// How many labels of the last object matched, and its key.
    matched: usize,
    last: Vec<u8>,
    /// Objects looked at, and when to stop.
    visits: usize,
    most: usize,
}

/// What a label must be.
struct Label {
    pattern: Pattern,
    low: Vec<u8>,
    high: Bound<Vec<u8>>,
}

/// What to do with an object.
enum Verdict {
    Take,
    Pass,
    /// Nothing before this key matches.
    Skip(Vec<u8>),
}

impl Label {
    fn new(text: &str) -> Option<Label> {
        let pattern = Pattern::parse(&format!("/{FRONT}/{text}")).ok()?;
        let strip = |key: &NameKey| key.as_bytes().get(FRONT.len() + 1..).unwrap_or_default().to_vec();
        let (low, high) = pattern.key_range();
        let low = match low {
            Bound::Included(key) | Bound::Excluded(key) => strip(&key),
            Bound::Unbounded => Vec::new(),
        };
        let high = match high {
            Bound::Included(key) => Bound::Included(strip(&key)),
            Bound::Excluded(key) if key.as_bytes().starts_with(format!("{FRONT}\0").as_bytes()) => {
                Bound::Excluded(strip(&key))
            }
            Bound::Excluded(_) | Bound::Unbounded => Bound::Unbounded,
        };
        Some(Label { pattern, low, high })
    }

    /// Whether a label, with its end, is what it must be.
    fn fits(&self, label: &[u8]) -> bool {
        let mut key = format!("{FRONT}\0").into_bytes();
        key.extend_from_slice(label);
        NameKey::from_bytes(&key).is_some_and(|key| self.pattern.matches_key(&key))
    }
}

impl<'a> Matches<'a> {
    /// Begins at `from` (a key, or the beginning of one), and looks at `most` objects before it stops early.
    pub(crate) fn new(names: &'a Names, pattern: &'a Pattern, from: &[u8], most: usize) -> Matches<'a> {
        let text = pattern.as_str();
        let mut labels = Vec::new();
        let mut open = !text.starts_with('/');
        for label in text.strip_prefix('/').into_iter().flat_map(|t| t.split('/')).filter(|l| !l.is_empty()) {
            match if label == "**" { None } else { Label::new(label) } {
                Some(label) => labels.push(label),
                None => {
                    open = true;
                    break;
                }
            }
        }
        let last = Vec::new();
        Matches { walk: names.from(from), pattern, labels, open, matched: 0, last, visits: 0, most }
    }

    /// How many objects it has looked at.
    pub(crate) fn visits(&self) -> usize {
        self.visits
    }

    /// Goes on behind an object and what is beneath it.
    pub(crate) fn pass(&mut self, key: &[u8]) {
        self.walk.seek(&behind(key));
    }

    fn judge(&mut self, key: &[u8]) -> Verdict {
        // Labels that are those of the object before need not be matched again.
        let common = self.last.iter().zip(key).take_while(|(a, b)| a == b).count();
        let shared = key.get(..common).unwrap_or_default().iter().filter(|b| **b == 0).count();
        let (mut at, mut depth) = (0, 0);
        let known = shared.min(self.matched);
        self.matched = 0;
        for label in key.split_inclusive(|b| *b == 0) {
            let end = at + label.len();
            let Some(wanted) = self.labels.get(depth) else {
                if self.open {
                    break;
                }
                remember(&mut self.last, &mut self.matched, key, depth);
                return Verdict::Skip(behind(key.get(..at).unwrap_or_default()));
            };
            if depth >= known && !wanted.fits(label) {
                let before = key.get(..at).unwrap_or_default();
                remember(&mut self.last, &mut self.matched, key, depth);
                if label < wanted.low.as_slice() && !wanted.low.starts_with(label) {
                    return Verdict::Skip([before, &wanted.low].concat());
                }
                return Verdict::Skip(match &wanted.high {
                    Bound::Excluded(high) if label >= high.as_slice() => behind(before),
                    Bound::Included(high) if label > high.as_slice() => behind(before),
                    _ => behind(key.get(..end).unwrap_or_default()),
                });
            }
            at = end;
            depth += 1;
        }
        remember(&mut self.last, &mut self.matched, key, depth);
        if depth < self.labels.len() {
            // It is above what may match: go to the first of its children that may.
            let low = self.labels.get(depth).map(|l| l.low.as_slice()).unwrap_or_default();
            return if low.is_empty() { Verdict::Pass } else { Verdict::Skip([key, low].concat()) };
        }
        let matches = !self.open || NameKey::from_bytes(key).is_some_and(|k| self.pattern.matches_key(&k));
        if matches { Verdict::Take } else { Verdict::Pass }
    }
}

fn remember(last: &mut Vec<u8>, matched: &mut usize, key: &[u8], depth: usize) {
    *matched = depth;
    last.clear();
    last.extend_from_slice(key);
}

/// The first key that is not at `key` or beneath it; keys end with the lowest of all bytes.
pub(crate) fn behind(key: &[u8]) -> Vec<u8> {
    match key.split_last() {
        Some((_, labels)) => [labels, &[1]].concat(),
        // Greater than all, for no byte of UTF-8 is so great.
        None => vec![0xff],
    }
}

/// What [`Matches`] gives.
pub(crate) enum Found<'a> {
    /// It matches.
    Match(&'a Slot),
    /// So many objects were looked at that the walk stops here, after this one.
    Stopped(&'a Slot),
}

impl<'a> Iterator for Matches<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        loop {
            let slot = self.walk.next()?;
            self.visits += 1;
            match self.judge(slot.key()) {
                Verdict::Take => return Some(Found::Match(slot)),
                Verdict::Pass => {}
                Verdict::Skip(to) => self.walk.seek(&to),
            }
            if self.visits >= self.most {
                return Some(Found::Stopped(slot));
            }
        }
    }
}

/// Where a walk through what a pattern selects begins.
pub(crate) fn first(pattern: &Pattern) -> Vec<u8> {
    match pattern.key_range().0 {
        Bound::Included(key) | Bound::Excluded(key) => key.as_bytes().to_vec(),
        Bound::Unbounded => Vec::new(),
    }
}

/// Whether a key is within the range that a pattern looks at.
pub(crate) fn within(pattern: &Pattern, key: &NameKey) -> bool {
    pattern.key_range().contains(key)
}
