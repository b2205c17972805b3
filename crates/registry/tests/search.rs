//! Searches: what fits, in pages, with and without an index.

mod world;

use byname_api::error::Code;
use byname_api::filter::Filter;
use byname_api::object::{Attributes, Kind, Spec, Value};
use byname_api::request::Op;
use byname_name::Name;
use byname_registry::{Tree, query};
use proptest::prelude::*;
use world::{World, name, record, service};

fn found(tree: &Tree, filter: &str, under: &str, limit: Option<u32>) -> Vec<String> {
    let filter = Filter::parse(filter).unwrap();
    let (mut names, mut next) = (Vec::new(), None);
    loop {
        let page = query::search(tree, &filter, &name(under), limit, next.as_deref(), "x", None).unwrap();
        names.extend(page.objects.into_iter().map(|o| o.name.to_string()));
        next = page.next;
        if next.is_none() {
            return names;
        }
    }
}

fn attributes(list: &[(&str, &[Value])]) -> Option<Attributes> {
    Some(list.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn filters_mean_what_the_interface_says() {
    let mut w = World::new();
    let media = attributes(&[("Team", &[text("Media"), text("core")]), ("tier", &[Value::Int(12)])]);
    w.add("/a/QS", Spec { attributes: media, ..service("program = 'p'") });
    let other = attributes(&[("team", &[text("web")]), ("tier", &[text("3")]), ("kind", &[text("odd")])]);
    w.add("/a/web", Spec { attributes: other, ..record("Hello") });
    w.add("/a/alias", world::alias("/a/QS"));
    let group = Spec { members: Some(vec!["/a/QS".into(), "/x".into()]), ..Spec::of(Kind::Group) };
    w.add("/g", group);
    for (filter, expected) in [
        ("(team=MEDIA)", &["/a/QS"][..]),
        ("(TEAM=core)", &["/a/QS"]),
        ("(tier>=4)", &["/a/QS"]),
        ("(tier<=3.0)", &["/a/web"]),
        ("(team=m*d*a)", &["/a/QS"]),
        ("(team=*)", &["/a/QS", "/a/web"]),
        ("(&(team=*)(!(team=web)))", &["/a/QS"]),
        ("(kind=service)", &["/a/QS"]),
        ("(objectClass=alias)", &["/a/alias"]),
        ("(attributes.kind=odd)", &["/a/web"]),
        ("(state=stopped)", &["/a/QS"]),
        ("(cn=qs)", &["/a/QS"]),
        ("(name=/A/*)", &["/a/alias", "/a/QS", "/a/web"]),
        ("(target=/a/qs)", &["/a/alias"]),
        ("(member=/x)", &["/g"]),
        ("(value=hello)", &["/a/web"]),
        ("(|)", &[]),
        ("(&)", &["/", "/a", "/a/alias", "/a/QS", "/a/web", "/g"]),
        ("(nothing=x)", &[]),
        ("(&(!(nothing>=x))(owner=LIU)(kind=record))", &["/a/web"]),
    ] {
        assert_eq!(found(w.registry.tree(), filter, "/", None), expected, "{filter}");
    }
    assert_eq!(found(w.registry.tree(), "(&)", "/a/qs", None), ["/a/QS"]);
    assert_eq!(found(w.registry.tree(), "(&)", "/a/alias", None), ["/a/QS"], "the place is followed");
    let filter = Filter::parse("(&)").unwrap();
    let search = |under, limit, next| query::search(w.registry.tree(), &filter, &name(under), limit, next, "x", None);
    assert_eq!(search("/nowhere", None, None).unwrap_err().code(), Code::NotFound);
    assert_eq!(search("/", Some(0), None).unwrap_err().at_field(), Some("limit"));
    assert_eq!(search("/a", None, Some("/g")).unwrap_err().at_field(), Some("next"));
}

#[test]
fn an_index_follows_its_declaration() {
    let mut w = World::new();
    let media = |tier| Spec { attributes: attributes(&[("tier", &[Value::Int(tier)])]), ..record("x") };
    w.add("/d/a", media(1));
    let declare = |index: &[&str]| {
        let index = Some(index.iter().map(|i| (*i).to_owned()).collect());
        vec![Op::Put { name: name("/d"), spec: Spec { index, ..Spec::of(Kind::Directory) }, if_version: None }]
    };
    for index in [&["tier"][..], &["TIER", "tier", "other"], &["other"], &[]] {
        w.batch(declare(index)).unwrap();
        w.add("/d/b", media(2));
        assert_eq!(found(w.registry.tree(), "(tier>=2)", "/d", None), ["/d/b"], "{index:?}");
        let delete = Op::Delete { name: name("/d/b"), recursive: false, stop: false, if_version: None };
        w.batch(vec![delete]).unwrap();
        assert_eq!(found(w.registry.tree(), "(tier>=1)", "/d", None), ["/d/a"], "{index:?}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3..20i64).prop_map(Value::Int),
        prop::sample::select(vec![0.5, -0.0, 1e300, 2.0]).prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        prop::sample::select(vec!["", "a", "A", "ab", "b", "10", "9", "1e1", "é", "\u{10ffff}z", "Σ"]).prop_map(text),
        Just(text(&"long".repeat(30))),
    ]
}

fn term() -> impl Strategy<Value = Filter> {
    let attribute = || prop::sample::select(vec!["x", "y", "z", "attributes.x", "cn"]).prop_map(str::to_owned);
    let value = || value().prop_map(|v| v.to_string());
    prop_oneof![
        (attribute(), value()).prop_map(|(a, v)| Filter::Equal(a, v)),
        (attribute(), value()).prop_map(|(a, v)| Filter::AtLeast(a, v)),
        (attribute(), value()).prop_map(|(a, v)| Filter::AtMost(a, v)),
        attribute().prop_map(Filter::Present),
        (attribute(), value(), value()).prop_map(|(attribute, initial, last)| Filter::Substring {
            attribute,
            initial,
            any: Vec::new(),
            last
        }),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    term().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::And),
            1 => prop::collection::vec(inner.clone(), 1..3).prop_map(Filter::Or),
            1 => inner.prop_map(|f| Filter::Not(Box::new(f))),
        ]
    })
}

fn place() -> impl Strategy<Value = Name> {
    let label = || prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(label(), 1..4).prop_map(|l| name(&format!("/d/{}", l.join("/"))))
}

fn op() -> impl Strategy<Value = Op> {
    let values = prop::collection::vec(value(), 0..3);
    let attribute = prop::sample::select(vec!["x", "X", "y", "z"]).prop_map(str::to_owned);
    let spec = prop::collection::btree_map(attribute, values, 0..3)
        .prop_map(|a| Spec { attributes: Some(a), ..Spec::of(Kind::Directory) });
    prop_oneof![
        4 => (place(), spec).prop_map(|(name, spec)| Op::Put { name, spec, if_version: None }),
        1 => place().prop_map(|name| Op::Delete { name, recursive: true, stop: true, if_version: None }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_index_changes_no_answer(
        ops in prop::collection::vec(op(), 1..40),
        at in 0..40usize,
        filters in prop::collection::vec(filter(), 1..6),
        limit in 1..5u32,
    ) {
        let (mut plain, mut indexed) = (World::new(), World::new());
        let directory = |index: Option<Vec<String>>| {
            vec![Op::Declare { name: name("/d"), spec: Spec { index, ..Spec::of(Kind::Directory) } }]
        };
        plain.batch(directory(None)).unwrap();
        indexed.batch(directory(None)).unwrap();
        for (step, op) in ops.iter().enumerate() {
            if step == at {
                indexed.batch(directory(Some(vec!["x".into(), "Y".into()]))).unwrap();
            }
            prop_assert_eq!(plain.batch(vec![op.clone()]), indexed.batch(vec![op.clone()]));
        }
        for filter in filters {
            let filter = filter.to_string();
            for under in ["/d", "/d/a", "/"] {
                if plain.registry.tree().get(&name(under)).is_none() {
                    continue;
                }
                let expected = found(plain.registry.tree(), &filter, under, None);
                prop_assert_eq!(&found(indexed.registry.tree(), &filter, under, None), &expected, "{}", filter);
                prop_assert_eq!(&found(indexed.registry.tree(), &filter, under, Some(limit)), &expected);
            }
        }
    }
}
