//! Objects: adding, reading, changing and removing them.

use byname_api::Code;
use byname_api::launch::{Copies, Launch};
use byname_api::object::{Kind, Spec, Value};
use byname_api::request::*;
use byname_api::span::{Span, Timestamp};

use super::*;

/// What was declared is what a read shows, with an id, a version and who made it.
pub async fn an_added_object_reads_back(f: &dyn Fixture) {
    let owner = f.owner();
    let launch = Launch {
        command: Some(vec!["/usr/bin/query server".into(), "--db".into(), "ü.db".into()]),
        copies: Some(Copies { min: 0, max: 2 }),
        idle_stop: Some(Span::from_secs(600)),
        hosts: Some(vec!["bugs-*".into()]),
        ..Launch::default()
    };
    let mut spec = Spec { ttl: Some(Span::from_secs(5)), public: Some(vec!["port".into()]), ..service(launch) };
    spec.attributes
        .get_or_insert_default()
        .insert("tags".into(), vec![Value::Text("video".into()), Value::Int(-7), Value::Bool(true), Value::Float(0.5)]);
    let version = owner.add("/BVODS/QS", spec.clone()).await.unwrap();
    let object = owner.read("/BVODS/QS").await.unwrap();
    assert_eq!((object.name, object.version), (at("/BVODS/QS"), version));
    assert_eq!(object.spec.launch, spec.launch);
    assert_eq!(object.spec.attributes, spec.attributes);
    assert_eq!((object.spec.kind, object.spec.ttl), (spec.kind, spec.ttl));
    assert_eq!(object.created, object.modified);
    assert!(!object.created.by.is_empty() && object.created.at.0 > 0);
    refused(owner.read("/BVODS/VMGR").await, Code::NotFound, None);
}

/// Case is kept as created, and does not matter when asking.
pub async fn names_are_the_same_in_any_case(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/Straße/Über", record("1")).await.unwrap();
    let object = owner.read("/STRASSE/über").await;
    // Simple folding keeps ß apart from ss.
    refused(object, Code::NotFound, None);
    let object = owner.read("/sTRAßE/ÜBER").await.unwrap();
    assert_eq!(object.name.to_string(), "/Straße/Über");
    assert_eq!(owner.find("/straße/über").await.unwrap().value.as_deref(), Some("1"));
}

/// Parents are made on the way.
pub async fn missing_parents_become_directories(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/a/b/c", record("1")).await.unwrap();
    for parent in ["/a", "/a/b"] {
        assert_eq!(owner.read(parent).await.unwrap().spec.kind(), Kind::Directory);
    }
    // Any object may have children.
    owner.add("/a/b/c/d", record("2")).await.unwrap();
    assert_eq!(owner.find("/a/b/c").await.unwrap().value.as_deref(), Some("1"));
}

/// A name is one object's.
pub async fn a_taken_name_is_refused(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/x/R", record("1")).await.unwrap();
    refused(owner.add("/x/R", record("2")).await, Code::AlreadyExists, None);
    refused(owner.add("/X/r", record("2")).await, Code::AlreadyExists, None);
    assert_eq!(owner.find("/x/R").await.unwrap().value.as_deref(), Some("1"));
}

/// One change that is refused undoes those before it.
pub async fn a_batch_is_all_or_nothing(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/taken", record("1")).await.unwrap();
    let add = |name: &str| Op::Add { name: at(name), spec: record("2") };
    let error = owner.batch(vec![add("/x/one"), add("/taken"), add("/x/two")]).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    assert!(error.message().contains("/taken"), "{error}");
    refused(owner.read("/x").await, Code::NotFound, None);
    let reply = owner.batch(vec![add("/x/one"), add("/x/two")]).await.unwrap();
    assert!(reply.results.iter().all(|r| r.outcome == Outcome::Created), "{reply:?}");
    assert_eq!(owner.names("/x/*").await.unwrap(), ["/x/one", "/x/two"]);
}

/// A dry run gives the difference and leaves everything.
pub async fn a_dry_run_changes_nothing(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/x", record("1")).await.unwrap();
    let ops =
        vec![Op::Declare { name: at("/x"), spec: record("2") }, Op::Declare { name: at("/y"), spec: record("3") }];
    let request = BatchRequest { ops, dry_run: true, set: None };
    let reply = owner.service.batch(&owner.cx, request).await.unwrap();
    assert_eq!(reply.results[0].outcome, Outcome::Changed);
    assert_eq!(reply.results[0].before.as_ref().unwrap().value.as_deref(), Some("1"));
    assert_eq!(reply.results[0].after.as_ref().unwrap().value.as_deref(), Some("2"));
    assert_eq!((reply.results[1].outcome, &reply.results[1].before), (Outcome::Created, &None));
    assert_eq!(owner.find("/x").await.unwrap().value.as_deref(), Some("1"));
    refused(owner.read("/y").await, Code::NotFound, None);
}

/// `put` makes it so and no more; `declare` leaves what it does not name.
pub async fn put_replaces_and_declare_changes_what_it_says(f: &dyn Fixture) {
    let owner = f.owner();
    let with_ttl = Spec { ttl: Some(Span::from_secs(9)), ..record("1") };
    let declare = |spec: Spec| Op::Declare { name: at("/x"), spec };
    assert_eq!(owner.change(declare(with_ttl)).await.unwrap().outcome, Outcome::Created);
    assert_eq!(owner.change(declare(record("2"))).await.unwrap().outcome, Outcome::Changed);
    let object = owner.read("/x").await.unwrap();
    assert_eq!((object.spec.value.as_deref(), object.spec.ttl), (Some("2"), Some(Span::from_secs(9))));
    let same = owner.change(declare(record("2"))).await.unwrap();
    assert_eq!((same.outcome, same.version), (Outcome::Unchanged, object.version));
    let put = Op::Put { name: at("/x"), spec: record("3"), if_version: None };
    assert_eq!(owner.change(put).await.unwrap().outcome, Outcome::Changed);
    let object = owner.read("/x").await.unwrap();
    assert_eq!((object.spec.value.as_deref(), object.spec.ttl), (Some("3"), None));
    // What a thing is stays.
    refused(owner.change(declare(Spec::of(Kind::Group))).await, Code::Conflict, Some("kind"));
}

/// `modify` changes what is there.
pub async fn modify_sets_and_clears(f: &dyn Fixture) {
    let owner = f.owner();
    let modify = |spec: Spec, clear: &[&str]| Op::Modify {
        name: at("/x"),
        spec,
        clear: clear.iter().map(|c| (*c).to_owned()).collect(),
        if_version: None,
    };
    refused(owner.change(modify(Spec::default(), &[])).await, Code::NotFound, None);
    owner.add("/x", Spec { ttl: Some(Span::from_secs(9)), ..record("1") }).await.unwrap();
    let value = Spec { value: Some("2".into()), ..Spec::default() };
    owner.change(modify(value, &["ttl"])).await.unwrap();
    let object = owner.read("/x").await.unwrap();
    assert_eq!((object.spec.value.as_deref(), object.spec.ttl), (Some("2"), None));
    assert!(object.modified.at >= object.created.at);
    refused(owner.change(modify(Spec::default(), &["shape"])).await, Code::InvalidArgument, Some("clear"));
}

/// Compare and set.
pub async fn a_stale_version_is_a_conflict(f: &dyn Fixture) {
    let owner = f.owner();
    let first = owner.add("/x", record("1")).await.unwrap();
    let set = |value: &str, version| Op::Modify {
        name: at("/x"),
        spec: Spec { value: Some(value.into()), ..Spec::default() },
        clear: vec![],
        if_version: Some(version),
    };
    let second = owner.change(set("2", first)).await.unwrap().version;
    assert_ne!(first, second);
    refused(owner.change(set("3", first)).await, Code::Conflict, Some("if_version"));
    let delete = |version| Op::Delete { name: at("/x"), recursive: false, stop: false, if_version: Some(version) };
    refused(owner.change(delete(first)).await, Code::Conflict, Some("if_version"));
    assert_eq!(owner.find("/x").await.unwrap().value.as_deref(), Some("2"));
    assert_eq!(owner.change(delete(second)).await.unwrap().outcome, Outcome::Deleted);
}

/// The same request id gives the same reply and no second change.
pub async fn a_retried_write_is_applied_once(f: &dyn Fixture) {
    let owner = f.owner();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let request = |now: u64, sequence| RequestId { session: RequestId::session_at(Timestamp(now), 42), sequence };
    let add = |name: &str| vec![Op::Add { name: at(name), spec: record("1") }];
    let first = owner.with(request(now, 1)).batch(add("/x")).await.unwrap();
    let again = owner.with(request(now, 1)).batch(add("/x")).await.unwrap();
    assert_eq!(first, again);
    let next = owner.with(request(now, 2)).batch(add("/x")).await;
    refused(next, Code::AlreadyExists, None);
    // A session that is older than what is remembered could have been applied before.
    let old = request(now - 3_600_000, 1);
    refused(owner.with(old).batch(add("/y")).await, Code::Conflict, Some("request_id"));
    refused(owner.read("/y").await, Code::NotFound, None);
}

/// Nobody deletes a tree by accident.
pub async fn a_name_with_children_goes_with_recursive_only(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/x/y/z", record("1")).await.unwrap();
    let delete = |recursive| Op::Delete { name: at("/x"), recursive, stop: false, if_version: None };
    let error = refused(owner.change(delete(false)).await, Code::Conflict, None);
    assert!(error.message().contains("/x"), "{error}");
    assert_eq!(owner.change(delete(true)).await.unwrap().outcome, Outcome::Deleted);
    assert_eq!(owner.names("/x/**").await.unwrap(), [""; 0]);
    refused(owner.change(delete(true)).await, Code::NotFound, None);
}

/// A name that is used again inherits nothing.
pub async fn a_name_used_again_is_another_object(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/x", record("1")).await.unwrap();
    let first = owner.read("/x").await.unwrap();
    let delete = Op::Delete { name: at("/x"), recursive: false, stop: false, if_version: None };
    owner.change(delete).await.unwrap();
    owner.add("/x", record("1")).await.unwrap();
    let second = owner.read("/x").await.unwrap();
    assert_ne!((first.id, first.version), (second.id, second.version));
}

/// Records, groups, computers and directories.
pub async fn every_kind_answers_in_its_way(f: &dyn Fixture) {
    let owner = f.owner();
    let group = Spec { members: Some(vec!["/people/ann".into(), "/people/bob".into()]), ..Spec::of(Kind::Group) };
    let host = Spec { addresses: Some(vec!["192.0.2.1".into(), "2001:db8::1".into()]), ..Spec::of(Kind::Computer) };
    owner.add("/k/record", record("a\nvalue ü\u{0}")).await.unwrap();
    owner.add("/k/group", group.clone()).await.unwrap();
    owner.add("/k/computer", host.clone()).await.unwrap();
    let found = owner.find("/k/record").await.unwrap();
    assert_eq!((found.kind, found.value.as_deref()), (Kind::Record, Some("a\nvalue ü\u{0}")));
    assert_eq!(owner.find("/k/group").await.unwrap().members, group.members);
    assert_eq!(owner.find("/k/computer").await.unwrap().addresses, host.addresses);
    refused(owner.find("/k").await, Code::Unsupported, None);
    refused(owner.find("/k/none").await, Code::NotFound, None);
    owner.add("/k/service", Spec::of(Kind::Service)).await.unwrap();
    refused(owner.find("/k/service").await, Code::NotRunning, None);
}

/// An alias is another name, also in the middle of a name.
pub async fn aliases_lead_on_and_are_shown_themselves(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/CMS/Host1/port", record("7")).await.unwrap();
    owner.add("/BVODS/VFS1/CMS", alias("/CMS/Host1")).await.unwrap();
    owner.add("/port", alias("/BVODS/VFS1/CMS/port")).await.unwrap();
    let found = owner.find("/port").await.unwrap();
    assert_eq!((found.name, found.canonical), (at("/port"), Some(at("/CMS/Host1/port"))));
    assert_eq!(found.value.as_deref(), Some("7"));
    assert_eq!(owner.read("/port").await.unwrap().spec.target, Some(at("/BVODS/VFS1/CMS/port")));
    assert_eq!(owner.read("/BVODS/VFS1/CMS/port").await.unwrap().name, at("/CMS/Host1/port"));
    owner.add("/BVODS/VFS1/CMS/new", record("8")).await.unwrap();
    assert_eq!(owner.find("/CMS/Host1/new").await.unwrap().value.as_deref(), Some("8"));
    // One that leads nowhere may be made, and says so when it is asked.
    owner.add("/nowhere", alias("/not/there")).await.unwrap();
    let error = refused(owner.find("/nowhere").await, Code::NotFound, None);
    assert!(error.message().contains("/not/there"), "{error}");
}

/// However it is closed.
pub async fn alias_loops_are_refused(f: &dyn Fixture) {
    let owner = f.owner();
    refused(owner.add("/self", alias("/self")).await, Code::AliasLoop, Some("target"));
    owner.add("/a", alias("/b")).await.unwrap();
    refused(owner.add("/b", alias("/a")).await, Code::AliasLoop, Some("target"));
    owner.add("/b", alias("/c")).await.unwrap();
    refused(owner.add("/c", alias("/a")).await, Code::AliasLoop, Some("target"));
    owner.add("/c", record("1")).await.unwrap();
    assert_eq!(owner.find("/a").await.unwrap().value.as_deref(), Some("1"));
}

/// The sentence goes with a field.
pub async fn wrong_declarations_name_the_field(f: &dyn Fixture) {
    let owner = f.owner();
    let both = Launch { program: Some("a".into()), command: Some(vec!["b".into()]), ..Launch::default() };
    let copies = Launch { copies: Some(Copies { min: 3, max: 2 }), ..Launch::default() };
    for (spec, field) in [
        (Spec { value: Some("1".into()), ..Spec::of(Kind::Group) }, "value"),
        (Spec::of(Kind::Alias), "target"),
        (Spec { addresses: Some(vec!["home".into()]), ..Spec::of(Kind::Computer) }, "addresses"),
        (service(both), "launch.program"),
        (service(copies), "launch.copies"),
    ] {
        refused(owner.add("/x", spec.clone()).await, Code::InvalidArgument, Some(field));
        let good = Op::Add { name: at("/good"), spec: record("1") };
        let bad = Op::Add { name: at("/x"), spec };
        refused(owner.batch(vec![good, bad]).await, Code::InvalidArgument, Some(&format!("ops[1].{field}")));
    }
    assert_eq!(owner.names("/{x,good}").await.unwrap(), [""; 0]);
}

/// A value has 1 MiB at most.
pub async fn too_large_is_said(f: &dyn Fixture) {
    let owner = f.owner();
    let largest = "v".repeat(1 << 20);
    owner.add("/largest", record(&largest)).await.unwrap();
    assert_eq!(owner.find("/largest").await.unwrap().value, Some(largest.clone()));
    let above = record(&format!("{largest}v"));
    refused(owner.add("/above", above.clone()).await, Code::TooLarge, Some("value"));
    refused(owner.change(Op::Declare { name: at("/above"), spec: above }).await, Code::TooLarge, Some("value"));
}

/// Without a right, nothing changes and nothing starts.
pub async fn an_onlooker_may_only_look(f: &dyn Fixture) {
    let (owner, onlooker) = (f.owner(), f.onlooker());
    owner.add("/x/r", record("1")).await.unwrap();
    owner.add("/x/s", service(f.launch(Program::Serves))).await.unwrap();
    assert_eq!(onlooker.find("/x/r").await.unwrap().value.as_deref(), Some("1"));
    assert_eq!(onlooker.names("/x/*").await.unwrap(), ["/x/r", "/x/s"]);
    onlooker.read("/x/s").await.unwrap();
    refused(onlooker.add("/y", record("1")).await, Code::Denied, None);
    refused(onlooker.find("/x/s").await, Code::NotRunning, None);
    refused(onlooker.act(Verb::Launch, "/x/s").await, Code::Denied, None);
    let endpoint = byname_api::service::Endpoint { protocol: "tcp".into(), address: String::new(), port: 1 };
    let advertise = AdvertiseRequest { name: Some(at("/x/s")), endpoints: vec![endpoint], ..Default::default() };
    refused(onlooker.service.advertise(&onlooker.cx, advertise).await, Code::Denied, None);
    assert_eq!(owner.status("/x/s").await.starts, 0);
}
