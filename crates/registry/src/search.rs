//! Searches: which objects fit a filter (`byname_api::filter` says what filters mean).
//!
//! An attribute's value and the text beside it compare as numbers when both look like numbers, and as folded text
//! otherwise.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::sync::Arc;

use byname_api::error::{Code, Error, Result};
use byname_api::filter::Filter;
use byname_api::object::{Kind, Version};
use byname_api::request::SearchReply;
use byname_name::{Name, NameKey, folded};

use crate::access::{Sight, hidden};
use crate::index::{Number, declared};
use crate::query::{DEFAULT_LIMIT, MAX_LIMIT, PAGE_BYTES, fresh, just_after, object};
use crate::stored::packed::Slot;
use crate::tree::{Node, Tree};

/// A page looks at so many objects at most, and then ends early.
pub const MAX_VISITS: usize = 10_000;

/// One page of the objects at `under` and beneath it that fit, sorted by name. Aliases on the way to `under` are
/// followed; those that are found are shown themselves. `sight` is what the caller may see, when it may not see
/// everything: what it does not see leaves no trace.
///
/// # Errors
///
/// `not-found` when `under` does not lead to an object, `invalid-argument` for a bad limit or `next`.
pub fn search(
    tree: &Tree,
    filter: &Filter,
    under: &Name,
    limit: Option<u32>,
    next: Option<&str>,
    dns_suffix: &str,
    sight: Option<&Sight<'_>>,
) -> Result<SearchReply> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(Error::invalid("limit", format!("a page has 1 to {MAX_LIMIT} entries")));
    }
    let root = match (tree.resolve(under), sight) {
        (Ok(at), Some(sight)) if hidden(tree, sight.who(), &at.node.name) => {
            return Err(tree.not_found_for(under, sight.who()));
        }
        (Ok(at), _) => at.node.name.key(),
        (Err(error), Some(sight)) if error.code() == Code::NotFound => {
            return Err(tree.not_found_for(under, sight.who()));
        }
        (Err(error), _) => return Err(error),
    };
    let after = next.map(|next| after(next, &root)).transpose()?;
    let filter = Prepared::of(filter.clone());
    let mut page = Page { limit: limit as usize, objects: Vec::new(), bytes: 0, visits: 0, last: None };
    let mut visit = |slot: &Slot| page.visit(tree, slot, &filter, dns_suffix, sight);
    let more = match tree.indexes().candidates(&filter.filter, &root, MAX_VISITS) {
        Some(places) => places
            .iter()
            .filter(|place| after.as_ref().is_none_or(|a| *place > a))
            .filter_map(|place| tree.names().get(place.as_bytes()))
            .any(|slot| !visit(slot)),
        None => {
            let from = after.as_ref().map_or_else(|| root.as_bytes().to_vec(), just_after);
            let beneath = tree.names().from(&from).take_while(|slot| slot.key().starts_with(root.as_bytes()));
            beneath.into_iter().any(|slot| !visit(slot))
        }
    };
    let next = page.last.filter(|_| more).map(|slot| slot.name().to_string());
    Ok(SearchReply { objects: page.objects, next, fresh: fresh(tree) })
}

fn after(next: &str, root: &NameKey) -> Result<NameKey> {
    let key = Name::parse(next).map(|name| name.key()).ok().filter(|key| key.is_under(root));
    key.ok_or_else(|| Error::invalid("next", "this is not the `next` of an earlier page of the same search"))
}

struct Page {
    limit: usize,
    objects: Vec<byname_api::object::Object>,
    bytes: usize,
    visits: usize,
    last: Option<Slot>,
}

impl Page {
    /// Takes an object if it fits the filter; false when it has no room on this page.
    fn visit(
        &mut self,
        tree: &Tree,
        slot: &Slot,
        filter: &Prepared,
        dns_suffix: &str,
        sight: Option<&Sight<'_>>,
    ) -> bool {
        // A page neither ends at what the caller may not see nor because of it.
        if sight.is_some_and(|sight| !sight.sees_slot(slot)) {
            self.visits = MAX_VISITS.min(self.visits + 1);
            return true;
        }
        if self.objects.len() == self.limit
            || self.bytes > PAGE_BYTES
            || (self.visits >= MAX_VISITS && self.last.is_some())
        {
            return false;
        }
        self.visits += 1;
        self.last = Some(slot.clone());
        let object_at = Candidate { tree, slot, node: OnceCell::new() };
        if filter.fits(&object_at) {
            let node = object_at.node();
            self.bytes += weight(node);
            self.objects.push(object(tree, node, dns_suffix));
        }
        true
    }
}

/// An object that is unpacked only when that is needed.
struct Candidate<'a> {
    tree: &'a Tree,
    slot: &'a Slot,
    node: OnceCell<Arc<Node>>,
}

impl Candidate<'_> {
    fn node(&self) -> &Node {
        self.node.get_or_init(|| self.tree.node(self.slot))
    }
}

/// About how many bytes an object takes in a message.
fn weight(node: &Node) -> usize {
    let attributes = node.spec.attributes.iter().flatten().flat_map(|(_, values)| values);
    let members = node.spec.members.iter().flatten();
    512 + node.spec.value.as_ref().map_or(0, String::len)
        + attributes.map(|v| if let byname_api::object::Value::Text(t) = v { t.len() + 8 } else { 16 }).sum::<usize>()
        + members.map(|m| m.len() + 8).sum::<usize>()
        + node.service.as_ref().map_or(0, |s| 256 * s.instances.len() + s.ends.back().map_or(0, |e| e.last_lines.len()))
}

/// A filter whose texts are folded once.
struct Prepared {
    filter: Filter,
}

impl Prepared {
    fn of(filter: Filter) -> Self {
        Prepared { filter: fold(filter) }
    }

    /// Whether an object fits.
    fn fits(&self, node: &Candidate<'_>) -> bool {
        fits(&self.filter, node)
    }
}

fn fold(filter: Filter) -> Filter {
    match filter {
        Filter::And(all) => Filter::And(all.into_iter().map(fold).collect()),
        Filter::Or(any) => Filter::Or(any.into_iter().map(fold).collect()),
        Filter::Not(filter) => Filter::Not(Box::new(fold(*filter))),
        Filter::Equal(attribute, value) => Filter::Equal(attribute, folded(&value)),
        Filter::AtLeast(attribute, value) => Filter::AtLeast(attribute, folded(&value)),
        Filter::AtMost(attribute, value) => Filter::AtMost(attribute, folded(&value)),
        Filter::Present(attribute) => Filter::Present(attribute),
        Filter::Substring { attribute, initial, any, last } => Filter::Substring {
            attribute,
            initial: folded(&initial),
            any: any.iter().map(|a| folded(a)).collect(),
            last: folded(&last),
        },
    }
}

fn fits(filter: &Filter, node: &Candidate<'_>) -> bool {
    match filter {
        Filter::And(all) => all.iter().all(|f| fits(f, node)),
        Filter::Or(any) => any.iter().any(|f| fits(f, node)),
        Filter::Not(filter) => !fits(filter, node),
        Filter::Equal(attribute, wanted) => has(node, attribute, |v| compare(v, wanted) == Ordering::Equal),
        Filter::AtLeast(attribute, wanted) => has(node, attribute, |v| compare(v, wanted) != Ordering::Less),
        Filter::AtMost(attribute, wanted) => has(node, attribute, |v| compare(v, wanted) != Ordering::Greater),
        Filter::Present(attribute) => has(node, attribute, |_| true),
        Filter::Substring { attribute, initial, any, last } => {
            has(node, attribute, |v| holds(&folded(v), initial, any, last))
        }
    }
}

/// How a value stands to a text that is folded.
fn compare(value: &str, wanted: &str) -> Ordering {
    match (Number::parse(value), Number::parse(wanted)) {
        (Some(value), Some(wanted)) => value.compare(wanted),
        _ => folded(value).as_str().cmp(wanted),
    }
}

fn holds(value: &str, initial: &str, any: &[String], last: &str) -> bool {
    let Some(mut rest) = value.strip_prefix(initial) else { return false };
    for part in any {
        match rest.split_once(part.as_str()) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether one of the values of an attribute is as wanted. The attribute's name is in lower case.
fn has(object: &Candidate<'_>, attribute: &str, is: impl Fn(&str) -> bool) -> bool {
    let slot = object.slot;
    if let Some(name) = declared(attribute) {
        if !slot.has_attributes() {
            return false;
        }
        let all = object.node().spec.attributes.iter().flatten();
        return all.filter(|(n, _)| n.eq_ignore_ascii_case(name)).flat_map(|(_, v)| v).any(|v| is(&v.to_string()));
    }
    match attribute {
        "name" => is(slot.name().as_str()),
        "cn" => slot.name().leaf().is_some_and(is),
        "kind" | "objectclass" => is(slot.kind().as_str()),
        "version" => is(&Version(slot.version()).to_string()),
        "set" => slot.set().is_some_and(is),
        "state" => object.tree.state(slot).is_some_and(|s| is(s.as_str())),
        "owner" => object.node().spec.owner.as_deref().is_some_and(is),
        "target" => slot.target().is_some_and(|t| is(t.as_str())),
        "member" if slot.kind() == Kind::Group => object.node().spec.members.iter().flatten().any(|m| is(m)),
        "address" if slot.kind() == Kind::Computer => object.node().spec.addresses.iter().flatten().any(|a| is(a)),
        "value" if slot.kind() == Kind::Record => object.node().spec.value.as_deref().is_some_and(is),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_as_numbers_only_when_both_are() {
        for (value, wanted, expected) in [
            ("16", "4", Ordering::Greater),
            ("16", "4x", Ordering::Less),
            ("1.0", "1", Ordering::Equal),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("-0", "0.0", Ordering::Equal),
            ("ABC", "abc", Ordering::Equal),
            ("Σ", "σ", Ordering::Equal),
            ("inf", "1", Ordering::Greater),
            ("", "a", Ordering::Less),
        ] {
            assert_eq!(compare(value, wanted), expected, "{value} {wanted}");
        }
    }

    #[test]
    fn parts_are_found_in_order_and_never_twice() {
        let any = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(holds("university of michigan", "univ", &any(&["of"]), "gan"));
        assert!(!holds("aba", "ab", &[], "ba"), "the end does not overlap the beginning");
        assert!(!holds("abc", "", &any(&["c", "b"]), ""));
    }
}
