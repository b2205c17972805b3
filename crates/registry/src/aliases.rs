//! Which aliases a new or changed alias would leave without an end.

use std::collections::{BTreeSet, VecDeque};

use byname_api::error::{Code, Error, Result};
use byname_name::{Name, NameKey};

use crate::tree::{MAX_ALIASES, Tree};

/// So many aliases that a change may lead elsewhere are followed, and so many regions are looked at.
const MOST: usize = 1_000;
/// So many entries of the index of targets are looked at.
const MOST_LOOKS: usize = 10_000;

/// Refuses an alias that does not end, or with which another alias does not end that ended so far.
///
/// At most 1,000 aliases that lead through the new one are followed, those next to it first, and at most 1,000 regions
/// of names and 10,000 entries of the index are looked at on the way to them. What leads through it beyond that is
/// refused when somebody follows it, by the bound of 32.
pub(crate) fn check(tree: &Tree, name: &Name, target: &Name) -> Result<()> {
    let within = Some((name, target));
    tree.follow(name, true, within).map_err(|error| match error.code() {
        Code::AliasLoop if returns(tree, name, target) => {
            alias_loop(format!("`{name}` as an alias of `{target}` would lead back to itself"))
        }
        Code::AliasLoop => alias_loop(format!(
            "`{name}` as an alias of `{target}` would lead through more than {MAX_ALIASES} aliases: \
             make it one of what stands at their end"
        )),
        _ => error.field("target"),
    })?;
    for other in leading_through(tree, name) {
        let Err(error) = tree.follow(&other, true, within) else { continue };
        if tree.follow(&other, true, None).is_err() {
            continue;
        }
        let with = format!("with `{name}` as an alias of `{target}`");
        return Err(match error.code() {
            Code::AliasLoop => alias_loop(format!(
                "{with}, `{other}` would lead back to itself or through more than {MAX_ALIASES} aliases"
            )),
            code => Error::new(code, format!("{with}, `{other}` would not end: {}", error.message())).field("target"),
        });
    }
    Ok(())
}

fn alias_loop(what: String) -> Error {
    Error::new(Code::AliasLoop, what).field("target")
}

/// Whether the way from an alias comes by it again.
fn returns(tree: &Tree, name: &Name, target: &Name) -> bool {
    let mut at = target.clone();
    for _ in 0..=MAX_ALIASES {
        if at.is_under(name) {
            return true;
        }
        match tree.step(&at, true, Some((name, target))) {
            Ok(Some(next)) => at = next,
            _ => return false,
        }
    }
    false
}

/// The aliases from which a name, or one beneath it, is come by, those next to it first.
///
/// A region is a key, and stands for that name and all beneath it, which lead to the first region. An alias whose
/// target is in a region makes a region of itself; one whose target is above it, with a rest between, makes one of the
/// alias with that rest. Nothing is beneath an alias, so only the former are aliases that exist.
fn leading_through(tree: &Tree, name: &Name) -> Vec<Name> {
    let own = name.key();
    let (mut affected, mut looks) = (Vec::new(), 0);
    let mut regions = BTreeSet::from([own.as_bytes().to_vec()]);
    let mut waiting = VecDeque::from([(own.clone(), 0)]);
    while let Some((region, hops)) = waiting.pop_front() {
        let within =
            tree.aliases_from(&region).take_while(|(target, _)| target.is_under(&region)).map(|(_, slot)| (slot, ""));
        let above = std::iter::successors(region.parent(), NameKey::parent).flat_map(|above| {
            let rest = region.as_str().get(above.as_bytes().len()..).unwrap_or_default();
            let exactly = above.clone();
            tree.aliases_from(&above).take_while(move |(target, _)| **target == exactly).map(move |(_, s)| (s, rest))
        });
        for (alias, rest) in within.chain(above) {
            looks += 1;
            if affected.len() == MOST || looks > MOST_LOOKS {
                return affected;
            }
            let key = [alias.key(), rest.as_bytes()].concat();
            if covered(&regions, &key) {
                continue;
            }
            if rest.is_empty() {
                affected.push(alias.name());
            }
            if hops < MAX_ALIASES
                && regions.len() < MOST
                && let Some(next) = NameKey::from_bytes(&key)
            {
                regions.insert(key);
                waiting.push_back((next, hops + 1));
            }
        }
    }
    affected
}

/// Whether a key is that of a region or beneath one.
fn covered(regions: &BTreeSet<Vec<u8>>, key: &[u8]) -> bool {
    regions.contains(&[][..])
        || key
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == 0)
            .any(|(at, _)| regions.contains(key.get(..=at).unwrap_or_default()))
}
