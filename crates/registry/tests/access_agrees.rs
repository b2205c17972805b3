//! What allows says, explain explains and a sight shows, for every object of random trees and everybody.

mod world;

use byname_api::access::{AclEntry, Rights, Subject};
use byname_api::caller::{Right, Standing};
use byname_api::object::{Kind, ObjectId, Spec};
use byname_api::request::Op;
use byname_name::{Name, Pattern};
use byname_registry::access::{self, Sight, Who};
use byname_registry::{Tree, query, stored};
use proptest::prelude::*;
use world::{World, name};

const PEOPLE: [&str; 3] = ["/p/a", "/p/b", "/p/c"];
const GROUPS: [&str; 3] = ["/g/x", "/g/y", "/byname/admins"];

fn place() -> impl Strategy<Value = Name> {
    let label = || prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(label(), 0..4).prop_map(|labels| Name::parse(&format!("/{}", labels.join("/"))).unwrap())
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        1 => Just(Subject::Anyone),
        1 => Just(Subject::Authenticated),
        1 => Just(Subject::User(7)),
        3 => prop::sample::select(PEOPLE.to_vec()).prop_map(|p| Subject::Named(name(p))),
        3 => prop::sample::select(GROUPS.to_vec()).prop_map(|p| Subject::Named(name(p))),
    ]
}

fn entry() -> impl Strategy<Value = AclEntry> {
    let right = || prop::sample::select(vec![Right::Find, Right::List, Right::Read, Right::Modify, Right::Admin]);
    (subject(), prop::collection::vec(right(), 1..3), any::<bool>(), any::<bool>()).prop_map(
        |(who, rights, allow, certified)| {
            let rights = rights.into_iter().fold(Rights::default(), |all, right| all.and(right.into()));
            AclEntry { allow, certified: certified && matches!(who, Subject::Named(_)), ..AclEntry::allow(who, rights) }
        },
    )
}

type Declared = (Name, Option<Vec<AclEntry>>, Option<&'static str>);

fn declared() -> impl Strategy<Value = Vec<Declared>> {
    let owner = prop::sample::select(vec!["/p/a", "/p/b", "uid:7", "token"]);
    let acl = prop::option::weighted(0.6, prop::collection::vec(entry(), 0..4));
    prop::collection::vec((place(), acl, prop::option::weighted(0.3, owner)), 1..14)
}

fn members() -> impl Strategy<Value = Vec<Vec<String>>> {
    let member = prop::sample::select([PEOPLE, GROUPS].concat()).prop_map(str::to_owned);
    prop::collection::vec(prop::collection::vec(member, 0..3), 3)
}

/// The rules as the documents say them, without any of the machinery.
fn by_the_book(tree: &Tree, who: &Who<'_>, right: Right, at: &Name) -> bool {
    fn in_group(tree: &Tree, who: &Who<'_>, group: ObjectId, certified: bool, depth: usize) -> bool {
        let Some(node) = tree.by_id(group) else { return false };
        (!certified || (who.certified)(&node))
            && node
                .spec
                .member_ids
                .iter()
                .flatten()
                .any(|(_, id)| who.id == Some(*id) || (depth > 0 && in_group(tree, who, *id, certified, depth - 1)))
    }
    fn rank(tree: &Tree, who: &Who<'_>, entry: &AclEntry) -> Option<u8> {
        match &entry.who {
            Subject::Anyone => Some(0),
            _ if who.standing == Standing::Anonymous => None,
            Subject::Authenticated => Some(1),
            Subject::User(uid) => (who.uid == Some(*uid)).then_some(3),
            Subject::Named(_) if who.id.is_some() && entry.id == who.id => {
                let node = tree.by_id(who.id?)?;
                (!entry.certified || (who.certified)(&node)).then_some(3)
            }
            Subject::Named(_) => in_group(tree, who, entry.id?, entry.certified, 4).then_some(2),
        }
    }
    let way: Vec<_> = std::iter::once(at.clone()).chain(at.ancestors()).collect();
    let said = |place: &Name, right: Right| {
        let node = tree.get(place)?;
        let about = node.spec.acl.iter().flatten().filter(|e| e.rights.has(right));
        let ranks: Vec<_> = about.filter_map(|e| Some((rank(tree, who, e)?, e.allow))).collect();
        let best = ranks.iter().map(|(rank, _)| *rank).max()?;
        Some((best, !ranks.contains(&(best, false))))
    };
    let decides = |right: Right| way.iter().find_map(|place| said(place, right)).map(|(_, allow)| allow);
    let owner = way.iter().position(|place| {
        let Some(node) = tree.get(place) else { return false };
        let owner = node.spec.owner.as_deref().unwrap_or_default();
        who.standing != Standing::Anonymous
            && (who.uid.is_some_and(|uid| owner == format!("uid:{uid}"))
                || who.id.is_some_and(|id| node.owner_id == Some(id)))
    });
    let refused_by_name = |nearer: usize| way.iter().take(nearer).any(|place| said(place, right) == Some((3, false)));
    let looks = matches!(right, Right::Find | Right::List | Right::Read);
    let by_default = looks && (who.standing == Standing::Authenticated || who.anyone_looks);
    let admin = tree.get(&name("/byname/admins")).is_some_and(|g| {
        who.standing != Standing::Anonymous && who.id.is_some() && in_group(tree, who, g.id, false, 4)
    });
    decides(right).unwrap_or(by_default)
        || owner.is_some_and(|nearer| !refused_by_name(nearer))
        || decides(Right::Admin) == Some(true)
        || admin
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn everything_says_the_same(declared in declared(), members in members(), again in any::<bool>()) {
        let mut w = World::new();
        let mut ops = Vec::new();
        for (text, members) in GROUPS.iter().zip(members) {
            ops.push(Op::Add { name: name(text), spec: Spec { members: Some(members), ..Spec::of(Kind::Group) } });
        }
        for text in PEOPLE {
            ops.push(Op::Add { name: name(text), spec: Spec::of(Kind::Principal) });
        }
        for (name, acl, owner) in &declared {
            let owner = owner.map(str::to_owned);
            ops.push(Op::Declare { name: name.clone(), spec: Spec { acl: acl.clone(), owner, ..Spec::default() } });
        }
        w.batch(ops).unwrap();
        if again {
            w.batch(vec![
                Op::Delete { name: name("/p/a"), recursive: false, stop: false, if_version: None },
                Op::Add { name: name("/p/a"), spec: Spec::of(Kind::Principal) },
            ]).unwrap();
        }
        let mut bytes = Vec::new();
        stored::write_snapshot(&w.registry, &mut bytes).unwrap();
        let restored = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
        let (tree, again) = (w.registry.tree(), restored.tree());
        let names: Vec<(Name, ObjectId)> = PEOPLE.iter().map(|p| (name(p), tree.get(&name(p)).unwrap().id)).collect();
        let certified = |node: &byname_registry::Node| node.id.0.is_multiple_of(2);
        let mut callers = vec![Who::anonymous(false), Who::anonymous(true), Who::full()];
        callers.push(Who { standing: Standing::Authenticated, uid: Some(7), ..Who::anonymous(false) });
        callers.extend(names.iter().map(|(name, id)| Who { certified: &certified, ..Who::authenticated(name, *id) }));
        for who in &callers {
            for rights in [vec![Right::List], vec![Right::Read], vec![Right::Find, Right::Modify]] {
                let sight = Sight::new(tree, who, &rights);
                for node in tree.iter() {
                    let allowed = rights.iter().any(|right| access::allows(tree, who, *right, &node.name));
                    prop_assert_eq!(sight.sees(&node), allowed, "{}", node.name);
                }
            }
            for node in tree.iter() {
                for right in [Right::Find, Right::List, Right::Read, Right::Modify, Right::Admin, Right::Launch] {
                    let allowed = access::allows(tree, who, right, &node.name);
                    let decision = access::explain(tree, who, right, &node.name);
                    prop_assert_eq!(decision.allowed, allowed);
                    prop_assert_eq!(access::allows(again, who, right, &node.name), allowed);
                    if who.standing != Standing::Full {
                        let expected = by_the_book(tree, who, right, &node.name);
                        prop_assert_eq!(allowed, expected, "{} {} {:?}", node.name, right, decision);
                    }
                }
                let hidden = access::hidden(tree, who, &node.name);
                let may = |right| access::allows(tree, who, right, &node.name);
                prop_assert!(!hidden || ![Right::List, Right::Find, Right::Read].into_iter().any(may));
            }
            // Pages of a list, joined, are what is seen.
            let rights = [Right::List];
            let sight = Sight::new(tree, who, &rights);
            let (mut listed, mut next) = (Vec::new(), None::<String>);
            loop {
                let every = Pattern::parse("/**").unwrap();
                let page = query::list(tree, &every, Some(2), next.as_deref(), None, Some(&sight)).unwrap();
                listed.extend(page.entries.into_iter().map(|e| e.name));
                next = page.next;
                if next.is_none() {
                    break;
                }
                let token = name(next.as_deref().unwrap());
                prop_assert!(access::allows(tree, who, Right::List, &token));
            }
            let seen: Vec<Name> = tree.iter().filter(|n| sight.sees(n)).map(|n| n.name.clone()).collect();
            let seen: Vec<Name> = seen.into_iter().filter(|n| !n.is_root() || listed.contains(n)).collect();
            prop_assert_eq!(listed, seen);
        }
    }
}
