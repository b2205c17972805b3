//! Who may do what: the rules of `byname_api::access`, one by one.

mod world;

use byname_api::access::{AclEntry, Decision, Rights, Subject};
use byname_api::caller::{Right, Standing};
use byname_api::error::Code;
use byname_api::object::{Audited, Kind, ObjectId, Spec};
use byname_api::request::{Op, Outcome};
use byname_name::Pattern;
use byname_registry::access::{self, Sight, Who};
use byname_registry::{Command, Event, Node, Reply, Tree, query, stored};
use world::{World, alias, name, record};

/// `liu:read,list` grants and `-staff:all` refuses; `!` in front asks for what is certified.
fn acl(text: &str) -> Spec {
    let entry = |word: &str| {
        let (certified, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
        let (allow, word) = word.strip_prefix('-').map_or((true, word), |rest| (false, rest));
        let (who, rights) = word.split_once(':').unwrap();
        let who = match who {
            "anyone" | "authenticated" => who.parse().unwrap(),
            uid if uid.starts_with("uid=") => Subject::User(uid[4..].parse().unwrap()),
            group if group.starts_with('/') => group.parse().unwrap(),
            person => format!("/people/{person}").parse().unwrap(),
        };
        AclEntry { allow, certified, ..AclEntry::allow(who, Rights::parse(rights.split(',')).unwrap()) }
    };
    Spec { acl: Some(text.split_whitespace().map(entry).collect()), ..Spec::default() }
}

fn group(members: &str) -> Spec {
    Spec { members: Some(members.split_whitespace().map(Into::into).collect()), ..Spec::of(Kind::Group) }
}

fn people(w: &mut World) {
    for person in ["liu", "schroeder", "root"] {
        w.add(&format!("/people/{person}"), Spec::of(Kind::Principal));
    }
    w.add("/groups/staff", group("/people/liu /people/schroeder"));
}

impl World {
    fn declare(&mut self, text: &str, spec: Spec) -> Outcome {
        self.batch(vec![Op::Declare { name: name(text), spec }]).unwrap()[0]
    }

    fn delete(&mut self, text: &str) {
        let op = Op::Delete { name: name(text), recursive: false, stop: false, if_version: None };
        self.batch(vec![op]).unwrap();
    }

    fn tree(&self) -> &Tree {
        self.registry.tree()
    }

    fn id(&self, text: &str) -> ObjectId {
        self.tree().get(&name(text)).unwrap().id
    }

    /// What a person's caller may do.
    fn may(&self, person: &str, right: Right, at: &str) -> bool {
        self.as_person(person, |who| access::allows(self.tree(), who, right, &name(at)))
    }

    fn why(&self, person: &str, right: Right, at: &str) -> Decision {
        self.as_person(person, |who| access::explain(self.tree(), who, right, &name(at)))
    }

    fn as_person<R>(&self, person: &str, ask: impl FnOnce(&Who<'_>) -> R) -> R {
        let own = name(&format!("/people/{person}"));
        match person {
            "anyone" => ask(&Who::anonymous(false)),
            "onlooker" => ask(&Who::anonymous(true)),
            "uid=7" => ask(&Who { standing: Standing::Authenticated, uid: Some(7), ..Who::anonymous(false) }),
            _ => ask(&Who::authenticated(&own, self.id(own.as_str()))),
        }
    }
}

#[test]
fn the_rules_one_by_one() {
    // The lists of / and /a and /a/b, who asks for what at /a/b/c, and the answer.
    let table = [
        ("", "", "", "liu read", true, "the default lets look"),
        ("", "", "", "liu modify", false, "and nothing more"),
        ("", "", "", "anyone read", false, "strangers see nothing"),
        ("", "", "", "onlooker read", true, "unless the server says so"),
        ("", "", "", "onlooker modify", false, "which is for looking only"),
        ("anyone:find", "", "", "anyone find", true, "what is granted to anyone"),
        ("-anyone:read", "", "", "liu read", false, "what is refused to anyone"),
        ("-anyone:read", "", "", "onlooker read", false, "also where strangers look"),
        ("liu:modify", "", "", "liu modify", true, "a grant from above"),
        ("liu:modify", "", "", "schroeder modify", false, "is not for others"),
        ("liu:modify", "-liu:modify", "", "liu modify", false, "the nearest wins"),
        ("-liu:read", "", "liu:read", "liu read", true, "the nearest wins, both ways"),
        ("liu:modify", "-schroeder:modify", "", "liu modify", true, "a list that says nothing is passed over"),
        ("liu:modify", "-liu:delete", "", "liu modify", true, "also one about another right"),
        ("", "", "-/groups/staff:read liu:read", "liu read", true, "a name goes before a group"),
        ("", "", "-/groups/staff:read liu:read", "schroeder read", false, "which holds for the rest of it"),
        ("", "", "-authenticated:read /groups/staff:read", "liu read", true, "a group before all"),
        ("", "", "-anyone:read authenticated:read", "liu read", true, "the authenticated before anyone"),
        ("", "", "liu:read -liu:read", "liu read", false, "among equals the refusal"),
        ("", "", "-liu:read liu:read", "liu read", false, "in either order"),
        ("", "liu:admin", "", "liu delete", true, "admin is every right"),
        ("liu:admin", "-authenticated:read", "", "liu read", true, "also where looking is refused to all"),
        ("liu:admin", "-authenticated:all", "", "liu read", false, "but not where admin is refused nearer"),
        ("", "uid=7:launch", "", "uid=7 launch", true, "a local user"),
        ("", "uid=8:launch", "", "uid=7 launch", false, "and not another"),
        ("", "authenticated:launch", "", "anyone launch", false, "who has not said who it is"),
    ];
    for (root, a, b, question, expected, why) in table {
        let mut w = World::new();
        people(&mut w);
        w.add("/a/b/c", record("x"));
        for (place, list) in [("/", root), ("/a", a), ("/a/b", b)] {
            if !list.is_empty() {
                w.declare(place, acl(list));
            }
        }
        let (person, right) = question.split_once(' ').unwrap();
        let right = right.parse().unwrap();
        let decision = w.why(person, right, "/a/b/c");
        assert_eq!(decision.allowed, expected, "{why}: {question} with `{root}` `{a}` `{b}`: {decision:?}");
        assert_eq!(w.may(person, right, "/a/b/c"), expected, "{why}");
        assert_eq!(w.may(person, right, "/a/b/c/not/there"), expected, "what would be there inherits: {why}");
    }
}

#[test]
fn a_decision_says_what_decides() {
    let mut w = World::new();
    people(&mut w);
    w.add("/groups/all", group("/groups/staff"));
    w.add("/a/b", record("x"));
    w.declare("/a", acl("/groups/all:modify"));
    let decision = w.why("liu", Right::Modify, "/a/b");
    assert_eq!((decision.at, decision.through), (Some(name("/a")), vec![name("/groups/all"), name("/groups/staff")]));
    assert_eq!(decision.entry.unwrap().id, Some(w.id("/groups/all")));
    assert_eq!(decision.because, "the list of `/a` grants /groups/all `modify`");
    let decision = w.why("root", Right::Modify, "/a/b");
    assert_eq!((decision.at, decision.entry), (None, None));
    let lists = access::lists(w.tree(), &name("/a/b"));
    assert_eq!(lists.iter().map(|l| (l.name.as_str(), l.acl.len())).collect::<Vec<_>>(), [("/a/b", 0), ("/a", 1)]);
}

#[test]
fn an_owner_is_refused_only_by_name_and_nearer() {
    let mut w = World::new();
    people(&mut w);
    w.add("/a/b/c", record("x"));
    w.declare("/a", Spec { owner: Some("/people/liu".into()), ..Spec::default() });
    assert!(w.may("liu", Right::Admin, "/a/b/c") && w.may("liu", Right::Delete, "/a"));
    assert!(!w.may("liu", Right::Delete, "/") && !w.may("schroeder", Right::Delete, "/a/b/c"));
    w.declare("/a/b", acl("-/groups/staff:all -authenticated:all"));
    assert!(w.may("liu", Right::Read, "/a/b/c"), "a group is not its name");
    w.declare("/a", acl("-liu:all"));
    assert!(w.may("liu", Right::Read, "/a/b/c"), "its own list is not nearer");
    w.declare("/a/b", acl("-liu:read"));
    assert!(!w.may("liu", Right::Read, "/a/b/c") && w.may("liu", Right::Modify, "/a/b/c"));
    w.declare("/a/b/c", Spec { owner: Some("/people/liu".into()), ..Spec::default() });
    assert!(w.may("liu", Right::Read, "/a/b/c"), "what it owns nearer than the list");
    assert_eq!(w.why("liu", Right::Read, "/a/b/c").because, "owns `/a/b/c`");
    w.declare("/", acl("-authenticated:read"));
    w.declare("/a/b/c", acl("schroeder:find"));
    assert!(w.may("liu", Right::Read, "/a/b/c"), "a list that says nothing is between");
}

#[test]
fn groups_nest_and_circles_do_no_harm() {
    let mut w = World::new();
    people(&mut w);
    w.add("/groups/g0", group("/groups/staff /groups/g40"));
    for n in 1..=40 {
        w.add(&format!("/groups/g{n}"), group(&format!("/groups/g{}", n - 1)));
    }
    w.declare("/groups/g0", group("/groups/staff /groups/g40 /groups/g0"));
    w.as_person("liu", |liu| {
        assert!(access::is_member(w.tree(), liu, &name("/groups/g30")));
        assert!(!access::is_member(w.tree(), liu, &name("/groups/g31")), "32 deep and no deeper");
        assert_eq!(access::groups(w.tree(), liu).len(), 32);
        assert!(access::matches(w.tree(), liu, &"/groups/g3".parse().unwrap()));
        assert!(access::matches(w.tree(), liu, &"/people/liu".parse().unwrap()));
        assert!(!access::matches(w.tree(), liu, &"/people/root".parse().unwrap()));
    });
    w.as_person("root", |root| assert!(access::groups(w.tree(), root).is_empty()));
}

#[test]
fn a_name_used_again_inherits_nothing() {
    let mut w = World::new();
    people(&mut w);
    w.add("/a", acl("liu:modify /groups/staff:launch"));
    w.add("/o", Spec { owner: Some("/people/liu".into()), ..Spec::default() });
    let all = |w: &World| {
        [("/a", Right::Modify), ("/a", Right::Launch), ("/o", Right::Delete)].map(|(at, right)| w.may("liu", right, at))
    };
    assert_eq!(all(&w), [true; 3]);
    w.delete("/people/liu");
    w.add("/people/liu", Spec::of(Kind::Principal));
    assert_eq!(all(&w), [false; 3]);
    // Saying the same again changes nothing, and so grants nothing.
    let (lists, staff) = (acl("liu:modify /groups/staff:launch"), group("/people/liu /people/schroeder"));
    assert_eq!(w.declare("/a", lists.clone()), Outcome::Unchanged);
    assert_eq!(w.declare("/groups/staff", staff.clone()), Outcome::Unchanged);
    assert_eq!(w.declare("/o", Spec { owner: Some("/people/liu".into()), ..Spec::default() }), Outcome::Unchanged);
    assert_eq!(w.declare("/a", acl("liu:modify /groups/staff:launch root:read")), Outcome::Changed);
    assert_eq!(all(&w), [false; 3], "the entries that were there keep their ids");
    // Taken out and put in again it is the new one.
    w.declare("/a", acl("root:read"));
    w.declare("/groups/staff", group("/people/schroeder"));
    w.declare("/o", Spec { owner: Some("/people/root".into()), ..Spec::default() });
    w.declare("/a", lists);
    w.declare("/groups/staff", staff);
    w.declare("/o", Spec { owner: Some("/people/liu".into()), ..Spec::default() });
    assert_eq!(all(&w), [true; 3]);
    // A group's name used again neither.
    w.delete("/groups/staff");
    w.add("/groups/staff", group("/people/liu"));
    assert_eq!(all(&w), [true, false, true]);
    let mut bytes = Vec::new();
    stored::write_snapshot(&w.registry, &mut bytes).unwrap();
    w.registry = stored::read_snapshot(&mut bytes.as_slice()).unwrap();
    assert_eq!(all(&w), [true, false, true], "after a restart");
}

#[test]
fn a_creator_owns_what_it_made_while_it_is_the_same() {
    let mut w = World::new();
    w.add("/people/liu", Spec::of(Kind::Principal));
    let entry = |w: &World, op: Op| byname_registry::Entry {
        at: byname_api::span::Timestamp(w.now),
        by: "/people/liu".into(),
        request: None,
        command: Command::Batch { ops: vec![op], set: None },
    };
    let add = entry(&w, Op::Add { name: name("/home/note"), spec: record("x") });
    assert!(matches!(w.registry.apply(&add, &mut Vec::new()), Reply::Batch(_)));
    assert!(w.may("liu", Right::Modify, "/home/note") && w.may("liu", Right::Add, "/home"));
    w.delete("/people/liu");
    w.add("/people/liu", Spec::of(Kind::Principal));
    assert!(!w.may("liu", Right::Modify, "/home/note"));
}

#[test]
fn names_are_bound_at_the_end_of_a_batch() {
    let mut w = World::new();
    let add = |text: &str, spec: Spec| Op::Add { name: name(text), spec };
    let owned = Spec { owner: Some("/people/liu".into()), ..acl("liu:modify") };
    w.batch(vec![add("/a", owned), add("/people/liu", Spec::of(Kind::Principal))]).unwrap();
    let node = w.tree().get(&name("/a")).unwrap();
    let liu = w.id("/people/liu");
    assert_eq!((node.spec.acl.as_ref().unwrap()[0].id, node.owner_id), (Some(liu), Some(liu)));
    let told = w.events.iter().find_map(|event| match event {
        Event::Object { node, .. } if node.name == name("/a") => Some(node.spec.acl.as_ref().unwrap()[0].id),
        _ => None,
    });
    assert_eq!(told, Some(Some(liu)), "the event shows it as it is");
    // Whoever does not exist is named.
    for (spec, field) in [
        (acl("nobody:read"), "ops[1].acl"),
        (Spec { owner: Some("/people/nobody".into()), ..Spec::default() }, "ops[1].owner"),
    ] {
        let ops = vec![add("/x", Spec::default()), add("/y", spec)];
        let Reply::Refused(error) = w.run(Command::Batch { ops, set: None }) else { panic!() };
        assert_eq!((error.code(), error.at_field()), (Code::NotFound, Some(field)));
    }
    assert!(w.tree().get(&name("/x")).is_none(), "all or nothing");
    for word in ["byname", "token", "uid:7"] {
        w.add(&format!("/w/{word}"), Spec { owner: Some(word.into()), ..Spec::default() });
    }
    w.as_person("uid=7", |who| assert!(access::allows(w.tree(), who, Right::Delete, &name("/w/uid:7"))));
    // A member may come later, and what only the server says is not taken from others.
    let ids = [("/people/new".to_owned(), liu)].into();
    w.add("/g", Spec { member_ids: Some(ids), ..group("/people/new /people/liu") });
    let bound = |w: &World| w.tree().get(&name("/g")).unwrap().spec.member_ids.clone().unwrap_or_default();
    assert_eq!(bound(&w), [("/people/liu".to_owned(), liu)].into());
    w.add("/People/New", Spec::of(Kind::Principal));
    assert_eq!(bound(&w).get("/people/new"), Some(&w.id("/people/new")));
    let mut forged = acl("liu:modify");
    forged.acl.as_mut().unwrap()[0].id = Some(ObjectId(0));
    assert_eq!(w.declare("/a", forged), Outcome::Unchanged);
}

#[test]
fn administrators_cannot_be_locked_out() {
    let mut w = World::new();
    people(&mut w);
    w.add("/byname/admins", group("/people/root /groups/staff"));
    w.declare("/", acl("-anyone:all -root:all -liu:all"));
    w.declare("/byname", acl("-anyone:all -root:all -liu:all"));
    for right in Right::ALL {
        for at in ["/", "/byname/admins", "/people/liu"] {
            assert!(w.may("root", right, at) && w.may("liu", right, at));
        }
    }
    assert!(!w.may("anyone", Right::Find, "/"));
    assert_eq!(w.why("liu", Right::Read, "/").through, [name("/byname/admins"), name("/groups/staff")]);
    w.as_person("root", |root| assert!(!access::hidden(w.tree(), root, &name("/byname/admins"))));
}

#[test]
fn an_alias_has_a_list_of_its_own() {
    let mut w = World::new();
    people(&mut w);
    w.add("/a/target", record("x"));
    w.declare("/a", acl("liu:modify"));
    w.add("/b/alias", Spec { acl: acl("schroeder:delete").acl, ..alias("/a/target") });
    assert!(w.may("schroeder", Right::Delete, "/b/alias") && !w.may("schroeder", Right::Delete, "/a/target"));
    assert!(w.may("liu", Right::Modify, "/a/target") && !w.may("liu", Right::Modify, "/b/alias"));
}

#[test]
fn what_must_be_certified_counts_only_then() {
    let mut w = World::new();
    people(&mut w);
    w.add("/groups/all", group("/groups/staff"));
    w.add("/a", acl("!/groups/all:modify !root:modify"));
    let may = |person: &str, certified: &[&str]| {
        let own = name(&format!("/people/{person}"));
        let verified = |node: &Node| certified.contains(&node.name.as_str());
        let who = Who { certified: &verified, ..Who::authenticated(&own, w.id(own.as_str())) };
        access::allows(w.tree(), &who, Right::Modify, &name("/a"))
    };
    assert!(!may("liu", &[]) && !may("root", &[]) && may("root", &["/people/root"]));
    assert!(may("liu", &["/groups/all", "/groups/staff"]));
    assert!(!may("liu", &["/groups/all"]), "a group on the way forges no membership");
}

#[test]
fn the_nearest_object_says_what_is_audited() {
    let mut w = World::new();
    w.add("/a/b/c", record("x"));
    let audited = |w: &World, at: &str| access::audited_reads(w.tree(), &name(at));
    assert!(!audited(&w, "/a/b/c"));
    w.declare("/a", Spec { audit: Some(Audited::Reads), ..Spec::default() });
    w.declare("/a/b/c", Spec { audit: Some(Audited::Changes), ..Spec::default() });
    assert!(audited(&w, "/a") && audited(&w, "/a/b") && audited(&w, "/a/b/d") && !audited(&w, "/a/b/c/d"));
    assert!(!audited(&w, "/") && !audited(&w, "/ab"));
    w.delete("/a/b/c");
    assert!(audited(&w, "/a/b/c"));
}

#[test]
fn what_is_hidden_leaves_no_trace() {
    let mut w = World::new();
    people(&mut w);
    for n in 0..5 {
        w.add(&format!("/d/n{n}"), record("x"));
        w.add(&format!("/d/s{n}"), record("x"));
        w.declare(&format!("/d/s{n}"), acl("-authenticated:find,list,read"));
    }
    w.add("/d/s0/open", acl("liu:read,list,find"));
    let (pattern, rights) = (Pattern::parse("/d/**").unwrap(), [Right::List]);
    w.as_person("liu", |liu| {
        let sight = Sight::new(w.tree(), liu, &rights);
        let mut seen = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = query::list(w.tree(), &pattern, Some(2), next.as_deref(), None, Some(&sight)).unwrap();
            seen.extend(page.entries.iter().map(|e| e.name.to_string()));
            next = page.next;
            assert!(next.as_deref().is_none_or(|n| !n.starts_with("/d/s") || n == "/d/s0/open"), "{next:?}");
            if next.is_none() {
                break;
            }
        }
        assert_eq!(seen.join(" "), "/d /d/n0 /d/n1 /d/n2 /d/n3 /d/n4 /d/s0/open");
        let full = query::list(w.tree(), &pattern, Some(7), None, None, Some(&sight)).unwrap();
        assert_eq!((full.entries.len(), full.next), (7, None), "no page follows for what is hidden");
        let filter = byname_api::filter::Filter::parse("(value=x)").unwrap();
        let found = query::search(w.tree(), &filter, &name("/d"), Some(5), None, "x", Some(&sight)).unwrap();
        assert_eq!(found.objects.len(), 5);
        let hidden = |at: &str| access::hidden(w.tree(), liu, &name(at));
        assert!(hidden("/d/s1") && hidden("/d/s1/beneath") && !hidden("/d/s0/open") && !hidden("/d/n0"));
        assert!(!hidden("/d/none") && !hidden("/"));
        // A name that is hidden and one that is not there give the same words.
        let there = w.tree().not_found_for(&name("/d/s1"), liu).to_string();
        assert_eq!(there.replace("/d/s1", "/d/zz"), w.tree().not_found_for(&name("/d/zz"), liu).to_string());
        assert!(!w.tree().not_found_for(&name("/d/s1/x/y"), liu).to_string().contains("`/d/s1`"), "{there}");
        let wrong = query::search(w.tree(), &filter, &name("/d/s1"), None, None, "x", Some(&sight)).unwrap_err();
        assert_eq!(wrong.to_string(), there);
    });
    w.add("/d/link", alias("/d/s2"));
    w.add("/d/dead", alias("/d/s9"));
    w.as_person("liu", |liu| {
        let error = |at: &str| w.tree().not_found_for(&name(at), liu).to_string();
        assert_eq!(error("/d/link").replace("/d/s2", "/d/s9").replace("link", "dead"), error("/d/dead"));
    });
    // Strangers who see nothing at all are refused rather than told that nothing is there.
    w.as_person("anyone", |anyone| assert!(!access::hidden(w.tree(), anyone, &name("/d/s1"))));
}

#[test]
fn a_page_goes_on_behind_many_hidden_names() {
    let mut w = World::new();
    people(&mut w);
    let count = query::MAX_VISITS + 500;
    let ops = |from: usize, to: usize| -> Vec<Op> {
        (from..to).map(|n| Op::Add { name: name(&format!("/d/h/{n:05}")), spec: record("x") }).collect()
    };
    w.batch(ops(0, 9_000)).unwrap();
    w.batch(ops(9_000, count)).unwrap();
    w.declare("/d/h", acl("-anyone:find,list,read"));
    w.add("/d/z", record("x"));
    let pattern = Pattern::parse("/d/**").unwrap();
    for person in ["liu", "onlooker"] {
        w.as_person(person, |who| {
            let sight = Sight::new(w.tree(), who, &[Right::List, Right::Read]);
            let filter = byname_api::filter::Filter::parse("(name=/d/*)").unwrap();
            let (mut seen, mut found) = (Vec::new(), Vec::new());
            let (mut next, mut after): (Option<String>, Option<String>) = (None, None);
            for _ in 0..5 {
                let page = query::list(w.tree(), &pattern, None, next.as_deref(), None, Some(&sight)).unwrap();
                seen.extend(page.entries.into_iter().map(|e| e.name.to_string()));
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
            for _ in 0..5 {
                let page = query::search(w.tree(), &filter, &name("/d"), None, after.as_deref(), "x", Some(&sight));
                let page = page.unwrap();
                found.extend(page.objects.into_iter().map(|o| o.name.to_string()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!((seen.join(" "), found.join(" ")), ("/d /d/z".into(), "/d/z".into()), "{person}");
        });
    }
}

#[test]
fn what_was_deleted_is_seen_as_it_was() {
    let mut w = World::new();
    people(&mut w);
    w.add("/d/secret", acl("-authenticated:list"));
    let node = w.tree().get(&name("/d/secret")).unwrap();
    w.delete("/d/secret");
    let rights = [Right::List];
    w.as_person("liu", |liu| assert!(!Sight::new(w.tree(), liu, &rights).sees(&node)));
    w.add("/x", acl("root:read"));
    w.as_person("liu", |liu| assert!(!Sight::new(w.tree(), liu, &rights).sees(&node)));
}
