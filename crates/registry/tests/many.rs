//! Trees with very many aliases, and directories with very many children: what each question and change may cost. The
//! bounds in time are wide, for builds without optimisation on busy machines; counting all takes seconds.

mod world;

use std::time::{Duration, Instant};

use byname_api::error::Code;
use byname_api::object::Kind;
use byname_api::request::Op;
use byname_name::Pattern;
use byname_registry::{MAX_OPS, query};
use world::{World, alias, name, record};

const WIDE: Duration = Duration::from_millis(800);

fn within<R>(what: &str, call: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    println!("{what}: {took:.1?}");
    assert!(took < WIDE, "{what} took {took:?}");
    result
}

fn fill(w: &mut World, ops: impl Iterator<Item = Op>) {
    let ops: Vec<Op> = ops.collect();
    for part in ops.chunks(MAX_OPS) {
        w.batch(part.to_vec()).unwrap();
    }
}

fn add(from: &str, to: &str) -> Op {
    Op::Add { name: name(from), spec: alias(to) }
}

fn delete(text: &str) -> Op {
    Op::Delete { name: name(text), recursive: false, stop: false, if_version: None }
}

#[test]
fn a_million_aliases_cost_no_more_than_a_thousand() {
    let mut w = World::new();
    w.service("/s");
    w.add("/c/0", record("end"));
    fill(&mut w, (0..1_000_000).map(|n| add(&format!("/m/{}/{n}", n / 1_000), "/s")));
    fill(&mut w, (1..=32).map(|n| add(&format!("/c/{n}"), &format!("/c/{}", n - 1))));
    within("one more", || w.batch(vec![add("/more", "/s")])).unwrap();
    let end = within("following one", || w.registry.tree().resolve(&name("/m/999/999999"))).unwrap();
    assert_eq!(end.node.kind(), Kind::Service);
    within("following a chain", || w.registry.tree().resolve(&name("/c/32"))).unwrap();
    assert_eq!(within("a chain too long", || w.batch(vec![add("/c/33", "/c/32")])), Err(Code::AliasLoop));
    within("deleting the target", || w.batch(vec![delete("/s")])).unwrap();
    within("the target as an alias", || w.batch(vec![add("/s", "/c/0")])).unwrap();
    within("of something else", || w.batch(vec![Op::Put { name: name("/s"), spec: alias("/c/7"), if_version: None }]))
        .unwrap();
    let far = Op::Put { name: name("/s"), spec: alias("/c/31"), if_version: None };
    assert_eq!(within("too far for those", || w.batch(vec![far])), Err(Code::AliasLoop));
    let back = Op::Put { name: name("/s"), spec: alias("/m/0/0"), if_version: None };
    assert_eq!(within("back to one of them", || w.batch(vec![back])), Err(Code::AliasLoop));
}

#[test]
fn a_directory_with_100_000_children_is_like_any_other() {
    let mut w = World::new();
    fill(&mut w, (0..100_000).map(|n| Op::Add { name: name(&format!("/d/{n:06}")), spec: record("x") }));
    within("one more", || w.add("/d/more", record("x")));
    let pattern = Pattern::parse("/d/*").unwrap();
    let page = within("a page", || query::list(w.registry.tree(), &pattern, Some(1_000), None, None, None)).unwrap();
    assert_eq!((page.entries.len(), page.next.as_deref()), (1_000, Some("/d/000999")));
    assert!(within("has children", || w.registry.tree().has_children(&name("/d"))));
    assert_eq!(within("not deleted", || w.batch(vec![delete("/d")])), Err(Code::Conflict));
}
