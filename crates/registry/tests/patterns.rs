//! The tree against a plain map, and patterns against every name.

mod world;

use std::collections::BTreeMap;

use byname_api::object::{Kind, Spec};
use byname_api::request::Op;
use byname_name::{Name, Pattern};
use byname_registry::{Registry, query, stored};
use proptest::prelude::*;
use world::{World, name, record};

fn label() -> impl Strategy<Value = String> {
    let labels = vec!["a", "B", "ab", "abc", "b!", "c", "é", "Σ", "x y", "...", "0"];
    prop::sample::select(labels).prop_map(str::to_owned)
}

fn place() -> impl Strategy<Value = Name> {
    prop::collection::vec(label(), 1..5)
        .prop_filter_map("the outermost root", |labels| Name::parse(&format!("/{}", labels.join("/"))).ok())
        .prop_filter("the root", |name| !name.is_root())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let globs = vec!["*", "**", "a*", "?", "[a-b]*", "{a,c}", "*b", "ab*", "*c*", "Σ*", "*", "[!a]"];
    let segment = prop_oneof![2 => prop::sample::select(globs).prop_map(str::to_owned), 1 => label()];
    prop_oneof![
        9 => prop::collection::vec(segment, 1..5)
            .prop_filter_map("no pattern", |labels| Pattern::parse(&format!("/{}", labels.join("/"))).ok()),
        1 => Just(Pattern::every()),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (place(), "[a-z]{0,3}").prop_map(|(name, value)| Op::Put { name, spec: record(&value), if_version: None }),
        1 => (place(), any::<bool>())
            .prop_map(|(name, recursive)| Op::Delete { name, recursive, stop: false, if_version: None }),
    ]
}

/// What the operations should leave, in the order of keys.
fn play(model: &mut BTreeMap<Vec<u8>, (String, Option<String>)>, op: &Op) {
    let key = |name: &Name| name.key().as_bytes().to_vec();
    match op {
        Op::Put { name, spec, .. } => {
            let there = model.get(&key(name)).cloned();
            if there.as_ref().is_some_and(|(_, value)| value.is_none()) {
                return; // a directory becomes no record
            }
            for parent in name.ancestors().collect::<Vec<_>>().into_iter().rev() {
                model.entry(key(&parent)).or_insert_with(|| (parent.to_string(), None));
            }
            let kept = there.map_or_else(|| name.to_string(), |(kept, _)| kept);
            model.insert(key(name), (kept, spec.value.clone()));
        }
        Op::Delete { name, recursive, .. } => {
            let from = key(name);
            let beneath: Vec<_> = model.keys().filter(|k| k.starts_with(&from)).cloned().collect();
            if beneath.len() == 1 || *recursive {
                beneath.iter().for_each(|k| drop(model.remove(k)));
            }
        }
        _ => {}
    }
}

fn listed(registry: &Registry, pattern: &Pattern, limit: Option<u32>) -> Vec<String> {
    let (mut names, mut next) = (Vec::new(), None);
    loop {
        let page = query::list(registry.tree(), pattern, limit, next.as_deref(), None, None).unwrap();
        names.extend(page.entries.into_iter().map(|e| e.name.to_string()));
        next = page.next;
        if next.is_none() {
            return names;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_tree_is_what_a_plain_map_says(
        ops in prop::collection::vec(op(), 1..80),
        patterns in prop::collection::vec(pattern(), 1..8),
        limit in 1..6u32,
    ) {
        let mut w = World::new();
        let mut model = BTreeMap::from([(Vec::new(), ("/".to_owned(), None))]);
        for op in &ops {
            let before = model.clone();
            play(&mut model, op);
            if w.batch(vec![op.clone()]).is_err() {
                prop_assert_eq!(&before, &model, "{:?} was refused", op);
            }
        }
        let held: Vec<_> = w.registry.tree().iter().map(|n| (n.name.to_string(), n.spec.value.clone())).collect();
        prop_assert_eq!(&held, &model.values().cloned().collect::<Vec<_>>());
        let mut bytes = Vec::new();
        stored::write_snapshot(&w.registry, &mut bytes).unwrap();
        let restored = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
        prop_assert!(restored.tree().iter().eq(w.registry.tree().iter()));
        for node in w.registry.tree().iter() {
            prop_assert_eq!(&restored.tree().by_id(node.id).unwrap(), &node);
            let beneath = model.keys().filter(|k| k.starts_with(node.name.key().as_bytes())).count();
            prop_assert_eq!(restored.tree().has_children(&node.name), beneath > 1);
        }
        for pattern in &patterns {
            let matches = |n: &&String| pattern.matches(&name(n)) && (*n != "/" || pattern.as_exact().is_some());
            let expected: Vec<String> = model.values().map(|(n, _)| n).filter(matches).cloned().collect();
            prop_assert_eq!(&listed(&w.registry, pattern, None), &expected, "{}", pattern);
            prop_assert_eq!(&listed(&w.registry, pattern, Some(limit)), &expected, "{}", pattern);
        }
    }
}

#[test]
fn a_page_looks_at_a_bounded_number_of_names() {
    let mut w = World::new();
    let count = query::MAX_VISITS + 10;
    let all: Vec<Op> = (0..count).map(|n| Op::Add { name: name(&format!("/d/{n:06}")), spec: record("x") }).collect();
    for ops in all.chunks(byname_registry::MAX_OPS) {
        w.batch(ops.to_vec()).unwrap();
    }
    let last = format!("/d/{:06}", count - 1);
    for text in [format!("/d/*{}", count - 1), format!("/**/{:06}", count - 1)] {
        let pattern = Pattern::parse(&text).unwrap();
        let page = query::list(w.registry.tree(), &pattern, None, None, None, None).unwrap();
        assert!(page.entries.is_empty() && page.next.is_some(), "{text} ends early");
        assert_eq!(listed(&w.registry, &pattern, None), [last.as_str()], "{text}");
    }
    let none =
        query::list(w.registry.tree(), &Pattern::parse("/d/*").unwrap(), None, None, Some("films"), None).unwrap();
    assert!(none.entries.is_empty() && none.next.is_some(), "a set that is nowhere");
    // What a literal label tells is never looked for.
    let pattern = Pattern::parse(&format!("/*/{:06}", count - 1)).unwrap();
    let page = query::list(w.registry.tree(), &pattern, None, None, None, None).unwrap();
    assert_eq!((page.entries.len(), page.next), (1, None));
    let delete = Op::Delete { name: name("/d"), recursive: false, stop: false, if_version: None };
    assert!(w.batch(vec![delete]).is_err());
    let directory = Spec::of(Kind::Directory);
    assert_eq!(w.registry.tree().get(&name("/d")).map(|n| n.kind()), directory.kind);
}

#[test]
fn a_chain_of_aliases_costs_32_hops_at_most() {
    let mut w = World::new();
    let links = 1_000;
    w.add("/l/0", record("end"));
    let ops =
        (1..links).map(|n| Op::Add { name: name(&format!("/l/{n}")), spec: world::alias(&format!("/l/{}", n - 1)) });
    // The chain may not be longer than can be followed.
    let mut longest = 0;
    for op in ops {
        match w.batch(vec![op]) {
            Ok(_) => longest += 1,
            Err(_) => break,
        }
    }
    assert_eq!(longest, 32);
    assert!(w.registry.tree().resolve(&name("/l/32")).is_ok());
}
