//! Attributes that directories have declared as indexed, so that searches need not look at every object.
//!
//! An index only narrows: it gives every object that may fit a comparison, and some that do not. So it may keep the
//! beginning of a long text only, and numbers as floating point.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use byname_api::filter::Filter;
use byname_name::{NameKey, folded};

use crate::tree::Node;

/// So many bytes of a text are kept.
const KEPT: usize = 48;

/// The indexes of a tree, by the directory that declares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indexes(OrdMap<NameKey, Index>);

#[derive(Clone, Debug)]
struct Index {
    /// In lower case.
    attributes: Vec<String>,
    entries: OrdSet<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// The place of the attribute in the directory's list.
    attribute: usize,
    value: Kept,
    place: NameKey,
}

/// Entries that stand together.
type Run = (Bound<Entry>, Bound<Entry>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// In an order of bits that is that of the numbers.
    Number(u64),
    /// Folded, the beginning of it.
    Text(Arc<str>),
}

/// A number that a text stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    /// Reads what looks like a number and is finite.
    pub(crate) fn parse(text: &str) -> Option<Number> {
        if !text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) {
            return None;
        }
        match text.parse() {
            Ok(int) => Some(Number::Int(int)),
            Err(_) => text.parse().ok().filter(|f: &f64| f.is_finite()).map(Number::Float),
        }
    }

    fn float(self) -> f64 {
        match self {
            Number::Int(int) => int as f64,
            Number::Float(float) => float,
        }
    }

    pub(crate) fn compare(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Int(one), Number::Int(other)) => one.cmp(&other),
            _ => self.float().partial_cmp(&other.float()).unwrap_or(Ordering::Equal),
        }
    }

    fn bits(self) -> u64 {
        // Adding zero makes -0 to 0.
        let bits = (self.float() + 0.0).to_bits();
        if bits >> 63 == 0 { bits | (1 << 63) } else { !bits }
    }
}

fn kept(text: &str) -> Arc<str> {
    let end = (0..=KEPT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Arc::from(text.get(..end).unwrap_or_default())
}

/// The name of a declared attribute in a filter; `None` for what every object has.
pub(crate) fn declared(attribute: &str) -> Option<&str> {
    match attribute.strip_prefix("attributes.") {
        Some(name) => Some(name),
        None if PSEUDO.contains(&attribute) => None,
        None => Some(attribute),
    }
}

/// What every object has (see `byname_api::filter`).
const PSEUDO: [&str; 12] =
    ["name", "cn", "kind", "objectclass", "owner", "state", "target", "member", "address", "value", "version", "set"];

impl Index {
    fn entries_of(&self, node: &Node) -> Vec<Entry> {
        let place = node.name.key();
        let mut entries = Vec::new();
        for (name, values) in node.spec.attributes.iter().flatten() {
            let Some(attribute) = self.attributes.iter().position(|a| name.eq_ignore_ascii_case(a)) else { continue };
            for value in values {
                let text = value.to_string();
                if let Some(number) = Number::parse(&text) {
                    let value = Kept::Number(number.bits());
                    entries.push(Entry { attribute, value, place: place.clone() });
                }
                let value = Kept::Text(kept(&folded(&text)));
                entries.push(Entry { attribute, value, place: place.clone() });
            }
        }
        entries
    }

    /// The ranges of entries that hold everything that may fit a comparison; `None` when the index does not help.
    fn ranges(&self, term: &Filter) -> Option<Vec<Run>> {
        let (name, _) = comparison(term)?;
        let attribute = self.attributes.iter().position(|a| a == name)?;
        let least = |value| Bound::Included(Entry { attribute, value, place: NameKey::root() });
        let before = |attribute, value| Bound::Excluded(Entry { attribute, value, place: NameKey::root() });
        let text = |text: &str| Kept::Text(kept(&folded(text)));
        let no_text = || Kept::Text(Arc::from(""));
        let end = || before(attribute + 1, Kept::Number(0));
        Some(match term {
            Filter::Equal(_, value) => match Number::parse(value) {
                Some(number) => {
                    let bits = number.bits();
                    vec![(least(Kept::Number(bits)), before(attribute, Kept::Number(bits + 1)))]
                }
                None => {
                    let value = text(value);
                    vec![(least(value.clone()), before(attribute, after(&value, true)))]
                }
            },
            Filter::AtLeast(_, value) => {
                let texts = (least(text(value)), end());
                match Number::parse(value) {
                    Some(number) => vec![(least(Kept::Number(number.bits())), before(attribute, no_text())), texts],
                    None => vec![texts],
                }
            }
            Filter::AtMost(_, value) => {
                let texts = (least(no_text()), before(attribute, after(&text(value), true)));
                match Number::parse(value) {
                    Some(number) => {
                        vec![(least(Kept::Number(0)), before(attribute, Kept::Number(number.bits() + 1))), texts]
                    }
                    None => vec![texts],
                }
            }
            Filter::Present(_) => vec![(least(no_text()), end())],
            Filter::Substring { initial, .. } if !initial.is_empty() => {
                let value = text(initial);
                vec![(least(value.clone()), before(attribute, after(&value, false)))]
            }
            _ => return None,
        })
    }
}

/// The least value after this text (`exact`), or after all that begin with it.
fn after(value: &Kept, exact: bool) -> Kept {
    match value {
        Kept::Number(bits) => Kept::Number(bits.saturating_add(1)),
        Kept::Text(text) if exact => Kept::Text(Arc::from(format!("{text}\0"))),
        // Greater than all that can follow within the bytes that are kept.
        Kept::Text(text) => Kept::Text(Arc::from(format!("{text}{}", "\u{10ffff}".repeat(KEPT / 4 + 1)))),
    }
}

fn comparison(term: &Filter) -> Option<(&str, &Filter)> {
    let attribute = match term {
        Filter::Equal(a, _) | Filter::AtLeast(a, _) | Filter::AtMost(a, _) | Filter::Present(a) => a,
        Filter::Substring { attribute, .. } => attribute,
        Filter::And(_) | Filter::Or(_) | Filter::Not(_) => return None,
    };
    Some((declared(attribute)?, term))
}

impl Indexes {
    /// Whether an object's change makes its whole index be made anew, which [`Indexes::rebuild`] does.
    pub(crate) fn declares_anew(before: Option<&Node>, after: Option<&Node>) -> bool {
        before.and_then(|n| n.spec.index.as_ref()) != after.and_then(|n| n.spec.index.as_ref())
    }

    /// Makes the index of a directory of what is in its subtree.
    pub(crate) fn rebuild(&mut self, directory: &NameKey, declared: &[String], subtree: impl Iterator<Item = Node>) {
        let mut attributes: Vec<String> = declared.iter().map(|a| a.to_ascii_lowercase()).collect();
        attributes.sort();
        attributes.dedup();
        let mut index = Index { attributes, entries: OrdSet::new() };
        let mut entries: Vec<Entry> = subtree.flat_map(|node| index.entries_of(&node)).collect();
        entries.sort_unstable();
        index.entries = entries.into_iter().collect();
        self.0.insert(directory.clone(), index);
    }

    /// Forgets the index of a directory.
    pub(crate) fn forget(&mut self, directory: &NameKey) {
        self.0.remove(directory);
    }

    /// Takes note that an object became another, is new or is gone.
    pub(crate) fn replace(&mut self, before: Option<&Node>, after: Option<&Node>) {
        let Some(node) = before.or(after).filter(|_| !self.0.is_empty()) else { return };
        if before.and_then(|n| n.spec.attributes.as_ref()) == after.and_then(|n| n.spec.attributes.as_ref()) {
            return;
        }
        let key = node.name.key();
        for directory in std::iter::successors(Some(key), NameKey::parent) {
            let Some(index) = self.0.get_mut(&directory) else { continue };
            for entry in before.map(|n| index.entries_of(n)).unwrap_or_default() {
                index.entries.remove(&entry);
            }
            for entry in after.map(|n| index.entries_of(n)).unwrap_or_default() {
                index.entries.insert(entry);
            }
        }
    }

    /// Where the objects beneath `under` are that may fit `filter`, in order, when an index tells without looking at
    /// more than `most` entries.
    pub(crate) fn candidates(&self, filter: &Filter, under: &NameKey, most: usize) -> Option<Vec<NameKey>> {
        if self.0.is_empty() {
            return None;
        }
        let mut terms = Vec::new();
        conjunction(filter, &mut terms);
        let mut best: Option<(usize, &Index, Vec<Run>)> = None;
        for directory in std::iter::successors(Some(under.clone()), NameKey::parent) {
            let Some(index) = self.0.get(&directory) else { continue };
            for ranges in terms.iter().filter_map(|term| index.ranges(term)) {
                let most = best.as_ref().map_or(most, |(count, ..)| *count);
                let count = ranges.iter().flat_map(|r| index.entries.range(r.clone())).take(most + 1).count();
                if count < most || (count == most && best.is_none()) {
                    best = Some((count, index, ranges));
                }
            }
        }
        let (_, index, ranges) = best?;
        let entries = ranges.into_iter().flat_map(|r| index.entries.range(r));
        let mut places: Vec<NameKey> = entries.map(|e| e.place.clone()).filter(|p| p.is_under(under)).collect();
        places.sort_unstable();
        places.dedup();
        Some(places)
    }
}

/// The comparisons that must all fit.
fn conjunction<'a>(filter: &'a Filter, terms: &mut Vec<&'a Filter>) {
    match filter {
        Filter::And(all) => all.iter().for_each(|f| conjunction(f, terms)),
        term => terms.push(term),
    }
}
